"""Workflows that somebody else of the namespace has made, with whatever in them: one row that says so, no more."""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from geozarr_nb.backends.argo import output_files
from geozarr_nb.backends.argo.attempt import NO_JOB
from geozarr_nb.backends.argo.backend import ArgoBackend
from geozarr_nb.backends.argo.workflow import LABELS, MEMORY, REQUEST
from geozarr_nb.claims.volume import Mount
from geozarr_nb.cluster.kinds import WORKFLOWS
from geozarr_nb.errors import GeozarrError
from geozarr_nb.jobs.job import Job
from geozarr_nb.jobs.jobset import JobSet
from tests.contract.support import until
from tests.unit.memory_cluster import MemoryCluster

MANY = "9" * 5000
ODD: list[dict[str, Any]] = [
    {"metadata": {"annotations": {MEMORY: MANY}}},
    {"metadata": {"annotations": {MEMORY: "9" * 400}}},
    {"metadata": {"annotations": {REQUEST: "[" * 100_000}}},
    {"metadata": {"annotations": {REQUEST: "[]"}}},
    {"metadata": {"annotations": {REQUEST: '{"v": 1, "output": 5, "groups": [[]]}'}}},
    {"metadata": {"labels": {"geozarr.io/attempt": "9" * 63}}},
    {"metadata": {"labels": {"geozarr.io/job": "../../x"}}},
    {"spec": {"arguments": {"parameters": [{"value": "x"}]}}},
    {"spec": {"arguments": {"parameters": ["x"]}}},
    {"spec": {"arguments": {"parameters": 5}}},
    {"spec": {"arguments": []}},
    {"spec": {"arguments": {"parameters": [{"name": ["x"]}]}}},
    {"spec": {"arguments": {"parameters": [{"name": "groups", "value": '["a", 5]'}]}}},
    {"spec": {"arguments": {"parameters": [{"name": "groups", "value": "/../x,\0"}]}}},
    {"spec": {"arguments": {"parameters": [{"name": "output_zarr", "value": "../../x"}, {"name": "pvc_name"}]}}},
    {"spec": {"arguments": {"parameters": [{"name": "output_zarr", "value": "s3://"}]}}},
    {"spec": {"arguments": {"parameters": [{"name": "stac_url", "value": {"a": "\ud800"}}]}}},
    {"status": {"phase": ["x"], "nodes": []}},
    {"status": {"phase": "Failed", "finishedAt": "yesterday"}},
    {"status": {"phase": "Failed", "finishedAt": "2026-01-01T00:00:00"}},
    {"status": {"phase": "Failed", "finishedAt": 5}},
    {"status": {"storedWorkflowTemplateSpec": "x"}},
    {"status": {"nodes": {"a": 5}}},
    {"status": {"nodes": {"a": {"type": "Pod"}}}},
    {"status": {"nodes": {"a": {"type": "Pod", "id": "a-1", "templateName": "t", "progress": f"1/{MANY}"}}}},
    {"status": {"nodes": {"a": {"type": "Pod", "id": "a-1", "templateName": "t", "startedAt": 5, "outputs": "x"}}}},
    {"status": {"nodes": {"a": {"type": "Pod", "name": f"a({MANY})", "id": "a-1", "templateName": "t"}}}},
    {"status": {"nodes": {"a": {"type": "Pod", "id": "a-1", "templateName": "t", "outputs": {"exitCode": MANY}}}}},
    {
        "status": {
            "phase": "Failed",
            "nodes": {
                "a": {"type": "Pod", "id": "1", "templateName": "t", "outputs": {"parameters": [{"name": ["outcome"]}]}}
            },
        }
    },
]

NOT_UNDERSTOOD = [0, 7, 8, 9, 11, 18, 20, 21, 22, 23, 24, 25, 26, 27, 28]


def workflow(name: str, more: dict[str, Any]) -> dict[str, Any]:
    key, value = LABELS.split("=")
    metadata = {"name": name, "uid": f"uid-{name}", "creationTimestamp": datetime.now(UTC).isoformat()}
    labels = {key: value} | more.get("metadata", {}).get("labels", {})
    return {"spec": {}, **more, "metadata": {**metadata, **more.get("metadata", {}), "labels": labels}}


@pytest.mark.parametrize("number", range(len(ODD)))
def test_one_that_is_odd_is_a_row(number: int, cluster: MemoryCluster, backend: ArgoBackend) -> None:
    cluster.objects[WORKFLOWS] = {name: workflow(name, more) for name, more in (("good", {}), ("odd", ODD[number]))}
    until(lambda: len(backend.list()) == 2)
    states = {state.name: state for state in backend.list()}
    assert states.pop("good").status == "Pending"
    [(name, state)] = states.items()
    shown = JobSet(backend, [Job(backend, name), Job(backend, "good")])
    assert name in repr(shown)
    assert name in shown._repr_html_()
    assert backend.get(name).status == state.status
    if number in NOT_UNDERSTOOD:
        assert (state.status, state.reason) == ("Error", NO_JOB)
    for call in (backend.events, backend.log, backend.cancel):
        with suppress(GeozarrError):
            call(name)


def test_a_log_of_any_size_is_read_at_its_end(
    backend: ArgoBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "a.zarr.log.jsonl").open("wb") as file:
        file.truncate(10_000_000)
        file.seek(0, os.SEEK_END)
        file.write(b"the end")
    monkeypatch.setattr(output_files, "LARGEST_DOCUMENT", 1000)
    monkeypatch.setattr(output_files, "files_of", lambda *_: Mount(tmp_path))
    said = backend._files.read_log("pvc://claim/a.zarr.log.jsonl")
    assert said is not None
    assert (len(said), said[-7:]) == (1000, b"the end")
    (tmp_path / "a.zarr.log.jsonl").write_bytes(b"short")
    assert backend._files.read_log("pvc://claim/a.zarr.log.jsonl") == b"short"

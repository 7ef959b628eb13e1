"""Jobs and sets that 0.1.0 left in the state folder are read."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

import geozarr_nb as gz
from tests.frozen.present import Document, filled, recorded

STATE = recorded("state")
EXPECTED = {
    "finished": ("Succeeded", ""),
    "failed": ("Failed", "there is no product here"),
    "cancelled": ("Failed", "it was cancelled"),
}


def leave(job: Document, state: Path) -> None:
    """Write a job's files into a state folder."""
    folder = state / "jobs" / job["name"]
    folder.mkdir(parents=True, mode=0o700)
    for name, content in job["files"].items():
        lines = "".join(f"{json.dumps(line)}\n" for line in content) if name.endswith(".jsonl") else ""
        text = json.dumps(content) if name.endswith(".json") else lines
        (folder / name).write_text(text)
        (folder / name).chmod(0o600)


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The jobs that have ended, by what became of them; they lie in this test's state folder."""
    state = tmp_path / "state"
    places = {"home": tmp_path, "state": state, "python": sys.executable, "PATH": os.environ["PATH"]}
    ended = [job for job in filled(STATE["jobs"], places) if job["kind"] in EXPECTED]
    for job in ended:
        leave(job, state)
    for folder in (state, state / "jobs", state / "slots", state / "sets"):
        folder.mkdir(exist_ok=True, mode=0o700)
        folder.chmod(0o700)
    for name, entries in STATE["sets"].items():
        (state / "sets" / f"{name}.jsonl").write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
    monkeypatch.setenv("GEOZARR_STATE_DIR", str(state))
    return {job["kind"]: job["name"] for job in ended}


def test_every_job_is_listed_with_its_end(names: dict[str, str]) -> None:
    found = {job.name: (job.status, job.reason) for job in gz.list_jobs().jobs}
    assert found == {name: EXPECTED[kind] for kind, name in names.items()}


def test_what_a_finished_job_said_is_read(names: dict[str, str], tmp_path: Path) -> None:
    [recorded_job] = [job for job in STATE["jobs"] if job["kind"] == "finished"]
    job = gz.get_job(names["finished"])
    events = list(job.events())
    first, *said = events
    assert first["text"].startswith("settings: "), "where the request's settings came from is told before all else"
    assert [event.type for event in said] == [line["type"] for line in recorded_job["files"]["events.jsonl"]]
    assert events[-1]["path"] == str(tmp_path / "out" / "done.zarr")
    assert job.logs()[-1].startswith(f"{tmp_path}/out/done.zarr: ")


def test_a_set_has_its_members(names: dict[str, str]) -> None:
    found = gz.get_job_set("frozen-0.1.0")
    assert [job.name for job in found] == [names["failed"]]
    assert [type(entry).__name__ for entry in found.entries] == ["Job", "Refused"]
    assert (found.refused[0].code, found.refused[0].reason) == (
        "groups-missing",
        "the product has no /measurements/r99m",
    )


def test_a_job_that_was_killed_has_failed_and_may_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [job] = [job for job in filled(STATE["jobs"], {"home": tmp_path}) if job["kind"] == "interrupted"]
    state = tmp_path / "state"
    leave(job, state)
    for folder in (state, state / "jobs"):
        folder.chmod(0o700)
    monkeypatch.setenv("GEOZARR_STATE_DIR", str(state))
    found = gz.get_job(job["name"]).state
    assert (found.status, found.stage, found.attempt) == ("Error", "convert", 1)
    assert found.failure is not None
    assert (found.failure.code, found.failure.exit_code, found.failure.retryable) == ("converter-killed", 4, True)

"""Waiting for jobs: how long it sleeps, and what it says when its time is over."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from geozarr_nb.backends.argo.attempt import Attempt
from geozarr_nb.backends.argo.reasons import Reasons, seconds_since
from geozarr_nb.backends.base import JobState
from geozarr_nb.cluster.client import Api
from geozarr_nb.cluster.kinds import EVENTS, NODES
from geozarr_nb.errors import ClusterError, WaitTimeout
from geozarr_nb.jobs import jobset
from geozarr_nb.jobs.job import Job
from geozarr_nb.jobs.jobset import JobSet
from geozarr_runner.spec.request import Request
from tests.unit.api_server import ApiServer, hangs_up, listing
from tests.unit.memory_cluster import MemoryCluster


class Waiting:
    """A backend whose one job waits, and whose looks take a while."""

    name = "fake"
    poll_interval = 0.0

    def __init__(self, reason: str, looks: list[float]) -> None:
        self.clock = 0.0
        self.slept: list[float] = []
        self._reason = reason
        self._looks = looks

    def list(self) -> list[JobState]:
        self.clock += self._looks.pop(0) if self._looks else 0.0
        return [self.get("a")]

    def get(self, name: str) -> JobState:
        request = Request(source="", shown="x", product="a", output="/a.zarr")
        status: Any = "Pending" if self._looks or self._reason else "Succeeded"
        return JobState("a", "fake", request, status, datetime.now(UTC), reason=self._reason)

    def events(self, name: str, cursor: object = None) -> Any:
        from geozarr_nb.backends.base import Cursor

        return [], Cursor(1, 0)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.clock += seconds


def members(backend: Waiting) -> JobSet:
    return JobSet(backend, [Job(backend, "a")])  # type: ignore[arg-type]


def test_a_look_that_hung_is_not_slept_on(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Waiting("", [0.5, 60.0, 0.0])
    monkeypatch.setattr(jobset, "time", type("Clock", (), {"monotonic": lambda: backend.clock, "sleep": backend.sleep}))
    members(backend).wait()
    assert backend.slept == [4.5, 10.0]


def test_a_wait_that_is_over_names_the_reason() -> None:
    backend = Waiting("claim geozarr-pvc has no volume", [])
    for waited in (members(backend), Job(backend, "a")):  # type: ignore[arg-type]
        with pytest.raises(WaitTimeout, match=r"go(es)? on: claim geozarr-pvc has no volume"):
            waited.wait(timeout=0.01, poll_interval=0.01)


def test_a_look_for_a_reason_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The API server is gone: a job's state does not wait until it is back."""
    server = ApiServer()
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path)))
    server.on("GET /", hangs_up)
    with server.running():
        api = Api("argo")
        api._connection.was_reached = True
        begun = time.monotonic()
        with pytest.raises(ClusterError):
            api.list(NODES, patience=0)
        assert Reasons(api)._look("nodes", lambda: api.list(NODES, patience=0)[0]) is None
        assert time.monotonic() - begun < 10, "the usual patience is 20 s for each"
        assert len(server.asked) == 2


@pytest.mark.parametrize("is_ready", [True, False])
def test_a_run_on_a_node_that_does_not_answer_says_so(is_ready: bool) -> None:
    pod = {"metadata": {"name": "a", "uid": "p"}, "spec": {"nodeName": "n1"}, "status": {"phase": "Running"}}
    ready = {"type": "Ready", "status": "True" if is_ready else "Unknown", "message": "Kubelet stopped posting status."}
    node = {"type": "Pod", "id": "a", "name": "a", "templateName": "t", "phase": "Running"}
    thing = {"metadata": {"name": "a", "uid": "u"}, "spec": {}, "status": {"phase": "Running", "nodes": {"a": node}}}
    cluster = MemoryCluster()
    cluster.objects[NODES] = {"n1": {"metadata": {"name": "n1"}, "status": {"conditions": [ready]}}}
    attempt = Attempt(thing, [pod], sees_pods=True)
    reason = Reasons(cluster).running(attempt)  # type: ignore[arg-type]
    assert ("node n1 does not answer" in reason and "Kubelet stopped" in reason) is not is_ready
    del cluster.objects[NODES]
    assert Reasons(cluster).running(attempt) == "", "who may not see nodes"  # type: ignore[arg-type]


def test_a_volume_that_an_idle_reader_of_ours_may_hold_elsewhere_is_let_go() -> None:
    node = {"type": "Pod", "id": "a", "name": "a", "templateName": "t", "phase": "Pending"}
    thing = {"metadata": {"name": "a", "uid": "u"}, "spec": {}, "status": {"phase": "Running", "nodes": {"a": node}}}
    pod = {"metadata": {"name": "a", "uid": "p"}, "spec": {"nodeName": "n1"}, "status": {"phase": "Pending"}}
    said = 'Multi-Attach error for volume "pvc-1" Volume is already used by pod(s) geozarr-reader-x'
    cluster, released = MemoryCluster(), []
    cluster.objects |= {NODES: {}, EVENTS: {"e": {"reason": "FailedAttachVolume", "message": said}}}
    reasons = Reasons(cluster, lambda: released.append("all"))  # type: ignore[arg-type]
    assert "geozarr-reader-x" in reasons.pending(Attempt(thing, [pod], sees_pods=True))
    assert released == ["all"]


@pytest.mark.parametrize("off", [-600, 600])
def test_age_is_told_by_the_api_servers_clock(off: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = ApiServer()
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path)))
    there = datetime.now(UTC) + timedelta(seconds=off)

    def reply(handler: Any) -> None:
        monkeypatch.setattr(handler, "date_time_string", lambda *_: format_datetime(there, usegmt=True))
        listing(1)(handler)

    server.on("GET /", reply)
    with server.running():
        api = Api("argo")
        api.list(NODES)
        assert abs(seconds_since(there - timedelta(seconds=5), api) - 5) < 4

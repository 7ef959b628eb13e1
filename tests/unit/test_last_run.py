"""Which of an attempt's runs counts: a result is final, and until there is one the last run tells the state."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from geozarr_nb.backends.argo import attempts
from geozarr_nb.backends.argo.backend import ArgoBackend
from geozarr_nb.backends.base import JobState
from geozarr_nb.cluster.kinds import PODS, WORKFLOWS
from geozarr_nb.errors import ClusterDenied
from geozarr_nb.jobs.job import Job
from geozarr_nb.settings import Settings
from geozarr_runner.spec.request import Request
from tests.contract.support import until
from tests.unit.memory_cluster import MemoryCluster

SHOWN = "https://host/a.zarr"
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class Logging(MemoryCluster):
    """A cluster whose pods have logs."""

    def __init__(self) -> None:
        super().__init__()
        self.logs: dict[str, list[str]] = {}

    def log(self, pod: str, *, since: str = "") -> bytes:
        lines = self.logs.get(pod, [])
        stamps = [f"2026-01-02T03:04:{number:02}.000000000Z" for number in range(len(lines))]
        told = [(at, text) for at, text in zip(stamps, lines, strict=True) if not since or at[:19] >= since[:19]]
        return "".join(f"{at} {text}\n" for at, text in told).encode()


@pytest.fixture
def cluster() -> Iterator[Logging]:
    made = Logging()
    yield made
    made.end_watches()


@pytest.fixture
def backend(cluster: Logging) -> Iterator[ArgoBackend]:
    yield ArgoBackend(cluster, Settings())  # type: ignore[arg-type]
    attempts._watch.cache_clear()


def request(number: int = 0, groups: tuple[str, ...] = ("/g",)) -> Request:
    output = f"pvc://geozarr-pvc/{number}.zarr"
    return Request(source=SHOWN, shown=SHOWN, product="a", output=output, groups=groups).identified()


def said(kind: str, **fields: Any) -> str:
    return json.dumps({"v": 1, "time": NOW.isoformat(), "type": kind, **fields})


BEGINS = said("stage", stage="convert", state="started")
MEASURED = said("progress", stage="convert", done=1, total=2, unit="chunks")
RESULT = said("result", path="/data/0.zarr", groups=[], skipped=False, bytes_written=1, seconds=1.0, archive=None)


def node(number: int, phase: str, message: str = "") -> dict[str, Any]:
    started = f"2026-01-02T03:{number:02}:00Z"
    name = {"name": f"a({number})", "id": f"a-{number}", "templateName": "t", "type": "Pod"}
    return {f"a-{number}": {**name, "phase": phase, "message": message, "startedAt": started}}


def noted(cluster: MemoryCluster, name: str, nodes: dict[str, Any], phase: str = "Running") -> None:
    """Have the controller note what it has seen."""
    cluster.patch(WORKFLOWS, name, {"status": {"phase": phase, "nodes": nodes}})


def pod(cluster: MemoryCluster, job: str, number: int, state: str, **more: Any) -> str:
    """Put a pod into the cluster, in place of one of this name."""
    name = f"{job}-t-{number}"
    cluster.objects[PODS].pop(name, None)
    owner = {"uid": cluster.objects[WORKFLOWS][job]["metadata"]["uid"]}
    statuses = [{"name": "main", "state": {state: {"since": NOW.isoformat()}}}] if state else []
    phase = {"running": "Running", "terminated": "Failed"}.get(state, "Pending")
    body = {
        "metadata": {"name": name, "ownerReferences": [owner], "labels": {attempts.WORKFLOW: job}},
        "spec": {},
        "status": {"phase": phase, "containerStatuses": statuses, **more},
    }
    cluster.create(PODS, body)
    return name


def shows(backend: ArgoBackend, name: str, status: str) -> JobState:
    until(lambda: backend.get(name).status == status, seconds=8)
    return backend.get(name)


def running(cluster: Logging, backend: ArgoBackend, *lines: str) -> str:
    """Submit a job, whose pod runs and has written these lines."""
    name = backend.submit(request())
    noted(cluster, name, node(1, "Running"))
    cluster.logs[pod(cluster, name, 1, "running")] = [said("run", id="first"), *lines]
    shows(backend, name, "Succeeded" if RESULT in lines else "Running")
    return name


# --- what others do with Argo -----------------------------------------------------------------------------------------


def resubmitted(cluster: MemoryCluster, name: str, new: str) -> str:
    """Make a Workflow as `argo resubmit` does: another name, the same labels and annotations."""
    made = cluster.objects[WORKFLOWS][name]
    kept = {key: made["metadata"][key] for key in ("labels", "annotations")}
    spec = {key: value for key, value in made["spec"].items() if key != "shutdown"}
    cluster.create(WORKFLOWS, {"kind": "Workflow", "metadata": {"name": new, **kept}, "spec": spec})
    return new


def test_what_is_resubmitted_with_argo_is_the_next_attempt(cluster: Logging, backend: ArgoBackend) -> None:
    name = backend.submit(request())
    noted(cluster, name, {}, "Failed")
    cluster.logs[pod(cluster, name, 1, "terminated")] = [said("run", id="first"), BEGINS]
    shows(backend, name, "Error")
    other = resubmitted(cluster, name, f"{name}-x7k2p")
    assert shows(backend, name, "Pending").attempt == 2
    assert backend.submit(request()) == name, "it is the job's attempt, and nothing is started beside it"
    assert len(cluster.objects[WORKFLOWS]) == 2
    noted(cluster, other, {"a-1": {**node(1, "Running")["a-1"], "startedAt": "2026-01-02T04:00:00Z"}})
    cluster.logs[pod(cluster, other, 1, "running")] = [said("run", id="second"), MEASURED]
    assert shows(backend, name, "Running").attempt == 2
    events, cursor = backend.events(name)
    assert [event["id"] for event in events if event.type == "run"] == ["second"]
    assert cursor.attempt == 2
    assert [state.attempt for state in backend.list()] == [2], "one row"
    backend.cancel(name)
    assert cluster.objects[WORKFLOWS][other]["spec"]["shutdown"] == "Terminate"
    assert "shutdown" not in cluster.objects[WORKFLOWS][name]["spec"]
    shows(backend, name, "Failed")
    backend.retry(name)
    assert shows(backend, name, "Pending").attempt == 3
    assert f"{name}-3" in cluster.objects[WORKFLOWS]


def test_what_is_tried_again_with_argo_runs_again(cluster: Logging, backend: ArgoBackend) -> None:
    """`argo retry` takes the end back, and the nodes that failed."""
    name = backend.submit(request())
    noted(cluster, name, node(1, "Failed", "OOMKilled (exit code 137)"), "Failed")
    assert "memory" in shows(backend, name, "Error").reason
    noted(cluster, name, {"a-1": None}, "Running")
    state = shows(backend, name, "Pending")
    assert (state.failure, state.finished, state.attempt) == (None, None, 1)
    noted(cluster, name, node(2, "Failed", "Pod was evicted"), "Failed")
    assert "evicted" in shows(backend, name, "Error").reason


# --- finished stays finished ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", ["pod-deleted", "made-again", "next-run", "failed"])
def test_a_result_is_final_whatever_the_pods_do(after: str, cluster: Logging, backend: ArgoBackend) -> None:
    name = running(cluster, backend, BEGINS, RESULT)
    cluster.delete(PODS, f"{name}-t-1")
    if after == "made-again":
        cluster.logs.clear()
        pod(cluster, name, 1, "running")
    elif after == "next-run":
        noted(cluster, name, node(1, "Error", "pod deleted") | node(2, "Running"))
        cluster.logs[pod(cluster, name, 2, "running")] = [said("run", id="second"), BEGINS]
    elif after == "failed":
        noted(cluster, name, node(1, "Error", "pod deleted"), "Failed")
    version = cluster.objects[WORKFLOWS][name]["metadata"]["resourceVersion"]
    until(lambda: backend._attempts.workflows.get(name)["metadata"]["resourceVersion"] == version)  # type: ignore[index]
    for _ in range(3):
        assert backend.get(name).status == "Succeeded"
        assert [state.status for state in backend.list()] == ["Succeeded"]
    assert backend.submit(request(0, ("/other",))) != name, "its output is nobody's any more"


def test_a_result_outlives_the_logs_that_are_kept(
    cluster: Logging, backend: ArgoBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With many jobs the events of the oldest are dropped, and what they said is not."""
    monkeypatch.setattr(attempts, "LOGS_KEPT", 2)
    name = running(cluster, backend, BEGINS, RESULT)
    for number in range(1, 6):
        backend.log(backend.submit(request(number)))
    cluster.delete(PODS, f"{name}-t-1")
    cluster.logs.clear()
    noted(cluster, name, node(1, "Error", "pod deleted"), "Failed")
    until(lambda: not backend._attempts._seen()[0])
    assert backend.get(name).status == "Succeeded"


def test_a_running_job_has_its_stage_beside_many_others(
    cluster: Logging, backend: ArgoBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "LOGS_KEPT", 2)
    name = running(cluster, backend, BEGINS, MEASURED)
    for number in range(1, 6):
        backend.submit(request(number))
    [state] = [state for state in backend.list() if state.name == name]
    assert (state.stage, state.progress and state.progress.done) == ("convert", 1)


def test_another_process_finds_the_result_in_the_log_on_the_claim(
    cluster: Logging, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pod was deleted after its result: the Workflow has failed, without a word of it."""
    backend = ArgoBackend(cluster, Settings(mounts={"geozarr-pvc": tmp_path}))  # type: ignore[arg-type]
    name = backend.submit(request())
    uid = cluster.objects[WORKFLOWS][name]["metadata"]["uid"]
    (tmp_path / "0.zarr.log.jsonl").write_text(f"{said('run', id=f'{uid}/{name}-t-1')}\n{BEGINS}\n{RESULT}\n")
    noted(cluster, name, node(1, "Error", "pod deleted"), "Failed")
    monkeypatch.setattr(cluster, "log", lambda *_, **__: cluster.get(PODS, "gone"))
    shows(backend, name, "Succeeded")
    attempts._watch.cache_clear()


# --- the run that counts is the last one ------------------------------------------------------------------------------


def test_while_the_next_run_cannot_start_the_job_waits(cluster: Logging, backend: ArgoBackend) -> None:
    name = running(cluster, backend, BEGINS, MEASURED)
    assert backend.get(name).stage == "convert"
    cluster.delete(PODS, f"{name}-t-1")
    noted(cluster, name, node(1, "Error", "pod deleted") | node(2, "Pending"))
    said_why = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes available"}
    pod(cluster, name, 2, "", conditions=[said_why])
    state = shows(backend, name, "Pending")
    assert (state.stage, state.progress, state.started) == (None, None, None)
    until(lambda: "node" in backend.get(name).reason)


def test_a_pod_that_is_made_again_under_its_name_has_not_begun(cluster: Logging, backend: ArgoBackend) -> None:
    name = running(cluster, backend, BEGINS, MEASURED)
    pod(cluster, name, 1, "waiting")
    state = shows(backend, name, "Pending")
    assert (state.stage, state.progress) == (None, None)
    cluster.logs[pod(cluster, name, 1, "running")] = [said("run", id="second")]
    assert shows(backend, name, "Running").stage is None, "that was the stage of the dead run"


def test_a_pod_that_is_gone_does_not_run(cluster: Logging, backend: ArgoBackend) -> None:
    """The controller is away: it says that the pod runs."""
    name = running(cluster, backend, BEGINS, MEASURED)
    cluster.delete(PODS, f"{name}-t-1")
    assert "its pod is gone" in shows(backend, name, "Pending").reason


def test_a_cancelled_job_whose_pod_has_ended_is_cancelled(cluster: Logging, backend: ArgoBackend) -> None:
    """The controller is away, or slow."""
    name = running(cluster, backend, BEGINS)
    cluster.has_controller = False
    cluster.patch(WORKFLOWS, name, {"spec": {"shutdown": "Terminate"}})
    pod(cluster, name, 1, "terminated")
    state = shows(backend, name, "Failed")
    assert state.failure is not None
    assert state.failure.code == "cancelled"


def test_a_pod_that_was_never_made_is_not_gone(cluster: Logging, backend: ArgoBackend) -> None:
    name = backend.submit(request())
    refused = 'pods "a-t-1" is forbidden: exceeded quota: team, requested: pods=1, used: pods=1, limited: pods=1'
    noted(cluster, name, node(1, "Pending", refused))
    until(lambda: "quota team" in backend.get(name).reason)
    assert backend.get(name).status == "Pending"
    cluster.has_controller = False
    cluster.patch(WORKFLOWS, name, {"spec": {"shutdown": "Terminate"}})
    assert shows(backend, name, "Failed").reason == "it was cancelled"


def test_a_cancelled_job_without_its_pod_is_cancelled(cluster: Logging, backend: ArgoBackend) -> None:
    cluster.has_controller = False
    name = running(cluster, backend, BEGINS)
    cluster.patch(WORKFLOWS, name, {"spec": {"shutdown": "Terminate"}})
    until(lambda: backend.get(name).status == "Running")
    cluster.delete(PODS, f"{name}-t-1")
    state = shows(backend, name, "Failed")
    assert state.failure is not None
    assert state.failure.code == "cancelled"
    assert backend.submit(request(0, ("/other",))) != name, "its output is free"


@pytest.mark.parametrize("ends", ["Succeeded", "Failed"])
def test_who_may_only_view_waits_and_learns_what_may_not_be_read(
    ends: str, cluster: Logging, backend: ArgoBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither logs, nor the claim through a pod."""

    def denied(*_: object, **__: object) -> bytes:
        asked.append(1)
        raise ClusterDenied("you may not get pods/log: no", remedy="ask")

    asked: list[int] = []
    monkeypatch.setattr(cluster, "log", denied)
    monkeypatch.setattr(backend._files, "read", denied)
    name = running(cluster, backend, BEGINS)
    job = Job(backend, name)
    assert "stage and progress are not known: you may not get pods/log" in job.reason
    many = len(asked)
    for _ in range(20):
        backend.events(name)
    assert len(asked) == many, "it is not asked again at once"
    with pytest.raises(ClusterDenied, match="you may not get pods/log"):
        job.logs()
    outcome = RESULT if ends == "Succeeded" else said("error", code="storage-full", message="no space", remedy="r")
    ended = {**node(1, ends)["a-1"], "outputs": {"parameters": [{"name": "outcome", "value": outcome}]}}
    noted(cluster, name, {"a-1": ended}, ends)
    assert job.wait(timeout=10, poll_interval=0.05).status == ends
    assert job.reason == ("" if ends == "Succeeded" else "no space")


def test_who_may_not_see_pods_concludes_nothing_from_them(cluster: Logging, backend: ArgoBackend) -> None:
    del cluster.objects[PODS]
    name = backend.submit(request())
    noted(cluster, name, node(1, "Running"))
    assert shows(backend, name, "Running").reason == ""

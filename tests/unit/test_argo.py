"""The Argo backend against a cluster in memory: the steps of a submission, and what is remembered of jobs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sized
from dataclasses import replace

import pytest

from geozarr_nb.backends.argo import attempts, ending
from geozarr_nb.backends.argo import backend as argo
from geozarr_nb.backends.argo.backend import ArgoBackend
from geozarr_nb.backends.argo.reasons import Reasons
from geozarr_nb.backends.argo.workflow import input_secret
from geozarr_nb.cluster.kinds import PODS, SECRETS, TEMPLATES, WORKFLOWS
from geozarr_nb.errors import ClusterDenied, ClusterRefused, ClusterUnreachable, InvalidRequest
from geozarr_runner.spec.request import Request
from tests.contract.support import until
from tests.unit.memory_cluster import MemoryCluster

SHOWN = "https://host/a.zarr"
SIGNED = f"{SHOWN}?signature=0123456789"
STEPS = ["create workflows", "create secrets", "patch workflows"]


def request(number: int = 0, source: str = SIGNED) -> Request:
    made = Request(
        source=source,
        shown=SHOWN,
        product="a",
        output=f"pvc://geozarr-pvc/{number}.zarr",
        groups=("/g",),
        identity="",
    )
    return replace(made, identity=made.derived_identity)


def unsigned(number: int = 0) -> Request:
    return request(number, SHOWN)


def lost() -> None:
    raise ClusterUnreachable("the API server does not answer", remedy="")


def dies() -> None:
    raise SystemExit


def left_behind(cluster: MemoryCluster, backend: ArgoBackend, at: str = "create workflows") -> str:
    """Submit a request with a process that is killed after a step; returns the job's name."""
    cluster.faults = {at: dies, "delete workflows": dies}
    killed = cluster.delete
    cluster.delete = lambda *arguments: False  # type: ignore[method-assign,assignment]  it can do nothing any more
    with pytest.raises(SystemExit):
        backend.submit(request())
    cluster.delete = killed  # type: ignore[method-assign]
    cluster.faults.clear()
    cluster.asked.clear()
    name = request().name
    until(lambda: backend._attempts.workflows.get(name) is not None)
    return name


# --- steps -----------------------------------------------------------------------------------------------------------


def test_a_public_address_takes_one_call(cluster: MemoryCluster, backend: ArgoBackend) -> None:
    name = backend.submit(unsigned())
    assert cluster.asked == STEPS[:1]
    assert "suspend" not in cluster.objects[WORKFLOWS][name]["spec"]


def test_a_signed_address_is_there_before_anything_starts(cluster: MemoryCluster, backend: ArgoBackend) -> None:
    seen: list[tuple[bool, int]] = []

    def look() -> None:
        [flow] = cluster.objects[WORKFLOWS].values()
        seen.append((bool(flow["spec"].get("suspend")), len(cluster.objects[SECRETS])))

    cluster.faults = dict.fromkeys(STEPS, look)
    name = backend.submit(request())
    assert cluster.asked == STEPS, "no Secret is read, changed or deleted"
    assert seen == [(True, 0), (True, 1), (False, 1)]
    flow = cluster.objects[WORKFLOWS][name]
    [kept] = cluster.objects[SECRETS].values()
    assert kept["metadata"]["name"] == input_secret(flow["metadata"]["uid"])
    [owner] = kept["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("Workflow", name, flow["metadata"]["uid"])
    assert kept["stringData"] == {"GEOZARR_INPUT": SIGNED}
    assert "0123456789" not in str(flow)


def test_a_name_that_is_used_again_has_another_secret(cluster: MemoryCluster, backend: ArgoBackend) -> None:
    for _ in range(2):
        cluster.delete(WORKFLOWS, backend.submit(request()))
        until(lambda: not backend.list())
    assert len(cluster.objects[SECRETS]) == 2, "the cluster's own collector has yet to come by"


def test_an_answer_to_the_secret_that_was_lost(cluster: MemoryCluster, backend: ArgoBackend) -> None:
    real = cluster.create

    def twice(*arguments: object) -> object:
        if arguments[0] is SECRETS:
            real(*arguments)  # type: ignore[arg-type]  as the seam does where no answer comes
        return real(*arguments)  # type: ignore[arg-type]

    cluster.create = twice  # type: ignore[method-assign,assignment]
    name = backend.submit(request())
    assert not cluster.objects[WORKFLOWS][name]["spec"].get("suspend")


def test_while_it_is_being_submitted_it_is_pending(cluster: MemoryCluster, backend: ArgoBackend) -> None:
    name = left_behind(cluster, backend)
    state = backend.get(name)
    assert state.status == "Pending"
    assert "address follows" in state.reason
    assert "suspended" not in state.reason


def test_what_somebody_has_suspended_says_so(cluster: MemoryCluster, backend: ArgoBackend) -> None:
    name = backend.submit(request())
    cluster.patch(WORKFLOWS, name, {"spec": {"suspend": True}})
    until(lambda: "somebody has suspended it" in backend.get(name).reason)
    assert f"patch workflow {name}" in backend.get(name).reason
    backend.submit(request())
    assert cluster.objects[WORKFLOWS][name]["spec"]["suspend"], "and who joins does not resume it"


# --- what goes wrong between the steps -------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["create secrets", "patch workflows"])
@pytest.mark.parametrize("how", [lost, dies], ids=["lost", "interrupted"])
def test_who_fails_in_the_middle_leaves_nothing(
    cluster: MemoryCluster, backend: ArgoBackend, fault: str, how: Callable[[], None]
) -> None:
    cluster.faults = {fault: how}
    with pytest.raises((ClusterUnreachable, SystemExit)):
        backend.submit(request())
    assert cluster.objects[WORKFLOWS] == {}
    assert cluster.asked[-1] == "delete workflows"


def test_without_the_right_to_make_secrets_nothing_stays(cluster: MemoryCluster, backend: ArgoBackend) -> None:
    cluster.denied = {"create secrets"}
    with pytest.raises(ClusterDenied, match="create secrets"):
        backend.submit(request())
    assert cluster.objects[WORKFLOWS] == {}
    backend.submit(unsigned())


@pytest.mark.parametrize("step", STEPS[:2])
def test_who_submits_the_same_goes_on_where_another_died(
    cluster: MemoryCluster, backend: ArgoBackend, step: str
) -> None:
    name = left_behind(cluster, backend, step)
    assert backend.submit(request()) == name
    assert cluster.asked == STEPS[1:]
    assert not cluster.objects[WORKFLOWS][name]["spec"].get("suspend")
    assert len(cluster.objects[SECRETS]) == 1
    assert backend.submit(request()) == name
    assert cluster.asked == STEPS[1:], "once"


def test_so_does_who_did_not_see_it_yet(
    cluster: MemoryCluster, backend: ArgoBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = left_behind(cluster, backend)
    with monkeypatch.context() as patch:
        patch.setattr(backend._attempts, "latest", dict)
        assert backend.submit(request()) == name
    assert cluster.asked == STEPS
    assert not cluster.objects[WORKFLOWS][name]["spec"].get("suspend")


def test_who_has_no_address_joins_and_is_told_in_the_end(cluster: MemoryCluster, backend: ArgoBackend) -> None:
    name = left_behind(cluster, backend)
    assert backend.submit(unsigned()) == name
    assert cluster.asked == []
    assert backend.get(name).status == "Pending"
    cluster.age(name, 3600)
    until(lambda: backend.get(name).is_finished)
    failure = backend.get(name).failure
    assert failure is not None
    assert (backend.get(name).status, failure.code, failure.retryable) == ("Error", "not-started", True)
    assert "submit it again with the full address" in failure.remedy
    with pytest.raises(InvalidRequest, match="full address"):
        backend.retry(name)


@pytest.mark.parametrize("again", [request, unsigned])
def test_what_was_left_behind_is_ended_by_the_next_attempt(
    cluster: MemoryCluster, backend: ArgoBackend, again: Callable[[], Request]
) -> None:
    name = left_behind(cluster, backend)
    cluster.age(name, 3600)
    until(lambda: backend.get(name).is_finished)
    assert backend.submit(again()) == name
    first, second = (cluster.objects[WORKFLOWS][each]["spec"] for each in (name, f"{name}-2"))
    assert (first["shutdown"], first.get("suspend"), second.get("suspend")) == ("Terminate", None, None)
    state = backend.get(name)
    assert (state.attempt, state.status) == (2, "Pending")


def test_several_are_told_to_end_before_one_is_waited_for(cluster: MemoryCluster, backend: ArgoBackend) -> None:
    names = [backend.submit(request(number)) for number in range(3)]
    cluster.asked.clear()
    backend.cancel(*names)
    assert cluster.asked[:3] == ["patch workflows"] * 3
    assert {backend.get(name).reason for name in names} == {"it was cancelled"}


def test_a_pod_that_the_controller_was_about_to_make_is_waited_for(
    cluster: MemoryCluster, backend: ArgoBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ending, "SECONDS_FOR_THE_CONTROLLER", 0.5)
    cluster.has_controller = False
    name = backend.submit(request())
    pod = {
        "metadata": {"name": f"{name}-pod", "labels": {"workflows.argoproj.io/workflow": name}, "resourceVersion": "1"},
        "status": {"phase": "Pending"},
    }
    cluster.faults["patch workflows"] = lambda: cluster.objects[PODS].update({f"{name}-pod": pod})
    backend.cancel(name)
    assert cluster.objects[PODS] == {}
    assert "delete pods" in cluster.asked


def test_what_waits_for_its_address_can_be_cancelled(
    cluster: MemoryCluster, backend: ArgoBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ending, "SECONDS_FOR_THE_CONTROLLER", 0.5)
    cluster.has_controller = False
    name = left_behind(cluster, backend)
    backend.cancel(name)
    spec = cluster.objects[WORKFLOWS][name]["spec"]
    assert (spec["shutdown"], spec.get("suspend")) == ("Terminate", None)
    assert backend.get(name).reason == "it was cancelled"


def test_a_template_that_looks_elsewhere_for_the_address(cluster: MemoryCluster, backend: ArgoBackend) -> None:
    [template] = cluster.objects[TEMPLATES].values()
    text = json.dumps(template).replace("geozarr-input-{{workflow.uid}}", "{{workflow.name}}-input")
    cluster.objects[TEMPLATES] = {"geozarr-convert": json.loads(text)}
    with pytest.raises(ClusterRefused, match="signed address") as caught:
        backend.submit(request())
    assert "make template" in caught.value.remedy
    assert cluster.asked == []
    backend.submit(unsigned())


# --- what is remembered ----------------------------------------------------------------------------------------------


def sizes(thing: object) -> dict[str, int]:
    """Return how much each container of an object holds."""
    return {name: len(value) for name, value in vars(thing).items() if isinstance(value, Sized)}


def remembered(backend: ArgoBackend) -> int:
    parts = (
        backend,
        backend._attempts,
        backend._readiness,
        backend._attempts.workflows,
        backend._attempts._pods,
        backend._reasons,
    )
    return sum(size for part in parts for name, size in sizes(part).items() if name not in ("_labels", "_version"))


def test_what_is_deleted_is_forgotten(
    cluster: MemoryCluster, backend: ArgoBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is kept of a job goes with its Workflow; what is kept of requests and claims is bounded."""
    monkeypatch.setattr(attempts, "LOGS_KEPT", 10**6)
    monkeypatch.setattr(argo, "ESTIMATES_KEPT", 5)
    assert not backend.list()
    empty = remembered(backend)
    for number in range(300):
        name = backend.submit(request(number))
        assert backend.get(name).status == "Pending"
        assert backend.log(name)[0] == []
        if number % 3 == 0:
            backend.cancel(name)
    assert remembered(backend) >= empty + 900, "nothing is looked at here"
    for name in list(cluster.objects[WORKFLOWS]):
        cluster.delete(WORKFLOWS, name)
    until(lambda: not backend.list())
    assert remembered(backend) <= empty + 10


def test_what_is_told_after_it_was_deleted_does_not_come_back(cluster: MemoryCluster, backend: ArgoBackend) -> None:
    name = backend.submit(request())
    late = cluster.get(WORKFLOWS, name)
    cluster.delete(WORKFLOWS, name)
    until(lambda: not backend.list())
    backend._attempts.workflows.put(late)
    assert not backend.list()


def test_reasons_are_kept_for_a_moment(cluster: MemoryCluster) -> None:
    reasons = Reasons(cluster)  # type: ignore[arg-type]
    for number in range(100):
        reasons._look(f"events of {number}", list, seconds=0.0)
    assert len(reasons._seen) <= 1

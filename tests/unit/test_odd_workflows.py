"""A Workflow of anybody, with anything in it, is one row, and no error of a list, of a submission or of a look."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geozarr_nb.backends.argo import attempts
from geozarr_nb.backends.argo.backend import ArgoBackend
from geozarr_nb.backends.argo.workflow import manifest
from geozarr_nb.cluster.kinds import TEMPLATES, WORKFLOWS
from geozarr_nb.settings import Settings
from tests.unit.memory_cluster import MemoryCluster
from tests.unit.test_argo import unsigned

OURS = manifest(unsigned(7), "ours", 1, Settings(), 0)
METADATA = {"name": "odd", "uid": "odd", "creationTimestamp": "2026-01-01T00:00:00Z", "resourceVersion": "1"}
# What an odd author, controller or version may write where something else is expected.
ODD = [None, "", "x", "²", "9" * 5000, 7, -1, 1e400, True, [], [None], ["x"], [7], {}, {"a": None}, {"name": "x"}, [{}]]
PLACES = [
    "metadata.labels",
    "metadata.labels.geozarr~io/job",
    "metadata.labels.geozarr~io/attempt",
    "metadata.annotations",
    "metadata.annotations.geozarr~io/request",
    "metadata.annotations.geozarr~io/memory-needed",
    "metadata.annotations.geozarr~io/awaits",
    "metadata.creationTimestamp",
    "metadata.uid",
    "metadata.ownerReferences",
    "spec",
    "spec.suspend",
    "spec.shutdown",
    "spec.arguments",
    "spec.arguments.parameters",
    "spec.workflowTemplateRef",
    "spec.workflowTemplateRef.name",
    "status",
    "status.phase",
    "status.message",
    "status.finishedAt",
    "status.nodes",
    "status.nodes.one",
    "status.nodes.one.name",
    "status.nodes.one.id",
    "status.nodes.one.phase",
    "status.nodes.one.progress",
    "status.nodes.one.outputs",
    "status.nodes.one.outputs.parameters",
    "status.nodes.one.outputs.exitCode",
    "status.nodes.one.startedAt",
    "status.nodes.one.templateName",
    "status.synchronization",
    "status.synchronization.mutex",
    "status.synchronization.mutex.waiting",
    "status.synchronization.semaphore",
    "status.synchronization.semaphore.waiting",
    "status.storedWorkflowTemplateSpec",
    "status.storedWorkflowTemplateSpec.arguments",
]
NODE = {"type": "Pod", "id": "odd-1", "name": "odd.main", "templateName": "convert", "phase": "Pending"}
ENDED = {**NODE, "phase": "Failed", "message": "OOMKilled", "outputs": {"exitCode": "137"}}
STATUSES: list[dict[str, Any]] = [
    {},
    {"phase": "Pending", "synchronization": {"mutex": {"waiting": [{"holder": "a/b/c"}]}}},
    {"phase": "Pending", "nodes": {"one": NODE}},
    {"phase": "Running", "nodes": {"one": {**NODE, "phase": "Running"}}},
    {"phase": "Failed", "nodes": {"one": ENDED}},
    {"phase": "Error", "message": 'workflowtemplates "x" not found'},
    {"phase": "Succeeded"},
]


def workflow(status: dict[str, Any]) -> dict[str, Any]:
    base = deepcopy(OURS)
    base["metadata"] = {**base["metadata"], **METADATA}
    base["metadata"]["labels"]["geozarr.io/job"] = "odd"
    return {**base, "status": deepcopy(status)}


def put(thing: Any, place: str, value: object) -> None:
    """Set what is at a place of a document, where the place can be."""
    *parts, last = (part.replace("~", ".") for part in place.split("."))
    for part in parts:
        thing = thing.setdefault(part, {})
        if not isinstance(thing, dict):
            return
    thing[last] = value


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    status=st.sampled_from(STATUSES),
    changes=st.lists(st.tuples(st.sampled_from(PLACES), st.sampled_from(ODD)), min_size=1, max_size=3),
)
def test_any_workflow_is_one_row(status: dict[str, Any], changes: list[tuple[str, object]]) -> None:
    odd = workflow(status)
    for place, value in changes:
        put(odd, place, deepcopy(value))
    looked_at(odd)


@pytest.mark.parametrize("place", PLACES)
def test_an_odd_value_anywhere_is_one_row(place: str) -> None:
    for status in STATUSES:
        for value in ODD:
            odd = workflow(status)
            put(odd, place, deepcopy(value))
            looked_at(odd)


def looked_at(odd: dict[str, Any]) -> None:
    cluster = MemoryCluster()
    cluster.objects[WORKFLOWS] = {"odd": odd}
    cluster.watch = lambda *given, **options: iter(())  # type: ignore[method-assign,assignment]
    backend = ArgoBackend(cluster, Settings())  # type: ignore[arg-type]
    backend._attempts.workflows._thread = backend._attempts._pods._thread = Here()  # type: ignore[assignment]
    for watch in (backend._attempts.workflows, backend._attempts._pods):
        watch._list()
    row = next(iter(backend.list()))
    assert len(backend.list()) == 1
    assert backend.get(row.name).status == row.status
    assert all(isinstance(text, str) for text in (row.name, row.reason, row.log))
    backend.submit(unsigned(1))
    attempts._watch.cache_clear()


class Here:
    """A thread that is taken for alive, so that none is started."""

    def is_alive(self) -> bool:
        return True


@pytest.mark.parametrize("place", ["spec", "spec.arguments", "spec.arguments.parameters", "spec.templates"])
def test_an_odd_template_is_refused_in_words_of_ours(cluster: MemoryCluster, place: str) -> None:
    from geozarr_nb.cluster import manifests

    for value in ODD:
        template = deepcopy(cluster.objects[TEMPLATES]["geozarr-convert"])
        put(template, place, deepcopy(value))
        assert isinstance(manifests.parameters(template), dict)
        assert isinstance(manifests.differences(manifests.template(), template), list)

"""A cluster whose controller runs nothing but templates: Argo's `templateReferencing`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import geozarr_nb as gz
from benchmarks.server import ProductServer
from geozarr_nb.cluster.controllers import CONTROLLER
from tests.cluster.support import FINISHED, IMAGE, Breaker, ClusterPlace, kubectl, node_address
from tests.contract.support import GROUP, until

pytestmark = pytest.mark.cluster
TOKEN = "s3cr3t-t0k3n"
OWN_TEMPLATE = {
    "entrypoint": "main",
    "templates": [{"name": "main", "container": {"image": IMAGE, "command": ["true"]}}],
}


@pytest.fixture(params=["Strict", "Secure"])
def restricted(request: pytest.FixtureRequest, place: ClusterPlace) -> Iterator[str]:
    """A controller that is told so while it runs; everyone's jobs meet that, so it is not done on any cluster."""
    if Breaker.found() is None:
        pytest.skip("the controller is not these tests' own: GEOZARR_CLUSTER_KILL, GEOZARR_CLUSTER_UP")
    listed = kubectl(
        "get", "deployments", "--all-namespaces", "--field-selector", f"metadata.name={CONTROLLER}", "-o", "json"
    )
    [namespace] = [one["metadata"]["namespace"] for one in json.loads(listed)["items"]]

    def configure(restrictions: str | None) -> None:
        change = json.dumps({"data": {"workflowRestrictions": restrictions}})
        kubectl("-n", namespace, "patch", "configmap", f"{CONTROLLER}-configmap", "--type=merge", "-p", change)

    configure(f"templateReferencing: {request.param}\n")  # without the line break the controller ends
    try:
        until(lambda: made_by_hand(place, OWN_TEMPLATE)["phase"] == "Error")
        yield str(request.param)
    finally:
        configure(None)
        until(lambda: made_by_hand(place, OWN_TEMPLATE)["phase"] == "Succeeded")


def made_by_hand(place: ClusterPlace, spec: dict[str, Any]) -> dict[str, Any]:
    """Return the status with which a Workflow ends that somebody makes without the SDK."""
    flow = {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "metadata": {"generateName": "by-hand-"},
        "spec": spec,
    }
    name = place.namespace.kubectl("create", "-f", "-", "-o", "name", given=json.dumps(flow)).strip()
    status: dict[str, Any] = {}

    def has_ended() -> bool:
        status.update(json.loads(place.namespace.kubectl("get", name, "-o", "json")).get("status", {}))
        return status.get("phase") in (*FINISHED, "Error")

    until(has_ended)
    return status


def test_jobs_need_nothing_but_the_template(
    place: ClusterPlace, sample: Path, restricted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Image, memory, cores and time are parameters; a signed address lets a suspended Workflow go on."""
    for name, value in {"IMAGE": IMAGE, "MEMORY": "1Gi", "CPU": "100m", "TIME_LIMIT": "600"}.items():
        monkeypatch.setenv(f"GEOZARR_{name}", value)
    with ProductServer(sample.parent, host=node_address(), signature=f"signature={TOKEN}") as signed:
        address = f"{signed.url}/{sample.name}?signature={TOKEN}"
        jobs = [place.submit("a"), gz.submit(address, place.output("b"), groups=[GROUP])]
        assert [job.wait(timeout=120).status for job in jobs] == ["Succeeded", "Succeeded"], restricted
    place.hold()
    held = place.submit("c")
    until(lambda: held.stage == "stage")
    assert held.cancel().reason == "it was cancelled"


def test_what_it_does_not_keep_away(place: ClusterPlace, restricted: str) -> None:
    """Said in docs/security.md: a Workflow may still say how a template's pod is made, if it does when it is made."""
    parameters = {
        "stac_url": "http://127.0.0.1:9/none.zarr",
        "output_zarr": place.path("d"),
        "cpu": "10m",
        "memory": "64Mi",
    }
    given = {
        "workflowTemplateRef": {"name": "geozarr-convert"},
        "arguments": {"parameters": [{"name": name, "value": value} for name, value in parameters.items()]},
    }
    status = made_by_hand(place, given | {"templates": OWN_TEMPLATE["templates"]})
    assert "Templates is invalid field" in status["message"], restricted
    metadata = {"name": "patched"}
    flow = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "metadata": metadata}
    patched = flow | {"spec": given | {"podSpecPatch": '{"hostNetwork": true}'}}
    place.namespace.kubectl("create", "-f", "-", given=json.dumps(patched))
    until(lambda: bool(place.namespace.pods(place.path("d"), every=True)))
    assert place.namespace.pods(place.path("d"), every=True)[0]["spec"]["hostNetwork"] is True

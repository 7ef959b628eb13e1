"""A request as a Workflow and back, without a cluster."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from geozarr_nb.backends.argo import workflow as module
from geozarr_nb.backends.argo.attempt import Attempt
from geozarr_nb.backends.argo.workflow import input_secret, manifest, output_address, secret, workflow_name
from geozarr_nb.cluster import manifests
from geozarr_nb.errors import InvalidRequest
from geozarr_nb.settings import Settings
from geozarr_runner.spec.request import Request

SIGNED = "https://user:pass@host/a.zarr?signature=0123456789"
REQUEST = Request(
    source="https://host/a.zarr",
    shown="https://host/a.zarr",
    product="a",
    output="pvc://claim/out/a.zarr",
    groups=("/g/r10m", "/g/r20m"),
    options={"validate_groups": True, "if_exists": "overwrite"},
    identity="ab" * 32,
)


def values(workflow: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in workflow["spec"]["arguments"]["parameters"]}


OUTPUTS = {
    "a.zarr": "pvc://claim/a.zarr",
    "./out//a.zarr/": "pvc://claim/out/a.zarr",
    "/data/out/a.zarr": "pvc://claim/out/a.zarr",
    "pvc://other/out/a.zarr": "pvc://other/out/a.zarr",
    "s3://bucket//out/a.zarr/": "s3://bucket/out/a.zarr",
    "with blanks; $(x) {{y}}.zarr": "pvc://claim/with blanks; $(x) {{y}}.zarr",
}


@pytest.mark.parametrize(("given", "wanted"), OUTPUTS.items())
def test_an_output_has_one_address(given: str, wanted: str) -> None:
    assert output_address(given, "claim") == wanted


@pytest.mark.parametrize(
    "given",
    ["", "/", "/data", "/data/", "/home/me/a.zarr", "~/a.zarr", "../a.zarr", "a/../../b", "https://b/a.zarr", "pvc://"],
)
def test_what_is_no_place_on_a_claim_is_refused(given: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        output_address(given, "claim")
    assert "pvc://" in caught.value.remedy


def test_a_request_comes_back_as_it_was() -> None:
    workflow = manifest(REQUEST, REQUEST.name, 3, Settings(), 5_000_000_000)
    workflow["metadata"] |= {"uid": "u", "creationTimestamp": "2026-01-02T03:04:05Z"}
    attempt = Attempt(workflow)
    assert attempt.name == workflow_name(REQUEST.name, 3) == f"{REQUEST.name}-3"
    assert (attempt.job, attempt.number, attempt.memory_needed) == (REQUEST.name, 3, 5e9)
    assert attempt.request == REQUEST
    assert attempt.request.source == REQUEST.source
    assert attempt.submitted.isoformat() == "2026-01-02T03:04:05+00:00"
    assert attempt.pods == []


def test_every_value_is_a_parameter_of_the_template() -> None:
    settings = Settings(image="i:1", memory="12Gi", cpu="500m", time_limit=59.5)
    given = values(manifest(REQUEST, REQUEST.name, 1, settings, 0))
    assert set(given) <= set(manifests.parameters(manifests.template()))
    assert given["memory"] == given["memory_limit"] == "12Gi"
    assert (given["cpu"], given["time_limit"]) == ("500m", "60")
    assert given["groups"] == "/g/r10m,/g/r20m"
    assert (given["pvc_name"], given["output_zarr"]) == ("claim", "out/a.zarr")


def test_an_output_in_an_object_store_needs_a_claim_all_the_same() -> None:
    away = replace(REQUEST, output="s3://bucket/out/a.zarr")
    given = values(manifest(away, "job", 1, Settings(), 0))
    assert (given["pvc_name"], given["output_zarr"]) == ("geozarr-pvc", "s3://bucket/out/a.zarr")
    there = replace(away, source="pvc://claim/in/a.zarr", shown="pvc://claim/in/a.zarr")
    given = values(manifest(there, "job", 1, Settings(), 0))
    assert (given["pvc_name"], given["stac_url"]) == ("claim", "/data/in/a.zarr")
    workflow = {**manifest(away, "job", 1, Settings(), 0)}
    del workflow["metadata"]["annotations"]
    assert Attempt(workflow).request.output == away.output


@pytest.mark.parametrize("name", ["archive", "packed"])
def test_a_choice_is_asked_for_and_found_again(name: str) -> None:
    for wanted, word in ((True, "true"), (False, "false")):
        request = REQUEST.with_options(**{name: wanted})
        workflow = manifest(request, request.name, 1, Settings(), 0)
        assert values(workflow)[name] == word
        assert getattr(Attempt(workflow).request, name) is wanted
        del workflow["metadata"]["annotations"][module.REQUEST]
        assert getattr(Attempt(workflow).request, name) is wanted, "of one submitted without this package, too"


def test_defaults_agree_with_the_template() -> None:
    parameters = manifests.parameters(manifests.template())
    settings = Settings()
    assert parameters["pvc_name"] == settings.pvc_name
    assert parameters["credentials"] == settings.credentials
    assert manifests.template()["metadata"]["name"] == settings.template


def test_a_signature_is_in_the_secret_alone() -> None:
    request = replace(REQUEST, source=SIGNED, shown="https://host/a.zarr")
    text = json.dumps(manifest(request, request.name, 1, Settings(), 0))
    assert "pass" not in text
    assert "0123456789" not in text
    kept = secret(request, {"metadata": {"name": request.name, "uid": "u"}})
    assert kept["stringData"] == {"GEOZARR_INPUT": SIGNED}
    assert kept["metadata"]["name"] == input_secret("u")
    assert [owner["uid"] for owner in kept["metadata"]["ownerReferences"]] == ["u"]


def test_what_pods_cannot_read_is_refused() -> None:
    here = replace(REQUEST, source="/home/me/a.zarr", shown="/home/me/a.zarr")
    with pytest.raises(InvalidRequest, match="on this machine") as caught:
        manifest(here, "job", 1, Settings(), 0)
    assert 'backend="local"' in caught.value.remedy
    elsewhere = replace(REQUEST, source="pvc://other/a.zarr", shown="pvc://other/a.zarr")
    with pytest.raises(InvalidRequest, match="different claims"):
        manifest(elsewhere, "job", 1, Settings(), 0)


def test_a_product_on_the_claim_is_read_there() -> None:
    there = replace(REQUEST, source="pvc://claim/in/a.zarr", shown="pvc://claim/in/a.zarr")
    assert values(manifest(there, "job", 1, Settings(), 0))["stac_url"] == "/data/in/a.zarr"


def test_a_workflow_of_somebody_else_is_a_job_too() -> None:
    parameters = [
        {"name": "stac_url", "value": "https://host/S2A.zarr?x=1"},
        {"name": "output_zarr", "value": "o.zarr"},
    ]
    defaults = [{"name": "pvc_name", "value": "claim"}, {"name": "groups", "value": "g/r10m, g/r20m"}]
    attempt = Attempt(
        {
            "metadata": {"name": "geozarr-convert-x7", "uid": "u", "creationTimestamp": "2026-01-02T03:04:05Z"},
            "spec": {"arguments": {"parameters": parameters}},
            "status": {"storedWorkflowTemplateSpec": {"arguments": {"parameters": defaults}}},
        }
    )
    assert (attempt.job, attempt.number) == ("geozarr-convert-x7", 1)
    request = attempt.request
    assert (request.product, request.output) == ("S2A", "pvc://claim/o.zarr")
    assert request.groups == ("/g/r10m", "/g/r20m")
    assert request.shown == "https://host/S2A.zarr"
    assert len(request.identity) == 64


NODE = {"id": "job-77", "name": "job(0)", "type": "Pod", "templateName": "geozarr-convert", "phase": "Pending"}


def pod_of(state: dict[str, Any]) -> dict[str, Any]:
    return {
        "metadata": {"name": "job-geozarr-convert-77", "creationTimestamp": "2026-01-02T03:04:06Z"},
        "status": {"containerStatuses": [{"name": "wait", "state": {}}, {"name": "main", "state": state}]},
    }


STATES = {
    "waits": ({"waiting": {"reason": "ContainerCreating"}}, "Pending", None),
    "runs": ({"running": {"startedAt": "2026-01-02T03:04:07Z"}}, "Running", None),
    "has succeeded": ({"terminated": {"exitCode": 0}}, "Succeeded", 0),
    "has failed": ({"terminated": {"exitCode": 137, "reason": "OOMKilled"}}, "Failed", 137),
}


@pytest.mark.parametrize(("state", "phase", "code"), STATES.values(), ids=STATES)
def test_a_pod_knows_sooner_than_the_controller(state: dict[str, Any], phase: str, code: int | None) -> None:
    workflow = {"metadata": {"name": "job"}, "status": {"nodes": {"job-77": NODE, "job": {"type": "Retry"}}}}
    (pod,) = Attempt(workflow, (pod_of(state),)).pods
    assert (pod.name, pod.phase, pod.exit_code) == ("job-geozarr-convert-77", phase, code)
    # The controller may not even know of it yet.
    (unknown,) = Attempt({"metadata": {"name": "job"}}, (pod_of(state),)).pods
    assert (unknown.name, unknown.has_ended) == (pod.name, pod.has_ended)


def test_what_the_controller_has_seen_end_has_ended() -> None:
    outcome = json.dumps({"v": 1, "time": "2026-01-02T03:04:07+00:00", "type": "result", "path": "/data/a.zarr"})
    outputs = {"exitCode": "0", "parameters": [{"name": "outcome", "value": outcome}]}
    node = {**NODE, "phase": "Succeeded", "outputs": outputs, "progress": "7/11"}
    workflow = {"metadata": {"name": "job"}, "status": {"nodes": {"job-77": node}}}
    (pod,) = Attempt(workflow, (pod_of({"running": {}}),)).pods
    assert (pod.phase, pod.exit_code, pod.progress) == ("Succeeded", 0, (7, 11))
    assert pod.outcome is not None
    assert pod.outcome.type == "result"

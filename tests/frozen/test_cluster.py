"""Template and Workflows: the new image runs 0.1.0's template, the new SDK reads 0.1.0's jobs, and the other way."""

from __future__ import annotations

import json

import pytest

from tests.frozen.present import Document, read_workflow, recorded, submitted, template

TEMPLATE = recorded("template")
WORKFLOWS = recorded("workflows")
REQUEST = "geozarr.io/request"


def test_the_template_has_the_recorded_names_and_labels() -> None:
    document = template()
    spec = document["spec"]
    [run] = [each for each in spec["templates"] if each["name"] == spec["entrypoint"]]
    container = run["container"]
    assert {
        "name": document["metadata"]["name"],
        "labels": document["metadata"]["labels"],
        "entrypoint": spec["entrypoint"],
        "workflow_labels": spec["workflowMetadata"]["labels"],
        "pod_labels": spec["podMetadata"]["labels"],
        "container": container["name"],
        "command": container["command"],
    } == {name: value for name, value in TEMPLATE.items() if name not in ("parameters", "mounts", "outputs")}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts.items() >= TEMPLATE["mounts"].items()
    for kind, names in TEMPLATE["outputs"].items():
        assert set(names) <= {each["name"] for each in run["outputs"][kind]}


@pytest.mark.parametrize("parameter", TEMPLATE["parameters"], ids=[each["name"] for each in TEMPLATE["parameters"]])
def test_a_parameter_has_its_default_and_choices(parameter: Document) -> None:
    now = {each["name"]: each for each in template()["spec"]["arguments"]["parameters"]}[parameter["name"]]
    assert {key: value for key, value in now.items() if key != "description"} == parameter


def test_a_later_parameter_has_a_default() -> None:
    before = {each["name"] for each in TEMPLATE["parameters"]}
    later = [each for each in template()["spec"]["arguments"]["parameters"] if each["name"] not in before]
    assert [each["name"] for each in later if "value" not in each] == [], "an argo submit of 0.1.0 does not give it"


@pytest.mark.parametrize("case", WORKFLOWS["submitted"], ids=[case["about"] for case in WORKFLOWS["submitted"]])
def test_what_0_1_0_could_submit_is_submitted_the_same(case: Document) -> None:
    before, now = case["documents"], submitted(case["given"], case["settings"], case["attempt"])
    assert now.get("secret") == before.get("secret")
    metadata, recorded_metadata = now["workflow"]["metadata"], before["workflow"]["metadata"]
    assert metadata["name"] == recorded_metadata["name"]
    assert metadata["labels"] == recorded_metadata["labels"]
    annotations, recorded_annotations = metadata["annotations"], recorded_metadata["annotations"]
    assert {**annotations, REQUEST: None} == {**recorded_annotations, REQUEST: None}
    request = json.loads(annotations[REQUEST])
    assert request.items() >= json.loads(recorded_annotations[REQUEST]).items()
    arguments, recorded_arguments = (
        {each["name"]: each["value"] for each in thing["workflow"]["spec"].pop("arguments")["parameters"]}
        for thing in (now, json.loads(json.dumps(before)))
    )
    assert arguments == recorded_arguments, "a template of 0.1.0 knows no others"
    assert now["workflow"]["spec"] == {
        key: value for key, value in before["workflow"]["spec"].items() if key != "arguments"
    }


@pytest.mark.parametrize("case", WORKFLOWS["read"], ids=[case["about"] for case in WORKFLOWS["read"]])
def test_a_workflow_of_0_1_0_is_read(case: Document) -> None:
    now, before = read_workflow(case["workflow"]), case["read"]
    assert now.pop("request").items() >= before["request"].items()
    assert now == {name: value for name, value in before.items() if name != "request"}

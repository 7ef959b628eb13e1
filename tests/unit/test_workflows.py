"""What the cluster is given, read as files: it agrees with the other defaults, and asks for no more than it needs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from geozarr_nb.backends.argo.workflow import input_secret
from geozarr_nb.settings import Settings
from geozarr_nb.widgets.request.code_snippets import WHOLE_PRODUCT
from geozarr_runner.cli import _groups, _parser
from geozarr_runner.spec.request import as_text, normalise

ROOT = Path(__file__).parents[2]
WORKFLOWS = ROOT / "workflows"
FREE = ("stac_url", "output_zarr", "groups", "identity", "derived_from", "options")


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((WORKFLOWS / name).read_text()))


def one(name: str, kind: str, called: str) -> dict[str, Any]:
    [found] = [
        document for document in documents(name) if (document["kind"], document["metadata"]["name"]) == (kind, called)
    ]
    return found


@pytest.fixture(scope="module")
def spec() -> dict[str, Any]:
    [document] = documents("geozarr-convert-template.yaml")
    assert (document["kind"], document["metadata"]["name"]) == ("WorkflowTemplate", Settings().template)
    return dict(document["spec"])


@pytest.fixture(scope="module")
def template(spec: dict[str, Any]) -> dict[str, Any]:
    [template] = spec["templates"]
    assert template["name"] == spec["entrypoint"] == "geozarr-convert"
    return dict(template)


@pytest.fixture(scope="module")
def container(template: dict[str, Any]) -> dict[str, Any]:
    return dict(template["container"])


@pytest.fixture(scope="module")
def parameters(spec: dict[str, Any]) -> dict[str, Any]:
    return {entry["name"]: entry for entry in spec["arguments"]["parameters"]}


# --- parameters ------------------------------------------------------------------------------------------------------


def test_the_parameters_are_the_contract(parameters: dict[str, Any]) -> None:
    assert parameters.keys() == {
        *("image", "pvc_name", "stac_url", "output_zarr", "groups", "validate_groups"),
        *("if_exists", "identity", "derived_from", "credentials", "cpu", "memory", "memory_limit", "time_limit"),
        *("archive", "packed", "dask_cluster", "verbose", "options"),
    }
    assert all(entry["description"] for entry in parameters.values())
    assert all(isinstance(entry.get("value", ""), str) for entry in parameters.values()), "Argo takes texts only"


def test_its_defaults_are_those_of_params_json(parameters: dict[str, Any]) -> None:
    shared = json.loads((ROOT / "params.json").read_text())["arguments"]["parameters"]
    for entry in shared:
        given = parameters[entry["name"]].get("value")
        assert given == (None if re.fullmatch(r"<.*>", entry["value"]) else entry["value"]), entry["name"]


def test_its_defaults_are_those_of_the_settings(parameters: dict[str, Any], spec: dict[str, Any]) -> None:
    settings = Settings()
    assert parameters["pvc_name"]["value"] == settings.pvc_name
    assert parameters["credentials"]["value"] == settings.credentials
    assert one("pvc.yaml", "PersistentVolumeClaim", settings.pvc_name)
    assert spec["workflowMetadata"]["labels"]["app.kubernetes.io/name"] == settings.template
    found = re.search(r"^IMAGE \?= (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert found is not None
    assert parameters["image"]["value"] == found[1]


def test_choices_are_the_runners(parameters: dict[str, Any]) -> None:
    for name in ("validate_groups", "archive", "packed", "dask_cluster", "verbose"):
        assert parameters[name]["enum"] == ["true", "false"]
        assert parameters[name]["value"] == "false"
    assert parameters["if_exists"]["enum"] == ["error", "skip", "overwrite"]
    assert parameters["if_exists"]["value"] == "error"


def test_every_parameter_is_used_and_every_use_is_a_parameter(parameters: dict[str, Any], spec: dict[str, Any]) -> None:
    rest = {name: value for name, value in spec.items() if name != "arguments"}
    used = set(re.findall(r"workflow\.parameters\.(\w+)", json.dumps(rest)))
    assert used == parameters.keys()
    assert "inputs.parameters" not in json.dumps(spec), "what is given would be read again by Argo"


# --- the call of the runner ------------------------------------------------------------------------------------------


def filled(argument: str) -> str:
    """An argument with something in its placeholders that its option takes."""
    choices = dict.fromkeys(("archive", "packed", "dask_cluster", "verbose"), "false")
    defaults = {"validate_groups": "true", "retries": "error", "parameters.options": "{}", **choices}
    found = re.search(r"\{\{=?(.*)\}\}", argument)
    if found is None:
        return argument
    name = next((name for name in defaults if name in found[1]), "")
    return argument.replace(found[0], defaults.get(name, f"<{found[1][:20]}>"))


def test_the_runner_takes_its_arguments(container: dict[str, Any]) -> None:
    assert container["command"] == ["geozarr-runner"]
    options = _parser().parse_args([filled(argument) for argument in container["args"]])
    assert (options.with_log, options.within, options.scratch) == (True, Path("/data"), "/scratch")
    assert options.outcome == Path("/scratch/outcome.json")
    assert options.termination_log == Path("/dev/termination-log")
    assert "--run-id={{workflow.uid}}/{{pod.name}}" in container["args"], "a workflow's name may be used again"
    assert (options.if_exists, options.validate_groups, options.dask_cluster) == ("error", True, False)


def test_there_is_one_groups_and_no_shell(container: dict[str, Any]) -> None:
    arguments = container["args"]
    assert len([argument for argument in arguments if argument.startswith("--groups")]) == 1
    assert arguments[-3] == "--"
    assert not re.search(r"\b(bash|sh|source|script)\b", json.dumps([container["command"], arguments]))


def test_no_groups_are_the_whole_product_whatever_a_pod_has(
    container: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the form's command gives them, `groups=[]`: neither Argo's expression nor Kubernetes changes that."""
    arguments = [
        re.sub(r"\{\{=.*workflow\.parameters\.groups.*\}\}", WHOLE_PRODUCT, argument) for argument in container["args"]
    ]
    options = _parser().parse_args([filled(argument) for argument in arguments])
    monkeypatch.setenv("ARGO_GROUPS", "a")
    assert _groups(options.groups) == ()


@given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8), max_size=3))
@example(["surface reflectance, 10 m", 'höhe/高さ "$(HOME) {{x}} $$"'])
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_names_of_groups_arrive_letter_by_letter(container: dict[str, Any], names: list[str]) -> None:
    """From a list through the parameter, Argo's expression and Kubernetes' references to the runner's request."""
    groups = normalise(names)
    value = as_text(groups).replace("$", "$$").replace("{", "$(BRACE)")
    expanded = re.sub(r"\$\$|\$\(BRACE\)", lambda found: "$" if found[0] == "$$" else "{", value)
    arguments = [
        re.sub(r"\{\{=.*workflow\.parameters\.groups.*\}\}", lambda _: expanded, argument)
        for argument in container["args"]
    ]
    options = _parser().parse_args(
        [argument if argument.startswith("--groups") else filled(argument) for argument in arguments]
    )
    assert _groups(options.groups, resolved=True) == groups


@pytest.mark.parametrize("name", FREE)
def test_what_is_free_is_escaped_for_argo_and_kubernetes(name: str, container: dict[str, Any]) -> None:
    expression = '{{=sprig.replace("{", "$(BRACE)", sprig.replace("$", "$$", workflow.parameters.NAME))}}'
    [argument] = [argument for argument in container["args"] if f"workflow.parameters.{name}" in argument]
    assert argument.endswith(expression.replace("NAME", name))
    assert {"name": "BRACE", "value": "{"} in container["env"]


def test_every_other_placeholder_in_the_arguments_is_a_choice(
    container: dict[str, Any], parameters: dict[str, Any]
) -> None:
    names = set(re.findall(r"workflow\.parameters\.(\w+)", json.dumps(container["args"]))) - set(FREE)
    assert all("enum" in parameters[name] for name in names), names


# --- what it may, and what it leaves ---------------------------------------------------------------------------------


def test_it_may_do_little(spec: dict[str, Any], container: dict[str, Any]) -> None:
    pod = spec["securityContext"]
    assert (pod["runAsNonRoot"], pod["runAsUser"], pod["fsGroup"]) == (True, 1000, 1000)
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostNetwork", "hostPID", "hostAliases"} & spec.keys()
    assert spec["serviceAccountName"] == "default"


def test_resources_are_parameters(template: dict[str, Any]) -> None:
    patch = yaml.safe_load(
        re.sub(r"\{\{=sprig\.toJson\(workflow\.parameters\.(\w+)\)\}\}", r"\1", template["podSpecPatch"])
    )
    assert patch["terminationGracePeriodSeconds"] == 60
    containers = {one["name"]: one for one in patch["containers"] + patch["initContainers"]}
    assert containers["main"]["resources"] == {
        "requests": {"cpu": "cpu", "memory": "memory"},
        "limits": {"memory": "memory_limit"},
    }
    for name in ("init", "wait"):
        assert containers[name]["securityContext"]["allowPrivilegeEscalation"] is False
        assert containers[name]["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_volumes_and_scratch(spec: dict[str, Any], container: dict[str, Any]) -> None:
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
    assert mounts["/data"]["persistentVolumeClaim"]["claimName"] == "{{=workflow.parameters.pvc_name}}"
    assert "emptyDir" in mounts["/scratch"]
    assert "emptyDir" in mounts["/outputs"]
    assert container["workingDir"] == "/data"
    variables = {variable["name"]: variable["value"] for variable in container["env"]}
    assert variables["HOME"] == variables["TMPDIR"] == "/scratch"


def test_secrets_come_by_name_and_need_not_be_there(container: dict[str, Any]) -> None:
    references = [source["secretRef"] for source in container["envFrom"]]
    names = ["{{=workflow.parameters.credentials}}", input_secret("{{workflow.uid}}")]
    assert [one["name"] for one in references] == names
    assert all(one["optional"] for one in references)
    assert not any("valueFrom" in variable for variable in container["env"])


def test_what_stays_of_a_job(spec: dict[str, Any], template: dict[str, Any], container: dict[str, Any]) -> None:
    assert spec["podGC"] == {"strategy": "OnPodSuccess"}
    assert spec["ttlStrategy"] == {"secondsAfterCompletion": 7 * 24 * 3600}
    [artifact] = template["outputs"]["artifacts"]
    assert (artifact["name"], artifact["optional"], artifact["archive"]) == ("geozarr", True, {"none": {}})
    assert f"--artifact={artifact['path']}" in container["args"]
    [outcome] = template["outputs"]["parameters"]
    assert outcome == {"name": "outcome", "valueFrom": {"path": "/scratch/outcome.json", "default": ""}}
    assert f"--outcome={outcome['valueFrom']['path']}" in container["args"]
    for where in ("workflowMetadata", "podMetadata"):
        assert spec[where]["labels"] == {"app.kubernetes.io/name": "geozarr-convert"}
    assert container["imagePullPolicy"] == "IfNotPresent"


def test_retries_are_bounded(template: dict[str, Any]) -> None:
    retry = template["retryStrategy"]
    assert retry["limit"] == 2
    assert retry["backoff"]["duration"]
    assert template["synchronization"]["mutexes"]


# --- claim and roles -------------------------------------------------------------------------------------------------


def test_the_claim() -> None:
    spec = one("pvc.yaml", "PersistentVolumeClaim", "geozarr-pvc")["spec"]
    assert spec == {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "100Gi"}}}


def rules(role: dict[str, Any]) -> dict[str, set[str]]:
    return {resource: set(rule["verbs"]) for rule in role["rules"] for resource in rule["resources"]}


def test_the_executors_role_is_bound_to_the_templates_account(spec: dict[str, Any]) -> None:
    assert rules(one("rbac.yaml", "Role", "geozarr-executor")) == {"workflowtaskresults": {"create", "patch"}}
    binding = one("rbac.yaml", "RoleBinding", "geozarr-executor")
    assert binding["roleRef"]["name"] == "geozarr-executor"
    assert [subject["name"] for subject in binding["subjects"]] == [spec["serviceAccountName"]]


def test_the_submitters_role() -> None:
    assert rules(one("rbac.yaml", "Role", "geozarr-submitter")) == {
        "workflows": {"create", "get", "list", "watch", "delete", "patch"},
        "workflowtemplates": {"get"},
        "pods": {"get", "list", "watch", "create", "delete"},
        "pods/log": {"get"},
        "pods/proxy": {"get"},
        "events": {"list"},
        "persistentvolumeclaims": {"get", "list"},
        "secrets": {"create"},
    }
    subjects = one("rbac.yaml", "RoleBinding", "geozarr-submitter")["subjects"]
    assert {subject["kind"] for subject in subjects} == {"ServiceAccount", "Group"}
    assert one("rbac.yaml", "ServiceAccount", "geozarr-submitter")


def test_only_what_is_optional_is_for_the_whole_cluster() -> None:
    for file in WORKFLOWS.glob("*.yaml"):
        kinds = {document["kind"] for document in documents(file.name)}
        assert not any(kind.startswith("Cluster") for kind in kinds) or file.name == "nodes.yaml"
    shown = rules(one("nodes.yaml", "ClusterRole", "geozarr-node-reader"))
    assert shown == {"nodes": {"get", "list"}, "deployments": {"list"}}


def test_the_only_namespace_in_the_files_is_the_default() -> None:
    """It is replaced where jobs run in another one."""
    for file in WORKFLOWS.glob("*.yaml"):
        for document in documents(file.name):
            assert "namespace" not in document["metadata"]
            for subject in document.get("subjects", []):
                assert subject.get("namespace", Settings().namespace) == Settings().namespace

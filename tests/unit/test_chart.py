"""The chart says what workflows/ says, but for what its values change, and refuses values that make no sense."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "geozarr"
MANIFESTS = ("geozarr-convert-template", "pvc", "rbac")
HELM = shutil.which("helm")

pytestmark = pytest.mark.skipif(HELM is None, reason="no helm on PATH")


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    assert HELM is not None
    return subprocess.run([HELM, *arguments], capture_output=True, text=True, timeout=300, check=False)


def rendered(values: dict[str, Any] | None = None, *, namespace: str = "argo") -> dict[tuple[str, str], dict[str, Any]]:
    """Return the chart's objects by kind and name."""
    given = [f"--set-json={name}={json.dumps(value)}" for name, value in (values or {}).items()]
    done = helm("template", "geozarr", str(CHART), "--namespace", namespace, *given)
    assert done.returncode == 0, done.stderr
    return named(done.stdout)


def named(text: str) -> dict[tuple[str, str], dict[str, Any]]:
    return {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(text) if one}


def template(values: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = rendered(values)["WorkflowTemplate", "geozarr-convert"]["spec"]
    return spec


def test_lint() -> None:
    done = helm("lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout + done.stderr


def test_with_its_default_values_it_is_what_lies_in_workflows() -> None:
    expected: dict[tuple[str, str], dict[str, Any]] = {}
    for name in MANIFESTS:
        expected |= named((ROOT / "workflows" / f"{name}.yaml").read_text())
    found = rendered()
    claim = found["PersistentVolumeClaim", "geozarr-pvc"]
    assert claim["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
    assert found == expected


def test_what_a_job_has_by_default() -> None:
    values = {
        "job.image": "registry.example/geozarr:1",
        "job.cpu": 2,
        "job.memory": "3Gi",
        "job.memoryLimit": "12Gi",
        "job.timeLimit": 1234567,
        "job.credentials": "keys",
        "claim.name": "outputs",
    }
    found = {one["name"]: one.get("value") for one in template(values)["arguments"]["parameters"]}
    before = {one["name"]: one.get("value") for one in template({})["arguments"]["parameters"]}
    assert {name: value for name, value in found.items() if before[name] != value} == {
        "image": "registry.example/geozarr:1",
        "cpu": "2",
        "memory": "3Gi",
        "memory_limit": "12Gi",
        "time_limit": "1234567",
        "credentials": "keys",
        "pvc_name": "outputs",
    }


def test_where_jobs_run() -> None:
    toleration = {"key": "batch", "operator": "Exists"}
    affinity = {"podAffinity": {}}
    found = template(
        {
            "job.nodeSelector": {"disk": "ssd"},
            "job.tolerations": [toleration],
            "job.affinity": affinity,
            "job.imagePullSecrets": ["registry"],
            "job.imagePullPolicy": "Always",
            "job.keptSeconds": 3600,
        }
    )
    assert found["nodeSelector"] == {"disk": "ssd"}
    assert found["tolerations"] == [toleration]
    assert found["affinity"] == affinity
    assert found["imagePullSecrets"] == [{"name": "registry"}]
    assert found["templates"][0]["container"]["imagePullPolicy"] == "Always"
    assert found["ttlStrategy"] == {"secondsAfterCompletion": 3600}


def test_another_service_account_gets_the_executors_role() -> None:
    objects = rendered({"job.serviceAccount": "runner"}, namespace="team")
    assert objects["WorkflowTemplate", "geozarr-convert"]["spec"]["serviceAccountName"] == "runner"
    subjects = objects["RoleBinding", "geozarr-executor"]["subjects"]
    assert subjects == [{"kind": "ServiceAccount", "name": "runner", "namespace": "team"}]


def test_who_may_submit() -> None:
    ann = {"kind": "User", "name": "ann", "apiGroup": "rbac.authorization.k8s.io"}
    subjects = rendered({"rbac.submitters": [ann]}, namespace="team")["RoleBinding", "geozarr-submitter"]["subjects"]
    assert subjects[0] == {"kind": "ServiceAccount", "name": "geozarr-submitter", "namespace": "team"}
    assert subjects[-1] == ann


def test_jobs_at_once() -> None:
    objects = rendered({"parallelism": 3})
    assert objects["ConfigMap", "geozarr-parallelism"]["data"] == {"jobs": "3"}
    locks = objects["WorkflowTemplate", "geozarr-convert"]["spec"]["templates"][0]["synchronization"]
    assert locks["semaphores"] == [{"configMapKeyRef": {"name": "geozarr-parallelism", "key": "jobs"}}]
    assert locks["mutexes"], "an output is still written by one job at a time"


def test_a_claim_of_ones_own() -> None:
    spec = rendered({"claim.size": "2Ti", "claim.storageClass": "fast", "claim.accessModes": ["ReadWriteMany"]})[
        "PersistentVolumeClaim", "geozarr-pvc"
    ]["spec"]
    assert spec == {
        "accessModes": ["ReadWriteMany"],
        "resources": {"requests": {"storage": "2Ti"}},
        "storageClassName": "fast",
    }
    assert "annotations" not in rendered({"claim.keep": False})["PersistentVolumeClaim", "geozarr-pvc"]["metadata"]
    assert ("PersistentVolumeClaim", "geozarr-pvc") not in rendered({"claim.create": False})
    assert [kind for kind, _ in rendered({"rbac.create": False})] == ["PersistentVolumeClaim", "WorkflowTemplate"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("job.memory=lots", "job.memory"),
        ("job.cpu=-1", "job.cpu"),
        ("job.timeLimit=0", "job.timeLimit"),
        ("job.image=Not An Image", "job.image"),
        ("job.imagePullPolicy=Sometimes", "job.imagePullPolicy"),
        ("jobs.memory=2Gi", "jobs"),
        ("claim.name=Upper_Case", "claim.name"),
        ("claim.accessModes={ReadOnlyMany}", "claim.accessModes"),
        ("parallelism=-1", "parallelism"),
        ("parallelism=many", "parallelism"),
        ("rbac.submitters[0].kind=Robot", "rbac.submitters"),
    ],
)
def test_values_that_make_no_sense_are_refused_by_name(given: str, said: str) -> None:
    done = helm("template", "geozarr", str(CHART), "--set", given)
    assert done.returncode != 0
    assert said in done.stderr


@pytest.mark.parametrize(
    ("memory", "limit", "fits"),
    [
        *(("2Gi", "2Gi", True), ("1.5Gi", "1600Mi", True), ("8Gi", "8589934592", True), ("7900M", "", True)),
        *(("16Gi", "", False), ("2G", "2000000k", True), ("2Gi", "2G", False), ("1Ti", "999Gi", False)),
    ],
)
def test_more_memory_than_the_limit_is_refused(memory: str, limit: str, fits: bool) -> None:
    done = helm("template", "geozarr", str(CHART), "--set-string", f"job.memory={memory},job.memoryLimit={limit}")
    assert (done.returncode == 0) == fits, done.stderr
    assert fits or f"job.memory {memory} is more than job.memoryLimit {limit or '8Gi'}" in done.stderr


def test_the_packed_chart_holds_the_manifests_and_nothing_for_the_whole_cluster(tmp_path: Path) -> None:
    done = helm("package", str(CHART), "--destination", str(tmp_path))
    assert done.returncode == 0, done.stderr
    [archive] = tmp_path.glob("geozarr-*.tgz")
    with tarfile.open(archive) as packed:
        names = packed.getnames()
    assert {f"geozarr/files/{name}.yaml" for name in MANIFESTS} <= set(names)
    assert "geozarr/files/nodes.yaml" not in names
    alone = helm("template", "geozarr", str(archive), "--namespace", "argo")
    assert named(alone.stdout) == rendered()

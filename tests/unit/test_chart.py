"""The chart says what workflows/ says, but for what its values change, and refuses values that make no sense."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml

from geozarr_nb.claims.reader_pod import pod_manifest
from geozarr_nb.cluster import manifests

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


def test_the_container_that_converts_may_have_no_token() -> None:
    objects = rendered({"job.token": False, "job.serviceAccount": "runner"}, namespace="team")
    spec = objects["WorkflowTemplate", "geozarr-convert"]["spec"]
    assert (spec["automountServiceAccountToken"], spec["serviceAccountName"]) == (False, "runner")
    account = spec["executor"]["serviceAccountName"]
    assert objects["ServiceAccount", account]["automountServiceAccountToken"] is False
    token = objects["Secret", f"{account}.service-account-token"]  # the name that Argo looks for
    assert token["type"] == "kubernetes.io/service-account-token"
    assert token["metadata"]["annotations"] == {"kubernetes.io/service-account.name": account}
    assert "data" not in token, "the cluster fills it"
    subjects = objects["RoleBinding", "geozarr-executor"]["subjects"]
    assert subjects == [{"kind": "ServiceAccount", "name": account, "namespace": "team"}]


SERVER = {"cidr": "192.0.2.10/32", "port": 6443}


def reaches(policy: dict[str, Any], address: str, port: int) -> bool:
    """Return whether a policy lets its pods open a connection, as Kubernetes reads it."""
    where = ip_address(address)

    def within(block: dict[str, Any]) -> bool:
        inside = [where in ip_network(cidr) for cidr in (block["cidr"], *block.get("except", ()))]
        return inside[0] and not any(inside[1:])

    return any(
        all(peer.keys() == {"ipBlock"} for peer in rule.get("to", ()))
        and ("to" not in rule or any(within(peer["ipBlock"]) for peer in rule["to"]))
        and ("ports" not in rule or port in [each["port"] for each in rule["ports"]])
        for rule in policy["spec"].get("egress", ())
    )


def test_what_jobs_reach() -> None:
    given = {
        "network.restrict": True,
        "network.apiServer": [SERVER],
        "network.refused": ["198.51.100.0/24", "2001:db8::/32"],
    }
    objects = rendered(given)
    jobs = objects["NetworkPolicy", "geozarr-jobs"]
    assert jobs["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in jobs["spec"]
    labels = objects["WorkflowTemplate", "geozarr-convert"]["spec"]["podMetadata"]["labels"]
    assert jobs["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
    for address in ("203.0.113.7", "2a00::7"):
        assert reaches(jobs, address, 443), address
    assert reaches(jobs, "192.0.2.10", 6443), "or the executor could report nothing"
    assert reaches(jobs, "10.43.0.10", 53), "or no name would be found"
    for address in (
        *("169.254.169.254", "10.43.0.1", "172.20.0.1", "192.168.1.1", "100.64.0.1", "127.0.0.1", "198.51.100.7"),
        *("fd00:ec2::254", "fe80::1", "::1", "2001:db8::1"),
    ):
        assert not reaches(jobs, address, 443), address
    allowed = rendered(given | {"network.allowed": ["10.1.2.3/32"]})["NetworkPolicy", "geozarr-jobs"]
    assert reaches(allowed, "10.1.2.3", 9000)
    assert not reaches(allowed, "10.1.2.4", 9000)


def test_readers_of_a_claim_reach_nothing() -> None:
    readers = rendered({"network.restrict": True, "network.apiServer": [SERVER]})["NetworkPolicy", "geozarr-readers"]
    pod = pod_manifest("a", "claim", "image", 64 * "0")
    assert readers["spec"]["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert (readers["spec"]["policyTypes"], reaches(readers, "203.0.113.7", 53)) == (["Egress"], False)


def test_values_of_an_earlier_chart_change_nothing() -> None:
    """`helm upgrade --reuse-values` gives those alone, without what this chart has by default."""
    assert rendered({"job.token": None, "network": None}) == rendered()


def test_who_restricts_says_where_the_api_server_is() -> None:
    done = helm("template", "geozarr", str(CHART), "--set", "network.restrict=true")
    assert done.returncode != 0
    assert "network.apiServer" in done.stderr
    assert not any(kind == "NetworkPolicy" for kind, _ in rendered())


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


EVERY_VALUE = {
    "parallelism": 3,
    "claim.name": "mine",
    "job.image": "registry/name:1",
    "job.imagePullPolicy": "Always",
    "job.imagePullSecrets": ["key"],
    "job.cpu": "1",
    "job.memory": "2Gi",
    "job.memoryLimit": "3Gi",
    "job.timeLimit": 60,
    "job.credentials": "keys",
    "job.serviceAccount": "mine",
    "job.token": False,
    "job.nodeSelector": {"disk": "ssd"},
    "job.tolerations": [{"operator": "Exists"}],
    "job.affinity": {"nodeAffinity": {}},
    "job.keptSeconds": 60,
}


def test_no_value_makes_another_version_of_the_template() -> None:
    """The doctor would have it replaced, and what the value has set be lost."""
    job = yaml.safe_load((CHART / "values.yaml").read_text())["job"]
    assert {f"job.{name}" for name in job} <= EVERY_VALUE.keys(), "each of them is given"
    made = rendered(EVERY_VALUE)["WorkflowTemplate", "geozarr-convert"]
    assert manifests.differences(manifests.template(), made), "they do change it"
    made["metadata"]["annotations"] = {"meta.helm.sh/release-name": "mine"}  # as helm does when it installs
    assert manifests.differences(manifests.template(), made) == []


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
        ("job.token=perhaps", "job.token"),
        ("network.allowed={example.org}", "network.allowed"),
        ("network.apiServer[0].cidr=10.0.0.1/32", "port"),
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

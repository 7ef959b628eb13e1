"""Every check of a cluster finds what is wrong and says what to do; the cluster is a few dicts here."""

from __future__ import annotations

import copy
from collections.abc import Callable
from copy import deepcopy
from threading import Barrier
from typing import Any

import pytest

from geozarr_nb.cluster import kinds, manifests
from geozarr_nb.cluster.client import Object
from geozarr_nb.cluster.kinds import Kind
from geozarr_nb.cluster.refusals import logged_out
from geozarr_nb.doctor import Diagnosis, Finding, cluster, doctor, rights
from geozarr_nb.errors import ClusterDenied, ClusterError, ClusterUnreachable
from tests.unit.test_diagnostics import deployment, node

IMAGE = "docker.io/library/eopf-geozarr:dev"


class Cluster:
    """What the checks ask of an `Api`, answered from dicts.

    Attributes
    ----------
    denied
        Kinds, by their plural, that the caller may not look at; "everywhere" for those of other namespaces.
    rules
        Rules of the caller's roles.
    allowed
        What other authorisers allow the caller.
    """

    server = "https://192.0.2.1:6443"
    context = "k3d-geozarr"
    namespace = "argo"

    def __init__(self) -> None:
        self.resources_there = {"workflows", "workflowtemplates", "workflowtaskresults"}
        self.objects: dict[str, list[Object]] = {
            "namespaces": [{"metadata": {"name": "argo"}}],
            "deployments": [deployment()],
            "nodes": [node(images=(IMAGE,))],
            "workflowtemplates": [copy.deepcopy(manifests.template())],
            "persistentvolumeclaims": [
                {
                    "metadata": {"name": "geozarr-pvc", "namespace": "argo"},
                    "spec": {"volumeName": "volume-1"},
                    "status": {"phase": "Bound", "capacity": {"storage": "100Gi"}},
                }
            ],
        }
        self.denied: set[str] = set()
        self.rules: list[Object] = [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]
        self.allowed: set[tuple[str, str]] = set()
        self.executor_may = {"create", "patch"}
        self.asked: list[str] = []

    def version(self) -> str:
        return "v1.32.3"

    def resources(self, root: str) -> frozenset[str]:
        return frozenset(self.resources_there)

    def list(self, kind: Kind, *, everywhere: bool = False, **selectors: str) -> tuple[list[Object], str]:
        self._look(kind)
        if everywhere and "everywhere" in self.denied:
            raise self._refusal(f"list {kind.plural} of all namespaces")
        found = self.objects.get(kind.plural, [])
        if kind.plural == "deployments" and not everywhere:
            found = [each for each in found if each["metadata"]["namespace"] == self.namespace]
        return found, "1"

    def find(self, kind: Kind, name: str) -> Object | None:
        self._look(kind)
        return next((each for each in self.objects.get(kind.plural, []) if each["metadata"]["name"] == name), None)

    def get(self, kind: Kind, name: str) -> Object:
        found = self.find(kind, name)
        if found is None:
            raise ClusterError("missing")
        return found

    def create(self, kind: Kind, body: Object) -> Object:
        self._look(kind)
        if kind.plural == "subjectaccessreviews":
            return {"status": {"allowed": body["spec"]["resourceAttributes"]["verb"] in self.executor_may}}
        if kind.plural == "selfsubjectreviews":
            return {"status": {"userInfo": {"username": "system:serviceaccount:hub:jo"}}}
        assert kind.plural == "selfsubjectrulesreviews", "nothing else is made by checks"
        return {"status": {"resourceRules": self.rules, "incomplete": False}}

    def is_allowed(self, verb: str, kind: Kind, *, subresource: str = "") -> bool:
        name = f"{kind.plural}/{subresource}" if subresource else kind.plural
        return (verb, name) in self.allowed

    def _look(self, kind: Kind) -> None:
        self.asked.append(kind.plural)
        if kind.plural in self.denied:
            raise self._refusal(f"look at {kind.plural}")

    def _refusal(self, what: str) -> ClusterDenied:
        return ClusterDenied(f"you may not {what}", remedy="kubectl apply -f workflows/rbac.yaml")


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    for name in ("GEOZARR_IMAGE", "GEOZARR_PVC_NAME", "GEOZARR_NAMESPACE", "GEOZARR_KUBE_CONTEXT", "GEOZARR_BACKEND"):
        monkeypatch.delenv(name, raising=False)
    made = Cluster()
    monkeypatch.setattr(cluster, "connect", lambda settings: made)
    return made


def found(name: str, diagnosis: Diagnosis | None = None) -> Finding:
    diagnosis = diagnosis or doctor(backend="argo")
    return next(finding for finding in diagnosis.findings if finding.name == name)


def test_a_cluster_that_is_ready(there: Cluster) -> None:
    diagnosis = doctor(backend="argo")
    assert [finding for finding in diagnosis.findings if finding.verdict != "ok"] == []
    names = [finding.name for finding in diagnosis.findings]
    assert names[:5] == ["Python", "geozarr-runner", "kubernetes", "params.json", "settings"]
    assert names[5:9] == ["cluster", "namespace", "Argo", "controller"]
    assert "eopf-geozarr" not in names, "no converter is needed where jobs are only submitted"
    assert "context k3d-geozarr, https://192.0.2.1:6443, Kubernetes v1.32.3" in found("cluster", diagnosis).found
    assert "volume-1" in found("claim", diagnosis).found


def test_what_several_checks_look_at_is_asked_for_once(there: Cluster) -> None:
    doctor(backend="argo")
    assert there.asked.count("nodes") == 1
    assert there.asked.count("workflowtemplates") == 1
    assert there.asked.count("selfsubjectrulesreviews") == 1
    assert len(there.asked) <= 10


def test_the_setting_chooses_the_backend(there: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOZARR_BACKEND", "argo")
    assert "cluster" in [finding.name for finding in doctor().findings]
    assert "cluster" not in [finding.name for finding in doctor(backend="local").findings]


def test_a_backend_that_there_is_not() -> None:
    finding = found("backend", doctor(backend="slurm"))
    assert finding.verdict == "problem"
    assert "local, argo" in finding.remedy


def test_a_cluster_that_does_not_answer(there: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(_: object) -> None:
        raise ClusterUnreachable("the API server does not answer", given="https://host", remedy="start it")

    monkeypatch.setattr(cluster, "connect", silent)
    diagnosis = doctor(backend="argo")
    assert diagnosis.findings[-1].name == "cluster", "nothing more can be checked"
    assert diagnosis.findings[-1].found == "the API server does not answer (https://host)"
    assert not diagnosis.ok


def change(kind: str, edit: Callable[[Object], Any]) -> Callable[[Cluster], None]:
    return lambda there: edit(there.objects[kind][0])


def without(kind: str) -> Callable[[Cluster], None]:
    return lambda there: there.objects[kind].clear()


def argument(name: str, **fields: str) -> Callable[[Object], None]:
    def edit(template: Object) -> None:
        entries = template["spec"]["arguments"]["parameters"]
        next(entry for entry in entries if entry["name"] == name).update(fields)

    return edit


@pytest.mark.parametrize(
    ("spoil", "name", "verdict", "words", "remedy"),
    [
        (without("namespaces"), "namespace", "problem", "there is no namespace argo", "kubectl create namespace argo"),
        (lambda there: there.resources_there.clear(), "Argo", "problem", "not on this cluster", "make argo-install"),
        (
            lambda there: there.resources_there.remove("workflowtaskresults"),
            "Argo",
            "problem",
            "lack workflowtaskresults",
            "make argo-install",
        ),
        (without("deployments"), "controller", "problem", "no workflow controller is installed", "make argo-install"),
        (
            lambda there: there.objects.update(deployments=[deployment("--namespaced", namespace="flows")]),
            "controller",
            "problem",
            "no workflow controller watches namespace argo: there is flows/workflow-controller (watching flows)",
            "GEOZARR_NAMESPACE=flows",
        ),
        (
            lambda there: there.objects.update(deployments=[deployment(replicas=0, ready=0)]),
            "controller",
            "problem",
            "scaled to 0",
            "kubectl -n argo scale deployment/workflow-controller --replicas=1",
        ),
        (
            lambda there: there.objects["deployments"].append(deployment(namespace="flows")),
            "controller",
            "warning",
            "2 controllers watch argo",
            "kubectl -n flows scale deployment/workflow-controller --replicas=0",
        ),
        (without("nodes"), "nodes", "problem", "has no node", "add one"),
        (
            lambda there: there.objects.update(nodes=[node(full=True, images=(IMAGE,))]),
            "nodes",
            "problem",
            "the disk of node node0 is nearly full (DiskPressure)",
            "make cluster-gc",
        ),
        (
            lambda there: there.objects["nodes"].append(node("node1", full=True, images=(IMAGE,))),
            "nodes",
            "warning",
            "the disk of node node1",
            "make cluster-gc",
        ),
        (
            lambda there: there.objects.update(nodes=[node(ready="Unknown", images=(IMAGE,))]),
            "nodes",
            "problem",
            "node node0 is not ready: Kubelet stopped",
            "kubectl describe nodes",
        ),
        (without("workflowtemplates"), "template", "problem", "no workflow template geozarr-convert", "make template"),
        (
            change("workflowtemplates", lambda template: template["spec"]["arguments"]["parameters"].pop(1)),
            "template",
            "problem",
            "geozarr-convert does not know output_zarr: what is given for it would be ignored",
            "make template",
        ),
        (
            change("workflowtemplates", argument("memory_limit", value="4Gi")),
            "template",
            "warning",
            "it differs in spec.arguments.parameters[memory_limit].value",
            "make template",
        ),
        (without("persistentvolumeclaims"), "claim", "problem", "there is no claim geozarr-pvc", "make pvc"),
        (
            change("persistentvolumeclaims", lambda claim: claim["status"].update(phase="Pending")),
            "claim",
            "problem",
            "claim geozarr-pvc has no volume",
            "kubectl -n argo delete pvc geozarr-pvc && make pvc",
        ),
        (
            lambda there: there.objects.update(nodes=[node()]),
            "image",
            "problem",
            "image eopf-geozarr:dev is not on any node",
            "make build load-k3d",
        ),
        (
            lambda there: there.objects["nodes"].append(node("node1")),
            "image",
            "warning",
            "is not on node node1",
            "make build load-k3d",
        ),
        (
            lambda there: there.executor_may.remove("patch"),
            "executor",
            "problem",
            "service account default may not patch workflowtaskresults",
            "make template",
        ),
    ],
)
def test_what_is_wrong_is_found_with_its_cure(
    there: Cluster, spoil: Callable[[Cluster], Any], name: str, verdict: str, words: str, remedy: str
) -> None:
    spoil(there)
    finding = found(name)
    assert finding.verdict == verdict
    assert words in finding.found
    assert remedy in finding.remedy
    assert finding.why


def test_a_controller_that_cannot_start_says_why(there: Cluster) -> None:
    there.objects["deployments"] = [deployment(ready=0)]
    waiting = {"state": {"waiting": {"reason": "ImagePullBackOff"}}, "name": "c", "image": "quay.io/a/b:1"}
    there.objects["pods"] = [
        {
            "metadata": {"name": "controller-1", "namespace": "argo"},
            "spec": {"nodeName": "node0", "containers": [{"name": "c", "image": "quay.io/a/b:1"}]},
            "status": {"phase": "Pending", "containerStatuses": [waiting]},
        }
    ]
    finding = found("controller")
    assert "is not running: image quay.io/a/b:1 is not on node node0" in finding.found


def test_a_controller_of_another_release(there: Cluster) -> None:
    old = deployment()
    old["spec"]["template"]["spec"]["containers"][0]["image"] = "quay.io/argoproj/workflow-controller:v3.4.1"
    there.objects["deployments"] = [old]
    assert "v3.4.1; tested is v3.6" in found("controller").found


def test_an_image_of_a_registry_need_not_be_there_yet(there: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOZARR_IMAGE", "ghcr.io/team/runner:1")
    assert found("image").found == "ghcr.io/team/runner:1, which a node without it pulls from ghcr.io"


def test_what_a_server_adds_makes_no_difference(there: Cluster) -> None:
    template = there.objects["workflowtemplates"][0]
    template["metadata"] |= {"uid": "1", "managedFields": []}
    template["spec"]["templates"][0]["inputs"] = {}
    template["spec"]["templates"][0]["metadata"] = {}
    assert found("template").verdict == "ok"


def test_a_list_of_another_length_is_a_difference() -> None:
    ours: Object = {"spec": {"args": ["a", "b"], "same": 1}}
    assert manifests.differences(ours, {"spec": {"args": ["a"], "same": 1}}) == ["spec.args"]
    assert manifests.differences(ours, {"spec": {"args": ["a", "c"], "same": 1}}) == ["spec.args[1]"]


@pytest.mark.parametrize(
    ("denied", "names"),
    [
        ("nodes", ["nodes", "image"]),
        ("everywhere", ["controller"]),
        ("subjectaccessreviews", ["executor"]),
        ("workflowtemplates", ["template", "image", "executor"]),
    ],
)
def test_a_check_without_the_right_to_make_it_names_the_right(there: Cluster, denied: str, names: list[str]) -> None:
    there.denied.add(denied)
    there.objects["deployments"] = [deployment(namespace="flows")]
    diagnosis = doctor(backend="argo")
    doubtful = [finding for finding in diagnosis.findings if finding.verdict != "ok"]
    assert [finding.name for finding in doubtful] == names
    for finding in doubtful:
        assert finding.verdict == "warning"
        assert finding.found.startswith("not checked: you may not ")
        assert finding.remedy
    assert diagnosis.ok, "what may not be seen may well be in order"


def test_a_controller_in_the_own_namespace_is_seen_without_the_right_to_others(there: Cluster) -> None:
    there.denied.add("everywhere")
    assert found("controller").verdict == "ok"


def test_few_may_look_at_namespaces(there: Cluster) -> None:
    there.denied.add("namespaces")
    assert found("namespace").verdict == "ok"


def test_an_error_in_a_check_is_a_finding(there: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(root: str) -> frozenset[str]:
        raise ClusterUnreachable("it went away", remedy="")

    monkeypatch.setattr(there, "resources", fails)
    assert found("Argo").found == "not checked: it went away"
    assert found("Argo").remedy


EVERYTHING = ["create", "get", "list", "watch", "delete", "patch"]
RULES = [
    {"verbs": EVERYTHING, "apiGroups": ["argoproj.io"], "resources": ["*"]},
    {"verbs": EVERYTHING, "apiGroups": [""], "resources": ["pods", "secrets"]},
    {"verbs": ["get"], "apiGroups": [""], "resources": ["*/log", "pods/proxy", "persistentvolumeclaims"]},
    {"verbs": ["list"], "apiGroups": ["*"], "resources": ["events"]},
]


def test_who_is_not_known_is_told_to_log_in(there: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everybody may ask for the version of many clusters, so that the doctor goes on."""
    there.denied |= {kind.plural for kind in vars(kinds).values() if isinstance(kind, Kind)}
    monkeypatch.setattr(there, "_refusal", lambda what: logged_out("the cluster does not know who is asking", "host"))
    findings = doctor(backend="argo").findings
    asked = [finding for finding in findings if "does not know who" in finding.found]
    assert {"namespace", "nodes", "template", "claim", "executor", "your rights"} <= {each.name for each in asked}
    assert {finding.verdict for finding in asked} == {"problem"}
    assert all("log in again" in finding.remedy for finding in asked)
    assert "nodes.yaml" not in str(findings)


def test_a_claim_that_is_being_deleted(there: Cluster) -> None:
    ending = {"deletionTimestamp": "2026-01-01T00:00:00Z"}
    change("persistentvolumeclaims", lambda claim: claim["metadata"].update(ending))(there)
    assert found("claim").verdict == "problem"
    assert "is being deleted" in found("claim").found


def test_the_callers_rights_are_read_from_rules(there: Cluster) -> None:
    there.rules = [*RULES]
    findings = [found(name, doctor(backend="argo")) for name in rights.NEEDED]
    assert [finding.verdict for finding in findings] == ["ok"] * 5


@pytest.mark.parametrize(
    ("rule", "name", "verdict", "words"),
    [
        (0, "right to submit", "problem", "create workflows"),
        (1, "right to open", "warning", "create pods, delete pods"),
        (2, "right to logs", "warning", "get pods/log"),
        (3, "right to watch", "problem", "you may not list events"),
    ],
)
def test_a_right_that_is_missing(there: Cluster, rule: int, name: str, verdict: str, words: str) -> None:
    there.rules = [each for number, each in enumerate(RULES) if number != rule]
    finding = found(name)
    assert finding.verdict == verdict
    assert words in finding.found
    role = (
        "kubectl -n argo create rolebinding geozarr-submitter-hub-jo --role=geozarr-submitter --serviceaccount=hub:jo"
    )
    assert role in finding.remedy


def test_who_may_make_no_secrets_submits_what_needs_none(there: Cluster) -> None:
    there.rules = [rule | {"resources": [each for each in rule["resources"] if each != "secrets"]} for rule in RULES]
    assert found("right to submit").verdict == "ok"
    assert found("right to signed addresses").verdict == "warning"
    assert "other products need none" in found("right to signed addresses").why


OF_THE_CHART = {"nodeSelector": {"disk": "ssd"}, "serviceAccountName": "mine", "affinity": {"nodeAffinity": {}}}


@pytest.mark.parametrize("release", ["", "geozarr"])
def test_what_a_helm_release_has_set_is_no_other_version(there: Cluster, release: str) -> None:
    [template] = there.objects["workflowtemplates"] = [deepcopy(manifests.template())]
    if release:
        template["metadata"]["annotations"] = {"meta.helm.sh/release-name": release}
    spec = template["spec"]
    spec |= OF_THE_CHART
    spec["ttlStrategy"]["secondsAfterCompletion"] = 60
    spec["arguments"]["parameters"][0]["value"] = "another"
    key = {"configMapKeyRef": {"name": "geozarr-parallelism", "key": "jobs"}}
    spec["templates"][0]["synchronization"]["semaphores"] = [key]
    spec["templates"][0]["container"]["imagePullPolicy"] = "Always"
    finding = found("template")
    if release:
        assert (finding.verdict, finding.remedy) == ("ok", "")
        assert "Helm release geozarr" in finding.found
    else:
        assert (finding.verdict, finding.remedy) == ("warning", "make template")
    spec["templates"][0]["container"]["args"][0] = "--of-another-version"
    finding = found("template")
    assert finding.verdict == "warning"
    helm = "helm upgrade geozarr charts/geozarr --namespace argo --reuse-values"
    assert finding.remedy == (helm if release else "make template")


def test_rights_for_named_objects_only_do_not_count(there: Cluster) -> None:
    there.rules = [RULES[0] | {"resourceNames": ["mine"]}, *RULES[1:]]
    assert found("right to submit").verdict == "problem"


def test_rights_that_no_role_gives_are_asked_for(there: Cluster) -> None:
    there.rules = RULES[:3]
    there.allowed.add(("list", "events"))
    assert found("right to watch").verdict == "ok"


def test_remedies_name_a_context_that_is_set(there: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOZARR_KUBE_CONTEXT", "other")
    there.objects["namespaces"].clear()
    assert found("namespace").remedy.startswith("kubectl --context other create namespace argo && ")


def test_checks_are_made_side_by_side(there: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    look, together = there._look, Barrier(3)

    def waits(kind: Kind) -> None:
        if kind.plural in ("namespaces", "deployments", "persistentvolumeclaims"):
            together.wait(timeout=10)  # breaks where one comes after the other
        look(kind)

    monkeypatch.setattr(there, "_look", waits)
    assert doctor(backend="argo").ok


def test_a_product_of_this_machine_is_none_of_the_clusters(there: Cluster) -> None:
    finding = found("product's place", doctor("/data/s2.zarr", backend="argo"))
    assert finding.verdict == "problem"
    assert "pvc://geozarr-pvc/" in finding.remedy


def test_an_output_that_pods_cannot_write(there: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    from geozarr_nb.backends.argo.workflow import output_address

    class Backend:
        def locate(self, output: str) -> str:
            return output_address(output, "geozarr-pvc")

    monkeypatch.setattr(cluster, "open_backend", lambda name, settings: Backend())
    assert found("output", doctor(output="a.zarr", backend="argo")).found == "pvc://geozarr-pvc/a.zarr"
    assert found("output", doctor(output="/home/a.zarr", backend="argo")).verdict == "problem"

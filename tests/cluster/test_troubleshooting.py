"""Every entry of the troubleshooting page: caused on the cluster, told in the page's words, cured by its commands."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

import geozarr_nb as gz
from geozarr_nb.cluster.client import Api, Object
from geozarr_nb.cluster.kinds import DEPLOYMENTS, Kind
from geozarr_nb.doctor import Finding
from geozarr_nb.errors import ClusterDenied, ClusterObjectMissing, ConversionFailed, GeozarrError
from geozarr_nb.jobs.job import Job
from tests.cluster.support import ClusterPlace, Namespace, fresh_namespace, kubectl
from tests.contract.support import GROUP, until
from tests.places import place_on_cluster

pytestmark = pytest.mark.cluster
ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "troubleshooting.md"
CONTROLLER = ("-n", "argo", "deployment", "workflow-controller")


class Entry:
    """One entry of the page.

    Attributes
    ----------
    says
        What a person sees, with whatever stands in angle brackets there replaced by anything.
    commands
        What cures it.
    """

    def __init__(self, title: str) -> None:
        found = re.search(
            rf"^### {re.escape(title)}\n(.*?)(?=^##|\Z)", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL
        )
        assert found, f"the page has no entry {title!r}"
        seen, cure = (re.search(rf"```{kind}\n(.*?)```", found[1], flags=re.DOTALL) for kind in ("text", "sh"))
        assert seen is not None
        assert cure is not None
        words = " ".join(seen[1].split())
        self.says = "".join(".+" if part.startswith("<") else re.escape(part) for part in re.split(r"(<[^>]*>)", words))
        self.commands = cure[1]

    def cure(self, namespace: str, **environ: str) -> str:
        """Type the page's commands, and return what they print."""
        settings = {"NAMESPACE": namespace, "GEOZARR_NAMESPACE": namespace, "GEOZARR_BACKEND": "argo", **environ}
        path = f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-eu", "-c", self.commands],
            cwd=ROOT,
            env={**os.environ, "PATH": path, **settings},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def own() -> Iterator[Namespace]:
    """A namespace to spoil."""
    with fresh_namespace() as made:
        yield made


@pytest.fixture
def place(
    request: pytest.FixtureRequest, own: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ClusterPlace]:
    with place_on_cluster(request, tmp_path, own, monkeypatch) as made:
        yield made


def finding(name: str) -> Finding:
    return next(each for each in gz.doctor(backend="argo").findings if each.name == name)


def told(entry: Entry, text: str) -> None:
    assert re.search(entry.says, " ".join(text.split())), f"{entry.says}\nis not what is said:\n{text}"


def wait_for_reason(entry: Entry, job: Job) -> None:
    """Wait until a job's reason is what the page says."""
    until(lambda: re.search(entry.says, job.reason) is not None, seconds=90)


def begins(job: Job) -> None:
    """See that a job goes on."""
    until(lambda: job.status in ("Running", "Succeeded"), seconds=90)


def succeeds(job: Job) -> None:
    """See that a job gets its result, in another attempt."""
    job.wait(timeout=180)
    job.raise_for_status()


def failure_of(job: Job) -> str:
    """Wait until a job has failed, and return what is said of it; a node looks at its disk once a minute or so."""
    job.wait(timeout=270)
    with pytest.raises(ConversionFailed) as caught:
        job.raise_for_status()
    return str(caught.value)


def test_every_entry_is_caused_here() -> None:
    titles = set(re.findall(r"^### (.*)$", PAGE.read_text(), flags=re.MULTILINE))
    caused = set(re.findall(r'Entry\("([^"]+)"\)', Path(__file__).read_text()))
    assert titles == caused


def test_no_cluster_answers(own: Namespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What starts it is played: it writes a kubeconfig of the cluster that there is."""
    entry = Entry("No cluster answers")
    config = json.loads(kubectl("config", "view", "--raw", "--minify", "--flatten", "-o", "json"))
    good, used = tmp_path / "good.json", tmp_path / "config.json"
    good.write_text(json.dumps(config))
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:9"
    used.write_text(json.dumps(config))
    monkeypatch.setenv("KUBECONFIG", str(used))
    told(entry, finding("cluster").found)
    play(tmp_path, "k3d", f"cp {good} {used}")
    entry.cure(own.name, PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("KUBECONFIG", str(good))  # a running process keeps what it has read
    assert finding("cluster").verdict == "ok"
    assert (tmp_path / "calls").read_text() == "k3d cluster start geozarr\n"


def play(folder: Path, tool: str, script: str) -> None:
    """Put a tool there that writes down how it was called."""
    path = folder / tool
    path.write_text(f'#!/bin/sh\necho "{tool} $*" >>{folder}/calls\n{script}\n')
    path.chmod(0o755)


@contextmanager
def seeing_only(namespace: str) -> Iterator[None]:
    """See the deployments of one namespace alone: the cluster's own controller serves others meanwhile."""
    listed = Api.list

    def some(api: Api, kind: Kind, **options: Any) -> tuple[list[Object], str]:
        items, version = listed(api, kind, **options)
        if kind == DEPLOYMENTS:
            items = [item for item in items if item["metadata"]["namespace"] == namespace]
        return items, version

    with pytest.MonkeyPatch.context() as changed:
        changed.setattr(Api, "list", some)
        yield


def controller_manifest() -> dict[str, Any]:
    """Return the cluster's controller as a release's manifest has it."""
    found = json.loads(kubectl("get", *CONTROLLER, "-o", "json"))
    found["spec"].pop("replicas")
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": CONTROLLER[-1]}, "spec": found["spec"]}


@pytest.mark.alone
def test_no_controller_is_installed(place: ClusterPlace, tmp_path: Path) -> None:
    entry = Entry("No controller is installed")
    with seeing_only(place.namespace.name):
        told(entry, finding("controller").found)
    manifest = tmp_path / "install.yaml"
    manifest.write_text(yaml.safe_dump(controller_manifest()))
    said = entry.cure(place.namespace.name, ARGO_MANIFEST=str(manifest))
    assert "is ready in namespace argo" in said
    assert finding("controller").verdict == "ok"


@pytest.mark.alone
def test_no_controller_watches_this_namespace(own: Namespace, place: ClusterPlace) -> None:
    """The controller is one of the test's own, without a pod: a second one would run everybody's jobs again."""
    entry = Entry("No controller watches this namespace")
    kubectl("create", "namespace", f"{own.name}-argo")
    try:
        narrow = controller_manifest()
        narrow["spec"]["replicas"] = 0
        narrow["spec"]["template"]["spec"]["containers"][0]["args"] = ["--namespaced"]
        other = Namespace(f"{own.name}-argo")
        other.apply(narrow)
        with seeing_only(other.name):
            told(entry, finding("controller").found)
            assert f"-n {other.name} patch deployment workflow-controller" in finding("controller").remedy
            entry.cure(own.name, ARGO_NAMESPACE=other.name)
            assert f"{other.name}/workflow-controller (watching every namespace)" in finding("controller").found
    finally:
        kubectl("delete", "namespace", f"{own.name}-argo", "--wait=false")


@pytest.mark.alone
def test_the_controller_is_stopped(place: ClusterPlace) -> None:
    entry = Entry("The controller is stopped")
    try:
        kubectl("scale", *CONTROLLER, "--replicas=0")
        told(entry, finding("controller").found)
        job = place.submit("a")
        wait_for_reason(entry, job)
    finally:
        entry.cure(place.namespace.name, ARGO_NAMESPACE="argo")
    until(lambda: finding("controller").verdict == "ok", seconds=60)
    begins(job)


def test_the_template_is_missing(place: ClusterPlace) -> None:
    entry = Entry("The template is missing")
    place.namespace.kubectl("delete", "workflowtemplate", "geozarr-convert")
    told(entry, finding("template").found)
    with pytest.raises(ClusterObjectMissing) as caught:
        place.submit("a")
    told(entry, str(caught.value))
    entry.cure(place.namespace.name)
    assert finding("template").verdict == "ok"
    begins(place.submit("a"))


def test_the_template_is_of_another_version(place: ClusterPlace) -> None:
    entry = Entry("The template is of another version")
    remove = [{"op": "remove", "path": "/spec/arguments/parameters/1"}]
    place.namespace.kubectl("patch", "workflowtemplate", "geozarr-convert", "--type=json", "-p", json.dumps(remove))
    told(entry, finding("template").found)
    entry.cure(place.namespace.name)
    assert finding("template").verdict == "ok"


def test_the_pod_may_not_report(place: ClusterPlace) -> None:
    entry = Entry("The pod may not report to Argo")
    place.namespace.kubectl("delete", "rolebinding", "geozarr-executor")
    told(entry, finding("executor").found)
    entry.cure(place.namespace.name)
    assert finding("executor").verdict == "ok"


def drop_claim(own: Namespace) -> None:
    """Delete the claim; it stays as long as a pod that shows its files does."""
    own.kubectl("delete", "pods", "-l", "app.kubernetes.io/name=geozarr-reader", "--grace-period=1")
    own.kubectl("delete", "pvc", "geozarr-pvc", "--wait=true")


def test_the_claim_is_missing(own: Namespace, place: ClusterPlace) -> None:
    entry = Entry("The claim is missing")
    drop_claim(own)
    told(entry, finding("claim").found)
    with pytest.raises(ClusterObjectMissing) as caught:
        place.submit("a")
    told(entry, str(caught.value))
    entry.cure(own.name)
    until(lambda: finding("claim").verdict == "ok", seconds=30)
    begins(place.submit("a"))


def test_the_claim_has_no_volume(own: Namespace, place: ClusterPlace) -> None:
    entry = Entry("The claim has no volume")
    drop_claim(own)
    claim = yaml.safe_load((ROOT / "workflows" / "pvc.yaml").read_text())
    claim["spec"]["storageClassName"] = "nobody-has-it"
    own.apply(claim)
    told(entry, finding("claim").found)
    job = place.submit("a")
    wait_for_reason(entry, job)
    entry.cure(own.name)
    until(lambda: finding("claim").verdict == "ok", seconds=30)
    begins(job)


def test_the_image_is_not_on_the_node(place: ClusterPlace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What builds and loads is another's to test: here is what is said, and that the page's command does both."""
    entry = Entry("The image is not on the node")
    monkeypatch.setenv("GEOZARR_IMAGE", "eopf-geozarr:nobody-has-it")
    told(entry, finding("image").found)
    with pytest.raises(GeozarrError) as caught:
        place.submit("a")
    told(entry, str(caught.value))
    assert entry.commands.strip() in finding("image").remedy
    play(tmp_path, "docker", ":")
    play(tmp_path, "k3d", "echo geozarr")
    entry.cure(place.namespace.name, PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}", IMAGE="eopf-geozarr:new")
    said = (tmp_path / "calls").read_text()
    assert re.search(r"docker build .*eopf-geozarr:new", said)
    assert re.search(r"k3d image import .*eopf-geozarr:new", said)


def test_somebody_without_rights(
    own: Namespace, place: ClusterPlace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    entry = Entry("You may not")
    own.kubectl("create", "serviceaccount", "jo")
    with acting_as(own, "jo", tmp_path, monkeypatch):
        told(entry, finding("right to submit").found)
        assert "--role=geozarr-submitter" in finding("right to submit").remedy
        with pytest.raises(ClusterDenied) as caught:
            place.submit("a")
        told(entry, str(caught.value))
    entry.cure(own.name, ACCOUNT="jo")
    with acting_as(own, "jo", tmp_path, monkeypatch):
        rights = [each for each in gz.doctor(backend="argo").findings if each.name.startswith("right to")]
        assert [each.verdict for each in rights] == ["ok"] * 5
        begins(place.submit("a"))


@contextmanager
def acting_as(own: Namespace, account: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Be a service account for a while."""
    config = json.loads(kubectl("config", "view", "--raw", "--minify", "--flatten", "-o", "json"))
    config["users"][0]["user"] = {"token": own.kubectl("create", "token", account).strip()}
    path = folder / f"{account}-{time.monotonic_ns()}.json"
    path.write_text(json.dumps(config))
    with monkeypatch.context() as changed:
        changed.setenv("KUBECONFIG", str(path))
        yield


def test_no_node_is_large_enough(place: ClusterPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = Entry("No node is large enough")
    monkeypatch.setenv("GEOZARR_MEMORY", "9000Gi")
    job = place.submit("a")
    wait_for_reason(entry, job)
    assert "it asks for 9000Gi of memory" in job.reason
    entry.cure(place.namespace.name, JOB=job.name)
    begins(job)
    assert job.state.attempt == 2


@pytest.mark.alone
def test_a_disk_that_is_nearly_full(own: Namespace, place: ClusterPlace) -> None:
    """A node says so while a pod that ended lies about: the disk itself is everybody's, and stays as it is."""
    entry = Entry("A node's disk is nearly full")
    own.apply(ended_pod())
    own.kubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/ended", "--timeout=60s", seconds=70)
    with disk_pressure(while_there=lambda: bool(own.objects("pods", "--field-selector=metadata.name=ended"))):
        until(lambda: re.search(entry.says, finding("nodes").found) is not None, seconds=30)
        job = place.submit("a")
        wait_for_reason(entry, job)
        entry.cure(own.name)
        until(lambda: finding("nodes").verdict == "ok", seconds=60)
        begins(job)


def ended_pod() -> dict[str, Any]:
    """Return a pod like those that a finished job leaves."""
    image = kubectl("get", *CONTROLLER, "-o", "jsonpath={.spec.template.spec.containers[0].image}")
    container = {"name": "main", "image": image, "args": ["version"]}
    labels = {"workflows.argoproj.io/completed": "true"}
    metadata = {"name": "ended", "labels": labels}
    spec = {"restartPolicy": "Never", "containers": [container]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


@contextmanager
def disk_pressure(while_there: Callable[[], bool]) -> Iterator[None]:
    """Say of the first node that its disk is nearly full, again each time that its kubelet takes it back."""
    node = kubectl("get", "nodes", "-o", "jsonpath={.items[0].metadata.name}")
    over = threading.Event()

    def said(status: str) -> None:
        word = "has" if status == "True" else "has no"  # in the kubelet's own words, which it leaves as they are
        reason = "KubeletHasDiskPressure" if status == "True" else "KubeletHasNoDiskPressure"
        message = f"kubelet {word} disk pressure"
        condition = {"type": "DiskPressure", "status": status, "reason": reason, "message": message}
        change = json.dumps({"status": {"conditions": [condition]}})
        kubectl("patch", "node", node, "--subresource=status", "--type=strategic", "-p", change)

    def keep_saying() -> None:
        while not over.wait(0.3) and while_there():
            said("True")
        said("False")

    thread = threading.Thread(target=keep_saying)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_another_job_writes_the_same_output(own: Namespace, place: ClusterPlace) -> None:
    entry = Entry("Another job writes the same output")
    place.server.hold(f"{place.path_of_sample}{GROUP}/b")
    first = place.submit("a")
    until(lambda: first.status == "Running", seconds=60)
    given = {"stac_url": place.sample, "output_zarr": place.path("a"), "groups": GROUP, "if_exists": "overwrite"}
    parameters = [{"name": name, "value": value} for name, value in given.items()]
    spec = {"workflowTemplateRef": {"name": "geozarr-convert"}, "arguments": {"parameters": parameters}}
    own.apply({"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "metadata": {"name": "second"}, "spec": spec})
    until(lambda: "second" in [job.name for job in gz.list_jobs().jobs], seconds=30)
    second = gz.get_job("second")
    wait_for_reason(entry, second)
    assert first.name in second.reason
    entry.cure(own.name, JOB=first.name)
    begins(second)


def test_an_image_that_is_another(place: ClusterPlace) -> None:
    nodes = json.loads(kubectl("get", "nodes", "-o", "json"))["items"]
    names = [name for node in nodes for image in node["status"]["images"] for name in image["names"] or ()]
    executor = next(name for name in names if "argoexec" in name and "@" not in name)
    job = place.submit("a", image=executor)
    said = failure_of(job)
    assert f"image {executor} has no geozarr-runner" in said
    assert "make build" in said
    assert job.state.failure is not None
    assert job.state.failure.code == "image-unusable"


def test_out_of_memory(place: ClusterPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = Entry("Out of memory")
    with monkeypatch.context() as changed:
        changed.setenv("GEOZARR_MEMORY", "120Mi")  # the runner outgrows it, and not what Argo puts around it
        job = place.submit("a")
    told(entry, failure_of(job))
    entry.cure(place.namespace.name, JOB=job.name)
    succeeds(gz.get_job(job.name))


@pytest.mark.nightly
def test_evicted(own: Namespace, place: ClusterPlace) -> None:
    """The node ends it for what it has in its scratch folder, as it would for a disk that is full."""
    entry = Entry("Evicted")
    change_template(own, scratch={"sizeLimit": "1Ki"}, tries=0)
    place.server.hold(f"{place.path_of_sample}{GROUP}/b")
    job = place.submit("a")
    told(entry, failure_of(job))
    change_template(own, scratch={}, tries=2)
    place.server.release()
    entry.cure(own.name, JOB=job.name)
    succeeds(gz.get_job(job.name))


def change_template(own: Namespace, scratch: dict[str, str], tries: int) -> None:
    """Set how large the scratch folder may be, and how often Argo runs a job again by itself."""
    change = [
        {"op": "add", "path": "/spec/volumes/1/emptyDir", "value": scratch},
        {"op": "add", "path": "/spec/templates/0/retryStrategy/limit", "value": tries},
    ]
    own.kubectl("patch", "workflowtemplate", "geozarr-convert", "--type=json", "-p", json.dumps(change))


def test_the_time_limit(place: ClusterPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = Entry("The time limit")
    place.server.hold(f"{place.path_of_sample}{GROUP}/b")
    with monkeypatch.context() as changed:
        changed.setenv("GEOZARR_TIME_LIMIT", "8")
        job = place.submit("a")
    told(entry, failure_of(job))
    place.server.release()
    entry.cure(place.namespace.name, JOB=job.name)
    succeeds(gz.get_job(job.name))


def test_the_converter_failed(own: Namespace, place: ClusterPlace) -> None:
    entry = Entry("The converter failed")
    own.kubectl("create", "secret", "generic", "geozarr-credentials", "--from-literal=DASK_ARRAY__CHUNK_SIZE=nonsense")
    job = place.submit("a")
    said = failure_of(job)
    told(entry, said)
    assert "Could not interpret 'nonsense' as a byte unit" in said, "its own last words"
    own.kubectl("delete", "secret", "geozarr-credentials")
    assert "Could not interpret" in entry.cure(own.name, JOB=job.name)
    succeeds(gz.get_job(job.name))

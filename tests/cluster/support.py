"""A cluster as tests see it: through kubectl, so that what the SDK says of it is compared with what another says."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import yaml
from tenacity import retry, retry_if_exception, stop_after_attempt

from benchmarks.server import ProductServer
from geozarr_nb.jobs.job import Job
from tests.contract.support import GROUP, Place, files_with

WORKFLOWS = Path(__file__).parents[2] / "workflows"
IMAGE = os.environ.get("GEOZARR_IMAGE", "eopf-geozarr:dev")
CLAIM = "geozarr-pvc"
MOUNT = "/data"
# A test's machine is small, and so is its product: what the template asks for by default would let one job run at once.
MODEST = {"cpu": "0.1", "memory": "256Mi"}
FINISHED = ("Succeeded", "Failed")
ENDED = (*FINISHED, "Error", "Omitted", "Skipped")  # of a workflow, and of its nodes
_KILL_RUNNER = """
for process in /proc/[0-9]*; do
    command=$(tr '\\0' ' ' <"$process/cmdline")
    case $command in *argoexec*|*/bash*) ;; *geozarr-runner*) kill -KILL "${process#/proc/}"; exit ;; esac
done
exit 1
"""


def kubectl(*arguments: str, given: str | None = None, seconds: float = 60) -> str:
    """Return what a kubectl command prints.

    Raises
    ------
    subprocess.CalledProcessError
        With what kubectl said as a note.
    """
    done = subprocess.run(["kubectl", *arguments], input=given, capture_output=True, text=True, timeout=seconds)
    try:
        done.check_returncode()
    except subprocess.CalledProcessError as error:
        error.add_note(done.stderr)
        raise
    return done.stdout


@cache
def missing_cluster() -> str:
    """Return why there is no cluster to test on; empty where there is one."""
    # The kubeconfig of a home folder may lead to a cluster that people work on.
    if not os.environ.get("KUBECONFIG"):
        return "no cluster: KUBECONFIG is not set"
    if shutil.which("kubectl") is None:
        return "no cluster: kubectl is not on PATH"
    try:
        kubectl("get", "customresourcedefinition", "workflows.argoproj.io", "--request-timeout=5s")
    except (subprocess.SubprocessError, OSError) as error:
        return f"no cluster with Argo Workflows answers: {' '.join(getattr(error, '__notes__', [str(error)])).strip()}"
    return ""


def node_address() -> str:
    """Return an address of this machine that pods reach."""
    if given := os.environ.get("GEOZARR_NODE_ADDRESS"):
        return given
    # Nothing is sent: connecting a datagram socket only chooses the route.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("198.51.100.1", 9))
        return str(probe.getsockname()[0])


class Volume:
    """The files of a claim, where they are: in a folder of this machine, or behind a pod."""

    def names(self, folder: str) -> list[str]:
        """Return the names in a folder; none where there is no such folder."""
        raise NotImplementedError

    def text(self, path: str) -> str:
        """Return a file's text; empty where there is no such file."""
        raise NotImplementedError

    def stamp(self, path: str) -> int:
        """Return when something was last written, in nanoseconds."""
        raise NotImplementedError

    def holding(self, text: str) -> list[str]:
        """Return the files that hold a text."""
        raise NotImplementedError


@dataclass(frozen=True)
class FolderVolume(Volume):
    """A volume that is a folder of this machine."""

    root: Path

    def names(self, folder: str) -> list[str]:
        path = self.root / folder
        return sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []

    def text(self, path: str) -> str:
        file = self.root / path
        return file.read_text() if file.is_file() else ""

    def stamp(self, path: str) -> int:
        return (self.root / path).stat().st_mtime_ns

    def holding(self, text: str) -> list[str]:
        return files_with(text, self.root)


@dataclass(frozen=True)
class PodVolume(Volume):
    """A volume of another machine, seen by a pod that has it mounted."""

    namespace: str
    pod: str

    def names(self, folder: str) -> list[str]:
        return sorted(self._shell('cd "$1" 2>/dev/null && ls -A || true', folder).splitlines())

    def text(self, path: str) -> str:
        return self._shell('[ ! -f "$1" ] || cat "$1"', path)

    def stamp(self, path: str) -> int:
        seconds, _, fraction = self._shell('stat -c %.9Y "$1"', path).strip().partition(".")
        return int(seconds + fraction)

    def holding(self, text: str) -> list[str]:
        return self._shell('grep -rlF -- "$1" . || true', text).splitlines()

    def _shell(self, script: str, argument: str) -> str:
        within = f"cd {MOUNT} && {script}"
        return kubectl("exec", "-n", self.namespace, self.pod, "--", "/bin/bash", "-c", within, "bash", argument)


@dataclass(frozen=True)
class Namespace:
    """A namespace with the template, the roles and the claim of the repository."""

    name: str

    def kubectl(self, *arguments: str, given: str | None = None, seconds: float = 60) -> str:
        """Return what a kubectl command in this namespace prints."""
        return kubectl("-n", self.name, *arguments, given=given, seconds=seconds)

    def objects(self, kind: str, *arguments: str) -> list[dict[str, Any]]:
        """Return all objects of a kind."""
        return list(json.loads(self.kubectl("get", kind, *arguments, "-o", "json"))["items"])

    def pods(self, about: str = "", *, every: bool = False) -> list[dict[str, Any]]:
        """Return the pods of workflows that have a text in their specification: those that have not ended, or all."""
        pods = self.objects("pods", "-l", "workflows.argoproj.io/workflow")
        return [
            pod
            for pod in pods
            if about in json.dumps(pod["spec"]) and (every or pod["status"].get("phase") not in FINISHED)
        ]

    def workflows(self, about: str = "") -> list[dict[str, Any]]:
        """Return the workflows that have a text in their specification."""
        return [flow for flow in self.objects("workflows") if about in json.dumps(flow["spec"])]

    def apply(self, *documents: dict[str, Any]) -> None:
        """Create or change objects."""
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", given=yaml.safe_dump_all(documents))

    def clear(self) -> None:
        """Delete every workflow; returns when none of their pods is left."""
        self.kubectl("delete", "workflows", "--all", "--wait=true")
        self.kubectl("delete", "pods", "-l", "workflows.argoproj.io/workflow", "--wait=true", "--grace-period=1")

    @property
    def settings(self) -> dict[str, str]:
        """The environment variables that lead to it."""
        return {"GEOZARR_BACKEND": "argo", "GEOZARR_NAMESPACE": self.name, "GEOZARR_IMAGE": IMAGE}


@cache
def volume_of(namespace: Namespace, claim: str) -> Volume:
    """Return the files of a claim."""
    if (folder := _folder_behind(namespace, claim)) is not None:
        return FolderVolume(folder)
    pod = f"files-of-{claim}"
    container = {
        "name": "main",
        "image": IMAGE,
        "command": ["/bin/bash", "-c", "trap exit TERM; sleep infinity & wait"],
        "volumeMounts": [{"name": "data", "mountPath": MOUNT}],
    }
    volumes = [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]
    spec = {"containers": [container], "volumes": volumes, "automountServiceAccountToken": False}
    namespace.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod}, "spec": spec})
    namespace.kubectl("wait", "--for=condition=Ready", f"pod/{pod}", "--timeout=60s", seconds=70)
    # Some claims are only bound when a pod wants them.
    folder = _folder_behind(namespace, claim)
    return PodVolume(namespace.name, pod) if folder is None else FolderVolume(folder)


def _folder_behind(namespace: Namespace, claim: str) -> Path | None:
    found = json.loads(namespace.kubectl("get", "pvc", claim, "-o", "json"))
    name = found["spec"].get("volumeName")
    return folder_of(json.loads(kubectl("get", "pv", name, "-o", "json"))) if name else None


def folder_of(volume: dict[str, Any]) -> Path | None:
    """Return the folder of a persistent volume, where it is one of this machine."""
    source = volume["spec"].get("hostPath") or volume["spec"].get("local") or {}
    folder = Path(source["path"]) if "path" in source else None
    return folder if folder is not None and folder.is_dir() else None


def manifests(namespace: str) -> Iterator[dict[str, Any]]:
    """Yield what the repository has for a namespace, with resources for a small machine."""
    for file in sorted(WORKFLOWS.glob("*.yaml")):
        for document in yaml.safe_load_all(file.read_text()):
            # What belongs to the whole cluster is not a test's to change.
            if document is None or document["kind"].startswith("Cluster"):
                continue
            document["metadata"]["namespace"] = namespace
            for subject in document.get("subjects", []):
                if subject.get("kind") == "ServiceAccount":
                    subject["namespace"] = namespace
            if document["kind"] == "WorkflowTemplate":
                for parameter in document["spec"]["arguments"]["parameters"]:
                    parameter["value"] = MODEST.get(parameter["name"], parameter.get("value"))
            yield document


@contextmanager
def fresh_namespace(*, bare: bool = False) -> Iterator[Namespace]:
    """Make a namespace that is ready for jobs, or has nothing in it, and delete everything of it at the end."""
    namespace = Namespace(f"geozarr-test-{uuid4().hex[:8]}")
    kubectl("create", "namespace", namespace.name)
    try:
        # Pods are refused until their service account is there, which takes a moment.
        namespace.kubectl("wait", "--for=create", "serviceaccount/default", "--timeout=30s")
        if not bare:
            namespace.apply(*manifests(namespace.name))
        yield namespace
    finally:
        # From then on nothing is started there; it is gone some time later, and nobody waits for that.
        kubectl("delete", "namespace", namespace.name, "--wait=false")
        namespace.kubectl("delete", "pods", "--all", "--grace-period=1", "--ignore-not-found")
        namespace.kubectl("delete", "pvc", "--all", "--ignore-not-found")
        free_volumes(namespace.name)


def free_volumes(namespace: str) -> None:
    """Empty the volumes that were kept when a namespace's claims went, and let others have them."""
    for volume in json.loads(kubectl("get", "pv", "-o", "json"))["items"]:
        claim = volume["spec"].get("claimRef", {})
        if claim.get("namespace") != namespace or volume["spec"]["persistentVolumeReclaimPolicy"] != "Retain":
            continue
        if (folder := folder_of(volume)) is not None:
            for entry in folder.iterdir():
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        remove = '[{"op": "remove", "path": "/spec/claimRef"}]'
        kubectl("patch", "pv", volume["metadata"]["name"], "--type=json", "-p", remove)


@dataclass(frozen=True)
class ClusterPlace(Place):
    """A folder of a claim, and the pods of a namespace."""

    namespace: Namespace = field(kw_only=True)
    folder: str = field(kw_only=True)
    server: ProductServer = field(kw_only=True)
    served: Path = field(kw_only=True)
    claim: str = field(default=CLAIM, kw_only=True)

    @property
    def volume(self) -> Volume:
        """The files of the claim."""
        return volume_of(self.namespace, self.claim)

    @property
    def path_of_sample(self) -> str:
        """The sample's path on the server."""
        return self.sample.removeprefix(self.server.url)

    def product(self, path: str | Path) -> str:
        whole = self.scratch / path
        return f"{self.server.url}/{whole.relative_to(self.served)}" if whole.is_relative_to(self.served) else str(path)

    def path(self, name: str) -> str:
        """Return an output's path on the claim."""
        return f"{self.folder}/{name}.zarr"

    def output(self, name: str) -> str:
        return f"pvc://{self.claim}/{self.path(name)}"

    def files(self) -> list[str]:
        return self.volume.names(self.folder)

    def stamp(self, name: str) -> int:
        return self.volume.stamp(self.path(name))

    def running(self, name: str) -> list[str]:
        pods = [f"pod {pod['metadata']['name']}" for pod in self.namespace.pods(self.path(name))]
        flows = self.namespace.workflows(self.path(name))
        return pods + [f"workflow {flow['metadata']['name']}" for flow in flows if not _has_ended(flow)]

    def family(self, name: str) -> Callable[[], list[str]]:
        known = {pod["metadata"]["uid"] for pod in self.namespace.pods(self.path(name))}
        return lambda: [pod["metadata"]["name"] for pod in self.namespace.pods() if pod["metadata"]["uid"] in known]

    def converting(self, name: str) -> bool:
        return any(part.startswith("output") for part in self.volume.names(self._partial(name)))

    def hold(self, group: str = GROUP) -> None:
        self.server.hold(f"{self.path_of_sample}{group}/")

    def release(self) -> None:
        self.server.release()

    @contextmanager
    def held_product(self) -> Iterator[str]:
        self.hold()
        yield self.sample
        self.release()

    def kill(self, name: str) -> None:
        for pod in self.namespace.pods(self.path(name)):
            command = ["/bin/bash", "-c", _KILL_RUNNER]
            self.namespace.kubectl("exec", pod["metadata"]["name"], "-c", "main", "--", *command)

    def forget(self, job: Job) -> None:
        names = [flow["metadata"]["name"] for flow in self.namespace.workflows(job.output.rpartition("/")[2])]
        self.namespace.kubectl("delete", "workflows", "--wait=true", *names)

    def traces(self, text: str) -> list[str]:
        return files_with(text, self.scratch) + self.volume.holding(text) + said_of(self.namespace, text)

    def tries(self, name: str) -> list[dict[str, Any]]:
        """Return what Argo remembers of the pods that it made for an output, also of those that are gone."""
        nodes = [node for flow in self.namespace.workflows(self.path(name)) for node in nodes_of(flow)]
        return [node for node in nodes if node["type"] == "Pod"]

    def runs(self, name: str) -> list[dict[str, Any]]:
        """Return the results that the runs of an output wrote beside it: one, where nothing was done twice."""
        lines = self.volume.text(f"{self.path(name)}.log.jsonl").splitlines()
        return [event for line in lines if (event := json.loads(line))["type"] == "result"]

    def _partial(self, name: str) -> str:
        return f"{self.folder}/.{name}.zarr.partial"


def nodes_of(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the nodes of a workflow's status."""
    return list(workflow.get("status", {}).get("nodes", {}).values())


def _has_ended(workflow: dict[str, Any]) -> bool:
    phases = [workflow.get("status", {}).get("phase")]
    if nodes := nodes_of(workflow):
        # Where a pod was taken away by force, Argo leaves a workflow open for ten minutes after its last node's end.
        phases = [node.get("phase") for node in nodes]
    return all(phase in ENDED for phase in phases)


# Secrets are where a secret belongs.
SPOKEN_KINDS = (
    "workflows",
    "workflowtemplates",
    "workflowtaskresults",
    "workflowtasksets",
    "pods",
    "events",
    "configmaps",
    "serviceaccounts",
    "persistentvolumeclaims",
)


def said_of(namespace: Namespace, text: str) -> list[str]:
    """Return where the cluster shows a text to whoever may look into a namespace, but not into its Secrets."""
    kinds = ",".join(SPOKEN_KINDS)
    said = {
        "objects": namespace.kubectl("get", kinds, "-o", "yaml", "--show-managed-fields"),
        "describe": _description(namespace, kinds),
    }
    for pod in namespace.pods(every=True):
        name = pod["metadata"]["name"]
        try:
            said[f"log of {name}"] = namespace.kubectl("logs", name, "--all-containers", "--ignore-errors")
        except subprocess.CalledProcessError:
            # It ended meanwhile, or has not begun: then it has said nothing.
            continue
    return [where for where, words in said.items() if text in words]


def _is_gone(error: BaseException) -> bool:
    return isinstance(error, subprocess.CalledProcessError) and "(NotFound)" in error.stderr


@retry(retry=retry_if_exception(_is_gone), stop=stop_after_attempt(10), reraise=True)
def _description(namespace: Namespace, kinds: str) -> str:
    """Return what kubectl describes; it fails where an object goes between its listing and its reading."""
    return namespace.kubectl("describe", kinds)


@dataclass(frozen=True)
class Breaker:
    """Kills components of the cluster and brings them back, by the commands of GEOZARR_CLUSTER_KILL and _UP."""

    kill_command: Sequence[str]
    up_command: Sequence[str]

    @classmethod
    def found(cls) -> Breaker | None:
        """Return the one that the environment names, if it does."""
        commands = [shlex.split(os.environ.get(f"GEOZARR_CLUSTER_{name}", "")) for name in ("KILL", "UP")]
        return cls(*commands) if all(commands) else None

    def kill(self, *components: str) -> None:
        """End components at once."""
        for component in components:
            subprocess.run([*self.kill_command, component], check=True, capture_output=True, text=True)

    def up(self) -> None:
        """Start what does not run, and wait until all is ready."""
        subprocess.run(self.up_command, check=True, capture_output=True, text=True, timeout=180)

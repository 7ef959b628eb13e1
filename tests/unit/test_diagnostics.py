"""What the objects of a cluster say, read from objects as an API server sends them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from geozarr_nb.cluster import diagnostics
from geozarr_nb.cluster.cause import MAKE_DEFAULTS, make
from geozarr_nb.cluster.controllers import Controller, controllers, unwatched, watches
from geozarr_nb.cluster.images import full_name, nodes_with, reports_all_images, unusable
from geozarr_nb.cluster.objects import quantity

ROOT = Path(__file__).parents[2]
CPU = "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found."
MEMORY = (
    "0/1 nodes are available: 1 Insufficient memory. preemption: 0/1 nodes are available: 1 Preemption is not helpful."
)
TAINT = "0/1 nodes are available: 1 node(s) had untolerated taint {node.kubernetes.io/disk-pressure: }. preemption: 0/1"
LOST = "0/1 nodes are available: 1 node(s) had untolerated taint {node.kubernetes.io/unreachable: }. preemption: 0/1"


def pod(status: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    main = {
        "name": "main",
        "image": "eopf-geozarr:dev",
        "resources": {"requests": {"cpu": "1", "memory": "64Gi"}, "limits": {"memory": "8Gi"}},
    }
    volumes = [{"name": "data", "persistentVolumeClaim": {"claimName": "geozarr-pvc"}}, {"name": "s", "emptyDir": {}}]
    return {
        "metadata": {"name": "job-1", "namespace": "argo"},
        "spec": {"nodeName": "node0", "containers": [main], "volumes": volumes, **spec},
        "status": {"phase": "Pending", **(status or {})},
    }


def unscheduled(message: str) -> dict[str, Any]:
    refused = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return pod({"conditions": [refused]}, nodeName="")


def waiting(reason: str, message: str = "", image: str = "eopf-geozarr:dev") -> dict[str, Any]:
    state = {"waiting": {"reason": reason, "message": message}}
    found = pod({"containerStatuses": [{"name": "main", "image": image, "state": state}]})
    found["spec"]["containers"][0]["image"] = image
    return found


def node(
    name: str = "node0", *, full: bool = False, ready: str = "True", images: tuple[str, ...] = ()
) -> dict[str, Any]:
    conditions = [
        {"type": "DiskPressure", "status": str(full)},
        {"type": "Ready", "status": ready, "message": "Kubelet stopped posting node status."},
    ]
    return {
        "metadata": {"name": name},
        "spec": {},
        "status": {
            "conditions": conditions,
            "allocatable": {"cpu": "2", "memory": "24581684Ki"},
            "images": [{"names": [image]} for image in images],
        },
    }


def deployment(
    *arguments: str, namespace: str = "argo", replicas: int = 1, ready: int = 1, env: dict[str, str] | None = None
) -> dict[str, Any]:
    container = {
        "name": "workflow-controller",
        "image": "quay.io:443/argoproj/workflow-controller:v3.6.5",
        "command": ["workflow-controller"],
        "args": list(arguments),
        "env": [{"name": name, "value": value} for name, value in (env or {}).items()],
    }
    return {
        "metadata": {"name": "workflow-controller", "namespace": namespace},
        "spec": {"replicas": replicas, "template": {"spec": {"containers": [container]}}},
        "status": {"readyReplicas": ready} if ready else {},
    }


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("2", 2),
        (3, 3),
        ("500m", 0.5),
        ("1.5", 1.5),
        ("24581684Ki", 24581684 * 1024),
        ("8Gi", 8 * 1024**3),
        ("1e3", 1e3),
    ],
)
def test_quantities(text: object, number: float) -> None:
    assert quantity(text) == number


@pytest.mark.parametrize("text", ["", "much", "1 Gi", "3X"])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(ValueError, match="is no quantity"):
        quantity(text)


@pytest.mark.parametrize(
    ("image", "full"),
    [
        ("eopf-geozarr:dev", "docker.io/library/eopf-geozarr:dev"),
        ("eopf-geozarr", "docker.io/library/eopf-geozarr:latest"),
        ("team/image:1", "docker.io/team/image:1"),
        ("ghcr.io/team/image", "ghcr.io/team/image:latest"),
        ("localhost:5000/image:1", "localhost:5000/image:1"),
        ("ghcr.io/image@sha256:12", "ghcr.io/image@sha256:12"),
    ],
)
def test_images_by_the_name_that_nodes_know(image: str, full: str) -> None:
    assert full_name(image) == full
    assert nodes_with(image, [node("a"), node("b", images=(full,))]) == ["b"]


def test_a_node_reports_its_largest_images_only() -> None:
    assert reports_all_images(node(images=("a", "b")))
    assert not reports_all_images(node(images=("a",) * 50))


def test_nodes_under_pressure_and_nodes_that_do_not_answer() -> None:
    tainted = node("c")
    tainted["spec"]["taints"] = [{"key": "node.kubernetes.io/disk-pressure", "effect": "NoSchedule"}]
    assert diagnostics.disk_pressure([node("a"), node("b", full=True), tainted]) == ["b", "c"]
    assert diagnostics.not_ready([node("a"), node("b", ready="Unknown")]) == {
        "b": "Kubelet stopped posting node status"
    }


@pytest.mark.parametrize(
    ("arguments", "env", "watched"),
    [
        ([], {}, ""),
        (["--namespaced"], {}, "argo"),
        (["--namespaced=false"], {}, ""),
        (["--namespaced", "--managed-namespace", "team"], {}, "team"),
        (["--managed-namespace=team", "--namespaced=true"], {}, "team"),
        (["--managed-namespace", "team"], {}, ""),
        (["--loglevel", "debug"], {"ARGO_NAMESPACED": "true"}, "argo"),
        ([], {"ARGO_NAMESPACED": "true", "ARGO_MANAGED_NAMESPACE": "team"}, "team"),
    ],
)
def test_the_namespace_that_a_controller_watches(arguments: list[str], env: dict[str, str], watched: str) -> None:
    other = {"metadata": {"name": "web", "namespace": "argo"}, "spec": {"template": {"spec": {"containers": [{}]}}}}
    (controller,) = controllers([other, deployment(*arguments, env=env)])
    assert controller == Controller("argo", "workflow-controller", "v3.6.5", watched, 1, 1)
    assert watches(controller, "team") == (watched in ("", "team"))


@pytest.mark.parametrize(
    ("deployments", "code", "message", "remedy"),
    [
        ([], "no-controller", "namespace team", "make argo-install"),
        (
            [deployment("--namespaced")],
            "namespace-not-watched",
            "no workflow controller watches namespace team: there is argo/workflow-controller (watching argo)",
            "GEOZARR_NAMESPACE=argo",
        ),
        ([deployment(replicas=0, ready=1)], "controller-stopped", "scaled to 0", "--replicas=1"),
        (
            [deployment(replicas=0, ready=0)],
            "controller-stopped",
            "scaled to 0",
            "scale deployment/workflow-controller",
        ),
        ([deployment(ready=0)], "controller-not-ready", "is not running", "kubectl -n argo describe pods"),
    ],
)
def test_a_namespace_that_nobody_watches(
    deployments: list[dict[str, Any]], code: str, message: str, remedy: str
) -> None:
    cause = unwatched(controllers(deployments), "team")
    assert cause is not None
    assert cause.code == code
    assert message in cause.message
    assert remedy in cause.remedy


def test_a_namespace_that_one_of_several_watches() -> None:
    found = controllers([deployment("--namespaced"), deployment(namespace="team", ready=1)])
    assert unwatched(found, "team") is None


def claim(phase: str, **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "geozarr-pvc", "namespace": "argo"},
        "spec": {"resources": {"requests": {"storage": "100Gi"}}, **spec},
        "status": {"phase": phase},
    }


def test_claims() -> None:
    assert diagnostics.unbound(claim("Bound")) is None
    cause = diagnostics.unbound(claim("Pending", storageClassName="fast"))
    assert cause is not None
    assert cause.message == "claim geozarr-pvc has no volume: nothing provides 100Gi of storage class fast"
    assert cause.remedy == "kubectl -n argo delete pvc geozarr-pvc && make pvc"
    event = {"reason": "ProvisioningFailed", "message": 'storageclass "fast" not found.'}
    cause = diagnostics.unbound(claim("Pending"), [event])
    assert cause is not None
    assert cause.message.endswith('has no volume: storageclass "fast" not found')
    lost = diagnostics.unbound(claim("Lost"))
    assert lost is not None
    assert lost.code == "claim-lost"


def test_a_claim_that_waits_for_its_first_pod_is_in_order() -> None:
    waits = {"reason": "WaitForFirstConsumer", "message": "waiting for first consumer to be created before binding"}
    assert diagnostics.unbound(claim("Pending"), [waits]) is None
    assert diagnostics.unbound(claim("Pending"), (), {"volumeBindingMode": "WaitForFirstConsumer"}) is None
    assert diagnostics.unbound(claim("Lost"), (), {"volumeBindingMode": "WaitForFirstConsumer"}) is not None


@pytest.mark.parametrize("reason", ["ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName"])
def test_a_pod_that_waits_for_its_image(reason: str) -> None:
    cause = diagnostics.waiting_reason(waiting(reason, "Back-off pulling image"))
    assert cause is not None
    assert cause.message == "image eopf-geozarr:dev is not on node node0"
    assert cause.remedy == "make build load-k3d"


def test_an_image_that_comes_from_a_registry() -> None:
    cause = diagnostics.waiting_reason(waiting("ErrImagePull", "denied", image="ghcr.io/team/image:1"))
    assert cause is not None
    assert (
        cause.message == "image ghcr.io/team/image:1 is not on node node0 and could not be pulled from ghcr.io: denied"
    )
    assert cause.remedy == "make load-k3d IMAGE=ghcr.io/team/image:1"


@pytest.mark.parametrize(
    ("message", "code", "words", "remedy"),
    [
        ('0/1 nodes are available: persistentvolumeclaim "data" not found.', "claim-missing", "claim data", "make pvc"),
        (
            "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims. preemption: 0/1 nodes",
            "claim-unbound",
            "claim geozarr-pvc",
            "make pvc",
        ),
        (MEMORY, "unschedulable", "memory", "GEOZARR_MEMORY"),
        (CPU, "unschedulable", "processor", "wait for other jobs"),
        (TAINT, "disk-pressure", "DiskPressure", "make cluster-gc"),
        (LOST, "node-not-ready", "no node is ready", "kubectl describe nodes"),
        ("0/1 nodes are available: 1 Too many pods.", "unschedulable", "Too many pods", "make cluster-gc"),
        ("0/1 nodes are available: 1 node(s) were unschedulable.", "unschedulable", "closed", "kubectl uncordon"),
        ("0/1 nodes are available: 1 node(s) didn't match", "unschedulable", "didn't match", "describe nodes"),
    ],
)
def test_a_pod_that_no_node_takes(message: str, code: str, words: str, remedy: str) -> None:
    cause = diagnostics.waiting_reason(unscheduled(message))
    assert cause is not None
    assert cause.code == code
    assert words in cause.message
    assert "preemption" not in cause.message
    assert remedy in cause.remedy


def test_a_pod_that_is_larger_than_every_node() -> None:
    cause = diagnostics.waiting_reason(unscheduled(MEMORY), nodes=[node()])
    assert cause is not None
    assert cause.message == "no node is large enough: it asks for 64Gi of memory, the largest has 23.4Gi"
    assert cause.lasting
    busy = diagnostics.waiting_reason(unscheduled(CPU), nodes=[node()])
    assert busy is not None
    assert (
        busy.message == "no node has enough processor free: it asks for 1 (0/1 nodes are available: 1 Insufficient cpu)"
    )
    assert not busy.lasting


def test_the_node_under_pressure_is_named() -> None:
    cause = diagnostics.waiting_reason(unscheduled(TAINT), nodes=[node("a"), node("b", full=True)])
    assert cause is not None
    assert cause.message == "the disk of node b is nearly full (DiskPressure): nothing is started there"


def test_a_pod_whose_volume_or_secret_cannot_be_had() -> None:
    event = {"reason": "FailedMount", "message": 'MountVolume.SetUp failed for volume "volume-1": no such path.'}
    assert diagnostics.waiting_reason(pod(), [event]) is None, "asked for a moment too early, as often as not"
    cause = diagnostics.waiting_reason(pod(), [{**event, "count": 2}])
    assert cause is not None
    assert cause.code == "volume-not-mounted"
    cause = diagnostics.waiting_reason(waiting("CreateContainerConfigError", 'secret "a" not found'))
    assert cause is not None
    assert 'secret "a" not found' in cause.message


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("Volume is already used by pod(s) a-1, b-2", "it is used by a-1, b-2"),
        (
            "Volume is already used by 2 pod(s) in different namespaces",
            "it is used by 2 pod(s) in different namespaces",
        ),
        ("Volume is already used by pod(s) a-1 and 1 pod(s) in different namespaces", "used by a-1 and 1 pod(s)"),
        ("Volume is already exclusively attached to one node and can't be attached to another", "has not let it go"),
    ],
)
def test_a_volume_that_another_node_has_is_told_the_first_time(said: str, shown: str) -> None:
    """Kubernetes reports it once for a pod, however long it lasts."""
    event = {"reason": "FailedAttachVolume", "count": 1, "message": f'Multi-Attach error for volume "pvc-1" {said}'}
    cause = diagnostics.waiting_reason(pod(), [event])
    assert cause is not None
    assert (cause.code, cause.lasting) == ("volume-elsewhere", False)
    assert shown in cause.message
    assert "ReadWriteMany" in cause.remedy


def test_a_pod_that_has_started_waits_for_nothing() -> None:
    assert diagnostics.waiting_reason(pod({"phase": "Running"})) is None
    assert diagnostics.waiting_reason(pod()) is None


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (
            "failed to start command: fork/exec /usr/local/bin/geozarr-runner: exec format error",
            "another kind of processor",
        ),
        (
            'failed to find name in PATH: exec: "geozarr-runner": executable file not found in $PATH',
            "no geozarr-runner",
        ),
        (
            "failed to start command: fork/exec /opt/venv/bin/geozarr-runner: no such file or directory",
            "no geozarr-runner",
        ),
    ],
)
def test_an_image_whose_runner_cannot_be_started(said: str, shown: str) -> None:
    """As a real controller says it."""
    cause = unusable("other:dev", f"Error (exit code 64): {said}")
    assert cause is not None
    assert shown in cause.message
    assert "other:dev" in cause.message
    assert cause.lasting
    assert unusable("other:dev", "Error (exit code 1)") is None


def test_a_pod_that_was_killed_for_its_memory() -> None:
    ended = {"terminated": {"reason": "OOMKilled", "exitCode": 137}}
    cause = diagnostics.ending_reason(pod({"phase": "Failed", "containerStatuses": [{"name": "main", "state": ended}]}))
    assert cause is not None
    assert cause.code == "out-of-memory"
    assert cause.message == "it needed more memory than its limit of 8Gi and was killed; about 16Gi would do"
    assert cause.remedy.startswith("GEOZARR_MEMORY=16Gi")


def test_the_memory_that_a_conversion_is_known_to_need() -> None:
    assert "about 31Gi" in diagnostics.out_of_memory(8 * 1024**3, 30.2 * 1024**3).message
    assert "limit of 64Mi" in diagnostics.out_of_memory(64 * 1024**2).message
    assert "what its node has" in diagnostics.out_of_memory(None).message


@pytest.mark.parametrize(
    ("reason", "message", "code", "words"),
    [
        ("Evicted", "The node was low on resource: disk.", "evicted", "node node0 evicted it: The node was low"),
        ("DeadlineExceeded", "Pod was active on the node longer", "deadline", "longer than its time limit of 60 s"),
        ("NodeLost", "", "node-lost", "node node0 was lost"),
    ],
)
def test_a_pod_that_was_ended_from_outside(reason: str, message: str, code: str, words: str) -> None:
    ended = pod({"phase": "Failed", "reason": reason, "message": message}, activeDeadlineSeconds=60)
    cause = diagnostics.ending_reason(ended)
    assert cause is not None
    assert cause.code == code
    assert words in cause.message
    assert cause.remedy


def test_a_program_that_ended_by_itself() -> None:
    ended = {"terminated": {"reason": "Error", "exitCode": 4}}
    assert (
        diagnostics.ending_reason(pod({"phase": "Failed", "containerStatuses": [{"name": "main", "state": ended}]}))
        is None
    )
    assert diagnostics.ending_reason(pod({"phase": "Succeeded"})) is None


@pytest.mark.parametrize("holder", ["argo/first/first-12", "first/first-12"])
def test_a_workflow_that_waits_for_another(holder: str) -> None:
    waits = {"mutex": {"waiting": [{"mutex": "argo/Mutex/out", "holder": holder}]}}
    workflow = {"metadata": {"name": "second"}, "status": {"synchronization": waits}}
    cause = diagnostics.lock_reason(workflow)
    assert cause is not None
    assert cause.message == "it waits for job first, which is writing the same output"
    workflow["metadata"]["name"] = "first"
    assert diagnostics.lock_reason(workflow) is None
    assert diagnostics.lock_reason({"metadata": {"name": "a"}}) is None


def test_who_runs_while_a_job_waits_for_its_turn() -> None:
    holders = ["argo/b/b", "argo/c/c"]
    waits = {"mutex": {}, "semaphore": {"waiting": [{"semaphore": "argo/ConfigMap/x/jobs", "holders": holders}]}}
    cause = diagnostics.lock_reason({"metadata": {"name": "a"}, "status": {"synchronization": waits}})
    assert cause is not None
    assert cause.code == "waits-for-its-turn"
    assert "2 jobs at once" in cause.message
    assert "now b, c" in cause.message
    assert not cause.lasting


def test_long_messages_are_one_short_line() -> None:
    cause = diagnostics.waiting_reason(waiting("CreateContainerError", "a\n  b " + "c" * 1000))
    assert cause is not None
    assert "a b ccc" in cause.message
    assert len(cause.message) < 400


def test_make_leaves_out_what_has_its_default() -> None:
    assert make("template", NAMESPACE="argo") == "make template"
    assert make("load-k3d", IMAGE="a b") == "make load-k3d IMAGE='a b'"


def test_the_defaults_are_the_makefiles() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for name, value in MAKE_DEFAULTS.items():
        assert re.search(rf"^{name} \?= {re.escape(value)}$", makefile, flags=re.MULTILINE), name

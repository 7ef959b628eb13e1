"""What the objects of a cluster say about why something waits, ended or cannot work.

Functions of plain dicts, as the API server sends them: nothing here asks anything. The doctor and a job's reason share
them, so that both say the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from geozarr_nb.cluster import manifests
from geozarr_nb.cluster.cause import Cause, make
from geozarr_nb.cluster.images import registry
from geozarr_nb.cluster.objects import Object, condition, name_of, quantity, sentence, status_list, status_of
from geozarr_runner.text.shell import word

DISK_PRESSURE_TAINT = "node.kubernetes.io/disk-pressure"
IMAGE_REASONS = ("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "ImageInspectError")
KILLED = 137
GIBI = 1024**3
_RESOURCES = {"cpu": "processor", "memory": "memory", "ephemeral-storage": "disk space"}


# Nodes


def disk_pressure(nodes: Iterable[Object]) -> list[str]:
    """Return the names of the nodes whose disk is nearly full: nothing is started there, and pods are evicted."""
    return [
        name_of(node)
        for node in nodes
        if condition(node, "DiskPressure").get("status") == "True"
        or any(taint.get("key") == DISK_PRESSURE_TAINT for taint in node.get("spec", {}).get("taints") or ())
    ]


def not_ready(nodes: Iterable[Object]) -> dict[str, str]:
    """Return the nodes that do not answer or are not ready, each with what it says."""
    found = {}
    for node in nodes:
        ready = condition(node, "Ready")
        if ready.get("status") != "True":
            found[name_of(node)] = sentence(ready.get("message") or ready.get("reason") or "it never reported")
    return found


def silent_node(pod: Object, nodes: Iterable[Object]) -> Cause | None:
    """Return what it means for a pod that has begun that its node does not answer; None where the node does."""
    name = str(pod.get("spec", {}).get("nodeName") or "")
    said = not_ready(nodes).get(name)
    if said is None:
        return None
    return Cause(
        "node-not-ready",
        f"node {name} does not answer, and nothing is known of its run meanwhile: {said}",
        f"it goes on, or is tried again, once the node answers or is removed: kubectl describe node {word(name)}",
        lasting=False,
    )


def full_disk(names: Sequence[str], namespace: str) -> Cause:
    """Return what nodes under DiskPressure mean for a job."""
    plural = "s" * (len(names) > 1)
    which = f"the disk of node{plural} {', '.join(names)}" if names else "the disk of every node"
    return Cause(
        "disk-pressure",
        f"{which} is nearly full (DiskPressure): nothing is started there",
        make("cluster-gc", NAMESPACE=namespace),
        lasting=False,
    )


# Claims


def unbound(claim: Object, events: Sequence[Object] = (), storage_class: Object | None = None) -> Cause | None:
    """Return why a claim has no volume, or is about to lose it; None where it has one, or gets one with its first pod.

    Parameters
    ----------
    events
        Those about the claim, the oldest first.
    storage_class
        Its class, where it may be seen.
    """
    if claim["metadata"].get("deletionTimestamp"):
        return ending_claim(name_of(claim), str(claim["metadata"].get("namespace", "")))
    phase = str(claim.get("status", {}).get("phase", "Pending"))
    first_pod = "WaitForFirstConsumer"
    if phase == "Bound" or (phase == "Pending" and (storage_class or {}).get("volumeBindingMode") == first_pod):
        return None
    name, namespace = name_of(claim), str(claim["metadata"].get("namespace", ""))
    last = next((event for event in reversed(events)), {})
    if last.get("reason") == first_pod:
        return None
    if phase == "Lost":
        return Cause("claim-lost", f"the volume of claim {name} is gone", replace_claim(name, namespace))
    said = sentence(last.get("message", ""))
    if not said:
        spec = claim.get("spec", {})
        kind = spec.get("storageClassName") or "none"
        size = spec.get("resources", {}).get("requests", {}).get("storage", "?")
        said = f"nothing provides {size} of storage class {kind}"
    return Cause("claim-unbound", f"claim {name} has no volume: {said}", replace_claim(name, namespace))


def missing_claim(name: str, namespace: str) -> Cause:
    """Return what a claim that is not there means."""
    return Cause(
        "claim-missing",
        f"there is no claim {name} in namespace {namespace}: outputs have no place",
        make("pvc", NAMESPACE=namespace, PVC_NAME=name),
    )


def ending_claim(name: str, namespace: str) -> Cause:
    """Return what a claim that somebody has deleted means: it stays while a pod uses it, and no new pod starts."""
    return Cause(
        "claim-ending",
        f"claim {name} is being deleted: no new pod can use it, and what is on it goes with it",
        f"copy what you need while its pods run; once it is gone: {make('pvc', NAMESPACE=namespace, PVC_NAME=name)}",
    )


def missing_namespace(name: str) -> Cause:
    """Return what a namespace that is not there means: a cluster lists as little of it as of an empty one."""
    made = f"kubectl create namespace {name} && {make('template pvc', NAMESPACE=name)}"
    return Cause("namespace-missing", f"there is no namespace {name}", made)


def missing_template(name: str, namespace: str) -> Cause:
    """Return what a template that is not there means."""
    return Cause(
        "template-missing",
        f"there is no workflow template {name} in namespace {namespace}",
        make("template", NAMESPACE=namespace),
    )


def to_renew(template: Object, namespace: str) -> str:
    """Return what to type so that a template is this version's: what a Helm release has set stays set."""
    if release := manifests.release(template):
        return f"helm upgrade {release} charts/geozarr --namespace {namespace} --reuse-values"
    return make("template", NAMESPACE=namespace)


def missing_image(image: str, node: str = "", said: str = "") -> Cause:
    """Return what an image that a node has not got means."""
    where = f"node {node}" if node else "any node"
    host = registry(image)
    if host:
        message = f"image {image} is not on {where} and could not be pulled from {host}"
        return Cause("image-missing", message + (f": {said}" if said else ""), make("load-k3d", IMAGE=image))
    return Cause("image-missing", f"image {image} is not on {where}", make("build load-k3d", IMAGE=image))


def replace_claim(name: str, namespace: str) -> str:
    """Return the commands that make a claim anew; one without a volume holds nothing."""
    return f"kubectl -n {namespace} delete pvc {word(name)} && {make('pvc', NAMESPACE=namespace, PVC_NAME=name)}"


# Pods


def waiting_reason(pod: Object, events: Sequence[Object] = (), nodes: Sequence[Object] = ()) -> Cause | None:
    """Return why a pod has not started; None where it has, or where nothing is said yet.

    Parameters
    ----------
    events
        Those about the pod, the oldest first: why a volume cannot be mounted stands nowhere else.
    nodes
        All nodes, where they may be seen.
    """
    if pod.get("status", {}).get("phase", "Pending") != "Pending":
        return None
    scheduled = condition(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        return _unschedulable(pod, str(scheduled.get("message", "")), nodes)
    spec = pod.get("spec", {})
    statuses = [*status_list(pod, "initContainerStatuses"), *status_list(pod, "containerStatuses")]
    for status in statuses:
        waiting = status.get("state", {}).get("waiting") or {}
        reason = waiting.get("reason", "")
        said = sentence(waiting.get("message", ""))
        if reason in IMAGE_REASONS:
            return missing_image(_image_of(spec, status), str(spec.get("nodeName", "")), said)
        if reason in ("CreateContainerConfigError", "CreateContainerError", "RunContainerError"):
            return Cause(
                "container-refused",
                f"its container cannot be made: {said or reason}",
                f"kubectl -n {pod['metadata'].get('namespace')} describe pod {name_of(pod)}",
            )
    for event in reversed(events):
        if "Multi-Attach error" in str(event.get("message")):
            return _attached_elsewhere(pod, str(event["message"]))
        # Said once it is often a volume that was asked for a moment too early, which mends itself.
        if event.get("reason") in ("FailedMount", "FailedAttachVolume") and int(event.get("count") or 1) > 1:
            return Cause(
                "volume-not-mounted",
                f"its volume cannot be mounted: {sentence(event.get('message', ''))}",
                f"kubectl -n {pod['metadata'].get('namespace')} describe pvc",
                lasting=False,
            )
        if event.get("reason") == "FailedCreatePodSandBox":
            return Cause(
                "node-failed",
                f"node {spec.get('nodeName')} cannot start pods: {sentence(event.get('message', ''))}",
                f"kubectl describe node {spec.get('nodeName')}",
                lasting=False,
            )
    return None


def _attached_elsewhere(pod: Object, message: str) -> Cause:
    """Return what it means that a volume that one node can have is another one's; Kubernetes says it only once."""
    users = re.search(r"used by (?:pod\(s\) )?([^.]*\w)", message)
    why = f"it is used by {users[1]}" if users else "that node has not let it go"
    return Cause(
        "volume-elsewhere",
        f"its volume is attached to another node, and only one node can have it: {why}",
        f"wait for what uses it there (kubectl -n {pod['metadata'].get('namespace')} get pods -o wide), or have a "
        "claim whose access mode is ReadWriteMany",
        lasting=False,
    )


def _unschedulable(pod: Object, message: str, nodes: Sequence[Object]) -> Cause:
    namespace = str(pod["metadata"].get("namespace", ""))
    said = message.partition(" preemption:")[0].rstrip(" .")
    if match := re.search(r'persistentvolumeclaim "([^"]+)" not found', message):
        return missing_claim(match[1], namespace)
    if match := re.search(r'persistentvolumeclaim "([^"]+)" is being deleted', message):
        return ending_claim(match[1], namespace)
    if "unbound immediate PersistentVolumeClaims" in message:
        claims = _claims(pod)
        name = claims[0] if claims else "its claim"
        return Cause(
            "claim-unbound",
            f"claim {name} has no volume: nothing provides one",
            replace_claim(name, namespace),
        )
    if DISK_PRESSURE_TAINT in message:
        return full_disk(disk_pressure(nodes), namespace)
    if lacking := re.findall(r"Insufficient ([\w./-]*\w)", message):
        return _too_large(pod, lacking, said, nodes)
    if "Too many pods" in message:
        remedy = f"wait for other jobs, or {make('cluster-gc', NAMESPACE=namespace)}"
        return Cause("unschedulable", f"no node takes another pod: {said}", remedy, lasting=False)
    if re.search(r"node.kubernetes.io/(unreachable|not-ready)", message) or "no nodes available" in message:
        return Cause("node-not-ready", f"no node is ready: {said}", "kubectl describe nodes", lasting=False)
    if "were unschedulable" in message:
        return Cause(
            "unschedulable", f"every node is closed for new pods: {said}", "kubectl uncordon NODE", lasting=False
        )
    return Cause("unschedulable", f"no node takes it: {said}", "kubectl describe nodes")


def _too_large(pod: Object, lacking: Sequence[str], said: str, nodes: Sequence[Object]) -> Cause:
    """Return the resource that no node has enough of, and whether it ever will have."""
    resource = next((each for each in ("memory", "cpu") if each in lacking), lacking[0])
    kind = _RESOURCES.get(resource, resource)
    asked = sum(_requests(pod, resource))
    largest = max((quantity(status_of(node, "allocatable").get(resource, 0)) for node in nodes), default=None)
    shown = _amount(asked, resource)
    remedies = {
        "memory": "ask for less memory (GEOZARR_MEMORY=2Gi), convert fewer groups at once, or add a larger node",
        "cpu": "wait for other jobs to end, or add a node",
    }
    remedy = remedies.get(resource, f"wait for other jobs to end, or add a node with {kind}")
    if largest is not None and asked > largest:
        message = (
            f"no node is large enough: it asks for {shown} of {kind}, the largest has {_amount(largest, resource)}"
        )
        return Cause("unschedulable", message, remedy)
    message = f"no node has enough {kind} free: it asks for {shown} ({said})"
    return Cause("unschedulable", message, remedy, lasting=largest is None and resource == "memory")


def ending_reason(pod: Object) -> Cause | None:
    """Return what ended a pod from outside; None where its program ended by itself, or has not ended."""
    status = pod.get("status", {})
    said = sentence(status.get("message", ""))
    reason = status.get("reason", "")
    node = str(pod.get("spec", {}).get("nodeName", "its node"))
    namespace = str(pod["metadata"].get("namespace", ""))
    if reason == "Evicted":
        remedy = f"{make('cluster-gc', NAMESPACE=namespace)}, then retry"
        return Cause("evicted", f"node {node} evicted it: {said}", remedy, lasting=False)
    if reason == "DeadlineExceeded":
        seconds = pod.get("spec", {}).get("activeDeadlineSeconds")
        limit = f" of {seconds} s" if seconds else ""
        return Cause(
            "deadline",
            f"it took longer than its time limit{limit}",
            "give it more time (GEOZARR_TIME_LIMIT=28800, in seconds), or convert fewer groups at once",
        )
    if reason in ("NodeLost", "NodeShutdown", "Terminated", "Shutdown", "Preempting"):
        return Cause("node-lost", f"node {node} was lost or shut down: {said or reason}", "retry it", lasting=False)
    for container in status_list(pod, "containerStatuses"):
        ended = container.get("state", {}).get("terminated") or {}
        if ended.get("reason") == "OOMKilled":
            return out_of_memory(memory_limit(pod, str(container.get("name", ""))))
    return None


def memory_limit(pod: Object, container: str = "main") -> float | None:
    """Return the memory that a container of a pod may use, in bytes; None where nothing limits it."""
    for each in pod.get("spec", {}).get("containers") or ():
        if each.get("name") == container:
            limit = each.get("resources", {}).get("limits", {}).get("memory")
            return None if limit is None else quantity(limit)
    return None


def out_of_memory(limit: float | None, needed: float | None = None) -> Cause:
    """Return what running out of memory means.

    Parameters
    ----------
    limit
        What the pod had, in bytes; None where only its node limited it.
    needed
        What the conversion is estimated to need; twice the limit where that is not known or was not enough.
    """
    enough = max(needed or 0.0, 2 * (limit or 4 * GIBI))
    wanted = f"{-int(-enough // GIBI)}Gi"
    had = f"its limit of {_amount(limit, 'memory')}" if limit else "what its node has"
    return Cause(
        "out-of-memory",
        f"it needed more memory than {had} and was killed; about {wanted} would do",
        f"GEOZARR_MEMORY={wanted}, or convert fewer groups at once",
    )


def _requests(pod: Object, resource: str) -> Iterable[float]:
    for container in pod.get("spec", {}).get("containers") or ():
        yield quantity(container.get("resources", {}).get("requests", {}).get(resource, 0))


def _amount(value: float, resource: str) -> str:
    if resource not in ("memory", "ephemeral-storage"):
        return f"{value:g}"
    amount, unit = (value / GIBI, "Gi") if value >= GIBI else (value / GIBI * 1024, "Mi")
    return f"{round(amount, 1):g}{unit}"


def _claims(pod: Object) -> list[str]:
    volumes = pod.get("spec", {}).get("volumes") or ()
    return [volume["persistentVolumeClaim"]["claimName"] for volume in volumes if "persistentVolumeClaim" in volume]


def _image_of(spec: Object, status: Object) -> str:
    containers = [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
    wanted = (str(each.get("image")) for each in containers if each.get("name") == status.get("name"))
    return next(wanted, str(status.get("image", "")))


# Workflows


def lock_reason(workflow: Object) -> Cause | None:
    """Return which jobs hold what a workflow waits for, its output or its turn; None where it waits for neither."""
    locks = workflow.get("status", {}).get("synchronization", {})
    own = name_of(workflow)
    for lock in (locks.get("mutex") or {}).get("waiting") or ():
        for holder in _holders([lock.get("holder", "")], own):
            return Cause(
                "output-locked",
                f"it waits for job {holder}, which is writing the same output",
                f"wait, or end that job: geozarr-nb cancel {holder} --backend argo",
                lasting=False,
            )
    for lock in (locks.get("semaphore") or {}).get("waiting") or ():
        if holders := _holders(lock.get("holders") or (), own):
            many = f"{len(holders)} job{'s' if len(holders) > 1 else ''} at once"
            return Cause(
                "waits-for-its-turn",
                f"it waits for its turn: {many} may run in this namespace, now {', '.join(holders)}",
                "wait; how many may run is what its administrator has set (parallelism of the chart)",
                lasting=False,
            )
    return None


def _holders(given: Iterable[object], own: str) -> list[str]:
    """Return the jobs out of <namespace>/<workflow>/<node>, or <workflow>/<node> of older controllers."""
    parts = [str(holder).split("/") for holder in given]
    names = [one[-2] if len(one) > 1 else one[0] for one in parts]
    return [name for name in names if name not in ("", own)]

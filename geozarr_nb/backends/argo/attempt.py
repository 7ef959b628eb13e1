"""What a Workflow says of an attempt at a job, whoever made it: its request, its status, its runs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from geozarr_nb.backends.argo.workflow import ATTEMPT, AWAITS, JOB, MEMORY, MOUNT, REQUEST
from geozarr_nb.claims.address import SCHEME
from geozarr_nb.cluster.client import Object
from geozarr_nb.cluster.diagnostics import lock_reason
from geozarr_nb.request import Request
from geozarr_runner.events import Event, parse
from geozarr_runner.publishing.remote_output import is_address
from geozarr_runner.spec.parameters import from_parameters
from geozarr_runner.spec.request import normalise
from geozarr_runner.trust.addresses import redact
from geozarr_runner.trust.bounds import from_json
from geozarr_runner.trust.names import output_name

MAIN = "main"  # the container that converts
NO_JOB = "the Workflow holds what no job of this package does, and cannot be understood"
_NOT_UNDERSTOOD = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)
FINISHED = ("Succeeded", "Failed", "Error")


@dataclass(frozen=True, slots=True)
class Pod:
    """A run of an attempt, from the status of the Workflow."""

    name: str
    uid: str = ""
    phase: str = ""
    message: str = ""
    started: datetime | None = None
    exit_code: int | None = None
    progress: tuple[int, int] | None = None
    outcome: Event | None = None

    @property
    def has_begun(self) -> bool:
        """True once the pod's container has started."""
        return self.phase not in ("", "Pending")

    @property
    def has_ended(self) -> bool:
        """True once the pod has finished, with or without success."""
        return self.phase in FINISHED


@dataclass(frozen=True)
class Attempt:
    """An attempt at a job, parsed from its Workflow.

    Attributes
    ----------
    thing
        The Workflow.
    seen
        Its existing pods, which are newer than the Workflow's status: the controller looks at them every ten seconds.
    sees_pods
        True if `seen` has all of them. It is False for a person who may not list pods.
    later
        How many numbers after the labelled one it comes, since others of the job have that number.
    """

    thing: Object
    seen: Sequence[Object] = ()
    sees_pods: bool = False
    later: int = 0

    @classmethod
    def of(cls, thing: Object, seen: Sequence[Object] = (), *, sees_pods: bool = False) -> Attempt:
        """Parse a Workflow of any author; one that cannot be parsed becomes a failed attempt with a reason."""
        read = cls(thing, seen, sees_pods)
        try:
            # All attributes that are parsed from values of the Workflow's author.
            _ = read.uid, read.job, read.number, read.is_held, read.parameters, read.template, lock_reason(thing)
            _ = read.request, read.pods, read.submitted, read.finished, read.memory_needed, read.is_shut_down
        except _NOT_UNDERSTOOD:
            return cls({"metadata": _understood(thing["metadata"]), "status": {"phase": "Error", "message": NO_JOB}})
        return read

    @property
    def name(self) -> str:
        """Name of the Workflow."""
        return str(self.thing["metadata"]["name"])

    @property
    def uid(self) -> str:
        """Unique id of the Workflow."""
        return str(self.thing["metadata"].get("uid") or "")

    @property
    def job(self) -> str:
        """Name of the job; the Workflow's own name if another program submitted it."""
        return str(self._labels.get(JOB) or self.name)

    @property
    def number(self) -> int:
        """Number of the attempt, from 1 on."""
        text = str(self._labels.get(ATTEMPT, "1"))
        return (int(text) if text.isdecimal() else 1) + self.later

    @property
    def template(self) -> str:
        """Name of the WorkflowTemplate that it refers to."""
        reference = self.thing.get("spec", {}).get("workflowTemplateRef") or {}
        return str(reference.get("name", ""))

    @property
    def submitted(self) -> datetime:
        """Time of the Workflow's creation, in UTC."""
        return _time(self.thing["metadata"].get("creationTimestamp")) or datetime.min.replace(tzinfo=UTC)

    @property
    def phase(self) -> str:
        """Argo's phase; empty until a controller has looked at the Workflow."""
        return str(self._status.get("phase") or "")

    @property
    def message(self) -> str:
        """The controller's message about the Workflow."""
        return str(self._status.get("message") or "")

    @property
    def is_shut_down(self) -> bool:
        """True once the Workflow was told to end."""
        return bool(self.thing.get("spec", {}).get("shutdown"))

    @property
    def is_suspended(self) -> bool:
        """True while the Workflow is suspended, so that the controller starts nothing."""
        return bool(self.thing.get("spec", {}).get("suspend"))

    @property
    def is_held(self) -> bool:
        """True while the Workflow waits for the product's address from the process that submitted it."""
        awaits = AWAITS in (self.thing["metadata"].get("annotations") or {})
        return awaits and self.is_suspended and not self.is_shut_down and not self.has_ended

    @property
    def has_ended(self) -> bool:
        """True once the controller has finished the Workflow."""
        return self.phase in FINISHED

    @property
    def lacks_pod(self) -> bool:
        """True if the pod of its last run has begun and is gone, and the controller has not noted it."""
        return self.has_no_pod and self.pods[-1].has_begun

    @property
    def has_no_pod(self) -> bool:
        """True if its last run has no pod now: it is gone, or was never made, for a quota say."""
        if not self.sees_pods or self.has_ended or not self.pods or self.pods[-1].has_ended:
            return False
        return all(_phase(pod) in FINISHED for pod in self.seen)

    @property
    def finished(self) -> datetime | None:
        """Time of the Workflow's end, in UTC."""
        return _time(self._status.get("finishedAt"))

    @property
    def memory_needed(self) -> float | None:
        """Estimated memory of the conversion, in bytes; None if unknown."""
        text = str((self.thing["metadata"].get("annotations") or {}).get(MEMORY, ""))
        return float(text) if text.isdecimal() and int(text) else None

    @cached_property
    def request(self) -> Request:
        """The request; it is made from the parameters if another program submitted the Workflow."""
        stored = (self.thing["metadata"].get("annotations") or {}).get(REQUEST)
        if stored:
            try:
                return Request.from_json(from_json(stored))
            except (ValueError, KeyError, TypeError):
                pass  # of another version, or edited by hand: the parameters are used
        return _request_of(self.parameters)

    @cached_property
    def parameters(self) -> Mapping[str, str]:
        """Arguments of the Workflow, and the template's defaults for the others."""
        spec = self._status.get("storedWorkflowTemplateSpec") or {}
        entries = [
            *((spec.get("arguments") or {}).get("parameters") or ()),
            *((self.thing.get("spec", {}).get("arguments") or {}).get("parameters") or ()),
        ]
        return {entry["name"]: str(entry.get("value", entry.get("default", ""))) for entry in entries}

    @cached_property
    def pods(self) -> Sequence[Pod]:
        """The runs of the attempt in order; there are several if Argo has repeated a run."""
        nodes = [node for node in (self._status.get("nodes") or {}).values() if node.get("type") == "Pod"]
        nodes.sort(key=lambda node: (node.get("startedAt") or "", _retry_number(node)))
        told = {pod.name: pod for pod in (_pod(self.name, node) for node in nodes)}
        for thing in self.seen:
            name = str(thing["metadata"]["name"])
            known = told.get(name, Pod(name))
            told[name] = replace(known, uid=str(thing["metadata"].get("uid", "")))
            if not known.has_ended:
                told[name] = _as_seen(told[name], thing)
        return list(told.values())

    @property
    def _labels(self) -> Mapping[str, str]:
        return self.thing["metadata"].get("labels") or {}

    @property
    def _status(self) -> Object:
        found: Object = self.thing.get("status") or {}
        return found


def _understood(metadata: Object) -> Object:
    """Return the part of an odd Workflow's metadata that tells which job it is."""
    told: Object = {name: str(metadata.get(name) or "") for name in ("name", "uid")}
    labels = metadata.get("labels")
    if isinstance(labels, dict):
        told["labels"] = {name: text for name, text in labels.items() if isinstance(text, str) and len(text) < 64}
    with suppress(*_NOT_UNDERSTOOD):
        _time(metadata.get("creationTimestamp"))
        told["creationTimestamp"] = metadata.get("creationTimestamp")
    return told


def _pod(workflow: str, node: Object) -> Pod:
    outputs = node.get("outputs") or {}
    told = {entry.get("name"): str(entry.get("value", "")) for entry in outputs.get("parameters") or ()}
    code = str(outputs.get("exitCode", ""))
    done, _, total = str(node.get("progress", "")).partition("/")
    measured = done.isdecimal() and total.isdecimal() and int(total) > 1  # "0/1" is a pod that reported no progress
    return Pod(
        name=_pod_name(workflow, node),
        phase=str(node.get("phase") or ""),
        message=str(node.get("message") or ""),
        started=_time(node.get("startedAt")),
        exit_code=int(code) if code.isdecimal() else None,
        progress=(int(done), int(total)) if measured else None,
        outcome=parse(told.get("outcome", "")),
    )


def _as_seen(known: Pod, thing: Object) -> Pod:
    """Return a run, updated with the present state of its pod."""
    statuses = thing.get("status", {}).get("containerStatuses") or ()
    state: Object = next((status.get("state", {}) for status in statuses if status.get("name") == MAIN), {})
    started = known.started or _time(thing["metadata"].get("creationTimestamp"))
    if ended := state.get("terminated"):
        code = int(ended.get("exitCode", -1))
        return replace(known, phase="Failed" if code else "Succeeded", exit_code=code, started=started)
    if state.get("running"):
        return replace(known, phase="Running", started=started)
    # A pod that vanished early is made again under its name: what the controller has noted is of the earlier pod.
    return replace(known, phase=phase if (phase := _phase(thing)) in FINISHED else "Pending")


def _phase(pod: Object) -> str:
    return str((pod.get("status") or {}).get("phase") or "")


def _pod_name(workflow: str, node: Object) -> str:
    """Return the name that Argo gives a pod, made from workflow, template and node (version 2 of its naming)."""
    if node.get("name") == workflow:
        return workflow
    number = str(node["id"]).rpartition("-")[2]
    return f"{workflow}-{node['templateName']}-{number}"


def _retry_number(node: Object) -> int:
    found = re.search(r"\((\d+)\)$", str(node.get("name", "")))
    return int(found[1]) if found else 0


def _request_of(values: Mapping[str, str]) -> Request:
    source = values.get("stac_url", "")
    claim = values.get("pvc_name", "")
    path = values.get("output_zarr", "").removeprefix(f"{MOUNT}/")
    name = redact(source).rstrip("/").rpartition("/")[2]
    product = name.removesuffix(".zarr").removesuffix(".json") or "product"
    if source.startswith(f"{MOUNT}/"):
        source = f"{SCHEME}{claim}/{source.removeprefix(f'{MOUNT}/')}"
    request = Request(
        source=source,
        shown=redact(source),
        product=product,
        output=path if is_address(path) else f"{SCHEME}{claim}/{path or output_name(product)}",
        groups=normalise(values.get("groups")),
        options=from_parameters(values),
        identity=values.get("identity", ""),
    )
    return request if request.identity else request.identified()


def _time(text: Any) -> datetime | None:
    found = datetime.fromisoformat(text) if text else None
    return found.replace(tzinfo=UTC) if found is not None and found.tzinfo is None else found

"""Argo Workflows: makes one of a request, and reads its request and status back.

Every attempt at a job is a Workflow of its own. Its name is the lock: the process that creates the Workflow first has
it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from math import ceil
from typing import Any

from geozarr_nb.claims.address import SCHEME, Address
from geozarr_nb.cluster.client import Object
from geozarr_nb.cluster.kinds import WORKFLOWS
from geozarr_nb.errors import InvalidRequest
from geozarr_nb.request import Request
from geozarr_nb.settings import Settings
from geozarr_runner.events import Event, parse
from geozarr_runner.publishing.remote_output import RemoteOutput, is_address
from geozarr_runner.spec.parameters import from_parameters, parameters
from geozarr_runner.spec.request import normalise
from geozarr_runner.text.shell import literal, word
from geozarr_runner.trust.addresses import redact
from geozarr_runner.trust.bounds import from_json
from geozarr_runner.trust.names import output_name

APP = "geozarr-convert"
LABELS = f"app.kubernetes.io/name={APP}"
JOB, IDENTITY, ATTEMPT = "geozarr.io/job", "geozarr.io/identity", "geozarr.io/attempt"
REQUEST, MEMORY = "geozarr.io/request", "geozarr.io/memory-needed"
# Annotation of a Workflow that is suspended until the Secret with its product's address exists; it is removed then.
AWAITS = "geozarr.io/awaits"
RELEASED: Object = {"metadata": {"annotations": {AWAITS: None}}, "spec": {"suspend": None}}
ENDED: Object = {"spec": {"shutdown": "Terminate", "suspend": None}}  # a suspended Workflow would not end
MAIN = "main"  # the container that converts
MOUNT = "/data"  # where the template mounts the claim
NO_JOB = "the Workflow holds what no job of this package does, and cannot be understood"
_NOT_UNDERSTOOD = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)
FINISHED = ("Succeeded", "Failed", "Error")


def output_address(output: str, claim: str) -> str:
    """Return an output's address: `pvc://claim/path`, or an address in an object store.

    Parameters
    ----------
    output
        A path on the claim (`name.zarr`, `/data/name.zarr`), `pvc://claim/name.zarr`, or `s3://bucket/name.zarr`.
    claim
        The claim of an output that names none.

    Raises
    ------
    InvalidRequest
        The output has no name, or lies on no claim and in no object store.
    """
    remedy = f'name a path on the claim: "out/product.zarr" or {literal(f"{SCHEME}{claim}/out/product.zarr")}'
    text = output
    if text.startswith(SCHEME):
        claim, _, text = text.removeprefix(SCHEME).partition("/")
    elif is_address(text):
        return str(RemoteOutput.parse(text))
    elif "://" in text:
        raise InvalidRequest(
            "a cluster's jobs write to a claim or an object store", given=redact(output), remedy=remedy
        )
    elif text == MOUNT or text.startswith(f"{MOUNT}/"):
        text = text.removeprefix(MOUNT)
    elif text.startswith(("/", "~")):
        raise InvalidRequest(
            "this is a path of this machine, and a cluster's jobs write to a claim", given=output, remedy=remedy
        )
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if not parts or not claim:
        raise InvalidRequest("the output has no name", given=output, remedy=remedy)
    if ".." in parts or "\0" in text:
        raise InvalidRequest("this cannot be the path of an output on a claim", given=output, remedy=remedy)
    return str(Address.parse(f"{SCHEME}{claim}/{'/'.join(parts)}"))


def workflow_name(job: str, attempt: int) -> str:
    """Return the name of the Workflow of a job's attempt."""
    return job if attempt == 1 else f"{job}-{attempt}"


def input_secret(uid: str) -> str:
    """Return the name of the Secret with a product's signed address, which the template reads.

    The name has the uid of the Workflow, which is unique. The name of a Workflow can be used again, and somebody else
    could have made a Secret with it.
    """
    return f"geozarr-input-{uid}"


def is_signed(request: Request) -> bool:
    """Return whether the product's address has a secret part, which people who see the job may not see."""
    return not request.withheld and request.source != request.shown


def manifest(request: Request, job: str, attempt: int, settings: Settings, memory_needed: int) -> Object:
    """Return the Workflow for an attempt at a request.

    The Workflow holds no secrets. A signed address is stored in a Secret that belongs to the Workflow, and therefore
    can only be made after it. Until then the Workflow is suspended.

    Raises
    ------
    InvalidRequest
        The pods cannot read the product.
    """
    claim = claim_of(request, settings)
    values = {
        "pvc_name": claim,
        "stac_url": _seen_by_pods(request.shown, claim),
        "output_zarr": request.output if is_address(request.output) else Address.parse(request.output).path,
        **parameters(request.groups, request.options),
        "identity": request.identity,
        # It also tells the runner that the person did not give this address, so that credentials without a host are not
        # sent to it.
        "derived_from": request.item or ("" if request.asked is None else request.shown),
        "credentials": settings.credentials,
        **of_pods(settings),
    }
    annotations = {REQUEST: json.dumps(request.to_json()), MEMORY: str(memory_needed)}
    spec: Object = {
        "workflowTemplateRef": {"name": settings.template},
        "arguments": {"parameters": [{"name": name, "value": value} for name, value in values.items()]},
    }
    if is_signed(request):
        annotations[AWAITS] = "input"
        spec["suspend"] = True
    return {
        "apiVersion": WORKFLOWS.api_version,
        "kind": "Workflow",
        "metadata": {
            "name": workflow_name(job, attempt),
            "labels": {
                "app.kubernetes.io/name": APP,
                "app.kubernetes.io/managed-by": "geozarr-nb",
                JOB: job,
                IDENTITY: request.identity[:16],
                ATTEMPT: str(attempt),
            },
            "annotations": annotations,
        },
        "spec": spec,
    }


def of_pods(settings: Settings) -> dict[str, str]:
    """Return the parameters of a job's pod that differ from the template's."""
    values = {
        "image": settings.image,
        "memory": settings.memory,
        "memory_limit": settings.memory,
        "cpu": settings.cpu,
        "time_limit": str(ceil(settings.time_limit)),  # without ceil, 0 would end the pod at once
    }
    return {name: value for name, value in values.items() if value not in ("", "0")}


def claim_of(request: Request, settings: Settings) -> str:
    """Return the claim of a job's pod: that of the output, or of the product if the output is in an object store."""
    named = (address for address in (request.output, request.shown) if address.startswith(SCHEME))
    return next((Address.parse(address).claim for address in named), settings.pvc_name)


def secret(request: Request, workflow: Object) -> Object:
    """Return the Secret with a product's signed address; it is deleted with its Workflow."""
    name, uid = (str(workflow["metadata"][key]) for key in ("name", "uid"))
    owner = {"apiVersion": WORKFLOWS.api_version, "kind": "Workflow", "name": name, "uid": uid}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": input_secret(uid),
            "labels": {"app.kubernetes.io/name": APP},
            "ownerReferences": [owner],
        },
        "stringData": {"GEOZARR_INPUT": request.source},
    }


def _seen_by_pods(source: str, claim: str) -> str:
    """Return the address by which a pod with the claim reads a product."""
    if source.startswith(SCHEME):
        product = Address.parse(source)
        if product.claim != claim:
            raise InvalidRequest(
                "product and output are on different claims, and a job has one",
                given=f"{source} -> {claim}",
                remedy=f"write the output to the product's claim: output={literal(f'{SCHEME}{product.claim}/...')}",
            )
        return f"{MOUNT}/{product.path}"
    if "://" not in source:
        place = word(f"{SCHEME}{claim}/...")
        raise InvalidRequest(
            "the product is on this machine, where a cluster's jobs cannot read it",
            given=source,
            remedy=f"give its address on the web or in an object store, copy it to the claim ({place}), "
            'or convert it here: backend="local"',
        )
    return source


@dataclass(frozen=True, slots=True)
class Pod:
    """A run of an attempt, from the status of the Workflow."""

    name: str
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
    """

    thing: Object
    seen: Sequence[Object] = ()

    @classmethod
    def of(cls, thing: Object, seen: Sequence[Object] = ()) -> Attempt:
        """Parse a Workflow of any author; one that cannot be parsed becomes a failed attempt with a reason."""
        read = cls(thing, seen)
        try:
            # All attributes that are parsed from values of the Workflow's author.
            _ = read.request, read.pods, read.submitted, read.finished, read.memory_needed, read.is_shut_down
        except _NOT_UNDERSTOOD:
            told = {name: value for name, value in thing["metadata"].items() if name != "annotations"}
            return cls({"metadata": told, "status": {"phase": "Error", "message": NO_JOB}})
        return read

    @property
    def name(self) -> str:
        """Name of the Workflow."""
        return str(self.thing["metadata"]["name"])

    @property
    def uid(self) -> str:
        """Unique id of the Workflow."""
        return str(self.thing["metadata"]["uid"])

    @property
    def job(self) -> str:
        """Name of the job; the Workflow's own name if another program submitted it."""
        return str(self._labels.get(JOB) or self.name)

    @property
    def number(self) -> int:
        """Number of the attempt, from 1 on."""
        text = str(self._labels.get(ATTEMPT, "1"))
        return int(text) if text.isdecimal() else 1

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
            if not known.has_ended:
                told[name] = _as_seen(known, thing)
        return list(told.values())

    @property
    def _labels(self) -> Mapping[str, str]:
        return self.thing["metadata"].get("labels") or {}

    @property
    def _status(self) -> Object:
        found: Object = self.thing.get("status") or {}
        return found


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
    return replace(known, phase="Running", started=started) if state.get("running") else known


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

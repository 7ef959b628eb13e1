"""Argo Workflows: makes one of a request.

Every attempt at a job is a Workflow of its own. Its name is the lock: the process that creates the Workflow first has
it.
"""

from __future__ import annotations

import json
from math import ceil

from geozarr_nb.claims.address import SCHEME, Address
from geozarr_nb.cluster.client import Object
from geozarr_nb.cluster.kinds import WORKFLOWS
from geozarr_nb.errors import InvalidRequest
from geozarr_nb.request import Request
from geozarr_nb.settings import Settings
from geozarr_runner.publishing.remote_output import RemoteOutput, is_address
from geozarr_runner.spec.parameters import parameters
from geozarr_runner.text.shell import literal, word
from geozarr_runner.trust.addresses import redact

APP = "geozarr-convert"
LABELS = f"app.kubernetes.io/name={APP}"
JOB, IDENTITY, ATTEMPT = "geozarr.io/job", "geozarr.io/identity", "geozarr.io/attempt"
REQUEST, MEMORY = "geozarr.io/request", "geozarr.io/memory-needed"
# Annotation of a Workflow that is suspended until the Secret with its product's address exists; it is removed then.
AWAITS = "geozarr.io/awaits"
RELEASED: Object = {"metadata": {"annotations": {AWAITS: None}}, "spec": {"suspend": None}}
ENDED: Object = {"spec": {"shutdown": "Terminate", "suspend": None}}  # a suspended Workflow would not end
MOUNT = "/data"  # where the template mounts the claim


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

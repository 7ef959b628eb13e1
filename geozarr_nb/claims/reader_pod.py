"""The pod through which a claim is read: what it is made of, and which pods hold a claim."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from geozarr_nb.cluster.client import Object
from geozarr_nb.cluster.kinds import PODS
from geozarr_runner.serving.handler import TOKEN_HEADER

if TYPE_CHECKING:
    pass


APP = "geozarr-reader"


LABELS = f"app.kubernetes.io/name={APP}"


MOUNT = "/data"


PORT = 8080


IDLE_SECONDS = 300


LAST_END_SECONDS = 3600


@dataclass(eq=False, slots=True)
class ReaderPod:
    """A reader pod that this process has made, and has to delete."""

    name: str
    token: str = field(repr=False)
    over: Event = field(default_factory=Event, repr=False)
    keeper: Thread | None = field(default=None, repr=False)

    @property
    def headers(self) -> dict[str, str]:
        """What every request to it brings."""
        return {TOKEN_HEADER: self.token}


def pod_manifest(name: str, claim: str, image: str, token_sha256: str, *, node: str = "") -> Object:
    """Return the reader pod as it is sent to the API server.

    Parameters
    ----------
    token_sha256
        SHA-256 of the token, in hexadecimal: whoever may see the pod does not learn the token by that.
    node
        The only node that it may be on; empty where any will do.
    """
    command = ["geozarr-runner", "serve", MOUNT, "--port", str(PORT), "--idle", str(IDLE_SECONDS)]
    on_node = [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": on_node}}
    spec: Object = {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": LAST_END_SECONDS,
        "terminationGracePeriodSeconds": 5,
        # Nothing in it talks to the cluster.
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        # No fsGroup: the node would change the ownership of the volume's files for a pod that only reads.
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "runAsGroup": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": "reader",
                "image": image,
                "imagePullPolicy": "IfNotPresent",
                "command": [*command, "--token-sha256", token_sha256],
                "workingDir": MOUNT,
                "terminationMessagePolicy": "FallbackToLogsOnError",
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "resources": {
                    "requests": {"cpu": "50m", "memory": "48Mi"},
                    "limits": {"cpu": "1", "memory": "192Mi"},
                },
                # The claim itself is attached as its writers attach it, or some drivers would refuse a second mode.
                "volumeMounts": [{"name": "claim", "mountPath": MOUNT, "readOnly": True}],
            }
        ],
        "volumes": [{"name": "claim", "persistentVolumeClaim": {"claimName": claim}}],
    }
    if node:
        spec["affinity"] = {"nodeAffinity": required}
    return {
        "apiVersion": PODS.api_version,
        "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": {"app.kubernetes.io/name": APP, "geozarr.io/claim": claim[:63].rstrip("-.")},
        },
        "spec": spec,
    }


def uses(pod: Object, claim: str) -> bool:
    """Return whether a pod that has not ended has a claim among its volumes."""
    volumes = pod["spec"].get("volumes") or ()
    named = [(volume.get("persistentVolumeClaim") or {}).get("claimName") for volume in volumes]
    return claim in named and phase_of(pod) not in ("Succeeded", "Failed")


def phase_of(pod: Mapping[str, Any]) -> str:
    """Return how far a pod is, in the words of Kubernetes."""
    return str(pod.get("status", {}).get("phase", "Pending"))

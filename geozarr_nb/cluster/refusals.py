"""Refusals and silence of an API server, and what they mean to a person."""

from __future__ import annotations

import json
from typing import Any

from geozarr_nb.cluster.kubeconfig import words
from geozarr_nb.errors import (
    ClusterDenied,
    ClusterError,
    ClusterObjectExists,
    ClusterObjectMissing,
    ClusterRefused,
    ClusterUnreachable,
)

APPLY_ROLES = (
    "have whoever runs the cluster apply workflows/rbac.yaml: kubectl apply -n {namespace} -f workflows/rbac.yaml"
)


def silence(error: Exception, server: str) -> ClusterUnreachable:
    """Return what it means to a person that no answer came of a server, which is named with its context."""
    import urllib3

    reason = getattr(error, "reason", None) or error
    if isinstance(reason, urllib3.exceptions.SSLError) or "CERTIFICATE_VERIFY" in str(reason):
        return ClusterUnreachable(
            f"the API server's certificate is not the one of the kubeconfig: {words(reason)}",
            given=server,
            remedy="fetch the kubeconfig again, from whoever runs the cluster",
        )
    return ClusterUnreachable(
        f"the API server does not answer: {words(reason)}",
        given=server,
        remedy="start the cluster (k3d cluster start geozarr), or choose another one: "
        "kubectl config use-context ..., or GEOZARR_KUBE_CONTEXT=...",
    )


def refusal(
    status: int, content: bytes, verb: str, path: str, what: str, *, server: str, context: str, own: str
) -> ClusterError:
    """Return what a status that is no success means to a person.

    Parameters
    ----------
    verb, path, what
        What was asked for: the right that it takes, its address, and its name where that is not the address's.
    server, context, own
        Who was asked, as whom, and the namespace that this is for.
    """
    said, details = _said(content)
    namespace = path.split("/namespaces/", 1)[1].split("/")[0] if "/namespaces/" in path else ""
    where = f"namespace {namespace}, context {context}" if namespace else f"context {context}"
    resource = what or path.rsplit("/", 1)[-1]
    if status == 401:
        return ClusterDenied(
            "the cluster does not know who is asking: the credentials are missing or have expired",
            given=f"{server} (context {context})",
            remedy="log in again as your cluster wants it, and try: kubectl auth whoami",
        )
    if status == 403:
        return ClusterDenied(
            f"you may not {verb} {resource}: {said}",
            given=where,
            remedy=APPLY_ROLES.format(namespace=namespace or own),
        )
    if status == 404:
        return ClusterObjectMissing(f"it is not on the cluster: {said}", given=where)
    if status == 409 and details.get("reason") == "AlreadyExists":
        return ClusterObjectExists(said, given=where)
    failure = ClusterRefused(
        f"the API server refused to {verb} {resource} (HTTP {status}): {said}",
        given=where,
        remedy="run geozarr-nb doctor --backend argo",
    )
    if status in (409, 429) or status >= 500:  # a conflict with another change, busy, or starting
        failure.retryable = True  # type: ignore[misc]
    return failure


def is_status(content: bytes) -> bool:
    """Return whether an answer is a Status, and not what something between has made of it."""
    try:
        return bool(json.loads(content).get("kind") == "Status")
    except (ValueError, AttributeError):
        return False


def _said(content: bytes) -> tuple[str, dict[str, Any]]:
    """Return the message of a Status, and its details."""
    try:
        document = json.loads(content)
        document = document.get("object", document)
        details = {**(document.get("details") or {}), "reason": document.get("reason")}
        return str(document.get("message") or document.get("reason") or "no reason given"), details
    except (ValueError, AttributeError):
        return " ".join(content.decode(errors="replace").split())[:200] or "no reason given", {}

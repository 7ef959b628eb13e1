"""Refusals and silence of an API server, and what they mean to a person."""

from __future__ import annotations

import json
from typing import Any

from geozarr_nb.cluster.answers import no_answer
from geozarr_nb.cluster.forbidden import forbidden
from geozarr_nb.cluster.kubeconfig import words
from geozarr_nb.errors import (
    ClusterDenied,
    ClusterError,
    ClusterObjectExists,
    ClusterObjectMissing,
    ClusterRefused,
    ClusterUnreachable,
)
from geozarr_runner.text.shell import word

APPLY_ROLES = (
    "have whoever runs the cluster apply workflows/rbac.yaml: kubectl apply -n {namespace} -f workflows/rbac.yaml"
)


# What the contexts of clusters on a person's own machine begin with.
_STARTED_BY = {
    "k3d-": "k3d cluster start {name}",
    "kind-": "docker start {name}-control-plane",
    "minikube": "minikube start --profile {name}",
    "docker-desktop": "start Docker Desktop",
    "rancher-desktop": "start Rancher Desktop",
}
# Whom a server that lets everybody in takes a caller for whose credentials say nothing.
ANONYMOUS = "system:anonymous"


class LoggedOut(ClusterDenied):
    """The cluster does not know the caller: another login may help, and a right does not."""


class OverQuota(ClusterRefused):
    """A quota is used up: another try helps once something else has ended, which is no matter of seconds."""

    retryable = True


def logged_out(message: str, server: str) -> LoggedOut:
    """Return the error for a caller whom a server, which is named with its context, does not know."""
    return LoggedOut(
        message,
        given=server,
        remedy="log in again as your cluster wants it, and try: kubectl auth whoami; "
        "the new login is used at the next call",
    )


def silence(error: Exception, server: str, context: str) -> ClusterUnreachable:
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
        remedy=f"{_to_reach(context)}, or choose another cluster: "
        "kubectl config use-context ..., or GEOZARR_KUBE_CONTEXT=...",
    )


def _to_reach(context: str) -> str:
    """Return how a cluster of a context is reached again: by the program that made it, as the context's name tells."""
    for prefix, start in _STARTED_BY.items():
        if context.startswith(prefix):
            name = word(context.removeprefix(prefix) or context)
            return f"start the cluster ({start.format(name=name)})"
    return "look whether the cluster is up and your network leads there (a VPN, or HTTPS_PROXY)"


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
    if status == 401 or (status == 403 and ANONYMOUS in said):
        message = "the cluster does not know who is asking: the credentials are missing or have expired"
        return logged_out(message, f"{server} (context {context})")
    if not is_status(content) and (status < 400 or content.lstrip().startswith(b"<")):
        return no_answer(content, f"{server} (context {context})", status)
    # A policy may refuse with any status.
    if status in (400, 403, 422) and (cause := forbidden(said, namespace or own)) is not None:
        kind = OverQuota if cause.code == "quota" and not cause.lasting else ClusterRefused
        message = f"the cluster refuses to {verb} {resource}: {cause.message}"
        return kind(message, given=where, remedy=cause.remedy)
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
    except (ValueError, AttributeError, RecursionError):
        return False


def _said(content: bytes) -> tuple[str, dict[str, Any]]:
    """Return the message of a Status, and its details."""
    try:
        document = json.loads(content)
        document = document.get("object", document)
        details = {**(document.get("details") or {}), "reason": document.get("reason")}
        said = " ".join(str(document.get("message") or document.get("reason") or "").split())[:500]
        return said or "no reason given", details
    except (ValueError, AttributeError, TypeError, RecursionError):
        return " ".join(content.decode(errors="replace").split())[:200] or "no reason given", {}

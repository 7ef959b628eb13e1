"""What a cluster means by "forbidden": a 403 is a missing right, or a limit, a policy, or a namespace that goes."""

from __future__ import annotations

import re

from geozarr_nb.cluster.cause import Cause
from geozarr_nb.cluster.objects import quantity, sentence

AGAIN = "wait until another job has ended, then run the same command again"
# The setting that a limit of a resource is met with.
_SETTINGS = {"memory": "GEOZARR_MEMORY", "cpu": "GEOZARR_CPU"}
_QUOTA = re.compile(r"exceeded quota: (?P<name>[^,]+), requested: (?P<asked>.+), used: .+?, limited: (?P<most>.+)")
_RANGE = re.compile(
    r"(?P<side>maximum|minimum) (?P<what>\S+) usage per (?P<whole>\w+) is (?P<bound>[^,\s]+), but "
    r"(?:(?:request|limit) is (?P<given>[^,\s\]]+)|no (?:request|limit) is specified)"
)
_POLICIES = (
    "admission webhook",
    "violates PodSecurity",
    "ValidatingAdmissionPolicy",
    "security context constraint",
    "is forbidden by policy",
)


def forbidden(message: str, namespace: str) -> Cause | None:
    """Return what refuses, where it is no missing right; None where only a role is in question.

    Parameters
    ----------
    message
        What the API server said, to whoever asked: this person, or the controller that makes a job's pod.
    """
    said = sentence(message)
    if "because it is being terminated" in message:
        return Cause(
            "namespace-ending",
            f"namespace {namespace} is being deleted: nothing new is made in it",
            "choose another one: GEOZARR_NAMESPACE=...; "
            f"or wait until it is gone, and make it anew: kubectl create namespace {namespace}",
        )
    if "exceeded quota" in message or "failed quota" in message or "status unknown for quota" in message:
        return _quota(message, said, namespace)
    if found := _RANGE.search(message):
        return _limit_range(found, namespace)
    if "max limit to request ratio" in message:
        remedy = f"have whoever runs the cluster change it: kubectl -n {namespace} describe limitrange"
        return Cause("limit-range", f"the LimitRange of namespace {namespace} refuses it: {said}", remedy)
    if any(policy in message for policy in _POLICIES):
        return Cause(
            "policy",
            f"a policy of the cluster refuses it: {said}",
            "show this to whoever runs the cluster: the policy has to allow it, and no role does",
        )
    return None


def _quota(message: str, said: str, namespace: str) -> Cause:
    """Return what a ResourceQuota refuses, and whether it ever frees enough."""
    look = f"kubectl -n {namespace} describe resourcequota"
    if "failed quota" in message:
        remedy = f"set GEOZARR_MEMORY and GEOZARR_CPU, or have a LimitRange give the rest: {look}"
        return Cause("quota", f"the quota of namespace {namespace} wants limits: {said}", remedy)
    found = _QUOTA.search(message)
    if found is None:
        return Cause("quota", f"the quota of namespace {namespace} is used up: {said}", f"{AGAIN} ({look})", False)
    asked, most = _amounts(found["asked"]), _amounts(found["most"])
    never = [name for name, amount in asked.items() if amount > most.get(name, amount)]
    if not never:
        message = f"quota {found['name']} of namespace {namespace} is used up: {said}"
        return Cause("quota", message, f"{AGAIN} ({look})", lasting=False)
    setting = next((_SETTINGS[kind] for kind in _SETTINGS if kind in never[0]), "")
    less = f"ask for less ({setting}=...), or " if setting else ""
    return Cause(
        "quota",
        f"it asks for more than quota {found['name']} of namespace {namespace} has altogether: {said}",
        f"{less}have whoever runs the cluster raise it: {look}",
    )


def _amounts(text: str) -> dict[str, float]:
    """Return the amounts of `requests.memory=4Gi,limits.cpu=2` by their resource; what is no amount is left out."""
    found = {}
    for name, amount in re.findall(r"([\w./-]+)=([\w.+-]+)", text):
        try:
            found[name] = quantity(amount)
        except ValueError:
            continue
    return found


def _limit_range(found: re.Match[str], namespace: str) -> Cause:
    """Return what a LimitRange refuses, with the value that it takes."""
    side, what, bound, whole = (found[name] for name in ("side", "what", "bound", "whole"))
    given = f", and this asks for {found['given']}" if found["given"] else ", and this names none"
    verb = "at most" if side == "maximum" else "at least"
    message = f"the LimitRange of namespace {namespace} allows {verb} {bound} of {what} per {whole}{given}"
    look = f"kubectl -n {namespace} describe limitrange"
    change = f"have whoever runs the cluster change it: {look}"
    setting = _SETTINGS.get(what)
    if setting is None:
        return Cause("limit-range", message, change)
    fewer = ", convert fewer groups at once" if side == "maximum" else ""
    # The limit is of all containers of a pod together.
    exact = f"{setting}={bound}" if whole == "Container" else f"{setting}=..."
    return Cause("limit-range", message, f"{exact}{fewer}, or {change}")

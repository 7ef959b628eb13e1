"""The rights that a job's life takes, and what gives them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from geozarr_nb.cluster.client import Object
from geozarr_nb.cluster.kinds import CLAIMS, EVENTS, PODS, SECRETS, TEMPLATES, WORKFLOWS, Kind

SUBMITTER = "geozarr-submitter"
OPTIONAL = ("right to signed addresses", "right to logs", "right to open")


@dataclass(frozen=True, slots=True)
class Right:
    """Something that a role may allow."""

    kind: Kind
    verb: str
    subresource: str = ""

    @property
    def resource(self) -> str:
        """Its name in roles."""
        return f"{self.kind.plural}/{self.subresource}" if self.subresource else self.kind.plural

    @property
    def group(self) -> str:
        """The API group of its kind; empty for the core's."""
        return self.kind.root.split("/")[1] if self.kind.root.startswith("apis/") else ""


def _rights(kind: Kind, *verbs: str, subresource: str = "") -> tuple[Right, ...]:
    return tuple(Right(kind, verb, subresource) for verb in verbs)


# What each part of a job's life takes, and what is not there without.
NEEDED: Mapping[str, tuple[str, tuple[Right, ...]]] = {
    "right to submit": (
        "jobs are made, tried again and ended with it",
        (
            *_rights(WORKFLOWS, "create", "get", "patch", "delete"),
            *_rights(TEMPLATES, "get"),
            *_rights(CLAIMS, "get"),
        ),
    ),
    "right to signed addresses": (
        "Secrets hold the address of a product that has a password or a signature in it; other products need none",
        _rights(SECRETS, "create"),
    ),
    "right to watch": (
        "status, progress and the reason why a job waits come from there",
        (*_rights(WORKFLOWS, "list", "watch"), *_rights(PODS, "get", "list", "watch"), *_rights(EVENTS, "list")),
    ),
    "right to logs": ("events and logs of a job come from its pod", _rights(PODS, "get", subresource="log")),
    "right to open": (
        "results are read through a short-lived pod where the claim is not mounted here",
        (*_rights(PODS, "create", "delete"), *_rights(PODS, "get", subresource="proxy")),
    ),
}


def grants(rule: Object, right: Right) -> bool:
    """Return whether a rule of a role allows something, for objects of any name."""
    names = {right.resource, "*"} | ({f"*/{right.subresource}"} if right.subresource else set())
    return (
        not rule.get("resourceNames")
        and not {right.verb, "*"}.isdisjoint(rule.get("verbs") or ())
        and not {right.group, "*"}.isdisjoint(rule.get("apiGroups") or ())
        and not names.isdisjoint(rule.get("resources") or ())
    )

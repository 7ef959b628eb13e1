"""A cause: why something waits, ended or cannot work, and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from geozarr_runner.text.shell import word

# What the Makefile takes where a variable is not given; a test compares.
MAKE_DEFAULTS: Mapping[str, str] = MappingProxyType(
    {"NAMESPACE": "argo", "PVC_NAME": "geozarr-pvc", "IMAGE": "eopf-geozarr:dev"}
)


@dataclass(frozen=True, slots=True)
class Cause:
    """One reason, found in facts.

    Attributes
    ----------
    code
        Stable: what a program tells causes apart by.
    message
        One sentence for a person, without a full stop.
    remedy
        What to type or to do.
    lasting
        True where waiting does not help: somebody has to do something.
    """

    code: str
    message: str
    remedy: str
    lasting: bool = True


def make(target: str, **variables: str) -> str:
    """Return the command of a make target, without the variables that have their defaults.

    >>> make("template", NAMESPACE="argo"), make("template", NAMESPACE="team")
    ('make template', 'make template NAMESPACE=team')
    """
    given = [f"{name}={word(value)}" for name, value in variables.items() if value != MAKE_DEFAULTS.get(name)]
    return " ".join(["make", target, *given])

"""Objects of a cluster as plain dicts: what is read of each of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

Object = Mapping[str, Any]


_UNITS = {"": 1, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18} | {
    f"{letter}i": 1024.0**power for power, letter in enumerate("KMGTPE", 1)
}


def quantity(text: object) -> float:
    """Return a quantity as a number: cores or bytes.

    >>> quantity("500m"), quantity("2Gi"), quantity(3)
    (0.5, 2147483648.0, 3.0)

    Raises
    ------
    ValueError
    """
    match = re.fullmatch(r"([+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)([a-zA-Z]*)", str(text).strip())
    if match is None or match[2] not in _UNITS:
        raise ValueError(f"{text!r} is no quantity")
    return float(match[1]) * _UNITS[match[2]]


def condition(thing: Object, kind: str) -> Object:
    """Return a condition of an object, or an empty one."""
    return next((each for each in status_list(thing, "conditions") if each.get("type") == kind), {})


def name_of(thing: Object) -> str:
    """Return an object's name."""
    return str(thing["metadata"]["name"])


def status_list(thing: Object, name: str) -> list[Any]:
    """Return a list of the status of an object; empty where it has none."""
    return thing.get("status", {}).get(name) or []


def status_of(thing: Object, name: str) -> Object:
    """Return a part of the status of an object; empty where it has none."""
    found: Object = thing.get("status", {}).get(name) or {}
    return found


def sentence(text: object) -> str:
    """Return a message as part of a sentence: one line, without a full stop, not endless."""
    line = " ".join(str(text).split()).rstrip(" .")
    return line if len(line) <= 300 else f"{line[:300]}..."

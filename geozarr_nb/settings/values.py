"""How the text of a variable, or of a parameter, becomes the value of a setting.

Each function gets the text and where it came from, which the error names.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from geozarr_nb.errors import InvalidRequest

TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
_DNS_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?([KMGT]i?)?")
_VARIABLE = re.compile(r"[A-Za-z_*][A-Za-z0-9_*]*")
_CORES = re.compile(r"[0-9]+(\.[0-9]+)?|[0-9]+m")


def text(value: str, origin: str) -> str:
    """Return a text without the blanks around it."""
    return value.strip()


def boolean(value: str, origin: str) -> bool:
    """Return a truth."""
    word = value.strip().lower()
    if word in TRUE:
        return True
    if word in FALSE:
        return False
    raise InvalidRequest(f"{origin} is neither true nor false", given=value, remedy='write "true" or "false"')


def folder(value: str, origin: str) -> Path:
    """Return a folder with its full name."""
    if not value.strip():
        raise InvalidRequest(f"{origin} is empty", remedy=f"unset {origin}, or name a folder")
    from geozarr_runner.trust.addresses import expanded

    return expanded(value)


def count(value: str, origin: str) -> int:
    """Return a whole number from 1 on."""
    try:
        count = int(value)
    except ValueError:
        count = 0
    if count < 1:
        raise InvalidRequest(f"{origin} is no whole number from 1 on", given=value, remedy=f"{origin}=2, say")
    return count


def seconds(value: str, origin: str) -> float:
    """Return a time in seconds."""
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not (seconds > 0 and math.isfinite(seconds)):
        raise InvalidRequest(f"{origin} is no time in seconds above 0", given=value, remedy=f"{origin}=0.5, say")
    return seconds


def name(value: str, origin: str) -> str:
    """Return a name of an object of a cluster."""
    name = value.strip()
    if not _DNS_NAME.fullmatch(name):
        raise InvalidRequest(
            f"{origin} is no name of a cluster's object", given=value, remedy="use small letters, digits, '-' and '.'"
        )
    return name


def quantity(value: str, origin: str) -> str:
    """Return an amount of memory, as Kubernetes spells it."""
    if not _QUANTITY.fullmatch(value.strip()):
        raise InvalidRequest(f"{origin} is no amount of memory", given=value, remedy=f"{origin}=12Gi, say")
    return value.strip()


def cores(value: str, origin: str) -> str:
    """Return a number of cores, as Kubernetes spells it."""
    if not _CORES.fullmatch(value.strip()):
        raise InvalidRequest(f"{origin} is no number of cores", given=value, remedy=f"{origin}=2, say, or 500m")
    return value.strip()


def protocols(value: str, origin: str) -> frozenset[str]:
    """Return the protocols that items may name."""
    from geozarr_runner.trust.addresses import protocols as allowed  # which reads the variable too, for a run

    return allowed(value)


def variables(value: str, origin: str) -> tuple[str, ...]:
    """Return names of environment variables; `*` stands for any letters."""
    names = tuple(filter(None, re.split(r"[,\s]+", value)))
    if odd := [name for name in names if not _VARIABLE.fullmatch(name) or not name.strip("*")]:
        raise InvalidRequest(
            f"{origin} has what is no name of a variable", given=odd[0], remedy=f"{origin}=MY_TOKEN,ACME_*, say"
        )
    return names


def mounts(value: str, origin: str) -> Mapping[str, Path]:
    """Return the folder of each claim."""
    found = {}
    for entry in filter(None, (part.strip() for part in value.split(","))):
        claim, equals, path = entry.partition("=")
        if not equals or not path.startswith("/"):
            raise InvalidRequest(
                f"{origin} is no list of claims and folders", given=value, remedy=f"{origin}=geozarr-pvc=/data, say"
            )
        found[name(claim, origin)] = Path(path)
    return MappingProxyType(found)


def program(value: str, origin: str) -> str:
    """Return a program with its full name; empty for none. Whether it is there is looked at before it is used."""
    if not value.strip():
        return ""
    from geozarr_runner.trust.addresses import expanded

    return str(expanded(value.strip()))

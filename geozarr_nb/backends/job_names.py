"""Names of jobs that may have been meant by one that no job has."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

MOST = 3
_NAME = re.compile(r"(?P<product>.*)-(?P<hash>[0-9a-f]{8})(-\d+)?")


def alike(given: str, known: Iterable[str]) -> list[str]:
    """Return the names that may have been meant.

    The end of a name is a hash, and two hashes that look alike have nothing in common: names are suggested that begin
    with what was given, that have its hash, or that are of its product where no hash was given.
    """
    if not given:
        return []
    known = list(known)
    if cut_off := [name for name in known if name.startswith(given) and name != given]:
        return sorted(cut_off)[:MOST]
    if (found := _NAME.fullmatch(given)) is not None:
        return sorted(name for name in known if _hash(name) == found["hash"])[:MOST]
    products = {_product(name): name for name in known}
    return [products[near] for near in get_close_matches(given, products, n=MOST, cutoff=0.6)]


def _hash(name: str) -> str:
    found = _NAME.fullmatch(name)
    return found["hash"] if found else ""


def _product(name: str) -> str:
    found = _NAME.fullmatch(name)
    return found["product"] if found else name

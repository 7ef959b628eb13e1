"""Reads a little of what was staged again from the product, and compares it byte for byte.

What came may be what a cache kept of an older product, or what an earlier run had fetched of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from geozarr_runner.errors import ProductBroken
from geozarr_runner.product.model import Array
from geozarr_runner.stores.access.concurrency import CONCURRENCY
from geozarr_runner.stores.store import Store
from geozarr_runner.trust.addresses import redact
from geozarr_runner.trust.keys import inside

LONGEST = 64_000  # bytes of one array
LARGEST_WHOLE = 1_000_000  # bytes of an object that is read as a whole, where its store sends no parts
SHARE = 100  # of so many bytes that were staged one is read again
SHORTEST = 16  # fewer bytes tell nothing
OF_ARCHIVES = "the members of an archive carry checksums, which were compared as they were read"
OF_WHOLES = "the store sends whole objects only, and these are too large to be read again"
OF_FEW = "all that was staged is too little for a hundredth of it to tell anything"


@dataclass(frozen=True, slots=True)
class SpotCheck:
    """What was read again, and was the same.

    Attributes
    ----------
    variables, of
        Arrays of which some bytes were compared, and those of which something was staged.
    size
        Bytes that were read again.
    left_out
        Why arrays were not compared; empty where all were.
    """

    variables: int = 0
    of: int = 0
    size: int = 0
    left_out: str = ""

    def __add__(self, other: SpotCheck) -> SpotCheck:
        """Return what both have compared."""
        return SpotCheck(
            self.variables + other.variables,
            self.of + other.of,
            self.size + other.size,
            self.left_out or other.left_out,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, for an output's record."""
        told = {"variables": self.variables, "of": self.of, "bytes": self.size}
        return told | ({"left_out": self.left_out} if self.left_out else {})


@dataclass(frozen=True, slots=True)
class _Object:
    """A stored object of an array, and where it was staged."""

    key: str
    file: Path
    size: int


def spot_check(store: Store, arrays: Iterable[Array], keys: Mapping[str, object], staged: Path) -> SpotCheck:
    """Compare one part of one stored object of each array with its staged copy.

    Parameters
    ----------
    keys
        Of the objects that were staged.
    staged
        The folder that they were staged in.

    Raises
    ------
    ProductBroken
        The product has something else, or has it no more.
    ProductUnreachable
        And its kinds: it cannot be read any more.
    """
    source = store.original or store  # a cache would say again what it said
    found = {array.path: _objects(array, keys, staged) for array in arrays}
    found = {path: objects for path, objects in found.items() if objects}
    if source.url.startswith("zip:"):
        return SpotCheck(of=len(found), left_out=OF_ARCHIVES)
    left = sum(each.size for objects in found.values() for each in objects) // SHARE
    chosen = [(_chosen(path, objects)) for path, objects in found.items()]
    wanted = _within(chosen, left)
    if not wanted:
        return SpotCheck(of=len(found), left_out=OF_FEW if found else "")
    # One of them tells whether parts are sent at all.
    compared = _compare(source, wanted[:1])
    if compared:
        compared += _compare(source, wanted[1:])
        return SpotCheck(len(compared), len(found), sum(compared), OF_FEW if len(compared) < len(found) else "")
    wholes = _wholes([min(objects, key=lambda each: each.size) for objects in found.values()], left)
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        size = sum(pool.map(partial(_compare_whole, source), wholes))
    return SpotCheck(len(wholes), len(found), size, OF_WHOLES if len(wholes) < len(found) else "")


def _objects(array: Array, keys: Mapping[str, object], staged: Path) -> list[_Object]:
    files = ((key, inside(staged, key)) for key in array.object_keys() if key in keys)
    return [_Object(key, file, file.stat().st_size) for key, file in files]


def _chosen(path: str, objects: Sequence[_Object]) -> tuple[_Object, int]:
    """Return one of an array's objects, and a number that places the part: the same each time, and not for its like."""
    digest = int.from_bytes(hashlib.sha256(path.encode()).digest()[:8], "big")
    return objects[digest % len(objects)], digest // len(objects)


def _within(chosen: Sequence[tuple[_Object, int]], left: int) -> list[tuple[_Object, int, int]]:
    """Return the part of each object, where all together have no more than so many bytes."""
    most = left // SHORTEST
    # What small ones leave is for those that are larger.
    kept = sorted(sorted(chosen, key=lambda each: -each[0].size)[:most], key=lambda each: each[0].size)
    parts = []
    for done, (each, number) in enumerate(kept):
        length = min(LONGEST, each.size // 2, left // (len(kept) - done))
        if length >= SHORTEST:
            start = number % (each.size - length + 1)
            parts.append((each, start, start + length))
            left -= length
    return parts


def _wholes(objects: Sequence[_Object], left: int) -> list[_Object]:
    kept = []
    for each in sorted(objects, key=lambda each: each.size):
        if SHORTEST <= each.size <= min(LARGEST_WHOLE, left):
            kept.append(each)
            left -= each.size
    return kept


def _compare(source: Store, wanted: Sequence[tuple[_Object, int, int]]) -> list[int]:
    """Compare parts, as far as the store sends any; returns the bytes that came of each."""
    compared = []
    answers = source.parts([(each.key, start, stop) for each, start, stop in wanted])
    for (each, start, stop), answer in zip(wanted, answers, strict=True):
        if answer is None:
            continue
        content, size = answer
        with each.file.open("rb") as file:
            file.seek(start)
            is_same = file.read(stop - start) == content
        if not is_same or size not in (None, each.size):
            raise _changed(source, each.key)
        compared.append(len(content))
    return compared


def _compare_whole(source: Store, wanted: _Object) -> int:
    content = source.read(wanted.key)
    if content != wanted.file.read_bytes():
        raise _changed(source, wanted.key)
    return wanted.size


def _changed(source: Store, key: str) -> ProductBroken:
    return ProductBroken(
        "a stored object is not what was read of it before: the product has changed, or a cache is out of date",
        given=redact(f"{source.url.partition('?')[0].rstrip('/')}/{key}"),
        remedy="run the same command again when nobody changes the product, and without a cache",
    )

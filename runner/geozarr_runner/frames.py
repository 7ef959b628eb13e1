"""Stored objects that were cut off: the decoder takes some of them, and gives what happens to be in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from geozarr_runner.product import Array

BLOSC_HEADER = 16  # bytes; the last four of them are the frame's length


@dataclass(frozen=True, slots=True)
class CutOff:
    """A stored object whose length is not the one that its header says."""

    key: str
    size: int
    said: int

    def __str__(self) -> str:
        return f"it has {self.size} bytes, and its header says {self.said}"


def cut_off(array: Array, root: Path) -> Iterator[CutOff]:
    """Yield the objects of an array in a store on this machine that are not whole, where their format tells."""
    for key in array.object_keys() if array.is_blosc else ():
        path = root / key
        if not path.exists():
            continue
        with path.open("rb") as file:
            head = file.read(BLOSC_HEADER)
        said, size = int.from_bytes(head[-4:], "little"), path.stat().st_size
        if len(head) < BLOSC_HEADER or said != size:
            yield CutOff(key, size, said)

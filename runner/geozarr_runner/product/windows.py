"""Windows of arrays: the pixels of an object, parts of them, and the places where nothing is stored."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product as cartesian
from pathlib import Path

from geozarr_runner.product.chunk_check import inner_chunks_absent
from geozarr_runner.product.model import Array

type Window = tuple[slice, ...]

PIECE = 4_000_000  # pixels that are read at once


def whole(array: Array) -> Window:
    """Return all pixels of an array."""
    return tuple(slice(0, size) for size in array.shape)


def region(array: Array, index: tuple[int, ...]) -> Window:
    """Return all pixels of one stored object."""
    return tuple(
        slice(position * chunk, min((position + 1) * chunk, size))
        for size, chunk, position in zip(array.shape, array.chunks, index, strict=True)
    )


def middle(window: Window, edge: int) -> Window:
    """Return the middle of a window, at most `edge` pixels long along each dimension."""
    starts = ((part, part.start + max(part.stop - part.start - edge, 0) // 2) for part in window)
    return tuple(slice(start, min(start + edge, part.stop)) for part, start in starts)


def pieces(window: Window) -> Iterator[Window]:
    """Cut a window along its first long dimension, so that none of its parts is too large to be read at once."""
    lengths = [part.stop - part.start for part in window]
    if math.prod(lengths) <= PIECE:
        yield window
        return
    axis = next(axis for axis, length in enumerate(lengths) if length > 1)
    step = max(PIECE * lengths[axis] // math.prod(lengths), 1)
    for start in range(window[axis].start, window[axis].stop, step):
        part = slice(start, min(start + step, window[axis].stop))
        yield from pieces((*window[:axis], part, *window[axis + 1 :]))


def stored(array: Array, root: Path) -> Iterator[tuple[int, ...]]:
    """Yield the index of every object of an array that a store on this machine has."""
    return (index for index in array.indices() if (root / _key(array, index)).exists())


def absent(array: Array, root: Path) -> Iterator[Window]:
    """Yield the places where a store on this machine has nothing: whole objects, and chunks inside of shards."""
    for index in array.indices():
        file, place = root / _key(array, index), region(array, index)
        if not file.exists():
            yield place
            continue
        for inner in inner_chunks_absent(array, file):
            parts = [
                slice(min(part.start + start, part.stop), min(part.start + start + length, part.stop))
                for part, (start, length) in zip(place, inner, strict=True)
            ]
            if all(part.stop > part.start for part in parts):
                yield tuple(parts)


def parts_of(array: Array, window: Window, root: Path) -> Iterator[tuple[Window, bool]]:
    """Yield the parts of a window, none too large to be read, and whether a store on this machine has their objects."""
    along = (range(part.start // edge, -(-part.stop // edge)) for part, edge in zip(window, array.chunks, strict=True))
    for index in cartesian(*along):
        is_stored = (root / _key(array, index)).exists()
        common = tuple(
            slice(max(one.start, other.start), min(one.stop, other.stop))
            for one, other in zip(region(array, index), window, strict=True)
        )
        yield from ((part, is_stored) for part in pieces(common))


def _key(array: Array, index: tuple[int, ...]) -> str:
    return f"{array.path.lstrip('/')}/{array.key(index)}"

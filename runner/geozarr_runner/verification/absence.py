"""Pixels that an output does not have, where its source has them.

What is not stored reads as no data, or as the fill value. So each place where an output stores nothing is compared with
the source, and a variable that is all no data has to be that in the source too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product as cartesian
from pathlib import Path

import numpy as np

from geozarr_runner.product.chunk_check import inner_chunks_absent
from geozarr_runner.product.model import Array
from geozarr_runner.product.sampler import Pair, StoredPixels, Window, comparable, region

PIECE = 4_000_000  # pixels that are read at once
GLANCE = 128  # pixels along each dimension: enough for most to see that there is something


def lost(pair: Pair, source: StoredPixels, written: StoredPixels, output: Path) -> list[str]:
    """Return what an output lacks of a variable that its source has.

    Parameters
    ----------
    output
        The output's folder.
    """
    if not comparable(pair.source) or 0 in pair.output.shape:
        return []
    if not _holds_something(pair.output, written, output) and _holds_something(pair.source, source, source.store.local):
        return [f"{pair.output.path}: all of it is no data, and its source is not"]
    if pair.warped or source.store.local is None or pair.source.shape != pair.output.shape:
        return []
    for window in _absent(pair.output, output):
        instead = written.read(pair.output, tuple(slice(part.start, part.start + 1) for part in window)).ravel()[0]
        for part in _stored(pair.source, window, source.store.local):
            expected = source.read(pair.source, part)
            wrong = ~np.isclose(expected, instead, rtol=1e-5, atol=1e-12, equal_nan=True)
            if wrong.any():
                corner = ", ".join(str(place.start) for place in window)
                return [
                    f"{pair.output.path}: the chunk that begins at pixel {corner} is not stored, and reads as "
                    f"{instead:g}, where its source has {expected[wrong][0]:g}"
                ]
    return []


def _holds_something(array: Array, pixels: StoredPixels, root: Path | None) -> bool:
    """Return whether a variable has one pixel that is not no data."""
    indices = [index for index in array.indices() if root is None or (root / _key(array, index)).exists()]
    windows = (region(array, index) for index in indices)
    if any(np.isfinite(pixels.read(array, _glance(window))).any() for window in windows):
        return True
    parts = (part for index in indices for part in _pieces(region(array, index)))
    if any(np.isfinite(pixels.read(array, part)).any() for part in parts):
        return True
    # What is not stored is the fill value, which may be a value like others.
    known = set(indices)
    fill = next((region(array, index) for index in array.indices() if index not in known), None)
    return fill is not None and bool(np.isfinite(pixels.read(array, _glance(fill))).any())


def _absent(array: Array, root: Path) -> Iterator[Window]:
    """Yield the places of an array where nothing is stored: whole objects, and chunks inside of shards."""
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


def _stored(array: Array, window: Window, root: Path) -> Iterator[Window]:
    """Yield the parts of a window of which an array has stored objects; what both lack is the same in both."""
    along = (range(part.start // edge, -(-part.stop // edge)) for part, edge in zip(window, array.chunks, strict=True))
    for index in cartesian(*along):
        if (root / _key(array, index)).exists():
            whole = region(array, index)
            yield from _pieces(
                tuple(
                    slice(max(one.start, other.start), min(one.stop, other.stop))
                    for one, other in zip(whole, window, strict=True)
                )
            )


def _pieces(window: Window) -> Iterator[Window]:
    """Cut a window along its first long dimension, so that none of its parts is too large to be read at once."""
    lengths = [part.stop - part.start for part in window]
    if math.prod(lengths) <= PIECE:
        yield window
        return
    axis = next(axis for axis, length in enumerate(lengths) if length > 1)
    step = max(PIECE * lengths[axis] // math.prod(lengths), 1)
    for start in range(window[axis].start, window[axis].stop, step):
        part = slice(start, min(start + step, window[axis].stop))
        yield from _pieces((*window[:axis], part, *window[axis + 1 :]))


def _glance(window: Window) -> Window:
    """Return the middle of a window."""
    middles = ((part, part.start + max(part.stop - part.start - GLANCE, 0) // 2) for part in window)
    return tuple(slice(start, min(start + GLANCE, part.stop)) for part, start in middles)


def _key(array: Array, index: tuple[int, ...]) -> str:
    return f"{array.path.lstrip('/')}/{array.key(index)}"

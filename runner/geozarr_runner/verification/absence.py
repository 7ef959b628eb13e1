"""Pixels that an output does not have, where its source has them.

What is not stored reads as no data, or as the fill value. So each place where an output stores nothing is compared with
the source, and a variable that is all no data has to be that in the source too.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from geozarr_runner.product.model import Array
from geozarr_runner.product.sampler import WINDOW, Pair, StoredPixels, comparable
from geozarr_runner.product.windows import absent, middle, parts_of, pieces, region, stored

GLANCE = 128  # pixels along each dimension: enough for most to see that there is something
PLACES_OF_DISTANT = 3  # where the source is not on this machine, and each place takes requests


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
    if pair.warped or pair.source.shape != pair.output.shape:
        return []
    root = source.store.local
    places = list(absent(pair.output, output))
    if root is None:
        places = places[:: max(len(places) // PLACES_OF_DISTANT, 1)][:PLACES_OF_DISTANT]
    has_compared_fill = False
    for place in places:
        instead = written.read(pair.output, middle(place, 1)).ravel()[0]
        parts = [(middle(place, WINDOW), True)] if root is None else parts_of(pair.source, place, root)
        for part, is_stored in parts:
            if not is_stored:
                if has_compared_fill:  # what both lack is the same everywhere
                    continue
                has_compared_fill, part = True, middle(part, 1)
            expected = source.read(pair.source, part)
            wrong = ~np.isclose(expected, instead, rtol=1e-5, atol=1e-12, equal_nan=True)
            if wrong.any():
                corner = ", ".join(str(each.start) for each in place)
                return [
                    f"{pair.output.path}: the chunk that begins at pixel {corner} is not stored, and reads as "
                    f"{instead:g}, where its source has {expected[wrong][0]:g}"
                ]
    return []


def _holds_something(array: Array, pixels: StoredPixels, root: Path | None) -> bool:
    """Return whether a variable has one pixel that is not no data."""
    indices = list(array.indices()) if root is None else list(stored(array, root))
    windows = (region(array, index) for index in indices)
    if any(np.isfinite(pixels.read(array, middle(window, GLANCE))).any() for window in windows):
        return True
    parts = (part for index in indices for part in pieces(region(array, index)))
    if any(np.isfinite(pixels.read(array, part)).any() for part in parts):
        return True
    # What is not stored is the fill value, which may be a value like others.
    known = set(indices)
    fill = next((region(array, index) for index in array.indices() if index not in known), None)
    return fill is not None and bool(np.isfinite(pixels.read(array, middle(fill, GLANCE))).any())

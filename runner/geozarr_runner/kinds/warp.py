"""Pixels of a Sentinel-1 output, which lie on another grid than the source's.

The converter warps radar lines and pixels to degrees with the product's ground control points. The same points tell
here where pixels of the output came from: among the source's pixels around that place its value has to lie, and the
image has to fit the source better there than half a pixel beside it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geozarr_runner.kinds.control_points import CENTRE, ControlPoints
from geozarr_runner.product.model import Array, Group
from geozarr_runner.product.sampler import Pair, StoredPixels, Values, Window, align, check_overviews

WINDOW = 64
REACH = 2  # pixels: bilinear interpolation takes one, the rounding of the control points' polynomial another
HALF = 0.5  # pixel: how far beside its place the image is tried
FARTHEST = 0.25  # pixel: GDAL's own approximation of a warp may be 0.125 off
FEWEST_PIXELS = 64
# Squared, of the values: a picture that changes less over a pixel does not tell where it lies.
LEAST_RELIEF = 0.05


class Warp:
    """Where the pixels of a product's outputs came from.

    Parameters
    ----------
    control_points
        The group that has them.
    source
        The store that the converter read.
    """

    def __init__(self, control_points: Group, source: StoredPixels) -> None:
        self._source = source
        self._points = ControlPoints.read(control_points, source)

    def compare(self, pair: Pair, written: StoredPixels) -> tuple[list[str], int]:
        """Compare the middle of a warped variable.

        Returns
        -------
        problems, pixels
            What is wrong, and how many pixels were compared.
        """
        window = align(pair, _middle(pair.output))
        actual = written.read(pair.output, window)
        longitude, latitude = np.meshgrid(
            written.read_path(f"{_group(pair.output)}/x", window[-1:]),
            written.read_path(f"{_group(pair.output)}/y", window[-2:-1]),
        )
        places = self._points.to_source(longitude.ravel(), latitude.ravel()).reshape(2, *longitude.shape)
        near = _Neighbourhood.of(pair.source, self._source, places)
        problems = []
        shown = actual.reshape(-1, *longitude.shape)[0]
        low, high = near.extremes()
        seen = np.isfinite(shown) & np.isfinite(low)
        if not seen.any():
            problems.append(f"{pair.output.path}: its middle holds no data")
        wrong = seen & ((shown < low - 1) | (shown > high + 1))
        # Where the scene ends, the warp mixes in what lies outside.
        if wrong.sum() > 0.01 * seen.sum():
            problems.append(
                f"{pair.output.path}: {wrong.sum()} of {seen.sum()} sampled pixels are not among the source's, "
                f"e.g. {shown[wrong][0]:g}, where the source has {low[wrong][0]:g} to {high[wrong][0]:g}"
            )
        elif (beside := near.misplacement(shown)) is not None and np.hypot(*beside) > FARTHEST:
            problems.append(
                f"{pair.output.path}: it lies {beside[0]:+.2f} lines and {beside[1]:+.2f} pixels beside its place"
            )
        problems += check_overviews(pair, window, actual, written)
        return problems, int(seen.sum())


@dataclass(frozen=True, slots=True)
class _Neighbourhood:
    """The source's pixels around the places that an output's came from.

    Attributes
    ----------
    block
        Pixels of the source, all that the places need.
    rows, columns
        The places, counted from the centre of the block's first pixel.
    is_inside
        False where the source does not surround a place.
    reach
        How many pixels around a place its value may come from.
    """

    block: Values
    rows: Values
    columns: Values
    is_inside: NDArray[np.bool_]
    reach: int

    @classmethod
    def of(cls, array: Array, source: StoredPixels, places: Values) -> _Neighbourhood:
        """Read them."""
        # Where the output is coarser than the source, each of its pixels stands for several.
        steps = [np.abs(np.diff(places, axis=axis)).max(initial=0.0) for axis in (1, 2)]
        reach = REACH + int(np.ceil(max(*steps, 1.0))) - 1
        rows, columns = places - CENTRE
        height, width = array.shape[-2:]
        is_inside = (rows >= reach) & (rows < height - 1 - reach) & (columns >= reach) & (columns < width - 1 - reach)
        if not is_inside.any():
            return cls(np.zeros((0, 0)), rows, columns, is_inside, reach)
        top, left = int(rows[is_inside].min()) - reach, int(columns[is_inside].min()) - reach
        bottom, right = int(rows[is_inside].max()) + reach + 2, int(columns[is_inside].max()) + reach + 2
        window = (slice(top, bottom), slice(left, right))
        block = source.read(array, (*(slice(0, 1) for _ in array.shape[:-2]), *window))
        return cls(block.reshape(block.shape[-2:]), rows - top, columns - left, is_inside, reach)

    def extremes(self) -> tuple[Values, Values]:
        """Return the least and the greatest of the values around each place; NaN where none surround it."""
        low, high = np.full(self.rows.shape, np.nan), np.full(self.rows.shape, np.nan)
        if self.is_inside.any():
            edge = 2 * self.reach + 1
            rows, columns = self._at(np.rint)
            near = np.lib.stride_tricks.sliding_window_view(self.block, (edge, edge))
            around = near[rows - self.reach, columns - self.reach]
            low[self.is_inside], high[self.is_inside] = around.min(axis=(-2, -1)), around.max(axis=(-2, -1))
        return low, high

    def misplacement(self, shown: Values) -> tuple[float, float] | None:
        """Return how many lines and pixels beside its place an image lies; None where it does not tell.

        The squared difference from the source is a parabola of the distance: it is taken half a pixel before, at, and
        half a pixel behind the place, in each direction.
        """
        known = self.is_inside & np.isfinite(shown)
        if known.sum() < FEWEST_PIXELS:
            return None

        def difference(down: float, across: float) -> float:
            there = self._interpolated(down, across)
            both = np.isfinite(there) & known
            return float(np.mean((shown[both] - there[both]) ** 2)) if both.sum() >= FEWEST_PIXELS else np.nan

        at = difference(0.0, 0.0)
        found = []
        for down, across in ((HALF, 0.0), (0.0, HALF)):
            before, behind = difference(-down, -across), difference(down, across)
            relief = before + behind - 2 * at
            if not np.isfinite(relief):
                return None
            if relief > LEAST_RELIEF:
                found.append(HALF * (before - behind) / (2 * relief))
            else:  # of a parabola that bends down here the place is far off, and of a flat one nowhere
                found.append(0.0 if abs(before - behind) <= LEAST_RELIEF else HALF * float(np.sign(before - behind)))
        return found[0], found[1]

    def _at(self, whole: np.ufunc) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
        return whole(self.rows[self.is_inside]).astype(int), whole(self.columns[self.is_inside]).astype(int)

    def _interpolated(self, down: float, across: float) -> Values:
        """Return the source's values some way beside each place, between the four pixels around it."""
        rows, columns = self.rows[self.is_inside] + down, self.columns[self.is_inside] + across
        top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
        low, right = rows - top, columns - left
        above = (1 - right) * self.block[top, left] + right * self.block[top, left + 1]
        below = (1 - right) * self.block[top + 1, left] + right * self.block[top + 1, left + 1]
        found: Values = np.full(self.rows.shape, np.nan)
        found[self.is_inside] = (1 - low) * above + low * below
        return found


def _middle(array: Array) -> Window:
    return tuple(
        slice(max((size - WINDOW) // 2, 0), min((size + WINDOW) // 2, size))
        if axis >= len(array.shape) - 2
        else slice(0, 1)
        for axis, size in enumerate(array.shape)
    )


def _group(array: Array) -> str:
    return array.path.rpartition("/")[0]

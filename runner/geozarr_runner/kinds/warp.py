"""Pixels of a Sentinel-1 output, which lie on another grid than the source's.

The converter warps radar lines and pixels to degrees with the product's ground control points. The same points tell
here where pixels of the output came from: among the source's pixels around that place its value has to lie, with no
data where there are none, and the image has to fit the source better there than half a pixel beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geozarr_runner.kinds.control_points import CENTRE, ControlPoints
from geozarr_runner.product.model import Array, Group
from geozarr_runner.product.sampler import Pair, StoredPixels, Values, align, check_overviews, telling
from geozarr_runner.product.windows import Window, absent, middle

WINDOW = 64
REACH = 2  # pixels: bilinear interpolation takes one, the rounding of the control points' polynomial another
PLACES = 17  # along each dimension of a chunk that is not stored
TILE = 1024  # pixels of the source that are read at once
FEW = 0.01
HALF = 0.5  # pixel: how far beside its place the image is tried
FARTHEST = 0.25  # pixel: GDAL's own approximation of a warp may be 0.125 off
FEWEST_PIXELS = 64
# Squared, of the values: a picture that changes less over a pixel does not tell where it lies.
LEAST_RELIEF = 0.05
# Squared: a slope tells where it lies uphill. Across, GDAL's approximation uphill would count as a shift.
LEAST_OF_THE_STEEPEST = 1 / 16


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
        """Compare a warped variable: its middle, its borders, and where the source's data begin or end.

        Returns
        -------
        problems, pixels
            What is wrong, and how many pixels were compared.
        """
        grid = _Coordinates.of(pair.output, written)
        window = align(pair, _middle(pair.output))
        actual = written.read(pair.output, window)
        shown = actual.reshape(-1, *actual.shape[-2:])[0]
        near = self._around(pair, grid, window)
        low, _ = near.extremes()
        seen = np.isfinite(shown) & np.isfinite(low)
        problems = []
        if not seen.any():
            problems.append(f"{pair.output.path}: its middle holds no data")
        elif wrong := near.unlike(shown):
            problems.append(f"{pair.output.path}: {wrong}")
        elif (beside := near.misplacement(shown)) is not None and np.hypot(*beside) > FARTHEST:
            problems.append(
                f"{pair.output.path}: it lies {beside[0]:+.2f} lines and {beside[1]:+.2f} pixels beside its place"
            )
        problems += check_overviews(pair, window, actual, written)
        pixels = int(seen.sum())
        for other in dict.fromkeys((*_spread(pair.output), *self._telling(pair, grid))):
            values = written.read(pair.output, other)
            near = self._around(pair, grid, other)
            shown = values.reshape(-1, *values.shape[-2:])[0]
            if wrong := near.unlike(shown):
                problems.append(f"{pair.output.path}: {wrong}")
            pixels += int(np.isfinite(shown).sum())
        return problems, pixels

    def lost(self, pair: Pair, written: StoredPixels, output: Path) -> list[str]:
        """Return what an output does not have stored where its source has data.

        Parameters
        ----------
        output
            The output's folder.
        """
        grid = _Coordinates.of(pair.output, written)
        reach = self._around(pair, grid, _middle(pair.output)).reach + 1
        for place in absent(pair.output, output):
            if any(part.start for part in place[:-2]):
                continue  # of several layers the first one is compared
            instead = written.read(pair.output, middle(place, 1)).ravel()[0]
            rows, columns = (
                np.unique(np.linspace(part.start, part.stop - 1, PLACES).round().astype(int)) for part in place[-2:]
            )
            places = self._places(grid.x[columns], grid.y[rows]).reshape(2, -1)
            tiles = np.floor(places / TILE).astype(int)
            lacking, known, example = 0, 0, np.nan
            for tile in np.unique(tiles, axis=1).T:
                chosen = places[:, (tiles == tile[:, None]).all(axis=0)]
                low, high = _Neighbourhood.of(pair.source, self._source, chosen, reach).extremes()
                wrong = np.isfinite(low) & ~((instead >= low - 1) & (instead <= high + 1))
                lacking, known = lacking + int(wrong.sum()), known + int(np.isfinite(low).sum())
                example = low[wrong][0] if wrong.any() else example
            if lacking > FEW * known:
                corner = ", ".join(str(each.start) for each in place)
                return [
                    f"{pair.output.path}: the chunk that begins at pixel {corner} is not stored, and reads as "
                    f"{instead:g}, where its source has {example:g}"
                ]
        return []

    def _around(self, pair: Pair, grid: _Coordinates, window: Window) -> _Neighbourhood:
        places = self._places(grid.x[window[-1]], grid.y[window[-2]])
        return _Neighbourhood.of(pair.source, self._source, places)

    def _places(self, longitudes: Values, latitudes: Values) -> Values:
        longitude, latitude = np.meshgrid(longitudes, latitudes)
        return self._points.to_source(longitude.ravel(), latitude.ravel()).reshape(2, *longitude.shape)

    def _telling(self, pair: Pair, grid: _Coordinates) -> Iterator[Window]:
        """Yield windows of the output for those of the source where a border of its data is likely."""
        for found in telling(pair.source, self._source):
            row, column = ((part.start + part.stop) / 2 for part in found[-2:])
            middle_of = grid.nearest(*self._points.to_place(row, column))
            sizes = pair.output.shape[-2:]
            starts = [
                min(max(place - WINDOW // 2, 0), max(size - WINDOW, 0))
                for place, size in zip(middle_of, sizes, strict=True)
            ]
            parts = (slice(start, min(start + WINDOW, size)) for start, size in zip(starts, sizes, strict=True))
            yield (*(slice(0, 1) for _ in pair.output.shape[:-2]), *parts)


@dataclass(frozen=True, slots=True)
class _Coordinates:
    """The centres of an output's pixels."""

    x: Values
    y: Values

    @classmethod
    def of(cls, array: Array, written: StoredPixels) -> _Coordinates:
        """Read them."""
        height, width = array.shape[-2:]
        x = written.read_path(f"{_group(array)}/x", (slice(0, width),))
        return cls(x, written.read_path(f"{_group(array)}/y", (slice(0, height),)))

    def nearest(self, longitude: float, latitude: float) -> tuple[int, int]:
        """Return the row and the column of the pixel nearest to a place."""
        return int(abs(self.y - latitude).argmin()), int(abs(self.x - longitude).argmin())


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
    is_outside
        True where the source has nothing that a place's value may come from.
    reach
        How many pixels around a place its value may come from.
    """

    block: Values
    rows: Values
    columns: Values
    is_inside: NDArray[np.bool_]
    is_outside: NDArray[np.bool_]
    reach: int

    @classmethod
    def of(cls, array: Array, source: StoredPixels, places: Values, reach: int | None = None) -> _Neighbourhood:
        """Read them; without a reach the places are those of neighbouring pixels."""
        if reach is None:  # where the output is coarser than the source, each of its pixels stands for several
            steps = [np.abs(np.diff(places, axis=axis)).max(initial=0.0) for axis in (1, 2)]
            reach = REACH + int(np.ceil(max(*steps, 1.0))) - 1
        rows, columns = places - CENTRE
        height, width = array.shape[-2:]
        is_outside = (rows < -reach) | (rows > height - 1 + reach) | (columns < -reach) | (columns > width - 1 + reach)
        is_inside = (rows >= reach) & (rows < height - 1 - reach) & (columns >= reach) & (columns < width - 1 - reach)
        if not is_inside.any():
            return cls(np.zeros((0, 0)), rows, columns, is_inside, is_outside, reach)
        top, left = int(rows[is_inside].min()) - reach, int(columns[is_inside].min()) - reach
        bottom, right = int(rows[is_inside].max()) + reach + 2, int(columns[is_inside].max()) + reach + 2
        window = (slice(top, bottom), slice(left, right))
        block = source.read(array, (*(slice(0, 1) for _ in array.shape[:-2]), *window))
        return cls(block.reshape(block.shape[-2:]), rows - top, columns - left, is_inside, is_outside, reach)

    def unlike(self, shown: Values) -> str:
        """Return what is wrong with the values of an output at the places; empty where nothing is."""
        low, high = self.extremes()
        known, is_data = np.isfinite(low), np.isfinite(shown)
        seen = known & is_data
        wrong = seen & ((shown < low - 1) | (shown > high + 1))
        # Where the scene ends, the warp mixes in what lies outside.
        if wrong.sum() > FEW * seen.sum():
            return (
                f"{wrong.sum()} of {seen.sum()} sampled pixels are not among the source's, "
                f"e.g. {shown[wrong][0]:g}, where the source has {low[wrong][0]:g} to {high[wrong][0]:g}"
            )
        lacking = known & ~is_data
        if lacking.sum() > FEW * known.sum():
            instead = f"{low[lacking][0]:g} to {high[lacking][0]:g}"
            return f"{lacking.sum()} of {known.sum()} sampled pixels are no data, where the source has e.g. {instead}"
        nothing = self.is_outside | self._is_empty()
        added = nothing & is_data
        if added.sum() > FEW * nothing.sum():
            found = f"{shown[added][0]:g}"
            return f"{added.sum()} of {nothing.sum()} sampled pixels are e.g. {found}, where the source has no data"
        return ""

    def extremes(self) -> tuple[Values, Values]:
        """Return the least and the greatest of the values around each place; NaN where none surround it."""
        low, high = np.full(self.rows.shape, np.nan), np.full(self.rows.shape, np.nan)
        if self.is_inside.any():
            around = self._near()
            low[self.is_inside], high[self.is_inside] = around.min(axis=(-2, -1)), around.max(axis=(-2, -1))
        return low, high

    def _is_empty(self) -> NDArray[np.bool_]:
        """Return where the source has no data in all of what a place's value may come from."""
        found = np.zeros(self.rows.shape, bool)
        if self.is_inside.any():
            found[self.is_inside] = np.isnan(self._near()).all(axis=(-2, -1))
        return found

    def _near(self) -> Values:
        edge = 2 * self.reach + 1
        rows, columns = self._at(np.rint)
        around: Values = np.lib.stride_tricks.sliding_window_view(self.block, (edge, edge))
        return around[rows - self.reach, columns - self.reach]

    def misplacement(self, shown: Values) -> tuple[float, float] | None:
        """Return how many lines and pixels beside its place an image lies; None where it does not tell.

        The squared difference from the source is a parabola of the distance: it is taken half a pixel before, at, and
        half a pixel behind the place, in the direction in which the source is steepest, and across.
        """
        known = self.is_inside & np.isfinite(shown)
        if known.sum() < FEWEST_PIXELS:
            return None

        def difference(down: float, across: float) -> float:
            there = self._interpolated(down, across)
            both = np.isfinite(there) & known
            return float(np.mean((shown[both] - there[both]) ** 2)) if both.sum() >= FEWEST_PIXELS else np.nan

        at = difference(0.0, 0.0)
        least, found = LEAST_RELIEF, np.zeros(2)
        for direction in self._directions(known):
            before, behind = difference(*-HALF * direction), difference(*HALF * direction)
            relief = before + behind - 2 * at
            if not np.isfinite(relief):
                return None
            if relief > least:
                found += direction * HALF * (before - behind) / (2 * relief)
            elif abs(before - behind) > least:  # of a parabola that bends down the place is far off
                found += direction * HALF * np.sign(before - behind)
            least = max(least, LEAST_OF_THE_STEEPEST * max(before, behind))
        return float(found[0]), float(found[1])

    def _directions(self, known: NDArray[np.bool_]) -> tuple[Values, Values]:
        """Return, as lines and pixels, the direction in which the source is steepest, and the one across it."""
        slopes = [
            self._interpolated(*step) - self._interpolated(*-step)
            for step in (np.array((HALF, 0.0)), np.array((0.0, HALF)))
        ]
        usable = known & np.isfinite(slopes[0]) & np.isfinite(slopes[1])
        steepness = np.stack([slope[usable] for slope in slopes])
        _, directions = np.linalg.eigh(steepness @ steepness.T)
        return directions[:, 1], directions[:, 0]

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


def _spread(array: Array) -> Iterator[Window]:
    """Yield windows at an image's corners and in the middles of its edges."""
    along = [(0, max((size - WINDOW) // 2, 0), max(size - WINDOW, 0)) for size in array.shape[-2:]]
    for row in along[0]:
        for column in along[1]:
            if (row, column) != (along[0][1], along[1][1]):
                parts = (slice(start, start + WINDOW) for start in (row, column))
                yield (*(slice(0, 1) for _ in array.shape[:-2]), *parts)


def _group(array: Array) -> str:
    return array.path.rpartition("/")[0]

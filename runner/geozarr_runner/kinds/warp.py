"""Pixels of a Sentinel-1 output, which lie on another grid than the source's.

The converter warps radar lines and pixels to degrees with the product's ground control points. The same points tell
here where pixels of the output came from; among the source's pixels around that place its value has to lie.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from geozarr_runner.product.model import Array, Group
from geozarr_runner.product.sampler import Pair, StoredPixels, Values, Window, align, check_overviews

WINDOW = 64
REACH = 2  # pixels: bilinear interpolation takes one, the rounding of the control points' polynomial another


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
        from rasterio.control import GroundControlPoint
        from rasterio.transform import GCPTransformer

        arrays = {array.name: array for array in control_points.arrays}
        columns = (_on_grid(arrays, name, source) for name in ("line", "pixel", "longitude", "latitude", "height"))
        points = [GroundControlPoint(*values) for values in zip(*columns, strict=True)]
        self._source = source
        self._to_source = GCPTransformer(points)

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
        rows, columns = self._to_source.rowcol(longitude.ravel(), latitude.ravel(), op=np.floor)
        low, high = self._around(pair.source, np.asarray(rows, int), np.asarray(columns, int), actual.shape)
        seen = np.isfinite(actual) & np.isfinite(low)
        problems = []
        if not seen.any():
            problems.append(f"{pair.output.path}: its middle holds no data")
        wrong = seen & ((actual < low - 1) | (actual > high + 1))
        # Where the scene ends, the warp mixes in what lies outside.
        if wrong.sum() > 0.01 * seen.sum():
            problems.append(
                f"{pair.output.path}: {wrong.sum()} of {seen.sum()} sampled pixels are not among the source's, "
                f"e.g. {actual[wrong][0]:g}, where the source has {low[wrong][0]:g} to {high[wrong][0]:g}"
            )
        problems += check_overviews(pair, window, actual, written)
        return problems, int(seen.sum())

    def _around(
        self,
        array: Array,
        rows: np.ndarray[tuple[int], np.dtype[np.int_]],
        columns: np.ndarray[tuple[int], np.dtype[np.int_]],
        shape: tuple[int, ...],
    ) -> tuple[Values, Values]:
        """Return the least and the greatest of the source's values within `REACH` of each place; NaN outside of it."""
        height, width = array.shape[-2:]
        inside = (rows >= REACH) & (rows < height - REACH) & (columns >= REACH) & (columns < width - REACH)
        low, high = np.full(rows.shape, np.nan), np.full(rows.shape, np.nan)
        if inside.any():
            top, left = rows[inside].min() - REACH, columns[inside].min() - REACH
            bottom, right = rows[inside].max() + REACH + 1, columns[inside].max() + REACH + 1
            block = self._source.read(array, (slice(top, bottom), slice(left, right)))
            reach = 2 * REACH + 1
            near = np.lib.stride_tricks.sliding_window_view(block, (reach, reach))
            around = near[rows[inside] - top - REACH, columns[inside] - left - REACH]
            low[inside], high[inside] = around.min(axis=(-2, -1)), around.max(axis=(-2, -1))
        return low.reshape(shape), high.reshape(shape)


def _on_grid(arrays: Mapping[str, Array], name: str, source: StoredPixels) -> Values:
    """Return one value for each control point, also of what is given once a line or once a column."""
    array, grid = arrays[name], arrays["latitude"]
    values = source.read(array, tuple(slice(0, size) for size in array.shape))
    if values.ndim == 1:
        values = values[:, None] if array.dims[0] == grid.dims[0] else values[None, :]
    return np.broadcast_to(values, grid.shape).ravel()


def _middle(array: Array) -> Window:
    return tuple(
        slice(max((size - WINDOW) // 2, 0), min((size + WINDOW) // 2, size))
        if axis >= len(array.shape) - 2
        else slice(0, 1)
        for axis, size in enumerate(array.shape)
    )


def _group(array: Array) -> str:
    return array.path.rpartition("/")[0]

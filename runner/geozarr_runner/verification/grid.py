"""Where an output says in words that its pixels lie, against its own x and y, which are compared with the source's."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from geozarr_runner.product.model import Array, Group
from geozarr_runner.product.sampler import StoredPixels, Values
from geozarr_runner.verification.reference_system import GRID_MAPPING

NEAR = 0.1  # of a pixel
TRANSFORM, BOX, SHAPE, GDAL = "spatial:transform", "spatial:bbox", "spatial:shape", "GeoTransform"
OF_ARRAYS = {"proj:transform": TRANSFORM, "proj:bbox": BOX, "proj:shape": SHAPE}


def misplaced(
    group: Group, source: Group, attributes: Sequence[Mapping[str, Any]], written: StoredPixels, *, is_warped: bool
) -> Iterator[str]:
    """Yield where a group of an output does not say that it lies where its x and y do.

    Parameters
    ----------
    source
        The source's group: what its arrays say wrongly, and the output's still do, is the product's matter.
    attributes
        Those that tell of the group: its own, and those of its level in a layout.
    is_warped
        The converter made x and y.
    """
    arrays = {array.name: array for array in group.arrays}
    if not {"x", "y"} <= arrays.keys() or any(len(arrays[name].shape) != 1 for name in ("x", "y")):
        return
    x, y = (written.read(arrays[name], (slice(0, arrays[name].shape[0]),)) for name in ("x", "y"))
    if min(x.size, y.size) < 2:  # of one row nobody knows how high it is
        return
    steps = [float(values[-1] - values[0]) / (values.size - 1) for values in (x, y)]
    for name, values, step in zip(("x", "y"), (x, y), steps, strict=True):
        if not _is_even(values, step):
            if is_warped:
                yield f"its {name} does not go on in equal steps"
            return
    grid = _Grid(float(x[0]), float(y[0]), steps[0], steps[1], (y.size, x.size))
    for own in attributes:
        is_node = own.get("spatial:registration") == "node"
        for name in (TRANSFORM, BOX, SHAPE):
            if name in own and (problem := grid.unlike(name, own[name], is_node=is_node)):
                yield f"its {name} {problem}"
    mapping = arrays[GRID_MAPPING].attributes if GRID_MAPPING in arrays else {}
    if GDAL in mapping and (problem := grid.unlike(GDAL, mapping[GDAL])):
        yield f"the {GDAL} of its {GRID_MAPPING} {problem}"
    given = {array.name: array.attributes for array in source.arrays}
    for array in group.variables:
        if array.name in given:  # what the converter adds to a group keeps the words of where it comes from
            yield from _of_array(array, given[array.name], grid)


def _of_array(array: Array, given: Mapping[str, Any], grid: _Grid) -> Iterator[str]:
    for name, meaning in OF_ARRAYS.items():
        said = array.attributes.get(name)
        if said is not None and said != given.get(name) and (problem := grid.unlike(meaning, said)):
            yield f"the {name} of {array.name} {problem}"


def _is_even(values: Values, step: float) -> bool:
    even = values[0] + step * np.arange(values.size)
    return step != 0 and math.isfinite(step) and bool((abs(values - even) <= NEAR * abs(step)).all())


class _Grid:
    """Centres of pixels that go on in equal steps."""

    def __init__(self, x: float, y: float, width: float, height: float, shape: tuple[int, int]) -> None:
        self._corner = x - width / 2, y - height / 2
        self._step = width, height
        self._shape = shape

    def unlike(self, name: str, said: Any, *, is_node: bool = False) -> str:
        """Return what is wrong with what is said of it; empty where nothing is.

        Parameters
        ----------
        is_node
            It is said of the centres of pixels, and not of their edges.
        """
        numbers = said.split() if name == GDAL and isinstance(said, str) else said
        try:
            found = [float(number) for number in numbers]
        except (TypeError, ValueError):
            return f"is {str(said)[:60]!r}, which is none"
        if name == SHAPE:
            is_right = tuple(found[-2:]) == self._shape
            return "" if is_right else f"is {found}, and it has {self._shape} pixels"
        (width, height), (rows, columns) = self._step, self._shape
        inwards = 0.5 if is_node else 0.0
        west, north = self._corner[0] + inwards * width, self._corner[1] + inwards * height
        if name == BOX:
            east, south = west + (columns - 2 * inwards) * width, north + (rows - 2 * inwards) * height
            wanted = [min(west, east), min(south, north), max(west, east), max(south, north)]
            slack = [abs(width), abs(height)] * 2
        else:
            wanted, slack = [width, 0.0, west, 0.0, height, north], [abs(width)] * 3 + [abs(height)] * 3
            # A wrong step adds up over a whole row.
            slack = [
                abs(width) / columns,
                abs(width) / rows,
                slack[2],
                abs(height) / columns,
                abs(height) / rows,
                slack[5],
            ]
            if name == GDAL:
                order = (2, 0, 1, 5, 3, 4)
                wanted, slack = [wanted[place] for place in order], [slack[place] for place in order]
            elif len(found) == 9:  # the last line of a matrix
                found = found[:6]
        if len(found) != len(wanted):
            return f"is {str(said)[:60]!r}, which is none"
        off = [abs(one - other) > NEAR * room for one, other, room in zip(found, wanted, slack, strict=True)]
        if not any(off) and all(map(math.isfinite, found)):
            return ""
        return f"is {found}, where its x and y say {wanted}"

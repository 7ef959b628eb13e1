"""The grid of a group: whether one transform says where each of its pixels lies, and whether xarray can open it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from geozarr_runner.kinds.layout import overview_shapes
from geozarr_runner.product.model import Array, Group, Product

if TYPE_CHECKING:
    from geozarr_runner.product.sampler import StoredPixels

AXES = ("y", "x")
# As others call them, and as the converter wants them.
OTHER_NAMES = {"lat": "y", "latitude": "y", "lon": "x", "longitude": "x"}
UNEVEN = 0.1  # pixel: float32's rounding is less


def flaw(product: Product, group: Group) -> str | None:
    """Return why a group's data lie on no grid that the converter takes, as its metadata say it; None where they do."""
    arrays = {array.name: array for array in group.arrays}
    if (conflict := _conflict(group.arrays)) is not None:
        return conflict
    if not set(AXES) <= arrays.keys() & {array.name for array in group.coordinates}:
        dims = dict.fromkeys(dim for array in group.variables for dim in array.dims)
        lies = f"its data lie over ({', '.join(dims) or 'nothing'}) and not over a grid of y and x with coordinates"
        return lies + _what_to_do(product, group, tuple(dims))
    for name in AXES:
        axis = arrays[name]
        if axis.dims != (name,):
            return (
                f"its {name} lies over ({', '.join(axis.dims)}): each pixel has a place of its own, and GeoZarr needs "
                "rows and columns; resample it, e.g. with pyresample"
            )
        if axis.shape[0] < 2:
            pixels = "one pixel, whose size nothing says," if axis.shape[0] else "no pixels"
            return f"it has {pixels} along {name}"
    for array in group.variables:
        if array.dims[-2:] != AXES or len(array.dims) > 3:
            why = f"{array.name} lies over ({', '.join(array.dims)}), and only (y, x) or (band, y, x) has overviews"
            is_turned = set(AXES) <= set(array.dims) and len(array.dims) <= 3
            return f"{why}: turn it with xarray, .transpose(..., 'y', 'x')" if is_turned else why
    return _taken(group, arrays[AXES[0]].shape[0], arrays[AXES[1]].shape[0])


def uneven(group: Group, source: StoredPixels) -> str | None:
    """Return which of a grid's axes has no even steps, so that no transform says where its pixels lie; None for none.

    Raises
    ------
    GeozarrError
        An axis cannot be read.
    """
    import numpy as np

    for array in group.coordinates:
        if array.name not in AXES or array.dims != (array.name,):
            continue
        values = source.read(array, (slice(None),))
        step = (values[-1] - values[0]) / (len(values) - 1)
        off = np.abs(values - (values[0] + step * np.arange(len(values))))
        if not np.isfinite(off).all() or step == 0:
            return (
                f"its {array.name} does not say where each pixel lies: values are all the same, or missing as xarray "
                "reads it, for which in Zarr v2 the fill value stands: write it with fill_value null"
            )
        if (most := off.max() / abs(step)) > UNEVEN:
            return (
                f"its {array.name} has no even steps: pixels lie up to {most:.1f} of a step beside them, and GeoZarr "
                f"places all by one step; put it on an even grid: xarray's .interp({array.name}=...)"
            )
        if (step > 0) == (array.name == "y"):
            return (
                f"its {array.name} {'grows' if step > 0 else 'falls'} from pixel to pixel, and the converter places "
                f"images whose first pixel is north-west; turn it with xarray: "
                f".sortby({array.name!r}, ascending={array.name == 'x'})"
            )
    return None


def _conflict(arrays: Iterable[Array]) -> str | None:
    """Return which arrays of a group have another length along the same dimension: xarray opens no such group."""
    known: dict[str, tuple[int, str]] = {}
    for array in arrays:
        for dim, size in zip(array.dims, array.shape, strict=True):
            other, name = known.setdefault(dim, (size, array.name))
            if other != size:
                return (
                    f"{array.name} has {size} values along {dim}, and {name} has {other}: xarray opens no group of two "
                    "grids; write each into a group of its own"
                )
    return None


def _what_to_do(product: Product, group: Group, dims: tuple[str, ...]) -> str:
    """Return what to type about a group without y and x; empty where that is not known."""
    if any(array.shape and not _names_dimensions(array) for array in group.variables):
        return "; its arrays do not name their dimensions: dimension_names in Zarr v3, _ARRAY_DIMENSIONS in v2"
    renamed = {dim: OTHER_NAMES[dim.lower()] for dim in dims if dim.lower() in OTHER_NAMES}
    if set(renamed.values()) == set(AXES) and all(len(array.dims) > 1 for array in group.variables):
        return f"; rename them with xarray: .rename({renamed})"
    if set(AXES) <= set(dims):
        return "; xarray's DataTree.to_zarr writes those of a parent into each group" if _above(product, group) else ""
    return ""


def _names_dimensions(array: Array) -> bool:
    if array.metadata.get("zarr_format") == 3:
        return bool(array.metadata.get("dimension_names"))
    return bool(array.attributes.get("_ARRAY_DIMENSIONS"))


def _above(product: Product, group: Group) -> bool:
    """Return whether a group above has the coordinates: xarray's trees inherit them."""
    above = (other for path, other in product.groups.items() if f"{group.path}/".startswith(f"{path.rstrip('/')}/"))
    return any(set(AXES) <= {array.name for array in other.arrays} for other in above)


def _taken(group: Group, height: int, width: int) -> str | None:
    """Return which variable has the name of an overview, which the converter writes in its place."""
    levels = [f"r{2**number}" for number, _ in enumerate(overview_shapes(height, width), start=1)]
    taken = next((array.name for array in group.arrays if array.name in levels), None)
    if taken is None:
        return None
    renamed = {taken: f"band_{taken}"}
    return f"its variable {taken} has the name of an overview; rename it with xarray: .rename({renamed})"

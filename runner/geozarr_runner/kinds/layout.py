"""What the converter will write: levels and stored objects, before a byte is there.

Facts of eopf-geozarr 0.12.0. The generic layout keeps a group's data in place and adds overviews r2, r4, ... below
it; the flat Sentinel-2 layout keeps every group and adds coarser siblings to the reflectances. Progress takes its
total from here and the estimate its sizes; verification reads what was really written.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from geozarr_runner.product.model import Array, Group, Product

NO_OPTIONS: Mapping[str, Any] = {}
SPATIAL_CHUNK = 4096
WEB_CHUNK = 512
SMALLEST_OVERVIEW = 256
REFLECTANCE = "/measurements/reflectance"
COARSER_THAN_60M = (120, 360, 720)
NOT_COPIED = ("/quality/l1c_quicklook", "/quality/l2a_quicklook")


@dataclass(frozen=True, slots=True)
class PlannedArray:
    """One array that will be written: its size and that of its stored objects, in pixels.

    `averaged` is the number of values that it is computed from anew, where these are not its own. `is_shard` is true
    where an object holds many small chunks.
    """

    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    overview: bool
    source: Array
    averaged: int = 0
    is_shard: bool = False

    @property
    def objects(self) -> int:
        """Number of objects that it is stored as, if none is all fill value."""
        return math.prod(-(-size // max(chunk, 1)) for size, chunk in zip(self.shape, self.chunks, strict=True))

    @property
    def computed(self) -> int:
        """Number of values that go through the computer for it."""
        return self.averaged or self.pixels

    @property
    def pixels(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


def planned_arrays(
    product: Product, groups: Sequence[str], options: Mapping[str, Any] = NO_OPTIONS
) -> list[PlannedArray] | None:
    """Return the data arrays of the output; None where only the converter knows (warped, or chunked by a library).

    Parameters
    ----------
    groups
        The chosen ones; empty for the whole product.
    options
        Those of the request that determine the result.
    """
    is_sharded = options.get("chunks") == "web"
    if product.kind in ("Sentinel-1 GRD", "Sentinel-3 OLCI"):
        return None
    if groups:
        arrays = [array for path in groups for array in _generic(product.groups[path], is_sharded=is_sharded)]
    elif product.kind.startswith("Sentinel-2"):
        arrays = list(_flat_sentinel2(product, is_sharded=is_sharded))
    else:
        return None
    return [replace(array, is_shard=is_sharded) for array in arrays]


def overview_shapes(height: int, width: int) -> Iterator[tuple[int, int]]:
    """Yield the overviews' sizes in the generic layout, finest first."""
    factor = 2
    while min(height // factor, width // factor) >= SMALLEST_OVERVIEW:
        yield height // factor, width // factor
        factor *= 2


def _generic(group: Group, *, is_sharded: bool) -> Iterator[PlannedArray]:
    stored = _sharded if is_sharded else _aligned
    for array in group.variables:
        *bands, height, width = array.shape
        yield PlannedArray(array.shape, stored(array.shape), False, array)
        for shape in overview_shapes(height, width):
            yield PlannedArray((*bands, *shape), stored((*bands, *shape)), True, array)


def _aligned(shape: tuple[int, ...], largest: int = SPATIAL_CHUNK) -> tuple[int, ...]:
    edge = min(_divisor(shape[-1], largest), _divisor(shape[-2], largest))
    return (*(1 for _ in shape[:-2]), min(edge, shape[-2]), min(edge, shape[-1]))


def _sharded(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of a shard: all bands, and as many whole chunks as lie in each direction."""
    *bands, height, width = zip(shape, _aligned(shape, WEB_CHUNK), strict=True)
    return (*(size for size, _ in bands), *(size // chunk * chunk for size, chunk in (height, width)))


def _divisor(size: int, largest: int) -> int:
    """Return the largest divisor not above the chunk size, if there is one above half of it."""
    if size <= largest:
        return size
    return next((edge for edge in range(largest, int(largest * 0.51), -1) if size % edge == 0), largest)


def _flat_sentinel2(product: Product, *, is_sharded: bool) -> Iterator[PlannedArray]:
    def chunks(shape: tuple[int, ...]) -> tuple[int, ...]:
        # Each array is one shard.
        return shape if is_sharded else tuple(min(size, SPATIAL_CHUNK) for size in shape)

    for path, group in product.groups.items():
        if path.startswith(NOT_COPIED):
            continue
        for array in group.variables:
            if array.shape:
                yield PlannedArray(array.shape, chunks(array.shape), False, array)
    coarsest = product.groups.get(f"{REFLECTANCE}/r60m")
    finest = product.groups.get(f"{REFLECTANCE}/r10m")
    if coarsest is None or coarsest.shape is None:
        return
    # Finer bands are averaged into the coarser groups: b08 in L2A, all that are missing in L1C.
    bands = {array.name: array for array in coarsest.variables}
    have_20m = {array.name: array for array in _variables(product, f"{REFLECTANCE}/r20m")}
    finer = {array.name: array for array in (finest.variables if finest else ())}
    if product.kind == "Sentinel-2 L2A":
        finer = {name: array for name, array in finer.items() if name == "b08"}
    injected_20m = {name: array for name, array in finer.items() if name not in have_20m}
    injected_60m = {name: array for name, array in {**have_20m, **finer}.items() if name not in bands}
    if product.kind == "Sentinel-2 L2A":
        injected_60m = {name: array for name, array in injected_60m.items() if name == "b08"}
    for injected, path in ((injected_20m, f"{REFLECTANCE}/r20m"), (injected_60m, f"{REFLECTANCE}/r60m")):
        host = product.groups.get(path)
        if host is not None and host.shape is not None:
            for array in injected.values():
                yield PlannedArray(host.shape[-2:], chunks(host.shape[-2:]), True, array, math.prod(array.shape))
    height, width = coarsest.shape[-2:]
    for resolution in COARSER_THAN_60M:
        shape = (height * 60 // resolution, width * 60 // resolution)
        for array in {**bands, **injected_60m}.values():
            yield PlannedArray(shape, chunks(shape), True, array, height * width)  # each level anew from 60 m


def _variables(product: Product, path: str) -> tuple[Array, ...]:
    group = product.groups.get(path)
    return group.variables if group is not None else ()

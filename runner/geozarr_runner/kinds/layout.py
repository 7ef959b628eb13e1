"""What the converter will write: levels and stored objects, before a byte is there.

Facts of eopf-geozarr 0.12.0. The generic layout keeps a group's data in place and adds overviews r2, r4, ... below
it; a kind that has a layout of its own says so in its own module. Progress takes its total from here and the estimate
its sizes; verification reads what was really written.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from geozarr_runner.product.model import Array, Group

NO_OPTIONS: Mapping[str, Any] = {}
SPATIAL_CHUNK = 4096
WEB_CHUNK = 512
SMALLEST_OVERVIEW = 256
REFLECTANCE = "/measurements/reflectance"


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


def overview_shapes(height: int, width: int) -> Iterator[tuple[int, int]]:
    """Yield the overviews' sizes in the generic layout, finest first."""
    factor = 2
    while min(height // factor, width // factor) >= SMALLEST_OVERVIEW:
        yield height // factor, width // factor
        factor *= 2


def generic_arrays(group: Group, *, is_sharded: bool) -> Iterator[PlannedArray]:
    """Yield the arrays that a group becomes in the generic layout."""
    stored = _sharded if is_sharded else _aligned
    for array in group.variables:
        *bands, height, width = array.shape
        yield PlannedArray(array.shape, stored(array.shape), False, array, is_shard=is_sharded)
        for shape in overview_shapes(height, width):
            yield PlannedArray((*bands, *shape), stored((*bands, *shape)), True, array, is_shard=is_sharded)


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

"""The memory that a converter takes: a model of what was measured for tiles of 1080 to 10980 pixels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from geozarr_runner.kinds.layout import NO_OPTIONS, PlannedArray
from geozarr_runner.kinds.profiles import planned_arrays
from geozarr_runner.product.model import Array, Product

# The converter's own interpreter and libraries.
CONVERTER = 450_000_000
# What dask reads at once, by its own default. Of a larger stored chunk it reads parts, and decodes all of it for each.
READ_AT_ONCE = 128 * 2**20
# Where the converter holds chunks, and not whole variables anyway, larger ones are read in parts all the same.
LARGEST_READ = 2 * READ_AT_ONCE
# For each pixel of an array that is one shard: the converter encodes it as a whole.
BYTES_OF_A_SHARD, BYTES_OF_A_PACKED_SHARD = 32, 44
THREADS = 2  # with which the whole of it was measured


def memory_needed(product: Product, groups: Iterable[str], options: Mapping[str, Any] = NO_OPTIONS) -> int:
    """Return the peak memory of one converter for these groups, in bytes; no groups are the whole product.

    Groups that the product does not have do not count.
    """
    chosen = tuple(path for path in groups if path in product.groups)
    expected = planned_arrays(product, chosen, options)
    if expected is None:  # a warp holds source and target of one variable
        paths = chosen or tuple(product.groups)
        return CONVERTER + 8 * max((array.nbytes for path in paths for array in product.groups[path].arrays), default=0)
    return _memory(expected, chosen, THREADS, _largest_read(expected, chosen), options)


def memory_of_part(
    product: Product,
    groups: Sequence[str],
    threads: int = 1,
    *,
    read: int = READ_AT_ONCE,
    options: Mapping[str, Any] = NO_OPTIONS,
) -> int:
    """Return the peak memory of a converter that runs beside others.

    Each thread holds chunks of its own of the flat layout; chosen groups are held as whole variables with any number.

    Parameters
    ----------
    read
        Bytes that dask may read at once.
    """
    expected = planned_arrays(product, groups, options)
    return (
        memory_needed(product, groups, options)
        if expected is None
        else _memory(expected, groups, threads, read, options)
    )


def worth_reading(product: Product, groups: Sequence[str]) -> int | None:
    """Return the bytes that dask has to read at once to decode each stored chunk once; None where its default does."""
    largest = _largest_read(planned_arrays(product, groups) or (), groups)
    return largest if largest > READ_AT_ONCE else None


def _memory(
    expected: Sequence[PlannedArray], groups: Sequence[str], threads: int, read: int, options: Mapping[str, Any]
) -> int:
    if groups:  # whole variables as float64, while it makes their overviews
        return CONVERTER + 6 * 8 * max((array.pixels for array in expected), default=0)
    chunk = max((math.prod(array.chunks[-2:]) for array in expected), default=0)  # several of float32
    if any(array.is_shard for array in expected):  # one array after the other, each whole
        return CONVERTER + (BYTES_OF_A_PACKED_SHARD if options.get("packed") else BYTES_OF_A_SHARD) * chunk
    return CONVERTER + threads * (9 * 4 * chunk + 3 * (read - READ_AT_ONCE))


def _largest_read(expected: Iterable[PlannedArray], groups: Sequence[str]) -> int:
    largest = max((_decoded_chunk(one.source) for one in expected), default=0)
    return max(largest if groups else min(largest, LARGEST_READ), READ_AT_ONCE)


def _decoded_chunk(array: Array) -> int:
    """Return the bytes of a whole stored chunk as the converter sees it: packed numbers as float64."""
    pixels = math.prod(min(chunk, size) for chunk, size in zip(array.chunks, array.shape, strict=True))
    return pixels * (8 if "scale_factor" in array.attributes else array.itemsize)

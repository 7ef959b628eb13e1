"""Sentinel-2 L1C and L2A."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from geozarr_runner.kinds.base import GENERIC_LAYOUT, Attributes, ConverterCall, Groups, chunk_flags, product_type
from geozarr_runner.kinds.generic import Generic
from geozarr_runner.kinds.layout import NO_OPTIONS, REFLECTANCE, SPATIAL_CHUNK, PlannedArray
from geozarr_runner.product.encoding import Encoding
from geozarr_runner.product.model import Array, Product

COARSER_THAN_60M = (120, 360, 720)
L1C, L2A = "Sentinel-2 L1C", "Sentinel-2 L2A"


class Sentinel2(Generic):
    """Sentinel-2 L1C and L2A: the whole product in the converter's flat layout, chosen groups in the generic one."""

    names: tuple[str, ...] = (L1C, L2A)
    has_known_grids = True
    not_copied: tuple[str, ...] = ("/quality/l1c_quicklook", "/quality/l2a_quicklook")

    def recognise(self, attributes: Attributes, groups: Groups) -> str | None:
        """Return the level that the product says; where it says no type, that of its reflectances and pictures."""
        declared = product_type(attributes)
        if declared:
            return L1C if declared.startswith("S02MSIL1C") else L2A if declared.startswith("S02MSI") else None
        if not any(path.startswith(f"{REFLECTANCE}/r") for path in groups):
            return None
        return L1C if "/quality/l1c_quicklook/r10m" in groups else L2A

    def outcome(self, kind: str, zarr_format: int) -> str:
        """Return what becomes of it."""
        return "converted: chosen groups in place with overviews, the whole product in the converter's flat layout"

    def refuses(self, option: str, groups: Sequence[str]) -> str | None:
        """Refuse `packed` for chosen groups."""
        if option == "packed" and groups:
            return "the converter keeps packed integers of whole Sentinel-2 products only"
        return None

    def call(self, product: Product, groups: Sequence[str], options: Mapping[str, Any] = NO_OPTIONS) -> ConverterCall:
        """Choose the layout. For the whole product the groups only count if the converter does not recognise it."""
        if options.get("packed"):
            # In this command's own default chunks, 256 pixels wide, it takes five times as long.
            chunks = chunk_flags(options) or ("--spatial-chunk", str(SPATIAL_CHUNK))
            return ConverterCall((), (*chunks, "--keep-scale-offset"), "convert-s2-optimized", lacks=("--max-retries",))
        if not groups:
            return ConverterCall(tuple(map(self.output_group, self.fit(product))), chunk_flags(options))
        return ConverterCall(tuple(map(self.output_group, groups)), (*GENERIC_LAYOUT, *chunk_flags(options)))

    def means_no_data(self, array: Array) -> bool:
        """Return True for a count of 0 among the reflectances, as the format defines it."""
        return array.path.startswith(f"{REFLECTANCE}/") and array.metadata.get("fill_value") == 0

    def told(self, array: Array, encoding: Encoding, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Add the attribute `fill_value` for integers that stay what they are: of `_FillValue` only that is kept."""
        attributes = encoding.told()
        if options.get("packed") and "fill_value" not in attributes and (numbers := encoding.no_data()):
            return {**attributes, "fill_value": numbers[0]}
        return attributes

    def planned_arrays(
        self, product: Product, groups: Sequence[str], options: Mapping[str, Any]
    ) -> list[PlannedArray] | None:
        """Return those of the flat layout for the whole product."""
        if groups:
            return super().planned_arrays(product, groups, options)
        return list(_flat(product, is_sharded=options.get("chunks") == "web"))


def _flat(product: Product, *, is_sharded: bool) -> Iterator[PlannedArray]:
    """Yield the arrays of the flat layout: every group's own, and coarser siblings of the reflectances."""

    def chunks(shape: tuple[int, ...]) -> tuple[int, ...]:
        # Each array is one shard.
        return shape if is_sharded else tuple(min(size, SPATIAL_CHUNK) for size in shape)

    planned = partial(PlannedArray, is_shard=is_sharded)

    for path, group in product.groups.items():
        if path.startswith(Sentinel2.not_copied):
            continue
        for array in group.variables:
            if array.shape:
                yield planned(array.shape, chunks(array.shape), False, array)
    coarsest = product.groups.get(f"{REFLECTANCE}/r60m")
    finest = product.groups.get(f"{REFLECTANCE}/r10m")
    if coarsest is None or coarsest.shape is None:
        return
    # Finer bands are averaged into the coarser groups: b08 in L2A, all that are missing in L1C.
    bands = {array.name: array for array in coarsest.variables}
    have_20m = {array.name: array for array in _variables(product, f"{REFLECTANCE}/r20m")}
    finer = {array.name: array for array in (finest.variables if finest else ())}
    if product.kind == L2A:
        finer = {name: array for name, array in finer.items() if name == "b08"}
    injected_20m = {name: array for name, array in finer.items() if name not in have_20m}
    injected_60m = {name: array for name, array in {**have_20m, **finer}.items() if name not in bands}
    if product.kind == L2A:
        injected_60m = {name: array for name, array in injected_60m.items() if name == "b08"}
    for injected, path in ((injected_20m, f"{REFLECTANCE}/r20m"), (injected_60m, f"{REFLECTANCE}/r60m")):
        host = product.groups.get(path)
        if host is not None and host.shape is not None:
            for array in injected.values():
                yield planned(host.shape[-2:], chunks(host.shape[-2:]), True, array, math.prod(array.shape))
    height, width = coarsest.shape[-2:]
    for resolution in COARSER_THAN_60M:
        shape = (height * 60 // resolution, width * 60 // resolution)
        for array in {**bands, **injected_60m}.values():
            yield planned(shape, chunks(shape), True, array, height * width)  # each level anew from 60 m


def _variables(product: Product, path: str) -> tuple[Array, ...]:
    group = product.groups.get(path)
    return group.variables if group is not None else ()

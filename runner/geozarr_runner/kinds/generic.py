"""Any product with rasters over y and x."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from geozarr_runner.errors import GeozarrError
from geozarr_runner.kinds import grid
from geozarr_runner.kinds.base import (
    GENERIC_LAYOUT,
    LOOK,
    PLACE_OF_ROOT,
    Attributes,
    ConverterCall,
    Groups,
    Made,
    chunk_flags,
)
from geozarr_runner.kinds.layout import NO_OPTIONS, PlannedArray, generic_arrays
from geozarr_runner.product.encoding import Encoding
from geozarr_runner.product.model import Array, Group, Product, Refusal
from geozarr_runner.product.reference_system import reference_system

if TYPE_CHECKING:
    from geozarr_runner.kinds.warp import Warp
    from geozarr_runner.product.sampler import StoredPixels

READ_AT_ONCE = 16  # groups: each takes a request for either axis


class Generic:
    """Any product with rasters over y and x."""

    names: tuple[str, ...] = ("Zarr",)
    is_warped = False
    is_swath = False
    # The format says that steps are even and that the first pixel is north-west; nobody has to look.
    has_known_grids = False
    not_copied: tuple[str, ...] = ()

    def recognise(self, attributes: Attributes, groups: Groups) -> str | None:
        """Return "Zarr": every product is one."""
        return self.names[0]

    def outcome(self, kind: str, zarr_format: int) -> str:
        """Return what becomes of any grid."""
        return (
            "converted, each group over `y` and `x` with a coordinate reference system, with overviews, and the root's "
            "data as `/data`; other groups are refused"
        )

    def refusal(self, product: Product) -> Refusal | None:
        """Return None: its groups decide."""
        return None

    def misplaced(self, product: Product, groups: Sequence[Group]) -> dict[str, Refusal]:
        """Return those whose grid is none, where nothing else is known of it."""
        if self.has_known_grids or product.kind not in self.names or not groups:
            return {}
        from geozarr_runner.product.sampler import StoredPixels

        source = StoredPixels.of(product)

        def uneven(group: Group) -> str | None:
            with suppress(GeozarrError):
                return grid.uneven(group, source)
            return None

        with ThreadPoolExecutor(max_workers=READ_AT_ONCE) as pool:
            found = zip(groups, pool.map(uneven, groups), strict=True)
            return {group.path: Refusal(why, LOOK) for group, why in found if why is not None}

    def resolve(self, product: Product, group: str) -> tuple[str, ...]:
        """Return the group itself, if the product has it."""
        return (group,) if group in product.groups else ()

    def unfit(self, product: Product, group: Group) -> str | None:
        """Return why a group cannot become GeoZarr; None where it can."""
        if not group.variables:
            return "it holds coordinates only"
        if group.path == "/" and any(f"{path}/".startswith(f"{PLACE_OF_ROOT}/") for path in product.parents):
            return (
                f"its data lie in the root, which the converter passes over, and {PLACE_OF_ROOT}, where they would be "
                "moved, is there already: xarray.open_zarr(product).to_zarr(other, group='mine')"
            )
        if (flaw := grid.flaw(product, group)) is not None:
            return flaw
        if (text := next((array.name for array in group.variables if array.is_text), None)) is not None:
            return f"{text} holds text"
        return reference_system(product, group).flaw or None

    def companions(self, product: Product, groups: Sequence[str]) -> tuple[str, ...]:
        """Return nothing: a grid's coordinates lie in its own group."""
        return ()

    def empty_groups(self, product: Product) -> tuple[str, ...]:
        """Return nothing."""
        return ()

    def made_arrays(self, product: Product) -> tuple[Array, ...]:
        """Return nothing: the converter needs no more than there is."""
        return ()

    def make(self, product: Product, source: StoredPixels) -> Made:
        """Return nothing."""
        return Made({})

    def refuses(self, option: str, groups: Sequence[str]) -> str | None:
        """Refuse `packed`: the generic layout holds floating-point numbers."""
        return "the converter keeps packed integers of Sentinel-2 products only" if option == "packed" else None

    def call(self, product: Product, groups: Sequence[str], options: Mapping[str, Any] = NO_OPTIONS) -> ConverterCall:
        """Name the chosen groups, or all that can become GeoZarr: the converter's own default names hardly exist."""
        named = tuple(map(self.output_group, groups or self.fit(product)))
        return ConverterCall(named, (*GENERIC_LAYOUT, *chunk_flags(options)))

    def without_effect(self, groups: Sequence[str], options: Mapping[str, Any]) -> tuple[str, ...]:
        """Return a sentence for each option that will not do what its name says."""
        sentences = []
        if options.get("validate_groups") and not groups:
            sentences.append("validate_groups has no effect without groups: the whole product is converted")
        if options.get("dask_cluster"):
            sentences.append(
                "dask_cluster starts three workers of up to 8 GB each, and was slower in every measurement"
            )
        return tuple(sentences)

    def planned_arrays(
        self, product: Product, groups: Sequence[str], options: Mapping[str, Any]
    ) -> list[PlannedArray] | None:
        """Return those of chosen groups; of a whole product libraries choose the chunks."""
        is_sharded = options.get("chunks") == "web"
        found = (generic_arrays(product.groups[path], is_sharded=is_sharded) for path in groups)
        return [array for arrays in found for array in arrays] if groups else None

    def means_no_data(self, array: Array) -> bool:
        """Return False: every array of Zarr v3 has a fill value."""
        return False

    def told(self, array: Array, encoding: Encoding, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return those by which xarray reads it as it is meant: the converter reads with xarray."""
        return encoding.told()

    def output_group(self, group: str) -> str:
        """Return the group itself; the root's data lie in a group of their own."""
        return PLACE_OF_ROOT if group == "/" else group

    def output_crs(self, product: Product, group: Group) -> str | None:
        """Return the group's own."""
        return reference_system(product, group).text

    def warp(self, product: Product, source: StoredPixels) -> Warp | None:
        """Return None: pixels lie where they lay."""
        return None

    def fit(self, product: Product) -> tuple[str, ...]:
        """Return the groups of a product that can become GeoZarr."""
        return tuple(path for path, group in product.groups.items() if self.unfit(product, group) is None)

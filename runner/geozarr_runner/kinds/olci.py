"""Sentinel-3 OLCI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from geozarr_runner.kinds.base import READ_BY, XARRAY_EOPF, Attributes, ConverterCall, Groups, product_type
from geozarr_runner.kinds.generic import Generic
from geozarr_runner.kinds.layout import NO_OPTIONS, PlannedArray
from geozarr_runner.product.model import Array, Group, Product, Refusal

LEVEL_1, LEVEL_2 = "Sentinel-3 OLCI", "Sentinel-3 OLCI L2"
MEASUREMENTS = "/measurements"
FIRST_BAND = "oa01_radiance"
SWATH = ("rows", "columns")
TYPES_OF_LEVEL_1 = ("S03OLCEFR", "S03OLCERR")
WHY_LEVEL_2 = "its data lie along the swath of the instrument, and of OLCI the converter has a layout for level 1 only"


class Olci(Generic):
    """Sentinel-3 OLCI: swath radiances, which only the converter's own OLCI layout can hold."""

    names: tuple[str, ...] = (LEVEL_1,)
    is_swath = True
    has_known_grids = True

    def recognise(self, attributes: Attributes, groups: Groups) -> str | None:
        """Recognise level 1 by the type that the product says, and by its first band where it says none."""
        if declared := product_type(attributes):
            return LEVEL_1 if declared.startswith(TYPES_OF_LEVEL_1) else None
        measurements = groups.get(MEASUREMENTS)
        bands = measurements.arrays if measurements is not None else ()
        return LEVEL_1 if any(array.name == FIRST_BAND for array in bands) else None

    def outcome(self, kind: str, zarr_format: int) -> str:
        """Return what becomes of level 1."""
        return f"converted: `{MEASUREMENTS}` along its swath, with overviews; the whole product with all else copied"

    def unfit(self, product: Product, group: Group) -> str | None:
        """Return why a group cannot become GeoZarr: only the measurements can."""
        if group.path != MEASUREMENTS:
            return f"of an OLCI product only {MEASUREMENTS} becomes GeoZarr"
        if not group.variables:
            return "it holds coordinates only"
        if any(array.dims == SWATH for array in group.variables):
            return None
        found = dict.fromkeys(dim for array in group.variables for dim in array.dims)
        return f"its data lie over ({', '.join(found)}) and not over ({', '.join(SWATH)})"

    def refuses(self, option: str, groups: Sequence[str]) -> str | None:
        """Refuse `packed`, which needs no asking, and `chunks`."""
        return {
            "packed": "of Sentinel-3 OLCI the converter keeps packed integers anyway",
            "chunks": "the converter has chunks of its own for Sentinel-3 OLCI, and none for the web",
        }.get(option)

    def call(self, product: Product, groups: Sequence[str], options: Mapping[str, Any] = NO_OPTIONS) -> ConverterCall:
        """Name the converter's command for it: by itself the converter recognises no product in Zarr v3."""
        return ConverterCall((), command="convert-s3-olci-optimized", lacks=("--max-retries", "--dask-cluster"))

    def planned_arrays(
        self, product: Product, groups: Sequence[str], options: Mapping[str, Any]
    ) -> list[PlannedArray] | None:
        """Return None: the converter chooses."""
        return None

    def means_no_data(self, array: Array) -> bool:
        """Return True for the largest count of a radiance, as the format defines it."""
        return array.name.endswith("_radiance") and array.metadata.get("fill_value") == 65535

    def output_group(self, group: str) -> str:
        """Return its finest level."""
        return f"{MEASUREMENTS}/r0" if group == MEASUREMENTS else super().output_group(group)


class OlciLevel2(Generic):
    """Sentinel-3 OLCI level 2: what is derived from the radiances, on the same swath."""

    names: tuple[str, ...] = (LEVEL_2,)

    def recognise(self, attributes: Attributes, groups: Groups) -> str | None:
        """Recognise it by the type that the product says: what is of OLCI and not of level 1."""
        declared = product_type(attributes)
        return LEVEL_2 if declared.startswith("S03OLC") and not declared.startswith(TYPES_OF_LEVEL_1) else None

    def outcome(self, kind: str, zarr_format: int) -> str:
        """Return that it is refused, but for grids."""
        return f"groups over `y` and `x` are converted; else refused: {WHY_LEVEL_2}; {READ_BY}"

    def refusal(self, product: Product) -> Refusal | None:
        """Return why it cannot be converted."""
        return None if self.fit(product) else Refusal(WHY_LEVEL_2, XARRAY_EOPF)

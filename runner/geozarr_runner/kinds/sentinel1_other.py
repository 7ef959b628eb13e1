"""Sentinel-1 products that are no GRD."""

from __future__ import annotations

from geozarr_runner.kinds.base import READ_BY, XARRAY_EOPF, Attributes, Groups, product_type
from geozarr_runner.kinds.generic import Generic
from geozarr_runner.product.model import Group, Product, Refusal

SLC, OCN, OTHER = "Sentinel-1 SLC", "Sentinel-1 OCN", "Sentinel-1"
WHY = {
    SLC: "it holds complex numbers, burst by burst in radar geometry, and the converter puts only GRD on a map",
    OCN: "it holds ocean winds and waves over grids of its own, and the converter puts only GRD on a map",
    OTHER: "of Sentinel-1 products the converter puts only GRD on a map",
}


class Sentinel1Other(Generic):
    """Sentinel-1 SLC, OCN and others: the converter takes every Sentinel-1 product for GRD, and fails."""

    names: tuple[str, ...] = (SLC, OCN, OTHER)

    def recognise(self, attributes: Attributes, groups: Groups) -> str | None:
        """Recognise them by the type that the product says."""
        declared = product_type(attributes)
        if not declared.startswith("S01"):
            return None
        return SLC if "SLC" in declared else OCN if "OCN" in declared else OTHER

    def outcome(self, kind: str, zarr_format: int) -> str:
        """Return that it is refused."""
        return f"refused: {WHY[kind]}; {READ_BY}"

    def refusal(self, product: Product) -> Refusal:
        """Return why none of them can be converted."""
        return Refusal(WHY[product.kind], XARRAY_EOPF)

    def unfit(self, product: Product, group: Group) -> str | None:
        """Return the same of each group."""
        return WHY[product.kind]

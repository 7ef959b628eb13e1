"""Sentinel-3 products of other instruments than OLCI."""

from __future__ import annotations

from geozarr_runner.kinds.base import READ_BY, XARRAY_EOPF, Attributes, Groups, product_type
from geozarr_runner.kinds.generic import Generic
from geozarr_runner.product.model import Product, Refusal

SLSTR, SRAL, SYNERGY, OTHER = "Sentinel-3 SLSTR", "Sentinel-3 SRAL", "Sentinel-3 SYNERGY", "Sentinel-3"
BY_TYPE = {"S03SLS": SLSTR, "S03SRA": SRAL, "S03SYN": SYNERGY, "S03": OTHER}
WHY = "its data lie along the swath of the instrument, and the converter has a layout for OLCI level 1 only"


class Sentinel3Other(Generic):
    """Sentinel-3 SLSTR, SRAL, SYNERGY: what lies on a grid is converted as any other product, all else is refused."""

    names: tuple[str, ...] = (SLSTR, SRAL, SYNERGY, OTHER)

    def recognise(self, attributes: Attributes, groups: Groups) -> str | None:
        """Recognise them by the type that the product says."""
        declared = product_type(attributes)
        return next((name for start, name in BY_TYPE.items() if declared.startswith(start)), None)

    def outcome(self, kind: str, zarr_format: int) -> str:
        """Return that it is refused, but for grids."""
        return f"groups over `y` and `x` are converted; else refused: {WHY}; {READ_BY}"

    def refusal(self, product: Product) -> Refusal | None:
        """Return why a product cannot be converted none of whose groups lies on a grid."""
        return None if self.fit(product) else Refusal(WHY, XARRAY_EOPF)

"""Sentinel-1 GRD."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from geozarr_runner.kinds.base import GENERIC_LAYOUT, ConverterCall, chunk_flags
from geozarr_runner.kinds.generic import Generic
from geozarr_runner.kinds.layout import NO_OPTIONS, PlannedArray
from geozarr_runner.product.encoding import FILL, Encoding
from geozarr_runner.product.model import Array, Group, Product

if TYPE_CHECKING:
    from geozarr_runner.kinds.warp import Warp
    from geozarr_runner.product.sampler import StoredPixels


class Sentinel1Grd(Generic):
    """Sentinel-1 GRD: radar geometry under one sub-product per polarisation, placed by ground control points.

    The converter expects two polarisations, takes group names relative to them, and reads the control points of the
    first one.
    """

    is_warped = True

    def resolve(self, product: Product, group: str) -> tuple[str, ...]:
        """Return the group, or the group of that name under each polarisation (`/measurements`)."""
        if group in product.groups:
            return (group,)
        return tuple(path for path in product.groups if path[1:].partition("/")[2] == group.lstrip("/"))

    def unfit(self, product: Product, group: Group) -> str | None:
        """Return why a group cannot become GeoZarr: its lines and pixels have to be those of the control points."""
        polarisation, _, rest = group.path[1:].partition("/")
        if rest != "measurements":
            return "of a Sentinel-1 product only the measurements of each polarisation become GeoZarr"
        if f"/{polarisation}/conditions/gcp" not in product.groups:
            return f"its ground control points, /{polarisation}/conditions/gcp, are missing"
        return None

    def companions(self, product: Product, groups: Sequence[str]) -> tuple[str, ...]:
        """Return the control points of the first polarisation, and of those that are wanted."""
        first = next(iter(product.groups), "/")
        tops = dict.fromkeys(path[1:].partition("/")[0] for path in (first, *groups))
        return tuple(path for top in tops if (path := f"/{top}/conditions/gcp") in product.groups)

    def empty_groups(self, product: Product) -> tuple[str, ...]:
        """Return both polarisations' own groups, with a stand-in for the second one of a product that has one only."""
        tops = self._polarisations(product)
        return tuple(f"/{top}" for top in (*tops, *(["without_second_polarisation"] if len(tops) == 1 else [])))

    def call(self, product: Product, groups: Sequence[str], options: Mapping[str, Any] = NO_OPTIONS) -> ConverterCall:
        """Name the groups relative to the polarisations."""
        names = dict.fromkeys(group[1:].partition("/")[2] for group in groups or self._fit(product))
        return ConverterCall(tuple(names), ("--gcp-group", "conditions/gcp", *GENERIC_LAYOUT, *chunk_flags(options)))

    def planned_arrays(
        self, product: Product, groups: Sequence[str], options: Mapping[str, Any]
    ) -> list[PlannedArray] | None:
        """Return None: the warp decides on the grid."""
        return None

    def means_no_data(self, array: Array) -> bool:
        """Return True for an amplitude of 0: the processor puts it where it has none."""
        return array.path.endswith("/measurements/grd") and array.metadata.get("fill_value") == 0

    def told(self, array: Array, encoding: Encoding, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return those of an amplitude without `_FillValue`, which has the converter write 0 around a scene.

        Of one that xarray does not decode it takes the attribute `fill_value` for no data, keeps that out of the
        interpolation, and says it in its output.
        """
        if not self.means_no_data(array) or encoding.no_data() != (0,):
            return super().told(array, encoding, options)
        if array.attributes.get("fill_value") == 0 and FILL not in array.attributes:
            return array.attributes
        return {**{name: value for name, value in array.attributes.items() if name != FILL}, "fill_value": 0}

    def output_crs(self, product: Product, group: Group) -> str | None:
        """Return that of degrees, onto which the converter warps."""
        return "EPSG:4326"

    def warp(self, product: Product, source: StoredPixels) -> Warp | None:
        """Return the warp by the control points of the first polarisation, which places both."""
        from geozarr_runner.kinds.warp import Warp

        return Warp(product.groups[self.companions(product, ())[0]], source)

    def _polarisations(self, product: Product) -> tuple[str, ...]:
        return tuple(dict.fromkeys(path[1:].partition("/")[0] for path in product.groups))

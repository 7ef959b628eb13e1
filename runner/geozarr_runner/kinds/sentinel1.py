"""Sentinel-1 GRD."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from geozarr_runner.errors import GeozarrError
from geozarr_runner.kinds import control_points
from geozarr_runner.kinds.base import GENERIC_LAYOUT, Attributes, ConverterCall, Groups, Made, chunk_flags, product_type
from geozarr_runner.kinds.generic import Generic
from geozarr_runner.kinds.layout import NO_OPTIONS, PlannedArray
from geozarr_runner.product.attributes import properties_of
from geozarr_runner.product.encoding import FILL, Encoding
from geozarr_runner.product.model import Array, Group, Product, Refusal

if TYPE_CHECKING:
    from geozarr_runner.kinds.warp import Warp
    from geozarr_runner.product.sampler import StoredPixels

CONTROL_POINTS = "conditions/gcp"
MADE = "conditions/gcp_of_corners"
SECOND = "without_second_polarisation"
MOST_POLARISATIONS = 2
WORTH_TELLING, FARTHEST = 1.0, 25.0  # pixels


class Sentinel1Grd(Generic):
    """Sentinel-1 GRD: radar geometry under one sub-product per polarisation, placed by ground control points.

    The converter expects two polarisations, takes group names relative to them, and reads the control points of the
    first one.
    """

    names: tuple[str, ...] = ("Sentinel-1 GRD",)
    is_warped = True

    def recognise(self, attributes: Attributes, groups: Groups) -> str | None:
        """Recognise it by the type that the product says."""
        declared = product_type(attributes)
        said = properties_of(attributes.get("/", {})).get("sar:product_type")
        return self.names[0] if declared.startswith("S01") and ("GR" in declared or said == "GRD") else None

    def outcome(self, kind: str, zarr_format: int) -> str:
        """Return what becomes of it."""
        return (
            "converted: the measurements of one or two polarisations, warped to degrees by their control points "
            "(a net or a list), also across the antimeridian"
        )

    def misplaced(self, product: Product, groups: Sequence[Group]) -> dict[str, Refusal]:
        """Return all of a scene that lies too far in the north or south for the converter's polynomial."""
        from geozarr_runner.product.sampler import StoredPixels

        placing = self.companions(product, ())
        if not groups or not placing or control_points.flaw(product.groups[placing[0]]) is not None:
            return {}
        try:
            points = control_points.ControlPoints.read(product.groups[placing[0]], StoredPixels.of(product))
        except GeozarrError:  # staging says why
            return {}
        if (missed := points.curvature()) <= FARTHEST:
            return {}
        refused = Refusal(
            f"the converter places a scene by a polynomial of its control points, which at {points.latitude:.0f} "
            f"degrees of latitude misses them by up to {missed:.0f} pixels; up to {FARTHEST:.0f} are converted",
            "take a terrain-corrected product of this scene (RTC, or GTC), or warp it with splines, which pass through "
            "each point: gdalwarp -tps -t_srs EPSG:3995 (in the south EPSG:3031)",
        )
        return {group.path: refused for group in groups}

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
        if len(self._polarisations(product)) > MOST_POLARISATIONS:
            return f"the converter takes {MOST_POLARISATIONS} polarisations, and the product has more top groups"
        if not group.variables:
            return "it holds coordinates only"
        if (other := next((array for array in group.variables if len(array.shape) not in (2, 3)), None)) is not None:
            return f"{other.name} lies over ({', '.join(other.dims)}), and not over lines and pixels"
        for path in dict.fromkeys((f"/{polarisation}/{CONTROL_POINTS}", *self.companions(product, ())[:1])):
            if path not in product.groups:
                return f"its ground control points, {path}, are missing"
            if unusable := product.groups[path].unusable:
                return f"its ground control points, {path}, cannot be read: {unusable}"
            if (flaw := control_points.flaw(product.groups[path])) is not None:
                return f"its ground control points cannot place it: {flaw}"
        return None

    def companions(self, product: Product, groups: Sequence[str]) -> tuple[str, ...]:
        """Return the control points of the first polarisation, and of those that are wanted."""
        first = next(iter(product.groups), "/")
        tops = dict.fromkeys(path[1:].partition("/")[0] for path in (first, *groups))
        return tuple(path for top in tops if (path := f"/{top}/{CONTROL_POINTS}") in product.groups)

    def empty_groups(self, product: Product) -> tuple[str, ...]:
        """Return both polarisations' own groups, with a stand-in for the second one of a product that has one only."""
        tops = self._polarisations(product)
        return tuple(f"/{top}" for top in (*tops, *([SECOND] if len(tops) == 1 else [])))

    def made_arrays(self, product: Product) -> tuple[Array, ...]:
        """Return control points as GDAL counts, in each polarisation: those of the first one are read."""
        placing = self.companions(product, ())
        if not placing or control_points.flaw(product.groups[placing[0]]) is not None:
            return ()
        size = control_points.count(product.groups[placing[0]])
        tops = self.empty_groups(product)
        made = (control_points.made_arrays(f"{top}/{MADE}", size, product.zarr_format) for top in tops)
        return tuple(array for arrays in made for array in arrays)

    def make(self, product: Product, source: StoredPixels) -> Made:
        """Return the control points of the first polarisation, for all of them."""
        points = control_points.ControlPoints.read(product.groups[self.companions(product, ())[0]], source)
        values = points.by_name()
        usual, worst = points.misses()
        caution = ""
        if worst > WORTH_TELLING:
            caution = (
                "the converter places a scene by a polynomial of its control points, which misses them by up to "
                f"{worst:.1f} pixels, half of them by {usual:.1f} or more"
            )
        return Made({array.path: values[array.name] for array in self.made_arrays(product)}, caution)

    def call(self, product: Product, groups: Sequence[str], options: Mapping[str, Any] = NO_OPTIONS) -> ConverterCall:
        """Name the groups relative to the polarisations."""
        names = dict.fromkeys(group[1:].partition("/")[2] for group in groups or self.fit(product))
        return ConverterCall(tuple(names), ("--gcp-group", MADE, *GENERIC_LAYOUT, *chunk_flags(options)))

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

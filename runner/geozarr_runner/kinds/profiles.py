"""What the converter needs to be told for each kind of product.

`eopf-geozarr convert` detects Sentinel-2 and Sentinel-3 OLCI by itself and then passes over `--groups`; for other
inputs it copies everything and makes GeoZarr of the groups that are named exactly. A `Profile` knows which of these
ways to take, what has to lie beside a chosen group, and which groups cannot become GeoZarr at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from geozarr_runner.errors import InvalidRequest
from geozarr_runner.kinds.layout import NO_OPTIONS, SPATIAL_CHUNK, WEB_CHUNK
from geozarr_runner.product.model import Group, Product
from geozarr_runner.spec import of_result

GENERIC_LAYOUT = ("--no-s2-optimized", "--no-s3-olci-optimized")


@dataclass(frozen=True, slots=True)
class ConverterCall:
    """What the converter is told beyond input and output.

    Attributes
    ----------
    groups
        Values of its one `--groups`; none leaves it away.
    flags
        Further options, as they are typed.
    command
        The one of its commands that does it.
    lacks
        Options of the converter that have no effect there.
    """

    groups: tuple[str, ...]
    flags: tuple[str, ...] = ()
    command: str = "convert"
    lacks: tuple[str, ...] = ()


def chunk_flags(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what makes the converter store its output as it is asked for."""
    return ("--spatial-chunk", str(WEB_CHUNK), "--enable-sharding") if options.get("chunks") == "web" else ()


class Profile(Protocol):
    """The ways of one kind of product."""

    def resolve(self, product: Product, group: str) -> tuple[str, ...]:
        """Return the groups that a normalised name stands for; none where the product has no such group."""

    def unfit(self, product: Product, group: Group) -> str | None:
        """Return why a group cannot become GeoZarr; None where it can."""

    def companions(self, product: Product, groups: Sequence[str]) -> tuple[str, ...]:
        """Return groups that have to lie beside the chosen ones in the converter's input, and not in the output."""

    def empty_groups(self, product: Product) -> tuple[str, ...]:
        """Return groups without arrays that the converter wants to see in its input."""

    def call(self, product: Product, groups: Sequence[str], options: Mapping[str, Any] = NO_OPTIONS) -> ConverterCall:
        """Return what to tell the converter; `groups` is empty for the whole product."""

    def refuses(self, option: str, groups: Sequence[str]) -> str | None:
        """Return why an option of the result cannot be other than it is without being named; None where it can."""

    def without_effect(self, groups: Sequence[str], options: Mapping[str, Any]) -> tuple[str, ...]:
        """Return a sentence for each option that will not do what its name says."""


class Generic:
    """Any product with rasters over y and x."""

    def resolve(self, product: Product, group: str) -> tuple[str, ...]:
        """Return the group itself, if the product has it."""
        return (group,) if group in product.groups else ()

    def unfit(self, product: Product, group: Group) -> str | None:
        """Return why a group cannot become GeoZarr; None where it can."""
        if not group.variables:
            return "it holds coordinates only"
        if group.path == "/":
            return "its data lie in the root of the store, and the converter passes over the root"
        if not {"y", "x"} <= {array.name for array in group.coordinates}:
            dims = dict.fromkeys(dim for array in group.variables for dim in array.dims)
            return f"its data lie over ({', '.join(dims) or 'nothing'}) and not over a grid of y and x with coordinates"
        for array in group.variables:
            if array.dims[-2:] != ("y", "x") or len(array.dims) > 3:
                return (
                    f"{array.name} lies over ({', '.join(array.dims)}), and only (y, x) or (band, y, x) has overviews"
                )
            if array.is_text:
                return f"{array.name} holds text"
        if crs_of(product, group) is None:
            return "neither it nor the product says in which coordinate reference system it lies"
        return None

    def companions(self, product: Product, groups: Sequence[str]) -> tuple[str, ...]:
        """Return nothing: a grid's coordinates lie in its own group."""
        return ()

    def empty_groups(self, product: Product) -> tuple[str, ...]:
        """Return nothing."""
        return ()

    def refuses(self, option: str, groups: Sequence[str]) -> str | None:
        """Refuse `packed`: the generic layout holds floating-point numbers."""
        return "the converter keeps packed integers of Sentinel-2 products only" if option == "packed" else None

    def call(self, product: Product, groups: Sequence[str], options: Mapping[str, Any] = NO_OPTIONS) -> ConverterCall:
        """Name the chosen groups, or all that can become GeoZarr: the converter's own default names hardly exist."""
        return ConverterCall(tuple(groups) or self._fit(product), (*GENERIC_LAYOUT, *chunk_flags(options)))

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

    def _fit(self, product: Product) -> tuple[str, ...]:
        return tuple(path for path, group in product.groups.items() if self.unfit(product, group) is None)


class Sentinel2(Generic):
    """Sentinel-2 L1C and L2A: the whole product in the converter's flat layout, chosen groups in the generic one."""

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
            return ConverterCall(self._fit(product), chunk_flags(options))
        return ConverterCall(tuple(groups), (*GENERIC_LAYOUT, *chunk_flags(options)))


class Olci(Generic):
    """Sentinel-3 OLCI: swath radiances, which only the converter's own OLCI layout can hold."""

    def unfit(self, product: Product, group: Group) -> str | None:
        """Return why a group cannot become GeoZarr: only the measurements can."""
        return None if group.path == "/measurements" else "of an OLCI product only /measurements becomes GeoZarr"

    def refuses(self, option: str, groups: Sequence[str]) -> str | None:
        """Refuse `packed`, which needs no asking, and `chunks`."""
        return {
            "packed": "of Sentinel-3 OLCI the converter keeps packed integers anyway",
            "chunks": "the converter has chunks of its own for Sentinel-3 OLCI, and none for the web",
        }.get(option)

    def call(self, product: Product, groups: Sequence[str], options: Mapping[str, Any] = NO_OPTIONS) -> ConverterCall:
        """Let the converter recognise it."""
        return ConverterCall((), lacks=("--max-retries",))


class Sentinel1Grd(Generic):
    """Sentinel-1 GRD: radar geometry under one sub-product per polarisation, placed by ground control points.

    The converter expects two polarisations, takes group names relative to them, and reads the control points of the
    first one.
    """

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

    def _polarisations(self, product: Product) -> tuple[str, ...]:
        return tuple(dict.fromkeys(path[1:].partition("/")[0] for path in product.groups))


def profile_of(product: Product) -> Profile:
    """Return the profile for a product's kind."""
    match product.kind:
        case "Sentinel-2 L1C" | "Sentinel-2 L2A":
            return Sentinel2()
        case "Sentinel-1 GRD":
            return Sentinel1Grd()
        case "Sentinel-3 OLCI":
            return Olci()
        case _:
            return Generic()


def check_options(product: Product, groups: Sequence[str], options: Mapping[str, Any]) -> None:
    """Refuse options of the result that the converter does not have for this product.

    Raises
    ------
    InvalidRequest
    """
    profile = profile_of(product)
    for name, value in of_result(options).items():
        if (why := profile.refuses(name, groups)) is not None:
            choice = "; or give groups=[] for the whole product" if profile.refuses(name, ()) is None else ""
            raise InvalidRequest(
                why, given=f"{name}={value!r} for {product.kind}: {product.name}", remedy=f"leave {name} out{choice}"
            )


def crs_of(product: Product, group: Group) -> str | None:
    """Return the coordinate reference system that a group's data are in, as the product writes it: "EPSG:32632"."""

    def said(attributes: Mapping[str, Any], *names: str) -> str | None:
        return next((found for name in names if isinstance(found := attributes.get(name), str) and found), None)

    for array in group.variables:
        epsg = array.attributes.get("proj:epsg")
        if isinstance(epsg, int | str) and epsg:
            return f"EPSG:{epsg}"
        if (found := said(array.attributes, "proj:code", "proj:wkt2")) is not None:
            return found
    other = product.attributes.get("other_metadata")
    return said(other if isinstance(other, Mapping) else {}, "horizontal_CRS_code", "horizontal_crs_code")

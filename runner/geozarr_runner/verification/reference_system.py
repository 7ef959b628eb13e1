"""The reference system of an output against the source's: pyproj says whether they are one, and no text is compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from geozarr_runner.product.model import Group
from geozarr_runner.trust import crs

if TYPE_CHECKING:
    from pyproj import CRS

GRID_MAPPING = "spatial_ref"  # the converter calls it so in every group
_OF_GROUPS = ("proj:code", "proj:wkt2", "proj:projjson")
_OF_GRID_MAPPINGS = ("crs_wkt", "spatial_ref")
_SHOWN = 60


def unlike(wanted: str | None, group: Group, attributes: Mapping[str, Any]) -> Iterator[str]:
    """Yield where a group of an output does not say that it lies in the source's reference system.

    Parameters
    ----------
    wanted
        The source's, in any spelling; None where any will do.
    attributes
        The group's own.
    """
    mapping = next((array.attributes for array in group.arrays if array.name == GRID_MAPPING), {})
    places = [(f"its {name}", attributes[name]) for name in _OF_GROUPS if name in attributes]
    places += [(f"the {name} of its {GRID_MAPPING}", mapping[name]) for name in _OF_GRID_MAPPINGS if name in mapping]
    said = [(place, value) for place, value in places if not crs.is_nothing(value)]
    if not said:
        yield f"it does not say that it is in {(wanted or 'any reference system')[:_SHOWN]}"
    system = None if wanted is None else crs.parsed(wanted)
    for place, value in said:
        try:
            found = crs.parsed(value)
        except ValueError as error:
            yield f"{place} cannot be read: {error}"
            continue
        if system is not None and not (crs.is_same(found, system) or crs.is_same(found, _as_gdal_writes(system))):
            name = (f"EPSG:{code}" if (code := found.to_epsg()) is not None else found.name)[:_SHOWN]
            yield f"{place} is {name}, and it does not say that it is in {(wanted or '')[:_SHOWN]}"


def _as_gdal_writes(system: CRS) -> CRS:
    """Return a system as it comes back from the converter's own library, whose WKT cannot say all that PROJ knows."""
    from rasterio.crs import CRS as GDAL_CRS
    from rasterio.errors import CRSError

    try:
        return crs.parsed(GDAL_CRS.from_user_input(system.to_wkt()).to_wkt())
    except (CRSError, ValueError):
        return system

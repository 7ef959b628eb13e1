"""Coordinate reference systems as others write them: GDAL and PROJ open files and addresses that such a text names.

`flaw` says whether a text may be read, `parsed` reads it. pyproj is imported where one is read, and not before.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from geozarr_runner.text.printable import printable
from geozarr_runner.trust.bounds import from_json

if TYPE_CHECKING:
    from pyproj import CRS

# Attributes that the converter, rioxarray, GDAL and pyproj read a system from.
ATTRIBUTES = (
    "proj:epsg",
    "proj:code",
    "proj:wkt2",
    "proj:projjson",
    "crs_wkt",
    "spatial_ref",
    "crs",
    "esri_pe_string",
    "_CRS",
)
LONGEST = 100_000
_CODE = re.compile(r"(?:[A-Za-z][A-Za-z0-9_]*:)?[A-Za-z0-9_.]+(?:\+[A-Za-z0-9_.:]+)?|urn:[\w:.,-]+")
_OF_OGC = re.compile(r"https?://(?:www\.)?opengis\.net/def/crs/[\w/.-]+", re.ASCII)  # read as a code, never fetched
_WORDS = re.compile(r"\w[\w .,()+:'-]*(?: / [\w .,()+:'-]+)*")  # WGS 84 / UTM zone 32N
_WRITTEN_OUT = re.compile(r"[A-Za-z][A-Za-z0-9_]*\s*[\[(]|\+|proj=")  # WKT, a PROJ string
_NAMES_A_FILE = re.compile(
    r"parameter_?file|PROJ-based|(?:\b|_)(?:init|file|model|catalog|inv_grids)\s*=|grids\s*=(?!\s*@?null(?![\w,./]))",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"(?:EPSG:{1,2})?\s*(\d{1,7})(?:\.0*)?", re.IGNORECASE)
_NOTHING = frozenset({"", "null", "none", "nan", "n/a", "unknown", "undefined"})
_OF_GDAL = ("projjson", "wkt", "url")  # the parts of GDAL's own attribute, _CRS


def flaw(attributes: Mapping[str, Any]) -> str | None:
    """Return why a reference system among attributes may not be read; None where it may, or there is none."""
    for name in ATTRIBUTES:
        if (found := attributes.get(name)) is not None and not _is_itself(found):
            return f"its {name} is no reference system, but may name a file: {printable(str(found))[:60]}"
    return None


def is_nothing(said: Any) -> bool:
    """Return whether a value says that there is no reference system, or that none is known."""
    if isinstance(said, str):
        return said.strip().lower() in _NOTHING
    return said is None or said is False or said != said or said in (0, {}, [])


def parsed(said: Any) -> CRS:
    """Return the reference system that a value says: a code, a name, WKT, PROJJSON, or a PROJ string.

    Raises
    ------
    ValueError
        It is none that PROJ knows, or its text may name a file; the message has the value.
    """
    try:
        text = json.dumps(said, sort_keys=True)
    except (RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"{_shown(said)} is no reference system") from error
    return _parsed(text)


@lru_cache(maxsize=256)
def _parsed(text: str) -> CRS:
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    said = json.loads(text)
    if not _is_itself(said):
        raise ValueError(f"{_shown(said)} may name a file")
    try:
        if isinstance(said, Mapping) and "type" not in said and "$schema" not in said:
            if (part := next((said[name] for name in _OF_GDAL if said.get(name)), None)) is not None:
                return parsed(part)
            return CRS.from_cf(dict(said))
        if isinstance(said, float) and said.is_integer():
            said = int(said)
        number = _NUMBER.fullmatch(str(said).strip()) if isinstance(said, int | str) else None
        if number is not None and said is not True:
            return CRS.from_epsg(int(number[1]))
        if isinstance(said, str):
            return CRS.from_user_input(said.strip())
        if isinstance(said, Mapping):
            return CRS.from_json_dict(dict(said))
    except (CRSError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{_shown(said)} is no reference system that PROJ knows") from error
    raise ValueError(f"{_shown(said)} is no reference system")


def is_same(one: CRS, other: CRS) -> bool:
    """Return whether two reference systems are one, however they are written, and whichever axis they name first."""
    if one.equals(other, ignore_axis_order=True):
        return True
    if (code := one.to_epsg()) is not None and other.to_epsg() is not None:
        return code == other.to_epsg()
    # PROJ overlooks the order of geographic axes only, and WKT of the first version has no northing before an easting.
    if not (one.is_projected and other.is_projected) or one.coordinate_operation != other.coordinate_operation:
        return False
    bases = (one.geodetic_crs, other.geodetic_crs)
    return _axes(one) == _axes(other) and bases[0] is not None and bases[0].equals(bases[1], ignore_axis_order=True)


def _axes(crs: CRS) -> list[tuple[str, float]]:
    return sorted((axis.direction, axis.unit_conversion_factor) for axis in crs.axis_info)


def _shown(said: Any) -> str:
    return repr(printable(str(said))[:60])


def _is_itself(said: Any) -> bool:
    """Return whether a text says what the system is, rather than where more of it can be read."""
    return _is_text_itself(said) if isinstance(said, str) else _names_no_file(json.dumps(said))


@lru_cache(maxsize=256)  # each band of each group says the same
def _is_text_itself(said: str) -> bool:
    if said.lstrip().startswith("{"):
        try:
            return _is_itself(from_json(said))  # its letters may be escapes
        except ValueError:
            return False
    text = said.strip()
    short = (_CODE, _OF_OGC, _WORDS)
    if not _names_no_file(text):
        return False
    return not text or any(form.fullmatch(text) for form in short) or _WRITTEN_OUT.match(text) is not None


@lru_cache(maxsize=256)
def _names_no_file(text: str) -> bool:
    return len(text) <= LONGEST and not _NAMES_A_FILE.search(text)

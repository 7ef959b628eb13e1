"""Coordinate reference systems as others write them: GDAL and PROJ open files and addresses that such a text names."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from geozarr_runner.text.printable import printable
from geozarr_runner.trust.bounds import from_json

# Attributes that the converter, rioxarray and pyproj read a system from.
ATTRIBUTES = (
    "proj:epsg",
    "proj:code",
    "proj:wkt2",
    "proj:projjson",
    "crs_wkt",
    "spatial_ref",
    "crs",
    "esri_pe_string",
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


def flaw(attributes: Mapping[str, Any]) -> str | None:
    """Return why a reference system among attributes may not be read; None where it may, or there is none."""
    for name in ATTRIBUTES:
        if (found := attributes.get(name)) is not None and not _is_itself(found):
            return f"its {name} is no reference system, but may name a file: {printable(str(found))[:60]}"
    return None


def _is_itself(said: Any) -> bool:
    """Return whether a text says what the system is, rather than where more of it can be read."""
    if isinstance(said, str) and said.lstrip().startswith("{"):
        try:
            said = from_json(said)  # its letters may be escapes
        except ValueError:
            return False
    text = said.strip() if isinstance(said, str) else json.dumps(said)
    if len(text) > LONGEST or _NAMES_A_FILE.search(text):
        return False
    if not isinstance(said, str):
        return True
    short = (_CODE, _OF_OGC, _WORDS)
    return not text or any(form.fullmatch(text) for form in short) or _WRITTEN_OUT.match(text) is not None

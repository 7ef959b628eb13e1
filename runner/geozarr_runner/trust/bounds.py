"""How large what is read may be, before it is known what it is."""

from __future__ import annotations

import json
import os
from typing import Any

from geozarr_runner.errors import InvalidRequest, ProductBroken

VARIABLE = "GEOZARR_MAX_METADATA"
LARGEST_DOCUMENT = 100_000_000
MOST_OBJECTS = 10_000_000  # of an array, or of all that is converted at once
LARGEST_OBJECT = 1 << 31  # what a codec can decode at once; larger objects are read in parts
LARGEST_UNCOUNTED = 10_000_000
BYTES_OF_A_VALUE = 10  # at least, on average: one of three bytes takes eighty in memory
SECONDS_FOR_A_DOCUMENT = 300.0  # with all tries; what comes drop by drop is given up
SLOWEST = 1000  # bytes a second of one connection: who sends less has no wish to come to an end
# How files begin that are given in a product's place.
_SIGNATURES = {
    b"<!doctype html": "an HTML page",
    b"<html": "an HTML page",
    b"<": "XML",
    b"\x89hdf": "an HDF5 or NetCDF file",
    b"cdf": "a NetCDF file",
    b"ii*\0": "a TIFF image",
    b"mm\0*": "a TIFF image",
    b"ii+\0": "a TIFF image",
    b"pk\x03\x04": "a ZIP archive",
    b"\x1f\x8b": "a gzip file",
    b"\x89png": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"\0\0\0\x0cjp": "a JPEG 2000 image",
    b"%pdf": "a PDF",
}
_BEGINNINGS = b'{["-0123456789tfn'  # of JSON
_BYTE_ORDER_MARKS = (b"\xff\xfe", b"\xfe\xff", b"\0")  # of JSON that is not in UTF-8


def largest_document() -> int:
    """Return how many bytes of metadata, an item or a catalogue are read, decoded.

    Raises
    ------
    InvalidRequest
        The variable that says so is no number.
    """
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return LARGEST_DOCUMENT
    if not (text.isascii() and text.isdigit() and len(text) <= 15 and int(text) > 0):
        raise InvalidRequest(
            f"{VARIABLE} is no number of bytes above 0", given=text[:50], remedy=f"{VARIABLE}={LARGEST_DOCUMENT}, say"
        )
    return int(text)


def seconds_for(size: int) -> float:
    """Return how long one request for a stored object of some bytes may take."""
    return SECONDS_FOR_A_DOCUMENT + size / SLOWEST


def is_document(path: str) -> bool:
    """Return whether what lies under a path is metadata, by its name."""
    name = path.rpartition("/")[2]
    return name.startswith(".z") or name.endswith((".json", ".geojson"))


def too_large(given: object, most: int) -> ProductBroken:
    """Return the error for what goes on after its bound."""
    remedy = f"if it is metadata all the same, allow more bytes: {VARIABLE}={10 * most}"
    return ProductBroken(
        f"it is larger than the {most} bytes that are read of it",
        given=given,
        remedy=remedy if most == largest_document() else "tell whoever publishes it: it is not what its metadata say",
    )


def check_beginning(content: bytes, given: object) -> None:
    """Look at the first bytes of what should be JSON.

    Raises
    ------
    ProductBroken
        It is something else.
    """
    text = content.removeprefix(b"\xef\xbb\xbf").lstrip()
    head = text[:16].lower()
    found = next((kind for start, kind in _SIGNATURES.items() if head.startswith(start)), None)
    if found is None and (not text or text[:1] in _BEGINNINGS or text.startswith(_BYTE_ORDER_MARKS)):
        return
    page = found == "an HTML page"
    raise ProductBroken(
        f"this is no JSON: it is {found or 'something else'}",
        given=given,
        remedy="check the address: it must be a Zarr store, or a STAC item that has one as an asset"
        + ('; of a page of a STAC browser it is what the page has under "Source"' if page else ""),
    )


def from_json(text: bytes | str) -> Any:
    """Return what a JSON document of others holds.

    Raises
    ------
    ValueError
        It is no JSON, nested too deeply to be read, or of more values than fit into memory; nothing else is raised.
    """
    if len(text) > LARGEST_UNCOUNTED:
        marks = map(text.count, ("[", "{", ",")) if isinstance(text, str) else map(text.count, (b"[", b"{", b","))
        most = largest_document() // BYTES_OF_A_VALUE
        if sum(marks) > most:
            raise ValueError(f"it has more than {most:,} values")
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None

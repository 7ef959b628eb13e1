"""Reference systems in the one spelling that the converter reads: the view has them so, whatever the product's is.

Facts of eopf-geozarr 0.12.0. It reads `proj:epsg`, `proj:code` and `proj:wkt2` of arrays, in its layout for Sentinel-2
the first one only, else `horizontal_CRS_code`, which has to be a text. It reads nothing of groups.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from geozarr_runner.product.model import Array, Group, Product
from geozarr_runner.product.reference_system import OF_EOPF, reference_system, text_of
from geozarr_runner.trust import crs

_READ_OF_ARRAYS = ("proj:epsg", "proj:code", "proj:wkt2")
_CODE = re.compile(r"(?:EPSG:)?(\d+)", re.IGNORECASE)


def is_read_as_it_is(product: Product) -> bool:
    """Return whether the converter reads every reference system of a product as the product writes it."""
    if of_root(product) != product.attributes:
        return False
    arrays = ((group, array) for group in product.groups.values() for array in group.variables)
    return all(of_array(product, group, array) == array.attributes for group, array in arrays)


def of_array(product: Product, group: Group, array: Array) -> Mapping[str, Any]:
    """Return an array's attributes for the converter."""
    if array.dims[-2:] != ("y", "x"):
        return array.attributes
    text = reference_system(product, group).text
    if text is None or _as_read(product, array) == text:
        return array.attributes
    others = {name: value for name, value in array.attributes.items() if name not in crs.ATTRIBUTES}
    code = _CODE.fullmatch(text)
    return {**others, **({"proj:wkt2": text} if code is None else {"proj:epsg": int(code[1])})}


def of_root(product: Product) -> Mapping[str, Any]:
    """Return the root's attributes for the converter: a code that is no text ends it, whatever arrays say."""
    attributes = product.attributes
    if "other_metadata" not in attributes:
        return attributes
    other = attributes["other_metadata"]
    if not isinstance(other, Mapping):
        return {name: value for name, value in attributes.items() if name != "other_metadata"}
    read = {name: _as_text(other[name]) for name in OF_EOPF if name in other}
    if all(text == other[name] for name, text in read.items()):
        return attributes
    kept = {name: value for name, value in other.items() if name not in read}
    return {**attributes, "other_metadata": {**kept, **{name: text for name, text in read.items() if text is not None}}}


def _as_text(said: Any) -> str | None:
    """Return a code as the converter reads it; None where there is none."""
    if isinstance(said, str) and _CODE.fullmatch(said):
        return said
    try:
        text = text_of(crs.parsed(said))
    except ValueError:
        return None
    return text if _CODE.fullmatch(text) else None


def _as_read(product: Product, array: Array) -> str | None:
    """Return the code that the converter reads for an array; None where it is for us to say which."""
    said = {name: array.attributes[name] for name in _READ_OF_ARRAYS if array.attributes.get(name) is not None}
    other = of_root(product).get("other_metadata")
    code = next((other[name] for name in OF_EOPF if name in other), None) if isinstance(other, Mapping) else None
    if "proj:epsg" in said:
        code = said["proj:epsg"] if type(said["proj:epsg"]) is int else None
    elif said:
        return None
    found = _CODE.fullmatch(str(code))
    return None if found is None else f"EPSG:{int(found[1])}"

"""What the attributes of a product's groups and arrays say of it: its item, its times, its grid mappings."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

OF_A_GRID_MAPPING = frozenset({"grid_mapping_name", "crs_wkt", "spatial_ref"})


def grid_mappings(attributes: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the variables that an array names as those with its reference system, in either form of CF."""
    said = attributes.get("grid_mapping")
    words = said.split() if isinstance(said, str) else []
    return tuple(word.removesuffix(":") for word in words if word.endswith(":")) or tuple(words[:1])


def discovery_of(attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a product says of itself as a STAC item, in its root's attributes; empty where it does not."""
    found = attributes.get("stac_discovery")
    return found if isinstance(found, Mapping) else {}


def properties_of(attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the properties of that item; empty where it has none."""
    found = discovery_of(attributes).get("properties")
    return found if isinstance(found, Mapping) else {}


def time_of(described: Mapping[str, Any]) -> str | None:
    """Return when the data of a STAC item were taken, or began to be; None where it does not say."""
    properties = described.get("properties")
    said = properties if isinstance(properties, Mapping) else {}
    for name in ("datetime", "start_datetime"):
        if _is_time(said.get(name)):
            return str(said[name])
    return None


def _is_time(said: Any) -> bool:
    """Return whether a value is a time as STAC writes it."""
    try:
        return isinstance(said, str) and bool(datetime.fromisoformat(said))
    except ValueError:
        return False

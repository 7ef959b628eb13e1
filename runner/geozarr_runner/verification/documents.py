"""The metadata of an output: what a group says of all nodes below it has to be what these say themselves.

A reader of the root takes the root's word, one of a group that group's, and GDAL mostly the nodes' own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

DOCUMENT = "zarr.json"
CONSOLIDATED = "consolidated_metadata"


def contradicted(output: Path) -> Iterator[tuple[str, str]]:
    """Yield groups of an output that say something of a node that the node does not say, with what is wrong."""
    documents = {}
    for file in sorted(output.rglob(DOCUMENT)):
        place = "/" + "/".join(file.parent.relative_to(output).parts)
        try:
            found = json.loads(file.read_bytes(), parse_constant=str)  # NaN is not equal to itself
        except ValueError as error:
            yield place, f"its metadata cannot be read: {error}"
            continue
        if isinstance(found, Mapping):
            documents[place] = found
    for path, document in documents.items():
        consolidated = document.get(CONSOLIDATED)
        if not isinstance(consolidated, Mapping):
            continue
        below = f"{path.rstrip('/')}/"
        told = {f"{below}{name}": node for name, node in consolidated.get("metadata", {}).items()}
        for place, node in told.items():
            if place not in documents:
                yield path, f"its consolidated metadata has {place}, which is not there"
            elif _own(node) != _own(documents[place]):
                yield path, f"its consolidated metadata says of {place} what that does not say itself"
        for place in documents.keys() - told.keys() - {path}:
            if place.startswith(below):
                yield path, f"its consolidated metadata lacks {place}"


def _own(node: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: value for name, value in node.items() if name != CONSOLIDATED}

"""The root document of an output on a disk: the record in it, and its consolidated metadata."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from geozarr_runner.publishing.local import output_path
from geozarr_runner.stores.access.failures import storage_errors
from geozarr_runner.trust import folders
from geozarr_runner.trust.bounds import from_json, largest_document
from geozarr_runner.trust.tree import FolderTree

PROVENANCE = "geozarr_runner"
OWNER = "run"  # what a record calls who has had the run made
RECORD_VERSION = 1


def provenance(output: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return the record of an output; None if it has none."""
    return provenance_of(_root_document(output_path(output)))


def provenance_of(root: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the record in a root document; None if it has none."""
    attributes = (root or {}).get("attributes")
    record = attributes.get(PROVENANCE) if isinstance(attributes, dict) else None
    return record if isinstance(record, dict) else None


def provenance_in(document: bytes) -> dict[str, Any] | None:
    """Return the record in the bytes of a root document; None if it has none or cannot be read."""
    try:
        root = from_json(document)
    except ValueError:
        return None
    return provenance_of(root if isinstance(root, dict) else None)


def record_provenance(store: Path, record: Mapping[str, Any]) -> None:
    """Write the record into the root's attributes; the consolidated metadata does not change."""
    document = store / "zarr.json"
    with storage_errors(document):
        root = json.loads(document.read_bytes())
        root.setdefault("attributes", {})[PROVENANCE] = dict(record)
        _write_json(document, root)


def remove_groups(store: Path, groups: Collection[str]) -> None:
    """Remove groups from a Zarr v3 store and its consolidated metadata, with parents that become empty."""
    document = store / "zarr.json"
    root = _root_document(store) if groups else None
    if root is None:
        return
    with storage_errors(document):
        nodes = (root.get("consolidated_metadata") or {}).get("metadata", {})
        gone = {path.strip("/") for path in groups}
        nodes = {
            path: node for path, node in nodes.items() if not any(f"{path}/".startswith(f"{one}/") for one in gone)
        }
        for path in sorted(gone):
            folders.remove(store / path)
            parent = path.rpartition("/")[0]
            while parent and not any(other.startswith(f"{parent}/") for other in nodes):
                nodes.pop(parent, None)
                folders.remove(store / parent)
                parent = parent.rpartition("/")[0]
        if "consolidated_metadata" in root:
            root["consolidated_metadata"]["metadata"] = nodes
        _write_json(document, root)


def consolidate(store: Path) -> None:
    """Consolidate the metadata of a Zarr v3 store that is not consolidated; verification reports a failure."""
    root = _root_document(store)
    if root is not None and not root.get("consolidated_metadata"):
        with storage_errors(store), suppress(ValueError, KeyError, TypeError):
            write_consolidated(store)


def write_consolidated(group: Path) -> None:
    """Write the consolidated metadata of a Zarr v3 group and of everything below it."""
    import zarr

    with warnings.catch_warnings():
        # zarr warns that some readers do not know consolidated metadata; the converter writes it in any case.
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(str(group), zarr_format=3)


def _root_document(store: Path) -> dict[str, Any] | None:
    """Return the root document of a Zarr v3 store; None if it cannot be read."""
    try:
        root = from_json(FolderTree(store).read("zarr.json", largest_document()) or b"")
    except (OSError, ValueError):
        return None
    return root if isinstance(root, dict) else None


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    beside = path.with_name(f"{path.name}.new")
    beside.write_text(json.dumps(document, indent=2), encoding="utf-8")
    beside.replace(path)

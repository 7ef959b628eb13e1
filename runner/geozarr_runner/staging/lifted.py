"""A view whose root's arrays lie in a group: the converter passes over those in the root itself."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from geozarr_runner.kinds.base import PLACE_OF_ROOT
from geozarr_runner.product.model import Product
from geozarr_runner.trust.keys import inside


def lifts(product: Product, groups: Sequence[str]) -> bool:
    """Return whether the root of a product is one of the groups that become GeoZarr."""
    return "/" in groups and "/" in product.groups


def lifted(product: Product, view: Path, target: Path) -> Path:
    """Make a view that shows another one's root arrays in a group, and all else where it is.

    Parameters
    ----------
    view
        A view with consolidated metadata. Its folders are linked.
    target
        Where to make it.

    Returns
    -------
    Path
        `target`.
    """
    place = PLACE_OF_ROOT.strip("/")
    of_root = {array.name for array in product.groups["/"].arrays}
    (target / place).mkdir(parents=True)
    for entry in view.iterdir():
        if entry.is_dir():
            inside(target, f"{place}/{entry.name}" if entry.name in of_root else entry.name).symlink_to(entry)
    for key, document in _documents(view, product.zarr_format, place, of_root).items():
        inside(target, key).write_text(json.dumps(document), encoding="utf-8")
    return target


def _documents(view: Path, zarr_format: int, place: str, of_root: set[str]) -> dict[str, Mapping[str, Any]]:
    """Return the documents of the root and of the group, by their keys."""

    def moved(nodes: Mapping[str, Any]) -> dict[str, Any]:
        return {f"{place}/{key}" if key.partition("/")[0] in of_root else key: node for key, node in nodes.items()}

    if zarr_format == 2:
        known = json.loads((view / ".zmetadata").read_bytes())
        root = {key: known["metadata"][key] for key in (".zgroup", ".zattrs")}
        own = {f"{place}/{key}": document for key, document in root.items()}
        return {**root, **own, ".zmetadata": {**known, "metadata": {**moved(known["metadata"]), **own}}}
    document = json.loads((view / "zarr.json").read_bytes())
    known = document.pop("consolidated_metadata")
    consolidated = {**known, "metadata": {**moved(known["metadata"]), place: document}}
    return {"zarr.json": {**document, "consolidated_metadata": consolidated}, f"{place}/zarr.json": document}

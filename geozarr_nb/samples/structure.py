"""The tree of groups and arrays of a product, without its pixels, and the writing of it as a Zarr v2 store.

A node is a mapping as zarr v2 documents it: a group has `attributes` and `members`; an array has `attributes` and what
`.zarray` holds. The packaged ones come from real products (see `structures/README.md`).
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import zarr
    from numpy.typing import NDArray

type Node = dict[str, Any]

ARRAY_KEYS = ("chunks", "compressor", "dimension_separator", "dtype", "fill_value", "filters", "order", "shape")


def load(name: str) -> Node:
    """Read the packaged structure `name`, such as "s2-l2a"."""
    packed = files("geozarr_nb.samples").joinpath("structures", f"{name}.json.gz").read_bytes()
    root: Node = json.loads(gzip.decompress(packed))
    return root


def walk(node: Node, path: str = "") -> Iterator[tuple[str, Node]]:
    """Yield every group and array below `node`, and itself, as (path without a leading slash, node)."""
    yield path, node
    for name, member in (node.get("members") or {}).items():
        yield from walk(member, f"{path}/{name}" if path else name)


def is_array(node: Node) -> bool:
    """Tell an array from a group."""
    return "shape" in node


def map_attributes(value: Any, change: dict[str, Callable[[Any], Any]]) -> Any:
    """Copy a JSON value, with every attribute named in `change` passed through its function."""
    if isinstance(value, dict):
        return {
            key: change[key](item) if key in change else map_attributes(item, change) for key, item in value.items()
        }
    if isinstance(value, list):
        return [map_attributes(item, change) for item in value]
    return value


def write(root: Node, folder: Path) -> None:
    """Write all metadata of `root`, and its consolidated form, into an existing, empty `folder`."""
    consolidated: dict[str, Any] = {}
    for path, node in walk(root):
        place = folder / path
        place.mkdir(exist_ok=True)
        if is_array(node):
            documents = {".zarray": {key: node.get(key) for key in ARRAY_KEYS} | {"zarr_format": 2}}
        else:
            documents = {".zgroup": {"zarr_format": 2}}
        documents[".zattrs"] = node.get("attributes") or {}
        for name, document in documents.items():
            place.joinpath(name).write_text(json.dumps(document, indent=4, sort_keys=True), encoding="utf-8")
            consolidated[f"{path}/{name}" if path else name] = document
    text = json.dumps({"metadata": consolidated, "zarr_consolidated_format": 1}, indent=4, sort_keys=True)
    folder.joinpath(".zmetadata").write_text(text, encoding="utf-8")


def chunks_of(array: zarr.Array[Any]) -> Iterator[tuple[slice, slice]]:
    """Cut a two-dimensional array into its chunks."""
    rows, columns = array.shape
    height, width = array.chunks
    for top in range(0, rows, height):
        for left in range(0, columns, width):
            yield slice(top, min(top + height, rows)), slice(left, min(left + width, columns))


class MadePixels:
    """Fills the arrays of a written structure."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def array(self, path: str) -> zarr.Array[Any]:
        """Open the array at `path`; every chunk is stored, also one of nothing but fill, as in real products."""
        import zarr

        array: zarr.Array[Any] = zarr.open_array(self.folder / path, mode="r+", zarr_format=2)
        return array.with_config({"write_empty_chunks": True})

    def fill(self, path: str, values: NDArray[Any] | np.generic | float) -> None:
        """Write a whole array; `values` are cast to its dtype."""
        import numpy as np

        array = self.array(path)
        array[...] = np.broadcast_to(np.asarray(values, dtype=array.dtype), array.shape)

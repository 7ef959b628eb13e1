"""What a product holds, read from its metadata alone.

`open_product` accepts an address, a path, or a STAC item and returns a `Product`: one request where the metadata is
consolidated, one more for a STAC item, a listing where it is not.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import islice
from itertools import product as cartesian
from operator import lt
from typing import Any

import numpy as np

from geozarr_runner.errors import GeozarrError, InvalidRequest, ProductBroken, ProductUnreachable
from geozarr_runner.events import human_bytes
from geozarr_runner.product import metadata
from geozarr_runner.stores.store import CONCURRENCY, Store, not_found
from geozarr_runner.text import html
from geozarr_runner.text.printable import printable
from geozarr_runner.text.shell import word
from geozarr_runner.trust import crs
from geozarr_runner.trust.addresses import local_path, named, redact, said_place
from geozarr_runner.trust.bounds import from_json, seconds_for
from geozarr_runner.trust.keys import flaw

Source = str | os.PathLike[str] | Mapping[str, Any]
ROWS_SHOWN = 60
SHOWN = 10
UNUSABLE_SHOWN = 5
# Stored objects that are looked at to show what a product takes on this machine; a second's work.
LOOKED_AT = 20_000
MOST_NODES = 100_000
MOST_LEVELS = 32
FARTHEST = 1e9  # whatever the unit of a box is; what is no number is not below it either
DOCUMENTS = frozenset({".zarray", ".zattrs", ".zgroup", ".zmetadata", "zarr.json"})
TELL_PUBLISHER = "tell whoever publishes the product; no other option will help"


@dataclass(frozen=True)
class Array:
    """One array of a product.

    Attributes
    ----------
    path
        Absolute path in the product: `/measurements/reflectance/r10m/b02`.
    shape, chunks
        Size of the array and of one stored object (a shard, where the array is sharded), in pixels.
    dims
        Names of the dimensions, as many as `shape` has.
    metadata
        The metadata document as it is stored: `.zarray` (Zarr v2) or `zarr.json` (v3).
    unusable
        Why its values, or where they lie, cannot be read; empty where they can.
    """

    path: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: str
    dims: tuple[str, ...]
    attributes: Mapping[str, Any] = field(repr=False)
    metadata: Mapping[str, Any] = field(repr=False)
    unusable: str = ""

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def nbytes(self) -> int:
        """Size in memory as stored, before decoding and without compression."""
        return math.prod(self.shape) * self.itemsize

    @property
    def itemsize(self) -> int:
        """Bytes of one stored value; 0 for a type of no fixed size."""
        try:
            return int(np.dtype(self.dtype).itemsize)
        except (TypeError, ValueError, SyntaxError):
            return 0

    @property
    def grid(self) -> tuple[int, ...]:
        """Number of stored objects along each dimension."""
        return tuple(-(-size // chunk) for size, chunk in zip(self.shape, self.chunks, strict=True))

    @property
    def objects(self) -> int:
        """Number of objects that may be stored for it."""
        return math.prod(self.grid)

    @property
    def is_text(self) -> bool:
        """True for strings of any kind."""
        return self.dtype.lstrip("<>|=")[:1] in ("U", "S", "O") or self.dtype in ("string", "fixed_length_utf32")

    def indices(self) -> Iterator[tuple[int, ...]]:
        """Yield the index of every object, counted along each dimension."""
        return cartesian(*(range(count) for count in self.grid))

    def object_keys(self) -> Iterator[str]:
        """Yield the key of every object that may be stored for this array, relative to the store."""
        root = self.path.lstrip("/")
        return (f"{root}/{self.key(index)}" for index in self.indices())

    def has_key(self, key: str) -> bool:
        """Return whether this is the key of one of its objects, relative to the array."""
        numbers = re.findall(r"[0-9]+", key)
        if len(numbers) != max(len(self.shape), 1) or any(len(number) > 19 for number in numbers):
            return False
        index = tuple(map(int, numbers)) if self.shape else ()
        return key == self.key(index) and all(map(lt, index, self.grid))

    def key(self, index: tuple[int, ...]) -> str:
        """Return the key of one object, relative to the array; `index` counts objects along each dimension."""
        return metadata.object_key(self.metadata, index)


@dataclass(frozen=True)
class Group:
    """One group that holds arrays."""

    path: str
    arrays: tuple[Array, ...]
    attributes: Mapping[str, Any] = field(repr=False)

    @cached_property
    def variables(self) -> tuple[Array, ...]:
        """The arrays that hold data."""
        return tuple(array for array in self.arrays if array.name not in self._coordinate_names)

    @cached_property
    def coordinates(self) -> tuple[Array, ...]:
        """The arrays that say where the data lie."""
        return tuple(array for array in self.arrays if array.name in self._coordinate_names)

    @cached_property
    def _coordinate_names(self) -> frozenset[str]:
        names = {dim for array in self.arrays for dim in array.dims}
        for attributes in (self.attributes, *(array.attributes for array in self.arrays)):
            listed = attributes.get("coordinates")
            if isinstance(listed, str):
                names.update(listed.split())
        return frozenset(names)

    @property
    def raster(self) -> Array | None:
        """The variable with most pixels among those of two or more dimensions."""
        rasters = [array for array in self.variables if len(array.shape) >= 2]
        return max(rasters, key=lambda array: math.prod(array.shape[-2:]), default=None)

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Pixels of the largest variable, along each of its dimensions."""
        return None if self.raster is None else self.raster.shape

    @property
    def chunks(self) -> tuple[int, ...] | None:
        """Pixels of one stored object of the largest variable."""
        return None if self.raster is None else self.raster.chunks

    @property
    def nbytes(self) -> int:
        """Size of all its arrays in memory as stored, without compression."""
        return sum(array.nbytes for array in self.arrays)

    @property
    def objects(self) -> int:
        """Number of objects that may be stored for all its arrays."""
        return sum(array.objects for array in self.arrays)

    @property
    def unusable(self) -> str:
        """Why one of its arrays cannot be read, or where it lies; empty where all can."""
        of_arrays = (f"{array.name}: {array.unusable}" for array in self.arrays if array.unusable)
        return next(of_arrays, crs.flaw(self.attributes) or "")


@dataclass(frozen=True)
class Product:
    """A product's structure.

    Attributes
    ----------
    url
        The address of the Zarr store itself.
    name
        The item's id, or the store's name.
    kind
        "Sentinel-2 L2A", "Sentinel-2 L1C", "Sentinel-1 GRD", "Sentinel-3 OLCI", or "Zarr" for any other.
    zarr_format
        2 or 3.
    groups
        Every group that holds arrays, by its absolute path.
    parents
        Attributes of every group, those without arrays included.
    consolidated
        False where the metadata had to be collected by listing.
    item
        Of the STAC item that it was opened from: its `href` (where that is known), geometry and properties; empty
        where it was opened by its own address.
    asked
        The address that the person gave where this one was found from it; empty where they gave none: see `Store`.
    """

    url: str
    name: str
    kind: str
    zarr_format: int
    groups: Mapping[str, Group] = field(repr=False)
    parents: Mapping[str, Mapping[str, Any]] = field(repr=False)
    consolidated: bool
    identity: str
    item: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    asked: str | None = field(default=None, repr=False, compare=False)

    @property
    def attributes(self) -> Mapping[str, Any]:
        """The root's attributes."""
        return self.parents.get("/", {})

    @cached_property
    def store(self) -> Store:
        """The store that this was read from."""
        return Store(self.url, asked=self.asked)

    @property
    def discovery(self) -> Mapping[str, Any]:
        """What the product says of itself as a STAC item: geometry, box, properties; empty where it does not."""
        return _discovery(self.attributes)

    @property
    def when(self) -> str:
        """When the data were taken, ISO 8601; empty where the product does not say."""
        properties = _properties(self.attributes)
        return str(properties.get("datetime") or properties.get("start_datetime") or "")

    @property
    def bbox(self) -> tuple[float, ...] | None:
        """West, south, east, north in degrees, where the product says it."""
        box = _discovery(self.attributes).get("bbox")
        if not isinstance(box, list) or len(box) != 4:
            return None
        if not all(isinstance(edge, int | float) and abs(edge) <= FARTHEST for edge in box):
            return None
        west, south, east, north = map(float, box)
        # Some real products have west and east the wrong way round.
        return (min(west, east), min(south, north), max(west, east), max(south, north))

    def stored_bytes(self, path: str) -> int | None:
        """Return the stored size of a group in bytes.

        None where it takes requests to know, or more than a moment to look at each object (see `estimate`).
        """
        group = self.groups[path]
        if self.store.local is None or group.objects > LOOKED_AT:
            return None
        keys = [key for array in group.arrays for key in array.object_keys()]
        return sum(size or 0 for size in self.store.sizes(keys).values())

    def _stored(self, groups: Iterable[Group]) -> dict[str, int | None]:
        """Return the stored size of groups; None for all of them where one cannot be said, so that all are one kind."""
        chosen = list(groups)
        if self.store.local is not None and sum(group.objects for group in chosen) <= LOOKED_AT:
            with suppress(GeozarrError):  # of a link that leads out of it: what it is can be shown all the same
                return {group.path: self.stored_bytes(group.path) for group in chosen}
        return dict.fromkeys(group.path for group in chosen)

    def to_dict(self) -> dict[str, Any]:
        """Return the structure as plain values, for JSON."""
        stored = self._stored(self.groups.values())
        return {
            "url": redact(self.url),
            "name": self.name,
            "kind": self.kind,
            "when": self.when,
            "bbox": self.bbox,
            "zarr_format": self.zarr_format,
            "consolidated": self.consolidated,
            "groups": {
                path: {
                    "variables": [array.name for array in group.variables],
                    "shape": group.shape,
                    "chunks": group.chunks,
                    "unpacked_bytes": group.nbytes,
                    "stored_bytes": stored[path],
                }
                for path, group in self.groups.items()
            },
        }

    def __repr__(self) -> str:
        lines = [f"{self.kind}: {printable(self.name)}", f"  {printable(redact(self.url))}"]
        if self.when:
            lines.append(f"  {printable(self.when)}")
        groups = list(self.groups.values())[:ROWS_SHOWN]
        stored = self._stored(groups)
        rows = [tuple(map(printable, (group.path, *_row(group, stored[group.path])))) for group in groups]
        widths = [max((len(row[column]) for row in rows), default=0) for column in range(4)]
        lines.append(f"  {len(self.groups)} groups:")
        lines.extend(
            f"    {path:<{widths[0]}}  {shape:<{widths[1]}}  {size:>{widths[2]}}  {names[:70]}"
            for path, shape, size, names in rows
        )
        if len(self.groups) > ROWS_SHOWN:
            lines.append(f"    ... and {len(self.groups) - ROWS_SHOWN} more: product.groups has them all")
        lines += [f"  cannot be converted: {printable(text)}" for text in self._unusable]
        return "\n".join(lines)

    @cached_property
    def _unusable(self) -> list[str]:
        found = [f"{group.path}: {group.unusable}" for group in self.groups.values() if group.unusable]
        more = [f"and {len(found) - UNUSABLE_SHOWN} groups more"] if len(found) > UNUSABLE_SHOWN else []
        return found[:UNUSABLE_SHOWN] + more

    def _repr_html_(self) -> str:
        groups = list(self.groups.values())
        stored = self._stored(groups[:ROWS_SHOWN])
        rows = [(group.path, *_row(group, stored[group.path])) for group in groups[:ROWS_SHOWN]]
        size = "unpacked" if None in stored.values() else "stored"
        more = f"and {len(groups) - ROWS_SHOWN} more: <code>product.groups</code> has them all"
        facts = {"address": redact(self.url), "taken": self.when, "groups": str(len(groups))}
        return html.block(
            f"{self.kind}: {self.name}",
            html.facts({**facts, "cannot be converted": "; ".join(self._unusable)}),
            html.table(("group", "pixels", size, "variables"), rows),
            more if len(groups) > ROWS_SHOWN else "",
        )

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        return html.bundle(self)


def open_product(source: Source | Product | Any, *, asked: str | None = None) -> Product:
    """Read a product's structure.

    Parameters
    ----------
    source
        The address or path of a Zarr store, or a STAC item: its address, its file, its dict or a `pystac.Item`.
    asked
        The address that a person gave, where `source` was found from it; empty where it was not: see `Store`.

    Raises
    ------
    ProductNotFound, ProductDenied, ProductUnreachable, ProductBroken
        There is none, it is not shown, it does not answer, it is no Zarr.
    InvalidRequest
        `source` is nothing of these, or a STAC item without (or with several) Zarr stores.
    """
    if isinstance(source, Product):
        return source
    if hasattr(source, "to_dict") and hasattr(source, "assets"):  # a pystac.Item, without importing pystac
        item: Any = source
        document = item.to_dict(include_self_link=False, transform_hrefs=False)
        return _from_item(document, said_place(item.get_self_href()))
    if isinstance(source, Mapping):
        return _from_item(source, said_place(_self_link(source)))
    if not isinstance(source, str | os.PathLike) or not os.fspath(source):
        raise InvalidRequest(
            "a product is given as an address, a path, or a STAC item",
            given=repr(source)[:200],
            remedy='geozarr_nb.inspect("https://.../S2A_MSIL2A_....zarr")',
        )
    url = os.fspath(source).strip()
    path = local_path(url)
    if path is not None:
        if (is_file := Store(path).is_file()) is None:
            raise not_found(url)
        if is_file:
            return _from_item(_read_json(url), url)
        return _from_store(str(path), None)
    tail = url.partition("?")[0].rstrip("/").lower()
    named_by = url if asked is None else asked
    if tail.endswith((".json", ".geojson")):
        return _from_item(_read_json(url, asked), url, named_by)
    try:
        return _from_store(url, None, asked)
    except ProductBroken:
        raise
    except ProductUnreachable as error:
        # An item's address need not end in .json: .../collections/C/items/I does not.
        if tail.endswith(".zarr") or error.code != "product-not-found":
            raise
        document = Store(url, asked=asked).read("", is_json=True)
        if document is None:
            raise
        return _from_item(_parse_json(document, url), url, named_by)


def _from_store(url: str, name: str | None, asked: str | None = None) -> Product:
    store = Store(url, asked=asked)
    documents, zarr_format, consolidated = _read_metadata(store)
    if len(documents) > MOST_NODES:
        raise ProductBroken(
            f"it has {len(documents):,} groups and arrays, and {MOST_NODES:,} are possible",
            given=redact(url),
            remedy=TELL_PUBLISHER,
        )
    nodes = {path: _node(path, document, zarr_format, url) for path, document in documents.items()}
    if nodes.get("/", {}).get("node_type") == "array":
        raise _single_array(store)
    attributes = {path: node["attributes"] for path, node in nodes.items() if node["node_type"] == "group"}
    arrays: dict[str, list[Array]] = {}
    parsed: dict[str, metadata.Parsed] = {}
    for path, node in nodes.items():
        parent = path.rpartition("/")[0] or "/"
        if any(nodes.get(above, {}).get("node_type") == "array" for above in parents_of(path)):
            # One's chunk may be the other's folder.
            raise ProductBroken(f"{printable(path)} lies in an array", given=redact(url), remedy=TELL_PUBLISHER)
        if node["node_type"] == "array":
            arrays.setdefault(parent, []).append(_array(path, node, url, parsed))
    groups = {path: Group(path, tuple(found), attributes.get(path, {})) for path, found in arrays.items()}
    try:
        text = json.dumps(nodes, sort_keys=True, default=str)
    except RecursionError as error:
        raise ProductBroken("its metadata are nested too deeply", given=redact(url), remedy=TELL_PUBLISHER) from error
    return Product(
        url=url,
        name=name or _store_name(url),
        kind=_kind(attributes.get("/", {}), groups),
        zarr_format=zarr_format,
        groups=groups,
        parents=attributes,
        consolidated=consolidated,
        identity=hashlib.sha256(text.encode()).hexdigest()[:16],
        asked=asked,
    )


def _read_metadata(store: Store) -> tuple[dict[str, dict[str, Any]], int, bool]:
    """Return every node's document by its absolute path, the Zarr format, and whether it was consolidated."""
    raw = store.read(".zmetadata", is_json=True)
    if raw is not None:
        flat = _parse_json(raw, store.url).get("metadata")
        if not isinstance(flat, dict):
            raise ProductBroken(
                "its .zmetadata has no 'metadata'",
                given=redact(store.url),
                remedy="consolidate it again: zarr.consolidate_metadata(store)",
            )
        return _nodes_v2(flat, store.url), 2, True
    raw = store.read("zarr.json", is_json=True)
    if raw is not None:
        root = _parse_json(raw, store.url)
        consolidated = root.get("consolidated_metadata")
        inner = consolidated.get("metadata") if isinstance(consolidated, dict) else None
        if isinstance(inner, dict):
            nodes = {"/": root}
            for path, node in inner.items():
                _check_path(path, store.url)
                nodes["/" + path] = node
            return nodes, 3, True
        return _listed(store, 3), 3, False
    if store.read(".zgroup") is not None:
        return _listed(store, 2), 2, False
    if store.read(".zarray") is not None:
        raise _single_array(store)
    raise not_found(store.url)


def _single_array(store: Store) -> InvalidRequest:
    return InvalidRequest(
        "this is a single array, not a product", given=redact(store.url), remedy="give the address of the store"
    )


def _nodes_v2(flat: Mapping[str, Any], url: str) -> dict[str, dict[str, Any]]:
    nodes: dict[str, dict[str, Any]] = {}
    for key, document in flat.items():
        path, _, kind = key.rpartition("/")
        if kind in (".zgroup", ".zarray"):
            if not isinstance(document, dict):
                raise ProductBroken(f"{key} in its .zmetadata is no object", given=redact(url), remedy=TELL_PUBLISHER)
            node_type = "group" if kind == ".zgroup" else "array"
            nodes["/" + path] = {
                **document,
                "node_type": node_type,
                "attributes": flat.get(f"{path}/.zattrs" if path else ".zattrs", {}),
            }
    # A parent may be missing from the metadata; it exists all the same.
    for path in list(nodes):
        if path != "/":
            _check_path(path[1:], url)
        for above in parents_of(path) if len(nodes) <= MOST_NODES else ():
            nodes.setdefault(above, {"node_type": "group", "attributes": flat.get(f"{above[1:]}/.zattrs", {})})
    return nodes


def parents_of(path: str) -> Iterator[str]:
    """Yield the paths of all groups that a group or an array lies in, the root last."""
    while path != "/":
        path = path.rpartition("/")[0] or "/"
        yield path


def _check_path(path: str, url: str) -> None:
    """Refuse the path of a group or an array that cannot become one on this machine."""
    wrong = flaw(path)
    if wrong is None and DOCUMENTS & set(path.split("/")):
        wrong = "a part of it is the name of a metadata document"
    if wrong is None and path.count("/") >= MOST_LEVELS:
        wrong = f"it has more than {MOST_LEVELS} parts"
    if wrong is not None:
        raise ProductBroken(
            f"{printable(path)[:200]} cannot be a path in a store: {wrong}", given=redact(url), remedy=TELL_PUBLISHER
        )


def _listed(store: Store, zarr_format: int) -> dict[str, dict[str, Any]]:
    """Collect what is not consolidated, level by level: an array's own folder is not looked into."""
    nodes: dict[str, dict[str, Any]] = {}
    level = [""]
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        each = map if store.local is not None else pool.map  # many requests at once; folders need none
        while level:
            read = partial(_stored_node, store, zarr_format=zarr_format)
            found = {path: node for path, node in zip(level, each(read, level), strict=True) if node is not None}
            for path, node in found.items():
                if node.get("node_type") == "array":
                    # In zarr's own words, so that a product's identity is the same whoever wrote it.
                    stored = {key: value for key, value in node.items() if key != "attributes"}
                    written = metadata.written_by_zarr(stored)
                    node = {**written, "node_type": "array", "attributes": node["attributes"]}
                nodes[f"/{path}"] = node
            groups = [path for path, node in found.items() if node.get("node_type") == "group"]
            level = [path for children in each(partial(_children, store), groups) for path in children]
            if len(nodes) + len(level) > MOST_NODES:
                raise ProductBroken(
                    f"more than {MOST_NODES:,} names are listed in it", given=redact(store.url), remedy=TELL_PUBLISHER
                )
    if len(nodes) == 1 and store.local is None:
        raise _not_listed(store, "nothing is listed below its root")
    return nodes


def _not_listed(store: Store, why: object) -> ProductUnreachable:
    return ProductUnreachable(
        f"its metadata is not consolidated, and its folders cannot be listed: {why}",
        given=redact(store.url),
        remedy="ask whoever publishes it to run zarr.consolidate_metadata(store)",
    )


def _stored_node(store: Store, path: str, *, zarr_format: int) -> dict[str, Any] | None:
    """Return the document of a group or an array; None where neither is stored under this path."""
    prefix = f"{path}/" if path else ""

    def read(name: str) -> dict[str, Any] | None:
        raw = store.read(prefix + name)
        return None if raw is None else _parse_json(raw, store.url)

    if zarr_format == 3:
        document = read("zarr.json")
        if document is None or document.get("node_type") not in ("group", "array"):
            return document
        attributes = document.get("attributes", {})
    else:
        document = read(".zarray")
        node_type = "group" if document is None else "array"
        document = {**(document or read(".zgroup") or {}), "node_type": node_type}
        if "zarr_format" not in document:
            return None
        attributes = read(".zattrs") or {}
    return {**document, "attributes": attributes}


def _children(store: Store, path: str) -> list[str]:
    """Return the paths that are listed in a group's folder."""
    try:
        names = _folders(store, path) if store.local is not None else _distant_names(store, path)
    except (OSError, NotImplementedError) as error:
        raise _not_listed(store, error) from error
    children = [f"{path}/{name}" if path else name for name in names if name not in DOCUMENTS]
    return sorted(child for child in children if flaw(child) is None and child.count("/") < MOST_LEVELS)


def _folders(store: Store, path: str) -> list[str]:
    with os.scandir(store.path(path)) as entries:
        found = list(islice(entries, MOST_NODES + 1))
    if len(found) > MOST_NODES:
        raise ProductBroken(
            f"more than {MOST_NODES:,} names are listed in /{printable(path)}",
            given=redact(store.url),
            remedy=TELL_PUBLISHER,
        )
    for entry in found:
        if entry.is_symlink():
            store.tree.find(f"{path}/{entry.name}".lstrip("/"))
    return [entry.name for entry in found if entry.is_dir()]


def _distant_names(store: Store, path: str) -> set[str]:
    folder = store.path(path)

    async def listing() -> list[Any]:
        try:
            entries: list[Any] = await store.filesystem._ls(folder, detail=False)
        except FileNotFoundError:
            return []
        return entries

    start = f"{folder.partition('?')[0].rstrip('/')}/"
    listed = [str(entry).rstrip("/") for entry in store.run(store.retried(listing, path, seconds_for(0)))]
    return {entry.removeprefix(start) for entry in listed if entry.startswith(start)}


def _node(path: str, document: Any, zarr_format: int, url: str) -> dict[str, Any]:
    """Return a node's document with its attributes, or say why it cannot be used."""
    attributes = (document.get("attributes") or {}) if isinstance(document, dict) else None
    if not isinstance(attributes, dict) or document.get("node_type") not in ("group", "array"):
        raise ProductBroken(
            f"the metadata of {printable(path)} is neither a group's nor an array's",
            given=redact(url),
            remedy=TELL_PUBLISHER,
        )
    if document["node_type"] == "array" and document.get("zarr_format") != zarr_format:
        raise ProductBroken(
            f"the array {printable(path)} is not of Zarr {zarr_format}, as the product is",
            given=redact(url),
            remedy=TELL_PUBLISHER,
        )
    return {**document, "attributes": attributes}


def _array(path: str, node: Mapping[str, Any], url: str, known: dict[str, metadata.Parsed]) -> Array:
    """Return an array; `known` has what other documents said, since most of a product's are alike."""
    attributes = node["attributes"]
    document = {key: value for key, value in node.items() if key not in ("node_type", "attributes")}
    try:
        text = json.dumps(document)
        parsed = known.get(text) or known.setdefault(text, metadata.parse(document))
        dims = attributes.get("_ARRAY_DIMENSIONS") if node["zarr_format"] == 2 else node.get("dimension_names")
        dims = tuple(str(dim) for dim in dims or [f"dim_{i}" for i in range(len(parsed.shape))])
        if len(dims) != len(parsed.shape):
            raise ValueError("shape and dimensions differ in length")
    except (RecursionError, TypeError, ValueError) as error:
        raise ProductBroken(
            f"the metadata of the array {printable(path)} cannot be used: {printable(str(error))}",
            given=redact(url),
            remedy=TELL_PUBLISHER,
        ) from error
    unusable = parsed.unusable or crs.flaw(attributes) or ""
    return Array(path, parsed.shape, parsed.chunks, parsed.dtype, dims, attributes, document, unusable)


def _kind(attributes: Mapping[str, Any], groups: Mapping[str, Group]) -> str:
    declared = str(_properties(attributes).get("product:type", "")).upper()
    if declared.startswith("S02MSIL1C"):
        return "Sentinel-2 L1C"
    if declared.startswith("S02MSI"):
        return "Sentinel-2 L2A"
    if declared.startswith("S01") and ("GR" in declared or _properties(attributes).get("sar:product_type") == "GRD"):
        return "Sentinel-1 GRD"
    if declared.startswith("S03OLC"):
        return "Sentinel-3 OLCI"
    if any(path.startswith("/measurements/reflectance/r") for path in groups):
        return "Sentinel-2 L1C" if "/quality/l1c_quicklook/r10m" in groups else "Sentinel-2 L2A"
    measurements = groups.get("/measurements")
    if measurements is not None and any(array.name == "oa01_radiance" for array in measurements.arrays):
        return "Sentinel-3 OLCI"
    return "Zarr"


def _discovery(attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    found = attributes.get("stac_discovery")
    return found if isinstance(found, Mapping) else {}


def _properties(attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    found = _discovery(attributes).get("properties")
    return found if isinstance(found, Mapping) else {}


def _store_name(url: str) -> str:
    tail = redact(url).partition("?")[0].rstrip("/").rpartition("/")[2]
    return tail.removesuffix(".zarr") or "product"


def _from_item(item: Mapping[str, Any], base: str | None, asked: str = "") -> Product:
    """Open the Zarr store that a STAC item names; `asked` is the address that the person gave, where they gave one."""
    identity = str(item.get("id", "item"))
    assets = item.get("assets")
    if not isinstance(assets, Mapping):
        raise InvalidRequest(
            "this is neither a Zarr store nor a STAC item: it has no assets",
            given=redact(base or identity),
            remedy="give the address of a STAC item, or of the Zarr store itself",
        )
    roots: dict[str, str] = {}
    refused: dict[str, InvalidRequest] = {}
    for key, asset in assets.items():
        href = str(asset.get("href", "")) if isinstance(asset, Mapping) else ""
        if href and ("zarr" in str(asset.get("type", "")) or ".zarr" in href):
            try:
                named(href, base)  # the whole of it: what is cut off could be a chain
                roots.setdefault(named(_zarr_root(href), base), key)
            except InvalidRequest as error:
                roots.setdefault(href, key)
                refused[href] = error
    if not roots:
        raise InvalidRequest(
            "this STAC item has no Zarr asset",
            given=f"{identity} (assets: {', '.join(map(str, list(assets)[:10])) or 'none'})",
            remedy="choose an item of a collection that is published as Zarr, or give the Zarr's address",
        )
    if len(roots) > 1:
        preferred = [root for root, key in roots.items() if key in ("product", "zarr", "data")]
        if len(preferred) != 1:
            raise InvalidRequest(
                f"this STAC item has {len(roots)} Zarr stores",
                given=identity,
                remedy="give the address of one of them: "
                + ", ".join(word(redact(root)) for root in list(roots)[:SHOWN]),
            )
        roots = {preferred[0]: ""}
    root = next(iter(roots))
    if root in refused:
        raise refused[root]
    described = {"href": base, "geometry": item.get("geometry"), "properties": item.get("properties")}
    return replace(_from_store(root, identity, asked), item=described)


def _self_link(item: Mapping[str, Any]) -> str | None:
    """Return where an item in memory says that it lies."""
    listed = item.get("links")
    links = [link for link in listed if isinstance(link, Mapping)] if isinstance(listed, list) else []
    return next((str(link["href"]) for link in links if link.get("rel") == "self" and "href" in link), None)


def _zarr_root(href: str) -> str:
    # Items list bands too, as paths inside the store: .../product.zarr/measurements/reflectance/r10m/b02
    address, mark, query = href.partition("?")
    head, found, _ = address.partition(".zarr")
    return (head + found if found else address.rstrip("/")) + mark + query


def _read_json(url: str, asked: str | None = None) -> Mapping[str, Any]:
    path = local_path(url)
    store, key = (Store(url, asked=asked), "") if path is None else (Store(os.fspath(path.parent)), path.name)
    raw = store.read(key, is_json=True)
    if raw is None:
        raise not_found(url)
    return _parse_json(raw, url)


def _parse_json(raw: bytes, url: str) -> dict[str, Any]:
    try:
        document = from_json(raw)
    except ValueError as error:
        raise ProductBroken(
            f"its metadata is no JSON: {error}",
            given=redact(url),
            remedy="check that the address is the product's and not a web page's",
        ) from error
    if not isinstance(document, dict):
        raise ProductBroken("its metadata is no JSON object", given=redact(url), remedy=TELL_PUBLISHER)
    return document


def _row(group: Group, stored: int | None) -> tuple[str, str, str]:
    shape = " x ".join(map(str, group.shape)) if group.shape else ""
    names = ", ".join(array.name for array in group.variables)
    return shape, human_bytes(group.nbytes if stored is None else stored), names

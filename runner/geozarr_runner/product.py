"""What a product holds, read from its metadata alone.

`open_product` accepts an address, a path, or a STAC item and returns a `Product`: one request where the metadata is
consolidated, one more for a STAC item, a listing where it is not.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product as cartesian
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import numpy as np

from geozarr_runner import html
from geozarr_runner.addresses import local_path, redact
from geozarr_runner.errors import InvalidRequest, ProductBroken, ProductUnreachable
from geozarr_runner.events import human_bytes
from geozarr_runner.store import Store, not_found
from geozarr_runner.text import printable

Source = str | os.PathLike[str] | Mapping[str, Any]
ROWS_SHOWN = 60
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
    """

    path: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: str
    dims: tuple[str, ...]
    attributes: Mapping[str, Any] = field(repr=False)
    metadata: Mapping[str, Any] = field(repr=False)

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
        except TypeError:
            return 0

    @property
    def is_blosc(self) -> bool:
        """True where each stored object is one Blosc frame, whose header says how long it is."""
        if self.metadata.get("zarr_format") == 2:
            return bool((self.metadata.get("compressor") or {}).get("id") == "blosc")
        codecs = self.metadata.get("codecs") or [{}]
        return bool(codecs[-1].get("name") == "blosc")

    @property
    def grid(self) -> tuple[int, ...]:
        """Number of stored objects along each dimension."""
        return tuple(math.ceil(size / chunk) for size, chunk in zip(self.shape, self.chunks, strict=True))

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

    def key(self, index: tuple[int, ...]) -> str:
        """Return the key of one object, relative to the array; `index` counts objects along each dimension."""
        if self.metadata.get("zarr_format") == 2:
            separator = self.metadata.get("dimension_separator") or "."
            return str(separator).join(map(str, index)) if index else "0"
        encoding = self.metadata.get("chunk_key_encoding", {"name": "default"})
        options = encoding.get("configuration", {})
        if encoding["name"] == "v2":
            return str(options.get("separator", ".")).join(map(str, index)) if index else "0"
        return str(options.get("separator", "/")).join(["c", *map(str, index)])


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

    @property
    def attributes(self) -> Mapping[str, Any]:
        """The root's attributes."""
        return self.parents.get("/", {})

    @cached_property
    def store(self) -> Store:
        """The store that this was read from."""
        return Store(self.url)

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
        if not isinstance(box, list) or len(box) != 4 or not all(isinstance(edge, int | float) for edge in box):
            return None
        west, south, east, north = map(float, box)
        # Some real products have west and east the wrong way round.
        return (min(west, east), min(south, north), max(west, east), max(south, north))

    def stored_bytes(self, path: str) -> int | None:
        """Return the stored size of a group in bytes; None where it takes requests to know (see `estimate`)."""
        if self.store.local is None:
            return None
        keys = [key for array in self.groups[path].arrays for key in array.object_keys()]
        return sum(size or 0 for size in self.store.sizes(keys).values())

    def to_dict(self) -> dict[str, Any]:
        """Return the structure as plain values, for JSON."""
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
                    "stored_bytes": self.stored_bytes(path),
                }
                for path, group in self.groups.items()
            },
        }

    def __repr__(self) -> str:
        lines = [printable(f"{self.kind}: {self.name}"), printable(f"  {redact(self.url)}")]
        if self.when:
            lines.append(printable(f"  {self.when}"))
        rows = [
            tuple(map(printable, (group.path, *_row(self, group)))) for group in list(self.groups.values())[:ROWS_SHOWN]
        ]
        widths = [max((len(row[column]) for row in rows), default=0) for column in range(4)]
        lines.append(f"  {len(self.groups)} groups:")
        lines.extend(
            f"    {path:<{widths[0]}}  {shape:<{widths[1]}}  {size:>{widths[2]}}  {names[:70]}"
            for path, shape, size, names in rows
        )
        if len(self.groups) > ROWS_SHOWN:
            lines.append(f"    ... and {len(self.groups) - ROWS_SHOWN} more: product.groups has them all")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        groups = list(self.groups.values())
        rows = [(group.path, *_row(self, group)) for group in groups[:ROWS_SHOWN]]
        more = f"and {len(groups) - ROWS_SHOWN} more: <code>product.groups</code> has them all"
        return html.block(
            f"{self.kind}: {self.name}",
            html.facts({"address": redact(self.url), "taken": self.when, "groups": str(len(groups))}),
            html.table(("group", "pixels", "stored" if self.store.local else "unpacked", "variables"), rows),
            more if len(groups) > ROWS_SHOWN else "",
        )

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        return html.bundle(self)


def open_product(source: Source | Product | Any) -> Product:
    """Read a product's structure.

    Parameters
    ----------
    source
        The address or path of a Zarr store, or a STAC item: its address, its file, its dict or a `pystac.Item`.

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
        return _from_item(item.to_dict(include_self_link=False, transform_hrefs=False), item.get_self_href())
    if isinstance(source, Mapping):
        return _from_item(source, None)
    if not isinstance(source, str | os.PathLike) or not os.fspath(source):
        raise InvalidRequest(
            "a product is given as an address, a path, or a STAC item",
            given=repr(source)[:200],
            remedy='geozarr_nb.inspect("https://.../S2A_MSIL2A_....zarr")',
        )
    url = os.fspath(source).strip()
    path = local_path(url)
    if path is not None:
        if not path.exists():
            raise not_found(url)
        if path.is_file():
            return _from_item(_read_json(url), url)
        return _from_store(str(path), None)
    tail = url.partition("?")[0].rstrip("/").lower()
    if tail.endswith((".json", ".geojson")):
        return _from_item(_read_json(url), url)
    try:
        return _from_store(url, None)
    except ProductBroken:
        raise
    except ProductUnreachable as error:
        # An item's address need not end in .json: .../collections/C/items/I does not.
        if tail.endswith(".zarr") or error.code != "product-not-found":
            raise
        document = Store(url).read("")
        if document is None:
            raise
        return _from_item(_parse_json(document, url), url)


def _from_store(url: str, name: str | None) -> Product:
    store = Store(url)
    documents, zarr_format, consolidated = _read_metadata(store)
    nodes = {path: _node(path, document, url) for path, document in documents.items()}
    attributes = {path: node["attributes"] for path, node in nodes.items() if node["node_type"] == "group"}
    arrays: dict[str, list[Array]] = {}
    for path, node in nodes.items():
        if node["node_type"] == "array":
            parent = path.rpartition("/")[0] or "/"
            arrays.setdefault(parent, []).append(_array(path, node, url))
    groups = {path: Group(path, tuple(found), attributes.get(path, {})) for path, found in arrays.items()}
    digest = hashlib.sha256(json.dumps(nodes, sort_keys=True, default=str).encode()).hexdigest()
    return Product(
        url=url,
        name=name or _store_name(url),
        kind=_kind(attributes.get("/", {}), groups),
        zarr_format=zarr_format,
        groups=groups,
        parents=attributes,
        consolidated=consolidated,
        identity=digest[:16],
    )


def _read_metadata(store: Store) -> tuple[dict[str, dict[str, Any]], int, bool]:
    """Return every node's document by its absolute path, the Zarr format, and whether it was consolidated."""
    raw = store.read(".zmetadata")
    if raw is not None:
        flat = _parse_json(raw, store.url).get("metadata")
        if not isinstance(flat, dict):
            raise ProductBroken(
                "its .zmetadata has no 'metadata'",
                given=redact(store.url),
                remedy="consolidate it again: zarr.consolidate_metadata(store)",
            )
        return _nodes_v2(flat, store.url), 2, True
    raw = store.read("zarr.json")
    if raw is not None:
        root = _parse_json(raw, store.url)
        consolidated = root.get("consolidated_metadata")
        inner = consolidated.get("metadata") if isinstance(consolidated, dict) else None
        if isinstance(inner, dict):
            nodes = {"/": root} | {"/" + path.strip("/"): node for path, node in inner.items()}
            return nodes, 3, True
        return _listed(store, 3), 3, False
    if store.read(".zgroup") is not None:
        return _listed(store, 2), 2, False
    if store.read(".zarray") is not None:
        raise InvalidRequest(
            "this is a single array, not a product", given=redact(store.url), remedy="give the address of the store"
        )
    raise not_found(store.url)


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
        while path != "/":
            path = path.rpartition("/")[0] or "/"
            nodes.setdefault(path, {"node_type": "group", "attributes": flat.get(f"{path[1:]}/.zattrs", {})})
    return nodes


def _listed(store: Store, zarr_format: int) -> dict[str, dict[str, Any]]:
    """Collect what is not consolidated, by zarr's own walk over the store."""
    import zarr
    from zarr.core.buffer import default_buffer_prototype

    names = {2: (".zarray", ".zgroup"), 3: ("zarr.json",)}[zarr_format]
    try:
        root = zarr.open_group(
            store.for_zarr(), mode="r", zarr_format=2 if zarr_format == 2 else 3, use_consolidated=False
        )
        members = [("", root), *root.members(max_depth=None)]
        if len(members) == 1 and store.local is None:
            raise OSError("nothing is listed below its root")
        nodes = {}
        for path, node in members:
            documents = {
                name: json.loads(buffer.to_bytes())
                for name, buffer in node.metadata.to_buffer_dict(default_buffer_prototype()).items()
            }
            document = next(documents[name] for name in names if name in documents)
            attributes = documents.get(".zattrs", document.get("attributes", {}))
            node_type = "array" if isinstance(node, zarr.Array) else "group"
            nodes["/" + path] = {**document, "node_type": node_type, "attributes": attributes}
    except (OSError, NotImplementedError, ValueError, KeyError, TypeError) as error:
        raise ProductUnreachable(
            f"its metadata is not consolidated, and its folders cannot be listed: {error}",
            given=redact(store.url),
            remedy="ask whoever publishes it to run zarr.consolidate_metadata(store)",
        ) from error
    return nodes


def _node(path: str, document: Any, url: str) -> dict[str, Any]:
    """Return a node's document with its attributes, or say why it cannot be used."""
    attributes = (document.get("attributes") or {}) if isinstance(document, dict) else None
    if not isinstance(attributes, dict) or document.get("node_type") not in ("group", "array"):
        raise ProductBroken(
            f"the metadata of {path} is neither a group's nor an array's",
            given=redact(url),
            remedy=TELL_PUBLISHER,
        )
    if path != "/" and {"", ".", ".."} & set(path[1:].split("/")):  # it becomes a path on this machine
        raise ProductBroken(f"{path!r} cannot be a path in a store", given=redact(url), remedy=TELL_PUBLISHER)
    return {**document, "attributes": attributes}


def _sizes(values: Any) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(isinstance(size, int) and 0 <= size < 2**63 for size in values):
        raise ValueError(f"{str(values)[:60]} is no list of sizes")
    return tuple(values)


def _array(path: str, node: Mapping[str, Any], url: str) -> Array:
    attributes = node["attributes"]
    try:
        shape = _sizes(node["shape"])
        if node["zarr_format"] == 2:
            chunks, dtype = node["chunks"], node["dtype"]
            dims = attributes.get("_ARRAY_DIMENSIONS")
        else:
            chunks, dtype = node["chunk_grid"]["configuration"]["chunk_shape"], node["data_type"]
            dims = node.get("dimension_names")
            encoding = node.get("chunk_key_encoding", {"name": "default"})
            if not isinstance(encoding["name"], str) or not isinstance(encoding.get("configuration", {}), dict):
                raise ValueError("its chunk_key_encoding is none")
        if not isinstance(dtype, str):
            dtype = dtype.get("name", "structured") if isinstance(dtype, dict) else "structured"
        dims = tuple(str(dim) for dim in dims or [f"dim_{i}" for i in range(len(shape))])
        chunks = tuple(max(size, 1) for size in _sizes(chunks))
        if len(chunks) != len(shape) or len(dims) != len(shape):
            raise ValueError("shape, chunks and dimensions differ in length")
    except (KeyError, TypeError, ValueError) as error:
        raise ProductBroken(
            f"the metadata of the array {path} cannot be used: {error}",
            given=redact(url),
            remedy=TELL_PUBLISHER,
        ) from error
    return Array(
        path,
        shape,
        chunks,
        dtype,
        dims,
        attributes,
        {k: v for k, v in node.items() if k not in ("node_type", "attributes")},
    )


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
    tail = url.partition("?")[0].rstrip("/").rpartition("/")[2]
    return tail.removesuffix(".zarr") or "product"


def _from_item(item: Mapping[str, Any], base: str | None) -> Product:
    """Open the Zarr store that a STAC item names."""
    identity = str(item.get("id", "item"))
    assets = item.get("assets")
    if not isinstance(assets, Mapping):
        raise InvalidRequest(
            "this is neither a Zarr store nor a STAC item: it has no assets",
            given=redact(base or identity),
            remedy="give the address of a STAC item, or of the Zarr store itself",
        )
    if base is None:
        listed = item.get("links")
        links = [link for link in listed if isinstance(link, Mapping)] if isinstance(listed, list) else []
        base = next((str(link["href"]) for link in links if link.get("rel") == "self" and "href" in link), None)
    roots: dict[str, str] = {}
    for key, asset in assets.items():
        href = str(asset.get("href", "")) if isinstance(asset, Mapping) else ""
        if href and ("zarr" in str(asset.get("type", "")) or ".zarr" in href):
            roots.setdefault(_absolute(_zarr_root(href), base), key)
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
                remedy="give the address of one of them: " + ", ".join(redact(root) for root in roots),
            )
        roots = {preferred[0]: ""}
    described = {"href": base, "geometry": item.get("geometry"), "properties": item.get("properties")}
    return replace(_from_store(next(iter(roots)), identity), item=described)


def _zarr_root(href: str) -> str:
    # Items list bands too, as paths inside the store: .../product.zarr/measurements/reflectance/r10m/b02
    address, mark, query = href.partition("?")
    head, found, _ = address.partition(".zarr")
    return (head + found if found else address.rstrip("/")) + mark + query


def _absolute(href: str, base: str | None) -> str:
    if "://" in href or href.startswith("/") or base is None:
        return href
    if "://" in base:
        return urljoin(base, href)
    return os.path.normpath(Path(base).absolute().parent / href)


def _read_json(url: str) -> Mapping[str, Any]:
    path = local_path(url)
    raw = Store(os.fspath(path.parent)).read(path.name) if path is not None else Store(url).read("")
    if raw is None:
        raise not_found(url)
    return _parse_json(raw, url)


def _parse_json(raw: bytes, url: str) -> dict[str, Any]:
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ProductBroken(
            f"its metadata is no JSON: {error}",
            given=redact(url),
            remedy="check that the address is the product's and not a web page's",
        ) from error
    if not isinstance(document, dict):
        raise ProductBroken("its metadata is no JSON object", given=redact(url), remedy=TELL_PUBLISHER)
    return document


def _row(product: Product, group: Group) -> tuple[str, str, str]:
    stored = product.stored_bytes(group.path)
    shape = " x ".join(map(str, group.shape)) if group.shape else ""
    names = ", ".join(array.name for array in group.variables)
    return shape, human_bytes(group.nbytes if stored is None else stored), names

"""Opens a product: reads its structure, and says what kind of product it is.

`open_product` accepts an address, a path, or a STAC item and returns a `Product`: one request where the metadata is
consolidated, one more for a STAC item, a listing where it is not.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from geozarr_runner.errors import (
    GeozarrError,
    InvalidRequest,
    ProductBroken,
    ProductDenied,
    ProductNotFound,
    ProductUnreachable,
)
from geozarr_runner.inspection.documents import (
    MOST_NODES,
    TELL_PUBLISHER,
    NotListed,
    checked_node,
    parsed,
    read_nodes,
    single_array,
)
from geozarr_runner.inspection.inside import holds, refuse_below, refuse_inside
from geozarr_runner.inspection.misplaced import refuse_address, refuse_document, refuse_page
from geozarr_runner.inspection.stac import NamedStore, self_link, store_of
from geozarr_runner.kinds.profiles import profile_of, recognise
from geozarr_runner.product import encoding, metadata
from geozarr_runner.product.model import Array, Group, Product, Source, parents_of
from geozarr_runner.stores.access.failures import not_found
from geozarr_runner.stores.store import Store
from geozarr_runner.text.printable import printable
from geozarr_runner.trust import crs
from geozarr_runner.trust.addresses import check, local_path, redact, said_place

MOST_GROUPS = 1000  # that an item names


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
        return _from_item(source, said_place(self_link(source)))
    if hasattr(source, "get_items") or isinstance(
        getattr(source, "items", None), list
    ):  # pystac's catalogues and lists of items
        raise InvalidRequest(
            "this holds many items, and is no product",
            given=printable(repr(source))[:200],
            remedy="convert what it lists: geozarr_nb.submit_many(...); or give one of its items",
        )
    if not isinstance(source, str | os.PathLike) or not os.fspath(source):
        raise InvalidRequest(
            "a product is given as an address, a path, or a STAC item",
            given=repr(source)[:200],
            remedy='geozarr_nb.inspect("https://.../S2A_MSIL2A_....zarr")',
        )
    url = os.fspath(source).strip()
    path = local_path(url)
    if path is not None:
        return _from_path(url, path)
    check(url)
    refuse_address(url)
    tail = url.partition("?")[0].rstrip("/").lower()
    named_by = url if asked is None else asked
    if tail.endswith((".json", ".geojson")):
        return _from_item(_read_document(url, asked), url, named_by)
    refuse_inside(url, _from_store, asked)
    try:
        return _from_store(url, None, asked)
    except ProductBroken:
        refuse_page(url)
        raise
    except InvalidRequest:
        refuse_below(url, _from_store, asked)
        raise
    except NotListed:
        refuse_below(url, _from_store, asked)
        raise
    except ProductUnreachable as error:
        if isinstance(error, ProductNotFound):
            refuse_inside(url, _from_store, asked, is_missing=True)
        elif not isinstance(error, ProductDenied):
            raise
        # An item's address need not end in .json: .../collections/C/items/I does not.
        if tail.endswith(".zarr"):
            raise
        document = None
        with suppress(ProductDenied):  # what was asked for first says it better
            document = Store(url, asked=asked).read("", is_json=True)
        if document is None:
            raise
        return _from_item(parsed(document, url), url, named_by)


def _from_path(url: str, path: Path) -> Product:
    """Open what a path of this machine leads to."""
    if (is_file := Store(path).is_file()) is None:
        refuse_inside(str(path), _from_store, is_missing=True)
        raise not_found(url)
    if is_file:
        refuse_address(url)
        return _from_item(_read_document(url), url)
    refuse_inside(str(path), _from_store)
    try:
        product = _from_store(str(path), None)
    except (InvalidRequest, ProductNotFound):
        refuse_below(str(path), _from_store)
        raise
    if not product.consolidated:
        refuse_below(str(path), _from_store)
    return product


def _from_store(url: str, name: str | None, asked: str | None = None) -> Product:
    store = Store(url, asked=asked)
    documents, zarr_format, consolidated = read_nodes(store)
    if len(documents) > MOST_NODES:
        raise ProductBroken(
            f"it has {len(documents):,} groups and arrays, and {MOST_NODES:,} are possible",
            given=redact(url),
            remedy=TELL_PUBLISHER,
        )
    nodes = {path: checked_node(path, document, zarr_format, url) for path, document in documents.items()}
    if nodes.get("/", {}).get("node_type") == "array":
        raise single_array(store)
    attributes = {path: node["attributes"] for path, node in nodes.items() if node["node_type"] == "group"}
    arrays: dict[str, list[Array]] = {}
    known: dict[str, metadata.Parsed] = {}
    for path, node in nodes.items():
        parent = path.rpartition("/")[0] or "/"
        if any(nodes.get(above, {}).get("node_type") == "array" for above in parents_of(path)):
            # One's chunk may be the other's folder.
            raise ProductBroken(f"{printable(path)} lies in an array", given=redact(url), remedy=TELL_PUBLISHER)
        if node["node_type"] == "array":
            arrays.setdefault(parent, []).append(_array(path, node, url, known))
    groups = {path: Group(path, tuple(found), attributes.get(path, {})) for path, found in arrays.items()}
    try:
        text = json.dumps(nodes, sort_keys=True, default=str)
    except RecursionError as error:
        raise ProductBroken("its metadata are nested too deeply", given=redact(url), remedy=TELL_PUBLISHER) from error
    product = Product(
        url=url,
        name=name or _store_name(url),
        kind=recognise(attributes, groups),
        zarr_format=zarr_format,
        groups=groups,
        parents=attributes,
        consolidated=consolidated,
        identity=hashlib.sha256(text.encode()).hexdigest()[:16],
        asked=asked,
    )
    return replace(product, refusal=profile_of(product).refusal(product))


def _array(path: str, node: Mapping[str, Any], url: str, known: dict[str, metadata.Parsed]) -> Array:
    """Return an array; `known` has what other documents said, since most of a product's are alike."""
    attributes = node["attributes"]
    document = {key: value for key, value in node.items() if key not in ("node_type", "attributes")}
    try:
        text = json.dumps(document)
        said = known.get(text) or known.setdefault(text, metadata.parse(document))
        dims = attributes.get("_ARRAY_DIMENSIONS") if node["zarr_format"] == 2 else node.get("dimension_names")
        dims = tuple(str(dim) for dim in dims or [f"dim_{i}" for i in range(len(said.shape))])
        if len(dims) != len(said.shape):
            raise ValueError("shape and dimensions differ in length")
    except (RecursionError, TypeError, ValueError) as error:
        raise ProductBroken(
            f"the metadata of the array {printable(path)} cannot be used: {printable(str(error))}",
            given=redact(url),
            remedy=TELL_PUBLISHER,
        ) from error
    unusable = said.unusable or crs.flaw(attributes) or encoding.unusable(attributes, node["zarr_format"], said.dtype)
    return Array(path, said.shape, said.chunks, said.dtype, dims, attributes, document, unusable)


def _store_name(url: str) -> str:
    tail = redact(url).partition("?")[0].rstrip("/").rpartition("/")[2]
    return tail.removesuffix(".zarr") or "product"


def _read_document(url: str, asked: str | None = None) -> Mapping[str, Any]:
    path = local_path(url)
    store, key = (Store(url, asked=asked), "") if path is None else (Store(os.fspath(path.parent)), path.name)
    try:
        raw = store.read(key, is_json=True)
    except ProductBroken:
        refuse_page(url)
        raise
    if raw is None:
        raise not_found(url)
    return parsed(raw, url)


def _from_item(item: Mapping[str, Any], base: str | None, asked: str = "") -> Product:
    """Open the store that an item names; `asked` is the address that the person gave, where they gave one."""
    refuse_document(item, base)
    store = store_of(item, base)
    product = _first(store, str(item.get("id", "item")), asked, is_lost=base is None)
    described = {"href": base, **{name: item.get(name) for name in ("geometry", "bbox", "properties")}}
    return replace(product, item={**described, "groups": _groups_named(product, store)})


def _first(store: NamedStore, name: str, asked: str, *, is_lost: bool) -> Product:
    """Open a store at the first of its addresses where that is possible.

    Parameters
    ----------
    is_lost
        Nobody knows where the item lies.
    """
    refusal: GeozarrError | None = None
    for address in store.addresses:
        try:
            return _from_store(address, name, asked)
        except GeozarrError as error:
            refusal = refusal or error
            if is_lost and "://" not in address and not address.startswith(("/", "~")):
                refusal = InvalidRequest(
                    "what the item names is relative to the item, which does not say where it lies",
                    given=f"{name} ({printable(address)[:200]})",
                    remedy="give the item's address in its place, or say it: item.set_self_href(...)",
                )
    if refusal is None:
        raise AssertionError("a store without an address was refused before")
    if len(store.addresses) == 1:
        raise refusal
    others = ", ".join(printable(redact(address)) for address in list(store.addresses)[1:])
    raise type(refusal)(
        f"{refusal.message}; and its alternates cannot be read either: {others}",
        given=refusal.given,
        remedy=refusal.remedy,
    ) from refusal


def _groups_named(product: Product, store: NamedStore) -> tuple[str, ...]:
    """Return the groups that an item's assets lead to, by their own paths or those of what they hold."""
    found: dict[str, None] = {}
    for inside in islice(store.inside, MOST_GROUPS):
        path = f"/{inside}"
        holder = path if path in product.groups else path.rpartition("/")[0] or "/"
        if holder == path or holds(product, path):
            found[holder] = None
        else:
            found.update(dict.fromkeys(group for group in product.groups if group.startswith(f"{path}/")))
    return tuple(found)

"""The metadata documents of a store: one request where they are consolidated, a listing where they are not."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Any

from geozarr_runner.errors import InvalidRequest, ProductBroken, ProductDenied, ProductUnreachable
from geozarr_runner.product import metadata
from geozarr_runner.product.model import parents_of
from geozarr_runner.stores.access.concurrency import CONCURRENCY
from geozarr_runner.stores.access.failures import not_found
from geozarr_runner.stores.store import Store
from geozarr_runner.text.printable import printable
from geozarr_runner.trust.addresses import redact
from geozarr_runner.trust.bounds import from_json, seconds_for
from geozarr_runner.trust.keys import flaw

MOST_NODES = 100_000
MOST_LEVELS = 32
DOCUMENTS = frozenset({".zarray", ".zattrs", ".zgroup", ".zmetadata", "zarr.json"})
TELL_PUBLISHER = "tell whoever publishes the product; no other option will help"


def read_nodes(store: Store) -> tuple[dict[str, dict[str, Any]], int, bool]:
    """Return every node's document by its absolute path, the Zarr format, and whether it was consolidated."""
    raw, page = _unless_page(store, ".zmetadata")
    if raw is not None:
        flat = parsed(raw, store.url).get("metadata")
        if not isinstance(flat, dict):
            raise ProductBroken(
                "its .zmetadata has no 'metadata'",
                given=redact(store.url),
                remedy="consolidate it again: zarr.consolidate_metadata(store)",
            )
        return _nodes_v2(flat, store.url), 2, True
    raw, second = _unless_page(store, "zarr.json")
    if raw is None and (page := page or second) is not None:
        raise page
    if raw is not None:
        root = parsed(raw, store.url)
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
        raise single_array(store)
    raise not_found(store.url)


def _unless_page(store: Store, key: str) -> tuple[bytes | None, ProductBroken | None]:
    """Return a document; or, of a server that answers with a page, or with nothing, of what it has not, that refusal.

    It says nothing of the other format's document, which may be there.
    """
    try:
        raw = store.read(key, is_json=True)
    except ProductBroken as page:
        return None, page
    if raw is None or raw.strip():
        return raw, None
    return None, ProductBroken(
        f"its {key} is empty", given=redact(store.url), remedy="check that the address is the product's"
    )


def single_array(store: Store) -> InvalidRequest:
    """Return the error for an address that is one array."""
    return InvalidRequest(
        "this is a single array, not a product", given=redact(store.url), remedy="give the address of the store"
    )


def parsed(raw: bytes, url: str) -> dict[str, Any]:
    """Return a JSON document that has to be an object."""
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


class NotListed(ProductUnreachable):
    """A store is there, and what it holds cannot be known."""


def _not_listed(store: Store, why: object) -> NotListed:
    return NotListed(
        f"its metadata is not consolidated, and its folders cannot be listed: {why}",
        given=redact(store.url),
        remedy="ask whoever publishes it to run zarr.consolidate_metadata(store)",
    )


def _stored_node(store: Store, path: str, *, zarr_format: int) -> dict[str, Any] | None:
    """Return the document of a group or an array; None where neither is stored under this path."""
    prefix = f"{path}/" if path else ""

    def read(name: str) -> dict[str, Any] | None:
        raw = store.read(prefix + name)
        return None if raw is None else parsed(raw, store.url)

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
    except (OSError, NotImplementedError, ProductDenied) as error:
        raise _not_listed(store, getattr(error, "message", error)) from error
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

    start = f"{folder.partition('?')[0].rstrip('/')}/".removeprefix("/")
    listed = [str(entry).strip("/") for entry in store.run(store.retried(listing, path, seconds_for(0)))]
    names = {entry.removeprefix(start) for entry in listed if entry.startswith(start)}
    # Its own document was read a moment ago: a listing without it does not tell what else is there.
    if path and not names:
        raise _not_listed(store, f"nothing is listed in /{printable(path)}, and there is something")
    return names


def checked_node(path: str, document: Any, zarr_format: int, url: str) -> dict[str, Any]:
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

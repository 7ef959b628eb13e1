"""What is given where a product is expected, and is none: it is said what it is, and which call takes it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from geozarr_runner.errors import InvalidRequest
from geozarr_runner.inspection.stac import METADATA, archive_in, how_to_read, store_of
from geozarr_runner.text.printable import printable
from geozarr_runner.text.shell import literal
from geozarr_runner.trust.addresses import named, redact

SHOWN = 5
_PAGE = re.compile(r"https?://[^#]*?(?:#/|/(?=external/))(?P<shown>[^?#]*)", re.IGNORECASE)
_ARCHIVE = re.compile(r"\.(?:zip|tar|tgz|tar\.\w+)", re.IGNORECASE)


def refuse_address(address: str) -> None:
    """Refuse an address that is no product's by what is written in it, before anything is asked of it.

    Raises
    ------
    InvalidRequest
        It is a page of a STAC browser, an archive, or a document inside a store.
    """
    if "#/" in address and (page := _PAGE.match(address)):
        raise _browser_page(address, page["shown"])
    path = re.split("[?#]", address, maxsplit=1)[0].rstrip("/")
    head, _, last = path.rpartition("/")
    if "::" not in path and (_ARCHIVE.search(last) and (name := archive_in(address))):
        raise InvalidRequest(
            "this is a Zarr store in an archive, which is not looked into by itself",
            given=printable(redact(address)),
            remedy=how_to_read(address, name),
        )
    if last in METADATA and head:
        raise InvalidRequest(
            "this is a document inside a Zarr store",
            given=printable(redact(address)),
            remedy=f"give the store: geozarr_nb.inspect({_spelled(head)})",
        )


def refuse_page(address: str) -> None:
    """Refuse an address that answered with a web page, where it is known what the page shows.

    Raises
    ------
    InvalidRequest
        It is a page of a STAC browser.
    """
    if page := _PAGE.match(address):
        raise _browser_page(address, page["shown"])


def refuse_document(document: Mapping[str, Any], address: str | None) -> None:
    """Refuse a STAC document that is no item.

    Raises
    ------
    InvalidRequest
        It is a catalogue, a collection, a list of items, or the root of a STAC API.
    """
    kind = document.get("type")
    known = "the object itself" if address is None else _spelled(address)
    if is_api(document):
        raise api_refused(document, address, "this is a STAC API, and not a product")
    if kind in ("Catalog", "Collection"):
        what = "a STAC collection" if kind == "Collection" else "a STAC catalogue"
    elif kind == "FeatureCollection" and isinstance(document.get("features"), list):
        what = f"a list of {len(document['features'])} STAC items"
    elif "type" not in document and isinstance(document.get("collections"), list):
        what = "a STAC API's list of collections"
        known = "the address of one of them"
    else:
        return
    own = _own_store(document, address)
    raise InvalidRequest(
        f"this is {what}, and not a product",
        given=printable(redact(address or str(document.get("id", kind)))),
        remedy=f"convert what it lists: geozarr_nb.submit_many({known}); or give the address of one of its items"
        + (f"; or of the Zarr store that it has itself: geozarr_nb.inspect({own})" if own else ""),
    )


def _own_store(document: Mapping[str, Any], address: str | None) -> str:
    """Return the address of the store that a collection has as an asset of its own; empty where there is none."""
    try:
        store = store_of(document, address)
    except InvalidRequest:
        return ""
    return _spelled(next(iter(store.addresses)))


def is_api(document: Mapping[str, Any]) -> bool:
    """Return whether a document is the root of a STAC API."""
    if document.get("type") not in ("Catalog", None) or not isinstance(document.get("links"), list):
        return False
    relations = {link.get("rel") for link in document["links"] if isinstance(link, Mapping)}
    return isinstance(document.get("conformsTo"), list) or bool(relations & {"search", "data"})


def api_refused(document: Mapping[str, Any], address: str | None, why: str) -> InvalidRequest:
    """Return the error for the root of a STAC API, with what to give in its place."""
    hrefs = [
        str(link.get("href", ""))
        for link in document["links"]
        if isinstance(link, Mapping) and link.get("rel") == "child"
    ]
    found = []
    for href in hrefs[:SHOWN]:
        try:
            found.append(_spelled(named(href, address)))
        except InvalidRequest:
            continue
    more = f", ... ({len(hrefs)} of them)" if len(hrefs) > len(found) else ""
    one = f": {', '.join(found)}{more}" if found else ", .../collections/NAME"
    return InvalidRequest(
        why,
        given=printable(redact(address or str(document.get("id", "")))),
        remedy=f"choose a collection for geozarr_nb.submit_many(...){one}; or give the address of one item",
    )


def _browser_page(address: str, shown: str) -> InvalidRequest:
    target = shown.removeprefix("external/") if shown.startswith("external/") else ""
    if not target:
        return InvalidRequest(
            "this is a page of a STAC browser, and not a product",
            given=printable(redact(address)),
            remedy='give the address that the page has under "Source"',
        )
    scheme, _, rest = target.partition(":/") if re.match("https?:/", target) else ("https", "", target)
    wanted = _spelled(f"{scheme}://{rest.lstrip('/')}")
    several = re.search(r"(/collections/[^/]+/?|(catalog|collection)\.json)$", rest)
    call = "geozarr_nb.submit_many" if several else "geozarr_nb.inspect"
    return InvalidRequest(
        "this is a page of a STAC browser, and not what it shows",
        given=printable(redact(address)),
        remedy=f"give what it shows: {call}({wanted})",
    )


def _spelled(address: str) -> str:
    return literal(redact(address))

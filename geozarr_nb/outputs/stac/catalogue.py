"""What a STAC catalogue lists, as products to convert."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from geozarr_nb.errors import InvalidRequest, ProductBroken, ProductNotFound
from geozarr_nb.outputs.stac.documents import parsed, read_as_stac, read_document
from geozarr_nb.outputs.stac.pages import first_page, matched, next_page, says_how_many
from geozarr_runner.inspection.misplaced import api_refused, is_api, refuse_address, refuse_document, refuse_page
from geozarr_runner.text.printable import printable
from geozarr_runner.trust.addresses import local_path, named, redact, said_place

if TYPE_CHECKING:
    import pystac

MAX_ITEMS, MAX_CATALOGUES = 10_000, 1_000
SECONDS_BETWEEN_WORDS = 5.0


def expand(requests: Any, *, max_items: int = MAX_ITEMS, max_catalogues: int = MAX_CATALOGUES) -> Any:
    """Return the items of a catalogue, those of its children included; what is none as it was given.

    What a catalogue links to is held to the same as what an item names, and each document is read once.

    Parameters
    ----------
    requests
        A static STAC catalogue, a collection, or an `ItemCollection`: its address, its path, its dict or its pystac
        object.
    max_items, max_catalogues
        How many it may have.

    Raises
    ------
    InvalidRequest
        It is broken, links to what is or to what it may not, or has too much.
    ProductUnreachable
        And its kinds: it, or what it links to, cannot be read.
    """
    found = _expanded(requests, _Walk(max_items, max_catalogues))
    if found is not requests and not found:
        raise InvalidRequest(
            "this has no items",
            given=redact(str(requests)) if isinstance(requests, str | os.PathLike) else _label(requests),
            remedy="give a catalogue, a collection or a search that has some, or a list of products",
        )
    return found


def _label(thing: Any) -> str:
    """Return the id of a catalogue or a document, to name it."""
    identity = thing.get("id") or thing.get("type") if isinstance(thing, Mapping) else getattr(thing, "id", None)
    return printable(str(identity or type(thing).__name__))[:200]


def _expanded(requests: Any, walk: _Walk) -> Any:
    if hasattr(requests, "get_items"):  # a catalogue of pystac's, without importing it
        return walk.items_of(requests)
    if isinstance(requests, str | os.PathLike):
        address = os.fspath(requests).strip()
        path = local_path(address)
        if path is not None:
            address = str(path.absolute())
        else:
            refuse_address(address)
        if _is_store(address):
            return requests
        try:
            raw = read_document(address, is_json=True)
        except ProductBroken:
            refuse_page(address)
            raise
        return requests if raw is None else walk.listed(parsed(raw, address), address, requests)
    return walk.listed(requests, None, requests) if isinstance(requests, Mapping) else requests


class _Walk:
    """Goes through a catalogue, however it is linked, to a bounded number of items and catalogues."""

    def __init__(self, max_items: int, max_catalogues: int) -> None:
        self._max_items, self._max_catalogues = max_items, max_catalogues
        self._items = self._catalogues = 0
        self._last_told = time.monotonic()

    def listed(self, document: Mapping[str, Any], address: str | None, otherwise: Any) -> Any:
        """Return the items that a document lists; `otherwise` where it is no list of items."""
        kind = document.get("type")
        given = address or str(document.get("id", kind))
        if is_api(document):
            raise api_refused(document, address, "this is a STAC API, with the items of all its collections")
        if kind is None:
            refuse_document(document, address)
        if kind == "FeatureCollection":
            # Who says how many are wanted gets these, and who has the document has what is in it.
            asked = address if address and local_path(address) is None and not says_how_many(address) else None
            return self._pages(document, address, given, None if asked is None else _reading(asked))
        if kind in ("Catalog", "Collection"):
            with read_as_stac(given):
                catalogue = _catalogue_of(document, address)
            return self.items_of(catalogue, address or "")
        return otherwise

    def _pages(
        self, page: Mapping[str, Any], address: str | None, given: str, read: Callable[[str], bytes] | None
    ) -> list[pystac.Item]:
        """Return the items of a list that a STAC API gives, page by page; of one page where nothing is to be read."""
        found: list[pystac.Item] = []
        seen = {address}
        with read_as_stac(given):
            self._limit(matched(page) if read else 0, self._max_items, "items", "MAX_ITEMS", given)
        while True:
            with read_as_stac(address or given):
                if page.get("type") != "FeatureCollection":
                    raise ValueError("it is linked to as a page of items, and is none")
                features = page.get("features", ())
                self._count_items(len(features), given)
                found += [_member(feature, address) for feature in features]
                following = next_page(page, address) if read or address else None
            if following is None:
                return found
            if read is None:
                sys.stderr.write(f"this is a page of {len(found):,} items, and there are more: {redact(following)}\n")
                return found
            if following in seen:
                raise InvalidRequest(
                    "the pages of this list lead in a circle",
                    given=redact(given),
                    remedy="give a list of its items, as pystac_client makes one, and tell whoever runs the API",
                )
            seen.add(following)
            self._count_catalogue(given)
            address, page = following, parsed(read(following), following)

    def items_of(self, catalogue: pystac.Catalog, asked: str = "") -> list[pystac.Item]:
        """Return the items of a catalogue and of its children, each catalogue's own before those of its children.

        `asked` is the address that the person gave, whose host gets what it may be told; empty where they gave none.
        """
        import pystac

        given = catalogue.get_self_href() or catalogue.id
        if type(catalogue) not in (pystac.Catalog, pystac.Collection):  # a service's, which has its own way
            with read_as_stac(given):
                items = list(islice(catalogue.get_items(recursive=True), self._max_items + 1))
            self._count_items(len(items), given)
            return items
        if _is_root(catalogue):
            raise api_refused(
                catalogue.to_dict(include_self_link=False, transform_hrefs=False),
                catalogue.get_self_href(),
                "this is a STAC API, with the items of all its collections",
            )
        read = _reader(catalogue, asked)
        found: list[pystac.Item | str] = []
        waiting: list[pystac.Catalog | str] = [catalogue]
        seen: set[str | int] = {catalogue.get_self_href() or id(catalogue)}
        while waiting:
            current = waiting.pop()
            self._count_catalogue(given)
            if isinstance(current, str):
                address = current
                with read_as_stac(address):
                    current = _catalogue_of(parsed(read(address), address), address)
            children: list[pystac.Catalog | str] = []
            with read_as_stac(current.get_self_href() or current.id):
                for rel, target in _links_of(current):
                    key = target if isinstance(target, str) else target.get_self_href() or id(target)
                    if key not in seen:
                        seen.add(key)
                        (found if rel == pystac.RelType.ITEM else children).append(target)
                own = [(str(link.rel), str(link.target), str(link.media_type or "")) for link in current.links]
                page = first_page(own, said_place(current.get_self_href()))
            self._count_items(len(found) - self._items, given)
            if page is not None and page not in seen:
                seen.add(page)
                found += self._pages(parsed(read(page), page), page, given, read)
            waiting += reversed(children)
        return [self._item(target, read) for target in found]

    def _item(self, target: pystac.Item | str, read: Callable[[str], bytes]) -> pystac.Item:
        from geozarr_nb.outputs.stac.objects import Item

        self._tell()
        if not isinstance(target, str):
            return target
        with read_as_stac(target):
            document = parsed(read(target), target)
            if document.get("type", "Feature") != "Feature":
                raise ValueError("it is linked to as an item, and is none")
            return Item.of(document, target)

    def _count_catalogue(self, given: str) -> None:
        self._catalogues += 1
        self._tell()
        self._limit(self._catalogues, self._max_catalogues, "catalogues", "MAX_CATALOGUES", given)

    def _count_items(self, more: int, given: str) -> None:
        self._items += more
        self._limit(self._items, self._max_items, "items", "MAX_ITEMS", given)

    def _limit(self, count: int, most: int, what: str, setting: str, given: str) -> None:
        if count > most:
            raise InvalidRequest(
                f"this catalogue has more than {most:,} {what}",
                given=redact(given),
                remedy=f"give a part of it, or a list of its items; or allow more: GEOZARR_{setting}={most * 10}",
            )

    def _tell(self) -> None:
        """Say how far it is, where that takes long enough for somebody to wonder."""
        if time.monotonic() - self._last_told >= SECONDS_BETWEEN_WORDS:
            self._last_told = time.monotonic()
            sys.stderr.write(f"reading a catalogue: {self._items:,} items in {self._catalogues:,} catalogues\n")


def _catalogue_of(document: Mapping[str, Any], address: str | None) -> pystac.Catalog:
    """Return a catalogue or collection; where it was read is where it is, whatever it says."""
    import pystac

    kind = document.get("type")
    if kind not in ("Catalog", "Collection"):
        raise ValueError("it is linked to as a catalogue, and is none")
    of = pystac.Catalog if kind == "Catalog" else pystac.Collection
    links = document.get("links", ())
    if address is not None:
        links = [link for link in links if link.get("rel") != "self"]
    return of.from_dict({**document, "links": list(links)}, href=address, preserve_dict=False)


def _member(feature: Mapping[str, Any], address: str | None) -> pystac.Item:
    """Return an item of a list; what it names counts as from where it says that it lies, else from the list's place."""
    import pystac

    item = pystac.Item.from_dict(dict(feature), preserve_dict=True)
    said = item.get_self_href()
    if address is None:
        return item
    if local_path(address) is None:
        try:
            place = named(said, address) if said and "://" in said else address
        except InvalidRequest:
            place = address  # nothing on the web is taken for a file of this machine because it says so
        if place != said:
            item.remove_links(pystac.RelType.SELF)
            item.set_self_href(place)
    elif not said:
        item.set_self_href(address)  # hrefs are relative to the list
        item.make_asset_hrefs_absolute()
        item.set_self_href(None)  # it is no document of its own
    return item


def _links_of(catalogue: pystac.Catalog) -> Iterator[tuple[str, Any]]:
    """Yield what a catalogue links to as children and items: objects, and addresses that it may name."""
    import pystac

    base = said_place(catalogue.get_self_href())
    for link in catalogue.links:
        if link.rel in (pystac.RelType.CHILD, pystac.RelType.ITEM):
            target = link.target
            yield str(link.rel), named(target, base).partition("#")[0] if isinstance(target, str) else target


def _reader(catalogue: pystac.Catalog, asked: str) -> Callable[[str], bytes]:
    """Return what reads a catalogue's links: as products are read, unless the person's object has a way of its own."""
    own = catalogue._stac_io
    if own is not None and not type(own).__module__.startswith("pystac."):
        return lambda href: own.read_text(href).encode()
    return _reading(asked)


def _is_root(catalogue: pystac.Catalog) -> bool:
    """Return whether a catalogue that somebody has read is the root of a STAC API."""
    return {"search", "data"} & {
        link.rel for link in catalogue.links
    } != set() or "conformsTo" in catalogue.extra_fields


def _reading(asked: str) -> Callable[[str], bytes]:
    """Return what reads what is linked to, with the credentials that are meant for the host that a person gave."""

    def read(href: str) -> bytes:
        raw = read_document(href, asked, is_json=True)
        if raw is None:
            raise ProductNotFound(
                "a link of the catalogue leads to nothing",
                given=redact(href),
                remedy="check that the catalogue was copied as a whole, or give its items as a list",
            )
        return raw

    return read


def _is_store(address: str) -> bool:
    return address.partition("?")[0].rstrip("/").lower().endswith(".zarr")

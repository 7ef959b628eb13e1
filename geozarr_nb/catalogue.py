"""STAC: what a catalogue lists, as products to convert, and what was converted, as a catalogue."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

from geozarr_nb.errors import GeozarrError, InvalidRequest, ProductBroken, ProductNotFound
from geozarr_nb.result import location
from geozarr_runner.addresses import local_path, redact
from geozarr_runner.bounds import from_json
from geozarr_runner.item import address_of
from geozarr_runner.store import Store

if TYPE_CHECKING:
    import pystac

_OF_PYSTAC = (KeyError, TypeError, ValueError, AttributeError, RecursionError)  # for documents that are no STAC
LICENCE = "other"  # the results' is that of the products, which they do not say


def read_item(output: str, source: str = "") -> pystac.Item:
    """Return the STAC item of an output that is there, with absolute hrefs.

    Parameters
    ----------
    output
        A path, an address, or `pvc://claim/path`.
    source
        The address of what it was made from, where that has another name here than where the job ran.

    Raises
    ------
    InvalidRequest
        There is none.
    ProductUnreachable, ProductDenied, ProductBroken, ClusterError
        It cannot be read.
    """
    import pystac

    address = address_of(location(output))
    raw = _read(address)
    if raw is None:
        raise InvalidRequest(
            "the output has no STAC item beside it",
            given=redact(address),
            remedy='convert it again, with if_exists="overwrite"; or bring back the file, if somebody removed it',
        )
    with _read_as_stac(address):
        item = pystac.Item.from_dict(_parsed(raw, address))
    item.set_self_href(address)
    item.make_asset_hrefs_absolute()
    if source and [link.href for link in item.get_links(pystac.RelType.DERIVED_FROM)] != [source]:
        item.clear_links(pystac.RelType.DERIVED_FROM)
        item.add_link(pystac.Link(pystac.RelType.DERIVED_FROM, source))
    return item


def collection_of(items: Sequence[pystac.Item], identifier: str, description: str) -> pystac.Collection:
    """Return a collection of items; of several with the same id, each but the first gets a number.

    Raises
    ------
    InvalidRequest
        There are no items.
    """
    import pystac

    if not items:
        raise InvalidRequest(
            "none of these jobs has succeeded, and a collection of nothing covers no place and no time",
            given=identifier,
            remedy="wait for them: jobs.wait(); then see jobs.failed",
        )
    seen: dict[str, int] = {}
    for item in items:
        number = seen[item.id] = seen.get(item.id, 0) + 1
        if number > 1:
            item.id = f"{item.id}-{number}"
    placed = [item for item in items if item.bbox is not None]
    extent = pystac.Extent.from_items(items)
    if not placed:
        extent.spatial = pystac.SpatialExtent([[-180.0, -90.0, 180.0, 90.0]])
    collection = pystac.Collection(identifier, description, extent, license=LICENCE)
    collection.add_items(items)
    return collection


def expand(requests: Any) -> Any:
    """Return the items of a catalogue, those of its children included; what is none as it was given.

    Parameters
    ----------
    requests
        A static STAC catalogue, a collection, or an `ItemCollection`: its address, its path, its dict or its pystac
        object.

    Raises
    ------
    InvalidRequest
        It is broken, or links to what is.
    ProductUnreachable
        And its kinds: it, or what it links to, cannot be read.
    """
    if hasattr(requests, "get_items"):  # a catalogue of pystac's, without importing it
        return _items_of(requests)
    if isinstance(requests, str | os.PathLike):
        address = os.fspath(requests).strip()
        path = local_path(address)
        if path is not None:
            address = str(path.absolute())
        raw = None if _is_store(address) else _read(address, is_json=True)
        if raw is None:
            return requests
        return _listed(_parsed(raw, address), address, requests)
    return _listed(requests, "", requests) if isinstance(requests, Mapping) else requests


def _listed(document: Mapping[str, Any], address: str, otherwise: Any) -> Any:
    """Return the items that a document lists; `otherwise` where it is no list of items."""
    import pystac

    kind = document.get("type")
    if kind not in ("Catalog", "Collection", "FeatureCollection"):
        return otherwise
    with _read_as_stac(address or str(document.get("id", kind))):
        if kind == "FeatureCollection":
            items = pystac.ItemCollection.from_dict(dict(document), preserve_dict=True).items
            for item in items:
                if address and item.get_self_href() is None:
                    item.set_self_href(urljoin(address, f"{item.id}.json"))  # hrefs are relative to the list
                    item.make_asset_hrefs_absolute()
                    item.set_self_href(None)  # nothing is there
            return items
        of = pystac.Catalog if kind == "Catalog" else pystac.Collection
        catalogue = of.from_dict(dict(document), href=address or None, preserve_dict=True)
    return _items_of(catalogue, address)


def _items_of(catalogue: pystac.Catalog, asked: str = "") -> list[pystac.Item]:
    if catalogue._stac_io is None:
        catalogue._stac_io = _through_store(asked)
    with _read_as_stac(catalogue.get_self_href() or catalogue.id):
        return list(catalogue.get_items(recursive=True))


def _through_store(asked: str) -> pystac.StacIO:
    """Return what reads a catalogue's links as products are read: the same retries, errors, bounds and credentials.

    Parameters
    ----------
    asked
        The address that the person gave; empty where they gave none.
    """
    from pystac.stac_io import DefaultStacIO

    class ThroughStore(DefaultStacIO):  # type: ignore[misc, unused-ignore]
        def read_text_from_href(self, href: str) -> str:
            raw = _read(href, asked, is_json=True)
            if raw is None:
                raise ProductNotFound(
                    "a link of the catalogue leads to nothing",
                    given=redact(href),
                    remedy="check that the catalogue was copied as a whole, or give its items as a list",
                )
            return raw.decode()

    return ThroughStore()


@contextmanager
def _read_as_stac(address: str) -> Iterator[None]:
    """Turn what pystac says of a document into ours."""
    import pystac

    try:
        yield
    except GeozarrError:
        raise
    except (*_OF_PYSTAC, pystac.STACError, pystac.STACTypeError) as error:
        if isinstance(error.__cause__, GeozarrError):
            raise error.__cause__ from None
        raise InvalidRequest(
            f"this is no STAC that can be read: {' '.join(str(error).split()) or type(error).__name__}",
            given=redact(address),
            remedy="see what is wrong with it: stac-validator, or pystac.read_file(...).validate_all()",
        ) from error


def _read(address: str, asked: str | None = None, *, is_json: bool = False) -> bytes | None:
    path = local_path(address)
    store, key = (Store(address, asked=asked), "") if path is None else (Store(path.parent), path.name)
    return store.read(key, is_json=is_json)


def _parsed(raw: bytes, address: str) -> dict[str, Any]:
    try:
        document = from_json(raw)
    except ValueError as error:
        raise ProductBroken(
            f"this is no JSON: {error}", given=redact(address), remedy="give the address of a STAC catalogue"
        ) from error
    return document if isinstance(document, dict) else {}


def _is_store(address: str) -> bool:
    return address.partition("?")[0].rstrip("/").lower().endswith(".zarr")

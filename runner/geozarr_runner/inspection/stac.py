"""The store that a STAC item names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any
from urllib.parse import unquote

from geozarr_runner.errors import InvalidRequest
from geozarr_runner.text.shell import literal, word
from geozarr_runner.trust.addresses import local_path, named, redact

SHOWN = 10
MEDIA_TYPE = "application/vnd+zarr"
MOST_ADDRESSES = 10  # of one store
PREFERRED = frozenset({"product", "zarr", "data"})
METADATA = frozenset({".zmetadata", ".zgroup", ".zarray", ".zattrs", "zarr.json"})
_STORE = re.compile(r"[^/]*\.zarr(?:;.*)?", re.IGNORECASE)
_ARCHIVE = re.compile(r"(?P<name>[^/]*\.zarr)\.(?:zip|tar|tgz|tar\.\w+)", re.IGNORECASE)
_ARCHIVE_TYPE = re.compile(r"\b(?:zip|x-?tar|gzip)\b", re.IGNORECASE)


@dataclass
class NamedStore:
    """A Zarr store, as an item names it.

    Attributes
    ----------
    addresses
        Where it lies: the asset's own address, and those of its alternates, the web's before an object store's.
    refused
        The addresses that such an item may not name, and why.
    inside
        Paths in it that assets name, as data: of groups, or of arrays.
    keys, roles
        Of the assets that name it.
    """

    addresses: dict[str, None] = field(default_factory=dict)
    refused: dict[str, InvalidRequest] = field(default_factory=dict)
    inside: dict[str, None] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)
    roles: set[str] = field(default_factory=set)

    @property
    def shown(self) -> str:
        """Its first address, as a word of a shell."""
        return word(redact(next(iter((*self.addresses, *self.refused)))))


def store_of(item: Mapping[str, Any], base: str | None) -> NamedStore:
    """Return the Zarr store that an item names; `base` is where the item itself lies, where known.

    Raises
    ------
    InvalidRequest
        It names none, or several, or one that must not be opened.
    """
    identity = str(item.get("id", "item"))
    assets = item.get("assets")
    if not isinstance(assets, Mapping):
        raise InvalidRequest(
            "this is neither a Zarr store nor a STAC item: it has no assets",
            given=redact(base or identity),
            remedy="give the address of a STAC item, or of the Zarr store itself",
        )
    stores, archives = _stores(assets, base, store_links(item), is_of_web=base is None and _is_of_web(item))
    if not stores and archives:
        raise _only_archive(identity, archives, base)
    if not stores:
        raise InvalidRequest(
            "this STAC item has no Zarr asset",
            given=f"{identity} (assets: {', '.join(map(str, list(assets)[:SHOWN])) or 'none'})",
            remedy="choose an item of a collection that is published as Zarr, or give the Zarr's address",
        )
    store = _chosen(stores)
    if store is None:
        raise InvalidRequest(
            f"this STAC item has {len(stores)} Zarr stores",
            given=identity,
            remedy="give the address of one of them: " + ", ".join(store.shown for store in stores[:SHOWN]),
        )
    if not store.addresses:
        raise next(iter(store.refused.values()))
    return store


def store_links(item: Mapping[str, Any]) -> list[str]:
    """Return the addresses of stores that an item links to, as STAC's best practices for Zarr want it."""
    return list(islice((href for rel, href in _links(item) if rel == "store"), MOST_ADDRESSES))


def self_link(item: Mapping[str, Any]) -> str | None:
    """Return where an item in memory says that it lies."""
    return next((href for rel, href in _links(item) if rel == "self"), None)


def split_address(address: str) -> tuple[str, str]:
    """Return the address of the store that another one leads into, and the path in it; ("", "") where none can be told.

    The store is the last part of the path whose own name ends with .zarr, whatever folders and hosts are called.

    Examples
    --------
    >>> split_address("https://my.zarr.org/old.zarrs/S.zarr/measurements/r10m?sig=1")
    ('https://my.zarr.org/old.zarrs/S.zarr?sig=1', 'measurements/r10m')
    """
    path, query = _without_query(address)
    scheme, mark, rest = path.partition("://") if "://" in path else ("", "", path)
    parts = rest.split("/")
    first = 1 if mark else 3 if rest.startswith("//") else 0  # a host, or a bucket, is no store
    number = max((place for place in range(first, len(parts)) if _STORE.fullmatch(parts[place])), default=None)
    if number is None:
        return "", ""
    below = [part for part in parts[number + 1 :] if part]
    return f"{scheme}{mark}{'/'.join(parts[: number + 1])}{query}", "/".join(below)


def archive_in(address: str) -> str | None:
    """Return the name of the store that is packed in an archive, by the archive's address; None for no archive."""
    found = _ARCHIVE.fullmatch(_without_query(address)[0].rstrip("/").rpartition("/")[2])
    return None if found is None else found["name"]


def how_to_read(archive: str, name: str) -> str:
    """Return the remedy for an archive that is given in a store's place."""
    path = _without_query(archive)[0]
    if path.lower().endswith(".zip"):
        address = redact(archive)
        return (
            f"unpack it; or read it where it is: {literal(f'zip://{name}::{address}')}, or "
            f"{literal(f'zip::{address}')} where the archive has no folder {name} in it"
        )
    return f"unpack it, and give the folder {name}"


def _stores(
    assets: Mapping[str, Any], base: str | None, links: Sequence[str], *, is_of_web: bool
) -> tuple[list[NamedStore], list[tuple[str, str]]]:
    """Return the stores that assets name, and the archives of stores: their addresses and the stores' names."""
    known: dict[str, NamedStore] = {}
    archives: list[tuple[str, str]] = []
    for key, asset in [*assets.items(), *((link, {"href": link, "type": MEDIA_TYPE, "roles": []}) for link in links)]:
        if key in links and known:  # assets say the same, and which groups they are
            break
        if not isinstance(asset, Mapping) or not (hrefs := _hrefs(asset)):
            continue
        media_type = str(asset.get("type", ""))
        name = archive_in(hrefs[0])
        if name or ("zarr" not in media_type and _ARCHIVE_TYPE.search(media_type)):
            archives += [(hrefs[0], name)] if name else []
            continue
        if not ("zarr" in media_type or any(split_address(href)[0] for href in hrefs)):
            continue
        store = NamedStore(keys={str(key)}, roles=_roles(asset))
        for href in hrefs:
            root, inside = split_address(href)
            if not root:
                root, inside = _below_link(href, links) or (_store_itself(href), "")
            try:
                named(href, base)  # the whole of it: what is cut off could be a chain
                address = named(root, base)
                if is_of_web and local_path(address) is not None:
                    raise _not_of_web(href)
                store.addresses[address] = None
            except InvalidRequest as error:
                store.refused[href] = error
            if inside and (not store.roles or "data" in store.roles):
                store.inside[unquote(inside) if "://" in next(iter(store.addresses), "") else inside] = None
        _add(known, store)
    return list({id(store): store for store in known.values()}.values()), archives


def _add(known: dict[str, NamedStore], store: NamedStore) -> None:
    """Add a store to those that are known by their addresses, or what is said of it to the same one."""
    own = (*store.addresses, *store.refused)
    same = next((known[address] for address in own if address in known), store)
    if same is not store:
        for name in ("addresses", "refused", "inside", "keys", "roles"):
            getattr(same, name).update(getattr(store, name))
    known.update(dict.fromkeys(own, same))


def _chosen(stores: Sequence[NamedStore]) -> NamedStore | None:
    """Return the store that is meant; None where that cannot be told."""
    if len(stores) == 1:
        return stores[0]
    for wanted in (
        [store for store in stores if store.keys & PREFERRED],
        [store for store in stores if "data" in store.roles],
    ):
        if len(wanted) == 1:
            return wanted[0]
    return None


def _hrefs(asset: Mapping[str, Any]) -> list[str]:
    """Return the addresses of an asset: its own, then those of its alternates, the web's first.

    Alternates are those of https://github.com/stac-extensions/alternate-assets.
    """
    own = asset.get("href")
    listed = asset.get("alternate")
    others = islice(listed.values(), MOST_ADDRESSES) if isinstance(listed, Mapping) else ()
    named_so = (other.get("href") for other in others if isinstance(other, Mapping))
    alternates = [href for href in named_so if isinstance(href, str) and href]
    alternates.sort(key=lambda href: not href.lower().startswith("https://"))
    return [*([own] if isinstance(own, str) and own else []), *alternates]


def _roles(asset: Mapping[str, Any]) -> set[str]:
    listed = asset.get("roles")
    return set(map(str, listed)) if isinstance(listed, list) else set()


def _without_query(address: str) -> tuple[str, str]:
    path = re.split("[?#]", address, maxsplit=1)[0]
    return path, address[len(path) :]


def _below_link(href: str, links: Sequence[str]) -> tuple[str, str] | None:
    """Return the store that is linked to, and the path in it, of an address below it; None for any other address."""
    path, query = _without_query(href)
    for link in links:
        root = _without_query(link)[0].rstrip("/")
        if root and path.startswith(f"{root}/") and path.rpartition("/")[2] not in METADATA:
            return root + query, path.removeprefix(f"{root}/").strip("/")
    return None


def _store_itself(href: str) -> str:
    """Return the address of a store whose name does not end with .zarr, from its own or that of its metadata."""
    path, query = _without_query(href)
    path = path.rstrip("/")
    head, _, last = path.rpartition("/")
    return (head if last in METADATA else path) + query


def _links(item: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    listed = item.get("links")
    links = [link for link in listed if isinstance(link, Mapping)] if isinstance(listed, list) else []
    return [(str(link.get("rel")), str(link["href"])) for link in links if "href" in link]


def _is_of_web(item: Mapping[str, Any]) -> bool:
    """Return whether what an item in memory belongs to is on the web, as it says."""
    above = (href.lower() for rel, href in _links(item) if rel in ("root", "parent", "collection"))
    return any(href.startswith(("http://", "https://", "s3://", "//")) for href in above)


def _not_of_web(href: str) -> InvalidRequest:
    return InvalidRequest(
        "a STAC document names what it may not: it is a path, and the item's own catalogue is not on this machine",
        given=f"{redact(href)[:300]} (in memory)",
        remedy="give the item's address, or the address of the store that you mean",
    )


def _only_archive(identity: str, archives: Sequence[tuple[str, str]], base: str | None) -> InvalidRequest:
    href, name = archives[0]
    address = named(href, base)
    return InvalidRequest(
        "this STAC item has its Zarr as an archive only, which is not looked into by itself",
        given=f"{identity} ({redact(address)})",
        remedy=how_to_read(address, name),
    )

"""The store that a STAC item names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from geozarr_runner.errors import InvalidRequest
from geozarr_runner.text.shell import word
from geozarr_runner.trust.addresses import named, redact

SHOWN = 10


def store_of(item: Mapping[str, Any], base: str | None) -> str:
    """Return the address of the Zarr store that an item names; `base` is where the item itself lies, where known.

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
    return root


def self_link(item: Mapping[str, Any]) -> str | None:
    """Return where an item in memory says that it lies."""
    listed = item.get("links")
    links = [link for link in listed if isinstance(link, Mapping)] if isinstance(listed, list) else []
    return next((str(link["href"]) for link in links if link.get("rel") == "self" and "href" in link), None)


def _zarr_root(href: str) -> str:
    # Items list bands too, as paths inside the store: .../product.zarr/measurements/reflectance/r10m/b02
    address, mark, query = href.partition("?")
    head, found, _ = address.partition(".zarr")
    return (head + found if found else address.rstrip("/")) + mark + query

"""Lists of items that a STAC API gives page by page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from geozarr_nb.errors import InvalidRequest
from geozarr_runner.trust.addresses import named, redact

ITEMS_AT_ONCE = 200  # a server that gives fewer gives more pages


def says_how_many(address: str) -> bool:
    """Return whether an address of a page asks for a number of items, which are then all that is wanted."""
    return any(pair.partition("=")[0] == "limit" for pair in address.partition("?")[2].split("&"))


def first_page(links: Iterable[tuple[str, str, str]], base: str | None) -> str | None:
    """Return the address of a collection's items; None where it links to none, as static ones do not.

    Parameters
    ----------
    links
        Relation, address and media type of each link.
    """
    for rel, href, media_type in links:
        if rel == "items" and (not media_type or "json" in media_type):
            address = named(href, base).partition("#")[0]
            return (
                address if says_how_many(address) else f"{address}{'&' if '?' in address else '?'}limit={ITEMS_AT_ONCE}"
            )
    return None


def next_page(page: Mapping[str, Any], address: str | None) -> str | None:
    """Return the address of the page after one; None for the last.

    Raises
    ------
    InvalidRequest
        It can only be asked for in another way, or a page from there may not name it.
    """
    for link in page.get("links", ()):
        if link.get("rel") == "next":
            if link.get("method", "GET").upper() != "GET" or link.get("body"):
                raise InvalidRequest(
                    "the next page of this list is no address: it has to be asked for by POST",
                    given=redact(address or str(page.get("id", "FeatureCollection"))),
                    remedy="give a collection, or a list of items as pystac_client makes one: list(search.items())",
                )
            return named(str(link["href"]), address).partition("#")[0]
    return None


def matched(page: Mapping[str, Any]) -> int:
    """Return how many items there are on all pages, as the first one says; 0 where it does not."""
    context = page.get("context")
    said = (
        page.get("numberMatched"),
        page.get("numMatched"),
        context.get("matched") if isinstance(context, Mapping) else 0,
    )
    return max((number for number in said if isinstance(number, int)), default=0)

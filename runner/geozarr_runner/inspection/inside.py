"""An address that leads into a product: which product it is, and which of its groups."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from difflib import get_close_matches

from geozarr_runner.errors import GeozarrError, InvalidRequest, ProductNotFound
from geozarr_runner.inspection.stac import split_address
from geozarr_runner.product.model import Product
from geozarr_runner.stores.store import Store
from geozarr_runner.text.printable import printable
from geozarr_runner.text.shell import literal
from geozarr_runner.trust.addresses import local_path, redact

MOST_PARENTS = 8  # that are asked whether they are the product
SHOWN = 5
Open = Callable[[str, str | None, str | None], Product]


def refuse_inside(address: str, opened: Open, asked: str | None = None, *, is_missing: bool = False) -> None:
    """Refuse an address below a store whose name ends with .zarr, if there is such a store.

    Parameters
    ----------
    is_missing
        Nothing has this address, so that it is refused as well where the store has nothing of this path.

    Raises
    ------
    InvalidRequest, ProductNotFound
        It says which product it is, and which groups to ask for.
    """
    store, inside = split_address(address)
    if inside and not address.startswith("zip:"):
        _refuse_in(store, inside, address, opened, asked)
        if is_missing:
            _refuse_missing(store, inside, address, opened, asked)


def refuse_below(address: str, opened: Open, asked: str | None = None) -> None:
    """Refuse an address below a store of any name, which is looked for above it.

    Raises
    ------
    InvalidRequest
        As for `refuse_inside`.
    """
    path = local_path(address)
    if path is not None:
        above = [folder for folder in list(path.parents)[:MOST_PARENTS] if _is_group(Store(folder))]
        for folder in reversed(above):  # the product is the highest
            _refuse_in(str(folder), path.relative_to(folder).as_posix(), address, opened, asked)
        return
    for store, inside in _above(address):
        _refuse_in(store, inside, address, opened, asked)


def holds(product: Product, path: str) -> bool:
    """Return whether a product has an array of this path."""
    group = product.groups.get(path.rpartition("/")[0] or "/")
    return group is not None and any(array.path == path for array in group.arrays)


def _is_group(store: Store) -> bool:
    try:
        return any(store.read(name) is not None for name in (".zgroup", ".zmetadata", "zarr.json"))
    except GeozarrError:
        return False


def _above(address: str) -> Iterator[tuple[str, str]]:
    """Yield addresses above one of an object store or the web, with the path below each, the nearest first."""
    path, mark, query = address.partition("?")
    scheme, _, rest = path.partition("://")
    parts = rest.strip("/").split("/")
    for number in range(len(parts) - 1, max(len(parts) - 1 - MOST_PARENTS, 0), -1):
        yield f"{scheme}://{'/'.join(parts[:number])}{mark}{query}", "/".join(parts[number:])


def _refuse_in(store: str, inside: str, address: str, opened: Open, asked: str | None) -> None:
    try:
        product = opened(store, None, asked)
    except GeozarrError:
        return  # no store that can be read whole: what was asked for is tried by itself
    path = f"/{inside}"
    given, shown = printable(redact(address)), literal(redact(store))
    if holds(product, path) and path not in product.groups:
        holder = path.rpartition("/")[0] or "/"
        raise InvalidRequest(
            "this is a variable inside a product, and groups go whole",
            given=given,
            remedy=f"give the product, {shown}, with the group that holds it: groups=[{literal(holder)}]",
        )
    if path in product.groups:
        raise InvalidRequest(
            "this is a group inside a product",
            given=given,
            remedy=f"give the product, {shown}, with groups=[{literal(path)}]",
        )
    below = [group for group in product.groups if group.startswith(f"{path}/")]
    if path in product.parents or below:
        groups = ", ".join(map(literal, below[:SHOWN])) + (", ..." if len(below) > SHOWN else "")
        raise InvalidRequest(
            "this is inside a product, and holds only groups",
            given=given,
            remedy=f"give the product, {shown}, with groups of it: groups=[{groups}]",
        )


def _refuse_missing(store: str, inside: str, address: str, opened: Open, asked: str | None) -> None:
    try:
        product = opened(store, None, asked)
    except GeozarrError:
        return
    near = get_close_matches(f"/{inside}", product.groups, SHOWN) or list(product.groups)[:SHOWN]
    raise ProductNotFound(
        f"the product has no {printable(f'/{inside}')[:200]}",
        given=printable(redact(address)),
        remedy=f"give the product, {literal(redact(store))}, and choose of its groups: {', '.join(map(literal, near))}",
    )

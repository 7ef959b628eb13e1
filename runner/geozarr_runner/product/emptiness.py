"""Arrays of which nothing is stored: what is read of them is no data, or one value everywhere.

A store leaves out chunks that hold the fill value alone. Where it has none at all, the array may be meant to be empty;
that is said, so that nobody takes it for a picture.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from itertools import islice

from geozarr_runner.errors import ProductBroken
from geozarr_runner.product.model import Array, Product
from geozarr_runner.product.witness import untold
from geozarr_runner.trust.addresses import redact

PLACES = ("x", "y", "latitude", "longitude")


def sentence(path: str) -> str:
    """Return what is said of an array of which nothing is stored."""
    return f"no chunk of {path} is stored: all of it is no data, or its fill value"


def empty_arrays(
    product: Product, arrays: Iterable[Array], stored: Container[str], *, is_to_be_read: bool = True
) -> tuple[str, ...]:
    """Return the paths of arrays of which nothing is stored.

    Parameters
    ----------
    stored
        The keys of the objects that exist; or the paths of the arrays of which one does.
    is_to_be_read
        They are read next, and what says where pixels lie has to be there; else they are only spoken of.

    Raises
    ------
    ProductDenied
        All chunks of one are refused, by a server that says the same of what it does not have.
    ProductBroken
        One says where the pixels lie.
    """
    empty = []
    for array in arrays:
        # Scalars are not converted.
        if not array.shape or array.path in stored or any(key in stored for key in array.object_keys()):
            continue
        place = f"{redact(product.url.partition('?')[0].rstrip('/'))}{array.path}"
        if any(product.store.refuses(key) for key in islice(array.object_keys(), 1)):
            raise untold(place)
        if is_to_be_read and array.name in PLACES and array.objects and max(array.shape) > 1:
            raise ProductBroken(
                "no chunk of it is stored, and it says where the pixels lie",
                given=place,
                remedy="fetch the product again, or tell whoever publishes it; groups without it can be converted",
            )
        empty.append(array.path)
    return tuple(empty)

"""Documents of STAC: read as products are, and refused in words of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from geozarr_nb.errors import GeozarrError, InvalidRequest, ProductBroken
from geozarr_runner.stores.store import Store
from geozarr_runner.trust.addresses import local_path, redact
from geozarr_runner.trust.bounds import from_json

UNREADABLE = (KeyError, TypeError, ValueError, AttributeError, RecursionError)  # what pystac makes of odd documents


@contextmanager
def read_as_stac(address: str) -> Iterator[None]:
    """Turn what pystac says of a document into ours."""
    import pystac

    try:
        yield
    except GeozarrError:
        raise
    except (pystac.STACError, pystac.STACTypeError, *UNREADABLE) as error:
        if isinstance(error.__cause__, GeozarrError):
            raise error.__cause__ from None
        raise InvalidRequest(
            f"this is no STAC that can be read: {' '.join(str(error).split()) or type(error).__name__}",
            given=redact(address),
            remedy="see what is wrong with it: stac-validator, or pystac.read_file(...).validate_all()",
        ) from error


def read_document(address: str, asked: str | None = None, *, is_json: bool = False) -> bytes | None:
    """Return the bytes of a document; None where there is none of that name."""
    path = local_path(address)
    store, key = (Store(address, asked=asked), "") if path is None else (Store(path.parent), path.name)
    return store.read(key, is_json=is_json)


def parsed(raw: bytes, address: str) -> dict[str, Any]:
    """Return a document as an object; an empty one where it is something else."""
    try:
        document = from_json(raw)
    except ValueError as error:
        raise ProductBroken(
            f"this is no JSON: {error}", given=redact(address), remedy="give the address of a STAC catalogue"
        ) from error
    return document if isinstance(document, dict) else {}

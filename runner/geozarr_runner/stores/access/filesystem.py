"""The filesystem of fsspec that reads one address."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import fsspec
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper

from geozarr_runner.errors import ProductUnreachable
from geozarr_runner.stores.access.failures import error_text
from geozarr_runner.stores.tenants import allow_tenants
from geozarr_runner.trust.addresses import has_tenant, redact
from geozarr_runner.trust.credentials import WEB, Credentials, origin

# A call of a filesystem without an asynchronous way takes a thread of the loop, which has five or more. One has to stay
# free: a chain's web client, on the same loop, looks up names and netrc in it.
_THREADS = asyncio.Semaphore(4)
SECONDS_WITHOUT_A_BYTE = 30


def opened(
    root: str, credentials: Callable[[], Credentials], *, encoded: bool, for_another_loop: bool = False
) -> tuple[Any, str]:
    """Return the filesystem that reads below an address, asynchronous, and the address as it wants it.

    Parameters
    ----------
    credentials
        Returns what web servers are told; called where one is asked.
    encoded
        The address arrives letter by letter, as a signed query must.
    for_another_loop
        Whoever reads has an event loop of its own, and so needs its own session.

    Raises
    ------
    ProductUnreachable
        No backend opens this kind of address.
    """
    protocol = root.partition("://")[0]
    # A listing that was kept, by whomever in this process, would hide what was written since.
    options: dict[str, Any] = {"use_listings_cache": False}
    if for_another_loop:
        options |= {"asynchronous": True, "skip_instance_cache": True}
    if protocol in ("s3", "s3a"):
        options["max_concurrency"] = 1  # else each object is asked for its size before it is read
    if (place := origin(root)) is not None:
        from geozarr_runner.stores import web

        of_web = web.options(root, credentials(), seconds_without_a_byte=SECONDS_WITHOUT_A_BYTE)
        if protocol in WEB:
            options |= of_web
            options["encoded"] = encoded  # a signed query must arrive letter by letter
        else:
            options[place[0]] = of_web  # the link of a chain that is a web server's
    try:
        filesystem, base = fsspec.core.url_to_fs(root, **options)
    except Exception as error:  # whatever the constructor of some backend raises
        raise ProductUnreachable(
            f"this kind of address cannot be opened: {error_text(error)}",
            given=redact(root),
            remedy="use a path, http(s)://, s3:// or another protocol of fsspec.available_protocols()",
        ) from error
    if has_tenant(root):
        allow_tenants(filesystem)
    if not isinstance(filesystem, AsyncFileSystem):
        semaphore = None if for_another_loop else _THREADS
        filesystem = AsyncFileSystemWrapper(filesystem, asynchronous=for_another_loop, semaphore=semaphore)
    return filesystem, str(base).rstrip("/")


def close_session(filesystem: Any) -> None:
    """Close what fsspec leaves open of a filesystem that is not its own loop's."""
    session = getattr(filesystem, "_session", None)
    if session is not None and hasattr(filesystem, "close_session"):
        filesystem.close_session(session._loop, session)


def lists_sizes(filesystem: Any) -> bool:
    """Return whether a listing has sizes, as those of object stores do and those of web servers do not."""
    protocols = filesystem.protocol if isinstance(filesystem.protocol, tuple | list) else (filesystem.protocol,)
    return not {"http", "https"} & set(protocols)

"""The connection to one store: the only place where its backend is called.

Options come from where fsspec reads them (`FSSPEC_HTTPS`, `FSSPEC_S3`, its configuration files, the cloud SDKs' own
variables), so that the converter, which opens the same address with fsspec, sees the same. Of credentials for web
servers each host gets its own: see `credentials`.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from geozarr_runner.errors import GeozarrError, InvalidRequest
from geozarr_runner.stores.absence import GONE, is_absent
from geozarr_runner.stores.access.failures import failure
from geozarr_runner.stores.access.filesystem import lists_sizes, opened
from geozarr_runner.stores.access.retries import ATTEMPTS, in_time, retrying
from geozarr_runner.stores.refusals import NOT_SATISFIABLE, answer_of, is_of_client
from geozarr_runner.trust import bounds
from geozarr_runner.trust.addresses import check, local_path, redact
from geozarr_runner.trust.credentials import Credentials, origin

SECONDS_TO_END = 15


class Connection:
    """Calls the backend of one address; what goes wrong becomes an error that a person understands.

    Parameters
    ----------
    url
        A path, or an address of any protocol that fsspec knows. A query (a signature, say) goes with every object.
    asked
        The address that a person gave, where this one was found from it; empty where it was not. Credentials that name
        no host go to that one's host alone. None: the person gave this one.

    Attributes
    ----------
    local
        The folder, where the store is one on this machine; else None.
    """

    attempts = ATTEMPTS

    def __init__(self, url: str | os.PathLike[str], *, asked: str | None = None) -> None:
        self.url = os.fspath(url)
        check(self.url)
        self._asked = self.url if asked is None else asked
        self.local = local_path(self.url)
        self._query = ""
        if self.local is None:
            try:
                parts = urlsplit(self.url)
            except ValueError as error:
                raise InvalidRequest(
                    f"this cannot be an address: {error}", given=redact(self.url), remedy="give it as https://host/path"
                ) from error
            if parts.scheme in ("http", "https"):
                self._query = f"?{parts.query}" if parts.query else ""
                self._root = urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))
            else:
                self._root = self.url.rstrip("/")
        self._filesystem: Any = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({redact(self.url)!r})"

    @cached_property
    def credentials(self) -> Credentials:
        """What web servers are told by whoever reads this store."""
        return Credentials.of(self._asked)

    @property
    def is_told(self) -> bool:
        """Whether credentials go with what is asked of its web server."""
        return origin(self.url) is not None and self.credentials.tell(self.url)

    @property
    def filesystem(self) -> Any:
        """The fsspec filesystem (asynchronous) that reads this store."""
        if self._filesystem is None:
            self._filesystem, self._base = self.opened(encoded=bool(self._query))
        return self._filesystem

    @property
    def is_web(self) -> bool:
        """Whether web servers have it, which list no sizes and may send whole objects only."""
        return not lists_sizes(self.filesystem)

    def path(self, key: str) -> str:
        """Return the address of the object `key` as the filesystem wants it; "" is the store itself."""
        if self.local is not None:
            return str(self.local / key) if key else str(self.local)
        _ = self.filesystem
        # An archive's own root has no name, and nothing in it begins with a slash.
        return (f"{self._base}/{key}" if key and self._base else key or self._base) + self._query

    def opened(self, *, encoded: bool, for_another_loop: bool = False) -> tuple[Any, str]:
        """Return a filesystem and the address as it wants it, see `filesystem.opened`."""
        return opened(self._root, lambda: self.credentials, encoded=encoded, for_another_loop=for_another_loop)

    async def first_byte(self, key: str) -> tuple[bool, int | None]:
        """Return whether there is an object, and its size where that comes with its first byte."""
        if not self.is_web:
            return await self.part(key, 1) is not None, None
        from geozarr_runner.stores.web import first_byte

        session = await self.filesystem.set_session()
        return await first_byte(session, self.filesystem.encode_url(self.path(key)), self.filesystem.kwargs)

    async def part(self, key: str, most: int) -> bytes | None:
        """Return the first bytes of an object of a store that sends parts."""
        try:
            return bytes(await self.filesystem._cat_file(self.path(key), start=0, end=most))
        except FileNotFoundError as error:
            check_absent(error)
            return None
        except Exception as error:
            answer = answer_of(error)
            # An empty object has no first byte.
            if (answer is not None and answer.status == NOT_SATISFIABLE) or "not satisfiable" in str(error):
                return b""
            raise

    async def stream(self, key: str, most: int, given: str, check: Callable[[bytes], None]) -> bytes | None:
        """Return a web server's answer; what is sent beyond the bound is left unread."""
        from geozarr_runner.stores.web import bounded

        session = await self.filesystem.set_session()
        request = session.get(self.filesystem.encode_url(self.path(key)), **self.filesystem.kwargs)
        async with request as answer:
            if answer.status >= 400:
                await answer.read()  # what it says of why, and so that the connection can be used again
                if answer.status in GONE:
                    return None
                answer.raise_for_status()
            return await bounded(answer.content.iter_any(), most, given, check)

    async def size_on_web(self, key: str) -> tuple[bool, int | None]:
        """Return whether a web server has an object, and its size where that is told."""
        from geozarr_runner.stores.web import size_of

        session = await self.filesystem.set_session()
        return await size_of(session, self.filesystem.encode_url(self.path(key)), self.filesystem.kwargs)

    async def part_of(self, key: str, start: int, stop: int) -> tuple[bytes, int | None] | None:
        """Return a part of an object, and the object's size where that comes with it; None where only all is sent."""
        if not self.is_web:
            return bytes(await self.filesystem._cat_file(self.path(key), start=start, end=stop)), None
        from geozarr_runner.stores.web import part_of

        session = await self.filesystem.set_session()
        return await part_of(session, self.filesystem.encode_url(self.path(key)), self.filesystem.kwargs, start, stop)

    def sends_ranges(self, key: str) -> bool:
        """Return whether the store sends parts of an object; asks a web server for the first byte of this one."""
        if "::" in self.url:  # a cache fetches the whole for each part, and an archive unpacks it from its beginning
            return False
        if not self.is_web:
            return True

        async def ask() -> bool:
            session = await self.filesystem.set_session()
            options = self.filesystem.kwargs
            headers = {**options.get("headers", {}), "Range": "bytes=0-0"}
            request = session.get(self.filesystem.encode_url(self.path(key)), **{**options, "headers": headers})
            async with request as answer:
                answer.raise_for_status()
                return bool(answer.status == 206)  # one that does not sends the whole, which is left unread

        return self.run(self.retried(ask, key, bounds.seconds_for(0)))

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn a distant backend's refusals into ours while zarr reads through it; what zarr says of bytes passes."""
        try:
            yield
        except Exception as error:
            refused = isinstance(error, OSError | asyncio.TimeoutError) or is_of_client(error)
            if self.local is not None or isinstance(error, FileNotFoundError) or not refused:
                raise
            raise self.failure(error, "", tries=1) from error

    def run[T](self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for work on the filesystem's own loop; an interrupted wait ends the work too."""
        ended = threading.Event()
        future = None

        async def tracked() -> T:
            try:
                return await work
            finally:
                ended.set()

        try:
            loop = self.filesystem.loop
            future = asyncio.run_coroutine_threadsafe(tracked(), loop)
            return future.result()
        except BaseException:
            if future is not None:
                future.cancel()
            if inspect.getcoroutinestate(work) == inspect.CORO_CREATED:
                work.close()  # ended before it began: nothing to wait for
            else:
                ended.wait(SECONDS_TO_END)
            raise

    async def retried[T](self, call: Callable[[], Coroutine[Any, Any, T]], key: str, seconds: float | None = None) -> T:
        """Return what a request gives, tried again while that may help.

        Parameters
        ----------
        key
            Names the object in errors.
        seconds
            How long one try may take: a server that sends something now and then is never silent.
        """
        try:
            async for attempt in retrying(self.attempts):
                with attempt:
                    if seconds is None:
                        return await call()
                    return await in_time(call, seconds)
        except GeozarrError:
            raise
        except Exception as error:
            raise self.failure(error, key) from error
        raise AssertionError("tenacity returned without a result")

    def failure(self, error: BaseException, key: str, tries: int = ATTEMPTS) -> GeozarrError:
        """Return what an error of the backend means to a person."""
        is_local = self.local is not None
        return failure(error, self.url, key, is_local=is_local, tries=tries, credentials=lambda: self.credentials)


def check_absent(error: FileNotFoundError) -> None:
    """Raise what a filesystem calls "not found", and is not."""
    if not is_absent(error):
        raise error.__cause__ or error from None

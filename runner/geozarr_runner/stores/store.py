"""One Zarr store behind fsspec: the only place where bytes of a product are read.

Options come from where fsspec reads them (`FSSPEC_HTTPS`, `FSSPEC_S3`, its configuration files, the cloud SDKs' own
variables), so that the converter, which opens the same address with fsspec, sees the same. Of credentials for web
servers each host gets its own: see `credentials`.
"""

from __future__ import annotations

import asyncio
import errno
import inspect
import os
import re
import ssl
import stat
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property, partial
from itertools import batched
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import fsspec
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from geozarr_runner.errors import (
    GeozarrError,
    InvalidRequest,
    ProductBroken,
    ProductDenied,
    ProductNotFound,
    ProductUnreachable,
    StorageDenied,
    StorageFailed,
    StorageFull,
)
from geozarr_runner.stores.absence import GONE, ROOTS, is_absent, may_be_absent
from geozarr_runner.stores.tenants import allow_tenants
from geozarr_runner.trust import bounds, credentials
from geozarr_runner.trust.addresses import CACHES, check, has_tenant, local_path, redact, redact_text
from geozarr_runner.trust.credentials import Credentials
from geozarr_runner.trust.tree import FolderTree

ATTEMPTS = 5
CONCURRENCY = 16
ASKED_AT_ONCE = 100_000
# A call of a filesystem without an asynchronous way takes a thread of the loop, which has five or more. One has to stay
# free: a chain's web client, on the same loop, looks up names and netrc in it.
_THREADS = asyncio.Semaphore(4)
SECONDS_TO_END = 15
SECONDS_WITHOUT_A_BYTE = 30
LONGEST_PATIENCE = 60.0
CERTIFICATE_REFUSED = "CERTIFICATE_VERIFY_FAILED"  # OpenSSL's word, in the text of every library's error


class Store:
    """Reads the objects below one address.

    Parameters
    ----------
    url
        A path, or an address of any protocol that fsspec knows. A query (a signature, say) goes with every object.
    asked
        The address that a person gave, where this one was found from it; empty where it was not. Credentials that name
        no host go to that one's host alone. None: the person gave this one.
    root
        The key of the document that its product was read from; empty where that is not known. What is not found counts
        as absent only as long as this one can be read: see `absence`.

    Attributes
    ----------
    local
        The folder, where the store is one on this machine; else None.
    """

    attempts = ATTEMPTS

    def __init__(self, url: str | os.PathLike[str], *, asked: str | None = None, root: str = "") -> None:
        self.url = os.fspath(url)
        check(self.url)
        self._asked = self.url if asked is None else asked
        self._known_root = root
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
        self._hides_absence = False

    def __repr__(self) -> str:
        return f"Store({redact(self.url)!r})"

    @cached_property
    def credentials(self) -> Credentials:
        """What web servers are told by whoever reads this store."""
        return Credentials.of(self._asked)

    @property
    def is_told(self) -> bool:
        """Whether credentials go with what is asked of its web server."""
        return credentials.origin(self.url) is not None and self.credentials.tell(self.url)

    @property
    def filesystem(self) -> Any:
        """The fsspec filesystem (asynchronous) that reads this store."""
        if self._filesystem is None:
            self._filesystem, self._base = self._opened(encoded=bool(self._query))
        return self._filesystem

    @cached_property
    def original(self) -> Store | None:
        """The store behind a cache, which alone knows what is there; None where this one is no cache."""
        first, chained, rest = self.url.partition("::")
        if not chained or first.partition("://")[0] not in CACHES:
            return None
        return Store(rest, asked=self._asked, root=self._known_root)

    @property
    def hides_absence(self) -> bool:
        """Whether something was refused that counts as absent: no other reader would take it for that."""
        return self._hides_absence or (self.original is not None and self.original.hides_absence)

    @cached_property
    def tree(self) -> FolderTree:
        """The folder, where the store is one on this machine: nothing that is read of it lies outside."""
        if self.local is None:
            raise TypeError(f"{self!r} is no folder of this machine")
        return FolderTree(self.local)

    def is_file(self) -> bool | None:
        """Return whether the store's path on this machine is a file; None where there is nothing of that name.

        Raises
        ------
        ProductUnreachable
            And its kinds: it cannot be looked at.
        """
        try:
            return stat.S_ISREG(Path(self.path("")).stat().st_mode)
        except ValueError:  # of what cannot be a name
            return None
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
                return None
            raise self._failure(error, "") from error

    def path(self, key: str) -> str:
        """Return the address of the object `key` as the filesystem wants it; "" is the store itself."""
        if self.local is not None:
            return str(self.local / key) if key else str(self.local)
        _ = self.filesystem
        # An archive's own root has no name, and nothing in it begins with a slash.
        return (f"{self._base}/{key}" if key and self._base else key or self._base) + self._query

    def for_zarr(self, *, is_view: bool = False) -> Any:
        """Return what zarr-python opens, for reading: it has an event loop of its own, and so needs its own session.

        Parameters
        ----------
        is_view
            It may be a view of this run's own, whose links were looked at when they were made, and lead elsewhere.
        """
        if self.local is not None:
            if is_view:
                return self.local  # as text it would be an address, whose query and fragment are cut off
            from geozarr_runner.stores.tree_store import TreeStore

            return TreeStore(self.local)
        from geozarr_runner.stores.distant_store import DistantStore

        filesystem, base = self._opened(encoded=False, for_another_loop=True)
        store = DistantStore(filesystem, path=base, place=self, is_bounded=not _lists_sizes(filesystem))
        weakref.finalize(store, _close_session, filesystem)
        return store

    def read(self, key: str, *, is_json: bool = False) -> bytes | None:
        """Return the bytes of one document: metadata, an item, a line with a checksum.

        Parameters
        ----------
        is_json
            It is given up at its first bytes if they are those of something else.

        Returns
        -------
        bytes | None
            None where there is none of that name.

        Raises
        ------
        ProductBroken
            It is larger than a document may be, no file, or something else.
        ProductUnreachable
            And its kinds: it cannot be read, or does not come to its end.
        """
        most = bounds.largest_document()
        given = redact(f"{self.url.partition('?')[0].rstrip('/')}/{key}" if key else self.url)

        def check(beginning: bytes) -> None:
            if is_json:
                bounds.check_beginning(beginning, given)

        if self.local is not None:
            try:
                content = self.tree.read(key, most + 1)
            except OSError as error:
                raise self._failure(error, key) from error
        else:
            content = self._unless_absent(key, self._part_or_stream(key, most, given, check))
        if content is None and self.original is not None:
            return self.original.read(key, is_json=is_json)
        if content is not None:
            check(content)
            if len(content) > most:
                raise bounds.too_large(given, most)
            if key in ROOTS:
                self._known_root = self._known_root or key
        return content

    def _part_or_stream(
        self, key: str, most: int, given: str, check: Callable[[bytes], None]
    ) -> Coroutine[Any, Any, bytes | None]:
        if _lists_sizes(self.filesystem):
            return self._document(key, partial(self._part, key, most + 1))
        return self._document(key, partial(self._stream, key, most, given, check))

    def _unless_absent[T](self, key: str, work: Coroutine[Any, Any, T]) -> T | None:
        """Return what a request gives; None where it is refused by a server that has it not."""
        try:
            return self.run(work)
        except ProductDenied as denied:
            refused = denied
        if self.original is None and not self.is_without(key, refused):
            raise refused
        return None

    def is_without(self, key: str, refused: ProductDenied) -> bool:
        """Return whether a refusal means that there is no object of a name: asks for the root's document after it."""
        return key != "" and may_be_absent(refused.__cause__) and self.shows_root(besides=key)

    def shows_root(self, *, besides: str = "") -> bool:
        """Return whether the document of the root can be read now, another one than `besides`."""
        return self.run(self._shows_root(besides))

    async def _shows_root(self, besides: str = "") -> bool:
        for key in (self._known_root,) if self._known_root else ROOTS:
            if key == besides:
                continue
            try:
                is_there, _ = await self.retried(partial(self._first_byte, key), key, bounds.seconds_for(0))
            except ProductDenied:
                continue
            if is_there:
                self._known_root = key
                return True
        return False

    async def _document[T](self, key: str, get: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return what comes, with as many tries as fit into the time that a document has."""
        seconds = bounds.SECONDS_FOR_A_DOCUMENT
        try:
            async with asyncio.timeout(seconds):
                return await self.retried(get, key)
        except TimeoutError as error:
            late = TimeoutError(f"it did not come to its end within {seconds:g} s")
            raise self._failure(late, key, tries=1) from error

    async def _part(self, key: str, most: int) -> bytes | None:
        """Return the first bytes of an object of a store that sends parts."""
        try:
            return bytes(await self.filesystem._cat_file(self.path(key), start=0, end=most))
        except FileNotFoundError as error:
            _check_absent(error)
            return None
        except OSError as error:
            if "not satisfiable" in str(error):  # an empty object has no first byte
                return b""
            raise

    async def _stream(self, key: str, most: int, given: str, check: Callable[[bytes], None]) -> bytes | None:
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

    def sizes(self, keys: Iterable[str], progress: Callable[[int], None] | None = None) -> dict[str, int | None]:
        """Return the stored size of each object that exists, in bytes; None where the store does not tell it.

        One request an object, many at once. A store that lists with sizes (object stores) is asked once a folder; what
        its listing lacks is asked for by name. Of objects that do not exist, however many, nothing is kept.

        Raises
        ------
        ProductDenied
            One is refused, and that does not mean that there is none: see `absence`.
        ProductBroken
            Some are not found, and the root's document is not any more either.
        ProductUnreachable
            The store does not answer.
        """
        found: dict[str, int | None] = {}
        if self.local is not None:
            for key in keys:
                try:
                    size = self.tree.size(key)
                except OSError as error:
                    raise self._failure(error, key) from error
                if size is not None:
                    found[key] = size
            return found
        if self.original is not None:
            return self.original.sizes(keys, progress)
        is_web = not _lists_sizes(self.filesystem)
        listed: dict[str, dict[str, int | None]] = {}
        for part in batched(keys, ASKED_AT_ONCE):
            lacking: Sequence[str] = part
            if not is_web:
                found |= self.run(self._listed_sizes(part, listed))
                lacking = [key for key in part if key not in found]
            look = self._on_web if is_web else partial(self._behind_listing, listed=listed)
            found |= self._asked_by_name(lacking, look, progress)
        return found

    def _asked_by_name(
        self,
        keys: Sequence[str],
        look: Callable[[str], Coroutine[Any, Any, tuple[bool, int | None]]],
        progress: Callable[[int], None] | None,
    ) -> dict[str, int | None]:
        """Return the sizes of the objects that exist; none is taken for absent before the root was seen after it."""
        refused: list[ProductDenied] = []

        async def one(key: str) -> tuple[bool, int | None]:
            try:
                return await self.retried(partial(look, key), key, bounds.seconds_for(0))
            except ProductDenied as denied:
                if not may_be_absent(denied.__cause__):
                    raise
                refused[1:] = [denied]
                return False, None

        answers = self.run(in_bounds([partial(one, key) for key in keys], progress))
        found = {key: size for key, (is_there, size) in zip(keys, answers, strict=True) if is_there}
        # Nobody has to have read a root before: then one that says "not found" is believed, and none that refuses.
        if len(found) < len(keys) and (refused or self._known_root) and not self.shows_root():
            raise (
                refused[0]
                if refused
                else ProductBroken(
                    "objects of it are not found, and its metadata are not any more either",
                    given=redact(self.url),
                    remedy="run the same command again when nobody changes the product",
                )
            )
        self._hides_absence |= bool(refused)
        return found

    async def _on_web(self, key: str) -> tuple[bool, int | None]:
        """Return whether a web server has an object, and its size where that is told."""
        from geozarr_runner.stores.web import size_of

        session = await self.filesystem.set_session()
        return await size_of(session, self.filesystem.encode_url(self.path(key)), self.filesystem.kwargs)

    async def _behind_listing(
        self, key: str, listed: Mapping[str, Mapping[str, int | None]]
    ) -> tuple[bool, int | None]:
        """Return the same of a store whose listing lacks an object."""
        # One that lists others tells the truth as a rule, and says "not found" at once; one that lists none does not.
        if listed[key.rpartition("/")[0]] and not (await self._first_byte(key))[0]:
            return False, None
        try:
            answer = await self.filesystem._info(self.path(key))
        except FileNotFoundError as error:
            _check_absent(error)
            return False, None
        except PermissionError:
            answer = None
        if answer is None:  # what HEAD refuses GET may allow, and it says why it does not
            return await self._first_byte(key)
        return answer.get("type") != "directory", answer.get("size")

    async def _first_byte(self, key: str) -> tuple[bool, int | None]:
        """Return whether there is an object, and its size where that comes with its first byte."""
        if _lists_sizes(self.filesystem):
            return await self._part(key, 1) is not None, None
        from geozarr_runner.stores.web import first_byte

        session = await self.filesystem.set_session()
        return await first_byte(session, self.filesystem.encode_url(self.path(key)), self.filesystem.kwargs)

    async def _listed_sizes(
        self, keys: Sequence[str], listed: dict[str, dict[str, int | None]]
    ) -> dict[str, int | None]:
        """Return sizes as folders list them; `listed` has those that were asked before, and gets the others."""
        folders = sorted({key.rpartition("/")[0] for key in keys} - listed.keys())

        async def one(folder: str) -> dict[str, int | None]:
            async def listing() -> dict[str, int | None]:
                try:
                    entries = await self.filesystem._ls(self.path(folder), detail=True)
                except Exception as error:
                    if _lists_nothing(error):
                        return {}
                    raise
                prefix = f"{folder}/" if folder else ""
                files = (entry for entry in entries if entry.get("type") != "directory")
                return {prefix + entry["name"].rpartition("/")[2]: entry.get("size") for entry in files}

            return await self.retried(listing, folder)

        listed.update(zip(folders, await in_bounds([partial(one, folder) for folder in folders]), strict=True))
        return {key: known[key] for key in keys if key in (known := listed[key.rpartition("/")[0]])}

    def sends_ranges(self, key: str) -> bool:
        """Return whether the store sends parts of an object; asks a web server for the first byte of this one."""
        if "::" in self.url:  # a cache fetches the whole for each part, and an archive unpacks it from its beginning
            return False
        if _lists_sizes(self.filesystem):
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

    def parts(self, wanted: Sequence[tuple[str, int, int]]) -> list[tuple[bytes, int | None] | None]:
        """Return parts of objects, many at once: the bytes from a place up to another one.

        Returns
        -------
        list
            For each its bytes, and the size of the whole object where that comes with them; None where the store sends
            whole objects only.

        Raises
        ------
        ProductBroken
            An object is gone.
        ProductUnreachable
            And its kinds: one cannot be read.
        """
        if self.local is not None:
            return [(self._local_part(*each), None) for each in wanted]

        async def one(key: str, start: int, stop: int) -> tuple[bytes, int | None] | None:
            if _lists_sizes(self.filesystem):
                return bytes(await self.filesystem._cat_file(self.path(key), start=start, end=stop)), None
            from geozarr_runner.stores.web import part_of

            session = await self.filesystem.set_session()
            url = self.filesystem.encode_url(self.path(key))
            return await part_of(session, url, self.filesystem.kwargs, start, stop)

        async def tried(key: str, start: int, stop: int) -> tuple[bytes, int | None] | None:
            return await self.retried(partial(one, key, start, stop), key, bounds.seconds_for(stop - start))

        return self.run(in_bounds([partial(tried, *each) for each in wanted]))

    def _local_part(self, key: str, start: int, stop: int) -> bytes:
        try:
            with os.fdopen(self.tree.open(key), "rb") as file:
                file.seek(start)
                return file.read(stop - start)
        except OSError as error:
            raise self._failure(error, key) from error

    def refuses(self, key: str) -> bool:
        """Return whether an object is refused by a server that may have it not."""
        if self.local is not None:
            return False
        if self.original is not None:
            return self.original.refuses(key)
        try:
            self.run(self.retried(partial(self._first_byte, key), key, bounds.seconds_for(0)))
        except ProductDenied as denied:
            if not may_be_absent(denied.__cause__):
                raise
            return True
        return False

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn a distant backend's refusals into ours while zarr reads through it; what zarr says of bytes passes."""
        try:
            yield
        except Exception as error:
            refused = isinstance(error, OSError | asyncio.TimeoutError) or _is_client_error(error)
            if self.local is not None or isinstance(error, FileNotFoundError) or not refused:
                raise
            raise self._failure(error, "", tries=1) from error

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
            async for attempt in AsyncRetrying(
                retry=retry_if_exception(_may_get_better),
                stop=stop_after_attempt(self.attempts),
                wait=_patience,
                reraise=True,
            ):
                with attempt:
                    if seconds is None:
                        return await call()
                    return await _in_time(call, seconds)
        except GeozarrError:
            raise
        except Exception as error:
            raise self._failure(error, key) from error
        raise AssertionError("tenacity returned without a result")

    def _failure(self, error: BaseException, key: str, tries: int = ATTEMPTS) -> GeozarrError:
        """Return what a backend's error means to a person."""
        address = redact(f"{self.url.partition('?')[0].rstrip('/')}/{key}" if key else self.url)
        if (storage := storage_failure(error)) is not None and self.local is None:
            return storage
        if self.local is not None and isinstance(error, OSError):
            refusal = ProductDenied if isinstance(error, PermissionError) else ProductUnreachable
            return refusal(
                f"it cannot be read: {error.strerror or error}", given=address, remedy="have it made readable"
            )
        status = getattr(error, "status", None)
        kind = type(error).__name__
        if status in (401, 403) or isinstance(error, PermissionError) or "Credentials" in kind:
            return self._denied(error, f" (HTTP {status})" if status else f" ({error_text(error)})", address)
        if CERTIFICATE_REFUSED in str(error):
            return ProductUnreachable(
                f"the server's certificate is not trusted: {error_text(error)}",
                given=address,
                remedy="name the file of the authority that signed it: SSL_CERT_FILE=/path/ca.crt",
            )
        if isinstance(error, FileNotFoundError):
            return ProductBroken(
                "an object that was there a moment ago is gone",
                given=address,
                remedy="run the same command again when nobody changes the product",
            )
        if isinstance(error, (ImportError, NotImplementedError)):
            return ProductUnreachable(
                error_text(error), given=address, remedy="install the fsspec backend that it names"
            )
        if status is not None or isinstance(error, OSError | asyncio.TimeoutError) or _is_client_error(error):
            return ProductUnreachable(
                f"no answer{f' after {tries} tries' if tries > 1 else ''}: {error_text(error)}",
                given=address,
                remedy="check the address and the network, then run the same command again",
            )
        return ProductBroken(
            f"the store answered something unusable: {error_text(error)}",
            given=address,
            remedy="open the address in a browser: it may be another service's",
        )

    def _denied(self, error: BaseException, how: str, address: str) -> ProductDenied:
        # The last one that was asked, after redirects.
        asked = getattr(getattr(error, "request_info", None), "real_url", self.url)
        place = credentials.origin(asked)
        if place is None:
            remedy = "give credentials where fsspec reads them, e.g. FSSPEC_S3='{\"anon\": true}'"
        else:
            form = credentials.FORM.replace("https://host", credentials.shown(place))
            remedy = f"give this host's credentials: {form}; those of FSSPEC_HTTPS go to the host of the address that "
            remedy += "you give yourself, and to no other"
            if self.credentials.withheld(asked):
                how += ", and FSSPEC_HTTP and FSSPEC_HTTPS do not say that theirs are this host's"
        return ProductDenied(f"access was refused{how}", given=address, remedy=remedy)

    def _opened(self, *, encoded: bool, for_another_loop: bool = False) -> tuple[Any, str]:
        protocol = self._root.partition("://")[0]
        # A listing that was kept, by whomever in this process, would hide what was written since.
        options: dict[str, Any] = {"use_listings_cache": False}
        if for_another_loop:
            options |= {"asynchronous": True, "skip_instance_cache": True}
        if protocol in ("s3", "s3a"):
            options["max_concurrency"] = 1  # else each object is asked for its size before it is read
        if (place := credentials.origin(self._root)) is not None:
            from geozarr_runner.stores import web

            of_web = web.options(self._root, self.credentials, seconds_without_a_byte=SECONDS_WITHOUT_A_BYTE)
            if protocol in credentials.WEB:
                options |= of_web
                options["encoded"] = encoded  # a signed query must arrive letter by letter
            else:
                options[place[0]] = of_web  # the link of a chain that is a web server's
        try:
            filesystem, base = fsspec.core.url_to_fs(self._root, **options)
        except Exception as error:  # whatever the constructor of some backend raises
            raise ProductUnreachable(
                f"this kind of address cannot be opened: {error_text(error)}",
                given=redact(self._root),
                remedy="use a path, http(s)://, s3:// or another protocol of fsspec.available_protocols()",
            ) from error
        if has_tenant(self._root):
            allow_tenants(filesystem)
        if not isinstance(filesystem, AsyncFileSystem):
            semaphore = None if for_another_loop else _THREADS
            filesystem = AsyncFileSystemWrapper(filesystem, asynchronous=for_another_loop, semaphore=semaphore)
        return filesystem, str(base).rstrip("/")


def storage_failure(error: BaseException, path: object = None) -> StorageFailed | None:
    """Return what an operating system's refusal to write means, or None when it is something else."""
    if not isinstance(error, OSError) or error.errno is None or _is_of_network(error):
        return None
    given = path if path is not None else error.filename
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StorageFull(
            f"cannot be written: {os.strerror(error.errno).lower()}",
            given=given,
            remedy="make space there, or choose another folder",
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StorageDenied(
            f"cannot be written: {os.strerror(error.errno).lower()}",
            given=given,
            remedy="choose a folder that you may write to, or have the permission given",
        )
    if error.errno in (errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EIO):
        return StorageFailed(
            f"cannot be written: {os.strerror(error.errno).lower()}", given=given, remedy="choose another path"
        )
    return None


def not_found(url: str) -> ProductNotFound:
    """Return the error for an address with no product, with near names where they can be seen."""
    path = local_path(url)
    remedy = "check the address: it must be a Zarr store, or a STAC item that has one as an asset"
    if path is not None:
        near: list[str] = []
        with suppress(OSError, ValueError):
            near = sorted(entry.name for entry in path.parent.iterdir() if entry.suffix in (".zarr", ".json"))[:5]
        if near:
            remedy = f"in that folder there are: {', '.join(near)}"
    return ProductNotFound("there is no product here", given=redact(url), remedy=remedy)


def _close_session(filesystem: Any) -> None:
    """Close what fsspec leaves open of a filesystem that is not its own loop's."""
    session = getattr(filesystem, "_session", None)
    if session is not None and hasattr(filesystem, "close_session"):
        filesystem.close_session(session._loop, session)


def _lists_sizes(filesystem: Any) -> bool:
    protocols = filesystem.protocol if isinstance(filesystem.protocol, tuple | list) else (filesystem.protocol,)
    return not {"http", "https"} & set(protocols)


async def _in_time[T](call: Callable[[], Coroutine[Any, Any, T]], seconds: float) -> T:
    try:
        async with asyncio.timeout(seconds) as limit:
            return await call()
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise ConnectionError(f"it did not come to its end within {seconds:g} s") from error


async def in_bounds[T](
    jobs: Iterable[Callable[[], Coroutine[Any, Any, T]]], progress: Callable[[int], None] | None = None
) -> list[T]:
    """Run many, `CONCURRENCY` at a time; the first failure ends the others."""
    waiting = list(jobs)
    results: list[Any] = [None] * len(waiting)
    queue = iter(range(len(waiting)))

    async def worker() -> None:
        for index in queue:
            results[index] = await waiting[index]()
            if progress is not None:
                progress(1)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(CONCURRENCY, len(waiting))):
                group.create_task(worker())
    except BaseExceptionGroup as errors:
        first: BaseException = errors
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None
    return results


def _patience(state: RetryCallState) -> float:
    """Return the seconds to wait before the next try: what the server asks for, or longer each time."""
    error = state.outcome.exception() if state.outcome is not None else None
    asked = _seconds((getattr(error, "headers", None) or {}).get("Retry-After", "").strip())
    if asked is not None:
        return min(asked, LONGEST_PATIENCE)
    return wait_exponential_jitter(multiplier=0.2, max=5, jitter=0.2)(state)


def _seconds(asked: str) -> float | None:
    """Return the seconds that a `Retry-After` asks for, as a number or as a date; None where it says neither."""
    if re.fullmatch("[0-9]+", asked):
        return float(asked[:9])
    try:
        moment = parsedate_to_datetime(asked)
        left = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - datetime.now(UTC)
    except (ValueError, OverflowError, TypeError, IndexError):  # of a date that is none
        return None
    return max(left.total_seconds(), 0.0)


def _may_get_better(error: BaseException) -> bool:
    if isinstance(error, FileNotFoundError | PermissionError) or storage_failure(error) is not None:
        return False
    if CERTIFICATE_REFUSED in str(error):
        return False
    status = getattr(error, "status", None)
    if status is not None:
        return bool(status == 429 or status >= 500)
    return isinstance(error, OSError | asyncio.TimeoutError) or _is_client_error(error)


def _is_of_network(error: BaseException) -> bool:
    """Return whether it is about a connection: a refused certificate has the number of a refused permission."""
    of_server = error.__cause__ is not None and _is_client_error(error.__cause__)
    return isinstance(error, ssl.SSLError) or _is_client_error(error) or of_server


def _check_absent(error: FileNotFoundError) -> None:
    """Raise what a filesystem calls "not found", and is not."""
    if not is_absent(error):
        raise error.__cause__ or error from None


def _lists_nothing(error: BaseException) -> bool:
    """Return whether a store refuses to list, or cannot: it may have objects all the same."""
    if isinstance(error, FileNotFoundError | NotADirectoryError | NotImplementedError | PermissionError):
        return True
    status = getattr(error, "status", None)
    if status is not None:
        return status == 501 or (400 <= status < 500 and status not in (401, 408, 429))
    return isinstance(error, OSError) and error.errno in (errno.ENOSYS, errno.EINVAL)


def _is_client_error(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] in ("aiohttp", "botocore", "aiobotocore", "gcsfs", "adlfs")


def error_text(error: BaseException) -> str:
    """Return an error's text in one line, without what may be secret in it."""
    text = " ".join(str(error).split()) or type(error).__name__
    # Some backends put the whole address, signature and all, into their text.
    return redact_text(text)[:300]

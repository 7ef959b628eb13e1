"""`pvc://<claim>/<path>` for fsspec, and so for zarr and xarray: the files of a cluster's claims, read only."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from dataclasses import replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from queue import SimpleQueue
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any, NoReturn

from fsspec.asyn import AsyncFileSystem
from fsspec.spec import AbstractBufferedFile

from geozarr_nb.claims.address import SCHEME, Address, Entry
from geozarr_nb.claims.volume import files_of
from geozarr_nb.errors import InvalidRequest, StorageDenied
from geozarr_nb.settings import Settings

if TYPE_CHECKING:
    from geozarr_nb.claims.address import Files

# As many as the API server is asked at once, see `api.CONNECTIONS`.
WORKERS = 16
BLOCK = 16 << 20


class ClaimFileSystem(AsyncFileSystem):  # type: ignore[misc]  # fsspec has no types
    """The files of the claims of one namespace.

    Paths are `<claim>/<path>`. Nothing is asked of a cluster before something is read, and nothing at all where the
    claim is mounted on this machine.

    Parameters
    ----------
    namespace, context
        Where the claims are; those of the settings where they are not given.
    """

    protocol = SCHEME.removesuffix("://")
    # The settings of today are not those of the instance that fsspec would remember.
    cachable = False

    def __init__(self, namespace: str = "", context: str = "", **options: Any) -> None:
        super().__init__(**options)
        self._given = namespace, context

    async def _cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        address = self._address(path)
        if (end is not None and end < 0) or (start is not None and start < 0 and end is not None):
            size = (await self._info(path))["size"]
            start, end = (max(size + each, 0) if each is not None and each < 0 else each for each in (start, end))
        return await self._call(address, lambda files: files.read(address.path, start or 0, end))

    async def _info(self, path: str, **options: Any) -> dict[str, Any]:
        address = self._address(path)
        entry = await self._call(address, lambda files: files.entry(address.path))
        return _details(entry, str(self._strip_protocol(path)))

    async def _ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        address = self._address(path)
        folder = str(self._strip_protocol(path))
        try:
            entries = await self._call(address, lambda files: files.entries(address.path))
            found = [_details(entry, f"{folder}/{entry.name}") for entry in entries]
        except NotADirectoryError:
            found = [await self._info(path)]
        return sorted(found, key=lambda each: str(each["name"])) if detail else sorted(each["name"] for each in found)

    async def _get_file(self, rpath: str, lpath: str, callback: Any = None, **options: Any) -> None:
        if (info := await self._info(rpath))["type"] == "directory":
            await asyncio.to_thread(os.makedirs, lpath, exist_ok=True)
            return
        with Path(lpath).open("wb") as file:
            for start in range(0, info["size"], BLOCK):
                block = await self._cat_file(rpath, start, start + BLOCK)
                file.write(block)
                if callback is not None:
                    callback.relative_update(len(block))

    def _open(
        self, path: str, mode: str = "rb", block_size: int | str = "default", cache_options: Any = None, **options: Any
    ) -> ClaimFile:
        if mode != "rb":
            self._refuse_writing(path)
        return ClaimFile(self, path, mode, BLOCK if block_size == "default" else block_size, **options)

    def modified(self, path: str) -> Any:
        """Return when a file was last written, in UTC."""
        from datetime import UTC, datetime

        return datetime.fromtimestamp(self.info(path)["mtime"], UTC)

    def _refuse_writing(self, path: object, *_: Any, **options: Any) -> NoReturn:
        raise StorageDenied(
            "the files of a claim are read only here",
            given=f"{SCHEME}{self._strip_protocol(path)}" if isinstance(path, str) else path,
            remedy='write with a job that runs on the cluster: gz.convert(product, output, backend="argo")',
        )

    async def _refuse_writing_soon(self, path: object, *_: Any, **options: Any) -> NoReturn:
        self._refuse_writing(path)

    _pipe_file = _rm_file = _rm = _mkdir = _makedirs = _rmdir = _refuse_writing_soon
    touch = rmdir = _refuse_writing

    async def _put_file(self, lpath: str, rpath: str, **options: Any) -> NoReturn:
        self._refuse_writing(rpath)

    async def _cp_file(self, path1: str, path2: str, **options: Any) -> NoReturn:
        self._refuse_writing(path2)

    def mv(self, path1: str, path2: str, **options: Any) -> NoReturn:
        """Refuse."""
        self._refuse_writing(path1)

    def _address(self, path: str) -> Address:
        stripped = str(self._strip_protocol(path))
        if not stripped:
            raise InvalidRequest("no claim is named", given=path or SCHEME, remedy=f"write {SCHEME}<claim>/<path>")
        return Address.parse(stripped)

    async def _call[T](self, address: Address, work: Callable[[Files], T]) -> T:
        """Do something with an address's files in a thread: what there is waits for its answers."""

        def done() -> T:
            return work(files_of(address, self._settings))

        # What the work logs while it waits is heard by whoever listens to the caller, as a widget does.
        return await asyncio.wrap_future(_workers(os.getpid()).submit(partial(copy_context().run, done)))

    @cached_property
    def _settings(self) -> Settings:
        settings = Settings.load()
        namespace, context = self._given
        return replace(
            settings, namespace=namespace or settings.namespace, kube_context=context or settings.kube_context
        )


class ClaimFile(AbstractBufferedFile):  # type: ignore[misc]  # fsspec has no types
    """A file of a claim, opened for reading."""

    def _fetch_range(self, start: int, end: int) -> bytes:
        return bytes(self.fs.cat_file(self.path, start=start, end=end))


class _Workers:
    """Threads that wait for answers; unlike those of an executor, they do not keep Python from ending."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._waiting: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._lock = Lock()
        self._threads = 0
        self._free = 0

    def submit[T](self, work: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()
        self._waiting.put(partial(_settle, future, work))
        with self._lock:
            if self._free < self._waiting.qsize() and self._threads < self._number:
                self._threads += 1
                Thread(target=self._work, name="claim-files", daemon=True).start()
        return future

    def _work(self) -> None:
        while True:
            with self._lock:
                self._free += 1
            job = self._waiting.get()
            with self._lock:
                self._free -= 1
            job()


def _settle[T](future: Future[T], work: Callable[[], T]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = work()
    except BaseException as error:  # noqa: BLE001  it is raised where the result is waited for
        future.set_exception(error)
    else:
        future.set_result(result)


@lru_cache(maxsize=2)
def _workers(process: int) -> _Workers:
    """Return the threads of a process; a forked one has none of its parent's."""
    return _Workers(WORKERS)


def _details(entry: Entry, name: str) -> dict[str, Any]:
    kind = "directory" if entry.is_folder else "file"
    return {"name": name.rstrip("/"), "type": kind, "size": entry.size, "mtime": entry.modified}

"""An object store that is written to: conditional writes, uploads, listings, and what its refusals mean."""

from __future__ import annotations

import asyncio
from base64 import b64decode
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fsspec.callbacks import Callback

from geozarr_runner.errors import (
    GeozarrError,
    ProductUnreachable,
    StorageDenied,
    StorageFailed,
    StorageFull,
)
from geozarr_runner.publishing.remote_output import RemoteOutput
from geozarr_runner.stores.access.concurrency import in_bounds
from geozarr_runner.stores.access.failures import error_text
from geozarr_runner.stores.refusals import answer_of
from geozarr_runner.stores.store import Store
from geozarr_runner.trust.addresses import redact


@dataclass(frozen=True, slots=True)
class Stored:
    """An object as the store lists it. The checksum is a hexadecimal MD5, if the store has one."""

    size: int
    checksum: str


@dataclass(frozen=True, slots=True)
class Written:
    """The store's answer to a write that succeeded.

    Attributes
    ----------
    version
        Version of the written object, which differs from every other version of the key; None if the store has none.
    conditional
        True if the store checked the condition of the write.
    """

    version: str | None
    conditional: bool


class ObjectStore(Store):
    """Writes objects below an output's address; every failure becomes a `StorageFailed`."""

    attempts = 3  # the clients of object stores repeat requests themselves

    def write(self, key: str, content: bytes, *, only_new: bool = False, version: str | None = None) -> Written | None:
        """Write one object, with or without a condition.

        Parameters
        ----------
        only_new
            Write only if the key has no object.
        version
            Write only if the key's object still has this version.

        Returns
        -------
        Written | None
            None if the condition did not hold. A store without conditional writes writes in any case.
        """
        condition = {"mode": "create"} if only_new else {"IfMatch": version} if version is not None else {}

        async def put() -> Written | None:
            try:
                answer = await self.filesystem._pipe_file(self.path(key), content, **condition)
            except OSError as error:
                # An object that is gone does not have the wanted version.
                failed = _code(error) in _CONDITION_FAILED or isinstance(error, FileExistsError)
                if condition and (failed or (version is not None and isinstance(error, FileNotFoundError))):
                    return None
                raise
            return Written(self._version_in(answer), conditional=bool(condition))

        try:
            return self.run(self.retried(put, key))
        except StorageFailed as error:
            if not condition or _code(error.__cause__) not in _NO_CONDITIONS:
                raise
            return self.write(key, content)

    def version(self, key: str) -> str | None:
        """Return the version of an object; None if the store has no versions, or no such object."""
        if not self._has_versions:
            return None

        async def look() -> str | None:
            self.filesystem.invalidate_cache()
            try:
                return self._version_in(await self.filesystem._info(self.path(key)))
            except FileNotFoundError:
                return None

        return self.run(self.retried(look, key))

    @property
    def _has_versions(self) -> bool:
        return "s3" in self.filesystem.protocol

    def _version_in(self, answer: object) -> str | None:
        """Return the version in a store's answer; only that of S3 can be the condition of a write."""
        found = answer.get("ETag") if isinstance(answer, Mapping) and self._has_versions else None
        return found if isinstance(found, str) else None

    def put(
        self, files: Mapping[str, Path], progress: Callable[[int], None], allowed: Callable[[], None] = lambda: None
    ) -> None:
        """Upload files under their keys, many at the same time.

        Parameters
        ----------
        progress
            Called with the number of bytes of each part that was sent.
        allowed
            Called before each file; it raises an error if the run may not write any more.
        """

        async def one(key: str, path: Path) -> None:
            await asyncio.to_thread(allowed)

            async def send() -> None:
                counter = _UploadCounter(progress)
                try:
                    await self.filesystem._put_file(str(path), self.path(key), callback=counter)
                except BaseException:
                    progress(-counter.sent)
                    raise
                progress(path.stat().st_size - counter.sent)  # the bytes that the file system did not report

            await self.retried(send, key)

        self.run(in_bounds([partial(one, key, path) for key, path in files.items()]))

    def remove(self, keys: Collection[str]) -> None:
        """Remove objects, many at the same time; missing objects are ignored."""

        async def one(key: str) -> None:
            async def delete() -> None:
                with suppress(FileNotFoundError):
                    await self.filesystem._rm_file(self.path(key))

            await self.retried(delete, key)

        self.run(in_bounds([partial(one, key) for key in keys]))

    def listing(self) -> dict[str, Stored]:
        """Return every object below the address by its key; the key "" is an object at the address itself."""

        async def find() -> dict[str, Any]:
            self.filesystem.invalidate_cache()
            try:
                return dict(await self.filesystem._find(self.path(""), detail=True))
            except FileNotFoundError as error:
                if _code(error) == "NoSuchBucket":
                    raise
                return {}

        base = self.path("")
        found = self.run(self.retried(find, ""))
        return {
            path[len(base) :].removeprefix("/").removesuffix("/"): Stored(int(entry.get("size") or 0), _checksum(entry))
            for path, entry in found.items()
            if entry.get("type") != "directory"
        }

    def is_empty(self) -> bool:
        """Return whether there is no object below the address; only one level is listed."""

        async def look() -> bool:
            self.filesystem.invalidate_cache()
            try:
                return not await self.filesystem._ls(self.path(""), detail=False)
            except FileNotFoundError as error:
                if _code(error) == "NoSuchBucket":
                    raise
                return True

        return self.run(self.retried(look, ""))

    def failure(self, error: BaseException, key: str, tries: int = attempts) -> GeozarrError:
        """Return what an error of the backend means to a person."""
        address = redact(f"{self.url}/{key}" if key else self.url)
        answer, text, kind = answer_of(error), error_text(error), type(error).__name__
        code = _code(error)
        if any(word in f"{code} {text}".lower() for word in _FULL):
            return StorageFull(
                f"the object store takes no more: {text}",
                given=address,
                remedy="have the quota raised, or remove what is not needed there",
            )
        is_refusal = answer is not None and answer.is_refusal
        if is_refusal or isinstance(error, PermissionError) or "Credentials" in kind:
            return StorageDenied(
                f"the object store refuses: {text}",
                given=address,
                remedy="give credentials that may list, read, write and delete there: AWS_* variables or FSSPEC_S3 "
                "where it runs, on a cluster the Secret geozarr-credentials",
            )
        if isinstance(error, FileNotFoundError):
            return StorageFailed(
                f"there is no such bucket: {text}", given=address, remedy="make it, or correct the address"
            )
        if isinstance(error, ImportError | NotImplementedError):
            return StorageFailed(
                f"nothing can be written there: {text}", given=address, remedy="install the fsspec backend it names"
            )
        return StorageFailed(
            f"the object store does not take it{f' after {tries} tries' if tries > 1 else ''}: {text}",
            given=address,
            remedy="check the network and where the store is (AWS_ENDPOINT_URL, FSSPEC_S3), then run it again",
        )


_CONDITION_FAILED = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "412", "409"})


_NO_CONDITIONS = frozenset({"NotImplemented", "501"})


_FULL = ("quota", "storagefull", "storage full", "insufficientstorage", "nospace")


def open_store(address: str) -> ObjectStore:
    """Open the store at an address for writing.

    Raises
    ------
    StorageFailed
        No installed package knows the protocol.
    """
    store = ObjectStore(address)
    try:
        _ = store.filesystem
    except ProductUnreachable as error:
        raise StorageFailed(error.message, given=error.given, remedy="install the fsspec backend it names") from error
    return store


class _UploadCounter(Callback):  # type: ignore[misc]  # fsspec has no types
    """Reports how much of a file was sent."""

    def __init__(self, progress: Callable[[int], None]) -> None:
        super().__init__()
        self._progress = progress
        self.sent = 0

    def relative_update(self, inc: int = 1) -> None:
        self.sent += inc
        self._progress(inc)

    def absolute_update(self, value: int) -> None:
        self.relative_update(value - self.sent)


def beside(output: RemoteOutput) -> ObjectStore:
    """Return the store that holds what lies beside an output."""
    return open_store(output.parent)


def _code(error: BaseException | None) -> str:
    """Return the store's own code of an error; empty if it has none."""
    answer = answer_of(error)
    return answer.code if answer is not None else ""


def _checksum(entry: Mapping[str, Any]) -> str:
    if md5 := entry.get("md5Hash"):
        return b64decode(md5).hex()
    return str(entry.get("ETag", "")).strip('"').lower()

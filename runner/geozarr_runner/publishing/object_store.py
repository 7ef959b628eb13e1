"""Publishes an output to an object store. The root document is uploaded last, so that no reader opens half an output.

Object stores cannot rename. Therefore a run converts and verifies in scratch space, and then uploads every object. The
root's `zarr.json` comes last: until then no reader finds a store under the output's name.

::

    <output>/...               the objects; the next run uses or removes the objects of a killed run
    <output>/zarr.json         written last: where it exists, the output is complete
    <output>.stac.json         the STAC item, written just before the root
    <output>.manifest.json     written first: size and MD5 of each object, so that the next run knows what it may remove
    <output>.log.jsonl         the log of the runs, uploaded when a run ends
    .<name>.lock               the lock, which exists while a run writes the output

When a run replaces an output, it removes the old root, then the old objects, and then uploads the new ones. A reader
who opens the output in between finds no store, and never a mixture. A reader who opened the old output before finds
chunks missing or replaced, as with every object store. If the run fails in that time, no output is left.

The lock keeps two runs for one output apart. Where the store has conditional writes (S3's `If-None-Match`,
`ifGenerationMatch`), only one run can create the lock. Elsewhere two runs that begin in the same moment can both create
it; the run that created it first sees the other's lock and gives up before it writes the root. A run rewrites its lock
every few seconds as a sign of life (`If-Match`). A run that was suspended, for example on a laptop that slept, ends
when it finds the lock of another run, and does not take the lock back.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import socket
import tempfile
import threading
import time
import uuid
from base64 import b64decode
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

from fsspec.callbacks import Callback
from fsspec.registry import known_implementations, registry

from geozarr_runner import interruption
from geozarr_runner.errors import (
    GeozarrError,
    InvalidRequest,
    LaterVersion,
    OutputBusy,
    OutputExists,
    ProductBroken,
    ProductUnreachable,
    StorageDenied,
    StorageFailed,
    StorageFull,
)
from geozarr_runner.events import Progress
from geozarr_runner.publishing import local
from geozarr_runner.publishing.stac_item import SUFFIX as ITEM
from geozarr_runner.stores.store import Store, error_text, in_bounds
from geozarr_runner.trust import folders
from geozarr_runner.trust.addresses import redact
from geozarr_runner.trust.bounds import from_json
from geozarr_runner.trust.keys import flaw

ROOT, MANIFEST, LOG = "zarr.json", ".manifest.json", ".log.jsonl"
MANIFEST_VERSION = 1
# Protocols that cannot be written, that forget everything with the process, or that name a folder (a cluster's claim).
NO_OBJECT_STORES = frozenset({"http", "https", "memory", "pvc", "data", "file", "local"})
ALIASES = {"s3a": "s3", "gcs": "gs"}
SECONDS_BETWEEN_SIGNS = 10.0
SECONDS_WITHOUT_A_SIGN = 40.0
SECONDS_BETWEEN_LOOKS = 1.0
BOOT = Path("/proc/sys/kernel/random/boot_id")
FOR_LARGE_FILES = Path("/var/tmp")  # noqa: S108  a folder for this user alone is made in it


@dataclass(frozen=True, slots=True)
class RemoteOutput:
    """The address of an output in an object store, without a slash at its end."""

    address: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse an address such as `s3://bucket/path.zarr`.

        Raises
        ------
        InvalidRequest
            The address has no name below a bucket, or holds credentials or `..`.
        """
        protocol, _, path = text.partition("://")
        remedy = f"write {protocol}://bucket/path/product.zarr"
        if redact(text) != text or "\0" in text:
            raise InvalidRequest(
                "the address of an output is a bucket and a path; credentials are read from elsewhere",
                given=redact(text),
                remedy=f"{remedy}, and give credentials by AWS_* or FSSPEC_* variables",
            )
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if len(parts) < 2 or ".." in parts:  # a bucket, and a name in it
            raise InvalidRequest("this cannot be the address of an output", given=text, remedy=remedy)
        return cls(f"{ALIASES.get(protocol, protocol)}://{'/'.join(parts)}")

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.address.rpartition("/")[2]

    @property
    def parent(self) -> str:
        """The address without its last part."""
        return self.address.rpartition("/")[0]

    def __str__(self) -> str:
        return self.address


Output = Path | RemoteOutput


def output_place(output: str | os.PathLike[str]) -> Output:
    """Return an output's path on this machine, or its address in an object store.

    Raises
    ------
    InvalidRequest
        The text is neither.
    """
    if isinstance(output, str) and is_address(output):
        return RemoteOutput.parse(output)
    return local.output_path(output)


def is_address(text: str) -> bool:
    """Return whether a text is an address in an object store that fsspec can write."""
    protocol, separator, _ = text.partition("://")
    known = protocol in known_implementations or protocol in registry
    return bool(separator) and known and protocol not in NO_OBJECT_STORES


def scratch_folder(scratch: Path | None) -> Path:
    """Return the folder for intermediate files of a run for an object store; it need not exist yet."""
    if scratch is not None:
        return scratch.absolute()
    given = os.environ.get("TMPDIR")
    base = Path(given) if given else FOR_LARGE_FILES
    if not os.access(base, os.W_OK):
        base = Path(tempfile.gettempdir())
    return base.absolute() / f"geozarr-{os.getuid()}"


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

    def _failure(self, error: BaseException, key: str, tries: int = attempts) -> GeozarrError:
        address = redact(f"{self.url}/{key}" if key else self.url)
        code, text, kind = _code(error), error_text(error), type(error).__name__
        if any(word in f"{code} {text}".lower() for word in _FULL):
            return StorageFull(
                f"the object store takes no more: {text}",
                given=address,
                remedy="have the quota raised, or remove what is not needed there",
            )
        if isinstance(error, PermissionError) or "Credentials" in kind or getattr(error, "status", None) in (401, 403):
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


def root_document(output: RemoteOutput) -> bytes | None:
    """Return the root document of an output; None if there is no output and no other object under its name.

    Raises
    ------
    OutputExists
        There are objects under the name that no run has written.
    StorageFailed
        The store cannot be read.
    """
    store = open_store(output.address)
    root = store.read(ROOT)
    if root is None and not store.is_empty() and _read_manifest(output) is None:
        raise _in_the_way(output)
    return root


def read_beside(output: RemoteOutput, ending: str) -> bytes | None:
    """Return the object beside an output with an ending such as `.log.jsonl`; None if there is none.

    Raises
    ------
    StorageFailed
    """
    return _beside(output).read(f"{output.name}{ending}")


def stored_bytes(output: RemoteOutput) -> int:
    """Return the size of all objects of an output."""
    return sum(stored.size for stored in open_store(output.address).listing().values())


@dataclass(frozen=True, slots=True)
class RemoteWorkspace(local.Workspace):
    """The folders of one run in scratch space, and the address that it uploads to.

    Attributes
    ----------
    target
        The output's address. `output` is the name in scratch space that stands for it.
    lock
        The lock of the output, held until the run ends.
    """

    target: RemoteOutput
    lock: Lock


@contextmanager
def workspace(
    output: RemoteOutput, scratch: Path | None = None, *, staging: str = "input"
) -> Iterator[RemoteWorkspace]:
    """Lock an output and make the folders of its run; lock and folders are removed at the end of the block.

    Parameters
    ----------
    scratch
        Folder for intermediate files; None is a folder of this user in the system's folder for temporary files.
    staging
        As for `local.workspace`.

    Raises
    ------
    OutputBusy
        Another run writes the output, on this machine or elsewhere.
    StorageFailed
        The lock cannot be written.
    """
    stand_in = _stand_in(output, scratch)
    _make_scratch(scratch)
    with ExitStack() as stack:
        try:
            space = stack.enter_context(local.workspace(stand_in, staging=staging))
        except OutputBusy as error:
            raise OutputBusy(error.message, given=output, remedy=error.remedy) from None
        lock = stack.enter_context(Lock(output, stand_in.parent).held())
        yield RemoteWorkspace(space.output, space.folder, space.scratch, space.staged, output, lock)


def discard_leftovers(output: Output, scratch: Path | None = None) -> bool:
    """Remove what a killed run left on this machine; its objects in a store are used or removed by the next run.

    Returns
    -------
    bool
        False if a run is writing the output; then nothing was removed.
    """
    if isinstance(output, RemoteOutput):
        return local.discard_leftovers(_stand_in(output, scratch))
    return local.discard_leftovers(output, scratch)


def publish(space: RemoteWorkspace, *, overwrite: bool, progress: Progress) -> None:
    """Upload a verified output, its root last; an older output is removed before.

    Raises
    ------
    OutputExists
        Something else took the name during the run, and `overwrite` is false.
    OutputBusy
        Another run took the lock.
    StorageFailed
        The upload failed. Neither output is left, unless the old root could not be removed.
    """
    output, store, beside = space.target, open_store(space.target.address), _beside(space.target)
    files = _files(space.writing)
    manifest = store.run(_described(files))
    sizes = {key: entry.size for key, entry in manifest.items()}
    there = store.listing()
    # No run writes such a key, and how a server reads it is unknown.
    strange = any(key and flaw(key) is not None for key in there)
    if strange or (ROOT in there and not overwrite) or (ROOT not in there and not _is_left_over(output, there)):
        raise _in_the_way(output)
    done = 0

    def went(count: int) -> None:
        nonlocal done
        done += count
        progress(done, sum(sizes.values()), "bytes")

    gone = sorted(there.keys() - manifest.keys())
    space.lock.confirm()
    _write_manifest(output, manifest, replaces=gone)
    if ROOT in there:
        store.remove([ROOT])
    asked_for_root = False
    try:  # from here on the old output can no longer be opened
        beside.remove([f"{output.name}{ITEM}"])
        store.remove(gone)
        # Equal objects that a killed run has uploaded are not sent again.
        same = [key for key in files if key in there and key != ROOT and there[key] == manifest[key]]
        went(sum(sizes[key] for key in same))
        new = {key: path for key, path in files.items() if key != ROOT and key not in same}
        store.put(new, went, space.lock.check)
        _compare(output, store.listing(), {key: entry for key, entry in manifest.items() if key != ROOT})
        space.lock.confirm()
        if gone:
            _write_manifest(output, manifest)
        if space.item.exists():
            beside.write(f"{output.name}{ITEM}", space.item.read_bytes())
        asked_for_root = True  # the root may arrive late, and then all objects that it names have to exist
        root = files[ROOT].read_bytes()
        with interruption.naming():
            # The first try may have been written although its answer was lost.
            if store.write(ROOT, root, only_new=True) is None and store.read(ROOT) != root:
                raise space.lock.lost()
        went(sizes[ROOT])
    except BaseException:
        # If another run has the lock by now, the objects belong to that run. The manifest stays: an object that was
        # being sent may still arrive, and the manifest tells the next run that it may remove the object.
        with suppress(GeozarrError):
            space.lock.confirm()
            store.remove([ROOT])
            if not asked_for_root:
                beside.remove([f"{output.name}{ITEM}"])
                store.remove({*gone, *manifest})
        raise


def log_file(output: RemoteOutput, scratch: Path | None) -> Path:
    """Return the local file that holds the log until it is uploaded; it begins with the log of earlier runs.

    Raises
    ------
    StorageFailed
        The file cannot be written.
    """
    stand_in = _stand_in(output, scratch)
    path = stand_in.with_name(f"{stand_in.name}.log.jsonl")
    _make_scratch(scratch)
    said = None
    # The next steps of the run report a store that cannot be used. A log that is too large to be read begins anew.
    with suppress(StorageFailed, ProductBroken):
        said = read_beside(output, LOG)
    with local.storage_errors(path), os.fdopen(folders.create(path), "wb") as file:
        file.write(said or b"")
    return path


def upload_log(output: RemoteOutput, path: Path) -> None:
    """Upload the log beside its output. A failure is ignored: the run itself has reported that the store fails."""
    with suppress(GeozarrError, OSError):
        with os.fdopen(folders.regular(path), "rb") as file:
            _beside(output).write(f"{output.name}{LOG}", file.read())
        path.unlink()


@dataclass
class Lock:
    """The lock of an output: an object beside it, which its run rewrites every few seconds.

    Parameters
    ----------
    output
        The output that is locked.
    scratch
        The folder for intermediate files. A run that holds the file lock in this folder knows that another run which
        wrote this object from the same folder is dead.
    """

    output: RemoteOutput
    scratch: Path
    run: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        self._store = _beside(self.output)
        self._key = f".{self.output.name}.lock"
        self._place = _place(self.scratch)
        self._ended, self._is_lost = threading.Event(), threading.Event()
        self._version: str | None = None
        self._signed = _now()

    @contextmanager
    def held(self) -> Iterator[Lock]:
        """Hold the lock during a block.

        Raises
        ------
        OutputBusy
            Another run holds the lock and gives signs of life.
        """
        self._take()
        signs = threading.Thread(target=self._give_signs, name="output-lock", daemon=True)
        signs.start()
        try:
            yield self
        finally:
            self._ended.set()
            signs.join()
            with suppress(GeozarrError):  # the next run takes over a lock that stays
                self.confirm()
                self._store.remove([self._key])

    def confirm(self) -> None:
        """Check that this run still holds the lock.

        Raises
        ------
        OutputBusy
            Another run holds the lock.
        """
        if self._is_lost.is_set() or _record(self._store.read(self._key)).get("run") != self.run:
            raise self.lost()

    def check(self) -> None:
        """Check the lock only if the last sign of life is so old that this run may have been suspended.

        Raises
        ------
        OutputBusy
            Another run holds the lock.
        """
        if self._is_lost.is_set() or _now() - self._signed > SECONDS_WITHOUT_A_SIGN:
            self.confirm()

    def lost(self) -> OutputBusy:
        """Return the error of a run that has lost its lock to another run; the lock is never taken back."""
        self._is_lost.set()
        return self._busy("another run has taken this output over")

    def _take(self) -> None:
        seen, since = None, time.monotonic()
        while True:
            content = self._store.read(self._key)
            if content is None and self._write(only_new=True):
                return
            found = _record(content)
            if found.get("run") == self.run:  # the first try was written although its answer was lost
                self._version, self._signed = None, _now()
                return
            if content is None:
                continue
            if found.get("place") == self._place or (
                seen == content and time.monotonic() - since > SECONDS_WITHOUT_A_SIGN
            ):
                # Several runs can find a dead lock in the same moment; the condition lets only one of them take it.
                version = self._store.version(self._key)
                if self._store.read(self._key) == content and self._write(version=version):
                    return
                continue
            if seen not in (None, content):
                raise self._busy("another run is writing this output")
            seen = content
            time.sleep(SECONDS_BETWEEN_LOOKS)

    def _write(self, *, only_new: bool = False, version: str | None = None) -> bool:
        record = {"run": self.run, "place": self._place, "time": time.time()}
        written = self._store.write(self._key, json.dumps(record).encode(), only_new=only_new, version=version)
        if written is None:
            return False
        if not written.conditional and (only_new or version is not None):
            self.confirm()  # a store without conditions never refuses: the last run to write has the lock
        self._version, self._signed = written.version, _now()
        return True

    def _give_signs(self) -> None:
        while not self._ended.wait(SECONDS_BETWEEN_SIGNS) and not self._is_lost.is_set():
            with suppress(GeozarrError):  # the next sign may succeed
                self._give_sign()

    def _give_sign(self) -> None:
        """Rewrite the lock if this run still holds it, and never the lock of another run."""
        # The version is asked for before the owner is checked, so that a later write of another run fails the
        # condition.
        version = self._version or self._store.version(self._key)
        self.confirm()
        if not self._write(version=version):
            self._version = None  # another run wrote the lock, or this run did and the answer was lost

    def _busy(self, message: str) -> OutputBusy:
        return OutputBusy(message, given=self.output, remedy="wait for it, cancel it, or write elsewhere")


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


def _now() -> float:
    """Return the seconds of a clock that also runs while this machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _stand_in(output: RemoteOutput, scratch: Path | None) -> Path:
    """Return the path that stands for an output in scratch space; it is the same for every run."""
    digest = hashlib.sha256(output.address.encode()).hexdigest()[:16]
    return scratch_folder(scratch) / f"{digest}.zarr"


def _make_scratch(scratch: Path | None) -> None:
    """Make the folder for intermediate files, which only this user can use.

    Raises
    ------
    StorageDenied
        The folder belongs to somebody else.
    """
    folder = scratch_folder(scratch)
    with local.storage_errors(folder):
        if scratch is not None:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            return
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            folders.own(folder)
        except StorageDenied as refused:
            refused.remedy = "name another one: scratch=..."
            raise


def _place(scratch: Path) -> str:
    """Return a hash that identifies a folder of this machine without naming it."""
    boot = BOOT.read_text() if BOOT.exists() else str(uuid.getnode())
    found = scratch.stat()
    return hashlib.sha256(f"{socket.gethostname()} {boot} {found.st_dev} {found.st_ino}".encode()).hexdigest()


def _beside(output: RemoteOutput) -> ObjectStore:
    return open_store(output.parent)


def _files(folder: Path) -> dict[str, Path]:
    paths = (Path(parent) / name for parent, _, names in os.walk(folder) for name in names)
    return {path.relative_to(folder).as_posix(): path for path in sorted(paths)}


async def _described(files: Mapping[str, Path]) -> dict[str, Stored]:
    def one(path: Path) -> Stored:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, partial(hashlib.md5, usedforsecurity=False))
        return Stored(path.stat().st_size, digest.hexdigest())

    found = await in_bounds([partial(asyncio.to_thread, one, path) for path in files.values()])
    return dict(zip(files, found, strict=True))


def _compare(output: RemoteOutput, there: Mapping[str, Stored], expected: Mapping[str, Stored]) -> None:
    """Check that a store has the objects that were sent, and no others."""
    # Checksums of an encrypting store, and of objects sent in parts, are no MD5 of the content.
    tells = any(there[key].checksum == entry.checksum for key, entry in expected.items() if key in there)
    for key in sorted({*there, *expected}):
        found, sent = there.get(key), expected.get(key)
        if found is None or sent is None or found.size != sent.size:
            said = "has" if found else "lacks"
            size = f" with {found.size} bytes" if found and sent else ""
            raise StorageFailed(
                f"the object store {said} {key}{size}, and it should not be so: nothing was published",
                given=output,
                remedy="see that nobody else writes there, then run it again",
            )
        if tells and "-" not in found.checksum and found.checksum and found.checksum != sent.checksum:
            raise StorageFailed(
                f"the object store has other bytes of {key} than were sent: nothing was published",
                given=output,
                remedy="run it again; if it stays so, tell whoever runs the store",
            )


def _is_left_over(output: RemoteOutput, there: Mapping[str, Stored]) -> bool:
    """Return whether a manifest names all objects under the output's name, so that an earlier run has written them."""
    manifest = (_read_manifest(output) if there else None) or {}
    known = {*_names(manifest.get("objects")), *_names(manifest.get("replaces"))}
    return there.keys() <= known


def _in_the_way(output: RemoteOutput) -> OutputExists:
    return OutputExists(
        "there are objects under this name that no run of this program has written, or another has by now; they will "
        "not be touched",
        given=output,
        remedy="choose another output, or remove them",
    )


def _read_manifest(output: RemoteOutput) -> dict[str, Any] | None:
    """Return the manifest of an output; None if there is none that this version can read."""
    found = _record(read_beside(output, MANIFEST))
    version = found.get("v")
    if isinstance(version, int) and version > MANIFEST_VERSION:
        raise LaterVersion("what a run has left there", given=output)
    is_known = isinstance(found.get("objects"), dict) and isinstance(found.get("replaces", []), list)
    return found if is_known else None


def _write_manifest(output: RemoteOutput, objects: Mapping[str, Stored], replaces: Collection[str] = ()) -> None:
    document = {
        "v": MANIFEST_VERSION,
        "output": output.address,
        "objects": {key: [entry.size, entry.checksum] for key, entry in objects.items()},
        "replaces": list(replaces),
    }
    _beside(output).write(f"{output.name}{MANIFEST}", json.dumps(document).encode())


def _names(found: object) -> set[str]:
    """Return the keys that a manifest names. Anybody may have written it, so its values are checked."""
    return {key for key in found if isinstance(key, str)} if isinstance(found, dict | list) else set()


def _record(content: bytes | None) -> dict[str, Any]:
    try:
        found = from_json(content or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _code(error: BaseException | None) -> str:
    """Return the store's own code of an error; empty if it has none."""
    response = getattr(
        error.__cause__ if error is not None and error.__cause__ is not None else error, "response", None
    )
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def _checksum(entry: Mapping[str, Any]) -> str:
    if md5 := entry.get("md5Hash"):
        return b64decode(md5).hex()
    return str(entry.get("ETag", "")).strip('"').lower()

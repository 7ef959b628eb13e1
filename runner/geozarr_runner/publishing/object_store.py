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
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from geozarr_runner import interruption
from geozarr_runner.errors import (
    GeozarrError,
    LaterVersion,
    OutputBusy,
    OutputExists,
    ProductBroken,
    StorageDenied,
    StorageFailed,
)
from geozarr_runner.events import Progress
from geozarr_runner.publishing import local
from geozarr_runner.publishing.bucket import Stored, beside, open_store
from geozarr_runner.publishing.lock import Lock, record_of
from geozarr_runner.publishing.remote_output import LOG, MANIFEST, ROOT, Output, RemoteOutput
from geozarr_runner.publishing.stac_item import SUFFIX as ITEM
from geozarr_runner.stores.access.concurrency import in_bounds
from geozarr_runner.stores.access.failures import storage_errors
from geozarr_runner.trust import folders
from geozarr_runner.trust.keys import flaw

MANIFEST_VERSION = 1
FOR_LARGE_FILES = Path("/var/tmp")  # noqa: S108  a folder for this user alone is made in it


def scratch_folder(scratch: Path | None) -> Path:
    """Return the folder for intermediate files of a run for an object store; it need not exist yet."""
    if scratch is not None:
        return scratch.absolute()
    given = os.environ.get("TMPDIR")
    base = Path(given) if given else FOR_LARGE_FILES
    if not os.access(base, os.W_OK):
        base = Path(tempfile.gettempdir())
    return base.absolute() / f"geozarr-{os.getuid()}"


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
    return beside(output).read(f"{output.name}{ending}")


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
    output, store, around = space.target, open_store(space.target.address), beside(space.target)
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
        around.remove([f"{output.name}{ITEM}"])
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
            around.write(f"{output.name}{ITEM}", space.item.read_bytes())
        asked_for_root = True  # the root may arrive late, and then all objects that it names have to exist
        root = files[ROOT].read_bytes()
        # The first try may have been written although its answer was lost.
        if store.write(ROOT, root, only_new=True) is None and store.read(ROOT) != root:
            raise space.lock.lost()
        with interruption.naming():  # a signal before this moment takes the root away again
            went(sizes[ROOT])
    except BaseException:
        # If another run has the lock by now, the objects belong to that run. The manifest stays: an object that was
        # being sent may still arrive, and the manifest tells the next run that it may remove the object.
        with suppress(GeozarrError):
            space.lock.confirm()
            store.remove([ROOT])
            if not asked_for_root:
                around.remove([f"{output.name}{ITEM}"])
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
    with storage_errors(path), os.fdopen(folders.create(path), "wb") as file:
        file.write(said or b"")
    return path


def upload_log(output: RemoteOutput, path: Path) -> None:
    """Upload the log beside its output. A failure is ignored: the run itself has reported that the store fails."""
    with suppress(GeozarrError, OSError):
        with os.fdopen(folders.regular(path), "rb") as file:
            beside(output).write(f"{output.name}{LOG}", file.read())
        path.unlink()


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
    with storage_errors(folder):
        if scratch is not None:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            return
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            folders.own(folder)
        except StorageDenied as refused:
            refused.remedy = "name another one: scratch=..."
            raise


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
    found = record_of(read_beside(output, MANIFEST))
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
    beside(output).write(f"{output.name}{MANIFEST}", json.dumps(document).encode())


def _names(found: object) -> set[str]:
    """Return the keys that a manifest names. Anybody may have written it, so its values are checked."""
    return {key for key in found if isinstance(key, str)} if isinstance(found, dict | list) else set()

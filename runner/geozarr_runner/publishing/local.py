"""The output's name: nothing half-written ever carries it.

A run writes into a hidden folder beside the output, `.NAME.partial`, and holds a lock on `.NAME.lock` meanwhile. Only
when the output is verified is it renamed. What a killed run leaves is found by the next run for the same output: the
lock is free, so the folder is nobody's, and it is removed.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import json
import os
import shutil
import stat
import sys
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geozarr_runner import interruption
from geozarr_runner.errors import InvalidRequest, OutputBusy, OutputExists, StorageDenied, StorageFailed
from geozarr_runner.publishing.stac_item import address_of
from geozarr_runner.stores.store import storage_failure
from geozarr_runner.text.printable import printable
from geozarr_runner.text.shell import word
from geozarr_runner.trust import folders
from geozarr_runner.trust.addresses import expanded, local_path, redact
from geozarr_runner.trust.bounds import from_json, largest_document
from geozarr_runner.trust.keys import LONGEST_KEY, LONGEST_PART
from geozarr_runner.trust.tree import FolderTree

PROVENANCE = "geozarr_runner"
RECORD_VERSION = 1
_LONGEST_BESIDE = ".log.jsonl"  # of what lies beside an output
_OF_RUNS = (".partial", ".lock", ".old")  # with a dot before
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


@dataclass(frozen=True, slots=True)
class Workspace:
    """Where one run keeps what is not finished.

    Attributes
    ----------
    output
        The final name.
    writing
        Where the converter writes.
    folder, scratch
        Where everything else lies that is gone at the end.
    staged
        Where the narrowed input lies; what a killed run had fetched is still there.
    """

    output: Path
    folder: Path
    scratch: Path
    staged: Path

    @property
    def writing(self) -> Path:
        """The store that the converter writes."""
        return self.folder / "output.zarr"

    @property
    def item(self) -> Path:
        """Where the output's STAC item is written."""
        return self.folder / "output.stac.json"

    def clear(self) -> None:
        """Remove everything that was staged."""
        with storage_errors(self.scratch):
            _remove(*self.scratch.glob("input-*.zarr"))


def output_path(output: str | os.PathLike[str]) -> Path:
    """Return the absolute path of an output, or say why it cannot be one.

    Raises
    ------
    InvalidRequest
        For an address, an empty name or a folder's own root.
    """
    if not isinstance(output, str | os.PathLike):
        raise InvalidRequest(
            "an output is given as a path", given=repr(output)[:200], remedy='output="out/product.zarr"'
        )
    text = os.fspath(output)
    path = local_path(text) if text.strip() else None
    if path is None:
        raise InvalidRequest(
            "the output has to be a path on this machine, or an address in an object store that fsspec knows"
            if text.strip()
            else "the output has no name",
            given=redact(text),
            remedy="write to a folder, out/product.zarr say, or to a bucket, s3://bucket/product.zarr",
        )
    path = Path(os.path.normpath(path))
    if path.parent == path or path == expanded("~"):
        raise InvalidRequest(
            "this folder cannot be an output", given=text, remedy=f"name one below it: {word(str(path / 'out.zarr'))}"
        )
    if (wrong := _flaw(path)) is not None:
        raise InvalidRequest(
            f"the output cannot have this name: {wrong}",
            given=printable(text)[:200],
            remedy="choose another one, out/product.zarr say",
        )
    return path


def _flaw(path: Path) -> str | None:
    """Return why no output can have a name; None where one can."""
    longest = max(len(os.fsencode(part)) for part in path.parts)
    name, whole = len(os.fsencode(path.name)), len(os.fsencode(path))
    beside = len(_LONGEST_BESIDE)
    if longest > LONGEST_PART or name + beside > LONGEST_PART or whole + beside >= LONGEST_KEY:
        return "it is too long, or what lies beside it would be"
    if any(part.startswith(".") and part.endswith(_OF_RUNS) for part in path.parts):
        return "runs keep under such a name what is not finished, and remove it"
    return None


def inside(path: Path, folder: Path) -> Path:
    """Return an output's path, if it lies below a folder when every link on the way is followed.

    Raises
    ------
    InvalidRequest
    """
    if folder.resolve() not in path.resolve().parents:
        raise InvalidRequest(
            f"the output does not lie below {folder}",
            given=path,
            remedy=f'give a path below {word(str(folder))}: output="out.zarr"',
        )
    return path


@contextmanager
def workspace(output: Path, scratch: Path | None = None, *, staging: str = "input") -> Iterator[Workspace]:
    """Lock an output, remove what a killed run left, and give the run its folders; both are gone at the end.

    Parameters
    ----------
    scratch
        Folder for what is staged; beside the output where none is given.
    staging
        Tells inputs apart: what a killed run fetched for the same one is kept, and need not be fetched again.

    Raises
    ------
    OutputBusy
        Another run holds the lock.
    StorageFailed
        The folder cannot be written.
    """
    folder = output.with_name(f".{output.name}.partial")
    # The name does not change from run to run, so that the next one finds what a killed one left.
    away = folder if scratch is None else _scratch_folder(output, scratch)
    with storage_errors(output.parent):
        output.parent.mkdir(parents=True, exist_ok=True)
        lock = _lock(output)
        if lock is None:
            raise OutputBusy(
                "another run is writing this output", given=output, remedy="wait for it, cancel it, or write elsewhere"
            )
    try:
        with storage_errors(away):
            staged = away / f"{staging}.zarr"
            away.parent.mkdir(parents=True, exist_ok=True)
            for each in {folder, away}:
                folders.own(each)
                folders.empty(each, keep={staged.name} if each == away else ())
            _restore(output)
        yield Workspace(output, folder, away, staged)
    finally:
        try:
            with storage_errors(away):
                folders.discard(folder, away)
        finally:
            _unlock(output, lock)


def publish(space: Workspace, *, overwrite: bool) -> None:
    """Give a verified output its final name, and its item the one beside it; an old one stays until that moment.

    Raises
    ------
    OutputExists
        Something took the name while the run was going, and it is not to be overwritten.
    """
    item = Path(address_of(space.output))
    with storage_errors(space.output):
        _flush(space.writing)
        taken = os.path.lexists(space.output)
        if taken and not (overwrite and is_store(space.output)):
            raise OutputExists(
                "something appeared under this name while the run was going",
                given=space.output,
                remedy='choose another output, or if_exists="overwrite"',
            )
        if taken:
            check_replaceable(space.output)
        with interruption.naming():
            if taken or space.item.exists():
                # A run that is killed now leaves an output without an item, never with another's.
                item.unlink(missing_ok=True)
            if not taken:
                space.writing.rename(space.output)
            elif not _exchange(space.writing, space.output):
                # No atomic exchange here: for a moment the name is free, and a run killed in it is mended by the next.
                space.output.rename(retired(space.output))
                space.writing.rename(space.output)
                _remove(retired(space.output))
            if space.item.exists():
                space.item.replace(item)
            _flush(space.output.parent)


def check_replaceable(output: Path) -> None:
    """See that this account may move an old output aside and remove it, as far as the system says so beforehand.

    Raises
    ------
    StorageDenied
    """
    if output.is_symlink():  # only the link goes
        return
    above, found = output.parent.stat(), output.stat()
    kept = above.st_mode & stat.S_ISVTX and os.geteuid() not in (0, above.st_uid, found.st_uid)
    if kept or not all(os.access(folder, os.W_OK | os.X_OK) for folder, _, _ in os.walk(output)):
        raise StorageDenied(
            "the old output could not be removed by this account, so it is not replaced",
            given=output,
            remedy="write elsewhere, or have whoever it belongs to remove it",
        )


@contextmanager
def claimed(output: Path) -> Iterator[None]:
    """Lock a name in a folder that is there, against runs and everything else that writes it.

    Raises
    ------
    OutputBusy
        Something else holds the lock.
    """
    with storage_errors(output.parent):
        lock = _lock(output)
    if lock is None:
        raise OutputBusy("something else is writing this", given=output, remedy="wait for it, or choose another name")
    try:
        yield
    finally:
        _unlock(output, lock)


def discard_leftovers(output: str | os.PathLike[str], scratch: Path | None = None) -> bool:
    """Remove what a killed run left beside an output and in its scratch folder, never the output itself.

    Parameters
    ----------
        scratch
            The folder for intermediate files that the run was given, if it was.

    Returns
    -------
    bool
        False when a run is at work there: nothing was touched.

    Raises
    ------
    StorageFailed
        And its kinds: what has the name of leftovers is a link, or someone else's; they cannot be removed.
    """
    path = output_path(output)
    if not path.parent.is_dir():
        return True
    with storage_errors(path):
        lock = _lock(path)
        if lock is None:
            return False
        try:
            folders.discard(path.with_name(f".{path.name}.partial"))
            if scratch is not None:
                folders.discard(_scratch_folder(path, scratch))
            _restore(path)
        finally:
            _unlock(path, lock)
    return True


def is_store(path: Path) -> bool:
    """Return whether a folder is a Zarr store."""
    return any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zmetadata"))


def provenance(output: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return the record of how an output was made; None where there is none."""
    return provenance_of(_root_document(output_path(output)))


def provenance_of(root: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the record out of a root's document."""
    attributes = (root or {}).get("attributes")
    record = attributes.get(PROVENANCE) if isinstance(attributes, dict) else None
    return record if isinstance(record, dict) else None


def provenance_in(document: bytes) -> dict[str, Any] | None:
    """Return the record out of a root's document as it is stored; None where it has none, or cannot be read."""
    try:
        root = from_json(document)
    except ValueError:
        return None
    return provenance_of(root if isinstance(root, dict) else None)


def record_provenance(store: Path, record: Mapping[str, Any]) -> None:
    """Write the record into the root's attributes; the consolidated metadata beside them stays as it is."""
    document = store / "zarr.json"
    with storage_errors(document):
        root = json.loads(document.read_bytes())
        root.setdefault("attributes", {})[PROVENANCE] = dict(record)
        _write_json(document, root)


def remove_groups(store: Path, groups: Collection[str]) -> None:
    """Take groups, and parents that hold nothing else, out of a Zarr v3 store and its consolidated metadata."""
    document = store / "zarr.json"
    root = _root_document(store) if groups else None
    if root is None:
        return
    with storage_errors(document):
        nodes = (root.get("consolidated_metadata") or {}).get("metadata", {})
        gone = {path.strip("/") for path in groups}
        nodes = {
            path: node for path, node in nodes.items() if not any(f"{path}/".startswith(f"{one}/") for one in gone)
        }
        for path in sorted(gone):
            _remove(store / path)
            parent = path.rpartition("/")[0]
            while parent and not any(other.startswith(f"{parent}/") for other in nodes):
                nodes.pop(parent, None)
                _remove(store / parent)
                parent = parent.rpartition("/")[0]
        if "consolidated_metadata" in root:
            root["consolidated_metadata"]["metadata"] = nodes
        _write_json(document, root)


def consolidate(store: Path) -> None:
    """Consolidate a Zarr v3 store's metadata, where that was not done and can be: verification sees to the rest."""
    root = _root_document(store)
    if root is not None and not root.get("consolidated_metadata"):
        with storage_errors(store), suppress(ValueError, KeyError, TypeError):
            write_consolidated(store)


def write_consolidated(group: Path) -> None:
    """Write the consolidated metadata of a Zarr v3 group and what lies below it."""
    import zarr

    with warnings.catch_warnings():
        # It says that other readers may not know consolidated metadata; the converter writes it everywhere.
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(str(group), zarr_format=3)


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal to write into ours."""
    try:
        yield
    except OSError as error:
        failure = storage_failure(error, error.filename or path)
        if failure is None:
            failure = StorageFailed(
                f"cannot be written: {error.strerror or error}", given=path, remedy="choose another path"
            )
        raise failure from error


def _root_document(store: Path) -> dict[str, Any] | None:
    """Return the root's document of a Zarr v3 store; None where there is none that can be read."""
    try:
        root = from_json(FolderTree(store).read("zarr.json", largest_document()) or b"")
    except (OSError, ValueError):
        return None
    return root if isinstance(root, dict) else None


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    beside = path.with_name(f"{path.name}.new")
    beside.write_text(json.dumps(document, indent=2), encoding="utf-8")
    beside.replace(path)


def _lock(output: Path) -> int | None:
    """Take the output's lock; None when another process has it."""
    path = output.with_name(f".{output.name}.lock")
    while True:
        descriptor = folders.regular(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError as error:
            # Some network volumes know no locks; there the cluster's mutex keeps runs apart.
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS):
                os.close(descriptor)
                raise
        # The holder before us may have removed the file between our open and our lock.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.lstat()):
                return descriptor
        os.close(descriptor)


def _unlock(output: Path, descriptor: int) -> None:
    with suppress(OSError):  # somebody else's in a sticky folder: it is free all the same
        output.with_name(f".{output.name}.lock").unlink(missing_ok=True)
    with suppress(OSError):  # the volume knows none; a process that was forked meanwhile would keep it
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def retired(output: Path) -> Path:
    """Return the name that an old output has for a moment, where the system cannot swap two names at once."""
    return output.with_name(f".{output.name}.old")


def _restore(output: Path) -> None:
    """Bring back the old output of a run that was killed between its two renames, or remove it."""
    old = retired(output)
    if not os.path.lexists(old):
        return
    if os.path.lexists(output):
        folders.discard(old)
    elif old.is_symlink() or not old.is_dir():
        raise StorageDenied(
            "something that no run has left has the name of an old output; it is neither restored nor removed",
            given=old,
            remedy="see who made it and what it is for; then remove it, or write elsewhere",
        )
    else:
        old.rename(output)


def _remove(*folders: Path) -> None:
    for folder in folders:
        if folder.is_symlink() or folder.is_file():
            folder.unlink()
        elif folder.exists():
            shutil.rmtree(folder)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names at once; False where the system cannot."""
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    return bool(
        libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), ctypes.c_uint(_RENAME_EXCHANGE)) == 0
    )


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _scratch_folder(output: Path, scratch: Path) -> Path:
    digest = hashlib.sha256(str(output).encode()).hexdigest()[:16]
    return scratch / f".{digest}.geozarr-scratch"

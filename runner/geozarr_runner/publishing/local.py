"""Publishes an output on a disk: the output gets its name when it is verified, and never before.

A run writes into a hidden folder beside the output, `.NAME.partial`, and holds a lock on `.NAME.lock`. When the output
is verified, the run renames it. The next run for the same output finds the folder of a killed run: since the lock is
free, no run uses the folder, and it is removed.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from geozarr_runner import interruption
from geozarr_runner.errors import InvalidRequest, OutputBusy, OutputExists, StorageDenied
from geozarr_runner.publishing.stac_item import address_of
from geozarr_runner.stores.access.failures import storage_errors
from geozarr_runner.text.printable import printable
from geozarr_runner.text.shell import word
from geozarr_runner.trust import folders
from geozarr_runner.trust.addresses import expanded, local_path, redact
from geozarr_runner.trust.folders import remove
from geozarr_runner.trust.keys import LONGEST_KEY, LONGEST_PART

_LONGEST_BESIDE = ".log.jsonl"  # the longest ending of a file beside an output
_OF_RUNS = (".partial", ".lock", ".old")  # endings of hidden names that runs use
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


@dataclass(frozen=True, slots=True)
class Workspace:
    """The folders of one run.

    Attributes
    ----------
    output
        The final path of the output.
    writing
        The store that the converter writes.
    folder, scratch
        The folders for everything else; both are removed at the end of the run.
    staged
        The view that the converter reads. Objects that a killed run has downloaded are still in it.
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
        """The file of the output's STAC item, before it is published."""
        return self.folder / "output.stac.json"

    def clear(self) -> None:
        """Remove all views."""
        with storage_errors(self.scratch):
            remove(*self.scratch.glob("input-*.zarr"))


def output_path(output: str | os.PathLike[str]) -> Path:
    """Return the absolute path of an output.

    Raises
    ------
    InvalidRequest
        The output is an address, an empty name, a root or the home folder.
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
    """Return why an output cannot have this path; None if it can."""
    longest = max(len(os.fsencode(part)) for part in path.parts)
    name, whole = len(os.fsencode(path.name)), len(os.fsencode(path))
    beside = len(_LONGEST_BESIDE)
    if longest > LONGEST_PART or name + beside > LONGEST_PART or whole + beside >= LONGEST_KEY:
        return "it is too long, or what lies beside it would be"
    if any(part.startswith(".") and part.endswith(_OF_RUNS) for part in path.parts):
        return "runs keep under such a name what is not finished, and remove it"
    return None


def inside(path: Path, folder: Path) -> Path:
    """Return an output's path if it lies below a folder, with all links followed.

    Raises
    ------
    InvalidRequest
        The path leads out of the folder.
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
    """Lock an output, remove what a killed run left, and make the folders of the run.

    Lock and folders are removed at the end of the block.

    Parameters
    ----------
    scratch
        Folder for the view; None is a folder beside the output.
    staging
        Name of the view. A killed run for the same view has left its downloaded objects there, which are kept.

    Raises
    ------
    OutputBusy
        Another run holds the lock.
    StorageFailed
        The folder cannot be written.
    """
    folder = output.with_name(f".{output.name}.partial")
    # The name is the same in every run, so that a run finds what a killed run left.
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
    """Give a verified output and its STAC item their final names; an older output stays until that moment.

    Raises
    ------
    OutputExists
        Something else took the name during the run, and `overwrite` is false.
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
                # A run that is killed now leaves an output without an item, and never with the item of another output.
                item.unlink(missing_ok=True)
            if not taken:
                space.writing.rename(space.output)
            elif not _exchange(space.writing, space.output):
                # This system cannot swap two names at once. If the run is killed between these renames, the next run
                # for the output brings the old one back.
                space.output.rename(retired(space.output))
                space.writing.rename(space.output)
                remove(retired(space.output))
            if space.item.exists():
                space.item.replace(item)
            _flush(space.output.parent)


def check_replaceable(output: Path) -> None:
    """Check that this account may rename and remove an old output, as far as permissions tell.

    Raises
    ------
    StorageDenied
        It may not.
    OSError
        Nothing may be written in its folder.
    """
    folders.check_writable(output.parent)
    if output.is_symlink():  # only the link is removed
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
    """Lock a name in a folder that exists, so that no run and no download writes it.

    Raises
    ------
    OutputBusy
        A run or a download holds the lock.
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
    """Remove what a killed run left beside an output and in its scratch folder; the output itself stays.

    Parameters
    ----------
        scratch
            The folder for intermediate files of the run; None if it had none.

    Returns
    -------
    bool
        False if a run is writing the output; then nothing was removed.

    Raises
    ------
    StorageFailed
        The leftovers cannot be removed, or their name belongs to a link or to somebody else's folder.
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


def _lock(output: Path) -> int | None:
    """Take the output's lock and return its open file; None if another process has it."""
    path = output.with_name(f".{output.name}.lock")
    while True:
        descriptor = folders.regular(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError as error:
            # Some network volumes have no locks; on a cluster the Workflow's mutex keeps runs apart.
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS):
                os.close(descriptor)
                raise
        # The process that held the lock before may have removed the file between our open and our lock.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.lstat()):
                return descriptor
        os.close(descriptor)


def _unlock(output: Path, descriptor: int) -> None:
    with suppress(OSError):  # somebody else's file in a sticky folder cannot be removed, and is free without that
        output.with_name(f".{output.name}.lock").unlink(missing_ok=True)
    with suppress(OSError):  # a volume without locks; else a forked process would keep the lock
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def retired(output: Path) -> Path:
    """Return the temporary name of an old output, for systems that cannot swap two names at once."""
    return output.with_name(f".{output.name}.old")


def _restore(output: Path) -> None:
    """Bring back the old output of a run that was killed between two renames; remove it if the new one exists."""
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


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names at once; return False if the system cannot."""
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

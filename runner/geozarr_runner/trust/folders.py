"""Folders and files of ours in places that others may write to.

What a run writes beside an output, in scratch space or while it fetches lies under names that anybody can work out.
Where somebody was there first with a link, what it points to would be written, or emptied. So a folder of ours is
opened without following a link, and has to be this user's own; a file of ours is a file.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from geozarr_runner.errors import StorageDenied

APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NONBLOCK, to open a FIFO waits for who writes it.
_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def own(path: Path) -> None:
    """Make a folder for this user alone, or see that what has its name is one.

    Raises
    ------
    StorageDenied
        A link, a file or someone else's folder has its name.
    OSError
        It cannot be made.
    """
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    with _opened(path) as descriptor:
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        if mode & 0o077:
            with suppress(OSError):  # some volumes have one mode for all
                os.fchmod(descriptor, mode & ~0o077 | 0o700)  # what is published keeps the group of where it lies


def check_writable(folder: Path) -> None:
    """Check that this account may make files in a folder, as far as permissions tell.

    Raises
    ------
    OSError
        It may not (EACCES), or nobody may: its file system is mounted read-only (EROFS).
    """
    if not os.access(folder, os.W_OK | os.X_OK):
        number = errno.EROFS if os.statvfs(folder).f_flag & os.ST_RDONLY else errno.EACCES
        raise OSError(number, os.strerror(number), str(folder))


def empty(path: Path, keep: Collection[str] = ()) -> None:
    """Remove what is in a folder of ours, what has these names excepted; what is kept has no links any more.

    Raises
    ------
    StorageDenied
        As `own`.
    """
    with _opened(path) as descriptor:
        for entry in _entries(descriptor):
            kept = entry.name in keep
            if entry.is_dir(follow_symlinks=False):
                _remove_links(entry.name, descriptor) if kept else shutil.rmtree(entry.name, dir_fd=descriptor)
            elif not kept or not entry.is_file(follow_symlinks=False):
                os.unlink(entry.name, dir_fd=descriptor)


def discard(*paths: Path) -> None:
    """Remove folders of ours with all that is in them; those that are not there are no matter.

    Raises
    ------
    StorageDenied
        As `own`.
    """
    for path in paths:
        if os.path.lexists(path):
            empty(path)
            path.rmdir()


def create(path: Path) -> int:
    """Open a new file of ours for writing; what had its name goes, and is not written to."""
    path.unlink(missing_ok=True)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FILE, 0o666)


def append(path: Path) -> int:
    """Open a file for writing at its end; it is made where there is none.

    Raises
    ------
    StorageDenied
        A link or something else that is no file has its name.
    """
    return regular(path, APPEND)


def regular(path: Path, flags: int = os.O_RDONLY, mode: int = 0o666) -> int:
    """Open a file of ours, and nothing else that has its name.

    Raises
    ------
    StorageDenied
        A link or something else that is no file has its name.
    OSError
        It cannot be opened.
    """
    try:
        descriptor = os.open(path, flags | _FILE, mode)
    except OSError:
        if _is_in_the_way(path, stat.S_ISREG):
            _refuse(path, "a file")
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        _refuse(path, "a file")
    return descriptor


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Open a folder of ours, and nothing else that has its name."""
    try:
        descriptor = os.open(path, _FOLDER)
    except OSError:
        if _is_in_the_way(path, stat.S_ISDIR):
            _refuse(path, "a folder")
        raise
    try:
        owner = os.fstat(descriptor).st_uid
        # Some volumes give all files to one user, whoever writes them.
        if owner != os.geteuid() and owner != _owner_in(path.parent):
            raise StorageDenied(
                "this folder is someone else's, and is neither written to nor emptied",
                given=path,
                remedy="write elsewhere, or have whoever it belongs to remove it",
            )
        yield descriptor
    finally:
        os.close(descriptor)


def _owner_in(folder: Path) -> int:
    """Return whose a file is that this process makes in a folder."""
    with tempfile.TemporaryFile(dir=folder) as made:
        return os.fstat(made.fileno()).st_uid


def _is_in_the_way(path: Path, wanted: Callable[[int], bool]) -> bool:
    try:
        return not wanted(path.lstat().st_mode)
    except OSError:
        return False


def _refuse(path: Path, wanted: str) -> NoReturn:
    kind = "a link" if path.is_symlink() else f"something that is not {wanted}"
    raise StorageDenied(
        f"{kind} has the name of {wanted} that is written here; it is neither followed nor removed",
        given=path,
        remedy="see who made it and what it is for; then remove it, or write elsewhere",
    )


def _entries(descriptor: int) -> list[os.DirEntry[str]]:
    with os.scandir(descriptor) as found:
        return list(found)


def _remove_links(name: str, above: int) -> None:
    """Remove everything below a folder that is neither file nor folder."""
    for _, folders, others, descriptor in os.fwalk(name, dir_fd=above):
        for each in (*folders, *others):
            mode = os.stat(each, dir_fd=descriptor, follow_symlinks=False).st_mode
            if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
                os.unlink(each, dir_fd=descriptor)


def remove(*paths: Path) -> None:
    """Remove files, links and folders that this run has made."""
    for folder in paths:
        if folder.is_symlink() or folder.is_file():
            folder.unlink()
        elif folder.exists():
            shutil.rmtree(folder)

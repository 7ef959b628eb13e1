"""A folder that others have made, out of which no key leads.

A link in a product may lead to any file of this machine, whose bytes would be published as pixels; a FIFO never ends.
So what a key names is looked up first, then opened without following a link, and has to be a file.
"""

from __future__ import annotations

import errno
import os
import shlex
import stat
import sys
from collections.abc import Iterator, Sequence
from typing import NoReturn

from geozarr_runner.errors import GeozarrError, ProductBroken
from geozarr_runner.text.printable import printable

# A folder on the way needs no more than to be passed; O_PATH asks for nothing else. Only Linux has it.
_PASS = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NONBLOCK, to open a FIFO waits for who writes it.
_LAST = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class FolderTree:
    """A folder that others have made, out of which no key leads.

    Links inside of it are followed as far as they stay inside.

    Parameters
    ----------
    root
        The folder; itself it may be reached by links.
    refusal
        The error for what leads outside, or is neither file nor folder.
    """

    def __init__(self, root: str | os.PathLike[str], refusal: type[GeozarrError] = ProductBroken) -> None:
        self.root = os.path.realpath(root)
        self._given = root
        self._refusal = refusal
        self._folders: dict[str, str] = {"": self.root}

    def find(self, key: str) -> str | None:
        """Return the path of a file without any link on it; None where there is none of that name.

        Raises
        ------
        GeozarrError
            It leads outside, or is something that is neither file nor folder.
        """
        above, _, name = key.rpartition("/")
        if above not in self._folders:
            self._folders[above] = self._inside(os.path.join(self.root, above), above)  # noqa: PTH118  once a chunk
        path = f"{self._folders[above]}/{name}" if name else self._folders[above]
        try:
            mode = os.lstat(path).st_mode
            if stat.S_ISLNK(mode):
                path = self._inside(path, key)
                mode = os.lstat(path).st_mode
        except (FileNotFoundError, NotADirectoryError, ValueError):  # the last is of what cannot be a name
            return None
        if stat.S_ISREG(mode):
            return path
        if not stat.S_ISDIR(mode):
            self._refuse_special(key)
        return None

    def open(self, key: str) -> int:
        """Open a file for reading.

        Raises
        ------
        FileNotFoundError
        GeozarrError
            As `find`.
        """
        path = self.find(key)
        if path is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), key)
        below = os.path.relpath(path, self.root)
        # What has become a link since it was looked up is not followed.
        descriptor = descend(self.root, below.split("/") if below != "." else [], os.O_RDONLY)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            self._refuse_special(key)
        return descriptor

    def read(self, key: str, most: int = sys.maxsize) -> bytes | None:
        """Return the first bytes of a file, all of them unless `most` says fewer; None where there is none.

        Raises
        ------
        GeozarrError
            As `find`.
        """
        try:
            descriptor = self.open(key)
        except (FileNotFoundError, NotADirectoryError):
            return None
        with os.fdopen(descriptor, "rb") as file:
            # No more than it has, as room for all of it is made first.
            return file.read(min(os.fstat(descriptor).st_size + 1, most))

    def size(self, key: str) -> int | None:
        """Return the size of a file in bytes; None where there is none of that name."""
        path = self.find(key)
        return None if path is None else os.lstat(path).st_size

    def files(self) -> Iterator[tuple[str, int]]:
        """Yield the key and the size of every file below the folder.

        Raises
        ------
        GeozarrError
            As `entries`.
        """
        return ((key, size) for key, size in self.entries() if size is not None)

    def entries(self, *, links: bool = False) -> Iterator[tuple[str, int | None]]:
        """Yield the key of everything below the folder, with the size of what is a file.

        Parameters
        ----------
        links
            Whether links that stay inside are no matter. Where they lead is yielded under its own name only.

        Raises
        ------
        GeozarrError
            Something below it is a link, or neither file nor folder.
        """
        waiting = [""]
        while waiting:
            above = waiting.pop()
            for entry in self._listed(above):
                key = above + entry.name
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(f"{key}/")
                    yield key, None
                elif entry.is_file(follow_symlinks=False):
                    yield key, entry.stat(follow_symlinks=False).st_size
                elif not entry.is_symlink():
                    self._refuse_special(key)
                elif links:
                    self.find(key)
                else:
                    self._refuse_link("this is a link", key)

    def check(self) -> None:
        """See that everything below the folder is a file, a folder, or a link that stays inside.

        Raises
        ------
        GeozarrError
        """
        for _ in self.entries(links=True):
            pass

    def _listed(self, above: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(f"{self.root}/{above}") as found:
                return list(found)
        except OSError as error:
            raise self._refusal(
                f"this cannot be listed: {error.strerror}",
                given=self._shown(above),
                remedy="have it made readable, or remove it",
            ) from error

    def _inside(self, path: str, key: str) -> str:
        resolved = os.path.realpath(path)
        if resolved != self.root and not resolved.startswith(f"{self.root.rstrip('/')}/"):
            self._refuse_link(f"a link leads out of {printable(os.fspath(self._given))}", key)
        return resolved

    def _refuse_link(self, message: str, key: str) -> NoReturn:
        raise self._refusal(
            f"{message}; it is not followed",
            given=self._shown(key),
            remedy="if you trust it, make a copy with files in the places of links, and take that: "
            f"cp -rL {shlex.quote(printable(os.fspath(self._given)))} COPY",
        )

    def _refuse_special(self, key: str) -> NoReturn:
        raise self._refusal(
            "this is neither a file nor a folder; it is not read",
            given=self._shown(key),
            remedy="see who made it and what it is for, and remove it",
        )

    def _shown(self, key: str) -> str:
        return printable(f"{os.fspath(self._given)}/{key}".rstrip("/"))


def descend(root: str, below: Sequence[str], flags: int) -> int:
    """Open what lies below a folder, part by part, and follow no link on the way: nobody can lead it elsewhere."""
    if not below:
        return os.open(root, flags | _LAST)
    descriptor = os.open(root, _PASS)
    for number, part in enumerate(below, 1):
        above = descriptor
        try:
            descriptor = os.open(part, _PASS if number < len(below) else flags | _LAST, dir_fd=above)
        finally:
            os.close(above)
    return descriptor

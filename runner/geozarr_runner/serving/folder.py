"""A folder out of which no path leads, and why a request for a part of it is refused."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import Any

from geozarr_runner.trust.tree import descend


class RequestRefused(Exception):
    """A request that is not answered with what it asked for.

    Attributes
    ----------
    status
        The HTTP status.
    code
        The same for programs: `bad-request`, `unauthorised`, `outside`, `denied`, `not-found`, `is-directory`,
        `not-a-directory`, `no-such-range`, `read-only`, `busy`.
    """

    def __init__(self, status: HTTPStatus, code: str, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers: Mapping[str, str] = headers


class Folder:
    """A folder out of which no path leads.

    Parameters
    ----------
    root
        The folder; itself it may be reached by links.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = os.path.realpath(root)

    @contextmanager
    def opened(self, path: str) -> Iterator[int]:
        """Open a file or a folder by its path below the root, for reading; gives its descriptor.

        Raises
        ------
        RequestRefused
            It is not there, leads outside, may not be read, or is neither file nor folder.
        """
        descriptor = self._open(path)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def entry(self, path: str) -> dict[str, Any]:
        """Describe a file or a folder.

        Raises
        ------
        RequestRefused
            As `opened`.
        """
        with self.opened(path) as descriptor:
            return _entry(path.rstrip("/").rpartition("/")[2], os.fstat(descriptor))

    def entries(self, path: str, descriptor: int) -> Iterator[dict[str, Any]]:
        """Describe what is in an opened folder; what is neither file nor folder, or leads outside, is left out."""
        with os.scandir(descriptor) as found:
            for one in found:
                with suppress(RequestRefused, OSError):  # a link that leads outside; or it is gone meanwhile
                    if one.is_symlink():
                        yield self.entry(f"{path}/{one.name}")
                    else:
                        status = one.stat(follow_symlinks=False)
                        if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
                            yield _entry(one.name, status)

    def _open(self, path: str) -> int:
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if ".." in parts or "\0" in path:
            raise RequestRefused(HTTPStatus.BAD_REQUEST, "outside", "a path goes down from the root only")
        # Where links lead is looked up first. What is opened then is a path without links, part by part, and a part
        # that has become a link meanwhile is refused: so nobody who changes the folder can lead the server out of it.
        resolved = os.path.realpath(os.path.join(self.root, *parts))  # noqa: PTH118  as fast as it gets: each request
        if os.path.commonpath((self.root, resolved)) != self.root:
            raise RequestRefused(HTTPStatus.FORBIDDEN, "outside", "this leads outside of the folder")
        below = [part for part in os.path.relpath(resolved, self.root).split("/") if part != "."]
        try:
            descriptor = descend(self.root, below, os.O_RDONLY)
        except OSError as error:
            raise refusal_of(error) from error
        kind = os.fstat(descriptor).st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
            os.close(descriptor)
            raise RequestRefused(HTTPStatus.FORBIDDEN, "denied", "neither a file nor a folder")
        return descriptor


def _entry(name: str, status: os.stat_result) -> dict[str, Any]:
    is_folder = stat.S_ISDIR(status.st_mode)
    return {
        # A name that is no UTF-8 goes as its bytes came in, and comes back so.
        "name": name,
        "type": "directory" if is_folder else "file",
        "size": 0 if is_folder else status.st_size,
        "modified": status.st_mtime,
    }


def refusal_of(error: OSError) -> RequestRefused:
    """Return what it means for a request that the system refuses a file."""
    if error.errno in (errno.EACCES, errno.EPERM):
        return RequestRefused(HTTPStatus.FORBIDDEN, "denied", "this may not be read")
    if error.errno == errno.ELOOP:
        return RequestRefused(HTTPStatus.FORBIDDEN, "outside", "a link that leads nowhere, or has just been made")
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
        return RequestRefused(HTTPStatus.NOT_FOUND, "not-found", "nothing is there")
    return RequestRefused(HTTPStatus.INTERNAL_SERVER_ERROR, "failed", f"it cannot be read: {error.strerror}")

"""Addresses of files on a claim, `pvc://<claim>/<path>`, and what can be asked of such files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

from geozarr_nb.errors import InvalidRequest

SCHEME = "pvc://"


_CLAIM = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")  # as Kubernetes names things


@dataclass(frozen=True, slots=True)
class Address:
    """A file or a folder of a claim.

    Attributes
    ----------
    path
        Below the claim's root, without a slash at either end; empty for the root itself.
    """

    claim: str
    path: str

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read `pvc://<claim>/<path>`.

        Raises
        ------
        InvalidRequest
            It names no claim, or leads out of it.
        """
        claim, _, path = text.removeprefix(SCHEME).partition("/")
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if not _CLAIM.fullmatch(claim) or ".." in parts or "\0" in text:
            raise InvalidRequest(
                "this is no address of something on a claim", given=text, remedy=f"write {SCHEME}<claim>/<path>"
            )
        return cls(claim, "/".join(parts))

    def __str__(self) -> str:
        return f"{SCHEME}{self.claim}/{self.path}"


@dataclass(frozen=True, slots=True)
class Entry:
    """What there is under a name.

    Attributes
    ----------
    name
        Its last part alone.
    size
        In bytes; 0 for a folder.
    modified
        Seconds since 1970.
    """

    name: str
    is_folder: bool
    size: int
    modified: float


class Files(Protocol):
    """The files of one claim, for reading, by their paths below its root; safe to use from several threads.

    Every call raises FileNotFoundError, IsADirectoryError or NotADirectoryError as the operating system does,
    ProductDenied where something may not be read, and ClusterError where the cluster is in the way.
    """

    def read(self, path: str, start: int = 0, stop: int | None = None) -> bytes:
        """Return the bytes of a file from `start` to before `stop`.

        A negative start counts from the end, with a stop of None only. Bytes that are not there are left out.
        """

    def entry(self, path: str) -> Entry:
        """Describe a file or a folder."""

    def entries(self, path: str) -> list[Entry]:
        """Describe what is in a folder."""

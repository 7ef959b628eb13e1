"""The archive of an output: the file `NAME.tar.gz` beside it, with the checksum in `NAME.tar.gz.sha256`.

The bytes of the archive depend on the output's name and bytes only: entries are sorted by name and have no times,
owners or modes of their own, and the gzip stream has no name and no time. Archives of two runs differ, since the record
in each output holds the times of its run.

The archive is written in the run's folder and gets its name when it is complete. The checksum is published before the
archive and removed after it, so that every visible archive can be checked. The archive is removed before another output
replaces the one that it was made from.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shutil
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from geozarr_runner.errors import InvalidRequest, OutputExists, StorageDenied, StorageFailed, StorageFull
from geozarr_runner.events import Progress, human_bytes
from geozarr_runner.publishing.local import Workspace
from geozarr_runner.publishing.remote_output import Output, is_address
from geozarr_runner.stores.access.failures import storage_errors
from geozarr_runner.trust import folders
from geozarr_runner.trust.keys import LONGEST_PART, flaw
from geozarr_runner.trust.tree import FolderTree

SUFFIX = ".tar.gz"
CHECKSUM_SUFFIX = ".sha256"
# The objects of an output are compressed already: level 1 would save 4 % of 50 MB, and take fifteen times as long.
LEVEL = 0
BLOCK = 1 << 20
LONGEST_LINE = 4096  # largest size of a checksum file that is read
EXECUTOR = Path("/var/run/argo/template")  # Argo's description of this pod for its executor
_LINE = re.compile(r"([0-9a-f]{64})  (.+)\n?")
_PARTS_OF_A_LOCATION = frozenset({"archiveLogs"})  # keys that are set also where there is no repository


@dataclass(frozen=True, slots=True)
class Archive:
    """The archive of an output.

    Attributes
    ----------
    bytes
        Size of the file.
    sha256
        Checksum of the file, in hexadecimal.
    """

    path: Path
    bytes: int
    sha256: str


def archive_path(output: Path) -> Path:
    """Return the name of an output's archive."""
    return output.with_name(output.name + SUFFIX)


def checksum_path(archive: Path) -> Path:
    """Return the name of the file that has an archive's checksum, as `sha256sum --check` reads it."""
    return archive.with_name(archive.name + CHECKSUM_SUFFIX)


def checksum_in(line: str) -> str | None:
    """Return the checksum in the line of a checksum file; None if the line has another form."""
    found = _LINE.fullmatch(line)
    return found[1] if found and "/" not in found[2] and flaw(found[2]) is None else None


def existing(output: Path) -> Archive | None:
    """Return an output's archive; None if there is none, or if it is older than the output.

    An archive of another account counts as none, unless that account also owns the output.
    """
    path = archive_path(output)
    try:
        with os.fdopen(folders.regular(checksum_path(path)), encoding="utf-8", errors="replace") as file:
            sha256, owners = checksum_in(file.read(LONGEST_LINE)), {os.fstat(file.fileno()).st_uid}
        found, root = path.lstat(), (output / "zarr.json").stat()
    except (OSError, StorageDenied):
        return None
    if sha256 is None or not stat.S_ISREG(found.st_mode) or found.st_mtime_ns < root.st_mtime_ns:
        return None
    if not owners | {found.st_uid} <= {root.st_uid, os.geteuid()}:
        return None
    return Archive(path, found.st_size, sha256)


def check_place(output: str) -> None:
    """Refuse an archive of an output in an object store: archives are made from files on a disk.

    Raises
    ------
    InvalidRequest
    """
    if is_address(output):
        raise InvalidRequest(
            "an archive is made of an output that is a folder, and lies beside it; this one is in an object store",
            given=output,
            remedy="leave archive out, or write to a path and copy the archive from there",
        )


def check_name(output: Output, *, if_exists: str) -> None:
    """Refuse an archive whose name cannot be used, or belongs to a file that may not be replaced.

    Raises
    ------
    InvalidRequest, OutputExists
    """
    check_place(str(output))
    path = archive_path(Path(str(output)))
    if len(os.fsencode(checksum_path(path).name)) > LONGEST_PART:
        raise InvalidRequest(
            "the output's name is too long for its archive, and for the file with its checksum",
            given=path.name[:200],
            remedy="choose a shorter name, or leave archive out",
        )
    is_ours = checksum_path(path).is_file()
    if os.path.lexists(path) and if_exists != "overwrite" and not (if_exists == "skip" and is_ours):
        raise OutputExists(
            "something has the name of the output's archive",
            given=path,
            remedy='choose another output, or if_exists="overwrite" (replace it once the new one is verified)',
        )


def discard(output: Path) -> None:
    """Remove an output's archive, if it has one, before another output replaces the output."""
    path = archive_path(output)
    if checksum_path(path).is_file():
        with storage_errors(path):
            path.unlink(missing_ok=True)
            checksum_path(path).unlink(missing_ok=True)


def pack(space: Workspace, progress: Progress) -> Archive:
    """Write the archive of a published output, and give the archive its name.

    Raises
    ------
    StorageFailed
        The archive cannot be written. The output stays.
    """
    path, unfinished = archive_path(space.output), space.folder / "archive.tar.gz"
    with storage_errors(unfinished):
        # Others use the same volume: a file that cannot fit is not begun.
        needed, usage = sum(size for _, size in _tree(space.output).files()), shutil.disk_usage(space.folder)
        if usage.total and usage.free < needed:  # some mounts do not tell their size
            raise StorageFull(
                f"it needs {human_bytes(needed)}, and {human_bytes(usage.free)} are free",
                given=path,
                remedy="make space there",
            )
        with unfinished.open("wb") as file:
            sha256 = write_archive(space.output, file, progress)
            file.flush()
            os.fsync(file.fileno())
        size = unfinished.stat().st_size
        line = unfinished.with_name("archive.sha256")
        line.write_bytes(os.fsencode(f"{sha256}  {path.name}\n"))  # names of files can be bytes that are no text
        line.replace(checksum_path(path))
        unfinished.replace(path)
    return Archive(path, size, sha256)


def write_archive(folder: Path, file: IO[bytes], progress: Progress) -> str:
    """Write a folder as tar.gz, and return the checksum of the written bytes.

    Parameters
    ----------
    progress
        Called with the number of the folder's bytes that have been packed.
    """
    # Only names and sizes are kept, since an output may have hundreds of thousands of objects.
    tree = _tree(folder)
    entries = sorted(_entries(folder.name, tree), key=lambda entry: os.fsencode(entry[0]))
    total = sum(size or 0 for _, size in entries)
    done = 0
    hashed = _Hashed(file)
    with (
        gzip.GzipFile(filename="", mode="wb", compresslevel=LEVEL, fileobj=hashed, mtime=0) as packed,
        tarfile.TarFile(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT, copybufsize=BLOCK) as tar,
    ):
        for name, size in entries:
            if size is None:
                tar.addfile(_header(name, 0, 0o755, tarfile.DIRTYPE))
            else:
                with os.fdopen(tree.open(name.partition("/")[2]), "rb") as content:
                    tar.addfile(_header(name, size, 0o644, tarfile.REGTYPE), content)
                done += size
            tar.members.clear()  # type: ignore[attr-defined]  # a TarFile keeps all of them, for reading
            progress(done, total, "bytes")
    return hashed.digest.hexdigest()


def offer(archive: Archive, place: Path) -> bool:
    """Put a link to the archive where Argo's executor looks for the artifact, if Argo has an artifact repository.

    Without a repository Argo would fail the pod for an artifact that exists, even for an optional one. A link is
    enough: the executor has the same volumes below another root, and follows it there.

    Returns
    -------
    bool
        False if there is no repository.
    """
    if not _has_repository():
        return False
    with storage_errors(place):
        place.unlink(missing_ok=True)
        place.symlink_to(os.path.relpath(archive.path, place.parent))
    return True


def _has_repository() -> bool:
    try:
        location = json.loads(EXECUTOR.read_bytes()).get("archiveLocation")
    except (OSError, ValueError, AttributeError):
        return False
    return isinstance(location, dict) and bool(location.keys() - _PARTS_OF_A_LOCATION)


def _tree(folder: Path) -> FolderTree:
    return FolderTree(folder, StorageFailed)


def _entries(name: str, tree: FolderTree) -> Iterator[tuple[str, int | None]]:
    """Yield the folder and everything in it: names that begin with the folder's, and sizes (None of a folder)."""
    yield name, None
    for key, size in tree.entries():
        yield f"{name}/{key}", size


def _header(name: str, size: int, mode: int, kind: bytes) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.size, header.mode, header.type = size, mode, kind
    return header


class _Hashed:
    """A file that computes the checksum of the bytes written to it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, content: bytes) -> int:
        """Write bytes, and add them to the checksum."""
        self.digest.update(content)
        return self._file.write(content)

    def flush(self) -> None:
        """Flush the file."""
        self._file.flush()

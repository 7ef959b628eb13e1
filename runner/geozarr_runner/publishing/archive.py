"""A finished output as one file beside it, `NAME.tar.gz`, with its checksum in `NAME.tar.gz.sha256`.

The file's bytes are a function of the output's name and bytes: entries in the order of their names, without times,
owners and modes of their own, in a gzip stream without a name and a time. Two runs differ all the same, as an output's
record of how it was made has their times in it.

It is written where everything unfinished lies, and has its name only when it is whole. The checksum is there first and
goes last: whoever sees an archive can check it. It goes before another output takes the place of the one that it is of.
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
from geozarr_runner.publishing.local import Workspace, storage_errors
from geozarr_runner.publishing.object_store import Output, is_address
from geozarr_runner.trust import folders
from geozarr_runner.trust.keys import LONGEST_PART, flaw
from geozarr_runner.trust.tree import FolderTree

SUFFIX = ".tar.gz"
CHECKSUM_SUFFIX = ".sha256"
# An output's objects are compressed already: the first level would save 4 % of 50 MB, and take fifteen times as long.
LEVEL = 0
BLOCK = 1 << 20
LONGEST_LINE = 4096  # of the file that has a checksum
EXECUTOR = Path("/var/run/argo/template")  # what Argo's executor was told of the pod that this runs in
_LINE = re.compile(r"([0-9a-f]{64})  (.+)\n?")
_PARTS_OF_A_LOCATION = frozenset({"archiveLogs"})  # said of a location, without there being one


@dataclass(frozen=True, slots=True)
class Archive:
    """An output as one file.

    Attributes
    ----------
    bytes
        The size of the file.
    sha256
        Its checksum, in hexadecimal.
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
    """Return the checksum out of such a file's line; None where it is no such line."""
    found = _LINE.fullmatch(line)
    return found[1] if found and "/" not in found[2] and flaw(found[2]) is None else None


def existing(output: Path) -> Archive | None:
    """Return an output's archive; None where there is none, or one of an output that had this name before.

    Nor is it one that somebody else has put there: it belongs to whoever the output does, or to this account.
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
    """Refuse an archive of an output in an object store: it lies beside its output, and is made from files.

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
    """Refuse to write an archive where there can be none, or something has its name that is not to be replaced.

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
    """Remove an output's archive, if it has one: another output is about to take its place."""
    path = archive_path(output)
    if checksum_path(path).is_file():
        with storage_errors(path):
            path.unlink(missing_ok=True)
            checksum_path(path).unlink(missing_ok=True)


def pack(space: Workspace, progress: Progress) -> Archive:
    """Write the archive of a published output, and give it its name.

    Raises
    ------
    StorageFailed
        And its kinds. The output itself stays.
    """
    path, unfinished = archive_path(space.output), space.folder / "archive.tar.gz"
    with storage_errors(unfinished):
        # Others write to the same volume: it is not filled up in vain.
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
    """Write a folder as tar.gz; returns the checksum of what was written.

    Parameters
    ----------
    progress
        Told how many of the folder's bytes are in it.
    """
    # Names and sizes alone: an output may have hundreds of thousands of objects.
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
            tar.members.clear()  # type: ignore[attr-defined]  # it remembers all of them, for those who read
            progress(done, total, "bytes")
    return hashed.digest.hexdigest()


def offer(archive: Archive, place: Path) -> bool:
    """Have Argo's executor find an archive where a template's artifact is, if it has a repository to put it into.

    Without one it would fail the pod for an artifact that is there, also for an optional one. The file is not copied:
    it is a link, which leads there for the executor too, as that has the same volumes below another root.

    Returns
    -------
    bool
        False where there is no repository.
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
    """Yield what is in a folder, itself included: names that begin with its own, and the sizes of files."""
    yield name, None
    for key, size in tree.entries():
        yield f"{name}/{key}", size


def _header(name: str, size: int, mode: int, kind: bytes) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.size, header.mode, header.type = size, mode, kind
    return header


class _Hashed:
    """A file that knows the checksum of what was written to it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, content: bytes) -> int:
        """Write."""
        self.digest.update(content)
        return self._file.write(content)

    def flush(self) -> None:
        """Flush."""
        self._file.flush()

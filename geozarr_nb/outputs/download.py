"""Brings a job's output, or its archive, to this machine.

What is fetched lies in `.NAME.partial` beside its final name until it is complete and checked; a fetch that broke off
goes on there: what has its size already is not fetched again, and what has a part of it gets the rest. An output is
known by its root's document, which says when it was made, and an archive by its checksum: parts of another one are
never mixed in.

Bytes come as everything else does, see `geozarr_runner.stores.store`: from a folder, an object store, or a cluster's
claim, which needs no mount.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from math import ceil, prod
from pathlib import Path
from typing import TYPE_CHECKING

from geozarr_nb.errors import ArchiveMissing, DownloadBroken, GeozarrError, InvalidRequest, OutputExists, StorageFull
from geozarr_nb.outputs.fetching import (
    AGAIN,
    ROOT,
    Told,
    append,
    blocks_ahead,
    blocks_of,
    listing,
    size_and_time,
    workers,
)
from geozarr_nb.outputs.location import location
from geozarr_runner.events import human_bytes
from geozarr_runner.publishing.archive import CHECKSUM_SUFFIX, SUFFIX, checksum_in, existing
from geozarr_runner.publishing.local import Workspace, claimed, is_store, publish
from geozarr_runner.stores.access.failures import storage_errors
from geozarr_runner.stores.store import Store
from geozarr_runner.text.shell import word
from geozarr_runner.trust import folders
from geozarr_runner.trust.addresses import local_path, redact
from geozarr_runner.trust.keys import folds, inside, refuse_clashes
from geozarr_runner.trust.tree import FolderTree

if TYPE_CHECKING:
    from geozarr_nb.outputs.location import FinishedJob

KEPT = "what has arrived is kept: the same call goes on from there"


def download(
    job: FinishedJob,
    path: str | os.PathLike[str],
    *,
    archive: bool | None = None,
    progress: bool = True,
    overwrite: bool = False,
) -> Path:
    """Fetch the output or the archive of a job that has succeeded; see `Job.download`."""
    target = _target(path)
    if archive is None:
        archive = target.name.endswith((SUFFIX, ".tgz"))
    url = location(job)
    _refuse_within(target, url)
    _refuse_existing(target, url, archive=archive, overwrite=overwrite)
    with storage_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
    with claimed(target), _kept():
        wanted: _Wanted = _Archive(url) if archive else _Output(url)
        parts = target.with_name(f".{target.name}.partial")
        arriving = parts / wanted.name
        with storage_errors(parts):
            folders.own(parts)
            folders.empty(parts, keep={arriving.name})
            _look_at_space(parts, wanted.total - wanted.arrived(arriving))
        with _shown(wanted, arriving, progress) as told, storage_errors(parts):
            wanted.fetch(arriving, told)
            wanted.check(arriving)
            wanted.publish(arriving, target, overwrite=overwrite)
            folders.discard(parts)
    return target


class _Wanted(ABC):
    """What is fetched.

    Attributes
    ----------
    name
        Tells it from others; parts of it lie under this name until it is complete.
    total
        Its size in bytes.
    """

    name: str
    total: int

    @abstractmethod
    def arrived(self, arriving: Path) -> int:
        """Return how many of its bytes are there already."""

    @abstractmethod
    def fetch(self, arriving: Path, told: Told) -> None:
        """Fetch what is not there yet."""

    @abstractmethod
    def check(self, arriving: Path) -> None:
        """Raise DownloadBroken where it is not what it should be."""

    @abstractmethod
    def publish(self, arriving: Path, target: Path, *, overwrite: bool) -> None:
        """Give it its final name."""


class _Output(_Wanted):
    """An output: a folder of many files."""

    def __init__(self, url: str) -> None:
        self._store = Store(url)
        root = self._store.read(ROOT)
        if root is None:
            raise InvalidRequest(
                "the output of this job is no longer there", given=redact(url), remedy="submit the same once more"
            )
        self._root = root
        self.name = f"output-{hashlib.sha256(root).hexdigest()[:16]}"
        self._sizes = listing(self._store)
        self.total = sum(self._sizes.values())

    def arrived(self, arriving: Path) -> int:
        return sum(min(size, _size(inside(arriving, key))) for key, size in self._sizes.items())

    def fetch(self, arriving: Path, told: Told) -> None:
        refuse_clashes(self._sizes, folded=folds(arriving.parent))

        def one(key: str) -> None:
            append(inside(arriving, key), self._sizes[key], partial(blocks_of, self._store, key), told)

        with workers() as pool:
            for _ in pool.map(one, self._sizes):
                pass  # the first failure is raised

    def check(self, arriving: Path) -> None:
        there = dict(FolderTree(arriving, DownloadBroken).files())
        if there != self._sizes:
            wrong = sorted(name for name, _ in there.items() ^ self._sizes.items())
            raise DownloadBroken("a file has not the size that it should have", given=wrong[0], remedy=AGAIN)
        if self._store.read(ROOT) != self._root:
            raise DownloadBroken(
                "another output took this one's place while it was fetched", given=self._store.url, remedy=AGAIN
            )
        _check_chunks(arriving)

    def publish(self, arriving: Path, target: Path, *, overwrite: bool) -> None:
        space = Workspace(target, arriving.parent, arriving.parent, arriving)
        arriving.rename(space.writing)
        publish(space, overwrite=overwrite)


class _Archive(_Wanted):
    """An output's archive: one file."""

    def __init__(self, url: str) -> None:
        _refuse_links(f"{url}{SUFFIX}", f"{url}{SUFFIX}{CHECKSUM_SUFFIX}")
        self._store = Store(f"{url}{SUFFIX}")
        line = Store(f"{url}{SUFFIX}{CHECKSUM_SUFFIX}").read("")
        sha256 = checksum_in(line.decode(errors="replace")) if line is not None else None
        size, packed = size_and_time(self._store) or (0, 0.0)
        _, made = size_and_time(Store(f"{url}/{ROOT}")) or (0, 0.0)
        # One that is older is of another output, which had this name before: see `geozarr_runner.publishing.archive`.
        local = local_path(url)
        if sha256 is None or packed == 0 or packed < made or (local is not None and existing(local) is None):
            raise ArchiveMissing(
                "this job's output has no archive",
                given=redact(f"{url}{SUFFIX}"),
                remedy="fetch the folder: archive=False; or have it packed: the request of the job once more, with "
                'archive=True and if_exists="skip"',
            )
        self._sha256 = sha256
        self.name = f"archive-{sha256[:16]}"
        self.total = size

    def arrived(self, arriving: Path) -> int:
        return min(self.total, _size(arriving))

    def fetch(self, arriving: Path, told: Told) -> None:
        with workers() as pool:
            append(arriving, self.total, partial(blocks_ahead, pool, self._store), told)

    def check(self, arriving: Path) -> None:
        with arriving.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != self._sha256:
            arriving.unlink()
            raise DownloadBroken(
                "the archive that arrived is not the one that was made: its SHA-256 is another",
                given=f"{redact(self._store.url)}: {found} in place of {self._sha256}",
                remedy=AGAIN,
            )

    def publish(self, arriving: Path, target: Path, *, overwrite: bool) -> None:
        with arriving.open("rb") as file:
            os.fsync(file.fileno())
        _refuse_existing(target, self._store.url, archive=True, overwrite=overwrite)
        arriving.replace(target)


def _target(path: str | os.PathLike[str]) -> Path:
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else ""
    target = local_path(text) if text.strip() else None
    if target is None or target.parent == target:
        raise InvalidRequest(
            "this is no path on this machine that something can be fetched to",
            given=redact(text) or repr(path)[:200],
            remedy='give a path: "out/product.zarr"',
        )
    return Path(os.path.normpath(target))


def _refuse_within(target: Path, url: str) -> None:
    source = local_path(url)
    if source is not None and (target == source or source in target.parents or target in source.parents):
        raise InvalidRequest(
            "this is the output itself, or one lies in the other",
            given=target,
            remedy="choose a path beside it; or use the output where it is",
        )


def _refuse_links(*urls: str) -> None:
    for url in urls:
        if (path := local_path(url)) is not None and path.is_symlink():
            raise DownloadBroken(
                "an archive is a file, and this is a link; it is not followed",
                given=path,
                remedy="fetch the folder: archive=False; or see who made the link, and what it is for",
            )


def _refuse_existing(target: Path, url: str, *, archive: bool, overwrite: bool) -> None:
    if not os.path.lexists(target):
        return
    name = url.rstrip("/").rpartition("/")[2].removesuffix(SUFFIX) + (SUFFIX if archive else "")
    replaceable = target.is_file() and not target.is_symlink() if archive else is_store(target)
    if not replaceable:
        kind = "a file" if archive else "a Zarr store"
        raise OutputExists(
            f"something that is not {kind} has this name; it will not be touched",
            given=target,
            remedy=f"choose another name, {word(str(target / name))} say" if target.is_dir() else "choose another name",
        )
    if not overwrite:
        raise OutputExists(
            "there is something of this name", given=target, remedy="choose another name, or overwrite=True"
        )


def _look_at_space(folder: Path, needed: int) -> None:
    usage = shutil.disk_usage(folder)
    if usage.total and usage.free < needed:  # some mounts do not tell their size
        raise StorageFull(
            f"{human_bytes(needed)} are to be fetched, and {human_bytes(usage.free)} are free",
            given=folder.parent,
            remedy="make space there, or choose another folder",
        )


@contextmanager
def _kept() -> Iterator[None]:
    """Add to what ended a fetch that it can go on."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        interrupt.add_note(f"The download was interrupted; {KEPT}.")
        raise
    except GeozarrError as error:
        if error.retryable or isinstance(error, StorageFull):
            error.remedy = f"{error.remedy}; {KEPT}"
        raise


@contextmanager
def _shown(wanted: _Wanted, arriving: Path, progress: bool) -> Iterator[Told]:
    if not progress:
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task("download", total=wanted.total, completed=wanted.arrived(arriving))
        yield partial(bars.advance, task)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return 0


def _check_chunks(folder: Path) -> None:
    """Open a store, and see that each of its arrays is there and has no more objects than chunks."""
    import zarr
    from zarr.errors import BaseZarrError

    try:
        nodes = dict(zarr.open_group(folder, mode="r").members(max_depth=None))
    except (BaseZarrError, ValueError, KeyError, TypeError) as error:
        raise DownloadBroken(f"it cannot be opened: {error}", given=folder, remedy=AGAIN) from error
    for name, node in nodes.items():
        metadata = folder / name / ROOT
        if not metadata.is_file():
            raise DownloadBroken("a group or an array of it is missing", given=metadata, remedy=AGAIN)
        if isinstance(node, zarr.Array):
            objects = sum(entry.is_file() and entry != metadata for entry in (folder / name).rglob("*"))
            chunks = prod(ceil(size / step) for size, step in zip(node.shape, node.shards or node.chunks, strict=True))
            if objects > chunks:
                message = f"an array has {objects} objects, and {chunks} chunks"
                raise DownloadBroken(message, given=folder / name, remedy=AGAIN)

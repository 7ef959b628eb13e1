"""A result on this machine: complete, checked, under its name only then; what broke off goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pytest
import xarray as xr

import geozarr_nb as gz
from geozarr_nb.cli import main
from geozarr_nb.errors import (
    ArchiveMissing,
    ConversionFailed,
    DownloadBroken,
    GeozarrError,
    InvalidRequest,
    OutputBusy,
    OutputExists,
    ProductUnreachable,
    StorageFull,
)
from geozarr_nb.jobs.job import Job
from geozarr_nb.outputs import download as module
from geozarr_nb.outputs import fetching
from geozarr_nb.outputs.download import download
from geozarr_runner.events import human_bytes
from geozarr_runner.publishing.archive import CHECKSUM_SUFFIX, SUFFIX
from geozarr_runner.publishing.local import claimed
from geozarr_runner.trust.bounds import LARGEST_DOCUMENT
from tests.s3_server import s3_server

GROUP = "/measurements/reflectance/r60m"
KINDS = ["folder", "archive"]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@pytest.fixture(scope="module")
def converted(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    """A job of this machine that has packed its output; nobody changes what it left."""
    folder = tmp_path_factory.mktemp("converted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GEOZARR_STATE_DIR", str(folder / "state"))
        yield gz.convert(sample, folder / "made.zarr", groups=[GROUP], archive=True, progress=False)


@pytest.fixture
def made(converted: Job) -> Path:
    return Path(converted.output)


@dataclass
class Distant:
    """The same at an address, as a job that somebody else has run.

    Attributes
    ----------
    read
        What was read of its files: name, first byte, and one beyond the last.
    fault
        Called before each read.
    """

    job: Any
    root: str
    read: list[tuple[str, int | None, int | None]]
    fault: Callable[[str], None]
    filesystem: Any

    def bytes_of(self, name: str) -> int:
        """Return how many bytes were read of the files with this in their names."""
        return sum((stop or 0) - (start or 0) for key, start, stop in self.read if name in key)


@pytest.fixture
def distant(made: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Distant]:
    filesystem = fsspec.filesystem("memory")
    filesystem.put(str(made), "/bucket/made.zarr", recursive=True)
    for suffix in (SUFFIX, SUFFIX + CHECKSUM_SUFFIX):
        filesystem.put(f"{made}{suffix}", f"/bucket/made.zarr{suffix}")
    job = SimpleNamespace(name="job-1", status="Succeeded", output="memory://bucket/made.zarr", reason="")
    found = Distant(job, "/bucket/made.zarr", [], lambda _: None, filesystem)
    cat = type(filesystem).cat_file

    def spy(self: Any, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        found.fault(path)
        content = bytes(cat(self, path, start, end, **options))
        if end not in (None, LARGEST_DOCUMENT + 1):  # the last is of documents
            found.read.append((path, start, end))
        return content

    monkeypatch.setattr(type(filesystem), "cat_file", spy)
    yield found
    filesystem.rm("/bucket", recursive=True)


def target_of(kind: str, folder: Path) -> Path:
    return folder / ("got.zarr" if kind == "folder" else "got.tar.gz")


def same(kind: str, target: Path, made: Path) -> bool:
    if kind == "archive":
        return target.read_bytes() == Path(f"{made}{SUFFIX}").read_bytes()
    return files(target) == files(made)


# --- what there is in the end ----------------------------------------------------------------------------------------


def test_of_this_machine(converted: Job, made: Path, tmp_path: Path) -> None:
    assert converted.download(tmp_path / "below" / "got.zarr", progress=False) == tmp_path / "below" / "got.zarr"
    assert converted.download(str(tmp_path / "got.tar.gz"), progress=False) == tmp_path / "got.tar.gz"
    assert files(tmp_path / "below" / "got.zarr") == files(made)
    xr.testing.assert_identical(gz.open(tmp_path / "below" / "got.zarr").load(), converted.open().load())
    assert hashlib.sha256((tmp_path / "got.tar.gz").read_bytes()).hexdigest() == converted.result["archive"]["sha256"]  # type: ignore[index]
    with tarfile.open(tmp_path / "got.tar.gz") as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    assert files(tmp_path / "unpacked" / "made.zarr") == files(made)
    assert names(tmp_path / "below") == ["got.zarr"]


@pytest.mark.parametrize("kind", KINDS)
def test_from_afar(distant: Distant, made: Path, tmp_path: Path, kind: str) -> None:
    target = target_of(kind, tmp_path)
    assert download(distant.job, target, progress=False) == target
    assert same(kind, target, made)
    assert names(tmp_path) == [target.name]
    size = sum(map(len, files(made).values())) if kind == "folder" else target.stat().st_size
    assert distant.bytes_of("") == size, "each byte once"


@pytest.mark.parametrize("kind", KINDS)
def test_from_an_object_store(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    with s3_server() as options:
        monkeypatch.setitem(fsspec.config.conf, "s3", options)
        store = fsspec.filesystem("s3", **options)
        store.mkdir("bucket")
        store.put(str(made), "bucket/a/made.zarr", recursive=True)
        for suffix in (SUFFIX, SUFFIX + CHECKSUM_SUFFIX):
            store.put(f"{made}{suffix}", f"bucket/a/made.zarr{suffix}")
        monkeypatch.setattr(fetching, "BLOCK", 100_000)
        job: Any = SimpleNamespace(name="j", status="Succeeded", output="s3://bucket/a/made.zarr", reason="")
        target = download(job, target_of(kind, tmp_path), progress=False)
    assert same(kind, target, made)


@pytest.mark.parametrize(
    ("path", "archive", "is_file"),
    [
        ("a.tar.gz", None, True),
        ("a.tgz", None, True),
        ("a", None, False),
        ("a", True, True),
        ("a.tar.gz", False, False),
    ],
)
def test_the_paths_end_says_which(
    converted: Job, tmp_path: Path, path: str, archive: bool | None, is_file: bool
) -> None:
    assert converted.download(tmp_path / path, archive=archive, progress=False).is_file() is is_file


def test_how_far_it_is_is_shown(converted: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    converted.download(tmp_path / "got.zarr")
    assert "download" in (said := capsys.readouterr().err)
    assert "/s" in said
    converted.download(tmp_path / "got2.zarr", progress=False)
    assert capsys.readouterr() == ("", "")


def test_in_a_shell(
    converted: Job, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEOZARR_STATE_DIR", str(made.parent / "state"))
    assert main(["download", converted.name, str(tmp_path / "a.tar.gz")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'a.tar.gz'}\n"
    assert main(["download", converted.name, str(tmp_path / "a.tar.gz")]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main(["download", converted.name, str(tmp_path / "a.tar.gz"), "--overwrite", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"job": converted.name, "path": str(tmp_path / "a.tar.gz")}
    assert main(["download", converted.name, str(tmp_path / "a"), "--archive"]) == 0
    assert (tmp_path / "a").is_file()
    assert main(["download", converted.name, str(tmp_path / "b.tgz"), "--archive", "false"]) == 0
    assert (tmp_path / "b.tgz").is_dir()


# --- broken off, and gone on with ------------------------------------------------------------------------------------


def broken_after(count: int, distant: Distant) -> Callable[[str], None]:
    def fault(path: str) -> None:
        if len(distant.read) >= count:
            raise PermissionError(path)  # what is not tried again

    return fault


@pytest.mark.parametrize("kind", KINDS)
def test_it_goes_on_where_it_broke_off(
    distant: Distant, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(fetching, "WORKERS", 2)
    monkeypatch.setattr(fetching, "BLOCK", 50_000)
    target = target_of(kind, tmp_path)
    distant.fault = broken_after(5, distant)
    with pytest.raises(GeozarrError):
        download(distant.job, target, progress=False)
    assert names(tmp_path) == [f".{target.name}.partial"]
    before = len(distant.read)
    distant.fault = lambda _: None
    download(distant.job, target, progress=False)
    assert same(kind, target, made)
    assert names(tmp_path) == [target.name]
    first, second = set(distant.read[:before]), set(distant.read[before:])
    # What was on its way when it broke off may come again; nothing that was written does.
    assert len(first & second) <= (2 if kind == "folder" else fetching.BLOCKS_AHEAD)
    size = sum(map(len, files(made).values())) if kind == "folder" else target.stat().st_size
    assert distant.bytes_of("") <= size + fetching.BLOCKS_AHEAD * fetching.BLOCK


SLOWLY = """
import itertools, sys, time
import geozarr_nb as gz
from geozarr_nb.outputs import fetching
read, number = fetching._read, itertools.count()
def slow(store, key, start, stop):
    time.sleep(0.01 if next(number) < 8 else 2)  # some come soon, and the rest not before this is ended
    return read(store, key, start, stop)
fetching._read, fetching.BLOCK, fetching.WORKERS = slow, 30_000, 2
print("begins", flush=True)
gz.get_job(sys.argv[1]).download(sys.argv[2], progress=False)
"""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_process_that_is_ended_leaves_what_it_had(
    converted: Job, made: Path, tmp_path: Path, kind: str, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = target_of(kind, tmp_path)
    parts = tmp_path / f".{target.name}.partial"
    environ = {**os.environ, "GEOZARR_STATE_DIR": str(made.parent / "state")}
    with subprocess.Popen(
        [sys.executable, "-c", SLOWLY, converted.name, str(target)], env=environ, stderr=subprocess.PIPE, text=True
    ) as process:
        arrived = until(lambda: sum(path.stat().st_size for path in parts.rglob("*") if path.is_file()) > 60_000)
        assert arrived
        process.send_signal(number)
        _, said = process.communicate()
    assert process.returncode != 0
    assert number == signal.SIGKILL or module.KEPT in said
    assert not target.exists()
    kept = sum(path.stat().st_size for path in parts.rglob("*") if path.is_file())
    read = fetching._read
    again: list[int] = []

    def counted(store: Any, key: str, start: int, stop: int) -> bytes:
        again.append(stop - start)
        return read(store, key, start, stop)

    monkeypatch.setattr(fetching, "_read", counted)
    converted.download(target, progress=False)
    assert same(kind, target, made)
    size = sum(map(len, files(made).values())) if kind == "folder" else target.stat().st_size
    assert kept > 0
    assert sum(again) == size - kept


def until[T](condition: Callable[[], T]) -> T:
    for _ in range(20_000):
        if value := condition():
            return value
        threading.Event().wait(0.01)
    raise AssertionError("it did not happen")


def test_parts_of_another_output_are_never_mixed_in(
    distant: Distant, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "WORKERS", 1)
    distant.fault = broken_after(5, distant)
    with pytest.raises(GeozarrError):
        download(distant.job, tmp_path / "got.zarr", progress=False)
    distant.fault = lambda _: None
    document = json.loads((made / "zarr.json").read_bytes())
    document["attributes"]["geozarr_runner"]["finished"] = "2030-01-01T00:00:00+00:00"
    distant.filesystem.pipe(f"{distant.root}/zarr.json", json.dumps(document).encode())
    distant.read.clear()
    download(distant.job, tmp_path / "got.zarr", progress=False)
    assert distant.bytes_of("") == sum(map(len, files(tmp_path / "got.zarr").values()))
    assert gz.open(tmp_path / "got.zarr").attrs["geozarr_runner"]["finished"].startswith("2030")


def test_an_output_that_is_replaced_meanwhile_is_told(distant: Distant, made: Path, tmp_path: Path) -> None:
    changed = json.loads((made / "zarr.json").read_bytes())
    changed["attributes"]["geozarr_runner"]["finished"] = "2030-01-01T00:00:00+00:00"

    def fault(path: str) -> None:
        if len(distant.read) == 5:
            distant.filesystem.pipe(f"{distant.root}/zarr.json", json.dumps(changed).encode())

    distant.fault = fault
    with pytest.raises(DownloadBroken) as caught:
        download(distant.job, tmp_path / "got.zarr", progress=False)
    assert caught.value.retryable
    assert not (tmp_path / "got.zarr").exists()


# --- what is in the way ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_what_has_the_name_stays(converted: Job, made: Path, tmp_path: Path, kind: str) -> None:
    target = target_of(kind, tmp_path)
    target.mkdir()
    (target / "mine").write_text("x")
    for overwrite in (False, True):
        with pytest.raises(OutputExists, match="will not be touched") as caught:
            converted.download(target, progress=False, overwrite=overwrite)
        assert str(target / made.name) in caught.value.remedy
    assert names(target) == ["mine"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_may_be_replaced_is_when_the_new_one_is_there(
    distant: Distant, converted: Job, made: Path, tmp_path: Path, kind: str
) -> None:
    target = converted.download(target_of(kind, tmp_path), progress=False)
    with pytest.raises(OutputExists, match="overwrite=True"):
        download(distant.job, target, progress=False)
    before = target.stat().st_ino
    distant.fault = broken_after(0, distant)
    with pytest.raises(GeozarrError):
        download(distant.job, target, progress=False, overwrite=True)
    assert target.stat().st_ino == before
    distant.fault = lambda _: None
    download(distant.job, target, progress=False, overwrite=True)
    assert target.stat().st_ino != before
    assert same(kind, target, made)
    assert names(tmp_path) == [target.name]


@pytest.mark.parametrize("path", ["", " ", "s3://bucket/a.zarr", "/"])
def test_a_path_that_is_none(converted: Job, path: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        converted.download(path, progress=False)
    assert caught.value.remedy


@pytest.mark.parametrize("where", [".", "below", ".."])
def test_the_output_itself_is_not_fetched_into(converted: Job, made: Path, where: str) -> None:
    before = files(made)
    with pytest.raises(InvalidRequest, match="the output itself"):
        converted.download(made / where, progress=False, overwrite=True)
    assert files(made) == before


def test_two_at_once_are_kept_apart(converted: Job, tmp_path: Path) -> None:
    with claimed(tmp_path / "got.zarr"), pytest.raises(OutputBusy):
        converted.download(tmp_path / "got.zarr", progress=False)
    assert names(tmp_path) == []


def test_a_disk_with_too_little_space(converted: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(total=10_000, free=1000))
    with pytest.raises(StorageFull, match="are free") as caught:
        converted.download(tmp_path / "got.zarr", progress=False)
    assert human_bytes(1000) in caught.value.message


FULL = """
import resource, signal, sys
import geozarr_nb as gz
job = gz.get_job(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    job.download(sys.argv[2], progress=False)
except gz.GeozarrError as error:
    print(error.code, error.remedy)
"""


def test_a_disk_that_becomes_full(converted: Job, made: Path, tmp_path: Path) -> None:
    # A limit on the size of files stands for the full disk, as it needs no privilege.
    environ = {**os.environ, "GEOZARR_STATE_DIR": str(made.parent / "state")}
    command = [sys.executable, "-c", FULL, converted.name, str(tmp_path / "a.tar.gz")]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("storage-full ")
    assert module.KEPT in done.stdout
    assert names(tmp_path) == [".a.tar.gz.partial"]
    converted.download(tmp_path / "a.tar.gz", progress=False)
    assert names(tmp_path) == ["a.tar.gz"]


def test_a_job_that_has_no_result(sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOZARR_STATE_DIR", str(tmp_path / "state"))
    job = gz.submit(sample, tmp_path / "out.zarr", groups=[GROUP])
    with pytest.raises(InvalidRequest, match=r"(?s)there is no output to open.*\.wait\(\)"):
        job.download(tmp_path / "got.zarr", progress=False)
    job.cancel()
    with pytest.raises(ConversionFailed):
        job.download(tmp_path / "got.zarr", progress=False)
    assert not (tmp_path / "got.zarr").exists()


def test_an_archive_that_failed_is_made_by_a_retry(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEOZARR_STATE_DIR", str(tmp_path / "state"))
    in_the_way = tmp_path / "out.zarr.tar.gz"
    job = gz.submit(sample, tmp_path / "out.zarr", groups=[GROUP], archive=True)
    until(lambda: job.stage == "convert")
    in_the_way.mkdir()
    state = job.wait(timeout=600).state
    assert (state.status, state.stage) == ("Failed", "archive")
    assert state.failure is not None
    assert (state.failure.code, "the output is there and verified" in state.reason) == ("storage-failed", True)
    before = (tmp_path / "out.zarr").stat().st_ino
    in_the_way.rmdir()
    again = job.retry().wait(timeout=600).raise_for_status().result
    assert again is not None
    assert again["skipped"]
    assert again["archive"]["bytes"] == in_the_way.stat().st_size
    assert (tmp_path / "out.zarr").stat().st_ino == before


def test_an_output_that_was_not_packed(sample: Path, made: Path, tmp_path: Path, distant: Distant) -> None:
    distant.filesystem.rm(f"{distant.root}{SUFFIX}")
    with pytest.raises(ArchiveMissing, match=r"(?s)archive=False.*archive=True") as caught:
        download(distant.job, tmp_path / "got.tar.gz", progress=False)
    assert caught.value.code == "archive-missing"
    assert names(tmp_path) == []


def test_an_archive_of_the_output_that_had_this_name_before(converted: Job, made: Path, tmp_path: Path) -> None:
    root = made / "zarr.json"
    times = (root.stat().st_atime, root.stat().st_mtime)
    os.utime(root, (0, Path(f"{made}{SUFFIX}").stat().st_mtime + 1))
    try:
        with pytest.raises(ArchiveMissing):
            converted.download(tmp_path / "got.tar.gz", progress=False)
    finally:
        os.utime(root, times)
    assert names(tmp_path) == []


def test_what_lies_beside_the_target_stays(converted: Job, tmp_path: Path) -> None:
    converted.item().save_object(dest_href=str(tmp_path / "got.zarr.stac.json"))
    converted.download(tmp_path / "got.zarr", progress=False)
    assert names(tmp_path) == ["got.zarr", "got.zarr.stac.json"]


def test_an_output_that_is_gone(distant: Distant, tmp_path: Path) -> None:
    distant.filesystem.rm(distant.root, recursive=True)
    with pytest.raises(InvalidRequest, match="no longer there"):
        download(distant.job, tmp_path / "got.zarr", progress=False)


# --- what came is not what was made ----------------------------------------------------------------------------------


def test_an_archive_that_is_another_is_told_and_not_kept(distant: Distant, made: Path, tmp_path: Path) -> None:
    path = f"{distant.root}{SUFFIX}"
    right = Path(f"{made}{SUFFIX}").read_bytes()
    distant.filesystem.pipe(path, right[:-1] + bytes([right[-1] ^ 1]))
    with pytest.raises(DownloadBroken, match="SHA-256") as caught:
        download(distant.job, tmp_path / "got.tar.gz", progress=False)
    assert (caught.value.code, caught.value.exit_code) == ("download-broken", 5)
    distant.filesystem.pipe(path, right)
    download(distant.job, tmp_path / "got.tar.gz", progress=False)
    assert same("archive", tmp_path / "got.tar.gz", made)


@pytest.mark.parametrize("what", ["an array's metadata", "too many objects"])
def test_a_folder_that_is_no_whole_store_is_told(distant: Distant, made: Path, tmp_path: Path, what: str) -> None:
    array = next(
        path.parent for path in made.rglob("zarr.json") if json.loads(path.read_bytes())["node_type"] == "array"
    )
    folder = f"{distant.root}/{array.relative_to(made)}"
    if what == "an array's metadata":
        distant.filesystem.rm(f"{folder}/zarr.json")
    else:
        for number in range(1000):
            distant.filesystem.pipe(f"{folder}/c/{number}/x", b"x")
    with pytest.raises(DownloadBroken):
        download(distant.job, tmp_path / "got.zarr", progress=False)
    assert not (tmp_path / "got.zarr").exists()


def test_a_file_that_becomes_shorter_is_told(
    converted: Job, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(made, tmp_path / "copy.zarr"))
    job: Any = SimpleNamespace(name="j", status="Succeeded", output=str(copy), reason="")
    listing = module.listing

    def then_cut(store: Any) -> dict[str, int]:
        found = listing(store)
        largest = max(found, key=lambda key: found[key])
        os.truncate(copy / largest, found[largest] - 1)
        return found

    monkeypatch.setattr(module, "listing", then_cut)
    with pytest.raises(DownloadBroken, match="shorter"):
        download(job, tmp_path / "got.zarr", progress=False)


def test_a_silent_store_is_told_with_what_is_kept(
    distant: Distant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(path: str) -> None:
        raise TimeoutError("no answer")

    monkeypatch.setattr("geozarr_runner.stores.access.retries.ATTEMPTS", 1)
    distant.fault = lambda path: fault(path) if "/c/" in path else None
    with pytest.raises(ProductUnreachable) as caught:
        download(distant.job, tmp_path / "got.zarr", progress=False)
    assert module.KEPT in caught.value.remedy

"""Accounts without a home, folders that several accounts write to, and processes that were forked meanwhile."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import pwd
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import geozarr_nb as gz
from geozarr_nb.backends.local.backend import LocalBackend
from geozarr_nb.backends.local.state_folder import StateFolder
from geozarr_nb.doctor import doctor
from geozarr_nb.errors import ArchiveMissing, InvalidRequest, StateUnusable, StorageDenied, StorageFailed
from geozarr_nb.outputs.download import download
from geozarr_runner.publishing import archive, local
from geozarr_runner.publishing.local import claimed, discard_leftovers, output_path, retired, workspace
from geozarr_runner.trust import folders
from geozarr_runner.trust.addresses import expanded, local_path
from geozarr_runner.trust.credentials import _users
from runner.tests.support import write_store
from tests.hostile.support import bounded

ROOT = {"zarr_format": 3, "node_type": "group", "attributes": {}}


# --- an account without a home, and a working directory that is gone -------------------------------------------------


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a container has that runs under a number of its own."""

    def unknown(number: int) -> Any:
        raise KeyError(number)

    for name in ("HOME", "XDG_STATE_HOME", "GEOZARR_STATE_DIR", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


def test_an_account_without_a_home_converts(homeless: None, tmp_path: Path) -> None:
    assert output_path(tmp_path / "out.zarr") == tmp_path / "out.zarr"
    assert _users() == {}


def test_it_has_no_folder_of_jobs_until_one_is_named(
    homeless: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_store(tmp_path / "p.zarr", {"zarr.json": ROOT})
    assert len(gz.list_jobs("local")) == 0
    found = {finding.name: finding for finding in doctor(backend="local").findings}
    assert found["state folder"].verdict == "problem"
    state = StateFolder(gz.Settings.load().state_dir)
    with pytest.raises(StateUnusable, match="no home") as refused:
        state.create()
    assert "GEOZARR_STATE_DIR" in refused.value.remedy
    assert os.listdir(tmp_path) == ["p.zarr"]  # noqa: PTH208


@pytest.mark.parametrize("name", ["file/state", "file", "n" * 300])
def test_a_folder_of_jobs_that_cannot_be_one(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    backend = LocalBackend(tmp_path / name)
    for call in (backend.list, lambda: backend.get("a"), lambda: backend.cancel("a")):
        with pytest.raises(StorageFailed) as told:
            call()
        assert "GEOZARR_STATE_DIR" in told.value.remedy


@pytest.mark.parametrize("name", ["~nobody-of-this-name/p.zarr", "~$draft.zarr", "~"])
def test_a_home_that_nobody_knows_is_a_name(
    name: str, homeless: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert local_path(name) == expanded(name) == tmp_path / name


def test_a_working_directory_that_was_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    for call in (lambda: gz.inspect("p.zarr"), lambda: output_path("out.zarr"), gz.list_jobs):
        with pytest.raises(InvalidRequest, match="was removed"):
            call()
    assert not doctor(backend="local").ok


# --- a folder that others write to -----------------------------------------------------------------------------------


def refused(number: int) -> Any:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


def test_a_lock_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "regular", refused(errno.EACCES))
    for enter in (workspace, claimed):
        with pytest.raises(StorageDenied), enter(tmp_path / "out.zarr"):
            pass
    with pytest.raises(StorageDenied):
        discard_leftovers(tmp_path / "out.zarr")


def test_an_old_output_that_cannot_be_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    retired(tmp_path / "out.zarr").mkdir()
    monkeypatch.setattr(Path, "rename", refused(errno.EPERM))
    with pytest.raises(StorageDenied):
        discard_leftovers(tmp_path / "out.zarr")


def test_a_lock_that_cannot_be_removed_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that another account has made, in a sticky folder."""
    monkeypatch.setattr(Path, "unlink", refused(errno.EPERM))
    for _ in range(2):
        with claimed(tmp_path / "out.zarr"):
            pass
    assert (tmp_path / ".out.zarr.lock").exists()


@pytest.mark.parametrize("kept_by", ["its mode", "the sticky bit"])
def test_an_old_output_that_cannot_be_removed_is_not_moved(
    kept_by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder of a group that has made the old output closed to the group."""
    output = tmp_path / "out.zarr"
    write_store(output, {"zarr.json": ROOT, "a/zarr.json": ROOT})
    (tmp_path / "out.zarr.stac.json").write_text("{}")
    with workspace(output) as space:
        write_store(space.writing, {"zarr.json": ROOT})
        space.item.write_text("new")
        if kept_by == "its mode":
            monkeypatch.setattr(local.os, "access", lambda path, _: not str(path).endswith("/a"))
        else:
            tmp_path.chmod(0o1777)
            monkeypatch.setattr(local.os, "geteuid", lambda: 12345)
        with pytest.raises(StorageDenied, match="not replaced"):
            local.publish(space, overwrite=True)
        monkeypatch.undo()
    assert (output / "a" / "zarr.json").exists()
    assert (tmp_path / "out.zarr.stac.json").read_text() == "{}"
    assert sorted(os.listdir(tmp_path)) == ["out.zarr", "out.zarr.stac.json"]  # noqa: PTH208


@pytest.mark.parametrize("whose", ["the output", "the archive", "the checksum"])
def test_an_archive_that_somebody_else_has_put_there(
    whose: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.zarr"
    write_store(output, {"zarr.json": ROOT})
    os.utime(output / "zarr.json", (0, 0))
    path = archive.archive_path(output)
    path.write_bytes(b"evil")
    line = archive.checksum_path(path)
    line.write_text(f"{hashlib.sha256(b'evil').hexdigest()}  {path.name}\n")
    assert archive.existing(output) is not None
    belongs_to_another(
        {"the output": output / "zarr.json", "the archive": path, "the checksum": line}[whose], monkeypatch
    )
    if whose == "the output":  # this account may pack what others have made
        assert archive.existing(output) is not None
        return
    assert archive.existing(output) is None
    job: Any = SimpleNamespace(name="a", status="Succeeded", output=str(output), reason="")
    with pytest.raises(ArchiveMissing):
        download(job, tmp_path / "got.tar.gz", progress=False)


def belongs_to_another(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inode, stat, fstat = path.stat().st_ino, os.stat, os.fstat

    def said(found: os.stat_result) -> os.stat_result:
        if found.st_ino != inode:
            return found
        return os.stat_result((*found[:4], 65534, *found[5:10]), {"st_mtime_ns": found.st_mtime_ns})

    monkeypatch.setattr(os, "stat", lambda *given, **more: said(stat(*given, **more)))
    monkeypatch.setattr(os, "fstat", lambda descriptor: said(fstat(descriptor)))


@pytest.mark.parametrize("option", ["--outcome", "--termination-log"])
def test_a_run_that_has_ended_waits_for_nobody(option: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    gone = tmp_path / "absent.zarr"
    said = bounded("-m", "geozarr_runner", "convert", gone, tmp_path / "out.zarr", option, tmp_path / "fifo", "--json")
    assert (said.code, "product-not-found" in said.stdout) == (3, True)


# --- a process that was forked meanwhile -----------------------------------------------------------------------------


@pytest.fixture
def children() -> Iterator[list[int]]:
    found: list[int] = []
    yield found
    for pid in found:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def fork_that_stays(children: list[int]) -> None:
    """Fork as multiprocessing does: the child has every open file, and lives on."""
    pid = os.fork()
    if pid == 0:
        while True:
            signal.pause()
    children.append(pid)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_fork_keeps_no_lock(tmp_path: Path, children: list[int]) -> None:
    state = StateFolder(tmp_path / "state")
    state.create()
    with state.dispatching(), claimed(tmp_path / "out.zarr"):
        fork_that_stays(children)
        lock = os.open(tmp_path / ".out.zarr.lock", os.O_RDONLY)
    for descriptor in (lock, os.open(state.root / "dispatch.lock", os.O_RDONLY)):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(descriptor)

"""Disks that are full, know no locks or cannot be written, under the folder of jobs: told, and nothing half done."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

import geozarr_nb as gz
from geozarr_nb import ownership
from geozarr_nb.backends.local import processes, worker
from geozarr_nb.backends.local.backend import LocalBackend
from geozarr_nb.backends.local.state_file import write_json
from geozarr_nb.backends.local.state_folder import StateFolder
from geozarr_nb.errors import StorageDenied, StorageFailed, StorageFull
from geozarr_runner.spec.request import Request

TOO_LITTLE = [1, 2000]  # for the request; for what is private, which is longer


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StateFolder:
    made = StateFolder(tmp_path / "state")
    made.create()
    monkeypatch.setenv("GEOZARR_STATE_DIR", str(made.root))
    monkeypatch.setenv("GEOZARR_BACKEND", "local")
    monkeypatch.setenv("GEOZARR_LONG", "x" * 4000)
    monkeypatch.setattr(worker, "start", lambda *_: None)  # what is submitted waits
    return made


@pytest.fixture
def backend(state: StateFolder) -> LocalBackend:
    return LocalBackend(state.root)


@pytest.fixture
def request_(tmp_path: Path) -> Request:
    return Request(source="/p.zarr", shown="/p.zarr", product="a", output=str(tmp_path / "a.zarr"), identity="1" * 64)


@contextmanager
def room(size: int) -> Iterator[None]:
    """Have every file that is written end after so many bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("size", TOO_LITTLE)
def test_a_full_disk_leaves_no_job(backend: LocalBackend, state: StateFolder, request_: Request, size: int) -> None:
    (state.slots / "0").touch(mode=0o600)
    (state.root / "dispatch.lock").touch(mode=0o600)
    before = tree(state.root)
    with room(size), pytest.raises(StorageFull) as caught:
        backend.submit(request_)
    assert "GEOZARR_STATE_DIR" in caught.value.remedy
    assert tree(state.root) == before
    assert list(state.jobs.iterdir()) == []
    assert backend.submit(request_) == request_.name, "once there is space it can be submitted"


@pytest.mark.parametrize("size", TOO_LITTLE)
def test_a_full_disk_leaves_the_attempt_before(
    backend: LocalBackend, state: StateFolder, request_: Request, size: int
) -> None:
    name = backend.submit(request_)
    backend.cancel(name)
    seen, before = backend.get(name), tree(state.root)
    with room(size), pytest.raises(StorageFull):
        backend.retry(name)
    assert tree(state.root) == before
    assert backend.get(name) == seen
    backend.retry(name)
    assert backend.get(name).attempt == 2


def test_a_full_disk_leaves_no_half_line_in_a_set(state: StateFolder, tmp_path: Path) -> None:
    missing = [str(tmp_path / f"{number}.zarr") for number in range(3)]
    with room(5), pytest.raises(StorageFull):
        gz.submit_many(missing, name="some")
    assert (state.sets / "some.jsonl").read_bytes() == b""
    assert len(gz.submit_many(missing, name="some").refused) == 3
    assert len(gz.get_job_set("some").refused) == 3


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_volume_without_locks_is_named(
    backend: LocalBackend, state: StateFolder, request_: Request, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuses(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(ownership.fcntl, "flock", refuses)
    for act in (lambda: backend.submit(request_), backend.list, lambda: backend.get("a-11111111")):
        with pytest.raises(StorageFailed, match="no locks") as caught:
            act()
        assert "GEOZARR_STATE_DIR" in caught.value.remedy
        assert "local disk" in caught.value.remedy
    assert list(state.jobs.iterdir()) == []


@pytest.mark.parametrize(("number", "kind"), [(errno.EROFS, StorageDenied), (errno.EACCES, StorageDenied)])
def test_a_folder_that_is_read_only_is_named(
    backend: LocalBackend,
    request_: Request,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    kind: type[StorageFailed],
) -> None:
    opens = os.open

    def refuses(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if flags & (os.O_CREAT | os.O_WRONLY):
            raise OSError(number, os.strerror(number), str(path))
        return opens(path, flags, *rest, **more)

    monkeypatch.setattr(ownership.os, "open", refuses)
    for act in (backend.list, lambda: backend.submit(request_), lambda: gz.submit_many([], name="some")):
        with pytest.raises(kind) as caught:
            act()
        assert caught.value.remedy


@pytest.mark.parametrize("error", [psutil.AccessDenied, psutil.ZombieProcess, psutil.NoSuchProcess])
def test_a_process_number_that_is_in_use_again_is_not_the_run(
    state: StateFolder,
    request_: Request,
    monkeypatch: pytest.MonkeyPatch,
    error: Callable[[int], psutil.Error],
) -> None:
    """It may be another account's, which does not show its command line: nothing of it is ended."""
    folder = state.job(request_.name)
    folder.path.mkdir(mode=0o700)
    write_json(folder.claim, {"started": worker.now(), "pid": os.getpid()})

    def hidden(self: psutil.Process) -> list[str]:
        raise error(self.pid)

    monkeypatch.setattr(psutil.Process, "cmdline", hidden)
    assert processes._run_of(folder) is None
    processes.end_run(folder)


def test_who_waits_for_a_lock_gets_it(state: StateFolder) -> None:
    """The lock that names a file system without locks is still a lock."""
    with state.dispatching():
        other = os.open(state.root / "dispatch.lock", os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(other)


def test_a_job_that_a_full_disk_has_ended_is_shown_and_written_down_later(
    state: StateFolder, backend: LocalBackend, request_: Request
) -> None:
    job = state.job(backend.submit(request_))
    write_json(job.claim, {"started": worker.now(), "pid": None})  # and nobody holds its lock
    with room(1):
        [row] = backend.list()
        assert row.status == "Error"
        assert backend.get(job.name).status == "Error"
    assert not job.exit.exists()
    assert [found.status for found in backend.list()] == ["Error"]
    assert job.exit.exists()

"""A folder of jobs that others can write, or have written: it is refused, or believed in nothing that could do harm."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import stat
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import geozarr_nb as gz
from geozarr_nb import ownership
from geozarr_nb.backends.base import JobState
from geozarr_nb.backends.local import processes, worker
from geozarr_nb.backends.local.backend import LocalBackend
from geozarr_nb.backends.local.environ import kept
from geozarr_nb.backends.local.state_folder import JobFolder, StateFolder, Ticket
from geozarr_nb.errors import GeozarrError, InvalidRequest, JobNotFound, LaterVersion, StateUnusable
from geozarr_nb.jobs.job import Job
from geozarr_nb.jobs.set_file import SetFile
from geozarr_runner.spec.request import Request

# Says with which arguments and environment it was started, and ends well.
STAND_IN = """
import json, os, pathlib, sys
argv = sys.argv[1:]
request = json.load(sys.stdin)
seen = pathlib.Path(request["output"]).parent / "seen.json"
seen.write_text(json.dumps({"argv": argv, "request": request, "environ": dict(os.environ)}))
print(json.dumps({"v": 1, "time": "2026-01-01T00:00:00+00:00", "type": "result", "path": request["output"]}))
"""
NAME = "a-11111111"
NO_REQUEST = Request(source="/p", shown="/p", product="p", output="/o")


@pytest.fixture
def state(tmp_path: Path) -> StateFolder:
    made = StateFolder(tmp_path / "state")
    made.create()
    return made


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    return [sys.executable, "-I", "-S", str(script)]


@pytest.fixture
def backend(state: StateFolder, command: list[str]) -> LocalBackend:
    return LocalBackend(state.root, poll_interval=0.02, command=command)


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOZARR_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("GEOZARR_BACKEND", "local")


@pytest.fixture
def accounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Say which accounts and groups there are; this one is `me`, and `group` the one that its files have."""
    found = tmp_path.stat()
    uid, gid = os.geteuid(), found.st_gid

    def say(
        *,
        group: str | None = "users",
        members: Sequence[str] = (),
        others: Sequence[tuple[str, int]] = (),
        own: str | None = "me",
        is_listed: bool = True,
    ) -> None:
        def entry(name: str | None, number: int) -> SimpleNamespace:
            if name is None:
                raise KeyError(number)
            return SimpleNamespace(
                pw_name=name, pw_uid=number, pw_gid=gid, gr_name=name, gr_gid=number, gr_mem=list(members)
            )

        listed = [entry(name, number) for name, number in others if number != uid]
        if is_listed and own is not None:
            listed.append(entry(own, uid))
        ownership._has_others.cache_clear()
        monkeypatch.setattr(ownership.pwd, "getpwall", lambda: listed)
        monkeypatch.setattr(ownership.pwd, "getpwuid", lambda number: entry(own, number))
        monkeypatch.setattr(ownership.grp, "getgrgid", lambda number: entry(group, number))

    yield say
    ownership._has_others.cache_clear()


def asked(tmp_path: Path, **changes: Any) -> Request:
    (tmp_path / "out").mkdir(exist_ok=True)
    values: dict[str, Any] = {
        "source": "/data/p.zarr",
        "shown": "/data/p.zarr",
        "product": "a",
        "output": str(tmp_path / "out" / "a.zarr"),
        "identity": "1" * 64,
    }
    return Request(**(values | changes))


def plant(state: StateFolder, request: Request, **ticket: Any) -> JobFolder:
    """Leave a job that waits, as a colleague could who may write there."""
    folder = state.job(request.name)
    folder.path.mkdir(mode=0o700)
    documents = {
        folder.request: request.to_json(),
        folder.private: {"source": request.source, "secrets": [], "environ": {"PATH": os.environ["PATH"]}},
        folder.ticket: {"order": 1, "attempt": 1, "submitted": worker.now(), "argv": [], **ticket},
    }
    for path, document in documents.items():
        path.write_text(json.dumps(document))
        path.chmod(0o600)
    return folder


def finished(backend: LocalBackend, name: str) -> JobState:
    return Job(backend, name).wait(timeout=60).state


def seen(tmp_path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tmp_path / "out" / "seen.json").read_text())
    return found


class TestCommands:
    """What a ticket says of commands is not what is run."""

    def test_the_command_is_made_of_the_request(
        self, backend: LocalBackend, state: StateFolder, tmp_path: Path
    ) -> None:
        loot = tmp_path / "loot"
        request = asked(tmp_path, groups=("/a/b",), options={"archive": True})
        folder = plant(state, request, argv=["/bin/sh", "-c", f"touch {loot}"])
        backend.list()
        assert finished(backend, request.name).status == "Succeeded"
        assert not loot.exists()
        assert seen(tmp_path)["argv"] == worker.arguments(folder)
        assert seen(tmp_path)["request"] == json.loads(json.dumps(request.to_json(with_secrets=True)))

    def test_a_ticket_of_an_earlier_version_still_runs(
        self, backend: LocalBackend, state: StateFolder, tmp_path: Path, command: list[str]
    ) -> None:
        request = asked(tmp_path)
        folder = state.job(request.name)
        plant(state, request, argv=[*command, "convert", "-", request.output, "--json"])
        document = json.loads(folder.request.read_text())
        del document["origins"]
        folder.request.write_text(json.dumps(document))
        backend.list()
        assert finished(backend, request.name).status == "Succeeded"

    @pytest.mark.parametrize(
        "argv",
        [
            ("/bin/sh", "-P", "-m", "geozarr_runner"),
            ("python3", "-P", "-m", "geozarr_runner"),
            (sys.executable, "-c", "import os", "geozarr_runner"),
            (sys.executable, "-P", "-m", "antigravity"),
            ("/nowhere/python3", "-P", "-m", "geozarr_runner"),
            ("/tmp/\0/python3", "-P", "-m", "geozarr_runner"),
            (),
        ],
    )
    def test_a_ticket_chooses_no_program(self, argv: tuple[str, ...]) -> None:
        ticket = Ticket(1, 1, worker.datetime.now(worker.UTC), argv)
        assert tuple(worker.runner_of(ticket, worker.RUNNER)) == worker.RUNNER

    def test_each_job_has_the_python_that_it_was_submitted_with(self, tmp_path: Path) -> None:
        python = tmp_path / "python3.12"
        python.write_text("")
        python.chmod(0o755)
        ticket = Ticket(1, 1, worker.datetime.now(worker.UTC), (str(python), *worker.RUNNER[1:], "run"))
        assert worker.runner_of(ticket, worker.RUNNER) == (str(python), *worker.RUNNER[1:])
        python.chmod(0o777)
        assert worker.runner_of(ticket, worker.RUNNER) == worker.RUNNER, "anybody may have written it"
        python.chmod(0o755)
        earlier = replace(ticket, argv=(str(python), *worker.RUNNER[1:], "convert"))
        assert worker.runner_of(earlier, worker.RUNNER) == worker.RUNNER, "0.1.0 takes no document"

    @pytest.mark.parametrize(
        "changes",
        [
            {"groups": ("/a", "--log=/etc/passwd")},
            {"options": {"scratch": "--artifact=/tmp/x"}},
            {"item": "--outcome=/tmp/x"},
            {"identity": "-x"},
        ],
    )
    def test_no_value_becomes_an_option(
        self, backend: LocalBackend, state: StateFolder, tmp_path: Path, changes: dict[str, Any]
    ) -> None:
        request = asked(tmp_path, **changes)
        folder = plant(state, request)
        backend.list()
        finished(backend, request.name)
        assert seen(tmp_path)["argv"] == worker.arguments(folder)
        assert Request.from_json(seen(tmp_path)["request"]) == request

    @pytest.mark.parametrize("output", ["--within=/", "somewhere.zarr", ""])
    def test_an_output_without_its_full_name_is_refused(self, tmp_path: Path, output: str) -> None:
        document = asked(tmp_path, output=output).to_json(with_secrets=True)
        command = [sys.executable, "-P", "-m", "geozarr_runner", "run", "--log", str(tmp_path / "log"), "--json"]
        ended = subprocess.run(command, input=json.dumps(document), text=True, capture_output=True, cwd=tmp_path)
        assert ended.returncode == 2
        assert "no full name" in ended.stdout

    def test_a_nul_in_the_environment_is_no_crash_of_the_worker(
        self, backend: LocalBackend, state: StateFolder, tmp_path: Path
    ) -> None:
        request = asked(tmp_path)
        folder = plant(state, request)
        private = json.loads(folder.private.read_text())
        folder.private.write_text(json.dumps({**private, "environ": {"A=B": "x\0y"}}))
        backend.list()
        assert "could not be started" in finished(backend, request.name).reason
        assert not folder.private.exists()
        assert state.workers_log.read_text() == ""


@pytest.fixture(params=["list", "get", "submit", "set", "set file"])
def call(request: pytest.FixtureRequest, backend: LocalBackend, state: StateFolder, tmp_path: Path) -> Any:
    return {
        "list": gz.list_jobs,
        "get": lambda: gz.get_job(NAME),
        "submit": lambda: backend.submit(asked(tmp_path)),
        "set": lambda: gz.get_job_set("some"),
        "set file": lambda: SetFile(state.sets, "some").start(),
    }[request.param]


class TestOwners:
    """A state folder is this account's alone."""

    @pytest.mark.parametrize("mode", [0o770, 0o702, 0o1777])
    def test_what_others_may_write_is_refused(
        self,
        call: Callable[[], object],
        state: StateFolder,
        tmp_path: Path,
        mode: int,
        accounts: Callable[..., None],
    ) -> None:
        accounts(members=["me", "colleague"])
        loot = tmp_path / "loot"
        plant(state, asked(tmp_path), argv=["/bin/sh", "-c", f"touch {loot}"])
        state.root.chmod(mode)
        with pytest.raises(StateUnusable) as caught:
            call()
        assert caught.value.code == "state-unusable"
        assert f"chmod go-w {state.root}" in caught.value.remedy
        assert "GEOZARR_STATE_DIR" in caught.value.remedy
        state.root.chmod(0o700)
        assert state.job(NAME).is_pending, "nothing was started"

    @pytest.mark.parametrize("mode", [0o2770, 0o775])
    def test_a_group_without_others_is_nobody_else(
        self, state: StateFolder, tmp_path: Path, accounts: Callable[..., None], command: list[str], mode: int
    ) -> None:
        """A umask of 002 makes folders so, and a pod's fsGroup all there is, at each start."""
        folder = plant(state, asked(tmp_path))
        accounts(members=["me"])
        for path in (state.root, *state.root.rglob("*")):
            path.chmod(mode if path.is_dir() else 0o660)
        slot = state.take_slot(1)
        assert slot is not None
        worker.work(state, slot, command)
        assert gz.get_job(NAME).status == "Succeeded"
        assert not folder.private.exists()

    @pytest.mark.parametrize(
        ("known", "is_refused"),
        [
            ({"group": "me", "members": []}, False),
            ({"group": None, "members": []}, False),
            ({"group": "users", "members": [], "own": None}, True),
            ({"group": None, "members": [], "own": None}, False),
            ({"group": "users", "members": ["root"]}, False),
            ({"group": "users", "members": ["colleague"]}, True),
            ({"group": "users", "others": [("colleague", 4242)]}, True),
            ({"group": "users", "others": [("root", 0)]}, False),
            ({"group": "users", "is_listed": False}, True),
            ({"group": None, "is_listed": False}, True),
            ({"group": "me", "is_listed": False}, False),
        ],
    )
    def test_whose_a_group_is(
        self, state: StateFolder, accounts: Callable[..., None], known: dict[str, Any], is_refused: bool
    ) -> None:
        accounts(**known)
        state.root.chmod(0o770)
        assert ownership.others_may_write(state.root, state.root.stat()) is is_refused

    @pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the mode says nothing of access control lists")
    def test_what_an_access_control_list_gives_counts(
        self, state: StateFolder, accounts: Callable[..., None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        accounts(members=["me"])
        state.root.chmod(0o770)
        assert not ownership.others_may_write(state.root, state.root.stat())
        # Owner, one other account, group, mask, everybody: what setfacl writes down.
        entries = [(1, 7, -1), (2, 7, 4242), (4, 5, -1), (16, 7, -1), (32, 0, -1)]
        listed = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
        try:
            os.setxattr(state.root, "system.posix_acl_access", listed)
        except OSError:  # this file system has none
            monkeypatch.setattr(ownership.os, "getxattr", lambda path, name: listed, raising=False)
        with pytest.raises(StateUnusable, match="others may write"):
            gz.list_jobs()

    def test_another_accounts_is_refused(
        self, call: Callable[[], object], state: StateFolder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ownership.os, "geteuid", lambda: state.root.stat().st_uid + 1)
        with pytest.raises(StateUnusable, match="another account") as caught:
            call()
        assert "GEOZARR_STATE_DIR" in caught.value.remedy

    def test_another_accounts_link_is_refused(
        self, state: StateFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        link = tmp_path / "link"
        link.symlink_to(state.root)
        assert ownership.check_folder(link)
        me = state.root.stat().st_uid
        monkeypatch.setattr(ownership.os, "geteuid", lambda: me + 1)
        with pytest.raises(StateUnusable, match="link"):
            ownership.check_folder(link)

    @pytest.mark.parametrize("name", ["jobs", "slots"])
    def test_every_folder_of_it_counts(self, state: StateFolder, name: str) -> None:
        (state.root / name).chmod(0o777)
        with pytest.raises(StateUnusable, match="others may write"):
            gz.list_jobs()

    def test_a_folder_above_may_be_everybodys(self, tmp_path: Path) -> None:
        """As /tmp is: what is put in the folder's place is not this account's."""
        shared = tmp_path / "shared"
        shared.mkdir()
        shared.chmod(0o1777)
        assert LocalBackend(shared / "state").list() == []
        StateFolder(shared / "state").create()
        assert LocalBackend(shared / "state").list() == []

    def test_what_is_made_is_the_owners(self, backend: LocalBackend, state: StateFolder, tmp_path: Path) -> None:
        before = os.umask(0)
        try:
            for _ in range(2):
                finished(backend, backend.submit(asked(tmp_path)))
            SetFile(state.sets, "some").start()
        finally:
            os.umask(before)
        # A run's own log is in a folder that nobody else can enter.
        modes = {path: stat.S_IMODE(path.stat().st_mode) for path in state.root.rglob("*") if path.name != "log.jsonl"}
        assert {mode & 0o077 for mode in modes.values()} == {0}, modes


class TestFiles:
    """Each file is this account's own, and no way to another."""

    @pytest.mark.parametrize("name", ["request.json", "ticket.json", "claim.json", "exit.json"])
    @pytest.mark.parametrize("kind", ["link", "fifo", "folder", "anybody's"])
    def test_what_is_no_file_of_ours_is_one_odd_row(
        self, backend: LocalBackend, state: StateFolder, tmp_path: Path, name: str, kind: str
    ) -> None:
        folder = plant(state, asked(tmp_path))
        path = folder.path / name
        content = path.read_bytes() if path.exists() else b"{}"
        path.unlink(missing_ok=True)
        if kind == "link":
            (tmp_path / "elsewhere").write_bytes(content)
            path.symlink_to(tmp_path / "elsewhere")
        elif kind == "fifo":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        else:
            path.write_bytes(content)
            path.chmod(0o666)
        [row] = [found for found in backend.list() if found.name == NAME]
        assert (row.status, row.failure and row.failure.code) == ("Error", "state-unusable")
        assert backend.get(NAME) == row
        assert NAME in repr(gz.list_jobs())
        with pytest.raises(GeozarrError):
            backend.submit(asked(tmp_path))
        assert not (tmp_path / "out" / "seen.json").exists()

    @pytest.mark.parametrize("name", ["lock", "events.jsonl", "ticket.json"])
    def test_what_cannot_be_read_is_one_odd_row(
        self,
        backend: LocalBackend,
        state: StateFolder,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        name: str,
    ) -> None:
        folder = plant(state, asked(tmp_path))
        for other in (folder.claim, folder.events, folder.lock):
            other.write_text(json.dumps({"started": worker.now(), "pid": None}))
            other.chmod(0o600)
        opens = os.open

        def refuses(path: Any, flags: int, *rest: Any, **more: Any) -> int:
            if Path(path).name == name:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return opens(path, flags, *rest, **more)

        monkeypatch.setattr(ownership.os, "open", refuses)
        (row,) = backend.list()
        assert "cannot be read" in row.reason

    def test_a_folder_that_nobody_may_look_into_is_one_odd_row(
        self, backend: LocalBackend, state: StateFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As one is that root has made for this account, by sudo."""
        closed = plant(state, asked(tmp_path))
        other = asked(tmp_path, product="b", identity="2" * 64, output=str(tmp_path / "out" / "b.zarr"))
        stats = os.stat

        def refuses(path: Any, *rest: Any, **more: Any) -> os.stat_result:
            if not isinstance(path, int) and Path(path).parent == closed.path:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return stats(path, *rest, **more)

        monkeypatch.setattr(os, "stat", refuses)
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != closed.path)
        assert finished(backend, backend.submit(other)).status == "Succeeded"
        odd = {row.name: row for row in backend.list()}[NAME]
        assert (odd.status, odd.failure and odd.failure.code) == ("Error", "state-unusable")
        assert f"chmod u+rwx {closed.path}" in str(odd.failure)
        assert backend.get(NAME) == odd
        with pytest.raises(StateUnusable):
            backend.submit(asked(tmp_path))

    @pytest.mark.parametrize("kind", ["link", "folder"])
    def test_a_lock_that_is_none_keeps_no_other_from_running(
        self, backend: LocalBackend, state: StateFolder, tmp_path: Path, kind: str
    ) -> None:
        folder = plant(state, asked(tmp_path))
        folder.lock.symlink_to(tmp_path / "elsewhere") if kind == "link" else folder.lock.mkdir()
        other = asked(tmp_path, product="b", identity="2" * 64, output=str(tmp_path / "out" / "b.zarr"))
        assert finished(backend, backend.submit(other)).status == "Succeeded"
        first = finished(backend, NAME)
        assert first.status == "Error"
        assert "is not believed" in first.reason
        assert not folder.private.exists()
        assert not (tmp_path / "elsewhere").exists()

    @pytest.mark.parametrize("name", ["lock", "events.jsonl", "private.json"])
    def test_a_folder_in_a_files_place_ends_nothing_raw(
        self, backend: LocalBackend, state: StateFolder, tmp_path: Path, command: list[str], name: str
    ) -> None:
        folder = plant(state, asked(tmp_path))
        (folder.path / name).unlink(missing_ok=True)
        (folder.path / name).mkdir()
        (row,) = backend.list()
        assert row.status in ("Error", "Pending")

    def test_an_odd_job_keeps_no_other_from_running(
        self, backend: LocalBackend, state: StateFolder, tmp_path: Path
    ) -> None:
        plant(state, asked(tmp_path)).request.chmod(0o666)
        good = asked(tmp_path, product="good", output=str(tmp_path / "out" / "b.zarr"))
        assert finished(backend, backend.submit(good)).status == "Succeeded"
        assert [found.status for found in backend.list()] == ["Error", "Succeeded"]

    @pytest.mark.parametrize("name", ["events.jsonl", "errors.txt", "log.jsonl"])
    def test_nothing_is_written_through_a_link(
        self, backend: LocalBackend, state: StateFolder, tmp_path: Path, command: list[str], name: str
    ) -> None:
        target = tmp_path / "profile"
        target.write_text("precious")
        folder = plant(state, asked(tmp_path))
        (folder.path / name).symlink_to(target)
        lock = folder.hold()
        worker.run(folder, lock, lock, command)
        assert target.read_text() == "precious"
        assert "could not be started" in json.loads(folder.exit.read_text())["problem"]
        assert [found.status for found in backend.list()] == ["Error"]

    def test_a_log_that_is_linked_away_is_not_written(
        self, backend: LocalBackend, state: StateFolder, tmp_path: Path
    ) -> None:
        target = tmp_path / "profile"
        target.write_text("precious")
        state.workers_log.symlink_to(target)
        assert finished(backend, backend.submit(asked(tmp_path))).status == "Succeeded"
        assert target.read_text() == "precious"

    def test_a_set_is_not_written_through_a_link(self, state: StateFolder, tmp_path: Path) -> None:
        target = tmp_path / "profile"
        target.write_text("precious")
        (state.sets / "some.jsonl").symlink_to(target)
        with pytest.raises(StateUnusable):
            SetFile(state.sets, "some").start()
        with pytest.raises(StateUnusable):
            gz.get_job_set("some")
        assert target.read_text() == "precious"

    def test_a_job_that_is_a_link_is_an_odd_row(
        self, backend: LocalBackend, state: StateFolder, tmp_path: Path
    ) -> None:
        folder = plant(state, asked(tmp_path))
        folder.path.rename(tmp_path / "moved")
        folder.path.symlink_to(tmp_path / "moved")
        (row,) = backend.list()
        assert row.failure is not None
        assert "link" in row.reason

    @pytest.mark.parametrize("name", ["..", "A", "-rf", "a b", "a\x1b[2J", "é", "a" * 101, ".a"])
    def test_a_folder_that_has_no_jobs_name_is_no_job(self, state: StateFolder, tmp_path: Path, name: str) -> None:
        if name != "..":
            (state.jobs / name).mkdir()
            (state.jobs / name / "ticket.json").write_text("{}")
        assert len(gz.list_jobs()) == 0
        with pytest.raises(gz.JobNotFound):
            gz.get_job(name)


ODD: list[Any] = [None, [], "x", 1, {}, {"v": "x"}, {"v": None}]


class TestVersions:
    """What a later version wrote is told; what nothing wrote is passed over. Nothing is raised raw."""

    @pytest.mark.parametrize("name", ["request.json", "ticket.json", "claim.json", "exit.json"])
    def test_a_later_version_is_one_row(
        self, backend: LocalBackend, state: StateFolder, tmp_path: Path, name: str
    ) -> None:
        folder = plant(state, asked(tmp_path))
        (folder.path / name).write_text(json.dumps({"v": 2, "new": True}))
        (folder.path / name).chmod(0o600)
        (row,) = backend.list()
        assert row.failure is not None
        assert (row.status, row.failure.code) == ("Error", "later-version")
        assert "later version" in row.reason
        assert row.failure.remedy == "pip install -U geozarr-nb"
        for act in (backend.submit, lambda _: backend.retry(NAME), lambda _: backend.events(NAME)):
            if name in ("request.json", "ticket.json"):
                with pytest.raises(LaterVersion):
                    act(asked(tmp_path))

    @pytest.mark.parametrize("name", ["request.json", "ticket.json", "claim.json", "exit.json"])
    @pytest.mark.parametrize("content", [*map(json.dumps, ODD), "", "{", "[" * 100_000, "1" * 5000, "\udcff"], ids=repr)
    def test_what_nobody_wrote_is_one_row(
        self, backend: LocalBackend, state: StateFolder, tmp_path: Path, name: str, content: str
    ) -> None:
        folder = plant(state, asked(tmp_path))
        (folder.path / name).write_bytes(content.encode(errors="surrogateescape"))
        (folder.path / name).chmod(0o600)
        (row,) = backend.list()
        assert row.failure is not None
        assert (row.status, row.failure.remedy != "") == ("Error", True)
        assert len(gz.list_jobs()) == 1

    @pytest.mark.parametrize("field", [name for name in NO_REQUEST.to_json() if name not in ("v", "origins")])
    @pytest.mark.parametrize("value", [None, 1, ["x", 1], {"a": 1}, "\0", "\ud800", ["\0"]], ids=repr)
    def test_a_field_of_a_request_has_its_kind(self, tmp_path: Path, field: str, value: Any) -> None:
        stored = {**asked(tmp_path).to_json(), field: value}
        if field == "max_retries" and value == 1:
            assert Request.from_json(stored).options["max_retries"] == 1
            return
        if field in ("source", "asked") and value is None:
            assert Request.from_json(stored).withheld is (field == "source")
            return
        with pytest.raises(InvalidRequest, match="no request"):
            Request.from_json(stored)

    def test_what_a_later_runner_says_does_not_end_raw(
        self, backend: LocalBackend, state: StateFolder, tmp_path: Path
    ) -> None:
        request = asked(tmp_path)
        name = backend.submit(request)
        finished(backend, name)
        folder = state.job(name)
        lines = [
            {"v": 2, "time": "2026-01-01T00:00:00+00:00", "type": kind, "fields": {}}
            for kind in ("run", "stage", "progress", "message", "warning", "error", "result", "log")
        ]
        folder.events.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        folder.log.write_text(folder.events.read_text())
        later = LocalBackend(state.root)
        found = later.get(name)
        assert (found.status, found.failure and found.failure.code) == ("Failed", "later-version")
        assert Job(later, name).logs() == []
        with pytest.raises(gz.ConversionFailed, match="later version"):
            Job(later, name).raise_for_status()

    def test_an_exit_code_that_is_not_known_is_a_defect(
        self, backend: LocalBackend, state: StateFolder, tmp_path: Path
    ) -> None:
        name = backend.submit(asked(tmp_path))
        finished(backend, name)
        folder = state.job(name)
        error = {"v": 1, "time": "2026-01-01T00:00:00", "type": "error", "code": "new", "message": "m", "exit_code": 99}
        folder.events.write_text(json.dumps(error) + "\n")
        with pytest.raises(gz.ConversionFailed) as caught:
            Job(LocalBackend(state.root), name).raise_for_status()
        assert (caught.value.code, int(caught.value.exit_code)) == ("new", 1)

    def test_lines_of_a_set_that_are_none_are_passed_over(self, state: StateFolder) -> None:
        file = SetFile(state.sets, "some")
        file.start()
        lines = [
            "{",
            "[]",
            "{}",
            '{"number": "x"}',
            '{"number": 0, "label": 7, "new": 1}',
            '{"number": 1, "job": "a-1"}',
        ]
        file.path.write_text("\n".join(lines))
        found = gz.get_job_set("some")
        assert [entry.name for entry in found.jobs] == ["a-1"]
        assert [entry.label for entry in found.refused] == ["7"]


ANYTHING = [None, True, -1, 2, 10**30, float("nan"), "", "x", "-x", "\0", "2026-01-01T00:00:00", [], [[]], {}, "\ud800"]
EVENTS: list[dict[str, Any]] = [
    {"type": "stage", "stage": "convert", "state": "started"},
    {"type": "progress", "stage": "convert", "done": 1, "total": 2, "unit": "bytes"},
    {"type": "result", "path": "/o", "bytes_written": 1, "seconds": 1},
    {"type": "error", "code": "c", "message": "m", "exit_code": 3},
    {"type": "warning", "code": "c", "message": "m"},
    {"type": "log", "text": "t"},
]


@pytest.mark.parametrize("seed", range(120))
def test_whatever_the_files_hold_it_ends_in_our_errors_alone(
    state: StateFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(worker, "start", lambda *_: None)
    chance = random.Random(seed)
    folder = plant(state, asked(tmp_path))
    documents = {path: json.loads(path.read_text()) for path in (folder.request, folder.private, folder.ticket)}
    documents[folder.claim] = {"started": worker.now(), "pid": None}
    documents[folder.exit] = {"code": 0, "finished": worker.now(), "last_words": [], "problem": ""}
    for path, document in documents.items():
        if path in (folder.claim, folder.exit) and chance.random() < 0.5:
            continue
        for _ in range(chance.choice([0, 0, 1, 2])):
            document[chance.choice([*document, "v"])] = chance.choice(ANYTHING)
        path.write_text(json.dumps(document))
        path.chmod(0o600)
    events = [{"v": 1, "time": worker.now(), **event} for event in chance.sample(EVENTS, 4)]
    for event in events:
        event[chance.choice([*event, "remedy", "given", "archive"])] = chance.choice(ANYTHING)
    for stream in (folder.events, folder.log):
        stream.write_text("".join(f"{json.dumps(event)}\n" for event in events))
    backend = LocalBackend(state.root)
    job = Job(backend, NAME)
    assert len(backend.list()) == 1
    for show in (repr, Job._repr_html_, lambda job: repr(gz.list_jobs()), lambda job: gz.list_jobs()._repr_html_()):
        assert NAME in show(job)
    for act in (
        job.logs,
        job.events,
        job.raise_for_status,
        lambda: backend.submit(asked(tmp_path)),
        lambda: backend.retry(NAME),
        lambda: backend.cancel(NAME),
    ):
        with suppress(GeozarrError):
            act()


def test_a_job_that_is_removed_while_it_is_looked_at(
    backend: LocalBackend, state: StateFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = plant(state, asked(tmp_path))
    has = backend._has

    def removed_once_it_was_found(name: str) -> bool:
        found = has(name)
        shutil.rmtree(folder.path, ignore_errors=True)
        return found

    monkeypatch.setattr(backend, "_has", removed_once_it_was_found)
    assert backend.list() == []
    plant(state, asked(tmp_path))
    with pytest.raises(JobNotFound):
        backend.get(folder.name)


def test_a_lock_that_somebody_else_holds_is_not_waited_for_without_end(
    state: StateFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "GRACE", 0.0)
    folder = plant(state, asked(tmp_path))
    held = folder.hold()
    try:
        with pytest.raises(StateUnusable) as caught:
            processes.end_run(folder)
        assert str(folder.lock) in caught.value.remedy
    finally:
        os.close(held)
    processes.end_run(folder)


class TestEnvironment:
    """While a job waits, only what its run needs lies in a file."""

    @pytest.fixture
    def told(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
        given = {
            "AWS_ACCESS_KEY_ID": "key",
            "FSSPEC_HTTP": "{}",
            "https_proxy": "http://proxy",
            "OMP_NUM_THREADS": "2",
            "PYTHONUTF8": "1",
            "GEOZARR_CREDENTIALS_FOR": "x",
            "GEOZARR_INPUT": "https://host/p.zarr?sig=secret",
            "ARGO_GROUPS": "/a",
            "GITHUB_TOKEN": "ghp",
            "OPENAI_API_KEY": "sk",
            "LD_PRELOAD": "/tmp/x.so",
            "ACME_TOKEN": "acme",
            "SSH_AUTH_SOCK": "/run/agent",
        }
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        return given

    def test_only_what_is_needed_is_kept(self, told: dict[str, str]) -> None:
        environ = kept(os.environ)
        assert set(told) & set(environ) == {
            *("AWS_ACCESS_KEY_ID", "FSSPEC_HTTP", "https_proxy", "OMP_NUM_THREADS", "PYTHONUTF8"),
            *("GEOZARR_CREDENTIALS_FOR", "SSH_AUTH_SOCK"),
        }
        assert environ["PATH"] == os.environ["PATH"]

    def test_a_setting_adds_names(
        self, told: dict[str, str], state: StateFolder, command: list[str], tmp_path: Path
    ) -> None:
        settings = gz.Settings.load({"GEOZARR_ENVIRONMENT": "ACME_*, OPENAI_API_KEY"})
        backend = LocalBackend(state.root, command=command, environment=settings.environment)
        finished(backend, backend.submit(asked(tmp_path)))
        environ = seen(tmp_path)["environ"]
        assert {"ACME_TOKEN", "OPENAI_API_KEY"} <= environ.keys()
        assert not {"GITHUB_TOKEN", "LD_PRELOAD", "ARGO_GROUPS", "GEOZARR_INPUT"} & environ.keys()

    @pytest.mark.parametrize("value", ["*", "A-B", "A=1", "1A", "a;b"])
    def test_what_is_no_name_is_refused(self, value: str) -> None:
        with pytest.raises(InvalidRequest, match="GEOZARR_ENVIRONMENT"):
            gz.Settings.load({"GEOZARR_ENVIRONMENT": value})

"""The local backend's queue, locks and endings, with a stand-in for the runner that takes no time."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from geozarr_nb.backends.base import JobState
from geozarr_nb.backends.local.backend import LocalBackend
from geozarr_nb.backends.local.state_folder import StateFolder
from geozarr_nb.errors import ConversionFailed, InvalidRequest, JobNotFound, OutputBusy, StorageFailed, WaitTimeout
from geozarr_nb.jobs.job import Job
from geozarr_nb.jobs.jobset import JobSet, Refused
from geozarr_runner.spec.request import Request

# What it does is said by $STAND_IN, which also shows that a job gets the environment of whoever submitted it.
STAND_IN = """
import json, os, pathlib, signal, subprocess, sys, time
argv = sys.argv[1:]
request = json.load(sys.stdin)
output, log = pathlib.Path(request["output"]), pathlib.Path(argv[argv.index("--log") + 1])
def emit(kind, **fields):
    line = json.dumps({"v": 1, "time": "2025-01-01T00:00:00+00:00", "type": kind, **fields}) + "\\n"
    with log.open("a") as file: file.write(line)
    if kind != "log": sys.stdout.write(line); sys.stdout.flush()
def until(name):
    while not (output.parent / name).exists(): time.sleep(0.01)
plan = os.environ.get("STAND_IN", "succeed")
emit("stage", stage="convert", state="started")
emit("progress", stage="convert", done=1, total=2, unit="chunks")
with (output.parent / "trace").open("a") as trace: trace.write(f"+{output.name}\\n")
if plan == "hold": until("go")
if plan == "fail":
    emit("log", source="converter", text="cannot write b02")
    emit("error", code="storage-full", message="no space is left", given=str(output), remedy="make space",
         exit_code=6, retryable=False)
    sys.exit(6)
if plan == "silent":
    sys.stderr.write("Traceback\\nImportError: no module named x\\n"); sys.exit(1)
if plan == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-S", "-c", "import signal,time;"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN);time.sleep(600)"], start_new_session=True)
    emit("message", text=f"child {child.pid}"); until("never")
if plan == "die": os.kill(os.getpid(), signal.SIGKILL)
if plan == "tell": emit("message", text=f"reading {request["source"]}")
with (output.parent / "trace").open("a") as trace: trace.write(f"-{output.name}\\n")
emit("result", path=str(output), groups=[], skipped=False, bytes_read=1, bytes_written=1, seconds=0.1,
     versions={}, identity="")
"""

Make = Callable[..., Request]


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    return [sys.executable, "-I", "-S", str(script)]


@pytest.fixture
def backend(tmp_path: Path, command: list[str]) -> Iterator[LocalBackend]:
    made = LocalBackend(tmp_path / "state", poll_interval=0.02, command=command, environment=["STAND_IN"])
    yield made
    for state in made.list():
        made.cancel(state.name)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    (tmp_path / "out").mkdir()

    def make(name: str = "a", source: str = "/data/product.zarr", shown: str = "") -> Request:
        output = str(tmp_path / "out" / name)
        identity = f"{hash((source, name)) & 0xFFFFFFFF:08x}" * 8
        return Request(source=source, shown=shown or source, product=name, output=output, identity=identity)

    return make


def until(condition: Callable[[], bool], seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def finished(backend: LocalBackend, name: str) -> JobState:
    return Job(backend, name).wait(timeout=600).state


def workers_of(state: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if (
            "geozarr_nb.backends.local.worker" in line
            and str(state) in line
            and process.status() != psutil.STATUS_ZOMBIE
        ):
            found.append(process)
    return found


def test_a_job_from_submission_to_success(backend: LocalBackend, make: Make) -> None:
    name = backend.submit(make())
    state = finished(backend, name)
    assert (state.status, state.stage, state.progress, state.attempt) == ("Succeeded", "convert", (1, 2, "chunks"), 1)
    assert state.result is not None
    assert state.started is not None
    assert state.finished is not None
    assert state.submitted <= state.started <= state.finished
    assert (state.reason, state.failure) == ("", None)


def test_the_worker_leaves_when_nothing_waits(backend: LocalBackend, make: Make, tmp_path: Path) -> None:
    finished(backend, backend.submit(make()))
    until(lambda: not workers_of(tmp_path / "state"))
    assert (tmp_path / "state" / "workers.log").read_text() == ""


@pytest.mark.parametrize("bound", [1, 3])
def test_no_more_run_at_once_than_allowed_and_the_oldest_goes_first(
    tmp_path: Path, command: list[str], make: Make, bound: int
) -> None:
    backend = LocalBackend(tmp_path / "state", max_jobs=bound, poll_interval=0.02, command=command)
    requests = [make(f"{number:02}") for number in range(12)]
    JobSet(backend, [Job(backend, backend.submit(request)) for request in requests]).wait(timeout=600)
    trace = (tmp_path / "out" / "trace").read_text().splitlines()
    running, most = 0, 0
    for line in trace:
        running += 1 if line[0] == "+" else -1
        most = max(most, running)
    assert most <= bound
    started = [line[1:] for line in trace if line[0] == "+"]
    assert sorted(started) == [f"{number:02}" for number in range(12)]
    if bound == 1:
        assert started == sorted(started)


def test_many_who_submit_at_once_lose_nothing(tmp_path: Path, command: list[str], make: Make) -> None:
    """A worker that leaves and a job that arrives must not miss each other."""
    backends = [LocalBackend(tmp_path / "state", max_jobs=2, poll_interval=0.02, command=command) for _ in range(4)]
    names: list[str] = []

    def submit(number: int) -> None:
        for step in range(5):
            name = backends[number].submit(make(f"{number}-{step}"))
            names.append(name)
            if step % 2:
                finished(backends[number], name)

    threads = [threading.Thread(target=submit, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(names)) == 20
    assert {finished(backends[0], name).status for name in names} == {"Succeeded"}


def test_equal_requests_join_and_a_finished_one_makes_a_new_attempt(
    backend: LocalBackend, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN", "hold")
    name = backend.submit(make())
    until(lambda: backend.get(name).status == "Running")
    assert backend.submit(make()) == name
    assert len(backend.list()) == 1
    (tmp_path / "out" / "go").touch()
    assert finished(backend, name).attempt == 1
    assert backend.submit(make()) == name
    assert finished(backend, name).attempt == 2
    assert len(backend.list()) == 1


def test_an_earlier_attempts_events_are_kept(
    backend: LocalBackend, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN", "fail")
    name = backend.submit(make())
    finished(backend, name)
    events, cursor = backend.events(name)
    assert [event.type for event in events] == ["stage", "progress", "error"]
    monkeypatch.setenv("STAND_IN", "succeed")
    backend.retry(name)
    finished(backend, name)
    assert backend.events(name, cursor._replace(offset=0))[0] == events
    assert [event.type for event in backend.events(name)[0]] == ["stage", "progress", "result"]


def test_events_are_given_once_and_a_half_line_waits(
    backend: LocalBackend, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN", "hold")
    name = backend.submit(make())
    until(lambda: len(backend.events(name)[0]) == 2)
    first, cursor = backend.events(name)
    stream = StateFolder(tmp_path / "state").job(name).events
    with stream.open("a") as file:
        file.write('{"v": 1, "time": "2025-01-01T00:00:00+00:00", "type": "message",')
        file.flush()
        assert backend.events(name, cursor) == ([], cursor)
        file.write(' "text": "whole"}\n')
    (tmp_path / "out" / "go").touch()
    finished(backend, name)
    rest, end = backend.events(name, cursor)
    assert [event.type for event in rest] == ["message", "result"]
    assert backend.events(name, end) == ([], end)
    assert [*first, *rest] == backend.events(name)[0]


def test_a_second_writer_of_one_output_is_refused(
    backend: LocalBackend, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN", "hold")
    name = backend.submit(make())
    with pytest.raises(OutputBusy, match=name) as caught:
        backend.submit(make(source="/data/other.zarr"))
    assert name in caught.value.remedy
    (tmp_path / "out" / "go").touch()
    finished(backend, name)
    finished(backend, backend.submit(make(source="/data/other.zarr")))


def test_a_job_that_waits_says_what_for(
    backend: LocalBackend, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN", "hold")
    names = [backend.submit(make(name)) for name in "abc"]
    until(lambda: backend.get(names[0]).status == "Running")
    assert "GEOZARR_MAX_JOBS" in backend.get(names[1]).reason
    assert backend.get(names[1]).reason.endswith("it is next")
    assert backend.get(names[2]).reason.endswith("1 wait before it")
    assert [state.reason for state in backend.list()] == [backend.get(name).reason for name in names]


def test_a_run_that_says_why_it_failed(backend: LocalBackend, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN", "fail")
    job = Job(backend, backend.submit(make())).wait(timeout=600)
    assert (job.status, job.reason) == ("Failed", "no space is left")
    with pytest.raises(ConversionFailed) as caught:
        job.raise_for_status()
    assert (caught.value.code, caught.value.exit_code, caught.value.retryable) == ("storage-full", 6, False)
    text = str(caught.value)
    parts = ("no space is left", "/data/product.zarr", job.output, "make space", "cannot write b02", job.name)
    assert all(part in text for part in (*parts, job.state.log))


def test_a_run_that_ends_without_a_word(backend: LocalBackend, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN", "silent")
    job = Job(backend, backend.submit(make())).wait(timeout=600)
    assert job.status == "Error"
    assert "exit code 1" in job.reason
    assert "ImportError: no module named x" in job.reason
    assert job.logs(tail=1) == ["  | ImportError: no module named x"]


def test_a_run_that_is_killed(backend: LocalBackend, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN", "die")
    state = finished(backend, backend.submit(make()))
    assert (state.status, state.failure and state.failure.retryable) == ("Error", True)
    assert "SIGKILL" in state.reason
    assert "memory" in state.reason


def test_a_command_that_cannot_be_started(tmp_path: Path, make: Make) -> None:
    backend = LocalBackend(tmp_path / "state", poll_interval=0.02, command=["/nonexistent/runner"])
    state = finished(backend, backend.submit(make()))
    assert state.status == "Error"
    assert "could not be started" in state.reason


def test_a_killed_worker_takes_neither_its_run_nor_the_queue_with_it(
    backend: LocalBackend, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN", "hold")
    names = [backend.submit(make(name)) for name in "ab"]
    until(lambda: backend.get(names[0]).stage is not None)
    for worker in workers_of(tmp_path / "state"):
        worker.kill()
        worker.wait()
    until(lambda: not workers_of(tmp_path / "state"))
    assert backend.get(names[0]).status == "Running"
    assert backend.get(names[1]).status == "Pending"  # the run still has the slot
    (tmp_path / "out" / "go").touch()
    assert [finished(backend, name).status for name in names] == ["Succeeded", "Succeeded"]


def test_a_worker_and_a_run_killed_together_are_an_error(
    backend: LocalBackend, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN", "hold")
    name = backend.submit(make())
    until(lambda: backend.get(name).stage is not None)
    left = tmp_path / "out" / ".a.partial"
    left.mkdir()
    for worker in workers_of(tmp_path / "state"):
        family = [worker, *worker.children(recursive=True)]
        for process in family:
            process.kill()
        psutil.wait_procs(family)
    state = finished(backend, name)
    assert state.status == "Error"
    assert "killed from outside" in state.reason
    assert not left.exists()
    assert LocalBackend(tmp_path / "state").get(name) == state  # who comes later sees the same


def test_cancel_before_it_runs(
    backend: LocalBackend, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN", "hold")
    first, second = (backend.submit(make(name)) for name in "ab")
    backend.cancel(second)
    state = backend.get(second)
    assert (state.status, state.reason, state.started) == ("Failed", "it was cancelled", None)
    backend.cancel(second)
    (tmp_path / "out" / "go").touch()
    finished(backend, first)
    assert "+b" not in (tmp_path / "out" / "trace").read_text()


def test_cancel_ends_what_will_not_end(backend: LocalBackend, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("geozarr_nb.backends.local.processes.GRACE", 0.5)
    monkeypatch.setenv("STAND_IN", "stubborn")
    name = backend.submit(make())
    until(lambda: len(backend.events(name)[0]) == 3)
    child = psutil.Process(int(backend.events(name)[0][-1]["text"].split()[1]))
    backend.cancel(name)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    assert backend.get(name).reason == "it was cancelled"
    backend.cancel(name)


def test_cancel_of_a_finished_job_does_nothing(backend: LocalBackend, make: Make) -> None:
    name = backend.submit(make())
    state = finished(backend, name)
    backend.cancel(name)
    assert backend.get(name) == state


def test_cancel_at_any_moment_ends_it_once(backend: LocalBackend, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also between the claim and the start, when there is no process yet to send a signal to."""
    monkeypatch.setenv("STAND_IN", "hold")
    for number in range(8):
        name = backend.submit(make(f"{number}"))
        time.sleep(0.02 * number)
        backend.cancel(name)
        assert backend.get(name).reason == "it was cancelled"


def test_secrets_are_given_to_the_run_and_left_nowhere(
    backend: LocalBackend, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN", "tell")
    request = make(source="https://me:hunter2@store.example/p.zarr?sig=s3cr3t", shown="https://store.example/p.zarr")
    name = backend.submit(request)
    finished(backend, name)
    folder = StateFolder(tmp_path / "state").job(name)
    assert any("reading https" in line for line in Job(backend, name).logs())
    assert not folder.private.exists()
    for path in folder.path.rglob("*"):
        if path.is_file():
            assert "hunter2" not in path.read_text()
            assert "s3cr3t" not in path.read_text()
    monkeypatch.setenv("STAND_IN", "fail")
    backend.retry(name, request)  # who still has the full address can
    finished(backend, name)
    with pytest.raises(InvalidRequest, match="not kept"):
        backend.retry(name)
    assert backend.get(name).attempt == 2


def test_a_short_query_is_no_secret_to_cross_out_of_the_log(backend: LocalBackend, make: Make, tmp_path: Path) -> None:
    name = backend.submit(make("a", source="https://host/p.zarr?t"))
    finished(backend, name)
    later = LocalBackend(tmp_path / "state")
    assert later.get(name).status == "Succeeded"
    assert any(event.type == "result" for event in later.events(name)[0])


def test_what_is_private_while_a_job_waits_is_its_owners(
    backend: LocalBackend, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN", "hold")
    backend.submit(make("a"))
    folder = StateFolder(tmp_path / "state").job(backend.submit(make("b")))
    assert folder.private.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    backend.cancel(folder.name)
    assert not folder.private.exists()


def test_a_state_folder_that_cannot_be_written_is_a_storage_failure(tmp_path: Path, make: Make) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFailed):
        LocalBackend(tmp_path / "file" / "state").submit(make())


def test_an_unknown_name_suggests_a_known_one(backend: LocalBackend, make: Make) -> None:
    name = backend.submit(make("product"))
    for wrong in (name[:-1], "../state", ""):
        with pytest.raises(JobNotFound):
            backend.get(wrong)
    with pytest.raises(JobNotFound) as caught:
        backend.get(name[:-1])
    assert name in caught.value.remedy


def test_a_state_folder_that_is_not_there_has_no_jobs(tmp_path: Path) -> None:
    assert LocalBackend(tmp_path / "nothing").list() == []
    assert not (tmp_path / "nothing").exists()


def test_watch_gives_every_change_and_stops(
    backend: LocalBackend, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN", "hold")
    stop, seen = threading.Event(), []

    def watch() -> None:
        seen.extend(backend.watch(stop))

    thread = threading.Thread(target=watch)
    thread.start()
    names = [backend.submit(make(name)) for name in "ab"]
    until(lambda: any(state.name == names[0] and state.progress is not None for state in seen))
    (tmp_path / "out" / "go").touch()
    for name in names:
        finished(backend, name)
        until(lambda name=name: any(state.name == name and state.is_finished for state in seen))
    stop.set()
    thread.join()
    for name in names:
        statuses = [state.status for state in seen if state.name == name]
        assert statuses[-1] == "Succeeded"
        assert sorted(statuses, key=["Pending", "Running", "Succeeded"].index) == statuses
    assert all(one != other for one, other in pairwise(seen))


def test_watch_tells_of_a_job_that_is_deleted(backend: LocalBackend, make: Make, tmp_path: Path) -> None:
    names = [backend.submit(make(name)) for name in "ab"]
    for name in names:
        finished(backend, name)
    watched = backend.watch(threading.Event())
    assert {next(watched).name, next(watched).name} == set(names)
    shutil.rmtree(tmp_path / "state" / "jobs" / names[0])
    gone = next(watched)
    assert (gone.name, gone.status, gone.is_gone) == (names[0], "Succeeded", True)
    backend.submit(make("a"))
    again = next(watched)
    assert (again.name, again.is_gone) == (names[0], False)
    finished(backend, names[0])


def test_waiting_can_end_before_the_job(backend: LocalBackend, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN", "hold")
    job = Job(backend, backend.submit(make()))
    with pytest.raises(WaitTimeout) as caught:
        job.wait(timeout=0.1)
    assert f'get_job("{job.name}").cancel()' in caught.value.remedy
    with pytest.raises(TimeoutError, match="1 of 1"):
        JobSet(backend, [job, Refused("x", "invalid-request", "no")]).wait(timeout=0.1)
    assert not job.state.is_finished


def test_following_ends_with_the_job(
    backend: LocalBackend, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN", "hold")
    job = Job(backend, backend.submit(make()))
    events = job.events(follow=True)
    assert next(events).type == "stage"
    (tmp_path / "out" / "go").touch()
    assert [event.type for event in events] == ["progress", "result"]
    assert list(job.logs(follow=True, tail=1)) == job.logs(tail=1)


def test_a_set_shows_and_repeats_what_failed(
    backend: LocalBackend, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN", "fail")
    bad = Job(backend, backend.submit(make("bad")))
    monkeypatch.setenv("STAND_IN", "succeed")
    good = Job(backend, backend.submit(make("good")))
    refused = Refused("nope.zarr", "product-not-found", "there is no product here", arguments={"source": "nope.zarr"})
    jobs = JobSet(backend, [bad, good, refused], name="n", resubmit=lambda arguments: good).wait(timeout=600)
    assert jobs.counts == {"Failed": 2, "Succeeded": 1}
    assert jobs.failed == [bad, refused]
    for text in (repr(jobs), jobs._repr_html_()):
        assert all(part in text for part in (bad.name, good.name, "nope.zarr", "no space is left"))
    assert jobs.retry_failed().wait(timeout=600).counts == {"Succeeded": 3}


def test_a_large_set_is_shown_in_part_with_what_failed_first(backend: LocalBackend) -> None:
    refused = [Refused(f"{number}.zarr", "x", "no") for number in range(2000)]
    jobs = JobSet(backend, refused)
    assert len(jobs._repr_html_()) < 20_000
    assert "and 1960 more" in repr(jobs)
    assert len(jobs.refused) == 2000


def test_a_worker_is_small(tmp_path: Path) -> None:
    """It lives as long as conversions run, so it must not load what they load."""
    state = StateFolder(tmp_path)
    state.create()
    code = "import geozarr_nb.backends.local.worker, resource, sys; sys.stdout.write(str(len(sys.modules)))"
    run = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 250


def test_a_killed_submitter_leaves_its_job(tmp_path: Path, command: list[str], make: Make) -> None:
    """The process dies in the same moment, without any chance to tidy up."""
    code = f"""
import os, signal, sys
from pathlib import Path
from geozarr_nb.backends.local.backend import LocalBackend
from geozarr_runner.spec.request import Request
import json
backend = LocalBackend(Path({str(tmp_path / "state")!r}), command={command!r})
request = Request.from_json(json.loads(sys.argv[1]))
backend.submit(request)
os.kill(os.getpid(), signal.SIGKILL)
"""
    request = make()
    run = subprocess.run([sys.executable, "-c", code, json.dumps(request.to_json())], env=dict(os.environ), check=False)
    assert run.returncode == -signal.SIGKILL
    assert finished(LocalBackend(tmp_path / "state"), request.name).status == "Succeeded"

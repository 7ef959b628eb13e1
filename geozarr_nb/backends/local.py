"""Jobs on this machine: folders that outlive every process, and workers that run what waits in them.

There is no daemon. Whoever submits starts a detached worker when a slot is free; the worker runs one job after the
other and leaves when none waits. A notebook's kernel may end at any moment: its jobs go on, and the next kernel finds
them. `folder` describes the files, `worker` the process.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from geozarr_nb.backends import worker
from geozarr_nb.backends.base import Cursor, Failure, JobState, Status
from geozarr_nb.backends.digest import Digest, read_events
from geozarr_nb.backends.folder import ADDRESS, JobFolder, StateFolder, read_json, write_json
from geozarr_nb.errors import InvalidRequest, JobNotFound, OutputBusy
from geozarr_nb.request import Request
from geozarr_runner.events import Event

RUNNER = (sys.executable, "-P", "-m", "geozarr_runner")
GRACE = 10.0
LOOK = 0.05
SECONDS_BETWEEN_REVIVALS = 1.0
_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
# Workers are not waited for; their handles are kept so that each can be reaped when it has left.
_workers: list[subprocess.Popen[bytes]] = []


class LocalBackend:
    """Runs jobs as processes of this machine.

    Parameters
    ----------
    state_dir
        Folder of the jobs; made when the first one is submitted.
    max_jobs
        How many run at once.
    poll_interval
        Seconds between two looks at a job.
    command
        The runner's command, for tests.
    """

    name = "local"

    def __init__(
        self,
        state_dir: Path,
        *,
        max_jobs: int = 1,
        poll_interval: float = 0.25,
        command: Sequence[str] = RUNNER,
    ) -> None:
        self.poll_interval = poll_interval
        self._folders = StateFolder(state_dir)
        self._max_jobs = max_jobs
        self._command = tuple(command)
        self._mutex = threading.RLock()
        self._dispatch_depth = 0
        self._digests: dict[str, tuple[int, int, Digest]] = {}  # order of the attempt, offset, what it said up to there
        self._finished: dict[str, tuple[int, JobState]] = {}  # by the ticket's mtime, which a new attempt changes
        self._revived = 0.0

    def __repr__(self) -> str:
        return f"LocalBackend({str(self._folders.root)!r}, max_jobs={self._max_jobs})"

    # The contract; what each call does is said in base.Backend.

    def submit(self, request: Request) -> str:
        """See `Backend.submit`."""
        self._folders.create()
        with self._dispatching():
            if self._has(request.name):
                state = self._state(request.name)
                if not state.is_finished:
                    return request.name
                self._refuse_second_writer(request)
                self._add(request, attempt=state.attempt + 1)
            else:
                self._refuse_second_writer(request)
                self._add(request, attempt=1)
        return request.name

    def get(self, name: str) -> JobState:
        """See `Backend.get`."""
        with self._mutex:
            return self._state(self._existing(name))

    def list(self) -> Sequence[JobState]:
        """See `Backend.list`."""
        with self._mutex:
            queue = self._queue()
            states = [self._state(name, queue) for name in self._folders.names() if self._has(name)]
        return sorted(states, key=lambda state: state.submitted)

    def events(self, name: str, cursor: Cursor | None = None) -> tuple[Sequence[Event], Cursor]:
        """See `Backend.events`."""
        return self._read(name, "events.jsonl", cursor)

    def log(self, name: str, cursor: Cursor | None = None) -> tuple[Sequence[Event], Cursor]:
        """See `Backend.log`."""
        return self._read(name, "log.jsonl", cursor)

    def cancel(self, name: str) -> None:
        """See `Backend.cancel`."""
        job = self._folders.job(self._existing(name))
        with self._dispatching():
            state = self._state(name)
            if state.is_finished:
                return
            if job.is_pending:
                write_json(job.exit, worker.ended(None, cancelled=True))
                job.private.unlink(missing_ok=True)
                return
            write_json(job.cancel, {"time": worker.now()})
        self._end(job)
        self._state_after_end(job)

    def retry(self, name: str, request: Request | None = None) -> None:
        """See `Backend.retry`."""
        with self._dispatching():
            state = self._state(self._existing(name))
            if state.is_finished:
                request = request or state.request
                self._refuse_second_writer(request)
                self._add(request, attempt=state.attempt + 1)

    def watch(self, stop: threading.Event) -> Iterator[JobState]:
        """See `Backend.watch`."""
        known: dict[str, JobState] = {}
        while not stop.is_set():
            for state in self.list():
                if known.get(state.name) != state:
                    known[state.name] = state
                    yield state
            stop.wait(self.poll_interval)

    # Adding

    def _add(self, request: Request, *, attempt: int) -> None:
        if request.withheld:
            raise InvalidRequest(
                "the address of this job held a password or a signature, which is not kept",
                given=request.shown,
                remedy="submit it again with the full address",
            )
        job = self._folders.job(request.name)
        if attempt > 1:
            job.archive(attempt - 1)
        job.path.mkdir(mode=0o700, exist_ok=True)
        write_json(job.request, request.to_json())
        environ = {name: value for name, value in os.environ.items() if name != "ARGO_GROUPS"}  # resolved already
        secrets = _secrets(request.source)
        write_json(job.private, {"source": request.source, "secrets": secrets, "environ": environ})
        ticket = {
            "order": time.time_ns(),
            "attempt": attempt,
            "submitted": worker.now(),
            "argv": [*self._command, *_arguments(request, job)],
        }
        write_json(job.ticket, ticket)
        self._start_worker()

    def _refuse_second_writer(self, request: Request) -> None:
        for name in self._folders.names():
            job = self._folders.job(name)
            if name == request.name or job.exit.exists() or not job.ticket.exists():
                continue
            other = self._state(name)
            if not other.is_finished and other.request.output == request.output:
                raise OutputBusy(
                    f"the job {name} ({other.status}) writes the same output",
                    given=request.output,
                    remedy=f'choose another output, or geozarr_nb.get_job("{name}").cancel()',
                )

    def _start_worker(self) -> None:
        """Start a worker if a slot is free; the caller keeps everyone else from dispatching."""
        _workers[:] = [process for process in _workers if process.poll() is None]
        slot = self._folders.take_slot(self._max_jobs)
        if slot is None:
            return
        command = (sys.executable, "-P", "-m", worker.__name__, str(self._folders.root), str(slot))
        try:
            with self._folders.workers_log.open("ab") as log:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self._folders.root,
                    start_new_session=True,
                    pass_fds=(slot,),
                )
        finally:
            os.close(slot)
        _workers.append(process)

    def _revive(self) -> None:
        """Start a worker when a job waits and a slot is free, as after a worker was killed."""
        if time.monotonic() - self._revived < SECONDS_BETWEEN_REVIVALS:
            return
        self._revived = time.monotonic()
        with self._dispatching():
            if self._folders.next_pending() is not None:
                self._start_worker()

    # Reading

    def _state(self, name: str, queue: Sequence[str] | None = None) -> JobState:
        job = self._folders.job(name)
        stamp = job.ticket.stat().st_mtime_ns
        remembered = self._finished.get(name)
        if remembered is not None and remembered[0] == stamp:
            return remembered[1]
        ticket, request = _needed(job.ticket), Request.from_json(_needed(job.request))
        exit_, claim = read_json(job.exit), read_json(job.claim)
        if exit_ is None and claim is not None and not job.is_held:
            exit_ = self._settle(job)
        digest = self._digest(job, ticket["order"])
        common: dict[str, Any] = {
            "name": name,
            "backend": self.name,
            "request": request,
            "submitted": datetime.fromisoformat(ticket["submitted"]),
            "attempt": ticket["attempt"],
            "stage": digest.stage,
            "progress": digest.progress,
            "started": None if claim is None else datetime.fromisoformat(claim["started"]),
            "log": str(job.log) if job.log.exists() else "",
        }
        if exit_ is None:
            if claim is not None:
                return JobState(status="Running", **common)
            self._revive()
            return JobState(
                status="Pending", reason=self._why_pending(name, self._queue() if queue is None else queue), **common
            )
        status, failure = _outcome(exit_, digest, cancelled=job.cancel.exists())
        state = JobState(
            status=status,
            failure=failure,
            reason=failure.message if failure else "",
            result=digest.result if status == "Succeeded" else None,
            finished=datetime.fromisoformat(exit_["finished"]),
            **common,
        )
        if exit_["code"] is None or exit_["code"] < 0:
            _discard_leftovers(request)
        self._finished[name] = (stamp, state)
        self._digests.pop(name, None)
        return state

    def _digest(self, job: JobFolder, order: int) -> Digest:
        known_order, offset, digest = self._digests.get(job.name, (order, 0, Digest()))
        if known_order != order:
            offset, digest = 0, Digest()
        events, offset = read_events(job.events, offset)
        digest.feed(events)
        self._digests[job.name] = (order, offset, digest)
        return digest

    def _settle(self, job: JobFolder) -> dict[str, Any]:
        """Write down the end of a job whose worker and run were killed, so that everyone sees the same."""
        with self._dispatching():
            exit_ = read_json(job.exit)
            if exit_ is None:
                exit_ = worker.ended(None, lost=True)
                write_json(job.exit, exit_)
                job.private.unlink(missing_ok=True)
        return exit_

    def _read(self, name: str, file: str, cursor: Cursor | None) -> tuple[Sequence[Event], Cursor]:
        job = self._folders.job(self._existing(name))
        attempt = int(_needed(job.ticket)["attempt"])
        if cursor is None:
            cursor = Cursor(attempt, 0)
        folder = job.path if cursor.attempt == attempt else job.attempt_folder(cursor.attempt)
        events, offset = read_events(folder / file, cursor.offset)
        return events, Cursor(cursor.attempt, offset)

    def _queue(self) -> Sequence[str]:
        """Return the names of the jobs that wait, the next one first."""
        orders = {name: self._folders.order(name) for name in self._folders.names()}
        return sorted((name for name, order in orders.items() if order is not None), key=lambda name: orders[name] or 0)

    def _why_pending(self, name: str, queue: Sequence[str]) -> str:
        before = queue.index(name) if name in queue else 0
        if not before and self._count_running() < self._max_jobs:
            return "it is about to start"
        bound = "one job runs" if self._max_jobs == 1 else f"{self._max_jobs} jobs run"
        place = f"{before} wait before it" if before else "it is next"
        return f"{bound} at a time on this machine (GEOZARR_MAX_JOBS), {place}"

    def _count_running(self) -> int:
        jobs = (self._folders.job(name) for name in self._folders.names())
        return sum(job.claim.exists() and not job.exit.exists() for job in jobs)

    def _has(self, name: str) -> bool:
        return _NAME.fullmatch(name) is not None and self._folders.job(name).ticket.exists()

    def _existing(self, name: str) -> str:
        if self._has(name):
            return name
        if _NAME.fullmatch(name) and self._folders.job(name).path.is_dir():
            with self._dispatching():  # a new attempt may be taking the place of an old one
                if self._has(name):
                    return name
        near = get_close_matches(name, self._folders.names(), n=3, cutoff=0.5)
        raise JobNotFound(
            "there is no job of this name on this machine",
            given=name,
            remedy=f"{' or '.join(near)} may be meant" if near else "geozarr_nb.list_jobs() shows all of them",
        )

    # Ending

    def _end(self, job: JobFolder) -> None:
        """End a running job's processes, gently first."""
        deadline = time.monotonic() + GRACE
        asked = False
        family: list[psutil.Process] = []
        while job.is_held and not job.exit.exists():
            run = _run_of(job)
            if run is not None:
                family = _family(run) or family
                if not asked:
                    with suppress(ProcessLookupError):
                        os.killpg(run.pid, signal.SIGTERM)
                    asked = True
            if time.monotonic() > deadline:
                _kill(family)
            time.sleep(LOOK)
        _kill(family)

    def _state_after_end(self, job: JobFolder) -> None:
        with self._mutex:
            state = self._state(job.name)
        _discard_leftovers(state.request)

    @contextmanager
    def _dispatching(self) -> Iterator[None]:
        """Keep other processes and threads from dispatching; may be nested."""
        with self._mutex:
            if self._dispatch_depth:
                yield
                return
            with self._folders.dispatching():
                self._dispatch_depth = 1
                try:
                    yield
                finally:
                    self._dispatch_depth = 0


def _arguments(request: Request, job: JobFolder) -> list[str]:
    """Return the runner's arguments; the address is filled in by the worker."""
    arguments = ["convert", ADDRESS, request.output]
    if request.groups:
        arguments += ["--groups", *request.groups]
    arguments += ["--validate-groups", "true" if request.validate_groups else "false"]
    arguments += ["--if-exists", request.if_exists, "--identity", request.identity]
    if request.scratch:
        arguments += ["--scratch", request.scratch]
    if request.dask_cluster:
        arguments.append("--dask-cluster")
    if request.verbose:
        arguments.append("--verbose")
    return [*arguments, "--log", str(job.log), "--json"]


def _secrets(source: str) -> list[str]:
    """Return the parts of an address that must not be left in a file."""
    if "://" not in source:
        return []
    parts = urlsplit(source)
    user = parts.netloc.rpartition("@")[0]
    return [part for part in (f"{user}@" if user else "", parts.query) if part]


def _outcome(exit_: dict[str, Any], digest: Digest, *, cancelled: bool) -> tuple[Status, Failure | None]:
    """Return how a job ended, and why."""
    code = exit_["code"]
    again = "run it again: job.retry()"
    if digest.result is not None and code in (0, None):
        return "Succeeded", None
    if exit_.get("cancelled") or cancelled:
        return "Failed", Failure("cancelled", "it was cancelled", remedy=again, exit_code=7, retryable=True)
    if problem := exit_.get("problem"):
        return "Error", Failure("not-started", problem, remedy="check the installation: geozarr-nb doctor")
    if digest.failure is not None:
        return "Failed", digest.failure
    if code is None or code < 0:
        by = f"by {signal.Signals(-code).name}" if code else "together with its worker"
        return "Error", Failure(
            "converter-killed",
            f"the run was killed from outside ({by}), as a rule because memory ran out",
            remedy=f"free memory, or choose fewer groups, and {again}",
            exit_code=4,
            retryable=True,
        )
    words = " / ".join(exit_.get("last_words", [])[-1:])
    message = f"the run ended with exit code {code} and no result" + (f": {words}" if words else "")
    remedy = "look at job.logs(), and check the installation: geozarr-nb doctor"
    return "Error", Failure("defect", message, remedy=remedy)


def _needed(path: Path) -> dict[str, Any]:
    document = read_json(path)
    if document is None:
        raise JobNotFound(
            "the job's folder is incomplete", given=str(path), remedy="remove the folder, and submit again"
        )
    return document


def _discard_leftovers(request: Request) -> None:
    """Remove what a killed run left beside its output."""
    from geozarr_runner.publish import discard_leftovers

    discard_leftovers(request.output)


def _run_of(job: JobFolder) -> psutil.Process | None:
    """Return the process of a running job; None before it started or after it ended."""
    claim = read_json(job.claim)
    if claim is None or claim["pid"] is None:
        return None
    try:
        process = psutil.Process(claim["pid"])
        # A process number may be in use again by something else; the path of the log can not.
        return process if str(job.log) in process.cmdline() else None
    except psutil.NoSuchProcess:
        return None


def _family(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _kill(processes: Sequence[psutil.Process]) -> None:
    """Kill what still runs, and return when it does not."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    deadline = time.monotonic() + GRACE
    while any(map(_lives, processes)) and time.monotonic() < deadline:
        time.sleep(LOOK)


def _lives(process: psutil.Process) -> bool:
    try:
        # In a container nobody may collect a dead process whose parent died first.
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False

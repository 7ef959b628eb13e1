"""Jobs on this machine: folders that outlive every process, and workers that run what waits in them.

There is no daemon. Whoever submits starts a detached worker when a slot is free; the worker runs one job after the
other and leaves when none waits. A notebook's kernel may end at any moment: its jobs go on, and the next kernel finds
them. `folder` describes the files, `worker` the process.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from geozarr_nb.backends import worker
from geozarr_nb.backends.base import Cursor, JobState, changes
from geozarr_nb.backends.digest import Digest, read_events
from geozarr_nb.backends.folder import ADDRESS, JobFolder, StateFolder, read_json, write_json
from geozarr_nb.backends.outcome import outcome
from geozarr_nb.backends.processes import end_run
from geozarr_nb.errors import InvalidRequest, JobNotFound, OutputBusy, StorageFailed
from geozarr_nb.request import Request
from geozarr_runner.addresses import secrets
from geozarr_runner.events import Event
from geozarr_runner.product import Product
from geozarr_runner.publish import storage_errors
from geozarr_runner.upload import discard_leftovers, output_place

RUNNER = (sys.executable, "-P", "-m", "geozarr_runner")
SECONDS_BETWEEN_REVIVALS = 1.0
_Stamp = tuple[int, int]
_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")


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
    uses_scratch = True
    uses_image = False

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
        # What was read before, so that looking often and at many jobs costs little; a new attempt has a new stamp.
        self._submissions: dict[str, _Submission] = {}
        self._digests: dict[str, tuple[_Stamp, int, Digest]] = {}
        self._finished: dict[str, tuple[_Stamp, JobState]] = {}
        self._leftovers: set[tuple[str, str]] = set()
        self._revived = 0.0

    def __repr__(self) -> str:
        return f"LocalBackend({str(self._folders.root)!r}, max_jobs={self._max_jobs})"

    # The contract; what each call does is said in base.Backend.

    def locate(self, output: str | os.PathLike[str]) -> str:
        """See `Backend.locate`."""
        return str(output_place(output))

    def check(self, request: Request, product: Product) -> bool:
        """See `Backend.check`."""
        return request.check(product)

    def submit(self, request: Request) -> str:
        """See `Backend.submit`."""
        with storage_errors(self._folders.root):
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
        with self._reading():
            waits = self._folders.job(self._existing(name)).is_pending
            return self._state(name, self._places() if waits else None)

    def list(self) -> Sequence[JobState]:
        """See `Backend.list`."""
        with self._reading():
            places = self._places()
            states = [self._state(name, places) for name in self._folders.names() if self._has(name)]
        return sorted(states, key=lambda state: state.submitted)

    def events(self, name: str, cursor: Cursor | None = None) -> tuple[Sequence[Event], Cursor]:
        """See `Backend.events`."""
        return self._read(name, "events.jsonl", cursor)

    def log(self, name: str, cursor: Cursor | None = None) -> tuple[Sequence[Event], Cursor]:
        """See `Backend.log`."""
        return self._read(name, "log.jsonl", cursor)

    def cancel(self, name: str) -> None:
        """See `Backend.cancel`."""
        job = self._folders.job(name)
        with self._reading():
            state = self._state(self._existing(name))
            if state.is_finished:
                return
            if job.is_pending:
                write_json(job.exit, worker.ended(None, cancelled=True))
                job.private.unlink(missing_ok=True)
                return
            write_json(job.cancel, {"time": worker.now()})
        end_run(job)
        with self._reading():
            self._leave_over(self._state(name).request)

    def retry(self, name: str, request: Request | None = None) -> None:
        """See `Backend.retry`."""
        with self._reading():
            state = self._state(self._existing(name))
            if state.is_finished:
                request = request or state.request
                self._refuse_second_writer(request)
                self._add(request, attempt=state.attempt + 1)

    def watch(self, stop: threading.Event) -> Iterator[JobState]:
        """See `Backend.watch`."""
        known: dict[str, JobState] = {}
        while not stop.is_set():
            yield from changes(known, self.list())
            stop.wait(self.poll_interval)

    # Adding

    def _add(self, request: Request, *, attempt: int) -> None:
        if request.withheld:
            raise InvalidRequest(
                "the address of this job held a password or a signature, which is not kept",
                given=request.shown,
                remedy="submit it again with the full address",
            )
        with storage_errors(self._folders.root):
            self._write(request, attempt)
        self._start_worker()

    def _write(self, request: Request, attempt: int) -> None:
        job = self._folders.job(request.name)
        if attempt > 1:
            job.archive(attempt - 1)
        job.path.mkdir(mode=0o700, exist_ok=True)
        write_json(job.request, request.to_json())
        environ = {name: value for name, value in os.environ.items() if name != "ARGO_GROUPS"}  # resolved already
        write_json(job.private, {"source": request.source, "secrets": secrets(request.source), "environ": environ})
        ticket = {
            "order": time.time_ns(),
            "attempt": attempt,
            "submitted": worker.now(),
            "argv": [*self._command, *_arguments(request, job)],
        }
        write_json(job.ticket, ticket)

    def _refuse_second_writer(self, request: Request) -> None:
        for name in self._folders.names():
            job = self._folders.job(name)
            if name == request.name or job.exit.exists() or not job.ticket.exists():
                continue
            if self._submission(name).request.output == request.output and not self._state(name).is_finished:
                raise OutputBusy(
                    f"the job {name}, which has not finished, writes the same output",
                    given=request.output,
                    remedy=f'choose another output, or geozarr_nb.get_job("{name}").cancel()',
                )

    def _start_worker(self) -> None:
        """Start a worker if a slot is free; the caller keeps everyone else from dispatching."""
        slot = self._folders.take_slot(self._max_jobs)
        if slot is not None:
            try:
                worker.start(self._folders, slot)
            finally:
                os.close(slot)

    def _revive(self) -> None:
        """Start a worker when a job waits and a slot is free, as after a worker was killed."""
        if time.monotonic() - self._revived < SECONDS_BETWEEN_REVIVALS:
            return
        self._revived = time.monotonic()
        with self._dispatching():
            if self._folders.next_pending() is not None:
                self._start_worker()

    # Reading

    def _state(self, name: str, places: Mapping[str, int] | None = None) -> JobState:
        """Return a job's state; why it waits is said where the places of those that wait are given."""
        job = self._folders.job(name)
        stamp = _stamp_of(job)
        remembered = self._finished.get(name)
        if remembered is not None and remembered[0] == stamp:
            return remembered[1]
        submission = self._submission(name)
        exit_, claim = read_json(job.exit), read_json(job.claim)
        if exit_ is None and claim is not None and not job.is_held:
            exit_ = self._settle(job)
        digest = self._digest(job, stamp)
        common: dict[str, Any] = {
            "name": name,
            "backend": self.name,
            "request": submission.request,
            "submitted": submission.submitted,
            "attempt": submission.attempt,
            "stage": digest.stage,
            "progress": digest.progress,
            "started": None if claim is None else datetime.fromisoformat(claim["started"]),
            "log": str(job.log) if job.log.exists() else "",
        }
        if exit_ is None:
            if claim is not None:
                return JobState(status="Running", **common)
            self._revive()
            reason = "" if places is None else self._why_pending(places.get(name, 0))
            return JobState(status="Pending", reason=reason, **common)
        status, failure = outcome(exit_, digest, cancelled=job.cancel.exists())
        state = JobState(
            status=status,
            failure=failure,
            reason=failure.message if failure else "",
            result=digest.result if status == "Succeeded" else None,
            finished=datetime.fromisoformat(exit_["finished"]),
            **common,
        )
        if exit_["code"] is None or exit_["code"] < 0:
            self._leave_over(submission.request)
        self._finished[name] = (stamp, state)
        self._digests.pop(name, None)
        return state

    def _submission(self, name: str) -> _Submission:
        job = self._folders.job(name)
        stamp = _stamp_of(job)
        known = self._submissions.get(name)
        if known is None or known.stamp != stamp:
            ticket, request = _needed(job.ticket), _needed(job.request)
            submitted = datetime.fromisoformat(ticket["submitted"])
            known = _Submission(stamp, ticket["order"], ticket["attempt"], submitted, Request.from_json(request))
            self._submissions[name] = known
        return known

    def _digest(self, job: JobFolder, stamp: _Stamp) -> Digest:
        known, offset, digest = self._digests.get(job.name, (stamp, 0, Digest()))
        if known != stamp:
            offset, digest = 0, Digest()
        events, offset = read_events(job.events, offset)
        digest.feed(events)
        self._digests[job.name] = (stamp, offset, digest)
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
        job = self._folders.job(name)
        with self._reading():
            attempt = self._submission(self._existing(name)).attempt
            if cursor is None:
                cursor = Cursor(attempt, 0)
            folder = job.path if cursor.attempt == attempt else job.attempt_folder(cursor.attempt)
            events, offset = read_events(folder / file, cursor.offset)
        return events, Cursor(cursor.attempt, offset)

    def _places(self) -> Mapping[str, int]:
        """Return how many jobs wait before each one that waits."""
        waiting = [name for name in self._folders.names() if self._folders.job(name).is_pending]
        waiting.sort(key=lambda name: self._submission(name).order)
        return {name: place for place, name in enumerate(waiting)}

    def _why_pending(self, before: int) -> str:
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
        near = get_close_matches(name, self._folders.names(), n=3, cutoff=0.5)
        raise JobNotFound(
            "there is no job of this name on this machine",
            given=name,
            remedy=f"{' or '.join(near)} may be meant" if near else "geozarr_nb.list_jobs() shows all of them",
        )

    # Keeping out of each other's way

    def _reading(self) -> AbstractContextManager[None]:
        """Keep others from putting a new attempt in the place of an old one meanwhile."""
        # There is nothing to keep from where nothing was ever submitted, and reading makes no folders.
        return self._dispatching() if self._folders.root.is_dir() else nullcontext()

    def _leave_over(self, request: Request) -> None:
        """Have what a run may have left removed once others may go on."""
        self._leftovers.add((request.output, request.scratch))

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
            leftovers, self._leftovers = self._leftovers, set()
        # Not before others may go on: it can be gigabytes.
        for output, scratch in leftovers:
            # What cannot be removed now is found by the next run for the same output.
            with suppress(OSError, StorageFailed):
                discard_leftovers(output_place(output), Path(scratch) if scratch else None)


@dataclass(frozen=True, slots=True)
class _Submission:
    """What was written down when an attempt was submitted."""

    stamp: _Stamp
    order: int
    attempt: int
    submitted: datetime
    request: Request


def _stamp_of(job: JobFolder) -> _Stamp:
    """Return what tells the present ticket from those of earlier attempts."""
    found = job.ticket.stat()
    return found.st_ino, found.st_mtime_ns


def _arguments(request: Request, job: JobFolder) -> list[str]:
    """Return the runner's arguments; the address is filled in by the worker."""
    arguments = ["convert", ADDRESS, request.output]
    if request.groups:
        arguments += ["--groups", *request.groups]
    arguments += ["--validate-groups", "true" if request.validate_groups else "false"]
    arguments += ["--if-exists", request.if_exists, "--identity", request.identity]
    if request.scratch:
        arguments += ["--scratch", request.scratch]
    if request.archive:
        arguments.append("--archive")
    if request.packed:
        arguments.append("--packed")
    if request.item:
        arguments += ["--derived-from", request.item]
    if request.asked is not None:
        arguments.append(f"--asked={request.asked}")
    if request.dask_cluster:
        arguments.append("--dask-cluster")
    if request.verbose:
        arguments.append("--verbose")
    return [*arguments, "--log", str(job.log), "--json"]


def _needed(path: Path) -> dict[str, Any]:
    document = read_json(path)
    if document is None:
        raise JobNotFound(
            "the job's folder is incomplete", given=str(path), remedy="remove the folder, and submit again"
        )
    return document

"""Jobs on this machine: each is a folder, and worker processes run the jobs that wait.

There is no daemon. The process that submits a job starts a detached worker if a slot is free. The worker runs one job
after the other and ends when none waits. A notebook's kernel can end at any moment: its jobs go on, and the next kernel
finds them. `state_folder` describes the files, `worker` the process.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

from geozarr_nb.backends.base import Cursor, Failure, JobState, changes
from geozarr_nb.backends.local import worker
from geozarr_nb.backends.local.environ import kept
from geozarr_nb.backends.local.outcome import outcome
from geozarr_nb.backends.local.processes import end_run
from geozarr_nb.backends.local.state_folder import (
    NAME,
    JobFolder,
    StateFolder,
    Ticket,
    is_there,
    parse_time,
    read_json,
    understood,
    write_json,
    written,
)
from geozarr_nb.backends.run_state import RunState, read_events
from geozarr_nb.errors import (
    GeozarrError,
    InvalidRequest,
    JobNotFound,
    OutputBusy,
    StateUnusable,
    StorageFailed,
)
from geozarr_nb.request import Request, check
from geozarr_nb.settings import Settings
from geozarr_runner.converter.command import VARIABLE, find_converter
from geozarr_runner.events import Event
from geozarr_runner.product.model import Product
from geozarr_runner.publishing.local import storage_errors
from geozarr_runner.publishing.object_store import discard_leftovers
from geozarr_runner.publishing.remote_output import output_place
from geozarr_runner.trust.addresses import secrets

RUNNER = worker.RUNNER
_logger = logging.getLogger(__name__)
SECONDS_BETWEEN_REVIVALS = 1.0
_Stamp = tuple[int, int]


class LocalBackend:
    """Runs jobs as processes of this machine.

    Parameters
    ----------
    state_dir
        The state folder, which is made when the first job is submitted.
    max_jobs
        Number of jobs that run at the same time.
    poll_interval
        Seconds between two looks at a job.
    command
        The runner's command, for tests.
    environment
        Names of further environment variables for runs; `*` stands for any characters.
    converter
        The path of a converter in another environment; empty for the one beside the runner.
    """

    name = "local"
    label = "this machine"
    uses_scratch = True
    uses_image = False

    def __init__(
        self,
        state_dir: Path,
        *,
        max_jobs: int = 1,
        poll_interval: float = 0.25,
        command: Sequence[str] = RUNNER,
        environment: Sequence[str] = (),
        converter: str = "",
    ) -> None:
        self.poll_interval = poll_interval
        self._folders = StateFolder(state_dir)
        self._max_jobs = max_jobs
        self._command = tuple(command)
        self._environment = tuple(environment)
        self._converter = converter
        self._mutex = threading.RLock()
        self._dispatch_depth = 0
        # Caches, so that frequent looks at many jobs cost little. A new attempt has a new stamp.
        self._submissions: dict[str, _Submission] = {}
        self._digests: dict[str, tuple[_Stamp, int, RunState]] = {}
        self._finished: dict[str, tuple[_Stamp, JobState]] = {}
        self._leftovers: set[tuple[str, str]] = set()
        self._revived = 0.0

    @classmethod
    def of(cls, settings: Settings) -> LocalBackend:
        """See `Backend.of`."""
        return _opened(
            settings.state_dir,
            settings.max_jobs,
            settings.poll_interval,
            settings.environment,
            settings.converter,
        )

    def __repr__(self) -> str:
        return f"LocalBackend({str(self._folders.root)!r}, max_jobs={self._max_jobs})"

    # The contract: base.Backend describes each call.

    def locate(self, output: str | os.PathLike[str]) -> str:
        """See `Backend.locate`."""
        return str(output_place(output))

    def check(self, request: Request, product: Product) -> bool:
        """See `Backend.check`."""
        is_done = check(request, product)
        if self._converter and not is_done:
            find_converter(self._converter)
        return is_done

    def submit(self, request: Request) -> str:
        """See `Backend.submit`."""
        with self._storing():
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
            return self._look(name, self._places() if waits else None)

    def list(self) -> Sequence[JobState]:
        """See `Backend.list`."""
        with self._reading():
            places = self._places()
            states = []
            for name in self._folders.names():
                with suppress(JobNotFound):  # a person removes folders while this looks at them
                    states += [self._look(name, places)] if self._has(name) else []
        return sorted(states, key=lambda state: state.submitted)

    def events(self, name: str, cursor: Cursor | None = None) -> tuple[Sequence[Event], Cursor]:
        """See `Backend.events`."""
        return self._read(name, "events.jsonl", cursor)

    def log(self, name: str, cursor: Cursor | None = None) -> tuple[Sequence[Event], Cursor]:
        """See `Backend.log`."""
        return self._read(name, "log.jsonl", cursor)

    def cancel(self, *names: str) -> None:
        """See `Backend.cancel`."""
        for name in names:
            self._cancel(name)

    def _cancel(self, name: str) -> None:
        job = self._folders.job(name)
        with self._reading():
            state = self._state(self._existing(name))
            if state.is_finished:
                return
            with self._storing():
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
        with self._storing():
            slot = self._folders.take_slot(self._max_jobs)
            try:
                self._write(request, attempt)
                self._start_worker(slot)
            finally:
                if slot is not None:
                    os.close(slot)

    def _write(self, request: Request, attempt: int) -> None:
        job = self._folders.job(request.name)
        environ = kept(os.environ, self._environment)
        if self._converter:  # with its full name: a run has another working directory
            environ[VARIABLE] = self._converter
        private = {"source": request.source, "secrets": secrets(request.source), "environ": environ}
        ticket = {
            "order": time.time_ns(),
            "attempt": attempt,
            "submitted": worker.now(),
            "argv": [*self._command, *worker.arguments(job)],
        }
        # The ticket is written last: a folder with a ticket is a job.
        documents = {job.request: request.to_json(), job.private: private, job.ticket: ticket}
        with job.making(), written(documents):
            if attempt > 1:
                job.archive(attempt - 1)

    def _refuse_second_writer(self, request: Request) -> None:
        for name in self._folders.names():
            job = self._folders.job(name)
            if name == request.name or is_there(job.exit) or not is_there(job.ticket):
                continue
            try:
                is_writer = self._submission(name).request.output == request.output
                is_writer = is_writer and not self._state(name).is_finished
            except GeozarrError:
                continue  # its output is unknown here, but the runs themselves lock their output
            if is_writer:
                raise OutputBusy(
                    f"the job {name}, which has not finished, writes the same output",
                    given=request.output,
                    remedy=f'choose another output, or geozarr_nb.get_job("{name}").cancel()',
                )

    def _start_worker(self, slot: int | None) -> None:
        """Start a worker if a slot is given; the caller holds the dispatch lock."""
        if slot is None:
            return
        try:
            worker.start(self._folders, slot, self._command)
        except OSError as error:  # for example, no process is left: the job waits, and a later look starts a worker
            _logger.warning("no worker could be started: %s", error)

    def _revive(self) -> None:
        """Start a worker if a job waits and a slot is free, for example after a worker was killed."""
        if time.monotonic() - self._revived < SECONDS_BETWEEN_REVIVALS:
            return
        self._revived = time.monotonic()
        with self._dispatching():
            if self._folders.next_pending() is None:
                return
            with self._storing():
                slot = self._folders.take_slot(self._max_jobs)
            try:
                self._start_worker(slot)
            finally:
                if slot is not None:
                    os.close(slot)

    # Reading

    def _look(self, name: str, places: Mapping[str, int] | None = None) -> JobState:
        """Return a job's state. A job whose folder cannot be used has the status Error and a reason."""
        try:
            return self._state(name, places)
        except (InvalidRequest, StateUnusable) as error:
            return _odd(self._folders.job(name), error)

    def _state(self, name: str, places: Mapping[str, int] | None = None) -> JobState:
        """Return a job's state; the reason of a waiting job needs `places`, the queue of all waiting jobs."""
        job = self._folders.job(name)
        stamp = _stamp_of(job)
        remembered = self._finished.get(name)
        if remembered is not None and remembered[0] == stamp:
            return remembered[1]
        submission = self._submission(name)
        exit_, claim = _exit_of(job), job.read_claim()
        if exit_ is None and claim is not None and not job.is_held:
            exit_ = self._settle(job)
        digest = self._digest(job, stamp)
        common: dict[str, Any] = {
            "name": name,
            "backend": self.name,
            "request": submission.request,
            "submitted": submission.ticket.submitted,
            "attempt": submission.ticket.attempt,
            "stage": digest.stage,
            "progress": digest.progress,
            "started": None if claim is None else claim.started,
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
            finished=exit_["finished"],
            **common,
        )
        if exit_["code"] is None or exit_["code"] < 0:
            self._leave_over(submission.request)
        if is_there(job.exit):
            self._finished[name] = (stamp, state)
            self._digests.pop(name, None)
        return state

    def _submission(self, name: str) -> _Submission:
        job = self._folders.job(name)
        stamp = _stamp_of(job)
        known = self._submissions.get(name)
        if known is None or known.stamp != stamp:
            job.check()
            ticket, request = _needed(job.read_ticket(), job.ticket), _needed(read_json(job.request), job.request)
            with understood(job.request):
                known = _Submission(stamp, ticket, Request.from_json(request))
            self._submissions[name] = known
        return known

    def _digest(self, job: JobFolder, stamp: _Stamp) -> RunState:
        known, offset, digest = self._digests.get(job.name, (stamp, 0, RunState()))
        if known != stamp:
            offset, digest = 0, RunState()
        events, offset = read_events(job.events, offset)
        digest.feed(events)
        self._digests[job.name] = (stamp, offset, digest)
        return digest

    def _settle(self, job: JobFolder) -> dict[str, Any]:
        """Store the end of a job whose worker and run were killed, so that every process sees the same state."""
        with self._dispatching():
            if (known := _exit_of(job)) is not None:
                return known
            lost = worker.ended(None, lost=True)
            # A full disk may have ended the job; then a later look stores its end.
            with suppress(StorageFailed), self._storing():
                job.private.unlink(missing_ok=True)
                write_json(job.exit, lost)
        return _exit_in(lost, job.exit)

    def _read(self, name: str, file: str, cursor: Cursor | None) -> tuple[Sequence[Event], Cursor]:
        job = self._folders.job(name)
        with self._reading():
            attempt = self._submission(self._existing(name)).ticket.attempt
            if cursor is None:
                cursor = Cursor(attempt, 0)
            folder = job.path if cursor.attempt == attempt else job.attempt_folder(cursor.attempt)
            events, offset = read_events(folder / file, cursor.offset)
        return events, Cursor(cursor.attempt, offset)

    def _places(self) -> Mapping[str, int]:
        """Return for each waiting job the number of jobs that wait before it."""
        waiting = ((self._folders.order(name), name) for name in self._folders.names())
        places = sorted((order, name) for order, name in waiting if order is not None)
        return {name: place for place, (_, name) in enumerate(places)}

    def _why_pending(self, before: int) -> str:
        if not before and self._count_running() < self._max_jobs:
            return "it is about to start"
        bound = "one job runs" if self._max_jobs == 1 else f"{self._max_jobs} jobs run"
        place = f"{before} wait before it" if before else "it is next"
        return f"{bound} at a time on this machine (GEOZARR_MAX_JOBS), {place}"

    def _count_running(self) -> int:
        jobs = (self._folders.job(name) for name in self._folders.names())
        return sum(is_there(job.claim) and not is_there(job.exit) for job in jobs)

    def _has(self, name: str) -> bool:
        if not NAME.fullmatch(name):
            return False
        job = self._folders.job(name)
        return is_there(job.ticket) or job.is_closed

    def _existing(self, name: str) -> str:
        if self._has(name):
            return name
        near = get_close_matches(name, self._folders.names(), n=3, cutoff=0.5)
        raise JobNotFound(
            "there is no job of this name on this machine",
            given=name,
            remedy=f"{' or '.join(near)} may be meant" if near else "geozarr_nb.list_jobs() shows all of them",
        )

    # Locks and errors

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Hold the dispatch lock while files are read, so that no new attempt replaces them."""
        # Without a state folder there is nothing to lock, and reading must not make the folder.
        with self._storing(), self._dispatching() if self._folders.root.is_dir() else nullcontext():
            yield

    @contextmanager
    def _storing(self) -> Iterator[None]:
        """Turn an `OSError` about the state folder into a `StorageFailed`."""
        try:
            with storage_errors(self._folders.root):
                yield
        except StorageFailed as error:
            if "GEOZARR_STATE_DIR" not in error.remedy:
                error.remedy = f"{error.remedy}: set GEOZARR_STATE_DIR"
            raise

    def _leave_over(self, request: Request) -> None:
        """Remember to remove a run's leftovers when the dispatch lock is free again."""
        self._leftovers.add((request.output, str(request.options["scratch"])))

    @contextmanager
    def _dispatching(self) -> Iterator[None]:
        """Hold the dispatch lock against other processes and threads; blocks can be nested."""
        with self._mutex:
            if self._dispatch_depth:
                yield
                return
            with ExitStack() as held:
                with self._storing():
                    held.enter_context(self._folders.dispatching())
                self._dispatch_depth = 1
                try:
                    yield
                finally:
                    self._dispatch_depth = 0
            leftovers, self._leftovers = self._leftovers, set()
        # Leftovers can be gigabytes, so they are removed after the lock is free.
        for output, scratch in leftovers:
            # The next run for the same output removes leftovers that cannot be removed now.
            with suppress(OSError, GeozarrError):
                discard_leftovers(output_place(output), Path(scratch) if scratch else None)


@dataclass(frozen=True, slots=True)
class _Submission:
    """The stored request and ticket of an attempt."""

    stamp: _Stamp
    ticket: Ticket
    request: Request


@lru_cache(maxsize=8)
def _opened(
    state_dir: Path, max_jobs: int, poll_interval: float, environment: tuple[str, ...], converter: str
) -> LocalBackend:
    return LocalBackend(
        state_dir, max_jobs=max_jobs, poll_interval=poll_interval, environment=environment, converter=converter
    )


def _odd(job: JobFolder, error: GeozarrError) -> JobState:
    """Return the state of a job whose folder cannot be used."""
    found = job.path.lstat() if job.is_closed else _looked_at(job, follow=False)
    return JobState(
        name=job.name,
        backend=LocalBackend.name,
        request=Request(source="", shown="?", product=job.name, output=""),
        status="Error",
        submitted=datetime.fromtimestamp(found.st_mtime, UTC),
        reason=error.message,
        failure=Failure(error.code, error.message, str(error.given or ""), error.remedy, int(error.exit_code)),
    )


def _stamp_of(job: JobFolder) -> _Stamp:
    """Return a stamp that differs between the tickets of two attempts."""
    found = _looked_at(job)
    return found.st_ino, found.st_mtime_ns


def _looked_at(job: JobFolder, *, follow: bool = True) -> os.stat_result:
    try:
        return job.ticket.stat(follow_symlinks=follow)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise JobNotFound(
            "the job's folder was removed meanwhile", given=job.name, remedy="geozarr_nb.list_jobs() shows all jobs"
        ) from error
    except PermissionError:
        job.check()
        raise


def _exit_of(job: JobFolder) -> dict[str, Any] | None:
    """Return how and when a job ended; None if it has not."""
    document = read_json(job.exit)
    return None if document is None else _exit_in(document, job.exit)


def _exit_in(document: Mapping[str, Any], path: Path) -> dict[str, Any]:
    with understood(path):
        code = document["code"]
        words = [str(word) for word in document.get("last_words", ())]
        return {
            **document,
            "code": None if code is None else int(code),
            "finished": parse_time(document["finished"]),
            "last_words": words,
            "problem": str(document.get("problem") or ""),
        }


def _needed[T](found: T | None, path: Path) -> T:
    if found is None:
        raise JobNotFound(
            "the job's folder is incomplete", given=str(path), remedy="remove the folder, and submit again"
        )
    return found

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
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from geozarr_nb.backends.base import Cursor, Failure, JobState, changes
from geozarr_nb.backends.job_names import alike
from geozarr_nb.backends.local import worker
from geozarr_nb.backends.local.dispatch import Dispatch
from geozarr_nb.backends.local.environ import kept
from geozarr_nb.backends.local.outcome import outcome
from geozarr_nb.backends.local.processes import end_run
from geozarr_nb.backends.local.state_file import is_there, write_json, written
from geozarr_nb.backends.local.state_folder import NAME, JobFolder, StateFolder
from geozarr_nb.backends.local.stored_attempts import Stamp, StoredAttempts, exit_in, exit_of, looked_at, stamp_of
from geozarr_nb.backends.run_state import read_events
from geozarr_nb.errors import GeozarrError, InvalidRequest, JobNotFound, OutputBusy, StateUnusable, StorageFailed
from geozarr_nb.request import Request, check
from geozarr_nb.settings import Settings
from geozarr_runner.converter.command import VARIABLE, find_converter
from geozarr_runner.events import Event
from geozarr_runner.product.model import Product
from geozarr_runner.publishing.remote_output import output_place
from geozarr_runner.trust.addresses import secrets

RUNNER = worker.RUNNER
_logger = logging.getLogger(__name__)
SECONDS_BETWEEN_REVIVALS = 1.0


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
        self._dispatch = Dispatch(self._folders)
        self._attempts = StoredAttempts(self._folders)
        self._finished: dict[str, tuple[Stamp, JobState]] = {}
        self._revived = 0.0

    def __reduce__(self) -> tuple[Any, ...]:
        made = partial(type(self), max_jobs=self._max_jobs, poll_interval=self.poll_interval, command=self._command)
        made = partial(made, environment=self._environment, converter=self._converter)
        return made, (self._folders.root,)

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
        with self._dispatch.storing():
            self._folders.create()
        with self._dispatch.held():
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
        with self._dispatch.reading():
            waits = self._folders.job(self._existing(name)).is_pending
            return self._look(name, self._folders.places() if waits else None)

    def list(self) -> Sequence[JobState]:
        """See `Backend.list`."""
        with self._dispatch.reading():
            places = self._folders.places()
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
        with self._dispatch.reading():
            state = self._state(self._existing(name))
            if state.is_finished:
                return
            with self._dispatch.storing():
                if job.is_pending:
                    write_json(job.exit, worker.ended(None, cancelled=True))
                    job.private.unlink(missing_ok=True)
                    return
                write_json(job.cancel, {"time": worker.now()})
        end_run(job)
        with self._dispatch.reading():
            self._dispatch.leave_over(self._state(name).request)

    def retry(self, name: str, request: Request | None = None) -> None:
        """See `Backend.retry`."""
        with self._dispatch.reading():
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
        with self._dispatch.storing():
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
                is_writer = self._attempts.submission(name).request.output == request.output
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
        with self._dispatch.held():
            if self._folders.next_pending() is None:
                return
            with self._dispatch.storing():
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
        stamp = stamp_of(job)
        remembered = self._finished.get(name)
        if remembered is not None and remembered[0] == stamp:
            return remembered[1]
        submission = self._attempts.submission(name)
        exit_, claim = exit_of(job), job.read_claim()
        if exit_ is None and claim is not None and not job.is_held:
            exit_ = self._settle(job)
        digest = self._attempts.run_state(job, stamp)
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
            self._dispatch.leave_over(submission.request)
        if is_there(job.exit):
            self._finished[name] = (stamp, state)
            self._attempts.forget_run(name)
        return state

    def _settle(self, job: JobFolder) -> dict[str, Any]:
        """Store the end of a job whose worker and run were killed, so that every process sees the same state."""
        with self._dispatch.held():
            if (known := exit_of(job)) is not None:
                return known
            lost = worker.ended(None, lost=True)
            # A full disk may have ended the job; then a later look stores its end.
            with suppress(StorageFailed), self._dispatch.storing():
                job.private.unlink(missing_ok=True)
                write_json(job.exit, lost)
        return exit_in(lost, job.exit)

    def _read(self, name: str, file: str, cursor: Cursor | None) -> tuple[Sequence[Event], Cursor]:
        job = self._folders.job(name)
        with self._dispatch.reading():
            attempt = self._attempts.submission(self._existing(name)).ticket.attempt
            if cursor is None:
                cursor = Cursor(attempt, 0)
            folder = job.path if cursor.attempt == attempt else job.attempt_folder(cursor.attempt)
            events, offset = read_events(folder / file, cursor.offset)
        return events, Cursor(cursor.attempt, offset)

    def _why_pending(self, before: int) -> str:
        if not before and self._folders.count_running() < self._max_jobs:
            return "it is about to start"
        bound = "one job runs" if self._max_jobs == 1 else f"{self._max_jobs} jobs run"
        place = f"{before} wait before it" if before else "it is next"
        return f"{bound} at a time on this machine (GEOZARR_MAX_JOBS), {place}"

    def _has(self, name: str) -> bool:
        if not NAME.fullmatch(name):
            return False
        job = self._folders.job(name)
        return is_there(job.ticket) or job.is_closed

    def _existing(self, name: str) -> str:
        if self._has(name):
            return name
        near = alike(name, self._folders.names())
        raise JobNotFound(
            "there is no job of this name on this machine",
            given=name,
            remedy=f"{' or '.join(near)} may be meant" if near else "geozarr_nb.list_jobs() shows all of them",
        )


@lru_cache(maxsize=8)
def _opened(
    state_dir: Path, max_jobs: int, poll_interval: float, environment: tuple[str, ...], converter: str
) -> LocalBackend:
    return LocalBackend(
        state_dir, max_jobs=max_jobs, poll_interval=poll_interval, environment=environment, converter=converter
    )


def _odd(job: JobFolder, error: GeozarrError) -> JobState:
    """Return the state of a job whose folder cannot be used."""
    found = job.path.lstat() if job.is_closed else looked_at(job, follow=False)
    return JobState(
        name=job.name,
        backend=LocalBackend.name,
        request=Request(source="", shown="?", product=job.name, output=""),
        status="Error",
        submitted=datetime.fromtimestamp(found.st_mtime, UTC),
        reason=error.message,
        failure=Failure(error.code, error.message, str(error.given or ""), error.remedy, int(error.exit_code)),
    )

"""The contract of a backend, which runs jobs.

A backend takes requests and returns plain data about jobs. `geozarr_nb.jobs.job.Job` is a handle on this data, the same
class for every backend. One suite of contract tests runs against every backend.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from geozarr_nb.request import Request
from geozarr_runner.events import Event

if TYPE_CHECKING:
    from geozarr_nb.settings import Settings
    from geozarr_runner.product.model import Product

Status = Literal["Pending", "Running", "Succeeded", "Failed", "Error"]
FINISHED: frozenset[Status] = frozenset({"Succeeded", "Failed", "Error"})


class Progress(NamedTuple):
    """Progress of the current stage, as the run measured it."""

    done: int
    total: int | None
    unit: str


class Cursor(NamedTuple):
    """A position in the events of a job's attempt; the meaning of `offset` is private to the backend."""

    attempt: int
    offset: int


@dataclass(frozen=True, slots=True)
class Failure:
    """The reason why a job ended without a result: the run's error event, or the backend's own observation."""

    code: str
    message: str
    given: str = ""
    remedy: str = ""
    exit_code: int = 1
    retryable: bool = False

    @classmethod
    def of(cls, event: Event) -> Failure:
        """Return the failure of an `error` event."""
        return cls(
            code=str(event.get("code", "defect")),
            message=str(event.get("message", "")),
            given=str(event.get("given") or ""),
            remedy=str(event.get("remedy") or ""),
            exit_code=int(event.get("exit_code") or 1),
            retryable=bool(event.get("retryable", False)),
        )


@dataclass(frozen=True, slots=True)
class JobState:
    """The state of one job at one moment.

    Attributes
    ----------
    status
        A phase, in Argo's words. Failed: the run reported why it ended, or was cancelled. Error: it ended without a
        report.
    attempt
        Number of the attempt, from 1 on.
    stage, progress
        Stage of the run and its progress; None before the run starts, and before a stage has measured progress.
    reason
        One sentence: why the job waits, or why it failed; otherwise empty.
    failure
        Code and remedy of a job that failed.
    result
        Fields of the run's `result` event; None before the job has Succeeded.
    submitted, started, finished
        Times in UTC; None if not yet.
    log
        Path or address of the whole log, for a person; empty if there is none.
    is_gone
        True if somebody deleted the job. Only `watch` yields such a state, once for each job; all other values are the
        last known ones.
    """

    name: str
    backend: str
    request: Request
    status: Status
    submitted: datetime
    attempt: int = 1
    stage: str | None = None
    progress: Progress | None = None
    reason: str = ""
    failure: Failure | None = None
    result: dict[str, Any] | None = None
    started: datetime | None = None
    finished: datetime | None = None
    log: str = ""
    is_gone: bool = False

    @property
    def is_finished(self) -> bool:
        """True if the job has Succeeded, Failed or ended in Error."""
        return self.status in FINISHED

    @property
    def elapsed(self) -> float:
        """Seconds that the job has been running, or ran; 0 while it waits."""
        if self.started is None:
            return 0.0
        return max(((self.finished or datetime.now(UTC)) - self.started).total_seconds(), 0.0)


def changes(known: dict[str, JobState], states: Iterable[JobState]) -> Iterator[JobState]:
    """Yield the states that changed since the last look at all jobs; a deleted job has `is_gone`.

    Parameters
    ----------
    known
        The states of the last look, by the jobs' names. They are updated.
    states
        The present states of all jobs.
    """
    gone = set(known)
    for state in states:
        gone.discard(state.name)
        if known.get(state.name) != state:
            known[state.name] = state
            yield state
    for name in sorted(gone):
        yield replace(known.pop(name), is_gone=True)


class Backend(Protocol):
    """The system that runs jobs.

    Every call is synchronous and can be made from several threads at once. Jobs belong to the backend and not to the
    process that submitted them: every process can read, await, cancel and retry a job by its name.

    Attributes
    ----------
    name
        Name in the argument `backend`: "local", "argo".
    label
        Name in a form.
    poll_interval
        Seconds between two looks at a job.
    uses_scratch
        True if a request can choose the folder for intermediate files.
    uses_image
        True if jobs run in pods, so that a request can choose image, memory, cores and time limit.
    """

    name: str
    label: str
    poll_interval: float
    uses_scratch: bool
    uses_image: bool

    @classmethod
    def of(cls, settings: Settings) -> Backend:
        """Return the backend of some settings; equal settings give the same object.

        Raises
        ------
        ClusterUnreachable
            The backend needs a cluster, and none is configured.
        """

    def locate(self, output: str | os.PathLike[str]) -> str:
        """Return the full name of an output on this backend: a path or an address.

        Raises
        ------
        InvalidRequest
            This backend cannot write such an output.
        """

    def check(self, request: Request, product: Product) -> bool:
        """Check, before a request is submitted, whether it can run.

        Returns
        -------
        bool
            True if `if_exists` is "skip" and the output exists, made from the same request, and has an archive if the
            request asks for one. Then nothing has to run.

        Raises
        ------
        GroupsMissing, OutputExists, InvalidRequest, StorageFailed, ClusterError
            The request cannot run.
        """

    def submit(self, request: Request) -> str:
        """Submit a request, and return the name of its job at once.

        While the job of an equal request is Pending or Running, that job is joined. If it has finished, a new attempt
        begins under the same name; events and log of earlier attempts are kept.

        Raises
        ------
        OutputBusy
            The job of another request writes the same output, or waits to write it.
        InvalidRequest
            The request was read back from storage, without the secret part of its address.
        ClusterError
            The cluster does not answer, or lacks something that every job needs.
        """

    def get(self, name: str) -> JobState:
        """Return the present state of one job.

        Raises
        ------
        JobNotFound
        """

    def list(self) -> Sequence[JobState]:
        """Return the state of every job, in the order of submission."""

    def events(self, name: str, cursor: Cursor | None = None) -> tuple[Sequence[Event], Cursor]:
        """Return a job's events since a cursor, and the next cursor; the call never waits.

        Without a cursor it begins at the first event of the newest attempt. Events come in order, each exactly once. A
        cursor of an earlier attempt reads that attempt to its end.

        Raises
        ------
        JobNotFound
        """

    def log(self, name: str, cursor: Cursor | None = None) -> tuple[Sequence[Event], Cursor]:
        """Return the events as `events` does, and also the converter's own lines (events of type "log")."""

    def cancel(self, *names: str) -> None:
        """End jobs with all their processes, and return when none of them runs any more.

        A job that waits never starts. Half-written outputs are removed. A finished job does not change.

        Raises
        ------
        JobNotFound
        """

    def retry(self, name: str, request: Request | None = None) -> None:
        """Run a finished job's request again, as a new attempt; a job that runs or waits does not change.

        Parameters
        ----------
        request
            The request with its full address, if the caller has it; None takes the stored request.

        Raises
        ------
        JobNotFound
        InvalidRequest
            The stored request lacks the secret part of its address.
        """

    def watch(self, stop: threading.Event) -> Iterator[JobState]:
        """Yield the state of every job, and again each time it changes, until `stop` is set.

        When a job is deleted, its last state comes once more, with `is_gone`. One connection serves all jobs.
        """

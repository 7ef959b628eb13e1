"""The contract of a place where jobs run.

A backend knows requests and plain data about jobs; `geozarr_nb.jobs.job.Job` makes a handle of it that is the same for
all. One contract test suite runs against every backend.
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
    """How far the current stage is, as the run measured it."""

    done: int
    total: int | None
    unit: str


class Cursor(NamedTuple):
    """A place in the events of a job's attempt; only the backend that made it knows what `offset` counts."""

    attempt: int
    offset: int


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a job ended without a result: the run's own error event, or what the backend saw from outside."""

    code: str
    message: str
    given: str = ""
    remedy: str = ""
    exit_code: int = 1
    retryable: bool = False

    @classmethod
    def of(cls, event: Event) -> Failure:
        """Read an `error` event."""
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
    """One job at one moment.

    Attributes
    ----------
    status
        Argo's phase words. Failed: the run said why it ended, or it was cancelled. Error: it ended without a word.
    attempt
        1, and one more for each time it was run again.
    stage, progress
        What the run is doing; None before it started. `progress` is None while a stage has measured nothing.
    reason
        One sentence: why it waits, or why it failed; else empty.
    failure
        Code and remedy that go with the reason of a job that failed.
    result
        Fields of the run's `result` event, once it succeeded.
    submitted, started, finished
        In UTC; None for what has not happened.
    log
        Where the whole log is, for a person; empty where there is none.
    is_gone
        Its place does not know the job any more: somebody deleted it. Only what watches jobs says so, once; the rest
        of the state is the last that was seen.
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
        """True once the job has Succeeded or Failed, or ended in Error."""
        return self.status in FINISHED

    @property
    def elapsed(self) -> float:
        """Seconds that it has been running, or ran; 0 while it waits."""
        if self.started is None:
            return 0.0
        return max(((self.finished or datetime.now(UTC)) - self.started).total_seconds(), 0.0)


def changes(known: dict[str, JobState], states: Iterable[JobState]) -> Iterator[JobState]:
    """Yield what differs between two looks at all jobs; those that are gone as such.

    Parameters
    ----------
    known
        The states that were yielded last, by the jobs' names; it is brought up to date.
    states
        Those of all jobs that there are now.
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
    """A place where jobs run.

    Every call is synchronous and may be used from several threads at once. Jobs belong to the place, not to the
    process that submitted them: whoever knows a name can read, wait, cancel and retry.

    Attributes
    ----------
    name
        How a person chooses it: "local", "argo".
    label
        What a form calls it.
    poll_interval
        Seconds between two looks at a job that are neither too many for the place nor too few for a person.
    uses_scratch
        False where a request cannot choose a folder for intermediate files.
    uses_image
        True where the settings choose the image that a job runs in, and its memory, cores and time.
    """

    name: str
    label: str
    poll_interval: float
    uses_scratch: bool
    uses_image: bool

    @classmethod
    def of(cls, settings: Settings) -> Backend:
        """Return the backend that settings mean; the same one for the same settings.

        Raises
        ------
        ClusterUnreachable
            It is a cluster's, and none is configured.
        """

    def locate(self, output: str | os.PathLike[str]) -> str:
        """Return the full name of an output as this place knows it.

        Raises
        ------
        InvalidRequest
            Nothing can be written there.
        """

    def check(self, request: Request, product: Product) -> bool:
        """Look, before anything is submitted, whether a request can run here.

        Returns
        -------
        bool
            True when `if_exists` is "skip" and the output is there, made from the same request, with its archive if
            that is asked for.

        Raises
        ------
        GroupsMissing, OutputExists, InvalidRequest, StorageFailed, ClusterError
            It can not.
        """

    def submit(self, request: Request) -> str:
        """Have a request run, and return its job's name at once.

        A request equal to one whose job is Pending or Running joins that job. One whose job has finished makes a new
        attempt under the same name; what the earlier attempt left (events, log) is kept.

        Raises
        ------
        OutputBusy
            The job of another request is writing, or waits to write, the same output.
        InvalidRequest
            The request's address was withheld when it was stored.
        ClusterError
            The place does not answer, or lacks what every job needs.
        """

    def get(self, name: str) -> JobState:
        """Return the state of one job, as fresh as it can be had.

        Raises
        ------
        JobNotFound
        """

    def list(self) -> Sequence[JobState]:
        """Return the state of every job, the oldest submission first."""

    def events(self, name: str, cursor: Cursor | None = None) -> tuple[Sequence[Event], Cursor]:
        """Return what a job has said since `cursor`, and the cursor to go on from; never waits.

        None starts at the beginning of the newest attempt. Events come in order, and each exactly once. A cursor of an
        earlier attempt reads that attempt to its end.

        Raises
        ------
        JobNotFound
        """

    def log(self, name: str, cursor: Cursor | None = None) -> tuple[Sequence[Event], Cursor]:
        """Return the same as `events` with the converter's own lines (type "log") among them."""

    def cancel(self, *names: str) -> None:
        """End jobs and everything they started; returns when nothing of them runs any more.

        A job that waits never starts. What was half-written is removed. For a job that has finished nothing happens.

        Raises
        ------
        JobNotFound
        """

    def retry(self, name: str, request: Request | None = None) -> None:
        """Run a finished job's request again, as a new attempt; a job that runs or waits is left alone.

        Parameters
        ----------
        request
            The request, where the caller still has it with its full address; else the stored one is used.

        Raises
        ------
        JobNotFound
        InvalidRequest
            The stored request lacks the secret part of its address.
        """

    def watch(self, stop: threading.Event) -> Iterator[JobState]:
        """Yield the state of every job, and again each time it changes, until `stop` is set.

        That of a job that was deleted comes once more, with `is_gone`.

        One thread and one connection serve all jobs.
        """

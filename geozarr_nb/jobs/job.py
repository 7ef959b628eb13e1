"""The handle of a job: the same for every backend, and good after a restart."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from geozarr_nb.backends.base import Backend, Cursor, JobState, Progress
from geozarr_nb.errors import ConversionFailed, GeozarrError, InvalidRequest, WaitTimeout
from geozarr_nb.request import Request
from geozarr_runner.events import Event, amount, describe
from geozarr_runner.text import html
from geozarr_runner.text.printable import CONVERTERS_LINE, printable

if TYPE_CHECKING:
    import pystac
    import xarray as xr

    # Not to be found at run time: jedi 0.20, which completes `job.` in a notebook, trips over a property whose type is
    # a Literal, and then offers nothing at all.
    from geozarr_nb.backends.base import Status

LAST_LINES = 8  # of the converter's, in an error


class Job:
    """One conversion, wherever it runs.

    A handle holds no state of its own: each attribute asks the backend, so it is never out of date, and any number of
    handles, in any number of processes, can be had of one job by its name: `geozarr_nb.get_job(name)`.
    """

    def __init__(self, backend: Backend, name: str, request: Request | None = None) -> None:
        self._backend = backend
        self._request = request
        self.name = name

    @property
    def state(self) -> JobState:
        """All of what is known at this moment, as plain data that belongs together."""
        return self._backend.get(self.name)

    @property
    def backend(self) -> str:
        """Name of the backend that runs it."""
        return self._backend.name

    @property
    def request(self) -> Request:
        """What was asked for."""
        return self._request or self.state.request

    @property
    def output(self) -> str:
        """Path of the GeoZarr; there is something only once the job has Succeeded."""
        return self.request.output

    @property
    def status(self) -> Status:
        """Pending, Running, Succeeded, Failed (the run said why, or it was cancelled) or Error (it could not say)."""
        return self.state.status

    @property
    def stage(self) -> str | None:
        """What the run is doing: preflight, stage, convert, verify, publish, or archive where one was asked for."""
        return self.state.stage

    @property
    def progress(self) -> Progress | None:
        """How far the stage is: (done, total, unit) as measured; None where nothing was."""
        return self.state.progress

    @property
    def reason(self) -> str:
        """One sentence: why it waits, or why it failed."""
        return self.state.reason

    @property
    def started(self) -> datetime | None:
        """When it began to run, in UTC."""
        return self.state.started

    @property
    def finished(self) -> datetime | None:
        """When it ended, in UTC."""
        return self.state.finished

    @property
    def elapsed(self) -> float:
        """Seconds that it has been running, or ran."""
        return self.state.elapsed

    @property
    def result(self) -> dict[str, Any] | None:
        """What the run said of its result: path, groups, bytes, seconds, versions; None until it Succeeded."""
        return self.state.result

    @overload
    def events(self, follow: Literal[False] = False) -> list[Event]: ...

    @overload
    def events(self, follow: Literal[True]) -> Iterator[Event]: ...

    def events(self, follow: bool = False) -> list[Event] | Iterator[Event]:
        """Return what the run has said of itself; `follow` gives an iterator that ends when the job does.

        The first event says where the settings came from that it was submitted with. Following a job that waits waits
        with it.
        """
        if follow:
            return self._follow(threading.Event(), log=False)
        return self._introduced(self._backend.events(self.name)[0])

    @overload
    def logs(self, follow: Literal[False] = False, tail: int | None = None) -> Lines: ...

    @overload
    def logs(
        self, follow: Literal[True], tail: int | None = None, stop: threading.Event | None = None
    ) -> Iterator[str]: ...

    def logs(
        self, follow: bool = False, tail: int | None = None, stop: threading.Event | None = None
    ) -> Lines | Iterator[str]:
        """Return the log as lines: the run's own, and the converter's behind a bar.

        Parameters
        ----------
        follow
            Give an iterator that goes on as lines come, and ends when the job does.
        tail
            Only the last so many lines (of those that are there now, where it follows).
        stop
            Ends an iterator that follows, from another thread, when it is set.
        """
        if follow:
            return self._follow_lines(tail, stop or threading.Event())
        return Lines(_last(list(_lines(self._introduced(self._backend.log(self.name)[0]))), tail))

    def wait(self, timeout: float | None = None, poll_interval: float | None = None) -> Job:
        """Return when the job has finished, however it did; see `raise_for_status`.

        Interrupting it (Ctrl-C, the notebook's stop button) does not end the job.

        Parameters
        ----------
        timeout
            Seconds to wait at most.
        poll_interval
            Seconds between two looks; None is what suits the backend.

        Raises
        ------
        WaitTimeout
            The job goes on.
        """
        with self.attended():
            for _ in self.steps(timeout, poll_interval):
                pass
        return self

    @contextmanager
    def attended(self) -> Iterator[None]:
        """Add to an interrupt in its block that the job goes on, and how to come back to it."""
        try:
            yield
        except KeyboardInterrupt as interrupt:
            interrupt.add_note(f"The job {self.name} goes on. {self._come_back()}")
            raise

    def steps(
        self, timeout: float | None = None, poll_interval: float | None = None
    ) -> Iterator[tuple[JobState, Sequence[Event]]]:
        """Yield the job's state, with the events that came since, at each look until it has finished; see `wait`."""
        interval = self._backend.poll_interval if poll_interval is None else poll_interval
        deadline = None if timeout is None else time.monotonic() + timeout
        cursor: Cursor | None = None
        while True:
            state = self.state
            if cursor is not None and state.attempt != cursor.attempt:
                cursor = None
            events, cursor = self._backend.events(self.name, cursor)
            yield state, events
            if state.is_finished:
                return
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise WaitTimeout(
                    f"{self.name} is still {state.status} after {timeout:g} s of waiting, and goes on",
                    given=f"timeout={timeout:g}",
                    remedy=self._come_back(),
                )
            time.sleep(interval if left is None else min(interval, left))

    def cancel(self) -> Job:
        """End the job and everything it started, and remove what is half-written; nothing happens to a finished job."""
        self._backend.cancel(self.name)
        return self

    def retry(self) -> Job:
        """Run a job that failed again, under the same name; one that waits or runs is left alone.

        Raises
        ------
        InvalidRequest
            It has Succeeded.
        """
        state = self.state
        if state.status == "Succeeded":
            raise InvalidRequest(
                f"{self.name} has succeeded: there is nothing to retry",
                given=state.request.output,
                remedy='to convert it again, submit it with if_exists="overwrite"',
            )
        request = self._request
        options = state.request.options
        if options["archive"] and options["if_exists"] == "error":
            # What failed may be the archive alone: its output is there then, and not in the way.
            request = (request or state.request).with_options(if_exists="skip")
        self._backend.retry(self.name, request)
        return self

    def raise_for_status(self) -> Job:
        """Return the job, or raise when it ended without a result.

        Raises
        ------
        ConversionFailed
        """
        if self.status in ("Failed", "Error"):
            raise _failed(self)
        return self

    def open(self, *, level: int | Literal["native", "coarsest"] = "native", strict: bool = True) -> xr.DataTree:
        """Open the result as `geozarr_nb.open` does.

        Parameters
        ----------
        level, strict
            As for `geozarr_nb.open`.

        Raises
        ------
        ConversionFailed
            There is none.
        InvalidRequest
            The job has not finished.
        """
        from geozarr_nb.outputs.open import open as open_result

        self._raise_for_no_result("open")
        return open_result(self.output, level=level, strict=strict)

    def item(self) -> pystac.Item:
        """Return the result as a STAC item: where and when, its grids and bands, how and from what it was made.

        Its hrefs are absolute. It lies beside the output, as `<output>.stac.json`.

        Raises
        ------
        ConversionFailed
            There is no result.
        InvalidRequest
            The job has not finished, or the output has no item.
        ClusterError
            A claim is not mounted here and cannot be read through its cluster either.
        """
        from geozarr_nb.outputs.catalogue import read_item

        self._raise_for_no_result("item")
        request = self.request
        return read_item(self.output, request.item or request.shown)

    def _raise_for_no_result(self, wanted: str) -> None:
        self.raise_for_status()
        if self.status != "Succeeded":
            raise InvalidRequest(
                f"{self.name} is {self.status}: there is nothing to open yet",
                remedy=f"wait for it: job.wait().{wanted}()",
            )

    def download(
        self,
        path: str | os.PathLike[str],
        *,
        archive: bool | None = None,
        progress: bool = True,
        overwrite: bool = False,
    ) -> Path:
        """Fetch the result to this machine, check it, and give it its name only when it is complete.

        A call that was interrupted, or whose connection broke, goes on where it was when it is made again: what it had
        fetched lies in `.NAME.partial` beside the path. From a cluster's claim nothing has to be mounted.

        Parameters
        ----------
        path
            What is made: a folder, or a file for the archive.
        archive
            True: the output as one file, checked by its SHA-256; it was made if the job was submitted with it. False:
            the folder, checked file by file for its size, and opened. None: the archive where the path ends with
            `.tar.gz` or `.tgz`.
        progress
            False shows nothing.
        overwrite
            Replace what has this name, once the new one is complete and checked.

        Returns
        -------
        pathlib.Path
            The path, absolute.

        Raises
        ------
        ConversionFailed
            There is no result.
        InvalidRequest
            The job has not finished, or `path` cannot be used.
        ArchiveMissing
            The output was not packed.
        OutputExists, OutputBusy
            Something has this name, or is being written there.
        StorageFailed, DownloadBroken, ProductUnreachable, ClusterError
            And their kinds; what has arrived is kept.
        """
        from geozarr_nb.outputs.download import download

        self.raise_for_status()
        return download(self, path, archive=archive, progress=progress, overwrite=overwrite)

    def _introduced(self, events: Sequence[Event]) -> list[Event]:
        """Return the events of a run from its first on, behind the one that only its submitter could write."""
        state = self.state
        if not events or not state.request.origins:
            return list(events)
        told = Event("message", state.submitted, {"text": f"settings: {state.request.origins}"})
        return [told, *events]

    def _come_back(self) -> str:
        found = f'geozarr_nb.get_job("{self.name}")'
        return f"Come back with {found}.wait(), or end it with {found}.cancel()"

    def _follow(self, stop: threading.Event, *, log: bool) -> Iterator[Event]:
        read = self._backend.log if log else self._backend.events
        cursor: Cursor | None = None
        while not stop.is_set():
            state = self.state  # before the events: what came after it finished is not missed
            is_first = cursor is None or cursor.offset == 0
            events, cursor = read(self.name, cursor)
            yield from self._introduced(events) if is_first else events
            if state.is_finished or state.attempt != cursor.attempt:
                return
            stop.wait(self._backend.poll_interval)

    def _follow_lines(self, tail: int | None, stop: threading.Event) -> Iterator[str]:
        skipped = max(len(self.logs()) - tail, 0) if tail is not None else 0
        for number, line in enumerate(_lines(self._follow(stop, log=True))):
            if number >= skipped:
                yield line

    def __repr__(self) -> str:
        return f"Job {describe_state(self.state)}"

    def _repr_html_(self) -> str:
        state = self.state
        values = {
            "input": state.request.shown,
            "groups": ", ".join(state.request.groups) or "the whole product",
            "output": state.request.output,
            "reason": state.reason,
            "remedy": state.failure.remedy if state.failure else "",
            "log": state.log if state.failure else "",
        }
        return html.block(f"{state.name}: {status_line(state)}", html.facts(values))

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        return html.bundle(self)


class Lines(list[str]):
    """Lines of a log; shown as text."""

    def __repr__(self) -> str:
        return "\n".join(self)


def describe_state(state: JobState) -> str:
    """Return a job in one or two lines."""
    text = printable(f"{state.name}: {status_line(state)} -> {state.request.output}")
    return f"{text}\n  {printable(state.reason)}" if state.reason else text


def status_line(state: JobState) -> str:
    """Return status, stage, progress and time in a few words."""
    parts: list[str] = [state.status]
    if state.status == "Running" and state.stage:
        parts.append(state.stage)
        if state.progress:
            parts.append(amount(*state.progress))
    if state.started:
        parts.append(f"{state.elapsed:.0f} s")
    if state.attempt > 1:
        parts.append(f"attempt {state.attempt}")
    return ", ".join(parts)


def _lines(events: Iterable[Event]) -> Iterator[str]:
    for event in events:
        if text := describe(event):
            yield from text.splitlines()


def _last(lines: list[str], count: int | None) -> list[str]:
    if count is None:
        return lines
    return lines[-count:] if count > 0 else []


def _failed(job: Job) -> ConversionFailed:
    """Return the error of a job that ended without a result, with the last lines of its log."""
    state, failure = job.state, job.state.failure
    given = f"{state.request.shown} -> {state.request.output}"
    if state.request.groups:
        given += f", groups {', '.join(state.request.groups)}"
    if failure is not None and failure.given and failure.given not in given:
        given += f" ({failure.given})"
    # What the run says last is the reason, which the error has; what led to it is more telling.
    try:
        last_lines = [line for line in job.logs() if line.startswith(CONVERTERS_LINE)][-LAST_LINES:]
    except GeozarrError:  # the cluster that has the log is in trouble itself, say: the reason is known all the same
        last_lines = []
    remedy = failure.remedy if failure else ""
    error = ConversionFailed(job, given=given, remedy=remedy, last_lines=last_lines, log=state.log)
    if failure is not None:
        error.of_run(failure.code, failure.exit_code, retryable=failure.retryable)
    return error

"""The handle of a job: the same class for every backend, valid in every process."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from geozarr_nb.backends.base import Backend, Cursor, JobState, Progress
from geozarr_nb.errors import InvalidRequest, JobNotFound, WaitTimeout
from geozarr_nb.jobs.failure import failure_of
from geozarr_nb.jobs.following import followed, introduced
from geozarr_nb.jobs.gone import Memory
from geozarr_nb.jobs.log_lines import Lines, last, lines_of
from geozarr_nb.jobs.state_text import describe_state, state_html
from geozarr_nb.request import Request
from geozarr_runner.events import Event
from geozarr_runner.text import html

if TYPE_CHECKING:
    import pystac
    import xarray as xr

    # Imported for type checkers only: jedi 0.20, which completes `job.` in a notebook, fails on a property whose type
    # is a Literal, and then offers nothing at all.
    from geozarr_nb.backends.base import Status


class Job:
    """One submitted conversion.

    The job belongs to its backend, and not to the process that submitted it. On this machine it runs as a process of
    its own, which goes on when a notebook's kernel is restarted or ends; on a cluster it is a Workflow. Each attribute
    asks the backend. `geozarr_nb.get_job(name)` gives an equal object in any process, and `geozarr_nb.list_jobs()`
    lists all jobs. A job that its backend has removed keeps the end that was seen, or that its output's record tells.
    """

    def __init__(
        self, backend: Backend, name: str, request: Request | None = None, *, stored: Request | None = None
    ) -> None:
        self._backend = backend
        self._request = request
        self._memory = Memory(backend, name, request or stored)
        self.name = name

    @property
    def state(self) -> JobState:
        """State of the job at this moment: all attributes below, read at once."""
        return self._memory.state()

    @property
    def backend(self) -> str:
        """Name of the backend that the job belongs to."""
        return self._backend.name

    @property
    def request(self) -> Request:
        """The request of the job: product, output, groups and options."""
        return self._request or self._memory.request_now()

    @property
    def output(self) -> str:
        """Path or address of the output, which exists once the job has Succeeded."""
        return self.request.output

    @property
    def status(self) -> Status:
        """Pending, Running, Succeeded, Failed (the run reported why, or was cancelled) or Error (without report)."""
        return self.state.status

    @property
    def stage(self) -> str | None:
        """Stage of the run: preflight, stage, convert, verify or publish; then archive, if the request has one."""
        return self.state.stage

    @property
    def progress(self) -> Progress | None:
        """Progress of the stage as (done, total, unit); None before the run has measured any."""
        return self.state.progress

    @property
    def reason(self) -> str:
        """One sentence: why the job waits, or why it failed."""
        return self.state.reason

    @property
    def started(self) -> datetime | None:
        """Time when the job began to run, in UTC."""
        return self.state.started

    @property
    def finished(self) -> datetime | None:
        """Time when the job ended, in UTC."""
        return self.state.finished

    @property
    def elapsed(self) -> float:
        """Seconds that the job has been running, or ran."""
        return self.state.elapsed

    @property
    def result(self) -> dict[str, Any] | None:
        """The `result` event of the run: path, groups, bytes, seconds, versions; None before the job has Succeeded."""
        return self.state.result

    @overload
    def events(self, follow: Literal[False] = False) -> list[Event]: ...

    @overload
    def events(self, follow: Literal[True]) -> Iterator[Event]: ...

    def events(self, follow: bool = False) -> list[Event] | Iterator[Event]:
        """Return the events of the run.

        The first event says where each setting of the request came from.

        Parameters
        ----------
        follow
            True returns an iterator instead: it yields events as they come, also of a job that still waits, and ends
            when the job ends.
        """
        if follow:
            return followed(self._backend, self.name, threading.Event(), log=False)
        return introduced(self.state, self._backend.events(self.name)[0])

    @overload
    def logs(self, follow: Literal[False] = False, tail: int | None = None) -> Lines: ...

    @overload
    def logs(
        self, follow: Literal[True], tail: int | None = None, stop: threading.Event | None = None
    ) -> Iterator[str]: ...

    def logs(
        self, follow: bool = False, tail: int | None = None, stop: threading.Event | None = None
    ) -> Lines | Iterator[str]:
        """Return the lines of the log. Lines of the converter begin with a bar.

        Parameters
        ----------
        follow
            True returns an iterator instead: it yields lines as they come, and ends when the job ends.
        tail
            Number of lines to return from the end of the log. With `follow` the iterator begins at these lines.
        stop
            Ends the iterator when another thread sets it.
        """
        if follow:
            return self._follow_lines(tail, stop or threading.Event())
        return Lines(last(list(lines_of(introduced(self.state, self._backend.log(self.name)[0]))), tail))

    def wait(self, timeout: float | None = None, poll_interval: float | None = None) -> Job:
        """Wait until the job has finished, with or without success; `raise_for_status` raises an error for a failure.

        An interrupt (Ctrl-C, the notebook's stop button) ends the waiting and not the job.

        Parameters
        ----------
        timeout
            Seconds to wait at most; None waits without a limit.
        poll_interval
            Seconds between two looks at the job; None takes the backend's own.

        Raises
        ------
        WaitTimeout
            The timeout is over. The job goes on.
        JobNotFound
            The job was removed before its end was seen, and its output is not there.
        """
        with self.attended():
            for _ in self.steps(timeout, poll_interval):
                pass
        return self

    @contextmanager
    def attended(self) -> Iterator[None]:
        """Add a note to an interrupt of the block: the job goes on, and how to come back to it."""
        try:
            yield
        except KeyboardInterrupt as interrupt:
            interrupt.add_note(f"The job {self.name} goes on. {self._come_back()}")
            raise

    def steps(
        self, timeout: float | None = None, poll_interval: float | None = None
    ) -> Iterator[tuple[JobState, Sequence[Event]]]:
        """Yield the job's state and its new events at each look, until the job has finished; see `wait`."""
        interval = self._backend.poll_interval if poll_interval is None else poll_interval
        deadline = None if timeout is None else time.monotonic() + timeout
        cursor: Cursor | None = None
        while True:
            state = self.state
            if cursor is not None and state.attempt != cursor.attempt:
                cursor = None
            try:
                events, cursor = ((), None) if state.is_gone else self._backend.events(self.name, cursor)
            except JobNotFound:
                continue  # it was removed since: the next look says how it ended
            yield state, events
            if state.is_finished:
                return
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise WaitTimeout(
                    f"{self.name} is still {state.status} after {timeout:g} s of waiting, and goes on"
                    + (f": {state.reason}" if state.reason else ""),
                    given=f"timeout={timeout:g}",
                    remedy=self._come_back(),
                )
            time.sleep(interval if left is None else min(interval, left))

    def cancel(self) -> Job:
        """End the job and all its processes.

        The call returns when none of them runs any more. The half-written output and the downloaded data are removed.
        An older output of the same name stays as it was, unless it lies in an object store and the upload of the new
        one has begun. The job stays in the list as Failed, with its events and its log, and `retry` can run it again.
        A job that waits never starts; a finished job does not change.
        """
        self._backend.cancel(self.name)
        return self

    def retry(self) -> Job:
        """Run a failed or cancelled job again, as a new attempt under the same name.

        A job that waits or runs does not change.

        Raises
        ------
        InvalidRequest
            The job has Succeeded.
        JobNotFound
            The job was removed, and its request is not known.
        """
        try:
            state = self.state
        except JobNotFound:
            self._backend.submit(self.request)
            return self
        if state.status == "Succeeded":
            raise InvalidRequest(
                f"{self.name} has succeeded: there is nothing to retry",
                given=state.request.output,
                remedy='to convert it again, submit it with if_exists="overwrite"',
            )
        request = self._request
        options = state.request.options
        if options["archive"] and options["if_exists"] == "error":
            # If only the archive failed, the output exists and must not be refused.
            request = (request or state.request).with_options(if_exists="skip")
        if state.is_gone:
            self._backend.submit(request or state.request)
        else:
            self._backend.retry(self.name, request)
        return self

    def raise_for_status(self) -> Job:
        """Return the job itself, or raise an error if it ended without a result.

        Raises
        ------
        ConversionFailed
            The job has Failed or ended in Error; the text says why and what to do.
        """
        if (state := self.state).status in ("Failed", "Error"):
            raise failure_of(self, state)
        return self

    def open(self, *, level: int | Literal["native", "coarsest"] = "native", strict: bool = True) -> xr.DataTree:
        """Open the output with xarray, on whichever machine the job ran; the same as `geozarr_nb.open(job)`.

        An output on a claim of a cluster is read through a mount of the claim, or else through a read-only pod.

        Parameters
        ----------
        level, strict
            As for `geozarr_nb.open`.

        Raises
        ------
        ConversionFailed
            The job ended without an output.
        InvalidRequest
            The job has not finished.
        """
        from geozarr_nb.outputs.open import open as open_result

        self._raise_for_no_result("open")
        return open_result(self.output, level=level, strict=strict)

    def item(self) -> pystac.Item:
        """Return the output's STAC item, which is stored beside the output as `<output>.stac.json`.

        It has place and time, grids and bands, and how the output was made. Its hrefs are absolute.

        Raises
        ------
        ConversionFailed
            The job ended without an output.
        InvalidRequest
            The job has not finished, or the output has no item.
        ClusterError
            The claim is not mounted here, and the cluster does not give access to it.
        """
        from geozarr_nb.outputs.stac.items import read_item

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
        """Copy the output to this machine: the folder, or its archive.

        The copy gets its name when it is complete and checked. Until then it lies in `.NAME.partial` beside the path,
        and the same call continues an interrupted copy there. A claim of a cluster need not be mounted.

        Parameters
        ----------
        path
            The folder to make, or the file to make for the archive.
        archive
            True copies the archive and checks its SHA-256; the job must have been submitted with `archive=True`. False
            copies the folder, checks the size of each file, and opens it. None copies the archive if the path ends with
            `.tar.gz` or `.tgz`, and the folder otherwise.
        progress
            False shows no progress.
        overwrite
            True replaces what has this name, once the copy is complete and checked.

        Returns
        -------
        pathlib.Path
            The absolute path of the copy.

        Raises
        ------
        ConversionFailed
            The job ended without an output.
        InvalidRequest
            The job has not finished, or `path` cannot be used.
        ArchiveMissing
            The output has no archive.
        OutputExists, OutputBusy
            Something else has this name, or another process writes it.
        StorageFailed, DownloadBroken, ProductUnreachable, ClusterError
            The copy failed. What has arrived is kept, and the same call continues.
        """
        from geozarr_nb.outputs.download import download

        self.raise_for_status()
        return download(self, path, archive=archive, progress=progress, overwrite=overwrite)

    def _come_back(self) -> str:
        found = f'geozarr_nb.get_job("{self.name}")'
        return f"Come back with {found}.wait(), or end it with {found}.cancel()"

    def _follow_lines(self, tail: int | None, stop: threading.Event) -> Iterator[str]:
        skipped = max(len(self.logs()) - tail, 0) if tail is not None else 0
        yield from islice(lines_of(followed(self._backend, self.name, stop, log=True)), skipped, None)

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (type(self), self._backend, self.name, self._memory.document)

    def __repr__(self) -> str:
        return f"Job {describe_state(self.state)}"

    def _repr_html_(self) -> str:
        return state_html(self.state)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        return html.bundle(self)


def _unpickled(kind: type[Job], backend: Backend, name: str, document: dict[str, Any] | None) -> Job:
    """Return a job of another process; the signature of an address is not sent."""
    return kind(backend, name, stored=None if document is None else Request.from_json(document))

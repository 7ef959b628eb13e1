"""Sets of jobs, and the file that stores which jobs belong to a set."""

from __future__ import annotations

import errno
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from geozarr_nb.backends.base import Backend, JobState, Status
from geozarr_nb.errors import GeozarrError, InvalidRequest, JobNotFound, WaitTimeout
from geozarr_nb.jobs.job import Job, status_line
from geozarr_nb.ownership import check_folder, open_own, read_own
from geozarr_runner.publishing.local import storage_errors
from geozarr_runner.text import html
from geozarr_runner.text.printable import printable
from geozarr_runner.trust.addresses import redact

if TYPE_CHECKING:
    import pystac

ROWS_SHOWN = 40
_WORDS = ("label", "code", "reason", "remedy")  # stored of a refused request
LOOK_SHARE = 9  # seconds of pause for each second that a look at all jobs took


@dataclass(frozen=True)
class Refused:
    """A request that was refused and has no job.

    Attributes
    ----------
    label
        Short name of the request's product, without secrets; it is also its `name`, as there is no job to name.
    code, reason, remedy
        Those of the error.
    arguments
        The request's arguments, for `JobSet.retry_failed`; None in a set that was read back from storage.
    """

    label: str
    code: str
    reason: str
    remedy: str = ""
    arguments: Mapping[str, Any] | None = field(default=None, repr=False, compare=False)
    status: Status = "Failed"

    @property
    def name(self) -> str:
        """What was asked for: no job has a name for it."""
        return self.label

    @classmethod
    def of(cls, arguments: Mapping[str, Any], error: GeozarrError) -> Refused:
        """Return the entry of a request that was refused with an error."""
        return cls(label_of(arguments), error.code, error.message, error.remedy, arguments)


class JobSet(Sequence[Job]):
    """A list of jobs, in the order in which they were requested; refused requests are in `refused`, not in the list.

    A job that fails does not end the others. `failed` has the jobs that failed and the requests that were refused;
    `retry_failed` runs only those again.

    Attributes
    ----------
    name
        Name for `geozarr_nb.get_job_set(name)`, which finds the set again; empty for a list of jobs without a name.
    entries
        The jobs and the refused requests, in the order in which they were requested.

    Examples
    --------
    >>> trees = [job.open() for job in jobs.wait()]
    >>> print([(entry.name, entry.reason) for entry in jobs.refused])
    """

    def __init__(
        self,
        backend: Backend,
        entries: Sequence[Job | Refused],
        *,
        name: str = "",
        resubmit: Callable[[Mapping[str, Any]], Job | Refused] | None = None,
    ) -> None:
        self._backend = backend
        self.entries = list(entries)
        self._resubmit = resubmit
        self.name = name

    def __len__(self) -> int:
        return len(self.jobs)

    @overload
    def __getitem__(self, index: int) -> Job: ...

    @overload
    def __getitem__(self, index: slice) -> JobSet: ...

    def __getitem__(self, index: int | slice) -> Job | JobSet:
        if isinstance(index, slice):
            return JobSet(self._backend, self.jobs[index], resubmit=self._resubmit)
        return self.jobs[index]

    @property
    def jobs(self) -> list[Job]:
        """The jobs, as a list."""
        return [entry for entry in self.entries if isinstance(entry, Job)]

    @property
    def refused(self) -> list[Refused]:
        """The requests that were refused and have no job, each with its reason."""
        return [entry for entry in self.entries if isinstance(entry, Refused)]

    @property
    def failed(self) -> list[Job | Refused]:
        """The jobs that ended without a result (Failed, Error), and the refused requests."""
        return [entry for entry, state in self._states() if state is None or state.status in ("Failed", "Error")]

    @property
    def counts(self) -> dict[Status, int]:
        """Number of entries in each status; a refused request counts as Failed."""
        return dict(Counter[Status]("Failed" if state is None else state.status for _, state in self._states()))

    def wait(self, timeout: float | None = None, poll_interval: float | None = None) -> JobSet:
        """Wait until all jobs have finished, with or without success.

        An interrupt ends the waiting and not the jobs.

        Parameters
        ----------
        timeout, poll_interval
            As for `Job.wait`.

        Raises
        ------
        WaitTimeout
            The timeout is over. The jobs go on.
        """
        interval = self._backend.poll_interval if poll_interval is None else poll_interval
        deadline = None if timeout is None else time.monotonic() + timeout
        come_back = f'geozarr_nb.get_job_set("{self.name}")' if self.name else "geozarr_nb.list_jobs()"
        try:
            while True:
                looked = time.monotonic()
                open_ = sum(state is not None and not state.is_finished for _, state in self._states())
                if not open_:
                    return self
                now = time.monotonic()
                if deadline is not None and now >= deadline:
                    raise WaitTimeout(
                        f"{open_} of {len(self)} jobs have not finished after {timeout:g} s, and go on",
                        given=f"timeout={timeout:g}",
                        remedy=f"come back with {come_back}.wait(), or end them with {come_back}.cancel()",
                    )
                # A look at thousands of jobs takes a while: most of the time has to be left to the jobs themselves.
                pause = max(interval, LOOK_SHARE * (now - looked))
                time.sleep(pause if deadline is None else min(pause, deadline - now))
        except KeyboardInterrupt as interrupt:
            interrupt.add_note(f"The jobs go on. Come back with {come_back}.wait(), or end them with .cancel()")
            raise

    def retry_failed(self) -> JobSet:
        """Run the failed and the cancelled jobs again, each as a new attempt under its name; the others do not change.

        A refused request is submitted again. For a set that was read back with `get_job_set` call `submit_many` again
        instead, since refused requests are stored without their arguments.

        Raises
        ------
        InvalidRequest
            Some jobs cannot be run again, for example because their address held a password, which is not stored. All
            other failed jobs run again.
        """
        refused: list[GeozarrError] = []
        for number, entry in enumerate(self.entries):
            if isinstance(entry, Job):
                if entry.status in ("Failed", "Error"):
                    try:
                        entry.retry()
                    except GeozarrError as error:
                        refused.append(error)
            elif entry.arguments is not None and self._resubmit is not None:
                self.entries[number] = self._resubmit(entry.arguments)
        if refused:
            raise InvalidRequest(
                f"{len(refused)} of the jobs cannot be run again, the first because {refused[0].message}",
                given=refused[0].given,
                remedy=refused[0].remedy,
            )
        return self

    def items(self) -> pystac.ItemCollection:
        """Return the STAC item of each job that has Succeeded, with absolute hrefs.

        Raises
        ------
        InvalidRequest, ClusterError
            As for `Job.item`.
        """
        from geozarr_nb.outputs.stac_objects import ItemCollection

        return ItemCollection(self._items())

    def collection(self, id: str | None = None, description: str | None = None) -> pystac.Collection:  # noqa: A002
        """Return a STAC collection of the outputs, which `normalize_and_save` writes as a static catalogue.

        Parameters
        ----------
        id
            Id of the collection; None takes the name of the set.
        description
            Description of the collection; None says how many products were converted.

        Raises
        ------
        InvalidRequest
            None of the jobs has Succeeded.

        Examples
        --------
        >>> jobs.collection().normalize_and_save("catalogue", pystac.CatalogType.SELF_CONTAINED)
        """
        from geozarr_nb.outputs.catalogue import collection_of

        items = self._items()
        return collection_of(
            items, id or self.name or "geozarr", description or f"{len(items)} products converted to GeoZarr"
        )

    def _items(self) -> list[pystac.Item]:
        done = {entry.name: entry for entry, state in self._states() if state and state.status == "Succeeded"}
        return [job.item() for job in done.values() if isinstance(job, Job)]  # a request listed twice is one job

    def cancel(self) -> JobSet:
        """Cancel every job that has not finished; waiting jobs first, so that none of them starts meanwhile."""
        states = [(entry, state) for entry, state in self._states() if state is not None and not state.is_finished]
        states.sort(key=lambda pair: pair[1].status != "Pending")
        self._backend.cancel(*(entry.name for entry, _ in states))
        return self

    def _states(self) -> list[tuple[Job | Refused, JobState | None]]:
        """Return each entry with its state, or with None if it was refused; the backend is asked once for all."""
        known = {state.name: state for state in self._backend.list()} if self.jobs else {}
        missing = [entry.name for entry in self.jobs if entry.name not in known]
        if missing:
            raise JobNotFound("a job of this set is no more", given=", ".join(missing), remedy="submit the list again")
        return [(entry, known[entry.name] if isinstance(entry, Job) else None) for entry in self.entries]

    def _rows(self) -> list[tuple[str, ...]]:
        """Return a row for each entry that is shown; failed entries first where not all can be shown."""
        order: dict[Status, int] = {"Error": 0, "Failed": 0, "Running": 1, "Pending": 2, "Succeeded": 3}
        rows = []
        for entry, state in self._states():
            if isinstance(entry, Refused):
                rows.append((0, (entry.label, "Failed, refused", "", entry.reason)))
            elif state is not None:
                rows.append((order[state.status], (state.name, status_line(state), state.request.output, state.reason)))
        if len(rows) > ROWS_SHOWN:
            rows.sort(key=lambda row: row[0])
        return [tuple(map(printable, row)) for _, row in rows[:ROWS_SHOWN]]

    def _title(self) -> str:
        counts = ", ".join(f"{count} {status}" for status, count in self.counts.items())
        return printable(f"{self.name or 'jobs'}: {counts or 'none'}")

    def _more(self) -> str:
        return f"and {len(self.entries) - ROWS_SHOWN} more" if len(self.entries) > ROWS_SHOWN else ""

    def __repr__(self) -> str:
        rows = self._rows()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join(filter(None, [self._title(), *(f"  {line}" for line in lines), self._more()]))

    def _repr_html_(self) -> str:
        return html.block(self._title(), html.table(("job", "status", "output", "reason"), self._rows()), self._more())


class SetFile:
    """The file of a named set, with one line for each member, in a folder that only this account can use.

    Raises
    ------
    StateUnusable
        Another account owns the folder or can write to it.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / f"{name}.jsonl"
        for one in (folder.parent, folder):
            check_folder(one)

    def start(self) -> None:
        """Make the file empty, and make its folder if there is none.

        Raises
        ------
        StorageFailed
            The file cannot be written.
        """
        with storage_errors(self.path):
            for folder in (self.path.parent.parent, self.path.parent):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(open_own(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC))

    def add(self, number: int, entry: Job | Refused) -> None:
        """Store the entry with its number in the set.

        Raises
        ------
        StorageFailed
            The file cannot be written.
        """
        document: dict[str, Any] = {"number": number}
        if isinstance(entry, Job):
            document["job"] = entry.name
        else:
            document |= {"label": entry.label, "code": entry.code, "reason": entry.reason, "remedy": entry.remedy}
        line = f"{json.dumps(document)}\n".encode()
        with storage_errors(self.path):
            descriptor = open_own(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            try:
                size = os.fstat(descriptor).st_size
                if os.write(descriptor, line) < len(line):
                    os.ftruncate(descriptor, size)  # half a line would make the next one unreadable too
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            finally:
                os.close(descriptor)

    def read(self, backend: Backend) -> list[Job | Refused]:
        """Return the entries in order.

        Raises
        ------
        JobNotFound
            There is no such set.
        """
        try:
            lines = read_own(self.path).decode(errors="replace").splitlines()
        except FileNotFoundError as error:
            known = sorted(path.stem for path in self.path.parent.glob("*.jsonl"))
            raise JobNotFound(
                "there is no set of jobs of this name",
                given=self.path.stem,
                remedy=f"known are: {', '.join(known[-10:])}" if known else "geozarr_nb.submit_many([...]) makes one",
            ) from error
        entries: dict[int, Job | Refused] = {}
        for line in lines:
            try:
                document = json.loads(line)
                number = int(document["number"])
                label, code, reason, remedy = (str(document.get(name, "")) for name in _WORDS)
                refused = Refused(label, code, reason, remedy)
                entries[number] = Job(backend, str(document["job"])) if "job" in document else refused
            except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
                continue  # a line that a full disk cut off, or of another version
        return [entries[number] for number in sorted(entries)]


def label_of(arguments: Mapping[str, Any]) -> str:
    """Return a short name of a request's product, without secrets."""
    source = arguments.get("source")
    if isinstance(source, Mapping):
        return f"STAC item {source.get('id', '?')}"
    return redact(str(getattr(source, "url", None) or getattr(source, "id", None) or source))

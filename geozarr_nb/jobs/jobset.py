"""Sets of jobs, and the file that stores which jobs belong to a set."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, overload

from geozarr_nb.backends.base import Backend, JobState, Status
from geozarr_nb.errors import GeozarrError, InvalidRequest, JobNotFound, WaitTimeout
from geozarr_nb.jobs.gone import Outputs
from geozarr_nb.jobs.job import Job
from geozarr_nb.jobs.state_text import status_line
from geozarr_runner.text import html
from geozarr_runner.text.printable import printable
from geozarr_runner.trust.addresses import redact

if TYPE_CHECKING:
    import pystac

ROWS_SHOWN = 40
LOOK_SHARE = 9  # seconds of pause for each second that a look at all jobs took
LONGEST_PAUSE = 10.0  # a look may have hung


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


_States = Sequence[tuple["Job | Refused", JobState | None]]


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

    def __reduce__(self) -> tuple[Any, ...]:
        # Arguments of refused requests may hold passwords.
        entries = [replace(one, arguments=None) if isinstance(one, Refused) else one for one in self.entries]
        return partial(JobSet, name=self.name), (self._backend, entries)

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
        return self._counted(self._states())

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
                open_ = [state for _, state in self._states() if state is not None and not state.is_finished]
                if not open_:
                    return self
                now = time.monotonic()
                if deadline is not None and now >= deadline:
                    raise WaitTimeout(
                        f"{len(open_)} of {len(self)} jobs have not finished after {timeout:g} s, and go on"
                        + _why(open_),
                        given=f"timeout={timeout:g}",
                        remedy=f"come back with {come_back}.wait(), or end them with {come_back}.cancel()",
                    )
                # A look at thousands of jobs takes a while: most of the time has to be left to the jobs themselves.
                pause = max(interval, min(LOOK_SHARE * (now - looked), LONGEST_PAUSE))
                time.sleep(pause if deadline is None else min(pause, deadline - now))
        except KeyboardInterrupt as interrupt:
            interrupt.add_note(f"The jobs go on. Come back with {come_back}.wait(), or end them with .cancel()")
            raise

    def retry_failed(self) -> JobSet:
        """Run the failed and the cancelled jobs again, each as a new attempt under its name; the others do not change.

        A job that was removed and has no output is submitted again. So is a refused request, but not of a set that
        `get_job_set` has read: call `submit_many` again.

        Raises
        ------
        InvalidRequest
            Some jobs cannot be run again, for example because their address held a password, which is not stored. All
            other failed jobs run again.
        """
        refused: list[GeozarrError] = []
        for number, (entry, state) in enumerate(self._states()):
            if isinstance(entry, Job):
                if state and state.status in ("Failed", "Error"):
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
        from geozarr_nb.outputs.stac.objects import ItemCollection

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
        from geozarr_nb.outputs.stac.items import collection_of

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
        names = [entry.name for entry, _ in states]
        try:
            self._backend.cancel(*names)
        except JobNotFound:
            for name in names:
                with suppress(JobNotFound):  # it was removed since
                    self._backend.cancel(name)
        return self

    def _states(self) -> _States:
        """Return each entry with its state, or with None if it was refused; the backend is asked once for all."""
        known = {state.name: state for state in self._backend.list()} if self.jobs else {}
        outputs = Outputs()
        return [
            (entry, entry._memory.of_list(known.get(entry.name), outputs) if isinstance(entry, Job) else None)
            for entry in self.entries
        ]

    def _rows(self, states: _States) -> list[tuple[str, ...]]:
        """Return a row for each entry that is shown; failed entries first where not all can be shown."""
        order: dict[Status, int] = {"Error": 0, "Failed": 0, "Running": 1, "Pending": 2, "Succeeded": 3}
        rows = []
        for entry, state in states:
            if isinstance(entry, Refused):
                rows.append((0, (entry.label, "Failed, refused", "", entry.reason)))
            elif state is not None:
                rows.append((order[state.status], (state.name, status_line(state), state.request.output, state.reason)))
        if len(rows) > ROWS_SHOWN:
            rows.sort(key=lambda row: row[0])
        return [tuple(map(printable, row)) for _, row in rows[:ROWS_SHOWN]]

    def _counted(self, states: _States) -> dict[Status, int]:
        return dict(Counter[Status]("Failed" if state is None else state.status for _, state in states))

    def _title(self, states: _States) -> str:
        counts = ", ".join(f"{count} {status}" for status, count in self._counted(states).items())
        return printable(f"{self.name or 'jobs'}: {counts or 'none'}")

    def _more(self) -> str:
        return f"and {len(self.entries) - ROWS_SHOWN} more" if len(self.entries) > ROWS_SHOWN else ""

    def __repr__(self) -> str:
        rows = self._rows(states := self._states())
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join(filter(None, [self._title(states), *(f"  {line}" for line in lines), self._more()]))

    def _repr_html_(self) -> str:
        table = html.table(("job", "status", "output", "reason"), self._rows(states := self._states()))
        return html.block(self._title(states), table, self._more())


def _why(open_: Sequence[JobState]) -> str:
    """Return the reason that most of the jobs wait for, to be put behind a sentence; empty if there is none."""
    reasons = Counter(state.reason for state in open_ if state.reason)
    return "".join(f": {reason}" for reason, _ in reasons.most_common(1))


def label_of(arguments: Mapping[str, Any]) -> str:
    """Return a short name of a request's product, without secrets."""
    source = arguments.get("source")
    if isinstance(source, Mapping):
        return f"STAC item {source.get('id', '?')}"
    return redact(str(getattr(source, "url", None) or getattr(source, "id", None) or source))

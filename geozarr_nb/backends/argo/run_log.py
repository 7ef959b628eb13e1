"""The events of an attempt's runs, read from the log of the pod, or from the file beside the output without a pod.

Both hold the same events in the same order. A `run` event begins each run; it has the uid of the Workflow and the name
of the pod, since a Workflow that is deleted and made again has pods of the same names. Therefore no event is read
twice, and none is lost when a pod is deleted in the middle of a run.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from threading import Lock

from geozarr_nb.backends.argo.attempt import Attempt, Pod
from geozarr_nb.cluster.client import Api
from geozarr_nb.cluster.refusals import LoggedOut
from geozarr_nb.errors import ClaimUnreadable, ClusterDenied, ClusterError, ClusterObjectMissing, ClusterRefused
from geozarr_runner.events import Event, parse, parse_all

SECONDS_UNTIL_ASKED_AGAIN = 10.0  # who may not read a log now may a little later
LAST_EVENTS = 5  # where a run's result is looked for: warnings may follow it
ReadFile = Callable[[str], bytes | None]
_STAMPED = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?(Z|[+-]\d\d:\d\d) (.*)", re.DOTALL)


class RunLog:
    """The events of one attempt's runs in order; each `refresh` reads the new ones.

    Parameters
    ----------
    read_file
        Returns the content of the file at an address; None if there is none.

    Attributes
    ----------
    denial
        Why they cannot be read from here: this person may not, or nothing shows the claim's files. None if they can.
    """

    def __init__(self, api: Api, read_file: ReadFile) -> None:
        self._api = api
        self._read_file = read_file
        self._lock = Lock()
        self._runs: dict[str, _Run] = {}
        self._denied_until = -math.inf
        self.denial: ClusterError | None = None

    def refresh(self, attempt: Attempt) -> None:
        """Read the events since the last call; nothing where they cannot be read from here, see `denial`.

        Raises
        ------
        ClusterError
            The cluster does not answer.
        """
        with self._lock:
            if time.monotonic() < self._denied_until:
                return
            try:
                self._read_on(attempt)
                self.denial = None
            except LoggedOut:
                raise
            except (ClusterDenied, ClaimUnreadable) as denial:
                # What became of the job is known without them: its Workflow tells that.
                self.denial = denial
                self._denied_until = time.monotonic() + SECONDS_UNTIL_ASKED_AGAIN

    def _read_on(self, attempt: Attempt) -> None:
        for pod in attempt.pods:
            if not pod.has_begun:
                continue
            run = self._run_of(pod)
            if not run.is_whole:
                self._read(run, pod, attempt)

    @property
    def events(self) -> Sequence[Event]:
        """All events that were read so far."""
        with self._lock:
            return [event for run in self._runs.values() for event in run.events]

    def _run_of(self, pod: Pod) -> _Run:
        """Return the run of a pod; a pod that is made again under its name has another uid, and is another run."""
        run = self._runs.get(pod.name)
        if run is not None and pod.uid and run.uid and run.uid != pod.uid:
            earlier = f"{pod.name} {run.uid}"
            self._runs = {earlier if name == pod.name else name: one for name, one in self._runs.items()}
            run = None
        if run is None:
            run = self._runs[pod.name] = _Run()
        run.uid = run.uid or pod.uid
        return run

    def _read(self, run: _Run, pod: Pod, attempt: Attempt) -> None:
        if not run.is_pod_gone:
            try:
                run.take(self._api.log(pod.name, since=run.since))
            except ClusterObjectMissing:
                run.is_pod_gone = True
            except ClusterRefused:
                # The container is being made, or its node does not answer: the next call may read more.
                if pod.has_ended:
                    run.is_pod_gone = True
            else:
                if pod.has_ended:
                    # The kubelet returns only the end of a long log, and nothing of a file that it has just begun.
                    run.is_whole = run.has_beginning and run.has_end
                    run.is_pod_gone = not run.is_whole
        if run.is_pod_gone:
            try:
                content = self._read_file(f"{attempt.request.output}.log.jsonl")
            except ClusterError:
                if not (run.events and run.has_beginning):
                    raise
                content = None  # the pod's own log has to do
            found = _of_run(content or b"", f"{attempt.uid}/{pod.name}", run.events)
            if len(found) > len(run.events):
                run.events = found
            run.is_whole = pod.has_ended


@dataclass
class _Run:
    """The events of one pod.

    Attributes
    ----------
    uid
        The uid of the pod; empty if it was not seen.
    since
        The second of the last line. The API server returns lines from a second on, and not from a line on.
    in_second
        Number of lines of that second that were read.
    """

    events: list[Event] = field(default_factory=list)
    uid: str = ""
    since: str = ""
    in_second: int = 0
    is_pod_gone: bool = False
    is_whole: bool = False

    @property
    def has_beginning(self) -> bool:
        """True unless the first lines of the log are missing."""
        return not self.events or self.events[0].type == "run"

    @property
    def has_end(self) -> bool:
        """True if the last lines of the log are there: a run ends with its result or its error."""
        return any(event.type in ("result", "error") for event in self.events[-LAST_EVENTS:])

    def take(self, log: bytes) -> None:
        """Add the lines of a log that was read from `since` on."""
        lines = log[: log.rfind(b"\n") + 1].splitlines()
        for line in lines[self.in_second :]:
            found = _STAMPED.fullmatch(line)
            if found is None:
                continue
            second = (found[1] + found[2]).decode()
            self.in_second = self.in_second + 1 if second == self.since else 1
            self.since = second
            if (event := parse(found[3].decode("utf-8", errors="replace"))) is not None:
                self.events.append(event)


def _of_run(content: bytes, run: str, known: Sequence[Event]) -> list[Event]:
    """Return the events of one run from a file with many runs.

    A pod that is made again under its name begins another run of the same id. The run is the one that begins as what is
    known of it; otherwise the last one.
    """
    runs: list[list[Event]] = []
    is_ours = False
    for event in parse_all(content.decode("utf-8", errors="replace").split("\n")):
        if event.type == "run":
            is_ours = event.get("id") == run
            runs += [[]] if is_ours else []
        if is_ours:
            runs[-1].append(event)
    if known and known[0].type == "run":
        return next((found for found in runs if found[0] == known[0]), [])
    return runs[-1] if runs else []


def without_log(events: Iterable[Event], *, verbose: bool) -> list[Event]:
    """Return events without the converter's own lines, unless `verbose` is true."""
    return [event for event in events if verbose or event.type != "log"]

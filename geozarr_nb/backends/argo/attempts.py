"""The attempts at jobs, as the Workflows and pods of a namespace show them.

One watch over Workflows and one over their pods follow all jobs; a pod shows its end sooner than the controller.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from geozarr_nb.backends.argo.attempt import Attempt
from geozarr_nb.backends.argo.reasons import seconds_since
from geozarr_nb.backends.argo.run_log import ReadFile, RunLog
from geozarr_nb.backends.argo.workflow import LABELS
from geozarr_nb.backends.base import Failure, Progress
from geozarr_nb.backends.job_names import alike
from geozarr_nb.backends.run_state import RunState
from geozarr_nb.cluster.answers import objects
from geozarr_nb.cluster.client import Api, Object
from geozarr_nb.cluster.kinds import PODS, WORKFLOWS, Kind
from geozarr_nb.cluster.watch import Watch
from geozarr_nb.errors import ClusterDenied, ClusterError, JobNotFound
from geozarr_nb.request import Request
from geozarr_runner.events import Event
from geozarr_runner.publishing.archive import SUFFIX

WORKFLOW = "workflows.argoproj.io/workflow"  # the label of a pod that names its Workflow
LOGS_KEPT = 64
# Longer than the time for which a submitting process repeats a request that the API server does not answer.
SECONDS_TO_SEND_THE_ADDRESS = 60.0


class Attempts:
    """The attempts at jobs in one namespace, with what their runs have said.

    Parameters
    ----------
    read_log
        Returns the content of the log at an address; None if there is none.

    Attributes
    ----------
    workflows
        The watch over the Workflows.
    """

    def __init__(self, api: Api, read_log: ReadFile) -> None:
        self.workflows = _watch(api, WORKFLOWS)
        self._pods = _watch(api, PODS)
        self._api = api
        self._read_log = read_log
        self._mutex = threading.Lock()
        self._read: dict[str, tuple[str, Attempt]] = {}
        self._said: dict[str, Runs] = {}
        self._logs: OrderedDict[str, None] = OrderedDict()

    def latest(self) -> Mapping[str, Attempt]:
        """Return the newest attempt of each job."""
        return {job: attempts[-1] for job, attempts in self._of_jobs().items()}

    def existing(self, name: str) -> Attempt:
        """Return the newest attempt at a job.

        Raises
        ------
        JobNotFound
            There is no job of this name.
        """
        known = self.latest()
        if name not in known and (thing := self._api.find(WORKFLOWS, name)) is not None:
            # Another process has just made the Workflow, and the watch has not reported it yet.
            self.workflows.put(thing)
            attempt = self._reading(thing, self._seen()[0].get(uid_of(thing), ()))
            known = {**known, attempt.job: attempt}
        if name in known:
            return known[name]
        near = alike(name, known)
        raise JobNotFound(
            f"there is no job of this name in namespace {self._api.namespace}",
            given=name,
            remedy=f"{' or '.join(near)} may be meant"
            if near
            else "geozarr_nb.list_jobs() shows all of them; one that ended long ago was removed, and left its output",
        )

    def numbered(self, name: str, number: int) -> Attempt:
        """Return one attempt at a job; the newest one where that one is gone."""
        latest = self.existing(name)
        if latest.number == number:
            return latest
        there = self._of_jobs().get(name, ())
        return next((attempt for attempt in there if attempt.number == number), latest)

    def has_ended(self, attempt: Attempt) -> bool:
        """Return whether an attempt has ended, even if no controller has noted it."""
        # A Workflow that was shut down and has no pod has ended, even if no controller has noted it. So has a Workflow
        # whose submitter did not send the address in time.
        if attempt.is_held:
            return seconds_since(attempt.submitted, self._api) > SECONDS_TO_SEND_THE_ADDRESS
        if attempt.has_ended or not attempt.is_shut_down:
            return attempt.has_ended
        return not attempt.pods or attempt.pods[-1].has_ended or attempt.has_no_pod

    def is_over(self, attempt: Attempt) -> bool:
        """Return whether the attempt's job has finished, even if the controller has not noted it yet."""
        return self.has_ended(attempt) or result_of(attempt, self.runs_of(attempt).digest) is not None

    def runs_of(self, attempt: Attempt) -> Runs:
        """Return what the runs of an attempt have said so far."""
        with self._mutex:
            return self._said.setdefault(attempt.uid, Runs(RunLog(self._api, self._read_log)))

    def reading(self, attempt: Attempt) -> Runs:
        """Return what the runs of an attempt have said, for reading on; the events of the oldest ones are dropped.

        What the events said of the attempt is kept: a result that was told is final.
        """
        said = self.runs_of(attempt)
        with self._mutex:
            self._logs[attempt.uid] = None
            self._logs.move_to_end(attempt.uid)
            while len(self._logs) > LOGS_KEPT:
                uid, _ = self._logs.popitem(last=False)
                if uid in self._said:
                    self._said[uid].log = RunLog(self._api, self._read_log)
        return said

    def left_by(self, workflow: str) -> Sequence[str]:
        """Return the pods that deleted Workflows of this name have left."""
        if self.workflows.get(workflow) is not None:
            return []
        seen = {str(pod["metadata"]["name"]): pod for pods in self._seen()[0].values() for pod in pods}
        return [name for name, pod in seen.items() if pod["metadata"].get("labels", {}).get(WORKFLOW) == workflow]

    def _of_jobs(self) -> Mapping[str, Sequence[Attempt]]:
        """Return the attempts of each job in the order of their numbers.

        What somebody resubmits with Argo has the labels of the Workflow that it was made from. It is an attempt of its
        own, after that one.
        """
        found: dict[str, list[Attempt]] = {}
        seen, sees_pods = self._seen()
        things = self.workflows.objects()
        self._forget_all_but({uid_of(thing) for thing in things})
        for thing in things:
            attempt = self._reading(thing, seen.get(uid_of(thing), ()), sees_pods=sees_pods)
            found.setdefault(attempt.job, []).append(attempt)
        for attempts in found.values():
            attempts.sort(key=lambda attempt: (attempt.number, attempt.submitted, attempt.name))
            for place in range(1, len(attempts)):
                behind = attempts[place - 1].number + 1 - attempts[place].number
                if behind > 0:
                    attempts[place] = replace(attempts[place], later=behind)
        return found

    def _forget_all_but(self, there: Set[str]) -> None:
        """Remove deleted Workflows from the caches."""
        with self._mutex:
            for known in (self._read, self._said, self._logs):
                for uid in known.keys() - there:
                    del known[uid]

    def _seen(self) -> tuple[Mapping[str, Sequence[Object]], bool]:
        """Return the existing pods by the uid of their Workflow, the oldest first, and whether these are all of them.

        The uid is used since pods stay a little longer than a deleted Workflow, whose name a new one may have by then.
        """
        try:
            pods = self._pods.objects()
        except ClusterDenied:
            return {}, False  # the state is then read from the Workflows, a little later
        found: dict[str, list[Object]] = {}
        for pod in sorted(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp"))):
            for owner in objects(pod["metadata"].get("ownerReferences")):
                found.setdefault(uid_of({"metadata": owner}), []).append(pod)
        return found, self._pods.trouble is None

    def _reading(self, thing: Object, seen: Sequence[Object], *, sees_pods: bool = False) -> Attempt:
        """Return the attempt of a Workflow, parsed once for each version of it."""
        uid = uid_of(thing)
        version = " ".join(str(each["metadata"].get("resourceVersion")) for each in (thing, *seen)) + str(sees_pods)
        with self._mutex:
            known = self._read.get(uid)
            if known is None or known[0] != version:
                known = self._read[uid] = (version, Attempt.of(thing, seen, sees_pods=sees_pods))
            return known[1]


def uid_of(thing: Object) -> str:
    """Return an object's unique id; empty where a server gave it none."""
    return str(thing["metadata"].get("uid") or "")


@dataclass
class Runs:
    """Log and state of an attempt's runs; `silence` is the failure of a run that gave no report."""

    log: RunLog
    digest: RunState = field(default_factory=RunState)
    taken: int = 0
    silence: Failure | None = None

    def follow(self, attempt: Attempt) -> None:
        """Read the new events of the attempt's runs."""
        try:
            self.log.refresh(attempt)
        except ClusterError:
            return  # the next look may succeed, and the status of the Workflow is known without the log
        events = self.log.events
        self.digest.feed(events[self.taken :])
        self.taken = len(events)


def keep[T](known: OrderedDict[str, T], key: str, value: T, most: int) -> None:
    """Store a value as the newest one, and drop the oldest ones beyond a number."""
    known[key] = value
    known.move_to_end(key)
    while len(known) > most:
        known.popitem(last=False)


@lru_cache(maxsize=16)
def _watch(api: Api, kind: Kind) -> Watch:
    """Return the watch over a namespace's jobs, which backends with different settings share."""
    return Watch(api, kind, LABELS)


def forget_watches() -> None:
    """Let new backends begin watches of their own."""
    _watch.cache_clear()


def result_of(attempt: Attempt, digest: RunState) -> Event | None:
    """Return the `result` event of an attempt, from the logs of its runs or from the status of the Workflow.

    A run reports its result once the output has its name. That is final, whatever becomes of the attempt's pods: one
    that was told to end at that moment counts as failed, and one that was deleted may be made again.
    """
    told = (pod.outcome for pod in attempt.pods if pod.outcome is not None and pod.outcome.type == "result")
    return digest.result_event or next(told, None)


def told(result: Event, request: Request) -> dict[str, Any]:
    """Return the fields of a result, with addresses in place of the paths in the pod."""
    fields = {**result.fields, "path": request.output}
    if archive := fields.get("archive"):
        fields["archive"] = {**archive, "path": f"{request.output}{SUFFIX}"}
    return fields


def progress_of(attempt: Attempt) -> Progress | None:
    """Return the progress that the pod reported to Argo, which has no unit."""
    measured = attempt.pods[-1].progress if attempt.pods else None
    return None if measured is None else Progress(*measured, "parts")

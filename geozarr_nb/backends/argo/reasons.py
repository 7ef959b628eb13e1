"""Reasons why a job on a cluster waits, or ended without a report: one sentence, from the objects of the cluster.

Objects that this person may not read are left out. The sentence is then less exact, but never a guess.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from geozarr_nb.backends.argo.attempt import Attempt, Pod
from geozarr_nb.backends.base import Failure
from geozarr_nb.cluster import diagnostics
from geozarr_nb.cluster.cause import Cause, make
from geozarr_nb.cluster.client import Api, Object
from geozarr_nb.cluster.controllers import controllers, unwatched
from geozarr_nb.cluster.forbidden import forbidden
from geozarr_nb.cluster.images import unusable
from geozarr_nb.cluster.kinds import DEPLOYMENTS, EVENTS, NODES
from geozarr_nb.cluster.objects import quantity
from geozarr_nb.errors import ClusterError
from geozarr_runner.errors import ExitCode

# A controller begins a new workflow sooner than this.
SECONDS_TO_BE_TAKEN_UP = 3.0
SECONDS_UNTIL_LOOKED_AT_AGAIN = 1.0
SECONDS_NODES_ARE_KNOWN = 10.0  # by a job that runs: a cluster takes 40 s to call a node silent
SHARE_OF_A_HUNG_LOOK = 2  # a look that failed is not repeated for as long as it took
AGAIN = "run it again: job.retry()"
# What a runner says of a flag of the workflow template, and of an option of the request, that a later version has.
_UNKNOWN_TO_THE_IMAGE = ("geozarr-runner convert has no option ", "--options has no argument ")
_EXIT_CODES = {
    "out-of-memory": ExitCode.CONVERTER_FAILED,
    "converter-killed": ExitCode.CONVERTER_FAILED,
    "deadline": ExitCode.INTERRUPTED,
    "evicted": ExitCode.INTERRUPTED,
    "node-lost": ExitCode.INTERRUPTED,
    "pod-deleted": ExitCode.INTERRUPTED,
    "template-missing": ExitCode.CLUSTER_FAILED,
    "claim-missing": ExitCode.CLUSTER_FAILED,
    "not-started": ExitCode.CLUSTER_FAILED,
    "image-unusable": ExitCode.CLUSTER_FAILED,
    "namespace-ending": ExitCode.CLUSTER_FAILED,
    "quota": ExitCode.CLUSTER_FAILED,
    "limit-range": ExitCode.CLUSTER_FAILED,
    "policy": ExitCode.CLUSTER_FAILED,
}


class Reasons:
    """Finds the reasons of jobs in a cluster; each answer is used again for a moment.

    Parameters
    ----------
    release
        Called when a job waits for a quota or a volume, to end what this process itself has of it and does not use.
    """

    def __init__(self, api: Api, release: Callable[[], None] = lambda: None) -> None:
        self._api = api
        self._release = release
        self._seen: dict[str, tuple[float, Any]] = {}

    def pending(self, attempt: Attempt, *, closely: bool = True) -> str:
        """Return why an attempt has not begun.

        Parameters
        ----------
        closely
            True also reads the events of the attempt's pod. With False the number of calls does not grow with the jobs.
        """
        if attempt.is_shut_down:
            return "it is being ended"
        if attempt.lacks_pod:
            return (
                "its pod is gone, and the workflow controller has not noted it: a new one starts then, or the job ends "
                "(geozarr-nb doctor --backend argo)"
            )
        if attempt.is_held:
            return "it was just submitted, and its product's address follows"
        if attempt.is_suspended:
            resume = f"kubectl -n {self._api.namespace} patch workflow {attempt.name} --type=merge"
            return f'somebody has suspended it ({resume} -p \'{{"spec": {{"suspend": null}}}}\')'
        if not attempt.phase:
            return self._not_taken_up(attempt)
        cause = diagnostics.lock_reason(attempt.thing) or self._pod_waits(attempt, closely=closely)
        if cause is not None:
            if cause.code == "volume-elsewhere":
                self._release()
            return f"{cause.message} ({cause.remedy})"
        said = attempt.message or (attempt.pods[-1].message if attempt.pods else "")
        refused = forbidden(said, self._api.namespace)
        if refused is not None and refused.code == "quota":
            self._release()
        return f"{refused.message} ({refused.remedy})" if refused else said or "it is about to start"

    def running(self, attempt: Attempt) -> str:
        """Return why nothing new is known of an attempt that runs; empty where that is not for its node."""
        name = attempt.pods[-1].name
        pod = next((pod for pod in attempt.seen if pod["metadata"]["name"] == name), None)
        nodes = self._nodes(SECONDS_NODES_ARE_KNOWN) if pod else None
        cause = diagnostics.silent_node(pod, nodes) if pod and nodes else None
        return f"{cause.message} ({cause.remedy})" if cause else ""

    def held(self, attempt: Attempt) -> Failure:
        """Return the failure of an attempt that never began since its product's address was not sent."""
        return Failure(
            code="not-started",
            message="the process that submitted it ended before it had sent the signed address of its product",
            given=attempt.request.shown,
            remedy="submit it again with the full address",
            exit_code=int(ExitCode.CLUSTER_FAILED),
            retryable=True,
        )

    def ended(self, attempt: Attempt) -> Failure:
        """Return why an attempt ended whose runs gave no report."""
        cause = self._ended(attempt)
        return Failure(
            code=cause.code,
            message=cause.message,
            remedy=cause.remedy,
            exit_code=int(_EXIT_CODES.get(cause.code, ExitCode.DEFECT)),
            retryable=not cause.lasting,
        )

    def interrupted(self, attempt: Attempt, failure: Failure) -> Failure:
        """Return why a run was told to end, if the cluster shows it; the run itself does not know."""
        cause = self._ended(attempt)
        if cause.code not in ("deadline", "evicted", "node-lost", "pod-deleted"):
            return failure
        return Failure(
            code=cause.code,
            message=cause.message,
            given=failure.given,
            remedy=cause.remedy,
            exit_code=failure.exit_code,
            retryable=not cause.lasting,
        )

    def refused(self, attempt: Attempt, failure: Failure) -> Failure:
        """Return the failure of a run that refused its command line, where its image is older than what made that."""
        if not failure.message.startswith(_UNKNOWN_TO_THE_IMAGE):
            return failure
        image = attempt.parameters.get("image", "")
        return replace(
            failure,
            message=f"the image {image} is older than what submitted the job: {failure.message}",
            remedy=f"{make('build load-k3d', IMAGE=image)}, or give another one with image=...; then {AGAIN}",
        )

    def killed(self, attempt: Attempt, failure: Failure) -> Failure:
        """Return the failure of a run whose converter was killed, with the memory that would be enough."""
        seen = self._ended(attempt)
        is_seen = seen.code == "out-of-memory"  # not always: a node reports its containers, and not their processes
        cause = seen if is_seen else diagnostics.out_of_memory(_memory_limit(attempt), attempt.memory_needed)
        return Failure(
            code=failure.code,
            message=cause.message if is_seen else failure.message,
            given=failure.given,
            remedy=f"{cause.remedy}, then {AGAIN}",
            exit_code=failure.exit_code,
            retryable=failure.retryable,
        )

    def _not_taken_up(self, attempt: Attempt) -> str:
        if seconds_since(attempt.submitted, self._api) < SECONDS_TO_BE_TAKEN_UP:
            return "it was just submitted"
        namespace = self._api.namespace
        deployments = self._look("deployments", lambda: self._api.list(DEPLOYMENTS, everywhere=True, patience=0)[0])
        if deployments is None:
            return (
                f"no workflow controller has taken it up: as it seems none watches namespace {namespace} (make doctor)"
            )
        cause = unwatched(controllers(deployments), namespace)
        if cause is None:
            return "the workflow controller has not taken it up yet"
        return f"{cause.message} ({cause.remedy})"

    def _pod_waits(self, attempt: Attempt, *, closely: bool) -> Cause | None:
        if not attempt.pods:
            return None
        name = attempt.pods[-1].name
        pod = next((pod for pod in attempt.seen if pod["metadata"]["name"] == name), None)
        if pod is None:
            return None
        events: Sequence[Object] = ()
        if closely:
            found = self._look(
                f"events of {name}", lambda: self._api.list(EVENTS, fields=f"involvedObject.name={name}", patience=0)[0]
            )
            events = sorted(found or (), key=lambda event: str(event.get("lastTimestamp") or ""))
        return diagnostics.waiting_reason(pod, events, self._nodes() or ())

    def _nodes(self, seconds: float = SECONDS_UNTIL_LOOKED_AT_AGAIN) -> Sequence[Object] | None:
        """Return the nodes; None to a person who may not see them."""
        return self._look("nodes", lambda: self._api.list(NODES, patience=0)[0], seconds)

    def _ended(self, attempt: Attempt) -> Cause:
        pod = attempt.pods[-1] if attempt.pods else None
        if pod is None:
            return self._never_began(attempt)
        thing = next((each for each in attempt.seen if each["metadata"]["name"] == pod.name), None)
        if thing and (cause := diagnostics.ending_reason(thing)) is not None:
            if cause.code == "out-of-memory":
                return diagnostics.out_of_memory(diagnostics.memory_limit(thing), attempt.memory_needed)
            return cause
        if cause := forbidden(pod.message or attempt.message, self._api.namespace):
            return cause
        # The pod is gone, but the status of the Workflow has the controller's message about it.
        return _of_message(attempt, pod)

    def _never_began(self, attempt: Attempt) -> Cause:
        if "workflowtemplates" in attempt.message and "not found" in attempt.message:
            return diagnostics.missing_template(attempt.template, self._api.namespace)
        if cause := forbidden(attempt.message, self._api.namespace):
            return cause
        message = attempt.message or "its pod was never made"
        return Cause("not-started", message, "look at it: geozarr-nb doctor --backend argo", lasting=True)

    def _look[T](self, what: str, call: Callable[[], T], seconds: float = SECONDS_UNTIL_LOOKED_AT_AGAIN) -> T | None:
        """Return the answer of a call to the cluster; None if it fails, and then it is not made again at once.

        Parameters
        ----------
        seconds
            How long the answer is used.
        """
        now = time.monotonic()
        self._seen = {key: seen for key, seen in self._seen.items() if now < seen[0]}
        if what in self._seen:
            found: T | None = self._seen[what][1]
            return found
        try:
            found = call()
        except ClusterError:
            found = None
            seconds += SHARE_OF_A_HUNG_LOOK * (time.monotonic() - now)
        self._seen[what] = (now + seconds, found)
        return found


def seconds_since(moment: datetime, api: Api) -> float:
    """Return the seconds since a moment, by the API server's clock."""
    return (datetime.now(UTC) - moment).total_seconds() + api.ahead


def _of_message(attempt: Attempt, pod: Pod) -> Cause:
    message = pod.message or attempt.message
    if "OOMKilled" in message:
        return diagnostics.out_of_memory(_memory_limit(attempt), attempt.memory_needed)
    if "deadline" in message.lower():
        seconds = attempt.parameters.get("time_limit", "")
        return Cause(
            "deadline",
            f"it took longer than its time limit{f' of {seconds} s' if seconds else ''}",
            "give it more time (GEOZARR_TIME_LIMIT=28800, in seconds), or convert fewer groups at once",
        )
    if "pod deleted" in message or "deleted" in message.lower():
        return Cause("pod-deleted", "its pod was deleted while it ran", AGAIN, lasting=False)
    if "evicted" in message.lower() or "low on resource" in message:
        return Cause("evicted", f"its node evicted it: {message}", AGAIN, lasting=False)
    if pod.exit_code == diagnostics.KILLED:
        enough = diagnostics.out_of_memory(_memory_limit(attempt), attempt.memory_needed).remedy
        message = "the run was killed from outside (SIGKILL), as a rule because its node's memory ran out"
        return Cause("converter-killed", message, f"{AGAIN}; if that does not help: {enough}", lasting=False)
    if cause := unusable(attempt.parameters.get("image", ""), message):
        return cause
    code = "" if pod.exit_code is None else f" with exit code {pod.exit_code}"
    return Cause(
        "defect",
        f"its run ended{code} and no word: {message or 'nothing is known of it'}",
        "look at job.logs(), and at the cluster: geozarr-nb doctor --backend argo",
    )


def _memory_limit(attempt: Attempt) -> float | None:
    try:
        return quantity(attempt.parameters.get("memory_limit", ""))
    except ValueError:
        return None

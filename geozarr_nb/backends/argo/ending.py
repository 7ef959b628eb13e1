"""Waiting until a job that was told to end has ended, and until nothing of a deleted one is left."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from geozarr_nb.backends.argo.attempt import Attempt
from geozarr_nb.backends.argo.attempts import WORKFLOW, Attempts
from geozarr_nb.cluster.client import Api
from geozarr_nb.cluster.kinds import PODS, WORKFLOWS
from geozarr_nb.cluster.retries import SECONDS_OF_SILENCE
from geozarr_nb.cluster.watch import Watch
from geozarr_nb.errors import ClusterError

_logger = logging.getLogger(__name__)

# A run that is told to end removes its half-written output first; the template gives it a minute for that.
SECONDS_TO_END = 90.0
SECONDS_FOR_THE_CONTROLLER = 15.0


def until_ended(api: Api, workflows: Watch, attempt: Attempt, start: float) -> None:
    """Wait until no pod of an attempt runs and the controller, which could still make one, has noted the end.

    Without a controller the wait for its note is limited.

    Parameters
    ----------
    start
        Time of the monotonic clock at which the attempt was told to end.
    """
    helped = False
    while True:
        pods, waited = _running_pods(api, attempt.name), time.monotonic() - start
        thing = api.find(WORKFLOWS, attempt.name)
        noted = thing is None or Attempt.of(thing).has_ended
        if not pods and (noted or waited > SECONDS_FOR_THE_CONTROLLER):
            if thing is not None:
                workflows.put(thing)
            return
        if waited > SECONDS_TO_END:
            raise ClusterError(
                f"{attempt.job} is being ended, and its pod still runs after {SECONDS_TO_END:.0f} s",
                given=", ".join(pods),
                remedy=f"kubectl -n {api.namespace} delete pod {' '.join(pods)} --force",
            )
        if pods and not helped and waited > SECONDS_FOR_THE_CONTROLLER:
            # The controller is stopped or slow. To delete the pod ends it in the same way.
            for pod in pods:
                api.delete(PODS, pod)
            helped = True
        time.sleep(0.3)


def until_gone(api: Api, attempts: Attempts, workflow: str) -> None:
    """Wait until the pods of a deleted Workflow are gone; Argo would count them to a new Workflow of this name."""
    start, was_told = time.monotonic(), False
    while pods := attempts.left_by(workflow):
        waited = time.monotonic() - start
        if waited > SECONDS_OF_SILENCE and not was_told:
            was_told = True
            _logger.warning("a job of this name was deleted; waiting until its pod is gone: %s", ", ".join(pods))
        if waited > SECONDS_TO_END:
            raise ClusterError(
                f"a job of this name was deleted, and its pod is still there after {SECONDS_TO_END:.0f} s",
                given=", ".join(pods),
                remedy=f"kubectl -n {api.namespace} delete pod {' '.join(pods)} --force",
            )
        time.sleep(0.2)


def _running_pods(api: Api, workflow: str) -> Sequence[str]:
    pods, _ = api.list(PODS, labels=f"{WORKFLOW}={workflow}")
    running = (pod for pod in pods if pod.get("status", {}).get("phase") not in ("Succeeded", "Failed"))
    return [str(pod["metadata"]["name"]) for pod in running]

"""The start of a reader pod: where it has to run, and why it does not answer."""

from __future__ import annotations

import hashlib
import logging
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from threading import Event
from typing import Any

from geozarr_nb.claims.address import SCHEME
from geozarr_nb.claims.reader_pod import APP, PORT, ReaderPod, phase_of, pod_manifest, uses
from geozarr_nb.cluster import diagnostics
from geozarr_nb.cluster.cause import MAKE_DEFAULTS, Cause, make
from geozarr_nb.cluster.client import Api, Object
from geozarr_nb.cluster.kinds import CLAIMS, EVENTS, PODS, TEMPLATES
from geozarr_nb.errors import ClaimUnreadable, ClusterDenied, ClusterError, ClusterObjectExists, ClusterObjectMissing
from geozarr_runner.serving.handler import MARK

_logger = logging.getLogger(__name__)

SECONDS_TO_START = 180.0
# How long a pod may say that somebody has to do something, or that it has to wait, before that is believed.
GRACE, LONG_GRACE = 2.0, 60.0
SHORT_PAUSE, PAUSE = 0.1, 0.5


class PodStart:
    """Starts reader pods of one claim.

    Parameters
    ----------
    api
        The cluster and the namespace.
    claim
        Name of the claim.
    image
        The runner's image; empty for that of the template.
    template
        The workflow template whose image is taken.
    """

    def __init__(self, api: Api, claim: str, *, image: str = "", template: str = "") -> None:
        self._api = api
        self._name = claim
        self._image = image
        self._template = template

    @property
    def where(self) -> str:
        """Claim, namespace and context, for errors."""
        return f"claim {self._name} in namespace {self._api.namespace}, context {self._api.context}"

    def create(self) -> ReaderPod:
        """Create a pod where it can see the claim.

        Raises
        ------
        ClaimUnreadable, ClusterObjectMissing
            No pod can: the claim is not there, has no volume, or is in use elsewhere.
        """
        claim = self._claim()
        others = self._pods_here()
        pod = ReaderPod(f"{APP}-{secrets.token_hex(5)}", secrets.token_urlsafe(32))
        manifest = pod_manifest(
            pod.name,
            self._name,
            self._chosen_image(),
            hashlib.sha256(pod.token.encode()).hexdigest(),
            node=self._node(claim, others),
        )
        self._delete_ended(others)
        with suppress(ClusterObjectExists):  # an answer was lost: the name is nobody else's
            self._api.create(PODS, manifest)
        return pod

    def wait(self, pod: ReaderPod) -> None:
        """Wait until the pod answers.

        Raises
        ------
        ClaimUnreadable
            It will not, or has not for too long.
        """
        began = time.monotonic()
        stuck: tuple[str, float] | None = None
        cause: Cause | None = None
        told = ""
        for waited in _pauses(began, pod.over):
            found = self._api.find(PODS, pod.name)
            if found is None or phase_of(found) in ("Succeeded", "Failed"):
                raise self._ended(found)
            is_running = phase_of(found) == "Running"
            if is_running and self._answers(pod):
                return
            events = self._events(found) if waited > GRACE and not is_running else []
            cause = None if is_running else diagnostics.waiting_reason(found, events)
            said = cause.message if cause else "it is starting"
            if waited > GRACE and said != told:
                told = said
                _logger.warning("waiting for the pod that reads %s%s: %s", SCHEME, self._name, told)
            if is_running:
                continue
            if cause is None:
                stuck = None
                continue
            if stuck is None or stuck[0] != cause.code:
                stuck = cause.code, time.monotonic()
            if time.monotonic() - stuck[1] >= (GRACE if cause.lasting else LONG_GRACE):
                break
        else:
            if pod.over.is_set():
                raise self.unreadable("the reader pod was closed while it started", "run the same command again")
        why = f": {cause.message}" if cause else f" for {SECONDS_TO_START:g} s, and nothing says why"
        hint = cause.remedy if cause else f"look at it next time: kubectl -n {self._api.namespace} get events"
        raise self.unreadable(f"the reader pod does not start{why}{self._in_use(pod)}", hint)

    def unreadable(self, message: str, remedy: str) -> ClaimUnreadable:
        """Return the error for a claim whose files cannot be read."""
        return ClaimUnreadable(
            f"the files of {SCHEME}{self._name} cannot be read: {message}",
            given=self.where,
            remedy=remedy,
        )

    def _claim(self) -> Object | None:
        """Return the claim; None where it may not be seen."""
        try:
            claim = self._api.find(CLAIMS, self._name)
        except ClusterDenied:
            return None
        if claim is None:
            cause = diagnostics.missing_claim(self._name, self._api.namespace)
            there = [str(one["metadata"]["name"]) for one in self._listed(CLAIMS)]
            hint = f"; there are: {', '.join(there)}" if there else ""
            raise ClusterObjectMissing(
                f"there is no claim {self._name} in namespace {self._api.namespace}{hint}",
                given=f"context {self._api.context}",
                remedy=f"choose the claim and GEOZARR_NAMESPACE of the output; to make one: {cause.remedy}",
            )
        phase = claim.get("status", {}).get("phase", "Pending")
        if phase != "Bound":
            cause = diagnostics.unbound(claim) or Cause(
                "claim-unbound", f"claim {self._name} has no volume yet: no pod has ever used it", ""
            )
            raise self.unreadable(
                f"nothing can be on it: {cause.message}", cause.remedy or "write to it first: gz.convert(...)"
            )
        return claim

    def _pods_here(self) -> list[Object]:
        return self._listed(PODS)

    def _listed(self, kind: Any, fields: str = "") -> list[Object]:
        """Return objects of the namespace; none where they may not be listed, for all that is told of them helps."""
        try:
            return self._api.list(kind, fields=fields)[0]
        except ClusterDenied:
            return []

    def _node(self, claim: Object | None, pods: Sequence[Object]) -> str:
        """Return the node that a pod has to be on to see the claim: where it is in use, when only one node can.

        Raises
        ------
        ClaimUnreadable
            Only one pod can, and there is one.
        """
        modes = set((claim or {}).get("spec", {}).get("accessModes") or ())
        users = [pod for pod in pods if uses(pod, self._name)]
        if modes == {"ReadWriteOncePod"} and users:
            name = users[0]["metadata"]["name"]
            raise self.unreadable(
                f"it is ReadWriteOncePod and in use by pod {name}", f"wait for that pod to end: kubectl get pod {name}"
            )
        if modes != {"ReadWriteOnce"}:
            return ""
        return next((str(pod["spec"]["nodeName"]) for pod in users if pod["spec"].get("nodeName")), "")

    def _delete_ended(self, pods: Sequence[Object]) -> None:
        """Clear away what killed processes left: pods that have ended by themselves."""
        for pod in pods:
            metadata = pod["metadata"]
            is_reader = (metadata.get("labels") or {}).get("app.kubernetes.io/name") == APP
            if is_reader and phase_of(pod) in ("Succeeded", "Failed"):
                with suppress(ClusterError):
                    self._api.delete(PODS, metadata["name"])

    def _chosen_image(self) -> str:
        if self._image:
            return self._image
        try:
            template = self._api.find(TEMPLATES, self._template) if self._template else None
        except ClusterDenied:
            template = None
        parameters = (template or {}).get("spec", {}).get("arguments", {}).get("parameters") or ()
        named = (str(each.get("value", "")) for each in parameters if each.get("name") == "image")
        return next(named, "") or MAKE_DEFAULTS["IMAGE"]

    def _answers(self, pod: ReaderPod) -> bool:
        try:
            answer = self._api.proxy(pod.name, PORT, "stats", headers=pod.headers)
        except ClusterDenied:
            raise
        except ClusterError:
            return False
        return MARK in answer.headers and answer.status == 200

    def _events(self, pod: Object) -> list[Object]:
        events = self._listed(EVENTS, f"involvedObject.uid={pod['metadata']['uid']}")
        return sorted(events, key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""))

    def _in_use(self, pod: ReaderPod) -> str:
        """Return who has the claim in use on which node, where that is what may be in the way."""
        others = [one for one in self._pods_here() if uses(one, self._name) and one["metadata"]["name"] != pod.name]
        on_nodes = [one for one in others if one["spec"].get("nodeName")]
        try:
            claim = self._api.find(CLAIMS, self._name) or {}
        except ClusterError:
            return ""
        if not on_nodes or claim.get("spec", {}).get("accessModes") != ["ReadWriteOnce"]:
            return ""
        first = on_nodes[0]
        name, node = first["metadata"]["name"], first["spec"]["nodeName"]
        return f" (the claim is ReadWriteOnce and in use by pod {name}, so only node {node} can read it)"

    def _ended(self, pod: Object | None) -> ClusterError:
        """Return why a pod that was just started has ended already."""
        if pod is None:
            return self.unreadable("somebody deleted the reader pod while it started", "run the same command again")
        if cause := diagnostics.ending_reason(pod):
            return self.unreadable(f"the reader pod ended: {cause.message}", cause.remedy)
        statuses = pod.get("status", {}).get("containerStatuses") or ()
        states = [status.get("state", {}).get("terminated") or {} for status in statuses]
        words = [f"exit code {state.get('exitCode')}: {_line(state.get('message', ''))}" for state in states]
        said = "; ".join(words) or _line(pod.get("status", {}).get("message", "")) or "no reason given"
        return self.unreadable(
            f"the reader pod ended as soon as it was started: {said}",
            "its image needs geozarr-runner of this version: "
            + make("build load-k3d", IMAGE=str(pod["spec"]["containers"][0]["image"])),
        )


def _pauses(began: float, over: Event) -> Iterator[float]:
    """Yield the seconds since the beginning, again and again, until the time to start is up or it is over."""
    while (waited := time.monotonic() - began) < SECONDS_TO_START and not over.is_set():
        yield waited
        over.wait(SHORT_PAUSE if waited < GRACE else PAUSE)


def _line(text: object) -> str:
    return " ".join(str(text).split())[-300:]

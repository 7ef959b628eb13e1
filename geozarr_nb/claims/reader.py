"""A pod that shows a claim's files, for as long as somebody here reads them.

The pod runs `geozarr-runner serve` on the claim, mounted read-only, and is asked through the API server's proxy with
the caller's own credentials. One is shared by all that this process reads of a claim. It is deleted when nothing was
read for some minutes and when this process ends; when the process is killed, the pod ends by itself.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, Any

from geozarr_nb.claims.address import SCHEME, Entry
from geozarr_nb.claims.reader_pod import APP, PORT, ReaderPod, phase_of, pod_manifest, uses
from geozarr_nb.cluster import diagnostics
from geozarr_nb.cluster.cause import MAKE_DEFAULTS, Cause, make
from geozarr_nb.cluster.client import Api, ApiResponse, Object, connect
from geozarr_nb.cluster.kinds import CLAIMS, EVENTS, PODS, TEMPLATES
from geozarr_nb.cluster.retries import again
from geozarr_nb.errors import (
    ClaimUnreadable,
    ClusterDenied,
    ClusterError,
    ClusterObjectExists,
    ClusterObjectMissing,
    ClusterUnreachable,
    ProductDenied,
)
from geozarr_runner.serving.handler import MARK

if TYPE_CHECKING:
    from geozarr_nb.settings import Settings

# This process deletes a pod that it has no use for; the other two end pods of processes that were killed.
SECONDS_UNUSED = 180.0
# A read goes on over a restart of the API server, or with another pod where this one has ended.
PATIENCE = 60.0
SECONDS_TO_START = 180.0
# How long a pod may say that somebody has to do something, or that it has to wait, before that is believed.
GRACE, LONG_GRACE = 2.0, 60.0
SHORT_PAUSE, PAUSE = 0.1, 0.5
SECONDS_TO_LEAVE = 5.0


class _Lost(Exception):
    """No answer came to a read, and it may be asked again.

    Attributes
    ----------
    cause
        What to say when asking again does not help.
    """

    def __init__(self, cause: ClusterError) -> None:
        super().__init__(cause.message)
        self.cause = cause


class Reader:
    """The files of one claim, see `volume.Files`, read through a pod that is started when it is needed.

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
        self.claim = claim
        self._api = api
        self._image = image
        self._template = template
        self._lock = Lock()
        self._pods: list[ReaderPod] = []
        self._current: ReaderPod | None = None
        self._used = time.monotonic()
        self._reading = 0
        self._failure: tuple[float, ClusterError] | None = None

    def __repr__(self) -> str:
        return f"Reader({self._where})"

    @property
    def pod(self) -> str:
        """Name of the pod that answers now; empty where there is none."""
        current = self._current
        return current.name if current else ""

    def read(self, path: str, start: int = 0, stop: int | None = None) -> bytes:
        """See `volume.Files`."""
        if stop is not None and stop <= start:
            return b""
        if start < 0:
            part = f"bytes={start}"
        else:
            part = f"bytes={start}-{'' if stop is None else stop - 1}" if start or stop is not None else ""
        answer = self._ask(f"files/{path}", {"Range": part} if part else {})
        if answer.status == 416:
            return b""
        return self._checked(answer, path).body

    def entry(self, path: str) -> Entry:
        """See `volume.Files`."""
        return _entry(json.loads(self._checked(self._ask(f"info/{path}"), path).body))

    def entries(self, path: str) -> list[Entry]:
        """See `volume.Files`."""
        body = self._checked(self._ask(f"list/{path}"), path).body
        return [_entry(json.loads(line)) for line in body.splitlines()]

    def stats(self) -> dict[str, int]:
        """Return what the pod has answered: `requests`, `reads` and `bytes` of files."""
        return dict(json.loads(self._ask("stats").body))

    def close(self, seconds: float = SECONDS_TO_LEAVE) -> None:
        """Delete the pod, if there is one; a later read starts another."""
        self._current = None
        pods = list(self._pods)
        for pod in pods:
            pod.over.set()
        end = time.monotonic() + seconds
        for pod in pods:
            if pod.keeper is not None:
                pod.keeper.join(max(end - time.monotonic(), 0))

    # One request

    def _ask(self, path: str, headers: Mapping[str, str] | None = None) -> ApiResponse:
        """Return what the pod answers; asked again, of another pod if need be, while that may help."""
        if ".." in path.split("/"):
            # The client would leave out what `..` goes up from, and ask the API server for something else.
            raise ValueError(f"{path!r} leads out of the claim")
        try:
            once = partial(self._ask_once, path, headers or {})
            return again(once, PATIENCE, lambda error: isinstance(error, _Lost))
        except _Lost as lost:
            raise lost.cause from lost.cause.__cause__

    def _ask_once(self, path: str, headers: Mapping[str, str]) -> ApiResponse:
        pod = self._running()
        with self._lock:
            self._reading += 1
        try:
            answer = self._api.proxy(pod.name, PORT, path, headers={**pod.headers, **headers})
        except ClusterDenied:
            raise
        except ClusterError as error:
            raise _Lost(self._looked_after(pod) or error) from error
        finally:
            with self._lock:
                self._reading -= 1
                self._used = time.monotonic()
        if MARK not in answer.headers or answer.status == 401:
            # The pod's address is another pod's by now, or the API server's way to it is not there yet.
            self._forget(pod)
            raise _Lost(
                ClusterUnreachable(
                    f"something else than the reader pod answers (HTTP {answer.status})",
                    given=self._where,
                    remedy="run the same command again",
                )
            )
        if answer.status >= 500:
            is_busy = answer.status == 503
            remedy = "read with fewer threads at once" if is_busy else "look at the volume: it may be failing"
            raise _Lost(ClaimUnreadable(_message(answer), given=self._where, remedy=remedy))
        return answer

    def _checked(self, answer: ApiResponse, path: str) -> ApiResponse:
        if answer.status < 400:
            return answer
        address = f"{SCHEME}{self.claim}/{path}"
        refusal = json.loads(answer.body)
        kinds = {"is-directory": IsADirectoryError, "not-a-directory": NotADirectoryError}
        if refusal["code"] in ("denied", "outside"):
            raise ProductDenied(
                f"the volume's reader refuses it: {refusal['message']}",
                given=address,
                remedy="it reads as user and group 1000, and only what is on this volume: change permissions or links",
            )
        raise kinds.get(refusal["code"], FileNotFoundError)(f"{refusal['message']}: {address}")

    def _looked_after(self, pod: ReaderPod) -> ClusterError | None:
        """Let go of a pod that has ended or is ending; returns what ended it, where that is worth telling."""
        try:
            found = self._api.find(PODS, pod.name)
        except ClusterError:
            return None  # nothing is known of it then
        ended = found is None or "deletionTimestamp" in found["metadata"] or phase_of(found) in ("Succeeded", "Failed")
        if not ended:
            return None
        self._forget(pod)
        cause = diagnostics.ending_reason(found) if found else None
        return self._unreadable(f"the reader pod ended: {cause.message}", cause.remedy) if cause else None

    # The pod

    @property
    def _where(self) -> str:
        return f"claim {self.claim} in namespace {self._api.namespace}, context {self._api.context}"

    def _running(self) -> ReaderPod:
        """Return the pod, started if there is none; those who wait for one start share its failure too."""
        asked = time.monotonic()
        with self._lock:
            self._used = time.monotonic()
            if self._current is None:
                if self._failure is not None and self._failure[0] >= asked:
                    raise self._failure[1]
                try:
                    self._current = self._start()
                except ClusterError as error:
                    self._failure = time.monotonic(), error
                    raise
                self._used = time.monotonic()
            return self._current

    def _forget(self, pod: ReaderPod) -> None:
        """Ask no more of a pod, and delete it."""
        with self._lock:
            if self._current is pod:
                self._current = None
        pod.over.set()

    def _start(self) -> ReaderPod:
        claim = self._claim()
        others = self._pods_here()
        pod = ReaderPod(f"{APP}-{secrets.token_hex(5)}", secrets.token_urlsafe(32))
        manifest = pod_manifest(
            pod.name,
            self.claim,
            self._chosen_image(),
            hashlib.sha256(pod.token.encode()).hexdigest(),
            node=self._node(claim, others),
        )
        self._delete_ended(others)
        with suppress(ClusterObjectExists):  # an answer was lost: the name is nobody else's
            self._api.create(PODS, manifest)
        self._pods.append(pod)
        pod.keeper = Thread(target=self._keep, args=(pod,), name=pod.name, daemon=True)
        pod.keeper.start()
        try:
            self._await(pod)
        except BaseException:
            pod.over.set()
            raise
        return pod

    def _claim(self) -> Object | None:
        """Return the claim; None where it may not be seen."""
        try:
            claim = self._api.find(CLAIMS, self.claim)
        except ClusterDenied:
            return None
        if claim is None:
            cause = diagnostics.missing_claim(self.claim, self._api.namespace)
            there = [str(one["metadata"]["name"]) for one in self._listed(CLAIMS)]
            hint = f"; there are: {', '.join(there)}" if there else ""
            raise ClusterObjectMissing(
                f"there is no claim {self.claim} in namespace {self._api.namespace}{hint}",
                given=f"context {self._api.context}",
                remedy=f"choose the claim and GEOZARR_NAMESPACE of the output; to make one: {cause.remedy}",
            )
        phase = claim.get("status", {}).get("phase", "Pending")
        if phase != "Bound":
            cause = diagnostics.unbound(claim) or Cause(
                "claim-unbound", f"claim {self.claim} has no volume yet: no pod has ever used it", ""
            )
            raise self._unreadable(
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
        users = [pod for pod in pods if uses(pod, self.claim)]
        if modes == {"ReadWriteOncePod"} and users:
            name = users[0]["metadata"]["name"]
            raise self._unreadable(
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

    def _await(self, pod: ReaderPod) -> None:
        """Wait until the pod answers.

        Raises
        ------
        ClaimUnreadable
            It will not, or has not for too long.
        """
        began = time.monotonic()
        stuck: tuple[str, float] | None = None
        cause: Cause | None = None
        for waited in _pauses(began, pod.over):
            found = self._api.find(PODS, pod.name)
            if found is None or phase_of(found) in ("Succeeded", "Failed"):
                raise self._ended(found)
            if phase_of(found) == "Running":
                if self._answers(pod):
                    return
                continue
            events = self._events(found) if waited > GRACE else []
            cause = diagnostics.waiting_reason(found, events)
            if cause is None:
                stuck = None
                continue
            if stuck is None or stuck[0] != cause.code:
                stuck = cause.code, time.monotonic()
            if time.monotonic() - stuck[1] >= (GRACE if cause.lasting else LONG_GRACE):
                break
        else:
            if pod.over.is_set():
                raise self._unreadable("the reader pod was closed while it started", "run the same command again")
        said = f": {cause.message}" if cause else f" for {SECONDS_TO_START:g} s, and nothing says why"
        hint = cause.remedy if cause else f"look at it next time: kubectl -n {self._api.namespace} get events"
        raise self._unreadable(f"the reader pod does not start{said}{self._in_use(pod)}", hint)

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
        others = [one for one in self._pods_here() if uses(one, self.claim) and one["metadata"]["name"] != pod.name]
        on_nodes = [one for one in others if one["spec"].get("nodeName")]
        try:
            claim = self._api.find(CLAIMS, self.claim) or {}
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
            return self._unreadable("somebody deleted the reader pod while it started", "run the same command again")
        if cause := diagnostics.ending_reason(pod):
            return self._unreadable(f"the reader pod ended: {cause.message}", cause.remedy)
        statuses = pod.get("status", {}).get("containerStatuses") or ()
        states = [status.get("state", {}).get("terminated") or {} for status in statuses]
        words = [f"exit code {state.get('exitCode')}: {_line(state.get('message', ''))}" for state in states]
        said = "; ".join(words) or _line(pod.get("status", {}).get("message", "")) or "no reason given"
        return self._unreadable(
            f"the reader pod ended as soon as it was started: {said}",
            "its image needs geozarr-runner of this version: "
            + make("build load-k3d", IMAGE=str(pod["spec"]["containers"][0]["image"])),
        )

    def _unreadable(self, message: str, remedy: str) -> ClaimUnreadable:
        return ClaimUnreadable(
            f"the files of {SCHEME}{self.claim} cannot be read: {message}",
            given=self._where,
            remedy=remedy,
        )

    def _keep(self, pod: ReaderPod) -> None:
        """Delete a pod when it is over, or when nothing was read for some time; runs in a thread of its own."""
        while not pod.over.wait(max(self._used + SECONDS_UNUSED - time.monotonic(), PAUSE)):
            with self._lock:
                if not self._reading and time.monotonic() - self._used >= SECONDS_UNUSED:
                    if self._current is pod:
                        self._current = None
                    break
        with suppress(ClusterError):  # it ends by itself then
            self._api.delete(PODS, pod.name)
        self._pods.remove(pod)


def reader_of(claim: str, settings: Settings) -> Reader:
    """Return the reader of a claim; the same one for all that this process reads of it.

    Raises
    ------
    ClusterUnreachable
        No cluster is configured.
    """
    api = connect(settings)
    # A forked process must not delete the pod that its parent reads from.
    key = (os.getpid(), api.server, api.context, api.namespace, claim)
    with _OPENING:
        if key not in _READERS:
            _READERS[key] = Reader(api, claim, image=settings.image, template=settings.template)
        return _READERS[key]


def close_all() -> None:
    """Delete the reader pods of this process."""
    for key, reader in list(_READERS.items()):
        if key[0] == os.getpid():
            reader.close()


_OPENING = Lock()
_READERS: dict[tuple[int, str, str, str, str], Reader] = {}
atexit.register(close_all)
os.register_at_fork(after_in_child=lambda: globals().update(_OPENING=Lock()))


def _pauses(began: float, over: Event) -> Iterator[float]:
    """Yield the seconds since the beginning, again and again, until the time to start is up or it is over."""
    while (waited := time.monotonic() - began) < SECONDS_TO_START and not over.is_set():
        yield waited
        over.wait(SHORT_PAUSE if waited < GRACE else PAUSE)


def _entry(document: Mapping[str, Any]) -> Entry:
    return Entry(document["name"], document["type"] == "directory", document["size"], document["modified"])


def _message(answer: ApiResponse) -> str:
    try:
        return str(json.loads(answer.body)["message"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {answer.status}"


def _line(text: object) -> str:
    return " ".join(str(text).split())[-300:]

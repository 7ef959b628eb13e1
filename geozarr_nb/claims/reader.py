"""A pod that shows a claim's files, for as long as somebody here reads them.

The pod runs `geozarr-runner serve` on the claim, mounted read-only, and is asked through the API server's proxy with
the caller's own credentials. One is shared by all that this process reads of a claim. It is deleted when nothing was
read for some minutes and when this process ends; when the process is killed, the pod ends by itself.
"""

from __future__ import annotations

import atexit
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any

from geozarr_nb.claims.address import SCHEME, Entry
from geozarr_nb.claims.pod_start import PAUSE, PodStart
from geozarr_nb.claims.reader_pod import PORT, ReaderPod, phase_of
from geozarr_nb.cluster import diagnostics
from geozarr_nb.cluster.client import Api, ApiResponse, connect
from geozarr_nb.cluster.kinds import PODS
from geozarr_nb.cluster.retries import again
from geozarr_nb.errors import ClaimUnreadable, ClusterDenied, ClusterError, ClusterUnreachable, ProductDenied
from geozarr_runner.serving.handler import MARK

if TYPE_CHECKING:
    from geozarr_nb.settings import Settings

# This process deletes a pod that it has no use for; the other two end pods of processes that were killed.
SECONDS_UNUSED = 180.0
# A read goes on over a restart of the API server, or with another pod where this one has ended.
PATIENCE = 60.0
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
        self._start = PodStart(api, claim, image=image, template=template)
        self._lock = Lock()
        self._pods: list[ReaderPod] = []
        self._current: ReaderPod | None = None
        self._used = time.monotonic()
        self._reading = 0
        self._failure: tuple[float, ClusterError] | None = None

    def __repr__(self) -> str:
        return f"Reader({self._start.where})"

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

    def release(self) -> None:
        """Delete the pod, unless somebody reads from it now; a later read starts another."""
        if not self._lock.acquire(blocking=False):
            return  # one is being started, for somebody who reads then
        try:
            pod = self._current
            if pod is None or self._reading:
                return
            self._current = None
        finally:
            self._lock.release()
        pod.over.set()

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
                    given=self._start.where,
                    remedy="run the same command again",
                )
            )
        if answer.status >= 500:
            is_busy = answer.status == 503
            remedy = "read with fewer threads at once" if is_busy else "look at the volume: it may be failing"
            raise _Lost(ClaimUnreadable(_message(answer), given=self._start.where, remedy=remedy))
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
        return self._start.unreadable(f"the reader pod ended: {cause.message}", cause.remedy) if cause else None

    # The pod

    def _running(self) -> ReaderPod:
        """Return the pod, started if there is none; those who wait for one start share its failure too."""
        asked = time.monotonic()
        with self._lock:
            self._used = time.monotonic()
            if self._current is None:
                if self._failure is not None and self._failure[0] >= asked:
                    raise self._failure[1]
                try:
                    self._current = self._started()
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

    def _started(self) -> ReaderPod:
        pod = self._start.create()
        self._pods.append(pod)
        pod.keeper = Thread(target=self._keep, args=(pod,), name=pod.name, daemon=True)
        pod.keeper.start()
        try:
            self._start.wait(pod)
        except BaseException:
            pod.over.set()
            raise
        return pod

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


def release_idle(api: Api) -> None:
    """Delete the reader pods of this process in a namespace that nobody reads from now: a job waits for their quota."""
    for key, reader in list(_READERS.items()):
        if key[:4] == (os.getpid(), api.server, api.context, api.namespace):
            reader.release()


def close_all() -> None:
    """Delete the reader pods of this process."""
    for key, reader in list(_READERS.items()):
        if key[0] == os.getpid():
            reader.close()


_OPENING = Lock()
_READERS: dict[tuple[int, str, str, str, str], Reader] = {}
atexit.register(close_all)
os.register_at_fork(after_in_child=lambda: globals().update(_OPENING=Lock()))


def _entry(document: Mapping[str, Any]) -> Entry:
    return Entry(document["name"], document["type"] == "directory", document["size"], document["modified"])


def _message(answer: ApiResponse) -> str:
    try:
        return str(json.loads(answer.body)["message"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {answer.status}"

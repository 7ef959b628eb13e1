"""The API server of a cluster: the only place that talks to it, and where its refusals become ours.

Objects go in and come out as plain dicts. The `kubernetes` client reads the kubeconfig, renews credentials and holds
the connections; its classes for each kind of object are not used.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from geozarr_nb.cluster import answers
from geozarr_nb.cluster.connection import SECONDS_TO_CONNECT, Connection
from geozarr_nb.cluster.kinds import OWN_ACCESS_REVIEWS, PODS, Kind
from geozarr_nb.cluster.kubeconfig import words
from geozarr_nb.cluster.refusals import OverQuota, is_status, refusal
from geozarr_nb.cluster.retries import again
from geozarr_nb.errors import (
    ClusterError,
    ClusterObjectMissing,
    InvalidRequest,
)

if TYPE_CHECKING:
    from geozarr_nb.settings import Settings

_logger = logging.getLogger(__name__)

Object = dict[str, Any]
# A restarted API server is back within seconds; one that was never reached is more likely a wrong address.
PATIENCE, FIRST_PATIENCE = 20.0, 1.0
LONGEST_WATCH = 300
PAGE = 500
# What each call needs a right for, in the words of a role.
VERBS = {"GET": "get", "POST": "create", "PATCH": "patch", "DELETE": "delete"}


@dataclass(frozen=True, slots=True)
class ApiResponse:
    """What came back of a raw call."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Expired(ClusterError):
    """A watch cannot go on from its version: the list has to be read again."""

    code = "cluster-watch-expired"
    retryable = True


class Api:
    """One cluster as one person sees it.

    Safe to use from several threads; connections are shared and kept.

    Parameters
    ----------
    namespace
        Where objects are looked for when a call does not say otherwise.
    context
        Context of the kubeconfig; empty for the current one, or for the service account of the pod that this runs in.

    Raises
    ------
    ClusterUnreachable
        No cluster is configured. The server itself is not asked yet.
    """

    def __init__(self, namespace: str = "argo", context: str = "") -> None:
        self.namespace = namespace
        self._connection = Connection(context)

    def __repr__(self) -> str:
        return f"Api({self.server!r}, namespace={self.namespace!r})"

    @property
    def server(self) -> str:
        """Address of the API server."""
        return self._connection.server

    @property
    def context(self) -> str:
        """Name of the context of the kubeconfig."""
        return self._connection.context

    def get(self, kind: Kind, name: str, *, namespace: str = "") -> Object:
        """Return one object.

        Raises
        ------
        ClusterObjectMissing
            And the other kinds of ClusterError, as every call.
        """
        return self._json("GET", self._path(kind, name, namespace=namespace), what=kind.plural)

    def find(self, kind: Kind, name: str, *, namespace: str = "") -> Object | None:
        """Return one object, or None where there is none of this name."""
        try:
            return self.get(kind, name, namespace=namespace)
        except ClusterObjectMissing:
            return None

    def list(
        self,
        kind: Kind,
        *,
        labels: str = "",
        fields: str = "",
        namespace: str = "",
        everywhere: bool = False,
        patience: float | None = None,
    ) -> tuple[list[Object], str]:
        """Return all objects of a kind that match, and the version of the list, to watch from.

        Parameters
        ----------
        labels, fields
            Selectors as the API server reads them: `app=x,tier!=y`.
        everywhere
            Those of all namespaces.
        patience
            For how many seconds it is asked again while no answer comes; None for as long as every call.
        """
        query = {"labelSelector": labels, "fieldSelector": fields, "limit": str(PAGE)}
        path = self._path(kind, namespace=namespace, everywhere=everywhere)
        items: list[Object] = []
        while True:
            found = self._json("GET", path, query, what=kind.plural, verb="list", patience=patience)
            things, version, more = answers.page(found, self._connection.where)
            items += things
            if not more:
                return items, version
            query["continue"] = more

    def create(self, kind: Kind, body: Object, *, namespace: str = "") -> Object:
        """Create an object, and return it as it is then.

        Where no answer came it is not known whether it was made: whoever asks again gets ClusterObjectExists then.
        """
        return self._json("POST", self._path(kind, namespace=namespace), body=body, what=kind.plural)

    def patch(self, kind: Kind, name: str, change: Object, *, namespace: str = "") -> Object:
        """Merge a change into an object; None as a value takes a field away."""
        path = self._path(kind, name, namespace=namespace)
        return self._json("PATCH", path, body=change, content="application/merge-patch+json", what=kind.plural)

    def delete(self, kind: Kind, name: str, *, namespace: str = "", grace: int | None = None) -> bool:
        """Delete an object; False where there was none."""
        query = {} if grace is None else {"gracePeriodSeconds": str(grace)}
        try:
            self._json("DELETE", self._path(kind, name, namespace=namespace), query, what=kind.plural)
        except ClusterObjectMissing:
            return False
        return True

    def log(self, pod: str, *, container: str = "main", since: str = "", namespace: str = "") -> bytes:
        """Return a container's log, each line behind the time at which it was written.

        Asked for once only: whoever follows a log asks again soon, and is not to be kept waiting.

        Parameters
        ----------
        since
            RFC 3339: only from the second of this time on.
        """
        query = {"container": container, "timestamps": "true", "sinceTime": since}
        path = self._path(PODS, pod, "log", namespace=namespace)
        return self._answer("GET", path, query, what="pods/log").body

    def proxy(
        self,
        pod: str,
        port: int,
        path: str,
        *,
        method: Literal["GET", "HEAD"] = "GET",
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        namespace: str = "",
    ) -> ApiResponse:
        """Send a request to a port of a pod through the API server.

        What the pod itself answers comes back, whatever its status; see `ApiResponse`. The caller asks again where no
        answer came.

        Raises
        ------
        ClusterError
            The API server refused the call, or could not reach the pod.
        """
        if ".." in path.split("/"):
            # Addresses are shortened on their way: it would be another call.
            raise InvalidRequest("this is no path of a pod", given=path, remedy="leave .. out")
        target = f"{self._path(PODS, f'{pod}:{port}', 'proxy', namespace=namespace)}/{quote(path.lstrip('/'))}"
        return self._answer(method, target, query, headers=headers, what="pods/proxy", verb="get", foreign=True)

    def watch(self, kind: Kind, version: str, *, labels: str = "", seconds: int = LONGEST_WATCH) -> Iterator[Object]:
        """Yield changes (`type` and `object`) from a version on, until the server ends the watch.

        Parameters
        ----------
        seconds
            When the server ends it at the latest; a server from which nothing came for this long and a bit is taken for
            gone.

        Raises
        ------
        Expired
            The version is too old: list again.
        ClusterError
            As every call.
        """
        import urllib3

        query = {
            "watch": "true",
            "resourceVersion": version,
            "labelSelector": labels,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(seconds),
        }
        path = self._path(kind)

        def begun() -> Any:
            response = self._connection.open("GET", path, query, seconds=seconds + SECONDS_TO_CONNECT)
            if response.status == 200:
                return response
            try:
                raise self._refusal(response.status, response.read(), "watch", path, kind.plural)
            finally:
                response.close()

        try:
            response = self._connection.logged_in(begun)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise self._connection.silence(error) from error
        try:
            waiting = b""
            for block in response.stream(None):
                *lines, waiting = (waiting + block).split(b"\n")
                for line in filter(None, lines):
                    change = answers.change(line, self._connection.where)
                    if change["type"] == "ERROR":
                        code = answers.code_of(change["object"])
                        refusal = self._refusal(code, line, "watch", path, kind.plural)
                        raise Expired("the watch expired") if code == 410 else refusal
                    yield change
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise self._connection.silence(error) from error
        finally:
            response.close()

    def version(self) -> str:
        """Return the version of Kubernetes."""
        return str(self._json("GET", "/version").get("gitVersion", ""))

    def resources(self, root: str) -> frozenset[str]:
        """Return the kinds that the cluster has of a group, by their plural; everyone may ask for them.

        Parameters
        ----------
        root
            As in `Kind`: `apis/argoproj.io/v1alpha1`.
        """
        try:
            found = self._json("GET", f"/{root}")
        except ClusterObjectMissing:
            return frozenset()
        return frozenset(str(each.get("name")) for each in answers.objects(found.get("resources")))

    def is_allowed(self, verb: str, kind: Kind, *, subresource: str = "", namespace: str = "") -> bool:
        """Return whether the caller may do something, as the API server's authorisation sees it."""
        group = kind.root.split("/")[1] if kind.root.startswith("apis/") else ""
        asked = {
            "namespace": namespace or self.namespace if kind.namespaced else "",
            "verb": verb,
            "group": group,
            "resource": kind.plural,
            "subresource": subresource,
        }
        body = {
            "apiVersion": OWN_ACCESS_REVIEWS.api_version,
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": asked},
        }
        found = self.create(OWN_ACCESS_REVIEWS, body).get("status")
        return isinstance(found, dict) and bool(found.get("allowed"))

    # One call

    def _path(
        self, kind: Kind, name: str = "", subresource: str = "", *, namespace: str = "", everywhere: bool = False
    ) -> str:
        within = ["namespaces", namespace or self.namespace] if kind.namespaced and not everywhere else []
        parts = [kind.root, *within, kind.plural, quote(name, safe=":"), subresource]
        return "/" + "/".join(filter(None, parts))

    def _json(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        body: Object | None = None,
        content: str = "application/json",
        what: str = "",
        verb: str = "",
        patience: float | None = None,
    ) -> Object:
        """Return the document of an answer; what is none is asked for again as silence is."""

        def once() -> Object:
            answer = self._answer(
                method, path, query, body=body, headers={"Content-Type": content}, what=what, verb=verb
            )
            return answers.document(answer.body, self._connection.where)

        return self.patiently(once, self._patience if patience is None else patience)

    def _answer(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        body: Object | None = None,
        headers: Mapping[str, str] | None = None,
        what: str = "",
        verb: str = "",
        foreign: bool = False,
    ) -> ApiResponse:
        """Return the answer to a call; made twice where a new login helps."""
        verb = verb or VERBS.get(method, "get")

        def once() -> ApiResponse:
            import urllib3

            response = self._connection.open(method, path, query, body=body, headers=headers)
            try:
                content = response.read()
            except (urllib3.exceptions.HTTPError, OSError) as error:
                raise self._connection.silence(error) from error
            finally:
                response.release_conn()
            refused = response.status >= 400 if foreign else not 200 <= response.status < 300
            # A pod's own refusal is for whoever asked the pod; the API server's own is told by its form.
            if refused and not (foreign and not is_status(content)):
                raise self._refusal(response.status, content, verb, path, what)
            return ApiResponse(response.status, response.headers, content)

        return self._connection.logged_in(once)

    def patiently[T](self, call: Callable[[], T], seconds: float = PATIENCE) -> T:
        """Return what a call gives, made again for some seconds while the API server does not answer or is busy."""

        def may_help(error: BaseException) -> bool:
            return isinstance(error, ClusterError) and error.retryable and not isinstance(error, OverQuota)

        def tell(error: BaseException) -> None:
            _logger.warning("%s: asked again for up to %.0f s (%s)", self._connection.where, seconds, words(error))

        return again(call, seconds, may_help, tell)

    @property
    def ahead(self) -> float:
        """Seconds by which the API server's clock is ahead of this machine's."""
        return self._connection.ahead

    @property
    def _patience(self) -> float:
        return PATIENCE if self._connection.was_reached else FIRST_PATIENCE

    def _refusal(self, status: int, content: bytes, verb: str, path: str, what: str = "") -> ClusterError:
        return refusal(status, content, verb, path, what, server=self.server, context=self.context, own=self.namespace)


def connect(settings: Settings) -> Api:
    """Return the API server that settings name; the same object for the same settings."""
    with _CONNECTING:
        return _connected(settings.namespace, settings.kube_context, os.environ.get("KUBECONFIG", ""), os.getpid())


_CONNECTING = Lock()


@lru_cache(maxsize=8)
def _connected(namespace: str, context: str, kubeconfig: str, process: int) -> Api:
    # Two processes that send through the same connections, as after a fork, would read each other's answers.
    return Api(namespace, context)

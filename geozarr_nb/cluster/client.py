"""The API server of a cluster: the only place that talks to it, and where its refusals become ours.

Objects go in and come out as plain dicts. The `kubernetes` client reads the kubeconfig, renews credentials and holds
the connections; its classes for each kind of object are not used.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote, urlencode

from geozarr_nb.cluster.kinds import OWN_ACCESS_REVIEWS, PODS, Kind
from geozarr_nb.cluster.kubeconfig import connected_client
from geozarr_nb.cluster.refusals import is_status, refusal, silence
from geozarr_nb.cluster.retries import again
from geozarr_nb.errors import (
    ClusterError,
    ClusterObjectMissing,
    ClusterUnreachable,
    InvalidRequest,
)

if TYPE_CHECKING:
    from geozarr_nb.settings import Settings

Object = dict[str, Any]
SECONDS_TO_CONNECT = 5.0
SECONDS_FOR_AN_ANSWER = 30.0
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
        self.context, self._client = connected_client(context)
        self._reached = False

    def __repr__(self) -> str:
        return f"Api({self.server!r}, namespace={self.namespace!r})"

    @property
    def server(self) -> str:
        """Address of the API server."""
        return str(self._client.configuration.host)

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
        self, kind: Kind, *, labels: str = "", fields: str = "", namespace: str = "", everywhere: bool = False
    ) -> tuple[list[Object], str]:
        """Return all objects of a kind that match, and the version of the list, to watch from.

        Parameters
        ----------
        labels, fields
            Selectors as the API server reads them: `app=x,tier!=y`.
        everywhere
            Those of all namespaces.
        """
        query = {"labelSelector": labels, "fieldSelector": fields, "limit": str(PAGE)}
        path = self._path(kind, namespace=namespace, everywhere=everywhere)
        items: list[Object] = []
        while True:
            page = self._json("GET", path, query, what=kind.plural, verb="list")
            items += page.get("items") or []
            metadata = page.get("metadata", {})
            if not metadata.get("continue"):
                return items, str(metadata.get("resourceVersion", ""))
            query["continue"] = metadata["continue"]

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
        return self._answer("GET", path, query, what="pods/log", patience=0).body

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
        return self._answer(
            method, target, query, headers=headers, what="pods/proxy", verb="get", foreign=True, patience=0
        )

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
        response = self._open("GET", path, query, seconds=seconds + SECONDS_TO_CONNECT)
        try:
            if response.status != 200:
                raise self._refusal(response.status, response.read(), "watch", path, kind.plural)
            waiting = b""
            for block in response.stream(None):
                *lines, waiting = (waiting + block).split(b"\n")
                for line in filter(None, lines):
                    change = json.loads(line)
                    if change.get("type") == "ERROR":
                        status = change.get("object", {})
                        refusal = self._refusal(int(status.get("code", 500)), line, "watch", path, kind.plural)
                        raise Expired("the watch expired") if status.get("code") == 410 else refusal
                    yield change
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise self._silence(error) from error
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
            found = self._json("GET", f"/{root}").get("resources") or ()
        except ClusterObjectMissing:
            return frozenset()
        return frozenset(str(each.get("name")) for each in found)

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
        return bool(self.create(OWN_ACCESS_REVIEWS, body).get("status", {}).get("allowed"))

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
    ) -> Object:
        headers = {"Content-Type": content}
        answer = self._answer(method, path, query, body=body, headers=headers, what=what, verb=verb)
        document: Object = json.loads(answer.body)
        return document

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
        patience: float | None = None,
    ) -> ApiResponse:
        """Return the answer to a call; asked again while the API server does not answer, for a while."""
        if patience is None:
            patience = PATIENCE if self._reached else FIRST_PATIENCE

        def once() -> ApiResponse:
            import urllib3

            response = self._open(method, path, query, body=body, headers=headers)
            try:
                content = response.read()
            except (urllib3.exceptions.HTTPError, OSError) as error:
                raise self._silence(error) from error
            finally:
                response.release_conn()
            # A pod's own refusal is for whoever asked the pod; the API server's own is told by its form.
            refused = response.status >= 400 and not (foreign and not is_status(content))
            if refused:
                raise self._refusal(response.status, content, verb or VERBS.get(method, "get"), path, what)
            return ApiResponse(response.status, response.headers, content)

        return self.patiently(once, patience)

    def patiently[T](self, call: Callable[[], T], seconds: float = PATIENCE) -> T:
        """Return what a call gives, made again for some seconds while the API server does not answer or is busy."""
        return again(call, seconds, lambda error: isinstance(error, ClusterError) and error.retryable)

    def _open(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        body: Object | None = None,
        headers: Mapping[str, str] | None = None,
        seconds: float = SECONDS_FOR_AN_ANSWER,
    ) -> Any:
        import urllib3

        pairs = {name: value for name, value in (query or {}).items() if value}
        url = f"{self.server}{path}" + (f"?{urlencode(pairs)}" if pairs else "")
        sent = {"Accept": "application/json", "User-Agent": "geozarr-nb", **(headers or {})}
        content = None if body is None else json.dumps(body)
        try:
            # Tokens end and are renewed: they are asked for each time.
            self._client.update_params_for_auth(sent, [], ["BearerToken"], path, method, content)
            response = self._client.rest_client.pool_manager.request(
                method,
                url,
                body=content,
                headers=sent,
                timeout=urllib3.Timeout(connect=SECONDS_TO_CONNECT, read=seconds),
                retries=False,
                preload_content=False,
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise self._silence(error) from error
        self._reached = True
        return response

    def _silence(self, error: Exception) -> ClusterUnreachable:
        return silence(error, f"{self.server} (context {self.context})")

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

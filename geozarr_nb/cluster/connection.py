"""The way to an API server: the client with its credentials, and when these are read again."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from threading import Lock
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from geozarr_nb.cluster.clock import ahead
from geozarr_nb.cluster.kubeconfig import IN_A_POD, connected_client, words
from geozarr_nb.cluster.refusals import LoggedOut, logged_out, silence
from geozarr_nb.errors import ClusterError, ClusterUnreachable

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

SECONDS_TO_CONNECT = 5.0
SECONDS_FOR_AN_ANSWER = 30.0
# A plugin may ask a person, or a server of logins: a cluster that refuses everybody has it asked this often.
SECONDS_BETWEEN_LOGINS = 3.0


class Connection:
    """A client of an API server; safe to use from several threads.

    Parameters
    ----------
    context
        Context of the kubeconfig; empty for the current one, or for the service account of the pod that this runs in.

    Attributes
    ----------
    ahead
        Seconds by which the API server's clock is ahead of this machine's.

    Raises
    ------
    ClusterUnreachable
        No cluster is configured. The server itself is not asked yet.
    """

    def __init__(self, context: str) -> None:
        self.client: ApiClient
        self.context, self.client = connected_client(context)
        self.was_reached = False
        self.ahead = 0.0
        self._renewing = Lock()
        self._renewed = -math.inf

    @property
    def server(self) -> str:
        """Address of the API server."""
        return str(self.client.configuration.host)

    @property
    def where(self) -> str:
        """The server and the context, for a person."""
        return f"{self.server} (context {self.context})"

    def silence(self, error: Exception) -> ClusterUnreachable:
        """Return what it means to a person that no answer came."""
        return silence(error, self.where, self.context)

    def logged_in[T](self, call: Callable[[], T]) -> T:
        """Return what a call gives; made again with new credentials where the server does not know the caller.

        The kubeconfig, the token's file and the plugin are read again at once, and then at most every few seconds.
        """
        used = self.client
        try:
            return call()
        except LoggedOut:
            if not self._renew(used):
                raise
        return call()

    def _renew(self, used: ApiClient) -> bool:
        """Read the credentials again; return whether there are others than a client had."""
        start = time.monotonic()
        with self._renewing:
            if self.client is not used:
                return True  # another thread was faster
            if self._renewed > start:
                return False  # so it was, and found nothing that can be used
            # Whoever has just logged in waits a little rather than being refused once more.
            time.sleep(max(self._renewed + SECONDS_BETWEEN_LOGINS - time.monotonic(), 0))
            self._renewed = time.monotonic()
            try:
                # The context stays the one that was used: another current one is another cluster.
                _, self.client = connected_client("" if self.context == IN_A_POD else self.context)
            except ClusterError:
                return False  # the kubeconfig is just being written, or its context is gone: the refusal is told
            return True

    def open(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        seconds: float = SECONDS_FOR_AN_ANSWER,
    ) -> Any:
        """Send a request, and return its response, whose content is not read yet.

        Raises
        ------
        ClusterUnreachable
            No answer came.
        """
        import urllib3

        client = self.client
        pairs = {name: value for name, value in (query or {}).items() if value}
        url = f"{client.configuration.host}{path}" + (f"?{urlencode(pairs)}" if pairs else "")
        sent = {"Accept": "application/json", "User-Agent": "geozarr-nb", **(headers or {})}
        content = None if body is None else json.dumps(body)
        try:
            # Tokens end and are renewed: they are asked for each time.
            client.update_params_for_auth(sent, [], ["BearerToken"], path, method, content)
        except Exception as error:
            # Plugins and logins of providers raise what their own libraries do.
            raise logged_out(f"the credentials cannot be read: {words(error)}", self.where) from error
        try:
            response = client.rest_client.pool_manager.request(
                method,
                url,
                body=content,
                headers=sent,
                timeout=urllib3.Timeout(connect=SECONDS_TO_CONNECT, read=seconds),
                retries=False,
                preload_content=False,
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise self.silence(error) from error
        self.was_reached = True
        self.ahead = ahead(response.headers.get("Date"), self.ahead)
        return response

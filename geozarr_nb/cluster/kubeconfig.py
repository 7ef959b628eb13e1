"""The kubeconfig, or the service account of a pod: how this process comes to a client of the cluster."""

from __future__ import annotations

import os
from ipaddress import ip_address
from pathlib import Path
from ssl import VERIFY_X509_STRICT
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from geozarr_nb.errors import (
    ClusterUnreachable,
)

if TYPE_CHECKING:
    from kubernetes.client import ApiClient


CONNECTIONS = 16
IN_A_POD = "the pod's service account"


def connected_client(context: str) -> tuple[str, ApiClient]:
    """Return the name of the context that is used and a client for it."""
    try:
        from kubernetes import client, config
    except ImportError as error:
        raise ClusterUnreachable(
            "the kubernetes client is not installed", remedy='python -m pip install "geozarr-nb[cluster]"'
        ) from error

    configuration = client.Configuration()
    configuration.connection_pool_maxsize = CONNECTIONS
    of_the_environment = configuration.proxy
    in_a_pod = bool(os.environ.get("KUBERNETES_SERVICE_HOST"))
    files = _kubeconfigs()
    if not context and in_a_pod and not any(map(_says_something, files)):
        try:
            config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        except config.ConfigException as error:
            raise ClusterUnreachable(
                f"this pod has no service account to ask the cluster with: {words(error)}",
                remedy="set serviceAccountName and automountServiceAccountToken in the pod, or give it a kubeconfig",
            ) from error
        return IN_A_POD, _client(configuration)
    given = os.environ.get("KUBECONFIG") or "~/.kube/config"
    if not files:
        raise ClusterUnreachable(
            "no cluster is configured: there is no kubeconfig",
            given=given,
            remedy="make a cluster (k3d cluster create geozarr), or set KUBECONFIG; "
            'without one, choose backend="local"',
        )
    # The client refuses all files where one is empty; kubectl leaves that one out.
    read = os.pathsep.join(map(str, [path for path in files if _says_something(path)] or files))
    try:
        # Named, because the client looks at KUBECONFIG only once, when it is imported.
        contexts, active = config.list_kube_config_contexts(read)  # type: ignore[no-untyped-call]
        names = [entry["name"] for entry in contexts]
        if context and context not in names:
            raise ClusterUnreachable(
                "the kubeconfig has no context of this name",
                given=context,
                remedy=f"choose of: {', '.join(names)}; GEOZARR_KUBE_CONTEXT=...",
            )
        config.load_kube_config(  # type: ignore[no-untyped-call]
            read, context=context or None, client_configuration=configuration, persist_config=False
        )
    except ClusterUnreachable:
        raise
    except Exception as error:  # logins of providers raise what their own libraries do
        raise ClusterUnreachable(
            f"the kubeconfig cannot be used: {words(error)}", given=given, remedy="try: kubectl config view"
        ) from error
    # kubectl never asks a proxy of the environment for this machine's own addresses; one of the kubeconfig counts.
    if configuration.proxy and configuration.proxy in (of_the_environment, *getproxies().values()):
        configuration.proxy = None if is_this_machine(configuration.host) else configuration.proxy
    return context or str(active["name"]), _client(configuration)


def is_this_machine(address: str) -> bool:
    """Return whether a server's address is one of the machine itself.

    >>> is_this_machine("https://127.0.0.1:6443"), is_this_machine("https://[::1]:6443"), is_this_machine("https://k8s")
    (True, True, False)
    """
    host = (urlsplit(address).hostname or "").rstrip(".")
    try:
        number = ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return number.is_loopback or number.is_unspecified  # k3d writes 0.0.0.0


def _client(configuration: Any) -> ApiClient:
    """Return a client that takes the certificates that kubectl takes."""
    from kubernetes.client import ApiClient
    from urllib3.util.ssl_ import create_urllib3_context

    client = ApiClient(configuration)
    settings = client.rest_client.pool_manager.connection_pool_kw
    context = create_urllib3_context(cert_reqs=settings["cert_reqs"])
    # From Python 3.13 on authorities without a key usage are refused; those of many clusters have none.
    context.verify_flags &= ~VERIFY_X509_STRICT
    # urllib3 would load them for each connection: into this context, in the middle of other threads' handshakes, which
    # ends the process (a segmentation fault in OpenSSL).
    authorities, certificate, key = (settings.pop(name, None) for name in ("ca_certs", "cert_file", "key_file"))
    data = settings.pop("ca_cert_data", None)
    if authorities or data:
        context.load_verify_locations(authorities, cadata=data)
    else:
        context.load_default_certs()
    if certificate:
        context.load_cert_chain(certificate, key)
    settings["ssl_context"] = context
    return client


def _kubeconfigs() -> list[Path]:
    """Return the kubeconfigs that exist, in their order."""
    from geozarr_runner.trust.addresses import expanded

    named = os.environ.get("KUBECONFIG")
    paths = named.split(os.pathsep) if named else ["~/.kube/config"]
    return [found for path in paths if path and (found := expanded(path)).is_file()]


def _says_something(path: Path) -> bool:
    """Return whether a kubeconfig has more than spaces and comments; one that cannot be read is for the client."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return True
    return any(line.strip() not in ("", "---", "{}", "null") and line.lstrip()[:1] != "#" for line in lines)


def words(error: object) -> str:
    """Return what an error says, in one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__

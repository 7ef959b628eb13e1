"""The kubeconfig, or the service account of a pod: how this process comes to a client of the cluster."""

from __future__ import annotations

import os
from ssl import VERIFY_X509_STRICT
from typing import TYPE_CHECKING, Any

from geozarr_nb.errors import (
    ClusterUnreachable,
)

if TYPE_CHECKING:
    from kubernetes.client import ApiClient


CONNECTIONS = 16


def connected_client(context: str) -> tuple[str, ApiClient]:
    """Return the name of the context that is used and a client for it."""
    try:
        import yaml
        from kubernetes import client, config
    except ImportError as error:
        raise ClusterUnreachable(
            "the kubernetes client is not installed", remedy='python -m pip install "geozarr-nb[cluster]"'
        ) from error

    configuration = client.Configuration()
    configuration.connection_pool_maxsize = CONNECTIONS
    in_a_pod = bool(os.environ.get("KUBERNETES_SERVICE_HOST"))
    if not context and in_a_pod and not _kubeconfig_exists():
        try:
            config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        except config.ConfigException as error:
            raise ClusterUnreachable(
                f"this pod has no service account to ask the cluster with: {words(error)}",
                remedy="set serviceAccountName and automountServiceAccountToken in the pod, or give it a kubeconfig",
            ) from error
        return "the pod's service account", _client(configuration)
    given = os.environ.get("KUBECONFIG") or "~/.kube/config"
    if not _kubeconfig_exists():
        raise ClusterUnreachable(
            "no cluster is configured: there is no kubeconfig",
            given=given,
            remedy="make a cluster (k3d cluster create geozarr), or set KUBECONFIG; "
            'without one, choose backend="local"',
        )
    try:
        # Named, because the client looks at KUBECONFIG only once, when it is imported.
        contexts, active = config.list_kube_config_contexts(given)  # type: ignore[no-untyped-call]
        names = [entry["name"] for entry in contexts]
        if context and context not in names:
            raise ClusterUnreachable(
                "the kubeconfig has no context of this name",
                given=context,
                remedy=f"choose of: {', '.join(names)}; GEOZARR_KUBE_CONTEXT=...",
            )
        config.load_kube_config(  # type: ignore[no-untyped-call]
            given, context=context or None, client_configuration=configuration, persist_config=False
        )
    except (config.ConfigException, yaml.YAMLError, KeyError, TypeError, ValueError, OSError) as error:
        raise ClusterUnreachable(
            f"the kubeconfig cannot be used: {words(error)}", given=given, remedy="try: kubectl config view"
        ) from error
    return context or str(active["name"]), _client(configuration)


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


def _kubeconfig_exists() -> bool:
    from geozarr_runner.trust.addresses import expanded

    named = os.environ.get("KUBECONFIG")
    paths = named.split(os.pathsep) if named else ["~/.kube/config"]
    return any(expanded(path).is_file() for path in paths if path)


def words(error: object) -> str:
    """Return what an error says, in one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__

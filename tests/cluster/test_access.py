"""Who may do what: the roles of workflows/rbac.yaml are enough, and whoever has less learns what is lacking."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import geozarr_nb as gz
from geozarr_nb.errors import ClusterDenied, ClusterUnreachable
from tests.cluster.support import Namespace, kubectl
from tests.contract.support import GROUP

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def cluster() -> dict[str, str]:
    """The API server as the kubeconfig has it: `server`, and the file or the content of its authority."""
    view = json.loads(kubectl("config", "view", "--raw", "--minify", "--flatten", "-o", "json"))
    return dict(view["clusters"][0]["cluster"])


@pytest.fixture(scope="module")
def kubeconfig(
    namespace: Namespace, cluster: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A kubeconfig with a context for each of two service accounts; the one without any rights is current."""
    accounts = {"submitter": "geozarr-submitter", "nobody": "default"}
    tokens = {name: namespace.kubectl("create", "token", account).strip() for name, account in accounts.items()}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "here", "cluster": cluster}],
        "users": [{"name": name, "user": {"token": token}} for name, token in tokens.items()],
        "contexts": [{"name": name, "context": {"cluster": "here", "user": name}} for name in accounts],
        "current-context": "nobody",
    }
    path = tmp_path_factory.mktemp("kubeconfig") / "config"
    path.write_text(yaml.safe_dump(document))
    yield path
    namespace.clear()


@pytest.fixture
def environ(namespace: Namespace, kubeconfig: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The namespace's settings, with that kubeconfig; jobs are gone at the end."""
    settings = {**namespace.settings, "KUBECONFIG": str(kubeconfig), "GEOZARR_STATE_DIR": str(tmp_path / "state")}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def sample_url(request: pytest.FixtureRequest, sample: Path, served: Path) -> str:
    return f"{request.getfixturevalue('product_server').url}/{sample.relative_to(served)}"


@pytest.mark.usefixtures("environ")
def test_the_submitters_role_is_enough(sample_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOZARR_KUBE_CONTEXT", "submitter")
    job = gz.convert(sample_url, "rights/a.zarr", groups=[GROUP], progress=False, if_exists="overwrite")
    assert job.status == "Succeeded"
    assert job.name in {each.name for each in gz.list_jobs().jobs}
    assert any(line.startswith("  | ") for line in job.logs())
    tree = job.open()
    assert GROUP in tree.groups
    tree.close()
    other = gz.submit(sample_url, "rights/b.zarr", groups=[GROUP]).cancel()
    assert (other.status, other.reason) == ("Failed", "it was cancelled")


@pytest.mark.usefixtures("environ")
def test_who_has_no_rights_learns_which_are_lacking(sample_url: str) -> None:
    with pytest.raises(ClusterDenied) as caught:
        gz.list_jobs()
    text = str(caught.value)
    assert "list workflows" in text
    assert "workflows/rbac.yaml" in text
    assert "context nobody" in text
    with pytest.raises(ClusterDenied, match="list workflows"):
        gz.submit(sample_url, "rights/c.zarr", groups=[GROUP])


@pytest.mark.usefixtures("environ")
def test_a_context_that_is_not_there_is_named_with_those_that_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOZARR_KUBE_CONTEXT", "elsewhere")
    with pytest.raises(ClusterUnreachable, match="submitter, nobody"):
        gz.list_jobs()


@pytest.fixture
def pod(cluster: dict[str, str], namespace: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process as it would be in a pod of the service account: its variables, its token, and no kubeconfig."""
    from base64 import b64decode

    from kubernetes.config import incluster_config

    token, authority = tmp_path / "token", tmp_path / "ca.crt"
    token.write_text(namespace.kubectl("create", "token", "geozarr-submitter").strip())
    authority.write_bytes(b64decode(cluster["certificate-authority-data"]))
    host, _, port = cluster["server"].removeprefix("https://").partition(":")
    settings = {
        **namespace.settings,
        "KUBERNETES_SERVICE_HOST": host,
        "KUBERNETES_SERVICE_PORT": port,
        "HOME": str(tmp_path),
        "GEOZARR_STATE_DIR": str(tmp_path / "state"),
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("KUBECONFIG", raising=False)
    # Where a pod has these two files, only root may make them on this machine.
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(authority))


@pytest.mark.usefixtures("pod")
def test_in_a_pod_its_service_account_is_used() -> None:
    assert "KUBECONFIG" not in os.environ
    from geozarr_nb.cluster.api import Api
    from geozarr_nb.settings import Settings

    api = Api(Settings.load().namespace)
    assert api.context == "the pod's service account"
    assert isinstance(gz.list_jobs().jobs, list)

"""Who may do what: the roles of workflows/rbac.yaml are enough, and whoever has less learns what is lacking."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import geozarr_nb as gz
from benchmarks.server import ProductServer
from geozarr_nb.backends.argo import attempts
from geozarr_nb.backends.argo.backend import ArgoBackend
from geozarr_nb.cluster.client import Api
from geozarr_nb.doctor import doctor
from geozarr_nb.errors import ClusterDenied, ClusterUnreachable
from geozarr_nb.jobs.job import Job
from tests.cluster.support import Namespace, kubectl, node_address
from tests.contract.support import GROUP, until

pytestmark = pytest.mark.cluster
TOKEN = "s3cr3t-t0k3n"
ADMIN = os.environ.get("KUBECONFIG", "")


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


class Seen(Namespace):
    """A namespace as the tests' own kubeconfig shows it, whatever kubeconfig the SDK is given."""

    def kubectl(self, *arguments: str, given: str | None = None, seconds: float = 60) -> str:
        return super().kubectl("--kubeconfig", ADMIN, *arguments, given=given, seconds=seconds)


@pytest.fixture(scope="module")
def seen(namespace: Namespace) -> Namespace:
    return Seen(namespace.name)


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


@pytest.fixture
def signed(sample: Path) -> Iterator[ProductServer]:
    """A server that shows the sample to whoever has the token in the address."""
    with ProductServer(sample.parent, host=node_address(), signature=f"signature={TOKEN}") as server:
        yield server


def test_submitters_may_make_secrets_and_nothing_else_with_them(namespace: Namespace) -> None:
    account = f"--as=system:serviceaccount:{namespace.name}:geozarr-submitter"
    allowed = namespace.kubectl("auth", "can-i", "--list", account, "--no-headers").splitlines()
    [verbs] = [line.rpartition("[")[2] for line in allowed if line.split()[0] == "secrets"]
    assert verbs == "create]"


@pytest.mark.usefixtures("environ")
def test_the_submitters_role_is_enough_for_signed_addresses(
    seen: Namespace, sample: Path, signed: ProductServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEOZARR_KUBE_CONTEXT", "submitter")
    address = f"{signed.url}/{sample.name}?signature={TOKEN}"
    job = gz.convert(address, "rights/signed.zarr", groups=[GROUP], progress=False, if_exists="overwrite")
    assert job.status == "Succeeded"
    [flow] = seen.workflows("rights/signed.zarr")
    [secret] = [one for one in seen.objects("secrets") if one["metadata"]["name"].startswith("geozarr-input-")]
    [owner] = secret["metadata"]["ownerReferences"]
    assert owner["uid"] == flow["metadata"]["uid"]
    rights = doctor(backend="argo")
    assert [one.verdict for one in rights.findings if one.name.startswith("right to")] == ["ok"] * 5
    gz.submit(address, "rights/again.zarr", groups=[GROUP], if_exists="overwrite").cancel().retry()
    again = gz.submit(address, "rights/again.zarr", groups=[GROUP], if_exists="overwrite").wait(timeout=90)
    assert (again.status, again.state.attempt) == ("Succeeded", 2)


@pytest.mark.usefixtures("environ")
def test_whoever_submits_the_same_goes_on_where_another_process_died(
    seen: Namespace, sample: Path, signed: ProductServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEOZARR_KUBE_CONTEXT", "submitter")
    address = f"{signed.url}/{sample.name}?signature={TOKEN}"

    def submit(name: str) -> Job:
        return gz.submit(address, f"rights/{name}.zarr", groups=[GROUP], if_exists="overwrite")

    def die(name: str) -> Job:
        """Submit, in a process that is gone after the first step."""
        with monkeypatch.context() as patch:
            patch.setattr(ArgoBackend, "_send_address", lambda *arguments: (_ for _ in ()).throw(SystemExit))
            patch.setattr(Api, "delete", lambda *arguments, **options: False)
            with pytest.raises(SystemExit):
                submit(name)
        [flow] = seen.workflows(f"rights/{name}.zarr")
        return gz.get_job(flow["metadata"]["labels"]["geozarr.io/job"])

    left = die("left")
    until(lambda: phase(seen, left) == "Running")  # what Argo calls it; it starts nothing
    assert (left.status, seen.pods(left.name, every=True)) == ("Pending", [])
    assert "suspended" not in left.reason
    assert submit("left").name == left.name
    assert left.wait(timeout=90).status == "Succeeded"

    ended = die("ended").cancel()
    assert (ended.status, ended.reason) == ("Failed", "it was cancelled")
    until(lambda: phase(seen, ended) == "Failed")

    late = die("late")
    monkeypatch.setattr(attempts, "SECONDS_TO_SEND_THE_ADDRESS", 0.0)
    assert late.wait(timeout=30).status == "Error"
    assert "submit it again" in str(late.state.failure)


def phase(seen: Namespace, job: Job) -> str:
    """Return Argo's word for a job's first attempt."""
    [flow] = [one for one in seen.objects("workflows") if one["metadata"]["name"] == job.name]
    return str(flow.get("status", {}).get("phase", ""))


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
    from geozarr_nb.settings import Settings

    api = Api(Settings.load().namespace)
    assert api.context == "the pod's service account"
    assert isinstance(gz.list_jobs().jobs, list)

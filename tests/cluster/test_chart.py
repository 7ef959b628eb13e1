"""The chart on a cluster: installed, used, changed and taken away; what was written stays."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from geozarr_nb.doctor import doctor
from tests.cluster.support import MODEST, ClusterPlace, Namespace, fresh_namespace, kubectl
from tests.contract.support import until
from tests.places import empty, place_on_cluster

CHART = str(Path(__file__).parents[2] / "charts" / "geozarr")
HELM = shutil.which("helm") or ""

if not HELM:
    pytest.skip("no helm on PATH", allow_module_level=True)
pytestmark = pytest.mark.cluster


def helm(*arguments: str) -> str:
    return subprocess.run([HELM, *arguments], capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    """A namespace in which nothing is."""
    with fresh_namespace(bare=True) as made:
        yield made


@pytest.fixture
def place(
    request: pytest.FixtureRequest, tmp_path: Path, namespace: Namespace, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ClusterPlace]:
    with place_on_cluster(request, tmp_path, namespace, monkeypatch) as made:
        yield made


def test_the_cluster_takes_what_it_renders(namespace: Namespace) -> None:
    every = ["--set=parallelism=2,job.nodeSelector.disk=ssd", '--set-json=job.tolerations=[{"operator": "Exists"}]']
    closed = ["--set=network.restrict=true,job.token=false,network.allowed={10.1.2.3/32}", "--dry-run=server"]
    for given in ([], every, closed):
        text = helm("template", "geozarr", CHART, "--namespace", namespace.name, *given)
        namespace.kubectl("apply", "--dry-run=server", "-f", "-", given=text)


def test_the_container_that_converts_gets_no_token(place: ClusterPlace, namespace: Namespace) -> None:
    modest = [f"--set=job.{name}={value}" for name, value in MODEST.items()]
    closed = "--set=job.token=false,network.restrict=true"
    helm("install", "closed", CHART, "--namespace", namespace.name, *modest, closed)
    try:
        place.hold()
        job = place.submit("closed")
        until(lambda: job.stage == "stage")
        [pod] = namespace.pods(place.path("closed"))
        tokens = "/var/run/secrets/kubernetes.io/serviceaccount"
        spec = pod["spec"]
        has_token = {
            one["name"]: any(mount["mountPath"] == tokens for mount in one["volumeMounts"])
            for one in (*spec["initContainers"], *spec["containers"])
        }
        assert has_token == {"init": True, "wait": True, "main": False}
        seen = namespace.kubectl(
            "exec", pod["metadata"]["name"], "-c", "main", "--", "/bin/bash", "-c", f"ls {tokens} || true"
        )
        assert "token" not in seen
        [finding] = [one for one in doctor(backend="argo").findings if one.name == "executor"]
        assert (finding.verdict, "geozarr-executor" in finding.found) == ("ok", True)
        place.release()
        assert job.wait(timeout=90).status == "Succeeded"
        until(lambda: [node["phase"] for node in place.tries("closed")] == ["Succeeded"])
        [node] = place.tries("closed")
        assert "outcome" in [each["name"] for each in node["outputs"]["parameters"]], "the executor has told of it"
    finally:
        helm("uninstall", "closed", "--namespace", namespace.name)
        namespace.kubectl("delete", "pods", "--all", "--grace-period=1")
        namespace.kubectl("delete", "pvc", "--all")


def test_installed_used_changed_and_taken_away(place: ClusterPlace, namespace: Namespace) -> None:
    release = ("geozarr", CHART, "--namespace", namespace.name)
    modest = [f"--set=job.{name}={value}" for name, value in MODEST.items()]
    said = helm("install", *release, *modest)
    assert f"GEOZARR_NAMESPACE={namespace.name}" in said
    assert place.submit("a").wait(timeout=90).status == "Succeeded"

    helm("upgrade", *release, "--reuse-values", "--set=parallelism=1")
    place.hold()
    first = place.submit("b")
    until(lambda: first.stage == "stage")
    second = place.submit("c")
    until(lambda: "1 job at once" in second.reason)
    assert first.name in second.reason
    place.release()
    assert [job.wait(timeout=120).status for job in (first, second)] == ["Succeeded", "Succeeded"]

    root = f"{place.path('a')}/zarr.json"
    helm("uninstall", "geozarr", "--namespace", namespace.name)
    kinds = "workflowtemplates,roles,rolebindings,configmaps"
    assert not [one for one in namespace.objects(kinds) if one["metadata"]["name"].startswith("geozarr")]
    assert json.loads(place.volume.text(root))["node_type"] == "group"

    # The claim that stayed is taken again; and goes where that is asked for.
    helm("install", *release, *modest)
    assert json.loads(place.volume.text(root))["node_type"] == "group"
    helm("upgrade", *release, "--reuse-values", "--set=claim.keep=false")
    empty(place)
    namespace.kubectl("delete", "pods", "--all", "--grace-period=1")  # one that shows the claim's files keeps it, too
    helm("uninstall", "geozarr", "--namespace", namespace.name)
    claim = f"persistentvolumeclaim/{place.claim}"
    kubectl("-n", namespace.name, "wait", "--for=delete", claim, "--timeout=60s")

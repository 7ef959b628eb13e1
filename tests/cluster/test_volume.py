"""The files of a claim, read through the API server: what is seen, what is not, and what becomes of the pod."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import xarray as xr
import yaml

import geozarr_nb as gz
from geozarr_nb.claims import pod_start, reader, reader_pod
from geozarr_nb.claims.reader import Reader, reader_of
from geozarr_nb.claims.reader_pod import PORT
from geozarr_nb.cluster.client import Api, connect
from geozarr_nb.errors import ClaimUnreadable, ClusterDenied, ClusterObjectMissing, ProductDenied
from geozarr_nb.outputs.open import levels
from geozarr_nb.settings import Settings
from geozarr_nb.widgets import Viewer
from geozarr_runner.serving.handler import TOKEN_HEADER
from tests.cluster.support import (
    CLAIM,
    MOUNT,
    Breaker,
    FolderVolume,
    Namespace,
    PodVolume,
    Volume,
    fresh_namespace,
    kubectl,
    volume_of,
)
from tests.contract.support import until

pytestmark = pytest.mark.cluster

R10M = "/measurements/reflectance/r10m"
READERS = ("-l", "app.kubernetes.io/name=geozarr-reader")
LINKS = {
    "inside": "made.zarr/zarr.json",
    "passwd": "/etc/passwd",
    "environ": "../../proc/self/environ",
    "root": "/",
    "up": "../..",
    "two-steps": "up/etc/passwd",
}
# A process that reads, says so, and waits to be ended; its pod is idle very soon.
READS = """
import sys
import geozarr_nb as gz
from geozarr_nb.claims import reader_pod
reader_pod.IDLE_SECONDS = 3
gz.open(sys.argv[1])
print("read", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    """A namespace of this module's own: pods are counted in it."""
    with fresh_namespace() as made:
        yield made


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted product with overviews; beside it files, and links that lead out of the volume."""
    folder = tmp_path_factory.mktemp("volume")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GEOZARR_STATE_DIR", str(folder / "state"))
        product = gz.sample_product(folder / "product.zarr", size=1080)
        gz.convert(product, folder / "files" / "made.zarr", groups=[R10M], backend="local", progress=False)
    (folder / "files" / "big").write_bytes(os.urandom(32 << 20))
    (folder / "files" / "odd ü%2e#?&+").write_bytes(b"odd")
    for name, target in LINKS.items():
        (folder / "files" / name).symlink_to(target)
    return folder / "files" / "made.zarr"


@pytest.fixture(scope="module")
def volume(namespace: Namespace) -> Volume:
    """The claim's files as they are."""
    return volume_of(namespace, CLAIM)


@pytest.fixture(scope="module")
def claim(namespace: Namespace, volume: Volume, made: Path) -> str:
    """The name of a folder on the claim with these files."""
    match volume:
        case FolderVolume(root):
            shutil.copytree(made.parent, root / "files", symlinks=True)
        case PodVolume(_, pod):
            namespace.kubectl("cp", str(made.parent), f"{pod}:{MOUNT}/files")
    return "files"


@pytest.fixture
def settings(namespace: Namespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Settings]:
    """The namespace's settings; afterwards no pod of this process is left."""
    for name, value in {**namespace.settings, "GEOZARR_STATE_DIR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("GEOZARR_MOUNTS", raising=False)
    yield Settings.load()
    reader.close_all()
    reader._READERS.clear()


@pytest.fixture
def files(settings: Settings) -> Reader:
    return reader_of(CLAIM, settings)


@pytest.fixture
def address(claim: str, settings: Settings) -> str:
    return f"pvc://{CLAIM}/{claim}/made.zarr"


def pods(namespace: Namespace) -> list[dict[str, Any]]:
    """Return the reader pods that are there and are not being deleted."""
    return [pod for pod in namespace.objects("pods", *READERS) if "deletionTimestamp" not in pod["metadata"]]


def test_a_store_is_opened_with_the_values_that_it_has(address: str, made: Path, namespace: Namespace) -> None:
    xr.testing.assert_identical(gz.open(address).load(), gz.open(made).load())
    group = R10M.strip("/")
    xr.testing.assert_identical(xr.open_zarr(address, group=group).load(), xr.open_zarr(made, group=group).load())
    assert R10M in gz.inspect(address).groups
    assert len(pods(namespace)) == 1, "one pod serves all of them"


def test_a_preview_reads_the_coarsest_overview_alone(address: str, made: Path, files: Reader) -> None:
    before = files.stats()["bytes"]
    shown = gz.preview(address, level="coarsest")
    read = files.stats()["bytes"] - before
    coarsest = levels(made)[R10M][-1]
    assert shown.level == coarsest.number > 0
    rasters = [path for path in (made / coarsest.path.strip("/")).glob("*/c/*/*/*") if path.is_file()]
    rasters += [path for path in (made / coarsest.path.strip("/")).glob("*/c/*/*") if path.is_file()]
    metadata = sum(path.stat().st_size for path in made.rglob("zarr.json"))
    coordinates = sum(path.stat().st_size for path in made.rglob("c/*") if path.is_file())
    assert 0 < read <= sum(path.stat().st_size for path in rasters) + 4 * metadata + coordinates
    assert read < sum(path.stat().st_size for path in made.rglob("*") if path.is_file()) / 10


def test_nothing_outside_the_volume_is_read(files: Reader, claim: str) -> None:
    assert files.read(f"{claim}/inside") == files.read(f"{claim}/made.zarr/zarr.json")
    for path in ("passwd", "environ", "root/etc/passwd", "up/etc/passwd", "two-steps", "root"):
        with pytest.raises(ProductDenied, match="outside"):
            files.read(f"{claim}/{path}")
    made = {"made.zarr", "made.zarr.stac.json"}
    assert {entry.name for entry in files.entries(claim)} == {*made, "inside", "big", "odd ü%2e#?&+"}
    assert files.read(f"{claim}/odd ü%2e#?&+") == b"odd"


@pytest.mark.parametrize(
    "path", ["%2e%2e/etc/passwd", "..%2fetc/passwd", "%252e%252e/etc/passwd", "/etc/passwd", "%2fetc%2fpasswd"]
)
def test_no_spelling_of_a_path_leads_out(files: Reader, settings: Settings, path: str) -> None:
    files.entry("")
    assert files._current is not None
    api = connect(settings)
    proxied = f"/api/v1/namespaces/{api.namespace}/pods/{files.pod}:{PORT}/proxy/files/{path}"
    answer = api._connection.open("GET", proxied, headers={TOKEN_HEADER: files._current.token})
    assert answer.status in (400, 403, 404)
    assert b"root:" not in answer.read()
    answer.release_conn()


def test_whoever_lacks_the_token_reads_nothing(files: Reader, settings: Settings, claim: str) -> None:
    files.entry("")
    answer = connect(settings).proxy(files.pod, PORT, f"files/{claim}/odd ü%2e#?&+")
    assert answer.status == 401
    assert b"odd" not in answer.body


def test_the_pod_has_no_token_and_writes_nowhere(files: Reader, namespace: Namespace) -> None:
    files.entry("")
    pod = next(pod for pod in namespace.objects("pods", *READERS) if pod["metadata"]["name"] == files.pod)
    assert [volume["name"] for volume in pod["spec"]["volumes"]] == ["claim"], "no token was added to it"
    script = f"id -u; ls /var/run/secrets/kubernetes.io; touch {MOUNT}/new; touch /tmp/new /new; true"
    done = subprocess.run(
        ["kubectl", "exec", "-n", namespace.name, files.pod, "--", "/bin/bash", "-c", script],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout == "1000\n"
    assert done.stderr.count("Read-only file system") == 3
    assert "No such file or directory" in done.stderr


def test_another_pod_takes_over_while_it_is_read(files: Reader, claim: str, made: Path, namespace: Namespace) -> None:
    expected = (made.parent / "big").read_bytes()
    step = 1 << 20

    def read(number: int) -> bool:
        start = (number * step) % len(expected)
        return files.read(f"{claim}/big", start, start + step) == expected[start : start + step]

    def right_by_another_than(pod: str) -> bool:
        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(read, range(16)))
        return files.pod not in (pod, "")

    assert read(0)
    first = files.pod
    namespace.kubectl("delete", "pod", first, "--grace-period=1", "--wait=false")
    until(lambda: right_by_another_than(first))
    # The program in it ends, and the pod with it.
    second = files.pod
    namespace.kubectl("exec", second, "--", "/bin/bash", "-c", "kill -TERM 1")
    until(lambda: right_by_another_than(second))


def test_a_process_that_ends_takes_its_pod_along(address: str, namespace: Namespace) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", READS, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as one:
        assert one.stdout is not None
        assert one.stdout.readline() == "read\n"
        [pod] = pods(namespace)
        one.communicate(timeout=30)
        assert one.returncode == 0
    assert pod["metadata"]["name"] not in [each["metadata"]["name"] for each in pods(namespace)]


def test_the_pod_of_a_killed_process_ends_by_itself(
    address: str, namespace: Namespace, files: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-c", READS, address]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as one:
        assert one.stdout is not None
        assert one.stdout.readline() == "read\n"
        [pod] = pods(namespace)
        one.send_signal(signal.SIGKILL)
    name = pod["metadata"]["name"]
    assert pod["spec"]["activeDeadlineSeconds"] == reader_pod.LAST_END_SECONDS
    until(lambda: [each["status"]["phase"] for each in pods(namespace)] == ["Succeeded"], seconds=30)
    files.entry("")
    until(lambda: name not in [each["metadata"]["name"] for each in namespace.objects("pods", *READERS)], seconds=30)


def test_an_unused_pod_is_deleted(files: Reader, namespace: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "SECONDS_UNUSED", 1)
    files.entry("")
    until(lambda: files.pod == "" and pods(namespace) == [], seconds=20)
    assert files.entry("").is_folder


@pytest.mark.alone
def test_a_read_goes_on_while_the_api_server_is_restarted(files: Reader, claim: str, breaker: Breaker) -> None:
    pod = files.entry("") and files.pod
    breaker.kill("kube-apiserver")
    starting = threading.Thread(target=breaker.up)
    starting.start()
    try:
        assert files.read(f"{claim}/odd ü%2e#?&+") == b"odd"
    finally:
        starting.join()
    assert files.pod == pod


def test_a_mount_needs_no_pod(
    address: str, namespace: Namespace, volume: Volume, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where the volume is no folder of this machine, what was copied to it stands for a mount of it.
    root = volume.root if isinstance(volume, FolderVolume) else made.parents[1]
    monkeypatch.setenv("GEOZARR_MOUNTS", f"{CLAIM}={root}")
    xr.testing.assert_identical(gz.open(address).load(), gz.open(made).load())
    assert pods(namespace) == []


def test_what_is_in_the_way_is_said(settings: Settings, namespace: Namespace) -> None:
    api = Api(namespace.name)
    with pytest.raises(
        ClusterObjectMissing, match=rf"no claim other in namespace {namespace.name}; there are: .*{CLAIM}"
    ):
        Reader(api, "other").read("x")
    with pytest.raises(ClaimUnreadable, match=r"(?s)image eopf-geozarr:not-there is not on .*load-k3d"):
        Reader(api, CLAIM, image="eopf-geozarr:not-there").read("x")
    size = {"requests": {"storage": "1Gi"}}
    spec = {"storageClassName": "none-provides-this", "accessModes": ["ReadWriteOnce"], "resources": size}
    metadata = {"name": "never-bound"}
    namespace.apply({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec})
    with pytest.raises(ClaimUnreadable, match="nothing can be on it: claim never-bound has no volume"):
        Reader(api, "never-bound").read("x")
    until(lambda: pods(namespace) == [], seconds=20)


def test_the_role_that_is_lacking_is_said(
    address: str, namespace: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = json.loads(kubectl("config", "view", "--raw", "--minify", "--flatten", "-o", "json"))
    accounts = ("default", "geozarr-submitter")
    tokens = [namespace.kubectl("create", "token", account).strip() for account in accounts]
    for account, token in zip(accounts, tokens, strict=True):
        view["users"] = [{"name": view["contexts"][0]["context"]["user"], "user": {"token": token}}]
        path = tmp_path / account
        path.write_text(yaml.safe_dump(view))
        monkeypatch.setenv("KUBECONFIG", str(path))
        reader._READERS.clear()
        if account == "default":
            with pytest.raises(ClusterDenied, match=r"(?s)you may not create pods.*rbac.yaml"):
                gz.open(address)
        else:
            assert R10M in gz.open(address).groups
            reader.close_all()


def test_a_viewer_says_what_its_picture_waits_for(address: str, files: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    files.close()
    monkeypatch.setattr(pod_start, "GRACE", 0.0)
    seen: list[str] = []
    viewer = Viewer()
    viewer.observe(lambda change: seen.append(viewer.text), "waiting")
    viewer.source = address
    assert viewer.wait(120)
    assert any("Reading: waiting for the pod that reads pvc://" in text for text in seen)
    assert viewer.error is None
    assert "waiting" not in viewer.text

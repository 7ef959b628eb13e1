"""Archives on a cluster: with an artifact repository, without one, and on their way to this machine."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import s3fs
import xarray as xr

import geozarr_nb as gz
from geozarr_nb.claims import reader
from geozarr_nb.claims.address import Address
from geozarr_nb.claims.reader import reader_of
from geozarr_nb.errors import ArchiveMissing
from geozarr_nb.jobs.job import Job
from geozarr_nb.outputs import fetching
from geozarr_nb.settings import Settings
from tests.cluster.support import ClusterPlace, Namespace, fresh_namespace, node_address, nodes_of
from tests.contract.support import until
from tests.places import place_on_cluster
from tests.s3_server import s3_server

pytestmark = pytest.mark.cluster

BUCKET = "artifacts"
ACCESS, SECRET = "access", "not-a-secret"
GATEWAY = shutil.which("versitygw")


@contextmanager
def object_store(folder: Path) -> Iterator[str]:
    """Run an S3-compatible server that pods reach; gives its host and port."""
    host = node_address()
    if GATEWAY is None:
        with s3_server(host) as options:
            yield options["client_kwargs"]["endpoint_url"].removeprefix("http://")
        return
    with socket.socket() as probe:
        probe.bind((host, 0))
        port = probe.getsockname()[1]
    (folder / "store").mkdir()
    command = [GATEWAY, "--quiet", "--access", ACCESS, "--secret", SECRET, "--port", f"{host}:{port}"]
    with subprocess.Popen([*command, "posix", str(folder / "store")], stdout=subprocess.DEVNULL) as server:
        try:
            until(lambda: _answers(host, port))
            yield f"{host}:{port}"
        finally:
            server.terminate()


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


@dataclass(frozen=True)
class Repository:
    """An artifact repository."""

    endpoint: str
    files: s3fs.S3FileSystem

    def use_in(self, namespace: Namespace) -> None:
        """Make it the default one of a namespace."""
        secret = {"name": "artifacts", "key": "secret"}
        access = {**secret, "key": "access"}
        s3 = {"bucket": BUCKET, "endpoint": self.endpoint, "insecure": True}
        s3 |= {"accessKeySecret": access, "secretKeySecret": secret, "region": "us-east-1"}
        annotations = {"workflows.argoproj.io/default-artifact-repository": "default"}
        namespace.apply(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": "artifacts"},
                "stringData": {"access": ACCESS, "secret": SECRET},
            },
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "artifact-repositories", "annotations": annotations},
                "data": {"default": json.dumps({"s3": s3})},
            },
        )


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repository]:
    with object_store(tmp_path_factory.mktemp("repository")) as endpoint:
        options = {"endpoint_url": f"http://{endpoint}", "region_name": "us-east-1"}
        files = s3fs.S3FileSystem(key=ACCESS, secret=SECRET, client_kwargs=options, skip_instance_cache=True)
        files.mkdir(BUCKET)
        yield Repository(endpoint, files)


@pytest.fixture(scope="module")
def own() -> Iterator[Namespace]:
    """A namespace of this module's own, in which there is a repository at times."""
    with fresh_namespace() as made:
        yield made


@pytest.fixture
def place(
    request: pytest.FixtureRequest, tmp_path: Path, own: Namespace, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ClusterPlace]:
    with place_on_cluster(request, tmp_path, own, monkeypatch) as made:
        monkeypatch.delenv("GEOZARR_MOUNTS", raising=False)
        yield made
    reader.close_all()
    own.kubectl("delete", "configmap", "artifact-repositories", "--ignore-not-found")


def artifacts_of(place: ClusterPlace, name: str) -> list[dict[str, Any]]:
    """Return the artifacts that the pods of an output's workflows have left."""
    flows = place.namespace.workflows(place.path(name))
    pods = [node for flow in flows for node in nodes_of(flow) if node["type"] == "Pod"]
    found = [one for node in pods for one in node.get("outputs", {}).get("artifacts", ())]
    return [one for one in found if one["name"] == "geozarr"]


def ended(place: ClusterPlace, name: str) -> set[str]:
    """Return the phases of an output's workflows, once the controller is through with all of them."""
    until(lambda: all(flow.get("status", {}).get("finishedAt") for flow in place.namespace.workflows(place.path(name))))
    return {flow["status"]["phase"] for flow in place.namespace.workflows(place.path(name))}


def archive_on(place: ClusterPlace, name: str) -> bytes:
    return reader_of(place.claim, Settings.load()).read(f"{place.path(name)}.tar.gz")


def test_it_goes_to_the_repository(place: ClusterPlace, repository: Repository, tmp_path: Path) -> None:
    repository.use_in(place.namespace)
    job = place.submit("a", archive=True).wait(timeout=120).raise_for_status()
    assert job.result is not None
    told = job.result["archive"]
    assert told["path"] == f"{job.output}.tar.gz"
    assert ended(place, "a") == {"Succeeded"}
    [artifact] = artifacts_of(place, "a")
    key = artifact["s3"]["key"]
    assert key.endswith("/geozarr.tar.gz")
    content = repository.files.cat_file(f"{BUCKET}/{key}")
    assert hashlib.sha256(content).hexdigest() == told["sha256"]
    assert content == archive_on(place, "a")
    (tmp_path / "a.tar.gz").write_bytes(content)
    with tarfile.open(tmp_path / "a.tar.gz") as tar:
        tar.extractall(tmp_path, filter="data")
    xr.testing.assert_identical(gz.open(tmp_path / "a.zarr").load(), job.open().load())
    assert any("the artifact repository" in line for line in job.logs())

    # What is there already is offered again, and not made again.
    place.forget(job)
    until(lambda: len(gz.list_jobs()) == 0, seconds=20)
    stamp = place.volume.stamp(f"{place.path('a')}.tar.gz")
    again = place.submit("a", archive=True, if_exists="skip").wait(timeout=120).raise_for_status()
    assert again.result is not None
    assert (again.result["skipped"], again.result["archive"]["sha256"]) == (True, told["sha256"])
    assert ended(place, "a") == {"Succeeded"}
    assert len(artifacts_of(place, "a")) == 1
    assert place.volume.stamp(f"{place.path('a')}.tar.gz") == stamp


def test_who_does_not_ask_leaves_none(place: ClusterPlace, repository: Repository) -> None:
    repository.use_in(place.namespace)
    place.submit("a").wait(timeout=120).raise_for_status()
    assert ended(place, "a") == {"Succeeded"}
    assert artifacts_of(place, "a") == []
    assert place.leftovers("a") == []


def test_without_a_repository_it_lies_on_the_volume(place: ClusterPlace) -> None:
    job = place.submit("a", archive=True).wait(timeout=120).raise_for_status()
    assert ended(place, "a") == {"Succeeded"}
    assert artifacts_of(place, "a") == []
    assert job.result is not None
    assert hashlib.sha256(archive_on(place, "a")).hexdigest() == job.result["archive"]["sha256"]
    assert place.leftovers("a") == ["a.zarr.tar.gz", "a.zarr.tar.gz.sha256"]


def test_a_repository_that_refuses_leaves_it_on_the_volume(place: ClusterPlace, repository: Repository) -> None:
    repository.use_in(place.namespace)
    wrong = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "artifacts"}, "stringData": {"secret": "wrong"}}
    place.namespace.apply(wrong)
    job = place.submit("a", archive=True).wait(timeout=180)
    assert job.result is not None, (job.status, job.reason)
    assert hashlib.sha256(archive_on(place, "a")).hexdigest() == job.result["archive"]["sha256"]
    assert len({run["archive"]["sha256"] for run in place.runs("a")}) == 1


# --- on its way to this machine --------------------------------------------------------------------------------------

SLOWLY = """
import sys, time
import geozarr_nb as gz
from geozarr_nb.outputs import fetching
read = fetching._read
def slow(store, key, start, stop):
    time.sleep(0.05)
    return read(store, key, start, stop)
fetching._read, fetching.BLOCK, fetching.WORKERS, fetching.BLOCKS_AHEAD = slow, 20_000, 2, 1
gz.get_job(sys.argv[1]).download(sys.argv[2], progress=False)
"""


@pytest.fixture
def packed(place: ClusterPlace) -> Job:
    return place.submit("a", archive=True).wait(timeout=120).raise_for_status()


def arrived(parts: Path) -> int:
    return sum(path.stat().st_size for path in parts.rglob("*") if path.is_file())


def test_it_is_fetched_without_a_mount(place: ClusterPlace, packed: Job, tmp_path: Path) -> None:
    files = reader_of(place.claim, Settings.load())
    packed.download(tmp_path / "got.zarr", progress=False)
    read = files.stats()["bytes"]
    size = arrived(tmp_path / "got.zarr")
    root = (tmp_path / "got.zarr" / "zarr.json").stat().st_size
    assert read == size + 2 * root, "each byte once, and the root's document before and after"
    xr.testing.assert_identical(gz.open(tmp_path / "got.zarr").load(), packed.open().load())
    packed.download(tmp_path / "got.tar.gz", progress=False)
    assert (tmp_path / "got.tar.gz").read_bytes() == archive_on(place, "a")


@pytest.mark.parametrize("name", ["got.zarr", "got.tar.gz"])
def test_a_fetch_that_is_killed_goes_on(place: ClusterPlace, packed: Job, tmp_path: Path, name: str) -> None:
    target, parts = tmp_path / name, tmp_path / f".{name}.partial"
    command = [sys.executable, "-c", SLOWLY, packed.name, str(target)]
    with subprocess.Popen(command, env={**os.environ, **place.settings}) as process:
        until(lambda: arrived(parts) > 60_000)
        process.send_signal(signal.SIGKILL)
    assert not target.exists()
    kept = arrived(parts)
    files = reader_of(place.claim, Settings.load())
    files.entry("")
    before = files.stats()["bytes"]
    packed.download(target, progress=False)
    read = files.stats()["bytes"] - before
    if name == "got.zarr":
        root = (target / "zarr.json").stat().st_size
        assert read == arrived(target) + 2 * root - kept
    else:
        assert read == target.stat().st_size - kept + 65 + 2 + len("a.zarr.tar.gz")
        assert target.read_bytes() == archive_on(place, "a")
    assert not parts.exists()


@pytest.mark.parametrize("name", ["got.zarr", "got.tar.gz"])
def test_a_reader_that_is_lost_on_the_way_is_replaced(
    place: ClusterPlace, packed: Job, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = reader_of(place.claim, Settings.load())
    files.entry("")
    first = files.pod
    monkeypatch.setattr(fetching, "BLOCK", 50_000)
    monkeypatch.setattr(fetching, "WORKERS", 2)
    read, lost = fetching._read, threading.Event()
    count = 0

    def then_lost(store: Any, key: str, start: int, stop: int) -> bytes:
        nonlocal count
        count += 1
        if count > 5 and not lost.is_set():
            lost.set()
            place.namespace.kubectl("delete", "pod", first, "--grace-period=0", "--force")
        return read(store, key, start, stop)

    monkeypatch.setattr(fetching, "_read", then_lost)
    packed.download(tmp_path / name, progress=False)
    assert lost.is_set()
    assert files.pod not in ("", first)
    if name == "got.zarr":
        xr.testing.assert_identical(gz.open(tmp_path / name).load(), packed.open().load())
    else:
        assert (tmp_path / name).read_bytes() == archive_on(place, "a")


def test_what_was_not_packed_is_told(place: ClusterPlace, tmp_path: Path) -> None:
    job = place.submit("a").wait(timeout=120).raise_for_status()
    with pytest.raises(ArchiveMissing) as caught:
        job.download(tmp_path / "a.tar.gz", progress=False)
    assert str(caught.value.given) == f"{Address.parse(job.output)}.tar.gz"

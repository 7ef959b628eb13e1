"""Files of a claim without a cluster: addresses, mounts, and a reader pod that is the real server on this machine."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import fsspec
import numpy as np
import pytest
import xarray as xr
import zarr

import geozarr_nb as gz
from geozarr_nb.claims import pod_start, reader, volume
from geozarr_nb.claims.address import Address, Entry, Files
from geozarr_nb.claims.filesystem import ClaimFileSystem
from geozarr_nb.claims.reader import Reader, reader_of, release_idle
from geozarr_nb.claims.reader_pod import pod_manifest
from geozarr_nb.claims.volume import Mount, mounts_in, resolve
from geozarr_nb.cluster.client import ApiResponse, Object
from geozarr_nb.cluster.kinds import CLAIMS, EVENTS, PODS, TEMPLATES, Kind
from geozarr_nb.errors import (
    ClaimUnreadable,
    ClusterDenied,
    ClusterError,
    ClusterObjectMissing,
    ClusterRefused,
    ClusterUnreachable,
    InvalidRequest,
    ProductDenied,
    StorageDenied,
)
from geozarr_nb.outputs import fetching
from geozarr_nb.outputs.download import download
from geozarr_nb.outputs.open import levels
from geozarr_nb.settings import Settings
from geozarr_runner.publishing.archive import write_archive
from geozarr_runner.serve import Server
from geozarr_runner.serving.folder import Folder
from tests.unit.conftest import REFLECTANCE, Outputs

CLAIM = "geozarr-pvc"
CONTENT = bytes(range(256)) * 8
BOUND: Object = {
    "metadata": {"name": CLAIM, "namespace": "argo"},
    "spec": {"accessModes": ["ReadWriteMany"]},
    "status": {"phase": "Bound"},
}


def unreachable() -> ClusterUnreachable:
    return ClusterUnreachable("the API server does not answer: connection refused")


def no_way_to_the_pod() -> ClusterRefused:
    error = ClusterRefused("error trying to reach service: connection refused")
    error.retryable = True  # type: ignore[misc]
    return error


@dataclass
class Cluster:
    """What the reader needs of an API server; a pod of it is the runner's own server in a thread."""

    root: Path
    server: str
    namespace: str = "argo"
    context: str = "test"
    objects: dict[Kind, dict[str, Object]] = field(default_factory=lambda: {CLAIMS: {CLAIM: BOUND}, PODS: {}})
    refusals: dict[str, Callable[[], Exception]] = field(default_factory=dict)
    # What happens to the next requests to a pod instead of an answer.
    faults: list[Callable[[], ApiResponse]] = field(default_factory=list)
    created: list[Object] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    becomes: Callable[[Object], Object] = field(default=lambda pod: {"phase": "Running"})
    servers: dict[str, Server] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def find(self, kind: Kind, name: str) -> Object | None:
        self._refuse("get", kind)
        return self.objects.get(kind, {}).get(name)

    def list(self, kind: Kind, *, fields: str = "") -> tuple[list[Object], str]:
        self._refuse("list", kind)
        return list(self.objects.get(kind, {}).values()), "1"

    def create(self, kind: Kind, body: Object) -> Object:
        self._refuse("create", kind)
        name = body["metadata"]["name"]
        status = self.becomes(body)
        self.objects[PODS][name] = {**body, "metadata": {**body["metadata"], "uid": name, "namespace": self.namespace}}
        self.objects[PODS][name]["status"] = status
        self.created.append(body)
        if status.get("phase") == "Running":
            digest = body["spec"]["containers"][0]["command"][-1]
            self.servers[name] = Server(Folder(self.root), ("127.0.0.1", 0), digest)
            threading.Thread(target=self.servers[name].serve_forever, args=(0.01,), daemon=True).start()
        return body

    def delete(self, kind: Kind, name: str) -> bool:
        self.deleted.append(name)
        self.stop(name)
        return self.objects[PODS].pop(name, None) is not None

    def proxy(self, pod: str, port: int, path: str, *, headers: Mapping[str, str] | None = None) -> ApiResponse:
        self._refuse("get", Kind("api/v1", "pods/proxy"))
        self.asked.append(path)
        if path != "stats" and self.faults:
            return self.faults.pop(0)()
        if pod not in self.objects[PODS]:
            raise ClusterObjectMissing(f'pods "{pod}" not found')
        if pod not in self.servers:
            raise no_way_to_the_pod()
        connection = http.client.HTTPConnection("127.0.0.1", self.servers[pod].port, timeout=60)
        try:
            connection.request("GET", f"/{quote(path)}", headers=dict(headers or {}))
            answer = connection.getresponse()
            return ApiResponse(answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    def stop(self, name: str) -> None:
        server = self.servers.pop(name, None)
        if server is not None:
            server.shutdown()
            server.server_close()

    def end(self, name: str, status: Object) -> None:
        """Let a pod end by itself."""
        self.stop(name)
        self.objects[PODS][name]["status"] = status

    def _refuse(self, verb: str, kind: Kind) -> None:
        if refusal := self.refusals.get(f"{verb} {kind.plural}"):
            raise refusal()


def denied(what: str) -> Callable[[], Exception]:
    return lambda: ClusterDenied(f"you may not {what}", remedy="kubectl apply -n argo -f workflows/rbac.yaml")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The root of a claim."""
    folder = tmp_path / "volume"
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "c").write_bytes(CONTENT)
    (folder / "a" / "odd ü%2e#?").write_bytes(b"odd")
    (tmp_path / "secret").write_bytes(b"outside")
    (folder / "out").symlink_to("../secret")
    return folder


@pytest.fixture
def cluster(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A cluster with a claim, and no mount of it here."""
    monkeypatch.chdir(tmp_path)
    for name in ("GEOZARR_MOUNTS", "GEOZARR_IMAGE", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"GRACE": 0.1, "LONG_GRACE": 0.3, "PAUSE": 0.02, "SHORT_PAUSE": 0.02}.items():
        monkeypatch.setattr(pod_start, name, value)
    for name, value in {"PAUSE": 0.02, "PATIENCE": 2.0}.items():
        monkeypatch.setattr(reader, name, value)
    fake = Cluster(root, f"https://{tmp_path.name}")
    monkeypatch.setattr(reader, "connect", lambda settings: fake)
    yield fake
    reader.close_all()
    for name in list(fake.servers):
        fake.stop(name)


@pytest.fixture
def files(cluster: Cluster) -> Reader:
    return reader_of(CLAIM, Settings.load())


@pytest.fixture(params=["mount", "reader"])
def either(request: pytest.FixtureRequest, root: Path) -> Files:
    """The claim's files by each of both ways."""
    if request.param == "mount":
        return Mount(root)
    reached: Files = request.getfixturevalue("files")
    return reached


# Addresses


@pytest.mark.parametrize(
    ("text", "claim", "path"),
    [
        ("pvc://geozarr-pvc/a/b.zarr", "geozarr-pvc", "a/b.zarr"),
        ("pvc://geozarr-pvc//a/./b.zarr/", "geozarr-pvc", "a/b.zarr"),
        ("pvc://geozarr-pvc", "geozarr-pvc", ""),
        ("pvc://my.claim/", "my.claim", ""),
        ("geozarr-pvc/a b#?%2e%2e", "geozarr-pvc", "a b#?%2e%2e"),
    ],
)
def test_an_address_names_claim_and_path(text: str, claim: str, path: str) -> None:
    assert Address.parse(text) == Address(claim, path)
    assert str(Address(claim, path)) == f"pvc://{claim}/{path}"


@pytest.mark.parametrize("text", ["pvc://", "pvc:///a", "pvc://c/../d", "pvc://c/a/..", "pvc://../x", "pvc://c/a\0b"])
def test_what_leads_out_of_a_claim_is_no_address(text: str) -> None:
    with pytest.raises(InvalidRequest, match="pvc://<claim>/<path>"):
        Address.parse(text)


# Mounts


def test_a_setting_says_where_a_claim_is_mounted(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOZARR_MOUNTS", f"other=/nowhere,{CLAIM}={root}")
    assert resolve(f"pvc://{CLAIM}/a/c") == str(root / "a" / "c")
    assert fsspec.filesystem("pvc").cat(f"{CLAIM}/a/c") == CONTENT


def test_a_mount_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOZARR_MOUNTS", f"{CLAIM}=/not/there")
    with pytest.raises(InvalidRequest, match="not mounted where GEOZARR_MOUNTS says"):
        resolve(f"pvc://{CLAIM}/a")


@pytest.fixture
def own_pod(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Object:
    """The spec of a pod that has this machine's folders as mounts; this process believes to be in it."""
    place = tmp_path / "namespace"
    place.write_text("argo\n")
    monkeypatch.setattr(volume, "POD_NAMESPACE", place)
    monkeypatch.setattr(volume, "_DISCOVERED", {})
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) in (root, root / "a"))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "192.0.2.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "6443")
    monkeypatch.delenv("GEOZARR_MOUNTS", raising=False)
    return {
        "spec": {
            "volumes": [
                {"name": "data", "persistentVolumeClaim": {"claimName": CLAIM}},
                {"name": "part", "persistentVolumeClaim": {"claimName": "shared"}},
                {"name": "scratch", "emptyDir": {}},
            ],
            "containers": [
                {
                    "name": "notebook",
                    "volumeMounts": [
                        {"name": "data", "mountPath": str(root)},
                        {"name": "part", "mountPath": str(root / "a"), "subPath": "people/me/"},
                        {"name": "part", "mountPath": str(root), "subPathExpr": "$(NAME)"},
                        {"name": "scratch", "mountPath": str(root)},
                    ],
                },
                {"name": "sidecar", "volumeMounts": [{"name": "data", "mountPath": str(tmp_path / "elsewhere")}]},
            ],
        }
    }


@dataclass
class OwnApi:
    """An API server that is asked for this pod alone."""

    pod: Object | None
    server: str = "https://192.0.2.1:6443"
    asked: int = 0

    def get(self, kind: Kind, name: str) -> Object:
        self.asked += 1
        if self.pod is None:
            raise ClusterDenied("you may not get pods")
        return self.pod


def test_mounts_are_found_in_a_pods_own_spec(root: Path, own_pod: Object) -> None:
    assert mounts_in(own_pod) == {CLAIM: (Mount(root),), "shared": (Mount(root / "a", "people/me"),)}


def test_in_a_pod_its_mounts_are_used(root: Path, own_pod: Object, monkeypatch: pytest.MonkeyPatch) -> None:
    api = OwnApi(own_pod)
    monkeypatch.setattr("geozarr_nb.cluster.client.connect", lambda settings: api)
    assert resolve(f"pvc://{CLAIM}/a/c") == str(root / "a" / "c")
    assert resolve("pvc://shared/people/me/c") == str(root / "a" / "c")
    assert resolve("pvc://shared/people/other/c") == "pvc://shared/people/other/c"
    assert resolve("pvc://shared/people/mean/c") == "pvc://shared/people/mean/c"
    assert api.asked == 1


def test_without_the_right_to_see_the_pod_there_are_no_mounts(own_pod: Object, monkeypatch: pytest.MonkeyPatch) -> None:
    api = OwnApi(None)
    monkeypatch.setattr("geozarr_nb.cluster.client.connect", lambda settings: api)
    assert [resolve(f"pvc://{CLAIM}/x") for _ in range(2)] == [f"pvc://{CLAIM}/x"] * 2
    assert api.asked == 1


@pytest.mark.parametrize("other", ["namespace", "cluster"])
def test_claims_of_another_place_are_not_taken_for_those_mounted(
    own_pod: Object, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = OwnApi(own_pod, server="https://other:6443" if other == "cluster" else "https://192.0.2.1:6443")
    monkeypatch.setattr("geozarr_nb.cluster.client.connect", lambda settings: api)
    if other == "namespace":
        monkeypatch.setenv("GEOZARR_NAMESPACE", "team")
    assert resolve(f"pvc://{CLAIM}/x") == f"pvc://{CLAIM}/x"
    assert api.asked == 0


# Reading, by each way


@pytest.mark.parametrize(
    ("start", "stop"),
    [(0, None), (0, 10), (5, 6), (100, None), (-7, None), (2000, 9999), (7, 7), (9, 3), (9999, None), (-9999, None)],
)
def test_bytes_are_read(either: Files, start: int, stop: int | None) -> None:
    assert either.read("a/c", start, stop) == CONTENT[start:stop]


def test_what_there_is_is_told(either: Files) -> None:
    assert {(entry.name, entry.is_folder, entry.size) for entry in either.entries("a")} == {
        ("b", True, 0),
        ("c", False, 2048),
        ("odd ü%2e#?", False, 3),
    }
    entry = either.entry("a/c")
    assert (entry.is_folder, entry.size) == (False, 2048)
    assert abs(entry.modified - time.time()) < 600
    assert either.entry("").is_folder
    assert either.read("a/odd ü%2e#?") == b"odd"


def test_what_is_not_there_is_said_as_the_system_says_it(either: Files) -> None:
    for call in (either.read, either.entry, either.entries):
        with pytest.raises(FileNotFoundError):
            call("a/x")
    with pytest.raises(IsADirectoryError):
        either.read("a")
    with pytest.raises(NotADirectoryError):
        either.entries("a/c")


def test_through_the_pod_nothing_outside_is_read(files: Reader) -> None:
    with pytest.raises(ProductDenied, match="outside"):
        files.read("out")
    with pytest.raises(ValueError, match="leads out"):
        files.read("../../../default/secrets/x")


# The file system


@pytest.fixture
def filesystem(cluster: Cluster) -> ClaimFileSystem:
    return ClaimFileSystem()


def test_fsspec_reads_a_claim(filesystem: ClaimFileSystem) -> None:
    assert filesystem.cat(f"pvc://{CLAIM}/a/c") == CONTENT
    assert filesystem.cat_file(f"{CLAIM}/a/c", -10, -3) == CONTENT[-10:-3]
    assert filesystem.cat_file(f"{CLAIM}/a/c", 3, -3) == CONTENT[3:-3]
    assert filesystem.cat_ranges([f"{CLAIM}/a/c"] * 3, [0, 10, 20], [5, 15, 25]) == [
        CONTENT[start : start + 5] for start in (0, 10, 20)
    ]
    assert filesystem.ls(f"pvc://{CLAIM}/a", detail=False) == [f"{CLAIM}/a/b", f"{CLAIM}/a/c", f"{CLAIM}/a/odd ü%2e#?"]
    assert filesystem.ls(f"{CLAIM}/a/c", detail=False) == [f"{CLAIM}/a/c"]
    assert filesystem.isdir(CLAIM)
    assert filesystem.isfile(f"{CLAIM}/a/c")
    assert not filesystem.exists(f"{CLAIM}/a/x")
    assert filesystem.size(f"{CLAIM}/a/c") == 2048
    assert filesystem.find(CLAIM) == [f"{CLAIM}/a/c", f"{CLAIM}/a/odd ü%2e#?"]
    assert abs(filesystem.modified(f"{CLAIM}/a/c").timestamp() - time.time()) < 600


def test_a_file_is_opened_and_fetched(filesystem: ClaimFileSystem, tmp_path: Path) -> None:
    with filesystem.open(f"{CLAIM}/a/c") as file:
        file.seek(100)
        assert file.read(28) == CONTENT[100:128]
    filesystem.get(f"{CLAIM}/a", str(tmp_path / "copy"), recursive=True)
    assert (tmp_path / "copy" / "c").read_bytes() == CONTENT


def test_nothing_is_written(filesystem: ClaimFileSystem, cluster: Cluster, tmp_path: Path) -> None:
    path, here = f"{CLAIM}/a/c", str(tmp_path / "secret")
    attempts: list[Callable[[], Any]] = [
        lambda: filesystem.pipe(path, b"x"),
        lambda: filesystem.pipe_file(path, b"x"),
        lambda: filesystem.open(path, "wb"),
        lambda: filesystem.open(path, "ab"),
        lambda: filesystem.put(here, path),
        lambda: filesystem.put_file(here, path),
        lambda: filesystem.copy(path, f"{path}2"),
        lambda: filesystem.mv(path, f"{path}2"),
        lambda: filesystem.rm(path),
        lambda: filesystem.rm_file(path),
        lambda: filesystem.mkdir(f"{CLAIM}/new"),
        lambda: filesystem.makedirs(f"{CLAIM}/new"),
        lambda: filesystem.rmdir(f"{CLAIM}/a/b"),
        lambda: filesystem.touch(path),
        lambda: zarr.open_group(f"pvc://{CLAIM}/new.zarr", mode="w"),
    ]
    for attempt in attempts:
        with pytest.raises(StorageDenied, match=r'read only.*\n.*\n.*backend="argo"'):
            attempt()


def test_a_path_without_a_claim_is_refused(filesystem: ClaimFileSystem) -> None:
    with pytest.raises(InvalidRequest, match="no claim is named"):
        filesystem.ls("pvc://")


def test_the_protocol_is_an_entry_point() -> None:
    document = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    module, _, name = document["project"]["entry-points"]["fsspec.specs"]["pvc"].partition(":")
    assert getattr(import_module(module), name) is ClaimFileSystem


# Stores


@pytest.fixture
def store(outputs: Outputs, cluster: Cluster, tmp_path: Path) -> Path:
    """A converted product on the claim; its path here."""
    (cluster.root / "made.zarr").symlink_to("chosen.zarr")
    subprocess.run(["cp", "-r", outputs.chosen, cluster.root / "chosen.zarr"], check=True)
    return outputs.chosen


def test_a_store_on_a_claim_is_opened_as_one_here(store: Path, cluster: Cluster) -> None:
    xr.testing.assert_identical(gz.open(f"pvc://{CLAIM}/made.zarr").load(), gz.open(store).load())
    assert len(cluster.created) == 1


def test_xarray_and_inspect_read_it(store: Path, cluster: Cluster) -> None:
    resolve(f"pvc://{CLAIM}/made.zarr")
    group = f"{REFLECTANCE}/r10m"
    xr.testing.assert_identical(
        xr.open_zarr(f"pvc://{CLAIM}/made.zarr", group=group).load(), xr.open_zarr(store, group=group).load()
    )
    product = gz.inspect(f"pvc://{CLAIM}/made.zarr")
    assert f"/{group}" in product.groups


def test_a_preview_reads_the_coarsest_overview_alone(store: Path, cluster: Cluster, files: Reader) -> None:
    before = files.stats()["bytes"]
    shown = gz.preview(f"pvc://{CLAIM}/made.zarr", group="r10m", level="coarsest")
    coarsest = levels(store)[f"/{REFLECTANCE}/r10m"][-1]
    assert shown.level == coarsest.number > 0
    pixels = {path for path in cluster.asked if "/c/" in path}
    rasters = {path for path in pixels if Path(path.partition("/c/")[0]).name in coarsest.variables}
    assert len(rasters) == 3
    assert all(path.startswith(f"files/made.zarr{coarsest.path}/") for path in rasters)
    # What else there is of chunks are coordinates, along one dimension.
    assert all("/" not in path.partition("/c/")[2] for path in pixels - rasters)
    metadata = sum(path.stat().st_size for path in store.rglob("zarr.json"))
    chunks = sum((cluster.root / path.removeprefix("files/")).stat().st_size for path in pixels)
    assert files.stats()["bytes"] - before <= chunks + 4 * metadata


def test_what_is_not_there_is_named_with_what_is_near(store: Path, cluster: Cluster) -> None:
    with pytest.raises(InvalidRequest, match=r"in that folder there are: chosen.zarr, made.zarr"):
        gz.open(f"pvc://{CLAIM}/other.zarr")
    (cluster.root / ".other.zarr.partial").mkdir()
    with pytest.raises(InvalidRequest, match="is being written"):
        gz.open(f"pvc://{CLAIM}/other.zarr")
    with pytest.raises(InvalidRequest, match="it is no Zarr store"):
        gz.open(f"pvc://{CLAIM}/a")
    with pytest.raises(InvalidRequest, match=r"make it: gz\.convert"):
        gz.open(f"pvc://{CLAIM}/no/folder/x.zarr")


# The reader pod


def test_the_pod_may_do_nothing_but_read() -> None:
    pod = pod_manifest("name", CLAIM, "image:tag", "0" * 64)
    spec, [container] = pod["spec"], pod["spec"]["containers"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["restartPolicy"] == "Never"
    assert spec["activeDeadlineSeconds"] == 3600
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["volumes"] == [{"name": "claim", "persistentVolumeClaim": {"claimName": CLAIM}}]
    assert container["volumeMounts"] == [{"name": "claim", "mountPath": "/data", "readOnly": True}]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["command"][:3] == ["geozarr-runner", "serve", "/data"]
    assert set(container["resources"]["limits"]) == {"cpu", "memory"}


def test_the_runner_understands_the_pods_command(tmp_path: Path) -> None:
    [container] = pod_manifest("name", CLAIM, "image:tag", "0" * 64)["spec"]["containers"]
    arguments = [str(tmp_path) if each == "/data" else each for each in container["command"][1:]]
    at = arguments.index("--port") + 1
    arguments[at] = "0"
    arguments[arguments.index("--idle") + 1] = "0.1"
    done = subprocess.run(
        [sys.executable, "-m", "geozarr_runner", *arguments], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


def test_the_token_is_not_in_the_pod(files: Reader, cluster: Cluster) -> None:
    files.entry("")
    assert files._current is not None
    token = files._current.token
    assert token not in json.dumps(cluster.created)
    assert token not in repr(files._current)
    assert hashlib.sha256(token.encode()).hexdigest() in json.dumps(cluster.created)


def test_one_pod_serves_all_threads_and_file_systems(cluster: Cluster) -> None:
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda _: ClaimFileSystem().cat(f"{CLAIM}/a/c"), range(48)))
    assert set(found) == {CONTENT}
    assert len(cluster.created) == 1


def test_another_pod_takes_over_when_one_has_ended(files: Reader, cluster: Cluster) -> None:
    files.read("a/c")
    first = files.pod
    cluster.end(first, {"phase": "Succeeded"})
    assert files.read("a/c") == CONTENT
    second = files.pod
    cluster.delete(PODS, second)
    assert files.read("a/c") == CONTENT
    assert len({first, second, files.pod}) == 3
    assert first in cluster.deleted


def test_a_read_goes_on_over_a_restart_of_the_api_server(files: Reader, cluster: Cluster) -> None:
    files.read("a/c")

    def fault(error: ClusterError) -> Callable[[], ApiResponse]:
        def fail() -> ApiResponse:
            raise error

        return fail

    cluster.faults = [fault(unreachable()), fault(no_way_to_the_pod()), fault(unreachable())]
    assert files.read("a/c") == CONTENT
    assert len(cluster.created) == 1


def test_the_answer_of_another_pod_at_the_same_address_is_not_taken(files: Reader, cluster: Cluster) -> None:
    files.read("a/c")
    cluster.faults = [
        lambda: ApiResponse(200, {}, b"of somebody else"),
        lambda: ApiResponse(401, {"X-Geozarr-Serve": "1"}, b"{}"),
    ]
    assert files.read("a/c") == CONTENT
    assert len(cluster.created) == 3


def test_a_read_is_given_up_with_the_last_reason(
    files: Reader, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.read("a/c")
    monkeypatch.setattr(reader, "PATIENCE", 0.3)

    def fail() -> ApiResponse:
        raise unreachable()

    cluster.faults = [fail] * 100
    with pytest.raises(ClusterUnreachable, match="does not answer"):
        files.read("a/c")


def test_a_pod_without_use_is_deleted(files: Reader, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "SECONDS_UNUSED", 0.2)
    files.read("a/c")
    name = cluster.created[0]["metadata"]["name"]
    until(lambda: cluster.deleted == [name])
    assert files.pod == ""
    assert files.read("a/c") == CONTENT


def test_closing_deletes_the_pod(files: Reader, cluster: Cluster) -> None:
    files.read("a/c")
    name = files.pod
    reader.close_all()
    assert cluster.deleted == [name]
    assert files.read("a/c") == CONTENT, "and a later read starts another"


def test_a_pod_that_a_quota_lacks_is_deleted_unless_it_is_read_from(files: Reader, cluster: Cluster) -> None:
    files.entries("")
    name = files.pod
    with files._lock:
        files._reading += 1
    release_idle(files._api)
    assert files.pod == name
    with files._lock:
        files._reading -= 1
    release_idle(files._api)
    until(lambda: cluster.deleted == [name])
    files.entries("")
    assert files.pod not in ("", name)


def test_what_killed_processes_left_is_cleared_away(files: Reader, cluster: Cluster) -> None:
    labels = {"app.kubernetes.io/name": "geozarr-reader"}
    for name, phase in {"geozarr-reader-old": "Succeeded", "geozarr-reader-others": "Running"}.items():
        metadata = {"name": name, "labels": labels}
        cluster.objects[PODS][name] = {"metadata": metadata, "spec": {}, "status": {"phase": phase}}
    cluster.objects[PODS]["job"] = {"metadata": {"name": "job"}, "spec": {}, "status": {"phase": "Succeeded"}}
    files.read("a/c")
    assert cluster.deleted == ["geozarr-reader-old"]


def test_the_image_is_the_settings_or_the_templates(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    def image() -> str:
        Reader(cluster, CLAIM, image=Settings.load().image, template="geozarr-convert")._started()  # type: ignore[arg-type]
        return str(cluster.created[-1]["spec"]["containers"][0]["image"])

    assert image() == "eopf-geozarr:dev"
    parameters = [{"name": "pvc_name", "value": "x"}, {"name": "image", "value": "example.test/runner:1"}]
    cluster.objects[TEMPLATES] = {"geozarr-convert": {"spec": {"arguments": {"parameters": parameters}}}}
    assert image() == "example.test/runner:1"
    cluster.refusals["get workflowtemplates"] = denied("get workflowtemplates")
    assert image() == "eopf-geozarr:dev"
    monkeypatch.setenv("GEOZARR_IMAGE", "mine:2")
    assert image() == "mine:2"


def user(name: str, node: str, phase: str = "Running") -> Object:
    volumes = [{"name": "data", "persistentVolumeClaim": {"claimName": CLAIM}}]
    return {"metadata": {"name": name}, "spec": {"nodeName": node, "volumes": volumes}, "status": {"phase": phase}}


def nodes_of(pod: Object) -> list[str]:
    affinity = pod["spec"].get("affinity")
    if affinity is None:
        return []
    [term] = affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    [match] = term["matchFields"]
    assert (match["key"], match["operator"]) == ("metadata.name", "In")
    return list(match["values"])


@pytest.mark.parametrize(
    ("modes", "phase", "nodes"),
    [
        (["ReadWriteOnce"], "Running", ["node7"]),
        (["ReadWriteOnce"], "Succeeded", []),
        (["ReadWriteMany"], "Running", []),
        (["ReadWriteOnce", "ReadOnlyMany"], "Running", []),
    ],
)
def test_the_pod_goes_where_the_claim_is_in_use(
    files: Reader, cluster: Cluster, modes: list[str], phase: str, nodes: list[str]
) -> None:
    cluster.objects[CLAIMS][CLAIM] = {**BOUND, "spec": {"accessModes": modes}}
    cluster.objects[PODS]["job"] = user("job", "node7", phase)
    files.read("a/c")
    assert nodes_of(cluster.created[0]) == nodes


def test_a_claim_for_one_pod_alone_is_not_waited_for(files: Reader, cluster: Cluster) -> None:
    cluster.objects[CLAIMS][CLAIM] = {**BOUND, "spec": {"accessModes": ["ReadWriteOncePod"]}}
    cluster.objects[PODS]["job"] = user("job", "node7")
    with pytest.raises(ClaimUnreadable, match="in use by pod job"):
        files.read("a/c")
    assert not cluster.created


# Why it cannot be read


def waiting(reason: str, message: str = "") -> Callable[[Object], Object]:
    state = {"name": "reader", "state": {"waiting": {"reason": reason, "message": message}}}
    return lambda pod: {"phase": "Pending", "containerStatuses": [state]}


def unschedulable(message: str) -> Callable[[Object], Object]:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return lambda pod: {"phase": "Pending", "conditions": [condition]}


def ended(reason: str = "Error", code: int = 2, message: str = "") -> Callable[[Object], Object]:
    state = {"name": "reader", "state": {"terminated": {"reason": reason, "exitCode": code, "message": message}}}
    return lambda pod: {"phase": "Failed", "containerStatuses": [state]}


@pytest.mark.parametrize(
    ("becomes", "words"),
    [
        (waiting("ErrImageNeverPull"), r"image eopf-geozarr:dev is not on any node[\s\S]*make build load-k3d"),
        (waiting("ImagePullBackOff"), r"image eopf-geozarr:dev is not on any node"),
        (waiting("CreateContainerError", "no such program"), "its container cannot be made: no such program"),
        (unschedulable("0/1 nodes are available: 1 Insufficient memory."), "enough memory"),
        (ended(message="invalid choice: 'serve'"), r"exit code 2: invalid choice: 'serve'[\s\S]*of this version"),
        (ended("OOMKilled", 137), "needed more memory"),
        (lambda pod: {"phase": "Failed", "reason": "Evicted", "message": "low on disk"}, "evicted it: low on disk"),
    ],
    ids=["no-image", "no-pull", "container", "unschedulable", "old-image", "memory", "evicted"],
)
def test_a_pod_that_does_not_start_is_explained_and_deleted(
    files: Reader, cluster: Cluster, becomes: Callable[[Object], Object], words: str
) -> None:
    cluster.becomes = becomes
    with pytest.raises(ClaimUnreadable, match=rf"(?s)pvc://{CLAIM} cannot be read.*{words}") as caught:
        files.read("a/c")
    assert caught.value.remedy
    name = cluster.created[0]["metadata"]["name"]
    until(lambda: cluster.deleted == [name])


def test_what_a_read_waits_for_is_told_once(files: Reader, cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    cluster.becomes = unschedulable("0/1 nodes are available: 1 Insufficient memory.")
    with pytest.raises(ClaimUnreadable):
        files.read("a/c")
    [told] = caplog.messages
    assert told.startswith(f"waiting for the pod that reads pvc://{CLAIM}: ")
    assert "enough memory" in told


def test_a_pod_that_starts_soon_is_no_news(files: Reader, caplog: pytest.LogCaptureFixture) -> None:
    files.entries("")
    assert caplog.messages == []


def test_a_claim_in_use_on_another_node_is_named(files: Reader, cluster: Cluster) -> None:
    cluster.objects[CLAIMS][CLAIM] = {**BOUND, "spec": {"accessModes": ["ReadWriteOnce"]}}
    cluster.objects[PODS]["job"] = user("job", "node7")
    cluster.becomes = unschedulable("0/2 nodes are available: 1 Insufficient cpu, 1 didn't match node affinity.")
    with pytest.raises(ClaimUnreadable, match=r"ReadWriteOnce and in use by pod job, so only node node7 can read it"):
        files.read("a/c")


def test_events_tell_why_a_volume_is_not_mounted(files: Reader, cluster: Cluster) -> None:
    cluster.becomes = lambda pod: {"phase": "Pending"}
    message = "Multi-Attach error for volume: Volume is already used by pod(s) job"
    event = {"reason": "FailedAttachVolume", "message": message, "lastTimestamp": "2025-01-01T00:00:00Z", "count": 3}
    cluster.objects[EVENTS] = {"one": event}
    with pytest.raises(ClaimUnreadable, match=r"attached to another node.*used by job"):
        files.read("a/c")


def test_a_claim_that_is_not_there_is_named_with_those_that_are(cluster: Cluster) -> None:
    with pytest.raises(
        ClusterObjectMissing, match=rf"(?s)no claim other in namespace argo; there are: {CLAIM}.*make pvc"
    ):
        reader_of("other", Settings.load()).read("x")


@pytest.mark.parametrize("phase", ["Pending", "Lost"])
def test_a_claim_without_a_volume_is_not_waited_for(files: Reader, cluster: Cluster, phase: str) -> None:
    cluster.objects[CLAIMS][CLAIM] = {**BOUND, "status": {"phase": phase}}
    with pytest.raises(ClaimUnreadable, match="nothing can be on it") as caught:
        files.read("a/c")
    assert caught.value.remedy
    assert not cluster.created


@pytest.mark.parametrize("what", ["create pods", "get pods/proxy"])
def test_a_missing_right_is_named(files: Reader, cluster: Cluster, what: str) -> None:
    cluster.refusals[what] = denied(what)
    with pytest.raises(ClusterDenied, match=rf"(?s){what}.*rbac.yaml"):
        files.read("a/c")
    until(lambda: len(cluster.deleted) == len(cluster.created))


@pytest.mark.parametrize("what", ["get persistentvolumeclaims", "list pods", "list events", "get workflowtemplates"])
def test_rights_that_only_help_are_not_needed(files: Reader, cluster: Cluster, what: str) -> None:
    cluster.refusals[what] = denied(what)
    assert files.read("a/c") == CONTENT


def test_those_who_wait_for_one_start_share_its_failure(files: Reader, cluster: Cluster) -> None:
    cluster.becomes = waiting("ErrImageNeverPull")
    with ThreadPoolExecutor(8) as pool:
        failures = [future.exception() for future in [pool.submit(files.read, "a/c") for _ in range(8)]]
    assert {type(failure) for failure in failures} == {ClaimUnreadable}
    assert len(cluster.created) < 8
    cluster.becomes = lambda pod: {"phase": "Running"}
    assert files.read("a/c") == CONTENT, "and the next read tries again"


def test_an_entry_of_a_listing_is_as_the_server_tells_it(files: Reader) -> None:
    assert Entry("c", False, 2048, files.entry("a/c").modified) in files.entries("a")


# Downloads


@pytest.fixture
def job(root: Path) -> Any:
    """A job whose output, with its archive, is on the claim."""
    store = root / "out" / "a.zarr"
    (root / "out").unlink()
    group = zarr.open_group(store, mode="w")
    for name in ("b02", "b03"):
        group.create_array(name, data=np.random.default_rng(1).integers(0, 9, (64, 64)), chunks=(16, 16))
    with Path(f"{store}.tar.gz").open("wb") as file:
        sha256 = write_archive(store, file, lambda *_: None)
    Path(f"{store}.tar.gz.sha256").write_text(f"{sha256}  a.zarr.tar.gz\n")
    return SimpleNamespace(name="job", status="Succeeded", output=f"pvc://{CLAIM}/out/a.zarr", reason="")


def content(path: Path) -> dict[str, bytes]:
    return {str(one.relative_to(path)): one.read_bytes() for one in (path, *path.rglob("*")) if one.is_file()}


@pytest.mark.parametrize("name", ["got.zarr", "got.tar.gz"])
@pytest.mark.parametrize("how", ["mount", "reader", "a reader that ends", "a cluster that is silent for long"])
def test_an_output_is_fetched_however_its_claim_is_read(
    name: str, how: str, job: Any, root: Path, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "BLOCK", 1000)
    target = tmp_path / name
    read = fetching._read
    count = 0

    def disturbed(*arguments: Any) -> bytes:
        nonlocal count
        count += 1
        if count == 10 and how == "a reader that ends":
            [pod] = cluster.servers
            cluster.end(pod, {"phase": "Failed"})
        if count == 10 and how.startswith("a cluster"):
            cluster.refusals["get pods/proxy"] = unreachable
        return read(*arguments)

    monkeypatch.setattr(fetching, "_read", disturbed)
    if how == "mount":
        monkeypatch.setenv("GEOZARR_MOUNTS", f"{CLAIM}={root}")
    if how.startswith("a cluster"):
        monkeypatch.setattr(reader, "PATIENCE", 0.1)
        with pytest.raises(ClusterUnreachable, match="goes on from there"):
            download(job, target, progress=False)
        assert not target.exists()
        kept = sum(map(len, content(tmp_path / f".{name}.partial").values()))
        assert kept >= 5000 if name == "got.tar.gz" else kept > 0
        cluster.refusals.clear()
    assert download(job, target, progress=False) == target
    source = root / "out" / ("a.zarr" if name == "got.zarr" else "a.zarr.tar.gz")
    assert content(target) == content(source)
    assert bool(cluster.created) is (how != "mount")


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not become so"
        time.sleep(0.01)

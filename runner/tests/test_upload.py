"""Outputs in an object store: a real server on a socket, the real command, and readers that look all the time."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import pytest
import s3fs
import zarr

from geozarr_runner import publish, upload
from geozarr_runner.errors import InvalidRequest
from geozarr_runner.events import parse
from geozarr_runner.upload import RemoteOutput, output_place
from runner.tests.support import R10M, R60M, Run, contents, run
from tests.s3_server import s3_server


@dataclass(frozen=True)
class Bucket:
    """A bucket of a server, and how runs find it."""

    name: str
    options: dict[str, Any]
    scratch: Path

    @property
    def env(self) -> dict[str, str]:
        return {"FSSPEC_S3": json.dumps(self.options), "TMPDIR": str(self.scratch)}

    def address(self, key: str = "out/tile.zarr") -> str:
        return f"s3://{self.name}/{key}"

    def output(self, key: str = "out/tile.zarr") -> RemoteOutput:
        return RemoteOutput(self.address(key))

    @property
    def s3(self) -> Any:
        """A client that remembers nothing."""
        return s3fs.S3FileSystem(**self.options, use_listings_cache=False, skip_instance_cache=True)

    def keys(self) -> set[str]:
        """Every key of the bucket."""
        return {path.removeprefix(f"{self.name}/") for path in self.s3.find(self.name)}

    def read(self, key: str) -> bytes:
        return bytes(self.s3.cat_file(f"{self.name}/{key}"))

    def write(self, key: str, content: bytes) -> None:
        self.s3.pipe_file(f"{self.name}/{key}", content)

    def beside(self, key: str = "out/tile.zarr") -> set[str]:
        """What is there and no object of an output."""
        return {each for each in self.keys() if not each.startswith(f"{key}/")}

    def convert(self, product: object, *arguments: object, key: str = "out/tile.zarr", **env: str) -> Run:
        return run(product, self.address(key), "--groups", R60M, *arguments, env={**self.env, **env})


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, Any]]:
    with s3_server() as options:
        yield options


@pytest.fixture
def bucket(
    server: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Bucket:
    name = f"b{hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:20]}"
    (tmp_path / "scratch").mkdir()
    made = Bucket(name, server, tmp_path / "scratch")
    made.s3.mkdir(name)
    monkeypatch.setitem(fsspec.config.conf, "s3", server)
    monkeypatch.setenv("TMPDIR", str(made.scratch))
    return made


def left_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# Addresses


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("s3://bucket/out.zarr", "s3://bucket/out.zarr"),
        ("s3://bucket//a/./out.zarr/", "s3://bucket/a/out.zarr"),
        ("s3a://bucket/out.zarr", "s3://bucket/out.zarr"),
        ("gcs://bucket/out.zarr", "gs://bucket/out.zarr"),
        ("az://container/a b/out.zarr", "az://container/a b/out.zarr"),
    ],
)
def test_an_address_is_spelled_in_one_way(text: str, address: str) -> None:
    assert output_place(text) == RemoteOutput(address)


@pytest.mark.parametrize(
    "text",
    [
        "s3://",
        "s3://bucket",
        "s3://bucket/",
        "s3://bucket/../other.zarr",
        "s3://me:not-a-secret@bucket/a",
        "s3://b/a?v=1",
    ],
)
def test_what_is_no_address_of_an_output_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="address") as raised:
        output_place(text)
    assert "not-a-secret" not in str(raised.value)
    assert "s3://" in raised.value.remedy


@pytest.mark.parametrize(
    "text", ["https://host/a.zarr", "memory://a/b.zarr", "pvc://claim/b.zarr", "nothing://a/b", "a::s3://b/c"]
)
def test_what_is_no_object_store_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="object store"):
        output_place(text)


def test_all_else_is_a_path(tmp_path: Path) -> None:
    assert output_place(tmp_path / "a.zarr") == tmp_path / "a.zarr"
    assert output_place("s3/a.zarr") == Path.cwd() / "s3/a.zarr"


# A run


def test_a_run_leaves_what_a_run_into_a_folder_leaves(s2: Path, bucket: Bucket, tmp_path: Path) -> None:
    done = bucket.convert(s2, "--identity", "request-1")
    local = run(s2, tmp_path / "local.zarr", "--groups", R60M)
    assert local.code == 0
    assert done.result["path"] == bucket.address()
    bucket.s3.get(bucket.name + "/out/tile.zarr", str(tmp_path / "fetched.zarr"), recursive=True)
    assert contents(tmp_path / "fetched.zarr") == contents(tmp_path / "local.zarr")
    fetched = tmp_path / "fetched.zarr"
    assert done.result["bytes_written"] == sum(path.stat().st_size for path in fetched.rglob("*") if path.is_file())
    record = publish.provenance(fetched)
    assert record is not None
    assert record["request"] == "request-1"
    assert bucket.beside() == {"out/tile.zarr.manifest.json", "out/tile.zarr.log.jsonl"}
    assert left_in(bucket.scratch) == []

    manifest = json.loads(bucket.read("out/tile.zarr.manifest.json"))
    files = {path.relative_to(fetched).as_posix(): path.read_bytes() for path in fetched.rglob("*") if path.is_file()}
    assert manifest["objects"] == {
        key: [len(content), hashlib.md5(content).hexdigest()] for key, content in files.items()
    }
    progress = [event for event in done.of("progress") if event["stage"] == "publish"]
    assert {event["unit"] for event in progress} == {"bytes"}
    assert progress[-1]["done"] == progress[-1]["total"] == done.result["bytes_written"]

    log = [parse(line) for line in bucket.read("out/tile.zarr.log.jsonl").decode().splitlines()]
    assert [event.type for event in log if event is not None][-1] == "result"
    assert any(event is not None and event.type == "log" for event in log)


def test_a_reader_sees_no_root_before_all_is_there(s2: Path, bucket: Bucket) -> None:
    """Whenever a root can be read, every object of the manifest is there."""
    seen: list[bool] = []
    ended = threading.Event()

    def look() -> None:
        client = bucket.s3
        while not ended.is_set():
            before = client.exists(f"{bucket.name}/out/tile.zarr/zarr.json")
            there = {
                path.removeprefix(f"{bucket.name}/out/tile.zarr/")
                for path in client.find(f"{bucket.name}/out/tile.zarr")
            }
            if before:
                expected = json.loads(client.cat_file(f"{bucket.name}/out/tile.zarr.manifest.json"))["objects"]
                assert there == set(expected)
            seen.append(before or not there)

    reader = threading.Thread(target=look)
    reader.start()
    try:
        bucket.convert(s2).result  # noqa: B018  it fails where there is none
    finally:
        ended.set()
        reader.join()
    assert False in seen, "objects were seen without a root"
    assert seen[-1]


def test_what_is_there_is_in_the_way_kept_or_replaced(s2: Path, bucket: Bucket) -> None:
    first = bucket.convert(s2)
    root = bucket.read("out/tile.zarr/zarr.json")
    refused = bucket.convert(s2)
    assert (refused.code, refused.error["code"], refused.error["given"]) == (2, "output-exists", bucket.address())
    kept = bucket.convert(s2, "--if-exists", "skip")
    assert kept.result["skipped"] is True
    assert kept.result["bytes_written"] == first.result["bytes_written"]
    assert bucket.read("out/tile.zarr/zarr.json") == root
    other = run(s2, bucket.address(), "--groups", R10M, "--if-exists", "skip", env=bucket.env)
    assert (other.code, other.error["code"]) == (2, "output-exists")

    bucket.write("out/tile.zarr/of/the/old/one", b"old")
    replaced = run(s2, bucket.address(), "--groups", R10M, "--if-exists", "overwrite", env=bucket.env)
    assert replaced.result["groups"] == [R10M]
    manifest = json.loads(bucket.read("out/tile.zarr.manifest.json"))
    assert {f"out/tile.zarr/{key}" for key in manifest["objects"]} == bucket.keys() - bucket.beside()
    assert manifest["replaces"] == []
    assert R60M[1:] not in zarr.open_group(upload.open_store(bucket.address()).for_zarr(), mode="r")
    assert bucket.beside() == {"out/tile.zarr.manifest.json", "out/tile.zarr.log.jsonl"}


@pytest.mark.parametrize("if_exists", ["error", "skip", "overwrite"])
def test_what_no_run_has_written_is_not_touched(s2: Path, bucket: Bucket, if_exists: str) -> None:
    bucket.write("out/tile.zarr/mine.txt", b"mine")
    refused = bucket.convert(s2, "--if-exists", if_exists)
    assert (refused.code, refused.error["code"]) == (2, "output-exists")
    assert bucket.keys() == {"out/tile.zarr/mine.txt"}

"""Outputs in an object store: a real server on a socket, the real command, and readers that look all the time."""

from __future__ import annotations

import hashlib
import json
import math
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import boto3
import fsspec
import pytest
import s3fs
import zarr

from geozarr_runner.errors import InvalidRequest, OutputBusy, OutputExists, StorageFailed
from geozarr_runner.events import parse
from geozarr_runner.publishing import lock as lock_module
from geozarr_runner.publishing import object_store, root_document
from geozarr_runner.publishing.bucket import open_store
from geozarr_runner.publishing.lock import Lock
from geozarr_runner.publishing.remote_output import RemoteOutput, output_place
from runner.tests.support import PATIENCE, R10M, R60M, Run, contents, finish, run, start, until, write_store
from tests.s3_proxy import Proxy, s3_proxy
from tests.s3_server import s3_server

ITEM = "out/tile.zarr.stac.json"
BESIDE = {"out/tile.zarr.manifest.json", "out/tile.zarr.log.jsonl", ITEM}


@dataclass(frozen=True)
class Bucket:
    """A bucket of a server, how runs find it, and how a test does."""

    name: str
    options: dict[str, Any]
    direct: dict[str, Any]
    scratch: Path
    converter: dict[str, str]

    @property
    def env(self) -> dict[str, str]:
        return {"FSSPEC_S3": json.dumps(self.options), "TMPDIR": str(self.scratch), **self.converter}

    def address(self, key: str = "out/tile.zarr") -> str:
        return f"s3://{self.name}/{key}"

    def output(self, key: str = "out/tile.zarr") -> RemoteOutput:
        return RemoteOutput(self.address(key))

    @property
    def s3(self) -> Any:
        """A client that remembers nothing."""
        return s3fs.S3FileSystem(**self.direct, use_listings_cache=False)

    @property
    def keys(self) -> set[str]:
        """Every key of the bucket."""
        return {path.removeprefix(f"{self.name}/") for path in self.s3.find(self.name)}

    def read(self, key: str) -> bytes:
        return bytes(self.s3.cat_file(f"{self.name}/{key}"))

    def write(self, key: str, content: bytes) -> None:
        self.s3.pipe_file(f"{self.name}/{key}", content)

    def there(self) -> dict[str, list[object]]:
        """Size and MD5 of each object of the output."""
        found = self.s3.find(self.name + "/out/tile.zarr", detail=True)
        return {
            key.removeprefix(f"{self.name}/out/tile.zarr/"): [entry["size"], entry["ETag"].strip('"')]
            for key, entry in found.items()
        }

    def manifest(self) -> dict[str, list[object]]:
        """The same, as the output's manifest has it."""
        return dict(json.loads(self.read("out/tile.zarr.manifest.json"))["objects"])

    def beside(self, key: str = "out/tile.zarr") -> set[str]:
        """What is there and no object of an output."""
        return {each for each in self.keys if not each.startswith(f"{key}/")}

    def convert(self, product: object, *arguments: object, key: str = "out/tile.zarr", **env: str) -> Run:
        return run(product, self.address(key), "--groups", R60M, *arguments, env={**self.env, **env})


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, Any]]:
    with s3_server() as options:
        yield options


@pytest.fixture
def bucket(
    server: dict[str, Any],
    replaying: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Bucket:
    name = f"b{hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:20]}"
    (tmp_path / "scratch").mkdir()
    made = Bucket(name, server, server, tmp_path / "scratch", replaying)
    made.s3.mkdir(name)
    monkeypatch.setitem(fsspec.config.conf, "s3", server)
    monkeypatch.setenv("TMPDIR", str(made.scratch))
    return made


@pytest.fixture
def way(bucket: Bucket) -> Iterator[tuple[Bucket, Proxy]]:
    """The bucket behind a way on which things happen."""
    with s3_proxy(bucket.options) as (options, proxy):
        yield replace(bucket, options=options), proxy


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
    record = root_document.provenance(fetched)
    assert record is not None
    assert record["request"] == "request-1"
    assert bucket.beside() == BESIDE
    assert left_in(bucket.scratch) == []
    item = json.loads(bucket.read(ITEM))
    assert item["assets"]["product"]["href"] == "./tile.zarr"
    assert item["properties"]["geozarr:request"] == "request-1"

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
    assert {f"out/tile.zarr/{key}" for key in manifest["objects"]} == bucket.keys - bucket.beside()
    assert manifest["replaces"] == []
    assert R60M[1:] not in zarr.open_group(open_store(bucket.address()).for_zarr(), mode="r")
    assert bucket.beside() == BESIDE


@pytest.mark.parametrize("if_exists", ["error", "skip", "overwrite"])
def test_what_no_run_has_written_is_not_touched(s2: Path, bucket: Bucket, if_exists: str) -> None:
    bucket.write("out/tile.zarr/mine.txt", b"mine")
    refused = bucket.convert(s2, "--if-exists", if_exists)
    assert (refused.code, refused.error["code"]) == (2, "output-exists")
    assert bucket.keys == {"out/tile.zarr/mine.txt"}


# Ended in the middle


def is_data(method: str, path: str) -> bool:
    return method == "PUT" and path.endswith("/c/0/0")


def uploads(proxy: Proxy, bucket: Bucket) -> list[str]:
    """The objects of the output that were sent, in their order."""
    prefix = f"/{bucket.name}/out/tile.zarr/"
    return [path.removeprefix(prefix) for method, path in proxy.arrived if method == "PUT" and path.startswith(prefix)]


def test_killed_while_it_uploads_the_next_run_uses_what_is_there(s2: Path, way: tuple[Bucket, Proxy]) -> None:
    bucket, proxy = way
    proxy.holds = is_data
    process = start(s2, bucket.address(), "--groups", R60M, env=bucket.env)
    assert proxy.held.acquire(timeout=PATIENCE)
    until(lambda: len(uploads(proxy, bucket)) > 5)
    process.kill()
    finish(process, Path())
    there = {key.removeprefix("out/tile.zarr/") for key in bucket.keys if key.startswith("out/tile.zarr/")}
    assert there
    assert "zarr.json" not in there
    assert "out/.tile.zarr.lock" in bucket.keys
    assert left_in(bucket.scratch)

    proxy.holds = lambda method, path: False
    proxy.go_on.set()
    proxy.arrived.clear()
    done = bucket.convert(s2)
    assert done.result["skipped"] is False
    again = set(uploads(proxy, bucket))
    assert again & {key for key in there if "/c/" in key} == set(), "data that is there is not sent again"
    assert bucket.beside() == BESIDE
    assert left_in(bucket.scratch) == []
    assert uploads(proxy, bucket)[-1] == "zarr.json"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_while_it_uploads_it_leaves_nothing(
    s2: Path, way: tuple[Bucket, Proxy], number: signal.Signals
) -> None:
    bucket, proxy = way
    proxy.holds = is_data
    process = start(s2, bucket.address(), "--groups", R60M, env=bucket.env)
    assert proxy.held.acquire(timeout=PATIENCE)
    process.send_signal(number)
    done = finish(process, Path())
    assert (done.code, done.error["code"]) == (7, "interrupted")
    # The manifest stays, since what was on its way may still arrive.
    assert bucket.keys == {"out/tile.zarr.log.jsonl", "out/tile.zarr.manifest.json"}
    assert left_in(bucket.scratch) == []
    assert b'"interrupted"' in bucket.read("out/tile.zarr.log.jsonl")
    proxy.holds = lambda method, path: False
    proxy.go_on.set()
    until(lambda: bucket.keys - bucket.beside())
    done = run(s2, bucket.address(), "--groups", R10M, env=bucket.env)
    assert done.result["groups"] == [R10M]
    manifest = json.loads(bucket.read("out/tile.zarr.manifest.json"))
    assert {f"out/tile.zarr/{key}" for key in manifest["objects"]} == bucket.keys - bucket.beside()


def test_a_root_that_arrives_after_the_end_stands_over_all_that_it_names(s2: Path, way: tuple[Bucket, Proxy]) -> None:
    bucket, proxy = way
    proxy.holds = lambda method, path: method == "PUT" and path.endswith("/out/tile.zarr/zarr.json")
    process = start(s2, bucket.address(), "--groups", R60M, env=bucket.env)
    assert proxy.held.acquire(timeout=PATIENCE)
    process.send_signal(signal.SIGTERM)
    done = finish(process, Path())
    assert (done.code, done.error["code"]) == (7, "interrupted")
    assert "zarr.json" not in bucket.there()
    proxy.go_on.set()
    until(lambda: "zarr.json" in bucket.there())
    assert bucket.there() == bucket.manifest()
    assert ITEM in bucket.keys
    assert bucket.convert(s2, "--if-exists", "skip").result["skipped"] is True


def test_killed_while_it_replaces_nothing_is_mixed(s2: Path, way: tuple[Bucket, Proxy]) -> None:
    bucket, proxy = way
    bucket.convert(s2)
    proxy.holds = is_data
    process = start(s2, bucket.address(), "--groups", R10M, "--if-exists", "overwrite", env=bucket.env)
    assert proxy.held.acquire(timeout=PATIENCE)
    assert "out/tile.zarr/zarr.json" not in bucket.keys
    process.kill()
    finish(process, Path())
    proxy.holds = lambda method, path: False
    proxy.go_on.set()
    done = bucket.convert(s2)
    assert done.result["groups"] == [R60M]
    manifest = json.loads(bucket.read("out/tile.zarr.manifest.json"))
    assert {f"out/tile.zarr/{key}" for key in manifest["objects"]} == bucket.keys - bucket.beside()


def test_killed_at_random_requests_what_has_a_root_is_whole(s2: Path, way: tuple[Bucket, Proxy]) -> None:
    """Two requests in turn replace each other's output."""
    bucket, proxy = way
    moments = random.Random(2026)
    for group in (R60M, R10M, R60M, R10M):
        last = moments.randrange(4, 70)
        proxy.arrived.clear()
        proxy.held = threading.Semaphore(0)
        proxy.holds = lambda method, path, last=last: len([each for each, _ in proxy.arrived if each != "GET"]) >= last
        process = start(s2, bucket.address(), "--groups", group, "--if-exists", "overwrite", env=bucket.env)
        held = until(lambda process=process: proxy.held.acquire(blocking=False) or process.poll() is not None)
        process.kill()
        finish(process, Path())
        assert held
        there = bucket.there()
        assert "zarr.json" not in there or there == bucket.manifest()
        proxy.holds = lambda method, path: False
        proxy.go_on.set()  # what was on its way arrives late
        until(lambda: not proxy.under_way)
        proxy.go_on.clear()
        there = bucket.there()
        assert "zarr.json" not in there or there == bucket.manifest()
    assert bucket.convert(s2, "--if-exists", "overwrite").result["groups"] == [R60M]
    assert bucket.there() == bucket.manifest()
    assert bucket.beside() == BESIDE


# Two at once


def test_two_runs_on_one_machine(s2: Path, way: tuple[Bucket, Proxy]) -> None:
    bucket, proxy = way
    proxy.holds = is_data
    first = start(s2, bucket.address(), "--groups", R60M, env=bucket.env)
    assert proxy.held.acquire(timeout=PATIENCE)
    second = bucket.convert(s2)
    assert (second.code, second.error["code"], second.error["given"]) == (2, "output-busy", bucket.address())
    proxy.go_on.set()
    assert finish(first, Path()).result["groups"] == [R60M]


def test_two_runs_on_two_machines(s2: Path, way: tuple[Bucket, Proxy], tmp_path: Path) -> None:
    """Each has scratch space that the other does not see."""
    bucket, proxy = way
    proxy.holds = is_data
    first = start(s2, bucket.address(), "--groups", R60M, env=bucket.env)
    assert proxy.held.acquire(timeout=PATIENCE)
    (tmp_path / "elsewhere").mkdir()
    second = bucket.convert(s2, TMPDIR=str(tmp_path / "elsewhere"))
    assert (second.code, second.error["code"], second.error["given"]) == (2, "output-busy", bucket.address())
    assert left_in(tmp_path / "elsewhere") == []
    proxy.go_on.set()
    assert finish(first, Path()).result["groups"] == [R60M]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs show often that they live; nobody is taken for dead, however slow the store is."""
    for name, seconds in {"BETWEEN_SIGNS": 0.1, "WITHOUT_A_SIGN": math.inf, "BETWEEN_LOOKS": 0.05}.items():
        monkeypatch.setattr(lock_module, f"SECONDS_{name}", seconds)


def folder(path: Path) -> Path:
    path.mkdir(exist_ok=True)
    return path


@pytest.mark.usefixtures("quick")
def test_a_lock_without_signs_of_life_is_taken_over(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.write("out/.tile.zarr.lock", b'{"run": "dead", "place": "elsewhere"}')
    monkeypatch.setattr(lock_module, "SECONDS_WITHOUT_A_SIGN", 0.6)
    since = time.monotonic()
    with Lock(bucket.output(), folder(tmp_path / "a")).held() as lock:
        assert time.monotonic() - since > 0.6
        monkeypatch.setattr(lock_module, "SECONDS_WITHOUT_A_SIGN", math.inf)
        lock.confirm()
        with pytest.raises(OutputBusy), Lock(bucket.output(), folder(tmp_path / "b")).held():
            pass
        lock.confirm()
    assert bucket.keys == set()


@pytest.mark.usefixtures("quick")
def test_who_has_the_scratch_space_needs_not_wait(bucket: Bucket, tmp_path: Path) -> None:
    left = Lock(bucket.output(), folder(tmp_path / "a"))
    left._take()
    with (
        Lock(bucket.output(), tmp_path / "a").held(),
        pytest.raises(OutputBusy, match="taken this output over"),
    ):
        left.confirm()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("refuses", [True, False])
def test_where_a_store_knows_no_conditions_the_first_gives_up(
    way: tuple[Bucket, Proxy], tmp_path: Path, refuses: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says so, or does as if there were none: then two that begin at once both write."""
    bucket, proxy = way
    monkeypatch.setitem(fsspec.config.conf, "s3", bucket.options)
    proxy.without_conditions = not refuses
    conditional = iter(range(3 if refuses else 0))
    proxy.refuse = lambda method, path: (
        (501, "NotImplemented") if method == "PUT" and next(conditional, None) is not None else None
    )
    first, second = (Lock(bucket.output(), folder(tmp_path / name)) for name in ("a", "b"))
    with first.held():
        first.confirm()
        with pytest.raises(OutputBusy), Lock(bucket.output(), folder(tmp_path / "c")).held():
            pass
        # In the middle of a sign of life it would take the lock back, which such a store cannot refuse.
        first._ended.set()
        for thread in [each for each in threading.enumerate() if each.name == "output-lock"]:
            thread.join()
        second._write()
        second.confirm()
        with pytest.raises(OutputBusy):
            first.confirm()
    second.confirm()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("conditions", [True, False])
def test_who_was_suspended_does_not_take_the_lock_back(
    way: tuple[Bucket, Proxy], tmp_path: Path, conditions: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where it had looked whose the lock is, and was suspended then."""
    bucket, proxy = way
    monkeypatch.setitem(fsspec.config.conf, "s3", bucket.options)
    proxy.without_conditions = not conditions
    suspended, other = (Lock(bucket.output(), folder(tmp_path / "a")) for _ in "ab")
    suspended._take()
    confirm = suspended.confirm

    def look_and_sleep() -> None:
        confirm()
        other._take()

    if conditions:
        with monkeypatch.context() as patch:
            patch.setattr(suspended, "confirm", look_and_sleep)
            suspended._give_sign()
    else:
        other._take()
    other.confirm()
    for call in (suspended._give_sign, suspended.check, suspended.confirm):
        with pytest.raises(OutputBusy, match="taken this output over"):
            call()
    other.confirm()
    other._give_sign()


@pytest.mark.usefixtures("quick")
def test_a_sign_whose_answer_did_not_come_is_no_other_run(bucket: Bucket, tmp_path: Path) -> None:
    lock = Lock(bucket.output(), folder(tmp_path / "a"))
    lock._take()
    version = lock._version
    lock._give_sign()
    assert version
    assert version != lock._version
    lock._version = version
    lock._give_sign()
    lock._give_sign()
    lock.confirm()
    assert lock._version not in (None, version)


@pytest.mark.usefixtures("quick")
def test_of_two_that_find_a_lock_dead_one_has_it(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock_module, "SECONDS_WITHOUT_A_SIGN", 0.6)
    bucket.write("out/.tile.zarr.lock", b'{"run": "dead", "place": "elsewhere"}')
    slow, quick = (Lock(bucket.output(), folder(tmp_path / name)) for name in ("a", "b"))
    write = slow._write

    def taken_meanwhile(**condition: Any) -> bool:
        monkeypatch.setattr(slow, "_write", write)
        quick._take()
        monkeypatch.setattr(lock_module, "SECONDS_WITHOUT_A_SIGN", math.inf)
        return write(**condition)

    monkeypatch.setattr(slow, "_write", taken_meanwhile)
    with pytest.raises(OutputBusy, match="is writing"):
        slow._take()
    quick.confirm()


def test_a_lock_is_looked_at_again_by_who_may_have_been_asleep(bucket: Bucket, tmp_path: Path) -> None:
    """A machine that sleeps stops most clocks; each object asks this one before it goes."""
    lock, other = (Lock(bucket.output(), folder(tmp_path / "a")) for _ in "ab")
    lock._take()
    other._take()
    lock.check()  # it gave a sign a moment ago
    lock._signed -= lock_module.SECONDS_WITHOUT_A_SIGN + 1
    (tmp_path / "0").write_bytes(b"0")
    with pytest.raises(OutputBusy):
        open_store(bucket.address()).put({"c/0": tmp_path / "0"}, lambda count: None, lock.check)
    assert bucket.keys == {"out/.tile.zarr.lock"}


def uploading(bucket: Bucket) -> Any:
    """Give a workspace with an output that is ready to be published."""
    stack = ExitStack()
    space = stack.enter_context(object_store.workspace(bucket.output()))
    write_store(space.writing, {"zarr.json": {"zarr_format": 3, "node_type": "group"}, "b02/c/0": b"chunk"})
    return stack, space


def test_a_root_that_another_run_wrote_in_the_last_moment_stays(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack, space = uploading(bucket)
    confirm = space.lock.confirm

    def suspended() -> None:
        confirm()
        if "out/tile.zarr/b02/c/0" in bucket.keys:
            bucket.write("out/tile.zarr/zarr.json", b"another's")

    monkeypatch.setattr(space.lock, "confirm", suspended)
    with stack, pytest.raises(OutputBusy, match="taken this output over"):
        object_store.publish(space, overwrite=False, progress=lambda *_: None)
    assert bucket.read("out/tile.zarr/zarr.json") == b"another's"
    assert bucket.read("out/tile.zarr/b02/c/0") == b"chunk"


@pytest.mark.parametrize("key", ["../mine.txt", "b02/../../mine.txt", "b02//c", "b02/./c", "/mine.txt"])
def test_what_has_a_strange_key_is_never_removed(bucket: Bucket, key: str) -> None:
    """Whoever wrote it has written a manifest too, which says that it is an output's."""
    s3 = boto3.client(
        "s3",
        endpoint_url=bucket.direct["client_kwargs"]["endpoint_url"],
        aws_access_key_id="test",
        aws_secret_access_key="not-a-secret",
        region_name="us-east-1",
    )
    bucket.write("out/mine.txt", b"mine")
    bucket.write("out/tile.zarr/zarr.json", b'{"zarr_format": 3, "node_type": "group"}')
    s3.put_object(Bucket=bucket.name, Key=f"out/tile.zarr/{key}", Body=b"strange")
    bucket.write("out/tile.zarr.manifest.json", json.dumps({"v": 1, "objects": {key: [7, ""]}}).encode())
    stack, space = uploading(bucket)
    with stack, pytest.raises(OutputExists, match="not be touched"):
        object_store.publish(space, overwrite=True, progress=lambda *_: None)
    listed = s3.list_objects_v2(Bucket=bucket.name)["Contents"]
    assert {f"out/tile.zarr/{key}", "out/mine.txt"} <= {entry["Key"] for entry in listed}


@pytest.mark.parametrize(
    "manifest", [b"[]", b'{"objects": 7}', b'{"objects": [["a"]], "replaces": {"b02/c/0": []}}', b"\xff"]
)
def test_a_manifest_that_is_none(bucket: Bucket, manifest: bytes) -> None:
    bucket.write("out/tile.zarr/mine.txt", b"mine")
    bucket.write("out/tile.zarr.manifest.json", manifest)
    stack, space = uploading(bucket)
    with stack, pytest.raises(OutputExists, match="not be touched"):
        object_store.publish(space, overwrite=True, progress=lambda *_: None)
    assert bucket.read("out/tile.zarr/mine.txt") == b"mine"


# Refused


def test_a_bucket_that_is_not_there(s2: Path, bucket: Bucket) -> None:
    done = run(s2, "s3://no-such-bucket-here/out.zarr", "--groups", R60M, env=bucket.env)
    assert (done.code, done.error["code"]) == (6, "storage-failed")
    assert "no such bucket" in done.error["message"]
    assert "convert" not in [event["stage"] for event in done.of("stage")]


def refusing(code: str, status: int, *, only: str = "") -> Any:
    return lambda method, path: (status, code) if method == "PUT" and only in path else None


@pytest.mark.parametrize(
    ("code", "status", "wanted", "only"),
    [
        ("AccessDenied", 403, "storage-denied", ".lock"),
        ("AccessDenied", 403, "storage-denied", "/c/0/0"),
        ("InvalidAccessKeyId", 403, "storage-denied", ".lock"),
        ("QuotaExceeded", 403, "storage-full", "/c/0/0"),
        ("XMinioAdminBucketQuotaExceeded", 400, "storage-full", ".lock"),
        ("XMinioStorageFull", 507, "storage-full", "zarr.json"),
    ],
)
def test_what_the_store_refuses_has_a_code_and_a_remedy(
    s2: Path, way: tuple[Bucket, Proxy], code: str, status: int, wanted: str, only: str
) -> None:
    bucket, proxy = way
    proxy.refuse = refusing(code, status, only=only)
    done = bucket.convert(s2)
    assert (done.code, done.error["code"]) == (6, wanted)
    assert done.error["remedy"]
    assert ("convert" in [event["stage"] for event in done.of("stage")]) == (only != ".lock"), "it is found out early"
    assert bucket.keys - bucket.beside() == set()
    assert ITEM not in bucket.keys
    assert "out/.tile.zarr.lock" not in bucket.keys
    assert left_in(bucket.scratch) == []
    assert "not-a-secret" not in done.stdout


@pytest.mark.parametrize(("method", "ending"), [("PUT", ".manifest.json"), ("DELETE", "zarr.json")])
def test_what_cannot_be_replaced_stays_as_it_is(s2: Path, way: tuple[Bucket, Proxy], method: str, ending: str) -> None:
    bucket, proxy = way
    bucket.convert(s2)
    there = bucket.keys
    proxy.refuse = lambda did, path: (403, "AccessDenied") if did == method and path.endswith(ending) else None
    done = run(s2, bucket.address(), "--groups", R10M, "--if-exists", "overwrite", env=bucket.env)
    assert (done.code, done.error["code"]) == (6, "storage-denied")
    assert bucket.keys == there
    assert bucket.convert(s2, "--if-exists", "skip").result["skipped"] is True


def test_scratch_space_that_is_someone_elses(
    s2: Path, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "theirs").mkdir()
    object_store.scratch_folder(None).symlink_to(tmp_path / "theirs")
    done = bucket.convert(s2)
    assert (done.code, done.error["code"]) == (6, "storage-denied")
    assert list((tmp_path / "theirs").iterdir()) == []


def test_a_store_that_is_busy_for_a_while(s2: Path, way: tuple[Bucket, Proxy]) -> None:
    bucket, proxy = way
    busy = iter(range(20))
    proxy.refuse = lambda method, path: (
        (503, "SlowDown") if is_data(method, path) and next(busy, None) is not None else None
    )
    assert bucket.convert(s2).result["skipped"] is False


def test_nobody_answers(s2: Path, bucket: Bucket, unused_url: str) -> None:
    options = {**bucket.options, "client_kwargs": {"endpoint_url": unused_url}}
    done = run(s2, bucket.address(), "--groups", R60M, env={**bucket.env, "FSSPEC_S3": json.dumps(options)})
    assert (done.code, done.error["code"]) == (6, "storage-failed")
    assert "AWS_ENDPOINT_URL" in done.error["remedy"]


def test_what_arrived_is_compared_with_what_was_sent(s2: Path, bucket: Bucket, tmp_path: Path) -> None:
    store = open_store(bucket.address())
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(name.encode())
    files = {name: tmp_path / name for name in ("a", "b")}
    sent = store.run(object_store._described(files))
    store.put(files, lambda count: None)
    object_store._compare(bucket.output(), store.listing(), sent)
    store.write("b", b"c")
    with pytest.raises(StorageFailed, match="other bytes of b"):
        object_store._compare(bucket.output(), store.listing(), sent)
    store.write("b", b"longer")
    with pytest.raises(StorageFailed, match="has b with 6 bytes"):
        object_store._compare(bucket.output(), store.listing(), sent)
    store.write("b", b"b")
    store.write("more", b"")
    with pytest.raises(StorageFailed, match="has more"):
        object_store._compare(bucket.output(), store.listing(), sent)
    store.remove(["more", "a", "a"])
    with pytest.raises(StorageFailed, match="lacks a"):
        object_store._compare(bucket.output(), store.listing(), sent)


def test_something_that_appears_meanwhile_is_not_replaced(s2: Path, way: tuple[Bucket, Proxy]) -> None:
    bucket, proxy = way
    proxy.holds = lambda method, path: method == "PUT" and path.endswith(".lock")
    process = start(s2, bucket.address(), "--groups", R60M, env=bucket.env)
    assert proxy.held.acquire(timeout=PATIENCE)
    bucket.write("out/tile.zarr/zarr.json", b"{}")
    proxy.go_on.set()
    done = finish(process, Path())
    assert (done.code, done.error["code"]) == (2, "output-exists")
    assert bucket.read("out/tile.zarr/zarr.json") == b"{}"


def test_the_log_of_several_runs(s2: Path, bucket: Bucket) -> None:
    bucket.convert(s2, "--run-id", "one")
    bucket.convert(s2, "--run-id", "two")
    log = [parse(line) for line in bucket.read("out/tile.zarr.log.jsonl").decode().splitlines()]
    assert [event["id"] for event in log if event is not None and event.type == "run"] == ["one", "two"]
    assert [event.type for event in log if event is not None and event.type in ("result", "error")] == [
        "result",
        "error",
    ]


def test_as_the_template_runs_it(s2: Path, bucket: Bucket, tmp_path: Path) -> None:
    """An output has to lie on the claim, or where the credentials reach; its log tells of refused runs too."""
    scratch = tmp_path / "emptydir"
    scratch.mkdir()
    given = ("--within", tmp_path / "claim", "--scratch", scratch, "--with-log", "--outcome", scratch / "outcome.json")
    told = ("--termination-log", tmp_path / "termination-log")
    done = bucket.convert(s2, *given, *told, "--run-id", "one", TMPDIR=str(scratch))
    assert json.loads((scratch / "outcome.json").read_text())["path"] == done.result["path"] == bucket.address()
    assert left_in(scratch) == ["outcome.json"]
    refused = bucket.convert(s2, *given, *told, "--run-id", "two", TMPDIR=str(scratch))
    assert refused.code == 2
    assert (tmp_path / "termination-log").read_text().startswith("[output-exists] ")
    log = [parse(line) for line in bucket.read("out/tile.zarr.log.jsonl").decode().splitlines()]
    ends = [event.type for event in log if event is not None and event.type in ("run", "result", "error")]
    assert ends == ["run", "result", "run", "error"]
    assert left_in(scratch) == ["outcome.json"]


def test_a_log_of_ones_own_stays_on_this_machine(s2: Path, bucket: Bucket, tmp_path: Path) -> None:
    bucket.convert(s2, "--log", tmp_path / "log.jsonl")
    assert bucket.beside() == BESIDE - {"out/tile.zarr.log.jsonl"}
    assert (tmp_path / "log.jsonl").stat().st_size


def test_scratch_space_that_is_named(s2: Path, bucket: Bucket, tmp_path: Path) -> None:
    done = bucket.convert(s2, "--scratch", tmp_path / "named", TMPDIR="/nowhere")
    assert done.result["skipped"] is False
    assert left_in(tmp_path / "named") == []


def test_a_product_may_not_be_its_own_output(s2: Path, bucket: Bucket) -> None:
    bucket.s3.put(str(s2), f"{bucket.name}/in/tile.zarr", recursive=True)
    done = run(bucket.address("in/tile.zarr"), bucket.address("in/tile.zarr/out"), "--groups", R60M, env=bucket.env)
    assert (done.code, done.error["code"]) == (2, "invalid-request")
    also = bucket.address("in/tile.zarr").replace("s3:", "s3a:")
    done = run(also, f"{also}/out", "--groups", R60M, env=bucket.env | {"FSSPEC_S3A": json.dumps(bucket.options)})
    assert (done.code, done.error["code"]) == (2, "invalid-request")
    made = run(bucket.address("in/tile.zarr"), bucket.address("out.zarr"), "--groups", R60M, env=bucket.env)
    assert made.result["bytes_read"] > 0

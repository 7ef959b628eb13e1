"""Jobs on the cluster whose output lies in an object store, with credentials that only a Secret has."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import s3fs

import geozarr_nb as gz
from geozarr_nb.errors import OutputBusy, OutputExists
from tests.cluster.support import ClusterPlace, node_address
from tests.contract.support import GROUP, until
from tests.s3_proxy import Proxy, s3_proxy
from tests.s3_server import s3_gateway, s3_server

pytestmark = pytest.mark.cluster
CREDENTIALS = "s3-credentials"
BUCKET = "outputs"
MASK = "/quality/mask/r60m"


@pytest.fixture(params=[pytest.param("moto", marks=pytest.mark.nightly), "versitygw"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Two servers: one that knows conditional writes, and one that knows who may do what."""
    if request.param == "moto":
        with s3_server(node_address()) as options:
            yield options
    elif shutil.which("versitygw") is None:
        pytest.skip("no versitygw on PATH")
    else:
        (tmp_path / "buckets").mkdir()
        with s3_gateway(tmp_path / "buckets", node_address()) as options:
            yield options


@pytest.fixture
def way(
    server: dict[str, Any], place: ClusterPlace, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[dict[str, Any], Proxy]]:
    """A bucket that pods and this machine reach on a way where things happen."""
    with s3_proxy(server, node_address()) as (options, proxy):
        s3fs.S3FileSystem(**options).mkdir(BUCKET)
        monkeypatch.setitem(fsspec.config.conf, "s3", options)
        give(place, options["secret"], options)
        monkeypatch.setenv("GEOZARR_CREDENTIALS", CREDENTIALS)
        yield options, proxy
        place.namespace.kubectl("delete", "secret", CREDENTIALS)


def give(place: ClusterPlace, secret: str, options: dict[str, Any]) -> None:
    variables = {
        "AWS_ACCESS_KEY_ID": options["key"],
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_ENDPOINT_URL": options["client_kwargs"]["endpoint_url"],
    }
    place.namespace.apply(
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": CREDENTIALS}, "stringData": variables}
    )


def address(place: ClusterPlace, name: str = "a") -> str:
    return f"s3://{BUCKET}/{place.folder}/{name}.zarr"


def keys(options: dict[str, Any]) -> set[str]:
    s3 = s3fs.S3FileSystem(**options)
    s3.invalidate_cache()
    return {key.partition("/")[2] for key in s3.find(BUCKET)}


def test_a_job_writes_to_a_bucket(place: ClusterPlace, way: tuple[dict[str, Any], Proxy]) -> None:
    options, _ = way
    job = gz.submit(place.sample, address(place), groups=[GROUP]).wait(timeout=90).raise_for_status()
    assert job.result is not None
    assert job.result["path"] == job.output == address(place)
    with job.open() as tree:
        assert float(tree[f"{GROUP}/b02"].mean()) > 0
    assert gz.preview(job).size
    assert place.files() == []
    assert job.state.log == f"{address(place)}.log.jsonl"
    events = s3fs.S3FileSystem(**options).cat(job.state.log.removeprefix("s3://")).decode().splitlines()
    assert [json.loads(events[0])["type"], json.loads(events[-1])["type"]] == ["run", "result"]
    beside = {key for key in keys(options) if ".zarr/" not in key}
    assert beside == {f"{place.folder}/a.zarr.{name}" for name in ("manifest.json", "log.jsonl", "stac.json")}
    assert job.item().assets["product"].href == address(place)
    # What a pod has said is read there once the pod is gone.
    assert job.logs()
    assert place.traces(options["secret"]) == []

    with pytest.raises(OutputExists):
        gz.submit(place.sample, address(place), groups=[GROUP])
    assert gz.submit(place.sample, address(place), groups=[GROUP], if_exists="skip").name == job.name
    again = gz.submit(place.sample, address(place), groups=[MASK], if_exists="overwrite")
    again.wait(timeout=90).raise_for_status()
    with again.open() as tree:
        assert GROUP not in tree.groups


def test_a_run_that_was_killed_while_it_uploads(place: ClusterPlace, way: tuple[dict[str, Any], Proxy]) -> None:
    """Nobody took it for an output, and the next one waits until the dead one's lock has expired."""
    options, proxy = way
    proxy.holds = lambda method, path: method == "PUT" and path.endswith("/c/0/0")
    job = gz.submit(place.sample, address(place), groups=[GROUP])
    assert proxy.held.acquire(timeout=90)
    assert job.stage == "publish"
    with pytest.raises(OutputBusy):
        gz.submit(place.sample, address(place), groups=[MASK])
    place.kill("a")
    until(lambda: job.state.is_finished, seconds=60)
    assert job.status == "Error" or job.state.failure is not None
    assert f"{place.folder}/a.zarr/zarr.json" not in keys(options)
    proxy.holds = lambda method, path: False
    proxy.go_on.set()
    job.retry().wait(timeout=180).raise_for_status()
    with job.open() as tree:
        assert GROUP in tree.groups
    assert f"{place.folder}/.a.zarr.lock" not in keys(options)


def test_what_the_store_refuses_is_said(
    place: ClusterPlace, way: tuple[dict[str, Any], Proxy], request: pytest.FixtureRequest
) -> None:
    options, proxy = way
    if "versitygw" in request.node.name:
        give(place, "an-0ther-secret", options)
    else:
        proxy.refuse = lambda method, path: (403, "AccessDenied") if method == "PUT" else None
    job = gz.submit(place.sample, address(place), groups=[GROUP]).wait(timeout=90)
    failure = job.state.failure
    assert failure is not None
    assert (failure.code, failure.exit_code) == ("storage-denied", 6)
    assert "Secret" in failure.remedy
    assert place.traces("an-0ther-secret") == []

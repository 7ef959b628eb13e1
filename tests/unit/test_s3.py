"""Products in an S3-compatible store, served on a socket."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
import s3fs

import geozarr_nb as gz
from geozarr_nb.samples.products import sample_product
from geozarr_runner.errors import ProductDenied, ProductNotFound
from geozarr_runner.stores.store import Store
from tests.s3_proxy import s3_proxy
from tests.s3_server import s3_server

R60M = "/measurements/reflectance/r60m"


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """What tells fsspec where the server is; the server sees requests of this module only."""
    with s3_server() as options:
        yield {"FSSPEC_S3": json.dumps(options)}


@pytest.fixture(scope="module")
def bucket(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """A sample product in a bucket."""
    sample = sample_product(tmp_path_factory.mktemp("s3") / "tile.zarr", size=240)
    s3 = fsspec.filesystem("s3", **json.loads(environment["FSSPEC_S3"]))
    s3.mkdir("products")
    s3.put(str(sample), "products/tile.zarr", recursive=True)
    return "s3://products/tile.zarr"


@pytest.fixture
def configured(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fsspec.config.conf, "s3", json.loads(environment["FSSPEC_S3"]))


@pytest.mark.usefixtures("configured")
def test_a_product_in_a_bucket_is_inspected_and_estimated(bucket: str) -> None:
    product = gz.inspect(bucket)
    estimate = gz.estimate(product, [R60M])
    assert product.kind == "Sentinel-2 L2A"
    assert estimate.exact
    assert estimate.download_bytes == sum(size or 0 for size in product.store.sizes(_keys(product)).values())


@pytest.mark.usefixtures("configured")
def test_what_is_not_there_is_not_found(bucket: str) -> None:
    with pytest.raises(ProductNotFound):
        gz.inspect(bucket.replace("tile", "other"))


def test_without_credentials_it_is_denied_and_says_how_to_give_them(
    bucket: str, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    options = {**json.loads(environment["FSSPEC_S3"]), "key": None, "secret": None}
    monkeypatch.setitem(fsspec.config.conf, "s3", options)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(ProductDenied, match="FSSPEC_S3"):
        gz.inspect(bucket)


@pytest.mark.usefixtures("configured")
def test_a_group_of_it_is_converted(bucket: str, environment: dict[str, str], tmp_path: Path) -> None:
    output = tmp_path / "r60m.zarr"
    done = subprocess.run(
        [sys.executable, "-m", "geozarr_runner", "convert", bucket, str(output), "--groups", R60M, "--json"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    last = json.loads(done.stdout.splitlines()[-1])
    assert (done.returncode, last["type"]) == (0, "result"), done.stdout + done.stderr
    assert last["bytes_read"] == gz.estimate(bucket, [R60M]).download_bytes
    assert "not-a-secret" not in done.stdout + done.stderr + output.with_name("r60m.zarr.log.jsonl").read_text()
    assert list(gz.open(output)[R60M].data_vars)


def test_what_is_read_is_what_is_there_now_by_one_request(
    bucket: str, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listing that somebody else in this process keeps does not hide what was written since."""
    with s3_proxy(json.loads(environment["FSSPEC_S3"])) as (options, proxy):
        monkeypatch.setitem(fsspec.config.conf, "s3", options)
        s3 = fsspec.filesystem("s3")
        assert s3.find("products/late") == []
        store = Store("s3://products/late")
        assert store.read("zarr.json") is None
        s3fs.S3FileSystem(**options, skip_instance_cache=True).pipe("products/late/zarr.json", b"{}")
        proxy.arrived.clear()
        assert store.read("zarr.json") == b"{}"
        assert proxy.arrived == [("GET", "/products/late/zarr.json")]


def _keys(product: gz.Product) -> list[str]:
    return [key for array in product.groups[R60M].arrays for key in array.object_keys()]

"""Outputs on stores that answer 403 for what is not there: what is read of them is right, or refused in our words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np
import pytest
import s3fs

import geozarr_nb as gz
from geozarr_runner.errors import ProductDenied, ProductUnreachable
from tests.hiding_server import Hiding, hiding_server
from tests.s3_proxy import s3_proxy
from tests.s3_server import s3_server

if TYPE_CHECKING:
    from tests.unit.conftest import Outputs

R10M = "/measurements/reflectance/r10m"


@pytest.fixture
def hiding(outputs: Outputs) -> Iterator[Hiding]:
    with hiding_server(outputs.chosen.parent) as server:
        yield server


@pytest.fixture(params=["http", "s3"])
def url(request: pytest.FixtureRequest, outputs: Outputs, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an output of chosen groups."""
    if request.param == "http":
        yield f"{request.getfixturevalue('hiding').url}/{outputs.chosen.name}"
        return
    with s3_server() as options, s3_proxy(options) as (hidden, proxy):
        filesystem = s3fs.S3FileSystem(**options)
        filesystem.mkdir("tiles")
        filesystem.put(str(outputs.chosen), "tiles/out.zarr", recursive=True)

        def refuse(method: str, path: str) -> tuple[int, str] | None:
            key = path.removeprefix("/tiles/out.zarr/")
            return None if (outputs.chosen / key).is_file() else (403, "AccessDenied")

        proxy.refuse = refuse
        monkeypatch.setitem(fsspec.config.conf, "s3", hidden)
        yield "s3://tiles/out.zarr"


def test_an_output_is_opened_and_drawn(url: str, outputs: Outputs) -> None:
    tree, plain = gz.open(url), gz.open(outputs.chosen)
    assert tree.groups == plain.groups
    np.testing.assert_array_equal(tree[R10M]["b04"].values, plain[R10M]["b04"].values)
    np.testing.assert_array_equal(gz.preview(url).pixels, gz.preview(outputs.chosen).pixels)


@pytest.mark.parametrize("band", ["b02", "b04"])
def test_a_band_that_is_refused_as_a_whole_is_no_picture(hiding: Hiding, outputs: Outputs, band: str) -> None:
    hiding.refuse = lambda path: f"/{band}/c/" in path
    address = f"{hiding.url}/{outputs.chosen.name}"
    tree = gz.open(address)
    for read in (lambda: tree[R10M][band].values, lambda: gz.preview(address), lambda: gz.preview(address, bands=band)):
        with pytest.raises(ProductDenied, match="refused or empty, this server does not tell"):
            read()


@pytest.mark.parametrize("name", ["nothing.zarr", "chosen.zarr"])
def test_a_store_that_refuses_everything_is_said_to(hiding: Hiding, name: str) -> None:
    hiding.refuse = lambda path: True
    for call in (gz.open, gz.preview, gz.inspect):
        with pytest.raises(ProductDenied, match="access was refused"):
            call(f"{hiding.url}/{name}")


@pytest.mark.parametrize(("code", "error"), [("ExpiredToken", ProductDenied), ("AccessDenied", ProductDenied)])
def test_a_token_that_expires_while_an_output_is_read(
    hiding: Hiding, outputs: Outputs, code: str, error: type[Exception]
) -> None:
    tree = gz.open(f"{hiding.url}/{outputs.chosen.name}")
    hiding.code, hiding.refuse = code, lambda path: True
    with pytest.raises(error):
        tree[R10M]["b04"].values  # noqa: B018  this is what reads it


def test_a_server_that_fails_while_an_output_is_read_is_no_absence(
    hiding: Hiding, outputs: Outputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("geozarr_runner.stores.store.Store.attempts", 1)
    tree: Any = gz.open(f"{hiding.url}/{outputs.chosen.name}")
    hiding.missing, hiding.root = 500, Path("/nowhere")
    with pytest.raises(ProductUnreachable, match="500"):
        tree[R10M]["b04"].values  # noqa: B018  this is what reads it

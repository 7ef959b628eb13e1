"""Outputs open with every group at its own path, at every level, with the values that were converted."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xarray as xr
import zarr

from benchmarks.server import ProductServer
from geozarr_nb.outputs import open as result
from geozarr_runner.errors import GeozarrError, InvalidRequest, ProductBroken, ProductUnreachable

if TYPE_CHECKING:
    from tests.unit.conftest import Outputs

R10M = "/measurements/reflectance/r10m"
R60M = "/measurements/reflectance/r60m"


def test_xarray_alone_refuses_the_layout_of_chosen_groups(outputs: Outputs) -> None:
    with pytest.raises(ValueError, match="not aligned"):
        xr.open_datatree(outputs.chosen, engine="zarr")


def test_native_tree_has_every_group_and_no_overview(outputs: Outputs) -> None:
    tree = result.open(outputs.chosen)
    assert tree.groups == ("/", "/measurements", "/measurements/reflectance", R10M, R60M)
    assert tree[R10M].sizes == {"y": 480, "x": 480}


@pytest.mark.parametrize("group", ["r10m", "r60m"])
def test_values_are_those_of_the_product(outputs: Outputs, group: str) -> None:
    path = f"measurements/reflectance/{group}"
    source = xr.open_dataset(outputs.product, engine="zarr", group=path)
    converted = result.open(outputs.chosen)[path]
    for name in source.data_vars:
        np.testing.assert_array_equal(converted[name].values, source[name].values)
    np.testing.assert_array_equal(converted["y"].values, source["y"].values)


@pytest.mark.parametrize(("level", "edge"), [(0, 480), (1, 240), (2, 120), (3, 60), ("coarsest", 60), ("native", 480)])
def test_an_overview_takes_the_place_of_the_native_arrays(outputs: Outputs, level: Any, edge: int) -> None:
    tree = result.open(outputs.chosen, level=level)
    assert tree.groups == ("/", "/measurements", "/measurements/reflectance", R10M, R60M)
    assert tree[R10M].sizes == {"y": edge, "x": edge}
    assert tree[R60M].sizes == {"y": 80, "x": 80}, "a group without overviews shows its coarsest, the native one"
    stored = zarr.open_array(outputs.chosen / f"{R10M[1:]}{f'/r{480 // edge}' if edge < 480 else ''}/b04", mode="r")
    np.testing.assert_array_equal(tree[R10M]["b04"].values, stored[...])


def test_whole_product_shows_levels_side_by_side(outputs: Outputs) -> None:
    tree = result.open(outputs.whole)
    levels = [node.name for node in tree["measurements/reflectance"].children.values()]
    assert sorted(levels) == ["r10m", "r120m", "r20m", "r360m", "r60m", "r720m"]
    assert "/quality/atmosphere/r20m" in tree.groups
    assert tree.attrs["stac_discovery"]["type"] == "Feature"


@pytest.mark.parametrize(("level", "name", "edge"), [(1, "r20m", 240), (2, "r60m", 80), ("coarsest", "r720m", 6)])
def test_whole_product_at_a_level_has_that_level_alone(outputs: Outputs, level: Any, name: str, edge: int) -> None:
    tree = result.open(outputs.whole, level=level)
    path = f"/measurements/reflectance/{name}"
    assert tree.groups == ("/", "/measurements", "/measurements/reflectance", path)
    assert tree[path].sizes["x"] == edge
    assert "stac_discovery" in tree.attrs, "the parents' attributes come along"


def test_levels_tell_paths_shapes_and_variables(outputs: Outputs) -> None:
    levels = result.levels(outputs.chosen)
    assert [(level.number, level.path, level.shape) for level in levels[R10M]] == [
        (0, R10M, (480, 480)),
        (1, f"{R10M}/r2", (240, 240)),
        (2, f"{R10M}/r4", (120, 120)),
        (3, f"{R10M}/r8", (60, 60)),
    ]
    assert levels[R10M][1].variables == ("b02", "b03", "b04", "b08")
    assert len(levels[R60M]) == 1
    swath = result.levels(outputs.swath)["/measurements"]
    assert [level.path.rpartition("/")[2] for level in swath] == ["r0", "r2", "r4"]


@pytest.mark.parametrize("level", ["native", 1])
def test_crs_is_a_coordinate(outputs: Outputs, level: Any) -> None:
    import rioxarray  # noqa: F401  it registers .rio

    array = result.open(outputs.chosen, level=level)[R10M]["b04"]
    assert "spatial_ref" in array.coords
    assert array.rio.crs.to_epsg() == 32632
    radar = result.open(outputs.radar, level=level)
    group = next(path for path in radar.groups if path.endswith("VV/measurements"))
    assert radar[group]["grd"].rio.crs.to_epsg() == 4326


def test_nothing_but_metadata_and_coordinates_is_read(outputs: Outputs, read: list[str]) -> None:
    array = result.open(outputs.chosen)[R10M]["b04"]
    chunks = {key for key in read if "/c/" in key}
    assert {key.split("/")[-3 if key.endswith("/c/0") else -4] for key in chunks} <= {"x", "y"}
    assert array.chunks is not None
    read.clear()
    array[0, 0].compute()
    assert [key for key in read if "/c/" in key] == ["measurements/reflectance/r10m/b04/c/0/0"]


class Handler(SimpleHTTPRequestHandler):
    """Serves files, says nothing, and lists no folders."""

    def log_message(self, *_: object) -> None:
        pass

    def list_directory(self, *_: object) -> None:
        self.send_error(404)


@pytest.fixture
def address(outputs: Outputs) -> Iterator[str]:
    def handler(*arguments: Any) -> Handler:
        return Handler(*arguments, directory=str(outputs.whole.parent))

    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_opens_over_http(outputs: Outputs, address: str) -> None:
    remote = result.open(f"{address}/whole.zarr", level=2)
    local = result.open(outputs.whole, level=2)
    path = "/measurements/reflectance/r60m"
    np.testing.assert_array_equal(remote[path]["b01"].values, local[path]["b01"].values)


@pytest.mark.parametrize("signature", ["sig=s3cr3t%2Fx&v=1", "sig=abc/"])
def test_opens_a_signed_address(outputs: Outputs, signature: str) -> None:
    with ProductServer(outputs.chosen.parent, signature=signature) as server:
        tree = result.open(f"{server.url}/{outputs.chosen.name}?{signature}")
        expected = result.open(outputs.chosen)
        xr.testing.assert_identical(tree[R10M]["b04"].load(), expected[R10M]["b04"].load())
        assert server.counts.denied == 0


def test_opens_any_address_that_fsspec_knows(outputs: Outputs) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.put(str(outputs.chosen), "/bucket/chosen.zarr", recursive=True)
    for address in ("memory://bucket/chosen.zarr", f"file://{outputs.chosen}"):
        tree = result.open(address, level="coarsest")
        assert float(tree[R10M]["b04"].mean()) > 0
    memory.rm("/bucket", recursive=True)


def test_http_without_consolidated_metadata_says_what_to_do(outputs: Outputs, address: str) -> None:
    assert "consolidated_metadata" not in json.loads((outputs.swath / "zarr.json").read_text())
    with pytest.raises(ProductBroken, match="consolidate_metadata"):
        result.open(f"{address}/swath.zarr")


def test_missing_over_http(address: str) -> None:
    with pytest.raises(InvalidRequest, match="check the address"):
        result.open(f"{address}/none.zarr")


def test_unreachable_server() -> None:
    with pytest.raises(ProductUnreachable, match=r"127\.0\.0\.1:9"):
        result.open("http://127.0.0.1:9/a.zarr")


def test_missing_output_names_its_neighbours(outputs: Outputs) -> None:
    with pytest.raises(InvalidRequest) as caught:
        result.open(outputs.chosen.parent / "chosem.zarr")
    assert "chosen.zarr" in caught.value.remedy


def test_output_that_is_being_written(tmp_path: Path) -> None:
    (tmp_path / ".out.zarr.partial").mkdir()
    with pytest.raises(InvalidRequest) as caught:
        result.open(tmp_path / "out.zarr")
    assert "being written" in caught.value.remedy


def test_folder_that_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"zarr\.json"):
        result.open(tmp_path)


def test_single_array(outputs: Outputs) -> None:
    with pytest.raises(InvalidRequest, match="single array"):
        result.open(outputs.chosen / R10M[1:] / "b04")


def test_broken_metadata(outputs: Outputs, tmp_path: Path) -> None:
    shutil.copytree(outputs.chosen, tmp_path / "broken.zarr")
    (tmp_path / "broken.zarr" / "zarr.json").write_text("{")
    with pytest.raises(ProductBroken, match="cannot be read"):
        result.open(tmp_path / "broken.zarr")


def test_a_product_is_no_output_unless_any_zarr_will_do(outputs: Outputs) -> None:
    with pytest.raises(InvalidRequest, match="strict=False"):
        result.open(outputs.product)
    tree = result.open(outputs.product, strict=False)
    assert tree["measurements/reflectance/r10m/b04"].dtype.kind == "f", "packed values are decoded"


def test_a_store_that_xarray_cannot_open_is_not_only_told_to_be_converted_again(tmp_path: Path) -> None:
    root = zarr.create_group(str(tmp_path / "p.zarr"))
    root.create_array("g/red", shape=(4, 4), dtype="u2")  # its dimensions have no names
    zarr.consolidate_metadata(str(tmp_path / "p.zarr"))
    with pytest.raises(ProductBroken) as caught:
        result.open(tmp_path / "p.zarr", strict=False)
    assert "tell whoever publishes it" in caught.value.remedy


@pytest.mark.parametrize("level", [4, -1, "r20m", 1.5, None])
def test_no_such_level(outputs: Outputs, level: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        result.open(outputs.chosen, level=level)
    assert "from 0 to 3" in caught.value.remedy


@dataclass
class FakeJob:
    """What `location` asks of a job."""

    status: str
    output: str
    name: str = "s2-1a2b3c4d"
    reason: str = ""


def test_job_that_succeeded(outputs: Outputs) -> None:
    job: Any = FakeJob("Succeeded", str(outputs.chosen))
    assert R10M in result.open(job).groups


@pytest.mark.parametrize(
    ("status", "words"), [("Pending", "wait()"), ("Running", "wait()"), ("Failed", "retry()"), ("Error", "logs()")]
)
def test_job_without_a_result(status: str, words: str) -> None:
    job: Any = FakeJob(status, "/nowhere/out.zarr", reason="the disk is full")
    with pytest.raises(InvalidRequest, match="the disk is full") as caught:
        result.open(job)
    assert words in caught.value.remedy


def test_every_error_says_what_to_do(outputs: Outputs, tmp_path: Path) -> None:
    for bad in ("", tmp_path / "none" / "out.zarr", tmp_path, outputs.product):
        with pytest.raises(GeozarrError) as caught:
            result.open(bad)
        assert caught.value.remedy
        assert caught.value.given


def test_importing_it_is_light() -> None:
    code = "import sys, geozarr_nb.outputs.open; assert not {'xarray', 'zarr', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)

"""Converters side by side write what one of them would have written."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.server import ProductServer
from geozarr_runner.converter import parallel
from geozarr_runner.errors import ConverterFailed
from geozarr_runner.events import Reporter, parse_all
from geozarr_runner.inspection.reader import open_product
from geozarr_runner.planning import resources
from geozarr_runner.planning.preflight import Plan, preflight
from geozarr_runner.run import run
from geozarr_runner.spec.request import Request
from geozarr_runner.staging import view
from runner.tests.support import R10M, R20M, R60M, contents, drop_top_group


@pytest.fixture
def plan(s2: Path, tmp_path: Path) -> Callable[..., Plan]:
    def make(*groups: str, product: Path = s2) -> Plan:
        return preflight(Request.of(product, tmp_path / "out.zarr", groups=groups), Reporter(io.StringIO()))

    return make


def test_a_small_conversion_is_not_divided(plan: Callable[..., Plan]) -> None:
    assert parallel.split(plan(R20M), cores=8, memory=None) == []


def test_parts_have_all_variables_once_with_their_coordinates(
    plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "PIXELS_WORTH_A_CONVERTER", 1)
    wanted = plan(R20M, R60M)
    shares = parallel.split(wanted, cores=3, memory=None)
    assert len(shares) == 3
    variables = [array.path for share in shares for array in share if array.name not in ("x", "y")]
    groups = [wanted.product.groups[path] for path in (R20M, R60M)]
    assert sorted(variables) == sorted(array.path for group in groups for array in group.variables)
    for share in shares:
        for path in {array.path.rpartition("/")[0] for array in share}:
            assert {f"{path}/x", f"{path}/y"} <= {array.path for array in share}


def test_it_is_divided_as_far_as_memory_and_cores_go(
    plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "PIXELS_WORTH_A_CONVERTER", 1)
    assert len(parallel.split(plan(R20M), cores=2, memory=None)) == 2
    assert parallel.split(plan(R20M), cores=1, memory=None) == []
    assert parallel.split(plan(R20M), cores=4, memory=600_000_000) == []
    assert len(parallel.split(plan(R20M), cores=4, memory=1_100_000_000)) == 2
    assert len(parallel.split(plan(), cores=6, memory=1_000_000_000)) == 2
    assert parallel.split(plan(), cores=6, memory=900_000_000) == []


def test_the_flat_layout_gives_one_converter_work_for_two_cores(
    plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "PIXELS_WORTH_A_CONVERTER", 1)
    assert [len(parallel.split(plan(), cores=cores, memory=None)) for cores in (1, 2, 3, 4, 5, 6)] == [0, 0, 0, 2, 2, 3]


def test_converters_share_the_cores_as_far_as_memory_goes(plan: Callable[..., Plan]) -> None:
    assert [parallel.threads(plan(), 2, cores=cores, memory=None) for cores in (1, 2, 3, 4, 9)] == [1, 1, 1, 2, 4]
    assert parallel.threads(plan(), 2, cores=9, memory=2 * (450_000_000 + 3 * 36 * 540**2)) == 3
    assert parallel.threads(plan(), 2, cores=9, memory=0) == 1
    assert parallel.threads(plan(R20M), 2, cores=9, memory=2_000_000_000) == 4


@pytest.mark.parametrize("count", [2, 3])
def test_a_band_of_the_flat_layout_stays_together_and_every_part_has_every_resolution(
    count: int, plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "PIXELS_WORTH_A_CONVERTER", 1)
    whole = plan()
    shares = parallel.split(whole, cores=2 * count, memory=None)
    assert len(shares) == count
    groups = [group for path, group in whole.product.groups.items() if "quicklook" not in path]
    known = {array.path for group in groups for array in group.variables}
    variables = [[array.path for array in share if array.path in known] for share in shares]
    assert sorted(path for share in variables for path in share) == sorted(known)
    assert {array.path for share in shares for array in share} == {a.path for group in groups for a in group.arrays}
    for share in variables:
        assert {R10M, R20M, R60M} <= {path.rpartition("/")[0] for path in share}
    bands = [{path.rpartition("/")[2] for path in share if "/reflectance/" in path} for share in variables]
    assert not set.intersection(*bands)


def test_parts_take_about_as_long(plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds that one thread took for each array of a full tile; b08 is also averaged into 20 m and 60 m."""
    monkeypatch.setattr(parallel, "PIXELS_WORTH_A_CONVERTER", 1)
    took = {R10M: 3.9, R20M: 1.05, R60M: 0.45, "/quality/atmosphere/r10m": 1.8, "/quality/atmosphere/r20m": 0.54}
    took |= {"/quality/mask/r10m": 0.62, "/quality/mask/r20m": 0.27, "/quality/probability/r20m": 0.27}
    took |= {"/conditions/mask/detector_footprint/r10m": 0.64, "/conditions/mask/detector_footprint/r20m": 0.26}
    took |= {f"{R10M}/b08": 3.9 + 6.2 + 1.05 + 0.45}
    whole = plan()
    for count in (2, 3):
        shares = parallel.split(whole, cores=2 * count, memory=None)
        paths = [[array.path for array in share if array.name not in ("x", "y", "band")] for share in shares]
        seconds = [sum(took.get(path, took.get(path.rpartition("/")[0], 0.03)) for path in share) for share in paths]
        assert max(seconds) < 1.1 * min(seconds)


def test_a_product_that_is_no_sentinel2_to_the_converter_is_not_divided(
    s2: Path, plan: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "PIXELS_WORTH_A_CONVERTER", 1)
    odd = Path(shutil.copytree(s2, tmp_path / "odd.zarr"))
    drop_top_group(odd, "quality")
    assert parallel.split(plan(product=odd), cores=4, memory=None) == []


def test_what_one_converter_has_to_do_is_not_divided(
    plan: Callable[..., Plan], s1: Path, s3: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "PIXELS_WORTH_A_CONVERTER", 1)
    for whole in (plan("measurements", product=s1), plan("measurements", product=s3), plan(product=s1)):
        assert parallel.split(whole, cores=4, memory=None) == []


def test_parts_that_do_not_fit_together_are_made_as_one(
    s2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The converter knows no ozone in a Sentinel-2 product: the part with it comes out in another layout."""
    odd = Path(shutil.copytree(s2, tmp_path / "odd.zarr"))
    place = "quality/atmosphere/r60m"
    shutil.copytree(odd / place / "aot", odd / place / "ozone")
    document = json.loads((odd / ".zmetadata").read_bytes())
    nodes = document["metadata"]
    nodes |= {f"{place}/ozone/{name}": nodes[f"{place}/aot/{name}"] for name in (".zarray", ".zattrs")}
    (odd / ".zmetadata").write_text(json.dumps(document | {"metadata": dict(sorted(nodes.items()))}))
    monkeypatch.setattr(parallel, "PIXELS_WORTH_A_CONVERTER", 1)
    stores = {}
    for cores in (2, 4):
        monkeypatch.setattr(resources, "cores", lambda cores=cores: cores)
        said = io.StringIO()
        with closing(Reporter(said)) as reporter:
            run(Request.of(odd, tmp_path / f"{cores}.zarr", groups=[]), reporter)
        warnings = [event for event in parse_all(said.getvalue().splitlines()) if event.type == "warning"]
        assert [event["code"] for event in warnings] == ["not-divided"] * (cores == 4)
        stores[cores] = contents(tmp_path / f"{cores}.zarr")
    assert stores[2] == stores[4]
    assert not list(tmp_path.glob(".*"))


@pytest.fixture(scope="module")
def l1c(s2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample with only those bands that a Level-1C product has at each resolution, as far as it has them."""
    product = Path(shutil.copytree(s2, tmp_path_factory.mktemp("l1c") / "l1c.zarr"))
    document = json.loads((product / ".zmetadata").read_bytes())
    native = {R20M: ("b05", "b06", "b07", "b11", "b12", "b8a"), R60M: ("b01", "b09")}
    for group, bands in native.items():
        for band in {folder.name for folder in (product / group[1:]).iterdir() if folder.is_dir()} - {*bands, "x", "y"}:
            shutil.rmtree(product / group[1:] / band)
            for name in (".zarray", ".zattrs"):
                del document["metadata"][f"{group[1:]}/{band}/{name}"]
    document["metadata"][".zattrs"]["stac_discovery"]["properties"]["product:type"] = "S02MSIL1C"
    (product / ".zmetadata").write_text(json.dumps(document))
    (product / ".zattrs").write_text(json.dumps(document["metadata"][".zattrs"]))
    return product


@pytest.mark.parametrize(
    ("product", "groups", "count"),
    [("s2", [R20M, R60M], 3), ("s2", [], 3), ("l1c", [], 2)],
    ids=["groups", "whole", "whole of level 1C"],
)
def test_the_joined_output_is_the_undivided_one(
    product: str,
    groups: list[str],
    count: int,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parallel, "PIXELS_WORTH_A_CONVERTER", 1)
    stores = {}
    enough = count if groups else 2 * count
    for cores in (1, enough):
        monkeypatch.setattr(resources, "cores", lambda cores=cores: cores)
        said = io.StringIO()
        with closing(Reporter(said)) as reporter:
            run(Request.of(request.getfixturevalue(product), tmp_path / f"{cores}.zarr", groups=groups), reporter)
        assert (f"{count} converters side by side" in said.getvalue()) == (cores == enough)
        stores[cores] = contents(tmp_path / f"{cores}.zarr")
    assert stores[1].keys() == stores[enough].keys()
    assert [name for name in stores[1] if stores[1][name] != stores[enough][name]] == []
    assert not list(tmp_path.glob(".*"))


def test_groups_that_do_not_fit_into_scratch_together_are_made_one_after_the_other(
    s2: Path, products: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    product = open_product(s2)
    free = max(product.stored_bytes(group) or 0 for group in (R20M, R60M)) + 1
    monkeypatch.setattr(view, "disk_usage", lambda path: SimpleNamespace(total=free, free=free - size_of(path)))
    with ProductServer(products) as server:
        url = f"{server.url}/{s2.name}"
        said = io.StringIO()
        with closing(Reporter(said)) as reporter:
            run(Request.of(url, tmp_path / "parts.zarr", groups=[R20M, R60M], scratch=tmp_path / "scratch"), reporter)
        assert set(server.counts.repeated().values()) <= {2}, "each byte once, and a little of each is compared"
        monkeypatch.undo()
        with closing(Reporter(io.StringIO())) as reporter:
            run(Request.of(url, tmp_path / "whole.zarr", groups=[R20M, R60M]), reporter)
    events = list(parse_all(said.getvalue().splitlines()))
    [warning] = [event for event in events if event.type == "warning"]
    assert warning["code"] == "one-group-at-a-time"
    assert "are free" in warning["message"]
    [result] = [event for event in events if event.type == "result"]
    assert result["bytes_read"] == sum(product.stored_bytes(group) or 0 for group in (R20M, R60M))
    assert contents(tmp_path / "parts.zarr") == contents(tmp_path / "whole.zarr")
    assert list((tmp_path / "scratch").iterdir()) == []


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".z"))


def test_parts_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    for name, code in (("a", "EPSG:32632"), ("b", "EPSG:4326")):
        write_group(tmp_path / name, {"proj:code": code})
    with pytest.raises(ConverterFailed) as caught:
        parallel.join([tmp_path / "a", tmp_path / "b"], tmp_path / "joined")
    assert caught.value.given == "proj:code"


def test_the_stores_extent_is_that_of_all_parts(tmp_path: Path) -> None:
    write_group(tmp_path / "a", {"spatial:bbox": [0.0, 1.0, 5.0, 6.0]})
    write_group(tmp_path / "b", {"spatial:bbox": [-1.0, 2.0, 4.0, 9.0]})
    parallel.join([tmp_path / "a", tmp_path / "b"], tmp_path / "joined")
    assert json.loads((tmp_path / "joined/zarr.json").read_text())["attributes"] == {
        "spatial:bbox": [-1.0, 1.0, 5.0, 9.0]
    }
    assert not (tmp_path / "b").exists()


def write_group(folder: Path, attributes: dict[str, Any]) -> None:
    folder.mkdir()
    document = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    (folder / "zarr.json").write_text(json.dumps(document))

"""Whole runs with the real converter: what was asked for comes out, and nothing else."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from benchmarks.server import Kind, ProductServer
from geozarr_runner.events import parse_all
from geozarr_runner.inspection.reader import open_product
from geozarr_runner.kinds.profiles import planned_arrays
from geozarr_runner.planning.estimate import estimate
from geozarr_runner.publishing.root_document import provenance
from runner.tests.support import R10M, R20M, R60M, Run, beside, data_groups, nodes, run, structure, write_terrain

GOLDEN = Path(__file__).with_name("golden")
PROBABILITY = "/quality/probability/r20m"
SCENE = "S01SIWGRD_20241124T180254_0025_A324_BA27_06F516"
VH, VV = f"/{SCENE}_VH/measurements", f"/{SCENE}_VV/measurements"


@dataclass(frozen=True)
class Case:
    """A run to do: a sample's name, the groups as a person types them, and the groups that are to come of it."""

    product: str
    typed: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    geozarr: tuple[str, ...] = ()
    """Groups of the output that have to say where they lie."""
    extra: tuple[str, ...] = ()
    """Overviews."""

    @property
    def wanted(self) -> tuple[str, ...]:
        return self.geozarr or self.groups


CASES = {
    "s2-several": Case("s2", ("measurements/reflectance/r60m,", PROBABILITY), (R60M, PROBABILITY)),
    "s2-whole": Case("s2", geozarr=(R10M, R20M, R60M, "/measurements/reflectance/r120m")),
    "s1-both": Case("s1", ("measurements",), (VH, VV)),
    "s1-one": Case("s1", (VV,), (VV,)),
    "s1-single": Case("s1_single", geozarr=(VV,)),
    "s3-whole": Case("s3", geozarr=("/measurements/r0",)),
    "s3-measurements": Case("s3", ("/measurements",), ("/measurements",), ("/measurements/r0",)),
    "generic": Case("terrain", geozarr=("/dem",)),
    "texts": Case("texts", geozarr=("/dem",)),
}
GOLDEN_CASES: dict[str, tuple[str, ...]] = {
    "s2-group": (f"{R10M}/b02", f"{R10M}/b08", f"{R10M}/r2/b02"),
    "s2-whole": (f"{R10M}/b02", f"{R20M}/b11", f"{R60M}/b09", "/measurements/reflectance/r120m/b04"),
    "s1-both": (f"{VV}/grd",),
    "s3-measurements": ("/measurements/r0/oa08_radiance",),
}


@pytest.fixture(scope="module")
def runs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, s2: Path, good: Run
) -> Iterator[dict[str, Future[Run]]]:
    """Every case, two at a time; each in a folder of its own."""
    products = {case.product: request.getfixturevalue(case.product) for case in CASES.values()}
    with ThreadPoolExecutor(max_workers=2) as pool:
        futures = {}
        for name, case in CASES.items():
            output = tmp_path_factory.mktemp(name) / "out.zarr"
            groups = ("--groups", *case.typed) if case.typed else ()
            futures[name] = pool.submit(run, products[case.product], output, *groups, "--identity", name)
        done: Future[Run] = Future()
        done.set_result(good)
        yield futures | {"s2-group": done}
        for future in futures.values():
            future.cancel()


@pytest.fixture(params=CASES)
def finished(request: pytest.FixtureRequest, runs: dict[str, Future[Run]]) -> tuple[str, Case, Run]:
    return request.param, CASES[request.param], runs[request.param].result()


def test_a_run_keeps_its_promises(finished: tuple[str, Case, Run], request: pytest.FixtureRequest) -> None:
    name, case, run = finished
    source = request.getfixturevalue(case.product)

    assert run.stderr == ""
    assert run.result["path"] == str(run.output)
    assert run.result["groups"] == list(case.groups)
    assert run.result["bytes_written"] > 0
    assert run.result["bytes_read"] == 0
    assert not run.result["skipped"]

    found = nodes(run.output)
    for group in case.wanted:
        assert found[group]["attributes"]["zarr_conventions"], group
    if case.groups:
        coarser = {
            path for path in found if path.rpartition("/")[0] in case.wanted and path.rpartition("/r")[2].isdigit()
        }
        assert data_groups(run.output) == set(case.wanted) | (coarser & data_groups(run.output))
    assert found["/"]["consolidated_metadata"]["metadata"].keys() == {path[1:] for path in found if path != "/"}

    record = provenance(run.output)
    assert record is not None
    assert record["request"] == name
    assert record["input"]["url"] == str(source)
    assert record["input"]["identity"] == open_product(source).identity
    assert record["groups"] == list(case.groups)
    assert record["verified"]["variables"] > 0
    assert record["verified"]["pixels_compared"] > 0
    assert record["versions"]["eopf-geozarr"] == "0.12.0"
    assert record["started"] <= record["finished"]

    assert beside(run.output) == {"out.zarr"}


def test_progress_goes_up_and_stays_below_its_total(finished: tuple[str, Case, Run]) -> None:
    _, _, run = finished
    stages = [event["stage"] for event in run.of("stage") if event["state"] == "finished"]
    assert stages == ["preflight", "stage", "convert", "verify", "publish"]
    for stage in stages:
        told = [event for event in run.of("progress") if event["stage"] == stage]
        assert [event["done"] for event in told] == sorted(event["done"] for event in told)
        assert all(event["total"] is None or event["done"] <= event["total"] for event in told)
        if stage in ("convert", "verify"):
            assert told[-1]["done"] > 0
    verified = [event for event in run.of("progress") if event["stage"] == "verify"][-1]
    assert verified["done"] == verified["total"]


def test_the_log_file_has_every_event_and_the_converters_lines(finished: tuple[str, Case, Run]) -> None:
    _, _, run = finished
    text = run.output.with_name("out.zarr.log.jsonl").read_text(encoding="utf-8")
    logged = list(parse_all(text.splitlines()))
    assert len(logged) == len(text.splitlines())
    assert [event for event in logged if event.type != "log"] == run.events
    assert {event["source"] for event in logged if event.type == "log"} >= {"runner", "converter"}


@pytest.mark.parametrize("name", GOLDEN_CASES)
def test_the_output_is_the_golden_one(name: str, runs: dict[str, Future[Run]]) -> None:
    """Made anew by `python -m runner.tests.make_golden`."""
    golden = json.loads((GOLDEN / f"{name}.json").read_text())
    now = structure(runs[name].result().output, GOLDEN_CASES[name])
    assert now["groups"] == golden["groups"]
    assert now["pixels"].keys() == golden["pixels"].keys()
    for path, values in golden["pixels"].items():
        expected = [math.nan if value is None else value for value in values]
        actual = [math.nan if value is None else value for value in now["pixels"][path]]
        np.testing.assert_allclose(actual, expected, rtol=1e-5, err_msg=path)
        assert np.isfinite(expected).any(), path


def test_the_readers_see_the_products_own_values(good: Run, s2: Path) -> None:
    packed = zarr.open_array(str(s2 / R10M.strip("/") / "b04"), mode="r")
    scale, offset = packed.attrs["scale_factor"], packed.attrs["add_offset"]
    raw = np.asarray(packed[:])
    read = np.asarray(zarr.open_array(str(good.output / R10M.strip("/") / "b04"), mode="r")[:])
    filled = raw == packed.metadata.fill_value
    assert filled.any()
    assert np.isnan(read[filled]).all()
    np.testing.assert_allclose(read[~filled], raw[~filled] * float(scale) + float(offset), rtol=1e-6)


def test_xarray_opens_the_output_in_its_reference_system(good: Run) -> None:
    import xarray as xr

    for group, size in ((R10M, 540), (f"{R10M}/r2", 270)):
        with xr.open_dataset(good.output, group=group, engine="zarr", chunks=None) as dataset:
            assert dataset.attrs["proj:code"] == "EPSG:32632"
            assert dataset.b02.dims == ("y", "x")
            assert dataset.b02.shape == (size, size)


def test_a_chunk_that_was_never_stored_is_its_fill_value(runs: dict[str, Future[Run]]) -> None:
    height = np.asarray(zarr.open_array(str(runs["generic"].result().output / "dem" / "height"), mode="r")[:])
    assert np.isnan(height[:320, 320:]).all()
    assert np.isfinite(height[:320, :320]).all()


def test_both_polarisations_differ(runs: dict[str, Future[Run]]) -> None:
    output = runs["s1-both"].result().output
    vh, vv = (np.asarray(zarr.open_array(str(output / path.strip("/") / "grd"), mode="r")[:]) for path in (VH, VV))
    seen = np.isfinite(vv) & (vv > 0)
    assert seen.mean() > 0.3
    assert not np.allclose(vh[seen], vv[seen])


@pytest.mark.parametrize(
    ("product", "typed", "groups"),
    [
        ("s2.zarr", ("/nowhere", "measurements/reflectance/r20m", R60M), [R20M, R60M]),
        ("terrain.zarr", ("dem",), ["/dem"]),
        ("sharded.zarr", ("dem",), ["/dem"]),
    ],
)
@pytest.mark.usefixtures("sharded")
def test_over_http_each_needed_object_comes_once(
    product: str, typed: tuple[str, ...], groups: list[str], terrain: Path, server: ProductServer, tmp_path: Path
) -> None:
    """The terrain lacks a chunk, so that one object is asked for in vain."""
    url = f"{server.url}/{product}"
    expected = estimate(open_product(url), typed)
    server.reset()
    done = run(url, tmp_path / "out.zarr", "--groups", *typed)
    counts = server.counts
    assert done.result["groups"] == groups
    again = counts.repeated()  # a little of each variable is compared once it is there
    data = {
        path: one.bytes
        for path, one in counts.paths.items()
        if Kind.DATA in one.requests and not path.endswith(("/.zmetadata", "/zarr.json"))
    }
    assert all(path.startswith(tuple(f"/{product}{group}/" for group in groups)) for path in data)
    stored = sum((terrain.parent / path[1:]).stat().st_size for path in data)
    assert stored == done.result["bytes_read"] == expected.download_bytes
    assert stored <= sum(data.values()) <= stored + stored // 100
    assert set(again.values()) <= {2}
    assert counts.data == expected.requests + 1 + len(again)
    staged = [event for event in done.of("progress") if event["stage"] == "stage"]
    assert staged[-1]["done"] == staged[-1]["total"] == expected.download_bytes
    assert [event["done"] for event in staged] == sorted(event["done"] for event in staged)
    assert beside(done.output) == {"out.zarr"}
    assert [event["code"] for event in done.of("warning")] == ["group-dropped"] * (len(typed) - len(groups))


@pytest.mark.parametrize(
    ("shape", "repeated"),
    [
        pytest.param({"chunk": 12}, 0, id="thousands of small chunks"),
        pytest.param({"chunk": 2160, "size": 2160, "compressed": False}, 1, id="one huge chunk"),
        pytest.param({"group": "a/b/dem", "zarr_format": 2}, 0, id="nested groups"),
        pytest.param({"group": "a/dem", "sharded": True}, 0, id="shards"),
    ],
)
def test_products_of_any_shape_come_once_and_whole(shape: dict[str, Any], repeated: int, tmp_path: Path) -> None:
    """A huge object comes in pieces, each of which is a request; before, its first byte is asked for."""
    product = write_terrain(tmp_path / "served" / "terrain.zarr", **shape)
    group = shape.get("group", "dem")
    with ProductServer(product.parent) as server:
        url = f"{server.url}/{product.name}"
        expected = estimate(open_product(url), [group])
        server.reset()
        done = run(url, tmp_path / "out.zarr", "--groups", group)
        counts = server.counts
    assert done.result["bytes_read"] == expected.download_bytes
    again = [path for path, number in counts.repeated().items() if number > 2]  # twice: a little of it is compared
    assert len(again) == repeated
    data = {
        path: one.bytes
        for path, one in counts.paths.items()
        if Kind.DATA in one.requests and not path.endswith((".zmetadata", "zarr.json"))
    }
    assert len(data) == expected.requests
    compared = sum(data.values()) - (expected.download_bytes or 0) - repeated
    assert 0 <= compared <= (expected.download_bytes or 0) // 100
    source, made = (
        np.asarray(zarr.open_array(str(at / group / "height"), mode="r")[:]) for at in (product, done.output)
    )
    np.testing.assert_array_equal(source, made)


def test_what_a_group_refers_to_in_another_comes_with_it(
    s1: Path, s1_single: Path, server: ProductServer, tmp_path: Path
) -> None:
    """A radar's image lies where the control points of another group say."""
    done = run(f"{server.url}/{s1_single.name}", tmp_path / "out.zarr", "--groups", "measurements")
    assert done.result["bytes_read"] > 0
    data = [path for path, one in server.counts.paths.items() if Kind.DATA in one.requests]
    assert any("/conditions/gcp/" in path for path in data)
    assert set(server.counts.repeated().values()) <= {2}  # a little of each variable is compared once it is there
    assert not [path for path in data_groups(done.output) if "gcp" in path]


def test_what_is_there_from_the_same_request_is_kept(good: Run, s2: Path) -> None:
    before = (good.output / "zarr.json").stat().st_mtime_ns
    again = run(s2, good.output, "--groups", "measurements/reflectance/r10m", "--if-exists", "skip")
    assert again.result["skipped"]
    assert again.result["groups"] == [R10M]
    assert (good.output / "zarr.json").stat().st_mtime_ns == before
    assert beside(good.output) == {"out.zarr"}


def test_an_old_output_is_replaced(s2: Path, tmp_path: Path, good: Run) -> None:
    output = Path(shutil.copytree(good.output, tmp_path / "out.zarr"))
    done = run(s2, output, "--groups", R60M, "--if-exists", "overwrite", "--identity", "request-2")
    assert done.result["groups"] == [R60M]
    assert data_groups(output) == {R60M}
    record = provenance(output)
    assert record is not None
    assert record["request"] == "request-2"
    assert beside(output) == {"out.zarr"}


@pytest.mark.parametrize("name", ["s2-group", "s2-several", "s2-whole", "generic"])
def test_the_layout_was_known_beforehand(name: str, runs: dict[str, Future[Run]], s2: Path, terrain: Path) -> None:
    """Progress and estimate count on it."""
    case = CASES.get(name, Case("s2", groups=(R10M,)))
    product = open_product(s2 if case.product == "s2" else terrain)
    expected = planned_arrays(product, case.groups or (("/dem",) if case.product == "terrain" else ()))
    assert expected is not None
    names = {array.source.name for array in expected}
    actual = [
        (path.rpartition("/")[2], tuple(node["shape"]), tuple(node["chunk_grid"]["configuration"]["chunk_shape"]))
        for path, node in nodes(runs[name].result().output).items()
        if node["node_type"] == "array" and path.rpartition("/")[2] in names
    ]
    assert Counter(actual) == Counter((array.source.name, array.shape, array.chunks) for array in expected)
    progress = [event for event in runs[name].result().of("progress") if event["stage"] == "convert"]
    assert case.product == "terrain" or progress[-1]["total"] == sum(array.objects for array in expected)


@pytest.mark.parametrize("name", ["s2-group", "s2-several", "s2-whole"])
def test_the_estimate_comes_near(name: str, runs: dict[str, Future[Run]], s2: Path) -> None:
    groups = CASES.get(name, Case("s2", groups=(R10M,))).groups
    expected = estimate(open_product(s2), groups)
    kept = [path for path in open_product(s2).groups if "quicklook" not in path]  # the converter leaves them out
    arrays = [array for path in groups or kept for array in open_product(s2).groups[path].arrays]
    keys = [key for array in arrays for key in array.object_keys()]
    assert expected.download_bytes == sum((s2 / key).stat().st_size for key in keys if (s2 / key).exists())
    assert expected.requests == sum((s2 / key).exists() for key in keys)
    assert expected.exact
    output = runs[name].result().output
    chunks = sum(file.stat().st_size for file in output.rglob("*") if file.is_file() and file.name != "zarr.json")
    assert expected.output_bytes == pytest.approx(chunks, rel=0.3)

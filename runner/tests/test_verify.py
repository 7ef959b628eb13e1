"""Verification is not to be deceived: every way to spoil a good output is found, and its place is named."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from geozarr_runner.errors import ProductUnreachable, VerificationFailed
from geozarr_runner.events import Reporter
from geozarr_runner.planning.preflight import Plan, preflight
from geozarr_runner.spec.request import Request
from geozarr_runner.verification.verify import Verified, verify
from runner.tests.support import R10M, R60M, Document, Run, beside, run

GROUP = R10M[1:]
BAND = f"{GROUP}/b02"


@pytest.fixture(scope="module")
def plan(s2: Path, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return preflight(Request.of(s2, tmp_path_factory.mktemp("plan") / "out.zarr", groups=R10M), Reporter(_Nowhere()))


class _Nowhere:
    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        pass


@pytest.fixture
def spoilt(good: Run, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good.output, tmp_path / "out.zarr"))


def check(plan: Plan, output: Path) -> Verified:
    return verify(plan, plan.product.url, output, lambda done, total, unit: None)


def edit(store: Path, path: str, change: Callable[[Document], None]) -> None:
    """Change a node's document, on disk and in the consolidated metadata."""
    document = store / path / "zarr.json"
    node = json.loads(document.read_bytes())
    change(node)
    document.write_text(json.dumps(node))
    if path:
        root = json.loads((store / "zarr.json").read_bytes())
        change(root["consolidated_metadata"]["metadata"][path])
        (store / "zarr.json").write_text(json.dumps(root))


def remove(store: Path, path: str) -> None:
    shutil.rmtree(store / path)
    root = json.loads((store / "zarr.json").read_bytes())
    inner = root["consolidated_metadata"]["metadata"]
    root["consolidated_metadata"]["metadata"] = {
        key: node for key, node in inner.items() if not f"{key}/".startswith(f"{path}/")
    }
    (store / "zarr.json").write_text(json.dumps(root))


def rewrite(store: Path, path: str, change: Callable[[Any], Any]) -> None:
    """Change an array's pixels."""
    array = zarr.open_array(str(store / path), mode="r+")
    array[:] = change(np.asarray(array[:]))


def chunks(store: Path, path: str) -> list[Path]:
    return [entry for entry in (store / path / "c").rglob("*") if entry.is_file()]


def no_attribute(name: str) -> Callable[[Document], None]:
    return lambda node: node["attributes"].pop(name)


def drop_variable(store: Path) -> None:
    remove(store, BAND)


def drop_variable_of_overview(store: Path) -> None:
    remove(store, f"{GROUP}/r2/b02")


def drop_overview(store: Path) -> None:
    remove(store, f"{GROUP}/r2")


def forget_overview(store: Path) -> None:
    remove(store, f"{GROUP}/r2")
    edit(store, GROUP, lambda node: node["attributes"]["multiscales"]["layout"].pop())


def drop_multiscales(store: Path) -> None:
    edit(store, GROUP, no_attribute("multiscales"))


def empty_multiscales(store: Path) -> None:
    edit(store, GROUP, lambda node: node["attributes"].update(multiscales={"layout": []}))


def drop_conventions(store: Path) -> None:
    edit(store, GROUP, no_attribute("zarr_conventions"))


def drop_extent(store: Path) -> None:
    edit(store, GROUP, no_attribute("spatial:bbox"))


def wrong_crs(store: Path) -> None:
    edit(store, GROUP, lambda node: node["attributes"].update({"proj:code": "EPSG:32633"}))


def no_crs(store: Path) -> None:
    edit(store, GROUP, no_attribute("proj:code"))
    edit(store, f"{GROUP}/spatial_ref", lambda node: node["attributes"].clear())


def other_pixels(store: Path) -> None:
    rewrite(store, BAND, lambda values: values + 0.001)


def unscaled_pixels(store: Path) -> None:
    rewrite(store, BAND, lambda values: values * 10000)


def no_data_is_a_number(store: Path) -> None:
    rewrite(store, BAND, lambda values: np.where(np.isnan(values), np.float32(-0.1), values))


def largest_count_is_data(store: Path) -> None:
    rewrite(store, BAND, lambda values: np.where(np.isnan(values), np.float32(6.4535), values))


def swapped_scale(store: Path) -> None:
    rewrite(store, BAND, lambda values: (values + 0.1) / 0.0001 * -0.1 + 0.0001)


def no_pixels(store: Path) -> None:
    rewrite(store, BAND, lambda values: np.full_like(values, np.nan))


def transposed_pixels(store: Path) -> None:
    rewrite(store, BAND, np.transpose)


def other_grid(store: Path) -> None:
    rewrite(store, f"{GROUP}/x", lambda values: values + 10)


def noise_in_overview(store: Path) -> None:
    rewrite(store, f"{GROUP}/r2/b02", lambda values: np.random.default_rng(1).normal(size=values.shape))


def delete_chunks(store: Path) -> None:
    for chunk in chunks(store, BAND):
        chunk.unlink()


def delete_chunks_of_overview(store: Path) -> None:
    for chunk in chunks(store, f"{GROUP}/r2/b02"):
        chunk.unlink()


def truncate_chunk(store: Path) -> None:
    for chunk in chunks(store, BAND):
        chunk.write_bytes(chunk.read_bytes()[: chunk.stat().st_size // 2])


def truncate_chunk_of_overview(store: Path) -> None:
    chunk = chunks(store, f"{GROUP}/r2/b02")[-1]
    chunk.write_bytes(chunk.read_bytes()[:-1])


def empty_chunk(store: Path) -> None:
    for chunk in chunks(store, BAND):
        chunk.write_bytes(b"")


def other_shape(store: Path) -> None:
    edit(store, BAND, lambda node: node.update(shape=[539, 540]))


def extra_group(store: Path) -> None:
    shutil.copytree(store / GROUP, store / "quality" / "extra")
    root = json.loads((store / "zarr.json").read_bytes())
    inner = root["consolidated_metadata"]["metadata"]
    for path in [GROUP, *(key for key in inner if key.startswith(f"{GROUP}/"))]:
        inner[path.replace(GROUP, "quality/extra", 1)] = inner[path]
    (store / "zarr.json").write_text(json.dumps(root))


def not_consolidated(store: Path) -> None:
    root = json.loads((store / "zarr.json").read_bytes())
    (store / "zarr.json").write_text(json.dumps(root | {"consolidated_metadata": None}))


def empty_root(store: Path) -> None:
    """What the converter makes of groups that it does not find."""
    shutil.rmtree(store)
    store.mkdir()
    root = {"zarr_format": 3, "node_type": "group", "attributes": {}}
    (store / "zarr.json").write_text(json.dumps(root | {"consolidated_metadata": {"metadata": {}}}))


def nothing(store: Path) -> None:
    shutil.rmtree(store)


def broken_root(store: Path) -> None:
    (store / "zarr.json").write_text("{")


SABOTAGE = {
    drop_variable: (f"{R10M}/b02", "not in the output"),
    drop_variable_of_overview: (f"{R10M}/r2", "lacks b02"),
    drop_overview: (R10M, "is not there"),
    forget_overview: (R10M, "coarser ones are missing"),
    drop_multiscales: (R10M, "no multiscales"),
    empty_multiscales: (R10M, "names no levels"),
    drop_conventions: (R10M, "no Zarr conventions"),
    drop_extent: (R10M, "no spatial:bbox"),
    wrong_crs: (R10M, "EPSG:32632"),
    no_crs: (R10M, "EPSG:32632"),
    other_pixels: (f"{R10M}/b02", "differ from the source"),
    unscaled_pixels: (f"{R10M}/b02", "differ from the source"),
    no_data_is_a_number: (f"{R10M}/b02", "-0.1 instead of nan"),
    largest_count_is_data: (f"{R10M}/b02", "6.4535 instead of nan"),
    swapped_scale: (f"{R10M}/b02", "differ from the source"),
    no_pixels: (f"{R10M}/b02", "differ from the source"),
    transposed_pixels: (f"{R10M}/b02", "differ from the source"),
    other_grid: (f"{R10M}/x", "differ from the source"),
    noise_in_overview: (f"{R10M}/r2/b02", "not of the pixels they stand for"),
    delete_chunks: (f"{R10M}/b02", "differ from the source"),
    delete_chunks_of_overview: (f"{R10M}/r2/b02", "not of the pixels they stand for"),
    truncate_chunk: (f"{R10M}/b02", "cut off"),
    truncate_chunk_of_overview: (f"{R10M}/r2/b02", "cut off"),
    empty_chunk: (f"{R10M}/b02", "cannot be read"),
    other_shape: (f"{R10M}/b02", "shape"),
    extra_group: ("/quality/extra", "not asked for"),
    not_consolidated: ("/", "consolidated"),
    empty_root: (R10M, "not in the output"),
    nothing: ("", "no readable Zarr store"),
    broken_root: ("", "no readable Zarr store"),
}


def test_a_good_output_passes(plan: Plan, good: Run) -> None:
    verified = check(plan, good.output)
    assert verified.groups == (R10M,)
    assert verified.variables == 6  # four bands and their grid
    assert verified.pixels_compared == 3 * 4 * 128 * 128 + 2 * 540  # where no data is likely, and where data are


@pytest.mark.parametrize("sabotage", SABOTAGE, ids=lambda sabotage: sabotage.__name__)
def test_a_spoilt_output_fails(sabotage: Callable[[Path], None], plan: Plan, spoilt: Path) -> None:
    place, what = SABOTAGE[sabotage]
    sabotage(spoilt)
    with pytest.raises(VerificationFailed) as caught:
        check(plan, spoilt)
    assert place in caught.value.message
    assert what in caught.value.message
    assert caught.value.given == R10M
    assert caught.value.remedy


def test_a_group_that_was_not_converted_is_named(plan: Plan, good: Run) -> None:
    wider = replace(plan, groups=(R10M, R60M))
    with pytest.raises(VerificationFailed, match=f"{R60M}: the group is not in the output"):
        check(wider, good.output)


def test_only_the_first_problems_are_shown(plan: Plan, spoilt: Path) -> None:
    for name in ("b02", "b03", "b04", "b08", "x", "y"):
        remove(spoilt, f"{GROUP}/{name}")
    with pytest.raises(VerificationFailed, match=r"and \d+ more"):
        check(plan, spoilt)


def test_a_source_that_cannot_be_read_any_more_is_no_verdict(plan: Plan, good: Run, unused_url: str) -> None:
    with pytest.raises(ProductUnreachable):
        verify(plan, f"{unused_url}/s2.zarr", good.output, lambda done, total, unit: None)


FAKES = {
    "nothing": "pass",
    "an empty folder": "out.mkdir()",
    "a plain copy": "shutil.copytree(source, out)",
    "a plain copy in version 3": (
        "import zarr\n"
        "def copy(one, other):\n"
        "    for name, member in one.members():\n"
        "        if isinstance(member, zarr.Group):\n"
        "            copy(member, other.create_group(name, attributes=dict(member.attrs)))\n"
        "        else:\n"
        "            dims = member.attrs['_ARRAY_DIMENSIONS']\n"
        "            new = other.create_array(name, shape=member.shape, dtype=member.dtype, chunks=member.chunks,\n"
        "                                     attributes=dict(member.attrs), dimension_names=dims)\n"
        "            new[...] = member[...]\n"
        "copy(zarr.open_group(source, mode='r'), zarr.create_group(out))\n"
    ),
    "broken metadata": "out.mkdir(); (out / 'zarr.json').write_text('{')",
    "metadata that is no object": "out.mkdir(); (out / 'zarr.json').write_text('[]')",
    "nodes that are none": (
        'out.mkdir(); (out / \'zarr.json\').write_text(\'{"zarr_format": 3, "node_type": "group"}\')\n'
        "(out / 'a').mkdir(); (out / 'a' / 'zarr.json').write_text('{}')"
    ),
}


@pytest.mark.parametrize("script", FAKES.values(), ids=FAKES.keys())
def test_a_converter_that_only_says_that_it_succeeded(
    script: str, s2: Path, tmp_path: Path, fake_converter: Callable[[str], dict[str, str]]
) -> None:
    done = run(s2, tmp_path / "out.zarr", "--groups", R60M, env=fake_converter(script))
    assert done.code == 5, done.stdout + done.stderr
    assert done.error["code"] == "verification-failed"
    assert done.error["given"] == R60M
    assert beside(done.output) <= {"bin"}
    assert done.stderr == ""


def test_a_failed_overwrite_keeps_the_old_output(
    s2: Path, spoilt: Path, fake_converter: Callable[[str], dict[str, str]]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in spoilt.rglob("*")}
    done = run(s2, spoilt, "--groups", R60M, "--if-exists", "overwrite", env=fake_converter("out.mkdir()"))
    assert done.code == 5
    assert {path: path.stat().st_mtime_ns for path in spoilt.rglob("*")} == before
    assert beside(spoilt) <= {"out.zarr", "bin"}
    assert stat.S_ISDIR(spoilt.stat().st_mode)

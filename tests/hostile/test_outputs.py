"""Outputs that others made, or spoilt: opened and drawn within bounds, and ours is the error."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import geozarr_nb as gz
from geozarr_runner.errors import InvalidRequest, ProductBroken
from tests.hostile.support import bounded

Document = dict[str, Any]
HUGE = 10**400
MOST_NODES = 500


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A small GeoZarr: one group with a band, its coordinates, a time, and one overview."""
    store = tmp_path / "out.zarr"
    root = zarr.create_group(store, zarr_format=3)
    conventions = [{"name": "spatial"}, {"name": "proj"}, {"name": "multiscales"}]
    layout = [{"asset": "."}, {"asset": "r2"}]
    group = root.create_group("g", attributes={"zarr_conventions": conventions, "multiscales": {"layout": layout}})
    for place, edge in ((group, 64), (group.create_group("r2"), 32)):
        for name, dims in (("b04", ["y", "x"]), ("x", ["x"]), ("y", ["y"])):
            shape = (edge,) * len(dims)
            array = place.create_array(name, shape=shape, chunks=shape, dtype="float32", dimension_names=dims)
            array[:] = np.arange(np.prod(shape), dtype="float32").reshape(shape)
        time = place.create_array("when", shape=(2,), chunks=(2,), dtype="int64", dimension_names=["t"])
        time[:] = [0, 1]
        time.attrs["units"] = "days since 2025-01-01"
    zarr.consolidate_metadata(store)
    return store


def spoil(output: Path, change: Callable[[Document], object]) -> Path:
    """Change the consolidated metadata: `change` gets the nodes by their paths."""
    path = output / "zarr.json"
    document = json.loads(path.read_text())
    change(document["consolidated_metadata"]["metadata"])
    path.write_text(json.dumps(document))
    return output


def array(name: str = "b04", **fields: Any) -> Callable[[Document], object]:
    return lambda nodes: nodes[f"g/{name}"].update(fields)


def size(*shape: int, chunk: tuple[int, ...] | None = None, name: str = "b04", **more: Any) -> Callable[..., object]:
    grid = {"name": "regular", "configuration": {"chunk_shape": list(chunk or shape)}}
    return array(name, shape=list(shape), chunk_grid=grid, **more)


def attributes(name: str = "/b04", **values: Any) -> Callable[[Document], object]:
    return lambda nodes: nodes[f"g{name}"]["attributes"].update(values)


def multiscales(value: Any) -> Callable[[Document], object]:
    return lambda nodes: nodes["g"]["attributes"].update(multiscales=value)


def added(path: str, of: str = "g/b04") -> Callable[[Document], object]:
    return lambda nodes: nodes.update({path: json.loads(json.dumps(nodes[of]))})


def layout(*assets: Any) -> Callable[[Document], object]:
    return multiscales({"layout": [{"asset": asset} for asset in assets]})


# What is wrong, and whether the output can be opened all the same.
SPOILT: dict[str, Callable[[Document], object]] = {
    "an index of 80 GB": size(10**10, chunk=(10**10,), name="x"),
    "an index of 80 GB in chunks": size(10**10, chunk=(1000,), name="x"),
    "a time of 80 GB in one chunk": size(10**10, name="when"),
    "10^12 chunks": size(10**6, 10**6, chunk=(1, 1)),
    "10^18 pixels": size(10**9, 10**9),
    "beyond int64": size(10**30, 10**30),
    "negative": size(-1, -1),
    "no shape": array(shape=None),
    "shape of text": array(shape=["a", "b"]),
    "chunks of none": size(64, 64, chunk=(0, 0)),
    "three dimensions less": array(dimension_names=["y"]),
    "dimensions of numbers": array(dimension_names=[1, 2]),
    "one dimension twice": array(dimension_names=["x", "x"]),
    "coordinates that lie": size(63, name="x"),
    "a codec that is none": array(codecs=[{"name": "nonsense"}]),
    "pickle": array(codecs=[{"name": "numcodecs.pickle"}]),
    "no codecs": array(codecs=[]),
    "codecs of text": array(codecs="bytes"),
    "a type that is none": array(data_type="nonsense"),
    "a type without an end": array(data_type={"name": {}}),
    "a fill value that is none": array(fill_value=[1, 2]),
    "keys that lead out": array(chunk_key_encoding={"name": "default", "configuration": {"separator": "/../../../"}}),
    "scale of text": attributes(scale_factor="a", add_offset=[]),
    "scale of a list": attributes(scale_factor=[1, 2], add_offset={}),
    "scale beyond floats": attributes(scale_factor=HUGE),
    "fill of anything": attributes(_FillValue={"a": []}),
    "missing beyond floats": attributes(missing_value=HUGE),
    "valid range of text": attributes(valid_range="a", valid_min="b", flag_meanings=3),
    "units of a list": attributes(units=["days since", 3]),
    "units since never": attributes("/when", units="days since never"),
    "a calendar that is none": attributes("/when", calendar=["x"]),
    "an offset in time beyond all": attributes("/when", units="days since 9999999-01-01"),
    "coordinates that are none": attributes(coordinates=["x", 1]),
    "coordinates in a circle": attributes(coordinates="b04 x y b04"),
    "a mapping that is none": attributes(grid_mapping={"a": 1}),
    "bounds that are none": attributes("/x", bounds=3),
    "dtype in attributes": attributes(dtype="nonsense", _Unsigned="perhaps"),
    "a group's coordinates": attributes("", coordinates=[1]),
    "conventions of text": attributes("", zarr_conventions="spatial"),
    "conventions of anything": attributes("", zarr_conventions=[[], None, {"name": []}, {"name": "spatial"}]),
    "multiscales of text": multiscales("layout"),
    "a layout of anything": multiscales({"layout": [None, 1, [], {}, {"asset": None}, {"asset": {"a": []}}]}),
    "a layout in a circle": layout(".", "r2", ".", "r2", "r2/..", "../g", "g"),
    "a layout of thousands": layout(*(["r2", "."] * 5000)),
    "a layout that leads out": layout("../../..", "/etc", "..", ""),
    "a layout of the coarse alone": layout("r2"),
    "a node that leads out": added("g/../../secret/b04"),
    "a node above the root": added("../b04"),
    "a node without a parent": added("nowhere/at/all/b04"),
    "a node of no name": added("g//b05"),
    "a node that is an array's": added("g/b04/inner"),
    "a node that is both": lambda nodes: nodes.update({"g/b04/r2": nodes["g"]}),
    "a node that is none": lambda nodes: nodes.update({"g/b05": None, "g/b06": []}),
    "a node of another format": array(zarr_format=2),
    "a node of no type": array(node_type="cup"),
    "a name of two lines": added("g/a\nb"),
    "a dimension of two lines": array(dimension_names=["a\nb", "x"]),
    "an attribute of two lines": attributes(**{"a\nb": 1}),
    "attributes of a list": array(attributes=[1]),
    "a group of the name of a band": lambda nodes: nodes.update({"g/b04/g": nodes["g"]}),
    "more nodes than anybody opens": lambda nodes: nodes.update({f"n{i}": nodes["g"] for i in range(MOST_NODES + 1)}),
}


@pytest.fixture(autouse=True)
def small_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let thousands be too many, so that they are made in no time."""
    monkeypatch.setattr("geozarr_nb.outputs.groups.MOST_NODES", MOST_NODES)


def assert_ours(call: Callable[[Path], object], output: Path) -> None:
    """Fail where a call ends in anything but what it is for, or in an error of ours that says what to do."""
    try:
        call(output)
    except (ProductBroken, InvalidRequest) as error:
        if not error.remedy:
            raise


@pytest.mark.parametrize("what", SPOILT)
@pytest.mark.filterwarnings("ignore")
def test_metadata_of_any_kind_end_in_our_errors(what: str, output: Path) -> None:
    spoil(output, SPOILT[what])
    for call in (gz.open, lambda path: gz.open(path, level="coarsest"), gz.preview):
        assert_ours(call, output)


ODD: list[Any] = [None, True, -1, 1.5, HUGE, "", "x", [], [[]], {}, {"a": {"b": []}}, "days since", "\ud800", "\x00"]
OF_AN_ARRAY = ("shape", "codecs", "fill_value", "data_type", "chunk_grid", "attributes")
OF_ITS_VALUES = ("units", "scale_factor", "add_offset", "_FillValue", "missing_value")
OF_ITS_PLACE = ("calendar", "coordinates", "grid_mapping", "dtype")


@pytest.mark.parametrize("number", range(len(ODD)))
@pytest.mark.filterwarnings("ignore")
def test_attributes_and_fields_of_any_type(number: int, output: Path) -> None:
    value = ODD[number]
    original = (output / "zarr.json").read_text()
    for change in (
        *(attributes(**{name: value}) for name in (*OF_ITS_VALUES, *OF_ITS_PLACE)),
        *(array(**{name: value}) for name in OF_AN_ARRAY),
        attributes("", multiscales=value),
        multiscales({"layout": value}),
        layout(value),
        attributes("", zarr_conventions=[value, {"name": "spatial"}]),
    ):
        (output / "zarr.json").write_text(original)
        spoil(output, change)
        assert_ours(gz.preview, output)


@pytest.mark.parametrize("name", ["scale_factor", "add_offset"])
@pytest.mark.parametrize("value", ["x", {}, HUGE, [1, 2]], ids=str)
def test_numbers_that_are_none_are_found_before_pixels_are_read(name: str, value: Any, output: Path) -> None:
    with pytest.raises(ProductBroken, match="is no number"):
        gz.open(spoil(output, attributes(**{name: value})))


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"1", b"[" * 100_000, b"\xff", b'{"a": ' * 100_000, b"{}"])
@pytest.mark.parametrize("name", ["zarr.json", ".zmetadata"])
def test_a_document_that_is_none(content: bytes, name: str, tmp_path: Path) -> None:
    (tmp_path / "out.zarr").mkdir()
    (tmp_path / "out.zarr" / name).write_bytes(content)
    with pytest.raises((ProductBroken, InvalidRequest)):
        gz.open(tmp_path / "out.zarr")


def bomb(output: Path) -> Path:
    """Put 1.1 GB into the band's chunk of 64 x 64 pixels: a frame that says so, of blocks that each repeat a zero."""
    size, block = 1_100_000_000, 128 * 1024
    whole, rest = divmod(size, block)
    frame = (0xFD2FB528).to_bytes(4, "little") + b"\xa0" + size.to_bytes(4, "little")
    frame += ((block << 3 | 2).to_bytes(3, "little") + b"\0") * whole + (rest << 3 | 3).to_bytes(3, "little") + b"\0"
    assert len(frame) < 40_000
    (output / "g" / "b04" / "c" / "0" / "0").write_bytes(frame)
    return output


def test_a_bomb_is_neither_opened_nor_drawn(output: Path) -> None:
    said = (
        "import sys, geozarr_nb as gz\n"
        "for call in (lambda: gz.open(sys.argv[1])['g/b04'].load(), lambda: gz.preview(sys.argv[1], level=0)):\n"
        "    try:\n"
        "        call()\n"
        "    except gz.errors.ProductBroken as error:\n"
        "        print(f'[{error.code}] {error}')\n"
    )
    ended = bounded("-c", said, bomb(output), megabytes=500, seconds=60)
    assert ended.stdout.count("[product-broken]") == 2, ended.stderr
    assert "1.1 GB" in ended.stdout


@pytest.mark.parametrize("width", [1, 8])
def test_absent_pixels_of_one_huge_chunk(width: int, output: Path) -> None:
    """Of a band whose one chunk has 400 million pixels nothing is stored: all of it is the fill value."""
    kind = {1: "uint8", 8: "float64"}[width]
    spoil(output, size(20_000, 20_000, data_type=kind, fill_value=0))
    spoil(output, layout("."))
    spoil(output, lambda nodes: [nodes.pop(f"g/{name}") for name in ("x", "y")])
    (output / "g" / "b04" / "c" / "0" / "0").unlink()
    ended = bounded("-m", "geozarr_nb", "preview", output, output.parent / "p.png", megabytes=1000, seconds=60)
    ended.refused("product-broken")


def test_far_too_many_pixels_are_drawn_with_gaps(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = import_module("geozarr_nb.outputs.preview")  # the name in the package is the function's
    whole = gz.preview(output, level=0)
    monkeypatch.setattr(module, "MOST_PIXELS", 64 * 64 - 1)
    monkeypatch.setattr(module, "FEW_PIXELS", 16 * 16)
    some = gz.preview(output, level=0)
    assert (whole.size, some.size) == ((64, 64), (16, 16))
    np.testing.assert_array_equal(some.pixels[..., 3], whole.pixels[3::4, ::4, 3])

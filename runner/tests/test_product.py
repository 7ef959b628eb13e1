"""What a product is said to hold, from its metadata alone, in as few requests as can be."""

from __future__ import annotations

import json
import os
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from benchmarks.server import ProductServer
from geozarr_runner.errors import InvalidRequest, ProductBroken, ProductUnreachable
from geozarr_runner.inspection.reader import open_product
from geozarr_runner.product.model import Product
from runner.tests.support import (
    R10M,
    R20M,
    calls_in,
    consolidated_v2,
    grid_v2,
    write_store,
    write_terrain,
)


def item(href: str, **changes: object) -> dict[str, Any]:
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": "an-item",
        "geometry": None,
        "properties": {"datetime": "2026-01-01T00:00:00Z"},
        "links": [],
        "assets": {"product": {"href": href, "type": "application/vnd+zarr"}},
        **changes,
    }


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("small") / "small.zarr", {**consolidated_v2(grid_v2("a"))})


def test_a_real_structure(s2: Path) -> None:
    product = open_product(s2)
    assert product.kind == "Sentinel-2 L2A"
    assert product.name == "s2"
    assert product.zarr_format == 2
    assert product.consolidated
    assert product.url == str(s2)
    group = product.groups[R10M]
    assert [array.name for array in group.variables] == ["b02", "b03", "b04", "b08"]
    assert {array.name for array in group.coordinates} == {"x", "y"}
    assert group.shape == (540, 540)
    assert product.bbox is not None
    assert product.when.startswith("20")
    assert "stac_discovery" in product.attributes
    assert product.stored_bytes(R10M) == sum(
        file.stat().st_size for file in (s2 / R10M[1:]).rglob("*") if file.is_file() and not file.name.startswith(".")
    )
    assert json.loads(json.dumps(product.to_dict()))["groups"][R10M]["shape"] == [540, 540]


@pytest.mark.parametrize(
    ("fixture", "kind"), [("s1", "Sentinel-1 GRD"), ("s3", "Sentinel-3 OLCI"), ("terrain", "Zarr")]
)
def test_kinds(fixture: str, kind: str, request: pytest.FixtureRequest) -> None:
    assert open_product(request.getfixturevalue(fixture)).kind == kind


def test_identity_depends_on_the_metadata_alone(small: Path, tmp_path: Path) -> None:
    documents = grid_v2("a")
    same = open_product(write_store(tmp_path / "same.zarr", {**consolidated_v2(documents)}))
    documents["a/data/.zattrs"]["units"] = "m"
    other = open_product(write_store(tmp_path / "other.zarr", {**consolidated_v2(documents)}))
    assert open_product(small).identity == same.identity != other.identity


def test_what_is_not_consolidated_is_listed_on_this_machine(tmp_path: Path) -> None:
    for zarr_format in (2, 3):
        path = write_terrain(tmp_path / f"v{zarr_format}.zarr", zarr_format=zarr_format, size=16)
        gathered = open_product(path)
        if zarr_format == 2:
            (path / ".zmetadata").unlink()
        else:
            root = json.loads((path / "zarr.json").read_bytes())
            del root["consolidated_metadata"]
            (path / "zarr.json").write_text(json.dumps(root))
        listed = open_product(path)
        assert not listed.consolidated
        assert listed.zarr_format == gathered.zarr_format == zarr_format
        assert list(listed.groups) == list(gathered.groups) == ["/dem"]
        for one in gathered.groups["/dem"].arrays:
            [other] = (array for array in listed.groups["/dem"].arrays if array.name == one.name)
            assert (other.shape, other.chunks, other.dims, other.dtype) == (one.shape, one.chunks, one.dims, one.dtype)
            assert list(other.object_keys()) == list(one.object_keys())
            assert dict(other.attributes) == dict(one.attributes)


def test_what_is_not_consolidated_cannot_be_read_where_nothing_is_listed(tmp_path: Path) -> None:
    path = write_terrain(tmp_path / "p.zarr", zarr_format=2, size=16)
    (path / ".zmetadata").unlink()
    with ProductServer(tmp_path) as server, pytest.raises(ProductUnreachable, match="not consolidated") as caught:
        open_product(f"{server.url}/p.zarr")
    assert "consolidate_metadata" in caught.value.remedy


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("separator", [".", "/"])
@pytest.mark.parametrize("shape", [(), (5,), (4, 6), (2, 4, 6)])
def test_keys_are_those_that_zarr_writes(
    zarr_format: Any, separator: Any, shape: tuple[int, ...], tmp_path: Path
) -> None:
    name = "v2" if zarr_format == 2 else "default"
    root = zarr.create_group(str(tmp_path), zarr_format=zarr_format)
    dims = {"dimension_names": [f"d{axis}" for axis in range(len(shape))]} if zarr_format == 3 else {}
    array = root.create_group("g").create_array(
        "a",
        shape=shape,
        chunks=tuple(max(size // 2, 1) for size in shape),
        dtype="i4",
        chunk_key_encoding={"name": name, "separator": separator},
        **dims,
    )
    array[...] = 7
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(str(tmp_path), zarr_format=zarr_format)
    [found] = open_product(tmp_path).groups["/g"].arrays
    stored = {
        file.relative_to(tmp_path).as_posix()
        for file in tmp_path.rglob("*")
        if file.is_file() and not file.name.startswith(".z") and file.name != "zarr.json"
    }
    assert set(found.object_keys()) == stored
    assert len(list(found.indices())) == len(stored)


def test_an_object_of_a_sharded_array_is_a_shard(tmp_path: Path) -> None:
    root = zarr.create_group(str(tmp_path), zarr_format=3)
    array = root.create_array("a", shape=(8, 8), chunks=(2, 2), shards=(4, 4), dtype="u1", dimension_names=("y", "x"))
    array[...] = np.arange(64).reshape(8, 8)
    [found] = open_product(tmp_path).groups["/"].arrays
    assert found.chunks == (4, 4)
    assert found.grid == (2, 2)
    assert all((tmp_path / key).is_file() for key in found.object_keys())


# --- where a product may be named ------------------------------------------------------------------------------------


def test_one_request_for_a_consolidated_product(server: ProductServer, s2: Path) -> None:
    product = open_product(f"{server.url}/s2.zarr/")
    repr(product)
    product._repr_html_()
    assert server.counts.data == server.counts.requests == 1
    assert list(product.groups) == list(open_product(s2).groups)
    assert product.stored_bytes(R20M) is None


def test_two_requests_with_an_item(small: Path) -> None:
    (small.parent / "item.json").write_text(json.dumps(item("./small.zarr")))
    with ProductServer(small.parent) as server:
        product = open_product(f"{server.url}/item.json")
        assert server.counts.data == server.counts.requests == 2
        assert product.url == f"{server.url}/small.zarr"
    assert product.name == "an-item"


def test_an_items_address_need_not_end_in_json(small: Path) -> None:
    items = small.parent / "items"
    items.mkdir(exist_ok=True)
    (items / "an-item").write_text(json.dumps(item("../small.zarr")))
    with ProductServer(small.parent) as server:
        assert list(open_product(f"{server.url}/items/an-item").groups) == ["/a"]


def test_items_in_every_form(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pystac

    file = small.parent / "here.json"
    file.write_text(json.dumps(item("small.zarr")))
    loaded = pystac.Item.from_file(str(file))
    absolute = item(str(small))
    linked = item("./small.zarr", links=[{"rel": "self", "href": str(file)}])
    for form in (file, str(file), f"file://{file}", absolute, linked, loaded):
        product = open_product(form)
        assert product.name == "an-item"
        assert list(product.groups) == ["/a"]
    monkeypatch.chdir(small.parent)
    assert list(open_product("here.json").groups) == ["/a"]
    assert open_product(product) is product


def test_assets_inside_one_store_are_that_store(small: Path) -> None:
    assets = {
        "thumbnail": {"href": str(small.parent / "picture.png")},
        "b02": {"href": f"{small}/a/data"},
        "b03": {"href": f"{small}/a/y"},
        "metadata": {"href": f"{small}/.zmetadata"},
    }
    assert open_product(item("", assets=assets)).url == str(small)


def test_of_several_stores_the_product_is_taken(small: Path) -> None:
    assets = {"extra": {"href": "/else/where.zarr"}, "product": {"href": str(small)}}
    assert open_product(item("", assets=assets)).url == str(small)
    del assets["product"]
    assets["more"] = {"href": str(small)}
    with pytest.raises(InvalidRequest, match="2 Zarr stores") as caught:
        open_product(item("", assets=assets))
    assert str(small) in caught.value.remedy


@pytest.mark.parametrize("assets", [{}, {"a": None}, {"a": {"href": None}}, {"a": {"href": "scene.tif"}}])
def test_an_item_without_zarr(assets: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest, match="no Zarr asset") as caught:
        open_product(item("", assets=assets))
    assert "an-item" in str(caught.value)


@pytest.mark.parametrize("source", [None, 1, b"a.zarr", [], ["a.zarr"]])
def test_what_is_no_product_at_all(source: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        open_product(source)
    assert caught.value.remedy


# --- metadata that lie -----------------------------------------------------------------------------------------------

JUNK = [None, [], {}, "x", -1, float("inf"), [1], ["a"], {"a": 1}]


def places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the place of every value in a document."""
    inner = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    return [place for key, value in inner for place in ((*path, key), *places(value, (*path, key)))]


def spoil(document: Any, place: tuple[Any, ...], junk: object) -> bytes:
    copy = json.loads(json.dumps(document))
    inner = copy
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = junk
    return json.dumps(copy).encode()


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_no_metadata_whatever_end_in_a_defect(zarr_format: int, tmp_path: Path) -> None:
    """Every value of a product's metadata is replaced by junk of every type: it is read, or it is refused."""
    path = write_terrain(tmp_path / "p.zarr", zarr_format=zarr_format, size=4)
    key = ".zmetadata" if zarr_format == 2 else "zarr.json"
    document = json.loads((path / key).read_bytes())
    root = document["metadata"][".zattrs"] if zarr_format == 2 else document["attributes"]
    root["stac_discovery"] = {"properties": {"product:type": "S02MSIL2A"}, "bbox": [1, 2, 3, 4]}
    refused = accepted = tried = 0
    for place in places(document):
        for junk in JUNK:
            (path / key).write_bytes(spoil(document, place, junk))
            try:
                product = open_product(path)
            except (ProductBroken, ProductUnreachable) as error:
                refused += bool(error.given and error.remedy)
            else:
                accepted += bool(repr(product) and product._repr_html_() and product.to_dict())
            tried += 1
    assert refused + accepted == tried
    assert refused > 50


def test_no_item_whatever_ends_in_a_defect(small: Path) -> None:
    document = item(str(small), links=[{"rel": "self", "href": "/a/item.json"}])
    for place in places(document):
        for junk in JUNK:
            with suppress(InvalidRequest, ProductUnreachable):
                open_product(json.loads(spoil(document, place, junk)))


# --- large ones ------------------------------------------------------------------------------------------------------


def test_thousands_of_groups_do_not_lock_a_page(tmp_path: Path) -> None:
    documents = {key: node for number in range(3000) for key, node in grid_v2(f"tile{number:04}").items()}
    product = open_product(
        write_store(tmp_path / "many.zarr", {".zmetadata": consolidated_v2(documents)[".zmetadata"]})
    )
    assert len(product.groups) == 3000
    shown: list[str] = []
    assert calls_in(lambda: shown.extend((repr(product), product._repr_html_()))) < 32_000  # for twice the groups too
    text, page = shown
    assert len(text) < 20_000
    assert len(page) < 50_000
    assert "2940 more" in text
    assert "2940 more" in page


def test_html_is_escaped(tmp_path: Path) -> None:
    documents = consolidated_v2(grid_v2("<script>alert(1)<!--"))
    page = open_product(write_store(tmp_path / "p.zarr", {".zmetadata": documents[".zmetadata"]}))._repr_html_()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_secrets_are_not_shown(small: Path) -> None:
    with ProductServer(small.parent, signature="sig=s3cret") as server:
        product = open_product(f"{server.url}/small.zarr?sig=s3cret")
    for shown in (repr(product), product._repr_html_(), json.dumps(product.to_dict()), repr(product.store)):
        assert "s3cret" not in shown
    assert isinstance(product, Product)
    assert os.fspath(small) not in repr(product)

"""What a product's metadata may not do: choose files, run code, or say sizes that nobody can hold."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from geozarr_runner.errors import GroupsMissing, InvalidRequest, ProductBroken
from geozarr_runner.events import Reporter
from geozarr_runner.inspection import documents
from geozarr_runner.inspection.reader import open_product
from geozarr_runner.planning.estimate import FEW, estimate
from geozarr_runner.planning.groups import report
from geozarr_runner.planning.preflight import Plan, preflight
from geozarr_runner.product.model import LOOKED_AT, Array, Product
from geozarr_runner.spec.request import Request
from geozarr_runner.staging.view import make_view
from geozarr_runner.stores.store import Store
from geozarr_runner.trust.bounds import MOST_OBJECTS
from runner.tests.support import array_v2, consolidated_v2, grid_v2, with_axes, write_store, write_terrain
from tests.hostile.support import bounded

ROOT = Path(__file__).parents[2]
Document = dict[str, Any]


def array_v3(shape: list[int], dims: list[str], **changes: Any) -> Document:
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": shape,
        "data_type": "uint16",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shape}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
        "attributes": {"proj:epsg": 32632},
        "dimension_names": dims,
        **changes,
    }


def group_v3() -> Document:
    return {"zarr_format": 3, "node_type": "group", "attributes": {}}


def grid_v3(group: str, size: int = 8, **changes: Any) -> dict[str, Document]:
    return {
        group: group_v3(),
        f"{group}/y": array_v3([size], ["y"]),
        f"{group}/x": array_v3([size], ["x"]),
        f"{group}/data": array_v3([size, size], ["y", "x"]) | changes,
    }


def store_v3(root: Path, nodes: Mapping[str, Any]) -> Path:
    """A consolidated Zarr v3 store; its nodes have no documents of their own."""
    return write_store(root, {"zarr.json": {**group_v3(), "consolidated_metadata": {"metadata": dict(nodes)}}})


def store_v2(root: Path, documents: Mapping[str, Any]) -> Path:
    return write_store(root, {".zmetadata": consolidated_v2(dict(documents))[".zmetadata"]})


def changed_v2(group: str = "a", size: int = 8, **changes: Any) -> dict[str, Document]:
    documents = grid_v2(group, size)
    documents[f"{group}/data/.zarray"] |= changes
    return documents


def plan_of(product: Path | Product, output: Path, *groups: str) -> Plan:
    opened = open_product(product)
    request = Request.of(opened.url, output, groups=list(groups))
    return preflight(request, Reporter(StringIO(), readable=True), product=opened)


# --- names of files --------------------------------------------------------------------------------------------------

SEPARATORS = ["/../../x.", "../", "//", "/./", "\\", "\x00", "\n", "", "-", " ", "/c/", None, 1, [".", "/"], {"a": 1}]


@pytest.mark.parametrize("separator", SEPARATORS, ids=repr)
@pytest.mark.parametrize("kind", ["v2", "default", "v2 in v3", "shorthand"])
def test_a_separator_that_zarr_does_not_know_is_refused(kind: str, separator: Any, tmp_path: Path) -> None:
    encodings = {
        "default": {"name": "default", "configuration": {"separator": separator}},
        "v2 in v3": {"name": "v2", "configuration": {"separator": separator}},
        "shorthand": {"name": "default", "separator": separator, "configuration": {"separator": "/"}},
    }
    if kind == "v2":
        store = store_v2(tmp_path / "p.zarr", changed_v2(dimension_separator=separator))
    else:
        store = store_v3(tmp_path / "p.zarr", grid_v3("a", chunk_key_encoding=encodings[kind]))
    with pytest.raises(ProductBroken) as caught:
        open_product(store)
    assert "/a/data" in caught.value.message
    assert caught.value.remedy


@pytest.mark.parametrize("name", ["suffix", "V2", "", None, 1, ["v2"]])
def test_no_other_way_to_name_objects_is_looked_for(name: Any, tmp_path: Path) -> None:
    store = store_v3(tmp_path / "p.zarr", grid_v3("a", chunk_key_encoding={"name": name}))
    with pytest.raises(ProductBroken):
        open_product(store)


BAD_PATHS = [
    "../a", "a/../../b", "/etc", "//host/share", "a//b", "a/./b", "a/", "a\x00b", "a\x1b[2Jb", "a\nb", "a\x7fb",
    "a\ud800b", "a\\b", "x" * 256, "/".join(["a"] * 40), "zarr.json", "a/.zarray", ".zattrs/b",
]  # fmt: skip


@pytest.mark.parametrize("path", BAD_PATHS, ids=ascii)
def test_a_path_that_cannot_be_one_is_refused(path: str, tmp_path: Path) -> None:
    for store in (
        store_v2(tmp_path / "v2.zarr", grid_v2(path)),
        store_v3(tmp_path / "v3.zarr", grid_v3(path)),
        store_v3(tmp_path / "group.zarr", {path: group_v3()}),
    ):
        with pytest.raises(ProductBroken, match="path") as caught:
            open_product(store)
        assert str(caught.value).isprintable() or "\x1b" not in str(caught.value)
        assert str(caught.value).encode()


def test_the_root_is_said_once(tmp_path: Path) -> None:
    with pytest.raises(ProductBroken, match="empty"):
        open_product(store_v3(tmp_path / "p.zarr", {"": array_v3([1], ["x"])}))


def test_nothing_lies_in_an_array(tmp_path: Path) -> None:
    """Its chunk and the other's folder would have one name."""
    inner = {"a/data/0.0/more/.zgroup": {"zarr_format": 2}}
    for store in (
        store_v2(tmp_path / "v2.zarr", grid_v2("a") | inner),
        store_v3(tmp_path / "v3.zarr", grid_v3("a") | {"a/data/c/0/b": group_v3()}),
    ):
        with pytest.raises(ProductBroken, match="lies in an array"):
            open_product(store)


@pytest.mark.parametrize("odd", [{"dimension_separator": "/../../../x."}, {}])
def test_staging_writes_nothing_outside_whoever_asks(odd: Document, tmp_path: Path) -> None:
    """The last barrier, behind that of reading: an array that did not come from `open_product`."""
    source = with_axes(store_v2(tmp_path / "deep" / "source" / "p.zarr", grid_v2("a")), "a")
    path = "/a/data" if odd else "/../../stolen"
    metadata = array_v2((8, 8), ("y", "x"), "data")["data/.zarray"] | odd
    array = Array(path, (8, 8), (4, 4), "<u2", ("y", "x"), {}, metadata)
    plan = plan_of(source, tmp_path / "out.zarr", "/a")
    view = tmp_path / "deep" / "scratch" / "view"
    before = {entry for entry in tmp_path.rglob("*") if view not in entry.parents}
    with pytest.raises(ProductBroken, match=r"cannot be a path|zarr cannot read its metadata"):
        make_view(plan, [array], source, view)
    after = {entry for entry in tmp_path.rglob("*") if view not in entry.parents}
    assert after - before <= {view, view.parent}


@pytest.mark.parametrize(
    "encoding", [{"name": "v2", "separator": "/"}, {"name": "default", "separator": "."}, {"name": "v2"}]
)
def test_keys_are_zarrs_own_in_every_spelling(encoding: Document, tmp_path: Path) -> None:
    from zarr.core.metadata.v3 import ArrayV3Metadata

    grid = {"name": "regular", "configuration": {"chunk_shape": [4, 4]}}
    nodes = grid_v3("a", chunk_key_encoding=encoding, chunk_grid=grid)
    [array] = open_product(store_v3(tmp_path / "p.zarr", nodes)).groups["/a"].variables
    by_zarr = ArrayV3Metadata.from_dict(nodes["a/data"])
    assert list(array.object_keys()) == [f"a/data/{by_zarr.encode_chunk_key(index)}" for index in array.indices()]
    assert all(array.has_key(array.key(index)) for index in array.indices())
    assert not any(array.has_key(key) for key in (array.key((2, 0)), "c", "0", "zarr.json", "c/00/0", "0.0.0"))


def test_what_is_read_in_place_says_what_was_looked_at(tmp_path: Path) -> None:
    """The converter may read an array's own document, which is not the consolidated one."""
    store = write_terrain(tmp_path / "p.zarr", zarr_format=2, size=16)
    assert not plan_of(store, tmp_path / "out.zarr").narrowed
    own = store / "dem" / "height" / ".zarray"
    own.write_text(json.dumps(json.loads(own.read_bytes()) | {"filters": [{"id": "pickle"}]}))
    assert plan_of(store, tmp_path / "out.zarr").narrowed


# --- codecs ----------------------------------------------------------------------------------------------------------


class Trap:
    """A codec's entry point that must not be loaded."""

    loaded = 0

    def load(self) -> Any:
        type(self).loaded += 1
        raise AssertionError("a codec was imported by the name that a product gives")


def shards(codec: Document, where: str = "codecs") -> list[Document]:
    usual = [{"name": "bytes", "configuration": {"endian": "little"}}]
    inner = {"codecs": usual, "index_codecs": usual} | {where: [*usual, codec]}
    return [{"name": "sharding_indexed", "configuration": {"chunk_shape": [4, 4], **inner}}]


def codec_cases(name: str) -> dict[str, tuple[int, Document]]:
    v2, v3 = {"id": name}, {"name": name, "configuration": {}}
    usual = {"name": "bytes", "configuration": {"endian": "little"}}
    nested = shards(shards(v3)[0])
    return {
        "compressor": (2, {"compressor": v2}),
        "filter": (2, {"filters": [{"id": "zlib"}, v2]}),
        "objects": (2, {"dtype": "|O", "filters": [v2], "fill_value": None}),
        "v3": (3, {"codecs": [usual, v3]}),
        "shard": (3, {"codecs": shards(v3)}),
        "index": (3, {"codecs": shards(v3, "index_codecs")}),
        "shard of shards": (3, {"codecs": nested}),
    }


@pytest.mark.parametrize("consolidated", [True, False])
@pytest.mark.parametrize("case", codec_cases(""))
@pytest.mark.parametrize("name", ["pickle", "numcodecs.pickle", "trap"])
def test_codecs_that_run_code_are_never_looked_up(
    name: str, case: str, consolidated: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numcodecs.registry
    import zarr.registry

    monkeypatch.setitem(numcodecs.registry.entries, "trap", Trap())
    registry: Any = zarr.registry.Registry()
    registry.lazy_load_list.append(Trap())
    monkeypatch.setitem(zarr.registry._codec_registries, "trap", registry)
    monkeypatch.setattr(Trap, "loaded", 0)
    zarr_format, changes = codec_cases(name)[case]
    if zarr_format == 2:
        documents: dict[str, Any] = changed_v2(**changes) | grid_v2("b")
        documents = consolidated_v2(documents)
        if not consolidated:
            del documents[".zmetadata"]
        store = write_store(tmp_path / "p.zarr", documents)
    else:
        nodes = grid_v3("a", **changes) | grid_v3("b")
        root = group_v3() | ({"consolidated_metadata": {"metadata": nodes}} if consolidated else {})
        store = write_store(
            tmp_path / "p.zarr", {"zarr.json": root} | {f"{path}/zarr.json": node for path, node in nodes.items()}
        )
    product = open_product(with_axes(store, "a", "b"))
    assert "cannot be converted: /a: data: it is stored with the codec" in repr(product)
    assert name in report(product, "/a").unfit["/a"]
    assert report(product).available == ("/b",)
    assert not report(product).ok
    for groups in (["/a"], []):
        with pytest.raises(GroupsMissing, match=name) as caught:
            plan_of(store, tmp_path / "out.zarr", *groups)
        assert "/b" in caught.value.remedy
        with pytest.raises(GroupsMissing, match=name):
            estimate(product, groups)
    assert plan_of(store, tmp_path / "out.zarr", "/a", "/b").groups == ("/b",)
    assert Trap.loaded == 0


def test_codecs_that_are_arithmetic_stay_open(tmp_path: Path) -> None:
    """Every codec that numcodecs and zarr themselves register and that runs no code."""
    import numcodecs.registry
    import zarr.codecs.numcodecs
    import zarr.registry

    from geozarr_runner.product.metadata import CODECS_V2, CODECS_V3

    own = {
        name for name, codec in numcodecs.registry.codec_registry.items() if codec.__module__.startswith("numcodecs")
    }
    assert own - CODECS_V2 == {"pickle"}
    assert set(zarr.registry._codec_registries) - CODECS_V3 <= {"trap"}


def test_the_control_points_beside_a_group_count_too(tmp_path: Path) -> None:
    documents: dict[str, Any] = grid_v2("VV/measurements") | changed_v2(
        "VV/conditions/gcp", compressor={"id": "pickle"}
    )
    documents |= {".zattrs": {"stac_discovery": {"properties": {"product:type": "S01SIWGRH"}}}}
    metadata = {".zgroup": {"zarr_format": 2}, **documents}
    product = open_product(write_store(tmp_path / "p.zarr", {".zmetadata": {"metadata": metadata}}))
    assert product.kind == "Sentinel-1 GRD"
    assert "pickle" in report(product, "/VV/measurements").unfit["/VV/measurements"]


def test_the_version_that_refuses_to_unpickle_is_required() -> None:
    for file in (ROOT / "pyproject.toml", ROOT / "runner" / "pyproject.toml"):
        wanted = tomllib.loads(file.read_text())["project"]["dependencies"]
        assert any(line.startswith("zarr") for line in wanted)
        assert "numcodecs>=0.17.1" in wanted, file


# --- sizes -----------------------------------------------------------------------------------------------------------

SHOWN = """
import sys, json
from geozarr_runner.inspection.reader import open_product
from geozarr_runner.planning.groups import report
from geozarr_runner.planning.estimate import estimate
from geozarr_runner.errors import GeozarrError
for path in sys.argv[1:]:
    product = open_product(path)
    print("----", repr(product), product._repr_html_(), json.dumps(product.to_dict()), report(product, "/a"))
    for groups in ("/a", None):
        try:
            print(estimate(product, groups))
        except GeozarrError as error:
            print(f"[{error.code}]", error)
"""
LARGE = {
    "in 1,000,000,000,000 objects": ([10**6, 10**6], [1, 1]),
    "in 11,115,556 objects": ([10**4, 10**4], [3, 3]),
    "about 10^37 bytes": ([2**62, 2**62], [2**62, 2**62]),
    "in about 10^19 objects": ([2**63 - 1, 2**63 - 1], [1, 2**62]),
    "has 45,000,000,000 bytes": ([150_000, 150_000], [150_000, 150_000]),
}


def test_sizes_are_shown_and_refused_by_arithmetic(tmp_path: Path) -> None:
    stores = []
    for number, (shape, chunks) in enumerate(LARGE.values()):
        grid = {"name": "regular", "configuration": {"chunk_shape": chunks}}
        stores += [
            store_v2(tmp_path / f"v2-{number}.zarr", changed_v2(shape=shape, chunks=chunks)),
            store_v3(tmp_path / f"v3-{number}.zarr", grid_v3("a", shape=shape, chunk_grid=grid)),
        ]
    ended = bounded("-c", SHOWN, *stores, seconds=60, megabytes=400)
    assert ended.code == 0, ended.stderr
    _, *said = ended.stdout.split("----")
    assert len(said) == len(stores)
    for figure, texts in zip(LARGE, zip(said[::2], said[1::2], strict=True), strict=True):
        for text in texts:  # as text, as HTML, in the report, and in each refusal
            assert text.count(figure) >= 5, text
            assert text.count("[groups-missing]") == 2


def test_of_a_shard_each_inner_chunk_is_decoded_by_itself(tmp_path: Path) -> None:
    size = 50_000
    [plain] = array_v3([size], ["x"])["codecs"]

    def sharded(inner: int, codecs: list[Any]) -> dict[str, Any]:
        options = {"chunk_shape": [inner, inner], "codecs": codecs, "index_codecs": [plain, {"name": "crc32c"}]}
        return {"name": "sharding_indexed", "configuration": options}

    for codec, fits in (
        (sharded(500, [plain]), True),
        (sharded(25_000, [plain]), True),
        (sharded(50_000, [plain]), False),
        (sharded(50_000, [sharded(500, [plain])]), True),
    ):
        product = open_product(store_v3(tmp_path / "p.zarr", grid_v3("a", size, codecs=[codec])))
        assert report(product, "/a").ok is fits, (codec, product)


def test_showing_looks_at_few_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sizes(store: Store, keys: Any, progress: Any = None) -> dict[str, int | None]:
        assert len(keys) <= LOOKED_AT
        return dict.fromkeys(keys, 1)

    monkeypatch.setattr(Store, "sizes", sizes)
    several = {
        key: node
        for number in range(4)
        for key, node in changed_v2(f"g{number}", shape=[90, 90], chunks=[1, 1]).items()
    }
    product = open_product(store_v2(tmp_path / "p.zarr", several))
    assert product.stored_bytes("/g0") == 90 * 90 + 2
    # Together they are too many: the sizes that are shown are of one kind, and the table says of which.
    assert {group["stored_bytes"] for group in product.to_dict()["groups"].values()} == {None}
    assert "unpacked" in product._repr_html_()
    assert "16.2 kB" in repr(product)
    [many] = (changed_v2("g", shape=[5_000_000, 8], chunks=[1, 8]),)
    product = open_product(store_v2(tmp_path / "q.zarr", many))
    assert product.stored_bytes("/g") is None
    assert "80.0 MB" in repr(product)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_objects_of_a_sparse_array_are_counted_where_they_lie(zarr_format: int, tmp_path: Path) -> None:
    edge = 300
    assert edge**2 > FEW
    if zarr_format == 2:
        store = store_v2(tmp_path / "p.zarr", changed_v2("a", edge, shape=[edge, edge], chunks=[1, 1]))
        keys = ["0.0", "7.299", "299.299"]
    else:
        grid = {"name": "regular", "configuration": {"chunk_shape": [1, 1]}}
        store = store_v3(tmp_path / "p.zarr", grid_v3("a", edge, shape=[edge, edge], chunk_grid=grid))
        keys = ["c/0/0", "c/7/299", "c/299/299"]
    write_store(store, {f"a/data/{key}": b"123" for key in [*keys, "300.0", "c/0/300", "notes.txt", "c/0/1.part"]})
    cost = estimate(open_product(store), "/a")
    assert (cost.requests, cost.download_bytes) == (3, 9)


def test_many_arrays_together_are_refused_with_their_number(tmp_path: Path) -> None:
    each = {}
    for group in ("a", "b"):
        each |= changed_v2(group, 2500, shape=[2500, 2500], chunks=[1, 1])
    product = open_product(with_axes(store_v2(tmp_path / "p.zarr", each), "a", "b", size=2500))
    assert all(2 * array.objects > MOST_OBJECTS for group in product.groups.values() for array in group.variables)
    for refused in (lambda: estimate(product, "/a,/b"), lambda: plan_of(product, tmp_path / "out.zarr", "/a", "/b")):
        with pytest.raises(InvalidRequest, match="12,500,004 objects"):
            refused()
    assert report(product, "/a").ok


@pytest.mark.parametrize(
    "dtype", ["|S0", "<U0", "|V0", "|V2000000000", "<U500000000", [["a", "|V90000000"]], "O", 1, []]
)
def test_types_without_a_size_are_refused(dtype: Any, tmp_path: Path) -> None:
    product = open_product(store_v2(tmp_path / "p.zarr", changed_v2(dtype=dtype) | grid_v2("b")))
    assert repr(product)
    assert report(product, "/a").unfit
    assert report(product).available == ("/b",)


@pytest.mark.parametrize(("shape", "chunks"), [([8, 8], [0, 0]), ([8, 8], [8, 0]), ([0, 8], [0, 0])])
def test_chunks_of_nothing_are_broken(shape: list[int], chunks: list[int], tmp_path: Path) -> None:
    grid = {"name": "regular", "configuration": {"chunk_shape": chunks}}
    for store in (
        store_v2(tmp_path / "v2.zarr", changed_v2(shape=shape, chunks=chunks)),
        store_v3(tmp_path / "v3.zarr", grid_v3("a", shape=shape, chunk_grid=grid)),
    ):
        with pytest.raises(ProductBroken, match="hold nothing"):
            open_product(store)


@pytest.mark.parametrize("chunks", [[1, 8, 8], [0, 8, 8], [100, 8, 8]])
def test_an_empty_array_is_none(chunks: list[int], tmp_path: Path) -> None:
    documents = grid_v2("a") | array_v2([0, 8, 8], ["band", "y", "x"], "a/data", chunks=chunks)
    documents["a/data/.zattrs"]["proj:epsg"] = 32632
    product = open_product(store_v2(tmp_path / "p.zarr", documents))
    [array] = product.groups["/a"].variables
    assert (array.objects, list(array.object_keys()), array.nbytes) == (0, [], 0)
    assert repr(product)
    assert estimate(product, "/a").output_bytes == 0


@pytest.mark.parametrize("value", [True, 1.0, -1, 2**63, "8", None])
def test_sizes_are_whole_numbers(value: Any, tmp_path: Path) -> None:
    for changes in ({"shape": [value, 8]}, {"chunks": [value, 8]}, {"shape": [1] * 65, "chunks": [1] * 65}):
        with pytest.raises(ProductBroken):
            open_product(store_v2(tmp_path / "p.zarr", changed_v2(**changes)))


def test_listing_a_store_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Links that lead round in circles, and folders with more names than a product has."""
    store = write_store(tmp_path / "p.zarr", grid_v2("a") | {".zgroup": {"zarr_format": 2}})
    (store / "a" / "again").symlink_to(store / "a")
    (store / "a" / "anew").symlink_to(store / "a")
    monkeypatch.setattr(documents, "MOST_NODES", 500)
    with pytest.raises(ProductBroken, match="more than 500 names"):
        open_product(store)
    (store / "a" / "again").unlink()
    (store / "a" / "anew").unlink()
    assert list(open_product(store).groups) == ["/a"]
    (store / "b").symlink_to(tmp_path)
    with pytest.raises(ProductBroken, match="leads out"):
        open_product(store)
    (store / "b").unlink()
    for number in range(501):
        (store / f"empty{number}").touch()
    with pytest.raises(ProductBroken, match="more than 500 names"):
        open_product(store)


# --- attributes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("odd", [None, [], {}, "x", -1, True, 10**400, float("nan"), [[[]]], {"a": {"a": 1}}], ids=repr)
def test_attributes_of_any_type_are_shown_or_left_out(odd: Any, tmp_path: Path) -> None:
    documents = grid_v2("a", **dict.fromkeys(("proj:code", "proj:wkt2", "coordinates", "valid_min", "_FillValue"), odd))
    for said in (
        {"stac_discovery": odd, "other_metadata": odd},
        {"stac_discovery": {"properties": odd, "bbox": odd, "geometry": odd}},
        {"stac_discovery": {"properties": {"product:type": odd, "datetime": odd}, "bbox": [odd] * 4}},
    ):
        metadata = {".zgroup": {"zarr_format": 2}, **documents, ".zattrs": said}
        store = write_store(tmp_path / "p.zarr", {".zmetadata": {"metadata": metadata}})
        product = open_product(with_axes(store, "a"))
        assert product.kind == "Zarr"
        assert repr(product)
        assert product._repr_html_()
        assert json.loads(json.dumps(product.to_dict(), allow_nan=False))
        assert product.when is None
        assert product.bbox is None
        assert plan_of(product, tmp_path / "out.zarr", "/a").groups == ("/a",)

"""Metadata documents with odd values: whatever they say, a product is shown, planned, or refused with an error of ours.

`GEOZARR_FUZZ_EXAMPLES=10000` tries so many of each format; the examples are the same each time.
"""

from __future__ import annotations

import json
import os
import runpy
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geozarr_runner.converter.parallel import split
from geozarr_runner.errors import GeozarrError
from geozarr_runner.events import Reporter
from geozarr_runner.inspection.reader import open_product
from geozarr_runner.kinds.profiles import planned_arrays
from geozarr_runner.planning.estimate import estimate
from geozarr_runner.planning.groups import report
from geozarr_runner.planning.memory import memory_needed
from geozarr_runner.planning.preflight import preflight
from geozarr_runner.product.model import Product
from geozarr_runner.publishing.stac_item import item_of
from geozarr_runner.spec.request import Request
from geozarr_runner.staging.view import write_metadata

EXAMPLES = int(os.environ.get("GEOZARR_FUZZ_EXAMPLES", "150"))
MOST_BYTES_SHOWN = 200_000
SETTINGS = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)
Document = dict[str, Any]
Strategy = st.SearchStrategy[Any]

# --- odd values ------------------------------------------------------------------------------------------------------

NUMBERS = st.one_of(
    st.integers(-3, 12),
    st.sampled_from([2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**6, 10**7, 10**18, 10**400, -(10**400)]),
    st.floats(),
)
NAMES = st.one_of(
    st.sampled_from(
        ["", ".", "..", "../../../tmp/loot", "/", "//", "a/b", "\\", "\x00", "\x1b[2J", "\u202e", "\ud800", "é", "0",
         "c", "zarr.json", ".zarray", "x" * 300, "__", "NaN", "null", "Infinity", "pickle", "AAAAAAAA+H8="]
    ),
    st.text(max_size=8),
)  # fmt: skip
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, NAMES)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=8
)
NESTED = st.integers(50, 1500).map(lambda depth: json.loads("[" * depth + "]" * depth))
ODD = st.one_of(JSON, JSON, JSON, JSON, NESTED)


def chosen(*values: Any) -> Strategy:
    return st.sampled_from(values)


FILLS = st.one_of(st.none(), NUMBERS, chosen("NaN", "Infinity", "0x7fc00000", "", "AA==", True, [0.0, "NaN"], "NaT"))
SIZES = st.lists(chosen(0, 1, 2, 3, 8, 10**5, 10**6, 2**31, 2**40, 2**63 - 1, 2**63, True, -1, 1.0), max_size=4)
DTYPES_V2 = st.one_of(
    chosen("<u2", "|u1", "<f4", "<f8", "<i8", "<M8[ns]", "<U4", "|S3", "|O", "|b1", "<c16", "|V4"),
    chosen("<U0", "|S0", "|V0", "|V2000000000", "<U500000000", "O", "object", "f8,f8", "(9,9)f8", "<u3", "datetime64"),
    chosen([["a", "<u2"], ["b", "|V9"]], [["a", "<u2", [100000, 100000]]], [["a", [["b", "<f8"]]]], [[]]),
)
DTYPES_V3 = st.one_of(
    chosen("uint8", "uint16", "float32", "float64", "int64", "bool", "complex64", "string", "variable_length_bytes"),
    chosen("r16", "r24", "r8000000000000", "r7", "float128", "numpy.datetime64", "null", "uint"),
    st.builds(
        lambda name, options: {"name": name, "configuration": options},
        chosen("fixed_length_utf32", "null_terminated_bytes", "raw_bytes", "numpy.datetime64", "struct", "structured"),
        st.one_of(
            chosen({"length_bytes": 8}, {"length_bytes": 0}, {"length_bytes": 4 * 10**9}, {"length_bytes": -4}),
            chosen({"unit": "ns", "scale_factor": 1}, {"unit": "generic", "scale_factor": 10**6}),
            chosen({"fields": [["a", "uint8"], ["b", "float64"]]}, {"fields": []}),
            ODD,
        ),
    ),
)
# fmt: off
CODECS_V2 = st.builds(
    lambda name, options: {"id": name, **(options if isinstance(options, dict) else {})},
    chosen(
        "blosc", "zstd", "zlib", "gzip", "lzma", "bz2", "lz4", "delta", "fixedscaleoffset", "quantize", "shuffle",
        "packbits", "astype", "categorize", "vlen-utf8", "vlen-bytes", "vlen-array", "json2", "msgpack2", "pickle",
        "PICKLE", "crc32", "fletcher32", "bitround", "zfpy", "pcodec", "os.system", "base64", None, 1,
    ),
    st.one_of(
        chosen({}, {"cname": "zstd", "clevel": 3, "shuffle": 1, "blocksize": 0}, {"level": 10**9}, {"cname": "none"}),
        chosen({"dtype": "<u2"}, {"dtype": "|O", "labels": ["a"]}, {"dtype": "f8,f8"}, {"elementsize": -1}),
        chosen({"encode_dtype": "<u2", "decode_dtype": "|V99999999"}, {"digits": 400, "dtype": "<f4"}),
        chosen({"offset": 1, "scale": 0, "dtype": "<f8", "astype": "|u1"}),
        chosen({"filters": [{"id": 33, "dict_size": 2**40}]}, {"filters": None}),
        JSON,
    ),
)
CODECS_V3 = st.recursive(
    st.builds(
        lambda name, options: {"name": name} if options is None else {"name": name, "configuration": options},
        chosen(
            "bytes", "zstd", "gzip", "blosc", "crc32c", "transpose", "vlen-utf8", "vlen-bytes", "numcodecs.pickle",
            "numcodecs.delta", "numcodecs.lzma", "numcodecs.astype", "cast_value", "scale_offset", "pickle",
            "numcodecs.fixedscaleoffset", "numcodecs.zfpy", "endian", "posix.system", None,
        ),
        st.one_of(
            chosen(None, {"endian": "little"}, {"level": 3, "checksum": False}, {"level": 10**30}),
            chosen({"order": [1, 0]}, {"order": [0, 10**9]}, {"scale": 0, "offset": "NaN"}, {"dtype": "<u2"}),
            chosen({"cname": "zstd", "clevel": 3, "shuffle": "shuffle", "typesize": 2, "blocksize": 0}),
            chosen({"data_type": "uint8", "rounding": "nearest-even"}),
            JSON,
        ),
    ),
    lambda inner: st.builds(
        lambda shape, codecs, index, place: {
            "name": "sharding_indexed",
            "configuration": {
                "chunk_shape": shape, "codecs": codecs, "index_codecs": index, "index_location": place,
            },
        },
        SIZES, st.lists(inner, max_size=2), st.lists(inner, max_size=2), chosen("end", "start", "middle", None),
    ),
    max_leaves=3,
)
# fmt: on
ENCODINGS = st.builds(
    lambda name, separator, form: [
        {"name": name},
        {"name": name, "separator": separator},
        {"name": name, "configuration": separator},
        {"name": name, "configuration": {"separator": separator}},
        name,
    ][form],
    chosen("default", "v2", "V2", "suffix", None),
    chosen(".", "/", "//", "/../../x.", "\n", None, 1),
    st.integers(0, 4),
)
POINTS = st.lists(st.lists(st.lists(NUMBERS, max_size=3), max_size=5), max_size=2)
# What is likely to be taken for good in a place of this name; any odd value is tried in every place.
LIKELY: dict[Any, Strategy] = {
    "shape": SIZES,
    "chunks": SIZES,
    "chunk_shape": SIZES,
    "dtype": DTYPES_V2,
    "data_type": DTYPES_V3,
    "fill_value": FILLS,
    "_FillValue": FILLS,
    "compressor": CODECS_V2,
    "filters": st.lists(CODECS_V2, max_size=2),
    "codecs": st.lists(CODECS_V3, max_size=3),
    "chunk_key_encoding": ENCODINGS,
    "dimension_separator": chosen(".", "/", "", "//", "/../../../x.", "\x00", None, []),
    "zarr_format": chosen(2, 3, 2.0, True, "2"),
    "node_type": chosen("group", "array", "Array"),
    "product:type": chosen("S02MSIL2A", "S02MSIL1C", "S01SIWGRD", "S03OLCEFR"),
    "datetime": chosen("2025-01-01T00:00:00Z", None, "9999-12-31T23:59:59-12:00", "2025"),
    "bbox": st.lists(NUMBERS, min_size=4, max_size=4),
    "spatial:bbox": st.lists(NUMBERS, min_size=4, max_size=4),
    "spatial:transform": st.lists(NUMBERS, min_size=6, max_size=6),
    "coordinates": POINTS,
    "proj:epsg": chosen(4326, "4326", 10**400, 4326.0, True),
}

# --- products, in which a few values are odd --------------------------------------------------------------------------

GROUPS = {
    "S02MSIL2A": [
        "measurements/reflectance/r10m", "measurements/reflectance/r20m", "measurements/reflectance/r60m",
        "quality/l2a_quicklook/r10m", "conditions/geometry", "conditions/mask/x", "conditions/meteorology/y",
    ],
    "S01SIWGRD": ["VV/measurements", "VV/conditions/gcp", "VH/measurements", "VH/conditions/gcp"],
    "S03OLCEFR": ["measurements", "quality"],
    "": ["a", "a/b"],
}  # fmt: skip
KINDS = chosen(*GROUPS)
SHAPES = chosen((8, 8), (64, 48), (10980, 10980), (10**6, 10**6), (0, 8), (0, 0), (2**31, 2**31), (1, 1))
CHUNKS = chosen(1, 2, 8, 256, 4096)


def root_attributes(kind: str) -> Document:
    properties = {
        "product:type": kind,
        "datetime": None,
        "start_datetime": "2025-01-01T00:00:00Z",
        "end_datetime": "2025-01-01T00:00:10Z",
        "sar:product_type": "GRD",
        "platform": "x",
        "instrument": "y",
    }
    geometry = {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]]}
    return {
        "stac_discovery": {"bbox": [0, 0, 1, 1], "geometry": geometry, "properties": properties},
        "other_metadata": {"horizontal_CRS_code": "EPSG:32632"},
    }


def raster_attributes() -> Document:
    return {
        "proj:epsg": 32632,
        "_FillValue": 0,
        "scale_factor": 0.0001,
        "add_offset": -0.1,
        "coordinates": "latitude longitude",
        "units": "m",
        "long_name": "n",
        "proj:code": "EPSG:32632",
        "spatial:dimensions": ["y", "x"],
        "spatial:bbox": [0, 0, 1, 1],
        "spatial:transform": [10, 0, 0, 0, -10, 0],
        "multiscales": {"layout": [{"asset": ".", "spatial:transform": [10, 0, 0, 0, -10, 0]}]},
    }


def arrays_of(shape: tuple[int, int], kind: str, chunk: int) -> dict[str, tuple[list[int], list[int], list[str]]]:
    """The shape, chunks and dimensions of the arrays of one group, by their names."""
    data = "oa01_radiance" if kind == "S03OLCEFR" else "b02"
    found = {"y": ([shape[0]], ["y"]), "x": ([shape[1]], ["x"]), data: ([*shape], ["y", "x"])}
    return {name: (sizes, [min(chunk, max(size, 1)) for size in sizes], dims) for name, (sizes, dims) in found.items()}


@st.composite
def spoiled(draw: Callable[[Strategy], Any], documents: dict[str, Any]) -> dict[str, Any]:
    """Documents in which some values are odd, and some names too."""
    places = [place for key, document in documents.items() for place in places_of(document, (key,))]
    for _ in range(draw(chosen(0, 1, 1, 1, 2, 3))):
        place = draw(st.sampled_from([place for place in places if len(place) > 1]))
        parent: Any = documents
        try:
            for step in place[:-1]:
                parent = parent[step]
            likely = LIKELY.get(place[-1], ODD)
            parent[place[-1]] = draw(likely) if draw(st.integers(0, 3)) else draw(ODD)
        except (KeyError, IndexError, TypeError):  # lies in what was replaced before
            continue
    if draw(st.integers(0, 5)) == 0:
        key = draw(st.sampled_from(sorted(documents)))
        parts = key.split("/")
        parts[draw(st.integers(0, len(parts) - 1))] = draw(NAMES)
        documents["/".join(parts)] = documents.pop(key)
    return documents


def places_of(document: Any, place: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    if isinstance(document, dict):
        inner = list(document.items())
    else:
        inner = list(enumerate(document)) if isinstance(document, list) else []
    return [place, *(found for step, value in inner for found in places_of(value, (*place, step)))]


@st.composite
def product_v2(draw: Callable[[Strategy], Any]) -> dict[str, Any]:
    """The documents of a Zarr v2 product by their keys."""
    kind, shape, chunk = draw(KINDS), draw(SHAPES), draw(CHUNKS)
    documents: dict[str, Any] = {".zgroup": {"zarr_format": 2}, ".zattrs": root_attributes(kind)}
    for group in GROUPS[kind]:
        documents |= {f"{group}/.zgroup": {"zarr_format": 2}, f"{group}/.zattrs": raster_attributes()}
        for name, (sizes, chunks, dims) in arrays_of(shape, kind, chunk).items():
            document = {
                "zarr_format": 2,
                "shape": sizes,
                "chunks": chunks,
                "dtype": draw(chosen("<u2", "|u1", "<f8")),
                "fill_value": 0,
                "order": "C",
                "dimension_separator": "/",
                "compressor": {"id": "zstd", "level": 1},
                "filters": None,
            }
            attributes = {"_ARRAY_DIMENSIONS": dims, **(raster_attributes() if len(sizes) > 1 else {})}
            documents |= {f"{group}/{name}/.zarray": document, f"{group}/{name}/.zattrs": attributes}
    return draw(spoiled(documents))


@st.composite
def product_v3(draw: Callable[[Strategy], Any]) -> dict[str, Any]:
    """The documents of a Zarr v3 product by their nodes' paths, the root's by the empty one."""

    def group(attributes: Any) -> Document:
        return {"zarr_format": 3, "node_type": "group", "attributes": attributes}

    kind, shape, chunk = draw(KINDS), draw(SHAPES), draw(CHUNKS)
    nodes: dict[str, Any] = {"": group(root_attributes(kind))}
    for path in GROUPS[kind]:
        parts = path.split("/")
        nodes |= {above: group({}) for end in range(1, len(parts)) if (above := "/".join(parts[:end])) not in nodes}
        nodes[path] = group(raster_attributes())
        for name, (sizes, chunks, dims) in arrays_of(shape, kind, chunk).items():
            nodes[f"{path}/{name}"] = {
                "zarr_format": 3,
                "node_type": "array",
                "shape": sizes,
                "data_type": draw(chosen("uint16", "uint8", "float64")),
                "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunks}},
                "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
                "fill_value": 0,
                "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
                "attributes": raster_attributes() if len(sizes) > 1 else {},
                "dimension_names": dims,
            }
    return draw(spoiled(nodes))


# --- what is tried with each -----------------------------------------------------------------------------------------


def store_of(folder: Path, documents: dict[str, bytes]) -> Path:
    """Write those documents that can have a path; all of the last example's are gone."""
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for key, raw in documents.items():
        if ".." in key.split("/") or key.startswith("/"):
            continue
        try:
            (folder / key).parent.mkdir(parents=True, exist_ok=True)
            (folder / key).write_bytes(raw)
        except (OSError, ValueError):  # no name for a file
            continue
    return folder


def ours(call: Callable[[], Any]) -> Any:
    """Return what a call returns, or None where it ends in an error of ours that says what to do."""
    try:
        return call()
    except GeozarrError as error:
        refusal = error
    assert refusal.code != "defect"
    assert refusal.remedy
    assert len(str(refusal)) < MOST_BYTES_SHOWN
    return None


def tried(store: Path, around: Path) -> None:
    """Do with a product what a person does before it is converted."""
    product = ours(lambda: open_product(store))
    if product is None:
        return
    for shown in (repr(product), product._repr_html_(), json.dumps(product.to_dict())):
        assert len(shown) < MOST_BYTES_SHOWN
    assert "\x1b" not in repr(product)
    for groups in (None, list(product.groups)):
        tried_groups(product, groups, around)


def tried_groups(product: Product, groups: list[str] | None, around: Path) -> None:
    found = ours(lambda: report(product, groups))
    if found is None:  # a name of a group with a comma in it is none
        return
    assert repr(found)
    assert found._repr_html_()
    assert json.dumps(found.to_dict())
    cost = ours(lambda: estimate(product, groups))
    if cost is not None:
        assert repr(cost)
        assert cost._repr_html_()
    for whatever in (None, groups):
        memory_needed(product, [path for path in whatever or () if path in found.available])
    request = Request.of(product.url, around / "out.zarr", groups=groups)
    plan = ours(lambda: preflight(request, Reporter(StringIO(), readable=True)))
    if plan is None:
        return
    assert cost is not None, "what cannot be estimated is not converted"
    planned_arrays(product, plan.groups)
    split(plan, cores=8, memory=None)
    write_metadata(plan, [array for path in plan.groups for array in product.groups[path].arrays], around / "view")
    if plan.groups:  # what the converter is shown is what was read
        assert set(plan.groups) <= set(open_product(around / "view").groups)
    item_of(product, product, "out.zarr", {})


def everything_below(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def around(tmp_path: Path) -> Path:
    """A folder in which nothing but the product and a view of it may appear."""
    return tmp_path


def test_how_many_are_tried_is_left_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"GEOZARR_FUZZ_EXAMPLES": "7", "GEOZARR_IF_EXISTS": "skip"})
    runpy.run_path(str(Path(__file__).parents[2] / "conftest.py"))
    assert os.environ["GEOZARR_FUZZ_EXAMPLES"] == "7"
    assert "GEOZARR_IF_EXISTS" not in os.environ


@pytest.mark.timeout(0 if EXAMPLES > 1000 else 300)
@given(documents=product_v2(), consolidated=st.booleans())
@SETTINGS
def test_zarr_v2(documents: dict[str, Any], consolidated: bool, around: Path) -> None:
    stored = {key: json.dumps(document).encode() for key, document in documents.items()}
    if consolidated:
        stored[".zmetadata"] = json.dumps({"zarr_consolidated_format": 1, "metadata": documents}).encode()
    tried(store_of(around / "p.zarr", stored), around)
    assert everything_below(around) <= {"p.zarr", "view"}


@pytest.mark.timeout(0 if EXAMPLES > 1000 else 300)
@given(nodes=product_v3(), consolidated=st.booleans())
@SETTINGS
def test_zarr_v3(nodes: dict[str, Any], consolidated: bool, around: Path) -> None:
    stored = {f"{path}/zarr.json".lstrip("/"): json.dumps(node).encode() for path, node in nodes.items()}
    if consolidated:
        inner = {path: node for path, node in nodes.items() if path}
        root = {
            **(nodes.get("") or {}),
            "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": inner},
        }
        stored["zarr.json"] = json.dumps(root).encode()
    tried(store_of(around / "p.zarr", stored), around)
    assert everything_below(around) <= {"p.zarr", "view"}

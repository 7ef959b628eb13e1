"""Reference systems of products and outputs: what GDAL and PROJ would open by their text is neither asked nor read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import zarr

from geozarr_nb.errors import ProductBroken
from geozarr_nb.outputs.open import Output
from geozarr_runner.inspection.reader import open_product
from geozarr_runner.trust.crs import flaw, parsed
from runner.tests.support import run, write_terrain
from tests.hostile.web_server import WebServer

GRIDS = '+proj=longlat +ellps=WGS84 +nadgrids="/private/grid"'
WKT = 'GEOGCS["a",DATUM["b",SPHEROID["c",6378137,298]{}],PRIMEM["G",0],UNIT["degree",0.01745]]'
HOSTILE: tuple[Any, ...] = (
    "http://127.0.0.1:1/system",
    "https://opengis.net.example/def/crs/EPSG/0/4326",
    "http://www.opengis.net/def/crs/EPSG/0/4326?x=http://127.0.0.1",
    "/etc/passwd",
    "../private.prj",
    "private/../../system.prj",
    "~/system.prj",
    "file:///private",
    "/vsicurl/http://127.0.0.1/x",
    "/vsigzip//private",
    "ESRI::/private.prj",
    "IGNF:/private",
    "4326/../../private",
    "+init=/private:1",
    "init=/private:1",
    GRIDS,
    "+proj=longlat +datum=WGS84 +nadgrids=@null,/private",
    "+proj=longlat +datum=WGS84 +geoidgrids=/private",
    "+proj=pipeline +step +proj=hgridshift +grids=/private",
    "+proj=pipeline +step +proj=defmodel +model=/private",
    "+proj=pipeline +step +proj=tinshift +file=/private",
    WKT.format(f',EXTENSION["PROJ4","{GRIDS}"]'.replace('"/private/grid"', "/private/grid")),
    'BOUNDCRS[SOURCECRS[x],TARGETCRS[y],ABRIDGEDTRANSFORMATION["t",METHOD["NTv2"],PARAMETERFILE["f","/private"]]]',
    {"type": "BoundCRS", "transformation": {"parameters": [{"name": "+grids=/private", "value": 1}]}},
    {"type": "GeographicCRS", "conversion": {"method": {"name": "PROJ-based operation method: +proj=pipeline"}}},
    '{"type": "GeographicCRS", "name": "+init=/private:1"}',
    '{"type": "GeographicCRS", "name": "+in\\u0069t=/private:1"}',
    '{"type": ',
    "A" * 200_000,
)
SOUND: tuple[Any, ...] = (
    32632,
    "32632",
    "EPSG:32632",
    "epsg:4326",
    "EPSG:4326+5773",
    "OGC:CRS84",
    "IAU_2015:30100",
    "WGS84",
    "WGS 84 / UTM zone 32N",
    "urn:ogc:def:crs:EPSG::32632",
    "http://www.opengis.net/def/crs/EPSG/0/4326",
    "+proj=utm +zone=32 +datum=WGS84 +units=m +no_defs",
    WKT.format(""),
    WKT.format(',EXTENSION["PROJ4","+proj=merc +a=6378137 +b=6378137 +nadgrids=@null +wktext +no_defs"]'),
    {"type": "GeographicCRS", "name": "WGS 84", "id": {"authority": "EPSG", "code": 4326}},
    "",
)


@pytest.mark.parametrize("said", HOSTILE, ids=lambda said: str(said)[:40])
@pytest.mark.parametrize("name", ["proj:code", "spatial_ref"])
def test_a_system_that_may_name_a_file_is_refused(said: Any, name: str) -> None:
    assert flaw({name: said}) is not None


@pytest.mark.parametrize("said", SOUND, ids=lambda said: str(said)[:40])
def test_what_says_itself_what_it_is_is_read(said: Any) -> None:
    assert flaw({"proj:wkt2": said}) is None


@pytest.mark.parametrize("said", HOSTILE, ids=lambda said: str(said)[:40])
def test_a_system_that_may_name_a_file_is_not_parsed(said: Any) -> None:
    for value in (said, {"url": said}, {"wkt": said}, {"grid_mapping_name": "latitude_longitude", "crs_wkt": said}):
        with pytest.raises(ValueError, match=r"may name a file|is no reference system"):
            parsed(value)


@pytest.mark.parametrize("said", SOUND[:-2], ids=lambda said: str(said)[:40])
def test_what_says_itself_what_it_is_is_parsed(said: Any) -> None:
    assert parsed(said).name


@pytest.mark.parametrize("where", ["dem/height", "dem/spatial_ref", "dem"])
def test_a_conversion_asks_and_reads_nothing_that_a_system_names(tmp_path: Path, where: str) -> None:
    store = write_terrain(tmp_path / "p.zarr")
    with WebServer({"/system": WKT.format("").encode()}) as server:
        root = zarr.open_group(store, mode="r+", use_consolidated=False)
        if where not in root:
            root.create_array(where, shape=(), dtype="i4")
        root[where].attrs.update({"proj:code": f"{server.url}/system", "spatial_ref": f"{server.url}/system"})
        zarr.consolidate_metadata(store)
        assert "may name a file" in open_product(str(store)).groups["/dem"].unusable
        ended = run(store, tmp_path / "out.zarr", *(["--groups", "/dem"] if where == "dem" else []))
        assert ended.code != 0
        assert "may name a file" in str(ended)
        assert not server.asked
        assert not (tmp_path / "out.zarr").exists()


@pytest.mark.parametrize("where", ["", "b"])
def test_what_is_opened_names_no_file(tmp_path: Path, where: str) -> None:
    os.mkfifo(tmp_path / "system")
    group = zarr.open_group(tmp_path / "o.zarr", mode="w")
    group.attrs["spatial:dimensions"] = ["y", "x"]
    array = group.create_array("b", shape=(2, 2), dtype="u1", dimension_names=("y", "x"))
    (array if where else group).attrs["crs"] = str(tmp_path / "system")
    output = Output(tmp_path / "o.zarr", strict=False)
    with pytest.raises(ProductBroken, match="may name a file"):
        output.dataset("/")

"""Catalogues in and out: what is expanded, and what a person can do with the items of results."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pystac
import pytest
import xarray as xr

import geozarr_nb as gz
from benchmarks.server import ProductServer
from geozarr_nb.errors import GeozarrError
from geozarr_nb.jobs.jobset import JobSet
from geozarr_nb.outputs.stac.catalogue import expand
from geozarr_nb.outputs.stac.items import collection_of, read_item
from geozarr_runner.spec.request import Request

GROUP = "/measurements/reflectance/r60m"
TAKEN = datetime(2025, 10, 8, tzinfo=UTC)


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOZARR_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)


def an_item(identifier: str, href: str) -> pystac.Item:
    item = pystac.Item(identifier, None, None, TAKEN, {})
    item.add_asset("product", pystac.Asset(href, media_type="application/vnd+zarr"))
    return item


@pytest.fixture
def catalogue(tmp_path: Path, sample: Path) -> pystac.Catalog:
    """A catalogue with an item, and with a collection that has two, one of them by a relative href; saved."""
    root = pystac.Catalog("root", "what there is")
    extent = pystac.Extent(pystac.SpatialExtent([[-180, -90, 180, 90]]), pystac.TemporalExtent([[TAKEN, None]]))
    child = pystac.Collection("s2", "of one kind", extent)
    root.add_child(child)
    root.add_item(an_item("top", str(sample)))
    child.add_item(an_item("absolute", str(sample)))
    child.add_item(an_item("relative", "./missing.zarr"))
    root.normalize_and_save(str(tmp_path / "catalogue"), pystac.CatalogType.SELF_CONTAINED)
    return root


IDENTIFIERS = ["absolute", "relative", "top"]
type Ways = Mapping[str, Callable[[pystac.Catalog, Path], Any]]
WAYS: Ways = {
    "path": lambda catalogue, folder: folder / "catalogue" / "catalog.json",
    "text": lambda catalogue, folder: f"{folder}/catalogue/catalog.json",
    "relative text": lambda catalogue, folder: "catalogue/catalog.json",
    "object": lambda catalogue, folder: catalogue,
    "dict": lambda catalogue, folder: catalogue.to_dict(),
    "collection of items": lambda catalogue, folder: pystac.ItemCollection(catalogue.get_items(recursive=True)),
    "its dict": lambda catalogue, folder: pystac.ItemCollection(catalogue.get_items(recursive=True)).to_dict(),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_catalogue_is_all_of_its_items(catalogue: pystac.Catalog, tmp_path: Path, way: str) -> None:
    items = list(expand(WAYS[way](catalogue, tmp_path)))
    assert sorted(item.id for item in items) == IDENTIFIERS
    [relative] = [item for item in items if item.id == "relative"]
    with pytest.raises(GeozarrError) as raised:
        gz.inspect(relative)
    assert raised.value.given == str(tmp_path / "catalogue" / "s2" / "relative" / "missing.zarr")


def test_a_list_of_items_in_a_file_knows_where_it_is(tmp_path: Path) -> None:
    listed = pystac.ItemCollection([an_item("a", "./a.zarr"), an_item("b", "b.zarr")])
    listed.save_object(str(tmp_path / "items.json"))
    for item, name in zip(expand(tmp_path / "items.json"), "ab", strict=True):
        with pytest.raises(GeozarrError) as raised:
            gz.inspect(item)
        assert raised.value.given == str(tmp_path / f"{name}.zarr")
        assert item.get_self_href() is None, "nobody wrote it there"


def test_a_catalogue_on_the_web(catalogue: pystac.Catalog, tmp_path: Path) -> None:
    with ProductServer(tmp_path) as server:
        items = expand(f"{server.url}/catalogue/catalog.json")
        assert sorted(item.id for item in items) == IDENTIFIERS
        assert items[0].get_self_href().startswith(server.url)


def test_what_is_no_catalogue_stays_as_it_is(sample: Path, tmp_path: Path) -> None:
    an_item("a", "a.zarr").save_object(dest_href=str(tmp_path / "a.json"), include_self_link=False)
    for given in (sample, str(sample), str(tmp_path / "a.json"), tmp_path / "missing.json", [1], {"source": 1}, None):
        assert expand(given) is given
    for single in (sample, tmp_path / "a.json", an_item("a", "a.zarr").to_dict()):
        with pytest.raises(gz.InvalidRequest, match="single request"):
            gz.submit_many(single, groups=[GROUP])


def test_a_link_that_leads_nowhere_is_named(catalogue: pystac.Catalog, tmp_path: Path) -> None:
    gone = tmp_path / "catalogue" / "s2" / "collection.json"
    gone.unlink()
    with pytest.raises(GeozarrError) as raised:
        gz.submit_many(tmp_path / "catalogue" / "catalog.json", groups=[GROUP])
    assert (raised.value.code, raised.value.given) == ("product-not-found", str(gone))


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{", "product-broken"),
        ('{"type": "Catalog"}', "invalid-request"),
        ('{"type": "FeatureCollection", "features": [{}]}', "invalid-request"),
        ('{"type": "Collection", "id": "c", "links": 7}', "invalid-request"),
        ("[1]", "invalid-request"),
    ],
)
def test_a_broken_catalogue(tmp_path: Path, text: str, code: str) -> None:
    (tmp_path / "broken.json").write_text(text)
    with pytest.raises(GeozarrError) as raised:
        gz.submit_many(tmp_path / "broken.json", groups=[GROUP])
    assert raised.value.code == code
    assert "broken.json" in str(raised.value.given)


def test_a_catalogue_in_and_a_catalogue_out(catalogue: pystac.Catalog, sample: Path, tmp_path: Path) -> None:
    jobs = gz.submit_many(tmp_path / "catalogue" / "catalog.json", groups=[GROUP])
    assert [entry.code for entry in jobs.refused] == ["product-not-found"]
    jobs.wait(timeout=600)
    assert jobs.counts == {"Succeeded": 2, "Failed": 1}
    assert gz.submit_many(catalogue, groups=[GROUP]).name == jobs.name

    results = jobs.items()
    assert isinstance(results, pystac.ItemCollection)
    assert sorted(item.id for item in results) == ["S2A_SAMPLE_absolute_geozarr", "S2A_SAMPLE_top_geozarr"]
    [top] = [item for item in results if item.id == "S2A_SAMPLE_top_geozarr"]
    [source] = top.get_links(pystac.RelType.DERIVED_FROM)
    assert source.href == str(tmp_path / "catalogue" / "top" / "top.json")
    assert source.resolve_stac_object().target.id == "top"
    stored = json.loads((tmp_path / "top_geozarr.zarr.stac.json").read_text())
    assert [link["href"] for link in stored["links"]] == [source.href]

    saved = jobs.collection(description="made in a test")
    assert saved.id == jobs.name
    saved.normalize_and_save(str(tmp_path / "out"), pystac.CatalogType.SELF_CONTAINED)
    opened = pystac.Collection.from_file(str(tmp_path / "out" / "collection.json"))
    assert opened.description == "made in a test"
    assert opened.extent.spatial.bboxes[0] == pytest.approx(top.bbox)
    for item in opened.get_items(recursive=True):
        dataset = xr.open_zarr(item.assets["product"].get_absolute_href(), group=GROUP)
        assert dataset.b02.shape[-1] > 0
    assert top.assets["product"].href == str(tmp_path / "top_geozarr.zarr")
    again = pystac.Item.from_dict(json.loads(json.dumps(top.to_dict())))
    assert again.get_self_href() == str(tmp_path / "top_geozarr.zarr.stac.json")


def test_a_collection_across_the_antimeridian_is_as_narrow_as_its_items() -> None:
    west = pystac.Item("w", None, [178.0, 1.0, 179.0, 2.0], TAKEN, {})
    across = pystac.Item("a", None, [179.5, 0.0, -179.5, 1.0], TAKEN, {})
    extent = collection_of([west, across, an_item("n", "n.zarr")], "c", "d").extent
    assert extent.spatial.bboxes == [[178.0, 0.0, -179.5, 2.0]]


def test_a_job_without_a_result_has_no_item(sample: Path, tmp_path: Path) -> None:
    job = gz.submit(sample, "out.zarr", groups=[GROUP])
    if job.status != "Succeeded":
        with pytest.raises(gz.InvalidRequest, match="nothing to open yet"):
            job.item()
    job.wait(timeout=600)
    (tmp_path / "out.zarr.stac.json").unlink()
    with pytest.raises(gz.InvalidRequest, match="no STAC item") as raised:
        job.item()
    assert 'if_exists="overwrite"' in raised.value.remedy
    (tmp_path / "out.zarr.stac.json").write_text("{}")
    with pytest.raises(gz.InvalidRequest, match="no STAC that can be read"):
        read_item(str(tmp_path / "out.zarr"))


def test_a_collection_of_nothing_is_refused() -> None:
    with pytest.raises(gz.InvalidRequest, match="none of these jobs has succeeded"):
        JobSet(gz.list_jobs()._backend, []).collection()


def test_items_of_one_id_are_told_apart() -> None:
    collection = collection_of([an_item("same", "a.zarr"), an_item("same", "b.zarr")], "c", "d")
    assert [item.id for item in collection.get_items()] == ["same", "same-2"]
    collection.normalize_hrefs("/catalogue")
    core = collection.clone()
    core.validate()


@pytest.mark.filterwarnings("ignore")  # files are no API, it says
def test_a_client_opens_the_collection_in_a_catalogue(tmp_path: Path) -> None:
    client = pytest.importorskip("pystac_client")
    root = pystac.Catalog("results", "what was converted")
    root.add_child(collection_of([an_item("a", "/data/a.zarr"), an_item("b", "/data/b.zarr")], "october", "d"))
    root.normalize_and_save(str(tmp_path / "out"), pystac.CatalogType.SELF_CONTAINED)
    opened = client.Client.open(str(tmp_path / "out" / "catalog.json"))
    items = list(opened.get_collection("october").get_items())
    assert [item.assets["product"].href for item in items] == ["/data/a.zarr", "/data/b.zarr"]


def test_requests_of_an_earlier_version_have_no_item() -> None:
    request = Request(source="s", shown="s", product="p", output="o", item="https://host/item.json")
    document = request.to_json()
    assert Request.from_json(document).item == "https://host/item.json"
    del document["item"]
    assert Request.from_json(document).item == ""


@pytest.mark.parametrize("place", ["mounted claim", "web", "object store"])
def test_an_item_is_read_where_its_output_is(
    sample: Path, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tmp_path / "claim" / "a b" / "out.zarr"
    made.parent.mkdir(parents=True)
    gz.convert(sample, made, groups=[GROUP], progress=False)
    with ProductServer(tmp_path / "claim") as server:
        match place:
            case "mounted claim":
                monkeypatch.setenv("GEOZARR_MOUNTS", f"geozarr-pvc={tmp_path / 'claim'}")
                output, wanted = "pvc://geozarr-pvc/a b/out.zarr", str(made)
            case "web":
                made.parent.rename(tmp_path / "claim" / "ab")
                output = wanted = f"{server.url}/ab/out.zarr"
            case _:
                import fsspec

                output = wanted = "memory://bucket/out.zarr"
                fsspec.filesystem("memory").put(str(made), "/bucket/out.zarr", recursive=True)
                fsspec.filesystem("memory").put(f"{made}.stac.json", "/bucket/out.zarr.stac.json")
        item = read_item(output)
        assert item.assets["product"].href == wanted
        assert item.assets[GROUP[1:]].extra_fields["zarr:consolidated"]
        opened = xr.open_zarr(item.assets[GROUP[1:]].href, consolidated=True)
        assert float(opened.b02[:4, :4].mean()) > 0

"""What a product may be named by: addresses as services publish them, and what is no product's is told what it is."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pystac
import pytest
import zarr

from benchmarks.server import ProductServer
from geozarr_runner.errors import GeozarrError, InvalidRequest, ProductDenied
from geozarr_runner.inspection.reader import open_product
from geozarr_runner.inspection.stac import split_address
from geozarr_runner.planning.groups import report
from geozarr_runner.stores.store import Store
from geozarr_runner.trust.addresses import check, redact
from runner.tests.support import consolidated_v2, grid_v2, write_store

GROUPS = ("/measurements/reflectance/r10m", "/measurements/reflectance/r20m", "/quality/mask/r10m")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A server's root, with one store under several names."""
    root = tmp_path_factory.mktemp("web")
    documents = {key: node for group in GROUPS for key, node in grid_v2(group[1:]).items()}
    for name in ("S.zarr", "my.zarrs/S.zarr", "old.zarr/S.zarr", "plain/store", "ten:bucket/S.zarr"):
        write_store(root / name, {**consolidated_v2(documents), **documents})
    return root


@pytest.fixture(scope="module")
def web(folder: Path) -> Iterator[ProductServer]:
    """A server over it."""
    with ProductServer(folder) as server:
        yield server


def item(assets: Any, **more: Any) -> dict[str, Any]:
    """Return an item with these assets, or with one of this address."""
    if isinstance(assets, str):
        assets = {"product": {"href": assets, "type": "application/vnd+zarr"}}
    return {"type": "Feature", "stac_version": "1.1.0", "id": "an-item", "assets": assets, "links": [], **more}


def refused(source: Any) -> GeozarrError:
    with pytest.raises(GeozarrError) as caught:
        open_product(source)
    assert caught.value.remedy
    return caught.value


# --- items -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("href", ["/S.zarr", "//{host}/S.zarr", "../S.zarr", "{url}/S.zarr", "/S.zarr/"])
def test_an_item_on_the_web_in_every_spelling(href: str, web: ProductServer, folder: Path) -> None:
    (folder / "items").mkdir(exist_ok=True)
    href = href.format(url=web.url, host=web.url.partition("//")[2])
    (folder / "items" / "i.json").write_text(json.dumps(item(href)))
    assert open_product(f"{web.url}/items/i.json").url.rstrip("/") == f"{web.url}/S.zarr"


@pytest.mark.parametrize(
    ("address", "store", "inside"),
    [
        ("https://my.zarr.org/a/S.zarr", "https://my.zarr.org/a/S.zarr", ""),
        ("https://my.zarr/a/S.zarr/", "https://my.zarr/a/S.zarr", ""),
        ("https://h/my.zarrs/S.zarr/g/b02", "https://h/my.zarrs/S.zarr", "g/b02"),
        ("https://h/my.zarr/S.zarr/g?sig=a.zarr/b", "https://h/my.zarr/S.zarr?sig=a.zarr/b", "g"),
        ("https://h/p.zarr.old/g", "", ""),
        ("https://my.zarr/data", "", ""),
        ("//my.zarr/data", "", ""),
        ("s3://b.zarr/x", "", ""),
        ("s3://t:b/S.ZARR/g", "s3://t:b/S.ZARR", "g"),
        ("/data/my.zarrs/S.zarr/g", "/data/my.zarrs/S.zarr", "g"),
        ("S.zarr/g", "S.zarr", "g"),
        ("https://h/S.zarr;v=1/g", "https://h/S.zarr;v=1", "g"),
        ("https://h/S.zarr.zip", "", ""),
        ("", "", ""),
    ],
)
def test_the_store_is_what_is_called_so_itself(address: str, store: str, inside: str) -> None:
    assert split_address(address) == (store, inside)


@pytest.mark.parametrize("name", ["my.zarrs/S.zarr", "old.zarr/S.zarr"])
def test_a_folder_may_be_called_so_too(name: str, web: ProductServer) -> None:
    for source in (f"{web.url}/{name}", item(f"{web.url}/{name}"), item(f"{web.url}/{name}/{GROUPS[0]}/data")):
        assert open_product(source).url == f"{web.url}/{name}"


def with_alternate(href: str, *others: str) -> dict[str, Any]:
    alternate = {f"a{number}": {"href": other} for number, other in enumerate(others)}
    return item({"product": {"href": href, "type": "application/vnd+zarr", "alternate": alternate}})


@pytest.mark.parametrize("first", ["gs://bucket/S.zarr", "s3://no bucket/S.zarr", "{url}/none.zarr", "ftp://h/S.zarr"])
def test_an_alternate_is_taken_where_the_first_cannot_be(first: str, web: ProductServer) -> None:
    """No backend, no bucket, nothing there, not to be named: what lies on the web is read."""
    product = open_product(with_alternate(first.format(url=web.url), f"{web.url}/S.zarr"))
    assert product.url == f"{web.url}/S.zarr"


def test_an_alternate_is_taken_where_credentials_lack(web: ProductServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(self: Store, key: str, **_: Any) -> bytes | None:
        if self.url.startswith("s3:"):
            raise ProductDenied("access was refused", given=self.url, remedy="give credentials")
        return read(self, key, **_)

    read = Store.read
    monkeypatch.setattr(Store, "read", denied)
    assert open_product(with_alternate("s3://t:b/S.zarr", f"{web.url}/S.zarr")).url == f"{web.url}/S.zarr"
    error = refused(with_alternate("s3://t:b/S.zarr", "s3://b/other.zarr", f"{web.url}/none.zarr"))
    assert (error.code, error.given) == ("product-denied", "s3://t:b/S.zarr")
    assert f"{web.url}/none.zarr, s3://b/other.zarr" not in error.remedy
    assert "s3://b/other.zarr" in error.message


def test_an_alternate_is_held_to_the_same_as_an_asset(folder: Path) -> None:
    linked = with_alternate("file:///etc/S.zarr", str(folder / "S.zarr"), f"file://{folder}/S.zarr")
    linked["links"] = [{"rel": "self", "href": "https://h.example/items/a.json"}]
    linked["assets"]["product"]["alternate"].pop("a0")
    assert "names what it may not" in refused(linked).message


def test_an_item_in_memory_of_the_web_names_no_path(folder: Path) -> None:
    assert open_product(item(str(folder / "S.zarr"))).groups
    for rel in ("root", "parent", "collection"):
        links = [{"rel": rel, "href": "https://h.example/collections/c"}]
        for form in (item(str(folder / "S.zarr"), links=links), item("S.zarr", links=links)):
            assert "names what it may not" in refused(form).message


def test_an_item_in_memory_that_does_not_say_where_it_lies() -> None:
    error = refused(item("./none.zarr"))
    assert "does not say where it lies" in error.message
    assert "set_self_href" in error.remedy


def test_groups_that_an_item_names_are_proposed(web: ProductServer) -> None:
    store = f"{web.url}/S.zarr"
    assets = {
        "SR_10m": {"href": f"{store}{GROUPS[0]}", "roles": ["data", "reflectance"]},
        "band": {"href": f"{store}{GROUPS[1]}/data", "roles": ["data"]},
        "metadata": {"href": f"{store}/.zmetadata", "roles": ["metadata"]},
        "look": {"href": f"{store}{GROUPS[2]}", "roles": ["visual"]},
        "other": {"href": f"{store}/none/at/all"},
        "picture": {"href": f"{web.url}/picture.png", "type": "image/png"},
    }
    product = open_product(item(assets))
    assert product.url == store
    assert product.proposed == GROUPS[:2]
    assert f'groups=["{GROUPS[0]}", "{GROUPS[1]}"]' in repr(product)
    assert GROUPS[0] in product._repr_html_()
    assert report(product, "xyzzy").suggestions["/xyzzy"] == GROUPS[:2]
    assert open_product(store).proposed == ()
    above = open_product(item({"a": {"href": f"{store}/measurements/reflectance"}}))
    assert above.proposed == GROUPS[:2]


def test_of_several_stores_one_is_meant(folder: Path) -> None:
    one, other = str(folder / "S.zarr"), str(folder / "my.zarrs" / "S.zarr")
    assets = {"b": {"href": f"{one}/quality"}, "product": {"href": one}, "z": {"href": other, "roles": ["data"]}}
    assert open_product(item(assets)).url == one
    assert open_product(item({"a": {"href": one, "roles": ["overview"]}, "z": assets["z"]})).url == other
    error = refused(item({"a": {"href": one}, "z": {"href": other}}))
    assert one in error.remedy
    assert other in error.remedy


# --- archives --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "inside"), [("S.zarr.zip", "S.zarr/"), ("flat.zarr.zip", "")])
def test_an_archive_is_said_and_no_store_beside_it_is_taken(
    name: str, inside: str, web: ProductServer, folder: Path
) -> None:
    with zipfile.ZipFile(folder / name, "w") as archive:
        for file in sorted((folder / "S.zarr").rglob("*")):
            archive.write(file, f"{inside}{file.relative_to(folder / 'S.zarr')}")
    archived = {"zipped": {"href": f"{web.url}/{name}", "type": "application/zip"}}
    for source in (item(archived), f"{web.url}/{name}", folder / name):
        error = refused(source)
        assert isinstance(error, InvalidRequest)
        assert "archive" in error.message
        deep, flat = re.findall(r'"(zip:[^"]+)"', error.remedy)
        assert list(open_product(deep if inside else flat).groups) == list(GROUPS), "the remedy works"
    both = {**archived, "product": {"href": f"{web.url}/my.zarrs/S.zarr"}}
    assert open_product(item(both)).url == f"{web.url}/my.zarrs/S.zarr"


def test_an_archive_of_something_else_is_no_zarr() -> None:
    assets = {"safe": {"href": "https://h.example/S.SAFE.zip", "type": "application/zip"}}
    assert "no Zarr asset" in refused(item(assets)).message


# --- buckets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bucket", ["", "a b", "b!", "a:b:c", "%41", "ü", ":b", "a:", "x" * 256])
def test_buckets_that_cannot_be(bucket: str) -> None:
    for address in (f"s3://{bucket}/S.zarr", f"simplecache::s3://{bucket}/S.zarr", item(f"s3://{bucket}/S.zarr")):
        assert refused(address).code == "invalid-request"
    with pytest.raises(InvalidRequest, match="name of a bucket"):
        check(f"s3://{bucket}/S.zarr")


@pytest.mark.parametrize("bucket", ["a", "my.bucket-1", "Old_Bucket", "t:b", "tenant_1:my.bucket"])
def test_buckets_that_can_be(bucket: str) -> None:
    check(f"s3://{bucket}/S.zarr")
    assert redact(f"s3://{bucket}/S.zarr") == f"s3://{bucket}/S.zarr"


def test_the_bucket_of_a_tenant_is_read(web: ProductServer, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"anon": True, "client_kwargs": {"endpoint_url": web.url}}
    monkeypatch.setitem(fsspec.config.conf, "s3", options)
    product = open_product("s3://ten:bucket/S.zarr")
    assert list(product.groups) == list(GROUPS)
    assert "s3://ten:bucket/S.zarr" in repr(product)


# --- an address inside a product -------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["web", "here"])
def test_an_address_inside_a_product_is_told_the_product_and_the_group(
    place: str, web: ProductServer, folder: Path
) -> None:
    root = web.url if place == "web" else str(folder)
    for name in ("S.zarr", "old.zarr/S.zarr", "plain/store"):
        store = f"{root}/{name}"
        for path, said in (
            (GROUPS[0], [f'"{store}"', f'groups=["{GROUPS[0]}"]']),
            (f"{GROUPS[0]}/data", [f'"{store}"', f'groups=["{GROUPS[0]}"]']),
            ("/measurements", [f'"{store}"', f'groups=["{GROUPS[0]}", "{GROUPS[1]}"]']),
        ):
            if name == "plain/store" and path == "/measurements" and place == "web":
                continue  # nothing is stored there: the groups below have no document above them
            error = refused(f"{store}{path}")
            assert isinstance(error, InvalidRequest), error
            assert [text for text in said if text not in error.remedy] == [], error
            assert "consolidate" not in str(error)
    error = refused(f"{root}/S.zarr/measurements/reflectance/r15m")
    assert error.code == "product-not-found"
    assert GROUPS[0] in error.remedy


def test_groups_of_a_v3_store_that_are_consolidated_too_are_told_the_same(tmp_path: Path) -> None:
    root = zarr.open_group(tmp_path / "p.zarr", mode="w", zarr_format=3)
    root.create_array("g/h/b", shape=(4, 4), chunks=(4, 4), dtype="u1", dimension_names=("y", "x"))
    for path in ("g/h", ""):
        zarr.consolidate_metadata(tmp_path / "p.zarr", path=path, zarr_format=3)
    assert open_product(tmp_path / "p.zarr").groups
    error = refused(tmp_path / "p.zarr" / "g" / "h")
    assert 'groups=["/g/h"]' in error.remedy


def test_a_document_of_a_store_is_told_the_store(web: ProductServer, folder: Path) -> None:
    for root in (web.url, str(folder)):
        error = refused(f"{root}/S.zarr/.zmetadata")
        assert f'inspect("{root}/S.zarr")' in error.remedy
    assert open_product(item({"a": {"href": f"{web.url}/plain/store/.zmetadata", "type": "application/zarr"}})).groups


def test_what_is_right_costs_no_request_more(web: ProductServer, folder: Path) -> None:
    with ProductServer(folder) as server:
        open_product(f"{server.url}/old.zarr/S.zarr")
        assert server.counts.requests == 1


# --- catalogues ------------------------------------------------------------------------------------------------------

CHILDREN = [{"rel": "child", "href": f"https://h.example/collections/c{number}"} for number in range(9)]
DOCUMENTS = {
    "a STAC collection": {"type": "Collection", "id": "c", "assets": {}, "links": []},
    "a STAC catalogue": {"type": "Catalog", "id": "c", "links": []},
    "a STAC API": {"type": "Catalog", "id": "c", "conformsTo": [], "links": CHILDREN},
    "a list of 2 STAC items": {"type": "FeatureCollection", "features": [{}, {}]},
    "a STAC API's list of collections": {"collections": [], "links": []},
}


@pytest.mark.parametrize("what", DOCUMENTS)
def test_a_catalogue_is_told_what_takes_it(what: str, tmp_path: Path) -> None:
    for name in ("catalog.json", "collection"):
        (tmp_path / name).write_text(json.dumps(DOCUMENTS[what]))
    with ProductServer(tmp_path) as server:
        sources = (f"{server.url}/catalog.json", f"{server.url}/collection", tmp_path / "catalog.json", DOCUMENTS[what])
        for source in sources:
            error = refused(source)
            assert f"this is {what}, and not a product" in error.message
            assert "geozarr_nb.submit_many(" in error.remedy
            assert error.code == "invalid-request"
    if what == "a STAC API":
        assert '"https://h.example/collections/c0"' in error.remedy
        assert "9 of them" in error.remedy


def test_objects_of_many_items_are_told_the_same() -> None:
    for thing in (pystac.Catalog("c", "d"), pystac.ItemCollection([])):
        assert "submit_many" in refused(thing).remedy


@pytest.mark.parametrize(
    ("page", "remedy"),
    [
        (
            "https://radiantearth.github.io/stac-browser/#/external/h.example/collections/c/items/i?.language=de",
            'geozarr_nb.inspect("https://h.example/collections/c/items/i")',
        ),
        (
            "https://radiantearth.github.io/stac-browser/#/external/h.example/collections/c",
            'geozarr_nb.submit_many("https://h.example/collections/c")',
        ),
        (
            "https://b.example/#/external/http:/h.example:80/a/i.json",
            'geozarr_nb.inspect("http://h.example:80/a/i.json")',
        ),
        ("https://b.example/#/collections/c/items/i", 'give the address that the page has under "Source"'),
    ],
)
def test_a_page_of_a_stac_browser_is_told_what_it_shows(page: str, remedy: str) -> None:
    assert remedy in refused(page).remedy


def test_a_web_page_is_said_to_be_one(tmp_path: Path) -> None:
    page = "<!doctype html><html><body>STAC Browser</body></html>"
    for name in ("external/h.example/i.json", "page"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(page)
    (tmp_path / "spa").mkdir()
    (tmp_path / "spa" / ".zmetadata").write_text(page)
    with ProductServer(tmp_path) as server:
        assert "an HTML page" in refused(f"{server.url}/page").message
        assert "Source" in refused(f"{server.url}/spa").remedy
        assert 'inspect("https://h.example/i.json")' in refused(f"{server.url}/external/h.example/i.json").remedy

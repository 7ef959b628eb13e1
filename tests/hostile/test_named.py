"""What others name: items and catalogues of the web open nothing of this machine, and choose no output."""

from __future__ import annotations

import json
import random
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urljoin

import pystac
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from pystac.utils import make_absolute_href

import geozarr_nb as gz
from benchmarks.server import ProductServer
from geozarr_nb.errors import GeozarrError, InvalidRequest
from geozarr_nb.outputs.stac import catalogue
from geozarr_nb.outputs.stac.catalogue import expand
from geozarr_nb.request import request_for
from geozarr_nb.settings import Settings
from geozarr_runner.inspection.reader import open_product
from geozarr_runner.spec.request import Request
from geozarr_runner.stores.store import Store
from geozarr_runner.trust.addresses import check, named, said_place
from geozarr_runner.trust.names import LONGEST, component, output_name

WEB = "https://catalogue.example/items/a.json"


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """A store of this machine that nobody was to read."""
    path = tmp_path / "home" / "private.zarr"
    group = zarr.open_group(path, mode="w", zarr_format=2)
    group.create_array("a/secret", shape=(2, 2), dtype="i2")
    zarr.consolidate_metadata(path)
    return path


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every address that is read, or would be."""
    addresses: list[str] = []
    read = Store.read

    def spy(self: Store, key: str, *, is_json: bool = False) -> bytes | None:
        addresses.append(f"{self.url}/{key}")
        return read(self, key, is_json=is_json)

    monkeypatch.setattr(Store, "read", spy)
    return addresses


def an_item(href: str, **more: Any) -> dict[str, Any]:
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": "an-item",
        "geometry": None,
        "properties": {"datetime": "2025-10-08T00:00:00Z"},
        "links": [],
        "assets": {"product": {"href": href, "type": "application/vnd+zarr"}},
        **more,
    }


def of(private: Path) -> list[str]:
    """Every way to name a store of this machine, but by its mere path: that is one of the item's own host."""
    return [
        f"file://{private}",
        f"FILE://{private}",
        f"file:{private}",
        f" file://{private}",
        f"fi\nle://{private}",
        f"local://{private}",
        f"simplecache::file://{private}",
        f"simplecache::{private}",
        f"https://host.example/a.zarr::file://{private}",
        f"zip://a.zarr::file://{private}",
        f"reference://::file://{private}",
        "reference://a.zarr",
        "dask::https://host.example/a.zarr",
        "jupyter://host.example/a.zarr",
        "github://org:repo@main/a.zarr",
        "generic://a.zarr",
        "ftp://host.example/a.zarr",
        "data:application/json,.zarr",
        "pvc://claim/a.zarr",
        "memory://a.zarr",
        "javascript:alert(1)//.zarr",
    ]


NUMBER_OF_WAYS = len(of(Path("/a")))


@pytest.mark.parametrize("number", range(NUMBER_OF_WAYS))
def test_an_item_on_the_web_names_the_web(number: int, private: Path, tmp_path: Path, opened: list[str]) -> None:
    site = tmp_path / "site"
    site.mkdir()
    href = of(private)[number]
    (site / "item.json").write_text(json.dumps(an_item(href)))
    with ProductServer(site) as server:
        with pytest.raises(InvalidRequest, match="names what it may not") as raised:
            gz.inspect(f"{server.url}/item.json")
        assert opened == [f"{server.url}/item.json/"]
    assert "give" in raised.value.remedy


def test_a_path_that_is_named_on_the_web_is_one_of_its_server(private: Path, tmp_path: Path, opened: list[str]) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "item.json").write_text(json.dumps(an_item(str(private))))
    (site / "catalog.json").write_text(json.dumps(a_catalogue("c", ("item", str(private)))))
    with ProductServer(site) as server:
        for call, address in ((gz.inspect, "item.json"), (expand, "catalog.json")):
            with pytest.raises(GeozarrError) as raised:
                call(f"{server.url}/{address}")
            assert raised.value.code == "product-not-found"
            assert raised.value.given == f"{server.url}{private}"
        assert all(address.startswith(server.url) for address in opened)
    for base in ("s3://bucket/items/a.json", "simplecache::s3://bucket/a.json"):
        assert named(str(private), base) == base.partition("bucket")[0] + f"bucket{private}"
    with pytest.raises(InvalidRequest):
        named(str(private), "pvc://claim/items/a.json")


@pytest.mark.parametrize("number", range(NUMBER_OF_WAYS))
@pytest.mark.parametrize("base", ["s3://bucket/items/a.json", "simplecache::https://host.example/a.json"])
def test_an_item_of_an_object_store_names_the_web(number: int, base: str, private: Path) -> None:
    with pytest.raises(InvalidRequest):
        named(of(private)[number], base)


@pytest.mark.parametrize(
    "href",
    [
        "simplecache::{}",
        "zip://a.zarr::{}",
        "reference://::{}",
        "ftp://host.example/a.zarr",
        "dask::https://host/a.zarr",
    ],
)
@pytest.mark.parametrize("form", ["dict", "pystac", "file"])
def test_no_item_at_all_names_a_chain_or_what_is_off_the_list(
    href: str, form: str, private: Path, tmp_path: Path, opened: list[str]
) -> None:
    item = an_item(href.format(private))
    given: Any = item
    if form == "pystac":
        given = pystac.Item.from_dict(item)
    elif form == "file":
        given = tmp_path / "item.json"
        given.write_text(json.dumps(item))
        opened.clear()
    with pytest.raises(InvalidRequest, match="names what it may not"):
        gz.inspect(given)
    assert not [address for address in opened if "item.json" not in address]


def test_an_item_in_memory_counts_as_from_where_it_says(private: Path) -> None:
    assert gz.inspect(an_item(str(private))).groups
    for place in (WEB, "s3://bucket/item.json"):
        linked = an_item(f"file://{private}", links=[{"rel": "self", "href": place}])
        for form in (linked, pystac.Item.from_dict(linked)):
            with pytest.raises(InvalidRequest, match="is not on this machine"):
                gz.inspect(form)
    for place in ("ftp://host.example/item.json", "reference::https://host.example/i.json"):
        with pytest.raises(InvalidRequest):
            gz.inspect(an_item(str(private), links=[{"rel": "self", "href": place}]))
    odd = gz.inspect(an_item(str(private), links=[{"rel": "self", "href": "javascript:alert(1)"}]))
    assert odd.item["href"] is None, "it would become a link of the result's item"


def test_a_local_item_names_paths_and_the_web(private: Path, tmp_path: Path) -> None:
    file = tmp_path / "home" / "item.json"
    for href in (str(private), "private.zarr", "./private.zarr", f"file://{private}", f"local://{private}"):
        file.write_text(json.dumps(an_item(href)))
        assert gz.inspect(file).groups, href
    assert named("s3://bucket/a.zarr", str(file)) == "s3://bucket/a.zarr"


@pytest.mark.parametrize(
    ("base", "href", "address"),
    [
        (WEB, "./p.zarr", "https://catalogue.example/items/p.zarr"),
        (WEB, "../p.zarr?sig=a", "https://catalogue.example/p.zarr?sig=a"),
        (WEB, "//other.example/p.zarr", "https://other.example/p.zarr"),
        (WEB, "/products/p.zarr", "https://catalogue.example/products/p.zarr"),
        ("s3://bucket/items/a.json", "/p.zarr", "s3://bucket/p.zarr"),
        ("simplecache::https://h.example/i/a.json", "/p.zarr", "simplecache::https://h.example/p.zarr"),
        (WEB, "s3://bucket/p.zarr", "s3://bucket/p.zarr"),
        (WEB, "S2A_T10:20:30.zarr", "https://catalogue.example/items/S2A_T10:20:30.zarr"),
        ("s3://bucket/items/a.json", "../p.zarr", "s3://bucket/p.zarr"),
        ("s3://bucket/items/a.json", "../../../other/p.zarr", "s3://bucket/other/p.zarr"),
        ("az://container/a.json", "p.zarr", "az://container/p.zarr"),
        ("pvc://claim/items/a.json", "p.zarr", "pvc://claim/items/p.zarr"),
        ("pvc://claim/items/a.json", "pvc://claim/p.zarr", "pvc://claim/p.zarr"),
        ("simplecache::https://h.example/i/a.json", "p.zarr", "simplecache::https://h.example/i/p.zarr"),
        ("simplecache::https://h.example/i/a.json", "https://o.example/p.zarr", "https://o.example/p.zarr"),
        ("zip://i/a.json::https://h.example/a.zip", "../p.zarr", "zip://p.zarr::https://h.example/a.zip"),
        ("/data/items/a.json", "../p.zarr", "/data/p.zarr"),
        ("file:///data/items/a.json", "p.zarr", "/data/items/p.zarr"),
    ],
)
def test_what_is_named_beside_an_item_is_found_there(base: str, href: str, address: str) -> None:
    assert named(href, base) == address


@pytest.mark.parametrize("href", ["file:///a.zarr", "pvc://other/a.zarr", "/data/a.zarr", "zip://a::https://h/b"])
def test_an_item_on_a_claim_names_its_own_claim(href: str) -> None:
    with pytest.raises(InvalidRequest):
        named(href, "pvc://claim/items/a.json")


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "169.254.170.2:80",
        "2852039166",
        "0xa9fea9fe",
        "0251.0376.0251.0376",
        "169%2E254.169.254",
        "\uff11\uff16\uff19.254.169.254",
        "u:p@169.254.169.254",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "[::ffff:169.254.169.254]",
        "[64:ff9b::a9fe:a9fe]",
        "metadata.google.internal",
        "METADATA.google.internal.",
    ],
)
def test_no_item_names_what_a_cloud_tells_its_machines(host: str) -> None:
    for base in (WEB, None, "/data/item.json"):
        with pytest.raises(InvalidRequest, match="cloud or network"):
            named(f"http://{host}/latest/a.zarr", base)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1", "[::1]", "0.0.0.0", "a.localhost", "2130706433"])
def test_no_item_of_elsewhere_names_services_of_this_machine(host: str) -> None:
    with pytest.raises(InvalidRequest, match="service of this machine"):
        named(f"http://{host}:8888/a.zarr", WEB)
    here = f"http://{host}:8888/a.zarr"
    assert named(here, "http://127.0.0.1:8000/item.json") == named(here, "/data/item.json") == named(here, None) == here


def test_a_setting_adds_protocols(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidRequest):
        named("ftp://host.example/a.zarr", WEB)
    monkeypatch.setenv("GEOZARR_PROTOCOLS", "ftp, webdav")
    assert named("ftp://host.example/a.zarr", WEB) == "ftp://host.example/a.zarr"
    assert Settings.load().protocols == {"ftp", "webdav"}
    for name in ("file", "local", "reference", "dask", "simplecache", "a b::c", "FTP"):
        monkeypatch.setenv("GEOZARR_PROTOCOLS", name)
        with pytest.raises(InvalidRequest, match="GEOZARR_PROTOCOLS"):
            Settings.load()
        with pytest.raises(InvalidRequest, match="GEOZARR_PROTOCOLS"):
            named("https://host.example/a.zarr", WEB)


@pytest.mark.parametrize(
    "address",
    [
        "reference::https://h.example/a",
        "reference://a",
        "dask::https://h.example/a",
        "simplecache::dask",
        "filecache::reference::file:///a",
        "cached::https://h.example/a",
        "dir::file:///etc",
        "generic://a",
        "github://o:r@m/a.zarr",
        "jupyter://h.example/a",
        "https://h.example/a::file:///etc/a.zarr",
    ],
)
def test_what_runs_or_opens_more_is_refused_of_a_person_too(address: str, opened: list[str]) -> None:
    for call in (gz.inspect, gz.open, gz.preview):
        with pytest.raises(InvalidRequest, match="may not go through"):
            call(address)
    assert opened == []


def test_a_person_may_chain_what_is_known_to_be_safe(private: Path, tmp_path: Path) -> None:
    for address in (
        f"simplecache::file://{private}",
        f"filecache::{private}",
        "blockcache::s3://bucket/a.zarr",
        "zip://a.zarr::simplecache::https://h.example/a.zip",
        "https://h.example/a.zarr?sig=a::b",
        "http://[::1]:80/a.zarr",
    ):
        check(address)
    archive = shutil.make_archive(str(tmp_path / "a"), "zip", private.parent)
    assert gz.inspect(f"zip://private.zarr::file://{archive}").groups


def test_what_no_backend_opens_ends_in_ours(tmp_path: Path) -> None:
    for address in ("ftp://127.0.0.1:1/a.zarr", "dbfs://a/b", f"zip://a::{tmp_path}/none.zip", "nothing://a"):
        with pytest.raises(GeozarrError) as raised:
            gz.inspect(address)
        assert raised.value.code == "product-unreachable"


# --- redirects -------------------------------------------------------------------------------------------------------


@pytest.fixture
def site() -> Iterator[tuple[str, dict[str, Callable[[BaseHTTPRequestHandler], None]]]]:
    """A server that answers what a test says: its address, and what to do for which path."""
    answers: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answers.get(self.path, answers.get("*", lambda handler: handler.send_error(404)))(self)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", answers
    server.shutdown()
    server.server_close()


def says(document: Any) -> Callable[[BaseHTTPRequestHandler], None]:
    content = json.dumps(document).encode()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    return answer


def test_a_redirect_leads_to_no_file(site: Any, private: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url, answers = site
    monkeypatch.setattr(Store, "attempts", 1)

    def away(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", f"file://{private}/.zmetadata")
        handler.end_headers()

    answers["*"] = away
    for path in ("item.json", "p.zarr"):
        with pytest.raises(GeozarrError) as raised:
            gz.inspect(f"{url}/{path}")
        assert raised.value.code in ("product-unreachable", "product-broken")


# --- catalogues ------------------------------------------------------------------------------------------------------


def a_catalogue(identifier: str, *links: tuple[str, str]) -> dict[str, Any]:
    return {
        "type": "Catalog",
        "stac_version": "1.0.0",
        "id": identifier,
        "description": "d",
        "links": [{"rel": rel, "href": href} for rel, href in links],
    }


@pytest.mark.parametrize("rel", ["child", "item"])
@pytest.mark.parametrize("number", range(NUMBER_OF_WAYS))
def test_a_catalogue_on_the_web_links_to_the_web(
    rel: str, number: int, site: Any, private: Path, opened: list[str]
) -> None:
    url, answers = site
    answers["/catalog.json"] = says(a_catalogue("c", (rel, of(private)[number])))
    with pytest.raises(InvalidRequest, match="names what it may not"):
        expand(f"{url}/catalog.json")
    assert opened == [f"{url}/catalog.json/"]


@pytest.mark.parametrize(
    "self_link", [None, "/home/me/item.json", "file:///home/me/item.json", "simplecache::file:///i"]
)
def test_an_item_of_a_list_on_the_web_is_of_the_web_whatever_it_says(
    self_link: str | None, site: Any, private: Path
) -> None:
    url, answers = site
    links = [] if self_link is None else [{"rel": "self", "href": self_link}]
    bad, good = an_item(f"file://{private}", links=links), an_item("./p.zarr", links=links)
    answers["/items.json"] = says({"type": "FeatureCollection", "features": [bad, good]})
    first, second = expand(f"{url}/items.json")
    with pytest.raises(InvalidRequest, match="names what it may not"):
        gz.inspect(first)
    with pytest.raises(GeozarrError) as raised:
        gz.inspect(second)
    assert raised.value.given == f"{url}/p.zarr"


def test_what_a_document_says_of_its_own_place_counts_for_nothing_where_it_was_read(site: Any, private: Path) -> None:
    url, answers = site
    here = [{"rel": "self", "href": str(private.parent / "item.json")}]
    answers["/catalog.json"] = says({**a_catalogue("c"), "links": [*here, {"rel": "item", "href": "i.json"}]})
    answers["/i.json"] = says(an_item("private.zarr", links=here))
    [item] = expand(f"{url}/catalog.json")
    assert item.get_self_href() == f"{url}/i.json"
    with pytest.raises(GeozarrError) as raised:
        gz.inspect(item)
    assert raised.value.given == f"{url}/private.zarr"


def test_a_catalogue_that_is_a_circle_ends(site: Any, opened: list[str]) -> None:
    url, answers = site
    answers["/a"] = says(a_catalogue("a", ("child", "b"), ("child", "a"), ("item", "i"), ("child", "a#again")))
    answers["/b"] = says(a_catalogue("b", ("child", "a"), ("child", "./b"), ("item", "i"), ("item", "j")))
    answers["/i"], answers["/j"] = says(an_item("i.zarr")), says(an_item("j.zarr", id="j"))
    assert [item.id for item in expand(f"{url}/a")] == ["an-item", "j"]
    assert sorted(opened) == [f"{url}/{name}/" for name in "abij"]


def test_a_circle_in_memory_ends() -> None:
    one, other = pystac.Catalog("one", "d"), pystac.Catalog("other", "d")
    one.add_child(other)
    other.links.append(pystac.Link("child", one))
    with pytest.raises(InvalidRequest, match="has no items"):
        expand(one)


def test_a_chain_without_end_is_ended(site: Any, opened: list[str]) -> None:
    url, answers = site

    def deeper(handler: BaseHTTPRequestHandler) -> None:
        number = int(handler.path.rpartition("/")[2])
        says(a_catalogue(f"c{number}", ("child", f"{number + 1}")))(handler)

    answers["*"] = deeper
    with pytest.raises(InvalidRequest, match="more than 20 catalogues") as raised:
        expand(f"{url}/1", max_catalogues=20)
    assert len(opened) == 20
    assert "GEOZARR_MAX_CATALOGUES=" in raised.value.remedy


def test_a_million_items_are_counted_before_any_is_read(site: Any, opened: list[str]) -> None:
    url, answers = site
    answers["/c"] = says(a_catalogue("c", *(("item", f"i{number}") for number in range(20_000))))
    answers["/f"] = says({"type": "FeatureCollection", "features": [{}] * 20_000})
    for path in ("c", "f"):
        opened.clear()
        with pytest.raises(InvalidRequest, match="more than 10,000 items") as raised:
            expand(f"{url}/{path}")
        assert opened == [f"{url}/{path}/"]
        assert "GEOZARR_MAX_ITEMS=" in raised.value.remedy


def test_the_limits_are_settings(site: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    url, answers = site
    monkeypatch.setenv("GEOZARR_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("GEOZARR_MAX_ITEMS", "2")
    answers["/c"] = says(a_catalogue("c", ("item", "i"), ("item", "j"), ("item", "k")))
    with pytest.raises(InvalidRequest, match="more than 2 items"):
        gz.submit_many(f"{url}/c", groups=[])


def test_a_catalogue_of_a_service_is_bounded_too() -> None:
    class Service(pystac.Catalog):
        def get_items(self, *ids: str, recursive: bool = False) -> Iterator[pystac.Item]:
            while True:
                yield pystac.Item.from_dict(an_item("https://h.example/a.zarr"))

    with pytest.raises(InvalidRequest, match="more than 50 items"):
        expand(Service("s", "d"), max_items=50)

    class Deep(pystac.Catalog):
        pass

    circle = Deep("s", "d")
    circle.links.append(pystac.Link("child", circle))
    with pytest.raises(InvalidRequest, match="no STAC that can be read"):
        expand(circle)


def test_how_far_it_is_is_said_while_it_takes_long(
    site: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url, answers = site
    answers["/c"], answers["/i"] = says(a_catalogue("c", ("item", "i"))), says(an_item("p.zarr"))
    expand(f"{url}/c")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(catalogue, "SECONDS_BETWEEN_WORDS", 0)
    expand(f"{url}/c")
    assert "reading a catalogue: 1 items in 1 catalogues" in capsys.readouterr().err


# --- names of outputs ------------------------------------------------------------------------------------------------

NAMES = ["", ".", "..", ".ssh", "-rf", "../../../m1", "/abs/y", "~/x", "a b", "a/b", "a\\b", "a\nb", "a\0b", "x" * 300]
NAMES += [
    "s3://bucket/loot",
    "pvc://other/x",
    "file:///etc/x",
    "a;rm -rf ~",
    "$(id)",
    "\ud800",
    "\u202ex",
    "\x1b]0;x\x07",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("place", ["local", "argo"])
def test_no_id_chooses_an_output_elsewhere(name: str, place: str, private: Path, tmp_path: Path) -> None:
    from geozarr_nb.backends.argo.workflow import output_address

    product = gz.inspect(an_item(str(private), id=name))
    locate = (lambda output: output_address(str(output), "claim")) if place == "argo" else None
    output = request_for(product, groups=[], settings=Settings(), locate=locate).output
    folder, _, last = output.rpartition("/")
    assert folder == ("pvc://claim" if place == "argo" else str(Path.cwd()))
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*_geozarr\.zarr", last)
    assert len(last) <= LONGEST


def test_a_component_is_one() -> None:
    chance = random.Random(16)
    letters = "aZ09._-/\\:~ \n\0\u202e\ud800é"
    for _ in range(5000):
        text = "".join(chance.choices(letters, k=chance.choice((0, 1, 2, 3, 20, 250))))
        name = component(text)
        assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}", name), text
        assert component(name) == name
        assert len(output_name(text)) <= LONGEST


def test_names_that_are_good_stay_and_others_stay_apart() -> None:
    for name in ("S2A_MSIL2A_20251008T100041", "a.b-c_d", "_a", "0"):
        assert output_name(name) == f"{name}_geozarr.zarr"
    odd = ["a b", "a-b", "a/b", "a\\b", " a b", ".a-b", "../a-b", "x" * 200, "x" * 201, "", ".", ".."]
    assert len({output_name(name) for name in odd}) == len(odd)


def test_two_items_of_one_id_do_not_overwrite_each_other(
    private: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEOZARR_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    other = tmp_path / "other.zarr"
    shutil.copytree(private, other)
    submitted = []

    def submit(source: Any = None, output: Any = None, **options: Any) -> Any:
        submitted.append(source)
        raise InvalidRequest("this would run")

    monkeypatch.setattr("geozarr_nb.api.job_sets.submit", submit)
    monkeypatch.setattr("geozarr_nb.api.submission.check_groups", lambda *_: None)
    items = [an_item(str(store)) for store in (private, other, private)]
    jobs = gz.submit_many(items, groups=[], if_exists="overwrite", max_workers=1)
    assert len(submitted) == 2, "the same request twice is one job"
    [clash] = [entry for entry in jobs.refused if "writes the same output" in entry.reason]
    assert "output of its own" in clash.remedy


def test_of_two_that_overwrite_one_output_the_second_is_refused_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever was read sooner: else the same list would replace its own result when it is given again."""
    monkeypatch.setenv("GEOZARR_STATE_DIR", str(tmp_path / "state"))
    second_is_open = [threading.Event() for _ in range(8)]

    def opened(source: str, settings: Any) -> str:
        pair, place = source.split("-")
        second_is_open[int(pair)].set() if place == "second" else second_is_open[int(pair)].wait()
        return source

    def submit(source: Any = None, output: Any = None, **options: Any) -> Any:
        raise InvalidRequest("this would run")

    asked = {"shown": "", "product": "p"}
    monkeypatch.setattr("geozarr_nb.api.job_sets.open_source", opened)
    monkeypatch.setattr("geozarr_nb.api.submission.open_source", opened)
    monkeypatch.setattr(
        "geozarr_nb.api.submission.request_for",
        lambda source, output, **_: Request(source=source, output=output, identity=source, **asked),
    )
    monkeypatch.setattr("geozarr_nb.api.submission.check_groups", lambda *_: None)
    monkeypatch.setattr("geozarr_nb.api.job_sets.submit", submit)
    wanted = [
        {"source": f"{pair}-{place}", "output": f"{pair}.zarr"} for pair in range(8) for place in ("first", "second")
    ]
    jobs = gz.submit_many(wanted, if_exists="overwrite", max_workers=len(wanted))
    refused = [entry.label for entry in jobs.refused if "writes the same output" in entry.reason]
    assert refused == [f"{pair}-second" for pair in range(8)]


def test_a_store_names_no_output_elsewhere_and_tells_no_secret() -> None:
    from geozarr_runner.inspection.reader import _store_name

    assert _store_name("https://me:word1234@h.example") == "h.example"
    assert _store_name("https://h.example/p.zarr;sig=word1234") == "p"
    assert _store_name("/data/p.zarr/") == "p"
    assert output_name(_store_name("https://h.example/..")).startswith("product-")


def test_whatever_is_put_together_is_named_on_the_web_or_refused() -> None:
    chance = random.Random(19)
    pieces = [
        *":/?#@%[].;=\\",
        "://",
        "::",
        "//",
        "..",
        "file",
        "http",
        "https",
        "s3",
        "zip",
        "simplecache",
        "a",
        "\ud800",
    ]
    for _ in range(20_000):
        href = "".join(chance.choices(pieces, k=chance.randint(1, 9)))
        for base in (WEB, "s3://bucket/i/a.json", "http://[", "simplecache::https://h.example/a.json"):
            try:
                address = named(href, base)
            except InvalidRequest:
                continue
            assert re.match(r"(simplecache::)?(https?|s3)://[^/]", address, re.IGNORECASE), (href, base)
            assert "file:" not in address.partition("://")[0]


PARTS = st.one_of(
    st.sampled_from(["", ".", "..", "a", "S.zarr", "b c", "é", "%2e%2e", "~", "old.zarrs", "a;v=1"]),
    st.text(st.sampled_from("ab.-_ ~%é"), max_size=4),
)
RELATIVE = st.tuples(st.sampled_from(["", "/", "./", "../"]), st.lists(PARTS, min_size=1, max_size=5)).map(
    lambda pair: pair[0] + "/".join(pair[1])
)


def pystac_join(base: str, href: str) -> str:
    return make_absolute_href(href, base)


@settings(deadline=None)
@given(
    RELATIVE, st.sampled_from([WEB, "http://h.example/a/b/c/i.json", "s3://bucket/i/j/a.json", "s3://bucket/a.json"])
)
def test_a_reference_leads_where_it_leads_for_others(href: str, base: str) -> None:
    """On the web where urllib says, in a bucket where pystac says, and always to the item's own host or bucket."""
    if not href.strip() or href != href.strip():
        return
    try:
        address = named(href, base)
    except InvalidRequest:
        assert href.startswith("//"), "only what names another host, and no right one"
        return
    if href.startswith("//"):
        assert address.startswith(f"{base.partition('://')[0]}://")
        return
    assert address == (urljoin if base.startswith("http") else pystac_join)(base, href)
    assert address.startswith(base[: base.index("/", 8)])


def test_what_lies_where_is_read_from_nothing_odd() -> None:
    assert said_place(None) is said_place("") is said_place("javascript:alert(1)") is None
    assert said_place("/data/a.json") == "/data/a.json"
    with pytest.raises(InvalidRequest):
        said_place("http://169.254.169.254/a.json")
    with pytest.raises(InvalidRequest):
        open_product(an_item("a.zarr", links=[{"rel": "self", "href": "ftp://h.example/a.json"}]))


@pytest.mark.parametrize("name", ["~a\0b/x.zarr", "a\0b.zarr", "/tmp/\ud800.zarr", "file://a\0b"])
def test_what_is_no_path_is_refused_as_every_other_name_is(name: str, private: Path) -> None:
    for call in (
        lambda: gz.inspect(name),
        lambda: gz.open(name),
        lambda: gz.convert(private, name),
        lambda: open_product(an_item(name)),
    ):
        with pytest.raises(GeozarrError) as caught:
            call()
        assert caught.value.code in ("invalid-request", "product-not-found"), caught.value
        assert caught.value.remedy


@pytest.mark.parametrize("href", ["[x", "//[x", "http://[x/a", "http://h:port/a", "http://\u2100x/"])
@pytest.mark.parametrize("base", [WEB, "/data/items/a.json", None])
def test_a_name_that_cannot_be_joined(href: str, base: str | None) -> None:
    links = [] if base is None else [{"rel": "self", "href": base}]
    with pytest.raises(GeozarrError):
        open_product(an_item(href, links=links))

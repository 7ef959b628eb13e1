"""What a STAC API lists, as requests: all of a collection's items or a refusal, and never an empty set in silence."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pystac
import pytest

import geozarr_nb as gz
from geozarr_nb.errors import InvalidRequest
from geozarr_nb.outputs.stac import pages
from geozarr_nb.outputs.stac.catalogue import expand
from geozarr_nb.outputs.stac.pages import says_how_many


class Api:
    """A STAC API of one collection, with as many items as `count` says; it gives `most` of them a page at most."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.count, self.most = 7, 3
        self.change: Callable[[dict[str, Any]], None] = lambda page: None
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                api.asked.append(self.path)
                document = api.document(self.path)
                content = json.dumps(document).encode()
                self.send_response(200 if document is not None else 404)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def document(self, path: str) -> Any:
        """Return what lies under a path."""
        parts = urlsplit(path)
        said: dict[str, Any] = {"stac_version": "1.0.0", "description": "d", "license": "other"}
        extent = {"spatial": {"bbox": [[-180, -90, 180, 90]]}, "temporal": {"interval": [[None, None]]}}
        match parts.path:
            case "/":
                links = [("search", "/search"), ("data", "/collections"), ("child", "/collections/c")]
                return {**said, "type": "Catalog", "id": "api", "conformsTo": [], "links": self.links(*links)}
            case "/static":
                return {**said, "type": "Catalog", "id": "s", "links": self.links(("child", "/collections/c"))}
            case "/collections":
                return {"collections": [], "links": []}
            case "/collections/c":
                links = self.links(("items", "/collections/c/items"), ("root", "/"))
                return {**said, "type": "Collection", "id": "c", "extent": extent, "links": links}
            case "/collections/c/items":
                query = {name: int(value) for name, [value] in parse_qs(parts.query).items()}
                start, size = query.get("start", 0), min(query.get("limit", 2), self.most)
                stop = min(start + size, self.count)
                following = f"/collections/c/items?limit={size}&start={stop}"
                links = self.links(("next", following)) if stop < self.count else []
                page = {"type": "FeatureCollection", "features": [*map(self.item, range(start, stop))], "links": links}
                self.change(page)
                return page
        return None

    def links(self, *links: tuple[str, str]) -> list[dict[str, str]]:
        """Return links to paths of this server."""
        return [{"rel": rel, "href": f"{self.url}{path}"} for rel, path in links]

    def item(self, number: int) -> dict[str, Any]:
        """Return an item, as the server gives it."""
        return {
            "type": "Feature",
            "stac_version": "1.0.0",
            "id": f"i{number}",
            "geometry": None,
            "properties": {"datetime": "2025-10-08T00:00:00Z"},
            "links": self.links(("self", f"/collections/c/items/i{number}")),
            "assets": {"product": {"href": f"/products/{number}.zarr", "type": "application/vnd+zarr"}},
        }


@pytest.fixture
def api() -> Iterator[Api]:
    made = Api()
    yield made
    made.server.shutdown()
    made.server.server_close()


def identifiers(found: Any) -> list[str]:
    return [item.id for item in found]


ALL = [f"i{number}" for number in range(7)]


@pytest.mark.parametrize("path", ["/collections/c", "/collections/c/items", "/static"])
def test_a_collection_is_all_of_its_items_page_by_page(path: str, api: Api) -> None:
    found = expand(f"{api.url}{path}")
    assert identifiers(found) == ALL
    assert found[0].get_self_href() == f"{api.url}/collections/c/items/i0"
    assert len(api.asked) < 7


def test_a_collection_that_pystac_has_read_is_the_same(api: Api) -> None:
    document = api.document("/collections/c")
    assert identifiers(expand(pystac.Collection.from_dict(document, href=f"{api.url}/collections/c"))) == ALL
    assert identifiers(expand(document)) == ALL


def test_who_says_how_many_gets_these_and_is_told_of_the_others(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    assert identifiers(expand(f"{api.url}/collections/c/items?limit=2")) == ["i0", "i1"]
    assert "there are more" in capsys.readouterr().err
    assert identifiers(expand(api.document("/collections/c/items?limit=3"))) == ["i0", "i1", "i2"]
    assert says_how_many("https://h.example/items?a=1&limit=5")
    assert not says_how_many("https://h.example/items?nolimit=5")


def test_a_collection_of_too_many_is_refused_at_once(api: Api) -> None:
    api.count = 1_000_000
    with pytest.raises(InvalidRequest, match="more than 20 items"):
        expand(f"{api.url}/collections/c", max_items=20)
    assert len(api.asked) < 10
    api.asked.clear()
    for name, said in (("numberMatched", 99), ("numMatched", 99), ("context", {"matched": 99})):
        api.change = lambda page, name=name, said=said: page.update({name: said})  # type: ignore[misc]
        with pytest.raises(InvalidRequest, match="more than 20 items") as caught:
            expand(f"{api.url}/collections/c", max_items=20)
        assert "GEOZARR_MAX_ITEMS" in caught.value.remedy
    assert len(api.asked) == 6, "a collection, and its first page"


def test_pages_without_end_or_in_a_circle_are_ended(api: Api) -> None:
    api.change = lambda page: page.update(features=[], links=api.links(("next", "/collections/c/items?limit=1")))
    with pytest.raises(InvalidRequest, match="circle"):
        expand(f"{api.url}/collections/c")
    numbers = iter(range(1000))

    def empty(page: dict[str, Any]) -> None:
        page.update(features=[], links=api.links(("next", f"/collections/c/items?start={next(numbers)}")))

    api.change = empty
    with pytest.raises(InvalidRequest, match="more than 9 catalogues"):
        expand(f"{api.url}/collections/c", max_catalogues=9)


@pytest.mark.parametrize(
    ("link", "said"),
    [
        ({"method": "POST", "body": {"token": "x"}}, "POST"),
        ({"href": "file:///etc/passwd"}, "names what it may not"),
        ({"href": "http://169.254.169.254/x"}, "names what it may not"),
    ],
)
def test_a_next_page_is_an_address_of_the_web(link: dict[str, Any], said: str, api: Api) -> None:
    api.change = lambda page: [one.update(link) for one in page["links"]] and None
    with pytest.raises(InvalidRequest, match=said) as caught:
        expand(f"{api.url}/collections/c")
    assert caught.value.remedy


def test_a_page_that_is_none_ends_nothing_in_silence(api: Api) -> None:
    api.change = lambda page: page.update(links=api.links(("next", "/collections")))
    with pytest.raises(InvalidRequest, match="page of items, and is none") as caught:
        expand(f"{api.url}/collections/c")
    assert caught.value.given == f"{api.url}/collections"


@pytest.mark.parametrize("way", ["address", "dict", "pystac"])
def test_the_root_of_an_api_is_told_to_choose_a_collection(way: str, api: Api) -> None:
    document = api.document("/")
    given = {"address": f"{api.url}/", "dict": document, "pystac": pystac.Catalog.from_dict(document)}[way]
    with pytest.raises(InvalidRequest, match="STAC API") as caught:
        gz.submit_many(given, groups=[])
    assert f'"{api.url}/collections/c"' in caught.value.remedy


def test_what_lists_nothing_is_no_set(api: Api, tmp_path: Path) -> None:
    api.count = 0
    (tmp_path / "items.json").write_text('{"type": "FeatureCollection", "features": []}')
    for given in (f"{api.url}/collections/c", f"{api.url}/static", tmp_path / "items.json", pystac.Catalog("c", "d")):
        with pytest.raises(InvalidRequest, match="has no items"):
            gz.submit_many(given, groups=[])
    with pytest.raises(InvalidRequest, match="list of collections"):
        gz.submit_many(f"{api.url}/collections", groups=[])
    with pytest.raises(InvalidRequest, match="STAC browser"):
        gz.submit_many("https://b.example/#/external/h.example/collections/c", groups=[])


def test_a_refused_entry_is_named_and_no_member(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `[job.open() for job in jobs]` goes through a set."""
    monkeypatch.setenv("GEOZARR_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr(pages, "ITEMS_AT_ONCE", 3)
    jobs = gz.submit_many(f"{api.url}/collections/c", groups=[], name="mine")
    assert [job.open() for job in jobs] == []
    assert (len(jobs), len(jobs.entries)) == (0, 7)
    for found in (jobs, gz.get_job_set("mine")):
        assert [entry.name for entry in found.refused] == ALL
        assert {entry.code for entry in found.refused} == {"product-not-found"}
        assert "i3" in repr(found)
        assert "there is no product here" in repr(found)

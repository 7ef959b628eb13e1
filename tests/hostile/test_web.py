"""Web servers that lead away, or whose pages are more than they seem."""

from __future__ import annotations

import json
import socket
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

import geozarr_nb as gz
from geozarr_nb.errors import GeozarrError, InvalidRequest, ProductBroken, ProductUnreachable
from geozarr_runner.inspection.reader import open_product
from geozarr_runner.staging.download import download
from geozarr_runner.stores import web
from geozarr_runner.stores.store import Store
from geozarr_runner.trust import bounds
from geozarr_runner.trust.bounds import from_json
from tests.hostile.support import bounded
from tests.hostile.web_server import WebServer, endless, redirect

GROUP = b'{"zarr_format": 3, "node_type": "group", "attributes": {}}'
CLOUD = ("169.254.169.254", "[::ffff:169.254.169.254]", "2852039166", "[fd00:ec2::254]", "metadata.google.internal")


@pytest.mark.parametrize("host", CLOUD)
@pytest.mark.parametrize("path", ["p.zarr/zarr.json", "p.zarr/.zmetadata", "i.json"])
def test_a_redirect_leads_to_no_cloud(host: str, path: str) -> None:
    with WebServer({"/" + path: redirect(f"http://{host}/latest/{path}")}) as server:
        with pytest.raises(InvalidRequest, match="leads to where nothing is read"):
            gz.inspect(f"{server.url}/{path.removesuffix('/zarr.json').removesuffix('/.zmetadata')}")
        documents = {
            f"{root}/{name}" for root in ("", "/p.zarr") for name in (".zmetadata", "zarr.json", ".zgroup", ".zarray")
        }
        assert {one.path for one in server.asked} <= {"/i.json", *documents}


def test_nor_does_one_of_a_chunk() -> None:
    with WebServer({"/p.zarr/a/c/0": redirect("http://169.254.169.254/latest")}) as server:
        store = Store(f"{server.url}/p.zarr")
        with pytest.raises(InvalidRequest, match="leads to where nothing is read"):
            store.sizes(["a/c/0"])


def test_a_name_that_stands_for_it_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(host: str, port: Any, *_: Any, **__: Any) -> list[Any]:
        number = "127.0.0.1" if host == "person.example" else "169.254.169.254"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (number, int(port)))]

    with WebServer({"/p.zarr/zarr.json": b"[]"}) as server:
        port = server.url.rpartition(":")[2]
        monkeypatch.setattr(socket, "getaddrinfo", found)
        item = {"id": "a", "type": "Feature", "assets": {"data": {"href": f"http://evil.example:{port}/p.zarr"}}}
        with pytest.raises(InvalidRequest, match="leads to where nothing is read"):
            open_product(item)
        assert not server.asked
        with pytest.raises(ProductBroken):
            open_product(f"http://person.example:{port}/p.zarr")
        assert server.asked


def test_a_redirect_on_one_host_is_followed() -> None:
    root = json.dumps({**json.loads(GROUP), "consolidated_metadata": {"metadata": {}}}).encode()
    with WebServer({"/p.zarr/zarr.json": redirect("/q.zarr/zarr.json"), "/q.zarr/zarr.json": root}) as server:
        assert not open_product(f"{server.url}/p.zarr").groups


PAGES: dict[str, Any] = {
    "tags that do not end": (200, {"Content-Type": "text/html"}, b"<a " * 400_000),
    "an encoding that takes for ever": (
        200,
        {"Content-Type": "text/html; charset=punycode"},
        b"a" * 100 + b"-" + b"z" * 3_000_000,
    ),
    "no end, and no type": endless(b"<a href='x'>" * 100_000),
}


@pytest.mark.parametrize("page", PAGES)
def test_a_page_that_lists_a_folder_is_bounded(page: str) -> None:
    with WebServer({"/p.zarr/zarr.json": GROUP, "/p.zarr": PAGES[page], "/p.zarr/": PAGES[page]}) as server:
        ended = bounded("-m", "geozarr_nb", "inspect", f"{server.url}/p.zarr", seconds=30, megabytes=700)
        ended.refused("product-broken" if page == "no end, and no type" else "product-unreachable")


def test_a_page_lists_so_many_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "MOST_LINKS", 10)
    for number, ends in ((10, "NotListed"), (11, "ProductBroken")):
        page = (200, {"Content-Type": "text/html"}, b"".join(b'<a href="%d">' % each for each in range(number)))
        with WebServer({"/p.zarr/zarr.json": GROUP, "/p.zarr": page}) as server, pytest.raises(GeozarrError) as raised:
            open_product(f"{server.url}/p.zarr")
        assert type(raised.value).__name__ == ends


def now_and_then(server: WebServer, body: bytes = b"") -> Any:
    """Return an answer that begins, and never ends, without being silent."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if body:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        while not server.ended:
            handler.wfile.write(body or b"HTTP/1.1 100 Continue\r\n\r\n")
            handler.wfile.flush()

    return answer


@pytest.mark.parametrize("body", [b"", b"x"])
def test_a_stored_object_that_never_ends_is_given_up(
    body: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "attempts", 1)
    monkeypatch.setattr(bounds, "SECONDS_FOR_A_DOCUMENT", 0.3)
    monkeypatch.setattr(bounds, "SLOWEST", 10**12)
    with WebServer() as server:
        server.replies["/p.zarr/a"] = now_and_then(server, body)
        store = Store(f"{server.url}/p.zarr")
        ask = partial(download, store, {"a": tmp_path / "a"}, {"a": None}, lambda count: None)
        with pytest.raises(ProductUnreachable, match="did not come to its end"):
            _ = ask() if body else store.sizes(["a"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", ["[],", "{},", "[[]],"])
def test_a_document_of_many_values_is_refused_before_it_is_read(value: str) -> None:
    text = f'{{"a": [{value * (33_000_000 // (len(value) - 1))}0]}}'
    for form in (text, text.encode()):
        with pytest.raises(ValueError, match="more than 10,000,000 values"):
            from_json(form)

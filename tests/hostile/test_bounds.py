"""What is read is bounded before it is known what it is: in bytes, decoded, and in time; what it says of itself too."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import fsspec
import pytest

import geozarr_nb as gz
from geozarr_nb.errors import GeozarrError, InvalidRequest, ProductBroken, ProductUnreachable, StorageFailed
from geozarr_nb.outputs.stac.catalogue import expand
from geozarr_nb.settings import Settings
from geozarr_runner.inspection.reader import open_product
from geozarr_runner.product.model import Array
from geozarr_runner.publishing.bucket import ObjectStore
from geozarr_runner.staging import download
from geozarr_runner.staging.view import _most
from geozarr_runner.stores.access import retries
from geozarr_runner.stores.access.concurrency import in_bounds
from geozarr_runner.stores.store import Store
from geozarr_runner.trust import bounds
from runner.tests.support import consolidated_v2, grid_v2, write_store
from tests.hostile.support import MEGABYTE, bounded
from tests.hostile.web_server import WebServer, endless

GRID = {key: json.dumps(document).encode() for key, document in consolidated_v2(grid_v2("a")).items()}
DEEP = b"[" * 200_000
SHOW = "import sys, geozarr_runner.cli as cli; sys.exit(cli.main(['inspect', *sys.argv[1:]]))"


@pytest.fixture
def server() -> Iterator[WebServer]:
    with WebServer() as running:
        yield running


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "_patience", lambda _: 0)


def bomb(megabytes: int) -> bytes:
    """Return a JSON document that unpacks to so much, a thousandth of it packed."""
    packed = gzip.compress(b" " * MEGABYTE)
    return b"".join([gzip.compress(b"{"), *[packed] * megabytes, gzip.compress(b"}")])


PLACES = {
    "v2": ("/p.zarr/.zmetadata", "/p.zarr"),
    "v3": ("/p.zarr/zarr.json", "/p.zarr"),
    "item": ("/items/i.json", "/items/i.json"),
    "item of an API": ("/items/i", "/items/i"),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_bomb_is_not_unpacked(server: WebServer, place: str) -> None:
    path, address = PLACES[place]
    server.replies[path] = (200, {"Content-Encoding": "gzip"}, bomb(2000))
    ended = bounded("-c", SHOW, f"{server.url}{address}", megabytes=400, env={"GEOZARR_MAX_METADATA": "5000000"})
    ended.refused("product-broken")
    assert "GEOZARR_MAX_METADATA=" in ended.stderr


def test_an_answer_without_end_is_not_waited_for(server: WebServer) -> None:
    server.replies["/p.zarr/.zmetadata"] = endless(b'{"a": "' + b"b" * MEGABYTE)
    bounded("-c", SHOW, f"{server.url}/p.zarr", megabytes=500).refused("product-broken")


@pytest.mark.parametrize("kind", ["zlib", "without a length", "a length that lies"])
def test_whatever_way_it_is_sent_it_ends_at_the_bound(
    server: WebServer, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    import zlib

    monkeypatch.setenv("GEOZARR_MAX_METADATA", "1000")

    def plain(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        if kind == "a length that lies":
            handler.send_header("Content-Length", str(10**15))
        handler.end_headers()
        for _ in range(1000):
            handler.wfile.write(b"{" * 1000)

    packed = (200, {"Content-Encoding": "deflate"}, zlib.compress(b"{" * 100_000))
    server.replies["/x"] = packed if kind == "zlib" else plain
    with pytest.raises(ProductBroken, match="larger than the 1000 bytes"):
        Store(server.url).read("x")


def test_what_comes_drop_by_drop_is_given_up(
    server: WebServer, monkeypatch: pytest.MonkeyPatch, impatient: None
) -> None:
    monkeypatch.setattr(bounds, "SECONDS_FOR_A_DOCUMENT", 0.3)

    def drops(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000000")
        handler.end_headers()
        while not server.ended:
            handler.wfile.write(b"{")
            time.sleep(0.01)

    server.replies["/p.zarr/.zmetadata"] = drops
    with pytest.raises(ProductUnreachable, match=r"within 0\.3 s"):
        open_product(f"{server.url}/p.zarr")


@pytest.mark.parametrize(("kind", "told"), [(Store, ProductUnreachable), (ObjectStore, StorageFailed)])
def test_what_never_comes_is_told_as_what_it_is_of(
    kind: type[Store], told: type[GeozarrError], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: Any, **__: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(bounds, "SECONDS_FOR_A_DOCUMENT", 0.05)
    store = kind("memory://slow/out.zarr")
    monkeypatch.setattr(store.filesystem, "_cat_file", never)
    with pytest.raises(told, match=r"within 0\.05 s"):
        store.read("zarr.json")


@pytest.mark.parametrize("where", ["folder", "memory", "item", "catalogue"])
def test_it_holds_wherever_it_lies(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOZARR_MAX_METADATA", "1000")
    content = b'{"metadata": "' + b"x" * 1000 + b'"}'
    at: dict[str, Any] = {"folder": tmp_path / "p.zarr", "memory": "memory://p.zarr", "item": tmp_path / "i.json"}
    if where == "folder":
        (tmp_path / "p.zarr").mkdir()
        (tmp_path / "p.zarr" / ".zmetadata").write_bytes(content)
    elif where == "memory":
        fsspec.filesystem("memory").pipe("/p.zarr/.zmetadata", content)
    else:
        (tmp_path / "i.json").write_bytes(content)
    with pytest.raises(ProductBroken, match="larger than the 1000 bytes"):
        expand(tmp_path / "i.json") if where == "catalogue" else open_product(at[where])


def test_it_is_read_in_full_below_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_bytes(b"x" * 1000)
    monkeypatch.setenv("GEOZARR_MAX_METADATA", "1000")
    assert Store(tmp_path).read("x") == b"x" * 1000
    monkeypatch.setenv("GEOZARR_MAX_METADATA", "999")
    with pytest.raises(ProductBroken):
        Store(tmp_path).read("x")
    fsspec.filesystem("memory").pipe("/shelf/empty", b"")
    assert Store("memory://shelf").read("empty") == b""


@pytest.mark.parametrize("text", ["0", "-1", "²", "1e8", "100MB", "9" * 5000])
def test_a_bound_that_is_none(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GEOZARR_MAX_METADATA", text)
    with pytest.raises(InvalidRequest, match="GEOZARR_MAX_METADATA"):
        Store(tmp_path).read("x")


KINDS = {
    "an HTML page": b"\n<!DOCTYPE HTML><title>Sign in</title>",
    "XML": b'<?xml version="1.0"?><Error/>',
    "a TIFF image": b"II*\0",
    "an HDF5 or NetCDF file": b"\x89HDF\r\n\x1a\n",
    "a ZIP archive": b"PK\x03\x04",
    "something else": b"\x93NUMPY",
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_product_is_not_read_to_its_end(server: WebServer, kind: str) -> None:
    """An image of gigabytes under a product's address, or a page that any address shows."""
    sent = 0

    def image(handler: BaseHTTPRequestHandler) -> None:
        nonlocal sent
        handler.send_response(200)
        handler.send_header("Content-Length", str(1_500 * MEGABYTE))
        handler.end_headers()
        handler.wfile.write(KINDS[kind])
        for _ in range(1500):
            handler.wfile.write(bytes(MEGABYTE))
            sent += 1

    server.replies["/scene"] = image
    with pytest.raises(ProductBroken, match=f"no JSON: it is {kind}"):
        open_product(f"{server.url}/scene")
    assert sent < 50


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "p.zarr" / ".zmetadata"
    place.parent.mkdir()
    if kind == "pipe":
        os.mkfifo(place)
    else:
        place.symlink_to("/dev/zero")
    bounded("-c", SHOW, tmp_path / "p.zarr").refused("product-broken")


# --- objects ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1000, None])
def test_an_object_stops_when_it_is_longer_than_it_can_be(
    server: WebServer, tmp_path: Path, size: int | None, impatient: None
) -> None:
    server.replies["/0.0"] = endless(bytes(1000))
    counted: list[int] = []
    with pytest.raises(ProductBroken):
        download.download(Store(server.url), {"0.0": tmp_path / "0.0"}, {"0.0": size}, counted.append, {"0.0": 50_000})
    assert max(counted) < 10 * MEGABYTE
    assert sum(counted) == 0
    assert not list(tmp_path.iterdir())


def test_a_part_stops_when_it_is_longer_than_what_was_asked_for(server: WebServer, tmp_path: Path) -> None:
    size = 3 * download.PIECE

    def parts(handler: BaseHTTPRequestHandler) -> None:
        if handler.headers["Range"] == "bytes=0-0":
            handler.send_response(206)
            handler.send_header("Content-Length", "1")
            handler.end_headers()
            handler.wfile.write(b"x")
        else:
            endless(bytes(MEGABYTE))(handler)

    server.replies["/0.0"] = parts
    with pytest.raises(ProductBroken, match="larger than"):
        download.download(Store(server.url), {"0.0": tmp_path / "0.0"}, {"0.0": size}, lambda _: None)
    assert not list(tmp_path.iterdir())


def test_zarr_reads_through_the_same_bounds(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks for chunks itself, and for metadata that are in no consolidated document."""
    import zarr

    monkeypatch.setattr("geozarr_runner.stores.web.LARGEST_OBJECT", 10_000)
    server.replies |= {f"/p.zarr/{key}": document for key, document in GRID.items()}
    server.replies["/p.zarr/a/data/0.0"] = endless(bytes(1000))
    root: Any = zarr.open_group(Store(f"{server.url}/p.zarr").for_zarr(), mode="r")
    with pytest.raises(ProductBroken, match="larger than the 10000 bytes"):
        root["a/data"][:]
    server.replies["/q.zarr/zarr.json"] = endless(b'{"zarr_format": 3, "x": "' + b"x" * 1000)
    monkeypatch.setenv("GEOZARR_MAX_METADATA", "5000")
    with pytest.raises(ProductBroken, match="larger than the 5000 bytes"):
        zarr.open_group(Store(f"{server.url}/q.zarr").for_zarr(), mode="r")


@pytest.mark.parametrize("where", ["folder", "object store"])
def test_zarr_reads_metadata_that_it_looks_for_within_bounds(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import zarr

    group = b'{"zarr_format": 3, "node_type": "group", "attributes": {'
    for key, content in (("zarr.json", group + b"}}"), ("a/zarr.json", group + b'"x": "' + b"x" * 1000)):
        write_store(tmp_path, {key: content})
        fsspec.filesystem("memory").pipe(f"/q.zarr/{key}", content)
    root = zarr.open_group(Store(tmp_path if where == "folder" else "memory://q.zarr").for_zarr(), mode="r")
    monkeypatch.setenv("GEOZARR_MAX_METADATA", "500")
    with pytest.raises(ProductBroken, match="larger than the 500 bytes"):
        dict(root.members())


def test_a_refusal_without_end_is_a_refusal(server: WebServer, impatient: None) -> None:
    def page(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(403)
        handler.end_headers()
        while not server.ended:
            handler.wfile.write(bytes(MEGABYTE))

    server.replies["/x"] = page
    with pytest.raises(ProductUnreachable) as caught:
        Store(server.url).read("x")
    assert caught.value.code == "product-denied"


def test_how_large_an_object_of_an_array_can_be() -> None:
    assert 8 * 8 * 2 < _most(Array("/a/b", (64, 64), (8, 8), "<u2", ("y", "x"), {}, {})) < 5 * MEGABYTE
    for dtype in ("|O", "string"):
        assert _most(Array("/a/b", (64,), (8,), dtype, ("x",), {}, {})) == bounds.LARGEST_OBJECT


# --- what is written -------------------------------------------------------------------------------------------------


def test_a_piece_is_written_in_full(server: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system may take a part of what it is given, as it does on a disk that fills."""
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, block, start: write(file, block[:1_000_003], start))
    content = os.urandom(2 * download.PIECE + 5)
    _serve_parts(server, content)
    download.download(Store(server.url), {"0.0": tmp_path / "0.0"}, {"0.0": len(content)}, lambda _: None)
    assert (tmp_path / "0.0").read_bytes() == content


def test_a_disk_that_fills_leaves_no_file(server: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    write, room = os.pwrite, 3_000_000

    def full(file: int, block: Any, start: int) -> int:
        nonlocal room
        if not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = write(file, block[:room], start)
        room -= taken
        return taken

    monkeypatch.setattr(os, "pwrite", full)
    _serve_parts(server, os.urandom(2 * download.PIECE))
    with pytest.raises(OSError, match="No space"):
        download.download(Store(server.url), {"0.0": tmp_path / "0.0"}, {"0.0": 2 * download.PIECE}, lambda _: None)
    assert not list(tmp_path.iterdir())


def _serve_parts(server: WebServer, content: bytes) -> None:
    def parts(handler: BaseHTTPRequestHandler) -> None:
        start, end = map(int, handler.headers["Range"].removeprefix("bytes=").split("-"))
        handler.send_response(206)
        handler.send_header("Content-Length", str(end - start + 1))
        handler.end_headers()
        handler.wfile.write(content[start : end + 1])

    server.replies["/0.0"] = parts


# --- what others say -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [("7", 7.0), ("0", 0.0), ("9" * 5000, 60.0), ("²", None), ("-5", None), ("1.5", None), ("soon", None), ("", None),
     ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0), ("Thu, 99 Foo 1970 00:00:00 GMT", None), ("Fri, 31 Dec 9999 23:59:59 -9999", None)],  # noqa: E501
)  # fmt: skip
def test_a_server_says_how_long_to_wait(asked: str, seconds: float | None) -> None:
    found = retries._seconds(asked)
    assert found == seconds or (seconds == retries.LONGEST_PATIENCE and found is not None and found > seconds)


def test_a_server_says_until_when_to_wait() -> None:
    found = retries._seconds(format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True))
    assert found is not None
    assert 20 < found <= 30


def test_a_wait_that_is_no_number_is_an_answer_of_ours(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from tenacity import wait_none

    monkeypatch.setattr(retries, "wait_exponential_jitter", lambda **_: wait_none())
    server.replies["/x"] = (503, {"Retry-After": "²"}, b"")
    with pytest.raises(ProductUnreachable, match="503"):
        Store(server.url).read("x")


def test_what_is_nested_without_end_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: WebServer
) -> None:
    from geozarr_runner.events import parse
    from geozarr_runner.publishing.lock import record_of
    from geozarr_runner.publishing.root_document import provenance_in

    for name in ("p.zarr/.zmetadata", "q.zarr/zarr.json", "i.json"):
        server.replies[f"/{name}"] = DEEP
        with pytest.raises(ProductBroken):
            open_product(f"{server.url}/{name.partition('/')[0]}")
    with pytest.raises(ProductBroken):
        expand(f"{server.url}/i.json")
    assert parse(DEEP.decode()) is None
    assert provenance_in(DEEP) is None
    assert record_of(DEEP) == {}
    for text in (DEEP, b'{"arguments": ' + DEEP, b"1" * 5000, b"\xff"):
        (tmp_path / "params.json").write_bytes(text)
        monkeypatch.setenv("GEOZARR_PARAMS", str(tmp_path / "params.json"))
        with pytest.raises(InvalidRequest, match=r"params\.json"):
            Settings.load()


def test_a_link_of_a_catalogue_that_is_nested_without_end(server: WebServer) -> None:
    links = [{"rel": "item", "href": "./i.json"}]
    catalogue = {"type": "Catalog", "stac_version": "1.0.0", "id": "c", "description": "d", "links": links}
    server.replies |= {"/c.json": json.dumps(catalogue).encode(), "/i.json": DEEP}
    with pytest.raises(gz.GeozarrError):
        expand(f"{server.url}/c.json")


def test_no_size_is_less_than_nothing(server: WebServer) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Range", "bytes 0-0/-5")
        handler.end_headers()

    server.replies["/x"] = answer
    assert Store(server.url).sizes(["x"]) == {"x": None}
    assert Store(server.url).run(in_bounds([])) == []

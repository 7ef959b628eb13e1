"""What belongs to one host reaches no other: not by an item, a catalogue, a redirect, or the converter."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pystac
import pytest

import geozarr_nb as gz
from geozarr_nb.backends.argo.workflow import manifest
from geozarr_nb.errors import InvalidRequest, ProductDenied
from geozarr_nb.request import request_for
from geozarr_nb.settings import Settings
from geozarr_runner.converter.processes import Converters
from geozarr_runner.events import Reporter
from geozarr_runner.inspection.reader import open_product
from geozarr_runner.kinds.layout import NO_OPTIONS
from geozarr_runner.planning import preflight
from geozarr_runner.planning.preflight import _readable
from geozarr_runner.spec.request import Request
from geozarr_runner.staging.download import download
from geozarr_runner.stores.store import Store
from geozarr_runner.trust.credentials import VARIABLE, Credentials, without
from runner.tests.support import consolidated_v2, grid_v2
from tests.hostile.web_server import Reply, WebServer, redirect

SECRET = "s3cret-word"
GRID = {key: json.dumps(document).encode() for key, document in consolidated_v2(grid_v2("a")).items()}
CHUNK = bytes(128)
WAYS: dict[str, dict[str, Any]] = {
    "authorization": {"headers": {"Authorization": f"Bearer {SECRET}"}},
    "key": {"headers": {"X-API-Key": SECRET}},
    "cookie header": {"headers": {"Cookie": f"session={SECRET}"}},
    "cookies": {"cookies": {"session": SECRET}},
    "client's headers": {"client_kwargs": {"headers": {"x-api-key": SECRET}}},
    "query": {"params": {"token": SECRET}},
    "user": {"client_kwargs": {"auth": ("me", SECRET)}},
}


@pytest.fixture(autouse=True)
def nothing_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fsspec.config, "conf", {})
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("GEOZARR_STATE_DIR", str(tmp_path / "state"))


@pytest.fixture
def own() -> Iterator[WebServer]:
    """The server that the person's own address names."""
    with WebServer() as server:
        yield server


@pytest.fixture
def other() -> Iterator[WebServer]:
    """One that others name."""
    with WebServer() as server:
        yield server


def product(**more: Reply) -> dict[str, Reply]:
    axes = {"y": range(8, 0, -1), "x": range(1, 9)}
    stored = {f"a/{name}/0": b"".join(value.to_bytes(2, "little") for value in axis) for name, axis in axes.items()}
    return {f"/p.zarr/{key}": reply for key, reply in (GRID | stored | {"a/data/0.0": CHUNK}).items()} | more


def an_item(href: str, identifier: str = "i") -> dict[str, Any]:
    item = pystac.Item(
        identifier, None, None, None, {"start_datetime": "2025-01-01T00:00:00Z", "end_datetime": "2025-01-02T00:00:00Z"}
    )
    item.add_asset("product", pystac.Asset(href, media_type="application/vnd+zarr"))
    return item.to_dict()


def give(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    monkeypatch.setitem(fsspec.config.conf, "http", WAYS[way])


def everything(store: Store, folder: Path) -> None:
    """Read in each way that there is: a document, sizes, parts, through zarr, as a file."""
    import zarr

    assert store.read(".zmetadata") == GRID[".zmetadata"]
    assert store.sizes(["a/data/0.0"]) == {"a/data/0.0": len(CHUNK)}
    store.sends_ranges("a/data/0.0")
    assert zarr.open_group(store.for_zarr(), mode="r")["a/data"][0, 0] == 0  # type: ignore[index]
    assert download(store, {"a/data/0.0": folder / "0.0"}, {"a/data/0.0": len(CHUNK)}, lambda _: None) == len(CHUNK)


@pytest.mark.parametrize("way", WAYS)
def test_they_go_to_the_host_that_the_person_names(
    own: WebServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, way: str
) -> None:
    give(monkeypatch, way)
    own.replies |= product()
    everything(Store(f"{own.url}/p.zarr"), tmp_path)
    assert own.saw(SECRET) == [one.path for one in own.asked]


@pytest.mark.parametrize("way", WAYS)
def test_a_redirect_to_another_origin_carries_none(
    own: WebServer, other: WebServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, way: str
) -> None:
    give(monkeypatch, way)
    other.replies |= product()
    own.replies |= {path: redirect(f"{other.url}{path}") for path in other.replies}
    everything(Store(f"{own.url}/p.zarr"), tmp_path)
    assert own.saw(SECRET)
    assert len(other.asked) > 4
    assert not other.saw(SECRET)


def test_a_redirect_back_carries_them_again(own: WebServer, other: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, "key")
    own.replies |= {"/p.zarr/x": redirect(f"{other.url}/y"), "/z": b"here"}
    other.replies["/y"] = redirect(f"{own.url}/z")
    assert Store(f"{own.url}/p.zarr").read("x") == b"here"
    assert own.saw(SECRET) == ["/p.zarr/x", "/z"]
    assert not other.saw(SECRET)


def test_a_chained_address_is_no_way_round(own: WebServer, other: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, "key")
    other.replies |= product()
    own.replies |= {path: redirect(f"{other.url}{path}") for path in other.replies}
    assert Store(f"simplecache::{own.url}/p.zarr").read(".zmetadata") == GRID[".zmetadata"]
    assert own.saw(SECRET)
    assert other.asked
    assert not other.saw(SECRET)


@pytest.mark.parametrize("way", WAYS)
def test_an_item_leads_them_nowhere_but_to_where_it_is_from(
    own: WebServer, other: WebServer, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    give(monkeypatch, way)
    other.replies |= product()
    own.replies |= product()
    own.replies["/there.json"] = json.dumps(an_item(f"{other.url}/p.zarr")).encode()
    own.replies["/here.json"] = json.dumps(an_item("./p.zarr")).encode()
    there = open_product(f"{own.url}/there.json")
    assert there.store.sizes(["a/data/0.0"])
    assert own.saw(SECRET) == ["/there.json" + ("?token=" + SECRET if way == "query" else "")]
    assert len(other.asked) == 2
    assert not other.saw(SECRET)
    open_product(f"{own.url}/here.json")
    assert len(own.saw(SECRET)) == len(own.asked) == 3


@pytest.mark.parametrize("says", ["nothing", "that it is from there"])
def test_an_item_in_memory_leads_them_nowhere(other: WebServer, monkeypatch: pytest.MonkeyPatch, says: str) -> None:
    give(monkeypatch, "authorization")
    other.replies |= product()
    item = an_item(f"{other.url}/p.zarr")
    if says != "nothing":
        item["links"] = [{"rel": "self", "href": f"{other.url}/i.json"}]
    for given in (item, pystac.Item.from_dict(item)):
        found = gz.inspect(given)
        assert found.store.sizes(["a/data/0.0"])
        request = request_for(found, "s3://bucket/out.zarr", groups=["/a"], settings=Settings())
        assert request.asked == ""
        assert Request.from_json(json.loads(json.dumps(request.to_json()))).asked == ""
        values = {
            one["name"]: one["value"]
            for one in manifest(request, "j", 1, Settings(), 1)["spec"]["arguments"]["parameters"]
        }
        assert values["derived_from"], "the pod would take the address for the person's own"
    assert other.asked
    assert not other.saw(SECRET)


def test_a_catalogue_leads_them_nowhere_but_to_where_it_is_from(
    own: WebServer, other: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(monkeypatch, "key")
    links = [{"rel": "item", "href": f"{other.url}/i.json"}, {"rel": "item", "href": "./i.json"}]
    catalogue = {"type": "Catalog", "stac_version": "1.0.0", "id": "c", "description": "d", "links": links}
    own.replies |= {"/c.json": json.dumps(catalogue).encode(), "/i.json": json.dumps(an_item("./p.zarr")).encode()}
    other.replies |= product(**{"/i.json": json.dumps(an_item("./p.zarr", "j")).encode()})
    from geozarr_nb.outputs.stac.catalogue import expand

    items = list(expand(f"{own.url}/c.json"))
    assert {item.id for item in items} == {"i", "j"}
    assert own.saw(SECRET) == ["/c.json", "/i.json"]
    [theirs] = [item for item in items if item.id == "j"]
    gz.inspect(theirs)
    assert len(other.asked) == 2
    assert not other.saw(SECRET)


@pytest.mark.parametrize("how", [{"item": "{url}/i.json"}, {"asked": ""}, {"asked": "http://127.0.0.1:1/x"}])
def test_a_run_for_an_item_gives_them_to_nobody(
    other: WebServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: dict[str, str]
) -> None:
    """There the address that an item named is an argument."""
    give(monkeypatch, "key")
    other.replies |= product()
    how = {name: value.format(url=other.url) for name, value in how.items()}
    asked = Request.of(f"{other.url}/p.zarr", tmp_path / "o.zarr", groups="/a", **how)  # type: ignore[arg-type]
    plan = preflight.preflight(asked, Reporter(io.StringIO()))
    assert plan.product.store.sizes(["a/data/0.0"])
    assert not other.saw(SECRET)


def test_the_runner_is_told_who_asked(other: WebServer, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "geozarr_runner", "convert", f"{other.url}/p.zarr", str(tmp_path / "o.zarr")]
    environ = {**os.environ, "FSSPEC_HTTP": json.dumps(WAYS["key"])}
    done = subprocess.run([*command, "--asked="], capture_output=True, text=True, check=False, env=environ)
    assert done.returncode == 3, done.stdout + done.stderr
    assert other.asked
    assert not other.saw(SECRET)


def test_named_ones_go_to_the_host_that_they_name_and_to_no_other(
    own: WebServer, other: WebServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(VARIABLE, json.dumps({other.url.upper(): {"headers": {"X-API-Key": SECRET}}}))
    other.replies |= product()
    own.replies |= {path: redirect(f"{other.url}{path}") for path in other.replies}
    own.replies["/i.json"] = json.dumps(an_item(f"{other.url}/p.zarr")).encode()
    everything(Store(f"{own.url}/p.zarr"), tmp_path)
    open_product(f"{own.url}/i.json")
    assert not own.saw(SECRET)
    assert other.saw(SECRET) == [one.path for one in other.asked]


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("https://a.example/x", True),
        ("https://A.Example:443/x", True),
        ("http://a.example/x", False),
        ("https://a.example:8443/x", False),
        ("https://a.example.evil.example/x", False),
        ("https://b.a.example/x", False),
        ("https://evil.example/https://a.example/", False),
        ("https://a.example@evil.example/", False),
        ("https://evil.example\\@a.example.evil.example/", False),
    ],
)
def test_an_origin_is_scheme_host_and_port(place: str, told: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    headers = {"X-API-Key": SECRET}
    monkeypatch.setenv(VARIABLE, json.dumps({"https://a.example": {"headers": headers}}))
    assert (SECRET in repr(Credentials.of("").headers(place))) is told
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setitem(fsspec.config.conf, "https", {"headers": headers})
    assert (SECRET in repr(Credentials.of("https://a.example/i.json").headers(place))) is told


def test_netrc_is_for_its_hosts_and_its_default_for_the_persons_own(
    own: WebServer, other: WebServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "netrc"
    file.write_text(f"machine a.example login me password {SECRET}\ndefault login me password {SECRET}\n")
    monkeypatch.setenv("NETRC", str(file))
    assert Credentials.of("").headers("https://a.example/x")["Authorization"].startswith("Basic ")
    assert not Credentials.of("").headers("http://a.example/x"), "in the clear only where the person asks for it"
    assert Credentials.of("http://a.example/i").headers("http://a.example/x")
    assert not Credentials.of("").headers("https://b.example/x")
    own.replies["/p.zarr/x"] = redirect(f"{other.url}/y")
    other.replies["/y"] = b"here"
    assert Store(f"{own.url}/p.zarr").read("x") == b"here"
    assert own.saw("Basic ")
    assert not other.saw("Basic ")


def test_a_password_in_an_address_stays_with_its_host(own: WebServer, other: WebServer) -> None:
    own.replies["/p.zarr/x"] = redirect(f"{other.url}/y")
    other.replies["/y"] = b"here"
    assert Store(f"{own.url.replace('//', '//me:word@')}/p.zarr").read("x") == b"here"
    assert own.saw("Basic bWU6d29yZA==")
    assert not other.saw("Basic")


def test_a_refusal_says_what_was_withheld(own: WebServer, other: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, "key")
    own.replies["/i.json"] = json.dumps(an_item(f"{other.url}/p.zarr")).encode()
    other.replies["/p.zarr/.zmetadata"] = (401, {}, b"")
    with pytest.raises(ProductDenied, match="do not say that theirs are this host's") as caught:
        open_product(f"{own.url}/i.json")
    assert f'{VARIABLE}=\'{{"{other.url}": ' in caught.value.remedy
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "s3cret", "[]", '{"a.example": {"headers": {}}}', '{"https://a.example/path": {"headers": {}}}',
        '{"https://a.example": "s3cret"}', '{"https://a.example": {"header": {"X": "s3cret"}}}',
        '{"https://a.example": {"headers": {"X": 1}}}', '{"https://a.example": {"headers": {"X": "s3cret\\r\\nY: z"}}}',
        '{"https://me:s3cret@a.example": {"headers": {}}}', '{"s3://bucket": {"headers": {}}}', "[" * 100_000,
    ],
)  # fmt: skip
def test_what_is_no_list_of_hosts_is_refused_and_not_repeated(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(InvalidRequest, match=VARIABLE) as caught:
        Credentials.of("https://a.example")
    assert "s3cret" not in str(caught.value)


def test_the_converter_has_none(own: WebServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It opens by fsspec itself, which carries a key wherever it is redirected."""
    environ = {
        VARIABLE: json.dumps({"https://a.example": {"headers": {"X-API-Key": SECRET}}}),
        "FSSPEC_HTTP": json.dumps({**WAYS["key"], "block_size": 7}),
        "FSSPEC_HTTPS_HEADERS": json.dumps({"X-API-Key": SECRET}),
        "fsspec_https": SECRET,
        "FSSPEC_S3": '{"anon": true}',
    }
    (tmp_path / "conf.json").write_text(json.dumps({"https": WAYS["cookies"]}))
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("FSSPEC_CONFIG_DIR", str(tmp_path))
    fsspec.config.set_conf_files(str(tmp_path), fsspec.config.conf)
    fsspec.config.set_conf_env(fsspec.config.conf)
    ask = "import fsspec, json, os; print(json.dumps([fsspec.config.conf, dict(os.environ)]))"
    said: list[str] = []
    with Converters(sys.executable) as converters:
        converters.run([[sys.executable, "-c", ask]], on_line=said.append, on_tick=lambda: None)
    conf, seen = json.loads(said[-1])
    assert SECRET not in json.dumps([conf, seen])
    assert conf["http"]["block_size"] == 7
    assert conf["s3"] == {"anon": True}
    assert "FSSPEC_S3" in without(environ)
    own.replies |= product()
    for way in ("key", "query"):
        give(monkeypatch, way)
        assert not _readable(open_product(f"{own.url}/p.zarr"), (), NO_OPTIONS), (
            "what takes credentials is not read in place"
        )
    assert _readable(open_product(f"{own.url}/p.zarr", asked=""), (), NO_OPTIONS)


def test_what_is_remembered_of_a_filesystem_shows_none(own: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, "key")
    store = Store(f"{own.url}/p.zarr")
    assert SECRET not in repr(store.filesystem.storage_options)
    first = store.filesystem
    assert Store(f"{own.url}/q.zarr").filesystem is first, "connections are shared"
    assert Store(f"{own.url}/q.zarr", asked="").filesystem is not first
    monkeypatch.setitem(fsspec.config.conf, "http", {"headers": {"X-API-Key": "new"}})
    assert Store(f"{own.url}/p.zarr").filesystem is not first

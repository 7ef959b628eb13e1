"""What counts as absent, on stores that list, that do not, and that answer 403 for what is not there."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import fsspec
import numcodecs
import numpy as np
import pytest
import s3fs
import zarr
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.server import ProductServer
from geozarr_runner.errors import ProductBroken, ProductDenied, ProductUnreachable, VerificationFailed
from geozarr_runner.events import Reporter
from geozarr_runner.inspection.reader import open_product
from geozarr_runner.planning.estimate import estimate, needed
from geozarr_runner.planning.groups import report
from geozarr_runner.planning.preflight import Plan, preflight
from geozarr_runner.product import chunk_check, windows
from geozarr_runner.product.sampler import Pair, StoredPixels
from geozarr_runner.publishing.root_document import PROVENANCE
from geozarr_runner.spec.request import Request
from geozarr_runner.staging import spot_check as checks
from geozarr_runner.staging.spot_check import SHARE, spot_check
from geozarr_runner.stores.absence import Confirmation, code_in, may_be_absent, refusal_code
from geozarr_runner.stores.store import Store
from geozarr_runner.stores.web import Refused
from geozarr_runner.verification.absence import lost
from geozarr_runner.verification.verify import verify
from runner.tests.support import beside, consolidate_again, contents, nodes, run, write_terrain
from tests.hiding_server import hiding_server
from tests.s3_proxy import Proxy, s3_proxy
from tests.s3_server import s3_server

HEIGHT = "/dem/height"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Products whose upper right quarter was never stored, and one of a band that has nothing at all."""
    root = tmp_path_factory.mktemp("hidden")
    for zarr_format in (2, 3):
        path = write_terrain(root / f"v{zarr_format}.zarr", zarr_format=zarr_format, size=256)
        empty = shutil.copytree(path, root / f"empty{zarr_format}.zarr")
        for key in chunk_keys(empty, "dem/height"):
            (empty / key).unlink()
    return root


def chunk_keys(product: Path, array: str) -> list[str]:
    files = (path for path in (product / array).rglob("*") if path.is_file())
    return [str(path.relative_to(product)) for path in files if not path.name.startswith((".z", "zarr.json"))]


def keys_of(product: Path) -> list[str]:
    return [key for array in needed(open_product(product), ()) for key in array.object_keys()]


def sizes_of(product: Path) -> dict[str, int | None]:
    return Store(product).sizes(keys_of(product))


# --- stores that hide ------------------------------------------------------------------------------------------------


@dataclass
class Hidden:
    """A store of a folder that answers 403 for what is not there."""

    url: str
    refuse: Callable[[Callable[[str], bool]], None]
    call: Callable[[str], None]


@pytest.fixture(scope="module")
def s3(folder: Path) -> Iterator[tuple[dict[str, Any], Proxy]]:
    with s3_server() as options, s3_proxy(options) as (hidden, proxy):
        filesystem = s3fs.S3FileSystem(**options)
        filesystem.mkdir("tiles")
        filesystem.put(f"{folder}/", "tiles/", recursive=True)
        yield hidden, proxy


@pytest.fixture(params=["http", "s3", "simplecache::http"])
def hidden(request: pytest.FixtureRequest, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hidden]:
    if request.param == "s3":
        options, proxy = request.getfixturevalue("s3")
        monkeypatch.setitem(fsspec.config.conf, "s3", options)
        state: dict[str, Any] = {"refuse": lambda path: False, "code": "AccessDenied"}

        def refuse(method: str, path: str) -> tuple[int, str] | None:
            key = path.removeprefix("/tiles").lstrip("/")
            is_there = (folder / key).is_file()
            return None if is_there and not state["refuse"](f"/{key}") else (403, state["code"])

        proxy.refuse = refuse
        yield Hidden("s3://tiles", lambda which: state.update(refuse=which), lambda code: state.update(code=code))
        return
    with hiding_server(folder) as server:
        chain = request.param.removesuffix("http")
        yield Hidden(
            chain + server.url,
            lambda which: setattr(server, "refuse", which),
            lambda code: setattr(server, "code", code),
        )


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_sparse_product_is_read_as_it_is(hidden: Hidden, folder: Path, zarr_format: int) -> None:
    local = folder / f"v{zarr_format}.zarr"
    product = open_product(f"{hidden.url}/{local.name}")
    assert product.groups.keys() == open_product(local).groups.keys()
    assert product.store.sizes(keys_of(local)) == sizes_of(local)
    assert estimate(product).requests == len(sizes_of(local)) == 5
    height = product.groups["/dem"].arrays
    [array] = [each for each in height if each.name == "height"]
    read = StoredPixels(product.store, zarr_format, product.url).read(array, (slice(None), slice(None)))
    expected = zarr.open_array(str(local / "dem/height"), mode="r")[:]
    np.testing.assert_array_equal(read, expected)


@pytest.mark.parametrize(
    "code", ["ExpiredToken", "InvalidAccessKeyId", "SignatureDoesNotMatch", "RequestTimeTooSkewed", "AccountProblem"]
)
def test_a_complaint_is_no_absence(hidden: Hidden, folder: Path, code: str) -> None:
    product = open_product(f"{hidden.url}/v2.zarr")
    hidden.call(code)
    with pytest.raises(ProductDenied):
        product.store.sizes(keys_of(folder / "v2.zarr"))
    with pytest.raises(ProductDenied):
        open_product(f"{hidden.url}/v3.zarr")


def test_what_is_refused_counts_as_absent_only_where_the_root_is_seen_after_it(hidden: Hidden, folder: Path) -> None:
    product = open_product(f"{hidden.url}/v2.zarr")
    hidden.refuse(lambda path: path.endswith(".zmetadata"))
    with pytest.raises(ProductDenied, match="access was refused"):
        product.store.sizes(keys_of(folder / "v2.zarr"))


def test_a_store_that_refuses_everything_is_said_to(hidden: Hidden) -> None:
    hidden.refuse(lambda path: True)
    for name in ("v2.zarr", "v3.zarr", "none.zarr"):
        with pytest.raises(ProductDenied, match="access was refused"):
            open_product(f"{hidden.url}/{name}")


@pytest.mark.parametrize("name", ["empty2.zarr", "empty3.zarr", "v3.zarr"])
def test_a_variable_that_is_refused_as_a_whole_is_refused(hidden: Hidden, folder: Path, name: str) -> None:
    if not name.startswith("empty"):
        hidden.refuse(lambda path: "/height/c/" in path)
    product = open_product(f"{hidden.url}/{name}")
    with pytest.raises(ProductDenied, match="refused or empty, this server does not tell") as caught:
        estimate(product)
    assert HEIGHT in str(caught.value.given)
    [array] = [each for each in product.groups["/dem"].arrays if each.name == "height"]
    pixels = StoredPixels(product.store, product.zarr_format, product.url)
    for _ in range(2):
        with pytest.raises(ProductDenied, match="refused or empty, this server does not tell"):
            pixels.read(array, (slice(0, 4), slice(0, 4)))


def test_a_run_refuses_it_too(hidden: Hidden, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if hidden.url.startswith("s3"):
        pytest.skip("the options of this process are not those of another one")
    done = run(f"{hidden.url}/empty2.zarr", tmp_path / "out.zarr", "--groups", "/dem")
    assert done.code == 3
    assert done.error["code"] == "product-denied"
    assert "refused or empty" in str(done.error["message"])
    assert beside(done.output) == set()


@pytest.mark.parametrize("after", [0, 2, 4, 7])
def test_nothing_is_published_of_a_server_that_turns_to_refusing(folder: Path, tmp_path: Path, after: int) -> None:
    with hiding_server(folder) as server:
        keys = {f"/v2.zarr/{key}" for key in keys_of(folder / "v2.zarr")}
        server.refuse = lambda path: len([each for each in server.asked if each[1] in keys]) > after and path in keys
        done = run(f"{server.url}/v2.zarr", tmp_path / "out.zarr", "--groups", "/dem")
    assert done.code == 3, done.stdout + done.stderr
    assert done.error["code"] in ("product-denied", "product-broken")
    assert "Traceback" not in done.stderr
    assert beside(done.output) == set()


# --- what a refusal is called ----------------------------------------------------------------------------------------


@given(st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=40))
def test_only_a_refusal_that_says_nothing_of_why_may_be_absence(code: str) -> None:
    for body in (f"<Error><Code>{code}</Code></Error>", f'{{"code": "{code}", "message": "no"}}'):
        error = Refused(None, (), status=403)  # type: ignore[arg-type]
        error.refusal = code_in(body.encode(), {})
        assert refusal_code(error) == code
        assert may_be_absent(error) == (code.lower() in ("accessdenied", "forbidden", "403"))


@given(st.integers(400, 599), st.sampled_from(["", "AccessDenied"]))
def test_no_other_status_is_a_refusal(status: int, code: str) -> None:
    error = Refused(None, (), status=status)  # type: ignore[arg-type]
    error.refusal = code
    assert may_be_absent(error) == (status == 403)


def test_the_root_is_asked_once_for_all_that_wait_and_again_for_later_ones() -> None:
    asked = 0

    async def ask() -> bool:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0)
        return True

    async def several() -> None:
        confirmation = Confirmation(ask)
        assert all(await asyncio.gather(*(confirmation.now() for _ in range(50))))
        assert asked == 2, "the first was under way when the others came"
        first = asyncio.create_task(confirmation.now())
        await asyncio.sleep(0)  # its question is under way, and is too early for the next one
        assert all(await asyncio.gather(first, confirmation.now(), confirmation.now()))
        assert asked > 3

    asyncio.run(several())


# --- listings --------------------------------------------------------------------------------------------------------


@pytest.fixture
def memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[str]]]:
    """The address of products in a store that lists, and what it is asked for by name."""
    filesystem = fsspec.filesystem("memory")
    filesystem.put(f"{folder}/", "/hidden/", recursive=True)
    asked: list[str] = []
    for name in ("info", "cat_file"):
        real = getattr(MemoryFileSystem, name)

        def noted(self: Any, path: str, *rest: Any, real: Any = real, **options: Any) -> Any:
            asked.append(path.removeprefix("memory://"))
            return real(self, path, *rest, **options)

        monkeypatch.setattr(MemoryFileSystem, name, noted)
    yield "memory://hidden", asked
    for path in [path for path in filesystem.store if path.startswith("/hidden/")]:
        del filesystem.store[path]


@pytest.mark.parametrize("listing", ["empty", "not there", "refused", "not made", "half"])
def test_what_a_listing_lacks_is_asked_for_by_name(
    memory: tuple[str, list[str]], folder: Path, listing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, _ = memory
    real = MemoryFileSystem.ls

    def ls(self: Any, path: str, detail: bool = True, **options: Any) -> Any:
        match listing:
            case "empty":
                return []
            case "half":
                return real(self, path, detail=detail, **options)[::2]
            case "not there":
                raise FileNotFoundError(path)
            case "refused":
                raise PermissionError("Access Denied")
            case _:
                raise NotImplementedError("no listing")

    monkeypatch.setattr(MemoryFileSystem, "ls", ls)
    local = folder / "v3.zarr"
    assert open_product(f"{url}/v3.zarr").store.sizes(keys_of(local)) == sizes_of(local)


def test_a_complete_product_costs_no_request_more(memory: tuple[str, list[str]], folder: Path) -> None:
    url, asked = memory
    product = open_product(f"{url}/v2.zarr")
    stored = list(sizes_of(folder / "v2.zarr"))
    asked.clear()
    assert product.store.sizes(stored) == sizes_of(folder / "v2.zarr")
    assert asked == []
    product.store.sizes(keys_of(folder / "v2.zarr"))
    assert set(asked) == {"/hidden/v2.zarr/dem/height/0.1", "/hidden/v2.zarr/.zmetadata"}


def test_over_http_a_complete_product_is_asked_once_an_object(folder: Path) -> None:
    with ProductServer(folder) as server:
        product = open_product(f"{server.url}/v2.zarr")
        server.reset()
        product.store.sizes(list(sizes_of(folder / "v2.zarr")))
        assert server.counts.requests == server.counts.head == 5


def test_a_product_that_goes_away_is_not_absent(folder: Path, tmp_path: Path) -> None:
    """Every object is "not found" from one moment to the next, and so is the root."""
    moved = Path(shutil.copytree(folder / "v2.zarr", tmp_path / "v2.zarr"))
    with ProductServer(tmp_path) as server:
        product = open_product(f"{server.url}/v2.zarr")
        keys = keys_of(moved)
        moved.rename(tmp_path / "elsewhere.zarr")
        with pytest.raises(ProductBroken, match="not found"):
            product.store.sizes(keys)


# --- archives and caches ---------------------------------------------------------------------------------------------


@pytest.fixture
def chain(request: pytest.FixtureRequest, folder: Path, tmp_path: Path) -> Iterator[str]:
    """An address of the sparse product behind something else."""
    product = folder / "v2.zarr"
    with ExitStack() as stack:
        match request.param:
            case "zip of a file" | "zip of a server":
                with ZipFile(tmp_path / "p.zip", "w", ZIP_STORED) as archive:
                    for file in sorted(path for path in product.rglob("*") if path.is_file()):
                        archive.write(file, file.relative_to(product), compress_type=ZIP_DEFLATED)
                if request.param == "zip of a file":
                    yield f"zip::file://{tmp_path}/p.zip"
                else:
                    yield f"zip::{stack.enter_context(ProductServer(tmp_path)).url}/p.zip"
            case "folder in a zip":
                with ZipFile(tmp_path / "p.zip", "w") as archive:
                    for file in sorted(path for path in product.rglob("*") if path.is_file()):
                        archive.write(file, Path("inner.zarr") / file.relative_to(product))
                yield f"zip://inner.zarr::file://{tmp_path}/p.zip"
            case "simplecache::s3":
                options, proxy = request.getfixturevalue("s3")
                proxy.refuse = lambda method, path: None
                request.getfixturevalue("monkeypatch").setitem(fsspec.config.conf, "s3", options)
                yield "simplecache::s3://tiles/v2.zarr"
            case "simplecache::file":
                yield f"simplecache::file://{product}"
            case name:
                server = stack.enter_context(hiding_server(folder))
                server.missing = 404
                yield f"{name.removesuffix('http')}{server.url}/v2.zarr"


CHAINS = [
    "zip of a file",
    "zip of a server",
    "folder in a zip",
    "simplecache::http",
    "filecache::http",
    "blockcache::http",
    "simplecache::s3",
    "simplecache::file",
]


@pytest.mark.parametrize("chain", CHAINS, indirect=True)
def test_a_chain_shows_what_the_plain_product_has(chain: str, folder: Path) -> None:
    local = folder / "v2.zarr"
    product = open_product(chain)
    assert product.store.sizes(keys_of(local)) == sizes_of(local)
    assert estimate(product).download_bytes == estimate(open_product(local)).download_bytes
    [array] = [each for each in product.groups["/dem"].arrays if each.name == "height"]
    read = StoredPixels(product.store, 2, product.url).read(array, (slice(None), slice(None)))
    np.testing.assert_array_equal(read, zarr.open_array(str(local / "dem/height"), mode="r")[:])


@pytest.mark.parametrize(
    "chain", ["zip of a file", "zip of a server", "simplecache::http", "filecache::http"], indirect=True
)
def test_a_chain_is_converted_as_the_plain_product(
    chain: str, folder: Path, tmp_path: Path, replaying: dict[str, str]
) -> None:
    plain = run(folder / "v2.zarr", tmp_path / "plain.zarr", "--groups", "/dem", env=replaying)
    assert plain.code == 0, plain.stdout + plain.stderr
    done = run(chain, tmp_path / "out.zarr", "--groups", "/dem", env=replaying)
    assert done.code == 0, done.stdout + done.stderr
    assert contents(done.output) == contents(plain.output)


def test_a_failing_server_behind_a_cache_is_no_absence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fsspec's cache asks whether there is an object, and takes every error for no."""
    monkeypatch.setattr(Store, "attempts", 1)
    with hiding_server(folder) as server:
        server.missing = 500
        product = open_product(f"simplecache::{server.url}/v2.zarr")
        [array] = [each for each in product.groups["/dem"].arrays if each.name == "height"]
        with pytest.raises(ProductUnreachable):
            StoredPixels(product.store, 2, product.url).read(array, (slice(0, 4), slice(200, 204)))
        with pytest.raises(ProductUnreachable):
            product.store.sizes(keys_of(folder / "v2.zarr"))


# --- empty variables -------------------------------------------------------------------------------------------------


def test_a_variable_without_chunks_is_said_before_and_after(
    folder: Path, tmp_path: Path, replaying: dict[str, str]
) -> None:
    product = folder / "empty3.zarr"
    found = report(open_product(product), "/dem")
    assert found.empty == (HEIGHT,)
    assert f"no chunk of {HEIGHT} is stored" in repr(found)
    assert f"no chunk of {HEIGHT} is stored" in repr(estimate(open_product(product)))
    with ProductServer(folder) as server:
        for source in (str(product), f"{server.url}/{product.name}"):
            done = run(source, tmp_path / "out.zarr", "--groups", "/dem", "--if-exists", "overwrite", env=replaying)
            assert done.code == 0, done.stdout + done.stderr
            assert [event["code"] for event in done.of("warning")].count("no-chunks") == 1
            record = nodes(done.output)["/"]["attributes"][PROVENANCE]["verified"]
            assert record["without_chunks"] == [HEIGHT]
    assert report(open_product(folder / "v3.zarr"), "/dem").empty == ()


def test_a_grid_without_chunks_says_no_place(folder: Path, tmp_path: Path) -> None:
    product = Path(shutil.copytree(folder / "v2.zarr", tmp_path / "p.zarr"))
    for key in chunk_keys(product, "dem/x"):
        (product / key).unlink()
    done = run(product, tmp_path / "out.zarr", "--groups", "/dem")
    assert done.code == 2
    assert done.error["code"] == "groups-missing"
    assert "x does not say where each pixel lies" in str(done.error["message"])


# --- what is read again ----------------------------------------------------------------------------------------------


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A product of some megabytes that cannot be compressed."""
    return write_terrain(tmp_path / "large" / "p.zarr", size=1280, compressed=False)


def staged(product: Path, folder: Path) -> tuple[list[Any], dict[str, int | None]]:
    """Return what a run would have staged."""
    shutil.copytree(product, folder)
    return needed(open_product(product), ()), sizes_of(product)


def test_a_part_of_each_variable_is_read_again(large: Path, tmp_path: Path) -> None:
    arrays, sizes = staged(large, tmp_path / "staged")
    with hiding_server(large.parent) as server:
        found = spot_check(Store(f"{server.url}/p.zarr"), arrays, sizes, tmp_path / "staged")
        parts = [part for method, path, part in server.asked if method == "GET"]
    assert (found.variables, found.of, found.left_out) == (3, 3, "")
    assert len(parts) == len(server.asked) == 3
    assert all(parts)
    total = sum(size or 0 for size in sizes.values())
    assert 0 < found.size <= total / SHARE


@pytest.mark.parametrize("array", ["height", "x", "y"])
def test_what_is_other_than_the_product_is_found(large: Path, tmp_path: Path, array: str) -> None:
    arrays, sizes = staged(large, tmp_path / "staged")
    for key in chunk_keys(tmp_path / "staged", f"dem/{array}"):
        file = tmp_path / "staged" / key
        file.write_bytes(bytes(byte ^ 1 for byte in file.read_bytes()))
    with ProductServer(large.parent) as server, pytest.raises(ProductBroken, match="not what was read") as caught:
        spot_check(Store(f"{server.url}/p.zarr"), arrays, sizes, tmp_path / "staged")
    assert f"dem/{array}/" in str(caught.value.given)


def test_an_object_that_has_another_size_is_found(large: Path, tmp_path: Path) -> None:
    arrays, sizes = staged(large, tmp_path / "staged")
    with hiding_server(large.parent) as server:
        server.changed = {f"/p.zarr/{key}": (large / key).read_bytes() + b"more" for key in sizes}
        with pytest.raises(ProductBroken, match="not what was read"):
            spot_check(Store(f"{server.url}/p.zarr"), arrays, sizes, tmp_path / "staged")


def test_a_cache_that_is_out_of_date_is_found(large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = json.dumps({"cache_storage": str(tmp_path / "kept")})
    with ProductServer(large.parent) as server:
        url = f"filecache::{server.url}/p.zarr"
        monkeypatch.setitem(fsspec.config.conf, "filecache", json.loads(kept))
        for key in sizes_of(large):
            Store(url).filesystem.sync_fs.cat_file(f"{server.url}/p.zarr/{key}")
        for key in sizes_of(large):
            content = (large / key).read_bytes()
            (large / key).write_bytes(bytes(byte ^ 1 for byte in content))
        arrays, sizes = needed(open_product(large), ()), sizes_of(large)
        for key in sizes:
            file = tmp_path / "staged" / key
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(Store(url).read(key) or b"")
        with pytest.raises(ProductBroken, match="a cache is out of date"):
            spot_check(Store(url), arrays, sizes, tmp_path / "staged")


@pytest.mark.parametrize("gone", [403, 404])
def test_what_cannot_be_read_again_is_an_error(large: Path, tmp_path: Path, gone: int) -> None:
    arrays, sizes = staged(large, tmp_path / "staged")
    with hiding_server(tmp_path / "large") as server:
        server.missing = gone
        shutil.rmtree(large / "dem")
        with pytest.raises(ProductDenied if gone == 403 else ProductBroken):
            spot_check(Store(f"{server.url}/p.zarr"), arrays, sizes, tmp_path / "staged")


def test_without_parts_small_objects_are_read_or_none(large: Path, tmp_path: Path) -> None:
    arrays, sizes = staged(large, tmp_path / "staged")
    with hiding_server(large.parent) as server:
        server.has_ranges = False
        store = Store(f"{server.url}/p.zarr")
        found = spot_check(store, arrays, sizes, tmp_path / "staged")
        small = [size or 0 for key, size in sizes.items() if "height" not in key]
        assert (found.variables, found.of, found.size) == (2, 3, sum(small))
        assert "whole objects only" in found.left_out
        assert found.size <= sum(size or 0 for size in sizes.values()) / SHARE
        for key in chunk_keys(tmp_path / "staged", "dem/x"):
            (tmp_path / "staged" / key).write_bytes(b"other" * 100)
        with pytest.raises(ProductBroken, match="not what was read"):
            spot_check(store, arrays, sizes, tmp_path / "staged")


@given(
    st.lists(st.tuples(st.integers(0, 200_000_000), st.integers(0, 2**64 - 1)), max_size=40),
    st.integers(0, 3_000_000_000),
)
def test_parts_are_small_and_together_within_their_share(objects: list[tuple[int, int]], left: int) -> None:
    chosen = [(checks._Object(str(place), Path(), size), number) for place, (size, number) in enumerate(objects)]
    parts = checks._within(chosen, left)
    assert sum(stop - start for _, start, stop in parts) <= left
    assert len({each.key for each, _, _ in parts}) == len(parts)
    for each, start, stop in parts:
        assert 0 <= start < stop <= each.size
        assert checks.SHORTEST <= stop - start <= min(checks.LONGEST, each.size // 2)
    large = [each for each, _ in chosen if each.size >= 2 * checks.LONGEST]
    if left >= len(chosen) * checks.LONGEST:
        assert {each.key for each in large} <= {each.key for each, _, _ in parts}


def test_a_run_records_what_it_read_again(large: Path, tmp_path: Path, replaying: dict[str, str]) -> None:
    with ProductServer(large.parent) as server:
        done = run(f"{server.url}/p.zarr", tmp_path / "out.zarr", "--groups", "/dem", env=replaying)
        assert done.code == 0, done.stdout + done.stderr
    record = nodes(done.output)["/"]["attributes"][PROVENANCE]["verified"]["read_again"]
    assert record["variables"] == record["of"] == 3
    assert 0 < record["bytes"] <= int(str(done.result["bytes_read"])) / SHARE


# --- outputs that lack what the product has --------------------------------------------------------------------------


@dataclass(frozen=True)
class Made:
    """A sparse product and its output, which is right."""

    plan: Plan
    output: Path


@pytest.fixture(scope="module")
def made(folder: Path, tmp_path_factory: pytest.TempPathFactory, replaying: dict[str, str]) -> Made:
    out = tmp_path_factory.mktemp("made") / "out.zarr"
    product = write_terrain(out.parent / "p.zarr", size=1024, chunk=128)
    done = run(product, out, "--groups", "/dem", env=replaying)
    assert done.code == 0, done.stdout + done.stderr
    # In chunks of its own, so that one that is lost is one of many.
    group: Any = zarr.open_group(str(out / "dem"), mode="r+")
    old = group["height"]
    values, attributes = old[:], old.attrs.asdict()
    stored: dict[str, Any] = {"chunks": (128, 128), "dtype": old.dtype, "fill_value": old.fill_value}
    group.create_array(
        "height", shape=old.shape, dimension_names=("y", "x"), attributes=attributes, overwrite=True, **stored
    )[:] = values
    consolidate_again(out)
    request = Request.of(product, out.with_name("other.zarr"), groups="/dem")
    return Made(preflight(request, Reporter(io.StringIO())), out)


@pytest.fixture
def spoilt(made: Made, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made.output, tmp_path / "out.zarr"))


def check(made: Made, output: Path) -> None:
    verify(made.plan, made.plan.product.url, output, lambda done, total, unit: None)


def test_a_sparse_output_passes(made: Made) -> None:
    assert len(chunk_keys(made.output, "dem/height")) > 2, "a chunk that is lost is one of several"
    check(made, made.output)


def native(output: Path) -> list[str]:
    return sorted(key for key in chunk_keys(output, "dem/height"))


def test_each_lost_chunk_is_found(made: Made, spoilt: Path) -> None:
    for key in native(spoilt):
        (spoilt / key).rename(spoilt / "kept")
        with pytest.raises(VerificationFailed, match=HEIGHT) as caught:
            check(made, spoilt)
        assert "is not stored" in caught.value.message or "differ from the source" in caught.value.message
        (spoilt / "kept").rename(spoilt / key)
    check(made, spoilt)


def test_each_chunk_that_was_cut_off_is_found(made: Made, spoilt: Path) -> None:
    for number, key in enumerate(native(spoilt)[:6]):
        content = (spoilt / key).read_bytes()
        (spoilt / key).write_bytes(content[: -len(content) * number // 6 - 1])
        with pytest.raises(VerificationFailed, match="cut off"):
            check(made, spoilt)
        (spoilt / key).write_bytes(content)


def test_a_chunk_lost_of_a_shard_is_found(made: Made, tmp_path: Path) -> None:
    """What a shard has not is not to be seen by the names of objects."""
    source = zarr.open_array(str(made.output / "dem/height"), mode="r")
    group = zarr.create_group(str(tmp_path / "s.zarr"))
    sharded = group.create_array("height", shape=source.shape, dtype="f4", shards=(512, 512), chunks=(64, 64))
    values = np.asarray(source[:], dtype="f4")
    values[:64, :64] = 0  # the fill value, which is not written
    sharded[:] = values
    zarr.consolidate_metadata(str(tmp_path / "s.zarr"))
    product = open_product(tmp_path / "s.zarr")
    [array] = product.groups["/"].arrays
    [height] = [each for each in made.plan.product.groups["/dem"].arrays if each.name == "height"]
    said = made.plan.product
    problems = lost(
        Pair(height, array, (), warped=False),
        StoredPixels(said.store, 3, said.url),
        StoredPixels(product.store, 3, product.url),
        tmp_path / "s.zarr",
    )
    assert len(problems) == 1
    assert "begins at pixel 0, 0 is not stored" in problems[0]


@pytest.mark.parametrize("how", ["deleted", "written"])
def test_an_output_of_no_data_never_passes(made: Made, spoilt: Path, how: str) -> None:
    array = zarr.open_array(str(spoilt / "dem/height"), mode="r+")
    array[:] = np.nan
    if how == "deleted":
        for key in native(spoilt):
            (spoilt / key).unlink()
    with pytest.raises(VerificationFailed, match=HEIGHT):
        check(made, spoilt)
    [height] = [each for each in made.plan.product.groups["/dem"].arrays if each.name == "height"]
    [output] = [each for each in open_product(spoilt).groups["/dem"].arrays if each.name == "height"]
    pixels = [StoredPixels(Store(place), 3, str(place)) for place in (made.plan.product.url, spoilt)]
    for warped in (False, True):  # what lies on another grid is compared there in its middle
        problems = lost(Pair(height, output, (), warped=warped), *pixels, spoilt)
        assert problems == [f"{HEIGHT}: all of it is no data, and its source is not"]


@given(data=st.data())
def test_windows_are_cut_into_pieces_that_cover_them_once(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=3))
    seen = np.zeros(shape, int)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "PIECE", data.draw(st.integers(1, 100)))
        for part in windows.pieces(tuple(slice(0, size) for size in shape)):
            seen[part] += 1
            assert seen[part].size <= windows.PIECE
    assert (seen == 1).all()


@given(values=st.binary(max_size=300_000), level=st.integers(-5, 12), kept=st.floats(0, 1, exclude_max=True))
def test_a_frame_of_zstandard_is_whole_or_cut_off(values: bytes, level: int, kept: float) -> None:
    frame = bytes(numcodecs.Zstd(level=level, checksum=level % 2 == 0).encode(values))
    whole = chunk_check._zstd(frame)
    assert whole is not None
    assert whole.is_whole
    part = frame[: int(len(frame) * kept)]
    assert part == b"" or not (found := chunk_check._zstd(part)) or not found.is_whole

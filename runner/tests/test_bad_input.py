"""What cannot be done is said, with what was given and what to do; and nothing is left behind."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
from numcodecs import Blosc
from tenacity import wait_none

from benchmarks.server import ProductServer
from geozarr_runner.cli import main
from geozarr_runner.converter import command
from geozarr_runner.errors import InvalidRequest
from geozarr_runner.events import Reporter
from geozarr_runner.planning import preflight
from geozarr_runner.publishing.root_document import PROVENANCE
from geozarr_runner.spec.request import Request
from geozarr_runner.staging import view
from geozarr_runner.stores.access import retries
from runner.tests.support import (
    R20M,
    R60M,
    Run,
    array_v2,
    beside,
    consolidated_v2,
    finish,
    grid_v2,
    run,
    start,
    with_axes,
    write_store,
)


@dataclass
class Scene:
    """Where a case takes place: a small product, its server, and a folder for the output."""

    folder: Path
    product: Path
    server: ProductServer
    unused_url: str
    patch: pytest.MonkeyPatch

    @property
    def output(self) -> Path:
        return self.folder / "out.zarr"

    def store(self, name: str, documents: dict[str, object]) -> Path:
        return write_store(self.folder / name, documents)

    def item(self, *hrefs: str) -> Path:
        assets = {f"asset{number}": {"href": href} for number, href in enumerate(hrefs)}
        path = self.folder / "item.json"
        path.write_text(json.dumps({"type": "Feature", "id": "an-item", "assets": assets}))
        return path

    def served(self, name: str) -> str:
        return f"{self.server.url}/{name}"


type Arguments = list[object]


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    prepare: Callable[[Scene], Arguments]
    code: str
    exit_code: int
    says: str
    runs: bool = field(default=False)
    """Whether it gets so far as to open its log file."""


CASES: dict[str, Case] = {}


def case(code: str, exit_code: int, says: str, *, runs: bool = False) -> Callable[[Callable[[Scene], Arguments]], None]:
    def register(prepare: Callable[[Scene], Arguments]) -> None:
        CASES[prepare.__name__] = Case(prepare, code, exit_code, says, runs)

    return register


# --- the product -----------------------------------------------------------------------------------------------------


@case("product-not-found", 3, "no product here")
def a_path_that_is_not_there(at: Scene) -> Arguments:
    return [at.folder / "absent.zarr", at.output]


@case("product-not-found", 3, "no product here")
def an_empty_folder(at: Scene) -> Arguments:
    return [at.store("empty.zarr", {}), at.output]


@case("product-broken", 3, "no JSON")
def a_file_that_is_no_product(at: Scene) -> Arguments:
    (at.folder / "scene.tif").write_bytes(b"II*\x00\xff\xfe")
    return [at.folder / "scene.tif", at.output]


@case("invalid-request", 2, "a product is given as")
def no_product_at_all(at: Scene) -> Arguments:
    return ["", at.output]


@case("invalid-request", 2, "single array")
def one_array_instead_of_a_product(at: Scene) -> Arguments:
    return [at.store("a.zarr", {".zarray": array_v2((4,), ("x",), "a")["a/.zarray"]}), at.output]


@case("product-unreachable", 3, f"no answer after {retries.ATTEMPTS} tries")
def a_server_that_is_not_there(at: Scene) -> Arguments:
    return [f"{at.unused_url}/a.zarr", at.output]


@case("product-unreachable", 3, f"no answer after {retries.ATTEMPTS} tries")
def a_host_without_an_address(at: Scene) -> Arguments:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    at.patch.setattr(socket, "getaddrinfo", unknown)
    return ["https://no-such-host.invalid/a.zarr", at.output]


@case("product-unreachable", 3, "cannot be opened")
def an_unknown_protocol(at: Scene) -> Arguments:
    return ["carrier-pigeon://roof/a.zarr", at.output]


@case("invalid-request", 2, "cannot be an address")
def an_address_that_is_none(at: Scene) -> Arguments:
    return ["http://[fe80/a.zarr", at.output]


@case("product-not-found", 3, "no product here")
def an_address_with_nothing_behind(at: Scene) -> Arguments:
    return [at.served("absent.zarr"), at.output]


@case("product-denied", 3, "HTTP 403")
def a_server_that_refuses(at: Scene) -> Arguments:
    for name in (".zmetadata", "zarr.json", ".zgroup", ".zarray"):
        at.server.fail(f"/small.zarr/{name}", 403, 10)
    return [at.served("small.zarr"), at.output]


@case("product-denied", 3, "HTTP 401")
def a_server_that_wants_credentials(at: Scene) -> Arguments:
    at.server.fail("/small.zarr/.zmetadata", 401)
    return [at.served("small.zarr"), at.output]


@case("product-unreachable", 3, "503")
def a_server_that_stays_overloaded(at: Scene) -> Arguments:
    at.server.fail("/small.zarr/.zmetadata", 503, 10)
    return [at.served("small.zarr"), at.output]


@case("product-broken", 3, "no JSON")
def a_web_page_instead_of_metadata(at: Scene) -> Arguments:
    return [at.store("page.zarr", {".zmetadata": b"<!DOCTYPE html><title>Sign in</title>"}), at.output]


@case("product-broken", 3, "no JSON")
def truncated_metadata(at: Scene) -> Arguments:
    return [at.store("cut.zarr", {".zmetadata": b'{"metadata": {".zgro'}), at.output]


@case("product-broken", 3, "no JSON")
def metadata_nested_without_end(at: Scene) -> Arguments:
    return [at.store("deep.zarr", {".zmetadata": b"[" * 200_000}), at.output]


@case("product-broken", 3, "no JSON object")
def metadata_that_is_a_list(at: Scene) -> Arguments:
    return [at.store("list.zarr", {".zmetadata": b"[]"}), at.output]


@case("product-broken", 3, "has no 'metadata'")
def consolidated_metadata_without_metadata(at: Scene) -> Arguments:
    return [at.store("void.zarr", {".zmetadata": b"{}"}), at.output]


@case("product-broken", 3, "/a/data")
def an_array_without_a_shape(at: Scene) -> Arguments:
    documents = grid_v2("a")
    del documents["a/data/.zarray"]["shape"]
    return [at.store("shapeless.zarr", {**consolidated_v2(documents)}), at.output]


@case("product-broken", 3, "/a/data")
def an_array_whose_chunks_do_not_fit(at: Scene) -> Arguments:
    documents = grid_v2("a")
    documents["a/data/.zarray"]["chunks"] = [8]
    return [at.store("unfit.zarr", {**consolidated_v2(documents)}), at.output]


@case("product-broken", 3, "neither a group's nor an array's")
def attributes_that_are_a_list(at: Scene) -> Arguments:
    documents = {**grid_v2("a"), "a/.zattrs": ["x"]}
    root = {".zgroup": {"zarr_format": 2}, **documents}
    return [at.store("listed.zarr", {".zmetadata": {"metadata": root}}), at.output]


@case("product-broken", 3, "cannot be a path")
def a_group_that_leads_out_of_the_store(at: Scene) -> Arguments:
    return [at.store("sly.zarr", {**consolidated_v2(grid_v2("../../elsewhere"))}), at.output]


@case("product-broken", 3, "neither a group's nor an array's")
def a_version_3_node_without_a_type(at: Scene) -> Arguments:
    root = {"zarr_format": 3, "node_type": "group", "consolidated_metadata": {"metadata": {"a": {}}}}
    return [at.store("typeless.zarr", {"zarr.json": root}), at.output]


@case("invalid-request", 2, "has no Zarr asset")
def an_item_without_zarr(at: Scene) -> Arguments:
    return [at.item("https://example.invalid/scene.tif"), at.output]


@case("invalid-request", 2, "has 2 Zarr stores")
def an_item_with_several_products(at: Scene) -> Arguments:
    return [at.item("./a.zarr", "./b.zarr"), at.output]


@case("invalid-request", 2, "this is a STAC catalogue")
def a_document_that_is_no_item(at: Scene) -> Arguments:
    (at.folder / "catalog.json").write_text('{"type": "Catalog", "links": []}')
    return [at.folder / "catalog.json", at.output]


@case("product-not-found", 3, "no product here")
def an_item_whose_product_is_gone(at: Scene) -> Arguments:
    return [at.item("./gone.zarr"), at.output]


@case("product-denied", 3, "it is refused or empty", runs=True)
def a_chunk_that_is_refused(at: Scene) -> Arguments:
    at.server.fail("/small.zarr/a/data/0.0", 403, 10)
    return [at.served("small.zarr"), at.output, "--groups", "a"]


@case("product-unreachable", 3, f"no answer after {retries.ATTEMPTS} tries", runs=True)
def a_chunk_that_never_comes_whole(at: Scene) -> Arguments:
    at.server.truncate("/small.zarr/a/data/0.0", 10, 10)
    return [at.served("small.zarr"), at.output, "--groups", "a"]


# --- the groups ------------------------------------------------------------------------------------------------------


@case("groups-missing", 2, "the product has no /b")
def one_missing_group_where_all_are_wanted(at: Scene) -> Arguments:
    return [at.product, at.output, "--groups", "a", "b", "--validate-groups", "true"]


@case("groups-missing", 2, "the product has no /b, /c")
def no_group_left(at: Scene) -> Arguments:
    return [at.product, at.output, "--groups", "b,c", "--validate-groups", "false"]


@case("groups-missing", 2, "only groups")
def a_group_of_groups(at: Scene) -> Arguments:
    product = at.store("nested.zarr", {**consolidated_v2(grid_v2("top/a"))})
    return [product, at.output, "--groups", "top"]


@case("groups-missing", 2, "not over a grid")
def a_group_that_is_no_raster(at: Scene) -> Arguments:
    documents = grid_v2("a") | array_v2((4,), ("time",), "b/values")
    return [at.store("profile.zarr", {**consolidated_v2(documents)}), at.output, "--groups", "b"]


@case("groups-missing", 2, "no group of this product")
def a_product_without_rasters(at: Scene) -> Arguments:
    product = at.store("table.zarr", {**consolidated_v2(array_v2((4,), ("time",), "b/values"))})
    return [product, at.output]


# --- the output ------------------------------------------------------------------------------------------------------


@case("output-exists", 2, "the output exists")
def an_output_that_is_there(at: Scene) -> Arguments:
    at.store("out.zarr", {"zarr.json": {"zarr_format": 3, "node_type": "group"}})
    return [at.product, at.output]


@case("output-exists", 2, "no Zarr store has this name")
def a_file_of_that_name(at: Scene) -> Arguments:
    at.output.write_text("mine")
    return [at.product, at.output, "--if-exists", "overwrite"]


@case("output-exists", 2, "no Zarr store has this name")
def a_folder_that_is_no_store(at: Scene) -> Arguments:
    at.store("out.zarr", {"thesis.tex": b"mine"})
    return [at.product, at.output, "--if-exists", "overwrite"]


@case("output-exists", 2, "no Zarr store has this name")
def a_link_to_nowhere(at: Scene) -> Arguments:
    at.output.symlink_to(at.folder / "absent")
    return [at.product, at.output, "--if-exists", "overwrite"]


@case("output-exists", 2, "made from another request")
def an_output_of_another_request(at: Scene) -> Arguments:
    record = {"input": {"identity": "another"}, "groups": ["/a"]}
    root = {"zarr_format": 3, "node_type": "group", "attributes": {PROVENANCE: record}}
    at.store("out.zarr", {"zarr.json": root})
    return [at.product, at.output, "--groups", "a", "--if-exists", "skip"]


@case("output-exists", 2, "made from another request")
def an_output_of_unknown_origin(at: Scene) -> Arguments:
    at.store("out.zarr", {"zarr.json": b"[]"})
    return [at.product, at.output, "--if-exists", "skip"]


@case("storage-failed", 6, "cannot be written")
def a_file_where_the_folder_should_be(at: Scene) -> Arguments:
    (at.folder / "file").write_text("mine")
    return [at.product, at.folder / "file" / "deeper" / "out.zarr"]


@case("storage-failed", 6, "cannot be written")
def a_folder_where_nobody_can_write(at: Scene) -> Arguments:
    return [at.product, "/proc/self/out.zarr"]


@case("invalid-request", 2, "too long")
def a_name_too_long(at: Scene) -> Arguments:
    return [at.product, at.folder / ("a" * 300) / "out.zarr"]


@case("storage-full", 6, "are free")
def a_disk_that_is_nearly_full(at: Scene) -> Arguments:
    usage = shutil.disk_usage(at.folder)._replace(free=1_000_000)
    at.patch.setattr(preflight.shutil, "disk_usage", lambda path: usage)
    return [at.product, at.output]


@case("storage-full", 6, "staging needs", runs=True)
def a_scratch_disk_that_is_too_small(at: Scene) -> Arguments:
    at.patch.setattr(view, "disk_usage", lambda path: SimpleNamespace(total=4096, free=0))
    return [at.served("small.zarr"), at.output, "--groups", "a"]


@case("storage-full", 6, "no space left", runs=True)
def a_disk_that_fills_while_chunks_arrive(at: Scene) -> Arguments:
    replace = Path.replace

    def full(path: Path, target: str | os.PathLike[str]) -> Path:
        if path.name.endswith(".part"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return replace(path, target)

    at.patch.setattr(Path, "replace", full)
    return [at.served("small.zarr"), at.output, "--groups", "a"]


@case("storage-failed", 6, "cannot be written")
def a_scratch_folder_that_is_a_file(at: Scene) -> Arguments:
    (at.folder / "file").write_text("mine")
    return [at.product, at.output, "--groups", "a", "--scratch", at.folder / "file"]


@case("storage-failed", 6, "cannot be written")
def a_log_that_is_a_folder(at: Scene) -> Arguments:
    return [at.product, at.output, "--groups", "a", "--log", at.folder]


@case("invalid-request", 2, "may not lie in one another")
def an_output_in_the_product(at: Scene) -> Arguments:
    return [at.product, at.product / "out.zarr"]


@case("invalid-request", 2, "may not lie in one another")
def a_product_in_the_output(at: Scene) -> Arguments:
    return [at.product, at.product.parent, "--if-exists", "overwrite"]


@case("invalid-request", 2, "may not lie in one another")
def the_product_as_the_output(at: Scene) -> Arguments:
    return [at.product, at.product, "--if-exists", "overwrite"]


@case("invalid-request", 2, "path on this machine, or an address in an object store")
def a_web_server(at: Scene) -> Arguments:
    return [at.product, "https://host/out.zarr"]


@case("invalid-request", 2, "cannot be the address of an output")
def a_whole_bucket(at: Scene) -> Arguments:
    return [at.product, "s3://bucket"]


@case("invalid-request", 2, "no name")
def an_output_without_a_name(at: Scene) -> Arguments:
    return [at.product, " "]


@case("invalid-request", 2, "cannot be an output")
def the_root_folder(at: Scene) -> Arguments:
    return [at.product, "/"]


# --- the converter ---------------------------------------------------------------------------------------------------


@case("converter-missing", 4, "not installed")
def no_converter(at: Scene) -> Arguments:
    at.patch.setattr(command.shutil, "which", lambda *_, **__: None)
    return [at.product, at.output, "--groups", "a"]


# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def at(tmp_path: Path, unused_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    served = tmp_path / "served"
    small = with_axes(write_store(served / "small.zarr", {**consolidated_v2(grid_v2("a"))}), "a")
    (small / "a" / "data" / "0.0").write_bytes(bytes(128))
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.delenv("ARGO_GROUPS", raising=False)
    monkeypatch.setattr(retries, "wait_exponential_jitter", lambda **_: wait_none())
    with ProductServer(served) as server:
        yield Scene(folder, small, server, unused_url, monkeypatch)


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder, with its content."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize("row", CASES.values(), ids=CASES.keys())
def test_it_is_said_and_nothing_is_left(row: Case, at: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(argument) for argument in row.prepare(at)]
    before = tree(at.folder.parent)
    code = main(["convert", *arguments])
    captured = capsys.readouterr()
    done = Run(code, captured.out, captured.err, Path(arguments[1]))

    assert (done.error["code"], done.code) == (row.code, row.exit_code), done.stdout
    assert done.error["exit_code"] == row.exit_code
    assert row.says in done.error["message"]
    assert done.error["given"] is not None
    assert done.error["remedy"]
    assert "Traceback" not in done.stdout
    assert done.stderr == ""
    log = str(at.output.relative_to(at.folder.parent)) + ".log.jsonl"
    assert tree(at.folder.parent).keys() - {log} == before.keys()
    assert {path: content for path, content in tree(at.folder.parent).items() if path != log} == before
    assert (log in tree(at.folder.parent)) == row.runs


def test_there_are_enough_of_them() -> None:
    assert len(CASES) >= 25


# --- with the converter at work --------------------------------------------------------------------------------------


def failed(done: Run, code: str, exit_code: int) -> str:
    """Check a run that failed after it had started; returns its message."""
    assert (done.error["code"], done.code) == (code, exit_code), done.stdout + done.stderr
    assert done.error["given"]
    assert done.error["remedy"]
    assert done.stderr == ""
    assert "Traceback" not in done.stdout
    assert beside(done.output) == set()
    return str(done.error["message"])


@pytest.fixture
def output(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "out.zarr"


def truncate(chunk: Path) -> Path:
    chunk.write_bytes(chunk.read_bytes()[: chunk.stat().st_size // 2])
    return chunk


def test_a_truncated_chunk_is_named(terrain: Path, tmp_path: Path, output: Path) -> None:
    product = Path(shutil.copytree(terrain, tmp_path / "broken.zarr"))
    chunk = truncate(product / "dem" / "height" / "c" / "1" / "1")
    done = run(product, output)
    assert "/dem/height" in failed(done, "product-broken", 3)
    assert done.error["given"] == str(chunk)


def test_a_cut_off_chunk_that_the_decoder_takes_is_named(s2: Path, tmp_path: Path, output: Path) -> None:
    """Blosc decodes an uncompressed frame that was cut off to what happens to be in memory, and says nothing."""
    product = Path(shutil.copytree(s2, tmp_path / "broken.zarr"))
    chunk = product / R60M[1:] / "b09" / "0.0"
    chunk.write_bytes(Blosc(clevel=0).encode(Blosc().decode(chunk.read_bytes())))
    truncate(chunk)
    done = run(product, output, "--groups", R60M)
    assert f"{R60M}/b09" in failed(done, "product-broken", 3)
    assert done.error["given"] == str(chunk)
    assert "convert" not in {event["stage"] for event in done.of("stage")}, "the converter is not started for it"


def test_a_truncated_chunk_of_a_distant_product_is_named(
    s2: Path, tmp_path: Path, output: Path, fake_converter: Callable[[str], dict[str, str]]
) -> None:
    product = Path(shutil.copytree(s2, tmp_path / "served" / "broken.zarr"))
    truncate(product / R60M[1:] / "b09" / "0.0")
    with ProductServer(product.parent) as server:
        done = run(f"{server.url}/broken.zarr", output, "--groups", R60M, env=fake_converter("sys.exit('enough')"))
    assert f"{R60M}/b09" in failed(done, "product-broken", 3)
    assert done.error["given"] == f"{server.url}/broken.zarr{R60M}/b09/0.0"


def test_a_truncated_chunk_that_the_converter_passed_over_is_named(
    s2: Path, tmp_path: Path, output: Path, fake_converter: Callable[[str], dict[str, str]]
) -> None:
    product = Path(shutil.copytree(s2, tmp_path / "broken.zarr"))
    chunk = truncate(product / "conditions" / "geometry" / "sun_angles" / "0.0.0")
    done = run(product, output, env=fake_converter("out.mkdir()"))
    assert "/conditions/geometry/sun_angles" in failed(done, "product-broken", 3)
    assert done.error["given"] == str(chunk)


def test_no_space_while_the_converter_writes(terrain: Path, output: Path) -> None:
    """A limit on the size of files stands for the full disk: it needs no privilege, and ends in the same place."""
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
        "from geozarr_runner import cli; sys.exit(cli.main(sys.argv[1:]))"
    )
    process = start(terrain, output, env={}, command=(sys.executable, "-c", limited))
    done = finish(process, output)
    assert "no space" in failed(done, "storage-full", 6)
    log = output.with_name(f"{output.name}.log.jsonl").read_text()
    assert log.count("File too large") <= 2, "it is ended at once: it would try each variable three times"


def test_a_converter_that_is_killed(s2: Path, output: Path, fake_converter: Callable[[str], dict[str, str]]) -> None:
    done = run(s2, output, "--groups", R60M, env=fake_converter("out.mkdir(); os.kill(os.getpid(), signal.SIGKILL)"))
    assert "memory" in failed(done, "converter-killed", 4)
    assert done.error["given"] == "SIGKILL"
    assert done.error["retryable"]


def test_a_converter_that_fails(s2: Path, output: Path, fake_converter: Callable[[str], dict[str, str]]) -> None:
    done = run(s2, output, "--groups", R60M, env=fake_converter("out.mkdir(); raise ValueError('a bad day')"))
    assert "ValueError: a bad day" in failed(done, "converter-failed", 4)
    assert done.error["given"] == "exit code 1"


def test_progress_does_not_go_back_when_a_chunk_has_to_come_again(
    s2: Path, server: ProductServer, output: Path, fake_converter: Callable[[str], dict[str, str]]
) -> None:
    server.truncate(f"/s2.zarr{R20M}/b02/0.0", 50_000, 2)
    done = run(f"{server.url}/s2.zarr", output, "--groups", R20M, env=fake_converter("sys.exit('enough')"))
    failed(done, "converter-failed", 4)
    told = [event["done"] for event in done.of("progress") if event["stage"] == "stage"]
    assert told == sorted(told)
    assert told[-1] == next(event["total"] for event in done.of("progress"))


@pytest.mark.parametrize("letter", ["?", "#"])
def test_a_path_that_the_converter_would_cut_off(letter: str, terrain: Path, tmp_path: Path) -> None:
    """It takes each of its paths for an address, and would write to `.out` beside the output."""
    reporter = Reporter(io.StringIO())
    for request in (
        Request.of(terrain, tmp_path / f"out{letter}a.zarr"),
        Request.of(terrain, tmp_path / "out.zarr", scratch=tmp_path / f"scratch{letter}"),
    ):
        with pytest.raises(InvalidRequest, match="end of an address"):
            preflight.preflight(request, reporter)
    odd = tmp_path / f"product{letter}a.zarr"
    odd.symlink_to(terrain)
    assert not preflight.preflight(Request.of(terrain, tmp_path / "out.zarr"), reporter).narrowed
    assert preflight.preflight(Request.of(odd, tmp_path / "out.zarr"), reporter).narrowed

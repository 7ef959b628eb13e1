"""Links, FIFOs and folders of others where a run writes, and in what it reads: not followed, not emptied, not read."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import pickle
import pwd
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import fsspec
import pytest
import zarr
from fsspec.implementations.memory import MemoryFileSystem
from zarr.abc.store import OffsetByteRequest, RangeByteRequest

import geozarr_nb as gz
from geozarr_nb.claims.volume import Mount
from geozarr_nb.errors import ArchiveMissing, DownloadBroken, ProductDenied
from geozarr_nb.outputs import download as downloads
from geozarr_nb.outputs.download import download
from geozarr_runner import run
from geozarr_runner.errors import ProductBroken, ProductNotFound, StorageDenied, StorageFailed
from geozarr_runner.events import Reporter
from geozarr_runner.inspection.reader import open_product
from geozarr_runner.planning import estimate
from geozarr_runner.planning.preflight import Plan, preflight
from geozarr_runner.product.sampler import StoredPixels
from geozarr_runner.publishing import archive, object_store
from geozarr_runner.publishing.local import claimed, discard_leftovers, output_path, retired, workspace
from geozarr_runner.publishing.remote_output import RemoteOutput
from geozarr_runner.publishing.root_document import provenance, provenance_in, write_consolidated
from geozarr_runner.spec.request import Request
from geozarr_runner.staging.view import stage
from geozarr_runner.stores.store import Store
from geozarr_runner.trust import folders
from geozarr_runner.trust import tree as tree_module
from geozarr_runner.trust.credentials import Credentials
from geozarr_runner.trust.tree import FolderTree
from runner.tests.support import write_store, write_terrain
from tests.hostile.support import bounded

ROOT = {"zarr_format": 3, "node_type": "group", "attributes": {}}
SECRET = b"-----BEGIN OPENSSH PRIVATE KEY-----\n"
NOBODY = 65534


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A folder with what nobody may write, read or remove; looked at again at the end."""
    place = tmp_path / "home"
    write_store(place, {".ssh/id": SECRET, ".bashrc": b"alias ll='ls -l'\n", "thesis/chapter-1.tex": b"Once"})
    before = contents(place)
    yield place
    assert contents(place) == before


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder that others write to as well."""
    place = tmp_path / "shared"
    place.mkdir()
    return place


def plant(path: Path, what: str, home: Path) -> None:
    match what:
        case "a link to a folder":
            path.symlink_to(home)
        case "a link to a file":
            path.symlink_to(home / ".bashrc")
        case "a link to what will be made":
            path.symlink_to(home / ".new")
        case "a FIFO":
            os.mkfifo(path)
        case "a file":
            path.write_bytes(b"theirs")


LINKS = ["a link to a folder", "a link to a file", "a link to what will be made"]
NO_FOLDERS = [*LINKS, "a FIFO", "a file"]
NO_FILES = [*LINKS, "a FIFO"]


def still_there(path: Path, what: str) -> bool:
    return path.is_symlink() if "link" in what else path.exists()


# --- where a run writes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", NO_FOLDERS)
@pytest.mark.parametrize("scratch", [False, True])
def test_what_has_the_name_of_a_runs_folder(what: str, scratch: bool, home: Path, shared: Path) -> None:
    output, aside = shared / "out.zarr", shared / "scratch" if scratch else None
    with workspace(output, aside) as space:
        place = space.scratch
    plant(place, what, home)
    with pytest.raises(StorageDenied) as caught, workspace(output, aside):
        pass
    assert caught.value.given == place
    assert "remove it" in caught.value.remedy
    with pytest.raises(StorageDenied):
        discard_leftovers(output, aside)
    assert still_there(place, what)
    assert not (shared / ".out.zarr.lock").exists()


@pytest.mark.parametrize("what", NO_FILES)
def test_what_has_the_name_of_a_lock(what: str, home: Path, shared: Path) -> None:
    output = shared / "out.zarr"
    plant(shared / ".out.zarr.lock", what, home)
    for call in (lambda: workspace(output), lambda: claimed(output)):
        with pytest.raises(StorageDenied) as caught, call():
            pass
        assert caught.value.given == shared / ".out.zarr.lock"
    assert still_there(shared / ".out.zarr.lock", what)


@pytest.mark.parametrize("what", LINKS)
@pytest.mark.parametrize("there", [True, False])
def test_what_has_the_name_of_an_old_output(what: str, there: bool, home: Path, shared: Path) -> None:
    output = shared / "out.zarr"
    plant(retired(output), what, home)
    if there:
        write_store(output, {"zarr.json": ROOT})
    with pytest.raises(StorageDenied), workspace(output):
        pass
    assert retired(output).is_symlink()
    assert output.exists() == there


@pytest.mark.parametrize("what", NO_FILES)
def test_what_has_the_name_of_a_log(what: str, home: Path, shared: Path) -> None:
    log = shared / "out.zarr.log.jsonl"
    plant(log, what, home)
    with pytest.raises(StorageDenied):
        Reporter(io.StringIO()).open_log(log)
    assert still_there(log, what)


def test_a_log_that_a_person_has_named_is_what_it_is(shared: Path) -> None:
    (shared / "log").symlink_to(shared / "elsewhere")
    reporter = Reporter(io.StringIO())
    reporter.open_log(shared / "log", is_named=True)
    reporter.message("said")
    reporter.close()
    assert "said" in (shared / "elsewhere").read_text()
    reporter.open_log(Path(os.devnull), is_named=True)
    reporter.close()


def test_a_log_goes_on_where_one_is(shared: Path) -> None:
    log = shared / "out.zarr.log.jsonl"
    log.write_text("before\n")
    reporter = Reporter(io.StringIO())
    reporter.open_log(log)
    reporter.message("after")
    reporter.close()
    assert log.read_text().startswith("before\n")
    assert "after" in log.read_text()


@pytest.mark.parametrize("what", NO_FILES)
def test_the_log_of_an_object_stores_output_replaces_what_has_its_name(what: str, home: Path, shared: Path) -> None:
    output = RemoteOutput("memory://bucket/links/out.zarr")
    path = object_store.log_file(output, shared)
    path.unlink()
    plant(path, what, home)
    assert object_store.log_file(output, shared) == path
    assert path.is_file()
    assert not path.is_symlink()


def test_a_log_longer_than_what_is_read_begins_anew(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = RemoteOutput("memory://bucket/long/out.zarr")
    fsspec.filesystem("memory").pipe("/bucket/long/out.zarr.log.jsonl", b"{}\n" * 100)
    assert object_store.log_file(output, shared).stat().st_size == 300
    monkeypatch.setenv("GEOZARR_MAX_METADATA", "299")
    assert object_store.log_file(output, shared).stat().st_size == 0


@pytest.mark.parametrize("what", LINKS)
def test_the_systems_scratch_folder(what: str, home: Path, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(shared))
    plant(object_store.scratch_folder(None), what, home)
    with pytest.raises(StorageDenied) as caught:
        object_store.log_file(RemoteOutput("memory://bucket/links/out.zarr"), None)
    assert "scratch=" in caught.value.remedy


def test_what_is_kept_of_a_killed_run_has_no_links(home: Path, shared: Path) -> None:
    output = shared / "out.zarr"
    partial = shared / ".out.zarr.partial"
    write_store(partial, {"input.zarr/b02/0.0": b"fetched", "other.zarr/b02/0.0": b"of another"})
    plant(partial / "input.zarr" / "b02" / "0.1", "a link to a file", home)
    plant(partial / "input.zarr" / "b03", "a link to a folder", home)
    os.mkfifo(partial / "input.zarr" / "b02" / "0.2")
    plant(partial / "output.zarr", "a link to a folder", home)
    with workspace(output) as space:
        assert contents(space.folder) == {"input.zarr/b02/0.0": b"fetched"}
        assert os.listdir(space.staged) == ["b02"]  # noqa: PTH208
        assert os.listdir(space.staged / "b02") == ["0.0"]  # noqa: PTH208


@pytest.mark.parametrize("group", [0, stat.S_ISGID])
def test_a_folder_of_ours_is_for_us_alone(group: int, shared: Path) -> None:
    (shared / ".out.zarr.partial").mkdir()
    (shared / ".out.zarr.partial").chmod(0o777 | group)
    with workspace(shared / "out.zarr", shared / "scratch") as space:
        assert [each.stat().st_mode & 0o777 for each in (space.folder, space.scratch)] == [0o700, 0o700]
        assert space.folder.stat().st_mode & stat.S_ISGID == group  # what is published is of that group still


def test_leftovers_that_may_not_be_removed(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: object, *_: object, **__: object) -> NoReturn:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(folders.os, "open", refuse)
    with pytest.raises(StorageDenied):
        discard_leftovers(shared / "out.zarr")


def someone_elses(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Have a folder belong to another user, in what the system says of open folders."""
    fstat, inode = os.fstat, path.stat().st_ino

    def said(descriptor: int) -> Any:
        found = fstat(descriptor)
        if found.st_ino != inode:
            return found
        return os.stat_result((*found[:4], NOBODY, *found[5:10]))

    monkeypatch.setattr(folders.os, "fstat", said)


def test_a_folder_of_someone_else(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    partial = shared / ".out.zarr.partial"
    write_store(partial, {"mine.txt": b"theirs"})
    someone_elses(monkeypatch, partial)
    with pytest.raises(StorageDenied, match="someone else's"), workspace(shared / "out.zarr"):
        pass
    with pytest.raises(StorageDenied, match="someone else's"):
        discard_leftovers(shared / "out.zarr")
    assert contents(partial) == {"mine.txt": b"theirs"}


def test_a_volume_that_gives_all_files_to_one_user(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With root squash say: what a run makes there belongs to another number than its own."""
    monkeypatch.setattr(folders.os, "geteuid", lambda: 12345)
    write_store(shared / ".out.zarr.partial", {"output.zarr/zarr.json": ROOT})
    with workspace(shared / "out.zarr", shared / "scratch") as space:
        assert contents(space.folder) == {}
    assert os.listdir(shared) == ["scratch"]  # noqa: PTH208


# --- what it reads ---------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path, home: Path) -> Path:
    folder = tmp_path / "p.zarr"
    write_store(folder, {"a/0.0": b"chunk", "b/0.0": b"other"})
    (folder / "a" / "0.1").symlink_to("0.0")
    (folder / "c").symlink_to("b")
    (folder / "a" / "absent").symlink_to("9.9")
    (folder / "a" / "out").symlink_to(home / ".ssh" / "id")
    (folder / "a" / "nowhere").symlink_to(tmp_path / "absent")
    (folder / "d").symlink_to(home)
    (folder / "up").symlink_to("..")
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "fifo")
    (folder / "null").symlink_to("/dev/null")
    return folder


@pytest.mark.parametrize(
    ("key", "content"),
    [("a/0.0", b"chunk"), ("a/0.1", b"chunk"), ("c/0.0", b"other"), ("a/absent", None), ("a", None), ("", None),
     ("a/0.0/x", None), ("x/y/z", None), ("a/..", None), ("..", None), ("a\0b", None), ("\ud800", None)],
)  # fmt: skip
def test_what_stays_inside_is_read(key: str, content: bytes | None, tree: Path) -> None:
    assert Store(tree).read(key) == content
    assert Store(tree).sizes([key]) == ({} if content is None else {key: len(content)})
    assert Store(tree).for_zarr().get_sync(key) is None or content is not None


def test_a_part_is_no_longer_than_its_file(tree: Path) -> None:
    store = Store(tree).for_zarr()
    for start, end in ((0, 2**62), (1, 2**62), (2**61, 2**62), (0, 1), (9, 12)):
        part = store.get_sync("a/0.0", byte_range=RangeByteRequest(start, end))
        assert part.to_bytes() == b"chunk"[start:end]
        assert store.get_sync("a/0.0", byte_range=OffsetByteRequest(start)).to_bytes() == b"chunk"[start:]


@pytest.mark.parametrize(
    "key",
    ["a/out", "a/nowhere", "d/.ssh/id", "up/home/.ssh/id", "../home/.ssh/id", "loop", "fifo", "null", "d/absent"],
)
def test_what_leads_outside_or_never_ends_is_refused(key: str, tree: Path) -> None:
    for call in (Store(tree).read, lambda key: Store(tree).sizes([key]), Store(tree).for_zarr().get_sync):
        with pytest.raises(ProductBroken) as caught:
            call(key)
        assert f"{tree}/{key}".startswith(str(caught.value.given))
        assert caught.value.remedy


def test_what_a_mounted_claim_tells_of_stays_inside(tree: Path) -> None:
    claim = Mount(tree)
    assert claim.entry("c/0.0").size == len(b"other")
    assert {entry.name for entry in claim.entries("a")} == {"0.0", "0.1"}
    assert {entry.name for entry in claim.entries("")} == {"a", "b", "c"}
    for path in ("a/out", "d", "d/.ssh/id", "up", "up/home", "null"):
        with pytest.raises(ProductDenied):
            claim.entry(path)
    for path in ("d", "d/.ssh", "up"):
        with pytest.raises(ProductDenied):
            claim.entries(path)


def test_what_becomes_a_link_once_it_was_looked_at(tree: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = FolderTree(tree)
    find = found.find

    def late(key: str) -> str | None:
        path = find(key)
        (tree / "b" / "0.0").unlink()
        (tree / "b" / "0.0").symlink_to(home / ".ssh" / "id")
        return path

    monkeypatch.setattr(found, "find", late)
    with pytest.raises(OSError, match="symbolic"):
        found.read("b/0.0")


def test_a_product_may_be_reached_by_a_link(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "latest.zarr").symlink_to(tree)
    assert Store(tmp_path / "latest.zarr").read("c/0.0") == b"other"
    (tmp_path / "item.json").symlink_to(tree / "a" / "0.0")
    assert Store(tmp_path / "item.json").read("") == b"chunk"


@pytest.mark.parametrize("name", [".zmetadata", "zarr.json", ".zgroup"])
def test_a_fifo_does_not_hang_who_looks(name: str, tmp_path: Path) -> None:
    product = tmp_path / "p.zarr"
    product.mkdir()
    os.mkfifo(product / name)
    if name != ".zmetadata":
        with pytest.raises(ProductBroken):
            Store(product).read(name)
        return
    ended = bounded("-m", "geozarr_nb", "inspect", product, seconds=60)
    ended.refused("product-broken")


def test_a_fifo_that_is_the_product(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p.zarr")
    with pytest.raises(ProductBroken):
        Store(tmp_path / "p.zarr").read("")


def test_metadata_that_are_listed(tmp_path: Path, home: Path) -> None:
    """What is not consolidated is read by zarr, which follows links."""
    product = tmp_path / "p.zarr"
    zarr.create_group(product, zarr_format=3).create_array("b02", shape=(4,), dtype="u1")
    (product / "b02" / "zarr.json").rename(home.parent / "elsewhere.json")
    (product / "b02" / "zarr.json").symlink_to(home.parent / "elsewhere.json")
    with pytest.raises(ProductBroken, match="leads out"):
        open_product(product)


@pytest.mark.parametrize("few", [estimate.FEW, 0])
def test_what_leads_out_is_counted_nowhere_and_the_rest_is_shown(
    few: int, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "FEW", few)
    product = open_product(write_terrain(tmp_path / "dem.zarr"))
    chunk = chunk_of(tmp_path / "dem.zarr")
    chunk.unlink()
    chunk.symlink_to(home / ".ssh" / "id")
    assert "/dem" in repr(product)
    assert "unpacked" in product._repr_html_()
    assert product.to_dict()["groups"]["/dem"]["stored_bytes"] is None
    with pytest.raises(ProductBroken, match="leads out"):
        estimate.estimate(product)


# --- what cannot be read ---------------------------------------------------------------------------------------------


def test_what_may_not_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    product = open_product(write_terrain(tmp_path / "dem.zarr"))

    def refuse(path: object, **_: object) -> NoReturn:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(tree_module.os, "lstat", refuse)
    for call in (lambda: estimate.estimate(product), lambda: product.store.read("x")):
        with pytest.raises(ProductDenied, match="cannot be read") as caught:
            call()
        assert "FSSPEC" not in caught.value.remedy
    monkeypatch.setattr(Path, "stat", refuse)
    with pytest.raises(ProductDenied, match="cannot be read"):
        open_product(tmp_path / "dem.zarr")


@pytest.mark.parametrize("name", ["x" * 5000, "~nobody-of-that-name/p.zarr"])
def test_what_cannot_be_a_path_is_not_there(name: str) -> None:
    with pytest.raises(ProductNotFound):
        open_product(name)


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As in a container whose user has no name."""

    def nobody(_: int) -> NoReturn:
        raise KeyError

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert Credentials.of("https://host/p.zarr").users == {}
    assert output_path(tmp_path / "out.zarr") == tmp_path / "out.zarr"


# --- what is converted -----------------------------------------------------------------------------------------------


@pytest.fixture
def terrain(tmp_path: Path) -> Path:
    return write_terrain(tmp_path / "dem.zarr")


def chunk_of(product: Path) -> Path:
    return next(path for path in sorted((product / "dem").rglob("*")) if path.is_file() and path.name.isdigit())


def staged(plan: Plan, output: Path, look: Callable[[Path], None] = lambda _: None) -> None:
    with workspace(output) as space:
        look(Path(stage(plan, space, lambda *_: None, Reporter(io.StringIO())).url))


def test_a_chunk_that_becomes_a_link_while_the_product_is_compared(terrain: Path, home: Path) -> None:
    product = open_product(terrain)
    [dem] = product.groups["/dem"].variables
    chunk = chunk_of(terrain)
    chunk.unlink()
    chunk.symlink_to(home / ".ssh" / "id")
    with pytest.raises(ProductBroken, match="leads out"):
        StoredPixels(product.store, product.zarr_format, str(terrain)).read(dem, (slice(None), slice(None)))


@pytest.mark.parametrize("groups", [("/dem",), ()])
@pytest.mark.parametrize("what", ["a link", "a FIFO", "a folder's link"])
def test_a_chunk_that_is_a_link_to_a_secret(
    what: str, groups: tuple[str, ...], terrain: Path, home: Path, shared: Path
) -> None:
    plan = preflight(Request.of(terrain, shared / "out.zarr", groups=groups), Reporter(io.StringIO()))
    chunk = chunk_of(terrain)
    if what == "a folder's link":
        chunk.parent.rename(home.parent / "elsewhere")
        chunk.parent.symlink_to(home.parent / "elsewhere")
    else:
        chunk.unlink()
        chunk.symlink_to(home / ".ssh" / "id") if what == "a link" else os.mkfifo(chunk)
    with pytest.raises(ProductBroken) as caught:
        staged(plan, shared / "out.zarr")
    assert ("cp -rL" in caught.value.remedy) == (what != "a FIFO")
    assert os.listdir(shared) == []  # noqa: PTH208


def test_links_that_stay_inside_are_converted(terrain: Path, shared: Path) -> None:
    chunk = chunk_of(terrain)
    chunk.rename(terrain / "elsewhere")
    chunk.symlink_to(terrain / "elsewhere")
    content = chunk.read_bytes()
    plan = preflight(Request.of(terrain, shared / "out.zarr", groups=("/dem",)), Reporter(io.StringIO()))
    seen: list[bytes] = []
    staged(plan, shared / "out.zarr", lambda view: seen.append((view / chunk.relative_to(terrain)).read_bytes()))
    assert seen == [content]


# --- outputs and archives --------------------------------------------------------------------------------------------


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """An output that somebody else has made."""
    output = tmp_path / "theirs" / "made.zarr"
    group = zarr.create_group(output, zarr_format=3)
    group.create_array("b02", shape=(4, 4), chunks=(2, 2), dtype="u1", dimension_names=("y", "x"))[:] = 1
    write_consolidated(output)
    return output


def job(output: object) -> Any:
    return SimpleNamespace(name="job-1", status="Succeeded", output=str(output), reason="")


def spoil(output: Path, what: str, home: Path) -> None:
    chunk = output / "b02" / "c" / "0" / "0"
    match what:
        case "a chunk":
            chunk.unlink()
            chunk.symlink_to(home / ".ssh" / "id")
        case "more":
            (output / "more").symlink_to(home)
        case "a FIFO":
            chunk.unlink()
            os.mkfifo(chunk)
        case "a socket":
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(os.path.relpath(output / "socket"))


SPOILT = ["a chunk", "more", "a FIFO", "a socket"]


@pytest.mark.parametrize("what", SPOILT)
def test_an_archive_has_nothing_from_outside(what: str, made: Path, home: Path) -> None:
    spoil(made, what, home)
    file = io.BytesIO()
    with pytest.raises(StorageFailed):
        archive.write_archive(made, file, lambda *_: None)
    assert SECRET not in file.getvalue()


@pytest.mark.parametrize("what", SPOILT)
def test_a_download_has_nothing_from_outside(what: str, made: Path, home: Path, tmp_path: Path) -> None:
    spoil(made, what, home)
    with pytest.raises(DownloadBroken):
        download(job(made), tmp_path / "got.zarr", progress=False)
    assert not (tmp_path / "got.zarr").exists()


def test_what_is_opened_has_nothing_from_outside(made: Path, home: Path) -> None:
    tree = gz.open(made, strict=False)
    assert int(pickle.loads(pickle.dumps(tree))["b02"].sum()) == 16
    spoil(made, "a chunk", home)
    with pytest.raises(ProductBroken, match="leads out"):
        tree.load()


def test_a_claim_that_is_mounted_here(made: Path, home: Path) -> None:
    spoil(made, "a chunk", home)
    mount = Mount(made.parent)
    assert mount.read("made.zarr/zarr.json", 0, 1) == b"{"
    with pytest.raises(ProductDenied, match="leads out"):
        mount.read("made.zarr/b02/c/0/0")
    with pytest.raises(FileNotFoundError):
        mount.read("made.zarr/absent")


def test_an_archive_that_is_a_link(made: Path, home: Path, tmp_path: Path) -> None:
    path = archive.archive_path(made)
    path.symlink_to(home / ".ssh" / "id")
    archive.checksum_path(path).write_text(f"{hashlib.sha256(SECRET).hexdigest()}  made.zarr.tar.gz\n")
    os.utime(made / "zarr.json", (0, 0))
    assert archive.existing(made) is None
    with pytest.raises(DownloadBroken, match="link"):
        download(job(made), tmp_path / "got.tar.gz", progress=False)
    path.unlink()
    os.mkfifo(path)
    assert archive.existing(made) is None
    with pytest.raises((ArchiveMissing, ProductBroken)):
        download(job(made), tmp_path / "got.tar.gz", progress=False)


@pytest.mark.parametrize("name", ["../made.zarr.tar.gz", "/etc/passwd", "a\x1b[2J", "..", "a/b"])
def test_a_checksum_that_is_of_a_file_elsewhere(name: str) -> None:
    assert archive.checksum_in(f"{'0' * 64}  {name}\n") is None


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 200_000, "\0", "7"])
def test_a_record_that_is_none(text: str, made: Path) -> None:
    (made / "zarr.json").write_text(text)
    assert provenance(made) is None
    assert provenance_in(text.encode()) is None


def test_a_record_is_read_up_to_a_bound(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = json.loads((made / "zarr.json").read_text())
    (made / "zarr.json").write_text(json.dumps({**root, "attributes": {"geozarr_runner": {"schema": 1}}}))
    assert provenance(made) == {"schema": 1}
    monkeypatch.setenv("GEOZARR_MAX_METADATA", str((made / "zarr.json").stat().st_size - 1))
    assert provenance(made) is None


def test_the_record_of_an_output_is_its_own(made: Path, home: Path) -> None:
    (made / "zarr.json").unlink()
    (made / "zarr.json").symlink_to(home.parent / "elsewhere.json")
    with pytest.raises(ProductBroken):
        provenance(made)


@pytest.mark.parametrize("what", NO_FOLDERS)
def test_what_has_the_name_of_a_downloads_folder(what: str, made: Path, home: Path, shared: Path) -> None:
    plant(shared / ".got.zarr.partial", what, home)
    with pytest.raises(StorageDenied):
        download(job(made), shared / "got.zarr", progress=False)
    assert still_there(shared / ".got.zarr.partial", what)
    assert not (shared / "got.zarr").exists()


def test_what_was_fetched_before_has_no_links(made: Path, home: Path, shared: Path) -> None:
    name = f"output-{hashlib.sha256((made / 'zarr.json').read_bytes()).hexdigest()[:16]}"
    arriving = shared / ".got.zarr.partial" / name
    arriving.mkdir(parents=True)
    (arriving / "b02").symlink_to(home)
    (arriving / "zarr.json").symlink_to(home / ".bashrc")
    download(job(made), shared / "got.zarr", progress=False)
    assert contents(shared / "got.zarr") == contents(made)
    assert not any(path.is_symlink() for path in (shared / "got.zarr").rglob("*"))


def test_an_item_is_written_where_nobody_can_have_been(made: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Path(f"{made}.stac.json")
    place.with_name(f".{place.name}.{os.getpid()}").symlink_to(home / ".bashrc")
    monkeypatch.setattr(run.root_document, "provenance", lambda output: {})
    monkeypatch.setattr(run.stac_item, "write", lambda path, *_, **__: path.write_text("{}"))
    run._complete(SimpleNamespace(output=made, product=SimpleNamespace(kind="Zarr")), Reporter(io.StringIO()))  # type: ignore[arg-type]
    assert place.read_text() == "{}"
    assert place.stat().st_mode & 0o044 == 0o044


# --- keys of object stores -------------------------------------------------------------------------------------------


@pytest.fixture
def listed(made: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Give an output of an object store that lists what a test says, and has bytes for whatever is asked for."""
    memory = fsspec.filesystem("memory")
    memory.put(str(made), "/bucket/made.zarr", recursive=True)
    ls, cat = MemoryFileSystem.ls, MemoryFileSystem.cat_file

    def output(*keys: str, kind: str = "file") -> Any:
        def found(self: Any, path: str, detail: bool = True, **options: Any) -> Any:
            entries = ls(self, path, detail=True)
            if path.rstrip("/").endswith("made.zarr"):
                entries += [{"name": f"/bucket/made.zarr/{key}", "size": 5, "type": kind} for key in keys]
            return entries

        def read(self: Any, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
            return bytes(cat(self, path, start, end)) if self.exists(path) else b"#evil"[start:end]

        monkeypatch.setattr(MemoryFileSystem, "ls", found)
        monkeypatch.setattr(MemoryFileSystem, "cat_file", read)
        return job("memory://bucket/made.zarr")

    yield output
    monkeypatch.undo()
    memory.rm("/bucket", recursive=True)


@pytest.mark.parametrize(
    "key",
    ["../../home/.bashrc", "b02/../../../home/.bashrc", "b02/./x", "b02//x", "b02/x\0", "b02/x\n", "b02/\ud800",
     "b02/" + "x" * 300, "b02\\..\\x", "/etc/x", "..", "x/" * 3000 + "y"],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_key_that_leaves_the_folder(
    key: str, kind: str, listed: Callable[..., Any], home: Path, shared: Path
) -> None:
    with pytest.raises(ProductBroken) as caught:
        download(listed(key, kind=kind), shared / "got.zarr", progress=False)
    assert str(caught.value.given).isprintable()
    assert contents(shared) == {}, "not a byte was written"


@pytest.mark.parametrize("size", [None, -1, "5"])
def test_a_size_that_is_none(
    size: object, listed: Callable[..., Any], shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = listed()
    monkeypatch.setattr(
        MemoryFileSystem, "ls", lambda *_, **__: [{"name": "/bucket/made.zarr/x", "size": size, "type": "file"}]
    )
    with pytest.raises(DownloadBroken):
        download(output, shared / "got.zarr", progress=False)
    assert contents(shared) == {}


def test_a_listing_of_another_place(listed: Callable[..., Any], shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = listed()
    monkeypatch.setattr(
        MemoryFileSystem, "ls", lambda *_, **__: [{"name": "/bucket/other.zarr/x", "size": 1, "type": "file"}]
    )
    with pytest.raises(ProductBroken):
        download(output, shared / "got.zarr", progress=False)
    assert contents(shared) == {}


@pytest.mark.parametrize(
    ("keys", "folded", "refused"),
    [
        (("x", "x/y"), False, True),
        (("x/y/z", "x"), False, True),
        (("B02/c/0/0",), True, True),
        (("B02/c/0/0",), False, False),
        (("caf\u00e9", "cafe\u0301"), True, True),
        (("x", "x2", "x-/y"), True, False),
    ],
)
def test_keys_that_cannot_all_be_files(
    keys: tuple[str, ...],
    folded: bool,
    refused: bool,
    listed: Callable[..., Any],
    shared: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(downloads, "folds", lambda _: folded)
    # That they arrive is enough here: they are no chunks of an array.
    monkeypatch.setattr(downloads, "_check_chunks", lambda _: None)
    with pytest.raises(ProductBroken) if refused else nullcontext():
        download(listed(*keys), shared / "got.zarr", progress=False)
    assert set(contents(shared)) & {f"got.zarr/{key}" for key in keys} == (
        set() if refused else {f"got.zarr/{key}" for key in keys}
    )
    assert refused == (contents(shared) == {})

"""The output's name: nothing half-written ever carries it, and nothing else is ever touched."""

from __future__ import annotations

import fcntl
import io
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.server import ProductServer
from geozarr_runner.errors import InvalidRequest, OutputBusy, OutputExists, StorageDenied, StorageFailed
from geozarr_runner.events import Reporter
from geozarr_runner.planning.preflight import preflight
from geozarr_runner.publishing import local as module
from geozarr_runner.publishing.local import (
    Workspace,
    check_replaceable,
    discard_leftovers,
    is_store,
    output_path,
    publish,
    retired,
    workspace,
)
from geozarr_runner.publishing.root_document import (
    PROVENANCE,
    consolidate,
    provenance,
    record_provenance,
    remove_groups,
)
from geozarr_runner.spec.request import Request
from geozarr_runner.stores.access.failures import storage_errors
from runner.tests.support import write_store

ROOT = {"zarr_format": 3, "node_type": "group", "attributes": {}}


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out.zarr"


@pytest.fixture(params=["swapped", "renamed twice"])
def exchange(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How an old output is replaced: at once, or as on systems that cannot."""
    if request.param == "renamed twice":
        monkeypatch.setattr(module.sys, "platform", "other")
    return str(request.param)


def fill(space: Workspace, text: str) -> None:
    write_store(space.writing, {"zarr.json": ROOT, "what": text.encode()})


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def test_an_output_appears_when_it_is_published(output: Path) -> None:
    with workspace(output) as space:
        fill(space, "new")
        assert not output.exists()
        publish(space, overwrite=False)
        assert (output / "what").read_text() == "new"
    assert names(output.parent) == {"out.zarr"}


def test_an_old_output_is_replaced(output: Path, exchange: str) -> None:
    write_store(output, {"zarr.json": ROOT, "what": b"old", "more": b"old"})
    with workspace(output) as space:
        fill(space, exchange)
        assert (output / "what").read_text() == "old"
        publish(space, overwrite=True)
    assert (output / "what").read_text() == exchange
    assert not (output / "more").exists()
    assert names(output.parent) == {"out.zarr"}


def test_a_run_killed_between_two_renames(output: Path) -> None:
    """The old output comes back; the new one was not given its name, and goes."""
    write_store(retired(output), {"zarr.json": ROOT, "what": b"old"})
    write_store(output.with_name(".out.zarr.partial"), {"output.zarr/what": b"new"})
    assert discard_leftovers(output)
    assert (output / "what").read_text() == "old"
    assert names(output.parent) == {"out.zarr"}


def test_a_run_killed_after_both_renames(output: Path) -> None:
    write_store(retired(output), {"zarr.json": ROOT, "what": b"old"})
    write_store(output, {"zarr.json": ROOT, "what": b"new"})
    with workspace(output):
        assert (output / "what").read_text() == "new"
    assert names(output.parent) == {"out.zarr"}


def test_killed_in_the_very_moment(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.sys, "platform", "other")
    write_store(output, {"zarr.json": ROOT, "what": b"old"})
    rename = Path.rename

    class Killed(BaseException):
        pass

    def once(source: Path, target: Path) -> Path:
        if target == output:
            raise Killed
        return rename(source, target)

    with workspace(output) as space:
        fill(space, "new")
        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", once)
            with pytest.raises(Killed):
                publish(space, overwrite=True)
    assert names(output.parent) == {".out.zarr.old"}
    assert discard_leftovers(output)
    assert (output / "what").read_text() == "old"


@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_is_no_store_is_never_replaced(kind: str, overwrite: bool, output: Path) -> None:
    """Not even when it appears while a run is going."""
    with workspace(output) as space:
        fill(space, "new")
        if kind == "file":
            output.write_text("mine")
        elif kind == "folder":
            write_store(output, {"thesis.tex": b"mine"})
        else:
            output.symlink_to("elsewhere")
        with pytest.raises(OutputExists):
            publish(space, overwrite=overwrite)
    assert names(output.parent) == {"out.zarr"}
    assert output.is_symlink() or (output if kind == "file" else output / "thesis.tex").read_text() == "mine"


def test_a_store_that_appeared_meanwhile_is_kept(output: Path) -> None:
    with workspace(output) as space:
        fill(space, "new")
        write_store(output, {"zarr.json": ROOT, "what": b"other"})
        with pytest.raises(OutputExists, match="while the run was going"):
            publish(space, overwrite=False)
    assert (output / "what").read_text() == "other"


def test_an_error_leaves_nothing(output: Path, tmp_path: Path) -> None:
    def run() -> None:
        with workspace(output, tmp_path / "scratch") as space:
            fill(space, "new")
            assert space.staged.parent.is_dir()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        run()
    assert names(tmp_path) == {"scratch"}
    assert names(tmp_path / "scratch") == set()


def test_leftovers_of_a_killed_run_are_removed(output: Path, tmp_path: Path) -> None:
    write_store(output.with_name(".out.zarr.partial"), {"output.zarr/zarr.json": ROOT})
    output.with_name(".out.zarr.lock").touch()
    write_store(output.with_name("neighbour.zarr"), {"zarr.json": ROOT})
    with workspace(output) as space:
        assert names(space.folder) == set()
    assert names(tmp_path) == {"neighbour.zarr"}


def test_leftovers_in_a_scratch_folder_are_removed(output: Path, tmp_path: Path) -> None:
    with workspace(output, tmp_path / "scratch") as space:
        place = space.scratch
    write_store(place, {"a.zarr/.zgroup": {}, "b.zarr/.zgroup": {}, "input-0.zarr/.zgroup": {}})
    with workspace(output, tmp_path / "scratch", staging="b") as space:
        assert names(space.scratch) == {"b.zarr"}, "what was fetched for the same input is kept"
        assert space.staged == space.scratch / "b.zarr"
    assert names(tmp_path / "scratch") == set()


def test_leftovers_in_a_scratch_folder_can_be_discarded_without_a_run(output: Path, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    with workspace(output, scratch) as space:
        place = space.scratch
    write_store(place, {"input.zarr/.zgroup": {}})
    assert discard_leftovers(output)
    assert place.exists()
    assert discard_leftovers(output, scratch)
    assert names(scratch) == set()


@pytest.mark.parametrize("output", [7, b"out.zarr", None])
def test_an_output_that_is_no_path_is_refused(output: Any) -> None:
    with pytest.raises(InvalidRequest, match="given as a path"):
        output_path(output)


@pytest.fixture
def held(output: Path) -> Iterator[None]:
    """Hold the output's lock as another process would."""
    with output.with_name(".out.zarr.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.mark.usefixtures("held")
def test_another_run_is_not_disturbed(output: Path) -> None:
    write_store(output.with_name(".out.zarr.partial"), {"output.zarr/zarr.json": ROOT})
    with pytest.raises(OutputBusy) as caught, workspace(output):
        pass
    assert caught.value.given == output
    assert caught.value.retryable
    assert not discard_leftovers(output)
    assert names(output.parent) == {".out.zarr.partial", ".out.zarr.lock"}


def test_a_volume_without_locks(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(module.fcntl, "flock", unsupported)
    with workspace(output) as space:
        fill(space, "new")
        publish(space, overwrite=False)
    assert names(output.parent) == {"out.zarr"}


def test_discarding_where_nothing_is(output: Path) -> None:
    assert discard_leftovers(output)
    assert discard_leftovers(output.parent / "absent" / "out.zarr")
    assert names(output.parent) == set()


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StorageFailed) as caught, workspace(tmp_path / "file" / "out.zarr"):
        pass
    assert caught.value.remedy


@pytest.mark.parametrize("text", ["", " ", "s3://bucket/out.zarr", "https://host/out.zarr", "/", "~"])
def test_what_cannot_be_an_output(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        output_path(text)
    assert caught.value.given == text
    assert caught.value.remedy


def test_an_output_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert output_path("a/../out.zarr") == tmp_path / "out.zarr"
    assert output_path(f"file://{tmp_path}/out.zarr") == tmp_path / "out.zarr"
    assert output_path("~/out.zarr") == Path.home() / "out.zarr"


# --- the store's own metadata ----------------------------------------------------------------------------------------


def test_the_record_is_kept_beside_other_attributes(output: Path) -> None:
    write_store(output, {"zarr.json": ROOT | {"attributes": {"title": "mine"}}})
    assert provenance(output) is None
    record_provenance(output, {"schema": 1})
    assert provenance(output) == {"schema": 1}
    assert json.loads((output / "zarr.json").read_bytes())["attributes"]["title"] == "mine"
    assert names(output) == {"zarr.json"}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"attributes": null}', f'{{"attributes": {{"{PROVENANCE}": 1}}}}']
)
def test_an_output_without_a_record(text: str, output: Path) -> None:
    write_store(output, {"zarr.json": text.encode()})
    assert provenance(output) is None


def test_groups_are_taken_out_with_parents_that_hold_nothing_else(output: Path) -> None:
    paths = ["a", "a/b", "a/b/c", "d", "d/e", "d/f"]
    inner = dict.fromkeys(paths, ROOT)
    write_store(output, {f"{path}/zarr.json": ROOT for path in paths})
    write_store(output, {"zarr.json": ROOT | {"consolidated_metadata": {"metadata": inner}}})
    remove_groups(output, {"/a/b/c", "/d/e"})
    assert {path.parent.relative_to(output).as_posix() for path in output.rglob("zarr.json")} == {".", "d", "d/f"}
    root = json.loads((output / "zarr.json").read_bytes())
    assert set(root["consolidated_metadata"]["metadata"]) == {"d", "d/f"}


def test_what_is_no_store_is_not_mended(output: Path) -> None:
    consolidate(output)
    remove_groups(output, {"/a"})
    assert not output.exists()
    assert not is_store(output)
    write_store(output, {"zarr.json": b"{"})
    consolidate(output)
    remove_groups(output, {"/a"})
    assert (output / "zarr.json").read_bytes() == b"{"
    assert os.listdir(output) == ["zarr.json"]  # noqa: PTH208


@pytest.mark.parametrize(
    ("before", "after", "readable"), [("", "", True), ("me:s3cret@", "", False), ("", "?s=1", False)]
)
def test_the_converter_is_never_given_a_secret(
    output: Path, terrain: Path, before: str, after: str, readable: bool
) -> None:
    """Its command line can be seen by everyone: such a product is never read in place."""
    with ProductServer(terrain.parent) as server:
        address = server.url.replace("://", f"://{before}") + f"/{terrain.name}{after}"
        plan = preflight(Request.of(address, output), Reporter(io.StringIO()))
        assert (plan.readable, plan.narrowed) == (readable, True)


def test_preflight_sees_the_old_output_again(output: Path, terrain: Path) -> None:
    """A run killed between its two renames is no reason to convert once more, nor to fail at the end."""
    write_store(retired(output), {"zarr.json": ROOT})
    with pytest.raises(OutputExists, match="the output exists") as caught:
        preflight(Request.of(terrain, output), Reporter(io.StringIO()))
    assert 'if_exists="overwrite"' in caught.value.remedy
    assert names(output.parent) == {"out.zarr"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
def test_an_old_output_on_a_read_only_volume_is_not_blamed_on_the_account(tmp_path: Path) -> None:
    output = tmp_path / "volume" / "out.zarr"
    output.mkdir(parents=True)
    mount = ("mount", "--bind", str(output.parent), str(output.parent))
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("this container may not mount")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(output.parent)], check=True)
        with pytest.raises(StorageDenied, match="mounted read-only") as caught, storage_errors(output):
            check_replaceable(output)
        assert "another file system" in caught.value.remedy
    finally:
        subprocess.run(["umount", str(output.parent)], check=True)

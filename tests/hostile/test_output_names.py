"""Names that a person gives to an output: all that lies beside it can have one, or it is refused beforehand."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

import geozarr_nb as gz
from geozarr_nb.backends.local.backend import LocalBackend
from geozarr_nb.backends.local.state_folder import StateFolder
from geozarr_runner.errors import InvalidRequest
from geozarr_runner.events import Reporter
from geozarr_runner.planning.preflight import preflight
from geozarr_runner.publishing.archive import pack
from geozarr_runner.publishing.local import output_path, publish, workspace
from geozarr_runner.spec.request import Request
from runner.tests.support import write_store, write_terrain

REFUSED = [
    "\ud800.zarr",
    "n" * 246,
    "é" * 123,
    "d" * 256 + "/out.zarr",
    "d/" * 2100 + "out.zarr",
    ".other.zarr.partial/out.zarr",
    ".other.zarr.partial",
    ".other.zarr.lock",
    "x/.other.zarr.old/a/out.zarr",
]


@pytest.mark.parametrize("name", REFUSED)
def test_a_name_that_cannot_be_one(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="cannot have this name"):
        output_path(f"{tmp_path}/{name}")


def test_a_nul_is_in_no_path(tmp_path: Path) -> None:
    for call in (gz.open, gz.inspect, gz.preview, output_path):
        with pytest.raises(InvalidRequest, match="NUL"):
            call(f"{tmp_path}/a\0b.zarr")


@pytest.mark.parametrize("name", ["-rf", "a\nb.zarr", "a b'\"`$HOME.zarr", "e\u0301.zarr", "\udc80.zarr", "n" * 241])
def test_a_name_that_can_be_one_is_one_for_all_files(name: str, tmp_path: Path) -> None:
    write_terrain(tmp_path / "p.zarr")
    asked = Request.of(tmp_path / "p.zarr", str(tmp_path / "out" / name), archive=True)
    plan = preflight(asked, Reporter(io.StringIO()))
    with workspace(output_path(str(plan.output))) as space:
        write_store(space.writing, {"zarr.json": {"zarr_format": 3, "node_type": "group"}})
        space.item.write_text("{}")
        publish(space, overwrite=False)
        made = pack(space, lambda *_: None)
    beside = ("", ".stac.json", ".tar.gz", ".tar.gz.sha256")
    assert sorted(os.listdir(tmp_path / "out")) == sorted(name + end for end in beside)  # noqa: PTH208
    said = (tmp_path / "out" / f"{name}.tar.gz.sha256").read_bytes()
    assert said == made.sha256.encode() + b"  " + os.fsencode(f"{name}.tar.gz\n")


def test_a_name_that_is_too_long_for_an_archive_is_told_before_it_is_made(tmp_path: Path) -> None:
    write_terrain(tmp_path / "p.zarr")
    reporter = Reporter(io.StringIO())
    asked = Request.of(tmp_path / "p.zarr", tmp_path / ("n" * 242))
    assert not preflight(asked, reporter).done
    with pytest.raises(InvalidRequest, match="too long for its archive"):
        preflight(Request.of(asked.source, asked.output, archive=True), reporter)


def test_a_job_of_an_earlier_version_is_in_nobodys_way(tmp_path: Path) -> None:
    """One whose output could not be named today: nothing is left over there, and other jobs are listed."""
    state = StateFolder(tmp_path / "state")
    state.create()
    backend = LocalBackend(state.root)
    output = str(tmp_path / ".x.partial" / "out.zarr")
    backend._dispatch.leave_over(
        Request(source="/p.zarr", shown="/p.zarr", product="a", output=output, identity="1" * 64)
    )
    assert backend.list() == []

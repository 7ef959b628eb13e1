"""Outputs of the real converter, made once for all tests of a session."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import pytest
import s3fs
import zarr

from geozarr_nb.samples.products import sample_product
from geozarr_runner.stores.tree_store import TreeStore
from tests.products import made_once
from tests.s3_server import s3_server
from tests.unit.api_server import ApiServer

type Options = dict[str, Any]

CONVERTER = Path(sysconfig.get_path("scripts")) / "eopf-geozarr"
REFLECTANCE = "measurements/reflectance"


@dataclass(frozen=True)
class Outputs:
    """What the converter made of small samples.

    Attributes
    ----------
    product
        The Sentinel-2 sample, 480 pixels at 10 m.
    chosen
        Its r10m and r60m as chosen groups: overviews below the native arrays, three of r10m, none of r60m.
    whole
        All of it: r10m to r720m side by side.
    radar
        Both polarisations of a Sentinel-1 scene, with one overview.
    swath
        A Sentinel-3 OLCI frame: r0, r2, r4 side by side, with two-dimensional coordinates.
    """

    product: Path
    chosen: Path
    whole: Path
    radar: Path
    swath: Path


@pytest.fixture(autouse=True)
def _no_widgets_are_left() -> Iterator[None]:
    """Close what a test that failed has left open: it would go on watching the jobs of the tests after it."""
    yield
    if "ipywidgets" in sys.modules:
        sys.modules["ipywidgets"].Widget.close_all()


@pytest.fixture(scope="session")
def outputs(shared: Path) -> Outputs:
    folder = made_once(shared, "outputs", _convert)
    return Outputs(folder / "s2.zarr", *(folder / f"{name}.zarr" for name in ("chosen", "whole", "radar", "swath")))


def _convert(folder: Path) -> None:
    folder.mkdir()
    product = sample_product(folder / "s2.zarr", 480)
    narrowed = _narrowed(product, folder / "narrowed.zarr", ("r10m", "r60m"))
    radar = sample_product(folder / "s1.zarr", 400, kind="s1-grd")
    swath = sample_product(folder / "s3.zarr", 240, kind="s3-olci")
    chosen_groups = [f"/{REFLECTANCE}/{name}" for name in ("r10m", "r60m")]
    generic = ["--no-s2-optimized", "--no-s3-olci-optimized"]
    made = Outputs(product, *(folder / f"{name}.zarr" for name in ("chosen", "whole", "radar", "swath")))
    runs = [
        _start(narrowed, made.chosen, "--min-dimension", "60", "--groups", *chosen_groups, *generic),
        _start(product, made.whole),
        _start(
            radar, made.radar, "--min-dimension", "100", "--groups", "/measurements", "--gcp-group", "conditions/gcp"
        ),
        _start(swath, made.swath, "--min-dimension", "50"),
    ]
    for run in runs:
        output, _ = run.communicate()
        assert run.returncode == 0, output[-2000:]


def _start(*arguments: str | Path) -> subprocess.Popen[str]:
    command = [str(CONVERTER), "convert", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _narrowed(product: Path, view: Path, names: tuple[str, ...]) -> Path:
    """Copy only these reflectance groups, as the converter copies all other groups of its input as well."""

    for folder in (".", "measurements", REFLECTANCE):
        (view / folder).mkdir(parents=True, exist_ok=True)
        for document in (".zgroup", ".zattrs"):
            if (product / folder / document).exists():
                shutil.copy(product / folder / document, view / folder / document)
    for name in names:
        shutil.copytree(product / REFLECTANCE / name, view / REFLECTANCE / name)
    zarr.consolidate_metadata(str(view), zarr_format=2)
    return view


@pytest.fixture(scope="session")
def s3_options() -> Iterator[Options]:
    """With these fsspec reaches an S3-compatible server; its buckets are shared by the session."""
    with s3_server() as options:
        yield options


@pytest.fixture
def bucket(s3_options: Options, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a bucket of the test's own, which this process and others find."""
    name = f"b{hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:20]}"
    s3fs.S3FileSystem(**s3_options).mkdir(name)
    monkeypatch.setitem(fsspec.config.conf, "s3", s3_options)
    monkeypatch.setenv("FSSPEC_S3", json.dumps(s3_options))
    return f"s3://{name}"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The key of every object that zarr reads of a store on this machine, as it is read."""
    keys: list[str] = []
    part = TreeStore._part

    def spy(self: TreeStore, *arguments: Any) -> Any:
        keys.append(arguments[0])
        return part(self, *arguments)

    monkeypatch.setattr(TreeStore, "_part", spy)
    return keys


@pytest.fixture
def server() -> Iterator[ApiServer]:
    """Give an API server that answers as a test says."""
    with ApiServer().running() as running:
        yield running

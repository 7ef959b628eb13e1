"""Sample products, made once, and one good output that many tests look at."""

from __future__ import annotations

import json
import shutil
import socket
import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks.server import ProductServer
from runner.tests.support import R10M, Run, drop_top_group, run, write_terrain
from tests import replaying_converter
from tests.products import made_once, sample


@pytest.fixture(scope="session")
def products(shared: Path) -> Path:
    """The folder that holds the sample products; nobody writes there."""
    return shared / "products"


@pytest.fixture(scope="session")
def s2(products: Path) -> Path:
    return sample(products, "s2.zarr", 540, "s2-l2a")


@pytest.fixture(scope="session")
def s1(products: Path) -> Path:
    return sample(products, "s1.zarr", 300, "s1-grd")


@pytest.fixture(scope="session")
def s1_single(s1: Path, products: Path) -> Path:
    """A product with one polarisation, as single-polarisation acquisitions are."""

    def make(path: Path) -> None:
        single = Path(shutil.copytree(s1, path))
        [vh] = single.glob("*_VH")
        drop_top_group(single, vh.name)

    return made_once(products, "s1-single.zarr", make)


@pytest.fixture(scope="session")
def s3(products: Path) -> Path:
    return sample(products, "s3.zarr", 240, "s3-olci")


@pytest.fixture(scope="session")
def terrain(products: Path) -> Path:
    return made_once(products, "terrain.zarr", write_terrain)


@pytest.fixture(scope="session")
def sharded(products: Path) -> Path:
    return made_once(products, "sharded.zarr", lambda path: write_terrain(path, sharded=True))


@pytest.fixture(scope="session")
def texts(products: Path) -> Path:
    return made_once(products, "texts.zarr", lambda path: write_terrain(path, zarr_format=2, text=True))


@pytest.fixture(scope="session")
def good(s2: Path, shared: Path) -> Run:
    """A successful run for one group; nobody changes its output."""

    def make(folder: Path) -> None:
        (folder / "beside").mkdir(parents=True)
        done = run(s2, folder / "beside" / "out.zarr", "--groups", R10M, "--identity", "request-1")
        (folder / "run.json").write_text(json.dumps(asdict(done), default=str))

    told = json.loads((made_once(shared, "good", make) / "run.json").read_text())
    return Run(told["code"], told["stdout"], told["stderr"], Path(told["output"]))


@pytest.fixture
def server(products: Path, s2: Path) -> Iterator[ProductServer]:
    with ProductServer(products) as running:
        yield running


@pytest.fixture
def unused_url() -> Iterator[str]:
    """An address of this machine at which nobody listens, nor can as long as the test needs it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def fake_converter(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, str]]:
    """Install a converter that runs a script with `source` and `out`; returns what to set in the environment."""

    def install(script: str) -> dict[str, str]:
        head = "import pathlib, shutil, sys, time, os, signal\nsource, out = sys.argv[2], pathlib.Path(sys.argv[3])\n"
        return _installed(tmp_path_factory.mktemp("converter"), f"#!{sys.executable}\n{head}{script}\n")

    return install


@pytest.fixture(scope="session")
def replaying(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What to set in the environment for a run that needs an output and not its making; see `replaying_converter`."""
    kept = shared / "replayed"
    kept.mkdir(exist_ok=True)
    converter = Path(sysconfig.get_path("scripts")) / "eopf-geozarr"
    call = f"{sys.executable} -I -S {replaying_converter.__file__} {kept} {converter}"
    return _installed(tmp_path_factory.mktemp("replaying"), f'#!/bin/sh\nexec {call} "$@"\n')


def _installed(folder: Path, script: str) -> dict[str, str]:
    command = folder / "eopf-geozarr"
    command.write_text(script)
    command.chmod(0o755)
    # The runner prefers the command beside its Python: show it one that has none.
    (folder / "sitecustomize.py").write_text(
        "import sysconfig\n"
        "real = sysconfig.get_path\n"
        f"sysconfig.get_path = lambda name, *rest, **more: {str(folder)!r} "
        "if name == 'scripts' else real(name, *rest, **more)\n"
    )
    return {"PYTHONPATH": str(folder)}

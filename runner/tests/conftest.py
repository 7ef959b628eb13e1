"""Sample products, made once, and one good output that many tests look at."""

from __future__ import annotations

import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.server import ProductServer
from geozarr_nb.sample import sample_product
from runner.tests.support import R10M, Run, drop_top_group, run, write_terrain


@pytest.fixture(scope="session")
def products(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that holds the sample products; nobody writes there."""
    return tmp_path_factory.mktemp("products")


@pytest.fixture(scope="session")
def s2(products: Path) -> Path:
    return sample_product(products / "s2.zarr", 540, "s2-l2a")


@pytest.fixture(scope="session")
def s1(products: Path) -> Path:
    return sample_product(products / "s1.zarr", 300, "s1-grd")


@pytest.fixture(scope="session")
def s1_single(s1: Path) -> Path:
    """A product with one polarisation, as single-polarisation acquisitions are."""
    single = Path(shutil.copytree(s1, s1.with_name("s1-single.zarr")))
    [vh] = single.glob("*_VH")
    drop_top_group(single, vh.name)
    return single


@pytest.fixture(scope="session")
def s3(products: Path) -> Path:
    return sample_product(products / "s3.zarr", 240, "s3-olci")


@pytest.fixture(scope="session")
def terrain(products: Path) -> Path:
    return write_terrain(products / "terrain.zarr")


@pytest.fixture(scope="session")
def sharded(products: Path) -> Path:
    return write_terrain(products / "sharded.zarr", sharded=True)


@pytest.fixture(scope="session")
def texts(products: Path) -> Path:
    return write_terrain(products / "texts.zarr", zarr_format=2, text=True)


@pytest.fixture(scope="session")
def good(s2: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A successful run for one group; nobody changes its output."""
    return run(s2, tmp_path_factory.mktemp("good") / "out.zarr", "--groups", R10M, "--identity", "request-1")


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
        folder = tmp_path_factory.mktemp("converter")
        command = folder / "eopf-geozarr"
        head = "import pathlib, shutil, sys, time, os, signal\nsource, out = sys.argv[2], pathlib.Path(sys.argv[3])\n"
        command.write_text(f"#!{sys.executable}\n{head}{script}\n")
        command.chmod(0o755)
        # The runner prefers the command beside its Python: show it one that has none.
        (folder / "sitecustomize.py").write_text(
            "import sysconfig\n"
            "real = sysconfig.get_path\n"
            f"sysconfig.get_path = lambda name, *rest, **more: {str(folder)!r} "
            "if name == 'scripts' else real(name, *rest, **more)\n"
        )
        return {"PYTHONPATH": str(folder)}

    return install

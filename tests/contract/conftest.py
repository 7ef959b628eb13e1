"""A small product, and each backend in turn; the converter is the real one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import geozarr_nb as gz
from geozarr_nb.job import Job
from tests.contract.support import GROUP, Place

BACKENDS = ["local"]


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Sentinel-2 product of 360 pixels."""
    return str(gz.sample_product(tmp_path_factory.mktemp("product") / "S2A_SAMPLE.zarr", size=360))


@pytest.fixture(scope="session", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Name of the backend under test."""
    return str(request.param)


@pytest.fixture
def place(backend: str, sample: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A backend without any jobs; those that a test leaves are ended."""
    environ = {"GEOZARR_STATE_DIR": str(tmp_path / "state"), "GEOZARR_BACKEND": backend}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    yield Place(backend, tmp_path / "out", sample, {**os.environ})
    gz.list_jobs().cancel()


@pytest.fixture(scope="session")
def converted(backend: str, sample: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    """A job that has succeeded; tests only look at it."""
    folder = tmp_path_factory.mktemp("converted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GEOZARR_STATE_DIR", str(folder / "state"))
        yield gz.convert(sample, folder / "out.zarr", groups=[GROUP], backend=backend, progress=False)

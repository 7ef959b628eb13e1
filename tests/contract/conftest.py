"""Each backend in turn; the converter is the real one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import geozarr_nb as gz
from geozarr_nb.jobs.job import Job
from tests.cluster.support import fresh_namespace
from tests.contract.support import GROUP, Place
from tests.places import empty, make_place

BACKENDS = ["local", pytest.param("argo", marks=pytest.mark.cluster)]


@pytest.fixture(scope="session", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Name of the backend under test."""
    return str(request.param)


@pytest.fixture
def place(
    request: pytest.FixtureRequest, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Place]:
    """A backend without any jobs; those that a test leaves are ended."""
    made = make_place(request, backend, tmp_path, None)
    for name, value in made.settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    yield made
    empty(made)


@pytest.fixture(scope="session")
def home(request: pytest.FixtureRequest, backend: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Where `converted` is, and no other job."""
    scratch = tmp_path_factory.mktemp("home")
    if backend == "local":
        yield make_place(request, backend, scratch, None)
        return
    with fresh_namespace() as namespace:
        yield make_place(request, backend, scratch, namespace)


@pytest.fixture(scope="session")
def converted(home: Place) -> Job:
    """A job that has succeeded; tests only look at it."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in home.settings.items():
            patch.setenv(name, value)
        return gz.convert(home.sample, home.output("out"), groups=[GROUP], backend=home.backend, progress=False)


@pytest.fixture
def at_home(home: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    """`home`, with the settings that lead there."""
    for name, value in home.settings.items():
        monkeypatch.setenv(name, value)
    return home

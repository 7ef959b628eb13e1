"""A place on the cluster, and means to break the cluster."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.support import Breaker, ClusterPlace
from tests.places import place_on_cluster


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ClusterPlace]:
    """A namespace without any jobs; those that a test leaves are ended."""
    with place_on_cluster(request, tmp_path, None, monkeypatch) as made:
        monkeypatch.chdir(tmp_path)
        yield made
        for name, value in made.settings.items():  # whatever the test has set
            monkeypatch.setenv(name, value)


@pytest.fixture
def breaker() -> Iterator[Breaker]:
    """Kills components of the cluster; at the end all of them are up again."""
    found = Breaker.found()
    if found is None:
        pytest.skip("nothing says how to kill parts of the cluster: GEOZARR_CLUSTER_KILL, GEOZARR_CLUSTER_UP")
    yield found
    found.up()

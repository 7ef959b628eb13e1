"""A small product, and a cluster: made when the first test wants them."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

import geozarr_nb as gz
from benchmarks.server import ProductServer
from tests.cluster.support import Namespace, fresh_namespace, missing_cluster, must_run, node_address


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Pass over what needs a cluster where there is none."""
    if item.get_closest_marker("cluster") and (reason := missing_cluster()):
        pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let a test that was passed over fail where somebody counts on it: GEOZARR_TEST_CLUSTER=1."""
    report = yield
    if report.skipped and item.get_closest_marker("cluster") and must_run():
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"GEOZARR_TEST_CLUSTER=1 says that this can run, but: {reason}"
    return report


@pytest.fixture(scope="session")
def namespace() -> Iterator[Namespace]:
    """A namespace of the cluster with template, roles and claim; gone at the end."""
    with fresh_namespace() as made:
        yield made


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Sentinel-2 product of 360 pixels."""
    return Path(gz.sample_product(tmp_path_factory.mktemp("product") / "S2A_SAMPLE.zarr", size=360))


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that pods can read over HTTP: that of all temporary folders of this session."""
    return tmp_path_factory.getbasetemp()


@pytest.fixture(scope="session")
def product_server(served: Path) -> Iterator[ProductServer]:
    """Serves `served` to pods, and to this machine."""
    with ProductServer(served, host=node_address()) as server:
        yield server

"""A small product, and a cluster: made when the first test wants them."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from benchmarks.server import ProductServer
from geozarr_nb.backends.argo import attempts
from geozarr_nb.backends.argo.backend import ArgoBackend
from geozarr_nb.settings import Settings
from tests import products
from tests.cluster.support import Namespace, fresh_namespace, missing_cluster, node_address
from tests.unit.memory_cluster import MemoryCluster

INSTALLS_KERNELS = "make jupyter"


def pytest_sessionstart() -> None:
    """Let Ctrl-C reach what tests start: a shell has its background jobs ignore it, and children inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Pass over what needs a cluster where there is none."""
    if item.get_closest_marker("cluster") and (reason := missing_cluster()):
        pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let a test that was passed over fail where somebody counts on it."""
    report = yield
    if item.get_closest_marker("cluster"):
        return _counted_on(report, "GEOZARR_TEST_CLUSTER")
    is_notebook = item.get_closest_marker("tutorial") or item.get_closest_marker("browser")
    return _counted_on(report, "GEOZARR_TEST_BROWSER") if is_notebook else report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Let a module that is passed over as a whole fail too, where it needs a notebook's kernel."""
    report = yield
    is_notebook = isinstance(collector, pytest.Module) and INSTALLS_KERNELS in str(report.longrepr)
    return _counted_on(report, "GEOZARR_TEST_BROWSER") if is_notebook else report


def _counted_on[R: (pytest.TestReport, pytest.CollectReport)](report: R, variable: str) -> R:
    """Return a report as a failure where it tells of what was passed over, though the variable says it can run."""
    if report.skipped and os.environ.get(variable) == "1":
        reason = report.longrepr[2].removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{variable}=1 says that this can run, but: {reason}"
    return report


@pytest.fixture(scope="session")
def namespace() -> Iterator[Namespace]:
    """A namespace of the cluster with template, roles and claim; gone at the end."""
    with fresh_namespace() as made:
        yield made


@pytest.fixture(scope="session")
def sample(shared: Path) -> Path:
    """A Sentinel-2 product of 360 pixels."""
    return products.sample(shared / "products", "S2A_SAMPLE.zarr", 360, "s2-l2a")


@pytest.fixture(scope="session")
def served(shared: Path) -> Path:
    """The folder that pods can read over HTTP: that of all temporary folders of this run."""
    return shared.parent


@pytest.fixture(scope="session")
def product_server(served: Path) -> Iterator[ProductServer]:
    """Serves `served` to pods, and to this machine."""
    with ProductServer(served, host=node_address()) as server:
        yield server


@pytest.fixture
def cluster() -> Iterator[MemoryCluster]:
    """Give a cluster in memory, without jobs."""
    made = MemoryCluster()
    yield made
    made.end_watches()
    attempts._watch.cache_clear()


@pytest.fixture
def backend(cluster: MemoryCluster) -> ArgoBackend:
    """Give the backend of a cluster in memory."""
    return ArgoBackend(cluster, Settings())  # type: ignore[arg-type]

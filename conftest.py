"""What the tests of both distributions begin with: nothing that the person who runs them has set for themselves."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.products import changed

# Those with which a person speaks to the tests themselves; `KUBECONFIG` names the cluster that they may use.
OF_TESTS = (
    "GEOZARR_TEST_",
    "GEOZARR_FUZZ_",
    "GEOZARR_CLUSTER_",
    "GEOZARR_IMAGE",
    "GEOZARR_NODE_ADDRESS",
    "GEOZARR_SCREENSHOTS",
)
OF_WHAT_IS_TESTED = ("ARGO_", "AWS_", "AZURE_", "DASK_", "FSSPEC_", "GEOZARR_", "GOOGLE_", "KUBERNETES_", "ZARR_")

for name in [name for name in os.environ if name.startswith(OF_WHAT_IS_TESTED) and not name.startswith(OF_TESTS)]:
    del os.environ[name]
# Files in a home folder say the same as variables do. This comes before fsspec is imported, which then reads its own.
os.environ |= dict.fromkeys(("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "FSSPEC_CONFIG_DIR"), os.devnull)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give the folder of what all processes of this run read, and none changes; see `tests.products`."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    yield folder
    if paths := [*changed(folder), *changed(folder / "products")]:
        pytest.fail(f"a test has changed what others read: {paths}")


@pytest.fixture(autouse=True)
def signal_handlers() -> Iterator[None]:
    """Give back the process's signals, which the runner's `main` takes over."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)

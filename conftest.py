"""What the tests of both distributions begin with: nothing that the person who runs them has set for themselves."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.products import changed

ROOT = Path(__file__).parent
# Where every test has the mark, and fixtures that give it to whoever asks for them.
MARKS = {
    "runner/tests/test_absence.py": "slow",
    "runner/tests/test_archive.py": "slow",
    "runner/tests/test_chunks.py": "converter",
    "runner/tests/test_control_points.py": "slow",
    "runner/tests/test_download.py": "slow",
    "runner/tests/test_encoding.py": "slow",
    "runner/tests/test_product.py": "slow",
    "runner/tests/test_serve.py": "slow",
    "runner/tests/test_upload.py": "slow",
    "tests/contract/": "converter",
    "tests/frozen/test_run.py": "converter",
    "tests/hostile/": "slow",
    "tests/unit/test_api.py": "slow",
    "tests/unit/test_claims.py": "slow",
    "tests/unit/test_contributing.py": "docs",
    "tests/unit/test_docs.py": "docs",
    "tests/unit/test_encoding.py": "slow",
    "tests/unit/test_image.py": "supply",
    "tests/unit/test_last_run.py": "slow",
    "tests/unit/test_login.py": "slow",
    "tests/unit/test_odd_answers.py": "slow",
    "tests/unit/test_odd_workflows.py": "slow",
    "tests/unit/test_release.py": "supply",
    "tests/unit/test_s3.py": "slow",
    "tests/unit/test_sample.py": "slow",
    "tests/unit/test_supply.py": "supply",
    "tests/unit/test_wheel.py": "supply",
    "tests/unit/test_widgets_form.py": "slow",
    "tests/unit/test_widgets_monitor.py": "slow",
    "tests/unit/test_widgets_notebook.py": "slow",
    "tests/unit/test_widgets_picker.py": "slow",
}
CONVERTING = {"good", "outputs"}
# Tests that start a run of the runner, or of the converter, by themselves; `guard` finds those that are not in it.
RUNS = frozenset((ROOT / "tests" / "runs.txt").read_text().split())

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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what `make test-fast` leaves out."""
    for item in items:
        name = item.nodeid.partition("[")[0]
        for path, mark in MARKS.items():
            if name.startswith(path):
                item.add_marker(mark)
        if name in RUNS or CONVERTING & set(getattr(item, "fixturenames", ())):
            item.add_marker("converter")


_started: list[str] = []


def _see(event: str, arguments: tuple[object, ...]) -> None:
    if event != "subprocess.Popen" or not isinstance(arguments[1], (list, tuple)):
        return
    words = [os.fsdecode(word) for word in arguments[1] if isinstance(word, (str, bytes, os.PathLike))]
    command = " ".join(words)
    of_runner = "geozarr_" in command and {"convert", "run"} & set(words)
    if of_runner or "child_launcher.py" in command or "backends.local.worker" in command:
        _started.append(command)


if os.environ.get("GEOZARR_TEST_FAST") == "1":
    sys.addaudithook(_see)


@pytest.fixture(autouse=True)
def guard(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that starts a run and does not have the mark, where those that have it are left out."""
    _started.clear()
    yield
    if _started:
        name = request.node.nodeid.partition("[")[0]
        pytest.fail(f"it starts a run, so that tests/runs.txt has to have the line {name} ({_started[0]})")

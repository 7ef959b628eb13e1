"""A real JupyterLab, a real browser, and the real converter."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from benchmarks.server import ProductServer
from tests.browser.server import JupyterServer

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.browser.lab import Lab

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
SECONDS_A_TEST = 600
NEEDED = ("axe_playwright_python", "playwright", "jupyterlab", "ipywidgets", "notebook", "voila")


def missing_browser() -> str:
    """Return why there is no browser to test in; empty where there is one."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        return f"no front ends: {', '.join(missing)} not installed; make jupyter installs them"
    if not any(map(shutil.which, CHROMIUM)):
        return f"no browser: none of {', '.join(CHROMIUM)} is on PATH"
    return ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests of this folder, and give them time beside other tests."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.browser)
            item.add_marker(pytest.mark.timeout(SECONDS_A_TEST))


class Missing(pytest.Module):
    """A module of tests that cannot run: it is passed over, or fails where somebody counts on it."""

    def collect(self) -> list[pytest.Item]:
        reason = missing_browser()
        if os.environ.get("GEOZARR_TEST_BROWSER") == "1":
            raise self.CollectError(f"GEOZARR_TEST_BROWSER=1 says that this can run, but: {reason}")
        pytest.skip(reason, allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Do not even import what needs a browser where there is none."""
    return Missing.from_parent(parent, path=module_path) if missing_browser() else None


@pytest.fixture(scope="session")
def jupyter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterServer]:
    """A Jupyter server with a folder of its own."""
    with JupyterServer(tmp_path_factory.mktemp("jupyter")) as server:
        yield server


# Not of the whole session: while Playwright is there no other test could start an event loop of its own.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The machine's own chromium."""
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, CHROMIUM)))
    # It has no sandbox for root, whom containers run as.
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=options)
        yield found
        found.close()


@pytest.fixture
def lab(jupyter: JupyterServer, browser: Browser, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A folder for notebooks, with jobs of its own; at the end all that went wrong in its pages is told."""
    from tests.browser.lab import Lab

    found = Lab(jupyter, browser, request.node.name)
    yield found
    found.close()


@pytest.fixture
def product(lab: Lab, sample: Path) -> Path:
    """The sample in the folder of the notebook, under a name that is easily typed."""
    path = lab.folder / "S2.zarr"
    path.symlink_to(sample)
    return path


@pytest.fixture(scope="module")
def far_sample(sample: Path) -> Iterator[tuple[ProductServer, str]]:
    """The sample on a server that can be held, and its address."""
    with ProductServer(sample.parent) as server:
        yield server, f"{server.url}/{sample.name}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was measured."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.getreports(kind)]
    found = [(report.nodeid, *each) for report in reports for each in report.user_properties if report.when == "call"]
    if found:
        terminalreporter.section("measured in the browser")
    for test, name, value in found:
        terminalreporter.line(f"{name}: {value}  ({test.rpartition('::')[2]})")

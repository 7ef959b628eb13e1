"""The tutorials run with the real converter; what runs them is installed by `make jupyter`."""

from __future__ import annotations

import os
from collections.abc import Generator
from importlib.util import find_spec

import pytest

NEEDED = ("nbval", "ipykernel", "ipywidgets", "pystac")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Pass over what needs a kernel where there is none."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if item.get_closest_marker("tutorial") and missing:
        pytest.skip(f"no notebooks: {', '.join(missing)} not installed; make jupyter installs them")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let a tutorial that was passed over fail where somebody counts on it: GEOZARR_TEST_BROWSER=1."""
    report = yield
    wanted = os.environ.get("GEOZARR_TEST_BROWSER") == "1" and item.get_closest_marker("cluster") is None
    if report.skipped and item.get_closest_marker("tutorial") and wanted:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"GEOZARR_TEST_BROWSER=1 says that this can run, but: {reason}"
    return report

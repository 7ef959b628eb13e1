"""The tutorials run with the real converter; what runs them is installed by `make jupyter`."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

NEEDED = ("nbval", "ipykernel", "ipywidgets", "pystac")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Pass over what needs a kernel where there is none."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if item.get_closest_marker("tutorial") and missing:
        pytest.skip(f"no notebooks: {', '.join(missing)} not installed; make jupyter installs them")

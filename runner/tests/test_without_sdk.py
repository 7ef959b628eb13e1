"""The runner is tested without the SDK, which stands on it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def test_no_test_of_the_runner_imports_the_sdk() -> None:
    names = [f"runner.tests.{path.stem}" for path in sorted(HERE.glob("*.py"))]
    assert len(names) > 20
    lines = ("import importlib, sys", *(f"importlib.import_module('{name}')" for name in ("conftest", *names)))
    found = "print([name for name in sys.modules if name.partition('.')[0] == 'geozarr_nb'])"
    done = subprocess.run(
        [sys.executable, "-c", "\n".join((*lines, found))], cwd=HERE.parents[1], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[]\n"

"""The runner is tested without the SDK, which stands on it."""

from __future__ import annotations

import ast
import re
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


SCRIPT = re.compile(r"\bimport\b.*\bgeozarr_nb\b|\bfrom geozarr_nb\b")


def imported(node: ast.AST) -> list[str]:
    """Return the modules that a statement imports, or a call, or a script in a string."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [node.module or ""]
    if isinstance(node, ast.Call) and "import" in ast.unparse(node.func):
        return [one.value for one in node.args if isinstance(one, ast.Constant) and isinstance(one.value, str)]
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and SCRIPT.search(node.value):
        return ["geozarr_nb"]
    return []


def test_nor_does_one_inside_a_function_or_a_script() -> None:
    found = [
        f"{path.name}:{node.lineno}"
        for path in sorted(HERE.glob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if any(name.partition(".")[0] == "geozarr_nb" for name in imported(node))
    ]
    assert found == []

"""Imports point down only: a module may use those below it, and geozarr_runner; nothing in there looks up."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SDK, RUNNER = ROOT / "geozarr_nb", ROOT / "runner" / "geozarr_runner"

# A module may import from its own layer and from every layer after it.
LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"__main__"}),
    frozenset({"cli", "arguments", "documents", "widgets"}),
    frozenset({"doctor", "api"}),
    frozenset({"jobs", "outputs", "samples"}),
    frozenset({"backends"}),
    frozenset({"claims", "cluster"}),
    frozenset({"request"}),
    frozenset({"settings", "ownership", "pods"}),
    frozenset({"errors"}),
)
WIDGETS_MAY_USE = frozenset({"", "api", "errors", "jobs", "outputs", "pods", "request", "settings", "widgets"})
BACKEND_DETAILS = frozenset(
    {
        "argo",
        "local",
        "run_state",
        "worker",
    }
)


def imports(path: Path) -> Iterator[str]:
    """Yield the dotted name of every import that a file may do, those inside functions included.

    What stands under `if TYPE_CHECKING` is never imported: an error may name in an annotation what it is about.
    """
    waiting: list[ast.AST] = [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting += node.orelse
            continue
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            yield node.module
            # `from geozarr_nb.backends import worker` imports a module too.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part(name: str, number: int) -> str:
    return [*name.split("."), "", "", ""][number]


def module_of(path: Path) -> str:
    return path.relative_to(SDK).with_suffix("").parts[0]


def layer_of(module: str) -> int:
    return next(number for number, names in enumerate(LAYERS) if module in names)


SDK_FILES = sorted(path for path in SDK.rglob("*.py") if path != SDK / "__init__.py")


@pytest.mark.parametrize("path", SDK_FILES, ids=lambda path: str(path.relative_to(SDK)))
def test_imports_point_down(path: Path) -> None:
    own = module_of(path)
    assert any(own in names for names in LAYERS), f"{own} has no layer yet: give it one"
    modules = {part(name, 1) for name in imports(path) if part(name, 0) == "geozarr_nb"}
    known = frozenset().union(*LAYERS)
    if own == "widgets":
        assert modules & known <= WIDGETS_MAY_USE
    else:
        wrong = {module for module in modules & known if layer_of(module) < layer_of(own)}
        assert not wrong, f"{own} may not import {wrong}"


@pytest.mark.parametrize("path", SDK_FILES, ids=lambda path: str(path.relative_to(SDK)))
def test_only_backends_know_how_a_backend_works(path: Path) -> None:
    details = {
        part(name, 2) for name in imports(path) if part(name, 0) == "geozarr_nb" and part(name, 1) == "backends"
    } & BACKEND_DETAILS
    assert not details or module_of(path) == "backends"


@pytest.mark.parametrize("path", sorted(RUNNER.rglob("*.py")), ids=lambda path: path.name)
def test_the_runner_never_looks_up(path: Path) -> None:
    assert not {part(name, 0) for name in imports(path)} & {"geozarr_nb", "IPython", "ipywidgets", "kubernetes"}


def test_a_wrong_arrow_is_seen(tmp_path: Path) -> None:
    wrong = tmp_path / "settings.py"
    wrong.write_text("def f():\n    from geozarr_nb.jobs.job import Job\n")
    assert layer_of(next(part(name, 1) for name in imports(wrong))) < layer_of("settings")


def test_the_page_on_architecture_has_modules_in_this_order() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    tables = re.findall(r"^\| module .*?(?=\n\n)", text, flags=re.MULTILINE | re.DOTALL)
    (*rows, _), runner = ([line.split("|")[1:3] for line in table.splitlines()[2:]] for table in tables)
    order = [[layer_of(name) for name in re.findall(r"`(\w+)`", names)] for names, _ in rows]
    assert order == sorted(order)
    named = re.findall(r"`(\w+)`", str(runner))
    assert named
    assert [name for name in named if not ((RUNNER / f"{name}.py").exists() or (RUNNER / name).is_dir())] == []

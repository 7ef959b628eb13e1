"""The recipes of CONTRIBUTING.md are followed, each in a copy of the repository, and come out as they say."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
COPIED = (
    *("geozarr_nb", "runner", "tests", "benchmarks", "docs", "workflows", "scripts"),
    *("params.json", "pyproject.toml", "conftest.py"),
)
RECIPES = ("A kind of product", "A backend", "A check of the doctor")
OFTEN = "A check of the doctor"  # the quickest; the others are the night's
TARGETS = set(" ".join(re.findall(r"^([a-z0-9 -]+):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE)).split())


def blocks(part: str, language: str) -> list[str]:
    """Return the code blocks of a part, in one language."""
    [body] = re.findall(rf"^## {part}\n(.*?)(?=^## |\Z)", TEXT, flags=re.MULTILINE | re.DOTALL)
    return re.findall(rf"^```{language}\n(.*?)^```$", body, flags=re.MULTILINE | re.DOTALL)


def apply(change: str, root: Path) -> None:
    """Make a change: its lines without + have to be in the file, once."""
    header, *lines = change.splitlines(keepends=True)
    path = root / header.removeprefix("--- ").strip()
    before = "".join(line[1:] for line in lines if line[0] != "+")
    after = "".join(line[1:] for line in lines if line[0] != "-")
    if not before:
        assert not path.exists(), f"{path} is there already"
        path.write_text(after)
        return
    # The last line may be the beginning of a longer one.
    before, after = before.rstrip("\n"), after.rstrip("\n")
    text = path.read_text()
    assert text.count(before) == 1, f"{path} has {text.count(before)} times:\n{before}"
    path.write_text(text.replace(before, after))


def commands(part: str) -> Iterator[list[str]]:
    for block in blocks(part, "sh"):
        for line in block.splitlines():
            python, *arguments = shlex.split(line, comments=True)
            assert python == ".venv/bin/python"
            yield [sys.executable, *arguments]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    leave = shutil.ignore_patterns("__pycache__", "data", "artifacts", "_build", ".*_cache")
    for name in COPIED:
        source = ROOT / name
        (shutil.copytree(source, tmp_path / name, ignore=leave) if source.is_dir() else shutil.copy(source, tmp_path))
    return tmp_path


def write_entry_points(root: Path) -> None:
    """Write down the entry points of a copy, as its installation would."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    folder = root / "geozarr_nb-0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: geozarr-nb\nVersion: 0\n")
    lines = []
    for group, entries in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
    (folder / "entry_points.txt").write_text("\n".join(lines))


@pytest.fixture(scope="module")
def types(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What mypy has learned of other packages, for the next recipe."""
    return tmp_path_factory.mktemp("types")


@pytest.mark.parametrize(
    "recipe", [pytest.param(one, marks=() if one == OFTEN else pytest.mark.nightly) for one in RECIPES]
)
def test_a_recipe_is_followed(recipe: str, copy: Path, types: Path) -> None:
    changes = blocks(recipe, "diff")
    assert len(changes) > 1
    for change in changes:
        apply(change, copy)
    write_entry_points(copy)
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "GEOZARR_"))}
    # Before the editable installation, which has the repository itself.
    environ |= {"PYTHONPATH": f"{copy}:{copy / 'runner'}", "PYTHONDONTWRITEBYTECODE": "1"}
    where = "import geozarr_nb, geozarr_runner; print(geozarr_nb.__file__, geozarr_runner.__file__)"
    found = subprocess.run([sys.executable, "-c", where], cwd=copy, env=environ, capture_output=True, text=True)
    assert found.stdout.count(str(copy)) == 2, found
    for command in commands(recipe):
        done = subprocess.run(
            [*command, "-p", "no:cacheprovider"], cwd=copy, env=environ, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
        assert " passed" in done.stdout
        assert "skipped" not in done.stdout
    changed = list(dict.fromkeys(change.partition("\n")[0].removeprefix("--- ") for change in changes))
    changed = [path for path in changed if path.endswith(".py")]
    code = [path for path in changed if "tests/" not in path]
    for tool in (
        ["ruff", "check", *changed],
        ["ruff", "format", "--check", *changed],
        ["mypy", f"--cache-dir={types}", *code],
    ):
        done = subprocess.run([sys.executable, "-m", *tool], cwd=copy, env=environ, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def test_recipes_are_all_there_are() -> None:
    parts = re.findall(r"^## (.*)$", TEXT, flags=re.MULTILINE)
    assert [part for part in parts if blocks(part, "diff")] == list(RECIPES)


def test_the_entry_of_an_option_is_the_one_in_the_code() -> None:
    [entry] = blocks("An option of the converter", "python")
    assert entry in (ROOT / "runner" / "geozarr_runner" / "spec" / "options.py").read_text()


def test_every_target_that_is_named_is_there() -> None:
    named = " ".join(re.findall(r"\bmake ([a-z0-9 -]+)", "\n".join(re.findall(r"`(make [^`]+)`", TEXT))))
    named += " " + " ".join(re.findall(r"^make (\S+)", TEXT, flags=re.MULTILINE))
    assert {"setup", "test", "lint"} <= set(named.split()) <= TARGETS


def test_every_folder_that_is_named_is_there() -> None:
    for path in re.findall(r"`((?:tests|runner|docs|geozarr_nb)/[\w/.]+)`|\]\(([\w/]+\.\w+)\)", TEXT):
        assert (ROOT / "".join(path)).exists(), path

"""What releases consist of, and the workflows that make them; what of them runs only at their host is read here."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(" ".join(re.findall(r"^([a-z0-9 -]+):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE)).split())
EXACT = re.compile(r"@(v\d+\.\d+\.\d+|[0-9a-f]{40})$")


def steps(workflow: Path) -> Iterator[dict[str, Any]]:
    for job in yaml.safe_load(workflow.read_text())["jobs"].values():
        yield from job.get("steps", ())


@pytest.mark.skipif(shutil.which("actionlint") is None, reason="no actionlint on PATH")
def test_workflows_are_sound() -> None:
    done = subprocess.run(["actionlint", *WORKFLOWS], capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_exact_versions(workflow: Path) -> None:
    used = [step["uses"] for step in steps(workflow) if "uses" in step]
    assert used
    assert [action for action in used if not EXACT.search(action)] == []


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_nothing_may_be_written_but_where_it_is_said(workflow: Path) -> None:
    document = yaml.safe_load(workflow.read_text())
    assert document["permissions"] == {"contents": "read"}
    for name, job in document["jobs"].items():
        written = [what for what, right in job.get("permissions", {}).items() if right == "write"]
        assert written == {"wheels": ["contents"], "image": ["packages"]}.get(name, [])


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_steps_call_targets_that_there_are(workflow: Path) -> None:
    called = []
    for step in steps(workflow):
        # With variables and quoted values taken out, what follows `make` are targets.
        for line in re.findall(r"^make .*", step.get("run", ""), re.MULTILINE):
            plain = re.sub(r'[A-Z_]+=("[^"]*"|\S+)|>\S+', "", line)
            called += plain.split()[1:]
    assert called
    assert set(called) <= TARGETS


def release(*arguments: str, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [root / "scripts" / "release", *arguments], capture_output=True, text=True, timeout=30, check=False
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of what has a version."""
    for name in ("pyproject.toml", "runner/pyproject.toml", "charts/geozarr/Chart.yaml", "scripts/release"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## 0.2.0\n\n- New.\n\n## 0.1.0 (2026-01-31)\n\n- First.\n")
    return tmp_path


def version() -> str:
    found = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def test_all_that_has_a_version_has_the_same() -> None:
    assert not re.search(r"not \S+:", release("check", version()).stderr)


def test_what_has_another_version_is_named(copy: Path) -> None:
    done = release("check", "0.2.0", root=copy)
    assert done.returncode == 1
    for name in ("runner/pyproject.toml", "charts/geozarr/Chart.yaml", "geozarr-runner", "appVersion"):
        assert name in done.stderr


def test_a_version_that_is_called_unreleased_is_not_released(copy: Path) -> None:
    (copy / "CHANGELOG.md").write_text(f"## {version()} (unreleased)\n\n- New.\n")
    done = release("check", version(), root=copy)
    assert done.returncode == 1
    assert "unreleased" in done.stderr


def test_the_notes_are_that_part_of_the_changelog(copy: Path) -> None:
    assert release("notes", "0.2.0", root=copy).stdout == "- New.\n"
    assert release("notes", "0.1.0", root=copy).stdout == "- First.\n"
    assert release("notes", "0.3.0", root=copy).returncode == 1
    assert "0.3.0" in release("notes", "0.3.0", root=copy).stderr

"""What releases consist of, and the workflows that make them; what of them runs only at their host is read here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(" ".join(re.findall(r"^([a-z0-9 -]+):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE)).split())
# A tag can be moved to other code, a commit cannot; the tag that it had is what people and Dependabot read.
PINNED = re.compile(r"- uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")


def steps(workflow: Path) -> Iterator[dict[str, Any]]:
    for job in yaml.safe_load(workflow.read_text())["jobs"].values():
        yield from job.get("steps", ())


@pytest.mark.skipif(shutil.which("actionlint") is None, reason="no actionlint on PATH")
def test_workflows_are_sound() -> None:
    done = subprocess.run(
        ["actionlint", *WORKFLOWS], capture_output=True, text=True, timeout=300, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_to_commits(workflow: Path) -> None:
    used = [line.strip() for line in workflow.read_text().splitlines() if line.strip().startswith("- uses:")]
    assert len(used) == len([step for step in steps(workflow) if "uses" in step]) > 0
    assert [line for line in used if not PINNED.fullmatch(line)] == []


def test_an_action_has_one_version() -> None:
    lines = {line.strip() for path in WORKFLOWS for line in path.read_text().splitlines() if "- uses:" in line}
    actions = [line.partition("@")[0] for line in lines]
    assert len(actions) == len(set(actions)), sorted(lines)


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_nothing_may_be_written_but_where_it_is_said(workflow: Path) -> None:
    document = yaml.safe_load(workflow.read_text())
    assert document["permissions"] == {"contents": "read"}
    for name, job in document["jobs"].items():
        written = [what for what, right in job.get("permissions", {}).items() if right == "write"]
        assert written == {"release": ["contents"], "image": ["packages"]}.get(name, [])


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_steps_call_targets_that_there_are(workflow: Path) -> None:
    called = []
    for step in steps(workflow):
        # With variables and quoted values taken out, what follows `make` are targets; there is nothing else.
        if "run" in step:
            make, *targets = re.sub(r'[A-Z_]+=("[^"]*"|\S+)', "", step["run"]).split()
            assert make == "make", step
            called += targets
    assert called
    assert set(called) <= TARGETS


def test_a_release_is_tested_first_and_comes_last() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())["jobs"]
    assert jobs["ci"] == {"uses": "./.github/workflows/ci.yml"}
    assert {name: job["needs"] for name, job in jobs.items() if name != "ci"} == {"image": "ci", "release": "image"}


def test_the_image_is_built_for_both_processors_with_where_it_comes_from_and_what_is_in_it() -> None:
    builds = [step["run"] for path in WORKFLOWS for step in steps(path) if "--push" in step.get("run", "")]
    assert len(builds) == 2
    for option in ("--platform=linux/amd64,linux/arm64", "--provenance=mode=max", "--sbom=true"):
        assert all(option in build for build in builds)


def test_each_commit_on_main_has_its_image_and_none_is_called_the_latest() -> None:
    path = ROOT / ".github" / "workflows" / "release.yml"
    document = yaml.safe_load(path.read_text())
    assert document[True]["push"]["branches"] == ["main"]  # YAML reads `on` so
    assert "latest" not in path.read_text().replace("ubuntu-latest", "")
    pushing = {step["if"]: step["run"] for step in steps(path) if "--push" in step.get("run", "")}
    assert set(pushing) == {"github.ref_type == 'branch'", "github.ref_type == 'tag'"}
    assert re.findall(r"eopf-geozarr:[\w$-]+", pushing["github.ref_type == 'branch'"]) == [
        "eopf-geozarr:sha-$GITHUB_SHA",
        "eopf-geozarr:main",
    ]
    of_a_tag = [step for step in document["jobs"]["image"]["steps"] if "GITHUB_REF_NAME" in step.get("run", "")]
    assert of_a_tag
    assert all(step["if"] == "github.ref_type == 'tag'" for step in of_a_tag)
    assert document["jobs"]["release"]["if"] == "github.ref_type == 'tag'"


def test_updates_respect_what_the_converter_cannot_do() -> None:
    """What our own bounds exclude is not proposed week by week."""
    updates = yaml.safe_load((ROOT / ".github" / "dependabot.yml").read_text())["updates"]
    [python] = [each for each in updates if each["package-ecosystem"] == "pip"]
    ignored = {each["dependency-name"]: each["versions"] for each in python["ignore"]}
    project = tomllib.loads((ROOT / "runner" / "pyproject.toml").read_text())["project"]
    asked = [Requirement(text) for text in (*project["dependencies"], *project["optional-dependencies"]["convert"])]
    bounds = {one.name: [f">={each.version}" for each in one.specifier if each.operator == "<"] for one in asked}
    assert ignored == {name: versions for name, versions in bounds.items() if versions}
    for folder in python["directories"]:
        assert list((ROOT / folder.strip("/")).glob("*.t*ml")) + list((ROOT / folder.strip("/")).glob("*.txt"))


def release(*arguments: str, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [root / "scripts" / "release", *arguments], capture_output=True, text=True, timeout=300, check=False
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


# -- what brings a release out, with tools of paper -------------------------------------------------------------------

FILES = (
    "geozarr_nb-{}-py3-none-any.whl",
    "geozarr_runner-{}-py3-none-any.whl",
    "geozarr-{}.tgz",
    "licences.md",
    "sbom.json",
)


@dataclass(frozen=True)
class Desk:
    """A copy of the repository with files to release, and tools that write down how they were called."""

    root: Path
    version: str

    def put(self, *missing: str) -> None:
        (self.root / "dist").mkdir()
        for name in FILES:
            (self.root / "dist" / name.format(self.version)).write_text("x")
        for name in missing:
            (self.root / "dist" / name.format(self.version)).unlink()

    def run(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        tools = self.root / "bin"
        tools.mkdir(exist_ok=True)
        for name in ("gh", "helm"):
            script = (
                f'#!/bin/sh\necho "{name} $*" >>"{self.root}/calls"\n[ "$2" != login ] || cat >"{self.root}/stdin"\n'
            )
            (tools / name).write_text(script)
            (tools / name).chmod(0o755)
        path = f"{tools}{os.pathsep}{os.environ['PATH']}"
        command = [self.root / "scripts" / "release", *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=300, check=False, env={"PATH": path, **environ}
        )

    @property
    def calls(self) -> list[str]:
        calls = self.root / "calls"
        return calls.read_text().splitlines() if calls.exists() else []


@pytest.fixture
def desk(copy: Path) -> Desk:
    (copy / "CHANGELOG.md").write_text(f"## {version()} (2026-01-31)\n\n- First.\n")
    return Desk(copy, version())


def test_a_release_has_its_files_and_its_part_of_the_changelog(desk: Desk) -> None:
    desk.put()
    done = desk.run("publish", desk.version, GH_TOKEN="secret")
    assert done.returncode == 0, done.stderr
    [call] = desk.calls
    assert call.startswith(f"gh release create v{desk.version} --verify-tag --title v{desk.version} ")
    assert call.endswith(" ".join(f"dist/{name.format(desk.version)}" for name in FILES))
    assert (desk.root / "dist" / "notes.md").read_text() == "- First.\n"


@pytest.mark.parametrize("name", FILES)
def test_nothing_is_released_without_a_part_of_it(desk: Desk, name: str) -> None:
    desk.put(name)
    done = desk.run("publish", desk.version, GH_TOKEN="secret")
    assert done.returncode == 1
    assert done.stderr == f"dist/{name.format(desk.version)} is missing: make wheels chart licences sbom\n"
    assert desk.calls == []


def test_nothing_is_released_that_has_another_version(desk: Desk) -> None:
    other = Desk(desk.root, "9.9.9")
    other.put()
    assert "not 9.9.9:" in other.run("publish", "9.9.9", GH_TOKEN="secret").stderr
    assert desk.calls == []


def test_the_chart_goes_to_its_registry_and_the_token_through_a_pipe(desk: Desk) -> None:
    desk.put()
    done = desk.run(
        "push-chart", desk.version, "oci://ghcr.io/Some-Owner/charts", GH_TOKEN="secret", GITHUB_ACTOR="ann"
    )
    assert done.returncode == 0, done.stderr
    assert desk.calls == [
        "helm registry login ghcr.io --username ann --password-stdin",
        f"helm push dist/geozarr-{desk.version}.tgz oci://ghcr.io/some-owner/charts",
    ]
    assert (desk.root / "stdin").read_text() == "secret"


@pytest.mark.parametrize(
    ("arguments", "environ", "said"),
    [
        (("publish",), {}, "no version: VERSION=0.1.0\n"),
        (("publish", "1.0.0"), {}, "no token: GH_TOKEN=..., of one who may do this\n"),
        (
            ("push-chart", "1.0.0", "ghcr.io/x"),
            {"GH_TOKEN": "secret"},
            "'ghcr.io/x' is no place for a chart: CHARTS=oci://ghcr.io/OWNER/charts\n",
        ),
        (
            ("push-chart", "1.0.0", "oci://ghcr.io/x"),
            {"GH_TOKEN": "secret"},
            "dist/geozarr-1.0.0.tgz is missing: make chart\n",
        ),
        (("tag", "1.0.0"), {}, "unknown action 'tag': check, notes, publish or push-chart\n"),
    ],
)
def test_what_is_missing_is_told_with_what_to_do(
    desk: Desk, arguments: tuple[str, ...], environ: dict[str, str], said: str
) -> None:
    done = desk.run(*arguments, **environ)
    assert (done.returncode, done.stderr) == (1, said)
    assert desk.calls == []


# -- wheels, as whoever gets them will use them ------------------------------------------------------------------------


def check_wheels(folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    script = ROOT / "scripts" / "check-wheels"
    return subprocess.run(
        [script, folder], capture_output=True, text=True, timeout=300, check=False, env={**os.environ, **environ}
    )


def test_without_wheels_nothing_is_checked(tmp_path: Path) -> None:
    missing = check_wheels(tmp_path / "none")
    assert (missing.returncode, missing.stderr) == (
        1,
        f"check-wheels: there is no folder {tmp_path / 'none'}: make wheels\n",
    )
    (tmp_path / "geozarr_nb-1.0-py3-none-any.whl").touch()
    one = check_wheels(tmp_path)
    assert (one.returncode, one.stderr) == (
        1,
        f"check-wheels: {tmp_path} has not one wheel of each distribution: make wheels\n",
    )


def test_wheels_that_cannot_be_installed_end_with_what_to_do(tmp_path: Path) -> None:
    for name in ("geozarr_nb", "geozarr_runner"):
        (tmp_path / f"{name}-1.0-py3-none-any.whl").write_text("no wheel")
    work = tmp_path / "work"
    work.mkdir()
    done = check_wheels(tmp_path, TMPDIR=str(work))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "check-wheels: they could not be installed: pip's own words are above: where a download failed, run it again"
    )
    assert list(work.iterdir()) == [], "nothing of it stays"

"""The documentation builds without a warning, and has everything that is public in it."""

from __future__ import annotations

import dataclasses
import html
import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import geozarr_nb as gz
import geozarr_nb.errors
import geozarr_nb.widgets
from geozarr_runner.errors import ExitCode
from geozarr_runner.kinds.profiles import outcomes

ROOT = Path(__file__).parents[2]
NEEDED = ("sphinx", "myst_nb", "furo")
NO_TABLE = {"origins"}  # says where the others come from


def without_markup(page: str) -> str:
    """Return the text of a page, its blanks as single ones."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", page)).split())


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the pages as `make docs` does, beside what somebody may be reading."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        say = pytest.fail if os.environ.get("GEOZARR_TEST_BROWSER") == "1" else pytest.skip
        say(f"no documentation: {', '.join(missing)} not installed; make jupyter installs them")
    built = tmp_path_factory.mktemp("html")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--nitpicky", "--quiet"]
    run = subprocess.run(
        [*command, "--doctree-dir", built / "doctrees", ROOT / "docs", built],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return built


def text(pages: Path, name: str) -> str:
    return without_markup((pages / f"{name}.html").read_text())


def documented(pages: Path, name: str) -> set[str]:
    """Return what a page has an entry for, by its whole name."""
    return set(re.findall(r'<dt class="sig[^>]*\bid="([\w.]+)"', (pages / f"{name}.html").read_text()))


def test_make_builds_as_this_test_does() -> None:
    recipe = re.search(r"^docs: jupyter\n\t(.+)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert recipe is not None
    assert "-m sphinx --fail-on-warning --keep-going --nitpicky --quiet docs docs/_build/html" in recipe[1]


def test_every_public_name_is_there(pages: Path) -> None:
    assert documented(pages, "api") >= {f"geozarr_nb.{name}" for name in gz.__all__}
    widgets = {f"geozarr_nb.widgets.{name}" for name in geozarr_nb.widgets.__all__} - {"geozarr_nb.widgets.ui"}
    assert documented(pages, "widgets") >= widgets


def test_every_error_is_there_with_its_code(pages: Path) -> None:
    page = text(pages, "errors")
    names = {entry.rpartition(".")[2] for entry in documented(pages, "errors")}
    public = [getattr(geozarr_nb.errors, name) for name in geozarr_nb.errors.__all__]
    errors = [thing for thing in public if issubclass(thing, gz.GeozarrError)]
    assert len(errors) > 20
    for error in errors:
        retry = "yes" if error.retryable else "no"
        assert f"{error.code} {error.__name__} {int(error.exit_code)} {retry} " in page
        assert error.__name__ in names


def test_every_exit_code_is_there(pages: Path) -> None:
    page = text(pages, "errors")
    assert [code for code in ExitCode if f" {int(code)} {code.name} " not in page] == []


def test_every_setting_is_there_with_its_variable(pages: Path) -> None:
    page = text(pages, "settings")
    names = [field.name for field in dataclasses.fields(gz.Settings) if field.name not in NO_TABLE]
    assert [name for name in names if f" {name} GEOZARR_{name.upper()} " not in page] == []


def test_every_type_of_event_is_there(pages: Path) -> None:
    page = text(pages, "events")
    types = ("run", "stage", "progress", "message", "warning", "error", "result", "log")
    assert re.search(".*".join(rf"\b{name}\b" for name in types), page)


def test_every_tutorial_is_there_with_what_it_printed(pages: Path) -> None:
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        page = (pages / "tutorials" / f"{notebook.stem}.html").read_text()
        cells = json.loads(notebook.read_text())["cells"]
        outputs = [output for cell in cells for output in cell.get("outputs", ()) if "text" in output]
        shown = without_markup(page)
        for output in outputs:
            assert " ".join("".join(output["text"]).split()) in shown
        pictures = sum("image/png" in output.get("data", {}) for cell in cells for output in cell.get("outputs", ()))
        assert page.count('<img alt="../_images/') == pictures
        pasted = re.findall(r"!\[([^\]]+)\]", "".join("".join(cell["source"]) for cell in cells))
        named = map(html.unescape, re.findall(r'<img alt="([^"]+)" src="\.\./_images/', page))
        assert [name for name in named if not name.startswith("../_images/")] == pasted


def test_what_jobs_took_is_there_as_it_was_measured(pages: Path) -> None:
    page = text(pages, "operations")
    results = {
        result["name"]: result["rows"] for result in json.loads((ROOT / "benchmarks" / "results.json").read_text())
    }
    for case, name in (
        ("cost-s3-olci", "Sentinel-3 OLCI, whole frame"),
        ("cost-s1-grd", "Sentinel-1 GRD, whole scene"),
    ):
        seconds = {row["figure"]: row["value"] for row in results.get(case, ()) if row["unit"] == "s"}
        assert (name in page) == bool(seconds)
        if seconds:
            assert f" {seconds['whole: processor time']:.0f} s {seconds['whole: wall time']:.0f} s " in page
    assert re.search(r"Sentinel-2 L2A, group /measurements/reflectance/r20m \d+ MB [\d.]+ GB [\d.]+ GB ", page)


def test_the_troubleshooting_and_the_changelog_are_there(pages: Path) -> None:
    assert "no workflow controller is installed" in text(pages, "troubleshooting")
    first = re.search(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert first is not None
    assert first[1] in text(pages, "changelog")


def test_every_kind_of_product_is_in_the_table_of_what_can_be_converted(pages: Path) -> None:
    page = text(pages, "kinds")
    for kind, *found in outcomes():
        assert kind in page
        for outcome in found:
            assert outcome.replace("`", "") in page

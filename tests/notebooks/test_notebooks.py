"""The tutorials: every cell is true, and what is committed was made by the cells that are committed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from scripts.execute_notebooks import NOTEBOOKS, OWN, SANITISE, needs_cluster, sanitised, sources_of
from tests.cluster.support import fresh_namespace, node_address

LARGEST = 300_000  # bytes
SECONDS_A_CELL = 240
PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
LOCAL = [path for path in PATHS if not needs_cluster(json.loads(path.read_text()))]
OF_A_MACHINE = re.compile(r"(?<![\w.:/])/(?:home|root|Users|work|private|var|tmp)/[^\s'\"<>\\]*")

each = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


@cache
def read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text())
    return document


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def run(path: Path, scratch: Path, settings: dict[str, str]) -> None:
    """Run each cell, and compare what it says with what is committed."""
    (scratch / "tmp").mkdir()
    # What is waited for is told after some seconds: whether it is depends on the machine.
    quiet = scratch / "ipython" / "profile_default" / "startup" / "quiet.py"
    quiet.parent.mkdir(parents=True)
    quiet.write_text("import logging\nlogging.getLogger('geozarr_nb').setLevel(logging.ERROR)\n")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("GEOZARR_", "PYTEST_"))}
    environ |= {"TMPDIR": str(scratch / "tmp"), "GEOZARR_STATE_DIR": str(scratch / "state"), **settings}
    environ["IPYTHONDIR"] = str(scratch / "ipython")
    options = ["--nbval", "--nbval-current-env", "--nbval-sanitize-with", SANITISE]
    limits = [f"--nbval-cell-timeout={SECONDS_A_CELL}", "-p", "no:cacheprovider", "-p", "no:timeout", "-q"]
    command = [sys.executable, "-m", "pytest", *options, *limits, "--rootdir", path.parent, "-c", os.devnull]
    # A conftest of the repository would take the settings away again.
    command += ["--confcutdir", path.parent, path]
    done = subprocess.run(command, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert f"{len(code_cells(read(path)))} passed" in done.stdout


@pytest.mark.tutorial
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("path", LOCAL, ids=lambda path: path.stem)
def test_every_cell_is_true(path: Path, tmp_path: Path) -> None:
    run(path, tmp_path, {})


@pytest.mark.tutorial
@pytest.mark.cluster
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("path", [path for path in PATHS if path not in LOCAL], ids=lambda path: path.stem)
def test_every_cell_is_true_on_a_cluster(path: Path, tmp_path: Path) -> None:
    with fresh_namespace() as namespace:
        run(path, tmp_path, {**namespace.settings, "GEOZARR_NODE_ADDRESS": node_address()})


def test_there_are_five() -> None:
    assert [path.name[0] for path in PATHS] == list("12345")
    assert len(LOCAL) == 4


@each
def test_outputs_were_made_by_these_cells(path: Path) -> None:
    notebook = read(path)
    made_by = notebook["metadata"][OWN]["sources"]
    assert made_by == sources_of(notebook), f"the outputs of {path.name} are stale: make notebooks"
    counts = [cell["execution_count"] for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))


@each
def test_outputs_hold_nothing_of_the_machine_that_made_them(path: Path) -> None:
    outputs = json.dumps([cell["outputs"] for cell in code_cells(read(path))])
    assert {found for found in OF_A_MACHINE.findall(outputs) if not found.startswith("/tmp/geozarr-tutorial")} == set()
    assert "application/vnd.jupyter.widget-view+json" not in outputs
    assert '"output_type": "error"' not in outputs


@each
def test_it_is_small(path: Path) -> None:
    assert path.stat().st_size < LARGEST


@each
def test_links_between_tutorials_lead_somewhere(path: Path) -> None:
    text = "".join("".join(cell["source"]) for cell in read(path)["cells"] if cell["cell_type"] == "markdown")
    assert [link for link in re.findall(r"\]\(([^):]+)\)", text) if not (path.parent / link).exists()] == []


def test_changed_cells_are_seen() -> None:
    notebook = json.loads(LOCAL[0].read_text())
    code_cells(notebook)[0]["source"].append("\n1 + 1")
    assert notebook["metadata"][OWN]["sources"] != sources_of(notebook)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("/tmp/x1/geozarr-tutorial-a1b2c3d4/out.zarr", "/tmp/geozarr-tutorial/out.zarr"),
        ("s2a-sample-1a2b3c4d: Succeeded, 5 s", "s2a-sample-00000000: Succeeded, 12.5 s"),
        ("http://127.0.0.1:4000/catalog.json", "http://127.0.0.1:51234/catalog.json"),
        ("('a', 'b')", "('a',\n 'b')"),
    ],
)
def test_what_varies_is_not_compared(one: str, other: str) -> None:
    assert sanitised(one) == sanitised(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("Succeeded", "Failed"), ("22 groups", "21 groups"), ("6.0 MB", "6.1 MB"), ("r10m.zarr", "r20m.zarr")],
)
def test_what_must_not_vary_is_compared(one: str, other: str) -> None:
    assert sanitised(one) != sanitised(other)

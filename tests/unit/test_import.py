"""`import geozarr_nb` costs next to nothing, and hides nothing."""

from __future__ import annotations

import json
import subprocess
import sys

import jedi
import pytest

import geozarr_nb
from geozarr_nb.jobs.job import Job

HEAVY = (
    "xarray", "zarr", "pandas", "numpy", "dask", "kubernetes", "ipywidgets", "IPython", "eopf_geozarr", "fsspec", "rich"
)  # fmt: skip


def loaded_after(statement: str) -> set[str]:
    code = f"{statement}\nimport json, sys\nsys.stdout.write(json.dumps(sorted(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in json.loads(run.stdout)}


def test_import_loads_nothing_heavy() -> None:
    assert loaded_after("import geozarr_nb") & set(HEAVY) == set()


def test_the_worker_needs_the_standard_library_only() -> None:
    loaded = loaded_after("import geozarr_nb.backends.local.worker")
    foreign = {name for name in loaded if not name.startswith("_")} - set(sys.stdlib_module_names)
    bare = loaded_after("pass") | {"geozarr_nb", "geozarr_runner"}
    assert foreign <= bare
    ours = "sorted(name for name in sys.modules if 'geozarr_runner.' in name)"
    code = f"import geozarr_nb.backends.local.worker, sys; print(*{ours})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    spec = ("spec", "spec.options", "spec.request")
    needed = ["errors", *spec, "text", "text.printable", "text.shell", "trust", "trust.bounds"]
    assert run.stdout.split() == [f"geozarr_runner.{name}" for name in needed], "these need it only, too"
    assert "email" not in loaded, "which importlib.metadata brings, for nothing"


@pytest.mark.parametrize("name", geozarr_nb.__all__)
def test_every_public_name_is_found_and_documented(name: str) -> None:
    assert getattr(geozarr_nb, name).__doc__
    assert name in dir(geozarr_nb)


def test_public_names_are_those_that_have_a_home() -> None:
    assert set(geozarr_nb.__all__) == set(geozarr_nb._HOME_OF)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'convrt'"):
        _ = geozarr_nb.convrt


@pytest.mark.parametrize("name", ["doctor"])
def test_a_module_does_not_hide_the_call_of_its_name(name: str) -> None:
    code = f"import geozarr_nb.{name}, geozarr_nb; assert callable(geozarr_nb.{name})"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("job.", {"status", "progress", "wait", "open"}),
        ("gz.", {"convert", "inspect"}),
        ("gz.convert(gro", {"groups="}),
    ],
)
def test_a_notebook_completes_what_is_typed(typed: str, offered: set[str]) -> None:
    names = {"gz": geozarr_nb, "job": Job.__new__(Job)}
    assert offered <= {completion.name_with_symbols for completion in jedi.Interpreter(typed, [names]).complete()}

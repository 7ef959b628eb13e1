"""`import geozarr_nb` costs next to nothing, and hides nothing."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

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


# What help has no use for, and what would take most of its 0.2 seconds: versions of packages are read by a module that
# loads a parser of e-mail, and addresses, hashes and suggestions are for a command line that does something.
NOT_FOR_HELP = {
    *HEAVY,
    "aiohttp",
    "asyncio",
    "difflib",
    "email",
    "hashlib",
    "http",
    "importlib.metadata",
    "ipaddress",
    "logging",
    "multiprocessing",
    "pyproj",
    "pystac",
    "random",
    "s3fs",
    "shtab",
    "socket",
    "ssl",
    "subprocess",
    "tempfile",
    "urllib",
    "zipfile",
}


@pytest.mark.parametrize("words", [[], ["convert"]], ids=["program", "command"])
@pytest.mark.parametrize("program", ["geozarr_nb", "geozarr_runner"])
def test_help_loads_only_what_it_shows(program: str, words: list[str]) -> None:
    code = f"""
import contextlib, io, json, sys
before = set(sys.modules)
from {program}.cli import main
said = io.StringIO()
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(said):
    main({[*words, "--help"]!r})
assert said.getvalue().startswith("usage: ")
print(json.dumps(sorted(set(sys.modules) - before)))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = json.loads(run.stdout)
    assert [name for name in loaded if {name, name.partition(".")[0]} & NOT_FOR_HELP] == []


def test_the_worker_needs_the_standard_library_only() -> None:
    loaded = loaded_after("import geozarr_nb.backends.local.worker")
    foreign = {name for name in loaded if not name.startswith("_")} - set(sys.stdlib_module_names)
    bare = loaded_after("pass") | {"geozarr_nb", "geozarr_runner"}
    assert foreign <= bare
    ours = "sorted(name for name in sys.modules if 'geozarr_runner.' in name)"
    code = f"import geozarr_nb.backends.local.worker, sys; print(*{ours})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    spec = ("spec", "spec.options", "spec.request")
    needed = ["errors", *spec, "text", *(f"text.{name}" for name in ("printable", "shell", "suggestion"))]
    needed += ["trust", "trust.bounds"]
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


def test_no_module_takes_the_name_of_what_its_package_defines() -> None:
    """Its first import would put it there, and who imports the name later gets the module."""
    hidden = []
    for package in ("geozarr_nb", "geozarr_runner"):
        root = Path(find_spec(package).origin or "").parent  # type: ignore[union-attr]
        for init in root.rglob("__init__.py"):
            own = ".".join((package, *init.parent.relative_to(root).parts))
            defined = set()
            for node in ast.parse(init.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.FunctionDef | ast.ClassDef):
                    defined.add(node.name)
                elif isinstance(node, ast.ImportFrom) and node.module != own:
                    defined |= {name.asname or name.name for name in node.names}
            hidden += [f"{own}.{name}" for name in defined if (init.parent / f"{name}.py").exists()]
    assert hidden == []


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

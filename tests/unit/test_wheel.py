"""The wheels stand on their own: they are built, installed into an empty environment, and used far from the repository.

Nothing here asks the network. What builds a wheel, hatchling, is one of the development requirements; pip is told to
use no index. Dependencies are seen by a `.pth` file in the new environment, which names the folder where this
environment has them; `.pth` files in a folder that is named so are not read, so that the editable installation of the
repository, which consists of them, stays unseen.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from email import message_from_bytes
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
DISTRIBUTIONS = {"geozarr_nb": ROOT, "geozarr_runner": ROOT / "runner"}
DISTRIBUTIONS_OF_THIS_REPOSITORY = ("geozarr-nb", "geozarr-runner")
NO_CODE = {
    "geozarr_nb": {
        "params.json",
        "py.typed",
        "samples/structures/README.md",
        "samples/structures/s1-grd.json.gz",
        "samples/structures/s2-l2a.json.gz",
        *(f"workflows/{path.name}" for path in (ROOT / "workflows").iterdir()),
    },
    "geozarr_runner": {"py.typed"},
}


@dataclass(frozen=True)
class Environment:
    """An environment with the two wheels, and an empty folder to work in."""

    folder: Path
    work: Path

    def run(self, command: str, *arguments: str | Path) -> str:
        """Return what a command of this environment writes."""
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "GEOZARR_"))}
        # The converter's command is a dependency too.
        environ["PATH"] = os.pathsep.join((sysconfig.get_path("scripts"), environ.get("PATH", os.defpath)))
        run = subprocess.run(
            [self.folder / "bin" / command, *arguments],
            cwd=self.work,
            env=environ | {"GEOZARR_STATE_DIR": str(self.work / "state")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stdout + run.stderr
        return run.stdout

    def python(self, *lines: str) -> str:
        """Return what some lines of Python print."""
        return self.run("python", "-c", "\n".join(lines)).strip()


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("wheels")
    for source in DISTRIBUTIONS.values():
        build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder]
        run = subprocess.run(build, cwd=source, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
    return {path.name.partition("-")[0]: path for path in folder.glob("*.whl")}


@pytest.fixture(scope="module")
def environment(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Environment:
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    install: Sequence[str | Path] = ["install", "--quiet", "--no-index", "--no-deps", *wheels.values()]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python, *install]
    run = subprocess.run(pip, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    here = sysconfig.get_paths()
    packages = sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)})
    Path(packages, "dependencies.pth").write_text("\n".join(dict.fromkeys((here["purelib"], here["platlib"]))) + "\n")
    return Environment(folder, tmp_path_factory.mktemp("elsewhere"))


def members(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_a_wheel_holds_its_package_and_nothing_else(wheels: dict[str, Path], name: str) -> None:
    inside = {path for path in members(wheels[name]) if ".dist-info/" not in path}
    package = DISTRIBUTIONS[name] / name
    modules = {path.relative_to(package.parent).as_posix() for path in package.rglob("*.py")}
    assert inside == modules | {f"{name}/{path}" for path in NO_CODE[name]}


def test_the_licences_of_what_is_inside_are_inside(wheels: dict[str, Path]) -> None:
    licences = {path.rpartition("/")[2] for path in members(wheels["geozarr_nb"]) if "/licenses/" in path}
    assert licences == {"LICENSE", "Apache-2.0.txt"}  # ours, and that of the samples' structures


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_only_the_extra_with_the_converter_has_upper_bounds(wheels: dict[str, Path], name: str) -> None:
    with zipfile.ZipFile(wheels[name]) as archive:
        [path] = [path for path in archive.namelist() if path.endswith(".dist-info/METADATA")]
        needed = [Requirement(line) for line in message_from_bytes(archive.read(path)).get_all("Requires-Dist", [])]
    bounded = [
        one
        for one in needed
        if one.name not in DISTRIBUTIONS_OF_THIS_REPOSITORY
        and any(clause.operator in ("<", "<=", "==", "~=") for clause in one.specifier)
    ]
    assert all(one.marker and not one.marker.evaluate({"extra": ""}) for one in bounded)
    kept = {one.name for one in bounded if one.marker and one.marker.evaluate({"extra": "convert"})}
    assert kept == ({"eopf-geozarr", "xarray", "zarr"} if name == "geozarr_runner" else set())
    assert len(bounded) == len(kept)


def test_the_packages_are_those_of_the_wheels(environment: Environment) -> None:
    for name in DISTRIBUTIONS:
        place = Path(environment.python(f"import {name}", f"print({name}.__file__)"))
        assert place.is_relative_to(environment.folder)
    # params.json and the manifests, which the repository keeps above the package
    params = "from geozarr_nb.settings import params_path"
    assert Path(environment.python(params, "print(params_path({}))")).is_relative_to(environment.folder)


def test_the_commands_answer(environment: Environment) -> None:
    assert "geozarr-nb" in environment.run("geozarr-nb", "--help")
    assert "convert" in environment.run("geozarr-runner", "--help")


def test_a_product_is_made_looked_at_and_converted(environment: Environment) -> None:
    group = "/measurements/reflectance/r60m"
    environment.run("geozarr-nb", "sample", "s2.zarr", "--size", "120")
    assert group in environment.run("geozarr-nb", "inspect", "s2.zarr")
    environment.run("geozarr-nb", "convert", "s2.zarr", "r60m.zarr", "--groups", group)
    jobs = json.loads(environment.run("geozarr-nb", "jobs", "--json"))
    assert "Succeeded" in json.dumps(jobs)
    assert environment.python("import geozarr_nb as gz", f"print({group!r} in gz.open('r60m.zarr').groups)") == "True"


def test_the_form_is_there(environment: Environment) -> None:
    lines = (
        "import geozarr_nb as gz",
        "app = gz.ui()",
        "print(type(app).__name__, len(app.children) > 0)",
        "app.close()",
    )
    assert environment.python(*lines) == "App True"

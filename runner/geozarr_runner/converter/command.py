"""The converter's command: where it is, which Python runs it, and which releases are beside it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from geozarr_runner.errors import ConverterMissing
from geozarr_runner.trust.addresses import expanded

COMMAND = "eopf-geozarr"
TESTED = "0.12.0"
VARIABLE = "GEOZARR_CONVERTER"
# What a run tells of the environment in which the converter is.
PACKAGES = ("eopf-geozarr", "zarr", "xarray", "numpy", "dask")
FIRST_BROKEN_XARRAY = (2026, 9)
SECONDS_TO_ANSWER = 60
_HEAD_BYTES = 2000
_RELEASES = f"""
import json
from importlib.metadata import PackageNotFoundError, version
found = {{}}
for name in {PACKAGES!r}:
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        pass
print(json.dumps(found))
"""


def find_converter(named: str = "") -> str:
    """Return the path of the converter's command: the one that is named, else beside this Python, else on PATH.

    Parameters
    ----------
    named
        The path of a converter, which may be in another environment; empty for none.

    Raises
    ------
    ConverterMissing
        There is none, or the one that is named cannot be used.
    """
    if named:
        return _usable(expanded(named))
    beside = shutil.which(COMMAND, path=sysconfig.get_path("scripts"))
    found = beside or shutil.which(COMMAND)
    if found is None:
        raise ConverterMissing(
            f"the command {COMMAND} is not installed beside this Python, nor on PATH",
            given=sys.executable,
            remedy=f'pip install "geozarr-runner[convert]", or {VARIABLE}=/path/to/{COMMAND} for one that is elsewhere',
        )
    return found


def _usable(command: Path) -> str:
    """Return the path of a converter that was named, once it is known to be one."""
    if command.is_dir():
        raise _unusable("it is a folder", command, f"name the command itself: {VARIABLE}={command}/bin/{COMMAND}")
    if not command.exists():
        raise _unusable("there is no such file", command, f"correct {VARIABLE}, or unset it")
    if not os.access(command, os.X_OK):
        raise _unusable("the file is no executable", command, f"chmod +x {command}, or name another file")
    releases = releases_of(str(command))
    pip = f"{python_of(str(command))} -m pip install"
    release = releases.get(COMMAND)
    if release is not None and not is_supported(release):
        supported = ".".join(map(str, _numbers(TESTED)[:2]))
        message = f"it is {COMMAND} {release}, and only {supported} is supported"
        raise _unusable(message, command, f'{pip} "{COMMAND}=={TESTED}"')
    xarray = releases.get("xarray", "")
    if _numbers(xarray) >= FIRST_BROKEN_XARRAY:
        message = f"xarray {xarray} is beside it, with which every Sentinel-2 conversion fails"
        raise _unusable(message, command, f'{pip} "xarray<{".".join(map(str, FIRST_BROKEN_XARRAY))}"')
    if find_spec("rasterio") is None:
        message = "its outputs cannot be verified: rasterio is not installed beside this Python"
        raise _unusable(message, command, f'{sys.executable} -m pip install "geozarr-runner[verify]"')
    return str(command)


def _unusable(message: str, command: Path, remedy: str) -> ConverterMissing:
    return ConverterMissing(f"the converter cannot be used: {message}", given=str(command), remedy=remedy)


def is_supported(release: str) -> bool:
    """Return whether this package knows the facts of a release of the converter."""
    return _numbers(release)[:2] == _numbers(TESTED)[:2]


def python_of(command: str) -> str:
    """Return the Python that runs a converter's command, as an installer wrote it; empty for any other script.

    An installer's script names the Python in its first line. Where that line would be too long, or the environment
    may be moved, it starts a shell, which runs the Python in the same folder.
    """
    path = Path(command)
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""
    first, _, rest = head.partition("\n")
    if "from eopf_geozarr.cli import main" not in rest:
        return ""
    if named := re.fullmatch(r"#!\s*(/\S*/python[0-9.t]*)\s*", first):
        return named[1]
    beside = path.resolve().with_name("python")
    return str(beside) if first.startswith("#!/bin/sh") and rest.startswith("'''exec'") and beside.exists() else ""


def releases_of(command: str) -> Mapping[str, str]:
    """Return the releases of the converter and its libraries; none where its Python is not known, or does not answer.

    The converter's own `--version` says the same of every release, and takes seconds.
    """
    python = python_of(command)
    return _releases(python, Path(command).stat().st_mtime_ns) if python else {}


@lru_cache(maxsize=8)
def _releases(python: str, written: int) -> Mapping[str, str]:
    """Return what a Python says of its packages; `written` changes where another release is installed."""
    try:
        ran = subprocess.run(
            [python, "-I", "-c", _RELEASES], capture_output=True, timeout=SECONDS_TO_ANSWER, check=False
        )
        found = json.loads(ran.stdout) if ran.returncode == 0 else {}
    except (OSError, subprocess.TimeoutExpired, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _numbers(release: str) -> tuple[int, ...]:
    found = re.match(r"\d+(?:\.\d+)*", release)
    return tuple(int(part) for part in found[0].split(".")) if found else ()

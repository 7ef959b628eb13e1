"""A converter in another environment: it is checked, loaded, run, and its own versions are recorded."""

from __future__ import annotations

import os
import sys
import sysconfig
import venv
from pathlib import Path

import psutil
import pytest

from geozarr_runner.converter import command as module
from geozarr_runner.converter.command import find_converter, python_of, releases_of
from geozarr_runner.converter.processes import Converters
from geozarr_runner.errors import ConverterMissing
from geozarr_runner.publishing.root_document import provenance
from runner.tests.support import R60M, run, until

SCRIPT = "import sys\nfrom eopf_geozarr.cli import main\nif __name__ == '__main__':\n    sys.exit(main())\n"


def pretend(site: Path, name: str, release: str) -> None:
    """Have an environment say that it has this release of a package."""
    folder = site / f"{name.replace('-', '_')}-{release}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {release}\n")


def site_of(folder: Path) -> Path:
    return Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """Make a second environment with the real converter; returns the converter's command."""
    folder = tmp_path / "elsewhere"
    venv.create(folder, symlinks=True)
    here = sysconfig.get_paths()
    # A .pth file in a folder that is named so is not read: the editable packages of this repository stay unseen.
    (site_of(folder) / "libraries.pth").write_text("\n".join({here["purelib"], here["platlib"]}) + "\n")
    pretend(site_of(folder), "dask", "2099.1")
    command = folder / "bin" / "eopf-geozarr"
    command.write_text(f"#!{folder}/bin/python\n{SCRIPT}")
    command.chmod(0o755)
    return command


@pytest.mark.parametrize("how", ["option", "variable"])
def test_it_converts(elsewhere: Path, how: str, s2: Path, tmp_path: Path) -> None:
    words = ["--converter", elsewhere] if how == "option" else []
    env = {"GEOZARR_CONVERTER": str(elsewhere)} if how == "variable" else {}
    done = run(s2, tmp_path / "out.zarr", "--groups", R60M, *words, env=env)
    versions = done.result["versions"]
    assert (versions["eopf-geozarr"], versions["dask"]) == (module.TESTED, "2099.1")
    record = provenance(done.output)
    assert record is not None
    assert record["versions"] == versions
    assert f"running {elsewhere} convert" in Path(f"{done.output}.log.jsonl").read_text()


def test_a_wrapper_runs_and_its_release_is_unknown(elsewhere: Path, s2: Path, tmp_path: Path) -> None:
    wrapper = tmp_path / "wrapper.sh"
    wrapper.write_text(f'#!/bin/sh\necho through the wrapper\nexec "{elsewhere}" "$@"\n')
    wrapper.chmod(0o755)
    done = run(s2, tmp_path / "out.zarr", "--groups", R60M, "--converter", wrapper)
    assert "eopf-geozarr" not in done.result["versions"]
    assert "through the wrapper" in Path(f"{done.output}.log.jsonl").read_text()


def begins(process: psutil.Process) -> list[str]:
    """How a process' command line begins; empty for one that has just ended."""
    try:
        return process.cmdline()[:2]
    except psutil.Error:
        return []


def test_it_is_loaded_by_its_own_python(elsewhere: Path) -> None:
    lines: list[str] = []
    with Converters(str(elsewhere), {"COLUMNS": "200"}, load=1) as converters:
        wanted = [str(elsewhere.with_name("python")), "-P"]
        until(lambda: wanted in map(begins, psutil.Process().children()))
        converters.run([[str(elsewhere), "convert", "--help"]], on_line=lines.append, on_tick=lambda: None)
    assert sum("usage: eopf-geozarr convert" in line for line in lines) == 1


def test_it_sees_no_packages_of_this_environment(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/here")
    elsewhere.write_text(
        f"{elsewhere.read_text().splitlines()[0]}\nimport os; print(os.environ.get('PYTHONPATH'))\n{SCRIPT}"
    )
    lines: list[str] = []
    Converters(str(elsewhere)).run([[str(elsewhere), "--help"]], on_line=lines.append, on_tick=lambda: None)
    assert lines[0] == "None"


def refused(named: Path) -> ConverterMissing:
    with pytest.raises(ConverterMissing) as caught:
        find_converter(str(named))
    assert caught.value.given == str(named)
    assert caught.value.remedy
    return caught.value


def test_what_is_no_command_is_refused(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "nothing").message
    assert "folder" in refused(tmp_path).message
    (tmp_path / "text").touch()
    error = refused(tmp_path / "text")
    assert "no executable" in error.message
    assert error.remedy.startswith("chmod +x ")


@pytest.mark.parametrize("release", ["0.11.1", "0.13.0", "1.0", "odd"])
def test_a_release_that_is_not_known_is_refused(elsewhere: Path, release: str) -> None:
    pretend(site_of(elsewhere.parents[1]), "eopf-geozarr", release)
    error = refused(elsewhere)
    assert f"it is eopf-geozarr {release}, and only 0.12 is supported" in error.message
    assert error.remedy == f'{elsewhere.with_name("python")} -m pip install "eopf-geozarr==0.12.0"'


def test_a_later_correction_of_a_release_is_taken(elsewhere: Path) -> None:
    pretend(site_of(elsewhere.parents[1]), "eopf-geozarr", "0.12.7")
    assert find_converter(str(elsewhere)) == str(elsewhere)


def test_an_xarray_that_breaks_it_is_refused(elsewhere: Path) -> None:
    pretend(site_of(elsewhere.parents[1]), "xarray", "2026.9.0")
    assert "xarray 2026.9.0" in refused(elsewhere).message


def test_a_run_that_names_a_bad_one_says_so(s2: Path, tmp_path: Path) -> None:
    done = run(s2, tmp_path / "out.zarr", "--groups", R60M, "--converter", tmp_path / "nothing; touch x")
    assert (done.code, done.error["code"]) == (4, "converter-missing")
    assert not done.output.exists()


def test_the_python_of_a_script_is_known_as_installers_write_it(tmp_path: Path) -> None:
    script, python = tmp_path / "eopf-geozarr", tmp_path / "python"
    python.symlink_to(sys.executable)
    for head, expected in {
        f"#!{python}": str(python),
        "#!/opt/envs/geo/bin/python3.13": "/opt/envs/geo/bin/python3.13",
        "#!/bin/sh\n'''exec' \"/a long path/python\" \"$0\" \"$@\"\n' '''": str(python),
        "#!/usr/bin/env python": "",
        "#!/bin/sh": "",
    }.items():
        script.write_text(f"{head}\n{SCRIPT}")
        assert python_of(str(script)) == expected
    script.write_text(f"#!{python}\nprint('something else')\n")
    assert python_of(str(script)) == ""
    assert releases_of(str(script)) == {}
    assert python_of(str(tmp_path / "none")) == python_of(os.devnull) == ""

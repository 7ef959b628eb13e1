"""The setting that names a converter in another environment, from the call to the run, and what the doctor says."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import geozarr_nb as gz
from geozarr_nb.backends.local.backend import LocalBackend
from geozarr_nb.backends.local.worker import RUNNER
from geozarr_nb.doctor import Finding, doctor
from geozarr_nb.errors import ConverterMissing
from geozarr_runner.converter.command import find_converter

GROUP = "/measurements/reflectance/r60m"


@pytest.fixture
def wrapper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a script that runs the real converter, and name it by its path from here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GEOZARR_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("GEOZARR_CONVERTER", "bin/wrapped converter; exit")
    path = tmp_path / "bin" / "wrapped converter; exit"  # which no shell reads
    path.parent.mkdir()
    path.write_text(f'#!/bin/sh\ntouch "{tmp_path}/called"\nexec "{find_converter()}" "$@"\n')
    path.chmod(0o755)
    return path


def said_of_converter() -> Finding:
    return next(finding for finding in doctor().findings if finding.name == "eopf-geozarr")


def test_a_job_runs_it(wrapper: Path, sample: Path, tmp_path: Path) -> None:
    job = gz.convert(sample, tmp_path / "out.zarr", groups=[GROUP])
    assert job.status == "Succeeded"
    assert (tmp_path / "called").exists()
    assert GROUP in job.open().groups


def test_one_that_is_not_there_is_refused_before_there_is_a_job(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEOZARR_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("GEOZARR_CONVERTER", str(tmp_path / "nothing"))
    with pytest.raises(ConverterMissing, match="no such file") as caught:
        gz.submit(sample, tmp_path / "out.zarr", groups=[GROUP])
    assert "GEOZARR_CONVERTER" in caught.value.remedy
    assert not (tmp_path / "state").exists()


def test_a_waiting_job_keeps_it_with_its_environment_and_not_with_its_request(
    tmp_path: Path, sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of the state folder that others read names no program; the environment is its owner's alone."""
    monkeypatch.setattr(LocalBackend, "_start_worker", lambda *_: None)
    backend = LocalBackend(tmp_path / "state", command=RUNNER, converter="/opt/geozarr/bin/eopf-geozarr")
    request = gz.Request.of(sample, str(tmp_path / "out.zarr")).identified()
    folder = tmp_path / "state" / "jobs" / backend.submit(request)
    assert json.loads((folder / "private.json").read_text())["environ"]["GEOZARR_CONVERTER"].startswith("/opt/")
    assert "/opt/geozarr" not in (folder / "request.json").read_text()
    assert "converter" not in request.to_json()


def test_the_doctor_names_it(wrapper: Path) -> None:
    finding = said_of_converter()
    assert (finding.verdict, finding.found) == ("warning", f"{wrapper}, of an unknown release")
    installed = Path(sys.executable).with_name("eopf-geozarr")
    wrapper.unlink()
    wrapper.symlink_to(installed)
    finding = said_of_converter()
    assert (finding.verdict, finding.remedy) == ("ok", "")
    assert f"{wrapper}, eopf-geozarr 0.12." in finding.found
    assert "xarray" not in [each.name for each in doctor().findings], "that of this environment does not matter then"
    wrapper.unlink()
    finding = said_of_converter()
    assert (finding.verdict, "no such file" in finding.found) == ("problem", True)
    assert "GEOZARR_CONVERTER" in finding.remedy


def test_the_doctor_says_where_another_converter_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata

    actual = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2027.1" if name == "xarray" else actual(name))
    finding = next(each for each in doctor().findings if each.name == "xarray")
    assert "GEOZARR_CONVERTER" in finding.remedy

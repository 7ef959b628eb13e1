"""Every check of the machine finds what is wrong, says what to do, and never raises."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from geozarr_nb.doctor import Diagnosis, Finding, doctor
from geozarr_nb.samples.products import sample_product
from geozarr_runner.planning.resources import cores


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sample_product(tmp_path_factory.mktemp("doctor") / "s2.zarr", 120)


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test a place, a state folder and a params.json of its own."""
    for name in [name for name in os.environ if name.startswith(("GEOZARR_", "ARGO_"))]:
        monkeypatch.delenv(name)
    parameters = [{"name": "groups", "value": "measurements/reflectance/r20m"}]
    path = tmp_path / "params.json"
    path.write_text(json.dumps({"arguments": {"parameters": parameters}}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GEOZARR_STATE_DIR", str(tmp_path / "state"))
    return path


def found(diagnosis: Diagnosis, name: str) -> Finding:
    return next(finding for finding in diagnosis.findings if finding.name == name)


def test_this_machine_can_convert(product: Path) -> None:
    diagnosis = doctor(product)
    assert diagnosis.ok, diagnosis
    names = [finding.name for finding in diagnosis.findings]
    assert names[:5] == ["Python", "geozarr-runner", "eopf-geozarr", "xarray", "zarr"]
    assert names[-5:] == ["product", "groups", "memory", "output folder", "state folder"]
    assert "Sentinel-2 L2A" in found(diagnosis, "product").found
    assert "this product" in found(diagnosis, "memory").found


def test_without_a_product_a_full_tile_is_the_measure() -> None:
    diagnosis = doctor()
    assert "a full tile needs about 6.3 GB" in found(diagnosis, "memory").found
    assert "product" not in [finding.name for finding in diagnosis.findings]


def test_checking_leaves_nothing_behind(product: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    doctor(product, tmp_path / "out" / "a.zarr")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("package", "version", "verdict", "remedy"),
    [
        ("xarray", "2026.9.0", "problem", "xarray<2026.9"),
        ("xarray", "2027.1", "problem", "xarray<2026.9"),
        ("xarray", "2026.7.0", "ok", ""),
        ("zarr", "3.1.6", "problem", "zarr>=3.2,<3.4"),
        ("zarr", "3.4.0", "problem", "zarr>=3.2,<3.4"),
        ("zarr", "3.3.1", "ok", ""),
        ("zarr", "2.18.3", "problem", "zarr>=3.2,<3.4"),
        ("eopf-geozarr", "0.13.0", "warning", "geozarr-nb[local]"),
        ("eopf-geozarr", "0.12.0", "ok", ""),
        ("eopf-geozarr", "unknown", "warning", "geozarr-nb[local]"),
    ],
)
def test_versions(monkeypatch: pytest.MonkeyPatch, package: str, version: str, verdict: str, remedy: str) -> None:
    actual = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version if name == package else actual(name))
    finding = found(doctor(), package)
    assert (finding.verdict, finding.found) == (verdict, version)
    assert remedy in finding.remedy


@pytest.mark.parametrize("package", ["eopf-geozarr", "geozarr-runner"])
def test_what_is_not_installed(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    actual = importlib.metadata.version

    def missing(name: str) -> str:
        if name == package:
            raise importlib.metadata.PackageNotFoundError(name)
        return actual(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    diagnosis = doctor()
    assert not diagnosis.ok
    assert [finding.name for finding in diagnosis.problems] == [package]
    assert diagnosis.problems[0].remedy.startswith("python -m pip install")


def test_old_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 11, 9))
    assert [finding.name for finding in doctor().problems] == ["Python"]


def test_one_core_and_another_c_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    diagnosis = doctor()
    assert diagnosis.ok
    assert found(diagnosis, "cores").verdict == "warning"
    assert found(diagnosis, "C library").verdict == "warning"


def test_the_cores_of_a_container_are_its_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr(cores, "__defaults__", (tmp_path, tmp_path / "own"))
    (tmp_path / "cpu.max").write_text("300000 100000")
    assert found(doctor(), "cores").found == "3"
    (tmp_path / "cpu.max").write_text("100000 100000")
    assert found(doctor(), "cores").verdict == "warning"


def test_a_state_folder_that_others_may_write(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(0o777)
    finding = found(doctor(), "state folder")
    assert (finding.verdict, "others may write" in finding.found) == ("problem", True)
    assert finding.remedy.startswith("chmod go-w")


def test_too_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    class Memory(NamedTuple):
        available: int

    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory(2_000_000_000))
    diagnosis = doctor()
    assert diagnosis.ok, "what is free now may be more when it runs"
    assert found(diagnosis, "memory").verdict == "warning"
    assert found(diagnosis, "memory").found.startswith("2.0 GB free")


class Usage(NamedTuple):
    """What `shutil.disk_usage` tells."""

    total: int
    used: int
    free: int


def test_too_little_disk(monkeypatch: pytest.MonkeyPatch, product: Path) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**10, 10**10, 1000))
    guessed, known = doctor(), doctor(product)
    assert found(guessed, "output folder").verdict == "warning", "a full tile may not be what is wanted"
    assert found(known, "output folder").verdict == "problem"
    assert "du -sh" in found(known, "output folder").remedy


def test_scratch_elsewhere_is_checked_for_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GEOZARR_SCRATCH", str(tmp_path / "scratch"))
    assert found(doctor(), "scratch folder").verdict == "ok"


def test_folder_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != locked and access(path, mode))
    monkeypatch.setenv("GEOZARR_STATE_DIR", str(locked / "state"))
    diagnosis = doctor(output=locked / "a.zarr")
    assert found(diagnosis, "output folder").remedy == f"chmod u+wx {locked}, or choose another output"
    assert found(diagnosis, "state folder").remedy.endswith("set GEOZARR_STATE_DIR")
    assert len(diagnosis.problems) == 2


def test_state_folder_that_is_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("GEOZARR_STATE_DIR", str(tmp_path / "file" / "state"))
    assert found(doctor(), "state folder").verdict == "problem"


@pytest.mark.parametrize("output", ["s3://user:secret@bucket/a.zarr", "https://user:secret@host/a.zarr"])
def test_output_that_can_be_nowhere(output: str) -> None:
    finding = found(doctor(output=output), "object store")
    assert finding.verdict == "problem"
    assert "secret" not in finding.found + finding.remedy


def test_output_in_an_object_store(product: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is not finished lies in scratch space, which is where the space is needed."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    diagnosis = doctor(product, f"{bucket}/a.zarr")
    assert found(diagnosis, "object store").found == f"{bucket}/a.zarr: nothing is there"
    assert str(tmp_path) in found(diagnosis, "scratch folder").found
    assert "output folder" not in [finding.name for finding in diagnosis.findings]
    assert diagnosis.ok, diagnosis
    missing = found(doctor(product, "s3://no-such-bucket/a.zarr"), "object store")
    assert (missing.verdict, missing.remedy) == ("problem", "make it, or correct the address")


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"arguments": {"parameters": [{"name": "group", "value": "a"}]}}',
        '{"arguments": {"parameters": [{"name": "groups", "value": 3}]}}',
    ],
)
def test_malformed_params(settings: Path, text: str) -> None:
    settings.write_text(text)
    finding = found(doctor(), "params.json")
    assert finding.verdict == "problem"
    assert "params.json" in finding.found
    assert finding.remedy


def test_product_that_is_not_there(tmp_path: Path) -> None:
    diagnosis = doctor(tmp_path / "none.zarr")
    finding = found(diagnosis, "product")
    assert finding.verdict == "problem"
    assert "none.zarr" in finding.found
    assert "groups" not in [other.name for other in diagnosis.findings]


@pytest.mark.parametrize("source", ["http://127.0.0.1:9/a.zarr", "", 3, {"assets": {}}, "nothing://a/b.zarr"])
def test_no_product_makes_it_raise(source: Any) -> None:
    assert found(doctor(source), "product").verdict == "problem"


def test_groups_of_params_that_the_product_lacks(settings: Path, product: Path) -> None:
    settings.write_text(settings.read_text().replace("r20m", "r20"))
    finding = found(doctor(product), "groups")
    assert finding.verdict in ("warning", "problem")
    assert "/measurements/reflectance/r20" in finding.found
    assert "/measurements/reflectance/r20m" in finding.remedy


def test_product_without_consolidated_metadata(product: Path, tmp_path: Path) -> None:
    shutil.copytree(product, tmp_path / "loose.zarr")
    (tmp_path / "loose.zarr" / ".zmetadata").unlink()
    assert found(doctor(tmp_path / "loose.zarr"), "product").verdict == "warning"


def test_reads_as_text_html_and_json(tmp_path: Path) -> None:
    diagnosis = doctor(tmp_path / "<none>.zarr")
    text = repr(diagnosis)
    assert "\n X  product" in text
    assert "remedy: " in text
    assert text.endswith("checks found a problem, 0 a warning")
    html = diagnosis._repr_html_()
    assert "&lt;none&gt;" in html
    assert "<none>" not in html
    document = json.loads(json.dumps(diagnosis.to_json()))
    assert document["ok"] is False
    assert {"name", "verdict", "found", "why", "remedy"} == set(document["findings"][0])


def test_every_finding_says_why_and_every_bad_one_what_to_do(tmp_path: Path) -> None:
    for finding in doctor(tmp_path / "none.zarr", "https://host/a.zarr").findings:
        assert finding.why
        assert bool(finding.remedy) == (finding.verdict != "ok")

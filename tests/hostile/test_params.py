"""A params.json that merely lies in the working directory chooses neither image nor claim; a job says what did."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

import geozarr_nb as gz
from geozarr_nb.backends.local import worker
from geozarr_nb.backends.local.state_folder import StateFolder
from geozarr_nb.errors import InvalidRequest
from geozarr_nb.jobs.job import Job
from geozarr_nb.samples.products import sample_product
from geozarr_nb.settings import Settings

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "somebody's folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("GEOZARR_PARAMS", raising=False)
    return folder


def write(folder: Path, **parameters: str) -> Path:
    path = folder / "params.json"
    entries = [{"name": name, "value": value} for name, value in parameters.items()]
    path.write_text(json.dumps({"arguments": {"parameters": entries}}))
    return path


@pytest.mark.parametrize("name", ["image", "pvc_name"])
def test_what_nobody_named_is_refused_with_the_line_to_type(here: Path, name: str) -> None:
    path = write(here, groups="a", **{name: "evil"})
    with pytest.raises(InvalidRequest) as caught:
        Settings.load({})
    assert name in caught.value.message
    assert caught.value.given == str(path)
    line = caught.value.remedy.partition(" if you trust it")[0]
    said = subprocess.run(["sh", "-c", f'{line}; printf %s "$GEOZARR_PARAMS"'], capture_output=True, check=True)
    assert getattr(Settings.load({"GEOZARR_PARAMS": said.stdout.decode()}), name) == "evil"


def test_both_are_named_at_once(here: Path) -> None:
    write(here, image="evil", pvc_name="evil")
    with pytest.raises(InvalidRequest, match="image and pvc_name"):
        gz.list_jobs("local")


def test_a_variable_chooses_in_its_place(here: Path) -> None:
    write(here, image="evil")
    assert Settings.load({"GEOZARR_IMAGE": "mine:1"}).image == "mine:1"


@pytest.mark.parametrize("named", ["params.json", "./params.json"])
def test_a_file_counts_where_it_is_named(here: Path, named: str) -> None:
    write(here, image="mine:1", pvc_name="mine")
    settings = Settings.load({"GEOZARR_PARAMS": named})
    assert (settings.image, settings.pvc_name) == ("mine:1", "mine")


def test_what_any_folder_may_say_counts(here: Path) -> None:
    path = write(here, stac_url="a.zarr", output_zarr="b.zarr", groups="c", validate_groups="true", archive="true")
    settings = Settings.load({})
    found = (settings.stac_url, settings.output_zarr, settings.groups, settings.validate_groups, settings.archive)
    assert found == ("a.zarr", "b.zarr", "c", True, True)
    assert settings.told(["groups"]) == (
        f"archive, output_zarr, stac_url, validate_groups from {path}; groups from arguments; defaults for all others"
    )


def test_make_submit_names_the_file(tmp_path: Path) -> None:
    """The line as it stands, in a Makefile of its own: a submission needs a cluster."""
    [line] = [line for line in (ROOT / "Makefile").read_text().splitlines() if "export GEOZARR_PARAMS" in line]
    assert line.startswith("submit ")
    (tmp_path / "Makefile").write_text(f"{line}\nsubmit:\n\t@echo $$GEOZARR_PARAMS\n")

    def named(**environ: str) -> str:
        command, used = ["make", "-s", "submit"], {"PATH": os.environ["PATH"], **environ}
        return subprocess.run(command, cwd=tmp_path, env=used, capture_output=True, check=True).stdout.decode().strip()

    assert named() == named(GEOZARR_PARAMS="") == "params.json"
    assert named(GEOZARR_PARAMS="mine.json") == "mine.json"


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a": ' + "1" * 5000 + "}", " " * 1_000_001 + "{}", "{" + '"a":{' * 9999]
)
def test_a_file_that_is_too_much_is_our_error(here: Path, text: str) -> None:
    (here / "params.json").write_text(text)
    with pytest.raises(InvalidRequest, match=r"params\.json") as caught:
        Settings.load({})
    assert caught.value.remedy


def test_a_jobs_first_event_says_where_each_setting_came_from(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(here, groups="measurements/reflectance/r60m", output_zarr=str(tmp_path / "out.zarr"))
    monkeypatch.setenv("GEOZARR_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("GEOZARR_BACKEND", "local")
    monkeypatch.setattr(worker, "start", lambda *_: None)
    job = gz.submit(sample_product(tmp_path / "p.zarr", size=120), if_exists="overwrite")
    assert job.events() == [], "a run that has said nothing has no first event"
    folder = StateFolder(tmp_path / "state").job(job.name)
    folder.events.write_text('{"v": 1, "time": "2100-01-01T00:00:00+00:00", "type": "message", "text": "begun"}\n')
    folder.log.write_text(folder.events.read_text())
    for read in (lambda: job.events(), lambda: gz.get_job(job.name).events(), lambda: [next(job.events(follow=True))]):
        first = read()[0]
        assert first.type == "message"
        assert first["text"] == (
            f"settings: groups, output_zarr from {path}; backend from GEOZARR_BACKEND; state_dir from "
            "GEOZARR_STATE_DIR; stac_url from arguments; defaults for all others"
        )
    assert [line.partition(":")[0] for line in job.logs()] == ["settings", "begun"]
    assert job.logs(tail=1) == ["begun"]
    job.cancel()
    assert isinstance(job, Job)

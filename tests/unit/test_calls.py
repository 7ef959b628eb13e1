"""The public calls that forms are made of: checking without submitting, watching, what a job runs in."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

import geozarr_nb as gz
from geozarr_nb.backends.local.backend import LocalBackend
from geozarr_nb.settings import Settings
from tests.contract.support import until

GROUP = "/measurements/reflectance/r60m"


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GEOZARR_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "state"


def test_a_check_tells_what_would_be_submitted(sample: Path, tmp_path: Path) -> None:
    request = gz.check(sample, "out.zarr", groups=[GROUP])
    assert request.output == str(tmp_path / "out.zarr")
    assert request.groups == (GROUP,)
    assert len(gz.list_jobs()) == 0
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("look", [True, False])
def test_a_check_refuses_what_submit_would(sample: Path, look: bool) -> None:
    with pytest.raises(gz.InvalidRequest, match="r61m"):
        gz.check(sample, "out.zarr", groups=["/measurements/reflectance/r61m"], look=look)


def test_a_check_looks_at_the_place_unless_it_is_told_not_to(sample: Path, tmp_path: Path) -> None:
    (tmp_path / "out.zarr").mkdir()
    with pytest.raises(gz.GeozarrError) as raised:
        gz.check(sample, "out.zarr", groups=[GROUP])
    assert raised.value.code == "output-exists"
    assert gz.check(sample, "out.zarr", groups=[GROUP], look=False).output == str(tmp_path / "out.zarr")


@pytest.mark.parametrize("call", [gz.check, gz.submit, gz.convert])
def test_a_process_of_this_machine_has_no_pod(sample: Path, call: object) -> None:
    assert callable(call)
    with pytest.raises(gz.InvalidRequest, match="leave image and time_limit out") as raised:
        call(sample, "out.zarr", groups=[GROUP], backend="local", image="runner:1", time_limit=60)
    assert raised.value.given == "image='runner:1', time_limit=60"
    assert len(gz.list_jobs()) == 0


def test_arguments_win_over_settings() -> None:
    settings = Settings.load({"GEOZARR_IMAGE": "runner:1", "GEOZARR_MEMORY": "1Gi"})
    chosen = settings.with_arguments(image=" runner:2 ", memory=None)
    assert (chosen.image, chosen.memory) == ("runner:2", "1Gi")
    assert chosen.origins["image"] == "argument"
    assert settings.with_arguments(image="", memory=None) is settings
    with pytest.raises(gz.InvalidRequest, match="memory is no amount of memory"):
        settings.with_arguments(memory="much")
    with pytest.raises(gz.InvalidRequest, match="cpu is no number of cores"):
        settings.with_arguments(cpu="many")


def test_jobs_are_watched_until_they_need_not_be(sample: Path, state: Path) -> None:
    stop = threading.Event()
    seen: list[str] = []

    def watch() -> None:
        seen.extend(state.name for state in gz.watch_jobs(stop))

    thread = threading.Thread(target=watch)
    thread.start()
    job = gz.submit(sample, "out.zarr", groups=[GROUP])
    until(lambda: job.name in seen)
    stop.set()
    thread.join(10)
    assert not thread.is_alive()
    job.cancel()


def test_a_log_that_is_followed_can_be_left(sample: Path, state: Path) -> None:
    gz.submit(sample, "out.zarr", groups=[GROUP])
    backend = LocalBackend(state)
    job = gz.Job(backend, backend.list()[0].name)
    stop = threading.Event()
    lines = job.logs(follow=True, stop=stop)
    first = next(lines)
    assert first
    stop.set()
    rest = list(lines)
    assert not job.state.is_finished, f"the log was left while the job ran, after {len(rest)} more lines"
    job.cancel()

"""What every backend does, with the real converter."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import xarray as xr
import zarr

import geozarr_nb as gz
from benchmarks.server import ProductServer
from geozarr_nb.errors import ConversionFailed, GeozarrError, InvalidRequest, JobNotFound, OutputBusy, OutputExists
from geozarr_nb.jobs.job import Job
from geozarr_runner.events import STAGES
from tests.contract.support import GROUP, Place, until

MASK = "/quality/mask/r60m"


@pytest.mark.usefixtures("at_home")
class TestSucceeded:
    """A job that has succeeded."""

    def test_state(self, converted: Job) -> None:
        state = converted.state
        assert (state.status, state.reason, state.failure, state.attempt) == ("Succeeded", "", None, 1)
        assert state.submitted <= state.started <= state.finished  # type: ignore[operator]
        assert converted.elapsed == state.elapsed > 0
        assert state.request.groups == (GROUP,)

    def test_events_are_in_order(self, converted: Job) -> None:
        events = converted.events()
        stages = [(event["stage"], event["state"]) for event in events if event.type == "stage"]
        assert stages == [(stage, state) for stage in STAGES for state in ("started", "finished")]
        assert events[-1].type == "result"
        assert [event.time for event in events] == sorted(event.time for event in events)
        assert list(converted.events(follow=True)) == events

    def test_progress_was_measured(self, converted: Job) -> None:
        progress = [event for event in converted.events() if event.type == "progress"]
        assert {event["stage"] for event in progress} >= {"convert", "verify"}
        for _, part in groupby(progress, key=lambda event: event["stage"]):
            done = [(event["done"], event["total"]) for event in part]
            assert done == sorted(done)
            assert done[-1][0] == done[-1][1]

    def test_logs_have_the_converters_lines(self, converted: Job) -> None:
        lines = converted.logs()
        assert any(line.startswith("  | ") for line in lines)
        assert not any(line.startswith("{") for line in lines)
        assert converted.logs(tail=2) == lines[-2:]
        assert converted.logs(tail=0) == []
        assert list(converted.logs(follow=True)) == lines

    def test_result(self, converted: Job) -> None:
        assert converted.result is not None
        assert converted.result["path"] == converted.output
        assert converted.result["identity"] == converted.request.identity
        assert converted.result["groups"] == [GROUP]
        tree = converted.open()
        assert GROUP in tree.groups
        tree.close()

    def test_item(self, converted: Job) -> None:
        item = converted.item()
        assert item.get_self_href() == f"{converted.output}.stac.json"
        assert item.assets["product"].href == converted.output
        assert [link.href for link in item.get_links("derived_from")] == [converted.request.shown]
        assert item.properties["geozarr:request"] == converted.request.identity
        group = xr.open_zarr(item.assets["product"].href, group=GROUP)
        assert group.b02[:4, :4].values.tolist() == converted.open()[GROUP].b02[:4, :4].values.tolist()

    def test_nothing_more_happens_to_it(self, converted: Job) -> None:
        state = converted.state
        assert converted.wait(timeout=0).cancel().raise_for_status().state == state
        with pytest.raises(InvalidRequest, match="nothing to retry"):
            converted.retry()

    def test_it_is_found_by_another_process(self, converted: Job, home: Place) -> None:
        code = (
            "import sys, geozarr_nb as gz; job = gz.get_job(sys.argv[1]).wait(timeout=600);"
            "sys.stdout.write(f'{job.status} {job.result[\"path\"]} {len(gz.list_jobs())}')"
        )
        run = subprocess.run(
            [sys.executable, "-c", code, converted.name], env=home.environ, capture_output=True, text=True, check=True
        )
        assert run.stdout == f"Succeeded {converted.output} 1"

    def test_it_shows_itself(self, converted: Job) -> None:
        for text in (repr(converted), converted._repr_html_()):
            assert all(part in text for part in (converted.name, "Succeeded", converted.output))

    def test_its_output_is_in_the_way_of_the_same_request(self, converted: Job, home: Place) -> None:
        with pytest.raises(OutputExists):
            home.submit("out")
        with pytest.raises(OutputExists):
            home.submit("out", groups=[MASK], if_exists="skip")

    def test_skip_finds_it_done(self, converted: Job, home: Place) -> None:
        again = home.submit("out", groups=GROUP[1:], if_exists="skip")
        assert (again.name, again.status, again.state.attempt) == (converted.name, "Succeeded", 1)


def test_skip_finds_it_done_without_a_memory_of_the_job(place: Place) -> None:
    job = place.submit("a").wait(timeout=600).raise_for_status()
    before = place.stamp("a")
    place.forget(job)
    until(lambda: len(gz.list_jobs()) == 0)
    again = place.submit("a", if_exists="skip").wait(timeout=600)
    assert again.raise_for_status().result is not None
    assert again.result["skipped"] is True  # type: ignore[index]
    assert place.stamp("a") == before


def test_an_output_is_packed_once_and_fetched(place: Place, tmp_path: Path) -> None:
    job = place.submit("a", archive=True).wait(timeout=600).raise_for_status()
    assert job.result is not None
    told = job.result["archive"]
    assert told["path"] == f"{job.output}.tar.gz"
    assert place.leftovers("a") == ["a.zarr.tar.gz", "a.zarr.tar.gz.sha256"]
    stages = [event["stage"] for event in job.events() if event.type == "stage" and event["state"] == "started"]
    assert stages == [*STAGES, "archive"]
    assert (job.stage, job.progress) == ("archive", (*[job.result["bytes_written"]] * 2, "bytes"))

    archive = job.download(tmp_path / "got.tar.gz", progress=False)
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == told["sha256"]
    assert archive.stat().st_size == told["bytes"]
    folder = job.download(tmp_path / "got.zarr", progress=False)
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) == job.result["bytes_written"]
    assert gz.open(folder).identical(job.open())
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    assert gz.open(tmp_path / "unpacked" / "a.zarr").identical(job.open())

    before = place.stamp("a")
    again = place.submit("a", archive=True, if_exists="skip")
    assert (again.status, again.state.attempt) == ("Succeeded", 1)
    place.submit("a", if_exists="overwrite").wait(timeout=600).raise_for_status()
    assert place.stamp("a") != before
    assert place.leftovers("a") == []


def test_a_group_is_called_whatever_its_product_calls_it(place: Place, sample: Path, tmp_path: Path) -> None:
    """Blanks, commas, accents, and what Argo, Kubernetes and shells read on the way."""
    names = ["surface reflectance, 60 m", 'höhe/高さ "$(HOME) {{x}}"']
    product = tmp_path / "named.zarr"
    shutil.copytree(sample / GROUP[1:], product / names[0])
    shutil.copytree(sample / GROUP[1:], product / names[1])
    for folder in (product, product / names[1].partition("/")[0]):
        (folder / ".zgroup").write_text('{"zarr_format": 2}', encoding="utf-8")
    zarr.consolidate_metadata(product, zarr_format=2)
    wanted = [f"/{name}" for name in names]
    job = gz.submit(place.product(product), place.output("a"), groups=wanted, backend=place.backend)
    assert job.request.groups == tuple(wanted)
    job.wait(timeout=600).raise_for_status()
    assert gz.get_job(job.name, backend=place.backend).request.groups == tuple(wanted)
    assert set(wanted) <= set(job.open().groups)


def test_integers_stay_integers_where_that_is_asked_for(place: Place) -> None:
    with pytest.raises(InvalidRequest, match="whole Sentinel-2 products only"):
        place.submit("a", packed=True)
    job = place.submit("a", groups=[], packed=True).wait(timeout=600).raise_for_status()
    band = job.open()["/measurements/reflectance/r60m"]["b01"]
    assert (str(band.dtype), str(band.encoding["dtype"])) == ("float64", "uint16")
    with pytest.raises(OutputExists, match="another request"):
        place.submit("a", groups=[], if_exists="skip")


def test_what_is_there_is_packed_when_that_is_asked_for(place: Place) -> None:
    job = place.submit("a").wait(timeout=600).raise_for_status()
    assert job.result is not None
    assert job.result["archive"] is None
    before = place.stamp("a")
    again = place.submit("a", archive=True, if_exists="skip").wait(timeout=600).raise_for_status()
    assert again.result is not None
    assert (again.name, again.state.attempt, again.result["skipped"]) == (job.name, 2, True)
    assert again.result["archive"]["bytes"] > 0
    assert (place.stamp("a"), place.leftovers("a")) == (before, ["a.zarr.tar.gz", "a.zarr.tar.gz.sha256"])


def test_what_has_just_finished_can_be_overwritten(place: Place) -> None:
    place.submit("a").wait(timeout=600).raise_for_status()
    before = place.stamp("a")
    place.hold()
    again = place.submit("a", if_exists="overwrite")
    assert again.state.attempt == 2
    assert again.status in ("Pending", "Running")
    again.cancel()
    assert (again.status, place.exists("a"), place.stamp("a")) == ("Failed", True, before)
    assert place.leftovers("a") == []


def test_equal_requests_are_one_job_and_one_output_has_one_writer(place: Place) -> None:
    job = place.submit("a")
    assert job.status in ("Pending", "Running")
    same = place.submit("a", groups=GROUP[1:], if_exists="overwrite")
    assert same.name == job.name
    assert len(gz.list_jobs()) == 1
    with pytest.raises(OutputBusy, match=job.name):
        place.submit("a", groups=[MASK])
    with pytest.raises(TimeoutError, match="goes on"):
        job.wait(timeout=0.2)

    # One runs, the next one waits and says so, and while it runs it says how far it is.
    place.hold(MASK)
    waiting = place.submit("b", groups=[MASK])
    seen = []
    for state, _ in job.steps(timeout=600, poll_interval=0.05):
        seen.append((state.status, state.stage, state.progress))
        if state.status == "Running":
            other = waiting.state
            assert other.status in ("Pending", "Running")
            assert other.status != "Pending" or other.reason
            # Where the first has ended meanwhile, the next one is about to start.
            both = place.backend == "local" and other.status == "Pending" and job.status == "Running"
            assert not both or "at a time" in other.reason
    assert job.raise_for_status().status == "Succeeded"
    assert {status for status, _, _ in seen} == {"Pending", "Running", "Succeeded"} or seen[0][0] == "Running"
    assert "convert" in {stage for _, stage, _ in seen}
    assert any(progress and progress.total and progress.done < progress.total for _, _, progress in seen)

    waiting.cancel()
    assert (waiting.status, waiting.reason) == ("Failed", "it was cancelled")
    assert place.running("b") == []
    assert place.leftovers("b") == []
    assert not place.exists("b")


@pytest.mark.parametrize("moment", ["started", "converting", "verifying"])
def test_cancel_leaves_nothing_of_a_job(place: Place, moment: str) -> None:
    job = place.submit("a")
    until(lambda: job.status == "Running")
    if moment == "converting":
        until(lambda: place.converting("a"))
    elif moment == "verifying":
        until(lambda: job.stage in ("verify", "publish") or job.state.is_finished)
    survivors = place.family("a")
    job.cancel()
    assert place.running("a") == []
    assert survivors() == []
    assert place.leftovers("a") == []
    if moment != "started" and job.status == "Succeeded":  # it was faster, and then it has all of its output
        assert job.result is not None
    else:
        assert (job.status, job.reason) == ("Failed", "it was cancelled")
        assert not place.exists("a")
        with pytest.raises(ConversionFailed, match="cancelled"):
            job.open()
    state = job.state
    assert job.cancel().state == state


def test_a_broken_product_fails_with_a_reason_and_succeeds_when_mended(
    place: Place, sample: Path, tmp_path: Path
) -> None:
    product = shutil.copytree(sample, tmp_path / "broken.zarr")
    address = place.product(product)
    chunk = next(path for path in sorted((product / GROUP[1:] / "b02").iterdir()) if not path.name.startswith("."))
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[:16] + b"\xff" * (len(whole) - 16))  # as long as it says, so the converter meets it first
    with pytest.raises(ConversionFailed) as caught:
        gz.convert(address, place.output("a"), groups=[GROUP], progress=False, backend=place.backend)
    error, job = caught.value, caught.value.job
    assert (job.status, job.state.failure.code, error.code) == ("Failed", error.code, error.code)  # type: ignore[union-attr]
    assert error.exit_code != 0
    text = str(error)
    for part in (
        job.reason,
        address,
        job.output,
        GROUP,
        error.remedy,
        "last lines",
        f'get_job("{job.name}").retry()',
    ):
        assert part, text
        assert part in text
    assert place.leftovers("a") == []
    assert not place.exists("a")

    chunk.write_bytes(whole)
    job.retry()
    assert job.wait(timeout=600).raise_for_status().state.attempt == 2
    assert job.reason == ""


def test_interrupting_a_wait_leaves_the_job(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Job.steps

    def interrupted(*arguments: Any) -> Iterator[object]:
        yield next(steps(*arguments))
        signal.raise_signal(signal.SIGINT)
        yield

    with place.held_product() as address:
        job = gz.submit(address, place.output("a"), groups=[GROUP])
        monkeypatch.setattr(Job, "steps", interrupted)
        with pytest.raises(KeyboardInterrupt) as caught:
            job.wait()
        assert any(f'get_job("{job.name}").wait()' in note for note in caught.value.__notes__)
        assert not job.state.is_finished
        job.cancel()


SUBMITTER = """
import sys, geozarr_nb as gz
job = gz.{call}({source!r}, {output!r}, groups={group!r})
sys.stdout.write(job.name + chr(10))
sys.stdout.flush()
sys.stdin.read()
"""


def start(place: Place, call: str, source: str, name: str) -> subprocess.Popen[str]:
    code = SUBMITTER.format(call=call, source=source, output=place.output(name), group=GROUP)
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", code], env=place.environ, stdin=pipe, stdout=pipe, stderr=pipe, text=True
    )


def test_a_job_outlives_the_process_that_submitted_it(place: Place) -> None:
    with start(place, "submit", place.sample, "a") as kernel:
        assert kernel.stdout is not None
        name = kernel.stdout.readline().strip()
        until(lambda: gz.get_job(name).stage == "convert")
        kernel.kill()
    job = gz.get_job(name).wait(timeout=600).raise_for_status()
    assert (job.output, job.request.groups) == (place.output("a"), (GROUP,))
    assert job.events()[-1].type == "result"


def test_ctrl_c_in_convert_leaves_the_job_and_says_how_to_come_back(place: Place) -> None:
    with place.held_product() as address:
        with start(place, "convert", address, "a") as script:
            until(lambda: any(job.status == "Running" for job in gz.list_jobs()))
            script.send_signal(signal.SIGINT)
            _, errors = script.communicate()
        (job,) = gz.list_jobs()
        assert script.returncode == -signal.SIGINT
        assert f'geozarr_nb.get_job("{job.name}").wait()' in errors
        assert f'geozarr_nb.get_job("{job.name}").cancel()' in errors
        assert not job.state.is_finished  # type: ignore[union-attr]
        job.cancel()


def test_a_run_killed_from_outside_says_so_and_can_be_repeated(place: Place) -> None:
    job = place.submit("a")
    until(lambda: place.converting("a"))
    place.kill("a")
    job.wait(timeout=600)
    assert (job.status, job.state.failure.retryable) == ("Error", True)  # type: ignore[union-attr]
    assert "killed from outside" in job.reason
    until(lambda: not place.running("a"))
    gz.get_job(job.name)
    assert not place.exists("a")
    assert place.leftovers("a") == [] or not place.tidies
    assert job.retry().wait(timeout=600).raise_for_status().state.attempt == 2
    assert place.leftovers("a") == []


def test_a_secret_in_the_address_is_used_and_left_nowhere(place: Place, sample: Path) -> None:
    with ProductServer(sample.parent, host=place.host, signature="signature=s3cr3t") as server:
        job = gz.submit(f"{server.url}/{sample.name}?signature=s3cr3t", place.output("a"), groups=[GROUP])
        assert "s3cr3t" not in repr(job) + job._repr_html_()
        job.wait(timeout=600).raise_for_status()
    assert place.traces("s3cr3t") == []
    assert "s3cr3t" not in "".join(job.logs())


@pytest.mark.parametrize(
    ("source", "options", "code"),
    [
        ("missing.zarr", {}, "product-not-found"),
        (None, {"groups": ["r60"]}, "groups-missing"),
        (None, {"groups": [GROUP, "nope"], "validate_groups": True}, "groups-missing"),
        (None, {"backend": "moon"}, "invalid-request"),
        (None, {"if_exists": "perhaps"}, "invalid-request"),
        (None, {"output": "https://host/a.zarr"}, "invalid-request"),
    ],
)
def test_what_cannot_run_is_refused_at_once(
    place: Place, source: str | None, options: dict[str, object], code: str
) -> None:
    used = {"groups": [GROUP], "output": place.output("a"), **options}
    with pytest.raises(GeozarrError) as caught:
        gz.submit(place.product(source) if source else place.sample, **used)  # type: ignore[arg-type]
    assert caught.value.code == code
    assert caught.value.remedy
    assert len(gz.list_jobs()) == 0
    assert place.files() == []


def test_default_groups_that_are_missing_are_said_to_be_defaults(place: Place, tmp_path: Path) -> None:
    params = tmp_path / "params.json"
    params.write_text(json.dumps({"arguments": {"parameters": [{"name": "groups", "value": "reflectance/r61m"}]}}))
    with pytest.raises(gz.GeozarrError) as caught:
        gz.submit(place.sample, place.output("a"))
    assert f"default of {params}" in caught.value.message
    assert "groups=[]" in caught.value.remedy


def test_an_unknown_job_is_not_found(place: Place) -> None:
    with pytest.raises(JobNotFound):
        gz.get_job("no-such-job")

"""What others do with a job's Workflow through Argo's own program is seen as what it is."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

import geozarr_nb as gz
from geozarr_nb.jobs.job import Job
from tests.cluster.support import ClusterPlace
from tests.contract.support import until

ARGO = shutil.which("argo")
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(ARGO is None, reason="no argo on PATH: https://github.com/argoproj/argo-workflows/releases"),
]


def argo(place: ClusterPlace, *arguments: str) -> str:
    """Return what a command of Argo's prints."""
    command = ["argo", "--namespace", place.namespace.name, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def failed(place: ClusterPlace) -> Job:
    """Return a job that was killed in the middle of its run."""
    place.hold()
    job = place.submit("a")
    until(lambda: job.stage == "stage", seconds=60)
    job.cancel()
    assert job.status == "Failed"
    place.release()
    return job


def test_resubmitted(place: ClusterPlace) -> None:
    job = failed(place)
    argo(place, "resubmit", job.name)
    until(lambda: job.state.attempt == 2, seconds=30)
    assert job.wait(timeout=120).status == "Succeeded"
    assert [state.name for state in gz.list_jobs().jobs] == [job.name]
    assert len(place.runs("a")) == 1
    [run] = [event for event in job.events() if event.type == "run"]
    assert any(flow["metadata"]["uid"] in run["id"] for flow in place.namespace.workflows(place.path("a")))
    tree = job.open()
    assert tree.groups
    tree.close()


def test_tried_again(place: ClusterPlace) -> None:
    job = failed(place)
    argo(place, "retry", job.name)
    until(lambda: job.status != "Failed", seconds=30)
    assert job.wait(timeout=120).status == "Succeeded"
    assert job.reason == ""


def test_suspended_and_resumed(place: ClusterPlace) -> None:
    job = place.submit("a")
    argo(place, "suspend", job.name)
    until(lambda: job.state.is_finished or "suspended" in job.reason or job.status == "Running", seconds=30)
    argo(place, "resume", job.name)
    assert job.wait(timeout=120).status == "Succeeded"


@pytest.mark.parametrize("how", ["stop", "terminate"])
def test_ended(place: ClusterPlace, how: str) -> None:
    place.hold()
    job = place.submit("a")
    until(lambda: job.stage == "stage", seconds=60)
    argo(place, how, job.name)
    until(lambda: job.state.is_finished, seconds=90)
    failure = job.state.failure
    assert failure is not None
    assert failure.code == "cancelled", json.dumps(failure.message)
    assert not place.exists("a")
    place.release()
    assert place.submit("a").wait(timeout=120).status == "Succeeded"


def test_deleted_while_it_runs(place: ClusterPlace) -> None:
    place.hold()
    job = place.submit("a")
    until(lambda: job.stage == "stage", seconds=60)
    argo(place, "delete", job.name)
    place.release()
    with pytest.raises(gz.JobNotFound, match=r"no job|removed"):
        job.wait(timeout=60)
    assert place.submit("a").wait(timeout=120).status == "Succeeded"

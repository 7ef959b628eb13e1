"""What goes wrong on a cluster while a job runs: no job is lost, none is done twice, and the reason is said."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

import geozarr_nb as gz
from geozarr_nb.errors import ClusterObjectMissing, WaitTimeout
from geozarr_nb.jobs.job import Job
from geozarr_runner.events import Event, parse_all
from tests.cluster.support import IMAGE, Breaker, ClusterPlace, FolderVolume, kubectl
from tests.contract.support import GROUP, until

pytestmark = pytest.mark.cluster
SECONDS_WITHOUT_A_KUBELET = 30
SMALL = 64 << 20  # bytes of a volume that is soon full


def submit_held(place: ClusterPlace, **options: object) -> Job:
    """Return a job that is in the middle of its run, and stays there until the server's answers are released."""
    place.hold()
    job = place.submit("a", **options)
    until(lambda: job.stage == "stage")
    return job


def see_done_once(place: ClusterPlace, job: Job) -> None:
    """See that a job is there, has succeeded, and did its work once."""
    assert job.raise_for_status().state.attempt == 1
    assert [state.name for state in gz.list_jobs().jobs] == [job.name]
    assert len(place.runs("a")) == 1
    until(lambda: place.running("a") == [])  # the job is done when its output is: its pod ends a little later
    assert place.leftovers("a") == []
    tree = job.open()
    assert GROUP in tree.groups
    tree.close()


def see_nothing_made(place: ClusterPlace, job: Job) -> None:
    """See that a job that failed is there, with nothing of an output, and that it was not tried again in vain."""
    assert [state.name for state in gz.list_jobs().jobs] == [job.name]
    assert place.running("a") == []
    assert not place.exists("a")
    assert len(place.tries("a")) <= 1


def told(events: list[Event]) -> list[tuple[str, str, str]]:
    """Return events as something that can be compared."""
    return [(event.type, event.time.isoformat(), json.dumps(event.fields, sort_keys=True)) for event in events]


def written(place: ClusterPlace) -> list[Event]:
    """Return the events of all runs as they wrote them down themselves."""
    events = parse_all(place.volume.text(f"{place.path('a')}.log.jsonl").splitlines())
    return [event for event in events if event.type != "log"]


@pytest.mark.nightly
@pytest.mark.alone
def test_api_server_killed_three_times(place: ClusterPlace, breaker: Breaker) -> None:
    job = submit_held(place)
    with ThreadPoolExecutor(1) as pool:
        follower = pool.submit(lambda: list(job.events(follow=True)))
        for number in range(3):
            breaker.kill("kube-apiserver")
            # What was known is known still, and that the cluster is silent is no reason to give a job up.
            until(lambda: "has not answered" in job.reason, seconds=20)
            assert job.status == "Running"
            if number == 2:
                place.release()  # the run goes on, and to its end, without anybody to tell
            breaker.up()
        events = follower.result(timeout=120)
    see_done_once(place, job)
    assert told(events[1:]) == told(written(place))  # the first one is the submitter's


@pytest.mark.alone
def test_controller_restarted(place: ClusterPlace) -> None:
    job = submit_held(place)
    kubectl("delete", "pods", "--all-namespaces", "-l", "app=workflow-controller", "--grace-period=0", "--force")
    place.release()
    job.wait(timeout=90)
    see_done_once(place, job)
    assert told(job.events()[1:]) == told(written(place))  # the first one is the submitter's


@pytest.mark.parametrize("grace", ["60", "0"], ids=["asked", "by force"])
def test_pod_deleted(place: ClusterPlace, grace: str) -> None:
    job = submit_held(place)
    until(lambda: [node["phase"] for node in place.tries("a")] == ["Running"])
    # A pod that Argo misses in its first ten seconds it makes anew, as if there had been none.
    started = datetime.fromisoformat(place.tries("a")[0]["startedAt"])
    until(lambda: datetime.now(UTC) - started > timedelta(seconds=11))
    (pod,) = place.namespace.pods(place.path("a"))
    options = ["--force"] if grace == "0" else []
    place.namespace.kubectl(
        "delete", "pod", pod["metadata"]["name"], f"--grace-period={grace}", "--wait=false", *options
    )
    until(lambda: len(place.tries("a")) == 2)
    place.release()
    job.wait(timeout=120)
    see_done_once(place, job)
    # Both runs are told, each event once, and the second one to its end.
    assert told(job.events()[1:]) == told(written(place))  # the first one is the submitter's
    runs = [event for event in job.events() if event.type == "run"]
    assert len(runs) == 2
    # Nor is the next one kept waiting by what is left of it.
    assert place.submit("a", if_exists="overwrite").wait(timeout=90).status == "Succeeded"


@pytest.mark.nightly
@pytest.mark.alone
def test_kubelet_killed(place: ClusterPlace, breaker: Breaker) -> None:
    job = submit_held(place)
    breaker.kill("kubelet")
    with pytest.raises(WaitTimeout):
        job.wait(timeout=SECONDS_WITHOUT_A_KUBELET)
    assert (job.status, job.stage) == ("Running", "stage")
    breaker.up()
    place.release()
    job.wait(timeout=120)
    see_done_once(place, job)
    assert told(job.events()[1:]) == told(written(place))  # the first one is the submitter's


def test_out_of_memory(place: ClusterPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOZARR_MEMORY", "120Mi")
    job = place.submit("a").wait(timeout=90)
    assert job.status in ("Failed", "Error")
    assert "memory" in job.reason
    failure = job.state.failure
    assert failure is not None
    # It says how much would do, and how to give it.
    assert re.search(r"GEOZARR_MEMORY=\d+Gi", failure.remedy)
    see_nothing_made(place, job)


def test_image_missing(place: ClusterPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOZARR_IMAGE", "eopf-geozarr:absent")
    with pytest.raises(ClusterObjectMissing, match="eopf-geozarr:absent is not on") as caught:
        place.submit("a")
    assert "load-k3d" in caught.value.remedy
    assert len(gz.list_jobs()) == 0

    job = submit_plainly(place, image="eopf-geozarr:absent")
    until(lambda: "eopf-geozarr:absent is not on" in job.reason)
    assert job.status == "Pending"
    assert "load-k3d" in job.reason
    job.cancel()
    see_nothing_made(place, job)


def test_claim_missing(place: ClusterPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    output = f"pvc://absent/{place.path('a')}"
    with pytest.raises(ClusterObjectMissing, match="no claim absent") as caught:
        gz.submit(place.sample, output, groups=[GROUP])
    assert "make pvc" in caught.value.remedy
    assert len(gz.list_jobs()) == 0

    job = submit_plainly(place, pvc_name="absent")
    until(lambda: "no claim absent" in job.reason)
    assert job.status == "Pending"
    assert "make pvc" in job.reason
    job.cancel()
    see_nothing_made(place, job)


def submit_plainly(place: ClusterPlace, **parameters: str) -> Job:
    """Submit as one does without the SDK, which would refuse what cannot run."""
    values = {"stac_url": place.sample, "output_zarr": place.path("a"), "groups": GROUP, "image": IMAGE, **parameters}
    given = [{"name": name, "value": value} for name, value in values.items()]
    workflow = {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "metadata": {"name": f"plain-{uuid4().hex[:8]}"},
        "spec": {"workflowTemplateRef": {"name": "geozarr-convert"}, "arguments": {"parameters": given}},
    }
    place.namespace.kubectl("create", "-f", "-", given=json.dumps(workflow))
    name = workflow["metadata"]["name"]  # type: ignore[index]
    until(lambda: name in [job.name for job in gz.list_jobs().jobs], seconds=10)
    return gz.get_job(name)


@pytest.fixture
def small(place: ClusterPlace, tmp_path: Path) -> Iterator[ClusterPlace]:
    """The same place with a claim whose volume is full very soon."""
    if not isinstance(place.volume, FolderVolume):
        pytest.skip("the volumes are on another machine: no small file system can be mounted there")
    name = f"small-{uuid4().hex[:8]}"
    root = tmp_path / "small"
    root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SMALL},mode=0777", "geozarr-test", root], check=True)
    size = {"storage": "1Gi"}
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": size,
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": name,
            "hostPath": {"path": str(root)},
        },
    }
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": name, "resources": {"requests": size}},
    }
    try:
        place.namespace.apply(volume, claim)
        yield replace(place, claim=name)
    finally:
        gz.list_jobs().cancel()
        place.namespace.clear()
        place.namespace.kubectl("delete", "pods", "--all", "--grace-period=1")  # the reader has it mounted
        place.namespace.kubectl("delete", "pvc", name)
        kubectl("delete", "pv", name)
        subprocess.run(["umount", root], check=True)


def root_of(place: ClusterPlace) -> Path:
    """Return the folder of a place's volume, which is on this machine."""
    assert isinstance(place.volume, FolderVolume)
    return place.volume.root


def test_volume_full_before(small: ClusterPlace) -> None:
    (root_of(small) / "other").write_bytes(bytes(SMALL - 500_000))
    job = small.submit("a").wait(timeout=90)
    assert (job.status, job.state.failure and job.state.failure.code) == ("Failed", "storage-full")
    assert "are free" in job.reason
    see_nothing_made(small, job)
    assert small.leftovers("a") == []


def test_volume_full_while_it_runs(small: ClusterPlace) -> None:
    job = submit_held(small)
    with pytest.raises(OSError, match="No space left"), (root_of(small) / "other").open("wb") as file:
        file.write(bytes(2 * SMALL))
    small.release()
    job.wait(timeout=90)
    assert (job.status, job.state.failure and job.state.failure.code) == ("Failed", "storage-full")
    assert "no space" in job.reason.lower()
    see_nothing_made(small, job)
    (root_of(small) / "other").unlink()
    job.retry().wait(timeout=90).raise_for_status()
    assert small.leftovers("a") == []


ATTACH = """
import sys, geozarr_nb as gz
job = gz.get_job(sys.argv[1])
sys.stdout.write(job.status + chr(10))
sys.stdout.flush()
for event in job.events(follow=True):
    sys.stdout.write(f'{event.type} {event.get("stage", "")} {event.get("state", "")}' + chr(10))
"""
SUBMIT = """
import sys, geozarr_nb as gz
job = gz.submit(sys.argv[1], sys.argv[2], groups=[sys.argv[3]])
sys.stdout.write(job.name + chr(10))
sys.stdout.flush()
job.wait()
"""


def test_submitter_killed_and_another_one_attaches(place: ClusterPlace) -> None:
    place.hold()
    command = [sys.executable, "-c", SUBMIT, place.sample, place.output("a"), GROUP]
    with subprocess.Popen(command, env=place.environ, stdout=subprocess.PIPE, text=True) as submitter:
        assert submitter.stdout is not None
        name = submitter.stdout.readline().strip()
        job = gz.get_job(name)
        until(lambda: job.stage == "stage")
        submitter.send_signal(signal.SIGKILL)
    command = [sys.executable, "-c", ATTACH, name]
    with subprocess.Popen(command, env=place.environ, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "Running\n"
        place.release()
        said = other.stdout.read().splitlines()
    job.wait(timeout=60)
    see_done_once(place, job)
    # The first one is the submitter's, which is known without it.
    assert said[0].split() == ["message"]
    assert said[1:] == [f"{event.type} {event.get('stage', '')} {event.get('state', '')}" for event in written(place)]


# In the other two, convert and verify, jobs are cancelled by the contract's tests.
@pytest.mark.parametrize("stage", ["waiting", "preflight", "stage", "publish"])
def test_cancelled_in_each_stage(place: ClusterPlace, stage: str) -> None:
    job = place.submit("a")
    if stage == "preflight":
        place.server.hold(place.path_of_sample)  # all of it, now that the SDK has seen it
    elif stage == "stage":
        place.hold()
    if stage != "waiting":
        until(lambda: job.stage == stage or job.state.is_finished)
    survivors = place.family("a")
    job.cancel()
    assert survivors() == []
    assert place.running("a") == []
    assert place.leftovers("a") == []
    if job.status == "Succeeded":  # only where it was too late: then all of it is there
        assert stage == "publish"
        see_done_once(place, job)
    else:
        assert (job.status, job.reason) == ("Failed", "it was cancelled")
        see_nothing_made(place, job)

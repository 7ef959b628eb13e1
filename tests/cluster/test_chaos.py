"""A cluster in a bad mood: `make chaos`. No job is lost, none is done twice, no half output stays, no state goes back.

Each test breaks one thing while a job runs, has the job watched all the while, and looks at the cluster with kubectl
afterwards. Its figures are printed with `-s`.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import Event, Thread

import pytest

import geozarr_nb as gz
from geozarr_nb.errors import ClusterError
from geozarr_nb.jobs.job import Job
from tests.cluster.support import Breaker, ClusterPlace, Namespace, fresh_namespace, kubectl
from tests.contract.support import GROUP, until

pytestmark = [pytest.mark.cluster, pytest.mark.nightly, pytest.mark.alone]
FINISHED = ("Succeeded", "Failed", "Error")
MANY = 30
SECONDS_UNTIL_TRUE = 5  # after the API server's return


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    """A namespace of its own: its template is changed and deleted."""
    with fresh_namespace() as made:
        yield made


@dataclass
class Watched:
    """What somebody who looks at a job all the time sees of it."""

    job: Job
    seen: list[tuple[float, str, int]] = field(default_factory=list)
    over: Event = field(default_factory=Event)

    @contextmanager
    def looking(self) -> Iterator[Watched]:
        """Look in a thread of its own, for as long as the block takes."""
        thread = Thread(target=self._look, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.over.set()
            thread.join(60)

    def _look(self) -> None:
        while not self.over.is_set():
            with suppress(ClusterError):
                state = self.job.state
                now = (state.status, state.attempt)
                if not self.seen or self.seen[-1][1:] != now:
                    self.seen.append((time.monotonic(), *now))
            time.sleep(0.2)

    def check(self) -> None:
        """See that an end that was shown was the end."""
        told = [status for _, status, _ in self.seen]
        ends = [number for number, status in enumerate(told) if status in FINISHED]
        assert ends in ([], [len(told) - 1]), f"it went back: {told}"


def see_whole(place: ClusterPlace, job: Job, watched: Watched, name: str = "a") -> None:
    """See that a job has succeeded, once, with all of its output and nothing beside it."""
    job.raise_for_status()
    watched.check()
    assert [state.name for state in gz.list_jobs().jobs] == [job.name]
    until(lambda: place.namespace.pods(place.path(name)) == [], seconds=90)
    made = [result for result in place.runs(name) if not result["skipped"]]
    assert len(made) == 1, f"the work was done {len(made)} times"
    assert place.leftovers(name) == []
    tree = job.open()
    assert GROUP in tree.groups
    tree.close()


def held(place: ClusterPlace, **options: object) -> Job:
    """Return a job in the middle of its run; it stays there until the server's answers are released."""
    place.hold()
    job = place.submit("a", **options)
    until(lambda: job.stage == "stage", seconds=90)
    return job


def answers() -> bool:
    """Return whether the API server answers."""
    try:
        return "ok" in kubectl("get", "--raw", "/readyz", "--request-timeout=1s")
    except subprocess.CalledProcessError:
        return False


@contextmanager
def first_time(condition: Callable[[], object]) -> Iterator[list[float]]:
    """Give when a condition holds for the first time during a block or in a minute after, by `time.monotonic`."""
    found: list[float] = []

    def look() -> None:
        until(condition, seconds=120)
        found.append(time.monotonic())

    thread = Thread(target=look, daemon=True)
    thread.start()
    yield found
    thread.join(60)


def test_the_api_server_is_killed_five_times(place: ClusterPlace, breaker: Breaker) -> None:
    job = held(place)
    delays = []
    with Watched(job).looking() as watched:
        for number in range(5):
            breaker.kill("kube-apiserver")
            until(lambda: "has not answered" in job.reason, seconds=20)
            assert job.status == "Running"
            if number == 4:
                place.release()  # the run ends while nobody can be told
            with first_time(answers) as back, first_time(lambda: "has not answered" not in job.reason) as told:
                breaker.up()
            delays.append(told[0] - back[0])
        job.wait(timeout=120)
    sys.stdout.write(f"\nshown after the API server's return: {', '.join(f'{each:.1f} s' for each in delays)}\n")
    assert max(delays) < SECONDS_UNTIL_TRUE
    see_whole(place, job, watched)


@contextmanager
def without_controller() -> Iterator[None]:
    """A block during which no workflow controller runs."""
    where = json.loads(kubectl("get", "deployments", "--all-namespaces", "-o", "json"))["items"]
    [found] = [one["metadata"] for one in where if one["metadata"]["name"] == "workflow-controller"]
    scale = ("-n", found["namespace"], "scale", "deployment/workflow-controller")
    kubectl(*scale, "--replicas=0")
    kubectl("-n", found["namespace"], "wait", "--for=delete", "pods", "-l", "app=workflow-controller", "--timeout=60s")
    try:
        yield
    finally:
        kubectl(*scale, "--replicas=1")


def test_the_controller_is_away_while_a_run_ends(place: ClusterPlace) -> None:
    job = held(place)
    with Watched(job).looking() as watched:
        with without_controller():
            place.release()
            until(lambda: job.status == "Succeeded", seconds=60)
            time.sleep(5)
        job.wait(timeout=90)
        time.sleep(10)
    see_whole(place, job, watched)


def test_the_controller_is_away_while_a_job_is_submitted(place: ClusterPlace) -> None:
    with without_controller():
        job = place.submit("a")
        until(lambda: "controller" in job.reason, seconds=30)
        assert job.status == "Pending"
    with Watched(job).looking() as watched:
        job.wait(timeout=120)
    see_whole(place, job, watched)


# "publish" is short: the pod is deleted as soon as the output has its name.
@pytest.mark.parametrize("stage", ["preflight", "stage", "convert", "verify", "publish"])
@pytest.mark.parametrize("age", ["first seconds", "later"])
def test_its_pod_is_deleted(place: ClusterPlace, stage: str, age: str) -> None:
    if age == "later" and stage != "preflight":
        place.hold()
    job = place.submit("a")
    if age == "later" and stage == "preflight":
        place.server.hold(place.path_of_sample)  # all of it, now that the SDK has seen it
    with Watched(job).looking() as watched:
        until(lambda: place.namespace.pods(place.path("a")), seconds=60)
        [pod] = place.namespace.pods(place.path("a"))
        if age == "later":
            until(lambda: [node["phase"] for node in place.tries("a")] == ["Running"], seconds=60)
            begun = datetime.fromisoformat(place.tries("a")[0]["startedAt"])
            until(lambda: (datetime.now(UTC) - begun).total_seconds() > 11)
            if stage not in ("preflight", "stage"):
                place.release()
        if stage == "publish":
            until(lambda: place.exists("a") or job.state.is_finished, seconds=90)
        else:
            until(lambda: job.stage == stage or job.state.is_finished or place.exists("a"), seconds=90)
        deleted = ("delete", "pod", pod["metadata"]["name"], "--grace-period=0", "--force", "--ignore-not-found")
        place.namespace.kubectl(*deleted, "--wait=false")
        place.release()
        job.wait(timeout=240)
        time.sleep(12)
    see_whole(place, job, watched)


def test_the_kubelet_is_dead_for_ninety_seconds(place: ClusterPlace, breaker: Breaker) -> None:
    job = held(place)
    with Watched(job).looking() as watched:
        breaker.kill("kubelet")
        until(lambda: "does not answer" in job.reason, seconds=90)
        time.sleep(30)
        breaker.up()
        place.release()
        job.wait(timeout=240)
    see_whole(place, job, watched)


def test_its_node_is_drained(place: ClusterPlace) -> None:
    job = held(place)
    [node] = json.loads(kubectl("get", "nodes", "-o", "json"))["items"]
    name = node["metadata"]["name"]
    with Watched(job).looking() as watched:
        kubectl("cordon", name)
        try:
            [pod] = place.namespace.pods(place.path("a"))
            place.namespace.kubectl("delete", "pod", pod["metadata"]["name"], "--grace-period=5", "--wait=false")
            until(lambda: job.status == "Pending" and "unschedulable" in job.reason, seconds=120)
            place.release()
        finally:
            kubectl("uncordon", name)
        job.wait(timeout=240)
    watched.seen = [one for one in watched.seen if one[1] in FINISHED]  # it did go back, and was not at its end
    see_whole(place, job, watched)


SUBMIT_MANY = """
import sys, geozarr_nb as gz
source, folder, group, many = sys.argv[1:]
requests = [{"source": source, "output": f"{folder}/{number}.zarr"} for number in range(int(many))]
gz.submit_many(requests, groups=[group])
"""


def test_the_kernel_is_killed_while_it_submits_many(place: ClusterPlace) -> None:
    folder = place.output("x").rpartition("/")[0]
    command = [sys.executable, "-c", SUBMIT_MANY, place.sample, folder, GROUP, str(MANY)]
    for enough in (7, 19):
        with subprocess.Popen(command, env=place.environ) as kernel:
            until(lambda: len(place.namespace.workflows()) >= enough, seconds=120)  # noqa: B023
            kernel.send_signal(signal.SIGKILL)
    subprocess.run(command, env=place.environ, check=True)
    jobs = gz.list_jobs()
    assert len(jobs) == MANY
    jobs.wait(timeout=900)
    assert jobs.counts == {"Succeeded": MANY}
    assert [len(place.runs(str(number))) for number in range(MANY)] == [1] * MANY


def test_the_template_is_replaced_and_deleted(place: ClusterPlace) -> None:
    job = held(place)
    template = json.loads(place.namespace.kubectl("get", "workflowtemplate", "geozarr-convert", "-o", "json"))
    changed = json.loads(json.dumps(template))
    changed["metadata"] = {key: template["metadata"][key] for key in ("name", "namespace")}
    changed["spec"]["arguments"]["parameters"].append({"name": "of_later", "value": "x"})
    with Watched(job).looking() as watched:
        place.namespace.apply(changed)
        time.sleep(2)
        place.namespace.kubectl("delete", "workflowtemplate", "geozarr-convert")
        place.release()
        job.wait(timeout=120)
        place.namespace.apply({**changed, "spec": template["spec"]})
    see_whole(place, job, watched)
    assert place.submit("b").wait(timeout=120).status == "Succeeded"


def test_the_volume_becomes_read_only(place: ClusterPlace) -> None:
    """Its folder refuses to be written, as a volume does that its storage has taken away."""
    job = place.submit("a", if_exists="overwrite").wait(timeout=120)
    before = place.stamp("a")
    folder = getattr(place.volume, "root", None)
    if folder is None:
        pytest.skip("the volumes are on another machine")
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
        refused = place.submit("a", if_exists="overwrite", groups=[GROUP, "/conditions/mask/l2a_classification/r60m"])
        refused.wait(timeout=120)
        assert refused.status in ("Failed", "Error")
        assert refused.state.failure is not None
        assert refused.state.failure.code in ("storage-denied", "storage-failed")
    finally:
        subprocess.run(["umount", folder], check=True)
    assert place.stamp("a") == before
    assert gz.get_job(job.name).open().groups


def test_the_reader_is_killed_in_a_read(place: ClusterPlace) -> None:
    job = place.submit("a").wait(timeout=120)
    tree = job.open()
    array = tree[GROUP]["b01"]
    expected = array.compute()
    stop = Event()

    def kill() -> None:
        while not stop.wait(1.0):
            with suppress(subprocess.CalledProcessError):
                label = ("-l", "app.kubernetes.io/name=geozarr-reader")
                place.namespace.kubectl("delete", "pods", *label, "--grace-period=0", "--force", "--wait=false")

    thread = Thread(target=kill, daemon=True)
    thread.start()
    try:
        for _ in range(5):
            again = job.open()
            assert again[GROUP]["b01"].compute().equals(expected)
            again.close()
    finally:
        stop.set()
        thread.join()
        tree.close()

"""Jobs that their backend no longer knows: Workflows that a cluster removed after their time, folders that are gone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import zarr

from geozarr_nb.backends.argo.backend import ArgoBackend
from geozarr_nb.backends.job_names import alike
from geozarr_nb.cluster.kinds import NAMESPACES, TEMPLATES, WORKFLOWS
from geozarr_nb.errors import ClaimUnreadable, ClusterObjectMissing, InvalidRequest, JobNotFound
from geozarr_nb.jobs.job import Job
from geozarr_nb.jobs.jobset import JobSet
from geozarr_nb.jobs.set_file import SetFile
from geozarr_nb.settings import Settings
from geozarr_runner.spec.request import Request
from tests.contract.support import until
from tests.unit.memory_cluster import MemoryCluster

SHOWN = "https://host/a.zarr"


@pytest.fixture
def claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The claim's files, mounted here."""
    (tmp_path / "claim").mkdir()
    monkeypatch.setenv("GEOZARR_MOUNTS", f"geozarr-pvc={tmp_path / 'claim'}")
    return tmp_path / "claim"


def test_a_namespace_that_is_not_there_is_none_without_jobs(cluster: MemoryCluster, backend: ArgoBackend) -> None:
    assert backend.list() == []
    cluster.objects[NAMESPACES].clear()
    assert backend.list() == [], "it is looked for once"
    with pytest.raises(ClusterObjectMissing, match="there is no namespace argo") as caught:
        ArgoBackend(cluster, Settings()).list()  # type: ignore[arg-type]
    assert "GEOZARR_NAMESPACE" in caught.value.remedy
    del cluster.objects[NAMESPACES]
    assert ArgoBackend(cluster, Settings()).list() == [], "who may not see namespaces"  # type: ignore[arg-type]


def test_a_submission_names_the_namespace_before_what_it_lacks(cluster: MemoryCluster, backend: ArgoBackend) -> None:
    cluster.objects[NAMESPACES].clear()
    cluster.objects[TEMPLATES].clear()
    with pytest.raises(ClusterObjectMissing, match="there is no namespace argo"):
        backend.submit(request(1))


def request(number: int, source: str = SHOWN) -> Request:
    output = f"pvc://geozarr-pvc/{number}.zarr"
    return Request(source=source, shown=SHOWN, product="a", output=output, groups=("/g",)).identified()


def publish(claim: Path, made: Request, identity: str | None = None) -> None:
    """Write an output with the record that a run leaves."""
    record = {"schema": 1, "request": identity or made.identity, "finished": "2026-01-02T03:04:05+00:00"}
    zarr.create_group(claim / made.output.rpartition("/")[2], attributes={"geozarr_runner": record}, zarr_format=3)


def removed(cluster: MemoryCluster, backend: ArgoBackend, *names: str) -> None:
    """Have the cluster remove Workflows, as it does when their time to live is over."""
    for name in names:
        cluster.delete(WORKFLOWS, name)
    until(lambda: not {state.name for state in backend.list()} & set(names))


def ended(cluster: MemoryCluster, name: str, phase: str = "Failed") -> None:
    cluster.patch(WORKFLOWS, name, {"status": {"phase": phase, "message": "it failed"}})


def members(backend: ArgoBackend, count: int) -> list[Job]:
    return [Job(backend, backend.submit(request(number)), request(number)) for number in range(count)]


def test_a_set_outlives_its_workflows(
    cluster: MemoryCluster, backend: ArgoBackend, claim: Path, tmp_path: Path
) -> None:
    jobs = members(backend, 4)
    file = SetFile(tmp_path / "sets", "mine")
    file.start()
    for number, job in enumerate(jobs):
        file.add(number, job)
    publish(claim, request(0))
    publish(claim, request(2), identity="f" * 64)  # of another request
    removed(cluster, backend, *(job.name for job in jobs[:3]))
    until(lambda: [state.name for state in backend.list()] == [jobs[3].name])
    ended(cluster, jobs[3].name)
    until(lambda: backend.get(jobs[3].name).is_finished)
    for one in (JobSet(backend, jobs, name="mine"), JobSet(backend, file.read(backend), name="mine")):
        assert one.wait(timeout=5) is one
        assert one.counts == {"Succeeded": 1, "Error": 3}
        for text in (repr(one), one._repr_html_()):
            assert text.count("no longer known") == 2
            assert all(job.name in text for job in jobs)
            assert all(request(number).output in text for number in range(4))
        assert [entry.name for entry in one.failed] == [job.name for job in jobs[1:]]
        assert one.cancel() is one
        assert [job.name for job in one] == [job.name for job in jobs]


def test_what_is_gone_without_an_output_runs_again(cluster: MemoryCluster, backend: ArgoBackend, claim: Path) -> None:
    jobs = JobSet(backend, members(backend, 2))
    publish(claim, request(0))
    removed(cluster, backend, *(job.name for job in jobs))
    jobs.retry_failed()
    assert list(cluster.objects[WORKFLOWS]) == [jobs[1].name], "the other one has its output"
    assert jobs.counts == {"Succeeded": 1, "Pending": 1}


def test_a_signed_address_that_was_not_kept_is_asked_for(
    cluster: MemoryCluster, backend: ArgoBackend, claim: Path, tmp_path: Path
) -> None:
    made = request(0, f"{SHOWN}?signature=0123456789")
    file = SetFile(tmp_path / "sets", "mine")
    file.start()
    file.add(0, Job(backend, backend.submit(made), made))
    assert "0123456789" not in file.path.read_text()
    removed(cluster, backend, made.name)
    with pytest.raises(InvalidRequest, match="1 of the jobs cannot be run again") as caught:
        JobSet(backend, file.read(backend)).retry_failed()
    assert "full address" in caught.value.remedy


def test_waiting_for_a_job_that_had_succeeded(cluster: MemoryCluster, backend: ArgoBackend, claim: Path) -> None:
    [job] = members(backend, 1)
    publish(claim, job.request)
    removed(cluster, backend, job.name)
    assert job.wait(timeout=5).status == "Succeeded"
    assert job.state.is_gone
    assert job.output == request(0).output
    assert job.raise_for_status() is job
    assert "Succeeded" in repr(job)


def test_a_job_ends_while_it_is_waited_for_and_is_removed_at_once(
    cluster: MemoryCluster, backend: ArgoBackend, claim: Path
) -> None:
    """The handle of another process knows no request: only what it has seen."""
    job = Job(backend, backend.submit(request(0)))
    looks = job.steps(poll_interval=0.01)
    assert next(looks)[0].status == "Pending"
    publish(claim, request(0))
    removed(cluster, backend, job.name)
    assert [(state.status, list(events)) for state, events in looks] == [("Succeeded", [])]


def test_how_it_ended_is_remembered(cluster: MemoryCluster, backend: ArgoBackend, claim: Path) -> None:
    [job] = members(backend, 1)
    ended(cluster, job.name)
    until(lambda: job.status == "Error")
    before = job.state
    removed(cluster, backend, job.name)
    assert job.state == replace(before, is_gone=True)


def test_of_what_nothing_is_known_nothing_is_said(cluster: MemoryCluster, backend: ArgoBackend, claim: Path) -> None:
    [job] = members(backend, 1)
    removed(cluster, backend, job.name)
    with pytest.raises(JobNotFound):
        _ = job.status
    with pytest.raises(JobNotFound):
        job.wait(timeout=5)


def test_a_member_of_an_older_set_is_a_row(
    cluster: MemoryCluster, backend: ArgoBackend, claim: Path, tmp_path: Path
) -> None:
    """0.1.0 stored the names alone."""
    file = SetFile(tmp_path / "sets", "mine")
    file.start()
    lines = [{"number": 0, "job": "a-01234567"}, {"number": 1, "job": "a-76543210", "request": {"v": 99}}]
    file.path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    jobs = JobSet(backend, file.read(backend))
    assert jobs.counts == {"Error": 2}
    assert repr(jobs).count("no longer known") == 2


def test_a_claim_that_cannot_be_read_is_asked_once(
    cluster: MemoryCluster, backend: ArgoBackend, claim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = JobSet(backend, members(backend, 3))
    removed(cluster, backend, *(job.name for job in jobs))
    asked: list[str] = []

    def refuse(address: object, *_: object) -> None:
        asked.append(str(address))
        raise ClaimUnreadable("you may not create pods", remedy="ask for the role")

    monkeypatch.setattr("geozarr_nb.outputs.record.files_of", refuse)
    assert repr(jobs).count("you may not create pods") == 3
    assert len(asked) == 1, "a pod that does not start is waited for once"


def test_calls_do_not_grow_with_looks(cluster: MemoryCluster, backend: ArgoBackend, claim: Path) -> None:
    jobs = JobSet(backend, members(backend, 2))
    publish(claim, request(0))
    publish(claim, request(1))
    removed(cluster, backend, *(job.name for job in jobs))
    assert jobs.counts == {"Succeeded": 2}
    found: list[str] = []
    find = cluster.find
    cluster.find = lambda kind, name: (found.append(name), find(kind, name))[1]  # type: ignore[method-assign,func-returns-value]
    assert jobs.counts == {"Succeeded": 2}
    assert found == []


@pytest.mark.parametrize(
    ("given", "suggested"),
    [
        ("s2a-0123456", ["s2a-01234567"]),  # cut off
        ("s2b-01234567", ["s2a-01234567"]),  # the hash says which one
        ("s2a", ["s2a-01234567", "s2a-89abcdef"]),  # both are of this product
        ("s2a-fedcba98", []),  # a hash has no neighbours
        ("s2a-01234568", []),
        ("", []),
        ("zzz", []),
    ],
)
def test_names_are_not_guessed_among_hashes(given: str, suggested: list[str]) -> None:
    assert alike(given, ["s2a-01234567", "s2a-89abcdef", "other-11111111"]) == suggested

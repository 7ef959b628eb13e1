"""Jobs in other processes: pickled by name and place, and after a fork."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

from geozarr_nb.backends.argo import attempts
from geozarr_nb.backends.argo.backend import ArgoBackend
from geozarr_nb.backends.local.backend import LocalBackend
from geozarr_nb.cluster.client import connect
from geozarr_nb.jobs.job import Job
from geozarr_nb.jobs.jobset import JobSet, Refused
from geozarr_nb.settings import Settings
from geozarr_runner.spec.request import Request
from tests.unit.api_server import ApiServer, listing, refuses, watching

SHOWN = "https://host/a.zarr"
REQUEST = Request(
    source=f"{SHOWN}?signature=0123456789", shown=SHOWN, product="a", output="pvc://c/a.zarr", identity="0" * 64
)
REFUSED = Refused("b", "invalid-request", "no", arguments={"source": "https://me:secret@host/b.zarr"})


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    made = ApiServer()
    monkeypatch.setenv("KUBECONFIG", str(made.kubeconfig(tmp_path)))
    made.on("GET /", listing(1))
    made.on(f"GET /apis/argoproj.io/v1alpha1/namespaces/argo/workflows/{REQUEST.name}", refuses(404, "not found"))
    for kind in ("pods", "workflows"):
        made.on(f"GET /api/v1/namespaces/argo/{kind}?watch", watching([]))
        made.on(f"GET /apis/argoproj.io/v1alpha1/namespaces/argo/{kind}?watch", watching([]))
    with made.running():
        yield made
    attempts._watch.cache_clear()


def test_a_job_on_a_cluster_is_pickled_by_name_and_place(server: ApiServer) -> None:
    settings = Settings(stac_url=f"{SHOWN}?signature=0123456789", namespace="argo", kube_context="here")
    job = Job(ArgoBackend.of(settings), REQUEST.name, REQUEST)
    sent = pickle.dumps(JobSet(job._backend, [job, REFUSED], name="mine"))
    assert b"0123456789" not in sent
    assert b"secret" not in sent
    found = pickle.loads(sent)
    assert (found.name, [each.name for each in found], found.refused) == ("mine", [job.name], [REFUSED])
    assert found[0]._backend._api is connect(settings)
    assert server.asked == [], "nothing is asked before somebody looks"
    assert (found[0].backend, found[0].request.output) == ("argo", REQUEST.output)
    assert found[0].request.withheld


def test_a_job_of_this_machine_is_pickled_by_name_and_place(tmp_path: Path) -> None:
    backend = LocalBackend(tmp_path / "state", max_jobs=3, command=["true"])
    found = pickle.loads(pickle.dumps(Job(backend, "a-01234567")))
    assert (found.name, found._backend._folders.root) == ("a-01234567", backend._folders.root)
    assert (found._backend._max_jobs, found._backend._command) == (3, ("true",))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_asks_through_connections_of_its_own(server: ApiServer) -> None:
    backend = ArgoBackend.of(Settings(namespace="argo", kube_context="here"))
    assert backend.list() == []
    asked = len(server.asked)
    child = os.fork()
    if child == 0:
        os._exit(0 if backend.list() == [] and backend._attempts.workflows._thread.is_alive() else 1)  # type: ignore[union-attr]
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len([line for line in server.asked[asked:] if "watch" not in line]) >= 2, "the child has lists of its own"

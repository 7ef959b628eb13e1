"""Two hundred jobs at once: what they cost this machine, and that none is missed."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise

import pytest

import geozarr_nb as gz
from geozarr_nb.backends import open_backend
from geozarr_nb.backends.base import JobState
from geozarr_nb.cluster.client import connect
from geozarr_nb.cluster.kinds import TEMPLATES
from geozarr_nb.settings import Settings
from tests.cluster.support import ClusterPlace, fresh_namespace, manifests
from tests.contract.support import GROUP, until

pytestmark = pytest.mark.cluster
MANY = 200
SECONDS_WATCHED = 5
WATCH = f"""
import json, sys, time, psutil, geozarr_nb as gz
jobs = gz.list_jobs()
began, used = time.monotonic(), time.process_time()
try:
    jobs.wait(timeout={SECONDS_WATCHED})
except gz.WaitTimeout:
    pass
seconds, used = time.monotonic() - began, time.process_time() - used
connections = [each for each in psutil.Process().net_connections("tcp") if each.status == "ESTABLISHED"]
json.dump({{"jobs": len(jobs), "connections": len(connections), "cpu": used / seconds}}, sys.stdout)
"""


@pytest.fixture
def trivial(place: ClusterPlace, monkeypatch: pytest.MonkeyPatch) -> Iterator[ClusterPlace]:
    """A namespace whose template starts no pod: its jobs run until somebody lets them end."""
    with fresh_namespace() as namespace:
        for document in manifests(namespace.name):
            if document["kind"] == "WorkflowTemplate":
                kept = {name: document["spec"][name] for name in ("entrypoint", "arguments", "workflowMetadata")}
                document["spec"] = {**kept, "templates": [{"name": "geozarr-convert", "suspend": {}}]}
                # Replaced, not merged: nothing of the real one is to stay.
                namespace.kubectl("replace", "-f", "-", given=json.dumps(document))
        for name, value in namespace.settings.items():
            monkeypatch.setenv(name, value)
        yield replace(place, namespace=namespace)


@pytest.mark.nightly
@pytest.mark.alone
def test_two_hundred_jobs(trivial: ClusterPlace, record_property: Callable[[str, object], None]) -> None:
    requests = [{"source": trivial.sample, "output": trivial.output(f"job-{number}")} for number in range(MANY)]
    jobs = gz.submit_many(requests, groups=[GROUP])
    assert not jobs.refused
    assert len({job.name for job in jobs.jobs}) == MANY
    assert len(trivial.namespace.workflows()) == MANY
    # The same list again joins what is there.
    assert len(gz.submit_many(requests, groups=[GROUP])) == len(trivial.namespace.workflows()) == MANY

    environ = {**trivial.environ, **trivial.namespace.settings}
    done = subprocess.run([sys.executable, "-c", WATCH], env=environ, capture_output=True, text=True, check=True)
    cost = json.loads(done.stdout)
    for name, value in cost.items():
        record_property(name, value)
    assert cost["jobs"] == MANY
    assert cost["connections"] <= 4, "one for each watch, and few for what is asked"
    assert cost["cpu"] < 0.25, "of one core"

    seen: dict[str, list[JobState]] = {}
    stop = threading.Event()

    def watch() -> None:
        for state in open_backend("argo", Settings.load()).watch(stop):
            seen.setdefault(state.name, []).append(state)

    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watch)
        until(lambda: len(seen) == MANY)
        trivial.namespace.kubectl("delete", "workflows", *(job.name for job in jobs.jobs[:1]), "--wait=false")
        ended = '{"spec": {"shutdown": "Terminate"}}'
        names = [job.name for job in jobs.jobs[1:]]
        trivial.namespace.kubectl("patch", "workflow", *names, "--type=merge", "-p", ended, seconds=120)
        until(lambda: sum(states[-1].is_finished for states in seen.values()) == MANY - 1)
        stop.set()
        watching.result(timeout=10)
    for states in seen.values():
        assert all(one != other for one, other in pairwise(states)), "nothing is told twice"
        assert [state.is_finished for state in states] == sorted(state.is_finished for state in states)
    assert len(gz.list_jobs()) == MANY - 1


def test_connections_are_made_by_many_threads_at_once(place: ClusterPlace) -> None:
    api = connect(Settings.load())

    def ask(number: int) -> str:
        api._connection.client.rest_client.pool_manager.clear()  # so that each call makes a connection
        return str(api.get(TEMPLATES, "geozarr-convert")["metadata"]["name"])

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, range(400))) == {"geozarr-convert"}

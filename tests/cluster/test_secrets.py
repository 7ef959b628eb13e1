"""What a user gives reaches the runner as it is, and nobody else: no shell, no log, no object but a Secret."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import geozarr_nb as gz
from benchmarks.server import ProductServer
from geozarr_nb.jobs.job import Job
from tests.cluster.support import ClusterPlace, node_address
from tests.contract.support import GROUP, until

pytestmark = pytest.mark.cluster
TOKEN = "s3cr3t-t0k3n"


@pytest.fixture
def signed(sample: Path) -> Iterator[ProductServer]:
    """A server that shows the sample to whoever has the token in the address."""
    with ProductServer(sample.parent, host=node_address(), signature=f"signature={TOKEN}") as server:
        yield server
        server.release()


def see_no_trace(place: ClusterPlace, job: Job) -> None:
    assert place.traces(TOKEN) == []
    said = [repr(job), job._repr_html_(), repr(job.state), *job.logs(), *(repr(event) for event in job.events())]
    assert not [text for text in said if TOKEN in text]


def test_a_token_is_used_and_shown_nowhere(place: ClusterPlace, sample: Path, signed: ProductServer) -> None:
    signed.hold(f"/{sample.name}{GROUP}/")
    job = gz.submit(f"{signed.url}/{sample.name}?signature={TOKEN}", place.output("a"), groups=[GROUP])
    until(lambda: job.stage == "stage")
    see_no_trace(place, job)
    signed.release()
    job.wait(timeout=90).raise_for_status()
    see_no_trace(place, job)
    # The Secret belongs to the workflow, and goes with it.
    place.forget(job)
    until(lambda: TOKEN not in secrets_of(place), seconds=30)


def test_a_token_is_not_shown_when_the_run_fails(place: ClusterPlace, sample: Path, signed: ProductServer) -> None:
    signed.fail(f"/{sample.name}{GROUP}/b02/0.0", 403, times=1000)
    job = gz.submit(f"{signed.url}/{sample.name}?signature={TOKEN}", place.output("a"), groups=[GROUP])
    job.wait(timeout=90)
    assert (job.status, job.state.failure and job.state.failure.code) == ("Failed", "product-denied")
    assert len(place.tries("a")) == 1
    see_no_trace(place, job)


@pytest.fixture
def guarded(sample: Path) -> Iterator[ProductServer]:
    """A server that shows the sample to whoever brings the token in a header."""
    with ProductServer(sample.parent, host=node_address(), token=TOKEN) as server:
        yield server


def test_credentials_of_a_host_come_from_the_jobs_secret(
    place: ClusterPlace, sample: Path, guarded: ProductServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = {"headers": {"Authorization": f"Bearer {TOKEN}"}}
    for name, host in (("right", guarded.url), ("wrong", "https://elsewhere.example")):
        variables = {"GEOZARR_HTTP_CREDENTIALS": json.dumps({host: headers})}
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": variables}
        place.namespace.apply(secret)
    # Here it is looked at too, before a pod is asked for.
    monkeypatch.setenv("GEOZARR_HTTP_CREDENTIALS", json.dumps({guarded.url: headers}))
    product = f"{guarded.url}/{sample.name}"
    monkeypatch.setenv("GEOZARR_CREDENTIALS", "right")
    told = gz.submit(product, place.output("told"), groups=[GROUP])
    monkeypatch.setenv("GEOZARR_CREDENTIALS", "wrong")
    untold = gz.submit(product, place.output("untold"), groups=[GROUP])
    told.wait(timeout=90).raise_for_status()
    untold.wait(timeout=90)
    assert (untold.status, untold.state.failure and untold.state.failure.code) == ("Failed", "product-denied")
    # The Secrets stay: they are nobody's but who made them.
    see_no_trace(place, told)
    place.namespace.kubectl("delete", "secret", "right", "wrong")


def secrets_of(place: ClusterPlace) -> str:
    return place.namespace.kubectl(
        "get", "secrets", "-o", "go-template={{range .items}}{{range .data}}{{. | base64decode}}{{end}}{{end}}"
    )


ODD = (
    "$(HOME) $(BRACE) $$ ${HOME}",
    "; touch pwned ; `touch pwned`",
    "\"double\" 'single' back\\slash",
    "{{workflow.name}} {{=1+1}} {{",
    "ünïcödé -- --groups=conditions",
)


def test_an_odd_name_arrives_as_it_is(place: ClusterPlace) -> None:
    name = f"{' '.join(ODD)}.zarr"
    output = f"pvc://{place.claim}/{place.folder}/{name}"
    job = gz.submit(place.sample, output, groups=[GROUP]).wait(timeout=90).raise_for_status()
    assert job.result is not None
    assert job.result["path"] == output
    assert sorted(place.files()) == sorted([name, f"{name}.log.jsonl", f"{name}.stac.json"])
    assert "pwned" not in place.volume.names(".")

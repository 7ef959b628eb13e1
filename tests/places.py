"""Places for jobs, made of the session's fixtures; see `tests.contract.support.Place`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import geozarr_nb as gz
from benchmarks.server import ProductServer
from tests.cluster.support import ClusterPlace, Namespace, node_address
from tests.contract.support import LocalPlace, Place, until


def make_place(request: pytest.FixtureRequest, backend: str, scratch: Path, namespace: Namespace | None) -> Place:
    """Return a place for jobs; for a cluster's in `namespace`, or in the session's own."""
    sample: Path = request.getfixturevalue("sample")
    state = {"GEOZARR_STATE_DIR": str(scratch / "state")}
    if backend == "local":
        outputs = scratch / "out"
        outputs.mkdir()
        settings = {**state, "GEOZARR_BACKEND": backend}
        return LocalPlace(backend, str(sample), scratch, settings, "127.0.0.1", outputs=outputs)
    namespace = namespace or request.getfixturevalue("namespace")
    server: ProductServer = request.getfixturevalue("product_server")
    served: Path = request.getfixturevalue("served")
    return ClusterPlace(
        backend,
        f"{server.url}/{sample.relative_to(served)}",
        scratch,
        {**state, **namespace.settings},
        node_address(),
        namespace=namespace,
        folder=scratch.name,
        server=server,
        served=served,
        tidies=False,  # only runs write to a claim: the next one for this output does it
    )


@contextmanager
def place_on_cluster(
    request: pytest.FixtureRequest, scratch: Path, namespace: Namespace | None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ClusterPlace]:
    """Give a place as `make_place` does on a cluster, with the settings that lead there; it is empty afterwards."""
    made = make_place(request, "argo", scratch, namespace)
    assert isinstance(made, ClusterPlace)
    for name, value in made.settings.items():
        monkeypatch.setenv(name, value)
    yield made
    empty(made)


def empty(place: Place) -> None:
    """End every job, and take away all memory of them where it is shared by several tests."""
    place.release()
    gz.list_jobs().cancel()
    if isinstance(place, ClusterPlace):
        place.namespace.clear()
        until(lambda: len(gz.list_jobs()) == 0, seconds=20)

"""What a conversion will cost, and what of it cannot be known."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.server import ProductServer
from geozarr_runner.errors import GroupsMissing
from geozarr_runner.inspection.reader import open_product
from geozarr_runner.planning.estimate import estimate, needed
from runner.tests.support import R20M, R60M


def stored(product: Path, *groups: str) -> list[int]:
    files = (file for group in groups for file in (product / group[1:]).rglob("*"))
    return [file.stat().st_size for file in files if file.is_file() and not file.name.startswith(".z")]


def test_bytes_to_read_are_those_of_the_stored_objects(s2: Path) -> None:
    cost = estimate(open_product(s2), [R20M, R60M])
    sizes = stored(s2, R20M, R60M)
    assert cost.download_bytes == sum(sizes)
    assert cost.requests == len(sizes)
    assert cost.exact
    assert cost.staging_bytes == 0
    assert cost.output_bytes > 0
    assert cost.memory_bytes > 450_000_000
    assert "none: read in place" in repr(cost)
    assert R20M in cost._repr_html_()


def test_over_http_no_data_are_read(s2: Path, server: ProductServer) -> None:
    product = open_product(f"{server.url}/s2.zarr")
    server.reset()
    cost = estimate(product, R60M)
    assert server.counts.data == 0
    assert server.counts.head == cost.requests == len(stored(s2, R60M))
    assert cost.download_bytes == cost.staging_bytes == sum(stored(s2, R60M))


def test_a_chunk_that_was_never_stored_costs_nothing(terrain: Path, server: ProductServer) -> None:
    local = estimate(open_product(terrain), "dem")
    distant = estimate(open_product(f"{server.url}/terrain.zarr"), "dem")
    assert local.download_bytes == distant.download_bytes
    assert local.requests == distant.requests == 5


def test_missing_groups_are_left_out(s2: Path) -> None:
    product = open_product(s2)
    assert estimate(product, [R60M, "nowhere"]).groups == (R60M,)
    with pytest.raises(GroupsMissing):
        estimate(product, "nowhere")


def test_what_lies_beside_is_read_too(s1: Path) -> None:
    product = open_product(s1)
    [_, wanted] = (path for path in product.groups if path.endswith("/measurements"))
    groups = {array.path.rpartition("/")[0].partition("/conditions")[2] for array in needed(product, [wanted])}
    assert groups == {"", "/gcp"}
    cost = estimate(product, wanted)
    assert "depends on where the scene lies" in cost.notes[0]


def test_the_whole_product(s2: Path) -> None:
    cost = estimate(open_product(s2))
    assert cost.download_bytes == sum(stored(s2, "/")) - sum(stored(s2, "/quality/l2a_quicklook"))
    assert "the whole product" in repr(cost)


def test_a_store_that_tells_no_sizes(s2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    product = open_product(s2)
    monkeypatch.setattr(type(product.store), "sizes", lambda self, keys: dict.fromkeys(keys))
    cost = estimate(product, R60M)
    assert cost.download_bytes is None
    assert not cost.exact
    assert "does not tell" in repr(cost)
    assert cost.output_bytes > 0

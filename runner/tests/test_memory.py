"""What a converter takes, and what it is given when there is more."""

from __future__ import annotations

import dataclasses
import io
from contextlib import closing
from pathlib import Path

import pytest

from geozarr_runner.conversion import environment
from geozarr_runner.events import Reporter
from geozarr_runner.inspection.reader import open_product
from geozarr_runner.planning import memory, resources
from geozarr_runner.planning.memory import (
    CONVERTER,
    LARGEST_READ,
    READ_AT_ONCE,
    memory_needed,
    memory_of_part,
    worth_reading,
)
from geozarr_runner.planning.preflight import Plan, preflight
from geozarr_runner.product.model import Array, Product
from geozarr_runner.run import run
from geozarr_runner.spec.options import resolved
from geozarr_runner.spec.request import Request
from runner.tests.support import R20M, R60M, contents


def in_chunks_of(edge: int, product: Product) -> Product:
    """Return the product as if it were a tile of 10980 pixels with stored chunks of this edge."""

    def larger(array: Array) -> Array:
        shape = tuple(size * 10980 // 540 if size >= 90 else size for size in array.shape)
        chunks = tuple(min(edge, size) for size in shape)
        return dataclasses.replace(array, shape=shape, chunks=chunks)

    groups = {
        path: dataclasses.replace(group, arrays=tuple(map(larger, group.arrays)))
        for path, group in product.groups.items()
    }
    return dataclasses.replace(product, groups=groups)


def test_stored_chunks_that_dask_would_read_in_parts_are_worth_reading_whole(s2: Path) -> None:
    product = open_product(s2)
    assert worth_reading(product, ()) is None
    assert worth_reading(in_chunks_of(1830, product), ()) is None
    assert worth_reading(in_chunks_of(5490, product), (R20M,)) == 8 * 5490**2
    assert worth_reading(in_chunks_of(10980, product), (R20M,)) == 8 * 5490**2
    # A stored chunk of the whole band would take a gigabyte in each thread.
    assert worth_reading(in_chunks_of(10980, product), ()) == LARGEST_READ


def test_what_is_read_at_once_is_held_for_each_thread_of_the_flat_layout(s2: Path) -> None:
    product = in_chunks_of(5490, open_product(s2))
    small = memory_of_part(product, ())
    assert memory_of_part(product, (), 2) - CONVERTER == 2 * (small - CONVERTER)
    read = READ_AT_ONCE + 1_000_000
    assert memory_of_part(product, (), 2, read=read) - memory_of_part(product, (), 2) == 6_000_000
    assert memory_of_part(product, (R20M,), 2, read=read) == memory_of_part(product, (R20M,))


@pytest.mark.parametrize(("edge", "measured"), [(1830, 1_757_000_000), (5490, 2_119_000_000)])
def test_a_tile_takes_what_was_measured(edge: int, measured: int, s2: Path) -> None:
    assert 0.9 * measured < memory_needed(in_chunks_of(edge, open_product(s2)), ()) < 1.2 * measured


@pytest.mark.parametrize(("packed", "measured"), [(False, 3_836_000_000), (True, 5_614_000_000)])
def test_a_tile_in_shards_takes_what_was_measured(packed: bool, measured: int, s2: Path) -> None:
    options = resolved({"chunks": "web", "packed": packed})
    assert 0.9 * measured < memory_needed(in_chunks_of(1830, open_product(s2)), (), options) < 1.2 * measured


def test_a_warp_holds_one_variable_and_dask_keeps_its_own_size(s1: Path) -> None:
    product = open_product(s1)
    largest = max(array.nbytes for group in product.groups.values() for array in group.arrays)
    assert memory_needed(product, ()) == memory_of_part(product, (), 3) == CONVERTER + 8 * largest
    assert worth_reading(product, ()) is None


@pytest.fixture
def plan(s2: Path, tmp_path: Path) -> Plan:
    made = preflight(Request.of(s2, tmp_path / "out.zarr", groups=[]), Reporter(io.StringIO()))
    return dataclasses.replace(made, product=in_chunks_of(5490, made.product))


def test_a_converter_reads_more_at_once_where_memory_is_free_for_it(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "cores", lambda: 2)
    enough = memory_of_part(plan.product, (), 2, read=8 * 5490**2)
    said = []
    for free in (None, enough, enough - 1):
        monkeypatch.setattr(resources, "free_memory", lambda free=free: free)
        said.append(environment(plan, 1).get("DASK_ARRAY__CHUNK_SIZE"))
    assert said == ["241120800B", "241120800B", None]


@pytest.mark.parametrize("groups", [[], [R20M, R60M]], ids=["whole", "groups"])
def test_what_is_read_at_once_does_not_change_what_is_written(
    groups: list[str], s2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = []
    for read in (memory.READ_AT_ONCE, 10_000):
        monkeypatch.setattr(memory, "READ_AT_ONCE", read)
        monkeypatch.setattr(memory, "LARGEST_READ", 2 * read)
        with closing(Reporter(io.StringIO())) as reporter:
            run(Request.of(s2, tmp_path / f"{read}.zarr", groups=groups), reporter)
        stores.append(contents(tmp_path / f"{read}.zarr"))
    assert stores[0] == stores[1]

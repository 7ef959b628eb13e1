"""Many jobs at once, and how they are taken up again; with the real converter."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pystac
import pytest
import xarray as xr

import geozarr_nb as gz
from geozarr_nb.errors import InvalidRequest, JobNotFound
from geozarr_nb.jobs.jobset import Refused
from tests.contract.support import GROUP, Place


def test_one_bad_request_does_not_stop_the_others_and_the_rest_is_not_done_twice(place: Place) -> None:
    requests = [
        {"source": place.sample, "output": place.output("a")},
        {"source": place.product("missing.zarr"), "output": place.output("b")},
        {"source": place.sample, "output": place.output("c"), "grups": ["x"]},
        {"source": place.sample, "output": place.output("d"), "groups": ["quality/mask/r60m"]},
    ]
    jobs = gz.submit_many(requests, groups=[GROUP])
    assert (len(jobs), len(jobs.entries)) == (2, 4)
    assert [entry.name for entry in jobs.refused] == [place.product("missing.zarr"), place.sample]
    assert [entry.status for entry in jobs.refused] == ["Failed", "Failed"]
    assert [entry.code for entry in jobs.refused] == ["product-not-found", "invalid-request"]
    assert "grups" in jobs.refused[1].reason

    # A new kernel with the same list joins what runs ...
    again = gz.submit_many(requests, groups=[GROUP])
    assert again.name == jobs.name
    assert [job.name for job in again.jobs] == [job.name for job in jobs.jobs]
    again.wait(timeout=600)
    assert again.counts == {"Succeeded": 2, "Failed": 2}
    assert jobs[1].request.groups == ("/quality/mask/r60m",)
    assert [job.open().groups != () for job in again] == [True, True], "what was refused is no member"

    # ... and leaves alone what is done.
    done = gz.submit_many(requests, groups=[GROUP])
    assert done.counts == {"Succeeded": 2, "Failed": 2}
    assert [job.state.attempt for job in done.jobs] == [1, 1]
    assert done.retry_failed().counts == {"Succeeded": 2, "Failed": 2}

    # By its name it is found without the list.
    found = gz.get_job_set(jobs.name)
    assert [type(entry) for entry in found.entries] == [type(entry) for entry in jobs.entries]
    assert [entry.name for entry in found.entries] == [entry.name for entry in jobs.entries]
    assert [entry.reason for entry in found.refused] == [entry.reason for entry in jobs.refused]
    assert jobs.jobs[0].name in repr(found)


def test_a_set_is_cancelled_as_a_whole(place: Place) -> None:
    sources = [{"source": place.sample, "output": place.output(name)} for name in "abc"]
    jobs = gz.submit_many(sources, groups=[GROUP], name="mine").cancel()
    assert jobs.counts == {"Failed": 3}
    assert {job.reason for job in gz.get_job_set("mine").jobs} == {"it was cancelled"}
    assert [entry for name in "abc" for entry in place.leftovers(name)] == []


def test_sources_alone_are_requests(place: Place) -> None:
    jobs = gz.submit_many([place.sample, place.product("missing.zarr")], groups=[GROUP])
    assert jobs.jobs[0].output.endswith("S2A_SAMPLE_geozarr.zarr")
    assert isinstance(jobs.entries[1], Refused)
    assert list(jobs) == jobs.jobs == [jobs[0]]
    jobs.cancel()


def test_common_groups_that_can_be_read_only_once_are_for_all(place: Place) -> None:
    sources = [{"source": place.sample, "output": place.output(name)} for name in "ab"]
    jobs = gz.submit_many(sources, groups=iter([GROUP])).cancel()
    assert [job.request.groups for job in jobs.jobs] == [(GROUP,)] * 2


def test_a_static_catalogue_is_its_items(place: Place, tmp_path: Path) -> None:
    catalogue = pystac.Catalog("c", "products")
    for name in "ab":
        item = pystac.Item(name, None, None, datetime(2025, 10, 8, tzinfo=UTC), {})
        item.add_asset("product", pystac.Asset(place.sample))
        catalogue.add_item(item)
    catalogue.normalize_and_save(str(tmp_path / "catalogue"), pystac.CatalogType.SELF_CONTAINED)
    jobs = gz.submit_many(tmp_path / "catalogue" / "catalog.json", groups=[GROUP]).cancel()
    assert [job.output.rpartition("/")[2] for job in jobs.jobs] == ["a_geozarr.zarr", "b_geozarr.zarr"]
    assert [job.request.item for job in jobs.jobs] == [str(tmp_path / f"catalogue/{name}/{name}.json") for name in "ab"]


def test_results_are_a_collection(place: Place, tmp_path: Path) -> None:
    sources = [{"source": place.sample, "output": place.output(name)} for name in "ab"]
    jobs = gz.submit_many(sources, groups=[GROUP]).wait(timeout=600)
    assert [item.id for item in jobs.items()] == ["S2A_SAMPLE_a", "S2A_SAMPLE_b"]
    jobs.collection(id="mine").normalize_and_save(str(tmp_path / "saved"), pystac.CatalogType.SELF_CONTAINED)
    opened = pystac.Collection.from_file(str(tmp_path / "saved" / "collection.json"))
    for item, name in zip(opened.get_items(), "ab", strict=True):
        assert item.assets["product"].get_absolute_href() == place.output(name)
        dataset = xr.open_zarr(item.assets["product"].get_absolute_href(), group=GROUP)
        assert float(dataset.b02[:8, :8].mean()) > 0


def test_a_single_request_is_no_list(place: Place) -> None:
    for single in (place.sample, {"source": place.sample}, Path(place.sample)):
        with pytest.raises(InvalidRequest, match="single request"):
            gz.submit_many(single, groups=[GROUP])  # type: ignore[arg-type]


def test_an_unknown_set_is_not_found_and_an_impossible_name_refused(place: Place) -> None:
    gz.submit_many([], name="known")
    with pytest.raises(JobNotFound) as caught:
        gz.get_job_set("unknown")
    assert "known" in caught.value.remedy
    with pytest.raises(InvalidRequest):
        gz.submit_many([], name="../elsewhere")

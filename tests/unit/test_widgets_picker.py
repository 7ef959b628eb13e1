"""A product's groups to tick: driven as a front end would, and as code would."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import ipywidgets
import pytest

import geozarr_nb as gz
from geozarr_nb.api import products
from geozarr_nb.widgets import Choice, Picker
from geozarr_nb.widgets.blocks.background import SEEN, Worker
from geozarr_nb.widgets.request.choice import describe_cost
from geozarr_nb.widgets.request.picker import _extent
from tests.contract.support import until
from tests.unit.test_widgets_tree import product_of
from tests.unit.widgets_support import R20M, R60M, SECONDS, button, field, inside, sent_messages, shown

ROWS = 30


@pytest.fixture(autouse=True)
def _settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOZARR_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)


def picker_of(*arguments: Any, **options: Any) -> Picker:
    picker = Picker(*arguments, **options)
    assert picker.wait(SECONDS)
    return picker


def tick_of(picker: Picker, path: str) -> ipywidgets.Checkbox:
    tick: ipywidgets.Checkbox = field(picker, "/".join(path.split("/")[-2:]))
    assert tick.tooltip == f"Chooses {path}"
    return tick


def test_a_product_is_described_with_its_groups(sample: Path) -> None:
    picker = picker_of(str(sample), groups=[R60M])
    assert {R20M, R60M} <= set(picker.shown)
    text = shown(picker)
    for part in ("Sentinel-2 L2A", "b8a", "180 x 180 pixels, chunks of", "stored", "Extent"):
        assert part in text
    assert tick_of(picker, R60M).value
    assert not tick_of(picker, R20M).value


def test_an_extent_across_the_antimeridian_ends_in_the_west() -> None:
    assert _extent(11.4, 41.4, 12.8, 42.4) == "11.40 to 12.80 E, 41.40 to 42.40 N"
    assert _extent(179.1, 62.1, -178.8, 63.1) == "179.10 E to 178.80 W, 62.10 to 63.10 N"


def test_what_can_be_chosen_or_opened_has_a_name_of_its_own(sample: Path) -> None:
    picker = picker_of(str(sample), groups=[R60M])
    seen = [each for each in inside(picker) if each.layout.display != "none"]
    ticks = [each.description for each in seen if isinstance(each, ipywidgets.Checkbox)]
    assert len(ticks) == len(set(ticks))
    assert {"reflectance/r20m", "mask/r20m"} <= set(ticks)
    assert all(each.description for each in seen if isinstance(each, ipywidgets.Button))
    assert not any(each.disabled for each in seen if isinstance(each, ipywidgets.Checkbox))


def test_when_it_was_taken_is_written_as_people_do(sample: Path) -> None:
    assert "2025-10-08 10:00 UTC" in shown(picker_of(str(sample), groups=[R60M]))


def test_the_cost_follows_the_choice(sample: Path) -> None:
    picker = picker_of(str(sample), groups=[R60M])
    assert describe_cost(gz.estimate(sample, [R60M])) in shown(picker)
    tick_of(picker, R20M).value = True
    assert picker.groups == (R60M, R20M)
    assert picker.choice.cost is None, "the cost of another choice is not shown"
    assert picker.wait(SECONDS)
    assert picker.choice.cost == gz.estimate(sample, [R60M, R20M])
    tick_of(picker, R60M).value = False
    assert picker.groups == (R20M,)


def test_the_whole_product_is_a_choice_of_its_own(sample: Path) -> None:
    picker = picker_of(str(sample), groups=[])
    assert picker.choice.whole
    assert picker.choice.wanted == []
    assert picker.choice.cost == gz.estimate(sample, [])
    picker.choice.whole = False
    assert picker.choice.problems == ["choose at least one group, or the whole product"]


def test_a_missing_group_is_explained_with_what_may_be_meant(sample: Path) -> None:
    picker = picker_of(str(sample), groups=["r20m", R60M])
    assert "the product has no group /r20m" in shown(picker)
    button(picker, f"Use {R20M}").click()
    assert picker.groups == (R20M, R60M)
    assert picker.wait(SECONDS)
    assert picker.choice.problems == []
    assert "no group" not in shown(picker)


def test_a_group_that_cannot_be_converted_says_why(sample: Path) -> None:
    report = gz.validate(sample, list(gz.inspect(sample).groups))
    group, why = next(iter(report.unfit.items()))
    picker = picker_of(str(sample), groups=[group])
    assert any(why in problem for problem in picker.choice.problems)
    button(picker, "Leave it out").click()
    assert picker.groups == ()


def test_another_product_is_read_when_its_address_is_given(sample: Path) -> None:
    picker = picker_of("nowhere.zarr")
    assert picker.choice.error.code == "product-not-found"
    assert "nowhere.zarr" in shown(picker)
    assert len(picker.children) == 4, "there is no tree without a product"
    field(picker, "Product").value = str(sample)
    assert picker.wait(SECONDS)
    assert picker.choice.error is None
    assert picker.choice.product.kind == "Sentinel-2 L2A"


def test_an_item_of_a_catalogue_is_a_product_too(sample: Path, tmp_path: Path) -> None:
    asset = {"href": str(sample), "type": "application/vnd+zarr"}
    item = {"type": "Feature", "id": "an-item", "assets": {"product": asset}}
    picker = picker_of(item, groups=[R60M])
    assert field(picker, "Product").value == "STAC item an-item"
    assert picker.choice.cost == gz.estimate(item, [R60M])

    file = tmp_path / "item.json"
    file.write_text(json.dumps(item))
    field(picker, "Product").value = f" {file} "
    assert field(picker, "Product").value == str(file)
    assert picker.wait(SECONDS)
    assert picker.choice.product.kind == "Sentinel-2 L2A"
    assert picker.choice.cost == gz.estimate(item, [R60M])


def test_what_is_asked_of_a_slow_store_does_not_hold_anything_up(sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    inspect = gz.inspect

    def slow(source: Any) -> Any:
        if "slow" in str(source):
            assert released.wait(SECONDS)
        return inspect(source)

    monkeypatch.setattr(products, "inspect", slow)
    choice = Choice("slow.zarr", [R60M])
    choice.source = str(sample)
    until(lambda: choice.product is not None)  # while the store that was asked first is still silent
    assert not released.is_set()
    released.set()
    assert choice.wait(SECONDS)
    assert choice.product.name == "S2A_SAMPLE", "the answer to what was asked before is dropped"
    assert choice.error is None


def test_a_thousand_groups_take_as_many_widgets_as_there_are_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    messages = sent_messages(monkeypatch)
    groups = [f"/measurements/part{part:02}/group{number:02}" for part in range(25) for number in range(40)]
    picker = picker_of(product_of(*groups), groups=groups[:1])
    assert len(picker.choice.available) == 0  # no projection: nothing here can become GeoZarr
    made = messages.count("comm_open")
    assert made < 15 * ROWS
    assert len(picker.shown) <= ROWS
    messages.clear()
    picker.sought = "part07"
    assert picker.wait(SECONDS)
    assert len(picker.shown) == ROWS
    picker.page = 1
    assert picker.wait(SECONDS)
    assert picker.shown[-1] == "/measurements/part07/group39"
    picker.sought = ""
    picker.open_group("/measurements/part03")
    assert picker.wait(SECONDS)
    assert "/measurements/part03/group00" in picker.shown
    assert messages.count("comm_open") < 10 * ROWS, "rows are used again"
    assert len(messages) < 30 * ROWS


def test_a_tick_survives_filter_and_page(sample: Path) -> None:
    picker = picker_of(str(sample), groups=[R60M])
    picker.sought = "r20m"
    tick_of(picker, R20M).value = True
    picker.sought = ""
    assert picker.groups == (R60M, R20M)
    assert tick_of(picker, R20M).value
    assert tick_of(picker, R60M).value


def test_it_says_what_there_is_where_no_front_end_answers(sample: Path) -> None:
    picker = picker_of(str(sample), groups=[R60M, "/nothing"])
    text = picker._repr_mimebundle_()["text/plain"]
    assert text == repr(picker)
    for part in ("Sentinel-2 L2A", R60M, "cost:", "problem: the product has no group /nothing"):
        assert part in text
    assert "…" not in text


def test_what_signs_an_address_is_not_in_its_text() -> None:
    picker = Picker("http://127.0.0.1:9/p.zarr?sig=secret")
    assert "secret" not in repr(picker)


def test_only_the_newest_work_is_done() -> None:
    worker = Worker("test")
    done: list[Any] = []
    for number in range(5):
        worker.start_latest(lambda number=number: number, done.append, delay=0.05)  # type: ignore[misc]
    assert worker.wait(SECONDS)
    assert done == [4]


def test_what_is_taken_back_is_not_handed_over_while_somebody_looks() -> None:
    worker = Worker("test")
    done: list[Any] = []
    is_working = threading.Event()
    may_answer = threading.Event()

    def work() -> int:
        is_working.set()
        assert may_answer.wait(SECONDS)
        return 1

    worker.start_latest(work, done.append, delay=0)
    assert is_working.wait(SECONDS)
    with SEEN:
        may_answer.set()
        worker.drop()
    assert worker.wait(SECONDS)
    assert done == []


def test_a_defect_is_told_and_not_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    worker = Worker("test")
    done: list[Any] = []
    worker.start(lambda: 1 // 0, done.append)
    assert worker.wait(SECONDS)
    assert "ZeroDivisionError: integer division" in caplog.text, "the kernel's log has the traceback"
    assert "defect" in str(done[0])

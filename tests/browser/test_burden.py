"""What a hundred running jobs and a thousand groups cost a page, measured in it."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Locator, expect

from tests.browser import burden
from tests.browser.lab import UI, Lab
from tests.browser.test_story import R60M
from tests.contract.support import until

pytestmark = pytest.mark.nightly  # it measures, and wants a machine for itself
JOBS = 100
UPDATES = 1000
SECONDS_TO_UPDATE = 240
MESSAGES_A_SECOND = 80  # the bound that the monitor's own test sets, for each one that is shown
BYTES_OF_GROWTH = 20e6
SECONDS_TO_ANSWER = 3.0
GROUPS, GROUPS_OF_A_PART = 1000, 40
WITH_PIXELS = "/measurements/part17/group39"
SECONDS_TO_READ = 15.0


def test_a_hundred_jobs_stay_fluent(lab: Lab, record_property: Callable[[str, object], None]) -> None:
    shutil.copy(Path(burden.__file__), lab.folder)
    notebook = lab.open(f"import burden\n\nburden.begin({JOBS})", UI.format(""), "6 * 7")
    notebook.run(0)
    notebook.run(1)
    ui, page, frames = notebook.ui, notebook.page, notebook.frames
    expect(ui.text(f"{JOBS} Running")).to_be_visible()
    expect(ui.job(f"p-{JOBS - 1:03}")).to_contain_text("chunks")
    notebook.picture("running", ui.whole)
    before, counted, begun = notebook.heap(), frames.comm, time.monotonic()

    def updated() -> bool:
        page.wait_for_timeout(100)  # the page's messages come while Playwright waits
        return frames.comm - counted >= UPDATES

    until(updated, seconds=SECONDS_TO_UPDATE)
    rate = (frames.comm - counted) / (time.monotonic() - begun)
    growth = notebook.heap() - before
    record_property(f"messages a second at {JOBS} running jobs", round(rate, 1))
    record_property(
        f"MB of the page's scripts before and after {UPDATES} updates",
        f"{before / 1e6:.1f}, {(before + growth) / 1e6:.1f}",
    )
    assert 0 < rate <= MESSAGES_A_SECOND
    assert growth < BYTES_OF_GROWTH

    asked = time.monotonic()
    notebook.run(2)
    record_property(f"seconds for a cell beside {JOBS} running jobs", round(time.monotonic() - asked, 2))
    asked = time.monotonic()
    ui.button("Older jobs").click()
    expect(ui.job(f"p-{JOBS - 16:03}")).to_be_visible()
    seconds = time.monotonic() - asked
    record_property(f"seconds to turn a page of {JOBS} running jobs", round(seconds, 2))
    assert seconds < SECONDS_TO_ANSWER


def write_product_of(groups: int, sample: Path, path: Path) -> None:
    """Write a product with so many groups like one of the sample's; only one has pixels."""
    metadata = json.loads((sample / ".zmetadata").read_text())
    old = metadata["metadata"]
    of_group = {key.removeprefix(f"{R60M[1:]}/"): value for key, value in old.items() if key.startswith(f"{R60M[1:]}/")}
    new = {key: old[key] for key in (".zgroup", ".zattrs")}
    for number in range(groups):
        part = f"measurements/part{number // GROUPS_OF_A_PART:02}"
        above = {f"{part}/.zgroup": old[".zgroup"], "measurements/.zgroup": old[".zgroup"]}
        new |= above | {f"{part}/group{number % GROUPS_OF_A_PART:02}/{key}": value for key, value in of_group.items()}
    path.mkdir()
    for name in (".zgroup", ".zattrs"):
        (path / name).write_text(json.dumps(old[name]))
    shutil.copytree(sample / R60M[1:], path / WITH_PIXELS[1:])
    (path / ".zmetadata").write_text(json.dumps({**metadata, "metadata": new}))


def test_a_thousand_groups_stay_fluent(lab: Lab, sample: Path, record_property: Callable[[str, object], None]) -> None:
    write_product_of(GROUPS, sample, lab.folder / "large.zarr")
    notebook = lab.open(UI.format("groups='/measurements/part00/group00'"))
    notebook.run()
    ui = notebook.ui

    def timed(what: str, then: Locator, limit: float = SECONDS_TO_ANSWER) -> None:
        expect(then).to_be_visible()
        seconds = time.monotonic() - asked
        record_property(f"seconds {what}, of {GROUPS} groups", round(seconds, 2))
        assert seconds < limit

    asked = time.monotonic()
    ui.give("large.zarr")
    timed("to the first", ui.button("▸ part03"), SECONDS_TO_READ)
    asked = time.monotonic()
    ui.button("▸ part03").click()
    timed("to open one", ui.group("/part03/group05"))
    asked = time.monotonic()
    ui.filter.fill("part17")
    timed("to filter", ui.group("/part17/group05"))
    asked = time.monotonic()
    ui.button("Next groups").click()
    timed("to turn the page", ui.group(WITH_PIXELS))
    asked = time.monotonic()
    ui.group(WITH_PIXELS).check()
    timed("to know what one costs", ui.cost.filter(has_text="kB to read in"))
    expect(ui.groups).to_have_value(f"/measurements/part00/group00, {WITH_PIXELS}")
    notebook.picture("filtered", ui.whole)

"""What a hundred running jobs cost a page, measured in it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import expect

from tests.browser import burden
from tests.browser.lab import UI, Lab
from tests.contract.support import until

JOBS = 100
UPDATES = 1000
MESSAGES_A_SECOND = 80  # the bound that the monitor's own test sets, for each one that is shown
BYTES_OF_GROWTH = 20e6
SECONDS_TO_ANSWER = 3.0


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

    until(updated)
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

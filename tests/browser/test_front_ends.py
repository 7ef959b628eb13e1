"""The form in the other front ends, and where there is little room."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.lab import NARROW, SECONDS_TO_LOAD, UI, WIDE, Lab, Notebook
from tests.contract.support import GROUP

FORM = UI.format(f"'S2.zarr', groups='{GROUP}'")


def wait_for_form(notebook: Notebook) -> None:
    """Wait until the form is there, with what it was called with, and can be used."""
    expect(notebook.ui.convert).to_be_enabled(timeout=SECONDS_TO_LOAD * 1000)
    expect(notebook.ui.group(GROUP)).to_be_checked()
    expect(notebook.ui.cost).to_be_visible()


def go_the_whole_way(lab: Lab, notebook: Notebook) -> None:
    """Convert what was chosen, and look at it."""
    ui = notebook.ui
    ui.convert.click()
    ui.wait_for_status(lab.only_job(), "Succeeded")
    ui.wait_for_log("verified")
    ui.button("View result").click()
    ui.wait_for_picture()
    notebook.keep("whole")


def test_in_notebook(lab: Lab, product: Path) -> None:
    notebook = lab.page(lab.address("notebooks", lab.write([FORM])))
    notebook.cell(0).get_by_role("textbox").first.click()
    notebook.page.keyboard.press("Shift+Enter")
    wait_for_form(notebook)
    go_the_whole_way(lab, notebook)


@pytest.mark.parametrize("size", [WIDE, pytest.param(NARROW, marks=pytest.mark.nightly)], ids=["wide", "narrow"])
def test_in_voila(lab: Lab, product: Path, size: tuple[int, int]) -> None:
    notebook = lab.page(lab.address("voila/render", lab.write([FORM])), size)
    wait_for_form(notebook)
    width = notebook.page.evaluate("document.documentElement.scrollWidth")
    assert width <= size[0], "nobody has to scroll sideways"
    go_the_whole_way(lab, notebook)


def test_in_a_narrow_column(lab: Lab, product: Path) -> None:
    notebook = lab.open(FORM, size=NARROW)
    notebook.run()
    wait_for_form(notebook)
    panel = notebook.ui.whole
    assert panel.evaluate("panel => panel.scrollWidth <= panel.clientWidth"), "nobody has to scroll sideways"
    notebook.picture("form", panel)
    go_the_whole_way(lab, notebook)
    assert panel.evaluate("panel => panel.scrollWidth <= panel.clientWidth"), "nobody has to scroll sideways"
    notebook.picture("result", panel)

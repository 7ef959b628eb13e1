"""The form for those who do not see it, and for those who use no mouse."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import expect

from tests.browser.lab import UI, Lab
from tests.browser.test_story import R20M, R60M


def test_nothing_hinders_anybody(lab: Lab, product: Path) -> None:
    notebook = lab.open(UI.format(f"'S2.zarr', 'out.zarr', groups='{R60M}'"))
    notebook.run()
    ui = notebook.ui
    ui.wait_until_ready()
    assert notebook.barriers() == []

    ui.backend.select_option("a cluster with Argo Workflows")
    expect(ui.claim).to_be_visible()
    expect(ui.text("the jobs cannot be seen now")).to_be_visible()
    notebook.picture("no-cluster", ui.whole)
    assert notebook.barriers() == []

    ui.backend.select_option("this machine")
    ui.groups.fill("measurements/reflectance/r60")
    expect(ui.suggestion(R60M)).to_be_visible()
    assert notebook.barriers() == []

    ui.suggestion(R60M).click()
    ui.wait_until_ready()
    ui.convert.click()
    ui.wait_for_status(lab.only_job(), "Succeeded")
    ui.button("View result").click()
    ui.wait_for_picture()
    assert notebook.barriers() == []


def test_the_whole_way_by_keys(lab: Lab, product: Path) -> None:
    notebook = lab.open(UI.format(""))
    notebook.run()
    ui, keyboard = notebook.ui, notebook.page.keyboard
    ui.product.focus()
    keyboard.type(product.name)
    keyboard.press("Enter")
    expect(ui.group(R60M)).to_be_visible()
    ui.tab_to(ui.group(R20M))  # what the settings name is ticked
    keyboard.press("Space")
    expect(ui.group(R20M)).not_to_be_checked()
    ui.tab_to(ui.group(R60M))
    keyboard.press("Space")
    expect(ui.group(R60M)).to_be_checked()
    expect(ui.group(R60M)).to_be_focused()
    ui.wait_until_ready()
    ui.tab_to(ui.convert)
    keyboard.press("Enter")
    name = lab.only_job()
    ui.wait_for_status(name, "Succeeded")
    # A button that cannot be pressed any more has no focus, but the way goes on from there.
    ui.tab_to(ui.python_code, most=1)
    ui.tab_to(ui.button(name))
    ui.tab_to(ui.button("View result"))
    keyboard.press("Enter")
    ui.wait_for_picture()
    ui.tab_to(ui.drawn_bands)
    assert lab.jobs()[name].state.request.groups == (R60M,)

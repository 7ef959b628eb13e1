"""The whole way by clicking: from a product to its picture, with what can go wrong between."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import expect

from tests.browser.lab import UI, Lab

REFLECTANCE = "/measurements/reflectance"
R20M, R60M = f"{REFLECTANCE}/r20m", f"{REFLECTANCE}/r60m"


def test_from_a_product_to_its_picture(lab: Lab, product: Path, record_property: Callable[[str, object], None]) -> None:
    notebook = lab.open(UI.format(""))
    ui = notebook.ui
    begun = time.monotonic()
    notebook.run(wait=False)
    expect(ui.product).to_be_editable()
    record_property("seconds from gz.ui() to a form that can be filled in", round(time.monotonic() - begun, 1))

    given = time.monotonic()
    ui.give(product.name)
    expect(ui.group(R20M)).to_be_visible()
    record_property("seconds from a product's path to its groups", round(time.monotonic() - given, 1))
    ui.group(R20M).check()
    ui.group(R60M).check()
    expect(ui.cost).to_contain_text("kB")
    ui.wait_until_ready()
    notebook.picture("ready")

    ui.convert.dblclick()
    ui.wait_for_progress()
    notebook.picture("running")
    (name,) = lab.jobs()
    ui.wait_for_status(name, "Succeeded")
    expect(ui.log).to_contain_text("verified")
    notebook.picture("succeeded")

    ui.button("View result").click()
    ui.wait_for_picture()
    notebook.picture("result")
    assert list(lab.jobs()) == [name], "a double click submits once"
    assert set(lab.jobs()[name].state.request.groups) == {R20M, R60M}
    assert (lab.folder / "S2_geozarr.zarr").is_dir()

"""The whole way by clicking: from a product to its picture, with what can go wrong between."""

from __future__ import annotations

import shutil
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
    notebook.picture("ready", ui.whole)

    ui.convert.dblclick()
    ui.wait_for_progress()
    notebook.picture("running", ui.whole)
    name = lab.only_job()
    ui.wait_for_status(name, "Succeeded")
    ui.wait_for_log("verified")
    notebook.picture("succeeded", ui.whole)

    ui.button("View result").click()
    ui.wait_for_picture()
    expect(ui.drawn_group).to_have_text("the one that suits best")
    notebook.picture("result", ui.whole)
    assert list(lab.jobs()) == [name], "a double click submits once"
    assert set(lab.jobs()[name].state.request.groups) == {R20M, R60M}
    assert (lab.folder / "S2_geozarr.zarr").is_dir()


def test_a_wrong_group_is_mended_by_a_click(lab: Lab, product: Path) -> None:
    notebook = lab.open(UI.format("'S2.zarr'"))
    notebook.run()
    ui = notebook.ui
    expect(ui.group(R20M)).to_be_checked()
    ui.groups.fill("measurements/reflectance/r60")
    expect(ui.group(R20M)).not_to_be_checked()
    expect(ui.suggestion(R60M)).to_be_visible()
    expect(ui.convert).to_be_disabled()
    notebook.picture("suggestion", ui.whole)

    ui.suggestion(R60M).click()
    expect(ui.suggestion(R60M)).to_have_count(0)
    expect(ui.group(R60M)).to_be_checked()
    ui.wait_until_ready()
    ui.convert.click()
    ui.wait_for_status(lab.only_job(), "Succeeded")
    assert lab.jobs()[lab.only_job()].state.request.groups == (R60M,)


def test_a_job_that_fails_says_why_and_what_to_do_and_runs_again(lab: Lab, sample: Path) -> None:
    product = Path(shutil.copytree(sample, lab.folder / "S2.zarr"))
    chunk = next(path for path in sorted((product / R60M[1:] / "b02").iterdir()) if not path.name.startswith("."))
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[:16] + b"\xff" * (len(whole) - 16))
    notebook = lab.open(UI.format(f"'S2.zarr', groups='{R60M}'"))
    notebook.run()
    ui = notebook.ui
    ui.wait_until_ready()
    ui.convert.click()
    name = lab.only_job()
    ui.wait_for_status(name, "Failed")
    failure = lab.jobs()[name].state.failure
    assert failure is not None
    expect(ui.job(name)).to_contain_text(failure.message)
    expect(ui.fact("Reason")).to_have_text(failure.message)
    expect(ui.fact("Remedy")).to_have_text(failure.remedy)
    notebook.picture("failed", ui.whole)
    assert notebook.barriers() == []

    chunk.write_bytes(whole)
    ui.button("Run again").click()
    ui.wait_for_status(name, "Running")
    ui.wait_for_status(name, "Succeeded")
    expect(ui.job(name)).to_contain_text("attempt 2")

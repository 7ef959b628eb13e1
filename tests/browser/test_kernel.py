"""Jobs outlive what shows them: a cell that is run again, a kernel that ends, a second window."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from benchmarks.server import ProductServer
from tests.browser.lab import UI, Lab, Notebook
from tests.contract.support import GROUP

Far = tuple[ProductServer, str]


@pytest.fixture
def held(far_sample: Far) -> Iterator[Far]:
    """The far sample, which gives none of the data of a group away until it is released."""
    server, address = far_sample
    server.reset()
    server.hold(f"/{address.rpartition('/')[2]}{GROUP}/b02/0")
    yield far_sample
    server.release()


def begin(lab: Lab, address: str) -> Notebook:
    """Open the form for a product and submit it by a click; its job is running then."""
    notebook = lab.open(UI.format(f"'{address}', 'out.zarr', groups='{GROUP}'"))
    notebook.run()
    notebook.ui.wait_until_ready()
    notebook.ui.convert.click()
    notebook.ui.wait_for_status(lab.only_job(), "Running")
    return notebook


def test_a_job_is_cancelled(lab: Lab, held: Far) -> None:
    notebook = begin(lab, held[1])
    ui, name = notebook.ui, lab.only_job()
    ui.button("Cancel").click()
    ui.wait_for_status(name, "Failed")
    expect(ui.job(name)).to_contain_text("it was cancelled")
    expect(ui.button("Cancel")).to_be_disabled()
    expect(ui.button("Run again")).to_be_enabled()
    notebook.picture("cancelled", ui.whole)
    assert [path.name for path in lab.folder.iterdir() if "out.zarr" in path.name and path.is_dir()] == []


def test_a_job_goes_on_when_the_kernel_ends_and_is_found_again(lab: Lab, held: Far) -> None:
    server, address = held
    notebook = begin(lab, address)
    ui, name = notebook.ui, lab.only_job()
    notebook.restart_kernel()
    assert lab.jobs()[name].status == "Running"
    notebook.run()
    ui.wait_for_status(name, "Running")
    ui.button(name).click()
    notebook.picture("found", ui.whole)
    # The form asks for the same as before: what runs already is joined.
    ui.wait_until_ready()
    ui.convert.click()
    expect(ui.text(f"Submitted as {name}")).to_be_visible()

    server.release()
    ui.wait_for_status(name, "Succeeded")
    assert lab.only_job() == name
    assert lab.jobs()[name].state.attempt == 1
    chunks = {
        path: times
        for path, times in server.counts.repeated().items()
        if f"{GROUP}/" in path and not path.rpartition("/")[2].startswith(".")
    }
    assert set(chunks.values()) <= {2}, "nothing was fetched twice, and a little of each is compared"


def test_jobs_are_seen_while_a_cell_is_busy(lab: Lab, held: Far) -> None:
    server, address = held
    busy = "import pathlib, time\n\nwhile not pathlib.Path('go').exists():\n    time.sleep(0.1)"
    notebook = lab.open(UI.format(f"'{address}', 'out.zarr', groups='{GROUP}'"), busy)
    notebook.run()
    notebook.ui.wait_until_ready()
    notebook.ui.convert.click()
    name = lab.only_job()
    notebook.ui.wait_for_status(name, "Running")
    notebook.run(1, wait=False)
    expect(notebook.prompt(1)).to_have_text("[*]:")
    server.release()
    notebook.ui.wait_for_status(name, "Succeeded")
    notebook.ui.wait_for_log("verified")
    expect(notebook.prompt(1)).to_have_text("[*]:")
    (lab.folder / "go").touch()
    expect(notebook.prompt(1)).to_have_text(re.compile(r"\[\d+\]:"))


def test_two_windows_show_the_same_form(lab: Lab, held: Far) -> None:
    server, address = held
    path = lab.write([UI.format(f"'{address}', 'out.zarr', groups='{GROUP}'")])
    first = lab.visit(path)
    first.run()
    first.ui.wait_until_ready()
    first.save()
    second = lab.visit(path)
    second.ui.wait_until_ready()
    expect(second.ui.group(GROUP)).to_be_checked()
    other = GROUP.replace("r60m", "r20m")
    first.ui.group(other).check()
    expect(second.ui.group(other)).to_be_checked()
    second.ui.group(other).uncheck()
    expect(first.ui.group(other)).not_to_be_checked()

    first.ui.wait_until_ready()
    second.ui.wait_until_ready()
    first.ui.convert.click(no_wait_after=True)
    second.ui.convert.click(no_wait_after=True, force=True)
    name = lab.only_job()
    for window in (first, second):
        window.ui.wait_for_status(name, "Running")
    server.release()
    for window in (first, second):
        window.ui.wait_for_status(name, "Succeeded")
    assert lab.only_job() == name

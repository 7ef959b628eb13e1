"""What a notebook shows of the calls: executed in a real kernel, with the real converter."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.unit.widgets_support import R60M

if find_spec("nbclient") is None or find_spec("nbconvert") is None:
    pytest.skip("nbclient and nbconvert are not installed: make jupyter", allow_module_level=True)

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter

WIDGET = "application/vnd.jupyter.widget-view+json"
SECONDS = 240


class Client(NotebookClient):
    """Executes notebooks, and keeps every message that is about a widget, with the cell that was busy then."""

    def __init__(self, *cells: str, folder: Path) -> None:
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in cells])
        resources = {"metadata": {"path": str(folder)}}
        super().__init__(notebook, timeout=SECONDS, resources=resources, store_widget_state=False)
        self.messages: list[tuple[int, dict[str, Any]]] = []

    def process_message(self, msg: dict[str, Any], cell: Any, cell_index: int) -> Any:
        if msg["msg_type"].startswith("comm_"):
            self.messages.append((cell_index, msg))
        return super().process_message(msg, cell, cell_index)

    def rows(self, cell: int) -> list[str]:
        """Return the HTML that widgets were given while a cell was busy."""
        states = [message["content"]["data"].get("state", {}) for number, message in self.messages if number == cell]
        return [state["value"] for state in states if isinstance(state.get("value"), str)]

    def outputs(self, cell: int) -> list[Any]:
        """Return what a cell shows."""
        return list(self.nb.cells[cell].outputs)


@pytest.fixture
def folder(sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a notebook, with the sample product."""
    monkeypatch.setenv("GEOZARR_STATE_DIR", str(tmp_path / "state"))
    (tmp_path / "s2.zarr").symlink_to(sample)
    return tmp_path


def test_convert_shows_a_row_while_its_cell_is_busy_and_leaves_text(folder: Path) -> None:
    client = Client(
        "import geozarr_nb as gz",
        f'job = gz.convert("s2.zarr", "out.zarr", groups=["{R60M}"])',
        "job",
        'gz.inspect("s2.zarr")',
        folder=folder,
    )
    client.execute()

    rows = client.rows(1)
    assert any("Running" in row and "convert" in row for row in rows)
    assert any("<progress" in row for row in rows)
    (shown,) = client.outputs(1)
    assert shown["output_type"] == "display_data"
    assert set(shown["data"]) == {"text/plain", "text/html"}, "what stays needs no kernel"
    for text in shown["data"].values():
        assert "Succeeded" in text
        assert "as of" not in text

    for cell, words in ((2, ("Succeeded", "out.zarr")), (3, ("Sentinel-2 L2A", R60M))):
        (shown,) = client.outputs(cell)
        assert set(shown["data"]) == {WIDGET, "text/plain", "text/html"}
        for word in words:
            assert word in shown["data"]["text/plain"]
            assert word in shown["data"]["text/html"]

    page, _ = HTMLExporter().from_notebook_node(client.nb)
    assert "<strong>Sentinel-2 L2A: s2" in page, "without a widget's state its HTML is shown"
    assert WIDGET not in page


def test_a_page_without_a_kernel_has_the_form_as_text(folder: Path) -> None:
    client = Client(
        f'import geozarr_nb as gz; app = gz.ui("s2.zarr", "out.zarr", groups=["{R60M}"])',
        "app.wait(60)",
        "app",
        folder=folder,
    )
    client.execute()
    (shown,) = client.outputs(2)
    page, _ = HTMLExporter().from_notebook_node(client.nb)
    for text in (shown["data"]["text/plain"], page):
        for words in ("Product and groups: Sentinel-2 L2A", "cost: 61.2 kB", "job = gz.convert(", "Ready: writes"):
            assert words in text
    assert WIDGET not in page


def test_a_failure_is_the_text_of_the_error_and_no_traceback_of_ours(folder: Path) -> None:
    client = Client(
        'import geozarr_nb as gz; job = gz.convert("s2.zarr", "out.zarr", groups=["r60"], validate_groups=True)',
        folder=folder,
    )
    with pytest.raises(CellExecutionError, match=re.escape(R60M)):
        client.execute()


def test_without_ipywidgets_the_output_is_text_and_html_only(folder: Path) -> None:
    client = Client(
        "import sys; sys.modules['ipywidgets'] = None; import geozarr_nb as gz",
        f'job = gz.submit("s2.zarr", "out.zarr", groups=["{R60M}"]).cancel()',
        "job.status and gz.inspect('s2.zarr')",
        folder=folder,
    )
    client.execute()
    (shown,) = client.outputs(2)
    assert set(shown["data"]) == {"text/plain", "text/html"}
    assert client.messages == []


def test_an_interrupt_leaves_the_job_running_and_a_text_that_says_so(folder: Path) -> None:
    client = Client(
        "import geozarr_nb as gz, os, signal, threading\n"
        "def interrupt():\n"
        "    next(state for state in gz.watch_jobs(threading.Event()) if state.stage == 'convert')\n"
        "    os.kill(os.getpid(), signal.SIGINT)",
        f'threading.Thread(target=interrupt).start()\ngz.convert("s2.zarr", "out.zarr", groups=["{R60M}"])',
        "job = gz.list_jobs().jobs[0]\nprint(job.status)\njob.cancel()",
        folder=folder,
    )
    client.allow_errors = True
    client.execute()
    shown, error = client.outputs(1)
    assert error["ename"] == "KeyboardInterrupt"
    assert set(shown["data"]) == {"text/plain", "text/html"}
    assert "the job goes on without this cell" in shown["data"]["text/plain"]
    assert client.outputs(2)[0]["text"].strip() == "Running"

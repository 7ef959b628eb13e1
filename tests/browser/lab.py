"""Notebooks in a real JupyterLab, each in a folder with jobs of its own."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import nbformat
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Error, Locator, Page, WebSocket, expect

import geozarr_nb as gz
from tests.browser.server import SETTINGS, TOKEN, JupyterServer
from tests.browser.ui import Ui
from tests.contract.support import until

ARTIFACTS = Path(os.environ.get("GEOZARR_SCREENSHOTS") or Path(__file__).parent / "artifacts")
SECONDS_TO_LOAD = 120
SECONDS_TO_ANSWER = 60
# High enough for the whole form: what a notebook has scrolled away is in no picture.
WIDE, NARROW = (1000, 3400), (500, 4000)
OUTPUT = ".jp-OutputArea-output"
UI = "import geozarr_nb as gz\n\ngz.ui({})"
SURFACES = {"Dark": "rgb(33, 33, 33)", "Light": "rgb(255, 255, 255)"}
# Notebook 7 stumbles over its own settings and commands as it starts, with any notebook.
NOTEBOOKS_OWN, WIDGETS = "/static/notebook/", "jupyter-widgets"

expect.set_options(timeout=SECONDS_TO_ANSWER * 1000)


@dataclass
class Frames:
    """What a page was told by kernels.

    Attributes
    ----------
    comm
        Number of messages of widgets.
    """

    comm: int = 0

    def listen(self, socket: WebSocket) -> None:
        """Count what comes through a connection."""
        socket.on("framereceived", self._count)

    def _count(self, frame: str | bytes) -> None:
        content = frame if isinstance(frame, bytes) else frame.encode()
        self.comm += b'"comm_msg"' in content or b'"comm_open"' in content


@dataclass
class Seen:
    """What a page had to complain of.

    Attributes
    ----------
    is_ours
        Whether an address is one of the server's; the web's were not asked for anything.
    errors
        The complaints.
    """

    is_ours: Callable[[str], bool]
    errors: list[str] = field(default_factory=list)

    def listen(self, page: Page) -> None:
        """Take down errors of a page's console, and those that nobody caught."""
        page.on("console", self._console)
        page.on("pageerror", self._uncaught)

    def _uncaught(self, error: Error) -> None:
        trace = error.stack or error.message
        if NOTEBOOKS_OWN not in trace or WIDGETS in trace:
            self.errors.append(f"not caught: {trace}")

    def _console(self, message: ConsoleMessage) -> None:
        address = message.location.get("url", "")
        if message.type == "error" and (not address or self.is_ours(address)):
            self.errors.append(f"{message.text} ({address})")


class Lab:
    """A folder that JupyterLab serves, with a local backend of its own, and the pages that show it."""

    def __init__(self, server: JupyterServer, browser: Browser, name: str) -> None:
        self.server = server
        self.name = re.sub(r"[^a-z0-9]+", "-", name.removeprefix("test_").lower()).strip("-")
        self.folder = server.root / f"{self.name}-{uuid4().hex[:6]}"
        self.folder.mkdir()
        self.settings = {"GEOZARR_STATE_DIR": str(self.folder / ".state"), "GEOZARR_BACKEND": "local"}
        self._browser = browser
        self._pages: list[Notebook] = []
        self._asked = dict(os.environ)

    def write(self, cells: Sequence[str], name: str = "story.ipynb") -> Path:
        """Write a notebook that has not been run, and the settings of its kernel."""
        (self.folder / SETTINGS).write_text(json.dumps(self.settings))
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        path = self.folder / name
        nbformat.write(notebook, path)
        return path

    def open(self, *cells: str, size: tuple[int, int] = WIDE) -> Notebook:
        """Write a notebook and open it in JupyterLab, in a fresh window; nothing is run."""
        return self.visit(self.write(cells), size=size)

    def visit(self, path: Path, *, size: tuple[int, int] = WIDE) -> Notebook:
        """Open a notebook in JupyterLab, in a fresh window."""
        notebook = self.page(f"lab/workspaces/{uuid4().hex}/tree/{self._shown(path)}", size)
        notebook.wait_for_kernel()
        notebook.hide_folders()
        return notebook

    def page(self, address: str, size: tuple[int, int] = WIDE) -> Notebook:
        """Open an address of the server in a fresh window."""
        width, height = size
        context = self._browser.new_context(viewport={"width": width, "height": height}, reduced_motion="reduce")
        context.set_default_timeout(SECONDS_TO_ANSWER * 1000)
        # Voila's template asks the web for fonts and MathJax; no test does.
        context.route(lambda address: not self._is_ours(address), lambda route: route.abort())
        opened = Notebook(context.new_page(), self.name, self._is_ours)
        self._pages.append(opened)
        opened.page.goto(f"{self.server.url}/{address}?token={TOKEN}", timeout=SECONDS_TO_LOAD * 1000)
        return opened

    def _is_ours(self, address: str) -> bool:
        return address.startswith((self.server.url, self.server.url.replace("http", "ws", 1)))

    def _shown(self, path: Path) -> str:
        return quote(path.relative_to(self.server.root).as_posix())

    def address(self, front_end: str, path: Path) -> str:
        """Return the address of a notebook in a front end: notebooks, voila/render."""
        return f"{front_end}/{self._shown(path)}"

    def jobs(self) -> dict[str, gz.Job]:
        """Return the jobs of this folder, as another process sees them."""
        os.environ.update(self.settings)
        return {job.name: job for job in gz.list_jobs()}

    def only_job(self) -> str:
        """Return the name of the job, once there is one; there must not be two."""
        until(lambda: bool(self.jobs()))
        (name,) = self.jobs()
        return name

    def close(self) -> None:
        """Close the pages, end the jobs, and tell what went wrong in a page or a cell."""
        os.environ.update(self.settings)
        gz.list_jobs().cancel()
        errors = []
        for opened in self._pages:
            errors += opened.complaints()
            opened.page.context.close()
        for name in self.settings:
            if name in self._asked:
                os.environ[name] = self._asked[name]
            else:
                del os.environ[name]
        assert not errors, "\n".join(errors)


class Notebook:
    """A page with a notebook.

    Attributes
    ----------
    page
        As Playwright has it.
    ui
        The form that is shown in it.
    frames
        What it was told by its kernel.
    """

    def __init__(self, page: Page, name: str, is_ours: Callable[[str], bool]) -> None:
        self.page = page
        self.frames, self._seen = Frames(), Seen(is_ours)
        self._name = name
        self.ui = Ui(page)
        self._seen.listen(page)
        page.on("websocket", self.frames.listen)

    # The notebook

    def wait_for_kernel(self) -> None:
        """Wait until the notebook is there and its kernel does nothing."""
        # The toolbar calls a kernel idle that has not been asked for yet; the status bar does not.
        expect(self.page.get_by_text(re.compile(r"\| Idle$"))).to_be_visible(timeout=SECONDS_TO_LOAD * 1000)

    def run(self, number: int = 0, *, wait: bool = True) -> None:
        """Run a cell, and wait until it is done."""
        cell = self.cell(number)
        before = self.prompt(number).inner_text()
        cell.get_by_role("textbox").first.click()
        self.page.keyboard.press("Shift+Enter")
        if wait:
            expect(self.prompt(number)).not_to_have_text(before)
            expect(self.prompt(number)).to_have_text(re.compile(r"\[\d+\]:"), timeout=SECONDS_TO_LOAD * 1000)

    def cell(self, number: int) -> Locator:
        """Return a cell."""
        return self.page.locator(".jp-CodeCell").nth(number)

    def prompt(self, number: int) -> Locator:
        """Return what stands before a cell: its number, or that it is busy."""
        return self.cell(number).locator(".jp-InputPrompt")

    def save(self) -> None:
        """Write the notebook with its outputs."""
        self.page.keyboard.press("Control+s")
        expect(self.page.get_by_text("Saving completed")).to_be_visible()

    def restart_kernel(self) -> None:
        """Restart the kernel by the toolbar's button, as a person does."""
        self.page.get_by_role("button", name="Restart the kernel", exact=True).click()
        with self.page.expect_response(re.compile("/api/kernels/.*/restart")):  # until then the old one is idle
            self.page.get_by_role("button", name="Confirm Kernel Restart").click()
        self.wait_for_kernel()

    def complaints(self) -> list[str]:
        """Return the errors of the page, and the tracebacks and warnings in its cells."""
        kinds = ("stderr", "error")
        selector = ", ".join(f"[data-mime-type='application/vnd.jupyter.{kind}']" for kind in kinds)
        return [*self._seen.errors, *self.page.locator(selector).all_inner_texts()]

    def barriers(self) -> list[str]:
        """Return what hinders people in a cell's output, as axe finds it, in light and dark."""
        found: list[str] = []
        for theme in SURFACES:
            self._set_theme(theme)
            for violation in Axe().run(self.page, OUTPUT).response["violations"]:
                places = [f"{node['target']}: {node['failureSummary']}" for node in violation["nodes"]]
                found += [f"{theme}: {violation['id']} at {place}" for place in places]
        return found

    def picture(self, state: str, of: Locator | None = None) -> None:
        """Keep pictures of the page, or of a part of it, as it is, in light and dark."""
        for theme in SURFACES:
            self._set_theme(theme)
            self.keep(f"{state}-{theme.lower()}", of)

    def keep(self, state: str, of: Locator | None = None) -> None:
        """Keep a picture of the page, or of a part of it, as it is."""
        ARTIFACTS.mkdir(parents=True, exist_ok=True)
        (of or self.page).screenshot(path=ARTIFACTS / f"{self._name}-{state}.png")

    def hide_folders(self) -> None:
        """Close the panel beside the notebook."""
        self._command("application:toggle-left-area")

    def _command(self, name: str, **options: str) -> None:
        call = "([name, options]) => window.jupyterapp.commands.execute(name, options)"
        self.page.evaluate(call, [name, options])

    def _set_theme(self, theme: str) -> None:
        self._command("apputils:change-theme", theme=f"JupyterLab {theme}")
        # A theme is there when its colours are.
        expect(self.page.locator("#jp-top-panel")).to_have_css("background-color", SURFACES[theme])
        expect(self.page.locator("#jupyterlab-splash")).to_have_count(0)

    def heap(self) -> int:
        """Return the bytes that the page's scripts hold, once what nobody needs is gone."""
        session = self.page.context.new_cdp_session(self.page)
        session.send("HeapProfiler.enable")
        session.send("HeapProfiler.collectGarbage")
        session.send("Performance.enable")
        metrics: Any = session.send("Performance.getMetrics")["metrics"]
        session.detach()
        return int(next(each["value"] for each in metrics if each["name"] == "JSHeapUsedSize"))

"""A look at a result: a picture of its coarsest overview, and of more of it where that is asked for."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ipywidgets
import traitlets

from geozarr_nb.api import jobs
from geozarr_nb.errors import GeozarrError
from geozarr_nb.jobs.job import Job
from geozarr_nb.outputs import open as open_module
from geozarr_nb.outputs import preview
from geozarr_nb.widgets.blocks.background import SEEN, Worker, sentence
from geozarr_nb.widgets.blocks.panel import WIDE, Panel, change, code, facts, flow, lines, status
from geozarr_runner.text.html import escape
from geozarr_runner.trust.addresses import redact

AUTOMATIC_GROUP = (("the one that suits best", ""),)
AUTOMATIC = "those that suit best"
COARSEST, ENOUGH, NATIVE = "coarsest", "auto", "native"
STRETCH = (2.0, 98.0)
ROWS_AND_COLUMNS = 2
GROUPS_LISTED = 30


@dataclass(frozen=True, slots=True)
class Content:
    """What an output holds that can be drawn.

    Attributes
    ----------
    address
        Where it is, as it has to be opened.
    bands
        Names of the rasters of each group, by the group's path.
    sizes
        Rows and columns at each level of each group, the native one first.
    """

    address: str
    bands: dict[str, tuple[str, ...]]
    sizes: dict[str, list[tuple[int, int]]]

    @classmethod
    def of(cls, output: Any) -> Content:
        """Read an output's metadata, and its one-dimensional coordinates."""
        address = output.output if isinstance(output, Job) else str(output)
        bands: dict[str, tuple[str, ...]] = {}
        sizes: dict[str, list[tuple[int, int]]] = {}
        inside: set[str] = set()
        for path, levels in open_module.levels(output).items():
            bands[path] = tuple(dict.fromkeys(name for level in levels for name in level.variables))
            sizes[path] = [level.shape for level in levels if level.shape]
            inside |= {level.path for level in levels}
        for node in open_module.open(output).subtree:
            rasters = {str(name): array for name, array in node.data_vars.items() if array.ndim >= ROWS_AND_COLUMNS}
            if rasters and node.path not in inside and node.path not in bands:
                bands[node.path] = tuple(rasters)
                sizes[node.path] = [max((int(array.shape[-2]), int(array.shape[-1])) for array in rasters.values())]
        return cls(address, bands, sizes)


class Viewer(Panel):
    """Show what a conversion wrote.

    Parameters
    ----------
    source
        As for `geozarr_nb.preview`: a path, an address, or a job that succeeded.

    Attributes
    ----------
    source
        May be set; the picture is then drawn in the background.
    content
        The groups, bands and levels that there are; None before they were read.
    picture
        What is shown: a `geozarr_nb.outputs.preview.Preview`; None before, and where nothing can be drawn.
    error
        Why nothing can be drawn.
    busy
        It is being read.
    waiting
        What the reading waits for, where it says so.
    """

    source = traitlets.Any(None, allow_none=True)
    content = traitlets.Any(None, allow_none=True)
    picture = traitlets.Any(None, allow_none=True)
    error = traitlets.Any(None, allow_none=True)
    busy = traitlets.Bool(False)
    waiting = traitlets.Unicode("")

    def __init__(self, source: Any = None) -> None:
        self._worker = Worker("view")
        self._held = 0
        # A menu that was empty once stays without a choice in front ends, whatever is chosen here.
        self._group = ipywidgets.Dropdown(description="Group", options=AUTOMATIC_GROUP, tooltip="Which group is shown")
        self._bands = ipywidgets.Combobox(
            description="Bands",
            placeholder=AUTOMATIC,
            continuous_update=False,
            tooltip="One band for grey; three with commas between them for red, green and blue",
        )
        self._level = ipywidgets.Dropdown(
            description="Level", options=[("coarsest overview", COARSEST)], tooltip="How much of the result is read"
        )
        # Not a slider for both: its handles have no names for those who hear them.
        self._dark = _percentile("Darkest %", "Percentile of the pixels that is drawn darkest", STRETCH[0])
        self._bright = _percentile("Brightest %", "Percentile of the pixels that is drawn brightest", STRETCH[1])
        self._state, self._image, self._code = ipywidgets.HTML(), ipywidgets.HTML(), ipywidgets.HTML()
        self._groups = ipywidgets.HTML(layout=ipywidgets.Layout(width=WIDE))
        self._all = (
            self._state,
            flow(self._group, self._bands, self._level, self._dark, self._bright),
            self._image,
            self._groups,
            self._code,
        )
        super().__init__("Result", (self._state,))
        self.observe(self._read, "source")
        self._group.observe(self._offer_of_group, "value")
        for field in (self._group, self._bands, self._level, self._dark, self._bright):
            field.observe(self._draw, "value")
        self.observe(self._show, ["content", "picture", "error", "busy", "waiting"])
        self._show(None)
        self.source = source

    @property
    def group(self) -> str | None:
        """The group that is shown; may be set."""
        return str(self._group.value or "") or None

    @group.setter
    def group(self, path: str) -> None:
        self._group.value = path

    @property
    def bands(self) -> str:
        """The bands that are shown, with commas between them; empty for those that suit; may be set."""
        return str(self._bands.value).strip()

    @bands.setter
    def bands(self, names: str) -> None:
        self._bands.value = names

    @property
    def level(self) -> int | str:
        """What is read, as for `geozarr_nb.preview`; may be set."""
        value: int | str = self._level.value
        return value

    @level.setter
    def level(self, level: int | str) -> None:
        self._level.value = level

    @property
    def stretch(self) -> tuple[float, float]:
        """Percentiles of the pixels that are drawn darkest and brightest; may be set."""
        return float(self._dark.value), float(self._bright.value)

    @stretch.setter
    def stretch(self, percentiles: tuple[float, float]) -> None:
        with self._holding():
            self._dark.value, self._bright.value = percentiles
        self._draw(None)

    @property
    def code(self) -> str:
        """What opens and draws the same in a cell; empty before there is anything."""
        if self.content is None:
            return ""
        address = redact(self.content.address)
        options = [f"group={self.group!r}"] if self.group else []
        options += [f"bands={self.bands!r}"] if self.bands else []
        options += [f"level={self.level!r}"]
        options += [f"stretch={self.stretch!r}"] if self.stretch != STRETCH else []
        return (
            f"import geozarr_nb as gz\ntree = gz.open({address!r})\ngz.preview({', '.join([repr(address), *options])})"
        )

    @property
    def text(self) -> str:
        """What is shown, as lines of text."""
        found = [self._verdict()]
        if self.content is not None:
            found += [f"  {path}: {self._levels_of(path)}; {', '.join(names)}" for path, names in self._listed()]
            found += [f"  {line}" for line in self.code.splitlines()]
        return "\n".join(found)

    def show_job(self, name: str, backend: str | None = None) -> None:
        """Show the result of a job."""
        self.source = None

        def done(answer: Job | GeozarrError) -> None:
            if isinstance(answer, GeozarrError):
                self.error = answer
            else:
                self.source = answer

        self._worker.start(lambda: jobs.get_job(name, backend), done)

    def wait(self, timeout: float | None = None) -> bool:
        """Return whether everything was read and drawn within so many seconds."""
        return self._worker.wait(timeout)

    def _read(self, _: Any) -> None:
        self._worker.drop()
        self.content = self.picture = self.error = None
        source = self.source
        self.busy, self.waiting = source is not None, ""
        if source is None:
            return

        def done(answer: Content | GeozarrError) -> None:
            if isinstance(answer, GeozarrError):
                self.busy, self.error = False, answer
                return
            self.content = answer
            self._offer(answer)
            self._draw(None)

        self._worker.start_latest(lambda: Content.of(source), done, delay=0, tell=self._tell)

    def _offer(self, content: Content) -> None:
        """Offer what the output has; whatever was chosen of another is forgotten."""
        with self._holding():
            self._group.options = [*AUTOMATIC_GROUP, *((path, path) for path in content.bands)]
            self._bands.value = ""
        self._offer_of_group(None)

    def _offer_of_group(self, _: Any) -> None:
        content = self.content
        if content is None:
            return
        names = dict.fromkeys(
            name for path, bands in content.bands.items() if self.group in (None, path) for name in bands
        )
        sizes = content.sizes.get(self.group or "", [])
        levels: list[tuple[str, int | str]] = [
            (f"{number}{'' if number else ', native'}: {rows:,} x {columns:,}", number)
            for number, (rows, columns) in enumerate(sizes)
        ]
        # Once levels have numbers, native is the first of them.
        chosen = 0 if levels and self.level == NATIVE else self.level
        offered: list[tuple[str, int | str]] = [
            ("coarsest overview", COARSEST),
            ("enough for the screen", ENOUGH),
            *(levels or [("native: all pixels", NATIVE)]),
        ]
        with self._holding():
            self._bands.options = list(names)
            self._level.options = offered
            self._level.value = chosen if chosen in [value for _, value in offered] else COARSEST

    @contextmanager
    def _holding(self) -> Iterator[None]:
        """Draw nothing in a block: what is set in it belongs together."""
        with SEEN:
            self._held += 1
            try:
                yield
            finally:
                self._held -= 1

    def _draw(self, _: Any) -> None:
        content, source = self.content, self.source
        if content is None or self._held:
            return
        options: dict[str, Any] = {
            "group": self.group,
            "bands": self.bands or None,
            "level": self.level,
            "stretch": self.stretch,
        }
        self.busy, self.waiting = True, ""

        def done(answer: Any) -> None:
            failed = isinstance(answer, GeozarrError)
            self.error, self.picture = (answer, None) if failed else (None, answer)
            self.busy = False

        self._worker.start_latest(lambda: preview.preview(source, **options), done, delay=0, tell=self._tell)

    def _tell(self, text: str) -> None:
        self.waiting = text

    def _verdict(self) -> str:
        if self.error is not None:
            return f"Nothing can be shown: {sentence(self.error)}"
        if self.busy:
            return f"Reading: {self.waiting}" if self.waiting else "Reading ..."
        if self.picture is None:
            return "Nothing to show yet"
        return _described(self.picture)

    def _listed(self) -> list[tuple[str, tuple[str, ...]]]:
        return list(self.content.bands.items())[:GROUPS_LISTED]

    def _levels_of(self, path: str) -> str:
        sizes = [f"{rows} x {columns}" for rows, columns in self.content.sizes[path]]
        return f"{sizes[0] if sizes else 'no'} pixels" + (f", overviews {', '.join(sizes[1:])}" if sizes[1:] else "")

    def _show(self, _: Any) -> None:
        with SEEN:
            change(self._state, value=status(lines([self._verdict()])))
            change(self, children=(self._state,) if self.content is None else self._all)
            if self.picture is not None:
                change(self._image, value=_image(self.picture))
            elif not self.busy:
                change(self._image, value="")
            if self.content is not None:
                groups = {path: f"{self._levels_of(path)}; {', '.join(names)}" for path, names in self._listed()}
                change(self._groups, value=facts(groups))
                change(self._code, value=lines(["The same in a cell:"]) + code(self.code, "Python code"))


def _percentile(label: str, tooltip: str, value: float) -> ipywidgets.BoundedFloatText:
    return ipywidgets.BoundedFloatText(description=label, tooltip=tooltip, value=value, min=0.0, max=100.0, step=0.5)


def _described(picture: Any) -> str:
    """Return what a picture shows, as its repr does."""
    return repr(picture).removeprefix("<Preview ").removesuffix(">")


def _image(picture: Any) -> str:
    """Return a picture as HTML with words for those who do not see it."""
    encoded = io.BytesIO()
    picture.image.save(encoded, "PNG")
    words = escape(f"Picture of {_described(picture)}")
    data = base64.b64encode(encoded.getvalue()).decode()
    # Few pixels are drawn larger, and as what they are.
    look = "width:min(100%, 32em);height:auto;image-rendering:pixelated"
    return f'<img alt="{words}" style="{look}" src="data:image/png;base64,{data}">'

"""A product and its groups as a tree to tick."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import ipywidgets

from geozarr_nb.errors import GeozarrError
from geozarr_nb.widgets.blocks.background import SEEN, Worker
from geozarr_nb.widgets.blocks.pages import Pages
from geozarr_nb.widgets.blocks.panel import Panel, button, change, facts, flow, forget, lines, status
from geozarr_nb.widgets.request.choice import Choice, describe_cost
from geozarr_nb.widgets.request.form_fields import product_field, text_field, tick, whole_product
from geozarr_nb.widgets.request.tree import Node, Tree
from geozarr_runner.events import human_bytes
from geozarr_runner.planning.groups import GroupReport
from geozarr_runner.product.model import Product
from geozarr_runner.trust.addresses import redact

ROWS = 30
PROBLEMS = 8
NAMES_SHOWN = 6
INDENT = 1.5  # em a level


class Picker(Panel):
    """Choose a product, and the groups of it that are wanted.

    Parameters
    ----------
    source, groups
        As for `geozarr_nb.submit`; None is what the settings name.
    choice
        The model to work on, where several widgets share one.
    rows
        Rows of the tree that are shown at once; the rest is on further pages.
    fixed
        There is no field for another product.

    Attributes
    ----------
    choice
        What was chosen, and all that is known of it: `choice.groups`, `choice.report`, `choice.cost`.
    """

    def __init__(
        self,
        source: Any = None,
        groups: str | Iterable[str] | None = None,
        *,
        choice: Choice | None = None,
        rows: int = ROWS,
        fixed: bool = False,
    ) -> None:
        self.choice = choice or Choice(source, groups)
        self._rows_shown, self._fixed = rows, fixed
        self._sizes = Worker("sizes")
        self._stored: dict[str, int | None] = {}
        self._tree: Tree | None = None
        self._opened: set[str] = set()
        self._rows: list[_GroupRow] = []
        self._said: tuple[list[str], GroupReport | None] = [], None
        self._source = product_field(self.choice)
        self._about = ipywidgets.HTML()
        self._filter = text_field(
            "Filter", "r20m, b04, ...", "Shows only groups whose path or variables hold these words"
        )
        self._whole = whole_product(self.choice)
        self._list = ipywidgets.VBox(layout=ipywidgets.Layout(width="100%"))
        self._pages = Pages(rows, "groups", "Previous groups", "Next groups", self._paint_tree)
        self._turn = flow(*self._pages.parts)
        self._problems = ipywidgets.VBox()
        self._cost = ipywidgets.HTML()
        super().__init__("Product and groups", (self._source, self._about, self._problems, self._cost))
        self._connect()
        self._load(None)
        self._paint_choice(None)

    @property
    def groups(self) -> tuple[str, ...]:
        """The chosen groups."""
        return tuple(self.choice.groups)

    @property
    def sought(self) -> str:
        """Words that the groups shown have to hold in their path or in the names of their variables; may be set."""
        return str(self._filter.value)

    @sought.setter
    def sought(self, words: str) -> None:
        self._filter.value = words

    @property
    def page(self) -> int:
        """Number of the page that is shown, from 0; may be set."""
        return self._pages.number

    @page.setter
    def page(self, number: int) -> None:
        self._pages.number = number
        self._paint_tree()

    @property
    def shown(self) -> list[str]:
        """Paths of the groups in the rows that are shown."""
        return [row.path for row in self._rows[: len(self._list.children)]]

    def open_group(self, path: str) -> None:
        """Show the groups below a group, or hide them where they are shown."""
        self._opened ^= {path}
        self._paint_tree()

    @property
    def text(self) -> str:
        """What is shown, as lines of text."""
        choice = self.choice
        if choice.product is None:
            return "; ".join(choice.problems) or f"reading {redact(choice.address)}"
        wanted = "the whole product" if choice.whole else ", ".join(choice.groups) or "none chosen yet"
        found = [f"{choice.product.kind} {choice.product.name}", f"  groups: {wanted}"]
        found += [f"  cost: {describe_cost(choice.cost)}"] if choice.cost else []
        found += [f"  problem: {problem}" for problem in choice.problems]
        return "\n".join([*found, f"  to choose of: {len(choice.available)} groups"])

    # From the widgets to the choice

    def _connect(self) -> None:
        self._filter.observe(lambda _: setattr(self, "page", 0), "value")
        self.choice.observe(self._load, ["product", "source"])
        self.choice.observe(self._paint_choice, ["groups", "whole", "error", "report", "cost", "note", "busy"])

    # From the choice to the widgets

    def _load(self, _: Any) -> None:
        with SEEN:
            product = self.choice.product
            self._pages.number = 0
            self._stored = {}
            self._tree = None if product is None else Tree(product)
            self._opened = set() if self._tree is None else set(self._tree.opened_for(self._rows_shown))
            change(self._about, value="" if product is None else facts(_about(product)))
            parts = (self._filter, self._whole, self._list, self._turn) if product else ()
            source = () if self._fixed else (self._source,)
            change(self, children=(*source, self._about, *parts, self._problems, self._cost))
            self._paint_tree()

    def _paint_tree(self) -> None:
        with SEEN:
            nodes = [] if self._tree is None else self._tree.seen(self._opened, self.sought)
            seen = self._pages.of(nodes, "no group has these words" if self.sought else "")
            while len(self._rows) < len(seen):
                self._rows.append(_GroupRow(self))
            for row, node in zip(self._rows, seen, strict=False):
                row.bind(node, is_open=node.path in self._opened or bool(self.sought))
                row.paint(self._details(node))
            change(self._list, children=tuple(row.view for row in self._rows[: len(seen)]))
            self._measure(seen)

    def _paint_choice(self, _: Any) -> None:
        with SEEN:
            choice = self.choice
            for row in self._rows[: len(self._list.children)]:
                row.tick()
            cost = f"Cost: {describe_cost(choice.cost)}" if choice.cost else choice.note
            if choice.busy:
                cost = "Reading the product ..." if choice.busy == "reading" else "Asking what this costs ..."
            change(self._cost, value=status(lines([cost] if cost else [])))
            self._explain()

    def _explain(self) -> None:
        """Say what is wrong with the choice, with a button for each thing that may have been meant."""
        choice = self.choice
        said = (choice.problems, choice.report)
        if said == self._said:
            return
        self._said = said
        parts: list[Any] = []
        if choice.problems:
            more = len(choice.problems) - PROBLEMS
            rest = [f"and {more} more"] if more > 0 else []
            mark = "Problem" if choice.is_begun else ""
            parts.append(ipywidgets.HTML(status(lines(choice.problems[:PROBLEMS], mark) + lines(rest))))
        if choice.report is not None:
            for group in (*choice.report.missing, *choice.report.unfit)[:PROBLEMS]:
                near = [better for better in choice.report.suggestions.get(group, ()) if better not in choice.groups]
                buttons = [button(f"Use {better}", f"Chooses {better} instead of {group}") for better in near]
                for use, better in zip(buttons, near, strict=True):
                    use.on_click(lambda _, group=group, better=better: choice.replace(group, better))
                parts.append(flow(*buttons, _leave_out(choice, group)))
            if choice.report.warnings:
                parts.append(ipywidgets.HTML(lines(choice.report.warnings, "Note")))
        _replace(self._problems, parts)

    def _details(self, node: Node) -> str:
        """Return what is known of a group."""
        choice = self.choice
        group = choice.product.groups.get(node.path)
        if group is None:
            return ""
        names = [array.name for array in group.variables]
        more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
        stored = self._stored.get(node.path)
        parts = [
            ", ".join(names[:NAMES_SHOWN]) + more,
            f"{_by(group.shape)} pixels, chunks of {_by(group.chunks)}" if group.shape and group.chunks else "",
            f"{human_bytes(group.nbytes)} unpacked" if stored is None else f"{human_bytes(stored)} stored",
            "" if node.path in choice.available else "cannot become GeoZarr as it is",
        ]
        return "; ".join(filter(None, parts))

    def _measure(self, seen: Sequence[Node]) -> None:
        """Find out what the groups that are seen take in their store, where that takes no requests."""
        product = self.choice.product
        unknown = [node for node in seen if node.holds_arrays and node.path not in self._stored]
        if product is None or not unknown:
            return

        def work() -> dict[str, int | None]:
            return {node.path: product.stored_bytes(node.path) for node in unknown}

        def done(answer: dict[str, int | None] | GeozarrError) -> None:
            if isinstance(answer, GeozarrError):
                return
            with SEEN:
                if product is not self.choice.product:
                    return
                self._stored |= answer
                for row in self._rows[: len(self._list.children)]:
                    row.paint(self._details(row.node))

        self._sizes.start_latest(work, done, delay=0)

    def wait(self, timeout: float | None = None) -> bool:
        """Return whether everything is known and shown within so many seconds."""
        return self.choice.wait(timeout) and self._sizes.wait(timeout)


class _GroupRow:
    """A row of the tree; it shows one group after the other as the tree is opened, filtered and paged."""

    def __init__(self, picker: Picker) -> None:
        self._picker = picker
        self.node = Node("/", 0, has_children=False, holds_arrays=False)
        self._toggle = button("", "")
        self._tick = tick("", "")
        self._tick.layout.min_width = "14em"
        self._details = ipywidgets.HTML(layout=ipywidgets.Layout(flex="1 1 16em"))
        self.view = flow(self._toggle, self._tick, self._details)
        self._toggle.on_click(lambda _: picker.open_group(self.path))
        self._tick.observe(self._ticked, "value")

    @property
    def path(self) -> str:
        return self.node.path

    def bind(self, node: Node, *, is_open: bool) -> None:
        self.node = node
        sign, verb = ("\u25be", "Hides") if is_open else ("\u25b8", "Shows")
        # Names are for those who hear them, too: many products have one r20m for measurements and another for quality.
        parent = node.path.rpartition("/")[0].rpartition("/")[2]
        change(
            self._toggle,
            description=f"{sign} {node.name}" if node.has_children else "",
            tooltip=f"{verb} the groups below {node.path}" if node.has_children else "",
        )
        change(self._toggle.layout, display=None if node.has_children else "none")
        change(
            self._tick,
            description=f"{parent}/{node.name}" if parent else node.name,
            tooltip=f"Chooses {node.path}" if node.holds_arrays else "",
            value=node.path in self._picker.choice.groups,
        )
        change(self._tick.layout, display=None if node.holds_arrays else "none")
        change(self.view.layout, padding=f"0 0 0 {INDENT * node.depth:g}em")

    def paint(self, details: str) -> None:
        change(self._details, value=lines([details]) if details else "")

    def tick(self) -> None:
        change(self._tick, value=self.path in self._picker.choice.groups)

    def _ticked(self, event: dict[str, Any]) -> None:
        choice = self._picker.choice
        # Binding the row to another group sets the tick too, to what the choice has.
        if event["new"] != (self.path in choice.groups):
            choice.toggle(self.path)


def _about(product: Product) -> dict[str, str]:
    return {
        "Kind": product.kind,
        "Name": product.name,
        "Taken": "" if product.when is None else _minute(product.when),
        "Extent": "" if product.bbox is None else _extent(*product.bbox),
    }


def _extent(west: float, south: float, east: float, north: float) -> str:
    """Return a box as people write it; one that crosses the antimeridian ends in the west."""
    end = f"{-east:.2f} W" if east < west else f"{east:.2f} E"
    return f"{west:.2f}{' E' if east < west else ''} to {end}, {south:.2f} to {north:.2f} N"


def _minute(when: str) -> str:
    """Return a time as people write it."""
    time = datetime.fromisoformat(when)
    return f"{time.astimezone(UTC) if time.tzinfo else time:%Y-%m-%d %H:%M} UTC"


def _by(sizes: Iterable[int]) -> str:
    return " x ".join(f"{size:,}" for size in sizes)


def _leave_out(choice: Choice, group: str) -> ipywidgets.Button:
    leave = button("Leave it out", f"Leaves {group} out")
    leave.on_click(lambda _: choice.toggle(group))
    return leave


def _replace(box: ipywidgets.Box, parts: Iterable[ipywidgets.Widget]) -> None:
    """Put other widgets into a box, and have the front end forget those before."""
    old = box.children
    box.children = tuple(parts)
    for widget in old:
        forget(widget)

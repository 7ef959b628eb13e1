"""What all widgets here have in common: a box that also shows itself as text, and pieces of HTML for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import ipywidgets

from geozarr_runner.text.html import escape

# Colours are the theme's own, light or dark; without JupyterLab the text's.
FAINT = "color:var(--jp-ui-font-color2, inherit)"
MONOSPACE = "font-family:var(--jp-code-font-family, monospace);font-size:var(--jp-code-font-size, 90%)"
BORDER = "1px solid var(--jp-border-color1, currentColor)"
CODE = (
    f"{MONOSPACE};white-space:pre-wrap;overflow-wrap:anywhere;border:{BORDER};padding:4px 8px;margin:2px 0;"
    "background:var(--jp-layout-color2, transparent);color:var(--jp-ui-font-color1, inherit);user-select:all"
)
WIDE = "99%"


class Panel(ipywidgets.VBox):  # type: ignore[misc]  # ipywidgets has no types
    """A box of widgets with a text form, for where no front end answers: a terminal, nbconvert, a code host."""

    def __init__(self, label: str, children: Iterable[ipywidgets.Widget], **traits: Any) -> None:
        super().__init__(children=tuple(children), layout=ipywidgets.Layout(width="100%", max_width="72em"), **traits)
        self.label = label

    @property
    def text(self) -> str:
        """What is shown, as lines of text."""
        raise NotImplementedError

    def close(self) -> None:
        """Take the widget away, with all that is in it."""
        for child in self.children:
            forget(child)
        super().close()

    def __repr__(self) -> str:
        return f"{self.label}: {self.text}"

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        bundle: dict[str, Any] = super()._repr_mimebundle_(**options) or {}
        return {**bundle, "text/plain": repr(self)}


def forget(widget: ipywidgets.Widget) -> None:
    """Have front ends forget a widget, and all that is in it."""
    for child in () if isinstance(widget, Panel) else getattr(widget, "children", ()):
        forget(child)
    widget.close()


def heading(text: str) -> ipywidgets.HTML:
    """Return a heading that screen readers list."""
    return ipywidgets.HTML(f'<h3 style="margin:8px 0 2px 0;{_TEXT}">{escape(text)}</h3>')


def flow(*children: ipywidgets.Widget) -> ipywidgets.HBox:
    """Return widgets beside each other, below each other where the column is narrow."""
    return ipywidgets.HBox(children, layout=ipywidgets.Layout(flex_flow="row wrap", align_items="center", width="100%"))


def button(text: str, tooltip: str) -> ipywidgets.Button:
    """Return a button as wide as its text; `tooltip` says what it does."""
    return ipywidgets.Button(description=text, tooltip=tooltip, layout=ipywidgets.Layout(width="auto"))


def facts(values: Mapping[str, str]) -> str:
    """Return names and values as HTML, leaving out what is empty."""
    rows = "".join(
        f'<dt style="{FAINT};{_CELL}">{escape(name)}</dt>'
        f'<dd style="{_CELL};overflow-wrap:anywhere">{escape(value)}</dd>'
        for name, value in values.items()
        if value
    )
    return f'<dl style="margin:0;line-height:1.5;{_TABLE};{_TEXT}">{rows}</dl>' if rows else ""


def lines(texts: Iterable[str], mark: str = "") -> str:
    """Return lines as HTML, each behind a word that says what it is."""
    sign = f"<strong>{escape(mark)}:</strong> " if mark else ""
    return "".join(
        f'<div style="line-height:1.5;overflow-wrap:anywhere;{_TEXT}">{sign}{escape(text)}</div>' for text in texts
    )


def code(text: str, label: str) -> str:
    """Return lines to copy: one click marks all of them."""
    return f'<pre role="group" tabindex="0" aria-label="{escape(label)}" style="{CODE}">{escape(text)}</pre>'


def status(content: str) -> str:
    """Return HTML that screen readers say when it changes."""
    return f'<div role="status" aria-live="polite">{content}</div>'


_TEXT = "color:var(--jp-ui-font-color1, inherit)"
_TABLE = "display:grid;grid-template-columns:max-content minmax(0, 1fr);column-gap:12px"
_CELL = "float:none;width:auto;margin:0;padding:0"  # front ends have widths of their own for these


def change(widget: Any, **values: Any) -> int:
    """Set only what differs, and send it as one message.

    Returns
    -------
    int
        How many messages that took: 1 or 0.
    """
    different = {name: value for name, value in values.items() if getattr(widget, name) != value}
    if not different:
        return 0
    with widget.hold_sync():
        for name, value in different.items():
            setattr(widget, name, value)
    return 1

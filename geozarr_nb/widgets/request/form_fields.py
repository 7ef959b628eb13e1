"""Fields that the forms here have in common."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import ipywidgets

from geozarr_nb.widgets.blocks.panel import WIDE, change
from geozarr_nb.widgets.request.choice import Choice
from geozarr_runner.spec.options import Option


def text_field(label: str, placeholder: str, tooltip: str, *, wide: bool = False) -> ipywidgets.Text:
    """Return a field for text, which is taken as it is typed."""
    layout = ipywidgets.Layout(width=WIDE) if wide else ipywidgets.Layout()
    return ipywidgets.Text(description=label, placeholder=placeholder, tooltip=tooltip, layout=layout)


def menu(label: str, options: Iterable[Any], tooltip: str) -> ipywidgets.Dropdown:
    """Return a menu of values, or of names with values."""
    return ipywidgets.Dropdown(description=label, options=list(options), tooltip=tooltip)


def tick(text: str, tooltip: str) -> ipywidgets.Checkbox:
    """Return a box to tick, as wide as its text."""
    return ipywidgets.Checkbox(description=text, tooltip=tooltip, indent=False, layout=ipywidgets.Layout(width="auto"))


def option_field(option: Option) -> ipywidgets.DOMWidget:
    """Return the field of an option, as its type wants it."""
    tooltip = f"{option.help[0].upper()}{option.help[1:]}"
    if option.is_truth:
        return tick(option.label, tooltip)
    if option.values:
        named = ((option.choices.get(value, value), value) for value in option.values)
        return menu(option.label, named, tooltip)
    return text_field(option.label, "", tooltip)


def product_field(choice: Choice) -> ipywidgets.Text:
    """Return a field for the product of a choice; what is typed is taken when it is finished."""
    field = text_field(
        "Product",
        "https://... of a Zarr store or a STAC item, or a path; then Enter",
        "Address or path of a Zarr store or of a STAC item",
        wide=True,
    )
    field.continuous_update = False
    field.value = choice.address

    def give(event: dict[str, Any]) -> None:
        if event["new"] != choice.address:
            choice.source = event["new"].strip()

    field.observe(give, "value")
    choice.observe(lambda _: change(field, value=choice.address), "source")
    return field


def whole_product(choice: Choice) -> ipywidgets.Checkbox:
    """Return a box that takes the whole product instead of groups."""
    box = tick(
        "the whole product, in the converter's own layout",
        "Converts everything; groups that are chosen are then passed over",
    )
    box.value = choice.whole
    box.observe(lambda event: setattr(choice, "whole", event["new"]), "value")
    choice.observe(lambda event: change(box, value=event["new"]), "whole")
    return box

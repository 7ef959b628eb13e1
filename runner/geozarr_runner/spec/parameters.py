"""Groups and options as parameters of the workflow template, and back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, cast

from geozarr_runner.errors import InvalidRequest
from geozarr_runner.spec.options import OPTIONS, Options
from geozarr_runner.spec.request import as_text
from geozarr_runner.trust.bounds import from_json


def parameters(groups: Iterable[str], options: Mapping[str, Any]) -> dict[str, str]:
    """Return the parameters of the workflow template that say groups and options.

    Options of 0.1.0 have one each. All others are in `options`, as JSON; it is left out where they are as a request
    means that does not name them, so that a template without it will do.
    """
    values = {"groups": as_text(groups)}
    values |= {name: _word(options[name]) for name, one in OPTIONS.items() if one.parameter and name in options}
    others = {
        name: options[name]
        for name, one in OPTIONS.items()
        if not one.parameter and not one.of_machine and options.get(name, one.assumed) != one.assumed
    }
    return values | ({"options": json.dumps(others)} if others else {})


def from_parameters(values: Mapping[str, str]) -> Options:
    """Return the options that parameters say; what cannot be read is as in a request that does not name it."""
    found: dict[str, Any] = {}
    try:
        more = from_json(values.get("options") or "{}")
    except ValueError:
        more = {}
    for name, option in OPTIONS.items():
        given = option.read(values[name]) if option.parameter and name in values else None
        try:
            found[name] = option.checked(more.get(name) if given is None and isinstance(more, dict) else given)
        except InvalidRequest:
            found[name] = option.assumed
    return cast(Options, found)


def _word(value: Any) -> str:
    return ("false", "true")[value] if isinstance(value, bool) else str(value)

"""Options on a command line."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from typing import Any

from geozarr_runner.spec.options import ARGUMENTS, Option
from geozarr_runner.text.shell import truth


def add_options(parser: Any, options: Mapping[str, Option], *, flags: bool = False) -> None:
    """Add options to a parser; what is not given is not in its namespace.

    Parameters
    ----------
    flags
        An option that is true or false takes no value, unless its default is the settings'.
    """
    for name, option in options.items():
        more: dict[str, Any] = {"dest": name, "help": option.help.replace("%", "%%"), "default": argparse.SUPPRESS}
        if option.is_truth and flags and option.default is not None:
            more |= {"action": "store_true"}
        elif option.is_truth:
            more |= {"type": truth, "nargs": "?", "const": True, "metavar": "true|false"}
        elif option.values:
            more |= {"choices": option.values}
        elif name == "groups":
            more |= {"nargs": "+", "action": "extend", "metavar": option.metavar}
        else:
            more |= {"type": type(option.assumed) if isinstance(option.assumed, int) else str}
            more |= {"metavar": option.metavar or "N"}
        parser.add_argument(option.spelled, **more)


def given(namespace: argparse.Namespace, options: Iterable[str] = ARGUMENTS) -> dict[str, Any]:
    """Return what a command line gives of these options."""
    from geozarr_runner.spec.request import Words  # which help has no use for

    found = {name: getattr(namespace, name) for name in options if hasattr(namespace, name)}
    return found | ({"groups": Words(found["groups"])} if "groups" in found else {})

"""Options in the signature and the docstring of a call."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from textwrap import fill
from typing import Any

from geozarr_runner.spec.options import Option, declared

WIDTH = 116


def signed[F: Callable[..., Any]](options: type, /, **defaults: Any) -> Callable[[F], F]:
    """Return a decorator that shows the options of a function in its signature and in its docstring.

    The function takes them as `**options: Unpack[...]`, which is what a type checker sees. A kernel, `help` and the
    documentation see each of them, with its default.

    Parameters
    ----------
    options
        The `TypedDict` that declares them.
    defaults
        Defaults that are this function's own.

    Examples
    --------
    >>> @signed(ResultOptions)
    ... def convert(source: str, **options: Unpack[ResultOptions]) -> None: ...
    >>> print(inspect.signature(convert))
    (source: 'str', *, packed: bool = False) -> 'None'
    """
    shown = declared(options)

    def decorate(function: F) -> F:
        own = inspect.signature(function)
        found = [one for one in own.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
        keywords = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=defaults.get(name, option.default),
                annotation=option.type,
            )
            for name, option in shown.items()
        ]
        first = [one for one in found if one.kind is not inspect.Parameter.KEYWORD_ONLY]
        last = [one for one in found if one.kind is inspect.Parameter.KEYWORD_ONLY]
        signature = own.replace(parameters=[*first, *keywords, *last])
        function.__signature__ = signature  # type: ignore[attr-defined]
        function.__doc__ = _documented(function.__doc__ or "", shown.values())
        return function

    return decorate


def _documented(text: str, options: Iterable[Option]) -> str:
    """Return a docstring with a paragraph for each option in the place of `**options`."""
    found = re.search(r"^(?P<indent> *)\*\*options\n(?: *\n|(?P=indent) +.*\n)*", text, re.MULTILINE)
    if found is None:
        return text
    indent = found["indent"]
    lines = []
    for option in options:
        said = " ".join(filter(None, (f"{option.help[0].upper()}{option.help[1:]}.", option.more)))
        inside = f"{indent}    "
        lines += [f"{indent}{option.name}", fill(said, WIDTH, initial_indent=inside, subsequent_indent=inside)]
    after = text[found.end() :]
    ends = not re.match(rf"{indent}\w.*\n{indent} +\w", after)  # a section comes, and no parameter
    return f"{text[: found.start()]}{'\n'.join(lines)}\n{'\n' if ends else ''}{after}"

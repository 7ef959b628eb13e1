"""A parser of command lines, whose mistakes are told like every other invalid request."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NoReturn

from geozarr_runner.errors import InvalidRequest
from geozarr_runner.text.suggestion import did_you_mean

# Placeholders of values that are paths: a shell completes the names of files there.
PATHS = frozenset({"DIR", "FILE", "INPUT", "OUTPUT", "PATH", "ROOT", "SOURCE"})
SHELLS = ("bash", "zsh", "fish", "tcsh")


class Parser(argparse.ArgumentParser):
    """A parser that raises `InvalidRequest` for a mistake, and suggests the name that a misspelt one is like."""

    _words: Sequence[str] = ()

    def add_version(self, distribution: str) -> None:
        """Add the option that prints the version of an installed distribution."""
        self.add_argument(
            "--version", action=_PrintVersion, nargs=0, const=distribution, help="show the program's version"
        )

    def add_print_completion(self) -> None:
        """Add the option that prints what a shell needs to complete the program's command lines."""
        self.add_argument(
            "--print-completion",
            action=_PrintCompletion,
            choices=SHELLS,
            help="print a script with which this shell completes commands, options and values; it needs shtab",
        )

    def parse_known_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Parse words. A word that nothing takes is a mistake, which the parser of its own command tells."""
        self._words = sys.argv[1:] if args is None else list(args)
        found, left = super().parse_known_args(self._words, namespace)
        if left:
            self._refuse_options([word for word in left if word.startswith("-")])
            raise _invalid(f"{self.prog} takes no further argument", self._help, left[0])
        return found, left

    def error(self, message: str) -> NoReturn:
        """Raise what argparse says, unless an option that does not exist is the reason for it."""
        self._refuse_options(list(self._unknown_options()))
        raise _invalid(f"{self.prog}: {message}", self._help)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        # Only from Python 3.14 on argparse suggests a name, and it does so in words of its own.
        choices = None if action.choices is None else list(action.choices)
        if choices is None or value in choices:
            return
        names = action.option_strings
        message = f"{self.prog}: {names[-1]} has no such value" if names else f"{self.prog} has no such command"
        remedy = did_you_mean([value], choices) or f"choose of {', '.join(choices)}"
        raise _invalid(message, remedy, value)

    def _unknown_options(self) -> Iterator[str]:
        """Yield the words that look like an option, and begin none."""
        for word in self._words:
            if word == "--" or (self._subparsers is not None and not word.startswith("-")):
                return
            name = word.partition("=")[0]
            is_option = word.startswith("--") and " " not in word
            if is_option and not any(known.startswith(name) for known in self._option_string_actions):
                yield word

    def _refuse_options(self, words: Sequence[str]) -> None:
        """Refuse options that do not exist; what follows the sign = may be a secret, and is not shown."""
        if words:
            names = [word.partition("=")[0] for word in words]
            shown = ", ".join(names)
            known = [option.removeprefix("--") for option in self._option_string_actions if option.startswith("--")]
            remedy = did_you_mean([name.lstrip("-") for name in names], known, "--") or self._help
            raise _invalid(f"{self.prog} has no option {shown}", remedy, shown)

    @property
    def _help(self) -> str:
        return f"{self.prog} --help"


def _invalid(message: str, remedy: str, given: str | None = None) -> InvalidRequest:
    """Return the error for a mistake, in which no address shows a password or a signature."""
    from geozarr_runner.trust.addresses import redact_text  # which is loaded for a mistake only

    return InvalidRequest(redact_text(message), given=None if given is None else redact_text(given), remedy=remedy)


class _PrintVersion(argparse.Action):
    """Prints the version of the distribution that is its constant, and ends the program."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: str | None = None) -> None:
        from importlib.metadata import version  # a third of the time that help would take

        sys.stdout.write(f"{parser.prog} {version(str(self.const))}\n")
        parser.exit()


class _PrintCompletion(argparse.Action):
    """Prints what a shell needs to complete command lines, and ends the program."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: str | None = None) -> None:
        try:
            import shtab
        except ImportError:
            message = "the package shtab, which writes scripts for completion, is not installed"
            raise InvalidRequest(message, given=values, remedy=f"{sys.executable} -m pip install shtab") from None
        for action in _actions(parser):
            if action.metavar in PATHS:
                vars(action)["complete"] = shtab.FILE
        sys.stdout.write(shtab.complete(parser, values))
        parser.exit()


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield the options and arguments of a parser and of its commands."""
    for action in parser._actions:
        yield action
        if isinstance(action.choices, dict):
            for command in action.choices.values():
                yield from _actions(command)

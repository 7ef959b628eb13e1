"""What is typed, in Python and in a shell: both command lines read and say it alike.

Errors spell a remedy as Python; a command line says the same as options and commands.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import shlex
import warnings
from collections.abc import Iterable

from geozarr_runner.text.printable import printable

_NAMES = (
    "archive|bands|cpu|groups|if_exists|image|level|memory|output|overwrite|scratch|size|source|stretch|strict|time_limit"
    "|timeout|validate_groups"
)
_TEXT = r"""(?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')"""  # as repr() and word() spell it
_POSITIONAL = ("output", "source")
# Read once from left to right: what stands in quotes is somebody's name for something, whatever it looks like.
_TYPED = re.compile(
    rf"""(?:print\()?(?:(?:gz|geozarr_nb)\.get_job\((?P<job>{_TEXT})\)|\bjob)\.(?P<of_job>wait|cancel|retry|logs)\(\)+"""
    rf"""|\b(?:gz|geozarr_nb)\.(?P<call>convert|inspect|list_jobs)\((?P<arguments>(?:{_TEXT}|[^()"'])*)\)"""
    rf"""|(?<![\w./-])(?P<name>{_NAMES})="""
    rf"""(?P<value>{_TEXT}|\[(?:{_TEXT}|[^\]"'])*\]|\((?:{_TEXT}|[^)"'])*\)|\.\.\.|-?[\w.]*\w)"""
    rf"""|(?<!\w){_TEXT}"""
)
SEPARATOR = re.compile(r"[,\s]+")  # of names that are given as one text
_WORD = re.compile(rf"""(?P<text>{_TEXT})|(?P<bare>[\w.-]+)""")


def truth(text: str) -> bool:
    """Read the value of an option that is true or false."""
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() == "true"


def word(text: str) -> str:
    r"""Return a text as one word of a shell in one line, whatever it holds.

    >>> print(word("a; rm -rf ~"), word("a\nb"))
    'a; rm -rf ~' $'a\012b'
    """
    if printable(text) == text and "\\" not in text:
        return shlex.quote(text)
    return f"$'{''.join(map(_letter, text))}'"


def literal(text: str) -> str:
    r"""Return a text in quotation marks, as Python reads it, in one line.

    >>> print(literal('a "b"'))
    "a \"b\""
    """
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{printable(quoted)}"'


def listed(names: Iterable[str], between: str = ",") -> str:
    """Return names as one text: divided by commas, or a JSON array where one of them has a comma or a blank in it.

    >>> print(listed(["/a", "/b"]), listed(["/a b"]))
    /a,/b ["/a b"]
    """
    names = list(names)
    return json.dumps(names, ensure_ascii=False) if any(map(SEPARATOR.search, names)) else between.join(names)


def _letter(letter: str) -> str:
    if letter in "'\\":
        return f"\\{letter}"
    if printable(letter) == letter:
        return letter
    undecoded = "\udc80" <= letter <= "\udcff"  # a byte of a file's name that is no text
    encoded = letter.encode(errors="surrogateescape" if undecoded else "backslashreplace")
    return "".join(f"\\{byte:03o}" for byte in encoded)


def in_shell(text: str) -> str:
    """Return a text in which what is to be typed is spelled for a shell.

    >>> in_shell('choose another output, or if_exists="overwrite"')
    'choose another output, or --if-exists overwrite'
    >>> in_shell('come back with geozarr_nb.get_job("s2-1a2b").wait()')
    'come back with geozarr-nb wait s2-1a2b'
    """
    return _TYPED.sub(_spelled, text)


def _spelled(found: re.Match[str]) -> str:
    if found["of_job"]:
        return f"geozarr-nb {found['of_job']} {word(_value(found['job'])) if found['job'] else 'JOB'}"
    if found["call"]:
        name = "jobs" if found["call"] == "list_jobs" else found["call"]
        return " ".join(["geozarr-nb", name, *_words(found["arguments"], "SOURCE")])
    if found["name"]:
        return _option(found["name"], found["value"])
    # What Python takes as it stands, a shell may run.
    return word(_value(found[0])) if found[0][0] == '"' and {"$", "`", "\\"} & set(found[0]) else found[0]


def _option(name: str, value: str) -> str:
    if name in _POSITIONAL:
        return " ".join(_words(value, name.upper()))
    option = name.replace("_", "-")
    if value in ("True", "False") and name not in ("archive", "validate_groups"):
        return f"--{option}" if value == "True" else f"--no-{option}"
    if name == "groups" and value.startswith(("[", "(")):
        names = [_value(found["text"]) for found in _WORD.finditer(value) if found["text"]]
        if any(map(SEPARATOR.search, names)):  # each word of a command line is a text
            return f"--groups {word(listed(names))}"
    return " ".join([f"--{option}", *(_words(value, name.upper()) or ["0"])])


def _words(arguments: str, unnamed: str) -> list[str]:
    """Return arguments as words of a shell; a variable becomes a placeholder in capitals."""
    words = []
    for found in _WORD.finditer(arguments):
        bare = found["bare"]
        if bare is None:
            words.append(word(_value(found["text"])))
        elif bare == "...":
            words.append(unnamed)
        else:
            # A name stands for what is to be typed there; anything else is typed as it is.
            words.append(bare.lower() if bare in ("True", "False") else bare.upper() if bare.isidentifier() else bare)
    return words


def _value(literal: str) -> str:
    """Return what a text in quotes stands for."""
    if "\\" not in literal:
        return literal[1:-1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a backslash that stands for itself
        try:
            return str(ast.literal_eval(literal))
        except (SyntaxError, ValueError):
            return literal[1:-1]

"""What is typed, in Python and in a shell: both command lines read and say it alike.

Errors spell a remedy as Python; a command line says the same as options and commands.
"""

from __future__ import annotations

import argparse
import re
import shlex

_NAMES = (
    "archive|bands|cpu|groups|if_exists|image|level|memory|output|overwrite|scratch|size|source|stretch|strict|time_limit"
    "|timeout|validate_groups"
)
_POSITIONAL = ("output", "source")
_KEYWORD = re.compile(
    rf"""(?<![\w./-])(?P<name>{_NAMES})="""
    r"""(?P<value>"[^"]*"|'[^']*'|\[[^\]]*\]|\([^)]*\)|\.\.\.|-?[\w.]*\w)"""
)
_OF_A_JOB = re.compile(
    r"""(?:print\()?(?:(?:gz|geozarr_nb)\.get_job\("(?P<name>[^"]*)"\)|\bjob)\.(?P<call>wait|cancel|retry|logs)\(\)+"""
)
_CALL = re.compile(r"\b(?:gz|geozarr_nb)\.(?P<call>convert|inspect|list_jobs)\((?P<arguments>[^()]*)\)")
_WORD = re.compile(r"""(?P<mark>["'])(?P<text>.*?)(?P=mark)|(?P<bare>[\w.-]+)""")


def truth(text: str) -> bool:
    """Read the value of an option that is true or false."""
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() == "true"


def in_shell(text: str) -> str:
    """Return a text in which what is to be typed is spelled for a shell.

    >>> in_shell('choose another output, or if_exists="overwrite"')
    'choose another output, or --if-exists overwrite'
    >>> in_shell('come back with geozarr_nb.get_job("s2-1a2b").wait()')
    'come back with geozarr-nb wait s2-1a2b'
    """
    text = _OF_A_JOB.sub(lambda found: f"geozarr-nb {found['call']} {found['name'] or 'JOB'}", text)
    text = _CALL.sub(_command, text)
    return _KEYWORD.sub(_option, text)


def _command(found: re.Match[str]) -> str:
    name = "jobs" if found["call"] == "list_jobs" else found["call"]
    return " ".join(["geozarr-nb", name, *_words(found["arguments"], "SOURCE")])


def _option(found: re.Match[str]) -> str:
    name, value = found["name"], found["value"]
    if name in _POSITIONAL:
        return " ".join(_words(value, name.upper()))
    option = name.replace("_", "-")
    if value in ("True", "False") and name not in ("archive", "validate_groups"):
        return f"--{option}" if value == "True" else f"--no-{option}"
    return " ".join([f"--{option}", *(_words(value, name.upper()) or ["0"])])


def _words(arguments: str, unnamed: str) -> list[str]:
    """Return arguments as words of a shell; a variable becomes a placeholder in capitals."""
    words = []
    for found in _WORD.finditer(arguments):
        bare = found["bare"]
        if bare is None:
            words.append(shlex.quote(found["text"]))
        elif bare == "...":
            words.append(unnamed)
        else:
            # A name stands for what is to be typed there; anything else is typed as it is.
            words.append(bare.lower() if bare in ("True", "False") else bare.upper() if bare.isidentifier() else bare)
    return words

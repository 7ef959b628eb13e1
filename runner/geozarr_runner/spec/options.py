"""The options of a conversion: the one declaration that all else is derived from."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Annotated, Any, Literal, TypedDict, cast, get_args, get_origin, get_type_hints

from geozarr_runner.errors import InvalidRequest

IfExists = Literal["error", "skip", "overwrite"]
Groups = str | Iterable[str]
Chunks = Literal["analysis", "web"]
Folder = str | os.PathLike[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """What is said of one option beside its name and its type.

    Attributes
    ----------
    help
        One sentence, for the command lines and everything else.
    more
        Further sentences, for the documentation.
    default
        The value where nobody gives one; None is what the settings say.
    assumed
        What a request means that does not name the option: how 0.1.0 did it, whatever becomes the default.
    parameter
        The workflow template has a parameter of its own for it. All later options travel in its parameter `options`.
    converter
        The option of the converter that gets the value, where it is only passed on.
    of_machine
        It means something on the machine of the run only: nothing carries it to a cluster.
    label
        What stands at its field in a form; an option without a label has no field.
    choices
        What a form calls each value.
    metavar
        What stands for the value in a command line's help.
    name, type
        Those of its key in the declaration.
    """

    help: str
    more: str = ""
    default: Any = None
    assumed: Any = None
    parameter: bool = False
    converter: str = ""
    of_machine: bool = False
    label: str = ""
    choices: Mapping[str, str] = field(default_factory=dict)
    metavar: str = ""
    name: str = ""
    type: Any = None

    @property
    def is_truth(self) -> bool:
        """True for an option that is true or false."""
        return bool in _parts(self.type)

    @property
    def values(self) -> tuple[str, ...]:
        """The values that it may have; empty where they are not counted."""
        return next((get_args(part) for part in _parts(self.type) if get_origin(part) is Literal), ())

    @property
    def spelled(self) -> str:
        """The option on a command line."""
        return f"--{self.name.replace('_', '-')}"

    def checked(self, value: Any) -> Any:
        """Return a value that was given, as a request holds it.

        Raises
        ------
        InvalidRequest
            The option cannot have it.
        """
        if value is None:
            return self.assumed
        if self.values:
            if value in self.values:
                return value
            raise self._refused(value, f"choose of {self.values}")
        if self.is_truth:
            value = value.item() if type(value).__module__ == "numpy" else value  # out of a table of requests
            if isinstance(value, bool):
                return value
            raise self._refused(value, f"{self.name}=True or {self.name}=False")
        value = os.fspath(value) if isinstance(value, os.PathLike) else value
        kind = type(self.assumed)
        if isinstance(value, bool) or not isinstance(value, kind) or (kind is int and value < 0):
            raise self._refused(value, "leave it out, or see help(geozarr_nb.submit)")
        return value

    def read(self, text: str) -> Any:
        """Return the value that a text stands for, in a workflow's parameter or on a command line."""
        if self.is_truth:
            return text.strip().lower() == "true"
        return int(text) if isinstance(self.assumed, int) else text

    def _refused(self, value: Any, remedy: str) -> InvalidRequest:
        return InvalidRequest(f"this is no value of {self.name}", given=repr(value)[:200], remedy=remedy)


class ResultOptions(TypedDict, total=False):
    """Options that determine the result: they are part of its identity and of its record."""

    packed: Annotated[
        bool,
        Option(
            help="keep numbers that are stored as integers with a scale as they are, of a whole Sentinel-2 product: "
            "less than half as large",
            more="Readers of the CF conventions see the same values (averages: rounded to the scale's step). In "
            "levels coarser than 60 m, pixels without data have the reflectance 0 then: the converter's doing. "
            "Otherwise these numbers become float32.",
            default=False,
            assumed=False,
            parameter=True,
            label="keep packed integers (a whole Sentinel-2 product)",
        ),
    ]

    chunks: Annotated[
        Chunks,
        Option(
            help="how the output is stored: analysis, in large chunks; web, in chunks of at most 512 pixels, many of "
            "them in one object (a shard), so that a map reads little for a screen",
            default="analysis",
            assumed="analysis",
            label="Stored for",
            choices={"analysis": "analysis: large chunks", "web": "the web: small chunks in shards"},
        ),
    ]


class Options(ResultOptions, total=False):
    """All options of a conversion beside its groups."""

    validate_groups: Annotated[
        bool | None,
        Option(
            help="true: a missing group ends the run; false: it is left out with a warning, as long as one is left",
            assumed=False,
            parameter=True,
            label="a missing group ends the run",
        ),
    ]
    if_exists: Annotated[
        IfExists,
        Option(
            help="what to do when the output is there: refuse, keep it if it was made from the same request, or "
            "replace it once the new one is verified",
            more="One in an object store that is replaced is gone while the new one is uploaded.",
            default="error",
            assumed="error",
            parameter=True,
            label="If it exists",
            choices={
                "error": "that is an error",
                "skip": "keep it, if it was made from the same request",
                "overwrite": "replace it, once the new one is verified",
            },
        ),
    ]
    archive: Annotated[
        bool | None,
        Option(
            help="pack the finished output as OUTPUT.tar.gz beside it too, with its checksum in .tar.gz.sha256",
            more="On a cluster it is also the artifact `geozarr` of the job's Workflow, where Argo has an artifact "
            "repository. A job that is joined, as it is there already, is not changed by it.",
            assumed=False,
            parameter=True,
            label="pack the output as one file too",
        ),
    ]
    dask_cluster: Annotated[
        bool,
        Option(
            help="let the converter start dask workers",
            default=False,
            assumed=False,
            parameter=True,
            converter="--dask-cluster",
        ),
    ]
    verbose: Annotated[
        bool,
        Option(
            help="show the converter's own lines among the events too, and not in the log only",
            default=False,
            assumed=False,
            parameter=True,
            converter="--verbose",
        ),
    ]
    max_retries: Annotated[
        int,
        Option(
            help="how often the converter tries again to read or write",
            default=3,
            assumed=3,
            converter="--max-retries",
        ),
    ]
    scratch: Annotated[
        Folder | None,
        Option(
            help="folder for intermediate files (beside the output; for one in an object store $TMPDIR or /var/tmp)",
            assumed="",
            of_machine=True,
            metavar="DIR",
        ),
    ]


class Wanted(TypedDict, total=False):
    """What is to be converted of a product."""

    groups: Annotated[
        Groups | None,
        Option(
            help="paths of groups, as a list or separated by commas or blanks; none, or 0: the whole product, in the "
            "converter's own layout",
            more="None is what the settings name. The output holds these groups and no others.",
            parameter=True,
            metavar="G",
        ),
    ]


class Arguments(Wanted, Options, total=False):
    """What a person says of a conversion beside product and output."""


def _parts(kind: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the one type that is none."""
    return get_args(kind) if get_origin(kind) not in (None, Literal) else (kind,)


def declared(options: type) -> dict[str, Option]:
    """Return the options that a `TypedDict` declares, by name."""
    found = {}
    for name, hint in get_type_hints(options, include_extras=True).items():
        kind, option = get_args(hint)[:2]
        found[name] = replace(option, name=name, type=kind)
    return found


ARGUMENTS = declared(Arguments)
OPTIONS = declared(Options)
RESULT = declared(ResultOptions)


def resolved(given: Mapping[str, Any]) -> Options:
    """Return all options with their values: those that are given, and what a request means that does not name them.

    Raises
    ------
    InvalidRequest
        There is no such option, or it cannot have this value.
    """
    refuse_unknown(given, OPTIONS)
    return cast(Options, {name: option.checked(given.get(name)) for name, option in OPTIONS.items()})


def refuse_unknown(given: Iterable[str], known: Iterable[str], where: str = "a conversion") -> None:
    """Refuse options that there are not, and say which may have been meant.

    Raises
    ------
    InvalidRequest
    """
    names = list(known)
    if unknown := [name for name in given if name not in names]:
        near = [match for name in unknown for match in get_close_matches(name, names, 1)]
        remedy = f"did you mean {' and '.join(near)}?" if near else f"known are {', '.join(names)}"
        raise InvalidRequest(f"{where} has no argument {', '.join(unknown)}", given=", ".join(unknown), remedy=remedy)


def of_result(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that determine the result and are not as a request means that does not name them."""
    return {name: options[name] for name, one in RESULT.items() if options.get(name, one.assumed) != one.assumed}


def converter_flags(options: Mapping[str, Any], lacks: Sequence[str] = ()) -> list[str]:
    """Return what is only passed on, as the converter's command line has it.

    Parameters
    ----------
    lacks
        Options that this command of the converter does not have.
    """
    flags = []
    for option in passed_on(options):
        if option.converter not in lacks:
            flags += [option.converter] if option.is_truth else [option.converter, str(options[option.name])]
    return flags


def passed_on(options: Mapping[str, Any]) -> list[Option]:
    """Return the options that are only passed on to the converter and are not as it has them without."""
    return [
        option
        for name, option in OPTIONS.items()
        if option.converter and options.get(name, option.assumed) != option.assumed
    ]

"""The options of a conversion, declared once: command lines, signatures, forms and documentation come from here."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, TypedDict, cast, get_args, get_origin, get_type_hints

from geozarr_runner.errors import InvalidRequest
from geozarr_runner.text.suggestion import did_you_mean

IfExists = Literal["error", "skip", "overwrite"]
Groups = str | Iterable[str]
Chunks = Literal["analysis", "web"]
Folder = str | os.PathLike[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """The declaration of one option, beside its name and its type.

    Attributes
    ----------
    help
        One sentence, for the command lines and everything else.
    more
        Further sentences, for the documentation.
    default
        The value of a call that does not give the option; None takes the value from the settings.
    assumed
        The value of a stored request that does not name the option. It is the behaviour of 0.1.0 and stays so when the
        default changes.
    parameter
        True for an option with a parameter of its own in the workflow template. Every other option travels in the
        template's parameter `options`.
    converter
        The converter's option that gets the value, for an option that is only passed on; else empty.
    of_machine
        True for an option that names something of the machine, such as a folder. It is never sent to a cluster.
    label
        Text of the option's field in a form; an option without a label has no field.
    choices
        Text of each value in a form.
    metavar
        Placeholder of the value in a command line's help.
    name, type
        Name and type of the option's key in the `TypedDict`; `declared` fills them in.
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
        """The values of an option that has a fixed set of them; else empty."""
        return next((get_args(part) for part in _parts(self.type) if get_origin(part) is Literal), ())

    @property
    def spelled(self) -> str:
        """The option on a command line."""
        return f"--{self.name.replace('_', '-')}"

    def checked(self, value: Any) -> Any:
        """Return a given value in the form that a request holds.

        Raises
        ------
        InvalidRequest
            The option cannot have this value.
        """
        if value is None:
            return self.assumed
        if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():  # out of a table of requests
            value = value.item()
        if self.values:
            if isinstance(value, str) and value in self.values:
                return str(value)
            raise self._refused(value, f"choose of {self.values}")
        if self.is_truth:
            if isinstance(value, bool):
                return value
            raise self._refused(value, f"{self.name}=True or {self.name}=False")
        value = _as_text(value) if isinstance(value, os.PathLike) else value
        kind = type(self.assumed)
        if isinstance(value, bool) or not isinstance(value, kind) or (kind is int and not 0 <= value < 2**31):
            raise self._refused(value, "leave it out, or see help(geozarr_nb.submit)")
        return value

    def read(self, text: str) -> Any:
        """Return the value of a text from a workflow's parameter or from a command line."""
        if self.is_truth:
            return text.strip().lower() == "true"
        return int(text) if isinstance(self.assumed, int) else text

    def _refused(self, value: Any, remedy: str) -> InvalidRequest:
        return InvalidRequest(f"this is no value of {self.name}", given=in_words(value), remedy=remedy)


class ResultOptions(TypedDict, total=False):
    """Options that change the output; they are part of the job's identity and of the output's record."""

    packed: Annotated[
        bool,
        Option(
            help="keep the integers of a whole Sentinel-2 product, with their scale and offset, instead of writing "
            "float32: the output is less than half as large",
            more="The option is refused for chosen groups and for every other kind of product. xarray and other "
            "readers of the CF conventions see the same values; averages are rounded to the scale's step. In levels "
            "coarser than 60 m, pixels without data have the reflectance 0, because the converter writes it.",
            default=False,
            assumed=False,
            parameter=True,
            label="keep packed integers (a whole Sentinel-2 product)",
        ),
    ]

    chunks: Annotated[
        Chunks,
        Option(
            help="size of the output's chunks: analysis makes chunks of up to 4096 pixels along an edge; web makes "
            "chunks of at most 512 pixels, many of them in one object (a shard)",
            more="Choose analysis for computing over whole groups. Choose web for an output that a map shows: the map "
            "then reads little for each screen. The value web is refused for Sentinel-3 OLCI, for which the converter "
            "chooses the chunks.",
            default="analysis",
            assumed="analysis",
            label="Stored for",
            choices={"analysis": "analysis: large chunks", "web": "the web: small chunks in shards"},
        ),
    ]


class Options(ResultOptions, total=False):
    """All options of a conversion except its groups."""

    validate_groups: Annotated[
        bool | None,
        Option(
            help="true: one missing group ends the run; false: a missing group is left out with a warning, and the run "
            "ends only when no group is left",
            assumed=False,
            parameter=True,
            label="a missing group ends the run",
        ),
    ]
    if_exists: Annotated[
        IfExists,
        Option(
            help="what to do when the output exists: error refuses the request; skip keeps an output of the same "
            "request, and refuses any other; overwrite replaces the output once the new one is verified",
            more="A run that fails before that leaves the old output as it was. In an object store the old output is "
            "removed when the new one is verified, and before the new one is uploaded: if the upload fails, neither "
            "is left.",
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
            help="also pack the finished output into the file OUTPUT.tar.gz beside it, with the checksum in "
            "OUTPUT.tar.gz.sha256",
            more="On a cluster the file is also the artifact `geozarr` of the job's Workflow, where Argo has an "
            "artifact repository. An output in an object store cannot have an archive. A request that joins a running "
            "job does not add an archive to it.",
            assumed=False,
            parameter=True,
            label="pack the output as one file too",
        ),
    ]
    dask_cluster: Annotated[
        bool,
        Option(
            help="let the converter start a dask cluster on its machine",
            default=False,
            assumed=False,
            parameter=True,
            converter="--dask-cluster",
        ),
    ]
    verbose: Annotated[
        bool,
        Option(
            help="show the converter's own lines as events too; the log has them in any case",
            default=False,
            assumed=False,
            parameter=True,
            converter="--verbose",
        ),
    ]
    max_retries: Annotated[
        int,
        Option(
            help="how often the converter repeats a read or a write that failed",
            default=3,
            assumed=3,
            converter="--max-retries",
        ),
    ]
    scratch: Annotated[
        Folder | None,
        Option(
            help="folder for intermediate files; without it they lie beside the output, and for an output in an object "
            "store in $TMPDIR or /var/tmp",
            more="A job on a cluster uses the scratch space of its pod, and the option is refused.",
            assumed="",
            of_machine=True,
            metavar="DIR",
        ),
    ]


class Wanted(TypedDict, total=False):
    """The part of the product to convert."""

    groups: Annotated[
        Groups | None,
        Option(
            help="paths of the groups to convert, separated by blanks or commas, or as a JSON array; 0 is the whole "
            "product, in the converter's own layout",
            more="In Python also a list of paths, taken as it is: the empty list `[]` is the whole product, "
            "and None takes the groups that the settings name. A group with a blank or a comma in its name is given "
            "in a list or an array, in a shell `--groups '[\"/surface reflectance\"]'`. The output holds the chosen "
            "groups and no others.",
            parameter=True,
            metavar="G",
        ),
    ]


class Arguments(Wanted, Options, total=False):
    """All arguments of a conversion except product and output."""


def _as_text(value: os.PathLike[Any]) -> Any:
    """Return the path of an object; the object itself where it has none to tell."""
    try:
        return os.fspath(value)
    except (TypeError, ValueError):
        return value


def in_words(value: Any) -> str:
    """Return what shows a value to the person who gave it."""
    try:
        return repr(value)[:200]
    except ValueError:  # a number of thousands of digits
        return f"a very large {type(value).__name__}"


def _parts(kind: Any) -> tuple[Any, ...]:
    """Return the members of a union type, or the type itself."""
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
    """Return all options with their values; an option that is not given has its assumed value.

    Raises
    ------
    InvalidRequest
        An option does not exist, or cannot have the given value.
    """
    refuse_unknown(given, OPTIONS)
    return cast(Options, {name: option.checked(given.get(name)) for name, option in OPTIONS.items()})


def refuse_unknown(given: Iterable[str], known: Iterable[str], where: str = "a conversion") -> None:
    """Refuse options that do not exist, and suggest similar names.

    Raises
    ------
    InvalidRequest
    """
    names = list(known)
    if unknown := [name for name in given if name not in names]:
        remedy = did_you_mean(unknown, names) or f"known are {', '.join(names)}"
        raise InvalidRequest(f"{where} has no argument {', '.join(unknown)}", given=", ".join(unknown), remedy=remedy)


def of_result(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that change the output and differ from their assumed value."""
    return {name: options[name] for name, one in RESULT.items() if options.get(name, one.assumed) != one.assumed}


def converter_flags(options: Mapping[str, Any], lacks: Sequence[str] = ()) -> list[str]:
    """Return the flags of the options that are only passed on to the converter.

    Parameters
    ----------
    lacks
        Flags that this command of the converter does not have.
    """
    flags = []
    for option in passed_on(options):
        if option.converter not in lacks:
            flags += [option.converter] if option.is_truth else [option.converter, str(options[option.name])]
    return flags


def passed_on(options: Mapping[str, Any]) -> list[Option]:
    """Return the options that are only passed on to the converter and differ from the converter's default."""
    return [
        option
        for name, option in OPTIONS.items()
        if option.converter and options.get(name, option.assumed) != option.assumed
    ]

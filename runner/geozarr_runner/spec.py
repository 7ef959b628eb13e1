"""One conversion, declared once: its options, and the request that carries them.

`Options` is the declaration: a key for each option, with its type, its default, its help and what it belongs to. All
else is derived from it: the signatures of the public calls, both command lines, the documents that are stored and
handed over, the parameters of the workflow, the fields of the form, the code that the form shows, the identity of a
result and its record. A test holds the workflow template and the table of the documentation to it.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    Self,
    TypedDict,
    Unpack,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from geozarr_runner.errors import InvalidRequest, LaterVersion
from geozarr_runner.text.shell import truth
from geozarr_runner.trust.bounds import from_json

SCHEMA_VERSION = 1
WHOLE_PRODUCT = "0"
EXAMPLE = 'groups=["/measurements/reflectance/r20m"]'
_SLUG_LENGTH = 46  # with the identity's part still far below the 63 letters of a Kubernetes label
# Parts of a query that sign it, and differ each time the same object is asked for.
_VOLATILE = re.compile(
    r"x-(amz|goog|ms)-.*|awsaccesskeyid|googleaccessid|signature|expires|.*token|s[eiprtv]|spr|sig|sk(oid|tid|[tesv])"
)

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


# --- a request -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One conversion, as it was asked for. Each of its options is an attribute too: `request.if_exists`.

    Attributes
    ----------
    source
        Address or path of the product's Zarr store, or of its STAC item, as it has to be opened: it may hold a password
        or a signature, and is therefore neither shown nor stored.
    shown
        The same address without user, password and query.
    product
        The product's name; empty where nobody has looked yet.
    output
        Where the GeoZarr is written: an absolute path of this machine, `pvc://claim/path` on a cluster, or an address
        in an object store. Empty, it is `<product>_geozarr.zarr` in the working directory of the run.
    groups
        Absolute paths; empty for the whole product in the converter's own layout.
    options
        All options by name; see `Options`.
    item
        The address of the STAC item that the product was opened from, without user, password and query; empty where
        it was opened by its own.
    asked
        The address that the person gave where the product was found from it, without user, password and query; empty
        where they gave none, as for an item in memory. None: they gave the product's own. Credentials that name no host
        are for this one's host.
    identity
        Hash of what determines the result: the address without what is volatile in it, the output, the groups and the
        options that change it.
    origins
        Where the settings that it was made with came from, in one line; empty where nobody said.
    """

    source: str = field(repr=False, compare=False)
    shown: str
    product: str
    output: str
    groups: tuple[str, ...] = ()
    options: Options = field(default_factory=Options, hash=False)
    item: str = field(default="", compare=False)
    asked: str | None = field(default=None, compare=False)
    identity: str = ""
    origins: str = field(default="", repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", resolved(self.options))

    if not TYPE_CHECKING:  # where `options` is typed

        def __getattr__(self, name: str) -> Any:
            if name in OPTIONS:
                return self.options[name]
            raise AttributeError(f"a request has no {name!r}", name=name, obj=self)

    @classmethod
    def of(
        cls,
        source: Folder,
        output: Folder = "",
        *,
        item: str = "",
        asked: str | None = None,
        identity: str = "",
        **arguments: Unpack[Arguments],
    ) -> Self:
        """Return the request for a source that nobody has looked at yet.

        Raises
        ------
        InvalidRequest
            An argument cannot be used.
        """
        from geozarr_runner.trust.addresses import redact

        given = dict(arguments)
        return cls(
            source=os.fspath(source),
            shown=redact(os.fspath(source)),
            product="",
            output=os.fspath(output),
            groups=normalise(cast(Groups | None, given.pop("groups", None))),
            options=cast(Options, given),
            item=item,
            asked=asked,
            identity=identity,
        )

    def with_options(self, **options: Unpack[Options]) -> Self:
        """Return the same with other options."""
        return replace(self, options=cast(Options, {**self.options, **options}))

    def at(self, output: str) -> Self:
        """Return the same with another output."""
        return replace(self, output=output)

    def identified(self) -> Self:
        """Return the same with the identity that it has to have."""
        return replace(self, identity=self.derived_identity)

    @property
    def name(self) -> str:
        """Name of the request's job: letters, digits and hyphens (DNS-1123), the same for equal requests."""
        slug = re.sub(r"[^a-z0-9]+", "-", self.product.lower())[:_SLUG_LENGTH].strip("-")
        return f"{slug or 'product'}-{self.identity[:8]}"

    @property
    def derived_identity(self) -> str:
        """The identity that a request for the same result has."""
        asked = {"input": _lasting(self.source or self.shown), "output": self.output, "groups": sorted(self.groups)}
        text = json.dumps(asked | of_result(self.options), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def scratch_folder(self) -> Path | None:
        """Where a run keeps intermediate files; None where it chooses itself."""
        scratch = self.options["scratch"]
        return Path(scratch) if scratch else None

    @property
    def withheld(self) -> bool:
        """True when this was read back from storage, and the address held something that is not stored."""
        return not self.source

    def to_json(self, *, with_secrets: bool = False) -> dict[str, Any]:
        """Return the request as a document.

        Parameters
        ----------
        with_secrets
            False: what may be stored, which is everything but what is secret in the address.
        """
        document = {name: getattr(self, name) for name in _FIELDS} | dict(self.options)
        if not with_secrets and self.source != self.shown:
            document["source"] = None
        return {"v": SCHEMA_VERSION, **document}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote; an earlier version knows fewer options, and a later one more.

        Raises
        ------
        LaterVersion
            A later version wrote it.
        InvalidRequest
            It is no request.
        """
        try:
            if document.get("v", SCHEMA_VERSION) > SCHEMA_VERSION:
                raise LaterVersion("the request", given=document.get("product"))
            later: dict[str, Any] = {"item": "", "asked": None, "origins": ""}
            values = {name: {**later, **document}[name] for name in _FIELDS}
        except (KeyError, TypeError, AttributeError) as error:
            raise _no_request(error) from error
        values["source"] = values["source"] or ""
        groups = values.pop("groups")
        if not isinstance(groups, list | tuple) or not all(map(_is_text, groups)):
            raise _no_request("groups")
        for name, value in values.items():
            if not (_is_text(value) or (name == "asked" and value is None)):
                raise _no_request(name)
        options = {name: document[name] for name in OPTIONS if name in document}
        for name, value in options.items():
            if value is None or (isinstance(value, str) and not _is_text(value)):
                raise _no_request(name)
        try:
            return cls(**values, groups=tuple(groups), options=cast(Options, options))
        except InvalidRequest as error:
            raise _no_request(error.message.rpartition(" ")[2]) from error


_FIELDS = ("source", "shown", "product", "output", "groups", "item", "asked", "identity", "origins")


def _is_text(value: object) -> bool:
    """Return whether a value is a text that the system takes as a path or an argument."""
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        return False
    return True


def _no_request(what: object) -> InvalidRequest:
    return InvalidRequest("what is stored is no request", given=what, remedy="submit it again")


def _lasting(url: str) -> str:
    """Return an address without user and password, and without the parts of its query that sign it."""
    if "://" not in url:
        return url
    parts = urlsplit(url)
    query = [(name, value) for name, value in parse_qsl(parts.query) if not _VOLATILE.fullmatch(name.lower())]
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), urlencode(query), ""))


def normalise(groups: Groups | None, environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Return absolute group paths in the order given, without duplicates; `()` is the whole product.

    A text is split on commas and blanks, unless it is a JSON array: that is a list. Empty, or `0`, is the whole product
    in the converter's own layout.

    Parameters
    ----------
    environ
        Where `$ARGO_GROUPS` counts for groups that were not given: on the runner's command line. An empty array counts
        as given.
    """
    listed = _listed(groups)
    found = _split(groups if listed is None else listed)
    if found or listed == [] or environ is None:
        return found
    return normalise(environ.get("ARGO_GROUPS"))


def _listed(groups: Groups | None) -> list[str] | None:
    """Return the list that a text holds; None where it is none."""
    if not isinstance(groups, str) or not groups.lstrip().startswith("["):
        return None
    try:
        found = from_json(groups)
    except ValueError:
        found = None
    return found if isinstance(found, list) and all(isinstance(name, str) for name in found) else None


def _split(groups: Groups | None) -> tuple[str, ...]:
    if groups is None:
        return ()
    if not isinstance(groups, Iterable):
        raise InvalidRequest("groups are given by their paths", given=repr(groups)[:200], remedy=EXAMPLE)
    parts = [groups] if isinstance(groups, str) else list(groups)
    names: dict[str, None] = {}
    for part in parts:
        if not isinstance(part, str):
            raise InvalidRequest("a group is given by its path", given=repr(part)[:200], remedy=EXAMPLE)
        for name in re.split(r"[,\s]+", part):
            if name not in ("", WHOLE_PRODUCT):
                names["/" + "/".join(step for step in name.split("/") if step)] = None
    return tuple(names)


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


# --- as parameters of a workflow -------------------------------------------------------------------------------------


def parameters(groups: Iterable[str], options: Mapping[str, Any]) -> dict[str, str]:
    """Return the parameters of the workflow template that say groups and options.

    Options of 0.1.0 have one each. All others are in `options`, as JSON; it is left out where they are as a request
    means that does not name them, so that a template without it will do.
    """
    values = {"groups": ",".join(groups) or WHOLE_PRODUCT}
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


# --- on a command line -----------------------------------------------------------------------------------------------


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
    return {name: getattr(namespace, name) for name in options if hasattr(namespace, name)}


# --- as a signature --------------------------------------------------------------------------------------------------


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
        said = f"{option.help[0].upper()}{option.help[1:]}."
        lines += [f"{indent}{option.name}", f"{indent}    {' '.join(filter(None, (said, option.more)))}"]
    return f"{text[: found.start()]}{'\n'.join(lines)}\n\n{text[found.end() :]}"

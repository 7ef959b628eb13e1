"""All settings, each declared once: reading, the documentation's table and the doctor's listing come from here.

An argument wins over the environment, and that over params.json.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from inspect import cleandoc
from pathlib import Path
from textwrap import fill
from types import MappingProxyType
from typing import Any

from geozarr_nb.errors import InvalidRequest
from geozarr_nb.settings import values as read
from geozarr_nb.settings.params import in_working_directory, params_path, read_params, refuse_choices

_PLACEHOLDER = re.compile(r"<[^<>]*>")
_WIDTH = 112


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What is said of one setting beside its type and its default.

    Attributes
    ----------
    help
        What it means, in one sentence.
    read
        Returns the value of a text, and gets also where the text came from.
    unset
        What holds without it, where its default does not tell.
    name
        The name of its field.
    default
        What holds without it, in words.
    """

    help: str
    read: Callable[[str, str], Any]
    unset: str = ""
    name: str = ""
    default: str = ""

    @property
    def variable(self) -> str:
        """The environment variable that has it."""
        return variable(self.name)


def variable(name: str) -> str:
    """Return the environment variable of a setting."""
    return f"GEOZARR_{name.upper()}"


def setting(default: Any, help: str, read: Callable[[str, str], Any], unset: str = "") -> Any:  # noqa: A002
    """Return the field of a setting; a default that can be called makes the value."""
    metadata = {"setting": Setting(help=help, read=read, unset=unset)}
    if callable(default):
        return field(default_factory=default, hash=False, metadata=metadata)  # a mapping has none
    return field(default=default, metadata=metadata)


def _nothing_mounted() -> Mapping[str, Path]:
    return MappingProxyType({})


def default_state_dir() -> Path:
    """Return the platform's folder for what programs remember; not an absolute path where an account has no home."""
    import platformdirs

    try:
        return platformdirs.user_state_path("geozarr_nb", appauthor=False)
    except RuntimeError:
        return Path("~/.local/state/geozarr_nb")


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of this process: the values of arguments that a call leaves out.

    `Settings.load()` reads them. Each value comes from the first of these that has it: the argument of the call, the
    environment variable, params.json, the default. params.json is the file that `$GEOZARR_PARAMS` names, else
    `./params.json`, else the file of the package. It can hold `stac_url`, `output_zarr`, `groups`, `validate_groups`
    and `archive`; `image` and `pvc_name` only in a file that `$GEOZARR_PARAMS` names.

    Attributes
    ----------
    origins
        Where each setting came from: the name of a variable, the path of a file, "argument" or "default".
    """

    stac_url: str = setting("", "product to convert where none is given", read.text, "params.json")
    output_zarr: str = setting(
        "", "output where none is given; empty: made from the product's name", read.text, "params.json"
    )
    groups: str = setting(
        "",
        "groups where none are given; empty or 0: the whole product, in the converter's own layout",
        read.text,
        "params.json",
    )
    validate_groups: bool = setting(False, "true: one missing group ends the run", read.boolean, "params.json")
    backend: str = setting("local", "where jobs run: local or argo", read.text)
    state_dir: Path = setting(  # noqa: RUF009  the default is made for each
        default_state_dir, "jobs, their events and logs", read.folder, "the platform's folder for state, /geozarr_nb"
    )
    max_jobs: int = setting(1, "jobs that run at once on this machine", read.count)
    scratch: str = setting(
        "",
        "folder for a run's intermediate files",
        read.text,
        "beside the output; $TMPDIR or /var/tmp for one in an object store",
    )
    poll_interval: float = setting(0.25, "seconds between two looks at a job", read.seconds, "0.25; 1 on a cluster")
    namespace: str = setting("argo", "namespace of the jobs on a cluster", read.name)
    kube_context: str = setting("", "context of the kubeconfig", read.text, "the current one")
    pvc_name: str = setting("geozarr-pvc", "claim that outputs are written to", read.name, "params.json, geozarr-pvc")
    image: str = setting("", "the runner's image", read.text, "params.json, the template's own")
    template: str = setting("geozarr-convert", "WorkflowTemplate that jobs are made from", read.name)
    credentials: str = setting(
        "geozarr-credentials",
        "Secret whose keys are environment variables of the runner; the Secret is optional",
        read.name,
    )
    memory: str = setting("", "memory of a job's pod, for example 12Gi", read.quantity, "the template's own")
    cpu: str = setting(
        "",
        "cores that are reserved for a job's pod, for example 2 or 500m; it may use more",
        read.cores,
        "the template's own",
    )
    time_limit: float = setting(
        0.0, "seconds that one run of a job may take in its pod", read.seconds, "the template's own"
    )
    archive: bool = setting(False, "true: outputs are packed as one file too", read.boolean, "params.json, false")
    mounts: Mapping[str, Path] = setting(
        _nothing_mounted,
        "where claims are mounted on this machine: claim=/path, several with commas",
        read.mounts,
        "found in a pod's own volumes",
    )
    protocols: frozenset[str] = setting(
        frozenset(),
        "further protocols that STAC items and catalogues may name, with commas",
        read.protocols,
        "none",
    )
    max_items: int = setting(10_000, "items that a catalogue may have", read.count)
    max_catalogues: int = setting(1_000, "catalogues that a catalogue may have below it", read.count)
    environment: tuple[str, ...] = setting(
        (),
        "names of further environment variables that a job on this machine gets, with commas; * for any letters",
        read.variables,
        "none",
    )
    origins: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), compare=False, repr=False)
    converter: str = setting(
        "",
        "the command eopf-geozarr of another environment, which converts on this machine: "
        "/opt/geozarr/bin/eopf-geozarr, say",
        read.program,
        "the one beside this Python",
    )

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read the settings from the environment and params.json.

        Raises
        ------
        InvalidRequest
            A value cannot be used; the error names the variable, or the file and its line.
        """
        environ = os.environ if environ is None else environ
        path = params_path(environ)
        parameters = read_params(path)
        if path == in_working_directory() and not environ.get("GEOZARR_PARAMS"):
            refuse_choices(path, parameters, environ)
        values: dict[str, Any] = {}
        origins: dict[str, str] = {}
        for name, one in SETTINGS.items():
            if one.variable in environ:
                values[name], origins[name] = one.read(environ[one.variable], one.variable), one.variable
            elif name in parameters:
                values[name], origins[name] = one.read(parameters[name], f"{name} in {path}"), str(path)
            else:
                origins[name] = "default"
        return cls(**values, origins=MappingProxyType(origins))

    def with_arguments(self, **given: str | None) -> Settings:
        """Return these settings with the given values in their place; None and an empty text change nothing.

        Raises
        ------
        InvalidRequest
            A value cannot be used.
        """
        chosen = {name: value for name, value in given.items() if value}
        values = {name: SETTINGS[name].read(value, name) for name, value in chosen.items()}
        origins = {**self.origins, **dict.fromkeys(chosen, "argument")}
        return replace(self, **values, origins=MappingProxyType(origins)) if chosen else self

    def told(self, given: Iterable[str] = ()) -> str:
        """Return one line that says where each setting came from.

        Parameters
        ----------
        given
            Names of the settings that an argument replaced.
        """
        origins = {**self.origins, **dict.fromkeys(given, "argument")}
        names: dict[str, list[str]] = {}
        for name, origin in origins.items():
            if origin != "default":
                names.setdefault(origin, []).append(name)
        parts = [f"{', '.join(sorted(found))} from {_shown(origin)}" for origin, found in sorted(names.items())]
        return "; ".join([*parts, "defaults for all others"])

    def listed(self) -> str:
        """Return each setting that is not a default, with its value and where that came from, in one line."""
        from geozarr_runner.trust.addresses import redact

        parts = []
        for name, one in SETTINGS.items():
            if (origin := self.origins.get(name, "default")) != "default":
                value = getattr(self, name)
                said = redact(value) if isinstance(value, str) else _in_words(value)
                came = "" if origin == one.variable else f" ({origin})"
                parts.append(f"{one.variable}={_shown(said)}{came}")
        return "; ".join([*parts, "defaults for all others"])

    def required(self, name: str) -> str:
        """Return a setting that must not be empty or a placeholder.

        Raises
        ------
        InvalidRequest
        """
        value = str(getattr(self, name))
        origin = self.origins.get(name, "default")
        argument = {"stac_url": "source", "output_zarr": "output"}.get(name, name)
        remedy = f"give {argument}=..., or set {variable(name)}, or edit {name} in params.json"
        if not value:
            raise InvalidRequest(f"no {argument} was given, and {name} is empty ({origin})", remedy=remedy)
        if _PLACEHOLDER.search(value):
            raise InvalidRequest(f"{name} still holds a placeholder ({origin})", given=value, remedy=remedy)
        return value


def _in_words(value: Any) -> str:
    """Return a value as its variable would say it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return ",".join(f"{name}={path}" for name, path in value.items())
    return ",".join(map(str, value)) if isinstance(value, frozenset | tuple) else str(value)


def _declared() -> dict[str, Setting]:
    found = {}
    for each in fields(Settings):
        if (one := each.metadata.get("setting")) is not None:
            default = one.unset or ("" if each.default is MISSING else _in_words(each.default))
            found[each.name] = replace(one, name=each.name, default=default)
    return found


SETTINGS: Mapping[str, Setting] = MappingProxyType(_declared())


def _documented(text: str) -> str:
    """Return the docstring of the settings with a paragraph for each of them."""
    head, origins, last = cleandoc(text).partition("\norigins\n")  # from Python 3.13 on it comes without its indent
    lines = [head]
    for name, one in SETTINGS.items():
        said = f"{one.help[0].upper()}{one.help[1:]}. Variable: `{one.variable}`; default: {one.default}."
        lines.append(name)
        lines.append(fill(said, _WIDTH, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False))
    return "\n".join(lines) + origins + last


Settings.__doc__ = _documented(Settings.__doc__ or "")


def _shown(origin: str) -> str:
    from geozarr_runner.text.printable import printable

    return {"argument": "arguments"}.get(origin, printable(origin))

"""Settings: the values of arguments that a call leaves out.

A value comes from the first of these that has it: the argument of the call, the environment variable, params.json, the
default. The column "default" says params.json for a setting that the file can hold; the other settings are read from
the environment only.

==================  ========================  =========================  ==========================================
name                environment               default                    meaning
==================  ========================  =========================  ==========================================
stac_url            GEOZARR_STAC_URL          params.json                product to convert where none is given
output_zarr         GEOZARR_OUTPUT_ZARR       params.json                output where none is given; empty: made from
                                                                         the product's name
groups              GEOZARR_GROUPS            params.json                groups where none are given; empty or 0: the
                                                                         whole product, in the converter's own layout
validate_groups     GEOZARR_VALIDATE_GROUPS   params.json                true: one missing group ends the run
archive             GEOZARR_ARCHIVE           params.json, false         true: outputs are packed as one file too
backend             GEOZARR_BACKEND           local                      where jobs run: local or argo
state_dir           GEOZARR_STATE_DIR         the platform's folder for  jobs, their events and logs
                                              state, /geozarr_nb
max_jobs            GEOZARR_MAX_JOBS          1                          jobs that run at once on this machine
scratch             GEOZARR_SCRATCH           beside the output          folder for a run's intermediate files
environment         GEOZARR_ENVIRONMENT       none                       names of further environment variables that a
                                                                         job on this machine gets, with commas; * for
                                                                         any letters
poll_interval       GEOZARR_POLL_INTERVAL     0.25                       seconds between two looks at a job
namespace           GEOZARR_NAMESPACE         argo                       namespace of the jobs on a cluster
kube_context        GEOZARR_KUBE_CONTEXT      the current one            context of the kubeconfig
pvc_name            GEOZARR_PVC_NAME          params.json, geozarr-pvc   claim that outputs are written to
image               GEOZARR_IMAGE             params.json, the           the runner's image
                                              template's own
template            GEOZARR_TEMPLATE          geozarr-convert            WorkflowTemplate that jobs are made from
credentials         GEOZARR_CREDENTIALS       geozarr-credentials        Secret whose keys are environment variables
                                                                         of the runner; the Secret is optional
memory              GEOZARR_MEMORY            the template's own         memory of a job's pod, for example 12Gi
cpu                 GEOZARR_CPU               the template's own         cores that are reserved for a job's pod, for
                                                                         example 2 or 500m; it may use more
time_limit          GEOZARR_TIME_LIMIT        the template's own         seconds that one run of a job may take in its
                                                                         pod
mounts              GEOZARR_MOUNTS            found in a pod's own       where claims are mounted on this machine:
                                              volumes                    claim=/path, several with commas
protocols           GEOZARR_PROTOCOLS         none                       further protocols that STAC items and
                                                                         catalogues may name, with commas
max_items           GEOZARR_MAX_ITEMS         10000                      items that a catalogue may have
max_catalogues      GEOZARR_MAX_CATALOGUES    1000                       catalogues that a catalogue may have below it
==================  ========================  =========================  ==========================================

params.json is the file that $GEOZARR_PARAMS names, else ./params.json, else the file of the package. `image` and
`pvc_name` are read only from a file that $GEOZARR_PARAMS names, and refused in ./params.json: a folder that somebody
else wrote must not choose which image runs with your credentials.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any

from geozarr_nb.errors import InvalidRequest

PARAMETERS = ("stac_url", "output_zarr", "groups", "validate_groups")
TEMPLATE_PARAMETERS = (
    "image",
    "pvc_name",
    "archive",
)  # the workflow template's own, which a file shared with it may set
ONLY_WHERE_NAMED = ("image", "pvc_name")
MOST_BYTES = 1_000_000
TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
_PLACEHOLDER = re.compile(r"<[^<>]*>")
_DNS_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?([KMGT]i?)?")
_VARIABLE = re.compile(r"[A-Za-z_*][A-Za-z0-9_*]*")
_CORES = re.compile(r"[0-9]+(\.[0-9]+)?|[0-9]+m")


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of this process: the values of arguments that a call leaves out.

    `Settings.load()` reads them. Each value comes from the first of these that has it: the argument of the call, the
    environment variable `GEOZARR_<NAME>` (`GEOZARR_STAC_URL` for `stac_url`), params.json, the default. params.json is
    the file that `$GEOZARR_PARAMS` names, else `./params.json`, else the file of the package. It can hold `stac_url`,
    `output_zarr`, `groups`, `validate_groups` and `archive`; `image` and `pvc_name` only in a file that
    `$GEOZARR_PARAMS` names. `help("geozarr_nb.settings")` shows a table of all settings with their meaning.

    Attributes
    ----------
    origins
        Where each setting came from: the name of a variable, the path of a file, "argument" or "default".
    """

    stac_url: str = ""
    output_zarr: str = ""
    groups: str = ""
    validate_groups: bool = False
    backend: str = "local"
    state_dir: Path = field(default_factory=lambda: default_state_dir())
    max_jobs: int = 1
    scratch: str = ""
    poll_interval: float = 0.25
    namespace: str = "argo"
    kube_context: str = ""
    pvc_name: str = "geozarr-pvc"
    image: str = ""
    template: str = "geozarr-convert"
    credentials: str = "geozarr-credentials"
    memory: str = ""
    cpu: str = ""
    time_limit: float = 0.0
    archive: bool = False
    mounts: Mapping[str, Path] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    protocols: frozenset[str] = frozenset()
    max_items: int = 10_000
    max_catalogues: int = 1_000
    environment: tuple[str, ...] = ()
    origins: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), compare=False, repr=False)

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
        if path == _here() and not environ.get("GEOZARR_PARAMS"):
            _refuse_choices(path, parameters, environ)
        values: dict[str, Any] = {}
        origins: dict[str, str] = {}
        for name, parse in _PARSERS.items():
            variable = f"GEOZARR_{name.upper()}"
            if variable in environ:
                values[name], origins[name] = parse(environ[variable], variable), variable
            elif name in parameters:
                values[name], origins[name] = parse(parameters[name], f"{name} in {path}"), str(path)
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
        values = {name: _PARSERS[name](value, name) for name, value in chosen.items()}
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

    def required(self, name: str) -> str:
        """Return a setting that must not be empty or a placeholder.

        Raises
        ------
        InvalidRequest
        """
        value = str(getattr(self, name))
        origin = self.origins.get(name, "default")
        argument = {"stac_url": "source", "output_zarr": "output"}.get(name, name)
        remedy = f"give {argument}=..., or set GEOZARR_{name.upper()}, or edit {name} in params.json"
        if not value:
            raise InvalidRequest(f"no {argument} was given, and {name} is empty ({origin})", remedy=remedy)
        if _PLACEHOLDER.search(value):
            raise InvalidRequest(f"{name} still holds a placeholder ({origin})", given=value, remedy=remedy)
        return value


def default_state_dir() -> Path:
    """Return the platform's folder for what programs remember; not an absolute path where an account has no home."""
    import platformdirs

    try:
        return platformdirs.user_state_path("geozarr_nb", appauthor=False)
    except RuntimeError:
        return Path("~/.local/state/geozarr_nb")


def params_path(environ: Mapping[str, str]) -> Path:
    """Return the params.json that counts."""
    if named := environ.get("GEOZARR_PARAMS"):
        from geozarr_runner.trust.addresses import expanded

        path = expanded(named)
        if not path.is_file():
            raise InvalidRequest(
                "there is no such file", given=f"GEOZARR_PARAMS={named}", remedy="unset GEOZARR_PARAMS, or correct it"
            )
        return path
    here = _here()
    if here.is_file():
        return here
    package = Path(__file__).parent
    packaged = package / "params.json"
    # An editable installation has the repository's own file above the package instead of a copy inside.
    return packaged if packaged.is_file() else package.parent / "params.json"


def _here() -> Path:
    from geozarr_runner.trust.addresses import expanded

    return expanded("params.json")


def _shown(origin: str) -> str:
    from geozarr_runner.text.printable import printable

    return {"argument": "arguments"}.get(origin, printable(origin))


def _refuse_choices(path: Path, parameters: Mapping[str, str], environ: Mapping[str, str]) -> None:
    """Raise where a file that merely lies in the working directory chooses what nobody else should."""
    chosen = [name for name in ONLY_WHERE_NAMED if name in parameters and f"GEOZARR_{name.upper()}" not in environ]
    if chosen:
        names = " and ".join(chosen)
        raise InvalidRequest(
            f"{names} in ./params.json would choose what runs with your credentials, or where: they count only in a "
            "file that you name",
            given=str(path),
            remedy=f"export GEOZARR_PARAMS={shlex.quote(str(path))} if you trust it, or take {names} out of it",
        )


def read_params(path: Path) -> dict[str, str]:
    """Return the parameters of a params.json by name.

    Raises
    ------
    InvalidRequest
        It cannot be read, is no JSON, or holds something else; the error names the line.
    """

    def wrong(message: str, line: int | None, remedy: str) -> InvalidRequest:
        return InvalidRequest(message, given=f"{path}, line {line}" if line else str(path), remedy=remedy)

    form = 'it looks like {"arguments": {"parameters": [{"name": "groups", "value": "..."}]}}'
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        text = content[:MOST_BYTES].decode()
        document: Any = json.loads(text) if len(content) <= MOST_BYTES else None
    except json.JSONDecodeError as error:
        raise wrong(f"params.json is no JSON: {error.msg}", error.lineno, "correct that line") from error
    except (OSError, UnicodeDecodeError) as error:
        raise wrong(f"params.json cannot be read: {error}", None, "correct the file, or set GEOZARR_PARAMS") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; brackets without end
        raise wrong("params.json holds more than any parameters need", None, form) from error
    try:
        entries = document["arguments"]["parameters"]
    except (KeyError, TypeError) as error:
        raise wrong("params.json has no arguments.parameters", 1, form) from error
    if not isinstance(entries, list):
        raise wrong("arguments.parameters in params.json is no list", _line(text, '"parameters"'), form)
    found: dict[str, str] = {}
    for entry in entries:
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str):
            line = _line(text, json.dumps(entry)[:MOST_BYTES]) or _line(text, '"parameters"')
            raise wrong("a parameter without a name", line, form)
        quoted = json.dumps(name, ensure_ascii=False)
        if name not in PARAMETERS + TEMPLATE_PARAMETERS:
            near = get_close_matches(name, PARAMETERS, n=1)
            remedy = f"{near[0]} may be meant" if near else f"known are {', '.join(PARAMETERS)}"
            raise wrong(f"params.json knows no parameter {quoted}", _line(text, quoted), remedy)
        if name in found:
            raise wrong(f"{quoted} is there twice", _line(text, quoted, nth=2), "remove one of the two")
        value = entry.get("value", "")
        if not isinstance(value, str):
            remedy = f'write a string: "value": {json.dumps(_as_text(value))}'
            raise wrong(f"the value of {quoted} is no string", _line(text, quoted), remedy)
        found[name] = value
        if name in ("validate_groups", "archive") and value.strip().lower() not in TRUE + FALSE:
            raise wrong(f"{name} is {value!r}", _line(text, quoted), 'write "true" or "false"')
    return found


def _line(text: str, quoted: str, nth: int = 1) -> int | None:
    """Return the line of the nth time that a quoted name is a parameter's name, or stands anywhere."""
    places = [match.end() for match in re.finditer(r'"name"\s*:\s*' + re.escape(quoted), text)]
    places = places or [match.end() for match in re.finditer(re.escape(quoted), text)]
    return text.count("\n", 0, places[nth - 1]) + 1 if len(places) >= nth else None


def _as_text(value: object) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _text(value: str, origin: str) -> str:
    return value.strip()


def _boolean(value: str, origin: str) -> bool:
    word = value.strip().lower()
    if word in TRUE:
        return True
    if word in FALSE:
        return False
    raise InvalidRequest(f"{origin} is neither true nor false", given=value, remedy='write "true" or "false"')


def _folder(value: str, origin: str) -> Path:
    if not value.strip():
        raise InvalidRequest(f"{origin} is empty", remedy=f"unset {origin}, or name a folder")
    from geozarr_runner.trust.addresses import expanded

    return expanded(value)


def _count(value: str, origin: str) -> int:
    try:
        count = int(value)
    except ValueError:
        count = 0
    if count < 1:
        raise InvalidRequest(f"{origin} is no whole number from 1 on", given=value, remedy=f"{origin}=2, say")
    return count


def _seconds(value: str, origin: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not (seconds > 0 and math.isfinite(seconds)):
        raise InvalidRequest(f"{origin} is no time in seconds above 0", given=value, remedy=f"{origin}=0.5, say")
    return seconds


def _name(value: str, origin: str) -> str:
    """Return a name of an object of a cluster."""
    name = value.strip()
    if not _DNS_NAME.fullmatch(name):
        raise InvalidRequest(
            f"{origin} is no name of a cluster's object", given=value, remedy="use small letters, digits, '-' and '.'"
        )
    return name


def _quantity(value: str, origin: str) -> str:
    if not _QUANTITY.fullmatch(value.strip()):
        raise InvalidRequest(f"{origin} is no amount of memory", given=value, remedy=f"{origin}=12Gi, say")
    return value.strip()


def _cores(value: str, origin: str) -> str:
    if not _CORES.fullmatch(value.strip()):
        raise InvalidRequest(f"{origin} is no number of cores", given=value, remedy=f"{origin}=2, say, or 500m")
    return value.strip()


def _protocols(value: str, origin: str) -> frozenset[str]:
    from geozarr_runner.trust.addresses import protocols  # which reads the variable itself: a run has no settings

    return protocols(value)


def _variables(value: str, origin: str) -> tuple[str, ...]:
    names = tuple(filter(None, re.split(r"[,\s]+", value)))
    if odd := [name for name in names if not _VARIABLE.fullmatch(name) or not name.strip("*")]:
        raise InvalidRequest(
            f"{origin} has what is no name of a variable", given=odd[0], remedy=f"{origin}=MY_TOKEN,ACME_*, say"
        )
    return names


def _mounts(value: str, origin: str) -> Mapping[str, Path]:
    found = {}
    for entry in filter(None, (part.strip() for part in value.split(","))):
        claim, equals, path = entry.partition("=")
        if not equals or not path.startswith("/"):
            raise InvalidRequest(
                f"{origin} is no list of claims and folders", given=value, remedy=f"{origin}=geozarr-pvc=/data, say"
            )
        found[_name(claim, origin)] = Path(path)
    return MappingProxyType(found)


_PARSERS: Mapping[str, Callable[[str, str], Any]] = {
    "stac_url": _text,
    "output_zarr": _text,
    "groups": _text,
    "validate_groups": _boolean,
    "archive": _boolean,
    "backend": _text,
    "state_dir": _folder,
    "max_jobs": _count,
    "scratch": _text,
    "environment": _variables,
    "poll_interval": _seconds,
    "namespace": _name,
    "kube_context": _text,
    "pvc_name": _name,
    "image": _text,
    "template": _name,
    "credentials": _name,
    "memory": _quantity,
    "cpu": _cores,
    "time_limit": _seconds,
    "mounts": _mounts,
    "protocols": _protocols,
    "max_items": _count,
    "max_catalogues": _count,
}

"""The file of parameters: the defaults that the command line, the calls and the make targets share."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from geozarr_nb.errors import InvalidRequest
from geozarr_nb.settings.values import FALSE, TRUE

PARAMETERS = ("stac_url", "output_zarr", "groups", "validate_groups")
# The workflow template's own, which a file shared with it may set.
TEMPLATE_PARAMETERS = ("image", "pvc_name", "archive")
ONLY_WHERE_NAMED = ("image", "pvc_name")
MOST_BYTES = 1_000_000


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
    here = in_working_directory()
    if here.is_file():
        return here
    package = Path(__file__).parents[1]
    packaged = package / "params.json"
    # An editable installation has the repository's own file above the package instead of a copy inside.
    return packaged if packaged.is_file() else package.parent / "params.json"


def in_working_directory() -> Path:
    """Return the params.json of the working directory, whether it is there or not."""
    from geozarr_runner.trust.addresses import expanded

    return expanded("params.json")


def refuse_choices(path: Path, parameters: Mapping[str, str], environ: Mapping[str, str]) -> None:
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

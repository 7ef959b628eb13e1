"""A form's content as what would be typed instead: a call in Python, a command in a shell."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any

from geozarr_nb.pods import JOB_ARGUMENTS, PODS
from geozarr_nb.settings import Settings
from geozarr_runner.spec.options import OPTIONS
from geozarr_runner.spec.parameters import parameters
from geozarr_runner.text.shell import word
from geozarr_runner.trust.addresses import redact

WHOLE_PRODUCT = "[]"  # where "0" would leave it to $ARGO_GROUPS of a pod
CLAIM = "pvc://"
MOUNT = "/data/"


def python_call(source: str, arguments: Mapping[str, Any], settings: Settings) -> str:
    """Return the call of `geozarr_nb.convert` that does what the form does.

    Parameters
    ----------
    source
        Address or path of the product. What may be secret in it is not repeated.
    arguments
        Those of `geozarr_nb.submit` beside the source; those that are as they would be without are left out.
    settings
        What holds where an argument is left out.
    """
    given = [repr(source), repr(arguments["output"]), f"groups={arguments['groups']!r}"]
    note = ""
    if redact(source) != source:
        given[0] = "address"
        note = f"address = {redact(source)!r}  # and what signs it, which is not repeated here\n"
    defaults = {name: _without(name, settings) for name in JOB_ARGUMENTS if name != "groups"}
    defaults["backend"] = settings.backend
    given += [f"{name}={arguments[name]!r}" for name, default in defaults.items() if _differs(arguments, name, default)]
    return f"import geozarr_nb as gz\n{note}job = gz.convert({', '.join(given)})"


def _without(name: str, settings: Settings) -> Any:
    """Return what an option is where nobody gives it."""
    default = JOB_ARGUMENTS[name].default
    return getattr(settings, name, None) if default is None else default


def _differs(arguments: Mapping[str, Any], name: str, default: Any) -> bool:
    return arguments.get(name) not in (None, default)


def argo_command(source: str, arguments: Mapping[str, Any], settings: Settings) -> str:
    """Return the command of Argo's own client that submits the same; parameters as in `python_call`."""
    claim, path = _on_claim(str(arguments["output"]), settings.pvc_name)
    options = {name: _without(name, settings) if arguments.get(name) is None else arguments[name] for name in OPTIONS}
    said = {name: value for name, value in options.items() if OPTIONS[name].label or value != OPTIONS[name].assumed}
    values = {
        "stac_url": redact(source),
        "output_zarr": path,
        **parameters(arguments["groups"], said),
        "pvc_name": claim,
    }
    if not arguments["groups"]:
        values["groups"] = WHOLE_PRODUCT
    memory = arguments["memory"] or settings.memory
    pods = {name: arguments[name] or getattr(settings, name) for name in PODS} | {"memory_limit": memory}
    if pods["time_limit"] and not isinstance(pods["time_limit"], str):
        pods["time_limit"] = ceil(pods["time_limit"])  # one that is no number is refused elsewhere, and stands as typed
    values |= {name: str(value) for name, value in pods.items() if value}
    words = ["argo", "submit", "--from", f"workflowtemplate/{settings.template}", "-n", settings.namespace]
    words += ["--context", settings.kube_context] if settings.kube_context else []
    for name, value in values.items():
        words += ["-p", f"{name}={value}"]
    return " ".join(map(word, words))


def _on_claim(output: str, claim: str) -> tuple[str, str]:
    """Return the claim that an output lies on, and its path there; one of this machine would have the same name."""
    if output.startswith(CLAIM):
        claim, _, path = output.removeprefix(CLAIM).partition("/")
        return claim, path
    if output.startswith(MOUNT):
        return claim, output.removeprefix(MOUNT)
    return claim, output.rstrip("/").rpartition("/")[2] if output.startswith(("/", "~")) else output

"""A form's content as what would be typed instead: a call in Python, a command in a shell."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any

import geozarr_nb as gz
from geozarr_runner.addresses import redact
from geozarr_runner.spelling import word

WHOLE_PRODUCT = "[]"  # where "0" would leave it to $ARGO_GROUPS of a pod
CLAIM = "pvc://"
MOUNT = "/data/"


def python_call(source: str, arguments: Mapping[str, Any], settings: gz.Settings) -> str:
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
    defaults = {
        "validate_groups": settings.validate_groups,
        "if_exists": "error",
        "backend": settings.backend,
        "image": None,
        "memory": None,
        "cpu": None,
        "time_limit": None,
    }
    given = [repr(source), repr(arguments["output"]), f"groups={arguments['groups']!r}"]
    note = ""
    if redact(source) != source:
        given[0] = "address"
        note = f"address = {redact(source)!r}  # and what signs it, which is not repeated here\n"
    given += [f"{name}={arguments[name]!r}" for name, default in defaults.items() if arguments[name] != default]
    return f"import geozarr_nb as gz\n{note}job = gz.convert({', '.join(given)})"


def argo_command(source: str, arguments: Mapping[str, Any], settings: gz.Settings) -> str:
    """Return the command of Argo's own client that submits the same; parameters as in `python_call`."""
    claim, path = _on_claim(str(arguments["output"]), settings.pvc_name)
    values = {
        "stac_url": redact(source),
        "output_zarr": path,
        "groups": ",".join(arguments["groups"]) or WHOLE_PRODUCT,
        "validate_groups": "true" if arguments["validate_groups"] else "false",
        "if_exists": arguments["if_exists"],
        "pvc_name": claim,
    }
    image, memory = arguments["image"] or settings.image, arguments["memory"] or settings.memory
    if image:
        values["image"] = image
    if memory:
        values |= {"memory": memory, "memory_limit": memory}
    if cpu := arguments["cpu"] or settings.cpu:
        values["cpu"] = cpu
    if settings.archive:
        values["archive"] = "true"
    if seconds := arguments["time_limit"] or settings.time_limit:
        # One that is no number is refused elsewhere, and stands here as it was typed.
        values["time_limit"] = seconds if isinstance(seconds, str) else str(ceil(seconds))
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

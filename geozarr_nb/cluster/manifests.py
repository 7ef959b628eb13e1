"""The manifests that came with this version, and what of them is on a cluster."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from geozarr_nb.cluster.answers import objects
from geozarr_nb.cluster.client import Object

TEMPLATE = "geozarr-convert-template.yaml"
# What the chart's values decide of a template.
_OF_VALUES = re.compile(
    r"spec\.(arguments\.parameters\[\w+\]\.(value|default)|serviceAccountName|automountServiceAccountToken|executor"
    r"|nodeSelector|tolerations|affinity|imagePullSecrets|ttlStrategy\.secondsAfterCompletion"
    r"|templates\[[\w-]+\]\.(container\.imagePullPolicy|synchronization\.semaphores))(\W.*)?"
)


def folder() -> Path:
    """Return where the manifests are."""
    package = Path(__file__).parents[1]
    packaged = package / "workflows"
    # An editable installation has the repository's own folder beside the package instead of a copy inside.
    return packaged if packaged.is_dir() else package.parent / "workflows"


@cache
def template() -> Object:
    """Return the workflow template of this version."""
    import yaml

    found: Object = yaml.safe_load((folder() / TEMPLATE).read_text(encoding="utf-8"))
    return found


def parameters(template: Object) -> dict[str, str]:
    """Return the parameters of a template with their defaults."""
    found: Any = template
    for name in ("spec", "arguments", "parameters"):  # the server takes anything there
        found = found.get(name) if isinstance(found, Mapping) else None
    named = [entry for entry in objects(found) if "name" in entry]
    return {str(entry["name"]): str(entry.get("value", entry.get("default", ""))) for entry in named}


def release(template: Mapping[str, Any]) -> str:
    """Return the Helm release that a template on a cluster belongs to; empty for none."""
    annotations = template.get("metadata", {}).get("annotations") or {}
    return str(annotations.get("meta.helm.sh/release-name") or "")


def differences(ours: Object, theirs: Object) -> list[str]:
    """Return the paths in which the specifications of two templates differ.

    What a server adds stands outside of `spec`; what is empty and what is not there are the same to it. Of a template
    that belongs to a Helm release what the chart's values decide is no difference.
    """
    found = _differences(_settled(ours.get("spec")), _settled(theirs.get("spec")), "spec")
    return [path for path in found if not (release(theirs) and _OF_VALUES.fullmatch(path))]


def _differences(ours: Any, theirs: Any, path: str) -> Iterator[str]:
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        for name in sorted({*ours, *theirs}):
            yield from _differences(ours.get(name), theirs.get(name), f"{path}.{name}")
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            name = one.get("name", number) if isinstance(one, Mapping) else number
            yield from _differences(one, other, f"{path}[{name}]")
    elif ours != theirs:
        yield path


def _settled(value: Any) -> Any:
    """Return a value without what says nothing."""
    if isinstance(value, Mapping):
        settled = {str(name): _settled(each) for name, each in value.items()}
        return {name: each for name, each in settled.items() if each not in (None, {}, [])}
    return [_settled(each) for each in value] if isinstance(value, list) else value

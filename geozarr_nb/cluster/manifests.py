"""The manifests that came with this version, and what of them is on a cluster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from geozarr_nb.cluster.client import Object

TEMPLATE = "geozarr-convert-template.yaml"


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
    entries = ((template.get("spec") or {}).get("arguments") or {}).get("parameters") or ()
    return {str(entry["name"]): str(entry.get("value", entry.get("default", ""))) for entry in entries}


def differences(ours: Object, theirs: Object) -> list[str]:
    """Return the paths in which the specifications of two templates differ.

    What a server adds stands outside of `spec`; what is empty and what is not there are the same to it.
    """
    return list(_differences(_settled(ours.get("spec")), _settled(theirs.get("spec")), "spec"))


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

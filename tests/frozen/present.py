"""What the frozen tests ask of the present code: where something gets another name, only this module changes.

The files in `data` were written by version 0.1.0, and nothing writes them again. `<home>` and the like stand in them
for what is different on each machine.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import geozarr_nb as gz
from geozarr_nb.backends.workflow import output_address
from geozarr_nb.settings import Settings

type Document = dict[str, Any]

PRODUCT = gz.Product(url="", name="", kind="Zarr", zarr_format=2, groups={}, parents={}, consolidated=True, identity="")


def recorded(name: str) -> Any:
    """Return what a file of `data` holds."""
    return json.loads((Path(__file__).parent / "data" / f"{name}.json").read_text(encoding="utf-8"))


def filled(thing: Any, places: Mapping[str, object]) -> Any:
    """Return recorded data with this machine's values for their placeholders."""
    text = json.dumps(thing)
    for name, value in places.items():
        text = text.replace(f"<{name}>", json.dumps(str(value))[1:-1])
    return json.loads(text)


# Requests


def new_request(given: Mapping[str, Any]) -> gz.Request:
    """Make the request that a person's arguments make; `claim` is there where it is for a cluster."""
    options = dict(given)
    item, claim = options.pop("item", None), options.pop("claim", None)
    product = replace(
        PRODUCT,
        url=options.pop("url"),
        name=options.pop("product"),
        item={"href": item} if item else {},
        asked=options.pop("asked", None),
    )
    locate = None if claim is None else lambda output: output_address(os.fspath(output), claim)
    return gz.Request.of(product, options.pop("output"), settings=Settings(), locate=locate, **options)


def read_request(document: Mapping[str, Any]) -> gz.Request:
    """Read a request as it was stored."""
    return gz.Request.from_json(document)


def stored(request: gz.Request) -> Document:
    """Return the document that would be stored of a request."""
    return dict(json.loads(json.dumps(request.to_json())))

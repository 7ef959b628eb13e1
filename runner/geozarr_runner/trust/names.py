"""Names of files that are made of what a product calls itself: one component of a path, whatever the product says."""

from __future__ import annotations

import hashlib
import re

LONGEST = 200
SUFFIX = "_geozarr.zarr"


def output_name(product: str) -> str:
    """Return the name of a product's output where nobody has chosen one.

    Examples
    --------
    >>> output_name("S2A_MSIL2A_20251008")
    'S2A_MSIL2A_20251008_geozarr.zarr'
    """
    return f"{component(product, LONGEST - len(SUFFIX))}{SUFFIX}"


def component(text: str, longest: int = LONGEST) -> str:
    """Return a text as one component of a path, of letters, digits, `.`, `_` and `-`; other texts have other names.

    Examples
    --------
    >>> component("../../etc/loot")
    'etc-loot-e21f5cab'
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text).lstrip(".-")
    if name == text and 0 < len(name) <= longest:
        return name
    # Two products whose names differ in nothing else must not become one output.
    mark = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{name[: longest - len(mark) - 1].rstrip('.-') or 'product'}-{mark}"

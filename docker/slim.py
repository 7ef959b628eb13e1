"""Takes out of an environment what a conversion never uses: `python docker/slim.py SITE_PACKAGES`.

Each rule names what goes and why. What a distribution says of itself (`*.dist-info`: version, entry points, licences)
is never touched. The sources stay: a traceback shows them, and the bytecode is made from them afterwards.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

# What a product in a bucket may need: the store itself, and the services that give credentials for it.
AWS_SERVICES = {"s3", "sts", "sso", "sso-oidc", "signin"}
SOURCES_OF_EXTENSIONS = {".a", ".c", ".cpp", ".h", ".hpp", ".pxd", ".pxi", ".pyx"}


@dataclass(frozen=True)
class Rule:
    """What is taken out: paths relative to site-packages for which `matches` holds, each with all that is below it."""

    name: str
    reason: str
    matches: Callable[[Path, bool], bool]


RULES = (
    Rule(
        "tests",
        "packages test themselves before they are released; nothing imports these folders at run time",
        lambda path, folder: folder and path.name in {"tests", "test"},
    ),
    Rule(
        "AWS services",
        "botocore describes 430 services; a product or its credentials come from " + ", ".join(sorted(AWS_SERVICES)),
        lambda path, folder: folder and path.parts[:2] == ("botocore", "data") and path.parts[2:3] != ()
        and path.parts[2] not in AWS_SERVICES,
    ),
    Rule(
        "sources of extensions",
        "headers, C, Cython and static libraries serve compilers, and the image has none",
        lambda path, folder: not folder and path.suffix in SOURCES_OF_EXTENSIONS,
    ),
    Rule(
        "type stubs",
        "read by type checkers only",
        lambda path, folder: not folder and path.suffix == ".pyi",
    ),
)  # fmt: skip


def main(arguments: list[str]) -> int:
    """Slim the site-packages folder named in `arguments`; says what each rule was worth, uncompressed."""
    site = Path(arguments[0])
    for rule in RULES:
        _say(rule.name, remove(site, rule), rule.reason)
    _say("symbols", strip(site), "symbol tables of shared objects serve debuggers and linkers, not the loader")
    return 0


def remove(site: Path, rule: Rule) -> int:
    """Remove what `rule` matches below `site`; returns how many bytes that was."""
    gone = 0
    for path in list(_paths(site)):
        if path.exists() and rule.matches(path.relative_to(site), path.is_dir()):
            gone += _size(path)
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return gone


def strip(site: Path) -> int:
    """Strip the shared objects below `site`; returns how many bytes that saved."""
    objects = [path for path in _paths(site) if ".so" in path.suffixes and path.read_bytes()[:4] == b"\x7fELF"]
    before = sum(map(_size, objects))
    if objects:
        subprocess.run(["strip", "--strip-unneeded", *map(str, objects)], check=True)  # noqa: S607 - as the PATH says
    return before - sum(map(_size, objects))


def _paths(site: Path) -> Iterator[Path]:
    for top in sorted(site.iterdir()):
        if top.suffix == ".dist-info":
            continue
        yield top
        if top.is_dir():
            yield from (path for path in sorted(top.rglob("*")) if not path.is_symlink())


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(_size(child) for child in path.iterdir())
    return path.lstat().st_size


def _say(name: str, gone: int, reason: str) -> None:
    sys.stderr.write(f"slim: {gone / 2**20:6.1f} MiB  {name}: {reason}\n")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

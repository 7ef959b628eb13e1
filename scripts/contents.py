"""What the image holds besides its base: the pins of requirements/runner.txt, as their own metadata describe them.

    python scripts/contents.py licences    a table: package, version, licence, its text; and the libraries inside wheels
    python scripts/contents.py sbom        the same as a CycloneDX document

Both are read from this environment, which has the versions that the image has, and ask the network for nothing. What
the base image holds says so itself: /usr/share/doc/*/copyright there.
"""

from __future__ import annotations

import os
import re
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, cached_property
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import NAMESPACE_URL, uuid5

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component
    from cyclonedx.model.license import LicenseExpression
    from license_expression import Licensing

ROOT = Path(__file__).parents[1]
PINS = ROOT / "requirements" / "runner.txt"
TEXTS = ROOT / "LICENSES"
# Where the image runs, whatever this is: what pins are for elsewhere is not in it.
PLACE = {"os_name": "posix", "platform_system": "Linux", "sys_platform": "linux", "extra": ""}

# What packages say in other words than SPDX's; for these the text that they bring was read.
SAID = {
    "aiosignal": "Apache-2.0",
    "cf-xarray": "Apache-2.0",
    "jinja2": "BSD-3-Clause",
    "partd": "BSD-3-Clause",
    "python-dateutil": "Apache-2.0 AND BSD-3-Clause",
    "s3fs": "BSD-3-Clause",
    "s3transfer": "Apache-2.0",
    "sortedcontainers": "Apache-2.0",
    "zict": "BSD-3-Clause",
}
# Libraries that lie in wheels, by their names without lib, version and the wheel's hash.
LIBRARIES = {
    "Lerc": "Apache-2.0",
    "aec": "BSD-2-Clause",
    "blosc": "BSD-3-Clause",
    "crc32c": "BSD-3-Clause",
    "crypto": "Apache-2.0",
    "curl": "curl",
    "deflate": "MIT",
    "gdal": "MIT",
    "geos": "LGPL-2.1-or-later",
    "geos_c": "LGPL-2.1-or-later",
    "gif": "MIT",
    "hdf5": "HDF5",
    "hdf5_hl": "HDF5",
    "jpeg": "IJG AND BSD-3-Clause AND Zlib",
    "json-c": "MIT",
    "lzma": "0BSD",
    "netcdf": "NetCDF",
    "nghttp2": "MIT",
    "openjp2": "BSD-2-Clause",
    "pcre2-8": "BSD-3-Clause WITH PCRE2-exception",
    "png16": "libpng-2.0",
    "proj": "MIT",
    "scipy_openblas64_": "BSD-3-Clause",
    "sharpyuv": "BSD-3-Clause",
    "sqlite3": "blessing",
    "ssl": "Apache-2.0",
    "sz": "BSD-2-Clause",
    "tiff": "libtiff",
    "webp": "BSD-3-Clause",
    "zstd": "BSD-3-Clause",
}
_TEXT = re.compile(r"\.dist-info/(.*/)?(licen[cs]e|copying|notice)[^/]*$", re.IGNORECASE)
_LIBRARY = re.compile(r"\.libs/lib(?P<name>.+?)-[0-9a-f]{8}\.so(?P<version>[.\d]*)$")


class ContentsError(Exception):
    """What the image holds cannot be told; the message says why, and what to do."""


@dataclass(frozen=True)
class Library:
    """A shared library inside a wheel; its version is that of its interface, not of its release."""

    name: str
    version: str

    @property
    def licence(self) -> str:
        """SPDX's expression.

        Raises
        ------
        ContentsError
            It is new here.
        """
        if self.name not in LIBRARIES:
            raise ContentsError(f"lib{self.name} is new: find its licence, and add it to LIBRARIES in {__file__}")
        return LIBRARIES[self.name]


@dataclass(frozen=True)
class Package:
    """One pinned distribution, and what its own metadata say."""

    pin: Requirement
    hashes: tuple[str, ...]

    @property
    def name(self) -> str:
        """Its name, as registries compare them."""
        return canonicalize_name(self.pin.name)

    @property
    def version(self) -> str:
        """Its pinned version."""
        return next(iter(self.pin.specifier)).version

    @cached_property
    def installed(self) -> Distribution:
        """The same version in this environment.

        Raises
        ------
        ContentsError
            It is not there.
        """
        try:
            found = distribution(self.pin.name)
        except PackageNotFoundError as error:
            raise ContentsError(f"{self.pin} is not installed here: make setup") from error
        if found.version != self.version:
            raise ContentsError(f"{self.pin} is pinned, and {found.version} is installed here: make setup")
        return found

    @property
    def licence(self) -> str:
        """SPDX's expression, normalised.

        Raises
        ------
        ContentsError
            It names none that SPDX knows.
        """
        metadata = self.installed.metadata
        said = SAID.get(self.name) or metadata.get("License-Expression") or metadata.get("License") or ""
        checked = _spdx().validate(said)
        if not said or checked.errors:
            shown = said.strip().partition("\n")[0] or "nothing"
            raise ContentsError(
                f"{self.name} says of its licence {shown!r}, which SPDX does not know: "
                f"read its text, and add it to SAID in {__file__}"
            )
        return str(checked.normalized_expression)

    @property
    def texts(self) -> tuple[str, ...]:
        """The licences' texts: files that it installs, or ours where it forgot them."""
        own = [str(path) for path in self.installed.files or () if _TEXT.search(str(path))]
        return tuple(own) or tuple(f"LICENSES/{path.name}" for path in generic_texts(self.licence))

    @property
    def libraries(self) -> tuple[Library, ...]:
        """Shared libraries that lie in its wheel."""
        found = (_LIBRARY.search(str(path)) for path in self.installed.files or ())
        return tuple(Library(each["name"], each["version"].lstrip(".")) for each in found if each)

    def needs(self, extras: frozenset[str]) -> Iterator[Requirement]:
        """Yield what it asks for in the image, with some of its extras."""
        for text in self.installed.requires or ():
            asked = Requirement(text)
            if asked.marker is None or any(asked.marker.evaluate(PLACE | {"extra": extra}) for extra in ("", *extras)):
                yield asked


@cache
def _spdx() -> Licensing:
    from license_expression import get_spdx_licensing

    return get_spdx_licensing()


def generic_texts(licence: str) -> list[Path]:
    """Return the texts of ours for an expression; one is enough where a choice is given."""
    names = _spdx().license_keys(licence, unique=True)
    return [path for name in names if (path := TEXTS / f"{name}.txt").exists()]


def packages() -> list[Package]:
    """Return the pins that hold where the image runs."""
    found = []
    for block in re.split(r"^(?=\S)", PINS.read_text(), flags=re.MULTILINE):
        if not block.strip() or block.startswith("#"):
            continue
        pin = Requirement(block.partition("\\")[0].partition("--hash")[0].strip())
        if pin.marker is None or pin.marker.evaluate(PLACE):
            found.append(Package(pin, tuple(re.findall(r"--hash=sha256:([0-9a-f]{64})", block))))
    return found


def licences() -> str:
    """Return what the image holds, as a table in Markdown."""
    rows = [("Package", "Version", "Licence", "Text")]
    rows += [(each.name, each.version, each.licence, _shown(each.texts)) for each in packages()]
    inside = [("Library", "Interface", "Licence", "In the wheel of")]
    inside += [(f"lib{one.name}", one.version, one.licence, each.name) for each in packages() for one in each.libraries]
    return "\n".join(["# Licences of what the image holds", "", *_table(rows), "", *_table(inside), "", *_NOTES])


_NOTES = (
    "Texts that a package brings lie below `/opt/venv/lib/python3.*/site-packages` in the image, those of ours in",
    "`/usr/share/doc/geozarr-runner/LICENSES`. What the base image holds has its own in `/usr/share/doc/*/copyright`.",
)


def _shown(texts: tuple[str, ...]) -> str:
    if len(texts) < 2:
        return "".join(texts) or "none"
    return f"{len(texts)} in {os.path.commonpath(texts)}"


def _table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    for number, row in enumerate(rows):
        yield f"| {' | '.join(row)} |"
        if number == 0:
            yield f"|{' --- |' * len(row)}"


def sbom() -> str:
    """Return what the image holds as a CycloneDX document, the same for the same pins."""
    from cyclonedx.output import make_outputter
    from cyclonedx.schema import OutputFormat, SchemaVersion

    text = make_outputter(_bom(), OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=2)
    return str(text)


def _bom() -> Bom:
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    version = tomllib.loads((ROOT / "runner" / "pyproject.toml").read_text())["project"]["version"]
    image = Component(name="eopf-geozarr", version=version, type=ComponentType.CONTAINER, bom_ref="image")
    runner = Component(
        name="geozarr-runner",
        version=version,
        type=ComponentType.APPLICATION,
        bom_ref="geozarr-runner",
        purl=PackageURL("pypi", None, "geozarr-runner", version),
        licenses=[_licence("Apache-2.0")],
    )
    known = {each.name: each for each in packages()}
    made = {name: _component(each) for name, each in known.items()}
    bom = Bom(components=[runner, *made.values()], serial_number=uuid5(NAMESPACE_URL, PINS.read_text() + version))
    bom.metadata.component = image
    # The commit's time, where whoever builds says it: else two documents of one commit would differ.
    bom.metadata.timestamp = datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH", 0)), UTC)
    bom.register_dependency(image, [runner])
    own = tomllib.loads((ROOT / "runner" / "pyproject.toml").read_text())["project"]
    first = [Requirement(text) for text in (*own["dependencies"], *own["optional-dependencies"]["convert"])]
    bom.register_dependency(runner, [made[canonicalize_name(one.name)] for one in first])
    for name, extras in _extras(known, first).items():
        needed = {canonicalize_name(one.name) for one in known[name].needs(extras)}
        bom.register_dependency(made[name], [made[one] for one in sorted(needed & made.keys())])
    return bom


def _extras(known: dict[str, Package], first: list[Requirement]) -> dict[str, frozenset[str]]:
    """Return with which extras each package is in the image: whoever needs it asks for them."""
    found: dict[str, frozenset[str]] = {}
    waiting = list(first)
    while waiting:
        asked = waiting.pop()
        name = canonicalize_name(asked.name)
        extras = found.get(name, frozenset()) | asked.extras
        if name in known and found.get(name) != extras:
            found[name] = extras
            waiting += known[name].needs(extras)
    return found


def _component(package: Package) -> Component:
    from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, XsUri
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    files = ExternalReference(
        type=ExternalReferenceType.DISTRIBUTION,
        url=XsUri(f"https://pypi.org/project/{package.name}/{package.version}/#files"),
        comment="one of these files, by its hash",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=each) for each in package.hashes],
    )
    inside = [
        Component(
            name=f"lib{one.name}",
            description=f"shared library, {one.version or 'without version'}",
            type=ComponentType.LIBRARY,
            bom_ref=f"{package.name}:lib{one.name}",
            licenses=[_licence(one.licence)],
        )
        for one in package.libraries
    ]
    return Component(
        name=package.name,
        version=package.version,
        type=ComponentType.LIBRARY,
        bom_ref=package.name,
        purl=PackageURL("pypi", None, package.name, package.version),
        licenses=[_licence(package.licence)],
        external_references=[files],
        components=inside,
    )


def _licence(expression: str) -> LicenseExpression:
    from cyclonedx.model.license import LicenseExpression

    return LicenseExpression(expression)


def main(arguments: list[str]) -> int:
    """Print what is asked for."""
    makers = {"licences": licences, "sbom": sbom}
    if len(arguments) != 1 or arguments[0] not in makers:
        print(f"{' '.join(arguments) or 'nothing'}: choose of {', '.join(makers)}", file=sys.stderr)
        return 2
    try:
        print(makers[arguments[0]]())
    except ContentsError as error:
        print(f"{arguments[0]}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

"""What the image holds is known: its licences with their texts, and a document that other tools read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from packaging.utils import canonicalize_name

from tests.unit.test_image import pins

ROOT = Path(__file__).parents[2]
NEEDED = ("cyclonedx", "license_expression", "pip_audit")
# What may be in the image. Of the weak ones, only where the whole of it is theirs: a package, a shared library.
PERMISSIVE = {
    *("0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "HDF5", "IJG", "MIT", "NetCDF", "PSF-2.0"),
    *("PCRE2-exception", "Zlib", "blessing", "curl", "libpng-2.0", "libtiff"),
}
WEAK = {"LGPL-2.1-or-later", "MPL-2.0"}

needs_tools = pytest.mark.skipif(
    any(find_spec(name) is None for name in NEEDED), reason="make supply installs what reads licences"
)


@pytest.fixture(scope="module")
def contents() -> Iterator[ModuleType]:
    sys.path.insert(0, str(ROOT / "scripts"))
    import contents

    yield contents
    sys.path.remove(str(ROOT / "scripts"))


def keys(expression: str) -> set[str]:
    from license_expression import Licensing

    return {str(key) for key in Licensing().license_keys(expression)}


@pytest.mark.parametrize("other", ["dev", "jupyter", "runner"])
def test_its_tools_change_no_other_version(other: str) -> None:
    """They are installed into the same environment: after `make lock` they agree."""
    there = pins(other)
    assert {name: there[name] for name, version in pins("supply").items() if there.get(name, version) != version} == {}


# -- licences ---------------------------------------------------------------------------------------------------------


@needs_tools
def test_everything_has_a_licence_that_may_be_in_the_image(contents: ModuleType) -> None:
    packages = {each.name: keys(each.licence) for each in contents.packages()}
    assert packages.keys() < {canonicalize_name(name) for name in pins("runner")}, "all but what is for other systems"
    assert len(packages) > 70
    libraries = {f"lib{one.name}": keys(one.licence) for each in contents.packages() for one in each.libraries}
    assert {"libgdal", "libgeos", "libproj"} <= libraries.keys()
    found = packages | libraries
    assert {name: licences for name, licences in found.items() if not licences <= PERMISSIVE | WEAK} == {}


@needs_tools
def test_what_is_not_known_is_named_and_not_left_out(contents: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    [jinja] = [each for each in contents.packages() if each.name == "jinja2"]
    monkeypatch.delitem(contents.SAID, "jinja2")
    with pytest.raises(contents.ContentsError, match=r"jinja2 says of its licence 'nothing'.*add it to SAID"):
        jinja.licence  # noqa: B018
    with pytest.raises(contents.ContentsError, match="libnew is new: find its licence"):
        contents.Library("new", "1").licence  # noqa: B018
    with pytest.raises(contents.ContentsError, match=r"numpy==1\.0 is pinned, and .* is installed here: make setup"):
        contents.Package(contents.Requirement("numpy==1.0"), ()).licence  # noqa: B018


@needs_tools
def test_every_licence_has_its_text(contents: ModuleType) -> None:
    """A package brings it, else it is in LICENSES, which has those of libraries under a weak licence too."""
    packages = contents.packages()
    assert [each.name for each in packages if not each.texts] == []
    for each in packages:
        site = each.installed.locate_file("")
        files = [(ROOT if path.startswith("LICENSES/") else site) / path for path in each.texts]
        assert sum(len(path.read_text(errors="replace")) for path in files) > 500, each.name
    libraries = {name for each in packages for one in each.libraries for name in keys(one.licence)}
    assert {f"{name}.txt" for name in libraries & WEAK} <= {path.name for path in (ROOT / "LICENSES").iterdir()}


# -- what a release says ----------------------------------------------------------------------------------------------


@needs_tools
def test_the_table_has_them_all(contents: ModuleType) -> None:
    table = run("contents.py", "licences").stdout
    for each in contents.packages():
        assert f"| {each.name} | {each.version} | {each.licence} | " in table
    assert "| libgeos | 3." in table


@needs_tools
def test_the_document_is_valid_and_complete(contents: ModuleType) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = run("contents.py", "sbom").stdout
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    document: dict[str, Any] = json.loads(text)
    purls = {each["purl"]: each for each in document["components"]}
    expected = {f"pkg:pypi/{each.name}@{each.version}": each for each in contents.packages()}
    assert expected.keys() < purls.keys()
    assert [purl.partition("@")[0] for purl in purls.keys() - expected.keys()] == ["pkg:pypi/geozarr-runner"]
    for purl, package in expected.items():
        assert purls[purl]["licenses"] == [{"expression": package.licence}]
        assert purls[purl]["externalReferences"][0]["hashes"]
        assert len(purls[purl].get("components", ())) == len(package.libraries)
    # Whatever is in it hangs on the image.
    edges = {each["ref"]: each.get("dependsOn", []) for each in document["dependencies"]}
    reached, waiting = set(), ["image"]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += edges.get(name, [])
    assert reached == {"image", *(each["bom-ref"] for each in document["components"])}


# -- what is known against it -----------------------------------------------------------------------------------------


def run(script: str, *arguments: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "scripts" / script, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=300, env={**os.environ, **environ}
    )


@needs_tools
def test_without_a_network_the_audit_says_so(tmp_path: Path) -> None:
    environ = dict.fromkeys(("HTTPS_PROXY", "https_proxy"), "http://127.0.0.1:9") | {"NO_PROXY": "", "no_proxy": ""}
    # pip-audit keeps answers where pip does; here nobody has asked yet.
    done = run("audit.py", ROOT / "requirements" / "build.txt", XDG_CACHE_HOME=str(tmp_path), **environ)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("audit: nothing was found out: ")


ANSWERS: Mapping[str, tuple[dict[str, Any], int, str]] = {
    "nothing known": ({"name": "a", "version": "2.0", "vulns": []}, 0, "nothing is known against 1 packages\n"),
    "something known": (
        {"name": "a", "version": "2.0", "vulns": [{"id": "P-1", "aliases": ["CVE-1"], "fix_versions": ["2.1"]}]},
        1,
        "a 2.0: P-1 (CVE-1); fixed in 2.1\n",
    ),
    "not to be mended yet": (
        {"name": "a", "version": "2.0", "vulns": [{"id": "P-1", "aliases": [], "fix_versions": []}]},
        1,
        "a 2.0: P-1; fixed in no version yet\n",
    ),
    "not known at all": ({"name": "a", "skip_reason": "not found"}, 2, ""),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_only_a_whole_answer_is_good_news(case: str, tmp_path: Path) -> None:
    """With a pip-audit of paper, which answers as the real one does."""
    answer, code, said = ANSWERS[case]
    (tmp_path / "pip_audit.py").write_text(f"print({json.dumps(json.dumps({'dependencies': [answer]}))})")
    (tmp_path / "pins.txt").write_text("a==2.0\n")
    done = run("audit.py", tmp_path / "pins.txt", PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (code, said)
    assert ("the service does not know 1 of 1: a" in done.stderr) == (code == 2)


def advisories(folder: Path, *, changed: str = "", **more: Any) -> Path:
    """Write a copy of the database that knows one thing: of a, from 1.0 on, which is mended in 2.1."""
    path = folder / "vulns" / "a" / "PYSEC-1.yaml"
    path.parent.mkdir(parents=True)
    events = [{"introduced": "1.0"}, {"fixed": "2.1"}]
    affected = {"package": {"name": "a", "ecosystem": "PyPI"}, "ranges": [{"type": "ECOSYSTEM", "events": events}]}
    document = {"id": "PYSEC-1", "aliases": ["CVE-1"], "affected": [affected], **more}
    day = changed or datetime.now(UTC).date().isoformat()
    path.write_text(f"{yaml.safe_dump(document)}modified: '{day}T00:00:00Z'\n")
    return folder


@pytest.mark.parametrize(
    ("version", "more", "code", "said"),
    [
        ("0.9", {}, 0, "nothing is known against 1 packages by a database that was last changed on "),
        ("2.0", {}, 1, "a 2.0: PYSEC-1 (CVE-1); fixed in 2.1\n"),
        ("2.1", {}, 0, "nothing is known"),
        ("2.0", {"withdrawn": "2025-01-01T00:00:00Z"}, 0, "nothing is known"),
        ("2.1", {"changed": "2024-01-31"}, 2, ""),
        ("2.0", {"changed": "2024-01-31"}, 1, "a 2.0: PYSEC-1"),
    ],
)
def test_a_copy_of_the_database_is_asked_and_says_how_old_it_is(
    version: str, more: dict[str, str], code: int, said: str, tmp_path: Path
) -> None:
    folder = advisories(tmp_path / "copy", **more)
    (tmp_path / "pins.txt").write_text(f"A[extra]=={version} \\\n    --hash=sha256:00\n# b==1.0\n")
    done = run("audit.py", "--advisories", folder, tmp_path / "pins.txt")
    assert (done.returncode, done.stdout[: len(said)]) == (code, said)
    if "changed" in more:
        assert "that was last changed on 2024-01-31, " in done.stderr


def test_a_folder_that_is_no_database_is_no_good_news(tmp_path: Path) -> None:
    done = run("audit.py", "--advisories", tmp_path)
    assert done.returncode == 2
    assert "is no copy of the database" in done.stderr

"""What the image holds is known: its licences with their texts, and a document that other tools read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from types import ModuleType
from typing import Any

import pytest
import yaml
from packaging.utils import canonicalize_name

from tests.unit.test_image import pins

ROOT = Path(__file__).parents[2]
TEXTS = ROOT / "LICENSES"
NEEDED = ("cyclonedx", "license_expression", "pip_audit")
# What may be in the image. Of the weak ones, only where the whole of it is theirs: a package, a shared library.
PERMISSIVE = {
    *(
        "0BSD",
        "Apache-2.0",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "CC0-1.0",
        "HDF5",
        "IJG",
        "MIT",
        "NetCDF",
        "PSF-2.0",
        "Zlib",
    ),
    *("PCRE2-exception", "blessing", "curl", "libpng-2.0", "libtiff"),
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
def test_every_package_has_a_licence_that_may_be_in_the_image(contents: ModuleType) -> None:
    found = {each.name: keys(each.licence) for each in contents.packages()}
    assert found.keys() < {canonicalize_name(name) for name in pins("runner")}, "all but what is for other systems"
    assert len(found) > 70
    assert {name: licences for name, licences in found.items() if not licences <= PERMISSIVE | WEAK} == {}


@needs_tools
def test_every_library_inside_a_wheel_has_one_too(contents: ModuleType) -> None:
    found = {one.name: keys(one.licence) for each in contents.packages() for one in each.libraries}
    assert {"gdal", "geos", "proj"} <= found.keys()
    assert {name: licences for name, licences in found.items() if not licences <= PERMISSIVE | WEAK} == {}
    assert found.keys() == contents.LIBRARIES.keys(), "a library that is gone needs no entry"


@needs_tools
def test_every_licence_has_its_text(contents: ModuleType) -> None:
    """A package brings it, else it is in LICENSES; and there is nothing that nobody needs."""
    packages = contents.packages()
    assert [each.name for each in packages if not each.texts] == []
    for each in packages:
        ours = [path.startswith("LICENSES/") for path in each.texts]
        files = [
            ROOT / path if own else each.installed.locate_file(path) for path, own in zip(each.texts, ours, strict=True)
        ]
        assert sum(len(Path(str(path)).read_text(errors="replace")) for path in files) > 500, each.name
    libraries = {name for each in packages for one in each.libraries for name in keys(one.licence)}
    needed = {f"{name}.txt" for name in libraries & WEAK}
    needed |= {Path(path).name for each in packages for path in each.texts if path.startswith("LICENSES/")}
    assert {path.name for path in TEXTS.iterdir()} == needed


@needs_tools
def test_what_says_nothing_of_its_licence_is_named(contents: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    [jinja] = [each for each in contents.packages() if each.name == "jinja2"]
    monkeypatch.delitem(contents.SAID, "jinja2")
    with pytest.raises(contents.ContentsError, match=r"jinja2 says of its licence 'nothing'.*add it to SAID"):
        jinja.licence  # noqa: B018
    with pytest.raises(contents.ContentsError, match="libnew is new: find its licence"):
        contents.Library("new", "1").licence  # noqa: B018


@needs_tools
def test_another_version_than_the_pinned_one_is_not_described(contents: ModuleType) -> None:
    with pytest.raises(contents.ContentsError, match=r"numpy==1\.0 is pinned, and .* is installed here: make setup"):
        contents.Package(contents.Requirement("numpy==1.0"), ()).licence  # noqa: B018


@needs_tools
def test_the_table_has_them_all(contents: ModuleType) -> None:
    table = run("contents.py", "licences").stdout
    for each in contents.packages():
        assert f"| {each.name} | {each.version} | {each.licence} | " in table
    assert "| libgeos | 3." in table
    assert "| none |" not in table


# -- the document -----------------------------------------------------------------------------------------------------


@needs_tools
def test_the_document_is_valid_and_complete(contents: ModuleType) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = run("contents.py", "sbom").stdout
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    document: dict[str, Any] = json.loads(text)
    components = {each["name"]: each for each in document["components"]}
    expected = {each.name: each.version for each in contents.packages()}
    runner = components.pop("geozarr-runner")
    assert {name: each["version"] for name, each in components.items()} == expected
    assert runner["type"] == "application"
    assert components["rasterio"]["purl"] == f"pkg:pypi/rasterio@{expected['rasterio']}"
    assert "libgdal" in {each["name"] for each in components["rasterio"]["components"]}
    assert all(each["externalReferences"][0]["hashes"] and each["licenses"] for each in components.values())


@needs_tools
def test_everything_in_it_is_there_for_a_reason() -> None:
    document = json.loads(run("contents.py", "sbom").stdout)
    edges = {each["ref"]: each.get("dependsOn", []) for each in document["dependencies"]}
    reached, waiting = set(), ["image"]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += edges.get(name, [])
    assert reached == {"image", *(each["bom-ref"] for each in document["components"])}


@needs_tools
def test_the_same_pins_give_the_same_document() -> None:
    assert run("contents.py", "sbom").stdout == run("contents.py", "sbom").stdout
    dated = run("contents.py", "sbom", SOURCE_DATE_EPOCH="1700000000").stdout
    assert json.loads(dated)["metadata"]["timestamp"].startswith("2023-11-14T22:13:20")


def test_an_unknown_word_is_refused() -> None:
    done = run("contents.py", "licenses")
    assert done.returncode == 2
    assert done.stderr == "licenses: choose of licences, sbom\n"


# -- what is known against it -----------------------------------------------------------------------------------------


class ClosedProxy(ThreadingHTTPServer):
    """Refuses every connection that is asked of it, as a closed network does."""

    def __init__(self) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_CONNECT(self) -> None:
                self.send_error(403, "closed")

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)


@pytest.fixture
def closed_proxy() -> Iterator[str]:
    with ClosedProxy() as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def run(script: str, *arguments: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "scripts" / script, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=300, env={**os.environ, **environ}
    )


@needs_tools
@pytest.mark.parametrize("how", ["no answer", "refused"])
def test_without_a_network_the_audit_says_so(how: str, closed_proxy: str, tmp_path: Path) -> None:
    proxy = "http://127.0.0.1:9" if how == "no answer" else closed_proxy
    environ = dict.fromkeys(("HTTPS_PROXY", "https_proxy"), proxy) | {"NO_PROXY": "", "no_proxy": ""}
    # pip-audit keeps answers where pip does; here nobody has asked yet.
    done = run("audit.py", ROOT / "requirements" / "build.txt", XDG_CACHE_HOME=str(tmp_path), **environ)
    assert done.returncode == 2
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("audit: nothing was found out: ")
    assert line.endswith("try again where pypi.org answers, or behind a proxy with HTTPS_PROXY")


def test_a_file_that_is_not_there_is_named() -> None:
    done = run("audit.py", "none.txt")
    assert (done.returncode, done.stderr) == (2, "audit: there is no file none.txt\n")


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


def test_make_writes_both_beside_the_rest_of_a_release() -> None:
    make = ["make", "--no-print-directory", "--dry-run", "--assume-old=supply", "licences", "sbom", "audit"]
    said = subprocess.run(make, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for recipe in ("contents.py licences >dist/licences.md", "contents.py sbom >dist/sbom.json", "scripts/audit.py"):
        assert recipe in said

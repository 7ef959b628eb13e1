"""Ask whether something is known against what we pin: `python scripts/audit.py [REQUIREMENTS...]`, by default all.

Ends with 0 when nothing is, 1 when something is, 2 when that could not be found out: a package that the service does
not know, a service that does not answer, or a database of long ago is no good news.

Where the service cannot be reached, `--advisories FOLDER` asks a copy of the same database instead: a clone of
https://github.com/pypa/advisory-database, which the service is made of.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
# Pins are complete and have hashes: nothing is resolved, and no pip is asked.
COMMAND = (sys.executable, "-m", "pip_audit", "--no-deps", "--disable-pip", "--progress-spinner=off", "--format=json")
REMEDY = (
    "name a clone of https://github.com/pypa/advisory-database with make audit ADVISORIES=FOLDER, or "
    "try again where pypi.org answers, or behind a proxy with HTTPS_PROXY"
)
DAYS_OF_GOOD_NEWS = 30
_PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;\\]+)", re.MULTILINE)
_CHANGED = re.compile(r"^(?:modified|published): ['\"]?(\d{4}-\d\d-\d\d)", re.MULTILINE)


def audit(files: Sequence[Path]) -> int:
    """Print what is known; returns the exit code."""
    given = [f"--requirement={path}" for path in files]
    done = subprocess.run([*COMMAND, *given], capture_output=True, text=True, check=False)
    try:
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except ValueError:
        lines = done.stderr.strip().splitlines() or [f"pip-audit ended with exit code {done.returncode}"]
        print(f"audit: nothing was found out: {lines[-1]}: {REMEDY}", file=sys.stderr)
        return 2
    known = [(each, one) for each in found for one in each.get("vulns", ())]
    for each, one in known:
        _print_known(each["name"], each["version"], one)
    unknown = sorted({each["name"] for each in found if "skip_reason" in each})
    if unknown:
        shown = ", ".join(unknown[:3]) + (f" and {len(unknown) - 3} more" if len(unknown) > 3 else "")
        print(f"audit: the service does not know {len(unknown)} of {len(found)}: {shown}: {REMEDY}", file=sys.stderr)
    if known:
        return 1
    if unknown or not found:
        return 2
    print(f"nothing is known against {len(found)} packages")
    return 0


def _print_known(name: str, version: str, one: Mapping[str, Any]) -> None:
    fixed = ", ".join(one["fix_versions"]) or "no version yet"
    aliases = f" ({', '.join(one['aliases'])})" if one["aliases"] else ""
    print(f"{name} {version}: {one['id']}{aliases}; fixed in {fixed}")


def audit_offline(files: Sequence[Path], advisories: Path) -> int:
    """Print what a copy of the database knows, and of when it is; returns the exit code."""
    documents = sorted((advisories / "vulns").glob("*/*.yaml"))
    days = [found for path in documents for found in _CHANGED.findall(path.read_text(encoding="utf-8"))]
    if not days:
        print(f"audit: {advisories} is no copy of the database: {REMEDY}", file=sys.stderr)
        return 2
    pins = {
        (re.sub(r"[-_.]+", "-", name).lower(), version)
        for path in files
        for name, version in _PIN.findall(path.read_text(encoding="utf-8"))
    }
    known = [(name, version, one) for name, version in sorted(pins) for one in _known(advisories, name, version)]
    for name, version, one in known:
        _print_known(name, version, one)
    newest = date.fromisoformat(max(days))
    age = (datetime.now(UTC).date() - newest).days
    told = f"by a database that was last changed on {newest}, {age} days ago"
    if known:
        print(f"audit: asked of {len(pins)} packages {told}", file=sys.stderr)
        return 1
    if age > DAYS_OF_GOOD_NEWS or not pins:
        print(f"audit: nothing is known against {len(pins)} packages {told}: bring it up to date", file=sys.stderr)
        return 2
    print(f"nothing is known against {len(pins)} packages {told}")
    return 0


def _known(advisories: Path, name: str, version: str) -> Iterator[dict[str, Any]]:
    """Yield what is known against one version of a package, in the words of pip-audit."""
    import yaml

    for path in sorted((advisories / "vulns" / name).glob("*.yaml")):
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        affected = [each for each in document["affected"] if each["package"]["ecosystem"] == "PyPI"]
        if "withdrawn" not in document and any(_is_affected(each, version) for each in affected):
            events = [event for each in affected for span in each.get("ranges", ()) for event in span["events"]]
            fixed = sorted({str(event["fixed"]) for event in events if "fixed" in event})
            yield {"id": document["id"], "aliases": document.get("aliases", []), "fix_versions": fixed}


def _is_affected(affected: Mapping[str, Any], version: str) -> bool:
    from packaging.version import Version

    if version in map(str, affected.get("versions", ())):
        return True
    this = Version(version)
    for span in affected.get("ranges", ()):
        if span["type"] != "ECOSYSTEM":
            continue
        inside = False
        for event in span["events"]:
            if "introduced" in event and this >= Version(str(event["introduced"])):
                inside = True
            if "fixed" in event and this >= Version(str(event["fixed"])):
                inside = False
            if "last_affected" in event and this > Version(str(event["last_affected"])):
                inside = False
        if inside:
            return True
    return False


def main(arguments: list[str]) -> int:
    """Audit the files that are named, or all of ours."""
    parser = argparse.ArgumentParser(description="say what is known against what is pinned")
    parser.add_argument("files", nargs="*", type=Path, metavar="REQUIREMENTS")
    parser.add_argument("--advisories", type=Path, metavar="FOLDER", help="ask a copy of the database, not the service")
    options = parser.parse_args(arguments)
    files = options.files or sorted((ROOT / "requirements").glob("*.txt"))
    if missing := [str(path) for path in files if not path.is_file()]:
        print(f"audit: there is no file {', '.join(missing)}", file=sys.stderr)
        return 2
    return audit(files) if options.advisories is None else audit_offline(files, options.advisories)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

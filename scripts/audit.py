"""Ask whether something is known against what we pin: `python scripts/audit.py [REQUIREMENTS...]`, by default all.

Ends with 0 when nothing is, 1 when something is, 2 when that could not be found out: a package that the service does
not know, or a service that does not answer, is no good news.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
# Pins are complete and have hashes: nothing is resolved, and no pip is asked.
COMMAND = (sys.executable, "-m", "pip_audit", "--no-deps", "--disable-pip", "--progress-spinner=off", "--format=json")
REMEDY = "try again where pypi.org answers, or behind a proxy with HTTPS_PROXY"


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
        fixed = ", ".join(one["fix_versions"]) or "no version yet"
        aliases = f" ({', '.join(one['aliases'])})" if one["aliases"] else ""
        print(f"{each['name']} {each['version']}: {one['id']}{aliases}; fixed in {fixed}")
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


def main(arguments: list[str]) -> int:
    """Audit the files that are named, or all of ours."""
    files = [Path(each) for each in arguments] or sorted((ROOT / "requirements").glob("*.txt"))
    if missing := [str(path) for path in files if not path.is_file()]:
        print(f"audit: there is no file {', '.join(missing)}", file=sys.stderr)
        return 2
    return audit(files)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

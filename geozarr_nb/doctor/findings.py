"""What checks found, and how it is shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from geozarr_runner.text import html
from geozarr_runner.text.printable import printable

Verdict = Literal["ok", "warning", "problem"]
MARKS: Mapping[Verdict, str] = {"ok": "ok", "warning": "!", "problem": "X"}


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Attributes
    ----------
    verdict
        "problem" keeps a conversion from running, "warning" may.
    found
        What there is.
    why
        Why it matters.
    remedy
        What to type or to do; empty where all is well.
    """

    name: str
    verdict: Verdict
    found: str
    why: str
    remedy: str = ""


@dataclass(frozen=True, repr=False)
class Diagnosis:
    """Everything that was checked."""

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """True when nothing keeps a conversion from running."""
        return not self.problems

    @property
    def problems(self) -> tuple[Finding, ...]:
        """What keeps a conversion from running."""
        return tuple(finding for finding in self.findings if finding.verdict == "problem")

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {"ok": self.ok, "findings": [asdict(finding) for finding in self.findings]}

    def __repr__(self) -> str:
        """Return a line for each check, and what to do below those that found something."""
        width = max((len(finding.name) for finding in self.findings), default=0)
        lines = []
        for finding in self.findings:
            lines.append(f"{MARKS[finding.verdict]:>2}  {finding.name:<{width}}  {printable(finding.found)}")
            if finding.verdict != "ok":
                said = (finding.why, f"remedy: {finding.remedy}")
                lines += [f"{'':{width + 6}}{printable(each)}" for each in said]
        return "\n".join([*lines, self._summary()])

    def _repr_html_(self) -> str:
        rows = [
            (MARKS[each.verdict], each.name, each.found, "" if each.verdict == "ok" else each.why, each.remedy)
            for each in self.findings
        ]
        return html.block(self._summary(), html.table(("", "check", "found", "why it matters", "remedy"), rows))

    def _summary(self) -> str:
        warnings = sum(finding.verdict == "warning" for finding in self.findings)
        if self.problems:
            return f"{len(self.problems)} of {len(self.findings)} checks found a problem, {warnings} a warning"
        return "ready to convert" + (f", with {warnings} warning{'s' * (warnings > 1)}" if warnings else "")

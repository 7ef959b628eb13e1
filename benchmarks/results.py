"""The figures of a benchmark run: kept as JSON beside this file, shown as text and as Markdown."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import psutil
from rich.table import Table

type Unit = Literal["s", "bytes", "count", "names"]


@dataclass(frozen=True)
class Goal:
    """Bounds, both included, of a row's own value or of its ratio to the reference."""

    of: Literal["value", "ratio"]
    high: float
    low: float = 0.0

    def __str__(self) -> str:
        bounds = f"≤ {self.high:.4g}" if self.low == 0 else f"{self.low:.4g} to {self.high:.4g}"
        return f"{self.of} {bounds}"


@dataclass(frozen=True)
class Row:
    """One figure of a case.

    Attributes
    ----------
    figure
        What was measured.
    unit
        Of both values; `names` is for a list, of which `note` has the text.
    value
        Ours.
    reference
        What it is compared with; None if there is nothing to compare with.
    goal
        What it should be; None if it is only to be known.
    note
        Words beside the figure.
    """

    figure: str
    unit: Unit
    value: float
    reference: float | None = None
    goal: Goal | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Ours to the reference; None where there is none, or it is zero."""
        return self.value / self.reference if self.reference else None

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None without one."""
        if self.goal is None:
            return None
        figure = self.value if self.goal.of == "value" else self.ratio
        return figure is not None and self.goal.low <= figure <= self.goal.high


@dataclass(frozen=True)
class Result:
    """One case, measured.

    Attributes
    ----------
    name
        As `run.py --only` takes it.
    title
        One line that says what was compared.
    columns
        Headings of the value and of the reference.
    rows
        The figures.
    runs
        How many runs the figures are the median of.
    machine
        Where: processors and memory.
    """

    name: str
    title: str
    columns: tuple[str, str]
    rows: list[Row]
    runs: int
    machine: str = field(default_factory=lambda: machine())

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Result:
        """Return what `dataclasses.asdict` took apart."""
        rows = [Row(**{**row, "goal": Goal(**row["goal"]) if row["goal"] else None}) for row in fields["rows"]]
        return cls(**{**fields, "columns": tuple(fields["columns"]), "rows": rows})


def machine() -> str:
    """Describe this machine by what a figure depends on most."""
    return f"{os.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB of memory"


def load(path: Path) -> dict[str, Result]:
    """Return the results kept at `path` by name; none if there is no such file."""
    if not path.exists():
        return {}
    return {fields["name"]: Result.from_json(fields) for fields in json.loads(path.read_text())}


def save(path: Path, results: Iterable[Result]) -> None:
    """Keep results at `path`."""
    path.write_text(json.dumps([asdict(result) for result in results], indent=1, ensure_ascii=False) + "\n")


def shown(value: float | None, unit: Unit) -> str:
    """Return a value as a person reads it."""
    if value is None:
        return ""
    match unit:
        case "s":
            return f"{value:.3f} s" if value < 1 else f"{value:.1f} s"
        case "bytes":
            return f"{value / 1e6:,.1f} MB"
        case "count" | "names":
            return f"{value:,.0f}"


def _cells(row: Row) -> list[str]:
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
    met = {None: "", True: ": met", False: ": MISSED"}[row.met]
    goal = f"{row.goal}{met}" if row.goal else ""
    if row.goal and row.goal.of == "value":
        bounds = shown(row.goal.high, row.unit)
        goal = f"≤ {bounds}{met}"
    figure = f"{row.figure} ({row.note})" if row.note else row.figure
    return [figure, shown(row.value, row.unit), shown(row.reference, row.unit), ratio, goal]


def _headings(result: Result) -> list[str]:
    return ["", *result.columns, "ratio", "goal"]


def as_table(result: Result) -> Table:
    """Return a result as a table for a terminal."""
    table = Table(title=f"{result.name}: {result.title}", title_justify="left")
    for number, heading in enumerate(_headings(result)):
        table.add_column(heading, justify="left" if number in {0, 4} else "right")
    for row in result.rows:
        table.add_row(*_cells(row), style="red" if row.met is False else None)
    return table


def as_markdown(results: Iterable[Result]) -> str:
    """Return results as a page."""
    lines = [
        "# Benchmarks",
        "",
        f"Medians, against eopf-geozarr {version('eopf-geozarr')}. Where two commands are compared they ran in turns",
        "on the same machine; the ratio is the first column to the second. Peak memory is the largest resident set of",
        "the command's process tree.",
        "",
        "Run them again with `make bench`; one of them with `.venv/bin/python benchmarks/run.py --only NAME`, the slow",
        "ones too with `--all`. A case that is not run keeps the figures of its last run. What was tried, also what",
        "did not help, and what is left between these figures and the codec's limit:",
        "[README.md](README.md#what-was-tried).",
    ]
    for result in results:
        runs = "1 run" if result.runs == 1 else f"{result.runs} runs"
        lines += ["", f"## {result.name}", "", f"{result.title} ({runs}; {result.machine})", ""]
        lines += ["| " + " | ".join(_headings(result)) + " |", "| --- | ---: | ---: | ---: | --- |"]
        lines += ["| " + " | ".join(_cells(row)) + " |" for row in result.rows]
    return "\n".join(lines) + "\n"

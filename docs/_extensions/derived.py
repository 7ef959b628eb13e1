"""What the pages take from elsewhere in the repository, so that they cannot say anything else than it does.

`.. error-codes::` lists every error with its code, exit code and meaning, `.. exit-codes::` what a run ends with,
`.. job-costs::` what jobs took in the benchmarks, `.. conversion-options::` every option of a conversion and its job,
`.. conversion-kinds::` what becomes of each kind of product,
`.. settings::` every setting.
The tutorials are copied to where Sphinx looks for pages; their pictures are where they lie from there.
"""

from __future__ import annotations

import inspect
import json
import shutil
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import geozarr_nb.errors
from geozarr_nb.pods import JOB_ARGUMENTS
from geozarr_nb.settings import SETTINGS
from geozarr_runner.errors import ExitCode, GeozarrError
from geozarr_runner.kinds.profiles import outcomes
from geozarr_runner.spec.options import RESULT


def errors() -> list[type[GeozarrError]]:
    """Return every class of error, as they are public, the most general first."""
    public = [getattr(geozarr_nb.errors, name) for name in geozarr_nb.errors.__all__]
    classes = [thing for thing in public if isinstance(thing, type) and issubclass(thing, GeozarrError)]
    return sorted(classes, key=lambda error: (error.exit_code, len(error.__mro__), error.code))


class Table(SphinxDirective):
    """A table whose cells are text, or lists of words of code."""

    head: ClassVar[tuple[str, ...]]

    def rows(self) -> list[tuple[Any, ...]]:
        """Return the cells, row by row."""
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        group = nodes.tgroup("", *(nodes.colspec(colwidth=1) for _ in self.head), cols=len(self.head))
        group += nodes.thead("", row(self.head))
        group += nodes.tbody("", *map(row, self.rows()))
        return [nodes.table("", group)]


def row(cells: tuple[Any, ...]) -> nodes.row:
    """Return one row of a table."""
    return nodes.row("", *(nodes.entry("", paragraph(cell)) for cell in cells))


def paragraph(cell: str | list[str]) -> nodes.paragraph:
    """Return one cell: a sentence with code in single backticks, or words of code."""
    parts = cell.split("`") if isinstance(cell, str) else [part for word in cell for part in (", ", word)][1:]
    found = nodes.paragraph()
    code = isinstance(cell, list)
    for part in parts:
        found += nodes.literal("", part) if code else nodes.Text(part)
        code = not code
    return found


class ErrorCodes(Table):
    """Every error: its code, its class, what a run ends with, whether trying again may help, and when it is raised."""

    head = ("code", "class", "exit code", "retry", "when")

    def rows(self) -> list[tuple[Any, ...]]:
        """Return a row for each class."""
        return [
            (
                [error.code],
                [error.__name__],
                str(int(error.exit_code)),
                "yes" if error.retryable else "no",
                " ".join((inspect.getdoc(error) or "").partition("\n\n")[0].split()),
            )
            for error in errors()
        ]


class ExitCodes(Table):
    """Every exit code, and the codes of the errors that end so."""

    head = ("exit code", "name", "errors")

    def rows(self) -> list[tuple[Any, ...]]:
        """Return a row for each exit code."""
        codes = defaultdict(list)
        for error in errors():
            codes[error.exit_code].append(error.code)
        return [(str(int(code)), [code.name], codes[code] or "") for code in ExitCode]


class ConversionOptions(Table):
    """Every option of a conversion and of its job, as the package declares it."""

    head = ("option", "shell", "default", "part of the result", "meaning")

    def rows(self) -> list[tuple[Any, ...]]:
        """Return a row for each option."""
        found = []
        for name, option in JOB_ARGUMENTS.items():
            default = "the settings'" if option.default is None else [repr(option.default)]
            meaning = " ".join(filter(None, (f"{option.help[0].upper()}{option.help[1:]}.", option.more)))
            is_result = "yes" if name in RESULT or name == "groups" else "no"
            found.append(([name], [option.spelled], default, is_result, meaning))
        return found


class ConversionKinds(Table):
    """Every kind of product, and what becomes of it in each format of Zarr."""

    head = ("kind", "Zarr v2", "Zarr v3")

    def rows(self) -> list[tuple[Any, ...]]:
        """Return a row for each kind."""
        return [(kind, first, "the same" if second == first else second) for kind, first, second in outcomes()]


class SettingsTable(Table):
    """Every setting, as the package declares it."""

    head = ("name", "environment", "default", "meaning")

    def rows(self) -> list[tuple[Any, ...]]:
        """Return a row for each setting."""
        return [([name], [one.variable], one.default, one.help) for name, one in SETTINGS.items()]


class JobCosts(Table):
    """What a job takes, for each kind of product, as it was measured; what was not is left out."""

    head = ("product", "read", "written", "peak memory", "processor", "time")
    figures = ("downloaded", "written", "peak memory", "processor time", "wall time")
    # Each by the benchmark of its kind, else by another that has most of its figures.
    kinds: ClassVar[Mapping[str, tuple[tuple[str, str], ...]]] = {
        "Sentinel-2 L2A, group `/measurements/reflectance/r20m`": (
            ("cost-s2-l2a", "`/measurements/reflectance/r20m`: "),
            ("http", ""),
        ),
        "Sentinel-2 L2A, whole tile": (("cost-s2-l2a", "whole: "), ("http-whole", "")),
        "Sentinel-1 GRD, whole scene": (("cost-s1-grd", "whole: "),),
        "Sentinel-3 OLCI, whole frame": (("cost-s3-olci", "whole: "),),
    }

    def rows(self) -> list[tuple[Any, ...]]:
        """Return a row for each choice that was measured."""
        path = Path(self.env.srcdir).parent / "benchmarks" / "results.json"
        self.env.note_dependency(path)
        results = {result["name"]: result["rows"] for result in json.loads(path.read_text())}
        found = []
        for kind, sources in self.kinds.items():
            case, prefix = next(((case, prefix) for case, prefix in sources if case in results), ("", ""))
            if case:
                values = {row["figure"]: shown(row["value"], row["unit"]) for row in results[case]}
                found.append((kind, *(values.get(f"{prefix}{figure}", "") for figure in self.figures)))
        return found


def shown(value: float, unit: str) -> str:
    """Return a figure as a person plans with it: two digits are enough."""
    if unit == "s":
        return f"{value:.0f} s"
    return f"{value / 1e9:.1f} GB" if value >= 1e9 else f"{value / 1e6:.0f} MB"


def copy_tutorials(app: Sphinx) -> None:
    """Have the folder `tutorials` hold the repository's notebooks, and no others; git passes over it."""
    folder = Path(app.srcdir, "tutorials")
    folder.mkdir(exist_ok=True)
    notebooks = {path.name: path for path in Path(app.srcdir).parent.glob("notebooks/*.ipynb")}
    for old in folder.iterdir():
        if old.name not in notebooks:
            old.unlink()
    for name, notebook in notebooks.items():
        page = folder / name
        page.write_text(notebook.read_text().replace("](../docs/", "](../"))
        shutil.copystat(notebook, page)  # with its time: a page of an unchanged notebook is not built again


def setup(app: Sphinx) -> dict[str, Any]:
    """Make the directives known to Sphinx."""
    app.connect("builder-inited", copy_tutorials)
    app.add_directive("error-codes", ErrorCodes)
    app.add_directive("exit-codes", ExitCodes)
    app.add_directive("job-costs", JobCosts)
    app.add_directive("conversion-options", ConversionOptions)
    app.add_directive("conversion-kinds", ConversionKinds)
    app.add_directive("settings", SettingsTable)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

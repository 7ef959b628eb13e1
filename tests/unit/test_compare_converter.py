"""What another release of the converter changes is told: options that we pass and that it lacks, and all others."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from geozarr_runner.inspection.reader import open_product

ROOT = Path(__file__).parents[2]
# As argparse writes it: a sentence mentions an option that another command has, and one line is too long.
HELP = """usage: eopf-geozarr convert [-h] [--groups GROUPS [GROUPS ...]]
                            [--verbose]

Pass --no-such-option to another command.

options:
  -h, --help            show this help message and exit
  --groups GROUPS [GROUPS ...]
                        Groups to convert; see --mentioned
  -v, --verbose         say more
                        --not-one of its own
"""


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    sys.path.insert(0, str(ROOT / "scripts"))
    import compare_converter

    yield compare_converter
    sys.path.remove(str(ROOT / "scripts"))


def test_options_are_read_of_the_help(script: ModuleType) -> None:
    assert script.options_of(HELP) == {"--help", "--groups", "--verbose"}
    assert script.commands_of("usage: eopf-geozarr [-h]\n    {convert,convert-s2-optimized,info} ...") == {
        "convert",
        "convert-s2-optimized",
        "info",
    }


def test_each_difference_has_a_row(script: ModuleType) -> None:
    used = {"convert": frozenset({"--groups", "--gone"}), "convert-s3": frozenset({"--verbose"})}
    tested = {"convert": frozenset({"--groups", "--gone", "--old"}), "convert-s3": frozenset({"--verbose"})}
    tested["info"] = frozenset()
    other = {"convert": frozenset({"--groups", "--new"}), "validate": frozenset()}
    rows = {row.subject: row for row in script.compared(used, tested, other)}
    verdicts = {subject: row.verdict for subject, row in rows.items()}
    assert verdicts == {
        "options that we pass": script.BREAKS,
        "convert --gone": script.BREAKS,
        "convert --old": "not passed by us",
        "convert --new": script.LOOK,
        "command convert-s3": script.BREAKS,
        "command info": "not passed by us",
        "command validate": script.LOOK,
    }
    assert (rows["options that we pass"].tested, rows["options that we pass"].other) == ("3", "1 are there")


def test_the_same_release_has_one_row_and_nothing_breaks(script: ModuleType) -> None:
    used = {"convert": frozenset({"--groups"})}
    both = {"convert": frozenset({"--groups", "--help"}), "info": frozenset()}
    [row] = script.compared(used, both, both)
    assert row.verdict == script.SAME


def test_the_options_that_we_pass_are_those_of_the_declaration(script: ModuleType, sample: Path) -> None:
    from geozarr_runner.spec.options import OPTIONS

    used = script.changed_options([open_product(str(sample))])
    assert used.keys() == {"convert", "convert-s2-optimized"}
    assert {one.converter for one in OPTIONS.values() if one.converter} <= used["convert"]
    assert {"--groups", "--no-s2-optimized", "--enable-sharding"} <= used["convert"]
    assert "--keep-scale-offset" in used["convert-s2-optimized"]
    assert "--max-retries" not in used["convert-s2-optimized"], "which this command does not have"


def test_a_table_has_columns_of_one_width(script: ModuleType) -> None:
    rows = [script.Row("a", "b", "c", "d"), script.Row("a long subject", "there", "not there", script.BREAKS)]
    lines = script.table(rows, "9.9.9").splitlines()
    assert "eopf-geozarr 9.9.9" in lines[0]
    assert len({line.index(text) for line, text in zip(lines[1:], ("b", "there"), strict=True)}) == 1


def test_an_untested_release_is_said_to_be_refused(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = tmp_path / "eopf-geozarr"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    assert script.said_of(command).verdict == script.SAME
    monkeypatch.setattr("geozarr_runner.converter.command.releases_of", lambda _: {"eopf-geozarr": "0.11.1"})
    assert script.said_of(command).other == "refused as untested"
    assert script.said_of(tmp_path / "none").other.endswith("there is no such file")

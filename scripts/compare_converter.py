"""What another release of the converter changes for this project, as a table: `make converter VERSION=0.11.1`.

    python scripts/compare_converter.py VERSION FOLDER

The release is installed into FOLDER, an environment of its own. Its command line is compared with the one that this
environment has; the tests of the converter's layout run with it; small products are converted and verified with it.
A release that was not tested with this project is refused as a converter: that is said, and the trials go on with a
script that runs it and does not tell its release.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from geozarr_nb.samples.products import sample_product
from geozarr_runner.converter.command import COMMAND, FIRST_BROKEN_XARRAY, TESTED, find_converter
from geozarr_runner.converter.processes import build_argv
from geozarr_runner.errors import ConverterMissing
from geozarr_runner.inspection.reader import open_product
from geozarr_runner.kinds.profiles import profile_of
from geozarr_runner.planning.memory import memory_needed
from geozarr_runner.product.model import Product
from geozarr_runner.spec.options import OPTIONS, RESULT, Option, resolved

ROOT = Path(__file__).parents[1]
R10M = "/measurements/reflectance/r10m"
# Tests that compare what a converter writes with what `kinds/` says that it will write. Those of the generic layout
# use a group of Sentinel-2; another product would have to be converted for the same.
TESTS = (
    "runner/tests/test_run.py::test_the_layout_was_known_beforehand",
    "runner/tests/test_run.py::test_the_estimate_comes_near",
    "runner/tests/test_chunks.py::test_chunks_are_small_and_lie_in_shards",
    "runner/tests/test_chunks.py::test_what_will_be_written_is_known",
)
SAMPLES = {"s2-l2a": 360, "s1-grd": 300, "s3-olci": 240}
SAME, LOOK, BREAKS = "as before", "look at it", "BREAKS"

type CommandLine = Mapping[str, frozenset[str]]
"""The options of each command."""


@dataclass(frozen=True)
class Row:
    """One thing that was compared."""

    subject: str
    tested: str
    other: str
    verdict: str


@dataclass(frozen=True)
class Trial:
    """A conversion to try: the kind of a sample, and what `geozarr-runner convert` is told."""

    name: str
    kind: str
    groups: tuple[str, ...] = ()
    words: tuple[str, ...] = ()


TRIALS = (
    Trial("Sentinel-2, one group", "s2-l2a", (R10M,)),
    Trial("Sentinel-2, one group, --chunks web", "s2-l2a", (R10M,), ("--chunks", "web")),
    Trial("Sentinel-2, the whole product", "s2-l2a"),
    Trial("Sentinel-2, the whole product, --packed", "s2-l2a", (), ("--packed",)),
    Trial("Sentinel-1 GRD", "s1-grd", ("/measurements",)),
    Trial("Sentinel-3 OLCI, the whole product", "s3-olci"),
)


# --- comparing -------------------------------------------------------------------------------------------------------


def commands_of(text: str) -> frozenset[str]:
    """Return the commands that a program's help lists."""
    found = re.search(r"\{([a-z0-9_,-]+)\}", text)
    return frozenset(found[1].split(",")) if found else frozenset()


def options_of(text: str) -> frozenset[str]:
    """Return the options that a command's help lists; those that its sentences only mention are not among them."""
    # "  -v, --verbose  what it does": the option stands before the two blanks.
    heads = [re.split(r"\s{2,}", line.strip())[0] for line in text.splitlines() if re.match(r" {1,4}-", line)]
    return frozenset(option for head in heads for option in re.findall(r"(?<!\S)--[a-z0-9][a-z0-9-]*", head))


def compared(used: CommandLine, tested: CommandLine, other: CommandLine) -> list[Row]:
    """Return what differs between the command lines of two releases.

    Parameters
    ----------
    used
        The commands and options that this project passes.
    tested, other
        Those of the two releases; the options are known of the commands in `used` only.
    """
    rows = []
    for command in sorted(used):
        if command not in other:
            rows.append(Row(f"command {command}", "passed by us", "not there", BREAKS))
            continue
        before, now = tested.get(command, frozenset()), other[command]
        for option in sorted(before | now | used[command]):
            subject = f"{command} {option}"
            if option in used[command] and option not in now:
                rows.append(Row(subject, "passed by us", "not there", BREAKS))
            elif option in before and option not in now:
                rows.append(Row(subject, "there", "not there", "not passed by us"))
            elif option in now and option not in before:
                rows.append(Row(subject, "not there", "there", LOOK))
    for command in sorted((tested.keys() ^ other.keys()) - used.keys()):
        there, gone = ("there", "not there") if command in tested else ("not there", "there")
        rows.append(Row(f"command {command}", there, gone, LOOK if command in other else "not passed by us"))
    count = sum(map(len, used.values()))
    kept = sum(len(options & other.get(command, frozenset())) for command, options in used.items())
    summary = Row("options that we pass", f"{count}", f"{kept} are there", SAME if kept == count else BREAKS)
    return [summary, *rows]


def table(rows: Sequence[Row], other: str) -> str:
    """Return rows as text in columns."""
    titles = Row("", f"{COMMAND} {TESTED}", f"{COMMAND} {other}", "for this project")
    lines = [(row.subject, row.tested, row.other, row.verdict) for row in (titles, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = ([text.ljust(width) for text, width in zip(line, widths, strict=True)] for line in lines)
    return "\n".join("  ".join(line).rstrip() for line in padded)


def changed_options(products: Iterable[Product]) -> CommandLine:
    """Return the commands and options that this project passes for products, whatever a request asks for."""
    found: dict[str, set[str]] = {}
    for product in products:
        profile = profile_of(product)
        for groups in ((), tuple(product.groups)[:1]):
            for options in _requests():
                if any(profile.refuses(name, groups) for name in RESULT if options[name] != OPTIONS[name].assumed):
                    continue
                argv = build_argv(COMMAND, "in", "out", profile.call(product, groups, options), options)
                found.setdefault(argv[1], set()).update(word for word in argv if word.startswith("--"))
    return {command: frozenset(options) for command, options in found.items()}


def _requests() -> Iterator[Mapping[str, object]]:
    """Yield options: those that are only passed on are all changed, with each value of those of the result."""
    passed = {name: _another(one) for name, one in OPTIONS.items() if one.converter}
    for name, one in RESULT.items():
        for value in one.values or (False, True):
            yield resolved({**passed, name: value})


def _another(option: Option) -> object:
    """Return a value that an option does not have by itself."""
    return not option.assumed if option.is_truth else option.assumed + 1


# --- asking a release ------------------------------------------------------------------------------------------------


def command_line(converter: Path | str, commands: Iterable[str]) -> CommandLine:
    """Return the commands of a converter; of those that are asked for with their options."""
    found = dict.fromkeys(commands_of(_help(converter)), frozenset[str]())
    return found | {name: options_of(_help(converter, name)) for name in commands if name in found}


def _help(converter: Path | str, *command: str) -> str:
    environ = os.environ | {"COLUMNS": "200", "NO_COLOR": "1"}
    done = subprocess.run([converter, *command, "--help"], capture_output=True, text=True, env=environ, check=True)
    return done.stdout


def install(release: str, folder: Path) -> Path:
    """Install a release into an environment of its own; returns its command."""
    venv.create(folder, clear=True, with_pip=True, symlinks=True)
    bound = f"xarray<{'.'.join(map(str, FIRST_BROKEN_XARRAY))}"
    python = folder / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "uv"], check=True)  # pip gives up where versions exclude each other, and uv finds some
    uv = [python, "-m", "uv", "pip", "install", "--quiet", "--python", python]
    subprocess.run([*uv, f"{COMMAND}=={release}", bound], check=True)
    return folder / "bin" / COMMAND


def hidden(command: Path, folder: Path) -> Path:
    """Write a script that runs a converter, and does not tell which release it is."""
    script = folder / COMMAND
    script.write_text(f'#!/bin/sh\nexec "{command}" "$@"\n')
    script.chmod(0o755)
    return script


def beside(command: Path, folder: Path) -> Path:
    """Make an environment with the packages of this one, and with another converter; returns its Python."""
    venv.create(folder, symlinks=True)
    here = sysconfig.get_paths()
    paths = sorted({here["purelib"], here["platlib"], str(ROOT), str(ROOT / "runner")})
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))
    (site / "this.pth").write_text("\n".join(paths) + "\n")
    (folder / "bin" / COMMAND).write_bytes(command.read_bytes())
    (folder / "bin" / COMMAND).chmod(0o755)
    return folder / "bin" / "python"


def said_of(command: Path) -> Row:
    """Return whether the setting `converter` may name a release."""
    row = Row("as the setting converter", "accepted", "accepted", SAME)
    try:
        find_converter(str(command))
    except ConverterMissing as error:
        refused = "refused as untested" if "is supported" in error.message else error.message
        return Row(row.subject, row.tested, refused, "the trials below hide the release")
    return row


def facts(python: Path) -> Iterator[Row]:
    """Yield how the tests of what a converter writes end with a release."""
    command = [
        python,
        "-m",
        "pytest",
        "-q",
        "-n0",
        "-p",
        "no:cacheprovider",
        "-rA",
        "--tb=no",
        "-k",
        "not generic",
        *TESTS,
    ]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    ends = re.findall(r"^(PASSED|FAILED|ERROR) \S*::(\S+)", said, re.MULTILINE)
    if not ends:
        yield Row("all of them", "passed", f"they did not run: {said[-200:].strip()}", BREAKS)
    for outcome, name in ends:
        yield Row(name.replace("_", " "), "passed", outcome.lower(), SAME if outcome == "PASSED" else BREAKS)


def tried(trial: Trial, source: Path, converter: Path, output: Path) -> tuple[str, float]:
    """Convert and verify a product; returns how it ended, and the peak of the memory that one process had."""
    groups = ("--groups", *trial.groups) if trial.groups else ()
    words = ["convert", source, output, *groups, *trial.words, "--converter", converter]
    code = (
        "import resource, subprocess, sys\n"
        "done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)\n"
        "print(done.stdout.splitlines()[-1], resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, sep='\\n')\n"
    )
    runner = [sys.executable, "-m", "geozarr_runner", *map(str, words)]
    last, peak = subprocess.run(
        [sys.executable, "-c", code, *runner], capture_output=True, text=True, check=True
    ).stdout.splitlines()[-2:]
    event = json.loads(last)
    ended = "verified" if event["type"] == "result" else f"[{event['code']}] {event['message'].splitlines()[0][:200]}"
    return ended, int(peak) * 1024


def trials(samples: Mapping[str, Path], converter: Path, folder: Path) -> Iterator[Row]:
    """Yield how each trial ends with a converter, and the memory that it takes.

    The tests of this project convert such products with the tested release, so that it is not tried again here.
    """
    for number, trial in enumerate(TRIALS):
        ended, took = tried(trial, samples[trial.kind], converter, folder / f"{number}.zarr")
        yield Row(trial.name, "verified", ended, SAME if ended == "verified" else BREAKS)
        planned = memory_needed(open_product(str(samples[trial.kind])), trial.groups)
        verdict = SAME if took < 1.2 * planned else f"{LOOK}: planning/memory.py"
        yield Row("  its memory", f"planned {planned / 1e6:.0f} MB", f"{took / 1e6:.0f} MB", verdict)


def main(release: str, folder: Path) -> int:
    """Print the table, each part as soon as it is known; returns 1 where something breaks."""
    print(f"installing {COMMAND} {release} into {folder}", flush=True)
    command = install(release, folder)
    rows: list[Row] = []

    def show(title: str, found: Iterable[Row]) -> None:
        print(f"\n{title} ...", flush=True)
        part = list(found)
        print(table(part, release), flush=True)
        rows.extend(part)

    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        samples = {kind: sample_product(work / f"{kind}.zarr", size, kind) for kind, size in SAMPLES.items()}
        used = changed_options(open_product(str(path)) for path in samples.values())
        lines = [command_line(one, used) for one in (find_converter(), command)]
        show("the command line", [said_of(command), *compared(used, *lines)])
        show("tests of what a converter writes", facts(beside(command, work / "beside")))
        show("small products, converted and verified", trials(samples, hidden(command, work), work))
    breaks = sum(row.verdict == BREAKS for row in rows)
    print(f"\n{breaks} of {len(rows)} rows break" if breaks else "\nnothing breaks")
    return 1 if breaks else 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: make converter VERSION=0.11.1")
    try:
        sys.exit(main(sys.argv[1], Path(sys.argv[2]).absolute()))
    except subprocess.CalledProcessError as error:
        sys.exit(f"it could not be compared: {error}\n{error.stderr or ''}".rstrip())

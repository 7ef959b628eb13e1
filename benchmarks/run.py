"""Measure our conversion beside the bare converter's, print the figures and keep them in RESULTS.md."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

if __name__ == "__main__":  # as a script, only its own folder is on the path
    sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.cases import CASES, Bench, CommandFailedError
from benchmarks.results import as_markdown, as_table, load, save

HERE = Path(__file__).parent
HALF = 5496  # half a tile of 10980, in sizes that a sample can have


def main(argv: list[str] | None = None) -> int:
    """Run the cases that were asked for; 1 if one of them could not be measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--size", type=int, default=HALF, help="pixels along the large input's 10 m band (default: 5496)"
    )
    parser.add_argument("--repeat", type=int, default=3, help="runs of each command; figures are medians")
    parser.add_argument("--only", choices=CASES, action="append", metavar="NAME", help=f"one of {', '.join(CASES)}")
    parser.add_argument("--all", action="store_true", help="the slow cases too")
    options = parser.parse_args(argv)
    if options.repeat < 1:
        parser.error(f"--repeat {options.repeat} measures nothing; give 1 or more")

    names = options.only or [name for name, case in CASES.items() if options.all or not case.slow]
    bench = Bench(HERE / "data", options.size, options.repeat)
    console = Console()
    kept = load(HERE / "results.json")
    failed = False
    for name in names:
        try:
            result = CASES[name].measure(bench)
        except (CommandFailedError, TimeoutError) as error:
            console.print(f"{name}: {error}", style="red", markup=False)
            failed = True
            continue
        kept[name] = result
        console.print(as_table(result))
        # After each case: a run that is interrupted keeps what it has.
        ordered = [kept[name] for name in CASES if name in kept]
        save(HERE / "results.json", ordered)
        (HERE / "RESULTS.md").write_text(as_markdown(ordered))
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())

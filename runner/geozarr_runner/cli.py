"""`geozarr-runner`: the command that the image and the local backend run."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from geozarr_runner import __version__
from geozarr_runner.errors import ExitCode, GeozarrError, Interrupted
from geozarr_runner.events import Reporter
from geozarr_runner.spelling import in_shell, truth

EPILOG = """exit codes: 0 success, 1 a defect, 2 bad request, 3 product unreachable, 4 converter failed,
5 output failed verification, 6 storage failed, 7 interrupted"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = _parser().parse_args(argv)
    code: ExitCode = options.command(options)
    return int(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="geozarr-runner", description=__doc__, epilog=EPILOG)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    convert = commands.add_parser("convert", help="convert a product to a verified GeoZarr", epilog=EPILOG)
    convert.add_argument(
        "input",
        metavar="INPUT",
        help="a Zarr store or a STAC item: address or path; - reads it from standard input, where a signed address is "
        "not seen by others",
    )
    convert.add_argument("output", metavar="OUTPUT", help="the GeoZarr to write: a path")
    _add_groups(convert)
    convert.add_argument(
        "--validate-groups",
        type=truth,
        nargs="?",
        const=True,
        default=False,
        metavar="true|false",
        help="true: a missing group ends the run; false: it is left out with a warning (default)",
    )
    convert.add_argument(
        "--if-exists",
        choices=("error", "skip", "overwrite"),
        default="error",
        help="what to do when OUTPUT is there: refuse, keep it if it was made from the same request, or replace it "
        "once the new one is verified",
    )
    convert.add_argument(
        "--scratch", type=Path, metavar="DIR", help="where to stage the input (default: beside OUTPUT)"
    )
    convert.add_argument("--log", type=Path, metavar="FILE", help="keep everything there (default: OUTPUT.log.jsonl)")
    convert.add_argument("--identity", metavar="TEXT", help="kept in the output's record of how it was made")
    convert.add_argument("--dask-cluster", action="store_true", help="let the converter start dask workers")
    convert.add_argument("--verbose", action="store_true", help="show the converter's own lines too")
    _add_json(convert)
    convert.set_defaults(command=_convert)

    inspect = commands.add_parser("inspect", help="show what a product holds", epilog=EPILOG)
    inspect.add_argument("input", metavar="INPUT", help="a Zarr store or a STAC item: address or path")
    _add_groups(inspect)
    _add_json(inspect)
    inspect.set_defaults(command=_inspect)
    return parser


def _add_groups(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--groups",
        nargs="+",
        metavar="G",
        action="extend",
        help="groups to convert, also separated by commas; none, or 0: $ARGO_GROUPS, else the whole product",
    )


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="write JSON also to a terminal")


def _convert(options: argparse.Namespace) -> ExitCode:
    _interrupt_on_signals()
    reporter = Reporter(
        sys.stdout,
        readable=sys.stdout.isatty() and not options.json,
        progress_file=os.environ.get("ARGO_PROGRESS_FILE"),
        verbose=options.verbose,
    )
    try:
        # Imported here, so that a signal during it is heard too.
        from geozarr_runner.preflight import Request
        from geozarr_runner.run import run

        request = Request(
            product=sys.stdin.readline().strip() if options.input == "-" else options.input,
            output=options.output,
            groups=options.groups,
            validate_groups=options.validate_groups,
            if_exists=options.if_exists,
            scratch=options.scratch,
            dask_cluster=options.dask_cluster,
            verbose=options.verbose,
            identity=options.identity,
        )
        run(request, reporter, options.log)
    except GeozarrError as error:
        reporter.error(error)
        return error.exit_code
    except Exception as error:  # noqa: BLE001  the last line of defence: the reader of the events learns of it
        reporter.emit("log", source="runner", text=traceback.format_exc())
        reporter.error(GeozarrError(f"a defect of ours: {error!r}", remedy="please report it, with the log file"))
        return ExitCode.DEFECT
    finally:
        _ignore_signals()  # it is decided how the run ended
        reporter.close()
        if reporter.unheard:
            # Python's own last flush would fail once more, and change the exit code.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return ExitCode.SUCCESS


def _inspect(options: argparse.Namespace) -> ExitCode:
    from geozarr_runner.groups import report
    from geozarr_runner.product import open_product

    try:
        product = open_product(options.input)
        found = report(product, options.groups)
    except GeozarrError as error:
        print(f"error [{error.code}]: {in_shell(str(error))}", file=sys.stderr)
        return error.exit_code
    if options.json:
        print(json.dumps({**product.to_dict(), "report": found.to_dict()}, indent=2))
    else:
        print(product)
        print("\n".join(f"  {line}" for line in found.lines))
    return ExitCode.SUCCESS


def _ignore_signals() -> None:
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, signal.SIG_IGN)


def _interrupt_on_signals() -> None:
    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        _ignore_signals()  # the cleaning that follows is not to be interrupted
        name = signal.Signals(number).name
        raise Interrupted("the run was interrupted; nothing half-written is left", given=name, remedy="run it again")

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)

"""`geozarr-runner`: the command that the image and the local backend run."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from geozarr_runner import interruption
from geozarr_runner.errors import ExitCode, GeozarrError, InvalidRequest
from geozarr_runner.spec.command_line import add_options, given
from geozarr_runner.spec.options import ARGUMENTS, OPTIONS, refuse_unknown
from geozarr_runner.spec.parser import Parser
from geozarr_runner.text.shell import in_shell
from geozarr_runner.trust.bounds import from_json

if TYPE_CHECKING:
    from geozarr_runner.events import Reporter
    from geozarr_runner.spec.request import Request

LARGEST_REQUEST = 10_000_000
# What the SDK sends as a request's identity. A Workflow made by hand has none, or a text of its own.
_OF_THE_SDK = re.compile(r"[0-9a-f]{64}")
EPILOG = """exit codes: 0 success, 1 a defect, 2 bad request, 3 product unreachable, 4 converter failed,
5 output failed verification, 6 storage failed, 7 interrupted"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        options = _parser().parse_args(words)
    except InvalidRequest as error:
        return int(_refuse(words, error))
    code: ExitCode = options.command(options)
    if argv is None and options.command is _convert:
        _leave(code)
    return int(code)


def _leave(code: ExitCode) -> NoReturn:
    """End this process: all is written, and taking Python down with what it has loaded would take half a second."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(code))


def _refuse(words: Sequence[str], error: InvalidRequest) -> ExitCode:
    """Say that a command line cannot be read: to an orchestrator, if there is one, where it looks for how runs end."""
    orchestrated = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    _add_for_orchestrators(orchestrated)
    with suppress(argparse.ArgumentError):
        options, _ = orchestrated.parse_known_args(words)
        if options.run_id is not None:
            from geozarr_runner.events import Reporter

            reporter = Reporter(sys.stdout)
            reporter.emit("run", id=options.run_id)
            reporter.error(error)
            _leave_outcome(options, reporter)
            return error.exit_code
    print(f"error [{error.code}]: {in_shell(str(error))}", file=sys.stderr)
    return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="geozarr-runner", description=__doc__, epilog=EPILOG)
    parser.add_version("geozarr-runner")
    parser.add_print_completion()
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    convert = commands.add_parser("convert", help="convert a product to a verified GeoZarr", epilog=EPILOG)
    convert.add_argument(
        "input",
        metavar="INPUT",
        help="a Zarr store or a STAC item: address or path; - reads it from standard input, where a signed address is "
        "not seen by others",
    )
    convert.add_argument(
        "output",
        metavar="OUTPUT",
        help='the GeoZarr to write: a path, or an address in an object store (s3://bucket/product.zarr); "" is '
        "PRODUCT_geozarr.zarr in this folder",
    )
    add_options(convert, ARGUMENTS)
    _add_json_options(convert)
    convert.add_argument(
        "--identity", default="", metavar="TEXT", help="kept in the output's record of how it was made"
    )
    convert.add_argument(
        "--derived-from",
        default="",
        metavar="ADDRESS",
        help="the STAC item that INPUT comes from; the output's own links to it",
    )
    convert.add_argument(
        "--asked",
        metavar="ADDRESS",
        help="the address from which INPUT was found: credentials without a host go to its host alone (default: INPUT; "
        "with --derived-from none)",
    )
    _add_converter(convert)
    _add_log(convert)
    _add_json(convert)
    _add_for_orchestrators(convert)
    convert.set_defaults(command=_convert, request=_request)

    run = commands.add_parser(
        "run", help="convert as a request says, which is read as JSON from standard input", epilog=EPILOG
    )
    _add_converter(run)
    _add_log(run)
    _add_json(run)
    _add_for_orchestrators(run)
    run.set_defaults(command=_convert, request=_request_from_stdin)

    inspect = commands.add_parser("inspect", help="show what a product holds", epilog=EPILOG)
    inspect.add_argument("input", metavar="INPUT", help="a Zarr store or a STAC item: address or path")
    add_options(inspect, {"groups": ARGUMENTS["groups"]})
    _add_json(inspect)
    inspect.set_defaults(command=_inspect)

    _add_serve(commands)
    return parser


def _add_serve(commands: Any) -> None:
    serve = commands.add_parser("serve", help="show a folder to whoever has its token, read only, over HTTP")
    serve.add_argument("root", metavar="ROOT", type=Path, help="the folder; nothing outside of it is shown")
    serve.add_argument("--port", type=int, default=8080, metavar="N", help="0 takes a free one (default: %(default)s)")
    serve.add_argument("--address", default="", metavar="HOST", help="where to listen (default: everywhere)")
    serve.add_argument(
        "--idle", type=float, default=300, metavar="SECONDS", help="end after so long without a request (%(default)s)"
    )
    serve.add_argument(
        "--token-sha256", required=True, metavar="HEX", help="SHA-256 of the token that every request has to bring"
    )
    serve.set_defaults(command=_serve)


def _add_converter(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--converter",
        default=os.environ.get("GEOZARR_CONVERTER", ""),
        metavar="PATH",
        help="an eopf-geozarr in another environment (default: $GEOZARR_CONVERTER, then the one beside this Python)",
    )


def _add_log(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--log", type=Path, metavar="FILE", help="keep everything there (default: OUTPUT.log.jsonl)")


def _add_json_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--options", type=_json_options, default={}, metavar="JSON", help="options by name, as a JSON object"
    )


def _json_options(text: str) -> dict[str, Any]:
    try:
        found = from_json(text.strip() or "{}")
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"this is no JSON: {text!r}") from error
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError(f"this is no JSON object: {text!r}")
    return found


def _add_for_orchestrators(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("for orchestrators")
    group.add_argument("--with-log", action="store_true", help="show everything that the log file gets, in its order")
    group.add_argument(
        "--run-id",
        metavar="TEXT",
        help="the first event tells it, so that one run is found in a log file of several; a run that is refused is "
        "then in that file too; an output that a run of this id, up to its first /, has written counts as done",
    )
    group.add_argument("--within", type=Path, metavar="DIR", help="refuse a path as OUTPUT that does not lie below it")
    group.add_argument(
        "--artifact",
        type=Path,
        metavar="FILE",
        help="link the archive there, where Argo has an artifact repository to put it into",
    )
    group.add_argument("--outcome", type=Path, metavar="FILE", help="write the result or error there, as JSON")
    group.add_argument(
        "--termination-log", type=Path, metavar="FILE", help="write an error there, as one line: [code] message"
    )


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="write JSON also to a terminal")


def _convert(options: argparse.Namespace) -> ExitCode:
    from geozarr_runner.events import Reporter

    interruption.listen()
    _keep_others_from_writing()
    reporter = Reporter(
        sys.stdout,
        readable=sys.stdout.isatty() and not options.json,
        progress_file=os.environ.get("ARGO_PROGRESS_FILE"),
        verbose=options.with_log,
    )
    if options.run_id is not None:
        reporter.emit("run", id=options.run_id)
    try:
        # Imported here, so that a signal during it is heard too.
        from geozarr_runner.run import run

        request = options.request(options)
        # Its own lines are read from where it is told to be verbose: here, and in the request.
        reporter.verbose |= request.options["verbose"]
        run(
            request,
            reporter,
            options.log,
            log_refused=options.run_id is not None,
            owner=(options.run_id or "").partition("/")[0],
            artifact=options.artifact,
            within=options.within,
            converter=options.converter,
        )
    except GeozarrError as error:
        reporter.error(error)
        return error.exit_code
    except Exception as error:  # noqa: BLE001  the last line of defence: the reader of the events learns of it
        reporter.emit("log", source="runner", text=traceback.format_exc())
        reporter.error(GeozarrError(f"a defect of ours: {error!r}", remedy="please report it, with the log file"))
        return ExitCode.DEFECT
    finally:
        interruption.ignore()  # it is decided how the run ended
        _leave_outcome(options, reporter)
        reporter.close()
        if reporter.unheard:
            # Python's own last flush would fail once more, and change the exit code.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return ExitCode.SUCCESS


def _request(options: argparse.Namespace) -> Request:
    """Return the request of a command line."""
    from geozarr_runner.spec.request import Request

    refuse_unknown(options.options, OPTIONS, "--options")
    told = given(options)
    resolved = _OF_THE_SDK.fullmatch(options.identity) is not None
    return Request.of(
        _address(options.input),
        options.output,
        item=options.derived_from,
        asked=options.asked,
        identity=options.identity,
        **{**told, **options.options, "groups": _groups(told.get("groups"), resolved=resolved)},
    )


def _request_from_stdin(options: argparse.Namespace) -> Request:
    """Return the request that is handed over as a document; its addresses are in no command line, and on no disk."""
    from geozarr_runner.spec.request import Request

    try:
        document = from_json(sys.stdin.buffer.read(LARGEST_REQUEST))
    except ValueError:
        document = None
    request = Request.from_json(document if isinstance(document, dict) else {})
    if not (request.output.startswith("/") or "://" in request.output):
        raise InvalidRequest("the request's output has no full name", given=request.output, remedy="submit it again")
    return request


def _groups(words: Sequence[str] | None, *, resolved: bool = False) -> tuple[str, ...]:
    """Return the groups of a command line; where it names none, those of $ARGO_GROUPS.

    Parameters
    ----------
    resolved
        Whoever submitted it has settled the groups: to name none is to want the whole product.
    """
    from geozarr_runner.spec.request import Words, normalise

    return normalise(Words(words or ()), None if resolved else os.environ)


def _address(given: str) -> str:
    """Return the product's address as it has to be opened; what is secret in it is in no command line."""
    from geozarr_runner.trust.addresses import redact

    # Taken out of the environment, so that the converter does not inherit it.
    full = os.environ.pop("GEOZARR_INPUT", "").strip()
    if given == "-":
        return sys.stdin.readline().strip()
    if full and redact(full) != redact(given):
        raise InvalidRequest(
            "the variable GEOZARR_INPUT holds the address of something else",
            given=redact(given),
            remedy="set it to this address with its signature, or unset it",
        )
    return full or given


def _leave_outcome(options: argparse.Namespace, reporter: Reporter) -> None:
    from geozarr_runner.outcome import write_last_words, write_outcome

    outcome = reporter.outcome
    for path, write in ((options.outcome, write_outcome), (options.termination_log, write_last_words)):
        if path is not None and outcome is not None:
            try:
                write(path, outcome)
            except OSError as error:
                # The run's own end is its last event for everyone else.
                reporter.emit("log", source="runner", text=f"{path} cannot be written: {error.strerror}")


def _inspect(options: argparse.Namespace) -> ExitCode:
    from geozarr_runner.inspection.reader import open_product
    from geozarr_runner.planning.groups import report

    try:
        product = open_product(options.input)
        found = report(product, _groups(given(options).get("groups")))
    except GeozarrError as error:
        print(f"error [{error.code}]: {in_shell(str(error))}", file=sys.stderr)
        return error.exit_code
    if options.json:
        print(json.dumps({**product.to_dict(), "report": found.to_dict()}, indent=2))
    else:
        print(product)
        print("\n".join(f"  {line}" for line in found.lines))
    return ExitCode.SUCCESS


def _serve(options: argparse.Namespace) -> ExitCode:
    from geozarr_runner.serve import serve

    ending = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ending.set())
    try:
        counters = serve(
            options.root,
            port=options.port,
            idle=options.idle,
            token_sha256=options.token_sha256,
            address=options.address,
            ready=lambda port: print(f"serving {options.root} on port {port}", flush=True),
            ending=ending,
        )
    except GeozarrError as error:
        print(f"error [{error.code}]: {in_shell(str(error))}", file=sys.stderr)
        return error.exit_code
    why = "a signal ended it" if ending.is_set() else f"nothing was asked for {options.idle:g} s"
    print(f"served {counters.requests} requests, {counters.bytes} bytes of files; {why}", flush=True)
    return ExitCode.SUCCESS


def _keep_others_from_writing() -> None:
    """Take on the usual mask for new files where none was handed on: Argo's executor hands on none."""
    given = os.umask(0o022)
    if given:
        os.umask(given)

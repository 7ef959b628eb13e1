"""The command line's arguments."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping

from geozarr_nb.pods import JOB_ARGUMENTS
from geozarr_runner.errors import ExitCode
from geozarr_runner.spec.command_line import add_options
from geozarr_runner.spec.options import ARGUMENTS, RESULT
from geozarr_runner.spec.parser import Parser
from geozarr_runner.text.shell import truth

Command = Callable[[argparse.Namespace], ExitCode | None]

CODES = """exit codes:
  0 success, 1 a defect (doctor: a problem), 2 bad request, 3 product unreachable, 4 converter failed,
  5 output failed verification, 6 storage failed, 7 interrupted (a job goes on), 8 the cluster failed"""
EXAMPLES = """examples:
  geozarr-nb sample s2.zarr
  geozarr-nb inspect s2.zarr
  geozarr-nb validate s2.zarr --groups measurements/reflectance/r20m
  geozarr-nb convert s2.zarr out/r20m.zarr --groups /measurements/reflectance/r20m
  geozarr-nb preview out/r20m.zarr r20m.png
  geozarr-nb submit s2.zarr out/all.zarr --groups 0 && geozarr-nb jobs
  geozarr-nb doctor s2.zarr"""
STATUSES = ("Pending", "Running", "Succeeded", "Failed", "Error")


def build_parser(commands: Mapping[str, Command]) -> Parser:
    """Return the parser; what it parses has the function to call as `command`, and always `json`.

    Parameters
    ----------
    commands
        What each subcommand calls, by its name.

    Raises
    ------
    InvalidRequest
        The parser raises it for a command line that cannot be read.
    """
    parser = Parser(prog="geozarr-nb")
    _describe(parser, "From a STAC Zarr item to a verified, open GeoZarr.", f"{EXAMPLES}\n\n{CODES}")
    parser.add_version("geozarr-nb")
    parser.add_print_completion()
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, text: str, example: str) -> argparse.ArgumentParser:
        added = subparsers.add_parser(name, help=text)
        added.set_defaults(command=commands[name], json=False)
        _describe(added, text[0].upper() + text[1:] + ".", f"example:\n  geozarr-nb {example}\n\n{CODES}")
        return added

    inspect = add("inspect", "show what a product holds", "inspect https://host/S2A_MSIL2A_20251008.zarr")
    _add_source(inspect)
    _add_json(inspect)

    validate = add("validate", "check groups against a product", "validate s2.zarr --groups r20m")
    estimate = add("estimate", "say what a conversion will cost", "estimate s2.zarr --groups 0")
    for command in (validate, estimate):
        _add_source(command)
        add_options(command, {"groups": ARGUMENTS["groups"]}, flags=True)
        _add_json(command)
    add_options(estimate, RESULT, flags=True)

    convert = add(
        "convert",
        "convert a product, and wait for the verified output",
        "convert s2.zarr out/r20m.zarr --groups /measurements/reflectance/r20m",
    )
    submit = add("submit", "have a product converted, and return at once", "submit s2.zarr out/all.zarr --groups 0")
    for command in (convert, submit):
        _add_request(command)
        _add_json(command)

    jobs = add("jobs", "list jobs, the oldest first", "jobs --status Failed")
    jobs.add_argument("--status", choices=STATUSES, help="only those")
    _add_backend(jobs)
    _add_json(jobs)

    logs = add("logs", "print a job's log", "logs -f s2a-msil2a-20251008-1a2b3c4d")
    _add_job(logs)
    logs.add_argument("-f", "--follow", action="store_true", help="go on as lines come, until the job has finished")
    logs.add_argument("-n", "--tail", type=int, metavar="N", help="only the last N lines")

    wait = add("wait", "wait for a job, and show how far it is", "wait s2a-msil2a-20251008-1a2b3c4d")
    _add_job(wait)
    wait.add_argument("--timeout", type=float, metavar="S", help="seconds to wait at most; the job goes on")
    cancel = add("cancel", "end a job, and remove what is half-written", "cancel s2a-msil2a-20251008-1a2b3c4d")
    _add_job(cancel)
    retry = add("retry", "run a job that failed again", "retry s2a-msil2a-20251008-1a2b3c4d")
    _add_job(retry)
    for command in (wait, cancel, retry):
        _add_json(command)

    opened = add("open", "show what an output holds, and how to open it in Python", "open out/r20m.zarr")
    _add_output(opened)
    opened.add_argument("--level", type=_level, default="native", help="native (default), coarsest or a number")
    opened.add_argument("--no-strict", dest="strict", action="store_false", help="open a Zarr that is no GeoZarr too")
    _add_json(opened)

    download = add(
        "download",
        "fetch a job's output or archive to this machine",
        "download s2a-msil2a-20251008-1a2b3c4d out.tar.gz",
    )
    _add_job(download)
    download.add_argument("path", metavar="PATH", help="the folder to make; a name that ends with .tar.gz: the archive")
    download.add_argument(
        "--archive", type=truth, nargs="?", const=True, metavar="true|false", help="whatever PATH ends with"
    )
    download.add_argument("--overwrite", action="store_true", help="replace what has this name, once all is there")
    _add_json(download)

    preview = add("preview", "draw an output", "preview out/r20m.zarr r20m.png --bands b8a b04 b03")
    _add_output(preview)
    preview.add_argument("file", metavar="FILE", nargs="?", default="preview.png", help="a .png, .jpg or .webp")
    preview.add_argument("--group", metavar="G", help="its path, or as much of its end as is unique")
    preview.add_argument("--bands", nargs="+", metavar="B", help="one for grey, three for red, green and blue")
    preview.add_argument("--level", type=_level, default="auto", help="auto (default), native, coarsest or a number")
    preview.add_argument("--stretch", nargs=2, type=float, default=(2, 98), metavar="P", help="percentiles (2 98)")
    preview.add_argument("--size", type=int, metavar="N", help="longer side in pixels")

    doctor = add("doctor", "check this machine or a cluster, and say what to do", "doctor --backend argo")
    doctor.add_argument("source", nargs="?", metavar="SOURCE", help="a product, to check against it")
    doctor.add_argument("--output", metavar="PATH", help="where the output would go (default: here)")
    _add_backend(doctor)
    _add_json(doctor)

    sample = add("sample", "write a small product with a real one's structure", "sample s2.zarr --size 1080")
    sample.add_argument("path", metavar="PATH", help="the Zarr store to write")
    sample.add_argument("--size", type=int, default=1080, metavar="N", help="pixels along an edge (default 1080)")
    sample.add_argument("--kind", default="s2-l2a", metavar="K", help="s2-l2a (default), s1-grd or s3-olci")
    sample.add_argument("--overwrite", action="store_true", help="replace a Zarr store of that name")
    _add_json(sample)
    return parser


def _describe(parser: argparse.ArgumentParser, description: str, epilog: str) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = description, epilog


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        nargs="?",
        metavar="SOURCE",
        help="a Zarr store or a STAC item: address or path (default: $GEOZARR_STAC_URL, then params.json)",
    )


def _add_request(parser: argparse.ArgumentParser) -> None:
    _add_source(parser)
    parser.add_argument(
        "output",
        nargs="?",
        metavar="OUTPUT",
        help="the GeoZarr to write: a path, or s3://bucket/path (default: PRODUCT_geozarr.zarr here)",
    )
    add_options(parser, JOB_ARGUMENTS, flags=True)
    _add_backend(parser)


def _add_backend(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backend", metavar="B", help="where jobs run (default: $GEOZARR_BACKEND, then local)")


def _add_job(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="JOB", help="its name, as `geozarr-nb jobs` lists it")
    _add_backend(parser)


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("output", metavar="OUTPUT", help="path or address of a converted store, or the name of its job")
    _add_backend(parser)


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="write JSON, errors included")


def _level(text: str) -> int | str:
    return int(text) if text.isdecimal() else text

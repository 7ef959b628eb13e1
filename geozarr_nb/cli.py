"""`geozarr-nb`: the calls of this package from a shell."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from geozarr_nb.arguments import Command, build_parser
from geozarr_nb.pods import JOB_ARGUMENTS
from geozarr_runner.errors import ExitCode, GeozarrError, Interrupted
from geozarr_runner.spec.command_line import given
from geozarr_runner.text.printable import CONVERTERS_LINE, printable, printable_json, printable_lines
from geozarr_runner.text.shell import in_shell, word

if TYPE_CHECKING:
    import xarray as xr

    from geozarr_nb.backends.base import JobState
    from geozarr_nb.jobs.job import Job


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        options = build_parser(COMMANDS).parse_args(words)
    except GeozarrError as error:
        return _report(error, as_json="--json" in words)
    try:
        code = options.command(options)
        sys.stdout.flush()
    except GeozarrError as error:
        return _report(error, as_json=options.json)
    except KeyboardInterrupt:
        return _report(Interrupted("interrupted", remedy="run it again"), as_json=options.json)
    except BrokenPipeError:
        # Whoever read along (head, less) has enough; the interpreter's own last flush must not complain of it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(ExitCode.SUCCESS)
    return int(code or ExitCode.SUCCESS)


def _report(error: GeozarrError, *, as_json: bool) -> int:
    error.remedy = in_shell(error.remedy)
    if as_json:
        from geozarr_nb.documents import of_error

        _print_json(of_error(error))
    print(f"error [{error.code}]: {in_shell(str(error))}", file=sys.stderr)
    return int(error.exit_code)


def _print_json(document: Any) -> None:
    print(printable_json(document))


def _inspect(options: argparse.Namespace) -> None:
    import geozarr_nb as gz

    product = gz.inspect(options.source)
    _print_json(product.to_dict()) if options.json else print(product)


def _validate(options: argparse.Namespace) -> ExitCode:
    import geozarr_nb as gz

    report = gz.validate(options.source, **given(options))
    _print_json(report.to_dict()) if options.json else print(report)
    return ExitCode.SUCCESS if report.ok else ExitCode.BAD_REQUEST


def _estimate(options: argparse.Namespace) -> None:
    from dataclasses import asdict

    import geozarr_nb as gz

    estimate = gz.estimate(options.source, **given(options))
    _print_json(asdict(estimate)) if options.json else print(estimate)


def _submitted(options: argparse.Namespace) -> Job:
    import geozarr_nb as gz

    return gz.submit(options.source, options.output, backend=options.backend, **given(options, JOB_ARGUMENTS))


def _submit(options: argparse.Namespace) -> None:
    job = _submitted(options)
    _print_job(job, options)
    if not options.json:
        name = printable(job.name)
        print(f"wait for it:  geozarr-nb wait {name}\nread along:   geozarr-nb logs -f {name}")


def _convert(options: argparse.Namespace) -> None:
    _finish(_submitted(options), options)


def _wait(options: argparse.Namespace) -> None:
    _finish(_job(options), options)


def _finish(job: Job, options: argparse.Namespace) -> None:
    """See a job to its end, and raise when it has no result."""
    from geozarr_nb.jobs.display import show

    timeout = getattr(options, "timeout", None)
    try:
        if options.json or timeout is not None:
            job.wait(timeout=timeout)
        else:
            show(job)
    except KeyboardInterrupt:
        raise Interrupted(
            "you stopped waiting; the job itself goes on",
            given=job.name,
            remedy=f"come back with: geozarr-nb wait {job.name}; or end it with: geozarr-nb cancel {job.name}",
        ) from None
    job.raise_for_status()
    if options.json:
        _print_job(job, options)
    else:
        print(f"look at it:   geozarr-nb preview {word(job.output)} preview.png")
        print(f"open it:      {_line_of_python(job.output, 'native')}")


def _jobs(options: argparse.Namespace) -> None:
    import geozarr_nb as gz

    states = [job.state for job in gz.list_jobs(options.backend).jobs]
    states = [state for state in states if options.status in (None, state.status)]
    if options.json:
        from geozarr_nb.documents import of_job

        _print_json([of_job(state) for state in states])
    elif states:
        _print_table(states)
    else:
        print("no jobs" + (f" are {options.status}" if options.status else " yet: geozarr-nb submit --help"))


def _print_table(states: Sequence[JobState]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from geozarr_nb.jobs.state_text import status_line

    colours = {"Succeeded": "green", "Failed": "red", "Error": "red", "Running": "cyan", "Pending": "yellow"}
    # A file or a pipe has no width: nothing is to be cut off there.
    console = Console() if sys.stdout.isatty() else Console(width=1000, color_system=None)
    table = Table(box=None, pad_edge=False)
    for title in ("job", "status", "output", "reason"):
        table.add_column(title, overflow="fold", justify="left")
    for state in states:
        name, output, reason = (Text(printable(each)) for each in (state.name, state.request.output, state.reason))
        table.add_row(name, Text(printable(status_line(state)), style=colours[state.status]), output, reason)
    console.print(table)


def _logs(options: argparse.Namespace) -> None:
    job = _job(options)
    lines = job.logs(follow=True, tail=options.tail) if options.follow else job.logs(tail=options.tail)
    for line in lines:
        print(line if line.startswith(CONVERTERS_LINE) else in_shell(line), flush=options.follow)


def _cancel(options: argparse.Namespace) -> None:
    _print_job(_job(options).cancel(), options)


def _retry(options: argparse.Namespace) -> None:
    _print_job(_job(options).retry(), options)


def _job(options: argparse.Namespace) -> Job:
    import geozarr_nb as gz
    from geozarr_nb.errors import JobNotFound

    try:
        return gz.get_job(options.name, options.backend)
    except JobNotFound as error:
        error.remedy = "geozarr-nb jobs lists them"
        raise


def _print_job(job: Job, options: argparse.Namespace) -> None:
    if options.json:
        from geozarr_nb.documents import of_job

        _print_json(of_job(job.state))
    else:
        print(job)


def _open(options: argparse.Namespace) -> None:
    import geozarr_nb as gz
    from geozarr_nb.outputs.open import levels

    output = _output(options)
    tree = gz.open(output, level=options.level, strict=options.strict)
    if options.json:
        numbers = {path: [list(level.shape or ()) for level in found] for path, found in levels(output).items()}
        groups = {
            node.path: {str(name): dict(variable.sizes) for name, variable in node.data_vars.items()}
            for node in tree.subtree
        }
        _print_json({"output": output, "groups": groups, "levels": numbers})
        return
    print(_described(tree))
    print(f"\n{_line_of_python(output, options.level)}")


def _described(tree: xr.DataTree) -> str:
    """Return what xarray says of a tree; each line of it is xarray's own."""
    shown = tree.copy()
    for node in shown.subtree:
        node.attrs = {name: printable(value) if isinstance(value, str) else value for name, value in node.attrs.items()}
    return printable_lines(str(shown))


def _download(options: argparse.Namespace) -> None:
    job = _job(options)
    path = job.download(options.path, archive=options.archive, progress=not options.json, overwrite=options.overwrite)
    if options.json:
        _print_json({"job": job.name, "path": str(path)})
    else:
        print(printable(str(path)))


def _preview(options: argparse.Namespace) -> None:
    import geozarr_nb as gz

    picture = gz.preview(
        _output(options),
        group=options.group,
        bands=",".join(options.bands) if options.bands else None,
        level=options.level,
        stretch=tuple(options.stretch),
        size=options.size,
    )
    path = picture.save(options.file)
    print(f"{printable(str(path))}: {picture!r}")


def _output(options: argparse.Namespace) -> str:
    """Return the output behind a path, an address or the name of a job."""
    import geozarr_nb as gz
    from geozarr_nb.errors import JobNotFound
    from geozarr_nb.outputs.location import location

    given: str = options.output
    if "/" in given or os.path.lexists(given):
        return given
    try:
        return location(gz.get_job(given, options.backend))
    except JobNotFound:
        return given


def _line_of_python(output: str, level: int | str) -> str:
    at = "" if level == "native" else f", level={level!r}"
    return f"import geozarr_nb as gz; tree = gz.open({output!r}{at})"


def _doctor(options: argparse.Namespace) -> ExitCode:
    from geozarr_nb.doctor import doctor

    diagnosis = doctor(options.source, options.output, options.backend)
    _print_json(diagnosis.to_json()) if options.json else print(in_shell(repr(diagnosis)))
    return ExitCode.SUCCESS if diagnosis.ok else ExitCode.DEFECT


def _sample(options: argparse.Namespace) -> None:
    import geozarr_nb as gz

    path = gz.sample_product(options.path, options.size, options.kind, options.overwrite)
    if options.json:
        _print_json({"path": str(path), "kind": options.kind, "size": options.size})
    else:
        print(printable_lines(f"{path}\nlook at it:   geozarr-nb inspect {word(options.path)}"))


COMMANDS: dict[str, Command] = {
    "inspect": _inspect,
    "validate": _validate,
    "estimate": _estimate,
    "convert": _convert,
    "submit": _submit,
    "jobs": _jobs,
    "logs": _logs,
    "wait": _wait,
    "cancel": _cancel,
    "retry": _retry,
    "open": _open,
    "download": _download,
    "preview": _preview,
    "doctor": _doctor,
    "sample": _sample,
}

"""What the frozen tests ask of the present code: where something gets another name, only this module changes.

The files in `data` were written by version 0.1.0, and nothing writes them again. `<home>` and the like stand in them
for what is different on each machine.
"""

from __future__ import annotations

import fcntl
import inspect
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import pytest
import yaml

import geozarr_nb as gz
import geozarr_nb.cli
import geozarr_runner.cli
from geozarr_nb import errors
from geozarr_nb.backends.argo import workflow
from geozarr_nb.backends.argo.attempt import Attempt
from geozarr_nb.backends.argo.workflow import output_address
from geozarr_nb.request import request_for
from geozarr_nb.settings import Settings
from geozarr_runner.spec.options import OPTIONS

type Document = dict[str, Any]

ROOT = Path(__file__).parents[2]
PRODUCT = gz.Product(url="", name="", kind="Zarr", zarr_format=2, groups={}, parents={}, consolidated=True, identity="")


def recorded(name: str) -> Any:
    """Return what a file of `data` holds."""
    return json.loads((Path(__file__).parent / "data" / f"{name}.json").read_text(encoding="utf-8"))


def filled(thing: Any, places: Mapping[str, object]) -> Any:
    """Return recorded data with this machine's values for their placeholders."""
    text = json.dumps(thing)
    for name, value in places.items():
        text = text.replace(f"<{name}>", json.dumps(str(value))[1:-1])
    return json.loads(text)


# Requests


def new_request(given: Mapping[str, Any]) -> gz.Request:
    """Make the request that a person's arguments make; `claim` is there where it is for a cluster."""
    options = dict(given)
    item, claim = options.pop("item", None), options.pop("claim", None)
    product = replace(
        PRODUCT,
        url=options.pop("url"),
        name=options.pop("product"),
        item={"href": item} if item else {},
        asked=options.pop("asked", None),
    )
    locate = None if claim is None else lambda output: output_address(os.fspath(output), claim)
    return request_for(product, options.pop("output"), settings=Settings(), locate=locate, **options)


def read_request(document: Mapping[str, Any]) -> gz.Request:
    """Read a request as it was stored."""
    return gz.Request.from_json(document)


def stored(request: gz.Request) -> Document:
    """Return the document that would be stored of a request."""
    return dict(json.loads(json.dumps(request.to_json())))


# Command lines


class Reached(BaseException):
    """A command line has come to a call, which is not carried out."""

    def __init__(self, name: str, values: Document) -> None:
        super().__init__(name, values)
        self.name = name
        self.values = values


def _plain(value: Any) -> Any:
    """Return a value as JSON has it."""
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return os.fspath(value) if isinstance(value, Path) else value


def _stopped(name: str, original: Callable[..., Any]) -> Callable[..., NoReturn]:
    """Return a function that tells which of its arguments differ from the defaults of another one."""
    signature = inspect.signature(original)
    defaults = {key: parameter.default for key, parameter in signature.parameters.items()}

    def call(*arguments: Any, **options: Any) -> NoReturn:
        bound = signature.bind(*arguments, **options).arguments
        raise Reached(name, {key: _plain(value) for key, value in bound.items() if value != defaults[key]})

    return call


def _without_later(options: Mapping[str, Any]) -> Document:
    """Return options without those that 0.1.0 did not have and whose value is what it did."""
    known = {"validate_groups", "if_exists", "archive", "packed", "dask_cluster", "verbose", "scratch"}
    return {name: value for name, value in options.items() if name in known or value != OPTIONS[name].assumed}


def run_runner(argv: Sequence[str]) -> int:
    """Run the runner's command line in this process; returns its exit code."""
    return geozarr_runner.cli.main(argv)


def runner_request(argv: Sequence[str], stdin: str, monkeypatch: pytest.MonkeyPatch) -> Document:
    """Return what a command line of the runner asks for, by the names that 0.1.0 has for it."""

    def run(request: gz.Request, reporter: Any, log: Path | None = None, **more: Any) -> NoReturn:
        found = {
            "source": request.source,
            "output": request.output,
            "groups": request.groups,
            **_without_later(request.options),
            "identity": request.identity,
            "derived_from": request.item,
            "asked": request.asked,
            "tells_converters_lines": reporter.verbose,
            "log": log,
            **more,
        }
        assert not found.pop("converter"), "0.1.0 had only its own converter"
        found.pop("owner")  # what 0.1.0 was not asked to know
        raise Reached("run", {name: _plain(value) for name, value in found.items()})

    monkeypatch.setattr(import_module("geozarr_runner.run"), "run", run)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
    with pytest.raises(Reached) as reached:
        run_runner(argv)
    return reached.value.values


INSPECTED = ("geozarr_runner.inspection.reader", "geozarr_runner.planning.groups", "geozarr_runner.serve")


def runner_call(argv: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> tuple[str, Document]:
    """Return the function that a command line of the runner ends in which converts nothing, and its arguments."""
    product, groups, serve = map(import_module, INSPECTED)
    opened: list[object] = []
    monkeypatch.setattr(product, "open_product", opened.append)

    def report(_: object, wanted: Sequence[str]) -> NoReturn:
        raise Reached("inspect", {"input": opened[0], "groups": _plain(wanted)})

    monkeypatch.setattr(groups, "report", report)
    monkeypatch.setattr(serve, "serve", _stopped("serve", serve.serve))
    with pytest.raises(Reached) as reached:
        run_runner(argv)
    values = reached.value.values
    return reached.value.name, {name: value for name, value in values.items() if name not in ("ready", "ending")}


class _AnyJob:
    """Stands for the job that a command line names."""

    def __init__(self, given: Document) -> None:
        self.given = given

    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        stopped = _stopped(f"Job.{name}", getattr(gz.Job, name))

        def call(*arguments: Any, **options: Any) -> NoReturn:
            try:
                stopped(None, *arguments, **options)
            except Reached as reached:
                del reached.values["self"]
                raise Reached(reached.name, self.given | reached.values) from None

        return call


SDK_CALLS = ("inspect", "validate", "estimate", "submit", "list_jobs", "open", "preview", "sample_product")


def sdk_call(argv: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> tuple[str, Document]:
    """Return the public call that a command line of `geozarr-nb` ends in, and its arguments."""
    for name in SDK_CALLS:
        monkeypatch.setattr(gz, name, _stopped(name, getattr(gz, name)))
    doctor = import_module("geozarr_nb.doctor")
    monkeypatch.setattr(doctor, "doctor", _stopped("doctor", doctor.doctor))
    of_job = inspect.signature(gz.get_job)

    def get_job(*arguments: Any, **options: Any) -> _AnyJob:
        given = of_job.bind(*arguments, **options).arguments
        return _AnyJob({name: value for name, value in given.items() if value is not None})

    def show(job: _AnyJob) -> NoReturn:
        raise Reached("show", job.given)

    monkeypatch.setattr(gz, "get_job", get_job)
    monkeypatch.setattr("geozarr_nb.jobs.display.show", show)
    with pytest.raises(Reached) as reached:
        geozarr_nb.cli.main(argv)
    return reached.value.name, reached.value.values


# Errors


def error_classes() -> dict[str, Document]:
    """Return what scripts rely on of each class of errors, by its name."""
    found: dict[str, Document] = {}
    waiting: list[type[errors.GeozarrError]] = [errors.GeozarrError]
    while waiting:
        one = waiting.pop()
        waiting += one.__subclasses__()
        if getattr(errors, one.__name__, None) is one:
            parents = [parent.__name__ for parent in one.__mro__[1:] if parent is not object]
            found[one.__name__] = {
                "code": one.code,
                "exit_code": int(one.exit_code),
                "retryable": one.retryable,
                "is_a": parents,
            }
    return found


def exit_codes() -> dict[str, int]:
    """Return the exit codes by their names."""
    return {code.name: int(code) for code in errors.ExitCode}


# The cluster


def template() -> Document:
    """Return the WorkflowTemplate."""
    text = (ROOT / "workflows" / "geozarr-convert-template.yaml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text))


def submitted(given: Mapping[str, Any], settings: Mapping[str, Any], attempt: int) -> Document:
    """Return the Workflow for an attempt at a request, and its Secret where it has one."""
    request = new_request(given)
    thing = workflow.manifest(request, request.name, attempt, Settings(**settings), 3_000_000_000)
    documents = {"workflow": thing}
    if workflow.is_signed(request):
        uid = {"uid": "0a1b2c3d-0000-4000-8000-000000000000"}
        documents["secret"] = workflow.secret(request, {"metadata": thing["metadata"] | uid})
    return dict(json.loads(json.dumps(documents)))


def read_workflow(thing: Document) -> Document:
    """Return what is read of a Workflow."""
    attempt = Attempt.of(thing)
    names = ("name", "job", "number", "phase", "is_suspended", "is_held", "memory_needed")
    pods = [[pod.name, pod.phase, pod.exit_code, pod.outcome and pod.outcome.type] for pod in attempt.pods]
    read = {name: getattr(attempt, name) for name in names} | {"pods": pods, "request": stored(attempt.request)}
    return dict(json.loads(json.dumps(read)))


# Names that programs import


def public_names() -> list[str]:
    """Return the public names."""
    return list(gz.__all__)


def parameters_of(name: str) -> list[list[str]]:
    """Return name, kind and default of each parameter of a public call; a dot separates a class and its method."""
    found: Any = gz
    for part in name.split("."):
        found = getattr(found, part)
    parameters = inspect.signature(found).parameters.values()
    return [
        [one.name, one.kind.name, "" if one.default is one.empty else repr(one.default)]
        for one in parameters
        if one.name not in ("self", "cls")
    ]


def members_of(name: str) -> list[str]:
    """Return the public members of a class, its fields included."""
    found = getattr(gz, name)
    fields = getattr(found, "__dataclass_fields__", {})
    options = OPTIONS if found is gz.Request else {}
    return sorted({member for member in (*dir(found), *fields, *options) if not member.startswith("_")})


@contextmanager
def busy_slots(state: Path) -> Iterator[None]:
    """Hold the one slot that jobs of this machine run in."""
    with (state / "slots" / "0").open("a") as slot:
        fcntl.flock(slot, fcntl.LOCK_EX)
        yield

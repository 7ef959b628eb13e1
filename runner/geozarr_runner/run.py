"""One run, from the request to the published output: the stages in their order."""

from __future__ import annotations

import math
import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from geozarr_runner import interruption
from geozarr_runner.converter import processes
from geozarr_runner.converter.command import PACKAGES, find_converter, releases_of
from geozarr_runner.converter.parallel import join, split, threads
from geozarr_runner.errors import (
    ConverterFailed,
    ConverterKilled,
    Interrupted,
    ProductBroken,
    StorageFailed,
    VerificationFailed,
)
from geozarr_runner.events import Reporter
from geozarr_runner.kinds.base import ConverterCall
from geozarr_runner.kinds.profiles import planned_arrays, profile_of
from geozarr_runner.planning import resources
from geozarr_runner.planning.memory import memory_of_part, worth_reading
from geozarr_runner.planning.preflight import Plan, preflight
from geozarr_runner.product.model import Array
from geozarr_runner.publishing import local, object_store, stac_item
from geozarr_runner.publishing.archive import Archive, discard, existing, offer, pack
from geozarr_runner.publishing.remote_output import Output, RemoteOutput
from geozarr_runner.spec.options import OPTIONS
from geozarr_runner.spec.request import Request
from geozarr_runner.staging.spot_check import SpotCheck
from geozarr_runner.staging.view import DoesNotFit, Staged, make_view, stage
from geozarr_runner.trust.addresses import expanded, local_path, redact
from geozarr_runner.verification.diagnosis import diagnose
from geozarr_runner.verification.verify import Verified, verify

REPORTED_VERSIONS = ("geozarr-runner", *PACKAGES)


@dataclass(frozen=True, slots=True)
class Result:
    """What a run has made."""

    path: Output
    groups: tuple[str, ...]
    skipped: bool


def run(
    request: Request,
    reporter: Reporter,
    log: Path | None = None,
    *,
    log_refused: bool = False,
    artifact: Path | None = None,
    within: Path | None = None,
    converter: str = "",
) -> Result:
    """Do one conversion.

    Parameters
    ----------
    log
        The file that keeps everything, from the moment the request is known to be possible; default
        `<output>.log.jsonl`, in an object store when the reporter closes.
    log_refused
        Keep also what became of a request that is refused, where a log file has a place of its own.
    artifact
        Where Argo's executor looks for the archive.
    within
        The folder outside of which no path may lie that is written to.
    converter
        The path of a converter in another environment; empty for the one beside this Python, or on PATH.

    Raises
    ------
    GeozarrError
        Its `exit_code` is the run's. Nothing half-written is left under the output's name.
    """

    def open_log(output: Output) -> None:
        if log is not None or not isinstance(output, RemoteOutput):
            reporter.open_log(log or Path(f"{output}.log.jsonl"), is_named=log is not None)
        elif not reporter.keeps_log:
            file = object_store.log_file(output, request.scratch_folder)
            reporter.open_log(file, lambda: object_store.upload_log(output, file))

    def keep(output: Output) -> None:
        if log is not None or isinstance(output, RemoteOutput) or _has_place_for_a_log(output):
            with suppress(OSError, StorageFailed):  # what is written later fails with its own reason
                open_log(output)

    resources.share_buffers()
    start = time.monotonic()
    started = datetime.now(UTC)
    with reporter.stage("preflight"):
        plan = preflight(request, reporter, keep if log_refused else lambda _: None, within=within)
    if plan.done:
        _complete(plan, reporter)
        archive = _archive_of(plan, request, reporter) if request.options["archive"] else None
        _offer(archive, artifact, reporter)
        size = _stored_bytes(plan.output)
        releases = versions(converter)
        _report_result(reporter, plan, request, releases, bytes_written=size, start=start, archive=archive)
        return Result(plan.output, plan.groups, skipped=True)
    command = find_converter(converter)
    shares = _shares(request, plan)
    count = len(shares) or 1
    with (
        _workspace(plan, request) as space,
        processes.Converters(command, environment(plan, count), load=count, about=space.folder) as converters,
    ):
        with local.storage_errors(space.output.parent):
            open_log(plan.output)
        work = _Work(request, space, converters, shares, reporter)
        # Joining and verifying need it, when nothing else is left to do meanwhile.
        threading.Thread(target=import_module, args=("zarr",), daemon=True).start()
        try:
            made = work.make(plan, space.writing)
        except DoesNotFit as lack:
            if len(plan.groups) < 2:
                raise
            reporter.warning("one-group-at-a-time", f"{lack.message}: one group is made after the other", lack.remedy)
            made = work.make_in_turn(plan)
        with reporter.stage("publish") as progress:
            record = _provenance(plan, request, made, started, versions(converter))
            local.record_provenance(space.writing, record)
            size = folder_bytes(space.writing)
            with local.storage_errors(space.item):
                _write_item(space.item, plan, space.writing, record, reporter)
            if isinstance(space, object_store.RemoteWorkspace):
                object_store.publish(space, overwrite=request.options["if_exists"] == "overwrite", progress=progress)
            else:
                if request.options["if_exists"] == "overwrite":
                    discard(space.output)
                local.publish(space, overwrite=request.options["if_exists"] == "overwrite")
        archive = _pack(space, reporter) if request.options["archive"] else None
    _offer(archive, artifact, reporter)
    read = made.bytes_read
    _report_result(
        reporter, plan, request, record["versions"], bytes_read=read, bytes_written=size, start=start, archive=archive
    )
    return Result(plan.output, plan.groups, skipped=False)


def _workspace(plan: Plan, request: Request) -> AbstractContextManager[local.Workspace]:
    if isinstance(plan.output, RemoteOutput):
        return object_store.workspace(plan.output, request.scratch_folder, staging=plan.staging)
    return local.workspace(plan.output, request.scratch_folder, staging=plan.staging)


def _stored_bytes(output: Output) -> int:
    return object_store.stored_bytes(output) if isinstance(output, RemoteOutput) else folder_bytes(output)


def _archive_of(plan: Plan, request: Request, reporter: Reporter) -> Archive:
    """Return the archive of an output that is there already; it is made where there is none."""
    if (there := existing(Path(str(plan.output)))) is not None:  # which nothing has to be locked or written for
        return there
    with _workspace(plan, request) as space:
        return _pack(space, reporter)


def _pack(space: local.Workspace, reporter: Reporter) -> Archive:
    """Make the archive of an output that is there; what goes wrong leaves the output as it is."""
    try:
        interruption.release()  # a large archive takes minutes
        with reporter.stage("archive") as progress:
            return pack(space, progress)
    except (StorageFailed, Interrupted) as failure:
        failure.message = f"the output is there and verified, its archive is not: {failure.message}"
        failure.remedy += '; then the same with if_exists="skip" makes the archive alone'
        raise


def _offer(archive: Archive | None, artifact: Path | None, reporter: Reporter) -> None:
    if archive is not None and artifact is not None and offer(archive, artifact):
        reporter.message("the archive goes to the artifact repository too")


def _complete(plan: Plan, reporter: Reporter) -> None:
    """Write the item of an output that has none: a run was killed just after the output got its name, or is an old one.

    Not that of an output which cannot be written to: it is as it was, and that is what was asked for.
    """
    if isinstance(plan.output, RemoteOutput):  # its item is there before its root is
        return
    place = Path(stac_item.address_of(plan.output))
    record = local.provenance(plan.output)
    if place.exists() or record is None:
        return
    try:
        with TemporaryDirectory(dir=place.parent, prefix=f".{place.name}.") as folder:
            beside = Path(folder) / place.name
            if _write_item(beside, plan, plan.output, record, reporter):
                beside.replace(place)
    except OSError as error:
        reporter.warning("no-item", f"its STAC item cannot be written: {error.strerror}", f"have {place} made writable")


def _write_item(path: Path, plan: Plan, store: Path, record: Mapping[str, Any], reporter: Reporter) -> bool:
    """Write the item of an output; one that cannot be described is an output all the same."""
    try:
        place = profile_of(plan.product).output_group
        stac_item.write(path, plan.product, store, str(plan.output), record, output_group=place)
    except stac_item.CANNOT_BE_DESCRIBED as error:
        text = f"it has no STAC item, as its metadata cannot be put into one: {type(error).__name__}: {error}"
        reporter.warning("no-item", text, "please report it with the log")
        return False
    return True


def _has_place_for_a_log(output: Path) -> bool:
    """Return whether a file may be left beside an output that may come to nothing: never inside of a product."""
    return (
        output.parent.is_dir()
        and (local.is_store(output) or not os.path.lexists(output))
        and not any(local.is_store(folder) for folder in output.parents)
    )


@dataclass(frozen=True, slots=True)
class _Converted:
    """An output that is complete, and what it took."""

    bytes_read: int
    verified: Verified
    empty: tuple[str, ...]
    check: SpotCheck


@dataclass(frozen=True, slots=True)
class _Work:
    """What a run works with: from the plan to a verified output."""

    request: Request
    space: local.Workspace
    converters: processes.Converters
    shares: Sequence[Sequence[Array]]
    reporter: Reporter

    def make(self, plan: Plan, output: Path) -> _Converted:
        """Stage, convert and verify."""
        with self.reporter.stage("stage") as progress:
            staged = stage(plan, self.space, progress, self.reporter)
        try:
            with self.reporter.stage("convert"):
                self._convert(plan, staged, output)
            with self.reporter.stage("verify") as progress:
                resources.keep_buffers()
                _finish(plan, output)
                verified = verify(plan, staged.url, output, progress)
        except ConverterKilled:
            raise
        except (ConverterFailed, ProductBroken, VerificationFailed) as failure:
            if (broken := diagnose(plan, staged.url)) is not None:
                raise broken from failure
            raise
        return _Converted(staged.bytes_read, verified, staged.empty, staged.check)

    def make_in_turn(self, plan: Plan) -> _Converted:
        """Make one group after the other, each with all of the scratch space, and join what came out."""
        call = profile_of(plan.product).call
        outputs, made = [], []
        for number, group in enumerate(plan.groups):
            part = replace(plan, groups=(group,), call=call(plan.product, (group,), plan.options))
            outputs.append(self.space.folder / f"group-{number}.zarr")
            self.space.clear()
            # Cores that several groups would have kept busy are this one's.
            made.append(replace(self, shares=_shares(self.request, part)).make(part, outputs[-1]))
        self.space.clear()
        with local.storage_errors(self.space.folder):
            join(outputs, self.space.writing)
        verified = Verified(
            tuple(group for each in made for group in each.verified.groups),
            sum(each.verified.variables for each in made),
            sum(each.verified.pixels_compared for each in made),
        )
        empty = dict.fromkeys(path for each in made for path in each.empty)
        check = sum((each.check for each in made), SpotCheck())
        return _Converted(sum(each.bytes_read for each in made), verified, tuple(empty), check)

    def _convert(self, plan: Plan, staged: Staged, output: Path) -> None:
        if not self.shares or local_path(staged.url) is None:
            self._run_converters(plan, [(staged.url, plan.call)], [output])
            return
        self.reporter.message(f"{len(self.shares)} converters side by side")
        outputs = [output.with_name(f"{output.stem}-{number}.zarr") for number, _ in enumerate(self.shares)]
        self._run_converters(plan, list(self._inputs(plan, Path(staged.url))), outputs)
        try:
            with local.storage_errors(self.space.folder):
                join(outputs, output)
        except ConverterFailed as failure:
            self.reporter.warning("not-divided", f"{failure.message}: one converter does all of it")
            with local.storage_errors(self.space.folder):
                for half in (output, *outputs):
                    shutil.rmtree(half, ignore_errors=not half.exists())
            self._run_converters(plan, [(staged.url, plan.call)], [output])

    def _run_converters(self, plan: Plan, inputs: Sequence[tuple[str, ConverterCall]], outputs: Sequence[Path]) -> None:
        expected = planned_arrays(plan.product, plan.groups, plan.options)
        # Coordinates are not counted beforehand: they are few, small, and the first things that are written.
        total = sum(array.objects for array in expected) if expected else None
        command = self.converters.command
        commands = [
            processes.build_argv(command, source, str(output), call, self.request.options)
            for (source, call), output in zip(inputs, outputs, strict=True)
        ]
        progress = self.reporter.progress("convert")

        def tick() -> None:
            done = sum(processes.count_chunks(output) for output in outputs)
            progress(done if total is None else min(done, total), total, "chunks")

        for argv in commands:
            self.reporter.emit("log", source="runner", text="running " + " ".join(redact(word) for word in argv))
        self.converters.run(
            commands,
            environment(plan, len(commands)),
            on_line=lambda line: self.reporter.emit("log", source="converter", text=line),
            on_tick=tick,
        )
        tick()
        if total is not None:  # what holds no data is stored in no object
            progress(total, total, "chunks")

    def _inputs(self, plan: Plan, source: Path) -> Iterator[tuple[str, ConverterCall]]:
        """Yield what each converter reads, and what to tell it."""
        for number, arrays in enumerate(self.shares):
            view = self.space.scratch / f"input-{number}.zarr"
            with local.storage_errors(view):
                make_view(plan, arrays, source, view)
            groups = tuple(dict.fromkeys(array.path.rpartition("/")[0] for array in arrays))
            yield (
                str(view),
                profile_of(plan.product).call(plan.product, groups, plan.options) if plan.groups else plan.call,
            )


def _shares(request: Request, plan: Plan) -> list[list[Array]]:
    """Return what each of several converters would do; none where one does all."""
    return (
        [] if request.options["dask_cluster"] else split(plan, cores=resources.cores(), memory=resources.free_memory())
    )


def environment(plan: Plan, count: int) -> dict[str, str]:
    """Return the variables of so many converters: several share the cores, one has them all by itself."""
    cores, memory = resources.cores(), resources.free_memory()
    largest = max(8 * math.prod(array.shape) for group in plan.product.groups.values() for array in group.arrays)
    variables = resources.allocator(largest)
    number = cores
    if count > 1:
        number = threads(plan, count, cores=cores, memory=memory)
        variables |= resources.threads(number)
    read = worth_reading(plan.product, plan.groups)
    needed = count * memory_of_part(plan.product, plan.groups, number, read=read or 0, options=plan.options)
    if read and (memory is None or needed <= memory):
        variables |= resources.read_at_once(read)
    return variables


def _finish(plan: Plan, output: Path) -> None:
    """Take out what only had to lie in the converter's input, and consolidate where the converter does not."""
    profile = profile_of(plan.product)
    made = {array.path.rpartition("/")[0] for array in profile.made_arrays(plan.product)}
    local.remove_groups(output, made)
    if plan.groups:
        beside = (*profile.companions(plan.product, plan.groups), *profile.empty_groups(plan.product))
        local.remove_groups(output, {path for path in beside if not _holds(path, plan.groups)})
    local.consolidate(output)


def _holds(path: str, groups: Sequence[str]) -> bool:
    return any(f"{group}/".startswith(f"{path}/") for group in groups)


def _provenance(
    plan: Plan, request: Request, made: _Converted, started: datetime, releases: Mapping[str, str]
) -> dict[str, Any]:
    verified = made.verified
    return {
        "schema": local.RECORD_VERSION,
        "request": request.identity or None,
        "input": {
            "url": redact(plan.product.url),
            "name": plan.product.name,
            "kind": plan.product.kind,
            "identity": plan.product.identity,
        },
        "groups": list(plan.groups),
        # Those of 0.1.0 at the top, where it looks for them.
        **{name: value for name, value in plan.options.items() if OPTIONS[name].parameter},
        "options": dict(plan.options),
        "verified": {
            "variables": verified.variables,
            "pixels_compared": verified.pixels_compared,
            "read_again": made.check.to_dict(),
            "without_chunks": list(made.empty),
        },
        "versions": releases,
        "started": started.isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _report_result(
    reporter: Reporter,
    plan: Plan,
    request: Request,
    releases: Mapping[str, str],
    *,
    bytes_read: int = 0,
    bytes_written: int,
    start: float,
    archive: Archive | None,
) -> None:
    reporter.emit(
        "result",
        path=str(plan.output),
        groups=list(plan.groups),
        skipped=plan.done,
        bytes_read=bytes_read,
        bytes_written=bytes_written,
        seconds=round(time.monotonic() - start, 3),
        versions=releases,
        identity=request.identity or None,
        archive=archive and {"path": str(archive.path), "bytes": archive.bytes, "sha256": archive.sha256},
    )


def folder_bytes(folder: Path) -> int:
    """Return the size of all files below a folder."""
    return sum((Path(parent) / name).lstat().st_size for parent, _, names in os.walk(folder) for name in names)


def versions(converter: str = "") -> Mapping[str, str]:
    """Return the versions of what takes part in a conversion, where it is installed.

    Parameters
    ----------
    converter
        The path of a converter in another environment, which has libraries of its own; empty for none.
    """
    found = {}
    for name in REPORTED_VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    if not converter:
        return found
    own = {name: release for name, release in found.items() if name not in PACKAGES}
    return {**own, **releases_of(str(expanded(converter)))}

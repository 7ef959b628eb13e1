"""One run, from the request to the published output: the stages in their order."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from geozarr_runner import interruption
from geozarr_runner.conversion import Conversion, Converted, environment, shares_of
from geozarr_runner.converter import processes
from geozarr_runner.converter.command import PACKAGES, find_converter, releases_of
from geozarr_runner.errors import Interrupted, StorageFailed
from geozarr_runner.events import Reporter
from geozarr_runner.kinds.profiles import profile_of
from geozarr_runner.planning import resources
from geozarr_runner.planning.preflight import Plan, preflight
from geozarr_runner.publishing import local, object_store, root_document, stac_item
from geozarr_runner.publishing.archive import Archive, discard, existing, offer, pack
from geozarr_runner.publishing.remote_output import Output, RemoteOutput
from geozarr_runner.spec.options import OPTIONS
from geozarr_runner.spec.request import Request
from geozarr_runner.staging.view import DoesNotFit
from geozarr_runner.stores.access.failures import storage_errors
from geozarr_runner.trust.addresses import expanded, redact

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
    owner: str = "",
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
    owner
        Who has this run made, and makes it again where its end is lost: what an earlier one has written counts as done.
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
        plan = preflight(request, reporter, keep if log_refused else lambda _: None, within=within, owner=owner)
    if plan.done:
        _complete(plan, reporter)
        archive = _archive_of(plan, request, reporter) if request.options["archive"] else None
        _offer(archive, artifact, reporter)
        size = _stored_bytes(plan.output)
        releases = versions(converter)
        _report_result(reporter, plan, request, releases, bytes_written=size, start=start, archive=archive)
        return Result(plan.output, plan.groups, skipped=True)
    command = find_converter(converter)
    shares = shares_of(request, plan)
    count = len(shares) or 1
    with (
        _workspace(plan, request) as space,
        processes.Converters(command, environment(plan, count), load=count, about=space.folder) as converters,
    ):
        with storage_errors(space.output.parent):
            open_log(plan.output)
        work = Conversion(request, space, converters, shares, reporter)
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
            record = _provenance(plan, request, made, started, versions(converter), owner)
            root_document.record_provenance(space.writing, record)
            size = folder_bytes(space.writing)
            with storage_errors(space.item):
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
    record = root_document.provenance(plan.output)
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


def _provenance(
    plan: Plan, request: Request, made: Converted, started: datetime, releases: Mapping[str, str], owner: str
) -> dict[str, Any]:
    verified = made.verified
    return {
        "schema": root_document.RECORD_VERSION,
        "request": request.identity or None,
        **({root_document.OWNER: owner} if owner else {}),
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

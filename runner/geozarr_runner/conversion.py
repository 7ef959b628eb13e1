"""The conversion of a planned output: staged, converted, by several converters where that helps, and verified."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from geozarr_runner.converter import processes
from geozarr_runner.converter.parallel import join, split, threads
from geozarr_runner.errors import ConverterFailed, ConverterKilled, ProductBroken, VerificationFailed
from geozarr_runner.events import Reporter
from geozarr_runner.kinds.base import ConverterCall
from geozarr_runner.kinds.profiles import planned_arrays, profile_of
from geozarr_runner.planning import resources
from geozarr_runner.planning.memory import memory_of_part, worth_reading
from geozarr_runner.planning.preflight import Plan
from geozarr_runner.product.model import Array
from geozarr_runner.publishing import local, root_document
from geozarr_runner.spec.request import Request
from geozarr_runner.staging.lifted import lifted, lifts
from geozarr_runner.staging.spot_check import SpotCheck
from geozarr_runner.staging.view import Staged, make_view, stage
from geozarr_runner.stores.access.failures import storage_errors
from geozarr_runner.trust.addresses import local_path, redact
from geozarr_runner.verification.diagnosis import diagnose
from geozarr_runner.verification.verify import Verified, verify


@dataclass(frozen=True, slots=True)
class Converted:
    """An output that is complete, and what it took."""

    bytes_read: int
    verified: Verified
    empty: tuple[str, ...]
    check: SpotCheck


@dataclass(frozen=True, slots=True)
class Conversion:
    """What a run works with: from the plan to a verified output."""

    request: Request
    space: local.Workspace
    converters: processes.Converters
    shares: Sequence[Sequence[Array]]
    reporter: Reporter

    def make(self, plan: Plan, output: Path) -> Converted:
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
        return Converted(staged.bytes_read, verified, staged.empty, staged.check)

    def make_in_turn(self, plan: Plan) -> Converted:
        """Make one group after the other, each with all of the scratch space, and join what came out."""
        call = profile_of(plan.product).call
        outputs, made = [], []
        for number, group in enumerate(plan.groups):
            part = replace(plan, groups=(group,), call=call(plan.product, (group,), plan.options))
            outputs.append(self.space.folder / f"group-{number}.zarr")
            self.space.clear()
            # Cores that several groups would have kept busy are this one's.
            made.append(replace(self, shares=shares_of(self.request, part)).make(part, outputs[-1]))
        self.space.clear()
        with storage_errors(self.space.folder):
            join(outputs, self.space.writing)
        verified = Verified(
            tuple(group for each in made for group in each.verified.groups),
            sum(each.verified.variables for each in made),
            sum(each.verified.pixels_compared for each in made),
        )
        empty = dict.fromkeys(path for each in made for path in each.empty)
        check = sum((each.check for each in made), SpotCheck())
        return Converted(sum(each.bytes_read for each in made), verified, tuple(empty), check)

    def _convert(self, plan: Plan, staged: Staged, output: Path) -> None:
        if not self.shares or local_path(staged.url) is None:
            self._run_converters(plan, [(staged.url, plan.call)], [output])
            return
        self.reporter.message(f"{len(self.shares)} converters side by side")
        outputs = [output.with_name(f"{output.stem}-{number}.zarr") for number, _ in enumerate(self.shares)]
        self._run_converters(plan, list(self._inputs(plan, Path(staged.url))), outputs)
        try:
            with storage_errors(self.space.folder):
                join(outputs, output)
        except ConverterFailed as failure:
            self.reporter.warning("not-divided", f"{failure.message}: one converter does all of it")
            with storage_errors(self.space.folder):
                for half in (output, *outputs):
                    shutil.rmtree(half, ignore_errors=not half.exists())
            self._run_converters(plan, [(staged.url, plan.call)], [output])

    def _run_converters(self, plan: Plan, inputs: Sequence[tuple[str, ConverterCall]], outputs: Sequence[Path]) -> None:
        expected = planned_arrays(plan.product, plan.groups, plan.options)
        # Coordinates are not counted beforehand: they are few, small, and the first things that are written.
        total = sum(array.objects for array in expected) if expected else None
        command = self.converters.command
        inputs = [(self._lifted(plan, source, number), call) for number, (source, call) in enumerate(inputs)]
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

    def _lifted(self, plan: Plan, source: str, number: int) -> str:
        """Return a converter's input; of a product whose data lie in its root a view that shows them in a group."""
        if not lifts(plan.product, plan.groups or plan.report.available):
            return source
        view = self.space.scratch / f"lifted-{number}.zarr"
        with storage_errors(view):
            shutil.rmtree(view, ignore_errors=not view.exists())
            return str(lifted(plan.product, Path(source), view))

    def _inputs(self, plan: Plan, source: Path) -> Iterator[tuple[str, ConverterCall]]:
        """Yield what each converter reads, and what to tell it."""
        for number, arrays in enumerate(self.shares):
            view = self.space.scratch / f"input-{number}.zarr"
            with storage_errors(view):
                make_view(plan, arrays, source, view)
            groups = tuple(dict.fromkeys(array.path.rpartition("/")[0] or "/" for array in arrays))
            yield (
                str(view),
                profile_of(plan.product).call(plan.product, groups, plan.options) if plan.groups else plan.call,
            )


def shares_of(request: Request, plan: Plan) -> list[list[Array]]:
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
    root_document.remove_groups(output, made)
    if plan.groups:
        beside = (*profile.companions(plan.product, plan.groups), *profile.empty_groups(plan.product))
        root_document.remove_groups(output, {path for path in beside if not _holds(path, plan.groups)})
    root_document.consolidate(output)


def _holds(path: str, groups: Sequence[str]) -> bool:
    return any(f"{group}/".startswith(f"{path}/") for group in groups)

"""Checks of this machine, each with what to do about it."""

from __future__ import annotations

import errno
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from geozarr_nb.doctor.findings import Finding, Verdict
from geozarr_nb.errors import StateUnusable
from geozarr_nb.ownership import check_folder
from geozarr_nb.settings import Settings
from geozarr_runner.converter.command import COMMAND, TESTED, VARIABLE, find_converter, releases_of
from geozarr_runner.errors import GeozarrError
from geozarr_runner.events import human_bytes
from geozarr_runner.planning.resources import cores as usable_cores
from geozarr_runner.planning.resources import free_memory
from geozarr_runner.publishing.object_store import root_document, scratch_folder
from geozarr_runner.publishing.remote_output import RemoteOutput, output_place
from geozarr_runner.text.shell import literal
from geozarr_runner.trust import folders
from geozarr_runner.trust.addresses import expanded, local_path, redact

if TYPE_CHECKING:
    import pystac

    from geozarr_runner.planning.estimate import Estimate
    from geozarr_runner.product.model import Product, Source

OLDEST_PYTHON = (3, 12)
INSTALL = 'python -m pip install "geozarr-nb[local]"'

# Where no product was given to estimate: the most that any choice of groups of a full Sentinel-2 tile needs. Memory is
# that of its 10 m bands (10980 x 10980 pixels, as the runner's estimate has it), disk that of the whole product.
MEMORY_OF_A_TILE = 6_300_000_000
OUTPUT_OF_A_TILE = 6_000_000_000
# Job folders hold events and logs; a run's log is some megabytes.
SPACE_FOR_STATE = 100_000_000


def versions(*, of_the_converter: bool, converter: str = "") -> Iterator[Finding]:
    """Check what is installed here.

    Parameters
    ----------
    of_the_converter
        Also what runs the conversions; without, what submits them to a cluster.
    converter
        The path of a converter in another environment, which is looked at instead; empty for none.
    """
    python = platform.python_version()
    why = f"the converter needs Python {'.'.join(map(str, OLDEST_PYTHON))} or newer"
    if sys.version_info[:2] >= OLDEST_PYTHON:
        yield Finding("Python", "ok", python, why)
    else:
        yield Finding("Python", "problem", python, why, f"python3.13 -m venv .venv && .venv/bin/{INSTALL}")
    yield _version("geozarr-runner", "it reads products, and runs the conversions", INSTALL)
    if not of_the_converter:
        yield _version("kubernetes", "it talks to the cluster", 'python -m pip install "geozarr-nb[cluster]"')
        return
    if converter:
        yield _converter(converter)
        return
    elsewhere = f"or {VARIABLE}=/path/to/{COMMAND} for a converter in another environment"
    yield _version(
        COMMAND,
        f"it is the converter; this package was tested with {TESTED}",
        f"{INSTALL}, {elsewhere}",
        lambda found: found == _numbers(TESTED),
        wrong="warning",
    )
    yield _version(
        "xarray",
        "with 2026.9 or newer every Sentinel-2 conversion fails",
        f'python -m pip install "xarray<2026.9", {elsewhere}',
        lambda found: found < (2026, 9),
    )
    yield _version(
        "zarr",
        "the converter works with zarr 3.2 and 3.3",
        f'python -m pip install "zarr>=3.2,<3.4", {elsewhere}',
        lambda found: (3, 2) <= found < (3, 4),
    )


def _converter(named: str) -> Finding:
    """Check a converter that is in another environment."""
    why = f"it is the converter that {VARIABLE} names; this package was tested with {TESTED}"
    try:
        command = find_converter(named)
    except GeozarrError as error:
        return Finding(COMMAND, "problem", f"{error.message} ({error.given})", why, error.remedy)
    releases = releases_of(command)
    if COMMAND not in releases:
        remedy = "name the command that pip installed, if you want it checked"
        return Finding(COMMAND, "warning", f"{command}, of an unknown release", why, remedy)
    found = f"{command}, " + ", ".join(f"{name} {release}" for name, release in releases.items())
    return Finding(COMMAND, "ok", found, why)


def _version(
    package: str,
    why: str,
    remedy: str,
    fits: Callable[[tuple[int, ...]], bool] = lambda _: True,
    *,
    wrong: Verdict = "problem",
) -> Finding:
    # Metadata tell a version in a millisecond; importing the converter takes seconds and asks the network.
    try:
        found = metadata.version(package)
    except metadata.PackageNotFoundError:
        return Finding(package, "problem", "not installed", why, remedy)
    if fits(_numbers(found)):
        return Finding(package, "ok", found, why)
    return Finding(package, wrong, found, why, remedy)


def _numbers(text: str) -> tuple[int, ...]:
    release = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(int(part) for part in release[0].split(".")) if release else ()


def processor() -> Iterator[Finding]:
    """Check cores and C library."""
    cores = usable_cores()
    why = "the converter compresses in one thread while it reads in another"
    if cores > 1:
        yield Finding("cores", "ok", str(cores), why)
    else:
        yield Finding("cores", "warning", str(cores), why, "expect about twice the time, or use a larger machine")
    library, number = platform.libc_ver()
    why = "the settings that keep the converter's memory small are glibc's"
    if library == "glibc":
        yield Finding("C library", "ok", f"glibc {number}", why)
    else:
        found = f"{library} {number}".strip() or f"none known on {platform.system()}"
        yield Finding("C library", "warning", found, why, "expect slower runs and more memory, or use a glibc system")


def load_settings() -> tuple[Settings, list[Finding]]:
    """Return the settings, or their defaults where they cannot be used."""
    why = "it holds what is used where an argument is left out"
    try:
        settings = Settings.load()
    except GeozarrError as error:
        found = f"{error.message} ({error.given})" if error.given else error.message
        return Settings(), [Finding("params.json", "problem", found, why, error.remedy)]
    groups = settings.groups or "the whole product"
    origin = redact(settings.origins.get("groups", "default"))
    return settings, [
        Finding("params.json", "ok", f"sound; groups: {groups} (from {origin})", why),
        Finding("settings", "ok", settings.listed(), "they hold where an argument is left out"),
    ]


def check_product(source: Source | Product | pystac.Item) -> tuple[Product | None, list[Finding]]:
    """Return a product, and whether it can be read; None where it can not."""
    from geozarr_runner.inspection.reader import open_product

    why = "a conversion reads it from this machine"
    start = monotonic()
    try:
        product = open_product(source)
    except GeozarrError as error:
        given = f" ({error.given})" if error.given is not None else ""
        return None, [Finding("product", "problem", f"{error.message}{given}", why, error.remedy)]
    found = f"{product.kind} {product.name}, {len(product.groups)} groups, read in {monotonic() - start:.1f} s"
    if product.consolidated:
        return product, [Finding("product", "ok", found, why)]
    remedy = "zarr.consolidate_metadata(store), by whoever can write to it"
    return product, [Finding("product", "warning", f"{found}, without consolidated metadata", why, remedy)]


def check_groups(product: Product, wanted: str) -> tuple[list[Finding], Estimate | None]:
    """Check the groups of the settings against a product; returns also what their conversion will cost."""
    from geozarr_runner.planning.estimate import estimate
    from geozarr_runner.planning.groups import report

    why = "these are converted where no groups are given"
    try:
        groups = report(product, wanted)
        cost = estimate(product, groups.found or None)
    except GeozarrError as error:
        return [Finding("groups", "problem", error.message, why, error.remedy or "choose groups of this product")], None
    if groups.ok:
        chosen = ", ".join(groups.found) or "the whole product"
        return [Finding("groups", "ok", f"{chosen}: all there", why)], cost
    near = [name for suggested in groups.suggestions.values() for name in suggested] or list(groups.available[:5])
    lacking = ", ".join((*groups.missing, *groups.unfit))
    found = f"the product has no {lacking} that could be converted"
    return [Finding("groups", "warning", found, why, " or ".join(f"groups=[{literal(path)}]" for path in near))], cost


def check_memory(estimate: Estimate | None) -> Finding:
    """Check the memory that is free here."""
    import psutil

    limit = free_memory()
    available = psutil.virtual_memory().available if limit is None else min(psutil.virtual_memory().available, limit)
    needed, of_what = (estimate.memory_bytes, "this product") if estimate else (MEMORY_OF_A_TILE, "a full tile")
    found = f"{human_bytes(available)} free, {of_what} needs about {human_bytes(needed)}"
    why = "a converter without memory is killed by the system, without a word"
    if available >= needed:
        return Finding("memory", "ok", found, why)
    remedy = "close other programs, convert fewer groups at once (groups=...), or use a larger machine"
    return Finding("memory", "warning", found, why, remedy)


def check_space(settings: Settings, output: str | os.PathLike[str], estimate: Estimate | None) -> Iterator[Finding]:
    """Check every folder that a run writes to, and the object store where it writes to one."""
    needed = estimate.output_bytes if estimate else OUTPUT_OF_A_TILE
    staging = estimate.staging_bytes if estimate else 0
    # A tile's size is a guess about what will be asked for, an estimate is not.
    lacking: Verdict = "problem" if estimate else "warning"
    state = _folder(
        "state folder", settings.state_dir, SPACE_FOR_STATE, "jobs are kept here, so that they outlive a session"
    )
    given = os.fspath(output)
    try:
        target = local_path(given)
    except GeozarrError as error:
        yield Finding("output folder", "problem", error.message, "the output is written there", error.remedy)
        yield state
        return
    if target is None:
        yield _store(given)
        folder = scratch_folder(expanded(settings.scratch) if settings.scratch else None)
        why = "the narrowed input, and the output until it is uploaded, are kept here during a run"
        yield _folder("scratch folder", folder, needed + staging, why, lacking)
        yield state
        return
    # The output's own folder may already be there (if_exists="overwrite"); what is written goes beside it.
    folder = target if target.is_dir() and not (target / "zarr.json").exists() else target.parent
    scratch = expanded(settings.scratch) if settings.scratch else folder
    together = scratch == folder
    yield _folder("output folder", folder, needed + (staging if together else 0), "the output is written here", lacking)
    if not together:
        yield _folder("scratch folder", scratch, staging, "the narrowed input is kept here during a run", lacking)
    yield state


def _store(output: str) -> Finding:
    """Look at an output's place in an object store; whether it can be written is known when a run does."""
    why = "the output is uploaded there"
    try:
        place = output_place(output)
        is_there = isinstance(place, RemoteOutput) and root_document(place) is not None
    except GeozarrError as error:
        return Finding("object store", "problem", f"{error.message}: {redact(output)}", why, error.remedy)
    return Finding("object store", "ok", f"{place}: {'an output is' if is_there else 'nothing is'} there", why)


def _folder(name: str, folder: Path, needed: int, why: str, lacking: Verdict = "problem") -> Finding:
    another = {"state folder": "set GEOZARR_STATE_DIR", "scratch folder": "set GEOZARR_SCRATCH"}.get(
        name, "choose another output"
    )
    try:
        if name == "state folder":
            check_folder(folder)
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        if not existing.is_dir():
            return Finding(name, "problem", f"{existing} is a file", why, f"move it away, or {another}")
        try:
            folders.check_writable(existing)
        except OSError as error:
            remedy = another if error.errno == errno.EROFS else f"chmod u+wx {existing}, or {another}"
            return Finding(name, "problem", f"{existing} cannot be written: {error.strerror}", why, remedy)
        free = shutil.disk_usage(existing).free
    except StateUnusable as error:
        return Finding(name, "problem", f"{folder}: {error.message}", why, error.remedy)
    except OSError as error:
        return Finding(name, "problem", f"{folder}: {error.strerror}", why, another)
    found = f"{folder}: {human_bytes(free)} free, about {human_bytes(needed)} needed"
    if free >= needed:
        return Finding(name, "ok", found, why)
    return Finding(name, lacking, found, why, f"make space (du -sh {existing}/*), or {another}")

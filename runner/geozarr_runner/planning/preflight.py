"""Decides, before anything is read or written, whether and how a request can be done."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from geozarr_runner.errors import InvalidRequest, OutputExists, StorageFull
from geozarr_runner.events import Reporter, human_bytes
from geozarr_runner.inspection.reader import open_product
from geozarr_runner.kinds import spelling
from geozarr_runner.kinds.base import ConverterCall
from geozarr_runner.kinds.profiles import check_options, encoding_of, profile_of
from geozarr_runner.planning.estimate import check_count, needed
from geozarr_runner.planning.groups import GroupReport, report
from geozarr_runner.product.emptiness import sentence
from geozarr_runner.product.model import Array, Product
from geozarr_runner.publishing import archive, local, object_store, root_document
from geozarr_runner.publishing.remote_output import ALIASES, Output, RemoteOutput, output_place
from geozarr_runner.spec.options import RESULT, of_result, passed_on
from geozarr_runner.spec.request import Request
from geozarr_runner.stores.access.failures import storage_errors
from geozarr_runner.text.printable import printable
from geozarr_runner.trust.addresses import local_path, redact
from geozarr_runner.trust.bounds import from_json
from geozarr_runner.trust.names import output_name

CONVERTER_OPENS = ("http://", "https://", "s3://", "gs://")
SMALLEST_SPACE = 50_000_000


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run will do.

    Attributes
    ----------
    groups
        The groups to convert; empty for the whole product.
    call
        What to tell the converter.
    narrowed
        True where the converter is given a view instead of the product itself.
    readable
        False where the converter cannot read the product itself.
    done
        True where the output is there already, made from the same request.
    options
        The options of the request that determine the result.
    """

    product: Product
    output: Output
    groups: tuple[str, ...]
    report: GroupReport
    call: ConverterCall
    narrowed: bool
    readable: bool
    done: bool
    options: Mapping[str, Any]

    @property
    def staging(self) -> str:
        """A name for the input of the converter, the same for the same groups of the same product."""
        text = " ".join((self.product.url, self.product.identity, *sorted(self.groups)))
        return f"input-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    def is_product(self, url: str) -> bool:
        """Return whether the converter's input is the product itself, and no view of it."""
        return url in (self.product.url, str(self.product.store.local))


def preflight(
    request: Request,
    reporter: Reporter,
    on_output: Callable[[Output], None] = lambda _: None,
    *,
    product: Product | None = None,
    within: Path | None = None,
    owner: str = "",
) -> Plan:
    """Read the product's structure, compare it with the request, and look at where the output will lie.

    Parameters
    ----------
    on_output
        Called with the output's place as soon as it is known to be allowed: before the product is read, unless the
        output is named after it.
    product
        The request's product, where somebody has opened it already.
    within
        The folder outside of which the output may not lie, unless it is in an object store.
    owner
        See `run`.

    Raises
    ------
    ProductUnreachable
        And its kinds: the product cannot be read.
    GroupsMissing
        A group is missing and `validate_groups` asks for all, or none is left.
    OutputExists, InvalidRequest, StorageFailed
        And their kinds: the output cannot be written there.
    """
    options = request.options
    output = None if request.output == "" else _output(request.output, within)
    if output is not None:
        on_output(output)
    if product is None:
        named_by_item = "" if request.item else None  # an item's claim of where it is from is no person's word
        product = open_product(request.source, asked=named_by_item if request.asked is None else request.asked)
        if request.item and not product.item:
            product = replace(product, item={"href": request.item})
    if output is None:
        output = _output(output_name(product.name), within)
        on_output(output)
    source = local_path(product.url)
    if isinstance(output, RemoteOutput):
        is_within = _overlaps(product.url, output)
    else:
        is_within = source is not None and _overlap(source, output)
    if is_within:
        raise InvalidRequest(
            "input and output may not lie in one another",
            given=f"{redact(product.url)} and {output}",
            remedy="choose an output beside the product",
        )
    reporter.message(f"{product.kind}: {product.name} at {redact(product.url)}")
    found = report(product, request.groups, options=options, reads=True)
    for line in found.lines:
        reporter.message(line)
    found.raise_for_missing(all_needed=bool(options["validate_groups"]))
    check_count(product, found.found)
    check_options(product, found.found, options)
    if options["packed"]:
        reporter.warning(
            "zero-for-no-data",
            "with packed=True the converter gives pixels without data the reflectance 0 in levels coarser than 60 m",
            "leave packed out where a scene has such pixels and these levels are more than pictures",
        )
    for lost in (*found.missing, *found.unfit):
        why = found.unfit.get(lost, "the product does not have it")
        near = found.suggestions.get(lost, ())
        reporter.warning("group-dropped", f"{lost} is left out: {why}", f"choose {' or '.join(near)}" if near else "")
    for path in found.empty:
        reporter.warning("no-chunks", sentence(path), "ask whoever publishes the product whether that is meant")
    for without in found.warnings:
        reporter.warning("no-effect", without)
    call = profile_of(product).call(product, found.found, options)
    for option in passed_on(options):
        if option.converter in call.lacks:
            reporter.warning("no-effect", f"{option.name} has no effect: the converter has it not for this product")
    done = _look_at_output(output, product, found.found, request, owner)
    if options["archive"]:
        archive.check_name(output, if_exists="skip" if done else options["if_exists"])
    if not done:
        scratch = (
            object_store.scratch_folder(request.scratch_folder)
            if isinstance(output, RemoteOutput)
            else request.scratch_folder
        )
        for place in (output, scratch):
            if _is_cut_off(place):
                raise InvalidRequest(
                    "the converter takes ? and # in a path for the end of an address",
                    given=place,
                    remedy="choose an output and a scratch folder without them",
                )
        _look_at_space(
            object_store.scratch_folder(request.scratch_folder) if isinstance(output, RemoteOutput) else output.parent
        )
    is_lifted = "/" in (found.found or found.available)
    readable = not is_lifted and _readable(product, found.found, options)
    return Plan(
        product=product,
        output=output,
        groups=found.found,
        report=found,
        call=call,
        # The converter downloads a stored chunk once for each of its own chunks that touches it: staged, it comes once.
        narrowed=bool(found.found) or product.store.local is None or not readable,
        readable=readable,
        done=done,
        options={name: value for name, value in options.items() if name in RESULT},
    )


def _output(name: str, within: Path | None) -> Output:
    output = output_place(name)
    if within is None or isinstance(output, RemoteOutput):
        return output
    return local.inside(output, within)


def _look_at_output(output: Output, product: Product, groups: tuple[str, ...], request: Request, owner: str) -> bool:
    """Return whether the output is there and done; raise where it is in the way."""
    if isinstance(output, RemoteOutput):
        root = object_store.root_document(output)
        if root is None:
            return False
        return is_done(output, root_document.provenance_in(root), product, groups, request, owner=owner)
    if not os.path.lexists(output) and os.path.lexists(local.retired(output)):
        local.discard_leftovers(output)  # a run was killed between its two renames: the old output comes back
    if not os.path.lexists(output):
        return False
    if not local.is_store(output):
        raise OutputExists(
            "something that is no Zarr store has this name; it will not be touched",
            given=output,
            remedy="choose another output",
        )
    done = is_done(output, root_document.provenance(output), product, groups, request, owner=owner)
    if not done:
        with storage_errors(output):
            local.check_replaceable(output)
    return done


def is_done(
    output: object,
    record: Mapping[str, Any] | None,
    product: Product,
    groups: Sequence[str],
    request: Request,
    *,
    owner: str = "",
) -> bool:
    """Return whether an output that is there is what a request asks for; False where it is to be replaced.

    Parameters
    ----------
    record
        How it was made, as `publish.provenance` has it.
    owner
        Who has this run made, if anybody: what an earlier run of the same owner has written is done.

    Raises
    ------
    OutputExists
        It is in the way.
    """
    if owner and record and record.get(root_document.OWNER) == owner:
        return True
    if request.options["if_exists"] == "overwrite":
        return False
    if request.options["if_exists"] == "error":
        raise OutputExists(
            "the output exists",
            given=output,
            remedy='choose another output, or if_exists="skip" (keep it) or if_exists="overwrite" (replace it once the '
            "new one is verified)",
        )
    schema = record.get("schema") if record else None
    if isinstance(schema, int) and schema > root_document.RECORD_VERSION:
        raise OutputExists(
            "the output exists, and a later version of this package has made it",
            given=output,
            remedy='pip install -U geozarr-nb, choose another output, or if_exists="overwrite"',
        )
    made = _EarlierOutput.of(record)
    # The order of the groups changes nothing in what is made of them.
    wanted = (product.identity, frozenset(groups), of_result(request.options))
    if made is None or (made.identity, frozenset(made.groups), made.options) != wanted:
        raise OutputExists(
            "the output exists and was made from another request",
            given=f"{output}: {made or 'no record of how'}",
            remedy='choose another output, or if_exists="overwrite"',
        )
    return True


@dataclass(frozen=True, slots=True)
class _EarlierOutput:
    """What an output's record says of how it was made; an output may be anybody's."""

    url: str
    identity: str
    groups: tuple[str, ...]
    options: Mapping[str, Any]

    @classmethod
    def of(cls, record: Mapping[str, Any] | None) -> _EarlierOutput | None:
        """Read a record; None where there is none that could be understood."""
        source = record.get("input") if record else None
        groups = record.get("groups", []) if record else None
        if not record or not isinstance(source, dict) or not isinstance(groups, list):
            return None
        options = record.get("options", record)  # 0.1.0 had them at the top
        return cls(
            str(source.get("url")),
            str(source.get("identity")),
            tuple(map(str, groups)),
            of_result(options if isinstance(options, dict) else record),
        )

    def __str__(self) -> str:
        options = "".join(f", {name}={value!r}" for name, value in self.options.items())
        return printable(f"{self.url}, groups {list(self.groups)}{options}")


def _look_at_space(place: Path) -> None:
    existing = next(folder for folder in (place, *place.parents) if os.path.exists(folder))  # noqa: PTH110  never raises
    usage = shutil.disk_usage(existing)
    if usage.total and usage.free < SMALLEST_SPACE:  # some mounts do not tell their size
        raise StorageFull(
            f"only {human_bytes(usage.free)} are free, and {human_bytes(SMALLEST_SPACE)} are the least that is needed",
            given=existing,
            remedy="make space there, or choose an output on another disk",
        )


def _overlap(source: Path, output: Path) -> bool:
    one, other = source.resolve(), output.resolve()
    return one == other or one in other.parents or other in one.parents


def _overlaps(source: str, output: RemoteOutput) -> bool:
    protocol, _, path = redact(source).partition("://")
    one, other = f"{ALIASES.get(protocol, protocol)}://{path.strip('/')}/", f"{output}/"
    return one.startswith(other) or other.startswith(one)


def _is_cut_off(place: object) -> bool:
    """Return whether the converter would open another path than this one."""
    return isinstance(place, Path) and bool({"?", "#"} & set(str(place)))


def _readable(product: Product, groups: Iterable[str], options: Mapping[str, Any]) -> bool:
    """Return whether the converter can open and convert the product as it stands; else it needs a mended view."""
    # It takes every other address for a path, and a signature for a part of the name. A password would be seen by
    # everyone on this machine in its command line.
    # Credentials would go wherever its server redirects to.
    plain = product.url.startswith(CONVERTER_OPENS) and product.url == redact(product.url) and not product.store.is_told
    if product.store.local is None and not plain:
        return False
    if _is_cut_off(product.store.local) or profile_of(product).made_arrays(product):
        return False
    if product.consolidated and product.store.local is not None and not _says_the_same(product):
        return False
    arrays = needed(product, groups)
    if any(attributes_for_converter(product, array, options) is not array.attributes for array in arrays):
        return False
    texts = (array for group in product.groups.values() for array in group.arrays if array.is_text)
    one_polarisation = any(
        group.strip("/") not in {path[1:].partition("/")[0] for path in product.groups}
        for group in profile_of(product).empty_groups(product)
    )
    if one_polarisation or any(fill_of_text(array.metadata) for array in texts):
        return False
    return spelling.is_read_as_it_is(product)


def _says_the_same(product: Product) -> bool:
    """Return whether each array's own document is the consolidated one: the first is not looked at before, and read."""
    name = ".zarray" if product.zarr_format == 2 else "zarr.json"
    for array in (array for group in product.groups.values() for array in group.arrays):
        try:
            own = from_json(product.store.read(f"{array.path[1:]}/{name}") or b"null")
        except ValueError:
            return False
        if not isinstance(own, dict):
            return False
        document = {key: value for key, value in own.items() if key not in ("attributes", "node_type")}
        if json.dumps(document, sort_keys=True) != json.dumps(array.metadata, sort_keys=True):
            return False
    return True


def attributes_for_converter(product: Product, array: Array, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return an array's attributes as the converter has to find them; the array's own where they will do.

    Raises
    ------
    ProductBroken
        They are no numbers where numbers have to be.
    """
    if array.unusable:
        return array.attributes
    return profile_of(product).told(array, encoding_of(product, array, redact(product.url)), options)


def fill_of_text(metadata: Any) -> bool:
    """Return whether a Zarr v2 text array has a fill value: the converter ends on the objects it decodes to."""
    return metadata.get("zarr_format") == 2 and metadata.get("fill_value") is not None

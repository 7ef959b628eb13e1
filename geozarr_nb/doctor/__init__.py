"""Whether conversions can run, here or on a cluster, and what to do where they can not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from geozarr_nb.backends import backend_type
from geozarr_nb.doctor import machine
from geozarr_nb.doctor.findings import Diagnosis, Finding
from geozarr_nb.errors import GeozarrError
from geozarr_nb.settings import Settings

if TYPE_CHECKING:
    import pystac

    from geozarr_runner.planning.estimate import Estimate
    from geozarr_runner.product.model import Product, Source

__all__ = ["Diagnosis", "Finding", "doctor"]


def doctor(
    source: Source | Product | pystac.Item | None = None,
    output: str | os.PathLike[str] | None = None,
    backend: str | None = None,
) -> Diagnosis:
    """Check whether conversions can run, and say what to do where they can not.

    Parameters
    ----------
    source
        A product as `inspect` takes it: is it reachable, does it have the groups of params.json, and are memory and
        disk of this machine enough for it? Without one they are compared with what a full Sentinel-2 tile needs.
    output
        Where the output would go; the working directory for None.
    backend
        "local": this machine. "argo": the cluster that the settings name, and what of this machine it takes to submit
        there. Default: the setting.

    Returns
    -------
    Diagnosis
        It never raises: what cannot be checked is a finding of its own.
    """
    settings, finding = machine.load_settings()
    name = backend or settings.backend
    try:
        in_pods, missing = backend_type(name).uses_image, []
    except GeozarrError as error:
        found = f"{error.message}: {error.given}"
        in_pods, missing = False, [Finding("backend", "problem", found, "jobs run there", error.remedy)]
    findings = [*machine.versions(of_the_converter=not in_pods)]
    if not in_pods:
        findings += machine.processor()
    findings += [finding, *missing]
    estimate = None
    if source is not None:
        product, reachable = machine.check_product(source)
        findings += reachable
        if product is not None:
            groups, estimate = machine.check_groups(product, settings.groups)
            findings += groups
    findings += _cluster(settings, source, output) if in_pods else _machine(settings, output, estimate)
    return Diagnosis(tuple(findings))


def _machine(settings: Settings, output: str | os.PathLike[str] | None, estimate: Estimate | None) -> Iterator[Finding]:
    yield machine.check_memory(estimate)
    yield from machine.check_space(settings, os.curdir if output is None else output, estimate)


def _cluster(
    settings: Settings, source: Source | Product | pystac.Item | None, output: str | os.PathLike[str] | None
) -> Iterator[Finding]:
    from geozarr_nb.doctor.cluster import check_addresses, check_cluster

    yield from check_addresses(settings, source, output)
    yield from check_cluster(settings)

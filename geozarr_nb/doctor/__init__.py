"""Checks whether conversions can run on this machine or on a cluster."""

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
    """Check whether conversions can run, and say what to type where they cannot.

    Parameters
    ----------
    source
        A product, as for `inspect`. The checks then ask whether it can be reached, whether it has the groups of the
        settings, and whether this machine has enough memory and disk for it. None compares memory and disk with what a
        full Sentinel-2 tile needs.
    output
        Path of an output, whose disk is checked; None is the working directory.
    backend
        "local" checks this machine. "argo" checks the cluster that the settings name, and this machine as a submitter.
        None takes the setting.

    Returns
    -------
    Diagnosis
        The findings, each with what was found, why it matters and what to type. A check that cannot be made is a
        finding too: the call raises no error.
    """
    settings, findings_of_settings = machine.load_settings()
    name = backend or settings.backend
    try:
        in_pods, missing = backend_type(name).uses_image, []
    except GeozarrError as error:
        found = f"{error.message}: {error.given}"
        in_pods, missing = False, [Finding("backend", "problem", found, "jobs run there", error.remedy)]
    findings = [*machine.versions(of_the_converter=not in_pods, converter=settings.converter)]
    if not in_pods:
        findings += machine.processor()
    findings += [*findings_of_settings, *missing]
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

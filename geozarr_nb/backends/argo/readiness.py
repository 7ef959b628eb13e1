"""Whether a cluster has what a job needs: the workflow template, the claim, the image."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass

from geozarr_nb.backends.argo.workflow import input_secret
from geozarr_nb.cluster import diagnostics, manifests
from geozarr_nb.cluster.cause import Cause
from geozarr_nb.cluster.client import Api
from geozarr_nb.cluster.images import nodes_with, registry, reports_all_images
from geozarr_nb.cluster.kinds import CLAIMS, NAMESPACES, NODES, TEMPLATES
from geozarr_nb.errors import ClusterDenied, ClusterObjectMissing, ClusterRefused
from geozarr_nb.settings import Settings

SECONDS_A_LOOK_IS_GOOD = 10.0


@dataclass(frozen=True, slots=True)
class Template:
    """The parameters of the cluster's template, how it becomes this version's, and how long this knowledge is used."""

    until: float
    parameters: frozenset[str]
    takes_address: bool
    renewal: str


class Readiness:
    """Looks whether the cluster is ready for jobs; what it has seen is used for some seconds.

    Parameters
    ----------
    settings
        Template and image of the jobs.
    """

    def __init__(self, api: Api, settings: Settings) -> None:
        self._api = api
        self._settings = settings
        self._ready: dict[str, Template] = {}
        self._has_namespace = False

    def check(self, claim: str) -> Template:
        """Refuse a job that cannot run since the template, the claim or the image is missing.

        Returns
        -------
        Template
            What the cluster's template takes.

        Raises
        ------
        ClusterObjectMissing
            One of them is not there.
        """
        now = time.monotonic()
        known = self._ready.get(claim)
        if known is not None and now < known.until:
            return known
        namespace = self._api.namespace
        template = self._api.find(TEMPLATES, self._settings.template)
        if template is None:
            self.check_namespace()
            raise _missing(diagnostics.missing_template(self._settings.template, namespace))
        try:
            there = self._api.find(CLAIMS, claim)
            if there is not None and there["metadata"].get("deletionTimestamp"):
                raise _missing(diagnostics.ending_claim(claim, namespace))
            if there is None:
                raise _missing(diagnostics.missing_claim(claim, namespace))
            nodes = self._api.list(NODES)[0]
        except ClusterDenied:
            nodes = []  # this person may not see nodes; a missing image is then the job's reason
        defaults = manifests.parameters(template)
        image = self._settings.image or defaults.get("image", "")
        told = nodes and all(map(reports_all_images, nodes)) and not registry(image)
        if image and told and not nodes_with(image, nodes):
            raise _missing(diagnostics.missing_image(image))
        found = Template(
            until=now + SECONDS_A_LOOK_IS_GOOD,
            parameters=frozenset(defaults),
            takes_address=input_secret("{{workflow.uid}}") in str(template.get("spec")),
            renewal=diagnostics.to_renew(template, namespace),
        )
        self._ready = {name: each for name, each in self._ready.items() if now < each.until} | {claim: found}
        return found

    def check_namespace(self) -> None:
        """Refuse a namespace that is not there.

        Raises
        ------
        ClusterObjectMissing
        """
        if not self._has_namespace:
            with suppress(ClusterDenied):  # who may not see namespaces has been given one
                if self._api.find(NAMESPACES, self._api.namespace) is None:
                    cause = diagnostics.missing_namespace(self._api.namespace)
                    remedy = f"choose yours, GEOZARR_NAMESPACE=..., or make it: {cause.remedy}"
                    raise ClusterObjectMissing(cause.message, given=f"context {self._api.context}", remedy=remedy)
            self._has_namespace = True

    def of_another_version(self, template: Template, why: str) -> ClusterRefused:
        """Return the error for a template that another version of this package has made."""
        return ClusterRefused(
            f"the workflow template of the cluster is another version's: {why}",
            given=f"{self._settings.template} in namespace {self._api.namespace}",
            remedy=template.renewal,
        )


def _missing(cause: Cause) -> ClusterObjectMissing:
    return ClusterObjectMissing(cause.message, remedy=cause.remedy)

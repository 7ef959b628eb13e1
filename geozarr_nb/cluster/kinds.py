"""Kinds of objects of a cluster: where the API server has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of object: where the API server has it.

    Attributes
    ----------
    root
        `api/v1` or `apis/<group>/<version>`.
    plural
        Its name in addresses and in roles.
    """

    root: str
    plural: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """What stands in an object's `apiVersion`."""
        return self.root.split("/", 1)[1]


PODS = Kind("api/v1", "pods")


EVENTS = Kind("api/v1", "events")


SECRETS = Kind("api/v1", "secrets")


CLAIMS = Kind("api/v1", "persistentvolumeclaims")


NAMESPACES = Kind("api/v1", "namespaces", namespaced=False)


NODES = Kind("api/v1", "nodes", namespaced=False)


STORAGE_CLASSES = Kind("apis/storage.k8s.io/v1", "storageclasses", namespaced=False)


DEPLOYMENTS = Kind("apis/apps/v1", "deployments")


WORKFLOWS = Kind("apis/argoproj.io/v1alpha1", "workflows")


TEMPLATES = Kind("apis/argoproj.io/v1alpha1", "workflowtemplates")


DEFINITIONS = Kind("apis/apiextensions.k8s.io/v1", "customresourcedefinitions", namespaced=False)


ACCESS_REVIEWS = Kind("apis/authorization.k8s.io/v1", "subjectaccessreviews", namespaced=False)


OWN_ACCESS_REVIEWS = Kind("apis/authorization.k8s.io/v1", "selfsubjectaccessreviews", namespaced=False)


OWN_REVIEWS = Kind("apis/authentication.k8s.io/v1", "selfsubjectreviews", namespaced=False)


OWN_RULES_REVIEWS = Kind("apis/authorization.k8s.io/v1", "selfsubjectrulesreviews", namespaced=False)

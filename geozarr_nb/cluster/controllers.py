"""Workflow controllers: which ones a cluster has, and which namespaces they watch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from geozarr_nb.cluster.cause import Cause
from geozarr_nb.cluster.images import image_and_tag
from geozarr_nb.cluster.objects import Object, name_of

CONTROLLER = "workflow-controller"


@dataclass(frozen=True, slots=True)
class Controller:
    """A workflow controller.

    Attributes
    ----------
    version
        The tag of its image; empty where the image has none.
    watched
        The only namespace that it looks at; empty where it looks at all.
    wanted, ready
        How many pods it should have, and how many are ready.
    """

    namespace: str
    name: str
    version: str
    watched: str
    wanted: int
    ready: int

    @property
    def shown(self) -> str:
        """Where it is, and what it watches."""
        return f"{self.namespace}/{self.name} (watching {self.watched or 'every namespace'})"


def controllers(deployments: Iterable[Object]) -> list[Controller]:
    """Return the workflow controllers among deployments."""
    found = []
    for deployment in deployments:
        spec = deployment.get("spec", {})
        containers = spec.get("template", {}).get("spec", {}).get("containers") or ()
        for container in containers:
            name, _, version = image_and_tag(str(container.get("image", "")))
            if name.rpartition("/")[2] == CONTROLLER:
                namespace = str(deployment["metadata"]["namespace"])
                wanted = int(spec.get("replicas", 1))
                ready = int(deployment.get("status", {}).get("readyReplicas") or 0)
                watched = _watched(container, namespace)
                found.append(Controller(namespace, name_of(deployment), version, watched, wanted, ready))
    return found


def watches(controller: Controller, namespace: str) -> bool:
    """Return whether a controller looks at the workflows of a namespace."""
    return controller.watched in ("", namespace)


def unwatched(found: Sequence[Controller], namespace: str) -> Cause | None:
    """Return why nobody starts the workflows of a namespace; None where a controller is ready to."""
    if not found:
        return Cause(
            "no-controller",
            f"no workflow controller is installed: nothing starts the jobs of namespace {namespace}",
            "make argo-install",
        )
    ours = [controller for controller in found if watches(controller, namespace)]
    if not ours:
        where = ", ".join(controller.shown for controller in found)
        first = found[0]
        return Cause(
            "namespace-not-watched",
            f"no workflow controller watches namespace {namespace}: there is {where}",
            f"use the namespace that is watched (GEOZARR_NAMESPACE={first.watched}), or have the controller watch all: "
            + watch_everything(first),
        )
    if any(controller.wanted and controller.ready for controller in ours):  # one that is stopped may still be ending
        return None
    first = ours[0]
    if not any(controller.wanted for controller in ours):
        remedy = f"kubectl -n {first.namespace} scale deployment/{first.name} --replicas=1"
        return Cause("controller-stopped", f"the workflow controller {first.shown} is scaled to 0", remedy)
    return Cause(
        "controller-not-ready",
        f"the workflow controller {first.shown} is not running",
        f"kubectl -n {first.namespace} describe pods -l app={CONTROLLER}",
        lasting=False,
    )


def watch_everything(controller: Controller) -> str:
    """Return the command that has a controller watch every namespace."""
    change = '[{"op": "replace", "path": "/spec/template/spec/containers/0/args", "value": []}]'
    return f"kubectl -n {controller.namespace} patch deployment {controller.name} --type json -p '{change}'"


def _watched(container: Object, own: str) -> str:
    """Return the only namespace that a controller's flags, or the variables that stand for them, let it watch."""
    flags = dict(_flags([*(container.get("command") or ()), *(container.get("args") or ())]))
    for variable in container.get("env") or ():
        if variable.get("name") in ("ARGO_NAMESPACED", "ARGO_MANAGED_NAMESPACE"):
            flag = variable["name"].removeprefix("ARGO_").lower().replace("_", "-")
            flags.setdefault(flag, str(variable.get("value", "")))
    # Without --namespaced the controller itself ignores --managed-namespace.
    if flags.get("namespaced", "false").lower() not in ("true", "1", "t"):
        return ""
    return flags.get("managed-namespace") or own


def _flags(arguments: Sequence[str]) -> Iterable[tuple[str, str]]:
    for number, argument in enumerate(arguments):
        if argument.startswith("--"):
            name, equals, value = argument[2:].partition("=")
            following = arguments[number + 1] if number + 1 < len(arguments) else ""
            if not equals and name == "managed-namespace":
                value = following
            elif not equals:
                value = "true"
            yield name, value

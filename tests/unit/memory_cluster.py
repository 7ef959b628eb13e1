"""A cluster that is kept in memory: what the Argo backend asks of one, and what may go wrong between two calls."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from typing import Any

from geozarr_nb.cluster import manifests
from geozarr_nb.cluster.client import Object
from geozarr_nb.cluster.kinds import CLAIMS, NAMESPACES, PODS, SECRETS, TEMPLATES, WORKFLOWS, Kind
from geozarr_nb.errors import ClusterDenied, ClusterObjectExists, ClusterObjectMissing


class MemoryCluster:
    """Stands in for `cluster.api.Api`; what is asked is in `asked`, and `faults` are met in place of an answer."""

    namespace = "argo"
    context = "here"
    server = "https://memory"
    ahead = 0.0

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.faults: dict[str, Callable[[], object]] = {}
        self.denied: set[str] = set()
        self.objects: dict[Kind, dict[str, Object]] = {kind: {} for kind in (WORKFLOWS, SECRETS, PODS)}
        self.objects[TEMPLATES] = {"geozarr-convert": manifests.template()}
        self.objects[NAMESPACES] = {self.namespace: {"metadata": {"name": self.namespace}}}
        self.objects[CLAIMS] = {"geozarr-pvc": {"metadata": {"name": "geozarr-pvc"}}}
        self._changes: dict[Kind, queue.Queue[Object | None]] = {WORKFLOWS: queue.Queue(), PODS: queue.Queue()}
        self.has_controller = True
        self._version = 0
        self._made = 0

    # What the backend calls

    def get(self, kind: Kind, name: str) -> Object:
        return deepcopy(self._there(kind, name))

    def find(self, kind: Kind, name: str) -> Object | None:
        if kind not in self.objects:
            raise ClusterDenied(f"you may not get {kind.plural}", remedy="")
        return deepcopy(self.objects[kind].get(name))

    def list(self, kind: Kind, **selectors: Any) -> tuple[list[Object], str]:
        if kind not in self.objects:
            raise ClusterDenied(f"you may not list {kind.plural}", remedy="")
        return deepcopy(list(self.objects[kind].values())), str(self._version)

    def watch(self, kind: Kind, version: str, **options: Any) -> Iterator[Object]:
        yield from iter(self._changes[kind].get, None)

    def create(self, kind: Kind, body: Object) -> Object:
        with self._asked(f"create {kind.plural}"):
            name = body["metadata"]["name"]
            if name in self.objects[kind]:
                raise ClusterObjectExists(f"{kind.plural} {name!r} already exists")
            self._made += 1
            thing = deepcopy(body)
            thing["metadata"] |= {"uid": f"uid-{self._made}", "creationTimestamp": datetime.now(UTC).isoformat()}
            self._keep(kind, thing, "ADDED")
        return deepcopy(thing)

    def patch(self, kind: Kind, name: str, change: Object) -> Object:
        with self._asked(f"patch {kind.plural}"):
            thing = _merged(self._there(kind, name), change)
            if self.has_controller and thing["spec"].get("shutdown"):
                thing.setdefault("status", {})["phase"] = "Failed"
            self._keep(kind, thing, "MODIFIED")
        return deepcopy(thing)

    def delete(self, kind: Kind, name: str) -> bool:
        with self._asked(f"delete {kind.plural}"):
            thing = self.objects[kind].pop(name, None)
            if thing is None:
                return False
            self._tell(kind, thing, "DELETED")
        return True

    def log(self, pod: str, *, since: str = "") -> bytes:
        return b""

    def patiently[T](self, call: Callable[[], T]) -> T:
        return call()

    # What tests do to it

    def age(self, name: str, seconds: float) -> None:
        """Have a Workflow be older, and the watch tell of it."""
        thing = self.objects[WORKFLOWS][name]
        submitted = datetime.fromisoformat(thing["metadata"]["creationTimestamp"]) - timedelta(seconds=seconds)
        self.patch(WORKFLOWS, name, {"metadata": {"creationTimestamp": submitted.isoformat()}})

    def end_watches(self) -> None:
        for changes in self._changes.values():
            changes.put(None)

    def _there(self, kind: Kind, name: str) -> Object:
        try:
            return self.objects[kind][name]
        except KeyError:
            raise ClusterObjectMissing(f"{kind.plural} {name!r} not found") from None

    def _keep(self, kind: Kind, thing: Object, how: str) -> None:
        self.objects[kind][thing["metadata"]["name"]] = thing
        self._tell(kind, thing, how)

    def _tell(self, kind: Kind, thing: Object, how: str) -> None:
        self._version += 1
        thing["metadata"]["resourceVersion"] = str(self._version)
        if kind in self._changes:
            self._changes[kind].put({"type": how, "object": deepcopy(thing)})

    def _asked(self, what: str) -> _Call:
        self.asked.append(what)
        if what in self.denied:
            raise ClusterDenied(f"you may not {what}", remedy="")
        return _Call(self.faults.pop(what, lambda: None))


class _Call:
    """A call that is carried out, and whose answer may then be lost."""

    def __init__(self, fault: Callable[[], object]) -> None:
        self._fault = fault

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, *rest: object) -> None:
        if kind is None:
            self._fault()


def _merged(thing: Any, change: Any) -> Any:
    """Return a thing with a JSON merge patch applied (RFC 7396)."""
    if not isinstance(change, dict):
        return change
    base = thing if isinstance(thing, dict) else {}
    merged = {name: value for name, value in base.items() if name not in change}
    return merged | {name: _merged(base.get(name), value) for name, value in change.items() if value is not None}

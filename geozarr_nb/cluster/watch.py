"""Objects of a cluster kept up to date: one list, then one watch that is resumed for as long as anybody looks."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence

from geozarr_nb.cluster.client import Api, Expired, Object
from geozarr_nb.cluster.kinds import Kind
from geozarr_nb.errors import ClusterError, ClusterRefused, ClusterUnreachable

# A connection that died with a laptop's sleep is noticed when this time is over.
SECONDS_OF_A_WATCH = 50
SHORTEST_PAUSE, LONGEST_PAUSE = 0.2, 5.0
# A watch that ends sooner, and told nothing, was none; after some of these the list alone shows what is there.
SECONDS_OF_A_TRUE_WATCH = 1.0
MOST_IN_VAIN = 3
IDLE_SECONDS = 300.0


class Watch:
    """All objects of a kind that match some labels.

    The list is read when somebody first looks; from then on a thread keeps it up to date over one connection, and
    leaves when nobody has looked for some minutes. What the server sends is taken in once and in order; where it
    cannot be resumed (the version expired, the server was restored from a backup) the list is read again.
    """

    def __init__(self, api: Api, kind: Kind, labels: str, *, idle_seconds: float = IDLE_SECONDS) -> None:
        self._api = api
        self._kind = kind
        self._labels = labels
        self._idle_seconds = idle_seconds
        self._changed = threading.Condition()
        self._objects: dict[str, Object] = {}
        self._version = ""
        self._count = 0
        self._thread: threading.Thread | None = None
        self._looked = 0.0
        self._silent_since: float | None = None
        self._trouble: ClusterError | None = None

    def objects(self) -> Sequence[Object]:
        """Return the objects as they are now, as far as the server has told.

        Raises
        ------
        ClusterError
            They could never be listed; later trouble is told by `trouble`.
        """
        self._look()
        with self._changed:
            return list(self._objects.values())

    def get(self, name: str) -> Object | None:
        """Return one of the objects; None where there is none of this name."""
        self._look()
        with self._changed:
            return self._objects.get(name)

    def put(self, thing: Object) -> None:
        """Take in an object that the caller itself made or changed, before the watch tells of it."""
        with self._changed:
            known = self._objects.get(_name(thing))
            if known is not None:
                is_news = _version(known) < _version(thing)
            else:
                # One that the server has told of already, and that is not here, is deleted by now.
                is_news = not 0 <= _version(thing) <= _number(self._version)
            if is_news:
                self._keep(thing)

    def wait(self, count: int, seconds: float) -> int:
        """Return the number of changes so far, when it differs from `count` or the time is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._count != count, seconds)
            return self._count

    @property
    def trouble(self) -> tuple[float, ClusterError] | None:
        """Seconds since the server was last heard and why; None while all is well."""
        with self._changed:
            if self._silent_since is None or self._trouble is None:
                return None
            return time.monotonic() - self._silent_since, self._trouble

    def _look(self) -> None:
        with self._changed:
            self._looked = time.monotonic()
            if self._thread is not None and self._thread.is_alive():
                return
            # Under the lock: whoever looks at the same time waits for this list instead of reading it too.
            self._list()
            self._thread = threading.Thread(target=self._follow, name=f"geozarr-watch-{self._kind.plural}", daemon=True)
            self._thread.start()

    def _list(self, patience: float | None = None) -> None:
        items, version = self._api.list(self._kind, labels=self._labels, patience=patience)
        with self._changed:
            self._objects = {_name(item): item for item in items}
            self._version = version
            self._heard()
            self._count += 1
            self._changed.notify_all()

    def _follow(self) -> None:
        """Keep the objects up to date, whatever comes back: a thread that ends leaves everybody with an old state."""
        in_vain = 0
        while not self._is_idle():
            try:
                if not self._version:
                    self._list(patience=0)
                in_vain = 0 if self._follow_once() else in_vain + 1
            except Expired:
                self._version = ""
                in_vain += 1
            except ClusterError as error:
                self._not_heard(error)
                if not isinstance(error, ClusterUnreachable):
                    self._version = ""
                in_vain += 1
            except Exception as error:  # noqa: BLE001  what nobody thought of is told as trouble, and ends
                self._not_heard(ClusterRefused(f"what the cluster sent was not understood: {error!r:.200}"))
                self._version = ""
                in_vain += 1
            if in_vain >= MOST_IN_VAIN:
                self._version = ""
            if in_vain > 1 or self._trouble is not None:
                pause = min(SHORTEST_PAUSE * 2 ** min(in_vain, 10), LONGEST_PAUSE)
                time.sleep(random.uniform(0.5, 1) * pause)  # noqa: S311  only spreads the clients of a restarted server

    def _follow_once(self) -> bool:
        """Take in what one watch tells; return whether it was one."""
        start, told = time.monotonic(), False
        for change in self._api.watch(self._kind, self._version, labels=self._labels, seconds=SECONDS_OF_A_WATCH):
            self._take(change)
            told = True
        if not told and time.monotonic() - start < SECONDS_OF_A_TRUE_WATCH:
            return False
        with self._changed:
            self._heard()
        return True

    def _is_idle(self) -> bool:
        with self._changed:
            if time.monotonic() - self._looked < self._idle_seconds:
                return False
            self._thread = None
            return True

    def _take(self, change: Object) -> None:
        with self._changed:
            self._heard()
            thing = change["object"]
            self._version = str(thing["metadata"].get("resourceVersion") or self._version)
            match change["type"]:
                case "ADDED" | "MODIFIED" if not self._is_outdated(thing):
                    self._keep(thing)
                case "DELETED" if not self._is_outdated(thing):
                    if self._objects.pop(_name(thing), None) is not None:
                        self._count += 1
                        self._changed.notify_all()

    def _is_outdated(self, thing: Object) -> bool:
        """Return whether a caller has put what became of an object since."""
        known = self._objects.get(_name(thing))
        return known is not None and _version(thing) < _version(known)

    def _keep(self, thing: Object) -> None:
        self._objects[_name(thing)] = thing
        self._count += 1
        self._changed.notify_all()

    def _not_heard(self, error: ClusterError) -> None:
        with self._changed:
            if self._silent_since is None:
                self._silent_since = time.monotonic()
            self._trouble = error
            self._changed.notify_all()

    def _heard(self) -> None:
        self._silent_since = self._trouble = None


def _name(thing: Object) -> str:
    return str(thing["metadata"]["name"])


def _version(thing: Object) -> int:
    """Return an object's version as etcd counts it; -1 where a server counts otherwise, and the watch alone decides."""
    return _number(str(thing["metadata"].get("resourceVersion", "")))


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else -1

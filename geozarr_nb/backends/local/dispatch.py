"""The dispatch lock of the state folder, and what is left to do once it is free."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path

from geozarr_nb.backends.local.state_folder import StateFolder
from geozarr_nb.errors import GeozarrError, StorageFailed
from geozarr_nb.request import Request
from geozarr_runner.publishing.object_store import discard_leftovers
from geozarr_runner.publishing.remote_output import output_place
from geozarr_runner.stores.access.failures import storage_errors


class Dispatch:
    """Keeps other processes and threads from adding, claiming and cancelling jobs meanwhile.

    Parameters
    ----------
    folders
        The state folder.
    """

    def __init__(self, folders: StateFolder) -> None:
        self._folders = folders
        self._mutex = threading.RLock()
        self._depth = 0
        self._leftovers: set[tuple[str, str]] = set()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the dispatch lock against other processes and threads; blocks can be nested."""
        with self._mutex:
            if self._depth:
                yield
                return
            with ExitStack() as stack:
                with self.storing():
                    stack.enter_context(self._folders.dispatching())
                self._depth = 1
                try:
                    yield
                finally:
                    self._depth = 0
            leftovers, self._leftovers = self._leftovers, set()
        # Leftovers can be gigabytes, so they are removed after the lock is free.
        for output, scratch in leftovers:
            # The next run for the same output removes leftovers that cannot be removed now.
            with suppress(OSError, GeozarrError):
                discard_leftovers(output_place(output), Path(scratch) if scratch else None)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Hold the dispatch lock while files are read, so that no new attempt replaces them."""
        # Without a state folder there is nothing to lock, and reading must not make the folder.
        with self.storing(), self.held() if self._folders.root.is_dir() else nullcontext():
            yield

    @contextmanager
    def storing(self) -> Iterator[None]:
        """Turn an `OSError` about the state folder into a `StorageFailed`."""
        try:
            with storage_errors(self._folders.root):
                yield
        except StorageFailed as error:
            if "GEOZARR_STATE_DIR" not in error.remedy:
                error.remedy = f"{error.remedy}: set GEOZARR_STATE_DIR"
            raise

    def leave_over(self, request: Request) -> None:
        """Remember to remove a run's leftovers when the dispatch lock is free again."""
        self._leftovers.add((request.output, str(request.options["scratch"])))

"""The file that stores which jobs belong to a set."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from geozarr_nb.backends.base import Backend
from geozarr_nb.errors import GeozarrError, JobNotFound
from geozarr_nb.jobs.job import Job
from geozarr_nb.jobs.jobset import Refused
from geozarr_nb.ownership import check_folder, open_own, read_own
from geozarr_nb.request import Request
from geozarr_runner.stores.access.failures import storage_errors

_WORDS = ("label", "code", "reason", "remedy")  # stored of a refused request


class SetFile:
    """The file of a named set, with one line for each member, in a folder that only this account can use.

    Raises
    ------
    StateUnusable
        Another account owns the folder or can write to it.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / f"{name}.jsonl"
        for one in (folder.parent, folder):
            check_folder(one)

    def start(self) -> None:
        """Make the file empty, and make its folder if there is none.

        Raises
        ------
        StorageFailed
            The file cannot be written.
        """
        with storage_errors(self.path):
            for folder in (self.path.parent.parent, self.path.parent):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(open_own(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC))

    def add(self, number: int, entry: Job | Refused) -> None:
        """Store the entry with its number in the set.

        Raises
        ------
        StorageFailed
            The file cannot be written.
        """
        document: dict[str, Any] = {"number": number}
        if isinstance(entry, Job):
            document["job"] = entry.name
            if (request := entry._memory.document) is not None:  # it tells where the output is once the job is removed
                document["request"] = request
        else:
            document |= {"label": entry.label, "code": entry.code, "reason": entry.reason, "remedy": entry.remedy}
        line = f"{json.dumps(document)}\n".encode()
        with storage_errors(self.path):
            descriptor = open_own(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            try:
                size = os.fstat(descriptor).st_size
                if os.write(descriptor, line) < len(line):
                    os.ftruncate(descriptor, size)  # half a line would make the next one unreadable too
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            finally:
                os.close(descriptor)

    def read(self, backend: Backend) -> list[Job | Refused]:
        """Return the entries in order.

        Raises
        ------
        JobNotFound
            There is no such set.
        """
        try:
            lines = read_own(self.path).decode(errors="replace").splitlines()
        except FileNotFoundError as error:
            known = sorted(path.stem for path in self.path.parent.glob("*.jsonl"))
            raise JobNotFound(
                "there is no set of jobs of this name",
                given=self.path.stem,
                remedy=f"known are: {', '.join(known[-10:])}" if known else "geozarr_nb.submit_many([...]) makes one",
            ) from error
        entries: dict[int, Job | Refused] = {}
        for line in lines:
            try:
                document = json.loads(line)
                number = int(document["number"])
                label, code, reason, remedy = (str(document.get(name, "")) for name in _WORDS)
                refused = Refused(label, code, reason, remedy)
                stored = _request_in(document)
                entries[number] = Job(backend, str(document["job"]), stored=stored) if "job" in document else refused
            except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
                continue  # a line that a full disk cut off, or of another version
        return [entries[number] for number in sorted(entries)]


def _request_in(document: Mapping[str, Any]) -> Request | None:
    """Return the request of a member; None if 0.1.0 stored it, or if a later version did."""
    try:
        return Request.from_json(document["request"])
    except (KeyError, GeozarrError):
        return None

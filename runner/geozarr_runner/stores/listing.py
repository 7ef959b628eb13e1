"""What a store's listings say of the sizes of its objects."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from functools import partial

from geozarr_runner.stores.access.concurrency import in_bounds
from geozarr_runner.stores.access.connection import Connection, check_absent
from geozarr_runner.stores.refusals import UNAUTHENTICATED, answer_of


class Listing:
    """The folders of a store as it lists them, each asked for once.

    Parameters
    ----------
    connection
        The store, of a kind that lists sizes.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._listed: dict[str, dict[str, int | None]] = {}

    async def sizes(self, keys: Sequence[str]) -> dict[str, int | None]:
        """Return the sizes of the objects that are listed."""
        folders = sorted({key.rpartition("/")[0] for key in keys} - self._listed.keys())

        async def one(folder: str) -> dict[str, int | None]:
            async def listing() -> dict[str, int | None]:
                try:
                    entries = await self._connection.filesystem._ls(self._connection.path(folder), detail=True)
                except Exception as error:
                    if _lists_nothing(error):
                        return {}
                    raise
                prefix = f"{folder}/" if folder else ""
                files = (entry for entry in entries if entry.get("type") != "directory")
                return {prefix + entry["name"].rpartition("/")[2]: entry.get("size") for entry in files}

            return await self._connection.retried(listing, folder)

        self._listed.update(zip(folders, await in_bounds([partial(one, folder) for folder in folders]), strict=True))
        return {key: known[key] for key in keys if key in (known := self._listed[key.rpartition("/")[0]])}

    async def look_behind(self, key: str) -> tuple[bool, int | None]:
        """Return whether there is an object that the listing lacks, and its size where that is told."""
        # One that lists others tells the truth as a rule, and says "not found" at once; one that lists none does not.
        if self._listed[key.rpartition("/")[0]] and not (await self._connection.first_byte(key))[0]:
            return False, None
        try:
            answer = await self._connection.filesystem._info(self._connection.path(key))
        except FileNotFoundError as error:
            check_absent(error)
            return False, None
        except Exception as error:
            if (refused := answer_of(error)) is None or not refused.is_refusal:
                raise
            answer = None
        if answer is None:  # what HEAD refuses GET may allow, and it says why it does not
            return await self._connection.first_byte(key)
        return answer.get("type") != "directory", answer.get("size")


def _lists_nothing(error: BaseException) -> bool:
    """Return whether a store refuses to list, or cannot: it may have objects all the same."""
    if isinstance(error, FileNotFoundError | NotADirectoryError | NotImplementedError | PermissionError):
        return True
    answer = answer_of(error)
    if answer is not None:
        return answer.status == 501 or (400 <= answer.status < 500 and answer.status not in (UNAUTHENTICATED, 408, 429))
    return isinstance(error, OSError) and error.errno in (errno.ENOSYS, errno.EINVAL)

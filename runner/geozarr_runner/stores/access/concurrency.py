"""How many calls to a store run at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

CONCURRENCY = 16


async def in_bounds[T](
    jobs: Iterable[Callable[[], Coroutine[Any, Any, T]]], progress: Callable[[int], None] | None = None
) -> list[T]:
    """Run many, `CONCURRENCY` at a time; the first failure ends the others."""
    waiting = list(jobs)
    results: list[Any] = [None] * len(waiting)
    queue = iter(range(len(waiting)))

    async def worker() -> None:
        for index in queue:
            results[index] = await waiting[index]()
            if progress is not None:
                progress(1)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(CONCURRENCY, len(waiting))):
                group.create_task(worker())
    except BaseExceptionGroup as errors:
        first: BaseException = errors
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None
    return results

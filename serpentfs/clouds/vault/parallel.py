"""Many small requests at once, a bounded number in flight, one plain error out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import trio

from serpentfs.errors import SerpentError

T = TypeVar("T")

REQUESTS_IN_FLIGHT = 32


async def all_of(*functions: Callable[[], Awaitable[None]]) -> None:
    """Await all of them at the same time; errors as of ``for_each``."""

    async def call(function: Callable[[], Awaitable[None]]) -> None:
        await function()

    await for_each(call, functions, limit=len(functions))


async def for_each(
    function: Callable[[T], Awaitable[None]], items: Iterable[T], *, limit: int = REQUESTS_IN_FLIGHT
) -> None:
    """Await ``function`` of every item, at most ``limit`` at a time.

    The first of our own errors ends the others and is raised as it is, not in a group.
    """
    pending = iter(items)
    failed: list[SerpentError] = []

    async def work() -> None:
        try:
            for item in pending:
                await function(item)
        except SerpentError as error:
            failed.append(error)
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for _ in range(limit):
            nursery.start_soon(work)
    if failed:
        raise failed[0]

"""A few things at a time: what has been begun is awaited in order, and nothing is left running when one of them fails."""

from __future__ import annotations

from collections import deque
from collections.abc import Coroutine
from typing import Any, Generic, TypeVar

from thunderdb.base.errors import ThunderError
from thunderdb.runtime.sync import Task, Tasks

T = TypeVar("T")


class InFlight(Generic[T]):
    """At most `limit` coroutines at work; results come out in the order in which they went in."""

    def __init__(self, tasks: Tasks, limit: int, name: str) -> None:
        self._tasks = tasks
        self._limit = limit
        self._name = name
        self._running: deque[Task[T]] = deque()

    def __len__(self) -> int:
        return len(self._running)

    def begin(self, coro: Coroutine[Any, Any, T]) -> None:
        self._running.append(self._tasks.spawn(coro, self._name))

    @property
    def full(self) -> bool:
        return len(self._running) >= self._limit

    async def next(self) -> T:
        """The oldest one's result. Raises: what it raised, the others having ended."""
        try:
            return await self._running.popleft()
        except (ThunderError, OSError):
            await self.settle()
            raise

    async def room(self) -> None:
        """Wait until another one may begin."""
        while self.full:
            await self.next()

    async def drain(self) -> None:
        while self._running:
            await self.next()

    async def settle(self) -> None:
        """Wait for all of them, whatever comes of it: something else has failed already."""
        while self._running:
            try:
                await self._running.popleft()
            except (ThunderError, OSError):
                continue

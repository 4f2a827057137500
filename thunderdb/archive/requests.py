"""Objects of a store fetched by several requests at a time: one alone is slow, however wide the way to the store is.

R1. At most `limit` requests are under way, each for at most `request_bytes` of the store: so memory is bounded.
R2. An object is taken in parts only where they belong together whenever they were fetched: it never changes, or only grows
    behind what was there. If its size is not the one that was listed, it is fetched at once.
R3. Giving up leaves nothing under way that anybody would still hear of.
"""

from __future__ import annotations

from thunderdb.runtime.ports import ObjectStore
from thunderdb.runtime.sync import Semaphore, Task, Tasks


class Requests:
    """The requests that one reader may have under way to one store."""

    def __init__(self, tasks: Tasks, store: ObjectStore, limit: int) -> None:
        self.limit = limit
        self._tasks = tasks
        self._store = store
        self._gate = Semaphore(tasks, limit)

    @property
    def room_bytes(self) -> int:
        """How much may be fetched ahead of who reads it (R1)."""
        return self.limit * self._store.request_bytes

    async def get(self, key: str, size: int) -> bytes:
        """A whole object (R2), listed with `size` bytes. Raises: as `ObjectStore.get`."""
        step = self._store.request_bytes
        if size <= step or self.limit == 1:
            return await self._one(key, 0, 0)
        parts: list[Task[bytes]] = []
        try:
            for offset in range(0, size, step):
                last = offset + step >= size
                count = size - offset + 1 if last else step  # one byte more would say that it is longer
                parts.append(self._tasks.spawn(self._one(key, offset, count), "store.get"))
            whole = b"".join([await part for part in parts])
        except BaseException:
            for part in parts:
                part.cancel()  # R3
            raise
        return whole if len(whole) == size else await self._one(key, 0, 0)  # R2

    async def _one(self, key: str, offset: int, size: int) -> bytes:
        await self._gate.acquire()
        try:
            return await (self._store.get_range(key, offset, size) if size else self._store.get(key))
        finally:
            self._gate.release()

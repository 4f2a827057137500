"""Closed segments of a log, fetched while those before them are examined.

F1. Only what never changes is fetched ahead (a closed segment in a store, a file of a backup in a store), and only from where
    the reader would take it first.
F2. At most as much as the store may have under way (`room_bytes`), and one segment in any case.
"""

from __future__ import annotations

from collections.abc import Sequence

from thunderdb.archive.index import LogSource, StoreSource
from thunderdb.backup.sources import BackupLog
from thunderdb.runtime.sync import Task, Tasks


class SegmentsAhead:
    """The segments that a reader of one line of timelines will ask for next. `chain`: its timelines, newest first."""

    def __init__(self, tasks: Tasks, sources: Sequence[LogSource], chain: Sequence[int]) -> None:
        self._tasks = tasks
        self._sources = sources
        self._chain = chain
        self._under_way: dict[tuple[LogSource, int, int], tuple[int, Task[bytes | None]]] = {}

    def take(self, source: LogSource, timeline: int, number: int) -> Task[bytes | None] | None:
        """The fetching of a segment, if it has begun: whoever takes it awaits it."""
        found = self._under_way.pop((source, timeline, number), None)
        return None if found is None else found[1]

    def begin(self, number: int) -> None:
        """Fetch the segments from `number` on, as far as there is room (F2); those before it are not asked for any more."""
        for key in [key for key in self._under_way if key[2] < number]:
            self._under_way.pop(key)[1].cancel()
        taken = sum(size for size, _task in self._under_way.values())
        while (copy := self._copy(number)) is not None:
            source, timeline, size, room_bytes = copy
            key = (source, timeline, number)
            if key not in self._under_way:
                if self._under_way and taken + size > room_bytes:
                    return
                self._under_way[key] = size, self._tasks.spawn(source.segment(timeline, number), "log.ahead")
                taken += size
            number += 1

    def _copy(self, number: int) -> tuple[LogSource, int, int, int] | None:
        """Where a segment will be looked for first, its size, and the room; None if it is not to be fetched ahead (F1)."""
        for timeline in self._chain:
            for source in self._sources:
                if not isinstance(source, (StoreSource, BackupLog)):
                    return None
                size = source.closed_size(timeline, number)
                if size is not None:
                    return (source, timeline, size, source.room_bytes) if source.room_bytes else None
        return None

    def close(self) -> None:
        """Give up what is under way."""
        for _size, task in self._under_way.values():
            task.cancel()
        self._under_way.clear()

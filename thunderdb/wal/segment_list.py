"""The segments of the log whose files exist: which they are, their removal, and single records read back from them.

A removed segment becomes a spare, or is gone. Who reads meanwhile gets LogGone, never damage (`read`).

L1. The list is without a gap, oldest first; what a crash in a removal leaves below it is not in it.
"""

from __future__ import annotations

from bisect import bisect_right

from thunderdb.base.errors import Corruption, StorageError
from thunderdb.base.events import Events
from thunderdb.base.ids import LSN, NO_LSN, format_lsn
from thunderdb.runtime.ports import Disk
from thunderdb.wal.open_segments import OpenSegments
from thunderdb.wal.reader import LogEnd
from thunderdb.wal.record import LogGone, Record, decode_record
from thunderdb.wal.segment import SEGMENT_HEADER_SIZE, segment_name
from thunderdb.wal.spares import Spares


class SegmentList:
    """Of one timeline in one directory."""

    __slots__ = (
        "_disk", "_directory", "_timeline", "_segment_size", "_spares", "_events", "_reading", "_numbers", "_starts",
        "_obsolete", "_newest_at_removal",
    )  # fmt: skip

    def __init__(
        self, disk: Disk, directory: str, timeline: int, segment_size: int, spares: Spares, events: Events
    ) -> None:
        self._disk = disk
        self._directory = directory
        self._timeline = timeline
        self._segment_size = segment_size
        self._spares = spares
        self._events = events
        self._reading = OpenSegments(disk)
        self._numbers: list[int] = []
        self._starts: list[int] = []
        self._obsolete: list[int] = []
        self._newest_at_removal = 0

    def take_over(self, end: LogEnd) -> None:
        """Begin with what a start has found."""
        self._numbers = [number for number, _ in end.segments]
        self._starts = [start_lsn for _, start_lsn in end.segments]
        self._obsolete = list(end.obsolete)
        self._newest_at_removal = end.header.number

    def add(self, number: int, start_lsn: int) -> None:
        """The next one's file is there."""
        self._numbers.append(number)
        self._starts.append(start_lsn)

    async def close(self) -> None:
        await self._reading.close()

    @property
    def newest(self) -> int:
        """0 if there is none."""
        return self._numbers[-1] if self._numbers else 0

    @property
    def oldest_lsn(self) -> LSN:
        return LSN(self._starts[0]) if self._starts else NO_LSN

    def after(self, number: int) -> list[tuple[int, int]]:
        """(number, start LSN) of each segment above a number, oldest first."""
        if number >= self.newest:
            return []
        at = bisect_right(self._numbers, number)
        return list(zip(self._numbers[at:], self._starts[at:], strict=True))

    async def remove_below(self, lsn: int, keep: int | None) -> int:
        """`LogWriter.remove_below`."""
        if keep is None:
            keep = self._spares.target + self.newest - self._newest_at_removal
        self._newest_at_removal = self.newest
        gone: list[int] = []
        if self._starts[0] <= lsn:  # left-overs lie below all that the log holds
            gone, self._obsolete = self._obsolete, []
        while len(self._starts) > 1 and self._starts[1] <= lsn:
            gone.append(self._numbers.pop(0))
            self._starts.pop(0)
        for number in gone:
            await self._reading.give_up(number)
            recycled = await self._spares.give_back(f"{self._directory}/{segment_name(self._timeline, number)}", keep)
            self._events.emit("wal.segment_removed", number=number, recycled=recycled)
        if gone:
            await self._disk.sync_dir(self._directory)
        return len(gone)

    async def read(self, lsn: int) -> Record:
        """The record at `lsn`, which is not in memory, from its segment. Raises: LogGone, Corruption, StorageError."""
        index = bisect_right(self._starts, lsn) - 1
        if index < 0:
            raise LogGone(f"the log below {format_lsn(self.oldest_lsn)} is no longer there; {format_lsn(lsn)} was asked for")
        number, offset = self._numbers[index], SEGMENT_HEADER_SIZE + lsn - self._starts[index]
        name = segment_name(self._timeline, number)
        try:
            data = await self._reading.read_record(number, f"{self._directory}/{name}", offset, self._segment_size)
            return decode_record(data, 0, lsn)
        except (Corruption, StorageError, FileNotFoundError) as error:
            if not self._starts or lsn < self._starts[0]:
                raise LogGone(f"the log at {format_lsn(lsn)} was removed while it was read") from None
            if isinstance(error, FileNotFoundError):
                raise Corruption(f"log segment {name} is missing") from None
            raise

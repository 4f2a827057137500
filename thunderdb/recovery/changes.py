"""What redo has to apply: the LSNs of each page's changes, and the log that holds them, kept in memory as it was read.

A change is taken out of the log only when its page is brought up; so a pass over a long log costs one number a change.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from thunderdb.wal.record import CHANGE_SIZE, HEADER_SIZE, iter_changes
from thunderdb.wal.segment import SegmentScan, unpack_head

CHANGE_BYTES = 40
"""What an LSN in a list takes."""

Change = tuple[int, int, int, bytes, int]
"""(lsn, prev_page_lsn, op, payload, txn)"""


class PageWork:
    """What the log has for one page that may not be on disk. `image_lsn` is its newest image, 0 if none is known."""

    __slots__ = ("rec_lsn", "newest_lsn", "image_lsn", "lsns")

    def __init__(self, rec_lsn: int, newest_lsn: int, image_lsn: int) -> None:
        self.rec_lsn = rec_lsn
        self.newest_lsn = newest_lsn
        self.image_lsn = image_lsn
        self.lsns: list[int] = []


class KeptLog:
    """Segments in memory, as a scan has checked them, and the changes in them by LSN."""

    __slots__ = ("_starts", "_segments")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._segments: dict[int, tuple[bytes, int]] = {}

    def add(self, segment: SegmentScan) -> None:
        start_lsn = segment.header.start_lsn
        if start_lsn not in self._segments:
            self._starts.append(start_lsn)
            self._starts.sort()
        self._segments[start_lsn] = segment.data, segment.bias

    def drop_below(self, lsn: int) -> None:
        """Forget the segments that start below `lsn`."""
        for start_lsn in [start_lsn for start_lsn in self._starts if start_lsn < lsn]:
            self._starts.remove(start_lsn)
            del self._segments[start_lsn]

    def clear(self) -> None:
        self._starts.clear()
        self._segments.clear()

    def changes(self, page_no: int, lsns: Sequence[int]) -> list[Change]:
        """The changes to one page by the records at `lsns`, which ascend."""
        found: list[Change] = []
        add, unpack, starts = found.append, unpack_head, self._starts
        data, bias, end_lsn = b"", 0, 0
        for lsn in lsns:
            if lsn >= end_lsn:
                index = bisect_right(starts, lsn)
                data, bias = self._segments[starts[index - 1]]
                end_lsn = starts[index] if index < len(starts) else 1 << 64
            at = lsn + bias
            head = unpack(data, at)
            if head[4] == 1:
                at += HEADER_SIZE + CHANGE_SIZE
                add((lsn, head[8], head[11], data[at : at + head[10]], head[7]))
            else:
                for other_no, prev_page_lsn, op, start, size in iter_changes(data, at, head[4]):
                    if other_no == page_no:
                        add((lsn, prev_page_lsn, op, data[start : start + size], head[7]))
        return found

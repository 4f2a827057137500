"""The newest part of the log in memory: what is not yet written, what is being written, and some of what was.

M1. Chunks are in LSN order; together they hold every byte from some LSN up to the log's end.
M2. A chunk that is not durable is never dropped.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque


class Chunk:
    """Consecutive records of one segment, in one buffer: what is written and synced in one go."""

    __slots__ = ("number", "start_lsn", "prev_checksum", "buffer", "first", "closes")

    def __init__(self, number: int, start_lsn: int, prev_checksum: int, first: bool) -> None:
        self.number = number
        self.start_lsn = start_lsn
        self.prev_checksum = prev_checksum  # of the record before the chunk: the header of a new segment needs it
        self.buffer = bytearray()
        self.first = first  # the chunk begins its segment
        self.closes = False  # its last record ends its segment

    @property
    def end_lsn(self) -> int:
        return self.start_lsn + len(self.buffer)


class RecentLog:
    """Finds the chunk that holds an LSN, and forgets durable chunks beyond `limit_bytes`."""

    __slots__ = ("_chunks", "_limit_bytes")

    def __init__(self, limit_bytes: int) -> None:
        self._chunks: deque[Chunk] = deque()
        self._limit_bytes = limit_bytes

    def add(self, chunk: Chunk) -> None:
        """Take in the chunk that records will be appended to next."""
        self._chunks.append(chunk)

    def forget(self, flushed_lsn: int) -> None:
        """Drop the oldest durable chunks (M2). Call after `flushed_lsn` has moved."""
        chunks = self._chunks
        size = chunks[-1].end_lsn - chunks[0].start_lsn
        while size > self._limit_bytes and len(chunks) > 1 and chunks[0].end_lsn <= flushed_lsn:
            size -= len(chunks.popleft().buffer)

    def find(self, lsn: int) -> Chunk | None:
        """Return the chunk with the byte at `lsn`, or None if it is in no memory."""
        chunks = self._chunks
        if not chunks or not chunks[0].start_lsn <= lsn < chunks[-1].end_lsn:
            return None
        return chunks[bisect_right(chunks, lsn, key=_start_lsn) - 1]


def _start_lsn(chunk: Chunk) -> int:
    return chunk.start_lsn

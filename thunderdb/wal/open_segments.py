"""Segment files that are open for reading the log back (undo, old row versions, redo on demand): a few, the oldest ones go.

V1. A file is closed when nobody reads it: whoever is in the middle of one keeps it open though it has been given up meanwhile.
"""

from __future__ import annotations

from thunderdb.runtime.ports import Disk, File
from thunderdb.wal.record import H_LENGTH, HEADER_SIZE, RECORD_HEADER

READ_AHEAD = 4096
LIMIT = 4


class _Open:
    __slots__ = ("file", "readers", "given_up")

    def __init__(self, file: File) -> None:
        self.file = file
        self.readers = 0
        self.given_up = False


class OpenSegments:
    """By segment number. Any number of readers at a time."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._open: dict[int, _Open] = {}
        self._idle: list[File] = []  # given up, and no longer read: closed by who comes next

    async def read_record(self, number: int, path: str, offset: int, limit: int) -> bytes:
        """The bytes of the record at `offset`, however long, up to `limit`, it claims to be. Raises: what the disk raises."""
        segment = await self._segment(number, path)
        segment.readers += 1
        try:
            data = await _whole(segment.file, offset, limit)
        finally:
            segment.readers -= 1
            if segment.given_up and not segment.readers:
                self._idle.append(segment.file)
        await self._close_idle()
        return data

    async def give_up(self, number: int) -> None:
        """The segment is about to be removed."""
        self._let_go(number)
        await self._close_idle()

    async def close(self) -> None:
        """Nobody reads any more."""
        for number in list(self._open):
            self._let_go(number)
        await self._close_idle()

    async def _segment(self, number: int, path: str) -> _Open:
        segment = self._open.get(number)
        if segment is None:
            file = await self._disk.open(path, writable=False)
            segment = self._open.get(number)
            if segment is None:
                segment = self._open[number] = _Open(file)
                if len(self._open) > LIMIT:
                    self._let_go(next(iter(self._open)))
            else:  # somebody else was as quick
                self._idle.append(file)
        return segment

    def _let_go(self, number: int) -> None:
        segment = self._open.pop(number, None)
        if segment is not None:
            segment.given_up = True
            if not segment.readers:
                self._idle.append(segment.file)

    async def _close_idle(self) -> None:
        while self._idle:
            await self._idle.pop().close()


async def _whole(file: File, offset: int, limit: int) -> bytes:
    data = await file.read(offset, READ_AHEAD)
    if len(data) < HEADER_SIZE:
        return data
    length = RECORD_HEADER.unpack_from(data)[H_LENGTH]
    if len(data) < length <= limit:
        data += await file.read(offset + len(data), length - len(data))
    return data

"""A page's changes, read from the log when they are wanted: from its newest one backwards, each names the one before it.

    newest_lsn ─▶ record ─▶ prev_page_lsn ─▶ record ─▶ … ─▶ an image, or the first change since the page was last on disk

C1. Only log below restart's end is read; it was made durable before (W4) and never changes. W7 keeps it as long as the page is
    in the dirty page table.
C2. A record is checked again each time it is read: whoever needs one that cannot be read gets an error that names page and
    place.
C3. Memory is bounded: a few blocks of the log, and `KEPT_BYTES` of one page's changes; of more, only LSNs until their turn.
    The end of the log, which restart has just read, is in memory as far as there is room (`LogReader.kept`): a busy page has
    changes all over it, and reading a block for each took most of a restart's time.

Source: ARIES (1992) section 10.2, with pages' own chains in place of a scan; Graefe and Kuno, single-page failures (2012).
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Sequence

from xxhash import xxh3_64_intdigest

from thunderdb.access.apply import PageOp
from thunderdb.base.errors import Corruption, StorageError
from thunderdb.base.events import Events
from thunderdb.base.ids import format_lsn
from thunderdb.wal.reader import LogReader
from thunderdb.wal.record import (
    CHANGE_SIZE,
    CHECKSUM_SIZE,
    H_LENGTH,
    H_PAGE_COUNT,
    H_TXN,
    HEADER_SIZE,
    RECORD_HEADER,
    Header,
    Record,
    check_record,
    decode_record,
    iter_changes,
)
from thunderdb.wal.segment import SEGMENT_HEADER_SIZE, unpack_head

_HEAD_SIZE = HEADER_SIZE + CHANGE_SIZE
_IMAGE = int(PageOp.IMAGE)
BLOCK_BYTES = 16 << 10
LONG_BLOCK_BYTES = 256 << 10
"""For a page whose changes lie close together in the log: the block before had so many of them (`_pays`)."""
CACHE_BYTES = 4 << 20
KEPT_BYTES = 32 << 20
_HITS, _LONG_HITS = 4, 12
_LONG_READS = 3  # what a long block costs, in short ones
_BESIDE = 200  # what a change takes in memory beside its payload

Change = tuple[int, int, int, bytes, int]
"""(lsn, prev_page_lsn, op, payload, txn)"""


class Chains:
    """Reads the chains of pages out of the segments that a `LogReader` has found."""

    def __init__(self, reader: LogReader, events: Events) -> None:
        self._reader = reader
        self._events = events
        self._segments = list(reader.segments)
        self._starts = [header.start_lsn for header in self._segments]
        self._blocks: dict[tuple[int, int, int], bytes] = {}
        self._cached_bytes = 0
        self.reads = 0
        """How many blocks have been read; a long one counts as several."""
        self._set_window(0, b"")

    async def changes(self, page_no: int, rec_lsn: int, newest_lsn: int) -> tuple[list[Change], array[int]]:
        """The page's changes from its newest image on, or from `rec_lsn` on, oldest first; and the LSNs of those that follow.

        Raises: Corruption (C2).
        """
        kept: list[Change] = []
        later: array[int] = array("Q")
        lsn, room, block_bytes, hits = newest_lsn, KEPT_BYTES, BLOCK_BYTES, 0
        while lsn >= rec_lsn:
            if room <= 0:  # C3
                later.extend(change[0] for change in kept)
                kept.clear()
                room = KEPT_BYTES
            change = self._here(page_no, lsn)
            if change is None:
                block_bytes, hits = _pays(block_bytes, hits), 0
                change = await self.change(page_no, lsn, block_bytes)
            hits += 1
            kept.append(change)
            room -= len(change[3]) + _BESIDE
            if change[2] == _IMAGE:
                break
            if change[1] >= lsn:
                raise Corruption(f"page {page_no}: the log record at {format_lsn(lsn)} does not lead back")
            lsn = change[1]
        kept.reverse()
        later.reverse()
        return kept, later

    async def following(self, page_no: int, lsns: Sequence[int]) -> list[Change]:
        """Some of a page's changes, by their LSNs. Raises: Corruption (C2)."""
        return [self._here(page_no, lsn) or await self.change(page_no, lsn, LONG_BLOCK_BYTES) for lsn in lsns]

    def _here(self, page_no: int, lsn: int) -> Change | None:
        """The change, if its record lies in the window and has no other; restarts of busy pages spend their time here."""
        at = lsn - self._window_lsn
        if at < 0 or at + _HEAD_SIZE > self._window_size:
            return None
        data = self._window
        checksum, length, _kind, _flags, count, own, _previous, txn, prev_page_lsn, changed, size, op = unpack_head(data, at)
        stop = at + length
        if own != lsn or count != 1 or changed != page_no or stop > self._window_size:
            return None
        if xxh3_64_intdigest(self._view[at + CHECKSUM_SIZE : stop]) != checksum:
            return None
        start = at + _HEAD_SIZE
        return lsn, prev_page_lsn, op, data[start : start + size], txn

    def _set_window(self, lsn: int, data: bytes) -> None:
        self._window_lsn, self._window, self._view, self._window_size = lsn, data, memoryview(data), len(data)

    async def change(self, page_no: int, lsn: int, block_bytes: int) -> Change:
        """What the record at `lsn` does to the page. Raises: Corruption (C2)."""
        try:
            header, data, at = await self._record(lsn, block_bytes)
        except (StorageError, FileNotFoundError) as error:
            header, data, at = await self._read_again(page_no, lsn, error)
        for changed, prev_page_lsn, op, start, size in iter_changes(data, at, header[H_PAGE_COUNT]):
            if changed == page_no:
                return lsn, prev_page_lsn, op, data[start : start + size], header[H_TXN]
        raise Corruption(f"page {page_no}: the log record at {format_lsn(lsn)} does not change it, but its chain says so")

    async def record(self, lsn: int, otherwise: Callable[[int], Awaitable[Record]]) -> Record:
        """The record at `lsn` out of a block that has its neighbours, too; `otherwise` reads what cannot be had here."""
        try:
            _header, data, at = await self._record(lsn, BLOCK_BYTES)
        except (StorageError, FileNotFoundError):
            self.forget()
            return await otherwise(lsn)
        return decode_record(data, at)

    async def _read_again(self, page_no: int, lsn: int, error: Exception) -> tuple[Header, bytes, int]:
        """What restart could read a while ago is worth a second attempt before a page is given up for it."""
        self.forget()
        self._events.emit("recovery.log_unreadable", page_no=page_no, lsn=lsn, error=str(error))
        try:
            return await self._record(lsn, BLOCK_BYTES)
        except (StorageError, FileNotFoundError) as again:
            self.forget()
            raise Corruption(
                f"page {page_no}: the log at {format_lsn(lsn)} that it needs cannot be read: {again}",
                "Put the log segment back from the archive, or restore from a backup.",
            ) from again

    def forget(self) -> None:
        """Let go of what is kept in memory."""
        self._reader.kept.clear()
        self._blocks.clear()
        self._cached_bytes = 0
        self._set_window(0, b"")

    async def _record(self, lsn: int, block_bytes: int) -> tuple[Header, bytes, int]:
        """(header, bytes, where in them) of the record at `lsn`, checked; its block becomes the window."""
        segment = bisect_right(self._starts, lsn) - 1
        if segment < 0:
            raise Corruption("it is no longer there")
        kept = self._reader.kept.get(self._segments[segment].number)
        if kept is not None:
            at = SEGMENT_HEADER_SIZE + lsn - self._starts[segment]
            self._set_window(lsn - at, kept)
            return check_record(kept, at, lsn), kept, at
        block, at = divmod(lsn - self._starts[segment], block_bytes)
        data = await self._block(segment, block, block_bytes)
        self._set_window(lsn - at, data)
        while (missing := _missing(data, at)) > 0 and missing <= self._segments[segment].segment_size:
            block += 1
            more = await self._block(segment, block, block_bytes)
            if not more:
                break
            data, at = data[at:] + more, 0
        return check_record(data, at, lsn), data, at

    async def _block(self, segment: int, block: int, block_bytes: int) -> bytes:
        """A piece of a segment's records, shorter where the file ends."""
        key = (segment, block, block_bytes)
        data = self._blocks.get(key)
        if data is None:
            header = self._segments[segment]
            data = await self._reader.read_part(header, header.start_lsn + block * block_bytes, block_bytes)
            while self._blocks and self._cached_bytes + len(data) > CACHE_BYTES:
                self._cached_bytes -= len(self._blocks.pop(next(iter(self._blocks))))
            self._cached_bytes += len(data) if key not in self._blocks else 0
            self._blocks[key] = data
            self.reads += 1 if block_bytes == BLOCK_BYTES else _LONG_READS
        return data


def _pays(block_bytes: int, hits: int) -> int:
    """How much to read at once after a block that had so many of the page's changes."""
    return LONG_BLOCK_BYTES if hits >= (_HITS if block_bytes == BLOCK_BYTES else _LONG_HITS) else BLOCK_BYTES


def _missing(data: bytes, at: int) -> int:
    """How many more bytes the record at `at` needs, as far as can be seen."""
    available = len(data) - at
    if available < HEADER_SIZE:
        return HEADER_SIZE - available
    length: int = RECORD_HEADER.unpack_from(data, at)[H_LENGTH]
    return length - available

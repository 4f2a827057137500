"""A page's changes, read from the log when they are wanted: from its newest one backwards, each names the one before it.

    newest_lsn ─▶ record ─▶ prev_page_lsn ─▶ record ─▶ … ─▶ an image, or the first change since the page was last on disk

C1. Only log below restart's end is read; it was made durable before (W4) and never changes. W7 keeps it as long as the page is
    in the dirty page table.
C2. A record is checked again each time it is read: whoever needs one that cannot be read gets an error that names page and
    place.
C3. Memory is bounded: a few blocks of the log, and of one page's changes at most `KEPT`; of more, only LSNs until their turn.

Source: ARIES (1992) section 10.2, with pages' own chains in place of a scan; Graefe and Kuno, single-page failures (2012).
"""

from __future__ import annotations

from array import array
from bisect import bisect_right

from thunderdb.access.apply import PageOp
from thunderdb.base.errors import Corruption, StorageError
from thunderdb.base.events import Events
from thunderdb.base.ids import format_lsn
from thunderdb.wal.reader import LogReader
from thunderdb.wal.record import (
    CHANGE_SIZE,
    H_LENGTH,
    H_PAGE_COUNT,
    H_TXN,
    HEADER_SIZE,
    PAGE_CHANGE,
    RECORD_HEADER,
    Header,
    check_record,
    iter_changes,
)

BLOCK_BYTES = 16 << 10
BLOCKS = 256
KEPT = 2048

Change = tuple[int, int, int, bytes, int]
"""(lsn, prev_page_lsn, op, payload, txn)"""


class Chains:
    """Reads the chains of pages out of the segments that a `LogReader` has found."""

    def __init__(self, reader: LogReader, events: Events) -> None:
        self._reader = reader
        self._events = events
        self._segments = list(reader.segments)
        self._starts = [header.start_lsn for header in self._segments]
        self._blocks: dict[tuple[int, int], bytes] = {}

    async def changes(self, page_no: int, rec_lsn: int, newest_lsn: int) -> tuple[list[Change], array[int]]:
        """The page's changes from its newest image on, or from `rec_lsn` on, oldest first; and the LSNs of those that follow.

        Raises: Corruption (C2).
        """
        kept: list[Change] = []
        later: array[int] = array("Q")
        lsn = newest_lsn
        while lsn >= rec_lsn:
            if len(kept) == KEPT:  # C3
                later.extend(change[0] for change in kept)
                kept.clear()
            change = await self.change(page_no, lsn)
            kept.append(change)
            if change[2] == PageOp.IMAGE:
                break
            if change[1] >= lsn:
                raise Corruption(f"page {page_no}: the log record at {format_lsn(lsn)} does not lead back")
            lsn = change[1]
        kept.reverse()
        later.reverse()
        return kept, later

    async def change(self, page_no: int, lsn: int) -> Change:
        """What the record at `lsn` does to the page. Raises: Corruption (C2)."""
        try:
            header, data, at = await self._record(lsn)
        except (StorageError, FileNotFoundError) as error:
            header, data, at = await self._read_again(page_no, lsn, error)
        if header[H_PAGE_COUNT] == 1:
            prev_page_lsn, changed_no, size, op = PAGE_CHANGE.unpack_from(data, at + HEADER_SIZE)
            if changed_no == page_no:
                start = at + HEADER_SIZE + CHANGE_SIZE
                return lsn, prev_page_lsn, op, data[start : start + size], header[H_TXN]
        else:
            for changed_no, prev_page_lsn, op, start, size in iter_changes(data, at, header[H_PAGE_COUNT]):
                if changed_no == page_no:
                    return lsn, prev_page_lsn, op, data[start : start + size], header[H_TXN]
        raise Corruption(f"page {page_no}: the log record at {format_lsn(lsn)} does not change it, but its chain says so")

    async def _read_again(self, page_no: int, lsn: int, error: Exception) -> tuple[Header, bytes, int]:
        """What restart could read a while ago is worth a second attempt before a page is given up for it."""
        self.forget()
        self._events.emit("recovery.log_unreadable", page_no=page_no, lsn=lsn, error=str(error))
        try:
            return await self._record(lsn)
        except (StorageError, FileNotFoundError) as again:
            self.forget()
            raise Corruption(
                f"page {page_no}: the log at {format_lsn(lsn)} that it needs cannot be read: {again}",
                "Put the log segment back from the archive, or restore from a backup.",
            ) from again

    def forget(self) -> None:
        """Let go of what is kept in memory."""
        self._blocks.clear()

    async def _record(self, lsn: int) -> tuple[Header, bytes, int]:
        """(header, bytes, where in them) of the record at `lsn`, checked."""
        segment = bisect_right(self._starts, lsn) - 1
        if segment < 0:
            raise Corruption("it is no longer there")
        block, at = divmod(lsn - self._starts[segment], BLOCK_BYTES)
        data = self._blocks.get((segment, block)) or await self._read(segment, block)
        while (missing := _missing(data, at)) > 0 and missing <= self._segments[segment].segment_size:
            block += 1
            more = self._blocks.get((segment, block)) or await self._read(segment, block)
            if not more:
                break
            data, at = data[at:] + more, 0
        return check_record(data, at, lsn), data, at

    async def _read(self, segment: int, block: int) -> bytes:
        header = self._segments[segment]
        data = await self._reader.read_part(header, header.start_lsn + block * BLOCK_BYTES, BLOCK_BYTES)
        while len(self._blocks) >= BLOCKS:
            del self._blocks[next(iter(self._blocks))]
        self._blocks[segment, block] = data
        return data


def _missing(data: bytes, at: int) -> int:
    """How many more bytes the record at `at` needs, as far as can be seen."""
    available = len(data) - at
    if available < HEADER_SIZE:
        return HEADER_SIZE - available
    length: int = RECORD_HEADER.unpack_from(data, at)[H_LENGTH]
    return length - available

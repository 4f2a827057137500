"""Analysis: from the last checkpoint to the end of the log, find out who was active and which pages may not be on disk.

A1. The checkpoint's tables describe the moment of its begin record; everything from the begin record on is applied to them.
A2. A transaction is a loser unless its COMMIT or ABORT record is in the log.
A3. A page may be dirty from the first record that names it; a rec_lsn from the tables is older and wins.
A4. The tables may lie anywhere between begin and end; a checkpoint without its end record was never named by the control file.
A5. Of a page's changes only the newest and the newest image are noted: redo finds the others by the page's chain, on demand.
    So memory is bounded by the pages, whatever the length of the log; the end of it is kept as it was read, as far as there is
    room, for that is where the chains of busy pages begin.
A6. The log before the checkpoint that a page may still need is read and checked, too: what is not there is found now, not by
    the query that is the first to touch the page.

Source: ARIES (1992) section 10.1.
"""

from __future__ import annotations

from dataclasses import dataclass

from thunderdb.access.apply import PageOp
from thunderdb.base.errors import Corruption, LogHole
from thunderdb.base.ids import format_lsn
from thunderdb.recovery.dirty import DirtyColumns
from thunderdb.recovery.extras import CHECKPOINT_BEGIN_EXTRA, COMMIT_EXTRA, decode_tables
from thunderdb.runtime.sync import Tasks
from thunderdb.wal.reader import LogEnd, LogReader
from thunderdb.wal.record import H_PAGE_COUNT, RecordKind, extra_of, iter_changes
from thunderdb.wal.segment import Head, SegmentScan

_COMMIT, _ABORT, _IMAGE = int(RecordKind.COMMIT), int(RecordKind.ABORT), int(PageOp.IMAGE)


@dataclass(slots=True)
class Analysis:
    """What restart has to do.

    `losers`: id -> [first_lsn, last_lsn]. `changed`: how many of the `records` change pages.
    """

    end: LogEnd
    checkpoint_lsn: int
    dirty: DirtyColumns
    losers: dict[int, list[int]]
    next_txn: int = 1
    order_us: int = 0
    records: int = 0
    changed: int = 0

    @property
    def redo_lsn(self) -> int:
        return self.dirty.redo_lsn or self.end.lsn


class _Pass:
    """The state of the pass."""

    def __init__(self, checkpoint_lsn: int) -> None:
        self.checkpoint_lsn = checkpoint_lsn
        self.dirty = DirtyColumns()
        self.losers: dict[int, list[int]] = {}
        self.ended: set[int] = set()
        self.next_txn = 1
        self.order_us = 0
        self.records = 0
        self.changed = 0
        self.complete = False

    def segment(self, segment: SegmentScan) -> None:
        while heads := segment.heads():
            self.records += len(heads)
            self._records(segment, heads)

    def _records(self, segment: SegmentScan, heads: list[Head]) -> None:
        """Note what some records change, begin and end (A2, A3). One loop without calls: restart time is spent here."""
        losers, ended, find_loser = self.losers, self.ended, self.losers.get
        rec_lsns, newest_lsns, image_lsns = self.dirty.rec_lsns, self.dirty.newest_lsns, self.dirty.image_lsns
        tables_to_come = not self.complete
        room = len(rec_lsns)
        commit_lsn = changed = 0
        for _sum, _length, kind, _flags, page_count, lsn, _previous, txn, _prev_page, page_no, _size, op in heads:
            if page_count == 1:
                changed += 1
                if page_no >= room:
                    room = self.dirty.reach(page_no)
                newest_lsns[page_no] = lsn
                if not rec_lsns[page_no]:
                    rec_lsns[page_no] = lsn
                if op == _IMAGE:
                    image_lsns[page_no] = lsn
            elif page_count:
                changed += 1
                self._pages(segment, lsn, page_count)
                room = len(rec_lsns)
            if txn:
                if kind == _COMMIT or kind == _ABORT:
                    losers.pop(txn, None)
                    if tables_to_come:
                        ended.add(txn)
                    if kind == _COMMIT:
                        commit_lsn = lsn
                else:
                    loser = find_loser(txn)
                    if loser is not None:
                        loser[1] = lsn
                    else:
                        losers[txn] = [lsn, lsn]
                        self.next_txn = max(self.next_txn, txn + 1)
            elif not page_count:
                self._other(segment, kind, lsn)
                room = len(rec_lsns)
                tables_to_come = not self.complete
        self.changed += changed
        if commit_lsn:  # order times increase (W9): the last one is the greatest
            order_us, _wall = COMMIT_EXTRA.unpack(extra_of(segment.data, commit_lsn + segment.bias))
            self.order_us = max(self.order_us, order_us)

    def _pages(self, segment: SegmentScan, lsn: int, page_count: int) -> None:
        """Note the changes of a record that has several."""
        for page_no, _prev_page_lsn, op, _at, _size in iter_changes(segment.data, lsn + segment.bias, page_count):
            self.dirty.merge(page_no, lsn, lsn, lsn if op == _IMAGE else 0)

    def _other(self, segment: SegmentScan, kind: int, lsn: int) -> None:
        if kind == RecordKind.CHECKPOINT_BEGIN and lsn == self.checkpoint_lsn:
            next_txn, order_us, _wall = CHECKPOINT_BEGIN_EXTRA.unpack(extra_of(segment.data, lsn + segment.bias))
            self.next_txn, self.order_us = max(self.next_txn, next_txn), max(self.order_us, order_us)
        elif kind == RecordKind.CHECKPOINT_TABLES:
            self._tables(extra_of(segment.data, lsn + segment.bias))
        elif kind == RecordKind.CHECKPOINT_END:
            begin_lsn = int.from_bytes(extra_of(segment.data, lsn + segment.bias), "little")
            if begin_lsn == self.checkpoint_lsn:
                self.complete = True
                self.ended.clear()  # only the tables may name one that has ended (A4, A5)

    def _tables(self, extra: bytes) -> None:
        """Merge what was true at the begin record into what has been seen since (A1, A3)."""
        begin_lsn, transactions, pages = decode_tables(extra)
        if begin_lsn != self.checkpoint_lsn:
            return
        for txn, first_lsn, last_lsn in transactions:
            if txn not in self.ended:
                loser = self.losers.setdefault(txn, [first_lsn, last_lsn])
                loser[0] = min(loser[0], first_lsn)
        for page_no, rec_lsn, page_lsn, image_lsn in pages:
            self.dirty.merge(page_no, rec_lsn, page_lsn, image_lsn)


async def analyse(tasks: Tasks, reader: LogReader, checkpoint_lsn: int, newest_segment: int, floor: bool) -> Analysis:
    """Scan the log from the checkpoint's begin record; the next segment is read meanwhile.

    Raises: LogHole, also where the checkpoint, which was durable, is not there whole.
    """
    state = _Pass(checkpoint_lsn)
    scan = reader.scan(checkpoint_lsn, newest_segment=newest_segment, floor=floor, tasks=tasks)
    async for segment in scan:
        records, from_lsn = state.records, segment.lsn
        state.segment(segment)
        reader.keep(segment.header.number, segment.data)
        await tasks.work("recovery.scan", state.records - records)
        await tasks.work("log.byte", segment.lsn - from_lsn)
    scan.end.check()
    if not state.complete:
        raise LogHole(
            f"the checkpoint at {format_lsn(checkpoint_lsn)} is not whole in the log, which ends at {format_lsn(scan.end.lsn)}",
            "Put the missing log segments back from the archive, or restore from a backup.",
        )
    return Analysis(
        scan.end, checkpoint_lsn, state.dirty, state.losers, state.next_txn, state.order_us, state.records, state.changed
    )


async def check_before(reader: LogReader, from_lsn: int, until_lsn: int) -> tuple[int, int]:
    """Read the log before the checkpoint (A6); return how many records it has, and how many of them change pages.

    Raises: LogHole, Corruption.
    """
    records = changed = 0
    scan = reader.scan(from_lsn, until_lsn=until_lsn)
    async for segment in scan:
        while headers := segment.batch():
            records += len(headers)
            changed += sum(1 for header in headers if header[H_PAGE_COUNT])
    if scan.end.lsn != until_lsn:
        raise Corruption(
            f"the log before the checkpoint at {format_lsn(until_lsn)} can be read only to {format_lsn(scan.end.lsn)}: "
            f"{scan.end.detail}",
            "Put the missing log segments back from the archive, or restore from a backup.",
        )
    return records, changed

"""Analysis: from the last checkpoint to the end of the log, find out who was active and which pages may not be on disk.

A1. The checkpoint's tables describe the moment of its begin record; everything from the begin record on is applied to them.
A2. A transaction is a loser unless its COMMIT or ABORT record is in the log.
A3. A page may be dirty from the first record that names it; a rec_lsn from the tables is older and wins.
A5. The changes to pages are gathered on the way, by page, for redo; where they would take more memory than allowed they are
    dropped, and redo reads the log again.
A4. The tables may lie anywhere between begin and end; a checkpoint without its end record was never named by the control file.

Source: ARIES (1992) section 10.1.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from thunderdb.access.apply import PageOp
from thunderdb.base.errors import LogHole
from thunderdb.base.ids import format_lsn
from thunderdb.recovery.extras import CHECKPOINT_BEGIN_EXTRA, COMMIT_EXTRA, decode_tables
from thunderdb.wal.reader import LogEnd, LogReader
from thunderdb.wal.record import CHANGE_SIZE, HEADER_SIZE, PAGE_CHANGE, RecordKind, extra_of, iter_changes
from thunderdb.wal.segment import SegmentScan

GATHER_BYTES = 256 << 20
_CHANGE_BYTES = 150

Change = tuple[int, int, int, bytes, int]
"""(lsn, prev_page_lsn, op, payload, txn)"""


class PageWork:
    """What the log has for one page that may not be on disk. `image_lsn` is its newest image, 0 if none is known."""

    __slots__ = ("rec_lsn", "newest_lsn", "image_lsn", "changes")

    def __init__(self, rec_lsn: int, newest_lsn: int, image_lsn: int) -> None:
        self.rec_lsn = rec_lsn
        self.newest_lsn = newest_lsn
        self.image_lsn = image_lsn
        self.changes: list[Change] = []


@dataclass(slots=True)
class Analysis:
    """What restart has to do.

    `losers`: id -> [first_lsn, last_lsn]. `gathered`: the pages' changes since the checkpoint are there.
    """

    end: LogEnd
    checkpoint_lsn: int
    gathered: bool
    dirty: dict[int, PageWork] = field(default_factory=dict)
    losers: dict[int, list[int]] = field(default_factory=dict)
    next_txn: int = 1
    order_us: int = 0
    records: int = 0
    changed: int = 0

    @property
    def redo_lsn(self) -> int:
        return min((work.rec_lsn for work in self.dirty.values()), default=self.end.lsn)


class _Pass:
    """The state of the pass."""

    def __init__(self, checkpoint_lsn: int, budget_bytes: int) -> None:
        self.checkpoint_lsn = checkpoint_lsn
        self.dirty: dict[int, PageWork] = {}
        self.losers: dict[int, list[int]] = {}
        self.ended: set[int] = set()
        self.next_txn = 1
        self.order_us = 0
        self.records = 0
        self.changed = 0
        self.complete = False
        self.room = budget_bytes

    def segment(self, segment: SegmentScan) -> None:
        while headers := segment.batch():
            self.records += len(headers)
            for _sum, _length, kind, _flags, page_count, lsn, _previous, txn, _prev, _flushed, _quorum in headers:
                if page_count:
                    self._pages(segment, lsn, page_count, txn)
                if txn:
                    self._transaction(segment, kind, lsn, txn)
                elif not page_count:
                    self._other(segment, kind, lsn)

    def _pages(self, segment: SegmentScan, lsn: int, page_count: int, txn: int) -> None:
        """Note the changes of one record (A3, A5); nearly always there is one."""
        self.changed += 1
        data, offset = segment.data, lsn + segment.bias
        if page_count == 1:
            prev_page_lsn, page_no, size, op = PAGE_CHANGE.unpack_from(data, offset + HEADER_SIZE)
            self._page(data, lsn, txn, page_no, prev_page_lsn, op, offset + HEADER_SIZE + CHANGE_SIZE, size)
        else:
            for page_no, prev_page_lsn, op, at, size in iter_changes(data, offset, page_count):
                self._page(data, lsn, txn, page_no, prev_page_lsn, op, at, size)

    def _page(self, data: bytes, lsn: int, txn: int, page_no: int, prev_page_lsn: int, op: int, at: int, size: int) -> None:
        work = self.dirty.get(page_no)
        if work is None:
            work = self.dirty[page_no] = PageWork(lsn, lsn, 0)
        work.newest_lsn = lsn
        if op == PageOp.IMAGE:
            work.image_lsn = lsn
            work.changes = []  # an image makes all before it needless
        if self.room > 0:
            work.changes.append((lsn, prev_page_lsn, op, data[at : at + size], txn))
            self.room -= size + _CHANGE_BYTES
            if self.room <= 0:
                for other in self.dirty.values():
                    other.changes = []

    def _transaction(self, segment: SegmentScan, kind: int, lsn: int, txn: int) -> None:
        if txn >= self.next_txn:
            self.next_txn = txn + 1
        if kind == RecordKind.COMMIT or kind == RecordKind.ABORT:
            self.losers.pop(txn, None)
            self.ended.add(txn)
            if kind == RecordKind.COMMIT:
                order_us, _wall = COMMIT_EXTRA.unpack(extra_of(segment.data, lsn + segment.bias))
                self.order_us = max(self.order_us, order_us)
        else:
            loser = self.losers.get(txn)
            if loser is None:
                self.losers[txn] = [lsn, lsn]
            else:
                loser[1] = lsn

    def _other(self, segment: SegmentScan, kind: int, lsn: int) -> None:
        if kind == RecordKind.CHECKPOINT_BEGIN and lsn == self.checkpoint_lsn:
            next_txn, order_us, _wall = CHECKPOINT_BEGIN_EXTRA.unpack(extra_of(segment.data, lsn + segment.bias))
            self.next_txn, self.order_us = max(self.next_txn, next_txn), max(self.order_us, order_us)
        elif kind == RecordKind.CHECKPOINT_TABLES:
            self._tables(extra_of(segment.data, lsn + segment.bias))
        elif kind == RecordKind.CHECKPOINT_END:
            begin_lsn = int.from_bytes(extra_of(segment.data, lsn + segment.bias), "little")
            self.complete = self.complete or begin_lsn == self.checkpoint_lsn

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
            work = self.dirty.get(page_no)
            if work is None:
                self.dirty[page_no] = PageWork(rec_lsn, page_lsn, image_lsn)
            else:
                work.rec_lsn = min(work.rec_lsn, rec_lsn)
                work.newest_lsn = max(work.newest_lsn, page_lsn)
                work.image_lsn = max(work.image_lsn, image_lsn)


async def analyse(
    reader: LogReader, checkpoint_lsn: int, newest_segment: int, floor: bool, budget_bytes: int = GATHER_BYTES
) -> Analysis:
    """Scan the log from the checkpoint's begin record, gathering changes in at most about `budget_bytes` of memory.

    Raises: LogHole, also where the checkpoint, which was durable, is not there whole.
    """
    state = _Pass(checkpoint_lsn, budget_bytes)
    scan = reader.scan(checkpoint_lsn, newest_segment=newest_segment, floor=floor)
    async for segment in scan:
        state.segment(segment)
    scan.end.check()
    if not state.complete:
        raise LogHole(
            f"the checkpoint at {format_lsn(checkpoint_lsn)} is not whole in the log, which ends at {format_lsn(scan.end.lsn)}",
            "Put the missing log segments back from the archive, or restore from a backup.",
        )
    return Analysis(
        scan.end, checkpoint_lsn, state.room > 0, state.dirty, state.losers, state.next_txn, state.order_us, state.records,
        state.changed,
    )  # fmt: skip

"""Analysis: from the last checkpoint to the end of the log, find out who was active and which pages may not be on disk.

A1. The checkpoint's tables describe the moment of its begin record; everything from the begin record on is applied to them.
A2. A transaction is a loser unless its COMMIT or ABORT record is in the log.
A3. A page may be dirty from the first record that names it; a rec_lsn from the tables is older and wins.
A4. The tables may lie anywhere between begin and end; a checkpoint without its end record was never named by the control file.

Source: ARIES (1992) section 10.1.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from thunderdb.access.apply import PageOp
from thunderdb.base.errors import Corruption
from thunderdb.base.ids import format_lsn
from thunderdb.recovery.extras import CHECKPOINT_BEGIN_EXTRA, COMMIT_EXTRA, decode_tables
from thunderdb.wal.reader import LogEnd, LogReader
from thunderdb.wal.record import Header, RecordKind, extra_of, iter_changes
from thunderdb.wal.segment import SegmentScan


@dataclass(slots=True)
class Analysis:
    """What restart has to do. `dirty`: page -> [rec_lsn, newest page_lsn, image_lsn]; `losers`: id -> [first_lsn, last_lsn]."""

    end: LogEnd
    dirty: dict[int, list[int]] = field(default_factory=dict)
    losers: dict[int, list[int]] = field(default_factory=dict)
    next_txn: int = 1
    order_us: int = 0
    records: int = 0

    @property
    def redo_lsn(self) -> int:
        return min((entry[0] for entry in self.dirty.values()), default=self.end.lsn)


class _Pass:
    """The state of the pass, apart from its result."""

    def __init__(self, checkpoint_lsn: int) -> None:
        self.checkpoint_lsn = checkpoint_lsn
        self.dirty: dict[int, list[int]] = {}
        self.losers: dict[int, list[int]] = {}
        self.ended: set[int] = set()
        self.next_txn = 1
        self.order_us = 0
        self.records = 0
        self.complete = False

    def segment(self, segment: SegmentScan) -> None:
        while headers := segment.batch():
            self.records += len(headers)
            for header in headers:
                self.record(segment, header)

    def record(self, segment: SegmentScan, header: Header) -> None:
        _checksum, _length, kind, _flags, page_count, lsn, _previous, txn, _prev_lsn, _flushed, _quorum = header
        if page_count:
            self._pages(segment, lsn, page_count)
        if txn:
            self._transaction(segment, kind, lsn, txn)
        elif kind == RecordKind.CHECKPOINT_BEGIN and lsn == self.checkpoint_lsn:
            next_txn, order_us, _wall = CHECKPOINT_BEGIN_EXTRA.unpack(extra_of(segment.data, lsn + segment.bias))
            self.next_txn, self.order_us = max(self.next_txn, next_txn), max(self.order_us, order_us)
        elif kind == RecordKind.CHECKPOINT_TABLES:
            self._tables(extra_of(segment.data, lsn + segment.bias))
        elif kind == RecordKind.CHECKPOINT_END and int.from_bytes(extra_of(segment.data, lsn + segment.bias), "little") == self.checkpoint_lsn:
            self.complete = True

    def _pages(self, segment: SegmentScan, lsn: int, page_count: int) -> None:
        dirty = self.dirty
        for page_no, _prev, op, _at, _size in iter_changes(segment.data, lsn + segment.bias, page_count):
            entry = dirty.get(page_no)
            if entry is None:
                entry = dirty[page_no] = [lsn, lsn, 0]
            entry[1] = lsn
            if op == PageOp.IMAGE:
                entry[2] = lsn

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
            entry = self.dirty.setdefault(page_no, [rec_lsn, page_lsn, image_lsn])
            entry[0] = min(entry[0], rec_lsn)
            entry[1] = max(entry[1], page_lsn)
            entry[2] = max(entry[2], image_lsn)


async def analyse(reader: LogReader, checkpoint_lsn: int, newest_segment: int, floor: bool) -> Analysis:
    """Scan the log from the checkpoint's begin record.

    Raises: LogHole, Corruption (the checkpoint is not there whole).
    """
    state = _Pass(checkpoint_lsn)
    scan = reader.scan(checkpoint_lsn, newest_segment=newest_segment, floor=floor)
    async for segment in scan:
        state.segment(segment)
    scan.end.check()
    if not state.complete:
        raise Corruption(
            f"the checkpoint at {format_lsn(checkpoint_lsn)} is not whole in the log, which ends at {format_lsn(scan.end.lsn)}",
            "Put the missing log segments back from the archive, or restore from a backup.",
        )
    return Analysis(scan.end, state.dirty, state.losers, state.next_txn, state.order_us, state.records)

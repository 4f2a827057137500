"""Analysis: from the last checkpoint to the end of the log, find out who was active and which pages may not be on disk.

A1. The checkpoint's tables describe the moment of its begin record; everything from the begin record on is applied to them.
A2. A transaction is a loser unless its COMMIT or ABORT record is in the log.
A3. A page may be dirty from the first record that names it; a rec_lsn from the tables is older and wins.
A4. The tables may lie anywhere between begin and end; a checkpoint without its end record was never named by the control file.
A5. The LSNs of the changes to each page are gathered on the way, and the log is kept in memory, for redo; where that would take
    more memory than allowed it is dropped, and redo reads the log again.

Source: ARIES (1992) section 10.1.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from thunderdb.access.apply import PageOp
from thunderdb.base.errors import LogHole
from thunderdb.base.ids import format_lsn
from thunderdb.recovery.changes import CHANGE_BYTES, KeptLog, PageWork
from thunderdb.recovery.extras import CHECKPOINT_BEGIN_EXTRA, COMMIT_EXTRA, decode_tables
from thunderdb.wal.reader import LogEnd, LogReader
from thunderdb.wal.record import RecordKind, extra_of, iter_changes
from thunderdb.wal.segment import Head, SegmentScan

GATHER_BYTES = 384 << 20
_COMMIT, _ABORT, _IMAGE = int(RecordKind.COMMIT), int(RecordKind.ABORT), int(PageOp.IMAGE)


@dataclass(slots=True)
class Analysis:
    """What restart has to do.

    `losers`: id -> [first_lsn, last_lsn]. `log` has the pages' changes since the checkpoint, or is None (A5).
    """

    end: LogEnd
    checkpoint_lsn: int
    log: KeptLog | None
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
        self.log: KeptLog | None = KeptLog()
        self._room = budget_bytes

    def segment(self, segment: SegmentScan) -> None:
        if self.log is not None:
            self.log.add(segment)
            self._room -= len(segment.data)
        while heads := segment.heads():
            self._room -= CHANGE_BYTES * len(heads)
            if self.log is not None and self._room <= 0:
                self.log = None  # A5
                for work in self.dirty.values():
                    work.lsns = []
            self.records += len(heads)
            self._records(segment, heads)

    def _records(self, segment: SegmentScan, heads: list[Head]) -> None:
        """Note what some records change, begin and end (A2, A3). One loop without calls: restart time is spent here."""
        dirty, losers, ended, gathers = self.dirty, self.losers, self.ended, self.log is not None
        find_work, find_loser = dirty.get, losers.get
        commit_lsn = changed = 0
        for _sum, _length, kind, _flags, page_count, lsn, _previous, txn, _prev_page, page_no, _size, op in heads:
            if page_count == 1:
                changed += 1
                work = find_work(page_no)
                if work is None:
                    work = dirty[page_no] = PageWork(lsn, lsn, 0)
                else:
                    work.newest_lsn = lsn
                if op == _IMAGE:
                    work.image_lsn = lsn
                    work.lsns = []  # an image makes all before it needless
                if gathers:
                    work.lsns.append(lsn)
            elif page_count:
                changed += 1
                self._pages(segment, lsn, page_count, gathers)
            if txn:
                if kind == _COMMIT or kind == _ABORT:
                    losers.pop(txn, None)
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
        self.changed += changed
        if commit_lsn:  # order times increase (W9): the last one is the greatest
            order_us, _wall = COMMIT_EXTRA.unpack(extra_of(segment.data, commit_lsn + segment.bias))
            self.order_us = max(self.order_us, order_us)

    def _pages(self, segment: SegmentScan, lsn: int, page_count: int, gathers: bool) -> None:
        """Note the changes of a record that has several."""
        for page_no, _prev_page_lsn, op, _at, _size in iter_changes(segment.data, lsn + segment.bias, page_count):
            work = self.dirty.get(page_no)
            if work is None:
                work = self.dirty[page_no] = PageWork(lsn, lsn, 0)
            work.newest_lsn = lsn
            if op == _IMAGE:
                work.image_lsn = lsn
                work.lsns = []
            if gathers:
                work.lsns.append(lsn)

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
    """Scan the log from the checkpoint's begin record, keeping log and changes in at most about `budget_bytes` of memory.

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
        scan.end, checkpoint_lsn, state.log, state.dirty, state.losers, state.next_txn, state.order_us, state.records,
        state.changed,
    )  # fmt: skip

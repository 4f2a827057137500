"""Redo: bring every page that may not be on disk to the state that the log describes, losers' changes included.

Changes are gathered by page over a window of the log, so each page is read once a window, and an image makes all that came
before it needless.

R1. A change is applied if its LSN is above the page's page_lsn; then its previous page_lsn must be the page's. If it is not, a
    write was lost: the page is rebuilt from its image, and if that cannot be, restart refuses.
R2. (W6) Every page of the rebuilt dirty page table counts as dirty, whatever its page_lsn says: a write that the process before
    made may never have been synced.
R3. A torn or rotten page is rebuilt from its latest image.

Source: ARIES (1992) section 10.2.
"""

from __future__ import annotations

from thunderdb.access.apply import PageOp, apply, page_of_image
from thunderdb.access.context import Access
from thunderdb.base.errors import Corruption
from thunderdb.base.events import Events
from thunderdb.base.ids import format_lsn
from thunderdb.recovery.analysis import Analysis
from thunderdb.recovery.repair import rebuild_page
from thunderdb.storage.page import Page
from thunderdb.wal.reader import LogReader
from thunderdb.wal.record import iter_changes
from thunderdb.wal.segment import SegmentScan

WINDOW_BYTES = 64 << 20
_CHANGE_BYTES = 150
_PAGES_A_TURN = 64
_ROOM_PAGES = 4

Pending = dict[int, list[tuple[int, int, int, bytes, int]]]
"""page -> [(lsn, prev_page_lsn, op, payload, txn)]"""


class Redo:
    """One redo pass."""

    def __init__(self, access: Access, reader: LogReader, analysis: Analysis, events: Events) -> None:
        self.access = access
        self.reader = reader
        self.analysis = analysis
        self.events = events
        self.records = 0
        self._done: set[int] = set()
        self._pending: Pending = {}
        self._pending_bytes = 0

    async def run(self) -> int:
        """Redo everything; return the number of records replayed. Raises: Corruption."""
        dirty = self.analysis.dirty
        end_lsn = self.analysis.end.lsn
        if dirty and self.analysis.redo_lsn < end_lsn:
            scan = self.reader.scan(self.analysis.redo_lsn, until_lsn=end_lsn)
            async for segment in scan:
                await self._segment(segment)
            if scan.end.lsn != end_lsn:
                raise Corruption(f"redo read the log to {format_lsn(scan.end.lsn)}, analysis to {format_lsn(end_lsn)}")
            await self._apply_window()
        await self._count_rest_dirty()
        return self.records

    async def _segment(self, segment: SegmentScan) -> None:
        while headers := segment.batch():
            data, bias, dirty = segment.data, segment.bias, self.analysis.dirty
            for _sum, _length, _kind, _flags, page_count, lsn, _previous, txn, _prev, _flushed, _quorum in headers:
                if not page_count:
                    continue
                self.records += 1
                for page_no, prev_page_lsn, op, at, size in iter_changes(data, lsn + bias, page_count):
                    entry = dirty.get(page_no)
                    if entry is None or lsn < entry[0]:
                        continue
                    self._gather(page_no, (lsn, prev_page_lsn, op, data[at : at + size], txn))
            if self._pending_bytes > WINDOW_BYTES:
                await self._apply_window()

    def _gather(self, page_no: int, change: tuple[int, int, int, bytes, int]) -> None:
        self._pending_bytes += _CHANGE_BYTES + len(change[3])
        changes = self._pending.get(page_no)
        if changes is None or change[2] == PageOp.IMAGE:
            self._pending[page_no] = [change]  # an image makes all before it needless
        else:
            changes.append(change)

    async def _apply_window(self) -> None:
        pending, self._pending, self._pending_bytes = self._pending, {}, 0
        for index, page_no in enumerate(sorted(pending)):
            await self._redo_page(page_no, pending.pop(page_no))
            if index % _PAGES_A_TURN == _PAGES_A_TURN - 1:
                await self.access.tasks.work("recovery.redo", _PAGES_A_TURN)
        self.events.emit("recovery.progress", phase="redo", records=self.records)

    async def _redo_page(self, page_no: int, changes: list[tuple[int, int, int, bytes, int]]) -> None:
        pool = self.access.pool
        lsn, _prev, op, payload, _txn = changes[0]
        if op == PageOp.IMAGE:
            await pool.make_room(_ROOM_PAGES * self.access.page_size)
            page = pool.resident(page_no)
            if page is None or page.page_lsn < lsn:
                page = page_of_image(page_no, payload, lsn)
                pool.install(page)
            pool.changed(page, page.page_lsn)
        else:
            page = await pool.load(page_no)
        for lsn, prev_page_lsn, op, payload, txn in changes:
            if lsn <= page.page_lsn:
                continue
            if prev_page_lsn != page.page_lsn:
                page = await self._lost_write(page, prev_page_lsn)
                break
            apply(page, op, payload, lsn, txn)
            pool.changed(page, lsn)
        pool.mark_dirty(page, self.analysis.dirty[page_no][0])
        self._done.add(page_no)

    async def _lost_write(self, page: Page, expected_lsn: int) -> Page:
        """R1: the disk has an older page than the log was written against."""
        newest_lsn = self.analysis.dirty[page.page_no][1]
        self.events.emit("recovery.lost_write", page_no=page.page_no, page_lsn=page.page_lsn, expected_lsn=expected_lsn)
        rebuilt = await rebuild_page(self.access.log, page.page_no, newest_lsn)
        self.access.pool.install(rebuilt)
        self.access.pool.changed(rebuilt, newest_lsn)
        return rebuilt

    async def _count_rest_dirty(self) -> None:
        """R2, for pages whose changes are all older than what was scanned."""
        for page_no, (rec_lsn, _newest, _image) in self.analysis.dirty.items():
            if page_no not in self._done:
                self.access.pool.mark_dirty(await self.access.pool.load(page_no), rec_lsn)

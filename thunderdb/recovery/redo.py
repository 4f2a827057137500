"""Redo: bring every page that may not be on disk to the state that the log describes, losers' changes included.

Changes are gathered by page, as LSNs. A page is then brought up to date when it is first needed: by undo, by a query, or by the
background task that works through the rest. So restart pays for reading the log, not for reading and decoding every page in
it, and an image makes all that came before it needless.

    gather ─▶ deferred pages ─▶ PageMiss: image or page on disk ─▶ apply the changes ─▶ dirty in the pool

R1. A change is applied if its LSN is above the page's page_lsn; then its previous page_lsn must be the page's. If it is not, a
    write was lost: the page is rebuilt from its image, and if that cannot be, whoever wants it gets an error that names it.
R2. (W6) Every page of the rebuilt dirty page table counts as dirty, whatever its page_lsn says: a write that the process before
    made may never have been synced. A deferred page is in the dirty page table like any other, so checkpoints keep its log.
R3. A torn or rotten page is rebuilt from its latest image.
R4. A page is in the pool or deferred, never both.

Source: ARIES (1992) section 10.2; Graefe et al., "Instant recovery with write-ahead logging" (2016), for redo on demand.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from thunderdb.access.apply import PageOp, apply, page_of_image
from thunderdb.access.context import Access
from thunderdb.base.errors import Corruption
from thunderdb.base.events import Events
from thunderdb.base.ids import format_lsn
from thunderdb.recovery.analysis import Analysis
from thunderdb.recovery.changes import CHANGE_BYTES, Change, KeptLog, PageWork
from thunderdb.recovery.repair import rebuild_page
from thunderdb.storage.page import Page
from thunderdb.storage.writeback import DirtyPage
from thunderdb.wal.reader import LogReader
from thunderdb.wal.record import iter_changes
from thunderdb.wal.segment import Head, SegmentScan

WINDOW_BYTES = 64 << 20
_PAGES_A_TURN = 64
_CHANGES_A_TURN = 4096


class Deferred:
    """Pages with log still to apply, by page number. Satisfies the pool's `DeferredPages`."""

    def __init__(self, access: Access, events: Events, log: KeptLog) -> None:
        self.access = access
        self.events = events
        self.log = log
        self.works: dict[int, PageWork] = {}

    def __contains__(self, page_no: int) -> bool:
        return page_no in self.works

    def __len__(self) -> int:
        return len(self.works)

    def table(self) -> list[DirtyPage]:
        return [DirtyPage(page_no, work.rec_lsn, work.newest_lsn, work.image_lsn) for page_no, work in self.works.items()]

    def forget(self, page_no: int) -> int:
        return self.works.pop(page_no).rec_lsn

    async def bring_up(self, page_no: int, read: Callable[[int], Awaitable[Page]]) -> Page:
        """Redo one page. Raises: Corruption if it cannot be."""
        work = self.works[page_no]
        changes = self.log.changes(page_no, work.lsns)
        if changes and changes[0][2] == PageOp.IMAGE:
            page = page_of_image(page_no, changes[0][3], changes[0][0])
        else:
            page = await read(page_no)
        if page_no not in self.works:
            return page  # made anew meanwhile: it is in the pool, and the log's changes are of what it was before (R4)
        if not self.apply(page, changes):
            page = await self._rebuild(page, work)
        page.rec_lsn = work.rec_lsn
        return page

    @staticmethod
    def apply(page: Page, changes: list[Change]) -> bool:
        """Apply what the page does not have yet; False if its chain is broken (R1)."""
        for lsn, prev_page_lsn, op, payload, txn in changes:
            if lsn <= page.page_lsn:
                continue
            if prev_page_lsn != page.page_lsn:
                return False
            apply(page, op, payload, lsn, txn)
            page.page_lsn = lsn
        return True

    async def _rebuild(self, page: Page, work: PageWork) -> Page:
        self.events.emit("recovery.lost_write", page_no=page.page_no, page_lsn=page.page_lsn, expected_lsn=work.newest_lsn)
        return await rebuild_page(self.access.log, page.page_no, work.newest_lsn)

    async def drain(self, stop: Callable[[], bool] = lambda: False) -> None:
        """Bring up all that is left, in page order. A page that cannot be is named and left as it is."""
        unrecoverable = pages = changes = 0
        for page_no in sorted(self.works):
            if stop():
                return
            if page_no in self.works:
                pages += 1
                changes += len(self.works[page_no].lsns)
                try:
                    await self.access.pool.load(page_no)
                except Corruption as error:
                    unrecoverable += 1
                    self.events.emit("recovery.page_lost", page_no=page_no, error=str(error))
            if pages >= _PAGES_A_TURN or changes >= _CHANGES_A_TURN:
                await self.charge(pages, changes)
                pages = changes = 0
        await self.charge(pages, changes)
        if not self.works:
            self.log.clear()
        self.events.emit("recovery.pages_done", unrecoverable=unrecoverable)

    async def charge(self, pages: int, changes: int) -> None:
        """Account for CPU time: pages brought up, and the changes that were applied to them."""
        await self.access.tasks.work("recovery.page", pages)
        await self.access.tasks.work("recovery.change", changes)


class Redo:
    """The redo pass of a restart: fills `Deferred`, working through it in windows where memory is too small for all."""

    def __init__(
        self, access: Access, reader: LogReader, analysis: Analysis, events: Events, window_bytes: int = WINDOW_BYTES
    ) -> None:
        self.access = access
        self.reader = reader
        self.analysis = analysis
        self.events = events
        self.window_bytes = window_bytes
        self.log = analysis.log if analysis.log is not None else KeptLog()
        self.deferred = Deferred(access, events, self.log)
        self.records = 0
        self._bytes = 0

    async def run(self) -> int:
        """Gather all that is to be redone; return the number of records. Raises: Corruption."""
        analysis = self.analysis
        self.access.pool.deferred = self.deferred
        if analysis.log is not None:
            self.records = analysis.changed
            until_lsn = analysis.checkpoint_lsn
        else:
            until_lsn = analysis.end.lsn
        if analysis.redo_lsn < until_lsn:
            later = {page_no: work.lsns for page_no, work in analysis.dirty.items()}
            for work in analysis.dirty.values():
                work.lsns = []
            await self._scan(until_lsn)
            for page_no, lsns in later.items():
                work = analysis.dirty[page_no]
                # An image makes all before it needless.
                work.lsns = lsns if lsns and lsns[0] == work.image_lsn else work.lsns + lsns
        self._defer_all()
        return self.records

    async def _scan(self, until_lsn: int) -> None:
        scan = self.reader.scan(self.analysis.redo_lsn, until_lsn=until_lsn)
        async for segment in scan:
            self.log.add(segment)
            self._bytes += len(segment.data)
            await self.access.tasks.work("log.byte", len(segment.data))
            while heads := segment.heads():
                self._gather(segment, heads)
                await self.access.tasks.work("recovery.gather", len(heads))
                if self._bytes > self.window_bytes:
                    await self._apply_window()
                    self.log.drop_below(segment.header.start_lsn)
        if scan.end.lsn != until_lsn:
            raise Corruption(f"redo read the log to {format_lsn(scan.end.lsn)}, analysis to {format_lsn(until_lsn)}")

    def _gather(self, segment: SegmentScan, heads: list[Head]) -> None:
        for head in heads:
            if not head[4]:
                continue
            self.records += 1
            lsn = head[5]
            for page_no, _prev_page_lsn, op, _at, _size in iter_changes(segment.data, lsn + segment.bias, head[4]):
                work = self.analysis.dirty.get(page_no)
                if work is None or lsn < work.rec_lsn:
                    continue
                if op == PageOp.IMAGE:
                    work.lsns = []
                work.lsns.append(lsn)
                self._bytes += CHANGE_BYTES

    async def _apply_window(self) -> None:
        """Bring up every page with changes gathered so far, so that their memory is free for the next window."""
        self._bytes = 0
        due = sorted(page_no for page_no, work in self.analysis.dirty.items() if work.lsns)
        self._defer(due)
        pages = changes = 0
        for page_no in due:
            pages += 1
            changes += len(self.analysis.dirty[page_no].lsns)
            if page_no in self.deferred:
                await self.access.pool.load(page_no)
            self.analysis.dirty[page_no].lsns = []
            if pages >= _PAGES_A_TURN:
                await self.deferred.charge(pages, changes)
                pages = changes = 0
        await self.deferred.charge(pages, changes)
        self.events.emit("recovery.progress", phase="redo", records=self.records)

    def _defer_all(self) -> None:
        self._defer(list(self.analysis.dirty))

    def _defer(self, page_nos: list[int]) -> None:
        """Defer pages; those that an earlier window has left in the pool are brought up at once (R4)."""
        for page_no in page_nos:
            work = self.analysis.dirty[page_no]
            if self.access.pool.resident(page_no) is None:
                self.deferred.works[page_no] = work
                continue
            changes = self.log.changes(page_no, work.lsns)
            page = self._resident(page_no, changes)
            if not self.deferred.apply(page, changes):
                raise Corruption(f"page {page_no}: its changes in the log do not continue each other")
            self.access.pool.mark_dirty(page, work.rec_lsn)
            if changes:
                self.access.pool.changed(page, page.page_lsn)

    def _resident(self, page_no: int, changes: list[Change]) -> Page:
        """A page that is in the pool; made anew where the changes begin with a newer image."""
        page = self.access.pool.get(page_no)
        if changes and changes[0][2] == PageOp.IMAGE and changes[0][0] > page.page_lsn:
            page = page_of_image(page_no, changes[0][3], changes[0][0])
            self.access.pool.install(page)
        return page

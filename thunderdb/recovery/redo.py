"""Redo: bring every page that may not be on disk to the state that the log describes, losers' changes included.

Restart only finds out which pages these are. A page is brought up to date when it is first needed: by undo, by a query, or by
the background task that works through the rest; its changes are then read from the log. So restart pays for reading the log
once, not for every page in it, and needs memory for the pages, not for the log.

    deferred pages ─▶ PageMiss: changes from the log (recovery/chain) ─▶ image or page on disk ─▶ apply ─▶ dirty in the pool

R1. A change is applied if its LSN is above the page's page_lsn; then its previous page_lsn must be the page's. If it is not, a
    write was lost: the page is rebuilt from its image, and if that cannot be, whoever wants it gets an error that names it.
R2. (W6) Every page of the rebuilt dirty page table counts as dirty, whatever its page_lsn says: a write that the process before
    made may never have been synced. A deferred page is in the dirty page table like any other, so checkpoints keep its log.
R3. A torn or rotten page is rebuilt from its latest image.
R4. A page is in the pool or deferred, never both; while it is brought up it is deferred, and what an operation makes of it
    meanwhile (a fresh page) is the truth.

Source: ARIES (1992) section 10.2; Graefe et al., "Instant recovery with write-ahead logging" (2016), for redo on demand.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from thunderdb.access.apply import PageOp, apply, page_of_image
from thunderdb.access.context import Access
from thunderdb.base.errors import Corruption
from thunderdb.base.events import Events
from thunderdb.recovery.chain import Chains, Change
from thunderdb.recovery.dirty import DirtyColumns
from thunderdb.recovery.repair import rebuild_page
from thunderdb.storage.page import Page, thaw
from thunderdb.storage.writeback import DirtyPage

_PAGES_A_TURN = 64
_CHANGES_A_TURN = 4096
_MANY_CHANGES = 16
"""A page with more of them is taken apart first: that costs less than to fold them in, a few at a time."""


class Deferred:
    """Pages with log still to apply, by page number. Satisfies the pool's `DeferredPages`."""

    def __init__(self, access: Access, events: Events, chains: Chains, dirty: DirtyColumns) -> None:
        self.access = access
        self.events = events
        self.chains = chains
        self.dirty = dirty
        self._drained = -1
        self._drained_changes = self._charged_reads = 0
        self.applied = 0
        """Changes handled so far, by whomever they were wanted."""
        self._count = len(dirty)

    def __contains__(self, page_no: int) -> bool:
        return page_no in self.dirty

    def __len__(self) -> int:
        return self._count

    def table(self) -> list[DirtyPage]:
        return self.dirty.table()

    def newest_lsn(self, page_no: int) -> int:
        return self.dirty.newest_lsns[page_no]

    def forget(self, page_no: int) -> int:
        rec_lsn = self.dirty.rec_lsns[page_no]
        self.dirty.rec_lsns[page_no] = 0
        self._count -= 1
        if not self._count:
            self.dirty = DirtyColumns()
            self.chains.forget()
        return rec_lsn

    async def bring_up(self, page_no: int, read: Callable[[int], Awaitable[Page]]) -> Page:
        """Redo one page. Raises: Corruption if it cannot be."""
        entry = self.dirty.entry(page_no)
        changes, later = await self.chains.changes(page_no, entry.rec_lsn, entry.page_lsn)
        if changes and changes[0][2] == PageOp.IMAGE:
            page = page_of_image(page_no, changes[0][3], changes[0][0])
        else:
            page = await read(page_no)
        if len(changes) > _MANY_CHANGES:
            thaw(page)
        whole = self.apply(page, changes)
        for start in range(0, len(later) if whole else 0, _CHANGES_A_TURN):
            whole = whole and self.apply(page, await self.chains.following(page_no, later[start : start + _CHANGES_A_TURN]))
            await self.access.tasks.yield_now()
        page.changes = len(changes) + len(later)
        await self._account(page)
        if page_no in self and not whole:
            page = await self._rebuild(page, entry)
        if page_no in self:  # else made anew meanwhile: that one is in the pool, and only the pool knows its rec_lsn (R4)
            page.rec_lsn = entry.rec_lsn
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

    async def _rebuild(self, page: Page, entry: DirtyPage) -> Page:
        self.events.emit("recovery.lost_write", page_no=page.page_no, page_lsn=page.page_lsn, expected_lsn=entry.page_lsn)
        return await rebuild_page(self.access.log, page.page_no, entry.page_lsn)

    async def _account(self, page: Page) -> None:
        """Charge for a page that somebody waits for at once: it keeps its turn. `drain` charges for its own, many together."""
        self.applied += page.changes
        if page.page_no == self._drained:
            self._drained_changes += page.changes
        else:
            await self.access.tasks.charge("recovery.wanted_page", 1)
            await self.access.tasks.charge("recovery.wanted_change", page.changes)
            await self.access.tasks.charge("recovery.wanted_read", self._new_reads())

    async def drain(self, stop: Callable[[], bool] = lambda: False) -> None:
        """Bring up all that is left, in page order. A page that cannot be is named and left as it is."""
        unrecoverable = pages = 0
        for page_no in self.dirty:
            if stop():
                return
            if page_no in self.dirty:
                pages += 1
                self._drained = page_no
                try:
                    await self.access.pool.load(page_no)
                except Corruption as error:
                    unrecoverable += 1
                    self.events.emit("recovery.page_lost", page_no=page_no, error=str(error))
                finally:
                    self._drained = -1
            if pages >= _PAGES_A_TURN or self._drained_changes >= _CHANGES_A_TURN:
                await self._charge_drained(pages)
                pages = 0
        await self._charge_drained(pages)
        self.events.emit("recovery.pages_done", unrecoverable=unrecoverable)

    async def _charge_drained(self, pages: int) -> None:
        """Account for CPU time: pages brought up, and the changes that were applied to them."""
        changes, self._drained_changes = self._drained_changes, 0
        await self.access.tasks.work("recovery.page", pages)
        await self.access.tasks.charge("recovery.read", self._new_reads())
        await self.access.tasks.work("recovery.change", changes)

    def _new_reads(self) -> int:
        """Blocks of log read since the last charge for them."""
        before, self._charged_reads = self._charged_reads, self.chains.reads
        return self.chains.reads - before

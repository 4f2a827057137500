"""Restart: analysis, redo, undo. After it the database is what its durable commits made it, and open for work.

    control file ─▶ analysis, page files synced beside it (W4) ─▶ rewrite and zero the tail (W4, W8) ─▶ log goes on
                 ─▶ redo, on demand from here on ─▶ undo ─▶ checkpoint

Q1. Nothing is written before analysis has shown that the log ends in a tail, not in a hole.
Q2. A crash anywhere in here restarts into the same result: redo is idempotent by page_lsn, undo goes on from its CLRs.
Q3. After a clean shutdown the log must reach where it ended then; anything less is damage, not a tail.
Q4. With a copy floor, a break ends the log; then no page may be newer than the log (a copy made in the wrong order is refused).
Q5. A backup's pages are consistent only from its end on: the log must reach that.
Q6. The page files reach every page that the log changes before one of them is brought up.

Source: ARIES (1992) section 10.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from thunderdb.access.context import Access
from thunderdb.base.errors import Corruption, LogHole, Refused, ThunderError
from thunderdb.base.events import Events
from thunderdb.base.ids import format_lsn
from thunderdb.recovery.analysis import Analysis, analyse, check_before
from thunderdb.recovery.chain import Chains
from thunderdb.recovery.dirty import DirtyColumns
from thunderdb.recovery.redo import Deferred
from thunderdb.recovery.repair import rebuild_page
from thunderdb.recovery.undo import Loser, rollback
from thunderdb.runtime.inflight import InFlight
from thunderdb.runtime.ports import Clock
from thunderdb.storage.control import ControlState, DatabaseState
from thunderdb.storage.page import PAGE_HEADER, Page
from thunderdb.storage.written import Saved
from thunderdb.wal.reader import LogReader
from thunderdb.wal.record import Record, RecordKind

_FLOOR_CHECK_PAGES = 256


@dataclass(frozen=True, slots=True)
class Restarted:
    """What a restart found and did."""

    crashed: bool
    next_txn: int
    order_us: int
    dirty_pages: int
    losers: int
    records: int
    duration_ns: int


class Restart:
    """One restart of a database whose files are open and whose log writer has not begun."""

    def __init__(
        self, access: Access, reader: LogReader, clock: Clock, events: Events, state: ControlState, saved: Saved
    ) -> None:  # fmt: skip
        self.access = access
        self.reader = reader
        self.clock = clock
        self.events = events
        self.state = state
        self.saved = saved
        self.crashed = state.state != DatabaseState.CLEAN
        self.deferred = Deferred(access, events, Chains(reader, events), DirtyColumns())
        self._syncing: InFlight[None] = InFlight(access.tasks, 1, "restart.sync")

    async def run(self) -> Restarted:
        """Recover. Raises: LogHole, Corruption, Refused, DiskFull, SyncFailed. Crash: run it again (Q2)."""
        began_ns = self.clock.monotonic_ns()
        if self.crashed:
            self.events.emit("recovery.started", checkpoint_lsn=self.state.checkpoint_lsn)
        self._syncing.begin(self.access.files.sync())
        try:
            analysis = await self._analyse()
        except (ThunderError, OSError):
            await self._syncing.settle()
            raise
        await self._settle_log(analysis)
        self.access.pool.repair = self._repair()
        self.access.image_floor = self.state.checkpoint_lsn  # type: ignore[assignment]
        dirty_pages, redo_lsn = len(analysis.dirty), analysis.redo_lsn
        self.deferred = Deferred(self.access, self.events, Chains(self.reader, self.events), analysis.dirty)
        self.access.pool.deferred = self.deferred
        if self.crashed:
            self.events.emit("recovery.redo", redo_lsn=redo_lsn, records=analysis.changed)
        await self._undo(analysis)
        if not len(self.deferred):
            self.deferred.chains.forget()
        await self.access.tasks.work("recovery.settle", 1)  # the rest of it, once
        duration_ns = self.clock.monotonic_ns() - began_ns
        if self.crashed:
            self.events.emit("recovery.complete", duration_ns=duration_ns)
        return Restarted(
            self.crashed, max(analysis.next_txn, self.state.next_txn), max(analysis.order_us, self.state.order_time_ns // 1000),
            dirty_pages, len(analysis.losers), analysis.changed, duration_ns,
        )  # fmt: skip

    async def _analyse(self) -> Analysis:
        floors = self.state.copy_floors
        await self.reader.load()
        checkpoint_lsn = self._begin()
        analysis = await analyse(
            self.access.tasks, self.reader, checkpoint_lsn, self.state.newest_segment, floor=bool(floors)
        )  # fmt: skip
        if self.state.state == DatabaseState.BACKUP and analysis.end.lsn < self.state.wal_end_lsn:
            ended, needed = format_lsn(analysis.end.lsn), format_lsn(self.state.wal_end_lsn)
            raise Refused(
                f"the log ends at {ended}, but this backup needs it up to {needed}",
                "Copy the backup's wal directory too, or restore with --restore-pitr and the log archive.",
            )
        if self.state.state == DatabaseState.CLEAN and analysis.end.lsn < self.state.wal_end_lsn:
            ended, shut_down = format_lsn(analysis.end.lsn), format_lsn(self.state.wal_end_lsn)
            raise LogHole(
                f"the log ends at {ended}, but was shut down cleanly at {shut_down}",
                "Put the missing log back from the archive or a copy of the log directory.",
            )
        if floors:
            # Perhaps a copy made by hand, with pages from before the save of what had been written. Those that were clean at
            # the floor's checkpoint, and that no record has touched since, are the same in it.
            self.access.pool.forget_written(analysis.dirty)
            await self._check_copy(analysis.end.lsn)
        if analysis.redo_lsn < checkpoint_lsn:
            records, changed = await check_before(self.reader, analysis.redo_lsn, checkpoint_lsn)
            analysis.changed += changed
            await self.access.tasks.work("recovery.check", records)
            await self.access.tasks.work("log.byte", checkpoint_lsn - analysis.redo_lsn)
        # Q6: files copied while they grew, a backup's among them, end before pages that the log knows.
        await self.access.files.grow(analysis.dirty.end_page())
        if self.crashed:
            self.events.emit("recovery.analysis", dirty_pages=len(analysis.dirty), active_transactions=len(analysis.losers))
        return analysis

    def _begin(self) -> int:
        """The checkpoint to begin at: the control file's, a copy floor's, or an older save's (T3 of storage/written).

        Raises: Corruption where the log of the last is gone.
        """
        floors, saved = self.state.copy_floors, self.saved
        checkpoint_lsn = min([self.state.checkpoint_lsn, *(floor.checkpoint_lsn for floor in floors)])
        if not 0 < saved.checkpoint_lsn < checkpoint_lsn:
            self.access.pool.restore_written(saved.lsns)
            return checkpoint_lsn
        self.events.emit("recovery.older_save", saved_lsn=saved.checkpoint_lsn, checkpoint_lsn=checkpoint_lsn)
        if self.reader.covering(saved.checkpoint_lsn) is not None:
            self.access.pool.restore_written(saved.lsns)
            return saved.checkpoint_lsn
        if floors:
            return checkpoint_lsn  # a copy by hand, whose log begins at its floor
        there, needed = format_lsn(saved.checkpoint_lsn), format_lsn(checkpoint_lsn)
        raise Corruption(
            f"the newest save of written LSNs is of the checkpoint at {there}, and one was synced with that at {needed}: "
            "the disk has taken it back, and may have taken back pages with it; the log that would tell is gone",
            "Restore the database from a backup. To open it whatever its pages say, remove written.0 and written.1.",
        )

    async def _check_copy(self, end_lsn: int) -> None:
        """Q4: a page beyond the log's end says that the copy lacks log."""
        files = self.access.files
        for page_no in range(files.page_count):
            page_lsn = PAGE_HEADER.unpack_from(await files.read_page(page_no))[1]
            if page_lsn >= end_lsn and page_lsn >> 56 == 0:
                at, end = format_lsn(page_lsn), format_lsn(end_lsn)
                raise Refused(
                    f"page {page_no} is at {at}, but the log ends at {end}: the copy is not complete",
                    "Copy the log directory after the data directory, or put the missing segments into it.",
                )
            if page_no % _FLOOR_CHECK_PAGES == _FLOOR_CHECK_PAGES - 1:
                await self.access.tasks.work("recovery.check_copy", _FLOOR_CHECK_PAGES)

    async def _settle_log(self, analysis: Analysis) -> None:
        """Trust nothing that only the operating system's cache may hold (W4); then let the log go on behind its end (W8)."""
        await self.reader.rewrite(analysis.end)
        await self._syncing.drain()
        await self.reader.prepare_tail(analysis.end)
        await self.access.log.resume(analysis.end)

    def _repair(self) -> Callable[[int, Corruption], Awaitable[Page]]:
        """Rebuild a damaged page from the log: up to what restart found in it, or to what was last written."""
        written = self.access.pool.written_lsns

        async def repair(page_no: int, error: Corruption) -> Page:
            if page_no in self.deferred:
                newest_lsn = self.deferred.newest_lsn(page_no)
            else:
                newest_lsn = written[page_no] if page_no < len(written) else 0
            if not newest_lsn:
                raise error
            return await rebuild_page(self.access.log, page_no, newest_lsn)

        return repair

    async def _undo(self, analysis: Analysis) -> None:
        """Roll back the losers, the one with the newest record first; their records are read a block at a time."""

        async def read(lsn: int) -> Record:
            log = self.access.log
            return await (self.deferred.chains.record(lsn, log.read_record) if lsn < analysis.end.lsn else log.read_record(lsn))

        losers = sorted(analysis.losers.items(), key=lambda item: -item[1][1])
        for txn, (first_lsn, last_lsn) in losers:
            loser = Loser(txn, first_lsn, last_lsn)
            await rollback(self.access, loser, 0, read)
            self.access.log.append(RecordKind.ABORT, txn, loser.last_lsn, ())
        if self.crashed:
            self.events.emit("recovery.undo", transactions=len(analysis.losers))

"""Fuzzy checkpoints: begin, tables, end, then the control file. Work goes on all the while.

P1. The tables are those of the begin record's moment: taken in the same synchronous step as its append.
P2. From the begin record on, the first change to a page logs its image (W3).
P3. The control file names a checkpoint only when its end record is durable.
P4. Pages are not flushed by it; it first writes back those that were dirty already at the checkpoint before, so that redo never
    starts further back than that.
P5. (W7) Log is removed only below what either control slot's checkpoint, a rollback, a snapshot, a copy floor or one of
    `holds` may still need.

Source: ARIES (1992) section 5.4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from thunderdb.access.context import Access
from thunderdb.base.events import Events
from thunderdb.recovery.extras import CHECKPOINT_BEGIN_EXTRA, TransactionRow, encode_tables
from thunderdb.runtime.ports import Clock
from thunderdb.runtime.sync import Semaphore
from thunderdb.storage.control import ControlFile, CopyFloor
from thunderdb.storage.writeback import DirtyPage
from thunderdb.storage.written import Saved, WrittenFile
from thunderdb.wal.record import RecordKind

CLEAN_BATCH = 256


@dataclass(frozen=True, slots=True)
class Done:
    """A completed checkpoint. `keep_lsn` is the oldest log that a restart from it may read."""

    begin_lsn: int
    end_lsn: int
    redo_lsn: int
    keep_lsn: int


class Checkpointer:
    """Takes checkpoints, one at a time, and removes the log that none of them needs."""

    def __init__(
        self,
        access: Access,
        control: ControlFile,
        written: WrittenFile,
        clock: Clock,
        events: Events,
        transactions: Callable[[], list[TransactionRow]],
        counters: Callable[[], tuple[int, int]],
        log_floor: Callable[[], int],
    ) -> None:
        self.access = access
        self.control = control
        self.written = written
        self.clock = clock
        self.events = events
        self.last: Done | None = None
        self.count = 0
        self._transactions = transactions
        self._counters = counters
        self._log_floor = log_floor
        self._one_at_a_time = Semaphore(access.tasks, 1)
        self._keep_lsns: list[int] = []
        self.holds: dict[str, int] = {}
        """Who else still needs log, by name, and from which LSN on: the archive, a running backup (W7)."""

    async def run(self, hold_ns: int = 0, flush_all: bool = False) -> Done:
        """Take a checkpoint; with `hold_ns`, put a copy floor on it for that long.

        Durable when: it returns. Crash: the one before counts. Raises: SyncFailed, DiskFull.
        """
        await self._one_at_a_time.acquire()
        try:
            return await self._run(hold_ns, flush_all)
        finally:
            self._one_at_a_time.release()

    async def _run(self, hold_ns: int, flush_all: bool) -> Done:
        began_ns = self.clock.monotonic_ns()
        target_lsn = self.access.log.next_lsn if flush_all else (self.last.begin_lsn if self.last else 0)
        await self._clean(target_lsn)
        begin_lsn, transactions, pages = self._begin()
        for extra in encode_tables(begin_lsn, transactions, pages):
            self.access.log.append(RecordKind.CHECKPOINT_TABLES, 0, 0, (), extra)
            await self.access.tasks.yield_now()
        end_lsn = self.access.log.append(RecordKind.CHECKPOINT_END, 0, 0, (), begin_lsn.to_bytes(8, "little"))
        await self.access.log.flush_to(end_lsn)
        done = Done(begin_lsn, end_lsn, *_bounds(begin_lsn, transactions, pages))
        await self.written.save(Saved(self.access.pool.synced_lsns(), begin_lsn))
        await self._publish(done, hold_ns)
        self.last = done
        self.count += 1
        await self.access.tasks.charge("checkpoint.entry", len(pages))
        self.events.emit(
            "checkpoint.complete", lsn=begin_lsn, redo_lsn=done.redo_lsn, dirty_pages=len(pages),
            duration_ns=self.clock.monotonic_ns() - began_ns,
        )  # fmt: skip
        await self.remove_log()
        return done

    def _begin(self) -> tuple[int, list[TransactionRow], list[DirtyPage]]:
        """P1 and P2: one synchronous step."""
        next_txn, order_us = self._counters()
        extra = CHECKPOINT_BEGIN_EXTRA.pack(next_txn, order_us, self.clock.wall_ns())
        begin_lsn = self.access.log.append(RecordKind.CHECKPOINT_BEGIN, 0, 0, (), extra)
        self.access.image_floor = begin_lsn
        return begin_lsn, self._transactions(), self.access.pool.dirty_table()

    async def _clean(self, target_lsn: int) -> None:
        pool = self.access.pool
        while await pool.clean(target_lsn, CLEAN_BATCH):
            pass
        await pool.sync()

    async def _publish(self, done: Done, hold_ns: int) -> None:
        next_txn, order_us = self._counters()
        fields = {
            "checkpoint_lsn": done.begin_lsn,
            "redo_lsn": done.redo_lsn,
            "next_txn": next_txn,
            "order_time_ns": order_us * 1000,
        }
        floors = self._live_floors()
        if hold_ns:
            floors = (*floors, CopyFloor(done.begin_lsn, done.keep_lsn, self.clock.wall_ns() + hold_ns))
        if floors != self.control.state.copy_floors:
            # A copy may catch either slot, so a new floor is in both before anyone starts to copy; and a restart may find
            # either slot, so an old one is in neither before its log goes.
            await self.control.update_both(**fields, copy_floors=floors)
            self._keep_lsns = [done.keep_lsn, done.keep_lsn]
        else:
            await self.control.update(**fields)
            self._keep_lsns = [*self._keep_lsns[-1:], done.keep_lsn]

    def _live_floors(self) -> tuple[CopyFloor, ...]:
        now_ns = self.clock.wall_ns()
        return tuple(floor for floor in self.control.state.copy_floors if floor.expires_wall_ns > now_ns)

    @property
    def would_free(self) -> bool:
        """Whether one more checkpoint would need less log than the older of the last two, with nothing else changed."""
        return len(self._keep_lsns) < 2 or self._keep_lsns[0] < self._keep_lsns[1]

    @property
    def could_free(self) -> bool:
        """Whether checkpoints now would let a log segment go, such as one that a transaction held which has ended."""
        segments = self.access.log.segments
        if self.last is None or len(segments) < 2 or self.control.state.copy_floors:
            return False
        return segments[1][1] <= min(self.last.begin_lsn, self._log_floor(), *self.holds.values())

    async def release_log(self) -> None:
        """Recycle log that a hold has let go of, without waiting for the next checkpoint; one that runs does it at its end."""
        if not self._one_at_a_time.try_acquire():
            return
        try:
            await self.remove_log()
        finally:
            self._one_at_a_time.release()

    async def remove_log(self) -> None:
        """Recycle what nobody needs any more (P5)."""
        if len(self._keep_lsns) < 2 or self.control.state.copy_floors:
            return
        floor = min(*self._keep_lsns, self._log_floor(), *self.holds.values())
        await self.access.log.remove_below(floor)


def _bounds(begin_lsn: int, transactions: list[TransactionRow], pages: list[DirtyPage]) -> tuple[int, int]:
    """(redo_lsn, keep_lsn) of a checkpoint with these tables."""
    redo_lsn = min((page.rec_lsn for page in pages), default=begin_lsn)
    redo_lsn = min(redo_lsn, begin_lsn)
    keep_lsn = min((page.image_lsn for page in pages), default=redo_lsn)
    keep_lsn = min([keep_lsn, redo_lsn, *(first_lsn for _txn, first_lsn, _last in transactions)])
    return redo_lsn, keep_lsn

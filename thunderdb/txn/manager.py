"""Begin, commit, roll back; who is active; what a new snapshot sees.

C1. (W2) Appending the commit record takes the transaction out of the transaction table in the same step; it stays *active* for
    snapshots, and keeps its locks, until the record is durable by the durability it chose.
C2. A transaction gets its id with its first change; one that changes nothing writes nothing.
C3. A rollback goes through recovery's undo, ends with an ABORT record, and only then frees the locks.
C4. From its commit record on a transaction ends as committed, whether or not anybody still waits for it.
C5. A transaction is undone by one task at a time: two would each take the same change back, the slower one over what the other
    has brought back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from thunderdb.access.context import Access
from thunderdb.base.errors import DiskFull, NodeStopped, SqlError, ThunderError
from thunderdb.base.events import Events
from thunderdb.base.ids import FIRST_TXN
from thunderdb.recovery.extras import CLOCK_STEP_EXTRA, COMMIT_EXTRA
from thunderdb.recovery.undo import rollback
from thunderdb.runtime.ports import Clock
from thunderdb.runtime.sync import Future
from thunderdb.txn.locks import LockTable, Mode, Name, _Wait
from thunderdb.txn.ordertime import OrderClock
from thunderdb.txn.versions import Snapshot, Versions
from thunderdb.wal.record import RecordKind

READ_COMMITTED = "read committed"
REPEATABLE_READ = "repeatable read"
ROLLBACK_RETRY_NS = 100_000_000


def check_isolation(level: str) -> None:
    """Raises: SqlError 0A000 for SERIALIZABLE, which a later release brings."""
    if level not in (READ_COMMITTED, REPEATABLE_READ):
        raise SqlError("0A000", f"isolation level {level} is not supported yet", hint="Use REPEATABLE READ.")


class Txn:
    """One transaction: its log chain, its locks, its snapshot."""

    __slots__ = (
        "id", "first_lsn", "last_lsn", "locks", "waiting", "snapshot", "isolation", "read_only", "sync_commit",
        "status", "manager", "ddl", "on_end", "ghosts", "durable_lsn", "undoing",
    )  # fmt: skip

    def __init__(self, manager: TxnManager, isolation: str, read_only: bool, sync_commit: bool) -> None:
        self.manager = manager
        self.id = 0
        self.first_lsn = 0
        self.last_lsn = 0
        self.locks: dict[Name, Mode] = {}
        self.waiting: _Wait | None = None
        self.snapshot: Snapshot | None = None
        self.isolation = isolation
        self.read_only = read_only
        self.sync_commit = sync_commit
        self.status = "active"
        self.ddl: Any = None
        self.on_end: list[Callable[[bool], None]] = []
        self.ghosts: list[tuple[int, bytes]] = []
        self.durable_lsn = 0
        self.undoing: Future[None] | None = None  # done when the undo that is at work has ended

    def new_snapshot(self) -> Snapshot:
        """The snapshot for the next statement: a new one at READ COMMITTED, the first one for ever at REPEATABLE READ."""
        snapshot = self.snapshot
        if snapshot is not None:
            if self.isolation != READ_COMMITTED:
                return snapshot
            self.manager.release_snapshot(snapshot)
        self.snapshot = snapshot = self.manager.take_snapshot()
        return snapshot

    def end_statement(self) -> None:
        """Let go of a READ COMMITTED snapshot, so that an idle transaction holds back nothing."""
        if self.snapshot is not None and self.isolation == READ_COMMITTED:
            self.manager.release_snapshot(self.snapshot)
            self.snapshot = None

    def begin_write(self) -> None:
        """Make sure that the transaction may write and has an id. Raises: SqlError 25006, DiskFull.

        At REPEATABLE READ the first statement's snapshot is of its beginning, as in PostgreSQL: not of after a wait for a lock.
        """
        if self.read_only:
            raise SqlError("25006", "cannot execute a change in a read-only transaction")
        if self.manager.spares.disk_full:
            self.manager.access.log.admit()
        if not self.id:
            if self.isolation != READ_COMMITTED and self.snapshot is None:
                self.new_snapshot()
            self.manager.assign_id(self)

    def needs_durable(self, lsn: int) -> None:
        """Have the commit wait for the record at `lsn` too: a change that is not the transaction's own (a sequence's)."""
        self.durable_lsn = max(self.durable_lsn, lsn)

    def savepoint(self) -> tuple[int, Any]:
        """A mark that `rollback_to` goes back to."""
        return self.last_lsn, self.ddl

    async def rollback_to(self, mark: tuple[int, Any]) -> None:
        """Undo everything since the mark; locks are kept."""
        lsn, self.ddl = mark
        if self.last_lsn > lsn:
            await self.manager.undo(self, lsn)

    async def lock(self, name: Name, mode: Mode = Mode.EXCLUSIVE) -> bool:
        """Take a lock, waiting if need be; return whether it had to wait. Raises: DeadlockDetected, QueryCancelled."""
        wait = self.manager.locks.acquire(self, name, mode)
        if wait is None:
            return False
        await wait
        return True

    async def commit(self) -> None:
        await self.manager.commit(self)

    async def rollback(self) -> None:
        await self.manager.rollback(self)


class TxnManager:
    """All transactions of a database."""

    def __init__(self, access: Access, clock: Clock, events: Events, next_txn: int = FIRST_TXN, order_us: int = 0) -> None:
        self.access = access
        self.spares = access.log.spares
        self.events = events
        self.locks = LockTable(access.tasks)
        self.versions = Versions(access.log)
        self.order = OrderClock(clock, order_us)
        self.next_txn = next_txn
        self.active: dict[int, Txn] = {}
        self.committing: dict[int, int] = {}
        self.snapshots: dict[int, Snapshot] = {}
        self.commits = 0
        self.rollbacks = 0
        self._current: Snapshot | None = None
        self._horizon = 0
        self._horizon_stale = True
        self.on_ghosts: Callable[[list[tuple[int, bytes]]], None] | None = None
        access.purgeable = self.purgeable

    def begin(self, isolation: str = READ_COMMITTED, read_only: bool = False, sync_commit: bool = True) -> Txn:
        return Txn(self, isolation, read_only, sync_commit)

    def assign_id(self, txn: Txn) -> None:
        txn.id = self.next_txn
        self.next_txn += 1
        self.active[txn.id] = txn
        self._current = None

    def is_active(self, txn_id: int) -> bool:
        return txn_id in self.active

    def table(self) -> list[tuple[int, int, int]]:
        """The transaction table for a checkpoint: (id, first_lsn, last_lsn) of whoever would be a loser now (C1)."""
        return [
            (txn.id, txn.first_lsn, txn.last_lsn)
            for txn in self.active.values()
            if txn.last_lsn and txn.id not in self.committing
        ]

    def take_snapshot(self) -> Snapshot:
        snapshot = self._current
        if snapshot is None:
            active = self.active
            floors = [txn.first_lsn for txn in active.values() if txn.first_lsn]
            snapshot = self._current = Snapshot(
                min(active, default=self.next_txn),
                self.next_txn,
                frozenset(active),
                min(floors, default=self.access.log.next_lsn),
            )
        if not snapshot.refs:
            self.snapshots[id(snapshot)] = snapshot
            self._horizon_stale = True
        snapshot.refs += 1
        return snapshot

    def release_snapshot(self, snapshot: Snapshot) -> None:
        snapshot.refs -= 1
        if not snapshot.refs:
            del self.snapshots[id(snapshot)]
            self._horizon_stale = True

    def purgeable(self, stamp_txn: int) -> bool:
        """Whether every snapshot, now and later, sees this transaction's effects."""
        if self._horizon_stale:
            horizon = min(self.active, default=self.next_txn)
            for snapshot in self.snapshots.values():
                horizon = min(horizon, snapshot.xmin)
            self._horizon = horizon
            self._horizon_stale = False
        return stamp_txn < self._horizon

    def log_floor(self, snapshot_limit_bytes: int) -> int:
        """The oldest log that a rollback or a live snapshot may still read (W7).

        A snapshot that would hold back more than the limit is not waited for: it gets SnapshotTooOld where it misses a version.
        """
        floor: int = self.access.log.next_lsn
        least = floor - snapshot_limit_bytes
        for txn in self.active.values():
            if txn.first_lsn:
                floor = min(floor, txn.first_lsn)
        for snapshot in self.snapshots.values():
            if snapshot.log_floor >= least:
                floor = min(floor, snapshot.log_floor)
        return floor

    def undo_bytes(self) -> int:
        """About how much log a rollback of all open transactions writes, at most: as much as they have written themselves."""
        spans = [(txn.first_lsn, txn.last_lsn) for txn in self.active.values() if txn.first_lsn and txn.status == "active"]
        if not spans:
            return 0
        # Of one transaction it is known between which records all of its own lie; of all together, too.
        own = sum(last - first for first, last in spans)
        together = max(last for _, last in spans) - min(first for first, _ in spans)
        return min(own, together)

    async def commit(self, txn: Txn) -> None:
        """Make the transaction durable by the durability it chose. Raises: SyncFailed, NodeStopped (outcome unknown)."""
        if not txn.last_lsn:
            if txn.sync_commit and txn.durable_lsn:
                await self.access.log.flush_to(txn.durable_lsn)
            self._end(txn, "committed")
            return
        durable = self.commit_soon(txn)
        if durable is not None:
            await durable

    def commit_soon(self, txn: Txn) -> Future[None] | None:
        """Log the commit of a transaction that has changed something; None if it has ended with that (sync_commit off).

        When the future is done the transaction has ended: as committed, or as unknown, which the future's error tells.
        """
        log = self.access.log
        order_us, wall_us, step_us = self.order.next()
        if step_us:
            log.append(RecordKind.CLOCK_STEP, 0, 0, (), CLOCK_STEP_EXTRA.pack(wall_us - step_us, wall_us))
            self.events.emit("clock.step", step_us=step_us)
        lsn = log.append(RecordKind.COMMIT, txn.id, txn.last_lsn, (), COMMIT_EXTRA.pack(order_us, wall_us))
        self.committing[txn.id] = lsn  # C1: from here on no checkpoint lists it as a loser
        txn.status = "committing"  # C4: nobody may roll it back any more
        if not txn.sync_commit:
            log.flush_soon()
            self._committed(txn)
            return None
        durable = log.flushing(lsn)

        def ended(durable: Future[None]) -> None:  # C4: whether or not anybody waits
            error = durable.error()
            if error is None:
                self._committed(txn)
            else:
                txn.status = "unknown"
                self.events.emit("txn.unknown", txn=txn.id, message=str(error))

        durable.add_done_callback(ended)
        return durable

    def _committed(self, txn: Txn) -> None:
        self.commits += 1
        self._end(txn, "committed")

    async def rollback(self, txn: Txn) -> None:
        """Undo everything and end. Waits, locks held, where the disk is full (W10)."""
        if txn.status != "active":
            return
        txn.read_only = True  # a shutdown takes back what a statement of its session may still be at
        if txn.last_lsn:
            await self.undo(txn, 0)
            if txn.status != "active":
                return  # whoever was at it before has ended it
            self.access.log.append(RecordKind.ABORT, txn.id, txn.last_lsn, ())
            self.rollbacks += 1
        self._end(txn, "aborted")

    async def undo(self, txn: Txn, until_lsn: int) -> None:
        """Take changes back: one at a time, for a shutdown may come to a transaction whose session is at it (C5)."""
        while txn.undoing is not None:
            await txn.undoing
            if txn.status != "active":
                return
        undoing: Future[None] = self.access.tasks.future()
        txn.undoing = undoing
        try:
            await self._undo(txn, until_lsn)
        finally:
            txn.undoing = None
            undoing.set_result(None)

    async def _undo(self, txn: Txn, until_lsn: int) -> None:
        while True:
            try:
                await rollback(self.access, txn, until_lsn)
                return
            except DiskFull as error:
                if self.access.log.hurried:
                    txn.status = "unknown"
                    raise NodeStopped(f"transaction {txn.id} is rolled back by the next start: {error}") from error
                self.events.emit("txn.rollback_waits", txn=txn.id)
                await self.access.tasks.sleep(ROLLBACK_RETRY_NS)
            except ThunderError as error:
                txn.status = "unknown"
                raise NodeStopped(f"transaction {txn.id} cannot be rolled back: {error}") from error

    def _end(self, txn: Txn, status: str) -> None:
        txn.status = status
        if txn.snapshot is not None:
            self.release_snapshot(txn.snapshot)
            txn.snapshot = None
        if txn.id:
            del self.active[txn.id]
            self.committing.pop(txn.id, None)
            self._current = None
            self._horizon_stale = True
        for callback in txn.on_end:
            callback(status == "committed")
        txn.on_end.clear()  # they mostly know the transaction: a cycle
        if txn.locks or txn.waiting is not None:
            self.locks.release_all(txn)
        if txn.ghosts and self.on_ghosts is not None and status == "committed":
            self.on_ghosts(txn.ghosts)

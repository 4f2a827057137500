"""The database: everything below it put together, opened, kept tidy in the background, and closed.

    open:  lock ─▶ (make a new database) ─▶ control file ─▶ restart ─▶ catalog ─▶ checkpoint ─▶ background work
    close: stop background work ─▶ roll back what is open ─▶ write every page ─▶ checkpoint ─▶ CLEAN

O1. A missing or empty data directory *and* log directory make a new database; exactly one of them empty is refused (create.py).
O3. After any failure of the log or of a sync, `failure` is set, `on_fatal` is called once, and nothing more is written.
O4. Names in the data directory may be there, or gone, in the operating system's cache only, left so by a process that was
    killed: they are made durable before anything rests on them. (The marker of create.C2 would cost all.)
O5. Both directories are locked as long as the database is open: two databases on one of them would destroy it.
O6. A stop does not wait for a full disk: what needs more log than there is room for is left to the next start's recovery.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from thunderdb.access import btree
from thunderdb.access.apply import GHOST
from thunderdb.access.context import Access
from thunderdb.base.config import Config
from thunderdb.base.errors import NodeStopped, Refused, StorageError, ThunderError
from thunderdb.base.events import Events
from thunderdb.engine.background import Background
from thunderdb.engine.catalog import (
    CATALOG_ROOT,
    FIRST_OBJECT_ID,
    SEQUENCE,
    VALUE,
    Catalog,
    Definition,
    EntryKey,
    TableDef,
    decode_entry,
    entry_key,
)
from thunderdb.engine.create import create, is_new, restore_goes_on
from thunderdb.engine.ddl import Ddl
from thunderdb.engine.rows import Rows
from thunderdb.recovery.checkpoint import Checkpointer, Done
from thunderdb.recovery.redo import Deferred
from thunderdb.recovery.restart import Restart, Restarted
from thunderdb.runtime.ports import DirLock, Ports
from thunderdb.runtime.sync import Tasks
from thunderdb.storage.control import ControlFile, ControlState, DatabaseState
from thunderdb.storage.files import PageFiles, page_file_name
from thunderdb.storage.layout import CONTROL_FILE, LOCK_FILE
from thunderdb.storage.page import VALUE_HEADER_SIZE
from thunderdb.storage.pool import BufferPool
from thunderdb.storage.written import NOTHING_SAVED, WrittenFile
from thunderdb.txn.manager import READ_COMMITTED, Txn, TxnManager, check_isolation
from thunderdb.wal.reader import LogReader
from thunderdb.wal.record import RecordKind
from thunderdb.wal.writer import LogWriter

T = TypeVar("T")

LEAST_RECENT_LOG = 1 << 20
"""So many bytes of durable log stay in memory at least, for rollbacks and old row versions; a 16th of the pool otherwise."""
SNAPSHOT_LOG_FACTOR = 4
"""A snapshot may hold back this many times max_wal_size of log before it becomes too old."""


@dataclass(frozen=True, slots=True)
class Checkpointed:
    """The answer to a checkpoint that somebody asked for. `hold_until_ns` is wall time, 0 without a hold."""

    checkpoint_lsn: int
    redo_lsn: int
    hold_until_ns: int


class Database:
    """An open database. Made by `Database.open`."""

    log_writer: type[LogWriter] = LogWriter
    """The simulator composes its own, which puts every append into the trace."""
    kept_log_bytes = 64 << 20
    """What a restart keeps of the log until its pages are brought up, within a quarter of the pool, which is empty then."""

    def __init__(
        self, ports: Ports, config: Config, events: Events, state: ControlState, control: ControlFile, locks: list[DirLock]
    ) -> None:
        tasks: Tasks = ports.tasks
        self.ports = ports
        self.config = config
        self.events = events
        self.control = control
        self.failure: BaseException | None = None
        self.on_fatal: Callable[[BaseException], None] | None = None
        self.closing = False
        self._locks = locks
        self.files = PageFiles(tasks, ports.disk, config.data_dir, state.page_size)
        self.files.on_failed = self._fatal
        self.log = self.log_writer(
            tasks, ports.clock, ports.disk, config.wal_dir, events,
            segment_size=config.wal_segment_size, system_id=state.system_id, timeline=state.timeline,
            buffer_size=config.wal_buffer_size,
            recent_size=min(config.wal_buffer_size, max(LEAST_RECENT_LOG, config.buffer_pool_size // 16)),
            on_new_segment=self._on_new_segment, on_fatal=self._fatal,
        )  # fmt: skip
        self.pool = BufferPool(tasks, self.files, config.buffer_pool_size, state.page_size, self.log, events)
        self.access = Access(tasks, self.pool, self.log, self.files, state.page_size)
        self.written = WrittenFile(ports.disk, config.data_dir, state.system_id, events)
        self.restarted: Restarted | None = None
        self.deferred: Deferred | None = None
        self.catalog = Catalog({}, 0)
        self.manager = TxnManager(self.access, ports.clock, events)
        self.log.spares.needed = self.manager.undo_bytes
        self.rows = Rows(self)
        self.ddl = Ddl(self)
        self.checkpointer = Checkpointer(
            self.access, control, self.written, ports.clock, events,
            self.manager.table, lambda: (self.manager.next_txn, self.manager.order.last_us),
            lambda: self.manager.log_floor(SNAPSHOT_LOG_FACTOR * config.max_wal_size),
        )  # fmt: skip
        if config.wal_archive_enabled:
            self.checkpointer.holds["archive"] = 0  # until the archiver knows what the archive has
        self.background = Background(self)
        self._next_version = 1
        self._next_object_id = FIRST_OBJECT_ID
        self.open_txns: dict[int, Txn] = {}

    # -- Opening and closing

    @classmethod
    async def open(cls, ports: Ports, config: Config, events: Events) -> Self:
        """Open the database of a configuration, making or recovering it as need be.

        Raises: Refused (one directory empty, locked, other page size), LogHole, Corruption, DiskFull, StorageError.
        """
        disk = ports.disk
        await disk.make_dirs(config.data_dir)
        await disk.make_dirs(config.wal_dir)
        if await disk.resolve(config.wal_dir) == await disk.resolve(config.data_dir):
            raise Refused(
                f"wal_dir {config.wal_dir} is data_dir {config.data_dir} by another name", "Give each a directory of its own."
            )
        locks = [await disk.lock(f"{config.data_dir}/{LOCK_FILE}")]
        try:
            # O5: a copy of data_dir whose configuration still names the original's wal_dir would write into that log.
            locks.append(await disk.lock(config.wal_dir))
            await disk.sync_dir(config.data_dir)  # O4
            if await is_new(disk, config):
                await create(ports, config, events, cls.log_writer)
                events.emit("database.created", data_dir=config.data_dir)
            control = ControlFile(ports.tasks, disk, f"{config.data_dir}/{CONTROL_FILE}", events)
            state = await control.load()
            if state.state == DatabaseState.RESTORING:
                raise restore_goes_on(config)
            if state.page_size != config.page_size:
                raise Refused(
                    f"page_size is {config.page_size}, but the database was made with {state.page_size}",
                    f'Set page_size = "{state.page_size // 1024}KB" in [storage].',
                )
            db = cls(ports, config, events, state, control, locks)
            await db._start(state)
        except BaseException:
            for lock in locks:
                await lock.release()
            raise
        return db

    async def _start(self, state: ControlState) -> None:
        await self.files.open()
        if not self.files.page_count:
            raise Refused(
                f"{self.config.data_dir}/{page_file_name(0)} is missing or empty: the database's pages are gone",
                "Put the page files back, or restore the database from a backup.",
            )
        saved = NOTHING_SAVED
        if state.state == DatabaseState.BACKUP:
            await self.written.remove()  # its page files are older than what was known of them
        else:
            saved = await self.written.load()
        reader = LogReader(
            self.ports.disk, self.config.wal_dir, state.system_id, state.timeline,
            keep_bytes=min(self.kept_log_bytes, self.config.buffer_pool_size // 4),
        )  # fmt: skip
        restart = Restart(self.access, reader, self.ports.clock, self.events, state, saved)
        self.restarted = await restart.run()
        self.deferred = restart.deferred
        self.manager.next_txn = self.restarted.next_txn
        self.manager.order.last_us = max(self.manager.order.last_us, self.restarted.order_us)
        await self._load_catalog()
        await self.control.update(state=DatabaseState.RUNNING, wal_segment_size=self.config.wal_segment_size)
        if self.restarted.crashed:
            await self.checkpointer.run()
        self.background.start()

    async def close(self) -> None:
        """Shut down cleanly: nothing to recover at the next start. Sessions must have ended. Raises: what the disk raises."""
        if self.closing:
            return
        self.closing = True
        self.log.hurry()  # O6
        await self.background.stop()
        trouble: BaseException | None = None
        if self.failure is None:
            try:
                await self._close_clean()
            except ThunderError as error:
                trouble = error  # the files are let go of all the same; the next start recovers
        await self.files.close()
        await self.control.close()
        for lock in self._locks:
            await lock.release()
        if trouble is not None:
            raise trouble

    async def _close_clean(self) -> None:
        for txn in list(self.manager.active.values()):
            if txn.id not in self.manager.committing:
                await txn.rollback()
        if self.deferred is not None:
            await self.deferred.drain()
        await self.checkpointer.run(flush_all=True)
        while self.pool.dirty_count():
            await self.pool.clean(self.log.next_lsn, 1 << 30)
            await self.pool.sync()
        done = await self.checkpointer.run(flush_all=True)
        await self.log.close()
        now_ns = self.ports.clock.wall_ns()
        floors = tuple(floor for floor in self.control.state.copy_floors if floor.expires_wall_ns > now_ns)
        clean = done.redo_lsn == done.begin_lsn
        await self.control.update(
            state=DatabaseState.CLEAN if clean else DatabaseState.RUNNING, wal_end_lsn=self.log.flushed_lsn, copy_floors=floors
        )

    async def _on_new_segment(self, number: int) -> None:
        await self.control.update(newest_segment=number)

    def _fatal(self, error: BaseException) -> None:
        """O3: the node cannot go on."""
        if self.failure is None:
            self.failure = error
            self.events.emit("engine.failed", message=str(error))
            if self.on_fatal is not None:
                self.on_fatal(error)

    # -- Transactions

    def begin(self, isolation: str = READ_COMMITTED, read_only: bool = False, sync_commit: bool | None = None) -> Txn:
        """Begin a transaction. Raises: NodeStopped; SqlError 0A000 for SERIALIZABLE, which a later release brings."""
        if self.closing or self.failure is not None:
            raise NodeStopped("the database system is shutting down")
        check_isolation(isolation)
        return self.manager.begin(isolation, read_only, self.config.sync_commit if sync_commit is None else sync_commit)

    def catalog_for(self, txn: Txn | None) -> Catalog:
        """The definitions as a transaction sees them: the committed ones and its own."""
        if txn is None or txn.ddl is None:
            return self.catalog
        if txn.ddl.cached is None or txn.ddl.cached[0] is not self.catalog:
            return txn.ddl.apply_to(self.catalog, self.new_version())
        return txn.ddl.cached[1]

    def watch_ddl(self, txn: Txn) -> None:
        """Publish the transaction's definitions when it has durably committed."""
        if self.open_txns.get(id(txn)) is txn:
            return
        self.open_txns[id(txn)] = txn

        def ended(committed: bool) -> None:
            del self.open_txns[id(txn)]
            if committed and txn.ddl is not None:
                self.catalog = Catalog(txn.ddl.apply_to(self.catalog, 0).entries, self.new_version())
                self.background.garbage_soon()

        txn.on_end.append(ended)

    def new_version(self) -> int:
        self._next_version += 1
        return self._next_version

    def new_object_id(self) -> int:
        self._next_object_id += 1
        return self._next_object_id - 1

    # -- What SQL uses (shortcuts)

    async def run(self, operation: Callable[..., T], *args: Any) -> T:
        """Run a synchronous operation until nothing that it needs is missing."""
        return await self.access.run(operation, *args)

    def scan(
        self, txn: Txn, root: int, low: bytes | None = None, high: bytes | None = None, reverse: bool = False
    ) -> AsyncIterator[list[tuple[bytes, bytes]]]:
        return self.rows.scan(txn, root, low, high, reverse)

    async def insert(self, txn: Txn, table: TableDef, values: Sequence[Any]) -> bytes:
        return await self.rows.insert(txn, table, values)

    async def checkpoint(self, hold_ns: int = 0) -> Checkpointed:
        """A checkpoint now; with `hold_ns`, no log of it is removed for that long, so that files may be copied by hand."""
        try:
            done: Done = await self.checkpointer.run(hold_ns)
        except StorageError as error:
            self._fatal(error)  # as when the background's own checkpoint fails
            raise
        until_ns = self.ports.clock.wall_ns() + hold_ns if hold_ns else 0
        return Checkpointed(done.begin_lsn, done.redo_lsn, until_ns)

    def gauges(self) -> dict[str, float]:
        """Numbers for metrics, by name without prefix."""
        log, pool, manager = self.log, self.pool, self.manager
        last = self.checkpointer.last
        return {
            "wal_next_lsn": log.next_lsn,
            "wal_flushed_lsn": log.flushed_lsn,
            "wal_records_total": log.record_count,
            "wal_segments": len(log.segments),
            "pool_used_bytes": pool.used_bytes,
            "pool_capacity_bytes": pool.capacity_bytes,
            "pool_dirty_pages": pool.dirty_count(),
            "pool_loads_total": pool.loads,
            "pool_evictions_total": pool.evictions,
            "pool_writes_total": pool.writes,
            "transactions_active": len(manager.active),
            "transactions_committed_total": manager.commits,
            "transactions_rolled_back_total": manager.rollbacks,
            "locks_held": len(manager.locks),
            "lock_waits_total": manager.locks.waits,
            "deadlocks_total": manager.locks.deadlocks,
            "checkpoints_total": self.checkpointer.count,
            "checkpoint_redo_lsn": last.redo_lsn if last else 0,
            "database_pages": self.files.page_count,
        }

    # -- The catalog

    async def _load_catalog(self) -> None:
        entries: dict[EntryKey, Definition] = {}
        orphans: list[int] = []
        low: bytes | None = None
        while True:
            found, low = await self.access.run(self._catalog_leaf, low)
            for key, value in found:
                payload = value[VALUE_HEADER_SIZE:]
                if value[16] & 2:
                    from thunderdb.access import large

                    payload = await large.load(self.access, payload)
                entry, definition = decode_entry(key, payload)
                if definition is not None:
                    entries[entry] = definition
                else:
                    orphans.append(entry[1])
            if low is None:
                break
        await self._remove_orphans(orphans, entries)
        for (_kind, object_id), definition in entries.items():
            self._next_object_id = max(self._next_object_id, object_id + 1)
            if isinstance(definition, TableDef):
                self._next_version = max(self._next_version, definition.version)
                ids = [definition.pk_id, *(index.id for index in definition.indexes)]
                self._next_object_id = max(self._next_object_id, *(object_id + 1 for object_id in ids))
        self.catalog = Catalog(entries, self.new_version())

    async def _remove_orphans(self, values: list[int], entries: dict[EntryKey, Definition]) -> None:
        """Remove the values of sequences that have been dropped (Ddl.drop_sequence)."""
        for object_id in values:
            self._next_object_id = max(self._next_object_id, object_id + 1)
            if (SEQUENCE, object_id) not in entries:
                key = entry_key(VALUE, object_id)
                await self.access.run(btree.restore, self.access, RecordKind.SYSTEM, CATALOG_ROOT, key, None, None)

    def _catalog_leaf(self, low: bytes | None) -> tuple[list[tuple[bytes, bytes]], bytes | None]:
        leaf, start, fence = btree.leaf_from(self.access, CATALOG_ROOT, low)
        rows = zip(leaf.keys[start:], leaf.vals[start:], strict=True)
        return [(key, value) for key, value in rows if not value[16] & GHOST], fence

"""What the database does on its own: checkpoints, cleaning pages, purging ghosts, freeing garbage.

H1. Each job is one task that sleeps, works a little, and looks whether the database is closing.
H2. The cleaner works towards `recovery_target`: it keeps the log that a restart would have to redo short enough for it.
H3. A full disk is waited out; a failed sync or damage stops the node.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from thunderdb.access import btree
from thunderdb.access.garbage import free_step, next_garbage
from thunderdb.base.errors import Corruption, DiskFull, LimitExceeded, ThunderError
from thunderdb.runtime.sync import Event, Semaphore, Task
from thunderdb.storage.page import PageKind

if TYPE_CHECKING:
    from thunderdb.engine.database import Database

MS = 1_000_000
CLEANER_PAUSE_NS = 200 * MS
SWEEP_PAUSE_NS = 500 * MS
GARBAGE_PAUSE_NS = 1000 * MS
CHECKPOINT_LOOK_NS = 100 * MS
FULL_PAUSE_NS = 1000 * MS
REDO_AFTER_NS = 50 * MS
REDO_RETRY_NS = 200 * MS
CLEAN_BATCH = 64
SWEEP_BATCH = 50
MAX_GHOSTS = 100_000
REDO_BYTES_A_SECOND = 20 << 20
"""A cautious guess of how much log a restart redoes in a second; bench/restart measures it."""


class Background:
    """The background tasks of an open database."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.tasks = db.ports.tasks
        self._wake_garbage = Event(self.tasks)
        self._stop = Event(self.tasks)
        self.redo_bytes_a_second = REDO_BYTES_A_SECOND
        self._running: list[Task[None]] = []
        self.quiet = Semaphore(self.tasks, 1)
        """Held by whoever frees pages, so that a check of the whole database can keep them from it."""
        self._ghosts: deque[tuple[int, bytes, int]] = deque()

    def start(self) -> None:
        self.db.manager.on_ghosts = self._note_ghosts
        for name, step, pause_ns, wake in (
            ("checkpoint", self._checkpoint, CHECKPOINT_LOOK_NS, self._stop),
            ("cleaner", self._clean, CLEANER_PAUSE_NS, self._stop),
            ("sweeper", self._sweep, SWEEP_PAUSE_NS, self._stop),
            ("garbage", self._garbage, GARBAGE_PAUSE_NS, self._wake_garbage),
        ):
            self._running.append(self.tasks.detach(self._loop(name, step, pause_ns, wake), name))
        self._running.append(self.tasks.detach(self._finish_redo(), "redo"))

    async def stop(self) -> None:
        self._stop.set()
        self._wake_garbage.set()
        for task in self._running:
            await task

    def garbage_soon(self) -> None:
        self._wake_garbage.set()

    async def _loop(self, name: str, step: Callable[[], Awaitable[None]], pause_ns: int, wake: Event) -> None:
        while not self._stop.is_set():
            try:
                await step()
            except (DiskFull, LimitExceeded) as error:
                self.db.events.emit("background.waits", job=name, message=str(error))
            except ThunderError as error:
                self.db._fatal(error)
                return
            await wake.wait_timeout(pause_ns)

    async def _finish_redo(self) -> None:
        """Bring up the pages that restart left for later."""
        deferred = self.db.deferred
        if deferred is None or not len(deferred):
            return
        await self._stop.wait_timeout(REDO_AFTER_NS)  # clients come first: they bring up what they need
        while not self._stop.is_set():
            try:
                await deferred.drain(self._stop.is_set)
                return
            except (DiskFull, LimitExceeded) as error:
                self.db.events.emit("background.waits", job="redo", message=str(error))
            except ThunderError as error:
                self.db._fatal(error)
                return
            await self._stop.wait_timeout(REDO_RETRY_NS)

    async def _checkpoint(self) -> None:
        """Checkpoint when the interval has passed, when half of max_wal_size has been written since the last one, or when a
        restart would have more log to read than `recovery_target` allows (H2)."""
        db = self.db
        last = db.checkpointer.last
        began_ns = db.ports.clock.monotonic_ns()
        since_lsn = last.begin_lsn if last else db.log.flushed_lsn
        due_ns = began_ns + db.config.checkpoint_interval * MS
        idle_lsn = db.log.next_lsn
        while not self._stop.is_set():
            if db.log.next_lsn - since_lsn > min(db.config.max_wal_size // 2, self._redo_allowed()):
                break
            if db.ports.clock.monotonic_ns() >= due_ns:
                if db.log.next_lsn - idle_lsn > 1000 or db.pool.dirty_count():
                    break
                if db.log.spares.low and db.checkpointer.would_free:
                    break  # on a full disk nothing new is written, yet the log that fills it may go
                due_ns += db.config.checkpoint_interval * MS
            await db.log.spares.look()
            if db.log.spares.low and db.ports.clock.monotonic_ns() - began_ns > FULL_PAUSE_NS and db.checkpointer.could_free:
                break  # writes are refused for want of room that a checkpoint can make
            await self._stop.wait_timeout(CHECKPOINT_LOOK_NS)
        else:
            return
        await db.checkpointer.run()

    def _redo_allowed(self) -> int:
        """How many bytes of log a restart may have to redo (H2)."""
        target_ms = self.db.config.recovery_target
        return 1 << 62 if target_ms is None else target_ms * self.redo_bytes_a_second // 1000

    async def _clean(self) -> None:
        db = self.db
        if db.config.recovery_target is None:
            return
        target_lsn = db.log.next_lsn - self._redo_allowed()
        if target_lsn > 0:
            while await db.pool.clean(target_lsn, CLEAN_BATCH) == CLEAN_BATCH and not self._stop.is_set():
                await self.tasks.yield_now()

    def _note_ghosts(self, ghosts: list[tuple[int, bytes]]) -> None:
        stamp = self.db.manager.next_txn
        for root, key in ghosts:
            if len(self._ghosts) < MAX_GHOSTS:  # the rest is purged by whoever next needs the room
                self._ghosts.append((root, key, stamp))

    async def _sweep(self) -> None:
        """Purge ghosts that no snapshot sees, and merge leaves that have become small."""
        await self.quiet.acquire()
        try:
            await self._sweep_ghosts()
        finally:
            self.quiet.release()

    async def _sweep_ghosts(self) -> None:
        count = 0
        while self._ghosts and self.db.manager.purgeable(self._ghosts[0][2] - 1) and not self._stop.is_set():
            root, key, _stamp = self._ghosts.popleft()
            if root in self.db.catalog.roots() or root <= 2:
                self.db.log.admit()
                await self.db.access.run(self._tidy, root, key)
            count += 1
            if count % SWEEP_BATCH == 0:
                await self.tasks.yield_now()

    def _tidy(self, root: int, key: bytes) -> None:
        if root > 2 and root not in self.db.catalog.roots():
            return  # dropped while its page was awaited
        page = self.db.pool.get(root)
        if page.tree == root and page.kind in (PageKind.LEAF, PageKind.INNER):
            btree.tidy(self.db.access, root, key)

    async def _garbage(self) -> None:
        """Free trees that nobody can reach any more, a few pages a record."""
        self._wake_garbage.clear()
        await self.quiet.acquire()
        try:
            await self._free_garbage()
        finally:
            self.quiet.release()

    async def _free_garbage(self) -> None:
        after: bytes | None = None
        while not self._stop.is_set():
            root, after = await self.db.access.run(next_garbage, self.db.access, after, self._ended)
            if root is not None:
                await self._free(root)
            if after is None:
                return

    async def _free(self, root: int) -> None:
        while not self._stop.is_set():
            self.db.log.admit()
            try:
                if await self.db.access.run(free_step, self.db.access, root):
                    self.db.rows.forget_tree(root)
                    return
            except Corruption as error:
                # Its pages cannot be read: they stay allocated, which loses space but never data.
                self.db.events.emit("garbage.unreadable", root=root, message=str(error))
                return
            await self.tasks.yield_now()

    def _ended(self, txn: int) -> bool:
        return not self.db.manager.is_active(txn)

"""The pool under random work, write-backs, syncs and evictions in any interleaving, against a dict and against a crash.

At every moment the dirty page table must be enough for redo: whatever of the unsynced writes a crash would leave, each change
that the disk may lack has an LSN at or above its page's rec_lsn.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.storage.world import PAGE_SIZE, PoolWorld
from thunderdb.runtime.sync import Task
from thunderdb.storage.page import PAGE_HEADER, PageKind

PAGES = range(1, 9)
CHANGE, WRITE, SYNC, CLEAN, DROP, LOAD, CREATE, TURN, HOLD, RELEASE = range(10)

WEIGHTED = [CHANGE] * 3 + [WRITE] * 2 + [SYNC] * 2 + [CLEAN, DROP, LOAD, CREATE] + [TURN] * 3 + [HOLD, RELEASE]
ACTIONS = st.lists(
    st.tuples(st.sampled_from(WEIGHTED), st.sampled_from(PAGES), st.integers(1, 6)),
    min_size=1,
    max_size=120,
)


class TrackedFile:
    """Knows for every page which LSN is durable for certain, and checks write-ahead at every write."""

    def __init__(self, world: PoolWorld, file: Any) -> None:
        self._world = world
        self._file = file
        self.completed: dict[int, int] = {}
        self.durable: dict[int, int] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    async def write(self, offset: int, data: bytes) -> None:
        page_lsn = PAGE_HEADER.unpack_from(data)[1]
        assert page_lsn < self._world.log.flushed_lsn, "W1: a page went to disk before its log"
        await self._file.write(offset, data)
        self.completed[offset // PAGE_SIZE] = page_lsn

    async def sync(self) -> None:
        covered = dict(self.completed)
        await self._file.sync()
        for page_no, page_lsn in covered.items():
            self.durable[page_no] = max(page_lsn, self.durable.get(page_no, 0))


class Machine:
    def __init__(self, capacity_pages: int) -> None:
        self.world = PoolWorld(page_count=10, capacity_pages=capacity_pages)
        self.world.pool.reserve_bytes = 16 * 3 * PAGE_SIZE
        page_file = self.world.files._files[0]
        self.file = TrackedFile(self.world, page_file.file)
        page_file.file = self.file  # type: ignore[assignment]
        self.model: dict[int, list[bytes]] = {}
        self.changes: dict[int, list[int]] = {page_no: [] for page_no in PAGES}
        self.tasks: list[Task[Any]] = []
        for page_no in PAGES:
            self.create(page_no)

    def act(self, action: int, page_no: int, number: int) -> None:
        world, pool = self.world, self.world.pool
        page = pool.resident(page_no)
        if action == CHANGE and page is not None:
            if len(page.keys) >= 20:
                self.create(page_no)
            else:
                self.change(page_no)
        elif action == WRITE and page is not None:
            self.spawn(pool.write_back(page))
        elif action == SYNC:
            self.spawn(pool.sync())
        elif action == CLEAN:
            self.spawn(pool.clean(world.lsn - 10 * number, number))
        elif action == DROP:
            pool.drop(page_no)
        elif action == LOAD:
            self.spawn(self.load(page_no))
        elif action == CREATE:
            self.create(page_no)
        elif action == TURN:
            for _ in range(number):
                world.scheduler.turn()
        elif action == HOLD and world.log._gate is None:
            world.log.hold()
        elif action == RELEASE:
            world.log.release()

    def create(self, page_no: int) -> None:
        page = self.world.pool.resident(page_no)
        if page is None or not page.pins:
            self.world.pool.create(page_no, PageKind.LEAF)
            self.model[page_no] = []
            self.change(page_no)

    def change(self, page_no: int) -> None:
        key = b"%08d" % self.world.lsn
        lsn = self.world.put(self.world.pool.get(page_no), key, b"v" * 100)
        self.model[page_no].append(key)
        self.changes[page_no].append(lsn)

    async def load(self, page_no: int) -> None:
        page = await self.world.pool.load(page_no)
        assert page.keys == self.model[page_no]
        assert page.page_lsn == self.changes[page_no][-1]

    def spawn(self, coro: Any) -> None:
        self.tasks.append(self.world.tasks.spawn(coro))

    def check(self) -> None:
        self.world.pool.check()
        table = {entry.page_no: entry for entry in self.world.pool.dirty_table()}
        assert list(table) == sorted(table)
        for page_no in PAGES:
            durable_lsn = self.file.durable.get(page_no, 0)
            missing = [lsn for lsn in self.changes[page_no] if lsn > durable_lsn]
            if missing:
                assert page_no in table, f"W6: page {page_no} left the table, and a crash would lose LSN {missing[0]}"
                assert table[page_no].rec_lsn <= missing[0]
        saved = self.world.pool.synced_lsns()
        for page_no, page_lsn in enumerate(saved):
            assert page_lsn <= self.file.durable.get(page_no, 0), "a saved LSN may be lost in a crash"

    def finish(self) -> None:
        """Let everything end; then all is on disk, and the table is empty."""
        self.world.log.release()
        for task in self.tasks:
            while not task.done():
                assert self.world.scheduler.turn(), "deadlock"
            task.result()
        self.check()
        self.world.run(self.world.pool.clean(10**9, 100))
        self.world.run(self.world.pool.sync())
        assert self.world.pool.dirty_table() == []
        for page_no in PAGES:
            assert self.world.pool.drop(page_no)
            self.world.run(self.load(page_no))
        assert [self.file.durable[page_no] for page_no in PAGES] == [self.changes[page_no][-1] for page_no in PAGES]


@settings(max_examples=150)
@given(ACTIONS, st.sampled_from([2, 4, 100]))
def test_the_table_is_always_enough_for_redo(actions: list[tuple[int, int, int]], capacity_pages: int) -> None:
    machine = Machine(capacity_pages)
    for action, page_no, number in actions:
        machine.act(action, page_no, number)
        machine.check()
    machine.finish()

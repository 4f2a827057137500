"""A pool over an in-memory disk, with a log that is made of nothing but its flushed LSN."""

from __future__ import annotations

from typing import Any

from thunderdb.base.events import Events
from thunderdb.runtime.inline import InlineWorld
from thunderdb.runtime.sync import Future
from thunderdb.storage.files import PageFiles
from thunderdb.storage.page import Page, PageKind, leaf_entry_size, thaw
from thunderdb.storage.pool import BufferPool

PAGE_SIZE = 4096
DATA = "/data"


class FakeLog:
    """`hold()` makes flushes wait until `release()`."""

    def __init__(self, world: InlineWorld) -> None:
        self.flushed_lsn = 0
        self.flushes: list[int] = []
        self._world = world
        self._gate: Future[None] | None = None

    def hold(self) -> None:
        self._gate = self._world.tasks.future()

    def release(self) -> None:
        if self._gate is not None:
            self._gate.set_result(None)
            self._gate = None

    async def flush_to(self, lsn: int) -> None:
        self.flushes.append(lsn)
        if self._gate is not None:
            await self._gate
        await self._world.tasks.yield_now()
        self.flushed_lsn = max(self.flushed_lsn, lsn + 1)


class PoolWorld(InlineWorld):
    """An InlineWorld with page files, a log and a pool, and a counter for LSNs."""

    def __init__(self, page_count: int = 100, capacity_pages: int = 1000, suspend: bool = True) -> None:
        super().__init__(suspend=suspend)
        self.capacity_bytes = capacity_pages * 3 * PAGE_SIZE
        self.log = FakeLog(self)
        self.events = Events()
        self.seen: list[tuple[str, dict[str, Any]]] = []
        self.events.subscribe(lambda name, fields: self.seen.append((name, fields)))
        self.lsn = 100
        self.run(self._open(page_count))

    async def _open(self, page_count: int) -> None:
        await self.disk.make_dirs(DATA)
        self.files = PageFiles(self.tasks, self.disk, DATA, PAGE_SIZE)
        await self.files.open()
        await self.files.grow(page_count)
        self.pool = self.new_pool()

    def new_pool(self) -> BufferPool:
        return BufferPool(self.tasks, self.files, self.capacity_bytes, PAGE_SIZE, self.log, self.events)

    def next_lsn(self) -> int:
        self.lsn += 10
        return self.lsn

    def new_leaf(self, page_no: int, key: bytes = b"k", val: bytes = b"v") -> Page:
        """A fresh leaf with one entry, dirty."""
        page = self.pool.create(page_no, PageKind.LEAF)
        self.put(page, key, val)
        return page

    def put(self, page: Page, key: bytes, val: bytes) -> int:
        """Append an entry as a logged change; return its LSN."""
        thaw(page)
        page.keys.append(key)
        page.vals.append(val)
        page.used += leaf_entry_size(key, val)
        lsn = self.next_lsn()
        self.pool.changed(page, lsn)
        return lsn

    def on_disk(self, page_no: int) -> bytes:
        data = self.disk.files[f"{DATA}/pages.000000"]
        return bytes(data[page_no * PAGE_SIZE : (page_no + 1) * PAGE_SIZE])

    def overwrite(self, page_no: int, image: bytes) -> None:
        data = self.disk.files[f"{DATA}/pages.000000"]
        data[page_no * PAGE_SIZE : page_no * PAGE_SIZE + len(image)] = image

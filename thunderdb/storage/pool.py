"""The buffer pool: pages in memory, how they come in and how they go. What is to be written, and when, is storage/writeback.

An operation runs in one synchronous step. It takes pages with `get`, which raises a `Miss` for what is not in memory; its
caller awaits `Miss.resolve` and runs it again, with what was loaded pinned meanwhile. It changes a page through access/apply
and calls `changed` in the same step.

B4. Only `load`, `make_room` and `_shrink` evict, each in a step of its own: never in the middle of an operation, whose pages
    need no pin as long as it does not wait.
B5. `used_bytes` counts decoded bytes. Loads wait until they fit, except that `get` may go over the capacity by `reserve_bytes`;
    fresh pages and growth are asked for with `reserve` before an operation changes anything. So the pool is over its capacity
    by at most what one step adds, and by `reserve_bytes`.

Source: CLOCK with a second chance, as in any textbook; a page that was cold and dirty goes as soon as it is written.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from itertools import islice

from thunderdb.base.errors import Corruption, DiskFull, InvariantViolated, LimitExceeded, StorageError
from thunderdb.base.events import Events
from thunderdb.runtime.sync import Cancelled, Future, Task, Tasks
from thunderdb.storage.files import PageFiles
from thunderdb.storage.page import Page, PageKind, decode_page, decoded_size, new_page
from thunderdb.storage.writeback import CLEAN_BATCH, LogPort, WriteBack

Repair = Callable[[int, Corruption], Awaitable[Page]]

# A decoded page takes up to five times its encoded size (tiny entries), usually less than two.
_LOAD_ESTIMATE = 3
_SCAN_PAGES = 512
_SLACK = 128


class Miss(Exception):
    """Something that an operation needs is not in memory. Nothing was changed: resolve it, then run the operation again."""

    runs_operations = False
    """Whether `resolve` itself runs operations, which are admitted on their own: then it must not hold an admission."""

    async def resolve(self, pool: BufferPool, pins: list[Page] | None = None) -> None:
        """Fetch it. Pages are pinned and added to `pins`, if given, for the caller to unpin after the operation."""
        raise NotImplementedError


class PageMiss(Miss):
    """A page is not in the pool. `args` is (page_no,)."""

    def __init__(self, page_no: int) -> None:
        super().__init__(page_no)
        self.page_no = page_no

    async def resolve(self, pool: BufferPool, pins: list[Page] | None = None) -> None:
        if pins is None:
            await pool.load(self.page_no)
        else:
            pins.append(await pool.load(self.page_no, pin=True))


class RoomMiss(Miss):
    """There is no room for the fresh pages that an operation wants. `args` is (size_bytes,)."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(size_bytes)
        self.size_bytes = size_bytes

    async def resolve(self, pool: BufferPool, pins: list[Page] | None = None) -> None:
        await pool.make_room(self.size_bytes)


class _Load:
    """A load under way, and how many wait for it."""

    __slots__ = ("waiters", "page", "task")

    def __init__(self) -> None:
        self.waiters = 0
        self.page: Page | None = None
        self.task: Task[None] | None = None


class BufferPool(WriteBack):
    """Pages in memory, up to `capacity_bytes` of decoded size."""

    def __init__(
        self, tasks: Tasks, files: PageFiles, capacity_bytes: int, page_size: int, log: LogPort, events: Events
    ) -> None:
        super().__init__(tasks, files, page_size, log, events)
        self.capacity_bytes = capacity_bytes
        self.reserve_bytes = max(16 * page_size, capacity_bytes // 32)
        self.used_bytes = 0
        self.repair: Repair | None = None
        self.loads = self.evictions = 0
        self._clock: deque[Page] = deque()
        self._cold: list[Page] = []  # pages that the hand has passed of late, and that only had to be written to go
        self._loads: dict[int, _Load] = {}
        self._loading_bytes = 0
        self._progress: list[Future[None]] = []
        self._shrinking = False
        self._estimate = _LOAD_ESTIMATE * page_size

    # -- What operations call: synchronous, hot

    def get(self, page_no: int) -> Page:
        """The page, if it is in memory, ours or the operating system's. Raises: PageMiss."""
        try:
            page = self._pages[page_no]
        except KeyError:
            page = self._load_now(page_no)
        page.referenced = True
        return page

    def changed(self, page: Page, lsn: int) -> None:
        """Note that the log record at `lsn` has just been applied to the page."""
        page.page_lsn = lsn
        if not page.rec_lsn:
            self._becomes_dirty(page, lsn)
        if page.used != page.charged_used:
            self._recharge(page)

    def create(self, page_no: int, kind: PageKind) -> Page:
        """A fresh page in memory, clean until `changed`. What was there before is forgotten; it must not be pinned."""
        page = new_page(page_no, kind, self.page_size)
        self._put(page)
        return page

    def reserve(self, page_count: int) -> None:
        """Ask for room for fresh pages, before anything is changed. Raises: RoomMiss (B5)."""
        size = page_count * self._estimate
        if not self._fits(size, self.capacity_bytes):
            raise RoomMiss(size)

    def pin(self, page: Page) -> None:
        page.pins += 1

    def is_pinned(self, page_no: int) -> bool:
        """Whether somebody has the page in use over a wait, so that it cannot be made anew now."""
        page = self._pages.get(page_no)
        return page is not None and page.pins > 0

    def unpin(self, page: Page) -> None:
        if page.pins <= 0:
            raise InvariantViolated(f"page {page.page_no} is unpinned more often than pinned")
        page.pins -= 1

    # -- What recovery and repair call

    def install(self, page: Page) -> None:
        """Put a rebuilt page in the place of what is in memory. It is clean unless `rec_lsn` is set; see `mark_dirty`."""
        self._put(page)

    def drop(self, page_no: int) -> bool:
        """Forget a page that is clean, not pinned and not being written; return whether it is out of memory.

        A dirty page stays: redo would otherwise find it older than the log says, and call that a lost write.
        """
        page = self._pages.get(page_no)
        if page is None:
            return True
        if not self._can_go(page):
            return False
        self._forget(page)
        return True

    def resident(self, page_no: int) -> Page | None:
        """The page if it is in memory, without touching its reference bit."""
        return self._pages.get(page_no)

    def resident_pages(self) -> list[Page]:
        """All pages in memory, by page number."""
        return [self._pages[page_no] for page_no in sorted(self._pages)]

    # -- Loading

    async def load(self, page_no: int, pin: bool = False) -> Page:
        """The page, read and verified if need be; pinned if asked for. Otherwise it is there until the caller waits again.

        Raises: Corruption if it is damaged and cannot be repaired; LimitExceeded if all of the pool is pinned.
        """
        page = self._pages.get(page_no)
        if page is not None:
            page.referenced = True
            page.pins += pin
            return page
        load = self._loads.get(page_no)
        if load is None:
            load = self._loads[page_no] = _Load()
            load.waiters = 1
            # A task of its own: whoever waits may be cancelled, others wait for the same page.
            load.task = self._tasks.spawn(self._load(page_no, load), "pool.load")
        else:
            load.waiters += 1
        try:
            if load.task is None:
                raise InvariantViolated(f"page {page_no} is loaded by its own loading")
            await load.task
        except Cancelled:
            load.waiters -= 1
            if load.page is not None:
                load.page.pins -= 1
            raise
        if load.page is None:
            raise InvariantViolated(f"page {page_no} was loaded to nothing")
        # It was pinned for each waiter, since other tasks may have had their turn between the load's end and this one.
        load.page.pins -= not pin
        return load.page

    def _load_now(self, page_no: int) -> Page:
        """Load a page with which nothing else goes on, and which the operating system has in memory: a system call, no wait.

        Raises: PageMiss, for `load` to see to whatever is in the way, damage included.
        """
        busy = page_no in self._loads or page_no in self._writing or (self.deferred is not None and page_no in self.deferred)
        if busy or not self._fits(self._estimate, self.capacity_bytes + self.reserve_bytes):  # B5
            raise PageMiss(page_no) from None
        image = self.files.read_now(page_no)
        if image is None:
            raise PageMiss(page_no) from None
        try:
            page = decode_page(image, page_no, self.page_size)
            self._check_lost_write(page)
        except Corruption:
            raise PageMiss(page_no) from None
        self._arrived(page)
        self.loads += 1
        return page

    def _arrived(self, page: Page) -> None:
        self._note_written(self.written_lsns, page.page_no, page.page_lsn)
        self._put(page)

    async def _load(self, page_no: int, load: _Load) -> None:
        charged = 0
        try:
            await self.make_room(self._estimate)
            charged = self._estimate
            self._loading_bytes += charged
            page = await self._read(page_no)
            if self._pages.get(page_no) is not page:
                self._arrived(page)
            page.pins += load.waiters
            load.page = page
        finally:
            self._loading_bytes -= charged
            del self._loads[page_no]
            self._progressed()
        self.loads += 1
        if self.used_bytes > self.capacity_bytes:
            self._evict(0, keep=page)

    async def _read(self, page_no: int) -> Page:
        """Read and verify, or repair. A page created meanwhile (it is not evicted before this load is over) is the truth."""
        if self.deferred is not None and page_no in self.deferred:
            page = await self.deferred.bring_up(page_no, self._read_disk)
            return self._pages.get(page_no, page)
        return await self._read_disk(page_no)

    async def _read_disk(self, page_no: int) -> Page:
        while page_no in self._writing:
            await self._writing[page_no]
        try:
            page = decode_page(await self.files.read_page(page_no), page_no, self.page_size)
            self._check_lost_write(page)
        except Corruption as error:
            page = self._pages.get(page_no) or await self._repaired(page_no, error)
        return self._pages.get(page_no, page)

    async def _repaired(self, page_no: int, error: Corruption) -> Page:
        self._events.emit("pool.page_corrupt", page_no=page_no, error=error.message)
        if self.repair is None:
            raise error
        page = await self.repair(page_no, error)
        if page.page_no != page_no:
            raise InvariantViolated(f"the repair of page {page_no} gave page {page.page_no}")
        if page_no not in self._pages:
            self._check_lost_write(page)
        # The disk still has the damaged one: it is to be written. Should a crash come first, it is found and repaired again.
        if not page.rec_lsn:
            page.rec_lsn = page.page_lsn
        self._events.emit("pool.page_repaired", page_no=page_no, page_lsn=page.page_lsn)
        return page

    # -- Room

    async def make_room(self, size: int) -> None:
        """Evict and write back until `size` more bytes fit. Raises: LimitExceeded if what is in the way is all pinned."""
        barren = 0  # pages gone round without room, since something was last written
        while not self._fits(size, self.capacity_bytes):
            self._evict(size)
            barren += _SCAN_PAGES
            if self._fits(size, self.capacity_bytes) or await self._clean_some():
                barren = 0
                continue
            if barren < 2 * len(self._clock):
                continue
            if self._fits(size, self.capacity_bytes + self.reserve_bytes):
                return
            raise LimitExceeded(
                f"the buffer pool is full of pages in use ({self.used_bytes} of {self.capacity_bytes} bytes)",
                hint="raise buffer_pool_size, or run fewer statements at a time",
            )

    def _fits(self, size: int, capacity: int) -> bool:
        return self.used_bytes + self._loading_bytes + size <= capacity

    def _evict(self, size: int, keep: Page | None = None) -> None:
        """CLOCK: go round at most twice; pages with the reference bit get a second chance.

        It makes a little more room than asked for, so that a pool full of dirty pages is not gone round for each load.
        """
        target = self.capacity_bytes - self.capacity_bytes // _SLACK
        if self._fits(size, target):
            return
        clock, pages, writing, cold = self._clock, self._pages, self._writing, self._cold
        for _ in range(min(2 * len(clock), _SCAN_PAGES)):
            if not clock:
                return
            page = clock.popleft()
            if pages.get(page.page_no) is not page:
                continue  # forgotten before
            if page.referenced and page is not keep:
                page.referenced = False
            elif page.pins or page is keep or page.page_no in writing:
                pass
            elif page.rec_lsn:
                cold.append(page)
                if len(cold) >= CLEAN_BATCH:
                    clock.append(page)
                    return
            elif self._can_go(page):
                self._forget(page)
                self.evictions += 1
                if self._fits(size, target):
                    return
                continue
            clock.append(page)

    def _can_go(self, page: Page) -> bool:
        busy = page.pins or page.rec_lsn or page.page_no in self._writing or page.page_no in self._loads
        return not busy

    async def _clean_some(self) -> bool:
        """Write back a few pages that could then be evicted, or wait for others' writes and loads; False if there are none."""
        victims = self._victims()
        if victims:
            await self.write_back_all(victims)
            target = self.capacity_bytes - self.capacity_bytes // _SLACK
            for page in victims:
                gone = self._pages.get(page.page_no) is not page
                if not gone and not page.referenced and self._can_go(page) and not self._fits(0, target):
                    self._forget(page)
                    self.evictions += 1
            return True
        if self._writing or self._loading_bytes:
            turn: Future[None] = self._tasks.future()
            self._progress.append(turn)
            await turn
            return True
        return False

    def _victims(self) -> list[Page]:
        """Pages to write back for room: cold ones, those first that need not wait for the log (B1), which may be held up."""
        cold, self._cold = self._cold, []
        victims = [page for page in cold if self._may_be_cleaned(page)]
        flushed_lsn = self.log.flushed_lsn
        ready = [page for page in victims if page.page_lsn < flushed_lsn]
        if ready:
            return ready
        dirty = self._dirty.values()
        logged = (page for page in dirty if page.page_lsn < flushed_lsn and self._may_be_cleaned(page))
        return list(islice(logged, CLEAN_BATCH)) or victims or list(islice(filter(self._may_be_cleaned, dirty), CLEAN_BATCH))

    def _may_be_cleaned(self, page: Page) -> bool:
        return page.rec_lsn > 0 and not page.pins and page.page_no not in self._writing

    def _progressed(self) -> None:
        waiters, self._progress = self._progress, []
        for waiter in waiters:
            waiter.set_result(None)

    def _put(self, page: Page) -> None:
        """Make the page resident in the place of what was; an older rec_lsn is kept, so that redo sees the whole chain."""
        old = self._pages.get(page.page_no)
        rec_lsn = page.rec_lsn
        if old is not None and old is not page:
            if old.pins:
                raise InvariantViolated(f"page {page.page_no} is replaced while it is in use")
            if old.rec_lsn:
                rec_lsn = min(rec_lsn, old.rec_lsn) if rec_lsn else old.rec_lsn
            self._forget(old)
        if self.deferred is not None and page.page_no in self.deferred:
            deferred_lsn = self.deferred.forget(page.page_no)
            rec_lsn = min(rec_lsn, deferred_lsn) if rec_lsn else deferred_lsn
        if old is not page:
            self._pages[page.page_no] = page
            self._clock.append(page)
        page.referenced = True
        page.rec_lsn = 0
        if rec_lsn:
            self._becomes_dirty(page, rec_lsn)
        self._recharge(page)

    def _forget(self, page: Page) -> None:
        del self._pages[page.page_no]
        self._dirty.pop(page.page_no, None)
        self.used_bytes -= page.charge
        page.charge = page.rec_lsn = 0  # so that a change to it, by who still holds it, is noticed

    def _recharge(self, page: Page) -> None:
        charge = decoded_size(page)
        self.used_bytes += charge - page.charge
        page.charge = charge
        page.charged_used = page.used
        if self.used_bytes > self.capacity_bytes and not self._shrinking:
            # B4: not here, in the middle of an operation.
            self._shrinking = True
            self._tasks.scheduler.call_soon(self._shrink)

    def _shrink(self) -> None:
        self._shrinking = False
        self._evict(0)
        if self.used_bytes > self.capacity_bytes:
            self._shrinking = True
            self._tasks.detach(self._relieve(), "pool.relieve")

    async def _relieve(self) -> None:
        """Bring the pool back to its capacity when fresh pages and growth alone have filled it."""
        try:
            await self.make_room(0)
        except (LimitExceeded, DiskFull, StorageError) as error:
            # Not fatal here: whoever asks for room next meets it, and the log stops the node for what must stop it.
            self._events.emit("pool.relieve_failed", error=error.message)
        finally:
            self._shrinking = False

    def check(self) -> None:
        """Recompute what is kept incrementally. Raises: InvariantViolated."""
        if self.used_bytes != sum(page.charge for page in self._pages.values()):
            raise InvariantViolated("the pool's used bytes are not the sum of its pages'")
        dirty = {page_no: page for page_no, page in self._pages.items() if page.rec_lsn}
        if dirty.keys() != self._dirty.keys() or any(self._dirty[page_no] is not page for page_no, page in dirty.items()):
            raise InvariantViolated("the dirty pages are not those with a rec_lsn")
        if any(page.page_no != page_no or page.pins < 0 for page_no, page in self._pages.items()):
            raise InvariantViolated("a page is in the pool under another number, or has negative pins")

"""The buffer pool: decoded pages in memory, the dirty page table, write-back and eviction.

An operation runs in one synchronous step. It takes pages with `get`, which raises a `Miss` for what is not in memory; its
caller awaits `Miss.resolve` and runs it again, with what was loaded pinned meanwhile. It changes a page through access/apply
and calls `changed` in the same step.

What a page may be, and where it is in the dirty page table:

    clean                  rec_lsn 0                not in the table
    dirty                  rec_lsn = first change   in the table
    being written          rec_lsn 0                in the table with the old rec_lsn
    written, not synced    rec_lsn 0                in the table with the old rec_lsn; may be evicted
    changed again          rec_lsn = that change    in the table with the least rec_lsn of all of these

B1. (W1) A write-back encodes first, then waits for the log up to what it encoded, then writes. Changes made meanwhile make the
    page dirty anew; they are not in what is written.
B2. (W6) A page's entry goes only when a sync that was *called* after its write completed has returned.
B3. One write of a page at a time, so that an older image never lands on a newer one. A page is not evicted while it is written.
B4. Only `load`, `make_room` and `_shrink` evict, each in a step of its own: never in the middle of an operation, whose pages
    need no pin as long as it does not wait.
B5. `used_bytes` counts decoded bytes. Loads wait until they fit; fresh pages and growth are asked for with `reserve` before
    an operation changes anything. So the pool is over its capacity by at most what one step adds, and by `reserve_bytes` when
    all is pinned.
B6. (lost writes) A page read from disk is never older than `written_lsns` knows it to be. What is saved for the next process
    are only LSNs that a sync has covered: a crash may undo the others.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from thunderdb.base.errors import Corruption, DiskFull, InvariantViolated, LimitExceeded, StorageError
from thunderdb.base.events import Events
from thunderdb.base.ids import format_lsn
from thunderdb.runtime.sync import Cancelled, Future, Task, Tasks
from thunderdb.storage.files import PageFiles
from thunderdb.storage.page import Damage, Page, PageCorruption, PageKind, decode_page, decoded_size, encode_page, new_page

Repair = Callable[[int, Corruption], Awaitable[Page]]

# A decoded page takes up to five times its encoded size (tiny entries), usually less than two.
_LOAD_ESTIMATE = 3
_CLEAN_BATCH = 64
_SCAN_PAGES = 512
_SLACK = 128


class LogPort(Protocol):
    """What the pool needs of the log: a record at `lsn` is durable when `lsn < flushed_lsn`."""

    @property
    def flushed_lsn(self) -> int: ...

    async def flush_to(self, lsn: int) -> None: ...


class DeferredPages(Protocol):
    """Pages that restart has not brought up to date yet: dirty, though not in memory."""

    def table(self) -> list[DirtyPage]: ...

    def __contains__(self, page_no: int) -> bool: ...

    async def bring_up(self, page_no: int, read: Callable[[int], Awaitable[Page]]) -> Page:
        """The page as the log has it, its `rec_lsn` set; `read` gives what is on disk."""
        ...

    def forget(self, page_no: int) -> int:
        """The page is in memory now, or made anew: return the rec_lsn that it was deferred with."""
        ...


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


@dataclass(frozen=True, slots=True)
class DirtyPage:
    """An entry of the dirty page table: redo of this page starts at `rec_lsn`, its rebuilding at `image_lsn`."""

    page_no: int
    rec_lsn: int
    page_lsn: int
    image_lsn: int


class _Write:
    """A write-back that no sync covers yet. `completed` is its place in the order of completion, 0 until then."""

    __slots__ = ("rec_lsn", "page_lsn", "image_lsn", "completed")

    def __init__(self, page: Page) -> None:
        self.rec_lsn = page.rec_lsn
        self.page_lsn = page.page_lsn
        self.image_lsn = page.image_lsn
        self.completed = 0


class _Load:
    """A load under way, and how many wait for it."""

    __slots__ = ("waiters", "page", "task")

    def __init__(self) -> None:
        self.waiters = 0
        self.page: Page | None = None
        self.task: Task[None] | None = None


class BufferPool:
    """Pages in memory, up to `capacity_bytes` of decoded size."""

    def __init__(
        self, tasks: Tasks, files: PageFiles, capacity_bytes: int, page_size: int, log: LogPort, events: Events
    ) -> None:
        self.capacity_bytes = capacity_bytes
        self.page_size = page_size
        self.reserve_bytes = max(16 * page_size, capacity_bytes // 32)
        self.files = files
        self.log = log
        self.used_bytes = 0
        self.repair: Repair | None = None
        self.deferred: DeferredPages | None = None
        self.written_lsns: array[int] = array("Q")  # last seen on disk or written there, by page number (B6)
        self._synced_lsns: array[int] = array("Q")  # of these, what a sync has covered
        self.loads = self.evictions = self.writes = 0
        self._tasks = tasks
        self._events = events
        self._pages: dict[int, Page] = {}
        self._clock: deque[Page] = deque()
        self._dirty: dict[int, Page] = {}
        self._unsynced: dict[int, list[_Write]] = {}
        self._writing: dict[int, Future[None]] = {}
        self._loads: dict[int, _Load] = {}
        self._loading_bytes = 0
        self._progress: list[Future[None]] = []
        self._shrinking = False
        self._estimate = _LOAD_ESTIMATE * page_size

    # -- What operations call: synchronous, hot

    def get(self, page_no: int) -> Page:
        """The page, if it is in memory. Raises: PageMiss."""
        try:
            page = self._pages[page_no]
        except KeyError:
            raise PageMiss(page_no) from None
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

    def mark_dirty(self, page: Page, rec_lsn: int) -> None:
        """Enter the page into the dirty page table as of `rec_lsn`, whatever its page_lsn (W6, after a restart)."""
        if not page.rec_lsn:
            self._becomes_dirty(page, rec_lsn)
        elif rec_lsn < page.rec_lsn:
            page.rec_lsn = rec_lsn

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

    def is_dirty(self, page_no: int) -> bool:
        """Whether the disk may still have an older state of the page, or none."""
        deferred = self.deferred is not None and page_no in self.deferred
        return deferred or page_no in self._dirty or page_no in self._unsynced

    def resident_pages(self) -> list[Page]:
        """All pages in memory, by page number."""
        return [self._pages[page_no] for page_no in sorted(self._pages)]

    # -- The dirty page table

    def dirty_table(self) -> list[DirtyPage]:
        """Every page that the disk may not have as the log has it, by page number (B2)."""
        entries = [self._dirty_entry(page_no) for page_no in sorted(self._dirty.keys() | self._unsynced.keys())]
        if self.deferred is not None:
            entries += self.deferred.table()
            entries.sort(key=lambda entry: entry.page_no)
        return entries

    def oldest_rec_lsn(self) -> int:
        """Where redo would have to start; 0 if no page is dirty."""
        return min((entry.rec_lsn for entry in self.dirty_table()), default=0)

    def dirty_count(self) -> int:
        """Pages with changes that no write has begun to carry."""
        return len(self._dirty)

    def _dirty_entry(self, page_no: int) -> DirtyPage:
        page = self._dirty.get(page_no)
        writes = self._unsynced.get(page_no, [])
        rec_lsns = [write.rec_lsn for write in writes]
        image_lsns = [write.image_lsn for write in writes]
        page_lsn = writes[-1].page_lsn if writes else 0
        if page is not None:
            rec_lsns.append(page.rec_lsn)
            image_lsns.append(page.image_lsn)
            page_lsn = page.page_lsn
        return DirtyPage(page_no, min(rec_lsns), page_lsn, min(image_lsns))

    def _becomes_dirty(self, page: Page, rec_lsn: int) -> None:
        if self._pages.get(page.page_no) is not page:
            raise InvariantViolated(f"a change to page {page.page_no}, which is no longer in the pool")
        if not rec_lsn:
            raise InvariantViolated(f"page {page.page_no} would be dirty from LSN 0")
        page.rec_lsn = rec_lsn
        self._dirty[page.page_no] = page

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

    async def _load(self, page_no: int, load: _Load) -> None:
        charged = 0
        try:
            await self.make_room(self._estimate)
            charged = self._estimate
            self._loading_bytes += charged
            page = await self._read(page_no)
            if self._pages.get(page_no) is not page:
                self._note_written(self.written_lsns, page_no, page.page_lsn)
                self._put(page)
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
            return await self.deferred.bring_up(page_no, self._read_disk)
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

    def _check_lost_write(self, page: Page) -> None:
        page_no = page.page_no
        written_lsn = self.written_lsns[page_no] if page_no < len(self.written_lsns) else 0
        if page.page_lsn < written_lsn:
            detail = f"it has LSN {format_lsn(page.page_lsn)}, and was written with {format_lsn(written_lsn)}"
            raise PageCorruption(page_no, Damage.LOST_WRITE, detail)

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

    # -- Write-back

    async def write_back(self, page: Page) -> None:
        """Write the page if it is dirty; durable only with the next `sync`. Raises: what the log's flush or the disk raises."""
        page_no = page.page_no
        while page_no in self._writing:  # B3
            await self._writing[page_no]
        if page.rec_lsn and self._pages.get(page_no) is page:
            # A task of its own: a write must not be left in the middle by a waiter that is cancelled.
            await self._tasks.spawn(self._write(page), "pool.write")

    async def _write(self, page: Page) -> None:
        page_no = page.page_no
        image = encode_page(page, self.page_size)  # B1: encode first
        write = _Write(page)
        done = self._writing[page_no] = self._tasks.future()
        self._unsynced.setdefault(page_no, []).append(write)
        del self._dirty[page_no]
        page.rec_lsn = 0
        try:
            if write.page_lsn >= self.log.flushed_lsn:
                await self.log.flush_to(write.page_lsn)
                if write.page_lsn >= self.log.flushed_lsn:
                    raise InvariantViolated(f"the log is not durable up to page {page_no}'s LSN after its flush")
            await self.files.write_page(page_no, image)
        except BaseException:
            # Unknown what the disk has: the entry stays until a later write of the page is synced, and the page is dirty again.
            current = self._pages.get(page_no)
            if current is not None:
                self.mark_dirty(current, write.rec_lsn)
            raise
        else:
            self.writes += 1
            write.completed = self.writes
            self._note_written(self.written_lsns, page_no, write.page_lsn)
        finally:
            del self._writing[page_no]
            done.set_result(None)
            self._progressed()

    async def written_back(self, page_no: int) -> None:
        """Wait until no write of the page is under way, so that what is read of it is not torn by one."""
        while page_no in self._writing:
            await self._writing[page_no]

    async def sync(self) -> None:
        """Make durable all write-backs that completed before this call, and take them out of the table (B2)."""
        mark = self.writes
        await self.files.sync()
        covered = 0
        for page_no in list(self._unsynced):
            writes = self._unsynced[page_no]
            # Writes of one page follow one another, so a covered one also replaces those before it that failed.
            last = max((index for index, write in enumerate(writes) if 0 < write.completed <= mark), default=-1)
            if last < 0:
                continue
            covered += 1
            self._note_written(self._synced_lsns, page_no, writes[last].page_lsn)
            del writes[: last + 1]
            if not writes:
                del self._unsynced[page_no]
        self._events.emit("pool.synced", pages=covered)

    async def clean(self, target_lsn: int, limit: int) -> int:
        """Write back up to `limit` pages with a rec_lsn below `target_lsn`, the oldest first; return how many."""
        due = sorted((page.rec_lsn, page_no) for page_no, page in self._dirty.items() if page.rec_lsn < target_lsn)[:limit]
        pages = [self._dirty[page_no] for page_no in sorted(page_no for _, page_no in due)]
        if pages:
            # One flush for all; each write-back still sees to its own (B1).
            newest = max(page.page_lsn for page in pages)
            if newest >= self.log.flushed_lsn:
                await self.log.flush_to(newest)
        for index, page in enumerate(pages):
            await self.write_back(page)
            if index % _CLEAN_BATCH == _CLEAN_BATCH - 1:
                await self._tasks.work("pool.write_back", _CLEAN_BATCH)
        # Others' writes of old changes too, so that a sync after this covers all that was below the target.
        for page_no in [page_no for page_no in self._writing if self._dirty_entry(page_no).rec_lsn < target_lsn]:
            if page_no in self._writing:
                await self._writing[page_no]
        return len(pages)

    # -- Lost writes

    def restore_written(self, lsns: array[int]) -> None:
        """Take over what an earlier process saved of `synced_lsns`."""
        self.written_lsns = array("Q", lsns)
        self._synced_lsns = array("Q", lsns)

    def synced_lsns(self) -> array[int]:
        """A copy, by page number, of the last page_lsn that is certainly on disk; 0 where none is known (B6)."""
        return array("Q", self._synced_lsns)

    @staticmethod
    def _note_written(lsns: array[int], page_no: int, page_lsn: int) -> None:
        if page_no >= len(lsns):
            lsns.extend([0] * (page_no + 1 + page_no // 8 - len(lsns)))
        lsns[page_no] = page_lsn

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
        clock = self._clock
        target = self.capacity_bytes - self.capacity_bytes // _SLACK
        for _ in range(min(2 * len(clock), _SCAN_PAGES)):
            if self._fits(size, target):
                return
            page = clock.popleft()
            if self._pages.get(page.page_no) is not page:
                continue  # forgotten before
            if page.referenced and page is not keep:
                page.referenced = False
            elif page is not keep and self._can_go(page):
                self._forget(page)
                self.evictions += 1
                continue
            clock.append(page)

    def _can_go(self, page: Page) -> bool:
        busy = page.pins or page.rec_lsn or page.page_no in self._writing or page.page_no in self._loads
        return not busy

    async def _clean_some(self) -> bool:
        """Write back a few pages that could then be evicted, or wait for others' writes and loads; False if there are none."""
        victims = []
        for page_no, page in self._dirty.items():
            if not page.pins and page_no not in self._writing:
                victims.append(page)
                if len(victims) == _CLEAN_BATCH:
                    break
        if victims:
            newest = max(page.page_lsn for page in victims)
            if newest >= self.log.flushed_lsn:
                await self.log.flush_to(newest)  # one flush for all; each write-back still sees to its own (B1)
            for page in victims:
                await self.write_back(page)
            return True
        if self._writing or self._loading_bytes:
            turn: Future[None] = self._tasks.future()
            self._progress.append(turn)
            await turn
            return True
        return False

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

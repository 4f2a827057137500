"""Write-back: which pages the disk does not have as they are in memory, and how they get there. The lower half of the pool.

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
B6. (lost writes) A page read from disk is never older than `written_lsns` knows it to be. What is saved for the next process
    are only LSNs that a sync has covered: a crash may undo the others.
"""

from __future__ import annotations

from array import array
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple, Protocol

from thunderdb.base.errors import InvariantViolated
from thunderdb.base.events import Events
from thunderdb.base.ids import format_lsn
from thunderdb.runtime.sync import Future, Tasks
from thunderdb.storage.files import PageFiles
from thunderdb.storage.page import Damage, Page, PageCorruption, encode_page, freeze

CLEAN_BATCH = 64


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


class DirtyPage(NamedTuple):
    """An entry of the dirty page table: redo of this page starts at `rec_lsn`, its rebuilding at `image_lsn`.

    A tuple, for a checkpoint makes one for every dirty page in one step, and nobody is served meanwhile.
    """

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


class WriteBack:
    """The pages in memory as far as they are to be written. `BufferPool` adds how they come in and go."""

    def __init__(self, tasks: Tasks, files: PageFiles, page_size: int, log: LogPort, events: Events) -> None:
        self.page_size = page_size
        self.files = files
        self.log = log
        self.deferred: DeferredPages | None = None
        self.written_lsns: array[int] = array("Q")  # last seen on disk or written there, by page number (B6)
        self._synced_lsns: array[int] = array("Q")  # of these, what a sync has covered
        self.writes = 0
        self._tasks = tasks
        self._events = events
        self._pages: dict[int, Page] = {}
        self.pages = self._pages  # for readers, who set `referenced` as `BufferPool.get` does
        self._dirty: dict[int, Page] = {}
        self._unsynced: dict[int, list[_Write]] = {}
        self._writing: dict[int, Future[None]] = {}

    def _recharge(self, page: Page) -> None:
        """The page takes more or less memory than before."""
        raise NotImplementedError

    def _progressed(self) -> None:
        """A write is over."""
        raise NotImplementedError

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

    def mark_dirty(self, page: Page, rec_lsn: int) -> None:
        """Enter the page into the dirty page table as of `rec_lsn`, whatever its page_lsn (W6, after a restart)."""
        if not page.rec_lsn:
            self._becomes_dirty(page, rec_lsn)
        elif rec_lsn < page.rec_lsn:
            page.rec_lsn = rec_lsn

    def is_dirty(self, page_no: int) -> bool:
        """Whether the disk may still have an older state of the page, or none."""
        deferred = self.deferred is not None and page_no in self.deferred
        return deferred or page_no in self._dirty or page_no in self._unsynced

    # -- Write-back

    async def write_back(self, page: Page) -> None:
        """Write the page if it is dirty; durable only with the next `sync`. Raises: what the log's flush or the disk raises."""
        page_no = page.page_no
        while page_no in self._writing:  # B3
            await self._writing[page_no]
        if page.rec_lsn and self._pages.get(page_no) is page:
            # A task of its own: a write must not be left in the middle by a waiter that is cancelled.
            await self._tasks.spawn(self._write(page), "pool.write")

    async def write_back_all(self, pages: list[Page]) -> None:
        """`write_back` of several: one flush of the log for all, one task."""
        newest = max(page.page_lsn for page in pages)
        if newest >= self.log.flushed_lsn:
            await self.log.flush_to(newest)  # each write still sees to its own (B1)
        await self._tasks.spawn(self._write_each(pages), "pool.write")

    async def _write_each(self, pages: list[Page]) -> None:
        for page in pages:
            while page.page_no in self._writing:  # B3
                await self._writing[page.page_no]
            if page.rec_lsn and self._pages.get(page.page_no) is page:
                await self._write(page)

    async def _write(self, page: Page) -> None:
        page_no = page.page_no
        image = encode_page(page, self.page_size)  # B1: encode first
        freeze(page, image)  # clean, it takes less memory so, and is as easily read
        self._recharge(page)
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
        for start in range(0, len(pages), CLEAN_BATCH):
            batch = pages[start : start + CLEAN_BATCH]
            await self.write_back_all(batch)
            if len(batch) == CLEAN_BATCH:
                await self._tasks.work("pool.write_back", CLEAN_BATCH)
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

    def forget_written(self, page_nos: Iterable[int]) -> None:
        """Read these unguarded: the page files may be older than what was saved says, and the log will tell."""
        for page_no in page_nos:
            if page_no < len(self.written_lsns):
                self.written_lsns[page_no] = self._synced_lsns[page_no] = 0

    def synced_lsns(self) -> array[int]:
        """A copy, by page number, of the last page_lsn that is certainly on disk; 0 where none is known (B6)."""
        return array("Q", self._synced_lsns)

    @staticmethod
    def _note_written(lsns: array[int], page_no: int, page_lsn: int) -> None:
        if page_no >= len(lsns):
            lsns.extend([0] * (page_no + 1 + page_no // 8 - len(lsns)))
        lsns[page_no] = page_lsn

    def _check_lost_write(self, page: Page) -> None:
        page_no = page.page_no
        written_lsn = self.written_lsns[page_no] if page_no < len(self.written_lsns) else 0
        if page.page_lsn < written_lsn:
            detail = f"it has LSN {format_lsn(page.page_lsn)}, and was written with {format_lsn(written_lsn)}"
            raise PageCorruption(page_no, Damage.LOST_WRITE, detail)

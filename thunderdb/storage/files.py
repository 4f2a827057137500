"""The page files: `pages.000000`, `pages.000001`, … each holding the pages of one stretch of page numbers, back to back.

F1. A page's place is its number: file `page_no // pages_per_file`, and the offset from the rest. A file is full before the
    next one exists, so the number of pages follows from the sizes.
F2. `sync` covers the writes that completed before it was called (ports.P2), in whichever files they went to, and no others; two
    syncs at a time do not lean on each other.
F3. A failed sync is never retried: from then on every write and sync fails (W4). A sync that ended well while another of its
    file was under way waits for that one's outcome.
F4. Growth is zeros on disk, synced, with the file's name, before `page_count` says so. Only one growth runs at a time:
    a second one must not put zeros over pages that the first one's caller has begun to use.
"""

from __future__ import annotations

from collections.abc import Callable

from thunderdb.base.errors import Corruption, InvariantViolated, StorageError, SyncFailed
from thunderdb.runtime.ports import Disk, File
from thunderdb.runtime.sync import Future, Semaphore, Tasks
from thunderdb.storage.page import Damage, PageCorruption

FILE_LIMIT = 1 << 30
_PREFIX = "pages."
_FILL_BYTES = 1 << 20


def page_file_name(number: int) -> str:
    return f"{_PREFIX}{number:06d}"


class _PageFile:
    """One open file, with how many writes it has taken and how many of them a sync has covered."""

    __slots__ = ("file", "writes", "synced", "syncing")

    def __init__(self, file: File) -> None:
        self.file = file
        self.writes = 0
        self.synced = 0
        self.syncing: list[Future[None]] = []


class PageFiles:
    """Read and write pages by number."""

    def __init__(self, tasks: Tasks, disk: Disk, directory: str, page_size: int, file_limit: int = FILE_LIMIT) -> None:
        self.page_size = page_size
        self.page_count = 0
        self.pages_per_file = file_limit // page_size
        self._disk = disk
        self._directory = directory
        self._tasks = tasks
        self._files: list[_PageFile] = []
        self._growing = Semaphore(tasks, 1)
        self._failed: SyncFailed | None = None
        self.on_failed: Callable[[SyncFailed], None] | None = None

    async def open(self) -> None:
        """Open all that is there (nothing, in a new database). The next `sync` covers all of it, whoever wrote it.

        Raises: Corruption naming a missing file, FileNotFoundError if there is no directory.
        """
        names = [name for name in await self._disk.list(self._directory) if name.startswith(_PREFIX)]
        for number, name in enumerate(names):
            if name != page_file_name(number):
                raise Corruption(
                    f"{self._directory}/{page_file_name(number)} is missing, though {name} is there",
                    "restore the file from a backup",
                )
            page_file = _PageFile(await self._disk.open(f"{self._directory}/{name}"))
            # W4: whatever an earlier process wrote counts as not synced.
            page_file.writes = 1
            self._files.append(page_file)
        if self._files:
            last_size = await self._files[-1].file.size()
            self.page_count = (len(self._files) - 1) * self.pages_per_file + last_size // self.page_size

    async def close(self) -> None:
        for page_file in self._files:
            await page_file.file.close()
        self._files = []

    async def read_page(self, page_no: int) -> bytes:
        """The page's bytes, unverified. Raises: PageCorruption if they are not there or cannot be read."""
        number, offset = self._place(page_no)
        if number >= len(self._files):
            raise PageCorruption(page_no, Damage.SHORT, f"there are {self.page_count} pages")
        try:
            image = await self._files[number].file.read(offset, self.page_size)
        except StorageError as error:
            raise PageCorruption(page_no, Damage.UNREADABLE, error.message) from error
        if len(image) != self.page_size:
            detail = f"{len(image)} of {self.page_size} bytes, there are {self.page_count} pages"
            raise PageCorruption(page_no, Damage.SHORT, detail)
        return image

    def read_now(self, page_no: int) -> bytes | None:
        """The page's bytes, unverified, if they can be had whole and without waiting; else `read_page` says what is wrong."""
        number, offset = self._place(page_no)
        if number >= len(self._files):
            return None
        try:
            image = self._files[number].file.read_now(offset, self.page_size)
        except StorageError:
            return None
        return image if image is not None and len(image) == self.page_size else None

    async def read_pages(self, page_no: int, count: int) -> bytes:
        """Up to `count` pages that follow each other in one file, unverified. Raises: PageCorruption as `read_page` does."""
        number, offset = self._place(page_no)
        if number >= len(self._files):
            raise PageCorruption(page_no, Damage.SHORT, f"there are {self.page_count} pages")
        count = min(count, self.pages_per_file - page_no % self.pages_per_file)
        try:
            return await self._files[number].file.read(offset, count * self.page_size)
        except StorageError as error:
            raise PageCorruption(page_no, Damage.UNREADABLE, error.message) from error

    async def write_page(self, page_no: int, image: bytes) -> None:
        """Write one page that exists (see `grow`). Durable when: a `sync` called after this returned has returned."""
        if self._failed is not None:
            raise self._failed
        if page_no >= self.page_count or len(image) != self.page_size:
            raise InvariantViolated(f"write of {len(image)} bytes to page {page_no} of {self.page_count}")
        number, offset = self._place(page_no)
        page_file = self._files[number]
        await page_file.file.write(offset, image)
        page_file.writes += 1

    async def sync(self) -> None:
        """Make every page write that completed before this call durable (F2). Raises: SyncFailed, and for ever after (F3)."""
        if self._failed is not None:
            raise self._failed
        pending = [(page_file, page_file.writes) for page_file in self._files if page_file.writes > page_file.synced]
        for page_file, writes in pending:
            await self._sync_file(page_file, writes)

    async def _sync_file(self, page_file: _PageFile, writes: int) -> None:
        """Sync one file that had taken so many writes when its sync was called."""
        over: Future[None] = self._tasks.future()
        page_file.syncing.append(over)
        try:
            await page_file.file.sync()
        except SyncFailed as error:
            self._failed = error
            if self.on_failed is not None:
                self.on_failed(error)  # whoever asked for this sync, it is the node that has to stop (W4)
            raise
        finally:
            page_file.syncing.remove(over)
            over.set_result(None)
        # The system tells an error to one of the syncs under way: ours counts when no other that it may have told is left.
        for other in tuple(page_file.syncing):
            await other
        if self._failed is not None:
            raise self._failed
        page_file.synced = max(page_file.synced, writes)

    async def grow(self, page_count: int) -> None:
        """Extend with pages of zeros to at least `page_count`.

        Raises: DiskFull, with nothing changed that matters: what was added is added again.
        Durable when: it returns. Crash: some more zeros at the end, which `open` counts.
        """
        await self._growing.acquire()
        try:
            while self.page_count < page_count:
                await self._grow_file(page_count)
        finally:
            self._growing.release()

    async def _grow_file(self, page_count: int) -> None:
        """Extend the last file, or add one, as far as one file goes."""
        if self._failed is not None:
            raise self._failed
        number, offset = self._place(self.page_count)
        if number == len(self._files):
            self._files.append(_PageFile(await self._disk.open(f"{self._directory}/{page_file_name(number)}", create=True)))
        page_file = self._files[number]
        end_page = min(page_count, (number + 1) * self.pages_per_file)
        end = offset + (end_page - self.page_count) * self.page_size
        while offset < end:
            size = min(_FILL_BYTES, end - offset)
            await page_file.file.write(offset, bytes(size))
            page_file.writes += 1
            offset += size
        await self._sync_file(page_file, page_file.writes)
        # Also when the file is not new: an earlier growth may have created it and then failed.
        await self._disk.sync_dir(self._directory)
        self.page_count = end_page

    def _place(self, page_no: int) -> tuple[int, int]:
        number, index = divmod(page_no, self.pages_per_file)
        return number, index * self.page_size

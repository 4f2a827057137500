"""Laying down the pages of a backup, and of the incremental ones that stand on it, every one checked.

    read ahead ─▶ check, find what is zeros ─▶ write what is not ─▶ sync, a piece at a time ─▶ the file's exact size

Reading, checking and writing of different pieces overlap; the loop only deals them out.

L1. A page is written only after its checksum and its number were found right (a copy made by hand may have torn pages: those
    are restart's to rebuild). A file is right only when its digest was, too; until then nothing opens it (restore.S1).
L2. A page of zeros is one that nobody owns (pages.G2): it is not written. Its room is reserved all the same, so that whoever
    takes it later does not find the disk full (access/space.S2).
L3. When `run` returns, every page file is durable, and so are their names.
"""

from __future__ import annotations

from xxhash import xxh3_64_intdigest, xxh3_128

from thunderdb.backup.frames import parse_stored_name
from thunderdb.backup.holes import all_zeros
from thunderdb.backup.incremental import INCREMENTAL_HEADER, INCREMENTAL_SUFFIX, check_header
from thunderdb.backup.sources import BackupSource, StoredFile
from thunderdb.base.errors import Corruption, ThunderError
from thunderdb.base.events import Events
from thunderdb.runtime.inflight import InFlight
from thunderdb.runtime.ports import File, Ports
from thunderdb.storage.files import page_file_name
from thunderdb.storage.page import PAGE_HEADER

SYNC_BYTES = 64 << 20
PIECES_IN_FLIGHT = 3
COMPARE_BYTES = 4 << 20


class PageLayer:
    """The page files of one restore. `reused` counts the pages that were there already."""

    def __init__(self, ports: Ports, data_dir: str, chain: list[BackupSource], events: Events) -> None:
        self.ports = ports
        self.disk = ports.disk
        self.data_dir = data_dir
        self.chain = chain
        self.events = events
        self.reused = 0

    async def run(self) -> None:
        """Raises: Corruption (a damaged backup, named), StorageError, DiskFull."""
        for link in self.chain:
            for number, stored in enumerate(link.page_files()):
                if not (len(self.chain) == 1 and await self._reusable(stored, number, link)):
                    await self._page_file(link, stored, number)
        await self._fit()

    def _path(self, number: int) -> str:
        return f"{self.data_dir}/{page_file_name(number)}"

    async def _reusable(self, stored: StoredFile, number: int, link: BackupSource) -> bool:
        """Whether the very file is there already: it was copied by hand, or by a run that was interrupted."""
        path = self._path(number)
        if not stored.digest or stored.path != stored.plain or not await self.disk.exists(path):
            return False
        file = await self.disk.open(path)
        digest, offset = xxh3_128(), 0
        if await file.size() == stored.size:
            while data := await file.read(offset, COMPARE_BYTES):
                await self.ports.offload.run(digest.update, data)
                offset += len(data)
        same = offset == stored.size and digest.hexdigest() == stored.digest
        if same:
            await file.allocate(stored.size)  # L2: whoever copied it has copied the holes, too
            await file.sync()  # who copied it may not have
            self.reused += stored.size // link.page_size
        await file.close()
        return same

    async def _page_file(self, link: BackupSource, stored: StoredFile, number: int) -> None:
        """Lay down one page file of a full backup, or the pages of an incremental one over it."""
        file = await self.disk.open(self._path(number), create=True)
        try:
            if parse_stored_name(stored.path)[0].endswith(INCREMENTAL_SUFFIX):
                await self._changed_pages(link, stored, number, file)
            else:
                await _WholeFile(self, link, stored, number * link.pages_per_file, file).run()
            await file.sync()
        except Exception:
            await file.close()
            raise
        await file.close()

    async def _changed_pages(self, link: BackupSource, stored: StoredFile, number: int, file: File) -> None:
        size, rest, header_read = link.page_size, b"", False
        first_page = number * link.pages_per_file
        async for part in link.read(stored):
            rest += part
            if not header_read:
                if len(rest) < INCREMENTAL_HEADER.size:
                    continue
                if link.manifest is not None:
                    check_header(rest, link.manifest, first_page, stored.path)
                rest, header_read = rest[INCREMENTAL_HEADER.size :], True
            whole = len(rest) // size * size
            for at in range(0, whole, size):
                page = rest[at : at + size]
                page_no = PAGE_HEADER.unpack_from(page)[4]
                check_pages(page, size, page_no, stored.path, True)
                if not first_page <= page_no < first_page + link.pages_per_file:
                    raise Corruption(f"{link.place}/{stored.path} holds page {page_no} of another file", "Use another backup.")
                await file.write((page_no - first_page) * size, page)
            rest = rest[whole:]
            await self.progress(whole)
        if rest or not header_read:
            raise Corruption(f"{link.place}/{stored.path} ends in the middle of a page", "Use another backup.")

    async def _fit(self) -> None:
        """Exactly `page_count` pages: zeros where no link of the chain has one; nothing behind."""
        backup = self.chain[-1]
        per_file, left, number = backup.pages_per_file, backup.page_count, 0
        while left > 0:
            file = await self.disk.open(self._path(number), create=True)
            size = min(per_file, left) * backup.page_size
            if await file.size() != size:
                await file.truncate(size)
                await file.allocate(size)  # L2
                await file.sync()
            await file.close()
            left -= per_file
            number += 1
        await self.disk.sync_dir(self.data_dir)

    async def progress(self, size: int) -> None:
        self.events.emit("restore.page_bytes", size_bytes=size)
        await self.ports.tasks.work("restore.page_byte", size)


class _WholeFile:
    """One page file of a full backup on its way down."""

    def __init__(self, layer: PageLayer, link: BackupSource, stored: StoredFile, first_page: int, file: File) -> None:
        self.layer = layer
        self.link = link
        self.stored = stored
        self.first_page = first_page
        self.file = file
        self.unsynced = 0
        self.reader = link.reader(stored)
        tasks = layer.ports.tasks
        self.reading: InFlight[bytes] = InFlight(tasks, 1, "restore.read")
        self.writing: InFlight[None] = InFlight(tasks, PIECES_IN_FLIGHT, "restore.pages")

    async def run(self) -> None:
        try:
            await self._run()
        except (ThunderError, OSError):
            self.reader.cancel()
            await self.reading.settle()
            await self.writing.settle()
            raise

    async def _run(self) -> None:
        size, offset, rest = self.link.page_size, 0, b""
        await self.file.truncate(0)  # what an interrupted run has left: pages of zeros are not written (L2)
        await self.file.allocate(self.stored.raw_size)
        reader = self.reader
        self.reading.begin(reader.next())
        while part := await self.reading.next():
            self.reading.begin(reader.next())
            data = rest + part if rest else part
            whole = len(data) // size * size
            piece, rest = (data, b"") if whole == len(data) else (data[:whole], data[whole:])
            await self.writing.room()
            self.writing.begin(self._piece(offset, piece))
            offset += whole
            if whole:
                await self.layer.progress(whole)
        self.link.check_digest(self.stored, reader)
        await self.writing.drain()
        await self.file.truncate(offset)

    async def _piece(self, offset: int, data: bytes) -> None:
        """Check some pages, and write those that are not zeros (L1, L2)."""
        size, first_page = self.link.page_size, self.first_page + offset // self.link.page_size
        check = self.link.manifest is not None
        runs = await self.layer.ports.offload.run(check_pages, data, size, first_page, self.stored.path, check)
        view = memoryview(data)
        for start, end in runs:
            await self.file.write(offset + start, data if end - start == len(data) else view[start:end])
            self.unsynced += end - start
        if self.unsynced >= SYNC_BYTES:
            self.unsynced = 0
            await self.file.sync()


def check_pages(data: bytes, page_size: int, first_page: int, path: str, check: bool) -> list[tuple[int, int]]:
    """Check pages, and tell where those lie that are not zeros, as (start, end) in bytes. Runs in a thread.

    Raises: Corruption naming the first page that is not what was written, if that is to be checked.
    """
    if all_zeros(data):
        return []
    view, zeros = memoryview(data), bytes(page_size)
    digest, unpack = xxh3_64_intdigest, PAGE_HEADER.unpack_from
    runs: list[tuple[int, int]] = []
    begun = -1
    page_no = first_page
    for at in range(0, len(data) // page_size * page_size, page_size):
        header = unpack(data, at)
        if not header[4] and not header[0] and data[at : at + page_size] == zeros:
            if begun >= 0:
                runs.append((begun, at))
                begun = -1
        else:
            if check and (header[0] != digest(view[at + 8 : at + page_size]) or header[4] != page_no):
                raise Corruption(f"page {page_no} in the backup's {path} is damaged", "Use another backup.")
            if begun < 0:
                begun = at
        page_no += 1
    if begun >= 0:
        runs.append((begun, len(data)))
    return runs

"""Reading the page files of a running database, every page checked, for a backup.

Pages are read in big pieces past the pool, while it goes on writing them. A page that fails its check is read again when no
write of it is under way; if it fails then too, the disk has it wrong, and the pool's page (repaired from the log, if it is
not in memory) is taken in its place and written back.

G1. A page is taken only if its checksum, its number and the LSN that it was last seen or written with (lost writes) are right.
G2. Zeros are taken for a page only where the space map says that nobody owns it. An unreadable page that nobody owns is taken
    as zeros too: its next owner begins with a full image.
G4. A page that nobody owns, and that no log from the checkpoint's redo_lsn on changes, is taken as zeros without being read:
    its next owner begins with a full image, so whatever a redo needs of it lies in the log.
G3. A page that cannot be had fails the backup, which names the page and its file.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable
from typing import TYPE_CHECKING

from xxhash import xxh3_64_intdigest

from thunderdb.base.errors import Corruption
from thunderdb.base.ids import format_lsn
from thunderdb.storage.files import page_file_name
from thunderdb.storage.page import Page, PageCorruption, encode_page
from thunderdb.storage.spacemap import is_allocated, map_page_of, pages_per_map

if TYPE_CHECKING:
    from thunderdb.engine.database import Database

_HEAD = struct.Struct("<QQ16xI")  # checksum, page_lsn, page_no of storage/page.PAGE_HEADER
_TRIES = 3


def bad_pages(data: bytes, first_page: int, page_size: int, written_lsns: array[int] | None = None) -> list[int]:
    """The numbers of the pages in `data` that fail G1, cheaply: one hash a page."""
    bad: list[int] = []
    view = memoryview(data)
    digest, unpack = xxh3_64_intdigest, _HEAD.unpack_from
    page_no = first_page
    for at in range(0, len(data) - page_size + 1, page_size):
        checksum, page_lsn, own_no = unpack(data, at)
        if digest(view[at + 8 : at + page_size]) != checksum or own_no != page_no:
            bad.append(page_no)
        elif written_lsns is not None and page_no < len(written_lsns) and page_lsn < written_lsns[page_no]:
            bad.append(page_no)
        page_no += 1
    return bad


def page_lsn_of(image: bytes | memoryview, at: int = 0) -> int:
    lsn: int = _HEAD.unpack_from(image, at)[1]
    return lsn


def is_zero(image: bytes) -> bool:
    return image.count(0) == len(image)


def what_is_wrong(image: bytes, page_no: int, page_size: int) -> str:
    """Say in words why an image is not that page; "" if it is."""
    if len(image) < page_size:
        return f"only {len(image)} of {page_size} bytes are there"
    checksum, _lsn, own_no = _HEAD.unpack_from(image)
    if is_zero(image):
        return "all zeros"
    if xxh3_64_intdigest(memoryview(image)[8:page_size]) != checksum:
        return "checksum does not match"
    return "" if own_no == page_no else f"it is page {own_no}"


def owned(page_no: int, page_size: int, bit: Callable[[int], bool]) -> bool:
    """Whether somebody owns a page; `bit(page_no)` is its bit in its map (access/space.py S1)."""
    group_size = pages_per_map(page_size)
    first = page_no - page_no % group_size
    if first and not bit(first - 1):  # the last bit of a group says whether the next group's map exists
        return False
    index = page_no - first
    return index == 0 or (index != group_size - 1 and bit(page_no))


class PageReader:
    """Verified pages of an open database, for a backup whose redo begins at `redo_lsn`."""

    def __init__(self, db: Database, redo_lsn: int = 0) -> None:
        self._db = db
        self._redo_lsn = redo_lsn
        self.repaired = 0
        self.read_again = 0

    async def read(self, page_no: int, count: int) -> bytes:
        """Up to `count` pages of one file, each as it is on disk now or newer. Raises: Corruption (G3)."""
        files, size = self._db.files, self._db.files.page_size
        count = min(count, files.page_count - page_no, files.pages_per_file - page_no % files.pages_per_file)
        free = await self._free(page_no, count) if self._redo_lsn else []
        if len(free) == count:
            return bytes(count * size)
        data = await self._read(page_no, count)
        if not free:
            return data
        parts, zeros = bytearray(data), bytes(size)
        for other in free:
            parts[(other - page_no) * size : (other - page_no + 1) * size] = zeros
        return bytes(parts)

    async def _free(self, page_no: int, count: int) -> list[int]:
        """G4. Which of some pages nobody owns now, but for those with log since `redo_lsn`: redo may begin with them."""
        size, pool = self._db.files.page_size, self._db.pool

        def operation() -> list[int]:
            def bit(number: int) -> bool:
                return is_allocated(pool.get(map_page_of(number, size)), number)

            return [number for number in range(page_no, page_no + count) if not owned(number, size, bit)]

        written = pool.written_lsns
        return [
            number
            for number in await self._db.access.run(operation)
            if not pool.is_dirty(number) and (number >= len(written) or written[number] < self._redo_lsn)
        ]

    async def _read(self, page_no: int, count: int) -> bytes:
        files, size = self._db.files, self._db.files.page_size
        try:
            data = await files.read_pages(page_no, count)
        except PageCorruption:
            data = b""
        good = len(data) // size
        bad = bad_pages(data, page_no, size, self._db.pool.written_lsns)
        if not bad and good == count:
            return data
        parts = bytearray(data[: good * size].ljust(count * size, b"\0"))
        zeros = bytes(size)
        for other in [*bad, *range(page_no + good, page_no + count)]:
            place = slice((other - page_no) * size, (other - page_no + 1) * size)
            if parts[place] == zeros and not await self.owned(other):
                parts[place] = zeros  # G2
                continue
            parts[place] = await self._settled(other)
        return bytes(parts)

    async def _settled(self, page_no: int) -> bytes:
        """One page whose first reading was not right."""
        files, size, pool = self._db.files, self._db.files.page_size, self._db.pool
        trouble = ""
        for _ in range(_TRIES):
            await pool.written_back(page_no)
            try:
                image = await files.read_page(page_no)
            except PageCorruption as error:
                trouble = error.message
                continue
            trouble = what_is_wrong(image, page_no, size) or self._lost_write(image, page_no)
            if not trouble:
                self.read_again += 1
                return image
            if is_zero(image) and not await self.owned(page_no):
                return image  # G2
        return await self._from_pool(page_no, trouble)

    def _lost_write(self, image: bytes, page_no: int) -> str:
        written = self._db.pool.written_lsns
        known_lsn = written[page_no] if page_no < len(written) else 0
        if page_lsn_of(image) >= known_lsn:
            return ""
        return f"lost write (it is at {format_lsn(page_lsn_of(image))}, and was written with {format_lsn(known_lsn)})"

    async def _from_pool(self, page_no: int, trouble: str) -> bytes:
        db = self._db
        fresh = db.pool.is_dirty(page_no)
        try:
            page = await db.pool.load(page_no, pin=True)
        except Corruption as error:
            if not await self.owned(page_no):
                db.events.emit("backup.page_unowned", page_no=page_no, error=error.message)
                return bytes(db.files.page_size)  # G2
            name = page_file_name(page_no // db.files.pages_per_file)
            raise Corruption(
                f"page {page_no} in {db.config.data_dir}/{name} is damaged ({trouble}) and cannot be repaired: {error.message}",
                "Restore from an earlier backup; no backup was made, since it would contain the damage.",
            ) from error
        try:
            return self._image_of(page, fresh, trouble)
        finally:
            db.pool.unpin(page)

    def _image_of(self, page: Page, fresh: bool, trouble: str) -> bytes:
        """The pool's page. If the disk was to have it already, the page is made dirty, with an image of its own in the log."""
        db = self._db
        if not fresh:
            self.repaired += 1
            db.events.emit("backup.page_repaired", page_no=page.page_no, trouble=trouble)
            if not page.rec_lsn:
                db.access.log_image(page)
        return encode_page(page, db.files.page_size)

    async def owned(self, page_no: int) -> bool:
        """What the space map says now. Raises: Corruption if the map itself cannot be had."""
        size = self._db.files.page_size

        def operation() -> bool:
            pool = self._db.pool
            return owned(page_no, size, lambda number: is_allocated(pool.get(map_page_of(number, size)), number))

        return await self._db.access.run(operation)

"""Page files of a backup: whole ones, and those of an incremental backup, which hold only what changed.

A whole one, `data/pages.NNNNNN`, is the page file as it is. An incremental one, `data/pages.NNNNNN.inc`, is

    INCREMENTAL_HEADER, little-endian:
    offset  size  name
    0       8     magic
    8       4     version
    12      4     page_size
    16      8     system_id
    24      8     since_lsn
    32      4     first_page
    36      4     reserved
    40      8     checksum

and behind it whole pages, back to back, with growing numbers; each page says its own number. `first_page` is the first page of
the page file, `checksum` XXH3-64 over the header before it. There is one such file for each page file, also if no page of it
changed. Pages that are in no link of a chain are zeros.

I1. A page is in it if its page_lsn is at or above `since_lsn`, the *redo_lsn* of the base: a page changed below that was on
    disk when the base was copied, so the base has it.
I2. The base is of the same system and of this timeline's own history (it ended before every fork that led here), and not of a
    history that was given up: its manifest is among those that this database made, or its last record is in our log.
I3. A chain lies in one folder; a backup is only taken onto a chain that is there.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Protocol

from xxhash import xxh3_64_intdigest

from thunderdb.archive.directory import is_url, open_store
from thunderdb.backup.chain import Listed, list_backups
from thunderdb.backup.frames import FrameWriter
from thunderdb.backup.manifest import MANIFEST_NAME, Manifest, parse_manifest
from thunderdb.backup.pages import page_lsn_of
from thunderdb.base.errors import Corruption, Refused, StorageError, ThunderError
from thunderdb.base.ids import format_lsn
from thunderdb.runtime.ports import Ports
from thunderdb.storage.files import page_file_name
from thunderdb.storage.page import PAGE_HEADER
from thunderdb.wal.record import check_record
from thunderdb.wal.segment import SEGMENT_HEADER_SIZE, SegmentScan, decode_segment_header, segment_name
from thunderdb.wal.timeline import Fork

if TYPE_CHECKING:
    from thunderdb.engine.database import Database

INCREMENTAL_HEADER = struct.Struct("<8sIIQQIIQ")
INCREMENTAL_SUFFIX = ".inc"
INCREMENTAL_VERSION = 1
_MAGIC = b"TDBINCR1"
_BUFFER_BYTES = 1 << 20


def page_no_of(image: bytes) -> int:
    """The number that a page says it has."""
    page_no: int = PAGE_HEADER.unpack_from(image)[4]
    return page_no


class Files(Protocol):
    """Where the sink puts its files."""

    async def begin(self, path: str, compress: bool | None = None) -> FrameWriter: ...

    async def end(self, writer: FrameWriter, pages: int | None = None) -> None: ...


class PageSink:
    """Takes the database's pages in order and writes the backup's page files; only the changed ones with `since_lsn`."""

    def __init__(self, files: Files, page_size: int, pages_per_file: int, system_id: int, since_lsn: int | None) -> None:
        self._files = files
        self._page_size = page_size
        self._pages_per_file = pages_per_file
        self._system_id = system_id
        self._since_lsn = since_lsn
        self._writer: FrameWriter | None = None
        self._number = -1
        self._next_page = 0
        self._pages = 0
        self._buffer = bytearray()

    async def add(self, page_no: int, data: bytes) -> None:
        """Pages that lie in one file, from `page_no` on."""
        writer = await self._file_of(page_no)
        count = len(data) // self._page_size
        self._next_page = page_no + count
        if self._since_lsn is None:
            self._pages += count
            await writer.write(data)
            return
        size = self._page_size
        for at in range(0, len(data), size):
            if page_lsn_of(data, at) >= self._since_lsn:  # I1
                self._buffer += data[at : at + size]
                self._pages += 1
        if len(self._buffer) >= _BUFFER_BYTES:
            await self._flush(writer)

    async def fill(self, page_count: int) -> None:
        """Zeros up to `page_count` pages; then the last file is complete."""
        step = max(1, _BUFFER_BYTES // self._page_size)
        while self._next_page < page_count:
            left_in_file = self._pages_per_file - self._next_page % self._pages_per_file
            count = min(step, left_in_file, page_count - self._next_page)
            await self.add(self._next_page, bytes(count * self._page_size))
        await self._end()

    async def _file_of(self, page_no: int) -> FrameWriter:
        number = page_no // self._pages_per_file
        if self._writer is None or number != self._number:
            await self._end()
            suffix = "" if self._since_lsn is None else INCREMENTAL_SUFFIX
            self._writer = await self._files.begin(f"data/{page_file_name(number)}{suffix}")
            self._number = number
            if self._since_lsn is not None:
                first_page = number * self._pages_per_file
                self._buffer += encode_header(self._page_size, self._system_id, self._since_lsn, first_page)
        return self._writer

    async def _end(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            await self._flush(writer)
            await self._files.end(writer, self._pages)
            self._pages = 0

    async def _flush(self, writer: FrameWriter) -> None:
        data, self._buffer = bytes(self._buffer), bytearray()
        for at in range(0, len(data), _BUFFER_BYTES):
            await writer.write(data[at : at + _BUFFER_BYTES])


def encode_header(page_size: int, system_id: int, since_lsn: int, first_page: int) -> bytes:
    fields = (_MAGIC, INCREMENTAL_VERSION, page_size, system_id, since_lsn, first_page, 0)
    raw = INCREMENTAL_HEADER.pack(*fields, 0)[:-8]
    return raw + xxh3_64_intdigest(raw).to_bytes(8, "little")


def check_header(data: bytes, manifest: Manifest, first_page: int, path: str) -> None:
    """Raises: Corruption unless this begins the incremental file of that backup; Refused for a newer version."""
    if len(data) < INCREMENTAL_HEADER.size:
        raise Corruption(f"{path}: it ends in its header")
    magic, version, page_size, system_id, since_lsn, first, _, checksum = INCREMENTAL_HEADER.unpack_from(data)
    if magic != _MAGIC or xxh3_64_intdigest(data[: INCREMENTAL_HEADER.size - 8]) != checksum:
        raise Corruption(f"{path}: its header is damaged")
    if version != INCREMENTAL_VERSION:
        raise Refused(f"{path} has format version {version}, this program knows {INCREMENTAL_VERSION}")
    expected = (manifest.page_size, manifest.system_id, manifest.base.redo_lsn if manifest.base else 0, first_page)
    if (page_size, system_id, since_lsn, first) != expected:
        raise Corruption(f"{path}: its header is of another file or backup")


async def read_base(ports: Ports, place: str) -> Manifest:
    """The manifest of a base. Raises: Refused if there is no usable one at `place`."""
    try:
        return parse_manifest(await open_store(ports, place).get(MANIFEST_NAME), f"{place}/{MANIFEST_NAME}")
    except (FileNotFoundError, NotADirectoryError):
        raise Refused(f"there is no backup at {place}", "Name the folder or URL of a complete backup as the base.") from None


async def links_of(ports: Ports, place: str, manifest: Manifest) -> list[Listed]:
    """What the backup at `place` (without links) stands on, base first. Raises: Refused naming a missing link."""
    found: list[Listed] = []
    folder = folder_of(place)
    listed = await list_backups(ports, folder) if manifest.base is not None else []
    while manifest.base is not None:
        base = manifest.base
        fitting = (one for one in listed if one.manifest is not None and one.manifest.checksum == base.manifest_checksum)
        link = next(fitting, None)
        if link is None or link.manifest is None or link in found:
            wanted = f"{base.backup_id} (manifest {base.manifest_checksum})"
            raise Refused(
                f"{manifest.backup_id} stands on {wanted}, which is missing in {folder}",
                f"Put {base.backup_id} back there, or use another backup.",
            )
        found.insert(0, link)
        manifest = link.manifest
    return found


def folder_of(place: str) -> str:
    """The folder of a backup: its neighbours are there (I3)."""
    return place.rstrip("/").rpartition("/")[0] or "/"


async def check_neighbour(ports: Ports, base_place: str, base: Manifest, destination: str) -> None:
    """Raises: Refused unless the base, with all that it stands on, is where the new backup will be (I3)."""
    real = base_place.rstrip("/") if is_url(base_place) else await ports.disk.resolve(base_place)
    folder = folder_of(destination) if is_url(destination) else await ports.disk.resolve(folder_of(destination))
    if folder_of(real) != folder:
        raise Refused(
            f"the base {base.backup_id} is in {folder_of(real)}, not in {folder}: the chain would not be found",
            "Write an incremental backup into the folder of its base.",
        )
    await links_of(ports, real, base)


async def check_base(db: Database, base: Manifest, history: tuple[Fork, ...], known: frozenset[str]) -> None:
    """Raises: Refused unless an incremental backup may stand on `base` (I2)."""
    state = db.control.state
    take_full = "Take a full backup instead."
    if base.system_id != state.system_id:
        raise Refused(f"{base.backup_id} is a backup of another database (system id {base.system_id:016x})", take_full)
    if base.page_size != state.page_size:
        raise Refused(f"{base.backup_id} has pages of another size", take_full)
    fork = next((fork for fork in history if fork.timeline == base.timeline), None)
    if base.timeline != state.timeline and fork is None:
        raise Refused(f"{base.backup_id} is of timeline {base.timeline}, which is not in this database's history", take_full)
    if fork is not None and base.end_lsn > fork.switch_lsn:
        raise Refused(
            f"{base.backup_id} ends at {format_lsn(base.end_lsn)}, behind {format_lsn(fork.switch_lsn)}, where this database "
            f"left timeline {base.timeline}",
            take_full,
        )
    if base.end_lsn > db.log.flushed_lsn:
        raise Refused(f"{base.backup_id} ends behind the end of this database's log", take_full)
    if base.checksum not in known and not await _continues(db, base):
        raise Refused(
            f"it cannot be shown that {base.backup_id} belongs to this database's own history: it was not made here, or the "
            "database was restored since, and the log of that time is gone",
            take_full,
        )


async def _continues(db: Database, base: Manifest) -> bool:
    """Whether our log has the record that ended the base (I2)."""
    if base.end_lsn == db.log.next_lsn:
        return db.log.last_checksum == base.end_checksum
    try:
        if base.end_lsn < db.log.next_lsn and base.end_lsn >= db.log.oldest_lsn:
            await db.log.flush_all()
            return await _checksum_before(db, base.end_lsn) == base.end_checksum
    except (ThunderError, FileNotFoundError):
        pass
    return False


async def _checksum_before(db: Database, lsn: int) -> int:
    """The checksum that the record at `lsn` says its predecessor has."""
    for (number, start_lsn), following in zip(db.log.segments, [*db.log.segments[1:], None], strict=True):
        if start_lsn <= lsn and (following is None or lsn < following[1]):
            name = segment_name(db.log.timeline, number)
            data = await db.ports.disk.read_file(f"{db.config.wal_dir}/{name}")
            header = decode_segment_header(data[:SEGMENT_HEADER_SIZE], db.log.timeline, number, db.control.state.system_id)
            check_record(data, SEGMENT_HEADER_SIZE + lsn - start_lsn, lsn)
            return header.prev_checksum if lsn == start_lsn else SegmentScan(header, data, from_lsn=lsn).prev_checksum
    raise StorageError(f"no segment holds {format_lsn(lsn)}")

"""A backup as a restore reads it: made by ThunderDB (with a manifest) or copied by hand, in a directory or an object store.

    open_backup   one backup, whatever it is        open_chain   an incremental one with all that it stands on, base first
    list_backups  the backups in a folder           (chain.py)

B1. Without a manifest only a copy made by hand is believed, and only with a copy floor (or of a database that was shut down):
    its log begins at the oldest floor, and it is consistent from its newest page on, which `survey` finds by reading them all.
B2. An unfinished backup is none: its control file says that it is a backup's, yet nothing vouches for its files.
B3. Nothing here writes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

from xxhash import xxh3_64_intdigest

from thunderdb.archive.cipher import Cipher
from thunderdb.archive.directory import is_url, open_store
from thunderdb.archive.names import parse_object_name
from thunderdb.backup.frames import FrameReader
from thunderdb.backup.manifest import MANIFEST_NAME, FileEntry, Manifest, parse_manifest
from thunderdb.base.errors import Corruption, Refused
from thunderdb.runtime.ports import ObjectStore, Ports
from thunderdb.storage.control import FILE_SIZE, SLOT_OFFSETS, SLOT_SIZE, ControlState, DatabaseState, decode_slot
from thunderdb.storage.files import FILE_LIMIT
from thunderdb.storage.page import PAGE_HEADER
from thunderdb.wal.segment import decode_segment_header
from thunderdb.wal.timeline import Fork, parse_history, parse_history_name

CONTROL = "data/control"
_PAGES = "data/pages."
READ_BYTES = 1 << 20
HEAD_BYTES = 4 << 10
"""What is asked for where only a file's header is wanted, if the file is stored as it is."""


class Unusable(Refused):
    """This backup cannot be restored from, for what it is; another one perhaps can."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of a backup: `path` is its name there (with .zst, .inc …), `digest` empty for a copy made by hand."""

    path: str
    size: int
    raw_size: int
    digest: str = ""
    zeros: tuple[tuple[int, int], ...] = ()

    @property
    def plain(self) -> str:
        """The name that the file has in a database."""
        return self.path.removesuffix(".enc").removesuffix(".zst").removesuffix(".inc")


@dataclass(slots=True)
class Survey:
    """What reading every page of a copy made by hand told. `torn` pages must be rebuilt from images in the log."""

    newest_lsn: int = 0
    torn: list[int] = field(default_factory=list)


@dataclass(slots=True)
class BackupSource:
    """One backup. LSNs as in the manifest; of a copy made by hand `end_lsn` is 0 until `survey` has been run."""

    ports: Ports
    place: str
    store: ObjectStore
    manifest: Manifest | None
    control: ControlState
    control_image: bytes
    files: list[StoredFile]
    cipher: Cipher | None
    checkpoint_lsn: int
    redo_lsn: int
    keep_lsn: int
    end_lsn: int
    history: tuple[Fork, ...]
    requests: int = 1
    """How many requests to its store may be under way."""

    @property
    def name(self) -> str:
        return self.manifest.backup_id if self.manifest is not None else "copy made by hand"

    @property
    def incremental(self) -> bool:
        return self.manifest is not None and self.manifest.base is not None

    @property
    def system_id(self) -> int:
        return self.control.system_id

    @property
    def timeline(self) -> int:
        return self.control.timeline

    @property
    def page_size(self) -> int:
        return self.control.page_size

    @property
    def pages_per_file(self) -> int:
        return self.manifest.pages_per_file if self.manifest is not None else FILE_LIMIT // self.page_size

    @property
    def page_count(self) -> int:
        if self.manifest is not None:
            return self.manifest.page_count
        files = self.page_files()  # one that grew while others were copied may be short: the last one's number counts
        return (len(files) - 1) * self.pages_per_file + files[-1].raw_size // self.page_size if files else 0

    @property
    def end_time_us(self) -> int:
        return self.manifest.end_time_us if self.manifest is not None else 0

    def page_files(self) -> list[StoredFile]:
        """By number."""
        return sorted((file for file in self.files if file.path.startswith(_PAGES)), key=lambda file: file.path)

    def wal_files(self) -> list[StoredFile]:
        return sorted((file for file in self.files if file.path.startswith("wal/")), key=lambda file: file.path)

    def reader(self, file: StoredFile, ahead: bool = True) -> FrameReader:
        """For who reads pieces on its own: at the end comes `check_digest`, at any other end `cancel`."""

        async def read_range(offset: int, size: int) -> bytes:
            return await self.store.get_range(file.path, offset, size)

        if self.requests == 1 or not ahead:
            head = 0 if ahead or file.path != file.plain else HEAD_BYTES
            return FrameReader(self.ports, read_range, file.path, file.size, self.cipher, file.zeros, 0, head)
        piece_bytes = self.store.request_bytes
        return FrameReader(
            self.ports, read_range, file.path, file.size, self.cipher, file.zeros, self.requests - 1, piece_bytes
        )  # fmt: skip

    async def read_head(self, file: StoredFile) -> bytes:
        """Some decoded bytes from the file's beginning, unverified."""
        return await self.reader(file, ahead=False).next()

    async def read(self, file: StoredFile) -> AsyncIterator[bytes]:
        """The file's decoded bytes, front to back. Raises: Corruption (named), StorageError, Refused (key)."""
        reader = self.reader(file)
        try:
            while data := await reader.next():
                yield data
        finally:
            reader.cancel()
        self.check_digest(file, reader)

    def check_digest(self, file: StoredFile, reader: FrameReader) -> None:
        """Once a file was read to its end. Raises: Corruption if it is not the one that the manifest names."""
        if file.digest and (reader.size, reader.digest) != (file.size, file.digest):
            raise Corruption(f"{self.place}/{file.path}: the checksum does not match the manifest's", "Use another backup.")

    async def read_whole(self, file: StoredFile) -> bytes:
        return b"".join([part async for part in self.read(file)])

    async def survey(self) -> Survey:
        """Read all pages of a copy made by hand (B1), and set `end_lsn`."""
        found = Survey()
        if self.manifest is not None:
            return found
        size = self.page_size
        for number, file in enumerate(self.page_files()):
            page_no, rest = number * self.pages_per_file, b""
            async for part in self.read(file):
                rest += part
                whole = len(rest) // size * size
                newest, torn = await self.ports.offload.run(survey_pages, rest[:whole], size, page_no)
                found.newest_lsn = max(found.newest_lsn, newest)
                found.torn += torn
                page_no += whole // size
                rest = rest[whole:]
        self.end_lsn = max(found.newest_lsn + 1, self.control.wal_end_lsn if self.control.state == DatabaseState.CLEAN else 0)
        return found


def survey_pages(data: bytes, page_size: int, first_page: int) -> tuple[int, list[int]]:
    """(the newest page_lsn of whole pages, the pages that are torn)"""
    newest_lsn, torn = 0, []
    view = memoryview(data)
    for index in range(len(data) // page_size):
        page = view[index * page_size : (index + 1) * page_size]
        checksum, page_lsn, _image, _txn, page_no, *_ = PAGE_HEADER.unpack_from(page)
        if checksum == xxh3_64_intdigest(page[8:]) and page_no == first_page + index:
            newest_lsn = max(newest_lsn, page_lsn)
        elif any(page):
            torn.append(first_page + index)
    return newest_lsn, torn


class BackupLog:
    """The log in a backup's wal/. Satisfies `archive.index.LogSource`."""

    def __init__(self, backup: BackupSource) -> None:
        self.place = f"{backup.place}/wal"
        self._backup = backup
        self._files: dict[tuple[int, int], StoredFile] = {}
        self._histories: dict[int, StoredFile] = {}
        for file in backup.wal_files():
            name = file.path.removeprefix("wal/")
            segment = parse_object_name(name)
            timeline = parse_history_name(file.plain.removeprefix("wal/"))
            if segment is not None:
                self._files[segment.timeline, segment.number] = file
            elif timeline is not None:
                self._histories[timeline] = file

    def numbers(self, timeline: int) -> list[int]:
        return sorted(number for own, number in self._files if own == timeline)

    async def segment(self, timeline: int, number: int) -> bytes | None:
        file = self._files.get((timeline, number))
        return None if file is None else await self._backup.read_whole(file)

    @property
    def room_bytes(self) -> int:
        """How much may be fetched ahead of who reads it; 0 for a directory."""
        requests = self._backup.requests
        return 0 if requests == 1 else requests * self._backup.store.request_bytes

    def closed_size(self, timeline: int, number: int) -> int | None:
        """How many bytes a segment takes in the backup; None if it is not there."""
        file = self._files.get((timeline, number))
        return None if file is None else file.size

    async def newest_at(self, timeline: int, lsn: int) -> int:
        """The last segment that begins at or below an LSN, read off the headers only; 0 if none does."""
        newest = 0
        for number in self.numbers(timeline):
            try:
                head = await self._backup.read_head(self._files[timeline, number])
                if decode_segment_header(head, timeline, number, self._backup.system_id).start_lsn > lsn:
                    break
            except (Corruption, FileNotFoundError):
                continue  # whoever needs it will say so
            newest = number
        return newest

    async def history(self, timeline: int) -> str | None:
        file = self._histories.get(timeline)
        return None if file is None else (await self._backup.read_whole(file)).decode(errors="replace")

    async def timelines(self) -> list[int]:
        return sorted({timeline for timeline, _ in self._files} | set(self._histories))


async def open_backup(ports: Ports, place: str, cipher: Cipher | None, requests: int = 1) -> BackupSource:
    """`requests` may be under way, if it is in a store: a disk is read front to back.

    Raises: Refused if there is no backup that a restore can use; Corruption; StorageError.
    """
    if not is_url(place):
        place = await ports.disk.resolve(place)
        if place.endswith(".partial"):
            raise _unfinished(place)
    store, requests = open_store(ports, place), requests if is_url(place) else 1
    try:
        data = await store.get(MANIFEST_NAME)
    except (FileNotFoundError, NotADirectoryError):
        return replace(await _open_copy(ports, place, store, cipher), requests=requests)
    manifest = parse_manifest(data, f"{place}/{MANIFEST_NAME}")
    if manifest.encryption is not None and cipher is None:
        hint = "Name its key with backup_key_file or backup_key_command in [backup]."
        raise Unusable(f"the backup in {place} is encrypted", hint)
    files = [StoredFile(entry.path, entry.size, entry.raw_size, entry.xxh3_128, entry.zeros) for entry in manifest.files]
    source = BackupSource(
        ports, place, store, manifest, ControlState(0, 0, 0, 0), b"", files, cipher, manifest.checkpoint_lsn, manifest.redo_lsn,
        manifest.start_lsn, manifest.end_lsn, manifest.history, requests,
    )  # fmt: skip
    entry = _control_file(manifest)
    if entry is None:
        raise Corruption(f"{place}: the manifest names no {CONTROL}", "Use another backup.")
    try:
        source.control_image = await source.read_whole(StoredFile(entry.path, entry.size, entry.raw_size, entry.xxh3_128))
    except FileNotFoundError:
        raise Corruption(f"{place}/{entry.path} is missing", "Use another backup.") from None
    source.control = decode_control(source.control_image, f"{place}/{entry.path}")
    if source.control.system_id != manifest.system_id or source.control.timeline != manifest.timeline:
        raise Corruption(f"{place}/{entry.path} is of another database than the manifest", "Use another backup.")
    return source


def _control_file(manifest: Manifest) -> FileEntry | None:
    for entry in manifest.files:
        if entry.path.removesuffix(".enc").removesuffix(".zst") == CONTROL:
            return entry
    return None


async def _open_copy(ports: Ports, place: str, store: ObjectStore, cipher: Cipher | None) -> BackupSource:
    """A copy made by hand (B1, B2)."""
    try:
        image = await store.get(CONTROL)
    except (FileNotFoundError, NotADirectoryError):
        raise Unusable(
            f"there is no backup in {place}: neither {MANIFEST_NAME} nor {CONTROL} is there",
            "Name the directory of one backup, or a folder of backups, with --restore-backup.",
        ) from None
    control = decode_control(image, f"{place}/{CONTROL}")
    if control.state not in (DatabaseState.RUNNING, DatabaseState.CLEAN):
        raise _unfinished(place)
    if control.state == DatabaseState.RUNNING and not control.copy_floors:
        raise Unusable(
            f"the copy in {place} cannot be trusted: nothing kept the log that it needs while it was made",
            "Take a checkpoint with POST /admin/checkpoint first, then copy data and wal before its hold ends.",
        )
    oldest = min(control.copy_floors, key=lambda floor: floor.checkpoint_lsn, default=None)
    listed = await store.list()
    files = [StoredFile(stored.key, stored.size_bytes, stored.size_bytes) for stored in listed]
    source = BackupSource(
        ports, place, store, None, control, image, files, cipher,
        oldest.checkpoint_lsn if oldest else control.checkpoint_lsn, oldest.redo_lsn if oldest else control.redo_lsn,
        oldest.redo_lsn if oldest else control.redo_lsn, 0, (),
    )  # fmt: skip
    text = await BackupLog(source).history(control.timeline)
    if text is not None:
        source.history = parse_history(text, control.timeline)
    return source


def _unfinished(place: str) -> Refused:
    return Unusable(f"the backup in {place} is not finished: it has no {MANIFEST_NAME}", "Use another backup.")


def decode_control(image: bytes, path: str) -> ControlState:
    """The newest valid slot of a control file's bytes. Raises: Corruption."""
    slots: list[ControlState] = []
    for offset in SLOT_OFFSETS:
        try:
            slots.append(decode_slot(image[offset : offset + SLOT_SIZE]))
        except ValueError:
            continue
    if not slots or len(image) < FILE_SIZE:
        raise Corruption(f"{path} is damaged: no slot of it is valid", "Use another backup.")
    return max(slots, key=lambda state: state.sequence)



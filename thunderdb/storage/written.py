"""What the pool knows to be on disk, kept over a restart: the last synced page_lsn of every page, against lost writes.

Two files, `written.0` and `written.1`, take turns at checkpoints. Each is a header and then one u64 a page:

    WRITTEN_HEADER, little-endian:
    offset  size  name
    0       8     checksum
    8       8     magic
    16      8     system_id
    24      8     sequence
    32      8     checkpoint_lsn
    40      8     count

`checksum` is XXH3-64 over everything behind it.

T1. A save goes to the file that is not the newest valid one: a crash in it leaves the other.
T2. A save is made before its checkpoint is named. The one of the checkpoint that restart begins at, or a later one, says
    exactly what is on disk of every page that restart has nothing to do for: one that is older was lost, one that is damaged
    is rebuilt up to there. The LSNs of an older save are too low for either. With none at all reading goes on unguarded.
    A database restored from a backup must start without them, and a copy whose page files may be older than its `written`
    files without what they say of the pages that the log tells of (`WriteBack.forget_written`).
T3. Where the newest save is damaged, or a disk has taken it back, and perhaps pages that were synced with it, restart begins at
    the checkpoint of the older one; the log of two checkpoints is kept. Where that log is gone, nothing is opened.
"""

from __future__ import annotations

import struct
import sys
from array import array
from dataclasses import dataclass

from xxhash import xxh3_64

from thunderdb.base.errors import StorageError
from thunderdb.base.events import Events
from thunderdb.runtime.ports import Disk

WRITTEN_HEADER = struct.Struct("<Q8sQQQQ")
_MAGIC = b"TDBwrls2"
_CHECKSUM_SIZE = 8
_CHUNK_BYTES = 1 << 20


def written_file_names() -> tuple[str, str]:
    return "written.0", "written.1"


@dataclass(frozen=True, slots=True)
class Saved:
    """A save: `lsns` by page number, 0 where nothing is known, as of the checkpoint at `checkpoint_lsn`."""

    lsns: array[int]
    checkpoint_lsn: int = 0


NOTHING_SAVED = Saved(array("Q"))


class WrittenFile:
    """Load and save the LSNs. One user at a time (the checkpoint)."""

    def __init__(self, disk: Disk, directory: str, system_id: int, events: Events) -> None:
        self._disk = disk
        self._paths = [f"{directory}/{name}" for name in written_file_names()]
        self._directory = directory
        self._system_id = system_id
        self._events = events
        self._sequence = 0
        self._newest = 1

    async def load(self) -> Saved:
        """The newest valid save; empty if there is none. Raises: nothing but what the disk itself cannot do."""
        best = NOTHING_SAVED
        for index, path in enumerate(self._paths):
            try:
                sequence, saved = self._decode(await self._disk.read_file(path))
            except FileNotFoundError:
                continue
            except (StorageError, ValueError) as error:
                self._events.emit("pool.written_file_bad", path=path, error=str(error))
                continue
            if sequence > self._sequence:
                self._sequence, self._newest, best = sequence, index, saved
        return best

    async def save(self, saved: Saved) -> None:
        """Save, replacing the older of the two. Durable when: it returns. Crash: the other one is as it was."""
        target = 1 - self._newest
        image = self._encode(self._sequence + 1, saved)
        created = not await self._disk.exists(self._paths[target])
        file = await self._disk.open(self._paths[target], create=True)
        try:
            for offset in range(0, len(image), _CHUNK_BYTES):
                await file.write(offset, image[offset : offset + _CHUNK_BYTES])
            await file.truncate(len(image))
            await file.sync()
        except Exception:
            await file.close()
            raise
        await file.close()
        if created:
            await self._disk.sync_dir(self._directory)
        self._sequence, self._newest = self._sequence + 1, target

    async def remove(self) -> None:
        """Forget both saves: the page files are about to be replaced by older ones (T2). Durable when: it returns."""
        for path in self._paths:
            if await self._disk.exists(path):
                await self._disk.unlink(path)
        await self._disk.sync_dir(self._directory)
        self._sequence, self._newest = 0, 1

    def _encode(self, sequence: int, saved: Saved) -> bytes:
        body = _swapped(saved.lsns).tobytes()
        fields = (_MAGIC, self._system_id, sequence, saved.checkpoint_lsn, len(saved.lsns))
        header = WRITTEN_HEADER.pack(0, *fields)
        checksum = _digest(memoryview(header)[_CHECKSUM_SIZE:], body)
        return WRITTEN_HEADER.pack(checksum, *fields) + body

    def _decode(self, image: bytes) -> tuple[int, Saved]:
        if len(image) < WRITTEN_HEADER.size:
            raise ValueError(f"{len(image)} bytes are too few")
        checksum, magic, system_id, sequence, checkpoint_lsn, count = WRITTEN_HEADER.unpack_from(image)
        body = memoryview(image)[WRITTEN_HEADER.size :]
        if magic != _MAGIC or len(body) != 8 * count:
            raise ValueError(f"not a file of written LSNs, or {len(body)} bytes for {count} pages")
        if checksum != _digest(memoryview(image)[_CHECKSUM_SIZE : WRITTEN_HEADER.size], body):
            raise ValueError("checksum does not match")
        if system_id != self._system_id:
            raise ValueError(f"it belongs to database {system_id:016x}")
        lsns: array[int] = array("Q")
        lsns.frombytes(body)
        return sequence, Saved(_swapped(lsns), checkpoint_lsn)


def _digest(header: memoryview, body: bytes | memoryview) -> int:
    digest = xxh3_64(header)
    digest.update(body)
    return digest.intdigest()


def _swapped(lsns: array[int]) -> array[int]:
    """To or from little-endian."""
    if sys.byteorder == "big":
        lsns = array("Q", lsns)
        lsns.byteswap()
    return lsns

"""Where the archiver puts files: a store (a directory, or an object store), with everything read back.

T1. A file counts as archived only when what the archive has was read back and is the same.
T2. A file that is there already: identical is success, different is a Conflict; nothing is ever replaced but a partial segment.
T3. A partial segment is appended to in place in a directory, where files are stored as they are; else it is put as a whole.
T4. A partial segment that is not as this writer left it is not written to: whoever sees that looks at the archive anew.
T5. What was found in a directory, and not written by this process, is made durable before it counts (directory.D5).
T6. Nothing is put into a directory that has lost the timeline's history file: what is put below an empty mount point is gone
    when the mount is back, and so would be the log here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from thunderdb.archive.codec import Codec
from thunderdb.archive.directory import DirectoryStore, settle
from thunderdb.archive.index import ArchiveIndex, Complete, encode_complete, read_complete, read_index
from thunderdb.archive.names import complete_name, object_name, parse_complete_name, parse_object_name, partial_name
from thunderdb.base.errors import Corruption, StorageError
from thunderdb.runtime.ports import File, ObjectStore, Offload
from thunderdb.wal.segment import parse_segment_name
from thunderdb.wal.timeline import history_name


class Conflict(StorageError):
    """The archive has another file under this name: somebody else writes there, or this is not the database it was."""


class TailConflict(Conflict):
    """The partial segment is not as this writer left it."""


class ArchiveGone(StorageError):
    """The directory no longer has what this database claimed there: probably it is not mounted any more (T6)."""


@dataclass(frozen=True, slots=True)
class Placed:
    """What was put under a key, and whether nothing was there before. `size`: what it takes, where that is known already."""

    key: str
    data: bytes
    new: bool
    size: int = 0


class Target(Protocol):
    """Where an archive is. Each call raises StorageError (Conflict among them) and leaves it to the caller to try again."""

    place: str

    @property
    def has_tail(self) -> bool:
        """Whether partial segments and notes can be kept there."""
        ...

    @property
    def verified(self) -> bool:
        """Whether what is archived is read back."""
        ...

    async def index(self) -> ArchiveIndex | None:
        """What is there; None where that cannot be known."""
        ...

    async def fetch(self, name: str) -> bytes | None:
        """A file as it was before it was archived; None if it is not there."""
        ...

    async def has(self, name: str, raw: bytes) -> bool:
        """Whether a file is archived with exactly these bytes; durably, if so (T5)."""
        ...

    async def put(self, name: str, raw: bytes) -> Placed:
        """Put a closed segment, which counts for nothing yet."""
        ...

    async def confirm(self, name: str, raw: bytes, placed: Placed) -> int:
        """Read it back and compare; return the bytes that it takes there (T1, T2)."""
        ...

    async def claim(self, name: str, body: bytes) -> bytes | None:
        """Create a history file; return what is there then, None where that cannot be known."""
        ...

    async def extend_tail(self, timeline: int, number: int, file: File, end: int) -> int:
        """Bring the partial segment up to `end` bytes of the local file; return how many bytes were sent."""
        ...

    def resume_tail(self, timeline: int, number: int, size: int, key: str, stored_size: int) -> None:
        """There is a partial segment under `key`, which takes `stored_size` bytes; its first `size` bytes are ours."""
        ...

    async def drop_tail(self, timeline: int, number: int) -> None:
        """Remove the partial segment that a closed one has replaced."""
        ...

    async def drop(self, key: str) -> None:
        """Remove the object of a partial segment by its key."""
        ...

    async def sweep(self, timeline: int) -> None:
        """Remove what earlier lives of this writer, which were killed, have left unfinished. Only its owner may say that."""
        ...

    async def note(self, timeline: int, complete: Complete) -> None: ...

    async def noted(self, timeline: int) -> Complete | None:
        """The last note, if there is one."""
        ...


class StoreTarget:
    """An archive in a store. Satisfies `Target`."""

    has_tail = True
    verified = True

    def __init__(self, store: ObjectStore, codec: Codec, offload: Offload) -> None:
        self.place = store.place
        self.store = store
        self.codec = codec
        self._offload = offload
        self._in_place = store if isinstance(store, DirectoryStore) and codec.cipher is None else None
        self._tail_found = False  # it is another process's work: T5
        self._tail_number = 0
        self._tail_size = 0  # bytes of the local file that the partial segment has
        self._tail_stored = 0  # bytes that it takes

    async def index(self) -> ArchiveIndex:
        return await read_index(self.store)

    async def fetch(self, name: str) -> bytes | None:
        found = await self._find(name)
        return None if found is None else found[1]

    async def has(self, name: str, raw: bytes) -> bool:
        found = await self._find(name)
        if found is None or found[1] != raw:
            return False
        await settle(self.store, found[0])
        return True

    async def _find(self, name: str) -> tuple[str, bytes] | None:
        """The key under which a file is stored, and the file."""
        for compressed, encrypted in self._encodings():
            key = object_name(name, compressed, encrypted)
            try:
                stored = await self.store.get(key)
            except FileNotFoundError:
                continue
            return key, await self._offload.run(self.codec.decode, stored, key)
        return None

    def _encodings(self) -> list[tuple[bool, bool]]:
        """(compressed, encrypted) in the order in which to look: what is written now first (the configuration may change)."""
        own = (self.codec.compress, self.codec.cipher is not None)
        return [own, *(other for other in ((False, False), (True, False), (False, True), (True, True)) if other != own)]

    async def put(self, name: str, raw: bytes) -> Placed:
        parsed = parse_segment_name(name)
        if parsed is not None:
            await self._check_mounted(parsed[0])
        key = self.codec.key(name)
        data = await self._offload.run(self.codec.encode, raw, name)
        return Placed(key, data, await self.store.put_new(key, data))

    async def confirm(self, name: str, raw: bytes, placed: Placed) -> int:
        key, data = placed.key, placed.data
        stored = await self.store.get(key)
        if stored != data:  # it was there before, perhaps encoded in another way
            try:
                there = await self._offload.run(self.codec.decode, stored, key)
            except Corruption as error:
                raise Conflict(f"{self.place}: {error.message}") from None
            if there != raw:
                raise different(self.place, key, name)
        return len(stored)

    async def push(self, name: str, raw: bytes) -> int:
        """Both."""
        return await self.confirm(name, raw, await self.put(name, raw))

    async def claim(self, name: str, body: bytes) -> bytes:
        await self.store.put_new(name, body)
        return await self.store.get(name)

    def resume_tail(self, timeline: int, number: int, size: int, key: str, stored_size: int) -> None:
        self._tail_number, self._tail_size, self._tail_stored = number, size, stored_size
        self._tail_found = True
        if key != self._tail_key(timeline, number):
            self._tail_size = self._tail_stored = 0  # it was written with another configuration

    async def extend_tail(self, timeline: int, number: int, file: File, end: int) -> int:
        name = partial_name(timeline, number)
        if number != self._tail_number:
            self._tail_number, self._tail_size, self._tail_stored = number, 0, 0
        elif self._tail_found and self._tail_size:
            await self._settle_tail(self._tail_key(timeline, number))
        self._tail_found = False
        if end <= self._tail_size:
            return 0
        await self._only_writer(self._tail_key(timeline, number))
        await self._check_mounted(timeline)
        if self._in_place is not None:
            data = await file.read(self._tail_size, end - self._tail_size)
            self._tail_stored = -1  # unknown until the next line is through
            if self._tail_size:
                await self._in_place.extend(name, self._tail_size, data)
            else:
                await self._in_place.put(name, data)  # so that it never appears without its header
            stored_size = self._tail_size + len(data)
        else:
            raw = await file.read(0, end)
            data = await self._offload.run(self.codec.encode, raw, name)
            self._tail_stored = -1
            await self.store.put(self.codec.key(name), data)
            stored_size = len(data)
        self._tail_size, self._tail_stored = end, stored_size
        return len(data)

    async def _settle_tail(self, key: str) -> None:
        """T5."""
        try:
            await settle(self.store, key)
        except FileNotFoundError:
            self._tail_size = self._tail_stored = 0  # gone since it was looked at: begun anew

    async def _only_writer(self, key: str) -> None:
        """T4. After a failed write anything may be there."""
        if self._tail_stored < 0:
            return
        size = await self.store.size(key)
        if size is None:
            self._tail_size = self._tail_stored = 0
        elif size != self._tail_stored:
            raise TailConflict(
                f"{self.place}/{key} has {size} bytes, but this database left it with {self._tail_stored}",
                "Another database writes to this archive, or the object was changed by hand.",
            )

    async def _check_mounted(self, timeline: int) -> None:
        """T6."""
        name = history_name(timeline)
        if isinstance(self.store, DirectoryStore) and await self.store.size(name) is None:
            raise ArchiveGone(
                f"the archive {self.place} no longer has {name}, which this database made there: is it mounted?",
                "If it was emptied on purpose, remove the file `archived` in data_dir.",
            )

    async def drop_tail(self, timeline: int, number: int) -> None:
        await self.store.delete(self._tail_key(timeline, number))

    async def drop(self, key: str) -> None:
        await self.store.delete(key)

    async def sweep(self, timeline: int) -> None:
        if isinstance(self.store, DirectoryStore):  # an object store has nothing that is half there
            await self.store.sweep(lambda name: timeline == _timeline_of(name))

    def _tail_key(self, timeline: int, number: int) -> str:
        name = partial_name(timeline, number)
        return name if self._in_place is not None else self.codec.key(name)

    async def note(self, timeline: int, complete: Complete) -> None:
        await self._check_mounted(timeline)
        await self.store.put(complete_name(timeline), encode_complete(timeline, complete))

    async def noted(self, timeline: int) -> Complete | None:
        return await read_complete(self.store, timeline)


def _timeline_of(key: str) -> int | None:
    """Whose object that is, of those that only the archiver of a timeline writes (a history file may be a restore's)."""
    name = parse_object_name(key)
    return parse_complete_name(key) if name is None else name.timeline


def different(place: str, key: str, name: str) -> Conflict:
    return Conflict(
        f"{place} has another {name} already: {key} is not what this database wrote",
        "Find out who wrote it. Archiving goes on when that object is gone, or with another wal_archive_dir.",
    )

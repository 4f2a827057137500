"""The control file: where a restart begins. Two slots take turns, each a sector at the start of its own 4096-byte block.

    CONTROL_SLOT, little-endian:
    offset  size  name
    0       8     checksum
    8       8     magic
    16      4     version
    20      4     state
    24      8     sequence
    32      8     system_id
    40      4     page_size
    44      4     timeline
    48      8     wal_segment_size
    56      8     checkpoint_lsn
    64      8     redo_lsn
    72      8     newest_segment
    80      8     wal_end_lsn
    88      8     next_txn
    96      8     order_time_ns
    104     8     created_wall_ns
    112     4     floor_count
    116     4     reserved

Behind it `floor_count` of these, then zeros to the end of the sector; `checksum` is XXH3-64 over everything behind it:

    COPY_FLOOR, little-endian:
    offset  size  name
    0       8     checkpoint_lsn
    8       8     redo_lsn
    16      8     expires_wall_ns

K1. A save goes to the older slot (to a bad one first), then is synced: a crash leaves the other slot as it was.
K2. The newest valid slot counts. One bad slot is worth an event; with both bad nothing is known, and nothing is guessed.
K3. As long as a slot may still be chosen, the log from its redo_lsn is kept: see `oldest_redo_lsn`.
K4. Saves are serial and each changes only the fields that it names, so a checkpoint and a new segment do not undo each other.
K5. After a failed sync nothing is saved any more (W4).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any

from xxhash import xxh3_64_intdigest

from thunderdb.base.errors import Corruption, InvariantViolated, LimitExceeded, Refused, StorageError, SyncFailed
from thunderdb.base.events import Events
from thunderdb.runtime.ports import Disk, File
from thunderdb.runtime.sync import Semaphore, Tasks

CONTROL_VERSION = 1
CONTROL_SLOT = struct.Struct("<Q8sIIQQIIQQQQQQQQII")
COPY_FLOOR = struct.Struct("<QQQ")
SLOT_SIZE = 512
SLOT_OFFSETS = (0, 4096)
FILE_SIZE = 8192
MAX_COPY_FLOORS = 8
_MAGIC = b"TDBcntrl"
_CHECKSUM = struct.Struct("<Q")


class DatabaseState(IntEnum):
    """Numbers are on disk and never reused."""

    CREATING = 1  # nothing in it counts yet
    RUNNING = 2  # open, or it crashed: restart recovers
    CLEAN = 3  # shut down: the log ends at wal_end_lsn and every page is on disk
    BACKUP = 4  # a backup or a restored one: to be recovered, and useless unless the log reaches wal_end_lsn
    RESTORING = 5  # a restore is writing here, or was interrupted: not to be opened


@dataclass(frozen=True, slots=True)
class CopyFloor:
    """A promise to copies made by hand: until it expires, all log from `redo_lsn` stays."""

    checkpoint_lsn: int
    redo_lsn: int
    expires_wall_ns: int


@dataclass(frozen=True, slots=True)
class ControlState:
    """What one slot says. `sequence` is the control file's own, set by each save."""

    system_id: int
    page_size: int
    wal_segment_size: int
    timeline: int
    state: DatabaseState = DatabaseState.CREATING
    checkpoint_lsn: int = 0
    redo_lsn: int = 0
    newest_segment: int = 0
    wal_end_lsn: int = 0
    next_txn: int = 1
    order_time_ns: int = 0
    created_wall_ns: int = 0
    copy_floors: tuple[CopyFloor, ...] = field(default=())
    sequence: int = 0


def encode_slot(state: ControlState) -> bytes:
    """One sector. Raises: LimitExceeded over too many copy floors."""
    if len(state.copy_floors) > MAX_COPY_FLOORS:
        raise LimitExceeded(f"there are already {MAX_COPY_FLOORS} copies in progress", hint="wait for one of them to expire")
    header = CONTROL_SLOT.pack(
        0,
        _MAGIC,
        CONTROL_VERSION,
        state.state,
        state.sequence,
        state.system_id,
        state.page_size,
        state.timeline,
        state.wal_segment_size,
        state.checkpoint_lsn,
        state.redo_lsn,
        state.newest_segment,
        state.wal_end_lsn,
        state.next_txn,
        state.order_time_ns,
        state.created_wall_ns,
        len(state.copy_floors),
        0,
    )
    floors = [COPY_FLOOR.pack(floor.checkpoint_lsn, floor.redo_lsn, floor.expires_wall_ns) for floor in state.copy_floors]
    tail = b"".join([header, *floors]).ljust(SLOT_SIZE, b"\0")[_CHECKSUM.size :]
    return _CHECKSUM.pack(xxh3_64_intdigest(tail)) + tail


def decode_slot(image: bytes) -> ControlState:
    """Raises: ValueError saying why the slot is bad; Refused if a newer version of ThunderDB wrote it."""
    if len(image) != SLOT_SIZE:
        raise ValueError(f"{len(image)} of {SLOT_SIZE} bytes")
    checksum, magic, version, state, sequence, *fields, floor_count, _ = CONTROL_SLOT.unpack_from(image)
    system_id, page_size, timeline, wal_segment_size, *rest = fields
    if checksum != xxh3_64_intdigest(image[_CHECKSUM.size :]):
        raise ValueError("checksum does not match")
    if magic != _MAGIC:
        raise ValueError("not a control file")
    if version != CONTROL_VERSION:
        raise Refused(
            f"the database has format version {version}, this program knows {CONTROL_VERSION}",
            "use the version of ThunderDB that wrote it",
        )
    checkpoint_lsn, redo_lsn, newest_segment, wal_end_lsn, next_txn, order_time_ns, created_wall_ns = rest
    floors = [
        CopyFloor(*COPY_FLOOR.unpack_from(image, CONTROL_SLOT.size + index * COPY_FLOOR.size))
        for index in range(min(floor_count, MAX_COPY_FLOORS))
    ]
    return ControlState(
        system_id,
        page_size,
        wal_segment_size,
        timeline,
        DatabaseState(state),
        checkpoint_lsn,
        redo_lsn,
        newest_segment,
        wal_end_lsn,
        next_txn,
        order_time_ns,
        created_wall_ns,
        tuple(floors),
        sequence,
    )


class ControlFile:
    """The control file of a database that is open."""

    def __init__(self, tasks: Tasks, disk: Disk, path: str, events: Events) -> None:
        self.path = path
        self._disk = disk
        self._events = events
        self._saving = Semaphore(tasks, 1)
        self._file: File | None = None
        self._slots: list[ControlState | None] = [None, None]
        self._failed: SyncFailed | None = None

    @property
    def state(self) -> ControlState:
        """What is durable. Raises: InvariantViolated before `create` or `load`."""
        newest = self._newest()
        if newest is None:
            raise InvariantViolated("the control file is not loaded")
        return newest

    @property
    def oldest_redo_lsn(self) -> int:
        """Log below this is needed by neither slot (K3)."""
        return min(slot.redo_lsn for slot in self._slots if slot is not None)

    async def create(self, state: ControlState) -> None:
        """Make the file, both slots alike. Raises: FileExistsError. Durable when: it returns."""
        self._file = await self._disk.open(self.path, create=True, exclusive=True)
        await self._file.write(0, bytes(FILE_SIZE))
        await self._write_slot(0, replace(state, sequence=1))
        await self._write_slot(1, replace(state, sequence=2))
        await self._disk.sync_dir(self.path.rpartition("/")[0] or ".")

    async def load(self) -> ControlState:
        """Read both slots; the newest valid one counts.

        Raises: FileNotFoundError; Corruption if both are bad; Refused if a newer version wrote it.
        """
        self._file = await self._disk.open(self.path)
        reasons = []
        for slot, offset in enumerate(SLOT_OFFSETS):
            try:
                self._slots[slot] = decode_slot(await self._file.read(offset, SLOT_SIZE))
            except (ValueError, StorageError) as error:
                self._slots[slot] = None
                reasons.append(f"slot {slot}: {error}")
                self._events.emit("control.slot_bad", slot=slot, reason=str(error))
        newest = self._newest()
        if newest is None:
            raise Corruption(f"{self.path}: both slots are bad ({'; '.join(reasons)})", "restore the database from a backup")
        return newest

    async def update(self, **changes: Any) -> ControlState:
        """Change the named fields. Durable when: it returns. Crash: all of them changed, or none (K1)."""
        await self._saving.acquire()
        try:
            return await self._save(replace(self.state, **changes))
        finally:
            self._saving.release()

    async def update_both(self, **changes: Any) -> ControlState:
        """`update`, in both slots: what must hold whichever of them survives (copy floors)."""
        await self.update(**changes)
        return await self.update(**changes)

    async def save(self, state: ControlState) -> ControlState:
        """Replace the whole state. Prefer `update` where others may be saving (K4)."""
        await self._saving.acquire()
        try:
            return await self._save(state)
        finally:
            self._saving.release()

    async def close(self) -> None:
        if self._file is not None:
            await self._file.close()
            self._file = None

    async def _save(self, state: ControlState) -> ControlState:
        sequence = self.state.sequence + 1
        slot = min((0, 1), key=self._age)
        saved = replace(state, sequence=sequence)
        await self._write_slot(slot, saved)
        return saved

    async def _write_slot(self, slot: int, state: ControlState) -> None:
        if self._failed is not None:
            raise self._failed
        if self._file is None:
            raise InvariantViolated("the control file is not open")
        image = encode_slot(state)
        await self._file.write(SLOT_OFFSETS[slot], image)
        try:
            await self._file.sync()
        except SyncFailed as error:
            self._failed = error
            raise
        self._slots[slot] = state

    def _age(self, slot: int) -> int:
        state = self._slots[slot]
        return 0 if state is None else state.sequence

    def _newest(self) -> ControlState | None:
        valid = [slot for slot in self._slots if slot is not None]
        return max(valid, key=lambda state: state.sequence, default=None)

"""The control file: two slots, damage to one or both, serial saves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from thunderdb.base.errors import Corruption, InvariantViolated, LimitExceeded, Refused, SyncFailed
from thunderdb.base.events import Events
from thunderdb.runtime.inline import InlineWorld
from thunderdb.storage.control import (
    SLOT_OFFSETS,
    SLOT_SIZE,
    ControlFile,
    ControlState,
    CopyFloor,
    DatabaseState,
    decode_slot,
    encode_slot,
)

PATH = "/d/control"
STATE = ControlState(
    system_id=0xFEDCBA9876543210,
    page_size=16384,
    wal_segment_size=16 << 20,
    timeline=1,
    state=DatabaseState.RUNNING,
    checkpoint_lsn=5000,
    redo_lsn=4000,
    newest_segment=3,
    wal_end_lsn=6000,
    next_txn=77,
    order_time_ns=123,
    created_wall_ns=456,
    copy_floors=(CopyFloor(1, 2, 3), CopyFloor(4, 5, 6)),
    sequence=9,
)


class ControlWorld(InlineWorld):
    def __init__(self) -> None:
        super().__init__(suspend=True)
        self.run(self.disk.make_dirs("/d"))
        self.events = Events()
        self.bad_slots: list[int] = []
        self.events.subscribe(self._see)
        self.control = self.new_control()

    def _see(self, name: str, fields: dict[str, Any]) -> None:
        if name == "control.slot_bad":
            self.bad_slots.append(fields["slot"])

    def new_control(self) -> ControlFile:
        return ControlFile(self.tasks, self.disk, PATH, self.events)

    def loaded(self) -> ControlState:
        return self.run(self.new_control().load())

    def slot(self, number: int) -> bytearray:
        return self.disk.files[PATH][SLOT_OFFSETS[number] : SLOT_OFFSETS[number] + SLOT_SIZE]

    def damage(self, number: int) -> None:
        self.disk.files[PATH][SLOT_OFFSETS[number] + 57] ^= 4


def created() -> ControlWorld:
    world = ControlWorld()
    world.run(world.control.create(STATE))
    return world


def test_a_slot_round_trips() -> None:
    assert decode_slot(encode_slot(STATE)) == STATE
    assert len(encode_slot(STATE)) == SLOT_SIZE
    full = replace(STATE, copy_floors=(CopyFloor(2**64 - 1, 2, 3),) * 8)
    assert decode_slot(encode_slot(full)) == full
    with pytest.raises(LimitExceeded):
        encode_slot(replace(full, copy_floors=(*full.copy_floors, CopyFloor(1, 1, 1))))


def test_every_byte_flip_in_a_slot_is_detected() -> None:
    image = bytearray(encode_slot(STATE))
    for at in range(SLOT_SIZE):
        image[at] ^= 1 << at % 8
        with pytest.raises(ValueError, match="checksum"):
            decode_slot(bytes(image))
        image[at] ^= 1 << at % 8
    with pytest.raises(ValueError, match="bytes"):
        decode_slot(bytes(image[:100]))
    with pytest.raises(ValueError, match="checksum"):
        decode_slot(bytes(SLOT_SIZE))


def test_create_and_load() -> None:
    world = created()
    assert replace(world.loaded(), sequence=9) == STATE
    assert world.bad_slots == []
    with pytest.raises(FileExistsError):
        world.run(world.new_control().create(STATE))


def test_saves_alternate_and_the_newest_counts() -> None:
    world = created()
    for number in range(1, 6):
        before = [bytes(world.slot(0)), bytes(world.slot(1))]
        world.run(world.control.update(next_txn=number))
        changed = [before[slot] != world.slot(slot) for slot in (0, 1)]
        assert changed == [number % 2 == 1, number % 2 == 0]
        assert world.loaded().next_txn == world.control.state.next_txn == number


def test_one_bad_slot_is_an_event_and_the_other_one_counts() -> None:
    world = created()
    world.run(world.control.update(next_txn=100))  # in slot 0
    world.damage(0)
    assert world.loaded().next_txn == 77
    assert world.bad_slots == [0]
    world.run(world.control.update(next_txn=101))  # in slot 1
    world.damage(1)
    with pytest.raises(Corruption, match="both slots are bad") as caught:
        world.loaded()
    assert caught.value.hint


def test_a_bad_slot_is_the_next_to_be_written() -> None:
    world = created()
    world.damage(1)  # the newest
    again = world.new_control()
    world.run(again.load())
    good = bytes(world.slot(0))
    world.run(again.update(next_txn=5))
    assert world.slot(0) == good
    assert world.loaded().next_txn == 5


def test_a_torn_file_is_bad_not_a_crash() -> None:
    world = created()
    del world.disk.files[PATH][SLOT_OFFSETS[1] + 100 :]
    assert world.loaded().next_txn == 77
    assert world.bad_slots == [1]


def test_concurrent_updates_do_not_undo_each_other() -> None:
    world = created()

    async def main() -> None:
        updates = [{"newest_segment": 8}, {"checkpoint_lsn": 9000, "redo_lsn": 8000}, {"next_txn": 1000}]
        for task in [world.tasks.spawn(world.control.update(**changes)) for changes in updates]:
            await task

    world.run(main())
    state = world.loaded()
    assert (state.newest_segment, state.checkpoint_lsn, state.redo_lsn, state.next_txn) == (8, 9000, 8000, 1000)
    assert state.copy_floors == STATE.copy_floors


def test_update_both_survives_the_loss_of_either_slot() -> None:
    for slot in (0, 1):
        world = created()
        world.run(world.control.update_both(copy_floors=(CopyFloor(7, 8, 9),)))
        world.damage(slot)
        assert world.loaded().copy_floors == (CopyFloor(7, 8, 9),)


def test_the_oldest_redo_lsn_is_that_of_the_older_slot() -> None:
    world = created()
    world.run(world.control.update(redo_lsn=9000))
    assert world.control.oldest_redo_lsn == 4000
    world.run(world.control.update(redo_lsn=9500))
    assert world.control.oldest_redo_lsn == 9000


def test_save_replaces_the_whole_state() -> None:
    world = created()
    world.run(world.control.save(replace(STATE, copy_floors=(), state=DatabaseState.CLEAN)))
    assert world.loaded().copy_floors == ()
    assert world.loaded().state is DatabaseState.CLEAN


def test_a_newer_format_is_refused() -> None:
    import struct

    from xxhash import xxh3_64_intdigest

    image = bytearray(encode_slot(STATE))
    image[16:20] = struct.pack("<I", 2)
    image[:8] = struct.pack("<Q", xxh3_64_intdigest(bytes(image[8:])))
    with pytest.raises(Refused, match="format version 2"):
        decode_slot(bytes(image))
    image[8:16] = b"elsewise"
    image[:8] = struct.pack("<Q", xxh3_64_intdigest(bytes(image[8:])))
    with pytest.raises(ValueError, match="not a control file"):
        decode_slot(bytes(image))


def test_a_failed_sync_is_not_retried() -> None:
    world = created()

    async def broken() -> None:
        raise SyncFailed("fsync failed")

    class Broken:
        def __init__(self, file: Any) -> None:
            self._file = file
            self.sync = broken

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

    whole = world.control._file
    world.control._file = Broken(whole)  # type: ignore[assignment]
    with pytest.raises(SyncFailed):
        world.run(world.control.update(next_txn=500))
    world.control._file = whole
    with pytest.raises(SyncFailed):
        world.run(world.control.update(next_txn=501))
    assert world.control.state.next_txn == 77


def test_use_before_load_is_a_bug() -> None:
    world = ControlWorld()
    with pytest.raises(InvariantViolated):
        world.run(world.control.update(next_txn=1))
    world = created()
    world.run(world.control.close())
    with pytest.raises(InvariantViolated):
        world.run(world.control.update(next_txn=1))

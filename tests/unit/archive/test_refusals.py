"""One archive, two databases: who is refused, by what name, and that nothing of either is harmed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.archive.world import ARCHIVE, ArchiveWorld, MemoryStore, store_world
from tests.unit.engine.world import DATA, WAL
from thunderdb.archive.identity import Identity, write_identity
from thunderdb.archive.index import Gap
from thunderdb.base.errors import StorageError
from thunderdb.wal.segment import segment_name

FIRST = segment_name(1, 1)


def started(row: int = 1) -> tuple[ArchiveWorld, MemoryStore]:
    """A database with one archived segment and something in the tail."""
    world, store = store_world()
    world.start()
    world.insert(world.table(), [row, "one"])
    world.switch()
    world.insert(world.again(), [row + 1, "two"])
    world.rest(3)
    return world, store


def copy_of(world: ArchiveWorld, stores: Any, **changes: Any) -> ArchiveWorld:
    """A machine with a byte-for-byte copy of the database as it is now, on the same archive."""
    copy, _ = store_world(**changes)
    copy.stores = stores
    for path, data in world.disk.files.items():
        if path.startswith(("/d/",)) and not path.endswith("/lock"):
            copy.disk.files[path] = bytearray(data)
    for path in world.disk.dirs:
        copy.disk.dirs[path] = None
    return copy


def refusal(world: ArchiveWorld) -> str:
    world.rest(2)
    status = world.archiver.status()
    assert status.refused and status.failing
    assert [fields["message"] for fields in world.events("archive.refused")] == [status.last_error]
    return status.last_error


def test_another_database_is_refused_by_its_system_id() -> None:
    one, store = started()
    other, _ = store_world()
    other.random.bits(64)  # another system id
    other.stores = one.stores
    kept = dict(store.objects)
    db = other.start()
    message = refusal(other)
    assert f"{one.db.control.state.system_id:016x}" in message and f"{db.control.state.system_id:016x}" in message
    other.insert(other.table(), [1, "it serves all the same"])
    assert store.objects == kept, "nothing was written"
    assert db.checkpointer.holds["archive"] == 0, "and none of its log may go"
    with pytest.raises(StorageError, match="nothing is archived"):
        other.switch()
    one.insert(one.again(), [10, "ten"])
    one.switch()
    assert not one.archiver.status().failing
    other.close()
    one.close()


def test_another_instance_of_the_same_database_is_refused_by_its_name() -> None:
    one, store = started()
    copy = copy_of(one, one.stores)
    del copy.disk.files[f"{DATA}/identity"]  # as a backup has it: without
    copy.random.bits(256)
    kept = dict(store.objects)
    copy.start()
    message = refusal(copy)
    assert one.archiver.identity.instance in message and copy.archiver.identity.instance in message
    assert store.objects == kept
    assert "--restore-pitr" in copy.events("archive.refused")[0]["hint"]
    copy.close()


def test_a_copy_with_its_identity_is_refused_when_the_archive_is_newer() -> None:
    one, store = started()
    copy = copy_of(one, one.stores)
    one.insert(one.again(), [20, "later"])
    one.switch()
    one.rest(2)
    kept = dict(store.objects)
    copy.start()
    message = refusal(copy)
    assert "an older copy" in message and segment_name(1, 2) in message
    assert "--restore-pitr latest" in copy.events("archive.refused")[0]["hint"]
    assert store.objects == kept
    copy.close()
    one.close()


def test_a_copy_is_refused_when_only_the_tail_is_newer() -> None:
    one, store = started()
    copy = copy_of(one, one.stores)
    one.insert(one.again(), [20, "later"])
    one.rest(3)
    kept = dict(store.objects)
    copy.start()
    assert "is not a beginning of the segment that is here" in refusal(copy)
    assert store.objects == kept
    copy.close()
    one.close()


def test_a_copy_that_went_another_way_is_refused() -> None:
    """It ran for a while without its archive, so it is longer than what the archive has, but different."""
    one, store = started()
    copy = copy_of(one, one.stores, wal_archive_enabled=False)
    for row in range(30, 40):
        one.insert(one.again(), [row, "here"])
    one.switch()
    one.rest(3)
    super(ArchiveWorld, copy).start()
    for row in range(100):
        copy.insert(copy.again(), [1000 + row, "there" * 100])
    copy.db.log.switch_segment()
    super(ArchiveWorld, copy).close()
    copy.crash()
    object.__setattr__(copy.config, "wal_archive_enabled", True)
    kept = dict(store.objects)
    copy.start()
    assert "an older copy" in refusal(copy)
    assert store.objects == kept
    copy.close()
    one.close()


def test_two_lives_of_one_copy_at_once_do_not_mix_their_tails() -> None:
    """The copy was made at the very moment: nothing tells them apart until one of them writes."""
    one, store = started()
    copy = copy_of(one, one.stores)
    copy.start()
    copy.rest(3)
    one.insert(one.again(), [50, "here"])
    one.rest(3)
    copy.insert(copy.again(), [60, "there"])
    copy.rest(3)
    one.rest(3)
    writer, other = sorted((one, copy), key=lambda world: world.archiver.status().refused)
    assert other.archiver.status().refused, "it saw that the tail is not its own, looked again, and knew"
    assert not writer.archiver.status().failing
    name = segment_name(1, 2)
    writer.insert(writer.again(), [70, "on"])
    writer.rest(3)
    assert bytes(writer.disk.files[f"{WAL}/{name}"]).startswith(store.objects[f"{name}.partial"])
    assert writer.archiver.status().lag_bytes == 0


def test_a_drill_writes_nothing_and_says_so() -> None:
    one, store = started()
    drill = copy_of(one, one.stores)
    drill.run(write_identity(drill.disk, DATA, Identity("0" * 32, no_archive=True)))
    kept = dict(store.objects)
    db = drill.start()
    drill.insert(drill.again(), [70, "a drill"])
    drill.rest(30)
    status = drill.archiver.status()
    assert (status.archiving_enabled, status.failing) == (False, False) and "drill" in status.last_error
    assert drill.events("archive.drill")
    assert "archive" not in db.checkpointer.holds, "a drill keeps no log for an archive"
    assert store.objects == kept
    one.insert(one.again(), [80, "production"])
    one.switch()
    assert not one.archiver.status().failing
    drill.close()
    one.close()


def test_a_damaged_history_file_is_trouble_and_no_licence() -> None:
    one, store = started()
    one.crash()
    store.objects["00000001.history"] = b"2\t0/0\tx\n"
    kept = dict(store.objects)
    one.start()
    one.rest(3)
    status = one.archiver.status()
    assert status.failing and "00000001.history" in status.last_error
    assert store.objects == kept
    one.close()


def test_a_history_file_without_an_owner_is_not_ours() -> None:
    one, store = started()
    one.crash()
    store.objects["00000001.history"] = b""
    one.start()
    assert "nobody by name" in refusal(one)
    one.close()


def test_log_that_was_written_without_archiving_is_a_gap_that_is_shown() -> None:
    world, _ = started()
    world.close()
    world.crash()
    object.__setattr__(world.config, "wal_archive_enabled", False)
    super(ArchiveWorld, world).start()
    for row in range(100, 106):
        world.insert(world.again(), [row, "x"])
        world.db.log.switch_segment()
        world.run(world.db.log.flush_all())
        world.run(world.db.checkpoint())
    assert world.db.log.segments[0][0] > 3
    super(ArchiveWorld, world).close()
    world.crash()
    object.__setattr__(world.config, "wal_archive_enabled", True)
    world.start()
    world.rest(5)
    first = world.db.log.segments[0][0]
    status = world.archiver.status()
    assert not status.refused and status.gaps == (Gap(1, 3, first - 1),)
    assert world.stores.open("s3://bucket/wal").objects
    world.close()




@pytest.mark.parametrize("switch", [True, False], ids=["a segment", "the tail"])
def test_an_archive_that_is_no_longer_mounted_gets_nothing_and_goes_on_when_it_is_back(switch: bool) -> None:
    """What is put below an empty mount point vanishes when the mount is back; the log here would be gone then."""
    world = ArchiveWorld()
    world.start()
    table = world.table()
    world.insert(table, [1, "x"])
    world.switch()
    world.insert(table, [2, "x"])
    world.rest(3)
    mounted = {path: world.disk.files.pop(path) for path in list(world.disk.files) if path.startswith(f"{ARCHIVE}/")}
    world.insert(table, [3, "x"])
    if switch:
        with pytest.raises(StorageError, match="is it mounted"):
            world.switch()
    world.rest(5)
    assert [path for path in world.disk.files if path.startswith(f"{ARCHIVE}/")] == []
    assert world.archiver.status().failing and "is it mounted" in world.archiver.status().last_error
    held = world.db.checkpointer.holds["archive"]
    assert held < world.db.log.flushed_lsn
    world.disk.files.update(mounted)
    world.rest(120)
    status = world.archiver.status()
    assert not status.failing and status.gaps == () and status.archived_lsn == world.db.log.flushed_lsn
    world.close()

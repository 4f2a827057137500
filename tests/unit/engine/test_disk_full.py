"""A full disk: writes get 53100, reads go on, rollback waits and ends when there is room again, nothing is lost (W10)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.engine.world import EngineWorld, update
from thunderdb.base.errors import DiskFull

ROOM = 40 << 20


def filled(**settings: Any) -> tuple[EngineWorld, Any, int]:
    """A database that has met the end of its disk; return how many rows it has taken."""
    world = EngineWorld(capacity_bytes=12 << 20, buffer_pool_size=2 << 20, **settings)
    world.start()
    table = world.table()
    count = 0
    with pytest.raises(DiskFull) as caught:
        while count < 20_000:
            world.insert(table, *([number, "x" * 900] for number in range(count, count + 50)))
            count += 50
    assert caught.value.sqlstate == "53100" and "disk is full" in str(caught.value) or "no space" in str(caught.value)
    for txn in list(world.db.manager.active.values()):
        world.disk.capacity_bytes = ROOM
        world.run(txn.rollback())
        world.disk.capacity_bytes = used(world)
    return world, table, count


def used(world: EngineWorld) -> int:
    return sum(map(len, world.disk.files.values()))


@pytest.mark.parametrize("suspend", [False, True])
def test_writes_fail_reads_go_on_and_space_brings_writes_back(suspend: bool) -> None:
    world, table, count = filled(suspend=suspend)
    world.rest(3)
    try:
        while True:
            world.insert(table, [count, "one more"])
            count += 1
    except DiskFull:
        pass
    for txn in list(world.db.manager.active.values()):
        task = world.spawn(txn.rollback())
        world.rest(1)
        if not task.done():
            world.disk.capacity_bytes = ROOM
            world.rest(2)
            assert task.done()
            world.disk.capacity_bytes = used(world)
    assert len(world.rows(table)) == count
    assert world.db.failure is None
    world.disk.capacity_bytes = ROOM
    world.rest(5)
    world.insert(table, [100_000, "after"])
    assert len(world.rows(table)) == count + 1
    world.check()
    db = world.restart()
    assert len(world.rows(db.catalog.table("t"))) == count + 1  # type: ignore[arg-type]
    world.check()


def test_a_rollback_that_needs_room_waits_with_its_locks_and_finishes() -> None:
    """Undoing makes rows longer again, which splits pages, which needs files that cannot grow."""
    world = EngineWorld(capacity_bytes=ROOM, buffer_pool_size=8 << 20)
    db = world.start()
    table = world.table()
    world.insert(table, *([number, "x" * 900] for number in range(300)))
    txn = db.begin()
    for number in range(300):
        world.run(update(db, txn, table, [number, "short"]))
    others = [[1000 + number * 2, "y" * 900] for number in range(400)]
    small = db.begin()
    for row in others:
        world.run(db.insert(small, table, row))
    world.run(small.commit())
    # Make every page of the files taken, and the disk full to the last byte.
    world.disk.capacity_bytes = used(world)
    real = db.files.page_count
    db.files.page_count = max(page.page_no for page in db.pool.resident_pages()) + 1
    for map_no in list(db.access.map_hints):
        db.access.map_hints[map_no] = db.files.page_count - 1
    rollback = world.spawn(txn.rollback())
    world.rest(1)
    waited = not rollback.done()
    reader = db.begin()
    assert len(world.rows(table)) == 700
    world.run(reader.commit())
    db.files.page_count = real
    world.disk.capacity_bytes = ROOM
    world.rest(2)
    assert rollback.done() and rollback.error() is None and txn.status == "aborted"
    assert waited and "txn.rollback_waits" in world.names()
    found = world.rows(table)
    assert found[:300] == [[number, "x" * 900] for number in range(300)]
    world.check()


@pytest.mark.parametrize("power", [False, True])
def test_a_crash_with_a_full_disk_restarts(power: bool) -> None:
    world, table, count = filled()
    world.disk.capacity_bytes = ROOM
    world.rest(2)
    txn = world.db.begin()
    world.run(world.db.insert(txn, table, [200_000, "loser"]))
    world.run(world.db.log.flush_all())
    world.disk.capacity_bytes = used(world)
    world.crash(power)
    world.disk.capacity_bytes = used(world) + (64 << 10)
    db = world.start()
    assert len(world.rows(db.catalog.table("t"))) == count  # type: ignore[arg-type]
    world.disk.capacity_bytes = ROOM
    world.check()


def test_background_work_waits_for_room_and_does_not_stop_the_node() -> None:
    world, table, count = filled(checkpoint_interval=1000)
    world.rest(20)
    assert world.db.failure is None
    world.disk.capacity_bytes = ROOM
    world.rest(10)
    world.delete(table, *range(0, count, 3))
    world.check()
    world.close()
    world.restart()
    world.check()


@pytest.mark.parametrize("crash", [False, True])
def test_a_transaction_that_fills_the_disk_can_be_rolled_back_there(crash: bool) -> None:
    """The log's disk was full to the last byte: rollback, checkpoint and restart waited for room that nobody could make."""
    world = EngineWorld(capacity_bytes=16 << 20, buffer_pool_size=16 << 20)
    db = world.start()
    table = world.table()
    world.insert(table, *([number, "x" * 800] for number in range(1000)))
    txn = db.begin()
    size = 800
    with pytest.raises(DiskFull, match="rolling back [0-9,]+ bytes"):
        while True:
            size -= 1
            for number in range(1000):
                world.run(update(db, txn, table, [number, "y" * size]))
                world.run(db.log.wait_for_room())
    if crash:
        world.run(db.log.flush_all())
        world.crash(power=True)
        db = world.start()
    else:
        world.run(txn.rollback())
        world.run(db.log.flush_all())
    world.rest(5)  # checkpoints let the log go by themselves, whatever checkpoint_interval is
    world.insert(db.catalog.table("t"), [5000, "after"])  # type: ignore[arg-type]
    assert "wal.disk_ok" in world.names() or crash
    assert len(world.rows(db.catalog.table("t"))) == 1001  # type: ignore[arg-type]
    world.disk.capacity_bytes = ROOM
    world.check()


def test_an_old_idle_transaction_keeps_no_room_from_others() -> None:
    world = EngineWorld(capacity_bytes=16 << 20, buffer_pool_size=16 << 20)
    db = world.start()
    table = world.table()
    idle = db.begin()
    world.run(db.insert(idle, table, [100_000, "one change, and then lunch"]))
    for number in range(0, 2000, 50):
        world.insert(table, *([key, "x" * 900] for key in range(number, number + 50)))
        assert db.manager.undo_bytes() == 0
    assert not db.log.spares.low
    world.run(idle.rollback())

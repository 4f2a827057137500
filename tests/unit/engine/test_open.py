"""Making, opening, refusing, closing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.engine.world import DATA, WAL, EngineWorld
from thunderdb.base.errors import Corruption, NodeStopped, Refused, SqlError
from thunderdb.base.events import Events
from thunderdb.engine.database import Database
from thunderdb.runtime.inline import InlineWorld
from thunderdb.storage.layout import MARKER_FILE


@pytest.mark.parametrize("suspend", [False, True])
def test_a_new_database_is_empty_and_whole_and_opens_again(suspend: bool) -> None:
    world = EngineWorld(suspend=suspend)
    db = world.start()
    assert db.catalog.tables() == []
    world.check()
    world.close()
    world.start()
    assert not world.db.restarted.crashed
    assert "recovery.started" not in world.names()
    world.check()


def test_directories_that_are_mount_points_count_as_empty() -> None:
    world = EngineWorld()
    kept = {f"{directory}/lost+found": bytearray(b"1") for directory in (DATA, WAL)}
    world.disk.files.update(kept)
    world.start()
    world.close()
    assert {name: world.disk.files[name] for name in kept} == kept
    world.start()
    world.check()


def test_a_mount_point_beside_a_full_directory_is_refused() -> None:
    world = EngineWorld()
    world.start()
    world.close()
    for name in [name for name in world.disk.files if name.startswith(f"{WAL}/")]:
        del world.disk.files[name]
    world.disk.files[f"{WAL}/lost+found"] = bytearray(b"1")
    with pytest.raises(Refused, match="empty"):
        world.start()


def test_an_interrupted_making_on_a_mount_point_starts_over() -> None:
    world = EngineWorld()
    kept = f"{DATA}/lost+found"
    world.disk.files.update({kept: bytearray(b"1"), f"{DATA}/{MARKER_FILE}": bytearray(), f"{DATA}/pages.000000": bytearray(7)})
    world.start()
    assert kept in world.disk.files
    world.check()


def test_a_clean_shutdown_leaves_nothing_to_redo() -> None:
    world = EngineWorld()
    world.start()
    table = world.table()
    world.insert(table, *([number, "x" * 50] for number in range(300)))
    world.close()
    db = world.restart()
    assert (db.restarted.crashed, db.restarted.records, db.restarted.losers) == (False, 0, 0)
    assert len(world.rows(db.catalog.table("t"))) == 300
    world.check()


def test_a_second_opening_is_refused_while_the_first_is_open() -> None:
    world = EngineWorld()
    world.start()
    other = InlineWorld()
    other.disk = world.disk
    with pytest.raises(Refused, match="locked"):
        other.run(Database.open(other, world.config, Events()))
    world.close()
    world.start()  # the lock is free again


def test_a_refused_opening_lets_go_of_the_lock() -> None:
    world = EngineWorld()
    world.start()
    world.close()
    config, world.config = world.config, replace(world.config, page_size=8192)
    with pytest.raises(Refused, match=r"page_size is 8192, but the database was made with 4096") as caught:
        world.start()
    assert "4KB" in caught.value.hint and caught.value.exit_code == 3
    world.config = config
    world.start()


@pytest.mark.parametrize("empty", [DATA, WAL])
def test_exactly_one_directory_empty_is_refused_and_nothing_is_changed(empty: str) -> None:
    world = EngineWorld()
    world.start()
    world.close()
    world.disk.files = {path: data for path, data in world.disk.files.items() if not path.startswith(empty + "/")}
    before = {path: bytes(data) for path, data in world.disk.files.items()}
    with pytest.raises(Refused, match=f"{empty} is empty, but .* is not"):
        world.start()
    world.disk.files.pop(f"{DATA}/lock")
    before.pop(f"{DATA}/lock", None)
    assert {path: bytes(data) for path, data in world.disk.files.items()} == before


def test_a_directory_with_other_files_is_refused() -> None:
    world = EngineWorld()
    world.run(world.disk.make_dirs(DATA))
    world.disk.files[f"{DATA}/holiday.jpg"] = bytearray(b"x")
    world.run(world.disk.make_dirs(WAL))
    world.disk.files[f"{WAL}/other"] = bytearray(b"x")
    with pytest.raises(Refused, match="no control file"):
        world.start()


def test_a_crash_in_the_middle_of_making_a_database_starts_over() -> None:
    steps = 0
    while True:
        steps += 4
        world = EngineWorld(suspend=True)
        task = world.tasks.spawn(Database.open(world, world.config, Events()))
        turns = 0
        while turns < steps and not task.done():
            world.scheduler.turn()
            turns += 1
        if task.done():
            break
        world.crash(power=bool(steps % 8))
        world.start()
        assert world.db.catalog.tables() == []
        if steps % 40 == 0:
            world.check()
    assert steps > 50


@pytest.mark.parametrize("what", ["another database's log", "somebody's file", "a file beside the pages"])
def test_starting_over_removes_only_what_the_first_start_has_made(what: str) -> None:
    """It removed whatever lay in the wal_dir that the configuration named by then."""
    world = EngineWorld(suspend=True)
    world.tasks.spawn(Database.open(world, world.config, Events()))
    while f"{DATA}/control" not in world.disk.files:
        world.scheduler.turn()
    world.crash(power=False)
    if what == "another database's log":
        world.disk.files[f"{DATA}/initialising"] = bytearray(b"%016x\n" % 7)
    else:
        world.disk.files[f"{WAL if 'some' in what else DATA}/letter.txt"] = bytearray(b"mine")
    before = {path: bytes(data) for path, data in world.disk.files.items()}
    with pytest.raises(Refused, match="was interrupted, and .* is not what it left there"):
        world.start()
    assert {path: bytes(data) for path, data in world.disk.files.items()} == before


def test_both_control_slots_bad_is_corruption_and_one_bad_is_an_event() -> None:
    world = EngineWorld()
    world.start()
    world.insert(world.table(), [1, "x"])
    world.close()
    control = world.disk.files[f"{DATA}/control"]
    good = bytes(control)
    control[100] ^= 1
    world.start()
    assert "control.slot_bad" in world.names()
    assert world.rows(world.db.catalog.table("t")) == [[1, "x"]]
    world.close()
    control[:] = good
    control[100] ^= 1
    control[4096 + 100] ^= 1
    with pytest.raises(Corruption, match="both slots are bad"):
        world.start()


def test_log_missing_after_a_clean_shutdown_is_named() -> None:
    world = EngineWorld()
    world.start()
    world.insert(world.table(), [1, "x"])
    world.close()
    segment = sorted(path for path in world.disk.files if path.startswith(WAL) and not path.endswith(".tmp"))[-1]
    data = world.disk.files[segment]
    end = len(bytes(data).rstrip(b"\0"))
    data[end - 10 : end] = bytes(10)  # the last record, the end of the shutdown's checkpoint
    with pytest.raises(Corruption, match="the checkpoint at .* is not whole in the log"):
        world.start()


def test_begin_is_refused_when_closing_and_for_serializable() -> None:
    world = EngineWorld()
    db = world.start()
    with pytest.raises(SqlError) as caught:
        db.begin("serializable")
    assert caught.value.sqlstate == "0A000"
    world.close()
    world.close()  # twice is once
    with pytest.raises(NodeStopped):
        db.begin()


def test_closing_rolls_back_what_is_open() -> None:
    world = EngineWorld()
    db = world.start()
    table = world.table()
    txn = db.begin()
    world.run(db.insert(txn, table, [1, "uncommitted"]))
    world.close()
    world.start()
    assert world.rows(world.db.catalog.table("t")) == []
    assert world.db.restarted.losers == 0
    world.check()


def test_gauges_follow_the_work() -> None:
    world = EngineWorld()
    db = world.start()
    before = db.gauges()
    world.insert(world.table(), [1, "x"])
    after = db.gauges()
    assert after["transactions_committed_total"] == before["transactions_committed_total"] + 2
    assert after["wal_flushed_lsn"] > before["wal_flushed_lsn"]
    assert after["transactions_active"] == 0 and after["locks_held"] == 0
    assert after["pool_dirty_pages"] > 0

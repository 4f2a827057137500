"""Copies made by hand: a checkpoint with a hold, files copied one by one while work goes on, and a restart from the copy."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.engine.world import DATA, SECOND_NS, WAL, EngineWorld, PowerDisk
from thunderdb.base.errors import Corruption, LimitExceeded, Refused

HOUR = 3600 * SECOND_NS
WIDE = "x" * 900


def fill(world: EngineWorld, table: Any, start: int, count: int) -> None:
    world.insert(table, *([number, WIDE] for number in range(start, start + count)))


def removed(world: EngineWorld) -> int:
    return world.names().count("wal.segment_removed")


def test_a_hold_keeps_all_log_and_its_end_lets_it_go() -> None:
    world = EngineWorld()
    db = world.start()
    table = world.table()
    before = world.clock.wall_ns()
    done = world.run(db.checkpoint(hold_ns=60 * SECOND_NS))
    assert done.hold_until_ns >= before + 60 * SECOND_NS and done.redo_lsn <= done.checkpoint_lsn
    for number in range(3):
        fill(world, table, number * 700, 700)
        world.run(db.checkpoint())
    assert removed(world) == 0 and len(db.control.state.copy_floors) == 1
    world.rest(61)
    for number in range(3, 5):
        fill(world, table, number * 700, 700)
        world.run(db.checkpoint())
    assert removed(world) > 0 and db.control.state.copy_floors == ()


def test_a_crash_after_a_hold_has_ended_does_not_ask_for_log_that_is_gone() -> None:
    world = EngineWorld()
    db = world.start()
    table = world.table()
    world.run(db.checkpoint(hold_ns=SECOND_NS))
    world.rest(3)
    for number in range(4):
        fill(world, table, number * 700, 700)
        world.run(db.checkpoint())
    assert removed(world) > 0
    db = world.restart()
    assert len(world.rows(db.catalog.table("t"))) == 2800  # type: ignore[arg-type]
    world.check()


def test_a_hold_that_ends_while_a_checkpoint_runs_keeps_its_log_until_the_next() -> None:
    world = EngineWorld()
    db = world.start()
    table = world.table()
    fill(world, table, 0, 1200)
    world.run(db.checkpoint())
    world.run(db.checkpoint(hold_ns=5 * SECOND_NS))
    fill(world, table, 2000, 1200)
    world.run(db.checkpoint())
    world.rest(6)
    count = removed(world)
    world.run(db.checkpointer.remove_log())
    assert removed(world) == count and len(db.control.state.copy_floors) == 1
    world.run(db.checkpoint())
    world.run(db.checkpointer.remove_log())
    assert db.control.state.copy_floors == ()


def test_only_so_many_copies_at_a_time() -> None:
    world = EngineWorld()
    db = world.start()
    for _ in range(8):
        world.run(db.checkpoint(hold_ns=HOUR))
    with pytest.raises(LimitExceeded, match="already 8 copies"):
        world.run(db.checkpoint(hold_ns=HOUR))
    world.run(db.checkpoint())
    db = world.restart()
    assert len(db.control.state.copy_floors) == 8


def copy_by_hand(world: EngineWorld, table: Any, order: tuple[str, str], work: bool = True) -> EngineWorld:
    """Copy file by file, in pieces, with work and checkpoints in between; return a world that has only the copy."""
    copy = EngineWorld(suspend=world.suspend)
    copy.disk = PowerDisk(copy.scheduler if copy.suspend else None)
    copy.clock.wall_offset_ns += world.scheduler.now_ns
    copy.disk.dirs = dict(world.disk.dirs)
    number = 0
    for directory in order:
        for path in sorted(path for path in world.disk.files if path.startswith(directory + "/")):
            piece = 1 << 20
            target = copy.disk.files[path] = bytearray()
            at = 0
            while path in world.disk.files and at < len(world.disk.files[path]):
                target += world.disk.files[path][at : at + piece]
                at += piece
                if work:
                    number += 1
                    world.insert(table, [100_000 + number, WIDE])
                    world.update(table, [number % 500, f"while copying {number}"])
                    if number % 3 == 0:
                        world.run(world.db.checkpoint())
                        world.run(world.db.pool.clean(world.db.log.next_lsn, 10))
    return copy


@pytest.mark.parametrize("suspend", [False, True])
def test_a_copy_of_data_and_then_log_under_load_restores(suspend: bool) -> None:
    world = EngineWorld(buffer_pool_size=2 << 20, suspend=suspend)
    db = world.start()
    table = world.table()
    fill(world, table, 0, 1500)
    world.run(db.checkpoint(hold_ns=HOUR))
    acknowledged = world.rows(table)
    copy = copy_by_hand(world, table, (DATA, WAL))
    latest = world.rows(table)
    opened = copy.start()
    got = copy.rows(opened.catalog.table("t"))  # type: ignore[arg-type]
    assert {row[0] for row in acknowledged} <= {row[0] for row in got} <= {row[0] for row in latest}
    assert "recovery.redo" in copy.names()
    copy.check()
    copy.insert(opened.catalog.table("t"), [999_999, "on its own"])  # type: ignore[arg-type]
    copy.restart()
    copy.check()


def test_a_copy_of_page_files_that_grew_afterwards_restores() -> None:
    world = EngineWorld(buffer_pool_size=2 << 20)
    db = world.start()
    table = world.table()
    fill(world, table, 0, 20)
    world.run(db.checkpoint(hold_ns=HOUR))
    pages = bytes(world.disk.files[f"{DATA}/pages.000000"])
    fill(world, table, 20, 3000)
    world.run(db.log.flush_all())
    copy = copy_by_hand(world, table, (DATA, WAL), work=False)
    assert len(pages) < len(copy.disk.files[f"{DATA}/pages.000000"])
    copy.disk.files[f"{DATA}/pages.000000"] = bytearray(pages)  # rsync takes the size that it had found
    opened = copy.start()
    assert len(copy.rows(opened.catalog.table("t"))) == 3020  # type: ignore[arg-type]
    copy.run(opened.checkpointer.run(flush_all=True))
    copy.check()


def test_a_copy_of_log_before_data_is_refused_by_name() -> None:
    world = EngineWorld(buffer_pool_size=2 << 20)
    db = world.start()
    table = world.table()
    fill(world, table, 0, 1500)
    world.run(db.checkpoint(hold_ns=HOUR))
    copy = copy_by_hand(world, table, (WAL, DATA))
    with pytest.raises((Refused, Corruption)) as caught:
        copy.start()
    assert "log" in str(caught.value)


def test_a_quiet_copy_with_later_segments_sets_aside_what_lies_behind_a_break() -> None:
    world = EngineWorld(buffer_pool_size=32 << 20)
    db = world.start()
    table = world.table()
    world.run(db.checkpoint(hold_ns=HOUR))
    fill(world, table, 0, 2500)
    world.run(db.log.flush_all())
    copy = copy_by_hand(world, table, (DATA, WAL), work=False)
    segments = sorted(path for path in copy.disk.files if path.startswith(WAL) and not path.endswith(".tmp"))
    assert len(segments) >= 3
    copy.disk.files[segments[1]][600_000:] = bytes(len(copy.disk.files[segments[1]]) - 600_000)  # copied half
    opened = copy.start()
    got = copy.rows(opened.catalog.table("t"))  # type: ignore[arg-type]
    assert got == []  # one transaction, whose commit lies behind the break
    assert any(path.endswith(".aside") for path in copy.disk.files)
    copy.check()


def test_a_floor_survives_a_clean_shutdown_within_its_term_and_goes_after_it() -> None:
    world = EngineWorld()
    db = world.start()
    world.run(db.checkpoint(hold_ns=HOUR))
    world.close()
    db = world.restart()
    assert len(db.control.state.copy_floors) == 1 and not db.restarted.crashed
    world.clock.wall_offset_ns += 2 * HOUR
    world.close()
    db = world.restart()
    assert db.control.state.copy_floors == ()
    world.check()

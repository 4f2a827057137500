"""Point-in-time recovery in memory: the restored rows are those of the moment that was asked for."""

from __future__ import annotations

import pytest

from tests.unit.backup.restoring import RestoreWorld
from thunderdb.base.errors import Refused


def test_restore_to_times_and_lsns() -> None:
    world = RestoreWorld()
    world.commit(3)
    world.backup("/b/full")
    early = world.commit(4)
    world.switch()
    late = world.commit(4)
    world.ship()
    for mark in (early, late):
        for target in (mark.time, mark.at_lsn):
            report, config = world.restore(target, "/b/full")
            assert world.keys_in(config) == mark.keys
            assert report.problems == ()
    _, config = world.restore("latest", "/b")
    assert world.keys_in(config) == late.keys


def test_a_time_before_the_end_of_the_backup_is_refused() -> None:
    world = RestoreWorld()
    before = world.commit(2)
    world.commit(1)
    world.backup("/b/full")
    world.commit(2)
    world.ship()
    files = world.snapshot()
    with pytest.raises(Refused, match="before the end of the backup: the oldest that it can be restored to is 2026"):
        world.restore(before.time, "/b/full")
    assert world.snapshot() == files


def test_a_missing_segment_is_named_and_nothing_is_touched() -> None:
    world = RestoreWorld()
    world.backup("/b/full")
    for _ in range(4):
        mark = world.commit(2)
        world.switch()
    world.ship()
    del world.disk.files["/archive/000000010000000000000003"]
    files = world.snapshot()
    with pytest.raises(Refused, match="segment 000000010000000000000003 is missing"):
        world.restore(mark.time, "/b/full")
    assert world.snapshot() == files


def test_a_time_before_the_backups_own_log_is_refused() -> None:
    world = RestoreWorld()
    before = world.commit(2)
    world.commit(1)
    world.switch()
    world.run(world.db.checkpointer.run(flush_all=True))
    world.run(world.db.checkpointer.run(flush_all=True))
    world.backup("/b/full")  # its log begins at its checkpoint, behind all commits
    world.commit(2)
    world.ship()
    with pytest.raises(Refused, match="before the end of the backup"):
        world.restore(before.time, "/b/full")


def test_before_means_the_latest_of_several_in_whatever_segment() -> None:
    world = RestoreWorld()
    world.backup("/b/full")
    for _ in range(3):
        mark = world.commit(2)
        world.run(truncate(world))
        world.commit(1)
        world.switch()
    world.ship()
    _report, config = world.restore("before:truncate:t", "/b/full")
    assert world.keys_in(config) == mark.keys[1:]


async def truncate(world: RestoreWorld) -> None:
    txn = world.db.begin()
    await world.db.ddl.truncate(txn, [world.t])
    await txn.commit()
    table = world.db.catalog.table("t")
    if table is not None:
        world.t = table
    world.keys = [world.keys[-1]]  # the next key follows it; it is not there


def test_in_a_folder_the_newest_timeline_is_followed_not_the_newest_backup() -> None:
    world = RestoreWorld()
    world.commit(2)
    world.backup("/b/shared")
    back_to = world.commit(2)
    world.commit(3)
    world.backup("/b/given_up")
    world.commit(1)
    world.ship()
    report, config = world.restore(back_to.time, "/b/shared")
    world.run(world.db.close())
    world.go_on(config, back_to)
    latest = world.commit(2)
    world.ship()
    assert report.timeline == 2
    _report, config = world.restore("latest", "/b")
    assert world.keys_in(config) == latest.keys
    plan = world.plan("latest", "/b", timeline="2")
    assert plan.backup.place == "/b/shared" and plan.line.timeline == 2
    plan = world.plan("latest", "/b", timeline="1")
    assert plan.backup.place == "/b/given_up" and plan.line.timeline == 1


def test_a_partial_segment_whose_bytes_were_lost_is_the_end_of_the_log() -> None:
    world = RestoreWorld()
    world.backup("/b/full")
    mark = world.commit(2)
    world.switch()
    world.run(world.db.checkpoint())
    world.ship()
    partial = next(path for path in world.disk.files if path.endswith(".partial"))
    for lost in (b"", bytes(4096)):
        world.disk.files[partial] = bytearray(lost)  # its name was durable before its bytes
        complete = next(path for path in world.disk.files if "/complete." in path)
        world.disk.files.pop(complete)
        _report, config = world.restore("latest", "/b/full")
        assert world.keys_in(config) == mark.keys
        world.disk.files[complete] = bytearray(b"not readable")

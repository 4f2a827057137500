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

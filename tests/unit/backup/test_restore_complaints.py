"""What users of other tools suffer from when they restore, each as a test of ours."""

from __future__ import annotations

import pytest

from tests.unit.backup.restoring import ARCHIVE, RestoreWorld
from thunderdb.archive.cipher import AesGcmCipher
from thunderdb.archive.codec import Codec
from thunderdb.backup.manifest import parse_manifest
from thunderdb.base.errors import ConfigError, Refused
from thunderdb.recovery.target import format_time, parse_target


def refused(world: RestoreWorld, target: str, match: str, **more: str) -> Refused:
    """Refused when it is planned, and nothing anywhere has changed."""
    files, folders = world.snapshot(), dict(world.disk.dirs)
    with pytest.raises(Refused, match=match) as caught:
        world.plan(target, "/b/full", **more)  # type: ignore[arg-type]
    assert world.snapshot() == files and world.disk.dirs == folders
    assert caught.value.hint
    return caught.value


def test_a_backup_that_says_finished_never_asks_for_log_that_never_existed() -> None:
    """Alone, without any archive, and with all log after it gone."""
    world = RestoreWorld()
    world.commit(3)
    for compress in (False, True):
        place = f"/b/{compress}"
        manifest = world.backup(place, compress=compress)
        assert parse_manifest(bytes(world.disk.files[f"{place}/backup_manifest.json"])) == manifest
        _report, config = world.restore("latest", place, archive=None)
        assert world.keys_in(config) == tuple(world.keys)
        world.commit(2)


def test_a_target_time_without_a_zone_never_restores_the_wrong_moment() -> None:
    with pytest.raises(ConfigError, match="has no time zone") as caught:
        parse_target("2026-01-15 14:30:00")
    assert caught.value.hint.startswith("Append Z if it is UTC (2026-01-15T14:30:00Z)")


def test_a_target_before_the_end_of_the_backup_fails_when_it_is_planned() -> None:
    world = RestoreWorld()
    mark = world.commit(2)
    world.commit(2)
    world.backup("/b/full")
    newest = world.commit(1)
    world.ship()
    error = refused(world, mark.time, "before the end of the backup")
    assert format_time(world.marks[-2].time_us) in error.message  # the oldest possible
    refused(world, mark.at_lsn, "before the end of the backup")
    assert world.plan(newest.time, "/b/full").stop.kept.last_us == newest.time_us


def test_recovery_never_ends_before_the_target_was_reached() -> None:
    """Not after hours: before it begins, with the newest time that can be had."""
    world = RestoreWorld()
    world.backup("/b/full")
    newest = world.commit(2)
    world.ship()
    vouched = world.clock.wall_ns() // 1000
    world.rest(500)
    error = refused(world, format_time(vouched + 1), "the newest time that can be restored is")
    assert format_time(vouched) in error.message
    _report, config = world.restore(format_time(vouched), "/b/full")
    assert world.keys_in(config) == newest.keys


def test_a_quiet_hour_is_a_valid_target() -> None:
    world = RestoreWorld()
    world.backup("/b/full")
    mark = world.commit(2)
    world.rest(500)
    world.ship()
    _report, config = world.restore(format_time(mark.time_us + 250_000_000), "/b/full")
    assert world.keys_in(config) == mark.keys


def test_the_partial_last_segment_is_not_skipped() -> None:
    world = RestoreWorld()
    world.backup("/b/full")
    world.commit(2)
    world.switch()
    newest = world.commit(1)
    world.ship()
    partial = [path for path in world.disk.files if path.endswith(".partial")]
    assert len(partial) == 1
    _report, config = world.restore(newest.time, "/b/full")
    assert world.keys_in(config) == newest.keys
    del world.disk.files[partial[0]][-40:]  # torn where it was being appended: the note is newer, so log is missing
    refused(world, "latest", "breaks off at")
    refused(world, newest.time, "breaks off at|newest time that can be restored")


def test_the_newest_segment_is_missed_though_nothing_follows_it() -> None:
    world = RestoreWorld()
    world.backup("/b/full")
    world.commit(2)
    world.switch()
    world.commit(2)
    world.ship()
    del world.disk.files[f"{ARCHIVE}/000000010000000000000002.partial"]
    refused(world, "latest", "000000010000000000000002 is missing, though the archive says that it is complete up to")


def test_there_is_a_plan_and_a_preview() -> None:
    world = RestoreWorld()
    world.backup("/b/full")
    first = world.commit(1)
    kept = world.commit(2)
    lost = world.commit(3)
    world.ship()
    files, folders = world.snapshot(), dict(world.disk.dirs)
    plan = world.plan(kept.time, "/b/full", dry_run=True)
    assert (plan.stop.kept.count, plan.stop.kept.first_us, plan.stop.kept.last_us) == (3, first.time_us, kept.time_us)
    assert (plan.stop.given_up.count, plan.stop.given_up.last_us) == (3, lost.time_us)
    assert plan.estimated_s > 0 and plan.segments
    assert world.snapshot() == files and world.disk.dirs == folders


def test_an_encrypted_backup_and_archive_with_the_key_another_key_and_none() -> None:
    world = RestoreWorld()
    cipher, other = (AesGcmCipher(key, world.random.bits) for key in (bytes(range(32)), bytes(32)))
    world.backup("/b/full", cipher=cipher, compress=True)
    mark = world.commit(2)
    world.switch()
    world.commit(1)
    world.ship()
    for path in [path for path in world.disk.files if path.startswith(f"{ARCHIVE}/0") and not path.endswith(".history")]:
        name = path.rpartition("/")[2]
        codec = Codec(True, cipher)
        world.disk.files[f"{ARCHIVE}/{codec.key(name)}"] = bytearray(codec.encode(bytes(world.disk.files.pop(path)), name))
    _report, config = world.restore(mark.time, "/b/full", cipher=cipher)
    assert world.keys_in(config) == mark.keys
    refused(world, mark.time, "is encrypted")
    refused(world, mark.time, "key", cipher=other)  # type: ignore[arg-type]

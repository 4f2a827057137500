"""Restores from restored databases, across timelines, and what is ambiguous between them."""

from __future__ import annotations

import pytest

from tests.unit.backup.restoring import ARCHIVE, Mark, RestoreWorld
from thunderdb.base.config import Config
from thunderdb.base.errors import Refused
from thunderdb.recovery.target import format_time
from thunderdb.wal.timeline import parse_history


def moved_on(world: RestoreWorld, mark: Mark, wait_s: float = 60) -> Config:
    """Restore to a moment, as if a minute later, and let the history go on there."""
    world.close()
    world.rest(wait_s)
    _report, config = world.restore(mark.time, "/b/full", timeline="")
    world.go_on(config, mark)
    return config


def three_timelines() -> tuple[RestoreWorld, dict[str, Mark]]:
    """1: kept | lost   2: (a minute later) second | lost2   3: third"""
    world, marks = RestoreWorld(), {}
    world.commit(2)
    world.backup("/b/full")
    marks["kept"] = world.commit(3)
    world.switch()
    marks["lost"] = world.commit(3)
    world.ship()
    moved_on(world, marks["kept"])
    marks["second"] = world.commit(3)
    world.switch()
    marks["lost2"] = world.commit(3)
    world.ship(owner="b" * 32)
    moved_on(world, marks["second"])
    marks["third"] = world.commit(3)
    world.ship(owner="c" * 32)
    return world, marks


def test_second_and_third_restore_from_recovered_databases() -> None:
    world, marks = three_timelines()
    assert world.db.log.timeline == 3
    for name in ("kept", "second", "third"):
        report, config = world.restore(marks[name].time, "/b/full")
        assert world.keys_in(config) == marks[name].keys, name
        assert report.timeline > 3
    _report, config = world.restore("latest", "/b/full")
    assert world.keys_in(config) == marks["third"].keys


def test_history_of_the_third_timeline() -> None:
    world, marks = three_timelines()
    text = bytes(world.disk.files[f"{world.config.wal_dir}/00000003.history"]).decode()
    *forks, seal = text.splitlines()
    assert [line.split("\t")[0] for line in forks] == ["1", "2"] and seal.startswith("# checksum ")
    claim = bytes(world.disk.files[f"{ARCHIVE}/00000003.history"]).decode()
    assert "\n".join(forks) in claim and parse_history(claim, 3) == parse_history(text, 3)


def test_an_abandoned_stretch_needs_its_timeline() -> None:
    world, marks = three_timelines()
    for name, timeline in (("lost", "1"), ("lost2", "2")):
        for target in (marks[name].time, marks[name].at_lsn):
            with pytest.raises(Refused, match="two timelines") as caught:
                world.plan(target, "/b/full")
            assert f"{timeline}" in caught.value.hint
            _report, config = world.restore(target, "/b/full", timeline=timeline)
            assert world.keys_in(config) == marks[name].keys


def test_current_stays_on_the_backups_timeline() -> None:
    world, marks = three_timelines()
    _report, config = world.restore("latest", "/b/full", timeline="current")
    assert world.keys_in(config) == marks["lost"].keys
    with pytest.raises(Refused, match="timeline 9 is not known; there are 1, 2, 3"):
        world.plan("latest", "/b/full", timeline="9")


def test_a_backup_of_the_second_timeline() -> None:
    world, marks = RestoreWorld(), []
    world.backup("/b/full")
    marks.append(world.commit(3))
    world.ship()
    moved_on(world, marks[0])
    world.commit(2)
    world.backup("/b/second")
    marks.append(world.commit(2))
    world.ship(owner="b" * 32)
    world.close()
    for folder in ("/b/second", "/b"):
        _report, config = world.restore("latest", folder)
        assert world.keys_in(config) == marks[1].keys
    with pytest.raises(Refused, match="left timeline 2|before the end of the backup|is not known"):
        world.plan("latest", "/b/second", timeline="1")


def test_a_time_after_the_restore_is_not_ambiguous() -> None:
    """The stretch that was left behind was committed to before; but it had come to its end."""
    world = RestoreWorld()
    world.backup("/b/full")
    kept = world.commit(2)
    world.commit(2)
    world.ship()
    moved_on(world, kept)
    world.rest(100)
    world.ship(owner="b" * 32)  # nothing was committed since; the note says up to when
    later = format_time(world.clock.wall_ns() // 1000 - 1_000_000)
    _report, config = world.restore(later, "/b/full")
    assert world.keys_in(config) == kept.keys


def test_a_drill_that_archives_does_not_hide_production() -> None:
    """Both wrote into one archive at the same time: `latest` means neither of them by itself."""
    world = RestoreWorld()
    world.backup("/b/full")
    mark = world.commit(2)
    world.ship()
    production = world.db, world.config, list(world.keys), world.t
    _report, config = world.restore("latest", "/b/full")
    world.go_on(config, mark)
    world.commit(1)
    world.ship(owner="b" * 32)
    world.close()
    world.db, world.config, world.keys, world.t = production
    world.fork_number = 0
    last = world.commit(3)
    world.ship()
    with pytest.raises(Refused, match="latest is on two timelines"):
        world.plan("latest", "/b/full")
    _report, config = world.restore("latest", "/b/full", timeline="1")
    assert world.keys_in(config) == last.keys


def test_a_drill_without_archive_claims_nothing() -> None:
    world = RestoreWorld()
    world.backup("/b/full")
    mark = world.commit(2)
    world.ship()
    before = {path for path in world.disk.files if path.startswith(ARCHIVE)}
    report, config = world.restore("latest", "/b/full", no_archive=True)
    assert {path for path in world.disk.files if path.startswith(ARCHIVE)} == before
    assert report.timeline == 2 and world.keys_in(config) == mark.keys
    assert b'"no_archive": true' in world.disk.files[f"{config.data_dir}/identity"]


def test_timeline_numbers_are_never_used_twice() -> None:
    world = RestoreWorld()
    world.backup("/b/full")
    world.commit(2)
    world.ship()
    timelines = [world.restore("latest", "/b/full")[0].timeline for _ in range(3)]
    assert timelines == [2, 3, 4]

"""The archive of a database that was recovered from it, and recovered again: timelines, their owners, their logs."""

from __future__ import annotations

from typing import Any

from tests.unit.backup.restoring import ARCHIVE, RestoreWorld
from thunderdb.archive.archiver import Archiver
from thunderdb.archive.directory import DirectoryStore
from thunderdb.archive.index import ArchiveIndex, read_index
from thunderdb.base.config import Config
from thunderdb.base.events import Events
from thunderdb.engine.database import Database
from thunderdb.wal.segment import segment_name


class Recovered(RestoreWorld):
    """A RestoreWorld whose archiver is the real one."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"wal_archive_dir": ARCHIVE, "wal_archive_lag": 200, **settings})
        self.archiver = self.begin(self.db)

    def begin(self, db: Database) -> Archiver:
        archiver = self.run(Archiver.open(db, db.config, self, db.events))
        assert archiver is not None
        return archiver

    def stop(self) -> None:
        self.run(self.archiver.stop())
        self.run(self.db.close())

    def go_on_in(self, config: Config) -> None:
        """The restored database goes into service, and archives."""
        self.config = config
        self.db = self.run(Database.open(self, config, Events()))
        table = self.db.catalog.table("t")
        assert table is not None
        self.t = table
        self.archiver = self.begin(self.db)
        self.rest(2)

    def index(self) -> ArchiveIndex:
        return self.run(read_index(DirectoryStore(self.disk, ARCHIVE)))


def test_a_second_and_a_third_recovery_go_on_from_what_the_recovered_ones_archived() -> None:
    """Complaint: the second PITR fails because of timelines."""
    world = Recovered()
    world.backup("/b/full")
    world.commit(3)
    world.run(world.archiver.switch())
    world.commit(2)
    world.stop()
    for timeline in (2, 3, 4):
        expected = tuple(world.keys)
        _report, config = world.restore("latest", "/b/full")
        world.go_on_in(config)
        status = world.archiver.status()
        assert world.db.log.timeline == timeline
        assert not status.refused and not status.failing, status.last_error
        assert world.index().histories[timeline].owner == world.archiver.identity.instance
        assert [fork.timeline for fork in world.index().histories[timeline].forks] == list(range(1, timeline))
        assert tuple(world.keys) == expected
        world.commit(2)
        world.run(world.archiver.switch())
        world.commit(1)
        world.rest(2)
        assert world.index().gaps() == []
        assert world.archiver.status().lag_bytes == 0
        world.stop()
    _report, config = world.restore("latest", "/b/full")
    assert world.keys_in(config) == tuple(world.keys)


def test_the_lost_primary_comes_back_and_stays_on_its_own_timeline() -> None:
    world = Recovered()
    world.backup("/b/full")
    world.commit(3)
    world.rest(2)
    lost, lost_db, lost_config = world.archiver, world.db, world.config
    _report, config = world.restore("latest", "/b/full")
    world.go_on_in(config)
    world.commit(2)
    world.run(world.archiver.switch())
    before = {path: bytes(data) for path, data in world.disk.files.items() if path.startswith(f"{ARCHIVE}/00000002")}
    world.run(lost_db.checkpoint())
    world.run(lost.switch())  # it was only unreachable
    assert not lost.status().failing and not world.archiver.status().failing
    after = {path: bytes(data) for path, data in world.disk.files.items() if path.startswith(f"{ARCHIVE}/00000002")}
    assert {path: after[path] for path in before} == before
    assert lost_config.data_dir != config.data_dir
    assert lost.identity.instance != world.archiver.identity.instance
    world.stop()


def segments_of(world: Recovered, timeline: int) -> list[int]:
    return world.index().numbers(timeline, partial=False)


def recovered(segments: int = 3, **settings: Any) -> Recovered:
    """A backup, so many closed segments in the archive after it, and a recovery to their end that is in service now."""
    world = Recovered(**settings)
    world.backup("/b/full")
    for _ in range(segments):
        world.commit(1)
        world.run(world.archiver.switch())
    world.stop()
    return world


def test_a_new_timeline_does_not_ship_again_what_its_ancestor_has_in_the_archive() -> None:
    world = recovered()
    newest = max(segments_of(world, 1))
    for timeline in (2, 3):
        _report, config = world.restore("latest", "/b/full")
        world.go_on_in(config)
        assert world.db.log.segments[0][0] < newest, "the restored log has no segment of before the fork"
        assert world.archiver.archived_lsn == world.db.log.flushed_lsn  # all of it counts as archived
        assert segments_of(world, timeline) == []
        world.commit(1)
        world.run(world.archiver.switch())
        world.rest(2)
        assert segments_of(world, timeline) == [newest + 1]
        assert world.archiver.status().gaps == () and world.index().gaps() == []
        world.stop()
        newest += 1
    _report, config = world.restore("latest", "/b/full")
    assert world.keys_in(config) == tuple(world.keys)


def test_what_the_ancestor_lacks_or_has_otherwise_is_shipped_by_the_new_timeline() -> None:
    """Never at the price of a gap: one segment is gone from the archive, another one is damaged there."""
    world = recovered(4)
    _report, config = world.restore("latest", "/b/full")
    here = segments_of(world, 1)
    gone, damaged = segment_name(1, here[-1]), segment_name(1, here[-2])
    world.disk.files.pop(f"{ARCHIVE}/{gone}")
    world.disk.files[f"{ARCHIVE}/{damaged}"][-1] ^= 1
    world.go_on_in(config)
    assert segments_of(world, 2) == here[-2:]
    assert not world.archiver.status().failing
    world.commit(1)
    world.stop()
    _report, config = world.restore("latest", "/b/full")
    assert world.keys_in(config) == tuple(world.keys)

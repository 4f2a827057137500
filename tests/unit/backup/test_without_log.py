"""Backups without log of their own: they end when the archive has the log that they need."""

from __future__ import annotations

import pytest

from tests.unit.archive.world import ArchiveWorld
from thunderdb.archive.index import read_index
from thunderdb.backup.manifest import Manifest
from thunderdb.backup.take import BackupCancelled, BackupRequest, Progress, take_backup
from thunderdb.backup.verify import verify_backup
from thunderdb.runtime.sync import Task


def begin(world: ArchiveWorld, progress: Progress) -> Task[Manifest]:
    request = BackupRequest("/b/one", include_wal=False)
    backup = take_backup(
        world.db, world, request, backup_id="bk-20260101-000000", archiver=world.archiver, progress=progress
    )  # fmt: skip
    return world.spawn(backup)


def test_it_is_complete_when_the_archive_has_its_log() -> None:
    world = ArchiveWorld()
    world.start()
    table = world.table()
    world.insert(table, *([number, "x" * 300] for number in range(300)))
    task = begin(world, Progress())
    while not task.done():
        world.rest(0.1)
    manifest = task.result()
    assert not manifest.include_wal and not manifest.in_folder("wal")
    assert world.run(verify_backup(world, "/b/one")).passed
    index = world.run(read_index(world.store))
    numbers = sorted(number for (_timeline, number), entry in index.segments.items() if not entry.partial)
    segments = dict(world.db.log.segments)
    assert all(number in numbers for number, start in segments.items() if start < manifest.end_lsn) and not index.gaps()


def test_it_waits_for_an_archive_that_is_slow_and_can_be_cancelled_meanwhile() -> None:
    world = ArchiveWorld()
    world.start()
    world.insert(world.table(), [1, "one"])

    class Stuck:
        async def switch(self) -> int:
            return 0

        async def wait_archived(self, lsn: int) -> None:
            await world.tasks.future()

    world.archiver, archiver = Stuck(), world.archiver  # type: ignore[assignment]
    progress = Progress()
    task = begin(world, progress)
    world.rest(30)
    assert not task.done() and progress.phase == "archive" and world.db.checkpointer.holds["backup:bk-20260101-000000"]
    progress.cancel()
    world.rest(1)
    with pytest.raises(BackupCancelled):
        task.result()
    assert not [path for path in world.disk.files if path.startswith("/b/")]
    world.archiver = archiver

"""Taking backups of a small database, and starting from a copy of them."""

from __future__ import annotations

import pytest

from tests.unit.backup.helpers import WIDE, BackupWorld
from thunderdb.backup.take import BackupCancelled, Progress
from thunderdb.base.errors import Corruption, DiskFull, Refused


def test_a_full_backup_verifies_and_a_copy_of_it_has_every_row() -> None:
    world = BackupWorld()
    manifest = world.backup("/b/full")
    report = world.verify("/b/full")
    assert report.passed and report.manifest == manifest and report.end_lsn == manifest.end_lsn
    assert report.data_pages == manifest.page_count == world.db.files.page_count
    assert world.restored_rows("/b/full") == world.rows(world.t)
    assert not world.db.checkpointer.holds


def test_compressed_it_is_smaller_and_verifies() -> None:
    world = BackupWorld()
    plain, packed = world.backup("/b/plain"), world.backup("/b/packed", compress=True)
    assert packed.size_bytes < plain.size_bytes // 4 and packed.compressed
    assert world.verify("/b/packed").passed
    assert all(entry.path.endswith(".zst") for entry in packed.in_folder("wal"))


def test_a_destination_below_a_file_is_refused() -> None:
    world = BackupWorld(rows=10)
    world.disk.files["/taken"] = bytearray(b"a file")
    with pytest.raises(Refused, match="/taken/full lies below something that is no directory"):
        world.backup("/taken/full")


def test_nothing_is_written_over() -> None:
    world = BackupWorld(rows=10)
    world.backup("/b/full")
    before = {path: bytes(world.disk.files[path]) for path in world.files_of("/b")}
    with pytest.raises(Refused, match="/b/full exists"):
        world.backup("/b/full")
    world.disk.dirs["/b/other.partial"] = None
    with pytest.raises(Refused, match=r"/b/other\.partial exists"):
        world.backup("/b/other")
    assert {path: bytes(world.disk.files[path]) for path in world.files_of("/b")} == before


@pytest.mark.parametrize("place", ["relative", "/", "/b/../d/data", ""])
def test_a_destination_that_is_no_absolute_path_is_refused(place: str) -> None:
    with pytest.raises(Refused, match="absolute path"):
        BackupWorld(rows=1).backup(place)


@pytest.mark.parametrize("place", ["/b/full/sub", "/b/full/data/sub/sub", "/b/other.partial/sub"])
def test_no_backup_lies_in_another_one(place: str) -> None:
    """When retention, or somebody, removed the outer one, the inner one was gone, too: it had said completed."""
    world = BackupWorld(rows=20)
    world.backup("/b/full")
    world.disk.dirs["/b/other.partial"] = None
    world.disk.files["/b/other.partial/backup_running"] = bytearray(b"bk-20260101-000009")
    before = sorted(world.disk.files)
    with pytest.raises(Refused, match=r"lies in /b/(full|other\.partial), which is a backup"):
        world.backup(place)
    assert sorted(world.disk.files) == before and world.verify("/b/full").passed


def test_without_log_it_needs_the_archive() -> None:
    with pytest.raises(Refused, match="include_wal"):
        BackupWorld(rows=1).backup("/b/full", include_wal=False)


def test_a_cancelled_one_leaves_nothing() -> None:
    world = BackupWorld()
    progress = Progress()
    progress.cancel()
    with pytest.raises(BackupCancelled):
        world.backup("/b/full", progress)
    assert world.files_of("/b") == [] and "/b/full.partial" not in world.disk.dirs and not world.db.checkpointer.holds


def test_a_full_disk_fails_it_and_harms_nobody() -> None:
    world = BackupWorld()
    world.disk.capacity_bytes = sum(map(len, world.disk.files.values())) + (400 << 10)
    with pytest.raises(DiskFull):
        world.backup("/b/full", compress=False)
    with pytest.raises(DiskFull):
        world.disk.free_bytes = _plenty  # type: ignore[method-assign]
        world.backup("/b/full")
    assert world.files_of("/b") == [] and "/b/full.partial" not in world.disk.dirs
    world.disk.capacity_bytes = None
    world.insert(world.t, [100_000, WIDE])
    world.check()


async def _plenty(path: str) -> int:
    return 1 << 50


def test_rot_is_repaired_from_the_log_and_written_back() -> None:
    world = BackupWorld()
    world.rest()
    for page in world.db.pool.resident_pages():
        world.run(world.db.pool.write_back(page))
    leaf = next(page.page_no for page in world.db.pool.resident_pages() if page.page_no > 3)
    world.damage(leaf, b"rot", 500)
    world.backup("/b/full")
    assert world.verify("/b/full").passed and "backup.page_repaired" in world.names()
    assert world.restored_rows("/b/full") == world.rows(world.t)


def test_rot_that_cannot_be_repaired_fails_it_by_name() -> None:
    world = BackupWorld()
    world.close()
    world.disk.files["/d/data/written.0"] = bytearray()
    world.disk.files["/d/data/written.1"] = bytearray()
    world.start()
    rotten = next(no for no in range(4, 60) if any(world.page_bytes(no)) and not world.db.pool.resident(no))
    world.damage(rotten, b"rot", 500)
    with pytest.raises(Corruption, match=rf"page {rotten} in /d/data/pages\.000000 is damaged"):
        world.backup("/b/full")
    assert world.files_of("/b") == []


@pytest.mark.parametrize("destination", ["/elsewhere/incr", "/b/deeper/incr"])
def test_an_incremental_that_a_restore_would_not_find_the_base_of_is_refused(destination: str) -> None:
    world = BackupWorld()
    base = world.backup("/b/full")
    with pytest.raises(Refused, match="is in /b, not in"):
        world.backup(destination, type="incremental", base="/b/full", known=frozenset({base.checksum}))
    assert world.files_of("/elsewhere") == [] and world.verify("/b/full").passed


def test_a_damaged_timeline_history_is_named() -> None:
    """It ended in a UnicodeDecodeError (generated incident 107616)."""
    world = BackupWorld(rows=10)
    world.disk.files["/d/wal/00000001.history"] = bytearray(b"1\t0/1000\xa0\tsaid\n")
    with pytest.raises(Corruption, match=r"00000001\.history, line 1"):
        world.backup("/b/full")
    assert world.files_of("/b") == []

"""Where backups and log may come from: chains, folders, stores, commands, compressed, with or without log."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.backup.restoring import ARCHIVE, RestoreWorld
from tests.unit.backup.test_restore_destination import hand_copy
from thunderdb.archive.codec import Codec
from thunderdb.backup.manifest import encode_manifest, parse_manifest
from thunderdb.base.errors import Corruption, Refused, StorageError
from thunderdb.base.events import Events
from thunderdb.engine.database import Database


def flipped(world: RestoreWorld, path: str, offset: int = 5000) -> None:
    world.disk.files[path][offset] ^= 0x40


def encoded_archive(world: RestoreWorld, codec: Codec) -> None:
    """The archive's segments, stored as a codec does it."""
    for path in [path for path in world.disk.files if path.startswith(f"{ARCHIVE}/0") and not path.endswith(".history")]:
        name = path.rpartition("/")[2]
        world.disk.files[f"{ARCHIVE}/{codec.key(name)}"] = bytearray(codec.encode(bytes(world.disk.files.pop(path)), name))


@pytest.mark.parametrize("compress", [False, True])
def test_a_chain_of_incremental_backups(compress: bool) -> None:
    world = RestoreWorld(rows=600)
    world.backup("/b/full", compress=compress)
    world.fill(2000, 400)
    world.keys += range(2000, 2400)
    world.backup("/b/inc1", type="incremental", base="/b/full", compress=compress)
    world.commit(2)
    world.backup("/b/inc2", type="incremental", base="/b/inc1", compress=compress)
    mark = world.commit(3)
    world.commit(1)
    world.ship()
    report, config = world.restore(mark.time, "/b/inc2")
    assert report.problems == () and world.keys_in(config) == mark.keys
    _report, config = world.restore("latest", "/b")
    assert world.keys_in(config) == tuple(world.keys)


def test_a_missing_link_is_named() -> None:
    world = RestoreWorld()
    world.backup("/b/full")
    world.commit(1)
    world.backup("/b/inc1", type="incremental", base="/b/full")
    world.commit(1)
    world.backup("/b/inc2", type="incremental", base="/b/inc1")
    world.ship()
    for path in world.files_of("/b/inc1"):
        del world.disk.files[path]
    files = world.snapshot()
    with pytest.raises(Refused, match="needs backup bk-20260101-000002, which is missing in /b"):
        world.restore("latest", "/b/inc2")
    assert world.snapshot() == files
    report, config = world.restore("latest", "/b")  # the full one still does
    assert report.backup == "bk-20260101-000001" and world.keys_in(config) == tuple(world.keys)


def test_a_link_that_was_replaced_is_named() -> None:
    world = RestoreWorld()
    world.backup("/b/full")
    world.commit(1)
    world.backup("/b/inc", type="incremental", base="/b/full")
    path = "/b/full/backup_manifest.json"
    other = replace(parse_manifest(bytes(world.disk.files[path])), label="another")
    world.disk.files[path] = bytearray(encode_manifest(other))
    with pytest.raises(Refused, match="is another one than it was made from"):
        world.plan("latest", "/b/inc", archive=None)


@pytest.mark.parametrize("include_wal", [True, False])
def test_a_backup_with_and_without_log(include_wal: bool) -> None:
    class Archiver:
        async def switch(self) -> int:
            return 0

        async def wait_archived(self, lsn: int) -> None:
            return None

    world = RestoreWorld()
    world.commit(1)
    world.switch()
    world.commit(1)
    world.backup("/b/full", include_wal=include_wal, archiver=Archiver())
    mark = world.commit(2)
    world.ship()
    _report, config = world.restore("latest", "/b/full")
    assert world.keys_in(config) == mark.keys
    if include_wal:
        report, config = world.restore("latest", "/b/full", archive=None)
        assert report.transactions == 0 and world.keys_in(config) == mark.keys[:-2]
    else:
        with pytest.raises(Refused, match="log segment .* which the backup needs from .* is missing"):
            world.restore("latest", "/b/full", archive=None)


def test_the_folder_gives_the_newest_backup_that_will_do() -> None:
    world = RestoreWorld()
    world.backup("/b/one")
    early = world.commit(2)
    world.backup("/b/two")
    late = world.commit(2)
    world.ship()
    assert world.plan(early.time, "/b").backup.place == "/b/two"
    assert world.plan(world.marks[0].time, "/b").backup.place == "/b/one"
    assert "passed over /b/two" in world.plan(world.marks[0].time, "/b").notes[0]
    for name in ("half.partial", ".hidden", "empty"):
        world.disk.dirs[f"/b/{name}"] = None
    world.disk.files["/b/half.partial/backup_manifest.json"] = bytearray(b"{}")
    flipped(world, "/b/two/backup_manifest.json", 50)
    plan = world.plan(late.time, "/b")
    assert plan.backup.place == "/b/one" and "passed over /b/two" in plan.notes[0]


def test_an_empty_folder_and_no_folder() -> None:
    world = RestoreWorld()
    world.disk.dirs["/b"] = None
    for place in ("/b", "/nowhere"):
        with pytest.raises(Refused, match="no usable backup in /b|no backup in /nowhere"):
            world.plan("latest", place)


def test_an_unfinished_backup_is_refused() -> None:
    world = RestoreWorld()
    world.backup("/b/one")
    del world.disk.files["/b/one/backup_manifest.json"]
    with pytest.raises(Refused, match="is not finished"):
        world.plan("latest", "/b/one")


@pytest.mark.parametrize("name", ["control", "pages.000000"])
def test_a_damaged_backup_is_never_laid_down_silently(name: str) -> None:
    world = RestoreWorld()
    world.backup("/b/one")
    world.ship()
    flipped(world, f"/b/one/data/{name}", 600)
    with pytest.raises(Corruption, match=name):
        world.restore("latest", "/b/one", config := world.target_config())
    if name != "control":
        with pytest.raises(Refused, match="has not ended"):
            world.run(Database.open(world, config, Events()))


def test_a_compressed_archive() -> None:
    world = RestoreWorld()
    world.backup("/b/one", compress=True)
    mark = world.commit(2)
    world.switch()
    world.commit(1)
    world.ship()
    encoded_archive(world, Codec(compress=True))
    _report, config = world.restore(mark.time, "/b/one")
    assert world.keys_in(config) == mark.keys


def test_an_archive_of_another_database_is_refused_by_name() -> None:
    world = RestoreWorld()
    world.backup("/b/one")
    world.ship()
    path = f"{ARCHIVE}/00000001.history"
    world.disk.files[path] = bytearray(b"# system 00000000000000aa\n# owner " + b"a" * 32 + b"\n")
    with pytest.raises(Refused, match="is of another database: timeline 1 has system id 00000000000000aa"):
        world.plan("latest", "/b/one")


def test_an_archive_that_does_not_continue_the_backup_is_refused() -> None:
    """The same system id, the same names, another history: a copy of the database was started beside it, and archived too."""
    world = RestoreWorld()
    world.commit(1)
    twin = twin_of(world)
    twin.commit(2)
    twin.ship()
    world.keys += (900, 901)
    world.commit(3)
    world.backup("/b/one")
    for path in [path for path in twin.disk.files if path.startswith(ARCHIVE)]:
        world.disk.files[path] = twin.disk.files[path]
    world.disk.dirs[ARCHIVE] = None
    report, config = world.restore("latest", "/b/one", archive=None)
    assert world.keys_in(config) == (*range(51), 902, 903, 904)
    for path in world.files_of("/b/one/wal"):  # what tells them apart: then there is only the other one's log
        del world.disk.files[path]
    with pytest.raises(Refused, match="is not the log that the backup .* saw at its end|does not"):
        world.plan("latest", "/b/one")


def twin_of(world: RestoreWorld) -> RestoreWorld:
    """The same database, started elsewhere."""
    twin = RestoreWorld()
    twin.crash()
    twin.disk.files.clear()
    twin.disk.files.update({path: bytearray(data) for path, data in world.disk.survivor(None, False).files.items()})
    twin.disk.dirs.update(world.disk.dirs)
    twin.start()
    table = twin.db.catalog.table("t")
    if table is None:
        raise AssertionError("the table is gone")
    twin.t, twin.keys = table, list(world.keys)
    return twin


def test_the_configurations_archive_serves_when_none_is_named() -> None:
    world = RestoreWorld()
    world.backup("/b/one")
    mark = world.commit(2)
    world.ship()
    config = replace(world.target_config(), wal_archive_dir=ARCHIVE)
    world.restore("latest", "/b/one", config, archive=None)
    assert world.keys_in(config) == mark.keys


def test_a_restore_command_serves_too() -> None:
    world = RestoreWorld()
    world.backup("/b/one")
    mark = world.commit(2)
    for _ in range(2):
        world.switch()
        world.commit(1)
    world.ship()
    asked: list[str] = []

    class Shell:
        async def run(self, command: str, timeout_s: float) -> tuple[int, str]:
            verb, name, path = command.split(" ")
            asked.append(name)
            if verb != "get" or f"{ARCHIVE}/{name}" not in world.disk.files:
                return 1, "not found"
            world.disk.files[path] = bytearray(world.disk.files[f"{ARCHIVE}/{name}"])
            return 0, ""

    world.command = Shell()  # type: ignore[assignment]
    config = replace(world.target_config(), wal_restore_command="get %n %f")
    world.restore(mark.time, "/b/one", config, archive=None)
    assert world.keys_in(config) == mark.keys
    assert "000000010000000000000001" in asked
    del world.disk.files[f"{ARCHIVE}/000000010000000000000001"]
    config = replace(world.target_config(), wal_restore_command="get %n %f")
    with pytest.raises(Refused, match="segment 000000010000000000000001 (breaks off|is missing)"):
        world.plan("latest", "/b/one", config, archive=None)


@pytest.mark.parametrize("answers", range(8))
def test_a_restore_command_that_stops_working_is_not_the_end_of_the_log(answers: int) -> None:
    """A tool fails alike for what is not there and for a store that is out of reach."""
    world = RestoreWorld()
    world.backup("/b/one")
    for _ in range(3):
        mark = world.commit(2)
        world.switch()
    world.commit(1)  # in the open segment, which a command does not archive
    world.ship()
    left = [answers]

    class Shell:
        async def run(self, command: str, timeout_s: float) -> tuple[int, str]:
            _, name, path = command.split(" ")
            if f"{ARCHIVE}/{name}" in world.disk.files and left[0]:
                left[0] -= 1
                world.disk.files[path] = bytearray(world.disk.files[f"{ARCHIVE}/{name}"])
                return 0, ""
            return 1, "not found" if left[0] else "503 Slow Down"

    world.command = Shell()  # type: ignore[assignment]
    files = world.snapshot()
    config = replace(world.target_config(), wal_restore_command="get %n %f")
    with pytest.raises((Refused, StorageError), match="503 Slow Down|is missing") as caught:
        world.plan("latest", "/b/one", config, archive=None)
    assert caught.value.exit_code in (3, 4)
    assert world.snapshot() == files
    left[0] = 1000
    world.restore("latest", "/b/one", config, archive=None)
    assert world.keys_in(config) == mark.keys


@pytest.mark.parametrize("late", [2, 3, 4])
def test_a_segment_that_comes_while_a_restore_by_command_looks_is_read(late: int) -> None:
    """Beside a live archive. From segment `late` on, each is there only from the second time on that it is asked for; the
    backup itself has 1, and 2 as far as it went."""
    world = RestoreWorld()
    world.commit(1)
    world.switch()
    world.backup("/b/one")
    for _ in range(4):
        mark = world.commit(2)
        world.switch()
    world.commit(1)  # in the open segment
    world.ship()
    asked: set[str] = set()

    class Shell:
        async def run(self, command: str, timeout_s: float) -> tuple[int, str]:
            _, name, path = command.split(" ")
            first = name not in asked and name >= f"{1:08X}{late:016X}" and not name.endswith("history")
            asked.add(name)
            if first or f"{ARCHIVE}/{name}" not in world.disk.files:
                return 1, "not found"
            world.disk.files[path] = bytearray(world.disk.files[f"{ARCHIVE}/{name}"])
            return 0, ""

    world.command = Shell()  # type: ignore[assignment]
    config = replace(world.target_config(), wal_restore_command="get %n %f")
    world.restore("latest", "/b/one", config, archive=None)
    assert world.keys_in(config) == mark.keys


def test_a_copy_made_by_hand_needs_its_floor() -> None:
    world = RestoreWorld()
    hand_copy(world, "/b/hand")
    mark = world.commit(2)
    world.ship()
    _report, config = world.restore("latest", "/b")
    assert world.keys_in(config) == mark.keys
    with pytest.raises(Refused, match="before the end of the backup"):
        world.plan(f"lsn:0/{0x1100:X}", "/b/hand")


def test_an_archive_that_is_not_mounted_is_not_the_end_of_the_log() -> None:
    world = RestoreWorld()
    world.commit(2)
    mark = world.commit(1)
    world.backup("/b/one")
    files = world.snapshot()
    world.disk.dirs["/mnt"] = None
    for place in ("/mnt", "/misspelt"):
        with pytest.raises(Refused, match=f"the archive in {place} holds nothing of timeline 1") as caught:
            world.plan("latest", "/b/one", archive=place)
        assert "--wal-archive-dir" in caught.value.hint
        config = replace(world.target_config(), wal_archive_dir=place)
        with pytest.raises(Refused, match="holds nothing of timeline 1"):
            world.plan("latest", "/b/one", config, archive=None)
    assert world.snapshot() == files
    _, config = world.restore("latest", "/b/one", archive=None)
    assert world.keys_in(config) == mark.keys

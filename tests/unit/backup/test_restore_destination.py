"""What a restore finds where it is to go: reuse what is this backup's, go on with what was interrupted, refuse the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.unit.backup.restoring import ARCHIVE, Mark, RestoreWorld
from tests.unit.engine.world import PAGE, EngineWorld
from thunderdb.backup.destination import Kind
from thunderdb.backup.manifest import parse_manifest
from thunderdb.backup.restore import restore
from thunderdb.base.config import Config
from thunderdb.base.errors import Corruption, Refused, StorageError
from thunderdb.base.events import Events
from thunderdb.engine.database import Database


def with_backup(**request: object) -> tuple[RestoreWorld, Mark]:
    world = RestoreWorld(rows=400)
    world.commit(2)
    world.backup("/b/full", **request)
    mark = world.commit(3)
    world.switch()
    world.commit(2)
    world.ship()
    return world, mark


def copy_back(world: RestoreWorld, config: Config, place: str = "/b/full", folders: tuple[str, ...] = ("data", "wal")) -> None:
    """The manual's step 3: cp -a BACKUP/data/* data_dir; cp -a BACKUP/wal/* wal_dir."""
    for directory in (config.data_dir.rpartition("/")[0], config.data_dir, config.wal_dir):
        world.disk.dirs[directory] = None
    for path in list(world.disk.files):
        for folder, directory in (("data", config.data_dir), ("wal", config.wal_dir)):
            if folder in folders and path.startswith(f"{place}/{folder}/"):
                world.disk.files[f"{directory}/{path.rpartition('/')[2]}"] = bytearray(world.disk.files[path])


def hand_copy(world: RestoreWorld, place: str) -> None:
    """checkpoint; rsync data; rsync wal"""
    world.run(world.db.checkpoint(3_600_000_000_000))
    for folder, directory in (("data", world.config.data_dir), ("wal", world.config.wal_dir)):
        for parent in ("/b", place, f"{place}/{folder}"):
            world.disk.dirs[parent] = None
        for path in [path for path in world.disk.files if path.startswith(f"{directory}/")]:
            world.disk.files[f"{place}/{folder}/{path.rpartition('/')[2]}"] = bytearray(world.disk.files[path])


# -- Copied by hand before


@pytest.mark.parametrize("folders", [("data", "wal"), ("data",), ("wal",)])
def test_over_a_plain_copy_the_pages_are_reused(folders: tuple[str, ...]) -> None:
    world, mark = with_backup()
    config = world.target_config()
    copy_back(world, config, folders=folders)
    report, _ = world.restore(mark.time, "/b/full", config)
    assert report.pages_reused == (report.pages if "data" in folders else 0)
    assert world.keys_in(config) == mark.keys


def test_over_a_compressed_copy_the_pages_replace_it() -> None:
    world, mark = with_backup(compress=True)
    config = world.target_config()
    copy_back(world, config)
    assert any(path.startswith(f"{config.data_dir}/") and path.endswith(".zst") for path in world.disk.files)
    world.restore(mark.time, "/b/full", config)
    left = [path for path in world.disk.files if path.startswith(f"{config.data_dir.rpartition('/')[0]}/")]
    assert not [path for path in left if path.endswith(".zst")]
    assert world.keys_in(config) == mark.keys


def test_a_damaged_or_short_copy_is_laid_down_anew() -> None:
    world, mark = with_backup()
    config = world.target_config()
    copy_back(world, config)
    del world.disk.files[f"{config.data_dir}/pages.000000"][9000:]
    name = max(path for path in world.disk.files if path.startswith(f"{config.wal_dir}/0") and not path.endswith(".history"))
    del world.disk.files[name][700:]
    report, _ = world.restore(mark.time, "/b/full", config)
    assert report.pages_reused == 0
    assert world.keys_in(config) == mark.keys


def test_over_a_copy_of_a_copy_made_by_hand() -> None:
    world = RestoreWorld()
    hand_copy(world, "/b/hand")
    mark = world.commit(3)
    world.ship()
    config = world.target_config()
    copy_back(world, config, "/b/hand")
    world.restore(mark.time, "/b/hand", config)
    assert world.keys_in(config) == mark.keys


# -- Refused


def refused(world: RestoreWorld, mark: Mark, config: Config, match: str, backup: str = "/b/full") -> None:
    files = world.snapshot()
    with pytest.raises(Refused, match=match) as caught:
        world.restore(mark.time, backup, config)
    assert caught.value.exit_code == 3
    assert world.snapshot() == files


def test_a_file_where_a_directory_should_be_is_refused() -> None:
    world, mark = with_backup()
    world.disk.files["/taken"] = bytearray(b"a file")
    for data_dir, wal_dir in (("/taken", "/r/wal"), ("/r/data", "/taken"), ("/r/data", "/taken/below/wal")):
        config = replace(world.config, data_dir=data_dir, wal_dir=wal_dir)
        refused(world, mark, config, "cannot be restored into: /taken is no directory")


def test_another_database_is_in_the_way() -> None:
    world, mark = with_backup()
    other = EngineWorld()
    other.random.bits(64)  # another system id
    other.start()
    other.close()
    config = world.target_config()
    for directory in (config.data_dir, config.wal_dir):
        world.disk.dirs[directory] = None
    for path, data in other.disk.files.items():
        world.disk.files[path.replace("/d/", f"{config.data_dir.rpartition('/')[0]}/")] = data
    refused(world, mark, config, "holds another database")


def test_the_original_database_is_in_the_way() -> None:
    world, mark = with_backup()
    world.close()
    refused(world, mark, world.config, "is not of the backup|differs from the backup")


def test_the_running_original_is_in_the_way() -> None:
    world, mark = with_backup()
    refused(world, mark, world.config, "in use|locked|another process|is not of the backup")


def test_a_copy_that_was_started_is_in_the_way() -> None:
    world, mark = with_backup()
    config = world.target_config()
    copy_back(world, config)
    world.run(world.run(Database.open(world, config, Events())).close())
    refused(world, mark, config, "is not of the backup|differs from the backup")


def test_the_original_of_a_copy_made_by_hand_is_in_the_way() -> None:
    """Its control file may be the copy's, byte for byte; its pages and its log have gone on."""
    world = RestoreWorld()
    hand_copy(world, "/b/hand")
    mark = world.commit(3)
    world.ship()
    control = bytes(world.disk.files["/b/hand/data/control"])
    config = world.target_config()
    copy_back(world, config, "/b/hand")
    wal = [path for path in world.disk.files if path.startswith(f"{config.wal_dir}/0")]
    original = world.config.wal_dir
    for path in wal:
        world.disk.files[path] = bytearray(world.disk.files[f"{original}/{path.rpartition('/')[2]}"])
    assert world.disk.files[f"{config.data_dir}/control"] == control
    refused(world, mark, config, "perhaps the original database", "/b/hand")


def test_a_strange_file_is_in_the_way() -> None:
    world, mark = with_backup()
    for where in ("data_dir", "wal_dir"):
        config = world.target_config()
        copy_back(world, config)
        world.disk.files[f"{getattr(config, where)}/notes.txt"] = bytearray(b"mine")
        refused(world, mark, config, "notes.txt is not of the backup")


def test_a_live_log_beside_an_empty_data_dir_is_in_the_way() -> None:
    """The disk with the pages died; the log is all that is left of the newest commits."""
    world, mark = with_backup()
    config = world.target_config()
    world.disk.dirs[config.wal_dir] = None
    for path in [path for path in world.disk.files if path.startswith(f"{world.config.wal_dir}/0")]:
        world.disk.files[f"{config.wal_dir}/{path.rpartition('/')[2]}"] = bytearray(world.disk.files[path])
    refused(world, mark, config, "is not of the backup|differs from the backup")


def test_lost_and_found_is_in_nobodys_way() -> None:
    world, mark = with_backup()
    config = world.target_config()
    for directory in (config.data_dir, config.wal_dir):
        world.disk.dirs[directory] = None
        world.disk.dirs[f"{directory}/lost+found"] = None
    world.restore(mark.time, "/b/full", config)
    assert world.keys_in(config) == mark.keys


def test_another_page_size_is_refused() -> None:
    world, mark = with_backup()
    refused(world, mark, replace(world.target_config(), page_size=16384), "page_size is 16384")


def test_too_little_space_is_refused() -> None:
    world, mark = with_backup()
    world.disk.capacity_bytes = sum(len(data) for data in world.disk.files.values()) + 100_000
    refused(world, mark, world.target_config(), "bytes in .* are free")


# -- Interrupted


def interrupted(world: RestoreWorld, mark: Mark, config: Config, until: str) -> None:
    """Restore, and fail when a file of that name is written."""
    plan = world.plan(mark.time, "/b/full", config)
    disk = world.disk
    failing = disk.fail_sync
    disk.fail_sync = lambda path: until in path
    with pytest.raises(StorageError):
        world.run(restore(world, config, plan, Events()))
    disk.fail_sync = failing


@pytest.mark.parametrize("until", ["pages.", "identity", "000000020", "00000002.history"])
def test_an_interrupted_restore_opens_for_nobody_and_goes_on(until: str) -> None:
    world, mark = with_backup()
    config = world.target_config()
    interrupted(world, mark, config, until)
    with pytest.raises(Refused, match="a restore into .* has not ended"):
        world.run(Database.open(world, config, Events()))
    report, _ = world.restore(mark.time, "/b/full", config)
    assert report.timeline == 2
    assert world.keys_in(config) == mark.keys
    assert not [path for path in world.disk.files if "restore.json" in path]


def test_a_restore_that_was_interrupted_is_not_another_one() -> None:
    world, mark = with_backup()
    config = world.target_config()
    interrupted(world, mark, config, "pages.")
    files = world.snapshot()
    for target, more in (("latest", {}), (mark.time, {"timeline": "1"}), (mark.time, {"no_archive": True})):
        with pytest.raises(Refused, match="another restore into .* was interrupted"):
            world.restore(target, "/b/full", config, **more)  # type: ignore[arg-type]
    assert world.snapshot() == files


def test_latest_goes_on_to_where_it_was_going() -> None:
    world, _ = with_backup()
    config = world.target_config()
    mark = world.now()
    world.ship()
    plan = world.plan("latest", "/b/full", config)
    world.disk.fail_sync = lambda path: "pages." in path
    with pytest.raises(StorageError):
        world.run(restore(world, config, plan, Events()))
    world.disk.fail_sync = lambda path: False
    world.commit(3)
    world.ship()
    for folder in ("/b/full", "/b"):
        if folder == "/b":
            world.backup("/b/newer")
        report, _ = world.restore("latest", folder, config) if folder == "/b" else (None, None)
    assert report is not None and world.keys_in(config) == mark.keys


def test_the_claim_of_an_interrupted_restore_is_used_again() -> None:
    world, mark = with_backup()
    config = world.target_config()
    interrupted(world, mark, config, "/wal/000000020")
    assert f"{ARCHIVE}/00000002.history" in world.disk.files
    report, _ = world.restore(mark.time, "/b/full", config)
    assert report.timeline == 2 and f"{ARCHIVE}/00000003.history" not in world.disk.files


def test_a_folder_gives_the_backup_whose_copy_is_there() -> None:
    world, mark = with_backup()
    world.backup("/b/newer")
    world.ship()
    config = world.target_config()
    copy_back(world, config)
    plan = world.plan("latest", "/b", config)
    assert plan.backup.place == "/b/full" and plan.destination.kind is Kind.COPY
    refused_config = world.target_config()
    world.disk.dirs[refused_config.data_dir] = None
    world.disk.files[f"{refused_config.data_dir}/notes.txt"] = bytearray(b"mine")
    refused(world, mark, refused_config, "notes.txt is not of the backup", "/b")


def test_a_restore_that_is_done_says_so_again_until_the_database_is_used() -> None:
    """Killed right at its end, nobody saw that it was done."""
    world, mark = with_backup()
    config = world.target_config()
    first, _ = world.restore(mark.time, "/b/full", config)
    again, _ = world.restore(mark.time, "/b/full", config)
    assert (again.stop_lsn, again.timeline) == (first.stop_lsn, first.timeline)
    with pytest.raises(Refused, match="nothing has been changed|is not of the backup|differs from the backup"):
        world.restore("latest", "/b/full", config)
    assert world.keys_in(config) == mark.keys  # a start and a stop
    refused(world, mark, config, "is not of the backup|differs from the backup")


# -- Into itself


@pytest.mark.parametrize(
    ("data_dir", "wal_dir"),
    [("/b/full/data", "/b/full/wal"), ("/r9/data", "/b/full/wal"), ("/b/more/data", "/r9/wal"), (f"{ARCHIVE}/data", "/r9/wal")],
)
def test_a_restore_into_what_it_reads_is_refused(data_dir: str, wal_dir: str) -> None:
    """A backup is its own copy: the restore said done, and the backup was none any more."""
    world, mark = with_backup()
    base = parse_manifest(bytes(world.disk.files["/b/full/backup_manifest.json"]))
    more = world.backup("/b/more", type="incremental", base="/b/full", known=frozenset([base.checksum]))
    assert more.base is not None
    world.ship()
    config = replace(world.config, data_dir=data_dir, wal_dir=wal_dir)
    backup = "/b/full" if "full" in data_dir + wal_dir else "/b/more"
    files = world.snapshot()
    with pytest.raises(Refused, match="would destroy its own source"):
        world.restore("latest", backup, config)
    assert world.snapshot() == files
    noted = world.plan("latest", backup, config, dry_run=True)
    assert "would destroy its own source" in noted.notes[0] and mark.keys


def test_a_stopped_database_is_not_restored_into_itself() -> None:
    world, mark = with_backup()
    world.close()
    files = world.snapshot()
    with pytest.raises(Refused, match="would destroy its own source"):
        world.restore(mark.time, "/d", world.config)
    assert world.snapshot() == files


# -- Two at once, and what is there at the end


@pytest.mark.parametrize("second", ["the same", "another target", "another target, opened meanwhile"])
def test_what_was_planned_over_another_state_of_the_directories_is_refused(second: str) -> None:
    """Two restores were planned into the same empty directories; the slower one would have replaced what the other had done."""
    world, mark = with_backup()
    config = world.target_config()
    slow = world.plan(mark.time if second == "the same" else world.marks[-1].time, "/b/full", config)
    world.restore(mark.time, "/b/full", config, check=False)
    if "opened" in second:
        assert world.keys_in(config) == mark.keys
    files = world.snapshot()
    with pytest.raises(Refused, match="not what they were when this restore was planned") as caught:
        world.run(restore(world, config, slow, Events()))
    assert caught.value.exit_code == 3 and world.snapshot() == files
    assert world.keys_in(config) == mark.keys


def test_a_copy_that_changed_since_the_plan_is_refused() -> None:
    world, mark = with_backup()
    config = world.target_config()
    copy_back(world, config)
    plan = world.plan(mark.time, "/b/full", config)
    world.disk.files[f"{config.data_dir}/pages.000000"].extend(b"more")
    files = world.snapshot()
    with pytest.raises(Refused, match="not what they were"):
        world.run(restore(world, config, plan, Events()))
    del world.disk.files[f"{config.data_dir}/lock"]
    assert world.snapshot() == files


@pytest.mark.parametrize(
    ("what", "damage", "says"),
    [
        ("control", lambda data: data.__setitem__(slice(None), bytes(len(data))), "control, .* is damaged"),
        ("control", None, "control is gone"),
        ("pages.000000", lambda data: data.__delitem__(slice(-PAGE, None)), r"pages.000000 has \d+ bytes instead of \d+"),
        ("pages.000000", None, "pages.000000 is gone"),
        ("wal/0000000200", None, "wal/0000000200.* is gone"),
    ],
)
def test_done_is_said_of_what_is_there(what: str, damage: Callable[[bytearray], None] | None, says: str) -> None:
    """Whoever removes or cuts a file while it is laid down is found out before the end, and named rightly."""
    world, mark = with_backup()
    config = world.target_config()
    plan = world.plan(mark.time, "/b/full", config)
    events = Events()

    def spoil(name: str, _fields: dict[str, object]) -> None:
        if name == "restore.laid_down":
            path = min(path for path in world.disk.files if path.startswith("/r1/") and what in path)
            if damage is None:
                del world.disk.files[path]
            else:
                damage(world.disk.files[path])

    events.subscribe(spoil)
    with pytest.raises((StorageError, Corruption), match=says):
        world.run(restore(world, config, plan, events))
    assert f"{config.data_dir}/restored.json" not in world.disk.files
    world.restore(mark.time, "/b/full", config)
    assert world.keys_in(config) == mark.keys


@pytest.mark.parametrize("moment", ["at once", "one after the other"])
def test_two_restores_with_one_log_directory_are_not_both_done(moment: str) -> None:
    """Each removed the other's log, and both said done: one of them could not be started."""
    world, mark = with_backup()
    first, second = world.target_config(), replace(world.target_config(), wal_dir="/r1/wal")
    plans = [world.plan(mark.time, "/b/full", config) for config in (first, second)]
    if moment == "at once":
        world.disk.dirs["/r1"] = world.disk.dirs[first.wal_dir] = None
        world.run(world.disk.lock(f"{first.wal_dir}/lock"))
    else:
        world.run(restore(world, first, plans[0], Events()))
        assert world.keys_in(first) == mark.keys
    files = world.snapshot()
    with pytest.raises(Refused, match="is locked|not what they were"):
        world.run(restore(world, second, plans[1], Events()))
    left = world.snapshot()
    assert {path: left[path] for path in files} == files
    assert [path for path in left if path not in files and not path.endswith("/lock")] == []


@pytest.mark.parametrize(("data_dir", "wal_dir"), [("/r9", "/r9/wal"), ("/r9/data", "/r9")])
def test_one_directory_may_lie_in_the_other(data_dir: str, wal_dir: str) -> None:
    """A restore failed at its end, each time, for it took the one for something that was left over in the other."""
    world, mark = with_backup()
    config = replace(world.config, data_dir=data_dir, wal_dir=wal_dir)
    interrupted(world, mark, config, "00000002.history")
    world.restore(mark.time, "/b/full", config, check=False)
    assert f"{wal_dir}/lock" not in world.disk.files
    assert world.keys_in(config) == mark.keys

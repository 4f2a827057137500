"""What a restore leaves: everything laid down and durable, the log still to be replayed by whoever starts the database."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.unit.backup.restoring import ARCHIVE, Mark, RestoreWorld
from tests.unit.engine.world import PAGE, read
from thunderdb.backup.destination import DONE_FILE, MARKER_FILE, Kind, read_control
from thunderdb.backup.restore import restore
from thunderdb.base.config import Config
from thunderdb.base.errors import Refused, StorageError
from thunderdb.base.events import Events
from thunderdb.engine.check import check_database
from thunderdb.engine.database import Database
from thunderdb.storage.control import DatabaseState


def with_loser() -> tuple[RestoreWorld, Mark]:
    """A backup, some commits, and one transaction that has written and never ends."""
    world = RestoreWorld(rows=400)
    world.commit(2)
    world.backup("/b/full")
    world.commit(3)
    world.switch()

    async def lose() -> None:
        txn = world.db.begin()
        for key in range(90_000, 90_040):
            await world.db.insert(txn, world.t, [key, "lost"])

    world.run(lose())
    mark = world.commit(2)
    world.ship()
    return world, mark


def laid_down(check: bool = False, **more: Any) -> tuple[RestoreWorld, Mark, Config]:
    world, mark = with_loser()
    report, config = world.restore("latest", "/b/full", check=check, **more)
    assert report.rolled_back == 1
    return world, mark, config


def state_of(world: RestoreWorld, config: Config) -> DatabaseState:
    control = world.run(read_control(world.disk, config.data_dir))
    assert control is not None
    return control.state


def opened(world: RestoreWorld, config: Config) -> Database:
    return world.run(Database.open(world, config, Events()))


def test_the_end_of_a_restore_writes_no_page_and_the_start_finds_all() -> None:
    world, mark, config = laid_down()
    assert state_of(world, config) is DatabaseState.BACKUP
    stored = world.disk.files["/b/full/data/pages.000000"]
    assert world.disk.files[f"{config.data_dir}/pages.000000"] == stored
    db = opened(world, config)
    assert db.deferred is not None and len(db.deferred)
    table = db.catalog.table("t")
    assert table is not None
    assert world.run(read(db, db.begin(), table, mark.keys[-1])) is not None  # a query does not wait for the rest
    assert len(db.deferred)
    world.run(db.close())
    assert world.keys_in(config) == mark.keys


def test_the_start_needs_nothing_but_its_own_directories() -> None:
    world, mark, config = laid_down()
    for path in [path for path in world.disk.files if path.startswith((ARCHIVE, "/b/", world.config.data_dir))]:
        del world.disk.files[path]
    assert world.keys_in(config) == mark.keys


def test_all_of_it_is_durable_when_it_says_done() -> None:
    world, mark, config = laid_down()
    world.crash(power=True)
    assert world.keys_in(config) == mark.keys


@pytest.mark.parametrize("power", [False, True])
@pytest.mark.parametrize("works", [False, True])
def test_killed_after_its_first_start(power: bool, works: bool) -> None:
    world, mark, config = laid_down()
    keys = mark.keys
    world.config, world.db = config, opened(world, config)
    if works:
        table = world.db.catalog.table("t")
        assert table is not None
        world.t = table
        keys = (*keys, world.commit(1).keys[-1])
    world.crash(power)
    assert world.keys_in(config) == keys


def test_the_same_restore_again_is_done_and_changes_nothing() -> None:
    world, mark, config = laid_down()
    files = world.snapshot()
    plan = world.plan("latest", "/b/full", config)
    assert plan.destination.kind is Kind.DONE
    again, _ = world.restore("latest", "/b/full", config, check=False)
    assert world.snapshot() == files
    assert (again.rolled_back, again.timeline) == (1, 2)
    assert world.keys_in(config) == mark.keys


def test_a_drills_check_may_follow_and_then_it_is_still_the_same_restore() -> None:
    world, mark, config = laid_down()
    checked, _ = world.restore("latest", "/b/full", config, check=True)
    assert checked.problems == () and state_of(world, config) is DatabaseState.CLEAN
    assert world.plan("latest", "/b/full", config).destination.kind is Kind.DONE
    assert world.keys_in(config) == mark.keys


@pytest.mark.parametrize("stops", ["killed", "shut down"])
def test_once_it_was_started_the_same_restore_is_refused(stops: str) -> None:
    """Somebody may have worked in it: a restore never takes that away."""
    world, _mark, config = laid_down()
    db = opened(world, config)
    if stops == "killed":
        world.crash(power=False)
    else:
        world.run(db.close())
    files = world.snapshot()
    with pytest.raises(Refused, match="is not of the backup|differs from the backup"):
        world.restore("latest", "/b/full", config, check=False)
    assert world.snapshot() == files


def test_a_backup_of_the_restored_database_before_its_pages_are_brought_up() -> None:
    world, mark, config = laid_down()
    world.go_on(config, mark)
    assert world.db.deferred is not None and len(world.db.deferred)
    world.backup("/b/second")
    base = world.backup("/b/third", type="incremental", base="/b/second", known=frozenset())
    assert base.page_count
    assert world.verify("/b/second").passed and world.verify("/b/third").passed
    for place in ("/b/second", "/b/third"):
        _, second = world.restore("latest", place, archive=None, check=False)
        assert world.keys_in(second) == mark.keys
    assert world.run(check_database(world.db)) == []


def test_a_restore_of_a_restore_that_was_never_drained() -> None:
    world, mark, config = laid_down()
    world.go_on(config, mark)
    later = world.commit(2)
    world.ship(owner="b" * 32)
    _, second = world.restore(later.at_lsn, "/b/full", check=False)
    assert world.keys_in(second) == later.keys
    _, third = world.restore(mark.at_lsn, "/b/full", check=False)
    assert world.keys_in(third) == mark.keys


def test_who_is_rolled_back_is_counted_as_the_start_will_do_it() -> None:
    world, mark = with_loser()
    for target in ("latest", mark.at_lsn, world.marks[2].at_lsn, world.marks[3].time):
        report, config = world.restore(target, "/b/full", check=False)
        db = opened(world, config)
        assert db.restarted is not None and db.restarted.losers == report.rolled_back
        world.run(db.close())


def test_room_is_reserved_for_pages_that_nobody_owns() -> None:
    """They are not written; but whoever takes them later must not find the disk full."""
    world, mark, config = laid_down()
    size = len(world.disk.files[f"{config.data_dir}/pages.000000"])
    assert size == len(world.disk.files["/b/full/data/pages.000000"]) and size % PAGE == 0
    assert mark.keys


def ends(world: RestoreWorld) -> list[Any]:
    """What was said of each restore: whether the log was replayed, and whether a start is announced that replays it."""
    names = ("restore.complete", "restore.first_start")
    return [fields.get("replayed", name) for name, fields in world.events if name in names]


def test_the_end_says_whether_the_log_was_replayed() -> None:
    world, _mark, config = laid_down()
    assert ends(world) == [False, "restore.first_start"]
    world.restore("latest", "/b/full", config, check=True)
    assert ends(world)[2:] == [True]
    world.restore("latest", "/b/full", config, check=False)
    assert ends(world)[3:] == [True]  # it was opened by the check


def test_a_restore_whose_database_was_opened_before_its_very_end_announces_no_start() -> None:
    world, mark, config = laid_down()
    marker = json.loads(world.disk.files[f"{config.data_dir}/{DONE_FILE}"])["restore"]
    world.disk.files[f"{config.data_dir}/{MARKER_FILE}"] = bytearray(json.dumps(marker).encode())
    assert world.keys_in(config) == mark.keys
    assert world.plan("latest", "/b/full", config).destination.kind is Kind.OPENED
    world.restore("latest", "/b/full", config, check=False)
    assert ends(world)[2:] == [True]


def test_a_segment_is_called_done_when_it_is_durable() -> None:
    world, _mark = with_loser()
    config, said = world.target_config(), []
    plan = world.plan("latest", "/b/full", config)
    world.disk.fail_sync = lambda path: path.startswith(config.wal_dir)
    events = Events()
    events.subscribe(lambda name, fields: said.append(name))
    with pytest.raises(StorageError):
        world.run(restore(world, config, plan, events))
    assert "restore.log_started" in said and "restore.segment" not in said


# -- Log that is read a second time, because there was no room to keep it


def planned(keep_bytes: int) -> tuple[RestoreWorld, Mark, Config, Any]:
    world, mark = with_loser()
    config = world.target_config()
    return world, mark, config, world.plan("latest", "/b/full", config, keep_bytes=keep_bytes)


@pytest.mark.parametrize("keep_bytes", [0, 1])
def test_what_is_read_again_is_what_was_planned(keep_bytes: int) -> None:
    world, mark, config, plan = planned(keep_bytes)
    assert len(plan.kept) == keep_bytes < len(plan.segments)  # with any room at all, the one in which the stop lies is kept
    world.commit(3)
    world.ship()  # the open segment has grown since: up to the stop it is the same
    world.run(restore(world, config, plan, Events()))
    assert world.keys_in(config) == mark.keys


@pytest.mark.parametrize("what", ["another byte", "cut short", "removed"])
def test_what_changed_since_it_was_planned_is_not_laid_down(what: str) -> None:
    world, _mark, config, plan = planned(0)
    path = f"{ARCHIVE}/{plan.segments[0].piece.name}"
    if what == "removed":
        del world.disk.files[path]
    elif what == "cut short":
        del world.disk.files[path][-100:]
    else:
        world.disk.files[path][-200] ^= 1
    says = "is gone from" if what == "removed" else "is not what it was when the restore was planned"
    with pytest.raises(StorageError, match=says):
        world.run(restore(world, config, plan, Events()))
    with pytest.raises(Refused, match="has not ended"):
        opened(world, config)


def test_a_timeline_is_not_claimed_where_the_archive_was_mounted() -> None:
    """The mount was gone by then: the number was claimed in a directory of the same name, and lost with it."""
    world, mark, config, plan = planned(1 << 30)
    away = {path: data for path, data in world.disk.files.items() if path.startswith(f"{ARCHIVE}/")}
    for path in away:
        del world.disk.files[path]
    with pytest.raises(StorageError, match="no longer has 00000001.history, .* is it mounted"):
        world.run(restore(world, config, plan, Events()))
    assert not [path for path in world.disk.files if path.startswith(f"{ARCHIVE}/")]
    world.disk.files.update(away)
    world.restore("latest", "/b/full", config, check=False)
    assert world.keys_in(config) == mark.keys and f"{ARCHIVE}/00000002.history" in world.disk.files

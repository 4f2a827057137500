"""Restart: crashes all along work and restarts, losers, holes, windows, and what a checkpoint may do meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.unit.engine.world import DATA, SECOND_NS, WAL, EngineWorld, delete, in_txn, rows, update
from thunderdb.base.errors import Corruption, LogHole, SyncFailed
from thunderdb.base.events import Events
from thunderdb.engine.database import Database
from thunderdb.recovery import chain, extras, redo
from thunderdb.recovery.analysis import _Pass
from thunderdb.recovery.dirty import DirtyColumns
from thunderdb.runtime.sync import Task
from thunderdb.storage.page import Page, PageKind
from thunderdb.wal.reader import LogReader

BOTH = pytest.mark.parametrize("power", [False, True])


async def work(db: Database, done: list[int]) -> None:
    """Some of everything; `done` has the number of each acknowledged commit."""
    table = db.catalog.table("t")
    assert table is not None
    for number in range(12):
        txn = db.begin()
        await db.insert(txn, table, [number, f"{number} " + "x" * (90 * number)])
        if number:
            await update(db, txn, table, [number - 1, f"{number - 1} " + "y" * (400 - 20 * number)])
        if number % 4 == 3:
            mark = txn.savepoint()
            await delete(db, txn, table, number - 2)
            await txn.rollback_to(mark)
        if number == 1:  # later the losers' locks are in the way
            await db.ddl.create_index(txn, table, "i", (0,))
        await txn.commit()
        done.append(number)
        table = db.catalog.table("t")
        assert table is not None
        if number % 5 == 2:
            loser = db.begin()
            await db.insert(loser, table, [1000 + number, "never " + "z" * 3000])
        if number % 5 == 4:
            await db.checkpoint()
            await db.pool.clean(db.log.next_lsn, 5)


def expected(count: int) -> list[int]:
    return list(range(count))


def begun(suspend: bool = True) -> EngineWorld:
    world = EngineWorld(suspend=suspend)
    world.start()
    world.table()
    return world


def turn(world: EngineWorld, task: Task[Any], count: int) -> None:
    for _ in range(count):
        if task.done() or not world.scheduler.turn():
            break


def verify(world: EngineWorld, done: list[int]) -> None:
    got = [row[0] for row in world.rows(world.db.catalog.table("t"))]  # type: ignore[arg-type]
    assert got in (expected(len(done)), expected(len(done) + 1)), f"{got} after {done}"
    world.check()


@BOTH
def test_a_crash_anywhere_in_the_work(power: bool) -> None:
    at, ended = 1, False
    while not ended:
        assert at < 5000
        world = begun()
        done: list[int] = []
        task = world.tasks.spawn(work(world.db, done))
        turn(world, task, at)
        ended = task.done()
        if ended:
            task.result()
        world.restart(power)
        verify(world, done)
        at += 29
    assert at > 200


@BOTH
def test_a_crash_anywhere_in_the_restart_and_again_in_that_one(power: bool) -> None:
    origin = begun()
    done: list[int] = []
    turn(origin, origin.tasks.spawn(work(origin.db, done)), 350)
    origin.crash(power)
    at, ended = 1, False
    while not ended:
        assert at < 5000
        world = EngineWorld(suspend=True)
        world.disk = origin.disk.survivor(world.scheduler, power=False)
        for step in (at, at * 2 // 3):
            task = world.tasks.spawn(Database.open(world, world.config, Events()))
            turn(world, task, step)
            ended = task.done()
            world.crash(power)
        world.start()
        if at % 3 == 1 or ended:
            verify(world, done)
        at += 13
    assert at > 60


def test_a_restart_with_nothing_to_redo_keeps_no_log_in_memory() -> None:
    world = begun()
    for again in (False, True):
        if again:
            world.close()
            world.start()
        else:
            world.restart()
        world.rest()
        deferred = world.db.deferred
        assert deferred is not None and not len(deferred) and not deferred.chains._blocks and not deferred.chains._reader.kept


def test_losers_are_rolled_back_once_and_a_second_restart_finds_none() -> None:
    world = begun(suspend=False)
    db = world.db
    table = db.catalog.table("t")
    assert table is not None
    world.insert(table, *([number, "committed"] for number in range(50)))
    losers = [db.begin() for _ in range(4)]
    for number, txn in enumerate(losers):
        for key in range(number * 10, number * 10 + 10):
            world.run(update(db, txn, table, [key, "loser " + "x" * 500]))
        world.run(db.insert(txn, table, [100 + number, "loser"]))
    world.run(losers[3].rollback_to((losers[3].first_lsn, None)))
    world.run(db.log.flush_all())
    db = world.restart()
    assert (db.restarted.crashed, db.restarted.losers) == (True, 4)  # type: ignore[union-attr]
    names = [name for name in world.names() if name.startswith("recovery.")]
    assert [name for name in names if name != "recovery.progress"][:4] == [
        "recovery.started", "recovery.analysis", "recovery.redo", "recovery.undo",
    ]  # fmt: skip
    assert world.rows(db.catalog.table("t")) == [[number, "committed"] for number in range(50)]  # type: ignore[arg-type]
    db = world.restart()
    assert db.restarted.losers == 0  # type: ignore[union-attr]
    world.check()


def test_the_numbers_of_transactions_go_on() -> None:
    world = begun(suspend=False)
    for _ in range(3):
        table = world.db.catalog.table("t")
        before = world.db.manager.next_txn
        txn = world.db.begin()
        world.run(world.db.insert(txn, table, [1, "loser"]))  # type: ignore[arg-type]
        world.run(world.db.log.flush_all())
        world.restart()
        assert world.db.manager.next_txn > before
        world.check()


@pytest.mark.parametrize("kept_bytes", [1, 1000, 16 << 20])
@pytest.mark.parametrize("block_bytes", [100, 16 << 10])
def test_redo_with_memory_for_little_of_the_log(kept_bytes: int, block_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records longer than a block, pages with more changes than are kept: the result is the same."""
    monkeypatch.setattr(Database, "kept_log_bytes", 0)
    monkeypatch.setattr(chain, "BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(chain, "LONG_BLOCK_BYTES", 2 * block_bytes)
    monkeypatch.setattr(chain, "CACHE_BYTES", 3 * block_bytes)
    monkeypatch.setattr(chain, "KEPT_BYTES", kept_bytes)
    monkeypatch.setattr(redo, "_CHANGES_A_TURN", 3)
    world = EngineWorld(buffer_pool_size=1 << 20)
    db = world.start()
    table = world.table()
    world.insert(table, *([number, "x" * 300] for number in range(1200)))
    world.run(db.checkpoint())
    for number in range(0, 1200, 7):
        world.update(table, [number, f"updated {number}"])
    world.delete(table, *range(5, 1200, 100))
    wanted = world.rows(table)
    for _ in range(2):
        db = world.restart()
        assert world.rows(db.catalog.table("t")) == wanted  # type: ignore[arg-type]
        world.check()


@BOTH
def test_work_checkpoints_and_crashes_before_all_pages_are_redone(power: bool) -> None:
    world = EngineWorld(suspend=True)
    world.start()
    world.table()
    wanted: dict[int, str] = {}
    for life in range(5):
        db, table = world.db, world.db.catalog.table("t")
        assert table is not None
        batch = [[life * 1000 + number, f"{life} " + "x" * 200] for number in range(300)]
        world.insert(table, *batch)
        wanted |= dict(batch)  # type: ignore[arg-type]
        for key in list(wanted)[:: 17 + life]:
            world.update(table, [key, f"again {life}"])
            wanted[key] = f"again {life}"
        if life % 2:
            world.run(db.checkpoint())
        world.restart(power)
        assert {row[0]: row[1] for row in world.run(rows(world.db, world.db.catalog.table("t")))} == wanted  # type: ignore[arg-type]
    world.check()


def test_a_clean_shutdown_right_after_a_crash() -> None:
    world = begun(suspend=False)
    world.insert(world.db.catalog.table("t"), *([number, "x" * 500] for number in range(500)))  # type: ignore[arg-type]
    world.restart()
    world.close()
    db = world.restart()
    assert not db.restarted.crashed  # type: ignore[union-attr]
    assert len(world.rows(db.catalog.table("t"))) == 500  # type: ignore[arg-type]
    world.check()


def segments(world: EngineWorld) -> list[str]:
    return sorted(path for path in world.disk.files if path.startswith(WAL) and not path.endswith(".tmp"))


def long_log(world: EngineWorld) -> None:
    world.insert(world.db.catalog.table("t"), *([number, "x" * 900] for number in range(3000)))  # type: ignore[arg-type]
    world.rest()
    assert len(segments(world)) >= 3


def missing(world: EngineWorld) -> None:
    del world.disk.files[segments(world)[1]]


def newest_missing(world: EngineWorld) -> None:
    del world.disk.files[segments(world)[-1]]


def bit_flipped(world: EngineWorld) -> None:
    world.disk.files[segments(world)[1]][300_000] ^= 1


def first_missing(world: EngineWorld) -> None:
    del world.disk.files[segments(world)[0]]


@pytest.mark.parametrize("damage", [missing, newest_missing, bit_flipped, first_missing])
def test_a_hole_in_the_log_is_refused_by_name_and_nothing_is_changed(damage: Callable[[EngineWorld], None]) -> None:
    world = begun(suspend=False)
    long_log(world)
    world.crash()
    damage(world)
    before = {path: bytes(data) for path, data in world.disk.files.items()}
    with pytest.raises(LogHole) as caught:
        world.start()
    assert "0/" in str(caught.value) and caught.value.hint
    assert {path: bytes(data) for path, data in world.disk.files.items()} == before


def test_a_failed_sync_in_restart_stops_it_and_the_next_one_goes_through() -> None:
    for part in (WAL, "pages.", "control"):
        world = begun(suspend=False)
        world.insert(world.db.catalog.table("t"), [1, "x"])  # type: ignore[arg-type]
        world.crash()
        world.disk.fail_sync = lambda path, part=part: part in path  # type: ignore[misc]
        with pytest.raises(SyncFailed):
            world.start()
        world.crash()
        world.start()
        assert world.rows(world.db.catalog.table("t")) == [[1, "x"]]  # type: ignore[arg-type]
        world.check()


def test_page_files_are_synced_while_the_log_is_analysed() -> None:
    """After a kill the cache may hold hundreds of megabytes: whoever waits for service waits for the longer of the two."""
    world = begun(suspend=True)
    world.crash()
    began: list[str] = []

    async def hold(path: str) -> None:
        if "pages." in path and "held" not in began:
            began.append("held")
            assert "recovery.analysis" not in world.names()
            while "recovery.analysis" not in world.names():
                await world.tasks.yield_now()
            assert "recovery.redo" not in world.names()  # W4: and nothing goes on before it has ended
            began.append("analysed meanwhile")

    world.seen.clear()
    world.disk.hold_sync = hold
    world.start()
    assert began == ["held", "analysed meanwhile"]
    verify(world, [])


def test_no_sync_is_left_running_by_a_restart_that_is_refused() -> None:
    world = begun(suspend=True)
    long_log(world)
    world.crash()
    missing(world)
    ended: list[str] = []

    async def hold(path: str) -> None:
        for _ in range(50):
            await world.tasks.yield_now()
        ended.append(path)

    world.disk.hold_sync = hold
    with pytest.raises(LogHole):
        world.start()
    assert any("pages." in path for path in ended)


def test_a_checkpoint_s_tables_of_many_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "CHUNK", 3)
    world = begun(suspend=True)
    db, table = world.db, world.db.catalog.table("t")
    assert table is not None
    world.insert(table, *([number, "x" * 900] for number in range(60)))
    losers = [db.begin() for _ in range(8)]
    for number, txn in enumerate(losers):
        world.run(db.insert(txn, table, [1000 + number, "loser"]))
    checkpoint = world.tasks.spawn(db.checkpoint())
    commits = [world.tasks.spawn(txn.commit()) for txn in losers[:4]]  # while its tables are being written
    late = db.begin()
    world.run(db.insert(late, table, [2000, "late loser"]))
    world.rest(1)
    assert checkpoint.done() and all(task.done() for task in commits)
    db = world.restart()
    assert db.restarted.losers == 5  # type: ignore[union-attr]
    assert [row[0] for row in world.rows(db.catalog.table("t"))] == [*range(60), *range(1000, 1004)]  # type: ignore[arg-type]
    world.check()


def test_a_checkpoint_that_did_not_end_does_not_count() -> None:
    for at in range(1, 60, 4):
        world = begun(suspend=True)
        world.insert(world.db.catalog.table("t"), *([number, "x" * 900] for number in range(40)))  # type: ignore[arg-type]
        task = world.tasks.spawn(world.db.checkpoint())
        turn(world, task, at)
        world.restart()
        assert len(world.rows(world.db.catalog.table("t"))) == 40  # type: ignore[arg-type]


def test_log_is_removed_only_below_what_is_needed() -> None:
    world = begun(suspend=False)
    db, table = world.db, world.db.catalog.table("t")
    assert table is not None
    old = db.begin()
    world.run(db.insert(old, table, [999_999, "open all the time"]))
    for start in range(0, 4000, 1000):
        world.insert(table, *([number, "x" * 900] for number in range(start, start + 1000)))
        world.run(db.checkpointer.run(flush_all=True))
    assert "wal.segment_removed" not in world.names() and db.log.oldest_lsn <= old.first_lsn
    world.run(old.rollback())
    for _ in range(2):
        world.run(db.checkpointer.run(flush_all=True))
    assert "wal.segment_removed" in world.names()
    db = world.restart()
    assert len(world.rows(db.catalog.table("t"))) == 4000  # type: ignore[arg-type]
    world.check()


def test_checkpoints_come_by_time_and_by_log_and_not_when_idle() -> None:
    world = EngineWorld(checkpoint_interval=2000, max_wal_size=1 << 20)
    db = world.start()
    table = world.table()
    world.rest(30)
    idle = db.checkpointer.count
    world.rest(30)
    assert db.checkpointer.count - idle <= 1
    world.insert(table, [1, "x"])
    world.rest(5)
    by_time = db.checkpointer.count
    assert by_time > idle
    world.insert(table, *([number, "x" * 900] for number in range(2, 800)))
    world.rest(0.5)
    assert db.checkpointer.count > by_time


def test_the_cleaner_keeps_the_log_to_redo_short() -> None:
    world = EngineWorld(recovery_target=1000, buffer_pool_size=64 << 20)
    db = world.start()
    table = world.table()
    for start in range(0, 26_000, 2000):
        world.insert(table, *([number, "x" * 900] for number in range(start, start + 2000)))
        world.rest(1)
    allowed = 20 << 20
    assert db.log.next_lsn > allowed
    unwritten = [page.rec_lsn for page in db.pool.resident_pages() if page.rec_lsn]
    assert db.log.next_lsn - min(unwritten) <= allowed + (4 << 20)


def test_another_segment_size_from_one_life_to_the_next() -> None:
    world = begun(suspend=False)
    for number, size in enumerate((2 << 20, 1 << 20, 4 << 20)):
        world.insert(world.db.catalog.table("t"), *([number * 1000 + n, "x" * 900] for n in range(900)))  # type: ignore[arg-type]
        world.close()
        world.config = replace(world.config, wal_segment_size=size)
        world.restart()
        world.check()
    world.insert(world.db.catalog.table("t"), *([9000 + n, "x" * 900] for n in range(900)))  # type: ignore[arg-type]
    world.restart()
    assert len(world.rows(world.db.catalog.table("t"))) == 3600  # type: ignore[arg-type]


def test_both_control_slots_older_than_the_newest_write_is_enough() -> None:
    """One slot torn by the power cut: the other has the checkpoint before, whose log is still there."""
    world = begun(suspend=False)
    db, table = world.db, world.db.catalog.table("t")
    assert table is not None
    for start in range(3):
        world.insert(table, *([start * 1000 + number, "x" * 900] for number in range(1000)))
        world.run(db.checkpointer.run(flush_all=True))
    world.crash()
    for slot in (0, 4096):
        copy = EngineWorld()
        copy.disk = world.disk.survivor(None, power=False)
        copy.disk.files[f"{DATA}/control"][slot + 50] ^= 1
        copy.start()
        assert len(copy.rows(copy.db.catalog.table("t"))) == 3000  # type: ignore[arg-type]
        copy.check()


def test_time_that_went_back_between_two_lives_changes_nothing() -> None:
    world = begun(suspend=False)
    world.insert(world.db.catalog.table("t"), [1, "x"])  # type: ignore[arg-type]
    world.crash()
    world.clock.wall_offset_ns -= 400 * 86_400 * SECOND_NS
    world.start()
    world.run(in_txn(world.db, lambda txn: world.db.insert(txn, world.db.catalog.table("t"), [2, "y"])))  # type: ignore[arg-type]
    world.restart()
    assert len(world.rows(world.db.catalog.table("t"))) == 2  # type: ignore[arg-type]


def test_a_checkpoint_whose_end_is_cut_off_is_named() -> None:
    world = begun(suspend=False)
    world.run(world.db.checkpoint())
    world.crash()
    path = segments(world)[-1]
    state = world.db.control.state
    begin = 512 + state.checkpoint_lsn - 0x1000
    data = world.disk.files[path]
    data[begin:] = bytes(len(data) - begin)
    with pytest.raises(Corruption, match="is not whole in the log|damaged"):
        world.start()


def test_a_restart_keeps_nothing_for_each_transaction_that_has_ended() -> None:
    """A log of 20 GB may have tens of millions of them (A5)."""
    world = begun(suspend=False)
    world.run(world.db.checkpoint())
    table = world.db.catalog.table("t")
    for number in range(300):
        world.run(in_txn(world.db, lambda txn, number=number: world.db.insert(txn, table, [number, "x"])))  # type: ignore[misc]
    state = world.db.control.state
    world.crash()

    async def analysed() -> _Pass:
        reader = LogReader(world.disk, WAL, state.system_id)
        await reader.load()
        found = _Pass(state.checkpoint_lsn)
        async for segment in reader.scan(state.checkpoint_lsn, newest_segment=state.newest_segment):
            found.segment(segment)
        return found

    found = world.run(analysed())
    assert found.complete and found.records > 600 and not found.losers
    assert not found.ended  # they matter only until the checkpoint's tables have come


class NoChanges(chain.Chains):
    async def changes(self, page_no: int, rec_lsn: int, newest_lsn: int) -> tuple[list[chain.Change], Any]:
        return [], []


def test_a_page_made_anew_while_its_old_form_is_read_is_left_alone() -> None:
    world = begun(suspend=False)
    dirty = DirtyColumns()
    dirty.merge(9, 50, 60, 0)
    deferred = redo.Deferred(world.db.access, Events(), NoChanges(LogReader(world.disk, WAL, 1), Events()), dirty)
    made = Page(9, PageKind.LEAF)
    made.page_lsn = 100

    async def read(page_no: int) -> Page:
        deferred.forget(page_no)  # as the pool does it for a page that is created
        return made

    assert world.run(deferred.bring_up(9, read)) is made
    assert made.rec_lsn == 0  # it may be written and clean by now: only the pool knows

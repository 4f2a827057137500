"""Commits: when they are answered, what they reveal and when, and how they end when nobody waits for them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.engine.world import SECOND_NS, WAL, EngineWorld, delete, read, update
from thunderdb.base.errors import NodeStopped, SqlError, SyncFailed
from thunderdb.runtime.sync import Future
from thunderdb.txn.manager import REPEATABLE_READ


class Gate:
    """Holds back the log's syncs until it is opened."""

    def __init__(self, world: EngineWorld) -> None:
        self.world = world
        self.future: Future[None] = world.tasks.future()
        world.disk.hold_sync = self.pass_

    async def pass_(self, path: str) -> None:
        if path.startswith(WAL):
            await self.future

    def open(self) -> None:
        self.world.disk.hold_sync = None
        self.future.set_result(None)
        self.world.settle()


def with_row(**settings: Any) -> tuple[EngineWorld, Any]:
    world = EngineWorld(**settings)
    world.start()
    table = world.table()
    world.insert(table, [1, "old"], [2, "two"])
    world.rest()
    return world, table


def test_a_commit_is_answered_only_when_it_is_durable() -> None:
    world, table = with_row()
    db = world.db
    gate = Gate(world)
    txn = db.begin()
    world.spawn(update(db, txn, table, [1, "new"])).result()
    commit = world.spawn(txn.commit())
    assert not commit.done() and txn.status == "committing"
    gate.open()
    assert commit.done() and txn.status == "committed"
    db = world.restart()
    assert world.rows(db.catalog.table("t"))[0] == [1, "new"]


def test_no_read_reveals_a_commit_that_is_not_durable() -> None:
    world, table = with_row()
    db = world.db
    gate = Gate(world)
    txn, reader = db.begin(), db.begin()
    world.spawn(update(db, txn, table, [1, "new"])).result()
    commit = world.spawn(txn.commit())
    assert world.spawn(read(db, reader, table, 1)).result() == "old"
    other = db.begin()
    waiting = world.spawn(update(db, other, table, [1, "other"]))
    assert not waiting.done()  # the lock is kept as long
    gate.open()
    assert commit.done() and waiting.done()
    assert world.spawn(read(db, reader, table, 1)).result() == "new"
    world.run(other.rollback())


def test_a_checkpoint_between_a_commit_s_append_and_its_flush_does_not_undo_it() -> None:
    world, table = with_row()
    db = world.db
    gate = Gate(world)
    txn = db.begin()
    world.spawn(update(db, txn, table, [1, "new"])).result()
    commit = world.spawn(txn.commit())
    checkpoint = world.spawn(db.checkpoint())
    assert not commit.done() and not checkpoint.done()
    assert db.manager.table() == [] and db.manager.is_active(txn.id)
    gate.open()
    assert commit.done() and checkpoint.done()
    db = world.restart()
    assert db.restarted.losers == 0
    assert world.rows(db.catalog.table("t"))[0] == [1, "new"]


def test_sync_commit_off_is_answered_at_once_and_flushed_soon() -> None:
    world, table = with_row()
    db = world.db
    gate = Gate(world)
    txn = db.begin(sync_commit=False)
    world.spawn(update(db, txn, table, [1, "new"])).result()
    assert world.spawn(txn.commit()).done()
    assert world.spawn(read(db, db.begin(), table, 1)).result() == "new"
    lost = db.log.next_lsn
    assert db.log.flushed_lsn < lost
    gate.open()
    assert db.log.flushed_lsn >= lost


def test_sync_commit_off_may_lose_the_end_and_never_the_order() -> None:
    world, table = with_row(sync_commit=False)
    db = world.db
    gate = Gate(world)
    for number in range(10, 20):
        txn = db.begin()
        world.spawn(db.insert(txn, table, [number, "x"])).result()
        world.spawn(txn.commit()).result()
    assert not gate.future.done()
    db = world.restart()
    kept = [row[0] for row in world.rows(db.catalog.table("t"))]
    assert kept == [1, 2, *range(10, 10 + len(kept) - 2)] and len(kept) < 12
    world.check()


def test_a_failed_sync_leaves_the_commit_unknown_and_stops_the_node() -> None:
    world, table = with_row()
    db = world.db
    stopped: list[BaseException] = []
    db.on_fatal = stopped.append
    txn = db.begin()
    world.run(update(db, txn, table, [1, "new"]))
    world.disk.fail_sync = lambda path: path.startswith(WAL)
    with pytest.raises(SyncFailed):
        world.run(txn.commit())
    assert txn.status == "unknown" and len(stopped) == 1 and db.failure is stopped[0]
    with pytest.raises(NodeStopped):
        db.begin()
    world.run(txn.rollback())  # is too late, and changes nothing
    assert txn.status == "unknown" and db.manager.is_active(txn.id)
    world.disk.fail_sync = lambda path: False
    with pytest.raises(SyncFailed):
        world.run(db.log.flush_all())
    db = world.restart()
    assert world.rows(db.catalog.table("t"))[0][1] in ("old", "new")
    world.check()


def test_a_client_that_goes_away_in_its_commit_has_committed() -> None:
    world, table = with_row()
    db = world.db
    gate = Gate(world)
    txn = db.begin()
    world.spawn(update(db, txn, table, [1, "new"])).result()
    commit = world.spawn(txn.commit())
    commit.cancel()
    world.settle()
    world.run(txn.rollback())  # what a session does that ends; it must not undo what may be durable
    gate.open()
    world.rest()
    assert txn.status == "committed"
    assert world.rows(table)[0] == [1, "new"]
    assert (db.gauges()["locks_held"], db.gauges()["transactions_active"]) == (0, 0)
    world.check()


def test_a_client_that_goes_away_in_a_commit_that_then_fails() -> None:
    world, table = with_row()
    db = world.db
    gate = Gate(world)
    txn = db.begin()
    world.spawn(update(db, txn, table, [1, "new"])).result()
    commit = world.spawn(txn.commit())
    commit.cancel()
    world.settle()
    world.disk.fail_sync = lambda path: path.startswith(WAL)
    second = db.begin()
    world.spawn(db.insert(second, table, [9, "x"])).result()
    db.log._fail(SyncFailed("cannot sync"))
    gate.open()
    assert txn.status == "unknown" and "txn.unknown" in world.names()


def test_a_client_that_goes_away_while_it_waits_for_a_lock_leaves_no_lock_behind() -> None:
    world, table = with_row()
    db = world.db
    holder, waiter, third = db.begin(), db.begin(), db.begin()
    world.run(update(db, holder, table, [1, "a"]))
    task = world.spawn(update(db, waiter, table, [1, "b"]))
    task.cancel()
    world.settle()
    world.run(waiter.rollback())
    world.run(holder.commit())
    world.run(update(db, third, table, [1, "c"]))
    world.run(third.commit())
    assert world.rows(table)[0] == [1, "c"]
    assert db.gauges()["locks_held"] == 0


def test_a_transaction_that_changed_nothing_writes_nothing() -> None:
    world, table = with_row()
    db = world.db
    before = db.log.next_lsn
    for end in ("commit", "rollback"):
        txn = db.begin()
        world.run(read(db, txn, table, 1))
        world.run(getattr(txn, end)())
        world.run(txn.rollback())  # ended: nothing more to do
    assert db.log.next_lsn == before


def test_read_only_transactions_may_not_write() -> None:
    world, table = with_row()
    txn = world.db.begin(read_only=True)
    with pytest.raises(SqlError) as caught:
        world.run(world.db.insert(txn, table, [5, "x"]))
    assert caught.value.sqlstate == "25006"


def test_group_commit_shares_one_sync() -> None:
    world, table = with_row(suspend=True)
    db = world.db
    txns = [db.begin() for _ in range(20)]
    for number, txn in enumerate(txns):
        world.run(db.insert(txn, table, [100 + number, "x"]))
    syncs = world.disk.syncs
    tasks = [world.tasks.spawn(txn.commit()) for txn in txns]
    world.rest(1)
    assert all(task.done() for task in tasks)
    assert world.disk.syncs - syncs <= 4


def test_order_times_ascend_over_clock_steps_and_restarts() -> None:
    world, table = with_row()
    db = world.db
    seen = [db.manager.order.last_us]
    for offset_s in (0, 3600, -7200, 0, 5):
        world.clock.wall_offset_ns += offset_s * SECOND_NS
        world.update(table, [1, f"at {offset_s}"])
        seen.append(db.manager.order.last_us)
    assert seen == sorted(set(seen))
    assert world.names().count("clock.step") == 3  # the last one of 5 s and the two of hours
    world.clock.wall_offset_ns -= 86_400 * SECOND_NS
    db = world.restart()
    assert db.manager.order.last_us >= seen[-1]
    world.update(db.catalog.table("t"), [1, "later"])
    assert db.manager.order.last_us > seen[-1]


def test_at_repeatable_read_the_first_snapshot_stays() -> None:
    world, table = with_row()
    db = world.db
    txn = db.begin(REPEATABLE_READ)
    assert txn.new_snapshot() is txn.new_snapshot()
    txn.end_statement()
    assert txn.snapshot is not None
    world.run(txn.commit())
    assert txn.snapshot is None and db.manager.snapshots == {}
    reader = db.begin()
    first = reader.new_snapshot()
    world.delete(table, 2)
    assert reader.new_snapshot() is not first
    reader.end_statement()
    assert db.manager.snapshots == {}
    assert world.run(delete(db, reader, table, 2)) is False


def test_a_rollback_that_meets_damaged_log_stops_the_node() -> None:
    world, table = with_row()
    db = world.db
    txn = db.begin()
    world.run(update(db, txn, table, [1, "new"]))
    txn.last_lsn = db.manager.begin().last_lsn + 5000  # a chain that leads to what is no record
    with pytest.raises(NodeStopped, match="cannot be rolled back"):
        world.run(txn.rollback())
    assert txn.status == "unknown" and db.manager.is_active(txn.id)
    other = db.begin()
    world.run(db.insert(other, table, [7, "x"]))
    other.last_lsn, other.id = db.log.last_lsn, other.id + 100  # a record of another transaction
    with pytest.raises(NodeStopped, match="belongs to transaction"):
        world.run(other.rollback())

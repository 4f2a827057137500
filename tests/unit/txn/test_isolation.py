"""What each isolation level promises: the Hermitage cases, as far as READ COMMITTED and REPEATABLE READ go.

A statement that changes a row locks it and works on what it then finds (at READ COMMITTED), as SQL does.
Source: Martin Kleppmann, Hermitage (2014); Berenson et al., "A critique of ANSI SQL isolation levels" (1995).
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import pytest

from tests.unit.engine.world import EngineWorld, delete, in_txn, key_of, read, rows, update
from thunderdb.base.errors import DeadlockDetected, SerializationFailure, SnapshotTooOld
from thunderdb.runtime.sync import Task
from thunderdb.txn import versions
from thunderdb.txn.manager import READ_COMMITTED, REPEATABLE_READ, Txn

BOTH = pytest.mark.parametrize("level", [READ_COMMITTED, REPEATABLE_READ])
SUSPEND = pytest.mark.parametrize("suspend", [False, True])


class Hermitage:
    """The table test(id, value) with (1, "10") and (2, "20"), and two or three transactions."""

    def __init__(self, level: str, suspend: bool = False) -> None:
        self.world = EngineWorld(suspend=suspend)
        self.db = self.world.start()
        self.table = self.world.table()
        self.world.insert(self.table, [1, "10"], [2, "20"])
        self.t1, self.t2, self.t3 = (self.db.begin(level) for _ in range(3))

    def do(self, coro: Coroutine[Any, Any, Any]) -> Any:
        return self.world.run(coro)

    def wait(self, coro: Coroutine[Any, Any, Any]) -> Task[Any]:
        task = self.world.spawn(coro)
        assert not task.done(), "it should have had to wait"
        return task

    def set(self, txn: Txn, key: int, value: str) -> Coroutine[Any, Any, Any]:
        return update(self.db, txn, self.table, [key, value])

    def get(self, txn: Txn, key: int) -> str | None:
        value: str | None = self.do(read(self.db, txn, self.table, key))
        return value

    def all(self, txn: Txn | None = None) -> list[str]:
        return [value for _key, value in self.do(rows(self.db, self.table, txn))]

    def ends(self, task: Task[Any]) -> BaseException | None:
        self.world.rest(1)
        assert task.done()
        return task.error()


@SUSPEND
@BOTH
def test_g0_write_cycles(level: str, suspend: bool) -> None:
    h = Hermitage(level, suspend)
    h.do(h.set(h.t1, 1, "11"))
    second = h.world.spawn(h.set(h.t2, 1, "12"))
    h.do(h.set(h.t1, 2, "21"))
    h.do(h.t1.commit())
    error = h.ends(second)
    if level == READ_COMMITTED:
        assert error is None and h.all() == ["11", "21"]
        h.do(h.set(h.t2, 2, "22"))
        h.do(h.t2.commit())
        assert h.all() == ["12", "22"]
    else:
        # t2 had no snapshot before its first statement; that statement's snapshot was taken before t1 committed.
        assert isinstance(error, SerializationFailure) and error.sqlstate == "40001"
        h.do(h.t2.rollback())
        assert h.all() == ["11", "21"]


@BOTH
def test_g1a_aborted_reads(level: str) -> None:
    h = Hermitage(level)
    h.do(h.set(h.t1, 1, "101"))
    assert h.all(h.t2) == ["10", "20"]
    h.do(h.t1.rollback())
    assert h.all(h.t2) == ["10", "20"]


@BOTH
def test_g1b_intermediate_reads(level: str) -> None:
    h = Hermitage(level)
    h.do(h.set(h.t1, 1, "101"))
    assert h.all(h.t2) == ["10", "20"]
    h.do(h.set(h.t1, 1, "11"))
    h.do(h.t1.commit())
    assert h.all(h.t2) == (["11", "20"] if level == READ_COMMITTED else ["10", "20"])


@BOTH
def test_g1c_circular_information_flow(level: str) -> None:
    h = Hermitage(level)
    h.do(h.set(h.t1, 1, "11"))
    h.do(h.set(h.t2, 2, "22"))
    assert h.get(h.t1, 2) == "20" and h.get(h.t2, 1) == "10"
    h.do(h.t1.commit())
    h.do(h.t2.commit())


@BOTH
def test_otv_observed_transaction_vanishes(level: str) -> None:
    h = Hermitage(level)
    h.do(h.set(h.t1, 1, "11"))
    h.do(h.set(h.t1, 2, "19"))
    second = h.wait(h.set(h.t2, 1, "12"))
    h.do(h.t1.commit())
    error = h.ends(second)
    if level == REPEATABLE_READ:
        assert isinstance(error, SerializationFailure)
        return
    assert h.get(h.t3, 1) == "11"
    h.do(h.set(h.t2, 2, "18"))
    assert h.get(h.t3, 2) == "19"
    h.do(h.t2.commit())
    assert h.all(h.t3) == ["12", "18"]


@BOTH
def test_pmp_predicate_many_preceders(level: str) -> None:
    h = Hermitage(level)
    assert "30" not in h.all(h.t1)
    h.do(h.db.insert(h.t2, h.table, [3, "30"]))
    h.do(h.t2.commit())
    assert ("30" in h.all(h.t1)) == (level == READ_COMMITTED)


def test_pmp_for_a_write_predicate_at_read_committed() -> None:
    """The deleter waits for the row and then judges what it finds there."""
    h = Hermitage(READ_COMMITTED)

    async def delete_where_20(txn: Txn) -> int:
        count = 0
        for key, _value in await rows(h.db, h.table, txn):
            name = key_of(h.db, h.table, key)
            payload = await h.db.rows.lock_row(txn, h.table, name)
            if payload is not None and h.db.rows.table(h.table).row.decode(payload)[1] == "20":
                await h.db.rows.delete(txn, h.table, name, payload)
                count += 1
        return count

    h.do(h.set(h.t1, 1, "20"))
    h.do(h.set(h.t1, 2, "30"))
    task = h.wait(delete_where_20(h.t2))
    h.do(h.t1.commit())
    assert h.ends(task) is None and task.result() == 1
    h.do(h.t2.commit())
    assert h.all() == ["30"]


@BOTH
def test_p4_lost_update(level: str) -> None:
    h = Hermitage(level)
    assert h.get(h.t1, 1) == h.get(h.t2, 1) == "10"
    h.do(h.set(h.t1, 1, "11"))
    second = h.wait(h.set(h.t2, 1, "12"))
    h.do(h.t1.commit())
    error = h.ends(second)
    assert (error is None) if level == READ_COMMITTED else isinstance(error, SerializationFailure)


def test_p4_is_no_conflict_if_the_first_rolls_back() -> None:
    h = Hermitage(REPEATABLE_READ)
    assert h.get(h.t2, 1) == "10"
    h.do(h.set(h.t1, 1, "11"))
    second = h.wait(h.set(h.t2, 1, "12"))
    h.do(h.t1.rollback())
    assert h.ends(second) is None
    h.do(h.t2.commit())
    assert h.all() == ["12", "20"]


def test_g_single_read_skew() -> None:
    h = Hermitage(REPEATABLE_READ)
    assert h.get(h.t1, 1) == "10"
    h.do(h.set(h.t2, 1, "12"))
    h.do(h.set(h.t2, 2, "18"))
    h.do(h.t2.commit())
    assert h.get(h.t1, 2) == "20"
    with pytest.raises(SerializationFailure):
        h.do(delete(h.db, h.t1, h.table, 2))


def test_g_single_with_a_row_deleted_under_a_repeatable_reader() -> None:
    h = Hermitage(REPEATABLE_READ)
    assert h.get(h.t1, 1) == "10"
    h.do(delete(h.db, h.t2, h.table, 1))
    h.do(h.t2.commit())
    h.world.rest()  # the sweeper must leave the ghost
    assert h.all(h.t1) == ["10", "20"]
    with pytest.raises(SerializationFailure):
        h.do(h.set(h.t1, 1, "x"))


@BOTH
def test_a_deadlock_of_two_and_of_three(level: str) -> None:
    h = Hermitage(level)
    h.world.insert(h.table, [3, "30"])
    h.do(h.set(h.t1, 1, "a"))
    h.do(h.set(h.t2, 2, "b"))
    first = h.wait(h.set(h.t1, 2, "a"))
    with pytest.raises(DeadlockDetected):
        h.do(h.set(h.t2, 1, "b"))
    h.do(h.t2.rollback())
    assert h.ends(first) is None
    h.do(h.t1.rollback())
    one, two, three = (h.db.begin(level) for _ in range(3))
    for key, txn in enumerate((one, two, three), 1):
        h.do(h.set(txn, key, "x"))
    h.wait(h.set(one, 2, "x"))
    h.wait(h.set(two, 3, "x"))
    with pytest.raises(DeadlockDetected):
        h.do(h.set(three, 1, "x"))
    assert h.db.gauges()["deadlocks_total"] == 2


# -- Versions


def history(h: Hermitage, count: int) -> list[tuple[Txn, str]]:
    """One REPEATABLE READ reader after each of `count` updates."""
    readers = []
    for number in range(count):
        h.world.update(h.table, [1, f"v{number}"])
        reader = h.db.begin(REPEATABLE_READ)
        reader.new_snapshot()
        readers.append((reader, f"v{number}"))
    return readers


@SUSPEND
def test_every_snapshot_sees_its_own_version_from_memory_and_from_the_log(suspend: bool) -> None:
    h = Hermitage(READ_COMMITTED, suspend)
    readers = history(h, 12)
    h.world.delete(h.table, 1)
    assert [h.get(reader, 1) for reader, _value in readers] == [value for _reader, value in readers]
    h.db.manager.versions.forget()
    h.db.manager.versions.forget()
    assert [h.all(reader)[0] for reader, _value in readers] == [value for _reader, value in readers]
    assert h.get(h.t1, 1) is None


def test_the_version_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    h = Hermitage(READ_COMMITTED)
    monkeypatch.setattr(versions, "CACHE_BYTES", 2000)
    readers = history(h, 60)
    cache = h.db.manager.versions
    assert 0 < len(cache._young) + len(cache._old) <= 2000 // 150
    assert [h.get(reader, 1) for reader, _value in readers] == [value for _reader, value in readers]
    assert len(cache._young) + len(cache._old) <= 2000 // 150


def test_a_chain_of_versions_longer_than_the_cache_is_followed_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    h = Hermitage(READ_COMMITTED)
    monkeypatch.setattr(versions, "CACHE_BYTES", 2000)
    reader = h.db.begin(REPEATABLE_READ)
    reader.new_snapshot()
    for number in range(100):
        h.world.update(h.table, [1, f"v{number}"])
    assert h.get(reader, 1) == "10"
    assert h.all(reader) == ["10", "20"]


def test_a_snapshot_keeps_a_bounded_number_of_what_it_found(monkeypatch: pytest.MonkeyPatch) -> None:
    h = Hermitage(READ_COMMITTED)
    monkeypatch.setattr(versions, "FOUND_ENTRIES", 50)
    h.world.insert(h.table, *([number, "old"] for number in range(10, 400)))
    reader = h.db.begin(REPEATABLE_READ)
    snapshot = reader.new_snapshot()
    for number in range(10, 400):
        h.world.update(h.table, [number, "new"])
    h.db.manager.versions.forget()
    h.db.manager.versions.forget()
    assert [h.get(reader, number) for number in range(10, 400)] == ["old"] * 390
    assert len(snapshot.found) <= 50


def test_a_snapshot_from_before_an_insert_does_not_see_it_nor_its_update() -> None:
    h = Hermitage(READ_COMMITTED)
    reader = h.db.begin(REPEATABLE_READ)
    reader.new_snapshot()
    h.world.insert(h.table, [3, "new"])
    h.world.update(h.table, [3, "newer"])
    h.db.manager.versions.forget()
    h.db.manager.versions.forget()
    assert h.get(reader, 3) is None and h.all(reader) == ["10", "20"]


def test_log_that_a_snapshot_needs_stays_and_without_it_the_error_says_so() -> None:
    h = Hermitage(READ_COMMITTED)
    reader = h.db.begin(REPEATABLE_READ)
    reader.new_snapshot()
    for number in range(3):
        h.world.update(h.table, [1, f"v{number}"])
    h.world.insert(h.table, *([number, "x" * 900] for number in range(100, 1600)))
    h.do(h.db.checkpointer.run(flush_all=True))
    h.do(h.db.checkpointer.run(flush_all=True))
    assert h.db.log.oldest_lsn <= reader.snapshot.log_floor  # type: ignore[union-attr]
    h.db.manager.versions.forget()
    h.db.manager.versions.forget()
    assert h.get(reader, 1) == "10"
    reader.snapshot.found.clear()  # type: ignore[union-attr]
    h.db.manager.versions.forget()
    h.db.manager.versions.forget()
    h.do(h.db.log.remove_below(h.db.log.flushed_lsn))  # what only a limit on the log kept for snapshots would do
    with pytest.raises(SnapshotTooOld, match="snapshot too old") as caught:
        h.get(reader, 1)
    assert caught.value.sqlstate == "72000"
    assert h.get(h.t1, 1) == "v2"


def test_a_reader_that_meets_a_rollback_half_way_sees_the_committed_row() -> None:
    h = Hermitage(READ_COMMITTED, suspend=True)
    for number in range(200):
        h.do(h.set(h.t1, 1, f"dirty {number}"))
    h.db.manager.versions.forget()
    h.db.manager.versions.forget()
    rollback = h.world.tasks.spawn(h.t1.rollback())
    seen = []
    while not rollback.done():
        h.world.scheduler.turn()
        seen.append(h.get(h.t2, 1))
    assert set(seen) == {"10"} and len(seen) > 1


def test_ghosts_go_only_when_no_snapshot_sees_them() -> None:
    h = Hermitage(READ_COMMITTED)
    reader = h.db.begin(REPEATABLE_READ)
    reader.new_snapshot()
    h.world.delete(h.table, 1)
    h.world.rest()
    leaf = h.db.pool.get(h.table.root)
    assert len(leaf.keys) == 2
    h.do(reader.commit())
    h.world.rest()
    assert len(leaf.keys) == 1
    h.world.check()


def test_own_changes_are_seen_and_a_savepoint_takes_them_back() -> None:
    h = Hermitage(REPEATABLE_READ)
    h.do(h.set(h.t1, 1, "own"))
    mark = h.t1.savepoint()
    h.do(h.set(h.t1, 1, "later"))
    h.do(h.db.insert(h.t1, h.table, [3, "30"]))
    inner = h.t1.savepoint()
    h.do(delete(h.db, h.t1, h.table, 2))
    assert h.all(h.t1) == ["later", "30"]
    h.do(h.t1.rollback_to(inner))
    assert h.all(h.t1) == ["later", "20", "30"]
    h.do(h.t1.rollback_to(mark))
    h.do(h.t1.rollback_to(mark))
    assert h.all(h.t1) == ["own", "20"]
    assert h.all(h.t2) == ["10", "20"]
    waiter = h.wait(h.set(h.db.begin(), 2, "x"))  # a partial rollback keeps its locks
    h.do(h.t1.commit())
    assert h.ends(waiter) is None
    assert h.all() == ["own", "20"]


@BOTH
def test_statements_of_one_transaction_in_a_loop_with_savepoints_and_crash(level: str) -> None:
    h = Hermitage(level)
    txn = h.db.begin(level)
    for number in range(30):
        mark = txn.savepoint()
        h.do(h.db.insert(txn, h.table, [100 + number, f"n{number}"]))
        if number % 3 == 0:
            h.do(txn.rollback_to(mark))
    h.do(h.world.db.log.flush_all())
    db = h.world.restart()
    table = db.catalog.table("t")
    assert table is not None
    assert h.world.rows(table) == [[1, "10"], [2, "20"]] and db.restarted.losers == 1
    h.world.run(in_txn(db, lambda again: db.insert(again, table, [100, "again"])))
    h.world.check()

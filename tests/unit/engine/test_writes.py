"""Rows and their keys: uniqueness against what others have not yet committed, rows without a key, changes of the key."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.engine.world import EngineWorld, delete, in_txn, key_of, rows, update
from thunderdb.access.keys import KeyCodec
from thunderdb.base.errors import QueryCancelled, SqlError, UniqueViolation
from thunderdb.runtime.sync import Task
from thunderdb.txn.manager import REPEATABLE_READ


class Bench:
    """t(a primary key, b, c unique) with two rows."""

    def __init__(self, suspend: bool = False) -> None:
        self.world = EngineWorld(suspend=suspend)
        self.db = self.world.start()
        self.table = self.world.table(types=("int4", "text", "int4"), uniques=[("c_key", (2,))])
        self.world.insert(self.table, [1, "one", 10], [2, "two", 20])

    def do(self, coro: Any) -> Any:
        return self.world.run(coro)

    def wait(self, coro: Any) -> Task[Any]:
        task = self.world.spawn(coro)
        self.world.rest(1)
        assert not task.done(), "it should have had to wait"
        return task

    def ended(self, task: Task[Any]) -> BaseException | None:
        self.world.rest(1)
        assert task.done()
        return task.error()


CLASH = pytest.mark.parametrize(("row", "constraint"), [([1, "again", 99], "t_pkey"), ([9, "again", 10], "c_key")])


@CLASH
def test_a_duplicate_is_named_with_its_constraint_and_its_key(row: list[Any], constraint: str) -> None:
    b = Bench()
    txn = b.db.begin()
    with pytest.raises(UniqueViolation) as caught:
        b.do(b.db.insert(txn, b.table, row))
    assert constraint in str(caught.value) and caught.value.sqlstate == "23505"
    assert caught.value.detail == ("Key (a)=(1) already exists." if constraint == "t_pkey" else "Key (c)=(10) already exists.")
    b.do(txn.rollback())
    b.world.check()


@pytest.mark.parametrize("suspend", [False, True])
@pytest.mark.parametrize("end", ["commit", "rollback"])
@CLASH
def test_an_insert_waits_for_a_delete_that_is_not_committed(row: list[Any], constraint: str, end: str, suspend: bool) -> None:
    b = Bench(suspend)
    deleter, inserter = b.db.begin(), b.db.begin()
    assert b.do(delete(b.db, deleter, b.table, 1))
    task = b.wait(b.db.insert(inserter, b.table, row))
    b.do(getattr(deleter, end)())
    error = b.ended(task)
    if end == "commit":
        assert error is None
        b.do(inserter.commit())
        assert row in b.world.rows(b.table)
    else:
        assert isinstance(error, UniqueViolation) and constraint in str(error)
        b.do(inserter.rollback())
        assert b.world.rows(b.table)[0] == [1, "one", 10]
    b.world.check()


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_two_inserts_of_one_key(end: str) -> None:
    b = Bench()
    first, second = b.db.begin(), b.db.begin()
    b.do(b.db.insert(first, b.table, [5, "first", 50]))
    task = b.wait(b.db.insert(second, b.table, [5, "second", 51]))
    b.do(getattr(first, end)())
    error = b.ended(task)
    assert (error is None) == (end == "rollback")
    b.do(second.rollback() if error else second.commit())
    assert [row[1] for row in b.world.rows(b.table) if row[0] == 5] == ["first" if end == "commit" else "second"]
    b.world.check()


def test_an_update_of_a_unique_column_waits_too_and_frees_the_old_value_only_with_its_commit() -> None:
    b = Bench()
    mover, taker = b.db.begin(), b.db.begin()
    b.do(update(b.db, mover, b.table, [1, "one", 11]))
    task = b.wait(b.db.insert(taker, b.table, [3, "three", 10]))
    b.do(mover.commit())
    assert b.ended(task) is None
    b.do(taker.commit())
    clash = b.db.begin()
    with pytest.raises(UniqueViolation, match="c_key"):
        b.do(update(b.db, clash, b.table, [2, "two", 11]))
    b.do(clash.rollback())
    assert b.world.rows(b.table) == [[1, "one", 11], [2, "two", 20], [3, "three", 10]]
    b.world.check()


def test_insert_or_conflict_names_the_row_in_the_way_and_locks_it() -> None:
    b = Bench()
    txn = b.db.begin()
    by_key = b.do(b.db.rows.insert_or_conflict(txn, b.table, [1, "x", 99]))
    by_index = b.do(b.db.rows.insert_or_conflict(txn, b.table, [9, "x", 20]))
    assert by_key == ("t_pkey", key_of(b.db, b.table, 1)) and by_index == ("c_key", key_of(b.db, b.table, 2))
    task = b.wait(update(b.db, b.db.begin(), b.table, [2, "other", 20]))
    b.do(txn.commit())
    assert b.ended(task) is None


def test_nulls_are_never_duplicates() -> None:
    b = Bench()
    b.world.insert(b.table, [3, "x", None], [4, "x", None])
    b.do(in_txn(b.db, lambda txn: update(b.db, txn, b.table, [3, "y", 30])))
    b.do(in_txn(b.db, lambda txn: update(b.db, txn, b.table, [1, "y", None])))
    assert len(b.world.rows(b.table)) == 4
    b.world.check()


def test_a_null_in_the_primary_key_is_23502() -> None:
    b = Bench()
    with pytest.raises(SqlError) as caught:
        b.world.insert(b.table, [None, "x", 1])
    assert caught.value.sqlstate == "23502"


def test_a_change_of_the_primary_key_moves_the_row() -> None:
    b = Bench()

    async def move(txn: Any, old: int, row: list[Any]) -> None:
        key = key_of(b.db, b.table, old)
        payload = await b.db.rows.lock_row(txn, b.table, key)
        assert payload is not None
        await b.db.rows.update(txn, b.table, key, payload, row)

    b.do(in_txn(b.db, lambda txn: move(txn, 1, [7, "moved", 10])))
    assert b.world.rows(b.table) == [[2, "two", 20], [7, "moved", 10]]
    txn = b.db.begin()
    with pytest.raises(UniqueViolation, match="t_pkey"):
        b.do(move(txn, 7, [2, "clash", 10]))
    b.do(txn.rollback())
    assert b.world.rows(b.table) == [[2, "two", 20], [7, "moved", 10]]
    b.world.check()


def test_rows_without_a_primary_key_get_hidden_ascending_ones_that_survive() -> None:
    b = Bench()
    table = b.world.table("plain", pk=(), types=("int4",))
    b.world.insert(table, *([number] for number in (5, 3, 5, 1)))
    assert b.world.rows(table) == [[5], [3], [5], [1]]
    db = b.world.restart()
    table = db.catalog.table("plain")  # type: ignore[assignment]
    b.world.insert(table, [9])
    assert b.world.rows(table) == [[5], [3], [5], [1], [9]]
    b.world.check()


def test_a_cancelled_statement_stops_waiting() -> None:
    b = Bench()
    holder, waiter = b.db.begin(), b.db.begin()
    b.do(update(b.db, holder, b.table, [1, "x", 10]))
    task = b.wait(update(b.db, waiter, b.table, [1, "y", 10]))
    b.db.manager.locks.cancel_wait(waiter, QueryCancelled("canceling statement due to user request"))
    assert isinstance(b.ended(task), QueryCancelled)
    b.do(waiter.rollback())
    b.do(holder.commit())
    assert b.db.gauges()["locks_held"] == 0


@pytest.mark.parametrize("reverse", [False, True])
def test_scans_of_ranges_in_both_directions(reverse: bool) -> None:
    b = Bench()
    table = b.world.table("wide")
    b.world.insert(table, *([number, "x" * 200] for number in range(0, 1000, 2)))
    codec = KeyCodec(["int4"])

    async def scan(low: int | None, high: int | None) -> list[int]:
        txn = b.db.begin()
        txn.new_snapshot()
        bounds = [None if bound is None else codec.encode([bound]) for bound in (low, high)]
        decode = b.db.rows.table(table).row.decode
        found = [decode(payload)[0] async for batch in b.db.scan(txn, table.root, *bounds, reverse) for _key, payload in batch]
        await txn.commit()
        return found

    ranges = [(None, None), (100, 200), (101, 199), (None, 7), (990, None), (50, 50), (60, 40), (5000, None), (None, -5)]
    for low, high in ranges:
        wanted = [number for number in range(0, 1000, 2) if (low is None or number >= low) and (high is None or number < high)]
        assert b.do(scan(low, high)) == (wanted[::-1] if reverse else wanted), (low, high)


def test_a_statement_that_fails_is_undone_to_its_beginning_and_the_transaction_goes_on() -> None:
    b = Bench()
    txn = b.db.begin(REPEATABLE_READ)
    b.do(b.db.insert(txn, b.table, [3, "three", 30]))
    mark = txn.savepoint()
    b.do(b.db.insert(txn, b.table, [4, "four", 40]))
    with pytest.raises(UniqueViolation):
        b.do(b.db.insert(txn, b.table, [5, "five", 40]))
    b.do(txn.rollback_to(mark))
    b.do(b.db.insert(txn, b.table, [4, "again", 40]))
    assert [row[1] for row in b.do(rows(b.db, b.table, txn))] == ["one", "two", "three", "again"]
    b.do(txn.commit())
    b.world.check()

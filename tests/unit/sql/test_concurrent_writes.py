"""Statements that wait for a row or a table which changes meanwhile: they read or plan again, with the locks they have."""

from __future__ import annotations

from typing import Any

import pytest
from database import decode_rows

from thunderdb.base.errors import SqlError

HARD = "update t set v = t.v + n.v from n where n.id = t.id returning t.id, t.v"


@pytest.fixture
def two(database: Any) -> tuple[Any, Any]:
    one = database.client()
    one.run("create table t (id int primary key, v int); create table n (id int primary key, v int)")
    one.run("insert into t values (1, 10), (2, 20), (3, 30); insert into n values (1, 1), (2, 2), (3, 3)")
    return one, database.client()


def start(client: Any, sql: str) -> Any:
    task = client.world.tasks.spawn(client.query(sql))
    client.world.scheduler.settle()
    return task


def finish(client: Any, task: Any) -> Any:
    client.world.scheduler.settle()
    assert task.done()
    return task.result()


@pytest.mark.parametrize("block", ["", "begin; "])
def test_a_hard_update_reads_again_what_has_changed(two: tuple[Any, Any], block: str) -> None:
    one, other = two
    one.run("begin; update t set v = 200 where id = 2; delete from t where id = 3; update t set id = 9 where id = 1")
    one.run("insert into n values (9, 90)")
    task = start(other, block + HARD)
    assert not task.done()
    one.run("commit")
    assert finish(other, task) == [("2", "202"), ("9", "100")]
    if block:
        other.run("commit")
    assert one.run("select id, v from t order by id") == [("2", "202"), ("9", "100")]


def test_a_hard_delete_lets_go_of_rows_that_do_not_match_any_more(two: tuple[Any, Any]) -> None:
    one, other = two
    one.run("begin; update t set v = 0 where id = 1")
    task = start(other, "delete from t using n where n.id = t.id and t.v >= 10")
    one.run("commit")
    finish(other, task)
    assert other.tag == "DELETE 2"
    assert one.run("select id from t") == [("1",)]


def test_at_repeatable_read_a_changed_row_is_refused(two: tuple[Any, Any]) -> None:
    one, other = two
    one.run("begin; update t set v = 0 where id = 1")
    other.run("begin isolation level repeatable read; select * from t")
    task = start(other, HARD)
    one.run("commit")
    with pytest.raises(SqlError) as caught:
        finish(other, task)
    assert caught.value.sqlstate == "40001"
    other.run("rollback")


@pytest.mark.parametrize("most", [0, 5])
def test_execute_plans_again_what_has_changed_under_it(two: tuple[Any, Any], most: int) -> None:
    one, other = two
    session = other.session
    other.world.run(session.parse("p", "update t set v = v + $1 where id = 1 returning v"))
    one.run("begin; alter table t add column extra int default 5")

    async def go() -> Any:
        session.bind("", "p", (), (b"1",), ())
        result = await session.execute("", most)
        await session.sync()
        return result

    task = other.world.tasks.spawn(go())
    other.world.scheduler.settle()
    assert not task.done()
    one.run("commit")
    result = finish(other, task)
    assert decode_rows(result.data) == [("11",)] and result.tag == "UPDATE 1"
    assert one.run("select v, extra from t where id = 1") == [("11", "5")]

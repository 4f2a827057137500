"""statement_timeout and lock_timeout end what waits too long, with PostgreSQL's codes and words."""

from __future__ import annotations

from typing import Any

import pytest

from thunderdb.base.errors import SqlError


@pytest.fixture
def two(database: Any) -> tuple[Any, Any]:
    one = database.client()
    one.run("create table t (id int primary key, v int); insert into t values (1, 0), (2, 0)")
    one.run("begin; update t set v = 1 where id = 1")
    return one, database.client()


@pytest.mark.parametrize(
    ("setting", "sqlstate", "message", "least_ms", "most_ms"),
    [
        ("statement_timeout", "57014", "canceling statement due to statement timeout", 400, 401),
        ("lock_timeout", "55P03", "canceling statement due to lock timeout", 400, 500),
    ],
)
@pytest.mark.parametrize("extended", [False, True])
def test_a_wait_ends(
    two: tuple[Any, Any], setting: str, sqlstate: str, message: str, least_ms: int, most_ms: int, extended: bool
) -> None:
    one, other = two
    other.run(f"set {setting} = '400ms'")
    session, clock = other.session, other.world.clock

    async def by_messages() -> None:
        await session.parse("", "update t set v = 2 where id = 1")
        session.bind("", "", (), (), ())
        await session.execute("")

    began = clock.monotonic_ns()
    with pytest.raises(SqlError) as caught:
        other.world.run(by_messages() if extended else other.query("update t set v = 2 where id = 1"))
    assert (caught.value.sqlstate, caught.value.message) == (sqlstate, message)
    assert least_ms <= (clock.monotonic_ns() - began) // 1_000_000 <= most_ms
    other.run("update t set v = 3 where id = 2")
    one.run("commit")
    other.run("update t set v = v + 1 where id = 1")
    assert one.run("select v from t order by id") == [("2",), ("3",)]


def test_a_timer_does_not_outlive_its_statement(two: tuple[Any, Any]) -> None:
    one, other = two
    other.run("set statement_timeout = 100; set lock_timeout = 100")
    other.run("begin; update t set v = 5 where id = 2")
    other.world.run(other.world.tasks.sleep(10**9))
    assert not other.session.cancel_requested
    other.run("commit")


def test_a_cancel_keeps_its_own_words(two: tuple[Any, Any]) -> None:
    one, other = two
    other.run("set statement_timeout = 1000")
    task = other.world.tasks.spawn(other.query("update t set v = 2 where id = 1"))
    for _ in range(3):
        other.session.db.access.tasks.scheduler.turn()
    other.session.cancel()
    other.world.scheduler.settle()
    with pytest.raises(SqlError, match="user request"):
        task.result()


def test_pg_sleep_ends_with_a_cancel_and_with_a_time_out(database: Any) -> None:
    client = database.client()
    world, began = client.world, client.world.clock.monotonic_ns()
    assert client.run("select pg_sleep(0.2), pg_sleep('0.1')") == [("", "")]
    assert client.run("select pg_sleep(-1)") == [("",)]
    assert 300_000_000 <= world.clock.monotonic_ns() - began < 400_000_000
    client.run("set statement_timeout = 400")
    began = world.clock.monotonic_ns()
    with pytest.raises(SqlError, match="statement timeout"):
        client.run("select pg_sleep(1000)")
    assert world.clock.monotonic_ns() - began < 500_000_000

"""The extended protocol's calls: parse, bind, describe, execute, sync; COPY."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from database import decode_rows

from thunderdb.base.errors import SqlError
from thunderdb.sql.types import TYPES


def rows_of(client: Any, sql: str, *values: bytes | None, formats: tuple[int, ...] = ()) -> list[tuple[str | None, ...]]:
    async def go() -> bytes:
        session = client.session
        await session.parse("", sql)
        session.bind("", "", formats, values, ())
        result = await session.execute("")
        data = result.data + b"".join([chunk async for chunk in result.more]) if result.more else result.data
        await session.sync()
        client.tag = result.tag
        return data

    return decode_rows(client.world.run(go()))


@pytest.fixture
def t(client: Any) -> Any:
    client.run("create table t (a int primary key, b text, n numeric)")
    client.run("insert into t values (1, 'one', 1.5), (2, 'two', 2.5)")
    return client


def test_parameters_take_their_type_from_where_they_stand(t: Any) -> None:
    assert rows_of(t, "select b from t where a = $1", b"2") == [("two",)]
    assert rows_of(t, "select b from t where a = $1", struct.pack("!i", 1), formats=(1,)) == [("one",)]
    rows_of(t, "update t set n = n + $2,b=$3 where a=$1", b"1", b"0.25", b"uno")
    assert t.tag == "UPDATE 1"
    assert rows_of(t, "insert into t values ($1,$2,$3) returning n", b"3", None, b"1") == [("1",)]
    prepared = t.session.statements[""]
    assert prepared.param_oids == tuple(TYPES[name].oid for name in ("int4", "text", "numeric"))
    assert rows_of(t, "select a from t where a = any($1)", b"{3,1}") == [("1",), ("3",)]
    with pytest.raises(SqlError) as caught:
        rows_of(t, "select b from t where a = $1", b"x")
    assert caught.value.sqlstate == "22P02"


@pytest.mark.parametrize(
    ("sql", "types", "value", "expected"),
    [
        ("select count(*), sum(a) from t where a > $1", ["int4"], b"1", ("1", "2")),
        ("select count(*) from t x join t y on x.a = y.a where y.b = $1", ["text"], b"two", ("1",)),
        ("with q as (select n from t where n between $1 and 9) select count(*) from q", ["numeric"], b"2", ("1",)),
        ("select count(*) from t where a in (7, $1)", ["int4"], b"2", ("1",)),
        ("select count(*) from (select distinct a from t limit $1) q", ["int8"], b"1", ("1",)),
        ("select max($1::date) from t", ["date"], b"2026-01-02", ("2026-01-02",)),
        ("select count(*) from t where a = any($1)", ["int4[]"], b"{1,2,5}", ("2",)),
        ("select count(*), $1 from t", ["text"], b"x", ("2", "x")),
    ],
)
def test_so_they_do_in_what_duckdb_runs(t: Any, sql: str, types: list[str], value: bytes, expected: Any) -> None:
    """A client that had not declared the types (asyncpg, pgx; strings of psycopg) was told that there is no parameter $1."""
    assert rows_of(t, sql, value) == [expected]
    assert t.session.statements[""].param_oids == tuple(TYPES[name].oid for name in types)


def test_a_plan_outlives_a_change_of_the_catalog_only_by_being_made_again(t: Any) -> None:
    session = t.session
    t.world.run(session.parse("p", "select b from t where a = $1"))
    t.run("alter table t add column extra int")

    async def go() -> bytes:
        session.bind("", "p", (), (b"2",), ())
        result = await session.execute("")
        await session.sync()
        return result.data

    assert decode_rows(t.world.run(go())) == [("two",)]


def test_parameters_keep_their_types_when_the_table_becomes_another_one(client: Any) -> None:
    """Else what the client sent as one type would be stored as if it were another one's value (5 as microseconds, say)."""
    session = client.session
    client.run("create table t (a int primary key, v bigint)")
    client.world.run(session.parse("p", "insert into t values ($1, $2)"))
    client.run("drop table t")
    client.run("create table t (a int primary key, v timestamp)")

    async def go() -> None:
        session.bind("", "p", (), (b"1", b"5"), ())
        await session.execute("")
        await session.sync()

    with pytest.raises(SqlError) as caught:
        client.world.run(go())
    assert caught.value.sqlstate == "42804" and client.run("select v from t") == []
    client.run("drop table t")
    client.run("create table t (a bigint primary key, v numeric)")  # where one goes into the other, it does
    client.world.run(go())
    assert client.run("select * from t") == [("1", "5")]


def test_describe(t: Any) -> None:
    t.world.run(t.session.parse("d", "select a, b from t where n > $1"))
    parameters, columns = t.session.describe_statement("d")
    assert struct.unpack("!cIHI", parameters)[2:] == (1, 1700)
    assert columns[:1] == b"T" and b"a\x00" in columns and b"b\x00" in columns
    t.world.run(t.session.parse("e", "delete from t"))
    assert t.session.describe_statement("e")[1] == b"n\x00\x00\x00\x04"


def test_a_portal_is_fetched_in_parts(client: Any) -> None:
    async def go() -> list[tuple[int, bool]]:
        session = client.session
        await session.parse("", "select g from generate_series(1, 25) g")
        session.bind("c", "", (), (), ())
        found = []
        while True:
            result = await session.execute("c", 10)
            found.append((len(decode_rows(result.data)), result.suspended))
            if not result.suspended:
                await session.sync()
                return found

    assert client.world.run(go()) == [(10, True), (10, True), (5, False)]


def test_a_portal_fetched_in_parts_shows_one_moment_whatever_comes_in_between(database: Any) -> None:
    """Of others' commits and of the transaction's own changes, made through any of the protocol's ways."""
    client, other = database.client(), database.client()
    session = client.session
    client.run("create table t (a int primary key, v int)")
    client.run("insert into t select x, 0 from generate_series(0, 1999) x")
    change = "insert into t values ($1, 1)"

    def in_between(way: str, key: int) -> None:
        if way == "simple":
            client.run(f"insert into t values ({key}, 1)")
        elif way == "quick":
            assert session.quick(f"insert into t values ({key}, 1)") is None  # it has to wait for what the portal reads
            client.run(f"insert into t values ({key}, 1)")
        else:
            session.bind("", "change", (), (str(key).encode(),), ())
            if way == "quick execute":
                assert session.extended.execute_quickly("", 0) is None
            client.world.run(session.execute(""))

    async def fetched(count: int) -> list[tuple[str | None, ...]]:
        return decode_rows((await session.execute("c", count)).data)

    client.world.run(session.parse("all", "select a, v from t where v = 0"))
    client.world.run(session.parse("change", change))
    for number, way in enumerate(("simple", "quick", "execute", "quick execute")):
        client.run("begin")
        session.bind("c", "all", (), (), ())
        rows = client.world.run(fetched(2))
        other.run(f"insert into t values ({10_000 + number}, 0)")
        other.run("update t set v = 7 where a > 1000")
        in_between(way, 20_000 + number)
        client.run("update t set v = 9 where a = 500")
        rows += client.world.run(fetched(100)) + client.world.run(fetched(0))
        assert [int(a or "") for a, _ in rows if int(a or "") < 10_000] == list(range(2000)), way
        assert {v for _, v in rows} == {"0"} and not any(int(a or "") >= 20_000 for a, _ in rows)
        client.run("rollback")
        other.run("update t set v = 0 where v = 7")


def test_statements_between_syncs_are_one_transaction(t: Any) -> None:
    async def go() -> None:
        session = t.session
        await session.parse("", "delete from t where a = 1")
        session.bind("", "", (), (), ())
        await session.execute("")
        await session.parse("", "select 1 / 0")
        session.bind("", "", (), (), ())
        await session.execute("")

    with pytest.raises(SqlError):
        t.world.run(go())
    t.world.run(t.session.sync())
    assert t.run("select count(*) from t") == [("2",)]


def test_copy_in_and_out(t: Any) -> None:
    async def load(sql: str, *pieces: bytes) -> str:
        async for result in t.session.simple(sql):
            for piece in pieces:
                await result.copy_in.feed(piece)
            await result.copy_in.finish()
            tag = result.tag
        return str(tag)

    async def dump(sql: str) -> bytes:
        async for result in t.session.simple(sql):
            return b"".join([chunk async for chunk in result.more])
        return b""

    assert t.world.run(load("copy t from stdin", b"10\tte", b"n\t1\n11\t\\N\t2\n")) == "COPY 2"
    assert t.world.run(dump("copy t (a, b) to stdout")) == b"1\tone\n2\ttwo\n10\tten\n11\t\\N\n"
    assert t.world.run(dump("copy (select a from t where a = 2) to stdout with (format csv, header)")) == b"a\n2\n"
    t.run("begin; create table fresh (x int, y text)")
    assert t.world.run(load("copy fresh from stdin with (freeze on)", *[b"%d\tv\n" % i for i in range(3000)])) == "COPY 3000"
    t.run("commit")
    assert t.run("select count(*), sum(x) from fresh") == [("3000", "4498500")]


def test_a_failed_copy_leaves_nothing(t: Any) -> None:
    async def load() -> None:
        async for result in t.session.simple("copy t from stdin"):
            await result.copy_in.feed(b"10\tten\t1\nx\ty\tz\n")
            await result.copy_in.finish()

    with pytest.raises(SqlError) as caught:
        t.world.run(load())
    assert caught.value.sqlstate == "22P02"
    t.world.run(t.session.failed())
    assert t.run("select count(*) from t") == [("2",)]


def test_prepare_and_execute_in_sql(t: Any) -> None:
    t.run("prepare q (int) as select b from t where a = $1")
    assert t.run("execute q(2)") == [("two",)]
    t.run("deallocate q")
    with pytest.raises(SqlError) as caught:
        t.run("execute q(1)")
    assert caught.value.sqlstate == "26000"

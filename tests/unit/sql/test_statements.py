"""Statements through a session, on the real engine in memory: rows, tags, SQLSTATEs."""

from __future__ import annotations

from typing import Any

import pytest

from thunderdb.base.errors import LimitExceeded, SqlError
from thunderdb.base.ids import parse_lsn


def fails(client: Any, sql: str) -> str:
    with pytest.raises(SqlError) as caught:
        client.run(sql)
    return caught.value.sqlstate


@pytest.fixture
def t(client: Any) -> Any:
    client.run("create table t (a int primary key, b text not null default 'x', c numeric(5,2) check (c > 0), d serial)")
    client.run("insert into t (a, b, c) values (1, 'one', 1.5), (2, default, 2.555), (3, 'three', null)")
    return client


def test_select_by_key_range_and_index(t: Any) -> None:
    assert t.run("select b, c from t where a = 2") == [("x", "2.56")]
    assert t.run("select b from t where a = 99999999999") == []
    assert t.run("select a from t where a between 2 and 9 order by a desc") == [("3",), ("2",)]
    assert t.run("select a from t where a > 1 and b <> 'x'") == [("3",)]
    assert t.run("select a from t where a in (3, 1, 3)") == [("1",), ("3",)]
    t.run("create index t_b on t (b)")
    assert t.run("explain select a from t where b = 'one'") == [("Range scan on t using t_b",), ("  Filter",)]
    assert t.run("select a from t where b >= 'one' and b < 'x' order by b") == [("1",), ("3",)]
    assert t.run("select a from t order by a desc limit 1 offset 1") == [("2",)]


def test_hard_selects_give_the_same_rows(t: Any) -> None:
    assert t.run("select count(*), sum(c) from t") == [("3", "4.06")]
    assert t.run("select x.a, y.b from t x join t y on y.a = x.a + 1 order by 1") == [("1", "x"), ("2", "three")]


def test_literals_share_a_plan_but_not_their_values(t: Any) -> None:
    assert [t.run(f"select b from t where a = {a}") for a in (1, 2, 3)] == [[("one",)], [("x",)], [("three",)]]
    assert [t.run(f"select a from t where b = '{b}'") for b in ("one", "it''s")] == [[("1",)], []]
    assert t.run("select a from t where a = -1") == []
    assert len([p for p in t.session.shared.templates.values() if p is not None]) >= 2


def test_insert_defaults_serial_returning(t: Any) -> None:
    assert t.run("insert into t (a, c) values (10, 1 + 1) returning *") == [("10", "x", "2.00", "4")]
    assert t.tag == "INSERT 0 1"
    assert t.run("insert into t values (11, (select b from t where a = 1)) returning b") == [("one",)]
    t.run("insert into t (a, b) select g, 'g' || g from generate_series(20, 29) g")
    assert t.tag == "INSERT 0 10"
    assert t.run("insert into t (a) select a + 100 from t where a < 3 returning a") == [("101",), ("102",)]


def test_constraints(t: Any) -> None:
    assert fails(t, "insert into t values (1)") == "23505"
    assert fails(t, "insert into t values (5, null)") == "23502"
    assert fails(t, "insert into t values (null)") == "23502"
    assert fails(t, "insert into t (a, c) values (5, -1)") == "23514"
    assert fails(t, "insert into t (a, c) values (5, 1000)") == "22003"
    assert fails(t, "update t set c = 0 where a = 1") == "23514"
    assert fails(t, "insert into t (a) values ('x')") == "22P02"
    assert fails(t, "insert into t (a) values (true)") == "42804"
    t.run("alter table t add constraint t_b_key unique (b)")
    assert fails(t, "insert into t (a, b) values (5, 'one')") == "23505"
    assert t.run("select count(*) from t") == [("3",)]


def test_on_conflict(t: Any) -> None:
    assert t.run("insert into t values (1, 'n') on conflict do nothing returning a") == []
    assert t.tag == "INSERT 0 0"
    upsert = "insert into t (a, b) values (1, 'n'), (7, 'm') on conflict (a) do update set b = excluded.b || b returning a, b"
    assert t.run(upsert) == [("1", "none"), ("7", "m")]
    assert fails(t, "insert into t (a) values (1), (1) on conflict (a) do update set b = 'q'") == "21000"
    assert fails(t, "insert into t (a) values (1) on conflict (b) do nothing") == "42P10"
    assert t.run("insert into t (a) values (1) on conflict (a) do update set b = 'z' where t.a > 1") == []
    assert t.run("select b from t where a = 1") == [("none",)]


def test_update_and_delete(t: Any) -> None:
    t.run("update t set c = c + 1, b = upper(b) where a <= 2")
    assert t.tag == "UPDATE 2"
    assert t.run("select b, c from t where a < 3 order by a") == [("ONE", "2.50"), ("X", "3.56")]
    assert t.run("update t set a = a + 100 where a = 3 returning a") == [("103",)]
    assert t.run("delete from t where b in (select b from t where a = 2) returning a") == [("2",)]
    t.run("update t set b = o.b from t o where o.a = t.a + 102")
    assert t.run("select a, b from t order by a") == [("1", "three"), ("103", "three")]
    t.run("delete from t")
    assert t.tag == "DELETE 2"


def test_an_update_that_moves_rows_meets_each_once(client: Any) -> None:
    client.run("create table m (k int, v int)")
    client.run("create index on m (v)")
    client.run("insert into m select g, g from generate_series(1, 50) g")
    client.run("update m set v = v + 1000 where v > 10")
    assert client.tag == "UPDATE 40"
    assert client.run("select min(v), max(v) from m where v > 10") == [("1011", "1050")]


def test_integer_limits(client: Any) -> None:
    client.run("create table n (k int primary key, s smallint, v int)")
    client.run("insert into n values (1, 32767, 2147483647)")
    assert fails(client, "update n set v = v + 1 where k = 1") == "22003"
    assert fails(client, "update n set s = s + 1 where k = 1") == "22003"
    assert fails(client, "select v / 0 from n where k = 1") == "22012"


def test_three_valued_logic(client: Any) -> None:
    client.run("create table l (k int primary key, v bool)")
    client.run("insert into l values (1, true), (2, false), (3, null)")
    assert client.run("select k from l where k < 9 and v") == [("1",)]
    assert client.run("select k from l where k < 9 and not v") == [("2",)]
    assert client.run("select k from l where k < 9 and v is not true") == [("2",), ("3",)]
    assert client.run("select k from l where k < 9 and k not in (1, null)") == []


def test_transaction_blocks(t: Any) -> None:
    t.run("begin")
    t.run("update t set b = 'z' where a = 1")
    t.run("savepoint s")
    t.run("delete from t")
    assert fails(t, "select 1 / 0") == "22012"
    assert t.session.status == "E"
    assert fails(t, "select 1") == "25P02"
    t.run("rollback to s")
    assert t.run("select count(*) from t") == [("3",)]
    t.run("commit")
    assert t.run("select b from t where a = 1") == [("z",)]
    t.run("begin; delete from t")
    assert fails(t, "nonsense") == "42601"
    t.run("commit")
    assert t.tag == "ROLLBACK" and t.session.status == "I"
    assert t.run("select count(*) from t") == [("3",)]


def test_the_statements_of_one_string_are_one_transaction(t: Any) -> None:
    assert fails(t, "delete from t where a = 1; select 1 / 0") == "22012"
    assert t.run("select count(*) from t") == [("3",)]
    t.run("delete from t where a = 1; delete from t where a = 2;")
    assert t.run("select count(*) from t") == [("1",)]


def test_sessions_do_not_see_each_others_uncommitted_rows(database: Any, t: Any) -> None:
    other = database.client()
    t.run("begin; insert into t (a) values (50)")
    assert other.run("select count(*) from t") == [("3",)]
    t.run("commit")
    assert other.run("select count(*) from t") == [("4",)]


def test_repeatable_read_refuses_a_lost_update(database: Any, t: Any) -> None:
    other = database.client()
    t.run("begin isolation level repeatable read; select * from t")
    other.run("update t set b = 'other' where a = 1")
    assert t.run("select b from t where a = 1") == [("one",)]
    assert fails(t, "update t set b = 'mine' where a = 1") == "40001"
    t.run("rollback")


def test_ddl_is_transactional(client: Any) -> None:
    client.run("begin; create table d (a int); insert into d values (1)")
    client.run("rollback")
    assert fails(client, "select * from d") == "42P01"
    client.run("create table d (a int); insert into d values (1), (2)")
    client.run("alter table d add column b text default 'new'; alter table d add primary key (a)")
    assert client.run("select * from d where a = 2") == [("2", "new")]
    assert fails(client, "create table d (x int)") == "42P07"
    client.run("create table if not exists d (x int)")
    assert [notice.message for notice in client.session.take_notices()] == ['relation "d" already exists, skipping']
    client.run("truncate d")
    assert client.run("select count(*) from d") == [("0",)]
    client.run("drop table if exists d, missing")
    assert fails(client, "drop table d") == "42P01"


def test_what_pgbench_sends_to_initialise(client: Any) -> None:
    client.run("drop table if exists pgbench_accounts, pgbench_branches")
    client.run("create table pgbench_branches(bid int not null,bbalance int,filler char(88)) with (fillfactor=100)")
    client.run("begin; truncate table pgbench_branches; insert into pgbench_branches(bid,bbalance) values(1,0); commit")
    client.run("vacuum analyze pgbench_branches")
    client.run("alter table pgbench_branches add primary key (bid)")
    client.run("UPDATE pgbench_branches SET bbalance = bbalance + -2346 WHERE bid = 1;")
    assert client.run("SELECT bbalance FROM pgbench_branches WHERE bid = 1;") == [("-2346",)]


def test_settings(client: Any) -> None:
    client.run("set application_name = 'x'")
    assert client.session.take_parameter_changes() == [("application_name", "x")]
    client.run("begin; set local statement_timeout = '5s'")
    assert client.run("show statement_timeout") == [("5000",)]
    client.run("commit")
    assert client.run("show statement_timeout") == [("0",)]
    assert client.run("select current_setting('server_encoding')") == [("UTF8",)]
    assert fails(client, "set nonsense = 1") == "42704"
    assert fails(client, "set synchronous_commit = maybe") == "22023"
    client.run("set time zone 'GMT'")
    assert client.run("select timestamptz '2024-01-01 02:00:00+02'") == [("2024-01-01 00:00:00+00",)]
    for zone in ("'+02:00'", "2", "'Europe/Berlin'"):  # what is read and shown would have to follow it, everywhere
        assert fails(client, f"set time zone {zone}") == "22023"


def test_syntax_errors_have_a_position(client: Any) -> None:
    for sql, position in (
        ("selec 1", 1),
        ("select * frm t", 14),
        ("select 1 +", 11),
        ("select 1; selec 2", 11),
        ("select 'a", 8),
    ):
        with pytest.raises(SqlError) as caught:
            client.run(sql)
        assert (caught.value.sqlstate, caught.value.position) == ("42601", position), sql


def test_a_long_result_is_streamed(client: Any) -> None:
    async def chunks() -> tuple[int, int]:
        async for result in client.session.simple("select g, 'some text that takes room' from generate_series(1, 20000) g"):
            sizes = [len(result.data)]
            async for chunk in result.more:
                sizes.append(len(chunk))
        return len(sizes), max(sizes)

    count, largest = client.world.run(chunks())
    assert count > 5 and largest < 200_000


def test_cancel_ends_a_running_statement(client: Any) -> None:
    async def run() -> None:
        async for result in client.session.simple("select g from generate_series(1, 10000000) g"):
            async for _ in result.more:
                client.session.cancel()

    with pytest.raises(SqlError) as caught:
        client.world.run(run())
    assert caught.value.sqlstate == "57014"
    assert client.run("select 1") == [("1",)]


def test_read_only_transactions(t: Any) -> None:
    t.run("begin read only")
    assert fails(t, "delete from t") == "25006"
    t.run("rollback")


@pytest.mark.parametrize("pattern", ["'o%'", "'O%'", "(select 'o%')", "$$o%$$", "'ox%' escape 'x'"])
def test_not_like_is_the_opposite_of_like(t: Any, pattern: str) -> None:
    for like in ("like", "ilike"):
        matching = t.run(f"select b from t where b {like} {pattern} order by a")
        others = t.run(f"select b from t where b not {like} {pattern} order by a")
        assert sorted(matching + others) == sorted(t.run("select b from t")) and others


def test_the_log_position_moves_with_a_commit(t: Any) -> None:
    [(before,)] = t.run("select pg_current_wal_lsn()")
    t.run("insert into t (a) values (77)")
    [(after,)] = t.run("select pg_current_wal_flush_lsn()")
    assert parse_lsn(after) > parse_lsn(before) > 0
    [(insert,)] = t.run("select pg_current_wal_insert_lsn()")
    assert parse_lsn(insert) >= parse_lsn(after)


def test_quoted_text_in_a_format_is_text(client: Any) -> None:
    sql = "select to_char(timestamp '2026-01-15 14:30:05', '{}')"
    assert client.run(sql.format('YYYY-MM-DD"T"HH24:MI:SS"Z"')) == [("2026-01-15T14:30:05Z",)]
    assert fails(client, sql.format('YYYY"DD"')) == "0A000"


def test_sizes_are_measured_or_unknown_never_zero(t: Any) -> None:
    [(size,)] = t.run("select pg_database_size(current_database())")
    assert int(size) == t.session.db.files.page_count * t.session.db.config.page_size > 0
    [(unknown,)] = t.run("select pg_total_relation_size('t'::regclass)")
    assert unknown is None


def test_positions_of_the_log_beside_what_only_an_analytic_query_has(t: Any) -> None:
    [(flushed, inserted, here)] = t.run(
        "select pg_current_wal_lsn(), pg_current_wal_insert_lsn(), pg_is_in_recovery() from t group by 3"
    )
    assert parse_lsn(flushed) <= parse_lsn(inserted)
    assert here == "f"


def test_a_key_that_is_too_long_is_refused_wherever_there_is_room_for_it(client: Any) -> None:
    client.run("create table k (x text primary key); create table u (a int primary key, x text unique)")
    for table in ("k values (", "u values (1, "):
        with pytest.raises(LimitExceeded, match="index row size"):
            client.run(f"insert into {table}'{'x' * 3000}')")
    client.run(f"insert into k values ('{'x' * 1500}')")
    with pytest.raises(LimitExceeded, match="index row size"):
        client.run("update k set x = x || x")
    assert client.run("select length(x) from k union all select a from u") == [("1500",)]


@pytest.mark.parametrize(
    ("value", "sqlstate"),
    [
        ("f4 = 1e40", "22003"), ("f8 = 1e400", "22003"), ("s = 70000", "22003"), ("k = 3000000000", "22003"),
        ("k = 1 / 0", "22012"), ("k = 2147483647 + 1", "22003"), ("v = 'toolong'", "22001"), ("n = 1000", "22003"),
        ("(s, k) = (1, 7 / 0)", "22012"), ("k = k / 0", None), ("k = 1 / k", None), ("f8 = (select 1e400)", None),
        ("k = 5", None), ("v = null", None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("where", [" where k = 7", "", " where s = 3"])
def test_a_constant_that_is_wrong_is_wrong_without_a_row(client: Any, value: str, sqlstate: str | None, where: str) -> None:
    """PostgreSQL works constants out when it plans."""
    client.run("create table w (k int primary key, s smallint, f4 real, f8 float8, v varchar(3), n numeric(4, 2))")
    for _ in range(3):  # the third time it is quick, if it may be
        if sqlstate is None:
            client.run(f"update w set {value}{where}")
            assert client.tag == "UPDATE 0"
        else:
            assert fails(client, f"update w set {value}{where}") == sqlstate


def test_a_number_that_no_float_can_hold_is_refused(client: Any) -> None:
    """It became infinity, or zero."""
    client.run("create table w (k int primary key, f4 real, f8 float8); insert into w values (1, 1, 1)")
    for value in ("f8 = 1e400", "f8 = -1e400", "f8 = 1e-400", "f4 = 1e40", "f4 = 1e-60", "f4 = 1e-60::float8"):
        for where in ("", " where k = 1"):
            assert fails(client, f"update w set {value}{where}") == "22003"
    assert fails(client, "insert into w values (2, 0, 1e400)") == "22003"
    client.run("update w set f4 = 'infinity', f8 = 'nan'::numeric; update w set f4 = 1e-45 where f8 = 'nan'")
    assert client.run("select f4 > 0, f8 from w") == [("t", "NaN")]


def test_real_is_single_precision(client: Any) -> None:
    """It was double precision: sqlglot's name for it is FLOAT."""
    client.run("create table w (k int primary key, a real, b float4, c float(24), d float, e float(25), f float8)")
    client.run("insert into w values (1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1)")
    typed = ", ".join(f"pg_typeof({name})" for name in "abcdef")
    assert client.run(f"select {typed} from w") == [("real",) * 3 + ("double precision",) * 3]
    widened = ", ".join(f"{name}::float8" for name in "abcdef")
    assert client.run(f"select {widened} from w where k = 1") == [("0.10000000149011612",) * 3 + ("0.1",) * 3]
    assert client.run("select a, pg_typeof(1::real), pg_typeof(1::float), sum(b) from w group by a") == [
        ("0.1", "real", "double precision", "0.1")
    ]


def test_a_type_with_a_length_is_never_part_of_a_template(client: Any) -> None:
    """It was an internal error: the length had become a parameter."""
    for _ in range(3):
        assert client.run("select 'abcde'::varchar(3), 1.236::numeric(5, 2), cast('abc' as char(2))") == [("abc", "1.24", "ab")]
        assert client.run("select 'abcde'::varchar(4), 1.236::numeric(5, 1), cast('abc' as char(1))") == [("abcd", "1.2", "a")]
    client.run("create table w (k int primary key, v text)")
    client.run("insert into w values (1, 'abc'::varchar(2)), (2, 'abc'::varchar(1))")
    client.run("update w set v = v || 'x'::char(2) where v = 'abz'::varchar(2)")
    assert client.run("select k, v, v::varchar(1) from w where k < 3 order by k") == [("1", "abx", "a"), ("2", "a", "a")]


@pytest.mark.parametrize(
    ("expression", "answer"),
    [
        ("substr('hello', -1, 3)", "h"), ("substr('hello', 0)", "hello"), ("substr('hello', -5, 2)", ""),
        ("substring('hello' from 2 for 3)", "ell"), ("substr('hello', 1 - 2, 4)", "he"), ("substr(v, k - 2, k + 2)", "h"),
        ("to_hex(255)", "ff"), ("encode(y, 'hex')", "de0a"), ("length(y)", "2"),
        ("v similar to '(h|x)%'", "t"), ("v similar to 'h_l'", "f"),
        ("v similar to 'h_l+o'", "t"), ("'a.c' similar to 'a.c'", "t"), ("'abc' similar to 'a.c'", "f"),
        (r"'a%c' similar to 'a\%c'", "t"), (r"'abc' similar to 'a\%c'", "f"), ("'abc' similar to 'a[bx%]c'", "t"),
    ],
)  # fmt: skip
def test_a_function_that_duckdb_has_otherwise_means_what_postgresql_means(client: Any, expression: str, answer: str) -> None:
    client.run("create table w (k int primary key, v text, y bytea); insert into w values (1, 'hello', '\\xde0a')")
    assert client.run(f"select {expression}, count(*) over () from w") == [(answer, "1")]


def test_what_duckdb_would_answer_otherwise_is_refused(client: Any) -> None:
    for expression in ("format('%L', 1)", "encode('abc', 'base64')", "decode('YQ', 'base64')", "regexp_matches('abc', 'b+')"):
        assert fails(client, f"select {expression}") == "0A000"
    assert fails(client, "select substr('hello', 2, -1), count(*)") == "22011"


@pytest.mark.parametrize("source", ["", " from generate_series(1, 1) g", " from generate_series(1, 1) g group by g"])
def test_untyped_values_of_a_query_have_the_types_of_the_columns_they_go_to(client: Any, source: str) -> None:
    client.run("create table w (k int primary key, d date, c char(3), v varchar(3), n numeric(4, 1), y bytea, b bool)")
    client.run(f"insert into w select 1, '2024-02-29', 'ab', null, null, '\\x00', 'yes'{source}")
    client.run(f"insert into w (b, k, c) select null, '2', 'abc' as x{source}")
    expected = [("1", "2024-02-29", "ab ", None, None, "\\x00", "t"), ("2", None, "abc", None, None, None, None)]
    assert client.run("select * from w order by k") == expected
    assert fails(client, f"insert into w select 3, '2024-02-30'{source}") == "22008"
    assert fails(client, f"insert into w select 3, null, 'abcd'{source}") == "22001"
    assert fails(client, f"insert into w select 3, 5{source}") == "42804"

"""Queries in DuckDB give what PostgreSQL 15 gives: values, types, names, NULL order, errors.

`analytic_golden.json` holds two tables, queries, and PostgreSQL's own answers to them (columns and text values, or SQLSTATE).
"""

from __future__ import annotations

import json
import pathlib
import random
from decimal import Decimal

import duckdb
import pytest
from fakes import FakeDatabase, InlineOffload, drive, query

from thunderdb.base.errors import LimitExceeded, QueryCancelled, SqlError
from thunderdb.sql.analytic import Analytics
from thunderdb.sql.analytic_errors import sql_error
from thunderdb.sql.numeric_div import divide, divide_text
from thunderdb.sql.parse import parse
from thunderdb.sql.text_in import parse_text
from thunderdb.sql.text_out import format_text

GOLDEN = json.loads((pathlib.Path(__file__).parent / "analytic_golden.json").read_text())


@pytest.fixture(scope="module")
def analytics():
    engine = Analytics(InlineOffload())
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def db():
    database = FakeDatabase()
    for name, table in GOLDEN["tables"].items():
        columns = [tuple(column) for column in table["columns"]]
        rows = [
            [
                None if text is None else parse_text(kind, text, typmod)
                for text, (_, kind, typmod) in zip(row, columns, strict=True)
            ]
            for row in table["rows"]
        ]
        database.add(name, columns, rows)
    return database


@pytest.mark.parametrize("case", GOLDEN["queries"], ids=lambda case: case["sql"][:60])
def test_agrees_with_postgresql(analytics, db, case):
    if "sqlstate" in case:
        with pytest.raises(SqlError) as caught:
            query(analytics, db, case["sql"])
        assert caught.value.sqlstate == case["sqlstate"]
        return
    columns, rows = query(analytics, db, case["sql"])
    assert [[c.name, c.type_name] for c in columns] == case["columns"]
    texts = [[None if v is None else format_text(c.type_name, v) for c, v in zip(columns, row, strict=True)] for row in rows]
    assert texts == case["rows"]


def test_parameters_of_each_type(analytics, db):
    sql = "select $1::int4 + 1, $2, $3, $4, $5 is null from dept where id = $1"
    params = {
        1: ("int4", 1),
        2: ("text", "it's"),
        3: ("numeric", Decimal("1.50")),
        4: ("timestamp", 86_400_000_000),
        5: ("int8", None),
    }
    columns, rows = query(analytics, db, sql, params)
    assert rows == [(2, "it's", Decimal("1.50"), 86_400_000_000, True)]
    assert [c.type_name for c in columns] == ["int4", "text", "numeric", "timestamp", "bool"]


def test_describe_reads_no_rows_and_gives_the_same_columns(analytics, db):
    sql = "select id, avg(sal), $1 from emp where dept = $2 group by id"
    described = drive(analytics.describe(db, None, parse(sql), {1: "text", 2: "int4"}))
    columns, _ = query(analytics, db, sql, {1: ("text", "x"), 2: ("int4", 1)})
    assert described == columns


def test_evaluate_rows_gives_keys_once_in_key_order(analytics, db):
    sql = "select e.__key, e.id * 10 from emp e join dept d on d.id >= 0 where e.id in (3, 1)"
    found = drive(analytics.evaluate_rows(db, None, parse(sql), "emp"))
    assert found == [((1).to_bytes(8, "big"), (10,)), ((3).to_bytes(8, "big"), (30,))]


def test_the_outside_is_out_of_reach(analytics, db):
    for sql in ("select * from read_csv('/etc/passwd')", "select * from GOLDEN", "select getenv('HOME')"):
        with pytest.raises(SqlError):
            query(analytics, db, sql)


def test_rows_with_and_without_nulls_and_of_older_shape_mix(analytics):
    database = FakeDatabase()
    table = database.add("t", [("a", "int4"), ("b", "int8")], [[i, None if i % 7 == 0 else i] for i in range(1000)])
    old = FakeDatabase().add("t", [("a", "int4")], [[5]])
    assert old.columns[0].name == "a"
    database.rows.data[table.root].append((b"k", b"\x01\x00\x00" + (5).to_bytes(4, "little")))
    _, rows = query(analytics, database, "select count(*), count(b), sum(a) from t")
    assert rows == [(1001, 857, 499505)]


def test_memory_limit_is_a_named_error_and_spilling_lifts_it(tmp_path):
    database = FakeDatabase()
    database.add("t", [("a", "int4")], [[i] for i in range(10)])
    sql = "select count(*), max(s) from (select g, repeat('x', 100) || g s from generate_series(1, 400000) x(g) order by s) q"
    small = Analytics(InlineOffload(), memory_bytes=24 << 20)
    with pytest.raises(LimitExceeded):
        query(small, database, sql)
    small.close()
    spilling = Analytics(InlineOffload(), memory_bytes=24 << 20, spill_directory=str(tmp_path))
    assert query(spilling, database, sql)[1][0][0] == 400_000
    spilling.close()


def test_cancel_ends_with_57014(analytics, db):
    async def run():
        stream = await analytics.run_select(db, None, parse("select * from generate_series(1, 100000000) g"))
        async for _batch in stream:
            stream.cancel()

    with pytest.raises(QueryCancelled):
        drive(run())


def test_large_results_stream(analytics, db):
    async def first_batch():
        stream = await analytics.run_select(db, None, parse("select g, repeat('x', 100) from generate_series(1, 50000000) g"))
        async for batch in stream:
            stream.close()
            return batch

    assert drive(first_batch())[0] == (1, "x" * 100)


@pytest.mark.parametrize(
    ("dividend", "divisor", "quotient"),
    [("1", "3", "0.33333333333333333333"), ("100000", "3", "33333.333333333333"), ("1.0", "1", "1.00000000000000000000"),
     ("-7", "2.00", "-3.5000000000000000"), ("0", "-5", "0.00000000000000000000")],
)  # fmt: skip
def test_numeric_division_has_postgresqls_scale(dividend, divisor, quotient):
    assert format(divide(Decimal(dividend), Decimal(divisor)), "f") == quotient
    assert divide_text(dividend, divisor) == quotient


def test_the_fast_numeric_division_agrees_with_the_plain_one():
    rng = random.Random(3)
    for _ in range(2000):
        left, right = (Decimal(rng.randrange(-(10**n), 10**n)).scaleb(-rng.randrange(9)) for n in (rng.randrange(1, 20), 12))
        if right:
            assert divide_text(format(left, "f"), format(right, "f")) == format(divide(left, right), "f")


def test_tables_that_do_not_fit_are_a_limit_and_not_a_bug():
    """As duckdb says it of 300,000 rows of 900 bytes."""
    text = "TransactionContext Error: Failed to commit: could not allocate block of size 256.0 KiB (244.0 MiB/244.1 MiB used)"
    error = sql_error(duckdb.TransactionException(text))
    assert error.sqlstate == "54000" and error.hint

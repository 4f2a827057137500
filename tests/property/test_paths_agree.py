"""A SELECT that both paths can run gives the same rows from our own and from DuckDB (DESIGN 6)."""

from __future__ import annotations

from functools import cache
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.sql.database import Client, TestDatabase, decode_rows
from thunderdb.base.errors import SqlError
from thunderdb.sql.parse import parse
from thunderdb.sql.plan import AnalyticPlan
from thunderdb.sql.prepare import Planned
from thunderdb.sql.select import plan_query

INTS = st.integers(-3, 6)
TEXTS = st.sampled_from(["", "a", "A", "ab", "b", " a", "é", "Z", "10", "a_b", "it's"])
NUMERICS = st.decimals(-10, 10, places=2)
BOOLS = st.booleans()
COLUMNS = {"a": INTS, "b": INTS, "t": TEXTS, "n": NUMERICS, "f": BOOLS}


def literal(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "true" if value else "false"
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else str(value)


def nullable(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(values, values, values, st.none())


ROWS = st.lists(st.tuples(*[nullable(COLUMNS[name]) for name in "btnf"]), max_size=12)
COMPARISONS = st.sampled_from(["=", "<>", "<", "<=", ">", ">="])
COLUMN = st.sampled_from(sorted(COLUMNS))


@st.composite
def comparison(draw: st.DrawFn) -> str:
    name = draw(COLUMN)
    values = COLUMNS[name]
    form = draw(st.sampled_from(["compare", "compare", "compare", "in", "between", "null", "columns", "sum", "like", "bool"]))
    if form == "in":
        found = ", ".join(map(literal, draw(st.lists(nullable(values), min_size=1, max_size=4))))
        return f"{name} {draw(st.sampled_from(['IN', 'NOT IN']))} ({found})"
    if form == "between":
        return f"{name} {draw(st.sampled_from(['', 'NOT ']))}BETWEEN {literal(draw(values))} AND {literal(draw(values))}"
    if form == "null":
        return f"{name} IS {draw(st.sampled_from(['', 'NOT ']))}NULL"
    if form == "columns":
        return f"{draw(st.sampled_from('abn'))} {draw(COMPARISONS)} {draw(st.sampled_from('abn'))}"
    if form == "sum":
        return f"a {draw(st.sampled_from('+-*'))} {draw(st.sampled_from('bn'))} {draw(COMPARISONS)} {literal(draw(NUMERICS))}"
    if form == "like":
        return f"t {draw(st.sampled_from(['', 'NOT ']))}LIKE {draw(st.sampled_from(['a%', '%b', '_', 'A%', '%', 'a_b']))!r}"
    if form == "bool":
        return draw(st.sampled_from(["f", "NOT f", "f IS TRUE", "f IS NOT TRUE", "f IS NOT DISTINCT FROM NULL"]))
    return f"{name} {draw(COMPARISONS)} {literal(draw(values))}"


CONDITION = st.recursive(
    comparison(),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["AND", "OR"]), inner).map(lambda found: f"({' '.join(found)})"),
        inner.map(lambda found: f"NOT ({found})"),
    ),
    max_leaves=4,
)
OUTPUT = st.sampled_from(
    ["a", "b", "t", "n", "f", "a + b", "a - n", "n * n", "-b", "a / 2", "b % 3", "n + 0.5", "t || '!'", "upper(t)", "length(t)",
     "coalesce(b, 0)", "a = b", "b IS NULL", "f AND b > 0", "f OR NULL", "CASE WHEN b > 1 THEN 'big' WHEN f THEN 'f' END",
     "abs(b)", "a::text", "n::int", "round(n, 1)", "nullif(a, b)", "greatest(a, b)", "n / 4", "b::numeric(6,1)", "t < 'b'",
     "cast(f AS text)", "a IN (b, 1)", "lower(t) = t", "substr(t, 1, 1)", "-n", "a * 1.5"]
)  # fmt: skip


@st.composite
def select(draw: st.DrawFn) -> str:
    outputs = ", ".join(draw(st.lists(OUTPUT, min_size=1, max_size=3)))
    sql = f"SELECT {outputs} FROM r"
    if draw(st.integers(0, 4)):
        sql += f" WHERE {draw(CONDITION)}"
    order = draw(
        st.sampled_from(["a", "a DESC", "b, a", "b DESC, a DESC", "b DESC NULLS LAST, a", "t, a DESC", "n, a", "f, a"])
    )
    if draw(st.integers(0, 2)) == 0:
        return sql  # in any order: compared as sorted
    sql += f" ORDER BY {order}"
    if draw(st.booleans()):
        sql += f" LIMIT {draw(st.integers(0, 5))}"
        if draw(st.booleans()):
            sql += f" OFFSET {draw(st.integers(0, 3))}"
    return sql


TABLE = "a int PRIMARY KEY, b int, t text, n numeric(10,2), f bool"
SHAPES = (
    "",
    "CREATE INDEX r_b ON r (b)",
    "CREATE INDEX r_tb ON r (t, b)",
    "CREATE INDEX r_n ON r (n); CREATE UNIQUE INDEX r_ba ON r (b, a)",
)


@cache
def opened(shape: str) -> Client:
    client = TestDatabase().client()
    client.run(f"CREATE TABLE r ({TABLE})")
    if shape:
        client.run(shape)
    return client


async def answers(client: Client, sql: str) -> list[Any]:
    """What each path gives: rows as text, or a SQLSTATE; ours is None where it leaves the query to DuckDB."""
    session, found = client.session, []
    db = session.db
    for own in (True, False):
        session.start()
        env = session.environment()
        tree = parse(sql)
        try:
            if own:
                plan = await plan_query(env, tree)
                if isinstance(plan, AnalyticPlan):
                    found.append(None)
                    continue
            else:
                columns = await env.analytics.describe(db, env.txn, tree, {}, env.query_session())
                plan = AnalyticPlan(env, tree, tuple(columns))
            result = await session.run(Planned(plan, env.catalog), (), ())
            data = result.data + b"".join([chunk async for chunk in result.more or _none()])
            got = decode_rows(data)
            if "ORDER BY" not in sql:
                got.sort(key=repr)
            found.append(([column.type_name for column in plan.columns or ()], got))
        except SqlError as error:
            found.append(error.sqlstate)
        finally:
            await session.end(False)
    return found


async def _none() -> Any:
    return
    yield


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(SHAPES), ROWS, st.lists(select(), min_size=1, max_size=6))
def test_both_paths_give_the_same_rows(shape: str, rows: list[tuple[Any, ...]], queries: list[str]) -> None:
    client = opened(shape)
    client.run("DELETE FROM r")
    for key, row in enumerate(rows):
        client.run(f"INSERT INTO r VALUES ({', '.join(map(literal, (key - 2, *row)))})")
    for sql in queries:
        own, analytic = client.world.run(answers(client, sql))
        if own is not None:
            assert own == analytic, sql

"""Which plans outlive a change of the catalog, and that parsed trees are nobody's to change."""

from __future__ import annotations

import contextlib
import gc
from typing import Any

import sqlglot

from tests.unit.sql.database import TestDatabase
from thunderdb.base.errors import UniqueViolation
from thunderdb.sql import parse
from thunderdb.sql.prepare import Planned


def planned(client: Any, sql: str) -> Planned | None:
    session = client.session
    found = session.shared.find(sql, session.db.catalog_for(session.txn))
    return None if found is None else found[0]


def test_a_plan_outlives_other_tables_ddl_but_not_its_own(client: Any) -> None:
    client.run("create table t (a int primary key, b int)")
    client.run("insert into t values (1, 10), (2, 20)")
    query = "select b from t where a = 2"
    assert client.run(query) == [("20",)]
    plan = planned(client, query)
    assert plan is not None
    client.run("create table u (a int)")
    assert planned(client, query) is plan
    client.run("begin; drop table u")
    assert planned(client, query) is plan  # under this transaction's own catalog, too
    client.run("rollback")
    client.run("alter table t add column c int default 7")
    assert planned(client, query) is None
    client.run("update t set b = 21 where a = 2")
    assert client.run(query) == [("21",)] and planned(client, query) is not plan
    client.run("drop table t")
    assert planned(client, query) is None


def test_a_plan_made_under_a_ddl_that_is_taken_back_is_not_used() -> None:
    database = TestDatabase()
    one, two = database.client(), database.client()
    one.run("create table t (a int primary key)")
    one.run("begin; alter table t add column b int default 5")
    query = "select * from t where a = 1"
    assert one.run(query) == []
    assert planned(one, query) is not None and planned(two, query) is None
    one.run("rollback")
    assert planned(one, query) is None
    two.run("insert into t values (1)")
    assert two.run(query) == [("1",)]
    database.close()


def test_a_plan_with_a_subquery_is_bound_to_both_tables(client: Any) -> None:
    client.run("create table t (a int primary key)")
    client.run("create table u (k int primary key, v int)")
    client.run("insert into t values (1); insert into u values (1, 1)")
    query = "select a from t where a = (select v from u where k = 1)"
    assert client.run(query) == [("1",)] and planned(client, query) is not None
    client.run("truncate u")  # other roots
    assert planned(client, query) is None and client.run(query) == []


def test_what_duckdb_runs_is_planned_anew_after_any_ddl(client: Any) -> None:
    client.run("create table t (a int primary key)")
    query = "insert into t select count(*) from t"
    client.run(query)
    assert planned(client, query) is not None
    client.run("create table u (a int)")
    assert planned(client, query) is None


def test_planning_and_running_change_no_tree(client: Any) -> None:
    client.run("create table t (a int primary key, b int default 1 + 1, c text, check (b between 0 and 100))")
    for sql in (
        "insert into t (a, c) values (1, 'x'), (2, 'y')",
        "insert into t with w as (select 3 as k) (select k, k from w)",
        "with w as (select 4 as k) insert into t select k, k from w",
        "update t set b = case a when 1 then 3 else b end where a between 1 and 2 returning t.*",
        "update t set b = w.a from t w where w.a = t.a and w.b > 3",
        "delete from t using t w where w.a = t.a and w.b > 99",
        "select c, count(*) from t where b between 1 and (select max(a) from t) group by c order by 1",
        "select t.a from t where exists (select 1 from t) and a in (select a from t) order by c nulls first",
        "select pg_catalog.upper(c), 7 / 2, now()::date > '2000-01-01' from t",
        "create table u (a int primary key, b int unique, check (a > 0))",
        "alter table u add column c text default 'n'",
    ):
        parse._kept.cache_clear()
        client.run(sql)
        template = parse.normalise(sql)
        for text in (sql, parse.template_sql(template[0])[0] if template else sql):
            before = sqlglot.parse(text, dialect="postgres")
            assert [repr(tree) for tree in parse._parsed(text)] == [repr(tree) for tree in before], sql


def test_a_failed_statement_leaves_nothing_for_the_collector_of_cycles(client: Any) -> None:
    session = client.session
    client.run("create table t (a int primary key)")
    client.run("insert into t values (1)")

    async def simple() -> None:
        with contextlib.suppress(UniqueViolation):
            await client.query("insert into t values (1)")

    async def prepared() -> None:
        with contextlib.suppress(UniqueViolation):
            await session.parse("", "insert into t values ($1)", ())
            session.bind("", "", (), (b"1",), ())
            await session.execute("")

    gc.collect()
    gc.disable()
    try:
        for work in (simple, prepared):
            client.world.run(work())
            left = [one for one in gc.get_objects() if isinstance(one, UniqueViolation)]
            assert not left, work.__name__
    finally:
        gc.enable()

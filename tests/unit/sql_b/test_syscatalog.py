"""The system catalog answers psql, pgbench and drivers."""

from __future__ import annotations

import pathlib

import pytest
from fakes import FakeDatabase, InlineOffload, query

from thunderdb.base.errors import SqlError
from thunderdb.engine.catalog import CheckDef, Column, IndexDef, SequenceDef
from thunderdb.sql.analytic import Analytics
from thunderdb.sql.analytic_rewrite import QuerySession
from thunderdb.sql.syscatalog_columns import VIEWS
from thunderdb.sql.syscatalog_rows import _MAKERS
from thunderdb.sql.types import make_typmod

PSQL = [part.strip() for part in (pathlib.Path(__file__).parent / "psql_queries.sql").read_text().split(";\n") if part.strip()]
SESSION = QuerySession(settings={"server_version": "15.0"}, pid=7)


@pytest.fixture(scope="module")
def analytics():
    engine = Analytics(InlineOffload())
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def db():
    database = FakeDatabase()
    database.add(
        "t",
        [Column("id", "int4", -1, True, "nextval('t_id_seq')"), Column("v", "varchar", 14, True, "'x'"),
         Column("n", "numeric", make_typmod("numeric", [10, 2])), Column("u", "uuid")],
        id=16385, pk=(0,), pk_name="t_pkey", pk_id=16391,
        indexes=(IndexDef(16393, "t_u_key", 0, (3,), True, True), IndexDef(16395, "tv", 0, (1, 2))),
        checks=(CheckDef("t_n_check", "(n > 0)"),),
    )  # fmt: skip
    database.add("u", [Column("a", "int4")], id=16396)
    database.entries["S", 16384] = SequenceDef(16384, "t_id_seq", max_value=2147483647, owned_by=(16385, 0))
    return database


def rows(analytics, db, sql, params=None):
    return query(analytics, db, sql, params, SESSION)[1]


@pytest.mark.parametrize("sql", PSQL, ids=lambda sql: " ".join(sql.split())[:70])
def test_every_query_of_psql_runs(analytics, db, sql):
    columns, _ = query(analytics, db, sql, {}, SESSION)
    assert columns


def psql(start):
    return next(sql for sql in PSQL if start in sql)


def test_list_of_relations(analytics, db):
    assert rows(analytics, db, psql("c.relkind IN ('r','p','v','m','S','f','')")) == [
        ("public", "t", "table", "admin"),
        ("public", "t_id_seq", "sequence", "admin"),
        ("public", "u", "table", "admin"),
    ]


def test_describe_table(analytics, db):
    assert [row[:4] for row in rows(analytics, db, psql("a.attidentity,\n  a.attgenerated\nFROM"))] == [
        ("id", "integer", "nextval('t_id_seq'::regclass)", True),
        ("v", "character varying(10)", "'x'", True),
        ("n", "numeric(10,2)", None, False),
        ("u", "uuid", None, False),
    ]
    indexes = rows(analytics, db, psql("SELECT c2.relname, i.indisprimary"))
    assert [(row[0], row[1], row[2], row[5], row[6]) for row in indexes] == [
        ("t_pkey", True, True, "CREATE UNIQUE INDEX t_pkey ON public.t USING btree (id)", "PRIMARY KEY (id)"),
        ("t_u_key", False, True, "CREATE UNIQUE INDEX t_u_key ON public.t USING btree (u)", "UNIQUE (u)"),
        ("tv", False, False, "CREATE INDEX tv ON public.t USING btree (v, n)", None),
    ]
    assert rows(analytics, db, psql("r.contype = 'c'")) == [("t_n_check", "CHECK (n > 0)")]


def test_pgbench_looks_for_partitions(analytics, db):
    sql = """select o.n, p.partstrat, pg_catalog.count(i.inhparent)
        from pg_catalog.pg_class as c join pg_catalog.pg_namespace as n on (n.oid = c.relnamespace)
        cross join lateral (select pg_catalog.array_position(pg_catalog.current_schemas(true), n.nspname)) as o(n)
        left join pg_catalog.pg_partitioned_table as p on (p.partrelid = c.oid)
        left join pg_catalog.pg_inherits as i on (c.oid = i.inhparent)
        where c.relname = 't' and o.n is not null group by 1, 2 order by 1 asc limit 1"""
    assert rows(analytics, db, sql) == [(2, None, 0)]


def test_psycopg_looks_a_type_up(analytics, db):
    sql = """SELECT typname AS name, oid, typarray AS array_oid, oid::regtype::text AS regtype, typdelim AS delimiter
        FROM pg_type t WHERE t.oid = to_regtype($1) ORDER BY t.oid"""
    assert rows(analytics, db, sql, {1: ("text", "uuid")}) == [("uuid", 2950, 2951, "uuid", ",")]


def test_reg_casts(analytics, db):
    sql = "select 't'::regclass, 't'::regclass::oid, to_regclass('nope'), 16391::regclass::text, 'int4'::regtype::oid"
    assert rows(analytics, db, sql) == [("t", 16385, None, "t_pkey", 23)]
    assert rows(analytics, db, "select count(*) from pg_attribute where attrelid = 'public.t'::regclass") == [(4,)]
    with pytest.raises(SqlError) as caught:
        rows(analytics, db, "select 'nope'::regclass")
    assert caught.value.sqlstate == "42P01"


def test_information_schema(analytics, db):
    sql = """select column_name, data_type, is_nullable, character_maximum_length, numeric_precision, numeric_scale
        from information_schema.columns where table_name = 't' order by ordinal_position"""
    assert rows(analytics, db, sql) == [
        ("id", "integer", "NO", None, 32, 0),
        ("v", "character varying", "NO", 10, None, None),
        ("n", "numeric", "YES", None, 10, 2),
        ("u", "uuid", "YES", None, None, None),
    ]


def test_session_functions(analytics, db):
    sql = "select current_schema(), current_schemas(true), current_user, pg_backend_pid(), current_setting('server_version')"
    assert rows(analytics, db, sql) == [("public", ["pg_catalog", "public"], "admin", 7, "15.0")]


@pytest.mark.parametrize("view", sorted(VIEWS))
def test_every_view_can_be_read_whole(analytics, db, view):
    columns, _ = query(analytics, db, f"select * from {view}", {}, SESSION)
    assert [column.name for column in columns] == [name for name, _ in VIEWS[view]]


def test_every_maker_has_its_view():
    assert set(_MAKERS) <= set(VIEWS)

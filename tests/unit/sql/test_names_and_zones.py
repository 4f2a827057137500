"""Names of objects and of zones, upper case, format(), the catalogs that psql asks for: PostgreSQL's answer, or its error."""

from __future__ import annotations

from typing import Any

import pytest
from database import TestDatabase

from thunderdb.base.errors import SqlError

ANSWERS = {
    "select upper('straße é'), lower('ΑΣ')": ("STRAßE É", "ασ"),
    "select upper(v || 'ß'), lower(v || 'ΑΣ') from t": ("Aß", "aασ"),
    "select upper(v || 'ß') from t group by v": ("Aß",),
    "select upper('ß') from t group by v having upper(v) = 'A' order by upper(v)": ("ß",),
    "select '2026-01-15 12:00:00 CEST'::timestamptz": ("2026-01-15 10:00:00+00",),
    "select timestamptz '2026-01-15 12:00 am EST'": ("2026-01-15 05:00:00+00",),
    "select format('%s FROM %I, %I: 100%%', 1, 'a b', 'c')": ('1 FROM "a b", c: 100%',),
    "select 't'::regclass": ("t",),
    "select 't'::pg_catalog.regclass::pg_catalog.oid > 0, 'int'::regtype": ("t", "integer"),
    "select current_setting(name) from pg_settings where name = 'work_mem'": ("4MB",),
    "select count(*) from pg_catalog.pg_ts_config": ("0",),
    "select count(*) from pg_language l left join pg_description d on d.classoid = l.tableoid and d.objoid = l.oid": ("0",),
}
ERRORS = {
    "select 'nothing'::regclass": ("42P01", 'relation "nothing" does not exist'),
    "select 'now'::pg_catalog.regproc::pg_catalog.oid": ("42883", 'function "now" does not exist'),
    "select '2026-07-15 12:00:00 America/New_York'::timestamptz": ("22023", 'time zone "america/new_york" not recognized'),
    "select '2026-07-15 12:00:00 ?'::timestamptz": ("22007", "invalid input syntax"),
    "select format('%s')": ("22023", "too few arguments"),
    "select format('%L', 'a')": ("0A000", "not supported"),
    "select tableoid from t": ("42703", "does not exist"),
}


@pytest.fixture(scope="module")
def client() -> Any:
    client = TestDatabase().client()
    client.run("create table t (id int primary key, v text); insert into t values (1, 'a')")
    return client


@pytest.mark.parametrize("sql", list(ANSWERS))
def test_answers(client: Any, sql: str) -> None:
    assert client.run(sql) == [ANSWERS[sql]]


@pytest.mark.parametrize("sql", list(ERRORS))
def test_errors(client: Any, sql: str) -> None:
    with pytest.raises(SqlError) as caught:
        client.run(sql)
    sqlstate, words = ERRORS[sql]
    assert caught.value.sqlstate == sqlstate and words in caught.value.message

"""Every short cut gives what the long way gives, byte for byte: templates, cached plans, synchronous steps, quick waits.

Two databases get the same messages. One of them parses and plans each statement from its own text and takes the general path.
"""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.unit.server.fakes import FakeConnection, error_fields, frame, query, read, startup
from tests.unit.sql.database import TestDatabase
from thunderdb.base.events import Events
from thunderdb.server.sessions import Sessions
from thunderdb.sql import prepare
from thunderdb.sql.executor import SqlSession
from thunderdb.sql.extended import ExtendedProtocol
from thunderdb.sql.prepare import Shared

TABLES = """
    create table t (a int primary key, b int check (b < 50), c text);
    create table u (a bigint primary key, n numeric(6, 2) default 1.5, d date, f float8, ok bool not null default true);
    create table k (x varchar(5), y smallint, z text default 'zz', primary key (x, y));
    create table r (v int);
    create table w (a int primary key, b int unique);
    create table "Mixed" ("A" int primary key, "B" timestamptz);
    insert into t select g, g, 'x' from generate_series(1, 9) g;
    insert into u (a) values (1), (2); insert into k values ('x', 1), ('3', 3); insert into w values (1, 1), (2, 2);
    insert into "Mixed" values (1, '2020-02-28 12:00'), (2, null)
"""
# {} stands for a literal; a statement without one is taken as it is.
READS = (
    "select b, c from t where a = {}", "select * from t where a = {} and b = {}", "select a + {} from t where a = {}",
    "select c, {} from t where a = {}", "select * from u where a = {}", "select * from k where x = {} and y = {}",
    'select "B" from "Mixed" where "A" = {}', "select * from w where a = {}", "select v from r where v = {}",
    "select a from t where a > {} order by a", "select b from t where a = {} for update",
    "select n, ok from u where a = {} limit {}", "select a, b from t where a in ({}, {})",
)  # fmt: skip
CHANGES = (
    "update t set b = {} where a = {}", "update t set b = b + {} where a = {}",
    "update t set b = {} where a = {} and c = {}", "update t set c = {} where a = {}",
    "update t set a = {} where a = {}", "update t set b = {}, c = c || {} where a = {}",
    "update u set n = {}, d = {}, f = {} where a = {}", "update u set ok = {} where a = {}",
    "update u set n = n * {} where a = {}", "update u set n = n / {}, f = f - {} where a = {}",
    "update k set z = {} where x = {} and y = {}", "update w set b = {} where a = {}",
    'update "Mixed" set "B" = {} where "A" = {}', "update t set b = {} where a = {} returning *",
    "update t set b = (select max(b) from t) - {} where a = {}", "update t set b = default, c = {} where a = {}",
    "insert into t values ({}, {}, {})", "insert into t (a, b) values ({}, {})", "insert into t (b) values ({})",
    "insert into u (a) values ({})", "insert into u values ({}, {}, {}, {}, {})", "insert into k values ({}, {}, {})",
    "insert into k (y, x) values ({}, {})", "insert into r values ({})", "insert into w values ({}, {})",
    "insert into t values ({}, {}, {}) on conflict do nothing", "insert into t values ({}, {}, 'q'), ({}, {}, 'r')",
    'insert into "Mixed" values ({}, {})', "delete from t where a = {}", "delete from k where x = {} and y = {}",
)  # fmt: skip
OTHERS = (
    "begin", "begin", "begin", "commit", "commit", "rollback", "begin isolation level repeatable read",
    "begin read only", "start transaction", "end", "abort", "commit and chain", "savepoint s", "rollback to s",
    "release s", "set default_transaction_read_only = on", "set default_transaction_read_only = off",
    "set default_transaction_isolation = 'repeatable read'", "set synchronous_commit = off", "set timezone = 'GMT'",
    "set lock_timeout = 5000", "alter table t add column e int default 7", "alter table t drop column c",
    "create index on t (b)", "drop index t_b_idx", "alter table u rename to v", "drop table k", "truncate u",
    "alter table t alter column b set default 3", "update t set b = 1 where a = 1; select b from t where a = 1",
    "begin; update t set b = 2 where a = 2; commit", "", ";", "update t set b = 3 where a = 3; select 1 / 0",
    "select 1 / 0", "select b from t where a = $1", "select b from t where a = 'x",
)  # fmt: skip
LITERALS = st.one_of(
    st.sampled_from(["1", "2", "3", "3", "1", "2", "-1", "0", "49", "50", "null", "'x'"]),
    st.sampled_from(
        ["2147483647", "2147483648", "-2147483648", "9223372036854775807", "9223372036854775808",
         "-9223372036854775808", "1.5", "1e3", ".5", "2.", "1e400", "12345678.9", "''", "'it''s'", "'3'", "' 3 '",
         "'abc'", "'abcdef'", "true", "false", "'t'", r"E'a\nb'", "$$x$$", "'2020-02-28'", "'2020-02-30'", "'NaN'",
         "'inf'", "b'1'", "x'1F'", "n'x'", "+1", "(2)", "1::bigint", "'1'::int", "cast(3 as text)", "3 /* c; ' */",
         '3 -- c\n', "now() - now()", "default", "a", "1 + 2", "0x1f", "1_0", "1a", "0000000002",
         "00000000000000000002", "'2'", "u&'x'", "'é'", "'a' 'b'", "'\x00'"],
    ),
)  # fmt: skip
SPELLINGS = st.sampled_from(["{}", "{}", "{}", "{};", "  {}", "{} -- ;", "/* 1 */ {}"])
VALUES = st.sampled_from(
    [b"1", b"2", b"3", b"50", b"-1", b"2147483648", b"x", b"", b"1.5", b" 2 ", b"true", b"2020-02-28", b"NaN", b"\xff", None]
)


class Uncached(dict[Any, Any]):
    def get(self, key: Any, default: Any = None) -> Any:
        return None


class PlainShared(Shared):
    """Plans everything anew, from its own text."""

    def __init__(self, db: Any) -> None:
        super().__init__(db)
        self.templates = Uncached()

    def find(self, sql: str, catalog: Any) -> None:
        return None

    def find_prepared(self, sql: str, declared: tuple[str, ...], catalog: Any) -> None:
        return None


class PlainExtended(ExtendedProtocol):
    def parse_quickly(self, *args: Any) -> bool:
        return False

    def execute_quickly(self, *args: Any) -> None:
        return None

    def sync_quickly(self) -> None:
        return None


class PlainSession(SqlSession):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.extended = PlainExtended(self, self.extended._quick)

    def quick(self, sql: str) -> None:
        return None


class Side:
    """A database and two clients of it."""

    def __init__(self, plain: bool) -> None:
        self.database = TestDatabase()
        self.world = self.database.world
        db = self.database.db
        if plain:
            db.sql_shared = PlainShared(db)  # type: ignore[attr-defined]
        kind = PlainSession if plain else SqlSession
        sessions = Sessions(self.world.tasks, self.world.random, Events(), 10)
        sessions.open(lambda user, parameters, pid: kind(db, user, self.world.clock, parameters, pid))
        self.clients = []
        self.database.client().run(TABLES)
        for _ in range(2):
            client = FakeConnection()
            sessions.accept(client)  # type: ignore[arg-type]
            client.on_data(startup(b"user\0ada\0"))
            client.writes.clear()
            self.clients.append(client)

    def say(self, number: int, data: bytes) -> list[Any]:
        """What both clients hear after one of them has said something."""
        self.clients[number].on_data(data)
        self.world.scheduler.settle()
        return [read(client) for client in self.clients]

    def end(self) -> list[Any]:
        heard = [self.say(number, frame("S") + query("rollback")) for number in (0, 1, 0, 1)]
        for table in ("t", "u", "v", "k", "r", "w", '"Mixed"'):
            heard.append(self.say(0, query(f"select * from {table}")))
        locks = self.database.db.gauges()["locks_held"]
        self.database.db.pool.check()
        self.database.close()
        return [*heard, locks]


def prepared(text: str, values: list[bytes | None], binary: bool) -> bytes:
    for number in range(1, text.count("{}") + 1):
        text = text.replace("{}", f"${number}", 1)
        values = [*values, b"1"]
    values = values[: text.count("$")]
    body = b"\0\0" + struct.pack(">hh", 0, len(values))
    for value in values:
        body += struct.pack(">i", -1) if value is None else struct.pack(">i", len(value)) + value
    return b"".join(
        [frame("P", b"\0" + text.encode() + b"\0\0\0"), frame("B", body + struct.pack(">hh", 1, int(binary))),
         frame("D", b"P\0"), frame("E", bytes(5))]
    )  # fmt: skip


def simple(text: str, literals: list[str]) -> bytes:
    for literal in literals:
        text = text.replace("{}", literal, 1)
    return query(text.replace("{}", "1"))


@st.composite
def conversations(draw: st.DrawFn) -> list[tuple[int, bytes]]:
    """(client, message) in order: a few statements again and again, with other values."""
    few = draw(st.lists(st.sampled_from([*READS, *CHANGES, *CHANGES]), min_size=1, max_size=4))
    found = []
    for _ in range(draw(st.integers(2, 14))):
        number = draw(st.sampled_from([0, 0, 0, 1]))
        form = draw(st.sampled_from(["few"] * 7 + ["prepared"] * 3 + ["other"] * 4 + ["sync"]))
        if form == "few":
            text = draw(SPELLINGS).replace("{}", draw(st.sampled_from(few)))
            data = simple(text, draw(st.lists(LITERALS, min_size=5, max_size=5)))
        elif form == "prepared":
            text = draw(st.sampled_from([*few, *few, "begin", "commit", "rollback"]))
            data = prepared(text, draw(st.lists(VALUES, min_size=4, max_size=4)), draw(st.booleans()))
            data += frame("S") if draw(st.integers(0, 2)) else b""
        else:
            data = frame("S") if form == "sync" else query(draw(st.sampled_from(OTHERS)))
        found.append((number, data))
    return found


@pytest.fixture(scope="module", autouse=True)
def _matchers_at_once() -> Any:
    before, prepare.MATCHER_AFTER = prepare.MATCHER_AFTER, 1
    yield
    prepare.MATCHER_AFTER = before


def spared(heard: list[Any], expected: list[Any]) -> bool:
    """Whether only this differs: which error is met first, or that a bad literal is met although no row needs it.

    Where a statement is planned from its own text, its constants are converted then, as in PostgreSQL.
    """
    errors = [error_fields(body)["C"][:2] for kind, body in expected if kind == "E"]
    found = [body for kind, body in heard if kind == "E"]
    tags = [body[-3:] for kind, body in heard if kind == "C"]
    return errors == ["22"] and (bool(found) or tags == [b" 0\0"])


@settings(max_examples=20, deadline=None)
@given(conversations())
@example([(0, query(f"select a {sign}{number} from t where a = 1")) for sign in "+-" for number in (1, 1 << 31, 1 << 63)])
@example([(0, query(f"update t set b = b + {n} where a = {n}")) for n in (1, 2, 3, 49)])
def test_short_cuts_answer_as_the_long_way_does(conversation: list[tuple[int, bytes]]) -> None:
    quick, plain = Side(False), Side(True)
    for number, data in conversation:
        heard, expected = quick.say(number, data), plain.say(number, data)
        if heard != expected and spared(heard[number], expected[number]):
            return
        assert heard == expected
    assert quick.end() == plain.end()

"""Messages answered in one synchronous step: the same bytes, and the same rows afterwards, as by the general path."""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thunderdb.base.errors import InvariantViolated
from thunderdb.base.events import Events
from thunderdb.server.sessions import Sessions
from thunderdb.sql.executor import SqlSession
from thunderdb.sql.extended import ExtendedProtocol
from thunderdb.sql.result import Result
from thunderdb.storage.pool import PageMiss

from .fakes import FakeConnection, error_fields, frame, kinds, query, read, startup

sys.path.insert(0, str(Path(__file__).parents[1] / "sql"))
from database import TestDatabase  # noqa: E402


class GeneralExtended(ExtendedProtocol):
    def parse_quickly(self, *args: Any) -> bool:
        return False

    def execute_quickly(self, *args: Any) -> Result | None:
        return None

    def sync_quickly(self) -> Result | None:
        return None


class GeneralSession(SqlSession):
    """One that is never quick."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.extended = GeneralExtended(self, self.extended._quick)

    def quick(self, sql: str) -> Result | None:
        return None


class Wire:
    """A client of a real database in memory."""

    def __init__(self, kind: type[SqlSession] = SqlSession) -> None:
        self.database = TestDatabase()
        self.world = self.database.world
        self.crashes: list[BaseException] = []
        sessions = Sessions(self.world.tasks, self.world.random, Events(), 10)
        self.sql: list[SqlSession] = []

        def make(user: str, parameters: Any, pid: int) -> SqlSession:
            self.sql.append(kind(self.database.db, user, self.world.clock, parameters, pid))
            return self.sql[-1]

        sessions.open(make)
        self.sessions = sessions
        self.connection = self.connect()
        client = self.database.client()
        client.run("create table t (a int primary key, b int check (b < 50), c text)")
        client.run("insert into t select g, 0, 'x' from generate_series(1, 20) g")

    def connect(self) -> FakeConnection:
        connection = FakeConnection()
        self.sessions.accept(connection)
        connection.on_data(startup(b"user\0ada\0"))
        connection.writes.clear()
        return connection

    def at_once(self, data: bytes) -> str:
        """The kinds of what is answered without any turn of the scheduler."""
        self.connection.on_data(data)
        return kinds(self.connection)

    def talk(self, data: bytes) -> list[tuple[str, bytes]]:
        self.connection.on_data(data)
        self.world.scheduler.settle()
        return read(self.connection)


def parse(sql: str, name: str = "", *oids: int) -> bytes:
    return frame("P", name.encode() + b"\0" + sql.encode() + b"\0" + struct.pack(f">h{len(oids)}I", len(oids), *oids))


def bind(name: str, *values: bytes | None, portal: str = "", binary: bool = False) -> bytes:
    body = portal.encode() + b"\0" + name.encode() + b"\0" + struct.pack(">hh", 0, len(values))
    for value in values:
        body += struct.pack(">i", -1) if value is None else struct.pack(">i", len(value)) + value
    return frame("B", body + struct.pack(">hh", 1, int(binary)))


def execute(portal: str = "", most: int = 0) -> bytes:
    return frame("E", portal.encode() + b"\0" + struct.pack(">I", most))


DESCRIBE, SYNC, CLOSE = frame("D", b"P\0"), frame("S"), frame("C", b"P\0")
STATEMENTS = {
    "read": ("select b, c from t where a = $1", 1), "write": ("update t set b = b + $2 where a = $1", 2),
    "add": ("insert into t values ($1, $2, 'new')", 2), "begin": ("begin", 0), "commit": ("commit;", 0),
    "rollback": ("rollback", 0), "scan": ("select a from t where a > $1 order by a", 1), "bad": ("select 1 / $1", 1),
    "mark": ("savepoint s", 0), "back": ("rollback to s", 0),
}  # fmt: skip
PREPARE = b"".join(parse(sql, name) for name, (sql, _) in STATEMENTS.items()) + SYNC


@pytest.fixture
def wire() -> Iterator[Wire]:
    opened = Wire()
    opened.talk(PREPARE)
    yield opened
    opened.database.close()


def test_a_prepared_point_select_is_answered_in_one_step_and_one_write(wire: Wire) -> None:
    wire.connection.on_data(bind("read", b"3") + DESCRIBE + execute() + SYNC)
    assert len(wire.connection.writes) == 1
    assert kinds(wire.connection) == "2TDCZ"
    assert wire.at_once(parse(STATEMENTS["read"][0]) + bind("", b"99", binary=True) + DESCRIBE + execute() + SYNC) == "12TCZ"
    assert wire.at_once(parse(STATEMENTS["read"][0], "", 23) + SYNC) == "1Z"


def test_a_block_of_prepared_statements_is_quick_and_its_commit_waits(wire: Wire) -> None:
    assert wire.at_once(bind("begin") + execute() + SYNC + bind("write", b"3", b"1") + execute() + SYNC) == "2CZ2CZ"
    assert wire.sql[0].status == "T"
    assert wire.at_once(bind("add", b"100", b"1") + execute() + CLOSE + SYNC) == "2C3Z"
    assert [kind for kind, _ in wire.talk(bind("commit") + execute() + SYNC)] == ["2", "C", "Z"]
    assert wire.database.client().run("select b from t where a in (3, 100)") == [("1",), ("1",)]


def test_a_change_outside_a_block_waits_for_its_commit(wire: Wire) -> None:
    wire.connection.on_data(bind("write", b"3", b"1") + execute() + SYNC)
    assert "Z" not in kinds(wire.connection)
    wire.world.scheduler.settle()
    assert kinds(wire.connection)[-1] == "Z"
    assert wire.database.client().run("select b from t where a = 3") == [("1",)]


def test_a_quick_read_sees_its_own_change_and_no_open_one_of_others(wire: Wire) -> None:
    def read_by(connection: FakeConnection) -> bytes:
        connection.writes.clear()
        connection.on_data(query("select b from t where a = 3"))
        row: bytes = next(body for kind, body in read(connection) if kind == "D")
        return row[6:]

    other = wire.connect()
    wire.talk(query("select b from t where a = 3"))  # planned, so that what follows is quick
    assert wire.talk(query("begin"))[-1][1] == b"T"
    wire.talk(query("update t set b = b + 7 where a = 3"))
    assert (read_by(wire.connection), read_by(other)) == (b"7", b"0")
    wire.connection.on_data(query("commit"))
    assert read_by(other) == b"0"  # it is not durable yet
    wire.world.scheduler.settle()
    assert read_by(other) == b"7"


def test_errors_after_bind_skip_until_sync(wire: Wire) -> None:
    messages = wire.talk(
        bind("read", b"x") + execute() + bind("read", b"1") + execute() + SYNC + bind("read", b"1") + execute() + SYNC
    )
    assert [kind for kind, _ in messages] == ["E", "Z", "2", "D", "C", "Z"]
    assert error_fields(messages[0][1])["C"] == "22P02"
    messages = wire.talk(bind("begin") + execute() + bind("write", b"1", b"50") + execute() + SYNC)
    assert [kind for kind, _ in messages] == ["2", "C", "2", "E", "Z"] and messages[-1][1] == b"E"
    assert [kind for kind, _ in wire.talk(bind("read", b"1") + SYNC)] == ["E", "Z"]


def test_reads_between_two_syncs_share_a_snapshot_at_repeatable_read(wire: Wire) -> None:
    wire.talk(query("set default_transaction_isolation = 'repeatable read'"))
    wire.talk(bind("read", b"1", portal="p") + execute("p"))
    wire.database.client().run("update t set b = 7 where a = 1")
    messages = wire.talk(bind("read", b"1") + execute() + SYNC)
    assert b"\x010" in dict(messages)["D"]


def test_a_broken_invariant_stops_the_node(wire: Wire) -> None:
    def broken(*args: Any) -> None:
        raise InvariantViolated("impossible")

    wire.sql[0].rows = type("Broken", (), {"try_get_now": broken})()
    with pytest.raises(InvariantViolated):
        wire.talk(bind("read", b"1") + execute() + SYNC)


STEPS = st.one_of(
    st.tuples(
        st.sampled_from(sorted(STATEMENTS)), st.sampled_from(["1", "2", "40", "x", None]), st.sampled_from(["1", "30", "-1"])
    ),
    st.sampled_from(["sync", "sync", "sync", "describe", "again", "parse", "simple", "alone", "none", "part"]),
)


def _message(step: Any) -> bytes:
    if isinstance(step, tuple):
        name, *values = step
        given_values = [None if v is None else v.encode() for v in values[: STATEMENTS[name][1]]]
        return bind(name, *given_values) + execute()
    others = {
        "sync": SYNC, "describe": DESCRIBE, "again": execute(), "parse": parse(STATEMENTS["read"][0]) + bind("", b"5"),
        "simple": SYNC + query("select b from t where a = 1"), "alone": query("update t set b = b + 20 where a = 2"),
        "none": query("update t set b = 1 where a = 77"), "part": bind("scan", b"3", portal="p") + execute("p", 2),
    }  # fmt: skip
    return others[step]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(STEPS, min_size=1, max_size=6), min_size=1, max_size=5))
def test_quick_and_general_answers_agree(batches: list[list[Any]]) -> None:
    answers = []
    for kind in (SqlSession, GeneralSession):
        wire = Wire(kind)
        answer: list[Any] = [wire.talk(PREPARE)]
        for batch in batches:
            answer.append(wire.talk(b"".join(map(_message, batch)) + SYNC))
        answer.append(wire.talk(query("rollback") + query("select * from t order by a"))[-20:])
        answers.append(answer)
        wire.database.close()
    assert answers[0] == answers[1]


# --- the two waits of the quick path: a row's lock, a commit


@pytest.fixture
def three(wire: Wire) -> tuple[Wire, FakeConnection, FakeConnection]:
    """Two more clients; the first one holds row 1's lock."""
    holder, waiter = wire.connect(), wire.connect()
    for data in ("begin", "update t set b = 5 where a = 1"):
        holder.on_data(query(data))
    wire.world.scheduler.settle()
    assert kinds(holder) == "CZCZ"
    waiter.on_data(query("select b from t where a = 1"))
    wire.world.scheduler.settle()
    waiter.on_data(query("begin"))
    waiter.writes.clear()
    return wire, holder, waiter


def settle(wire: Wire, connection: FakeConnection, *statements: str) -> str:
    for statement in statements:
        connection.on_data(query(statement))
    wire.world.scheduler.settle()
    return kinds(connection)


ADD = "update t set b = b + 1 where a = 1"


def test_a_wait_for_a_row_ends_with_the_newest_version(three: tuple[Wire, FakeConnection, FakeConnection]) -> None:
    wire, holder, waiter = three
    assert settle(wire, waiter, ADD, "select b from t where a = 1") == ""
    assert settle(wire, holder, "commit") == "CZ"
    assert kinds(waiter) == "CZTDCZ"
    assert settle(wire, waiter, "commit") == "CZ"
    assert wire.database.client().run("select b from t where a = 1") == [("6",)]


def test_what_a_wait_for_a_row_finds_wrong_is_reported(three: tuple[Wire, FakeConnection, FakeConnection]) -> None:
    wire, holder, waiter = three
    assert settle(wire, waiter, "update t set b = b + 45 where a = 1") == ""
    settle(wire, holder, "commit")
    assert error_fields(read(waiter)[0][1])["C"] == "23514"
    assert settle(wire, waiter, "rollback") == "CZ"


def test_a_wait_for_a_row_is_cancelled(three: tuple[Wire, FakeConnection, FakeConnection]) -> None:
    wire, holder, waiter = three
    assert settle(wire, waiter, ADD) == ""
    wire.sql[-1].cancel()
    wire.world.scheduler.settle()
    assert error_fields(read(waiter)[0][1])["C"] == "57014"
    assert settle(wire, waiter, "rollback", "begin", "update t set b = 1 where a = 2", "commit") == "CZCZCZCZ"
    assert settle(wire, holder, "commit") == "CZ"
    assert wire.database.client().run("select b from t where a < 3 order by a") == [("5",), ("1",)]


def test_who_would_close_a_circle_of_waits_is_the_victim(three: tuple[Wire, FakeConnection, FakeConnection]) -> None:
    wire, holder, waiter = three
    assert settle(wire, waiter, "update t set b = 1 where a = 2", ADD) == "CZ"
    assert settle(wire, holder, "update t set b = 2 where a = 2")[0] == "E"
    assert wire.database.db.manager.locks.deadlocks == 1
    assert kinds(waiter) == "CZ"  # the victim's locks went with its transaction
    assert settle(wire, waiter, "commit") == "CZ"
    assert settle(wire, holder, "rollback") == "CZ"


def test_lock_timeout_counts_for_a_wait_that_could_be_quick(three: tuple[Wire, FakeConnection, FakeConnection]) -> None:
    wire, holder, waiter = three
    assert settle(wire, waiter, "set lock_timeout = 100", ADD) == "CZ"
    wire.world.run(wire.world.tasks.sleep(1_000_000_000))
    assert error_fields(read(waiter)[0][1])["C"] == "55P03"


@pytest.mark.parametrize("how", ["vanish", "terminate"])
@pytest.mark.parametrize("doing", [ADD, "commit"])
def test_a_client_that_goes_away_in_a_quick_wait(
    three: tuple[Wire, FakeConnection, FakeConnection], doing: str, how: str
) -> None:
    wire, holder, waiter = three
    settle(wire, waiter, "update t set b = 7 where a = 3")
    waiter.on_data(query(doing))
    if how == "vanish":
        waiter.on_close(None)
    else:
        wire.sessions.by_pid[wire.sql[-1].pid].terminate()
    wire.world.scheduler.settle()
    assert settle(wire, holder, "commit") == "CZ"
    expected = [("5",), ("7" if doing == "commit" else "0",)]
    assert wire.database.client().run("select b from t where a in (1, 3) order by a") == expected
    assert wire.database.db.gauges()["locks_held"] == 0
    assert len(wire.sessions.connections) == 2


def test_a_pipeline_goes_on_behind_quick_waits(three: tuple[Wire, FakeConnection, FakeConnection]) -> None:
    wire, holder, waiter = three
    pipeline = (ADD, "commit", "begin", ADD, "commit", "select b from t where a = 1")
    waiter.on_data(b"".join(map(query, pipeline)))
    wire.world.scheduler.settle()
    assert kinds(waiter) == ""
    assert settle(wire, holder, "commit") == "CZ"
    assert kinds(waiter) == "CZCZCZCZCZTDCZ"


def test_pages_that_are_not_in_memory_are_loaded_on_the_quick_path(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    database = wire.database.db
    statements = ("select b from t where a = 3", "begin", "update t set b = 4 where a = 3", "commit")
    for statement in statements:  # planned and cached
        wire.talk(query(statement))
    monkeypatch.setattr(SqlSession, "simple", None)  # whatever takes the general path fails
    for statement in statements:
        answer = "TDCZ" if statement.startswith("select") else "CZ"
        for _ in range(3):
            wire.database.run(database.pool.clean(database.log.next_lsn, 1000))
            wire.database.run(database.pool.sync())
        for page in database.pool.resident_pages():
            database.pool.drop(page.page_no)
        loads = database.pool.loads
        wire.connection.on_data(query(statement))
        wire.world.scheduler.settle()
        assert kinds(wire.connection) == answer
        assert (database.pool.loads > loads) == (answer == "TDCZ" or "update" in statement)


def test_a_statement_met_often_gives_the_same_as_ever(wire: Wire) -> None:
    """Its template's plan is found by a regular expression then, until the table changes."""
    shared = wire.sql[0].shared

    def rows(number: int) -> list[tuple[str, bytes]]:
        return [message for message in wire.talk(query(f"select * from t where a = {number}")) if message[0] == "D"]

    first = {number: rows(number) for number in range(1, 22)}
    assert shared.matchers and not first[21] and len(set(map(str, first.values()))) == 21
    assert {number: rows(number) for number in range(1, 22)} == first
    wire.database.client().run("alter table t add column d int default 9")
    changed = {number: rows(number) for number in range(1, 22)}
    assert all(bool(changed[number]) == bool(first[number]) for number in first)
    assert all(b"9" in changed[number][0][1] and changed[number] != first[number] for number in range(1, 21))
    assert {number: rows(number) for number in range(1, 22)} == changed


# --- changes outside a block, and the extended protocol's waits


@pytest.fixture
def quick_only(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> Wire:
    """Statements are planned and cached; whatever takes the general path from here on fails."""
    for statement in (
        ADD,
        "insert into t values (100, 1, 'y')",
        "delete from t where a = 100",
        "update t set b = 1 where a = 77",
    ):
        wire.talk(query(statement))
    for name in ("simple", "execute", "sync"):
        monkeypatch.setattr(SqlSession, name, None)
    return wire


@pytest.mark.parametrize("statement", ["update t set b = b + 1 where a = 9", "insert into t values (101, 1, 'y')"])
def test_a_change_outside_a_block_is_quick_and_answered_when_it_is_durable(quick_only: Wire, statement: str) -> None:
    wire, db = quick_only, quick_only.database.db
    assert wire.at_once(query(statement)) == ""
    end_lsn = db.log.next_lsn
    assert wire.sql[0].txn is None and db.log.flushed_lsn < end_lsn
    wire.world.scheduler.settle()
    assert kinds(wire.connection) == "CZ" and db.log.flushed_lsn >= end_lsn
    assert db.gauges()["locks_held"] == 0


def test_a_change_of_no_row_outside_a_block_waits_for_nothing(quick_only: Wire) -> None:
    assert quick_only.at_once(query("update t set b = 1 where a = 77")) == "CZ"
    assert quick_only.sql[0].txn is None
    assert quick_only.database.db.gauges()["locks_held"] == 0


def test_prepared_changes_between_two_syncs_are_one_quick_transaction(quick_only: Wire) -> None:
    wire, manager = quick_only, quick_only.database.db.manager
    commits = manager.commits
    pipeline = bind("write", b"3", b"1") + execute() + bind("add", b"102", b"1") + execute()
    assert wire.at_once(pipeline) == "2C2C"
    assert manager.commits == commits
    assert [kind for kind, _ in wire.talk(SYNC)][-1] == "Z"
    assert manager.commits == commits + 1


def test_a_quick_change_goes_with_what_fails_before_sync(wire: Wire) -> None:
    answers = wire.talk(bind("write", b"3", b"1") + execute() + bind("write", b"4", b"50") + execute() + SYNC)
    assert [kind for kind, _ in answers] == ["2", "C", "2", "E", "Z"]
    assert wire.database.client().run("select b from t where a in (3, 4)") == [("0",), ("0",)]
    assert wire.database.db.gauges()["locks_held"] == 0


def test_a_change_that_fails_outside_a_block_leaves_nothing(wire: Wire) -> None:
    for _ in range(2):  # planned by the first
        assert error_fields(wire.talk(query("update t set b = b + 50 where a = 5"))[0][1])["C"] == "23514"
        assert wire.sql[0].txn is None and wire.database.db.gauges()["locks_held"] == 0


@pytest.mark.parametrize("how", ["commit", "cancel", "vanish"])
@pytest.mark.parametrize("protocol", ["simple", "extended"])
def test_a_change_outside_a_block_waits_for_a_row(
    three: tuple[Wire, FakeConnection, FakeConnection], protocol: str, how: str
) -> None:
    wire, holder, waiter = three
    settle(wire, waiter, "rollback", "update t set b = b + 1 where a = 2")
    waiter.on_data(parse(STATEMENTS["write"][0], "w") + SYNC)
    wire.world.scheduler.settle()
    waiter.writes.clear()
    waiter.on_data(query(ADD) if protocol == "simple" else bind("w", b"1", b"1") + execute() + SYNC)
    wire.world.scheduler.settle()
    assert "C" not in kinds(waiter)
    waiter.writes.clear()
    if how == "cancel":
        wire.sql[-1].cancel()
    elif how == "vanish":
        waiter.on_close(None)
    wire.world.scheduler.settle()
    assert settle(wire, holder, "commit") == "CZ"
    if how == "cancel":
        assert error_fields(read(waiter)[0][1])["C"] == "57014"
    elif how == "commit":
        assert kinds(waiter)[-2:] == "CZ"
    wire.world.scheduler.settle()
    assert wire.database.client().run("select b from t where a = 1") == [("6" if how == "commit" else "5",)]
    assert wire.database.db.gauges()["locks_held"] == 0


def test_in_a_block_of_prepared_statements_every_wait_is_quick(quick_only: Wire) -> None:
    wire, database = quick_only, quick_only.database.db
    other = wire.connect()
    assert settle(wire, other, "begin", ADD) == "CZCZ"
    for name, values in (("begin", ()), ("write", (b"1", b"1")), ("commit", ())):
        wire.connection.on_data(bind(name, *values) + execute() + SYNC)
        wire.world.scheduler.settle()
    assert kinds(wire.connection) == "2CZ2"
    assert settle(wire, other, "commit") == "CZ"
    assert kinds(wire.connection) == "CZ2CZ"
    for _ in range(3):
        wire.database.run(database.pool.clean(database.log.next_lsn, 1000))
        wire.database.run(database.pool.sync())
    for page in database.pool.resident_pages():
        database.pool.drop(page.page_no)
    assert [kind for kind, _ in wire.talk(bind("read", b"3") + execute() + SYNC)] == ["2", "D", "C", "Z"]


def test_a_table_that_changes_while_a_read_waits_for_its_page_is_planned_again(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    select, database = "select b from t where a = 3", wire.database.db
    wire.talk(query(select))
    for _ in range(3):
        wire.database.run(database.pool.clean(database.log.next_lsn, 1000))
        wire.database.run(database.pool.sync())
    for page in database.pool.resident_pages():
        database.pool.drop(page.page_no)
    loading, load = wire.world.tasks.future(), database.pool.load

    async def slowly(page_no: int) -> Any:
        await loading
        return await load(page_no)

    def never_now(page_no: int) -> Any:
        raise PageMiss(page_no)

    monkeypatch.setattr(database.pool, "_load_now", never_now)
    monkeypatch.setattr(database.pool, "load", slowly)
    later: Any = wire.sql[0].quick(select)
    monkeypatch.undo()
    wire.database.client().run("drop table t; create table t (c int, a int primary key, b int)")
    loading.set_result(None)
    wire.world.scheduler.settle()
    assert later.finish() is None


# --- a wait for a page ends with a cancel and a time-out, like any other


class Stuck:
    """From now on no page comes in until `come` is called."""

    def __init__(self, wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
        pool = wire.database.db.pool
        for _ in range(3):
            wire.database.run(pool.clean(wire.database.db.log.next_lsn, 1000))
            wire.database.run(pool.sync())
        for page in pool.resident_pages():
            pool.drop(page.page_no)
        self.world, self.gate = wire.world, wire.world.tasks.future()
        read = pool._read_disk

        async def wait(page_no: int) -> Any:
            await self.gate
            return await read(page_no)

        monkeypatch.setattr(pool, "_read_disk", wait)
        monkeypatch.setattr(pool.files, "read_now", lambda page_no: None)

    def come(self) -> None:
        self.gate.set_result(None)
        self.world.scheduler.settle()


READS_AND_CHANGES = ["select b from t where a = 3", "update t set b = 4 where a = 3"]


@pytest.mark.parametrize("kind", [SqlSession, GeneralSession])
@pytest.mark.parametrize("statement", READS_AND_CHANGES)
@pytest.mark.parametrize("late", [False, True])
def test_a_wait_for_a_page_is_cancelled(statement: str, kind: Any, late: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """`late`: the page and the cancel come in the same turn. A change on the general path waits for its page, and ends then."""
    wire = Wire(kind)
    wire.talk(query(statement))
    stuck = Stuck(wire, monkeypatch)
    assert settle(wire, wire.connection, statement) == ""
    if late:
        stuck.gate.set_result(None)
    wire.sql[0].cancel()
    wire.world.scheduler.settle()
    if kind is GeneralSession and statement.startswith("update"):
        stuck.come()
    assert error_fields(read(wire.connection)[0][1])["C"] == "57014"
    stuck.come()
    assert settle(wire, wire.connection, *READS_AND_CHANGES) == "TDCZCZ"
    assert wire.database.db.gauges()["locks_held"] == 0
    assert not any(page.pins for page in wire.database.db.pool.resident_pages())


@pytest.mark.parametrize("statement", READS_AND_CHANGES)
@pytest.mark.parametrize("extended", [False, True])
def test_a_wait_for_a_page_has_a_statement_timeout(
    wire: Wire, statement: str, extended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire.talk(query(statement) + query("set statement_timeout = '400ms'"))
    stuck = Stuck(wire, monkeypatch)
    began = wire.world.clock.monotonic_ns()
    message = bind("read", b"3") if statement.startswith("select") else bind("write", b"3", b"4")
    wire.connection.on_data(message + execute() + SYNC if extended else query(statement))
    wire.world.run(wire.world.tasks.sleep(1_000_000_000))
    answers = [message for message in read(wire.connection) if message[0] != "2"]
    fields = error_fields(answers[0][1])
    assert (fields["C"], fields["M"]) == ("57014", "canceling statement due to statement timeout")
    assert wire.world.clock.monotonic_ns() - began < 1_500_000_000
    stuck.come()
    assert settle(wire, wire.connection, *READS_AND_CHANGES) == "TDCZCZ"
    assert wire.database.db.gauges()["locks_held"] == 0

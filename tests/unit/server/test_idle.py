"""A client that says nothing for too long is shown out, and its locks are free; parameters that are accepted have an effect."""

from __future__ import annotations

import pytest

from .fakes import FakeConnection, error_fields, frame, parse, query, read, startup
from .test_quick import Wire

SECOND = 1_000_000_000


def rest(wire: Wire, seconds: float) -> None:
    wire.world.run(wire.world.tasks.sleep(int(seconds * SECOND)))


def ask(wire: Wire, connection: FakeConnection, *statements: str) -> str:
    """What is answered to statements, one after the other: the kinds of the messages."""
    for statement in statements:
        connection.on_data(query(statement))
        wire.world.scheduler.settle()
    return "".join(kind for kind, _ in read(connection))


@pytest.fixture
def wire() -> Wire:
    return Wire()


def last_words(connection: FakeConnection) -> tuple[str, str, str]:
    fields = error_fields(read(connection)[-1][1])
    return fields["S"], fields["C"], fields["M"]


@pytest.mark.parametrize("statement", ["update t set b = 1 where a = 1", "select b from t for update", "select nonsense"])
def test_who_is_idle_in_a_transaction_for_too_long_is_shown_out(wire: Wire, statement: str) -> None:
    one = wire.connect()
    ask(wire, one, "set idle_in_transaction_session_timeout = '2s'", "begin", "update t set b = 1 where a = 2", statement)
    rest(wire, 1.9)
    assert not one.closed
    rest(wire, 0.2)
    expected = ("FATAL", "25P03", "terminating connection due to idle-in-transaction timeout")
    assert last_words(one) == expected and one.closed
    assert wire.sql[-1].txn is None and not wire.sessions.by_pid.get(2)
    other = wire.connect()
    assert ask(wire, other, "set lock_timeout = 100", "update t set b = b + 2 where a = 2") == "CZCZ"
    assert wire.database.client().run("select b from t where a = 2") == [("2",)]


def test_each_message_begins_the_time_anew_and_out_of_a_transaction_there_is_none(wire: Wire) -> None:
    one = wire.connect()
    ask(wire, one, "set idle_in_transaction_session_timeout = 2000")
    rest(wire, 10)
    ask(wire, one, "begin")
    for _ in range(5):
        rest(wire, 1.5)
        assert ask(wire, one, "select 1") == "TDCZ"
    assert ask(wire, one, "commit") == "CZ"
    rest(wire, 10)
    ask(wire, one, "begin", "set local idle_in_transaction_session_timeout = 0")
    rest(wire, 10)
    assert not one.closed
    one.on_data(frame("X"))
    assert one.closed


def test_a_client_that_waits_for_a_lock_is_not_idle(wire: Wire) -> None:
    holder, waiter = wire.connect(), wire.connect()
    ask(wire, holder, "begin", "update t set b = 1 where a = 1")
    ask(wire, waiter, "set idle_in_transaction_session_timeout = 1000", "begin")
    waiter.on_data(query("update t set b = b + 1 where a = 1"))
    rest(wire, 5)
    assert not waiter.closed
    assert ask(wire, holder, "commit") == "CZ"
    assert ask(wire, waiter, "commit") == "CZCZ"


def test_an_idle_session_without_a_transaction_has_a_time_of_its_own(wire: Wire) -> None:
    one = wire.connect()
    ask(wire, one, "set idle_session_timeout = '3s'", "begin")
    rest(wire, 10)
    ask(wire, one, "commit")
    rest(wire, 2.9)
    assert not one.closed
    rest(wire, 0.2)
    assert last_words(one) == ("FATAL", "57P05", "terminating connection due to idle-session timeout")


def test_by_the_extended_protocol_too(wire: Wire) -> None:
    one = wire.connect()
    ask(wire, one, "set idle_in_transaction_session_timeout = 1000", "begin")
    one.on_data(parse("", "select 1") + frame("S"))
    wire.world.scheduler.settle()
    rest(wire, 1.1)
    assert last_words(one)[1] == "25P03"


def error_of(wire: Wire, statement: str) -> str:
    wire.connection.writes.clear()
    wire.connection.on_data(query(statement))
    wire.world.scheduler.settle()
    return next((error_fields(body)["C"] for kind, body in read(wire.connection) if kind == "E"), "")


def test_transaction_read_only_is_more_than_a_word(wire: Wire) -> None:
    steps = ("begin", "set transaction_read_only = on", "insert into t values (99)")
    assert [error_of(wire, text) for text in steps][-1] == "25006"
    assert error_of(wire, "rollback") == ""
    assert [error_of(wire, text) for text in ("begin", "set local transaction_read_only = on", "delete from t")][-1] == "25006"


@pytest.mark.parametrize(
    ("statement", "sqlstate"),
    [
        ("set transaction isolation level serializable", "0A000"),
        ("set transaction_isolation = 'serializable'", "0A000"),
        ("set transaction_isolation = 'nonsense'", "22023"),
        ("set standard_conforming_strings = off", "22023"),
        ("set idle_session_timeout = 'soon'", "22023"),
        ("set transaction isolation level read uncommitted", ""),
    ],
)
def test_what_would_have_no_effect_is_refused(wire: Wire, statement: str, sqlstate: str) -> None:
    assert error_of(wire, "begin") == ""
    assert error_of(wire, statement) == sqlstate


def test_a_client_gets_the_notices_that_it_asked_for(wire: Wire) -> None:
    one = wire.connect()
    assert ask(wire, one, "drop table if exists nothing") == "NCZ"
    assert ask(wire, one, "set client_min_messages = warning", "drop table if exists nothing", "commit") == "CZCZNCZ"
    assert ask(wire, one, "set client_min_messages = error", "commit") == "CZCZ"


def test_the_time_of_an_idle_session_begins_with_its_greeting(wire: Wire) -> None:
    one = FakeConnection()
    wire.sessions.accept(one)
    one.on_data(startup(b"user\0ada\0idle_session_timeout\x002s\0"))
    one.writes.clear()
    rest(wire, 1.9)
    assert not one.closed
    rest(wire, 0.2)
    assert last_words(one)[1] == "57P05" and one.closed

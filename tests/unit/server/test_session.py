"""Sessions over a connection in memory: message flow, pipelines, suspension, COPY, cancel, clients that vanish."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thunderdb.base.errors import InvariantViolated
from thunderdb.server import pgwire

from .fakes import Bench, bind, error_fields, execute, frame, kinds, parse, query, read, startup


@pytest.fixture
def bench() -> Bench:
    return Bench()


def first_error(messages: list[tuple[str, bytes]]) -> dict[str, str]:
    return next(error_fields(body) for kind, body in messages if kind == "E")


def test_startup_greets_in_one_write(bench: Bench) -> None:
    connection = bench.connect()
    connection.on_data(struct.pack(">II", 8, pgwire.SSL_REQUEST))
    assert connection.writes == [b"N"]
    connection.writes.clear()
    connection.on_data(struct.pack(">II", 8, pgwire.GSSENC_REQUEST))
    assert connection.writes == [b"N"]
    connection.writes.clear()
    connection.on_data(startup(b"user\0ada\0application_name\0psql\0"))
    assert len(connection.writes) == 1
    assert kinds(connection) == "RSSKZ"
    assert bench.made[0].parameters == {"application_name": "psql"}


def test_a_newer_minor_protocol_is_negotiated_down(bench: Bench) -> None:
    connection = bench.connect()
    connection.on_data(startup(b"user\0ada\0_pq_.fancy\x001\0", (3 << 16) | 2))
    messages = read(connection)
    assert messages[0] == ("v", struct.pack(">II", 3 << 16, 1) + b"_pq_.fancy\0")
    assert messages[-1] == ("Z", b"I")


@pytest.mark.parametrize(
    ("parameters", "sqlstate"),
    [
        (b"user\0ada\0database\0other\0", "3D000"),
        (b"database\0thunderdb\0", "28000"),
        (b"user\0ada\0replication\0true\0", "0A000"),
        (b"user\0ada\0bad_setting\0x\0", "22023"),
    ],
)
def test_refused_startups_say_why_and_close(bench: Bench, parameters: bytes, sqlstate: str) -> None:
    connection = bench.connect()
    connection.on_data(startup(parameters))
    fields = first_error(read(connection))
    assert (fields["S"], fields["C"]) == ("FATAL", sqlstate)
    assert connection.closed and not bench.sessions.by_pid and not bench.sessions.connections


@pytest.mark.parametrize("parameters", [b"user\0ada\0database\0thunderdb\0", b"user\0admin\0", b"user\0ada\0database\0ada\0"])
def test_the_one_database_is_reached_by_its_name_or_the_users(bench: Bench, parameters: bytes) -> None:
    connection = bench.connect()
    connection.on_data(startup(parameters))
    assert kinds(connection)[-1] == "Z"


def test_too_many_clients(bench: Bench) -> None:
    bench.sessions.max_connections = 2
    first = bench.client()
    bench.client()
    third = bench.connect()
    third.on_data(startup(b"user\0ada\0"))
    assert first_error(read(third))["C"] == "53300"
    first.close()
    assert bench.client().closed is False


def test_clients_before_recovery_has_ended_are_told_so(bench: Bench) -> None:
    bench.sessions.make_sql = None
    connection = bench.connect()
    connection.on_data(startup(b"user\0ada\0"))
    assert first_error(read(connection))["C"] == "57P03"


def test_a_silent_connection_is_dropped(bench: Bench) -> None:
    connection = bench.connect()
    bench.world.run(bench.world.tasks.sleep(61_000_000_000))
    assert connection.closed and not bench.sessions.connections


def test_a_statement_is_answered_in_one_write_without_a_turn_of_the_loop(bench: Bench) -> None:
    connection = bench.client()
    connection.on_data(query("echo a"))
    assert len(connection.writes) == 1
    assert kinds(connection) == "TDCZ"


def test_several_statements_and_messages_in_one_buffer(bench: Bench) -> None:
    connection = bench.client()
    connection.on_data(query("echo a; echo b") + query("begin") + query("") + query("echo c"))
    assert len(connection.writes) == 1
    messages = read(connection)
    assert "".join(kind for kind, _ in messages) == "TDCTDCZCZIZTDCZ"
    assert [body for kind, body in messages if kind == "Z"] == [b"I", b"T", b"T", b"T"]


def test_an_error_ends_the_query_string_and_has_its_fields(bench: Bench) -> None:
    connection = bench.client()
    connection.on_data(query("begin; fail; echo never"))
    messages = read(connection)
    assert "".join(kind for kind, _ in messages) == "CEZ"
    expected = {"S": "ERROR", "V": "ERROR", "C": "42601", "M": "syntax error", "D": "detail", "H": "hint", "P": "7"}
    assert first_error(messages) == expected
    assert messages[-1] == ("Z", b"E")


def test_notices_and_parameter_changes(bench: Bench) -> None:
    connection = bench.client()
    connection.on_data(query("notice mind the gap; set UTC"))
    messages = read(connection)
    assert "".join(kind for kind, _ in messages) == "NCCSZ"
    assert messages[3][1] == b"TimeZone\0UTC\0"


def test_a_bug_in_a_statement_is_xx000_and_the_session_goes_on(bench: Bench) -> None:
    connection = bench.client()
    connection.on_data(query("crash"))
    assert first_error(read(connection))["C"] == "XX000"
    assert [name for name, _ in bench.events] == ["server.statement_crashed"]
    assert "failed" in bench.made[0].log
    connection.on_data(query("echo a"))
    assert kinds(connection) == "TDCZ"


def test_a_violated_invariant_stops_the_node(bench: Bench) -> None:
    connection = bench.client()
    with pytest.raises(InvariantViolated):
        connection.on_data(query("violate"))


def test_input_queues_while_a_statement_waits(bench: Bench) -> None:
    connection = bench.client()
    connection.on_data(query("echo a") + query("wait") + query("echo b"))
    assert kinds(connection) == "TDCZ", "what is ready leaves before the wait"
    connection.on_data(query("echo c"))
    assert connection.writes == []
    bench.made[0].waiting.set_result(None)
    bench.settle()
    assert kinds(connection) == "CZTDCZTDCZ"
    assert bench.made[0].log == ["echo a", "wait", "echo b", "echo c"]


def test_much_input_during_a_wait_pauses_the_connection(bench: Bench) -> None:
    connection = bench.client()
    connection.on_data(query("wait"))
    for _ in range(3):
        connection.on_data(query("echo " + "x" * 500_000))
    assert connection.paused
    bench.made[0].waiting.set_result(None)
    bench.settle()
    assert not connection.paused
    assert kinds(connection) == "CZ" + "TDCZ" * 3


def test_extended_protocol(bench: Bench) -> None:
    connection = bench.client()
    connection.on_data(parse("echo x") + frame("D", b"S\0") + bind() + frame("D", b"P\0") + execute() + frame("S"))
    assert len(connection.writes) == 1
    assert kinds(connection) == "1tT2TDCZ"
    connection.on_data(parse("echo x") + bind() + execute(1) + frame("H"))
    assert kinds(connection) == "12Ds"
    connection.on_data(frame("C", b"S\0") + frame("C", b"P\0") + frame("S"))
    assert kinds(connection) == "33Z"


def test_after_an_error_everything_is_skipped_until_sync(bench: Bench) -> None:
    connection = bench.client()
    connection.on_data(parse("fail") + bind() + execute() + query("echo a") + frame("S") + query("echo b"))
    assert kinds(connection) == "EZTDCZ"
    assert bench.made[0].log == ["failed", "sync", "echo b"]


def test_malformed_bytes_end_the_connection_with_08p01(bench: Bench) -> None:
    for garbage in (b"\x00\x01\x02\x03\x04\x05", b"Q\0\0\0\x02", frame("B", b"no"), frame("D", b"X\0"), frame("p", b"pw\0")):
        connection = bench.client()
        connection.on_data(query("echo a") + garbage)
        messages = read(connection)
        assert "".join(kind for kind, _ in messages) == "TDCZE", garbage
        assert first_error(messages)["C"] == "08P01"
        assert connection.closed
    assert not bench.sessions.connections
    assert all(sql.log[-1] == "close" for sql in bench.made)


def test_copy_in_hands_on_pieces_not_rows(bench: Bench) -> None:
    connection = bench.client()
    connection.on_data(query("copyin"))
    assert kinds(connection) == "G"
    connection.on_data(b"".join(frame("d", b"%d\n" % row) for row in range(500)) + frame("c"))
    bench.settle()
    messages = read(connection)
    assert messages == [("C", b"COPY 500\0"), ("Z", b"I")]


def test_copy_in_that_fails(bench: Bench) -> None:
    connection = bench.client()
    connection.on_data(query("copyin") + frame("d", b"bad row\n") + frame("d", b"1\n") + frame("c") + query("echo a"))
    bench.settle()
    assert kinds(connection) == "GEZTDCZ", "the rest of the client's data is ignored"
    connection.on_data(query("copyin") + frame("f", b"changed my mind\0"))
    messages = read(connection)
    assert first_error(messages)["M"] == "COPY from stdin failed: changed my mind"


def test_copy_out(bench: Bench) -> None:
    connection = bench.client()
    connection.on_data(query("copyout"))
    assert kinds(connection) == "HddcCZ"


def test_a_large_result_waits_for_a_slow_client(bench: Bench) -> None:
    connection = bench.client()
    connection.room = bench.world.tasks.future()
    connection.write_buffer_bytes = 2 << 20
    connection.on_data(query("many 100000"))
    bench.settle()
    assert sum(map(len, connection.writes)) < 1 << 20 and connection.drains == 1
    connection.room.set_result(None)
    bench.settle()
    assert kinds(connection).count("D") == 100_000


def test_cancel_needs_the_right_key(bench: Bench) -> None:
    connection = bench.connect()
    connection.on_data(startup(b"user\0ada\0"))
    key = next(body for kind, body in read(connection) if kind == "K")
    connection.on_data(query("wait"))
    for secret, cancelled in ((b"\0\0\0\0", False), (key[4:], True)):
        other = bench.connect()
        other.on_data(struct.pack(">II", 16, pgwire.CANCEL_REQUEST) + key[:4] + secret)
        assert other.closed and other.writes == []
        bench.settle()
        assert ("E" in kinds(connection)) is cancelled


@pytest.mark.parametrize("doing", ["", "wait", "copyin"])
def test_a_client_that_vanishes_is_rolled_back(bench: Bench, doing: str) -> None:
    connection = bench.client()
    connection.on_data(query("begin") + (query(doing) if doing else b""))
    connection.close()
    bench.settle()
    assert bench.made[0].log[-1] == "close"
    assert not bench.sessions.connections and not bench.sessions.by_pid


def test_a_client_that_says_goodbye(bench: Bench) -> None:
    connection = bench.client()
    connection.on_data(query("begin") + frame("X"))
    assert connection.closed and bench.made[0].log == ["begin", "close"]


def test_shutdown_ends_idle_waiting_and_copying_sessions(bench: Bench) -> None:
    idle, waiting, copying = bench.client(), bench.client(), bench.client()
    starting = bench.connect()
    waiting.on_data(query("wait"))
    copying.on_data(query("copyin"))
    bench.world.run(bench.sessions.shut_down(1_000_000_000))
    for connection in (idle, waiting, copying):
        assert first_error(read(connection)[-1:])["C"] == "57P01"
    assert all(connection.closed for connection in (idle, waiting, copying, starting))
    assert [sql.log[-1] for sql in bench.made] == ["close"] * 3


SCRIPT = st.lists(
    st.sampled_from(
        [query("echo a"), query("begin"), query("fail"), query("copyin"), parse("echo x"), bind(), execute(), execute(1)]
        + [
            frame("S"),
            frame("H"),
            frame("d", b"1\n"),
            frame("c"),
            frame("f", b"no\0"),
            frame("C", b"S\0"),
            frame("F", b"\0" * 8),
        ]
    ),
    max_size=12,
)


@settings(max_examples=300, deadline=None)
@given(SCRIPT, st.binary(max_size=12), st.integers(0, 400))
def test_no_bytes_break_a_session_or_leave_one_behind(script: list[bytes], garbage: bytes, where: int) -> None:
    bench = Bench()
    connection = bench.client()
    stream = b"".join(script)
    stream = stream[:where] + garbage + stream[where:]
    for position in range(0, len(stream), 7):
        if not connection.closed:
            connection.on_data(stream[position : position + 7])
        bench.settle()
    if not connection.closed:
        connection.close()
    bench.settle()
    assert not bench.sessions.connections and not bench.sessions.by_pid
    assert bench.made[0].log[-1] == "close"
    assert not [name for name, _ in bench.events if name == "server.statement_crashed"]
    read(connection)

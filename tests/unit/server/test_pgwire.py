"""The wire protocol's codec: any cut of the stream gives the same messages; any garbage is a named violation."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thunderdb.base.errors import SqlError
from thunderdb.server import pgwire


def frame(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack(">I", len(body) + 4) + body


def started() -> pgwire.Decoder:
    decoder = pgwire.Decoder()
    decoder.begin_session()
    return decoder


def startup(code: int, rest: bytes = b"") -> bytes:
    return struct.pack(">II", 8 + len(rest), code) + rest


BODIES = st.lists(st.tuples(st.sampled_from([b"Q", b"P", b"B", b"d"]), st.binary(max_size=40)), max_size=8)


@given(BODIES, st.lists(st.integers(1, 30), min_size=1, max_size=20))
def test_any_cut_gives_the_same_messages(sent: list[tuple[bytes, bytes]], cuts: list[int]) -> None:
    stream = b"".join(frame(kind, body) for kind, body in sent)
    decoder, received, position = started(), [], 0
    for turn in range(len(stream)):
        size = cuts[turn % len(cuts)]
        received += decoder.feed(stream[position : position + size])
        position += size
    assert received == [(kind[0], body) for kind, body in sent]
    assert decoder.buffered_bytes == 0


def test_a_ten_megabyte_statement_in_pieces_is_joined_once() -> None:
    sql = b"select '" + b"x" * (10 << 20) + b"'\0"
    stream, decoder, received = frame(b"Q", sql), started(), []
    for position in range(0, len(stream), 4096):
        received += decoder.feed(stream[position : position + 4096])
    assert [(kind, len(body)) for kind, body in received] == [(pgwire.QUERY, len(sql))]


@pytest.mark.parametrize(
    "data",
    [b"Q\0\0\0\x03", b"Q\xff\xff\xff\xff", b"S\0\0\xff\xff", b"@\0\0\0\x04", b"\0\0\0\0\x08", b"E\x00\x10\x00\x00"],
)
def test_an_impossible_frame_is_the_last_word(data: bytes) -> None:
    decoder = started()
    kinds = [kind for kind, _ in decoder.feed(frame(b"S", b"") + data)]
    assert kinds == [pgwire.SYNC, pgwire.BROKEN]
    assert decoder.feed(frame(b"S", b"")) == []


@given(st.binary(max_size=200))
def test_garbage_is_messages_or_a_violation(data: bytes) -> None:
    started().feed(data)
    try:
        pgwire.Decoder().feed_startup(data)
    except (pgwire.ProtocolViolation, SqlError):
        pass


@given(st.binary(max_size=80))
def test_garbage_bodies_parse_or_are_refused(body: bytes) -> None:
    parsers = [pgwire.parse_query, pgwire.parse_parse, pgwire.parse_bind]
    for parse in [*parsers, pgwire.parse_execute, pgwire.parse_target, pgwire.parse_copy_fail]:
        try:
            parse(body)
        except (pgwire.ProtocolViolation, SqlError):
            pass


def test_startup_packets() -> None:
    decoder = pgwire.Decoder()
    packet = startup(pgwire.PROTOCOL_3_0, b"user\0ada\0database\0thunderdb\0\0")
    assert decoder.feed_startup(packet[:3]) is None
    assert decoder.feed_startup(packet[3:20]) is None
    found = decoder.feed_startup(packet[20:] + frame(b"Q", b"select 1\0"))
    assert found == pgwire.Startup(pgwire.PROTOCOL_3_0, {"user": "ada", "database": "thunderdb"})
    decoder.begin_session()
    assert decoder.feed(b"") == [(pgwire.QUERY, b"select 1\0")]
    assert pgwire.Decoder().feed_startup(startup(pgwire.SSL_REQUEST)) == pgwire.EncryptionRequest(pgwire.SSL_REQUEST)
    cancel = startup(pgwire.CANCEL_REQUEST, struct.pack(">I", 7) + b"abcd")
    assert pgwire.Decoder().feed_startup(cancel) == pgwire.CancelRequest(7, b"abcd")


@pytest.mark.parametrize(
    "packet",
    [
        startup(2 << 16),
        startup(pgwire.PROTOCOL_3_0, b"user\0ada"),
        startup(pgwire.PROTOCOL_3_0, b"user\0\0"),
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_bad_startup_packets(packet: bytes) -> None:
    with pytest.raises((pgwire.ProtocolViolation, SqlError)):
        pgwire.Decoder().feed_startup(packet)


def test_bind_and_parse_bodies() -> None:
    assert pgwire.parse_parse(b"s1\0select $1\0\0\x01\0\0\0\x17") == ("s1", "select $1", (23,))
    body = b"p\0s1\0" + b"\0\x01\0\x01" + b"\0\x02\0\0\0\x02ab\xff\xff\xff\xff" + b"\0\x01\0\0"
    with pytest.raises(pgwire.ProtocolViolation):
        pgwire.parse_bind(body + b"x")
    assert pgwire.parse_bind(body) == ("p", "s1", (1,), [b"ab", None], (0,))
    assert pgwire.parse_execute(b"p\0\0\0\0\x05") == ("p", 5)
    assert pgwire.parse_target(b"Sname\0") == ("S", "name")


def test_bad_text_names_the_bytes() -> None:
    with pytest.raises(SqlError, match="0xff 0xfe") as caught:
        pgwire.parse_query(b"select '\xff\xfe\0")
    assert caught.value.sqlstate == "22021"


def test_replies_are_the_bytes_of_the_manual() -> None:
    assert pgwire.command_complete("SELECT 1") == frame(b"C", b"SELECT 1\0")
    assert pgwire.READY["T"] == frame(b"Z", b"T")
    error = pgwire.error_response("ERROR", "42601", "no\0pe", position=3, extra={"n": "pk"})
    assert error == frame(b"E", b"SERROR\0VERROR\0C42601\0Mno\\0pe\0P3\0npk\0\0")

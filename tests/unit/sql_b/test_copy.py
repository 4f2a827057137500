"""COPY: the fast and the careful path agree, wherever the stream is cut, and bad data is named by line and column."""

from __future__ import annotations

import random
import struct

import pytest

from thunderdb.access.rows import RowCodec
from thunderdb.base.errors import SqlError
from thunderdb.sql.copy import BINARY_SIGNATURE, CopyColumn, CopyDataError, CopyIn
from thunderdb.sql.copy_out import CopyOut
from thunderdb.sql.copy_statement import CopyOptions, parse_copy

TEXT = CopyOptions()
CSV = CopyOptions(format="csv", delimiter=",", null="")


def read_int(text):
    try:
        value = int(text)
    except ValueError:
        raise SqlError("22P02", f'invalid input syntax for type integer: "{text}"') from None
    if not -(1 << 31) <= value < 1 << 31 or "_" in text:
        raise SqlError("22003", f'value "{text}" is out of range for type integer')
    return value


def read_char(width):
    def read(text):
        if len(text.rstrip(" ")) > width:
            raise SqlError("22001", f"value too long for type character({width})")
        return text.ljust(width)

    return read


INT = CopyColumn("id", "int4", -1, True, read_int, lambda b: struct.unpack("!i", b)[0])
NUMBER = CopyColumn("n", "int4", -1, False, read_int, lambda b: struct.unpack("!i", b)[0])
NOTE = CopyColumn("note", "text", -1, False, str, bytes.decode)
CHAR = CopyColumn("fill", "bpchar", 8, False, read_char(4))


def values_of(data, columns, options, step=0):
    reader = CopyIn("t", columns, options)
    step = step or len(data) or 1
    rows = [row for at in range(0, len(data), step) for row in reader.feed(data[at : at + step])]
    return rows + reader.finish()


def payloads_of(data, columns, step):
    codec = RowCodec([column.type for column in columns])
    reader = CopyIn("t", columns, TEXT, codec)
    rows = [row for at in range(0, len(data), step) for row in reader.feed(data[at : at + step])]
    return [codec.decode(row) for row in rows + reader.finish()]


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
def test_text_is_the_same_wherever_the_stream_is_cut(step):
    data = b"1\ta\\tb\n2\t\\N\n3\tx\\\\\n4\ttwo\\\nlines\n-5\t\\x41\\101\n6\tend\n\\.\n9\tignored\n"
    expected = [[1, "a\tb"], [2, None], [3, "x\\"], [4, "two\nlines"], [-5, "AA"], [6, "end"]]
    assert values_of(data, [INT, NOTE], TEXT, step) == expected
    assert payloads_of(data, [INT, NOTE], step) == expected


@pytest.mark.parametrize("step", [1, 5, 4096])
def test_fast_and_careful_path_agree(step):
    rng = random.Random(5)
    lines = []
    for _ in range(200):
        fill = rng.choice([b"", b"ab", b"abcd", "né".encode()])
        note = rng.choice([b"", b"plain", b"under_score", "ü".encode(), b"\\N", b"a\\\\b"])
        lines.append(b"%d\t%s\t%s" % (rng.randrange(-(1 << 31), 1 << 31), note, fill))
    data = b"\n".join(lines)
    columns = [INT, NOTE, CHAR]
    assert payloads_of(data, columns, step) == values_of(data, columns, TEXT)


def test_last_line_needs_no_newline_and_crlf_is_a_line_end():
    assert values_of(b"1\ta\r\n2\tb", [INT, NOTE], TEXT) == [[1, "a"], [2, "b"]]


@pytest.mark.parametrize(
    ("data", "sqlstate", "message", "where"),
    [
        (b"1\ta\n2\tb\nabc\tx\n", "22P02", 'invalid input syntax for type integer: "abc"', 'COPY t, line 3, column id: "abc"'),
        (b"1\ta\n2\n", "22P04", 'missing data for column "note"', 'COPY t, line 2: "2"'),
        (b"1\ta\n2\tb\tc\n", "22P04", "extra data after last expected column", 'COPY t, line 2: "2\tb\tc"'),
        (
            b"1\ta\n99999999999\tb\n",
            "22003",
            'value "99999999999" is out of range for type integer',
            "COPY t, line 2, column id",
        ),
        (b"1_0\ta\n", "22003", 'value "1_0" is out of range for type integer', "COPY t, line 1, column id"),
        (b"1\ta\n2\t\xff\n", "22021", 'invalid byte sequence for encoding "UTF8": 0xff', "COPY t, line 2"),
        (b"\\N\ta\n", "23502", 'null value in column "id" of relation "t" violates not-null constraint', "COPY t, line 1"),
    ],
)
def test_bad_rows_are_named(data, sqlstate, message, where):
    reader = CopyIn("t", [INT, NOTE], TEXT, RowCodec(["int4", "text"]))
    with pytest.raises(CopyDataError) as caught:
        reader.feed(data)
        reader.finish()
    assert (caught.value.sqlstate, caught.value.message) == (sqlstate, message)
    assert caught.value.where.startswith(where)


def test_too_long_char_is_refused_and_blanks_beyond_it_are_not():
    assert payloads_of(b"ab      \n", [CHAR], 100)[0][0].rstrip() == "ab"
    with pytest.raises(CopyDataError, match="too long"):
        payloads_of(b"abcde\n", [CHAR], 100)


@pytest.mark.parametrize("step", [1, 3, 1000])
def test_csv(step):
    data = b'id,note\n1,plain\n2,"a,""b""\nc"\n3,\n4,""\n5,un"quo,"ted\n'
    options = CopyOptions(format="csv", delimiter=",", null="", header=True)
    expected = [[1, "plain"], [2, 'a,"b"\nc'], [3, None], [4, ""], [5, "unquo,ted"]]
    assert values_of(data, [INT, NOTE], options, step) == expected


def test_csv_with_another_escape_and_forced_nulls():
    options = CopyOptions(format="csv", delimiter=";", null="", quote="'", escape="\\", force_null=("note",))
    assert values_of(b"1;'it\\'s'\n2;''\n", [INT, NOTE], options) == [[1, "it's"], [2, None]]


def test_csv_that_ends_in_quotes_is_refused():
    with pytest.raises(CopyDataError, match="unterminated CSV quoted field"):
        values_of(b'1,"open\n', [INT, NOTE], CSV)


def test_header_match_compares_names():
    options = CopyOptions(format="csv", delimiter=",", null="", header=True, header_match=True)
    with pytest.raises(CopyDataError, match='column name mismatch in header line field 2: got "x", expected "note"'):
        values_of(b"id,x\n1,a\n", [INT, NOTE], options)


@pytest.mark.parametrize("options", [TEXT, CSV, CopyOptions(format="csv", delimiter="|", null="NULL", escape="\\")])
def test_what_copy_to_writes_copy_from_reads(options):
    rows = [[1, 'a\tb\\c\nd,"e"|f\r'], [2, None], [-3, ""], [4, "NULL"], [5, "\\."], [6, "\\N"]]
    writer = CopyOut(["id", "note"], ["int4", "text"], [str, str], options)
    data = writer.start() + writer.rows(rows) + writer.end()
    assert values_of(data, [INT, NOTE], options, 3) == rows


@pytest.mark.parametrize("step", [1, 4, 1000])
def test_binary_round_trip(step):
    options = CopyOptions(format="binary")
    writer = CopyOut(["id", "note"], ["int4", "text"], [struct.Struct("!i").pack, str.encode], options)
    rows = [[1, "x"], [2, None]]
    data = writer.start() + writer.rows(rows) + writer.end()
    assert data.startswith(BINARY_SIGNATURE)
    assert values_of(data, [INT, NOTE], options, step) == rows
    with pytest.raises(CopyDataError, match="unexpected EOF"):
        values_of(data[:-3], [INT, NOTE], options)


def test_statements():
    copy = parse_copy("copy pgbench_accounts from stdin with (freeze on)")
    assert (copy.direction, copy.table, copy.options.freeze, copy.options.format) == ("from", "pgbench_accounts", True, "text")
    copy = parse_copy(
        """COPY public."T x" (a, "B") FROM STDIN WITH (FORMAT csv, HEADER, NULL 'x', DELIMITER ';', FORCE_NULL (a));"""
    )
    assert (copy.schema, copy.table, copy.columns) == ("public", "T x", ("a", "B"))
    assert (copy.options.header, copy.options.null, copy.options.delimiter, copy.options.force_null) == (True, "x", ";", ("a",))
    copy = parse_copy("copy (select ')', f(1) from t) to stdout csv header")
    assert (copy.direction, copy.query, copy.options.delimiter) == ("to", "select ')', f(1) from t", ",")
    assert parse_copy(r"copy t to stdout delimiter as E'\t' null as ''").options.null == ""


@pytest.mark.parametrize(
    ("sql", "sqlstate"),
    [
        ("copy t from '/etc/passwd'", "0A000"),
        ("copy t from program 'ls'", "0A000"),
        ("copy t stdin", "42601"),
        ("copy t from stdin (format xml)", "22023"),
        ("copy t from stdin (colour red)", "42601"),
        ("copy t from stdin (quote 'x')", "0A000"),
        ("copy t from stdin garbage", "42601"),
    ],
)
def test_bad_statements(sql, sqlstate):
    with pytest.raises(SqlError) as caught:
        parse_copy(sql)
    assert caught.value.sqlstate == sqlstate

"""Text and binary forms are PostgreSQL's, and bad input has its SQLSTATE. Expected values were printed by PostgreSQL 15."""

from decimal import Decimal
from typing import Any

import pytest

from thunderdb.base.errors import SqlError
from thunderdb.sql import text_in, text_out, types
from thunderdb.sql.binary import binary_encoder, decode_binary

SAME = {  # type: texts that come out as they go in
    "bool": ["t", "f"],
    "int4": ["0", "-2147483648", "2147483647"],
    "float8": ["1e+15", "100000000000000", "0.0001", "1e-05", "1.5", "-0", "NaN", "Infinity", "1.234567890123456e+15", "0.1"],
    "float4": ["1e+06", "100000", "0.1", "3.4028235e+38", "16777216"][:4],
    "numeric": ["1.50", "0.00", "-12345678901234567890.123", "NaN", "Infinity"],
    "date": ["2000-01-01", "1999-12-31", "2024-02-29", "0044-03-15 BC", "infinity", "10000-01-01"],
    "timestamp": ["2000-01-01 00:00:00", "1969-12-31 23:59:59.999999", "2024-02-29 12:00:00.5", "-infinity"],
    "timestamptz": ["2000-01-01 00:00:00+00"],
    "time": ["00:00:00", "23:59:59.999999"],
    "uuid": ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"],
    "bytea": ["\\x", "\\x00ff"],
    "jsonb": ['{"a": 1, "bb": [1, 2.50, null], "ccc": {"x": "é"}}'],
    "interval": ["1 year 2 mons 3 days 04:05:06.7", "00:00:00", "-1 days", "-1 days +02:03:00"],
}
OTHER = [
    ("bool", " TRUE ", "t"),
    ("bool", "of", "f"),
    ("int8", " 12 ", "12"),
    ("numeric", "1e5", "100000"),
    ("numeric", "-0.0", "0.0"),
    ("float8", "1e20", "1e+20"),
    ("float8", "12345678901234567", "1.2345678901234568e+16"),
    ("date", "20240229", "2024-02-29"),
    ("date", "Jan 8, 1999", "1999-01-08"),
    ("date", "1/8/1999", "1999-01-08"),
    ("timestamp", "2024-01-02T03:04", "2024-01-02 03:04:00"),
    ("timestamptz", "2024-01-02 03:04:05+02", "2024-01-02 01:04:05+00"),
    ("timestamp", "epoch", "1970-01-01 00:00:00"),
    ("uuid", "{A0EEBC999C0B4EF8BB6D6BB9BD380A11}", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    ("bytea", "a\\000\\\\", "\\x61005c"),
    ("jsonb", '{"b":1,"a":2,"b":3}', '{"a": 2, "b": 3}'),
    ("interval", "1.5 days ago", "-1 days -12:00:00"),
    ("time", "1:02 pm", "13:02:00"),
]
BAD = [
    ("int4", "x", "22P02"),
    ("int4", "", "22P02"),
    ("int4", "1_0", "22P02"),
    ("int4", "2147483648", "22003"),
    ("int8", "9" * 50, "22003"),
    ("bool", "maybe", "22P02"),
    ("float8", "1e400", "22003"),
    ("float8", "0x10", "22P02"),
    ("float4", "1e39", "22003"),
    ("numeric", "1.2.3", "22P02"),
    ("date", "2023-02-29", "22008"),
    ("date", "nonsense", "22007"),
    ("timestamp", "2023-01-01 25:00", "22008"),
    ("uuid", "123", "22P02"),
    ("json", "{", "22P02"),
    ("jsonb", "NaN", "22P02"),
    ("text", "a\0", "22021"),
    ("bytea", "\\xg0", "22023"),
]


def test_values_print_as_they_were_read() -> None:
    for name, texts in SAME.items():
        for text in texts:
            assert text_out.format_text(name, text_in.parse_text(name, text)) == text, name


@pytest.mark.parametrize(("name", "text", "printed"), OTHER)
def test_other_spellings(name: str, text: str, printed: str) -> None:
    assert text_out.format_text(name, text_in.parse_text(name, text)) == printed


@pytest.mark.parametrize(("name", "text", "sqlstate"), BAD)
def test_bad_input(name: str, text: str, sqlstate: str) -> None:
    with pytest.raises(SqlError) as caught:
        text_in.parse_text(name, text)
    assert caught.value.sqlstate == sqlstate


def test_binary_round_trip() -> None:
    for name, texts in SAME.items():
        for text in texts:
            value = text_in.parse_text(name, text)
            assert text_out.format_text(name, decode_binary(name, binary_encoder(name)(value))) == text, name
    assert binary_encoder("int4")(-2) == b"\xff\xff\xff\xfe"
    assert binary_encoder("numeric")(Decimal("-12345.678")) == bytes.fromhex("0003000140000003 0001 0929 1a7c")
    assert decode_binary("int4[]", binary_encoder("int4[]")([1, None, 3])) == [1, None, 3]


@pytest.mark.parametrize(
    ("name", "arguments", "text", "fitted"),
    [
        ("varchar", [3], "ab", "ab"),
        ("varchar", [3], "abc  ", "abc"),
        ("bpchar", [4], "ab", "ab  "),
        ("bpchar", [2], "ab  ", "ab"),
        ("numeric", [5, 2], "1.005", "1.01"),
        ("numeric", [5, 2], "-999.99", "-999.99"),
        ("numeric", [3], "1.5", "2"),
    ],
)
def test_typmods_fit(name: str, arguments: list[int], text: str, fitted: str) -> None:
    assert text_out.format_text(name, text_in.parse_text(name, text, types.make_typmod(name, arguments))) == fitted


@pytest.mark.parametrize(
    ("name", "arguments", "text", "sqlstate"),
    [("varchar", [3], "abcd", "22001"), ("bpchar", [1], "ab", "22001"), ("numeric", [5, 2], "999.995", "22003")],
)
def test_typmods_refuse(name: str, arguments: list[int], text: str, sqlstate: str) -> None:
    with pytest.raises(SqlError) as caught:
        text_in.parse_text(name, text, types.make_typmod(name, arguments))
    assert caught.value.sqlstate == sqlstate


def test_arrays() -> None:
    values: list[Any] = [1, None, -3]
    assert text_in.parse_text("int4[]", "{1,NULL, -3}") == values
    assert text_in.parse_text("text[]", '{a,"b \\"c",""}') == ["a", 'b "c', ""]
    assert text_out.format_text("text[]", ["a", 'b "c', "", None]) == '{a,"b \\"c","",NULL}'
    with pytest.raises(SqlError):
        text_in.parse_text("int4[]", "1,2")


def test_display_names() -> None:
    assert types.type_display("varchar", 14) == "character varying(10)"
    assert types.type_display("numeric", types.make_typmod("numeric", [10, 2])) == "numeric(10,2)"
    assert types.type_display("bpchar", 88) == "character(84)"

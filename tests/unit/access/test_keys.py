"""Keys sort as their values do."""

from decimal import Decimal
from itertools import pairwise

import pytest

from thunderdb.access.keys import KeyCodec, successor
from thunderdb.base.errors import SqlError

ORDERED = {
    "bool": [False, True],
    "int2": [-32768, -1, 0, 1, 32767],
    "int4": [-(1 << 31), -256, -1, 0, 255, 256, (1 << 31) - 1],
    "int8": [-(1 << 63), -1, 0, 1 << 40, (1 << 63) - 1],
    "float8": [float("-inf"), -1e300, -1.0, -1e-300, 0.0, 1e-300, 1.0, float("inf"), float("nan")],
    "text": ["", "A", "B", "Ba", "a", "aa", "ab", "b", "é", "日"],
    "bytea": [b"", b"\x00", b"\x00\x00", b"\x00\x01", b"\x00\xff", b"\x01", b"\xff", b"\xff\x00"],
    "numeric": [Decimal(t) for t in (
                "-Infinity -1000 -99.99 -99.9 -10 -1.01 -1 -0.5 -0.001 0 "
                "0.001 0.01 0.5 1 1.01 9 10 99.9 100 1E10 Infinity NaN").split()],
    "interval": [(-1, 0, 0), (0, 0, 0), (0, 29, 0), (1, 0, 1), (0, 31, 0)],
    "uuid": [bytes(16), bytes([1]) + bytes(15), b"\xff" * 16],
}


@pytest.mark.parametrize("type_name", ORDERED)
@pytest.mark.parametrize("nullable", [False, True])
def test_order_and_round_trip(type_name: str, nullable: bool) -> None:
    codec = KeyCodec((type_name,), nullable)
    values = ORDERED[type_name] + ([None] if nullable else [])
    keys = [codec.encode((value,)) for value in values]
    assert all(a < b for a, b in pairwise(keys))
    for value, key in zip(values, keys, strict=True):
        if type_name != "interval":
            assert repr(codec.decode(key)[0]) == repr(value) or codec.decode(key)[0] == value


def test_equal_values_have_equal_keys() -> None:
    numeric, char, double = KeyCodec(("numeric",)), KeyCodec(("bpchar",)), KeyCodec(("float8",))
    assert numeric.encode([Decimal("1.0")]) == numeric.encode([Decimal("1.00")]) != numeric.encode([Decimal("1.01")])
    assert char.encode(["a  "]) == char.encode(["a"])
    assert double.encode([-0.0]) == double.encode([0.0])


def test_composite_order_is_column_by_column() -> None:
    codec = KeyCodec(("text", "int4"), nullable=True)
    rows = [("a", 2), ("a", None), ("a\x01", 1), ("ab", -5), ("ab", 5), (None, 0), (None, None)]
    keys = [codec.encode(row) for row in rows]
    assert keys == sorted(keys)
    assert [tuple(codec.decode(key)) for key in keys] == rows


def test_prefix_range_holds_exactly_the_rows_with_that_prefix() -> None:
    codec = KeyCodec(("int4", "int4"))
    lo, hi = codec.prefix_range((7,))
    assert hi is not None
    assert lo <= codec.encode((7, -(1 << 31))) and codec.encode((7, (1 << 31) - 1)) < hi
    assert not lo <= codec.encode((6, (1 << 31) - 1)) and not codec.encode((8, -(1 << 31))) < hi


def test_successor_of_all_ones_is_unbounded() -> None:
    assert successor(b"\xff\xff") is None
    assert successor(b"a\xff") == b"b"
    assert KeyCodec(("int4",)).prefix_range(((1 << 31) - 1,))[1] is None


def test_a_suffix_after_the_columns_is_left_alone() -> None:
    codec = KeyCodec(("text",), nullable=True)
    key = codec.encode(("x",))
    assert codec.decode_from(key + b"tail") == (["x"], len(key))


def test_json_has_no_order() -> None:
    with pytest.raises(SqlError) as caught:
        KeyCodec(("json",))
    assert caught.value.sqlstate == "42704"

"""Row payloads come back as they went in, whatever is NULL, and older rows get their defaults."""

from decimal import Decimal

import pytest

from thunderdb.access.rows import RowCodec
from thunderdb.base.errors import InvariantViolated

ALL_TYPES = {
    "bool": True, "int2": -2, "int4": 1 << 30, "int8": -(1 << 62), "float4": 1.5, "float8": 0.1, "date": -5, "time": 7,
    "timestamp": 123456789, "timestamptz": -1, "uuid": bytes(range(16)), "text": "grüße", "varchar": "", "bpchar": "x  ",
    "json": "{}", "jsonb": "[1, 2]", "bytea": b"\x00\xff", "numeric": Decimal("-1.50"), "interval": (1, -2, 3),
}


def test_every_type_round_trips_alone_and_together() -> None:
    for name, value in ALL_TYPES.items():
        codec = RowCodec((name,))
        assert codec.decode(codec.encode([value])) == [value], name
        assert codec.decode(codec.encode([None])) == [None], name
    codec = RowCodec(tuple(ALL_TYPES))
    values = list(ALL_TYPES.values())
    assert codec.decode(codec.encode(values)) == values


def test_any_null_pattern_round_trips() -> None:
    codec = RowCodec(("int4", "text", "numeric", "int8", "text"))
    for mask in range(32):
        values = [None if mask >> i & 1 else v for i, v in enumerate([1, "ab", Decimal(7), 2, "c"])]
        payload = codec.encode(values)
        assert codec.decode(payload) == values
        assert [codec.column(payload, i) for i in range(5)] == values
        assert codec.projector((4, 0))(payload) == (values[4], values[0])


def test_numeric_keeps_its_scale() -> None:
    codec = RowCodec(("numeric",))
    assert str(codec.decode(codec.encode([Decimal("1.500")]))[0]) == "1.500"


def test_an_older_row_reads_its_missing_columns_as_given() -> None:
    old = RowCodec(tuple(["int4"] * 3)).encode([1, None, 3])
    new = RowCodec(tuple(["int4"] * 9 + ["text"]), missing=(None, None, None, 4, None, None, None, None, None, "late"))
    assert new.decode(old) == [1, None, 3, 4, None, None, None, None, None, "late"]
    assert new.column(old, 9) == "late"


def test_a_row_of_more_columns_than_the_table_is_a_bug() -> None:
    payload = RowCodec(("int4", "int4")).encode([1, 2])
    with pytest.raises(InvariantViolated):
        RowCodec(("int4",)).decode(payload)


def test_many_null_patterns_do_not_grow_the_cache_without_bound() -> None:
    codec = RowCodec(tuple(["int4"] * 12))
    for mask in range(1 << 10):
        values = [None if mask >> i & 1 else i for i in range(12)]
        assert codec.decode(codec.encode(values)) == values
    assert len(codec._writers) <= 512


def test_the_empty_row() -> None:
    codec = RowCodec(())
    assert codec.decode(codec.encode([])) == []


def test_a_changer_gives_what_encoding_all_columns_gives() -> None:
    types = ("int4", "text", "int8", "float8", "numeric", "bool", "date")
    codec = RowCodec(types)
    assignments = [(5, lambda row, context: row[0] > 7), (2, lambda row, context: row[2] + row[0] + context)]
    change = codec.changer(assignments, {0, 2})
    assert change is not None
    for mask in range(1 << len(types)):
        given = [8, "grüße", -(1 << 40), 0.5, Decimal("1.50"), False, -3]
        values = [None if mask >> i & 1 else v for i, v in enumerate(given)]
        changed = change(codec.encode(values), 100)
        if None in (values[0], values[2], values[5]):
            assert changed is None
        else:
            after = values.copy()
            after[5], after[2] = True, -(1 << 40) + 108
            assert changed == codec.encode(after)


def test_a_changer_leaves_alone_what_is_not_of_fixed_size_or_older_or_becomes_null() -> None:
    codec = RowCodec(("int4", "text"), (1, "x"))
    assert codec.changer([(1, lambda row, context: "y")], set()) is None
    assert codec.changer([(0, lambda row, context: len(row[1]))], {1}) is None
    change = codec.changer([(0, lambda row, context: context)], set())
    assert change is not None
    assert change(codec.encode([1, "x"]), 5) == codec.encode([5, "x"])
    assert change(RowCodec(("int4",)).encode([1]), 5) is None
    assert change(codec.encode([1, "x"]), None) is None

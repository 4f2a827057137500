"""Conversions between types, and which of them PostgreSQL makes on its own.

    context      written as                  too long a varchar    float to int
    implicit     a = b, f(a)                 -                     no
    assignment   INSERT, UPDATE              22001                 yes
    explicit     CAST(a AS t), a::t          cut                   yes

Numbers round half away from zero from numeric, half to even from float, as PostgreSQL does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from thunderdb.base.errors import SqlError
from thunderdb.sql import calendar, text_in, text_out, types
from thunderdb.sql.types import INTEGER_BOUNDS, INTEGERS, NUMERIC_RANK, STRINGS

Caster = Callable[[Any], Any]


def _to_integer(source: str, target: str) -> Caster:
    bound = INTEGER_BOUNDS[target]

    def check(value: int) -> int:
        if -bound <= value < bound:
            return value
        raise types.out_of_range(target)

    def from_numeric(value: Decimal) -> int:
        if value.is_nan() or value.is_infinite():
            what = "NaN" if value.is_nan() else "infinity"
            raise SqlError("0A000", f"cannot convert {what} to {types.TYPES[target].display}")
        return check(int(value.to_integral_value(ROUND_HALF_UP, context=types.EXACT)))

    def from_float(value: float) -> int:
        if math.isnan(value) or math.isinf(value):
            raise types.out_of_range(target)
        return check(round(value))

    if source == "numeric":
        return from_numeric
    return from_float if source in ("float4", "float8") else check


def _to_float(source: str, target: str) -> Caster:
    def convert(value: Any) -> float:
        try:
            result = float(value)
        except OverflowError:
            raise types.out_of_range(target) from None
        return types.to_float4(result) if target == "float4" else result

    def from_numeric(value: Decimal) -> float:
        result = float(value)
        if math.isinf(result) and not value.is_infinite() or not result and value:
            raise SqlError("22003", f'"{value:f}" is out of range for type {types.TYPES[target].display}')
        return types.to_float4(result, f"{value:f}") if target == "float4" else result

    return from_numeric if source == "numeric" else convert


def _to_numeric(source: str) -> Caster:
    if source == "float8":
        return lambda value: text_in.parse_numeric(f"{value:.15g}")
    if source == "float4":
        return lambda value: text_in.parse_numeric(f"{value:.6g}")
    return Decimal


def _identity(value: Any) -> Any:
    return value


_STAMPS: dict[tuple[str, str], Caster] = {
    ("date", "timestamp"): lambda value: _date_to_stamp(value),
    ("date", "timestamptz"): lambda value: _date_to_stamp(value),
    ("timestamp", "date"): lambda value: _stamp_to_date(value),
    ("timestamptz", "date"): lambda value: _stamp_to_date(value),
    ("timestamp", "timestamptz"): _identity,
    ("timestamptz", "timestamp"): _identity,
    ("timestamp", "time"): lambda value: value % calendar.DAY_US,
    ("timestamptz", "time"): lambda value: value % calendar.DAY_US,
    ("time", "interval"): lambda value: (0, 0, value),
    ("interval", "time"): lambda value: value[2] % calendar.DAY_US,
    ("json", "jsonb"): text_in.parse_jsonb,
    ("jsonb", "json"): _identity,
    ("bool", "int4"): int,
    ("int4", "bool"): bool,
    ("bytea", "uuid"): bytes,
}


def _date_to_stamp(days: int) -> int:
    if days == calendar.DATE_INFINITY:
        return calendar.STAMP_INFINITY
    if days == calendar.DATE_MINUS_INFINITY:
        return calendar.STAMP_MINUS_INFINITY
    return days * calendar.DAY_US


def _stamp_to_date(micros: int) -> int:
    if micros == calendar.STAMP_INFINITY:
        return calendar.DATE_INFINITY
    if micros == calendar.STAMP_MINUS_INFINITY:
        return calendar.DATE_MINUS_INFINITY
    return micros // calendar.DAY_US


_EXPLICIT_ONLY = {("bool", "int4"), ("int4", "bool")}
_ASSIGNMENT = {
    ("timestamp", "date"),
    ("timestamptz", "date"),
    ("timestamp", "time"),
    ("timestamptz", "time"),
    ("timestamptz", "timestamp"),
    ("interval", "time"),
    ("json", "jsonb"),
    ("jsonb", "json"),
}


def find_cast(source: str, target: str, context: str) -> Caster | None:
    """The conversion of a (not NULL) value, identity included; None if the context does not allow it."""
    if source == target or (source in STRINGS and target in ("text", "varchar", "name") and target != "bpchar"):
        if source == "bpchar" and target != "bpchar":
            return lambda value: value.rstrip(" ")
        return _identity
    if source in STRINGS and target == "bpchar":
        return _identity
    if source == "unknown":
        return text_in.text_parser(target)
    if source in NUMERIC_RANK and target in NUMERIC_RANK:
        if context == "implicit" and NUMERIC_RANK[source] > NUMERIC_RANK[target]:
            return None
        return _number_cast(source, target)
    special = _STAMPS.get((source, target))
    if special is not None:
        if context != "explicit" and (source, target) in _EXPLICIT_ONLY:
            return None
        return None if context == "implicit" and (source, target) in _ASSIGNMENT else special
    if target in STRINGS and context != "implicit":
        if source == "bool" and context == "explicit":
            return lambda value: "true" if value else "false"
        return text_out.text_formatter(source)
    if source in STRINGS and context == "explicit":
        return text_in.text_parser(target)
    if target.endswith("[]") and source.endswith("[]"):
        inner = find_cast(source[:-2], target[:-2], context)
        return None if inner is None else lambda values: [None if v is None else inner(v) for v in values]
    return None


def _number_cast(source: str, target: str) -> Caster:
    if target in INTEGERS:
        if source in INTEGERS and INTEGER_BOUNDS[source] <= INTEGER_BOUNDS[target]:
            return _identity
        return _to_integer(source, target)
    if target == "oid":
        return lambda value: int(value) & 0xFFFFFFFF
    return _to_numeric(source) if target == "numeric" else _to_float(source, target)


def common_type(left: str, right: str) -> str | None:
    """The type in which PostgreSQL compares or unites two; None if there is none."""
    if left == right:
        return left
    if left == "unknown":
        return right
    if right == "unknown":
        return left
    if left in NUMERIC_RANK and right in NUMERIC_RANK:
        if {left, right} == {"numeric", "float4"}:
            return "float8"
        return left if NUMERIC_RANK[left] >= NUMERIC_RANK[right] else right
    if left in STRINGS and right in STRINGS:
        return "text"
    order = ("date", "timestamp", "timestamptz")
    if left in order and right in order:
        return max(left, right, key=order.index)
    return None

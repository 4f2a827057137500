"""Operators on (already converted) values: arithmetic with PostgreSQL's limits and errors, comparison, pattern matching.

O1. An integer result outside its type is 22003, division by zero 22012; nothing wraps and nothing becomes infinite by itself.
O2. NaN equals NaN and is above every number, for float and numeric.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from typing import Any

from thunderdb.access.keys import interval_us
from thunderdb.base.errors import SqlError
from thunderdb.sql import calendar, types
from thunderdb.sql.types import EXACT, INTEGER_BOUNDS, INTEGERS

Binary = Callable[[Any, Any], Any]
_MIN_SIGNIFICANT_DIGITS = 16
_MAX_DISPLAY_SCALE = 1000


def _zero() -> SqlError:
    return SqlError("22012", "division by zero")


def _integer(name: str, function: Callable[[int, int], int]) -> Binary:
    bound = INTEGER_BOUNDS[name]

    if function is operator.add:

        def add(a: int, b: int) -> int:
            result = a + b
            if -bound <= result < bound:
                return result
            raise types.out_of_range(name)

        return add
    if function is operator.sub:

        def subtract(a: int, b: int) -> int:
            result = a - b
            if -bound <= result < bound:
                return result
            raise types.out_of_range(name)

        return subtract

    def apply(a: int, b: int) -> int:
        result = function(a, b)
        if -bound <= result < bound:
            return result
        raise types.out_of_range(name)

    return apply


def integer_divide(a: int, b: int) -> int:
    """Towards zero, unlike Python's //."""
    if b == 0:
        raise _zero()
    quotient = abs(a) // abs(b)
    return quotient if (a < 0) == (b < 0) else -quotient


def integer_mod(a: int, b: int) -> int:
    if b == 0:
        raise _zero()
    return math.fmod(a, b).__int__() if abs(a) < 1 << 52 and abs(b) < 1 << 52 else a - b * integer_divide(a, b)


def _float(name: str, function: Callable[[float, float], float]) -> Binary:
    def apply(a: float, b: float) -> float:
        try:
            result = function(a, b)
        except OverflowError:
            result = math.inf
        if math.isinf(result) and not math.isinf(a) and not math.isinf(b):
            raise SqlError("22003", "value out of range: overflow")
        return types.to_float4(result) if name == "float4" else result

    return apply


def _float_divide(a: float, b: float) -> float:
    if b == 0:
        raise _zero()
    return a / b


def _float_power(a: float, b: float) -> float:
    if a == 0 and b < 0:
        raise SqlError("2201F", "zero raised to a negative power is undefined")
    if a < 0 and b != int(b):
        raise SqlError("2201F", "a negative number raised to a non-integer power yields a complex result")
    return math.pow(a, b)


def _leading(value: Decimal) -> tuple[int, int]:
    """(weight, first digit) in base 10,000, which decide the scale of a quotient."""
    if not value:
        return 0, 0
    adjusted = value.adjusted()
    weight = adjusted // 4
    shifted = int(abs(value).scaleb(-4 * weight, context=EXACT))
    return weight, shifted


def scale_of(value: Decimal) -> int:
    exponent = value.as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def numeric_divide(a: Decimal, b: Decimal) -> Decimal:
    """PostgreSQL's quotient: at least 16 significant digits, and neither operand's scale lost."""
    if a.is_nan() or b.is_nan():
        return Decimal("NaN")
    if not b:
        raise _zero()
    if a.is_infinite() or b.is_infinite():
        return EXACT.divide(a, b) if not (a.is_infinite() and b.is_infinite()) else Decimal("NaN")
    (weight_a, first_a), (weight_b, first_b) = _leading(a), _leading(b)
    quotient_weight = weight_a - weight_b - (first_a <= first_b)
    scale = max(_MIN_SIGNIFICANT_DIGITS - quotient_weight * 4, scale_of(a), scale_of(b), 0)
    scale = min(scale, _MAX_DISPLAY_SCALE)
    context = EXACT.copy()
    context.prec = max(28, scale + abs(a.adjusted()) + abs(b.adjusted()) + 10)
    return round_numeric(context.divide(a, b), scale)


def round_numeric(value: Decimal, scale: int, rounding: str = ROUND_HALF_UP) -> Decimal:
    if value.is_nan() or value.is_infinite():
        return value
    rounded = value.quantize(Decimal(1).scaleb(-scale), rounding=rounding, context=EXACT)
    return types.plain_numeric(rounded)


def _numeric_mod(a: Decimal, b: Decimal) -> Decimal:
    if a.is_nan() or b.is_nan():
        return Decimal("NaN")
    if not b:
        raise _zero()
    scale = max(scale_of(a), scale_of(b))
    return round_numeric(EXACT.remainder(a, b), scale, ROUND_DOWN)


def _numeric(function: Callable[[Decimal, Decimal], Decimal]) -> Binary:
    def apply(a: Decimal, b: Decimal) -> Decimal:
        if a.is_nan() or b.is_nan():
            return Decimal("NaN")
        result = function(a, b)
        return types.plain_numeric(result)

    return apply


def arithmetic(symbol: str, name: str) -> Binary | None:
    """`+ - * / % ^` on two values of the same number type; None if the type has no such operator."""
    if name in INTEGERS:
        integers: dict[str, Callable[[int, int], int]] = {
            "+": operator.add,
            "-": operator.sub,
            "*": operator.mul,
            "/": integer_divide,
            "%": integer_mod,
            "&": operator.and_,
            "|": operator.or_,
            "#": operator.xor,
        }
        return _integer(name, integers[symbol]) if symbol in integers else None
    if name in ("float4", "float8"):
        floats = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": _float_divide, "^": _float_power}
        return _float(name, floats[symbol]) if symbol in floats else None
    if name == "numeric":
        exact = {"+": EXACT.add, "-": EXACT.subtract, "*": EXACT.multiply}
        if symbol in exact:
            return _numeric(exact[symbol])
        return {"/": numeric_divide, "%": _numeric_mod}.get(symbol)
    return None


_STAMPS = ("timestamp", "timestamptz")


def temporal(symbol: str, left: str, right: str) -> tuple[Binary, str] | None:
    """(function, result type) of an operator on dates and times; None if there is none."""
    if symbol == "+" and (left == "interval" or left in INTEGERS) and right in ("date", "interval", *_STAMPS):
        if left != right:
            swapped = temporal(symbol, right, left)
            return None if swapped is None else (lambda a, b: swapped[0](b, a), swapped[1])
    sign = 1 if symbol == "+" else -1
    if symbol in "+-":
        if left == "date" and right in INTEGERS:
            return lambda a, b: a + sign * b, "date"
        if left == right == "date" and symbol == "-":
            return lambda a, b: a - b, "int4"
        if left == "date" and right == "interval":
            return lambda a, b: calendar.add_interval(a * calendar.DAY_US, b, sign), "timestamp"
        if left in _STAMPS and right == "interval":
            return lambda a, b: calendar.add_interval(a, b, sign), left
        if left in _STAMPS and right in _STAMPS and symbol == "-":
            return _stamp_difference, "interval"
        if left == "time" and right == "interval":
            return lambda a, b: (a + sign * b[2]) % calendar.DAY_US, "time"
        if left == right == "interval":
            return lambda a, b: (a[0] + sign * b[0], a[1] + sign * b[1], a[2] + sign * b[2]), "interval"
    if symbol == "*" and left == "interval" and right in INTEGERS:
        return lambda a, b: (a[0] * b, a[1] * b, a[2] * b), "interval"
    return None


def _stamp_difference(a: int, b: int) -> tuple[int, int, int]:
    micros = a - b
    days = int(micros / calendar.DAY_US) if abs(micros) < 1 << 52 else integer_divide(micros, calendar.DAY_US)
    return 0, days, micros - days * calendar.DAY_US


def _nan_key(value: Any) -> tuple[int, Any]:
    return (1, 0) if value != value else (0, value)


def comparison(symbol: str, name: str) -> Binary | None:
    """`= <> < <= > >=` on two values of one type."""
    plain: dict[str, Binary] = {
        "=": operator.eq,
        "<>": operator.ne,
        "<": operator.lt,
        "<=": operator.le,
        ">": operator.gt,
        ">=": operator.ge,
    }
    function = plain[symbol]
    if name in ("float4", "float8", "numeric"):
        return lambda a, b: function(a, b) if a == a and b == b else function(_nan_key(a), _nan_key(b))
    if name == "bpchar":
        return lambda a, b: function(a.rstrip(" "), b.rstrip(" "))
    if name == "interval":
        return lambda a, b: function(interval_us(a), interval_us(b))
    if name == "json" or (name == "jsonb" and symbol not in ("=", "<>")):
        return None
    return function


def sort_key(name: str) -> Callable[[Any], Any] | None:
    """A key under which Python sorts a type's values as SQL does; None where Python's own order is it."""
    if name in ("float4", "float8", "numeric"):
        return _nan_key
    if name == "bpchar":
        return lambda value: value.rstrip(" ")
    return interval_us if name == "interval" else None


def like_pattern(pattern: str, escape: str = "\\", ignore_case: bool = False) -> re.Pattern[str]:
    """Raises: SqlError 22025 for a pattern that ends with its escape."""
    out, at = [], 0
    while at < len(pattern):
        char = pattern[at]
        if char == escape and escape:
            at += 1
            if at == len(pattern):
                raise SqlError("22025", "LIKE pattern must not end with escape character")
            out.append(re.escape(pattern[at]))
        else:
            out.append(".*" if char == "%" else "." if char == "_" else re.escape(char))
        at += 1
    return re.compile("".join(out), re.DOTALL | (re.IGNORECASE if ignore_case else 0))


def regular_expression(pattern: str, ignore_case: bool = False) -> re.Pattern[str]:
    """PostgreSQL's advanced regular expressions, as far as Python's agree. Raises: SqlError 2201B."""
    try:
        return re.compile(pattern, re.IGNORECASE if ignore_case else 0)
    except re.error as error:
        raise SqlError("2201B", f"invalid regular expression: {error}") from None

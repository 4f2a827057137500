"""Numeric division with PostgreSQL's choice of scale: at least 16 significant digits, never fewer than either input has.

Source: PostgreSQL 15, numeric.c, select_div_scale; its base is 10,000, hence the weights in groups of four digits.
"""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Context, Decimal

from thunderdb.base.errors import SqlError

_CONTEXT = Context(prec=2000, rounding=ROUND_HALF_UP)
_MIN_SIGNIFICANT_DIGITS = 16
_MAX_SCALE = 1000


def divide(dividend: Decimal, divisor: Decimal) -> Decimal:
    """dividend / divisor as PostgreSQL's numeric has it. Raises: SqlError 22012."""
    if divisor == 0 and not dividend.is_nan():
        raise SqlError("22012", "division by zero")
    if not (dividend.is_finite() and divisor.is_finite()):
        return _CONTEXT.divide(dividend, divisor)
    weight1, digit1 = _first_group(dividend)
    weight2, digit2 = _first_group(divisor)
    weight = weight1 - weight2 - (1 if digit1 <= digit2 else 0)
    scale = max(_MIN_SIGNIFICANT_DIGITS - weight * 4, _scale(dividend), _scale(divisor), 0)
    quotient = _CONTEXT.divide(dividend, divisor).quantize(Decimal(1).scaleb(-min(scale, _MAX_SCALE)), context=_CONTEXT)
    return abs(quotient) if quotient == 0 else quotient  # numeric has no negative zero


def _scale(value: Decimal) -> int:
    exponent = value.as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def _first_group(value: Decimal) -> tuple[int, int]:
    """(weight, value) of the first base-10,000 digit; (0, 0) for zero."""
    if value == 0:
        return 0, 0
    weight = value.adjusted() // 4
    return weight, int(_CONTEXT.scaleb(abs(value), -4 * weight))


def divide_text(dividend: str, divisor: str) -> str:
    """`divide` on text in plain notation, for use as a DuckDB function: whole numbers only, several times as fast.

    Raises: SqlError 22012.
    """
    try:
        left, left_scale = _whole(dividend)
        right, right_scale = _whole(divisor)
    except ValueError:  # NaN, infinities, exponents
        return format(divide(Decimal(dividend), Decimal(divisor)), "f")
    if right == 0:
        raise SqlError("22012", "division by zero")
    negative = (left < 0) != (right < 0)
    left, right = abs(left), abs(right)
    weight1, digit1 = _whole_group(left, left_scale)
    weight2, digit2 = _whole_group(right, right_scale)
    weight = weight1 - weight2 - (1 if digit1 <= digit2 else 0)
    scale = min(max(_MIN_SIGNIFICANT_DIGITS - weight * 4, left_scale, right_scale, 0), _MAX_SCALE)
    shift = scale + right_scale - left_scale
    if shift >= 0:
        left *= 10**shift
    else:
        right *= 10**-shift
    quotient = (2 * left + right) // (2 * right)  # half away from zero
    digits = str(quotient).rjust(scale + 1, "0")
    text = f"{digits[:-scale]}.{digits[-scale:]}" if scale else digits
    return "-" + text if negative and quotient else text


def _whole(text: str) -> tuple[int, int]:
    """(all digits as one number, how many of them are behind the point)."""
    point = text.find(".")
    return (int(text), 0) if point < 0 else (int(text[:point] + text[point + 1 :]), len(text) - point - 1)


def _whole_group(value: int, scale: int) -> tuple[int, int]:
    if value == 0:
        return 0, 0
    weight = (len(str(value)) - scale - 1) // 4
    exponent = scale + 4 * weight
    return weight, value // 10**exponent if exponent >= 0 else value * 10**-exponent

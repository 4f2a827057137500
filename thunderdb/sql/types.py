"""PostgreSQL's types as far as ThunderDB has them: numbers and names, type modifiers, what fits into a type.

Python values are those of access/rows.py. An array type is written `int4[]`; its value is a list (parameters only: no column
has one). Values as text: text_in.py, text_out.py; as bytes: binary.py; conversions between types: casts.py.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Any

from thunderdb.base.errors import SqlError

EXACT = Context(prec=200_000, rounding=ROUND_HALF_UP, Emax=999_999, Emin=-999_999)


@dataclass(frozen=True, slots=True)
class TypeInfo:
    """`display` is the name that format_type() prints; `category` is pg_type.typcategory."""

    name: str
    oid: int
    size: int
    display: str
    category: str
    array_oid: int


def _types() -> dict[str, TypeInfo]:
    rows = """bool 16 1 B 1000 boolean; bytea 17 -1 U 1001 bytea; name 19 64 S 1003 name; int8 20 8 N 1016 bigint
        int2 21 2 N 1005 smallint; int4 23 4 N 1007 integer; text 25 -1 S 1009 text; oid 26 4 N 1028 oid; json 114 -1 U 199 json
        float4 700 4 N 1021 real; float8 701 8 N 1022 double precision; unknown 705 -2 X 0 unknown
        bpchar 1042 -1 S 1014 character; varchar 1043 -1 S 1015 character varying; date 1082 4 D 1182 date
        time 1083 8 D 1183 time without time zone; timestamp 1114 8 D 1115 timestamp without time zone
        timestamptz 1184 8 D 1185 timestamp with time zone; interval 1186 16 T 1187 interval; numeric 1700 -1 N 1231 numeric
        uuid 2950 16 U 2951 uuid; jsonb 3802 -1 U 3807 jsonb; void 2278 4 P 0 void; regclass 2205 4 N 2210 regclass
        char 18 1 Z 1002 "char"; regtype 2206 4 N 2211 regtype; record 2249 -1 P 2287 record"""
    found = {}
    for row in re.split(r"[;\n]", rows):
        name, oid, size, category, array, *display = row.split()
        found[name] = TypeInfo(name, int(oid), int(size), " ".join(display), category, int(array))
    for info in list(found.values()):
        if info.array_oid:
            found[info.name + "[]"] = TypeInfo(info.name + "[]", info.array_oid, -1, info.display + "[]", "A", 0)
    return found


TYPES = _types()
BY_OID = {info.oid: info.name for info in TYPES.values()}
INTEGER_BOUNDS = {"int2": 1 << 15, "int4": 1 << 31, "int8": 1 << 63}
INTEGERS = frozenset(INTEGER_BOUNDS)
STRINGS = frozenset({"text", "varchar", "bpchar", "name", "unknown", "char"})
NUMERIC_RANK = {"int2": 1, "int4": 2, "oid": 2, "int8": 3, "numeric": 4, "float4": 5, "float8": 6}

# Names as users write them; sqlglot's and PostgreSQL's own.
ALIASES = {
    "int": "int4",
    "integer": "int4",
    "serial": "int4",
    "serial4": "int4",
    "smallint": "int2",
    "smallserial": "int2",
    "serial2": "int2",
    "bigint": "int8",
    "bigserial": "int8",
    "serial8": "int8",
    "boolean": "bool",
    "real": "float4",
    "float": "float8",
    "double": "float8",
    "double precision": "float8",
    "decimal": "numeric",
    "character varying": "varchar",
    "character": "bpchar",
    "char": "bpchar",
    "timestamp without time zone": "timestamp",
    "string": "text",
    "timestamp with time zone": "timestamptz",
    "time without time zone": "time",
    "nvarchar": "varchar",
    "nchar": "bpchar",
    "tinyint": "int2",
    "varbinary": "bytea",
    "timestampntz": "timestamp",
}


def type_size(name: str) -> int:
    return TYPES[name].size


def type_display(name: str, typmod: int = -1) -> str:
    """format_type(): `character varying(10)`, `numeric(10,2)`."""
    display = TYPES[name].display
    if typmod < 4:
        return display
    if name in ("varchar", "bpchar"):
        return f"{display}({typmod - 4})"
    if name == "numeric":
        return f"{display}({(typmod - 4) >> 16},{(typmod - 4) & 0x7FF})"
    return display


def make_typmod(name: str, arguments: list[int]) -> int:
    """Encode the numbers in parentheses after a type. Raises: SqlError 22023."""
    if name == "bpchar" and not arguments:
        return 5
    if not arguments:
        return -1
    if name in ("varchar", "bpchar"):
        if not 1 <= arguments[0] <= 10_485_760:
            what = "must be at least 1" if arguments[0] < 1 else "cannot exceed 10485760"
            raise SqlError("22023", f"length for type {'varchar' if name == 'varchar' else 'char'} {what}")
        return arguments[0] + 4
    if name == "numeric":
        precision, scale = arguments[0], arguments[1] if len(arguments) > 1 else 0
        if not 1 <= precision <= 1000:
            raise SqlError("22023", f"NUMERIC precision {precision} must be between 1 and 1000")
        if not 0 <= scale <= precision:
            raise SqlError("22023", f"NUMERIC scale {scale} must be between 0 and precision {precision}")
        return ((precision << 16) | scale) + 4
    return -1


def out_of_range(type_name: str) -> SqlError:
    return SqlError("22003", f"{TYPES[type_name].display} out of range")


def to_float4(value: float, text: str = "") -> float:
    """Round to single precision. Raises: SqlError 22003."""
    try:
        rounded: float = struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        raise SqlError("22003", f'"{text or value}" is out of range for type real') from None
    if not rounded and value:
        raise SqlError("22003", f'"{text or value}" is out of range for type real')
    return rounded


def plain_numeric(value: Decimal) -> Decimal:
    """The same number without a positive exponent. Raises: SqlError 22003 beyond PostgreSQL's digits."""
    exponent = value.as_tuple().exponent
    if not isinstance(exponent, int):
        return value.copy_abs() if value.is_nan() else value
    if value.adjusted() >= 131_072 or exponent < -16_383:
        if not value and exponent > 0:
            return Decimal(0)
        raise SqlError("22003", "value overflows numeric format")
    if exponent > 0:
        value = value.quantize(Decimal(1), context=EXACT)
    return value.copy_abs() if not value else value


def fit(type_name: str, typmod: int, explicit: bool = False) -> Callable[[Any], Any]:
    """Fit a value to varchar(n), char(n), numeric(p,s): pads, rounds; too long is 22001 unless the cast is explicit."""
    return fitter_of(type_name, typmod, explicit) or (lambda value: value)


def fitter_of(type_name: str, typmod: int, explicit: bool) -> Callable[[Any], Any] | None:
    """`fit`; None where any value fits."""
    if typmod < 4:
        return None
    if type_name == "varchar":
        return _length_fitter(typmod - 4, explicit, pad=False)
    if type_name == "bpchar":
        return _length_fitter(typmod - 4, explicit, pad=True)
    if type_name == "numeric":
        return _numeric_fitter((typmod - 4) >> 16, (typmod - 4) & 0x7FF)
    return None


def _length_fitter(limit: int, explicit: bool, pad: bool) -> Callable[[str], str]:
    display = "character" if pad else "character varying"

    def fitted(text: str) -> str:
        if len(text) <= limit:
            return text.ljust(limit) if pad else text
        if not explicit and text[limit:].strip(" "):
            raise SqlError("22001", f"value too long for type {display}({limit})")
        return text[:limit]

    return fitted


def _numeric_fitter(precision: int, scale: int) -> Callable[[Decimal], Decimal]:
    step = Decimal(1).scaleb(-scale)

    def fitted(value: Decimal) -> Decimal:
        if value.is_nan():
            return value
        if not value.is_infinite():
            value = value.quantize(step, context=EXACT)
            if not value or value.adjusted() < precision - scale:
                return value
        bound = f"10^{precision - scale}" if precision > scale else "1"
        detail = f"A field with precision {precision}, scale {scale} must round to an absolute value less than {bound}."
        if value.is_infinite():
            detail = f"A field with precision {precision}, scale {scale} cannot hold an infinite value."
        raise SqlError("22003", "numeric field overflow", detail)

    return fitted

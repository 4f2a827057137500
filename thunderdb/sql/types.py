"""PostgreSQL's types as far as ThunderDB has them: numbers and names, text in and out, type modifiers.

Python values are those of access/rows.py. An array type is written `int4[]`; its value is a list (parameters only: no column
has one). Binary formats are in binary.py, conversions between types in casts.py.

T1. format_text(parse_text(x)) is what PostgreSQL prints for x, byte for byte.
T2. Bad input is 22P02 (or 22007 for times), a value out of range 22003 or 22008, one too long 22001.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Context, Decimal, InvalidOperation
from typing import Any

from thunderdb.base.errors import SqlError
from thunderdb.sql import calendar

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


# --- text in --------------------------------------------------------------------------------------------------------


def _bad(type_name: str, text: str) -> SqlError:
    return SqlError("22P02", f'invalid input syntax for type {TYPES[type_name].display}: "{text}"')


def out_of_range(type_name: str) -> SqlError:
    return SqlError("22003", f"{TYPES[type_name].display} out of range")


_INTEGER_TEXT = re.compile(r"\s*[+-]?\d+\s*", re.ASCII)


def _int_parser(type_name: str) -> Callable[[str], int]:
    bound = INTEGER_BOUNDS[type_name]

    def parse(text: str) -> int:
        try:
            if len(text) > 40 or "_" in text or not text.isascii():
                raise ValueError
            value = int(text)
        except ValueError:
            if _INTEGER_TEXT.fullmatch(text) is None:
                raise _bad(type_name, text) from None
            value = bound
        if not -bound <= value < bound:
            raise SqlError("22003", f'value "{text}" is out of range for type {TYPES[type_name].display}')
        return value

    return parse


def _parse_oid(text: str) -> int:
    value = parse_int8(text)
    if not -(1 << 31) <= value < 1 << 32:
        raise SqlError("22003", f'value "{text}" is out of range for type oid')
    return value & 0xFFFFFFFF


def parse_bool(text: str) -> bool:
    lowered = text.strip().lower()
    if lowered in ("1", "on") or (lowered and ("true".startswith(lowered) or "yes".startswith(lowered))):
        return True
    if lowered in ("0", "of", "off") or (lowered and ("false".startswith(lowered) or "no".startswith(lowered))):
        return False
    raise _bad("bool", text)


_FLOAT_TEXT = re.compile(r"[+-]?(?:\d+\.?\d*(?:e[+-]?\d+)?|\.\d+(?:e[+-]?\d+)?|inf(?:inity)?|nan)", re.ASCII | re.IGNORECASE)


def _parse_float(text: str, type_name: str) -> float:
    stripped = text.strip()
    if _FLOAT_TEXT.fullmatch(stripped) is None:
        raise _bad(type_name, text)
    value = float(stripped)
    lowered = stripped.lower()
    if (math.isinf(value) and "inf" not in lowered) or (value == 0 and re.search(r"[1-9]", lowered.split("e")[0])):
        raise SqlError("22003", f'"{text}" is out of range for type {TYPES[type_name].display}')
    return value


def parse_float8(text: str) -> float:
    return _parse_float(text, "float8")


def parse_float4(text: str) -> float:
    return to_float4(_parse_float(text, "float4"), text)


def to_float4(value: float, text: str = "") -> float:
    """Round to single precision. Raises: SqlError 22003."""
    try:
        rounded: float = struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        raise SqlError("22003", f'"{text or value}" is out of range for type real') from None
    if not rounded and value:
        raise SqlError("22003", f'"{text or value}" is out of range for type real')
    return rounded


def parse_numeric(text: str) -> Decimal:
    stripped = text.strip()
    if _FLOAT_TEXT.fullmatch(stripped) is None:
        raise _bad("numeric", text)
    try:
        value = Decimal(stripped)
    except InvalidOperation:
        raise _bad("numeric", text) from None
    return plain_numeric(value)


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


def parse_bytea(text: str) -> bytes:
    if text.startswith("\\x"):
        try:
            return bytes.fromhex(text[2:])
        except ValueError:
            raise SqlError("22023", "invalid hexadecimal data") from None
    if "\\" not in text:
        return text.encode()
    out, data, at = bytearray(), text.encode(), 0
    while at < len(data):
        if data[at] != 0x5C:
            out.append(data[at])
            at += 1
        elif data[at + 1 : at + 2] == b"\\":
            out.append(0x5C)
            at += 2
        elif re.fullmatch(rb"[0-3][0-7]{2}", data[at + 1 : at + 4]):
            out.append(int(data[at + 1 : at + 4], 8))
            at += 4
        else:
            raise _bad("bytea", text)
    return bytes(out)


_UUID = re.compile(r"\{?((?:[0-9a-fA-F]{4}-?){7}[0-9a-fA-F]{4})\}?")


def parse_uuid(text: str) -> bytes:
    match = _UUID.fullmatch(text)
    if match is None or text.startswith("{") != text.endswith("}"):
        raise _bad("uuid", text)
    return bytes.fromhex(match[1].replace("-", ""))


def _load_json(text: str, type_name: str) -> Any:
    def refuse(constant: str) -> Any:
        raise ValueError(constant)

    try:
        return json.loads(text, parse_float=Decimal, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise SqlError("22P02", f"invalid input syntax for type {type_name}", str(error)) from None


def parse_json(text: str) -> str:
    _load_json(text, "json")
    return text


def parse_jsonb(text: str) -> str:
    return jsonb_text(_load_json(text, "jsonb"))


def jsonb_text(value: Any) -> str:
    """PostgreSQL's jsonb output: keys by length then bytes, the last duplicate wins, one space after `:` and `,`."""
    if isinstance(value, dict):
        items = sorted(value.items(), key=lambda item: (len(item[0].encode()), item[0].encode()))
        return "{" + ", ".join(f"{_json_string(k)}: {jsonb_text(v)}" for k, v in items) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(jsonb_text, value)) + "]"
    if isinstance(value, str):
        return _json_string(value)
    if isinstance(value, Decimal):
        return format_numeric(plain_numeric(value))
    return json.dumps(value)


def _json_string(text: str) -> str:
    if "\x00" in text:
        raise SqlError("22P05", "unsupported Unicode escape sequence", "\\u0000 cannot be converted to text.")
    return json.dumps(text, ensure_ascii=False)


def parse_plain_text(text: str) -> str:
    if "\x00" in text:
        raise SqlError("22021", 'invalid byte sequence for encoding "UTF8": 0x00')
    return text


def _parse_name(text: str) -> str:
    return parse_plain_text(text)[:63]


def _parse_timestamptz(text: str) -> int:
    return calendar.parse_timestamp(text, "timestamp with time zone")


parse_int8 = _int_parser("int8")
PARSERS: dict[str, Callable[[str], Any]] = {
    "bool": parse_bool,
    "int2": _int_parser("int2"),
    "int4": _int_parser("int4"),
    "int8": parse_int8,
    "oid": _parse_oid,
    "float4": parse_float4,
    "float8": parse_float8,
    "numeric": parse_numeric,
    "text": parse_plain_text,
    "varchar": parse_plain_text,
    "bpchar": parse_plain_text,
    "name": _parse_name,
    "unknown": parse_plain_text,
    "bytea": parse_bytea,
    "uuid": parse_uuid,
    "json": parse_json,
    "jsonb": parse_jsonb,
    "date": calendar.parse_date,
    "time": calendar.parse_time,
    "timestamp": calendar.parse_timestamp,
    "timestamptz": _parse_timestamptz,
    "interval": calendar.parse_interval,
    "char": parse_plain_text,
    "regclass": _parse_oid,
    "regtype": _parse_oid,
}


def parse_text(type_name: str, text: str, typmod: int = -1) -> Any:
    """A value from its text form, fitted to the typmod as an assignment does (T2)."""
    if type_name.endswith("[]"):
        return parse_array(type_name[:-2], text)
    value = PARSERS[type_name](text)
    return value if typmod < 0 else fit(type_name, typmod)(value)


def text_parser(type_name: str, typmod: int = -1) -> Callable[[str], Any]:
    """The function that parse_text would apply, for many values."""
    if type_name.endswith("[]"):
        return lambda text: parse_array(type_name[:-2], text)
    parser = PARSERS[type_name]
    fitter = _fitter(type_name, typmod, False)
    if fitter is None:
        return parser
    return lambda text: fitter(parser(text))


# --- type modifiers -------------------------------------------------------------------------------------------------


def fit(type_name: str, typmod: int, explicit: bool = False) -> Callable[[Any], Any]:
    """Fit a value to varchar(n), char(n), numeric(p,s): pads, rounds; too long is 22001 unless the cast is explicit."""
    return _fitter(type_name, typmod, explicit) or (lambda value: value)


def _fitter(type_name: str, typmod: int, explicit: bool) -> Callable[[Any], Any] | None:
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


# --- text out -------------------------------------------------------------------------------------------------------


def format_bool(value: bool) -> str:
    return "t" if value else "f"


def format_float8(value: float) -> str:
    return _format_float(value, repr(value), 15)


def format_float4(value: float) -> str:
    for digits in range(6, 10):
        text = f"{value:.{digits}g}"
        if struct.pack("f", float(text)) == struct.pack("f", value):
            break
    for digits in range(1, 6):
        shorter = f"{value:.{digits}g}"
        if struct.pack("f", float(shorter)) == struct.pack("f", value):
            text = shorter
            break
    return _format_float(value, text, 6)


def _format_float(value: float, shortest: str, scientific_from: int) -> str:
    if value != value:
        return "NaN"
    if value in (math.inf, -math.inf):
        return "Infinity" if value > 0 else "-Infinity"
    if value == 0:
        return "-0" if math.copysign(1, value) < 0 else "0"
    number = Decimal(shortest)
    exponent = number.adjusted()
    sign, digits, _ = number.as_tuple()
    text = "".join(map(str, digits)).rstrip("0") or "0"
    minus = "-" if sign else ""
    if exponent < -4 or exponent >= scientific_from:
        mantissa = text[0] + ("." + text[1:] if len(text) > 1 else "")
        return f"{minus}{mantissa}e{'-' if exponent < 0 else '+'}{abs(exponent):02d}"
    if exponent < 0:
        return f"{minus}0.{'0' * (-exponent - 1)}{text}"
    if len(text) <= exponent + 1:
        return minus + text.ljust(exponent + 1, "0")
    return f"{minus}{text[: exponent + 1]}.{text[exponent + 1 :]}"


def format_numeric(value: Decimal) -> str:
    if value.is_nan():
        return "NaN"
    if value.is_infinite():
        return "-Infinity" if value < 0 else "Infinity"
    text = format(value, "f")
    return text[1:] if text[0] == "-" and not value else text


def format_bytea(value: bytes) -> str:
    return "\\x" + value.hex()


def format_uuid(value: bytes) -> str:
    text = value.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


FORMATTERS: dict[str, Callable[[Any], str]] = {
    "bool": format_bool,
    "int2": str,
    "int4": str,
    "int8": str,
    "oid": str,
    "float4": format_float4,
    "float8": format_float8,
    "numeric": format_numeric,
    "text": str,
    "varchar": str,
    "bpchar": str,
    "name": str,
    "unknown": str,
    "json": str,
    "jsonb": str,
    "bytea": format_bytea,
    "uuid": format_uuid,
    "date": calendar.format_date,
    "time": calendar.format_time,
    "timestamp": calendar.format_timestamp,
    "timestamptz": calendar.format_timestamptz,
    "interval": calendar.format_interval,
    "char": str,
    "void": lambda value: "",
    "regclass": str,
    "regtype": str,
    "record": str,
}


def format_text(type_name: str, value: Any) -> str:
    """A value's text form (T1), with the time zone UTC."""
    return text_formatter(type_name)(value)


def text_formatter(type_name: str, offset_s: int = 0) -> Callable[[Any], str]:
    """`offset_s` is the session's zone, for timestamptz."""
    if type_name.endswith("[]"):
        inner = text_formatter(type_name[:-2], offset_s)
        return lambda value: format_array(value, inner)
    if type_name == "timestamptz" and offset_s:
        return lambda value: calendar.format_timestamptz(value, offset_s)
    return FORMATTERS[type_name]


def text_encoder(type_name: str, offset_s: int = 0) -> Callable[[Any], bytes]:
    """A function from a (not NULL) value to the bytes of its text form, as short as can be for the hot types."""
    if type_name in INTEGERS or type_name == "oid":
        return b"%d".__mod__
    if type_name in STRINGS or type_name in ("json", "jsonb"):
        return str.encode
    if type_name == "bool":
        return lambda value: b"t" if value else b"f"
    formatter = text_formatter(type_name, offset_s)
    return lambda value: formatter(value).encode()


# --- arrays (parameters and casts only) -----------------------------------------------------------------------------

_ARRAY_ITEM = re.compile(r'\s*(?:"((?:[^"\\]|\\.)*)"|([^",{}\\]*(?:\\.[^",{}\\]*)*))\s*([,}])', re.DOTALL)


def parse_array(element: str, text: str) -> list[Any]:
    """A one-dimensional array literal `{1,2,NULL,"a b"}`. Raises: SqlError 22P02."""
    body = text.strip()
    if not body.startswith("{") or not body.endswith("}"):
        raise SqlError("22P02", f'malformed array literal: "{text}"')
    if not body[1:-1].strip():
        return []
    items: list[Any] = []
    at = 1
    while at < len(body):
        match = _ARRAY_ITEM.match(body, at)
        if match is None or (match[3] == "}") != (match.end() == len(body)):
            raise SqlError("22P02", f'malformed array literal: "{text}"')
        if match[1] is not None:
            items.append(parse_text(element, re.sub(r"\\(.)", r"\1", match[1], flags=re.DOTALL)))
        else:
            bare = match[2].strip()
            items.append(None if bare.upper() == "NULL" else parse_text(element, re.sub(r"\\(.)", r"\1", bare)))
        at = match.end()
    return items


def format_array(values: list[Any], formatter: Callable[[Any], str]) -> str:
    parts = []
    for value in values:
        text = "NULL" if value is None else format_array(value, formatter) if isinstance(value, list) else formatter(value)
        if (
            value is not None
            and not isinstance(value, list)
            and (not text or text.upper() == "NULL" or re.search(r'[\s{},"\\]', text))
        ):
            text = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
        parts.append(text)
    return "{" + ",".join(parts) + "}"

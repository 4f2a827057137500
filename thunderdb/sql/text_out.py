"""Values as text, as PostgreSQL's output functions print them (T1 of text_in.py)."""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from thunderdb.base.errors import SqlError
from thunderdb.sql import calendar
from thunderdb.sql.types import INTEGERS, STRINGS, plain_numeric


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
    """A value's text form (T1)."""
    return text_formatter(type_name)(value)


def text_formatter(type_name: str) -> Callable[[Any], str]:
    if type_name.endswith("[]"):
        inner = text_formatter(type_name[:-2])
        return lambda value: format_array(value, inner)
    return FORMATTERS[type_name]


def text_encoder(type_name: str) -> Callable[[Any], bytes]:
    """A function from a (not NULL) value to the bytes of its text form, as short as can be for the hot types."""
    if type_name in INTEGERS or type_name == "oid":
        return b"%d".__mod__
    if type_name in STRINGS or type_name in ("json", "jsonb"):
        return str.encode
    if type_name == "bool":
        return lambda value: b"t" if value else b"f"
    formatter = text_formatter(type_name)
    return lambda value: formatter(value).encode()


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

"""Values from their text, as PostgreSQL's input functions read it.

T1. text_out of what is read here is what PostgreSQL prints for the same input, byte for byte.
T2. Bad input is 22P02 (or 22007 for times), a value out of range 22003 or 22008, one too long 22001.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any

from thunderdb.base.errors import SqlError
from thunderdb.sql import calendar
from thunderdb.sql.text_out import jsonb_text
from thunderdb.sql.types import INTEGER_BOUNDS, TYPES, fit, fitter_of, plain_numeric, to_float4


def _bad(type_name: str, text: str) -> SqlError:
    return SqlError("22P02", f'invalid input syntax for type {TYPES[type_name].display}: "{text}"')


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


def parse_numeric(text: str) -> Decimal:
    stripped = text.strip()
    if _FLOAT_TEXT.fullmatch(stripped) is None:
        raise _bad("numeric", text)
    try:
        value = Decimal(stripped)
    except InvalidOperation:
        raise _bad("numeric", text) from None
    return plain_numeric(value)


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
    fitter = fitter_of(type_name, typmod, False)
    if fitter is None:
        return parser
    return lambda text: fitter(parser(text))


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

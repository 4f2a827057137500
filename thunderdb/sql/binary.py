"""Binary formats of parameters and results, as PostgreSQL's send and receive functions have them (network byte order).

type            bytes
bool            1: 0 or 1                      int2, int4, int8, oid   2, 4, 8, 4
float4, float8  IEEE                           text, varchar …         UTF-8
date            int32 days since 2000-01-01    time, timestamp(tz)     int64 microseconds
interval        int64 µs, int32 days, months   uuid                    16
numeric         int16 digits, weight, sign (0, 0x4000 -, 0xC000 NaN, 0xD000 inf, 0xF000 -inf), scale, base-10000 digits
jsonb           version 1, then text           array                   int32 dimensions, flags, oid, size, lower bound; items
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from thunderdb.base.errors import SqlError
from thunderdb.sql import text_in, text_out, types

_NUMERIC = struct.Struct("!hhHh")
_FORMATS = {
    "bool": "?",
    "int2": "h",
    "int4": "i",
    "int8": "q",
    "oid": "I",
    "float4": "f",
    "float8": "d",
    "date": "i",
    "time": "q",
    "timestamp": "q",
    "timestamptz": "q",
    "regclass": "I",
    "regtype": "I",
}
_INTERVAL = struct.Struct("!qii")


def decode_binary(type_name: str, data: bytes) -> Any:
    """A parameter's value. Raises: SqlError 22P03, 08P01."""
    fixed = _FORMATS.get(type_name)
    if fixed is not None:
        packer = struct.Struct("!" + fixed)
        if len(data) != packer.size:
            raise SqlError("22P03", "incorrect binary data format in bind parameter")
        return packer.unpack(data)[0]
    if type_name in types.STRINGS or type_name == "json":
        try:
            return text_in.PARSERS[type_name](data.decode())
        except UnicodeDecodeError:
            raise SqlError("22021", 'invalid byte sequence for encoding "UTF8"') from None
    if type_name == "bytea":
        return bytes(data)
    if type_name == "uuid" and len(data) == 16:
        return bytes(data)
    if type_name == "interval" and len(data) == 16:
        micros, days, months = _INTERVAL.unpack(data)
        return months, days, micros
    if type_name == "jsonb" and data[:1] == b"\x01":
        return text_in.parse_jsonb(data[1:].decode())
    if type_name == "numeric" and len(data) >= 8:
        return _decode_numeric(data)
    if type_name.endswith("[]"):
        return _decode_array(type_name[:-2], data)
    raise SqlError("22P03", "incorrect binary data format in bind parameter")


def _decode_numeric(data: bytes) -> Decimal:
    count, weight, sign, scale = _NUMERIC.unpack_from(data)
    if sign in (0xC000, 0xD000, 0xF000):
        return Decimal({0xC000: "NaN", 0xD000: "Infinity", 0xF000: "-Infinity"}[sign])
    if count < 0 or len(data) != 8 + 2 * count or sign not in (0, 0x4000):
        raise SqlError("22P03", 'invalid sign in external "numeric" value')
    digits = struct.unpack_from(f"!{count}H", data, 8)
    whole = 0
    for digit in digits:
        whole = whole * 10_000 + digit
    value = Decimal(whole).scaleb((weight - count + 1) * 4, context=types.EXACT) if count else Decimal(0)
    value = value.quantize(Decimal(1).scaleb(-scale), context=types.EXACT)
    return -value if sign and value else value


def _encode_numeric(value: Decimal) -> bytes:
    sign, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int):
        code = 0xC000 if value.is_nan() else 0xF000 if sign else 0xD000
        return _NUMERIC.pack(0, 0, code, 0)
    scale = max(0, -exponent)
    text = text_out.format_numeric(value).lstrip("-")
    whole, _, fraction = text.partition(".")
    whole = whole.lstrip("0")
    whole = whole.rjust(-(-len(whole) // 4) * 4, "0")
    fraction = fraction.ljust(-(-len(fraction) // 4) * 4, "0")
    groups = [int((whole + fraction)[i : i + 4]) for i in range(0, len(whole) + len(fraction), 4)]
    weight = len(whole) // 4 - 1
    while groups and groups[0] == 0:
        groups.pop(0)
        weight -= 1
    while groups and groups[-1] == 0:
        groups.pop()
    negative = 0x4000 if sign and groups else 0
    return _NUMERIC.pack(len(groups), weight if groups else 0, negative, scale) + struct.pack(f"!{len(groups)}H", *groups)


def _decode_array(element: str, data: bytes) -> list[Any]:
    dimensions, _, _ = struct.unpack_from("!iiI", data)
    if dimensions == 0:
        return []
    if dimensions != 1:
        raise SqlError("0A000", "arrays of more than one dimension are not supported")
    count, _ = struct.unpack_from("!ii", data, 12)
    items, at = [], 20
    for _ in range(count):
        (size,) = struct.unpack_from("!i", data, at)
        at += 4
        items.append(None if size < 0 else decode_binary(element, data[at : at + size]))
        at += max(size, 0)
    return items


def _encode_array(element: str, values: list[Any]) -> bytes:
    encode = binary_encoder(element)
    parts = [struct.pack("!iiI", 1 if values else 0, any(v is None for v in values), types.TYPES[element].oid)]
    if values:
        parts.append(struct.pack("!ii", len(values), 1))
    for value in values:
        data = b"" if value is None else encode(value)
        parts.append(struct.pack("!i", -1 if value is None else len(data)) + data)
    return b"".join(parts)


def binary_encoder(type_name: str) -> Callable[[Any], bytes]:
    """A function from a (not NULL) value to its binary form."""
    fixed = _FORMATS.get(type_name)
    if fixed is not None:
        return struct.Struct("!" + fixed).pack
    if type_name in ("bytea", "uuid"):
        return bytes
    if type_name == "numeric":
        return _encode_numeric
    if type_name == "jsonb":
        return lambda value: b"\x01" + value.encode()
    if type_name == "interval":
        return lambda value: _INTERVAL.pack(value[2], value[1], value[0])
    if type_name.endswith("[]"):
        return lambda value: _encode_array(type_name[:-2], value)
    if type_name == "void":
        return lambda value: b""
    return lambda value: str(value).encode()

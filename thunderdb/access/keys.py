"""Order-preserving keys: encoded bytes compare (memcmp) exactly as the SQL values do, column by column.

A key is the concatenation of its columns. A column of a nullable key starts with a marker: 01 value follows, 02 NULL (so
that NULLs sort last). A primary key has no markers.

    type                        bytes
    bool                        00 or 01
    int2, int4, int8, date,     big-endian with the sign bit flipped (2, 4 or 8 bytes)
    time, timestamp(tz)
    float4, float8              IEEE big-endian; sign bit flipped, or all bits if negative; -0 is 0, every NaN the greatest
    text, varchar, bpchar       UTF-8, then 00 (text cannot hold a NUL); bpchar without its trailing blanks
    bytea                       each 00 as 00 FF, then 00 00
    uuid                        its 16 bytes
    interval                    its length in microseconds (30-day months), 16 bytes, sign bit flipped
    numeric                     class (10 -inf, 20 negative, 30 zero, 40 positive, 50 inf, 60 NaN), exponent (4 bytes), pairs of
                                digits plus one (01..64), 00; everything after the class complemented if negative

K1. encode(a) < encode(b) exactly when a < b in SQL; equal SQL values have equal keys (1.0 and 1.00, 'a' and 'a ' as char).
K2. No column's encoding is a proper prefix of another's of the same type, so a longer key starts with its columns' own key.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

from thunderdb.base.errors import SqlError

Encoder = Callable[[Any], bytes]
Decoder = Callable[[bytes, int], tuple[Any, int]]

VALUE_MARK = b"\x01"
NULL_MARK = b"\x02"

_U16 = struct.Struct(">H")
_U32 = struct.Struct(">I")
_U64 = struct.Struct(">Q")
_F32 = struct.Struct(">f")
_F64 = struct.Struct(">d")

_INT_WIDTHS = {"int2": 2, "int4": 4, "int8": 8, "date": 4, "time": 8, "timestamp": 8, "timestamptz": 8, "oid": 8}
_STRUCT_CODES = {2: "H", 4: "I", 8: "Q"}
_COMPLEMENT = bytes(255 - byte for byte in range(256))
_EXPONENT_BIAS = 1 << 31
_INTERVAL_BIAS = 1 << 127
_DAY_US = 86_400_000_000


class KeyCodec:
    """Encode and decode the columns of one index. `nullable` keys carry a marker before each column."""

    __slots__ = ("types", "nullable", "encode", "_encoders", "_decoders")

    encode: Callable[[Sequence[Any]], bytes]

    def __init__(self, types: Sequence[str], nullable: bool = False) -> None:
        """Raises: SqlError 42704 for a type that has no order (json)."""
        self.types = tuple(types)
        self.nullable = nullable
        codecs = [_codec_of(type_name) for type_name in self.types]
        self._encoders = [codec[0] for codec in codecs]
        self._decoders = [codec[1] for codec in codecs]
        self.encode = self._choose_encode()

    def _choose_encode(self) -> Callable[[Sequence[Any]], bytes]:
        if self.nullable:
            return self._encode_nullable
        widths = [_INT_WIDTHS.get(type_name) for type_name in self.types]
        if len(widths) == 1 and widths[0] is not None:
            return _one_int_encoder(widths[0])
        if len(self._encoders) == 1:
            only = self._encoders[0]
            return lambda values: only(values[0])
        return self._encode_plain

    def _encode_plain(self, values: Sequence[Any]) -> bytes:
        return b"".join([encode(value) for encode, value in zip(self._encoders, values, strict=False)])

    def _encode_nullable(self, values: Sequence[Any]) -> bytes:
        return b"".join(
            [
                NULL_MARK if value is None else VALUE_MARK + encode(value)
                for encode, value in zip(self._encoders, values, strict=False)
            ]
        )

    def decode(self, key: bytes) -> list[Any]:
        """The column values; a suffix after the last column is ignored (see `decode_from`)."""
        return self.decode_from(key)[0]

    def decode_from(self, key: bytes) -> tuple[list[Any], int]:
        """The column values and the offset behind them."""
        values: list[Any] = []
        offset = 0
        for decode in self._decoders:
            if self.nullable:
                offset += 1
                if key[offset - 1] == NULL_MARK[0]:
                    values.append(None)
                    continue
            value, offset = decode(key, offset)
            values.append(value)
        return values, offset

    def encode_prefix(self, values: Sequence[Any]) -> bytes:
        """The bytes that every key whose leading columns are `values` starts with."""
        return self._encode_nullable(values) if self.nullable else self._encode_plain(values)

    def prefix_range(self, values: Sequence[Any]) -> tuple[bytes, bytes | None]:
        """(lo, hi) holding exactly the keys whose leading columns equal `values`; hi is exclusive, None = no upper bound."""
        prefix = self.encode_prefix(values)
        return prefix, successor(prefix)


def successor(prefix: bytes) -> bytes | None:
    """The least bytes above everything that starts with `prefix`; None if there is none."""
    stripped = prefix.rstrip(b"\xff")
    if not stripped:
        return None
    return stripped[:-1] + bytes((stripped[-1] + 1,))


def _one_int_encoder(width: int) -> Callable[[Sequence[Any]], bytes]:
    pack = struct.Struct(">" + _STRUCT_CODES[width]).pack
    bias = 1 << (8 * width - 1)

    def encode(values: Sequence[Any]) -> bytes:
        return pack(values[0] + bias)

    return encode


def _int_codec(width: int) -> tuple[Encoder, Decoder]:
    packer = struct.Struct(">" + _STRUCT_CODES[width])
    pack, unpack_from = packer.pack, packer.unpack_from
    bias = 1 << (8 * width - 1)

    def encode(value: int) -> bytes:
        return pack(value + bias)

    def decode(key: bytes, offset: int) -> tuple[int, int]:
        return unpack_from(key, offset)[0] - bias, offset + width

    return encode, decode


def _float_codec(packer: struct.Struct, unsigned: struct.Struct) -> tuple[Encoder, Decoder]:
    width = packer.size
    top = 1 << (8 * width - 1)
    full = (1 << (8 * width)) - 1

    def encode(value: float) -> bytes:
        if value != value:
            return b"\xff" * width
        bits = unsigned.unpack(packer.pack(value + 0.0))[0]  # -0.0 + 0.0 is 0.0
        return unsigned.pack(bits ^ full if bits & top else bits | top)

    def decode(key: bytes, offset: int) -> tuple[float, int]:
        bits = unsigned.unpack_from(key, offset)[0]
        if bits == full:
            return float("nan"), offset + width
        return packer.unpack(unsigned.pack(bits ^ top if bits & top else bits ^ full))[0], offset + width

    return encode, decode


def _encode_bool(value: bool) -> bytes:
    return b"\x01" if value else b"\x00"


def _decode_bool(key: bytes, offset: int) -> tuple[bool, int]:
    return key[offset] == 1, offset + 1


def _encode_text(value: str) -> bytes:
    return value.encode() + b"\x00"


def _encode_bpchar(value: str) -> bytes:
    return value.rstrip(" ").encode() + b"\x00"


def _decode_text(key: bytes, offset: int) -> tuple[str, int]:
    end = key.index(0, offset)
    return key[offset:end].decode(), end + 1


def _encode_bytea(value: bytes) -> bytes:
    return value.replace(b"\x00", b"\x00\xff") + b"\x00\x00"


def _decode_bytea(key: bytes, offset: int) -> tuple[bytes, int]:
    parts = bytearray()
    while True:
        zero = key.index(0, offset)
        parts += key[offset:zero]
        offset = zero + 2
        if key[zero + 1] == 0:
            return bytes(parts), offset
        parts.append(0)


def _encode_uuid(value: bytes) -> bytes:
    return value


def _decode_uuid(key: bytes, offset: int) -> tuple[bytes, int]:
    return key[offset : offset + 16], offset + 16


def interval_us(value: tuple[int, int, int]) -> int:
    """An interval's length for comparison: months of 30 days, days of 24 hours, as PostgreSQL has it."""
    months, days, micros = value
    return (months * 30 + days) * _DAY_US + micros


def _encode_interval(value: tuple[int, int, int]) -> bytes:
    return (interval_us(value) + _INTERVAL_BIAS).to_bytes(16, "big")


def _decode_interval(key: bytes, offset: int) -> tuple[tuple[int, int, int], int]:
    return (0, 0, int.from_bytes(key[offset : offset + 16], "big") - _INTERVAL_BIAS), offset + 16


def _encode_numeric(value: Decimal) -> bytes:
    sign, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int):
        return b"\x60" if exponent in ("n", "N") else (b"\x10" if sign else b"\x50")
    text = "".join(map(str, digits)).lstrip("0")
    if not text:
        return b"\x30"
    point = len(text) + exponent  # the value is 0.text times ten to the point
    text = text.rstrip("0")
    if len(text) % 2:
        text += "0"
    pairs = bytes(int(text[i : i + 2]) + 1 for i in range(0, len(text), 2))
    body = _U32.pack(point + _EXPONENT_BIAS) + pairs + b"\x00"
    return b"\x20" + body.translate(_COMPLEMENT) if sign else b"\x40" + body


def _decode_numeric(key: bytes, offset: int) -> tuple[Decimal, int]:
    kind = key[offset]
    if kind not in (0x20, 0x40):
        text = {0x10: "-Infinity", 0x30: "0", 0x50: "Infinity", 0x60: "NaN"}[kind]
        return Decimal(text), offset + 1
    end = key.index(0xFF if kind == 0x20 else 0x00, offset + 5)
    body = key[offset + 1 : end]
    if kind == 0x20:
        body = body.translate(_COMPLEMENT)
    point = _U32.unpack_from(body)[0] - _EXPONENT_BIAS
    text = "".join(f"{pair - 1:02d}" for pair in body[4:]).rstrip("0")
    exponent = point - len(text)
    if 0 < exponent < 1000:  # whole numbers come back without an exponent
        text, exponent = text + "0" * exponent, 0
    return Decimal((1 if kind == 0x20 else 0, tuple(map(int, text)), exponent)), end + 1


_OTHERS: dict[str, tuple[Encoder, Decoder]] = {
    "bool": (_encode_bool, _decode_bool),
    "float4": _float_codec(_F32, _U32),
    "float8": _float_codec(_F64, _U64),
    "text": (_encode_text, _decode_text),
    "varchar": (_encode_text, _decode_text),
    "name": (_encode_text, _decode_text),
    "bpchar": (_encode_bpchar, _decode_text),
    "jsonb": (_encode_text, _decode_text),
    "bytea": (_encode_bytea, _decode_bytea),
    "uuid": (_encode_uuid, _decode_uuid),
    "interval": (_encode_interval, _decode_interval),
    "numeric": (_encode_numeric, _decode_numeric),
}


def _codec_of(type_name: str) -> tuple[Encoder, Decoder]:
    width = _INT_WIDTHS.get(type_name)
    if width is not None:
        return _int_codec(width)
    codec = _OTHERS.get(type_name)
    if codec is None:
        raise SqlError(
            "42704",
            f'data type {type_name} has no default operator class for access method "btree"',
            hint="You must specify an operator class for the index or define a default operator class for the data type.",
        )
    return codec

"""Row payloads: all columns of a row as one bytes object, with nothing but struct between it and Python values.

    part            bytes
    column count    2, little-endian; a row older than an ADD COLUMN has fewer than its table
    null bitmap     (count + 7) // 8, bit i % 8 of byte i // 8 set = column i is NULL
    fixed part      per non-NULL column, in order, little-endian: the value of a fixed-size type,
                    or the length (4 bytes) of a variable one
    variable part   the variable columns' bytes, back to back

Values are what all of ThunderDB uses in Python: int, bool, float, str, Decimal, bytes (bytea, uuid), microseconds or days
since 2000-01-01 as int, an interval as (months, days, microseconds), None for NULL.

R1. The count and the bitmap (the row's *shape*) decide the layout; a reader is generated once per shape, then cached.
R2. Columns are only ever added at the end; a missing one reads as the default that the codec was given.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Collection, Sequence
from decimal import Decimal
from types import CodeType
from typing import Any

from thunderdb.base.errors import InvariantViolated

_COUNT = struct.Struct("<H")

# One field each; interval is (microseconds, days, months) in PostgreSQL's own order and handled on its own.
FIXED_FORMATS = {
    "bool": "?",
    "int2": "h",
    "int4": "i",
    "int8": "q",
    "oid": "q",
    "float4": "f",
    "float8": "d",
    "date": "i",
    "time": "q",
    "timestamp": "q",
    "timestamptz": "q",
    "uuid": "16s",
}
TEXT_TYPES = frozenset({"text", "varchar", "bpchar", "json", "jsonb", "name"})
_INTERVAL = struct.Struct("<qii")
_MAX_SHAPES = 512  # a wide table with arbitrary NULLs must not cache a reader for each combination


def _encode_interval(value: tuple[int, int, int]) -> bytes:
    return _INTERVAL.pack(value[2], value[1], value[0])


def _decode_interval(data: bytes) -> tuple[int, int, int]:
    micros, days, months = _INTERVAL.unpack(data)
    return months, days, micros


class RowCodec:
    """Encode and decode the rows of one table version. `missing[i]` is column i's value in rows that end before it."""

    __slots__ = ("types", "missing", "decode", "_head_size", "_full_head", "_encode_full", "_writers")

    decode: Callable[[bytes], list[Any]]

    def __init__(self, types: Sequence[str], missing: Sequence[Any] = ()) -> None:
        self.types = tuple(types)
        self.missing = tuple(missing) + (None,) * (len(self.types) - len(missing))
        count = len(self.types)
        self._head_size = 2 + (count + 7) // 8
        self._full_head = _head(count, ())
        self._encode_full = _make_writer(self.types, self._full_head, ())
        self._writers: dict[bytes, Callable[[Sequence[Any]], bytes]] = {}
        self.decode = self._dispatcher(tuple(range(count)), as_list=True)

    def encode(self, values: Sequence[Any]) -> bytes:
        """One payload for all columns. Raises: struct.error for an integer out of its type's range."""
        if None not in values:
            return self._encode_full(values)
        shape = bytes([value is None for value in values])
        writer = self._writers.get(shape)
        if writer is None:
            nulls = tuple(i for i, value in enumerate(values) if value is None)
            writer = _make_writer(self.types, _head(len(self.types), nulls), nulls)
            if len(self._writers) < _MAX_SHAPES:
                self._writers[shape] = writer
        return writer(values)

    def column(self, payload: bytes, position: int) -> Any:
        """One column's value; for many rows take a `projector`."""
        return self.projector((position,))(payload)[0]

    def projector(self, positions: Sequence[int]) -> Callable[[bytes], Any]:
        """A function from a payload to the tuple of these columns; what it does not need it does not decode."""
        return self._dispatcher(tuple(positions), as_list=False)

    def changer(
        self, changes: Sequence[tuple[int, Callable[[Any, Any], Any]]], needed: Collection[int]
    ) -> Callable[[bytes, Any], bytes | None] | None:
        """A function (payload, context) -> the payload with some columns changed: what re-encoding all of them would give.

        `changes` are positions with functions of (row, context); these look at the columns `needed` only, and find None in all
        others. It gives None for a payload that it leaves to the long way: an older row, a NULL among these columns, before or
        after. None instead of a function if one of the columns has no fixed size.
        """
        touched = {position for position, _ in changes} | set(needed)
        if any(self.types[position] not in FIXED_FORMATS for position in touched):
            return None
        head_size, full_count = self._head_size, len(self.types)
        changers: dict[bytes, Callable[[bytes, Any], bytes | None]] = {}

        def change(payload: bytes, context: Any) -> bytes | None:
            found = changers.get(payload[:head_size])
            return found(payload, context) if found is not None else first_of_shape(payload, context)

        def first_of_shape(payload: bytes, context: Any) -> bytes | None:
            head = payload[:head_size]
            if _COUNT.unpack_from(payload)[0] != full_count or touched & set(_nulls_of(head)[1]):
                return None
            found = _make_changer(self.types, head, changes, sorted(needed))
            if len(changers) < _MAX_SHAPES:
                changers[head] = found
            return found(payload, context)

        return change

    def _dispatcher(self, positions: tuple[int, ...], as_list: bool) -> Callable[[bytes], Any]:
        head_size = self._head_size
        readers: dict[bytes, Callable[[bytes], Any]] = {}
        lookup = readers.get

        def read(payload: bytes) -> Any:
            reader = lookup(payload[:head_size])
            return reader(payload) if reader is not None else slow(payload)

        def slow(payload: bytes) -> Any:
            count = _COUNT.unpack_from(payload)[0]
            if count > len(self.types):
                raise InvariantViolated(f"a row has {count} columns, its table only {len(self.types)}")
            head = payload[: 2 + (count + 7) // 8]
            reader = readers.get(head)
            if reader is None:
                reader = _make_reader(self.types, head, positions, self.missing, as_list)
                if len(readers) < _MAX_SHAPES:
                    readers[head] = reader
            return reader(payload)

        return read


def _head(count: int, nulls: Sequence[int]) -> bytes:
    bitmap = bytearray((count + 7) // 8)
    for position in nulls:
        bitmap[position // 8] |= 1 << (position % 8)
    return _COUNT.pack(count) + bytes(bitmap)


def _nulls_of(head: bytes) -> tuple[int, tuple[int, ...]]:
    count = _COUNT.unpack_from(head)[0]
    return count, tuple(i for i in range(count) if head[2 + i // 8] >> (i % 8) & 1)


def _make_writer(types: tuple[str, ...], head: bytes, nulls: Sequence[int]) -> Callable[[Sequence[Any]], bytes]:
    """Generate `write(values)` for rows whose NULLs are exactly `nulls` (R1)."""
    layout, arguments, tails, lines = f"<{len(head)}s", ["head"], [], []
    absent = set(nulls)
    names = [f"v{i}" for i in range(len(types))]
    for i, type_name in enumerate(types):
        if i in absent:
            continue
        name = names[i]
        fixed = FIXED_FORMATS.get(type_name)
        if fixed is not None:
            layout += fixed
            arguments.append(name)
            continue
        layout += "I"
        if type_name in TEXT_TYPES:
            lines.append(f"    {name} = {name}.encode()")
        elif type_name == "numeric":
            lines.append(f"    {name} = str({name}).encode()")
        elif type_name == "interval":
            lines.append(f"    {name} = encode_interval({name})")
        arguments.append(f"len({name})")
        tails.append(name)
    unpacking = f"    ({', '.join(names)},) = values" if names else "    pass"
    result = " + ".join([f"pack({', '.join(arguments)})", *tails])
    source = "\n".join(["def write(values):", unpacking, *lines, f"    return {result}"])
    scope = {"pack": struct.Struct(layout).pack, "head": head, "encode_interval": _encode_interval}
    writer: Callable[[Sequence[Any]], bytes] = _compile(source, scope, "write")
    return writer


def _make_reader(
    types: tuple[str, ...], head: bytes, positions: tuple[int, ...], missing: tuple[Any, ...], as_list: bool
) -> Callable[[bytes], Any]:
    """Generate `read(payload)` giving the columns at `positions` for rows of this shape (R1, R2)."""
    count, nulls = _nulls_of(head)
    absent, wanted = set(nulls), set(positions)
    layout, fields, needed_fields, lines, variables = f"<{len(head)}x", [], set(), [], []
    for i in range(count):
        if i in absent:
            continue
        fixed = FIXED_FORMATS.get(types[i])
        layout += fixed or "I"
        fields.append(f"v{i}" if fixed else f"n{i}")
        if fixed is None:
            variables.append(i)
        elif i in wanted:
            needed_fields.add(i)
    last_wanted = max((i for i in variables if i in wanted), default=-1)
    if last_wanted >= 0:
        lines = _with_running_offset(types, variables, wanted, last_wanted, struct.calcsize(layout))
    targets = "".join(f"{field}, " for field in fields)
    unpack = [f"    {targets}= unpack(payload)"] if fields and (needed_fields or last_wanted >= 0) else []
    items = [
        f"v{i}" if i < count and i not in absent else ("None" if i < count else f"missing[{i}]") for i in positions
    ]
    listing = ", ".join(items)
    result = f"[{listing}]" if as_list else f"({listing}{',' if items else ''})"
    source = "\n".join(["def read(payload):", *unpack, *lines, f"    return {result}"])
    scope = {
        "unpack": struct.Struct(layout).unpack_from,
        "missing": missing,
        "Decimal": Decimal,
        "decode_interval": _decode_interval,
    }
    reader: Callable[[bytes], Any] = _compile(source, scope, "read")
    return reader


def _make_changer(
    types: tuple[str, ...], head: bytes, changes: Sequence[tuple[int, Callable[[Any, Any], Any]]], needed: Sequence[int]
) -> Callable[[bytes, Any], bytes | None]:
    """Generate `change(payload, context)` for rows of this shape (R1): the bytes around the changed columns stay."""
    absent = set(_nulls_of(head)[1])
    offsets, layout = {}, f"<{len(head)}x"
    for i, type_name in enumerate(types):
        if i not in absent:
            offsets[i] = struct.calcsize(layout)
            layout += FIXED_FORMATS.get(type_name, "I")
    scope: dict[str, Any] = {}
    lines = ["def change(payload, context):"]
    for i in needed:
        scope[f"unpack{i}"] = struct.Struct("<" + FIXED_FORMATS[types[i]]).unpack_from
        lines.append(f"    v{i}, = unpack{i}(payload, {offsets[i]})")
    row = ", ".join(f"v{i}" if i in needed else "None" for i in range(len(types)))
    lines.append(f"    row = ({row},)")
    for i, fn in changes:
        scope[f"fn{i}"] = fn
        lines += [f"    n{i} = fn{i}(row, context)", f"    if n{i} is None:", "        return None"]
    parts, at = [], 0
    for i in sorted(position for position, _ in changes):
        packer = struct.Struct("<" + FIXED_FORMATS[types[i]])
        scope[f"pack{i}"] = packer.pack
        parts += [f"payload[{at}:{offsets[i]}]", f"pack{i}(n{i})"]
        at = offsets[i] + packer.size
    lines.append(f"    return {' + '.join([*parts, f'payload[{at}:]'])}")
    changer: Callable[[bytes, Any], bytes | None] = _compile("\n".join(lines), scope, "change")
    return changer


def _with_running_offset(types: tuple[str, ...], variables: list[int], wanted: set[int], last: int, start: int) -> list[str]:
    """Lines that slice each wanted variable column, keeping the running offset `o`."""
    lines, offset = [], str(start)
    for i in variables:
        if i > last:
            break
        if i in wanted:
            lines.append(f"    v{i} = {_slice_of(types[i], f'payload[{offset}:{offset} + n{i}]')}")
        if i < last:
            lines.append(f"    o = {offset} + n{i}")
            offset = "o"
    return lines


def _slice_of(type_name: str, part: str) -> str:
    if type_name in TEXT_TYPES:
        return f"{part}.decode()"
    if type_name == "numeric":
        return f"Decimal({part}.decode())"
    if type_name == "interval":
        return f"decode_interval({part})"
    return part


def _compile(source: str, scope: dict[str, Any], name: str) -> Any:
    exec(_code(source), scope)  # noqa: S102  generated from type names only
    return scope[name]


@functools.lru_cache(1024)
def _code(source: str) -> CodeType:
    """Tables of the same types, and every start of the same database, have the same source; compiling is the dear part."""
    return compile(source, "<row codec>", "exec")

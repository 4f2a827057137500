"""What a statement gives back to the wire layer: columns, ready-made DataRow bytes, a command tag, or a COPY to carry on.

Rows are encoded here, next to the types, because the hot path answers one row and must not pass through an object per value.

    DataRow, PostgreSQL protocol 3.0: 'D' int32 length, int16 column count, per column int32 length (-1 = NULL) and bytes
    RowDescription:                   'T' int32 length, int16 count, per column name\\0 int32 table, int16 attribute,
                                      int32 type OID, int16 type size, int32 typmod, int16 format

R1. `data` and each chunk of `more` are whole messages (for COPY OUT: payloads for CopyData, one row each list item).
R2. `tag` is final only when `more` is exhausted (it counts rows) or, for COPY IN, after `CopyIn.finish`.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

_DESCRIPTION_HEAD = struct.Struct("!cIH")
_DESCRIPTION_FIELD = struct.Struct("!IHIhiH")


@dataclass(frozen=True, slots=True)
class ResultColumn:
    """One column of a RowDescription. `type_name` is ours (int4, text …); the rest is PostgreSQL's numbers."""

    name: str
    type_name: str
    type_oid: int
    type_size: int = -1
    typmod: int = -1
    table_oid: int = 0
    attribute: int = 0


@dataclass(frozen=True, slots=True)
class Notice:
    """A NoticeResponse. `severity` is NOTICE, WARNING, INFO, LOG or DEBUG."""

    severity: str
    sqlstate: str
    message: str
    detail: str = ""
    hint: str = ""


class CopyIn(Protocol):
    """The receiving end of COPY … FROM STDIN. Call `feed` for each CopyData, then exactly one of `finish` and `fail`."""

    binary: bool
    column_count: int

    async def feed(self, data: bytes) -> None: ...

    async def finish(self) -> None:
        """CopyDone came. The result's tag is set. Raises: SqlError."""
        ...

    async def fail(self, message: str) -> None:
        """CopyFail came, or the client sent something else. Raises: SqlError 57014 always."""
        ...


class Result:
    """One statement's outcome; the wire layer writes it in the order columns, data, more, tag."""

    __slots__ = ("tag", "columns", "description", "data", "more", "copy_in", "copy_out", "suspended", "empty")

    def __init__(
        self,
        tag: str = "",
        columns: Sequence[ResultColumn] | None = None,
        description: bytes = b"",
        data: bytes = b"",
        more: AsyncIterator[bytes] | None = None,
    ) -> None:
        self.tag = tag
        self.columns = columns  # None: the statement returns no rows
        self.description = description  # a whole RowDescription message, when columns is not None
        self.data = data  # whole DataRow messages, the first batch
        self.more = more  # further batches, each of whole DataRow messages; bounded in size
        self.copy_in: CopyIn | None = None
        self.copy_out: CopyOut | None = None
        self.suspended = False  # execute() stopped at max_rows: answer PortalSuspended, no tag
        self.empty = False  # an empty query: answer EmptyQueryResponse, no tag


@dataclass(slots=True)
class CopyOut:
    """COPY … TO STDOUT: answer CopyOutResponse, then each chunk of the result's `more` as CopyData, CopyDone, the tag."""

    binary: bool
    column_count: int


def describe(columns: Sequence[ResultColumn], formats: Sequence[int] = ()) -> bytes:
    """Build a RowDescription. `formats`: none = all text, one for all, or one each."""
    parts = [b""]
    for i, column in enumerate(columns):
        code = 0 if not formats else formats[0] if len(formats) == 1 else formats[i]
        parts.append(column.name.encode() + b"\x00")
        parts.append(
            _DESCRIPTION_FIELD.pack(
                column.table_oid, column.attribute, column.type_oid, column.type_size, column.typmod, code
            )
        )
    body = b"".join(parts)
    return _DESCRIPTION_HEAD.pack(b"T", 6 + len(body), len(columns)) + body


_ROW_HEAD = struct.Struct("!cIH")
_LENGTH = struct.Struct("!i")
_NULL = b"\xff\xff\xff\xff"

Encoder = Callable[[Any], bytes]


def row_encoder(encoders: Sequence[Encoder]) -> Callable[[Sequence[Any]], bytes]:
    """A function from a row's values to its DataRow message, with one value encoder per column."""
    count = len(encoders)
    if count == 1:
        return _single_encoder(encoders[0])
    pack_head, pack_length = _ROW_HEAD.pack, _LENGTH.pack

    def encode(values: Sequence[Any]) -> bytes:
        parts = []
        size = 6
        for encoder, value in zip(encoders, values, strict=True):
            if value is None:
                parts.append(_NULL)
                size += 4
            else:
                text = encoder(value)
                parts.append(pack_length(len(text)))
                parts.append(text)
                size += 4 + len(text)
        return pack_head(b"D", size, count) + b"".join(parts)

    return encode


def _single_encoder(encoder: Encoder) -> Callable[[Sequence[Any]], bytes]:
    pack = struct.Struct("!cIHi").pack
    null = pack(b"D", 10, 1, -1)

    def encode(values: Sequence[Any]) -> bytes:
        value = values[0]
        if value is None:
            return null
        text = encoder(value)
        return pack(b"D", 10 + len(text), 1, len(text)) + text

    return encode



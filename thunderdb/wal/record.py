"""Log records: how one is laid out, encoded and believed.

A record is a header, then `page_count` page changes, then their payloads back to back in the same order, then `extra` (whatever
is left of `length`), which belongs to the record's kind. Payloads and extra are opaque here.

RECORD_HEADER, little-endian:
offset  size  name
0       8     checksum
8       4     length
12      1     kind
13      1     flags
14      2     page_count
16      8     lsn
24      8     prev_checksum
32      8     txn
40      8     prev_lsn
48      8     flushed_lsn
56      8     quorum_lsn

PAGE_CHANGE, little-endian:
offset  size  name
0       8     prev_page_lsn
8       4     page_no
12      4     size
16      1     op

R1. `checksum` is XXH3-64 over everything behind it, so over the record's own position and its predecessor's checksum: bytes
    count only where they were written, behind the record that they were written behind.
R2. `flushed_lsn` is what was known durable when the record was appended; it never decreases along the log. (W8 rests on it.)
R3. `prev_page_lsn` is the page's page_lsn before this change: redo that meets another one has found a lost write.
R4. Numbers of kinds and operations are never used again for something else.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

from xxhash import xxh3_64_intdigest

from thunderdb.base.errors import Corruption, LimitExceeded, SnapshotTooOld
from thunderdb.base.ids import format_lsn

RECORD_HEADER = struct.Struct("<QIBBHQQQQQQ")
PAGE_CHANGE = struct.Struct("<QIIB3x")
HEADER_SIZE = RECORD_HEADER.size
CHANGE_SIZE = PAGE_CHANGE.size
CHECKSUM_SIZE = 8
MAX_CHANGES = 0xFFFF

# What the checksum covers, packed in one call; the second also holds the single page change of the usual record.
_BODY = struct.Struct("<IBBHQQQQQQ")
_BODY_ONE = struct.Struct("<IBBHQQQQQQQIIB3x")
pack_one = _BODY_ONE.pack

Bytes = bytes | bytearray | memoryview
Header = tuple[int, int, int, int, int, int, int, int, int, int, int]
"""(checksum, length, kind, flags, page_count, lsn, prev_checksum, txn, prev_lsn, flushed_lsn, quorum_lsn)"""

Change = tuple[int, int, int, bytes]
"""(page_no, prev_page_lsn, op, payload): what `LogWriter.append` takes."""

H_CHECKSUM, H_LENGTH, H_KIND, H_FLAGS, H_PAGE_COUNT, H_LSN, H_PREV_CHECKSUM, H_TXN, H_PREV_LSN, H_FLUSHED, H_QUORUM = range(11)


class RecordKind(IntEnum):
    ROW = 1
    CLR = 2
    COMMIT = 3
    ABORT = 4
    STRUCT = 5
    IMAGE = 6
    SYSTEM = 7
    CHECKPOINT_BEGIN = 8
    CHECKPOINT_TABLES = 9
    CHECKPOINT_END = 10
    SEAL = 11
    SEGMENT_END = 12
    CLOCK_STEP = 13
    COPY_FLOOR = 14
    NOTE = 15


class LogGone(SnapshotTooOld):
    """The record asked for lies in log that was removed."""


@dataclass(slots=True)
class PageChange:
    page_no: int
    prev_page_lsn: int
    op: int
    payload: bytes


@dataclass(slots=True)
class Record:
    kind: int
    flags: int
    lsn: int
    checksum: int
    prev_checksum: int
    txn: int
    prev_lsn: int
    flushed_lsn: int
    quorum_lsn: int
    changes: tuple[PageChange, ...]
    extra: bytes
    length: int

    @property
    def end_lsn(self) -> int:
        return self.lsn + self.length


def record_length(changes: Sequence[Change], extra: bytes) -> int:
    """Return how many bytes `encode` will make.

    Raises: LimitExceeded for more page changes than the header can count.
    """
    length = HEADER_SIZE + len(extra)
    for change in changes:
        length += CHANGE_SIZE + len(change[3])
    if len(changes) > MAX_CHANGES:
        raise LimitExceeded(f"a log record of {len(changes)} page changes exceeds the limit of {MAX_CHANGES}")
    return length


def encode_body(
    length: int,
    kind: int,
    flags: int,
    lsn: int,
    prev_checksum: int,
    txn: int,
    prev_lsn: int,
    flushed_lsn: int,
    quorum_lsn: int,
    changes: Sequence[Change],
    extra: bytes,
) -> bytes:
    """Return the record without its first field, the checksum, which is `xxh3_64_intdigest` of this."""
    if len(changes) == 1:
        page_no, prev_page_lsn, op, payload = changes[0]
        return (
            _BODY_ONE.pack(
                length, kind, flags, 1, lsn, prev_checksum, txn, prev_lsn, flushed_lsn, quorum_lsn,
                prev_page_lsn, page_no, len(payload), op,
            )
            + payload
            + extra
        )  # fmt: skip
    if not changes:
        return (
            _BODY.pack(length, kind, flags, 0, lsn, prev_checksum, txn, prev_lsn, flushed_lsn, quorum_lsn) + extra
        )
    parts = [_BODY.pack(length, kind, flags, len(changes), lsn, prev_checksum, txn, prev_lsn, flushed_lsn, quorum_lsn)]
    parts += [PAGE_CHANGE.pack(prev_page_lsn, page_no, len(payload), op) for page_no, prev_page_lsn, op, payload in changes]
    parts += [change[3] for change in changes]
    parts.append(extra)
    return b"".join(parts)


def encode(
    kind: int,
    lsn: int,
    prev_checksum: int,
    txn: int = 0,
    prev_lsn: int = 0,
    flushed_lsn: int = 0,
    quorum_lsn: int = 0,
    changes: Sequence[Change] = (),
    extra: bytes = b"",
    flags: int = 0,
) -> bytes:
    """Return a whole record. (The writer calls `encode_body` itself, to keep the checksum.)"""
    length = record_length(changes, extra)
    body = encode_body(length, kind, flags, lsn, prev_checksum, txn, prev_lsn, flushed_lsn, quorum_lsn, changes, extra)
    return xxh3_64_intdigest(body).to_bytes(CHECKSUM_SIZE, "little") + body


def check_record(data: Bytes, offset: int, lsn: int) -> Header:
    """Return the header of the valid record at `offset`, which must be the one at position `lsn`.

    Raises: Corruption, saying what is wrong.
    """
    available = len(data) - offset
    if available < HEADER_SIZE:
        raise Corruption(f"log record at {format_lsn(lsn)}: only {max(0, available)} bytes are there")
    header: Header = RECORD_HEADER.unpack_from(data, offset)
    length = header[H_LENGTH]
    if header[H_LSN] != lsn:
        raise Corruption(f"log record at {format_lsn(lsn)}: found bytes of {format_lsn(header[H_LSN])}")
    if not HEADER_SIZE <= length <= available:
        raise Corruption(f"log record at {format_lsn(lsn)}: impossible length {length}")
    if xxh3_64_intdigest(memoryview(data)[offset + CHECKSUM_SIZE : offset + length]) != header[H_CHECKSUM]:
        raise Corruption(f"log record at {format_lsn(lsn)}: checksum does not match")
    return header


def decode_record(data: Bytes, offset: int, lsn: int | None = None) -> Record:
    """Build the record at `offset`; with `lsn` it is checked first, without it was checked by a scan.

    Raises: Corruption.
    """
    header: Header = RECORD_HEADER.unpack_from(data, offset) if lsn is None else check_record(data, offset, lsn)
    checksum, length, kind, flags, page_count, own_lsn, prev_checksum, txn, prev_lsn, flushed_lsn, quorum_lsn = header
    at = offset + HEADER_SIZE + page_count * CHANGE_SIZE
    end = offset + length
    changes = []
    for head in range(offset + HEADER_SIZE, at, CHANGE_SIZE):
        prev_page_lsn, page_no, size, op = PAGE_CHANGE.unpack_from(data, head)
        changes.append(PageChange(page_no, prev_page_lsn, op, bytes(data[at : at + size])))
        at += size
    if at > end:
        raise Corruption(f"log record at {format_lsn(own_lsn)}: page changes are longer than the record")
    return Record(
        kind, flags, own_lsn, checksum, prev_checksum, txn, prev_lsn, flushed_lsn, quorum_lsn,
        tuple(changes), bytes(data[at:end]), length,
    )  # fmt: skip


def iter_changes(data: Bytes, offset: int, page_count: int) -> Iterator[tuple[int, int, int, int, int]]:
    """Yield (page_no, prev_page_lsn, op, payload offset, payload size) for a checked record at `offset`, copying nothing."""
    at = offset + HEADER_SIZE + page_count * CHANGE_SIZE
    for head in range(offset + HEADER_SIZE, at, CHANGE_SIZE):
        prev_page_lsn, page_no, size, op = PAGE_CHANGE.unpack_from(data, head)
        yield page_no, prev_page_lsn, op, at, size
        at += size


def extra_of(data: Bytes, offset: int) -> bytes:
    """Return the `extra` bytes of a checked record at `offset`."""
    _, length, _, _, page_count, *_ = RECORD_HEADER.unpack_from(data, offset)
    at = offset + HEADER_SIZE + page_count * CHANGE_SIZE
    for head in range(offset + HEADER_SIZE, at, CHANGE_SIZE):
        at += PAGE_CHANGE.unpack_from(data, head)[2]
    return bytes(data[at : offset + length])

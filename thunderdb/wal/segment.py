"""Log segments: names, header, and the scan that decides byte by byte how far a segment can be believed.

A segment file is a 512-byte sector with the header, then records without gaps. LSNs count record bytes only:
file offset = SEGMENT_HEADER_SIZE + lsn - start_lsn. Names are 24 hex digits: timeline (8), number (16), from 1.

SEGMENT_HEADER, little-endian:
offset  size  name
0       8     magic
8       4     version
12      4     timeline
16      8     number
24      8     start_lsn
32      8     system_id
40      8     prev_checksum
48      4     segment_size
52      4     reserved
56      8     checksum

G1. A record never straddles two segments. A closed segment ends with a SEGMENT_END record and is cut to its exact length.
G2. `prev_checksum` is the checksum of the last record of the segment before, so the chain of R1 runs through all segments.
G3. A segment gets its name only after its header is durable, and only after everything in the segment before it is durable.
    So a name with a bad header is damage, and a broken segment with a successor is a hole, not a tail.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from xxhash import xxh3_64_intdigest

from thunderdb.base.errors import Corruption
from thunderdb.base.ids import format_lsn
from thunderdb.wal.record import (
    CHECKSUM_SIZE,
    H_CHECKSUM,
    H_FLUSHED,
    H_KIND,
    H_LENGTH,
    H_LSN,
    H_PREV_CHECKSUM,
    HEADER_SIZE,
    RECORD_HEADER,
    Header,
    RecordKind,
)

SEGMENT_HEADER = struct.Struct("<8sIIQQQQIIQ")
SEGMENT_HEADER_SIZE = 512
SEGMENT_MAGIC = b"THUNDWAL"
SEGMENT_VERSION = 1
SEGMENT_END_SIZE = HEADER_SIZE

# The header up to `txn`, then the first page change: as far as `Head` goes.
_HEAD = struct.Struct("<QIBBHQQQ24xQIIB3x")
unpack_head = _HEAD.unpack_from
Head = tuple[int, int, int, int, int, int, int, int, int, int, int, int]
"""(checksum, length, kind, flags, page_count, lsn, prev_checksum, txn, prev_page_lsn, page_no, size, op); the last four are of
the record's first page change, and mean nothing where page_count is 0."""

_HEADER_BODY = SEGMENT_HEADER.size - CHECKSUM_SIZE
_NAME = re.compile(r"[0-9A-F]{24}")
_SPARE = re.compile(r"spare\.([0-9]+)\.tmp")
_LSN_OFFSET = 16  # of the field `lsn` in RECORD_HEADER
_ZEROS = bytes(4096)
_SEGMENT_END = int(RecordKind.SEGMENT_END)


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    timeline: int
    number: int
    start_lsn: int
    system_id: int
    prev_checksum: int
    segment_size: int


def segment_name(timeline: int, number: int) -> str:
    return f"{timeline:08X}{number:016X}"


def parse_segment_name(name: str) -> tuple[int, int] | None:
    """Return (timeline, number), or None if this is no segment's name."""
    if _NAME.fullmatch(name) is None:
        return None
    return int(name[:8], 16), int(name[8:], 16)


def spare_name(index: int) -> str:
    return f"spare.{index}.tmp"


def parse_spare_name(name: str) -> int | None:
    match = _SPARE.fullmatch(name)
    return None if match is None else int(match[1])


def max_record_size(segment_size: int) -> int:
    """The longest record that fits in an empty segment, with room for the record that ends it."""
    return segment_size - SEGMENT_HEADER_SIZE - SEGMENT_END_SIZE


def encode_segment_header(header: SegmentHeader) -> bytes:
    """Return the whole first sector of a segment."""
    fields = (header.timeline, header.number, header.start_lsn, header.system_id, header.prev_checksum, header.segment_size, 0)
    raw = SEGMENT_HEADER.pack(SEGMENT_MAGIC, SEGMENT_VERSION, *fields, 0)[:_HEADER_BODY]
    raw += xxh3_64_intdigest(raw).to_bytes(CHECKSUM_SIZE, "little")
    return raw.ljust(SEGMENT_HEADER_SIZE, b"\0")


def decode_segment_header(data: bytes, timeline: int, number: int, system_id: int) -> SegmentHeader:
    """Check and decode the first sector of the segment of that name.

    Raises: Corruption, saying what is wrong.
    """
    name = segment_name(timeline, number)
    if len(data) < SEGMENT_HEADER.size:
        raise Corruption(f"log segment {name}: no header, the file has {len(data)} bytes")
    fields = SEGMENT_HEADER.unpack_from(data)
    magic, version, own_timeline, own_number, start_lsn, own_system, prev_checksum, size, _, checksum = fields
    if magic != SEGMENT_MAGIC:
        raise Corruption(f"log segment {name}: this is not a log segment")
    if xxh3_64_intdigest(data[:_HEADER_BODY]) != checksum:
        raise Corruption(f"log segment {name}: the header's checksum does not match")
    if version != SEGMENT_VERSION:
        raise Corruption(f"log segment {name}: format version {version}, this program knows {SEGMENT_VERSION}")
    if (own_timeline, own_number) != (timeline, number):
        raise Corruption(f"log segment {name}: the header says it is {segment_name(own_timeline, own_number)}")
    if own_system != system_id:
        raise Corruption(f"log segment {name}: belongs to another database (system id {own_system:016x}, not {system_id:016x})")
    return SegmentHeader(timeline, number, start_lsn, own_system, prev_checksum, size)


class SegmentScan:
    """The records of one segment, checked in order (R1), until the first byte that cannot be believed.

    `data` is the file's bytes; the record at `lsn` begins at `data[lsn + bias]`. After the last `batch`:
    `lsn` is where belief ends, `records` how many were believed, `closed` whether a SEGMENT_END record ends it, `finished`
    whether there is nothing more.
    """

    __slots__ = (
        "header", "data", "bias", "lsn", "prev_checksum", "last_lsn", "last_kind", "last_flushed_lsn", "closed", "finished",
        "records", "_end",
    )  # fmt: skip

    def __init__(
        self, header: SegmentHeader, data: bytes, from_lsn: int | None = None, until_lsn: int | None = None,
        prev_checksum: int | None = None,
    ) -> None:  # fmt: skip
        self.header = header
        self.data = data
        self.bias = SEGMENT_HEADER_SIZE - header.start_lsn
        self.lsn = header.start_lsn if from_lsn is None else from_lsn
        self._end = len(data) if until_lsn is None else min(len(data), until_lsn + self.bias)
        self.closed = False
        self.finished = False
        self.records = 0
        self.last_lsn = 0
        self.last_kind = 0
        self.last_flushed_lsn = 0
        if prev_checksum is None:
            prev_checksum = header.prev_checksum
            at = self.lsn + self.bias
            # In the middle of a segment the predecessor is not known: the first record is believed by position and checksum.
            if self.lsn != header.start_lsn and at + HEADER_SIZE <= len(data):
                prev_checksum = RECORD_HEADER.unpack_from(data, at)[H_PREV_CHECKSUM]
        self.prev_checksum = prev_checksum

    def batch(self, limit: int = 4096) -> list[Header]:
        """Return the headers of up to `limit` further valid records; an empty list means that there are no more."""
        return self._believe(RECORD_HEADER, limit)

    def heads(self, limit: int = 512) -> list[Head]:
        """Like `batch`, with what a pass over a long log needs of each record in one tuple: see `Head`."""
        return self._believe(_HEAD, limit)

    def _believe(self, layout: struct.Struct, limit: int) -> list[Any]:
        """Check up to `limit` further records; unpack each by a layout that begins like the header."""
        found: list[Any] = []
        if self.finished:
            return found
        data, end, size = self.data, self._end, layout.size
        view = memoryview(data)
        unpack, digest, add = layout.unpack_from, xxh3_64_intdigest, found.append
        lsn, prev_checksum = self.lsn, self.prev_checksum
        offset = lsn + self.bias
        last_offset = min(end, len(data)) - size
        for _ in range(limit):
            if offset <= last_offset:
                header = unpack(data, offset)
            elif offset + HEADER_SIZE <= end:
                header = unpack(data[offset : offset + size].ljust(size, b"\0"))
            else:
                self.finished = True
                break
            stop = offset + header[1]
            if header[5] != lsn or header[6] != prev_checksum or stop > end or stop - offset < HEADER_SIZE:
                self.finished = True
                break
            if digest(view[offset + 8 : stop]) != header[0]:
                self.finished = True
                break
            add(header)
            prev_checksum = header[0]
            lsn += header[1]
            offset = stop
            if header[2] == _SEGMENT_END:
                self.closed = self.finished = True
                break
        if found:
            self.records += len(found)
            self.last_lsn, self.last_kind = found[-1][H_LSN], found[-1][H_KIND]
            self.last_flushed_lsn = RECORD_HEADER.unpack_from(data, self.last_lsn + self.bias)[H_FLUSHED]
        self.lsn, self.prev_checksum = lsn, prev_checksum
        return found

    def __iter__(self) -> Iterator[Header]:
        while headers := self.batch():
            yield from headers

    def drain(self) -> None:
        """Check what is left, without keeping it."""
        while self.batch():
            pass

    def why_it_ends(self) -> str:
        """Say what is wrong with the bytes at `lsn`."""
        offset = self.lsn + self.bias
        rest = self.data[offset : offset + HEADER_SIZE]
        if self.closed:
            return "end of the segment"
        if len(rest) < HEADER_SIZE:
            return f"the file ends after {len(self.data)} bytes"
        if not any(rest):
            return "zeros"
        header: Header = RECORD_HEADER.unpack(rest)
        if header[H_LSN] != self.lsn:
            return f"bytes of another place (they say {format_lsn(header[H_LSN])})"
        if header[H_PREV_CHECKSUM] != self.prev_checksum:
            return "a record that does not continue the one before it"
        length = header[H_LENGTH]
        if not HEADER_SIZE <= length <= len(self.data) - offset:
            return f"a record with the impossible length {length}"
        return "a record whose checksum does not match"


def find_behind(data: bytes, start_lsn: int, break_lsn: int) -> Header | None:
    """Return a valid record behind the break that was written when the log beyond the break was already durable (W8).

    Each byte position is a candidate, since after damage nothing is known about where records begin. A record tells its own
    position, whose upper six bytes are the same for 64 KB, so a plain search finds the few places worth a closer look.
    """
    bias = SEGMENT_HEADER_SIZE - start_lsn
    used = _used(data)  # a header is not all zeros, so no record begins behind this
    last_lsn = min(used, len(data) - HEADER_SIZE + 1) - bias  # exclusive
    lsn = break_lsn
    while lsn < last_lsn:
        block = lsn >> 16
        stop = min((block + 1) << 16, last_lsn)
        pattern = block.to_bytes(6, "little")
        shift = bias + _LSN_OFFSET + 2
        at = data.find(pattern, lsn + shift, stop + shift + 5)
        while at >= 0:
            header = _valid_at(data, at - shift + bias, at - shift)
            if header is not None and header[H_FLUSHED] > break_lsn:
                return header
            at = data.find(pattern, at + 1, stop + shift + 5)
        lsn = stop
    return None


def _used(data: bytes) -> int:
    """The length without the zeros at the end, of which there may be many megabytes."""
    used = len(data)
    while used >= len(_ZEROS) and data[used - len(_ZEROS) : used] == _ZEROS:
        used -= len(_ZEROS)
    start = max(0, used - len(_ZEROS))
    return start + len(data[start:used].rstrip(b"\0"))


def _valid_at(data: bytes, offset: int, lsn: int) -> Header | None:
    header: Header = RECORD_HEADER.unpack_from(data, offset)
    if header[H_LSN] != lsn or not HEADER_SIZE <= header[H_LENGTH] <= len(data) - offset:
        return None
    body = memoryview(data)[offset + CHECKSUM_SIZE : offset + header[H_LENGTH]]
    return header if xxh3_64_intdigest(body) == header[H_CHECKSUM] else None

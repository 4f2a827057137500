"""Segments: names, headers, the scan, and the search for what lies behind a break."""

from __future__ import annotations

import pytest
from xxhash import xxh3_64_intdigest

from thunderdb.base.errors import Corruption
from thunderdb.wal.record import H_LSN, RecordKind, encode
from thunderdb.wal.segment import (
    SEGMENT_HEADER_SIZE,
    SegmentHeader,
    SegmentScan,
    decode_segment_header,
    encode_segment_header,
    find_behind,
    parse_segment_name,
    parse_spare_name,
    segment_name,
    spare_name,
)


def segment(start_lsn: int, sizes: list[int], flushed: int = 0, prev: int = 9) -> tuple[SegmentHeader, bytes, list[int]]:
    header = SegmentHeader(1, 4, start_lsn, 5, prev, 1 << 20)
    data, lsn, lsns = encode_segment_header(header), start_lsn, []
    for size in sizes:
        raw = encode(RecordKind.ROW, lsn, prev, flushed_lsn=flushed, extra=bytes([size % 251]) * size)
        prev = int.from_bytes(raw[:8], "little")
        lsns.append(lsn)
        lsn += len(raw)
        data += raw
    return header, data, lsns


def test_names() -> None:
    assert segment_name(1, 0x42) == "000000010000000000000042"
    assert parse_segment_name("000000010000000000000042") == (1, 0x42)
    for other in ("000000010000000000000042.aside", "00000001000000000000004g", "spare.1.tmp", "00000002.history"):
        assert parse_segment_name(other) is None
    assert parse_spare_name(spare_name(12)) == 12
    assert parse_spare_name("spare.x.tmp") is None


def test_header_round_trip_and_every_flip() -> None:
    header = SegmentHeader(2, 7, 0x123456789, 0xABCDEF, 2**64 - 1, 1 << 24)
    raw = encode_segment_header(header)
    assert len(raw) == SEGMENT_HEADER_SIZE
    assert decode_segment_header(raw, 2, 7, 0xABCDEF) == header
    for bit in range(64 * 8):
        damaged = bytearray(raw)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Corruption, match="000000020000000000000007"):
            decode_segment_header(bytes(damaged), 2, 7, 0xABCDEF)


@pytest.mark.parametrize(
    ("timeline", "number", "system", "word"), [(3, 7, 1, "says it is"), (2, 8, 1, "says it is"), (2, 7, 2, "another database")]
)
def test_header_of_something_else(timeline: int, number: int, system: int, word: str) -> None:
    raw = encode_segment_header(SegmentHeader(2, 7, 0x1000, 1, 0, 1 << 24))
    with pytest.raises(Corruption, match=word):
        decode_segment_header(raw, timeline, number, system)


def test_header_of_a_later_version() -> None:
    raw = bytearray(encode_segment_header(SegmentHeader(2, 7, 0x1000, 1, 0, 1 << 24))[:56])
    raw[8] = 9
    raw += xxh3_64_intdigest(bytes(raw)).to_bytes(8, "little")
    with pytest.raises(Corruption, match="format version 9"):
        decode_segment_header(bytes(raw), 2, 7, 1)


def test_scan_from_the_middle_believes_no_ghost() -> None:
    """There the predecessor is unknown, and a recycled file has valid records of other LSNs at the same offsets."""
    header, _, lsns = segment(0x9000, [10, 10])
    _, old, _ = segment(0x1000, [10, 10])
    ghost = SegmentScan(header, old, from_lsn=lsns[1])
    assert ghost.batch() == [] and "another place" in ghost.why_it_ends()
    assert [h[H_LSN] for h in SegmentScan(header, segment(0x9000, [10, 10])[1], from_lsn=lsns[1])] == lsns[1:]


def test_short_header() -> None:
    with pytest.raises(Corruption, match="no header"):
        decode_segment_header(b"", 1, 1, 1)


def test_scan_in_batches_from_anywhere_up_to_anywhere() -> None:
    header, data, lsns = segment(0x1000, [10, 0, 500, 3, 77])
    scan = SegmentScan(header, data)
    assert [h[H_LSN] for h in scan.batch(2)] == lsns[:2]
    assert [h[H_LSN] for h in scan.batch(2)] == lsns[2:4]
    assert [h[H_LSN] for h in scan] == lsns[4:]
    assert scan.lsn + scan.bias == len(data) and scan.batch() == [] and not scan.closed
    for first in range(len(lsns)):
        for last in range(first, len(lsns)):
            found = [h[H_LSN] for h in SegmentScan(header, data, lsns[first], lsns[last])]
            assert found == lsns[first:last]


def test_scan_stops_at_the_record_that_ends_the_segment() -> None:
    header, data, lsns = segment(0x1000, [10])
    scan = SegmentScan(header, data)
    scan.drain()
    end = encode(RecordKind.SEGMENT_END, scan.lsn, scan.prev_checksum)
    behind = encode(RecordKind.ROW, scan.lsn + 64, int.from_bytes(end[:8], "little"))
    scan = SegmentScan(header, data + end + behind)
    scan.drain()
    assert scan.closed and scan.lsn + scan.bias == len(data) + 64 and scan.last_kind == RecordKind.SEGMENT_END


def test_scan_wants_the_predecessor() -> None:
    header, data, lsns = segment(0x1000, [10, 10], prev=9)
    _, other, _ = segment(0x1000, [10, 10], prev=8)
    size = SEGMENT_HEADER_SIZE + 74
    mixed = SegmentScan(header, data[:size] + other[size:])
    assert [h[H_LSN] for h in mixed] == lsns[:1]
    assert "does not continue" in mixed.why_it_ends()


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda d: d[:600], "file ends"),
        (lambda d: d[:586] + bytes(200), "zeros"),
        (lambda d: d[:586] + d[512:586] + bytes(100), "another place"),
        (lambda d: d[:-1] + b"?", "checksum"),
        (lambda d: d[:-1], "impossible length"),
    ],
)
def test_why_it_ends(damage: object, word: str) -> None:
    header, data, lsns = segment(0x1000, [10, 80])
    scan = SegmentScan(header, damage(data))  # type: ignore[operator]
    assert [h[H_LSN] for h in scan] == lsns[:1]
    assert word in scan.why_it_ends()


@pytest.mark.parametrize("start", [0x1000, 0xFF80, 0xFFFFFF00, 0x12345678, (1 << 40) - 300])
def test_find_behind_sees_a_record_at_every_byte_position(start: int) -> None:
    """Also where the 64 KB blocks of its search meet."""
    for shift in range(1, 700):
        lsn = start + shift
        record = encode(RecordKind.ROW, lsn, 1, flushed_lsn=start + 1)
        data = bytes(SEGMENT_HEADER_SIZE + shift) + record
        found = find_behind(data, start, start)
        assert found is not None and found[H_LSN] == lsn
        assert find_behind(data + bytes(9), start, start + 1) is None  # it says no more than the break's own place
        assert find_behind(data[:-1], start, start) is None
        assert find_behind(data, start + 1, start) is None  # elsewhere it is a ghost


def test_find_behind_looks_past_records_that_prove_nothing() -> None:
    header, data, lsns = segment(0x1000, [50] * 20, flushed=0x1000)
    assert find_behind(data, 0x1000, 0x1000) is None
    data += encode(RecordKind.SEAL, 0x1000 + len(data) - SEGMENT_HEADER_SIZE, 0, flushed_lsn=0x1001)
    found = find_behind(data, 0x1000, 0x1000)
    assert found is not None and found[2] == RecordKind.SEAL

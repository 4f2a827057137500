"""Records: what goes in comes out, and nothing that was touched is believed."""

from __future__ import annotations

import pytest

from thunderdb.base.errors import Corruption, LimitExceeded
from thunderdb.wal.record import (
    HEADER_SIZE,
    MAX_CHANGES,
    RecordKind,
    check_record,
    decode_record,
    encode,
    extra_of,
    iter_changes,
    record_length,
)

CHANGES = [
    (),
    ((3, 0x2000, 1, b"payload"),),
    ((3, 0x2000, 1, b""),),
    ((1, 5, 2, b"abc"), (0xFFFFFFFF, 2**64 - 1, 255, b""), (9, 0, 6, b"x" * 300)),
]


@pytest.mark.parametrize("changes", CHANGES)
@pytest.mark.parametrize("extra", [b"", b"the rest"])
def test_round_trip(changes: tuple[tuple[int, int, int, bytes], ...], extra: bytes) -> None:
    raw = encode(RecordKind.STRUCT, 0x1234, 77, 5, 0x1200, 0x1100, 0x1000, changes, extra, flags=3)
    assert len(raw) == record_length(changes, extra)
    record = decode_record(b"before" + raw + b"behind", 6, 0x1234)
    assert (record.kind, record.flags, record.lsn, record.prev_checksum, record.txn) == (RecordKind.STRUCT, 3, 0x1234, 77, 5)
    assert (record.prev_lsn, record.flushed_lsn, record.quorum_lsn) == (0x1200, 0x1100, 0x1000)
    assert tuple((c.page_no, c.prev_page_lsn, c.op, c.payload) for c in record.changes) == changes
    assert record.extra == extra and record.end_lsn == 0x1234 + len(raw)
    assert extra_of(raw, 0) == extra
    light = [(page, lsn, op, raw[at : at + size]) for page, lsn, op, at, size in iter_changes(raw, 0, len(changes))]
    assert tuple(light) == changes


def test_every_flipped_bit_is_seen() -> None:
    raw = encode(RecordKind.ROW, 0x1000, 0, 1, changes=CHANGES[3], extra=b"e")
    check_record(raw, 0, 0x1000)
    for bit in range(len(raw) * 8):
        damaged = bytearray(raw)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Corruption):
            check_record(bytes(damaged), 0, 0x1000)


def test_every_cut_is_seen() -> None:
    raw = encode(RecordKind.ROW, 0x1000, 0, 1, changes=CHANGES[1])
    for size in range(len(raw)):
        with pytest.raises(Corruption):
            check_record(raw[:size], 0, 0x1000)


def test_a_record_counts_only_at_its_own_place() -> None:
    raw = encode(RecordKind.ROW, 0x1000, 0)
    with pytest.raises(Corruption, match="0/1000"):
        check_record(raw, 0, 0x1001)


def test_changes_that_claim_more_than_the_record_has() -> None:
    raw = bytearray(encode(RecordKind.ROW, 0x1000, 0, changes=CHANGES[1]))
    raw[HEADER_SIZE + 12] = 200  # the payload's size; unchecked decode must still not read beyond the record
    with pytest.raises(Corruption, match="longer than the record"):
        decode_record(bytes(raw) + bytes(500), 0)


def test_too_many_changes() -> None:
    with pytest.raises(LimitExceeded):
        record_length(((1, 0, 1, b""),) * (MAX_CHANGES + 1), b"")


def test_golden_bytes() -> None:
    """The format on disk: a change here is a change of version."""
    raw = encode(RecordKind.ROW, 0x1000, 2, 3, 4, 5, 6, ((8, 7, 1, b"xy"),), b"z", flags=1)
    assert raw[8:].hex() == (
        "57000000" "01" "01" "0100" "0010000000000000" "0200000000000000" "0300000000000000" "0400000000000000"
        "0500000000000000" "0600000000000000" "0700000000000000" "08000000" "02000000" "01" "000000" "7879" "7a"
    )  # fmt: skip
    assert raw[:8].hex() == "a655f5a338236316"

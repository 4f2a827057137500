"""What the plan of a restore reads off records that it has checked already is what a scan of them says, wherever one looks."""

from __future__ import annotations

from tests.unit.engine.world import WAL, EngineWorld, update
from thunderdb.backup.logline import Found, Piece, checksum_at
from thunderdb.recovery.target import Transactions, marks_of
from thunderdb.wal.record import H_LSN
from thunderdb.wal.segment import SEGMENT_HEADER_SIZE, SegmentScan, decode_segment_header, segment_name


def a_segment() -> Found:
    """With commits, rollbacks, and transactions that are open at its end."""
    world = EngineWorld()
    db = world.start()
    table = world.table()
    world.insert(table, *([number, "x" * 50] for number in range(40)))
    for number in range(6):
        txn = db.begin()
        world.run(update(db, txn, table, [number, f"transaction {number}"]))
        if number % 3 == 0:
            world.run(txn.commit())
        elif number % 3 == 1:
            world.run(txn.rollback())
    world.run(db.log.flush_all())
    data = bytes(world.disk.files[f"{WAL}/{segment_name(1, 1)}"])
    header = decode_segment_header(data, 1, 1, db.control.state.system_id)
    scan, transactions = SegmentScan(header, data), Transactions()
    marks = list(marks_of(scan, None, transactions))
    assert len(transactions.open) == 2 and scan.records > 60
    piece = Piece(None, 1, 1, header, scan.lsn, scan.prev_checksum, scan.closed)  # type: ignore[arg-type]
    return Found(piece, marks, data, scan.records, transactions)


def test_who_is_open_at_any_record_needs_no_second_check() -> None:
    found = a_segment()
    header, data = found.piece.header, found.data
    for lsn in [record[H_LSN] for record in SegmentScan(header, data)] + [found.piece.end_lsn]:
        scanned, taken_in = Transactions({1007}), Transactions({1007})
        for _mark in marks_of(SegmentScan(header, data, until_lsn=lsn), None, scanned):
            pass
        taken_in.take_in(data, SEGMENT_HEADER_SIZE, SEGMENT_HEADER_SIZE + lsn - header.start_lsn)
        assert (taken_in.begun, taken_in.ended) == (scanned.begun, scanned.ended) and 1007 in taken_in.open


def test_the_checksum_of_the_last_record_below_any_place() -> None:
    found = a_segment()
    piece = found.piece
    for lsn in range(piece.header.start_lsn + 1, piece.end_lsn + 1):
        scan = SegmentScan(piece.header, found.data, until_lsn=lsn)
        if lsn % 97 == 0 or checksum_at(found, lsn):
            scan.drain()
            assert checksum_at(found, lsn) == (scan.prev_checksum if scan.lsn == lsn else 0)
    assert checksum_at(found, piece.end_lsn) == piece.checksum != 0
    cut_short = Found(piece, [], found.data[: SEGMENT_HEADER_SIZE + 105], 0, Transactions())
    assert checksum_at(cut_short, piece.header.start_lsn + 100) == 0

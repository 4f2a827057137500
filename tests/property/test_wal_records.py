"""Whatever is appended is what a scan and a read find, over any cut into batches, segments and lives."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.wal.helpers import SEGMENT_SIZE, Log
from thunderdb.base.ids import FIRST_LSN
from thunderdb.wal.record import Record, RecordKind, decode_record
from thunderdb.wal.segment import SEGMENT_HEADER_SIZE, find_behind

KINDS = [kind for kind in RecordKind if kind not in (RecordKind.SEAL, RecordKind.SEGMENT_END)]
change = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), st.integers(0, 255), st.binary(max_size=300))
record = st.tuples(
    st.sampled_from(KINDS), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.lists(change, max_size=4).map(tuple),
    st.binary(max_size=200), st.integers(0, 255),
)  # fmt: skip
step = st.one_of(record, st.sampled_from(["flush", "soon", "switch", "life", "quiet"]))


def fields(found: Record) -> tuple[object, ...]:
    changes = tuple((c.page_no, c.prev_page_lsn, c.op, c.payload) for c in found.changes)
    return found.kind, found.txn, found.prev_lsn, changes, found.extra, found.flags


@given(st.lists(step, min_size=1, max_size=60))
def test_what_is_appended_is_found(steps: list[object]) -> None:
    model: dict[int, tuple[object, ...]] = {}
    log = Log()
    log.run(log.create())
    for action in steps:
        if isinstance(action, tuple):
            model[log.writer.append(*action)] = action
        elif action == "flush":
            log.run(log.writer.flush_all())
        elif action == "soon":
            log.writer.flush_soon()
        elif action == "switch":
            log.writer.switch_segment()
        elif action == "quiet":
            log.run(log.tasks.sleep(10**9))
        else:
            log.run(log.writer.close())
            log = Log(log.disk, newest=log.newest)
            log.run(log.recover())
    for lsn, action in model.items():
        found = log.run(log.writer.read_record(lsn))
        assert fields(found) == action and found.flushed_lsn <= lsn
    log.run(log.writer.close())

    async def scan() -> dict[int, tuple[object, ...]]:
        result, expected_lsn, stamp = {}, int(FIRST_LSN), 0
        async for segment in (await log.reader()).scan(newest_segment=log.newest):
            for header in segment:
                found = decode_record(segment.data, header[5] + segment.bias, header[5])
                assert found.lsn == expected_lsn and stamp <= found.flushed_lsn <= found.lsn
                expected_lsn, stamp = found.end_lsn, found.flushed_lsn
                if found.kind in KINDS:
                    result[found.lsn] = fields(found)
            assert len(segment.data) <= SEGMENT_SIZE
        return result

    assert log.run(scan()) == model


@given(st.binary(max_size=3000), st.integers(0, 2**40))
def test_no_record_is_seen_in_noise(noise: bytes, start_lsn: int) -> None:
    assert find_behind(bytes(SEGMENT_HEADER_SIZE) + noise, start_lsn, start_lsn) is None

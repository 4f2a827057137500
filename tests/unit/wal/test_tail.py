"""The log's tail: cut, torn, reordered, haunted. What was acknowledged stays, what was not goes whole, damage is named."""

from __future__ import annotations

import itertools

import pytest

from tests.unit.wal.crash_disk import SECTOR
from tests.unit.wal.helpers import SEGMENT_SIZE, Log, bare_disk, build, find_end
from thunderdb.base.errors import LogHole
from thunderdb.wal.reader import EndKind, LogEnd
from thunderdb.wal.record import RecordKind, encode
from thunderdb.wal.segment import SEGMENT_HEADER_SIZE, segment_name

FIRST = segment_name(1, 1)
SECOND = segment_name(1, 2)
BIAS = SEGMENT_HEADER_SIZE - 0x1000


async def three_batches(log: Log) -> None:
    """Two batches that are durable and known to be so, and one that is not known to be."""
    for batch in range(3):
        for index in range(4):
            log.add(bytes([65 + batch]) * (30 + 70 * index))
        await log.writer.flush_all()


LOG, FILES = build(three_batches, seal_after_ns=0)
DATA = FILES[FIRST]
END = LOG.writer.next_lsn
LSNS = [*LOG.appended]
LAST_BATCH = LSNS[8]  # the records from here on are in doubt after a crash


def end_of(data: bytes, newest: int = 1) -> LogEnd:
    return find_end({FIRST: data}, newest)


def test_the_whole_log() -> None:
    end = end_of(DATA)
    assert (end.kind, end.lsn, end.detail) == (EndKind.CLEAN_TAIL, END, "zeros")
    assert end.last_checksum == LOG.writer.last_checksum
    assert end.last_flushed_lsn == LAST_BATCH


def ends_before(lsn: int) -> int:
    """The end of the last record that lies wholly before `lsn`."""
    return max([0x1000] + [end for end in BOUNDS if end <= lsn])


def record_bounds() -> list[int]:
    async def scan() -> list[int]:
        reader = await LOG.reader()
        return [h[5] + h[1] async for segment in reader.scan() for h in segment]

    return LOG.run(scan())


BOUNDS = record_bounds()


def test_cut_at_every_byte() -> None:
    """The file ends there: everything before is the log, whatever it was."""
    for size in range(SEGMENT_HEADER_SIZE, END + BIAS + 1):
        end = end_of(DATA[:size])
        assert end.kind is EndKind.CLEAN_TAIL
        assert end.lsn == ends_before(size - BIAS)


def test_zeros_from_every_byte() -> None:
    for offset in range(SEGMENT_HEADER_SIZE, END + BIAS + 1):
        end = end_of(DATA[:offset].ljust(len(DATA), b"\0"))
        whole = offset - BIAS
        if not any(DATA[offset : end_of_record(whole) + BIAS]):
            whole = end_of_record(whole)  # the bytes taken away were zeros: the record is whole
        assert (end.kind, end.lsn) == (EndKind.CLEAN_TAIL, ends_before(whole))


def end_of_record(lsn: int) -> int:
    return min([bound for bound in BOUNDS if bound >= lsn], default=lsn)


def test_garbage_from_every_byte_of_the_last_batch() -> None:
    for offset in range(LAST_BATCH + BIAS, END + BIAS):
        garbage = bytes((7 * i + 13) % 251 ^ 0x55 for i in range(len(DATA) - offset))
        end = end_of(DATA[:offset] + garbage)
        assert (end.kind, end.lsn) == (EndKind.CLEAN_TAIL, ends_before(offset - BIAS))


@pytest.mark.parametrize("background", ["zeros", "ghosts"])
def test_every_subset_of_the_last_batchs_sectors(background: str) -> None:
    """Sectors of the unsynced batch land in any order: the log ends before the first missing one; never a hole."""
    before = bytearray(DATA[: LAST_BATCH + BIAS].ljust(len(DATA), b"\0"))
    if background == "ghosts":
        ghosts = DATA[SEGMENT_HEADER_SIZE : LAST_BATCH + BIAS]
        before[LAST_BATCH + BIAS :] = (ghosts * 9)[: len(DATA) - LAST_BATCH - BIAS]
    first, last = (LAST_BATCH + BIAS) // SECTOR, (END + BIAS - 1) // SECTOR
    sectors = range(first, last + 1)
    assert len(sectors) >= 3
    for count in range(len(sectors) + 1):
        for landed in itertools.combinations(sectors, count):
            data = before[:]
            for sector in landed:
                data[sector * SECTOR : (sector + 1) * SECTOR] = DATA[sector * SECTOR : (sector + 1) * SECTOR]
            missing = [sector for sector in sectors if sector not in landed]
            end = end_of(bytes(data))
            assert end.kind is EndKind.CLEAN_TAIL, (landed, end.detail)
            whole = END if not missing else ends_before(max(LAST_BATCH, missing[0] * SECTOR - BIAS))
            assert end.lsn == whole, landed


def test_every_flipped_byte_of_a_durable_batch_is_a_hole() -> None:
    """The batch behind it says that everything before itself was durable (F3, W8)."""
    for offset in range(SEGMENT_HEADER_SIZE, LAST_BATCH + BIAS):
        data = bytearray(DATA)
        data[offset] ^= 0x10
        end = end_of(bytes(data))
        assert end.kind is EndKind.HOLE, offset
        assert end.lsn == ends_before(offset - BIAS)
        with pytest.raises(LogHole, match=f"damaged at 0/{end.lsn:X} in segment {FIRST}"):
            end.check()


def test_every_lost_sector_of_a_durable_batch_is_a_hole() -> None:
    for sector in range(1, (LAST_BATCH + BIAS) // SECTOR):
        data = bytearray(DATA)
        data[sector * SECTOR : (sector + 1) * SECTOR] = bytes(SECTOR)
        assert end_of(bytes(data)).kind is EndKind.HOLE, sector


def test_every_flipped_byte_of_the_last_batch_is_its_tail_until_it_is_sealed() -> None:
    for offset in range(LAST_BATCH + BIAS, END + BIAS):
        data = bytearray(DATA)
        data[offset] ^= 1
        end = end_of(bytes(data))
        assert (end.kind, end.lsn) == (EndKind.CLEAN_TAIL, ends_before(offset - BIAS))

    async def and_quiet(log: Log) -> None:
        await three_batches(log)
        await log.tasks.sleep(10**9)

    log, files = build(and_quiet)
    assert log.writer.last_lsn == END  # the seal
    for offset in range(SEGMENT_HEADER_SIZE, END + BIAS):
        data = bytearray(files[FIRST])
        data[offset] ^= 1
        assert end_of(bytes(data)).kind is EndKind.HOLE, offset


def test_a_batch_in_the_middle_is_known_durable_even_if_all_behind_it_was_appended_while_it_was_in_flight() -> None:
    """Without the seal that goes with such a batch, its records say only that the batch before the middle one is durable."""

    async def overlapping(log: Log) -> None:
        log.add(b"first")
        await log.writer.flush_all()
        log.add(b"middle" * 9)
        middle = log.tasks.spawn(log.writer.flush_all())
        await log.tasks.yield_now()
        await log.tasks.yield_now()
        log.add(b"last")  # the middle batch is being written now
        assert log.writer.flushed_lsn < log.writer.last_lsn
        await middle
        await log.writer.flush_all()

    log, files = build(overlapping, seal_after_ns=0)
    middle = [*log.appended][1]
    data = bytearray(files[FIRST])
    data[middle + BIAS + 90] ^= 1
    assert end_of(bytes(data)).kind is EndKind.HOLE

    log, files = build(overlapping, seal_after_ns=0, seal_batches=False)
    data = bytearray(files[FIRST])
    data[middle + BIAS + 90] ^= 1
    assert end_of(bytes(data)).kind is EndKind.CLEAN_TAIL  # the test can fail: this is what the seal is for


# -- ghosts ------------------------------------------------------------------------------------------------------------


def test_a_recycled_segment_full_of_valid_old_records() -> None:
    """A recycled file keeps its old bytes: valid records, at the same offsets, with the same sizes."""

    async def recycle(log: Log) -> None:
        while log.writer.segment_number < 12:
            log.add(b"g" * 100)
            await log.writer.flush_all()
            await log.writer.remove_below(log.writer.last_lsn, keep=9)
        log.add(b"g" * 100)
        await log.writer.flush_all()

    log, files = build(recycle, seal_after_ns=0)
    name = segment_name(1, 12)
    assert any(fields["recycled"] for event, fields in log.events if event == "wal.segment_removed")
    start = dict(log.writer.segments)[12]
    end = find_end({name: files[name]}, 12, from_lsn=start)
    assert (end.kind, end.lsn) == (EndKind.CLEAN_TAIL, log.writer.next_lsn)
    assert "another place" in end.detail


def test_a_log_that_was_cut_and_grew_again() -> None:
    """Records of the life before, at the very LSNs that the new life reaches: the chain does not take them in."""
    old, files = build(three_batches, seal_after_ns=0)
    prefix = files[FIRST][: LAST_BATCH + BIAS]
    end = end_of(prefix.ljust(SEGMENT_SIZE, b"\0"))
    # The new life writes a record of exactly the old one's length; without zeroing, the old second one would follow it.
    new = encode(RecordKind.ROW, end.lsn, end.last_checksum, 9, changes=((7, 0, 1, b"N" * 30),))
    data = prefix + new + files[FIRST][len(prefix) + len(new) :]
    assert LSNS[9] == end.lsn + len(new)
    found = end_of(data)
    assert found.lsn == LSNS[9] and found.kind is EndKind.CLEAN_TAIL
    assert "does not continue" in found.detail


def test_the_tail_is_zeroed_before_the_first_append() -> None:
    """Otherwise a record that landed behind a gap is believed once the new life has filled the gap with the same bytes."""
    data = bytearray(DATA)
    data[LSNS[8] + BIAS + 20] ^= 1
    disk = bare_disk({FIRST: bytes(data)})
    log = Log(disk)

    async def go() -> None:
        end = await log.recover()
        assert end.lsn == LAST_BATCH
        name = f"wal/{FIRST}"
        assert not any(disk.names[name].durable[LAST_BATCH + BIAS :])
        assert len(disk.names[name].durable) == SEGMENT_SIZE
        log.add(b"after")
        await log.writer.flush_all()
        assert list((await log.records()).values())[-1] == b"after"

    log.run(go())


def test_a_copied_file_that_is_short_grows_to_full_size() -> None:
    log = Log(bare_disk({FIRST: DATA[:1000]}))
    end = log.run(log.recover())
    assert end.lsn == ends_before(1000 - BIAS)
    assert len(log.disk.names[f"wal/{FIRST}"].durable) == SEGMENT_SIZE


# -- segments that follow each other ---------------------------------------------------------------------------------------


async def many_segments(log: Log) -> None:
    while log.writer.segment_number < 5:
        log.add(b"m" * 333)
    await log.writer.flush_all()


MANY, MANY_FILES = build(many_segments, seal_after_ns=0)
NAMES = sorted(MANY_FILES)


def test_many_segments() -> None:
    end = find_end(MANY_FILES, 5)
    assert (end.kind, end.lsn, end.header.number) == (EndKind.CLEAN_TAIL, MANY.writer.next_lsn, 5)
    assert end.segments == tuple(MANY.writer.segments)
    assert all(len(MANY_FILES[name]) < SEGMENT_SIZE for name in NAMES[:-1])


@pytest.mark.parametrize("index", [1, 2, 3])
def test_a_segment_missing_in_the_middle(index: int) -> None:
    end = find_end({name: data for name, data in MANY_FILES.items() if name != NAMES[index]}, 5)
    assert end.kind is EndKind.HOLE and f"{NAMES[index]} is missing" in end.detail


def test_the_first_segment_missing() -> None:
    with pytest.raises(LogHole, match="no log segment holds 0/1000"):
        find_end({name: MANY_FILES[name] for name in NAMES[1:]}, 5)
    with pytest.raises(LogHole, match=f"unreadable: {NAMES[0]}"):
        find_end({NAMES[0]: bytes(SEGMENT_SIZE)}, 5)


def test_the_last_segment_missing_is_known_from_the_control_file() -> None:
    files = {name: MANY_FILES[name] for name in NAMES[:-1]}
    assert find_end(files, 5).kind is EndKind.HOLE
    assert find_end(files, 4).kind is EndKind.CLEAN_TAIL


def test_the_last_two_missing_and_the_one_before_cut() -> None:
    files = {name: MANY_FILES[name] for name in NAMES[:-2]}
    files[NAMES[-3]] = files[NAMES[-3]][:700]
    end = find_end(files, 5)
    assert end.kind is EndKind.HOLE and NAMES[-1] in end.detail


@pytest.mark.parametrize("offset", [0, 20, 24, 40, 56])
@pytest.mark.parametrize("index", [1, 3, 4])
def test_a_damaged_header(index: int, offset: int) -> None:
    data = bytearray(MANY_FILES[NAMES[index]])
    data[offset] ^= 1
    end = find_end({**MANY_FILES, NAMES[index]: bytes(data)}, 5)
    assert end.kind is EndKind.HOLE and NAMES[index] in end.detail


@pytest.mark.parametrize("index", [0, 1, 2, 3])
def test_every_kind_of_break_with_a_segment_behind_it_is_a_hole(index: int) -> None:
    whole = MANY_FILES[NAMES[index]]
    for size in range(SEGMENT_HEADER_SIZE, len(whole) - 16, 61):
        assert any(whole[size:])  # else filling it up with zeros would be no damage
        for data in (whole[:size], whole[:size].ljust(SEGMENT_SIZE, b"\0"), whole[:size] + b"?" * 1000):
            end = find_end({**MANY_FILES, NAMES[index]: data}, 5)
            assert end.kind is EndKind.HOLE and end.header.number == index + 1


def test_a_segment_from_elsewhere_does_not_continue() -> None:
    other, files = build(many_segments, seal_after_ns=0)

    async def different(log: Log) -> None:
        log.add(b"d" * 333)
        await many_segments(log)

    _, files = build(different, seal_after_ns=0)
    end = find_end({**MANY_FILES, NAMES[2]: files[NAMES[2]]}, 5)
    assert end.kind is EndKind.HOLE and "does not continue" in end.detail


def test_a_copy_made_by_hand_ends_at_the_break_and_later_segments_are_set_aside() -> None:
    files = {**MANY_FILES, NAMES[2]: MANY_FILES[NAMES[2]][:3000].ljust(SEGMENT_SIZE, b"\0")}
    log = Log(bare_disk(files), newest=5)

    async def go() -> None:
        with pytest.raises(LogHole):
            await log.recover()
        assert f"wal/{NAMES[3]}" in log.disk.names  # nothing was touched
        end = await log.recover(floor=True)
        assert end.kind is EndKind.CLEAN_TAIL and end.later == (NAMES[3], NAMES[4])
        assert [name for name in log.disk.durable_names if "aside" in name] == [f"wal/{n}.aside" for n in (NAMES[4], NAMES[3])]
        log.newest = 3
        log.add(b"on we go")
        await log.writer.flush_all()
        assert list((await log.records()).values())[-1] == b"on we go"

    log.run(go())


def test_left_overs_before_a_gap_are_not_the_log() -> None:
    files = {name: data for name, data in MANY_FILES.items() if name != NAMES[1]}
    start = dict(MANY.writer.segments)[3]
    end = find_end(files, 5, from_lsn=start)
    assert end.kind is EndKind.CLEAN_TAIL
    assert [number for number, _ in end.segments] == [3, 4, 5] and end.obsolete == (1,)
    files[NAMES[1]] = bytes(SEGMENT_SIZE)  # its file came back under its old name, with its bytes already overwritten
    log = Log(bare_disk(files), newest=5)

    async def go() -> None:
        end = await log.recover(start)
        assert end.obsolete == (1, 2)
        assert await log.writer.remove_below(start - 1) == 0
        assert await log.writer.remove_below(start) == 2
        assert not [name for name in log.disk.durable_names if name in (f"wal/{NAMES[0]}", f"wal/{NAMES[1]}")]

    log.run(go())


def test_until_stops_before_a_break_behind_it() -> None:
    log = Log(bare_disk({**MANY_FILES, NAMES[3]: b""}), newest=5)
    until = dict(MANY.writer.segments)[4]
    found = log.run(log.records(until_lsn=until))
    assert found == {lsn: payload for lsn, payload in MANY.appended.items() if lsn < until}

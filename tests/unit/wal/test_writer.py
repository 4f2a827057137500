"""The writer: group commit, segments, seals, a full disk, and the end of trust after a failed sync."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.wal.helpers import SEGMENT_SIZE, Log, build
from thunderdb.base.errors import Corruption, DiskFull, InvariantViolated, LimitExceeded, NodeStopped, StorageError, SyncFailed
from thunderdb.base.events import Events
from thunderdb.base.ids import FIRST_LSN
from thunderdb.runtime.inline import InlineClock
from thunderdb.wal.reader import create_log
from thunderdb.wal.record import LogGone, RecordKind
from thunderdb.wal.segment import segment_name
from thunderdb.wal.writer import GATHER_TURNS, LogWriter

FIRST = f"wal/{segment_name(1, 1)}"


def run(script: Any, **options: Any) -> Log:
    return build(script, **options)[0]


def test_nothing_happens_before_resume() -> None:
    log = Log()
    assert log.disk.operations == 0
    with pytest.raises(NodeStopped):
        log.add(b"too early")
    log.run(log.writer.close())


def test_append_is_memory_only_and_flush_makes_durable() -> None:
    async def script(log: Log) -> None:
        await log.writer.spares.filled()
        operations = log.disk.operations
        first, second = log.add(b"one"), log.add(b"two")
        assert (first, second) == (FIRST_LSN, FIRST_LSN + 87) and log.writer.last_lsn == second
        assert log.disk.operations == operations and log.writer.flushed_lsn == FIRST_LSN
        await log.writer.flush_to(first)
        assert log.writer.flushed_lsn == log.writer.next_lsn == second + 87
        assert log.disk.operations == operations + 2  # one write, one sync, for both
        await log.writer.flush_to(second)
        await log.writer.flush_all()
        assert log.disk.operations == operations + 2
        assert await log.records() == log.appended

    run(script)


def test_one_sync_for_all_who_come_together_and_waiters_wake_in_lsn_order() -> None:
    async def script(log: Log) -> None:
        await log.writer.spares.filled()
        woken: list[int] = []

        async def commit(lsn: int) -> None:
            await log.writer.flush_to(lsn)
            woken.append(lsn)

        lsns = [log.add(b"c%d" % i) for i in range(8)]
        tasks = [log.tasks.spawn(commit(lsn)) for lsn in reversed(lsns)]
        syncs = log.disk.log.count(f"sync {FIRST}")
        for task in tasks:
            await task
        assert woken == lsns
        assert log.disk.log.count(f"sync {FIRST}") == syncs + 1

    run(script)


def test_what_comes_during_a_flush_is_the_next_batch() -> None:
    async def script(log: Log) -> None:
        await log.writer.spares.filled()
        early = log.add(b"early")
        first = log.tasks.spawn(log.writer.flush_to(early))
        while not log.disk.log[-1].startswith(f"write {FIRST}"):
            await log.tasks.yield_now()
        late = log.add(b"late")
        second = log.tasks.spawn(log.writer.flush_to(late))
        await first
        assert log.writer.flushed_lsn == late and not second.done()
        await second
        assert log.writer.flushed_lsn > late

    run(script, seal_after_ns=0)


def test_a_batch_waits_for_those_who_are_at_work_but_not_for_ever() -> None:
    async def script(log: Log) -> None:
        await log.writer.spares.filled()
        syncs = log.disk.log.count(f"sync {FIRST}")

        async def commit(turns: int) -> None:
            for _ in range(turns):
                await log.tasks.yield_now()
            await log.writer.flush_to(log.add(b"commit"))

        for task in [log.tasks.spawn(commit(turns)) for turns in range(GATHER_TURNS)]:  # one more comes in each turn
            await task
        assert log.disk.log.count(f"sync {FIRST}") == syncs + 1
        first = log.tasks.spawn(log.writer.flush_to(log.add(b"first")))
        turns = 0
        while log.disk.log[-1] != f"sync {FIRST}" or log.disk.log.count(f"sync {FIRST}") == syncs + 1:
            log.add(b"work without end")
            await log.tasks.yield_now()
            turns += 1
        assert turns < 3 * GATHER_TURNS
        await first

    run(script, seal_after_ns=0)


def test_flush_beyond_the_end_is_a_bug() -> None:
    async def script(log: Log) -> None:
        with pytest.raises(InvariantViolated):
            await log.writer.flush_to(log.writer.next_lsn)

    run(script)


def test_flush_soon_and_a_full_buffer_flush_without_a_waiter() -> None:
    async def script(log: Log) -> None:
        log.add(b"soon")
        log.writer.flush_soon()
        await log.tasks.sleep(1)
        assert log.writer.flushed_lsn == log.writer.next_lsn
        for _ in range(12):
            log.add(b"x" * 100)
        await log.tasks.sleep(1)
        assert log.writer.flushed_lsn > FIRST_LSN + 500

    run(script, buffer_size=1000, seal_after_ns=0)


def test_wait_for_room_holds_back() -> None:
    async def script(log: Log) -> None:
        await log.writer.wait_for_room()
        for _ in range(30):
            log.add(b"x" * 100)
        assert log.writer.buffered_bytes > 2000
        await log.writer.wait_for_room()
        assert log.writer.buffered_bytes <= 2000

    run(script, buffer_size=1000)


def test_the_longest_record_fits_and_the_next_longer_one_does_not() -> None:
    async def script(log: Log) -> None:
        most = log.writer.max_record_size - 84
        with pytest.raises(LimitExceeded):
            log.add(b"x" * (most + 1))
        log.add(b"small")
        big = log.add(b"x" * most)
        log.add(b"small")
        await log.writer.flush_all()
        assert await log.records() == log.appended
        assert (2, big) in log.writer.segments and log.writer.segment_number == 3

    run(script)


def test_segments_follow_each_other_and_are_named_before_use() -> None:
    async def script(log: Log) -> None:
        while log.writer.segment_number < 4:
            log.add(b"s" * 500)
        await log.writer.flush_all()
        assert [number for number, _ in log.writer.segments] == [1, 2, 3, 4] and log.newest == 4
        assert await log.records() == log.appended
        for number in (2, 3, 4):
            path = f"wal/{segment_name(1, number)}"
            events = log.disk.log
            rename = next(i for i, e in enumerate(events) if e.startswith("rename") and e.endswith(path))
            named = events.index(f"control names {number}")
            first_record = next(i for i, e in enumerate(events) if e.startswith(f"write {path} 512 "))
            assert rename < events.index("sync_dir wal", rename) < named < first_record
            before = f"wal/{segment_name(1, number - 1)}"
            closing = [e for e in events[:rename] if before in e and "rename" not in e]
            assert [e.split()[0] for e in closing[-4:]] == ["write", "sync", "truncate", "sync"]

    log = run(script)
    closed = [fields["number"] for name, fields in log.events if name == "wal.segment_closed"]
    assert closed == [1, 2, 3]


def test_switch_closes_a_segment_early_and_only_if_it_has_a_record() -> None:
    async def script(log: Log) -> None:
        assert log.writer.switch_segment() == 0
        log.add(b"one")
        await log.writer.flush_all()
        assert log.writer.switch_segment() == 1
        assert log.writer.switch_segment() == 0
        await log.tasks.sleep(1)
        assert log.writer.newest_segment == 1  # the next one comes with its first record
        assert len(log.disk.names[FIRST].durable) == 512 + 87 + 64
        log.add(b"two")
        await log.writer.flush_all()
        assert log.writer.newest_segment == 2 and await log.records() == log.appended

    run(script, seal_after_ns=0)


def test_a_closed_last_segment_is_gone_on_from() -> None:
    async def script(log: Log) -> None:
        log.add(b"one")
        await log.writer.flush_all()
        log.writer.switch_segment()
        await log.writer.close()

    first = run(script)
    for data in (first.disk.names[FIRST].cached, first.disk.names[FIRST].durable):
        data.extend(bytes(100))  # as if the truncate had been lost
    log = Log(first.disk)

    async def again() -> None:
        end = await log.recover()
        assert end.closed and end.header.number == 1 and end.lsn == first.writer.next_lsn
        assert len(log.disk.names[FIRST].durable) == 512 + 87 + 64
        lsn = log.add(b"two")
        await log.writer.flush_all()
        assert log.writer.segments == [(1, FIRST_LSN), (2, lsn)] and list((await log.records()).values()) == [b"one", b"two"]

    log.run(again())


# -- seals -----------------------------------------------------------------------------------------------------------------


def test_one_seal_after_a_quiet_moment_and_then_silence() -> None:
    async def script(log: Log) -> None:
        log.add(b"x")
        await log.writer.flush_all()
        end = log.writer.next_lsn
        await log.tasks.sleep(50_000_000)
        log.add(b"y")
        await log.writer.flush_all()
        await log.tasks.sleep(60_000_000)
        assert log.writer.last_lsn == end + 64 or log.writer.last_lsn == end  # not yet quiet for long enough
        await log.tasks.sleep(10**9)
        sealed = await log.writer.read_record(log.writer.last_lsn)
        assert sealed.kind == RecordKind.SEAL and sealed.flushed_lsn == sealed.lsn
        count = log.writer.record_count
        await log.tasks.sleep(10**10)
        assert log.writer.record_count == count and log.writer.flushed_lsn == log.writer.next_lsn

    run(script)


def test_quiet_also_flushes_what_nobody_waits_for() -> None:
    async def script(log: Log) -> None:
        log.add(b"x")
        await log.writer.flush_all()
        log.add(b"nobody waits")
        await log.tasks.sleep(10**9)
        assert log.writer.flushed_lsn == log.writer.next_lsn

    run(script)


def test_no_seal_when_switched_off() -> None:
    async def script(log: Log) -> None:
        log.add(b"x")
        await log.writer.flush_all()
        await log.tasks.sleep(10**9)
        assert log.writer.record_count == 1

    run(script, seal_after_ns=0)


# -- reading back ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recent_size", [1, 1 << 20])
def test_every_record_can_be_read_whether_in_memory_or_not(recent_size: int) -> None:
    async def script(log: Log) -> None:
        for index in range(60):
            log.add(b"%d" % index * 200 if index % 7 else b"L" * 6000)
            if index % 9 == 0:
                await log.writer.flush_all()
        for lsn, payload in log.appended.items():
            record = await log.writer.read_record(lsn)
            assert record.changes[0].payload == payload and record.lsn == lsn
        oldest = log.writer.try_read(FIRST_LSN)
        assert (oldest is None) == (recent_size == 1)
        with pytest.raises(Corruption):
            await log.writer.read_record(FIRST_LSN + 1)
        with pytest.raises(Corruption):
            await log.writer.read_record(log.writer.next_lsn)

    run(script, recent_size=recent_size)


def test_many_read_long_records_of_many_segments_at_once() -> None:
    """A file was closed to make room for another while somebody had read half a record of it."""

    async def script(log: Log) -> None:
        while log.writer.segment_number < 9:
            log.add(b"L" * 6000)
        await log.writer.flush_all()
        tasks = [log.tasks.spawn(log.writer.read_record(lsn)) for _ in range(3) for lsn in log.appended]
        for task, payload in zip(tasks, [*log.appended.values()] * 3, strict=True):
            assert (await task).changes[0].payload == payload
        await log.writer.remove_below(log.writer.next_lsn)

    run(script, recent_size=1)


def test_a_damaged_record_is_named() -> None:
    async def script(log: Log) -> None:
        first = log.add(b"x" * 100)
        await log.writer.flush_all()
        log.add(b"y")
        await log.writer.flush_all()
        log.disk.names[FIRST].cached[512 + 90] ^= 1
        with pytest.raises(Corruption, match="0/1000: checksum"):
            await log.writer.read_record(first)

    run(script, recent_size=1)


def test_a_missing_segment_is_named() -> None:
    async def script(log: Log) -> None:
        log.add(b"x" * 100)
        log.writer.switch_segment()
        log.add(b"y")
        await log.writer.flush_all()
        del log.disk.names[FIRST]
        with pytest.raises(Corruption, match="is missing"):
            await log.writer.read_record(FIRST_LSN)

    run(script, recent_size=1)


# -- removal -----------------------------------------------------------------------------------------------------------------


def test_remove_below_keeps_what_is_at_the_lsn_and_recycles() -> None:
    async def script(log: Log) -> None:
        while log.writer.segment_number < 6:
            log.add(b"r" * 500)
        await log.writer.flush_all()
        await log.writer.spares.filled()
        starts = dict(log.writer.segments)
        assert await log.writer.remove_below(starts[3] - 1, keep=0) == 1
        assert await log.writer.remove_below(starts[3], keep=0) == 1
        assert await log.writer.remove_below(starts[3]) == 0
        assert log.writer.oldest_lsn == starts[3]
        with pytest.raises(LogGone, match="no longer there"):
            await log.writer.read_record(FIRST_LSN)
        assert (await log.writer.read_record(starts[3])).lsn == starts[3]
        assert await log.writer.remove_below(log.writer.next_lsn, keep=5) == 3  # never the newest
        assert len(log.writer.spares) == 5
        assert all(len(i.durable) == SEGMENT_SIZE for name, i in log.disk.durable_names.items() if "spare" in name)
        assert [name for name in log.disk.durable_names if "spare" not in name] == [f"wal/{segment_name(1, 6)}"]
        log.add(b"and on")
        await log.writer.flush_all()

    log = run(script, recent_size=1)
    removed = [fields["recycled"] for name, fields in log.events if name == "wal.segment_removed"]
    assert removed == [False, False, True, True, False]


@pytest.mark.parametrize("keep", [0, 9])
def test_a_segment_that_somebody_else_has_removed_is_gone(keep: int) -> None:
    """Generated incident 1337: a checkpoint ended with FileNotFoundError, and the node with it."""

    async def script(log: Log) -> None:
        while log.writer.segment_number < 4:
            log.add(b"r" * 500)
        await log.writer.flush_all()
        del log.disk.names[f"wal/{segment_name(1, 2)}"]
        assert await log.writer.remove_below(log.writer.next_lsn, keep=keep) == 3
        log.add(b"and on")
        await log.writer.flush_all()

    log = run(script)
    names = [(fields["number"], fields["recycled"]) for name, fields in log.events if name == "wal.segment_removed"]
    assert [number for number, _ in names] == [1, 2, 3] and not names[1][1]


def test_as_many_are_recycled_as_were_used_since_the_last_removal() -> None:
    async def script(log: Log) -> None:
        for _ in range(3):
            for _ in range(40):
                log.add(b"r" * 500)
            await log.writer.flush_all()
            await log.writer.remove_below(log.writer.next_lsn)
        made = [what for what in log.disk.log if what.startswith("create wal/spare")]
        for _ in range(40):
            log.add(b"r" * 500)
        await log.writer.flush_all()
        assert made == [what for what in log.disk.log if what.startswith("create wal/spare")]  # a steady load makes no file
        assert len(log.writer.segments) > 2

    run(script)


def test_a_segment_removed_while_it_is_read() -> None:
    async def script(log: Log) -> None:
        log.add(b"x" * 6000)
        log.writer.switch_segment()
        log.add(b"y" * 6000)
        log.add(b"z" * 6000)
        await log.writer.flush_all()
        await log.writer.read_record(FIRST_LSN)
        reading = log.writer._kept._reading
        original = reading.read_record

        async def slow(number: int, path: str, offset: int, limit: int) -> bytes:
            await log.writer.remove_below(log.writer.next_lsn)
            return await original(number, path, offset, limit)

        reading.read_record = slow  # type: ignore[method-assign]
        with pytest.raises(LogGone, match="was removed while"):
            await log.writer.read_record(FIRST_LSN)

    run(script, recent_size=1)


# -- trouble -----------------------------------------------------------------------------------------------------------------


def test_a_failed_sync_is_for_ever() -> None:
    async def script(log: Log) -> None:
        good = log.add(b"good")
        await log.writer.flush_to(good)
        await log.writer.spares.filled()
        failures = iter([True])
        log.disk.fail_sync = lambda path: path == FIRST and next(failures, False)  # trying again would succeed, and lie
        bad = log.add(b"bad")
        waiting = [log.tasks.spawn(log.writer.flush_to(lsn)) for lsn in (bad, log.add(b"too"))]
        for task in waiting:
            with pytest.raises(SyncFailed):
                await task
        log.disk.fail_sync = lambda path: False
        operations = log.disk.operations
        with pytest.raises(SyncFailed):
            log.add(b"never")
        with pytest.raises(SyncFailed):
            await log.writer.flush_to(bad)
        with pytest.raises(SyncFailed):
            await log.writer.flush_all()
        with pytest.raises(SyncFailed):
            log.writer.switch_segment()
        log.writer.flush_soon()
        await log.tasks.sleep(10**9)
        assert log.disk.operations == operations
        await log.writer.flush_to(good)  # durable is durable
        assert log.writer.flushed_lsn == bad
        assert [type(error) for error in log.fatal] == [SyncFailed] and log.writer.failure is log.fatal[0]
        with pytest.raises(SyncFailed):
            await log.writer.close()

    run(script)


def test_a_failed_sync_of_a_spare_stops_the_log_too() -> None:
    async def script(log: Log) -> None:
        await log.writer.spares.filled()
        log.disk.fail_sync = lambda path: "spare" in path
        while log.writer.segment_number < 9:
            log.add(b"x" * 500)
        with pytest.raises(SyncFailed):
            await log.writer.flush_all()
        with pytest.raises(SyncFailed):
            await log.writer.close()

    log = run(script)
    assert len(log.fatal) == 1


def test_after_a_failed_sync_the_next_life_does_not_trust_the_cache() -> None:
    """The cache still has the record, the disk never got it, and its pages count as clean: only writing it again helps (W4)."""

    async def script(log: Log) -> None:
        log.add(b"good")
        await log.writer.flush_all()
        log.add(b"in doubt" * 200)
        log.writer.switch_segment()
        log.disk.fail_sync = lambda path: path == FIRST
        with pytest.raises(SyncFailed):
            await log.writer.flush_all()

    first = run(script)
    second = Log(first.disk.after_kill())

    async def again() -> None:
        assert list((await second.records()).values()) == [b"good", b"in doubt" * 200]
        reader = await second.reader()
        end = await reader.find_end()
        assert await reader.rewrite(end) == end.lsn - FIRST_LSN - 88  # from the last stamp on

    second.run(again())
    third = Log(second.disk.after_power_cut(lambda: False))
    assert list(third.run(third.records()).values()) == [b"good", b"in doubt" * 200]


def test_a_failed_write_stops_the_log_and_close_tells() -> None:
    async def script(log: Log) -> None:
        log.add(b"x")
        file = log.writer._file
        assert file is not None

        async def broken(offset: int, data: bytes) -> None:
            raise OSError(5, "Input/output error")

        file.write = broken  # type: ignore[method-assign,assignment]
        with pytest.raises(OSError, match="Input/output"):
            await log.writer.close()
        assert len(log.fatal) == 1

    run(script)


def test_a_disk_that_fills_up_while_a_spare_is_made_leaves_none_behind() -> None:
    async def script(log: Log) -> None:
        await log.writer.spares.filled()
        log.disk.room = 3 * SEGMENT_SIZE
        real = log.disk.claim

        def lied(size: int) -> None:  # free_bytes promised more than there is
            if size > 0:
                raise DiskFull("quota")
            real(size)

        log.disk.claim = lied  # type: ignore[method-assign]
        log.add(b"x")
        log.writer.switch_segment()
        log.add(b"y")
        await log.writer.flush_all()
        await log.tasks.sleep(10**9)
        assert sum("spare" in name for name in log.disk.names) == len(log.writer.spares) == 2
        assert log.writer.spares.low

    run(script, seal_after_ns=0)


def test_no_room_for_a_seal_is_no_reason_for_a_new_segment() -> None:
    async def script(log: Log) -> None:
        log.add(b"x" * (log.writer.max_record_size - 84 - 10))
        await log.writer.flush_all()
        await log.tasks.sleep(10**9)
        assert log.writer.record_count == 1 and log.writer.segment_number == 1

    run(script)


def test_the_control_file_is_optional() -> None:
    """Without a hook the log works; a tool that only rewrites a log has no control file."""

    async def script(log: Log) -> None:
        writer = LogWriter(
            log.tasks, InlineClock(log.scheduler), log.disk, "other", Events(), segment_size=SEGMENT_SIZE, system_id=1
        )
        await writer.resume(await create_log(log.disk, "other", 1, SEGMENT_SIZE))
        writer.append(RecordKind.ROW, 1, 0)
        writer.switch_segment()
        writer.append(RecordKind.ROW, 1, 0)
        await writer.close()
        assert writer.newest_segment == 2

    run(script)


def test_an_error_of_the_hook_stops_the_log() -> None:
    async def script(log: Log) -> None:
        async def broken(number: int) -> None:
            raise StorageError("control file")

        log.writer.on_new_segment = broken
        log.add(b"x")
        log.writer.switch_segment()
        log.add(b"y")
        with pytest.raises(StorageError, match="control file"):
            await log.writer.flush_all()

    run(script)


def test_a_full_disk_turns_ordinary_work_away_before_the_reserve_and_never_wedges_rollback() -> None:
    async def script(log: Log) -> None:
        await log.writer.spares.filled()
        assert len(log.writer.spares) == 3
        log.disk.room = 100
        log.writer.admit()
        while log.writer.segment_number < 2:
            log.add(b"w" * 500)
        await log.writer.flush_all()
        await log.tasks.sleep(1)
        with pytest.raises(DiskFull) as full:
            log.writer.admit()
        assert full.value.sqlstate == "53100" and len(log.writer.spares) == 2
        # Rollback does not ask: it gets the reserve.
        while log.writer.segment_number < 4:
            log.add(b"c" * 500)
        await log.writer.flush_all()
        assert len(log.writer.spares) == 0 and await log.records() == log.appended
        # More than the reserve waits, until there is room.
        while log.writer.segment_number < 5:
            log.add(b"w" * 500)
        waiting = log.tasks.spawn(log.writer.flush_all())
        await log.tasks.sleep(5 * 10**9)
        assert not waiting.done() and not log.fatal
        log.disk.room = 10 * SEGMENT_SIZE
        await waiting
        await log.tasks.sleep(2 * 10**9)
        log.writer.admit()
        assert await log.records() == log.appended
        await log.writer.close()

    log = run(script, seal_after_ns=0)
    assert [name for name, _ in log.events if "disk" in name] == ["wal.disk_full", "wal.disk_ok"]


def test_removing_log_ends_a_full_disk_at_once() -> None:
    async def script(log: Log) -> None:
        await log.writer.spares.filled()
        log.disk.room = 1000
        while log.writer.segment_number < 3:
            log.add(b"w" * 500)
        await log.writer.flush_all()
        await log.tasks.sleep(1)
        with pytest.raises(DiskFull):
            log.writer.admit()
        assert await log.writer.remove_below(log.writer.next_lsn) == 2
        await log.tasks.sleep(10)
        assert len(log.writer.spares) == 3
        log.writer.admit()

    run(script, seal_after_ns=0)


def test_a_recycled_segment_that_cannot_grow_is_let_go() -> None:
    async def script(log: Log) -> None:
        log.add(b"w")
        log.writer.switch_segment()
        log.add(b"w")
        await log.writer.flush_all()
        await log.tasks.sleep(1)
        log.writer.spares.target = 9
        log.disk.room = 10
        assert await log.writer.remove_below(log.writer.next_lsn) == 1
        assert FIRST not in log.disk.names

    log = run(script, seal_after_ns=0)
    assert [fields["recycled"] for name, fields in log.events if name == "wal.segment_removed"] == [False]


def test_a_write_that_finds_no_space_is_tried_again() -> None:
    async def script(log: Log) -> None:
        await log.writer.spares.filled()
        del log.disk.names[FIRST].cached[600:]  # as on a file system that gives overwrites new blocks
        log.disk.room = 0
        log.add(b"w" * 500)
        waiting = log.tasks.spawn(log.writer.flush_all())
        await log.tasks.sleep(3 * 10**9)
        assert not waiting.done()
        log.disk.room = 10_000
        await waiting
        assert await log.records() == log.appended

    log = run(script, seal_after_ns=0)
    assert "wal.write_waits" in [name for name, _ in log.events]


def test_spares_of_the_life_before_are_filled_again_before_use() -> None:
    async def script(log: Log) -> None:
        await log.writer.spares.filled()
        await log.writer.close()

    first = run(script)
    spares = [name for name in first.disk.names if "spare" in name]
    for data in (first.disk.names[spares[0]].cached, first.disk.names[spares[0]].durable):
        data[:] = b"?" * 3000
    log = Log(first.disk)

    async def again() -> None:
        await log.recover()
        log.disk.room = 5192  # enough to complete the short one, not for another
        await log.writer.spares.filled()
        assert sorted(name for name in log.disk.names if "spare" in name) == sorted(spares)
        assert all(log.disk.names[name].durable == bytes(SEGMENT_SIZE) for name in spares)

    log.run(again())


def test_close_flushes_and_then_refuses() -> None:
    async def script(log: Log) -> None:
        log.add(b"last words")
        await log.writer.close()
        assert await log.records() == log.appended
        with pytest.raises(NodeStopped):
            log.add(b"x")
        with pytest.raises(NodeStopped):
            while True:
                await log.writer.spares.take()

    run(script)


def test_resume_twice_is_a_bug() -> None:
    async def script(log: Log) -> None:
        with pytest.raises(InvariantViolated):
            await log.writer.resume(await create_log(log.disk, "wal", 1, SEGMENT_SIZE))

    run(script)


def test_another_segment_size_takes_effect_with_the_next_segment() -> None:
    async def script(log: Log) -> None:
        log.add(b"small")
        await log.writer.close()

    first = run(script)
    log = Log(first.disk, segment_size=2 * SEGMENT_SIZE)

    async def again() -> None:
        await log.recover()
        assert isinstance(log.writer, LogWriter)
        big = log.add(b"x" * 9000)
        log.add(b"y")
        await log.writer.flush_all()
        assert (2, big) in log.writer.segments
        assert list((await log.records()).values()) == [b"small", *log.appended.values()]

    log.run(again())


def test_what_is_not_durable_stays_in_memory() -> None:
    async def script(log: Log) -> None:
        while log.writer.segment_number < 5:
            log.add(b"m" * 900)
        flushing = log.tasks.spawn(log.writer.flush_all())
        while not flushing.done():
            await log.tasks.yield_now()
            assert all(log.writer.try_read(lsn) for lsn in log.appended if lsn >= log.writer.flushed_lsn)

    run(script, recent_size=1)


def test_rewrite_makes_names_and_header_durable_too() -> None:
    """After kill -9 the cache may show a name and a header that a power cut would take back."""

    async def script(log: Log) -> None:
        log.add(b"x")
        await log.writer.close()

    second = Log(run(script).disk)
    inode = second.disk.names.pop(FIRST)
    inode.durable[:512] = bytes(512)
    second.disk.names[FIRST] = inode
    second.disk.durable_names.pop(FIRST)

    async def again() -> None:
        reader = await second.reader()
        await reader.rewrite(await reader.find_end())

    second.run(again())
    third = Log(second.disk.after_power_cut(lambda: False))
    assert list(third.run(third.records()).values()) == [b"x"]

"""The power goes at every single disk operation of a log's life, and again at every one of the restart that follows.

Whatever landed, was lost or torn: what a flush had promised is there, what is there is a prefix of what was appended, and the
log never takes its own tail for a hole.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.wal.crash_disk import CrashDisk, PowerCut
from tests.unit.wal.helpers import Log
from thunderdb.base.ids import FIRST_LSN
from thunderdb.wal.segment import SEGMENT_HEADER_SIZE

SIZE = 4096
Fate = Callable[[], bool]


class Promises:
    """What the lives so far have appended and promised, and from where on the log must still be there."""

    def __init__(self) -> None:
        self.appended: dict[int, bytes] = {}
        self.durable_lsn = FIRST_LSN
        self.from_lsn = FIRST_LSN
        self.newest = 0  # 0: the log was never wholly created

    def copy(self) -> Promises:
        other = Promises()
        other.appended, other.durable_lsn = dict(self.appended), self.durable_lsn
        other.from_lsn, other.newest = self.from_lsn, self.newest
        return other


async def work(log: Log, promises: Promises, rng: random.Random, count: int) -> None:
    """Append, flush, close segments early, remove old ones; note each promise as soon as it is made."""

    def add() -> int:
        payload = rng.randbytes(rng.choice((0, 5, 60, 400, 900)))
        lsn = log.add(payload)
        promises.appended[lsn] = payload
        return lsn

    async def flush(lsn: int) -> None:
        await log.writer.flush_to(lsn)
        promises.durable_lsn = max(promises.durable_lsn, log.writer.flushed_lsn)

    for _ in range(count):
        lsn = add()
        action = rng.random()
        if action < 0.3:
            waiter = log.tasks.spawn(flush(lsn))
            for _ in range(rng.randrange(4)):
                await log.tasks.yield_now()
                add()
            await waiter
        elif action < 0.4:
            log.writer.switch_segment()
        elif action < 0.5:
            await flush(lsn)
            removable = [start for _, start in log.writer.segments]
            promises.from_lsn = removable[-1]
            await log.writer.remove_below(promises.from_lsn, keep=rng.choice((0, 4)))


class Controlled(Log):
    """Notes the newest segment where the control file would hold it durably."""

    promises: Promises

    async def name_segment(self, number: int) -> None:
        await super().name_segment(number)
        self.promises.newest = number


def life(disk: CrashDisk, promises: Promises, seed: int, count: int, recover: bool) -> Controlled:
    log = Controlled(disk, newest=promises.newest, segment_size=SIZE, seal_after_ns=10_000)
    log.promises = promises

    async def live() -> None:
        if recover:
            end = await log.recover(promises.from_lsn)
            for lost in [lsn for lsn in promises.appended if lsn >= end.lsn]:
                del promises.appended[lost]
            promises.durable_lsn = max(promises.durable_lsn, log.writer.flushed_lsn)
        else:
            await log.create()
            promises.newest = 1
        await work(log, promises, random.Random(seed), count)
        await log.tasks.sleep(50_000)

    try:
        log.run(live())
    except PowerCut:
        pass
    return log


def check(disk: CrashDisk, promises: Promises) -> None:
    """Recover from `disk` and hold the log against the promises; then it must be usable."""
    if promises.newest == 0:
        return
    log = Log(disk, newest=promises.newest, segment_size=SIZE, seal_after_ns=0)

    async def look() -> None:
        end = await log.recover(promises.from_lsn)
        assert end.lsn >= promises.durable_lsn, "a promised record is gone"
        found = await log.records(promises.from_lsn)
        expected = {lsn: p for lsn, p in promises.appended.items() if promises.from_lsn <= lsn < end.lsn}
        assert found == expected
        name = f"wal/{log.writer.newest_segment:024X}".replace("0000000000", "0000000100", 1)
        segment = disk.names[name]
        assert not any(segment.durable[SEGMENT_HEADER_SIZE + end.lsn - log.writer.segments[-1][1] :])
        lsn = log.add(b"life goes on")
        await log.writer.flush_to(lsn)
        assert await log.records(promises.from_lsn) == {**expected, lsn: b"life goes on"}

    log.run(look())


def fates(seed: int) -> list[tuple[str, Fate]]:
    rng = random.Random(seed)
    return [("all landed", lambda: True), ("none landed", lambda: False), ("mixed", lambda: rng.random() < 0.5)]


def boundaries(seed: int, count: int) -> int:
    disk = CrashDisk()
    life(disk, Promises(), seed, count, recover=False)
    return disk.operations


@pytest.mark.parametrize("seed", range(4))
def test_power_cut_at_every_operation(seed: int) -> None:
    states = 0
    for cut_at in range(boundaries(seed, 24) + 1):
        promises = Promises()
        disk = CrashDisk(cut_at=cut_at)
        life(disk, promises, seed, 24, recover=False)
        for name, fate in fates(cut_at):
            try:
                check(disk.after_power_cut(fate), promises)
            except BaseException as error:
                raise AssertionError(f"seed {seed}, power cut at operation {cut_at}, {name}") from error
            states += 1
        check(disk.after_kill(), promises)
    assert states > 200


@pytest.mark.parametrize("kill_first", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_power_cut_at_every_operation_of_the_restart_and_the_life_after(seed: int, kill_first: bool) -> None:
    """With `kill_first` the second life begins on the first one's cache, and what it reads may not be on the disk (W4)."""
    rng = random.Random(seed)
    total = boundaries(seed, 16)
    for first_cut in rng.sample(range(total), 12):
        promises = Promises()
        disk = CrashDisk(cut_at=first_cut)
        life(disk, promises, seed, 16, recover=False)
        if promises.newest == 0:
            continue
        base = disk.after_kill() if kill_first else disk.after_power_cut(lambda: rng.random() < 0.5)
        for second_cut in range(40):
            later = promises.copy()
            again = base.after_kill()
            again.cut_at = second_cut
            life(again, later, seed + 100, 5, recover=True)
            for name, fate in fates(second_cut):
                try:
                    check(again.after_power_cut(fate), later)
                except BaseException as error:
                    where = f"seed {seed}, cut at {first_cut} then at {second_cut}, {name}, kill_first={kill_first}"
                    raise AssertionError(where) from error


@given(seed=st.integers(0, 1 << 30), cut=st.floats(0, 1), lives=st.integers(1, 4))
def test_many_lives(seed: int, cut: float, lives: int) -> None:
    """Ghosts of earlier lives pile up in the same files."""
    rng = random.Random(seed)
    promises = Promises()
    disk = CrashDisk(cut_at=int(20 + cut * 200))
    life(disk, promises, seed, 20, recover=False)
    for number in range(lives):
        if promises.newest == 0:
            return
        kill = rng.random() < 0.3
        disk = disk.after_kill() if kill else disk.after_power_cut(lambda: rng.random() < 0.5)
        disk.cut_at = rng.randrange(100)
        life(disk, promises, seed + number + 1, 8, recover=True)
    check(disk.after_power_cut(lambda: rng.random() < 0.5), promises)

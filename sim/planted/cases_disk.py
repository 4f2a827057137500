"""Directed runs about what disks leave: lost writes, holes, torn batches, failed syncs, pages written while the log is.

Each is a function from a seed to what was violated; sim/planted/cases.py lists them.
"""

from __future__ import annotations

from typing import Any

from sim.oracle.oracle import Violation
from sim.planted.bench import (
    DATA_DIR,
    MS,
    WAL_DIR,
    Bench,
    died,
    insert_rows,
    rot_newest_slot,
    run_case,
    write_rows,
    write_small_rows,
)
from sim.world.disk import DeviceProfile
from sim.world.fates import AllLanded, NoneLanded
from sim.world.image import SECTOR
from sim.world.rand import Stream
from sim.world.world import NodeDied
from thunderdb.base.errors import Corruption, LogHole, NodeStopped, StorageError
from thunderdb.base.events import Events
from thunderdb.storage.control import ControlFile
from thunderdb.storage.files import page_file_name
from thunderdb.storage.page import PAGE_HEADER
from thunderdb.storage.written import written_file_names
from thunderdb.wal.reader import LogReader
from thunderdb.wal.segment import SEGMENT_HEADER_SIZE, segment_name


def lost_write(seed: int) -> list[str]:
    bench = Bench(seed)
    stream = bench.stream

    async def course() -> None:
        await bench.start(rows=900, body=900)
        await bench.call(bench.db.checkpointer.run(flush_all=True))
        await bench.call(bench.put_some(60, 900, keys=60))
        bench.node.ports.disk.arm("lost_write", "pages.", skip=stream.between(0, 12))
        await bench.call(bench.db.checkpointer.run(flush_all=True))
        if stream.random() < 0.5:
            await bench.call(bench.put_some(stream.between(0, 10), 900, keys=60))
        try:
            if stream.random() < 0.3:  # somebody begins a copy
                await bench.call(bench.db.checkpointer.run(flush_all=True, hold_ns=3600_000 * MS))
            if stream.random() < 0.5:
                bench.node.crash(power=True, fates=NoneLanded())
                await bench.open()
            await bench.call(bench.compare())
            await bench.call(bench.put_some(60, 900, keys=60))
            await bench.call(bench.compare())
        except (Corruption, LogHole):
            return  # named: that is what is asked for

    return run_case(bench, course())


def rotten_save(seed: int) -> list[str]:
    """A page rots, and so does what was saved of the pages' LSNs: it is rebuilt as it was, or refused, never an older one."""
    bench = Bench(seed)
    stream = bench.stream

    async def course() -> None:
        await bench.start(rows=200, body=100)
        for _ in range(stream.between(2, 4)):
            await bench.call(bench.put_some(stream.between(5, 40), 100))
            await bench.call(bench.db.checkpointer.run(flush_all=True))
        bench.node.crash(power=stream.random() < 0.5, fates=AllLanded())
        bench.node.restart()
        disk = bench.node.ports.disk
        for name in written_file_names():
            path = f"{DATA_DIR}/{name}"
            if stream.random() < 0.5:
                disk.rot_file(path, stream.between(0, len(await bench.call(disk.read_file(path))) * 8 - 1))
        path, page_size = f"{DATA_DIR}/{page_file_name(0)}", bench.config.page_size
        for page_no in range(len(await bench.call(disk.read_file(path))) // page_size):
            if stream.random() < 0.3:
                disk.rot_file(path, (page_no * page_size + stream.between(16, 500)) * 8)
        try:
            await bench.open()
            await bench.call(bench.compare())
        except (Corruption, LogHole, NodeStopped):
            return  # named, or a system tree's page is gone: the node stops and says which

    return run_case(bench, course())


def log_hole(seed: int) -> list[str]:
    bench = Bench(seed)
    stream = bench.stream

    async def course() -> None:
        await bench.start(rows=50, body=100)
        await bench.call(bench.db.checkpoint())
        first_lsn = bench.db.control.state.checkpoint_lsn
        await bench.call(bench.put_some(stream.between(5, 80), 300))
        await bench.world.tasks.sleep(stream.choice((0, 300 * MS)))
        lsn = stream.between(first_lsn, bench.db.log.flushed_lsn - 1)
        number, start_lsn = [entry for entry in bench.db.log.segments if entry[1] <= lsn][-1]
        offset = SEGMENT_HEADER_SIZE + lsn - start_lsn
        bench.node.crash(power=True, fates=AllLanded())
        bench.node.restart()
        path = f"{WAL_DIR}/{segment_name(1, number)}"
        if stream.random() < 0.5:
            bench.node.ports.disk.zero_sector(path, offset // SECTOR)
        else:
            bench.node.ports.disk.rot_file(path, offset * 8 + stream.between(0, 7))
        await bench.reopen()

    return run_case(bench, course())


def control_slot(seed: int) -> list[str]:
    bench = Bench(seed, {"max_wal_size": "1MB"})
    stream = bench.stream

    async def course() -> None:
        await bench.start(rows=100, body=900)
        for _ in range(stream.between(2, 5)):
            await bench.call(bench.put_some(stream.between(50, 900), 900))
            await bench.call(bench.db.checkpoint())
        await bench.call(bench.put_some(stream.between(0, 20), 900))
        bench.node.crash(power=stream.random() < 0.5)
        bench.node.restart()
        await rot_newest_slot(bench)
        if not await bench.reopen():
            raise Violation("with one slot of two bad the database does not open")
        await bench.check()

    return run_case(bench, course())


def busy_cleaner(seed: int) -> list[str]:
    bench = Bench(seed, profile=DeviceProfile(write_ns=300_000, sync_ns=3 * MS, inline_writes=0.2))
    stream = bench.stream

    async def course() -> None:
        await bench.start(rows=stream.choice((100, 300, 1100)), body=700)
        await bench.call(bench.db.checkpointer.run(flush_all=True))
        bench.hot = min(stream.choice((12, 60, 300, 1100)), len(bench.rows))
        jobs = [write_rows] * stream.between(2, 5) + [_clean_pages, _take_checkpoints]
        calls = [bench.node.call(job(bench, stream)) for job in jobs]
        await bench.world.tasks.sleep(stream.between(10 * MS, 200 * MS))
        bench.node.crash(power=True, fates=NoneLanded() if stream.random() < 0.4 else None)
        await died(calls)
        bench.node.restart()
        if stream.random() < 0.2:
            await rot_newest_slot(bench)
        await bench.call(_log_covers_pages(bench))
        await bench.open()
        await bench.call(bench.compare(allowed=bench.begun))
        await bench.check()
        if bench.repaired:
            raise Violation(f"repaired, though no fault broke it: {bench.repaired}")

    return run_case(bench, course())


async def _log_covers_pages(bench: Bench) -> None:
    """W1, on the disk itself: no page is newer than the log."""
    disk = bench.node.ports.disk
    control = ControlFile(bench.node.ports.tasks, disk, f"{DATA_DIR}/control", Events())
    state = await control.load()
    await control.close()
    reader = LogReader(disk, WAL_DIR, state.system_id)
    await reader.load()
    end = await reader.find_end(state.checkpoint_lsn, newest_segment=state.newest_segment)
    pages = await disk.read_file(f"{DATA_DIR}/pages.000000")
    for offset in range(0, len(pages), bench.config.page_size):
        page_lsn = PAGE_HEADER.unpack_from(pages, offset)[1]
        if page_lsn >= end.lsn:
            raise Violation(f"page {offset // bench.config.page_size} is at {page_lsn}, but the log ends at {end.lsn}")


async def _clean_pages(bench: Bench, stream: Stream) -> None:
    while True:
        await bench.db.pool.clean(bench.db.log.next_lsn, stream.between(1, 30))
        await bench.node.ports.tasks.sleep(stream.between(0, 3 * MS))


async def _take_checkpoints(bench: Bench, stream: Stream) -> None:
    while True:
        await bench.db.checkpoint()
        bench.db.log.switch_segment()  # so that old log really goes
        await bench.node.ports.tasks.sleep(stream.between(0, 6 * MS))


def sync_failure(seed: int) -> list[str]:
    bench = Bench(seed)
    stream = bench.stream

    async def again(power: bool) -> None:
        if bench.node.alive:
            bench.node.crash(power=power, fates=NoneLanded() if stream.random() < 0.7 else None)
        await bench.open()
        await bench.settle()

    async def course() -> None:
        await bench.start(rows=100, body=400)
        for _ in range(3):
            bench.node.ports.disk.arm("sync_error", stream.choice(("/wal/", "/pages.")), skip=stream.between(0, 4))
            try:
                for _ in range(stream.between(1, 4)):
                    await bench.call(bench.put_some(stream.between(1, 3), 400))
                    if stream.random() < 0.4:
                        await bench.call(bench.db.checkpointer.run(flush_all=True))
            except (StorageError, NodeStopped, NodeDied):
                pass
            await again(power=stream.random() < 0.6)
            await bench.call(bench.put_some(stream.between(0, 3), 400))
            await again(power=True)

    return run_case(bench, course())


class _FirstSectorLost(AllLanded):
    """Of every pending write all has landed but its first sector."""

    def sectors(self, count: int) -> int:
        return (1 << count) - 2


def ghosts(seed: int) -> list[str]:
    bench = Bench(seed, profile=DeviceProfile(sync_ns=2 * MS))
    stream = bench.stream

    async def cut(calls: list[Any]) -> None:
        bench.node.crash(power=True, fates=_FirstSectorLost() if calls else NoneLanded())
        await died(calls)
        await bench.open()
        await bench.settle()
        if bench.repaired:
            raise Violation(f"repaired, though no fault broke it: {bench.repaired}")

    async def course() -> None:
        await bench.start(rows=40, body=10)
        bench.hot = 40
        for _ in range(8):
            calls = [bench.node.call(write_small_rows(bench, stream)) for _ in range(stream.between(6, 20))]
            await bench.world.tasks.sleep(stream.between(3 * MS, 7 * MS))
            await cut(calls)
            for _ in range(stream.between(0, 3)):
                await bench.call(bench.put(stream.between(0, 39), 10))
            await cut([])

    return run_case(bench, course())


class _Prefix(AllLanded):
    """Of every pending write some first sectors have landed."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def sectors(self, count: int) -> int:
        return (1 << self._stream.between(0, count)) - 1


def splits(seed: int) -> list[str]:
    bench = Bench(seed, profile=DeviceProfile(sync_ns=2 * MS))
    stream = bench.stream

    async def course() -> None:
        await bench.start(rows=20, body=400)
        for _ in range(8):
            calls = [bench.node.call(insert_rows(bench, stream)) for _ in range(stream.between(2, 6))]
            await bench.world.tasks.sleep(stream.between(1 * MS, 12 * MS))
            bench.node.crash(power=True, fates=_Prefix(stream))
            await died(calls)
            await bench.open()
            await bench.settle()
            await bench.check()

    return run_case(bench, course())

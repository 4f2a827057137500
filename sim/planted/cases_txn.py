"""Directed runs about transactions and time: snapshots, long transactions, order times, large values.

Each is a function from a seed to what was violated; sim/planted/cases.py lists them.
"""

from __future__ import annotations

from sim.oracle.oracle import Violation
from sim.planted.bench import MS, SECOND_NS, WAL_DIR, Bench, run_case
from sim.world.fates import AllLanded
from sim.world.rand import Stream
from thunderdb.base.errors import SerializationFailure, SnapshotTooOld
from thunderdb.recovery.extras import CLOCK_STEP_EXTRA, COMMIT_EXTRA
from thunderdb.txn.manager import REPEATABLE_READ, Txn
from thunderdb.wal.reader import LogReader
from thunderdb.wal.record import RecordKind, extra_of


def commit_times(seed: int) -> list[str]:
    bench = Bench(seed)
    stream = bench.stream

    async def course() -> None:
        await bench.start(rows=10, body=10)
        for _ in range(stream.between(3, 6)):
            await bench.call(bench.put_some(stream.between(1, 6), 10))
            await bench.world.tasks.sleep(stream.choice((0, 10 * MS, 3 * SECOND_NS)))
            bench.node.clock.jump(stream.choice((0, 300 * MS, -300 * MS, 5 * SECOND_NS, -5 * SECOND_NS, -3600 * SECOND_NS)))
            if stream.random() < 0.5:
                bench.node.crash(power=stream.random() < 0.5, fates=AllLanded())
                await bench.world.tasks.sleep(10 * MS)
                await bench.open()
        await bench.call(bench.put_some(1, 10))
        await bench.call(_check_times(bench))

    return run_case(bench, course())


async def _check_times(bench: Bench) -> None:
    """W9: order times rise strictly and are never more than a second behind the wall clock; steps are in the log."""
    reader = LogReader(bench.node.ports.disk, WAL_DIR, bench.db.control.state.system_id)
    await reader.load()
    last_us = steps = commits = 0
    scan = reader.scan()
    async for segment in scan:
        while headers := segment.batch():
            for header in headers:
                kind, lsn = header[2], header[5]
                extra = extra_of(segment.data, lsn + segment.bias)
                if kind == RecordKind.CLOCK_STEP:
                    steps += CLOCK_STEP_EXTRA.unpack(extra)[0] > 0
                elif kind == RecordKind.COMMIT:
                    commits += 1
                    order_us, wall_us = COMMIT_EXTRA.unpack(extra)
                    if order_us <= last_us:
                        raise Violation(f"commit {commits}: order time {order_us} comes after {last_us}")
                    if order_us < wall_us - 1_000_000:
                        raise Violation(f"commit {commits}: its order time is {(wall_us - order_us) / 1e6:.3f} s old")
                    last_us = order_us
    if commits < len(bench.rows):
        raise Violation(f"the log has {commits} commits, there were more")


def repeatable_writes(seed: int) -> list[str]:
    bench = Bench(seed)

    async def course() -> None:
        await bench.start(rows=4, body=10)
        for call in [bench.node.call(_write_repeatably(bench, bench.stream)) for _ in range(4)]:
            await call
        await bench.call(bench.compare())

    return run_case(bench, course())


async def _write_repeatably(bench: Bench, stream: Stream) -> None:
    rows, definition = bench.db.rows, bench.definition()
    for _ in range(12):
        key = stream.between(0, 3)
        txn = bench.db.begin(REPEATABLE_READ)
        txn.new_snapshot()
        key_bytes = bench.key_of(key)
        seen = await rows.get(txn, definition.root, key_bytes)
        await bench.node.ports.tasks.sleep(stream.between(0, 2 * MS))
        try:
            locked = await rows.lock_row(txn, definition, key_bytes)
        except SerializationFailure:
            await txn.rollback()
            continue
        if locked is None or locked != seen:
            raise Violation(f"row {key} is written over a version that the snapshot does not see")
        bench.version += 1
        row = (key, bench.version, "r" * 10)
        await rows.update(txn, definition, key_bytes, locked, row)
        await txn.commit()
        bench.rows[key] = row


def old_snapshot(seed: int) -> list[str]:
    bench = Bench(seed, {"page_size": "32KB", "buffer_pool_size": "4MB", "max_wal_size": "16MB"})
    stream = bench.stream

    async def course() -> None:
        await bench.start(rows=80, body=7000)
        rows = dict(bench.rows)
        txn = bench.db.begin(REPEATABLE_READ, True)
        txn.new_snapshot()
        for _ in range(4):
            await bench.call(bench.put_some(stream.between(650, 750), 7000))
            await bench.call(bench.db.checkpoint())
        try:
            await bench.call(bench.compare(txn, rows))
        except SnapshotTooOld as error:
            raise Violation(f"a snapshot within its limit: {error}") from None
        await bench.call(txn.commit())

    return run_case(bench, course())


def long_transaction(seed: int) -> list[str]:
    bench = Bench(seed, {"buffer_pool_size": "4MB"})
    stream = bench.stream

    async def change(txn: Txn, key: int) -> None:
        """Change a row that nobody else touches, and leave it uncommitted."""
        rows, definition = bench.db.rows, bench.definition()
        key_bytes = bench.key_of(key)
        old = await rows.lock_row(txn, definition, key_bytes)
        if old is None:
            raise Violation(f"row {key} is gone")
        await rows.update(txn, definition, key_bytes, old, (key, -1, "never"))

    async def course() -> None:
        await bench.start(rows=80, body=700)
        txn = bench.db.begin()
        for key in (78, 79):
            await bench.call(change(txn, key))
            for _ in range(3):
                await bench.call(bench.put_some(stream.between(700, 900), 700, keys=70))
                await bench.call(bench.db.checkpoint())
        if stream.random() < 0.5:
            await bench.call(txn.rollback())
        else:
            bench.node.crash(power=stream.random() < 0.5)
            await bench.open()
        await bench.call(bench.compare())

    return run_case(bench, course())


def large_reader(seed: int) -> list[str]:
    bench = Bench(seed)
    stream = bench.stream

    async def course() -> None:
        await bench.start(rows=12, body=9000)
        rows = dict(bench.rows)
        txn = bench.db.begin(REPEATABLE_READ, True)
        txn.new_snapshot()
        for _ in range(stream.between(1, 3)):
            await bench.call(bench.put_some(stream.between(1, 12), 9000))
            await bench.world.tasks.sleep(1500 * MS)
            await bench.call(bench.compare(txn, rows))
        await bench.call(txn.commit())
        await bench.call(bench.compare())

    return run_case(bench, course())

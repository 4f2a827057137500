"""Directed runs for planted bugs that a random run rarely meets: each a function from a seed to what was violated.

The right engine passes each with every seed: it may refuse to open, or fail a statement, with an error that names the damage,
but it never shows wrong data (DESIGN section 9).

    lost_write      a page write that never happened is met again, by a read or by a restart
    log_hole        a sector of the durable log rots between two lives
    control_slot    the newest slot of the control file rots between two lives
    commit_times    the wall clock steps; the log's order times must not
    busy_cleaner    pages are written, and checkpoints taken, while syncs are under way; then the power goes
    ghosts          batches are torn by power cuts, and the next life writes where they were
    splits          inserts split pages, and of the last batch only a first part lands
    large_reader    a snapshot reads large values that have been replaced, while garbage is being freed
    sync_failure    an fsync fails and the node stops; what it wrote may be in the cache only
    repeatable_writes   a row changed after the snapshot is 40001, never overwritten
    long_transaction    a transaction far older than the checkpoints is rolled back, or undone by a restart
    old_snapshot    a snapshot older than the version cache reads the log, which checkpoints would like to remove
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from sim.disk import DeviceProfile
from sim.engine_session import SimDatabase
from sim.fates import AllLanded, NoneLanded
from sim.image import SECTOR
from sim.oracle import Violation
from sim.rand import Stream
from sim.world import NodeDied, SimNode, World
from thunderdb.base.config import Config, parse
from thunderdb.base.errors import Corruption, LogHole, NodeStopped, SerializationFailure, SnapshotTooOld, StorageError
from thunderdb.base.events import Events
from thunderdb.engine.catalog import Column, TableDef
from thunderdb.engine.check import check_database
from thunderdb.recovery.extras import CLOCK_STEP_EXTRA, COMMIT_EXTRA
from thunderdb.storage.control import SLOT_OFFSETS, SLOT_SIZE, ControlFile, decode_slot
from thunderdb.storage.page import PAGE_HEADER
from thunderdb.txn.manager import REPEATABLE_READ, Txn
from thunderdb.wal.reader import LogReader
from thunderdb.wal.record import RecordKind, extra_of
from thunderdb.wal.segment import SEGMENT_HEADER_SIZE, segment_name

T = TypeVar("T")

MS = 1_000_000
SECOND_NS = 1_000_000_000
LIMIT_NS = 600 * SECOND_NS
DATA_DIR, WAL_DIR = "/var/lib/thunderdb/data", "/var/lib/thunderdb/wal"
SMALL: dict[str, Any] = {
    "page_size": "4KB", "buffer_pool_size": "1MB", "wal_buffer_size": "64KB", "wal_segment_size": "1MB", "max_wal_size": "1GB",
    "checkpoint_interval": "1h", "recovery_target": "off",
}  # fmt: skip


class Bench:
    """A node with one table of (id, ver, body), and what its rows must be."""

    def __init__(self, seed: int, settings: dict[str, Any] | None = None, profile: DeviceProfile | None = None) -> None:
        self.world = World(seed)
        self.node: SimNode = self.world.node("a", profile=profile)
        self.stream: Stream = self.world.streams.stream("case")
        self.config: Config = parse("", flags={**SMALL, **(settings or {}), "data_dir": DATA_DIR, "wal_dir": WAL_DIR})
        self.rows: dict[int, tuple[int, int, str]] = {}
        self.begun: dict[int, tuple[int, int, str]] = {}  # rows whose commit has not been answered
        self.version = 0
        self.hot = 1
        self.repaired = ""
        self._db: SimDatabase | None = None

    @property
    def db(self) -> SimDatabase:
        if self._db is None:
            raise Violation("the database is not open")
        return self._db

    def definition(self) -> TableDef:
        found = self.db.catalog.table("t")
        if found is None:
            raise Violation("the table is gone")
        return found

    async def call(self, coro: Coroutine[Any, Any, T]) -> T:
        return await self.world.tasks.wait_for(self.node.call(coro), 100 * SECOND_NS)

    async def open(self) -> None:
        """Start the node, if need be, and open. Raises: what the engine raises."""
        if not self.node.alive:
            self.node.restart()
        events = Events()
        events.subscribe(self._event)
        self._db = await self.call(SimDatabase.open(self.node.ports, self.config, events))

    def _event(self, name: str, fields: dict[str, Any]) -> None:
        """Note what repairs itself, but has no reason to be broken."""
        if name == "recovery.lost_write" or (name == "pool.page_corrupt" and "was written with" in fields["error"]):
            self.repaired = f"page {fields['page_no']} is older than what was synced"

    async def start(self, rows: int, body: int) -> None:
        await self.open()
        await self.call(self._fill(rows, body))

    async def _fill(self, rows: int, body: int) -> None:
        txn = self.db.begin()
        columns = [Column("id", "int4"), Column("ver", "int8"), Column("body", "text")]
        await self.db.ddl.create_table(txn, "t", columns, pk=(0,))
        await txn.commit()
        for key in range(rows):
            await self.put(key, body, insert=True)

    async def put(self, key: int, body: int, insert: bool = False) -> None:
        """Write a row in a transaction of its own, on the node; the model follows its acknowledgement."""
        self.version += 1
        row = (key, self.version, chr(97 + self.version % 26) * body)
        txn, definition = self.db.begin(), self.definition()
        if insert:
            await self.db.insert(txn, definition, row)
        else:
            key_bytes = self.db.rows.table(definition).key_of(row)
            old = None if key_bytes is None else await self.db.rows.lock_row(txn, definition, key_bytes)
            if key_bytes is None or old is None:
                raise Violation(f"row {key} is gone")
            await self.db.rows.update(txn, definition, key_bytes, old, row)
        self.begun[key] = row
        await txn.commit()
        self.rows[key] = row
        if self.begun.get(key) is row:
            del self.begun[key]

    async def put_some(self, count: int, body: int, keys: int | None = None) -> None:
        last = (keys or len(self.rows)) - 1
        for _ in range(count):
            await self.put(self.stream.between(0, last), body)

    async def compare(
        self, txn: Any = None, rows: dict[int, tuple[int, int, str]] | None = None,
        allowed: dict[int, tuple[int, int, str]] | None = None,
    ) -> dict[int, tuple[Any, ...]]:  # fmt: skip
        """Every row is what was acknowledged, or what `allowed` says. Raises: Violation; what the engine raises."""
        wanted = self.rows if rows is None else rows
        definition = self.definition()
        decode = self.db.rows.table(definition).row.decode
        found: dict[int, tuple[Any, ...]] = {}
        reader = txn or self.db.begin(REPEATABLE_READ, True)
        async for batch in self.db.scan(reader, definition.root):
            for _key, payload in batch:
                row = tuple(decode(payload))
                found[row[0]] = row
        if txn is None:
            await reader.commit()
        for key in sorted({*wanted, *found}):
            if wanted.get(key) != found.get(key) and found.get(key) != (allowed or {}).get(key, ()):
                one, two = wanted.get(key), found.get(key)
                raise Violation(f"row {key} is at version {two and two[1]}, acknowledged was {one and one[1]}")
        return found

    async def reopen(self) -> bool:
        """Open again and compare everything; False if the engine refused by name, which is right after damage."""
        try:
            await self.open()
            await self.call(self.compare())
        except (LogHole, Corruption):
            return False
        return True


def _run(bench: Bench, coro: Coroutine[Any, Any, None]) -> list[str]:
    try:
        bench.world.run(coro, limit_ns=LIMIT_NS)
    except Exception as error:
        return [f"{type(error).__name__}: {error} ({where(error)})"]
    finally:
        bench.world.close()
    return []


def where(error: BaseException) -> str:
    """The innermost places of a traceback. (sim/runner has the same, but imports all of SQL.)"""
    places: list[str] = []
    trace = error.__traceback__
    while trace is not None:
        places.append(f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}")
        trace = trace.tb_next
    return " < ".join(reversed(places[-4:]))


# -- The cases


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
            if stream.random() < 0.5:
                bench.node.crash(power=True, fates=NoneLanded())
                await bench.open()
            await bench.call(bench.compare())
            await bench.call(bench.put_some(60, 900, keys=60))
            await bench.call(bench.compare())
        except (Corruption, LogHole):
            return  # named: that is what is asked for

    return _run(bench, course())


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

    return _run(bench, course())


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
        await _rot_newest_slot(bench)
        if not await bench.reopen():
            raise Violation("with one slot of two bad the database does not open")
        problems = await bench.call(check_database(bench.db))
        if problems:
            raise Violation(f"check: {'; '.join(problems[:3])}")

    return _run(bench, course())


async def _rot_newest_slot(bench: Bench) -> None:
    disk, path = bench.node.ports.disk, f"{DATA_DIR}/control"
    file = await bench.call(disk.read_file(path))
    slots = [decode_slot(file[offset : offset + SLOT_SIZE]) for offset in SLOT_OFFSETS]
    newest = max((0, 1), key=lambda slot: slots[slot].sequence)
    disk.zero_sector(path, SLOT_OFFSETS[newest] // SECTOR)


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

    return _run(bench, course())


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


def busy_cleaner(seed: int) -> list[str]:
    bench = Bench(seed, profile=DeviceProfile(write_ns=300_000, sync_ns=3 * MS, inline_writes=0.2))
    stream = bench.stream

    async def course() -> None:
        await bench.start(rows=stream.choice((100, 300, 1100)), body=700)
        await bench.call(bench.db.checkpointer.run(flush_all=True))
        bench.hot = min(stream.choice((12, 60, 300, 1100)), len(bench.rows))
        jobs = [_write] * stream.between(2, 5) + [_clean_pages, _take_checkpoints]
        calls = [bench.node.call(job(bench, stream)) for job in jobs]
        await bench.world.tasks.sleep(stream.between(10 * MS, 200 * MS))
        bench.node.crash(power=True, fates=NoneLanded() if stream.random() < 0.4 else None)
        for call in calls:
            try:
                await call
            except NodeDied:
                pass
        bench.node.restart()
        if stream.random() < 0.2:
            await _rot_newest_slot(bench)
        await bench.call(_log_covers_pages(bench))
        await bench.open()
        await bench.call(bench.compare(allowed=bench.begun))
        problems = await bench.call(check_database(bench.db))
        if problems:
            raise Violation(f"check: {'; '.join(problems[:3])}")
        if bench.repaired:
            raise Violation(f"repaired, though no fault broke it: {bench.repaired}")

    return _run(bench, course())


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


async def _write(bench: Bench, stream: Stream) -> None:
    while True:
        await bench.put(stream.between(0, bench.hot - 1), stream.between(600, 700))


async def _write_small(bench: Bench, stream: Stream) -> None:
    while True:
        await bench.put(stream.between(0, bench.hot - 1), 10)


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
        found = await bench.call(bench.compare(allowed=bench.begun))
        bench.rows = {key: (row[0], row[1], row[2]) for key, row in found.items()}
        bench.begun.clear()

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

    return _run(bench, course())


def repeatable_writes(seed: int) -> list[str]:
    bench = Bench(seed)

    async def course() -> None:
        await bench.start(rows=4, body=10)
        for call in [bench.node.call(_write_repeatably(bench, bench.stream)) for _ in range(4)]:
            await call
        await bench.call(bench.compare())

    return _run(bench, course())


async def _write_repeatably(bench: Bench, stream: Stream) -> None:
    rows, definition = bench.db.rows, bench.definition()
    access = rows.table(definition)
    for _ in range(12):
        key = stream.between(0, 3)
        txn = bench.db.begin(REPEATABLE_READ)
        txn.new_snapshot()
        key_bytes = access.key_of([key])
        if key_bytes is None:
            raise Violation("a keyed table gave no key")
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

    return _run(bench, course())


def long_transaction(seed: int) -> list[str]:
    bench = Bench(seed, {"buffer_pool_size": "4MB"})
    stream = bench.stream

    async def change(txn: Txn, key: int) -> None:
        """Change a row that nobody else touches, and leave it uncommitted."""
        rows, definition = bench.db.rows, bench.definition()
        key_bytes = rows.table(definition).key_of([key])
        if key_bytes is None:
            raise Violation("a keyed table gave no key")
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

    return _run(bench, course())


class _FirstSectorLost:
    """Of every pending write all has landed but its first sector."""

    def sectors(self, count: int) -> int:
        return (1 << count) - 2

    def size(self) -> bool:
        return True

    def entry(self) -> bool:
        return True


def ghosts(seed: int) -> list[str]:
    bench = Bench(seed, profile=DeviceProfile(sync_ns=2 * MS))
    stream = bench.stream

    async def cut(calls: list[Any]) -> None:
        bench.node.crash(power=True, fates=_FirstSectorLost() if calls else NoneLanded())
        for call in calls:
            try:
                await call
            except NodeDied:
                pass
        await bench.open()
        found = await bench.call(bench.compare(allowed=bench.begun))
        bench.rows = {key: (row[0], row[1], row[2]) for key, row in found.items()}
        bench.begun.clear()
        if bench.repaired:
            raise Violation(f"repaired, though no fault broke it: {bench.repaired}")

    async def course() -> None:
        await bench.start(rows=40, body=10)
        bench.hot = 40
        for _ in range(8):
            calls = [bench.node.call(_write_small(bench, stream)) for _ in range(stream.between(6, 20))]
            await bench.world.tasks.sleep(stream.between(3 * MS, 7 * MS))
            await cut(calls)
            for _ in range(stream.between(0, 3)):
                await bench.call(bench.put(stream.between(0, 39), 10))
            await cut([])

    return _run(bench, course())


class _Prefix:
    """Of every pending write some first sectors have landed."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def sectors(self, count: int) -> int:
        return (1 << self._stream.between(0, count)) - 1

    def size(self) -> bool:
        return True

    def entry(self) -> bool:
        return True


def splits(seed: int) -> list[str]:
    bench = Bench(seed, profile=DeviceProfile(sync_ns=2 * MS))
    stream = bench.stream

    async def course() -> None:
        await bench.start(rows=20, body=400)
        for _ in range(8):
            calls = [bench.node.call(_insert(bench, stream)) for _ in range(stream.between(2, 6))]
            await bench.world.tasks.sleep(stream.between(1 * MS, 12 * MS))
            bench.node.crash(power=True, fates=_Prefix(stream))
            for call in calls:
                try:
                    await call
                except NodeDied:
                    pass
            await bench.open()
            found = await bench.call(bench.compare(allowed=bench.begun))
            bench.rows = {key: (row[0], row[1], row[2]) for key, row in found.items()}
            bench.begun.clear()
            problems = await bench.call(check_database(bench.db))
            if problems:
                raise Violation(f"check: {'; '.join(problems[:3])}")

    return _run(bench, course())


async def _insert(bench: Bench, stream: Stream) -> None:
    while True:
        key = stream.between(0, 1 << 30)
        if key not in bench.rows and key not in bench.begun:
            await bench.put(key, 400, insert=True)


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

    return _run(bench, course())


CASES: dict[str, Callable[[int], list[str]]] = {
    "lost_write": lost_write,
    "log_hole": log_hole,
    "control_slot": control_slot,
    "commit_times": commit_times,
    "busy_cleaner": busy_cleaner,
    "ghosts": ghosts,
    "splits": splits,
    "large_reader": large_reader,
    "repeatable_writes": repeatable_writes,
    "sync_failure": sync_failure,
    "long_transaction": long_transaction,
    "old_snapshot": old_snapshot,
}



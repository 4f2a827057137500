"""The bench that directed runs stand on: a node with one table of (id, ver, body), and what its rows must be."""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine, Sequence
from typing import Any, TypeVar

from sim.clients.engine_session import SimDatabase
from sim.oracle.oracle import Violation
from sim.world.disk import DeviceProfile
from sim.world.image import SECTOR
from sim.world.rand import Stream
from sim.world.world import NodeDied, SimNode, World
from thunderdb.base.config import Config, parse
from thunderdb.base.errors import Corruption, LogHole
from thunderdb.base.events import Events
from thunderdb.engine.catalog import Column, TableDef
from thunderdb.engine.check import check_database
from thunderdb.storage.control import SLOT_OFFSETS, SLOT_SIZE, decode_slot
from thunderdb.txn.manager import REPEATABLE_READ

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

    def key_of(self, key: int) -> bytes:
        """How a row is called in the tree."""
        found = self.db.rows.table(self.definition()).key_of([key])
        if found is None:
            raise Violation("a keyed table gave no key")
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
            key_bytes = self.key_of(key)
            old = await self.db.rows.lock_row(txn, definition, key_bytes)
            if old is None:
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

    async def settle(self) -> None:
        """Compare; what has come back of the unanswered is what is there from now on. Raises: Violation."""
        found = await self.call(self.compare(allowed=self.begun))
        self.rows = {key: (row[0], row[1], row[2]) for key, row in found.items()}
        self.begun.clear()

    async def check(self) -> None:
        """Check the whole database. Raises: Violation."""
        problems = await self.call(check_database(self.db))
        if problems:
            raise Violation(f"check: {'; '.join(problems[:3])}")

    async def reopen(self) -> bool:
        """Open again and compare everything; False if the engine refused by name, which is right after damage."""
        try:
            await self.open()
            await self.call(self.compare())
        except (LogHole, Corruption):
            return False
        return True


async def died(calls: Sequence[Awaitable[None]]) -> None:
    """Wait for what died with its node."""
    for call in calls:
        try:
            await call
        except NodeDied:
            pass


def run_case(bench: Bench, coro: Coroutine[Any, Any, None]) -> list[str]:
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


async def rot_newest_slot(bench: Bench) -> None:
    disk, path = bench.node.ports.disk, f"{DATA_DIR}/control"
    file = await bench.call(disk.read_file(path))
    slots = [decode_slot(file[offset : offset + SLOT_SIZE]) for offset in SLOT_OFFSETS]
    newest = max((0, 1), key=lambda slot: slots[slot].sequence)
    disk.zero_sector(path, SLOT_OFFSETS[newest] // SECTOR)


async def write_rows(bench: Bench, stream: Stream) -> None:
    while True:
        await bench.put(stream.between(0, bench.hot - 1), stream.between(600, 700))


async def write_small_rows(bench: Bench, stream: Stream) -> None:
    while True:
        await bench.put(stream.between(0, bench.hot - 1), 10)


async def insert_rows(bench: Bench, stream: Stream) -> None:
    while True:
        key = stream.between(0, 1 << 30)
        if key not in bench.rows and key not in bench.begun:
            await bench.put(key, 400, insert=True)

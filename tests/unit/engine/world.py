"""A whole database in memory that can be killed, lose its power, and be started again.

    world = EngineWorld()
    db = world.start()
    world.run(some_coroutine(db))
    world.crash(power=True)     everything that no sync covered is gone; power=False keeps it (kill -9)
    db = world.start()
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from thunderdb.base.config import Config
from thunderdb.base.errors import SyncFailed
from thunderdb.base.events import Events
from thunderdb.engine.catalog import Column, TableDef
from thunderdb.engine.check import check_database
from thunderdb.engine.database import Database
from thunderdb.runtime.inline import InlineScheduler, InlineWorld, MemoryDisk, MemoryFile
from thunderdb.runtime.sync import Task, Tasks
from thunderdb.txn.manager import READ_COMMITTED, Txn

T = TypeVar("T")

DATA = "/d/data"
WAL = "/d/wal"
SECOND_NS = 1_000_000_000
PAGE = 4096
LIMIT_NS = 600 * SECOND_NS
GRAVEYARD: list[Any] = []
"""Dead lives: kept, so that collecting their coroutines runs no `finally`."""


class PowerFile(MemoryFile):
    """Remembers how to take back what no sync has covered."""

    __slots__ = ("_power",)

    def __init__(self, disk: PowerDisk, path: str, data: bytearray, writable: bool) -> None:
        super().__init__(disk, path, data, writable)
        self._power = disk

    async def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        undo = (len(self.data), offset, bytes(self.data[offset : offset + len(data)]))
        await super().write(offset, data)
        self._power.undo.setdefault(id(self.data), []).append(undo)

    async def truncate(self, size: int) -> None:
        undo = (len(self.data), size, bytes(self.data[size:]))
        await super().truncate(size)
        self._power.undo.setdefault(id(self.data), []).append(undo)

    async def sync(self) -> None:
        power = self._power
        if power.fail_sync(self.path):
            power.undo.pop(id(self.data), None)  # the cache keeps them, marked clean
            raise SyncFailed(f"cannot sync {self.path}: Input/output error")
        covered = len(power.undo.get(id(self.data), ()))
        await super().sync()
        if power.hold_sync is not None:
            await power.hold_sync(self.path)
        del power.undo.get(id(self.data), [])[:covered]


class PowerDisk(MemoryDisk):
    """A MemoryDisk whose unsynced writes can be taken back. Names are durable at once (the simulator has the rest)."""

    def __init__(self, scheduler: InlineScheduler | None = None, capacity_bytes: int | None = None) -> None:
        super().__init__(scheduler, capacity_bytes)
        self.undo: dict[int, list[tuple[int, int, bytes]]] = {}
        self.fail_sync: Callable[[str], bool] = lambda path: False
        self.hold_sync: Callable[[str], Awaitable[None]] | None = None

    async def open(self, path: str, *, create: bool = False, exclusive: bool = False, writable: bool = True) -> MemoryFile:
        file = await super().open(path, create=create, exclusive=exclusive, writable=writable)
        return PowerFile(self, file.path, file.data, writable)

    def survivor(self, scheduler: InlineScheduler | None, power: bool) -> PowerDisk:
        """The disk that the next life finds."""
        disk = PowerDisk(scheduler, self.capacity_bytes)
        disk.dirs = dict(self.dirs)
        for path, data in self.files.items():
            copy = bytearray(data)
            for size, offset, old in reversed(self.undo.get(id(data), ())) if power else ():
                copy[offset : offset + len(old)] = old
                del copy[size:]
                copy.extend(bytes(size - len(copy)))
            disk.files[path] = copy
        return disk


class EngineWorld(InlineWorld):
    """One database over its lives."""

    disk: PowerDisk

    def __init__(self, *, suspend: bool = False, capacity_bytes: int | None = None, **settings: Any) -> None:
        super().__init__()
        self.suspend = suspend
        self.disk = PowerDisk(self.scheduler if suspend else None, capacity_bytes)
        defaults: dict[str, Any] = {
            "data_dir": DATA, "wal_dir": WAL, "page_size": PAGE, "buffer_pool_size": 4 << 20, "wal_segment_size": 1 << 20,
            "max_wal_size": 64 << 20, "wal_buffer_size": 256 << 10, "checkpoint_interval": 86_400_000, "recovery_target": None,
        }  # fmt: skip
        self.config = Config(**{**defaults, **settings})
        self.seen: list[tuple[str, dict[str, Any]]] = []
        self.db: Database

    def run(self, coro: Coroutine[Any, Any, T]) -> T:
        """Drive `coro` to its end; background timers never run out, so a wait without end shows as time passing."""
        task: Task[T] = self.tasks.spawn(coro, "main")
        limit_ns = self.scheduler.now_ns + LIMIT_NS
        while not task.done():
            if not self.scheduler.turn() or self.scheduler.now_ns > limit_ns:
                raise AssertionError("the coroutine waits for something that never comes")
        return task.result()

    def start(self) -> Database:
        """Open the database in this life."""
        events = Events()
        events.subscribe(lambda name, fields: self.seen.append((name, dict(fields))))
        self.db = self.run(Database.open(self, self.config, events))
        return self.db

    def crash(self, power: bool = True) -> None:
        """End this life: kill -9, or (`power`) a power cut too."""
        GRAVEYARD.append((self.scheduler, self.disk, self.tasks, getattr(self, "db", None)))
        now_ns = self.scheduler.now_ns
        old = self.disk
        self.scheduler = InlineScheduler()
        self.scheduler.now_ns = now_ns
        self.tasks = Tasks(self.scheduler)
        self.clock._scheduler = self.scheduler
        self.disk = old.survivor(self.scheduler if self.suspend else None, power)
        # Nobody runs there any more: the coroutines are kept, their memory is not.
        old.files.clear()
        old.undo.clear()
        database = getattr(self, "db", None)
        if database is not None:
            database.pool._pages.clear()

    def restart(self, power: bool = True) -> Database:
        self.crash(power)
        return self.start()

    def close(self) -> None:
        self.run(self.db.close())

    def check(self) -> None:
        """The whole-database check, when everything has come to rest."""
        self.rest()
        assert self.run(check_database(self.db)) == []

    def rest(self, seconds: float = 5) -> None:
        """Let the background do its work."""
        self.run(self.tasks.sleep(int(seconds * SECOND_NS)))

    def spawn(self, coro: Coroutine[Any, Any, T]) -> Task[T]:
        task = self.tasks.spawn(coro, "session")
        self.scheduler.settle()
        return task

    def settle(self) -> None:
        self.scheduler.settle()

    def names(self) -> list[str]:
        return [name for name, _fields in self.seen]

    # -- Pages on disk

    def page_bytes(self, page_no: int) -> bytes:
        return bytes(self.disk.files[f"{DATA}/pages.000000"][page_no * PAGE : (page_no + 1) * PAGE])

    def damage(self, page_no: int, image: bytes, offset: int = 0) -> None:
        """Put bytes into a page on disk, and forget the page in memory."""
        data = self.disk.files[f"{DATA}/pages.000000"]
        at = page_no * PAGE + offset
        data[at : at + len(image)] = image

    # -- Rows, a transaction a call

    def table(
        self, name: str = "t", pk: Sequence[int] = (0,), types: Sequence[str] = ("int4", "text"), **more: Any
    ) -> TableDef:
        return self.run(self._table(name, pk, types, more))

    async def _table(self, name: str, pk: Sequence[int], types: Sequence[str], more: dict[str, Any]) -> TableDef:
        txn = self.db.begin()
        columns = [Column("abcdefgh"[index], kind) for index, kind in enumerate(types)]
        table = await self.db.ddl.create_table(txn, name, columns, pk=pk, **more)
        await txn.commit()
        return table

    def insert(self, table: TableDef, *rows: Sequence[Any]) -> None:
        async def work() -> None:
            txn = self.db.begin()
            for row in rows:
                await self.db.insert(txn, table, row)
            await txn.commit()

        self.run(work())

    def update(self, table: TableDef, row: Sequence[Any]) -> None:
        self.run(in_txn(self.db, lambda txn: update(self.db, txn, table, row)))

    def delete(self, table: TableDef, *keys: Any) -> None:
        async def work(txn: Txn) -> None:
            for key in keys:
                await delete(self.db, txn, table, key)

        self.run(in_txn(self.db, work))

    def rows(self, table: TableDef, txn: Txn | None = None) -> list[list[Any]]:
        return self.run(rows(self.db, table, txn))


async def in_txn(db: Database, work: Callable[[Txn], Awaitable[T]], isolation: str = READ_COMMITTED) -> T:
    txn = db.begin(isolation)
    result = await work(txn)
    await txn.commit()
    return result


async def rows(db: Database, table: TableDef, txn: Txn | None = None) -> list[list[Any]]:
    """What a statement of `txn` (or of a transaction of its own) sees, in key order."""
    reader = txn or db.begin()
    reader.new_snapshot()
    decode = db.rows.table(table).row.decode
    found = []
    async for batch in db.scan(reader, table.root):
        found += [decode(payload) for _key, payload in batch]
    reader.end_statement()
    if txn is None:
        await reader.commit()
    return found


async def read(db: Database, txn: Txn, table: TableDef, key: Any) -> Any:
    """The second column of one row as a new statement of `txn` sees it; None without the row."""
    txn.new_snapshot()
    access = db.rows.table(table)
    payload = await db.rows.get(txn, table.root, key_of(db, table, key))
    txn.end_statement()
    return None if payload is None else access.row.decode(payload)[1]


def key_of(db: Database, table: TableDef, key: Any) -> bytes:
    codec = db.rows.table(table).pk_codec
    assert codec is not None
    return codec.encode(key if isinstance(key, tuple) else (key,))


async def update(db: Database, txn: Txn, table: TableDef, row: Sequence[Any]) -> None:
    """Lock a row by its key and give it new values, as a statement does."""
    txn.new_snapshot()
    access = db.rows.table(table)
    key = access.key_of(row)
    assert key is not None
    old = await db.rows.lock_row(txn, table, key)
    assert old is not None, f"no row {row[0]}"
    await db.rows.update(txn, table, key, old, row)
    txn.end_statement()


async def delete(db: Database, txn: Txn, table: TableDef, key: Any) -> bool:
    txn.new_snapshot()
    name = key_of(db, table, key)
    old = await db.rows.lock_row(txn, table, name)
    if old is not None:
        await db.rows.delete(txn, table, name, old)
    txn.end_statement()
    return old is not None

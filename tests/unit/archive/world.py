"""A database with an archiver in the engine's in-memory world; the archive is a directory of the same world."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.unit.engine.world import WAL, EngineWorld
from thunderdb.archive.archiver import Archiver
from thunderdb.archive.codec import Codec
from thunderdb.archive.directory import DirectoryStore
from thunderdb.archive.index import ArchiveIndex, StoreSource, read_index
from thunderdb.base.errors import StorageError
from thunderdb.base.events import Events
from thunderdb.engine.catalog import TableDef
from thunderdb.engine.database import Database
from thunderdb.runtime.ports import Stored, StoreWriter

ARCHIVE = "/a"
LAG_MS = 1000


class ArchiveWorld(EngineWorld):
    """`start` opens the database and its archiver; `close` stops both."""

    archiver: Archiver

    def __init__(self, **settings: Any) -> None:
        more = {"wal_archive_enabled": True, "wal_archive_lag": LAG_MS}
        if "wal_archive_command" not in settings:
            more["wal_archive_dir"] = ARCHIVE  # type: ignore[assignment]
        super().__init__(**{**more, **settings})

    def start(self) -> Database:
        events = Events()
        events.subscribe(lambda name, fields: self.seen.append((name, dict(fields))))
        self.db = self.run(Database.open(self, self.config, events))
        archiver = self.run(Archiver.open(self.db, self.config, self, events))
        assert archiver is not None
        self.archiver = archiver
        return self.db

    def close(self) -> None:
        self.run(self.archiver.stop())
        super().close()

    @property
    def store(self) -> DirectoryStore:
        return DirectoryStore(self.disk, ARCHIVE)

    def index(self) -> ArchiveIndex:
        return self.run(read_index(self.store))

    def source(self, codec: Codec | None = None) -> StoreSource:
        return StoreSource(self.store, codec or Codec(), self.offload)

    def again(self, name: str = "t") -> TableDef:
        """A table's definition in this life."""
        table = self.db.catalog.table(name)
        assert table is not None
        return table

    def archive_names(self) -> list[str]:
        return sorted(path.removeprefix(f"{ARCHIVE}/") for path in self.disk.files if path.startswith(f"{ARCHIVE}/"))

    def local(self, name: str) -> bytes:
        return bytes(self.disk.files[f"{WAL}/{name}"])

    def switch(self) -> int:
        return self.run(self.archiver.switch())

    def events(self, name: str) -> list[dict[str, Any]]:
        return [fields for seen, fields in self.seen if seen == name]


class MemoryStore:
    """One prefix of an object store that can be down, or lose answers. Satisfies `ports.ObjectStore`."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.request_bytes = 4 << 10
        self.objects: dict[str, bytes] = {}
        self.down = False
        self.lose_answers = 0
        self.hidden = ""  # a key that the listing does not show yet
        self.puts: list[str] = []
        self.on_put: Callable[[str, bytes], bytes] = lambda key, data: data

    def _reach(self) -> None:
        if self.down:
            raise StorageError(f"{self.place}: connection refused")

    def _changed(self) -> None:
        if self.lose_answers:
            self.lose_answers -= 1
            raise StorageError(f"{self.place}: the connection was lost before the answer came")

    async def get(self, key: str) -> bytes:
        self._reach()
        if key not in self.objects:
            raise FileNotFoundError(key)
        return self.objects[key]

    async def get_range(self, key: str, offset: int, size: int) -> bytes:
        return (await self.get(key))[offset : offset + size]

    async def size(self, key: str) -> int | None:
        self._reach()
        return len(self.objects[key]) if key in self.objects else None

    async def put(self, key: str, data: bytes) -> None:
        self._reach()
        self.puts.append(key)
        self.objects[key] = self.on_put(key, bytes(data))
        self._changed()

    async def put_new(self, key: str, data: bytes) -> bool:
        self._reach()
        if key in self.objects:
            return False
        await self.put(key, data)
        return True

    async def writer(self, key: str, requests: int = 1) -> StoreWriter:
        raise NotImplementedError

    async def list(self, prefix: str = "") -> list[Stored]:
        self._reach()
        keys = sorted(key for key in self.objects if key.startswith(prefix) and key != self.hidden)
        return [Stored(key, len(self.objects[key])) for key in keys]

    async def delete(self, key: str) -> None:
        self._reach()
        self.objects.pop(key, None)


class MemoryStores:
    """Every URL is a store of its own, which outlives the database."""

    def __init__(self) -> None:
        self.stores: dict[str, MemoryStore] = {}

    def open(self, url: str) -> MemoryStore:
        return self.stores.setdefault(url, MemoryStore(url))


URL = "s3://bucket/wal"


def store_world(**settings: Any) -> tuple[ArchiveWorld, MemoryStore]:
    """A world whose archive is an object store."""
    world = ArchiveWorld(**{"wal_archive_dir": URL, **settings})
    stores = MemoryStores()
    world.stores = stores  # type: ignore[assignment]
    return world, stores.open(URL)

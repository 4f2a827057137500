"""A database with an archiver in the engine's in-memory world; the archive is a directory of the same world."""

from __future__ import annotations

from typing import Any

from tests.unit.engine.world import WAL, EngineWorld
from thunderdb.archive.archiver import Archiver
from thunderdb.archive.codec import Codec
from thunderdb.archive.directory import DirectoryStore
from thunderdb.archive.index import ArchiveIndex, StoreSource, read_index
from thunderdb.base.events import Events
from thunderdb.engine.catalog import TableDef
from thunderdb.engine.database import Database

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

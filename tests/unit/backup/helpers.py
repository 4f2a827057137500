"""A database in memory with some rows, and backups of it."""

from __future__ import annotations

from typing import Any

from tests.unit.engine.world import DATA, WAL, EngineWorld
from thunderdb.backup.manifest import Manifest
from thunderdb.backup.take import BackupRequest, Progress, take_backup
from thunderdb.backup.verify import verify_backup
from thunderdb.backup.verify_report import VerifyReport
from thunderdb.engine.catalog import TableDef

WIDE = "x" * 300


class BackupWorld(EngineWorld):
    """An EngineWorld that is backed up, and restored by copying the backup back."""

    def __init__(self, rows: int = 600, **settings: Any) -> None:
        super().__init__(**settings)
        self.start()
        self.t: TableDef = self.table()
        self.fill(0, rows)
        self.taken = 0

    def fill(self, start: int, count: int) -> None:
        for at in range(start, start + count, 200):
            self.insert(self.t, *([number, WIDE] for number in range(at, min(at + 200, start + count))))

    def backup(self, destination: str, progress: Progress | None = None, **request: Any) -> Manifest:
        more = {name: request.pop(name) for name in ("cipher", "known", "archiver", "config_text") if name in request}
        self.taken += 1
        return self.run(
            take_backup(
                self.db, self, BackupRequest(destination, **request), backup_id=f"bk-20260101-{self.taken:06d}",
                progress=progress, **more,
            )
        )  # fmt: skip

    def verify(self, place: str, cipher: Any = None) -> VerifyReport:
        return self.run(verify_backup(self, place, cipher))

    def files_of(self, place: str) -> list[str]:
        return sorted(path for path in self.disk.files if path.startswith(place + "/"))

    def copied_back(self, place: str) -> EngineWorld:
        """A fresh world into whose directories a full, plain backup was copied, and started."""
        other = EngineWorld()
        for folder in ("/d", DATA, WAL):
            other.disk.dirs[folder] = None
        for path in self.files_of(place):
            name = path.removeprefix(place)
            if name.startswith(("/data/", "/wal/")):
                other.disk.files[f"/d{name}"] = bytearray(self.disk.files[path])
        other.config = self.config
        other.start()
        return other

    def restored_rows(self, place: str) -> list[list[Any]]:
        other = self.copied_back(place)
        found = other.rows(other.db.catalog.table("t"))  # type: ignore[arg-type]
        other.check()
        return found

"""What the daemon does about backups and the archive, for the admin API: over the archiver, the jobs and the schedule."""

from __future__ import annotations

from typing import Any

from thunderdb.base.errors import Refused
from thunderdb.engine.database import Database
from thunderdb.runtime.real_ports import RealPorts


class NodeOperator:
    """Satisfies `admin_backup.Operator` over an open database."""

    def __init__(self, database: Database, ports: RealPorts) -> None:
        self.database = database
        self.ports = ports

    async def backup(self, request: dict[str, Any]) -> dict[str, Any]:
        raise Refused("backups are not available yet")

    async def backup_status(self, backup_id: str) -> dict[str, Any] | None:
        return None

    async def backups(self) -> list[dict[str, Any]]:
        return []

    async def cancel(self, backup_id: str) -> dict[str, Any] | None:
        return None

    async def archive_status(self) -> dict[str, Any]:
        return {"archiving_enabled": self.database.config.wal_archive_enabled}

    async def switch_wal(self) -> dict[str, Any]:
        number = self.database.log.switch_segment()
        return {"segment": number}

    async def retention(self) -> dict[str, Any]:
        return {"version": 1, "objects": []}

    async def real_path(self, path: str) -> str:
        """The path without links; what is not there yet is taken as it is written."""
        return await self.ports.disk.resolve(path)

"""Joins the daemon to the engine: opens the database and gives each client its SQL session. Imports the heavy parts."""

from __future__ import annotations

from collections.abc import Mapping

from thunderdb.archive.cipher import load_cipher
from thunderdb.base.config import Config
from thunderdb.base.errors import ThunderError
from thunderdb.base.events import Events
from thunderdb.engine.database import Database
from thunderdb.runtime.real_ports import RealPorts
from thunderdb.server.admin import CheckpointTaken
from thunderdb.server.admin_backup import Operator
from thunderdb.server.operator import NodeOperator
from thunderdb.server.sessions import SqlFactory
from thunderdb.sql.executor import SqlSession


class OpenDatabase:
    """An open database, as the daemon sees it."""

    def __init__(self, database: Database, ports: RealPorts, operator: NodeOperator) -> None:
        self.database = database
        self.operator: Operator = operator
        self._operator = operator
        self._ports = ports

    async def checkpoint(self, hold_ns: int = 0) -> CheckpointTaken:
        done = await self.database.checkpoint(hold_ns)
        return CheckpointTaken(done.checkpoint_lsn, done.redo_lsn, done.hold_until_ns)

    def gauges(self) -> dict[str, float]:
        return self.database.gauges()

    def session_factory(self) -> SqlFactory:
        def make(user: str, parameters: Mapping[str, str], pid: int) -> SqlSession:
            return SqlSession(self.database, user, self._ports.clock, parameters, pid)

        return make

    def backup_gauges(self) -> dict[str, float]:
        return self._operator.gauges()

    async def close(self) -> None:
        """Schedule, backups, archiver, database: each is stopped before what it stands on."""
        await self._operator.close()
        await self.database.close()


async def open_engine(ports: RealPorts, config: Config, events: Events) -> OpenDatabase:
    """Open (or create, or recover) the database; whatever makes it fail later stops the node."""
    cipher = await load_cipher(ports, config)  # an unusable key is found before anything is touched
    database = await Database.open(ports, config, events)
    database.on_fatal = ports.scheduler.crashed
    try:
        operator = await NodeOperator.open(database, ports, config, events, cipher)
    except (ThunderError, OSError):
        await database.close()
        raise
    return OpenDatabase(database, ports, operator)

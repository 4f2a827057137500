"""A database in memory and a session on it, for SQL tests: statements in, values as text out."""

from __future__ import annotations

import struct
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

from thunderdb.base.config import Config
from thunderdb.base.events import Events
from thunderdb.engine.database import Database
from thunderdb.runtime.inline import InlineWorld
from thunderdb.sql.executor import SqlSession


class Client:
    """One session. `run` gives the rows of the last statement, as PostgreSQL would print them."""

    def __init__(self, session: SqlSession, world: InlineWorld) -> None:
        self.session = session
        self.world = world
        self.tag = ""

    async def results(self, sql: str) -> list[tuple[str, list[tuple[str | None, ...]]]]:
        found = []
        async for result in self.session.simple(sql):
            data = result.data + b"".join([chunk async for chunk in result.more or _nothing()])
            found.append((result.tag, decode_rows(data)))
        return found

    async def query(self, sql: str) -> list[tuple[str | None, ...]]:
        found = await self.results(sql)
        self.tag = found[-1][0] if found else ""
        return found[-1][1] if found else []

    def run(self, sql: str) -> list[tuple[str | None, ...]]:
        return self.world.run(self.query(sql))


async def _nothing() -> Any:
    return
    yield


def decode_rows(data: bytes) -> list[tuple[str | None, ...]]:
    rows, at = [], 0
    while at < len(data):
        _, length, count = struct.unpack_from("!cIH", data, at)
        position, values = at + 7, []
        for _ in range(count):
            (size,) = struct.unpack_from("!i", data, position)
            position += 4
            values.append(None if size < 0 else data[position : position + size].decode())
            position += max(size, 0)
        rows.append(tuple(values))
        at += length + 1
    return rows


class TestDatabase:
    """Opened once per test; `client()` makes sessions."""

    __test__ = False

    def __init__(self, world: InlineWorld | None = None, **settings: Any) -> None:
        self.world = InlineWorld() if world is None else world
        self.db = self.world.run(Database.open(self.world, replace(make_config(), **settings), Events()))

    @classmethod
    def reopened(cls, other: TestDatabase, **settings: Any) -> TestDatabase:
        """The database of a closed one, opened again."""
        return cls(other.world, **settings)

    def client(self, **settings: str) -> Client:
        return Client(SqlSession(self.db, "admin", self.world.clock, settings, 7), self.world)

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.world.run(work)

    def close(self) -> None:
        self.world.run(self.db.close())


def make_config() -> Config:
    return Config(data_dir="/db/data", wal_dir="/db/wal", wal_segment_size=1 << 20, buffer_pool_size=4 << 20)

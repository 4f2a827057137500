"""A client connection held in memory, and a SQL session that obeys a few made-up commands."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from thunderdb.base.errors import InvariantViolated, QueryCancelled, SqlError
from thunderdb.base.events import Events
from thunderdb.runtime.inline import InlineWorld
from thunderdb.runtime.sync import Future
from thunderdb.server.sessions import Sessions
from thunderdb.sql.result import CopyOut, Notice, Result, ResultColumn, describe, row_encoder
from thunderdb.sql.settings import Settings

COLUMNS = (ResultColumn("value", "text", 25),)
ROW = row_encoder([str.encode])


class FakeCopyIn:
    binary = False
    column_count = 1

    def __init__(self, session: FakeSql, result: Result) -> None:
        self.session, self.result, self.pieces = session, result, [b""]

    async def feed(self, data: bytes) -> None:
        self.pieces.append(data)
        if b"bad row" in data:
            raise SqlError("22P02", "bad row")

    async def finish(self) -> None:
        self.result.tag = f"COPY {b''.join(self.pieces).count(10)}"

    async def fail(self, message: str) -> None:
        self.session.log.append(f"copy failed: {message}")
        raise SqlError("57014", message)


class FakeSql:
    """Commands: echo X, wait, many N, fail, crash, violate, begin, rollback, notice X, set X, copyin, copyout, or empty."""

    def __init__(self, user: str, parameters: Mapping[str, str], pid: int, world: Any) -> None:
        if "bad_setting" in parameters:
            raise SqlError("22023", "invalid value for bad_setting")
        self.user, self.parameters, self.pid = user, parameters, pid
        self.status = "I"
        self.log: list[str] = []
        self.world = world
        self.waiting: Future[None] | None = None
        self.prepared: dict[str, str] = {}
        self.portals: dict[str, list[str]] = {}
        self.changes: list[tuple[str, str]] = []
        self.notices: list[Notice] = []
        self.extended = self
        self.settings = Settings({}, user)

    def parameter_statuses(self) -> dict[str, str]:
        return {"server_version": "15.0", "client_encoding": "UTF8"}

    def take_parameter_changes(self) -> list[tuple[str, str]]:
        changes, self.changes = self.changes, []
        return changes

    def take_notices(self) -> list[Notice]:
        notices, self.notices = self.notices, []
        return notices

    def quick(self, sql: str) -> Result | None:
        return None

    async def simple(self, sql: str) -> AsyncIterator[Result]:
        for statement in sql.split(";"):
            yield await self.run(statement.strip(), describe(COLUMNS))

    async def run(self, statement: str, description: bytes) -> Result:
        verb, _, rest = statement.partition(" ")
        self.log.append(statement)
        if verb == "echo":
            return Result("SELECT 1", COLUMNS, description, ROW([rest]))
        if verb == "wait":
            self.waiting = self.world.tasks.future()
            await self.waiting
            return Result("WAITED")
        if verb == "many":
            return Result(f"SELECT {rest}", COLUMNS, description, b"", self.rows(int(rest)))
        if verb == "fail":
            self.status = "E" if self.status == "T" else self.status
            raise SqlError("42601", "syntax error", "detail", "hint", 7)
        if verb == "crash":
            raise TypeError("a bug")
        if verb == "violate":
            raise InvariantViolated("impossible")
        if verb in ("begin", "rollback"):
            self.status = "T" if verb == "begin" else "I"
            return Result(verb.upper())
        if verb == "notice":
            self.notices.append(Notice("NOTICE", "00000", rest))
            return Result("NOTICE")
        if verb == "set":
            self.changes.append(("TimeZone", rest))
            return Result("SET")
        result = Result("COPY 0")
        if verb == "copyin":
            result.copy_in = FakeCopyIn(self, result)
        elif verb == "copyout":
            result.copy_out, result.more = CopyOut(False, 1), self.lines()
        else:
            result.empty = True
        return result

    async def rows(self, count: int) -> AsyncIterator[bytes]:
        for number in range(0, count, 100):
            yield b"".join(ROW([str(row)]) for row in range(number, min(number + 100, count)))

    async def lines(self) -> AsyncIterator[Any]:
        yield [b"a\n", b"b\n"]

    def parse_quickly(self, name: str, sql: str, param_oids: Sequence[int]) -> bool:
        return False

    def execute_quickly(self, portal: str, max_rows: int) -> Result | None:
        return None

    def sync_quickly(self) -> Result | None:
        return None

    async def parse(self, name: str, sql: str, param_oids: Sequence[int] = ()) -> None:
        if sql == "fail":
            raise SqlError("42601", "syntax error")
        self.prepared[name] = sql

    def bind(self, portal: str, statement: str, formats: Any, values: Any, result_formats: Any) -> None:
        if statement not in self.prepared:
            raise SqlError("26000", f'prepared statement "{statement}" does not exist')
        self.portals[portal] = [self.prepared[statement]]

    def describe_statement(self, name: str) -> tuple[bytes, bytes]:
        return b"t\0\0\0\x06\0\0", describe(COLUMNS)

    def describe_portal(self, name: str) -> bytes:
        return describe(COLUMNS)

    async def execute(self, portal: str, max_rows: int = 0) -> Result:
        if portal not in self.portals:
            raise SqlError("34000", f'portal "{portal}" does not exist')
        result = await self.run(self.portals[portal][0], b"")
        result.suspended = max_rows == 1
        return result

    def close_statement(self, name: str) -> None:
        self.prepared.pop(name, None)

    def close_portal(self, name: str) -> None:
        self.portals.pop(name, None)

    async def sync(self) -> None:
        self.log.append("sync")

    async def failed(self) -> None:
        self.log.append("failed")

    def cancel(self) -> None:
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_error(QueryCancelled("canceling statement due to user request"))

    async def close(self) -> None:
        self.log.append("close")


class FakeConnection:
    def __init__(self) -> None:
        self.peer = "127.0.0.1:4321"
        self.writes: list[bytes] = []
        self.closed = False
        self.paused = False
        self.write_buffer_bytes = 0
        self.room: Future[None] | None = None
        self.drains = 0
        self.on_data: Callable[[bytes], None] = lambda data: None
        self.on_close: Callable[[BaseException | None], None] = lambda error: None

    def set_callbacks(self, on_data: Callable[[bytes], None], on_close: Callable[[BaseException | None], None]) -> None:
        self.on_data, self.on_close = on_data, on_close

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    async def drain(self) -> None:
        self.drains += 1
        if self.room is not None:
            await self.room

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.on_close(None)

    abort = close


class Bench:
    """A world with sessions in it, and helpers to talk to them."""

    def __init__(self, max_connections: int = 10) -> None:
        self.world = InlineWorld()
        self.events: list[tuple[str, dict[str, Any]]] = []
        events = Events()
        events.subscribe(lambda name, fields: self.events.append((name, fields)))
        self.sessions = Sessions(self.world.tasks, self.world.random, events, max_connections)
        self.made: list[FakeSql] = []
        self.sessions.open(self.make_sql)

    def make_sql(self, user: str, parameters: Mapping[str, str], pid: int) -> Any:
        sql = FakeSql(user, parameters, pid, self.world)
        self.made.append(sql)
        return sql

    def connect(self) -> FakeConnection:
        connection = FakeConnection()
        self.sessions.accept(connection)
        return connection

    def client(self) -> FakeConnection:
        """A connection that has started up, its greeting read."""
        connection = self.connect()
        connection.on_data(startup(b"user\0ada\0"))
        connection.writes.clear()
        return connection

    def settle(self) -> None:
        self.world.scheduler.settle()


def startup(parameters: bytes, version: int = 3 << 16) -> bytes:
    return struct.pack(">II", 9 + len(parameters), version) + parameters + b"\0"


def frame(kind: str, body: bytes = b"") -> bytes:
    return kind.encode() + struct.pack(">I", len(body) + 4) + body


def query(sql: str) -> bytes:
    return frame("Q", sql.encode() + b"\0")


def parse(sql: str, name: str = "") -> bytes:
    return frame("P", name.encode() + b"\0" + sql.encode() + b"\0\0\0")


def bind(name: str = "") -> bytes:
    return frame("B", b"\0" + name.encode() + b"\0" + b"\0\0" * 3)


def execute(max_rows: int = 0) -> bytes:
    return frame("E", b"\0" + struct.pack(">I", max_rows))


def read(connection: FakeConnection) -> list[tuple[str, bytes]]:
    """Take what the server has written, as messages."""
    data = b"".join(connection.writes)
    connection.writes.clear()
    return messages_of(data)


def messages_of(data: bytes) -> list[tuple[str, bytes]]:
    found = []
    while len(data) >= 5:
        size = struct.unpack_from(">I", data, 1)[0]
        found.append((chr(data[0]), data[5 : size + 1]))
        data = data[size + 1 :]
    return found


def kinds(connection: FakeConnection) -> str:
    """The kinds of what the server has written, e.g. "TDCZ"."""
    return "".join(kind for kind, _ in read(connection))


def kinds_of(data: bytes) -> str:
    return "".join(kind for kind, _ in messages_of(data))


def error_fields(body: bytes) -> dict[str, str]:
    return {part[:1].decode(): part[1:].decode() for part in body.split(b"\0") if part}


class FakeOperator:
    """Remembers what it was asked for; `real` says where links lead."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.real: dict[str, str] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.error: Exception | None = None

    async def backup(self, request: dict[str, Any]) -> dict[str, Any]:
        if self.error is not None:
            raise self.error
        self.asked.append(request)
        job = {
            "status": "started",
            "backup_id": f"bk-20260115-10304{len(self.jobs)}",
            "destination": request["destination"],
            "estimated_size_bytes": 5368709120,
        }
        self.jobs[job["backup_id"]] = job
        return job

    async def backup_status(self, backup_id: str) -> dict[str, Any] | None:
        return self.jobs.get(backup_id)

    async def backups(self) -> list[dict[str, Any]]:
        return list(reversed(self.jobs.values()))

    async def cancel(self, backup_id: str) -> dict[str, Any] | None:
        job = self.jobs.get(backup_id)
        return None if job is None else {**job, "status": "failed", "error": "cancelled"}

    async def archive_status(self) -> dict[str, Any]:
        return {"archiving_enabled": False}

    async def switch_wal(self) -> dict[str, Any]:
        if self.error is not None:
            raise self.error
        return {"segment": "000000010000000000000042"}

    async def retention(self) -> dict[str, Any]:
        return {"version": 1, "objects": []}

    async def real_path(self, path: str) -> str:
        return self.real.get(path, path)

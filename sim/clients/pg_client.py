"""A small PostgreSQL client over the simulated network: one simple query at a time, or one through the extended protocol."""

from __future__ import annotations

import functools
import struct
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from sim.world.world import SimPorts
from thunderdb.base.errors import SqlError
from thunderdb.runtime.ports import Connection
from thunderdb.runtime.sync import Future

PORT = 5432
_LENGTH = struct.Struct("!I")
_STARTUP_3_0 = 196608


class Disconnected(Exception):
    """The connection is gone: what was under way has an unknown outcome."""


@dataclass(slots=True)
class Reply:
    """What came between a request and its ReadyForQuery."""

    bodies: list[bytes] = field(default_factory=list)
    """The DataRow messages."""
    columns: tuple[str, ...] = ()
    tag: str = ""
    error: SqlError | None = None
    status: str = "I"

    @property
    def rows(self) -> list[tuple[str | None, ...]]:
        """The rows as text."""
        return [texts(body) for body in self.bodies]


class PgConnection:
    """One connection. Everything is text."""

    def __init__(self, ports: SimPorts) -> None:
        self._ports = ports
        self._tasks = ports.tasks
        self._connection: Connection | None = None
        self._buffer = b""
        self._reply = Reply()
        self._replies: deque[Reply] = deque()
        self._waiter: Future[None] | None = None
        self.pid = 0
        self.closed = False

    async def connect(self, host: str, settings: dict[str, str]) -> None:
        """Raises: Disconnected; SqlError if the server does not let us in."""
        self._connection = connection = await self._reach(host)
        connection.set_callbacks(self._on_data, self._on_close)
        parameters = {"user": "sim", "database": "thunderdb", **settings}
        body = b"".join(name.encode() + b"\0" + value.encode() + b"\0" for name, value in parameters.items()) + b"\0"
        connection.write(_LENGTH.pack(len(body) + 8) + _LENGTH.pack(_STARTUP_3_0) + body)
        await self._result()

    async def _reach(self, host: str) -> Connection:
        """A stream to the server; `lost` ends the wait for a machine that does not answer."""
        task = self._tasks.spawn(self._ports.network.connect(host, PORT), "connect")
        self._waiter = waiter = self._tasks.future()
        task.add_done_callback(lambda _: waiter.set_result(None))
        await waiter
        self._waiter = None
        if not task.done():
            task.add_done_callback(lambda _: None if task.error() else task.result().abort())
            raise Disconnected("the server's machine is dead")
        try:
            return task.result()
        except ConnectionError as error:
            raise Disconnected(str(error)) from None

    async def query(self, sql: str) -> Reply:
        """Send a simple query, await its reply. Raises: SqlError, Disconnected."""
        self._send(_message(b"Q", sql.encode() + b"\0"))
        return await self._result()

    async def extended(self, sql: str, values: tuple[Any, ...]) -> Reply:
        """Send parse, bind, execute and sync at once, await the reply. Raises: SqlError, Disconnected."""
        texts = [None if value is None else str(value).encode() for value in values]
        parameters = b"".join(_LENGTH.pack(0xFFFFFFFF) if text is None else _LENGTH.pack(len(text)) + text for text in texts)
        bind = b"\0\0" + struct.pack("!HH", 0, len(values)) + parameters + struct.pack("!H", 0)
        self._send(
            _message(b"P", b"\0" + sql.encode() + b"\0" + struct.pack("!H", 0)) + _message(b"B", bind)
            + _message(b"D", b"P\0") + _message(b"E", b"\0" + _LENGTH.pack(0)) + _message(b"S", b"")
        )  # fmt: skip
        return await self._result()

    def abort(self) -> None:
        """Reset the connection, as a client that dies does."""
        if self._connection is not None and not self.closed:
            self._connection.abort()
        self.lost()

    def lost(self) -> None:
        """The other side is dead: give up waiting for it."""
        self.closed = True
        if self._waiter is not None:
            self._waiter.set_result(None)

    def _send(self, data: bytes) -> None:
        if self.closed or self._connection is None:
            raise Disconnected("closed")
        self._connection.write(data)

    async def _result(self) -> Reply:
        while not self._replies:
            if self.closed:
                raise Disconnected("closed while waiting")
            self._waiter = waiter = self._tasks.future()
            await waiter
            self._waiter = None
        reply = self._replies.popleft()
        error, reply.error = reply.error, None
        if error is None:
            return reply
        try:
            raise error
        finally:
            del error  # or it would be in a frame of its own traceback: a cycle

    def _on_close(self, _error: BaseException | None) -> None:
        if self._reply.error is not None:  # the last words of a server that ends the connection
            self._replies.append(self._reply)
        self.lost()

    def _on_data(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        position, end = 0, len(buffer)
        while end - position >= 5:
            stop = position + 1 + _LENGTH.unpack_from(buffer, position + 1)[0]
            if stop > end:
                break
            if buffer[position] == 0x44:  # D
                self._reply.bodies.append(buffer[position + 5 : stop])
            else:
                self._on_message(buffer[position], buffer[position + 5 : stop])
            position = stop
        self._buffer = buffer[position:]

    def _on_message(self, kind: int, body: bytes) -> None:
        reply = self._reply
        if kind == 0x43:  # C
            reply.tag = body[:-1].decode()
        elif kind == 0x54:  # T
            reply.columns = _columns(body)
        elif kind == 0x45:  # E
            reply.error = _error(body)
        elif kind == 0x4B:  # K
            self.pid = _LENGTH.unpack_from(body)[0]
        elif kind == 0x5A:  # Z
            reply.status = chr(body[0])
            self._reply = Reply()
            self._replies.append(reply)
            if self._waiter is not None:
                self._waiter.set_result(None)


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + _LENGTH.pack(len(body) + 4) + body


def texts(body: bytes) -> tuple[str | None, ...]:
    """A DataRow's values."""
    count = int.from_bytes(body[:2], "big")
    position = 2
    values: list[str | None] = []
    for _ in range(count):
        size = _LENGTH.unpack_from(body, position)[0]
        position += 4
        if size == 0xFFFFFFFF:
            values.append(None)
        else:
            values.append(body[position : position + size].decode())
            position += size
    return tuple(values)


@functools.lru_cache(256)
def _columns(body: bytes) -> tuple[str, ...]:
    names, position = [], 2
    for _ in range(int.from_bytes(body[:2], "big")):
        end = body.index(b"\0", position)
        names.append(body[position:end].decode())
        position = end + 19
    return tuple(names)


def _error(body: bytes) -> SqlError:
    fields = {part[:1]: part[1:].decode() for part in body.split(b"\0") if part}
    return SqlError(fields.get(b"C", "XX000"), fields.get(b"M", ""), fields.get(b"D", ""), fields.get(b"H", ""))

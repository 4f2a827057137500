"""`Network` on asyncio's transports: no streams, no task per connection, bytes go straight from the loop to `on_data`.

T1. `on_data` is never called before `set_callbacks`, nor after `on_close`; `on_close` is called exactly once, also for our own
    close and abort.
T2. A peer that closes its sending side has closed the connection: there are no half-open ones.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from typing import Any

from thunderdb.base.errors import StorageError
from thunderdb.runtime.ports import Connection
from thunderdb.runtime.real_tasks import AsyncioScheduler, from_asyncio
from thunderdb.runtime.sync import Future

LISTEN_BACKLOG = 512


KEEPALIVE_IDLE_S = 60
KEEPALIVE_INTERVAL_S = 10
KEEPALIVE_PROBES = 3


class RealConnection(asyncio.Protocol):
    """One side of a TCP stream."""

    __slots__ = (
        "peer",
        "_scheduler",
        "_on_connect",
        "_transport",
        "_on_data",
        "_on_close",
        "_lost",
        "_writable",
        "_error",
        "_room",
        "_paused",
    )

    def __init__(self, scheduler: AsyncioScheduler, on_connect: Callable[[Connection], None] | None = None) -> None:
        self.peer = ""
        self._scheduler = scheduler
        self._on_connect = on_connect
        self._transport: Any = None
        self._on_data: Callable[[bytes], None] | None = None
        self._on_close: Callable[[BaseException | None], None] | None = None
        self._lost = False
        self._writable = True
        self._error: BaseException | None = None
        self._room: Future[None] | None = None
        self._paused = False

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        _set_options(transport.get_extra_info("socket"))
        address = transport.get_extra_info("peername")
        self.peer = f"{address[0]}:{address[1]}" if address else "unknown"
        if self._on_connect is not None:
            self._on_connect(self)
        if self._on_data is None:
            self._transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        if self._on_data is not None:
            self._on_data(data)

    def eof_received(self) -> None:
        return None  # Closes the transport.

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._writable = False
        self._error = exc
        self.resume_writing()
        if self._on_close is not None:
            self._on_close(exc)

    def pause_writing(self) -> None:
        self._room = Future(self._scheduler)

    def resume_writing(self) -> None:
        if self._room is not None:
            self._room.set_result(None)
            self._room = None

    # What the engine calls.

    def set_callbacks(self, on_data: Callable[[bytes], None], on_close: Callable[[BaseException | None], None]) -> None:
        first = self._on_data is None
        self._on_data = on_data
        self._on_close = on_close
        if self._lost:
            self._scheduler.call_soon(on_close, self._error)
        elif first and not self._paused:
            self._transport.resume_reading()

    @property
    def write_buffer_bytes(self) -> int:
        size: int = self._transport.get_write_buffer_size()
        return size

    def write(self, data: bytes) -> None:
        if self._writable:
            self._transport.write(data)

    async def drain(self) -> None:
        if self._room is not None:
            await self._room

    def pause(self) -> None:
        self._paused = True
        if not self._lost and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        self._paused = False
        if not self._lost and not self._transport.is_closing() and self._on_data is not None:
            self._transport.resume_reading()

    def close(self) -> None:
        self._writable = False
        self._transport.close()

    def abort(self) -> None:
        self._writable = False
        self._transport.abort()


def _set_options(sock: socket.socket) -> None:
    """Answers go out at once; a peer that is silently gone is noticed after KEEPALIVE_IDLE_S and some probes.

    Without the latter, a client that dies behind a partition would keep its transaction, and its locks, for ever.
    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_IDLE_S),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL_S),
        ("TCP_KEEPCNT", KEEPALIVE_PROBES),
    ):
        option = getattr(socket, name, None)  # not every system can set them
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


class RealListener:
    def __init__(self, server: asyncio.Server) -> None:
        self._server = server
        self.port: int = server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stop listening; connections already made go on."""
        self._server.close()


class RealNetwork:
    def __init__(self, scheduler: AsyncioScheduler) -> None:
        self._scheduler = scheduler

    async def connect(self, host: str, port: int) -> Connection:
        try:
            return await from_asyncio(self._scheduler, self._connect(host, port))
        except OSError as error:
            raise ConnectionError(f"cannot connect to {host}:{port}: {_reason(error)}") from error

    async def _connect(self, host: str, port: int) -> RealConnection:
        _, connection = await self._scheduler.loop.create_connection(lambda: RealConnection(self._scheduler), host, port)
        return connection

    async def listen(self, host: str, port: int, on_connect: Callable[[Connection], None]) -> RealListener:
        def accept() -> RealConnection:
            return RealConnection(self._scheduler, on_connect)

        try:
            server = await from_asyncio(self._scheduler, self._serve(accept, host, port))
        except OSError as error:
            raise StorageError(f"cannot listen on {host}:{port}: {_reason(error)}", _hint(error, host, port)) from error
        return RealListener(server)

    async def _serve(self, accept: Callable[[], RealConnection], host: str, port: int) -> asyncio.Server:
        return await self._scheduler.loop.create_server(accept, host, port, backlog=LISTEN_BACKLOG)


def _reason(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return error.strerror or "unknown host"
    return os.strerror(error.errno) if error.errno else str(error)


def _hint(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"another process listens on port {port} (`ss -ltnp` shows which): stop it, or choose another port"
    if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        return f"{host} is not an address of this machine"
    if error.errno == errno.EACCES:
        return "ports below 1024 need a privilege: choose a higher one"
    return ""

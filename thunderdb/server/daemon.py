"""The daemon: from a configuration to a node that serves, and back to a clean stop. The server's composition root.

    bind SQL and HTTP ports → open the database (recovery) → let clients in → wait → shut down

D1. Ports are bound before any file is touched: a second daemon, or a taken port, changes nothing.
D2. HTTP answers from before recovery on; SQL clients are told that the system is starting up (57P03).
D3. A clean stop refuses new clients, ends sessions, takes a last checkpoint. After a fatal error nothing more is written.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

from thunderdb import __version__
from thunderdb.base.config import Config
from thunderdb.base.errors import StorageError, ThunderError
from thunderdb.base.events import Events
from thunderdb.runtime.ports import Listener
from thunderdb.runtime.real_ports import RealPorts, real_ports
from thunderdb.runtime.real_tasks import run_engine
from thunderdb.server.admin import AdminApi, CheckpointTaken, NotReady
from thunderdb.server.admin_backup import Operator
from thunderdb.server.auth import read_token
from thunderdb.server.interpreter import tune_interpreter
from thunderdb.server.logs import log_writer
from thunderdb.server.metrics import NodeCollector, registry_of
from thunderdb.server.sessions import Sessions, SqlFactory
from thunderdb.server.state import NodeState

SESSION_GRACE_NS = 5_000_000_000
FATAL_GRACE_S = 0.2
OWN_FILES = 100
"""Descriptors that the daemon itself may need: log, pages, libraries, backups, HTTP."""


class Engine(Protocol):
    """What the daemon needs of an open database."""

    operator: Operator

    async def checkpoint(self, hold_ns: int = 0) -> CheckpointTaken: ...

    def gauges(self) -> dict[str, float]: ...

    def backup_gauges(self) -> dict[str, float]: ...

    def session_factory(self) -> SqlFactory: ...

    async def close(self) -> None: ...


OpenEngine = Callable[[RealPorts, Config, Events], Coroutine[Any, Any, Engine]]


@dataclass(slots=True)
class Outcome:
    """How a daemon ended: exit code, whether by a clean shutdown, and the error that ended it, if any."""

    exit_code: int
    clean: bool
    error: ThunderError | None = None


class Daemon:
    """One node. `run` is its whole life."""

    def __init__(self, config: Config, open_engine: OpenEngine) -> None:
        self.config = config
        self.state = NodeState()
        self.events = Events()
        self.events.subscribe(self.state.on_event)
        self.events.subscribe(log_writer(config.level, config.format))
        self.pg_port = 0
        self._open_engine = open_engine
        self._began_s = time.monotonic()
        self._engine: Engine | None = None
        self._ports: RealPorts | None = None
        self._stop: asyncio.Future[str] | None = None

    # ---- what the admin API asks ----------------------------------------------------------------------------------------

    async def checkpoint(self, hold_ms: int) -> CheckpointTaken:
        engine, ports = self._ready()
        return await run_engine(ports.tasks, engine.checkpoint(hold_ms * 1_000_000), "checkpoint")

    async def operate(self, action: Callable[[Operator], Coroutine[Any, Any, Any]]) -> Any:
        engine, ports = self._ready()
        return await run_engine(ports.tasks, action(engine.operator), "operator")

    def _ready(self) -> tuple[Engine, RealPorts]:
        if self._engine is None or self._ports is None or not self.state.ready:
            raise NotReady(f"the node is not ready: {self.state.phase}", "wait until /admin/ready answers 200")
        return self._engine, self._ports

    def health(self) -> dict[str, Any]:
        phase = self.state.phase
        return {
            "status": "failed" if phase == "failed" else "healthy" if phase == "ready" else "starting",
            "phase": phase,
            "node_id": self.config.node_id,
            "version": __version__,
            "uptime_s": round(time.monotonic() - self._began_s, 3),
            "error": self.state.error,
            **({"engine": self._engine.gauges()} if self._engine is not None else {}),
        }

    # ---- life -----------------------------------------------------------------------------------------------------------

    async def run(self) -> Outcome:
        """Serve until a signal or a fatal error."""
        loop = asyncio.get_running_loop()
        self._stop = loop.create_future()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        # As for other daemons SIGHUP means "read the configuration again", which this one does at a start only: it must not die
        # of a reload. Of a terminal that is closed it does, cleanly.
        loop.add_signal_handler(signal.SIGHUP, self._on_hang_up)
        self.events.emit("server.starting", version=__version__, node_id=self.config.node_id)
        _raise_file_limit(self.config, self.events)
        ports = self._ports = real_ports(on_fatal=self._on_fatal)
        sessions = Sessions(ports.tasks, ports.random, self.events, self.config.max_connections)
        collector = NodeCollector(__version__, self.config.node_id, self.state, sessions, self._uptime_s)
        api = AdminApi(self, registry_of(collector))
        try:
            api.token = read_token(self.config.admin_token_file)
            listener = await self._bind(ports, sessions, api)
            await self._guarded(self._open(ports, sessions, collector))
            return await self._serve(ports, sessions, listener, api)
        except _Stopped as stopped:
            await api.close()
            return self._fail(stopped.error) if stopped.error else Outcome(0, clean=False)
        except ThunderError as error:
            await api.close()
            return self._fail(error)

    def _uptime_s(self) -> float:
        return time.monotonic() - self._began_s

    async def _bind(self, ports: RealPorts, sessions: Sessions, api: AdminApi) -> Listener:
        """D1 and D2. Raises: StorageError, naming host and port."""
        config = self.config
        listener = await run_engine(ports.tasks, ports.network.listen(config.listen_addr, config.pg_port, sessions.accept))
        self.pg_port = listener.port
        try:
            await api.start(config.http_listen_addr, config.http_port)
        except OSError as error:
            where = f"{config.http_listen_addr}:{config.http_port}"
            raise StorageError(
                f"cannot listen on {where}: {os.strerror(error.errno or 0)}",
                f"another process may use port {config.http_port}: stop it, or choose another with --http-port",
            ) from None
        self.events.emit("server.http_listening", address=f"{config.http_listen_addr}:{api.port}")
        return listener

    async def _open(self, ports: RealPorts, sessions: Sessions, collector: NodeCollector) -> None:
        try:
            self._engine = await run_engine(ports.tasks, self._open_engine(ports, self.config, self.events))
        except OSError as error:
            message = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
            raise StorageError(
                f"cannot open the database: {message}",
                "check owner and permissions, or name others with --data-dir and --wal-dir",
            ) from None
        collector.engine, collector.operator = self._engine.gauges, self._engine.backup_gauges
        sessions.open(self._engine.session_factory())
        address = f"{self.config.listen_addr}:{self.pg_port}"
        self.events.emit("server.ready", address=address, duration_s=self._uptime_s())

    async def _guarded(self, opening: Awaitable[None]) -> None:
        """Await the start, unless a signal or a fatal error comes first. Raises: _Stopped, ThunderError."""
        stop = self._stop_future()
        task = asyncio.ensure_future(opening)
        await _first_of(task, stop)
        if task.done():
            task.result()
            return
        # A recovery that is cut short is a crash like any other: the next start does it again.
        raise _Stopped(self._fatal_error())

    async def _serve(self, ports: RealPorts, sessions: Sessions, listener: Listener, api: AdminApi) -> Outcome:
        stop = self._stop_future()
        await asyncio.wait([stop])
        error = self._fatal_error()
        if error is not None:
            await api.close()
            return self._fail(error)
        self.events.emit("server.stopping", reason=stop.result())
        self._stop = asyncio.get_running_loop().create_future()
        task = asyncio.ensure_future(self._shut_down(ports, sessions, listener))
        await _first_of(task, self._stop)
        await api.close()
        if not task.done():
            return self._fail(
                self._fatal_error() or StorageError("stopped by a second signal before the shutdown was complete")
            )
        try:
            task.result()
        except OSError as gone:
            return self._fail(_storage_error("the shutdown could not be completed", gone))
        ports.close()
        self.events.emit("server.stopped")
        return Outcome(0, clean=True)

    async def _shut_down(self, ports: RealPorts, sessions: Sessions, listener: Listener) -> None:
        """D3."""
        await run_engine(ports.tasks, listener.close())
        await run_engine(ports.tasks, sessions.shut_down(SESSION_GRACE_NS))
        if self._engine is not None:
            await run_engine(ports.tasks, self._engine.close())

    # ---- how it ends ----------------------------------------------------------------------------------------------------

    def _on_signal(self, number: int) -> None:
        stop = self._stop_future()
        if not stop.done():
            stop.set_result(signal.Signals(number).name)

    def _on_hang_up(self) -> None:
        if sys.stderr.isatty():
            self._on_signal(signal.SIGHUP)
        else:
            self.events.emit("server.reload_ignored")

    def _on_fatal(self, error: BaseException) -> None:
        stop = self._stop_future()
        if not stop.done():
            stop.set_exception(error)

    def _stop_future(self) -> asyncio.Future[str]:
        if self._stop is None:
            raise RuntimeError("the daemon does not run")
        return self._stop

    def _fatal_error(self) -> ThunderError | None:
        stop = self._stop_future()
        error = stop.exception() if stop.done() else None
        if error is None or isinstance(error, ThunderError):
            return error
        if isinstance(error, OSError):
            return _storage_error("the node must stop", error)
        where = error.__traceback__
        while where is not None and where.tb_next is not None:
            where = where.tb_next
        place = f" at {where.tb_frame.f_code.co_filename}:{where.tb_lineno}" if where is not None else ""
        return ThunderError(f"the node must stop: {type(error).__name__}: {error}{place}", "this is a bug; please report it")

    def _fail(self, error: ThunderError) -> Outcome:
        self.events.emit("server.failed", message=error.message, hint=error.hint)
        return Outcome(error.exit_code, False, error)


def _storage_error(what: str, error: OSError) -> StorageError:
    """Of a file that was taken away, above all."""
    return StorageError(f"{what}: {error}", "Look at the disks and mounts of data_dir and wal_dir; the next start recovers.")


async def _first_of(*futures: asyncio.Future[Any]) -> None:
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


class _Stopped(Exception):
    """The start was interrupted by a signal (no error) or by a fatal error."""

    def __init__(self, error: ThunderError | None) -> None:
        super().__init__(error)
        self.error = error


def _raise_file_limit(config: Config, events: Events) -> None:
    """As many descriptors as this process may have; and a word if that is too few for `max_connections`."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit != resource.RLIM_INFINITY and limit < config.max_connections + OWN_FILES:
        events.emit("server.few_files", limit=limit, wanted=config.max_connections + OWN_FILES)


def run_daemon(config: Config, open_engine: OpenEngine) -> Outcome:
    """Run a daemon on a loop of its own, uvloop's where it is installed."""
    os.umask(0o077)
    tune_interpreter()
    try:
        import uvloop

        factory: Callable[[], asyncio.AbstractEventLoop] | None = uvloop.new_event_loop
    except ImportError:
        factory = None
    with asyncio.Runner(loop_factory=factory) as runner:
        daemon = Daemon(config, open_engine)
        outcome = runner.run(daemon.run())
        if not outcome.clean:
            # D3: no thread, no `finally` and no callback may write after this.
            sys.stderr.flush()
            os._exit(outcome.exit_code)
        return outcome

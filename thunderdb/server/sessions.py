"""All sessions of a node: who may come in, who is cancelled, and how everybody leaves.

N1. `max_connections` counts admitted sessions; cancel requests are never turned away.
N2. Before recovery has ended and once shutdown has begun, a client is told so (57P03) instead of being left waiting.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from thunderdb.base.errors import SqlError
from thunderdb.base.events import Events
from thunderdb.runtime.ports import Connection, Random
from thunderdb.runtime.sync import Future, Tasks
from thunderdb.server import pgwire
from thunderdb.server.session import Session
from thunderdb.sql.executor import SqlSession

# (user, settings of the start-up packet, process id) → the SQL side of the session
SqlFactory = Callable[[str, Mapping[str, str], int], SqlSession]


class Sessions:
    """Admission, cancel keys, shutdown. `accept` is the listener's on_connect; `open` lets clients in (N2)."""

    def __init__(self, tasks: Tasks, random: Random, events: Events, max_connections: int) -> None:
        self.tasks = tasks
        self.random = random
        self.events = events
        self.max_connections = max_connections
        self.make_sql: SqlFactory | None = None
        self.closing = False
        self.by_pid: dict[int, Session] = {}
        self.connections: dict[Session, None] = {}
        self.statements = 0
        self.errors = 0
        self.refused = 0
        self._next_pid = 1
        self._quiet: Future[None] | None = None

    def open(self, make_sql: SqlFactory) -> None:
        """Let clients in."""
        self.make_sql = make_sql

    def accept(self, connection: Connection) -> None:
        self.connections[Session(self, connection)] = None

    def admit(self, session: Session) -> int:
        """Give a session its process id. Raises: SqlError 57P03 or 53300."""
        if self.closing or self.make_sql is None:
            self.refused += 1
            raise SqlError("57P03", f"the database system is {'shutting down' if self.closing else 'starting up'}")
        if len(self.by_pid) >= self.max_connections:
            self.refused += 1
            self.events.emit("server.connection_refused", peer=session.peer, reason="max_connections reached")
            raise SqlError(
                "53300",
                "sorry, too many clients already",
                f"max_connections is {self.max_connections}",
                "raise max_connections in section [network], or pool connections",
            )
        pid = self._next_pid
        self._next_pid = pid % 0x7FFFFFFF + 1
        while pid in self.by_pid:
            pid += 1
        self.by_pid[pid] = session
        return pid

    def cancel(self, request: pgwire.CancelRequest) -> None:
        """Cancel what the session with this key runs; a wrong key is ignored, as in PostgreSQL."""
        session = self.by_pid.get(request.process_id)
        if session is not None and session.secret == request.secret:
            session.cancel()

    def forget(self, session: Session) -> None:
        self.connections.pop(session, None)
        if self.by_pid.get(session.pid) is session:
            del self.by_pid[session.pid]
        if self._quiet is not None and not self.connections:
            self._quiet.set_result(None)

    async def shut_down(self, timeout_ns: int) -> None:
        """Cancel what runs, end every session with 57P01, wait for their rollbacks for at most `timeout_ns`."""
        self.closing = True
        for session in list(self.connections):
            session.terminate()
        if self.connections:
            self._quiet = self.tasks.future()
            try:
                await self.tasks.wait_for(self._quiet, timeout_ns)
            except TimeoutError:
                for session in list(self.connections):
                    session.abort()

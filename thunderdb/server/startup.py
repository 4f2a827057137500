"""A connection's beginning: encryption declined, a cancel passed on, or a client admitted and greeted.

    first bytes ─▶ SSLRequest, GSSENCRequest: "N", go on
                   CancelRequest: passed on, closed
                   StartupMessage: admitted, greeted ─▶ Session.begin

Whoever says nothing for STARTUP_TIMEOUT_NS is dropped. What is wrong here is fatal: reported, and the connection ends.

Source: PostgreSQL 15 manual, section 55.2.1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from thunderdb.base.errors import SqlError, ThunderError
from thunderdb.runtime.ports import Connection
from thunderdb.server import pgwire

if TYPE_CHECKING:
    from thunderdb.server.session import Session

DATABASE = "thunderdb"
STARTUP_TIMEOUT_NS = 60_000_000_000
_NOT_SETTINGS = frozenset(("user", "database", "replication"))


class StartUp:
    """Of one session, until it is greeted or gone."""

    __slots__ = ("_session", "_connection", "_decoder", "_timer", "_over")

    def __init__(self, session: Session, connection: Connection, decoder: pgwire.Decoder) -> None:
        self._session = session
        self._connection = connection
        self._decoder = decoder
        self._over = False
        self._timer = session.tasks.scheduler.call_later(STARTUP_TIMEOUT_NS, self._timed_out)

    def end(self) -> None:
        """The client has been greeted, or has gone."""
        self._over = True
        self._timer.cancel()

    def _timed_out(self) -> None:
        if not self._over:
            self._connection.abort()

    def on_data(self, data: bytes) -> None:
        try:
            while not self._over:
                message = self._decoder.feed_startup(data)
                if message is None:
                    return
                data = b""
                self._on_message(message)
        except ThunderError as error:
            self._over = True
            self._session.refuse(error)

    def _on_message(self, message: pgwire.StartupMessage) -> None:
        if isinstance(message, pgwire.EncryptionRequest):
            self._connection.write(pgwire.NO_ENCRYPTION)
        elif isinstance(message, pgwire.CancelRequest):
            self._session.sessions.cancel(message)
            self._over = True
            self._session.hang_up()
        else:
            self._begin(message)

    def _begin(self, startup: pgwire.Startup) -> None:
        """Admit the client and answer with its parameters. Raises: SqlError."""
        session, parameters = self._session, startup.parameters
        user = parameters.get("user", "")
        if not user:
            raise SqlError("28000", "no PostgreSQL user name specified in startup packet")
        if parameters.get("replication", "").lower() not in ("", "off", "false", "no", "0"):
            raise SqlError("0A000", "streaming replication is not served on this port")
        database = parameters.get("database") or user
        if database not in (DATABASE, user):
            hint = f"this daemon has one database, named {DATABASE}"
            raise SqlError("3D000", f'database "{database}" does not exist', "", hint)
        sessions = session.sessions
        session.pid = sessions.admit(session)
        self._over = True
        if sessions.make_sql is None:
            raise SqlError("57P03", "the database system is starting up")
        settings = {name: value for name, value in parameters.items() if name not in _NOT_SETTINGS and name[:5] != "_pq_."}
        sql = sessions.make_sql(user, settings, session.pid)
        session.secret = sessions.random.bits(32).to_bytes(4, "big")
        self.end()
        self._greet(startup, sql)
        self._decoder.begin_session()
        session.begin(sql)

    def _greet(self, startup: pgwire.Startup, sql: Any) -> None:
        session, out = self._session, self._session.out
        unknown = [name for name in startup.parameters if name.startswith("_pq_.")]
        if startup.version != pgwire.PROTOCOL_3_0 or unknown:
            out.append(pgwire.negotiate_protocol_version(unknown))
        out.append(pgwire.AUTHENTICATION_OK)
        out.extend(pgwire.parameter_status(name, value) for name, value in sql.parameter_statuses().items())
        out.append(pgwire.backend_key_data(session.pid, session.secret))
        out.append(pgwire.READY["I"])
        session.flush()

"""The extended protocol's messages, one after the other, for what `quick.py` leaves.

V4 (session.py). After an error every message up to Sync is skipped. Bytes that are not the protocol end the connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from thunderdb.base.errors import InvariantViolated, NodeStopped, SqlError
from thunderdb.server import pgwire
from thunderdb.server.copying import ClientGone

if TYPE_CHECKING:
    from thunderdb.server.session import Session


class ExtendedServing:
    """The extended protocol's side of one session."""

    __slots__ = ("_session",)

    def __init__(self, session: Session) -> None:
        self._session = session

    async def serve(self, sql: Any, kind: int, body: bytes) -> None:
        if kind == pgwire.BROKEN:
            raise pgwire.ProtocolViolation(body.decode())
        if kind == pgwire.TERMINATE:
            raise ClientGone
        if kind == pgwire.SYNC:
            await self._sync(sql)
            return
        if self._session.skipping:  # V4
            return
        try:
            await self._message(sql, kind, body)
        except (ClientGone, pgwire.ProtocolViolation, NodeStopped, InvariantViolated):
            raise
        except Exception as error:
            self._session.skipping = True
            await self._session.failed(error)

    async def _message(self, sql: Any, kind: int, body: bytes) -> None:
        if kind == pgwire.BIND:
            portal, statement, formats, values, results = pgwire.parse_bind(body)
            sql.bind(portal, statement, formats, values, results)
            self._session.out.append(pgwire.BIND_COMPLETE)
        elif kind == pgwire.DESCRIBE:
            target, name = pgwire.parse_target(body)
            if target == "P":
                self._session.out.append(sql.describe_portal(name))
            else:
                self._session.out.extend(sql.describe_statement(name))
        elif kind == pgwire.EXECUTE:
            portal, max_rows = pgwire.parse_execute(body)
            self._session.sessions.statements += 1
            await self._session.write_result(await sql.execute(portal, max_rows), b"")
        elif kind == pgwire.PARSE:
            name, text, oids = pgwire.parse_parse(body)
            await sql.parse(name, text, oids)
            self._session.out.append(pgwire.PARSE_COMPLETE)
        elif kind == pgwire.CLOSE:
            target, name = pgwire.parse_target(body)
            (sql.close_portal if target == "P" else sql.close_statement)(name)
            self._session.out.append(pgwire.CLOSE_COMPLETE)
        elif kind == pgwire.FLUSH:
            self._session.flush()
        elif kind in (pgwire.COPY_DATA, pgwire.COPY_DONE, pgwire.COPY_FAIL):
            pass  # The client has not noticed yet that its COPY failed.
        elif kind == pgwire.FUNCTION_CALL:
            await self._session.failed(SqlError("0A000", "function calls by protocol message are not supported"))
            self._session.ready()
        else:
            raise pgwire.ProtocolViolation(f"unexpected message type {kind:#04x}")

    async def _sync(self, sql: Any) -> None:
        self._session.skipping = False
        try:
            await sql.sync()
        except (NodeStopped, InvariantViolated):
            raise
        except Exception as error:
            await self._session.failed(error)
        self._session.ready()

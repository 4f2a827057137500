"""A client's SQL session: what the wire layer calls for the simple and the extended query protocol.

    simple protocol                             extended protocol
    async for result in session.simple(sql):    await session.parse(name, sql, param_oids)
        (write result)                          session.bind(portal, statement, formats, values, result_formats)
    ReadyForQuery(session.status)               session.describe_statement(name) / describe_portal(name)
                                                await session.execute(portal, max_rows) -> Result
                                                await session.sync(); ReadyForQuery(session.status)

    status  meaning                             goes to
    I       idle, no transaction                T at BEGIN
    T       in a transaction block              I at COMMIT or ROLLBACK, E at an error
    E       block failed: only ROLLBACK, COMMIT (which rolls back) and ROLLBACK TO are taken, else 25P02

Any method may raise a ThunderError (its sqlstate, message, detail, hint, position go into an ErrorResponse); the session has
then already rolled back what must be: after an error in the simple protocol write ReadyForQuery, in the extended one skip
messages until Sync. The session never suspends except on the engine, and runs one statement at a time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from thunderdb.sql.result import Notice, Result, ResultColumn


@dataclass(slots=True)
class Prepared:
    """A parsed statement. `columns` is None when it returns no rows."""

    name: str
    sql: str
    param_oids: tuple[int, ...]
    columns: tuple[ResultColumn, ...] | None


@dataclass(slots=True)
class Portal:
    """A bound statement, perhaps partly fetched."""

    name: str
    prepared: Prepared
    columns: tuple[ResultColumn, ...] | None
    result_formats: tuple[int, ...]


class SqlSession:
    """One client's session. `db` is the engine's Database; `clock` gives now(); `parameters` come from the startup message."""

    status: str  # 'I', 'T' or 'E'

    def __init__(self, db: Any, user: str, clock: Any, parameters: Mapping[str, str] | None = None, pid: int = 0) -> None: ...

    def parameter_statuses(self) -> dict[str, str]:
        """What to report at startup: server_version, client_encoding, DateStyle, TimeZone …"""
        raise NotImplementedError

    def take_parameter_changes(self) -> list[tuple[str, str]]:
        """Reportable parameters changed by SET since the last call: send a ParameterStatus for each before ReadyForQuery."""
        raise NotImplementedError

    def take_notices(self) -> list[Notice]:
        """Notices raised since the last call; send them before the CommandComplete or error that follows."""
        raise NotImplementedError

    def simple(self, sql: str) -> AsyncIterator[Result]:
        """Run a simple query string, statement by statement. Consume a result (its `more`) before asking for the next."""
        raise NotImplementedError

    async def parse(self, name: str, sql: str, param_oids: Sequence[int] = ()) -> Prepared:
        """Parse: one statement at most. An unnamed statement ("") is replaced; a named one must not exist (42P05)."""
        raise NotImplementedError

    def bind(
        self,
        portal: str,
        statement: str,
        param_formats: Sequence[int],
        values: Sequence[bytes | None],
        result_formats: Sequence[int],
    ) -> Portal:
        """Bind: decode the parameters (formats: none = text, one for all, or one each; 1 = binary)."""
        raise NotImplementedError

    def describe_statement(self, name: str) -> tuple[bytes, bytes]:
        """(ParameterDescription, RowDescription or NoData) messages."""
        raise NotImplementedError

    def describe_portal(self, name: str) -> bytes:
        """A RowDescription or NoData message."""
        raise NotImplementedError

    async def execute(self, portal: str, max_rows: int = 0) -> Result:
        """Execute up to `max_rows` rows (0 = all). `result.suspended` if there may be more: call again to go on."""
        raise NotImplementedError

    def close_statement(self, name: str) -> None:
        """Close; fine if it does not exist."""
        raise NotImplementedError

    def close_portal(self, name: str) -> None:
        raise NotImplementedError

    async def sync(self) -> None:
        """Sync: commit the implicit transaction, if there is one (an error here is the commit's)."""
        raise NotImplementedError

    async def failed(self) -> None:
        """The wire layer itself found an error in an extended-protocol message: roll back or fail the block."""
        raise NotImplementedError

    def cancel(self) -> None:
        """A cancel request came for this session: the running statement, if any, ends with 57014."""
        raise NotImplementedError

    async def close(self) -> None:
        """The client has gone: roll back whatever is open."""
        raise NotImplementedError

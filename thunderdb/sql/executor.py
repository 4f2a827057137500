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

Here are the session's state, its transactions and the running of a plan. How the messages of each protocol use them:
`simple.py`, `extended.py`; what either answers in one synchronous step: `quick.py`.

X1. Outside a block a statement is its own transaction; the statements of one simple query string, and those between two
    Syncs, are one (PostgreSQL's implicit block). A result is complete only after that transaction has committed, except for
    rows that are streamed.
X2. A statement that met a table changed under it (StalePlan) is undone and planned again, with the locks it has.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from thunderdb.base.errors import QueryCancelled, SqlError, ThunderError
from thunderdb.base.ids import format_lsn
from thunderdb.runtime.sync import Task
from thunderdb.sql.analytic_rewrite import QuerySession
from thunderdb.sql.context import Context
from thunderdb.sql.expr import Slots
from thunderdb.sql.extended import ExtendedProtocol, Portal, Prepared
from thunderdb.sql.page_wait import change_by_key, get_by_key
from thunderdb.sql.plan import Environment
from thunderdb.sql.prepare import Planned, Shared, shared_of
from thunderdb.sql.quick import Later, QuickPath
from thunderdb.sql.result import Notice, Result
from thunderdb.sql.settings import LEVELS, SERVER_VERSION, Settings
from thunderdb.sql.simple import SimpleProtocol
from thunderdb.sql.timeouts import Timeouts
from thunderdb.sql.utility import ALLOWED_IN_FAILED, Utility
from thunderdb.storage.pool import Miss

CHUNK_BYTES = 64 << 10
EPOCH_2000_NS = 946_684_800_000_000_000
WAL_POSITIONS = ("pg_current_wal_lsn", "pg_current_wal_flush_lsn", "pg_current_wal_insert_lsn")


class SqlSession:
    """One client's session. `db` is the engine's Database; `clock` gives now(); `parameters` come from the startup message."""

    def __init__(
        self,
        db: Any,
        user: str,
        clock: Any,
        parameters: Mapping[str, str] | None = None,
        pid: int = 0,
        shared: Shared | None = None,
    ) -> None:
        self.db = db
        self.rows = db.rows
        self.user = user
        self.pid = pid
        self.status = "I"
        self.settings = Settings(parameters or {}, user)
        self.shared = shared if shared is not None else shared_of(db)
        self.statements: dict[str, Prepared] = {}
        self.portals: dict[str, Portal] = {}
        self.txn: Any = None
        self.savepoints: list[tuple[str, Any]] = []
        self.cancel_requested = False
        self.running_query: Any = None
        self.page_wait: Task[Any] | None = None  # what it waits for, or has waited for (page_wait.py)
        self.changed_rows = 0
        self._clock = clock
        self._notices: list[Notice] = []
        self._sequences: dict[str, int] = {}
        self._last_sequence = ""
        self.begun_us: int | None = None
        self.in_block = False
        self.timeouts = Timeouts(self)
        quick = QuickPath(self)
        self._simple = SimpleProtocol(self, quick)
        self.extended = ExtendedProtocol(self, quick)

    # -- what the wire layer asks between statements

    def parameter_statuses(self) -> dict[str, str]:
        """What to report at startup: server_version, client_encoding, DateStyle, TimeZone …"""
        return self.settings.reported()

    def take_parameter_changes(self) -> list[tuple[str, str]]:
        """Reportable parameters changed by SET since the last call: send a ParameterStatus for each before ReadyForQuery."""
        settings = self.settings
        return settings.take_changes() if settings.changed else []

    def take_notices(self) -> list[Notice]:
        """Notices raised since the last call; send them before the CommandComplete or error that follows."""
        if not self._notices:
            return []
        found, self._notices = self._notices, []
        return found

    def cancel(self) -> None:
        """A cancel request came for this session: the running statement, if any, ends with 57014."""
        self.cancel_requested = True
        if self.running_query is not None:
            self.running_query.cancel()
        if self.page_wait is not None:  # the page itself still comes in; nobody waits for it here
            self.page_wait.set_error(QueryCancelled("canceling statement due to user request"))
        if self.txn is not None and self.txn.waiting is not None:
            error = QueryCancelled("canceling statement due to user request")
            self.db.manager.locks.cancel_wait(self.txn, error)

    def idle_limit(self) -> tuple[int, SqlError]:
        """How many milliseconds the client may take for its next message (0: as long as it likes), and what it is told then."""
        if self.status == "I":
            error = SqlError("57P05", "terminating connection due to idle-session timeout")
            return self.settings.timeout_ms("idle_session_timeout"), error
        error = SqlError("25P03", "terminating connection due to idle-in-transaction timeout")
        return self.settings.timeout_ms("idle_in_transaction_session_timeout"), error

    async def close(self) -> None:
        """The client has gone: roll back whatever is open."""
        await self.extended.abandon_portals()
        txn, self.txn = self.txn, None
        if txn is not None and txn.status == "active":
            await txn.rollback()

    # -- simple protocol

    def simple(self, sql: str) -> AsyncIterator[Result]:
        """Run a simple query string, statement by statement. Consume a result (its `more`) before asking for the next."""
        return self._simple.run(sql)

    def quick(self, sql: str) -> Result | Later | None:
        """Answer a simple query in one synchronous step, or in two with a wait between them, or None: take `simple`."""
        return self._simple.quick(sql)

    # -- extended protocol

    async def parse(self, name: str, sql: str, param_oids: Sequence[int] = ()) -> Prepared:
        """Parse: one statement at most. An unnamed statement ("") is replaced; a named one must not exist (42P05)."""
        return await self.extended.parse(name, sql, param_oids)

    def bind(
        self,
        portal: str,
        statement: str,
        param_formats: Sequence[int],
        values: Sequence[bytes | None],
        result_formats: Sequence[int],
    ) -> Portal:
        """Bind: decode the parameters (formats: none = text, one for all, or one each; 1 = binary)."""
        return self.extended.bind(portal, statement, param_formats, values, result_formats)

    def describe_statement(self, name: str) -> tuple[bytes, bytes]:
        """(ParameterDescription, RowDescription or NoData) messages."""
        return self.extended.describe_statement(name)

    def describe_portal(self, name: str) -> bytes:
        """A RowDescription or NoData message."""
        return self.extended.describe_portal(name)

    async def execute(self, portal: str, max_rows: int = 0) -> Result:
        """Execute up to `max_rows` rows (0 = all). `result.suspended` if there may be more: call again to go on."""
        return await self.extended.execute(portal, max_rows)

    def close_statement(self, name: str) -> None:
        """Close; fine if it does not exist."""
        self.statements.pop(name, None)

    def close_portal(self, name: str) -> None:
        self.portals.pop(name, None)

    async def sync(self) -> None:
        """Sync: commit the implicit transaction, if there is one (an error here is the commit's)."""
        await self.extended.sync()

    # -- one execution

    def environment(self, declared: Sequence[str] = ()) -> Environment:
        txn = self.txn
        catalog = self.db.catalog_for(txn)
        return Environment(self.db, txn, catalog, Slots(declared), self.shared.analytics, self.query_session)

    async def run(self, planned: Planned, params: Sequence[Any], formats: tuple[int, ...]) -> Result:
        """Run a plan to a result: short ones whole, long ones as a stream."""
        txn = self.txn
        txn.new_snapshot()
        context = Context(self, txn, params)
        point = planned.point
        if point is not None:
            data, count = b"", 0
            key = point.key(context)
            if key is not None:
                try:
                    payload = self.rows.try_get(txn, point.root, key)
                except Miss as miss:
                    payload = await get_by_key(context, point.root, key, miss)
                if payload is not None:
                    data, count = planned.encoder(formats)(point.project(payload)), 1
            if self.in_block:
                txn.end_statement()
            return Result("SELECT 1" if count else "SELECT 0", point.columns, planned.description, data)
        plan = planned.plan
        if plan.writes and txn.read_only:
            raise SqlError("25006", f"cannot execute {plan.tag.split(' ')[0]} in a read-only transaction")
        if plan.subqueries:
            await plan.begin(context)
        result = await change_by_key(planned, context) if self.timeouts.running else None
        if result is None:
            result = await self.collect(planned, context, formats)
        if result.more is None and self.in_block:
            txn.end_statement()
        return result

    async def collect(self, planned: Planned, context: Context, formats: tuple[int, ...]) -> Result:
        plan = planned.plan
        if plan.writes:
            count, rows = await plan.execute(context)
            data = b""
            if rows:
                encode = planned.encoder(formats)
                data = b"".join([encode(row) for row in rows])
            return Result(plan.final_tag(count), plan.columns, planned.description, data)
        encode = planned.encoder(formats)
        source = plan.batches(context)
        parts: list[bytes] = []
        size = count = 0
        async for batch in source:
            count += len(batch)
            data = b"".join([encode(row) for row in batch])
            parts.append(data)
            size += len(data)
            if size >= CHUNK_BYTES:
                result = Result("", plan.columns, planned.description, b"".join(parts))
                result.more = self._stream(result, planned, source, encode, count)
                return result
        return Result(plan.final_tag(count), plan.columns, planned.description, b"".join(parts))

    async def _stream(self, result: Result, planned: Planned, source: Any, encode: Any, count: int) -> AsyncIterator[bytes]:
        async for batch in source:
            count += len(batch)
            yield b"".join([encode(row) for row in batch])
        result.tag = planned.plan.final_tag(count)
        if self.in_block and self.txn is not None:
            self.txn.end_statement()

    # -- transactions

    def start(self) -> None:
        """Make sure that there is a transaction: the block's, or an implicit one (X1)."""
        if self.txn is None:
            values = self.settings.values
            self._begin(values["default_transaction_isolation"], values["default_transaction_read_only"] == "on")

    def _begin(self, isolation: str, read_only: bool) -> None:
        sync_commit = self.settings.values["synchronous_commit"] != "off"
        isolation = "read committed" if isolation == "read uncommitted" else isolation
        self.txn = self.db.begin(isolation, read_only, None if sync_commit else False)
        self.begun_us = None

    def begin_block(self, modes: Mapping[str, Any]) -> None:
        values = self.settings.values
        isolation = modes.get("isolation", values["default_transaction_isolation"])
        read_only = modes.get("read_only", values["default_transaction_read_only"] == "on")
        if self.txn is None:
            self._begin(isolation, read_only)
        self.settings.begin(isolation, read_only)
        self.status, self.in_block = "T", True
        self.transaction_us()

    async def end(self, committed: bool) -> None:
        """End the transaction, if there is one, and the block with it. Raises: what commit raises."""
        txn = self._leave(committed)
        if txn is None:
            return
        if not committed:
            if txn.status == "active":
                await txn.rollback()
            return
        try:
            await txn.commit()
        except ThunderError:
            if txn.status == "active":
                await txn.rollback()
            raise

    def _leave(self, committed: bool) -> Any:
        """End the block, if there is one, and with it all that a transaction holds in the session; return the transaction."""
        txn, self.txn = self.txn, None
        if self.in_block:
            self.settings.end(committed)
            self.status, self.in_block = "I", False
        self.savepoints.clear()
        if self.portals:
            self.portals = {}
        return txn

    def commit_soon(self) -> Any:
        """COMMIT of a block that has changed something: a future, or None if it is done. Raises: what stopped the log."""
        durable = self.db.manager.commit_soon(self.txn)
        self._leave(True)
        return durable

    async def end_block(self, committed: bool) -> str:
        """COMMIT or ROLLBACK; returns the tag."""
        if self.status == "E":
            committed = False
        await self.end(committed)
        return "COMMIT" if committed else "ROLLBACK"

    async def fail(self, error: BaseException) -> None:
        """An error: an implicit transaction is gone; a block waits for its end, its locks go now unless it has savepoints."""
        self.cancel_requested = False
        txn = self.txn
        if self.in_block:
            self.status = "E"
            if txn is not None and not self.savepoints and txn.status == "active":
                await txn.rollback()
            return
        await self.end(False)

    async def failed(self) -> None:
        """The wire layer itself found an error in an extended-protocol message: roll back or fail the block."""
        if self.status != "E":
            await self.fail(SqlError("08P01", "protocol error"))

    def refuse_failed(self) -> None:
        if self.status == "E":
            raise SqlError("25P02", "current transaction is aborted, commands ignored until end of transaction block")

    async def rollback_to_savepoint(self, name: str) -> None:
        index = self.savepoint_index(name)
        mark = self.savepoints[index][1]
        await self.txn.rollback_to(mark)
        del self.savepoints[index + 1 :]
        self.status = "T"

    def savepoint_index(self, name: str) -> int:
        if not self.in_block:
            raise SqlError("25P01", "ROLLBACK TO SAVEPOINT can only be used in transaction blocks")
        for index in range(len(self.savepoints) - 1, -1, -1):
            if self.savepoints[index][0] == name:
                return index
        raise SqlError("3B001", f'savepoint "{name}" does not exist')

    # -- utility statements

    async def utility(self, utility: Utility, text: str, alone: bool) -> Result:
        if self.status == "E" and utility.kind not in ALLOWED_IN_FAILED:
            self.refuse_failed()
        from thunderdb.sql.commands import run_utility

        return await run_utility(self, utility, text, alone)

    # -- what expressions and plans ask

    def add_notice(self, notice: Notice) -> None:
        if LEVELS.index(notice.severity.lower()) >= LEVELS.index(self.settings.values["client_min_messages"]):
            self._notices.append(notice)

    def now_us(self) -> int:
        return int((self._clock.wall_ns() - EPOCH_2000_NS) // 1000)

    def transaction_us(self) -> int:
        if self.begun_us is None:
            self.begun_us = self.now_us()
        return self.begun_us

    def random_bits(self, count: int) -> int:
        return int(self.db.ports.random.bits(count))

    async def pause(self, count: int) -> None:
        await self.db.access.tasks.work("sql.rows", count)

    def query_session(self) -> QuerySession:
        return QuerySession(
            user=self.user,
            now_us=self.transaction_us(),
            settings=self.settings.values,
            pid=self.pid,
            wal={name: self.value_of(name) for name in WAL_POSITIONS},
            database_bytes=self.db.files.page_count * self.db.config.page_size,
        )

    def value_of(self, name: str) -> Any:
        if name in ("current_user", "session_user", "user", "current_role"):
            return self.user
        if name in ("current_database", "current_catalog"):
            return "thunderdb"
        if name == "current_schema":
            return "public"
        if name == "version":
            return f"PostgreSQL {SERVER_VERSION} (ThunderDB)"
        if name == "pg_backend_pid":
            return self.pid
        if name == "txid_current":
            self.txn.begin_write()
            return self.txn.id
        if name in WAL_POSITIONS:
            log = self.db.log
            return format_lsn(log.next_lsn if name == "pg_current_wal_insert_lsn" else log.flushed_lsn)
        if name == "lastval":
            if not self._last_sequence:
                raise SqlError("55000", "lastval is not yet defined in this session")
            return self._sequences[self._last_sequence]
        raise SqlError("42703", f'column "{name}" does not exist')

    def set_parameter(self, name: str, value: str | None, local: bool = False) -> None:
        self.settings.set(name, value, local)

    def note_sequence(self, name: str, value: int) -> None:
        self._sequences[name] = value
        self._last_sequence = name

    def currval(self, name: str) -> int:
        if name not in self._sequences:
            raise SqlError("55000", f'currval of sequence "{name}" is not yet defined in this session')
        return self._sequences[name]

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

X1. Outside a block a statement is its own transaction; the statements of one simple query string, and those between two
    Syncs, are one (PostgreSQL's implicit block). A result is complete only after that transaction has committed, except for
    rows that are streamed.
X2. A statement that met a table changed under it (StalePlan) is undone and planned again, with the locks it has.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from thunderdb.base.errors import QueryCancelled, SqlError, ThunderError
from thunderdb.engine.rows import StalePlan, WouldWait
from thunderdb.sql import types
from thunderdb.sql.analytic_rewrite import QuerySession
from thunderdb.sql.binary import decode_binary
from thunderdb.sql.context import Context
from thunderdb.sql.expr import Slots
from thunderdb.sql.parse import Statement, split
from thunderdb.sql.plan import Environment
from thunderdb.sql.prepare import Planned, Shared
from thunderdb.sql.result import Notice, Result, ResultColumn, describe
from thunderdb.sql.select import PointPlan
from thunderdb.sql.settings import SERVER_VERSION, Settings
from thunderdb.sql.utility import WORDS, Utility, first_word, parse_utility
from thunderdb.sql.write import InsertPlan, UpdatePlan
from thunderdb.storage.pool import Miss

CHUNK_BYTES = 64 << 10
STALE_RETRIES = 20
EPOCH_2000_NS = 946_684_800_000_000_000
NO_DATA = b"n\x00\x00\x00\x04"
_CACHED_KINDS = frozenset({"begin", "commit", "rollback"})
_ALLOWED_IN_FAILED = ("rollback", "commit", "rollback_to")


@dataclass(slots=True)
class Prepared:
    """A parsed statement. `columns` is None when it returns no rows. A utility has no plan."""

    name: str
    sql: str
    param_oids: tuple[int, ...]
    columns: tuple[ResultColumn, ...] | None
    planned: Planned | None = None
    utility: Utility | None = None
    declared: tuple[str, ...] = ()
    literals: Sequence[Any] = ()


@dataclass(slots=True)
class Portal:
    """A bound statement, perhaps partly fetched."""

    name: str
    prepared: Prepared
    columns: tuple[ResultColumn, ...] | None
    result_formats: tuple[int, ...]
    params: list[Any] = field(default_factory=list)
    source: AsyncIterator[list[Any]] | None = None
    left: list[Any] = field(default_factory=list)
    fetched: int = 0
    done: bool = False


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
        self._reader: Any = None  # stands in for a transaction in `quick`
        self._found: tuple[str, Any, Any] = ("", None, None)  # what `quick` found for a statement that it left to `simple`
        self.savepoints: list[tuple[str, Any]] = []
        self.cancel_requested = False
        self.running_query: Any = None
        self.changed_rows = 0
        self._clock = clock
        self._notices: list[Notice] = []
        self._sequences: dict[str, int] = {}
        self._last_sequence = ""
        self._begun_us: int | None = None
        self._block = False
        self._offset_s = 0

    # -- what the wire layer asks between statements

    def parameter_statuses(self) -> dict[str, str]:
        """What to report at startup: server_version, client_encoding, DateStyle, TimeZone …"""
        return self.settings.reported()

    def take_parameter_changes(self) -> list[tuple[str, str]]:
        """Reportable parameters changed by SET since the last call: send a ParameterStatus for each before ReadyForQuery."""
        return self.settings.take_changes()

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
        if self.txn is not None and self.txn.waiting is not None:
            error = QueryCancelled("canceling statement due to user request")
            self.db.manager.locks.cancel_wait(self.txn, error)

    async def close(self) -> None:
        """The client has gone: roll back whatever is open."""
        await self._abandon_portals()
        txn, self.txn = self.txn, None
        if txn is not None and txn.status == "active":
            await txn.rollback()

    # -- simple protocol

    async def simple(self, sql: str) -> AsyncIterator[Result]:
        """Run a simple query string, statement by statement. Consume a result (its `more`) before asking for the next."""
        self.cancel_requested = False
        try:
            self.portals.pop("", None)
            if sql.endswith(";"):  # pgbench and psql send one; the caches know the statement without it
                sql = sql[:-1]
            if self.status != "E":
                result = await self._hot(sql)
                if result is not None:
                    yield result
                    return
            statements = split(sql)
            if not statements:
                empty = Result()
                empty.empty = True
                yield empty
            for number, statement in enumerate(statements):
                alone = len(statements) == 1
                result = await self._statement(statement, alone, sql)
                if alone and self.status == "I" and result.more is None and result.copy_in is None:
                    await self._end(True)
                yield result
                if result.more is not None and number == len(statements) - 1 and self.status == "I":
                    await self._end(True)
            if self.status == "I":
                await self._end(True)
        except Exception as error:
            await self._failed(error)
            raise

    def quick(self, sql: str) -> Result | None:
        """Answer a simple query in one synchronous step, or None: take `simple`.

        So the commonest statements (a row by its key; in a block, a change of one row) cost no coroutine and no task.
        """
        if sql.endswith(";"):
            sql = sql[:-1]
        if self.status == "E" or self.db.failure is not None or self.db.closing:
            return None
        catalog = self.db.catalog_for(self.txn)
        found = self.shared.find(sql, catalog)
        if found is None:
            utility = self.shared.utilities.get(sql)
            if utility is not None and utility.kind == "begin" and self.status == "I" and not self.portals:
                self.begin_block(utility.values["modes"])
                return Result("BEGIN")
            self._found = (sql, catalog, None)
            return None
        planned, params = found
        if self.portals:
            self.portals.pop("", None)
        result = None
        if planned.point is not None:
            result = self._quick_point(planned, planned.point, params)
        elif planned.quick_write is not None and self._block:
            result = self._quick_write(planned.quick_write, params)
        if result is None:
            self._found = (sql, catalog, found)
        return result

    def _quick_point(self, planned: Planned, point: PointPlan, params: Sequence[Any]) -> Result | None:
        txn = self.txn
        if txn is None:
            txn = self._reader
            if txn is None:
                txn = self._reader = self.db.begin(read_only=True)
        elif not self._block:
            return None
        self.cancel_requested = False
        txn.new_snapshot()
        try:
            key = point.key(Context(self, txn, params))
            payload = None if key is None else self.rows.try_get(txn, point.root, key)
        except (Miss, ValueError, ArithmeticError, ThunderError):
            return None  # nothing was written: `simple` runs it again, and waits or fails as it should
        finally:
            txn.end_statement()
        if payload is None:
            return Result("SELECT 0", point.columns, planned.description, b"")
        row = planned.encoder((), self._offset_s)(point.project(payload))
        return Result("SELECT 1", point.columns, planned.description, row)

    def _quick_write(self, plan: UpdatePlan | InsertPlan, params: Sequence[Any]) -> Result | None:
        """One row, one log record, within a block: what fails here has changed nothing, and `simple` runs it again."""
        txn = self.txn
        if txn.read_only:
            return None
        self.cancel_requested = False
        try:
            count = plan.change_quickly(Context(self, txn, params))
        except (Miss, WouldWait, SqlError):
            return None
        return Result(plan.final_tag(count))

    async def _hot(self, sql: str) -> Result | None:
        """A statement with a cached plan, or a transaction command: no parsing, no splitting."""
        block, shared = self._block, self.shared
        utility = shared.utilities.get(sql)
        if utility is not None:
            return await self._utility(utility, sql, True)
        catalog = self.db.catalog_for(self.txn)
        known = self._found
        found = known[2] if known[0] == sql and known[1] is catalog else shared.find(sql, catalog)
        if found is None:
            return None
        planned, params = found
        if block:
            mark = self.txn.savepoint()
            try:
                return await self._run(planned, params, ())
            except StalePlan:
                await self.txn.rollback_to(mark)
                return None
        self._start()
        try:
            result = await self._run(planned, params, ())
        except StalePlan:
            await self._end(False)
            return None
        if result.more is None:
            await self._end(True)
        else:
            result.more = self._ending(result.more)
        return result

    async def _ending(self, more: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for chunk in more:
            yield chunk
        await self._end(True)

    async def _statement(self, statement: Statement, alone: bool, sql: str) -> Result:
        if first_word(statement.text) in WORDS:
            utility = parse_utility(statement.text, statement.offset)
            if alone and utility.kind in _CACHED_KINDS and len(self.shared.utilities) < 1000:
                self.shared.utilities[sql] = utility
            return await self._utility(utility, statement.text, alone)
        self._refuse_failed()
        self._start()
        return await self._planned_run(statement.text, statement.offset)

    async def _planned_run(self, sql: str, offset: int) -> Result:
        """Plan (or find the plan) and run, again if the table changed meanwhile (X2)."""
        for _ in range(STALE_RETRIES):
            mark = self.txn.savepoint()
            try:
                found = self.shared.find(sql, self.db.catalog_for(self.txn))
                planned, params = found if found is not None else await self.shared.plan(self.environment(), sql, offset)
                return await self._run(planned, params, ())
            except StalePlan:
                await self.txn.rollback_to(mark)
        raise SqlError("40001", "could not serialize access: the table keeps changing")

    # -- one execution

    def environment(self, declared: Sequence[str] = ()) -> Environment:
        txn = self.txn
        catalog = self.db.catalog_for(txn)
        return Environment(self.db, txn, catalog, Slots(declared), self.shared.analytics, self.query_session)

    async def _run(self, planned: Planned, params: Sequence[Any], formats: tuple[int, ...]) -> Result:
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
                except Miss:
                    payload = await self.rows.get(txn, point.root, key)
                if payload is not None:
                    data, count = planned.encoder(formats, self._offset_s)(point.project(payload)), 1
            if self._block:
                txn.end_statement()
            return Result("SELECT 1" if count else "SELECT 0", point.columns, planned.description, data)
        plan = planned.plan
        if plan.writes and txn.read_only:
            raise SqlError("25006", f"cannot execute {plan.tag.split(' ')[0]} in a read-only transaction")
        if plan.subqueries:
            await plan.begin(context)
        result = await self._collect(planned, context, formats)
        if result.more is None and self._block:
            txn.end_statement()
        return result

    async def _collect(self, planned: Planned, context: Context, formats: tuple[int, ...]) -> Result:
        plan = planned.plan
        if plan.writes:
            count, rows = await plan.execute(context)
            data = b""
            if rows:
                encode = planned.encoder(formats, self._offset_s)
                data = b"".join([encode(row) for row in rows])
            return Result(plan.final_tag(count), plan.columns, planned.description, data)
        encode = planned.encoder(formats, self._offset_s)
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
        if self._block and self.txn is not None:
            self.txn.end_statement()

    # -- transactions

    def _start(self) -> None:
        """Make sure that there is a transaction: the block's, or an implicit one (X1)."""
        if self.txn is None:
            values = self.settings.values
            self._begin(values["default_transaction_isolation"], values["default_transaction_read_only"] == "on")

    def _begin(self, isolation: str, read_only: bool) -> None:
        sync_commit = self.settings.values["synchronous_commit"] != "off"
        isolation = "read committed" if isolation == "read uncommitted" else isolation
        self.txn = self.db.begin(isolation, read_only, None if sync_commit else False)
        self._begun_us = None
        offset = self.settings.values["timezone"]
        self._offset_s = 0 if offset == "UTC" else self.settings.zone_offset_s()

    def begin_block(self, modes: Mapping[str, Any]) -> None:
        values = self.settings.values
        isolation = modes.get("isolation", values["default_transaction_isolation"])
        read_only = modes.get("read_only", values["default_transaction_read_only"] == "on")
        if self.txn is None:
            self._begin(isolation, read_only)
        self.settings.begin()
        values["transaction_isolation"] = isolation
        values["transaction_read_only"] = "on" if read_only else "off"
        self.status, self._block = "T", True
        self.transaction_us()

    async def _end(self, committed: bool) -> None:
        """End the transaction, if there is one, and the block with it. Raises: what commit raises."""
        txn, self.txn = self.txn, None
        if self._block:
            self.settings.end(committed)
            self.status, self._block = "I", False
        self.savepoints.clear()
        if self.portals:
            self.portals = {}
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

    async def end_block(self, committed: bool) -> str:
        """COMMIT or ROLLBACK; returns the tag."""
        if self.status == "E":
            committed = False
        await self._end(committed)
        return "COMMIT" if committed else "ROLLBACK"

    async def _failed(self, error: BaseException) -> None:
        """An error: an implicit transaction is gone; a block waits for its end, its locks go now unless it has savepoints."""
        self.cancel_requested = False
        txn = self.txn
        if self._block:
            self.status = "E"
            if txn is not None and not self.savepoints and txn.status == "active":
                await txn.rollback()
            return
        await self._end(False)

    async def failed(self) -> None:
        """The wire layer itself found an error in an extended-protocol message: roll back or fail the block."""
        if self.status != "E":
            await self._failed(SqlError("08P01", "protocol error"))

    def _refuse_failed(self) -> None:
        if self.status == "E":
            raise SqlError("25P02", "current transaction is aborted, commands ignored until end of transaction block")

    async def rollback_to_savepoint(self, name: str) -> None:
        index = self._savepoint_index(name)
        mark = self.savepoints[index][1]
        await self.txn.rollback_to(mark)
        del self.savepoints[index + 1 :]
        self.status = "T"

    def _savepoint_index(self, name: str) -> int:
        if not self._block:
            raise SqlError("25P01", "ROLLBACK TO SAVEPOINT can only be used in transaction blocks")
        for index in range(len(self.savepoints) - 1, -1, -1):
            if self.savepoints[index][0] == name:
                return index
        raise SqlError("3B001", f'savepoint "{name}" does not exist')

    # -- utility statements

    async def _utility(self, utility: Utility, text: str, alone: bool) -> Result:
        if self.status == "E" and utility.kind not in _ALLOWED_IN_FAILED:
            self._refuse_failed()
        from thunderdb.sql.commands import run_utility

        return await run_utility(self, utility, text, alone)

    # -- extended protocol

    async def parse(self, name: str, sql: str, param_oids: Sequence[int] = ()) -> Prepared:
        """Parse: one statement at most. An unnamed statement ("") is replaced; a named one must not exist (42P05)."""
        if name and name in self.statements:
            raise SqlError("42P05", f'prepared statement "{name}" already exists')
        prepared = await self.prepare(name, sql, [_type_of_oid(oid) for oid in param_oids])
        self.statements[name] = prepared
        return prepared

    async def prepare(self, name: str, sql: str, declared: Sequence[str]) -> Prepared:
        if sql.endswith(";"):
            sql = sql[:-1]
        known = self.shared.exact.get(sql)
        if known is not None and known.catalog is self.db.catalog_for(self.txn) and not any(d != "unknown" for d in declared):
            self._refuse_failed()
            return _prepared(name, sql, known, tuple(declared))
        statements = split(sql)
        if len(statements) > 1:
            raise SqlError("42601", "cannot insert multiple commands into a prepared statement")
        if not statements:
            return Prepared(name, "", (), None)
        statement = statements[0]
        if first_word(statement.text) in WORDS:
            from thunderdb.sql.commands import utility_columns

            utility = parse_utility(statement.text, statement.offset)
            if self.status == "E" and utility.kind not in _ALLOWED_IN_FAILED:
                self._refuse_failed()
            columns = utility_columns(self, utility)
            return Prepared(name, statement.text, (), columns, utility=utility)
        self._refuse_failed()
        self._start()
        env = self.environment(declared)
        planned, _ = await self.shared.plan(env, statement.text, statement.offset, template=False)
        return _prepared(name, statement.text, planned, tuple(declared))

    def bind(
        self,
        portal: str,
        statement: str,
        param_formats: Sequence[int],
        values: Sequence[bytes | None],
        result_formats: Sequence[int],
    ) -> Portal:
        """Bind: decode the parameters (formats: none = text, one for all, or one each; 1 = binary)."""
        prepared = self.statements.get(statement)
        if prepared is None:
            raise SqlError("26000", f'prepared statement "{statement}" does not exist')
        if portal and portal in self.portals:
            raise SqlError("42P03", f'cursor "{portal}" already exists')
        if prepared.utility is None or prepared.utility.kind not in _ALLOWED_IN_FAILED:
            self._refuse_failed()
        kinds = prepared.planned.param_types if prepared.planned is not None else ()
        if len(values) != len(kinds):
            raise SqlError(
                "08P01",
                f"bind message supplies {len(values)} parameters, but prepared statement "
                f'"{prepared.name}" requires {len(kinds)}',
            )
        params = []
        for i, (kind, value) in enumerate(zip(kinds, values, strict=True)):
            binary = param_formats[0 if len(param_formats) == 1 else i] if param_formats else 0
            params.append(_decode(kind, value, binary))
        bound = Portal(portal, prepared, prepared.columns, tuple(result_formats), params)
        self.portals[portal] = bound
        return bound

    def describe_statement(self, name: str) -> tuple[bytes, bytes]:
        """(ParameterDescription, RowDescription or NoData) messages."""
        prepared = self.statements.get(name)
        if prepared is None:
            raise SqlError("26000", f'prepared statement "{name}" does not exist')
        oids = prepared.param_oids
        described = struct.pack(f"!cIH{len(oids)}I", b"t", 6 + 4 * len(oids), len(oids), *oids)
        return described, NO_DATA if prepared.columns is None else describe(prepared.columns)

    def describe_portal(self, name: str) -> bytes:
        """A RowDescription or NoData message."""
        portal = self._portal(name)
        return NO_DATA if portal.columns is None else describe(portal.columns, portal.result_formats)

    def _portal(self, name: str) -> Portal:
        portal = self.portals.get(name)
        if portal is None:
            raise SqlError("34000", f'portal "{name}" does not exist')
        return portal

    async def execute(self, portal: str, max_rows: int = 0) -> Result:
        """Execute up to `max_rows` rows (0 = all). `result.suspended` if there may be more: call again to go on."""
        bound = self._portal(portal)
        self.cancel_requested = False
        try:
            prepared = bound.prepared
            if prepared.utility is not None:
                return await self._utility(prepared.utility, prepared.sql, False)
            if prepared.planned is None:
                result = Result()
                result.empty = True
                return result
            self._refuse_failed()
            self._start()
            if max_rows > 0 or bound.source is not None:
                return await self._fetch(bound, max_rows)
            planned = await self._current(prepared)
            return await self._run(planned, bound.params, bound.result_formats)
        except StalePlan:
            await self._failed(SqlError("40001", ""))
            raise SqlError("40001", "could not serialize access: the table was changed by another transaction") from None
        except Exception as error:
            await self._failed(error)
            raise

    async def _current(self, prepared: Prepared) -> Planned:
        """The statement's plan, made again if the catalog has changed. Raises: SqlError 0A000 if its result would differ."""
        planned = prepared.planned
        if planned is not None and planned.catalog is self.db.catalog_for(self.txn):
            return planned
        fresh, _ = await self.shared.plan(self.environment(prepared.declared), prepared.sql, template=False)
        if fresh.plan.columns != prepared.columns and planned is not None:
            old, new = planned.plan.columns or (), fresh.plan.columns or ()
            if [(c.name, c.type_oid) for c in old] != [(c.name, c.type_oid) for c in new]:
                raise SqlError("0A000", "cached plan must not change result type")
        prepared.planned = fresh
        return fresh

    async def _fetch(self, bound: Portal, max_rows: int) -> Result:
        """Part of a portal's rows."""
        planned = await self._current(bound.prepared) if bound.source is None else bound.prepared.planned
        if planned is None:
            return Result()
        plan = planned.plan
        if bound.source is None:
            self.txn.new_snapshot()
            context = Context(self, self.txn, bound.params)
            await plan.begin(context)
            bound.source = plan.batches(context)
        wanted = max_rows or 1 << 62
        while len(bound.left) < wanted and not bound.done:
            batch = await anext(bound.source, None)
            if batch is None:
                bound.done = True
            else:
                bound.left.extend(batch)
        rows, bound.left = bound.left[:wanted], bound.left[wanted:]
        bound.fetched += len(rows)
        encode = planned.encoder(bound.result_formats, self._offset_s) if plan.columns is not None else None
        data = b"".join([encode(row) for row in rows]) if encode is not None else b""
        result = Result("", plan.columns, planned.description, data)
        result.suspended = bool(max_rows) and len(rows) == max_rows and bool(rows)
        if not result.suspended:
            result.tag = plan.final_tag(self.changed_rows if plan.writes else len(rows))
        return result

    def close_statement(self, name: str) -> None:
        """Close; fine if it does not exist."""
        self.statements.pop(name, None)

    def close_portal(self, name: str) -> None:
        self.portals.pop(name, None)

    async def _abandon_portals(self) -> None:
        portals, self.portals = self.portals, {}
        for portal in portals.values():
            closing = getattr(portal.source, "aclose", None)
            if closing is not None:
                await closing()

    async def sync(self) -> None:
        """Sync: commit the implicit transaction, if there is one (an error here is the commit's)."""
        if not self._block:
            if self.portals:
                await self._abandon_portals()
            if self.txn is not None:
                await self._end(True)

    # -- what expressions and plans ask

    def add_notice(self, notice: Notice) -> None:
        self._notices.append(notice)

    def now_us(self) -> int:
        return int((self._clock.wall_ns() - EPOCH_2000_NS) // 1000)

    def transaction_us(self) -> int:
        if self._begun_us is None:
            self._begun_us = self.now_us()
        return self._begun_us

    def random_bits(self, count: int) -> int:
        return int(self.db.ports.random.bits(count))

    async def pause(self, count: int) -> None:
        await self.db.access.tasks.work("sql.rows", count)

    def query_session(self) -> QuerySession:
        return QuerySession(user=self.user, now_us=self.transaction_us(), settings=self.settings.values, pid=self.pid)

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
        if name == "lastval":
            if not self._last_sequence:
                raise SqlError("55000", "lastval is not yet defined in this session")
            return self._sequences[self._last_sequence]
        raise SqlError("42703", f'column "{name}" does not exist')

    def set_parameter(self, name: str, value: str | None, local: bool = False) -> None:
        self.settings.set(name, value, local)
        self._offset_s = self.settings.zone_offset_s()

    def note_sequence(self, name: str, value: int) -> None:
        self._sequences[name] = value
        self._last_sequence = name

    def currval(self, name: str) -> int:
        if name not in self._sequences:
            raise SqlError("55000", f'currval of sequence "{name}" is not yet defined in this session')
        return self._sequences[name]


def shared_of(db: Any) -> Shared:
    """The database's one Shared, kept on the database itself."""
    shared = getattr(db, "sql_shared", None)
    if shared is None:
        shared = Shared(db)
        db.sql_shared = shared
    found: Shared = shared
    return found


def _type_of_oid(oid: int) -> str:
    if oid in (0, 705):
        return "unknown"
    name = types.BY_OID.get(oid)
    if name is None:
        raise SqlError("42704", f"type with OID {oid} does not exist")
    return name


def _prepared(name: str, sql: str, planned: Planned, declared: tuple[str, ...]) -> Prepared:
    kinds = planned.plan.slots.types
    oids = tuple(types.TYPES["text" if kind == "unknown" else kind].oid for kind in kinds)
    return Prepared(name, sql, oids, planned.plan.columns, planned, declared=declared)


def _decode(kind: str, value: bytes | None, binary: int) -> Any:
    if value is None:
        return None
    kind = "text" if kind == "unknown" else kind
    if binary:
        return decode_binary(kind, value)
    try:
        return types.parse_text(kind, value.decode())
    except UnicodeDecodeError:
        raise SqlError("22021", 'invalid byte sequence for encoding "UTF8"') from None

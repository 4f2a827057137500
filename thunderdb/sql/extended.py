"""The extended query protocol: statements prepared by Parse, bound to portals by Bind, run by Execute, ended by Sync.

Statements live as long as the session, portals as long as the transaction. X1 and X2 are executor.py's.

X3. A portal gives the rows of one snapshot, that of its first Execute, however many Executes fetch them: before another
    statement of the transaction runs, which takes a snapshot of its own and may change what is to come, the rest is read.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from thunderdb.base.errors import SqlError
from thunderdb.sql import types
from thunderdb.sql.binary import decode_binary
from thunderdb.sql.context import Context
from thunderdb.sql.parse import split
from thunderdb.sql.prepare import Planned
from thunderdb.sql.quick import Later, QuickPath
from thunderdb.sql.result import Result, ResultColumn, describe
from thunderdb.sql.simple import until_fresh
from thunderdb.sql.utility import ALLOWED_IN_FAILED, WORDS, Utility, first_word, parse_utility

if TYPE_CHECKING:
    from thunderdb.sql.executor import SqlSession

NO_DATA = b"n\x00\x00\x00\x04"
SYNCED = Result()
MOST_READ = 10_000_000
"""So many rows of a portal are read ahead for another statement (X3)."""


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
    left: deque[Any] = field(default_factory=deque)
    fetched: int = 0
    done: bool = False

    @property
    def suspended(self) -> bool:
        """Whether rows are still to be read for it."""
        return self.source is not None and not self.done


class ExtendedProtocol:
    """A session's prepared statements and portals."""

    __slots__ = ("_session", "_quick")

    def __init__(self, session: SqlSession, quick: QuickPath) -> None:
        self._session = session
        self._quick = quick

    async def parse(self, name: str, sql: str, param_oids: Sequence[int] = ()) -> Prepared:
        """Parse: one statement at most. An unnamed statement ("") is replaced; a named one must not exist (42P05)."""
        session = self._session
        if name and name in session.statements:
            raise SqlError("42P05", f'prepared statement "{name}" already exists')
        prepared = await self.prepare(name, sql, [_type_of_oid(oid) for oid in param_oids])
        session.statements[name] = prepared
        return prepared

    async def prepare(self, name: str, sql: str, declared: Sequence[str]) -> Prepared:
        session = self._session
        if sql.endswith(";"):
            sql = sql[:-1]
        known = session.shared.find_prepared(sql, tuple(declared), session.db.catalog_for(session.txn))
        if known is not None:
            session.refuse_failed()
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
            if session.status == "E" and utility.kind not in ALLOWED_IN_FAILED:
                session.refuse_failed()
            columns = utility_columns(session, utility)
            session.shared.remember_utility(sql, utility)
            return Prepared(name, statement.text, (), columns, utility=utility)
        session.refuse_failed()
        session.start()
        env = session.environment(declared)
        planned, _ = await session.shared.plan(env, statement.text, statement.offset, template=False)
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
        session = self._session
        prepared = session.statements.get(statement)
        if prepared is None:
            raise SqlError("26000", f'prepared statement "{statement}" does not exist')
        if portal and portal in session.portals:
            raise SqlError("42P03", f'cursor "{portal}" already exists')
        if prepared.utility is None or prepared.utility.kind not in ALLOWED_IN_FAILED:
            session.refuse_failed()
        kinds = prepared.planned.param_types if prepared.planned is not None else ()
        if len(values) != len(kinds):
            raise SqlError(
                "08P01",
                f"bind message supplies {len(values)} parameters, but prepared statement "
                f'"{prepared.name}" requires {len(kinds)}',
            )
        params: list[Any] = []
        if prepared.planned is not None:
            parsers = prepared.planned.parsers
            for i, value in enumerate(values):
                if value is None:
                    params.append(None)
                elif param_formats and param_formats[0 if len(param_formats) == 1 else i]:
                    params.append(decode_binary("text" if kinds[i] == "unknown" else kinds[i], value))
                else:
                    params.append(parsers[i](_text(value)))
        bound = Portal(portal, prepared, prepared.columns, tuple(result_formats), params)
        session.portals[portal] = bound
        return bound

    def describe_statement(self, name: str) -> tuple[bytes, bytes]:
        """(ParameterDescription, RowDescription or NoData) messages."""
        session = self._session
        prepared = session.statements.get(name)
        if prepared is None:
            raise SqlError("26000", f'prepared statement "{name}" does not exist')
        oids = prepared.param_oids
        described = struct.pack(f"!cIH{len(oids)}I", b"t", 6 + 4 * len(oids), len(oids), *oids)
        return described, NO_DATA if prepared.columns is None else describe(prepared.columns)

    def describe_portal(self, name: str) -> bytes:
        """A RowDescription or NoData message."""
        portal = self._portal(name)
        if portal.columns is None:
            return NO_DATA
        planned = portal.prepared.planned
        if planned is not None and planned.plan.columns is portal.columns:
            return planned.describe(portal.result_formats)
        return describe(portal.columns, portal.result_formats)

    def _portal(self, name: str) -> Portal:
        session = self._session
        portal = session.portals.get(name)
        if portal is None:
            raise SqlError("34000", f'portal "{name}" does not exist')
        return portal

    async def execute(self, portal: str, max_rows: int = 0) -> Result:
        """Execute up to `max_rows` rows (0 = all). `result.suspended` if there may be more: call again to go on."""
        session = self._session
        bound = self._portal(portal)
        session.cancel_requested = False
        session.timeouts.start()
        try:
            prepared = bound.prepared
            await self.read_rest(bound)
            if prepared.utility is not None:
                return await session.utility(prepared.utility, prepared.sql, False)
            if prepared.planned is None:
                result = Result()
                result.empty = True
                return result
            session.refuse_failed()
            session.start()
            if bound.source is not None:
                return await self._fetch(bound, max_rows)
            return await until_fresh(session, lambda: self._run(bound, max_rows))
        except Exception as error:
            late = session.timeouts.instead_of(error)
            await session.fail(late or error)
            if late is not None:
                raise late from None
            raise
        finally:
            session.timeouts.stop()

    # -- in one synchronous step: each does all that the general form would do, or nothing (Q2)

    def parse_quickly(self, name: str, sql: str, param_oids: Sequence[int]) -> bool:
        """`parse` of a text that is planned already."""
        session = self._session
        if session.status == "E" or (name and name in session.statements):
            return False
        if sql.endswith(";"):
            sql = sql[:-1]
        utility = session.shared.utilities.get(sql)
        if utility is not None:
            session.statements[name] = Prepared(name, sql, (), None, utility=utility)
            return True
        declared = tuple([_type_of_oid(oid) for oid in param_oids])
        planned = session.shared.find_prepared(sql, declared, session.db.catalog_for(session.txn))
        if planned is None:
            return False
        session.statements[name] = _prepared(name, sql, planned, declared)
        return True

    def execute_quickly(self, portal: str, max_rows: int) -> Result | Later | None:
        """`execute` of a quick statement, perhaps after a wait.

        Outside a block it has a snapshot of its own, as each statement between two Syncs has at READ COMMITTED only.
        """
        session = self._session
        bound = session.portals.get(portal)
        if bound is None or max_rows or bound.source is not None or session.status == "E":
            return None
        if len(session.portals) > 1 and self.suspended:
            return None
        db = session.db
        if db.failure is not None or db.closing:
            return None
        prepared = bound.prepared
        if prepared.utility is not None:
            return self._quick.utility(prepared.utility)
        planned = prepared.planned
        if planned is None or not planned.fits(db.catalog_for(session.txn)):
            return None
        if session.txn is None and session.settings.values["default_transaction_isolation"][:4] != "read":
            return None
        return self._quick.run(planned, bound.params, bound.result_formats)

    def sync_quickly(self) -> Result | Later | None:
        """`sync`, with the wait for the commit of an implicit transaction (Q1)."""
        session = self._session
        if session.in_block:
            return SYNCED
        if any(portal.source is not None for portal in session.portals.values()):
            return None
        if session.txn is None:
            session.portals.clear()
            return SYNCED
        if session.txn.status != "active":
            return None
        return self._quick.commit(SYNCED)

    # -- plans and rows

    async def _run(self, bound: Portal, max_rows: int) -> Result:
        planned = await self.current(bound.prepared)
        if max_rows > 0:
            bound.source = None  # of a try that met a stale plan
            return await self._fetch(bound, max_rows)
        return await self._session.run(planned, bound.params, bound.result_formats)

    async def current(self, prepared: Prepared) -> Planned:
        """The statement's plan, made again if the catalog has changed. Raises: SqlError 0A000 if its result would differ."""
        session = self._session
        planned = prepared.planned
        if planned is not None and planned.fits(session.db.catalog_for(session.txn)):
            return planned
        # The types that the client was told of: parameters that are bound already are values of these, and of no others.
        declared = prepared.declared if planned is None else planned.param_types
        fresh, _ = await session.shared.plan(session.environment(declared), prepared.sql, template=False)
        if fresh.plan.columns != prepared.columns and planned is not None:
            old, new = planned.plan.columns or (), fresh.plan.columns or ()
            if [(c.name, c.type_oid) for c in old] != [(c.name, c.type_oid) for c in new]:
                raise SqlError("0A000", "cached plan must not change result type")
        prepared.planned = fresh
        return fresh

    async def _fetch(self, bound: Portal, max_rows: int) -> Result:
        """Part of a portal's rows."""
        session = self._session
        planned = bound.prepared.planned
        if planned is None:
            return Result()
        plan = planned.plan
        if bound.source is None:
            session.txn.new_snapshot()
            context = Context(session, session.txn, bound.params)
            await plan.begin(context)
            bound.source = plan.batches(context)
        wanted = max_rows or 1 << 62
        while len(bound.left) < wanted and not bound.done:
            batch = await anext(bound.source, None)
            if batch is None:
                bound.done = True
            else:
                bound.left.extend(batch)
        rows = [bound.left.popleft() for _ in range(min(wanted, len(bound.left)))]
        bound.fetched += len(rows)
        encode = planned.encoder(bound.result_formats) if plan.columns is not None else None
        data = b"".join([encode(row) for row in rows]) if encode is not None else b""
        result = Result("", plan.columns, planned.description, data)
        result.suspended = bool(max_rows) and len(rows) == max_rows and bool(rows)
        if not result.suspended:
            result.tag = plan.final_tag(session.changed_rows if plan.writes else len(rows))
        return result

    @property
    def suspended(self) -> bool:
        """Whether a portal waits for its next Execute with rows unread."""
        return any(portal.suspended for portal in self._session.portals.values())

    async def read_rest(self, but: Portal | None = None) -> None:
        """Read what other portals have still to give (X3). Raises: SqlError 54000; what reading it raises."""
        session = self._session
        if session.status == "E" or not self.suspended:
            return
        for portal in list(session.portals.values()):
            while portal is not but and portal.source is not None and not portal.done:
                batch = await anext(portal.source, None)
                if batch is None:
                    portal.done = True
                    break
                portal.left.extend(batch)
                if len(portal.left) > MOST_READ:
                    raise SqlError(
                        "54000",
                        f"more than {MOST_READ} rows of portal {portal.name!r} are still to be fetched",
                        hint="Fetch them first, or use another connection for the other statement.",
                    )

    async def abandon_portals(self) -> None:
        session = self._session
        portals, session.portals = session.portals, {}
        for portal in portals.values():
            closing = getattr(portal.source, "aclose", None)
            if closing is not None:
                await closing()

    async def sync(self) -> None:
        """Sync: commit the implicit transaction, if there is one (an error here is the commit's)."""
        session = self._session
        if not session.in_block:
            if session.portals:
                await self.abandon_portals()
            if session.txn is not None:
                await session.end(True)


def _type_of_oid(oid: int) -> str:
    if oid in (0, 705):
        return "unknown"
    name = types.BY_OID.get(oid)
    if name is None:
        raise SqlError("42704", f"type with OID {oid} does not exist")
    return name


def _prepared(name: str, sql: str, planned: Planned, declared: tuple[str, ...]) -> Prepared:
    return Prepared(name, sql, planned.param_oids, planned.plan.columns, planned, declared=declared)


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise SqlError("22021", 'invalid byte sequence for encoding "UTF8"') from None

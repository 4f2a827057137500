"""The simple query protocol: a string of statements, run one after the other.

A string is looked up as it is, then by its template, in the plan cache; only what is not there is split and parsed.
X1 and X2 are executor.py's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

from thunderdb.base.errors import SqlError
from thunderdb.engine.rows import StalePlan
from thunderdb.sql.parse import Statement, split
from thunderdb.sql.quick import Later, QuickPath
from thunderdb.sql.result import Result
from thunderdb.sql.utility import WORDS, first_word, parse_utility

if TYPE_CHECKING:
    from thunderdb.sql.executor import SqlSession

STALE_RETRIES = 20


class SimpleProtocol:
    """A session's simple queries."""

    __slots__ = ("_session", "_quick", "_found")

    def __init__(self, session: SqlSession, quick: QuickPath) -> None:
        self._session = session
        self._quick = quick
        self._found: tuple[str, Any, Any] = ("", None, None)  # what `quick` found for a statement that it left to `run`

    async def run(self, sql: str) -> AsyncIterator[Result]:
        """Run a simple query string, statement by statement. Consume a result (its `more`) before asking for the next."""
        session = self._session
        session.cancel_requested = False
        session.timeouts.start()
        try:
            session.portals.pop("", None)
            await session.extended.read_rest()  # X3
            if sql.endswith(";"):  # pgbench and psql send one; the caches know the statement without it
                sql = sql[:-1]
            if session.status != "E":
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
                if number:
                    session.timeouts.start()
                result = await self._statement(statement, alone, sql)
                if alone and session.status == "I" and result.more is None and result.copy_in is None:
                    await session.end(True)
                yield result
                if result.more is not None and number == len(statements) - 1 and session.status == "I":
                    await session.end(True)
            if session.status == "I":
                await session.end(True)
        except Exception as error:
            late = session.timeouts.instead_of(error)
            await session.fail(late or error)
            if late is not None:
                raise late from None
            raise
        finally:
            session.timeouts.stop()

    def quick(self, sql: str) -> Result | Later | None:
        """Answer a simple query in one synchronous step, or in two with a wait between them, or None: take `run`."""
        session = self._session
        if sql.endswith(";"):
            sql = sql[:-1]
        if session.status == "E" or session.db.failure is not None or session.db.closing:
            return None
        if session.portals:
            session.portals.pop("", None)
            if session.extended.suspended:
                return None
        utility = session.shared.utilities.get(sql)
        if utility is not None:
            return self._quick.utility(utility)
        txn = session.txn
        catalog = session.db.catalog if txn is None or txn.ddl is None else session.db.catalog_for(txn)
        found = session.shared.find(sql, catalog)
        if found is None:
            self._found = (sql, catalog, None)
            return None
        result = self._quick.run(found[0], found[1], alone=True)
        if result is None:
            self._found = (sql, catalog, found)
        return result

    async def _hot(self, sql: str) -> Result | None:
        """A statement with a cached plan, or a transaction command: no parsing, no splitting."""
        session = self._session
        block, shared = session.in_block, session.shared
        utility = shared.utilities.get(sql)
        if utility is not None:
            return await session.utility(utility, sql, True)
        catalog = session.db.catalog_for(session.txn)
        known = self._found
        found = known[2] if known[0] == sql and known[1] is catalog else shared.find(sql, catalog)
        if found is None:
            return None
        planned, params = found
        if block:
            mark = session.txn.savepoint()
            try:
                return await session.run(planned, params, ())
            except StalePlan:
                await session.txn.rollback_to(mark)
                return None
        session.start()
        try:
            result = await session.run(planned, params, ())
        except StalePlan:
            await session.end(False)
            return None
        if result.more is None:
            await session.end(True)
        else:
            result.more = self._ending(result.more)
        return result

    async def _ending(self, more: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        session = self._session
        async for chunk in more:
            yield chunk
        await session.end(True)

    async def _statement(self, statement: Statement, alone: bool, sql: str) -> Result:
        session = self._session
        if first_word(statement.text) in WORDS:
            utility = parse_utility(statement.text, statement.offset)
            if alone:
                session.shared.remember_utility(sql, utility)
            return await session.utility(utility, statement.text, alone)
        session.refuse_failed()
        session.start()
        return await self._planned_run(statement.text, statement.offset)

    async def _planned_run(self, sql: str, offset: int) -> Result:
        """Plan (or find the plan) and run."""
        session = self._session

        async def run() -> Result:
            found = session.shared.find(sql, session.db.catalog_for(session.txn))
            planned, params = found if found is not None else await session.shared.plan(session.environment(), sql, offset)
            return await session.run(planned, params, ())

        return await until_fresh(session, run)


async def until_fresh(session: SqlSession, step: Callable[[], Awaitable[Result]]) -> Result:
    """Run what plans and locks tables, again if one of them has changed while it waited (X2). Raises: SqlError 40001."""
    for _ in range(STALE_RETRIES):
        mark = session.txn.savepoint()
        try:
            return await step()
        except StalePlan:
            await session.txn.rollback_to(mark)
    raise SqlError("40001", "could not serialize access: the table keeps changing")

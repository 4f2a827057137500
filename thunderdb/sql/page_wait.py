"""Waits for a page that a cancel or a time-out ends: of statements by key, which have nothing else to be interrupted in.

P1. The page itself still comes in, for whoever wants it next; only the statement no longer waits for it.
P2. What is waited for is not pinned. In a pool so small that it is gone again each time, a statement stops waiting like this
    after MAX_MISSES pages: the engine pins what it needs then, and a cancel counts when that is done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from thunderdb.base.errors import SqlError
from thunderdb.engine.rows import LockBusy, WouldWait
from thunderdb.runtime.sync import Task
from thunderdb.sql.context import Context
from thunderdb.sql.prepare import Planned
from thunderdb.sql.result import Result
from thunderdb.storage.pool import Miss, PageMiss

if TYPE_CHECKING:
    from thunderdb.sql.executor import SqlSession

MAX_MISSES = 4


def load(session: SqlSession, page_no: int) -> Task[Any]:
    """Begin to wait for a page; `SqlSession.cancel` ends that wait."""
    access = session.db.access
    session.page_wait = wait = access.tasks.spawn(access.pool.load(page_no), "sql.page")
    return wait


async def get_by_key(context: Context, root: int, key: bytes, miss: Miss) -> bytes | None:
    """A row that was not in memory. Raises: QueryCancelled."""
    txn = context.txn
    for _ in range(MAX_MISSES):
        if not isinstance(miss, PageMiss):
            break
        await load(context.session, miss.page_no)
        context.check()
        try:
            payload: bytes | None = context.rows.try_get(txn, root, key)
            return payload
        except Miss as again:
            miss = again
    payload = await context.rows.get(txn, root, key)
    context.check()
    return payload


async def change_by_key(planned: Planned, context: Context) -> Result | None:
    """The change of one row; None: it takes more than pages, and nothing was changed. Raises: QueryCancelled."""
    plan, session = planned.quick_write, context.session
    if plan is None:
        return None
    for _ in range(MAX_MISSES):
        try:
            result: Result = plan.results[plan.change_quickly(context)]
            return result
        except PageMiss as miss:
            await load(session, miss.page_no)
            context.check()
            if planned.catalog is not session.db.catalog_for(context.txn):
                return None
        except (LockBusy, Miss, WouldWait, SqlError):
            return None
    return None

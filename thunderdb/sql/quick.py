"""The commonest statements in one synchronous step: a row by its key, and the change of one row by its key.

They cost no coroutine. The waits that every busy client knows, for a row's lock, for a page and for its commit, are a `Later`:
a future, and the step to take when it is done. What would wait otherwise, or fail, is left, unchanged, to the general path,
which does it again.

Q1. Outside a block a read has no transaction, and a change begins one: the simple protocol commits it with the statement, the
    extended one at Sync. It is complete when the commit is durable.
Q2. A quick step that gives None has changed nothing that the general path does not find as it was. A transaction that it has
    begun, with the locks that it has taken, is the general path's to use and to end.
Q3. What cannot happen (InvariantViolated) is never taken for "leave it to the general path".
Q4. After a wait the step is taken from its beginning: nothing seen before it is believed (E1 of engine/rows.py). A cancel that
    came during the wait ends it, or counts at its end.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from thunderdb.base.errors import InvariantViolated, SqlError, ThunderError
from thunderdb.engine.rows import LockBusy, WouldWait
from thunderdb.runtime.sync import Future
from thunderdb.sql.change import UpdatePlan
from thunderdb.sql.context import Context
from thunderdb.sql.insert import InsertPlan
from thunderdb.sql.page_wait import MAX_MISSES, load
from thunderdb.sql.prepare import Planned
from thunderdb.sql.result import Result
from thunderdb.sql.select import PointPlan
from thunderdb.sql.utility import Utility
from thunderdb.storage.pool import Miss, PageMiss
from thunderdb.txn.locks import Mode
from thunderdb.txn.manager import READ_COMMITTED

if TYPE_CHECKING:
    from thunderdb.sql.executor import SqlSession

T = TypeVar("T")


class Later:
    """A step that waits: when `future` is done, `finish` gives the result, or the next wait, or None for the general path."""

    __slots__ = ("future", "_step")

    def __init__(self, future: Future[None], step: Callable[[], Result | Later | None]) -> None:
        self.future = future
        self._step = step

    def finish(self) -> Result | Later | None:
        """Raises: what the future failed with."""
        self.future.result()
        return self._step()


class QuickPath:
    """The quick steps of one session."""

    __slots__ = ("_session", "_reader", "_context")

    def __init__(self, session: SqlSession) -> None:
        self._session = session
        self._reader: Any = None  # stands in for a transaction outside a block
        self._context = Context(session, None, ())  # of each step anew: none goes on after it has returned

    def _context_of(self, txn: Any, params: Sequence[Any]) -> Context:
        context = self._context
        context.txn = txn
        context.params = params
        context.statement_us = None
        return context

    def run(
        self,
        planned: Planned,
        params: Sequence[Any],
        formats: tuple[int, ...] = (),
        alone: bool = False,
        misses: int = 0,
    ) -> Result | Later | None:
        """Run a plan, with the wait for a row's lock and for a page or two; `alone`: and commit, if there is no block (Q1)."""
        session = self._session
        write = planned.quick_write
        try:
            if write is not None:
                result = self._write(write, params)
            elif planned.point is not None:
                result = self._point(planned, planned.point, params, formats)
            else:
                return None
        except LockBusy as busy:
            if session.timeouts.any():
                return None
            waited: Future[Any] = session.db.manager.locks.acquire(session.txn, busy.name, Mode.EXCLUSIVE)
        except PageMiss as miss:
            # So small a pool that the page may be gone again: it has to be pinned. Timers run on the general path.
            if misses == MAX_MISSES or session.timeouts.any():
                return None
            waited = load(session, miss.page_no)
            misses += 1
            if waited.done():
                return None if waited.error() is not None else self.run(planned, params, formats, alone, misses)
        else:
            if alone and result is not None and session.txn is not None and not session.in_block:
                return self.commit(result)
            return result
        return Later(waited, lambda: self._again(planned, params, formats, alone, misses))

    def _again(
        self, planned: Planned, params: Sequence[Any], formats: tuple[int, ...], alone: bool, misses: int
    ) -> Result | Later | None:
        """`run` after a wait, unless the table may be another one by now (Q4)."""
        db = self._session.db
        if self._session.cancel_requested:
            self._context.check()
        if db.failure is not None or db.closing or not planned.fits(db.catalog_for(self._session.txn)):
            return None
        return self.run(planned, params, formats, alone, misses)

    def commit(self, result: Result) -> Result | Later | None:
        """Commit; `result` is what there is to tell then. Raises: what stopped the log."""
        session = self._session
        if not session.txn.last_lsn:
            if not self.ends_at_once():
                return None
            run_now(session.end(True))
            return result
        durable = session.commit_soon()
        return result if durable is None else Later(durable, lambda: result)

    def _point(self, planned: Planned, point: PointPlan, params: Sequence[Any], formats: tuple[int, ...]) -> Result | None:
        """Raises: PageMiss."""
        session = self._session
        txn = session.txn
        if txn is None:
            txn = self._reader
            if txn is None:
                txn = self._reader = session.db.begin(read_only=True)
            session.begun_us = None
        elif not session.in_block:
            return None
        session.cancel_requested = False
        try:
            key = point.key(self._context_of(txn, params))
            if txn.isolation == READ_COMMITTED:
                payload = None if key is None else session.rows.try_get_now(txn, point.root, key)
            else:
                txn.new_snapshot()
                payload = None if key is None else session.rows.try_get(txn, point.root, key)
        except (InvariantViolated, PageMiss):  # Q3
            raise
        except (Miss, ValueError, ArithmeticError, ThunderError):
            return None
        if payload is None:
            return Result("SELECT 0", point.columns, planned.description, b"")
        row = planned.encoder(formats)(point.project(payload))
        return Result("SELECT 1", point.columns, planned.description, row)

    def _write(self, plan: UpdatePlan | InsertPlan, params: Sequence[Any]) -> Result | None:
        """One row, one log record. Raises: LockBusy, PageMiss."""
        session = self._session
        if session.txn is None:
            session.start()
        txn = session.txn
        if txn.read_only:
            return None
        session.cancel_requested = False
        try:
            return plan.results[plan.change_quickly(self._context_of(txn, params))]
        except PageMiss:
            raise
        except (Miss, WouldWait, SqlError):
            return None

    def _utility_at_once(self, utility: Utility) -> Result | None:
        """BEGIN; COMMIT and ROLLBACK of a block that has changed nothing."""
        session, kind = self._session, utility.kind
        if kind == "begin":
            if session.status != "I":
                return None
            session.begin_block(utility.values["modes"])
            return Result("BEGIN")
        if kind not in ("commit", "rollback") or session.status != "T" or utility.values["chain"]:
            return None
        if not self.ends_at_once():
            return None
        return Result(run_now(session.end_block(kind == "commit")))

    def utility(self, utility: Utility) -> Result | Later | None:
        """BEGIN, COMMIT and ROLLBACK, with the wait for a commit."""
        session = self._session
        if utility.kind != "commit" or session.status != "T" or utility.values["chain"] or not session.txn.last_lsn:
            return self._utility_at_once(utility)
        return self.commit(Result("COMMIT"))

    def ends_at_once(self) -> bool:
        """Whether the transaction's end has nothing to write and nothing to wait for."""
        txn = self._session.txn
        return not (txn.last_lsn or txn.durable_lsn) and txn.ddl is None and txn.status == "active"


def run_now(coro: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that has nothing to wait for. Raises: InvariantViolated if it waits all the same."""
    try:
        coro.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    coro.close()
    raise InvariantViolated("a step that has nothing to wait for waits")

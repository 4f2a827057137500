"""statement_timeout and lock_timeout: timers around a statement on the general path (where one is set,
a quick one that would have to wait for a lock or a page goes there).

A wait for a lock is looked at eight times within lock_timeout, so it ends at most an eighth late.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from thunderdb.base.errors import QueryCancelled, SqlError

if TYPE_CHECKING:
    from thunderdb.sql.executor import SqlSession

MS_NS = 1_000_000
LOOKS = 8


class Timeouts:
    """The timers of a session's running statement."""

    __slots__ = ("_session", "_timer", "_lock_timer", "_wait", "_looks", "_expired")

    def __init__(self, session: SqlSession) -> None:
        self._session = session
        self._timer: Any = None
        self._lock_timer: Any = None
        self._wait: Any = None  # what the statement waited for at the last look
        self._looks = 0
        self._expired: SqlError | None = None

    def any(self) -> bool:
        """Whether the session has set one."""
        values = self._session.settings.values
        return bool(values["statement_timeout"] != "0" or values["lock_timeout"] != "0")

    @property
    def running(self) -> bool:
        """Whether a statement's time is being taken."""
        return self._timer is not None

    def start(self) -> None:
        """A statement begins."""
        self.stop()
        self._expired = None
        values = self._session.settings.values
        if values["statement_timeout"] != "0":
            self._timer = self._later(int(values["statement_timeout"]) * MS_NS, self._statement_is_late)
        if values["lock_timeout"] != "0":
            self._wait = None
            self._look_later()

    def stop(self) -> None:
        """The statement has ended."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._lock_timer is not None:
            self._lock_timer.cancel()
            self._lock_timer = None

    def instead_of(self, error: Exception) -> SqlError | None:
        """The time-out's own error, if that was what cancelled a statement; None: it failed as it says.

        Not the error itself: in a variable of the frame that is in its traceback it would be a cycle, with all that the
        failed statement had in its hands.
        """
        self.stop()
        expired, self._expired = self._expired, None
        return expired if isinstance(error, QueryCancelled) else None

    def _later(self, delay_ns: int, callback: Any) -> Any:
        return self._session.db.access.tasks.scheduler.call_later(delay_ns, callback)

    def _statement_is_late(self) -> None:
        self._timer = None
        self._expired = QueryCancelled("canceling statement due to statement timeout")
        self._session.cancel()

    def _look_later(self) -> None:
        delay_ns = int(self._session.settings.values["lock_timeout"]) * MS_NS // LOOKS
        self._lock_timer = self._later(delay_ns, self._look)

    def _look(self) -> None:
        session = self._session
        wait = session.txn.waiting if session.txn is not None else None
        if wait is None or wait is not self._wait:
            self._wait, self._looks = wait, 0
        else:
            self._looks += 1
        if self._looks >= LOOKS:
            self._lock_timer = None
            session.db.manager.locks.cancel_wait(session.txn, SqlError("55P03", "canceling statement due to lock timeout"))
        else:
            self._look_later()

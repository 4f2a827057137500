"""The time that a client may take between its messages: idle_in_transaction_session_timeout and idle_session_timeout.

I1. The time runs while the session has answered all that it was sent, and waits for more; any byte of the client ends it.
I2. When it is over the connection ends with a FATAL error (25P03 in a transaction block, failed or not; else 57P05), and the
    transaction is rolled back as if the client had gone, so its locks are free.

Source: PostgreSQL 15 manual, section 20.11.1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from thunderdb.base.errors import SqlError
from thunderdb.runtime.ports import Timer

if TYPE_CHECKING:
    from thunderdb.server.session import Session

MS_NS = 1_000_000


class IdleWatch:
    """The timer of one session. Only asked where one of the two is set (`Settings.idle_limited`)."""

    __slots__ = ("_session", "timer")

    def __init__(self, session: Session) -> None:
        self._session = session
        self.timer: Timer | None = None

    def begin(self) -> None:
        """The session begins to wait for its client."""
        self.end()
        session = self._session
        limit_ms, error = session.sql.idle_limit()
        if limit_ms and not session.skipping:
            self.timer = session.tasks.scheduler.call_later(limit_ms * MS_NS, self._over, error)

    def end(self) -> None:
        """The client has sent something, or has gone."""
        timer, self.timer = self.timer, None
        if timer is not None:
            timer.cancel()

    def _over(self, error: SqlError) -> None:
        self.timer = None
        self._session.terminate(error)

"""What a running statement knows: its parameters, its transaction, its session, the time; and how it is cancelled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from thunderdb.base.errors import QueryCancelled, SqlError

if TYPE_CHECKING:
    from thunderdb.sql.executor import SqlSession

_PAUSE_ROWS = 20_000
CHANGES_A_TURN = 256
"""After so many changed rows, counted in `changes`, a statement calls `breathe`."""
_SLEEP_NS = 50_000_000
LONGEST_SLEEP_S = 1e9


class Context:
    """One execution of one statement. Compiled expressions get it as their second argument."""

    __slots__ = (
        "db", "rows", "txn", "session", "params", "scalars", "sequences", "statement_us", "changes", "_rows_since_pause",
    )  # fmt: skip

    def __init__(self, session: SqlSession, txn: Any, params: Sequence[Any]) -> None:
        self.db = session.db
        self.rows = session.rows
        self.txn = txn
        self.session = session
        self.params = params
        self.scalars: list[Any] = []
        self.sequences: list[int] = []
        self.statement_us: int | None = None
        self._rows_since_pause = 0
        self.changes = 0

    def time(self, which: str) -> int:
        """Microseconds since 2000: of the "transaction"'s start, this "statement"'s first look, or the "clock" now."""
        if which == "transaction":
            return self.session.transaction_us()
        if which == "clock" or self.statement_us is None:
            self.statement_us = self.session.now_us()
        return self.statement_us

    def random_bits(self, count: int) -> int:
        return self.session.random_bits(count)

    def session_value(self, name: str) -> Any:
        return self.session.value_of(name)

    def setting(self, name: str, missing_ok: bool) -> str | None:
        try:
            return self.session.settings.show(name)
        except SqlError:
            if missing_ok:
                return None
            raise

    def set_config(self, name: str, value: str, local: bool) -> str:
        self.session.set_parameter(name, value, local)
        return self.session.settings.show(name)

    def currval(self, name: str) -> int:
        return self.session.currval(name)

    async def nextval(self, name: str) -> int:
        sequence = self.db.catalog_for(self.txn).sequence(name)
        if sequence is None:
            raise SqlError("42P01", f'relation "{name}" does not exist')
        value: int = await self.db.ddl.nextval(sequence, self.txn)
        self.session.note_sequence(name, value)
        return value

    async def fill_sequences(self, names: Sequence[str]) -> None:
        """Draw the next value of each sequence that the coming row needs."""
        self.sequences = [await self.nextval(name) for name in names]

    def check(self) -> None:
        """Raises: QueryCancelled if the client asked for it."""
        if self.session.cancel_requested:
            self.session.cancel_requested = False
            raise QueryCancelled("canceling statement due to user request")

    async def sleep(self, seconds: float | None) -> None:
        """Let time pass, a little at a time, so that a cancel or a time-out is noticed."""
        left_ns = int(min(seconds, LONGEST_SLEEP_S) * 1e9) if seconds is not None and seconds > 0 else 0
        tasks = self.db.access.tasks
        while left_ns > 0:
            await tasks.sleep(min(left_ns, _SLEEP_NS))
            left_ns -= _SLEEP_NS
            self.check()

    async def breathe(self) -> None:
        """In the middle of many changes: let others run, and the log reach the disk. Raises: DiskFull, QueryCancelled."""
        self.changes = 0
        await self.db.access.log.wait_for_room()
        await self.db.access.tasks.yield_now()
        self.check()

    async def progress(self, count: int) -> None:
        """Account for rows worked on: notice a cancel, and let other sessions run now and then."""
        if self.session.cancel_requested:
            self.check()
        self._rows_since_pause += count
        if self._rows_since_pause >= _PAUSE_ROWS:
            done, self._rows_since_pause = self._rows_since_pause, 0
            await self.session.pause(done)
            self.check()

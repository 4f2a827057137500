"""The notes "complete up to T" in an archive, so that a target in a quiet hour is valid.

C1. A note is made of a sample that the archive has reached: every commit that is not before its LSN is after its time.
C2. That holds over restarts, too: no note is made before a commit later than T is durable in the log, or T is written down here
    (identity.I4). So a start knows how late its commits must be, though its clock was set back and the archive is out of reach.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from thunderdb.archive.index import Complete
from thunderdb.archive.ledger import Ledger
from thunderdb.archive.status import Sample
from thunderdb.archive.target import Target
from thunderdb.base.errors import DiskFull
from thunderdb.engine.database import Database

IDLE_NOTE_NS = 10_000_000_000


class Notes:
    """Those of one archiver. `flush` makes the log durable, if that is soon done; `remember` writes the ledger's memory."""

    def __init__(
        self, db: Database, target: Target, ledger: Ledger, flush: Callable[[], Awaitable[bool]],
        remember: Callable[[], Awaitable[None]],
    ) -> None:  # fmt: skip
        self.db = db
        self.target = target
        self.ledger = ledger
        self._flush = flush
        self._remember = remember
        self._clock = db.ports.clock
        self._noted_ns = 0

    async def make(self) -> None:
        """Say up to when the archive is complete: after each push, and now and then when nothing is written."""
        ledger, covered, now_ns = self.ledger, self.ledger.covered, self._clock.monotonic_ns()
        if covered.time_us <= ledger.noted.time_us or covered.lsn > ledger.archived_lsn:
            return
        if covered.lsn == ledger.noted.lsn and now_ns - self._noted_ns < IDLE_NOTE_NS:
            return
        if not await self._promise(covered):
            return
        complete = Complete(covered.lsn, covered.time_us, self.db.log.newest_segment)
        await self.target.note(self.db.log.timeline, complete)
        ledger.noted, self._noted_ns = complete, now_ns

    async def _promise(self, covered: Sample) -> bool:
        """C2; False if there is no room for that."""
        if covered.time_us <= self.ledger.promised_us:
            return True
        if self.db.manager.commits > covered.commits and await self._flush():
            return True  # the log has a later commit, as it nearly always has under load
        before, self.ledger.promised_us = self.ledger.promised_us, covered.time_us
        try:
            await self._remember()
        except DiskFull:
            self.ledger.promised_us = before  # no note: `complete_until` stands still, which the status shows
            return False
        return True

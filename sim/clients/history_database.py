"""The database under a history: its log tells the truth of every record, and of where it went on after each restart."""

from __future__ import annotations

from typing import Any

from sim.clients.engine_session import SimDatabase, TracedLog
from sim.oracle.oracle import Violation
from sim.oracle.truth import Recorder
from thunderdb.recovery.extras import CLOCK_STEP_EXTRA, COMMIT_EXTRA
from thunderdb.wal.reader import LogEnd
from thunderdb.wal.record import RecordKind

_COMMIT, _STEP = int(RecordKind.COMMIT), int(RecordKind.CLOCK_STEP)


class HistoryLog(TracedLog):
    """Tells of every record, and where the log ended at the last restart."""

    recorder: Recorder | None = None
    end_lsn = 0
    newest_us = 0  # of this life's commits: one that a crash took with it may have had the same time
    starts: list[int]

    def _add(self, kind: int, length: int, body: bytes) -> Any:
        lsn = TracedLog._add(self, kind, length, body)
        self.starts.append(lsn)
        return lsn

    def append(self, kind: int, txn: int, prev_lsn: int, changes: Any = (), extra: bytes = b"", flags: int = 0) -> Any:
        lsn = TracedLog.append(self, kind, txn, prev_lsn, changes, extra, flags)
        if self.recorder is not None:
            if kind == _COMMIT:
                order_us = COMMIT_EXTRA.unpack(extra)[0]
                if order_us <= self.newest_us:
                    raise Violation(f"transaction {txn} commits at {order_us} us, behind one at {self.newest_us} us")
                self.newest_us = order_us
                self.recorder.record(txn, lsn, order_us)
            elif kind == _STEP:
                self.recorder.steps.append((lsn, CLOCK_STEP_EXTRA.unpack(extra)))
        return lsn

    async def resume(self, end: LogEnd) -> None:
        self.end_lsn = end.lsn
        self.starts = []
        self._disk.log_lives.append((end.lsn, self.starts))  # type: ignore[attr-defined]
        await TracedLog.resume(self, end)

    start = resume


class HistoryDatabase(SimDatabase):
    log_writer = HistoryLog
    log: HistoryLog


class ScaledDatabase(HistoryDatabase):
    """At a scale, memory for all of a small log would be memory for all of a large one: so only for the newest segment."""

    kept_log_bytes = 128 << 10

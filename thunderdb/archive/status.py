"""How far the archive is, and what would be lost if this machine died now.

    samples:  (lsn, commits, order time, clock)  ◀─ taken together, so: all `commits` commits lie below `lsn`
    covered:  the newest sample whose lsn the archive has reached

E1. Exposure is an upper bound: a commit counts as safe only once the archive holds a sample taken after it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from thunderdb.archive.index import Gap

RATE_WINDOW_NS = 60_000_000_000
MAX_SAMPLES = 4096


@dataclass(frozen=True, slots=True)
class ArchiveStatus:
    """What GET /admin/wal/archive/status shows. Times in microseconds since 1970 UTC, 0 for never."""

    archiving_enabled: bool
    last_archived_segment: str
    last_archive_time_us: int
    segments_pending: int
    archive_rate_bytes_per_sec: int
    total_archived_bytes: int
    place: str
    gaps: tuple[Gap, ...]
    verified: bool
    failing: bool
    refused: bool
    last_error: str
    archived_lsn: int
    complete_until_us: int
    lag_seconds: float
    lag_bytes: int
    exposed_transactions: int
    exposed_bytes: int
    exposed_seconds: float


@dataclass(frozen=True, slots=True)
class Sample:
    lsn: int
    commits: int
    time_us: int
    clock_ns: int


class Exposure:
    """Knows which commits the archive does not have yet (E1)."""

    def __init__(self, first: Sample) -> None:
        self.covered = first
        self._samples: deque[Sample] = deque()

    def add(self, sample: Sample) -> None:
        last = self._samples[-1] if self._samples else self.covered
        if sample.lsn == last.lsn:
            # Nothing was written: the later time holds for the same log.
            if self._samples:
                self._samples[-1] = sample
            else:
                self.covered = sample
            return
        self._samples.append(sample)
        if len(self._samples) > MAX_SAMPLES:  # a long outage: keep every other one
            self._samples = deque(list(self._samples)[::2])

    def reached(self, lsn: int) -> None:
        """The archive holds the log up to `lsn`."""
        while self._samples and self._samples[0].lsn <= lsn:
            self.covered = self._samples.popleft()

    @property
    def oldest_open_ns(self) -> int | None:
        """When the oldest sample that the archive has not reached was taken."""
        return self._samples[0].clock_ns if self._samples else None


class Rate:
    """Bytes a second over the last minute."""

    def __init__(self) -> None:
        self._sent: deque[tuple[int, int]] = deque()
        self._sum = 0

    def add(self, now_ns: int, size_bytes: int) -> None:
        self._sent.append((now_ns, size_bytes))
        self._sum += size_bytes
        self._forget(now_ns)

    def per_second(self, now_ns: int) -> int:
        self._forget(now_ns)
        return self._sum * 1_000_000_000 // RATE_WINDOW_NS

    def _forget(self, now_ns: int) -> None:
        while self._sent and self._sent[0][0] < now_ns - RATE_WINDOW_NS:
            self._sum -= self._sent.popleft()[1]

"""What the archiver knows: what the archive holds, what of the log it lacks, and what that would cost if the machine died now.

G1. `archived_lsn` is what was read back (closed segments) or synced (the tail), without a gap below it since it began.
G2. Commits are counted by samples (status.py); those of earlier lives are counted once, from the log that is not archived.
"""

from __future__ import annotations

from thunderdb.archive.identity import Archived, read_archived
from thunderdb.archive.index import ArchiveIndex, Complete, Gap, gaps_in
from thunderdb.archive.start import scan_segment
from thunderdb.archive.status import ArchiveStatus, Exposure, Rate, Sample
from thunderdb.archive.target import Target
from thunderdb.engine.database import Database
from thunderdb.wal.segment import SEGMENT_HEADER_SIZE, segment_name

SECOND_NS = 1_000_000_000


class Ledger:
    """The archive of one timeline, as one archiver sees it."""

    def __init__(self, db: Database, target: Target) -> None:
        self.db = db
        self.log = db.log
        self.timeline = db.log.timeline
        self.target = target
        self.known: set[int] = set()  # closed segments that the archive had when it was listed, and those shipped since
        self.stale: dict[int, str] = {}  # keys of partial segments by number
        self.shipped = 0  # segments up to this one were compared with their copy in this life
        self.noted = Complete(0, 0, 0)
        self.promised_us = 0  # identity.I4
        self._gaps: tuple[Gap, ...] = ()
        self._last_segment = ""
        self._last_time_us = 0
        self._total_bytes = 0
        self._closed_lsn = 0
        self._tail_lsn = 0
        self._rate = Rate()
        self._clock = db.ports.clock
        self._exposure = Exposure(Sample(db.log.oldest_lsn, 0, 0, self._clock.monotonic_ns()))
        self._backlog: dict[int, int] | None = None  # commits of earlier lives by segment
        self._backlog_lsn = db.log.flushed_lsn

    @property
    def archived_lsn(self) -> int:
        """G1."""
        return max(self._closed_lsn, self._tail_lsn)

    @property
    def covered(self) -> Sample:
        """The newest sample that the archive has reached."""
        return self._exposure.covered

    @property
    def pending(self) -> list[tuple[int, int]]:
        """(number, start LSN) of the closed segments that are still to be shipped, oldest first."""
        closed = self.log.newest_closed
        if self.shipped >= closed:
            return []
        return [(number, start_lsn) for number, start_lsn in self.log.segments_after(self.shipped) if number <= closed]

    # -- At the start

    async def remembered(self) -> Archived | None:
        """What was archived at this place in earlier lives, as far as it was written down."""
        found = await read_archived(self.db.ports.disk, self.db.config.data_dir)
        if found is not None:
            self.promised_us = max(self.promised_us, found.noted_us)  # wherever that was
        return found if found is not None and found.place == self.target.place else None

    async def begin(self) -> None:
        """Count the commits that earlier lives may have left unarchived (G2); once."""
        if self._backlog is not None:
            return
        remembered = await self.remembered()
        known = remembered.number if remembered is not None and remembered.timeline == self.timeline else 0
        self._closed_lsn = dict(self.log.segments).get(known + 1, 0) if known else 0
        counts: dict[int, int] = {}
        for number, start_lsn in self.log.segments:
            if number > known and start_lsn < self._backlog_lsn:
                name = segment_name(self.timeline, number)
                raw = await self.db.ports.disk.read_file(f"{self.log.directory}/{name}")
                raw = raw[: SEGMENT_HEADER_SIZE + self._backlog_lsn - start_lsn]
                system_id = self.db.control.state.system_id
                counts[number] = (await scan_segment(self.db.ports.tasks, raw, self.timeline, number, system_id)).commits
        self._backlog = counts

    def memory(self, number: int) -> Archived:
        """What to write down for the next life."""
        return Archived(
            self.target.place, self.timeline, number, True, self._total_bytes, self._last_time_us, self.promised_us
        )  # fmt: skip

    def take_over(self, index: ArchiveIndex) -> None:
        """What the archive shows at the start."""
        self.listed(index)
        closed = index.numbers(self.timeline, partial=False)
        complete = index.complete.get(self.timeline)
        if complete is not None:
            self.noted = complete
        if closed:
            self._last_segment = segment_name(self.timeline, closed[-1])
            modified_us = index.segments[self.timeline, closed[-1]].modified_ns // 1000
            self._last_time_us = modified_us or self.noted.time_us

    def take_over_memory(self, remembered: Archived) -> None:
        """An archive that cannot be listed: all there is to know is what was remembered."""
        number = remembered.number
        self.shipped = min(number, self.log.newest_closed)
        self._total_bytes, self._last_time_us = remembered.size_bytes, remembered.time_us
        self._last_segment = segment_name(self.timeline, number) if number else ""
        oldest = self.log.segments[0][0]
        self._gaps = tuple(gaps_in(self.timeline, [number, oldest])) if number and oldest > number else ()

    def listed(self, index: ArchiveIndex) -> None:
        """A new listing."""
        numbers = index.numbers(self.timeline)
        self.known = set(index.numbers(self.timeline, partial=False))
        self.stale = {number: entry.key for (timeline, number), entry in index.partials.items() if timeline == self.timeline}
        self._total_bytes = index.size_bytes
        here = [number for number, _ in self.log.segments] if numbers else []
        others = [gap for gap in index.gaps() if gap.timeline != self.timeline]
        self._gaps = (*others, *gaps_in(self.timeline, sorted({*numbers, *here})))

    # -- On the way

    def sample(self) -> None:
        """One moment: every commit until now lies below `lsn`, every later one is after `time_us`."""
        manager = self.db.manager
        commits = manager.commits + len(manager.committing)
        self._exposure.add(Sample(self.log.next_lsn, commits, manager.order.passed(), self._clock.monotonic_ns()))

    def one_shipped(self, number: int, name: str, end_lsn: int, size_bytes: int) -> None:
        """A closed segment was read back; `size_bytes` is 0 if it was there before, perhaps under an ancestor's name."""
        self.known.add(number)
        self.shipped = number
        (self._backlog or {}).pop(number, None)
        self._last_segment = name
        if size_bytes:
            self._last_time_us = self._clock.wall_ns() // 1000
            self._total_bytes += size_bytes
            self._rate.add(self._clock.monotonic_ns(), size_bytes)
        self._closed_lsn = end_lsn
        self._reached(end_lsn)

    def tail_shipped(self, lsn: int, size_bytes: int) -> None:
        self._rate.add(self._clock.monotonic_ns(), size_bytes)
        self._tail_lsn = lsn
        self._reached(lsn)

    def _reached(self, lsn: int) -> None:
        self._exposure.reached(lsn)
        if lsn >= self._backlog_lsn:
            self._backlog = {}

    def hold_lsn(self) -> int:
        """The first LSN of the log here that is in no segment that was read back."""
        for number, start_lsn in self.log.segments:
            if number > self.shipped:
                return start_lsn
        return self._closed_lsn or self.log.oldest_lsn

    # -- What it comes to

    def status(self, enabled: bool, failing: bool, refused: str, last_error: str) -> ArchiveStatus:
        flushed, covered, now_ns = self.log.flushed_lsn, self.covered, self._clock.monotonic_ns()
        behind = max(0, flushed - max(self.archived_lsn, self.log.oldest_lsn))
        lost = sum((self._backlog or {}).values()) + max(0, self.db.manager.commits - covered.commits)
        if self.archived_lsn >= self.log.next_lsn:
            lost = 0
        since_s = max(0.0, (now_ns - covered.clock_ns) / SECOND_NS)
        return ArchiveStatus(
            archiving_enabled=enabled,
            last_archived_segment=self._last_segment,
            last_archive_time_us=self._last_time_us,
            segments_pending=len(self.pending),
            archive_rate_bytes_per_sec=self._rate.per_second(now_ns),
            total_archived_bytes=self._total_bytes,
            place=self.target.place,
            gaps=self._gaps,
            verified=self.target.verified,
            failing=failing,
            refused=bool(refused),
            last_error=refused or last_error,
            archived_lsn=self.archived_lsn,
            complete_until_us=self.noted.time_us,
            lag_seconds=since_s if behind else 0.0,
            lag_bytes=behind,
            exposed_transactions=lost,
            exposed_bytes=behind if lost else 0,
            exposed_seconds=since_s if lost else 0.0,
        )

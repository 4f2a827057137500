"""The log of a restore, read once: followed from where the backup needs it to where the restore stops.

    piece after piece (logline.py) ─▶ marks ─▶ the stop rule (recovery/target.py) ─▶ segments to lay down, cut at the stop

One pass checks every record, finds the stop, counts who will be rolled back, notes the digest of what was read, and keeps the
bytes as long as there is room: those are laid down without being fetched again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from thunderdb.backup.logline import Found, Gap, LineReader, Piece, checksum_at, used_digest
from thunderdb.backup.sources import BackupLog, BackupSource, Survey
from thunderdb.base.errors import Refused, StorageError
from thunderdb.base.ids import format_lsn
from thunderdb.recovery.target import LATEST, Stop, StopFinder, Target, TooEarly, Transactions, format_time, marks_of
from thunderdb.runtime.ports import Ports
from thunderdb.wal.record import iter_changes
from thunderdb.wal.segment import SEGMENT_HEADER_SIZE, SegmentScan

LOOK_AHEAD_US = 24 * 3600 * 1_000_000
"""How much log (in time) behind a target time is searched for a clock that was set back; a dry run searches all of it."""
KEEP_BYTES = 192 << 20
"""How much log is kept from the plan to where it is laid down; what is beyond is read a second time (plan.N3)."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One piece of log to lay down: records up to `end_lsn`, whose bytes have this digest."""

    piece: Piece
    end_lsn: int
    digest: str

    @property
    def size_bytes(self) -> int:
        """How many bytes of it are laid down."""
        return SEGMENT_HEADER_SIZE + self.end_lsn - self.piece.header.start_lsn


class Scan:
    """One pass over the log of a line of timelines. After `run`: `segments`, `kept` by name, `losers`, `notes`."""

    def __init__(self, ports: Ports, reader: LineReader, backup: BackupSource, survey: Survey) -> None:
        self.segments: list[Segment] = []
        self.kept: dict[str, bytes] = {}
        self.losers = 0
        self.newest_us = 0
        self.notes: list[str] = []
        self._ports = ports
        self._reader = reader
        self._backup = backup
        self._torn = dict.fromkeys(survey.torn, 0)
        self.line = reader.line
        self.reached_own = not reader.line.forks
        self.cut_found = False
        self.starts: list[tuple[int, int]] = []
        self._verified = False
        self._room = 0
        self._keeps = False
        self._at_stop: dict[str, bytes] = {}
        """Segments that are kept in any case: that in which the stop lies is cut, and laid down."""
        self._open: list[frozenset[int]] = []

    async def run(self, wanted: Target, known_stop_lsn: int, dry_run: bool, keep_bytes: int = KEEP_BYTES) -> Stop:
        """Raises: Refused."""
        target = LATEST if known_stop_lsn else wanted
        self._room = 0 if dry_run else keep_bytes
        self._keeps = self._room > 0
        look_ahead_us = None if dry_run else LOOK_AHEAD_US
        try:
            return await self._run(wanted, target, known_stop_lsn, look_ahead_us)
        finally:
            self._reader.close()

    async def _run(self, wanted: Target, target: Target, known_stop_lsn: int, look_ahead_us: int | None) -> Stop:
        backup = self._backup
        least_lsn = max(backup.end_lsn, backup.checkpoint_lsn + 1)
        finder = StopFinder(target, least_lsn, backup.checkpoint_lsn, look_ahead_us, backup.end_time_us)
        found: Found | Gap | None = await self._reader.first(backup.keep_lsn, await self._newest_number())
        gap: Gap | None = None
        while isinstance(found, Found):
            self._take(found)
            await self._ports.tasks.work("restore.scan", found.records)
            await self._ports.tasks.work("log.byte", len(found.data))
            marks = found.marks
            if known_stop_lsn:
                marks = [mark for mark in marks if mark.lsn < known_stop_lsn]
            cut_before = finder.cut_lsn
            done = finder.feed(marks)
            if self._keeps and not cut_before:
                before = self._at_stop if finder.cut_lsn else {}
                self._at_stop = {**before, found.piece.name: found.data}
            end_lsn = found.piece.end_lsn
            self.reached_own = self.reached_own or found.piece.timeline == self.line.timeline
            if done or (known_stop_lsn and end_lsn >= known_stop_lsn):
                break
            found = await self._reader.following(found.piece)
        if isinstance(found, Gap):
            gap = found
        self.newest_us, self.cut_found = finder.newest_us, finder.cut_lsn > 0
        if gap is not None and not finder.cut_lsn:
            newest = f"lsn:{format_lsn(gap.lsn)}" + (f", {format_time(finder.newest_us)}" if finder.newest_us else "")
            raise gap.refuse(wanted.text, newest)
        if gap is not None:
            self.notes.append(f"the log cannot be followed to its end: segment {gap.name} {gap.detail}")
        stop = finder.finish(known_stop_lsn or end_lsn, await self._vouched_us(end_lsn))
        if known_stop_lsn > end_lsn:
            raise Refused(
                f"the log ends at {format_lsn(end_lsn)}, but this restore was begun up to {format_lsn(known_stop_lsn)}",
                "Put the archive back as it was, or empty data_dir and wal_dir to start anew.",
            )
        await self._cut(stop.lsn)
        self._check_torn(stop.lsn)
        return stop

    async def _newest_number(self) -> int:
        """Where to begin looking for the log that the backup needs: at what it has itself, else at its newest segment."""
        backup = self._backup
        return await BackupLog(backup).newest_at(backup.timeline, backup.keep_lsn) or backup.control.newest_segment

    async def _vouched_us(self, end_lsn: int) -> int:
        """Up to when the archive says that there is no commit beyond `end_lsn`."""
        complete = await self._reader.complete()
        return complete.time_us if complete is not None and complete.lsn <= end_lsn else 0

    def _take(self, found: Found) -> None:
        piece = found.piece
        self.starts.append((piece.header.start_lsn, piece.number))
        end_lsn = self._backup.end_lsn
        manifest = self._backup.manifest
        if manifest is not None and not self._verified and piece.header.start_lsn < end_lsn <= piece.end_lsn:
            if checksum_at(found, end_lsn) != manifest.end_checksum:
                raise Refused(
                    f"segment {piece.name} in {piece.source.place} is not the log that the backup {self._backup.name} saw "
                    f"at its end",
                    "Name the archive of this database, or the right --timeline.",
                )
            self._verified = True
        if self._torn:
            self._note_images(found)
        transactions = found.transactions
        transactions.begun |= self._open[-1] if self._open else frozenset()  # the log begins where its oldest one did
        self._open.append(frozenset(transactions.open))
        self.segments.append(Segment(piece, piece.end_lsn, used_digest(found.data, piece.header, piece.end_lsn)))
        self._room -= len(found.data)
        if self._room >= 0:
            self.kept[piece.name] = found.data

    async def _cut(self, stop_lsn: int) -> None:
        """Drop what lies behind the stop, and cut the piece that holds it."""
        self.segments = [segment for segment in self.segments if segment.piece.header.start_lsn < stop_lsn]
        names = {segment.piece.name for segment in self.segments}
        self.kept = {name: data for name, data in {**self.kept, **self._at_stop}.items() if name in names}
        index, last = len(self.segments) - 1, self.segments[-1]
        if stop_lsn == last.end_lsn:
            self.losers = len(self._open[index])
            return
        header, kept = last.piece.header, self.kept.get(last.piece.name)
        data = kept or await last.piece.source.segment(last.piece.timeline, last.piece.number)
        if data is None:
            raise StorageError(f"segment {last.piece.name} is gone from {last.piece.source.place}", "Try again.")
        transactions = Transactions(set(self._open[index - 1]) if index else set())
        if kept is not None:  # checked when it was read
            transactions.take_in(kept, SEGMENT_HEADER_SIZE, SEGMENT_HEADER_SIZE + stop_lsn - header.start_lsn)
        else:
            for _mark in marks_of(SegmentScan(header, data, until_lsn=stop_lsn), None, transactions):
                pass
        self.losers = len(transactions.open)
        self.segments[-1] = replace(last, end_lsn=stop_lsn, digest=used_digest(data, header, stop_lsn))

    def _note_images(self, found: Found) -> None:
        """Where torn pages of a copy made by hand have images in the log."""
        scan = SegmentScan(found.piece.header, found.data, until_lsn=found.piece.end_lsn)
        for header in scan:
            if header[4]:
                for page_no, _prev, op, _at, _size in iter_changes(found.data, header[5] + scan.bias, header[4]):
                    if op == 2 and self._torn.get(page_no) == 0:
                        self._torn[page_no] = header[5]

    def _check_torn(self, stop_lsn: int) -> None:
        for page_no, lsn in sorted(self._torn.items()):
            if not lsn or lsn >= stop_lsn:
                raise TooEarly(
                    f"page {page_no} was being written while the copy in {self._backup.place} was made, and the log up to the "
                    f"target has no image of it",
                    f"Restore to lsn:{format_lsn(lsn)} or later." if lsn else "Use another backup.",
                )



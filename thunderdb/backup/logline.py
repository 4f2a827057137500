"""Following the log of one timeline's history through its sources: an archive, a backup's wal/.

    histories ─▶ Line (which timeline owns which LSN) ─▶ LineReader: piece after piece, each continuing the one before

L1. What lies at or above a fork belongs to the successor: a piece of an ancestor's segment is read up to the fork only.
L2. Of several copies of a segment the one of the newest timeline on the line that goes furthest is taken; a closed one goes
    furthest of all. A copy that does not continue the log (start LSN, checksum of the record before) is not taken.
L3. The log ends where nothing goes on; it has a *gap* where something is known to lie behind: a later segment, a fork that the
    line left by, a note that the archive is complete beyond. A gap is named, and never taken for the end.
L4. While one piece is examined, the closed segments behind it are fetched from stores, as far as there is room. What is fetched
    ahead is only what `_best` would try first, and never changes; a listing that is made anew does away with it.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from xxhash import xxh3_128_hexdigest

from thunderdb.archive.command_store import CameSince, CommandSource
from thunderdb.archive.index import ArchiveIndex, Complete, LogSource, StoreSource
from thunderdb.backup.segments_ahead import SegmentsAhead
from thunderdb.backup.sources import BackupLog
from thunderdb.base.errors import Corruption, Refused
from thunderdb.base.ids import format_lsn
from thunderdb.recovery.target import Mark, TooEarly, Transactions, marks_of
from thunderdb.runtime.ports import Ports
from thunderdb.wal.record import H_LSN, H_PREV_CHECKSUM, HEADER_SIZE, RECORD_HEADER, Header
from thunderdb.wal.segment import SEGMENT_HEADER_SIZE, SegmentHeader, SegmentScan, decode_segment_header, segment_name
from thunderdb.wal.timeline import Fork, parse_history, timeline_at

COMMAND_LOOKS = 5
"""So often a segment is looked for that a command does not fetch and then does, until the restore gives up."""
PROBE_AHEAD = 4
"""Where segments cannot be listed (a restore command), so many numbers are tried behind a missing one."""
_CLAIMED = re.compile(r"^# claimed ([0-9]+)$", re.MULTILINE)


def claimed_line(time_us: int) -> str:
    """What a restore adds to a history file: when it began to be a timeline of its own, in microseconds since 1970."""
    return f"# claimed {time_us}\n"


@dataclass(frozen=True, slots=True)
class Line:
    """A timeline with its ancestors. `claimed_us` is when a restore claimed its number, 0 if that is not known."""

    timeline: int
    forks: tuple[Fork, ...]
    claimed_us: int = 0

    @property
    def chain(self) -> list[int]:
        """Newest first."""
        return [self.timeline, *(fork.timeline for fork in reversed(self.forks))]

    def owner(self, lsn: int) -> int:
        return timeline_at(self.forks, self.timeline, lsn)

    def limit(self, timeline: int) -> int | None:
        """Where the line leaves a timeline; None for the last one."""
        for fork in self.forks:
            if fork.timeline == timeline:
                return fork.switch_lsn
        return None

    def descends(self, timeline: int, lsn: int) -> bool:
        """Whether what was at `lsn` of `timeline`, and all below, is on this line."""
        if timeline == self.timeline:
            return True
        limit = self.limit(timeline)
        return limit is not None and lsn <= limit


@dataclass(frozen=True, slots=True)
class Piece:
    """One segment as the line uses it: from its start up to `end_lsn`. `checksum` is the last record's."""

    source: LogSource
    timeline: int
    number: int
    header: SegmentHeader
    end_lsn: int
    checksum: int
    closed: bool

    @property
    def name(self) -> str:
        return segment_name(self.timeline, self.number)


@dataclass(frozen=True, slots=True)
class Gap:
    """Why the log cannot be followed beyond `lsn`, though it goes on: `name` is missing, or damaged."""

    name: str
    lsn: int
    detail: str

    def refuse(self, target: str, newest: str) -> Refused:
        return Refused(
            f"the log up to the target {target} is not there: segment {self.name} {self.detail}",
            f"Put it back into the archive, or restore to what comes before it: {newest}.",
        )


@dataclass(slots=True)
class Found:
    """A piece with its marks, its bytes and how many records it has."""

    piece: Piece
    marks: list[Mark]
    data: bytes
    records: int
    transactions: Transactions


class LineReader:
    """The pieces of a line, in order."""

    def __init__(
        self, ports: Ports, sources: Sequence[LogSource], line: Line, system_id: int, records_from: int | None = None,
        *, ahead: bool = False,
    ) -> None:  # fmt: skip
        self._ports = ports
        self._sources = sources
        self.line = line
        self.system_id = system_id
        self._records_from = records_from
        self._trouble = ""
        self._last: tuple[LogSource, int, int, bytes] | None = None
        self._noted: list[Complete | None] = []
        self._fetched = SegmentsAhead(ports.tasks, sources, line.chain) if ahead else None

    def close(self) -> None:
        """Give up what was fetched ahead."""
        if self._fetched is not None:
            self._fetched.close()

    async def first(self, lsn: int, newest_number: int) -> Found:
        """The piece that holds `lsn`, looked for from segment `newest_number` downwards.

        Raises: Refused, naming what is missing.
        """
        await self._note_first()
        misses, above = 0, False
        for number in range(newest_number, 0, -1):
            self._trouble = ""
            header = await self._header(number)
            if header is None:
                misses += 1  # the newest one may have been announced and never written
                if above or misses > PROBE_AHEAD:
                    raise self._no_first(number, lsn, self._trouble or "is missing")
            elif header.start_lsn <= lsn:
                found = await self._best(number, None, None, self.line.owner(lsn))
                if found is None or found.piece.end_lsn <= lsn:
                    raise self._no_first(number, lsn, self._trouble or "does not reach that far")
                return found
            else:
                above = True
        raise self._no_first(newest_number, lsn, self._trouble or "is missing")

    def _no_first(self, number: int, lsn: int, why: str) -> Refused:
        name = segment_name(self.line.owner(lsn), number)
        return Refused(
            f"log segment {name}, which the backup needs from {format_lsn(lsn)} on, {why}",
            "Name the archive that has it with --wal-archive-dir, or put it back there.",
        )

    async def own_log(self, lsn: int, number: int) -> AsyncIterator[Found]:
        """The pieces of the line's last timeline from `lsn` on, which lies in segment `number` or begins the next one."""
        await self._note_first()
        found: Found | Gap | None = None
        for candidate in (number, number + 1):
            self._trouble = ""
            found = await self._best(candidate, None, None, self.line.timeline)
            if found is not None and found.piece.header.start_lsn <= lsn < found.piece.end_lsn:
                break
            found = None
        while isinstance(found, Found):
            yield found
            found = await self.following(found.piece)

    async def following(self, piece: Piece) -> Found | Gap | None:
        """What comes behind a piece; None where the log ends."""
        lsn, owner = piece.end_lsn, self.line.owner(piece.end_lsn)
        self._trouble = ""
        if not piece.closed:
            return await self._gap(piece, piece.number, lsn, owner)
        gap: Gap | None = None
        looks, came = 0, 0
        while looks < 2:
            if looks or came:
                await self._look_again()
            found = await self._best(piece.number + 1, lsn, piece.checksum, owner)
            if found is not None:
                return found
            try:
                gap = await self._gap(piece, piece.number + 1, lsn, owner)
            except CameSince:
                came += 1
                if came == COMMAND_LOOKS:
                    raise
                continue
            if gap is None or self._trouble:
                break
            looks += 1
        return gap

    async def _look_again(self) -> None:
        """What told of later log was read after the listing that did not have this segment: it may have come in between."""
        self.close()
        for source in self._sources:
            if isinstance(source, StoreSource):
                await source.index(fresh=True)

    async def _gap(self, piece: Piece, number: int, lsn: int, owner: int) -> Gap | None:
        """L3: segment `number` is missing, or breaks off at `lsn`."""
        missing = piece.closed or piece.timeline != owner
        name = segment_name(owner, number)
        if self._trouble:
            return Gap(name, lsn, self._trouble)
        detail = "is missing" if missing else f"breaks off at {format_lsn(lsn)}"
        if owner != self.line.timeline:
            return Gap(name, lsn, f"{detail}, though timeline {self.line.timeline} grew out of what it held")
        later = [other for other in await self._numbers(owner, number) if other > number or (missing and other == number)]
        if later:
            return Gap(name, lsn, f"{detail}, though {segment_name(owner, later[0])} is there")
        complete = await self._note_first()
        if complete is not None and complete.lsn > lsn:
            return Gap(name, lsn, f"{detail}, though the archive says that it is complete up to {format_lsn(complete.lsn)}")
        return None

    async def _numbers(self, timeline: int, around: int) -> list[int]:
        numbers: set[int] = set()
        for source in self._sources:
            if isinstance(source, BackupLog):
                numbers |= set(source.numbers(timeline))
            elif isinstance(source, StoreSource):
                numbers |= set((await source.index()).numbers(timeline))
            else:
                for number in range(around + 1, around + 1 + PROBE_AHEAD):
                    if await source.segment(timeline, number) is not None:
                        numbers.add(number)
                if isinstance(source, CommandSource):
                    await source.confirm(segment_name(timeline, around))
        return sorted(numbers)

    async def complete(self) -> Complete | None:
        """The archive's note on the line's last timeline."""
        for source in self._sources:
            if isinstance(source, StoreSource):
                index: ArchiveIndex = await source.index()
                return index.complete.get(self.line.timeline)
        return None

    async def _note_first(self) -> Complete | None:
        """The note as it was before any piece was read: a later one may know of more than a tail that was read before it."""
        if not self._noted:
            self._noted.append(await self.complete())
        return self._noted[0]

    async def _copies(self, number: int, owner: int | None) -> list[tuple[LogSource, int]]:
        timelines = [timeline for timeline in self.line.chain if owner is None or timeline >= owner]
        return [(source, timeline) for timeline in timelines for source in self._sources]

    async def _header(self, number: int) -> SegmentHeader | None:
        for source, timeline in await self._copies(number, None):
            data = await self._fetch(source, timeline, number)
            if data is not None:
                try:
                    return decode_segment_header(data, timeline, number, self.system_id)
                except Corruption as error:
                    self._trouble = f"cannot be used: {error.message}"
        return None

    async def _fetch(self, source: LogSource, timeline: int, number: int) -> bytes | None:
        last = self._last
        if last is not None and last[:3] == (source, timeline, number):
            return last[3]  # asked for its header a moment ago
        ahead = self._fetched.take(source, timeline, number) if self._fetched is not None else None
        try:
            data = await (source.segment(timeline, number) if ahead is None else ahead)
            self._last = None if data is None else (source, timeline, number, data)
            return data
        except Corruption as error:
            self._trouble = f"is damaged in {source.place}: {error.message}"
            return None
        except FileNotFoundError:
            return None

    async def _best(self, number: int, start_lsn: int | None, checksum: int | None, owner: int) -> Found | None:
        """L2."""
        best: Found | None = None
        for source, timeline in await self._copies(number, owner):
            data = await self._fetch(source, timeline, number)
            if data is None:
                continue
            found = self._examine(source, timeline, number, data, start_lsn, checksum)
            if found is None:
                continue
            if best is None or found.piece.end_lsn > best.piece.end_lsn or (found.piece.closed and not best.piece.closed):
                best = found
            if best.piece.closed:
                break
        if best is not None and self._fetched is not None:
            self._fetched.begin(number + 1)
        return best

    def _examine(
        self, source: LogSource, timeline: int, number: int, data: bytes, start_lsn: int | None, checksum: int | None
    ) -> Found | None:
        try:
            header = decode_segment_header(data, timeline, number, self.system_id)
        except Corruption as error:
            self._trouble = f"cannot be used: {error.message}"
            return None
        if start_lsn is not None and (header.start_lsn, header.prev_checksum) != (start_lsn, checksum):
            self._trouble = f"in {source.place} does not continue the log before it"
            return None
        scan = SegmentScan(header, data, until_lsn=self.line.limit(timeline))
        transactions = Transactions()
        marks = list(marks_of(scan, self._records_from, transactions))
        if scan.lsn == header.start_lsn:
            return None  # an open segment without a whole record yet, or an ancestor's that the line left before
        piece = Piece(source, timeline, number, header, scan.lsn, scan.prev_checksum, scan.closed)
        return Found(piece, marks, data, scan.records, transactions)


def checksum_at(found: Found, lsn: int) -> int:
    """The checksum of the last record below `lsn`, which lies in this piece; 0 if no record ends there."""
    piece = found.piece
    if lsn == piece.end_lsn:
        return piece.checksum
    at = SEGMENT_HEADER_SIZE + lsn - piece.header.start_lsn
    if at + HEADER_SIZE > len(found.data):
        return 0
    following: Header = RECORD_HEADER.unpack_from(found.data, at)  # it names the one before it, and was checked with the piece
    return following[H_PREV_CHECKSUM] if following[H_LSN] == lsn else 0


def used_digest(data: bytes, header: SegmentHeader, end_lsn: int) -> str:
    """Names the records of a segment up to an LSN, so that a second reading can be told from the first."""
    return xxh3_128_hexdigest(memoryview(data)[SEGMENT_HEADER_SIZE : SEGMENT_HEADER_SIZE + end_lsn - header.start_lsn])


async def read_lines(sources: Sequence[LogSource], own: Line) -> dict[int, Line]:
    """Every timeline that the sources know, by number; `own` is the backup's. Raises: Corruption, StorageError."""
    lines = {own.timeline: own}
    for source in reversed(sources):  # the archive's word counts more than a backup's
        for timeline in await source.timelines():
            text = await source.history(timeline)
            if text is not None:
                claimed = _CLAIMED.search(text)
                lines[timeline] = Line(timeline, parse_history(text, timeline), int(claimed[1]) if claimed else 0)
            elif timeline not in lines and timeline == 1:
                lines[timeline] = Line(1, ())
    return lines


def choose_lines(lines: dict[int, Line], own: Line, end_lsn: int, wish: str) -> list[Line]:
    """The lines to try: those that descend from the backup, newest first, or the one wished for (a number, or `current`).

    Raises: Refused.
    """
    if wish == "current":
        return [lines[own.timeline]]
    if wish not in ("", "latest"):
        line = lines.get(int(wish)) if wish.isdigit() else None
        if line is None:
            known = ", ".join(str(timeline) for timeline in sorted(lines))
            hint = "Name one of them, or `current`, with --timeline."
            raise Refused(f"timeline {wish} is not known; there are {known}", hint)
        if not line.descends(own.timeline, end_lsn):
            raise TooEarly(  # in a folder, another one may do
                f"timeline {wish} left timeline {own.timeline} before the end of the backup ({format_lsn(end_lsn)})",
                "Restore from an older backup, or from one of that timeline.",
            )
        return [line]
    fitting = [line for line in lines.values() if line.descends(own.timeline, end_lsn)]
    return sorted(fitting, key=lambda line: -line.timeline)


async def has_log(sources: Sequence[LogSource], timeline: int) -> bool:
    """Whether there may be log of a timeline: one that was claimed by a restore, and never shipped anything, has none."""
    for source in sources:
        if isinstance(source, StoreSource):
            index = await source.index()
            if index.numbers(timeline) or timeline in index.complete:
                return True
        elif not isinstance(source, BackupLog) or source.numbers(timeline):
            return True
    return False



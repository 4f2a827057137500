"""Reading the log back: which segments there are, how far they can be believed, and whether it ends there or has a hole.

Restart uses it in this order: `load`, `scan` (analysis; its `end` says where the log ends and why), `rewrite` (W4),
`prepare_tail` (W8), then `LogWriter.resume(end)`; redo scans again with `until_lsn=end.lsn`.

What a break at X in segment n means:

    behind X in the same segment lies a valid record whose flushed_lsn is above X    hole (W8)
    a later segment is there, or the control file names a newer one                  hole (G3: all of n was durable before)
    the next segment is there and does not continue this one, or its header is bad   hole
    anything else                                                                    tail: torn, reordered, zeros, ghosts
    with `floor` (a copy made by hand: files read at different moments)              tail; later segments are set aside

L1. Nothing here changes a byte before the end is known to be a tail: every change asks `end.check()` first.
L2. The tail is zeroed to the end of its segment and synced before the first append, so no ghost can be believed later (W8).
L3. Later segments go away before the tail is zeroed, newest first: a crash in between leaves a prefix of the log.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from enum import IntEnum

from thunderdb.base.errors import Corruption, InvariantViolated, LogHole, ThunderError
from thunderdb.base.ids import FIRST_LSN, format_lsn
from thunderdb.runtime.ports import Disk, File
from thunderdb.runtime.sync import Task, Tasks
from thunderdb.wal.record import H_FLUSHED, H_LSN
from thunderdb.wal.segment import (
    SEGMENT_HEADER_SIZE,
    SegmentHeader,
    SegmentScan,
    decode_segment_header,
    encode_segment_header,
    find_behind,
    parse_segment_name,
    segment_name,
    spare_name,
)

WRITE_CHUNK = 1 << 20
ZEROS = bytes(WRITE_CHUNK)
MOST_AHEAD = 64 << 20
"""Longer segments are not read ahead: two of them are in memory then."""


class EndKind(IntEnum):
    CLEAN_TAIL = 1
    HOLE = 2
    UNTIL = 3  # the scan was told to stop here


@dataclass(frozen=True, slots=True)
class LogEnd:
    """Where belief in the log ends. `header` is of the segment that holds `lsn`, or of the closed one right before it.

    `last_flushed_lsn` is the stamp of the last valid record: all below it was synced by whoever wrote it.
    """

    kind: EndKind
    lsn: int
    last_checksum: int
    last_lsn: int
    last_kind: int
    last_flushed_lsn: int
    header: SegmentHeader
    closed: bool
    detail: str
    later: tuple[str, ...]
    segments: tuple[tuple[int, int], ...]
    """(number, start LSN) of each segment up to this one, without a gap in between."""
    obsolete: tuple[int, ...]
    """Numbers of segments before a gap, or without a readable header: left-overs of a removal that a crash undid."""

    def check(self) -> None:
        """Raises: LogHole, naming the place, if this is not where the log ends."""
        if self.kind is EndKind.HOLE:
            raise LogHole(
                f"the log is damaged at {format_lsn(self.lsn)} in segment "
                f"{segment_name(self.header.timeline, self.header.number)}: {self.detail}",
                "Committed changes lie behind this place, so it is not the end of the log. "
                "Put the segment back from the archive or a copy; else restore a backup.",
            )


class LogReader:
    """The segments of one timeline in a directory."""

    def __init__(self, disk: Disk, directory: str, system_id: int, timeline: int = 1, keep_bytes: int = 0) -> None:
        """`keep_bytes` of what a restart has read may stay in memory for the pages that it leaves for later."""
        self._disk = disk
        self._keep_bytes = keep_bytes
        self.directory = directory
        self.system_id = system_id
        self.timeline = timeline
        self.segments: list[SegmentHeader] = []
        self.bad: dict[int, str] = {}
        self.kept: dict[int, bytes] = {}
        """Whole segments by number, the newest that were read."""

    def path(self, number: int) -> str:
        return f"{self.directory}/{segment_name(self.timeline, number)}"

    async def load(self) -> None:
        """List the directory and read every header; bad headers are kept in `bad`, since only some of them matter."""
        self.segments.clear()
        self.bad.clear()
        for name in await self._disk.list(self.directory):
            parsed = parse_segment_name(name)
            if parsed is None or parsed[0] != self.timeline:
                continue
            file = await self._disk.open(f"{self.directory}/{name}", writable=False)
            data = await file.read(0, SEGMENT_HEADER_SIZE)
            await file.close()
            try:
                self.segments.append(decode_segment_header(data, *parsed, self.system_id))
            except Corruption as error:
                self.bad[parsed[1]] = error.message
        self.segments.sort(key=lambda header: header.number)

    def covering(self, lsn: int) -> SegmentHeader | None:
        """Return the last segment that starts at or before `lsn`."""
        index = bisect_right(self.segments, lsn, key=lambda header: header.start_lsn)
        return self.segments[index - 1] if index else None

    def by_number(self, number: int) -> SegmentHeader | None:
        index = bisect_right(self.segments, number, key=lambda header: header.number)
        found = self.segments[index - 1] if index else None
        return found if found is not None and found.number == number else None

    async def read_segment(self, header: SegmentHeader) -> bytes:
        return await self._disk.read_file(self.path(header.number))

    def keep(self, number: int, data: bytes) -> None:
        """Hold on to a segment that was read, in order; older ones go where there is no room for them."""
        self.kept[number] = data
        while self.kept and sum(map(len, self.kept.values())) > self._keep_bytes:
            del self.kept[next(iter(self.kept))]

    async def read_part(self, header: SegmentHeader, lsn: int, size: int) -> bytes:
        """Up to `size` bytes of a segment's records from `lsn` on, as they are. Raises: FileNotFoundError, StorageError."""
        file = await self._disk.open(self.path(header.number), writable=False)
        try:
            data = await file.read(SEGMENT_HEADER_SIZE + lsn - header.start_lsn, size)
        except Exception:
            await file.close()
            raise
        await file.close()
        return data

    def scan(
        self, from_lsn: int = FIRST_LSN, *, newest_segment: int = 0, floor: bool = False, until_lsn: int | None = None,
        tasks: Tasks | None = None,
    ) -> LogScan:  # fmt: skip
        """Iterate over the segments from the record at `from_lsn`; `newest_segment` is the control file's.

        With `tasks`, the segment behind the one that is looked at is read meanwhile.
        """
        return LogScan(self, from_lsn, newest_segment, floor, until_lsn, tasks)

    async def find_end(self, from_lsn: int = FIRST_LSN, *, newest_segment: int = 0, floor: bool = False) -> LogEnd:
        """Return where the log ends, without looking into records. Raises nothing for a hole: see `LogEnd.check`."""
        scan = self.scan(from_lsn, newest_segment=newest_segment, floor=floor)
        async for segment in scan:
            segment.drain()
        return scan.end

    async def rewrite(self, end: LogEnd) -> int:
        """Write the log from the last stamped flushed_lsn to its end once more and sync it (W4); return the bytes written.

        What is read may be in the operating system's cache only: a sync may have failed, or never come, in the process before.
        Raises: LogHole, SyncFailed.
        """
        end.check()
        await self._disk.sync_dir(self.directory)
        written = 0
        for number, start_lsn in end.segments:
            index = number - end.segments[0][0]
            stop_lsn = end.segments[index + 1][1] if number != end.header.number else end.lsn
            # The last segment's header is rewritten in any case: it was not necessarily synced by a sync that succeeded.
            if stop_lsn <= end.last_flushed_lsn and number != end.header.number:
                continue
            first = max(start_lsn, end.last_flushed_lsn)
            offset = 0 if first == start_lsn else SEGMENT_HEADER_SIZE + first - start_lsn
            file = await self._disk.open(self.path(number))
            if number == end.header.number:
                await file.write(0, encode_segment_header(end.header))
            data = await file.read(offset, max(0, SEGMENT_HEADER_SIZE + stop_lsn - start_lsn - offset))
            if data:
                await file.write(offset, data)
            await file.sync()
            await file.close()
            written += len(data)
        return written

    async def prepare_tail(self, end: LogEnd) -> None:
        """Make the bytes behind the log's end harmless: later segments set aside, the tail zeroed, all of it synced (L2, L3).

        Crash: leaves a log with the same end; run it again. Raises: LogHole, SyncFailed.
        """
        end.check()
        for name in reversed(end.later):
            await self._disk.rename(f"{self.directory}/{name}", f"{self.directory}/{name}.aside")
            await self._disk.sync_dir(self.directory)
        self.segments = [header for header in self.segments if header.number <= end.header.number]
        file = await self._disk.open(self.path(end.header.number))
        offset = SEGMENT_HEADER_SIZE + end.lsn - end.header.start_lsn
        if end.closed:
            await file.truncate(offset)
        else:
            await write_zeros(file, offset, max(end.header.segment_size, await file.size()))
        await file.sync()
        await file.close()


class LogScan:
    """An async iterator over `SegmentScan`s; when it is through, `end` tells where and why it stopped."""

    def __init__(
        self, reader: LogReader, from_lsn: int, newest_segment: int, floor: bool, until_lsn: int | None, tasks: Tasks | None
    ) -> None:  # fmt: skip
        self._reader = reader
        self._from_lsn = from_lsn
        self._newest = newest_segment
        self._floor = floor
        self._until_lsn = until_lsn
        self._current: SegmentScan | None = None
        self._last: tuple[int, int, int] = (0, 0, from_lsn)
        self._end: LogEnd | None = None
        self._tasks = tasks
        self._ahead: tuple[int, Task[bytes]] | None = None

    @property
    def end(self) -> LogEnd:
        if self._end is None:
            raise InvariantViolated("the log's end was asked for before the scan was through")
        return self._end

    def __aiter__(self) -> LogScan:
        return self

    async def __anext__(self) -> SegmentScan:
        current = self._current
        if self._end is not None:
            raise StopAsyncIteration
        if current is None:
            header = self._first()
            self._current = SegmentScan(
                header, await self._reader.read_segment(header), from_lsn=self._from_lsn, until_lsn=self._until_lsn
            )
            self._read_ahead(header)
            return self._current
        current.drain()
        if current.last_lsn:
            self._last = (current.last_lsn, current.last_kind, current.last_flushed_lsn)
        following = self._following(current)
        ahead, self._ahead = self._ahead, None
        if following is None:
            if ahead is not None:
                try:
                    await ahead[1]
                except (ThunderError, OSError):
                    pass  # it is not wanted
            raise StopAsyncIteration
        read = ahead[1] if ahead is not None and ahead[0] == following.number else self._reader.read_segment(following)
        data = await read
        self._current = SegmentScan(following, data, until_lsn=self._until_lsn, prev_checksum=current.prev_checksum)
        self._read_ahead(following)
        return self._current

    def _read_ahead(self, header: SegmentHeader) -> None:
        following = self._reader.by_number(header.number + 1)
        if self._tasks is not None and following is not None and header.segment_size <= MOST_AHEAD:
            self._ahead = following.number, self._tasks.spawn(self._reader.read_segment(following), "log.ahead")

    def _first(self) -> SegmentHeader:
        header = self._reader.covering(self._from_lsn)
        if header is None:
            there = [segment_name(self._reader.timeline, number) for number in sorted(self._reader.bad)]
            raise LogHole(
                f"no log segment holds {format_lsn(self._from_lsn)}" + (f" (unreadable: {', '.join(there)})" if there else ""),
                "Put the segment back from the archive or a copy; else restore a backup.",
            )
        return header

    def _following(self, current: SegmentScan) -> SegmentHeader | None:
        """Return the segment to go on with, or conclude the scan."""
        reader, number = self._reader, current.header.number
        if self._until_lsn is not None and current.lsn >= self._until_lsn:
            self._conclude(current, EndKind.UNTIL, "told to stop here", ())
            return None
        later = tuple(
            segment_name(reader.timeline, other)
            for other in sorted([*(header.number for header in reader.segments), *reader.bad])
            if other > number
        )
        trouble = self._trouble(current, later)
        if trouble is None:
            return reader.by_number(number + 1)
        kind = EndKind.CLEAN_TAIL
        if trouble and not self._floor:
            kind = EndKind.HOLE
        self._conclude(current, kind, trouble or current.why_it_ends(), later)
        return None

    def _trouble(self, current: SegmentScan, later: tuple[str, ...]) -> str | None:
        """Return None to go on with the next segment, "" for a tail, or what makes this break a hole."""
        reader, number = self._reader, current.header.number
        following = reader.by_number(number + 1)
        if current.closed and following is not None:
            if (following.start_lsn, following.prev_checksum) == (current.lsn, current.prev_checksum):
                return None
            return f"segment {segment_name(reader.timeline, number + 1)} does not continue it"
        if current.closed and number + 1 in reader.bad:
            return reader.bad[number + 1]
        if current.closed and (later or self._newest > number):
            return f"segment {segment_name(reader.timeline, number + 1)} is missing"
        why = current.why_it_ends()
        if later:
            return f"{why}, yet a later segment is there ({later[0]})"
        if self._newest > number:
            return f"{why}, yet the control file names segment {segment_name(reader.timeline, self._newest)}"
        witness = find_behind(current.data, current.header.start_lsn, current.lsn)
        if witness is not None:
            durable = format_lsn(witness[H_FLUSHED])
            return f"{why}, yet the record at {format_lsn(witness[H_LSN])} says that the log up to {durable} was durable"
        return ""

    def _conclude(self, current: SegmentScan, kind: EndKind, detail: str, later: tuple[str, ...]) -> None:
        run: list[tuple[int, int]] = []
        obsolete: list[int] = []
        for header in reversed(self._reader.segments):
            if header.number > current.header.number:
                continue
            if header.number == current.header.number - len(run):
                run.append((header.number, header.start_lsn))
            else:
                obsolete.append(header.number)
        obsolete += [number for number in self._reader.bad if number <= current.header.number - len(run)]
        last_lsn, last_kind, last_flushed_lsn = self._last
        self._end = LogEnd(
            kind, current.lsn, current.prev_checksum, last_lsn, last_kind, min(last_flushed_lsn, current.lsn), current.header,
            current.closed, detail, later, tuple(reversed(run)), tuple(sorted(obsolete)),
        )  # fmt: skip


async def write_zeros(file: File, offset: int, end: int) -> None:
    """Overwrite `offset` up to `end` with zeros, at most a megabyte at a time."""
    while offset < end:
        size = min(WRITE_CHUNK, end - offset)
        await file.write(offset, ZEROS if size == WRITE_CHUNK else bytes(size))
        offset += size


async def create_log(
    disk: Disk, directory: str, system_id: int, segment_size: int, *, timeline: int = 1, number: int = 1,
    start_lsn: int = FIRST_LSN,
) -> LogEnd:  # fmt: skip
    """Make the first segment of a new database and return its (empty) end, from which `LogWriter.resume` goes on.

    Durable when: it returns. Crash: leaves a spare file, or the empty segment; making it again is fine.
    """
    header = SegmentHeader(timeline, number, start_lsn, system_id, system_id, segment_size)
    temporary = f"{directory}/{spare_name(0)}"
    await disk.make_dirs(directory)
    file = await disk.open(temporary, create=True)
    await file.write(0, encode_segment_header(header))
    await write_zeros(file, SEGMENT_HEADER_SIZE, segment_size)
    await file.sync()
    await file.close()
    await disk.rename(temporary, f"{directory}/{segment_name(timeline, number)}")
    await disk.sync_dir(directory)
    return LogEnd(
        EndKind.CLEAN_TAIL, start_lsn, system_id, 0, 0, start_lsn, header, False, "a new log", (), ((number, start_lsn),), ()
    )  # fmt: skip

"""Whether this database may write to this archive: looked at before the first byte is written there.

B1. An archive of another system, or a timeline of another instance, is refused by name.
B2. A database that is older than what its own timeline's archive holds is refused: it is a copy, and would write another future
    under the same names. Older means: the archive has newer segments, or what it has is not a prefix of the log here.
B3. An archive that this database has written to and that is empty now is not begun anew: it is probably not mounted.
"""

from __future__ import annotations

from dataclasses import dataclass

from thunderdb.archive.history import History, format_claim, parse_claim
from thunderdb.archive.identity import Archived, Identity
from thunderdb.archive.index import ArchiveIndex
from thunderdb.archive.inherited import own_forks
from thunderdb.archive.names import plain_name
from thunderdb.archive.target import Target
from thunderdb.base.errors import Corruption, Refused, StorageError
from thunderdb.runtime.ports import Disk
from thunderdb.runtime.sync import Tasks
from thunderdb.wal.record import H_KIND, RecordKind
from thunderdb.wal.segment import SEGMENT_HEADER_SIZE, SegmentScan, decode_segment_header, segment_name
from thunderdb.wal.timeline import history_name, parse_history_name, seal_history
from thunderdb.wal.writer import LogWriter

SCAN_BATCH = 512
_COMMIT = int(RecordKind.COMMIT)


@dataclass(frozen=True, slots=True)
class Scanned:
    """What a segment's bytes hold: `size` of them can be believed, the log in them ends at `end_lsn`."""

    start_lsn: int
    end_lsn: int
    size: int
    closed: bool
    commits: int
    last_checksum: int
    why: str


async def scan_segment(tasks: Tasks, raw: bytes, timeline: int, number: int, system_id: int) -> Scanned:
    """Check every record, a few at a time, so that nobody waits for it. Raises: Corruption for a bad header."""
    header = decode_segment_header(raw[:SEGMENT_HEADER_SIZE], timeline, number, system_id)
    scan = SegmentScan(header, raw)
    commits = 0
    while found := scan.batch(SCAN_BATCH):
        commits += sum(1 for record in found if record[H_KIND] == _COMMIT)
        await tasks.yield_now()
    size = SEGMENT_HEADER_SIZE + scan.lsn - header.start_lsn
    return Scanned(header.start_lsn, scan.lsn, size, scan.closed, commits, scan.prev_checksum, scan.why_it_ends())


class Entrance:
    """The checks of one start."""

    def __init__(self, tasks: Tasks, disk: Disk, log: LogWriter, system_id: int, target: Target, identity: Identity) -> None:
        self.tasks = tasks
        self.disk = disk
        self.log = log
        self.timeline = log.timeline
        self.system_id = system_id
        self.target = target
        self.identity = identity

    async def enter(self, remembered: Archived | None) -> ArchiveIndex | None:
        """Check, then claim the timeline; return what the archive holds. Raises: Refused (B1, B2), StorageError (B3)."""
        index = await self.target.index()
        if index is not None:
            self._check_histories(index)
            self._check_emptied(index, remembered)
            await self._check_newer(index)
            await self._check_closed(index)
            await self._check_partial(index)
        await self._claim(index, remembered)
        return index

    def _check_histories(self, index: ArchiveIndex) -> None:
        for timeline in sorted(index.histories):
            self._check_owner(index.histories[timeline], timeline)

    def _check_owner(self, history: History, timeline: int) -> None:
        """B1."""
        name = f"{self.target.place}/{history_name(timeline)}"
        if history.system_id is not None and history.system_id != self.system_id:
            raise Refused(
                f"the archive {self.target.place} belongs to another database: {name} names system "
                f"{history.system_id:016x}, this is system {self.system_id:016x}",
                "Give each database an archive of its own (wal_archive_dir).",
            )
        if timeline == self.timeline and history.owner != self.identity.instance:
            whose = f"instance {history.owner}" if history.owner else "nobody by name"
            raise Refused(
                f"timeline {timeline} in the archive {self.target.place} belongs to {whose} ({name}), "
                f"this is instance {self.identity.instance}",
                "This database is a copy of the one that archives there. Bring a copy into service with --restore-pitr, "
                "which begins a timeline of its own, or give it another wal_archive_dir.",
            )

    def _check_emptied(self, index: ArchiveIndex, remembered: Archived | None) -> None:
        """B3."""
        if remembered is None or remembered.place != self.target.place or not remembered.history:
            return
        if not index.histories and not index.segments:
            raise StorageError(
                f"the archive {self.target.place} is empty, but this database has archived there before: is it mounted?",
                "If it was emptied on purpose, remove the file `archived` in data_dir.",
            )

    async def _check_newer(self, index: ArchiveIndex) -> None:
        """B2: nothing in the archive may be newer than the log here."""
        newest = max(index.numbers(self.timeline), default=0)
        if newest > self.log.newest_segment:
            raise self._older(f"the archive has segment {segment_name(self.timeline, newest)}", self._newest_here())
        closed = max(index.numbers(self.timeline, partial=False), default=0)
        if closed > self.log.newest_closed:
            raise self._older(
                f"the archive has all of segment {segment_name(self.timeline, closed)}", "which is still open here"
            )

    async def _check_closed(self, index: ArchiveIndex) -> None:
        """B2: the newest segment that both have must be the same; without one, the oldest here must continue the archive's."""
        here = {number for number, _ in self.log.segments}
        closed = index.numbers(self.timeline, partial=False)
        both = [number for number in closed if number in here]
        if not both:
            if min(here) - 1 in closed:
                await self._check_joint(min(here))
            return
        name = segment_name(self.timeline, both[-1])
        there = await self.target.fetch(name)
        if there is not None and there != await self.disk.read_file(f"{self.log.directory}/{name}"):
            raise self._older(f"segment {name} in the archive", "is not the one that is here")

    async def _check_joint(self, number: int) -> None:
        name, before = segment_name(self.timeline, number), segment_name(self.timeline, number - 1)
        raw = await self.target.fetch(before)
        if raw is None:
            return
        end = await scan_segment(self.tasks, raw, self.timeline, number - 1, self.system_id)
        data = await self.disk.read_file(f"{self.log.directory}/{name}")
        header = decode_segment_header(data[:SEGMENT_HEADER_SIZE], self.timeline, number, self.system_id)
        if (header.start_lsn, header.prev_checksum) != (end.end_lsn, end.last_checksum):
            raise self._older(f"segment {before} in the archive", f"is not what segment {name} here continues")

    async def _check_partial(self, index: ArchiveIndex) -> None:
        """B2: a partial segment must be a beginning of the log here; then the archiver goes on behind it."""
        here = {number for number, _ in self.log.segments}
        for (timeline, number), entry in sorted(index.partials.items()):
            if timeline != self.timeline or number not in here or not index.segments[timeline, number].partial:
                continue
            raw = await self._partial(plain_name(entry.key))
            size = 0
            if raw is not None:
                try:
                    size = (await scan_segment(self.tasks, raw, timeline, number, self.system_id)).size
                except Corruption:
                    size = 0  # torn in its first sector
            if raw is not None and size and not await self._is_prefix(raw[:size], number):
                raise self._older(f"{entry.key} in the archive", "is not a beginning of the segment that is here")
            self.target.resume_tail(timeline, number, size, entry.key, entry.size_bytes)

    async def _partial(self, name: str) -> bytes | None:
        try:
            return await self.target.fetch(name)
        except Corruption:
            return None  # nobody could use it either: it is replaced

    async def _is_prefix(self, there: bytes, number: int) -> bool:
        here = await self.disk.read_file(f"{self.log.directory}/{segment_name(self.timeline, number)}")
        if number > self.log.newest_closed:
            start_lsn = dict(self.log.segments)[number]
            here = here[: SEGMENT_HEADER_SIZE + self.log.flushed_lsn - start_lsn]
        return here.startswith(there)

    def _newest_here(self) -> str:
        return f"the newest one here is {segment_name(self.timeline, self.log.newest_segment)}"

    def _older(self, there: str, here: str) -> Refused:
        return Refused(
            f"this database is an older copy of the one that wrote the archive {self.target.place}: {there}, {here}",
            "Bring it up to date with --restore-pitr latest, which begins a timeline of its own.",
        )

    async def _claim(self, index: ArchiveIndex | None, remembered: Archived | None) -> None:
        """Make the timeline ours (H1), and bring its ancestors' history files along."""
        for name in await self.disk.list(self.log.directory):
            ancestor = parse_history_name(name)
            if ancestor is not None and ancestor < self.timeline and (index is None or ancestor not in index.histories):
                await self.target.claim(name, await self.disk.read_file(f"{self.log.directory}/{name}"))
        if index is None and not self.target.verified and remembered is not None and remembered.history:
            return  # there is no way to ask, and some commands refuse to store a file twice
        name = history_name(self.timeline)
        forks = await own_forks(self.disk, self.log.directory, self.timeline)
        text = seal_history(format_claim(forks, self.system_id, self.identity.instance))
        found = await self.target.claim(name, text.encode())
        if found is not None:
            self._check_owner(parse_claim(found.decode(errors="replace"), self.timeline), self.timeline)

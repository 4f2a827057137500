"""Point-in-time recovery: carry out a plan.

    marker, control file RESTORING ─▶ pages ─▶ identity ─▶ timeline claimed ─▶ log, cut at the stop ─▶ control file BACKUP
        ─▶ an ordinary restart (redo, undo) ─▶ clean shutdown ─▶ marker removed

S1. From the first changed byte until everything is laid down and synced, the control file says RESTORING: nothing opens it.
S2. Run again after any interruption it gives the same result: whatever is there is compared or written anew, the timeline is
    the one that this identity claimed, the stop is the one in the marker.
S3. The log is what the plan read: a segment that has another digest now is refused.
S4. The new timeline's number is above every one that is known, and claimed by create-if-absent (H1); a number that was lost is
    never used. With `no_archive` nothing is written to the archive, now or later (identity.I2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from xxhash import xxh3_64_intdigest, xxh3_128

from thunderdb.archive.directory import settle
from thunderdb.archive.history import format_claim, parse_claim
from thunderdb.archive.identity import IDENTITY_FILE, Identity, write_identity
from thunderdb.archive.index import StoreSource
from thunderdb.backup.destination import MARKER_FILE, Kind, Marker, names_in, write_done, write_marker
from thunderdb.backup.incremental import INCREMENTAL_HEADER, check_header
from thunderdb.backup.inflight import InFlight
from thunderdb.backup.logline import claimed_line
from thunderdb.backup.plan import Plan, Segment
from thunderdb.backup.sources import BackupSource, StoredFile
from thunderdb.base.config import Config
from thunderdb.base.errors import Corruption, Refused, StorageError, ThunderError
from thunderdb.base.events import Events
from thunderdb.engine.check import check_database
from thunderdb.engine.database import CONTROL_FILE, LOCK_FILE, LOST_AND_FOUND, Database
from thunderdb.recovery.target import TargetKind, format_time
from thunderdb.runtime.ports import File, Ports
from thunderdb.storage.control import ControlFile, ControlState, DatabaseState
from thunderdb.storage.files import page_file_name
from thunderdb.storage.page import PAGE_HEADER
from thunderdb.wal.segment import SEGMENT_HEADER_SIZE, SegmentScan, decode_segment_header, encode_segment_header, segment_name
from thunderdb.wal.timeline import Fork, format_history, history_name

SYNC_BYTES = 64 << 20
SYNCS_IN_FLIGHT = 4
READ_AHEAD = 2
_SILENT = ("recovery.started", "recovery.analysis", "recovery.redo", "recovery.undo", "recovery.complete")


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """What was done. Times in microseconds since 1970, durations in nanoseconds."""

    target: str
    backup: str
    base_lsn: int
    stop_lsn: int
    recovered_to_us: int
    timeline: int
    parent_timeline: int
    pages: int
    pages_reused: int
    segments: int
    log_bytes: int
    transactions: int
    rolled_back: int
    duration_ns: int
    copy_ns: int
    recovery_ns: int
    problems: tuple[str, ...] | None
    """What the whole-database check found; None if it was not asked for."""


async def restore(
    ports: Ports, config: Config, plan: Plan, events: Events, no_archive: bool = False, *, check: bool = False,
    database: type[Database] = Database,
) -> RestoreReport:  # fmt: skip
    """Do it. Raises: Refused before anything is changed; StorageError, DiskFull, Corruption later: run it again (S2)."""
    run = _Restore(ports, replace(config, wal_archive_enabled=False) if plan.no_archive else config, plan, events)
    return await run.run(check, database)


class _Restore:
    def __init__(self, ports: Ports, config: Config, plan: Plan, events: Events) -> None:
        self.ports = ports
        self.disk = ports.disk
        self.config = config
        self.plan = plan
        self.events = events
        self.pages = 0
        self.reused = 0
        self.instance = ""
        self.marker = plan.destination.marker

    async def run(self, check: bool, database: type[Database]) -> RestoreReport:
        plan, clock = self.plan, self.ports.clock
        began_ns = clock.monotonic_ns()
        self.events.emit("restore.started")
        self.events.emit("restore.target", kind=plan.target.kind.value, text=plan.target.text)
        self.events.emit("restore.base", lsn=plan.backup.checkpoint_lsn, backup=plan.backup.name)
        for directory in (self.config.data_dir, self.config.wal_dir):
            await self.disk.make_dirs(directory)
        if plan.destination.kind is Kind.OPENED:
            timeline = 0  # only the end of an earlier run is missing
            if self.marker is not None:  # what was done may be begun again: opening it changes the control file
                await write_marker(self.disk, self.config.data_dir, self.marker)
        else:
            lock = await self.disk.lock(f"{self.config.data_dir}/{LOCK_FILE}")
            try:
                timeline = await self._lay_down()
            except BaseException:
                await lock.release()
                raise
            await lock.release()
        copied_ns = clock.monotonic_ns()
        report = await self._recover(check, database, timeline, began_ns, copied_ns)
        if self.marker is not None:
            await write_done(self.disk, self.config.data_dir, self.marker)
        await self._remove(self.config.data_dir, MARKER_FILE)
        await self.disk.sync_dir(self.config.data_dir)
        self._say_complete(report)
        return report

    # -- Laying down

    async def _lay_down(self) -> int:
        """S1; return the new timeline."""
        await self._begin()
        await self._pages()
        timeline = await self._claim()
        await self._log(timeline)
        await self._clean_up(timeline)
        await self._finish(timeline)
        return timeline

    async def _begin(self) -> None:
        plan, data_dir = self.plan, self.config.data_dir
        marker = plan.destination.marker
        if marker is None:
            instance = f"{self.ports.random.bits(128):032x}"
            marker = Marker(*plan.request, plan.stop.lsn, plan.line.timeline, instance)
        # One that was found is written again: the run before may have been killed before it was durable, and then the power cut
        # that ends this run could leave what follows without it.
        await write_marker(self.disk, data_dir, marker)
        self.instance, self.marker = marker.instance, marker
        control = plan.backup.control
        state = replace(control, state=DatabaseState.RESTORING, copy_floors=(), sequence=0)
        await self._save_control(state)

    async def _save_control(self, state: ControlState) -> None:
        """Both slots, whatever was there before."""
        path = f"{self.config.data_dir}/{CONTROL_FILE}"
        control = ControlFile(self.ports.tasks, self.disk, path, Events())
        if await self.disk.exists(path):
            try:
                await control.load()
            except (Corruption, Refused):
                await control.close()
                await self.disk.unlink(path)
                control = ControlFile(self.ports.tasks, self.disk, path, Events())
                await control.create(state)
        else:
            await control.create(state)
        await control.save(state)
        await control.save(state)
        await control.close()
        await self.disk.sync_dir(self.config.data_dir)

    async def _pages(self) -> None:
        plan = self.plan
        self.events.emit("restore.pages_started", size_bytes=plan.page_bytes)
        for link in plan.chain:
            for number, stored in enumerate(link.page_files()):
                if not (len(plan.chain) == 1 and await self._reusable(stored, number, link)):
                    await self._page_file(link, stored, number)
        await self._fit_page_files()
        self.pages = plan.backup.page_count
        self.events.emit("restore.pages", pages=self.pages, reused=self.reused)

    def _page_path(self, number: int) -> str:
        return f"{self.config.data_dir}/{page_file_name(number)}"

    async def _reusable(self, stored: StoredFile, number: int, link: BackupSource) -> bool:
        """Whether the very file is there already: it was copied by hand, or by a run that was interrupted."""
        path = self._page_path(number)
        if not stored.digest or stored.path != stored.plain or not await self.disk.exists(path):
            return False
        file = await self.disk.open(path)
        digest, offset = xxh3_128(), 0
        if await file.size() == stored.size:
            while data := await file.read(offset, 1 << 20):
                await self.ports.offload.run(digest.update, data)
                offset += len(data)
        same = offset == stored.size and digest.hexdigest() == stored.digest
        if same:
            await file.sync()  # who copied it may not have
            self.reused += stored.size // link.page_size
        await file.close()
        return same

    async def _page_file(self, link: BackupSource, stored: StoredFile, number: int) -> None:
        """Lay down one page file of a full backup, or the pages of an incremental one over it."""
        file = await self.disk.open(self._page_path(number), create=True)
        try:
            if stored.path.removesuffix(".enc").removesuffix(".zst").endswith(".inc"):
                await self._changed_pages(link, stored, number, file)
            else:
                await self._whole_pages(link, stored, number, file)
            await file.sync()
        except Exception:
            await file.close()
            raise
        await file.close()

    async def _whole_pages(self, link: BackupSource, stored: StoredFile, number: int, file: File) -> None:
        size, offset, rest, unsynced = link.page_size, 0, b"", 0
        first_page = number * link.pages_per_file
        behind: InFlight[None] = InFlight(self.ports.tasks, 3, "restore.pages")
        try:
            async for part in link.read(stored):
                data = rest + part if rest else part
                whole = len(data) // size * size
                chunk, rest = data[:whole], data[whole:]
                await behind.room()
                if link.manifest is not None:  # torn pages of a copy made by hand are restart's to rebuild
                    check = (check_pages, chunk, size, first_page + offset // size, stored.path)
                    behind.begin(self.ports.offload.run(*check))
                await file.write(offset, chunk)
                offset += whole
                unsynced += whole
                if unsynced >= SYNC_BYTES:
                    await behind.room()
                    behind.begin(file.sync())
                    unsynced = 0
                await self._progress(whole)
            await behind.drain()
        except (ThunderError, OSError):
            await behind.settle()
            raise
        await file.truncate(offset)

    async def _changed_pages(self, link: BackupSource, stored: StoredFile, number: int, file: File) -> None:
        size, rest, header_read = link.page_size, b"", False
        first_page = number * link.pages_per_file
        async for part in link.read(stored):
            rest += part
            if not header_read:
                if len(rest) < INCREMENTAL_HEADER.size:
                    continue
                if link.manifest is not None:
                    check_header(rest, link.manifest, first_page, stored.path)
                rest, header_read = rest[INCREMENTAL_HEADER.size :], True
            whole = len(rest) // size * size
            for at in range(0, whole, size):
                page = rest[at : at + size]
                page_no = PAGE_HEADER.unpack_from(page)[4]
                check_pages(page, size, page_no, stored.path)
                if not first_page <= page_no < first_page + link.pages_per_file:
                    raise Corruption(f"{link.place}/{stored.path} holds page {page_no} of another file", "Use another backup.")
                await file.write((page_no - first_page) * size, page)
            rest = rest[whole:]
            await self._progress(whole)
        if rest or not header_read:
            raise Corruption(f"{link.place}/{stored.path} ends in the middle of a page", "Use another backup.")

    async def _fit_page_files(self) -> None:
        """Exactly `page_count` pages: zeros where no link of the chain has one; nothing behind."""
        backup = self.plan.backup
        per_file, left, number = backup.pages_per_file, backup.page_count, 0
        while left > 0:
            file = await self.disk.open(self._page_path(number), create=True)
            size = min(per_file, left) * backup.page_size
            if await file.size() != size:
                await file.truncate(size)
                await file.sync()
            await file.close()
            left -= per_file
            number += 1
        await self.disk.sync_dir(self.config.data_dir)

    async def _progress(self, size: int) -> None:
        self.events.emit("restore.page_bytes", size_bytes=size)
        await self.ports.tasks.work("restore.page_byte", size)

    # -- The timeline

    async def _claim(self) -> int:
        """S4."""
        plan = self.plan
        await write_identity(self.disk, self.config.data_dir, Identity(self.instance, plan.no_archive))
        archive = plan.archive
        timeline = plan.next_timeline
        if archive is None or plan.no_archive:
            return timeline
        own = [number for number, history in (await archive.index(True)).histories.items() if history.owner == self.instance]
        if own:
            await settle(archive.store, history_name(max(own)))  # a run that was killed may have claimed it in the cache only
            return max(own)
        timeline = max([timeline, *((number + 1) for number in await archive.timelines())])
        while not await self._try_claim(archive, timeline):
            timeline += 1
        return timeline

    async def _try_claim(self, archive: StoreSource, timeline: int) -> bool:
        name = history_name(timeline)
        text = claimed_line(self.ports.clock.wall_ns() // 1000)
        text += format_claim(self._forks(), self.plan.backup.system_id, self.instance)
        if await archive.store.put_new(name, text.encode()):
            return True
        # Perhaps it is ours: an answer that was lost.
        return parse_claim((await archive.store.get(name)).decode(errors="replace"), timeline).owner == self.instance

    def _forks(self) -> tuple[Fork, ...]:
        """The new timeline's history: that of the line up to where it was left, and the line itself."""
        line, stop = self.plan.line, self.plan.stop
        owner = line.owner(max(stop.lsn - 1, 0))
        ancestors = tuple(fork for fork in line.forks if fork.timeline < owner)
        return (*ancestors, Fork(owner, stop.lsn, f"restored to {self.plan.target.text}"))

    # -- The log

    async def _log(self, timeline: int) -> None:
        segments = self.plan.segments
        self.events.emit("restore.log_started", segments=len(segments), size_bytes=self.plan.log_bytes)
        reading: InFlight[bytes] = InFlight(self.ports.tasks, READ_AHEAD, "restore.read")
        writing: InFlight[None] = InFlight(self.ports.tasks, SYNCS_IN_FLIGHT, "restore.sync")
        try:
            for index, segment in enumerate(segments):
                while index + len(reading) < len(segments) and not reading.full:
                    reading.begin(self._segment(timeline, segments[index + len(reading)]))
                image = await reading.next()
                await writing.room()
                await self.ports.tasks.work("restore.log_byte", len(image))
                writing.begin(self._write(self.config.wal_dir, segment_name(timeline, segment.piece.number), image))
                last = index == len(segments) - 1
                self.events.emit("restore.segment", segment=segment.piece.name, size_bytes=len(image), last=last)
            await writing.drain()
        except (ThunderError, OSError):
            await reading.settle()
            await writing.settle()
            raise
        await self._write(self.config.wal_dir, history_name(timeline), format_history(self._forks()).encode())
        await self.disk.sync_dir(self.config.wal_dir)

    async def _segment(self, timeline: int, segment: Segment) -> bytes:
        """One segment as it is to be laid down."""
        piece = segment.piece
        data = await piece.source.segment(piece.timeline, piece.number)
        if data is None:
            hint = "Put it back, and run the restore again."
            raise StorageError(f"segment {piece.name} is gone from {piece.source.place}", hint)
        size = SEGMENT_HEADER_SIZE + segment.end_lsn - piece.header.start_lsn
        await self._check_segment(data, segment)
        header = replace(piece.header, timeline=timeline)
        return encode_segment_header(header) + data[SEGMENT_HEADER_SIZE:size]

    async def _check_segment(self, data: bytes, segment: Segment) -> None:
        """S3."""
        piece = segment.piece
        header = decode_segment_header(data, piece.timeline, piece.number, self.plan.backup.system_id)
        same = (header.start_lsn, header.prev_checksum) == (piece.header.start_lsn, piece.header.prev_checksum)
        if same and segment.digest:
            used = memoryview(data)[SEGMENT_HEADER_SIZE : SEGMENT_HEADER_SIZE + segment.end_lsn - header.start_lsn]
            same = (await self.ports.offload.run(xxh3_128, used)).hexdigest() == segment.digest
        elif same:
            scan = SegmentScan(header, data, until_lsn=segment.end_lsn)
            scan.drain()
            same = scan.lsn == segment.end_lsn
        if not same:
            raise StorageError(
                f"segment {piece.name} in {piece.source.place} is not what it was when the restore was planned",
                "Run the restore again.",
            )

    async def _write(self, directory: str, name: str, data: bytes) -> None:
        """A whole file, durable when this returns; its name is when the directory has been synced."""
        file = await self.disk.open(f"{directory}/{name}", create=True)
        try:
            for offset in range(0, len(data), 1 << 20):
                await file.write(offset, data[offset : offset + (1 << 20)])
            await file.truncate(len(data))
            await file.sync()
        except Exception:
            await file.close()
            raise
        await file.close()

    async def _clean_up(self, timeline: int) -> None:
        """Remove what was copied by hand, or left by a run that was interrupted, and is not part of the result."""
        plan = self.plan
        files = (plan.backup.page_count + plan.backup.pages_per_file - 1) // plan.backup.pages_per_file
        keep = {CONTROL_FILE, LOCK_FILE, LOST_AND_FOUND, MARKER_FILE, IDENTITY_FILE, *(page_file_name(n) for n in range(files))}
        await self._keep_only(self.config.data_dir, keep)
        keep = {history_name(timeline), LOST_AND_FOUND}
        keep |= {segment_name(timeline, segment.piece.number) for segment in plan.segments}
        await self._keep_only(self.config.wal_dir, keep)

    async def _keep_only(self, directory: str, keep: set[str]) -> None:
        for name in await names_in(self.disk, directory):
            if name not in keep:
                await self._remove(directory, name)
        await self.disk.sync_dir(directory)

    async def _remove(self, directory: str, name: str) -> None:
        try:
            await self.disk.unlink(f"{directory}/{name}")
        except FileNotFoundError:
            pass

    async def _finish(self, timeline: int) -> None:
        plan, backup = self.plan, self.plan.backup
        state = replace(
            backup.control, state=DatabaseState.BACKUP, timeline=timeline, checkpoint_lsn=backup.checkpoint_lsn,
            redo_lsn=backup.redo_lsn, newest_segment=plan.segments[-1].piece.number, wal_end_lsn=plan.stop.lsn,
            copy_floors=(), sequence=0,
        )  # fmt: skip
        await self._save_control(state)

    # -- Recovery

    async def _recover(
        self, check: bool, database: type[Database], timeline: int, began_ns: int, copied_ns: int
    ) -> RestoreReport:
        plan, clock = self.plan, self.ports.clock
        self.events.emit("restore.recovery_started")
        db = await database.open(self.ports, self.config, quiet(self.events))
        timeline = timeline or db.log.timeline
        problems = tuple(await check_database(db)) if check else None
        restarted = db.restarted
        await db.close()
        ended_ns = clock.monotonic_ns()
        return RestoreReport(
            plan.target.text, plan.backup.name, plan.backup.checkpoint_lsn, plan.stop.lsn, self._recovered_to_us(), timeline,
            plan.line.timeline, plan.backup.page_count, self.reused, len(plan.segments), plan.log_bytes, plan.stop.kept.count,
            restarted.losers if restarted is not None else 0, ended_ns - began_ns, copied_ns - began_ns, ended_ns - copied_ns,
            problems,
        )  # fmt: skip

    def _recovered_to_us(self) -> int:
        """The target's time, or that of the last commit that was kept."""
        plan = self.plan
        if plan.target.kind is TargetKind.TIME:
            return plan.target.time_us
        return plan.stop.kept.last_us or plan.backup.end_time_us

    def _say_complete(self, report: RestoreReport) -> None:
        self.events.emit(
            "restore.complete", time=format_time(report.recovered_to_us, 3) if report.recovered_to_us else "",
            lsn=report.stop_lsn, transactions=report.transactions, rolled_back=report.rolled_back, timeline=report.timeline,
            duration_ns=report.duration_ns,
        )  # fmt: skip


def check_pages(data: bytes, page_size: int, first_page: int, path: str) -> None:
    """Raises: Corruption naming the first page that is not what was written; zeros are a page never used. Runs in a thread."""
    view = memoryview(data)
    for index in range(len(data) // page_size):
        page = view[index * page_size : (index + 1) * page_size]
        header = PAGE_HEADER.unpack_from(page)
        if (header[0] != xxh3_64_intdigest(page[8:]) or header[4] != first_page + index) and page.tobytes().strip(b"\0"):
            raise Corruption(f"page {first_page + index} in the backup's {path} is damaged", "Use another backup.")


def quiet(events: Events) -> Events:
    """The events of a recovery that is part of a restore: its own lines would stand between the restore's."""
    inner = Events()
    forward: Callable[..., Any] = events.emit

    def pass_on(name: str, fields: dict[str, Any]) -> None:
        if name not in _SILENT:
            forward(name, **fields)

    inner.subscribe(pass_on)
    return inner



"""Point-in-time recovery: carry out a plan.

    marker, control file RESTORING ─▶ pages (lay_pages.py) ─▶ identity ─▶ timeline claimed ─▶ log, cut at the stop (lay_log.py)
        ─▶ control file BACKUP ─▶ `restored.json`, marker removed ─▶ whoever starts the database replays the log

S1. From the first changed byte until everything is laid down and synced, the control file says RESTORING: nothing opens it.
S2. Run again after any interruption it gives the same result: whatever is there is compared or written anew, the timeline is
    the one that this identity claimed, the stop is the one in the marker.
S3. The log is what the plan read: a segment that has another digest now is refused.
S4. The new timeline's number is above every one that is known, and claimed by create-if-absent (H1); a number that was lost is
    never used. With `no_archive` nothing is written to the archive, now or later (identity.I2).
S5. Done means: pages, every record of the log up to the stop, and nothing behind it are here, checked and durable. What is left
    is an ordinary restart (analysis, redo on demand, undo), which needs nothing but these two directories, opens nothing before
    the log has been read to the stop, and can be killed like any other. It is the first start's: doing it here, too, would read
    the log twice more and write each changed page before anybody may use the database.
S6. With `check` (a drill's report) the database is opened, checked whole, and shut down here.
S7. Before that is said, what was laid down is looked at once more: each file is there with its size, and the control file says
    what it should. (Contents were checked on their way down, and synced.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from thunderdb.archive.directory import settle
from thunderdb.archive.history import format_claim, parse_claim
from thunderdb.archive.identity import IDENTITY_FILE, Identity, write_identity
from thunderdb.archive.index import StoreSource
from thunderdb.backup.destination import MARKER_FILE, Kind, Marker, check_unchanged, own_names, write_done, write_marker
from thunderdb.backup.lay_log import LogLayer
from thunderdb.backup.lay_pages import PageLayer
from thunderdb.backup.logline import claimed_line
from thunderdb.backup.plan import Plan
from thunderdb.backup.rates import first_start_s
from thunderdb.backup.sources import decode_control
from thunderdb.base.config import Config
from thunderdb.base.errors import Corruption, Refused, StorageError
from thunderdb.base.events import Events
from thunderdb.recovery.target import TargetKind, format_time
from thunderdb.runtime.ports import DirLock, Ports
from thunderdb.storage.control import FILE_SIZE, ControlFile, ControlState, DatabaseState
from thunderdb.storage.files import page_file_name
from thunderdb.storage.layout import CONTROL_FILE, LOCK_FILE, LOST_AND_FOUND
from thunderdb.wal.segment import SEGMENT_HEADER_SIZE, segment_name
from thunderdb.wal.timeline import Fork, history_name, seal_history

if TYPE_CHECKING:
    from thunderdb.engine.database import Database

_AGAIN = "Look who else works in these directories, and at the disk; then run the restore again."
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
    database: type[Database] | None = None,
) -> RestoreReport:  # fmt: skip
    """Do it; with `check`, open the database, too, and check all of it.

    Raises: Refused before anything is changed; StorageError, DiskFull, Corruption later: run it again (S2).
    """
    run = _Restore(ports, replace(config, wal_archive_enabled=False) if plan.no_archive else config, plan, events)
    return await run.run(check, database)


class _Restore:
    def __init__(self, ports: Ports, config: Config, plan: Plan, events: Events) -> None:
        self.ports = ports
        self.disk = ports.disk
        self.config = config
        self.plan = plan
        self.events = events
        self.reused = 0
        self.instance = ""
        self.marker = plan.destination.marker

    async def run(self, check: bool, database: type[Database] | None) -> RestoreReport:
        plan, clock = self.plan, self.ports.clock
        began_ns = clock.monotonic_ns()
        self.events.emit("restore.started")
        self.events.emit("restore.target", kind=plan.target.kind.value, text=plan.target.text)
        self.events.emit("restore.base", lsn=plan.backup.checkpoint_lsn, backup=plan.backup.name)
        for directory in (self.config.data_dir, self.config.wal_dir):
            await self.disk.make_dirs(directory)
        kind = plan.destination.kind
        if kind not in (Kind.OPENED, Kind.DONE):
            await self._locked_lay_down()
        copied_ns = clock.monotonic_ns()
        problems = await self._check(database) if check else None
        control = await self._control()
        if kind is not Kind.DONE or check:
            await self._note_done()
        report = self._report(control.timeline, clock.monotonic_ns() - began_ns, copied_ns - began_ns, problems)
        self._say_complete(report, control.state is not DatabaseState.BACKUP)
        return report

    async def _locked_lay_down(self) -> None:
        """Both are locked: another restore may have another data_dir, and by mistake the same wal_dir."""
        lock = await self.disk.lock(f"{self.config.data_dir}/{LOCK_FILE}")
        log_lock: DirLock | None = None
        try:
            log_lock = await self.disk.lock(f"{self.config.wal_dir}/{LOCK_FILE}")
            try:
                await check_unchanged(self.disk, self.config, self.plan.destination)
                await self._lay_down()
            except Refused:
                await self._remove(self.config.wal_dir, LOCK_FILE)
                raise
            await self._remove(self.config.wal_dir, LOCK_FILE)  # a database has none there
        except BaseException:
            await lock.release()
            if log_lock is not None:
                await log_lock.release()
            raise
        await log_lock.release()
        await lock.release()

    async def _note_done(self) -> None:
        """The end: which restore this was is known from here on by another file."""
        if self.marker is not None:
            await write_done(self.disk, self.config.data_dir, self.marker)
        await self._remove(self.config.data_dir, MARKER_FILE)
        await self.disk.sync_dir(self.config.data_dir)

    # -- Laying down

    async def _lay_down(self) -> None:
        """S1."""
        await self._begin()
        await self._pages()
        timeline = await self._claim()
        await self._log(timeline)
        await self._clean_up(timeline)
        await self._finish(timeline)
        self.events.emit("restore.laid_down", timeline=timeline)
        await self._check_laid_down(timeline)

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
                if len(await self.disk.read_file(path)) < FILE_SIZE:  # a power cut has kept its slots, not its length
                    raise Corruption(f"{path} is cut short")
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
        layer = PageLayer(self.ports, self.config.data_dir, plan.chain, self.events)
        await layer.run()
        self.reused = layer.reused
        self.events.emit("restore.pages", pages=plan.backup.page_count, reused=self.reused)

    # -- The timeline

    async def _claim(self) -> int:
        """S4."""
        plan = self.plan
        await write_identity(self.disk, self.config.data_dir, Identity(self.instance, plan.no_archive))
        archive = plan.archive
        timeline = plan.next_timeline
        if archive is None or plan.no_archive:
            return timeline
        planned = sorted((await archive.index()).histories)
        histories = (await archive.index(fresh=True)).histories
        gone = [number for number in planned if number not in histories]
        if gone:
            raise StorageError(
                f"the archive {archive.place} no longer has {history_name(gone[0])}, which it had just now: is it mounted?",
                "When it is back, run the restore again; without an archive to write to, --no-archive.",
            )
        own = [number for number, history in histories.items() if history.owner == self.instance]
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
        if await archive.store.put_new(name, seal_history(text).encode()):
            return True
        # Perhaps it is ours: an answer that was lost.
        return parse_claim((await archive.store.get(name)).decode(errors="replace"), timeline).owner == self.instance

    def _forks(self) -> tuple[Fork, ...]:
        """The new timeline's history: that of the line up to where it was left, and the line itself."""
        line, stop = self.plan.line, self.plan.stop
        owner = line.owner(max(stop.lsn - 1, 0))
        ancestors = tuple(fork for fork in line.forks if fork.timeline < owner)
        return (*ancestors, Fork(owner, stop.lsn, f"restored to {self.plan.target.text}"))

    async def _log(self, timeline: int) -> None:
        plan = self.plan
        self.events.emit("restore.log_started", segments=len(plan.segments), size_bytes=plan.log_bytes)
        layer = LogLayer(self.ports, self.config.wal_dir, plan.backup.system_id, self.events, plan.room_bytes)
        await layer.run(timeline, plan.segments, plan.kept, self._forks())
        self.events.emit("restore.log", segments=len(plan.segments))

    async def _clean_up(self, timeline: int) -> None:
        """Remove what was copied by hand, or left by a run that was interrupted, and is not part of the result."""
        plan = self.plan
        files = (plan.backup.page_count + plan.backup.pages_per_file - 1) // plan.backup.pages_per_file
        keep = {CONTROL_FILE, LOCK_FILE, LOST_AND_FOUND, MARKER_FILE, IDENTITY_FILE, *(page_file_name(n) for n in range(files))}
        await self._keep_only(self.config.data_dir, keep)
        keep = {history_name(timeline), LOCK_FILE, LOST_AND_FOUND}
        keep |= {segment_name(timeline, segment.piece.number) for segment in plan.segments}
        await self._keep_only(self.config.wal_dir, keep)

    async def _keep_only(self, directory: str, keep: set[str]) -> None:
        for name in await own_names(self.disk, self.config, directory):
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

    async def _check_laid_down(self, timeline: int) -> None:
        """S7. Raises: StorageError, Corruption."""
        plan, backup, control = self.plan, self.plan.backup, await self._control()
        says = (control.state, control.system_id, control.timeline, control.checkpoint_lsn, control.wal_end_lsn)
        if says != (DatabaseState.BACKUP, backup.system_id, timeline, backup.checkpoint_lsn, plan.stop.lsn):
            raise self._not_as_left(f"{self.config.data_dir}/{CONTROL_FILE}", "says something else")
        expected: dict[str, int] = {}
        left, number = backup.page_count, 0
        while left > 0:
            path = f"{self.config.data_dir}/{page_file_name(number)}"
            expected[path] = min(left, backup.pages_per_file) * backup.page_size
            left, number = left - backup.pages_per_file, number + 1
        for segment in plan.segments:
            path = f"{self.config.wal_dir}/{segment_name(timeline, segment.piece.number)}"
            expected[path] = SEGMENT_HEADER_SIZE + segment.end_lsn - segment.piece.header.start_lsn
        for path, size in expected.items():
            try:
                file = await self.disk.open(path, writable=False)
            except FileNotFoundError:
                raise self._not_as_left(path, "is gone") from None
            found = await file.size()
            await file.close()
            if found != size:
                raise self._not_as_left(path, f"has {found} bytes instead of {size}")

    async def _control(self) -> ControlState:
        """What the control file says now."""
        path = f"{self.config.data_dir}/{CONTROL_FILE}"
        try:
            return decode_control(await self.disk.read_file(path), path)
        except FileNotFoundError:
            raise self._not_as_left(path, "is gone") from None
        except Corruption:
            raise Corruption(f"{path}, just written, is damaged: no slot of it is valid", _AGAIN) from None

    def _not_as_left(self, path: str, trouble: str) -> StorageError:
        return StorageError(f"{path} {trouble}, just after it was laid down", _AGAIN)

    # -- The end

    async def _check(self, database: type[Database] | None) -> tuple[str, ...]:
        """S6. Only here is the engine needed: it is a third of what a restore would import."""
        from thunderdb.engine.check import check_database
        from thunderdb.engine.database import Database

        if self.marker is not None:  # opening it changes the control file: until the end, the marker says whose it is
            await write_marker(self.disk, self.config.data_dir, self.marker)
        self.events.emit("restore.recovery_started")
        db = await (database or Database).open(self.ports, self.config, quiet(self.events))
        problems = tuple(await check_database(db))
        await db.close()
        return problems

    def _report(self, timeline: int, took_ns: int, copy_ns: int, problems: tuple[str, ...] | None) -> RestoreReport:
        plan = self.plan
        return RestoreReport(
            plan.target.text, plan.backup.name, plan.backup.checkpoint_lsn, plan.stop.lsn, self._recovered_to_us(), timeline,
            plan.line.timeline, plan.backup.page_count, self.reused, len(plan.segments), plan.log_bytes, plan.stop.kept.count,
            plan.losers, took_ns, copy_ns, took_ns - copy_ns, problems,
        )  # fmt: skip

    def _recovered_to_us(self) -> int:
        """The target's time, or that of the last commit that was kept."""
        plan = self.plan
        if plan.target.kind is TargetKind.TIME:
            return plan.target.time_us
        return plan.stop.kept.last_us or plan.backup.end_time_us

    def _say_complete(self, report: RestoreReport, opened: bool) -> None:
        """`opened`: the log was replayed. If not, whoever waits for service must know what is still to come."""
        self.events.emit(
            "restore.complete", recovered_to=format_time(report.recovered_to_us, 3) if report.recovered_to_us else "",
            lsn=report.stop_lsn, transactions=report.transactions, rolled_back=report.rolled_back, timeline=report.timeline,
            duration_ns=report.duration_ns, replayed=opened,
        )  # fmt: skip
        if not opened:
            log_bytes = report.stop_lsn - self.plan.backup.redo_lsn
            self.events.emit("restore.first_start", log_bytes=log_bytes, estimate_s=round(first_start_s(log_bytes), 1))


def quiet(events: Events) -> Events:
    """The events of a recovery that is part of a restore: its own lines would stand between the restore's."""
    inner = Events()
    forward: Callable[..., Any] = events.emit

    def pass_on(name: str, fields: dict[str, Any]) -> None:
        if name not in _SILENT:
            forward(name, **fields)

    inner.subscribe(pass_on)
    return inner



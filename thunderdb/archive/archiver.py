"""The archiver: ships closed segments and the tail of the open one, and says how far the archive is.

    begin:  entrance checks, claim (start.py)                  refused ─▶ nothing is written, nothing of the log removed
    step:   sample ─▶ closed segments, oldest first: read, check, put, read back, compare ─▶ hold moves ─▶ partial goes
            ─▶ close the open segment if it is due ─▶ tail ─▶ note "complete up to T"
    error:  event, back off (1 s … 60 s), the same step again

A1. A local segment may be removed only after its copy was read back: `holds["archive"]` moves behind that, nowhere else.
A2. Nothing here is waited for by a commit. An archive that is down for hours costs log on disk, nothing else.
A3. Nothing is remembered that the archive does not show: after kill -9 what is there is listed, compared and taken over.
A4. A segment that was damaged here is never shipped: its records are checked on the way.
A5. A failure is an event, a status and a metric from the first attempt on, and stays one until a later attempt has succeeded.
"""

from __future__ import annotations

from typing import Any

from thunderdb.archive.cipher import Cipher, load_cipher
from thunderdb.archive.closing import NewLog
from thunderdb.archive.codec import Codec
from thunderdb.archive.command_store import CommandSource, CommandTarget
from thunderdb.archive.directory import open_store
from thunderdb.archive.identity import Archived, Identity, own_identity, read_archived, write_archived
from thunderdb.archive.index import ArchiveIndex, Complete, Gap, gaps_in
from thunderdb.archive.start import Entrance, scan_segment
from thunderdb.archive.status import ArchiveStatus, Exposure, Rate, Sample
from thunderdb.archive.target import Conflict, StoreTarget, Target
from thunderdb.base.config import Config
from thunderdb.base.errors import Corruption, InvariantViolated, NodeStopped, Refused, StorageError, ThunderError
from thunderdb.base.events import Events
from thunderdb.base.ids import format_lsn
from thunderdb.engine.database import Database
from thunderdb.runtime.ports import Ports
from thunderdb.runtime.sync import Event, Future, Task
from thunderdb.wal.segment import SEGMENT_HEADER_SIZE, segment_name

MS = 1_000_000
SECOND_NS = 1_000_000_000
FIRST_BACKOFF_NS = SECOND_NS
LAST_BACKOFF_NS = 60 * SECOND_NS
STOP_NS = 5 * SECOND_NS
IDLE_NOTE_NS = 10 * SECOND_NS
FLUSH_NS = SECOND_NS
RELIST_NS = 600 * SECOND_NS
HOLD = "archive"


class Archiver:
    """Archives one open database. Made by `Archiver.open`."""

    def __init__(self, db: Database, target: Target, identity: Identity) -> None:
        self.db = db
        self.target = target
        self.identity = identity
        self.log = db.log
        self.timeline = db.log.timeline
        self._config = db.config
        self._events = db.events
        self._tasks = db.ports.tasks
        self._clock = db.ports.clock
        self._wake = Event(self._tasks)
        self._stop = Event(self._tasks)
        self._task: Task[None] | None = None
        self._new_log = NewLog(db.ports.disk, db.log)
        self._checkpointed = False
        self._began = False
        self._refused = ""
        self._attempt = 0
        self._last_error = ""
        self._known: set[int] = set()  # closed segments of our timeline that the archive had when it was listed
        self._stale: dict[int, str] = {}  # partial segments by number, with their keys
        self._gaps: tuple[Gap, ...] = ()
        self._shipped = 0
        self._last_segment = ""
        self._last_time_us = 0
        self._total_bytes = 0
        self._archived_lsn = 0
        self._tail_lsn = 0
        self._noted = Complete(0, 0, 0)
        self._noted_ns = 0
        self._listed_ns = 0
        self._rate = Rate()
        self._backlog: dict[int, int] | None = None  # commits of earlier lives by segment that is not archived
        self._backlog_lsn = db.log.flushed_lsn
        self._tail_ns = 0
        self._exposure = Exposure(Sample(db.log.oldest_lsn, 0, 0, self._clock.monotonic_ns()))
        self._segment_waiters: list[tuple[int, Future[None]]] = []
        self._lsn_waiters: list[tuple[int, Future[None]]] = []

    # -- Opening and closing

    @classmethod
    async def open(cls, db: Database, config: Config, ports: Ports, events: Events) -> Archiver | None:
        """Begin to archive an open database; None where the configuration does not ask for it.

        An archive that cannot be reached, or that refuses, does not keep the database from serving.
        Raises: ConfigError (no such store, an unusable key).
        """
        if not config.wal_archive_enabled:
            return None
        identity = await own_identity(ports.disk, config.data_dir, ports.random)
        target = make_target(ports, config, await load_cipher(ports, config))
        archiver = cls(db, target, identity)
        archiver.start()
        return archiver

    def start(self) -> None:
        if self.identity.no_archive:
            self.db.checkpointer.holds.pop(HOLD, None)
            self._refused = "this database is a drill (restored with --no-archive): it archives nothing"
            self._events.emit("archive.drill", message=self._refused)
            return
        self.db.checkpointer.holds.setdefault(HOLD, 0)
        self._events.subscribe(self._on_event)
        if not self.target.verified:
            self._events.emit("archive.unverified", place=self.target.place)
        self._task = self._tasks.detach(self._run(), "archiver")

    async def stop(self) -> None:
        """Ship what there is, for a few seconds at most. The database must still be open."""
        self._stop.set()
        self._wake.set()
        task = self._task
        if task is not None and not task.done():
            try:
                await self._tasks.wait_for(task, STOP_NS)
            except TimeoutError:
                task.cancel()
                self._behind("the archive did not answer in time")
        self._give_up(NodeStopped("the database system is shutting down"))

    def _behind(self, why: str) -> None:
        self._events.emit(
            "archive.behind", archived_lsn=self.archived_lsn, flushed_lsn=self.log.flushed_lsn, message=why,
            size_bytes=max(0, self.log.flushed_lsn - self.archived_lsn),
        )  # fmt: skip

    # -- What others ask for

    @property
    def archived_lsn(self) -> int:
        """The archive holds the log of this timeline up to here, read back (tail: synced)."""
        return max(self._archived_lsn, self._tail_lsn)

    async def switch(self) -> int:
        """Close the open segment now and wait until it is in the archive; return its number, 0 if it had no record.

        Raises: StorageError, when an attempt to ship it fails (it goes on being tried).
        """
        self._check_serving()
        await self.log.flush_all()
        number = self.log.switch_segment()
        if number:
            await self._wait(self._segment_waiters, number)
        return number

    async def wait_archived(self, lsn: int) -> None:
        """Wait until the archive holds the log up to `lsn`, however long that takes. Raises: StorageError, NodeStopped."""
        if self.archived_lsn < lsn:
            self._check_serving()
            await self._wait(self._lsn_waiters, lsn)

    def _check_serving(self) -> None:
        if self._refused:
            raise StorageError(f"nothing is archived: {self._refused}")
        if self._stop.is_set():
            raise NodeStopped("the database system is shutting down")

    async def _wait(self, waiters: list[tuple[int, Future[None]]], value: int) -> None:
        waiter: Future[None] = self._tasks.future()
        waiters.append((value, waiter))
        self._wake.set()
        await waiter

    def status(self) -> ArchiveStatus:
        now_ns = self._clock.monotonic_ns()
        archived, flushed = self.archived_lsn, self.log.flushed_lsn
        covered = self._exposure.covered
        behind = max(0, flushed - max(archived, self.log.oldest_lsn))
        lost = sum((self._backlog or {}).values()) + max(0, self.db.manager.commits - covered.commits)
        since_s = max(0.0, (now_ns - covered.clock_ns) / SECOND_NS)
        return ArchiveStatus(
            archiving_enabled=not self.identity.no_archive,
            last_archived_segment=self._last_segment,
            last_archive_time_us=self._last_time_us,
            segments_pending=self._pending(),
            archive_rate_bytes_per_sec=self._rate.per_second(now_ns),
            total_archived_bytes=self._total_bytes,
            place=self.target.place,
            gaps=self._gaps,
            verified=self.target.verified,
            failing=bool(self._attempt) or bool(self._refused and not self.identity.no_archive),
            refused=bool(self._refused),
            last_error=self._refused or self._last_error,
            archived_lsn=archived,
            complete_until_us=self._noted.time_us,
            lag_seconds=since_s if behind else 0.0,
            lag_bytes=behind,
            exposed_transactions=lost,
            exposed_bytes=behind if lost else 0,
            exposed_seconds=since_s if lost else 0.0,
        )

    def _pending(self) -> int:
        closed = self.log.newest_closed
        return sum(1 for number, _ in self.log.segments if self._shipped < number <= closed)

    # -- The task

    def _on_event(self, name: str, _fields: dict[str, Any]) -> None:
        if name == "checkpoint.complete":
            self._checkpointed = True
            self._wake.set()
        elif name == "wal.segment_closed":
            self._wake.set()

    async def _run(self) -> None:
        tick_ns = min(SECOND_NS, max(1, self._config.wal_archive_lag // 2) * MS)
        while True:
            stopping = self._stop.is_set()
            self._wake.clear()
            pause, wait_ns = self._wake, tick_ns
            try:
                if self._backlog is None:
                    self._backlog = await self._count_backlog()
                if not self._began:
                    await self._begin()
                await self._step(stopping)
                self._succeeded()
            except InvariantViolated:
                raise
            except Refused as error:
                self._refuse(error)
                return
            except (ThunderError, OSError) as error:
                if self.log.failure is not None or self.db.failure is not None:
                    return  # the node stops; there is nothing to archive from
                pause, wait_ns = self._stop, self._failed(error)
            if stopping:
                if self._attempt:
                    self._behind(self._last_error)
                return
            await pause.wait_timeout(wait_ns)

    async def _begin(self) -> None:
        """Look, check, claim (start.py); take over what is there."""
        disk, log = self.db.ports.disk, self.log
        remembered = await read_archived(disk, self._config.data_dir)
        entrance = Entrance(self._tasks, disk, log, self.db.control.state.system_id, self.target, self.identity)
        index = await entrance.enter(remembered)
        mine = remembered is not None and (remembered.place, remembered.timeline) == (self.target.place, self.timeline)
        number = remembered.number if remembered is not None and mine else 0
        await write_archived(disk, self._config.data_dir, Archived(self.target.place, self.timeline, number, True))
        if index is not None:
            await self._take_over(index)
        elif number:
            self._shipped = min(number, log.newest_closed)
            self._last_segment = segment_name(self.timeline, number)
            oldest = log.segments[0][0]
            self._gaps = tuple(gaps_in(self.timeline, [number, oldest])) if oldest > number else ()
        self._move_hold()
        self._began = True

    async def _count_backlog(self) -> dict[int, int]:
        """Commits that this life found in the log and that the archive may not have; what it has already is not counted."""
        remembered = await read_archived(self.db.ports.disk, self._config.data_dir)
        mine = remembered is not None and (remembered.place, remembered.timeline) == (self.target.place, self.timeline)
        known = remembered.number if remembered is not None and mine else 0
        counts: dict[int, int] = {}
        for number, start_lsn in self.log.segments:
            if number > known and start_lsn < self._backlog_lsn:
                raw = await self.db.ports.disk.read_file(f"{self.log.directory}/{segment_name(self.timeline, number)}")
                raw = raw[: SEGMENT_HEADER_SIZE + self._backlog_lsn - start_lsn]
                scanned = await scan_segment(self._tasks, raw, self.timeline, number, self.db.control.state.system_id)
                counts[number] = scanned.commits
        return counts

    async def _take_over(self, index: ArchiveIndex) -> None:
        """A3: what the listing shows. Each local segment is compared with its copy before the hold moves over it."""
        closed = index.numbers(self.timeline, partial=False)
        self._note_index(index)
        if closed:
            self._last_segment = segment_name(self.timeline, closed[-1])
            self._last_time_us = index.segments[self.timeline, closed[-1]].modified_ns // 1000
        complete = index.complete.get(self.timeline)
        if complete is not None:
            self.db.manager.order.not_before(complete.time_us)
            self._noted = complete
            self._last_time_us = self._last_time_us or (complete.time_us if closed else 0)

    def _note_index(self, index: ArchiveIndex) -> None:
        self._known = set(index.numbers(self.timeline, partial=False))
        self._stale = {number: entry.key for (timeline, number), entry in index.partials.items() if timeline == self.timeline}
        self._total_bytes = index.size_bytes
        here = [number for number, _ in self.log.segments] if index.numbers(self.timeline) else []
        others = [gap for gap in index.gaps() if gap.timeline != self.timeline]
        self._gaps = (*others, *gaps_in(self.timeline, sorted({*index.numbers(self.timeline), *here})))
        self._listed_ns = self._clock.monotonic_ns()

    async def _step(self, stopping: bool) -> None:
        if stopping:
            await self._flush()
        self._sample()
        await self._ship_closed()
        await self._drop_replaced()
        await self._new_log.look(self._clock.monotonic_ns())
        if self._is_due(stopping):
            await self._close_segment()
            if stopping:
                await self._ship_closed()
        if self.target.has_tail:
            now_ns = self._clock.monotonic_ns()
            if stopping or now_ns - self._tail_ns >= self._config.wal_archive_lag * MS // 2:
                self._tail_ns = now_ns
                await self._ship_tail()
            await self._note()
        if self._clock.monotonic_ns() - self._listed_ns > RELIST_NS and not stopping:
            index = await self.target.index()
            if index is not None:
                self._note_index(index)
        self._listed_ns = self._listed_ns or self._clock.monotonic_ns()

    def _sample(self) -> None:
        """One moment: every commit until now lies below `lsn`, every later one is after `time_us`."""
        manager = self.db.manager
        commits = manager.commits + len(manager.committing)
        self._exposure.add(Sample(self.log.next_lsn, commits, manager.order.passed(), self._clock.monotonic_ns()))
        if self.log.next_lsn > self.log.flushed_lsn:
            self.log.flush_soon()

    # -- Closed segments

    async def _ship_closed(self) -> None:
        for number, start_lsn in self.log.segments:
            if self._shipped < number <= self.log.newest_closed:
                await self._ship(number, start_lsn)

    async def _ship(self, number: int, start_lsn: int) -> None:
        """Archive one segment and read it back; then its local file may go (A1)."""
        began_ns = self._clock.monotonic_ns()
        name = segment_name(self.timeline, number)
        raw = await self.db.ports.disk.read_file(f"{self.log.directory}/{name}")
        scanned = await scan_segment(self._tasks, raw, self.timeline, number, self.db.control.state.system_id)
        if not scanned.closed or scanned.size != len(raw) or scanned.start_lsn != start_lsn:
            raise Corruption(
                f"log segment {name} is damaged here at {format_lsn(scanned.end_lsn)} ({scanned.why}): it is not archived",
                "Take a new full backup: the pages are not affected. The archive has a gap here until then.",
            )  # A4
        again = number in self._known and await self.target.fetch(name) == raw
        size_bytes = 0 if again else await self.target.push(name, raw)
        await self._shipped_one(number, scanned.end_lsn, size_bytes, began_ns)
        await self._drop_partial(number)

    async def _shipped_one(self, number: int, end_lsn: int, size_bytes: int, began_ns: int) -> None:
        now_ns = self._clock.monotonic_ns()
        self._known.add(number)
        self._shipped = number
        (self._backlog or {}).pop(number, None)
        self._last_segment = segment_name(self.timeline, number)
        if size_bytes:
            self._last_time_us = self._clock.wall_ns() // 1000
            self._total_bytes += size_bytes
            self._rate.add(now_ns, size_bytes)
            self._events.emit(
                "archive.pushed", segment=self._last_segment, lsn=end_lsn, size_bytes=size_bytes, duration_ns=now_ns - began_ns
            )
        self._reached(end_lsn)
        self._archived_lsn = end_lsn
        self._move_hold()
        await write_archived(
            self.db.ports.disk, self._config.data_dir, Archived(self.target.place, self.timeline, number, True)
        )  # fmt: skip
        self._release(self._segment_waiters, number)
        await self.db.checkpointer.release_log()

    async def _drop_replaced(self) -> None:
        """Partial segments that a crash left beside the closed ones."""
        here = {number for number, _ in self.log.segments}
        for number in sorted(self._stale):
            if number in self._known and (number <= self._shipped or number not in here):
                await self._drop_partial(number)

    async def _drop_partial(self, number: int) -> None:
        if self.target.has_tail:
            await self.target.drop_tail(self.timeline, number)
            key = self._stale.pop(number, None)
            if key is not None:
                await self.target.drop(key)

    def _move_hold(self) -> None:
        """A1: the first LSN that is in no segment that was read back."""
        here = [start_lsn for number, start_lsn in self.log.segments if number > self._shipped]
        if here:
            self.db.checkpointer.holds[HOLD] = here[0]
        else:
            self.db.checkpointer.holds[HOLD] = self._archived_lsn or self.log.oldest_lsn

    def _reached(self, lsn: int) -> None:
        self._exposure.reached(lsn)
        if lsn >= self._backlog_lsn:
            self._backlog = {}
        self._release(self._lsn_waiters, lsn)

    # -- The open segment

    def _is_due(self, stopping: bool) -> bool:
        """Whether the open segment is to be closed: at a checkpoint, or after a while, if there is anything in it."""
        checkpointed, self._checkpointed = self._checkpointed, False
        since_ns = self._new_log.since_ns
        if since_ns is None or self.log.spares.low:
            return False
        if checkpointed or (stopping and not self.target.has_tail):
            return True
        return self._clock.monotonic_ns() - since_ns >= self._config.wal_archive_timeout * MS

    async def _close_segment(self) -> None:
        number = self.log.segment_number
        if not await self._flush() or self.log.segment_number != number or not self.log.switch_segment():
            return
        if await self._flush():
            while self.log.newest_closed < number and self.log.failure is None:
                await self._tasks.sleep(MS)

    async def _flush(self) -> bool:
        """Flush the log, unless it waits for its disk: then the archiver must not wait with it (A2)."""
        try:
            await self._tasks.wait_for(self._tasks.spawn(self.log.flush_all(), "archive.flush"), FLUSH_NS)
        except TimeoutError:
            return False
        return True

    async def _ship_tail(self) -> None:
        """Bring the partial segment up to the last flush."""
        log = self.log
        number = log.newest_segment
        if number <= log.newest_closed:
            return
        start_lsn, flushed_lsn = log.segments[-1][1], log.flushed_lsn
        if flushed_lsn <= max(start_lsn, self._tail_lsn) or self._shipped != number - 1 and self._before(number):
            return
        file = await self.db.ports.disk.open(f"{log.directory}/{segment_name(self.timeline, number)}", writable=False)
        try:
            sent = await self.target.extend_tail(self.timeline, number, file, SEGMENT_HEADER_SIZE + flushed_lsn - start_lsn)
        except Exception:
            await file.close()
            raise
        await file.close()
        self._rate.add(self._clock.monotonic_ns(), sent)
        self._tail_lsn = flushed_lsn
        self._reached(flushed_lsn)

    def _before(self, number: int) -> bool:
        """Whether a segment before this one waits to be shipped; a tail without it would be of no use."""
        return any(self._shipped < other < number for other, _ in self.log.segments)

    async def _note(self) -> None:
        """Say up to when the archive is complete: after each push, and now and then when nothing is written."""
        covered, now_ns = self._exposure.covered, self._clock.monotonic_ns()
        if covered.time_us <= self._noted.time_us or covered.lsn > self.archived_lsn:
            return
        if covered.lsn == self._noted.lsn and now_ns - self._noted_ns < IDLE_NOTE_NS:
            return
        complete = Complete(covered.lsn, covered.time_us, self.log.newest_segment)
        await self.target.note(self.timeline, complete)
        self._noted, self._noted_ns = complete, now_ns

    # -- Trouble

    def _failed(self, error: Exception) -> int:
        """A5; return for how long to wait."""
        self._attempt += 1
        self._last_error = str(error)
        hint = error.hint if isinstance(error, ThunderError) else ""
        self._events.emit("archive.failed", message=self._last_error, attempt=self._attempt, hint=hint)
        self._give_up_segments(StorageError(f"archiving failed: {self._last_error}", hint))
        backoff_ns = min(LAST_BACKOFF_NS, FIRST_BACKOFF_NS << min(self._attempt - 1, 10))
        if isinstance(error, Conflict):
            backoff_ns = LAST_BACKOFF_NS
        return backoff_ns // 2 + self.db.ports.random.bits(32) * (backoff_ns // 2) // (1 << 32)

    def _succeeded(self) -> None:
        if self._attempt:
            self._events.emit("archive.recovered", attempts=self._attempt)
            self._attempt = 0
            self._last_error = ""

    def _refuse(self, error: Refused) -> None:
        self._refused = error.message
        self._events.emit("archive.refused", message=error.message, hint=error.hint)
        self._give_up(StorageError(f"nothing is archived: {error.message}", error.hint))

    def _give_up(self, error: ThunderError) -> None:
        self._give_up_segments(error)
        for _, waiter in self._lsn_waiters:
            waiter.set_error(error)
        self._lsn_waiters.clear()

    def _give_up_segments(self, error: ThunderError) -> None:
        waiters, self._segment_waiters = self._segment_waiters, []
        for _, waiter in waiters:
            waiter.set_error(error)

    @staticmethod
    def _release(waiters: list[tuple[int, Future[None]]], reached: int) -> None:
        for value, waiter in list(waiters):
            if value <= reached:
                waiters.remove((value, waiter))
                waiter.set_result(None)


def make_target(ports: Ports, config: Config, cipher: Cipher | None) -> Target:
    """Where a configuration archives to. Raises: ConfigError."""
    codec = Codec(config.wal_archive_compress, cipher)
    if config.wal_archive_dir:
        return StoreTarget(open_store(ports, config.wal_archive_dir), codec, ports.offload)
    timeout_s = config.wal_command_timeout / 1000
    return CommandTarget(
        ports.disk, ports.command, ports.offload, config.wal_archive_command, timeout_s, codec, config.wal_dir,
        config.data_dir, command_source(ports, config, cipher) if config.wal_restore_command else None,
    )  # fmt: skip


def command_source(ports: Ports, config: Config, cipher: Cipher | None) -> CommandSource:
    """What wal_restore_command of a configuration fetches."""
    return CommandSource(
        ports.disk, ports.command, config.wal_restore_command, f"{config.data_dir}/archive.tmp",
        config.wal_command_timeout / 1000, Codec(config.wal_archive_compress, cipher), ports.offload,
    )  # fmt: skip

"""The archiver: ships closed segments and the tail of the open one, and says how far the archive is.

    begin:  entrance checks, claim (start.py)                  refused ─▶ nothing is written, nothing of the log removed
    step:   sample ─▶ closed segments, oldest first (shipping.py): read back, compare ─▶ hold moves ─▶ partial goes
            ─▶ close the open segment if it is due ─▶ tail ─▶ note "complete up to T"
    error:  event, back off (1 s … 60 s), the same step again

A1. A local segment may be removed only after its copy was read back, and is durable whoever wrote it (target.T5):
    `holds["archive"]` moves after that, nowhere else.
A2. Nothing here is waited for by a commit. An archive that is down for hours costs log on disk, nothing else.
A3. Nothing is remembered that the archive does not show: after kill -9 what is there is listed, compared and taken over.
A4. A segment that was damaged here is never shipped, nor is a tail: records are checked on the way.
A5. A failure is an event, a status and a metric from the first attempt on, and stays one until a later attempt has succeeded.
"""

from __future__ import annotations

from typing import Any

from thunderdb.archive.cipher import load_cipher
from thunderdb.archive.closing import NewLog
from thunderdb.archive.identity import Archived, Identity, own_identity, write_archived
from thunderdb.archive.inherited import inherited, own_forks
from thunderdb.archive.ledger import Ledger
from thunderdb.archive.notes import Notes
from thunderdb.archive.place import make_target
from thunderdb.archive.shipping import Closed, ship
from thunderdb.archive.start import Entrance, scan_segment
from thunderdb.archive.status import ArchiveStatus
from thunderdb.archive.tail_check import TailCheck
from thunderdb.archive.target import ArchiveGone, Conflict, TailConflict, Target
from thunderdb.base.config import Config
from thunderdb.base.errors import Corruption, DiskFull, InvariantViolated, NodeStopped, Refused, StorageError, ThunderError
from thunderdb.base.events import Events
from thunderdb.base.ids import format_lsn
from thunderdb.engine.database import Database
from thunderdb.runtime.ports import Ports
from thunderdb.runtime.sync import Event, Future, Task
from thunderdb.wal.segment import SEGMENT_HEADER_SIZE, segment_name
from thunderdb.wal.timeline import Fork

MS = 1_000_000
SECOND_NS = 1_000_000_000
FIRST_BACKOFF_NS = SECOND_NS
LAST_BACKOFF_NS = 60 * SECOND_NS
STOP_NS = 5 * SECOND_NS
FLUSH_NS = SECOND_NS
NOTED_NS = SECOND_NS
RELIST_NS = 3600 * SECOND_NS
HOLD = "archive"
NOBODY = Identity("")
DRILL = "this database is a drill (restored with --no-archive): it archives nothing"


class Archiver:
    """Archives one open database. Made by `Archiver.open`."""

    def __init__(self, db: Database, target: Target, identity: Identity) -> None:
        self.db = db
        self.target = target
        self.identity = identity
        self.log = db.log
        self.timeline = db.log.timeline
        self.ledger = Ledger(db, target)
        self._config = db.config
        self._events = db.events
        self._tasks = db.ports.tasks
        self._clock = db.ports.clock
        self._wake = Event(self._tasks)
        self._prod = Event(self._tasks)  # somebody wants an answer: try again now, however long the pause was to be
        self._stopping = False
        self._task: Task[None] | None = None
        self._new_log = NewLog(db.ports.disk, db.log)
        self._checkpointed = False
        self._notes = Notes(db, target, self.ledger, self._flush, self._promise)
        self._began = False
        self._forks: tuple[Fork, ...] = ()
        self._remembered = 0
        self._refused = ""
        self._attempt = 0
        self._last_error = ""
        self._tail_ns = 0
        self._tail_check = TailCheck(self._tasks, self.timeline, db.control.state.system_id)
        self._listed_ns = 0
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
        archiver = cls(db, make_target(ports, config, await load_cipher(ports, config)), NOBODY)
        try:
            await archiver._identify()
            await archiver._keep_promise()
        except (ThunderError, OSError):
            pass  # it is tried again, loudly, and meanwhile nothing is written
        archiver.start()
        return archiver

    async def _identify(self) -> None:
        if self.identity is NOBODY:
            self.identity = await own_identity(self.db.ports.disk, self._config.data_dir, self.db.ports.random)

    async def _keep_promise(self) -> None:
        """Commits must be after what an earlier life noted, even if the clock was set back meanwhile; it usually was not.

        What is remembered here says so (identity.I4); the archive is asked as well, for that memory may be lost.
        """
        if self.identity.no_archive:
            return
        remembered = await self.ledger.remembered()
        self.db.manager.order.not_before(self.ledger.promised_us)
        reading = self._tasks.spawn(self.target.noted(self.timeline), "archive.noted")
        try:
            complete = await self._tasks.wait_for(reading, NOTED_NS)
        except (ThunderError, OSError, TimeoutError):
            return
        if complete is not None and remembered is not None:
            self.db.manager.order.not_before(complete.time_us)

    def start(self) -> None:
        if self.identity.no_archive:
            self.db.checkpointer.holds.pop(HOLD, None)
            self._refused = DRILL
            self._events.emit("archive.drill", message=self._refused)
            return
        self.db.checkpointer.holds.setdefault(HOLD, 0)
        self._events.subscribe(self._on_event)
        if not self.target.verified:
            self._events.emit("archive.unverified", place=self.target.place)
        self._task = self._tasks.detach(self._run(), "archiver")

    async def stop(self) -> None:
        """Ship what there is, for a few seconds at most. The database must still be open."""
        self._stopping = True
        self._wake.set()
        self._prod.set()
        task = self._task
        if task is not None and not task.done():
            try:
                await self._tasks.wait_for(task, STOP_NS)
            except TimeoutError:
                task.cancel()
                self._behind("the archive did not answer in time")
        self._give_up(NodeStopped("the database system is shutting down"))

    def _behind(self, why: str) -> None:
        archived, flushed = self.archived_lsn, self.log.flushed_lsn
        self._events.emit(
            "archive.behind", archived_lsn=archived, flushed_lsn=flushed, size_bytes=max(0, flushed - archived), message=why
        )  # fmt: skip

    # -- What others ask for

    @property
    def archived_lsn(self) -> int:
        """The archive holds the log of this timeline up to here."""
        return self.ledger.archived_lsn

    def status(self) -> ArchiveStatus:
        failing = bool(self._attempt or (self._refused and not self.identity.no_archive))
        return self.ledger.status(not self.identity.no_archive, failing, self._refused, self._last_error)

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
        if self._stopping:
            raise NodeStopped("the database system is shutting down")

    async def _wait(self, waiters: list[tuple[int, Future[None]]], value: int) -> None:
        waiter: Future[None] = self._tasks.future()
        waiters.append((value, waiter))
        self._wake.set()
        self._prod.set()
        await waiter

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
            stopping = self._stopping
            self._wake.clear()
            self._prod.clear()
            pause, wait_ns = self._wake, tick_ns
            try:
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
                pause, wait_ns = self._prod, self._failed(error)
            if stopping:
                if self._attempt:
                    self._behind(self._last_error)
                return
            await pause.wait_timeout(wait_ns)

    async def _begin(self) -> None:
        """Look, check, claim (start.py); take over what is there."""
        if self._began:
            return
        await self._identify()
        if self.identity.no_archive:
            raise Refused(DRILL)
        await self.ledger.begin()
        disk, ledger = self.db.ports.disk, self.ledger
        remembered = await ledger.remembered()
        entrance = Entrance(self._tasks, disk, self.log, self.db.control.state.system_id, self.target, self.identity)
        index = await entrance.enter(remembered)
        await self.target.sweep(self.timeline)
        self._forks = await own_forks(disk, self.log.directory, self.timeline)
        if remembered is None or remembered.timeline != self.timeline:
            remembered = Archived(self.target.place, self.timeline)
        if index is None:
            ledger.take_over_memory(remembered)
        else:
            ledger.take_over(index)
            self.db.manager.order.not_before(ledger.noted.time_us)
        await self._remember(remembered.number)
        self._listed_ns = self._clock.monotonic_ns()
        self.db.checkpointer.holds[HOLD] = ledger.hold_lsn()
        self._began = True

    async def _remember(self, number: int) -> None:
        self._remembered = number
        await write_archived(self.db.ports.disk, self._config.data_dir, self.ledger.memory(number))

    async def _promise(self) -> None:
        await self._remember(self._remembered)

    async def _step(self, stopping: bool) -> None:
        if stopping:
            await self._flush()
        self.ledger.sample()
        await self._ship_closed()
        await self._drop_replaced()
        await self._new_log.look(self._clock.monotonic_ns())
        if self._is_due(stopping):
            await self._close_segment()
            if stopping:
                await self._ship_closed()
        if self.target.has_tail:
            await self._ship_tail(stopping)
            await self._notes.make()
        await self._list_again()

    async def _list_again(self) -> None:
        """Now and then look whether everything is still there."""
        now_ns = self._clock.monotonic_ns()
        if now_ns - self._listed_ns > RELIST_NS:
            self._listed_ns = now_ns
            index = await self.target.index()
            if index is not None:
                self.ledger.listed(index)

    # -- Closed segments

    async def _ship_closed(self) -> None:
        await ship(self._tasks, self.target, self.ledger.pending, self._load, self._counted)

    async def _load(self, number: int, start_lsn: int) -> Closed:
        """One segment, checked (A4)."""
        began_ns = self._clock.monotonic_ns()
        name = segment_name(self.timeline, number)
        raw = await self.db.ports.disk.read_file(f"{self.log.directory}/{name}")
        system_id = self.db.control.state.system_id
        scanned = await scan_segment(self._tasks, raw, self.timeline, number, system_id)
        if not scanned.closed or scanned.size != len(raw) or scanned.start_lsn != start_lsn:
            raise Corruption(
                f"log segment {name} is damaged here at {format_lsn(scanned.end_lsn)} ({scanned.why}): it is not archived",
                "Take a new full backup: the pages are not affected. The archive has a gap here until then.",
            )  # A4
        there = name if number in self.ledger.known and await self.target.has(name, raw) else ""
        there = there or await inherited(self.target, self._forks, self.timeline, number, raw, scanned.end_lsn, system_id)
        return Closed(number, name, raw, scanned.end_lsn, began_ns, there)

    async def _counted(self, closed: Closed, size_bytes: int) -> None:
        """A segment was read back, and so were all before it: its local file may go (A1). 0 bytes: it was there."""
        number, name, lsn = closed.number, closed.name, closed.end_lsn
        self.ledger.one_shipped(number, closed.there or name, lsn, size_bytes)
        if size_bytes:
            duration_ns = self._clock.monotonic_ns() - closed.began_ns
            self._events.emit("archive.pushed", segment=name, lsn=lsn, size_bytes=size_bytes, duration_ns=duration_ns)
        self._release(self._segment_waiters, number)
        self._release(self._lsn_waiters, self.archived_lsn)
        await self._let_go(number)
        await self._drop_partial(number)

    async def _let_go(self, number: int) -> None:
        """A1. What was archived is written down first: of an archive that cannot be listed it is the only trace."""
        try:
            await self._remember(number)
        except DiskFull:
            self.db.checkpointer.holds[HOLD] = self.ledger.hold_lsn()
            await self.db.checkpointer.release_log()  # there may be room then
            await self._remember(number)
        self.db.checkpointer.holds[HOLD] = self.ledger.hold_lsn()
        await self.db.checkpointer.release_log()

    async def _drop_replaced(self) -> None:
        """Partial segments that a crash left beside the closed ones."""
        ledger = self.ledger
        if not ledger.stale:
            return
        here = {number for number, _ in self.log.segments}
        for number in sorted(ledger.stale):
            if number in ledger.known and (number <= ledger.shipped or number not in here):
                await self._drop_partial(number)

    async def _drop_partial(self, number: int) -> None:
        if self.target.has_tail:
            await self.target.drop_tail(self.timeline, number)
            key = self.ledger.stale.pop(number, None)
            if key is not None:
                await self.target.drop(key)

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
        if self.log.flushed_lsn == self.log.next_lsn and self.log.failure is None:
            return True
        try:
            await self._tasks.wait_for(self._tasks.spawn(self.log.flush_all(), "archive.flush"), FLUSH_NS)
        except TimeoutError:
            return False
        return True

    async def _ship_tail(self, stopping: bool) -> None:
        """Bring the partial segment up to the last flush, twice in the lag that is allowed."""
        log, ledger, now_ns = self.log, self.ledger, self._clock.monotonic_ns()
        if not (stopping or now_ns - self._tail_ns >= self._config.wal_archive_lag * MS // 2):
            return
        await self._flush()  # so that this push reaches the last sample
        number, start_lsn = log.segments_after(log.newest_segment - 1)[-1]
        flushed_lsn = log.flushed_lsn
        if number <= log.newest_closed or ledger.pending or flushed_lsn <= max(start_lsn, ledger.archived_lsn):
            return  # a tail is of no use without the segments before it
        self._tail_ns = now_ns
        file = await self.db.ports.disk.open(f"{log.directory}/{segment_name(self.timeline, number)}", writable=False)
        try:
            await self._tail_check.check(file, number, start_lsn, flushed_lsn)  # A4
            sent = await self.target.extend_tail(self.timeline, number, file, SEGMENT_HEADER_SIZE + flushed_lsn - start_lsn)
        except Exception:
            await file.close()
            raise
        await file.close()
        ledger.tail_shipped(flushed_lsn, sent)
        self._release(self._lsn_waiters, self.archived_lsn)

    # -- Trouble

    def _failed(self, error: Exception) -> int:
        """A5; return for how long to wait."""
        self._attempt += 1
        self._last_error = str(error)
        hint = error.hint if isinstance(error, ThunderError) else ""
        self._events.emit("archive.failed", message=self._last_error, attempt=self._attempt, hint=hint)
        self._give_up_segments(StorageError(f"archiving failed: {self._last_error}", hint))
        backoff_ns = min(LAST_BACKOFF_NS, FIRST_BACKOFF_NS << min(self._attempt - 1, 10))
        if isinstance(error, (TailConflict, ArchiveGone)):
            self._began = False  # look again: another writer is refused, or it refuses us; what is only torn is mended
        elif isinstance(error, Conflict):
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

"""The log writer: append into memory, group commit, segments that follow each other, and the end of trust after a failed sync.

`append` is synchronous and only touches memory. One task writes: it takes everything that is buffered as one batch, writes it,
syncs, moves `flushed_lsn`, wakes whoever waits, in LSN order, and begins again. What arrives meanwhile is the next batch.

    append ──▶ chunk (memory) ──take──▶ write ─▶ sync ─▶ flushed_lsn, waiters
                  │ does not fit: SEGMENT_END                    │ chunk closes its segment: truncate ─▶ sync
                  ▼                                              ▼
             next segment's chunk                next chunk: spare + header ─▶ sync ─▶ rename ─▶ sync_dir ─▶ on_new_segment

F1. The record at `lsn` is durable if and only if lsn < flushed_lsn.
F2. A batch is written only after the one before it was synced, and a batch never spans segments: so the part of the log that a
    power cut can tear or reorder is one batch, and nothing in it has a flushed_lsn above the batch's start (W8).
F3. A batch whose last record does not yet say so is given a SEAL that says that everything before the batch is durable; after a
    moment of quiet a SEAL goes out alone. So damage anywhere but in the last batch is seen as a hole.
F4. A failed sync is for ever: every waiter and every later call gets the error, nothing is written again (W4).
F5. The control file names a segment (`on_new_segment`) before its first record is written (W8).
F6. `append` never fails for want of disk space; `admit` is where ordinary work is turned away (W10). Who must not be turned
    away, undo, waits for the disk (`wait_written`), so that what it appends does not pile up in memory.
F7. A batch is not taken while each turn of the scheduler still brings more log, for GATHER_TURNS turns and about GATHER_NS at
    most: a busy server gets more commits into a sync so, which costs as much as a statement; an idle one waits for one turn.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from heapq import heappop, heappush

from xxhash import xxh3_64_intdigest

from thunderdb.base.errors import (
    DiskFull,
    InvariantViolated,
    LimitExceeded,
    NodeStopped,
    ThunderError,
)
from thunderdb.base.events import Events
from thunderdb.base.ids import LSN, NO_LSN, SYSTEM_TXN, format_lsn
from thunderdb.runtime.ports import Clock, Disk, File, Timer
from thunderdb.runtime.sync import Event, Future, Task, Tasks
from thunderdb.wal.reader import LogEnd
from thunderdb.wal.recent import Chunk, RecentLog
from thunderdb.wal.record import (
    CHANGE_SIZE,
    HEADER_SIZE,
    Change,
    Record,
    RecordKind,
    decode_record,
    encode_body,
    pack_one,
    record_length,
)
from thunderdb.wal.segment import (
    SEGMENT_END_SIZE,
    SEGMENT_HEADER_SIZE,
    SegmentHeader,
    encode_segment_header,
    max_record_size,
    segment_name,
)
from thunderdb.wal.segment_list import SegmentList
from thunderdb.wal.spares import RESERVE, RETRY_NS, Spares, no_room_to_stop

SEAL_AFTER_NS = 100_000_000
BUFFER_SIZE = 4 << 20
GATHER_TURNS = 4
GATHER_NS = 1_000_000
_ROOM_NS = 100_000_000
"""So often who waits for room looks whether the disk is full."""
_SEAL = int(RecordKind.SEAL)
_ONE_CHANGE_SIZE = HEADER_SIZE + CHANGE_SIZE

NewSegmentHook = Callable[[int], Awaitable[None]]


async def _no_hook(number: int) -> None:
    return None


class LogWriter:
    """The end of the log. Does nothing until `resume`."""

    def __init__(
        self,
        tasks: Tasks,
        clock: Clock,
        disk: Disk,
        directory: str,
        events: Events,
        *,
        segment_size: int,
        system_id: int,
        timeline: int = 1,
        buffer_size: int = BUFFER_SIZE,
        recent_size: int = BUFFER_SIZE,
        seal_after_ns: int = SEAL_AFTER_NS,
        seal_batches: bool = True,
        reserve: int = RESERVE,
        retry_ns: int = RETRY_NS,
        on_new_segment: NewSegmentHook = _no_hook,
        on_fatal: Callable[[Exception], None] | None = None,
    ) -> None:
        self._tasks = tasks
        self._clock = clock
        self._disk = disk
        self.directory = directory
        self._events = events
        self.segment_size = segment_size
        self.max_record_size = max_record_size(segment_size)
        self._system_id = system_id
        self.timeline = timeline
        self._buffer_size = buffer_size
        self._seal_after_ns = seal_after_ns
        self._seal_batches = seal_batches
        self._retry_ns = retry_ns
        self.on_new_segment = on_new_segment
        self.on_fatal = on_fatal
        self.spares = Spares(tasks, disk, directory, segment_size, events, self._fail, reserve, retry_ns=retry_ns)

        self.next_lsn: LSN = NO_LSN
        self.flushed_lsn: LSN = NO_LSN
        self.quorum_lsn: LSN = NO_LSN
        self.last_checksum = 0
        self.last_lsn: LSN = NO_LSN
        self.record_count = 0

        self._slow_lsn = 0  # an append that would end beyond this takes the slow path
        self._segment_start_lsn = 0
        self._segment_limit = 0  # where the current segment's records must end, SEGMENT_END not counted
        self._closed_chunks: deque[Chunk] = deque()
        self._chunk = Chunk(0, 0, 0, False)
        self._recent = RecentLog(recent_size)
        self._waiters: list[tuple[int, int, Future[None]]] = []
        self._waiter_count = 0
        self._wanted_lsn = 0  # flush up to here even if nobody waits
        self._wake = Event(tasks)
        self._flushed = Event(tasks)
        self._flusher: Task[None] | None = None
        self._failure: Exception | None = None
        self._stopping = False
        self.hurried = False
        self._last_kind = 0
        self._last_stamp = 0  # flushed_lsn in the last record

        self._file: File | None = None
        self._file_number = 0
        self._file_start_lsn = 0
        self._kept = SegmentList(disk, directory, timeline, segment_size, self.spares, events)
        self._seal_timer: Timer | None = None
        self._flush_count = 0
        self._flush_count_at_timer = 0

    # -- starting and stopping ---------------------------------------------------------------------------------------------

    async def resume(self, end: LogEnd) -> None:
        """Go on behind `end`, whose tail must be ready for it (`LogReader.prepare_tail`, or `create_log`). Raises: LogHole."""
        end.check()
        if self._flusher is not None:
            raise InvariantViolated("the log writer is running already")
        header = end.header
        self._kept.take_over(end)
        self.next_lsn = self.flushed_lsn = LSN(end.lsn)
        self.last_checksum, self.last_lsn = end.last_checksum, LSN(end.last_lsn)
        self._last_kind, self._last_stamp = end.last_kind, end.last_flushed_lsn
        if end.closed:
            self._begin_segment(header.number + 1)
        else:
            self._file = await self._disk.open(f"{self.directory}/{segment_name(self.timeline, header.number)}")
            self._file_number, self._file_start_lsn = header.number, header.start_lsn
            self._begin_chunk(header.number, first=False)
            self._segment_start_lsn = header.start_lsn
            self._segment_limit = header.start_lsn + max_record_size(header.segment_size)
        await self.spares.find()
        self.spares.keep()
        self._set_slow_lsn()
        self._flusher = self._tasks.detach(self._run(), "wal.flusher")

    start = resume

    async def close(self) -> None:
        """Flush everything, stop, and let go of the files. Raises: what stopped the log, if that was before."""
        if self._failure is None and self._flusher is not None:
            try:
                await self.flush_all()
            except (ThunderError, OSError):
                pass  # it is `_failure` now, and raised below
        self._stopping = True
        self._slow_lsn = 0
        self.spares.stop()
        self._wake.set()
        if self._seal_timer is not None:
            self._seal_timer.cancel()
        if self._flusher is not None:
            await self._flusher
        await self._kept.close()
        if self._file is not None:
            await self._file.close()
        self._file = None
        if self._failure is not None:
            raise self._failure

    @property
    def segment_number(self) -> int:
        """The segment that the next record goes to (its file may not be there yet)."""
        return self._chunk.number

    @property
    def newest_segment(self) -> int:
        """The newest segment whose file exists."""
        return self._kept.newest

    @property
    def newest_closed(self) -> int:
        """The newest segment whose file is complete and will not change any more; 0 if there is none."""
        newest = self.newest_segment
        return newest if self._file is None and newest else max(0, newest - 1)

    @property
    def oldest_lsn(self) -> LSN:
        """The first LSN that the log still holds."""
        return self._kept.oldest_lsn

    @property
    def segments(self) -> list[tuple[int, int]]:
        """(number, start LSN) of each segment whose file exists, oldest first."""
        return self._kept.after(0)

    def segments_after(self, number: int) -> list[tuple[int, int]]:
        """`segments` above a number."""
        return self._kept.after(number)

    @property
    def buffered_bytes(self) -> int:
        return self.next_lsn - self.flushed_lsn

    @property
    def failure(self) -> Exception | None:
        return self._failure

    # -- appending ---------------------------------------------------------------------------------------------------------

    def append(
        self, kind: int, txn: int, prev_lsn: int, changes: Sequence[Change] = (), extra: bytes = b"", flags: int = 0
    ) -> LSN:
        """Add a record and return its LSN; `changes` are (page_no, prev_page_lsn, op, payload).

        Raises: LimitExceeded beyond `max_record_size`; whatever stopped the log. Durable when: flush_to(lsn) returns.
        """
        length = record_length(changes, extra)
        if self.next_lsn + length > self._slow_lsn:
            self._make_room(length)
        body = encode_body(
            length, kind, flags, self.next_lsn, self.last_checksum, txn, prev_lsn, self.flushed_lsn, self.quorum_lsn, changes,
            extra,
        )  # fmt: skip
        return self._add(kind, length, body)

    def append_change(
        self, kind: int, txn: int, prev_lsn: int, page_no: int, prev_page_lsn: int, op: int, payload: bytes
    ) -> LSN:
        """`append` of one page change and nothing else, as most records are."""
        size = len(payload)
        length = _ONE_CHANGE_SIZE + size
        if self.next_lsn + length > self._slow_lsn:
            self._make_room(length)
        body = pack_one(
            length, kind, 0, 1, self.next_lsn, self.last_checksum, txn, prev_lsn, self.flushed_lsn, self.quorum_lsn,
            prev_page_lsn, page_no, size, op,
        )  # fmt: skip
        return self._add(kind, length, body + payload)

    def _add(self, kind: int, length: int, body: bytes) -> LSN:
        lsn = self.next_lsn
        self.last_checksum = checksum = xxh3_64_intdigest(body)
        buffer = self._chunk.buffer
        buffer += checksum.to_bytes(8, "little")
        buffer += body
        self.last_lsn = lsn
        self.next_lsn = lsn + length  # type: ignore[assignment]
        self._last_kind = kind
        self._last_stamp = self.flushed_lsn
        self.record_count += 1
        return lsn

    def admit(self) -> None:
        """Let ordinary work begin. Raises: DiskFull while only the reserve of segments is left (W10)."""
        if self.spares.disk_full and self.spares.low:
            if self.spares.short:
                raise DiskFull(
                    f"the log's disk is nearly full: what is left is kept for rolling back {self.spares.needed():,} bytes",
                    hint="End large transactions, or free space on the log's disk; writes resume by themselves.",
                )
            raise DiskFull(
                "the disk is full: the log cannot grow",
                hint="Free space on the log's disk; the database becomes writable again by itself.",
            )

    def switch_segment(self) -> int:
        """Close the current segment early and return its number, or 0 if it has no record yet.

        Best after `flush_all`: then the record that closes the segment says that all of it was durable.
        Durable when: the event wal.segment_closed names it.
        """
        self._check_running()
        if self.next_lsn == self._segment_start_lsn:
            return 0
        number = self._chunk.number
        self._end_segment()
        self.flush_soon()
        return number

    def _make_room(self, length: int) -> None:
        """The slow path of `append`: stopped, too long, segment full, or much buffered."""
        self._check_running()
        if length > self.max_record_size:
            raise LimitExceeded(
                f"a log record of {length} bytes exceeds the limit of {self.max_record_size}", hint="Raise wal_segment_size."
            )
        if self.next_lsn + length > self._segment_limit:
            self._end_segment()
        if self.next_lsn + length - self._chunk.start_lsn > self._buffer_size:
            self.flush_soon()
        self._set_slow_lsn()

    def _end_segment(self) -> None:
        """Append SEGMENT_END, for which there is always room, and begin the next segment in memory."""
        self._check_running()
        self._slow_lsn = self._segment_limit + SEGMENT_END_SIZE
        self.append(RecordKind.SEGMENT_END, SYSTEM_TXN, NO_LSN)
        self._chunk.closes = True
        self._closed_chunks.append(self._chunk)
        self._begin_segment(self._chunk.number + 1)
        self._set_slow_lsn()

    def _begin_segment(self, number: int) -> None:
        self._segment_start_lsn = self.next_lsn
        self._segment_limit = self.next_lsn + self.max_record_size
        self._begin_chunk(number, first=True)

    def _begin_chunk(self, number: int, first: bool) -> None:
        self._chunk = Chunk(number, self.next_lsn, self.last_checksum, first)
        self._recent.add(self._chunk)

    def _set_slow_lsn(self) -> None:
        if self._failure is None and not self._stopping:
            self._slow_lsn = min(self._segment_limit, self._chunk.start_lsn + self._buffer_size)

    def _check_running(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._stopping or not self._kept.newest:
            raise NodeStopped("the log is closed")

    # -- flushing ----------------------------------------------------------------------------------------------------------

    async def flush_to(self, lsn: int) -> None:
        """Wait until the record at `lsn` is durable. Raises: SyncFailed, or whatever stopped the log."""
        if lsn < self.flushed_lsn:
            return
        self._check_running()
        if lsn >= self.next_lsn:
            raise InvariantViolated(f"flush to {format_lsn(lsn)}, but the log ends at {format_lsn(self.next_lsn)}")
        await self.flushing(lsn)

    def flushing(self, lsn: int) -> Future[None]:
        """Have the record at `lsn`, which is not durable yet, flushed; the future is done when it is. Raises: as `flush_to`."""
        self._check_running()
        waiter: Future[None] = self._tasks.future()
        self._waiter_count += 1
        heappush(self._waiters, (lsn, self._waiter_count, waiter))
        self._wake.set()
        return waiter

    async def flush_all(self) -> None:
        """Wait until everything appended so far is durable."""
        if self.next_lsn > self.flushed_lsn:
            await self.flush_to(self.next_lsn - 1)
        elif self._failure is not None:
            raise self._failure

    def flush_soon(self) -> None:
        """Have everything appended so far flushed, without waiting (sync_commit off)."""
        self._wanted_lsn = self.next_lsn
        self._wake.set()

    async def wait_for_room(self) -> None:
        """Hold the caller back while more than twice `buffer_size` is waiting for the disk. Raises: DiskFull (W10)."""
        while self._crowded():
            self.admit()
            await self._some_written()

    async def wait_written(self) -> None:
        """`wait_for_room` for who is never turned away: while the disk is full, it takes as long as that takes (W10)."""
        while self._crowded():
            await self._some_written()

    def _crowded(self) -> bool:
        return self.buffered_bytes > 2 * self._buffer_size and self._failure is None and not self._stopping

    async def _some_written(self) -> None:
        self.flush_soon()
        self._flushed.clear()
        await self._flushed.wait_timeout(_ROOM_NS)

    def hurry(self) -> None:
        """From here on nobody waits for a full disk: where the log needs room that is not there, it fails (F4)."""
        self.hurried = True
        self.spares.hurry()

    async def _run(self) -> None:
        """The flusher: the only code that writes records."""
        while not self._stopping and self._failure is None:
            await self._wake.wait()
            self._wake.clear()
            try:
                while self._work_to_do():
                    await self._gather()
                    if self._failure is None:
                        await self._flush_batch()
            except (ThunderError, OSError) as error:
                self._fail(error)

    def _work_to_do(self) -> bool:
        wanted = self._wanted_lsn > self.flushed_lsn or bool(self._waiters)
        return wanted and self.next_lsn > self.flushed_lsn and self._failure is None

    async def _gather(self) -> None:
        """Let those who are at work come to their commits too (F7)."""
        began_ns = self._clock.monotonic_ns()
        for _ in range(GATHER_TURNS):
            before = self.next_lsn
            await self._tasks.yield_now()
            if self.next_lsn == before or self._clock.monotonic_ns() - began_ns > GATHER_NS:
                return

    async def _flush_batch(self) -> None:
        chunk = self._take()
        began_ns = self._clock.monotonic_ns()
        if chunk.first:
            await self._open_segment(chunk)
        file = self._file
        if file is None or chunk.number != self._file_number:
            raise InvariantViolated(f"log segment {chunk.number} was not opened")
        await self._write(file, SEGMENT_HEADER_SIZE + chunk.start_lsn - self._file_start_lsn, chunk.buffer)
        await file.sync()
        if self._failure is not None:
            return
        self._advance(chunk.end_lsn)
        self._events.emit(
            "wal.flushed", lsn=chunk.end_lsn, size_bytes=len(chunk.buffer), duration_ns=self._clock.monotonic_ns() - began_ns
        )
        if chunk.closes:
            await self._close_segment(file, chunk)

    def _take(self) -> Chunk:
        """Take the oldest chunk for writing; nothing is added to it any more."""
        if self._closed_chunks:
            return self._closed_chunks.popleft()
        chunk = self._chunk
        if self._seal_batches and self._last_stamp < self.flushed_lsn < chunk.end_lsn:
            self._seal()  # F3
        self._begin_chunk(chunk.number, first=False)
        self._set_slow_lsn()
        return chunk

    def _seal(self) -> None:
        if self.next_lsn + HEADER_SIZE <= self._segment_limit:
            self._slow_lsn = self._segment_limit
            self.append(_SEAL, SYSTEM_TXN, NO_LSN)

    def _advance(self, end_lsn: int) -> None:
        self.flushed_lsn = LSN(end_lsn)
        self._flush_count += 1
        self._recent.forget(end_lsn)
        waiters = self._waiters
        while waiters and waiters[0][0] < end_lsn:
            heappop(waiters)[2].set_result(None)
        self._flushed.set()
        if self._seal_after_ns and self._seal_timer is None:
            self._arm_seal()

    async def _write(self, file: File, offset: int, data: bytes | bytearray) -> None:
        """Write, waiting for space as long as it takes: a failed write, unlike a failed sync, may be tried again."""
        while True:
            try:
                await file.write(offset, data)
                return
            except DiskFull as error:
                self._events.emit("wal.write_waits", reason=error.message)
                if self.hurried:
                    raise no_room_to_stop() from None
                await self._tasks.sleep(self._retry_ns)
                if self._stopping:
                    raise

    def _arm_seal(self) -> None:
        self._flush_count_at_timer = self._flush_count
        self._seal_timer = self._tasks.scheduler.call_later(self._seal_after_ns, self._quiet)

    def _quiet(self) -> None:
        """A moment has passed since a flush: seal the log, unless there was another one meanwhile (then look again later)."""
        self._seal_timer = None
        if self._failure is not None or self._stopping:
            return
        if self._flush_count != self._flush_count_at_timer:
            self._arm_seal()
            return
        sealed = self._last_kind == _SEAL and self._last_stamp == self.last_lsn
        if sealed or self._last_kind == RecordKind.SEGMENT_END:
            return
        if self.next_lsn == self.flushed_lsn:
            self._seal()
        self.flush_soon()

    def _fail(self, error: Exception) -> None:
        """Stop for ever (F4)."""
        if self._failure is not None:
            return
        self._failure = error
        self._slow_lsn = 0
        self.spares.stop()
        self._events.emit("wal.failed", reason=str(error))
        waiters, self._waiters = self._waiters, []
        for _, _, waiter in sorted(waiters, key=lambda entry: entry[:2]):
            waiter.set_error(error)
        self._wake.set()
        self._flushed.set()
        if self.on_fatal is not None:
            self.on_fatal(error)

    # -- segments ----------------------------------------------------------------------------------------------------------

    async def _open_segment(self, chunk: Chunk) -> None:
        """Make the next segment's file. Crash: leaves a spare with a header, or a segment without records."""
        spare = await self.spares.take()
        header = SegmentHeader(
            self.timeline, chunk.number, chunk.start_lsn, self._system_id, chunk.prev_checksum, self.segment_size
        )  # fmt: skip
        file = await self._disk.open(spare)
        await self._write(file, 0, encode_segment_header(header))
        await file.sync()
        await file.close()
        path = f"{self.directory}/{segment_name(self.timeline, chunk.number)}"
        await self._disk.rename(spare, path)
        await self._disk.sync_dir(self.directory)
        self._file = await self._disk.open(path)
        self._file_number, self._file_start_lsn = chunk.number, chunk.start_lsn
        self._kept.add(chunk.number, chunk.start_lsn)
        self._events.emit("wal.segment_opened", number=chunk.number, lsn=chunk.start_lsn)
        await self.on_new_segment(chunk.number)  # F5

    async def _close_segment(self, file: File, chunk: Chunk) -> None:
        await file.truncate(SEGMENT_HEADER_SIZE + chunk.end_lsn - self._file_start_lsn)
        await file.sync()
        await file.close()
        self._file = None
        self._events.emit("wal.segment_closed", number=chunk.number, lsn=chunk.end_lsn)

    async def remove_below(self, lsn: int, keep: int | None = None) -> int:
        """Recycle or remove each segment that ends at or below `lsn`, oldest first; return how many went.

        Segments are recycled until there are `keep` spares: by default as many as were used since the last call, so that a
        steady load never fills a new file. The caller answers for W7.
        Crash: some are gone and some are not; only a suffix without a gap is the log.
        """
        self._check_running()
        return await self._kept.remove_below(lsn, keep)

    # -- reading back ------------------------------------------------------------------------------------------------------

    def try_read(self, lsn: int) -> Record | None:
        """Return the record at `lsn` if it is in memory."""
        chunk = self._recent.find(lsn)
        return None if chunk is None else decode_record(chunk.buffer, lsn - chunk.start_lsn, lsn)

    async def read_record(self, lsn: int) -> Record:
        """Return the record at `lsn`, from memory or from its segment.

        Raises: LogGone if it was removed, Corruption if it is not what was written (or no record begins there).
        """
        record = self.try_read(lsn)
        return record if record is not None else await self._kept.read(lsn)

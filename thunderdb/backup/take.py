"""Taking a backup of a running database.

    hold the log ─▶ checkpoint ─▶ page files ─▶ flush: end_lsn ─▶ log [keep_lsn, end_lsn) ─▶ control, configuration ─▶
    everything durable ─▶ manifest ─▶ publish ─▶ let go of the log

B1. No log that a restore of this backup needs is removed while it is taken: the hold comes before the checkpoint.
B2. end_lsn is taken after the last page was read, and no page at or above it is in the backup; so with the log up to there,
    and with no less, the pages are consistent.
B3. The number of pages is taken in the same step as end_lsn: files grow before an allocation is logged, so every page that this
    log names is there. Those beyond what was read are zeros, for their whole history is in this log.
B4. Every page and every record is checked while it is copied. What is damaged and cannot be repaired fails the backup.
B5. A failure, or `Progress.cancel`, removes what this backup wrote and nothing else. The database is never harmed by it.
B7. Whoever works with the database goes first: while there are commits, the backup rests after each piece for PAUSE times as
    long as the piece took, so that it takes a share of the machine, not all of it.
B6. (incremental) A page is taken if its page_lsn is at or above the *redo_lsn* of the base: all older changes were on disk when
    the base was copied. The base lies before every fork in this timeline's history, and is known to be of this very history.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Protocol

from thunderdb.backup import incremental
from thunderdb.backup.frames import READ_BYTES, FileCipher, FrameWriter
from thunderdb.backup.log import LogCopy, read_log
from thunderdb.backup.manifest import (
    FULL,
    INCREMENTAL,
    Base,
    FileEntry,
    Manifest,
    encode_manifest,
    sealed,
)
from thunderdb.backup.pages import PageReader
from thunderdb.backup.place import Destination, check_not_inside, open_destination
from thunderdb.base.errors import NodeStopped, Refused, ThunderError
from thunderdb.engine.database import Database
from thunderdb.recovery.checkpoint import Done
from thunderdb.runtime.ports import Ports
from thunderdb.runtime.sync import Task
from thunderdb.storage.control import FILE_SIZE, SLOT_OFFSETS, ControlState, DatabaseState, encode_slot
from thunderdb.storage.layout import CONTROL_FILE
from thunderdb.wal.timeline import Fork, history_name, parse_history

CONFIG_NAME = "thunderdb.toml"
IDENTITY_FILE = "identity"
CONTROL_BYTES = 16 << 10
POLL_NS = 200_000_000
PAUSE = 1.0
MAX_PAUSE_NS = 250_000_000


class BackupCancelled(ThunderError):
    """The backup was cancelled; nothing is left of it."""

    sqlstate = "57014"

    def __init__(self, message: str = "cancelled", hint: str = "") -> None:
        super().__init__(message, hint)


class LogArchive(Protocol):
    """What a backup without log asks of the archiver."""

    async def switch(self) -> int: ...

    async def wait_archived(self, lsn: int) -> None: ...


@dataclass(frozen=True, slots=True)
class BackupRequest:
    """What is asked for. `base`: the place of the backup that an incremental one stands on. `rate_limit`: bytes a second."""

    destination: str
    include_wal: bool = True
    compress: bool = False
    type: str = FULL
    label: str = "manual"
    base: str | None = None
    rate_limit: int | None = None


@dataclass(slots=True)
class Progress:
    """How far it is, for whoever looks on; and the way to stop it. Bytes are those read of pages and log."""

    bytes_done: int = 0
    bytes_total: int = 0
    stored_bytes: int = 0
    phase: str = "started"
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True

    def check(self) -> None:
        if self.cancelled:
            raise BackupCancelled()

    @property
    def share(self) -> float:
        """From 0 to 1, and 1 only at the end."""
        if self.phase == "completed":
            return 1.0
        return min(0.999, self.bytes_done / self.bytes_total) if self.bytes_total else 0.0


def estimate_bytes(db: Database) -> int:
    """About how many bytes a full backup of the database reads."""
    last = db.checkpointer.last
    log_bytes = db.log.next_lsn - max(db.log.oldest_lsn, last.keep_lsn if last else 0)
    return db.files.page_count * db.files.page_size + log_bytes + CONTROL_BYTES


async def take_backup(
    db: Database, ports: Ports, request: BackupRequest, *, backup_id: str, cipher: FileCipher | None = None,
    archiver: LogArchive | None = None, progress: Progress | None = None, config_text: str = "",
    known: frozenset[str] = frozenset(),
) -> Manifest:  # fmt: skip
    """Take a backup and return its manifest. `known`: checksums of the manifests that this database made itself.

    Raises: Refused (before anything is written), BackupCancelled, Corruption, DiskFull, StorageError, NodeStopped.
    Durable and complete when: it returns. Crash: an unfinished one is never taken for a backup (place.P1).
    """
    backup = Backup(
        db, ports, request, backup_id, cipher, archiver, progress or Progress(), config_text,
        open_destination(ports, request.destination, db.config.store_requests),
    )  # fmt: skip
    await backup.prepare(known)
    return await backup.run()


@dataclass(slots=True)
class Backup:
    """One backup: `prepare`, which writes nothing, then `run`."""

    db: Database
    ports: Ports
    request: BackupRequest
    backup_id: str
    cipher: FileCipher | None
    archiver: LogArchive | None
    progress: Progress
    config_text: str
    destination: Destination
    base: Base | None = None
    history: tuple[Fork, ...] = ()
    entries: list[FileEntry] = field(default_factory=list)
    open_writer: FrameWriter | None = None
    began_ns: int = 0
    paced_bytes: int = 0
    piece_ns: int = 0
    commits: int = 0
    left_over: bool = False

    async def prepare(self, known: frozenset[str]) -> None:
        """Everything that can refuse, before a byte is written. Raises: Refused, DiskFull."""
        request = self.request
        if request.type not in (FULL, INCREMENTAL):
            raise Refused(f"there is no backup of type {request.type!r}", f'The types are "{FULL}" and "{INCREMENTAL}".')
        if not request.include_wal and self.archiver is None:
            raise Refused(
                "a backup without log (include_wal false) needs the log archive, which is not enabled",
                "Set wal_archive_enabled = true and wal_archive_dir, or include the log.",
            )
        self.history = await self._history()
        if request.type == INCREMENTAL:
            if not request.base:
                raise Refused("there is no backup that an incremental one could stand on", "Take a full backup first.")
            base = await incremental.read_base(self.ports, request.base)
            await incremental.check_base(self.db, base, self.history, known)
            await incremental.check_neighbour(self.ports, request.base, base, request.destination)
            self.base = Base(base.backup_id, base.checksum, base.redo_lsn)
        estimate = estimate_bytes(self.db)
        self.progress.bytes_total = estimate
        exact = not request.compress and self.base is None
        await check_not_inside(self.ports, request.destination)
        await self.destination.check(estimate if exact else 0)

    async def run(self) -> Manifest:
        """Raises: as `take_backup`."""
        hold = f"backup:{self.backup_id}"
        holds = self.db.checkpointer.holds
        holds[hold] = self.db.log.oldest_lsn  # B1
        try:
            await self.destination.begin(self.backup_id)
            return await self._write(hold)
        except Exception:
            await self._give_up()
            raise
        finally:
            holds.pop(hold, None)

    async def _write(self, hold: str) -> Manifest:
        db, progress = self.db, self.progress
        started_us = self.ports.clock.wall_ns() // 1000
        self.began_ns = self.ports.clock.monotonic_ns()
        done = await db.checkpointer.run()
        start_lsn = max(done.keep_lsn, db.log.oldest_lsn)
        db.checkpointer.holds[hold] = start_lsn
        progress.phase = "pages"
        progress.bytes_total = db.files.page_count * db.files.page_size + db.log.next_lsn - start_lsn
        pages = await self._copy_pages(done.redo_lsn)
        await db.log.flush_all()
        end_lsn, page_count = int(db.log.flushed_lsn), db.files.page_count  # B2, B3
        state = db.control.state
        await pages.fill(page_count)
        progress.phase = "log"
        log = await self._copy_log(start_lsn, end_lsn, done)
        await self._copy_rest(state, done, end_lsn, log)
        if self.archiver is not None and not self.request.include_wal:
            progress.phase = "archive"
            await self._wait(self.ports.tasks.spawn(_archived(self.archiver, end_lsn), "backup.archive"))
        encryption = None if self.cipher is None else {"key_id": self.cipher.key_id}
        manifest = sealed(
            Manifest(
                self.backup_id, self.request.type, self.request.label, state.system_id, await self._instance(), state.timeline,
                state.page_size, db.files.pages_per_file, log.segment_size, started_us, self.ports.clock.wall_ns() // 1000,
                done.begin_lsn, done.redo_lsn, done.keep_lsn, start_lsn, end_lsn, log.end_checksum, log.end_time_us, page_count,
                self.request.include_wal, self.request.compress, encryption,
                self.base, self.history, tuple(sorted(self.entries, key=lambda entry: entry.path)),
            )
        )  # fmt: skip
        self._check()
        await self._check_base()
        await self.destination.publish(encode_manifest(manifest))
        progress.phase = "completed"
        return manifest

    async def _check_base(self) -> None:
        """What it stands on must still be there. Raises: Refused (retention has removed it meanwhile, or somebody by hand)."""
        if self.base is None or not self.request.base:
            return
        base = await incremental.read_base(self.ports, self.request.base)
        if base.checksum != self.base.manifest_checksum:
            raise Refused(f"the base {self.base.backup_id} is not the one that it was at the start", "Take a full backup.")
        await incremental.check_neighbour(self.ports, self.request.base, base, self.request.destination)

    async def _give_up(self) -> None:
        """B5. Trouble in this is worth an event, not more: the reason why it was given up counts."""
        if self.open_writer is not None:
            try:
                await self.open_writer.abort()
            except (ThunderError, OSError):
                pass  # what counts is that nothing is left, and that comes next
        try:
            await self.destination.abandon()
        except (ThunderError, OSError) as error:
            self.left_over = True
            self.db.events.emit("backup.left_over", place=self.destination.place, error=str(error))

    # -- Files

    async def begin(self, path: str, compress: bool | None = None) -> FrameWriter:
        """A new file of the backup."""
        compress = self.request.compress if compress is None else compress
        name = FrameWriter.name_of(path, compress, self.cipher)
        self.open_writer = FrameWriter(
            self.ports, await self.destination.writer(name), path, compress, self.cipher, self._stored
        )  # fmt: skip
        return self.open_writer

    async def end(self, writer: FrameWriter, pages: int | None = None) -> None:
        entry = await writer.finish(pages)
        self.open_writer = None
        self.entries.append(entry)

    async def put(self, path: str, data: bytes) -> None:
        """A small file, never compressed."""
        writer = await self.begin(path, compress=False)
        await writer.write(data)
        await self.end(writer)

    def _stored(self, size: int) -> None:
        self.progress.stored_bytes += size

    async def copied(self, size: int) -> None:
        """After each piece: count it, let others work, keep to the rate limit, and stop if that is asked for."""
        clock, tasks = self.ports.clock, self.ports.tasks
        self.progress.bytes_done += size
        self.paced_bytes += size
        await tasks.work("backup.copy", max(1, size // self.db.files.page_size))
        self._check()
        now_ns = clock.monotonic_ns()
        due_ns = now_ns
        commits, self.commits = self.commits, self.db.manager.commits
        if commits != self.commits and self.piece_ns:
            due_ns += min(MAX_PAUSE_NS, int(PAUSE * (now_ns - self.piece_ns)))  # B7
        if self.request.rate_limit:
            due_ns = max(due_ns, self.began_ns + self.paced_bytes * 1_000_000_000 // self.request.rate_limit)
        while now_ns < due_ns:
            await tasks.sleep(min(POLL_NS, due_ns - now_ns))
            self._check()
            now_ns = clock.monotonic_ns()
        self.piece_ns = now_ns

    def _check(self) -> None:
        self.progress.check()
        if self.db.failure is not None or self.db.closing:
            raise NodeStopped("the database was shut down while the backup was taken")

    async def _wait(self, task: Task[None]) -> None:
        """Await a task that may take long, and stop waiting when told to."""
        while not task.done():
            try:
                await self.ports.tasks.wait_for(task, POLL_NS)
            except TimeoutError:
                try:
                    self._check()
                except ThunderError:
                    task.cancel()
                    raise
        await task

    # -- Parts

    async def _copy_pages(self, redo_lsn: int) -> incremental.PageSink:
        db = self.db
        reader = PageReader(db, redo_lsn)
        since_lsn = None if self.base is None else self.base.redo_lsn
        sink = incremental.PageSink(self, db.files.page_size, db.files.pages_per_file, db.control.state.system_id, since_lsn)
        page_no, chunk = 0, max(1, READ_BYTES // db.files.page_size)
        while page_no < db.files.page_count:
            data = await reader.read(page_no, chunk)
            await sink.add(page_no, data)
            page_no += len(data) // db.files.page_size
            self.progress.bytes_total = max(self.progress.bytes_total, self.progress.bytes_done + len(data))
            await self.copied(len(data))
        return sink

    async def _copy_log(self, start_lsn: int, end_lsn: int, done: Done) -> LogCopy:
        db = self.db
        copy = LogCopy(db.control.state.system_id, db.log.timeline, start_lsn, end_lsn, done.begin_lsn)
        async for name, data in read_log(db, copy):
            if self.request.include_wal:
                writer = await self.begin(f"wal/{name}")
                for at in range(0, len(data), READ_BYTES):
                    await writer.write(data[at : at + READ_BYTES])
                await self.end(writer)
            await self.copied(len(data))
        copy.finish()
        return copy

    async def _copy_rest(self, state: ControlState, done: Done, end_lsn: int, log: LogCopy) -> None:
        backup_state = replace(
            state, state=DatabaseState.BACKUP, checkpoint_lsn=done.begin_lsn, redo_lsn=done.redo_lsn, sequence=1,
            newest_segment=log.newest_segment, wal_end_lsn=end_lsn, copy_floors=(),
        )  # fmt: skip
        image = bytearray(FILE_SIZE)
        for offset in SLOT_OFFSETS:
            slot = encode_slot(backup_state)
            image[offset : offset + len(slot)] = slot
        await self.put(f"data/{CONTROL_FILE}", bytes(image))
        for name, text in await self._histories():
            await self.put(f"wal/{name}", text)
        await self.put(CONFIG_NAME, self.config_text.encode())

    async def _histories(self) -> list[tuple[str, bytes]]:
        """The history file of the timeline, if it has one."""
        name = history_name(self.db.log.timeline)
        try:
            return [(name, await self.ports.disk.read_file(f"{self.db.config.wal_dir}/{name}"))]
        except FileNotFoundError:
            return []

    async def _history(self) -> tuple[Fork, ...]:
        forks: tuple[Fork, ...] = ()
        for _name, text in await self._histories():
            forks = parse_history(text.decode(errors="replace"), self.db.log.timeline)
        return forks

    async def _instance(self) -> str:
        """The instance that made it (archive/identity.py); empty where none has been given yet."""
        try:
            document = json.loads(await self.ports.disk.read_file(f"{self.db.config.data_dir}/{IDENTITY_FILE}"))
        except (FileNotFoundError, ValueError):
            return ""
        return str(document.get("instance", "")) if isinstance(document, dict) else ""



async def _archived(archiver: LogArchive, end_lsn: int) -> None:
    """Wait until the archive has the log up to there."""
    await archiver.switch()
    await archiver.wait_archived(end_lsn)

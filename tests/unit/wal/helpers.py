"""A log on a disk in memory, and the few lines that every test of the log needs."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from tests.unit.wal.crash_disk import CrashDisk
from thunderdb.base.events import Events
from thunderdb.base.ids import FIRST_LSN
from thunderdb.runtime.inline import InlineClock, InlineScheduler
from thunderdb.runtime.sync import Tasks
from thunderdb.wal.reader import LogEnd, LogReader, create_log
from thunderdb.wal.record import RecordKind, decode_record
from thunderdb.wal.writer import LogWriter

SYSTEM_ID = 0x5EED
SEGMENT_SIZE = 8192


class Log:
    """One process's life with a log: scheduler, disk, writer, and the control file's newest segment."""

    def __init__(
        self, disk: CrashDisk | None = None, newest: int = 1, segment_size: int = SEGMENT_SIZE, **options: Any
    ) -> None:
        self.scheduler = InlineScheduler()
        self.tasks = Tasks(self.scheduler)
        self.disk = disk if disk is not None else CrashDisk()
        self.disk.tasks = self.tasks
        self.newest = newest
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.fatal: list[Exception] = []
        self.appended: dict[int, bytes] = {}
        events = Events()
        events.subscribe(lambda name, fields: self.events.append((name, dict(fields))))
        self.segment_size = segment_size
        self.writer = LogWriter(
            self.tasks, InlineClock(self.scheduler), self.disk, "wal", events, segment_size=segment_size, system_id=SYSTEM_ID,
            on_new_segment=self.name_segment, on_fatal=self.fatal.append, **options,
        )  # fmt: skip

    async def name_segment(self, number: int) -> None:
        await self.disk.step(f"control names {number}")
        self.newest = number

    def run(self, coro: Coroutine[Any, Any, Any]) -> Any:
        return self.scheduler.run(coro)

    async def create(self) -> LogEnd:
        end = await create_log(self.disk, "wal", SYSTEM_ID, self.segment_size)
        await self.writer.resume(end)
        return end

    async def reader(self) -> LogReader:
        reader = LogReader(self.disk, "wal", SYSTEM_ID)
        await reader.load()
        return reader

    async def recover(self, from_lsn: int = FIRST_LSN, floor: bool = False) -> LogEnd:
        """What restart does with the log. Raises: LogHole."""
        reader = await self.reader()
        end = await reader.find_end(from_lsn, newest_segment=self.newest, floor=floor)
        end.check()
        await reader.rewrite(end)
        await reader.prepare_tail(end)
        await self.writer.resume(end)
        return end

    def add(self, payload: bytes, page_no: int = 7) -> int:
        lsn = self.writer.append(RecordKind.ROW, 1, 0, ((page_no, 0, 1, payload),))
        self.appended[lsn] = payload
        return lsn

    async def records(self, from_lsn: int = FIRST_LSN, until_lsn: int | None = None) -> dict[int, bytes]:
        """Row payloads by LSN, as a scan finds them."""
        reader = await self.reader()
        found = {}
        async for segment in reader.scan(from_lsn, newest_segment=self.newest, until_lsn=until_lsn):
            for header in segment:
                record = decode_record(segment.data, header[5] + segment.bias)
                if record.kind == RecordKind.ROW:
                    found[record.lsn] = record.changes[0].payload
        return found


def inline(coro: Coroutine[Any, Any, Any]) -> Any:
    return InlineScheduler().run(coro)


def bare_disk(files: dict[str, bytes]) -> CrashDisk:
    """A disk without scheduler that holds these files durably."""
    disk = CrashDisk()
    for name, data in files.items():
        inode_file = inline(disk.open(f"wal/{name}", create=True))
        inode_file.inode.cached[:] = data
        inode_file.inode.durable[:] = data
    disk.durable_names = dict(disk.names)
    disk.pending_names.clear()
    return disk


def find_end(files: dict[str, bytes], newest: int = 0, from_lsn: int = FIRST_LSN, floor: bool = False) -> LogEnd:
    async def find() -> LogEnd:
        reader = LogReader(bare_disk(files), "wal", SYSTEM_ID)
        await reader.load()
        return await reader.find_end(from_lsn, newest_segment=newest, floor=floor)

    end: LogEnd = inline(find())
    return end


def build(script: Callable[[Log], Coroutine[Any, Any, Any]], **options: Any) -> tuple[Log, dict[str, bytes]]:
    """Run a script on a new log and return the log with the files that it left, spares left out."""
    log = Log(**options)

    async def all_of_it() -> None:
        await log.create()
        await script(log)

    log.run(all_of_it())
    files = {name.removeprefix("wal/"): bytes(inode.cached) for name, inode in log.disk.names.items() if "spare" not in name}
    return log, files

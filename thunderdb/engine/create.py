"""Making a new database, and telling whether there is one.

    marker, naming the database to be ─▶ first log segment ─▶ pages ─▶ control file ─▶ checkpoint ─▶ CLEAN ─▶ no marker

C1. A missing or empty data directory *and* log directory make a new database; exactly one of them empty is refused.
C2. The marker is there as long as it is being made, so that a crash in it starts over instead of looking like damage.
C3. Starting over removes what that first start has made, and nothing else: somebody may have put another wal_dir into the
    configuration meanwhile, with another database's log in it.
"""

from __future__ import annotations

from thunderdb.access.apply import PageOp, image_payload
from thunderdb.access.context import Access
from thunderdb.access.garbage import GARBAGE_ROOT
from thunderdb.base.config import Config
from thunderdb.base.errors import Corruption, Refused
from thunderdb.base.events import Events
from thunderdb.base.ids import FIRST_LSN
from thunderdb.engine.catalog import CATALOG_ROOT
from thunderdb.recovery.checkpoint import Checkpointer
from thunderdb.runtime.ports import Disk, Ports
from thunderdb.storage.control import ControlFile, ControlState, DatabaseState
from thunderdb.storage.files import PageFiles, page_file_name
from thunderdb.storage.layout import CONTROL_FILE, LOCK_FILE, LOST_AND_FOUND, MARKER_FILE, RESTORE_MARKER
from thunderdb.storage.page import PAGE_HEADER_SIZE, PageKind
from thunderdb.storage.pool import BufferPool
from thunderdb.storage.spacemap import format_map, set_allocated
from thunderdb.storage.written import WrittenFile, written_file_names
from thunderdb.wal.reader import create_log
from thunderdb.wal.record import RecordKind
from thunderdb.wal.segment import SEGMENT_HEADER_SIZE, decode_segment_header, parse_spare_name, segment_name
from thunderdb.wal.writer import LogWriter

FIRST_PAGES = 64
_OURS = frozenset((MARKER_FILE, CONTROL_FILE, page_file_name(0), *written_file_names()))
_FIRST_SEGMENT = segment_name(1, 1)


async def is_new(disk: Disk, config: Config) -> bool:
    """Whether a database is to be made. Raises: Refused (C1, C3)."""
    data = [name for name in await disk.list(config.data_dir) if name not in (LOCK_FILE, LOST_AND_FOUND)]
    wal = [name for name in await disk.list(config.wal_dir) if name != LOST_AND_FOUND]
    if MARKER_FILE in data:
        await _start_over(disk, config, data, wal)
        return True
    if not data and not wal:
        return True
    if RESTORE_MARKER in data and (not wal or CONTROL_FILE not in data):
        raise restore_goes_on(config)
    if not data or not wal:
        empty, full = (config.data_dir, config.wal_dir) if not data else (config.wal_dir, config.data_dir)
        raise Refused(
            f"{empty} is empty, but {full} is not: it is probably a disk that is not mounted",
            "Mount it, or restore the missing directory from a backup; to start anew, empty both.",
        )
    if CONTROL_FILE not in data:
        raise Refused(f"{config.data_dir} is not a ThunderDB data directory: it has no control file", "Check data_dir.")
    return False


async def _start_over(disk: Disk, config: Config, data: list[str], wal: list[str]) -> None:
    """C3: what an interrupted first start has left goes. Raises: Refused, with nothing removed."""
    text = await disk.read_file(f"{config.data_dir}/{MARKER_FILE}")
    for directory, names in ((config.data_dir, data), (config.wal_dir, wal)):
        for name in names:
            ours = name in _OURS if directory == config.data_dir else await _is_first_log(disk, directory, name, text)
            if not ours:
                raise Refused(
                    f"a first start in {config.data_dir} was interrupted, and {directory}/{name} is not what it left there",
                    "Nothing was removed. Check data_dir and wal_dir; if neither holds anything that you need, empty both.",
                )
    for directory, names in ((config.data_dir, data), (config.wal_dir, wal)):
        for name in names:
            if name != MARKER_FILE:
                await disk.unlink(f"{directory}/{name}")
    await disk.sync_dir(config.wal_dir)  # or a power cut brings the old segment back, beside a marker that names another


async def _is_first_log(disk: Disk, directory: str, name: str, marker: bytes) -> bool:
    """Whether this is a spare, or the first segment of the database that the marker names (or not even that was written)."""
    if name != _FIRST_SEGMENT:
        return parse_spare_name(name) is not None
    file = await disk.open(f"{directory}/{name}", writable=False)
    header = await file.read(0, SEGMENT_HEADER_SIZE)
    await file.close()
    if not any(header):
        return True  # a disk that lies about its syncs has lost it
    try:
        decode_segment_header(header, 1, 1, int(marker or b"0", 16))
    except (Corruption, ValueError):
        return False
    return True


def restore_goes_on(config: Config) -> Refused:
    return Refused(f"a restore into {config.data_dir} has not ended", "Run the same --restore-pitr command again; it goes on.")


async def create(ports: Ports, config: Config, events: Events, log_writer: type[LogWriter]) -> None:
    """Make an empty database: space map, catalog and garbage trees, and its first log."""
    disk, tasks = ports.disk, ports.tasks
    system_id = ports.random.bits(63) | 1
    marker = await disk.open(f"{config.data_dir}/{MARKER_FILE}", create=True)
    await marker.write(0, b"%016x\n" % system_id)
    await marker.sync()
    await marker.close()
    await disk.sync_dir(config.data_dir)
    end = await create_log(disk, config.wal_dir, system_id, config.wal_segment_size, start_lsn=FIRST_LSN)
    log = log_writer(
        tasks, ports.clock, disk, config.wal_dir, events,
        segment_size=config.wal_segment_size, system_id=system_id, seal_after_ns=0,
    )  # fmt: skip
    await log.resume(end)
    files = PageFiles(tasks, disk, config.data_dir, config.page_size)
    await files.open()
    await files.grow(FIRST_PAGES)
    pool = BufferPool(tasks, files, config.buffer_pool_size, config.page_size, log, events)
    access = Access(tasks, pool, log, files, config.page_size)
    _first_pages(access)
    control = ControlFile(tasks, disk, f"{config.data_dir}/{CONTROL_FILE}", events)
    await control.create(
        ControlState(
            system_id, config.page_size, config.wal_segment_size, 1, newest_segment=end.header.number,
            created_wall_ns=ports.clock.wall_ns(),
        )  # fmt: skip
    )
    written = WrittenFile(disk, config.data_dir, system_id, events)
    checkpointer = Checkpointer(access, control, written, ports.clock, events, list, lambda: (1, 0), lambda: 0)
    await checkpointer.run(flush_all=True)
    await log.close()
    await files.close()
    await control.update(state=DatabaseState.CLEAN, wal_end_lsn=log.flushed_lsn)
    await control.close()
    await disk.unlink(f"{config.data_dir}/{MARKER_FILE}")
    await disk.sync_dir(config.data_dir)


def _first_pages(access: Access) -> None:
    pool = access.pool
    space_map = pool.create(0, PageKind.MAP)
    format_map(space_map)
    for page_no in (CATALOG_ROOT, GARBAGE_ROOT):
        set_allocated(space_map, page_no)
    pages = [space_map]
    for root in (CATALOG_ROOT, GARBAGE_ROOT):
        page = pool.create(root, PageKind.LEAF)
        page.tree, page.used = root, PAGE_HEADER_SIZE
        pages.append(page)
    access.change(RecordKind.STRUCT, [(page, PageOp.IMAGE, image_payload(page, access.page_size)) for page in pages])

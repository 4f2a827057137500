"""Verifying a copy made by hand (checkpoint, copy of data/, copy of wal/): pages and log, with no manifest to compare with.

What is checked is what a start from the copy will rely on:

H1. The control file has a valid slot, and says that somebody kept the log while the copy was made (a copy floor), or that the
    database was shut down.
H2. Every page is right, or has an image in the log from which a start rebuilds it: files are copied while they are written, so
    a torn page is no damage. Zeros count as right where the space map says that nobody owns the page.
H3. The log holds the oldest floor's checkpoint whole, has no gap from there on, and reaches behind the page_lsn of every page.
    A break in it is its end only in the last segment, which was written while it was copied; what looks like a record there and
    is none, with valid ones behind it, is a problem: copied at a bad moment or damaged, nobody can tell.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from thunderdb.access.apply import PageOp
from thunderdb.backup.pages import bad_pages, is_zero, owned, page_lsn_of, what_is_wrong
from thunderdb.backup.verify_report import VerifyReport
from thunderdb.base.errors import Corruption, Refused, StorageError, ThunderError
from thunderdb.base.ids import format_lsn
from thunderdb.runtime.ports import ObjectStore, Ports
from thunderdb.storage.control import SLOT_OFFSETS, SLOT_SIZE, ControlState, DatabaseState, decode_slot
from thunderdb.storage.files import FILE_LIMIT, page_file_name
from thunderdb.storage.page import Page, PageCorruption, decode_page
from thunderdb.storage.spacemap import is_allocated, is_map_page, map_page_of
from thunderdb.wal.record import H_KIND, H_LSN, H_PAGE_COUNT, Header, RecordKind, extra_of, iter_changes
from thunderdb.wal.segment import (
    SEGMENT_HEADER_SIZE,
    SegmentHeader,
    SegmentScan,
    decode_segment_header,
    find_behind,
    parse_segment_name,
    segment_name,
)

READ_BYTES = 1 << 20
_BATCH = 1000


@dataclass(slots=True)
class _Pages:
    """What reading the pages told. `doubtful`: page -> (file, what is wrong), to be settled by the log (H2)."""

    newest_lsn: int = 0
    newest_page: int = 0
    newest_file: str = ""
    doubtful: dict[int, tuple[str, str]] = field(default_factory=dict)
    zeros: list[tuple[int, str]] = field(default_factory=list)
    maps: dict[int, Page] = field(default_factory=dict)


async def verify_copy(ports: Ports, store: ObjectStore, listed: dict[str, int], report: VerifyReport) -> None:
    """Verify the copy in `store`, filling `report`."""
    report.notes.append("no manifest")
    state = await _control(store, report)
    if state is None:
        return
    pages = await _read_pages(ports, store, listed, state, report)
    log = _Log(ports, store, listed, state, report)
    began_ns = ports.clock.monotonic_ns()
    await log.check()
    report.log_ns += ports.clock.monotonic_ns() - began_ns
    if log.end_lsn:
        report.end_lsn = log.end_lsn
        if pages.newest_lsn >= log.end_lsn:
            text = f"the log ends at {format_lsn(log.end_lsn)}, before the newest page: the copy is not complete"
            report.problem(pages.newest_file, text, pages.newest_page, pages.newest_lsn)
        if pages.doubtful:
            before = len(pages.doubtful)
            await log.forget_rebuilt(pages.doubtful)
            report.notes.append(f"{before - len(pages.doubtful)} pages will be rebuilt from their images in the log")
    for page_no, (path, trouble) in sorted(pages.doubtful.items()):
        report.problem(path, f"{trouble}, and the log has no image of it", page_no)


async def _control(store: ObjectStore, report: VerifyReport) -> ControlState | None:
    """H1."""
    path = "data/control"
    try:
        image = await store.get(path)
    except (FileNotFoundError, NotADirectoryError):
        report.problem(path, "missing: this is neither a backup nor a copy of a database")
        return None
    except ThunderError as error:
        report.problem(path, f"cannot be read: {error}")
        return None
    slots = []
    for slot, offset in enumerate(SLOT_OFFSETS):
        try:
            slots.append(decode_slot(image[offset : offset + SLOT_SIZE]))
        except (ValueError, Refused) as error:
            report.notes.append(f"{path}: slot {slot} is bad ({error})")
    if not slots:
        report.problem(path, "both slots are bad")
        return None
    state = max(slots, key=lambda found: found.sequence)
    if state.state == DatabaseState.BACKUP:
        report.problem(path, "it is of a backup, but the manifest is missing: the backup is unfinished or damaged")
    elif state.state in (DatabaseState.CREATING, DatabaseState.RESTORING):
        report.problem(path, "the database was being made or restored when it was copied")
    elif state.state == DatabaseState.RUNNING and not state.copy_floors:
        report.problem(path, "nothing kept the log while the copy was made: begin with a checkpoint (POST /admin/checkpoint)")
    return state


async def _read_pages(
    ports: Ports, store: ObjectStore, listed: dict[str, int], state: ControlState, report: VerifyReport
) -> _Pages:
    found, size = _Pages(), state.page_size
    pages_per_file = FILE_LIMIT // size
    paths = sorted(path for path in listed if path.startswith("data/pages."))
    if not paths:
        report.problem("data", "there are no page files")
    for number, path in enumerate(paths):
        if path != f"data/{page_file_name(number)}":
            report.problem(f"data/{page_file_name(number)}", "missing")
            return found
        if number + 1 < len(paths) and listed[path] != pages_per_file * size:
            report.problem(path, f"{listed[path]} bytes instead of {pages_per_file * size}, though it is not the last file")
        await _read_file(ports, store, path, listed[path], size, number * pages_per_file, found, report)
    for page_no, path in found.zeros:
        if _is_owned(found, page_no, size):
            found.doubtful[page_no] = (path, "all zeros")
    return found


async def _read_file(
    ports: Ports, store: ObjectStore, path: str, file_size: int, size: int, first_page: int, found: _Pages, report: VerifyReport
) -> None:
    step = max(1, READ_BYTES // size) * size
    for at in range(0, file_size - file_size % size, step):
        page_no = first_page + at // size
        try:
            data = await store.get_range(path, at, min(step, file_size - file_size % size - at))
        except (StorageError, FileNotFoundError) as error:
            report.problem(path, f"cannot be read: {error}", page_no)
            continue
        bad = bad_pages(data, page_no, size)
        for number in bad:
            image = data[(number - page_no) * size : (number - page_no + 1) * size]
            if is_zero(image):
                found.zeros.append((number, path))
            else:
                found.doubtful[number] = (path, what_is_wrong(image, number, size))
        _note_good(found, data, page_no, size, frozenset(bad), path)
        report.data_pages += len(data) // size
        report.bytes_read += len(data)
        await ports.tasks.work("backup.verify", len(data) // size)


def _note_good(found: _Pages, data: bytes, first_page: int, size: int, bad: frozenset[int], path: str) -> None:
    for index in range(len(data) // size):
        page_no = first_page + index
        if page_no in bad:
            continue
        lsn = page_lsn_of(data, index * size)
        if lsn > found.newest_lsn:
            found.newest_lsn, found.newest_page, found.newest_file = lsn, page_no, path
        if is_map_page(page_no, size):
            try:
                found.maps[page_no] = decode_page(data[index * size : (index + 1) * size], page_no, size)
            except PageCorruption as error:
                found.doubtful[page_no] = (path, error.message)


def _is_owned(found: _Pages, page_no: int, page_size: int) -> bool:
    """As the copied maps say; where a map is not right itself, nobody can tell, and the log settles it."""

    def bit(number: int) -> bool:
        page = found.maps.get(map_page_of(number, page_size))
        return page is not None and is_allocated(page, number)

    return owned(page_no, page_size, bit)


class _Log:
    """The log of a copy (H3). `end_lsn` is 0 until it was found to have an end."""

    def __init__(
        self, ports: Ports, store: ObjectStore, listed: dict[str, int], state: ControlState, report: VerifyReport
    ) -> None:
        self.end_lsn = 0
        self._ports = ports
        self._store = store
        self._state = state
        self._report = report
        self._sizes: dict[int, int] = {}
        for path, size in listed.items():
            parsed = parse_segment_name(path.removeprefix("wal/")) if path.startswith("wal/") else None
            if parsed is not None and parsed[0] == state.timeline:
                self._sizes[parsed[1]] = size
        floors = state.copy_floors
        self._floor = bool(floors)
        self._checkpoint_lsn = min([state.checkpoint_lsn, *(floor.checkpoint_lsn for floor in floors)])
        self._keep_lsn = min([state.redo_lsn, self._checkpoint_lsn, *(floor.redo_lsn for floor in floors)])
        self._used: list[int] = []
        self._complete = False

    def path(self, number: int) -> str:
        return f"wal/{segment_name(self._state.timeline, number)}"

    async def check(self) -> None:
        headers = await self._headers()
        first = max((number for number, header in headers.items() if header.start_lsn <= self._keep_lsn), default=0)
        if not first:
            self._report.problem("wal", "no segment holds the place where the log has to begin", lsn=self._keep_lsn)
            return
        number = first
        before: SegmentScan | None = None
        while True:
            scan = await self._scan(number, headers[number])
            if before is not None and (before.lsn, before.prev_checksum) != (scan.header.start_lsn, scan.header.prev_checksum):
                self._report.problem(self.path(number), "it does not continue the segment before it", lsn=before.lsn)
                return
            self._used.append(number)
            self._report.wal_segments += 1
            await self._read(scan)
            self._report.log_bytes += scan.lsn - scan.header.start_lsn
            before = scan
            if not scan.closed or number + 1 not in headers:
                break
            number += 1
        self._finish(before, headers)

    def _finish(self, last: SegmentScan | None, headers: dict[int, SegmentHeader]) -> None:
        if last is None:
            return
        report, number = self._report, last.header.number
        self.end_lsn = last.lsn
        later = sorted(other for other in self._sizes if other > number)
        why = last.why_it_ends()
        if later and (not self._floor or later[0] in headers):
            report.problem(self.path(later[0]), f"the log breaks before it: {why}", lsn=last.lsn)
        elif not self._floor and self._state.newest_segment > number:
            report.problem(self.path(self._state.newest_segment), "missing; the control file names it", lsn=last.lsn)
        elif not (self._floor and why == "zeros") and find_behind(last.data, last.header.start_lsn, last.lsn) is not None:
            report.problem(self.path(number), f"a hole: {why}, and valid records behind it", lsn=last.lsn)
        if not self._complete:
            report.problem("wal", "the checkpoint from which a start begins is not whole in the log", lsn=self._checkpoint_lsn)
        if self._state.state in (DatabaseState.CLEAN, DatabaseState.BACKUP) and self.end_lsn < self._state.wal_end_lsn:
            needed = format_lsn(self._state.wal_end_lsn)
            report.problem(self.path(number), f"the log has to reach {needed}: {why}", lsn=last.lsn)

    async def _headers(self) -> dict[int, SegmentHeader]:
        found = {}
        for number in sorted(self._sizes):
            try:
                data = await self._store.get_range(self.path(number), 0, SEGMENT_HEADER_SIZE)
                found[number] = decode_segment_header(data, self._state.timeline, number, self._state.system_id)
            except (StorageError, FileNotFoundError) as error:
                if not self._floor:
                    self._report.problem(self.path(number), str(error))
        return found

    async def _scan(self, number: int, header: SegmentHeader) -> SegmentScan:
        path, size = self.path(number), self._sizes[number]
        parts = []
        try:
            for at in range(0, size, READ_BYTES):
                parts.append(await self._store.get_range(path, at, min(READ_BYTES, size - at)))
        except (StorageError, FileNotFoundError) as error:
            self._report.problem(path, f"cannot be read: {error}")
        self._report.bytes_read += sum(map(len, parts))
        return SegmentScan(header, b"".join(parts))

    async def _read(self, scan: SegmentScan) -> None:
        """All records, looking for the checkpoint's end."""
        while headers := scan.batch(_BATCH):
            for header in headers:
                if header[H_KIND] == RecordKind.CHECKPOINT_END and not header[H_PAGE_COUNT]:
                    begin_lsn = int.from_bytes(extra_of(scan.data, header[H_LSN] + scan.bias), "little")
                    self._complete = self._complete or begin_lsn == self._checkpoint_lsn
            await self._ports.tasks.work("backup.log", len(headers))

    async def forget_rebuilt(self, doubtful: dict[int, tuple[str, str]]) -> None:
        """Take out of `doubtful` what the log has an image of (H2)."""
        for number in self._used:
            try:
                data = await self._store.get_range(self.path(number), 0, SEGMENT_HEADER_SIZE)
                header = decode_segment_header(data, self._state.timeline, number, self._state.system_id)
            except (Corruption, StorageError, FileNotFoundError):
                return
            scan = await self._scan(number, header)
            while headers := scan.batch(_BATCH):
                for page_no in _images(scan, headers):
                    doubtful.pop(page_no, None)
                await self._ports.tasks.work("backup.log", len(headers))


def _images(scan: SegmentScan, headers: list[Header]) -> Iterator[int]:
    for header in headers:
        count = header[H_PAGE_COUNT]
        if count:
            for page_no, _previous, op, _at, _size in iter_changes(scan.data, header[H_LSN] + scan.bias, count):
                if op == PageOp.IMAGE:
                    yield page_no


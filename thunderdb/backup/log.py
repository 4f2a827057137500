"""The log of a backup: segments read whole, every record checked, one after the other without a gap.

N1. A segment's header must be of this system and timeline, continue the one before, and each record the one before it.
N2. The log ends exactly at `end_lsn`, with the end of a record; the last segment is cut there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from thunderdb.base.errors import Corruption
from thunderdb.base.ids import format_lsn
from thunderdb.engine.database import Database
from thunderdb.recovery.extras import CHECKPOINT_BEGIN_EXTRA, COMMIT_EXTRA
from thunderdb.runtime.sync import Tasks
from thunderdb.wal.record import H_KIND, H_LSN, Header, RecordKind, extra_of
from thunderdb.wal.segment import SEGMENT_HEADER_SIZE, SegmentScan, decode_segment_header, segment_name

READ_BYTES = 1 << 20
_BATCH = 1000
_COMMIT, _BEGIN = int(RecordKind.COMMIT), int(RecordKind.CHECKPOINT_BEGIN)


class LogCopy:
    """Checks segments in their order. Afterwards: what the log's end says (`end_time_us`, `end_checksum`, `newest_segment`)."""

    def __init__(self, system_id: int, timeline: int, start_lsn: int, end_lsn: int, checkpoint_lsn: int) -> None:
        self.system_id = system_id
        self.timeline = timeline
        self.start_lsn = start_lsn
        self.end_lsn = end_lsn
        self.checkpoint_lsn = checkpoint_lsn
        self.lsn = 0
        self.end_checksum = 0
        self.end_time_us = 0
        self.segment_size = 0
        self.newest_segment = 0
        self.records = 0
        self._closed = True

    async def check(self, tasks: Tasks, number: int, data: bytes) -> None:
        """Check the next segment (N1). Raises: Corruption naming segment and LSN."""
        name = segment_name(self.timeline, number)
        header = decode_segment_header(data[:SEGMENT_HEADER_SIZE], self.timeline, number, self.system_id)
        if not self.newest_segment and header.start_lsn > self.start_lsn:
            raise Corruption(
                f"log segment {name} begins at {format_lsn(header.start_lsn)}, behind {format_lsn(self.start_lsn)}, "
                "where the log has to begin"
            )
        if self.newest_segment:
            follows = (self._closed, number, header.start_lsn, header.prev_checksum)
            if follows != (True, self.newest_segment + 1, self.lsn, self.end_checksum):
                raise Corruption(
                    f"log segment {name} does not continue {segment_name(self.timeline, self.newest_segment)}, "
                    f"which ends at {format_lsn(self.lsn)}"
                )
        scan = SegmentScan(header, data)
        while headers := scan.batch(_BATCH):
            self.records += len(headers)
            self._note_times(scan, headers)
            await tasks.work("backup.log", len(headers))
        self.lsn, self.end_checksum = scan.lsn, scan.prev_checksum
        self.newest_segment, self.segment_size, self._closed = number, header.segment_size, scan.closed
        if scan.lsn + scan.bias != len(data):
            raise Corruption(
                f"log segment {name} is damaged at {format_lsn(scan.lsn)}: {scan.why_it_ends()}",
                "Put the segment back from the archive or a copy; else restore a backup.",
            )

    def finish(self) -> None:
        """Raises: Corruption if the log does not end where it has to (N2)."""
        if self.lsn != self.end_lsn:
            name = segment_name(self.timeline, self.newest_segment) if self.newest_segment else "no segment at all"
            raise Corruption(f"the log ends at {format_lsn(self.lsn)} in {name}, not at {format_lsn(self.end_lsn)}")

    def _note_times(self, scan: SegmentScan, headers: list[Header]) -> None:
        """Order times grow along the log, so only the last commit of a batch counts."""
        for header in reversed(headers):
            if header[H_KIND] == _COMMIT:
                order_us, _wall_us = COMMIT_EXTRA.unpack(extra_of(scan.data, header[H_LSN] + scan.bias))
                self.end_time_us = max(self.end_time_us, order_us)
                break
        if headers[0][H_LSN] <= self.checkpoint_lsn <= headers[-1][H_LSN]:
            for header in headers:
                if header[H_LSN] == self.checkpoint_lsn and header[H_KIND] == _BEGIN:
                    extra = extra_of(scan.data, header[H_LSN] + scan.bias)
                    self.end_time_us = max(self.end_time_us, CHECKPOINT_BEGIN_EXTRA.unpack(extra)[1])


async def read_log(db: Database, copy: LogCopy) -> AsyncIterator[tuple[str, bytes]]:
    """The segments of an open database from `copy.start_lsn` to `copy.end_lsn`, checked by `copy`, the last one cut (N2).

    The caller holds the log, and everything below `end_lsn` is flushed.
    """
    segments = db.log.segments
    for index, (number, start_lsn) in enumerate(segments):
        next_start_lsn = segments[index + 1][1] if index + 1 < len(segments) else copy.end_lsn
        if next_start_lsn <= copy.start_lsn or start_lsn >= copy.end_lsn:
            continue
        size = SEGMENT_HEADER_SIZE + min(next_start_lsn, copy.end_lsn) - start_lsn
        name = segment_name(copy.timeline, number)
        file = await db.ports.disk.open(f"{db.config.wal_dir}/{name}", writable=False)
        parts = []
        for at in range(0, size, READ_BYTES):
            parts.append(await file.read(at, min(READ_BYTES, size - at)))
        await file.close()
        data = b"".join(parts)
        await copy.check(db.ports.tasks, number, data)
        yield name, data

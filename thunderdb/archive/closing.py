"""Whether the open segment holds anything worth a segment of its own: anything but checkpoints and seals.

An idle server takes checkpoints and seals its log; closing a segment for these alone would fill the archive with tiny ones.
"""

from __future__ import annotations

from thunderdb.runtime.ports import Disk
from thunderdb.wal.record import H_KIND, H_LENGTH, HEADER_SIZE, RECORD_HEADER, RecordKind
from thunderdb.wal.segment import SEGMENT_HEADER_SIZE, segment_name
from thunderdb.wal.writer import LogWriter

HOUSEKEEPING = frozenset(
    int(kind)
    for kind in (
        RecordKind.SEAL, RecordKind.CHECKPOINT_BEGIN, RecordKind.CHECKPOINT_TABLES, RecordKind.CHECKPOINT_END,
        RecordKind.SEGMENT_END,
    )
)  # fmt: skip
READ_SIZE = 64 << 10


class NewLog:
    """Looks at each record of the open segment once, until one is found that is not housekeeping."""

    def __init__(self, disk: Disk, log: LogWriter) -> None:
        self.since_ns: int | None = None
        """When the open segment was first seen to hold new log; None as long as it holds none."""
        self._disk = disk
        self._log = log
        self._number = 0
        self._looked_lsn = 0

    async def look(self, now_ns: int) -> None:
        """Look at what was flushed since the last time."""
        log = self._log
        number, start_lsn = log.segments[-1]
        if number <= log.newest_closed:
            self._number, self.since_ns = 0, None
            return
        if number != self._number:
            self._number, self._looked_lsn, self.since_ns = number, start_lsn, None
        flushed_lsn = log.flushed_lsn
        if self.since_ns is not None or flushed_lsn <= self._looked_lsn:
            return
        file = await self._disk.open(f"{log.directory}/{segment_name(log.timeline, number)}", writable=False)
        try:
            while self.since_ns is None and self._looked_lsn + HEADER_SIZE <= flushed_lsn:
                offset = SEGMENT_HEADER_SIZE + self._looked_lsn - start_lsn
                data = await file.read(offset, min(READ_SIZE, flushed_lsn - self._looked_lsn))
                if self._is_news(data):
                    self.since_ns = now_ns
        except Exception:
            await file.close()
            raise
        await file.close()

    def _is_news(self, data: bytes) -> bool:
        at = 0
        while at + HEADER_SIZE <= len(data):
            header = RECORD_HEADER.unpack_from(data, at)
            if header[H_KIND] not in HOUSEKEEPING or header[H_LENGTH] < HEADER_SIZE:
                return True
            at += header[H_LENGTH]
        self._looked_lsn += at
        return at == 0  # shorter than a header: leave it to whoever checks the log

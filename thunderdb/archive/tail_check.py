"""The records of the open segment, each checked once before the archive gets it (archiver.A4).

What rots between the writer and the archiver would end every restore's log there, while the archiver said that it had more.
"""

from __future__ import annotations

from dataclasses import replace

from thunderdb.base.errors import Corruption
from thunderdb.base.ids import format_lsn
from thunderdb.runtime.ports import File
from thunderdb.runtime.sync import Tasks
from thunderdb.wal.segment import SEGMENT_HEADER_SIZE, SegmentScan, decode_segment_header, segment_name

PIECE_BYTES = 1 << 20
_BATCH = 512


class TailCheck:
    """Remembers how far which segment is known to be whole."""

    def __init__(self, tasks: Tasks, timeline: int, system_id: int) -> None:
        self._tasks = tasks
        self._timeline = timeline
        self._system_id = system_id
        self._number = 0
        self._lsn = 0
        self._prev_checksum = 0

    async def check(self, file: File, number: int, start_lsn: int, until_lsn: int) -> None:
        """Check what is new up to `until_lsn`, where a record ends. Raises: Corruption, StorageError."""
        head = await file.read(0, SEGMENT_HEADER_SIZE)
        header = decode_segment_header(head, self._timeline, number, self._system_id)
        if number != self._number:
            self._number, self._lsn, self._prev_checksum = number, start_lsn, header.prev_checksum
        piece = PIECE_BYTES
        while self._lsn < until_lsn:
            data = await file.read(SEGMENT_HEADER_SIZE + self._lsn - start_lsn, min(piece, until_lsn - self._lsn))
            # As if a segment began here: data[0] is the record at self._lsn.
            here = replace(header, start_lsn=self._lsn + SEGMENT_HEADER_SIZE)
            scan = SegmentScan(here, data, self._lsn, prev_checksum=self._prev_checksum)
            while scan.batch(_BATCH):
                await self._tasks.yield_now()
            if scan.lsn == self._lsn and len(data) >= until_lsn - self._lsn:
                raise self._damaged(scan)
            if scan.lsn == self._lsn:
                if len(data) < piece:
                    raise self._damaged(scan)
                piece *= 2  # a record longer than a piece, or damage: the whole rest tells
            self._lsn, self._prev_checksum = scan.lsn, scan.prev_checksum

    def _damaged(self, scan: SegmentScan) -> Corruption:
        name = segment_name(self._timeline, self._number)
        return Corruption(
            f"log segment {name} is damaged here at {format_lsn(self._lsn)} ({scan.why_it_ends()}): it is not archived",
            "Take a new full backup: the pages are not affected. The archive ends here until then.",
        )

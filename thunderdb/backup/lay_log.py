"""Laying down the log of a restore: the planned segments under the new timeline, the last one cut where the restore stops.

K1. What is laid down is what the plan read: bytes that it kept, or a second reading with the same digest (plan.N3).
K2. A segment keeps its number, its records and its LSNs; only its header, and so its name, is of the new timeline.
K3. When `run` returns, all of it is durable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from xxhash import xxh3_128

from thunderdb.backup.scan import Segment
from thunderdb.base.errors import StorageError, ThunderError
from thunderdb.base.events import Events
from thunderdb.runtime.inflight import InFlight
from thunderdb.runtime.ports import Ports
from thunderdb.wal.segment import SEGMENT_HEADER_SIZE, SegmentScan, decode_segment_header, encode_segment_header, segment_name
from thunderdb.wal.timeline import Fork, format_history, history_name, seal_history

READ_AHEAD = 2
MOST_AHEAD = 64
WRITES_IN_FLIGHT = 4
WRITE_BYTES = 4 << 20
_Laid = tuple[str, int, bool]
"""A segment's name, its size, whether it is the last."""


class LogLayer:
    """The log directory of one restore."""

    def __init__(self, ports: Ports, wal_dir: str, system_id: int, events: Events, room_bytes: int = 0) -> None:
        """`room_bytes` of segments may be fetched ahead, and two in any case."""
        self.ports = ports
        self.wal_dir = wal_dir
        self.system_id = system_id
        self.events = events
        self.room_bytes = room_bytes

    async def run(self, timeline: int, segments: Sequence[Segment], kept: dict[str, bytes], forks: tuple[Fork, ...]) -> None:
        """`kept`: segments that the plan still has, by name; each is let go of as it is written.

        Raises: StorageError for a segment that is gone, or is not what was planned; DiskFull.
        """
        reading: InFlight[bytes] = InFlight(self.ports.tasks, MOST_AHEAD, "restore.read")
        writing: InFlight[_Laid] = InFlight(self.ports.tasks, WRITES_IN_FLIGHT, "restore.sync")
        try:
            for index, segment in enumerate(segments):
                while self._may_read(reading, segments, index):
                    reading.begin(self._data(segments[index + len(reading)], kept))
                data = await reading.next()
                while writing.full:
                    self._say(await writing.next())
                await self.ports.tasks.work("restore.log_byte", len(data))
                size = segment.size_bytes
                last = index == len(segments) - 1
                writing.begin(self._segment(timeline, segment, memoryview(data)[:size], last))
            while len(writing):
                self._say(await writing.next())
        except (ThunderError, OSError):
            await reading.settle()
            await writing.settle()
            raise
        await self._write(history_name(timeline), (memoryview(seal_history(format_history(forks)).encode()),))
        await self.ports.disk.sync_dir(self.wal_dir)

    def _may_read(self, reading: InFlight[bytes], segments: Sequence[Segment], index: int) -> bool:
        """Whether to begin with one more, the oldest of those under way being `index`."""
        following = index + len(reading)
        if following >= len(segments) or reading.full:
            return False
        under_way = sum(segment.size_bytes for segment in segments[index : following + 1])
        return len(reading) < READ_AHEAD or under_way <= self.room_bytes

    async def _data(self, segment: Segment, kept: dict[str, bytes]) -> bytes:
        """K1."""
        piece = segment.piece
        data = kept.pop(piece.name, None)
        if data is not None:
            return data
        data = await piece.source.segment(piece.timeline, piece.number)
        if data is None:
            hint = "Put it back, and run the restore again."
            raise StorageError(f"segment {piece.name} is gone from {piece.source.place}", hint)
        await self._check(data, segment)
        return data

    async def _segment(self, timeline: int, segment: Segment, data: memoryview, last: bool) -> _Laid:
        """K2."""
        header = encode_segment_header(replace(segment.piece.header, timeline=timeline))
        await self._write(segment_name(timeline, segment.piece.number), (memoryview(header), data[SEGMENT_HEADER_SIZE:]))
        return segment.piece.name, len(data), last

    def _say(self, laid: _Laid) -> None:
        """One segment is there, durable: not before is it called done."""
        name, size, last = laid
        self.events.emit("restore.segment", segment=name, size_bytes=size, last=last)

    async def _check(self, data: bytes, segment: Segment) -> None:
        piece = segment.piece
        header = decode_segment_header(data, piece.timeline, piece.number, self.system_id)
        same = (header.start_lsn, header.prev_checksum) == (piece.header.start_lsn, piece.header.prev_checksum)
        if same and segment.digest:
            used = memoryview(data)[SEGMENT_HEADER_SIZE : SEGMENT_HEADER_SIZE + segment.end_lsn - header.start_lsn]
            same = (await self.ports.offload.run(xxh3_128, used)).hexdigest() == segment.digest
        elif same:
            scan = SegmentScan(header, data, until_lsn=segment.end_lsn)
            scan.drain()
            same = scan.lsn == segment.end_lsn
        if not same:
            raise StorageError(
                f"segment {piece.name} in {piece.source.place} is not what it was when the restore was planned",
                "Run the restore again.",
            )

    async def _write(self, name: str, parts: tuple[memoryview, ...]) -> None:
        """A whole file, durable when this returns; its name is when the directory has been synced."""
        file = await self.ports.disk.open(f"{self.wal_dir}/{name}", create=True)
        try:
            offset = 0
            for part in parts:
                for at in range(0, len(part), WRITE_BYTES):
                    await file.write(offset + at, part[at : at + WRITE_BYTES])
                offset += len(part)
            await file.truncate(offset)
            await file.sync()
        except Exception:
            await file.close()
            raise
        await file.close()

"""Spare segments: full-size files made ahead, so that a log record never has to ask the disk for room.

A spare is `spare.N.tmp`, filled with zeros and synced (or an obsolete segment under a new name), because a first write into a
hole or into preallocated blocks makes each later sync pay for metadata.

A1. A spare counts only when its bytes *and* its name are durable: else a power cut could bring back the old name with new
    bytes behind it.
A2. The last `reserve` spares are for rollback, restart and checkpoints (W10): ordinary work stops at `admit` before that. So it
    does while the rest of the disk would not hold what rolling back the open transactions writes (`needed`), or one large
    transaction could fill the disk so that neither it nor a restart could ever end.
A3. A full disk is no failure: the keeper tries again every `retry_ns`, and at once when `give_back` says that there is room.
A4. Spares found at start are filled again before use: whether their bytes ever reached the disk is not known (W4).
A5. A database that stops does not wait for room (`hurry`): who then needs a spare that is not there gets an error.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from thunderdb.base.errors import DiskFull, NodeStopped, StorageError, ThunderError
from thunderdb.base.events import Events
from thunderdb.runtime.ports import Disk
from thunderdb.runtime.sync import Event, Tasks
from thunderdb.wal.reader import WRITE_CHUNK, ZEROS
from thunderdb.wal.segment import parse_spare_name, spare_name

RESERVE = 2
RETRY_NS = 1_000_000_000


def no_room_to_stop() -> StorageError:
    """What a stop on a full disk ends with, if it needs more log than there is room for."""
    return StorageError(
        "the disk is full: there is no room for the log that a clean stop writes",
        "Nothing is lost. Free space on the log's disk and start again: the start ends what the stop could not.",
    )


class Spares:
    """Keeps `target` spare segments ready in a directory, in a task of its own while some are missing."""

    def __init__(
        self,
        tasks: Tasks,
        disk: Disk,
        directory: str,
        segment_size: int,
        events: Events,
        on_failure: Callable[[Exception], None],
        reserve: int = RESERVE,
        target: int = RESERVE + 1,
        retry_ns: int = RETRY_NS,
    ) -> None:
        self._tasks = tasks
        self._disk = disk
        self._directory = directory
        self._segment_size = segment_size
        self._events = events
        self._on_failure = on_failure
        self.reserve = reserve
        self.target = max(target, reserve + 1)
        self.disk_full = False
        self.needed: Callable[[], int] = lambda: 0
        self._room_bytes = 1 << 62  # beyond the reserve, when it was last looked at
        self._retry_ns = retry_ns
        self._ready: deque[str] = deque()
        self._unsure: deque[str] = deque()  # found at start (A4)
        self._next_index = 0
        self._keeping = False
        self._stopped = False
        self._hurried = False
        self._room = Event(tasks)
        self._more = Event(tasks)

    def __len__(self) -> int:
        return len(self._ready)

    @property
    def low(self) -> bool:
        """Whether ordinary work must stop: the disk is full and only the reserve is left."""
        return self.disk_full and (len(self._ready) <= self.reserve or self.short)

    @property
    def short(self) -> bool:
        """Whether what is left is only enough to roll back (A2)."""
        return self.needed() > self._room_bytes

    async def look(self) -> None:
        """See whether a disk that is full still is. While it is not, this costs nothing."""
        if self.disk_full:
            await self._measure()
            self._relent()

    async def find(self) -> None:
        """Take over the spares that an earlier process left behind."""
        for name in await self._disk.list(self._directory):
            index = parse_spare_name(name)
            if index is not None:
                self._unsure.append(f"{self._directory}/{name}")
                self._next_index = max(self._next_index, index + 1)

    def keep(self) -> None:
        """Start making spares, unless there are enough or it is already going on."""
        if not self._keeping and not self._stopped and len(self._ready) < self.target:
            self._keeping = True
            self._tasks.detach(self._keep(), "wal.spares")

    async def filled(self) -> None:
        """Wait until there are `target` spares, or the disk is full."""
        self.keep()
        while len(self._ready) < self.target and not self.disk_full and not self._stopped:
            self._more.clear()
            await self._more.wait()

    async def take(self) -> str:
        """Return the path of a spare that is the caller's from now on; waits while there is none (W10).

        Raises: NodeStopped; StorageError (A5).
        """
        while not self._ready:
            if self._stopped:
                raise NodeStopped("the log is closed")
            if self._hurried and self.disk_full:
                raise no_room_to_stop()
            self.keep()
            self._more.clear()
            await self._more.wait()
        path = self._ready.popleft()
        self.keep()
        if len(self._ready) < self.reserve:
            self._room.set()  # the keeper may wait for room, and this may have been made with what there is
        if self.needed():
            await self._measure()
            if self.short:
                self._say_full("the rest is kept for rolling back the open transactions")
        return path

    async def give_back(self, path: str, keep: int) -> bool:
        """Make an obsolete segment a spare while there are fewer than `keep`, else unlink it; return whether it is a spare.

        One that somebody else has removed already is gone, as it was to be.
        """
        recycled = False
        try:
            if len(self._ready) + len(self._unsure) < max(keep, self.target):
                spare = self._new_path()
                await self._disk.rename(path, spare)
                await self._disk.sync_dir(self._directory)  # A1
                recycled = await self._extend(spare)
            else:
                await self._disk.unlink(path)
        except FileNotFoundError:
            self._events.emit("wal.segment_missing", path=path)
        self._room.set()
        return recycled

    def hurry(self) -> None:
        """A5."""
        self._hurried = True
        self._more.set()

    def stop(self) -> None:
        self._stopped = True
        self._room.set()
        self._more.set()

    def _new_path(self) -> str:
        index = self._next_index
        self._next_index += 1
        return f"{self._directory}/{spare_name(index)}"

    def _add(self, path: str) -> None:
        self._ready.append(path)
        self._relent()
        self._more.set()

    def _relent(self) -> None:
        if self.disk_full and len(self._ready) > self.reserve and not self.short:
            self.disk_full = False
            self._events.emit("wal.disk_ok", spares=len(self._ready))

    def _say_full(self, reason: str) -> None:
        if not self.disk_full:
            self.disk_full = True
            self._events.emit("wal.disk_full", spares=len(self._ready), reason=reason)

    async def _measure(self) -> None:
        free_bytes = await self._disk.free_bytes(self._directory)
        self._room_bytes = free_bytes + (len(self._ready) - self.reserve) * self._segment_size

    async def _keep(self) -> None:
        try:
            while len(self._ready) < self.target and not self._stopped:
                self._room.clear()
                try:
                    await self._make()
                except DiskFull as error:
                    await self._wait_for_room(error)
        except (ThunderError, OSError) as error:  # a failed sync among them (W4)
            self._on_failure(error)
        finally:
            self._keeping = False

    async def _wait_for_room(self, error: DiskFull) -> None:
        self._say_full(error.message)
        self._more.set()
        await self._room.wait_timeout(self._retry_ns)

    async def _make(self) -> None:
        if self._unsure:
            path = self._unsure[0]
            await self._fill(path, 0)
            self._unsure.popleft()
        else:
            path = self._new_path()
            if await self._disk.free_bytes(self._directory) < self._segment_size:
                raise DiskFull("no room for another log segment")
            try:
                await self._fill(path, 0)
            except DiskFull:
                await self._disk.unlink(path)
                raise
        await self._disk.sync_dir(self._directory)
        self._add(path)

    async def _extend(self, path: str) -> bool:
        """Bring a recycled segment, which was cut when it was closed, back to full size; on a full disk let it go instead."""
        file = await self._disk.open(path)
        size = await file.size()
        await file.close()
        try:
            if size < self._segment_size:
                await self._fill(path, size)
        except DiskFull:
            await self._disk.unlink(path)
            return False
        self._add(path)
        return True

    async def _fill(self, path: str, offset: int) -> None:
        file = await self._disk.open(path, create=not await self._disk.exists(path))
        try:
            while offset < self._segment_size and not self._stopped:
                size = min(WRITE_CHUNK, self._segment_size - offset)
                await file.write(offset, ZEROS if size == WRITE_CHUNK else bytes(size))
                offset += size
                if offset < self._segment_size:
                    await self._tasks.yield_now()
            await file.sync()
        except DiskFull:
            await file.close()
            raise
        await file.close()

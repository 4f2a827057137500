"""The simulated `Disk` port: a `DiskImage` plus time, faults and death.

D1. Reads and writes of the cache sometimes complete at once and sometimes take time, as on a real machine; fsync always takes
    time. A write's bytes are in the cache when it completes, not before; a crash in between leaves any part of them.
D2. A sync covers the operations that had completed when it was called (G1), whenever it returns.
D3. Every changing operation has a boundary before and after it, at which a hook may crash the node. The call in which the node
    dies never returns; each later call on a dead port raises PortRevoked.
D4. A fault is drawn from a stream of its own kind, and counted when it fires.
D5. At a scale, a byte stands for many, and all that is read and written shares the bandwidth. Only the zeros at the end of a
    log segment, made ready beforehand, are as many as they are: a segment is no longer in a large database.
D6. A profile that was measured (`tools.machine`) tells the cache from the device: writes share the one, syncs the other; and
    what is too long to be read at once takes its time though it is cached, most of it for memory that nobody has used yet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from sim.world.fates import MixedFates
from sim.world.files import file_kind
from sim.world.image import BLOCK, SECTOR, ZEROS, DiskImage, Fates, Inode, clean, parent
from sim.world.kernel import PortRevoked, SimScheduler, forever
from sim.world.rand import Stream, Streams
from sim.world.trace import Op, Trace
from thunderdb.base.errors import DiskFull, Refused, StorageError, SyncFailed
from thunderdb.runtime.sync import Future

BEFORE, AFTER = True, False
SYNC = 1
LONG_READ, FRESH_READ = 1 << 20, 8 << 20
Boundary = Callable[[str, str, bool], None]

FAULT_KINDS = (
    "read_error",  # a read fails once
    "sticky_read_error",  # a block cannot be read until it is written again
    "write_error",  # a write fails, nothing written
    "lost_sync",  # a sync says that it is done, and nothing has reached the device
    "sync_error",  # a sync fails; its writes count as clean, some have landed (G5)
    "lost_write",  # a write says it is done and was not
    "misdirected_write",  # a write lands at another place of its file
    "bit_rot",  # a bit of what was just written flips on the device and in the cache
    "stall",  # an operation takes `stall_ns` longer
    "disk_full",  # a write that extends a file finds no room
)


@dataclass(slots=True)
class DeviceProfile:
    """How fast a device is. Times in ns; each is varied by up to half."""

    read_ns: int = 80_000
    write_ns: int = 6_000
    sync_ns: int = 300_000
    entry_ns: int = 20_000
    bytes_per_s: int = 1_000_000_000
    cached_reads: float = 0.5  # the share of reads that complete at once
    inline_writes: float = 0.5  # the share of writes that complete at once
    sync_bytes_per_s: int = 0  # what a sync has to bring to the device takes time, too; 0: it does not
    scale: int = 1  # D5
    cached_bytes_per_s: int = 0  # D6: of reads of more than LONG_READ; 0: as above
    fresh_bytes_per_s: int = 0  # of those of FRESH_READ and more


@dataclass(slots=True)
class DiskFaults:
    """Chance per operation of each kind of fault, for paths that contain `path_part`."""

    chances: dict[str, float] = field(default_factory=dict)
    path_part: str = ""
    stall_ns: int = 50_000_000

    def __post_init__(self) -> None:
        unknown = sorted(set(self.chances) - set(FAULT_KINDS))
        if unknown:
            raise ValueError(f"unknown disk fault {unknown[0]!r} (known: {', '.join(FAULT_KINDS)})")


@dataclass(slots=True)
class Armed:
    """A single fault to come: the operation after `skip` matching ones."""

    kind: str
    path_part: str
    skip: int


class SimFile:
    """The `File` port."""

    __slots__ = ("path", "_disk", "_inode", "_writable", "_open")

    def __init__(self, disk: SimDisk, path: str, inode: int, writable: bool) -> None:
        self.path = path
        self._disk = disk
        self._inode = inode
        self._writable = writable
        self._open = True

    def _check(self, writing: bool = False) -> SimDisk:
        if not self._disk.scheduler.alive:
            raise PortRevoked(self.path)
        if not self._open:
            raise ValueError(f"file is closed: {self.path}")
        if writing and not self._writable:
            raise PermissionError(f"not open for writing: {self.path}")
        return self._disk

    async def read(self, offset: int, size: int) -> bytes:
        disk = self._check()
        disk.log(Op.READ, self._inode, offset, b"")
        profile = disk.profile
        if disk.latency.random() >= profile.cached_reads:
            await disk.delay(profile.read_ns, size if profile.scale == 1 else disk.scaled_read(self, offset, size))
        elif profile.cached_bytes_per_s and size > LONG_READ:
            await disk.cached_read(min(size, disk.image.inodes[self._inode].cache_size - offset))
        inode = disk.image.inodes[self._inode]
        if disk.faulty or inode.bad:
            disk.before_read(self.path, self._inode, offset, size)
        return inode.read(offset, size)

    def read_now(self, offset: int, size: int) -> bytes | None:
        disk = self._check()
        inode = disk.image.inodes[self._inode]
        # What a device may fail to read is not in the cache, so faults are met in `read` only.
        if disk.faulty or inode.bad or disk.latency.random() >= disk.profile.cached_reads:
            return None
        disk.log(Op.READ, self._inode, offset, b"")
        return inode.read(offset, size)

    async def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        disk = self._check(writing=True)
        data = bytes(data)
        if disk.on_boundary is not None:
            await disk.cross("write", self.path, BEFORE)
        lost = False
        if disk.faulty:
            offset, lost = disk.before_write(self.path, self._inode, offset, len(data))
        profile = disk.profile
        if disk.latency.random() >= profile.inline_writes:
            await disk.delayed_write(self._inode, offset, b"" if lost else data, profile.write_ns, self.path)
        disk.log(Op.WRITE, self._inode, offset, data)
        if not lost:
            try:
                disk.image.write(self._inode, offset, data)
            except DiskFull:
                disk.struck("disk_full", self.path)
                raise
            if disk.faulty:
                disk.after_write(self.path, self._inode, offset, len(data))
        if disk.on_boundary is not None:
            await disk.cross("write", self.path, AFTER)

    async def truncate(self, size: int) -> None:
        disk = self._check(writing=True)
        if disk.on_boundary is not None:
            await disk.cross("truncate", self.path, BEFORE)
        disk.log(Op.TRUNCATE, self._inode, size, b"")
        try:
            disk.image.truncate(self._inode, size)
        except DiskFull:
            disk.struck("disk_full", self.path)
            raise
        if disk.on_boundary is not None:
            await disk.cross("truncate", self.path, AFTER)

    async def allocate(self, size: int) -> None:
        await self.truncate(max(size, await self.size()))

    async def sync(self) -> None:
        disk = self._check()
        if disk.on_boundary is not None:
            await disk.cross("sync", self.path, BEFORE)
        mark = disk.image.mark()  # D2
        disk.log(Op.SYNC, self._inode, 0, b"")
        await disk.delay(disk.profile.sync_ns, disk.unsynced(self._inode) * disk.profile.scale, SYNC)
        if disk.faulty and disk.fires("sync_error", self.path):
            disk.image.owned(self._inode).fail_sync(mark, MixedFates(disk.stream("sync_error.fates")))
            raise SyncFailed(f"cannot sync {self.path}: Input/output error")
        if disk.faulty and disk.fires("lost_sync", self.path):
            disk.image.owned(self._inode).lie(mark)
        else:
            disk.image.owned(self._inode).sync(mark)
        if disk.on_boundary is not None:
            await disk.cross("sync", self.path, AFTER)

    async def size(self) -> int:
        return self._check().image.inodes[self._inode].cache_size

    async def close(self) -> None:
        disk = self._disk
        if not disk.scheduler.alive:
            raise PortRevoked(self.path)
        if self._open:
            self._open = False
            disk.image.hold(self._inode, -1)


class SimLock:
    __slots__ = ("_disk", "_path")

    def __init__(self, disk: SimDisk, path: str) -> None:
        self._disk = disk
        self._path = path

    async def release(self) -> None:
        self._disk.locks.pop(self._path, None)


class SimDisk:
    """One life's view of a node's disk. The image outlives it; locks, open files and operations under way do not."""

    def __init__(
        self,
        scheduler: SimScheduler,
        image: DiskImage,
        streams: Streams,
        name: str,
        profile: DeviceProfile,
        fired: Counter[str],
    ) -> None:
        self.scheduler = scheduler
        self.image = image
        self.profile = profile
        self.faults = DiskFaults()
        self.faulty = False
        self.armed: list[Armed] = []
        self.fired = fired
        self.on_boundary: Boundary | None = None
        self.on_fault: Callable[[str, str], None] | None = None
        self.changes = 0  # boundaries crossed so far, two per changing operation
        self.locks: dict[str, None] = {}
        self.log_lives: list[tuple[int, list[int]]] = []  # sim/history: where each log of this life went on, and its records
        self._streams = streams
        self._name = name
        self.latency = self.stream("latency")
        self._trace: Trace = scheduler.trace
        self._in_flight: dict[int, tuple[int, int, bytes]] = {}
        self._astray: dict[tuple[int, int], None] = {}
        self._busy_until_ns = [0, 0]  # D5, D6
        self._ticket = 0

    def stream(self, kind: str) -> Stream:
        return self._streams.stream(f"{self._name}.disk.{kind}")

    # Names.

    async def open(self, path: str, *, create: bool = False, exclusive: bool = False, writable: bool = True) -> SimFile:
        path = self._enter(path)
        number = self.image.names.get(path)
        if number is not None and create and exclusive:
            raise FileExistsError(f"file exists: {path}")
        if number is None:
            if path in self.image.dirs:
                raise StorageError(f"cannot open {path}: Is a directory")
            if not create:
                raise FileNotFoundError(f"no such file: {path}")
            self._require_dir(parent(path))
            await self._change("create", path)
            number = self.image.names.get(path)
            if number is None:
                number = self.image.create(path)
            self.log(Op.OPEN, number, 0, path.encode())
            await self._changed("create", path)
        self.image.hold(number, 1)
        return SimFile(self, path, number, writable)

    async def read_file(self, path: str) -> bytes:
        file = await self.open(path, writable=False)
        data = await file.read(0, await file.size())
        await file.close()
        return data

    async def exists(self, path: str) -> bool:
        path = self._enter(path)
        return path in self.image.names or path in self.image.dirs

    async def is_dir(self, path: str) -> bool:
        return self._enter(path) in self.image.dirs

    async def mode(self, path: str) -> int:
        if self._enter(path) not in self.image.names:
            raise FileNotFoundError(2, "No such file or directory", path)
        return 0o600

    async def list(self, path: str) -> list[str]:
        path = self._enter(path)
        self._require_dir(path)
        self.log(Op.LIST, 0, 0, path.encode())
        everything = [*self.image.names, *self.image.dirs]
        return sorted(entry.rpartition("/")[2] for entry in everything if entry != "/" and parent(entry) == path)

    async def make_dirs(self, path: str) -> None:
        path = self._enter(path)
        if path in self.image.names:
            raise FileExistsError(f"not a directory: {path}")
        if path not in self.image.dirs:
            await self.make_dirs(parent(path))
            await self._change("make_dir", path)
            self.image.make_dir(path)
            self.log(Op.MAKE_DIR, 0, 0, path.encode())
            await self._changed("make_dir", path)

    async def rename(self, old: str, new: str) -> None:
        old, new = self._enter(old), self._enter(new)
        self._require_dir(parent(new))
        await self._change("rename", old)
        if old in self.image.names:
            if new in self.image.dirs:
                raise StorageError(f"cannot rename {old} to {new}: Is a directory")
            self.image.rename(old, new)
        elif old in self.image.dirs:
            if new in self.image.names or any(parent(path) == new for path in (*self.image.names, *self.image.dirs)):
                raise StorageError(f"cannot rename {old} to {new}: Directory not empty")
            self.image.rename_dir(old, new)
        else:
            raise FileNotFoundError(f"no such file: {old}")
        self.log(Op.RENAME, 0, 0, f"{old}\0{new}".encode())
        await self._changed("rename", old)

    async def rename_new(self, old: str, new: str) -> None:
        old, new = self._enter(old), self._enter(new)
        await self._change("rename", old)
        if new in self.image.names:
            raise FileExistsError(f"file exists: {new}")
        if old not in self.image.names:
            raise FileNotFoundError(f"no such file: {old}")
        self.image.rename(old, new)
        self.log(Op.RENAME, 0, 0, f"{old}\0{new}".encode())
        await self._changed("rename", old)

    async def remove_dir(self, path: str) -> None:
        path = self._enter(path)
        self._require_dir(path)
        await self._change("remove_dir", path)
        if any(parent(entry) == path for entry in (*self.image.names, *self.image.dirs)):
            raise StorageError(f"cannot remove directory {path}: Directory not empty")
        self.image.remove_dir(path)
        self.log(Op.UNLINK, 0, 0, path.encode())
        await self._changed("remove_dir", path)

    async def symlink(self, target: str, path: str) -> None:
        """Links are not part of what a power cut puts in doubt here."""
        self.image.links[clean(path)] = clean(target if target.startswith("/") else f"{parent(clean(path))}/{target}")

    async def resolve(self, path: str) -> str:
        return self._enter(path)

    async def unlink(self, path: str) -> None:
        path = self._enter(path)
        await self._change("unlink", path)
        if path not in self.image.names:
            raise FileNotFoundError(f"no such file: {path}")
        self.image.unlink(path)
        self.log(Op.UNLINK, 0, 0, path.encode())
        await self._changed("unlink", path)

    async def sync_dir(self, path: str) -> None:
        path = self._enter(path)
        self._require_dir(path)
        if self.on_boundary is not None:
            await self.cross("sync_dir", path, BEFORE)
        covered = self.image.entry_mark()  # D2
        self.log(Op.SYNC_DIR, 0, 0, path.encode())
        await self.delay(self.profile.sync_ns, 0)
        self.image.sync_dir(path, covered)
        await self._changed("sync_dir", path)

    async def free_bytes(self, path: str) -> int:
        self._enter(path)
        return max(0, self.image.capacity_bytes - self.image.used_bytes)

    async def lock(self, path: str) -> SimLock:
        path = self._enter(path)
        where = path if path in self.image.dirs else path.rpartition("/")[0]
        if where in self.locks:
            raise Refused(f"{path} is locked by another process", "stop the other process first")
        if path != where:
            file = await self.open(path, create=True)
            await file.close()
        self.locks[where] = None
        return SimLock(self, where)

    def _enter(self, path: str) -> str:
        if not self.scheduler.alive:
            raise PortRevoked(path)
        path = clean(path)
        for link, target in self.image.links.items():
            if path == link or path.startswith(link + "/"):
                path = target + path[len(link) :]
                break
        for mount in self.image.away:
            if path == mount or path.startswith(mount + "/"):
                self.struck("store_outage", path)
                raise StorageError(f"cannot reach {path}: Input/output error")
        return path

    def _require_dir(self, path: str) -> None:
        if path not in self.image.dirs:
            raise FileNotFoundError(f"no such directory: {path}")

    async def _change(self, action: str, path: str) -> None:
        if self.on_boundary is not None:
            await self.cross(action, path, BEFORE)
        if self.latency.random() >= self.profile.inline_writes:
            await self.delay(self.profile.entry_ns, 0)

    async def _changed(self, action: str, path: str) -> None:
        if self.on_boundary is not None:
            await self.cross(action, path, AFTER)

    # Time.

    def unsynced(self, inode: int) -> int:
        """What a sync has to write, as bytes of the profile's general bandwidth."""
        profile = self.profile
        if not profile.sync_bytes_per_s:
            return 0
        pending = sum(one.end - one.start for one in self.image.inodes[inode].pending)
        return pending * profile.bytes_per_s // profile.sync_bytes_per_s

    def scaled(self, path: str, data: bytes) -> int:
        """D5: how many bytes these stand for."""
        used = len(data.rstrip(b"\0")) if file_kind(path) == "segment" else len(data)
        return used * self.profile.scale + len(data) - used

    def scaled_read(self, file: SimFile, offset: int, size: int) -> int:
        return self.scaled(file.path, self.image.inodes[file._inode].read(offset, size))

    async def cached_read(self, size_bytes: int) -> None:
        """D6: a thread copies it."""
        rate = self.profile.fresh_bytes_per_s if size_bytes >= FRESH_READ else self.profile.cached_bytes_per_s
        done: Future[None] = Future(self.scheduler)
        self.scheduler.after(max(0, size_bytes) * 1_000_000_000 // rate, done.set_result, None)
        await done

    async def delay(self, base_ns: int, size_bytes: int, queue: int = 0) -> None:
        """Let a device's time pass."""
        transfer_ns = size_bytes * 1_000_000_000 // self.profile.bytes_per_s
        jitter = 0.5 + self.latency.random()
        measured = self.profile.cached_bytes_per_s > 0
        if self.profile.scale > 1 or measured:  # D5, D6
            now_ns, queue = self.scheduler.kernel.now_ns, queue if measured else 0
            self._busy_until_ns[queue] = max(now_ns, self._busy_until_ns[queue]) + int(transfer_ns * jitter)
            delay_ns = self._busy_until_ns[queue] - now_ns + int(base_ns * jitter)
        else:
            delay_ns = int((base_ns + transfer_ns) * jitter)
        if self.faulty and self.fires("stall", ""):
            delay_ns += self.faults.stall_ns
        done: Future[None] = Future(self.scheduler)
        self.scheduler.after(delay_ns, done.set_result, None)
        await done

    async def delayed_write(self, inode: int, offset: int, data: bytes, base_ns: int, path: str) -> None:
        """D1: while this lasts, a crash leaves any part of the write."""
        self._ticket += 1
        ticket = self._ticket
        self._in_flight[ticket] = (inode, offset, data)
        await self.delay(base_ns, len(data) if self.profile.scale == 1 else self.scaled(path, data))
        del self._in_flight[ticket]

    def log(self, op: Op, inode: int, offset: int, data: bytes) -> None:
        self._trace.event(self.scheduler.kernel._now, self.scheduler.node, op, data, inode << 40 | offset)

    # Death.

    async def cross(self, action: str, path: str, before: bool) -> None:
        """D3: pass a boundary, at which the hook may end the node."""
        self.changes += 1
        if self.on_boundary is not None:
            self.on_boundary(action, path, before)
        if not self.scheduler.alive:
            await forever(self.scheduler)

    def state(self) -> tuple[int, tuple[int, ...]]:
        """Equal values mean that a crash would find the same disk: nothing changed and no write was begun or ended."""
        return self.image.version, tuple(self._in_flight)

    def fork_image(self) -> DiskImage:
        """The disk as it is now, writes under way included as pending ones: a state from which a power cut can be tried."""
        image = self.image.fork()
        for inode, offset, data in self._in_flight.values():
            if inode in image.inodes:
                _write_if_room(image, inode, offset, data)
        return image

    def end(self, power: bool, fates: Fates) -> None:
        """The process is dead, or the power gone: settle what was under way."""
        for inode, offset, data in self._in_flight.values():
            if inode in self.image.inodes:
                # kill -9: the system call was cut short anywhere. Power: the fates decide by sector.
                kept = len(data) if power else self.stream("cut_short").between(0, len(data))
                _write_if_room(self.image, inode, offset, data[:kept])
                self._mark_stray(inode, offset)
        self._in_flight.clear()
        if power:
            self.image.power_cut(fates)
        else:
            self.image.kill()

    # Faults.

    def set_faults(self, faults: DiskFaults) -> None:
        self.faults = faults
        self.faulty = bool(self.armed) or any(chance > 0 for chance in faults.chances.values())

    def arm(self, kind: str, path_part: str = "", skip: int = 0) -> None:
        """Let one fault of that kind hit the operation after `skip` matching ones."""
        DiskFaults({kind: 0.0})
        self.armed.append(Armed(kind, path_part, skip))
        self.faulty = True

    def fires(self, kind: str, path: str) -> bool:
        fired = self._fires_armed(kind, path)
        chance = self.faults.chances.get(kind, 0.0)
        if not fired and chance > 0 and (self.faults.path_part in path or kind == "stall"):  # which stalls any operation
            fired = self.stream(kind).random() < chance
        if fired:
            self.struck(kind, path)
            self._trace.event(self.scheduler.kernel._now, self.scheduler.node, Op.FAULT, f"{kind} {path}".encode())
        return fired

    def struck(self, kind: str, path: str) -> None:
        self.fired[kind] += 1
        if self.on_fault is not None:
            self.on_fault(kind, path)

    def _fires_armed(self, kind: str, path: str) -> bool:
        for armed in self.armed:
            if armed.kind == kind and armed.path_part in path:
                if armed.skip == 0:
                    self.armed.remove(armed)
                    return True
                armed.skip -= 1
        return False

    def before_read(self, path: str, number: int, offset: int, size: int) -> None:
        inode = self.image.inodes[number]
        if self.fires("sticky_read_error", path):
            self.image.owned(number).bad[offset // BLOCK] = None
            inode = self.image.inodes[number]
        if any(offset // BLOCK <= block <= (offset + max(size, 1) - 1) // BLOCK for block in inode.bad):
            raise StorageError(f"cannot read {path}: Input/output error")
        if self.fires("read_error", path):
            raise StorageError(f"cannot read {path}: Input/output error")

    def before_write(self, path: str, number: int, offset: int, size: int) -> tuple[int, bool]:
        """Return where the write will really go, and whether it will be lost."""
        if self.fires("write_error", path):
            raise StorageError(f"cannot write {path}: Input/output error")
        file_size = self.image.inodes[number].cache_size
        if offset + size > file_size and self.fires("disk_full", path):
            raise DiskFull(f"cannot write {path}: No space left on device", hint="free some space on the device")
        if self.fires("lost_write", path):
            self.image.owned(number).injure(offset, offset + size, "lost_write")
            return offset, True
        blocks = (file_size - size) // BLOCK
        if blocks > 0 and self.fires("misdirected_write", path):
            elsewhere = self.stream("misdirected_write").between(0, blocks - 1) * BLOCK
            elsewhere += BLOCK if elsewhere >= offset else 0
            self.image.owned(number).injure(offset, offset + size, "misdirected_write")
            self._astray[number, elsewhere] = None
            return elsewhere, False
        return offset, False

    def after_write(self, path: str, number: int, offset: int, size: int) -> None:
        self._mark_stray(number, offset)
        if size and self.fires("bit_rot", path):
            self.flip_bit(number, offset * 8 + self.stream("bit_rot").between(0, size * 8 - 1))

    def _mark_stray(self, number: int, offset: int) -> None:
        if (number, offset) in self._astray:
            del self._astray[number, offset]
            self.image.owned(number).stray()

    def flip_bit(self, number: int, bit: int) -> None:
        """Rot: change one bit, in the cache and on the device alike."""
        rot(self.image.owned(number), bit)

    def zero_sector(self, path: str, sector: int) -> None:
        """A sector that reads as zeros from now on. Counted as a fault fired."""
        self.fired["zeroed_sector"] += 1
        number = self.image.names[clean(path)]
        inode = self.image.owned(number)
        block, at = divmod(sector * SECTOR, BLOCK)
        for blocks in (inode.cache, inode.device):
            old = blocks.get(block, ZEROS)
            blocks[block] = old[:at] + bytes(SECTOR) + old[at + SECTOR :]
        inode.injure(sector * SECTOR, (sector + 1) * SECTOR, "zeroed_sector")

    def rot_file(self, path: str, bit: int) -> None:
        """Flip a bit of a file by name. Counted as a fault fired."""
        self.fired["bit_rot"] += 1
        self.flip_bit(self.image.names[clean(path)], bit)


def rot(inode: Inode, bit: int) -> None:
    """Flip a bit in the cache, on the device and in what is on its way there."""
    block, at = divmod(bit // 8, BLOCK)

    def flipped(old: bytes) -> bytes:
        data = bytearray(old)
        data[at] ^= 1 << bit % 8
        return bytes(data)

    inode.injure(bit // 8, bit // 8 + 1, "bit_rot")
    inode.cache[block] = flipped(inode.cache.get(block, ZEROS))
    inode.device[block] = flipped(inode.device.get(block, ZEROS))
    rotten = bit // 8 // SECTOR, "bit_rot"
    # Pending operations are shared with forks: replaced, never changed.
    inode.pending = [
        replace(old, blocks=old.blocks | {block: flipped(old.blocks[block])}, wrong=(*old.wrong, rotten))
        if block in old.blocks
        else old
        for old in inode.pending
    ]


def _write_if_room(image: DiskImage, inode: int, offset: int, data: bytes) -> None:
    try:
        image.write(inode, offset, data)
    except DiskFull:
        pass  # It would have failed; its process will never know.

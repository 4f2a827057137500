"""What a disk holds: bytes in the cache, bytes on the device, and the writes between them. No time, no ports, no chance.

A file has two contents: `cache` (what a read returns while the machine has power) and `device` (what a power cut leaves), both
dicts of 4 KB blocks; a missing block is zeros. Between them lie its pending operations in order, each with the blocks as
they were right after it. Names are kept in the same way: the cache's, the device's, and the pending changes to directories.
A `Fates` object decides, at a power cut, what of all that is pending has reached the device.

G1. `sync` moves exactly the operations numbered below the mark given to it; later ones stay pending.
G2. A sector (512 bytes) is never mixed: at a power cut it is what it was after some operation that touched it, or what it was.
    Different sectors, operations and files are independent of each other (torn and reordered) until a sync.
G3. Names become durable by `sync_dir` only, whole changes at a time (a rename is atomic), and a change never before an earlier
    one that it builds on (same name). So a rename may be durable before the bytes of its file.
G4. A process crash keeps the cache; a power cut leaves only the device.
G5. After a failed sync the operations it would have covered are pending no more: the cache still has them, the device may not.
G6. `fork` costs O(files), not O(bytes): contents are shared until one side writes.
G7. Each sector that a fault took away, or put wrong, is known by that fault's name until something lands on it whole.
    (Zeros make nothing good: with them a file that was cut is made long enough again.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from thunderdb.base.errors import DiskFull

BLOCK = 4096
SECTOR = 512
SECTORS_PER_BLOCK = BLOCK // SECTOR
ZEROS = bytes(BLOCK)
LARGE = 16 * BLOCK
TORN = "torn"

Blocks = dict[int, bytes]


class Fates(Protocol):
    """Decides what of the pending operations has reached the device when the power goes."""

    def sectors(self, count: int) -> int:
        """Which of a write's `count` sectors have landed, as a bit mask."""
        ...

    def size(self) -> bool:
        """Whether the new size of a truncate, or of an extending write of which nothing landed, has landed."""
        ...

    def entry(self) -> bool:
        """Whether a change to a directory has landed."""
        ...


@dataclass(slots=True)
class Pending:
    """A write (or, with `blocks` empty and start == end, a truncate to `size`) that no sync has covered yet."""

    number: int
    start: int
    end: int
    size: int
    blocks: Blocks
    truncate: bool = False
    wrong: tuple[tuple[int, str], ...] = ()
    """Sectors that are hurt once it lands, by which fault (G7): it rots on its way, or was meant for another place. Of a
    truncate: those that it cuts off, hurt if it does not land."""


@dataclass(slots=True)
class Entry:
    """A change to names: (name -> inode or None) for each name touched, in the directories named.

    `moved` is (old, new) if a directory was renamed with all that is in it.
    """

    number: int
    dirs: tuple[str, ...]
    names: tuple[tuple[str, int | None], ...]
    moved: tuple[str, str] | None = None


class Inode:
    """One file's contents. `shared` means that another image has it too: copy before a change (G6)."""

    __slots__ = ("cache", "cache_size", "device", "device_size", "pending", "shared", "diverged", "bad", "hurt")

    def __init__(self) -> None:
        self.cache: Blocks = {}
        self.cache_size = 0
        self.device: Blocks = {}
        self.device_size = 0
        self.pending: list[Pending] = []
        self.shared = False
        self.diverged = False  # The cache has what neither the device nor `pending` has (G5).
        self.bad: dict[int, None] = {}
        self.hurt: dict[int, str] = {}  # sector -> fault (G7)

    def copy(self) -> Inode:
        other = Inode()
        other.cache, other.cache_size = dict(self.cache), self.cache_size
        other.device, other.device_size = dict(self.device), self.device_size
        other.pending = list(self.pending)
        other.diverged = self.diverged
        other.bad = dict(self.bad)
        other.hurt = dict(self.hurt)
        return other

    def read(self, offset: int, size: int) -> bytes:
        end = min(offset + size, self.cache_size)
        if end <= offset:
            return b""
        first, skip = divmod(offset, BLOCK)
        last = (end - 1) // BLOCK
        cache = self.cache
        if first == last:
            return cache.get(first, ZEROS)[skip : skip + end - offset]
        data = b"".join([cache.get(number, ZEROS) for number in range(first, last + 1)])
        return data if skip == 0 and end - offset == len(data) else data[skip : skip + end - offset]

    def write(self, number: int, offset: int, data: bytes) -> None:
        """Put bytes into the cache, pending until a sync."""
        end = offset + len(data)
        blocks: Blocks = {}
        cache = self.cache
        position = offset
        if len(data) >= LARGE and offset % BLOCK == 0 == end % BLOCK and data == bytes(len(data)):
            # A log segment made in advance. The blocks share their zeros.
            blocks = dict.fromkeys(range(offset // BLOCK, end // BLOCK), ZEROS)
            cache.update(blocks)
            position = end
        while position < end:
            block, skip = divmod(position, BLOCK)
            count = min(BLOCK - skip, end - position)
            piece = data[position - offset : position - offset + count]
            if count != BLOCK:
                old = cache.get(block, ZEROS)
                piece = old[:skip] + piece + old[skip + count :]
            cache[block] = blocks[block] = piece
            position += count
        self.cache_size = max(self.cache_size, end)
        self.pending.append(Pending(number, offset, end, self.cache_size, blocks))
        if self.bad:
            for block in blocks:
                self.bad.pop(block, None)

    def truncate(self, number: int, size: int) -> None:
        _cut(self.cache, self.cache_size, size)
        self.cache_size = size
        cut_off = tuple((sector, fault) for sector, fault in self.hurt.items() if sector * SECTOR >= size)
        for sector, _ in cut_off:  # now, not when it lands: what is written after it may be hurt anew
            del self.hurt[sector]
        self.pending.append(Pending(number, size, size, size, {}, True, cut_off))

    def sync(self, below: int) -> None:
        """G1: what is numbered below the mark reaches the device."""
        pending = self.pending
        covered = 0
        while covered < len(pending) and pending[covered].number < below:
            self._land(pending[covered])
            covered += 1
        del pending[:covered]

    def fail_sync(self, below: int, fates: Fates) -> None:
        """G5: some of it reaches the device, all of it counts as clean."""
        covered = [operation for operation in self.pending if operation.number < below]
        self.pending = self.pending[len(covered) :]
        self.diverged = self.diverged or bool(covered)
        for operation in covered:
            self.injure(operation.start, operation.end, "sync_error")
            self._land_partly(operation, fates)

    def lie(self, below: int) -> None:
        """A sync says that these are on the device; they stay pending."""
        for operation in self.pending:
            if operation.number < below:
                self.injure(operation.start, operation.end, "lost_sync")

    def injure(self, start: int, end: int, fault: str) -> None:
        """G7."""
        if end > start:
            self.hurt.update(dict.fromkeys(range(start // SECTOR, (end - 1) // SECTOR + 1), fault))

    def stray(self) -> None:
        """What was written last has gone to a wrong place."""
        if self.pending:
            last = self.pending[-1]
            sectors = range(last.start // SECTOR, (last.end - 1) // SECTOR + 1)
            last.wrong = tuple((sector, "misdirected_write") for sector in sectors)
            self.hurt.update(last.wrong)

    def _landed(self, operation: Pending, first: int, last: int) -> None:
        """G7: these sectors are what was written."""
        if self.hurt:
            for sector in range(first, last + 1):
                block, at = divmod(sector, SECTORS_PER_BLOCK)
                if any(self.device[block][at * SECTOR : (at + 1) * SECTOR]):
                    self.hurt.pop(sector, None)
            self.hurt.update((sector, fault) for sector, fault in operation.wrong if first <= sector <= last)

    def power_cut(self, fates: Fates) -> None:
        """G2, G4: decide each pending operation, then forget the cache."""
        for operation in self.pending:
            self._land_partly(operation, fates)
        self.pending = []
        self.diverged = False
        self.cache, self.cache_size = dict(self.device), self.device_size

    def _land(self, operation: Pending) -> None:
        if operation.truncate:
            _cut(self.device, self.device_size, operation.size)
            self.device_size = operation.size
        else:
            self.device.update(operation.blocks)
            self.device_size = max(self.device_size, operation.end)
            self._landed(operation, operation.start // SECTOR, (operation.end - 1) // SECTOR)

    def _land_partly(self, operation: Pending, fates: Fates) -> None:
        if operation.truncate:
            if fates.size():
                self._land(operation)
            else:
                self.hurt = dict(operation.wrong) | self.hurt
            return
        first, last = operation.start // SECTOR, (operation.end - 1) // SECTOR
        count = last - first + 1
        landed = fates.sectors(count)
        if landed == (1 << count) - 1 and operation.start % BLOCK == operation.end % BLOCK == 0:
            self._land(operation)  # Whole blocks only: others would bring their neighbours' bytes along.
            return
        device = self.device
        end = 0
        for index in range(count):
            if landed >> index & 1:
                block, sector = divmod(first + index, SECTORS_PER_BLOCK)
                at = sector * SECTOR
                old = device.get(block, ZEROS)
                device[block] = old[:at] + operation.blocks[block][at : at + SECTOR] + old[at + SECTOR :]
                self._landed(operation, first + index, first + index)
                end = min(operation.end, (first + index + 1) * SECTOR)
        if end == 0 and operation.end > self.device_size and fates.size():
            end = operation.end
        self.device_size = max(self.device_size, end)
        if landed and landed != (1 << count) - 1:
            for sector in range(first, last + 1):
                self.hurt.setdefault(sector, TORN)


class DiskImage:
    """A file system: inodes, names, and what is pending between cache and device. Paths are absolute and clean."""

    __slots__ = ("inodes", "names", "dirs", "device_names", "device_dirs", "entries", "capacity_bytes", "used_bytes", "_number",
                 "_next_inode", "opened", "version", "links", "away")  # fmt: skip

    def __init__(self, capacity_bytes: int = 1 << 50) -> None:
        self.inodes: dict[int, Inode] = {}
        self.names: dict[str, int] = {}
        self.dirs: dict[str, None] = {"/": None}
        self.device_names: dict[str, int] = {}
        self.device_dirs: dict[str, None] = {"/": None}
        self.entries: list[Entry] = []
        self.capacity_bytes = capacity_bytes
        self.used_bytes = 0
        self.opened: dict[int, int] = {}
        self.links: dict[str, str] = {}  # symbolic links, durable at once
        self.away: dict[str, None] = {}  # mounts that do not answer now
        self.version = 0  # grows with every change of what a crash could leave
        self._number = 0
        self._next_inode = 1

    def fork(self) -> DiskImage:
        """A second image with the same content and the same pending operations; neither sees the other's changes."""
        other = DiskImage(self.capacity_bytes)
        for inode in self.inodes.values():
            inode.shared = True
        other.inodes = dict(self.inodes)
        other.names, other.dirs = dict(self.names), dict(self.dirs)
        other.device_names, other.device_dirs = dict(self.device_names), dict(self.device_dirs)
        other.entries = list(self.entries)
        other.used_bytes = self.used_bytes
        other.opened = dict(self.opened)
        other.links = dict(self.links)
        other._number, other._next_inode = self._number, self._next_inode
        return other

    def owned(self, number: int) -> Inode:
        """The inode, for a change."""
        inode = self.inodes[number]
        self.version += 1
        if inode.shared:
            inode = self.inodes[number] = inode.copy()
        return inode

    # Contents.

    def mark(self) -> int:
        """The number that separates what has completed from what has not (G1)."""
        return self._number

    def write(self, number: int, offset: int, data: bytes) -> None:
        inode = self.owned(number)
        if not data:
            return
        end = offset + len(data)
        if end > inode.cache_size:
            self._claim(end - inode.cache_size)
        inode.write(self._number, offset, data)
        self._number += 1

    def truncate(self, number: int, size: int) -> None:
        inode = self.owned(number)
        if size > inode.cache_size:
            self._claim(size - inode.cache_size)
        else:
            self.used_bytes -= inode.cache_size - size
        inode.truncate(self._number, size)
        self._number += 1

    def _claim(self, size_bytes: int) -> None:
        if self.used_bytes + size_bytes > self.capacity_bytes:
            raise DiskFull("no space left on device", hint="free some space on the device")
        self.used_bytes += size_bytes

    # Names.

    def create(self, path: str) -> int:
        number = self._next_inode
        self._next_inode += 1
        self.inodes[number] = Inode()
        self._enter(Entry(self._number, (parent(path),), ((path, number),)))
        return number

    def unlink(self, path: str) -> None:
        self._enter(Entry(self._number, (parent(path),), ((path, None),)))

    def rename(self, old: str, new: str) -> None:
        number = self.names[old]
        self._enter(Entry(self._number, (parent(old), parent(new)), ((old, None), (new, number))))

    def rename_dir(self, old: str, new: str) -> None:
        """Move a directory with all that is in it. Like every change to names it is durable by `sync_dir` only (G3)."""
        self.dirs.pop(new, None)
        self._enter(Entry(self._number, (parent(old), parent(new)), (), (old, new)))

    def make_dir(self, path: str) -> None:
        """Durable at once: `Disk.make_dirs` syncs what it makes."""
        self.version += 1
        for entry in list(self.entries):
            if entry.moved is not None and _inside(path, entry.moved[1]):
                self.sync_dir(entry.moved[1], self._number)  # what it is made in is there first
        self.dirs[path] = None
        self.device_dirs[path] = None

    def remove_dir(self, path: str) -> None:
        """Durable at once, like `make_dir`, and with it that the directory is empty."""
        self.sync_dir(path, self._number)
        self.version += 1
        self.dirs.pop(path, None)
        self.device_dirs.pop(path, None)

    def _enter(self, entry: Entry) -> None:
        _apply(self.names, self.dirs, entry)
        self.entries.append(entry)
        self._number += 1
        self.version += 1
        self._collect()

    def entry_mark(self) -> int:
        """The number below which all changes to names so far lie."""
        return self._number

    def sync_dir(self, path: str, below: int) -> None:
        """G3: every change in this directory numbered below the mark is durable, and each earlier one that it builds on."""
        wanted: dict[str, None] = {}
        landed: list[Entry] = []
        for entry in reversed(self.entries):
            if entry.number < below and (path in entry.dirs or _builds_on(path, wanted, entry)):
                landed.append(entry)
                wanted.update(dict.fromkeys(name for name, _ in entry.names))
                if entry.moved is not None:
                    old, new = entry.moved
                    wanted.update(dict.fromkeys(old + name[len(new) :] for name in list(wanted) if _inside(name, new)))
                    wanted[old] = None
        self.version += bool(landed)
        self.entries = [entry for entry in self.entries if not any(entry is other for other in landed)]
        for entry in reversed(landed):
            _apply(self.device_names, self.device_dirs, entry)
            if entry.moved is not None:
                self._follow(entry)
        self._collect()

    def _follow(self, move: Entry) -> None:
        """A directory's move is durable before some changes in it: those are pending under its new name from now on."""
        old, new = move.moved or ("", "")
        for position, entry in enumerate(self.entries):
            if entry.number < move.number:
                names = tuple((new + name[len(old) :] if _inside(name, old) else name, to) for name, to in entry.names)
                dirs = tuple(new + name[len(old) :] if name == old or _inside(name, old) else name for name in entry.dirs)
                self.entries[position] = Entry(entry.number, dirs, names, entry.moved)  # forks share the old one

    def _collect(self) -> None:
        """Drop the inodes that no name and no open file reaches."""
        if len(self.inodes) == len(self.names) and not self.entries:
            return
        alive = {*self.names.values(), *self.device_names.values(), *self.opened}
        alive.update(number for entry in self.entries for _, number in entry.names if number is not None)
        for number in [number for number in self.inodes if number not in alive]:
            del self.inodes[number]
        self._recount()

    def _recount(self) -> None:
        named = {*self.names.values(), *self.opened}
        self.used_bytes = sum(inode.cache_size for number, inode in self.inodes.items() if number in named)

    def hold(self, number: int, count: int) -> None:
        """Count open handles (+1, -1), so that an unlinked file lives until it is closed."""
        left = self.opened.get(number, 0) + count
        if left > 0:
            self.opened[number] = left
        else:
            self.opened.pop(number, None)
            self._collect()

    # Crashes.

    def kill(self) -> None:
        """G4: the process is gone, the machine is not."""
        self.opened.clear()
        self._collect()

    def power_cut(self, fates: Fates) -> None:
        """G2, G3: decide all that is pending; what is left is what the device has."""
        refused: dict[str, None] = {}
        moves: list[str] = []  # directories whose move was refused: nothing that was done in them later has landed
        for entry in self.entries:
            touched = [*(name for name, _ in entry.names), *(entry.moved or ())]
            blocked = any(name in refused or any(name == to or _inside(name, to) for to in moves) for name in touched)
            if blocked or not fates.entry():
                refused.update(dict.fromkeys(touched))
                moves += entry.moved[1:] if entry.moved is not None else ()
            else:
                _apply(self.device_names, self.device_dirs, entry)
        self.entries = []
        self.opened.clear()
        for number in self.inodes:
            if self.inodes[number].pending or self.inodes[number].diverged:
                self.owned(number).power_cut(fates)
        self.names, self.dirs = dict(self.device_names), dict(self.device_dirs)
        self._collect()
        self._recount()

    def hurt_at(self, path: str, offset: int, size: int) -> str:
        """Which fault has hurt these bytes of a file, and is not made good yet (G7); empty if none."""
        number = self.names.get(path)
        hurt = {} if number is None else self.inodes[number].hurt
        return next((hurt[one] for one in range(offset // SECTOR, (offset + size - 1) // SECTOR + 1) if one in hurt), "")

    def readable(self) -> None:
        """What could not be read can be read again."""
        for number in [number for number, inode in self.inodes.items() if inode.bad]:
            self.owned(number).bad.clear()

    def is_quiet(self) -> bool:
        """Whether a power cut could change nothing."""
        return not self.entries and not any(inode.pending for inode in self.inodes.values())

    def contents(self) -> dict[str, bytes]:
        """Every file as the cache has it (for tests and comparisons)."""
        return {path: self.inodes[self.names[path]].read(0, 1 << 62) for path in sorted(self.names)}


def _cut(blocks: Blocks, old_size: int, size: int) -> None:
    """Forget bytes from `size` on, so that a later growth shows zeros."""
    if size >= old_size:
        return
    block, keep = divmod(size, BLOCK)
    for number in [number for number in blocks if number >= block + (keep > 0)]:
        del blocks[number]
    if keep and block in blocks:
        blocks[block] = blocks[block][:keep] + bytes(BLOCK - keep)


def _apply(names: dict[str, int], dirs: dict[str, None], entry: Entry) -> None:
    if entry.moved is not None:
        old, new = entry.moved
        for path in [path for path in names if _inside(path, old)]:
            names[new + path[len(old) :]] = names.pop(path)
        for path in [path for path in dirs if path == old or _inside(path, old)]:
            del dirs[path]
            dirs[new + path[len(old) :]] = None
    for name, number in entry.names:
        if number is None:
            names.pop(name, None)
        else:
            names[name] = number


def _builds_on(path: str, wanted: dict[str, None], entry: Entry) -> bool:
    """Whether what is synced at `path`, or must land with it, needs this earlier change."""
    if entry.moved is None:
        return any(name in wanted for name, _ in entry.names)
    new = entry.moved[1]
    return path == new or _inside(path, new) or any(name == new or _inside(name, new) for name in wanted)


def _inside(path: str, directory: str) -> bool:
    return path.startswith(directory + "/")


def clean(path: str) -> str:
    """An absolute path without empty or single-dot parts; relative ones start at the root."""
    return "/" + "/".join(part for part in path.split("/") if part not in ("", "."))


def parent(path: str) -> str:
    return path.rpartition("/")[0] or "/"

"""A disk with a cache in front of it: what was not synced lands, is lost or is torn per sector when the power goes.

K1. Each operation is one boundary: with `cut_at=n` the n-th one raises PowerCut instead of happening.
K2. A sync covers the writes that completed before it was called; a name is durable only after sync_dir.
K3. `after_power_cut(fate)` gives the disk that the next start finds; `fate()` says whether a sector, or a name,
    landed.
K4. `after_kill()` gives what the next process finds after kill -9: the cache, with nothing more durable than before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from thunderdb.base.errors import DiskFull, SyncFailed
from thunderdb.runtime.sync import Tasks

SECTOR = 512


class PowerCut(BaseException):
    """The machine is gone; nothing may catch this."""


@dataclass
class Inode:
    cached: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)  # (offset, data), or (size, None) for a truncate


def put(data: bytearray, offset: int, piece: bytes) -> None:
    if len(data) < offset + len(piece):
        data.extend(bytes(offset + len(piece) - len(data)))
    data[offset : offset + len(piece)] = piece


def cut(data: bytearray, size: int) -> None:
    del data[size:]
    data.extend(bytes(size - len(data)))


class CrashDisk:
    def __init__(self, tasks: Tasks | None = None, cut_at: int = -1) -> None:
        self.tasks = tasks
        self.cut_at = cut_at
        self.operations = 0
        self.log: list[str] = []
        self.names: dict[str, Inode] = {}
        self.durable_names: dict[str, Inode] = {}
        self.pending_names: list[tuple[str, Inode | None]] = []
        self.fail_sync: Callable[[str], bool] = lambda path: False
        self.room: int | None = None  # bytes that files may still grow by

    async def step(self, what: str) -> None:
        self.operations += 1
        if 0 <= self.cut_at < self.operations:
            raise PowerCut(what)
        self.log.append(what)
        if self.tasks is not None:
            await self.tasks.yield_now()

    def claim(self, size: int) -> None:
        if self.room is not None and size > 0:
            if size > self.room:
                raise DiskFull("no space left on device")
            self.room -= size

    # -- the port ------------------------------------------------------------------------------------------------------

    async def open(self, path: str, *, create: bool = False, exclusive: bool = False, writable: bool = True) -> CrashFile:
        if path not in self.names:
            if not create:
                raise FileNotFoundError(path)
            await self.step(f"create {path}")
            inode = self.names[path] = Inode()
            self.pending_names.append((path, inode))
        elif exclusive:
            raise FileExistsError(path)
        return CrashFile(self, path, self.names[path])

    async def read_file(self, path: str) -> bytes:
        if path not in self.names:
            raise FileNotFoundError(path)
        return bytes(self.names[path].cached)

    async def exists(self, path: str) -> bool:
        return path in self.names

    async def is_dir(self, path: str) -> bool:
        return any(name.startswith(path + "/") for name in self.names)

    async def list(self, path: str) -> list[str]:
        return sorted(name.rpartition("/")[2] for name in self.names if name.rpartition("/")[0] == path)

    async def make_dirs(self, path: str) -> None:
        return None

    async def rename(self, old: str, new: str) -> None:
        await self.step(f"rename {old} {new}")
        if old not in self.names:
            raise FileNotFoundError(old)
        inode = self.names.pop(old)
        self.names[new] = inode
        self.pending_names += [(old, None), (new, inode)]

    async def unlink(self, path: str) -> None:
        await self.step(f"unlink {path}")
        if path not in self.names:
            raise FileNotFoundError(path)
        inode = self.names.pop(path)
        self.pending_names.append((path, None))
        if self.room is not None:
            self.room += len(inode.cached)

    async def sync_dir(self, path: str) -> None:
        await self.step(f"sync_dir {path}")
        self.pending_names.clear()
        self.durable_names = dict(self.names)

    async def free_bytes(self, path: str) -> int:
        return 1 << 40 if self.room is None else self.room

    async def lock(self, path: str) -> object:
        raise NotImplementedError

    # -- afterwards ----------------------------------------------------------------------------------------------------

    def after_power_cut(self, fate: Callable[[], bool], tasks: Tasks | None = None) -> CrashDisk:
        disk = CrashDisk(tasks)
        names = dict(self.durable_names)
        # The two halves of a rename are journalled together; different names land or not on their own.
        at = 0
        while at < len(self.pending_names):
            group = self.pending_names[at : at + 1]
            if group[0][1] is None and at + 1 < len(self.pending_names) and self.pending_names[at + 1][1] is not None:
                group = self.pending_names[at : at + 2]
            at += len(group)
            if fate():
                for name, inode in group:
                    if inode is None:
                        names.pop(name, None)
                    else:
                        names[name] = inode
        fresh: dict[int, Inode] = {}
        for name in sorted(names):
            inode = names[name]
            if id(inode) not in fresh:
                data = self._landed(inode, fate)
                fresh[id(inode)] = Inode(bytearray(data), bytearray(data))
            disk.names[name] = disk.durable_names[name] = fresh[id(inode)]
        return disk

    @staticmethod
    def _landed(inode: Inode, fate: Callable[[], bool]) -> bytearray:
        data = bytearray(inode.durable)
        for offset, piece in inode.pending:
            if piece is None:
                if fate():
                    cut(data, offset)
                continue
            at = 0
            while at < len(piece):
                stop = min(len(piece), (offset + at) // SECTOR * SECTOR + SECTOR - offset)
                if fate():
                    put(data, offset + at, piece[at:stop])
                at = stop
        return data

    def after_kill(self, tasks: Tasks | None = None) -> CrashDisk:
        disk = CrashDisk(tasks)
        copies = {
            id(i): Inode(i.cached[:], i.durable[:], list(i.pending))
            for i in [*self.names.values(), *self.durable_names.values()]
        }
        copies |= {
            id(i): Inode(i.cached[:], i.durable[:], list(i.pending)) for _, i in self.pending_names if i and id(i) not in copies
        }
        disk.names = {name: copies[id(inode)] for name, inode in self.names.items()}
        disk.durable_names = {name: copies[id(inode)] for name, inode in self.durable_names.items()}
        disk.pending_names = [(name, copies[id(inode)] if inode else None) for name, inode in self.pending_names]
        return disk


class CrashFile:
    def __init__(self, disk: CrashDisk, path: str, inode: Inode) -> None:
        self.path = path
        self.disk = disk
        self.inode = inode
        self.closed = False

    async def read(self, offset: int, size: int) -> bytes:
        if self.disk.tasks is not None:
            await self.disk.tasks.yield_now()
        if self.closed:
            raise ValueError(f"file is closed: {self.path}")
        return bytes(self.inode.cached[offset : offset + size])

    def read_now(self, offset: int, size: int) -> bytes | None:
        return None

    async def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        self.disk.claim(offset + len(data) - len(self.inode.cached))
        piece = bytes(data)
        put(self.inode.cached, offset, piece)
        self.inode.pending.append((offset, piece))  # in doubt from the moment it is begun
        await self.disk.step(f"write {self.path} {offset} {len(piece)}")

    async def truncate(self, size: int) -> None:
        cut(self.inode.cached, size)
        self.inode.pending.append((size, None))
        await self.disk.step(f"truncate {self.path} {size}")

    async def allocate(self, size: int) -> None:
        await self.truncate(max(size, len(self.inode.cached)))

    async def sync(self) -> None:
        covered = len(self.inode.pending)
        if self.disk.fail_sync(self.path):
            del self.inode.pending[:covered]  # the cache keeps them, the disk never gets them
            raise SyncFailed(f"fsync of {self.path} failed")
        await self.disk.step(f"sync {self.path}")
        for offset, piece in self.inode.pending[:covered]:
            if piece is None:
                cut(self.inode.durable, offset)
            else:
                put(self.inode.durable, offset, piece)
        del self.inode.pending[:covered]

    async def size(self) -> int:
        return len(self.inode.cached)

    async def close(self) -> None:
        self.closed = True

"""The smallest world in which engine code runs: virtual time, memory for a disk, no faults. For unit tests and offline tools.

    result = run_inline(coro)                     a coroutine that needs no scheduler of its own
    world = InlineWorld(); world.run(coro)        with clock, disk, tasks and the rest of `Ports`

N1. Callbacks run in the order in which they were queued; timers in the order of their time, then of their making.
N2. Time stands still while anything is ready, and jumps to the next timer when nothing is.
N3. A main coroutine that can never end (nothing ready, no timer) is an error, not a hang.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from thunderdb.base.errors import ConfigError, DiskFull, InvariantViolated, Refused, StorageError
from thunderdb.runtime.ports import Connection, Listener, ObjectStore
from thunderdb.runtime.sync import Task, Tasks

T = TypeVar("T")

EPOCH_NS = 1_767_225_600_000_000_000  # 2026-01-01 UTC: a wall clock that is the same in every run


class InlineTimer:
    """A callback in the scheduler's heap; cancelled by forgetting the callback."""

    __slots__ = ("callback", "args")

    def __init__(self, callback: Callable[..., None], args: tuple[Any, ...]) -> None:
        self.callback: Callable[..., None] | None = callback
        self.args = args

    def cancel(self) -> None:
        self.callback = None
        self.args = ()


class InlineScheduler:
    """A deque of what is ready and a heap of timers, in virtual nanoseconds."""

    __slots__ = ("now_ns", "_ready", "_timers", "_sequence")

    def __init__(self) -> None:
        self.now_ns = 0
        self._ready: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._timers: list[tuple[int, int, InlineTimer]] = []
        self._sequence = 0

    def call_soon(self, callback: Callable[..., None], *args: Any) -> None:
        self._ready.append((callback, args))

    def call_later(self, delay_ns: int, callback: Callable[..., None], *args: Any) -> InlineTimer:
        timer = InlineTimer(callback, args)
        self._sequence += 1
        heapq.heappush(self._timers, (self.now_ns + max(0, delay_ns), self._sequence, timer))
        return timer

    def work(self, kind: str, count: int) -> int:
        return 0

    def crashed(self, error: BaseException) -> None:
        raise error

    def turn(self) -> bool:
        """Run one callback, moving time if nothing is ready; return False when there is nothing left to do."""
        if self._ready:
            callback, args = self._ready.popleft()
            callback(*args)
            return True
        while self._timers:
            due_ns, _, timer = heapq.heappop(self._timers)
            if timer.callback is not None:
                self.now_ns = max(self.now_ns, due_ns)
                timer.callback(*timer.args)
                return True
        return False

    def run(self, coro: Coroutine[Any, Any, T]) -> T:
        """Drive `coro` to its end. Raises: whatever it raises; InvariantViolated if it can never end (N3)."""
        task: Task[T] = Tasks(self).spawn(coro, "main")
        while not task.done():
            if not self.turn():
                raise InvariantViolated("deadlock: the main coroutine waits and nothing is left that could wake it")
        return task.result()

    def settle(self) -> None:
        """Run all that is ready now, without moving time."""
        while self._ready:
            self.turn()


class InlineClock:
    """Virtual time; `wall_offset_ns` may be changed by a test to make the wall clock jump."""

    __slots__ = ("_scheduler", "wall_offset_ns")

    def __init__(self, scheduler: InlineScheduler, wall_offset_ns: int = EPOCH_NS) -> None:
        self._scheduler = scheduler
        self.wall_offset_ns = wall_offset_ns

    def wall_ns(self) -> int:
        return self._scheduler.now_ns + self.wall_offset_ns

    def monotonic_ns(self) -> int:
        return self._scheduler.now_ns


class InlineRandom:
    """A 64-bit linear congruential generator: the same bits in every run."""

    __slots__ = ("_state",)

    def __init__(self, seed: int = 1) -> None:
        self._state = seed

    def bits(self, count: int) -> int:
        value = 0
        for _ in range((count + 31) // 32):
            self._state = (self._state * 6364136223846793005 + 1442695040888963407) & (2**64 - 1)
            value = value << 32 | self._state >> 32
        return value & ((1 << count) - 1)


class InlineOffload:
    """Runs the function at once."""

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        return function(*args)


class InlineCommand:
    """Answers each command with a canned (status, stderr or captured stdout) and remembers what was asked."""

    def __init__(self, status: int = 0, stderr: str = "") -> None:
        self.answer = (status, stderr)
        self.commands: list[str] = []

    async def run(self, command: str, timeout_s: float) -> tuple[int, str]:
        self.commands.append(command)
        return self.answer

    async def capture(self, command: str, timeout_s: float) -> tuple[int, bytes]:
        status, output = await self.run(command, timeout_s)
        return status, output.encode()


class MemoryFile:
    """An open file: a view of bytes that all who opened it share."""

    __slots__ = ("path", "data", "_disk", "_writable", "_open")

    def __init__(self, disk: MemoryDisk, path: str, data: bytearray, writable: bool) -> None:
        self.path = path
        self.data = data
        self._disk = disk
        self._writable = writable
        self._open = True

    def _check(self, writing: bool = False) -> None:
        if not self._open:
            raise ValueError(f"file is closed: {self.path}")
        if writing and not self._writable:
            raise PermissionError(f"not open for writing: {self.path}")

    async def read(self, offset: int, size: int) -> bytes:
        self._check()
        await self._disk.pause()
        return bytes(self.data[offset : offset + size])

    def read_now(self, offset: int, size: int) -> bytes | None:
        self._check()
        return None if self._disk.suspends else bytes(self.data[offset : offset + size])

    async def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        self._check(writing=True)
        await self._disk.pause()
        end = offset + len(data)
        if end > len(self.data):
            self._disk.claim(end - len(self.data))
            self.data.extend(bytes(end - len(self.data)))
        self.data[offset:end] = data

    async def truncate(self, size: int) -> None:
        self._check(writing=True)
        await self._disk.pause()
        if size > len(self.data):
            self._disk.claim(size - len(self.data))
            self.data.extend(bytes(size - len(self.data)))
        else:
            del self.data[size:]

    async def allocate(self, size: int) -> None:
        await self.truncate(max(size, len(self.data)))

    async def sync(self) -> None:
        self._check()
        await self._disk.pause()
        self._disk.syncs += 1

    async def size(self) -> int:
        self._check()
        return len(self.data)

    async def close(self) -> None:
        self._open = False


class MemoryLock:
    __slots__ = ("_disk", "_path")

    def __init__(self, disk: MemoryDisk, path: str) -> None:
        self._disk = disk
        self._path = path

    async def release(self) -> None:
        self._disk.locks.pop(self._path, None)


class MemoryDisk:
    """A file system in memory that never fails, unless `capacity_bytes` is reached.

    With a scheduler, each operation suspends once, so that tests see the interleavings of a real disk.
    `files` (path -> bytearray) is there for tests to look at and to damage.
    """

    def __init__(self, scheduler: InlineScheduler | None = None, capacity_bytes: int | None = None) -> None:
        self.files: dict[str, bytearray] = {}
        self.dirs: dict[str, None] = {"/": None, ".": None}
        self.modes: dict[str, int] = {}  # where a test sets them; 0600 otherwise
        self.locks: dict[str, None] = {}
        self.capacity_bytes = capacity_bytes
        self.syncs = 0
        self.suspends = scheduler is not None
        self._tasks = Tasks(scheduler) if scheduler is not None else None

    async def pause(self) -> None:
        if self._tasks is not None:
            await self._tasks.yield_now()

    def claim(self, size_bytes: int) -> None:
        if self.capacity_bytes is not None and size_bytes > self._free():
            raise DiskFull("no space left on device", hint="free some space on the device")

    def _free(self) -> int:
        capacity = self.capacity_bytes if self.capacity_bytes is not None else 1 << 50
        return capacity - sum(map(len, self.files.values()))

    async def open(self, path: str, *, create: bool = False, exclusive: bool = False, writable: bool = True) -> MemoryFile:
        await self.pause()
        path = _clean(path)
        data = self.files.get(path)
        if data is None:
            if path in self.dirs:
                raise StorageError(f"cannot open {path}: Is a directory")
            if not create:
                raise FileNotFoundError(f"no such file: {path}")
            self._require_dir(_parent(path))
            data = self.files[path] = bytearray()
        elif exclusive:
            raise FileExistsError(f"file exists: {path}")
        return MemoryFile(self, path, data, writable)

    async def read_file(self, path: str) -> bytes:
        await self.pause()
        data = self.files.get(_clean(path))
        if data is None:
            raise FileNotFoundError(f"no such file: {path}")
        return bytes(data)

    async def exists(self, path: str) -> bool:
        return _clean(path) in self.files or _clean(path) in self.dirs

    async def is_dir(self, path: str) -> bool:
        return _clean(path) in self.dirs

    async def mode(self, path: str) -> int:
        if _clean(path) not in self.files:
            raise FileNotFoundError(2, "No such file or directory", path)
        return self.modes.get(_clean(path), 0o600)

    async def list(self, path: str) -> list[str]:
        path = _clean(path)
        self._require_dir(path)
        return sorted(_name(entry) for entry in [*self.files, *self.dirs] if _parent(entry) == path and entry not in ("/", "."))

    async def make_dirs(self, path: str) -> None:
        path = _clean(path)
        if path in self.files:
            raise FileExistsError(f"not a directory: {path}")
        if path not in self.dirs:
            await self.make_dirs(_parent(path))
            self.dirs[path] = None

    async def rename(self, old: str, new: str) -> None:
        await self.pause()
        old, new = _clean(old), _clean(new)
        self._require_dir(_parent(new))
        if old in self.files:
            self.files[new] = self.files.pop(old)
        elif old in self.dirs:
            self._rename_dir(old, new)
        else:
            raise FileNotFoundError(f"no such file: {old}")

    def _rename_dir(self, old: str, new: str) -> None:
        inside = old + "/"
        self.dirs = {new + path[len(old) :] if path == old or path.startswith(inside) else path: None for path in self.dirs}
        self.files = {new + path[len(old) :] if path.startswith(inside) else path: data for path, data in self.files.items()}

    async def rename_new(self, old: str, new: str) -> None:
        if _clean(new) in self.files:
            raise FileExistsError(f"file exists: {new}")
        await self.rename(old, new)

    async def remove_dir(self, path: str) -> None:
        path = _clean(path)
        self._require_dir(path)
        if await self.list(path):
            raise StorageError(f"cannot remove directory {path}: Directory not empty")
        del self.dirs[path]

    async def symlink(self, target: str, path: str) -> None:
        raise StorageError(f"cannot link {path}: no links in this world")

    async def resolve(self, path: str) -> str:
        return _clean(path)

    async def unlink(self, path: str) -> None:
        await self.pause()
        if _clean(path) in self.dirs:
            raise StorageError(f"cannot remove {path}: it is a directory")
        if self.files.pop(_clean(path), None) is None:
            raise FileNotFoundError(f"no such file: {path}")

    async def sync_dir(self, path: str) -> None:
        await self.pause()
        self._require_dir(_clean(path))

    async def free_bytes(self, path: str) -> int:
        return self._free()

    async def lock(self, path: str) -> MemoryLock:
        path = _clean(path)
        where = path if path in self.dirs else _parent(path)
        if where in self.locks:
            raise Refused(f"{path} is locked by another process", hint="stop the other process first")
        self._require_dir(where)
        self.locks[where] = None
        if path not in self.dirs:
            self.files.setdefault(path, bytearray())
        return MemoryLock(self, where)

    def _require_dir(self, path: str) -> None:
        if path not in self.dirs:
            raise FileNotFoundError(f"no such directory: {path}")


def _clean(path: str) -> str:
    parts = [part for part in path.split("/") if part not in ("", ".")]
    return "/" + "/".join(parts) if path.startswith("/") else "/".join(parts) or "."


def _parent(path: str) -> str:
    head, slash, _ = path.rpartition("/")
    return head or ("/" if slash else ".")


def _name(path: str) -> str:
    return path.rpartition("/")[2]


class NoNetwork:
    """Nothing is reachable and nothing can be listened on."""

    async def connect(self, host: str, port: int) -> Connection:
        raise ConnectionError(f"no network: {host}:{port}")

    async def listen(self, host: str, port: int, on_connect: Callable[[Connection], None]) -> Listener:
        raise ConnectionError(f"no network: {host}:{port}")


class NoStores:
    """There is no object store."""

    def open(self, url: str) -> ObjectStore:
        raise ConfigError(f"no object store in this world: {url}")


class InlineWorld:
    """All ports over one InlineScheduler. Satisfies `Ports`."""

    def __init__(self, *, suspend: bool = False, capacity_bytes: int | None = None) -> None:
        self.scheduler = InlineScheduler()
        self.tasks = Tasks(self.scheduler)
        self.clock = InlineClock(self.scheduler)
        self.disk = MemoryDisk(self.scheduler if suspend else None, capacity_bytes)
        self.network = NoNetwork()
        self.random = InlineRandom()
        self.offload = InlineOffload()
        self.command = InlineCommand()
        self.stores = NoStores()

    def run(self, coro: Coroutine[Any, Any, T]) -> T:
        return self.scheduler.run(coro)


def run_inline(coro: Coroutine[Any, Any, T], scheduler: InlineScheduler | None = None) -> T:
    """Drive `coro` to its end, on its own scheduler unless one is given."""
    return (scheduler or InlineScheduler()).run(coro)

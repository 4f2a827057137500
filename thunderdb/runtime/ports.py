"""The engine's only doors to the outside. Production opens them onto the machine, the simulator onto its world.

P1. Everything that takes time is `async`; everything that is `async` suspends only through `sync.Future`.
P2. A `File.sync` covers exactly the writes (and truncates) that completed before it was *called*.
P3. A created, renamed or unlinked name is durable only after `Disk.sync_dir` of its directory.
P4. After the simulator revokes a port, each call on it raises; nothing reaches the disk after a crash.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Clock(Protocol):
    def wall_ns(self) -> int:
        """Nanoseconds since 1970-01-01 UTC; may jump, skew and drift."""
        ...

    def monotonic_ns(self) -> int:
        """Nanoseconds from an arbitrary start; never goes back while the process lives."""
        ...


class Random(Protocol):
    def bits(self, count: int) -> int:
        """Return `count` random bits as an integer (system ids, cancel keys)."""
        ...


class Timer(Protocol):
    def cancel(self) -> None: ...


class Scheduler(Protocol):
    """What `sync.Tasks` stands on: run a callback soon, or later. Order among equal times is the scheduler's to choose."""

    def call_soon(self, callback: Callable[..., None], *args: Any) -> None: ...

    def call_later(self, delay_ns: int, callback: Callable[..., None], *args: Any) -> Timer: ...

    def work(self, kind: str, count: int) -> int:
        """Account for CPU-heavy work of a kind; return the nanoseconds to pause for (0 in production: just yield)."""
        ...

    def crashed(self, error: BaseException) -> None:
        """A detached task ended with an error that nobody awaits: the node must stop."""
        ...


class File(Protocol):
    """An open file. Offsets and sizes in bytes."""

    path: str

    async def read(self, offset: int, size: int) -> bytes:
        """Return up to `size` bytes; fewer only at the end of the file. Raises: StorageError."""
        ...

    def read_now(self, offset: int, size: int) -> bytes | None:
        """What `read` would return, if it can be had without waiting; None if not, or if that is not known."""
        ...

    async def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write all of `data`; extends the file (with zeros before `offset`) if need be.

        Raises: DiskFull, StorageError. Crash: an unsynced write lands whole, not at all, or torn per 512-byte sector.
        """
        ...

    async def truncate(self, size: int) -> None: ...

    async def allocate(self, size: int) -> None:
        """Reserve room for the first `size` bytes; what is new of them reads as zeros. Raises: DiskFull."""
        ...

    async def sync(self) -> None:
        """Make all writes that completed before this call durable (fdatasync). Raises: SyncFailed."""
        ...

    async def size(self) -> int: ...

    async def close(self) -> None: ...


class DirLock(Protocol):
    async def release(self) -> None: ...


class Disk(Protocol):
    """A node's file system. Paths are POSIX strings."""

    async def open(self, path: str, *, create: bool = False, exclusive: bool = False, writable: bool = True) -> File:
        """Open for reading and writing, created empty (mode 0600) if `create`.

        Raises: FileNotFoundError, FileExistsError (with `exclusive`), PermissionError, StorageError, DiskFull.
        """
        ...

    async def read_file(self, path: str) -> bytes:
        """The whole file. Raises: FileNotFoundError, StorageError."""
        ...

    async def exists(self, path: str) -> bool: ...

    async def is_dir(self, path: str) -> bool: ...

    async def mode(self, path: str) -> int:
        """Permission bits of a file (or of what a link leads to). Raises: FileNotFoundError."""
        ...

    async def list(self, path: str) -> list[str]:
        """Names in a directory, sorted. Raises: FileNotFoundError."""
        ...

    async def make_dirs(self, path: str) -> None:
        """Create a directory (mode 0700) and its parents, and sync them; fine if it is one. Raises: FileExistsError."""
        ...

    async def rename(self, old: str, new: str) -> None:
        """Atomically replace `new`. Durable when: sync_dir of the directory."""
        ...

    async def rename_new(self, old: str, new: str) -> None:
        """Rename a file unless `new` is there. Raises: FileExistsError. Durable when: sync_dir of the directory."""
        ...

    async def unlink(self, path: str) -> None: ...

    async def remove_dir(self, path: str) -> None:
        """Remove an empty directory. Raises: FileNotFoundError, StorageError if it is not empty."""
        ...

    async def symlink(self, target: str, path: str) -> None:
        """Make `path` a symbolic link to `target`, replacing a link that is there already, atomically.

        Raises: PermissionError, StorageError where the file system has no links. Durable when: sync_dir of the directory.
        """
        ...

    async def resolve(self, path: str) -> str:
        """The path without symbolic links, whether it exists or not."""
        ...

    async def sync_dir(self, path: str) -> None: ...

    async def free_bytes(self, path: str) -> int: ...

    async def lock(self, path: str) -> DirLock:
        """Take an exclusive lock held until release or process death: of a directory, or of the one in which this file is.

        The file is made if it is absent, and names the holder; removing it does not let go of the lock.
        Raises: Refused if another process holds it.
        """
        ...


class Connection(Protocol):
    """One side of a byte stream. Bytes come by the `on_data` callback given to connect or listen."""

    peer: str

    @property
    def write_buffer_bytes(self) -> int:
        """Bytes written that have not left this machine."""
        ...

    def set_callbacks(self, on_data: Callable[[bytes], None], on_close: Callable[[BaseException | None], None]) -> None: ...

    def write(self, data: bytes) -> None:
        """Queue bytes for the peer; never blocks. Silently dropped once closed."""
        ...

    async def drain(self) -> None:
        """Wait until the peer has taken enough that more may be queued (bounds memory)."""
        ...

    def pause(self) -> None:
        """Stop delivering `on_data` until `resume`."""
        ...

    def resume(self) -> None: ...

    def close(self) -> None: ...

    def abort(self) -> None: ...


class Listener(Protocol):
    port: int

    async def close(self) -> None: ...


class Network(Protocol):
    async def connect(self, host: str, port: int) -> Connection:
        """Raises: ConnectionError."""
        ...

    async def listen(self, host: str, port: int, on_connect: Callable[[Connection], None]) -> Listener:
        """Raises: StorageError naming host and port when the address is taken or not ours."""
        ...


@dataclass(frozen=True, slots=True)
class Stored:
    """An object as a listing shows it. `key` is relative to the store; `modified_ns` is wall time, 0 if unknown."""

    key: str
    size_bytes: int
    modified_ns: int = 0


class StoreWriter(Protocol):
    """A new object, written front to back; nobody sees it before `close`."""

    async def write(self, data: bytes | memoryview) -> None: ...

    async def close(self) -> None:
        """Durable and visible when: it returns. Raises: StorageError, DiskFull; then nothing is there."""
        ...

    async def abort(self) -> None:
        """Leave nothing behind; never raises."""
        ...


class ObjectStore(Protocol):
    """Named objects under one place: a directory, a bucket's prefix. Keys are relative, parts separated by `/`.

    Each call raises FileNotFoundError where the key is not there, and StorageError for all other trouble after the
    implementation's own retries, naming the place but never a secret.
    """

    place: str

    @property
    def request_bytes(self) -> int:
        """What to ask for at once, where several requests are to be under way."""
        ...

    async def get(self, key: str) -> bytes: ...

    async def get_range(self, key: str, offset: int, size: int) -> bytes:
        """Up to `size` bytes; fewer only at the end of the object."""
        ...

    async def size(self, key: str) -> int | None:
        """Its size in bytes, None if it is not there."""
        ...

    async def put(self, key: str, data: bytes) -> None:
        """Create or replace, atomically. Durable when: it returns."""
        ...

    async def put_new(self, key: str, data: bytes) -> bool:
        """Create; False, and nothing changed, if the key exists. Atomic among all writers."""
        ...

    async def writer(self, key: str, requests: int = 1) -> StoreWriter:
        """Begin a (large) object; an object of that name is replaced when it closes. At most `requests` are under way."""
        ...

    async def list(self, prefix: str = "") -> list[Stored]:
        """All objects whose key begins with `prefix`, sorted by key. Unfinished ones are not listed."""
        ...

    async def delete(self, key: str) -> None:
        """Remove it; fine if it is not there. Durable when: it returns."""
        ...


class Stores(Protocol):
    """Object stores by URL: s3://bucket/prefix, gs://…, az://container/prefix."""

    def open(self, url: str) -> ObjectStore:
        """Raises: ConfigError for a URL of no known kind, or where the client library is not installed."""
        ...


class Offload(Protocol):
    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """Run a pure, GIL-releasing function of bytes off the loop (compression, hashing, DuckDB)."""
        ...


class Command(Protocol):
    async def run(self, command: str, timeout_s: float) -> tuple[int, str]:
        """Run a shell command; return (exit status, tail of stderr). Raises: TimeoutError."""
        ...

    async def capture(self, command: str, timeout_s: float) -> tuple[int, bytes]:
        """Run a shell command; return (exit status, at most 64 KB of stdout). Raises: TimeoutError, without the command."""
        ...


class Ports(Protocol):
    """All that a node gets from outside."""

    @property
    def clock(self) -> Clock: ...
    @property
    def disk(self) -> Disk: ...
    @property
    def network(self) -> Network: ...
    @property
    def random(self) -> Random: ...
    @property
    def offload(self) -> Offload: ...
    @property
    def command(self) -> Command: ...
    @property
    def stores(self) -> Stores: ...
    @property
    def tasks(self) -> Any: ...  # sync.Tasks; typed there, since sync stands on this module


Coro = Coroutine[Any, Any, T]

"""`Disk` on a POSIX file system.

R1. Reads of cached data and small writes run inline; what may block for long (uncached reads, whatever is large) runs in a
    thread, fdatasync in the kernel's own (real_uring.py), so that the loop keeps serving.
R2. A failed fsync raises SyncFailed whatever its errno: the operating system may have marked the pages clean (W4).
R3. A descriptor is closed only after every thread and every sync that still uses it has finished.
R4. Names made by `make_dirs` are durable when it returns, also those that a killed process had made but not synced.
R5. `rename_new` links and unlinks; where a file system has no hard links (CIFS, exFAT), Linux's RENAME_NOREPLACE does it.
R6. What cannot be looked at is an error, never taken for missing: a mount that does not answer is no empty directory.
R7. A lock is the directory's, not its lock file's: whoever removes that file, as a stale one, lets no second process in.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
from collections.abc import Callable
from typing import Any, TypeVar

from thunderdb.base.errors import DiskFull, Refused, StorageError, SyncFailed
from thunderdb.runtime.real_offload import Threads
from thunderdb.runtime.real_tasks import AsyncioScheduler
from thunderdb.runtime.real_uring import SyncRing, open_ring
from thunderdb.runtime.sync import Future

T = TypeVar("T")

FILE_MODE = 0o600
DIRECTORY_MODE = 0o700
INLINE_WRITE_BYTES = 256 * 1024
INLINE_READ_BYTES = 1 << 20
WRITE_PIECE_BYTES = 512 << 10
"""At most so much in one call: for two megabytes at once the kernel looks for a page of that size, at four times the CPU."""
SCRATCH_BYTES = 32 * 1024
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL)
_NO_FLAGS = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)
_NO_NOWAIT = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)
_OURS_TO_PASS_ON = (FileNotFoundError, NotADirectoryError, FileExistsError, PermissionError)


def translate(error: OSError, action: str, path: str) -> Exception:
    """Turn an OSError into the error that the port promises."""
    if isinstance(error, _OURS_TO_PASS_ON):
        return error
    reason = os.strerror(error.errno) if error.errno else str(error)
    message = f"cannot {action} {path}: {reason}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(message, hint="free some space on the device, or raise the quota")
    if error.errno == errno.EMFILE:
        return StorageError(message, "raise the limit of open files (ulimit -n)")
    if error.errno == errno.EROFS:
        return StorageError(message, "the file system is mounted read-only")
    return StorageError(message)


class RealFile:
    """An open descriptor."""

    __slots__ = ("path", "_disk", "_fd", "_users", "_idle")

    def __init__(self, disk: RealDisk, path: str, fd: int) -> None:
        self.path = path
        self._disk = disk
        self._fd = fd
        self._users = 0
        self._idle: Future[None] | None = None

    async def read(self, offset: int, size: int) -> bytes:
        fd = self._descriptor()
        if size > INLINE_READ_BYTES:
            return await self._in_thread("read", _pread_all, fd, offset, size)
        if self._disk.nowait_reads:
            data = self._read_cached(fd, offset, size)
            if data is not None:
                return data
            return await self._in_thread("read", _pread_all, fd, offset, size)
        try:
            return _pread_all(fd, offset, size)
        except OSError as error:
            raise translate(error, "read", self.path) from error

    def read_now(self, offset: int, size: int) -> bytes | None:
        if size > INLINE_READ_BYTES or not self._disk.nowait_reads:
            return None
        return self._read_cached(self._descriptor(), offset, size)

    def _read_cached(self, fd: int, offset: int, size: int) -> bytes | None:
        """The bytes, if none of them has to come from the device."""
        buffer = memoryview(self._disk.scratch)[:size] if size <= SCRATCH_BYTES else memoryview(bytearray(size))
        try:
            count = os.preadv(fd, [buffer], offset, os.RWF_NOWAIT)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno not in _NO_NOWAIT:
                raise translate(error, "read", self.path) from error
            self._disk.nowait_reads = False
            return None
        if count == size:
            return bytes(buffer)
        # Short: either the end of the file, or the rest is not cached.
        return bytes(buffer[:count]) if offset + count >= os.fstat(fd).st_size else None

    async def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        fd = self._descriptor()
        if len(data) > INLINE_WRITE_BYTES:
            await self._in_thread("write", _pwrite_all, fd, offset, data)
            return
        try:
            _pwrite_all(fd, offset, data)
        except OSError as error:
            raise translate(error, "write", self.path) from error

    async def truncate(self, size: int) -> None:
        try:
            os.ftruncate(self._descriptor(), size)
        except OSError as error:
            raise translate(error, "truncate", self.path) from error

    async def allocate(self, size: int) -> None:
        if size:
            await self._in_thread("allocate", os.posix_fallocate, self._descriptor(), 0, size)

    async def sync(self) -> None:
        try:
            await self._using(self._disk.fdatasync(self._descriptor()))
        except OSError as error:
            raise SyncFailed(f"cannot sync {self.path}: {error.strerror}") from error

    async def size(self) -> int:
        return os.fstat(self._descriptor()).st_size

    async def close(self) -> None:
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        if self._users:
            self._idle = Future(self._disk.scheduler)
            await self._idle
        os.close(fd)

    def _descriptor(self) -> int:
        if self._fd < 0:
            raise ValueError(f"file is closed: {self.path}")
        return self._fd

    async def _in_thread(self, action: str, function: Callable[..., T], *args: Any) -> T:
        try:
            return await self._using(self._disk.threads.submit(function, *args))
        except OSError as error:
            raise translate(error, action, self.path) from error

    async def _using(self, work: Future[T]) -> T:
        """Await what works with the descriptor, which is in use until that is done, whoever still waits for it (R3)."""
        self._users += 1
        try:
            return await work
        finally:
            if work.done():
                self._not_using(work)
            else:  # cancelled: a descriptor closed now would soon be another file's, and be written to as that
                work.add_done_callback(self._not_using)

    def _not_using(self, work: Future[Any]) -> None:
        self._users -= 1
        if self._users == 0 and self._idle is not None:
            self._idle.set_result(None)


class RealLock:
    """flocks, held until release or the end of the process."""

    __slots__ = ("_fds",)

    def __init__(self, fds: list[int]) -> None:
        self._fds = fds

    async def release(self) -> None:
        fds, self._fds = self._fds, []
        for fd in fds:
            os.close(fd)


class RealDisk:
    """The machine's file system."""

    def __init__(self, scheduler: AsyncioScheduler, workers: int = 4) -> None:
        self.scheduler = scheduler
        self.threads = Threads(scheduler, workers, "disk")
        self.nowait_reads = hasattr(os, "RWF_NOWAIT")
        self.scratch = bytearray(SCRATCH_BYTES)  # what is read at once goes through here: fresh memory costs more than the read
        self._ring: SyncRing | None = None
        self._ring_tried = False

    def fdatasync(self, fd: int) -> Future[None]:
        """Have a file's data made durable: by the kernel's own workers, or by a thread where it does not lend them."""
        if not self._ring_tried:
            self._ring_tried = True
            self._ring = open_ring(self.scheduler)
        ring = self._ring
        if ring is not None and not ring.full:
            try:
                return ring.fdatasync(fd)
            except OSError:
                pass  # the kernel did not take the request (EAGAIN: no memory for it now): nothing was begun, a thread does it
        return self.threads.submit(os.fdatasync, fd)

    async def open(self, path: str, *, create: bool = False, exclusive: bool = False, writable: bool = True) -> RealFile:
        flags = os.O_CLOEXEC | (os.O_RDWR if writable else os.O_RDONLY)
        if create:
            flags |= os.O_CREAT | (os.O_EXCL if exclusive else 0)
        return RealFile(self, path, _call("open", path, os.open, path, flags, FILE_MODE))

    async def read_file(self, path: str) -> bytes:
        file = await self.open(path, writable=False)
        try:
            data = await file.read(0, await file.size())
        except Exception:
            await file.close()
            raise
        await file.close()
        return data

    async def exists(self, path: str) -> bool:
        return _mode(path, os.lstat) is not None

    async def is_dir(self, path: str) -> bool:
        mode = _mode(path, os.stat)
        return mode is not None and stat.S_ISDIR(mode)

    async def mode(self, path: str) -> int:
        return stat.S_IMODE(_call("inspect", path, os.stat, path).st_mode)

    async def list(self, path: str) -> list[str]:
        return sorted(_call("list", path, os.listdir, path))

    async def make_dirs(self, path: str) -> None:
        parent = os.path.dirname(path.rstrip("/")) or "."
        if not os.path.isdir(path):
            if parent != path:
                await self.make_dirs(parent)
            try:
                _call("create directory", path, os.mkdir, path, DIRECTORY_MODE)
            except FileExistsError:  # somebody else was faster, or it is a file
                if not os.path.isdir(path):
                    raise FileExistsError(errno.EEXIST, "there is something else than a directory", path) from None
        elif not os.access(parent, os.R_OK):
            return  # Not ours, so not made by us either.
        await self.sync_dir(parent)

    async def rename(self, old: str, new: str) -> None:
        _call("rename", old, os.rename, old, new)

    async def rename_new(self, old: str, new: str) -> None:
        """R5."""
        try:
            os.link(old, new)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise translate(error, "rename", new) from error
        else:
            _call("remove", old, os.unlink, old)
            return
        try:
            _rename_noreplace(old, new)
        except OSError as error:
            if error.errno not in _NO_FLAGS:
                raise translate(error, "rename", new) from error
            raise StorageError(
                f"the file system of {new} knows neither hard links nor a rename that replaces nothing: "
                "two writers could not be told apart there",
                "Use a directory on another file system, an object store, or wal_archive_command.",
            ) from None

    async def unlink(self, path: str) -> None:
        _call("remove", path, os.unlink, path)

    async def remove_dir(self, path: str) -> None:
        _call("remove directory", path, os.rmdir, path)

    async def symlink(self, target: str, path: str) -> None:
        temporary = f"{path}.{os.getpid()}.tmp"
        if os.path.lexists(temporary):  # of a process that was killed here; in a container its number is soon ours
            _call("remove", temporary, os.unlink, temporary)
        _call("link", path, os.symlink, target, temporary)
        _call("rename", path, os.rename, temporary, path)

    async def resolve(self, path: str) -> str:
        return os.path.realpath(path)

    async def sync_dir(self, path: str) -> None:
        fd = _call("open directory", path, os.open, path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            await self.threads.submit(_fsync_and_close, fd)
        except OSError as error:
            raise SyncFailed(f"cannot sync directory {path}: {error.strerror}") from error

    async def free_bytes(self, path: str) -> int:
        status = _call("inspect", path, os.statvfs, path)
        return status.f_bavail * status.f_frsize

    async def lock(self, path: str) -> RealLock:
        """The directory itself is locked (R7); the lock file says by whom, and does it where a directory cannot be (NFS)."""
        if os.path.isdir(path):
            fd = _call("open directory", path, os.open, path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            _flock(path, [fd], fd, "", must=False)
            return RealLock([fd])
        fds = [_call("open lock", path, os.open, path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)]
        holder = os.pread(fds[0], 32, 0).decode(errors="replace").strip()
        _flock(path, fds, fds[0], holder)
        where = os.path.dirname(path) or "."
        fds.append(_call("open directory", where, os.open, where, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        _flock(path, fds, fds[1], "", must=False)
        os.ftruncate(fds[0], 0)
        os.pwrite(fds[0], b"%d\n" % os.getpid(), 0)
        return RealLock(fds)

    def close(self) -> None:
        if self._ring is not None:
            self._ring.close()
            self._ring = None
        self.threads.close()


def _flock(path: str, fds: list[int], fd: int, holder: str, must: bool = True) -> None:
    """Lock `fd`, or close all `fds`. Raises: Refused, StorageError (a file system without locks, if it `must` be)."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if not must and not isinstance(error, BlockingIOError):
            return
        for each in fds:
            os.close(each)
        if not isinstance(error, BlockingIOError):
            raise translate(error, "lock", path) from error
        by = f"process {holder}" if holder.isdigit() else "another process"
        found = "" if holder.isdigit() else f" (`fuser -v {path if os.path.isdir(path) else os.path.dirname(path)}` finds it)"
        raise Refused(f"{path} is locked by {by}", f"stop {by} first{found}, or use another directory") from None


def _call(action: str, path: str, function: Callable[..., T], *args: Any) -> T:
    try:
        return function(*args)
    except OSError as error:
        raise translate(error, action, path) from error


def _mode(path: str, look: Callable[[str], os.stat_result]) -> int | None:
    """None if it is not there. Raises: StorageError, PermissionError if that cannot be seen (R6)."""
    try:
        return look(path).st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENAMETOOLONG):
            return None  # nothing can be there
        raise translate(error, "inspect", path) from error


def _rename_noreplace(old: str, new: str) -> None:
    """Linux's renameat2, which Python does not have. Raises: OSError, FileExistsError among them."""
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), new)
    at_cwd, noreplace = -100, 1
    if function(at_cwd, os.fsencode(old), at_cwd, os.fsencode(new), noreplace) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), new)


def _fsync_and_close(fd: int) -> None:
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _pread_all(fd: int, offset: int, size: int) -> bytes:
    data = os.pread(fd, size, offset)
    if len(data) == size or not data:
        return data
    parts = [data]
    done = len(data)
    while done < size and (data := os.pread(fd, size - done, offset + done)):
        parts.append(data)
        done += len(data)
    return b"".join(parts)


def _pwrite_all(fd: int, offset: int, data: bytes | bytearray | memoryview) -> None:
    count = os.pwrite(fd, data, offset) if len(data) <= WRITE_PIECE_BYTES else 0
    if count == len(data):
        return
    view = memoryview(data)
    while count < len(view):
        count += os.pwrite(fd, view[count : count + WRITE_PIECE_BYTES], offset + count)

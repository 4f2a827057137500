"""fdatasync through Linux's io_uring: the kernel's own workers wait for the device, no thread of ours does.

A thread that calls fdatasync needs the interpreter lock before and after, and takes it from the loop each time: at 8 clients
that cost a transaction 13 futex calls. Here the loop's thread puts a request into a ring that it shares with the kernel, and
an eventfd wakes the loop when it is done.

    SQE (64 bytes): opcode, fd, fsync_flags, user_data …        the request; `user_data` is our number for it
    CQE (16 bytes): user_data, res, flags                       the answer; `res` is 0 or minus an errno

U1. Only the loop's thread touches the rings. What it wrote before `io_uring_enter` the kernel sees, and what the kernel wrote
    before it signalled the eventfd the loop sees after it has read that: the system calls are the barriers.
U2. At most ENTRIES requests are under way, so the completion ring, twice as large, never overflows.
U3. A worker of the kernel may look at the completion ring's head while we write it: it is written as one word, through a
    memoryview. struct.pack_into makes the bytes zero first; a kernel that saw that zero took the ring for full, kept the
    answer back and signalled nothing: a sync that never ended.
U4. Where the kernel has no io_uring, or does not let us have it (containers), `open_ring` gives None, and threads do the work.

Source: io_uring(7), io_uring_setup(2), io_uring_enter(2); linux/io_uring.h.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct

from thunderdb.runtime.real_tasks import AsyncioScheduler
from thunderdb.runtime.sync import Future

ENTRIES = 32

_SETUP, _ENTER, _REGISTER = 425, 426, 427  # the same on every architecture
_OFF_SQES = 0x10000000
_FEAT_SINGLE_MMAP = 1
_REGISTER_EVENTFD = 4
_OP_FSYNC = 3
_FSYNC_DATASYNC = 1
_PARAMS = struct.Struct("=10I 8IQ 8IQ")
_SQE = struct.Struct("=BBHiQQIIQ24x")
_CQE = struct.Struct("=QiI")


class SyncRing:
    """One ring; `fdatasync` gives an engine future."""

    __slots__ = (
        "_scheduler", "_enter", "_fd", "_event_fd", "_rings", "_words", "_sqes", "_sq_tail", "_cq_head", "_cq_tail",
        "_cqes_at", "_sq_mask", "_cq_mask", "_tail", "_head", "_number", "_waiting",
    )  # fmt: skip

    def __init__(self, scheduler: AsyncioScheduler) -> None:
        """Raises: OSError where there is no io_uring for us."""
        self._scheduler = scheduler
        # PyDLL keeps the interpreter lock: no call here waits for anything.
        self._enter = ctypes.PyDLL(None, use_errno=True).syscall
        raw = ctypes.create_string_buffer(_PARAMS.size)
        self._fd = self._call(_SETUP, ENTRIES, raw)
        os.set_inheritable(self._fd, False)
        params = _PARAMS.unpack(raw.raw)
        sq, cq = params[10:19], params[19:28]
        self._event_fd = -1
        try:
            if not params[5] & _FEAT_SINGLE_MMAP:
                raise OSError("io_uring of Linux before 5.4")
            size = max(sq[6] + params[0] * 4, cq[5] + params[1] * _CQE.size)
            self._rings = mmap.mmap(self._fd, size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
            self._sqes = mmap.mmap(self._fd, params[0] * 64, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE, offset=_OFF_SQES)
            self._event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            self._call(_REGISTER, self._fd, _REGISTER_EVENTFD, ctypes.byref(ctypes.c_int(self._event_fd)), 1)
        except BaseException:
            os.close(self._fd)
            if self._event_fd >= 0:
                os.close(self._event_fd)
            raise
        self._words = memoryview(self._rings).cast("I")
        self._sq_tail, self._sq_mask = sq[1] // 4, params[0] - 1
        self._cq_head, self._cq_tail, self._cqes_at, self._cq_mask = cq[0] // 4, cq[1] // 4, cq[5], params[1] - 1
        for index in range(params[0]):  # slot i of the submission ring is always SQE i
            self._words[sq[6] // 4 + index] = index
        self._tail = self._head = self._number = 0
        self._waiting: dict[int, Future[None]] = {}
        scheduler.loop.add_reader(self._event_fd, self._completed)

    def _call(self, *args: object) -> int:
        result: int = self._enter(*args)
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result

    @property
    def full(self) -> bool:
        """Whether no more requests are taken now (U2)."""
        return len(self._waiting) >= ENTRIES

    def fdatasync(self, fd: int) -> Future[None]:
        """Have the file's data made durable; the future fails with fdatasync's OSError. Raises: OSError, nothing was begun."""
        self._number = number = self._number + 1
        tail = self._tail
        _SQE.pack_into(self._sqes, (tail & self._sq_mask) * 64, _OP_FSYNC, 0, 0, fd, 0, 0, 0, _FSYNC_DATASYNC, number)
        self._words[self._sq_tail] = (tail + 1) & 0xFFFFFFFF
        try:
            if self._call(_ENTER, self._fd, 1, 0, 0, None, 0) != 1:
                raise OSError("io_uring took no request")
        except OSError:
            self._words[self._sq_tail] = tail
            raise
        self._tail = (tail + 1) & 0xFFFFFFFF
        future: Future[None] = Future(self._scheduler)
        self._waiting[number] = future
        return future

    def _completed(self) -> None:
        """The eventfd is readable: hand out what is done."""
        try:
            os.eventfd_read(self._event_fd)
        except BlockingIOError:
            return
        rings, words, head = self._rings, self._words, self._head
        tail = words[self._cq_tail]
        while head != tail:
            number, result, _ = _CQE.unpack_from(rings, self._cqes_at + (head & self._cq_mask) * _CQE.size)
            head = (head + 1) & 0xFFFFFFFF
            self._head = head
            words[self._cq_head] = head  # U3
            future = self._waiting.pop(number)
            if result < 0:
                future.set_error(OSError(-result, os.strerror(-result)))
            else:
                future.set_result(None)

    def close(self) -> None:
        """Let go of the ring; what is under way goes on in the kernel, and nobody is told."""
        self._scheduler.loop.remove_reader(self._event_fd)
        self._waiting.clear()
        self._words.release()
        self._rings.close()
        self._sqes.close()
        os.close(self._fd)
        os.close(self._event_fd)


def open_ring(scheduler: AsyncioScheduler) -> SyncRing | None:
    """A ring, or None where there is none to be had (U4)."""
    try:
        return SyncRing(scheduler)
    except (OSError, AttributeError, ValueError):  # AttributeError: an operating system that has no eventfd, or no such flags
        return None

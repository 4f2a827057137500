"""fdatasync through io_uring: each request is answered once, with its own outcome; without io_uring threads do it."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from thunderdb.base.errors import SyncFailed
from thunderdb.runtime import real_disk
from thunderdb.runtime.real_ports import run_real
from thunderdb.runtime.real_uring import ENTRIES, SyncRing, open_ring


def with_ring(tmp_path: Path, body: Any) -> Any:
    async def main(ports: Any) -> Any:
        ring = open_ring(ports.scheduler)
        if ring is None:
            pytest.skip("this system lends no io_uring")
        fd = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT)
        try:
            return await body(ring, fd)
        finally:
            os.close(fd)
            ring.close()

    return run_real(main)


def test_every_request_is_answered_however_often_the_rings_go_round(tmp_path: Path) -> None:
    async def body(ring: SyncRing, fd: int) -> int:
        answered = 0
        for _ in range(3 * ENTRIES):
            futures = [ring.fdatasync(fd) for _ in range(5)]
            for future in futures:
                await future
                answered += 1
        return answered

    assert with_ring(tmp_path, body) == 15 * ENTRIES


def test_the_head_of_the_completion_ring_is_written_as_one_word(tmp_path: Path) -> None:
    """U3. A head made zero before it is written (struct.pack_into) cost one in 30,000 syncs at 30 under way its answer."""

    class Words:
        """The ring's words; what is written to them is kept from the ring, so that it shows who writes it otherwise."""

        def __init__(self, words: memoryview) -> None:
            self.words = words
            self.written: list[tuple[int, int]] = []

        def __getitem__(self, index: int) -> int:
            return self.words[index]

        def __setitem__(self, index: int, value: int) -> None:
            self.written.append((index, value))

        def release(self) -> None:
            self.words.release()

    async def body(ring: SyncRing, fd: int) -> tuple[list[int], int]:
        words = Words(ring._words)
        futures = [ring.fdatasync(fd) for _ in range(5)]
        ring._words = words  # type: ignore[assignment]
        for future in futures:
            await future
        return [value for index, value in words.written if index == ring._cq_head], words[ring._cq_head]

    assert with_ring(tmp_path, body) == ([1, 2, 3, 4, 5], 0)


def test_each_outcome_reaches_its_own_future(tmp_path: Path) -> None:
    async def body(ring: SyncRing, fd: int) -> list[int]:
        reading, writing = os.pipe()
        closed = os.dup(fd)
        os.close(closed)
        found = []
        for future in [ring.fdatasync(number) for number in (fd, reading, fd, closed, fd)]:
            try:
                await future
                found.append(0)
            except OSError as error:
                found.append(error.errno or -1)
        os.close(reading)
        os.close(writing)
        return found

    assert with_ring(tmp_path, body) == [0, errno.EINVAL, 0, errno.EBADF, 0]


def test_a_full_ring_leaves_the_rest_to_threads(tmp_path: Path) -> None:
    async def main(ports: Any) -> tuple[int, int]:
        files = [await ports.disk.open(str(tmp_path / str(number)), create=True) for number in range(ENTRIES + 3)]
        by_thread = []
        submit = ports.disk.threads.submit
        ports.disk.threads.submit = lambda *args: by_thread.append(args) or submit(*args)
        syncs = [ports.tasks.spawn(file.sync()) for file in files]
        for sync in syncs:
            await sync
        for file in files:
            await file.close()
        if ports.disk._ring is None:
            pytest.skip("this system lends no io_uring")
        return len(by_thread), sum(sync.error() is None for sync in syncs)

    assert run_real(main) == (3, ENTRIES + 3)


def test_a_sync_that_fails_in_the_ring_is_sync_failed(tmp_path: Path) -> None:
    async def main(ports: Any) -> str:
        os.mkfifo(tmp_path / "pipe")
        file = await ports.disk.open(str(tmp_path / "pipe"))
        with pytest.raises(SyncFailed, match="cannot sync .*pipe: Invalid argument") as caught:
            await file.sync()
        await file.close()
        return str(caught.value)

    assert "pipe" in run_real(main)


def test_without_io_uring_threads_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    real = os.fdatasync
    monkeypatch.setattr(real_disk, "open_ring", lambda scheduler: None)
    monkeypatch.setattr(os, "fdatasync", lambda fd: synced.append(fd) or real(fd))

    async def main(ports: Any) -> None:
        file = await ports.disk.open(str(tmp_path / "f"), create=True)
        await file.sync()
        await file.close()

    run_real(main)
    assert len(synced) == 1


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EINTR, errno.EBUSY, 0])
def test_a_request_that_the_kernel_does_not_take_goes_to_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Nothing was begun, so this is no second try of a sync that failed. 0: the call went well, and took no request."""
    synced: list[int] = []
    real = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: synced.append(fd) or real(fd))

    def busy(self: SyncRing, *args: object) -> int:
        if number:
            raise OSError(number, os.strerror(number))
        return 0

    async def main(ports: Any) -> int:
        file = await ports.disk.open(str(tmp_path / "f"), create=True)
        await file.sync()
        if ports.disk._ring is None:
            pytest.skip("this system lends no io_uring")
        call = SyncRing._call
        monkeypatch.setattr(SyncRing, "_call", busy)
        await file.sync()
        monkeypatch.setattr(SyncRing, "_call", call)
        await file.sync()  # the ring goes on where it was
        await file.close()
        return len(synced)

    assert run_real(main) == 1


def test_no_descriptor_is_left_behind(tmp_path: Path) -> None:
    async def body(ring: SyncRing, fd: int) -> None:
        await ring.fdatasync(fd)

    with_ring(tmp_path, body)
    before = len(os.listdir("/proc/self/fd"))
    with_ring(tmp_path, body)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_system_call_that_is_refused_means_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: SyncRing, *args: object) -> int:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(SyncRing, "_call", refused)

    async def main(ports: Any) -> object:
        return open_ring(ports.scheduler)

    assert run_real(main) is None

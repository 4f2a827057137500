"""Descriptors of the real disk outlive whoever waited for what is done with them."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from thunderdb.runtime import real_disk
from thunderdb.runtime.real_disk import INLINE_WRITE_BYTES
from thunderdb.runtime.real_ports import run_real
from thunderdb.runtime.sync import Cancelled


def test_a_descriptor_is_closed_only_when_a_cancelled_write_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go = threading.Event(), threading.Event()
    write = real_disk._pwrite_all

    def slow_write(fd: int, offset: int, data: bytes) -> None:
        begun.set()
        go.wait(10)
        write(fd, offset, data)

    monkeypatch.setattr(real_disk, "_pwrite_all", slow_write)
    data = b"x" * (INLINE_WRITE_BYTES + 1)

    async def main(ports: Any) -> bool:
        file = await ports.disk.open(str(tmp_path / "f"), create=True)
        writing = ports.tasks.spawn(file.write(0, data))
        begun.wait(10)
        writing.cancel()
        with pytest.raises(Cancelled):
            await writing
        closing = ports.tasks.spawn(file.close())
        await ports.tasks.sleep(1_000_000)
        waited = not closing.done()
        go.set()
        await closing
        return waited

    assert run_real(main)
    assert (tmp_path / "f").read_bytes() == data


def test_a_directory_stays_open_until_its_cancelled_sync_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go = threading.Event(), threading.Event()
    fsync, failed = os.fsync, []

    def slow_fsync(fd: int) -> None:
        begun.set()
        go.wait(10)
        try:
            fsync(fd)
        except OSError as error:
            failed.append(error)

    monkeypatch.setattr(os, "fsync", slow_fsync)

    async def main(ports: Any) -> int:
        before = len(os.listdir("/proc/self/fd"))
        syncing = ports.tasks.spawn(ports.disk.sync_dir(str(tmp_path)))
        begun.wait(10)
        syncing.cancel()
        await ports.tasks.sleep(1_000_000)
        go.set()
        while ports.disk.threads._running:
            await ports.tasks.sleep(1_000_000)
        return len(os.listdir("/proc/self/fd")) - before

    assert (run_real(main), failed) == (0, [])

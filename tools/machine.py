"""This machine, measured apart from any restart: its disk, functions that run in threads, the start of a process.

N1. CPU time is that of the thread, or of the child, that does the work. Of a function that is called again and again the least
    counts, since what else the machine does only adds.
N2. A disk is measured as a restore uses it: files that got their room beforehand, one stretch after the other, from and into
    memory that is not in the processor's caches; and the median counts. A single burst is a third faster than that lasts.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import statistics
import subprocess
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from backports import zstd
from xxhash import xxh3_64_intdigest, xxh3_128

from sim.clients import tpcb
from sim.world.disk import DeviceProfile
from thunderdb.backup.lay_pages import check_pages
from thunderdb.base.units import parse_size
from thunderdb.runtime.real_disk import WRITE_PIECE_BYTES
from thunderdb.storage.files import page_file_name
from tools.harness.server import ticks
from tools.harness.thunder import Thunder

STRETCHES, STRETCH_BYTES = 5, 64 << 20
SOURCE_BYTES, PIECE_BYTES, FRESH_BYTES = 8 << 20, 2 << 20, 16 << 20
_CACHESTAT = 451


def disk_of(folder: Path) -> DeviceProfile:
    """How fast this disk is for who lays down a database (N2): writes into the cache, syncs of what they left there, small
    syncs, and reads of what is cached."""
    path = folder / "probe"
    source = bytes(range(256)) * (SOURCE_BYTES >> 8)
    with open(path, "w+b", buffering=0) as file:
        number = file.fileno()
        os.posix_fallocate(number, 0, STRETCHES * STRETCH_BYTES)
        wrote_s: list[float] = []
        synced_s: list[float] = []
        small_s: list[float] = []
        cached_s: list[float] = []
        fresh_s: list[float] = []
        for stretch in range(STRETCHES):
            wrote_s.append(_took_s(_write, number, source, stretch * STRETCH_BYTES))
            synced_s.append(_took_s(os.fdatasync, number))
        for probe in range(21):
            os.pwrite(number, source[:512], probe * 4096)
            small_s.append(_took_s(os.fdatasync, number))
        for stretch in range(STRETCHES):
            cached_s.append(_took_s(_read, number, stretch * STRETCH_BYTES, PIECE_BYTES, 4))
            fresh_s.append(_took_s(_read, number, stretch * STRETCH_BYTES, FRESH_BYTES, STRETCH_BYTES))
    path.unlink()
    sync_s = statistics.median(small_s)

    def rate(took_s: list[float], beside_s: float = 0.0) -> int:
        return int(STRETCH_BYTES / max(1e-6, statistics.median(took_s) - beside_s))

    return DeviceProfile(
        read_ns=5_000, write_ns=10_000, sync_ns=int(sync_s * 1e9), entry_ns=20_000, bytes_per_s=rate(wrote_s),
        cached_reads=1.0, inline_writes=0.0, sync_bytes_per_s=rate(synced_s, sync_s),
        cached_bytes_per_s=rate(cached_s), fresh_bytes_per_s=rate(fresh_s),
    )  # fmt: skip


def _took_s(job: Callable[..., object], *args: Any) -> float:
    began = time.perf_counter()
    job(*args)
    return time.perf_counter() - began


def _write(number: int, source: bytes, offset: int) -> None:
    """A stretch, from memory that no near cache holds, as the engine's threads write it."""
    view = memoryview(source)
    for at in range(0, STRETCH_BYTES, WRITE_PIECE_BYTES):
        begin = at % len(source)
        os.pwrite(number, view[begin : begin + WRITE_PIECE_BYTES], offset + at)


def _read(number: int, offset: int, piece_bytes: int, kept: int) -> None:
    """A stretch, so many pieces of which are in use at a time."""
    pieces: deque[bytes] = deque(maxlen=kept)
    for at in range(0, STRETCH_BYTES, piece_bytes):
        pieces.append(os.pread(number, piece_bytes, offset + at))


def unsynced_bytes(folder: Path) -> dict[str, int]:
    """How much of each file only the cache has, by name; nothing where the kernel cannot say (before 6.5)."""
    libc, found = ctypes.CDLL(None, use_errno=True), {}
    for path in sorted(folder.iterdir()):
        if path.is_file():
            number = os.open(path, os.O_RDONLY)
            whole, counts = (ctypes.c_uint64 * 2)(0, 0), (ctypes.c_uint64 * 5)()
            if libc.syscall(_CACHESTAT, number, whole, counts, 0) == 0:
                found[path.name] = (counts[1] + counts[2]) * os.sysconf("SC_PAGE_SIZE")
            os.close(number)
    return found


def sync_tree(folder: Path) -> None:
    """Make all files below it durable: a copy's own unsynced bytes are nobody's restart to wait for."""
    for path in folder.rglob("*"):
        if path.is_file():
            number = os.open(path, os.O_RDONLY)
            os.fsync(number)
            os.close(number)


def function_costs(folder: Path) -> dict[str, float]:
    """Of what runs in threads, and of reading and checking log, a byte; over the pages of a backup."""
    path = next((folder / "backup").rglob(page_file_name(0)))
    pages = path.read_bytes()
    packed = zstd.compress(pages, 1)
    page_size = parse_size(str(tpcb.SETTINGS["page_size"]))

    def read_and_check() -> None:
        view = memoryview(path.read_bytes())
        for at in range(0, len(view), 4096):
            xxh3_64_intdigest(view[at : at + 4096])

    jobs: dict[str, tuple[Callable[[], object], int]] = {
        "log.byte": (read_and_check, len(pages)),
        "offload.check_pages": (lambda: check_pages(pages, page_size, 0, path.name, True), len(pages)),
        "offload.xxh3_128": (lambda: xxh3_128(pages), len(pages)),
        "offload._decode": (lambda: zstd.decompress(packed), len(packed)),
    }
    found = {name: cpu_s(job) * 1e9 / size for name, (job, size) in jobs.items()}
    found["offload.decode.zst"] = found["offload._decode"]
    return found


def cpu_s(job: Callable[[], object], times: int = 7) -> float:
    """The least CPU time of several."""
    took: list[float] = []
    for _ in range(times):
        began = time.thread_time()
        job()
        took.append(time.thread_time() - began)
    return min(took)


def process_costs(folder: Path, backup: Path, rounds: int) -> dict[str, float]:
    """CPU time from launching a daemon on an almost empty database until it has acknowledged a write, and of a restore that
    only looks; the medians, as of all that makes an RTO."""
    server = Thunder(folder / "daemon")
    server.start()
    with server.connect(autocommit=True) as connection:
        connection.execute("CREATE TABLE probe (id int PRIMARY KEY, n int)")
        connection.execute("INSERT INTO probe VALUES (1, 0)")
    server.stop()
    starts: list[float] = []
    for _ in range(rounds):
        server.start()
        with server.connect(autocommit=True) as connection:
            connection.execute("UPDATE probe SET n = n + 1 WHERE id = 1")
        starts.append(ticks(server.process.pid) / os.sysconf("SC_CLK_TCK") if server.process is not None else 0.0)
        server.stop()
    empty = Thunder(folder / "empty")
    look = [*empty.command(), "--restore-pitr", "latest", "--restore-backup", str(backup), "--dry-run"]
    commands: list[float] = []
    for _ in range(rounds):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(look, env=empty.environment(), capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        commands.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return {"process.start": statistics.median(starts) * 1e9, "process.command": statistics.median(commands) * 1e9}


def machine() -> str:
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"

"""This machine, measured apart from any restart: its disk, functions that run in threads, the start of a process.

N1. CPU time is that of the thread, or of the child, that does the work; of several measurements the least counts, since what
    else the machine does only adds.
"""

from __future__ import annotations

import os
import platform
import resource
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from backports import zstd
from xxhash import xxh3_64_intdigest, xxh3_128

from sim.clients import tpcb
from sim.world.disk import DeviceProfile
from thunderdb.backup.lay_pages import check_pages
from thunderdb.base.units import parse_size
from thunderdb.storage.files import page_file_name
from tools.harness.server import ticks
from tools.harness.thunder import Thunder


def disk_of(folder: Path) -> DeviceProfile:
    """How fast this disk is: writes into the cache, small syncs, and syncs with something to write."""
    path, block, count = folder / "probe", bytes(range(256)) * 4096, 64
    with open(path, "wb", buffering=0) as file:
        began = time.perf_counter()
        for _ in range(count):
            file.write(block)
        wrote_s = time.perf_counter() - began
        began = time.perf_counter()
        os.fdatasync(file.fileno())
        synced_s = time.perf_counter() - began
        small: list[float] = []
        for number in range(21):
            os.pwrite(file.fileno(), block[:512], number * 4096)
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            small.append(time.perf_counter() - began)
    path.unlink()
    size = len(block) * count
    sync_ns = int(statistics.median(small) * 1e9)
    return DeviceProfile(
        read_ns=5_000, write_ns=10_000, sync_ns=sync_ns, entry_ns=20_000, bytes_per_s=int(size / max(1e-6, wrote_s)),
        cached_reads=1.0, inline_writes=0.0, sync_bytes_per_s=int(size / max(1e-6, synced_s - sync_ns / 1e9)),
    )  # fmt: skip


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
    """CPU time from launching a daemon on an almost empty database to its first answer, and of a restore that only looks."""
    server = Thunder(folder / "daemon")
    server.start()
    server.stop()
    starts: list[float] = []
    for _ in range(rounds):
        server.start()
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
    return {"process.start": min(starts) * 1e9, "process.command": min(commands) * 1e9}


def machine() -> str:
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"

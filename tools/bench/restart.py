"""Restart after kill -9 with the same number of TPC-B transactions in both logs; the same killed directory, copied, each round.

R1. Checkpoints are far apart in both systems, so the log from the last one holds exactly the transactions asked for.
R2. Each system is loaded once. At each count but the last its processes are stopped (SIGSTOP) while its directory is copied,
    and go on: files and caches are as a kill -9 there would have left them, and nothing of the load has to be done twice.
R3. Each round starts from a copy of that directory, synced before the clock starts, and read once so that it is warm for both.
R4. `memory` is the peak of the restarted daemon at its first answer.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from pathlib import Path

from tools.bench.rows import Row
from tools.bench.throughput import Make
from tools.harness import pgbench
from tools.harness.postgres import Postgres
from tools.harness.server import Server
from tools.harness.thunder import Thunder

RATIO_BAR = 0.8
CLIENTS = 8
FAR_APART = {
    "ThunderDB": {"checkpoint_interval": "1d", "max_wal_size": "64GB", "recovery_target": "off"},
    "PostgreSQL": {"checkpoint_timeout": "1d", "max_wal_size": "64GB"},
}
REDO_SECONDS = re.compile(r"Recovery complete in ([\d.]+) ?s")
PG_REDO = re.compile(r"redo done at \S+ system usage: .* elapsed: ([\d.]+) s")


def _copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-a", "--reflink=auto", str(source), str(target)], check=True)
    subprocess.run(["sh", "-c", 'sync -f "$0" && find "$0" -type f -exec cat {} + > /dev/null', str(target)], check=True)


def _killed(name: str, make: Make, work: Path, scale: int, counts: list[int]) -> list[Path]:
    """For each count a directory whose log holds so many transactions since its last checkpoint (R1, R2)."""
    directories = [work / f"killed-{name}-{count}" for count in counts]
    server = make(directories[-1])
    server.start()
    begun = time.monotonic()
    try:
        pgbench.initialise(server, scale)
        server.checkpoint()
        print(f"{name}: scale {scale} loaded in {time.monotonic() - begun:.0f} s", flush=True)
        ran = 0
        for count, directory in zip(counts, directories, strict=True):
            each = (count - ran) // CLIENTS
            done = pgbench.run(server, "-b", "tpcb-like", "-c", str(CLIENTS), "-j", "2", "-t", str(each))
            ran += done.processed
            if ran != count // CLIENTS * CLIENTS:
                raise pgbench.PgbenchFailed(f"{ran} transactions instead of {count // CLIENTS * CLIENTS}")
            if directory != server.directory:
                server.pause()
                _copy(server.directory, directory)
                server.resume()
            print(f"{name}: {ran:,} transactions at {time.monotonic() - begun:.0f} s", flush=True)
    finally:
        server.kill()
    return directories


def _records(server: Server, log_size: int) -> tuple[int, float]:
    """(records redone, seconds of it), read from what the server printed."""
    text = server.log_since(log_size)
    if isinstance(server, Thunder):
        found = REDO_SECONDS.search(text)
        return server.records_replayed(log_size), float(found[1]) if found else 0.0
    found = PG_REDO.search(text)
    return 0, float(found[1]) if found else 0.0


def _postgres_records(server: Postgres) -> int:
    """Count the records from the last checkpoint's redo point with pg_waldump, on a killed directory."""
    control = subprocess.run([str(server.programs / "pg_controldata"), str(server.data)], capture_output=True, text=True)
    redo = re.search(r"REDO location:\s+(\S+)", control.stdout)
    if redo is None:
        return 0
    waldump = server.programs / "pg_waldump"
    dump = [str(waldump), "-p", str(server.data / "pg_wal"), "-s", redo[1], "--stats"]
    done = subprocess.run(dump, capture_output=True, text=True)
    total = re.search(r"^Total\s+(\d+)", done.stdout, re.M)
    return int(total[1]) if total else 0


def restarts(systems: dict[str, Make], work: Path, *, scale: int, transactions: list[int], rounds: int) -> list[Row]:
    counts = sorted(transactions)
    killed = {name: _killed(name, make, work, scale, counts) for name, make in systems.items()}
    rows = []
    for index, count in enumerate(counts):
        directories = {name: found[index] for name, found in killed.items()}
        rows += _rows(systems, directories, work, f"{count:,} TPC-B at scale {scale}", rounds)
        for directory in directories.values():
            shutil.rmtree(directory)
    return rows


def _rows(systems: dict[str, Make], killed: dict[str, Path], work: Path, title: str, rounds: int) -> list[Row]:
    took = Row(f"restart after kill -9, {title}", "s", more_is_better=False, bar=RATIO_BAR)
    speed = Row("  records redone a second", "1/s", more_is_better=True)
    memory = Row("  peak memory of the restart", "MB", more_is_better=False)
    counts = {}
    for number in range(rounds):
        for name in list(killed) if number % 2 == 0 else list(killed)[::-1]:
            directory = work / f"round-{name}"
            _copy(killed[name], directory)
            server = systems[name](directory)
            if isinstance(server, Postgres) and name not in counts:
                counts[name] = _postgres_records(server)
            log_size = server.log_size()
            try:
                took.add(name, server.start(timeout_s=1800))
                memory.add(name, server.peak_memory_kb() / 1024)
                records, seconds = _records(server, log_size)
                if seconds:
                    speed.add(name, (records or counts.get(name, 0)) / seconds)
            finally:
                server.kill()
            shutil.rmtree(directory)
    speed.note = "records of each system's own making; PostgreSQL's are counted by pg_waldump"
    return [took, speed, memory]

"""Restart after kill -9 with the same number of TPC-B transactions in both logs; the same killed directory, copied, each round.

R1. Checkpoints are far apart in both systems, so the log from the last one holds exactly the transactions asked for.
R2. Each round starts from a copy of the directory as the kill left it, read once so that it is warm for both.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from tools.bench.rows import Row
from tools.bench.throughput import Make
from tools.harness import pgbench
from tools.harness.postgres import Postgres
from tools.harness.server import Server
from tools.harness.thunder import Thunder

RATIO_BAR = 0.8
FAR_APART = {
    "ThunderDB": {"checkpoint_interval": "1d", "max_wal_size": "64GB", "recovery_target": "off"},
    "PostgreSQL": {"checkpoint_timeout": "1d", "max_wal_size": "64GB"},
}
REDO_SECONDS = re.compile(r"Recovery complete in ([\d.]+) ?s")
PG_REDO = re.compile(r"redo done at \S+ system usage: .* elapsed: ([\d.]+) s")


def _copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-a", "--reflink=auto", str(source), str(target)], check=True)
    subprocess.run(["sh", "-c", 'find "$0" -type f -exec cat {} + > /dev/null', str(target)], check=True)


def _loaded(make: Make, directory: Path, scale: int, transactions: int) -> Server:
    """A killed server whose log holds `transactions` since its last checkpoint."""
    server = make(directory)
    server.start()
    try:
        pgbench.initialise(server, scale)
        server.checkpoint()
        done = pgbench.run(server, "-b", "tpcb-like", "-c", "8", "-j", "2", "-t", str(transactions // 8))
        if done.processed != transactions // 8 * 8:
            raise pgbench.PgbenchFailed(f"{done.processed} transactions instead of {transactions // 8 * 8}")
    finally:
        server.kill()
    return server


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


def restarts(systems: dict[str, Make], work: Path, *, scale: int, transactions: int, rounds: int) -> list[Row]:
    title = f"{transactions:,} TPC-B at scale {scale}"
    took = Row(f"restart after kill -9, {title}", "s", more_is_better=False, bar=RATIO_BAR)
    speed = Row("  records redone a second", "1/s", more_is_better=True)
    killed = {name: _loaded(make, work / f"killed-{name}", scale, transactions) for name, make in systems.items()}
    counts = {name: _postgres_records(server) for name, server in killed.items() if isinstance(server, Postgres)}
    for number in range(rounds):
        for name, server in killed.items():
            original, kept = server.directory, server.directory.with_name(f"kept-{name}-{number}")
            original.rename(kept)
            _copy(kept, original)
            log_size = server.log_size()
            try:
                took.add(name, server.start(timeout_s=1800))
                records, seconds = _records(server, log_size)
                if seconds:
                    speed.add(name, (records or counts.get(name, 0)) / seconds)
            finally:
                server.kill()
            shutil.rmtree(original)
            kept.rename(original)
    for server in killed.values():
        shutil.rmtree(server.directory)
    speed.note = "records of each system's own making; PostgreSQL's are counted by pg_waldump"
    return [took, speed]

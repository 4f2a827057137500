"""Peak memory of the daemon (VmHWM) with a database some times larger than its pool, under a load that touches all of it.

A database is as large as the rows and keys in it, the same for both systems: PostgreSQL's pg_database_size after the load,
which counts tables and indexes and no free space worth naming. ThunderDB's files may be up to twice that: the table that had no
primary key yet lies in them as free pages. Both figures are printed.
"""

from __future__ import annotations

from pathlib import Path

from tools.bench.rows import Row
from tools.bench.throughput import Make
from tools.harness import pgbench
from tools.harness.postgres import Postgres
from tools.harness.thunder import Thunder

POOL_MB = 64
TIMES_POOL = (5, 10)
"""The bar is held against the first; the others show that memory does not grow with the database."""
MB_PER_SCALE = 15.0  # of PostgreSQL's tables and indexes
LIMIT_MB = 1.5 * POOL_MB + 200


def peak(systems: dict[str, Make], work: Path, seconds: int, times_pool: tuple[int, ...] = TIMES_POOL) -> list[Row]:
    """Load, then reads all over the tables, TPC-B and a query over everything; the peak over all of it."""
    rows = []
    for times in times_pool:
        row = Row(f"peak memory, pool {POOL_MB} MB, database {times} x", "MB", more_is_better=False)
        if times == times_pool[0]:
            row.limit = LIMIT_MB
        scale = int(POOL_MB * times / MB_PER_SCALE) + 1
        row.note = f"scale {scale} = {scale * MB_PER_SCALE / POOL_MB:.1f} pools of rows and keys;"
        for name, make in systems.items():
            _measure(row, name, make, work / f"memory-{times}-{name}", scale, seconds)
        row.note += " PostgreSQL: private memory of its processes now, and shared memory touched"
        rows.append(row)
    return rows


def _measure(row: Row, name: str, make: Make, directory: Path, scale: int, seconds: int) -> None:
    server = make(directory)
    server.start()
    try:
        pgbench.initialise(server, scale)
        if isinstance(server, Thunder):
            row.note += f" ThunderDB's files {server.data_bytes() / (POOL_MB << 20):.1f} pools;"
        if isinstance(server, Postgres):
            size = int(server.one("SELECT pg_database_size(current_database())"))
            row.note += f" PostgreSQL's {size / (POOL_MB << 20):.1f} pools;"
            if size < scale * MB_PER_SCALE * 0.95 * 2**20:
                raise AssertionError(f"the database has only {size >> 20} MB: this row measures nothing")
        pgbench.run(server, "-b", "select-only", "-c", "8", "-j", "2", "-T", str(seconds))
        pgbench.run(server, "-b", "tpcb-like", "-c", "8", "-j", "2", "-T", str(seconds))
        server.one("SELECT sum(abalance) FROM pgbench_accounts WHERE aid % 3 = 1")
        row.add(name, server.peak_memory_kb() / 1024)
        server.stop()
    finally:
        server.kill()

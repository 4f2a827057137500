"""Peak memory of the daemon (VmHWM) with a database five times its pool, under a load that touches all of it."""

from __future__ import annotations

from pathlib import Path

from tools.bench.rows import Row
from tools.bench.throughput import Make
from tools.harness import pgbench
from tools.harness.thunder import Thunder

POOL_MB = 64
TIMES_POOL = 5
MB_PER_SCALE = 13  # of a ThunderDB data directory, a little less than what it takes


def peak(systems: dict[str, Make], work: Path, seconds: int) -> list[Row]:
    """Load, then reads all over the tables, TPC-B and a query over everything; the peak over all of it."""
    row = Row(f"peak memory, pool {POOL_MB} MB", "MB", more_is_better=False, limit=1.5 * POOL_MB + 200)
    scale = POOL_MB * TIMES_POOL // MB_PER_SCALE + 1
    for name, make in systems.items():
        server = make(work / f"memory-{name}")
        server.start()
        try:
            pgbench.initialise(server, scale)
            pgbench.run(server, "-b", "select-only", "-c", "8", "-j", "2", "-T", str(seconds))
            pgbench.run(server, "-b", "tpcb-like", "-c", "8", "-j", "2", "-T", str(seconds))
            server.one("SELECT sum(abalance) FROM pgbench_accounts WHERE aid % 3 = 1")
            row.add(name, server.peak_memory_kb() / 1024)
            if isinstance(server, Thunder):
                times = server.data_bytes() / (POOL_MB << 20)
                row.note = f"ThunderDB: VmHWM of the daemon, database {times:.1f} times the pool (scale {scale})"
                if times < TIMES_POOL:
                    raise AssertionError(f"the database is only {times:.1f} times the pool: this row measures nothing")
            server.stop()
        finally:
            server.kill()
    row.note += "; PostgreSQL: private memory of its processes now, and shared memory touched"
    return [row]

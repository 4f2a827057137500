"""pgbench TPC-B and select-only at several client counts and protocols, and the initial load; rounds alternate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tools.bench.rows import Row
from tools.harness import pgbench
from tools.harness.server import Server

Make = Callable[[Path], Server]
# The bars of the engine's issue, as ratios to PostgreSQL's rate: (script, clients) in simple protocol.
BARS = {("tpcb", 8): 0.7, ("select", 8): 0.6}
LOAD_LIMIT_S = 8.0
FIRST_QUERY_LIMIT_S = 1.0


def load(systems: dict[str, Make], work: Path, scale: int, rounds: int) -> list[Row]:
    """`pgbench -i` into a new database each round; also the first start of that database when idle."""
    limit = LOAD_LIMIT_S if scale == 10 else None
    loading = Row(f"pgbench -i -s {scale}, its own 'done in'", "s", more_is_better=False, limit=limit)
    idle = Row("start of an idle database to first query", "s", more_is_better=False, limit=FIRST_QUERY_LIMIT_S)
    for number in range(rounds):
        for name, make in systems.items():
            server = make(work / f"load-{name}-{number}")
            server.start()
            try:
                loading.add(name, pgbench.initialise(server, scale))
                server.stop()
                idle.add(name, server.start())
            finally:
                server.kill()
    return [loading, idle]


def rates(
    systems: dict[str, Make], work: Path, *, scale: int, rounds: int, seconds: int, clients: Sequence[int], modes: Sequence[str]
) -> list[Row]:
    """TPC-B and select-only; one server runs at a time, so that neither takes the other's cores."""
    rows: dict[tuple[str, int, str], Row] = {}
    for script, title in (("tpcb", "TPC-B"), ("select", "select-only")):
        for count in clients:
            for mode in modes:
                bar = BARS.get((script, count)) if mode == "simple" else None
                rows[script, count, mode] = Row(f"{title}, {count} client{'s' * (count > 1)}, {mode}", "tps", True, bar=bar)
    servers = {name: make(work / f"rates-{name}") for name, make in systems.items()}
    for server in servers.values():
        server.start()
        try:
            pgbench.initialise(server, scale)
            server.stop()
        finally:
            server.kill()
    for _ in range(rounds):
        for name, server in servers.items():
            server.start()
            try:
                for (script, count, mode), row in rows.items():
                    options = ["-b", "tpcb-like" if script == "tpcb" else "select-only", "-M", mode]
                    done = pgbench.run(server, *options, "-c", str(count), "-j", str(min(count, 2)), "-T", str(seconds))
                    row.add(name, done.tps)
                server.stop()
            finally:
                server.kill()
    return list(rows.values())

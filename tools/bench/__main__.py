"""Side by side with PostgreSQL 15, in one run, on this machine: one pgbench, fsync on for both, alternated rounds, medians.

    python -m tools.bench                                   everything: about an hour on two cores
    python -m tools.bench --quick                           short rounds, small scales: does it run, roughly how fast
    python -m tools.bench --only rates --modes simple,prepared
    python -m tools.bench --json out.json                   each round's figure, too

PostgreSQL is found, or installed where APT=1 or CI=true asks for it as root; without it ThunderDB is measured alone.
Exits with 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tools.bench import backup, memory, restart, throughput
from tools.bench.rows import Row, table
from tools.bench.throughput import Make
from tools.harness import postgres
from tools.harness.postgres import Postgres
from tools.harness.server import Server, stop_whatever_happens
from tools.harness.thunder import Thunder

GROUPS = ("load", "rates", "restart", "memory", "backup")


def _make(kind: str, settings: dict[str, str], directory: Path) -> Server:
    return Thunder(directory, settings) if kind == "ThunderDB" else Postgres(directory, settings)


def makers(names: list[str], settings: dict[str, dict[str, str]] | None = None) -> dict[str, Make]:
    return {name: functools.partial(_make, name, (settings or {}).get(name, {})) for name in names}


def measure(options: argparse.Namespace, names: list[str], work: Path) -> list[Row]:
    quick = options.quick
    seconds = options.seconds or (5 if quick else 30)
    rows: list[Row] = []

    def take(found: list[Row]) -> None:
        rows.extend(found)
        print(table(found), flush=True)

    if "load" in options.only:
        take(throughput.load(makers(names), work, scale=1 if quick else 10, rounds=options.rounds))
    if "rates" in options.only:
        take(
            throughput.rates(
                makers(names),
                work,
                scale=1 if quick else 10,
                rounds=options.rounds,
                seconds=seconds,
                clients=options.clients,
                modes=options.modes,
            )  # fmt: skip
        )
    if "restart" in options.only:
        scale = options.scale or (5 if quick else 100)
        counts = [2_000, 4_000] if quick else options.transactions
        systems = makers(names, restart.FAR_APART)
        take(restart.restarts(systems, work, scale=scale, transactions=counts, rounds=options.rounds))
    if "memory" in options.only:
        pools = {
            "ThunderDB": {"buffer_pool_size": f"{memory.POOL_MB}MB"},
            "PostgreSQL": {"shared_buffers": f"{memory.POOL_MB}MB"},
        }
        take(memory.peak(makers(names, pools), work, seconds))
    if "backup" in options.only:
        scale = options.scale or (5 if quick else 100)
        transactions = 4_000 if quick else options.transactions[0]
        take(backup.backups(names, work, scale=scale, rounds=options.rounds, transactions=transactions, seconds=seconds))
    return rows


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def _numbers(text: str) -> list[int]:
    return [int(word.replace("_", "")) for word in _words(text)]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.bench", description="ThunderDB beside PostgreSQL 15.")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", type=_words, default=list(GROUPS), help=f"of {','.join(GROUPS)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=0, help="of each pgbench run (30, quick 5)")
    parser.add_argument("--clients", type=_numbers, default=[1, 8])
    parser.add_argument("--modes", type=_words, default=["simple"], help="of simple,extended,prepared")
    parser.add_argument("--transactions", type=_numbers, default=[57_000, 150_000], help="of the restart rows")
    parser.add_argument("--scale", type=int, default=0, help="of the restart rows (100, quick 5)")
    parser.add_argument("--systems", type=_words, default=["ThunderDB", "PostgreSQL"])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--work", type=Path, help="scratch folder, on the disk to be measured")
    options = parser.parse_args()
    stop_whatever_happens()

    names = list(options.systems)
    if "PostgreSQL" in names and postgres.install() is None:
        names.remove("PostgreSQL")
    work = Path(tempfile.mkdtemp(prefix="thunderdb-bench-", dir=options.work))
    begun = time.monotonic()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; systems: {', '.join(names)}")
    print(f"{options.rounds} alternated rounds, medians; scratch in {work}\n", flush=True)
    try:
        rows = measure(options, names, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(f"\n{table(rows)}\n\nTook {time.monotonic() - begun:,.0f} s.")
    if options.json:
        options.json.write_text(json.dumps([row.as_dict() for row in rows], indent=1) + "\n")
    missed = [row.name for row in rows if row.passed() is False]
    if missed:
        print("Bars missed: " + "; ".join(missed))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

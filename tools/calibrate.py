"""Measure what recovery costs on this machine, write it down for the simulator, and play the same crash in both worlds.

    python -m tools.calibrate [--transactions 5000] [--rounds 3] [--write] [--json]

A child loads TPC-B on real files, runs the transactions and kills itself with -9. The parent opens copies of what is left and
takes the times from the engine's own events: they give the cost of CPU work by kind (`Tasks.work`). The disk is measured apart,
with files of its own. --write puts the costs into sim/costs.py. Then the simulator runs the same
transactions, dies, and restarts with these costs.

L1. RTO here is opening the database until the first commit is durable; starting the interpreter is no part of it, in neither
    world.
L2. The costs come from a restart with a quarter of the transactions, the comparison from one with all of them: nothing is
    fitted to the RTO that it is held to, and what the model leaves out shows as error.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim import tpcb
from sim.disk import DeviceProfile
from sim.engine_session import SimDatabase
from sim.world import World
from thunderdb.base import config as daemon_config
from thunderdb.base.config import Config
from thunderdb.base.events import Events
from thunderdb.engine.database import Database
from thunderdb.runtime.real_ports import RealPorts, run_real

COSTS_FILE = Path(__file__).resolve().parents[1] / "sim" / "costs.py"
DATA_DIR, WAL_DIR = "/var/lib/thunderdb/data", "/var/lib/thunderdb/wal"


@dataclass(frozen=True, slots=True)
class Restarted:
    """One restart. Seconds and bytes."""

    rto_s: float
    scan_s: float
    log_bytes: int
    dirty_pages: int


def config_of(folder: Path) -> Config:
    return daemon_config.parse("", flags={**tpcb.SETTINGS, "data_dir": str(folder / "data"), "wal_dir": str(folder / "wal")})


# -- On real files


def victim(folder: Path, transactions: int) -> None:
    """Load, work, and die."""

    async def work(ports: RealPorts) -> None:
        db = await Database.open(ports, config_of(folder), Events())
        await tpcb.load(db)
        await tpcb.run(db, transactions)
        os.kill(os.getpid(), signal.SIGKILL)

    run_real(work)


def make_victim(folder: Path, transactions: int) -> None:
    command = [sys.executable, "-m", "tools.calibrate", "--victim", str(folder), "--transactions", str(transactions)]
    done = subprocess.run(command)
    if done.returncode != -signal.SIGKILL:
        raise SystemExit(f"the victim ended with {done.returncode} instead of being killed")


def restart_real(folder: Path) -> Restarted:
    """Open a copy of what the victim left, and write once."""
    copy = folder.with_name(folder.name + "-copy")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    marks: dict[str, float] = {}
    facts: dict[str, Any] = {}

    async def work(ports: RealPorts) -> float:
        events = Events()

        def note(name: str, fields: dict[str, Any]) -> None:
            marks[name] = time.perf_counter()
            facts.update({f"{name}.{key}": value for key, value in fields.items()})

        events.subscribe(note)
        began = time.perf_counter()
        db = await Database.open(ports, config_of(copy), events)
        await tpcb.first_write(db)
        rto_s = time.perf_counter() - began
        facts["log"] = db.log.flushed_lsn - int(facts["recovery.started.checkpoint_lsn"])
        await db.close()
        return rto_s

    rto_s = run_real(work)
    shutil.rmtree(copy, ignore_errors=True)
    scan_s = marks["recovery.analysis"] - marks["recovery.started"]
    return Restarted(rto_s, scan_s, facts["log"], int(facts["recovery.analysis.dirty_pages"]))


def disk_of(folder: Path) -> DeviceProfile:
    """How fast this disk is: writes into the cache, small syncs, and syncs with something to write."""
    path, block, count = folder / "probe", bytes(range(256)) * 1024, 128
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


# -- In the simulator


def restart_simulated(transactions: int, costs_ns: dict[str, float], profile: DeviceProfile, seed: int = 1) -> float:
    """The same in a simulated world; its RTO in seconds of that world."""
    world = World(seed)
    node = world.node("a", profile=profile)
    node.costs_ns.update(costs_ns)
    config = daemon_config.parse("", flags={**tpcb.SETTINGS, "data_dir": DATA_DIR, "wal_dir": WAL_DIR})

    async def course() -> float:
        db = await node.call(SimDatabase.open(node.ports, config, Events()))
        await node.call(tpcb.load(db))
        await node.call(tpcb.run(db, transactions))
        node.crash(power=False)
        world.bury()
        began_ns = world.now_ns
        node.restart()
        db = await node.call(SimDatabase.open(node.ports, config, Events()))
        await node.call(tpcb.first_write(db))
        return (world.now_ns - began_ns) / 1e9

    try:
        return world.run(course())
    finally:
        world.close()


# -- Both


def costs_from(restarts: list[Restarted]) -> dict[str, float]:
    """Nanoseconds a unit, by kind of work."""
    scan = statistics.median(one.scan_s / one.log_bytes for one in restarts)
    settle = statistics.median(max(0.0, one.rto_s - one.scan_s) for one in restarts)
    return {"recovery.scan": round(scan * 1e9, 2), "recovery.settle": round(settle * 1e9)}


def compare(transactions: int, rounds: int) -> dict[str, Any]:
    """Measure, calibrate, simulate."""
    with tempfile.TemporaryDirectory(prefix="thunderdb-calibrate-") as name:
        folder = Path(name) / "victim"
        make_victim(folder, transactions)
        restarts = [restart_real(folder) for _ in range(rounds)]
        quarter = Path(name) / "quarter"
        make_victim(quarter, max(1, transactions // 4))
        costs = costs_from([restart_real(quarter) for _ in range(rounds)])
        profile = disk_of(Path(name))
    simulated_s = restart_simulated(transactions, costs, profile)
    real_s = statistics.median(one.rto_s for one in restarts)
    return {
        "transactions": transactions,
        "log_bytes": restarts[0].log_bytes,
        "dirty_pages": restarts[0].dirty_pages,
        "real_rto_s": round(real_s, 4),
        "real_rto_all_s": [round(one.rto_s, 4) for one in restarts],
        "simulated_rto_s": round(simulated_s, 4),
        "error_percent": round(100 * (simulated_s / real_s - 1), 1),
        "costs_ns": costs,
        "disk": {
            "sync_ms": round(profile.sync_ns / 1e6, 3), "write_mb_s": profile.bytes_per_s // 1_000_000,
            "sync_mb_s": profile.sync_bytes_per_s // 1_000_000,
        },  # fmt: skip
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
    }


def write_costs(found: dict[str, Any]) -> None:
    """Put the costs where the simulator finds them."""
    lines = "".join(f'    "{kind}": {cost},\n' for kind, cost in found["costs_ns"].items())
    COSTS_FILE.write_text(
        '"""CPU time of engine work by kind, in nanoseconds a unit. Written by `python -m tools.calibrate --write`."""\n\n'
        "from __future__ import annotations\n\n"
        f'MEASURED_ON = "{found["machine"]}"\n'
        f"ERROR_PERCENT = {found['error_percent']}\n"
        f"REAL_RTO_S, SIMULATED_RTO_S = {found['real_rto_s']}, {found['simulated_rto_s']}\n"
        f"TRANSACTIONS = {found['transactions']}\n"
        f"COSTS_NS: dict[str, float] = {{\n{lines}}}\n"
        '"""recovery.scan: a byte of log; recovery.settle: the rest of a restart, once."""\n'
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transactions", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--write", action="store_true", help="write sim/costs.py")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--victim", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.victim:
        victim(Path(options.victim), options.transactions)
        return 1
    found = compare(options.transactions, options.rounds)
    if options.write:
        write_costs(found)
    if options.json:
        print(json.dumps(found))
    else:
        print(
            f"kill -9 with {found['transactions']} TPC-B transactions, {found['log_bytes'] / 1e6:.1f} MB of log: "
            f"RTO {found['real_rto_s']:.3f} s on real files, {found['simulated_rto_s']:.3f} s simulated "
            f"({found['error_percent']:+.1f} %); "
            f"a byte of log {found['costs_ns']['recovery.scan']} ns, disk {found['disk']}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())

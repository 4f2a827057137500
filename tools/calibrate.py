"""Measure what recovery costs on this machine, write it down for the simulator, and play the same crash in both worlds.

    python -m tools.calibrate [--transactions 8000] [--rounds 3] [--write] [--json]

A child loads TPC-B on real files, takes a backup, runs the transactions under an archive and kills itself with -9. The parent
restarts copies of what is left, and restores the backup, while a meter listens to the engine's own charges (`Tasks.work`):
that gives the CPU time of a log record scanned, of a page brought up, of a change applied, of a page laid down … The disk, the
threads' functions and the start of a process are measured apart. --write puts all of it into sim/world/costs.py. Then the
simulator runs the same transactions, dies, and restarts with these costs. tools/rto_report compares whole daemons.

L1. RTO here is opening the database until the first commit is durable; starting the interpreter is no part of it, in neither
    world.
L2. The costs come from a quarter of the transactions, the comparison from all of them: nothing is fitted to the RTO that it is
    held to, and what the model leaves out shows as error.
L3. Costs are CPU time of the thread that does the work; time waited for the disk is the device profile's.
L4. Of several rounds the median counts, for each cost as for the RTO: the sum of what was least in each part is a restart that
    nobody has met.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from sim.clients import tpcb
from sim.clients.engine_session import SimDatabase
from sim.report.calibration import UNITS
from sim.world.disk import DeviceProfile
from sim.world.world import World
from thunderdb.archive.archiver import Archiver
from thunderdb.backup.plan import plan_restore
from thunderdb.backup.restore import restore
from thunderdb.backup.take import BackupRequest, take_backup
from thunderdb.base import config as daemon_config
from thunderdb.base.config import Config
from thunderdb.base.events import Events
from thunderdb.engine.database import Database
from thunderdb.recovery.analysis import check_before
from thunderdb.recovery.chain import BLOCK_BYTES
from thunderdb.recovery.extras import encode_tables
from thunderdb.recovery.target import parse_target
from thunderdb.runtime.real_ports import RealPorts, run_real
from thunderdb.server.interpreter import tune_interpreter
from thunderdb.wal.reader import LogReader
from tools.machine import cpu_s, disk_of, function_costs, machine, process_costs, sync_tree
from tools.metering import CHANGE, PAGE, READ, WANTED, Meter, Sample, beside, counted, metering, redo_costs_ns

COSTS_FILE = Path(__file__).resolve().parents[1] / "sim" / "world" / "costs.py"
DATA_DIR, WAL_DIR = "/var/lib/thunderdb/data", "/var/lib/thunderdb/wal"
READS = 500
LEFT = 400
"""Changes of the transaction that is under way at the kill."""
BEGINNINGS = ("restore.pages_started", "restore.log_started", "restore.log")


@dataclass(frozen=True, slots=True)
class Restarted:
    """One restart: its RTO, the CPU time in it, the bytes of log and dirty pages that it found, and where CPU time went: all of
    it, the undo's part, and what came after analysis beside undo, up to the first write."""

    rto_s: float
    cpu_s: float
    log_bytes: int
    dirty_pages: int
    entry_ns: float
    meter: Meter
    undo: list[Sample]
    rest: list[Sample]


def say(text: str) -> None:
    """Progress."""
    print(f"calibrate: {text}", file=sys.stderr, flush=True)


def config_of(folder: Path, **more: str) -> Config:
    own = {"data_dir": str(folder / "data"), "wal_dir": str(folder / "wal")}
    return daemon_config.parse("", flags={**tpcb.SETTINGS, **own, **more})


def archived(folder: Path) -> dict[str, str]:
    return {"wal_archive_enabled": "true", "wal_archive_dir": str(folder / "archive")}


# -- On real files


def victim(folder: Path, transactions: int) -> None:
    """Load, back up, work, and die."""

    async def work(ports: RealPorts) -> None:
        config = config_of(folder, **archived(folder))
        db = await Database.open(ports, config, Events())
        archiver = await Archiver.open(db, config, ports, Events())
        await tpcb.load(db)
        request = BackupRequest(str(folder / "backup"))
        await take_backup(db, ports, request, backup_id="bk-20260101-000000-1", archiver=archiver)
        await tpcb.run(db, transactions)
        await tpcb.leave(db, LEFT)
        if archiver is not None:
            await archiver.wait_archived(db.log.flushed_lsn)
        os.kill(os.getpid(), signal.SIGKILL)

    run_real(work)


def make_victim(folder: Path, transactions: int) -> None:
    command = [sys.executable, "-m", "tools.calibrate", "--victim", str(folder), "--transactions", str(transactions)]
    done = subprocess.run(command)
    if done.returncode != -signal.SIGKILL:
        raise SystemExit(f"the victim ended with {done.returncode} instead of being killed")


def restart_real(folder: Path) -> Restarted:
    """Open a copy of what the victim left, and write once; then bring up the pages that were left for later, and close."""
    copy = folder.with_name(folder.name + "-copy")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    sync_tree(copy)
    facts: dict[str, Any] = {}
    cuts: dict[str, int] = {}

    def cut(name: str, _fields: dict[str, Any]) -> None:
        if name in ("recovery.redo", "recovery.undo"):
            meter.other()
        cuts[name] = len(meter.samples)

    async def work(ports: RealPorts) -> tuple[float, float]:
        events = Events()
        events.subscribe(lambda name, fields: facts.update({f"{name}.{key}": value for key, value in fields.items()}))
        events.subscribe(cut)
        meter.other()
        began, cpu_began = time.perf_counter(), time.thread_time()
        db = await Database.open(ports, config_of(copy), events)
        await tpcb.first_write(db)
        took = time.perf_counter() - began, time.thread_time() - cpu_began
        meter.other()
        cuts["first write"] = len(meter.samples)
        facts["entry_ns"] = entry_ns(db)
        facts["log"] = db.log.flushed_lsn - int(facts["recovery.started.checkpoint_lsn"])
        await read_log(db, meter)
        await bring_up(db, meter)
        await check_log(db, int(facts["recovery.started.checkpoint_lsn"]), meter)
        await db.close()
        return took

    with metering() as meter:
        took = run_real(work)
    shutil.rmtree(copy, ignore_errors=True)
    at, redo, undone, written = (cuts[name] for name in ("recovery.analysis", "recovery.redo", "recovery.undo", "first write"))
    samples = meter.samples
    return Restarted(
        *took, facts["log"], int(facts["recovery.analysis.dirty_pages"]), facts["entry_ns"], meter,
        samples[redo:undone], samples[at:redo] + samples[undone:written],
    )  # fmt: skip


async def bring_up(db: Database, meter: Meter) -> None:
    """What the background would do for the pages that were left for later, metered page by page."""
    deferred = db.deferred
    for page_no in list(deferred.dirty) if deferred is not None else ():
        if deferred is None or page_no not in deferred:
            continue
        before, reads = deferred.applied, deferred.chains.reads
        meter.other()
        since = len(meter.samples)
        await db.pool.load(page_no)
        known_s = (deferred.chains.reads - reads) * meter.cost_ns(READ) / 1e9
        meter.fold(since, {PAGE: 1, CHANGE: deferred.applied - before}, known_s)


def entry_ns(db: Database) -> float:
    """CPU time of an entry of the dirty page table in a checkpoint."""

    def tables() -> None:
        for _extra in encode_tables(1, [], db.pool.dirty_table()):
            pass

    return cpu_s(tables) * 1e9 / max(1, len(db.pool.dirty_table()))


async def read_log(db: Database, meter: Meter) -> None:
    """Blocks of log, as redo on demand reads them, from all over it."""
    reader = LogReader(db.ports.disk, db.config.wal_dir, db.control.state.system_id, db.control.state.timeline)
    await reader.load()
    lsns = range(reader.segments[0].start_lsn, db.log.flushed_lsn - BLOCK_BYTES, BLOCK_BYTES)
    starts = [header.start_lsn for header in reader.segments]
    meter.other()
    for number in range(READS):
        lsn = lsns[number * 7919 % len(lsns)]
        await reader.read_part(reader.segments[bisect_right(starts, lsn) - 1], lsn, BLOCK_BYTES)
    meter.charge(READ, READS)


async def check_log(db: Database, from_lsn: int, meter: Meter) -> None:
    """What a restart would do with this log if it lay before its checkpoint."""
    reader = LogReader(db.ports.disk, db.config.wal_dir, db.control.state.system_id, db.control.state.timeline)
    await reader.load()
    meter.other()
    records, _changed = await check_before(reader, from_lsn, db.log.flushed_lsn)
    meter.charge("recovery.check", records)


def restore_real(folder: Path) -> Meter:
    """Restore the victim's backup and replay its archive, beside it."""
    fresh = folder.with_name(folder.name + "-restored")

    async def work(ports: RealPorts) -> None:
        events = Events()
        events.subscribe(lambda name, _fields: meter.other() if name in BEGINNINGS else None)
        config = config_of(fresh, **archived(folder))
        meter.other()
        plan = await plan_restore(ports, config, parse_target("latest"), str(folder / "backup"), no_archive=True)
        await restore(ports, config, plan, events, True)

    with metering() as meter:
        run_real(work)
    shutil.rmtree(fresh, ignore_errors=True)
    return meter


# -- In the simulator


class _AsInProduction(SimDatabase):
    kept_log_bytes = Database.kept_log_bytes


def restart_simulated(transactions: int, costs_ns: dict[str, float], profile: DeviceProfile, seed: int = 1) -> float:
    """The same in a simulated world; its RTO in seconds of that world."""
    world = World(seed)
    node = world.node("a", profile=profile)
    config = daemon_config.parse("", flags={**tpcb.SETTINGS, "data_dir": DATA_DIR, "wal_dir": WAL_DIR})

    async def course() -> float:
        db = await node.call(_AsInProduction.open(node.ports, config, Events()))
        await node.call(tpcb.load(db))
        await node.call(tpcb.run(db, transactions))
        await node.call(tpcb.leave(db, LEFT))
        node.crash(power=False)
        world.bury()
        node.costs_ns.update(costs_ns)
        began_ns = world.now_ns
        node.restart()
        db = await node.call(_AsInProduction.open(node.ports, config, Events()))
        await node.call(tpcb.first_write(db))
        return (world.now_ns - began_ns) / 1e9

    try:
        return world.run(course())
    finally:
        world.close()


# -- Both


def costs_from(restarts: list[Restarted], restores: list[Meter]) -> dict[str, float]:
    """Nanoseconds a unit, by kind of work (L4)."""
    meters = [one.meter for one in restarts]
    page, change = redo_costs_ns(meters)
    costs = {kind: median(m.cost_ns(kind) for m in meters) for kind in ("recovery.scan", "recovery.check", READ)}
    costs |= {PAGE: page, CHANGE: change}
    costs |= {wanted: costs[kind] for wanted, kind in WANTED.items()}
    costs["checkpoint.entry"] = median(one.entry_ns for one in restarts)
    costs["undo"] = median(beside(one.undo, costs) / max(1, counted(one.undo, "undo")) for one in restarts)
    costs["recovery.settle"] = median(beside(one.rest, costs) for one in restarts)
    for kind in ("pool.write_back", "restore.scan", "restore.page_byte", "restore.log_byte"):
        source = meters if kind == "pool.write_back" else restores
        costs[kind] = median(meter.cost_ns(kind) for meter in source)
    return costs


def measure(folder: Path, transactions: int, rounds: int, processes: bool = True) -> dict[str, float]:
    """All costs of this machine."""
    small = folder / "small"
    say(f"{transactions} transactions on real files, then restarts and restores of them")
    make_victim(small, transactions)
    restarts = [restart_real(small) for _ in range(rounds)]
    costs = costs_from(restarts, [restore_real(small) for _ in range(rounds)])
    costs |= function_costs(small)
    if processes:
        say("starts of processes")
        costs |= process_costs(folder, small / "backup", rounds)
    return {kind: float(f"{cost:.4g}") for kind, cost in sorted(costs.items())}


def compare(transactions: int, rounds: int, processes: bool = False) -> dict[str, Any]:
    """Measure, calibrate, simulate."""
    with tempfile.TemporaryDirectory(prefix="thunderdb-calibrate-") as name:
        folder = Path(name)
        costs = measure(folder, max(1, transactions // 4), rounds, processes)
        say(f"{transactions} transactions, killed, and restarted {rounds} times")
        make_victim(folder / "victim", transactions)
        restarts = [restart_real(folder / "victim") for _ in range(rounds)]
        profile = disk_of(folder)
    say("the same in the simulator")
    simulated_s = restart_simulated(transactions, costs, profile)
    real_s = median(one.rto_s for one in restarts)
    return {
        "transactions": transactions,
        "log_bytes": restarts[0].log_bytes,
        "dirty_pages": restarts[0].dirty_pages,
        "real_rto_s": round(real_s, 4),
        "real_rto_all_s": [round(one.rto_s, 4) for one in restarts],
        "real_cpu_s": round(median(one.cpu_s for one in restarts), 4),
        "simulated_rto_s": round(simulated_s, 4),
        "error_percent": round(100 * (simulated_s / real_s - 1), 1),
        "costs_ns": costs,
        "disk": {
            "sync_ms": round(profile.sync_ns / 1e6, 3), "write_mb_s": profile.bytes_per_s // 1_000_000,
            "sync_mb_s": profile.sync_bytes_per_s // 1_000_000,
        },  # fmt: skip
        "machine": machine(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def write_costs(found: dict[str, Any]) -> None:
    """Put the costs where the simulator finds them."""
    lines = "".join(f'    "{kind}": {cost},  # {UNITS[kind]}\n' for kind, cost in found["costs_ns"].items())
    COSTS_FILE.write_text(
        '"""CPU time of engine work by kind, in nanoseconds a unit. Written by `python -m tools.calibrate --write`."""\n\n'
        "from __future__ import annotations\n\n"
        f'MEASURED_ON = "{found["machine"]}"\n'
        f'MEASURED_AT = "{found["date"]}"\n'
        f"ERROR_PERCENT = {found['error_percent']}\n"
        f"REAL_RTO_S, SIMULATED_RTO_S = {found['real_rto_s']}, {found['simulated_rto_s']}\n"
        f"TRANSACTIONS = {found['transactions']}\n"
        f"COSTS_NS: dict[str, float] = {{\n{lines}}}\n"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transactions", type=int, default=8000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="write sim/world/costs.py")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--victim", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.victim:
        victim(Path(options.victim), options.transactions)
        return 1
    tune_interpreter()  # as whoever restarts and restores in production: the collector was a tenth of a restore's plan
    found = compare(options.transactions, options.rounds, processes=True)
    if options.write:
        write_costs(found)
    if options.json:
        print(json.dumps(found))
    else:
        print(
            f"kill -9 with {found['transactions']} TPC-B transactions, {found['log_bytes'] / 1e6:.1f} MB of log: "
            f"RTO {found['real_rto_s']:.3f} s on real files ({found['real_cpu_s']:.3f} s of it CPU), "
            f"{found['simulated_rto_s']:.3f} s simulated "
            f"({found['error_percent']:+.1f} %); "
            f"disk {found['disk']}"
        )
        for kind, cost in found["costs_ns"].items():
            print(f"  {cost:>14,.4g} ns  {kind:20} {UNITS[kind]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

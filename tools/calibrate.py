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
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backports import zstd
from xxhash import xxh3_64_intdigest, xxh3_128

from sim.clients import tpcb
from sim.clients.engine_session import SimDatabase
from sim.report.calibration import UNITS
from sim.world.disk import DeviceProfile
from sim.world.world import World
from thunderdb.archive.archiver import Archiver
from thunderdb.backup.lay_pages import check_pages
from thunderdb.backup.plan import plan_restore
from thunderdb.backup.restore import restore
from thunderdb.backup.take import BackupRequest, take_backup
from thunderdb.base import config as daemon_config
from thunderdb.base.config import Config
from thunderdb.base.events import Events
from thunderdb.base.units import parse_size
from thunderdb.engine.database import Database
from thunderdb.recovery.analysis import check_before
from thunderdb.recovery.target import parse_target
from thunderdb.runtime.real_ports import RealPorts, run_real
from thunderdb.storage.files import page_file_name
from thunderdb.wal.reader import LogReader
from tools.harness.server import ticks
from tools.harness.thunder import Thunder
from tools.metering import CHANGE, PAGE, Meter, metering

COSTS_FILE = Path(__file__).resolve().parents[1] / "sim" / "world" / "costs.py"
DATA_DIR, WAL_DIR = "/var/lib/thunderdb/data", "/var/lib/thunderdb/wal"
BEGINNINGS = ("restore.pages_started", "restore.log_started", "restore.log")


@dataclass(frozen=True, slots=True)
class Restarted:
    """One restart: its RTO, the bytes of log and dirty pages that it found, and where its CPU time went."""

    rto_s: float
    log_bytes: int
    dirty_pages: int
    meter: Meter


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
    facts: dict[str, Any] = {}

    async def work(ports: RealPorts) -> float:
        events = Events()
        events.subscribe(lambda name, fields: facts.update({f"{name}.{key}": value for key, value in fields.items()}))
        meter.other()
        began = time.perf_counter()
        db = await Database.open(ports, config_of(copy), events)
        await tpcb.first_write(db)
        rto_s = time.perf_counter() - began
        meter.charge("recovery.settle", 1)
        facts["log"] = db.log.flushed_lsn - int(facts["recovery.started.checkpoint_lsn"])
        await bring_up(db, meter)
        await check_log(db, int(facts["recovery.started.checkpoint_lsn"]), meter)
        await db.close()
        return rto_s

    with metering() as meter:
        rto_s = run_real(work)
    shutil.rmtree(copy, ignore_errors=True)
    return Restarted(rto_s, facts["log"], int(facts["recovery.analysis.dirty_pages"]), meter)


async def bring_up(db: Database, meter: Meter) -> None:
    """What the background would do for the pages that were left for later, metered page by page."""
    deferred = db.deferred
    for page_no in list(deferred.dirty) if deferred is not None else ():
        if deferred is None or page_no not in deferred:
            continue
        before = deferred.applied
        meter.other()
        await db.pool.load(page_no)
        meter.charge(PAGE, 1)
        meter.charge(CHANGE, deferred.applied - before)


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


# -- In the simulator


def restart_simulated(transactions: int, costs_ns: dict[str, float], profile: DeviceProfile, seed: int = 1) -> float:
    """The same in a simulated world; its RTO in seconds of that world."""
    world = World(seed)
    node = world.node("a", profile=profile)
    config = daemon_config.parse("", flags={**tpcb.SETTINGS, "data_dir": DATA_DIR, "wal_dir": WAL_DIR})

    async def course() -> float:
        db = await node.call(SimDatabase.open(node.ports, config, Events()))
        await node.call(tpcb.load(db))
        await node.call(tpcb.run(db, transactions))
        node.crash(power=False)
        world.bury()
        node.costs_ns.update(costs_ns)
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


def costs_from(restarts: list[Restarted], restores: list[Meter]) -> dict[str, float]:
    """Nanoseconds a unit, by kind of work; of several rounds the least: what else the machine does only adds."""
    meters = [one.meter for one in restarts]
    page, change = (min(pair) for pair in zip(*(meter.redo_costs_ns() for meter in meters), strict=True))
    costs = {kind: min(m.cost_ns(kind) for m in meters) for kind in ("recovery.settle", "recovery.scan", "recovery.check")}
    costs |= {PAGE: page, CHANGE: change}
    for kind in ("pool.write_back", "restore.scan", "restore.page_byte", "restore.log_byte"):
        source = meters if kind == "pool.write_back" else restores
        costs[kind] = min(meter.cost_ns(kind) for meter in source)
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
        "machine": machine(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def machine() -> str:
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"


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
    found = compare(options.transactions, options.rounds, processes=True)
    if options.write:
        write_costs(found)
    if options.json:
        print(json.dumps(found))
    else:
        print(
            f"kill -9 with {found['transactions']} TPC-B transactions, {found['log_bytes'] / 1e6:.1f} MB of log: "
            f"RTO {found['real_rto_s']:.3f} s on real files, {found['simulated_rto_s']:.3f} s simulated "
            f"({found['error_percent']:+.1f} %); "
            f"disk {found['disk']}"
        )
        for kind, cost in found["costs_ns"].items():
            print(f"  {cost:>14,.4g} ns  {kind:20} {UNITS[kind]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

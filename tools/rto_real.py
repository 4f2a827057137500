"""Real daemons on a real disk, killed, robbed of their directories, and sent back in time: what is lost, and how long it takes.

    load ─▶ [checkpoint ─▶ N transactions ─▶ more of them ─▶ kill -9 ─▶ restart] × rounds
         ─▶ backup ─▶ N transactions ─▶ moment T ─▶ more of them ─▶ kill -9, directories removed
         ─▶ restore to T × rounds ─▶ restore to latest × rounds

U1. The clients' own log says what was acknowledged: pgbench writes a line for each transaction whose COMMIT was answered, and
    each transaction enters its number into a ledger. What is in the log and not in the ledger is lost, counted one by one.
U2. RTO runs from the fault to the first acknowledged write. What the harness itself does in between (copies for the simulator)
    is not in it. Phases are cut at the daemon's own log lines.
U3. Files are warm: what was written a moment ago is in the cache of this machine. How much of it only there is asked of the
    kernel before each restart, which has to sync that; the copy for the simulator is synced, so that nobody else's is.
"""

from __future__ import annotations

import collections
import json
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from tools.harness import pgbench
from tools.harness.thunder import Thunder
from tools.machine import sync_tree, unsynced_bytes
from tools.pgbench_kill import LEDGER, SCRIPT, unexpected

FAR_APART = {"checkpoint_interval": "1d", "max_wal_size": "64GB", "recovery_target": "off", "format": "json"}
PROBE = "rto_probe"
STEPS = {
    "recovery.started": "process started", "recovery.analysis": "log analysed", "recovery.redo": "redo prepared",
    "recovery.undo": "losers undone", "recovery.complete": "recovered", "server.ready": "ready",
    "restore.started": "restore planned", "restore.pages": "pages laid down", "restore.complete": "log laid down",
}  # fmt: skip
"""What is done when the daemon, or the command, says so."""


class Lost(Exception):
    """What was acknowledged is not there, or what was not is; the message says what."""


@dataclass(slots=True)
class Round:
    """One recovery. Phases in order, in seconds. `unsynced`: of each data file, what only the cache had when it began."""

    rto_s: float
    phases: list[tuple[str, float]] = field(default_factory=list)
    unsynced: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Measured:
    """One scenario on real daemons."""

    name: str
    acknowledged: int = 0
    lost: int = 0
    rpo_s: float = 0.0
    rounds: list[Round] = field(default_factory=list)
    target: str = ""

    @property
    def middle(self) -> Round:
        """The round whose phases are told."""
        return sorted(self.rounds, key=lambda one: one.rto_s)[len(self.rounds) // 2]


@dataclass(slots=True)
class Bench:
    """The daemon under test and its places below `work`."""

    work: Path
    scale: int
    transactions: int
    clients: int
    server: Thunder = field(init=False)
    loads: int = 0

    def __post_init__(self) -> None:
        archive = {"wal_archive_enabled": "true", "wal_archive_dir": str(self.work / "archive")}
        self.server = Thunder(self.work / "node", {**FAR_APART, **archive})
        (self.work / "script.sql").write_text(SCRIPT)

    @property
    def backup(self) -> Path:
        return self.work / "backup"

    def load(self) -> None:
        """Tables, ledger and probe."""
        self.server.start()
        pgbench.initialise(self.server, self.scale)
        with self.server.connect(autocommit=True) as connection:
            connection.execute(LEDGER)
            connection.execute(f"CREATE TABLE {PROBE} (id int PRIMARY KEY, n int)")
            connection.execute(f"INSERT INTO {PROBE} VALUES (1, 0)")

    # -- Clients

    def run(self, transactions: int) -> list[tuple[int, float]]:
        """So many transactions; return (client, time of its acknowledgement) of each."""
        bench = self._pgbench("-t", str(max(1, transactions // self.clients)))
        self._end(bench, None)
        return self._acknowledged()

    def run_and_kill(self, after_s: float) -> tuple[list[tuple[int, float]], float, float]:
        """Load, and kill -9 in the middle; return the acknowledged, and when it was killed: wall clock and monotonic."""
        bench = self._pgbench("-T", "600")
        self._at_work(bench)
        time.sleep(after_s)
        if bench.poll() is not None:
            raise Lost(f"pgbench ended before the kill: {bench.stderr.read()[-500:] if bench.stderr else ''}")
        wall_s, began_s = time.time(), time.monotonic()
        self.server.kill()
        self._end(bench, wall_s)
        return self._acknowledged(), wall_s, began_s

    def _at_work(self, bench: subprocess.Popen[str]) -> None:
        """Wait until every client has had something acknowledged."""
        query = "SELECT count(*) FROM kill_ledger WHERE round = %s AND client = %s AND seq = 1"
        deadline_s = time.monotonic() + 60
        with self.server.connect(autocommit=True) as connection:
            for client in range(self.clients):
                while connection.execute(query, (self.loads, client)).fetchone() != (1,):
                    if bench.poll() is not None or time.monotonic() > deadline_s:
                        raise Lost(f"client {client} of pgbench does not begin")
                    time.sleep(0.02)

    def _pgbench(self, *options: str) -> subprocess.Popen[str]:
        for old in self.work.glob("log.*"):
            old.unlink()
        self.loads += 1
        arguments = pgbench.arguments(
            self.server, "-n", "-c", str(self.clients), "-j", "2", "-M", "simple", "-f", "script.sql", *options,
            "-s", str(self.scale), "-D", f"round={self.loads}", "-D", "seq=0", "--log", "--log-prefix=log",
        )  # fmt: skip
        return subprocess.Popen(arguments, cwd=self.work, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def _end(self, bench: subprocess.Popen[str], killed: float | None) -> None:
        try:
            _, stderr = bench.communicate(timeout=60 if killed else 3600)
        finally:
            if bench.poll() is None:
                bench.kill()
        if killed is None and bench.returncode != 0 or unexpected(stderr):
            raise Lost(f"pgbench met an error that nothing explains: {stderr[-1000:]}")

    def _acknowledged(self) -> list[tuple[int, float]]:
        found: list[tuple[int, float]] = []
        for path in sorted(self.work.glob("log.*")):
            for line in path.read_text().splitlines():
                cells = line.split()
                found.append((int(cells[0]), int(cells[4]) + int(cells[5]) / 1e6))
        return found


# -- Looking at what came back


def settle(server: Thunder, number: int, acknowledged: list[tuple[int, float]], most: int = 1) -> tuple[int, float]:
    """Of load `number`: how many of the acknowledged are not there, and when the oldest of them was (U1).

    Raises: Lost for a gap, or for more than `most` transactions a client that nobody was told of.
    """
    with server.connect(autocommit=True) as connection:
        query = "SELECT client, count(*), max(seq) FROM kill_ledger WHERE round = %s GROUP BY client"
        there = {row[0]: (row[1], row[2]) for row in connection.execute(query, (number,)).fetchall()}
    times: dict[int, list[float]] = collections.defaultdict(list)
    for client, at_s in acknowledged:
        times[client].append(at_s)
    lost: list[float] = []
    for client in sorted({*there, *times}):
        count, newest = there.get(client, (0, 0))
        if newest != count:
            raise Lost(f"client {client} of load {number}: {count} transactions, the last is number {newest}: a gap")
        if count > len(times[client]) + most:
            raise Lost(f"client {client} of load {number}: {count} transactions, {len(times[client])} were acknowledged")
        lost += sorted(times[client])[count:]
    return len(lost), min(lost, default=0.0)


def check_sums(server: Thunder) -> None:
    """Raises: Lost if TPC-B's four sums differ."""
    sums = pgbench.sums(server)
    if len(set(sums.values())) != 1:
        raise Lost(f"the sums differ: {sums}")


def first_write(server: Thunder) -> tuple[float, float]:
    """The first acknowledged write; return when, by the monotonic clock and by the wall's, which the log lines have."""
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute(f"UPDATE {PROBE} SET n = n + 1 WHERE id = 1")
        return time.monotonic(), time.time()


def cut(began_wall_s: float, lines: str, ended_wall_s: float) -> list[tuple[str, float]]:
    """The phases between two moments, from JSON log lines. Those of no length are left out."""
    phases: list[tuple[str, float]] = []
    at_s = began_wall_s
    for line in lines.splitlines():
        if line.startswith("{"):
            record: dict[str, Any] = json.loads(line)
            to_s = datetime.fromisoformat(record["time"].replace("Z", "+00:00")).timestamp()
            if record["event"] in STEPS and at_s < to_s <= ended_wall_s:
                phases.append((STEPS[record["event"]], to_s - at_s))
                at_s = to_s
    return [*phases, ("first write", max(0.0, ended_wall_s - at_s))]


# -- The scenarios


def kill_rounds(bench: Bench, rounds: int, keep: Path) -> Measured:
    """kill -9 with so many transactions in the log; what the first kill left is kept for the simulator."""
    found, server = Measured("kill"), bench.server
    for number in range(rounds):
        server.checkpoint()
        acknowledged = bench.run(bench.transactions)
        load = bench.loads
        more, wall_s, began_s = bench.run_and_kill(0.5)
        noticed_s = time.monotonic() - began_s
        if number == 0:
            copy_tree(server.directory, keep)
            sync_tree(keep)
        unsynced = unsynced_bytes(server.directory / "data")
        size, launched_wall_s, launched_s = server.log_size(), time.time(), time.monotonic()
        server.start(timeout_s=1800)
        ended_s, ended_wall_s = first_write(server)
        phases = [("noticed", noticed_s), *cut(launched_wall_s, server.log_since(size), ended_wall_s)]
        found.rounds.append(Round(noticed_s + ended_s - launched_s, phases, unsynced))
        for one, of in ((load, acknowledged), (bench.loads, more)):
            lost, oldest_s = settle(server, one, of)
            found.lost += lost
            found.rpo_s = max(found.rpo_s, wall_s - oldest_s if lost else 0.0)
            found.acknowledged += len(of)
        check_sums(server)
    return found


def take_backup(bench: Bench) -> None:
    started = bench.server.http("/admin/backup", {"destination": str(bench.backup)})
    while (job := bench.server.http(f"/admin/backup/status/{started['backup_id']}"))["status"] not in ("completed", "failed"):
        time.sleep(0.05)
    if job["status"] == "failed":
        raise Lost(f"the backup failed: {job}")


def restores(bench: Bench, rounds: int) -> list[Measured]:
    """A backup, work, a moment, more work; then everything on the machine but backup and archive is gone."""
    server = bench.server
    take_backup(bench)
    acknowledged = bench.run(bench.transactions)
    load = bench.loads
    time.sleep(0.1)
    moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    time.sleep(0.1)
    more, wall_s, began_s = bench.run_and_kill(1.0)
    for folder in ("data", "wal"):
        shutil.rmtree(server.directory / folder)
    noticed_s = time.monotonic() - began_s
    found = [Measured("pitr", target=moment), Measured("lost", target="latest")]
    for measured in found:
        for number in range(rounds):
            fresh = Thunder(bench.work / f"{measured.name}-{number}", dict(FAR_APART))
            measured.rounds.append(_restored(bench, fresh, measured.target, noticed_s if measured.name == "lost" else 0.0))
            if number == 0:
                _count(fresh, measured, [(load, acknowledged), (bench.loads, more)], wall_s)
            fresh.kill()
            shutil.rmtree(fresh.directory)
    return found


def _restored(bench: Bench, fresh: Thunder, target: str, noticed_s: float) -> Round:
    """One restore into empty directories, and the daemon on it until its first write."""
    command = [
        *fresh.command(), "--restore-pitr", target, "--restore-backup", str(bench.backup), "--no-archive",
        "--wal-archive-dir", str(bench.work / "archive"),
    ]  # fmt: skip
    wall_s, began_s = time.time(), time.monotonic()
    done = subprocess.run(command, env=fresh.environment(), capture_output=True, text=True, cwd="/")
    if done.returncode != 0:
        raise Lost(f"the restore ended with {done.returncode}: {done.stderr[-1500:]}")
    launched_wall_s = time.time()
    phases = cut(wall_s, done.stderr, launched_wall_s)[:-1]
    phases.append(("command ended", launched_wall_s - wall_s - sum(took for _, took in phases)))
    fresh.start(timeout_s=1800)
    ended_s, ended_wall_s = first_write(fresh)
    phases += cut(launched_wall_s, fresh.log_text(), ended_wall_s)
    if noticed_s:
        phases.insert(0, ("noticed", noticed_s))
    return Round(noticed_s + ended_s - began_s, phases)


def _count(fresh: Thunder, measured: Measured, loads: list[tuple[int, list[tuple[int, float]]]], wall_s: float) -> None:
    """What came back, of what had been acknowledged before the target."""
    check_sums(fresh)
    if measured.name == "pitr":  # U1: all of the first load, nothing of what came after the moment
        number, acknowledged = loads[0]
        measured.lost, _ = settle(fresh, number, acknowledged, most=0)
        measured.acknowledged = len(acknowledged)
        after = fresh.one(f"SELECT count(*) FROM kill_ledger WHERE round = {loads[1][0]}")
        if after:
            raise Lost(f"{after} transactions from after the target {measured.target} are there")
        return
    for number, acknowledged in loads:
        lost, oldest_s = settle(fresh, number, acknowledged)
        measured.lost += lost
        measured.rpo_s = max(measured.rpo_s, wall_s - oldest_s if lost else 0.0)
        measured.acknowledged += len(acknowledged)


def copy_tree(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-a", "--reflink=auto", str(source), str(target)], check=True)

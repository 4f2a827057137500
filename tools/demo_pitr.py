"""The second half of the demo: hot backup under load, an accident, back to just before it; then the machine is gone.

R1. The backup runs while clients write, is verified, and is never stopped for.
R2. Restored to the moment before an accidental DELETE, every row of every table equals what was there at that moment.
R3. After `kill -9` with all of the server's disk gone, the archive gives back all but the last moments: what is missing is
    counted (RPO), and so is the time until the first query is answered again (RTO).
"""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import psycopg

from tools.demo_load import Client, DemoFailed, load, say
from tools.harness.thunder import Thunder

TABLES = {
    "accounts": "SELECT id, owner, balance FROM accounts",
    "ledger": "SELECT client, number, source, target, amount FROM ledger",
}
LAG_S = 1.0
SLACK_S = 4.0
"""Above wal_archive_lag: a loaded machine's own delays."""
Rows = dict[str, set[tuple[Any, ...]]]


class Worker(Client):
    """A client that can be asked to stop, and remembers when each commit was acknowledged."""

    def __init__(self, server: Thunder, client: int, first_number: int) -> None:
        super().__init__(server, client, first_number)
        self.stopped = False
        self.times: dict[int, float] = {}

    def run(self) -> None:
        try:
            with self.server.connect(autocommit=False) as connection:
                while not self.stopped:
                    before = len(self.acknowledged)
                    self._transfer(connection)
                    if len(self.acknowledged) > before:
                        self.times[self.acknowledged[-1]] = time.monotonic()
        except psycopg.OperationalError:
            return
        except BaseException as error:
            self.error = error


class Load:
    """Clients that write until they are told to stop, or the server dies."""

    def __init__(self, server: Thunder, clients: int) -> None:
        self.server = server
        self.clients = clients
        self.next_number = 1
        self.workers: list[Worker] = []

    def begin(self) -> None:
        self.workers = [Worker(self.server, client, self.next_number) for client in range(self.clients)]
        for worker in self.workers:
            worker.start()

    def end(self) -> int:
        """Wait for the workers; return how many commits were acknowledged. Raises: DemoFailed."""
        for worker in self.workers:
            worker.stopped = True
        for worker in self.workers:
            worker.join(timeout=60)
            if worker.error is not None:
                raise DemoFailed(f"client {worker.client} failed: {worker.error}") from worker.error
        self.next_number = 1000 + max((worker.number for worker in self.workers), default=0)
        done = sum(len(worker.acknowledged) for worker in self.workers)
        if not done:
            raise DemoFailed("the load did not run: no commit was acknowledged")
        return done


def backup_and_restore(directory: Path, clients: int, seconds: float) -> None:
    """R1 to R3. Raises: DemoFailed, ServerFailed."""
    archive, backups = directory / "archive", directory / "backups"
    settings = {"wal_archive_enabled": "true", "wal_archive_dir": str(archive), "wal_archive_lag": f"{LAG_S:.0f}s"}
    server = Thunder(directory / "production", settings)
    copies: list[Thunder] = []
    try:
        server.start(timeout_s=60)
        load(server)
        work = Load(server, clients)
        work.begin()
        time.sleep(seconds / 2)
        _hot_backup(server, backups / "full")
        time.sleep(seconds / 2)
        say(f"{work.end():,} commits acknowledged meanwhile; the log goes to the archive as it is written")
        truth, moment = _rows(server), str(server.one("SELECT clock_timestamp()")).replace(" ", "T")
        with server.connect(autocommit=True) as connection:
            deleted = connection.execute("DELETE FROM accounts WHERE id % 3 = 0").rowcount
        say(f"\nAn accident at {moment}: DELETE took {deleted:,} accounts; and the clients go on")
        work.begin()
        time.sleep(seconds / 2)
        copies.append(_restored(directory / "before", server, moment, backups))
        _compare(truth, _rows(copies[0]))
        copies[0].kill()
        say(f"{work.end():,} more commits on the damaged database meanwhile: it was not disturbed")
        work.begin()
        time.sleep(seconds / 2)
        server.kill()
        died_s = time.monotonic()
        work.end()
        for folder in ("data", "wal"):
            shutil.rmtree(server.directory / folder)
        say("\nkill -9, and the machine is gone, with its disk. What is left: one backup and the archive")
        copies.append(_restored(directory / "after", server, "latest", backups))
        _count_losses(copies[1], work, died_s)
    finally:
        server.kill()
        for copy in copies:
            copy.kill()


def _hot_backup(server: Thunder, place: Path) -> None:
    """R1."""
    begun = time.monotonic()
    backup_id = server.http("/admin/backup", {"destination": str(place), "compress": True}, "POST")["backup_id"]
    while (job := server.http(f"/admin/backup/status/{backup_id}"))["status"] not in ("completed", "failed"):
        time.sleep(0.05)
    if job["status"] != "completed":
        raise DemoFailed(f"the backup failed: {job['error']}")
    size = f"{job['bytes_done'] / 1e6:.1f} MB read, {job['size_bytes'] / 1e6:.1f} MB stored"
    say(f"Hot backup under load: {size} in {time.monotonic() - begun:.2f} s")
    say("".join(f"    {line}\n" for line in _command(server, "--verify-backup", str(place)).splitlines()).rstrip())


def _restored(directory: Path, origin: Thunder, target: str, backups: Path) -> Thunder:
    """Restore into a fresh directory, start, and say how long that took until the first answer (RTO)."""
    copy = Thunder(directory)
    begun = time.monotonic()
    arguments = (
        "--restore-pitr",
        target,
        "--restore-backup",
        str(backups),
        "--wal-archive-dir",
        origin.settings["wal_archive_dir"],
    )
    for line in _command(copy, *arguments, "--no-archive").splitlines():
        if "Replaying segment" not in line or "target reached" in line:
            say(f"    {line}")
    copy.start(timeout_s=120)
    say(f"RTO: {time.monotonic() - begun:.2f} s from the restore's start to the first answered query")
    return copy


def _command(server: Thunder, *arguments: str) -> str:
    done = subprocess.run(
        [*server.command(), *arguments],
        env=server.environment(),
        cwd=server.directory,
        capture_output=True,
        text=True,
        timeout=170,
    )
    if done.returncode != 0:
        raise DemoFailed(f"thunderdb {' '.join(arguments)} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def _rows(server: Thunder) -> Rows:
    with server.connect(autocommit=False) as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        return {table: set(connection.execute(query).fetchall()) for table, query in TABLES.items()}


def _compare(truth: Rows, found: Rows) -> None:
    """R2."""
    for table, rows in truth.items():
        if found[table] != rows:
            missing, extra = rows - found[table], found[table] - rows
            examples = f"e.g. {sorted(missing)[:2]} {sorted(extra)[:2]}"
            raise DemoFailed(f"{table} is not what it was: {len(missing)} rows missing, {len(extra)} too many, {examples}")
    counts = ", ".join(f"{len(rows):,} rows of {table}" for table, rows in truth.items())
    say(f"Proved: {counts} equal those of the moment before the DELETE, row by row")


def _count_losses(copy: Thunder, work: Load, died_s: float) -> None:
    """R3."""
    with copy.connect(autocommit=True) as connection:
        there = set(connection.execute("SELECT client, number FROM ledger").fetchall())
    acknowledged = {(worker.client, number): when for worker in work.workers for number, when in worker.times.items()}
    lost = {key: when for key, when in acknowledged.items() if key not in there}
    exposed_s = died_s - min(lost.values()) if lost else 0.0
    kept_later = [key for key, when in acknowledged.items() if key in there and lost and when > max(lost.values())]
    if kept_later:
        raise DemoFailed(f"{len(kept_later)} commits are there that are newer than all that is lost: the log has a hole")
    if exposed_s > LAG_S + SLACK_S:
        raise DemoFailed(f"{len(lost)} commits of the last {exposed_s:.2f} s are lost, wal_archive_lag is {LAG_S:.0f} s")
    say(
        f"RPO: {len(lost):,} of {len(acknowledged):,} acknowledged commits of that run are lost with the disk, "
        f"none older than {exposed_s:.2f} s (wal_archive_lag is {LAG_S:.0f} s)"
    )

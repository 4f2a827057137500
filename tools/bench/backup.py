"""Backup, verification and recovery beside PostgreSQL's tools on the same rows: pgbench's tables, alternated rounds, medians.

    ThunderDB                               PostgreSQL
    POST /admin/backup                      pg_basebackup (files, log streamed, fast checkpoint, synced)
    … with "compress"                       pg_basebackup as tar with zstd of the server, level 1
    --restore-pitr latest, without archive  pgbackrest restore --process-max=2
    --restore-pitr latest, with archive     cp -a of a base backup, restore_command = cp, until it answers

B1. Both have just been checkpointed, their files are warm, and nothing waits to be written, when a round begins. What a load
    leaves behind (autovacuum there, the pages of a rebuilt table here) has SETTLE_S to be put away.
B2. A time per GB is of what a plain backup holds: pages that nobody owns, which are not copied, do not count. Both write to the
    same device as their database.
B3. CPU is that of the server, and of pg_basebackup, while the backup is taken.
B4. A restore or recovery is timed from its command to the right answer of the restored database to a first query about its
    newest state: both systems' starts are in it. Whether all of it is right is looked at afterwards, unmeasured.
B5. Both recover from the same kind of place: a plain base backup and a directory of log, both in the page cache.
B6. Log is verified in its own time: the verification says how long that took, and nothing is subtracted from anything.
"""

from __future__ import annotations

import functools
import json
import os
import resource
import shutil
import threading
import time
from pathlib import Path
from typing import Any

from thunderdb.backup.verify import verify_backup
from thunderdb.backup.verify_report import VerifyReport
from thunderdb.runtime.real_ports import run_real
from tools.bench.rows import Row
from tools.bench.steps import BackupFailed, bytes_in, give_away, run, say, timed, warm
from tools.harness import pgbench
from tools.harness.postgres import Postgres, run_as
from tools.harness.server import Server, children, ticks
from tools.harness.thunder import Thunder

GB = 1e9
QUIET = {"checkpoint_interval": "1d", "max_wal_size": "64GB", "recovery_target": "off"}
PG_QUIET = {"checkpoint_timeout": "1d", "max_wal_size": "64GB", "wal_level": "replica"}
SETTLE_S = 15
ROUNDS_OF_LOG = 3
NEWEST = "SELECT bbalance FROM pgbench_branches WHERE bid = 1"


def backups(names: list[str], work: Path, *, scale: int, rounds: int, transactions: int, seconds: int) -> list[Row]:
    rows = {
        "plain": Row(f"plain backup, scale {scale}", "s/GB", more_is_better=False, bar=1.3),
        "zstd": Row("  zstd", "s/GB", more_is_better=False, bar=1.2),
        "plain cpu": Row("  CPU, plain", "s/GB", more_is_better=False),
        "zstd cpu": Row("  CPU, zstd", "s/GB", more_is_better=False),
        "copy": Row("  cp -a and sync of the same files", "s/GB", more_is_better=False),
        "plain size": Row("  size, plain", "GB", more_is_better=False),
        "zstd size": Row("  size, zstd", "GB", more_is_better=False),
        "verify": Row("verify, uncompressed pages, warm", "MB/s", more_is_better=True, limit=500),
        "verify log": Row("verify, log", "MB/s", more_is_better=True, limit=60),
        "restore": Row("restore of a full backup", "s", more_is_better=False, bar=1.0),
        "pitr": Row(f"PITR, copy and replay of {transactions:,} TPC-B", "s", more_is_better=False, bar=1.0),
        "foreground": Row("throughput during backups / without", "x", more_is_better=True, limit=0.7),
    }
    systems: list[_System] = [_Thunder(work / "thunder")] if "ThunderDB" in names else []
    if "PostgreSQL" in names:
        systems.append(_Postgres(work / "postgres"))
    try:
        for system in systems:
            say(f"{system.name}: loading scale {scale}")
            system.load(scale)
        time.sleep(SETTLE_S)
        for number in range(rounds):
            for system in systems if number % 2 == 0 else systems[::-1]:
                say(f"{system.name}: backups, round {number + 1}")
                system.round(rows)
        for system in systems:
            say(f"{system.name}: load with backups")
            system.foreground(rows["foreground"], seconds)
        for system in systems:
            say(f"{system.name}: {transactions:,} transactions to recover")
            system.prepare(transactions)
        for number in range(rounds):
            for system in systems if number % 2 == 0 else systems[::-1]:
                say(f"{system.name}: recovery, round {number + 1}")
                rows["pitr"].add(system.name, system.recovered(check=number == 0))
        for system in systems:
            system.verify_log(rows)
        say("done")
    finally:
        for system in systems:
            system.server.kill()
    rows["restore"].note = (
        "PostgreSQL: pgbackrest, two processes" if shutil.which("pgbackrest") else "pgbackrest is not installed"
    )
    return list(rows.values())


class _System:
    """One database under test, loaded once. `data` are its files, `size_gb` their size."""

    name = ""

    def __init__(self, directory: Path, server: Server) -> None:
        self.directory = directory
        self.server = server
        self.places = 0
        self.base = Path()
        self.newest: Any = None
        """What NEWEST answers before the accident."""

    def load(self, scale: int) -> None:
        self.server.start()
        pgbench.initialise(self.server, scale)
        self.server.checkpoint()

    @property
    def data(self) -> Path:
        raise NotImplementedError

    @property
    def size_gb(self) -> float:
        return bytes_in(self.data) / GB

    def cpu_s(self) -> float:
        """CPU time of the server's processes, the ended ones too, and of the programs that this one has run."""
        if self.server.process is None:
            return 0.0
        pids = [self.server.process.pid, *children(self.server.process.pid)]
        used = sum(ticks(pid) for pid in pids) / os.sysconf("SC_CLK_TCK")
        programs = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used + programs.ru_utime + programs.ru_stime

    def place(self, kind: str) -> Path:
        self.places += 1
        return self.directory / f"{kind}-{self.places}"

    def backup(self, place: Path, compress: bool) -> None:
        raise NotImplementedError

    def restored(self, place: Path) -> float | None:
        """Seconds until a fresh server answers from the backup at `place`; None where the tool is not there."""
        raise NotImplementedError

    def held_gb(self, place: Path) -> float:
        """What a plain backup holds of the data (B2)."""
        return self.size_gb

    def round(self, rows: dict[str, Row]) -> None:
        held_gb = 1.0
        for kind in ("plain", "zstd"):
            self.server.checkpoint()
            warm(self.data)
            place = self.place(kind)
            used_s = self.cpu_s()
            took_s = timed(functools.partial(self.backup, place, kind == "zstd"))
            held_gb = self.held_gb(place) if kind == "plain" else held_gb
            rows[kind].add(self.name, took_s / held_gb)
            rows[f"{kind} cpu"].add(self.name, (self.cpu_s() - used_s) / held_gb)
            rows[f"{kind} size"].add(self.name, bytes_in(place) / GB)
            if kind == "plain":
                self.verify(place, rows)
                self.newest = self.server.one(NEWEST)
                took = self.restored(place)
                if took is not None:
                    rows["restore"].add(self.name, took)
                    say(f"{self.name}: backup {took_s:.2f} s, restore {took:.2f} s")
            shutil.rmtree(place)
        copy = self.place("copy")
        command = f"cp -a {self.data} {copy} && sync -f {copy}"
        rows["copy"].add(self.name, timed(lambda: run(["sh", "-c", command])) / self.size_gb)
        shutil.rmtree(copy)

    def verify(self, place: Path, rows: dict[str, Row]) -> None:
        """Only ours has rows of it."""

    def foreground(self, row: Row, seconds: int) -> None:
        """TPC-B with backups one after the other, against TPC-B alone before and after."""

        def tps() -> float:
            return pgbench.run(self.server, "-b", "tpcb-like", "-c", "8", "-j", "2", "-T", str(seconds)).tps

        before = tps()
        over = threading.Event()

        def back_up() -> None:
            while not over.is_set():
                place = self.place("busy")
                self.backup(place, False)
                shutil.rmtree(place)

        busy = threading.Thread(target=back_up)
        busy.start()
        during = tps()
        over.set()
        busy.join()
        row.add(self.name, during / ((before + tps()) / 2))

    def prepare(self, transactions: int) -> None:
        """A base backup, that many transactions, all of their log archived; then the server is killed."""
        self.base = self.place("base")
        self.backup(self.base, False)
        self.keep_log()
        pgbench.run(self.server, "-b", "tpcb-like", "-c", "8", "-j", "2", "-t", str(transactions // 8))
        self.archive_all()
        self.newest = self.server.one(NEWEST)
        self.server.kill()

    def keep_log(self) -> None: ...

    def archive_all(self) -> None:
        raise NotImplementedError

    def recovered(self, check: bool) -> float:
        """Seconds from the command that recovers to `latest` to the right answer of a fresh server (B4)."""
        raise NotImplementedError

    def answer(self, fresh: Server) -> None:
        """Raises: BackupFailed if the newest state is not there."""
        found = fresh.one(NEWEST)
        if found != self.newest:
            raise BackupFailed(f"{self.name}: {NEWEST} gives {found} in the restored database, {self.newest} before")

    def verify_log(self, rows: dict[str, Row]) -> None:
        """Only ours has a row of it."""


def check_sums(server: Server) -> None:
    """B4. Raises: BackupFailed if TPC-B's sums differ."""
    found = pgbench.sums(server)
    if len(set(found.values())) != 1:
        raise BackupFailed(f"{server.name}: the sums of the restored database differ: {found}")


class _Thunder(_System):
    name = "ThunderDB"

    def __init__(self, directory: Path) -> None:
        self.settings = {**QUIET, "wal_archive_enabled": "true", "wal_archive_dir": str(directory / "archive")}
        super().__init__(directory, Thunder(directory / "node", self.settings))

    @property
    def data(self) -> Path:
        return self.server.directory / "data"

    def backup(self, place: Path, compress: bool) -> None:
        assert isinstance(self.server, Thunder)
        started = self.server.http("/admin/backup", {"destination": str(place), "compress": compress})
        while (job := self.server.http(f"/admin/backup/status/{started['backup_id']}"))["status"] not in (
            "completed",
            "failed",
        ):
            time.sleep(0.02)
        if job["status"] == "failed":
            raise BackupFailed(str(job))

    def restored(self, place: Path) -> float:
        return self._recovered(place, ["--no-archive"], {**QUIET})

    def held_gb(self, place: Path) -> float:
        files = json.loads((place / "backup_manifest.json").read_text())["files"]
        data = [file for file in files if file["path"].startswith("data/")]
        zeros = sum(end - start for file in data for start, end in file.get("zeros", []))
        return (sum(file["size"] for file in data) - zeros) / GB

    def recovered(self, check: bool) -> float:
        options = ["--no-archive", "--wal-archive-dir", self.settings["wal_archive_dir"]]
        return self._recovered(self.base, options, {**QUIET}, check)

    def _recovered(self, place: Path, options: list[str], settings: dict[str, str], check: bool = False) -> float:
        fresh = Thunder(self.place("restored"), settings)
        command = [*fresh.command(), "--restore-pitr", "latest", "--restore-backup", str(place), *options]

        def recover() -> None:
            run(command, fresh.environment())
            fresh.start()
            self.answer(fresh)

        try:
            took_s = timed(recover)
            if check:
                check_sums(fresh)
            return took_s
        finally:
            fresh.kill()
            shutil.rmtree(fresh.directory)

    def verify(self, place: Path, rows: dict[str, Row]) -> None:
        report, took = verified(place)
        rows["verify"].add(self.name, bytes_in(place) / 1e6 / took)

    def keep_log(self) -> None:
        assert isinstance(self.server, Thunder)
        self.server.http("/admin/checkpoint", {})  # from here on the log is kept, as for a copy made by hand

    def archive_all(self) -> None:
        assert isinstance(self.server, Thunder)
        self.server.http("/admin/wal/switch", {})
        while self.server.http("/admin/wal/archive/status")["segments_pending"]:
            time.sleep(0.1)

    def verify_log(self, rows: dict[str, Row]) -> None:
        copy = self.place("hand-made")
        for folder in ("data", "wal"):
            run(["cp", "-a", str(self.server.directory / folder), f"{copy}-{folder}"])
        copy.mkdir()
        for folder in ("data", "wal"):
            Path(f"{copy}-{folder}").rename(copy / folder)
        for _ in range(ROUNDS_OF_LOG):
            report, _took = verified(copy)
            rows["verify log"].add(self.name, report.log_bytes / 1e6 / (report.log_ns / 1e9))
        rows["verify log"].note = (
            f"of the log of a copy made by hand, {report.log_bytes / 1e6:,.0f} MB of records, timed on its own"
        )


class _Postgres(_System):
    name = "PostgreSQL"

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        self.archive = directory / "archive"
        self.archive.mkdir()
        settings = {**PG_QUIET, "archive_mode": "on", "archive_command": f"cp %p {self.archive}/%f"}
        self.repository = directory / "pgbackrest"
        server = Postgres(directory / "node", settings)
        super().__init__(directory, server)
        give_away(directory)
        self._stanza = False

    @property
    def data(self) -> Path:
        return self.server.directory / "data"

    @property
    def size_gb(self) -> float:
        return (bytes_in(self.data) - bytes_in(self.data / "pg_wal")) / GB

    def backup(self, place: Path, compress: bool) -> None:
        assert isinstance(self.server, Postgres)
        options = ["-Ft", "--compress=server-zstd:1"] if compress else ["-Fp"]
        program = str(self.server.programs / "pg_basebackup")
        where = ["-h", "127.0.0.1", "-p", str(self.server.port), "-U", "postgres", "-D", str(place)]
        run([*run_as(), program, *where, "-c", "fast", "-X", "stream", *options])

    def restored(self, place: Path) -> float | None:
        if shutil.which("pgbackrest") is None:
            return None
        self.server.one("SELECT 1")
        if not self._stanza:
            self._back_rest("stanza-create", "--no-online")
            self.server.stop()
            self._back_rest("backup", "--no-online", "--type=full", "--compress-type=none", "--process-max=2")
            self.server.start()
            self._stanza = True
        fresh = Postgres(self.place("restored"), PG_QUIET)
        shutil.rmtree(fresh.data)
        fresh.data.mkdir(mode=0o700)
        give_away(fresh.directory)

        def recover() -> None:
            self._back_rest("restore", "--process-max=2", f"--pg1-path={fresh.data}", "--archive-mode=off", "--type=none")
            fresh.start()
            self.answer(fresh)

        try:
            return timed(recover)
        finally:
            fresh.kill()
            shutil.rmtree(fresh.directory)

    def _back_rest(self, command: str, *options: str) -> None:
        common = ["--stanza=bench", f"--repo1-path={self.repository}", f"--log-path={self.directory}", "--log-level-file=off"]
        common += [f"--lock-path={self.directory}/lock"]
        if command != "restore":
            common += [f"--pg1-path={self.data}", f"--pg1-port={self.server.port}"]
        run([*run_as(), "pgbackrest", *common, *options, command])

    def archive_all(self) -> None:
        self.server.one("SELECT pg_switch_wal()")
        while self.server.one("SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'"):
            time.sleep(0.1)

    def recovered(self, check: bool) -> float:
        fresh = Postgres(self.place("restored"), {**PG_QUIET, "restore_command": f"cp {self.archive}/%f %p"})
        shutil.rmtree(fresh.data)

        def recover() -> None:
            run(["cp", "-a", str(self.base), str(fresh.data)])
            (fresh.data / "recovery.signal").touch()
            give_away(fresh.data / "recovery.signal")
            fresh.start(timeout_s=3600)
            while fresh.one("SELECT pg_is_in_recovery()"):
                time.sleep(0.02)
            self.answer(fresh)

        try:
            took_s = timed(recover)
            if check:
                check_sums(fresh)
            return took_s
        finally:
            fresh.kill()
            shutil.rmtree(fresh.directory)


def verified(place: Path) -> tuple[VerifyReport, float]:
    """Verify in this process, the files warm; return the report and the seconds. Raises: BackupFailed if anything is wrong."""
    warm(place)
    found: list[VerifyReport] = []

    async def main(ports: Any) -> None:
        found.append(await verify_backup(ports, str(place)))

    took = timed(lambda: run_real(main))
    if found[0].problems:
        raise BackupFailed(f"{place} does not verify: {found[0].problems[:3]}")
    return found[0], took

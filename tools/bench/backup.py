"""Backup, verification and recovery beside PostgreSQL's tools on the same rows: pgbench's tables, alternated rounds, medians.

    ThunderDB                               PostgreSQL
    POST /admin/backup                      pg_basebackup (files, log streamed, fast checkpoint, synced)
    … with "compress"                       pg_basebackup as tar with zstd of the server, level 1
    --restore-pitr latest, without archive  pgbackrest restore --process-max=2
    --restore-pitr latest, with archive     cp -a of a base backup, restore_command = cp, until it answers

B1. Both have just been checkpointed, and their files are warm, when a round begins.
B2. A time per GB is of the source's own data files; both write to the same device as their database.
B3. CPU is that of the server, and of pg_basebackup, while the backup is taken.
B4. A restore ends when the restored database has answered a first query.
"""

from __future__ import annotations

import functools
import os
import resource
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from thunderdb.backup.verify import VerifyReport, verify_backup
from thunderdb.runtime.real_ports import run_real
from tools.bench.rows import Row
from tools.harness import pgbench
from tools.harness.postgres import Postgres, run_as
from tools.harness.server import Server, children, ticks
from tools.harness.thunder import Thunder

GB = 1e9
QUIET = {"checkpoint_interval": "1d", "max_wal_size": "64GB", "recovery_target": "off"}
PG_QUIET = {"checkpoint_timeout": "1d", "max_wal_size": "64GB", "wal_level": "replica"}


class BackupFailed(Exception):
    """A backup or restore did not end well; the message holds what it said."""


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
            system.load(scale)
        for number in range(rounds):
            for system in systems if number % 2 == 0 else systems[::-1]:
                system.round(rows)
        for system in systems:
            system.foreground(rows["foreground"], seconds)
            system.point_in_time(rows, transactions, rounds)
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

    def load(self, scale: int) -> None:
        self.server.start()
        pgbench.initialise(self.server, scale)
        self.server.checkpoint()

    @property
    def data(self) -> Path:
        raise NotImplementedError

    @property
    def size_gb(self) -> float:
        return _bytes(self.data) / GB

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

    def round(self, rows: dict[str, Row]) -> None:
        for kind in ("plain", "zstd"):
            self.server.checkpoint()
            _warm(self.data)
            place = self.place(kind)
            used_s = self.cpu_s()
            rows[kind].add(self.name, _timed(functools.partial(self.backup, place, kind == "zstd")) / self.size_gb)
            rows[f"{kind} cpu"].add(self.name, (self.cpu_s() - used_s) / self.size_gb)
            rows[f"{kind} size"].add(self.name, _bytes(place) / GB)
            if kind == "plain":
                self.verify(place, rows)
                took = self.restored(place)
                if took is not None:
                    rows["restore"].add(self.name, took)
            shutil.rmtree(place)
        copy = self.place("copy")
        command = f"cp -a {self.data} {copy} && sync -f {copy}"
        rows["copy"].add(self.name, _timed(lambda: _run(["sh", "-c", command])) / self.size_gb)
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

    def point_in_time(self, rows: dict[str, Row], transactions: int, rounds: int) -> None:
        raise NotImplementedError


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

    def _recovered(self, place: Path, options: list[str], settings: dict[str, str]) -> float:
        fresh = Thunder(self.place("restored"), settings)
        command = [*fresh.command(), "--restore-pitr", "latest", "--restore-backup", str(place), *options]

        def recover() -> None:
            _run(command, fresh.environment())
            fresh.start()

        try:
            return _timed(recover)
        finally:
            fresh.kill()
            shutil.rmtree(fresh.directory)

    def verify(self, place: Path, rows: dict[str, Row]) -> None:
        report, took = verified(place)
        rows["verify"].add(self.name, _bytes(place) / 1e6 / took)

    def point_in_time(self, rows: dict[str, Row], transactions: int, rounds: int) -> None:
        place = self.place("base")
        self.backup(place, False)
        assert isinstance(self.server, Thunder)
        self.server.http("/admin/checkpoint", {})  # from here on the log is kept, as for a copy made by hand
        pgbench.run(self.server, "-b", "tpcb-like", "-c", "8", "-j", "2", "-t", str(transactions // 8))
        self.server.http("/admin/wal/switch", {})
        while self.server.http("/admin/wal/archive/status")["segments_pending"]:
            time.sleep(0.1)
        self.server.kill()
        options = ["--no-archive", "--wal-archive-dir", self.settings["wal_archive_dir"]]
        for _ in range(rounds):
            rows["pitr"].add(self.name, self._recovered(place, options, {**QUIET}))
        copy = self.place("hand-made")
        for folder in ("data", "wal"):
            _run(["cp", "-a", str(self.server.directory / folder), f"{copy}-{folder}"])
        copy.mkdir()
        for folder in ("data", "wal"):
            Path(f"{copy}-{folder}").rename(copy / folder)
        speed = rows["verify"].medians()[0]
        _, took = verified(copy)
        for_pages = _bytes(copy / "data") / 1e6 / speed if speed else 0.0
        rows["verify log"].add(self.name, _bytes(copy / "wal") / 1e6 / max(0.001, took - for_pages))
        rows["verify log"].note = "of a copy made by hand, less the time for its pages at the speed above"


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
        _give_away(directory)
        self._stanza = False

    @property
    def data(self) -> Path:
        return self.server.directory / "data"

    @property
    def size_gb(self) -> float:
        return (_bytes(self.data) - _bytes(self.data / "pg_wal")) / GB

    def backup(self, place: Path, compress: bool) -> None:
        assert isinstance(self.server, Postgres)
        options = ["-Ft", "--compress=server-zstd:1"] if compress else ["-Fp"]
        program = str(self.server.programs / "pg_basebackup")
        where = ["-h", "127.0.0.1", "-p", str(self.server.port), "-U", "postgres", "-D", str(place)]
        _run([*run_as(), program, *where, "-c", "fast", "-X", "stream", *options])

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
        _give_away(fresh.directory)

        def recover() -> None:
            self._back_rest("restore", "--process-max=2", f"--pg1-path={fresh.data}", "--archive-mode=off", "--type=none")
            fresh.start()

        try:
            return _timed(recover)
        finally:
            fresh.kill()
            shutil.rmtree(fresh.directory)

    def _back_rest(self, command: str, *options: str) -> None:
        common = ["--stanza=bench", f"--repo1-path={self.repository}", f"--log-path={self.directory}", "--log-level-file=off"]
        common += [f"--lock-path={self.directory}/lock"]
        if command != "restore":
            common += [f"--pg1-path={self.data}", f"--pg1-port={self.server.port}"]
        _run([*run_as(), "pgbackrest", *common, *options, command])

    def point_in_time(self, rows: dict[str, Row], transactions: int, rounds: int) -> None:
        place = self.place("base")
        self.backup(place, False)
        pgbench.run(self.server, "-b", "tpcb-like", "-c", "8", "-j", "2", "-t", str(transactions // 8))
        self.server.one("SELECT pg_switch_wal()")
        while self.server.one("SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'"):
            time.sleep(0.1)
        self.server.kill()
        for _ in range(rounds):
            rows["pitr"].add(self.name, self._recovered(place))

    def _recovered(self, place: Path) -> float:
        fresh = Postgres(self.place("restored"), {**PG_QUIET, "restore_command": f"cp {self.archive}/%f %p"})
        shutil.rmtree(fresh.data)

        def recover() -> None:
            _run(["cp", "-a", str(place), str(fresh.data)])
            (fresh.data / "recovery.signal").touch()
            _give_away(fresh.data / "recovery.signal")
            fresh.start(timeout_s=3600)
            while fresh.one("SELECT pg_is_in_recovery()"):
                time.sleep(0.02)

        try:
            return _timed(recover)
        finally:
            fresh.kill()
            shutil.rmtree(fresh.directory)


def verified(place: Path) -> tuple[VerifyReport, float]:
    """Verify in this process, the files warm; return the report and the seconds. Raises: BackupFailed if anything is wrong."""
    _warm(place)
    found: list[VerifyReport] = []

    async def main(ports: Any) -> None:
        found.append(await verify_backup(ports, str(place)))

    took = _timed(lambda: run_real(main))
    if found[0].problems:
        raise BackupFailed(f"{place} does not verify: {found[0].problems[:3]}")
    return found[0], took


def _timed(action: Callable[[], object]) -> float:
    begun = time.monotonic()
    action()
    return time.monotonic() - begun


def _run(command: list[str], environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd="/")
    if done.returncode != 0:
        raise BackupFailed(f"{' '.join(command)} ended with {done.returncode}\n{(done.stdout + done.stderr)[-2000:]}")


def _bytes(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _warm(path: Path) -> None:
    subprocess.run(["sh", "-c", 'find "$0" -type f -exec cat {} + > /dev/null', str(path)], check=True)


def _give_away(path: Path) -> None:
    """To PostgreSQL's user, where root runs the bench."""
    if os.geteuid() == 0:
        subprocess.run(["chown", "-R", "postgres:postgres", str(path)], check=True)

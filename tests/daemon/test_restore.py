"""An accident and the way back, with real processes: hot backup, archive, DELETE, restore from the command line."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tools.harness.thunder import Thunder

pytestmark = pytest.mark.daemon

Rows = list[tuple[int, int]]


def thunderdb(node: Thunder, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*node.command(), *arguments]
    return subprocess.run(command, env=node.environment(), cwd=node.directory, capture_output=True, text=True, timeout=60)


def now() -> str:
    """As a user reads it off a clock, a moment that lies between two commits."""
    time.sleep(0.01)
    text = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    time.sleep(0.01)
    return text


def rows(node: Thunder) -> Rows:
    with node.connect(autocommit=True) as connection:
        return sorted(connection.execute("SELECT id, n FROM account").fetchall())


def backup(node: Thunder, destination: Path, **request: object) -> None:
    asked = node.http("/admin/backup", {"destination": str(destination), **request})
    while (status := node.http(f"/admin/backup/status/{asked['backup_id']}"))["status"] in ("started", "running"):
        time.sleep(0.05)
    assert status["status"] == "completed", status


class Accident:
    """What happened: the truth at the moment before, and everything needed to get back there."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.archive = place / "archive"
        self.node = Thunder(place / "node", {"wal_archive_enabled": "on", "wal_archive_dir": str(self.archive)})
        self.node.start(60)
        with self.node.connect(autocommit=True) as connection:
            connection.execute("CREATE TABLE account (id int PRIMARY KEY, n int)")
            connection.execute("INSERT INTO account SELECT g, 0 FROM generate_series(1, 2000) g")
            backup(self.node, place / "backups" / "full", compress=True)
            os.symlink("full", place / "backups" / "full-latest")
            (place / "hand").mkdir()
            self.node.http("/admin/checkpoint", method="POST")
            for folder in ("data", "wal"):
                shutil.copytree(place / "node" / folder, place / "hand" / folder)
            for number in range(200):
                connection.execute("UPDATE account SET n = n + 1 WHERE id = %s", (number + 1,))
            self.before, self.truth = now(), rows(self.node)
            connection.execute("DELETE FROM account WHERE id % 2 = 0")
            connection.execute("CREATE TABLE other (id int PRIMARY KEY)")
            connection.execute("DROP TABLE other")
            self.after, self.damaged = now(), rows(self.node)
            connection.execute("INSERT INTO account VALUES (100000, 1)")
        self.last = rows(self.node)
        assert self.node.stop(60) == 0

    def target(self, name: str, **settings: str) -> Thunder:
        return Thunder(self.place / name, settings)


@pytest.fixture(scope="module")
def accident(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Accident]:
    yield Accident(tmp_path_factory.mktemp("accident"))


def restored(node: Thunder, target: str, place: Path, archive: Path | None, *more: str) -> subprocess.CompletedProcess[str]:
    where = [] if archive is None else ["--wal-archive-dir", str(archive)]
    return thunderdb(node, "--restore-pitr", target, "--restore-backup", str(place), *where, *more)


def started(node: Thunder) -> Rows:
    node.start(60)
    found = rows(node)
    assert node.stop(60) == 0
    return found


def test_just_before_the_accident(accident: Accident) -> None:
    node = accident.target("before")
    done = restored(node, accident.before, accident.place / "backups" / "full", accident.archive, "--no-archive")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    expected = [
        r"\[INFO\] Starting Point-in-Time Recovery",
        rf"\[INFO\] Target time: {re.escape(accident.before)}",
        r"\[INFO\] Base backup LSN: [0-9A-F]+/[0-9A-F]+",
        r"\[INFO\] Phase 1: Restoring base backup\.\.\. done \(\d+ pages\)",
        r"\[INFO\] Phase 2: Replaying WAL segments\.\.\. \(checked and laid down now, replayed when the database is opened\)",
        r"\[INFO\]   Replaying segment [0-9A-F]{24}\.\.\. done( \(target reached\))?",
        r"\[INFO\] Phase 3: Recovery complete, but for the replay: the first start does that",
        r"\[INFO\] Recovered to: \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3,6}Z \(LSN: [0-9A-F]+/[0-9A-F]+\)",
        r"\[INFO\] Transactions recovered: \d+",
        r"\[INFO\] Transactions rolled back: \d+ \(in-progress at recovery point\)",
        r"\[INFO\] Start the daemon now: it replays [\d,]+ bytes of log, and serves in about \d+ s",
    ]
    at = 0
    for line in lines:
        if not re.fullmatch(expected[at], line):
            at += 1
            assert re.fullmatch(expected[at], line), (expected[at], done.stderr)
        elif "segment" not in line:
            at += 1
    assert sum("(target reached)" in line for line in lines) == 1
    assert started(node) == accident.truth


@pytest.mark.parametrize("target", ["after", "latest", "before:drop:other"])
def test_to_other_moments_over_the_link_and_the_folder(accident: Accident, target: str) -> None:
    node = accident.target(target.replace(":", "-"))
    place = accident.place / "backups" / ("full-latest" if target == "after" else "")
    done = restored(node, getattr(accident, target, target), place, accident.archive, "--no-archive")
    assert done.returncode == 0, done.stderr
    assert started(node) == {"after": accident.damaged, "latest": accident.last}.get(target, accident.damaged)


def test_from_a_copy_made_by_hand(accident: Accident) -> None:
    node = accident.target("from-hand")
    done = restored(node, accident.before, accident.place / "hand", accident.archive, "--no-archive")
    assert done.returncode == 0, done.stderr
    assert started(node) == accident.truth


def test_over_a_copy_as_the_manual_has_it(accident: Accident) -> None:
    """Step 3, cp -a BACKUP/data/* …, of a compressed backup; and the configuration's archive."""
    node = accident.target("step3", wal_archive_dir=str(accident.archive))
    for folder in ("data", "wal"):
        shutil.copytree(accident.place / "backups" / "full" / folder, node.directory / folder)
    done = restored(node, accident.before, accident.place / "backups" / "full", None, "--no-archive")
    assert done.returncode == 0, done.stderr
    assert not list(node.directory.rglob("*.zst"))
    assert started(node) == accident.truth


def test_dry_run_changes_nothing_and_says_all(accident: Accident) -> None:
    node = accident.target("dry")
    place = accident.place / "backups"
    done = restored(node, accident.before, place, accident.archive, "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["version"] == 1 and plan["target"] == accident.before
    assert plan["base_backup"]["place"] == str(place / "full")
    assert plan["commits_kept"]["count"] == 200 and plan["given_up"]["commits"] == 4
    assert plan["segments"] and plan["estimated_seconds"] > 0 and plan["new_timeline"] >= 2
    assert not (node.directory / "data").exists() and not (node.directory / "wal").exists()
    text = restored(node, "before:drop:other", place, accident.archive, "--dry-run").stdout
    assert "Dry run: nothing was changed." in text and "before:txn:" in text and "Commits given up: 2 (" in text
    assert not (node.directory / "data").exists()


def test_a_drill_writes_a_report(accident: Accident) -> None:
    node = accident.target("drill")
    file = accident.place / "drill.json"
    done = restored(
        node, "latest", accident.place / "backups", accident.archive, "--no-archive", "--report", str(file), "--json"
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(file.read_text())
    assert report == json.loads(done.stdout)
    assert report["checks"]["database"] == "passed" and report["actual_rto_seconds"] > 0 and report["drill"] is True
    assert report["transactions_recovered"] == 204 and report["transactions_given_up"] == 0


@pytest.mark.parametrize(
    ("target", "code", "says"),
    [
        ("2026-01-15T14:30:00", 2, "HINT: Append Z if it is UTC (2026-01-15T14:30:00Z)"),
        ("yesterday", 2, "HINT: Targets: 2026-01-15T14:30:00Z"),
        ("2001-01-01T00:00:00Z", 3, "is before the end of the backup"),
        ("2999-01-01T00:00:00Z", 3, "the newest time that can be restored is"),
        ("lsn:FF/0", 3, "is behind the end of the log"),
        ("before:drop:nothing", 3, "drops a table 'nothing'"),
    ],
)  # fmt: skip
def test_refusals_have_their_exit_codes(accident: Accident, target: str, code: int, says: str) -> None:
    node = accident.target("refused")
    done = restored(node, target, accident.place / "backups" / "full", accident.archive)
    assert (done.returncode, says in done.stderr) == (code, True), done.stderr
    assert "HINT: " in done.stderr and not (node.directory / "data").exists()


def test_into_the_old_database_or_beside_a_daemon(accident: Accident) -> None:
    done = restored(accident.node, "latest", accident.place / "backups", accident.archive)
    assert done.returncode == 3 and "nothing has been changed" in done.stderr
    accident.node.start(60)
    done = restored(accident.node, "latest", accident.place / "backups", accident.archive)
    assert done.returncode == 3, done.stderr
    done = restored(accident.node, accident.before, accident.place / "backups", accident.archive, "--dry-run")
    assert done.returncode == 0 and "Note: as things are, the restore itself would be refused: " in done.stdout
    assert rows(accident.node) == accident.last
    assert accident.node.stop(60) == 0


def test_a_removed_segment_is_named_and_the_target_untouched(accident: Accident) -> None:
    archive = accident.place / "gap"
    shutil.copytree(accident.archive, archive)
    segments = sorted(path for path in archive.iterdir() if re.fullmatch(r"[0-9A-F]{24}(\.partial)?", path.name))
    segments[-1].unlink()
    node = accident.target("gapped")
    done = restored(node, "latest", accident.place / "backups" / "full", archive)
    assert done.returncode == 3 and segments[-1].name[:24] in done.stderr, done.stderr
    assert not (node.directory / "data").exists()


def test_production_goes_on_in_the_archive_after_a_restore(accident: Accident) -> None:
    """The new timeline is claimed, shipped, and can itself be restored to."""
    archive = accident.place / "second"
    shutil.copytree(accident.archive, archive)
    settings = {"wal_archive_enabled": "on", "wal_archive_dir": str(archive)}
    node = accident.target("recovered", **settings)
    done = restored(node, accident.before, accident.place / "backups" / "full", None)
    assert done.returncode == 0, done.stderr
    assert (archive / "00000002.history").exists()
    node.start(60)
    with node.connect(autocommit=True) as connection:
        connection.execute("INSERT INTO account VALUES (5000, 5)")
    truth = rows(node)
    assert node.stop(60) == 0
    assert truth == sorted([*accident.truth, (5000, 5)])
    again = accident.target("again", **settings)
    done = restored(again, "latest", accident.place / "backups" / "full", None)
    assert done.returncode == 0, done.stderr
    assert started(again) == truth
    assert (archive / "00000003.history").exists()


def test_as_root_the_files_are_the_owners(accident: Accident) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    node = accident.target("owned")
    os.chown(node.directory, 12345, 12346)
    done = restored(node, "latest", accident.place / "backups" / "full", accident.archive, "--no-archive")
    assert done.returncode == 0, done.stderr
    made = [path for folder in ("data", "wal") for path in (node.directory / folder, *(node.directory / folder).iterdir())]
    assert {(path.stat().st_uid, path.stat().st_gid) for path in made} == {(12345, 12346)}
    assert {path.stat().st_mode & 0o777 for path in made if path.is_file()} == {0o600}

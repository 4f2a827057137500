"""Backups of a real daemon on real disks: interrupted, cancelled, scheduled, by hand, encrypted, behind a token."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import stat
import subprocess
import threading
import time
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tools.harness.thunder import ROOT, Thunder

pytestmark = pytest.mark.daemon
ROWS = "INSERT INTO t SELECT g, repeat('x', 200) FROM generate_series({}, {}) g"


def node_in(tmp_path: Path, rows: int = 5000, **settings: str) -> Thunder:
    """A daemon with a table of rows."""
    node = Thunder(tmp_path / "node", settings)
    node.start(60)
    with node.connect(autocommit=True) as connection:
        connection.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
        connection.execute(ROWS.format(1, rows))
    return node


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Thunder]]:
    made: list[Thunder] = []

    def maker(**settings: Any) -> Thunder:
        made.append(node_in(tmp_path, **settings))
        return made[-1]

    yield maker
    for node in made:
        node.kill()


def thunderdb(node: Thunder, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*node.command(), *arguments]
    return subprocess.run(command, env=node.environment(), cwd=node.directory, capture_output=True, text=True, timeout=120)


def ended(node: Thunder, backup_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while (job := node.http(f"/admin/backup/status/{backup_id}"))["status"] not in ("completed", "failed"):
        assert time.monotonic() < deadline, job
        time.sleep(0.02)
    return dict(job)


def begin(node: Thunder, place: Path, **more: Any) -> str:
    return str(node.http("/admin/backup", {"destination": str(place), **more}, "POST")["backup_id"])


def slow(node: Thunder, place: Path) -> str:
    """A backup that will not end by itself."""
    backup_id = begin(node, place, rate_limit="64KB")
    deadline = time.monotonic() + 30
    while not Path(f"{place}.partial").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return backup_id


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_interrupted_by_a_restart_it_is_failed_and_nothing_is_left(
    make: Callable[..., Thunder], tmp_path: Path, end: str
) -> None:
    node = make()
    place = tmp_path / "b" / "full"
    backup_id = slow(node, place)
    getattr(node, end)()
    node.start(60)
    job = node.http(f"/admin/backup/status/{backup_id}")
    assert job["status"] == "failed" and "interrupted" in job["error"]
    assert list((tmp_path / "b").iterdir()) == [], "never half a backup"
    assert ended(node, begin(node, place))["status"] == "completed"
    assert thunderdb(node, "--verify-backup", str(place)).returncode == 0


def test_cancelled_by_the_api_and_by_ctrl_c(make: Callable[..., Thunder], tmp_path: Path) -> None:
    node = make(backup_rate_limit="64KB")
    job = node.http(f"/admin/backup/{slow(node, tmp_path / 'b1')}/cancel", {}, "POST")
    assert (job["status"], job["error"]) == ("failed", "cancelled") and not list(tmp_path.glob("b1*"))
    command = subprocess.Popen(
        [*node.command(), "--backup", str(tmp_path / "b2")], env=node.environment(), cwd=node.directory, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 30
    while not (tmp_path / "b2.partial").exists():
        assert time.monotonic() < deadline and command.poll() is None
        time.sleep(0.02)
    command.send_signal(signal.SIGINT)
    _, said = command.communicate(timeout=30)
    assert command.returncode == 1 and "was cancelled" in said and not list(tmp_path.glob("b2*"))
    assert [job["error"] for job in node.http("/admin/backups")["backups"]] == ["cancelled", "cancelled"]


def test_one_at_a_time_and_what_is_there_is_kept(make: Callable[..., Thunder], tmp_path: Path) -> None:
    node = make()
    running = slow(node, tmp_path / "slow")
    with pytest.raises(urllib.error.HTTPError) as caught:
        begin(node, tmp_path / "second")
    assert caught.value.code == 409 and running in json.loads(caught.value.read())["message"]
    node.http(f"/admin/backup/{running}/cancel", {}, "POST")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "precious").write_text("kept")
    refused = thunderdb(node, "--backup", str(tmp_path / "taken"))
    assert refused.returncode == 3 and "HINT:" in refused.stderr
    assert (tmp_path / "taken" / "precious").read_text() == "kept" and len(list((tmp_path / "taken").iterdir())) == 1


def test_files_are_the_owners_alone(make: Callable[..., Thunder], tmp_path: Path) -> None:
    node = make(wal_archive_enabled="true", wal_archive_dir=str(tmp_path / "archive"))
    assert ended(node, begin(node, tmp_path / "b" / "full"))["status"] == "completed"
    node.http("/admin/wal/switch", {}, "POST")
    for folder in (tmp_path / "b", tmp_path / "archive", node.directory / "data"):
        paths = [folder, *folder.rglob("*")]
        open_to_others = [str(path) for path in paths if stat.S_IMODE(path.stat().st_mode) & 0o077]
        assert open_to_others == []


def test_a_missed_scheduled_backup_is_made_up_for_and_linked(make: Callable[..., Thunder], tmp_path: Path) -> None:
    node = make(destination=str(tmp_path / "b"), schedule_daily="0 2 * * *", schedule_weekly="0 2 * * 0")
    node.stop()
    state = node.directory / "data" / "schedule.json"
    past = json.loads(state.read_text())
    ten_days_us = 10 * 86_400_000_000
    past["covered_us"] = {label: time_us - ten_days_us for label, time_us in past["covered_us"].items()}
    state.write_text(json.dumps(past))
    node.start(60)
    deadline = time.monotonic() + 30
    while not (tmp_path / "b" / "full-latest").exists():
        assert time.monotonic() < deadline, node.log_tail()
        time.sleep(0.05)
    jobs = node.http("/admin/backups")["backups"]
    assert [(job["label"], job["status"]) for job in jobs] == [("weekly", "completed")], "one, with the longer label"
    latest = (tmp_path / "b" / "full-latest").resolve()
    assert str(latest) == jobs[0]["destination"] and latest.name.startswith("full-20")
    assert thunderdb(node, "--verify-backup", str(tmp_path / "b" / "full-latest")).returncode == 0
    report = json.loads(thunderdb(node, "--retention-report", "--json").stdout)
    assert report["schema"] == "thunderdb.retention/1"
    assert [(item["object"], item["keep"]) for item in report["objects"]] == [(str(latest), True)]


def test_behind_a_token_the_command_and_the_script_get_in(make: Callable[..., Thunder], tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    node = make(admin_token_file=str(token), destination=str(tmp_path / "b"))
    with pytest.raises(urllib.error.HTTPError) as caught:
        node.http("/admin/backups")
    assert caught.value.code == 401
    assert thunderdb(node, "--backup", str(tmp_path / "b" / "full")).returncode == 0
    elsewhere = thunderdb(node, "--backup", str(tmp_path / "elsewhere"))
    assert elsewhere.returncode == 3 and "roots" in elsewhere.stderr
    if shutil.which("jq") and shutil.which("curl"):
        settings = {
            "THUNDERDB_URL": f"http://127.0.0.1:{node.http_port}", "TOKEN_FILE": str(token), "BACKUP_DIR": str(tmp_path / "b"),
            "POLL_S": "0.1", "THUNDERDB": str(command_in(tmp_path, node)),
        }  # fmt: skip
        script = ROOT / "deploy" / "cron" / "thunderdb-backup.sh"
        done = subprocess.run(
            [str(script)], env={**node.environment(), **settings}, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0 and "Backup verification: PASSED" in done.stdout, done
    said = node.log_text() + json.dumps(json.loads((node.directory / "data" / "backups.json").read_text()))
    said += "".join(path.read_text() for path in (tmp_path / "b").rglob("*.toml"))
    assert token.read_text() not in said


def command_in(tmp_path: Path, node: Thunder) -> Path:
    command = tmp_path / "thunderdb"
    command.write_text("#!/bin/sh\nexec " + " ".join(node.command()) + ' "$@"\n')
    command.chmod(0o755)
    return command


def test_encrypted_it_needs_its_key_and_no_other(make: Callable[..., Thunder], tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(secrets.token_hex(32))
    key.chmod(0o600)
    node = make(backup_key_file=str(key), wal_archive_enabled="true", wal_archive_dir=str(tmp_path / "archive"))
    place = tmp_path / "b" / "full"
    assert ended(node, begin(node, place, compress=True))["status"] == "completed"
    assert thunderdb(node, "--verify-backup", str(place), "--deep").returncode == 0
    node.http("/admin/wal/switch", {}, "POST")
    stored = [path for folder in (tmp_path / "archive", place) for path in folder.rglob("*") if path.is_file()]
    assert any(path.name.endswith(".enc") for path in stored)
    assert not [path for path in stored if b"xxxxxxxxxxxxxxxx" in path.read_bytes()], "rows in the clear"
    key.write_text(secrets.token_hex(32))
    wrong = thunderdb(node, "--verify-backup", str(place))
    assert wrong.returncode == 3 and "key" in wrong.stderr
    node.settings.pop("backup_key_file")
    none = thunderdb(node, "--verify-backup", str(place))
    assert none.returncode == 3 and "encrypted" in none.stderr and "HINT" in none.stderr


class Writer(threading.Thread):
    """Inserts one row after the other; `acknowledged` is the newest that was."""

    def __init__(self, node: Thunder, first: int) -> None:
        super().__init__(daemon=True)
        self.node, self.number = node, first
        self.acknowledged = first - 1
        self.stopped = False
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            with self.node.connect(autocommit=True) as connection:
                while not self.stopped:
                    connection.execute("INSERT INTO t VALUES (%s, repeat('y', 300))", (self.number,))
                    if self.number % 7 == 0:
                        connection.execute("UPDATE t SET v = 'z' WHERE id = %s", (self.number // 2,))
                    self.acknowledged, self.number = self.number, self.number + 1
        except psycopg.OperationalError:
            return
        except BaseException as error:
            self.error = error


def rsync(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["rsync", "-a", f"{source}/", f"{target}/"], capture_output=True, text=True, timeout=60)
    assert done.returncode in (0, 24), done  # 24: a file vanished while it was listed


def hand_made_copies(node: Thunder, tmp_path: Path, rounds: int) -> None:
    """The manual's commands under full load; each copy is started, and has every row acknowledged before wal/ was copied."""
    first = 10_000
    for number in range(rounds):
        writer = Writer(node, first)
        writer.start()
        time.sleep(0.5)
        copy = tmp_path / f"copy-{number}"
        node.http("/admin/checkpoint", {"hold": "15s"}, "POST")  # a few at a time are held
        rsync(node.directory / "data", copy / "data")
        acknowledged = writer.acknowledged
        rsync(node.directory / "wal", copy / "wal")
        assert thunderdb(node, "--verify-backup", str(copy)).returncode == 0
        writer.stopped = True
        writer.join(30)
        assert writer.error is None and acknowledged > first
        restored = Thunder(copy)
        restored.start(60)
        with restored.connect(autocommit=True) as connection:
            rows = connection.execute("SELECT count(*), max(id) FROM t WHERE id >= %s", (first,)).fetchone()
        assert rows is not None and rows[1] >= acknowledged and rows[0] == rows[1] - first + 1, (rows, acknowledged)
        assert restored.stop() == 0
        checked = thunderdb(restored, "--check")
        assert checked.returncode == 0, checked
        shutil.rmtree(copy)
        first = writer.number + 1


def test_a_copy_by_hand_under_load_restores(make: Callable[..., Thunder], tmp_path: Path) -> None:
    if shutil.which("rsync") is None:
        pytest.skip("rsync is not installed")
    hand_made_copies(make(), tmp_path, 1)


@pytest.mark.long
def test_twenty_copies_by_hand_under_load_restore(make: Callable[..., Thunder], tmp_path: Path) -> None:
    if shutil.which("rsync") is None:
        pytest.skip("rsync is not installed")
    hand_made_copies(make(wal_segment_size="1MB", checkpoint_interval="1s"), tmp_path, 20)


def test_metrics_before_and_after(make: Callable[..., Thunder], tmp_path: Path) -> None:
    node = make()
    assert "thunderdb_last_backup_status NaN" in node.http("/metrics")
    assert ended(node, begin(node, tmp_path / "full"))["status"] == "completed"
    text = node.http("/metrics")
    assert "thunderdb_last_backup_status 1.0" in text
    node.kill()
    node.start(60)
    assert "thunderdb_last_backup_status 1.0" in node.http("/metrics"), "it survives a restart"
    assert os.path.exists(tmp_path / "full" / "backup_manifest.json")

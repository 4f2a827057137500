"""A database whose archive and backups are in a cloud's store: backup, more work, an accident, the machine gone, and the work
back to just before the accident on another machine. With our own clients, and with each cloud's tool as the manual has it."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from thunderdb.archive.cipher import load_cipher
from thunderdb.backup.verify import verify_backup
from thunderdb.base.config import Config
from thunderdb.runtime.real_ports import run_real
from tools.harness.emulators import KEY_ID, MANUAL_BUCKET, SECRET, Emulator, Unavailable, cloud_program, gsutil_environment
from tools.harness.thunder import Thunder

pytestmark = pytest.mark.daemon

# Word for word as in the manual (backup-recovery: WAL Archive to Object Storage).
MANUAL = {
    "s3": (
        "aws s3 cp %f s3://my-thunderdb-backups/wal/%n --storage-class STANDARD_IA",
        "aws s3 cp s3://my-thunderdb-backups/wal/%n %f",
    ),
    "gs": ("gsutil cp %f gs://my-thunderdb-backups/wal/%n", "gsutil cp gs://my-thunderdb-backups/wal/%n %f"),
    "az": (
        "az storage blob upload --file %f --container-name thunderdb-wal --name %n",
        "az storage blob download --container-name thunderdb-wal --name %n --file %f",
    ),
}
TOOLS = {"s3": ("aws", "awscli", "1.45.11"), "gs": ("gsutil", "gsutil", "5.38"), "az": ("az", "azure-cli", "2.91.0")}
QUICK = {"wal_archive_lag": "100ms", "checkpoint_interval": "1h", "buffer_pool_size": "16MB"}


@dataclass(slots=True)
class Story:
    """Two machines, one after the other, and the settings that both have."""

    directory: Path
    settings: dict[str, str]
    backups: str
    rows: list[int] = field(default_factory=list)

    def machine(self, name: str) -> Thunder:
        return Thunder(self.directory / name, {**QUICK, **self.settings})

    def insert(self, node: Thunder, first: int, last: int) -> None:
        with node.connect(autocommit=True) as connection:
            for number in range(first, last):
                connection.execute("INSERT INTO work VALUES (%s, %s)", (number, "x" * 200))
        self.rows += range(first, last)

    def found(self, node: Thunder) -> list[int]:
        with node.connect(autocommit=True) as connection:
            return [number for (number,) in connection.execute("SELECT id FROM work ORDER BY id").fetchall()]

    def backup(self, node: Thunder, name: str, **request: Any) -> str:
        place = f"{self.backups}/{name}"
        started = node.http("/admin/backup", {"destination": place, **request})
        job = until(lambda: ended(node.http(f"/admin/backup/status/{started['backup_id']}")), 60)
        assert job["status"] == "completed", job
        return place

    def verify(self, place: str) -> list[Any]:
        async def main(ports: Any) -> list[Any]:
            cipher = await load_cipher(ports, Config(backup_key_file=self.settings.get("backup_key_file", "")))
            return (await verify_backup(ports, place, cipher)).problems

        return run_real(main)

    def run(self, node: Thunder, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*node.command(), *arguments]
        return subprocess.run(command, env=node.environment(), cwd=node.directory, capture_output=True, text=True, timeout=300)


def ended(job: dict[str, Any]) -> dict[str, Any] | None:
    return job if job["status"] in ("completed", "failed") else None


def until(look: Callable[[], Any], limit_s: float) -> Any:
    end = time.monotonic() + limit_s
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.1)


def archived(node: Thunder) -> Any:
    status = node.http("/admin/wal/archive/status")
    return status if status["segments_pending"] == 0 else None


def live_through(story: Story, tail_is_kept: bool) -> None:
    first = story.machine("first")
    first.start(60)
    with first.connect(autocommit=True) as connection:
        connection.execute("CREATE TABLE work (id int PRIMARY KEY, what text)")
    story.insert(first, 0, 100)
    place = story.backup(first, "full", compress=True)
    story.insert(first, 100, 150)
    first.http("/admin/wal/switch", {})
    story.insert(first, 150, 200)
    with first.connect(autocommit=True) as connection:
        (moment,) = connection.execute("SELECT clock_timestamp()").fetchone() or ("",)
        time.sleep(0.02)
        connection.execute("DELETE FROM work")
        connection.execute("INSERT INTO work VALUES (1000, 'after the accident')")
    if not tail_is_kept:
        first.http("/admin/wal/switch", {})
    until(lambda: archived(first), 120)
    time.sleep(1.0)  # ten times the lag: the open segment is in the archive, where the archive can hold one
    status = first.http("/admin/wal/archive/status")
    assert not status["failing"] and not status["refused"] and not status["gaps"], status
    first.kill()

    second = story.machine("second")
    assert story.verify(place) == []
    if "backup_key_file" in story.settings:
        refuse_another_key(story, moment.isoformat(), place)
    done = story.run(second, "--restore-pitr", moment.isoformat(), "--restore-backup", place)
    assert done.returncode == 0, done.stderr
    second.start(60)
    assert story.found(second) == story.rows
    story.insert(second, 200, 210)
    second.http("/admin/wal/switch", {})
    until(lambda: archived(second), 120)
    assert second.stop(60) == 0
    for node in (first, second):
        for secret in ("not-so-secret", "Eby8vdM02"):
            assert secret not in node.log_text()

    third = story.machine("third")
    done = story.run(third, "--restore-pitr", "latest", "--restore-backup", place)
    assert done.returncode == 0, done.stderr
    third.start(60)
    assert story.found(third) == story.rows, "the second machine's timeline is in the archive, too"
    assert third.stop(60) == 0


def refuse_another_key(story: Story, moment: str, place: str) -> None:
    other = story.directory / "other-key"
    other.write_text("f0" * 32)
    other.chmod(0o600)
    stranger = story.machine("stranger")
    stranger.settings["backup_key_file"] = str(other)
    done = story.run(stranger, "--restore-pitr", moment, "--restore-backup", place)
    assert done.returncode == 3 and "wrong key" in done.stderr and "f0f0" not in done.stderr, done.stderr
    assert not (stranger.directory / "data").exists()


@pytest.mark.parametrize("kind", ["s3", "az", "gs"])
def test_with_our_own_client(
    kind: str, emulators: Callable[[str], Emulator], clean_environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    emulator = emulators(kind)
    for name, value in emulator.environment.items():
        clean_environment.setenv(name, value)
    key = tmp_path / "key"
    key.write_text("0f" * 32)
    key.chmod(0o600)
    settings = {"wal_archive_enabled": "true", "wal_archive_dir": emulator.url(f"story/{tmp_path.name}/wal")}
    if kind == "s3":  # encrypted and compressed, too: the store sees nothing
        settings |= {"backup_key_file": str(key), "wal_archive_compress": "true"}
    live_through(Story(tmp_path, settings, emulator.url(f"story/{tmp_path.name}/backups")), tail_is_kept=True)


def with_tool(kind: str, emulator: Emulator, patch: pytest.MonkeyPatch, directory: Path) -> Story:
    """A story whose archive commands are the manual's, word for word, with the cloud's own program on PATH."""
    try:
        program = cloud_program(*TOOLS[kind])
    except Unavailable as reason:
        pytest.skip(str(reason))
    environment = emulator.environment | (gsutil_environment(emulator, directory) if kind == "gs" else {})
    for name, value in environment.items():
        patch.setenv(name, value)
    patch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    if kind == "s3":
        objects_of(emulator, MANUAL_BUCKET, "wal/")  # what another test left under the manual's names
    store, fetch = MANUAL[kind]
    settings = {"wal_archive_enabled": "true", "wal_archive_command": store, "wal_restore_command": fetch}
    return Story(directory, settings, f"{directory}/backups")


def test_the_manuals_commands_for_s3_archive_each_segment_as_it_is(
    emulators: Callable[[str], Emulator], clean_environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    story = with_tool("s3", emulators("s3"), clean_environment, tmp_path)
    node = story.machine("first")
    node.start(60)
    with node.connect(autocommit=True) as connection:
        connection.execute("CREATE TABLE work (id int PRIMARY KEY, what text)")
    story.insert(node, 0, 100)
    node.http("/admin/wal/switch", {})
    until(lambda: archived(node), 120)
    status = node.http("/admin/wal/archive/status")
    assert status["verified"] and not status["failing"] and status["last_archived_segment"] == "000000010000000000000001"
    node.kill()
    stored = objects_of(emulators("s3"), MANUAL_BUCKET, "wal/")
    assert sorted(stored) == ["wal/00000001.history", "wal/000000010000000000000001"]
    storage_class, content = stored["wal/000000010000000000000001"]
    assert storage_class == "STANDARD_IA"
    assert content == (node.directory / "wal" / "000000010000000000000001").read_bytes()


def objects_of(emulator: Emulator, bucket: str, prefix: str) -> dict[str, tuple[str, bytes]]:
    """Key -> storage class and content, as the store's own client sees them. They are removed."""
    import boto3

    names = {"aws_access_key_id": KEY_ID, "aws_secret_access_key": SECRET}
    client = boto3.client("s3", endpoint_url=emulator.endpoint, region_name="us-east-1", **names)
    found = {}
    for entry in client.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", []):
        found[entry["Key"]] = (entry["StorageClass"], client.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read())
        client.delete_object(Bucket=bucket, Key=entry["Key"])
    return found


@pytest.mark.long
@pytest.mark.parametrize("kind", ["s3", "gs", "az"])
def test_with_the_clouds_own_tool_as_the_manual_has_it(
    kind: str, emulators: Callable[[str], Emulator], clean_environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Some 60 runs of the tool, a second or two each."""
    live_through(with_tool(kind, emulators(kind), clean_environment, tmp_path), tail_is_kept=False)

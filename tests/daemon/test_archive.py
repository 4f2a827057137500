"""A real daemon that archives to a real directory, and through real shell commands; killed in between."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tools.harness.thunder import Thunder

pytestmark = pytest.mark.daemon


def until(node: Thunder, wanted: Any, seconds: float = 20) -> dict[str, Any]:
    """Poll the status until `wanted` of it is true."""
    end = time.monotonic() + seconds
    while True:
        status: dict[str, Any] = node.http("/admin/wal/archive/status")
        if wanted(status):
            return status
        assert time.monotonic() < end, status
        time.sleep(0.05)


def insert(node: Thunder, first: int, count: int) -> None:
    with node.connect(autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS t (a int PRIMARY KEY, b text)")
        for row in range(first, first + count):
            connection.execute("INSERT INTO t VALUES (%s, %s)", (row, "x" * 500))


def closed(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if len(path.name) == 24)


def test_kill_9_under_load_leaves_an_archive_without_gaps(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    settings = {"wal_archive_enabled": "true", "wal_archive_dir": str(archive), "wal_archive_lag": "200ms"}
    node = Thunder(tmp_path / "node", settings)
    try:
        for life in range(2):
            node.start(60)
            insert(node, life * 1000, 300)
            if life < 1:
                node.http("/admin/wal/switch", {}, "POST")
                insert(node, life * 1000 + 500, 50)
                node.kill()
        status = until(node, lambda status: status["lag_bytes"] == 0 and status["segments_pending"] == 0)
        assert status["failing"] is False and status["gaps"] == [] and status["verified"] is True
        names = closed(archive)
        assert [int(name, 16) & 0xFFFF for name in names] == list(range(1, len(names) + 1)) and len(names) >= 1
        for name in names:
            local = node.directory / "wal" / name
            assert not local.exists() or local.read_bytes() == (archive / name).read_bytes()
        assert all(path.stat().st_mode & 0o777 == 0o600 for path in archive.iterdir())
        assert node.stop(60) == 0
    finally:
        node.kill()


def test_real_commands_archive_and_fetch(tmp_path: Path) -> None:
    """`cp -n` refuses to overwrite: what was pushed before a crash must be recognised, not pushed again for ever."""
    bucket = tmp_path / "bucket"
    bucket.mkdir()
    node = Thunder(
        tmp_path / "node",
        {
            "wal_archive_enabled": "true",
            "wal_archive_command": f"test ! -e {bucket}/%n && cp %f {bucket}/%n",
            "wal_restore_command": f"cp {bucket}/%n %f",
        },
    )
    try:
        node.start(60)
        insert(node, 0, 20)
        assert node.http("/admin/wal/switch", {}, "POST")["archived"] is True
        node.kill()
        (node.directory / "data" / "archived").unlink()
        node.start(60)
        until(node, lambda status: status["last_archived_segment"] and not status["segments_pending"])
        insert(node, 100, 20)
        node.http("/admin/wal/switch", {}, "POST")
        assert not until(node, lambda status: not status["segments_pending"])["failing"]
        assert len(closed(bucket)) >= 2 and (bucket / "00000001.history").exists()
        assert node.stop(60) == 0
        assert "[ERROR]" not in node.log_text()
    finally:
        node.kill()

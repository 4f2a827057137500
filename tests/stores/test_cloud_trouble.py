"""A daemon whose store is in trouble: commits do not wait for it, what fails says so, and nothing is lost in the end."""

from __future__ import annotations

import time
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from thunderdb.archive.index import read_index
from thunderdb.runtime.ports import Stored
from thunderdb.runtime.real_ports import run_real
from tools.harness.emulators import SECRET, Emulator
from tools.harness.faulty_proxy import FaultyProxy
from tools.harness.thunder import Thunder

pytestmark = pytest.mark.daemon

Trouble = tuple[FaultyProxy, Thunder, str]


@pytest.fixture
def trouble(
    emulators: Callable[[str], Emulator], clean_environment: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Trouble]:
    """A proxy before an S3, a daemon that archives through it, and the URL of a place in it."""
    emulator = emulators("s3")
    proxy = FaultyProxy(emulator.endpoint)
    for name, value in emulator.behind(proxy.start()).items():
        clean_environment.setenv(name, value)
    place = emulator.url(f"trouble/{tmp_path.name}")
    settings = {"wal_archive_enabled": "true", "wal_archive_dir": f"{place}/wal", "wal_archive_lag": "100ms"}
    node = Thunder(tmp_path / "node", {**settings, "buffer_pool_size": "16MB"})
    node.start(60)
    with node.connect(autocommit=True) as connection:
        connection.execute("CREATE TABLE work (id int PRIMARY KEY, what text)")
    yield proxy, node, place
    node.kill()
    proxy.stop()


def listed(place: str) -> list[Stored]:
    async def main(ports: Any) -> list[Stored]:
        return await ports.stores.open(place).list()

    return run_real(main)


def until(look: Callable[[], Any], limit_s: float = 60) -> Any:
    end = time.monotonic() + limit_s
    while not (found := look()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.1)
    return found


def status(node: Thunder) -> dict[str, Any]:
    return node.http("/admin/wal/archive/status")


def insert(node: Thunder, first: int, last: int) -> float:
    """Return the longest commit, in seconds."""
    longest_s = 0.0
    with node.connect(autocommit=True) as connection:
        for number in range(first, last):
            begun = time.monotonic()
            connection.execute("INSERT INTO work VALUES (%s, %s)", (number, "x" * 100))
            longest_s = max(longest_s, time.monotonic() - begun)
    return longest_s


def test_an_outage_and_a_crash_in_it_delay_the_archive_and_nothing_else(trouble: Trouble) -> None:
    proxy, node, place = trouble
    insert(node, 0, 20)
    until(lambda: status(node)["lag_bytes"] == 0)
    proxy.fault("403", method="PUT")  # credentials that have run out; 503 would be repeated for half a minute
    assert insert(node, 20, 60) < 5, "a commit does not wait for the archive"
    with pytest.raises(urllib.error.HTTPError) as refused:
        node.http("/admin/wal/switch", {})
    answer = refused.value.read().decode()
    assert f"{place}/wal: cannot " in answer and "403 Forbidden" in answer and SECRET not in answer
    assert insert(node, 60, 80) < 5
    shown = until(lambda: status(node) if status(node)["failing"] else None)
    assert shown["segments_pending"] >= 1 and shown["exposed"]["transactions"] >= 60, shown
    node.kill()
    proxy.clear()
    node.start(60)
    insert(node, 80, 100)
    until(lambda: status(node)["segments_pending"] == 0 and status(node)["lag_bytes"] == 0)
    assert not status(node)["gaps"]
    ends = node.http("/admin/wal/switch", {})["segment"]
    until(lambda: status(node)["last_archived_segment"] >= ends)

    async def main(ports: Any) -> Any:
        return await read_index(ports.stores.open(f"{place}/wal"))

    index = run_real(main)
    assert not index.gaps() and sorted(index.segments) == [(1, number) for number in range(1, len(index.segments) + 1)]


def test_a_backup_that_a_store_refuses_has_failed_and_says_why(trouble: Trouble) -> None:
    proxy, node, place = trouble
    insert(node, 0, 20)
    proxy.fault("403", method="PUT", path="/backups/one/data/")
    job = backup(node, f"{place}/backups/one")
    assert job["status"] == "failed" and "403" in job["error"] and "AccessDenied" in job["error"], job
    assert SECRET not in str(job) and SECRET not in node.log_text()
    assert not [entry.key for entry in listed(f"{place}/backups/one") if entry.key == "backup_manifest.json"]
    proxy.clear()
    proxy.fault("drop_after", method="PUT", path="/backups/two/", times=3)
    assert backup(node, f"{place}/backups/two")["status"] == "completed", "what passes is not noticed"
    assert "backup_manifest.json" in [entry.key for entry in listed(f"{place}/backups/two")]


def backup(node: Thunder, place: str) -> dict[str, Any]:
    started = node.http("/admin/backup", {"destination": place})

    def look() -> Any:
        job = node.http(f"/admin/backup/status/{started['backup_id']}")
        return job if job["status"] in ("completed", "failed") else None

    return until(look)

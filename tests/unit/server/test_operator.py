"""The operator over a real database in memory: answers, gauges before and after, and the order of a shutdown."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.unit.engine.world import EngineWorld
from thunderdb.archive.identity import Identity, write_identity
from thunderdb.base.errors import NodeStopped, Refused, StorageError
from thunderdb.server.backup_metrics import BACKUP_METRICS
from thunderdb.server.operator import NodeOperator

SPEC_ARCHIVE_FIELDS = [
    "archiving_enabled", "last_archived_segment", "last_archive_time", "segments_pending", "archive_rate_bytes_per_sec",
    "total_archived_bytes",
]  # fmt: skip
SECOND_NS = 1_000_000_000


class OperatorWorld(EngineWorld):
    def __init__(self, archive: bool = True, **settings: Any) -> None:
        own = {"wal_archive_enabled": True, "wal_archive_dir": "/a"} if archive else {}
        super().__init__(**{**own, **settings})
        self.serve()
        self.t = self.table()
        self.insert(self.t, [1, "x"])

    def serve(self) -> None:
        self.start()
        self.operator = self.run(NodeOperator.open(self.db, self, self.config, self.db.events, None))
        self.wait(1)

    def wait(self, seconds: float) -> None:
        self.run(self.tasks.sleep(int(seconds * SECOND_NS)))

    def ask(self, destination: str, **more: Any) -> dict[str, Any]:
        request = {
            "destination": destination, "include_wal": True, "compress": False, "type": "full", "base": None, "label": "manual",
            "rate_limit": None, **more,
        }  # fmt: skip
        return self.run(self.operator.backup(request))

    def backup(self, destination: str, **more: Any) -> dict[str, Any]:
        """Take one and wait for its end."""
        answer = self.ask(destination, **more)
        self.run(self.operator.jobs.wait(answer["backup_id"]))
        self.wait(1)
        found = self.run(self.operator.backup_status(answer["backup_id"]))
        assert found is not None
        return found

    def gauge(self, name: str) -> float:
        return self.operator.gauges()[f"thunderdb_{name}"]


def test_answers_have_the_manuals_fields() -> None:
    world = OperatorWorld()
    answer = world.ask("/b/full")
    assert list(answer) == ["status", "backup_id", "destination", "estimated_size_bytes"] and answer["status"] == "started"
    world.run(world.operator.jobs.wait(answer["backup_id"]))
    found = world.run(world.operator.backup_status(answer["backup_id"]))
    assert found is not None and found["status"] == "completed" and found["progress"] == 1.0
    assert world.run(world.operator.backup_status("bk-none")) is None and world.run(world.operator.cancel("bk-none")) is None
    assert [job["backup_id"] for job in world.run(world.operator.backups())] == [answer["backup_id"]]
    assert list(world.run(world.operator.archive_status()))[:6] == SPEC_ARCHIVE_FIELDS
    assert world.run(world.operator.retention())["schema"] == "thunderdb.retention/1"


def test_switching_closes_and_archives() -> None:
    world = OperatorWorld()
    assert world.run(world.operator.switch_wal()) == {"switched": True, "segment": "000000010000000000000001", "archived": True}
    status = world.run(world.operator.archive_status())
    assert status["last_archived_segment"] == "000000010000000000000001" and status["last_archive_time"].endswith("Z")
    plain = OperatorWorld(archive=False)
    assert plain.run(plain.operator.switch_wal())["archived"] is False
    assert list(plain.run(plain.operator.archive_status())) == SPEC_ARCHIVE_FIELDS


def test_a_new_node_pages_nobody_and_a_restart_forgets_nothing() -> None:
    world = OperatorWorld()
    created_s = world.db.control.state.created_wall_ns / 1e9
    assert math.isnan(world.gauge("last_backup_status")) and world.gauge("last_backup_timestamp") == created_s
    assert "thunderdb_recovery_window_oldest_timestamp" not in world.operator.gauges()
    world.backup("/b/full")
    taken = world.operator.gauges()
    assert taken["thunderdb_last_backup_status"] == 1 and taken["thunderdb_last_backup_timestamp"] > created_s
    assert taken["thunderdb_recovery_window_oldest_timestamp"] <= taken["thunderdb_recovery_window_newest_timestamp"]
    world.run(world.operator.close())
    world.close()
    world.serve()
    assert world.gauge("last_backup_status") == 1
    assert world.gauge("last_backup_timestamp") == taken["thunderdb_last_backup_timestamp"]
    assert world.gauge("recovery_window_oldest_timestamp") == taken["thunderdb_recovery_window_oldest_timestamp"]


def test_a_failure_is_seen_and_leaves_the_last_success_alone() -> None:
    world = OperatorWorld()
    world.backup("/b/full")
    good = world.gauge("last_backup_timestamp")

    async def failing(path: str) -> None:
        raise OSError(5, "Input/output error")

    original, world.disk.sync_dir = world.disk.sync_dir, failing  # type: ignore[method-assign]
    try:
        answer = world.ask("/b/second")
        world.run(world.operator.jobs.wait(answer["backup_id"]))
    except OSError:
        pass
    world.disk.sync_dir = original  # type: ignore[method-assign]
    if any(job.status == "failed" for job in world.operator.jobs.jobs()):
        assert world.gauge("last_backup_status") == 0
    assert world.gauge("last_backup_timestamp") == good


def test_every_gauge_has_its_row() -> None:
    for archive in (True, False):
        world = OperatorWorld(archive, destination="/b", schedule_daily="0 2 * * *")
        world.backup("/b/full")
        assert set(world.operator.gauges()) <= set(BACKUP_METRICS)
    assert world.gauge("backup_next_timestamp") > 0


def test_without_an_archive_everything_since_the_last_backup_is_exposed() -> None:
    world = OperatorWorld(archive=False)
    assert world.gauge("rpo_exposed_bytes") > 0 and world.gauge("rpo_exposed_seconds") > 0
    world.backup("/b/full")
    assert (world.gauge("rpo_exposed_transactions"), world.gauge("rpo_exposed_bytes")) == (0, 0)
    world.insert(world.t, [2, "y"])
    world.insert(world.t, [3, "z"])
    assert world.gauge("rpo_exposed_transactions") == 2 and world.gauge("rpo_exposed_bytes") > 0
    assert world.gauge("wal_archive_enabled") == 0


def test_with_an_archive_what_is_shipped_is_not_exposed() -> None:
    world = OperatorWorld()
    world.wait(5)
    assert world.gauge("rpo_exposed_transactions") == 0 and world.gauge("rpo_exposed_seconds") == 0
    world.insert(world.t, [2, "y"])
    assert world.gauge("rpo_exposed_transactions") == 1 and world.gauge("rpo_exposed_bytes") > 0
    world.wait(5)
    assert world.gauge("rpo_exposed_transactions") == 0


def test_a_shutdown_stops_a_running_backup_first() -> None:
    world = OperatorWorld()
    answer = world.ask("/b/slow", rate_limit=64)
    world.wait(2)
    assert world.gauge("backup_running") == 1
    world.run(world.operator.close())
    world.close()
    world.serve()
    found = world.run(world.operator.backup_status(answer["backup_id"]))
    assert found is not None and found["status"] == "failed" and "shutdown" in found["error"]
    assert not [path for path in world.disk.files if path.startswith("/b/")]
    world.run(world.operator.close())
    with pytest.raises(NodeStopped):
        world.ask("/b/late")


def test_a_drill_removes_nothing_and_takes_no_scheduled_backups() -> None:
    world = OperatorWorld(destination="/b", schedule_daily="* * * * *")
    world.run(world.operator.close())
    world.close()
    world.run(write_identity(world.disk, world.config.data_dir, Identity("0" * 32, True)))
    before = sorted(path for path in world.disk.files if path.startswith("/b/"))
    world.serve()
    world.wait(130)
    assert sorted(path for path in world.disk.files if path.startswith("/b/")) == before
    with pytest.raises(Refused, match="may not write"):
        world.run(world.operator._retain())
    assert world.gauge("wal_archive_enabled") == 0


def test_an_operator_that_cannot_begin_leaves_no_archiver_behind() -> None:
    """The daemon closes the database then, and an archiver that goes on would meet closed files for ever."""
    world = OperatorWorld()
    world.run(world.operator.close())
    read_file = world.disk.read_file

    async def failing(path: str) -> bytes:
        if path.endswith("schedule.json"):
            raise StorageError(f"cannot read {path}: Input/output error")
        return await read_file(path)

    world.disk.read_file = failing  # type: ignore[method-assign]
    with pytest.raises(StorageError, match="schedule.json"):
        world.run(NodeOperator.open(world.db, world, world.config, world.db.events, None))
    before = {path: bytes(data) for path, data in world.disk.files.items() if path.startswith("/a/")}
    world.insert(world.t, [2, "y"])
    world.wait(10)
    assert {path: bytes(data) for path, data in world.disk.files.items() if path.startswith("/a/")} == before

"""The schedule over real jobs in memory: days pass in a moment."""

from __future__ import annotations

import json
from typing import Any

from tests.unit.backup.helpers import BackupWorld
from thunderdb.backup.jobs import COMPLETED, FAILED, BackupJobs
from thunderdb.backup.schedule import BackupSchedule
from thunderdb.backup.take import BackupRequest
from thunderdb.base.errors import StorageError

HOUR_NS = 3_600_000_000_000
MINUTE_NS = HOUR_NS // 60


class ScheduleWorld(BackupWorld):
    """`hours` lets time pass with the schedule in the background; the clock begins at 2026-01-01 00:00:01 UTC."""

    def __init__(self, **settings: Any) -> None:
        defaults = {"destination": "/b", "schedule_daily": "0 2 * * *", "schedule_compress": False}
        super().__init__(rows=20, **{**defaults, **settings})
        self.clock.wall_offset_ns = 1_767_225_601_000_000_000 - self.scheduler.now_ns
        self.retained = 0
        self.links: dict[str, str] = {}
        self.disk.symlink = self._symlink  # type: ignore[method-assign]
        self.begin()

    async def _symlink(self, target: str, path: str) -> None:
        self.links[path] = target

    def begin(self) -> None:
        self.jobs = BackupJobs(self.db, self, self.config)
        self.run(self.jobs.load())
        self.plan = BackupSchedule(self, self.config, self.jobs, self.db.events, self._retain)
        self.run(self.plan.start())

    async def _retain(self) -> None:
        self.retained += 1

    def stop(self) -> None:
        self.plan.stop_soon()
        self.run(self.jobs.close())
        self.run(self.plan.stop())

    def hours(self, count: float) -> None:
        for _ in range(int(count * 6)):
            self.scheduler.now_ns += 9 * MINUTE_NS  # nobody has anything to do then
            self.run(self.tasks.sleep(MINUTE_NS))

    def names(self) -> list[str]:
        return [job.destination.removeprefix("/b/") for job in reversed(self.jobs.jobs())]


def test_a_daily_backup_at_its_moment_and_the_link_to_it() -> None:
    world = ScheduleWorld()
    world.hours(1)
    assert world.names() == []
    world.hours(2)
    assert world.names() == ["full-20260101-020000"]
    assert world.links == {"/b/full-latest": "full-20260101-020000"}
    assert world.verify("/b/full-20260101-020000").passed
    world.hours(24)
    assert world.names()[-1] == "full-20260102-020000" and len(world.names()) == 2
    assert world.links["/b/full-latest"] == "full-20260102-020000"
    assert [job.label for job in world.jobs.jobs()] == ["daily", "daily"]
    world.stop()


def test_downtime_is_made_up_for_once_and_memory_survives() -> None:
    world = ScheduleWorld()
    world.hours(3)
    world.stop()
    world.scheduler.now_ns += 5 * 24 * HOUR_NS
    world.begin()
    world.hours(1)
    assert world.names() == ["full-20260101-020000", "full-20260106-030001"]
    world.stop()


def test_incrementals_between_and_a_full_one_where_there_is_nothing_to_stand_on() -> None:
    world = ScheduleWorld(schedule_incremental="0 * * * *")
    world.hours(3.5)
    labels = {job.destination.removeprefix("/b/"): (job.type, job.label) for job in world.jobs.jobs()}
    assert labels == {
        "full-20260101-010000": ("full", "daily"),
        "full-20260101-020000": ("full", "daily"),
        "incr-20260101-030000": ("incremental", "incremental"),
    }
    assert world.verify("/b/incr-20260101-030000").passed
    assert world.links["/b/full-latest"] == "full-20260101-020000"
    world.stop()


def test_it_waits_for_a_backup_that_somebody_else_runs() -> None:
    world = ScheduleWorld()
    world.hours(1.5)
    world.run(world.jobs.start(BackupRequest("/elsewhere/slow", rate_limit=16)))
    world.hours(2)
    assert world.names() == ["/elsewhere/slow"], "two backups at a time were begun"
    slow = world.jobs.jobs()[0]
    world.run(world.jobs.cancel(slow.id))
    world.hours(0.5)
    assert world.names()[-1].startswith("full-20260101-")
    world.stop()


def test_a_failure_is_tried_again_and_is_no_success() -> None:
    world = ScheduleWorld()
    original = world.disk.sync_dir

    async def failing(path: str) -> None:
        if path.startswith("/b"):
            raise StorageError("cannot sync /b")
        await original(path)

    world.disk.sync_dir = failing  # type: ignore[method-assign]
    world.hours(2.5)
    assert {job.status for job in world.jobs.jobs()} <= {FAILED} and world.links == {} and world.retained == 2
    world.disk.sync_dir = original  # type: ignore[method-assign]
    world.hours(1.5)
    assert world.jobs.jobs()[0].status == COMPLETED and world.links
    world.stop()


def test_the_link_to_the_newest_is_durable_and_one_that_cannot_be_made_costs_no_second_backup() -> None:
    world = ScheduleWorld()
    done: list[str] = []
    sync_dir, symlink = world.disk.sync_dir, world.disk.symlink

    async def noted(path: str) -> None:
        done.append(path)
        await sync_dir(path)

    async def made(target: str, path: str) -> None:
        done.append("link")
        await symlink(target, path)

    async def no_links(target: str, path: str) -> None:
        raise PermissionError(1, "Operation not permitted", path)

    world.disk.sync_dir, world.disk.symlink = noted, made  # type: ignore[method-assign]
    world.hours(3)
    assert "/b" in done[done.index("link") :]
    world.disk.symlink = no_links  # type: ignore[method-assign]
    world.hours(26)
    assert world.names() == ["full-20260101-020000", "full-20260102-020000"]
    assert [fields for name, fields in world.seen if name == "schedule.failed" and "full-latest" in fields["message"]]
    world.stop()


def test_retention_runs_by_itself_and_its_failure_stops_nothing() -> None:
    world = ScheduleWorld(schedule_daily="off")
    world.hours(3.4)
    assert world.retained == 3

    async def failing() -> None:
        raise StorageError("cannot list")

    world.plan._retain = failing
    world.hours(2)
    assert ("retention.failed", {"message": "cannot list"}) in world.seen
    world.plan._retain = world._retain
    world.hours(1.4)
    assert world.retained == 4
    world.stop()


def test_a_shutdown_in_the_middle_is_no_failure() -> None:
    world = ScheduleWorld(backup_rate_limit=65536)
    world.hours(1.9)
    world.run(world.tasks.sleep(7 * MINUTE_NS))
    running = [job for job in world.jobs.jobs() if not job.ended]
    world.stop()
    past = json.loads(bytes(world.disk.files["/d/data/schedule.json"]))
    assert past["failures"] == 0 or not running
    world.begin()
    world.hours(1)
    assert world.jobs.jobs()[0].status == COMPLETED
    world.stop()


def test_a_damaged_memory_owes_nothing() -> None:
    world = ScheduleWorld()
    world.stop()
    world.disk.files["/d/data/schedule.json"] = bytearray(b"{]")
    world.begin()
    world.hours(1)
    assert world.names() == []
    world.stop()


def test_killed_writers_of_its_memory_leave_one_file_at_most() -> None:
    """Each left one of another name, and after a thousand the schedule forgot what it had done at every restart."""
    world = ScheduleWorld()
    for number in range(1000):
        world.disk.files[f"/d/data/.schedule.json{f'.{number}' if number else ''}.tmp"] = bytearray(b"half")
    before = bytes(world.disk.files["/d/data/schedule.json"])
    world.hours(3)
    world.stop()
    assert bytes(world.disk.files["/d/data/schedule.json"]) != before

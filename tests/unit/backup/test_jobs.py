"""Backups as jobs: one at a time, remembered over restarts, and nothing left of those that did not end."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.unit.backup.helpers import BackupWorld
from thunderdb.backup.jobs import CANCELLED, COMPLETED, FAILED, INTERRUPTED, REMEMBERED, RUNNING, SHUT_DOWN, STARTED, BackupJobs
from thunderdb.backup.take import BackupRequest
from thunderdb.base.errors import NodeStopped, Refused

SECOND_NS = 1_000_000_000


class JobsWorld(BackupWorld):
    def __init__(self, rows: int = 200, **settings: Any) -> None:
        super().__init__(rows, **settings)
        self.jobs = self.loaded()

    def loaded(self) -> BackupJobs:
        jobs = BackupJobs(self.db, self, self.config)
        self.run(jobs.load())
        return jobs

    def begin(self, destination: str = "/b/one", **request: Any) -> str:
        return self.run(self.jobs.start(BackupRequest(destination, **request))).id

    def ended(self, destination: str = "/b/one", **request: Any) -> Any:
        return self.run(self.jobs.wait(self.begin(destination, **request)))

    def again(self, power: bool = True) -> None:
        self.restart(power)
        self.jobs = self.loaded()


def test_a_job_from_start_to_end() -> None:
    world = JobsWorld()
    backup_id = world.begin(label="daily")
    job = world.jobs.job(backup_id)
    assert job is not None and job.status == STARTED and job.estimated_size_bytes > 0
    done = world.run(world.jobs.wait(backup_id))
    assert done is not None and done.status == COMPLETED and done.progress == 1.0 and done.error is None
    assert done.manifest is not None and done.manifest["label"] == "daily"
    assert world.verify("/b/one").passed
    assert json.loads(json.dumps(done.document()))["backup_id"] == backup_id
    assert {"backup.started", "backup.completed"} <= set(world.names())


def test_ids_are_utc_times_with_a_suffix_in_the_same_second() -> None:
    world = JobsWorld()
    ids = []
    for number in range(3):
        ids.append(world.ended(f"/b/{number}").id)
    assert ids[0].startswith("bk-20260101-0000") and ids[1:] == [f"{ids[0]}-2", f"{ids[0]}-3"]
    world.rest(61)
    assert world.ended("/b/later").id == "bk-20260101-000101"


def test_only_one_runs_at_a_time() -> None:
    world = JobsWorld()
    first = world.begin()
    with pytest.raises(Refused, match=f"running already \\({first}\\)"):
        world.begin("/b/two")
    world.run(world.jobs.wait(first))
    assert world.ended("/b/two").status == COMPLETED


class SlowlySaved(BackupJobs):
    """Writing down takes long."""

    async def _save(self) -> None:
        await self.ports.tasks.sleep(SECOND_NS)
        await super()._save()


def test_the_next_may_begin_as_soon_as_one_is_seen_to_have_ended() -> None:
    world = JobsWorld()
    world.jobs = SlowlySaved(world.db, world, world.config)
    world.run(world.jobs.load())
    first = world.begin()

    async def at_once() -> str:
        while (job := world.jobs.job(first)) is not None and not job.ended:
            await world.tasks.sleep(SECOND_NS // 10)
        return (await world.jobs.start(BackupRequest("/b/two"))).id

    second = world.run(at_once())
    assert world.run(world.jobs.wait(second)).status == COMPLETED


def test_what_is_refused_leaves_no_job() -> None:
    world = JobsWorld()
    world.ended()
    with pytest.raises(Refused, match="exists"):
        world.begin()
    with pytest.raises(Refused, match="Take a full backup first|no backup that"):
        world.jobs._jobs.clear()
        world.begin("/b/inc", type="incremental")
    assert world.jobs.jobs() == []


def test_a_cancelled_job_has_failed_and_nothing_is_left() -> None:
    world = JobsWorld(rows=600)
    backup_id = world.begin(rate_limit=64 << 10)
    world.rest(2)
    job = world.jobs.job(backup_id)
    assert job is not None and job.status == RUNNING and 0 < job.progress < 1 and job.rate > 0 and job.eta_s
    cancelled = world.run(world.jobs.cancel(backup_id))
    assert cancelled is not None and (cancelled.status, cancelled.error) == (FAILED, CANCELLED)
    assert world.files_of("/b") == [] and world.run(world.jobs.cancel("bk-1")) is None
    assert world.run(world.jobs.cancel(backup_id)).error == CANCELLED  # type: ignore[union-attr]
    assert world.jobs.metrics().last_succeeded is None
    assert world.ended().status == COMPLETED


def test_the_rate_limit_is_kept() -> None:
    world = JobsWorld(rows=600)
    began_ns = world.clock.monotonic_ns()
    job = world.ended(rate_limit=256 << 10)
    elapsed_s = (world.clock.monotonic_ns() - began_ns) / SECOND_NS
    assert job.status == COMPLETED and elapsed_s >= 0.95 * job.bytes_done / (256 << 10)


@pytest.mark.parametrize("power", [True, False])
def test_after_a_crash_a_running_job_has_failed_and_its_partial_is_gone(power: bool) -> None:
    world = JobsWorld(rows=600)
    backup_id = world.begin(rate_limit=64 << 10)
    world.rest(2)
    assert world.files_of("/b/one.partial")
    world.disk.files["/b/other.partial/backup_running"] = bytearray(b"bk-20250101-000000")
    world.again(power)
    job = world.jobs.job(backup_id)
    assert job is not None and (job.status, job.error) == (FAILED, INTERRUPTED)
    assert world.files_of("/b") == ["/b/other.partial/backup_running"] and "/b/one.partial" not in world.disk.dirs
    assert world.ended().status == COMPLETED and world.verify("/b/one").passed


def test_a_partial_of_somebody_else_is_not_removed() -> None:
    world = JobsWorld(rows=600)
    world.begin(rate_limit=64 << 10)
    world.rest(2)
    world.disk.files["/b/one.partial/backup_running"][:] = b"bk-20250101-000000"
    world.again(power=False)
    assert world.files_of("/b/one.partial")


def test_a_job_that_was_published_before_the_crash_is_completed() -> None:
    world = JobsWorld()
    done = world.ended()
    path = f"{world.config.data_dir}/backups.json"
    document = json.loads(world.disk.files[path])
    document["jobs"][0].update(status="running", manifest=None, ended_us=0, progress=0.4)
    world.disk.files[path] = bytearray(json.dumps(document).encode())
    world.again(power=False)
    job = world.jobs.job(done.id)
    assert job is not None and job.status == COMPLETED and job.manifest == done.manifest


def test_jobs_and_their_metrics_survive_a_restart() -> None:
    world = JobsWorld()
    assert world.jobs.metrics().last_succeeded is None
    world.ended()
    before = world.jobs.metrics()
    assert before.last_succeeded and before.last_success_us and before.last_size_bytes
    world.again()
    assert world.jobs.metrics() == before and [job.status for job in world.jobs.jobs()] == [COMPLETED]


def test_a_lost_memory_does_not_stop_the_start() -> None:
    world = JobsWorld()
    world.ended()
    for damaged in (b"", b"[]", b'{"version": 1, "jobs": [{}]}', b"\xff"):
        world.disk.files[f"{world.config.data_dir}/backups.json"] = bytearray(damaged)
        assert world.loaded().jobs() == [] and "backup.jobs_forgotten" in world.names()


def test_memory_is_bounded_and_keeps_the_last_success() -> None:
    world = JobsWorld()
    kept = world.ended()
    template = dict(json.loads(world.disk.files[f"{world.config.data_dir}/backups.json"])["jobs"][0])
    jobs = [template] + [
        {**template, "id": f"x{number}", "status": FAILED, "manifest": None, "started_us": kept.started_us + 1 + number}
        for number in range(REMEMBERED + 50)
    ]
    world.disk.files[f"{world.config.data_dir}/backups.json"] = bytearray(json.dumps({"version": 1, "jobs": jobs}).encode())
    world.jobs = world.loaded()
    world.ended("/b/next")
    assert len(world.jobs.jobs()) <= REMEMBERED + 2 and world.jobs.job(kept.id) is not None


def test_closing_stops_what_runs() -> None:
    world = JobsWorld(rows=600)
    backup_id = world.begin(rate_limit=64 << 10)
    world.rest(1)
    world.run(world.jobs.close())
    job = world.jobs.job(backup_id)
    assert job is not None and (job.status, job.error) == (FAILED, SHUT_DOWN) and world.files_of("/b") == []
    with pytest.raises(NodeStopped):
        world.begin("/b/two")


def test_an_incremental_stands_on_the_newest_backup_that_is_still_there() -> None:
    world = JobsWorld()
    full = world.ended("/b/full")
    world.update(world.t, [3, "changed"])
    first = world.ended("/b/inc1", type="incremental")
    assert first.manifest["base"] == full.id
    second = world.ended("/b/inc2", type="incremental")
    assert second.manifest["base"] == first.id
    for path in world.files_of("/b/inc1") + world.files_of("/b/inc2"):
        del world.disk.files[path]
    assert world.ended("/b/inc3", type="incremental").manifest["base"] == full.id
    assert world.verify("/b/inc3").passed
    with pytest.raises(Refused, match="no backup that"):
        world.begin("/elsewhere/inc", type="incremental")
    with pytest.raises(Refused, match="is in /b, not in /elsewhere"):
        world.begin("/elsewhere/inc", type="incremental", base="/b/full")


def test_who_works_with_the_database_goes_first() -> None:
    """While there are commits, the backup rests as long as it works (take.B7)."""

    def duration_ns(busy: bool) -> int:
        world = JobsWorld(rows=4000, suspend=True)
        slow_reads(world)
        backup_id = world.begin()
        began_ns = world.clock.monotonic_ns()
        job = world.jobs.job(backup_id)
        assert job is not None
        while not job.ended:
            world.rest(0.002)
            if busy:
                world.db.manager.commits += 1
        return world.clock.monotonic_ns() - began_ns

    assert duration_ns(busy=True) > 1.15 * duration_ns(busy=False)


def slow_reads(world: JobsWorld) -> None:
    """Reading takes time: a turn of the loop is instantaneous otherwise."""

    async def pause() -> None:
        await world.tasks.sleep(1_000_000)

    world.disk.pause = pause  # type: ignore[method-assign]

"""Backups and death at every I/O boundary, disks and stores that misbehave: what is there is whole, what completed is there.

(Backups under load, over crashes, and restored to random targets are part of the random histories, sim/history/history.py.)
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from sim.clients.engine_session import SimDatabase
from sim.history.history import SETTINGS
from sim.incident.copying import put_file
from sim.world.branch import Branch, deaths, record_branches
from sim.world.disk import DiskFaults
from sim.world.image import DiskImage
from sim.world.world import SimNode, World
from tests.sim.one_table import rows_of
from tests.sim.plain_restore import restored_files
from thunderdb.archive.codec import Codec
from thunderdb.archive.directory import DirectoryStore
from thunderdb.backup.expire import expire
from thunderdb.backup.inventory import REMOVING
from thunderdb.backup.jobs import COMPLETED, FAILED, BackupJobs
from thunderdb.backup.manifest import MANIFEST_NAME
from thunderdb.backup.take import BackupRequest
from thunderdb.backup.verify import verify_backup
from thunderdb.base.config import Config, parse
from thunderdb.base.events import Events
from thunderdb.engine.catalog import Column
from thunderdb.runtime.ports import Ports

PLACE = "/backups/one"
ROWS = [[number, "x" * (50 + number)] for number in range(120)]
CONFIG: Config = replace(
    parse("", flags={**SETTINGS, "data_dir": "/d/data", "wal_dir": "/d/wal"}), checkpoint_interval=86_400_000
)  # fmt: skip


# -- Every boundary


async def make(ports: Ports) -> SimDatabase:
    db = await SimDatabase.open(ports, CONFIG, Events())
    txn = db.begin()
    table = await db.ddl.create_table(txn, "t", [Column("a", "int4"), Column("b", "text")], pk=(0,))
    for row in ROWS:
        await db.insert(txn, table, row)
    await txn.commit()
    return db


def recorded(seed: int, compress: bool) -> list[Branch]:
    """The states of the disk while one backup is taken, from its start to its end."""
    world = World(seed)
    node = world.node("a")
    branches: list[Branch] = []

    async def harness() -> None:
        nonlocal branches
        db = await node.call(make(node.ports))
        jobs = BackupJobs(db, node.ports, CONFIG)
        await node.call(jobs.load())
        branches = record_branches(node)
        job = await node.call(jobs.start(BackupRequest(PLACE, compress=compress)))
        ended = await node.call(jobs.wait(job.id))
        node.set_boundary(None)
        assert ended is not None and ended.status == COMPLETED, ended

    world.run(harness())
    world.close()
    return branches


def settled(image: DiskImage, again: bool) -> tuple[str, bool]:
    """Start on what a death left: the job's status, and whether the backup is there. With `again` it is taken once more."""
    world = World(1)
    node = world.node("a", image)

    async def harness() -> tuple[str, bool]:
        db = await node.call(SimDatabase.open(node.ports, CONFIG, Events()))
        jobs = BackupJobs(db, node.ports, CONFIG)
        await node.call(jobs.load())
        assert not [path for path in (*node.image.names, *node.image.dirs) if ".partial" in path], "something was left over"
        found = jobs.jobs()
        status = found[0].status if found else "never"
        there = PLACE in node.image.dirs
        if again and not there:
            job = await node.call(jobs.start(BackupRequest(PLACE)))
            ended = await node.call(jobs.wait(job.id))
            assert ended is not None and ended.status == COMPLETED, ended
        if there or again:
            await whole(node)
        return status, there

    try:
        return world.run(harness())
    finally:
        world.close()


async def whole(node: SimNode, place: str = PLACE) -> None:
    """The backup verifies, and a start from it has every row."""
    report = await node.call(verify_backup(node.ports, place))
    assert report.passed, report.problems[0]
    files = await node.call(restored_files(node.ports, [place]))
    world = World(2)
    other = world.node("b")
    for name, content in files.items():
        put_file(other.image, f"/d/{name}", content)

    async def harness() -> None:
        db = await other.call(SimDatabase.open(other.ports, CONFIG, Events()))
        assert await other.call(rows_of(db)) == ROWS

    world.run(harness())
    world.close()


@pytest.mark.parametrize("seed", [3, 4])
def test_a_death_at_every_boundary_of_a_backup(seed: int) -> None:
    found: Counter[str] = Counter()
    for branch in recorded(seed, compress=seed % 2 == 0):
        for name, image in deaths(branch, seed):
            try:
                status, there = settled(image, again=branch.index % 5 == 0)
            except AssertionError as error:
                raise AssertionError(f"seed {seed}, boundary {branch.index} ({branch.where}), {name}: {error}") from error
            assert there == (status == COMPLETED) and status in ("never", COMPLETED, FAILED), (branch.where, name, status)
            found[status] += 1
    assert found[COMPLETED] and found[FAILED] and found["never"], found


# -- Damage where the pages are, and where the backup goes


def damaged(seed: int, chances: dict[str, float], path_part: str) -> tuple[str, Counter[str]]:
    """Take a backup while a disk misbehaves: "completed", or the error that the job failed with."""
    world = World(seed)
    node = world.node("a")

    async def harness() -> str:
        db = await node.call(make(node.ports))
        await node.call(db.close())
        node.crash()
        node.restart()
        db = await node.call(SimDatabase.open(node.ports, CONFIG, Events()))
        jobs = BackupJobs(db, node.ports, CONFIG)
        await node.call(jobs.load())
        node.set_faults(DiskFaults(chances, path_part=path_part))
        job = await node.call(jobs.start(BackupRequest(PLACE, compress=seed % 2 == 0)))
        ended = await node.call(jobs.wait(job.id))
        node.set_faults(DiskFaults())
        assert ended is not None and node.alive and db.failure is None
        if ended.status == COMPLETED:
            await whole(node)
            return COMPLETED
        assert ended.error, ended
        again = await node.call(jobs.start(BackupRequest(f"{PLACE}-again")))
        second = await node.call(jobs.wait(again.id))
        assert second is not None
        if not path_part.startswith("/d/"):
            assert second.status == COMPLETED, second.error
            assert await node.call(rows_of(db)) == ROWS
        return ended.error

    try:
        return world.run(harness()), world.fired
    finally:
        world.close()


@pytest.mark.parametrize(
    "chances, path_part",
    [
        ({"read_error": 0.5}, "/d/data/pages"),
        ({"sticky_read_error": 0.3}, "/d/data/pages"),
        ({"write_error": 0.1}, "/backups"),
        ({"disk_full": 0.1}, "/backups"),
        ({"sync_error": 0.2}, "/backups"),
    ],
)
def test_a_disk_that_misbehaves_fails_the_backup_by_name_or_not_at_all(chances: dict[str, float], path_part: str) -> None:
    outcomes: Counter[str] = Counter()
    fired: Counter[str] = Counter()
    for seed in range(12):
        outcome, faults = damaged(seed, chances, path_part)
        outcomes["completed" if outcome == COMPLETED else "failed"] += 1
        fired.update(faults)
        if outcome != COMPLETED:
            assert path_part in outcome or "page" in outcome or "room" in outcome or "space" in outcome, outcome
    assert fired[next(iter(chances))] and outcomes["completed"], (fired, outcomes)


@pytest.mark.parametrize("kind", ["error_before", "error_after", "truncated"])
def test_a_store_that_misbehaves_never_makes_half_a_backup_look_whole(kind: str) -> None:
    """A job ends completed and whole, or failed with nothing there that a later start does not remove."""
    outcomes: Counter[str] = Counter()
    for seed in range(16):
        outcomes[unreliable_store(seed, kind)] += 1
    assert outcomes[COMPLETED] and (outcomes[FAILED] or kind == "truncated"), outcomes


def unreliable_store(seed: int, kind: str) -> str:
    place = "s3://bucket/backups/one"
    world = World(seed)
    node = world.node("a")

    async def harness() -> str:
        db = await node.call(make(node.ports))
        jobs = BackupJobs(db, node.ports, CONFIG)
        await node.call(jobs.load())
        job = await node.call(jobs.start(BackupRequest(place)))
        setattr(world.store.faults, kind, 0.06)
        ended = await node.call(jobs.wait(job.id))
        setattr(world.store.faults, kind, 0.0)
        assert ended is not None and ended.ended and db.failure is None
        if ended.status == COMPLETED:
            await whole(node, place)
        await node.call(db.close())
        node.crash(power=False)
        node.restart()
        db = await node.call(SimDatabase.open(node.ports, CONFIG, Events()))
        jobs = BackupJobs(db, node.ports, CONFIG)
        await node.call(jobs.load())
        left = [stored.key for stored in await node.call(node.ports.stores.open(place).list())]
        assert bool(left) == (ended.status == COMPLETED), (ended.error, left)
        return str(ended.status)

    try:
        return world.run(harness())
    finally:
        world.close()


@pytest.mark.parametrize("seed", range(5))
def test_two_retention_runs_at_once_remove_what_is_to_go_and_end_well(seed: int) -> None:
    """The daemon's own, and one from the command line."""
    world = World(seed)
    node = world.node("a")
    config = replace(CONFIG, destination="/backups", wal_archive_enabled=False)
    place = f"/backups/{REMOVING}one"

    async def course(ports: Ports) -> None:
        for name in ("a", "b", "sub/c", MANIFEST_NAME):
            await DirectoryStore(ports.disk, place).put(name, b"x")
        runs = [ports.tasks.spawn(expire(ports, config, Codec(), Events()), "expire") for _ in range(2)]
        for run in runs:
            await run

    async def harness() -> None:
        await node.call(course(node.ports))

    world.run(harness())
    assert [path for path in (*node.image.names, *node.image.dirs) if path.startswith("/backups/")] == []
    world.close()

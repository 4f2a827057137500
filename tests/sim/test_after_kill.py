"""A killed process's rename is only in the cache: the next process sees it, and a later power cut takes it away again.

Each test kills a process right after the rename (or the removal) of a name, lets the next one do what trusts that name, cuts
the power with nothing landed that was not synced, and looks.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, TypeVar

import pytest

from sim.clients.engine_session import SimDatabase
from sim.history.every_io import ARCHIVE as ARCHIVES
from sim.history.every_io import Stage
from sim.history.history import SETTINGS
from sim.world.fates import NoneLanded
from sim.world.world import NodeDied, SimPorts, World
from tests.sim.one_table import rows_of
from thunderdb.archive.codec import Codec
from thunderdb.archive.directory import DirectoryStore
from thunderdb.archive.identity import IDENTITY_FILE, own_identity
from thunderdb.archive.target import StoreTarget
from thunderdb.backup.expire import _remove_backup, expire
from thunderdb.backup.jobs import COMPLETED, BackupJobs
from thunderdb.backup.take import BackupRequest
from thunderdb.base.config import Config, parse
from thunderdb.base.errors import SyncFailed
from thunderdb.base.events import Events
from thunderdb.engine.catalog import Column
from thunderdb.storage.layout import MARKER_FILE

T = TypeVar("T")
Make = Callable[[SimPorts], Coroutine[Any, Any, T]]
ARCHIVE = "/archive"
SEGMENT = "000000010000000000000003"
DATA = "/d/data"
CONFIG: Config = replace(
    parse("", flags={**SETTINGS, "data_dir": DATA, "wal_dir": "/d/wal"}), checkpoint_interval=86_400_000
)  # fmt: skip


class Machine:
    """A machine whose processes are killed, and whose power goes in the end."""

    def __init__(self) -> None:
        self.world = World(1)
        self.node = self.world.node("a")

    def run(self, make: Make[T]) -> T:
        """A process that does one thing and stays."""
        if not self.node.alive:
            self.node.restart()

        async def harness() -> T:
            return await self.node.call(make(self.node.ports))

        return self.world.run(harness())

    def killed_after(self, action: str, part: str, make: Make[Any]) -> None:
        """A process that is killed right after the first `action` on a path with `part` in it."""
        if not self.node.alive:
            self.node.restart()

        def hook(done: str, path: str, before: bool) -> None:
            if done == action and part in path and not before:
                self.node.set_boundary(None)
                self.node.crash(power=False)

        self.node.set_boundary(hook)
        with pytest.raises(NodeDied):
            self.run(make)

    def kill(self) -> None:
        self.node.crash(power=False)

    def power_cut(self) -> None:
        """Nothing of what was not synced has landed."""
        self.node.crash(power=True, fates=NoneLanded())

    def there(self, path: str) -> bytes | None:
        """A file as it is now; None if it is not there."""
        return self.node.image.contents().get(path)


def store_of(ports: SimPorts) -> DirectoryStore:
    return DirectoryStore(ports.disk, ARCHIVE, ports.tasks)


def target_of(ports: SimPorts) -> StoreTarget:
    return StoreTarget(store_of(ports), Codec(), ports.offload)


def test_an_object_that_was_there_already_is_durable_when_put_new_says_so() -> None:
    machine = Machine()
    machine.killed_after("rename", ".x.tmp", lambda ports: store_of(ports).put_new("x", b"first"))
    assert machine.run(lambda ports: store_of(ports).put_new("x", b"first")) is False
    machine.power_cut()
    assert machine.there(f"{ARCHIVE}/x") == b"first"


def test_a_sync_of_what_was_found_that_fails_is_not_tried_again_but_written_anew() -> None:
    """Somebody copied the file there; after the failed sync the cache has it, marked clean, and the device does not."""
    machine = Machine()

    async def copy(ports: SimPorts) -> None:
        await ports.disk.make_dirs(ARCHIVE)
        file = await ports.disk.open(f"{ARCHIVE}/x", create=True)
        await file.write(0, b"x" * 5000)
        await file.close()

    async def put_new(ports: SimPorts) -> bool:
        store = store_of(ports)
        ports.disk.arm("sync_error", f"{ARCHIVE}/x")
        ports.disk.arm("sync_error", f"{ARCHIVE}/.x.tmp", skip=1)
        with pytest.raises(SyncFailed):
            await store.put_new("x", b"x" * 5000)
        return await store.put_new("x", b"x" * 5000)

    machine.run(copy)
    assert machine.run(put_new) is False
    machine.power_cut()
    assert machine.there(f"{ARCHIVE}/x") == b"x" * 5000


def test_an_archived_segment_is_durable_before_the_local_one_may_go() -> None:
    machine = Machine()
    machine.run(lambda ports: target_of(ports).claim("00000001.history", b""))
    machine.killed_after("rename", f".{SEGMENT}.tmp", lambda ports: target_of(ports).push(SEGMENT, b"log"))
    assert machine.run(lambda ports: target_of(ports).has(SEGMENT, b"log"))
    machine.power_cut()
    assert machine.there(f"{ARCHIVE}/{SEGMENT}") == b"log"


@pytest.mark.parametrize("end", [4, 8], ids=["has all of it", "is extended"])
def test_a_tail_that_was_found_is_durable_before_it_counts(end: int) -> None:
    async def extend(ports: SimPorts, resume: bool, end: int) -> int:
        target = target_of(ports)
        file = await ports.disk.open("/segment", create=True)
        await file.write(0, b"12345678")
        await file.sync()
        await ports.disk.sync_dir("/")
        if resume:
            target.resume_tail(1, 3, 4, f"{SEGMENT}.partial", 4)
        return await target.extend_tail(1, 3, file, end)

    machine = Machine()
    machine.run(lambda ports: target_of(ports).claim("00000001.history", b""))
    machine.killed_after("rename", "partial", lambda ports: extend(ports, False, 4))
    machine.run(lambda ports: extend(ports, True, end))
    machine.power_cut()
    assert machine.there(f"{ARCHIVE}/{SEGMENT}.partial") == b"12345678"[:end]


def test_an_identity_that_was_found_is_durable_before_anything_is_claimed_with_it() -> None:
    machine = Machine()

    async def own(ports: SimPorts) -> str:
        await ports.disk.make_dirs(DATA)
        return (await own_identity(ports.disk, DATA, ports.random)).instance

    machine.killed_after("rename", IDENTITY_FILE, own)
    first = machine.run(own)
    machine.power_cut()
    assert machine.run(own) == first


async def opened(ports: SimPorts) -> SimDatabase:
    return await SimDatabase.open(ports, CONFIG, Events())


async def write(ports: SimPorts) -> SimDatabase:
    db = await opened(ports)
    txn = db.begin()
    table = await db.ddl.create_table(txn, "t", [Column("a", "int4")], pk=(0,))
    await db.insert(txn, table, [1])
    await txn.commit()
    return db


def test_a_database_whose_making_was_killed_at_its_last_step_keeps_what_is_committed_next() -> None:
    """The marker of a database in the making was removed in the cache only: what comes back with it may not cost a commit."""
    machine = Machine()
    machine.killed_after("unlink", MARKER_FILE, opened)
    machine.run(write)
    machine.power_cut()

    async def look(ports: SimPorts) -> list[list[object]]:
        return await rows_of(await opened(ports))

    assert machine.run(look) == [[1]]


def test_a_backup_that_was_published_by_a_killed_process_is_completed_only_when_that_is_durable() -> None:
    machine = Machine()

    async def back_up(ports: SimPorts) -> None:
        jobs = BackupJobs(await write(ports), ports, CONFIG)
        await jobs.load()
        job = await jobs.start(BackupRequest("/backups/one"))
        await jobs.wait(job.id)

    async def look(ports: SimPorts) -> list[str]:
        jobs = BackupJobs(await opened(ports), ports, CONFIG)
        await jobs.load()
        return [job.status for job in jobs.jobs()]

    machine.killed_after("rename", "/backups/one.partial", back_up)
    assert machine.run(look) == [COMPLETED]
    machine.power_cut()
    assert machine.there("/backups/one/backup_manifest.json")


def test_what_a_killed_retention_run_renamed_is_durably_no_backup_before_its_files_go() -> None:
    """A file system may bring back the good name of what is half removed. (The simulated one keeps such changes in order.)"""
    machine = Machine()
    config = replace(CONFIG, destination="/backups", wal_archive_enabled=False)
    done: list[tuple[str, str]] = []

    async def put(ports: SimPorts) -> None:
        await DirectoryStore(ports.disk, "/backups/one").put("data/pages", b"x")

    machine.run(put)
    machine.killed_after("rename", "/backups/one", lambda ports: _remove_backup(ports, "/backups", "/backups/one"))
    machine.node.set_boundary(lambda action, path, before: done.append((action, path)) if not before else None)
    machine.run(lambda ports: expire(ports, config, Codec(), Events()))
    first = min(index for index, (action, _) in enumerate(done) if action in ("unlink", "remove_dir"))
    assert ("sync_dir", "/backups") in done[:first]


def test_a_timeline_that_a_killed_restore_had_claimed_is_claimed_durably_by_the_next() -> None:
    stage = Stage("restore", 3)
    stage.record()
    branch = next(found for found in stage.branches if "after rename" in found.where and ".history.tmp" in found.where)
    claim = f"{ARCHIVES}/00000002.history"
    world = World(1)
    node = world.node("a", branch.image.fork())
    node.crash(power=False)
    assert claim in node.image.names
    node.restart()

    async def again() -> None:
        await node.call(stage.restoring(node.ports))

    world.run(again())
    node.crash(power=True, fates=NoneLanded())
    assert claim in node.image.names

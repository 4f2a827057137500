"""A running restore is seen by retention, and leaves no hold behind."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.backup.restoring import ARCHIVE, RestoreWorld
from thunderdb.archive.directory import DirectoryStore
from thunderdb.archive.holds import read_holds
from thunderdb.archive.retention import Hold
from thunderdb.backup.holding import holding
from thunderdb.base.errors import StorageError
from thunderdb.base.events import Events


def world_and_plan(**more: Any) -> tuple[RestoreWorld, Any]:
    world = RestoreWorld()
    world.backup("/b/full")
    world.commit(3)
    world.ship()
    return world, world.plan("latest", "/b/full", **more)


def holds(world: RestoreWorld) -> list[Hold]:
    return world.run(read_holds(DirectoryStore(world.disk, ARCHIVE)))


def test_what_a_restore_reads_is_held_until_it_has_ended() -> None:
    world, plan = world_and_plan()
    seen: list[Hold] = []

    async def action() -> str:
        seen.extend(await read_holds(DirectoryStore(world.disk, ARCHIVE)))
        return "done"

    assert world.run(holding(world, plan, Events(), action)) == "done"
    assert [(hold.backups, hold.from_segment) for hold in seen] == [((plan.chain[0].manifest.backup_id,), 1)]
    assert seen[0].expires_us > world.clock.wall_ns() // 1000 + 3_000_000_000
    assert holds(world) == []


def test_a_restore_that_fails_lets_go() -> None:
    world, plan = world_and_plan()

    async def action() -> None:
        raise StorageError("no")

    with pytest.raises(StorageError):
        world.run(holding(world, plan, Events(), action))
    assert holds(world) == []


def test_a_drill_writes_no_hold() -> None:
    world, plan = world_and_plan(no_archive=True)

    async def action() -> list[Hold]:
        return await read_holds(DirectoryStore(world.disk, ARCHIVE))

    assert world.run(holding(world, plan, Events(), action)) == []


def test_an_archive_that_cannot_be_written_stops_no_restore() -> None:
    world, plan = world_and_plan()
    events, seen = Events(), []
    events.subscribe(lambda name, fields: seen.append(name))

    async def failing(*_: Any, **__: Any) -> Any:
        raise StorageError("read-only")

    original, world.disk.open = world.disk.open, failing  # type: ignore[method-assign]

    async def action() -> str:
        return "done"

    assert world.run(holding(world, plan, events, action)) == "done" and seen == ["restore.note"]
    world.disk.open = original  # type: ignore[method-assign]

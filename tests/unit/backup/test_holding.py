"""A running restore is seen by retention, and leaves no hold behind."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.backup.restoring import ARCHIVE, RestoreWorld
from tests.unit.backup.test_restore_destination import hand_copy
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


@pytest.mark.parametrize("more", [{"no_archive": True}, {"archive": None}])
def test_without_an_archive_to_write_to_the_hold_is_beside_the_backup(more: dict[str, Any]) -> None:
    """A drill writes nothing into the archive; and where there was none nothing was held: retention removed what was read."""
    world, plan = world_and_plan(**more)

    async def action() -> tuple[list[Hold], list[Hold]]:
        return (
            await read_holds(DirectoryStore(world.disk, ARCHIVE)), await read_holds(DirectoryStore(world.disk, "/b")),
        )  # fmt: skip

    in_archive, beside = world.run(holding(world, plan, Events(), action))
    assert in_archive == [] and [hold.backups for hold in beside] == [(plan.chain[0].manifest.backup_id,)]
    assert not [path for path in world.disk.files if "hold." in path]


def test_a_copy_made_by_hand_needs_no_hold() -> None:
    world = RestoreWorld()
    hand_copy(world, "/b/hand")
    plan = world.plan("latest", "/b/hand", archive=None)

    async def action() -> list[str]:
        return [path for path in world.disk.files if "hold." in path]

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

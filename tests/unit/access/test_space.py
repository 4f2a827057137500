"""Allocation: what is chosen, what is not, and the boundary between two space map groups."""

from __future__ import annotations

import pytest

from tests.unit.engine.world import EngineWorld
from thunderdb.access import space
from thunderdb.access.space import GrowMiss, allocate, next_map_exists, release
from thunderdb.base.errors import InvariantViolated
from thunderdb.runtime.inline import MemoryDisk
from thunderdb.storage.page import PageKind
from thunderdb.storage.pool import RoomMiss
from thunderdb.storage.spacemap import find_free, pages_per_map, set_allocated
from thunderdb.wal.record import RecordKind


def opened(**settings: int) -> EngineWorld:
    """A new database with the first map in memory."""
    world = EngineWorld(**settings)
    world.run(world.start().pool.load(0, pin=True))
    return world


def take(world: EngineWorld, count: int) -> list[int]:
    """Allocate pages for good, growing the files as need be."""

    def work() -> list[int]:
        chosen, changes = allocate(world.db.access, count)
        world.db.access.change(RecordKind.STRUCT, changes)
        return chosen

    return world.run(world.db.run(work))


def free(world: EngineWorld, pages: list[int]) -> None:
    world.run(world.db.run(lambda: world.db.access.change(RecordKind.STRUCT, release(world.db.access, pages))))


def test_choosing_changes_nothing_and_what_is_freed_is_taken_again() -> None:
    world = opened()
    db = world.db
    first, _changes = allocate(db.access, 3)
    assert allocate(db.access, 3)[0] == first == [3, 4, 5]
    assert take(world, 3) == [3, 4, 5]
    assert take(world, 1) == [6]
    free(world, [4])
    assert take(world, 2) == [4, 7]


def test_freeing_what_is_free_is_a_bug_that_stops_the_node() -> None:
    world = opened()
    with pytest.raises(InvariantViolated, match="is freed, but is not allocated"):
        free(world, [40])


def test_files_grow_before_an_allocation_is_logged() -> None:
    world = opened()
    db = world.db
    have = db.files.page_count
    with pytest.raises(GrowMiss) as caught:
        while True:
            chosen, changes = allocate(db.access, 8)
            db.access.change(RecordKind.STRUCT, changes)
    assert caught.value.page_count > have
    assert max(chosen) < have == db.files.page_count
    world.run(caught.value.resolve(db.pool))
    assert db.files.page_count == caught.value.page_count
    take(world, 8)


def test_more_pages_than_the_pool_has_room_for_wait_for_room() -> None:
    world = opened(buffer_pool_size=1 << 20)
    db = world.db
    with pytest.raises(RoomMiss):
        allocate(db.access, 1000)


def test_a_freed_page_that_a_waiting_operation_has_pinned_is_not_handed_out() -> None:
    world = opened()
    db = world.db
    pages = take(world, 4)
    pinned = db.pool.create(pages[1], PageKind.LEAF)
    db.pool.pin(pinned)
    free(world, pages)
    chosen, _changes = allocate(db.access, 4)
    assert chosen == [pages[0], pages[2], pages[3], pages[3] + 1]
    db.pool.unpin(pinned)
    assert allocate(db.access, 4)[0] == pages


def test_a_full_group_makes_the_next_group_s_map(monkeypatch: pytest.MonkeyPatch) -> None:
    world = opened(buffer_pool_size=64 << 20)
    db = world.db
    monkeypatch.setattr(space, "GROW_BYTES", 16 * 4096)
    group = pages_per_map(4096)
    assert group == 32_256
    world.run(db.files.grow(group - 1))
    map_page = db.pool.get(0)
    taken = find_free(map_page, group, 0, group - 3)  # all but the last two pages of the group
    for page_no in taken:
        set_allocated(map_page, page_no)
    assert not next_map_exists(map_page, 4096)
    chosen = sorted(take(world, 5))
    # The last bit of the group is its successor's flag, and the successor's first page is its map.
    assert chosen == [group - 3, group - 2, group + 1, group + 2, group + 3]
    assert next_map_exists(map_page, 4096)
    second = db.pool.get(group)
    assert second.kind == PageKind.MAP and not next_map_exists(second, 4096)
    assert take(world, 1) == [group + 4]
    free(world, [group - 3, group + 2])
    assert sorted(take(world, 2)) == [group - 3, group + 2]


def test_a_second_group_survives_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    world = opened(buffer_pool_size=64 << 20)
    db = world.db
    monkeypatch.setattr(space, "GROW_BYTES", 16 * 4096)
    group = pages_per_map(4096)
    world.run(db.files.grow(group - 1))
    # Leave only a few pages of the first group, as a logged change, so that restart sees the same map.
    filler = find_free(db.pool.get(0), group, 0, group - 5)

    def fill() -> None:
        changes = [(db.pool.get(0), space.PageOp.MAP_SET, space.pages_payload(filler))]
        db.access.change(RecordKind.STRUCT, changes)

    world.run(db.run(fill))
    table = world.table()
    world.insert(table, *([number, "x" * 400] for number in range(100)))
    assert db.pool.get(group).kind == PageKind.MAP
    db = world.restart()
    assert len(world.rows(db.catalog.table("t"))) == 100
    assert isinstance(world.disk, MemoryDisk)
    # Everything from the filler on is owned by nobody; the second group must be accounted for exactly.
    problems = _ownership_problems(world, group)
    assert problems == []


def _ownership_problems(world: EngineWorld, group: int) -> list[str]:
    from thunderdb.engine import check

    checker = check._Check(world.db)
    world.run(checker.run())
    assert checker.problems  # the filler shows that the check sees unowned pages
    return [text for text in checker.problems if int(text.split()[1]) >= group]

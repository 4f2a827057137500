"""The garbage tree: deep trees freed a few pages a record, many entries, and a crash in between."""

from __future__ import annotations

import pytest

from tests.unit.access.treeworld import Owner, TreeWorld
from tests.unit.engine.world import EngineWorld, in_txn
from thunderdb.access.bulk import LeafBuilder, append_all
from thunderdb.access.garbage import GARBAGE_ROOT, adopt_tree, create_tree, drop_tree, free_step
from thunderdb.base.errors import LimitExceeded
from thunderdb.storage.page import VALUE_HEADER
from thunderdb.storage.spacemap import count_allocated


def deep() -> TreeWorld:
    """A tree of three levels: few long keys fit into a page."""
    world = TreeWorld()
    builder = LeafBuilder(4096, 10)
    for number in range(600):
        builder.add(b"%06d" % number + b"k" * 450, VALUE_HEADER.pack(10, 0, 0) + b"v" * 400)
    builder.cut()
    world.run(append_all(world.access, world.root, builder.take()))
    assert world.walk()[2] >= 3
    return world


def test_a_deep_tree_is_freed_in_steps_each_of_which_leaves_a_valid_tree() -> None:
    world = deep()
    world.run(world.access.run(drop_tree, world.access, world.owner, world.root))
    steps = 0
    while not world.run(world.access.run(free_step, world.access, world.root)):
        steps += 1
        if world.page(world.root).children:
            world.walk()
    assert steps > 10
    assert world.allocated() == 3  # the space map, the catalog and the garbage tree
    assert world.walk(GARBAGE_ROOT)[0] == []
    world.check_redo()


def test_so_many_new_trees_that_the_garbage_tree_grows() -> None:
    world = TreeWorld()
    owner = Owner(11)
    before = world.allocated()
    roots = []
    for _ in range(300):
        root = world.run(world.access.run(create_tree, world.access, owner))
        world.run(world.access.run(adopt_tree, world.access, owner, root))
        roots.append(root)
    entries, pages, height = world.walk(GARBAGE_ROOT)
    assert height == 1 and len(entries) == 301
    assert world.allocated() == before + 300 + len(pages) - 1
    world.check_redo()


def test_a_crash_while_a_large_table_is_freed_frees_the_rest() -> None:
    for seconds in (0.0, 0.5, 1.0, 2.0):
        world = EngineWorld(suspend=True)
        db = world.start()
        empty = count_allocated(world.run(db.pool.load(0)))
        table = world.table(types=("text", "text"))
        world.insert(table, *([f"{number:05}" + "k" * 400, "x" * 300] for number in range(600)))
        world.run(in_txn(db, lambda txn: db.ddl.drop_table(txn, table)))  # noqa: B023
        world.rest(seconds)
        for _ in range(37):
            world.scheduler.turn()
        world.run(db.log.flush_all())
        db = world.restart()
        world.check()
        world.rest(30)
        assert count_allocated(world.run(db.pool.load(0))) == empty
        world.check()


def test_limits_of_keys_and_inline_values_are_named() -> None:
    world = TreeWorld()
    for size in (1000, 3000):  # there would be room for it in the leaf, but one day not in an inner page
        with pytest.raises(LimitExceeded, match=f"index row size {size} exceeds maximum"):
            world.put(b"k" * size, b"x")
    for number in range(4):
        world.put(b"%d" % number, b"x" * 900)
    with pytest.raises(LimitExceeded, match="index row size"):
        world.put(b"4" * 600, b"x" * 400)
    with pytest.raises(LimitExceeded, match="exceeds maximum .* of an inline row"):
        world.put(b"4", b"x" * 3000)
    with pytest.raises(KeyError):
        world.delete(b"nothing")
    assert len(world.live()) == 4

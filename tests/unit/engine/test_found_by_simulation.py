"""Bugs that power_cut found first, each made small."""

from __future__ import annotations

import pytest

from tests.unit.engine.world import DATA, EngineWorld, in_txn
from thunderdb.access.apply import LARGE
from thunderdb.access.garbage import GARBAGE_ROOT
from thunderdb.base.errors import NodeStopped, Refused, SyncFailed
from thunderdb.engine.catalog import CATALOG_ROOT, Column
from thunderdb.storage.spacemap import count_allocated


def test_a_definition_too_long_for_a_leaf_leaks_nothing_when_it_is_replaced_or_dropped() -> None:
    """Seed 3: each replaced definition left its chunk pages behind, and the check did not follow definitions at all."""
    world = EngineWorld()
    db = world.start()
    world.table("t")
    for number in range(60):
        table = db.catalog.table("t")
        assert table is not None
        column = Column(f"a_rather_long_name_for_a_column_{number}", "int4")
        world.run(in_txn(db, lambda txn, table=table, column=column: db.ddl.add_column(txn, table, column)))
    leaf = world.run(db.pool.load(CATALOG_ROOT))
    assert any(value[16] & LARGE for value in leaf.vals), "the definition is not large: the test shows nothing"
    world.check()
    before = count_allocated(world.run(db.pool.load(0)))
    for _ in range(3):
        table = db.catalog.table("t")
        assert table is not None
        world.run(in_txn(db, lambda txn, table=table: db.ddl.alter_table(txn, table, table)))
    world.check()
    assert count_allocated(world.run(db.pool.load(0))) == before
    assert world.run(db.pool.load(GARBAGE_ROOT)).kind


@pytest.mark.parametrize("part", ["pages.", "control"])
def test_a_failed_sync_in_a_checkpoint_that_was_asked_for_stops_the_node(part: str) -> None:
    """Seeds 183 and 193: it was the asker's error only, and the node went on."""
    world = EngineWorld()
    db = world.start()
    table = world.table()
    world.insert(table, *([number, "x"] for number in range(50)))
    stopped: list[BaseException] = []
    db.on_fatal = stopped.append
    world.disk.fail_sync = lambda path: part in path
    with pytest.raises(SyncFailed):
        world.run(db.checkpoint())
        world.run(db.checkpoint())  # the second one has pages that were dirty at the first
    assert len(stopped) == 1 and isinstance(db.failure, SyncFailed)
    with pytest.raises(NodeStopped):
        db.begin()


def test_a_failed_sync_while_the_files_grow_stops_the_node() -> None:
    world = EngineWorld()
    db = world.start()
    table = world.table()
    stopped: list[BaseException] = []
    db.on_fatal = stopped.append
    world.disk.fail_sync = lambda path: "pages." in path
    with pytest.raises(SyncFailed):
        world.insert(table, [1, "x" * 3_000_000])
    assert [type(error) for error in stopped] == [SyncFailed]


def test_a_database_whose_page_file_is_gone_does_not_open() -> None:
    """scenarios/corruption/page_file_deleted: it opened, made an empty file, and every query failed one by one."""
    world = EngineWorld()
    world.start()
    world.insert(world.table(), [1, "x"])
    world.crash()
    del world.disk.files[f"{DATA}/pages.000000"]
    with pytest.raises(Refused, match="pages.000000 is missing"):
        world.start()

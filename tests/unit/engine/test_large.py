"""Large values: chunks in a tree of their own, found again, given back."""

from __future__ import annotations

import pytest

from tests.unit.engine.world import EngineWorld, in_txn, key_of, read, update
from thunderdb.access import large
from thunderdb.access.garbage import GARBAGE_ROOT
from thunderdb.base.errors import Corruption, LimitExceeded
from thunderdb.engine.catalog import TableDef
from thunderdb.storage.page import PAGE_HEADER_SIZE, PageKind
from thunderdb.storage.spacemap import count_allocated
from thunderdb.txn.manager import REPEATABLE_READ

MB = 1 << 20
STEP = 4096 - PAGE_HEADER_SIZE


def text(size: int, seed: int = 7) -> str:
    """Text that does not compress to nothing."""
    word = "".join(chr(33 + (seed * number * number + number) % 90) for number in range(997))
    return (word * (size // 997 + 1))[:size]


def allocated(world: EngineWorld) -> int:
    world.rest()
    return count_allocated(world.db.pool.get(0))


@pytest.mark.parametrize("suspend", [False, True])
@pytest.mark.parametrize("size", [900, 1500, STEP, STEP + 1, 8 * STEP, 8 * STEP + 1, 300_000])
def test_any_size_comes_back_also_after_a_power_cut(size: int, suspend: bool) -> None:
    world = EngineWorld(suspend=suspend)
    world.start()
    table = world.table()
    value = text(size)
    world.insert(table, [1, value], [2, "small"])
    assert world.rows(table) == [[1, value], [2, "small"]]
    world.check()
    db = world.restart()
    assert world.rows(db.catalog.table("t")) == [[1, value], [2, "small"]]
    world.check()


def test_several_megabytes_in_a_pool_smaller_than_the_value() -> None:
    world = EngineWorld(buffer_pool_size=MB, suspend=True)
    world.start()
    table = world.table()
    value = text(5 * MB)
    world.insert(table, [1, value])
    world.db.rows._large.clear()
    assert world.rows(table) == [[1, value]]
    assert world.db.pool.used_bytes <= MB + world.db.pool.reserve_bytes
    world.check()


def test_many_readers_of_large_values_do_not_starve_each_other() -> None:
    """The load of a large value runs operations of its own while its reader waits: they need admission too."""
    world = EngineWorld(buffer_pool_size=MB, suspend=True)
    db = world.start()
    table = world.table()
    world.insert(table, *([number, text(200_000, number)] for number in range(1, 6)))
    world.insert(table, *([number, "x" * 900] for number in range(10, 1500)))  # pushes the chunks out of the pool
    db.rows._large.clear()

    async def get(number: int) -> str:
        txn = db.begin()
        value: str = await read(db, txn, table, number)
        await txn.commit()
        return value

    tasks = [world.spawn(get(number)) for number in range(1, 6)]
    world.rest(60)
    assert [task.done() and task.result() == text(200_000, number) for number, task in enumerate(tasks, 1)] == [True] * 5
    assert db.access._admission._free == db.access._admission.capacity


def test_update_and_delete_give_the_old_value_back() -> None:
    world = EngineWorld()
    world.start()
    table = world.table()
    world.insert(table, [1, "small"])
    base = allocated(world)
    world.update(table, [1, text(200_000)])
    held = allocated(world)
    assert held > base + 45
    world.update(table, [1, text(200_000, 11)])
    assert allocated(world) == held
    world.update(table, [1, "small again"])
    assert allocated(world) == base
    world.update(table, [1, text(50_000)])
    world.delete(table, 1)
    assert allocated(world) == base
    world.check()


@pytest.mark.parametrize("end", ["rollback", "savepoint", "power", "kill"])
def test_a_value_that_was_never_committed_leaks_nothing(end: str) -> None:
    world = EngineWorld()
    db = world.start()
    table = world.table()
    world.insert(table, [1, text(30_000)])
    base = allocated(world)
    txn = db.begin()
    mark = txn.savepoint()
    world.run(update(db, txn, table, [1, text(400_000)]))
    world.run(db.insert(txn, table, [2, text(100_000)]))
    if end == "rollback":
        world.run(txn.rollback())
    elif end == "savepoint":
        world.run(txn.rollback_to(mark))
        world.run(txn.commit())
    else:
        world.run(db.log.flush_all())
        db = world.restart(power=end == "power")
        table = db.catalog.table("t")  # type: ignore[assignment]
    assert allocated(world) == base
    assert world.rows(table) == [[1, text(30_000)]]
    world.check()


def test_a_crash_in_the_middle_of_storing_leaks_nothing() -> None:
    for turns in range(3, 400, 23):
        world = EngineWorld(suspend=True)
        db = world.start()
        table = world.table()
        base = allocated(world)
        txn = db.begin()
        task = world.tasks.spawn(db.insert(txn, table, [1, text(150_000)]))
        for _ in range(turns):
            world.scheduler.turn()
            if task.done():
                break
        world.run(db.log.flush_all())
        db = world.restart()
        assert allocated(world) == base
        assert world.rows(db.catalog.table("t")) == []  # type: ignore[arg-type]


def test_an_old_snapshot_still_reads_a_value_that_was_dropped() -> None:
    world = EngineWorld(buffer_pool_size=2 * MB)
    db = world.start()
    table = world.table()
    world.insert(table, [1, text(300_000)])
    reader = db.begin(REPEATABLE_READ)
    reader.new_snapshot()
    base = allocated(world)
    world.update(table, [1, text(300_000, 3)])
    world.delete(table, 1)
    db.rows._large.clear()
    assert allocated(world) > base
    assert world.run(read(db, reader, table, 1)) == text(300_000)
    world.run(reader.commit())
    assert allocated(world) < base
    world.check()


def test_a_value_over_the_limit_is_an_error_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    world = EngineWorld()
    db = world.start()
    table = world.table()
    base = allocated(world)
    monkeypatch.setattr(large, "MAX_VALUE_BYTES", 100_000)
    txn = db.begin()
    with pytest.raises(LimitExceeded, match="exceeds the limit of 100000 bytes"):
        world.run(db.insert(txn, table, [1, text(200_000)]))
    world.run(txn.rollback())
    assert allocated(world) == base
    assert world.rows(table) == []


def reference(world: EngineWorld, table: TableDef) -> bytes:
    from thunderdb.access import btree

    value = btree.get(world.db.access, table.root, key_of(world.db, table, 1))
    assert value is not None and value[16] & large_flag()
    return value[17:]


def large_flag() -> int:
    from thunderdb.access.apply import LARGE

    return LARGE


def test_damaged_chunks_are_named_and_never_returned() -> None:
    world = EngineWorld()
    db = world.start()
    table = world.table()
    world.insert(table, [1, text(100_000)])
    root, size, checksum = large.LARGE_REF.unpack(reference(world, table))
    wrong = large.LARGE_REF.pack(root, size, checksum ^ 1)
    with pytest.raises(Corruption, match="do not add up"):
        world.run(large.load(db.access, wrong))
    with pytest.raises(Corruption, match="not a tree of chunks"):
        world.run(large.load(db.access, large.LARGE_REF.pack(GARBAGE_ROOT, size, checksum)))
    inner = db.pool.get(root)
    assert inner.kind == PageKind.INNER
    with pytest.raises(Corruption, match="expected a chunk"):
        large._chunk_data(db.access, root)


def test_a_large_row_s_key_and_index_follow_it() -> None:
    world = EngineWorld()
    db = world.start()
    table = world.table(types=("int4", "int4", "text"), uniques=[("u", (1,))])
    world.insert(table, [1, 10, text(50_000)])
    world.run(in_txn(db, lambda txn: update(db, txn, table, [1, 20, text(50_000)])))
    world.check()
    db = world.restart()
    assert world.rows(db.catalog.table("t")) == [[1, 20, text(50_000)]]  # type: ignore[arg-type]
    world.check()


@pytest.mark.long
def test_sixty_four_megabytes() -> None:
    world = EngineWorld(buffer_pool_size=8 * MB, wal_segment_size=16 * MB)
    db = world.start()
    table = world.table()
    value = text(64 * MB)
    world.insert(table, [1, value])
    assert world.rows(table)[0][1] == value
    db = world.restart()
    assert world.rows(db.catalog.table("t"))[0][1] == value  # type: ignore[arg-type]
    world.check()

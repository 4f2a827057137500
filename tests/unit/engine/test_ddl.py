"""DDL is transactional: what a rollback, a savepoint or a crash takes back, what others see and when."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.unit.engine.world import EngineWorld, delete, in_txn, rows, update
from thunderdb.base.errors import LimitExceeded, SqlError, UniqueViolation
from thunderdb.engine.catalog import Column, TableDef
from thunderdb.engine.rows import StalePlan
from thunderdb.storage.spacemap import count_allocated
from thunderdb.txn.manager import REPEATABLE_READ, Txn

Change = Callable[["Bench", Txn], Awaitable[Any]]


class Bench:
    """A table with an index, a sequence and 300 rows."""

    def __init__(self, pk: tuple[int, ...] = ()) -> None:
        self.world = EngineWorld()
        self.db = self.world.start()
        self.world.table("t", pk=pk, types=("int4", "text", "int4"), uniques=[("u", (2,))])
        self.world.insert(self.table, *([number, f"row {number}", number + 1000] for number in range(300)))
        self.world.run(in_txn(self.db, lambda txn: self.db.ddl.create_sequence(txn, "s", owned_by=(self.table.id, 0))))
        self.world.check()

    @property
    def table(self) -> TableDef:
        table = self.db.catalog.table("t")
        assert table is not None
        return table

    def allocated(self) -> int:
        self.world.rest()
        return count_allocated(self.world.run(self.db.pool.load(0)))

    def do(self, change: Change) -> Any:
        return self.world.run(in_txn(self.db, lambda txn: change(self, txn)))


async def create(b: Bench, txn: Txn) -> None:
    columns = [Column("a", "int4"), Column("b", "text")]
    table = await b.db.ddl.create_table(txn, "fresh", columns, pk=(0,), uniques=[("fu", (1,))])
    for number in range(50):
        await b.db.insert(txn, table, [number, f"text {number}"])


async def drop(b: Bench, txn: Txn) -> None:
    await b.db.ddl.drop_table(txn, b.table)


async def truncate(b: Bench, txn: Txn) -> None:
    await b.db.ddl.truncate(txn, [b.table])
    table = b.db.catalog_for(txn).table("t")
    assert table is not None and await rows(b.db, table, txn) == []
    await b.db.insert(txn, table, [1, "after", 1])


async def add_key(b: Bench, txn: Txn) -> None:
    await b.db.ddl.add_primary_key(txn, b.table, (0,))


async def add_index(b: Bench, txn: Txn) -> None:
    await b.db.ddl.create_index(txn, b.table, "i", (1,))


async def drop_index(b: Bench, txn: Txn) -> None:
    await b.db.ddl.drop_index(txn, b.table, b.table.indexes[0])


async def add_column(b: Bench, txn: Txn) -> None:
    await b.db.ddl.add_column(txn, b.table, Column("extra", "int4"), 7)


CHANGES = pytest.mark.parametrize("change", [create, drop, truncate, add_key, add_index, drop_index, add_column])


@CHANGES
@pytest.mark.parametrize("end", ["rollback", "savepoint", "power cut"])
def test_what_was_not_committed_never_was(change: Change, end: str) -> None:
    b = Bench()
    before, pages = b.world.rows(b.table), b.allocated()
    version, entries = b.db.catalog.version, dict(b.db.catalog.entries)
    txn = b.db.begin()
    mark = txn.savepoint()
    b.world.run(change(b, txn))
    assert b.db.catalog.version == version and b.db.catalog_for(txn).version != version
    assert b.db.catalog_for(None).entries == entries
    if end == "rollback":
        b.world.run(txn.rollback())
    elif end == "savepoint":
        b.world.run(txn.rollback_to(mark))
        assert b.db.catalog_for(txn).entries == entries
        b.world.run(txn.commit())
    else:
        b.world.run(b.db.log.flush_all())
        b.db = b.world.restart()
    assert b.db.catalog.entries == entries
    assert b.world.rows(b.table) == before
    assert b.allocated() == pages
    b.world.check()


@CHANGES
def test_what_was_committed_is_there_after_a_power_cut_and_leaks_nothing(change: Change) -> None:
    b = Bench()
    version = b.db.catalog.version
    b.do(change)
    assert b.db.catalog.version > version
    entries = dict(b.db.catalog.entries)
    found = {table.name: sorted(b.world.rows(table)) for table in b.db.catalog.tables()}
    b.world.check()
    b.db = b.world.restart()
    assert b.db.catalog.entries == entries
    assert {table.name: sorted(b.world.rows(table)) for table in b.db.catalog.tables()} == found
    b.world.check()


def test_dropping_everything_gives_every_page_back() -> None:
    world = EngineWorld()
    db = world.start()
    empty = count_allocated(world.run(db.pool.load(0)))
    table = world.table(types=("int4", "text"), uniques=[("u", (1,))])
    world.insert(table, *([number, "x" * (20 + number)] for number in range(300)), [1000, "y" * 400])
    world.insert(table, [2000, "z" * 90_000][:1] + ["k" * 300])
    world.run(in_txn(db, lambda txn: db.ddl.drop_table(txn, table)))
    world.rest(30)
    assert count_allocated(db.pool.get(0)) == empty
    world.check()


def test_a_dropped_table_s_large_values_go_with_it() -> None:
    world = EngineWorld()
    db = world.start()
    empty = count_allocated(world.run(db.pool.load(0)))
    for end in ("drop", "truncate"):
        table = world.table(end)
        world.insert(table, [1, "z" * 90_000], [2, "small"], [3, "y" * 50_000])
        world.delete(table, 3)
        if end == "truncate":
            world.run(in_txn(db, lambda txn: db.ddl.truncate(txn, [table])))  # noqa: B023
            table = db.catalog.table(end)  # type: ignore[assignment]
        world.run(in_txn(db, lambda txn: db.ddl.drop_table(txn, table)))  # noqa: B023
    world.rest(30)
    assert count_allocated(db.pool.get(0)) == empty
    world.check()


@pytest.mark.parametrize("level", ["read committed", REPEATABLE_READ])
@pytest.mark.parametrize("change", [add_index, add_key, drop_index, truncate])
def test_ddl_that_waited_for_a_writer_works_on_what_the_writer_left(level: str, change: Change) -> None:
    b = Bench()
    writer, ddl = b.db.begin(), b.db.begin(level)
    b.world.run(b.db.insert(writer, b.table, [5000, "late", 9000]))

    async def work() -> None:
        ddl.new_snapshot()
        await change(b, ddl)
        ddl.end_statement()
        await ddl.commit()

    task = b.world.spawn(work())
    assert not task.done()
    b.world.run(writer.commit())
    b.world.rest(1)
    task.result()
    b.world.check()
    found = sorted(row[0] for row in b.world.rows(b.table))
    assert found == ([1] if change is truncate else [*range(300), 5000])


def test_a_plan_that_is_older_than_the_table_is_made_again() -> None:
    b = Bench()
    stale = b.table
    b.do(truncate)
    txn = b.db.begin()
    with pytest.raises(StalePlan):
        b.world.run(b.db.insert(txn, stale, [1, "x", 1]))
    b.world.run(b.db.insert(txn, b.table, [2, "x", 2]))
    b.world.run(txn.commit())
    writer, ddl = b.db.begin(), b.db.begin()
    stale = b.table
    b.world.run(b.db.ddl.add_column(ddl, stale, Column("more", "int4")))
    task = b.world.spawn(b.db.insert(writer, stale, [3, "x", 3]))
    assert not task.done()
    b.world.run(ddl.commit())
    b.world.settle()
    assert isinstance(task.error(), StalePlan)
    b.world.run(writer.rollback())
    b.world.check()


def test_a_reader_with_an_old_snapshot_still_finds_the_dropped_table() -> None:
    b = Bench(pk=(0,))
    reader = b.db.begin(REPEATABLE_READ)
    reader.new_snapshot()
    table = b.table
    b.do(drop)
    b.world.rest(10)
    assert len(b.world.run(rows(b.db, table, reader))) == 300
    b.world.run(reader.commit())
    b.world.rest(10)
    b.world.check()


def test_names_are_taken_by_tables_indexes_and_sequences_alike_and_freed_by_a_rollback() -> None:
    b = Bench()
    for name in ("t", "u", "s"):
        with pytest.raises(SqlError) as caught:
            b.world.table(name)
        assert caught.value.sqlstate == "42P07"
    txn = b.db.begin()
    b.world.run(create(b, txn))
    other = b.db.begin()
    waiting = b.world.spawn(b.db.ddl.create_sequence(other, "fresh"))
    assert not waiting.done()
    b.world.run(txn.rollback())
    b.world.settle()
    assert waiting.done() and waiting.error() is None
    b.world.run(other.commit())
    assert b.db.catalog.sequence("fresh") is not None


def test_a_second_primary_key_a_null_in_it_and_duplicates_are_refused() -> None:
    b = Bench()
    cases: list[tuple[Change, str]] = []

    async def duplicate(bench: Bench, txn: Txn) -> None:
        await bench.db.insert(txn, bench.table, [7, "again", 7000])
        await add_key(bench, txn)

    async def null(bench: Bench, txn: Txn) -> None:
        await bench.db.insert(txn, bench.table, [None, "null", 7000])
        await add_key(bench, txn)

    async def unique_index(bench: Bench, txn: Txn) -> None:
        await bench.db.insert(txn, bench.table, [8000, "row 5", 7000])
        await bench.db.ddl.create_index(txn, bench.table, "v", (1,), unique=True)

    async def twice(bench: Bench, txn: Txn) -> None:
        await add_key(bench, txn)
        table = bench.db.catalog_for(txn).table("t")
        assert table is not None
        await bench.db.ddl.add_primary_key(txn, table, (1,), "again")

    async def same_column(bench: Bench, txn: Txn) -> None:
        await bench.db.ddl.add_column(txn, bench.table, Column("a", "int4"))

    async def columns(bench: Bench, txn: Txn) -> None:
        await bench.db.ddl.create_table(txn, "x", [Column("a", "int4"), Column("a", "int4")])

    cases = [
        (duplicate, "23505"), (null, "23502"), (unique_index, "23505"),
        (twice, "42P16"), (same_column, "42701"), (columns, "42701"),
    ]  # fmt: skip
    for case, sqlstate in cases:
        txn = b.db.begin()
        with pytest.raises(SqlError) as caught:
            b.world.run(case(b, txn))
        assert caught.value.sqlstate == sqlstate
        if isinstance(caught.value, UniqueViolation):
            assert "is duplicated" in caught.value.detail or "already exists" in caught.value.detail
        b.world.run(txn.rollback())
    b.world.check()


@pytest.mark.parametrize("order", ["ascending", "descending", "mixed"])
def test_a_primary_key_over_rows_in_any_order(order: str) -> None:
    world = EngineWorld()
    db = world.start()
    table = world.table(pk=(), types=("int4", "text"))
    mixed = [(n * 7919) % 500 for n in range(500)]
    numbers = {"ascending": range(500), "descending": range(499, -1, -1), "mixed": mixed}[order]
    world.insert(table, *([number, "x" * (number % 50) if number % 100 else "L" * 5000] for number in numbers))
    world.run(in_txn(db, lambda txn: db.ddl.add_primary_key(txn, table, (0,))))
    keyed = db.catalog.table("t")
    assert keyed is not None and keyed.pk == (0,) and keyed.columns[0].not_null
    assert [row[0] for row in world.rows(keyed)] == list(range(500))
    world.check()
    world.run(in_txn(db, lambda txn: update(db, txn, keyed, [100, "small now"])))
    world.run(in_txn(db, lambda txn: delete(db, txn, keyed, 200)))
    world.check()


def test_old_rows_read_with_the_added_column_s_value() -> None:
    b = Bench()
    b.do(add_column)
    b.world.insert(b.table, [999, "new", 5000, None])
    found = {row[0]: row[3] for row in b.world.rows(b.table)}
    assert found[5] == 7 and found[999] is None


def test_bulk_load_replaces_the_empty_tree_and_goes_with_a_savepoint() -> None:
    world = EngineWorld()
    db = world.start()
    empty = count_allocated(world.run(db.pool.load(0)))

    async def batches(table: TableDef, count: int) -> Any:
        encode = db.rows.table(table).row.encode
        for start in range(0, count, 100):
            numbers = range(start, min(start + 100, count))
            yield [encode([number, "x" * 30 if number % 77 else "L" * 3000]) for number in numbers]

    txn = db.begin()
    table = world.run(db.ddl.create_table(txn, "t", [Column("a", "int4"), Column("b", "text")]))
    assert world.run(db.ddl.can_bulk_load(txn, table))
    mark = txn.savepoint()
    assert world.run(db.ddl.bulk_load(txn, table, batches(table, 700))) == 700
    world.run(txn.rollback_to(mark))
    table = db.catalog_for(txn).table("t")  # type: ignore[assignment]
    assert world.run(rows(db, table, txn)) == []
    assert world.run(db.ddl.bulk_load(txn, table, batches(table, 5000))) == 5000
    loaded = db.catalog_for(txn).table("t")
    assert loaded is not None and not world.run(db.ddl.can_bulk_load(txn, loaded))
    world.run(db.insert(txn, loaded, [5000, "one more"]))
    world.run(txn.commit())
    world.check()
    db = world.restart()
    assert len(world.rows(db.catalog.table("t"))) == 5001  # type: ignore[arg-type]
    world.check()
    world.run(in_txn(db, lambda last: db.ddl.drop_table(last, db.catalog.table("t"))))  # type: ignore[arg-type]
    world.rest(30)
    assert count_allocated(world.run(db.pool.load(0))) == empty


def test_a_key_too_long_for_an_index_is_a_named_limit() -> None:
    b = Bench()
    b.world.insert(b.table, [400, "k" * 600, 1])
    txn = b.db.begin()
    with pytest.raises(LimitExceeded, match="index row size"):
        b.world.run(add_index(b, txn))
    b.world.run(txn.rollback())
    b.world.check()

"""Sequences: no value twice, whatever happens to transactions or to the power."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.engine.world import EngineWorld, in_txn
from thunderdb.access import btree
from thunderdb.base.errors import SqlError
from thunderdb.engine.catalog import CATALOG_ROOT, VALUE, SequenceDef, entry_key


def with_sequence(**options: Any) -> tuple[EngineWorld, SequenceDef]:
    world = EngineWorld()
    db = world.start()
    return world, world.run(in_txn(db, lambda txn: db.ddl.create_sequence(txn, "s", **options)))


def draw(world: EngineWorld, count: int = 1, commit: bool = True) -> list[int]:
    async def work() -> list[int]:
        sequence = world.db.catalog.sequence("s")
        assert sequence is not None
        txn = world.db.begin()
        values = [await world.db.ddl.nextval(sequence, txn) for _ in range(count)]
        await (txn.commit() if commit else txn.rollback())
        return values

    return world.run(work())


def test_values_ascend_and_a_rollback_gives_none_back() -> None:
    world, _sequence = with_sequence(start=5, increment=3)
    assert draw(world, 3) == [5, 8, 11]
    assert draw(world, 2, commit=False) == [14, 17]
    assert draw(world, 40)[0] == 20


@pytest.mark.parametrize("power", [False, True])
def test_a_value_that_a_committed_transaction_drew_never_comes_again(power: bool) -> None:
    world, _sequence = with_sequence()
    drawn: list[int] = []
    for round_ in range(4):
        drawn += draw(world, 1 + 20 * round_)
        world.restart(power)
    drawn += draw(world)
    assert len(set(drawn)) == len(drawn) and drawn == sorted(drawn)


def test_a_drop_that_is_rolled_back_repeats_no_value() -> None:
    world, sequence = with_sequence()
    db = world.db
    txn = db.begin()
    world.run(db.ddl.drop_sequence(txn, sequence))
    assert db.catalog_for(txn).sequence("s") is None and db.catalog.sequence("s") is sequence
    drawn = draw(world, 40)
    world.run(txn.rollback())
    drawn += draw(world, 40)
    world.restart()
    drawn += draw(world, 2)
    assert len(set(drawn)) == len(drawn)


def test_a_dropped_sequence_s_value_goes_at_the_next_start() -> None:
    world, sequence = with_sequence()
    db = world.db
    world.run(in_txn(db, lambda txn: db.ddl.drop_sequence(txn, sequence)))
    key = entry_key(VALUE, sequence.id)
    assert db.catalog.sequence("s") is None
    world.close()
    db = world.restart()
    assert world.run(db.run(btree.get, db.access, CATALOG_ROOT, key)) is None
    again = world.run(in_txn(db, lambda txn: db.ddl.create_sequence(txn, "s")))
    assert draw(world) == [1] and again.id > sequence.id
    world.check()


def test_a_sequence_goes_to_the_end_of_its_type_and_stops() -> None:
    top = (1 << 63) - 1
    world, _sequence = with_sequence(start=top - 2)
    assert draw(world, 3) == [top - 2, top - 1, top]
    for _ in range(2):
        with pytest.raises(SqlError, match="reached maximum value") as caught:
            draw(world)
        assert caught.value.sqlstate == "2200H"
    world.restart()
    with pytest.raises(SqlError, match="reached maximum value"):
        draw(world)


def test_a_descending_sequence_stops_at_its_minimum() -> None:
    world, _sequence = with_sequence(start=2, increment=-1, min_value=0, max_value=5)
    assert draw(world, 3) == [2, 1, 0]
    with pytest.raises(SqlError, match="reached minimum value"):
        draw(world)


def test_a_cycle_begins_again() -> None:
    world, _sequence = with_sequence(start=1, min_value=1, max_value=3, cycle=True)
    assert draw(world, 7) == [1, 2, 3, 1, 2, 3, 1]


def test_setval() -> None:
    world, sequence = with_sequence()
    draw(world, 3)
    world.run(world.db.ddl.setval(sequence, 100))
    assert draw(world, 2) == [100, 101]
    world.run(world.db.log.flush_all())
    world.restart()
    assert draw(world)[0] >= 102


def test_a_sequence_made_in_a_rolled_back_transaction_is_gone() -> None:
    world = EngineWorld()
    db = world.start()
    txn = db.begin()
    sequence = world.run(db.ddl.create_sequence(txn, "s"))
    assert [world.run(db.ddl.nextval(sequence, txn)) for _ in range(40)][-1] == 40
    world.run(txn.rollback())
    assert db.catalog.sequence("s") is None
    with pytest.raises(SqlError) as caught:
        db.ddl._sequences.clear()
        world.run(db.ddl.nextval(sequence))
    assert caught.value.sqlstate == "42P01"
    world.check()

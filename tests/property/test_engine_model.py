"""The whole engine against a dict: transactions that interleave, savepoints, checkpoints, page writes, kills and power cuts.

Every acknowledged commit is there afterwards, nothing else is, and the whole-database check finds nothing.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.engine.world import DATA, PAGE, EngineWorld, delete, update
from thunderdb.base.events import Events
from thunderdb.engine.database import Database
from thunderdb.txn.manager import Txn

SESSIONS = 3
SESSION = st.integers(0, SESSIONS - 1)
KEY = st.integers(0, 39)
SIZE = st.sampled_from([3, 60, 400, 900, 2500, 20_000])

STEP = st.one_of(
    st.tuples(st.just("write"), SESSION, KEY, SIZE),
    st.tuples(st.just("write"), SESSION, KEY, SIZE),
    st.tuples(st.just("many"), SESSION, KEY, st.sampled_from([10, 100])),
    st.tuples(st.just("delete"), SESSION, KEY, st.just(0)),
    st.tuples(st.just("savepoint"), SESSION, st.just(0), st.just(0)),
    st.tuples(st.just("rollback_to"), SESSION, st.integers(0, 3), st.just(0)),
    st.tuples(st.just("commit"), SESSION, st.just(0), st.just(0)),
    st.tuples(st.just("commit"), SESSION, st.just(0), st.just(0)),
    st.tuples(st.just("rollback"), SESSION, st.just(0), st.just(0)),
    st.tuples(st.just("checkpoint"), st.just(0), st.just(0), st.just(0)),
    st.tuples(st.just("clean"), st.integers(1, 30), st.just(0), st.just(0)),
    st.tuples(st.just("rest"), st.just(0), st.just(0), st.just(0)),
    st.tuples(st.just("crash"), st.integers(0, 1), st.sampled_from([0, 0, 1, 5, 20, 60, 150, 300]), st.just(0)),
    st.tuples(st.just("tear"), st.integers(0, 1), st.integers(0, 200), st.integers(1, 7)),
)

Rows = dict[int, str]


class Session:
    """A transaction, the keys that it alone may change, and what it sees of them; a stack of savepoints."""

    def __init__(self, txn: Txn, rows: Rows) -> None:
        self.txn = txn
        self.rows = dict(rows)
        self.marks: list[tuple[Any, Rows]] = []


class Machine:
    def __init__(self, suspend: bool, pool_bytes: int) -> None:
        self.world = EngineWorld(suspend=suspend, buffer_pool_size=pool_bytes)
        self.world.start()
        self.world.table("t", types=("int4", "text", "int4"), uniques=[("u", (2,))])
        self.committed: Rows = {}
        self.sessions: dict[int, Session] = {}
        self.count = 0

    @property
    def db(self) -> Database:
        return self.world.db

    @property
    def table(self) -> Any:
        return self.db.catalog.table("t")

    def session(self, number: int) -> Session:
        if number not in self.sessions:
            self.sessions[number] = Session(self.db.begin(), self.own(number))
        return self.sessions[number]

    def own(self, number: int) -> Rows:
        return {key: value for key, value in self.committed.items() if key % SESSIONS == number}

    def step(self, what: str, first: int, second: int, third: int) -> None:
        getattr(self, what)(first, second, third)

    def write(self, number: int, key: int, size: int) -> None:
        session = self.session(number)
        key = key * SESSIONS + number
        self.count += 1
        value = f"{self.count} ".ljust(size, "abcdefghij"[self.count % 10])
        row = [key, value, 1_000_000 * (self.count % 5) + key]
        if key in session.rows:
            self.world.run(update(self.db, session.txn, self.table, row))
        else:
            self.world.run(self.db.insert(session.txn, self.table, row))
        session.rows[key] = value

    def many(self, number: int, key: int, count: int) -> None:
        for offset in range(count):
            self.write(number, 100 + key + offset, 150)

    def delete(self, number: int, key: int, _third: int) -> None:
        session = self.session(number)
        key = key * SESSIONS + number
        there = self.world.run(delete(self.db, session.txn, self.table, key))
        assert there == (session.rows.pop(key, None) is not None)

    def savepoint(self, number: int, _second: int, _third: int) -> None:
        session = self.session(number)
        session.marks.append((session.txn.savepoint(), dict(session.rows)))

    def rollback_to(self, number: int, depth: int, _third: int) -> None:
        session = self.session(number)
        if session.marks:
            del session.marks[max(1, len(session.marks) - depth) :]
            mark, rows = session.marks[-1]
            self.world.run(session.txn.rollback_to(mark))
            session.rows = dict(rows)

    def commit(self, number: int, _second: int, _third: int) -> None:
        session = self.session(number)
        self.world.run(session.txn.commit())
        self.committed = {key: value for key, value in self.committed.items() if key % SESSIONS != number} | session.rows
        del self.sessions[number]

    def rollback(self, number: int, _second: int, _third: int) -> None:
        self.world.run(self.session(number).txn.rollback())
        del self.sessions[number]

    def checkpoint(self, *_: int) -> None:
        self.world.run(self.db.checkpoint())

    def clean(self, count: int, *_: int) -> None:
        self.world.run(self.db.pool.clean(self.db.log.next_lsn, count))

    def rest(self, *_: int) -> None:
        self.world.rest(2)

    def crash(self, power: int, turns: int, _third: int) -> None:
        """Crash, and (with `turns`) once more so many steps into the restart."""
        self.sessions.clear()
        self.world.crash(bool(power))
        if turns and self.world.suspend:
            task = self.world.tasks.spawn(Database.open(self.world, self.world.config, Events()))
            for _ in range(turns):
                if task.done() or not self.world.scheduler.turn():
                    break
            self.world.crash(bool(power))
        self.world.start()
        if turns % 2:
            self.check()

    def tear(self, power: int, page_no: int, sectors: int) -> None:
        """Crash with one page torn: a write that was under way left the first sectors new and the rest old."""
        writes = [page.page_no for page in self.db.pool.resident_pages() if page.rec_lsn]
        if writes:
            page_no = writes[page_no % len(writes)]
            before = self.world.page_bytes(page_no)
            self.world.run(self.db.pool.write_back(self.db.pool.get(page_no)))
            after = self.world.page_bytes(page_no)
            self.sessions.clear()
            self.world.crash(bool(power))
            data = self.world.disk.files[f"{DATA}/pages.000000"]
            data[page_no * PAGE : (page_no + 1) * PAGE] = after[: sectors * 512] + before[sectors * 512 :]
            self.world.start()

    def check(self) -> None:
        assert {key: value for key, value, _unique in self.world.rows(self.table)} == self.committed

    def finish(self) -> None:
        self.check()
        self.crash(1, 0, 0)
        self.check()
        self.world.check()
        self.world.close()
        self.world.restart(power=True)
        assert not self.db.restarted.crashed  # type: ignore[union-attr]
        self.check()
        self.world.check()


def run(steps: list[tuple[str, int, int, int]], suspend: bool, pool_bytes: int) -> None:
    machine = Machine(suspend, pool_bytes)
    for step in steps:
        machine.step(*step)
    machine.finish()


@settings(max_examples=120)
@given(st.lists(STEP, min_size=5, max_size=40), st.booleans(), st.sampled_from([1 << 20, 16 << 20]))
def test_what_was_committed_is_there_and_nothing_else(
    steps: list[tuple[str, int, int, int]], suspend: bool, pool_bytes: int
) -> None:
    run(steps, suspend, pool_bytes)

"""A statement that changes very many rows: others get their turns meanwhile, and the log does not pile up in memory."""

from __future__ import annotations

import pytest
from database import Client, TestDatabase

from thunderdb.base.errors import DiskFull, NodeStopped, StorageError

ROWS = 2500
WIDE = "repeat('x', 900)"
CHANGES = {
    "delete": "DELETE FROM t",
    "update": f"UPDATE t SET v = {WIDE} || 'y'",
    "insert from select": f"INSERT INTO t SELECT g, {WIDE} FROM generate_series({ROWS + 1}, {2 * ROWS}) g",
    "many values": "INSERT INTO t VALUES " + ", ".join(f"({ROWS + 1 + number}, '{'x' * 900}')" for number in range(ROWS)),
    "delete using": "DELETE FROM t USING u WHERE t.id = u.id",
}


@pytest.fixture
def filled(database: TestDatabase) -> Client:
    client = database.client()
    client.run(f"CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT g, {WIDE} FROM generate_series(1, {ROWS}) g")
    client.run("CREATE TABLE u (id int PRIMARY KEY); INSERT INTO u SELECT id FROM t")
    return client


@pytest.mark.parametrize("statement", CHANGES.values(), ids=list(CHANGES))
def test_others_get_turns_while_many_rows_change(database: TestDatabase, filled: Client, statement: str) -> None:
    db, records = database.db, [database.db.log.record_count]

    async def look_on() -> None:
        while True:
            await db.access.tasks.yield_now()
            records.append(db.log.record_count)

    task = db.access.tasks.spawn(look_on(), "looks on")
    filled.run(statement)
    task.cancel()
    longest = max(after - before for before, after in zip(records, records[1:], strict=False))
    assert db.log.record_count - records[0] >= ROWS
    assert longest < ROWS // 2


def test_a_large_delete_on_a_full_disk_is_refused_and_loses_nothing() -> None:
    database = TestDatabase(wal_buffer_size=64 << 10)
    client, disk = database.client(), database.world.disk
    client.run(f"CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT g, {WIDE} FROM generate_series(1, {ROWS}) g")
    disk.capacity_bytes = sum(map(len, disk.files.values()))
    try:
        with pytest.raises(DiskFull):
            client.run(CHANGES["update"])
        assert database.db.log.buffered_bytes < 2 << 20
    finally:
        disk.capacity_bytes = None
    database.run(database.db.access.tasks.sleep(2_000_000_000))  # it looks for space now and then
    assert client.run("SELECT count(*), max(length(v)) FROM t") == [(str(ROWS), "900")]
    client.run(CHANGES["delete"])
    assert client.run("SELECT count(*) FROM t") == [("0",)]
    database.close()


BUFFER = 64 << 10
SLOTS, LONG = 1600, "repeat('x', 3000)"


def changed_much(**settings: object) -> tuple[TestDatabase, Client]:
    """A transaction that has changed more than the reserve of log can take back, on a disk without room for a byte more."""
    database = TestDatabase(wal_buffer_size=BUFFER, **settings)
    client, disk = database.client(), database.world.disk
    client.run("CREATE TABLE t (id int PRIMARY KEY, v text)")
    client.run(f"INSERT INTO t SELECT g, {LONG} FROM generate_series(1, {SLOTS}) g")
    client.run(f"BEGIN; UPDATE t SET v = {LONG} || 'y'")
    database.run(database.db.checkpoint())
    disk.capacity_bytes = sum(map(len, disk.files.values()))
    return database, client


def rest(database: TestDatabase, seconds: int) -> None:
    database.run(database.db.access.tasks.sleep(seconds * 1_000_000_000))


def test_a_rollback_on_a_full_disk_waits_for_the_log_and_then_ends() -> None:
    database, client = changed_much()
    rollback = database.db.access.tasks.spawn(client.query("ROLLBACK"), "rollback")
    for _ in range(3):
        rest(database, 5)
        assert not rollback.done()
        assert database.db.log.buffered_bytes < 2 * BUFFER + (256 << 10)
        client.session.cancel()
    other = database.client()
    assert other.run("SELECT count(*) FROM t WHERE length(v) = 3000") == [(str(SLOTS),)]
    with pytest.raises(DiskFull):
        other.run("INSERT INTO t VALUES (0, '')")
    database.world.disk.capacity_bytes = None
    rest(database, 5)
    assert rollback.done() and rollback.error() is None and client.session.status == "I"
    assert other.run("UPDATE t SET v = v WHERE id = 1; SELECT count(*), max(length(v)) FROM t") == [(str(SLOTS), "3000")]
    database.close()


def test_a_stop_while_a_rollback_waits_for_a_full_disk_leaves_it_to_the_next_start() -> None:
    database, client = changed_much()
    rollback = database.db.access.tasks.spawn(client.query("ROLLBACK"), "rollback")
    rest(database, 5)
    began_ns = database.world.clock.monotonic_ns()
    database.close()
    assert isinstance(database.db.failure, StorageError) and "disk is full" in str(database.db.failure)
    assert database.world.clock.monotonic_ns() - began_ns < 5_000_000_000
    assert rollback.done() and isinstance(rollback.error(), NodeStopped)
    database.world.disk.capacity_bytes = None
    again = TestDatabase.reopened(database)
    assert again.client().run("SELECT count(*), max(length(v)) FROM t") == [(str(SLOTS), "3000")]
    again.close()


def test_a_stop_on_a_full_disk_that_has_room_for_a_rollback_is_a_clean_one() -> None:
    database = TestDatabase(wal_buffer_size=BUFFER)
    client, disk = database.client(), database.world.disk
    client.run(f"CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT g, {WIDE} FROM generate_series(1, 100) g")
    client.run("BEGIN; UPDATE t SET v = 'y'")
    disk.capacity_bytes = sum(map(len, disk.files.values())) + (64 << 10)
    database.close()
    assert database.db.failure is None and database.db.control.state.state.name == "CLEAN"


def test_a_stop_waits_for_the_rollback_that_a_session_is_at() -> None:
    """Undone by two at once, a row that had changed twice got its first change back from the slower one."""
    database = TestDatabase(wal_buffer_size=BUFFER)
    client = database.client()
    client.run("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT g, 'zero' FROM generate_series(1, 3000) g")
    client.run("BEGIN; UPDATE t SET v = 'first'; UPDATE t SET v = 'second'")
    tasks, db = database.db.access.tasks, database.db
    before = db.log.record_count
    rollback = tasks.spawn(client.query("ROLLBACK"), "rollback")
    assert not rollback.done()
    database.close()
    assert rollback.done() and rollback.error() is None
    assert db.log.record_count - before < 6500
    assert TestDatabase.reopened(database).client().run("SELECT count(*), min(v), max(v) FROM t") == [("3000", "zero", "zero")]

"""A statement that changes very many rows: others get their turns meanwhile, and the log does not pile up in memory."""

from __future__ import annotations

import pytest
from database import Client, TestDatabase

from thunderdb.base.errors import DiskFull

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

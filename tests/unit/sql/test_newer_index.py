"""An index that is newer than a REPEATABLE READ snapshot is not read through: it has nothing of what the snapshot sees."""

from __future__ import annotations

import pytest

from tests.unit.sql.database import TestDatabase
from thunderdb.base.errors import SerializationFailure

QUERY = "SELECT id FROM t WHERE k = 7"


def test_an_index_newer_than_the_snapshot_is_refused_not_believed() -> None:
    database = TestDatabase()
    one, two = database.client(), database.client()
    one.run("CREATE TABLE t (id int PRIMARY KEY, k int)")
    one.run("INSERT INTO t SELECT g, g FROM generate_series(1, 20) g")
    two.run("BEGIN ISOLATION LEVEL REPEATABLE READ")
    assert two.run(QUERY) == [("7",)]
    one.run("CREATE INDEX t_k ON t (k)")
    with pytest.raises(SerializationFailure, match="newer than the snapshot"):
        two.run(QUERY)
    two.run("ROLLBACK")
    two.run("BEGIN ISOLATION LEVEL REPEATABLE READ")
    assert two.run(QUERY) == [("7",)]
    two.run("COMMIT")


def test_the_transaction_that_made_the_index_reads_through_it() -> None:
    client = TestDatabase().client()
    client.run("CREATE TABLE t (id int PRIMARY KEY, k int)")
    client.run("INSERT INTO t SELECT g, g FROM generate_series(1, 20) g")
    client.run("BEGIN ISOLATION LEVEL REPEATABLE READ")
    client.run("CREATE INDEX t_k ON t (k)")
    assert client.run(QUERY) == [("7",)]
    client.run("COMMIT")

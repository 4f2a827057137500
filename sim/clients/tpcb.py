"""TPC-B on the engine's own API, the same coroutine on real ports and on simulated ones: what a calibration compares."""

from __future__ import annotations

from typing import Any

from sim.world.rand import Stream
from thunderdb.engine.catalog import Column
from thunderdb.engine.database import Database

ACCOUNTS, TELLERS, BRANCHES = 10_000, 10, 1
ROWS_A_LOAD = 500
SETTINGS: dict[str, Any] = {
    "page_size": "16KB", "buffer_pool_size": "128MB", "wal_segment_size": "16MB", "max_wal_size": "64GB",
    "checkpoint_interval": "1d", "recovery_target": "off",
}  # fmt: skip
"""Checkpoints far apart: the log holds exactly the transactions asked for."""
_FILLER = "x" * 84


async def load(db: Database) -> None:
    """Make and fill the tables, and write every page."""
    txn = db.begin()
    for name, columns, key in (
        ("accounts", ("id", "branch", "balance"), (0,)), ("tellers", ("id", "branch", "balance"), (0,)),
        ("branches", ("id", "bal"), (0,)), ("history", ("teller", "branch", "account", "delta"), ()),
    ):  # fmt: skip
        wanted = [Column(column, "int8") for column in columns] + [Column("filler", "text")]
        await db.ddl.create_table(txn, name, wanted, pk=key)
    await txn.commit()
    for name, count in (("accounts", ACCOUNTS), ("tellers", TELLERS), ("branches", BRANCHES)):
        table = db.catalog.table(name)
        if table is None:
            raise RuntimeError(f"{name} was not made")
        for first in range(0, count, ROWS_A_LOAD):
            txn = db.begin()
            for number in range(first, min(count, first + ROWS_A_LOAD)):
                row = [number, 0, _FILLER] if name == "branches" else [number, 0, 0, _FILLER]
                await db.rows.insert(txn, table, row)
            await txn.commit()
    await db.checkpointer.run(flush_all=True)
    await db.checkpointer.run(flush_all=True)


async def run(db: Database, transactions: int, seed: int = 1) -> None:
    """So many transactions, one after the other, all but the last without waiting for the disk: the log is the same."""
    stream = Stream(seed)
    tables = {name: db.catalog.table(name) for name in ("accounts", "tellers", "branches", "history")}
    for number in range(transactions):
        txn = db.begin(sync_commit=number == transactions - 1)
        delta = stream.between(-5000, 5000)
        places = (
            ("accounts", stream.between(0, ACCOUNTS - 1)), ("tellers", stream.between(0, TELLERS - 1)),
            ("branches", stream.between(0, BRANCHES - 1)),
        )  # fmt: skip
        for name, row_id in places:
            table = tables[name]
            access = db.rows.table(table)  # type: ignore[arg-type]
            key = access.key_of([row_id])
            payload = None if key is None else await db.rows.lock_row(txn, table, key)  # type: ignore[arg-type]
            if key is None or payload is None:
                raise RuntimeError(f"{name}[{row_id}] is gone")
            row = list(access.row.decode(payload))
            row[-2] += delta
            await db.rows.update(txn, table, key, payload, row)  # type: ignore[arg-type]
        history = [places[1][1], places[2][1], places[0][1], delta, _FILLER[:22]]
        await db.rows.insert(txn, tables["history"], history)  # type: ignore[arg-type]
        await txn.commit()
    await db.log.flush_all()


async def leave(db: Database, changes: int) -> None:
    """A transaction of so many changes that does not end; they are in the log, for a restart to take back."""
    table = db.catalog.table("accounts")
    if table is None:
        raise RuntimeError("accounts are gone")
    access = db.rows.table(table)
    txn = db.begin()
    for number in range(changes):
        key = access.key_of([number * 37 % ACCOUNTS])
        payload = None if key is None else await db.rows.lock_row(txn, table, key)
        if key is None or payload is None:
            raise RuntimeError("an account is gone")
        row = list(access.row.decode(payload))
        row[-2] += 1
        await db.rows.update(txn, table, key, payload, row)
    await db.log.flush_all()


async def first_write(db: Database) -> None:
    """One row, changed and committed: service is back."""
    table = db.catalog.table("branches")
    if table is None:
        raise RuntimeError("branches are gone")
    access = db.rows.table(table)
    txn = db.begin()
    key = access.key_of([0])
    payload = None if key is None else await db.rows.lock_row(txn, table, key)
    if key is None or payload is None:
        raise RuntimeError("the branch is gone")
    row = list(access.row.decode(payload))
    row[1] += 1
    await db.rows.update(txn, table, key, payload, row)
    await txn.commit()

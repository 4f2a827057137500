"""What a database with one table `t` has in it."""

from __future__ import annotations

from sim.clients.engine_session import SimDatabase


async def rows_of(db: SimDatabase) -> list[list[object]]:
    table = db.catalog.table("t")
    if table is None:
        return []
    txn = db.begin()
    txn.new_snapshot()
    decode = db.rows.table(table).row.decode
    found = [decode(payload) async for batch in db.scan(txn, table.root) for _key, payload in batch]
    txn.end_statement()
    await txn.commit()
    return found

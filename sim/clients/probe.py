"""The probe: one write through the engine, to see whether a database serves."""

from __future__ import annotations

from sim.clients.engine_session import SimDatabase
from sim.clients.workload import PROBE
from sim.oracle.oracle import Violation, Work
from thunderdb.base.errors import DiskFull
from thunderdb.txn.manager import Txn


async def probe_write(db: SimDatabase, by_txn: dict[int, Work], expected: int | None = None) -> int:
    """Count the probe's row up and commit; return its new value. `expected`: what it must have been before.

    Raises: DiskFull where ordinary work has to wait; Violation if the row is not what was acknowledged.
    """
    db.log.admit()
    txn = db.begin()
    try:
        value = await _count_up(db, txn, expected)
    except DiskFull:
        await txn.rollback()  # who probes again would wait for its lock
        raise
    by_txn[txn.id] = Work(0, True, outcome="committing")
    await txn.commit()
    return value


async def _count_up(db: SimDatabase, txn: Txn, expected: int | None) -> int:
    definition = db.catalog.table(PROBE)
    if definition is None:
        raise Violation("the probe's table is gone")
    access = db.rows.table(definition)
    key = access.key_of([1])
    payload = None if key is None else await db.rows.lock_row(txn, definition, key)
    if key is None or payload is None:
        raise Violation("the probe's row is gone")
    _, value = access.row.decode(payload)
    if expected is not None and value != expected:
        raise Violation(f"the probe's row is {value}, acknowledged was {expected}")
    await db.rows.update(txn, definition, key, payload, [1, value + 1])
    return int(value) + 1

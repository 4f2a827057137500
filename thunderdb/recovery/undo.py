"""Undo: take back one transaction's changes, newest first. Rollback, savepoints and restart all use this.

U1. (W5) Each undone change writes a CLR whose undo_next_lsn is the prev_lsn of the record it undid; an undo is never undone,
    and a crash in the middle goes on where the last CLR points.
U2. Undo is logical: the row is found by its key, wherever splits have moved it.
U3. (W10) A full disk holds undo up and never ends it; what it has logged and not written stays bounded meanwhile.

Source: ARIES (1992) sections 3 and 10.3.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from thunderdb.access.btree import undo_row
from thunderdb.access.context import Access, Chain
from thunderdb.base.errors import Corruption
from thunderdb.recovery.extras import UNDO_NEXT
from thunderdb.wal.record import Record, RecordKind

_CHANGES_A_TURN = 64


@dataclass(slots=True)
class Loser:
    """A transaction that restart found active: just its log chain."""

    id: int
    first_lsn: int
    last_lsn: int


async def rollback(
    access: Access, chain: Chain, until_lsn: int, read: Callable[[int], Awaitable[Record]] | None = None
) -> int:
    """Undo the chain's changes above `until_lsn` (0: all); return how many were undone. `read` gives a record of the log.

    Crash: restart goes on from the last CLR that is in the log. Raises: DiskFull (call again), Corruption.
    """
    read = access.log.read_record if read is None else read
    lsn = chain.last_lsn
    undone = 0
    while lsn > until_lsn:
        record = await read(lsn)
        if record.txn != chain.id:
            raise Corruption(f"the log record at {lsn} belongs to transaction {record.txn}, not to {chain.id}")
        if record.kind == RecordKind.ROW:
            undo_next = UNDO_NEXT.pack(record.prev_lsn)
            await access.run(undo_row, access, record.changes[0].payload, chain, undo_next)
            undone += 1
            lsn = record.prev_lsn
            if undone % _CHANGES_A_TURN == 0:
                await access.tasks.work("undo", _CHANGES_A_TURN)
                await access.log.wait_written()  # U3
        elif record.kind == RecordKind.CLR:
            (lsn,) = UNDO_NEXT.unpack(record.extra)
        else:
            lsn = record.prev_lsn
    await access.tasks.charge("undo", undone % _CHANGES_A_TURN)
    return undone

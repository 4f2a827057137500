"""Directed runs for planted bugs that a random run rarely meets: each a function from a seed to what was violated.

The right engine passes each with every seed: it may refuse to open, or fail a statement, with an error that names the damage,
but it never shows wrong data (DESIGN section 9).

    lost_write      a page write that never happened is met again, by a read or by a restart
    rotten_save     pages rot, and what was saved of their LSNs, between two lives
    log_hole        a sector of the durable log rots between two lives
    control_slot    the newest slot of the control file rots between two lives
    commit_times    the wall clock steps; the log's order times must not
    busy_cleaner    pages are written, and checkpoints taken, while syncs are under way; then the power goes
    ghosts          batches are torn by power cuts, and the next life writes where they were
    splits          inserts split pages, and of the last batch only a first part lands
    large_reader    a snapshot reads large values that have been replaced, while garbage is being freed
    sync_failure    an fsync fails and the node stops; what it wrote may be in the cache only
    repeatable_writes   a row changed after the snapshot is 40001, never overwritten
    long_transaction    a transaction far older than the checkpoints is rolled back, or undone by a restart
    old_snapshot    a snapshot older than the version cache reads the log, which checkpoints would like to remove
"""

from __future__ import annotations

from collections.abc import Callable

from sim.planted.cases_disk import busy_cleaner, control_slot, ghosts, log_hole, lost_write, rotten_save, splits, sync_failure
from sim.planted.cases_txn import commit_times, large_reader, long_transaction, old_snapshot, repeatable_writes

CASES: dict[str, Callable[[int], list[str]]] = {
    "lost_write": lost_write,
    "rotten_save": rotten_save,
    "log_hole": log_hole,
    "control_slot": control_slot,
    "commit_times": commit_times,
    "busy_cleaner": busy_cleaner,
    "ghosts": ghosts,
    "splits": splits,
    "large_reader": large_reader,
    "repeatable_writes": repeatable_writes,
    "sync_failure": sync_failure,
    "long_transaction": long_transaction,
    "old_snapshot": old_snapshot,
}



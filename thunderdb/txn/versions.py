"""Row versions: which one a snapshot sees. The page has the newest, the log has the older ones.

A value's stamp is (transaction, LSN of the record that wrote it); that record holds the value before it, stamp included.

N1. A snapshot sees a transaction that had committed, durably, when it was taken; and its own transaction.
N2. A page whose greatest transaction id is below the snapshot's xmin is visible whole (its ghosts are deleted rows).
N3. A stamp LSN of 0 means that there is no older version.
N4. A transaction id that is not active has committed, or left no trace: rollback restores old stamps.
N5. A version that has to be fetched is fetched to the end of its chain at once and kept with the snapshot: a chain longer than
    the cache would otherwise push out its own beginning for ever.

Source: DESIGN of InnoDB's and Oracle's undo-based snapshots; here the log is the undo store.
"""

from __future__ import annotations

from collections import OrderedDict

from thunderdb.access.apply import GHOST, PageOp, parse_row
from thunderdb.base.errors import Corruption, SnapshotTooOld
from thunderdb.storage.page import VALUE_HEADER, Page
from thunderdb.storage.pool import BufferPool, Miss
from thunderdb.wal.record import LogGone
from thunderdb.wal.writer import LogWriter

CACHE_BYTES = 16 << 20
_ENTRY_BYTES = 150
FOUND_ENTRIES = 4096
"""Fetched versions that a snapshot keeps: more than the rows of any one leaf, so that an operation always gets through."""


class Snapshot:
    """The set of transactions whose effects a statement sees (N1)."""

    __slots__ = ("xmin", "xmax", "active", "log_floor", "refs", "found")

    def __init__(self, xmin: int, xmax: int, active: frozenset[int], log_floor: int) -> None:
        self.xmin = xmin
        self.xmax = xmax
        self.active = active
        self.log_floor = log_floor
        self.refs = 0
        self.found: OrderedDict[int, bytes | None] = OrderedDict()

    def keep(self, lsn: int, value: bytes | None) -> None:
        """Remember which version lies behind the record at `lsn` for this snapshot (N5)."""
        if len(self.found) >= FOUND_ENTRIES:
            self.found.popitem(last=False)
        self.found[lsn] = value

    def sees(self, txn: int) -> bool:
        return txn < self.xmin or (txn < self.xmax and txn not in self.active)


class Versions:
    """Old values by the LSN of the record that replaced them: a bounded cache in front of the log."""

    __slots__ = ("log", "_young", "_old", "_young_bytes")

    def __init__(self, log: LogWriter) -> None:
        self.log = log
        # Two generations: forgetting the older one whole costs nothing, taking the first out of a dict again and again does.
        self._young: dict[int, bytes | None] = {}
        self._old: dict[int, bytes | None] = {}
        self._young_bytes = 0

    def remember(self, lsn: int, old: bytes | None) -> None:
        self._young[lsn] = old
        self._young_bytes += _ENTRY_BYTES + (len(old) if old is not None else 0)
        if self._young_bytes > CACHE_BYTES // 2:
            self.forget()

    def forget(self) -> None:
        """Let go of the older half of what is remembered; the log still has it."""
        self._old, self._young = self._young, {}
        self._young_bytes = 0

    def recall(self, lsn: int) -> bytes | None:
        """The value that the record at `lsn` replaced. Raises: KeyError if it is not in memory."""
        try:
            return self._young[lsn]
        except KeyError:
            return self._old[lsn]

    def visible(self, value: bytes | None, snapshot: Snapshot, own: int) -> bytes | None:
        """The version that the snapshot sees, with its stamp; None if there is none or it is a ghost. Raises: VersionMiss."""
        while value is not None:
            txn, lsn, flags = VALUE_HEADER.unpack_from(value)
            if (own and txn == own) or snapshot.sees(txn):
                return None if flags & GHOST else value
            if not lsn:
                return None
            if lsn in snapshot.found:
                value = snapshot.found[lsn]
                return None if value is None or value[16] & GHOST else value
            try:
                value = self.recall(lsn)
            except KeyError:
                raise VersionMiss(self, lsn, snapshot) from None
        return None

    async def fetch(self, lsn: int, snapshot: Snapshot) -> None:
        """Follow the versions from the record at `lsn` back to the one that the snapshot sees, and keep that (N5)."""
        start_lsn, next_lsn = lsn, lsn
        value: bytes | None = None
        while next_lsn:
            value = await self._recall_or_read(next_lsn)
            if value is None:
                break
            txn, next_lsn, _flags = VALUE_HEADER.unpack_from(value)
            if snapshot.sees(txn):
                break
            value = None
        snapshot.keep(start_lsn, value)

    async def _recall_or_read(self, lsn: int) -> bytes | None:
        try:
            return self.recall(lsn)
        except KeyError:
            return await self._read(lsn)

    async def _read(self, lsn: int) -> bytes | None:
        """The value that the record at `lsn` replaced."""
        try:
            record = await self.log.read_record(lsn)
        except LogGone as error:
            raise SnapshotTooOld(
                "snapshot too old: the log with its row versions has been removed", hint="Run shorter transactions."
            ) from error
        if len(record.changes) != 1 or record.changes[0].op != PageOp.ROW:
            raise Corruption(f"the log record at {lsn} is not a row change, but a row's stamp names it")
        old = parse_row(record.changes[0].payload)[2]
        self.remember(lsn, old)
        return old


class VersionMiss(Miss):
    """An older version is not in memory."""

    def __init__(self, versions: Versions, lsn: int, snapshot: Snapshot) -> None:
        super().__init__(versions, lsn, snapshot)
        self.versions = versions
        self.lsn = lsn
        self.snapshot = snapshot

    async def resolve(self, pool: BufferPool, pins: list[Page] | None = None) -> None:
        await self.versions.fetch(self.lsn, self.snapshot)

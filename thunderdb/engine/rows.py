"""Reading and writing rows in transactions: what SQL stands on.

E1. Locks come first, then one synchronous step that checks everything again and changes; nothing that was checked before an
    await is believed after it.
E2. Under its lock, the newest version of a row is committed or the transaction's own. At READ COMMITTED it is the row; at
    REPEATABLE READ a version that the snapshot does not see is 40001.
E3. A statement that fails is undone by its caller to the savepoint that it took.
E4. Index entries carry stamps like rows, so a snapshot sees exactly the entries of the row versions that it sees.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any

from thunderdb.access import btree, large
from thunderdb.access.apply import GHOST, LARGE, VALUE_HEADER_SIZE
from thunderdb.base.errors import SerializationFailure, UniqueViolation
from thunderdb.engine.table import IndexAccess, TableAccess
from thunderdb.storage.frozen import locate
from thunderdb.storage.page import VALUE_HEADER, Page
from thunderdb.storage.pool import BufferPool, Miss
from thunderdb.txn.locks import Mode
from thunderdb.txn.manager import READ_COMMITTED, Txn

if TYPE_CHECKING:
    from thunderdb.engine.catalog import TableDef
    from thunderdb.engine.database import Database

Row = tuple[bytes, bytes]
"""(key, payload)"""

LARGE_CACHE_BYTES = 64 << 20
ROWID = 8
_INTENT, _EXCLUSIVE = Mode.INTENT, Mode.EXCLUSIVE


class StalePlan(Exception):
    """The table changed while a statement waited for its lock: plan the statement again."""


class WouldWait(Exception):
    """The operation cannot be done in one synchronous step; nothing was changed: take the general path."""


class LockBusy(Exception):
    """A row's lock is held by another transaction; nothing was changed. `args` is (name of the lock)."""

    def __init__(self, name: tuple[int, bytes]) -> None:
        super().__init__(name)
        self.name = name


class LargeMiss(Miss):
    """A row's payload is a large value that is not in memory. `args` is (rows, reference)."""

    runs_operations = True

    def __init__(self, rows: Rows, reference: bytes) -> None:
        super().__init__(rows, reference)
        self.rows = rows
        self.reference = reference

    async def resolve(self, pool: BufferPool, pins: list[Page] | None = None) -> None:
        await self.rows.load_large(self.reference)


class Rows:
    """Row operations of a database."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.access = db.access
        self.manager = db.manager
        self.versions = db.manager.versions
        self._tables: dict[tuple[int, int], TableAccess] = {}
        self._next_rowid: dict[int, int] = {}
        self._large: dict[bytes, bytes] = {}
        self._inline_limit = btree.max_inline_value(db.access.page_size)

    def table(self, definition: TableDef) -> TableAccess:
        """The codecs of a table version."""
        key = (definition.id, definition.version)
        found = self._tables.get(key)
        if found is None or found.definition is not definition:
            if len(self._tables) > 1000:
                self._tables.clear()
            found = self._tables[key] = TableAccess(definition)
        return found

    # -- Reading

    def try_get(self, txn: Txn, root: int, key: bytes) -> bytes | None:
        """The payload at `key` as the transaction's snapshot sees it. Raises: Miss."""
        leaf = btree.find_leaf(self.access, root, key)
        index = locate(leaf.keys, key)
        if index < 0:
            return None
        value = leaf.vals[index]
        snapshot = txn.snapshot
        if snapshot is None:
            snapshot = txn.new_snapshot()
        if leaf.max_txn < snapshot.xmin:
            flags = value[16]
            if not flags:
                return value[VALUE_HEADER_SIZE:]
            if flags & GHOST:
                return None
        else:
            seen = self.versions.visible(value, snapshot, txn.id)
            if seen is None:
                return None
            value = seen
        return self._payload(value)

    def try_get_now(self, txn: Txn, root: int, key: bytes) -> bytes | None:
        """`try_get` with a snapshot of this very moment (READ COMMITTED, and a statement that reads nothing else).

        Such a snapshot sees what is the transaction's own or of no active one (N1, N4 of txn/versions.py); it is only made
        where the row's newest version is another one's. Raises: Miss.
        """
        leaf = btree.find_leaf(self.access, root, key)
        index = locate(leaf.keys, key)
        if index < 0:
            return None
        value: bytes = leaf.vals[index]
        stamp, _lsn, flags = VALUE_HEADER.unpack_from(value)
        if stamp != txn.id and stamp in self.manager.active:
            txn.new_snapshot()
            try:
                return self.try_get(txn, root, key)
            finally:
                txn.end_statement()
        if not flags:
            return value[VALUE_HEADER_SIZE:]
        return None if flags & GHOST else self._payload(value)

    async def get(self, txn: Txn, root: int, key: bytes) -> bytes | None:
        return await self.access.run(self.try_get, txn, root, key)

    def _payload(self, value: bytes) -> bytes:
        payload = value[VALUE_HEADER_SIZE:]
        if value[16] & LARGE:
            data = self._large.get(payload)
            if data is None:
                raise LargeMiss(self, payload)
            return data
        return payload

    async def load_large(self, reference: bytes) -> bytes:
        data = await large.load(self.access, reference)
        cached = sum(map(len, self._large.values()))
        while self._large and cached + len(data) > LARGE_CACHE_BYTES:
            cached -= len(self._large.pop(next(iter(self._large))))
        self._large[reference] = data
        return data

    def try_scan(
        self, txn: Txn, root: int, low: bytes | None, high: bytes | None, reverse: bool
    ) -> tuple[list[tuple[bytes, bytes, bool]], bytes | None]:
        """One leaf of a scan: [(key, payload or reference, is large)], and the fence to go on from (None: done).

        Raises: Miss.
        """
        snapshot = txn.snapshot or txn.new_snapshot()
        if reverse:
            leaf, end, fence = btree.leaf_before(self.access, root, high)
            start = 0 if low is None else bisect_left(leaf.keys, low)
            done = fence is None or (low is not None and fence <= low)
        else:
            leaf, start, fence = btree.leaf_from(self.access, root, low)
            end = len(leaf.keys) if high is None else bisect_left(leaf.keys, high)
            done = fence is None or (high is not None and fence >= high)
        keys, vals = leaf.keys[start:end], leaf.vals[start:end]
        rows: list[tuple[bytes, bytes, bool]] = []
        if leaf.max_txn < snapshot.xmin:
            for key, value in zip(keys, vals, strict=True):
                flags = value[16]
                if not flags & GHOST:
                    rows.append((key, value[VALUE_HEADER_SIZE:], bool(flags & LARGE)))
        else:
            visible, own = self.versions.visible, txn.id
            for key, value in zip(keys, vals, strict=True):
                seen = visible(value, snapshot, own)
                if seen is not None:
                    rows.append((key, seen[VALUE_HEADER_SIZE:], bool(seen[16] & LARGE)))
        if reverse:
            rows.reverse()
        return rows, None if done else fence

    async def scan(
        self, txn: Txn, root: int, low: bytes | None = None, high: bytes | None = None, reverse: bool = False
    ) -> AsyncIterator[list[Row]]:
        """Batches of visible rows with low <= key < high, a leaf at a time, large values resolved."""
        while True:
            found, fence = await self.access.run(self.try_scan, txn, root, low, high, reverse)
            batch: list[Row] = []
            for key, payload, is_large in found:
                if is_large:
                    if batch:
                        yield batch
                    yield [(key, await large.load(self.access, payload))]
                    batch = []
                else:
                    batch.append((key, payload))
            if batch:
                yield batch
            if fence is None:
                return
            if reverse:
                high = fence
            else:
                low = fence

    # -- Locks

    async def lock_table(self, txn: Txn, definition: TableDef, mode: Mode = Mode.INTENT) -> None:
        """Lock a table for writing rows (INTENT) or for DDL (EXCLUSIVE). Raises: StalePlan if it is not as planned any more."""
        await txn.lock(("table", definition.id), mode)
        if self.db.catalog_for(txn).table_by_id(definition.id) is not definition:
            raise StalePlan(definition.name)

    def _begin_write(self, txn: Txn, table: TableAccess) -> bool:
        """Checks before a write; return whether the table is locked already."""
        txn.begin_write()
        return table.lock_name in txn.locks

    async def lock_row(self, txn: Txn, definition: TableDef, key: bytes) -> bytes | None:
        """Lock a row for change; return its current payload (E2), or None if it is gone.

        Raises: SerializationFailure, DeadlockDetected, QueryCancelled, StalePlan.
        """
        table = self.table(definition)
        if not self._begin_write(txn, table):
            await self.lock_table(txn, definition)
        wait = self.manager.locks.acquire(txn, (table.root, key), Mode.EXCLUSIVE)
        if wait is not None:
            await wait
        return await self.access.run(self._current, txn, table.root, key)

    def _current(self, txn: Txn, root: int, key: bytes) -> bytes | None:
        value = btree.get(self.access, root, key)
        if value is None:
            return None
        stamp = VALUE_HEADER.unpack_from(value)[0]
        if txn.isolation != READ_COMMITTED and stamp != txn.id:
            snapshot = txn.snapshot or txn.new_snapshot()
            if not snapshot.sees(stamp):
                raise SerializationFailure("could not serialize access due to concurrent update")
        return None if value[16] & GHOST else self._payload(value)

    # -- Writing

    async def insert(self, txn: Txn, definition: TableDef, values: Sequence[Any]) -> bytes:
        """Insert a row; return its key. Raises: UniqueViolation, SqlError 23502, DeadlockDetected, DiskFull, StalePlan."""
        conflict, key = await self.insert_or_conflict(txn, definition, values)
        if conflict is not None:
            table = self.table(definition)
            if conflict == definition.pk_name or not conflict:
                positions = definition.pk
            else:
                positions = next(index.columns for index in table.indexes if index.definition.name == conflict)
            raise UniqueViolation(
                f'duplicate key value violates unique constraint "{conflict}"', table.describe_key(positions, values)
            )
        return key

    async def insert_or_conflict(
        self, txn: Txn, definition: TableDef, values: Sequence[Any], payload: bytes | None = None
    ) -> tuple[str | None, bytes]:
        """Insert a row. Return (None, its key), or (name of the violated constraint, key of the row in the way).

        The row in the way is locked by this transaction, so that ON CONFLICT DO UPDATE can go on with it.
        """
        table = self.table(definition)
        if not self._begin_write(txn, table):
            await self.lock_table(txn, definition)
        key = table.key_of(values)
        if key is None:
            key = await self._new_rowid(table)
        else:
            await self._lock_key(txn, table.root, key)
            if await self.access.run(self._is_live, table.root, key):
                return definition.pk_name, key
        entries: list[tuple[IndexAccess, bytes]] = []
        for index in table.indexes:
            entry, unique = index.entry(values, key)
            if unique:
                await self._lock_key(txn, index.root, entry)
                other = await self.access.run(self._live_payload, index.root, entry)
                if other is not None:
                    await self._lock_key(txn, table.root, other)
                    return index.definition.name, other
            entries.append((index, entry))
        if payload is None:
            payload = table.row.encode(values)
        await self.put_row(txn, table.root, key, payload)
        for index, entry in entries:
            await self._put(txn, index.root, entry, 0, key)
        return None, key

    async def update(
        self, txn: Txn, definition: TableDef, key: bytes, old_payload: bytes, values: Sequence[Any]
    ) -> bytes:
        """Give a row that `lock_row` returned new values; return its key, which a change of the primary key changes.

        Raises: UniqueViolation, SqlError 23502, DiskFull.
        """
        table = self.table(definition)
        txn.begin_write()
        new_key = table.key_of(values)
        if new_key is not None and new_key != key:
            await self.delete(txn, definition, key, old_payload)
            return await self.insert(txn, definition, values)
        payload = table.row.encode(values)
        for index in table.indexes:
            await self._update_index(txn, table, index, key, old_payload, values)
        await self.drop_large(txn, table.root, key)
        await self.put_row(txn, table.root, key, payload)
        return key

    # -- Writing one row in one synchronous step: the hot path

    def try_update(self, txn: Txn, table: TableAccess, key: bytes, change: Callable[[bytes, Any], bytes], context: Any) -> bool:
        """Give the row at `key` the payload that `change` makes of its current one and `context`; False if there is no row.

        For tables without secondary indexes and changes that leave the key alone. Raises: LockBusy, WouldWait, Miss (nothing
        was changed, locks that were free are held); what `change` raises.
        """
        self._try_locks(txn, table, key)
        leaf = btree.find_leaf(self.access, table.root, key)
        index = locate(leaf.keys, key)
        if index < 0:
            return False
        old = leaf.vals[index]
        stamp, _lsn, flags = VALUE_HEADER.unpack_from(old)
        if flags:
            if flags & GHOST and (txn.isolation == READ_COMMITTED or stamp == txn.id):
                return False
            raise WouldWait
        if txn.isolation != READ_COMMITTED and stamp != txn.id:
            raise WouldWait
        payload = change(old[VALUE_HEADER_SIZE:], context)
        if len(payload) > self._inline_limit or leaf.used + len(payload) + VALUE_HEADER_SIZE - len(old) > self.access.page_size:
            raise WouldWait
        lsn = self.access.change_row(leaf, index, table.root, key, old, 0, payload, txn)
        self.versions.remember(lsn, old)
        return True

    def try_insert(self, txn: Txn, table: TableAccess, key: bytes | None, payload: bytes) -> None:
        """Insert a row into a table without secondary indexes, at its key or at the next row id.

        Raises: LockBusy, WouldWait, Miss (nothing was changed); SqlError 25006, DiskFull.
        """
        root = table.root
        rowid = 0
        if key is None:
            rowid = self._next_rowid.get(root, 0)
            if not rowid:
                raise WouldWait
            key = rowid.to_bytes(ROWID, "big")
        self._try_locks(txn, table, key if not rowid else None)
        if len(payload) > self._inline_limit or (not rowid and btree.get(self.access, root, key) is not None):
            raise WouldWait
        lsn, old = btree.put(self.access, txn, root, key, 0, payload)
        if rowid:
            self._next_rowid[root] = rowid + 1
        self.versions.remember(lsn, old)

    def _try_locks(self, txn: Txn, table: TableAccess, key: bytes | None) -> None:
        """Lock the table for writing and the key, if that needs no waiting.

        Raises: LockBusy (the table's lock is held), WouldWait, SqlError 25006, DiskFull.
        """
        txn.begin_write()
        locks = self.manager.locks
        if table.lock_name not in txn.locks and (
            not locks.try_acquire(txn, table.lock_name, _INTENT)
            or self.db.catalog_for(txn).table_by_id(table.definition.id) is not table.definition
        ):
            raise WouldWait
        if key is not None:
            name = (table.root, key)
            if not locks.try_acquire(txn, name, _EXCLUSIVE):
                raise LockBusy(name)

    async def _update_index(
        self, txn: Txn, table: TableAccess, index: IndexAccess, key: bytes, old_payload: bytes, values: Sequence[Any]
    ) -> None:
        old_entry, was_unique = index.entry_of_payload(old_payload, key)
        new_entry, unique = index.entry(values, key)
        if new_entry == old_entry:
            return
        if was_unique:
            await self._lock_key(txn, index.root, old_entry)
        if unique:
            await self._lock_key(txn, index.root, new_entry)
            if await self.access.run(self._is_live, index.root, new_entry):
                raise UniqueViolation(
                    f'duplicate key value violates unique constraint "{index.definition.name}"',
                    table.describe_key(index.columns, values),
                )
        await self.ghost(txn, index.root, old_entry)
        await self._put(txn, index.root, new_entry, 0, key)

    async def delete(self, txn: Txn, definition: TableDef, key: bytes, old_payload: bytes) -> None:
        """Delete a row that `lock_row` returned."""
        table = self.table(definition)
        txn.begin_write()
        for index in table.indexes:
            entry, unique = index.entry_of_payload(old_payload, key)
            if unique:
                await self._lock_key(txn, index.root, entry)
            await self.ghost(txn, index.root, entry)
        await self.drop_large(txn, table.root, key)
        await self.ghost(txn, table.root, key)

    async def _lock_key(self, txn: Txn, root: int, key: bytes) -> None:
        wait = self.manager.locks.acquire(txn, (root, key), Mode.EXCLUSIVE)
        if wait is not None:
            await wait

    def _is_live(self, root: int, key: bytes) -> bool:
        value = btree.get(self.access, root, key)
        return value is not None and not value[16] & GHOST

    def _live_payload(self, root: int, key: bytes) -> bytes | None:
        value = btree.get(self.access, root, key)
        return None if value is None or value[16] & GHOST else value[VALUE_HEADER_SIZE:]

    async def put_row(self, txn: Txn, root: int, key: bytes, payload: bytes) -> None:
        """Write a row under its lock, as a large value where it is too long for a leaf."""
        if len(payload) > self._inline_limit:
            reference = await large.store(self.access, txn, payload)
            await self._put(txn, root, key, LARGE, reference)
        else:
            await self._put(txn, root, key, 0, payload)

    async def _put(self, txn: Txn, root: int, key: bytes, flags: int, payload: bytes) -> None:
        try:
            lsn, old = btree.put(self.access, txn, root, key, flags, payload)
        except Miss:
            lsn, old = await self.access.run(btree.put, self.access, txn, root, key, flags, payload)
        self.versions.remember(lsn, old)

    async def ghost(self, txn: Txn, root: int, key: bytes) -> None:
        """Delete a row or an index entry under its lock."""
        lsn, old = await self.access.run(btree.delete, self.access, txn, root, key)
        self.versions.remember(lsn, old)
        txn.ghosts.append((root, key))

    async def drop_large(self, txn: Txn, root: int, key: bytes) -> None:
        """Let go of the large value at `key`, if there is one."""
        value = await self.access.run(btree.get, self.access, root, key)
        if value is not None and value[16] & LARGE and not value[16] & GHOST:
            await large.drop(self.access, txn, value[VALUE_HEADER_SIZE:])

    async def _new_rowid(self, table: TableAccess) -> bytes:
        root = table.root
        if root not in self._next_rowid:
            highest = await self.access.run(self._highest_key, root)
            self._next_rowid.setdefault(root, highest + 1)
        rowid = self._next_rowid[root]
        self._next_rowid[root] = rowid + 1
        return rowid.to_bytes(ROWID, "big")

    def _highest_key(self, root: int) -> int:
        leaf, _end, fence = btree.leaf_before(self.access, root, None)
        while not leaf.keys and fence is not None:
            leaf, _end, fence = btree.leaf_before(self.access, root, fence)
        return int.from_bytes(leaf.keys[-1], "big") if leaf.keys else 0

    def forget_tree(self, root: int) -> None:
        self._next_rowid.pop(root, None)

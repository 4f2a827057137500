"""Changing the catalog within a transaction: tables, indexes, sequences, truncation, bulk loading.

X1. Definitions are rows of the catalog tree, changed through the same put, delete and undo as any row.
X2. New trees are garbage until their transaction commits; replaced and dropped ones are from then on (access/garbage.py).
X3. Whoever changes a table holds its lock exclusively; whoever makes a name holds the name's.
X4. Loading in bulk always goes to a tree made for it, which then takes the place of the empty one in the definition: so a
    savepoint takes a half-loaded tree back like any DDL.
X5. Whoever copies a table's rows into a new tree takes its snapshot under the exclusive lock: what others committed while it
    waited for the lock, or after a REPEATABLE READ snapshot, must be in the copy.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from thunderdb.access import btree, large
from thunderdb.access.apply import GHOST, LARGE
from thunderdb.access.bulk import LeafBuilder, append_all
from thunderdb.access.garbage import adopt_tree, create_tree, drop_tree
from thunderdb.access.rows import RowCodec
from thunderdb.base.errors import SqlError, UniqueViolation
from thunderdb.engine.catalog import (
    CATALOG_ROOT,
    SEQUENCE,
    TABLE,
    VALUE,
    CheckDef,
    Column,
    Definition,
    IndexDef,
    Overlay,
    SequenceDef,
    TableDef,
    encode_definition,
    entry_key,
)
from thunderdb.engine.table import IndexAccess, TableAccess
from thunderdb.recovery.extras import NoteVerb, encode_note
from thunderdb.storage.page import VALUE_HEADER, VALUE_HEADER_SIZE
from thunderdb.txn.locks import Mode
from thunderdb.txn.manager import Txn
from thunderdb.wal.record import RecordKind

if TYPE_CHECKING:
    from thunderdb.engine.database import Database

SEQUENCE_CACHE = 32
SORT_LIMIT = 4_000_000
_LEAVES_A_TURN = 32


class Ddl:
    """DDL of a database."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.access = db.access
        self._sequences: dict[int, list[int]] = {}

    # -- Tables

    async def create_table(
        self,
        txn: Txn,
        name: str,
        columns: Sequence[Column],
        *,
        pk: Sequence[int] = (),
        pk_name: str = "",
        uniques: Sequence[tuple[str, Sequence[int]]] = (),
        checks: Sequence[CheckDef] = (),
        fillfactor: int = 92,
    ) -> TableDef:
        """Create an empty table. Raises: SqlError 42P07 (the name is taken), 42701 (a column twice)."""
        await self._take_name(txn, name)
        seen: dict[str, None] = {}
        for column in columns:
            if column.name in seen:
                raise SqlError("42701", f'column "{column.name}" specified more than once')
            seen[column.name] = None
        table_id = self.db.new_object_id()
        columns = [replace(column, not_null=True) if position in pk else column for position, column in enumerate(columns)]
        table = TableDef(table_id, name, await self._new_tree(txn), tuple(columns), checks=tuple(checks), fillfactor=fillfactor)
        if pk:
            pk_name = pk_name or f"{name}_pkey"
            await self._take_name(txn, pk_name)
            table = replace(table, pk=tuple(pk), pk_name=pk_name, pk_id=self.db.new_object_id())
        for unique_name, positions in uniques:
            await self._take_name(txn, unique_name)
            index = IndexDef(
                self.db.new_object_id(), unique_name, await self._new_tree(txn), tuple(positions), unique=True, constraint=True
            )
            table = replace(table, indexes=(*table.indexes, index))
        TableAccess(table)  # fails here for a key type that has no order, before anything is visible
        await txn.lock(("table", table_id), Mode.EXCLUSIVE)
        return await self._save_table(txn, table)

    async def drop_table(self, txn: Txn, table: TableDef) -> None:
        """Drop a table with its indexes and the sequences that it owns."""
        await self.db.rows.lock_table(txn, table, Mode.EXCLUSIVE)
        for root in table.roots():
            await self._drop_tree(txn, root)
        await self._drop_large_values(txn, table)
        await self._remove(txn, TABLE, table.id)
        self._note_verb(txn, NoteVerb.DROP, table)
        for sequence in self.db.catalog_for(txn).sequences():
            if sequence.owned_by is not None and sequence.owned_by[0] == table.id:
                await self.drop_sequence(txn, sequence)

    async def truncate(self, txn: Txn, tables: Sequence[TableDef]) -> None:
        """Give each table new, empty trees."""
        for table in tables:
            await self.db.rows.lock_table(txn, table, Mode.EXCLUSIVE)
        for table in tables:
            for root in table.roots():
                await self._drop_tree(txn, root)
            await self._drop_large_values(txn, table)
            indexes = [replace(index, root=await self._new_tree(txn)) for index in table.indexes]
            await self._save_table(txn, replace(table, root=await self._new_tree(txn), indexes=tuple(indexes)))
            self._note_verb(txn, NoteVerb.TRUNCATE, table)

    def _note_verb(self, txn: Txn, verb: NoteVerb, table: TableDef) -> None:
        """Leave a note in the log from which a restore finds "before this" (no page changes, nothing to undo)."""
        self.access.log.append(RecordKind.NOTE, 0, 0, (), encode_note(txn.id, verb, table.name))

    async def alter_table(self, txn: Txn, table: TableDef, changed: TableDef) -> TableDef:
        """Save a changed definition whose rows need no rewriting (names, defaults, checks, a column more at the end)."""
        await self.db.rows.lock_table(txn, table, Mode.EXCLUSIVE)
        if changed.name != table.name:
            await self._take_name(txn, changed.name)
        return await self._save_table(txn, changed)

    async def add_column(self, txn: Txn, table: TableDef, column: Column, value: Any = None) -> TableDef:
        """Add a column at the end; rows there are read with `value` in it, without being rewritten."""
        if any(existing.name == column.name for existing in table.columns):
            raise SqlError("42701", f'column "{column.name}" of relation "{table.name}" already exists')
        if value is not None:
            column = replace(column, missing=RowCodec([column.type]).encode([value]))
        return await self.alter_table(txn, table, replace(table, columns=(*table.columns, column)))

    async def add_primary_key(self, txn: Txn, table: TableDef, pk: Sequence[int], name: str = "") -> TableDef:
        """Rewrite the table in the order of its new primary key.

        Raises: SqlError 42P16 (it has one), 23502 (a NULL), UniqueViolation.
        """
        await self.db.rows.lock_table(txn, table, Mode.EXCLUSIVE)
        if table.pk:
            raise SqlError("42P16", f'multiple primary keys for table "{table.name}" are not allowed')
        name = name or f"{table.name}_pkey"
        await self._take_name(txn, name)
        columns = [replace(column, not_null=True) if i in pk else column for i, column in enumerate(table.columns)]
        changed = replace(
            table, columns=tuple(columns), pk=tuple(pk), pk_name=name, pk_id=self.db.new_object_id(),
            root=await self._new_tree(txn),
        )  # fmt: skip
        with self._newest(txn):
            await _Rewrite(self, txn, table, changed).run()
        await self._drop_tree(txn, table.root)
        indexes = []
        for index in changed.indexes:
            await self._drop_tree(txn, index.root)
            fresh = replace(index, root=await self._new_tree(txn), since_txn=txn.id)
            await self._fill_index(txn, changed, fresh)
            indexes.append(fresh)
        return await self._save_table(txn, replace(changed, indexes=tuple(indexes)))

    async def create_index(
        self, txn: Txn, table: TableDef, name: str, columns: Sequence[int], *, unique: bool = False, constraint: bool = False
    ) -> TableDef:
        """Create and fill an index. Raises: SqlError 42P07, UniqueViolation."""
        await self.db.rows.lock_table(txn, table, Mode.EXCLUSIVE)
        await self._take_name(txn, name)
        root = await self._new_tree(txn)
        index = IndexDef(self.db.new_object_id(), name, root, tuple(columns), unique, constraint, since_txn=txn.id)
        await self._fill_index(txn, table, index)
        return await self._save_table(txn, replace(table, indexes=(*table.indexes, index)))

    async def drop_index(self, txn: Txn, table: TableDef, index: IndexDef) -> TableDef:
        await self.db.rows.lock_table(txn, table, Mode.EXCLUSIVE)
        await self._drop_tree(txn, index.root)
        rest = tuple(other for other in table.indexes if other.id != index.id)
        return await self._save_table(txn, replace(table, indexes=rest))

    # -- Bulk loading

    async def can_bulk_load(self, txn: Txn, table: TableDef) -> bool:
        """Whether rows may be loaded in bulk: the table is this transaction's alone, empty, and without keys to check."""
        if table.pk or table.indexes or txn.locks.get(("table", table.id)) != Mode.EXCLUSIVE:
            return False
        return await self.access.run(self._is_empty, table.root)

    async def bulk_load(self, txn: Txn, table: TableDef, batches: AsyncIterator[list[bytes]]) -> int:
        """Load encoded rows into a table for which `can_bulk_load` holds (X4); return how many."""
        txn.begin_write()
        root = await self._new_tree(txn)
        builder = LeafBuilder(self.access.page_size, txn.id)
        stamp = VALUE_HEADER.pack(txn.id, 0, 0)
        limit = btree.max_inline_value(self.access.page_size)
        rowid = 0
        async for batch in batches:
            for payload in batch:
                rowid += 1
                if len(payload) > limit:
                    value = await self._large_value(txn, payload)
                else:
                    value = stamp + payload
                builder.add(rowid.to_bytes(8, "big"), value)
            if len(builder.ready) >= _LEAVES_A_TURN:
                await append_all(self.access, root, builder.take())
        builder.cut()
        await append_all(self.access, root, builder.take())
        await self._drop_tree(txn, table.root)
        await self._save_table(txn, replace(table, root=root))
        return rowid

    async def _large_value(self, txn: Txn, payload: bytes) -> bytes:
        return VALUE_HEADER.pack(txn.id, 0, LARGE) + await large.store(self.access, txn, payload)

    def _is_empty(self, root: int) -> bool:
        leaf, _start, fence = btree.leaf_from(self.access, root, None)
        return not leaf.keys and fence is None

    async def _fill_index(self, txn: Txn, table: TableDef, index: IndexDef) -> None:
        """Fill an empty index from the rows that are there now."""
        txn.begin_write()
        rows = TableAccess(replace(table, indexes=()))
        access = IndexAccess(table, index, rows.row)
        entries: list[tuple[bytes, bytes]] = []
        with self._newest(txn):
            async for batch in self.db.rows.scan(txn, table.root):
                entries += [(access.entry_of_payload(payload, key)[0], key) for key, payload in batch]
                if len(entries) > SORT_LIMIT:
                    raise SqlError(
                        "54000", f"an index over more than {SORT_LIMIT} rows cannot be built yet", hint="Create it first."
                    )
        entries.sort()
        builder = LeafBuilder(self.access.page_size, txn.id)
        stamp = VALUE_HEADER.pack(txn.id, 0, 0)
        previous = None
        for entry, key in entries:
            if entry == previous:
                raise UniqueViolation(
                    f'could not create unique index "{index.name}"',
                    rows.describe_key(index.columns, await self._values_at(txn, rows, key)),
                )
            btree.check_key_size(self.access, entry)
            builder.add(entry, stamp + key)
            previous = entry
            if len(builder.ready) >= _LEAVES_A_TURN:
                await append_all(self.access, index.root, builder.take())
        builder.cut()
        await append_all(self.access, index.root, builder.take())

    async def _values_at(self, txn: Txn, rows: TableAccess, key: bytes) -> list[Any]:
        payload = await self.db.rows.get(txn, rows.root, key)
        return rows.row.decode(payload) if payload is not None else [None] * len(rows.definition.columns)

    # -- Sequences

    async def create_sequence(self, txn: Txn, name: str, **options: Any) -> SequenceDef:
        await self._take_name(txn, name)
        sequence = SequenceDef(self.db.new_object_id(), name, **options)
        await self._put(txn, SEQUENCE, sequence.id, sequence)
        await self._put_bytes(txn, VALUE, sequence.id, _value(sequence.start))
        return sequence

    async def drop_sequence(self, txn: Txn, sequence: SequenceDef) -> None:
        """Drop a sequence. Its value stays until the next start: undoing a change of it would give out values twice."""
        await self._remove(txn, SEQUENCE, sequence.id)

    async def nextval(self, sequence: SequenceDef, txn: Txn | None = None) -> int:
        """The next value, never given out again: not after a rollback, and not after a crash once `txn` has committed.

        Raises: SqlError 2200H.
        """
        block = self._sequences.get(sequence.id)
        if block is None or block[0] == block[1]:
            block = await self.access.run(self._reserve, sequence)
        value = block[0]
        if not sequence.min_value <= value <= sequence.max_value:
            if not sequence.cycle:
                bound = "maximum" if sequence.increment > 0 else "minimum"
                raise SqlError("2200H", f'nextval: reached {bound} value of sequence "{sequence.name}"')
            await self.setval(sequence, sequence.min_value if sequence.increment > 0 else sequence.max_value)
            return await self.nextval(sequence, txn)
        block[0] = value + sequence.increment
        if txn is not None:
            txn.needs_durable(block[2])
        return value

    async def setval(self, sequence: SequenceDef, next_value: int) -> None:
        self._sequences.pop(sequence.id, None)
        await self.access.run(self._set_value, sequence.id, next_value)

    def _reserve(self, sequence: SequenceDef) -> list[int]:
        """Move the logged value ahead by a block, so that a crash skips values and repeats none: [next, end, LSN]."""
        value = btree.get(self.access, CATALOG_ROOT, entry_key(VALUE, sequence.id))
        if value is None:
            raise SqlError("42P01", f'relation "{sequence.name}" does not exist')
        next_value = int.from_bytes(value[VALUE_HEADER_SIZE:], "little", signed=True)
        end = next_value + SEQUENCE_CACHE * sequence.increment
        block = self._sequences[sequence.id] = [next_value, end, self._set_value(sequence.id, end)]
        return block

    def _set_value(self, sequence_id: int, next_value: int) -> int:
        stamped = VALUE_HEADER.pack(0, 0, 0) + _value(next_value)
        return btree.restore(self.access, RecordKind.SYSTEM, CATALOG_ROOT, entry_key(VALUE, sequence_id), stamped, None)

    # -- Shared steps

    @contextmanager
    def _newest(self, txn: Txn) -> Iterator[None]:
        """Read what is committed now, not what it was when the statement began (X5)."""
        own = txn.snapshot
        txn.snapshot = newest = self.db.manager.take_snapshot()
        try:
            yield
        finally:
            txn.snapshot = own
            self.db.manager.release_snapshot(newest)

    async def _take_name(self, txn: Txn, name: str) -> None:
        txn.begin_write()
        await txn.lock(("name", name), Mode.EXCLUSIVE)
        if self.db.catalog_for(txn).name_taken(name):
            raise SqlError("42P07", f'relation "{name}" already exists')

    async def _new_tree(self, txn: Txn) -> int:
        txn.begin_write()
        root = await self.access.run(create_tree, self.access, txn)
        await self.access.run(adopt_tree, self.access, txn, root)
        self.db.rows.forget_tree(root)
        return root

    async def _drop_tree(self, txn: Txn, root: int) -> None:
        txn.begin_write()
        await self.access.run(drop_tree, self.access, txn, root)

    async def _drop_large_values(self, txn: Txn, table: TableDef) -> None:
        """Give up the large values of a table whose tree goes. (Only tables with a column that can be large are scanned.)"""
        can_be_large = ("text", "varchar", "bpchar", "bytea", "json", "jsonb", "numeric")
        if not any(column.type in can_be_large for column in table.columns):
            return
        low: bytes | None = None
        while True:
            references, low = await self.access.run(self._large_references, table.root, low)
            for reference in references:
                await large.drop(self.access, txn, reference)
            if low is None:
                return

    def _large_references(self, root: int, low: bytes | None) -> tuple[list[bytes], bytes | None]:
        leaf, start, fence = btree.leaf_from(self.access, root, low)
        found = [
            value[VALUE_HEADER_SIZE:] for value in leaf.vals[start:] if value[16] & LARGE and not value[16] & GHOST
        ]
        return found, fence

    async def _save_table(self, txn: Txn, table: TableDef) -> TableDef:
        table = replace(table, version=self.db.new_version())
        await self._put(txn, TABLE, table.id, table)
        return table

    async def _put(self, txn: Txn, kind: str, object_id: int, definition: Definition) -> None:
        await self._put_bytes(txn, kind, object_id, encode_definition(definition))
        self._note(txn, kind, object_id, definition)

    async def _put_bytes(self, txn: Txn, kind: str, object_id: int, payload: bytes) -> None:
        txn.begin_write()
        await self.db.rows.drop_large(txn, CATALOG_ROOT, entry_key(kind, object_id))
        await self.db.rows.put_row(txn, CATALOG_ROOT, entry_key(kind, object_id), payload)

    async def _remove(self, txn: Txn, kind: str, object_id: int) -> None:
        txn.begin_write()
        await self.db.rows.drop_large(txn, CATALOG_ROOT, entry_key(kind, object_id))
        await self.db.rows.ghost(txn, CATALOG_ROOT, entry_key(kind, object_id))
        self._note(txn, kind, object_id, None)

    def _note(self, txn: Txn, kind: str, object_id: int, definition: Definition | None) -> None:
        overlay = txn.ddl if txn.ddl is not None else Overlay()
        txn.ddl = overlay.with_change((kind, object_id), definition)
        self.db.watch_ddl(txn)


def _value(number: int) -> bytes:
    # A sequence that has given out its last value may stand one block beyond what 8 bytes hold.
    return number.to_bytes(8 if -(1 << 63) <= number < 1 << 63 else 16, "little", signed=True)


class _Rewrite:
    """Copy a table's rows into the (empty) tree of its changed definition, ordered by its new key."""

    def __init__(self, ddl: Ddl, txn: Txn, old: TableDef, new: TableDef) -> None:
        self.ddl = ddl
        self.txn = txn
        self.old = old
        self.new = TableAccess(replace(new, indexes=()))
        self.builder = LeafBuilder(ddl.access.page_size, txn.id)
        self.read_pk = self.new.row.projector(self.new.pk)
        self.last: bytes | None = None
        self.sorted = True

    async def run(self) -> None:
        """Rows that come in ascending order are appended; from the first that does not, the rest is sorted in or put."""
        rest: list[tuple[bytes, bytes]] = []
        async for batch in self._batches():
            rest += self._append_ascending(batch)
            if len(self.builder.ready) >= _LEAVES_A_TURN:
                await append_all(self.ddl.access, self.new.root, self.builder.take())
            if len(rest) >= SORT_LIMIT:
                await self._put_rest(rest)
                rest = []
        self.builder.cut()
        await append_all(self.ddl.access, self.new.root, self.builder.take())
        await self._put_rest(rest)

    async def _batches(self) -> AsyncIterator[list[tuple[bytes, bytes]]]:
        """Leaves of the old tree as [(new key, value with its flags, freshly stamped)]."""
        access, low = self.ddl.access, None
        while True:
            rows, low = await access.run(self.ddl.db.rows.try_scan, self.txn, self.old.root, low, None, False)
            if self._any_large(rows):
                yield [await self._row(payload, is_large) for _key, payload, is_large in rows]
            else:
                yield self._rows(rows)
            if low is None:
                return

    @staticmethod
    def _any_large(rows: Iterable[tuple[bytes, bytes, bool]]) -> bool:
        return any(is_large for _key, _payload, is_large in rows)

    def _rows(self, rows: list[tuple[bytes, bytes, bool]]) -> list[tuple[bytes, bytes]]:
        stamp = VALUE_HEADER.pack(self.txn.id, 0, 0)
        read, encode, codec = self.read_pk, self._encode, self.new.pk_codec
        if codec is None:
            return []
        return [(encode(read(payload)), stamp + payload) for _key, payload, _large in rows]

    async def _row(self, payload: bytes, is_large: bool) -> tuple[bytes, bytes]:
        data = await large.load(self.ddl.access, payload) if is_large else payload
        flags = LARGE if is_large else 0
        return self._encode(self.read_pk(data)), VALUE_HEADER.pack(self.txn.id, 0, flags) + payload

    def _encode(self, columns: tuple[Any, ...]) -> bytes:
        if None in columns:
            name = self.new.definition.columns[self.new.pk[columns.index(None)]].name
            raise SqlError("23502", f'column "{name}" of relation "{self.old.name}" contains null values')
        codec = self.new.pk_codec
        if codec is None:
            raise SqlError("42P16", "a primary key needs columns")
        return codec.encode(columns)

    def _append_ascending(self, batch: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        if not self.sorted:
            return batch
        add, last = self.builder.add, self.last
        for position, (key, value) in enumerate(batch):
            if last is not None and key <= last:
                if key == last:
                    raise self._duplicate(key)
                self.sorted, self.last = False, last
                return batch[position:]
            add(key, value)
            last = key
        self.last = last
        return []

    async def _put_rest(self, rest: list[tuple[bytes, bytes]]) -> None:
        rest.sort()
        for key, value in rest:
            if await self.ddl.access.run(btree.get, self.ddl.access, self.new.root, key) is not None:
                raise self._duplicate(key)
            self.txn.begin_write()
            await self.ddl.access.run(
                btree.put, self.ddl.access, self.txn, self.new.root, key, value[16], value[VALUE_HEADER_SIZE:]
            )

    def _duplicate(self, key: bytes) -> UniqueViolation:
        codec = self.new.pk_codec
        shown = ", ".join(str(value) for value in codec.decode(key)) if codec is not None else key.hex()
        names = ", ".join(self.new.definition.columns[position].name for position in self.new.pk)
        return UniqueViolation(
            f'could not create unique index "{self.new.definition.pk_name}"', f"Key ({names})=({shown}) is duplicated."
        )

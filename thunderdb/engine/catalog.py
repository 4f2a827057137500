"""The catalog: definitions of tables, indexes and sequences, kept in a tree of its own so that DDL is transactional.

Key in the catalog tree (root page 1): kind (1 byte: T table, S sequence, V a sequence's value), then the object's id (4 bytes,
big-endian). Payload: the definition as JSON; for V the next value, signed,
little-endian, as 8 bytes, or as 16 where it does not fit. (A dropped sequence's V goes at the next start.)

D1. A `Catalog` is immutable: statements may keep one over any await. `version` differs between any two that differ.
D2. A transaction's own DDL is an `Overlay` over the committed catalog; it becomes the committed one when its commit is durable.
D3. An object's id is never the id of another object that a live transaction may still know.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

CATALOG_ROOT = 1
FIRST_OBJECT_ID = 16384

TABLE = "T"
SEQUENCE = "S"
VALUE = "V"

EntryKey = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Column:
    """A column. `typmod` is PostgreSQL's (-1: none); `default` is SQL text; `missing` is the encoded one-column row payload
    that stands for the column in rows older than it (None: NULL)."""

    name: str
    type: str
    typmod: int = -1
    not_null: bool = False
    default: str | None = None
    missing: bytes | None = None


@dataclass(frozen=True, slots=True)
class IndexDef:
    """A secondary index: a tree of (columns [+ primary key]) -> primary key."""

    id: int
    name: str
    root: int
    columns: tuple[int, ...]
    unique: bool = False
    constraint: bool = False
    since_txn: int = 0
    """The transaction that built it from rows that were there: an older snapshot finds nothing in it (0: with its table)."""


@dataclass(frozen=True, slots=True)
class CheckDef:
    name: str
    sql: str


@dataclass(frozen=True, slots=True)
class SequenceDef:
    id: int
    name: str
    start: int = 1
    increment: int = 1
    min_value: int = 1
    max_value: int = (1 << 63) - 1
    cycle: bool = False
    owned_by: tuple[int, int] | None = None
    """(table id, column position) whose drop drops it."""


@dataclass(frozen=True, slots=True)
class TableDef:
    """A table. `pk` holds column positions; () means rows are keyed by a hidden 8-byte row id."""

    id: int
    name: str
    root: int
    columns: tuple[Column, ...]
    pk: tuple[int, ...] = ()
    pk_name: str = ""
    pk_id: int = 0
    indexes: tuple[IndexDef, ...] = ()
    checks: tuple[CheckDef, ...] = ()
    fillfactor: int = 92
    version: int = 0
    schema: str = "public"

    def column_index(self, name: str) -> int:
        """Position of a column. Raises: KeyError."""
        for position, column in enumerate(self.columns):
            if column.name == name:
                return position
        raise KeyError(name)

    def roots(self) -> Iterator[int]:
        yield self.root
        for index in self.indexes:
            yield index.root


Definition = TableDef | SequenceDef

_ENCODER = msgspec.json.Encoder()
_TABLE_DECODER = msgspec.json.Decoder(TableDef)
_SEQUENCE_DECODER = msgspec.json.Decoder(SequenceDef)


def entry_key(kind: str, object_id: int) -> bytes:
    return kind.encode() + object_id.to_bytes(4, "big")


def encode_definition(definition: Definition) -> bytes:
    return _ENCODER.encode(definition)


def decode_entry(key: bytes, payload: bytes) -> tuple[EntryKey, Definition | None]:
    """Return (entry key, definition); sequences' values have none."""
    kind, object_id = chr(key[0]), int.from_bytes(key[1:], "big")
    if kind == TABLE:
        return (kind, object_id), _TABLE_DECODER.decode(payload)
    if kind == SEQUENCE:
        return (kind, object_id), _SEQUENCE_DECODER.decode(payload)
    return (kind, object_id), None


class Catalog:
    """One consistent set of definitions (D1)."""

    __slots__ = ("entries", "version", "_tables", "_sequences", "_indexes", "_by_id", "_roots")

    def __init__(self, entries: Mapping[EntryKey, Definition], version: int) -> None:
        self.entries = dict(entries)
        self.version = version
        self._tables: dict[str, TableDef] = {}
        self._by_id: dict[int, TableDef] = {}
        self._sequences: dict[str, SequenceDef] = {}
        self._indexes: dict[str, tuple[TableDef, IndexDef | None]] = {}
        self._roots: frozenset[int] | None = None
        for definition in self.entries.values():
            if isinstance(definition, TableDef):
                self._tables[definition.name] = definition
                self._by_id[definition.id] = definition
                if definition.pk_name:
                    self._indexes[definition.pk_name] = (definition, None)
                for index in definition.indexes:
                    self._indexes[index.name] = (definition, index)
            else:
                self._sequences[definition.name] = definition

    def table(self, name: str) -> TableDef | None:
        return self._tables.get(name)

    def table_by_id(self, table_id: int) -> TableDef | None:
        return self._by_id.get(table_id)

    def sequence(self, name: str) -> SequenceDef | None:
        return self._sequences.get(name)

    def index(self, name: str) -> tuple[TableDef, IndexDef | None] | None:
        """(table, index) of an index name; the index is None for a primary key, which is the table's own tree."""
        return self._indexes.get(name)

    def tables(self) -> list[TableDef]:
        """All tables, by name."""
        return [self._tables[name] for name in sorted(self._tables)]

    def sequences(self) -> list[SequenceDef]:
        return [self._sequences[name] for name in sorted(self._sequences)]

    def name_taken(self, name: str) -> bool:
        """Tables, indexes and sequences share one name space, as in PostgreSQL."""
        return name in self._tables or name in self._indexes or name in self._sequences

    def roots(self) -> frozenset[int]:
        """Root pages of all trees that tables and indexes own."""
        if self._roots is None:
            self._roots = frozenset(root for table in self._tables.values() for root in table.roots())
        return self._roots


@dataclass(slots=True)
class Overlay:
    """A transaction's own changes to the catalog (D2); replaced, never changed, so that a savepoint can keep it."""

    changes: dict[EntryKey, Definition | None] = field(default_factory=dict)
    cached: Any = None

    def with_change(self, key: EntryKey, definition: Definition | None) -> Overlay:
        return Overlay({**self.changes, key: definition})

    def apply_to(self, base: Catalog, version: int) -> Catalog:
        """The committed catalog with these changes, cached until the committed one changes."""
        if self.cached is None or self.cached[0] is not base:
            entries = dict(base.entries)
            for key, definition in self.changes.items():
                if definition is None:
                    entries.pop(key, None)
                else:
                    entries[key] = definition
            self.cached = (base, Catalog(entries, version))
        catalog: Catalog = self.cached[1]
        return catalog

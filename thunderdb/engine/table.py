"""Rows of one table version: keys, payloads, index entries, as bytes. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from thunderdb.access.keys import KeyCodec
from thunderdb.access.rows import RowCodec
from thunderdb.base.errors import SqlError
from thunderdb.engine.catalog import IndexDef, TableDef


class IndexAccess:
    """One index of a table version. Entries: key columns (+ the row's key unless unique and free of NULLs) -> the row's key."""

    __slots__ = ("definition", "codec", "columns", "root", "unique", "_read")

    def __init__(self, table: TableDef, definition: IndexDef, row: RowCodec) -> None:
        self.definition = definition
        self.columns = definition.columns
        self.root = definition.root
        self.unique = definition.unique
        self.codec = KeyCodec([table.columns[position].type for position in definition.columns], nullable=True)
        self._read = row.projector(definition.columns)

    def entry_of_payload(self, payload: bytes, row_key: bytes) -> tuple[bytes, bool]:
        return self._entry(self._read(payload), row_key)

    def entry(self, values: Sequence[Any], row_key: bytes) -> tuple[bytes, bool]:
        """The entry's key for a row, and whether it must be unique."""
        return self._entry([values[position] for position in self.columns], row_key)

    def _entry(self, columns: Sequence[Any], row_key: bytes) -> tuple[bytes, bool]:
        key = self.codec.encode(columns)
        if self.unique and None not in columns:
            return key, True
        return key + row_key, False


class TableAccess:
    """Codecs of one table version."""

    __slots__ = ("definition", "root", "row", "pk", "pk_codec", "indexes", "lock_name", "_pk_single")

    def __init__(self, definition: TableDef) -> None:
        self.definition = definition
        self.root = definition.root
        self.lock_name = ("table", definition.id)
        missing = [
            None if column.missing is None else RowCodec([column.type]).decode(column.missing)[0]
            for column in definition.columns
        ]
        self.row = RowCodec([column.type for column in definition.columns], missing)
        self.pk = definition.pk
        self.pk_codec = KeyCodec([definition.columns[position].type for position in self.pk]) if self.pk else None
        self._pk_single = self.pk[0] if len(self.pk) == 1 else None
        self.indexes = [IndexAccess(definition, index, self.row) for index in definition.indexes]

    def key_of(self, values: Sequence[Any]) -> bytes | None:
        """The row's key, or None if the table has no primary key. Raises: SqlError 23502 for a NULL in it."""
        if self.pk_codec is None:
            return None
        columns = [values[position] for position in self.pk]
        if None in columns:
            column = self.definition.columns[self.pk[columns.index(None)]].name
            raise SqlError(
                "23502", f'null value in column "{column}" of relation "{self.definition.name}" violates not-null constraint'
            )
        return self.pk_codec.encode(columns)

    def describe_key(self, positions: Sequence[int], values: Sequence[Any]) -> str:
        names = ", ".join(self.definition.columns[position].name for position in positions)
        shown = ", ".join(str(values[position]) for position in positions)
        return f"Key ({names})=({shown}) already exists."

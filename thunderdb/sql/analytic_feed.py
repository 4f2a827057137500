"""Carry table rows into DuckDB: batches of row payloads become numpy columns, then rows of a temporary table.

F1. Only the columns that the query names are decoded; all-fixed columns of equally shaped rows are cut out by numpy at once.
F2. One batch is in memory at a time; what is loaded lives in DuckDB, under its memory limit.

Measured, per row of (int, text): numpy 0.14 us, pyarrow 0.37 us; the appender of Python values is slower than both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np

from thunderdb.access.rows import FIXED_FORMATS, RowCodec
from thunderdb.base.errors import SqlError
from thunderdb.sql.analytic_types import EPOCH_2000_US, SqlType, duckdb_type, numeric_bounds

BATCH_ROWS = 8192
KEY_COLUMN = "__key"

_NUMPY = {
    "bool": "?", "int2": "<i2", "int4": "<i4", "int8": "<i8", "oid": "<i8", "date": "<i4", "time": "<i8",
    "timestamp": "<i8", "timestamptz": "<i8", "float4": "<f4", "float8": "<f8", "uuid": "S16",
}  # fmt: skip
_DIRECT = frozenset(_NUMPY) - {"uuid"}


@dataclass(frozen=True, slots=True)
class FeedColumn:
    name: str
    type: SqlType

    @property
    def staged_as_text(self) -> bool:
        return self.type.name == "numeric" and numeric_bounds(self.type.typmod) is None

    @property
    def quoted(self) -> str:
        return '"' + self.name.replace('"', '""') + '"'


class TableFeed:
    """One table's way into DuckDB: the SQL to create it, and batches in the form that `insert` takes."""

    def __init__(self, name: str, columns: Sequence[FeedColumn], with_key: bool = False) -> None:
        self.name = name
        self.columns = tuple(columns)
        self.with_key = with_key
        self._scales = [0] * len(self.columns)
        self._digits = [0] * len(self.columns)

    def create_sql(self) -> str:
        parts = [f"{c.quoted} {duckdb_type(c.type.name, c.type.typmod)}" for c in self.columns]
        if self.with_key:
            parts.append(f"{KEY_COLUMN} BLOB")
        if not parts:
            parts.append("__none BOOLEAN")
        return f"CREATE TEMP TABLE {self.name} ({', '.join(parts)})"

    def insert_sql(self, batch: str) -> str:
        parts = [_inward(c, f"c{i}") for i, c in enumerate(self.columns)]
        if self.with_key:
            parts.append(KEY_COLUMN)
        return f"INSERT INTO {self.name} SELECT {', '.join(parts) or 'n'} FROM {batch}"

    def finished_sql(self) -> tuple[str, str]:
        """(a statement to run once all is loaded or "", the name to query): numerics without bounds get their scale now."""
        staged = [i for i, c in enumerate(self.columns) if c.staged_as_text]
        if not staged:
            return "", self.name
        parts = []
        for i, column in enumerate(self.columns):
            if i not in staged:
                parts.append(column.quoted)
                continue
            if self._digits[i] + self._scales[i] > 38:
                raise SqlError(
                    "0A000", f'column "{column.name}" holds numerics of more than 38 digits, too many for this query'
                )
            parts.append(f"CAST({column.quoted} AS DECIMAL(38,{self._scales[i]})) AS {column.quoted}")
        if self.with_key:
            parts.append(KEY_COLUMN)
        view = f"{self.name}_v"
        return f"CREATE TEMP VIEW {view} AS SELECT {', '.join(parts)} FROM {self.name}", view

    def arrays(self, columns: Sequence[Sequence[Any]], count: int, keys: Sequence[bytes] = ()) -> dict[str, Any]:
        """A batch given column by column, as DuckDB takes it."""
        batch: dict[str, Any] = {}
        for i, (column, values) in enumerate(zip(self.columns, columns, strict=True)):
            if column.staged_as_text:
                self._measure(i, values)
            if column.type.name == "interval":
                parts = [(None, None, None) if v is None else v for v in values]
                for part in range(3):
                    batch[f"c{i}_{part}"] = _integers([v[part] for v in parts], "<i8")
            else:
                batch[f"c{i}"] = _array(column.type.name, values)
        if self.with_key:
            batch[KEY_COLUMN] = _objects(keys)
        if not batch:
            batch["n"] = np.zeros(count, dtype="?")
        return batch

    def _measure(self, position: int, values: Sequence[Decimal | None]) -> None:
        for value in values:
            if value is None:
                continue
            exponent = value.as_tuple().exponent
            if not isinstance(exponent, int):
                raise SqlError("0A000", f"numeric {value} is not supported in this query")
            self._scales[position] = max(self._scales[position], -exponent)
            self._digits[position] = max(self._digits[position], value.adjusted() + 1)


class PayloadReader:
    """Row payloads to the arrays of a TableFeed."""

    def __init__(self, feed: TableFeed, codec: RowCodec, positions: Sequence[int]) -> None:
        self._feed = feed
        self._types = codec.types
        self._positions = tuple(positions)
        self._project: Callable[[bytes], Any] = codec.projector(self._positions)
        self._vectorised = bool(positions) and all(codec.types[p] in _DIRECT for p in positions)
        self._layouts: dict[bytes, np.dtype[Any] | None] = {}

    def arrays(self, rows: Sequence[tuple[bytes, bytes]]) -> dict[str, Any]:
        keys = [key for key, _ in rows] if self._feed.with_key else ()
        if self._vectorised:
            columns = self._cut(rows)
            if columns is not None:
                if keys:
                    columns[KEY_COLUMN] = _objects(keys)
                return columns
        if not self._positions:
            return self._feed.arrays((), len(rows), keys)
        project = self._project
        values = list(zip(*[project(payload) for _, payload in rows], strict=True))
        return self._feed.arrays(values, len(rows), keys)

    def _cut(self, rows: Sequence[tuple[bytes, bytes]]) -> dict[str, Any] | None:
        """The fixed columns of rows that all have the first one's shape (F1), None if they do not."""
        head_size = 2 + (len(self._types) + 7) // 8
        head = rows[0][1][:head_size]
        if head not in self._layouts:
            self._layouts[head] = self._layout(head)
        layout = self._layouts[head]
        if layout is None:
            return None
        size = layout.itemsize
        data = b"".join([payload[:size] for _, payload in rows])
        if len(data) != size * len(rows):
            return None
        table = np.frombuffer(data, dtype=layout)
        if not (table["head"] == table["head"][0]).all():
            return None
        columns: dict[str, Any] = {}
        for i, position in enumerate(self._positions):
            column = np.ascontiguousarray(table[f"f{position}"])
            if column.dtype.kind == "f" and np.isnan(column).any():
                return None  # numpy's NaN would come in as NULL
            columns[f"c{i}"] = column
        return columns

    def _layout(self, head: bytes) -> np.dtype[Any] | None:
        """The fixed part of a row with no NULLs and all columns; other shapes take the slower way."""
        if int.from_bytes(head[:2], "little") != len(self._types) or any(head[2:]):
            return None
        fields: list[Any] = [("head", f"V{len(head)}")]
        fields += [(f"f{i}", _NUMPY.get(t, "V16") if t in FIXED_FORMATS else "<u4") for i, t in enumerate(self._types)]
        return np.dtype(fields)


def _inward(column: FeedColumn, source: str) -> str:
    """SQL from a batch's column to the table's."""
    name = column.type.name
    target = duckdb_type(name, column.type.typmod)
    if name == "date":
        return f"DATE '2000-01-01' + {source}"
    if name in ("timestamp", "timestamptz"):
        return f"CAST(make_timestamp({source} + {EPOCH_2000_US}) AS {target})"
    if name == "time":
        return f"CAST(make_timestamp({source}) AS TIME)"
    if name == "interval":
        return f"to_months(CAST({source}_0 AS INTEGER)) + to_days(CAST({source}_1 AS INTEGER)) + to_microseconds({source}_2)"
    if name == "bpchar":
        return f"rtrim({source}, ' ')"
    if target == "VARCHAR[]":
        return source
    return f"CAST({source} AS {target})"


def _array(name: str, values: Sequence[Any]) -> Any:
    if name in ("float4", "float8"):
        if any(v is not None and math.isnan(v) for v in values):
            return _objects([None if v is None else repr(v) for v in values])
        return _integers(values, "<f8")
    code = _NUMPY.get(name)
    if name == "uuid":
        return _objects([None if v is None else v.hex() for v in values])
    if code is not None:
        return _integers(values, code)
    if name == "numeric":
        return _objects([None if v is None else format(v, "f") for v in values])
    return _objects(values)


def _integers(values: Sequence[Any], code: str) -> Any:
    if None in values:
        filled = np.array([0 if v is None else v for v in values], dtype=code)
        return np.ma.masked_array(filled, mask=[v is None for v in values])
    return np.array(values, dtype=code)


def _objects(values: Sequence[Any]) -> Any:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array

"""A database of Python lists with the shape of the engine's reading side: enough for queries."""

from __future__ import annotations

from thunderdb.access.rows import RowCodec
from thunderdb.engine.catalog import Catalog, Column, TableDef
from thunderdb.sql.parse import parse


class InlineOffload:
    async def run(self, function, *args):
        return function(*args)


class _TableAccess:
    def __init__(self, row):
        self.row = row


class _Rows:
    def __init__(self):
        self.codecs = {}
        self.data = {}

    def table(self, definition):
        return _TableAccess(self.codecs[definition.id])

    async def scan(self, txn, root, low=None, high=None, reverse=False):
        rows = self.data[root]
        for at in range(0, len(rows), 100):
            yield rows[at : at + 100]


class FakeDatabase:
    def __init__(self):
        self.rows = _Rows()
        self.entries = {}
        self._catalog = None

    def add(self, name, columns, rows=(), **definition):
        """columns: [(name, type[, typmod])]; rows: value lists."""
        number = definition.pop("id", 16384 + 10 * len(self.entries))
        defined = tuple(c if isinstance(c, Column) else Column(*c) for c in columns)
        table = TableDef(number, name, root=number, columns=defined, **definition)
        self.entries["T", number] = table
        codec = self.rows.codecs[number] = RowCodec([c.type for c in defined])
        self.rows.data[number] = [(i.to_bytes(8, "big"), codec.encode(row)) for i, row in enumerate(rows, 1)]
        self._catalog = None
        return table

    def catalog_for(self, txn):
        if self._catalog is None:
            self._catalog = Catalog(self.entries, 1)
        return self._catalog


def drive(coroutine):
    """Run a coroutine that never really waits."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("the coroutine waited")


async def _collect(analytics, db, sql, params, session):
    stream = await analytics.run_select(db, None, parse(sql), params, session)
    rows = []
    async for batch in stream:
        rows.extend(batch)
    return stream.columns, rows


def query(analytics, db, sql, params=None, session=None):
    """(columns, rows) of a query."""
    return drive(_collect(analytics, db, sql, params, session))

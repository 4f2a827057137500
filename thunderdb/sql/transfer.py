"""COPY at run time: rows of a COPY FROM into a table, in bulk where that is safe; rows of a table or query out.

C1. A table that is the transaction's own, empty and without keys is loaded in bulk (pages built in order, COPY's usual case);
    any other gets ordinary inserts, with every check.
C2. Between the client and the loader stands at most one batch.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from sqlglot import exp

from thunderdb.base.errors import QueryCancelled, SqlError
from thunderdb.runtime.sync import Future, Task
from thunderdb.sql import text_in, text_out, types
from thunderdb.sql.binary import binary_encoder, decode_binary
from thunderdb.sql.context import CHANGES_A_TURN, Context
from thunderdb.sql.copy import CopyColumn
from thunderdb.sql.copy import CopyIn as CopyReader
from thunderdb.sql.copy_out import CopyOut as CopyWriter
from thunderdb.sql.copy_statement import CopyStatement
from thunderdb.sql.ddl import table_of
from thunderdb.sql.expr import Compiler, Slots
from thunderdb.sql.plan import Environment, Plan
from thunderdb.sql.write import Target

Hook = Callable[[str], Awaitable[None]]


def _node(statement: CopyStatement) -> exp.Table:
    schema = exp.to_identifier(statement.schema, quoted=True) if statement.schema else None
    return exp.Table(this=exp.to_identifier(statement.table, quoted=True), db=schema)


class CopyInto:
    """COPY … FROM STDIN: the wire layer feeds it (result.CopyIn)."""

    def __init__(self, context: Context, env: Environment, statement: CopyStatement, finished: Hook, failed: Hook) -> None:
        self.context = context
        self.binary = statement.options.format == "binary"
        self.definition = table_of(context, _node(statement))
        self.target = Target(env, self.definition)
        names = statement.columns or tuple(column.name for column in self.definition.columns)
        self.positions = [self.target.position(name) for name in names]
        self.column_count = len(names)
        self.statement = statement
        self.loaded = 0
        self._finished, self._failed = finished, failed
        self._reader: CopyReader | None = None
        self._pipe: _Pipe | None = None
        self._load: Task[int] | None = None
        whole = self.positions == list(range(len(self.definition.columns)))
        self._payloads = whole and not self.definition.checks
        compiler = Compiler([], Slots())
        self._fill = [
            (position, self.target.default(compiler, position).fn)
            for position in range(len(self.definition.columns))
            if position not in self.positions
        ]
        self._sequences = compiler.sequences

    async def start(self) -> None:
        context, definition = self.context, self.definition
        context.txn.begin_write()
        await context.rows.lock_table(context.txn, definition)
        bulk = self._payloads and await context.db.ddl.can_bulk_load(context.txn, definition)
        self._payloads = bulk
        codec = self.target.table.row if bulk else None
        columns = [_copy_column(definition.columns[position]) for position in self.positions]
        self._reader = CopyReader(definition.name, columns, self.statement.options, codec)
        if bulk:
            tasks = context.db.access.tasks
            self._pipe = _Pipe(tasks)
            self._load = tasks.spawn(context.db.ddl.bulk_load(context.txn, definition, self._pipe.batches()), "copy")

    async def feed(self, data: bytes) -> None:
        self.context.check()
        if self._reader is not None:
            await self._take(self._reader.feed(data))

    async def _take(self, rows: list[Any]) -> None:
        if not rows:
            return
        self.loaded += len(rows)
        if self._pipe is not None and self._load is not None:
            await self._pipe.put(rows, self._load)
            return
        context, target = self.context, self.target
        await context.progress(len(rows))
        for given in rows:
            context.changes += 1
            if context.changes >= CHANGES_A_TURN:
                await context.breathe()
            values: list[Any] = [None] * len(target.columns)
            for position, value in zip(self.positions, given, strict=True):
                values[position] = value
            if self._sequences:
                await context.fill_sequences(self._sequences)
            for position, fn in self._fill:
                values[position] = fn(None, context)
            target.check(values, context)
            await context.rows.insert(context.txn, self.definition, values)

    async def finish(self) -> None:
        """Raises: SqlError."""
        if self._reader is not None:
            await self._take(self._reader.finish())
        await self._close()
        await self._finished(f"COPY {self.loaded}")

    async def _close(self) -> None:
        if self._pipe is not None and self._load is not None:
            await self._pipe.put(None, self._load)
            await self._load

    async def fail(self, message: str) -> None:
        if self._load is not None and self._pipe is not None:
            self._pipe.abort(QueryCancelled(f"COPY from stdin failed: {message}"))
            self._load = None
        await self._failed(message)
        raise QueryCancelled(f"COPY from stdin failed: {message}")


class _Pipe:
    """Hand batches to a task that reads them as an async iterator, one at a time (C2)."""

    def __init__(self, tasks: Any) -> None:
        self._tasks = tasks
        self._batch: Any = None
        self._full: Future[None] = tasks.future()
        self._empty: Future[None] = tasks.future()
        self._empty.set_result(None)

    async def put(self, batch: list[Any] | None, reader: Task[int]) -> None:
        """Wait until the reader has taken the batch before. None ends the iterator. Raises: the reader's error."""
        await self._empty
        if reader.done():
            reader.result()
            return
        self._empty = self._tasks.future()
        self._batch = batch
        self._full.set_result(None)
        if reader.done():
            reader.result()

    def abort(self, error: BaseException) -> None:
        self._full.set_error(error)

    async def batches(self) -> AsyncIterator[list[Any]]:
        try:
            while True:
                await self._full
                self._full = self._tasks.future()
                batch, self._batch = self._batch, None
                self._empty.set_result(None)
                if batch is None:
                    return
                yield batch
        except Exception:
            self._empty.set_result(None)
            raise


def _copy_column(column: Any) -> CopyColumn:
    fit = types.fit(column.type, column.typmod)
    return CopyColumn(
        column.name,
        column.type,
        column.typmod,
        column.not_null,
        text_in.text_parser(column.type, column.typmod),
        lambda data: fit(decode_binary(column.type, data)),
    )


async def copy_out(context: Context, plan: Plan, statement: CopyStatement, count: list[int]) -> AsyncIterator[bytes]:
    """The payloads of COPY … TO STDOUT, one a row; `count[0]` counts them."""
    columns = plan.columns or ()
    binary = statement.options.format == "binary"
    formats = [binary_encoder(c.type_name) if binary else text_out.text_formatter(c.type_name) for c in columns]
    writer = CopyWriter([c.name for c in columns], [c.type_name for c in columns], formats, statement.options)
    start = writer.start()
    if start and not binary:
        yield start
        start = b""
    async for batch in plan.batches(context):
        count[0] += len(batch)
        for piece in writer.each(batch):
            yield start + piece  # the head of the binary format comes with the first row, where drivers expect it
            start = b""
    end = start + writer.end()
    if end:
        yield end


def copy_query(context: Context, statement: CopyStatement) -> exp.Select:
    """COPY table (columns) TO is a SELECT of them. Raises: SqlError."""
    definition = table_of(context, _node(statement))
    names = statement.columns or tuple(column.name for column in definition.columns)
    for name in names:
        if all(column.name != name for column in definition.columns):
            raise SqlError("42703", f'column "{name}" of relation "{definition.name}" does not exist')
    query = exp.Select(expressions=[exp.Column(this=exp.to_identifier(name, quoted=True)) for name in names])
    query.set("from_", exp.From(this=_node(statement)))
    return query

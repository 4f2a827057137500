"""SELECTs that our own access paths do not do: they run in DuckDB over a snapshot of the tables that they name.

    1  find the tables; load the columns that the query names, batch by batch, into temporary tables of a cursor of its own
    2  rewrite the syntax tree for DuckDB (analytic_rewrite); ask DuckDB for the types of the result
    3  run it inside one more SELECT that turns every column into a form that needs no date objects
    4  stream batches of value tuples, in ThunderDB's own representation

A1. DuckDB sees nothing but the temporary tables: no files, no extensions, no Python variables. One thread, so that results do
    not vary; a memory limit for all queries together, beyond which it spills to a directory or refuses (54000).
A2. The loop's thread alone reads pages; DuckDB only ever gets finished batches, off the loop.
A3. A result type is PostgreSQL's: inferred from the query where that is possible, else made from DuckDB's.
"""

from __future__ import annotations

import functools
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import duckdb
from sqlglot import exp

from thunderdb.base.errors import SqlError
from thunderdb.runtime.ports import Offload
from thunderdb.sql import syscatalog
from thunderdb.sql.analytic_errors import sql_error
from thunderdb.sql.analytic_feed import BATCH_ROWS, KEY_COLUMN, FeedColumn, PayloadReader, TableFeed
from thunderdb.sql.analytic_params import parameter_types
from thunderdb.sql.analytic_rewrite import Param, QuerySession, Rewriter, Rewritten, normalise
from thunderdb.sql.analytic_types import SqlType, duckdb_type, from_duckdb, outward
from thunderdb.sql.analytic_typing import Columns, Typer, find_cte, folded
from thunderdb.sql.numeric_div import divide_text
from thunderdb.sql.result import ResultColumn
from thunderdb.sql.text_out import jsonb_text
from thunderdb.sql.types import TYPES

DEFAULT_MEMORY_BYTES = 256 << 20
RESULT_ROWS = 2048

# GLOBAL, or the cursors would not take them over.
_SETTINGS = (
    "SET GLOBAL integer_division=true",
    "SET GLOBAL ieee_floating_point_ops=false",
    "SET GLOBAL default_null_order='nulls_last'",  # what sqlglot takes for granted; DESC comes out as DESC NULLS FIRST
    "SET GLOBAL TimeZone='UTC'",
    "SET GLOBAL python_enable_replacements=false",
    "SET GLOBAL enable_external_access=false",
)

Fix = Callable[[Any], Any]


@dataclass(slots=True)
class _Plan:
    """A query ready to run."""

    sql: str
    columns: tuple[ResultColumn, ...]
    fixes: list[Fix | None]


class Analytics:
    """The queries of a database that run in DuckDB."""

    def __init__(self, offload: Offload, memory_bytes: int = DEFAULT_MEMORY_BYTES, spill_directory: str = "") -> None:
        self._offload = offload
        self._memory_bytes = memory_bytes
        self._spill_directory = spill_directory
        self._instance: Any = None

    def _connection(self) -> Any:
        """A cursor of its own, with its own temporary tables. The instance is opened when it is first needed."""
        if self._instance is None:
            self._instance = _instance(self._memory_bytes, self._spill_directory)
        return self._instance.cursor()

    def close(self) -> None:
        self._instance = None

    async def run_select(
        self,
        db: Any,
        txn: Any,
        tree: exp.Expression,
        params: Mapping[int, Param] | None = None,
        session: QuerySession | None = None,
        key_of: str = "",
    ) -> ResultStream:
        """Run a SELECT (VALUES, UNION …). `params` maps n of $n to (type name, value).

        With `key_of` (a table's name) that table has one more column, `__key`: its rows' keys, as bytea.
        Raises: SqlError. The caller must exhaust or `close` the stream.
        """
        query = _Query(self, db, txn, tree, params or {}, session or QuerySession(), key_of)
        try:
            plan = await query.prepare(load=True)
            await self._offload.run(_execute, query.cursor, plan.sql)
        except BaseException as error:
            query.cursor.close()
            raise _translated(error) from error
        return ResultStream(self._offload, query.cursor, plan)

    async def describe(
        self,
        db: Any,
        txn: Any,
        tree: exp.Expression,
        param_types: Mapping[int, str] | None = None,
        session: QuerySession | None = None,
    ) -> tuple[ResultColumn, ...]:
        """The columns that `run_select` will give, without reading a row. Raises: SqlError."""
        nulls: dict[int, Param] = {number: (name, None) for number, name in (param_types or {}).items()}
        query = _Query(self, db, txn, tree, nulls, session or QuerySession(), "")
        try:
            return (await query.prepare(load=False)).columns
        except Exception as error:
            raise _translated(error) from error
        finally:
            query.cursor.close()

    async def parameter_types(
        self, db: Any, txn: Any, tree: exp.Expression, known: Mapping[int, str], session: QuerySession
    ) -> dict[int, str]:
        """The types of a query's parameters, of which the client has declared some ("unknown": not). Raises: SqlError."""
        query = _Query(self, db, txn, tree, {}, session, "")
        try:
            return await query.parameter_types(known)
        except Exception as error:
            raise _translated(error) from error
        finally:
            query.cursor.close()

    async def evaluate_rows(
        self,
        db: Any,
        txn: Any,
        tree: exp.Expression,
        target: str,
        params: Mapping[int, Param] | None = None,
        session: QuerySession | None = None,
    ) -> list[tuple[bytes, tuple[Any, ...]]]:
        """What a write with a hard WHERE is to change: (key, values) per row of `target`, each row once, in key order.

        `tree` is a SELECT whose first column is `__key` of the target table. Raises: LimitExceeded for too many rows.
        """
        stream = await self.run_select(db, txn, tree, params, session, key_of=target)
        found: dict[bytes, tuple[Any, ...]] = {}
        async for batch in stream:
            for row in batch:
                if row[0] is not None:
                    found.setdefault(row[0], tuple(row[1:]))
        return sorted(found.items())


def _translated(error: BaseException) -> BaseException:
    return sql_error(error) if isinstance(error, (duckdb.Error, RuntimeError)) else error


@functools.lru_cache(2)
def _instance(memory_bytes: int, spill_directory: str) -> Any:
    """The process's DuckDB instance. All that a query leaves in it are temporary tables of its cursor, so that one serves every
    database of the process; opening one takes 40 ms, and a simulated node starts often."""
    config: dict[str, str | bool | int | float | list[str]] = {
        "threads": 1,
        "memory_limit": f"{max(memory_bytes >> 20, 16)}MB",
        "temp_directory": spill_directory,
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "preserve_insertion_order": "true",
    }
    instance = duckdb.connect(":memory:", config=config)
    for statement in _SETTINGS:
        instance.execute(statement)
    varchar = duckdb.sqltypes.VARCHAR if hasattr(duckdb, "sqltypes") else "VARCHAR"
    instance.create_function("numeric_div", divide_text, [varchar, varchar], varchar)
    instance.execute("SET lock_configuration=true")
    return instance


def _execute(cursor: Any, sql: str, *arguments: Any) -> None:
    cursor.execute(sql, *arguments)


class ResultStream:
    """A running query: `columns`, then batches of value tuples by `async for`. Closes itself at the end."""

    def __init__(self, offload: Offload, cursor: Any, plan: _Plan) -> None:
        self.columns = plan.columns
        self._offload = offload
        self._cursor = cursor
        self._fixes = [(i, fix) for i, fix in enumerate(plan.fixes) if fix is not None]
        self._closed = False

    def cancel(self) -> None:
        """Make the running query end with 57014. Safe at any time, from the loop."""
        if not self._closed:
            self._cursor.interrupt()

    def close(self) -> None:
        """Drop the query and its temporary tables; fine if it has ended."""
        if not self._closed:
            self._closed = True
            self._cursor.close()

    def __aiter__(self) -> AsyncIterator[list[tuple[Any, ...]]]:
        return self._batches()

    async def _batches(self) -> AsyncIterator[list[tuple[Any, ...]]]:
        while not self._closed:
            try:
                rows = await self._offload.run(self._cursor.fetchmany, RESULT_ROWS)
                rows = self._fixed(rows)
            except BaseException as error:
                self.close()
                raise _translated(error) from error
            if not rows:
                self.close()
                return
            yield rows

    def _fixed(self, rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        if not self._fixes or not rows:
            return rows
        columns: list[Any] = list(zip(*rows, strict=True))
        for i, fix in self._fixes:
            columns[i] = [None if value is None else fix(value) for value in columns[i]]
        return list(zip(*columns, strict=True))


class _Query:
    """One query on its way to a plan."""

    def __init__(
        self,
        analytics: Analytics,
        db: Any,
        txn: Any,
        tree: exp.Expression,
        params: Mapping[int, Param],
        session: QuerySession,
        key_of: str,
    ) -> None:
        self._offload = analytics._offload
        self._db = db
        self._txn = txn
        self._tree = normalise(tree.copy())
        self._params = params
        self._session = session
        self._key_of = key_of
        self._catalog = db.catalog_for(txn)
        self._system = syscatalog.SystemCatalog(self._catalog, session)
        self._names: dict[tuple[str, str], str] = {}
        self.cursor = analytics._connection()

    async def prepare(self, load: bool) -> _Plan:
        await self._load_tables(load)
        typer = Typer(self._columns_of, {n: SqlType(name) for n, (name, _) in self._params.items()})
        rewriter = Rewriter(typer, self._params, self._session, self._loaded_name, self._system)
        rewritten = rewriter.rewrite(self._tree)
        described = await self._offload.run(self._describe, rewritten.sql)
        return _plan(rewritten, described)

    async def parameter_types(self, known: Mapping[int, str]) -> dict[int, str]:
        await self._load_tables(load=False)
        types = {number: SqlType(name) for number, name in known.items() if name != "unknown"}
        return parameter_types(self._tree, Typer(self._columns_of, types), known)

    def _describe(self, sql: str) -> list[tuple[str, str]]:
        return [(row[0], row[1]) for row in self.cursor.execute(f"DESCRIBE {sql}").fetchall()]

    # Tables

    async def _load_tables(self, load: bool) -> None:
        named, everything = _named_columns(self._tree)
        for node in self._tree.find_all(exp.Table):
            key = self._key(node)
            if key is None or key in self._names:
                continue
            name = f"__t{len(self._names)}"
            table = self._catalog.table(key[1]) if key[0] == "public" else None
            if table is not None:
                self._names[key] = await self._load_table(name, table, named, everything, load)
                continue
            rows = self._system.table(*key)
            if rows is None:
                shown = f"{folded(node.args['db'])}.{key[1]}" if node.args.get("db") else key[1]
                raise SqlError("42P01", f'relation "{shown}" does not exist')
            self._names[key] = await self._offload.run(self._load_system, name, rows)

    async def _load_table(self, name: str, table: Any, named: set[str], everything: bool, load: bool) -> str:
        positions = [i for i, column in enumerate(table.columns) if everything or column.name in named]
        columns = [
            FeedColumn(table.columns[i].name, SqlType(table.columns[i].type, table.columns[i].typmod)) for i in positions
        ]
        feed = TableFeed(name, columns, with_key=bool(self._key_of) and table.name == self._key_of)
        await self._offload.run(_execute, self.cursor, feed.create_sql())
        if load:
            reader = PayloadReader(feed, self._db.rows.table(table).row, positions)
            pending: list[tuple[bytes, bytes]] = []
            async for batch in self._db.rows.scan(self._txn, table.root):
                pending += batch
                if len(pending) >= BATCH_ROWS:
                    await self._offload.run(self._insert, feed, reader, pending)
                    pending = []
            if pending:
                await self._offload.run(self._insert, feed, reader, pending)
        statement, queried = feed.finished_sql()
        if statement:
            await self._offload.run(_execute, self.cursor, statement)
        return queried

    def _insert(self, feed: TableFeed, reader: PayloadReader, rows: Sequence[tuple[bytes, bytes]]) -> None:
        self.cursor.register("__batch", reader.arrays(rows))
        self.cursor.execute(feed.insert_sql("__batch"))
        self.cursor.unregister("__batch")

    def _load_system(self, name: str, rows: syscatalog.SystemTable) -> str:
        feed = TableFeed(name, [FeedColumn(column, SqlType(kind)) for column, kind in rows.columns])
        self.cursor.execute(feed.create_sql())
        if rows.rows:
            columns = list(zip(*rows.rows, strict=True))
            self.cursor.register("__batch", feed.arrays(columns, len(rows.rows)))
            self.cursor.execute(feed.insert_sql("__batch"))
            self.cursor.unregister("__batch")
        statement, queried = feed.finished_sql()
        if statement:
            self.cursor.execute(statement)
        return queried

    def _key(self, node: exp.Table) -> tuple[str, str] | None:
        """(schema, name) of a stored table; None for a CTE or a table function."""
        if not isinstance(node.this, exp.Identifier):
            return None
        name, schema = folded(node.this), folded(node.args["db"]) if node.args.get("db") else ""
        if schema:
            return schema, name
        if find_cte(node, name) is not None:
            return None
        if self._catalog.table(name) is None and self._system.has("pg_catalog", name):
            return "pg_catalog", name
        return "public", name

    def _loaded_name(self, node: exp.Table) -> str | None:
        key = self._key(node)
        return self._names.get(key) if key is not None else None

    def _columns_of(self, node: exp.Table) -> Columns | None:
        key = self._key(node)
        if key is None:
            return None
        table = self._catalog.table(key[1]) if key[0] == "public" else None
        if table is not None:
            columns: Columns = {column.name: SqlType(column.type, column.typmod) for column in table.columns}
            if table.name == self._key_of:
                columns[KEY_COLUMN] = SqlType("bytea")
            return columns
        rows = self._system.table(*key)
        return {name: SqlType(kind) for name, kind in rows.columns} if rows is not None else None


def _named_columns(tree: exp.Expression) -> tuple[set[str], bool]:
    """Every identifier in the query, and whether it may mean all columns (`*`, a whole row, NATURAL JOIN)."""
    names = {folded(node) for node in tree.find_all(exp.Identifier)}
    everything = any(not isinstance(star.parent, exp.Count) for star in tree.find_all(exp.Star))
    everything = everything or any(join.args.get("method") == "NATURAL" for join in tree.find_all(exp.Join))
    for table in tree.find_all(exp.Table):
        alias = table.args.get("alias")
        everything = everything or (alias is not None and bool(alias.args.get("columns")))
        label = folded(alias.this) if alias is not None and alias.this is not None else folded(table.this)
        for column in tree.find_all(exp.Column):
            everything = everything or (not column.args.get("table") and folded(column.this) == label)
    everything = everything or (isinstance(tree, exp.Table))
    return names, everything


def _plan(rewritten: Rewritten, described: list[tuple[str, str]]) -> _Plan:
    """The outer SELECT, the result's columns and what is left to do to each value (A3)."""
    hidden = set(rewritten.hidden.values())
    shown = [i for i in range(len(described)) if i not in hidden]
    outputs = rewritten.outputs if len(rewritten.outputs) == len(shown) else [(described[i][0], None) for i in shown]
    columns: list[ResultColumn] = []
    parts: list[str] = []
    fixes: list[Fix | None] = []
    for position, (name, wanted) in zip(shown, outputs, strict=True):
        duck_type = described[position][1]
        source = f"c{position}"
        fix: Fix | None
        if position in rewritten.hidden:
            kind: SqlType = SqlType("numeric")
            sql, fix = f"c{rewritten.hidden[position]}", _to_decimal
        else:
            kind = _result_type(wanted, duck_type)
            target = duckdb_type(kind.name, kind.typmod)
            if _must_cast(kind, duck_type, target):
                source, duck_type = f"CAST({source} AS {target})", _described_name(target)
            sql, fix = outward(source, duck_type)
            fix = _value_fix(kind, fix)
        info = TYPES[kind.name]
        columns.append(ResultColumn(name, kind.name, info.oid, info.size, kind.typmod))
        parts.append(sql)
        fixes.append(fix)
    names = ", ".join(f"c{i}" for i in range(len(described)))
    sql = f"SELECT {', '.join(parts)} FROM ({rewritten.sql}) AS __q({names})"
    return _Plan(sql, tuple(columns), fixes)


def _result_type(wanted: SqlType | None, duck_type: str) -> SqlType:
    if wanted is None or wanted.name not in TYPES:
        return from_duckdb(duck_type)
    if wanted.name == "unknown":
        return SqlType("text")
    return wanted


_INTEGER_DUCK = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UBIGINT", "UINTEGER", "UHUGEINT")


def _must_cast(kind: SqlType, duck_type: str, target: str) -> bool:
    """Whether DuckDB's type differs from ours in a way that shows."""
    described = from_duckdb(duck_type).name
    if kind.name == "numeric":
        return False
    if described == kind.name or target == "VARCHAR" and described == "text":
        return False
    return not (kind.name == "json" and described == "jsonb") and not (kind.name == "oid" and described == "int8")


def _described_name(target: str) -> str:
    return {"TIMESTAMPTZ": "TIMESTAMP WITH TIME ZONE", "REAL": "FLOAT"}.get(target, target)


def _value_fix(kind: SqlType, fix: Fix | None) -> Fix | None:
    if kind.name == "bpchar" and kind.typmod >= 4:
        width = kind.typmod - 4
        return lambda text: text.ljust(width)
    if kind.name == "jsonb":
        return lambda text: jsonb_text(json.loads(text, parse_float=Decimal))
    if kind.name == "numeric" and fix is None:
        return _to_decimal
    return fix


def _to_decimal(value: Any) -> Decimal:
    return value if isinstance(value, Decimal) else Decimal(repr(value)) if isinstance(value, float) else Decimal(value)

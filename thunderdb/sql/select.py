"""SELECTs on the own access paths: one table by key, range, index or scan; generate_series; VALUES; no table at all.

S1. A query is taken only where the own path gives exactly PostgreSQL's answer; anything else is `Hard`, and DuckDB's.
S2. ORDER BY is taken where the key order is it, or where a key or an index already narrows the rows (sorted in memory).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from sqlglot import exp

from thunderdb.base.errors import SqlError
from thunderdb.sql.context import Context
from thunderdb.sql.expr import Compiler, Expr, Fn, Hard, ScopeColumn
from thunderdb.sql.operators import sort_key
from thunderdb.sql.parse import ident
from thunderdb.sql.path import Path, choose
from thunderdb.sql.plan import AnalyticPlan, Environment, Plan, Rows, output_column, result_column
from thunderdb.sql.result import ResultColumn

SERIES_BATCH = 1000
_KNOWN_ARGS = frozenset("expressions from_ where order limit offset locks kind hint distinct operation_modifiers".split())


async def plan_query(env: Environment, tree: Any) -> Plan:
    """Plan a SELECT or VALUES: own path if it can, else analytic. Raises: SqlError."""
    try:
        plan = await _own_plan(env, tree)
        plan.take_environment(env)
        return plan
    except Hard:
        pass
    env.subqueries, env.subquery_kinds = [], []
    await _find_parameters(env, tree)
    columns = await env.analytics.describe(
        env.db, env.txn, tree, {i + 1: name for i, name in enumerate(env.slots.types)}, env.query_session()
    )
    plan = AnalyticPlan(env, tree, tuple(columns))
    plan.slots = env.slots
    return plan


async def _find_parameters(env: Environment, tree: Any) -> None:
    """Give each parameter that the client has declared no type the one of where it stands."""
    slots = env.slots
    numbers = [int(node.name) for node in tree.find_all(exp.Parameter) if node.name.isdigit()]
    if slots.classes or all(number <= len(slots.types) and slots.types[number - 1] != "unknown" for number in numbers):
        return
    known = {i + 1: name for i, name in enumerate(slots.types)}
    found = await env.analytics.parameter_types(env.db, env.txn, tree, known, env.query_session())
    for number in sorted(set(numbers)):
        slots.types[slots.index_of(number)] = found[number]


async def _own_plan(env: Environment, tree: Any) -> Plan:
    if isinstance(tree, exp.Subquery) and not tree.args.get("alias"):
        return await _own_plan(env, tree.this)
    if isinstance(tree, exp.Values):
        return ValuesPlan(env, tree)
    if not isinstance(tree, exp.Select):
        raise Hard("set operation")
    for name, value in tree.args.items():
        if value and name not in _KNOWN_ARGS:
            raise Hard(name)
    if tree.args.get("distinct") or not tree.expressions:
        raise Hard("DISTINCT")
    source = tree.args.get("from_")
    if any(isinstance(found, (exp.AggFunc, exp.Window)) for found in tree.find_all(exp.AggFunc, exp.Window)):
        raise Hard("aggregate")
    subqueries = await plan_subqueries(env, tree)
    if source is None:
        return ResultPlan(env, tree, subqueries)
    if not isinstance(source.this, exp.Table):
        raise Hard("FROM")
    if isinstance(source.this.this, (exp.GenerateSeries, exp.ExplodingGenerateSeries)):
        return SeriesPlan(env, tree, source.this)
    definition = find_table(env, source.this)
    if definition is None or source.this.args.get("joins") or source.this.args.get("sample"):
        raise Hard("FROM")
    plan = SelectPlan(env, tree, source.this, definition, subqueries)
    return PointPlan(plan) if plan.is_point() else plan


async def plan_subqueries(env: Environment, tree: Any) -> dict[int, tuple[int, str]]:
    """Plan the scalar, EXISTS and IN subqueries of a statement; correlated ones are Hard."""
    found: dict[int, tuple[int, str]] = {}
    for node in _outer_subqueries(tree):
        kind = "exists" if isinstance(node, exp.Exists) else "in" if isinstance(node, exp.In) else "scalar"
        query = node.args["query"] if kind == "in" else node.this
        query = query.this if isinstance(query, exp.Subquery) else query
        try:
            plan = await plan_query(env.inner(), query)
        except SqlError as error:
            if error.sqlstate in ("42703", "42P01"):
                raise Hard("correlated") from None  # or just wrong: the analytic path will say so
            raise
        if plan.columns is None or (kind != "exists" and len(plan.columns) != 1):
            raise SqlError("42601", "subquery must return only one column")
        found[id(node)] = (len(env.subqueries), "bool" if kind == "exists" else plan.columns[0].type_name)
        env.subqueries.append(plan)
        env.subquery_kinds.append(kind)
    return found


def _outer_subqueries(tree: Any) -> list[Any]:
    found: list[Any] = []
    if not any(node is not tree for node in tree.find_all(exp.Exists, exp.Query)):
        return found

    def walk(node: Any, top: bool) -> None:
        if not top:
            if isinstance(node, exp.Exists) or (
                isinstance(node, exp.Subquery) and not isinstance(node.parent, (exp.From, exp.In))
            ):
                found.append(node)
                return
            if isinstance(node, exp.In) and node.args.get("query"):
                found.append(node)
                walk(node.this, False)
                return
            if isinstance(node, exp.Query):
                return
        for child in node.iter_expressions():
            walk(child, False)

    walk(tree, True)
    return found


def find_table(env: Environment, node: Any) -> Any:
    """The definition that a table reference names, or None (a system table, a function, nothing)."""
    schema = ident(node.args.get("db"))
    if schema not in ("", "public") or node.args.get("catalog") or not isinstance(node.this, exp.Identifier):
        return None
    name = ident(node.this)
    found = env.tables[name] = env.catalog.table(name)
    return found


def scope_of(definition: Any, alias: str) -> list[ScopeColumn]:
    return [ScopeColumn(alias, column.name, column.type, column.typmod) for column in definition.columns]


class Projection:
    """The output list of a SELECT or RETURNING over one scope."""

    def __init__(self, compiler: Compiler, trees: Sequence[Any], table_id: int = 0) -> None:
        self.columns: list[ResultColumn] = []
        self.fns: list[Fn] = []
        self.positions: list[int] | None = []
        self.values: list[Expr] = []
        for tree in trees:
            self._add(compiler, tree, table_id)

    def _add(self, compiler: Compiler, tree: Any, table_id: int) -> None:
        star = isinstance(tree, exp.Star) or (isinstance(tree, exp.Column) and isinstance(tree.this, exp.Star))
        if star:
            wanted = ident(tree.args.get("table")) if isinstance(tree, exp.Column) else ""
            if tree.args.get("except_") or tree.args.get("replace") or not compiler.columns:
                raise Hard("*")
            for position, column in enumerate(compiler.columns):
                if not wanted or column.table == wanted:
                    self._append_column(position, column.name, column, table_id)
            return
        inner = tree.this if isinstance(tree, exp.Alias) else tree
        if isinstance(inner, exp.Column) and not isinstance(inner.this, exp.Star):
            value = compiler.compile(inner)
            name, table = ident(inner.this), ident(inner.args.get("table"))
            for position, column in enumerate(compiler.columns):
                if column.name == name and (not table or column.table == table):
                    shown = ident(tree.args["alias"]) if isinstance(tree, exp.Alias) else name
                    self._append_column(position, shown, column, table_id)
                    return
        else:
            value = compiler.resolved(compiler.compile(inner))
        self.columns.append(output_column(tree, value))
        self.fns.append(value.fn)
        self.positions = None

    def _append_column(self, position: int, name: str, column: ScopeColumn, table_id: int) -> None:
        self.columns.append(result_column(name, column.type, column.typmod, table_id, position + 1))
        self.fns.append(lambda row, context: row[position])
        if self.positions is not None:
            self.positions.append(position)

    def row_function(self) -> Callable[[Any, Context], Sequence[Any]]:
        positions, fns = self.positions, self.fns
        if positions is not None:
            if positions == list(range(len(positions))):
                return lambda row, context: row if len(row) == len(fns) else row[: len(fns)]
            return lambda row, context: [row[position] for position in positions]
        return lambda row, context: [fn(row, context) for fn in fns]


def _amount(compiler: Compiler, tree: Any) -> Fn | None:
    """LIMIT's or OFFSET's expression."""
    if tree is None:
        return None
    value = tree.args.get("expression") if isinstance(tree, (exp.Limit, exp.Offset)) else None
    if value is None:
        raise Hard("FETCH")
    if isinstance(value, exp.Null) or (isinstance(value, (exp.Var, exp.Column)) and value.name.lower() == "all"):
        return None
    bare = Compiler([], compiler.slots, compiler.subqueries)
    return bare.coerce(bare.compile(value), "int8", "assignment").fn


def _limits(limit: Fn | None, offset: Fn | None, context: Context) -> tuple[int | None, int]:
    most = None if limit is None else limit(None, context)
    skip = 0 if offset is None else offset(None, context) or 0
    if most is not None and most < 0:
        raise SqlError("2201W", "LIMIT must not be negative")
    if skip < 0:
        raise SqlError("2201X", "OFFSET must not be negative")
    return most, skip


class SelectPlan(Plan):
    """A SELECT from one table."""

    tag = "SELECT"

    def __init__(
        self, env: Environment, tree: Any, source: Any, definition: Any, subqueries: dict[int, tuple[int, str]]
    ) -> None:
        super().__init__()
        self.definition = definition
        self.table = env.db.rows.table(definition)
        alias_node = source.args.get("alias")
        if alias_node is not None and alias_node.args.get("columns"):
            raise Hard("column aliases")
        alias = ident(alias_node.this) if alias_node is not None else definition.name
        self.compiler = compiler = Compiler(scope_of(definition, alias), env.slots, subqueries)
        where = tree.args.get("where")
        condition = where.this if where is not None else None
        self.path: Path = choose(compiler, self.table, condition)
        compiled = compiler.condition(condition).fn if condition is not None else None
        self.filter = None if self.path.exact else compiled
        self.projection = Projection(compiler, tree.expressions, definition.id)
        self.columns = tuple(self.projection.columns)
        if compiler.sequences:
            raise Hard("nextval")
        self.limit = _amount(compiler, tree.args.get("limit"))
        self.offset = _amount(compiler, tree.args.get("offset"))
        self.locking = self._locking(tree.args.get("locks"))
        self.reverse = False
        self.sort: list[tuple[Fn, Callable[[Any], Any] | None, bool, bool]] = []
        if tree.args.get("order") is not None:
            self._plan_order(tree, tree.args["order"].expressions)

    def _locking(self, locks: Any) -> bool:
        if not locks:
            return False
        if any(lock.args.get("wait") is not None for lock in locks):
            raise SqlError("0A000", "NOWAIT and SKIP LOCKED are not supported")
        return True

    def _plan_order(self, tree: Any, ordered: Sequence[Any]) -> None:
        """Use the key order if it is the wanted one (S2)."""
        keys = [self._order_key(tree, item.this) for item in ordered]
        descending = [bool(item.args.get("desc")) for item in ordered]
        plain = all(bool(item.args.get("nulls_first")) == desc for item, desc in zip(ordered, descending, strict=True))
        positions = [self._position(key) for key in keys]
        path = self.path
        key_order = list(path.positions if path.codec is not None else self.table.pk)
        fixed = len(path.equal)
        in_key_order = positions == key_order[: len(positions)] or positions == key_order[fixed : fixed + len(positions)]
        if (
            positions
            and None not in positions
            and in_key_order
            and plain
            and len(set(descending)) == 1
            and path.members is None
        ):
            if all(self.compiler.columns[p].type != "bpchar" for p in positions if p is not None):
                self.reverse = descending[0]
                return
        if path.kind == "scan":
            raise Hard("ORDER BY")
        for key, item in zip(keys, ordered, strict=True):
            value = self.compiler.resolved(self.compiler.compile(key))
            if value.type in ("json", "jsonb") or "[]" in value.type:
                raise Hard("ORDER BY")
            self.sort.append((value.fn, sort_key(value.type), bool(item.args.get("desc")), bool(item.args.get("nulls_first"))))

    def _order_key(self, tree: Any, key: Any) -> Any:
        """ORDER BY 1 and ORDER BY an output's alias mean the output."""
        if isinstance(key, exp.Parameter):
            raise Hard("ORDER BY $n")
        if isinstance(key, exp.Literal) and not key.args.get("is_string"):
            if any(isinstance(e, exp.Star) for e in tree.expressions):
                raise Hard("ORDER BY position")
            number = int(key.this)
            if not 1 <= number <= len(tree.expressions):
                raise SqlError("42P10", f"ORDER BY position {number} is not in select list")
            found = tree.expressions[number - 1]
            return found.this if isinstance(found, exp.Alias) else found
        if isinstance(key, exp.Column) and not key.args.get("table"):
            for item in tree.expressions:
                if isinstance(item, exp.Alias) and ident(item.args["alias"]) == ident(key.this):
                    return item.this
        return key

    def _position(self, key: Any) -> int | None:
        if not isinstance(key, exp.Column):
            return None
        name = ident(key.this)
        return next((i for i, column in enumerate(self.compiler.columns) if column.name == name), None)

    def is_point(self) -> bool:
        simple = self.path.kind == "keys" and self.path.exact and self.path.members is None and self.projection.positions
        return bool(simple) and self.limit is None and self.offset is None and not self.locking and not self.compiler.subqueries

    async def batches(self, context: Context) -> AsyncIterator[Rows]:
        most, skip = _limits(self.limit, self.offset, context)
        if self.locking:
            context.txn.begin_write()
        if most == 0:
            return
        if self.sort:
            async for batch in self._sorted(context, most, skip):
                yield batch
            return
        project = self.projection.row_function()
        async for found in self._found(context):
            if skip:
                dropped = min(skip, len(found))
                found, skip = found[dropped:], skip - dropped
            if most is not None:
                found = found[:most]
                most -= len(found)
            if found:
                yield [project(row, context) for row in found]
            if most == 0:
                return

    async def _found(self, context: Context) -> AsyncIterator[Rows]:
        """The rows for which the condition is true, locked if FOR UPDATE asks for it."""
        decode, condition = self.table.row.decode, self.filter
        async for batch in self.path.batches(context, self.table, self.reverse):
            await context.progress(len(batch))
            if self.locking:
                batch = await self._locked(context, batch)
            rows: Rows = [decode(payload) for _, payload in batch]
            if condition is not None:
                rows = [row for row in rows if condition(row, context) is True]
            yield rows

    async def _locked(self, context: Context, batch: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        locked = []
        decode, condition = self.table.row.decode, self.filter
        for key, payload in batch:
            if condition is not None and condition(decode(payload), context) is not True:
                continue
            current = await context.rows.lock_row(context.txn, self.definition, key)
            if current is not None:
                locked.append((key, current))
        return locked

    async def _sorted(self, context: Context, most: int | None, skip: int) -> AsyncIterator[Rows]:
        rows: Rows = []
        async for found in self._found(context):
            rows.extend(found)
        for fn, key, descending, nulls_first in reversed(self.sort):
            order = key if key is not None else lambda value: value
            nulls = [row for row in rows if fn(row, context) is None]
            rest = [row for row in rows if fn(row, context) is not None]
            rest.sort(key=lambda row, fn=fn, order=order: order(fn(row, context)), reverse=descending)  # type: ignore[misc]
            rows = nulls + rest if nulls_first else rest + nulls
        project = self.projection.row_function()
        yield [project(row, context) for row in rows[skip : None if most is None else skip + most]]


class PointPlan(Plan):
    """SELECT columns WHERE the whole primary key = …: one look-up, no batches."""

    tag = "SELECT"

    def __init__(self, select: SelectPlan) -> None:
        super().__init__()
        self.columns = select.columns
        self.definition = select.definition
        self.table = select.table
        self.path = select.path
        self.root = select.table.root
        self.project = select.table.row.projector(select.projection.positions or [])
        codec = select.path.codec
        single = codec is not None and len(select.path.equal) == 1 and select.path.equal_types[0][0] in ("int4", "int8", "int2")
        self.encode = codec.encode if single and codec is not None else None
        self.key_fn = select.path.equal[0]

    def key(self, context: Context) -> bytes | None:
        """The key looked for; None if no row can have it."""
        if self.encode is not None:
            value = self.key_fn(None, context)
            try:
                return None if value is None else self.encode((value,))
            except Exception:  # struct.error: beyond the column's range
                return None
        keys = self.path.keys(context)
        return keys[0] if keys else None

    async def batches(self, context: Context) -> AsyncIterator[Rows]:
        key = self.key(context)
        if key is None:
            return
        payload = await context.rows.get(context.txn, self.root, key)
        if payload is not None:
            yield [self.project(payload)]


class ResultPlan(Plan):
    """A SELECT without FROM: one row."""

    tag = "SELECT"

    def __init__(self, env: Environment, tree: Any, subqueries: dict[int, tuple[int, str]]) -> None:
        super().__init__()
        self.compiler = Compiler([], env.slots, subqueries)
        if tree.args.get("order") is not None:
            raise Hard("ORDER BY")
        if all(isinstance(item.unalias(), exp.Anonymous) for item in tree.expressions):  # not within a CASE, say
            self.compiler.sleeps = []
        self.projection = Projection(self.compiler, tree.expressions)
        self.columns = tuple(self.projection.columns)
        self.sleeps, self.compiler.sleeps = self.compiler.sleeps, None
        where = tree.args.get("where")
        self.condition = self.compiler.condition(where.this).fn if where is not None else None
        self.limit = _amount(self.compiler, tree.args.get("limit"))
        self.offset = _amount(self.compiler, tree.args.get("offset"))
        self.sequences = self.compiler.sequences

    async def batches(self, context: Context) -> AsyncIterator[Rows]:
        most, skip = _limits(self.limit, self.offset, context)
        if most == 0 or skip > 0 or (self.condition is not None and self.condition([], context) is not True):
            return
        if self.sequences:
            await context.fill_sequences(self.sequences)
        for seconds in self.sleeps or ():
            await context.sleep(seconds(None, context))
        yield [[fn([], context) for fn in self.projection.fns]]


class SeriesPlan(Plan):
    """SELECT … FROM generate_series(start, stop [, step]) over integers."""

    tag = "SELECT"

    def __init__(self, env: Environment, tree: Any, source: Any) -> None:
        super().__init__()
        call = source.this
        bare = Compiler([], env.slots)
        trees = [call.args.get("start"), call.args.get("end"), call.args.get("step")]
        values = [bare.compile(item) for item in trees if item is not None]
        if tree.args.get("order") is not None or not all(value.type in ("int4", "int8", "unknown") for value in values):
            raise Hard("generate_series")
        kind = "int8" if any(value.type == "int8" for value in values) else "int4"
        self.arguments = [bare.coerce(value, kind, "implicit").fn for value in values]
        alias_node = source.args.get("alias")
        alias = ident(alias_node.this) if alias_node is not None else "generate_series"
        named = alias_node.args.get("columns") if alias_node is not None else None
        self.compiler = Compiler([ScopeColumn(alias, ident(named[0]) if named else alias, kind)], env.slots)
        self.projection = Projection(self.compiler, tree.expressions)
        self.columns = tuple(self.projection.columns)
        where = tree.args.get("where")
        self.condition = self.compiler.condition(where.this).fn if where is not None else None
        self.limit = _amount(self.compiler, tree.args.get("limit"))
        self.offset = _amount(self.compiler, tree.args.get("offset"))
        if self.compiler.sequences:
            raise Hard("nextval")

    async def batches(self, context: Context) -> AsyncIterator[Rows]:
        most, skip = _limits(self.limit, self.offset, context)
        values = [fn(None, context) for fn in self.arguments]
        if None in values:
            return
        start, stop, step = values[0], values[1], values[2] if len(values) > 2 else 1
        if step == 0:
            raise SqlError("22023", "step size cannot equal zero")
        numbers = range(start, stop + (1 if step > 0 else -1), step)
        project = self.projection.row_function()
        for at in range(0, len(numbers), SERIES_BATCH):
            rows: Rows = [[number] for number in numbers[at : at + SERIES_BATCH]]
            if self.condition is not None:
                rows = [row for row in rows if self.condition(row, context) is True]
            dropped = min(skip, len(rows))
            rows, skip = rows[dropped:], skip - dropped
            if most is not None:
                rows = rows[:most]
                most -= len(rows)
            await context.progress(len(rows))
            if rows:
                yield [project(row, context) for row in rows]
            if most == 0:
                return


class ValuesPlan(Plan):
    """VALUES (…), (…) on its own."""

    tag = "SELECT"

    def __init__(self, env: Environment, tree: exp.Values) -> None:
        super().__init__()
        compiler = Compiler([], env.slots)
        if tree.args.get("alias") or tree.args.get("order") or tree.args.get("limit"):
            raise Hard("VALUES")
        compiled = [[compiler.compile(item) for item in row.expressions] for row in tree.expressions]
        if len({len(row) for row in compiled}) > 1:
            raise SqlError("42601", "VALUES lists must all be the same length")
        united = [compiler.unite(column, "VALUES") for column in zip(*compiled, strict=True)]
        self.columns = tuple(result_column(f"column{i + 1}", kind) for i, (_, kind) in enumerate(united))
        self.fns = list(zip(*[[value.fn for value in column] for column, _ in united], strict=True))
        if compiler.sequences:
            raise Hard("nextval")

    async def batches(self, context: Context) -> AsyncIterator[Rows]:
        yield [[fn([], context) for fn in row] for row in self.fns]

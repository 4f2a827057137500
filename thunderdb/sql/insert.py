"""INSERT: of VALUES or of a query's rows, with ON CONFLICT; compiled once, then our own writes, row by row."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlglot import exp

from thunderdb.base.errors import InvariantViolated, SqlError, UniqueViolation
from thunderdb.engine.rows import WouldWait
from thunderdb.sql import types
from thunderdb.sql.context import CHANGES_A_TURN, Context
from thunderdb.sql.expr import Compiler, Expr, Fn, Slots
from thunderdb.sql.parse import ident
from thunderdb.sql.plan import Environment, Plan
from thunderdb.sql.result import Result
from thunderdb.sql.select import SelectPlan, plan_query, plan_subqueries, scope_of
from thunderdb.sql.write import Emit, WritePlan, alias_of, is_default, plan_assignments, required_table


@dataclass(slots=True)
class Conflict:
    """ON CONFLICT. `constraint` None is any; `assignments` None is DO NOTHING."""

    constraint: str | None
    assignments: list[tuple[int, Fn]] | None
    condition: Fn | None


async def plan_insert(env: Environment, tree: Any) -> Plan:
    schema = tree.this
    node = schema.this if isinstance(schema, exp.Schema) else schema
    definition = required_table(env, node)
    subqueries = await plan_subqueries(env, tree) if isinstance(tree.expression, exp.Values) else {}
    plan = InsertPlan(env, definition, tree, alias_of(node, definition), subqueries)
    names = [ident(item) for item in schema.expressions] if isinstance(schema, exp.Schema) else []
    positions = [plan.target.position(name) for name in names] if names else list(range(len(definition.columns)))
    for name in names:
        if names.count(name) > 1:
            raise SqlError("42701", f'column "{name}" specified more than once')
    source = tree.expression
    if tree.args.get("with_") is not None and isinstance(source, exp.Values):
        raise SqlError("0A000", "WITH before INSERT … VALUES is not supported")
    if isinstance(source, exp.Values) and not source.args.get("alias"):
        plan.plan_values(source.expressions, positions, bool(names))
    elif source is None:
        plan.plan_values([exp.Tuple(expressions=[])], [], True)
    else:
        inner = env.inner()
        source = source.this if isinstance(source, exp.Subquery) else source
        if tree.args.get("with_") is not None and source.args.get("with_") is None:
            source = source.copy()  # T3
            source.set("with_", tree.args["with_"].copy())
        source = _typed(source, [plan.target.columns[position].type for position in positions], env.slots)
        plan.plan_query_source(await plan_query(inner, source), positions, bool(names))
    if tree.args.get("conflict") is not None:
        plan.plan_conflict(tree.args["conflict"], alias_of(node, definition))
    plan.take_environment(env)
    return plan


def _typed(source: Any, columns: list[str], slots: Slots) -> Any:
    """A query whose NULLs and untyped literals have the types of the columns that they go to, as in PostgreSQL."""
    if not isinstance(source, exp.Select) or source.args.get("distinct") or source.find(exp.Star):
        return source
    copy = source.copy()  # T3
    for item, column in zip(copy.expressions, columns, strict=False):
        value = item.unalias()
        number = value.this.name if isinstance(value, exp.Parameter) else ""
        if column in types.STRINGS:
            continue  # it is text as it stands
        free = number.isdigit() and slots.types[slots.index_of(int(number))] == "unknown"
        if free or isinstance(value, exp.Null) or (isinstance(value, exp.Literal) and value.is_string):
            value.replace(exp.cast(value.copy(), types.type_display(column), dialect="postgres"))
    return copy


class InsertPlan(WritePlan):
    """INSERT of VALUES or of a query's rows."""

    tag = "INSERT 0"

    def __init__(
        self, env: Environment, definition: Any, tree: Any, alias: str, subqueries: dict[int, tuple[int, str]]
    ) -> None:
        super().__init__(env, definition, tree, alias, subqueries)
        self.bare = Compiler([], env.slots, subqueries)
        self.row_fns: list[tuple[list[Fn], list[str]]] = []
        self.query: Plan | None = None
        self.mapping: list[Any] = []
        self.sequences: list[str] = []
        self.conflict: Conflict | None = None
        self.results = (Result("INSERT 0 0"), Result("INSERT 0 1"))

    def _check_count(self, given: int, wanted: int, named: bool) -> None:
        if given > wanted:
            raise SqlError("42601", "INSERT has more expressions than target columns")
        if given < wanted and named:
            raise SqlError("42601", "INSERT has more target columns than expressions")

    def plan_values(self, rows: Sequence[Any], positions: list[int], named: bool) -> None:
        for row in rows:
            trees = row.expressions if isinstance(row, exp.Tuple) else [row.this if isinstance(row, exp.Paren) else row]
            self._check_count(len(trees), len(positions), named)
            given = {position: tree for position, tree in zip(positions, trees, strict=False) if not is_default(tree)}
            self.bare.sequences = []
            fns = []
            for position in range(len(self.target.columns)):
                tree = given.get(position)
                if tree is None:
                    fns.append(self.target.default(self.bare, position).fn)
                else:
                    fns.append(self.target.assigned(self.bare, self.bare.compile(tree), position).fn)
            self.row_fns.append((fns, self.bare.sequences))

    def plan_query_source(self, query: Plan, positions: list[int], named: bool) -> None:
        columns = query.columns or ()
        self._check_count(len(columns), len(positions), named)
        self.query = query
        taken: dict[int, Fn] = {}
        for index, (position, column) in enumerate(zip(positions, columns, strict=False)):
            source = Expr(lambda row, context, index=index: row[index], column.type_name, column.typmod)  # type: ignore[misc]
            taken[position] = self.target.assigned(self.bare, source, position).fn
        for position in range(len(self.target.columns)):
            fn = taken.get(position)
            self.mapping.append(fn if fn is not None else self.target.default(self.bare, position).fn)
        self.sequences = self.bare.sequences

    def plan_conflict(self, tree: Any, alias: str) -> None:
        keys = [
            ident(item.this.this) if isinstance(item, exp.Ordered) else ident(item)
            for item in tree.args.get("conflict_keys") or ()
        ]
        named = ident(tree.args.get("constraint")) if tree.args.get("constraint") is not None else ""
        constraint = self._arbiter(keys, named)
        action = str(getattr(tree.args.get("action"), "this", "")).upper()
        if "UPDATE" not in action:
            self.conflict = Conflict(constraint, None, None)
            return
        if constraint is None:
            raise SqlError("42601", "ON CONFLICT DO UPDATE requires inference specification or constraint name")
        names = [column.name for column in self.target.columns]
        columns = [*scope_of(self.definition, alias), *scope_of(self.definition, "excluded")]
        both = _ConflictCompiler(columns, self.bare.slots, self.bare.subqueries)
        assignments = plan_assignments(self.target, both, tree.expressions)
        where = tree.args.get("where")
        condition = both.condition(where.this).fn if where is not None else None
        if both.sequences or not names:
            raise SqlError("0A000", "nextval in ON CONFLICT DO UPDATE is not supported")
        self.conflict = Conflict(constraint, assignments, condition)

    def _arbiter(self, keys: list[str], named: str) -> str | None:
        """The constraint that ON CONFLICT (columns) means. Raises: SqlError 42P10."""
        definition = self.definition
        if named:
            known = [definition.pk_name, *(index.name for index in definition.indexes if index.unique)]
            if named not in known:
                raise SqlError("42704", f'constraint "{named}" for table "{definition.name}" does not exist')
            return named
        if not keys:
            return None
        wanted = {self.target.position(name) for name in keys}
        if definition.pk and set(definition.pk) == wanted:
            return str(definition.pk_name)
        for index in definition.indexes:
            if index.unique and set(index.columns) == wanted:
                return str(index.name)
        raise SqlError("42P10", "there is no unique or exclusion constraint matching the ON CONFLICT specification")

    @property
    def quick(self) -> bool:
        """Whether it is one plain row into a table without secondary indexes."""
        plain = self.query is None and self.conflict is None and self.returning is None and not self.target.table.indexes
        return plain and len(self.row_fns) == 1 and not self.row_fns[0][1]

    def change_quickly(self, context: Context) -> int:
        """Insert the one row in one synchronous step (`quick` plans only). Raises: WouldWait, Miss; SqlError."""
        table = self.target.table
        try:
            values = [fn(None, context) for fn in self.row_fns[0][0]]
            self.target.check(values, context)
            key, payload = table.key_of(values), table.row.encode(values)
        except InvariantViolated:
            raise
        except Exception as error:  # before anything is changed: the general path meets it again, and reports it
            raise WouldWait from error
        context.rows.try_insert(context.txn, table, key, payload)
        return 1

    async def _new_rows(self, context: Context) -> AsyncIterator[list[Any]]:
        if self.query is None:
            for fns, sequences in self.row_fns:
                if sequences:
                    await context.fill_sequences(sequences)
                yield [fn(None, context) for fn in fns]
            return
        inner = Context(context.session, context.txn, context.params)
        await self.query.begin(inner)
        async for batch in self.query.batches(inner):
            await context.progress(len(batch))
            for row in batch:
                if self.sequences:
                    await context.fill_sequences(self.sequences)
                yield [fn(row, context) for fn in self.mapping]

    async def change(self, context: Context, emit: Emit | None) -> int:
        target, definition, rows, txn = self.target, self.definition, context.rows, context.txn
        if self.query is None and self.conflict is None:
            for fns, sequences in self.row_fns:
                context.changes += 1
                if context.changes >= CHANGES_A_TURN:
                    await context.breathe()
                if sequences:
                    await context.fill_sequences(sequences)
                values = [fn(None, context) for fn in fns]
                target.check(values, context)
                await rows.insert(txn, definition, values)
                if emit is not None:
                    emit(values)
            return len(self.row_fns)
        count = 0
        reads_itself = isinstance(self.query, SelectPlan) and self.query.definition.id == definition.id
        source = _collected(self._new_rows(context)) if reads_itself else self._new_rows(context)
        touched: dict[bytes, None] = {}
        async for values in source:
            target.check(values, context)
            changed: list[Any] | None = values
            if self.conflict is None:
                await rows.insert(txn, definition, values)
            else:
                violated, key = await rows.insert_or_conflict(txn, definition, values)
                if violated is None:
                    touched[key] = None
                else:
                    changed = await self._resolve(context, self.conflict, violated, key, values, touched)
            if changed is not None:
                count += 1
                context.changes += 1
                if context.changes >= CHANGES_A_TURN:
                    await context.breathe()
                if emit is not None:
                    emit(changed)
        return count

    async def _resolve(
        self, context: Context, conflict: Conflict, violated: str, key: bytes, values: list[Any], touched: dict[bytes, None]
    ) -> list[Any] | None:
        """A row is in the way: leave it, or update it."""
        if conflict.constraint is not None and violated != conflict.constraint:
            raise UniqueViolation(f'duplicate key value violates unique constraint "{violated}"')
        if conflict.assignments is None:
            return None
        if key in touched:
            raise SqlError(
                "21000",
                "ON CONFLICT DO UPDATE command cannot affect row a second time",
                hint="Ensure that no rows proposed for insertion within the same command have duplicate constrained values.",
            )
        payload = await context.rows.lock_row(context.txn, self.definition, key)
        if payload is None:
            await context.rows.insert(context.txn, self.definition, values)
            return values
        old = self.target.table.row.decode(payload)
        both = old + values
        if conflict.condition is not None and conflict.condition(both, context) is not True:
            return None
        new = list(old)
        for position, fn in conflict.assignments:
            new[position] = fn(both, context)
        self.target.check(new, context)
        touched[await context.rows.update(context.txn, self.definition, key, payload, new)] = None
        return new


class _ConflictCompiler(Compiler):
    """In DO UPDATE an unqualified column is the table's, not EXCLUDED's."""

    def compile(self, node: Any) -> Expr:
        if isinstance(node, exp.Column) and not node.args.get("table"):
            node = exp.Column(this=node.this, table=exp.to_identifier(self.columns[0].table, quoted=True))
        return super().compile(node)


async def _collected(source: AsyncIterator[list[Any]]) -> AsyncIterator[list[Any]]:
    """Read a query to its end before the first row is written, so that INSERT … SELECT does not see its own rows."""
    rows = [row async for row in source]
    for row in rows:
        yield row

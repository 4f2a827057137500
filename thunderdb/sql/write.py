"""INSERT, UPDATE and DELETE: compiled once, then our own writes, row by row.

W1. A row is locked before it is changed, and what the statement checked before is checked again on what the lock found.
W2. A change of the key that the scan follows would meet its own rows again: such rows are collected first.
W3. NOT NULL, then CHECK, then uniqueness (the engine's), as PostgreSQL reports them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlglot import exp

from thunderdb.base.errors import InvariantViolated, SqlError, UniqueViolation
from thunderdb.engine.rows import WouldWait
from thunderdb.sql import types
from thunderdb.sql.context import CHANGES_A_TURN, Context
from thunderdb.sql.expr import Compiler, Expr, Fn, Hard, Slots, constant
from thunderdb.sql.parse import ident, parse_expression
from thunderdb.sql.path import choose
from thunderdb.sql.plan import Environment, Plan, Rows
from thunderdb.sql.result import Result
from thunderdb.sql.select import Projection, SelectPlan, find_table, plan_query, plan_subqueries, scope_of

COLLECT_LIMIT = 10_000_000
Emit = Callable[[Sequence[Any]], None]


class Target:
    """A table that is written: its definition, defaults and constraints, compiled."""

    def __init__(self, env: Environment, definition: Any) -> None:
        self.definition = definition
        self.table = env.db.rows.table(definition)
        self.columns = definition.columns
        self.not_null = [i for i, column in enumerate(definition.columns) if column.not_null]
        checker = Compiler(scope_of(definition, definition.name), Slots())
        self.checks = [(check.name, checker.condition(parse_expression(check.sql), "CHECK").fn) for check in definition.checks]

    def position(self, name: str) -> int:
        for i, column in enumerate(self.columns):
            if column.name == name:
                return i
        raise SqlError("42703", f'column "{name}" of relation "{self.definition.name}" does not exist')

    def default(self, compiler: Compiler, position: int) -> Expr:
        column = self.columns[position]
        if column.default is None:
            return constant(None, column.type)
        return self.assigned(compiler, compiler.compile(parse_expression(column.default)), position)

    def assigned(self, compiler: Compiler, value: Expr, position: int) -> Expr:
        column = self.columns[position]
        shown = types.TYPES[value.type].display
        message = f'column "{column.name}" is of type {types.TYPES[column.type].display} but expression is of type {shown}'
        return compiler.coerce(value, column.type, "assignment", message, column.typmod)

    def check(self, values: Sequence[Any], context: Context) -> None:
        """Raises: SqlError 23502, 23514 (W3)."""
        if None in values:
            for position in self.not_null:
                if values[position] is None:
                    name, table = self.columns[position].name, self.definition.name
                    raise SqlError(
                        "23502",
                        f'null value in column "{name}" of relation "{table}" violates not-null constraint',
                        f"Failing row contains ({self.show(values)}).",
                    )
        for name, fn in self.checks:
            if fn(values, context) is False:
                raise SqlError(
                    "23514",
                    f'new row for relation "{self.definition.name}" violates check constraint "{name}"',
                    f"Failing row contains ({self.show(values)}).",
                )

    def show(self, values: Sequence[Any]) -> str:
        shown = []
        for column, value in zip(self.columns, values, strict=True):
            text = "null" if value is None else types.format_text(column.type, value)
            shown.append(text if len(text) <= 64 else text[:64] + "...")
        return ", ".join(shown)


@dataclass(slots=True)
class Conflict:
    """ON CONFLICT. `constraint` None is any; `assignments` None is DO NOTHING."""

    constraint: str | None
    assignments: list[tuple[int, Fn]] | None
    condition: Fn | None


class WritePlan(Plan):
    """What INSERT, UPDATE and DELETE share: a target and RETURNING."""

    writes = True

    def __init__(
        self, env: Environment, definition: Any, tree: Any, alias: str, subqueries: dict[int, tuple[int, str]]
    ) -> None:
        super().__init__()
        self.target = Target(env, definition)
        self.definition = definition
        self.changed = 0
        self.compiler = Compiler(scope_of(definition, alias), env.slots, subqueries)
        returning = tree.args.get("returning")
        self.returning = Projection(self.compiler, returning.expressions, definition.id) if returning is not None else None
        if self.returning is not None:
            self.columns = tuple(self.returning.columns)

    async def change(self, context: Context, emit: Emit | None) -> int:
        """Do it and return how many rows; `emit` gets each as RETURNING sees it."""
        raise NotImplementedError

    async def execute(self, context: Context) -> tuple[int, Rows]:
        """(rows changed, what RETURNING gives)."""
        if self.returning is None:
            return await self.change(context, None), []
        returned: Rows = []
        project = self.returning.row_function()
        count = await self.change(context, lambda row: returned.append(list(project(row, context))))
        return count, returned

    async def batches(self, context: Context) -> AsyncIterator[Rows]:
        context.session.changed_rows, returned = await self.execute(context)
        if returned:
            yield returned


def required_table(env: Environment, node: Any) -> Any:
    """The table that a statement writes or alters. Raises: SqlError 42P01."""
    definition = find_table(env, node)
    if definition is None:
        schema = ident(node.args.get("db"))
        shown = f"{schema}.{ident(node.this)}" if schema else ident(node.this)
        if schema in ("pg_catalog", "information_schema"):
            raise SqlError("42501", f'permission denied: "{shown}" is a system catalog')
        raise SqlError("42P01", f'relation "{shown}" does not exist')
    return definition


def _alias(node: Any, definition: Any) -> str:
    alias = node.args.get("alias")
    return ident(alias.this) if alias is not None else definition.name


# --- INSERT -----------------------------------------------------------------------------------------------------------


async def plan_insert(env: Environment, tree: Any) -> Plan:
    schema = tree.this
    node = schema.this if isinstance(schema, exp.Schema) else schema
    definition = required_table(env, node)
    subqueries = await plan_subqueries(env, tree) if isinstance(tree.expression, exp.Values) else {}
    plan = InsertPlan(env, definition, tree, _alias(node, definition), subqueries)
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
        plan.plan_conflict(tree.args["conflict"], _alias(node, definition))
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
            given = {position: tree for position, tree in zip(positions, trees, strict=False) if not _is_default(tree)}
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


def _is_default(tree: Any) -> bool:
    return isinstance(tree, (exp.Var, exp.Column)) and str(tree.name).upper() == "DEFAULT" and not _quoted(tree)


def _quoted(tree: Any) -> bool:
    return isinstance(tree.this, exp.Identifier) and bool(tree.this.args.get("quoted"))


async def _collected(source: AsyncIterator[list[Any]]) -> AsyncIterator[list[Any]]:
    """Read a query to its end before the first row is written, so that INSERT … SELECT does not see its own rows."""
    rows = [row async for row in source]
    for row in rows:
        yield row


def plan_assignments(
    target: Target, compiler: Compiler, trees: Sequence[Any], constants: list[Fn] | None = None
) -> list[tuple[int, Fn]]:
    """SET's column = expression and (a, b) = (x, y). Those that look at no row are added to `constants`."""
    found: list[tuple[int, Fn]] = []
    for tree in trees:
        if not isinstance(tree, exp.EQ):
            raise SqlError("42601", "syntax error in SET")
        pairs = [(tree.this, tree.expression)]
        if isinstance(tree.this, exp.Tuple):
            right = tree.expression
            members = right.expressions if isinstance(right, exp.Tuple) else None
            if members is None or len(members) != len(tree.this.expressions):
                raise Hard("SET (…) = subquery")
            pairs = list(zip(tree.this.expressions, members, strict=True))
        for left, right in pairs:
            position = target.position(ident(left.this))
            if any(position == other for other, _ in found):
                raise SqlError("42601", f'multiple assignments to same column "{target.columns[position].name}"')
            used, compiler.used = compiler.used, set()
            value = target.default(compiler, position) if _is_default(right) else compiler.compile(right)
            assigned = target.assigned(compiler, value, position)
            found.append((position, assigned.fn))
            known = assigned.const or assigned.slot is not None  # there is nothing left that could go wrong
            if constants is not None and not (known or compiler.used or compiler.sequences or right.find(exp.Query)):
                constants.append(assigned.fn)
            compiler.used |= used
    return found


# --- UPDATE and DELETE ------------------------------------------------------------------------------------------------


async def plan_update(env: Environment, tree: Any) -> Plan:
    definition = required_table(env, tree.this)
    alias = _alias(tree.this, definition)
    try:
        if tree.args.get("from_") or tree.args.get("with_"):
            raise Hard("UPDATE … FROM")
        plan: Plan = UpdatePlan(env, definition, tree, alias, await plan_subqueries(env, tree))
    except Hard:
        env.subqueries, env.subquery_kinds = [], []
        from thunderdb.sql.write_hard import HardUpdatePlan

        plan = HardUpdatePlan(env, definition, tree, alias)
    plan.take_environment(env)
    return plan


async def plan_delete(env: Environment, tree: Any) -> Plan:
    definition = required_table(env, tree.this)
    alias = _alias(tree.this, definition)
    try:
        if tree.args.get("using") or tree.args.get("with_"):
            raise Hard("DELETE … USING")
        plan: Plan = DeletePlan(env, definition, tree, alias, await plan_subqueries(env, tree))
    except Hard:
        env.subqueries, env.subquery_kinds = [], []
        from thunderdb.sql.write_hard import HardDeletePlan

        plan = HardDeletePlan(env, definition, tree, alias)
    plan.take_environment(env)
    return plan


class _Changing(WritePlan):
    """UPDATE and DELETE: find rows on a path, lock each, look again, change."""

    def __init__(
        self, env: Environment, definition: Any, tree: Any, alias: str, subqueries: dict[int, tuple[int, str]]
    ) -> None:
        super().__init__(env, definition, tree, alias, subqueries)
        where = tree.args.get("where")
        condition = where.this if where is not None else None
        self.path = choose(self.compiler, self.target.table, condition)
        compiled = self.compiler.condition(condition).fn if condition is not None else None
        self.filter = None if self.path.exact else compiled
        self.moves = True  # the change may move a row within the tree that is scanned (W2)

    async def _keys(self, context: Context) -> AsyncIterator[list[bytes]]:
        """The keys of the rows that the snapshot says are to be changed."""
        decode, condition = self.target.table.row.decode, self.filter
        collected: list[bytes] = []
        async for batch in self.path.batches(context, self.target.table):
            await context.progress(len(batch))
            if condition is None:
                keys = [key for key, _ in batch]
            else:
                keys = [key for key, payload in batch if condition(decode(payload), context) is True]
            if not self.moves:
                yield keys
                continue
            collected.extend(keys)
            if len(collected) > COLLECT_LIMIT:
                raise SqlError("54000", f"the statement would change more than {COLLECT_LIMIT} rows")
        if collected:
            yield collected

    async def change(self, context: Context, emit: Emit | None) -> int:
        if self.path.kind == "keys":
            return await self._change_keys(context, self.path.keys(context), emit)
        count = 0
        async for keys in self._keys(context):
            count += await self._change_keys(context, keys, emit)
            await context.progress(len(keys))
        return count

    async def _change_keys(self, context: Context, keys: list[bytes], emit: Emit | None) -> int:
        """Lock each row, look whether it still matches (W1), change it."""
        decode, condition, rows, count = self.target.table.row.decode, self.filter, context.rows, 0
        for key in keys:
            context.changes += 1
            if context.changes >= CHANGES_A_TURN:
                await context.breathe()
            payload = await rows.lock_row(context.txn, self.definition, key)
            context.check()  # it may have waited for a page
            if payload is None:
                continue
            values = decode(payload)
            if condition is not None and condition(values, context) is not True:
                continue
            count += 1
            row = await self._change_row(context, key, payload, values)
            if emit is not None:
                emit(row)
        return count

    async def _change_row(self, context: Context, key: bytes, payload: bytes, old: list[Any]) -> list[Any]:
        raise NotImplementedError


class UpdatePlan(_Changing):
    tag = "UPDATE"

    def __init__(
        self, env: Environment, definition: Any, tree: Any, alias: str, subqueries: dict[int, tuple[int, str]]
    ) -> None:
        super().__init__(env, definition, tree, alias, subqueries)
        self.compiler.used = set()
        self.constants: list[Fn] = []
        self.assignments = plan_assignments(self.target, self.compiler, tree.expressions, self.constants)
        needed = self.compiler.used
        changed = {position for position, _ in self.assignments}
        self.moves = bool(self.path.index_root) or bool(changed & set(definition.pk))
        self.sequences = self.compiler.sequences
        target = self.target
        self.quick = (
            self.path.kind == "keys"
            and self.path.members is None
            and self.filter is None
            and self.returning is None
            and not (self.moves or self.sequences or target.table.indexes)
        )
        self.results = (Result("UPDATE 0"), Result("UPDATE 1"))
        row = target.table.row
        self._changer = row.changer(self.assignments, needed) if self.quick and not target.checks else None

    def change_quickly(self, context: Context) -> int:
        """Change one row by its key in one synchronous step (`quick` plans only). Raises: WouldWait, Miss; SqlError."""
        try:
            key = self.path.key(context)
        except InvariantViolated:
            raise
        except Exception as error:  # before anything is changed: the general path meets it again, and reports it
            raise WouldWait from error
        rows, table = context.rows, self.target.table
        found = 0 if key is None else int(rows.try_update(context.txn, table, key, self._new_payload, context))
        if not found and self.constants:
            raise WouldWait  # the general path looks at them
        return found

    async def change(self, context: Context, emit: Emit | None) -> int:
        count = await super().change(context, emit)
        if not count:
            for fn in self.constants:  # PostgreSQL works them out when it plans: what is wrong in them is wrong without a row
                fn(None, context)
        return count

    def _new_payload(self, payload: bytes, context: Context) -> bytes:
        """What becomes of a row. Raises: WouldWait where there is an error to report."""
        target = self.target
        row = target.table.row
        try:
            if self._changer is not None:
                changed = self._changer(payload, context)
                if changed is not None:
                    return changed
            old = row.decode(payload)
            new = old.copy()
            for position, fn in self.assignments:
                new[position] = fn(old, context)
            if target.checks or None in new:
                target.check(new, context)
            return row.encode(new)
        except InvariantViolated:
            raise
        except Exception as error:
            raise WouldWait from error

    async def _change_row(self, context: Context, key: bytes, payload: bytes, old: list[Any]) -> list[Any]:
        if self.sequences:
            await context.fill_sequences(self.sequences)
        new = list(old)
        for position, fn in self.assignments:
            new[position] = fn(old, context)
        self.target.check(new, context)
        await context.rows.update(context.txn, self.definition, key, payload, new)
        return new


class DeletePlan(_Changing):
    tag = "DELETE"

    def __init__(
        self, env: Environment, definition: Any, tree: Any, alias: str, subqueries: dict[int, tuple[int, str]]
    ) -> None:
        super().__init__(env, definition, tree, alias, subqueries)
        self.moves = bool(self.path.index_root)

    async def _change_row(self, context: Context, key: bytes, payload: bytes, old: list[Any]) -> list[Any]:
        await context.rows.delete(context.txn, self.definition, key, payload)
        return old

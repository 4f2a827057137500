"""What INSERT, UPDATE and DELETE share: the table that is written, with its defaults and constraints compiled, and RETURNING.

W3. NOT NULL, then CHECK, then uniqueness (the engine's), as PostgreSQL reports them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from sqlglot import exp

from thunderdb.base.errors import SqlError
from thunderdb.sql import text_out, types
from thunderdb.sql.context import Context
from thunderdb.sql.expr import Compiler, Expr, Fn, Hard, Slots, constant
from thunderdb.sql.parse import ident, parse_expression
from thunderdb.sql.plan import Environment, Plan, Rows
from thunderdb.sql.select import Projection, find_table, scope_of

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
            text = "null" if value is None else text_out.format_text(column.type, value)
            shown.append(text if len(text) <= 64 else text[:64] + "...")
        return ", ".join(shown)


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


def alias_of(node: Any, definition: Any) -> str:
    alias = node.args.get("alias")
    return ident(alias.this) if alias is not None else definition.name


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
            value = target.default(compiler, position) if is_default(right) else compiler.compile(right)
            assigned = target.assigned(compiler, value, position)
            found.append((position, assigned.fn))
            known = assigned.const or assigned.slot is not None  # there is nothing left that could go wrong
            if constants is not None and not (known or compiler.used or compiler.sequences or right.find(exp.Query)):
                constants.append(assigned.fn)
            compiler.used |= used
    return found


def is_default(tree: Any) -> bool:
    return isinstance(tree, (exp.Var, exp.Column)) and str(tree.name).upper() == "DEFAULT" and not _quoted(tree)


def _quoted(tree: Any) -> bool:
    return isinstance(tree.this, exp.Identifier) and bool(tree.this.args.get("quoted"))

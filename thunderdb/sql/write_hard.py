"""Changes whose rows only the analytic engine can find: UPDATE … FROM, DELETE … USING, correlated subqueries.

DuckDB reads (key, new values) of the rows to change, then come our own writes, each on the row as it was read (DESIGN 6).

W4. All rows are locked before the first is changed. If one has changed since it was read, the statement reads again, on a new
    snapshot and with the locks it has; at REPEATABLE READ `lock_row` has said 40001 by then.
"""

from __future__ import annotations

from typing import Any

from sqlglot import exp

from thunderdb.base.errors import SqlError
from thunderdb.sql import types
from thunderdb.sql.casts import find_cast
from thunderdb.sql.context import CHANGES_A_TURN, Context
from thunderdb.sql.parse import ident
from thunderdb.sql.plan import Environment
from thunderdb.sql.write import Emit, WritePlan

CHANGED_RETRIES = 10


class _HardPlan(WritePlan):
    """A write with a hard WHERE or expression: DuckDB reads (key, new values), then our own writes (DESIGN section 6)."""

    def __init__(self, env: Environment, definition: Any, tree: Any, alias: str) -> None:
        super().__init__(env, definition, tree, alias, {})
        self.env = env
        self.alias = alias
        self.positions: list[int] = []
        values: list[Any] = []
        for item in tree.expressions if isinstance(tree, exp.Update) else ():
            if isinstance(item.this, exp.Tuple):
                raise SqlError("0A000", "SET (columns) = (SELECT …) is not supported")
            self.positions.append(self.target.position(ident(item.this.this)))
            values.append(item.expression.copy())
        key = exp.Column(this=exp.to_identifier("__key"), table=exp.to_identifier(alias, quoted=True))
        select = exp.Select(expressions=[key, *(exp.alias_(v, f"v{i}") for i, v in enumerate(values))])
        others = tree.args.get("from_") or tree.args.get("using")
        sources = [tree.this.copy()]
        if isinstance(others, exp.From):
            sources.append(others.this.copy())
            joins = others.this.args.get("joins") or []
            for join in joins:
                sources.append(join.this.copy())
        elif others:
            sources.extend(other.copy() for other in others)
        select.set("from_", exp.From(this=sources[0]))
        select.set("joins", [exp.Join(this=source) for source in sources[1:]])
        if tree.args.get("where") is not None:
            select.set("where", tree.args["where"].copy())
        if tree.args.get("with_") is not None:
            select.set("with_", tree.args["with_"].copy())
        self.query = select

    async def _found(self, context: Context) -> list[tuple[bytes, tuple[Any, ...]]]:
        session = context.session
        params = {i + 1: (name, context.params[i]) for i, name in enumerate(self.slots.types)}
        found: list[tuple[bytes, tuple[Any, ...]]] = await self.env.analytics.evaluate_rows(
            context.db, context.txn, self.query, self.definition.name, params, session.query_session()
        )
        return found

    def _assigned(self, values: tuple[Any, ...], old: list[Any]) -> list[Any]:
        new = list(old)
        for position, value in zip(self.positions, values, strict=True):
            column = self.target.columns[position]
            new[position] = None if value is None else _refit(value, column)
        return new

    async def _locked(self, context: Context) -> list[tuple[bytes, bytes, tuple[Any, ...]]]:
        """(key, payload, new values) of the rows to change, each locked and as it was read (W4)."""
        txn, rows, root = context.txn, context.rows, self.target.table.root
        for _ in range(CHANGED_RETRIES):
            locked, changed = [], False
            for key, values in await self._found(context):
                before = await rows.get(txn, root, key)
                payload = await rows.lock_row(txn, self.definition, key)
                changed = changed or payload is None or payload != before
                locked.append((key, payload or b"", values))
                await context.progress(1)
            if not changed:
                return locked
            txn.new_snapshot()
        raise SqlError("40001", "could not serialize access due to concurrent update")

    async def change(self, context: Context, emit: Emit | None) -> int:
        count = 0
        for key, payload, values in await self._locked(context):
            context.changes += 1
            if context.changes >= CHANGES_A_TURN:
                await context.breathe()
            row = self.target.table.row.decode(payload)
            if isinstance(self, HardDeletePlan):
                await context.rows.delete(context.txn, self.definition, key, payload)
            else:
                row = self._assigned(values, row)
                self.target.check(row, context)
                await context.rows.update(context.txn, self.definition, key, payload, row)
            count += 1
            if emit is not None:
                emit(row)
        return count


def _refit(value: Any, column: Any) -> Any:
    """A value that DuckDB computed, in the column's type: by way of Python's own types, which name what it is."""
    source = {bool: "bool", int: "int8", float: "float8", str: "text", bytes: "bytea"}.get(type(value), "numeric")
    if (
        column.type in ("date", "time", "timestamp", "timestamptz", "uuid", "interval", "bytea", "bool")
        or source == column.type
    ):
        return value
    if isinstance(value, (tuple, list)):
        return value
    cast = find_cast(source, column.type, "assignment") or find_cast(source, column.type, "explicit")
    fitted = cast(value) if cast is not None else value
    return types.fit(column.type, column.typmod)(fitted)


class HardUpdatePlan(_HardPlan):
    tag = "UPDATE"


class HardDeletePlan(_HardPlan):
    tag = "DELETE"

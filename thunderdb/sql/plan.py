"""Plans: what a statement will do, made once from its tree, run many times with other parameters.

    plan            rows come from                          made by
    PointPlan       one key, straight to a DataRow          select.py
    SelectPlan      a path over one table, generate_series, VALUES or nothing
    AnalyticPlan    DuckDB
    InsertPlan …    changes, with RETURNING                 insert.py, change.py

A plan is bound to the definitions of the tables that it was made from, and is thrown away when one of them has changed; a
query for DuckDB to the whole catalog.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlglot import exp

from thunderdb.base.errors import SqlError
from thunderdb.sql import types
from thunderdb.sql.analytic_rewrite import QuerySession
from thunderdb.sql.context import Context
from thunderdb.sql.expr import Expr, Slots
from thunderdb.sql.result import ResultColumn

Rows = list[Sequence[Any]]


@dataclass(slots=True)
class Environment:
    """What planning stands on: the database, the transaction whose catalog counts, the parameters, the analytic engine."""

    db: Any
    txn: Any
    catalog: Any
    slots: Slots
    analytics: Any
    query_session: Callable[[], QuerySession]
    subqueries: list[Plan] = field(default_factory=list)
    subquery_kinds: list[str] = field(default_factory=list)
    tables: dict[str, Any] = field(default_factory=dict)
    """Each table name that planning looked up, with what the catalog said (None: no such table)."""

    def inner(self) -> Environment:
        """For a query within the statement: its own subqueries, the same parameters."""
        return Environment(
            self.db, self.txn, self.catalog, self.slots, self.analytics, self.query_session, tables=self.tables
        )

    def params(self, values: Sequence[Any] | None = None) -> Mapping[int, tuple[str, Any]]:
        """Parameters as the analytic engine takes them."""
        return {i + 1: (name, None if values is None else values[i]) for i, name in enumerate(self.slots.types)}


class Plan:
    """A statement ready to run. `columns` is None when it gives no rows."""

    tag = ""
    writes = False
    columns: tuple[ResultColumn, ...] | None = None

    def __init__(self) -> None:
        self.slots = Slots()
        self.subqueries: list[Plan] = []
        self.subquery_kinds: list[str] = []

    def batches(self, context: Context) -> AsyncIterator[Rows]:
        """Rows as value tuples, a bounded batch at a time."""
        raise NotImplementedError

    async def execute(self, context: Context) -> tuple[int, Rows]:
        """A plan that `writes`: do it; (rows changed, rows returned)."""
        raise NotImplementedError

    def final_tag(self, count: int) -> str:
        return f"{self.tag} {count}"

    def take_environment(self, env: Environment) -> None:
        self.slots = env.slots
        self.subqueries = env.subqueries
        self.subquery_kinds = env.subquery_kinds

    async def begin(self, context: Context) -> None:
        """Evaluate the uncorrelated subqueries, once a statement."""
        for plan, kind in zip(self.subqueries, self.subquery_kinds, strict=True):
            context.scalars.append(await _subquery_value(plan, kind, context))


async def _subquery_value(plan: Plan, kind: str, context: Context) -> Any:
    inner = Context(context.session, context.txn, context.params)
    await plan.begin(inner)
    found: list[Any] = []
    async for batch in plan.batches(inner):
        found.extend(row[0] for row in batch)
        if kind == "exists" and found:
            break
        if kind == "scalar" and len(found) > 1:
            raise SqlError("21000", "more than one row returned by a subquery used as an expression")
    if kind == "scalar":
        return found[0] if found else None
    return bool(found) if kind == "exists" else found


class AnalyticPlan(Plan):
    """A query that DuckDB runs."""

    tag = "SELECT"

    def __init__(self, env: Environment, tree: Any, columns: tuple[ResultColumn, ...]) -> None:
        super().__init__()
        self.env = env
        self.tree = tree
        self.columns = columns

    async def batches(self, context: Context) -> AsyncIterator[Rows]:
        numbered = {i + 1: (name, context.params[i]) for i, name in enumerate(self.slots.types)}
        stream = await self.env.analytics.run_select(
            context.db, context.txn, self.tree, numbered, context.session.query_session()
        )
        context.session.running_query = stream
        try:
            async for batch in stream:
                context.check()
                yield batch
        finally:
            context.session.running_query = None
            stream.close()


class ConstantPlan(Plan):
    """Rows that are known already (SHOW, EXPLAIN)."""

    def __init__(self, tag: str, columns: Sequence[ResultColumn], rows: Rows) -> None:
        super().__init__()
        self.tag = tag
        self.columns = tuple(columns)
        self.rows = rows

    async def batches(self, context: Context) -> AsyncIterator[Rows]:
        yield self.rows

    def final_tag(self, count: int) -> str:
        return self.tag


def result_column(name: str, type_name: str, typmod: int = -1, table_oid: int = 0, attribute: int = 0) -> ResultColumn:
    info = types.TYPES[type_name]
    return ResultColumn(name, type_name, info.oid, info.size, typmod, table_oid, attribute)


def output_name(tree: Any) -> str:
    """The name that PostgreSQL gives an output column without an alias."""
    from thunderdb.sql.functions import arguments_of
    from thunderdb.sql.parse import ident, type_of

    if isinstance(tree, exp.Alias):
        return ident(tree.args["alias"])
    if isinstance(tree, exp.Column):
        return ident(tree.this)
    if isinstance(tree, exp.Cast):
        inner = output_name(tree.this)
        if inner != "?column?":
            return inner
        return type_of(tree.to)[0].removesuffix("[]")
    if isinstance(tree, exp.Paren):
        return output_name(tree.this)
    if isinstance(tree, exp.Case):
        default = tree.args.get("default")
        return output_name(default) if isinstance(default, exp.Column) else "case"
    if isinstance(tree, exp.Boolean):
        return "bool"
    if isinstance(tree, exp.Subquery):
        inner_select = tree.this
        return output_name(inner_select.expressions[0]) if getattr(inner_select, "expressions", None) else "?column?"
    if isinstance(tree, exp.Exists):
        return "exists"
    if isinstance(tree, exp.Array):
        return "array"
    if isinstance(tree, exp.Func) and not isinstance(tree, (exp.And, exp.Or, exp.Pow)):
        name = arguments_of(tree)[0]
        return _OUTPUT_NAMES.get(name, name)
    return "?column?"


_OUTPUT_NAMES = {
    "currenttimestamp": "now", "currentdate": "current_date", "currentuser": "current_user", "sessionuser": "session_user",
    "currentdatabase": "current_database", "currentschema": "current_schema", "currentversion": "version", "rand": "random",
    "uuid": "gen_random_uuid", "trim": "btrim", "strpos": "position", "currenttime": "current_time",
}  # fmt: skip


def output_column(tree: Any, value: Expr) -> ResultColumn:
    return result_column(output_name(tree), value.type, value.typmod)

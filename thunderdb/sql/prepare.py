"""Plans and their cache: by exact text, then by template; a plan lives as long as the tables that it was made from.

K1. A template's plan is used only with literals of the same classes (they are part of its key, see parse.py).
K2. A template that cannot be planned as such is remembered as None: its statements are planned from their own text.
K3. The templates met most are found without taking a statement apart: see `matcher` in parse.py.
K4. A plan is used only where each table name that it looked up still means the same definition: one that another
    transaction's DDL, or this one's own, has changed is another object. What DuckDB runs knows the whole catalog.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlglot import exp

from thunderdb.base.errors import SqlError
from thunderdb.sql import ddl, text_in, text_out, types
from thunderdb.sql.analytic_late import LateAnalytics
from thunderdb.sql.binary import binary_encoder
from thunderdb.sql.change import UpdatePlan, plan_delete, plan_update
from thunderdb.sql.context import Context
from thunderdb.sql.expr import Hard, Slots
from thunderdb.sql.insert import InsertPlan, plan_insert
from thunderdb.sql.parse import literal_text, matcher, normalise, parse, template_sql
from thunderdb.sql.plan import AnalyticPlan, Environment, Plan, Rows
from thunderdb.sql.result import describe, row_encoder
from thunderdb.sql.select import PointPlan, plan_query
from thunderdb.sql.utility import Utility
from thunderdb.sql.write_hard import HardDeletePlan, HardUpdatePlan

MAX_CACHED = 2000
MAX_CACHED_TEXT = 4096
CACHED_KINDS = frozenset({"begin", "commit", "rollback"})
MATCHER_PREFIX = 20
MATCHER_AFTER = 20
"""How often a template must have been met before it is worth a regular expression, which takes a millisecond to compile."""
MAX_MATCHERS = 6
Reader = Callable[[str], Any]
Matcher = Callable[[str], "re.Match[str] | None"]


class DdlPlan(Plan):
    """CREATE, ALTER, DROP, COMMENT: run from the tree each time, never cached."""

    writes = True

    def __init__(self, tree: Any) -> None:
        super().__init__()
        self.tree = tree

    async def execute(self, context: Context) -> tuple[int, Rows]:
        context.txn.begin_write()
        tree = self.tree
        if isinstance(tree, exp.Create):
            self.tag = await ddl.create(context, tree)
        elif isinstance(tree, exp.Drop):
            self.tag = await ddl.drop(context, tree)
        elif isinstance(tree, exp.Alter):
            self.tag = await ddl.alter(context, tree)
        else:
            self.tag = "COMMENT"
        return 0, []

    def final_tag(self, count: int) -> str:
        return self.tag


class Planned:
    """A plan with what its executions need: readers of a template's literals, encoders by result format."""

    __slots__ = (
        "plan", "catalog", "tables", "readers", "description", "point", "quick_write", "param_types",
        "found", "_encoders", "_descriptions", "_parsers", "_oids",
    )  # fmt: skip

    def __init__(self, plan: Plan, catalog: Any, tables: Mapping[str, Any] | None = None, classes: str = "") -> None:
        self.plan = plan
        self.catalog = catalog  # the one it was last seen to fit
        self.tables = None if tables is None or _is_analytic(plan) else tuple(tables.items())
        slots = plan.slots
        first = len(slots.types) - len(classes)
        self.readers: list[Reader] = [_literal_reader(kind, slots.types[first + i]) for i, kind in enumerate(classes)]
        self.description = b"" if plan.columns is None else describe(plan.columns)
        self.point = plan if isinstance(plan, PointPlan) else None
        self.quick_write = plan if isinstance(plan, (UpdatePlan, InsertPlan)) and plan.quick and not plan.subqueries else None
        self._encoders: dict[Any, Callable[[Sequence[Any]], bytes]] = {}
        self.param_types = tuple(slots.types)
        self.found = 0  # how often, by its template
        self._descriptions: dict[tuple[int, ...], bytes] = {}
        self._parsers: list[Reader] | None = None
        self._oids: tuple[int, ...] | None = None

    def fits(self, catalog: Any) -> bool:
        """Whether the plan is right with this catalog (K4)."""
        if self.catalog is catalog:
            return True
        tables = self.tables
        if tables is None:
            return False
        for name, definition in tables:
            if catalog.table(name) is not definition:
                return False
        self.catalog = catalog
        return True

    @property
    def parsers(self) -> list[Reader]:
        """Readers of the parameters' text form."""
        if self._parsers is None:
            self._parsers = [text_in.text_parser("text" if kind == "unknown" else kind) for kind in self.param_types]
        return self._parsers

    @property
    def param_oids(self) -> tuple[int, ...]:
        if self._oids is None:
            self._oids = tuple(types.TYPES["text" if kind == "unknown" else kind].oid for kind in self.param_types)
        return self._oids

    def describe(self, formats: tuple[int, ...]) -> bytes:
        """The RowDescription for these result formats (none = text)."""
        if not formats or not any(formats):
            return self.description
        found = self._descriptions.get(formats)
        if found is None:
            found = self._descriptions[formats] = describe(self.plan.columns or (), formats)
        return found

    def encoder(self, formats: tuple[int, ...]) -> Callable[[Sequence[Any]], bytes]:
        """A row's DataRow encoder for these formats (none = text)."""
        found = self._encoders.get(formats)
        if found is None:
            columns = self.plan.columns or ()
            encoders = []
            for i, column in enumerate(columns):
                code = 0 if not formats else formats[0] if len(formats) == 1 else formats[i]
                kind = column.type_name
                encoders.append(binary_encoder(kind) if code else text_out.text_encoder(kind))
            found = self._encoders[formats] = row_encoder(encoders)
        return found


def _literal_reader(kind: str, type_name: str) -> Reader:
    if kind in "il":
        return int
    if kind == "n":
        return text_in.parse_numeric
    parser = text_in.text_parser("text" if type_name == "unknown" else type_name)
    return lambda literal: parser(literal_text(literal))


class Shared:
    """What all sessions of a database share: the plan cache and the analytic engine."""

    def __init__(self, db: Any, analytics: Any = None) -> None:
        self.db = db
        self.analytics = analytics if analytics is not None else LateAnalytics(db.ports.offload)
        self.exact: dict[str, Planned] = {}
        self.matchers: dict[str, list[tuple[Matcher, Planned]]] = {}  # of templates, by the statement's first characters
        self.templates: dict[str, Planned | None] = {}
        self.typed: dict[tuple[str, tuple[str, ...]], Planned] = {}  # by text and declared parameter types
        self.utilities: dict[str, Utility] = {}  # BEGIN, COMMIT and the like, by text

    def find(self, sql: str, catalog: Any) -> tuple[Planned, Sequence[Any]] | None:
        """A cached plan for a statement without parameters, and its literals' values; None if there is none."""
        planned = self.exact.get(sql)
        if planned is not None:
            if not planned.param_types and planned.fits(catalog):
                return planned, ()
            return None
        for match, planned in self.matchers.get(sql[:MATCHER_PREFIX], ()):
            if (planned.catalog is catalog or planned.fits(catalog)) and (literals := match(sql)) is not None:
                return planned, list(map(int, literals.groups()))
        template = normalise(sql)
        if template is None:
            return None
        planned = self.templates.get(template[0])
        if planned is None or not planned.fits(catalog):
            return None
        planned.found += 1
        if planned.found == MATCHER_AFTER:
            self._remember_matcher(template[0], planned)
        return planned, [read(literal) for read, literal in zip(planned.readers, template[1], strict=True)]

    def find_prepared(self, sql: str, declared: tuple[str, ...], catalog: Any) -> Planned | None:
        """A cached plan for a statement with parameters, of whose types the client has declared some ("unknown": not)."""
        planned = self.typed.get((sql, declared)) if any(kind != "unknown" for kind in declared) else self.exact.get(sql)
        if planned is None or len(planned.param_types) < len(declared) or not planned.fits(catalog):
            return None
        return planned

    def remember_utility(self, sql: str, utility: Utility) -> None:
        if utility.kind in CACHED_KINDS and len(self.utilities) < MAX_CACHED:
            self.utilities[sql] = utility

    async def plan(self, env: Environment, sql: str, offset: int = 0, template: bool = True) -> tuple[Planned, Sequence[Any]]:
        """Plan a statement, by its template if that works, and remember it. Raises: SqlError."""
        found = normalise(sql) if template and not env.slots.types else None
        if found is not None and self.templates.get(found[0], env) is not None:
            planned = await self._plan_template(env, found[0])
            if planned is not None:
                return planned, [read(literal) for read, literal in zip(planned.readers, found[1], strict=True)]
        declared = tuple(env.slots.types)
        plan = await plan_tree(env, parse(sql, offset))
        if template and plan.slots.types:
            raise SqlError("42P02", "there is no parameter $1")
        planned = Planned(plan, env.catalog, env.tables)
        if not isinstance(plan, (DdlPlan, AnalyticPlan)) and len(sql) <= MAX_CACHED_TEXT:
            if not declared:
                self._remember(self.exact, sql, planned)
            elif not template:
                self._remember(self.typed, (sql, declared), planned)
        return planned, ()

    async def _plan_template(self, env: Environment, key: str) -> Planned | None:
        planned: Planned | None = None
        try:
            text, classes = template_sql(key)
            inner = Environment(env.db, env.txn, env.catalog, Slots(classes=classes), env.analytics, env.query_session)
            plan = await plan_tree(inner, parse(text), own_only=True)
            if all(kind != "unknown" for kind in plan.slots.types):
                planned = Planned(plan, env.catalog, inner.tables, classes)
        except (SqlError, Hard, ValueError):
            planned = None  # K2; if the statement itself is wrong, its own text will say where
        self._remember(self.templates, key, planned)
        return planned

    def _remember_matcher(self, key: str, planned: Planned) -> None:
        """K3: a statement that a matcher takes has this template, and its literals are integers."""
        match = matcher(key)
        prefix = key[:MATCHER_PREFIX]
        if match is None or "\0" in prefix or len(prefix) < MATCHER_PREFIX:
            return
        known = [entry for entry in self.matchers.get(prefix, ()) if entry[1].fits(planned.catalog)]
        self._remember(self.matchers, prefix, [(match, planned), *known][:MAX_MATCHERS])

    def _remember(self, cache: dict[Any, Any], key: Any, planned: Any) -> None:
        if len(cache) >= MAX_CACHED:
            for old in list(cache)[: MAX_CACHED // 10]:
                del cache[old]
        cache[key] = planned


def shared_of(db: Any) -> Shared:
    """The database's one Shared, kept on the database itself."""
    shared = getattr(db, "sql_shared", None)
    if shared is None:
        shared = Shared(db)
        db.sql_shared = shared
    found: Shared = shared
    return found


async def plan_tree(env: Environment, tree: Any, own_only: bool = False) -> Plan:
    """Raises: SqlError; Hard with own_only, where the analytic engine would be needed."""
    try:
        if isinstance(tree, (exp.Create, exp.Drop, exp.Alter, exp.Comment)):
            if own_only:
                raise Hard("DDL")
            plan: Plan = DdlPlan(tree)
        elif isinstance(tree, exp.Insert):
            plan = await plan_insert(env, tree)
        elif isinstance(tree, exp.Update):
            plan = await plan_update(env, tree)
        elif isinstance(tree, exp.Delete):
            plan = await plan_delete(env, tree)
        elif isinstance(tree, (exp.Query, exp.Values)):
            plan = await plan_query(env, tree)
        else:
            raise SqlError("0A000", f"{type(tree).__name__.upper()} is not supported")
    except Hard as hard:
        if own_only:
            raise
        raise SqlError("0A000", f"{hard} is not supported here") from None
    if own_only and _is_analytic(plan):
        raise Hard("analytic")
    return plan


def _is_analytic(plan: Plan) -> bool:
    if isinstance(plan, (AnalyticPlan, HardUpdatePlan, HardDeletePlan)):
        return True
    if isinstance(plan, InsertPlan) and plan.query is not None and _is_analytic(plan.query):
        return True
    return any(_is_analytic(inner) for inner in plan.subqueries)

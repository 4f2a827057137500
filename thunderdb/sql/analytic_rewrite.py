"""A PostgreSQL syntax tree made into one that means the same to DuckDB.

    PostgreSQL                          to DuckDB
    avg(int), numeric / numeric         numeric_div(…), our own function: exact, with PostgreSQL's scale
    sum(int4), sum(int8)                cast to bigint, numeric (DuckDB gives a 128-bit integer)
    now(), current_user, version() …    literals of the session
    varchar(n), char(n), numeric casts  cut, blanks removed, no default scale
    pg_catalog.f(…), OPERATOR(…), COLLATE, ::regclass    plain functions, operators and oids
    $n                                  literals of the parameter's type

Q1. Types are inferred on the whole tree before anything in it is replaced.
Q2. A numeric division or average in the select list also gets a hidden column with its text, since its scale differs by row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import sqlglot
from sqlglot import exp

from thunderdb.base.errors import SqlError
from thunderdb.sql.analytic_functions import NODES, refuse_function, same_meaning
from thunderdb.sql.analytic_types import SqlType, duckdb_type, literal
from thunderdb.sql.analytic_typing import Typer, data_type, folded, is_shown, reg_kind
from thunderdb.sql.syscatalog import SystemCatalog
from thunderdb.sql.syscatalog_functions import system_call
from thunderdb.sql.text_in import parse_array
from thunderdb.sql.types import NUMERIC_RANK, TYPES, type_display

Param = tuple[str, Any]  # (type name, value)
_DIVISION_TYPE = "DECIMAL(38,16)"
_INTEGER_TYPES = ("int2", "int4", "int8")
_RENAMED = {
    "every": "bool_and", "jsonb_build_object": "json_object", "json_build_object": "json_object",
    "jsonb_build_array": "json_array", "json_build_array": "json_array", "jsonb_array_length": "json_array_length",
    "jsonb_agg": "json_group_array", "json_agg": "json_group_array", "jsonb_object_agg": "json_group_object",
    "to_jsonb": "to_json", "jsonb_extract_path_text": "json_extract_string",
}  # fmt: skip
_OPERATORS: dict[str, Callable[[exp.Expression, exp.Expression], exp.Expression]] = {
    "=": lambda a, b: exp.EQ(this=a, expression=b),
    "<>": lambda a, b: exp.NEQ(this=a, expression=b),
    "<": lambda a, b: exp.LT(this=a, expression=b),
    ">": lambda a, b: exp.GT(this=a, expression=b),
    "<=": lambda a, b: exp.LTE(this=a, expression=b),
    ">=": lambda a, b: exp.GTE(this=a, expression=b),
    "~": lambda a, b: exp.RegexpLike(this=a, expression=b),
    "!~": lambda a, b: exp.Not(this=exp.RegexpLike(this=a, expression=b)),
    "~*": lambda a, b: exp.RegexpILike(this=a, expression=b),
    "~~": lambda a, b: exp.Like(this=a, expression=b),
    "!~~": lambda a, b: exp.Not(this=exp.Like(this=a, expression=b)),
    "+": lambda a, b: exp.Add(this=a, expression=b),
    "-": lambda a, b: exp.Sub(this=a, expression=b),
    "*": lambda a, b: exp.Mul(this=a, expression=b),
    "||": lambda a, b: exp.DPipe(this=a, expression=b),
}


@dataclass(frozen=True, slots=True)
class QuerySession:
    """What a query may ask about the session it runs in."""

    user: str = "admin"
    database: str = "thunderdb"
    now_us: int = 0  # the transaction's start, microseconds since 2000-01-01 UTC
    version: str = "PostgreSQL 15.0 (ThunderDB)"
    settings: Mapping[str, str] = field(default_factory=dict)
    pid: int = 0
    schemas: tuple[str, ...] = ("public",)
    activity: tuple[Mapping[str, Any], ...] = ()  # rows of pg_stat_activity: pid, usename, state, query …
    wal: Mapping[str, str] = field(default_factory=dict)  # pg_current_wal_… to the LSN that it answers
    database_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Rewritten:
    """`hidden[i]` is the position of the column that has output i's text."""

    sql: str
    outputs: list[tuple[str, SqlType | None]]
    hidden: dict[int, int]


def normalise(tree: exp.Expression) -> exp.Expression:
    """Give `pg_catalog.f(…)` the node that `f(…)` alone has, so that everything after treats the two alike. In place."""
    for node in reversed(list(tree.find_all(exp.Dot))):  # the innermost first
        inner = node.expression
        if isinstance(node.this, exp.Identifier) and folded(node.this) == "pg_catalog" and isinstance(inner, exp.Anonymous):
            arguments = [argument.copy() for argument in inner.expressions]
            try:
                plain = exp.func(str(inner.this), *arguments, dialect="postgres")
            except ValueError:
                plain = exp.Anonymous(this=inner.this, expressions=arguments)
            if node is tree:
                return plain
            node.replace(plain)
    return tree


class Rewriter:
    def __init__(
        self,
        typer: Typer,
        params: Mapping[int, Param],
        session: QuerySession,
        table_names: Callable[[exp.Table], str | None],
        system: SystemCatalog,
    ) -> None:
        self._typer = typer
        self._params = params
        self._session = session
        self._table_names = table_names
        self._system = system

    def rewrite(self, tree: exp.Expression) -> Rewritten:
        """Rewrite `tree` in place (hand in a copy)."""
        outputs = self._typer.outputs_of(tree)
        nodes = list(tree.walk())
        for node in nodes:  # Q1
            self._typer.type_of(node)
        hidden_at = self._hidden_positions(tree)
        for node in reversed(nodes):
            replacement = self._replacement(node)
            if replacement is not None and replacement is not node:
                if node is tree:
                    tree = replacement
                else:
                    node.replace(replacement)
        hidden = _add_hidden(tree, hidden_at)
        return Rewritten(tree.sql(dialect="duckdb"), outputs, hidden)

    # Which node becomes what

    def _replacement(self, node: exp.Expression) -> exp.Expression | None:
        method = _METHODS.get(type(node))
        if method is not None:
            result: exp.Expression | None = method(self, node)
            return result
        return None

    def _avg(self, node: exp.Avg) -> exp.Expression | None:
        kind = self._typer.type_of(node)
        if kind is None or kind.name != "numeric":
            return None
        return _Division(exp.Sum(this=node.this.copy()), exp.Count(this=node.this.copy()))

    def _sum(self, node: exp.Sum) -> exp.Expression | None:
        kind, argument = self._typer.type_of(node), self._typer.type_of(node.this)
        if kind is None or argument is None or argument.name not in ("int2", "int4", "int8", "float4"):
            return None
        target = {"int8": "BIGINT", "numeric": "DECIMAL(38,0)", "float4": "REAL"}[kind.name]
        return _cast(exp.Sum(this=node.this.copy()), target)

    def _wrapped(self, node: exp.Expression) -> exp.Expression | None:
        """`avg(x) FILTER (…)`, `sum(x) OVER (…)`: what was put around the aggregate belongs around all of this."""
        inner = node.this
        if isinstance(inner, exp.Cast) and inner.meta.get("correction"):
            division = inner.meta.get("division")
            if division is None:
                aggregate = inner.this.copy()
                node.set("this", aggregate)
                return _cast(node.copy(), inner.to.sql(dialect="duckdb"))
            parts = []
            for part in division:
                wrapper = node.copy()
                wrapper.set("this", part.copy())
                parts.append(wrapper)
            return _Division(*parts)
        return None

    def _div(self, node: exp.Div) -> exp.Expression | None:
        kind = self._typer.type_of(node)
        node.set("typed", False)
        node.set("safe", False)
        self._arithmetic(node)
        if kind is None or kind.name != "numeric":
            return None
        return _Division(node.left.copy(), node.right.copy())

    def _arithmetic(self, node: exp.Binary) -> exp.Expression | None:
        """A string beside a number is that number; a real beside another type is computed in double precision."""
        kind = self._typer.type_of(node)
        for side in ("this", "expression"):
            operand = node.args[side]
            source = self._typer.type_of(operand)
            if kind is not None and isinstance(operand, exp.Literal) and operand.is_string and kind.name in NUMERIC_RANK:
                node.set(side, _cast(operand.copy(), "DECIMAL(38,10)" if kind.name == "numeric" else duckdb_type(kind.name)))
            elif kind is not None and kind.name == "float8" and source is not None and source.name == "float4":
                node.set(side, _cast(operand.copy(), "DOUBLE"))
        return None

    def _percentile(self, node: exp.WithinGroup) -> exp.Expression | None:
        if isinstance(node.this, exp.PercentileCont):
            for ordered in node.find_all(exp.Ordered):
                ordered.set("this", _cast(ordered.this.copy(), "DOUBLE"))
        return None

    def _literal(self, node: exp.Literal) -> exp.Expression | None:
        """1e3 is numeric, not double precision."""
        if node.is_string or "e" not in node.name.lower():
            return None
        text = format(Decimal(node.name), "f")
        return exp.Literal.number(text) if len(text) <= 38 else None

    def _json_path(self, node: exp.Expression) -> exp.Expression | None:
        """`#>` and `#>>` with a literal path become a JSON pointer."""
        path = node.args["expression"]
        if not (isinstance(path, exp.Literal) and path.name.startswith("{")):
            return None
        steps = [str(step).replace("~", "~0").replace("/", "~1") for step in parse_array("text", path.name)]
        name = "json_extract" if isinstance(node, exp.JSONBExtract) else "json_extract_string"
        return exp.Anonymous(this=name, expressions=[node.this.copy(), exp.Literal.string("".join("/" + s for s in steps))])

    def _sub(self, node: exp.Sub) -> exp.Expression | None:
        self._arithmetic(node)
        kind = self._typer.type_of(node)
        left = self._typer.type_of(node.left)
        if kind is not None and kind.name == "int4" and left is not None and left.name == "date":
            return _cast(node.copy(), "INTEGER")
        return None

    def _to_int4(self, node: exp.Expression) -> exp.Expression | None:
        kind = self._typer.type_of(node.this) if isinstance(node, exp.Length) else None
        if kind is not None and kind.name == "bytea":
            node = exp.Anonymous(this="octet_length", expressions=[node.this.copy()])
        return _cast(node.copy(), "INTEGER")

    def _extract(self, node: exp.Extract) -> exp.Expression | None:
        part = node.name.lower()
        if part == "epoch":
            return _cast(node.copy(), "DECIMAL(20,6)")
        if part in ("second", "milliseconds", "millisecond"):
            scale, digits = (1_000_000, 6) if part == "second" else (1000, 3)
            source = node.args["expression"].sql(dialect="duckdb")
            text = f"CAST(extract(microseconds FROM {source}) / {scale}.0 AS DECIMAL(20,{digits}))"
            return sqlglot.parse_one(text, read="duckdb")
        return _cast(node.copy(), "DECIMAL(20,0)")

    def _to_char(self, node: exp.TimeToStr) -> exp.Expression | None:
        """In to_char's format, what stands in double quotes is text, taken as it is; the parser knows nothing of that."""
        pattern = node.args.get("format")
        if not isinstance(pattern, exp.Literal) or '"' not in pattern.name:
            return None
        parts = pattern.name.split('"')
        if len(parts) % 2 == 0 or any("%" in text for text in parts[1::2]):
            raise SqlError("0A000", "to_char with such a quoted text in its format is not supported")
        pattern.replace(exp.Literal.string("".join(parts)))
        return None

    def _round(self, node: exp.Round) -> exp.Expression | None:
        kind = self._typer.type_of(node.this)
        if kind is not None and kind.name in ("float4", "float8") and node.args.get("decimals") is None:
            return exp.Anonymous(this="round_even", expressions=[node.this.copy(), exp.Literal.number(0)])
        return None

    def _cast_node(self, node: exp.Cast) -> exp.Expression | None:
        to = node.to
        kind = reg_kind(to)
        if kind:
            return self._reg_cast(node, kind)
        target = data_type(to)
        if target is None:
            name = str(to.args.get("kind") or "").split(".")[-1].strip('"').lower()
            if name in ("regproc", "regprocedure") and isinstance(node.this, exp.Literal) and not node.this.name.isdigit():
                raise SqlError("42883", f'function "{node.this.name}" does not exist')
            return (
                _cast(node.this.copy(), "VARCHAR") if name in ("xid", "int2vector", "oidvector", "cstring", "regproc") else None
            )
        if target.name in ("varchar", "bpchar") and target.typmod >= 4:
            cut = exp.Anonymous(this="left", expressions=[_cast(node.this.copy(), "VARCHAR"), _number(target.typmod - 4)])
            return cut if target.name == "varchar" else exp.Anonymous(this="rtrim", expressions=[cut, exp.Literal.string(" ")])
        if target.name == "numeric" and target.typmod < 0:
            return self._to_numeric(node)
        if target.name == "text":
            source = self._typer.type_of(node.this)
            if source is not None and source.name in ("float4", "float8"):
                text = _cast(node.this.copy(), "VARCHAR").sql(dialect="duckdb")
                return sqlglot.parse_one(f"regexp_replace({text}, '\\.0$', '')", read="duckdb")
        if not node.meta.get("correction"):
            return _cast(node.this.copy(), duckdb_type(target.name, target.typmod), correction=False)
        return None

    def _to_numeric(self, node: exp.Cast) -> exp.Expression | None:
        source = self._typer.type_of(node.this)
        inner = node.this.copy()
        if source is None:
            return _cast(inner, "DECIMAL(38,10)")
        if source.name == "numeric":
            return exp.Paren(this=inner)
        if source.name in _INTEGER_TYPES:
            return _cast(inner, "DECIMAL(38,0)")
        if isinstance(node.this, exp.Literal):
            scale = len(node.this.name.partition(".")[2]) if "e" not in node.this.name.lower() else 10
            return _cast(inner, f"DECIMAL(38,{scale})")
        return _cast(inner, "DECIMAL(38,10)")

    def _reg_cast(self, node: exp.Cast, kind: str) -> exp.Expression | None:
        inner = node.this
        source = self._typer.type_of(inner)
        if isinstance(inner, exp.Literal):
            text = inner.name
            if text.isdigit():
                oid: int | None = int(text)
            else:
                oid = self._system.oid_of(kind, text)
                if oid is None:
                    what = {"regclass": "relation", "regtype": "type", "regnamespace": "schema"}.get(kind, "object")
                    code = {"regclass": "42P01", "regtype": "42704", "regnamespace": "3F000"}.get(kind, "42704")
                    raise SqlError(code, f'{what} "{text}" does not exist')
            if not is_shown(node):
                return _number(oid or 0)
            inner = _number(oid or 0)
        elif source is not None and source.name in ("text", "varchar", "unknown", "name"):
            raise SqlError("0A000", f"a cast of computed text to {kind} is not supported")
        elif not is_shown(node):
            return _cast(inner.copy(), "BIGINT")
        return system_call(self._system, f"__{kind}_name", [inner.copy()])

    def _dot(self, node: exp.Dot) -> exp.Expression | None:
        left = node.this
        if isinstance(left, exp.Identifier) and folded(left) in ("pg_catalog", "public", "information_schema"):
            inner: exp.Expression = node.expression.copy()  # already rewritten itself
            return None if isinstance(inner, exp.Identifier) else inner
        return None

    def _operator(self, node: exp.Expression) -> exp.Expression | None:
        name = str(node.args["operator"]).replace(" ", "").split(".")[-1]
        build = _OPERATORS.get(name)
        if build is None:
            raise SqlError("42883", f"operator does not exist: {name}")
        return build(node.this.copy(), node.args["expression"].copy())

    def _collate(self, node: exp.Collate) -> exp.Expression | None:
        name = str(node.expression.name).lower()
        if name not in ("default", "c", "posix", "ucs_basic", "en_us", "en_us.utf8", "en_us.utf-8", "c.utf-8", "c.utf8"):
            raise SqlError("42704", f'collation "{node.expression.name}" for encoding "UTF8" does not exist')
        inner: exp.Expression = node.this.copy()
        return inner

    def _like(self, node: exp.Expression) -> exp.Expression | None:
        pattern = node.args["expression"]
        if isinstance(node.parent, exp.Escape) or (isinstance(pattern, exp.Literal) and "\\" not in pattern.name):
            return None
        if isinstance(pattern, (exp.Any, exp.All)):
            return None
        return exp.Escape(this=node.copy(), expression=exp.Literal.string("\\"))

    def _function(self, node: exp.Expression) -> exp.Expression | None:
        return same_meaning(node, self._typer.type_of)

    def _column(self, node: exp.Column) -> exp.Expression | None:
        if folded(node.this) == "tableoid" and self._typer.is_of_system_view(node):
            return _number(0)  # they are views here: nothing is described by it
        node.set("db", None)
        node.set("catalog", None)
        return None

    def _table(self, node: exp.Table) -> exp.Expression | None:
        function = node.this
        if not isinstance(function, exp.Identifier):
            node.set("db", None)
            if isinstance(function, exp.ExplodingGenerateSeries):
                node.set("this", exp.GenerateSeries(**{k: v.copy() for k, v in function.args.items() if v is not None}))
            elif isinstance(function, exp.Explode):
                node.set("this", exp.Anonymous(this="unnest", expressions=[function.this.copy()]))
            _name_series_column(node)
            return None
        name = self._table_names(node)
        if name is None:
            return None
        if node.args.get("alias") is None:
            node.set("alias", exp.TableAlias(this=exp.to_identifier(folded(function), quoted=True)))
        node.set("this", exp.to_identifier(name))
        node.set("db", None)
        node.set("catalog", None)
        return None

    def _parameter(self, node: exp.Parameter) -> exp.Expression | None:
        number = int(node.name)
        if number not in self._params:
            raise SqlError("42P02", f"there is no parameter ${number}")
        name, value = self._params[number]
        if name in ("unknown", "text", "varchar") and value is not None:
            return exp.Literal.string(value)
        if value is None and name == "unknown":
            return exp.Null()
        return sqlglot.parse_one(literal(value, SqlType(name)), read="duckdb")

    def _session_value(self, node: exp.Expression) -> exp.Expression | None:
        session = self._session
        if isinstance(node, exp.CurrentTimestamp):
            return sqlglot.parse_one(literal(session.now_us, SqlType("timestamptz")), read="duckdb")
        if isinstance(node, exp.CurrentDate):
            return sqlglot.parse_one(literal(session.now_us // 86_400_000_000, SqlType("date")), read="duckdb")
        if isinstance(node, exp.CurrentSchemas):
            implicit = isinstance(node.this, exp.Boolean) and bool(node.this.this)
            names = ("pg_catalog", *session.schemas) if implicit else session.schemas
            return exp.Array(expressions=[exp.Literal.string(name) for name in names])
        text = {
            exp.CurrentUser: session.user,
            exp.SessionUser: session.user,
            exp.CurrentSchema: session.schemas[0] if session.schemas else None,
            exp.CurrentDatabase: session.database,
            exp.CurrentCatalog: session.database,
            exp.CurrentVersion: session.version,
        }[type(node)]
        return exp.Literal.string(text) if text is not None else exp.Null()

    def _anonymous(self, node: exp.Anonymous) -> exp.Expression | None:
        name = str(node.this).lower()
        node.set("this", name)
        arguments = node.expressions
        if name in ("now", "transaction_timestamp", "statement_timestamp", "clock_timestamp"):
            return self._session_value(exp.CurrentTimestamp())
        if name == "pg_backend_pid":
            return _number(self._session.pid)
        if name in self._session.wal:
            return exp.Literal.string(self._session.wal[name])
        if name == "pg_database_size":
            size = self._session.database_bytes
            return exp.cast(exp.Null() if size is None else _number(size), "BIGINT", dialect="duckdb")
        if name == "current_setting" and arguments and isinstance(arguments[0], exp.Literal):
            setting = arguments[0].name.lower()
            if setting in self._session.settings:
                return exp.Literal.string(self._session.settings[setting])
            if len(arguments) > 1:
                return exp.Null()
            raise SqlError("42704", f'unrecognized configuration parameter "{setting}"')
        if name == "current_setting" and len(arguments) == 1:
            known = [(exp.Literal.string(key), exp.Literal.string(value)) for key, value in self._session.settings.items()]
            return exp.Case(this=arguments[0].copy(), ifs=[exp.If(this=key, true=value) for key, value in known])
        if name in ("to_regclass", "to_regtype") and arguments and isinstance(arguments[0], exp.Literal):
            oid = self._system.oid_of(name[3:], arguments[0].name)
            return exp.Null() if oid is None else exp.Literal.string(arguments[0].name) if is_shown(node) else _number(oid)
        refuse_function(name)
        if name in _RENAMED:
            return exp.Anonymous(this=_RENAMED[name], expressions=[argument.copy() for argument in arguments])
        if name == "pg_typeof" and arguments:
            kind = self._typer.type_of(arguments[0])
            return exp.Literal.string(type_display(kind.name)) if kind is not None and kind.name in TYPES else None
        return system_call(self._system, name, [argument.copy() for argument in arguments])

    def _array_comparison(self, node: exp.Binary) -> exp.Expression | None:
        """`column = '{1,2}'`: the text of an array beside an array; blanks at the end do not count beside char(n)."""
        for side, other in (("this", node.expression), ("expression", node.this)):
            text, kind = node.args[side], self._typer.type_of(other)
            if not (isinstance(text, exp.Literal) and text.is_string and kind is not None):
                continue
            if kind.name == "bpchar":
                node.set(side, exp.Literal.string(text.name.rstrip(" ")))
            elif kind.name.endswith("[]"):
                value = parse_array(kind.name[:-2], text.name)
                node.set(side, sqlglot.parse_one(literal(value, kind), read="duckdb"))
        return None

    def _select(self, node: exp.Select) -> exp.Expression | None:
        node.set("locks", None)
        return None

    def _array(self, node: exp.Array) -> exp.Expression | None:
        if len(node.expressions) == 1 and isinstance(node.expressions[0], exp.Select | exp.SetOperation):
            query = exp.Subquery(this=node.expressions[0].copy())
            return exp.Anonymous(this="ARRAY", expressions=[query.this])
        return None

    def _array_to_string(self, node: exp.ArrayToString) -> exp.Expression | None:
        return exp.Anonymous(this="array_to_string", expressions=[node.this.copy(), node.expression.copy()])

    def _unnest(self, node: exp.Unnest) -> exp.Expression | None:
        _name_series_column(node)
        return None

    # The select list's exact texts (Q2)

    def _hidden_positions(self, tree: exp.Expression) -> list[int]:
        if not isinstance(tree, exp.Select) or tree.args.get("distinct") or any(p.is_star for p in tree.expressions):
            return []
        found = []
        for i, projection in enumerate(tree.expressions):
            inner = projection.unalias()
            core = inner
            while isinstance(core, (exp.Window, exp.Filter, exp.Paren)):
                core = core.this
            kind = self._typer.type_of(inner)
            if isinstance(core, (exp.Avg, exp.Div)) and kind is not None and kind.name == "numeric":
                free = any(c.find_ancestor(exp.AggFunc) is None for c in core.find_all(exp.Column))
                if not (tree.args.get("group") and free):
                    found.append(i)
        return found


def _add_hidden(tree: exp.Expression, positions: list[int]) -> dict[int, int]:
    hidden: dict[int, int] = {}
    for position in positions:
        inner = tree.expressions[position].unalias()
        while isinstance(inner, exp.Paren):
            inner = inner.this
        if not (isinstance(inner, exp.Cast) and inner.meta.get("division")):
            continue
        hidden[position] = len(tree.expressions)
        tree.append("expressions", exp.alias_(inner.this.copy(), f"__text{position}", quoted=True))
    return hidden


def _cast(inner: exp.Expression, target: str, correction: bool = True) -> exp.Cast:
    cast = exp.Cast(this=inner, to=exp.DataType.build(target, dialect="duckdb"))
    if correction:
        cast.meta["correction"] = True
    return cast


def _Division(left: exp.Expression, right: exp.Expression) -> exp.Cast:  # noqa: N802  it makes a node
    """left / right as numerics: our own function on their texts."""
    call = exp.Anonymous(this="numeric_div", expressions=[_cast(left.copy(), "VARCHAR"), _cast(right.copy(), "VARCHAR")])
    cast = _cast(call, _DIVISION_TYPE)
    cast.meta["division"] = (left, right)
    return cast


def _number(value: int) -> exp.Literal:
    return exp.Literal.number(value)


def _name_series_column(node: exp.Expression) -> None:
    """PostgreSQL names the column of `generate_series(…) g` after the alias."""
    alias = node.args.get("alias")
    if alias is not None and alias.this is not None and not alias.args.get("columns"):
        alias.set("columns", [alias.this.copy()])


_METHODS: dict[type[exp.Expression], Callable[[Rewriter, Any], exp.Expression | None]] = {
    exp.Avg: Rewriter._avg,
    exp.Sum: Rewriter._sum,
    exp.Filter: Rewriter._wrapped,
    exp.Window: Rewriter._wrapped,
    exp.Div: Rewriter._div,
    exp.Sub: Rewriter._sub,
    exp.Add: Rewriter._arithmetic,
    exp.Mul: Rewriter._arithmetic,
    exp.Mod: Rewriter._arithmetic,
    exp.WithinGroup: Rewriter._percentile,
    exp.Literal: Rewriter._literal,
    exp.JSONBExtract: Rewriter._json_path,
    exp.JSONBExtractScalar: Rewriter._json_path,
    exp.EQ: Rewriter._array_comparison,
    exp.NEQ: Rewriter._array_comparison,
    exp.ArrayToString: Rewriter._array_to_string,
    exp.Unnest: Rewriter._unnest,
    exp.Length: Rewriter._to_int4,
    exp.StrPosition: Rewriter._to_int4,
    exp.Extract: Rewriter._extract,
    exp.TimeToStr: Rewriter._to_char,
    exp.Round: Rewriter._round,
    exp.Cast: Rewriter._cast_node,
    exp.Dot: Rewriter._dot,
    exp.Operator: Rewriter._operator,
    exp.Collate: Rewriter._collate,
    exp.Like: Rewriter._like,
    exp.ILike: Rewriter._like,
    exp.Column: Rewriter._column,
    exp.Table: Rewriter._table,
    exp.Parameter: Rewriter._parameter,
    exp.Anonymous: Rewriter._anonymous,
    exp.Select: Rewriter._select,
    exp.Array: Rewriter._array,
    **dict.fromkeys(NODES, Rewriter._function),
    **dict.fromkeys(
        (exp.CurrentTimestamp, exp.CurrentDate, exp.CurrentUser, exp.SessionUser, exp.CurrentSchema, exp.CurrentSchemas,
         exp.CurrentDatabase, exp.CurrentCatalog, exp.CurrentVersion),
        Rewriter._session_value,
    ),
}  # fmt: skip

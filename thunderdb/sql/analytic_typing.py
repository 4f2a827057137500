"""What PostgreSQL's type of an expression is, as far as it is needed to correct what DuckDB would make of it.

N1. `None` means "not known": nothing is corrected then, and DuckDB's own type counts.
N2. Names resolve as in SQL: the innermost query first, then outwards; a CTE hides a table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sqlglot import exp

from thunderdb.sql.analytic_types import SqlType
from thunderdb.sql.parse import is_single
from thunderdb.sql.types import ALIASES, NUMERIC_RANK, TYPES, make_typmod

Columns = dict[str, SqlType | None]
TableColumns = Callable[[exp.Table], Columns | None]

INT4, INT8, NUMERIC, FLOAT8, TEXT, BOOL = (SqlType(n) for n in ("int4", "int8", "numeric", "float8", "text", "bool"))
_INTEGERS = frozenset({"int2", "int4", "int8"})

_FIXED: tuple[tuple[type[exp.Expression], SqlType], ...] = (
    (exp.Count, INT8),
    (exp.CountIf, INT8),
    (exp.RowNumber, INT8),
    (exp.Length, INT4),
    (exp.StrPosition, INT4),
    (exp.Predicate, BOOL),
    (exp.Not, BOOL),
    (exp.And, BOOL),
    (exp.Or, BOOL),
    (exp.Boolean, BOOL),
    (exp.Concat, TEXT),
    (exp.DPipe, TEXT),
    (exp.Upper, TEXT),
    (exp.Lower, TEXT),
    (exp.Substring, TEXT),
    (exp.GroupConcat, TEXT),
    (exp.CurrentDate, SqlType("date")),
    (exp.CurrentTimestamp, SqlType("timestamptz")),
    (exp.Sqrt, FLOAT8),
    (exp.Rand, FLOAT8),
    (exp.Interval, SqlType("interval")),
    (exp.PercentileCont, FLOAT8),
    (exp.Ntile, INT4),
    (exp.PercentRank, FLOAT8),
    (exp.CumeDist, FLOAT8),
)
_NAMED = {
    "row_number": INT8, "rank": INT8, "dense_rank": INT8, "ntile": INT4, "char_length": INT4, "octet_length": INT4,
    "jsonb_array_length": INT4, "json_array_length": INT4, "array_length": INT4,
    "pg_typeof": TEXT, "to_char": TEXT, "md5": TEXT, "random": FLOAT8,
}  # fmt: skip
_SAME_AS_ARGUMENT = (exp.Min, exp.Max, exp.Abs, exp.Neg, exp.Paren, exp.First, exp.FirstValue, exp.LastValue, exp.Lag, exp.Lead)
_TEXT_LIKE = ("varchar", "name")


def data_type(node: exp.Expression | None) -> SqlType | None:
    """Our type for a type as written (`numeric(10,2)`, `pg_catalog.text`), None if we have no such type."""
    if not isinstance(node, exp.DataType):
        return None
    if node.this == exp.DataType.Type.ARRAY:
        inner = data_type(node.expressions[0]) if node.expressions else None
        return SqlType(inner.name + "[]") if inner is not None else None
    if node.this == exp.DataType.Type.USERDEFINED:
        kind = node.args.get("kind")
        name = str(kind.name if isinstance(kind, exp.Expression) else kind).lower()
        if isinstance(kind, exp.Identifier) and kind.quoted and name == "char":
            return SqlType("char")
    else:
        name = str(getattr(node.this, "value", node.this)).lower()
    name = ALIASES.get(name, name)
    if name not in TYPES:
        return None
    numbers = [int(p.name) for p in node.expressions if p.name.lstrip("-").isdigit()]
    if name == "float8" and is_single(node, numbers):
        return SqlType("float4")
    return SqlType(name, make_typmod(name, numbers) if numbers or (name == "bpchar" and not node.expressions) else -1)


def folded(node: object) -> str:
    """An identifier's name, folded to lower case unless it is quoted."""
    if isinstance(node, exp.Identifier):
        return node.this if node.quoted else node.this.lower()
    return str(getattr(node, "name", "")).lower()


class Typer:
    """Types of the expressions of one statement."""

    def __init__(self, table_columns: TableColumns, params: Mapping[int, SqlType]) -> None:
        self._table_columns = table_columns
        self._params = params
        self._environments: dict[int, dict[str, Columns]] = {}
        self._types: dict[int, SqlType | None] = {}

    def type_of(self, node: exp.Expression | None) -> SqlType | None:
        if node is None:
            return None
        key = id(node)
        if key not in self._types:
            self._types[key] = None  # a reference to itself (a recursive CTE) is not known
            self._types[key] = self._infer(node)
        return self._types[key]

    def _infer(self, node: exp.Expression) -> SqlType | None:
        if isinstance(node, exp.Column):
            return self._column(node)
        if isinstance(node, exp.Cast):
            return (TEXT if is_shown(node) else SqlType("oid")) if reg_kind(node.to) else data_type(node.to)
        if isinstance(node, exp.Dot):
            return self.type_of(node.expression)
        if isinstance(node, exp.Literal):
            return _literal(node)
        if isinstance(node, exp.Parameter):
            return self._params.get(int(node.name)) if node.name.isdigit() else None
        if isinstance(node, exp.Sum):
            return self._sum(self.type_of(node.this))
        if isinstance(node, exp.Avg):
            return self._avg(self.type_of(node.this))
        if isinstance(node, (exp.Add, exp.Sub, exp.Mul, exp.Div, exp.Mod)):
            return self._arithmetic(node)
        if isinstance(node, (exp.Min, exp.Max)):
            kind = self.type_of(node.this)
            return TEXT if kind is not None and kind.name in _TEXT_LIKE else kind
        if isinstance(node, _SAME_AS_ARGUMENT):
            return self.type_of(node.this)
        if isinstance(node, exp.ExplodingGenerateSeries):
            return self.type_of(node.args.get("start"))
        if isinstance(node, (exp.Alias, exp.Window, exp.Filter, exp.Ordered, exp.WithinGroup)):
            return self.type_of(node.this)
        if isinstance(node, (exp.Round, exp.Floor, exp.Ceil, exp.Pow, exp.Sign)):
            return self._rounded(node)
        if isinstance(node, (exp.Coalesce, exp.Greatest, exp.Least)):
            return self._common([node.this, *node.expressions])
        if isinstance(node, exp.Case):
            return self._common([branch.args["true"] for branch in node.args["ifs"]] + [node.args.get("default")])
        if isinstance(node, exp.Nullif):
            return self.type_of(node.this)
        if isinstance(node, exp.Subquery | exp.Select):
            columns = list(self.columns_of(node).values())
            return columns[0] if len(columns) == 1 else None
        if isinstance(node, exp.Anonymous):
            return _NAMED.get(str(node.this).lower())
        return next((kind for cls, kind in _FIXED if isinstance(node, cls)), None)

    # Names

    def columns_of(self, query: exp.Expression | None) -> Columns:
        """Output columns of a query, in order."""
        if isinstance(query, exp.Subquery):
            return dict(self.outputs_of(query.this))
        if isinstance(query, exp.Table):
            return self._table(query)
        if isinstance(query, exp.Values):
            row = query.expressions[0].expressions if query.expressions else []
            return {f"column{i}": self.type_of(item) for i, item in enumerate(row, 1)}
        columns: Columns = {}
        for name, kind in self.outputs_of(query) if query is not None else ():
            columns.setdefault(name, kind)
        return columns

    def outputs_of(self, query: exp.Expression) -> list[tuple[str, SqlType | None]]:
        """Like `columns_of`, but two columns of one name stay two."""
        if isinstance(query, exp.SetOperation):
            left, right = self.outputs_of(query.left), self.outputs_of(query.right)
            return [
                (name, None if kind is None or other is None else _wider(kind, other))
                for (name, kind), (_, other) in zip(left, right, strict=False)
            ]
        if isinstance(query, (exp.Subquery, exp.Values, exp.Table)):
            return list(self.columns_of(query).items())
        if not isinstance(query, exp.Select):
            return []
        outputs: list[tuple[str, SqlType | None]] = []
        for projection in query.expressions:
            star = projection.this if isinstance(projection, exp.Column) else projection
            if isinstance(star, exp.Star):
                wanted = folded(projection.args.get("table")) if isinstance(projection, exp.Column) else ""
                for alias, names in self.environment(query).items():
                    if not wanted or alias == wanted:
                        outputs.extend(names.items())
                continue
            outputs.append((output_name(projection), self.type_of(projection)))
        return outputs

    def environment(self, select: exp.Select) -> dict[str, Columns]:
        """What FROM offers: alias to columns."""
        known = self._environments.get(id(select))
        if known is not None:
            return known
        found: dict[str, Columns] = {}
        self._environments[id(select)] = found
        source = select.args.get("from_") or select.args.get("from")
        items = [source.this] if source is not None else []
        items += [join.this for join in select.args.get("joins") or []]
        items += select.args.get("laterals") or []
        for item in items:
            for nested in [item, *[join.this for join in item.args.get("joins") or []]]:
                self._add_source(nested, found)
        return found

    def _add_source(self, item: exp.Expression, found: dict[str, Columns]) -> None:
        alias = folded(item.args["alias"].this) if item.args.get("alias") and item.args["alias"].this else ""
        renames = [folded(c) for c in item.args["alias"].args.get("columns") or []] if item.args.get("alias") else []
        if isinstance(item, exp.Table):
            columns, name = self._table(item), folded(item.this)
        elif isinstance(item, (exp.Subquery, exp.Lateral)):
            columns, name = self.columns_of(item.this), ""
        elif isinstance(item, exp.Values):
            columns, name = self.columns_of(item), ""
        else:
            columns, name = {}, ""
        if renames:
            kinds = list(columns.values()) + [None] * len(renames)
            rest = list(columns.items())[len(renames) :]
            columns = dict(zip(renames, kinds, strict=False)) | dict(rest)
        found[alias or name or f"?{len(found)}"] = columns

    def _table(self, table: exp.Table) -> Columns:
        name = folded(table.this)
        if isinstance(table.this, exp.ExplodingGenerateSeries | exp.GenerateSeries):
            kind = self.type_of(table.this.args.get("start"))
            alias = folded(table.args["alias"].this) if table.args.get("alias") else "generate_series"
            return {alias: kind}
        if not table.args.get("db"):
            cte = find_cte(table, name)
            if cte is not None:
                columns = self.columns_of(cte.this)
                renames = [folded(c) for c in cte.args["alias"].args.get("columns") or []]
                return dict(zip(renames, columns.values(), strict=False)) if renames else columns
        return self._table_columns(table) or {}

    def _column(self, node: exp.Column) -> SqlType | None:
        name, table = folded(node.this), folded(node.args["table"]) if node.args.get("table") else ""
        select = node.find_ancestor(exp.Select)
        while select is not None:
            environment = self.environment(select)
            if table:
                if table in environment:
                    return environment[table].get(name)
            else:
                matches = [columns[name] for columns in environment.values() if name in columns]
                if matches:
                    return matches[0]
            select = select.find_ancestor(exp.Select)
        return None

    def is_of_system_view(self, node: exp.Column) -> bool:
        """Whether a column that is not there is asked of a view that has oids."""
        select = node.find_ancestor(exp.Select)
        columns = self.environment(select).get(folded(node.args["table"])) if select is not None and node.table else None
        return columns is not None and "oid" in columns and folded(node.this) not in columns

    # Operators

    @staticmethod
    def _sum(kind: SqlType | None) -> SqlType | None:
        if kind is None:
            return None
        return {"int2": INT8, "int4": INT8, "int8": NUMERIC, "numeric": NUMERIC}.get(kind.name, SqlType(kind.name))

    @staticmethod
    def _avg(kind: SqlType | None) -> SqlType | None:
        if kind is None:
            return None
        return NUMERIC if kind.name in _INTEGERS or kind.name == "numeric" else kind if kind.name == "interval" else FLOAT8

    def _arithmetic(self, node: exp.Binary) -> SqlType | None:
        left, right = self.type_of(node.left), self.type_of(node.right)
        if left is None or right is None:
            return None
        if left.name in NUMERIC_RANK and right.name in NUMERIC_RANK:
            return _wider(left, right)
        if left.name == "unknown" and right.name in NUMERIC_RANK:
            return right
        if right.name == "unknown" and left.name in NUMERIC_RANK:
            return left
        if isinstance(node, exp.Sub) and left.name == right.name == "date":
            return INT4
        if left.name == "date" and right.name in _INTEGERS:
            return left
        if isinstance(node, exp.Sub) and left.name == right.name and left.name.startswith("timestamp"):
            return SqlType("interval")
        if right.name == "interval" and left.name.startswith("timestamp"):
            return left
        return SqlType("timestamp") if left.name == "date" and right.name == "interval" else None

    def _rounded(self, node: exp.Expression) -> SqlType | None:
        kind = self.type_of(node.this)
        if kind is None:
            return None
        if isinstance(node, exp.Round) and node.args.get("decimals") is not None:
            return NUMERIC
        return NUMERIC if kind.name == "numeric" else FLOAT8

    def _common(self, nodes: list[exp.Expression | None]) -> SqlType | None:
        result: SqlType | None = None
        for node in nodes:
            if node is None or isinstance(node, exp.Null):
                continue
            kind = self.type_of(node)
            if kind is None:
                return None
            result = kind if result is None else _wider(result, kind)
        return result


def reg_kind(to: exp.Expression) -> str:
    """`regclass` and its like, "" for any other type."""
    name = to.sql().split(".")[-1].strip('"').lower()
    return name if name in ("regclass", "regtype", "regnamespace", "regrole") else ""


def is_shown(node: exp.Expression) -> bool:
    """Whether a reg* value is seen as text: in a select list, or cast to text."""
    parent = node.parent
    while isinstance(parent, (exp.Alias, exp.Paren)):
        parent = parent.parent
    if isinstance(parent, exp.Cast):
        target = data_type(parent.to)
        return target is not None and target.name in ("text", "varchar", "name")
    return isinstance(parent, exp.Select) and node.arg_key == "expressions"


def find_cte(node: exp.Expression, name: str) -> exp.CTE | None:
    """The CTE that a table name means, if it means one."""
    scope = node.parent
    while scope is not None:
        with_ = scope.args.get("with_") or scope.args.get("with")
        for cte in with_.expressions if isinstance(with_, exp.With) else []:
            if folded(cte.args["alias"].this) == name:
                found: exp.CTE = cte
                return found
        scope = scope.parent
    return None


def output_name(projection: exp.Expression) -> str:
    """The column name that PostgreSQL gives to an expression in a select list."""
    if isinstance(projection, exp.Alias):
        return folded(projection.args["alias"])
    if isinstance(projection, exp.Column):
        return folded(projection.this)
    if isinstance(projection, exp.Dot):
        return output_name(projection.expression)
    if isinstance(projection, exp.Cast):
        inner = output_name(projection.this)
        if inner != "?column?" and not isinstance(projection.this, (exp.Boolean, exp.Cast)):
            return inner
        if isinstance(projection.this, exp.Cast) and _has_name(projection.this):
            return inner
        kind = data_type(projection.to)
        if kind is None and reg_kind(projection.to):
            return reg_kind(projection.to)
        return kind.name.removesuffix("[]") if kind is not None else "?column?"
    if isinstance(projection, (exp.Paren, exp.Collate, exp.Window, exp.Filter, exp.WithinGroup)):
        return output_name(projection.this)
    if isinstance(projection, exp.Subquery):
        inner_query = projection.this
        return output_name(inner_query.expressions[0]) if isinstance(inner_query, exp.Select) else "?column?"
    if isinstance(projection, exp.Anonymous):
        return str(projection.this).lower()
    if isinstance(projection, (exp.JSONExtract, exp.JSONExtractScalar, exp.JSONBExtract, exp.JSONBExtractScalar)):
        return "?column?"
    if isinstance(projection, exp.Pad):
        return "lpad" if projection.args.get("is_left") else "rpad"
    if isinstance(projection, exp.AtTimeZone):
        return "timezone"
    if isinstance(projection, exp.Boolean):
        return "bool"
    if isinstance(projection, exp.Interval):
        return "interval"
    if isinstance(projection, (exp.And, exp.Or, exp.Like, exp.ILike, exp.RegexpLike, exp.Exists, exp.Any)):
        return "exists" if isinstance(projection, exp.Exists) else "?column?"
    if isinstance(projection, exp.Func) and not isinstance(projection, (exp.DPipe, exp.Mod)):
        return _FUNCTION_NAMES.get(type(projection), projection.sql_name().lower())
    return "?column?"


def _has_name(cast: exp.Expression) -> bool:
    """Whether a chain of casts ends in something that has a name of its own."""
    inner = cast
    while isinstance(inner, (exp.Cast, exp.Paren)):
        inner = inner.this
    return not isinstance(inner, (exp.Literal, exp.Boolean)) and output_name(inner) != "?column?"


_FUNCTION_NAMES: dict[type[exp.Expression], str] = {
    exp.CurrentTimestamp: "now", exp.GroupConcat: "string_agg", exp.StrPosition: "position", exp.TimestampTrunc: "date_trunc",
    exp.Rand: "random", exp.CurrentVersion: "version", exp.Substring: "substring", exp.Trim: "btrim", exp.Case: "case",
    exp.ArrayAgg: "array_agg", exp.LogicalAnd: "bool_and", exp.LogicalOr: "bool_or", exp.Explode: "unnest",
    exp.ExplodingGenerateSeries: "generate_series", exp.GenerateSeries: "generate_series", exp.Ceil: "ceil",
    exp.Stddev: "stddev", exp.StddevSamp: "stddev_samp", exp.Variance: "variance", exp.Array: "array", exp.Ln: "ln",
    exp.CurrentSchemas: "current_schemas", exp.Mod: "mod", exp.MD5: "md5", exp.ArrayToString: "array_to_string",
    exp.ArraySize: "array_length", exp.BitwiseAndAgg: "bit_and", exp.BitwiseOrAgg: "bit_or", exp.UnixToTime: "to_timestamp",
    exp.SHA2: "sha256", exp.DateTrunc: "date_trunc", exp.Length: "length", exp.Coalesce: "coalesce", exp.Pow: "power",
}  # fmt: skip


def _literal(node: exp.Literal) -> SqlType:
    if node.is_string:
        return SqlType("unknown")
    if not node.name.isdigit():
        return NUMERIC
    value = int(node.name)
    return INT4 if value < 1 << 31 else INT8 if value < 1 << 63 else NUMERIC


def _wider(left: SqlType, right: SqlType) -> SqlType:
    if left.name == "unknown":
        return right
    if right.name == "unknown":
        return left
    if left.name in NUMERIC_RANK and right.name in NUMERIC_RANK:
        wide = left if NUMERIC_RANK[left.name] >= NUMERIC_RANK[right.name] else right
        if left == right:
            return left
        if wide.name == "float4" and left.name != right.name:
            return FLOAT8
        return SqlType(wide.name)
    return left if left == right else SqlType(left.name)

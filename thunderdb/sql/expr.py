"""Expressions as closures: a syntax tree and a scope in, a function of (row, context) and its type out.

E1. SQL's three-valued logic: NULL is None; a strict operator gives NULL for a NULL operand; AND and OR look past it.
E2. A parameter or a string literal has type `unknown` until something beside it gives it one; what nothing types is text.
E3. What this compiler does not know raises `Hard`: a query then goes to the analytic path, anything else is 0A000.
E4. No closure suspends. What must wait (a scalar subquery, nextval) is found at compile time and evaluated before the row:
    subqueries once a statement into `context.scalars`, sequences once a row into `context.sequences`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlglot import exp

from thunderdb.base.errors import SqlError
from thunderdb.sql import types
from thunderdb.sql.casts import common_type, find_cast
from thunderdb.sql.operators import arithmetic, comparison, like_pattern, regular_expression, temporal
from thunderdb.sql.parse import ident

Fn = Callable[[Any, Any], Any]


class Hard(Exception):
    """Beyond the own path (E3)."""


@dataclass(slots=True)
class Expr:
    """A compiled expression. `slot` is the parameter index while its type is still unknown (E2)."""

    fn: Fn
    type: str
    typmod: int = -1
    const: bool = False
    slot: int | None = None

    def value(self) -> Any:
        """A constant's value."""
        return self.fn(None, None)


@dataclass(frozen=True, slots=True)
class ScopeColumn:
    table: str
    name: str
    type: str
    typmod: int = -1


class Slots:
    """The parameters of a statement, `$n` first and then the literals of its template, and what is known of their types."""

    __slots__ = ("types", "numbers", "classes")

    def __init__(self, declared: Sequence[str] = (), classes: str = "") -> None:
        self.types: list[str] = list(declared)
        self.classes = classes  # of a template's literals, see parse.py
        for kind in classes:
            self.types.append({"i": "int4", "l": "int8", "n": "numeric", "s": "unknown"}[kind])
        self.numbers = len(declared)

    def index_of(self, number: int) -> int:
        if number > 1000:
            return self.numbers + number - 1001
        if self.classes:
            raise Hard("parameters and literals together")
        if number < 1 or number > 65535:
            raise SqlError("42P02", f"there is no parameter ${number}")
        while len(self.types) < number:
            self.types.append("unknown")
        return number - 1


def constant(value: Any, type_name: str, typmod: int = -1) -> Expr:
    return Expr(lambda row, context: value, type_name, typmod, const=True)


class Compiler:
    """Compile expressions over one scope of columns."""

    def __init__(
        self, columns: Sequence[ScopeColumn], slots: Slots, subqueries: Mapping[int, tuple[int, str]] | None = None
    ) -> None:
        self.columns = columns
        self.slots = slots
        self.subqueries = subqueries or {}  # id(tree) -> (index into context.scalars, type)
        self.sequences: list[str] = []
        self.volatile = False

    def compile(self, node: Any) -> Expr:
        method = _NODES.get(type(node))
        if method is not None:
            return method(self, node)
        from thunderdb.sql.functions import compile_function

        return compile_function(self, node)

    def condition(self, node: Any, clause: str = "WHERE") -> Expr:
        found = self.coerce(self.compile(node), "bool", "implicit", f"argument of {clause} must be type boolean")
        return found

    def coerce(self, value: Expr, target: str, context: str, message: str = "", typmod: int = -1) -> Expr:
        """Convert to a type. Raises: SqlError 42804 (or 42846) with `message` where the context does not allow it."""
        if value.slot is not None and value.type == "unknown":
            self.slots.types[value.slot] = target
            value = Expr(value.fn, target, -1, False, value.slot)
        elif value.type != target:
            cast = find_cast(value.type, target, context)
            if cast is None:
                raise _no_cast(value.type, target, context, message)
            value = _mapped(value, cast, target)
        if typmod >= 4 and value.typmod != typmod:
            value = _mapped(value, types.fit(target, typmod, context == "explicit"), target)
            value.typmod = typmod
        return value

    def resolved(self, value: Expr) -> Expr:
        """An unknown literal or parameter that nothing typed is text (E2)."""
        return self.coerce(value, "text", "implicit") if value.type == "unknown" else value

    def unite(self, values: Sequence[Expr], what: str) -> tuple[list[Expr], str]:
        """Bring CASE branches, COALESCE or IN members to one type."""
        target = "unknown"
        for value in values:
            found = common_type(target, value.type)
            if found is None:
                raise SqlError("42804", f"{what} types {_show(target)} and {_show(value.type)} cannot be matched")
            target = found
        if target == "unknown":
            target = "text"
        return [self.coerce(value, target, "implicit") for value in values], target

    def compare(self, symbol: str, left: Expr, right: Expr) -> Expr:
        target = common_type(left.type, right.type)
        if target == "unknown":
            target = "text"
        function = comparison(symbol, target) if target is not None else None
        if target is None or function is None:
            raise no_operator(symbol, left.type, right.type)
        a, b = self.coerce(left, target, "implicit"), self.coerce(right, target, "implicit")
        return strict2(function, a, b, "bool")


def _mapped(value: Expr, cast: Callable[[Any], Any], target: str) -> Expr:
    if value.const:
        given = value.value()
        return constant(None if given is None else cast(given), target)
    fn = value.fn

    def apply(row: Any, context: Any) -> Any:
        given = fn(row, context)
        return None if given is None else cast(given)

    return Expr(apply, target)


def strict2(function: Callable[[Any, Any], Any], left: Expr, right: Expr, type_name: str) -> Expr:
    """A binary operator that is NULL where an operand is (E1)."""
    f, g = left.fn, right.fn

    def apply(row: Any, context: Any) -> Any:
        a = f(row, context)
        if a is None:
            return None
        b = g(row, context)
        return None if b is None else function(a, b)

    return Expr(apply, type_name)


def strict_n(function: Callable[..., Any], arguments: Sequence[Expr], type_name: str) -> Expr:
    fns = [argument.fn for argument in arguments]

    def apply(row: Any, context: Any) -> Any:
        values = [fn(row, context) for fn in fns]
        return None if None in values else function(*values)

    return Expr(apply, type_name)


def no_operator(symbol: str, left: str, right: str) -> SqlError:
    hint = "No operator matches the given name and argument types. You might need to add explicit type casts."
    return SqlError("42883", f"operator does not exist: {_show(left)} {symbol} {_show(right)}", hint=hint)


def _show(type_name: str) -> str:
    return types.TYPES[type_name].display if type_name in types.TYPES else type_name


def _no_cast(source: str, target: str, context: str, message: str) -> SqlError:
    if message:
        return SqlError("42804", f"{message}, not type {_show(source)}" if message.startswith("argument") else message)
    code = "42846" if context == "explicit" else "42804"
    return SqlError(code, f"cannot cast type {_show(source)} to {_show(target)}")


# --- node by node ---------------------------------------------------------------------------------------------------


def _column(c: Compiler, node: exp.Column) -> Expr:
    name, table = ident(node.this), ident(node.args.get("table"))
    if node.args.get("db"):
        raise Hard("schema-qualified column")
    found = [i for i, column in enumerate(c.columns) if column.name == name and (not table or column.table == table)]
    if len(found) > 1 and not table:
        raise SqlError("42702", f'column reference "{name}" is ambiguous')
    if not found:
        if not table and name in ("current_user", "session_user", "user", "current_catalog", "current_role", "current_schema"):
            from thunderdb.sql.functions import session_value

            return session_value(name)
        if table and all(column.table != table for column in c.columns):
            raise SqlError("42P01", f'missing FROM-clause entry for table "{table}"')
        raise SqlError("42703", f"column {table}.{name} does not exist" if table else f'column "{name}" does not exist')
    position = found[0]
    column = c.columns[position]
    return Expr(lambda row, context: row[position], column.type, column.typmod)


def _literal(c: Compiler, node: exp.Literal) -> Expr:
    text = node.this
    return constant(text, "unknown") if node.args.get("is_string") else number_literal(text)


def number_literal(text: str) -> Expr:
    if text.isdigit():
        number = int(text) if len(text) < 20 else 1 << 70
        if number < 1 << 31:
            return constant(number, "int4")
        if number < 1 << 63:
            return constant(number, "int8")
    return constant(types.parse_numeric(text), "numeric")


def _parameter(c: Compiler, node: exp.Parameter) -> Expr:
    number = node.this.this if isinstance(node.this, exp.Expression) else node.this
    if not str(number).isdigit():
        raise Hard("parameter")
    index = c.slots.index_of(int(number))
    type_name = c.slots.types[index]
    return Expr(lambda row, context: context.params[index], type_name, slot=index)


def _null(c: Compiler, node: exp.Null) -> Expr:
    return constant(None, "unknown")


def _boolean(c: Compiler, node: exp.Boolean) -> Expr:
    return constant(bool(node.this), "bool")


def _paren(c: Compiler, node: exp.Paren) -> Expr:
    return c.compile(node.this)


def _arithmetic(symbol: str) -> Callable[[Compiler, Any], Expr]:
    def compile_it(c: Compiler, node: Any) -> Expr:
        return binary(c, symbol, c.compile(node.this), c.compile(node.expression))

    return compile_it


def binary(c: Compiler, symbol: str, left: Expr, right: Expr) -> Expr:
    """`+ - * / % ^ & | #`, on numbers or dates and times."""
    if left.type == "unknown" and right.type == "unknown":
        raise no_operator(symbol, left.type, right.type)
    numbers = {left.type, right.type} <= types.NUMERIC_RANK.keys() | {"unknown"}
    if numbers:
        target = common_type(left.type, right.type)
        if symbol == "^" and target in types.INTEGERS:
            target = "float8"
        function = arithmetic(symbol, target) if target is not None else None
        if function is None or target is None:
            raise no_operator(symbol, left.type, right.type)
        return strict2(function, c.coerce(left, target, "implicit"), c.coerce(right, target, "implicit"), target)
    if left.type == "unknown" or right.type == "unknown":
        known = right.type if left.type == "unknown" else left.type
        guess = "interval" if known in ("timestamp", "timestamptz", "interval", "time") and symbol in "+" else known
        left, right = (c.coerce(e, guess, "implicit") if e.type == "unknown" else e for e in (left, right))
    found = temporal(symbol, left.type, right.type)
    if found is None:
        if "json" in left.type or "[]" in left.type:
            raise Hard(symbol)
        raise no_operator(symbol, left.type, right.type)
    return strict2(found[0], left, right, found[1])


def _neg(c: Compiler, node: exp.Neg) -> Expr:
    value = c.compile(node.this)
    if value.type == "unknown":
        value = c.coerce(value, "float8", "implicit")
    if value.type == "interval":
        return strict_n(lambda v: (-v[0], -v[1], -v[2]), [value], "interval")
    if value.type == "numeric" and value.const and value.value() == 1 << 63:
        return constant(-(1 << 63), "int8")
    if value.type == "int8" and value.const and value.value() == 1 << 31:
        return constant(-(1 << 31), "int4")
    return binary(c, "-", c.coerce(constant(0, "int2"), value.type, "explicit"), value)


def _comparison(symbol: str) -> Callable[[Compiler, Any], Expr]:
    def compile_it(c: Compiler, node: Any) -> Expr:
        right = node.expression
        if isinstance(right, (exp.Any, exp.All)):
            return _quantified(c, symbol, node.this, right)
        if isinstance(node.this, exp.Tuple) or isinstance(right, exp.Tuple):
            raise Hard("row comparison")
        return c.compare(symbol, c.compile(node.this), c.compile(right))

    return compile_it


def _quantified(c: Compiler, symbol: str, left_node: Any, quantifier: Any) -> Expr:
    """`a = ANY(array)` and `a <> ALL(array)`."""
    inner = quantifier.this.unnest() if isinstance(quantifier.this, exp.Paren) else quantifier.this
    if isinstance(inner, exp.Query):
        raise Hard("quantified subquery")
    left, array = c.compile(left_node), c.compile(inner)
    if array.type == "unknown":
        array = c.coerce(array, ("text" if left.type == "unknown" else left.type) + "[]", "implicit")
    if not array.type.endswith("[]"):
        raise SqlError("42809", "op ANY/ALL (array) requires array on right side")
    target = common_type(left.type, array.type[:-2])
    function = comparison(symbol, target) if target is not None else None
    if function is None or target is None:
        raise no_operator(symbol, left.type, array.type[:-2])
    every = isinstance(quantifier, exp.All)

    def apply(value: Any, items: list[Any]) -> bool | None:
        unknown = False
        for item in items:
            if item is None:
                unknown = True
            elif function(value, item) is not every:
                return not every
        return None if unknown else every

    return strict2(apply, c.coerce(left, target, "implicit"), c.coerce(array, target + "[]", "implicit"), "bool")


def _and(c: Compiler, node: exp.And) -> Expr:
    f, g = c.condition(node.this, "AND").fn, c.condition(node.expression, "AND").fn

    def apply(row: Any, context: Any) -> Any:
        a = f(row, context)
        if a is False:
            return False
        b = g(row, context)
        if b is False:
            return False
        return None if a is None or b is None else True

    return Expr(apply, "bool")


def _or(c: Compiler, node: exp.Or) -> Expr:
    f, g = c.condition(node.this, "OR").fn, c.condition(node.expression, "OR").fn

    def apply(row: Any, context: Any) -> Any:
        a = f(row, context)
        if a is True:
            return True
        b = g(row, context)
        if b is True:
            return True
        return None if a is None or b is None else False

    return Expr(apply, "bool")


def _not(c: Compiler, node: exp.Not) -> Expr:
    return strict_n(lambda value: not value, [c.condition(node.this, "NOT")], "bool")


def _is(c: Compiler, node: exp.Is) -> Expr:
    right = node.expression
    negate = bool(node.args.get("negate"))
    if isinstance(right, exp.Not):
        right, negate = right.this, not negate
    fn = c.resolved(c.compile(node.this)).fn
    if isinstance(right, exp.Null) or (isinstance(right, exp.Var) and str(right.this).upper() == "UNKNOWN"):
        if negate:
            return Expr(lambda row, context: fn(row, context) is not None, "bool")
        return Expr(lambda row, context: fn(row, context) is None, "bool")
    if isinstance(right, exp.Boolean):
        fn = c.condition(node.this, "IS").fn
        wanted = bool(right.this)
        return Expr(lambda row, context: (fn(row, context) is wanted) is not negate, "bool")
    raise Hard("IS")


def _distinct(negate: bool) -> Callable[[Compiler, Any], Expr]:
    def compile_it(c: Compiler, node: Any) -> Expr:
        left, right = c.compile(node.this), c.compile(node.expression)
        target = common_type(left.type, right.type)
        if target == "unknown":
            target = "text"
        equal = comparison("=", target) if target is not None else None
        if equal is None or target is None:
            raise no_operator("=", left.type, right.type)
        f, g = c.coerce(left, target, "implicit").fn, c.coerce(right, target, "implicit").fn

        def apply(row: Any, context: Any) -> bool:
            a, b = f(row, context), g(row, context)
            same = a is b if a is None or b is None else bool(equal(a, b))
            return same is not negate

        return Expr(apply, "bool")

    return compile_it


def _in(c: Compiler, node: exp.In) -> Expr:
    if isinstance(node.this, exp.Tuple) or (not node.expressions and not node.args.get("query")):
        raise Hard("IN")
    if node.args.get("query"):
        return _in_subquery(c, node)
    left = c.compile(node.this)
    members, target = c.unite([left, *(c.compile(member) for member in node.expressions)], "IN")
    equal = comparison("=", target)
    if equal is None:
        raise no_operator("=", target, target)
    f, fns = members[0].fn, [member.fn for member in members[1:]]

    def apply(row: Any, context: Any) -> Any:
        a = f(row, context)
        if a is None:
            return None
        unknown = False
        for fn in fns:
            b = fn(row, context)
            if b is None:
                unknown = True
            elif equal(a, b):
                return True
        return None if unknown else False

    return Expr(apply, "bool")


def _in_subquery(c: Compiler, node: exp.In) -> Expr:
    """`a IN (SELECT …)`, whose values are in context.scalars (E4)."""
    found = c.subqueries.get(id(node))
    if found is None:
        raise Hard("IN")
    index, type_name = found
    left = c.compile(node.this)
    target = common_type(left.type, type_name)
    equal = comparison("=", target) if target is not None else None
    cast = find_cast(type_name, target, "implicit") if target is not None else None
    if equal is None or cast is None or target is None:
        raise no_operator("=", left.type, type_name)
    f = c.coerce(left, target, "implicit").fn

    def apply(row: Any, context: Any) -> Any:
        members = context.scalars[index]
        a = f(row, context)
        if a is None:
            return None if members else False
        if any(b is not None and equal(a, cast(b)) for b in members):
            return True
        return None if None in members else False

    return Expr(apply, "bool")


def _between(c: Compiler, node: exp.Between) -> Expr:
    if node.args.get("symmetric"):
        raise Hard("SYMMETRIC")
    low = exp.GTE(this=node.this, expression=node.args["low"])
    high = exp.LTE(this=node.this, expression=node.args["high"])
    return _and(c, exp.And(this=low, expression=high))


def _case(c: Compiler, node: exp.Case) -> Expr:
    conditions, results = [], []
    for branch in node.args["ifs"]:
        test = branch.this if node.this is None else exp.EQ(this=node.this, expression=branch.this)
        conditions.append(c.condition(test, "CASE/WHEN").fn)
        results.append(c.compile(branch.args["true"]))
    default = node.args.get("default")
    results.append(c.compile(default) if default is not None else constant(None, "unknown"))
    united, target = c.unite(results, "CASE")
    fns = [result.fn for result in united]

    def apply(row: Any, context: Any) -> Any:
        for condition, fn in zip(conditions, fns, strict=False):
            if condition(row, context):
                return fn(row, context)
        return fns[-1](row, context)

    return Expr(apply, target)


def _cast(c: Compiler, node: exp.Cast) -> Expr:
    name, typmod, _ = type_of(node.to)
    value = c.compile(node.this)
    if name == "bpchar" and value.type == "unknown" and typmod < 0:
        typmod = 5
    return c.coerce(value, name, "explicit", typmod=typmod)


def type_of(node: exp.DataType) -> tuple[str, int, bool]:
    """(our name, typmod, is it a serial) of a written type. Raises: SqlError 42704."""
    if str(getattr(node.this, "value", node.this)).upper() == "ARRAY" and node.expressions:
        name, _, _ = type_of(node.expressions[0])
        return name + "[]", -1, False
    written = node.args.get("kind") or getattr(node.this, "value", node.this)
    name = str(getattr(written, "this", written)).lower()
    if name in types.TYPES and name not in ("char", "unknown"):
        found = name
    elif name in types.ALIASES:
        found = types.ALIASES[name]
    else:
        raise SqlError("42704", f'type "{name}" does not exist')
    numbers = []
    for parameter in node.expressions:
        text = parameter.this.this if isinstance(parameter.this, exp.Expression) else str(parameter.this)
        if str(text).isdigit():
            numbers.append(int(text))
    if name in ("char", "nchar", "character") and not numbers:
        return "bpchar", 5, False
    if found == "float8" and name == "float" and numbers and numbers[0] < 25:
        return "float4", -1, False
    typmod = types.make_typmod(found, numbers) if numbers else -1
    return found, typmod, name.endswith("serial") or name in ("serial2", "serial4", "serial8")


def _like(ignore_case: bool) -> Callable[[Compiler, Any], Expr]:
    def compile_it(c: Compiler, node: Any, escape: str = "\\") -> Expr:
        left = _texts(c, node.this, "~~")
        right = _texts(c, node.expression, "~~")
        wanted = not node.args.get("negate")  # NOT LIKE is one node
        if right.const and right.value() is not None:
            match = like_pattern(right.value(), escape, ignore_case).fullmatch
            return strict_n(lambda text: (match(text) is not None) is wanted, [left], "bool")
        return strict2(
            lambda text, pattern: (like_pattern(pattern, escape, ignore_case).fullmatch(text) is not None) is wanted,
            left,
            right,
            "bool",
        )

    return compile_it


def _escape(c: Compiler, node: exp.Escape) -> Expr:
    inner = node.this
    if not isinstance(inner, (exp.Like, exp.ILike)) or not isinstance(node.expression, exp.Literal):
        raise Hard("ESCAPE")
    if len(node.expression.this) > 1:
        raise SqlError("22019", "invalid escape string", hint="Escape string must be empty or one character.")
    return _like(isinstance(inner, exp.ILike))(c, inner, node.expression.this)  # type: ignore[call-arg]


def _regexp(ignore_case: bool) -> Callable[[Compiler, Any], Expr]:
    def compile_it(c: Compiler, node: Any) -> Expr:
        left, right = _texts(c, node.this, "~"), _texts(c, node.expression, "~")
        return strict2(lambda text, p: regular_expression(p, ignore_case).search(text) is not None, left, right, "bool")

    return compile_it


def _texts(c: Compiler, node: Any, symbol: str) -> Expr:
    value = c.resolved(c.compile(node))
    if value.type not in types.STRINGS:
        raise no_operator(symbol, value.type, "unknown")
    return value


def _concat(c: Compiler, node: exp.DPipe) -> Expr:
    left, right = c.compile(node.this), c.compile(node.expression)
    if any(e.type in ("json", "jsonb") or "[]" in e.type for e in (left, right)):
        raise Hard("||")
    if left.type == right.type == "bytea":
        return strict2(lambda a, b: a + b, left, right, "bytea")
    if not {left.type, right.type} & types.STRINGS:
        raise no_operator("||", left.type, right.type)
    a, b = c.coerce(c.resolved(left), "text", "explicit"), c.coerce(c.resolved(right), "text", "explicit")
    return strict2(lambda x, y: x + y, a, b, "text")


def _string_constant(convert: Callable[[str], Any], type_name: str) -> Callable[[Compiler, Any], Expr]:
    return lambda c, node: constant(convert(str(node.this)), type_name)


def _subquery(c: Compiler, node: Any) -> Expr:
    found = c.subqueries.get(id(node))
    if found is None:
        raise Hard("subquery")
    index, type_name = found
    return Expr(lambda row, context: context.scalars[index], type_name)


def _array(c: Compiler, node: exp.Array) -> Expr:
    members, target = c.unite([c.compile(member) for member in node.expressions], "ARRAY")
    fns = [member.fn for member in members]
    return Expr(lambda row, context: [fn(row, context) for fn in fns], target + "[]")


def _interval(c: Compiler, node: exp.Interval) -> Expr:
    unit = node.args.get("unit")
    if not isinstance(node.this, exp.Literal):
        raise Hard("interval")
    text = f"{node.this.this} {unit.name.lower()}" if unit is not None else node.this.this
    return constant(types.parse_text("interval", text), "interval")


def _var(c: Compiler, node: exp.Var) -> Expr:
    if str(node.this).upper() == "DEFAULT":
        raise SqlError("42601", "DEFAULT is not allowed in this context")
    raise Hard(str(node.this))


def _positive(c: Compiler, node: Any) -> Expr:
    return c.compile(node.this)


_NODES: dict[type, Callable[[Compiler, Any], Expr]] = {
    exp.Column: _column, exp.Literal: _literal, exp.Parameter: _parameter, exp.Null: _null, exp.Boolean: _boolean,
    exp.Paren: _paren, exp.Neg: _neg, exp.Add: _arithmetic("+"), exp.Sub: _arithmetic("-"), exp.Mul: _arithmetic("*"),
    exp.Div: _arithmetic("/"), exp.Mod: _arithmetic("%"), exp.Pow: _arithmetic("^"), exp.BitwiseAnd: _arithmetic("&"),
    exp.BitwiseOr: _arithmetic("|"), exp.BitwiseXor: _arithmetic("#"), exp.EQ: _comparison("="), exp.NEQ: _comparison("<>"),
    exp.LT: _comparison("<"), exp.LTE: _comparison("<="), exp.GT: _comparison(">"), exp.GTE: _comparison(">="),
    exp.And: _and, exp.Or: _or, exp.Not: _not, exp.Is: _is, exp.NullSafeEQ: _distinct(False), exp.NullSafeNEQ: _distinct(True),
    exp.In: _in, exp.Between: _between, exp.Case: _case, exp.Cast: _cast, exp.Like: _like(False), exp.ILike: _like(True),
    exp.Escape: _escape, exp.RegexpLike: _regexp(False), exp.RegexpILike: _regexp(True), exp.DPipe: _concat,
    exp.ByteString: _string_constant(str, "unknown"), exp.National: _string_constant(str, "unknown"), exp.Subquery: _subquery,
    exp.Exists: _subquery,
    exp.Array: _array, exp.Interval: _interval, exp.Var: _var,
}  # fmt: skip

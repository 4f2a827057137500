"""What each kind of node in a syntax tree compiles to: columns, literals, parameters, arithmetic, CASE, CAST and the like.

A node that is not in the table is a function (functions.py) or `Hard`. E1 to E4 are expr.py's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlglot import exp

from thunderdb.base.errors import SqlError
from thunderdb.sql import text_in, types
from thunderdb.sql.expr import Compiler, Expr, Hard, binary, constant, no_operator, strict2, strict_n
from thunderdb.sql.expr_conditions import CONDITIONS
from thunderdb.sql.functions import compile_function, session_value
from thunderdb.sql.parse import ident, type_of


def compile_node(c: Compiler, node: Any) -> Expr:
    """Compile one node and what is below it. Raises: Hard (E3), SqlError."""
    method = _NODES.get(type(node))
    return compile_function(c, node) if method is None else method(c, node)


def _column(c: Compiler, node: exp.Column) -> Expr:
    name, table = ident(node.this), ident(node.args.get("table"))
    if node.args.get("db"):
        raise Hard("schema-qualified column")
    found = [i for i, column in enumerate(c.columns) if column.name == name and (not table or column.table == table)]
    if len(found) > 1 and not table:
        raise SqlError("42702", f'column reference "{name}" is ambiguous')
    if not found:
        if not table and name in ("current_user", "session_user", "user", "current_catalog", "current_role", "current_schema"):
            return session_value(name)
        if table and all(column.table != table for column in c.columns):
            raise SqlError("42P01", f'missing FROM-clause entry for table "{table}"')
        raise SqlError("42703", f"column {table}.{name} does not exist" if table else f'column "{name}" does not exist')
    position = found[0]
    column = c.columns[position]
    c.used.add(position)
    return Expr(lambda row, context: row[position], column.type, column.typmod, position=position)


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
    return constant(text_in.parse_numeric(text), "numeric")


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
    kind = str(node.to.args.get("kind") or node.to.sql()).lower().removeprefix("pg_catalog.")
    if kind.startswith("reg"):
        if kind in ("regproc", "regprocedure") and isinstance(node.this, exp.Literal):
            raise SqlError("42883", f'function "{node.this.name}" does not exist')
        raise Hard("the name of an object")
    name, typmod, _ = type_of(node.to)
    value = c.compile(node.this)
    if name == "bpchar" and value.type == "unknown" and typmod < 0:
        typmod = 5
    return c.coerce(value, name, "explicit", typmod=typmod)


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
    return constant(text_in.parse_text("interval", text), "interval")


def _var(c: Compiler, node: exp.Var) -> Expr:
    if str(node.this).upper() == "DEFAULT":
        raise SqlError("42601", "DEFAULT is not allowed in this context")
    raise Hard(str(node.this))


_NODES: dict[type, Callable[[Compiler, Any], Expr]] = {
    exp.Column: _column, exp.Literal: _literal, exp.Parameter: _parameter, exp.Null: _null, exp.Boolean: _boolean,
    exp.Paren: _paren, exp.Neg: _neg, exp.Add: _arithmetic("+"), exp.Sub: _arithmetic("-"), exp.Mul: _arithmetic("*"),
    exp.Div: _arithmetic("/"), exp.Mod: _arithmetic("%"), exp.Pow: _arithmetic("^"), exp.BitwiseAnd: _arithmetic("&"),
    exp.BitwiseOr: _arithmetic("|"), exp.BitwiseXor: _arithmetic("#"), exp.Case: _case, exp.Cast: _cast, exp.DPipe: _concat,
    exp.ByteString: _string_constant(str, "unknown"), exp.National: _string_constant(str, "unknown"), exp.Subquery: _subquery,
    exp.Exists: _subquery, exp.Array: _array, exp.Interval: _interval, exp.Var: _var,
    **CONDITIONS,
}  # fmt: skip

"""Expressions that are true, false or unknown: comparisons, AND and OR, IS, IN, BETWEEN, LIKE and regular expressions.

E1 to E4 are expr.py's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlglot import exp

from thunderdb.base.errors import SqlError
from thunderdb.sql import types
from thunderdb.sql.casts import common_type, find_cast
from thunderdb.sql.expr import Compiler, Expr, Hard, no_operator, strict2, strict_n
from thunderdb.sql.operators import comparison, like_pattern, regular_expression


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


CONDITIONS: dict[type, Callable[[Compiler, Any], Expr]] = {
    exp.EQ: _comparison("="), exp.NEQ: _comparison("<>"), exp.LT: _comparison("<"), exp.LTE: _comparison("<="),
    exp.GT: _comparison(">"), exp.GTE: _comparison(">="), exp.And: _and, exp.Or: _or, exp.Not: _not, exp.Is: _is,
    exp.NullSafeEQ: _distinct(False), exp.NullSafeNEQ: _distinct(True), exp.In: _in, exp.Between: _between,
    exp.Like: _like(False), exp.ILike: _like(True), exp.Escape: _escape, exp.RegexpLike: _regexp(False),
    exp.RegexpILike: _regexp(True),
}  # fmt: skip

"""Expressions as closures: a syntax tree and a scope in, a function of (row, context) and its type out.

Here is what all of them are made of: types brought together, and what a strict operator does. The kinds of nodes are in
expr_nodes.py, those that are true or false in expr_conditions.py.

E1. SQL's three-valued logic: NULL is None; a strict operator gives NULL for a NULL operand; AND and OR look past it.
E2. A parameter or a string literal has type `unknown` until something beside it gives it one; what nothing types is text.
E3. What this compiler does not know raises `Hard`: a query then goes to the analytic path, anything else is 0A000.
E4. No closure suspends. What must wait (a scalar subquery, nextval) is found at compile time and evaluated before the row:
    subqueries once a statement into `context.scalars`, sequences once a row into `context.sequences`, pg_sleep before the row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from thunderdb.base.errors import SqlError
from thunderdb.sql import types
from thunderdb.sql.casts import common_type, find_cast
from thunderdb.sql.operators import arithmetic, comparison, temporal

Fn = Callable[[Any, Any], Any]


class Hard(Exception):
    """Beyond the own path (E3)."""


@dataclass(slots=True)
class Expr:
    """A compiled expression. `slot` is a parameter's index, whose type may still be unknown (E2); `position` a column's."""

    fn: Fn
    type: str
    typmod: int = -1
    const: bool = False
    slot: int | None = None
    position: int | None = None

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
        self.sleeps: list[Fn] | None = None  # seconds to wait for before the row, where that is possible
        self.volatile = False
        self.used: set[int] = set()  # the columns that what was compiled looks at

    def compile(self, node: Any) -> Expr:
        from thunderdb.sql.expr_nodes import compile_node

        return compile_node(self, node)

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
    if right.slot is not None and right.type != "unknown" and (left.position is not None or left.const):
        return Expr(_with_parameter(function, left, right.slot), type_name)

    def apply(row: Any, context: Any) -> Any:
        a = f(row, context)
        if a is None:
            return None
        b = g(row, context)
        return None if b is None else function(a, b)

    return Expr(apply, type_name)


def _with_parameter(function: Callable[[Any, Any], Any], left: Expr, index: int) -> Fn:
    """`strict2` of a column, or of a constant, and a parameter: as statements with literals have it."""
    position = left.position
    if position is not None:

        def of_column(row: Any, context: Any) -> Any:
            a, b = row[position], context.params[index]
            return None if a is None or b is None else function(a, b)

        return of_column
    constant_value = left.value()

    def of_constant(row: Any, context: Any) -> Any:
        b = context.params[index]
        return None if constant_value is None or b is None else function(constant_value, b)

    return of_constant


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

"""Scalar functions of the own path; anything that is not here, an aggregate say, is `Hard` and goes to the analytic path.

A row of the table: PostgreSQL's name, argument types (`num` = any number, kept; `any`), result type (`num` = the argument's),
and a function of non-NULL values. A function that sees NULLs or the session has a compiler of its own below.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from decimal import ROUND_CEILING, ROUND_DOWN, ROUND_FLOOR, Decimal
from typing import Any

from sqlglot import exp

from thunderdb.base.errors import SqlError
from thunderdb.sql import calendar, types
from thunderdb.sql.casts import find_cast
from thunderdb.sql.expr import Compiler, Expr, Hard, binary, constant, strict_n
from thunderdb.sql.operators import comparison, round_numeric
from thunderdb.sql.parse import ident

Row = tuple[str, tuple[str, ...], str, Callable[..., Any]]


def _by_character(text: str, fold: Callable[[str], str]) -> str:
    """Upper or lower case, each character on its own and by one character, as PostgreSQL does it: 'ß' stays."""
    if text.isascii():
        return fold(text)
    return "".join([folded if len(folded := fold(char)) == 1 else char for char in text])


def _abs(value: Any) -> Any:
    return abs(value)


def _substring(text: str, start: int, length: int | None = None) -> str:
    if length is not None and length < 0:
        raise SqlError("22011", "negative substring length not allowed")
    end = len(text) if length is None else max(0, start - 1 + length)
    return text[max(0, start - 1) : end]


def _left(text: str, count: int) -> str:
    return text[:count]


def _right(text: str, count: int) -> str:
    return text[-count:] if count > 0 else text[-count:] if count < 0 else ""


def _pad(text: str, size: int, fill: str, at_left: bool) -> str:
    if len(text) >= size:
        return text[: max(size, 0)]
    padding = (fill * (size // len(fill) + 1))[: size - len(text)] if fill else ""
    return padding + text if at_left else text + padding


def _sqrt(value: float) -> float:
    if value < 0:
        raise SqlError("2201F", "cannot take square root of a negative number")
    return math.sqrt(value)


def _log(value: float) -> float:
    if value <= 0:
        what = "zero" if value == 0 else "a negative number"
        raise SqlError("2201E", f"cannot take logarithm of {what}")
    return math.log(value)


def _sign(value: Any) -> Any:
    return type(value)((value > 0) - (value < 0))


_TABLE: tuple[Row, ...] = (
    ("lower", ("text",), "text", lambda text: _by_character(text, str.lower)),
    ("upper", ("text",), "text", lambda text: _by_character(text, str.upper)),
    ("length", ("text",), "int4", len),
    ("char_length", ("text",), "int4", len),
    ("character_length", ("text",), "int4", len),
    ("octet_length", ("text",), "int4", lambda text: len(text.encode())),
    ("abs", ("num",), "num", _abs),
    ("sign", ("num",), "num", _sign),
    ("sqrt", ("float8",), "float8", _sqrt),
    ("ln", ("float8",), "float8", _log),
    ("exp", ("float8",), "float8", math.exp),
    ("pi", (), "float8", lambda: math.pi),
    ("substring", ("text", "int4"), "text", _substring),
    ("substring", ("text", "int4", "int4"), "text", _substring),
    ("substr", ("text", "int4"), "text", _substring),
    ("substr", ("text", "int4", "int4"), "text", _substring),
    ("left", ("text", "int4"), "text", _left),
    ("right", ("text", "int4"), "text", _right),
    ("lpad", ("text", "int4"), "text", lambda t, n: _pad(t, n, " ", True)),
    ("lpad", ("text", "int4", "text"), "text", lambda t, n, f: _pad(t, n, f, True)),
    ("rpad", ("text", "int4"), "text", lambda t, n: _pad(t, n, " ", False)),
    ("rpad", ("text", "int4", "text"), "text", lambda t, n, f: _pad(t, n, f, False)),
    ("repeat", ("text", "int4"), "text", lambda t, n: t * max(n, 0)),
    ("replace", ("text", "text", "text"), "text", lambda t, a, b: t.replace(a, b) if a else t),
    ("reverse", ("text",), "text", lambda t: t[::-1]),
    ("strpos", ("text", "text"), "int4", lambda t, s: t.find(s) + 1),
    ("btrim", ("text",), "text", lambda t: t.strip(" ")),
    ("btrim", ("text", "text"), "text", lambda t, c: t.strip(c)),
    ("ltrim", ("text",), "text", lambda t: t.lstrip(" ")),
    ("ltrim", ("text", "text"), "text", lambda t, c: t.lstrip(c)),
    ("rtrim", ("text",), "text", lambda t: t.rstrip(" ")),
    ("rtrim", ("text", "text"), "text", lambda t, c: t.rstrip(c)),
    ("md5", ("text",), "text", lambda t: hashlib.md5(t.encode(), usedforsecurity=False).hexdigest()),
    ("ascii", ("text",), "int4", lambda t: ord(t[0]) if t else 0),
    ("chr", ("int4",), "text", chr),
)
_BY_NAME: dict[str, list[Row]] = {}
for _row in _TABLE:
    _BY_NAME.setdefault(_row[0], []).append(_row)

# sqlglot's own names where they are not PostgreSQL's.
_RENAMED = {
    "strposition": "strpos",
    "pad": "lpad",
    "unicode": "ascii",
    "ceil": "ceil",
    "stringreverse": "reverse",
    "pow": "power",
}


def arguments_of(node: Any) -> tuple[str, list[Any]]:
    """(PostgreSQL's name, argument trees) of a call. Raises: Hard for what is not a plain call."""
    if isinstance(node, exp.Anonymous):
        return str(node.this).lower(), list(node.expressions)
    if not isinstance(node, exp.Func):
        raise Hard(type(node).__name__)
    found: list[Any] = []
    for key in node.arg_types:
        value = node.args.get(key)
        if isinstance(value, list):
            found.extend(value)
        elif isinstance(value, exp.Expression):
            found.append(value)
    return _RENAMED.get(node.key, node.key), found


def compile_function(c: Compiler, node: Any) -> Expr:
    if isinstance(node, (exp.AggFunc, exp.Window)):
        raise Hard("aggregate")
    special = _SPECIAL_NODES.get(type(node))
    if special is not None:
        return special(c, node)
    name, trees = arguments_of(node)
    maker = _SPECIAL.get(name)
    if maker is not None:
        return maker(c, trees)
    rows = [row for row in _BY_NAME.get(name, ()) if len(row[1]) == len(trees)]
    if not rows:
        raise Hard(name)
    return _ordinary(c, rows[0], [c.compile(tree) for tree in trees])


def _ordinary(c: Compiler, row: Row, values: list[Expr]) -> Expr:
    name, wanted, result, function = row
    arguments = []
    for value, target in zip(values, wanted, strict=True):
        if target == "num":
            target = "float8" if value.type == "unknown" else value.type
            if target not in types.NUMERIC_RANK:
                raise no_function(name, values)
            result = target
        if value.type != "unknown" and find_cast(value.type, target, "implicit") is None:
            raise Hard(name) if target == "text" and value.type in ("bytea", "jsonb", "json") else no_function(name, values)
        arguments.append(c.coerce(value, target, "implicit"))
    return strict_n(function, arguments, result)


def no_function(name: str, values: Sequence[Expr]) -> SqlError:
    shown = ", ".join(types.TYPES[value.type].display for value in values)
    hint = "No function matches the given name and argument types. You might need to add explicit type casts."
    return SqlError("42883", f"function {name}({shown}) does not exist", hint=hint)


# --- functions of NULLs, and of several types -------------------------------------------------------------------------


def _coalesce(c: Compiler, trees: list[Any]) -> Expr:
    united, target = c.unite([c.compile(tree) for tree in trees], "COALESCE")
    fns = [value.fn for value in united]

    def apply(row: Any, context: Any) -> Any:
        for fn in fns:
            value = fn(row, context)
            if value is not None:
                return value
        return None

    return Expr(apply, target)


def _nullif(c: Compiler, trees: list[Any]) -> Expr:
    left, right = c.compile(trees[0]), c.compile(trees[1])
    (a, _), target = c.unite([left, right], "NULLIF")
    equal = c.compare("=", left, right).fn
    fn = (c.resolved(a) if left.type == "unknown" else left).fn
    return Expr(lambda row, context: None if equal(row, context) else fn(row, context), target)


def _extreme(symbol: str) -> Callable[[Compiler, list[Any]], Expr]:
    def compile_it(c: Compiler, trees: list[Any]) -> Expr:
        united, target = c.unite([c.compile(tree) for tree in trees], "GREATEST" if symbol == ">" else "LEAST")
        better = comparison(symbol, target)
        if better is None:
            raise Hard("greatest")
        fns = [value.fn for value in united]

        def apply(row: Any, context: Any) -> Any:
            best = None
            for fn in fns:
                value = fn(row, context)
                if value is not None and (best is None or better(value, best)):
                    best = value
            return best

        return Expr(apply, target)

    return compile_it


def _concat(c: Compiler, trees: list[Any]) -> Expr:
    values = [c.coerce(c.resolved(c.compile(tree)), "text", "explicit").fn for tree in trees]
    return Expr(lambda row, context: "".join([fn(row, context) or "" for fn in values]), "text")


def _rounding(name: str, mode: str, to_int: Callable[[float], float]) -> Callable[[Compiler, list[Any]], Expr]:
    def compile_it(c: Compiler, trees: list[Any]) -> Expr:
        trees = [tree for tree in trees if not isinstance(tree, exp.Boolean)]
        value = c.compile(trees[0])
        if len(trees) > 1:
            scale = c.coerce(c.compile(trees[1]), "int4", "implicit")
            return strict_n(lambda v, s: round_numeric(v, s, mode), [c.coerce(value, "numeric", "implicit"), scale], "numeric")
        if value.type == "numeric":
            return strict_n(lambda v: round_numeric(v, 0, mode), [value], "numeric")
        return strict_n(
            lambda v: v if math.isinf(v) or math.isnan(v) else float(to_int(v)),
            [c.coerce(value, "float8", "implicit")],
            "float8",
        )

    return compile_it


def _power(c: Compiler, trees: list[Any]) -> Expr:
    return binary(
        c, "^", c.coerce(c.compile(trees[0]), "float8", "explicit"), c.coerce(c.compile(trees[1]), "float8", "explicit")
    )


def _mod(c: Compiler, trees: list[Any]) -> Expr:
    return binary(c, "%", c.compile(trees[0]), c.compile(trees[1]))


# --- the session, the clock, chance -----------------------------------------------------------------------------------


def session_value(name: str) -> Expr:
    return Expr(lambda row, context: context.session_value(name), "name" if name != "version" else "text")


def _session(name: str, type_name: str = "name") -> Callable[[Compiler, list[Any]], Expr]:
    return lambda c, trees: Expr(lambda row, context: context.session_value(name), type_name)


def _now(type_name: str, which: str) -> Callable[[Compiler, list[Any]], Expr]:
    def compile_it(c: Compiler, trees: list[Any]) -> Expr:
        if type_name == "date":
            return Expr(lambda row, context: context.time(which) // calendar.DAY_US, "date")
        if type_name == "time":
            return Expr(lambda row, context: context.time(which) % calendar.DAY_US, "time")
        return Expr(lambda row, context: context.time(which), type_name)

    return compile_it


def _random(c: Compiler, trees: list[Any]) -> Expr:
    c.volatile = True
    return Expr(lambda row, context: context.random_bits(53) / (1 << 53), "float8")


def _uuid(c: Compiler, trees: list[Any]) -> Expr:
    c.volatile = True

    def apply(row: Any, context: Any) -> bytes:
        data = bytearray(context.random_bits(128).to_bytes(16, "big"))
        data[6] = data[6] & 0x0F | 0x40
        data[8] = data[8] & 0x3F | 0x80
        return bytes(data)

    return Expr(apply, "uuid")


def _setting(c: Compiler, trees: list[Any]) -> Expr:
    missing_ok = len(trees) > 1 and isinstance(trees[1], exp.Boolean) and bool(trees[1].this)
    name = c.coerce(c.compile(trees[0]), "text", "implicit").fn
    return Expr(lambda row, context: context.setting(name(row, context), missing_ok), "text")


def _set_config(c: Compiler, trees: list[Any]) -> Expr:
    c.volatile = True
    name, value, local = (c.compile(tree) for tree in trees)
    arguments = [c.coerce(name, "text", "implicit"), c.coerce(value, "text", "implicit"), c.coerce(local, "bool", "implicit")]
    fns = [argument.fn for argument in arguments]
    return Expr(lambda row, context: context.set_config(*(fn(row, context) for fn in fns)), "text")


def sequence_name(text: str) -> str:
    """The sequence that nextval('…') names: an optional schema, folded to lower case unless quoted."""
    part = text.rsplit(".", 1)[-1]
    return part[1:-1] if part.startswith('"') else part.lower()


def _nextval(c: Compiler, trees: list[Any]) -> Expr:
    value = c.compile(trees[0].this if isinstance(trees[0], exp.Cast) else trees[0])
    if not value.const:
        raise Hard("nextval of an expression")
    index = len(c.sequences)
    c.sequences.append(sequence_name(value.value()))
    c.volatile = True
    return Expr(lambda row, context: context.sequences[index], "int8")


def _currval(c: Compiler, trees: list[Any]) -> Expr:
    name = c.coerce(c.compile(trees[0].this if isinstance(trees[0], exp.Cast) else trees[0]), "text", "implicit").fn
    return Expr(lambda row, context: context.currval(sequence_name(name(row, context))), "int8")


def _date_part(c: Compiler, trees: list[Any]) -> Expr:
    field = trees[0].name.lower() if isinstance(trees[0], (exp.Var, exp.Literal)) else None
    value = c.compile(trees[1])
    if field is None or value.type not in ("date", "timestamp", "timestamptz") or field not in _FIELDS:
        raise Hard("extract")
    part = _FIELDS[field]
    scale = calendar.DAY_US if value.type == "date" else 1
    return strict_n(lambda v: part(v * scale), [value], "numeric")


def _civil(index: int) -> Callable[[int], Decimal]:
    return lambda micros: Decimal(calendar.civil_from_days(micros // calendar.DAY_US)[index])


def _seconds(micros: int) -> Decimal:
    return Decimal(micros).scaleb(-6)


_FIELDS: dict[str, Callable[[int], Decimal]] = {
    "year": _civil(0),
    "month": _civil(1),
    "day": _civil(2),
    "hour": lambda v: Decimal(v % calendar.DAY_US // calendar.HOUR_US),
    "minute": lambda v: Decimal(v % calendar.HOUR_US // calendar.MINUTE_US),
    "second": lambda v: _seconds(v % calendar.MINUTE_US),
    "epoch": lambda v: _seconds(v - calendar.UNIX_EPOCH_DAYS * calendar.DAY_US),
    "dow": lambda v: Decimal((v // calendar.DAY_US + 6) % 7),
    "isodow": lambda v: Decimal((v // calendar.DAY_US + 5) % 7 + 1),
}


def _trim(c: Compiler, node: exp.Trim) -> Expr:
    name = {"LEADING": "ltrim", "TRAILING": "rtrim"}.get(str(node.args.get("position") or "").upper(), "btrim")
    trees = [node.this] + ([node.expression] if node.expression is not None else [])
    row = next(row for row in _BY_NAME[name] if len(row[1]) == len(trees))
    return _ordinary(c, row, [c.compile(tree) for tree in trees])


def _sleep(c: Compiler, trees: list[Any]) -> Expr:
    if c.sleeps is None or len(trees) != 1:
        raise Hard("pg_sleep")
    c.volatile = True
    c.sleeps.append(c.coerce(c.compile(trees[0]), "float8", "implicit").fn)
    return Expr(lambda row, context: "", "void")


def _fixed(value: Any, type_name: str) -> Callable[[Compiler, list[Any]], Expr]:
    return lambda c, trees: constant(value, type_name)


_SPECIAL: dict[str, Callable[[Compiler, list[Any]], Expr]] = {
    "coalesce": _coalesce, "nullif": _nullif, "greatest": _extreme(">"), "least": _extreme("<"), "concat": _concat,
    "round": _rounding("round", "ROUND_HALF_UP", round), "floor": _rounding("floor", ROUND_FLOOR, math.floor),
    "ceil": _rounding("ceil", ROUND_CEILING, math.ceil), "ceiling": _rounding("ceil", ROUND_CEILING, math.ceil),
    "trunc": _rounding("trunc", ROUND_DOWN, math.trunc), "power": _power, "mod": _mod,
    "now": _now("timestamptz", "transaction"), "currenttimestamp": _now("timestamptz", "transaction"),
    "transaction_timestamp": _now("timestamptz", "transaction"), "statement_timestamp": _now("timestamptz", "statement"),
    "clock_timestamp": _now("timestamptz", "clock"), "localtimestamp": _now("timestamp", "transaction"),
    "currentdate": _now("date", "transaction"), "currenttime": _now("time", "transaction"), "random": _random, "rand": _random,
    "localtime": _now("time", "transaction"), "gen_random_uuid": _uuid, "uuid": _uuid, "version": _session("version", "text"),
    "currentversion": _session("version", "text"), "currentuser": _session("current_user"),
    "sessionuser": _session("session_user"),
    "currentrole": _session("current_user"), "currentdatabase": _session("current_database"),
    "current_database": _session("current_database"), "current_catalog": _session("current_database"),
    "currentcatalog": _session("current_database"), "current_schema": _session("current_schema"),
    "currentschema": _session("current_schema"), "pg_backend_pid": _session("pg_backend_pid", "int4"),
    "txid_current": _session("txid_current", "int8"), "pg_is_in_recovery": _fixed(False, "bool"),
    "pg_current_wal_lsn": _session("pg_current_wal_lsn", "text"),
    "pg_current_wal_insert_lsn": _session("pg_current_wal_insert_lsn", "text"),
    "pg_current_wal_flush_lsn": _session("pg_current_wal_flush_lsn", "text"),
    "current_setting": _setting, "set_config": _set_config, "nextval": _nextval, "currval": _currval,
    "lastval": _session("lastval", "int8"), "extract": _date_part, "date_part": _date_part, "pg_sleep": _sleep,
}  # fmt: skip
_SPECIAL_NODES: dict[type, Callable[[Compiler, Any], Expr]] = {exp.Trim: _trim}


def is_call(tree: Any, name: str) -> bool:
    return isinstance(tree, exp.Anonymous) and ident(tree.this) == name

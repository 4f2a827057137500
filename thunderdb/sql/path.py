"""Access paths: which key, keys or key range of which tree hold the rows that a WHERE can be true for.

    path     found for                                               reads
    Keys     = (or IN, = ANY) on all columns of the primary key      one row each
    Range    = on leading columns, then <, <=, >, >=, BETWEEN        part of the table's tree
    Index    the same on a secondary index                           part of the index, then the rows
    Scan     anything else                                           the table

P1. A path may give rows for which the condition is not true (the caller filters), never miss one for which it is.
P2. A bound is used only where its type is the column's, or a wider integer that is checked against the column's range.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlglot import exp

from thunderdb.access.keys import KeyCodec, successor
from thunderdb.base.errors import SerializationFailure
from thunderdb.sql.casts import common_type
from thunderdb.sql.context import Context
from thunderdb.sql.expr import Compiler, Expr, Fn
from thunderdb.sql.parse import ident
from thunderdb.sql.types import INTEGER_BOUNDS, INTEGERS

Batch = list[tuple[bytes, bytes]]
_EMPTY = object()


@dataclass(slots=True)
class Bound:
    """A condition on one column: `symbol` is = < <= > >= or "in" (the value is then a list)."""

    position: int
    symbol: str
    fn: Fn
    column_type: str
    value_type: str


@dataclass(slots=True)
class Path:
    """`codec` and `positions` describe the tree's key; `index_root` is 0 for the table's own tree."""

    kind: str
    codec: KeyCodec | None = None
    index_root: int = 0
    positions: tuple[int, ...] = ()
    equal: list[Fn] = field(default_factory=list)
    equal_types: list[tuple[str, str]] = field(default_factory=list)
    members: Fn | None = None
    low: Bound | None = None
    high: Bound | None = None
    exact: bool = False
    integer: tuple[Fn, int] | None = None  # of a Keys path on one integer column: its value, and the column's bound

    def keys(self, context: Context) -> list[bytes]:
        """The keys of a Keys path, in key order, each once."""
        codec = self.codec
        if codec is None:
            return []
        if self.members is not None:
            members = self.members(None, context) or ()
            column, _ = self.equal_types[0]
            found = {codec.encode((value,)) for value in members if value is not None and _fits(column, value)}
            return sorted(found)
        key = self.key(context)
        return [] if key is None else [key]

    def key(self, context: Context) -> bytes | None:
        """The one key of a Keys path without members; None if no row can have it."""
        codec = self.codec
        if codec is None:
            return None
        if self.integer is not None:  # the usual primary key
            fn, limit = self.integer
            value = fn(None, context)
            return None if value is None or not -limit <= value < limit else codec.encode((value,))
        values = [fn(None, context) for fn in self.equal]
        for types, value in zip(self.equal_types, values, strict=True):
            if value is None:
                return None
            bound = INTEGER_BOUNDS.get(types[0])
            if bound is not None and not -bound <= value < bound:
                return None
        return codec.encode(values)

    def range(self, context: Context) -> tuple[bytes | None, bytes | None] | None:
        """[low, high) of a Range or Index path; None if nothing can be in it."""
        codec = self.codec
        if codec is None:
            return None, None
        values = [fn(None, context) for fn in self.equal]
        if None in values or not all(_fits(types[0], value) for types, value in zip(self.equal_types, values, strict=True)):
            return None
        prefix = codec.encode_prefix(values)
        low: bytes | None = prefix
        high = successor(prefix) if prefix else None
        if self.low is not None:
            bound = _bound_value(self.low, context)
            if bound is _EMPTY:
                return None
            if bound is not None:
                start = codec.encode_prefix([*values, bound])
                low = start if self.low.symbol == ">=" else successor(start)
                if low is None:
                    return None
        if self.high is not None:
            bound = _bound_value(self.high, context)
            if bound is _EMPTY:
                return None
            if bound is not None:
                end = codec.encode_prefix([*values, bound])
                high = end if self.high.symbol == "<" else successor(end)
        return low or None, high

    async def batches(self, context: Context, table: Any, reverse: bool = False) -> AsyncIterator[Batch]:
        """(row key, payload) of the rows on this path, a batch at a time."""
        rows, txn, root = context.rows, context.txn, table.root
        if self.kind == "keys":
            found = []
            for key in self.keys(context):
                payload = await rows.get(txn, root, key)
                if payload is not None:
                    found.append((key, payload))
            if found:
                yield found[::-1] if reverse else found
            return
        bounds = self.range(context) if self.kind != "scan" else (None, None)
        if bounds is None:
            return
        if not self.index_root:
            async for batch in rows.scan(txn, root, bounds[0], bounds[1], reverse):
                yield batch
            return
        _require_visible(self.index_root, table, txn)
        async for entries in rows.scan(txn, self.index_root, bounds[0], bounds[1], reverse):
            found = []
            for _, key in entries:
                payload = await rows.get(txn, root, key)
                if payload is not None:
                    found.append((key, payload))
            yield found


def _require_visible(index_root: int, table: Any, txn: Any) -> None:
    """An index made after a snapshot has no entries for what the snapshot sees. Raises: SerializationFailure."""
    index = next(index.definition for index in table.indexes if index.root == index_root)
    since = index.since_txn
    if since and since != txn.id and not (txn.snapshot or txn.new_snapshot()).sees(since):
        raise SerializationFailure(f'could not serialize access: index "{index.name}" is newer than the snapshot')


def _fits(column_type: str, value: Any) -> bool:
    bound = INTEGER_BOUNDS.get(column_type)
    return bound is None or -bound <= value < bound


def _bound_value(bound: Bound, context: Context) -> Any:
    """A range bound's value; None = no bound after all (beyond the column's range), _EMPTY = no row can match."""
    value = bound.fn(None, context)
    if value is None:
        return _EMPTY
    limit = INTEGER_BOUNDS.get(bound.column_type)
    if limit is None or -limit <= value < limit:
        return value
    above = value >= limit
    return _EMPTY if above == (bound.symbol in (">", ">=")) else None


def conjuncts(tree: Any) -> list[Any]:
    if isinstance(tree, exp.Paren):
        return conjuncts(tree.this)
    if isinstance(tree, exp.And):
        return conjuncts(tree.this) + conjuncts(tree.expression)
    return [tree] if tree is not None else []


_SYMBOLS: dict[type, tuple[str, str]] = {
    exp.EQ: ("=", "="), exp.LT: ("<", ">"), exp.LTE: ("<=", ">="), exp.GT: (">", "<"), exp.GTE: (">=", "<="),
}  # fmt: skip


def _bounds(c: Compiler, tree: Any, names: dict[str, int]) -> list[Bound]:
    """What a conjunct says about single columns."""
    if isinstance(tree, exp.Between) and not tree.args.get("symmetric"):
        low = exp.GTE(this=tree.this, expression=tree.args["low"])
        high = exp.LTE(this=tree.this, expression=tree.args["high"])
        return _bounds(c, low, names) + _bounds(c, high, names)
    if isinstance(tree, exp.In) and tree.expressions and not tree.args.get("query"):
        return _membership(c, tree.this, tree.expressions, names)
    symbols = _SYMBOLS.get(type(tree))
    if symbols is None:
        return []
    left, right, symbol = tree.this, tree.expression, symbols[0]
    if _position(left, names) is None:
        left, right, symbol = right, left, symbols[1]
    position = _position(left, names)
    if position is None:
        return []
    if isinstance(right, exp.Any) and symbol == "=":
        inner = right.this.unnest() if isinstance(right.this, exp.Paren) else right.this
        if isinstance(inner, exp.Query) or not _is_free(inner):
            return []
        column = c.columns[position]
        array = c.compile(inner)
        if array.type == "unknown" or array.type == column.type + "[]":
            fn = c.coerce(array, column.type + "[]", "implicit").fn
            return [Bound(position, "in", fn, column.type, column.type)]
        return []
    found = _usable(c, position, right)
    return [] if found is None else [Bound(position, symbol, found.fn, c.columns[position].type, found.type)]


def _membership(c: Compiler, left: Any, members: Sequence[Any], names: dict[str, int]) -> list[Bound]:
    position = _position(left, names)
    if position is None:
        return []
    found = [_usable(c, position, member) for member in members]
    if None in found:
        return []
    fns = [value.fn for value in found if value is not None]
    column = c.columns[position].type
    return [Bound(position, "in", lambda row, context: [fn(row, context) for fn in fns], column, column)]


def _position(tree: Any, names: dict[str, int]) -> int | None:
    return names.get(ident(tree.this)) if isinstance(tree, exp.Column) else None


def _is_free(tree: Any) -> bool:
    """Whether a tree names no column and nothing that changes from call to call."""
    return not any(True for _ in tree.find_all(exp.Column, exp.Query, exp.Rand, exp.Anonymous, exp.Uuid))


def _usable(c: Compiler, position: int, tree: Any) -> Expr | None:
    """A value to look for in a column, in the column's type (P2)."""
    if not _is_free(tree):
        return None
    column = c.columns[position].type
    value = c.compile(tree)
    if value.type == "unknown":
        return c.coerce(value, column, "implicit")
    if value.type in INTEGERS and column in INTEGERS:
        return value
    return c.coerce(value, column, "implicit") if common_type(value.type, column) == column else None


def choose(c: Compiler, table: Any, where: Any) -> Path:
    """The best path for a condition over one table; `table` is an engine TableAccess."""
    names = {column.name: i for i, column in enumerate(c.columns)}
    parts = conjuncts(where)
    bounds = [(part, bound) for part in parts for bound in _bounds(c, part, names)]
    best, best_score = Path("scan"), 0
    candidates = []
    if table.pk_codec is not None:
        candidates.append((table.pk_codec, 0, table.pk, True))
    candidates.extend((index.codec, index.root, index.columns, index.unique) for index in table.indexes)
    for codec, root, positions, unique in candidates:
        path, score, used = _match(codec, root, positions, unique, [bound for _, bound in bounds])
        if path is not None and score > best_score:
            path.exact = path.kind == "keys" and len(used) == len(parts) == len(bounds)
            best, best_score = path, score
    return best


def _match(
    codec: KeyCodec, root: int, positions: tuple[int, ...], unique: bool, bounds: list[Bound]
) -> tuple[Path | None, int, list[Bound]]:
    """How well one tree's key serves: all of a unique key, else the more leading columns the better, then a range."""
    equal: list[Bound] = []
    for position in positions:
        found = next((bound for bound in bounds if bound.position == position and bound.symbol == "="), None)
        if found is None:
            break
        equal.append(found)
    path = Path("range", codec, root, positions, [b.fn for b in equal], [(b.column_type, b.value_type) for b in equal])
    if len(equal) == len(positions):
        if not root:
            path.kind = "keys"
            limit = INTEGER_BOUNDS.get(equal[0].column_type)
            path.integer = (equal[0].fn, limit) if len(equal) == 1 and limit is not None else None
            return path, 1000, equal
        return path, (900 if unique else 500) + 10 * len(equal), equal
    if not root and len(positions) == 1:
        members = next((bound for bound in bounds if bound.position == positions[0] and bound.symbol == "in"), None)
        if members is not None:
            path.kind, path.members, path.equal_types = "keys", members.fn, [(members.column_type, members.value_type)]
            return path, 800, [members]
    following = positions[len(equal)]
    path.low = next((bound for bound in bounds if bound.position == following and bound.symbol in (">", ">=")), None)
    path.high = next((bound for bound in bounds if bound.position == following and bound.symbol in ("<", "<=")), None)
    ranged = (path.low is not None) + (path.high is not None)
    if not equal and not ranged:
        return None, 0, []
    return path, 100 * len(equal) + 20 * ranged + (1 if not root else 0), []

"""What the database must contain: a model of every transaction, and the exact set of states that a crash may leave.

A transaction's outcome is acked, failed, or unknown (the node died between the append of its commit and the answer). Because
the log is sequential, a crash leaves the effects of a *prefix* of the commits in log order. So the allowed states are few:

    base ─commit 1─▶ state 1 ─commit 2─▶ state 2 … ─commit n─▶ state n          every prefix at least as long as `must`

O1. `must` covers the last commit that was acknowledged with sync_commit on, or shown to a reader (W2).
O2. A transaction that never appended its commit leaves no trace: its operations are in no state.
O3. A snapshot sees exactly the transactions that had ended when it was taken: `seq` counts them, `table_at` goes back.
O4. While a transaction holds a row's lock, the row is what the model says, plus what the transaction did itself.

Operations are tuples: (kind, table, …); rows are tuples whose first column is the key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Row = tuple[Any, ...]
Op = tuple[Any, ...]

PUT, DEL, CREATE, DROP, TRUNCATE, INDEX, NO_INDEX, COLUMN, KEYED = range(9)


class Violation(Exception):
    """The database broke a promise. `args` is (what,)."""


@dataclass(frozen=True, slots=True)
class Plus:
    """A column's new value is its old one plus this."""

    amount: int


def changed(columns: tuple[str, ...], row: Row, sets: Mapping[str, Any]) -> Row:
    """The row after an UPDATE that sets these columns."""
    values = list(row)
    for position, column in enumerate(columns):
        if column in sets:
            value = sets[column]
            values[position] = values[position] + value.amount if isinstance(value, Plus) else value
    return tuple(values)


class Table:
    """A table of the model. Rows by key; `indexes` maps a name to (column positions, unique)."""

    __slots__ = ("columns", "keyed", "indexes", "rows")

    def __init__(
        self, columns: tuple[str, ...], keyed: bool, indexes: dict[str, tuple[tuple[int, ...], bool]], rows: dict[Any, Row]
    ) -> None:
        self.columns = columns
        self.keyed = keyed
        self.indexes = indexes
        self.rows = rows

    def copy(self) -> Table:
        return Table(self.columns, self.keyed, dict(self.indexes), dict(self.rows))

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Table)
            and self.columns == other.columns
            and self.keyed == other.keyed
            and self.indexes == other.indexes
            and self.rows == other.rows
        )

    __hash__ = None  # type: ignore[assignment]


State = dict[str, Table]


def apply(state: State, op: Op) -> None:
    """Apply one operation. A change of a whole table puts a new object in its place, so that history can keep the old one."""
    kind, name = op[0], op[1]
    if kind == PUT:
        state[name].rows[op[2][0]] = op[2]
    elif kind == DEL:
        del state[name].rows[op[2]]
    elif kind == CREATE:
        state[name] = op[2].copy()
    elif kind == DROP:
        del state[name]
    else:
        state[name] = table = state[name].copy()
        if kind == TRUNCATE:
            table.rows = {}
        elif kind == INDEX:
            table.indexes[op[2]] = op[3]
        elif kind == NO_INDEX:
            del table.indexes[op[2]]
        elif kind == COLUMN:
            table.columns = (*table.columns, op[2])
            table.rows = {key: (*row, op[3]) for key, row in table.rows.items()}
        elif kind == KEYED:
            table.keyed = True


@dataclass(slots=True)
class Work:
    """One transaction as its client sees it."""

    number: int
    sync: bool
    ops: list[Op] = field(default_factory=list)
    outcome: str = "open"
    ended: bool = False
    acked_ns: int = 0
    mark: str = ""

    def row(self, table: str, key: Any, committed: Row | None) -> Row | None:
        """The row as the transaction must find it, over what is committed."""
        added: Row = ()
        for op in reversed(self.ops):
            if op[1] != table:
                continue
            kind = op[0]
            if kind == COLUMN:
                added = (op[3], *added)
            elif kind == PUT and op[2][0] == key:
                return (*op[2], *added)
            elif (kind == DEL and op[2] == key) or kind in (TRUNCATE, DROP, CREATE):
                return None
        return None if committed is None else (*committed, *added)


@dataclass(slots=True)
class Recovered:
    """What a recovery was found to have kept."""

    lost: int = 0
    oldest_lost_ns: int = 0
    lost_async: int = 0
    unknown_kept: int = 0
    unknown_lost: int = 0


class Oracle:
    """The model of one database over all its lives."""

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self.now_ns = now_ns
        self.state: State = {}
        self.seq = 0
        self.base: State = {}
        self.appended: list[Work] = []
        self.by_txn: dict[int, Work] = {}
        self.acked = 0
        self.acked_writes = 0
        self.last_ack_ns = 0
        self.on_ack: Callable[[Work], None] | None = None
        self._history: dict[str, list[tuple[int, Any, Any]]] = {}
        self._numbers = 0
        self.counts: dict[str, int] = {}

    # -- A transaction's life

    def begin(self, sync: bool) -> Work:
        self._numbers += 1
        return Work(self._numbers, sync)

    def commit_appended(self, txn: int) -> None:
        """The log has this transaction's commit record (not durable yet). Called at the append."""
        work = self.by_txn.get(txn)
        if work is None:
            raise Violation(f"transaction {txn} commits, but no client asked for it")
        if work.outcome not in ("committing", "unknown"):
            raise Violation(f"transaction {txn} commits, but its client is {work.outcome}")
        self.appended.append(work)

    def ended(self, work: Work) -> None:
        """The engine shows this transaction's effects from now on. Called in the same step."""
        if work.ended:
            return
        work.ended = True
        if work.ops:
            self.seq += 1
            self._apply_visible(work)

    def _apply_visible(self, work: Work) -> None:
        seq, history = self.seq, self._history
        for op in work.ops:
            name = op[1]
            entries = history.get(name)
            if entries is None:
                entries = history[name] = []
            if op[0] == PUT:
                rows = self.state[name].rows
                entries.append((seq, op[2][0], rows.get(op[2][0])))
                rows[op[2][0]] = op[2]
            elif op[0] == DEL:
                entries.append((seq, op[2], self.state[name].rows.pop(op[2])))
            else:
                entries.append((seq, _WHOLE, self.state.get(name)))
                apply(self.state, op)

    def ack(self, work: Work) -> None:
        work.outcome = "acked"
        work.acked_ns = self.last_ack_ns = self.now_ns()
        self.acked += 1
        if work.ops:
            self.acked_writes += 1
        if self.on_ack is not None:
            self.on_ack(work)

    def txn_ended(self, txn: int) -> None:
        """`ended`, for a driver that does not see the transaction itself."""
        work = self.by_txn.get(txn)
        if work is not None and work.number:
            self.ended(work)

    # -- What must be seen

    def current(self, work: Work, name: str, key: Any) -> Row | None:
        """The row as the transaction must find it under its lock (O4)."""
        table = self.state.get(name)
        return work.row(name, key, None if table is None else table.rows.get(key))

    def table_now(self, work: Work, name: str) -> Table | None:
        """The table as a transaction that has it to itself must find it."""
        state: State = {name: self.state[name].copy()} if name in self.state else {}
        for op in work.ops:
            if op[1] == name:
                apply(state, op)
        return state.get(name)

    def table_at(self, name: str, seq: int, work: Work | None = None) -> Table | None:
        """The table at a snapshot, with a transaction's own changes (O3); None if its definition has changed since."""
        table = self.state.get(name)
        if table is None:
            return None
        rows = dict(table.rows)
        for at, key, old in reversed(self._history.get(name, ())):
            if at <= seq:
                break
            if key is _WHOLE:
                return None
            if old is None:
                rows.pop(key, None)
            else:
                rows[key] = old
        found = Table(table.columns, table.keyed, table.indexes, rows)
        if work is not None and work.ops:
            state = {name: found}
            for op in work.ops:
                if op[1] == name:
                    apply(state, op)
            return state.get(name)
        return found

    def unique_conflict(self, work: Work, name: str, row: Row, own_key: Any = None) -> bool:
        """Whether a row in the table as it is now has the key of `row`, or its values in a unique index."""
        table = self.table_now(work, name)
        if table is None:
            return False
        if row[0] in table.rows and row[0] != own_key:
            return True
        uniques = [columns for columns, unique in table.indexes.values() if unique]
        for key, other in table.rows.items():
            if key != own_key:
                for columns in uniques:
                    values = [row[column] for column in columns]
                    if None not in values and values == [other[column] for column in columns]:
                        return True
        return False

    # -- Crashes

    def crashed(self, fault_ns: int) -> None:
        """The node is dead: whoever was committing is unknown, everyone else open has failed."""
        for work in self.by_txn.values():
            if work.outcome == "committing":
                work.outcome = "unknown"
            elif work.outcome == "open":
                work.outcome = "failed"

    def recovered(self, observed: State, clean: bool) -> Recovered:
        """Compare what came back with what is allowed, and go on from it. Raises: Violation."""
        must = 0
        for position, work in enumerate(self.appended, 1):
            if (work.outcome == "acked" or work.ended) and (work.sync or clean):
                must = position
        state = {name: table.copy() for name, table in self.base.items()}
        matched = -1
        for position in range(len(self.appended) + 1):
            if position:
                for op in self.appended[position - 1].ops:
                    apply(state, op)
            if position >= must and state == observed:
                matched = position
                break
        if matched < 0:
            matched = self._shorter(observed, must)
        result = self._result(matched)
        self.rebase(observed)
        return result

    def _shorter(self, observed: State, must: int) -> int:
        """Not allowed; is it at least a shorter prefix? Raises: Violation if it is no prefix at all."""
        state = {name: table.copy() for name, table in self.base.items()}
        closest: list[str] = []
        for position in range(len(self.appended) + 1):
            if position:
                for op in self.appended[position - 1].ops:
                    apply(state, op)
            if position < must and state == observed:
                return position
            if position >= must:
                different = differences(state, observed)
                if not closest or len(different) < len(closest):
                    closest = different
        shown = "; ".join(closest[:6])
        raise Violation(
            f"what came back is no prefix of the {len(self.appended)} commits ({must} must be there); "
            f"against the closest allowed state {len(closest)} differ: {shown}"
        )

    def _result(self, kept: int) -> Recovered:
        result = Recovered()
        for position, work in enumerate(self.appended, 1):
            if position <= kept:
                result.unknown_kept += work.outcome == "unknown"
            elif work.outcome == "unknown" and not work.ended:
                result.unknown_lost += 1
            elif not work.sync:
                result.lost_async += 1
            elif work.ops:
                result.lost += 1
                if not result.oldest_lost_ns and work.acked_ns:
                    result.oldest_lost_ns = work.acked_ns
        return result

    def rebase(self, state: State) -> None:
        """A new life begins with this state."""
        self.state = state
        self.base = {name: table.copy() for name, table in state.items()}
        self.appended.clear()
        self.by_txn.clear()
        self._history.clear()
        self.seq += 1


class _Whole:
    def __repr__(self) -> str:
        return "the whole table"


_WHOLE = _Whole()


def differences(expected: State, observed: State, limit: int = 200) -> list[str]:
    """Say in which cells two states differ."""
    found: list[str] = []
    for name in sorted({*expected, *observed}):
        one, two = expected.get(name), observed.get(name)
        if one is None or two is None:
            found.append(f"table {name} {'should not exist' if one is None else 'is missing'}")
        else:
            found += table_differences(name, one, two)
        if len(found) > limit:
            break
    return found


def table_differences(name: str, one: Table, two: Table) -> list[str]:
    found: list[str] = []
    if (one.columns, one.keyed, one.indexes) != (two.columns, two.keyed, two.indexes):
        found.append(
            f"definition of {name}: expected {one.columns} {one.keyed} {one.indexes}, "
            f"found {two.columns} {two.keyed} {two.indexes}"
        )
    for key in sorted({*one.rows, *two.rows}):
        if one.rows.get(key) != two.rows.get(key):
            found.append(f"{name}[{key}] expected {short(one.rows.get(key))} found {short(two.rows.get(key))}")
    return found


def short(row: Row | None) -> str:
    if row is None:
        return "no row"
    return "(" + ", ".join(_short_value(value) for value in row) + ")"


def _short_value(value: Any) -> str:
    if isinstance(value, str) and len(value) > 24:
        return f"{value[:20]!r}…{len(value)}"
    return repr(value)

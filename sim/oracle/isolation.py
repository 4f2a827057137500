"""Is a history what its isolation levels promise? A checker in the manner of Elle, over lists to which transactions append.

Each key holds a list; a transaction appends elements that nobody else ever appends, and reads whole lists. So a read tells
which version it saw, and the last read of all tells the order of all versions; everything else follows.

From them the history *demands an order of points in time*: a transaction has a commit point, and a snapshot point for each of
its statements (one for all of them at REPEATABLE READ). A cycle in what is demanded is an anomaly:

    demand                                                        because
    statement 1 < statement 2 < … < commit                        a transaction goes forward
    commit of the writer < snapshot of the reader           (wr)  a snapshot sees what had committed
    snapshot of the reader < commit of the next writer      (rw)  … and nothing that had not
    commit of a writer < change by the next writer          (ww)  a change waits for the row's lock
    commit of a writer < snapshot of the next, if that one is REPEATABLE READ: it would be 40001 otherwise
    answer to COMMIT < snapshot of a statement sent later   (rt)  what was acknowledged is seen

L1. READ COMMITTED: no G0, G1a, G1b, G1c, no lost append, no statement that sees half of another transaction, nothing stale.
L2. REPEATABLE READ: all that, and no G-single (lost update, read skew, a read that does not repeat). Write skew (G2) may be.
L3. An acknowledged append is there for good; one that failed, or was rolled back, is never seen; of one whose COMMIT got no
    answer either all is there or nothing.

Source: Adya, Weak Consistency (1999); Kingsbury and Alvaro, Elle (VLDB 2020); the points in time are Cerone's and Gotsman's.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

READ_COMMITTED, REPEATABLE_READ = "read committed", "repeatable read"
OK, FAILED, UNKNOWN = "ok", "failed", "unknown"
Node = tuple[str, int, int]
"""("s", transaction, statement), ("c", transaction, 0), or ("t", moment, 0)."""


Own = list[tuple[int, int, int]]
"""(number of the statement, key, element)."""


@dataclass(slots=True)
class Statement:
    """What one statement read (key → list) and appended (key → element)."""

    sent_ns: int = 0
    reads: dict[int, tuple[int, ...]] = field(default_factory=dict)
    appends: dict[int, int] = field(default_factory=dict)
    locked: bool = False
    """It read under the rows' locks (RETURNING, FOR UPDATE): at READ COMMITTED the newest versions, not the snapshot's."""
    back_to: int = -1
    """Not a statement, but a return to the savepoint that was made before statement `back_to`."""


@dataclass(slots=True)
class Txn:
    """One transaction as its client saw it. `acked_ns` is when COMMIT was answered."""

    number: int
    level: str = READ_COMMITTED
    outcome: str = FAILED
    acked_ns: int = -1
    statements: list[Statement] = field(default_factory=list)

    @property
    def appended(self) -> list[tuple[int, int]]:
        """(key, element), in order, without what was rolled back to a savepoint."""
        steps = list(self.walk())
        return [(key, element) for _, key, element in steps[-1][2]] if steps else []

    def walk(self) -> Iterator[tuple[int, Statement, Own]]:
        """Each statement with its number, and what the transaction had appended by its end and not rolled back."""
        own: Own = []
        for at, statement in enumerate(self.statements):
            if statement.back_to >= 0:
                own = [one for one in own if one[0] < statement.back_to]
            own = own + [(at, key, element) for key, element in statement.appends.items()]
            yield at, statement, own


@dataclass(frozen=True, slots=True)
class Anomaly:
    name: str
    what: str

    def __str__(self) -> str:
        return f"{self.name}: {self.what}"


def check(history: Sequence[Txn], final: dict[int, tuple[int, ...]]) -> list[Anomaly]:
    """What in a history breaks L1, L2 or L3. `final` is every list at the end, read when nobody else was there any more."""
    lists = _Lists(history, final)
    found = lists.problems + lists.promises()
    return found or _Order(lists).anomalies()


class _Lists:
    """Who wrote which element, and in which order."""

    def __init__(self, history: Sequence[Txn], final: dict[int, tuple[int, ...]]) -> None:
        self.txns = {txn.number: txn for txn in history}
        self.final = final
        self.writer: dict[int, int] = {}
        self.gone: set[int] = set()
        self.place: dict[int, tuple[int, int]] = {}
        """Element → (key, position in the final list)."""
        self.problems: list[Anomaly] = []
        for txn in history:
            written = [element for one in txn.statements for element in one.appends.values()]
            self.writer.update(dict.fromkeys(written, txn.number))
            self.gone.update(set(written) - {element for _, element in txn.appended})
        for key, elements in final.items():
            for position, element in enumerate(elements):
                if element in self.place:
                    self._problem("duplicate", f"element {element} is there twice, in {self.place[element][0]} and {key}")
                self.place[element] = (key, position)
        for txn in history:
            for at, statement, own in txn.walk():
                self._look(txn, at, statement, own)

    def _problem(self, name: str, what: str) -> None:
        self.problems.append(Anomaly(name, what))

    def promises(self) -> list[Anomaly]:
        """L3: what was acknowledged is there, what failed is not, what is unknown is there as a whole or not at all."""
        found: list[Anomaly] = []
        present: dict[int, set[int]] = {}
        for element in self.place:
            number = self.writer.get(element)
            if number is None:
                found.append(Anomaly("G1a", f"element {element} was appended by nobody"))
            elif element in self.gone:
                found.append(Anomaly("G1a", f"element {element} was rolled back to a savepoint by {number}, and is there"))
            else:
                present.setdefault(number, set()).add(element)
        for number, txn in self.txns.items():
            wanted = {element for _, element in txn.appended}
            there = present.get(number, set())
            if txn.outcome == OK and wanted - there:
                found.append(Anomaly("lost append", f"{number} was acknowledged, but its {sorted(wanted - there)} are gone"))
            elif txn.outcome == FAILED and there:
                found.append(Anomaly("G1a", f"{number} failed, but its {sorted(there)} are there"))
            elif there and wanted - there:
                found.append(Anomaly("torn", f"of {number} {sorted(there)} are there, {sorted(wanted - there)} are not"))
        return found

    def _look(self, txn: Txn, at: int, statement: Statement, own: Own) -> None:
        """One statement's reads: prefixes of the final lists, and behind them what the transaction itself has appended."""
        for key, elements in statement.reads.items():
            mine = seen_own(statement, at, own, key)
            others = elements[: max(0, len(elements) - len(mine))]
            if list(elements[len(others) :]) != mine:
                self._problem("internal", f"{txn.number} has appended {mine} to {key}, but reads {_tail(elements)}")
                continue
            for element in others:
                number = self.writer.get(element)
                if number is None or self.txns[number].outcome == FAILED or element in self.gone:
                    self._problem("G1a", f"{txn.number} reads element {element} of {key}, which {number} never committed")
                    break
            else:
                if self.final.get(key, ())[: len(others)] != others:
                    whole = _tail(self.final.get(key, ())[: len(others) + 3])
                    self._problem("incompatible order", f"{txn.number} reads {_tail(others)} of {key}, no prefix of {whole}")
                elif others:
                    self._intermediate(txn, key, others[-1])

    def _intermediate(self, txn: Txn, key: int, element: int) -> None:
        writer = self.txns[self.writer[element]]
        last = [one for at, one in writer.appended if at == key][-1]
        if writer is not txn and last != element:
            self._problem("G1b", f"{txn.number} reads {key} up to {element}, but {writer.number} went on to {last}")


class _Order:
    """The points in time, and what is demanded of them."""

    def __init__(self, lists: _Lists) -> None:
        self.lists = lists
        self.edges: dict[Node, dict[Node, str]] = {}
        moments: list[int] = []
        for number, txn in lists.txns.items():
            if txn.outcome == OK and txn.acked_ns >= 0:
                moments.append(txn.acked_ns)
            self._demands(number, txn)
        self._real_time(sorted(set(moments)))

    def _edge(self, one: Node, two: Node, why: str) -> None:
        if one != two:
            self.edges.setdefault(one, {}).setdefault(two, why)

    def _point(self, txn: Txn, at: int) -> Node:
        """The snapshot of a statement: its own, or the transaction's."""
        return ("s", txn.number, 0 if txn.level == REPEATABLE_READ else at)

    def _demands(self, number: int, txn: Txn) -> None:
        commit: Node = ("c", number, 0)
        before: Node | None = None
        for at, statement, own in txn.walk():
            if statement.back_to >= 0:
                continue
            point = self._point(txn, at)
            if before is not None:
                self._edge(before, point, "then")
            before = point
            newest = statement.locked and txn.level == READ_COMMITTED
            for key, elements in statement.reads.items():
                self._read(txn, commit if newest else point, key, len(elements) - len(seen_own(statement, at, own, key)))
            for key, element in statement.appends.items():
                if element in self.lists.place:
                    self._append(txn, point, key, self.lists.place[element][1])
        if before is not None:
            self._edge(before, commit, "then")

    def _foreign(self, number: int, key: int, position: int) -> int | None:
        """Who wrote the element there, if it is another transaction."""
        elements = self.lists.final.get(key, ())
        if not 0 <= position < len(elements):
            return None
        writer = self.lists.writer[elements[position]]
        return None if writer == number else writer

    def _read(self, txn: Txn, point: Node, key: int, length: int) -> None:
        writer = self._foreign(txn.number, key, length - 1)
        if writer is not None:
            self._edge(("c", writer, 0), point, f"wr {key}")
        following = self._foreign(txn.number, key, length)
        if following is not None:
            self._edge(point, ("c", following, 0), f"rw {key}")

    def _append(self, txn: Txn, point: Node, key: int, position: int) -> None:
        """The version below was committed when this one was made; the snapshot itself may be older at READ COMMITTED."""
        writer = self._foreign(txn.number, key, position - 1)
        if writer is not None:
            self._edge(("c", writer, 0), point if txn.level == REPEATABLE_READ else ("c", txn.number, 0), f"ww {key}")

    def _real_time(self, moments: list[int]) -> None:
        """rt, as a chain of moments: a commit is before its answer, a statement after the newest answer before it was sent."""
        for earlier, later in zip(moments, moments[1:], strict=False):
            self._edge(("t", earlier, 0), ("t", later, 0), "time")
        for number, txn in self.lists.txns.items():
            if txn.outcome == OK and txn.acked_ns >= 0:
                self._edge(("c", number, 0), ("t", txn.acked_ns, 0), "answered")
            for at, statement in enumerate(txn.statements):
                if statement.back_to >= 0:
                    continue
                before = _newest_before(moments, statement.sent_ns)
                if before is not None:
                    self._edge(("t", before, 0), self._point(txn, at), "sent")
                if txn.level == REPEATABLE_READ:
                    break  # later statements look at the snapshot of the first

    def anomalies(self) -> list[Anomaly]:
        cycle = shortest_cycle(self.edges)
        if not cycle:
            return []
        whys = [self.edges[one][two] for one, two in zip(cycle, [*cycle[1:], cycle[0]], strict=True)]
        shown = " ".join(f"{_said(node)} -{why}→" for node, why in zip(cycle, whys, strict=True)) + f" {_said(cycle[0])}"
        return [Anomaly(named(whys), shown)]


def seen_own(statement: Statement, at: int, own: Own, key: int) -> list[int]:
    """Which of its own elements a statement's read must end with; what it appends itself only if it returns that."""
    return [element for number, one, element in own if one == key and (number < at or statement.locked)]


def named(whys: Iterable[str]) -> str:
    """The anomaly's name by the kinds of its edges."""
    kinds = [why.split()[0] for why in whys]
    if "time" in kinds or "sent" in kinds:
        return "stale read" if "rw" in kinds else "out of real time"
    if kinds.count("rw") > 1:
        return "G-nonadjacent"
    if "rw" in kinds:
        return "G-single"
    return "G1c" if "wr" in kinds else "G0"


def shortest_cycle(edges: dict[Node, dict[Node, str]]) -> list[Node]:
    """A cycle of the least length within the first component that has one; empty if there is none."""
    for component in _components(edges):
        if len(component) > 1:
            inside = set(component)
            best: list[Node] = []
            for start in sorted(component)[:50]:
                found = _way_back(edges, start, inside)
                if found and (not best or len(found) < len(best)):
                    best = found
            return best
    return []


def _way_back(edges: dict[Node, dict[Node, str]], start: Node, inside: set[Node]) -> list[Node]:
    came: dict[Node, Node] = {}
    todo = [start]
    for node in todo:
        for other in edges.get(node, ()):
            if other == start:
                path = [node]
                while path[-1] != start:
                    path.append(came[path[-1]])
                return path[::-1]
            if other in inside and other not in came:
                came[other] = node
                todo.append(other)
    return []


def _components(edges: dict[Node, dict[Node, str]]) -> list[list[Node]]:
    """Strongly connected components (Tarjan), without recursion."""
    index: dict[Node, int] = {}
    low: dict[Node, int] = {}
    stack: list[Node] = []
    on_stack: set[Node] = set()
    found: list[list[Node]] = []
    for root in edges:
        if root in index:
            continue
        work = [(root, iter(edges.get(root, ())))]
        index[root] = low[root] = len(index)
        stack.append(root)
        on_stack.add(root)
        while work:
            node, rest = work[-1]
            for other in rest:
                if other not in index:
                    index[other] = low[other] = len(index)
                    stack.append(other)
                    on_stack.add(other)
                    work.append((other, iter(edges.get(other, ()))))
                    break
                if other in on_stack:
                    low[node] = min(low[node], index[other])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    component: list[Node] = []
                    while True:
                        one = stack.pop()
                        on_stack.discard(one)
                        component.append(one)
                        if one == node:
                            break
                    found.append(component)
    return found


def _newest_before(moments: list[int], at_ns: int) -> int | None:
    position = bisect_left(moments, at_ns)
    return moments[position - 1] if position else None


def _said(node: Node) -> str:
    kind, number, at = node
    return {"s": f"T{number}.{at}", "c": f"commit of T{number}", "t": f"{number / 1e9:.6f} s"}[kind]


def _tail(elements: Sequence[int], count: int = 6) -> str:
    return ("…" if len(elements) > count else "") + ",".join(map(str, elements[-count:])) if elements else "nothing"

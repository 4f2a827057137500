"""What a restore must give: every commit with its LSN and order time, on every timeline, and the state after each.

    line 1  ──c──c──c──c──c──c──c──c
                        ╲ switch_lsn
    line 2               ──c──c──c──c        (a restore in the middle; the history went on there)

H1. A commit is in the truth iff its record is in the log that a restart found: its LSN lies below the end of that log.
H2. An acknowledged commit (sync_commit on) is always below that end; the others may be, and then they count like any other.
H3. The path of a line is its ancestors' commits below the switches, then its own; LSNs and order times rise strictly along it.
H4. A target selects a prefix of a path: time and LSN inclusive, `before:` exclusive of the transaction that it names.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

from sim.oracle.oracle import DROP, TRUNCATE, Op, Oracle, State, Violation, Work, apply, differences


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit record, as the log has it."""

    lsn: int
    order_us: int
    txn: int
    ops: tuple[Op, ...]
    work: Work


@dataclass(slots=True)
class Line:
    """One timeline: what was committed on it, and where it left its parent."""

    number: int
    parent: Line | None = None
    switch_lsn: int = 0
    commits: list[Commit] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    """Where each record begins."""
    steps: list[tuple[int, tuple[int, int]]] = field(default_factory=list)
    """Steps of the wall clock, (LSN, (from_us, to_us)): times that name no moment, or two."""
    end_lsn: int = 0

    def path(self) -> list[Commit]:
        """H3."""
        inherited = [] if self.parent is None else [commit for commit in self.parent.path() if commit.lsn < self.switch_lsn]
        return inherited + self.commits

    def all_starts(self) -> list[int]:
        inherited = [] if self.parent is None else [lsn for lsn in self.parent.all_starts() if lsn < self.switch_lsn]
        return inherited + self.starts

    def all_steps(self) -> list[tuple[int, tuple[int, int]]]:
        inherited = [] if self.parent is None else [step for step in self.parent.all_steps() if step[0] < self.switch_lsn]
        return inherited + self.steps

    def ancestors(self) -> list[int]:
        """Numbers of the lines that this one goes through, oldest first, its own last."""
        return [*([] if self.parent is None else self.parent.ancestors()), self.number]


def state_of(commits: list[Commit]) -> State:
    """The model after these commits, from an empty database."""
    state: State = {}
    for commit in commits:
        for op in commit.ops:
            apply(state, op)
    return state


def below(path: list[Commit], lsn: int) -> list[Commit]:
    """What a log that is cut at this LSN holds."""
    return [commit for commit in path if commit.lsn < lsn]


def cut_after(line: Line, lsn: int) -> int:
    """Where `lsn:` cuts the log: behind the record that begins there, or that this LSN lies in."""
    starts = line.all_starts()
    at = bisect_right(starts, lsn)
    return starts[at] if at < len(starts) else line.end_lsn


def until_time(path: list[Commit], time_us: int) -> list[Commit]:
    return [commit for commit in path if commit.order_us <= time_us]


def before_txn(path: list[Commit], txn: int) -> list[Commit] | None:
    """What was committed before that transaction; None if it did not commit on this path."""
    for position, commit in enumerate(path):
        if commit.txn == txn:
            return path[:position]
    return None


def before_verb(path: list[Commit], verb: str, table: str) -> list[Commit] | None:
    """What was committed before the newest transaction that dropped (or truncated) the table."""
    kind = DROP if verb == "drop" else TRUNCATE
    for position in range(len(path) - 1, -1, -1):
        if any(op[0] == kind and op[1] == table for op in path[position].ops):
            return path[:position]
    return None


def verbs(path: list[Commit]) -> list[tuple[str, str]]:
    """Every (verb, table) that a `before:` target may name."""
    found: dict[tuple[str, str], None] = {}
    for commit in path:
        for op in commit.ops:
            if op[0] in (DROP, TRUNCATE):
                found[("drop" if op[0] == DROP else "truncate", op[1])] = None
    return list(found)


def check_order(commits: list[Commit]) -> None:
    """Commit times rise strictly along the log, whatever the wall clock did. Raises: Violation."""
    for before, commit in pairwise(commits):
        if commit.order_us <= before.order_us:
            raise Violation(f"transaction {commit.txn} commits at {commit.order_us} us, behind one at {before.order_us} us")


class Recorder(Oracle):
    """The oracle that remembers every commit over all lives."""

    def __init__(self, now_ns: Callable[[], int]) -> None:
        super().__init__(now_ns)
        self.line = Line(1)
        self.records: list[Commit] = []
        """Commits of this life, in log order, parallel to `appended`."""
        self.starts: list[int] = []
        self.steps: list[tuple[int, tuple[int, int]]] = []

    def record(self, txn: int, lsn: int, order_us: int) -> None:
        """A commit record was appended (the log's hook)."""
        self.commit_appended(txn)
        work = self.appended[-1]
        self.records.append(Commit(lsn, order_us, txn, tuple(work.ops), work))

    def known(self) -> list[Commit]:
        """The path with what this life has appended so far (it may yet be lost)."""
        return self.line.path() + self.records

    def settle(self, observed: State, end_lsn: int, clean: bool = False) -> int:
        """A restart found the log's end: H1, H2; after a `clean` stop nothing acknowledged may be missing, sync_commit or not.

        Returns how many commits of the last life were lost. Raises: Violation.
        """
        kept = [commit for commit in self.records if commit.lsn < end_lsn]
        for commit in self.records[len(kept) :]:
            if (commit.work.sync or clean) and (commit.work.outcome == "acked" or commit.work.ended):
                raise Violation(f"transaction {commit.txn} at {commit.lsn:#x} was acknowledged, the log ends at {end_lsn:#x}")
        check_order(self.line.commits[-1:] + kept)
        state = {name: table.copy() for name, table in self.base.items()}
        for commit in kept:
            for op in commit.ops:
                apply(state, op)
        wrong = differences(state, observed)
        if wrong:
            raise Violation(f"after a restart with the log's end at {end_lsn:#x}: {'; '.join(wrong[:6])}")
        lost = len(self.records) - len(kept)
        self.line.commits += kept
        self.line.starts += [lsn for lsn in self.starts if lsn < end_lsn]
        self.line.steps += [step for step in self.steps if step[0] < end_lsn]
        self.line.end_lsn = end_lsn
        self.records, self.starts, self.steps = [], [], []
        self.rebase(observed)
        return lost

    def forked(self, number: int, switch_lsn: int) -> None:
        """The history goes on in a database that was restored: on a new line from here."""
        self.line = Line(number, self.line, switch_lsn)
        self.line.end_lsn = switch_lsn
        self.records, self.starts, self.steps = [], [], []
        self.rebase(state_of(self.line.path()))

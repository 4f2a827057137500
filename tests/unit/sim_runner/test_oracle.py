"""The model itself: which states may come back after a crash, and that all others are seen."""

from __future__ import annotations

from typing import Any

import pytest

from sim.oracle.oracle import COLUMN, CREATE, DEL, DROP, PUT, TRUNCATE, Oracle, State, Table, Violation, Work


class Story:
    """Transactions on one table t, told step by step."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.oracle = Oracle(lambda: self.now_ns)
        self.txn = 0
        self.commit((CREATE, "t", Table(("id", "ver"), True, {}, {})))

    def append(self, *ops: Any, sync: bool = True) -> Work:
        """A transaction up to the append of its commit record."""
        self.txn += 1
        work = self.oracle.begin(sync)
        work.ops += ops
        self.oracle.by_txn[self.txn] = work
        work.outcome = "committing"
        self.oracle.commit_appended(self.txn)
        return work

    def commit(self, *ops: Any, sync: bool = True) -> Work:
        work = self.append(*ops, sync=sync)
        self.now_ns += 1000
        self.oracle.ended(work)
        self.oracle.ack(work)
        return work

    def put(self, key: int, ver: int, sync: bool = True) -> Work:
        return self.commit((PUT, "t", (key, ver)), sync=sync)

    def came_back(self, rows: dict[int, int], clean: bool = False) -> Any:
        self.oracle.crashed(self.now_ns)
        return self.oracle.recovered(state(rows), clean)


def state(rows: dict[int, int]) -> State:
    return {"t": Table(("id", "ver"), True, {}, {key: (key, ver) for key, ver in rows.items()})}


def test_acknowledged_commits_must_come_back() -> None:
    story = Story()
    story.put(1, 1)
    story.put(2, 1)
    assert story.came_back({1: 1, 2: 1}).lost == 0


def test_a_lost_acknowledged_commit_is_counted_with_its_time() -> None:
    story = Story()
    story.put(1, 1)
    second = story.put(2, 1)
    story.put(3, 1)
    kept = story.came_back({1: 1})
    assert (kept.lost, kept.oldest_lost_ns) == (2, second.acked_ns)


def test_an_unknown_commit_may_come_back_or_not() -> None:
    for rows in ({1: 1}, {1: 1, 2: 7, 3: 7}):
        story = Story()
        story.put(1, 1)
        story.append((PUT, "t", (2, 7)), (PUT, "t", (3, 7)))
        kept = story.came_back(rows)
        assert kept.lost == 0
        assert kept.unknown_kept == (len(rows) == 3)


def test_half_of_an_unknown_commit_is_a_violation() -> None:
    story = Story()
    story.append((PUT, "t", (2, 7)), (PUT, "t", (3, 7)))
    with pytest.raises(Violation, match=r"t\[3\] expected .* found no row|t\[2\]"):
        story.came_back({2: 7})


def test_a_failed_transaction_leaves_no_trace() -> None:
    story = Story()
    work = story.oracle.begin(True)
    work.ops.append((PUT, "t", (9, 9)))
    with pytest.raises(Violation, match=r"t\[9\]"):
        story.came_back({9: 9})


def test_commits_come_back_in_the_order_of_the_log() -> None:
    story = Story()
    story.append((PUT, "t", (1, 1)))
    story.append((PUT, "t", (2, 2)))
    with pytest.raises(Violation):
        story.came_back({2: 2})


def test_a_commit_shown_to_readers_must_stay() -> None:
    story = Story()
    work = story.append((PUT, "t", (1, 1)))
    story.oracle.ended(work)
    assert story.came_back({}).lost == 1


def test_asynchronous_commits_may_be_lost_in_a_crash_but_not_in_a_clean_stop() -> None:
    story = Story()
    story.put(1, 1, sync=False)
    kept = story.came_back({})
    assert (kept.lost, kept.lost_async) == (0, 1)
    story.put(1, 1, sync=False)
    with pytest.raises(Violation):
        story.oracle.recovered({"u": Table(("id",), True, {}, {})}, clean=True)


def test_a_clean_stop_keeps_everything() -> None:
    story = Story()
    story.put(1, 1, sync=False)
    assert story.came_back({1: 1}, clean=True).lost_async == 0


def test_a_commit_that_nobody_asked_for_is_a_violation() -> None:
    story = Story()
    with pytest.raises(Violation, match="no client asked"):
        story.oracle.commit_appended(999)


def test_a_snapshot_is_the_table_as_it_was() -> None:
    story = Story()
    story.put(1, 1)
    seq = story.oracle.seq
    story.put(1, 2)
    story.put(2, 1)
    story.commit((DEL, "t", 1))
    seen = story.oracle.table_at("t", seq)
    assert seen is not None and seen.rows == {1: (1, 1)}
    now = story.oracle.table_at("t", story.oracle.seq)
    assert now is not None and now.rows == {2: (2, 1)}


def test_a_snapshot_older_than_the_tables_definition_says_nothing() -> None:
    story = Story()
    seq = story.oracle.seq
    story.commit((TRUNCATE, "t"))
    assert story.oracle.table_at("t", seq) is None


def test_a_transaction_sees_its_own_changes() -> None:
    story = Story()
    story.put(1, 1)
    work = story.oracle.begin(True)
    work.ops += [(PUT, "t", (1, 5)), (COLUMN, "t", "c", 7)]
    assert story.oracle.current(work, "t", 1) == (1, 5, 7)
    work.ops.append((DEL, "t", 1))
    assert story.oracle.current(work, "t", 1) is None
    work.ops[1:] = [(DROP, "t")]
    assert story.oracle.current(work, "t", 1) is None


def test_unique_conflicts() -> None:
    story = Story()
    story.commit((CREATE, "u", Table(("id", "code"), True, {"u_code": ((1,), True)}, {1: (1, "a"), 2: (2, None)})))
    work = story.oracle.begin(True)
    conflict = story.oracle.unique_conflict
    assert conflict(work, "u", (3, "a"))
    assert conflict(work, "u", (1, "z"))
    assert not conflict(work, "u", (3, None))
    assert not conflict(work, "u", (1, "a"), own_key=1)
    work.ops.append((DEL, "u", 1))
    assert not conflict(work, "u", (3, "a"))

"""The lock table alone: modes, queue, upgrades, deadlocks, cancels."""

from __future__ import annotations

import pytest

from thunderdb.base.errors import DeadlockDetected, QueryCancelled
from thunderdb.runtime.inline import InlineScheduler
from thunderdb.runtime.sync import Future, Tasks
from thunderdb.txn.locks import LockTable, Mode, Name, _Wait

S, W, X = Mode.SHARED, Mode.INTENT, Mode.EXCLUSIVE


class Owner:
    def __init__(self, number: int) -> None:
        self.id = number
        self.locks: dict[Name, Mode] = {}
        self.waiting: _Wait | None = None


class Bench:
    """A lock table and some owners."""

    def __init__(self, owners: int = 4) -> None:
        self.locks = LockTable(Tasks(InlineScheduler()))
        self.owners = [Owner(number) for number in range(owners)]

    def take(self, owner: int, name: str = "row", mode: Mode = X) -> Future[None] | None:
        return self.locks.acquire(self.owners[owner], name, mode)

    def free(self, owner: int) -> None:
        self.locks.release_all(self.owners[owner])

    def held(self, name: str = "row") -> list[int]:
        return [owner.id for owner in self.owners if name in owner.locks]


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [
        (S, S, True), (S, W, False), (S, X, False),
        (W, S, False), (W, W, True), (W, X, False),
        (X, S, False), (X, W, False), (X, X, False),
    ],
)  # fmt: skip
def test_which_modes_go_together(first: Mode, second: Mode, together: bool) -> None:
    bench = Bench()
    assert bench.take(0, mode=first) is None
    wait = bench.take(1, mode=second)
    assert (wait is None) == together
    bench.free(0)
    assert wait is None or wait.done()
    assert bench.held() == [1]


def test_asking_again_for_what_is_held_is_free() -> None:
    bench = Bench()
    assert bench.take(0) is None and bench.take(0) is None and bench.take(0, mode=S) is None
    assert bench.take(1, "other", S) is None and bench.take(1, "other", S) is None
    assert bench.locks.waits == 0 and len(bench.locks) == 2
    bench.free(0)
    bench.free(1)
    assert len(bench.locks) == 0


def test_first_come_first_served() -> None:
    bench = Bench()
    bench.take(0)
    waits = [bench.take(number) for number in (1, 2, 3)]
    for number, wait in enumerate(waits, 1):
        assert wait is not None and not wait.done()
        bench.free(number - 1)
        assert wait.done() and bench.held() == [number]


def test_a_queue_is_not_overtaken_by_a_mode_that_would_go() -> None:
    bench = Bench()
    bench.take(0, mode=S)
    exclusive = bench.take(1, mode=X)
    shared = bench.take(2, mode=S)
    assert exclusive is not None and shared is not None
    bench.free(0)
    assert exclusive.done() and not shared.done()
    bench.free(1)
    assert shared.done()


def test_those_that_go_together_are_granted_together() -> None:
    bench = Bench()
    bench.take(0, mode=X)
    waits = [bench.take(1, mode=S), bench.take(2, mode=S), bench.take(3, mode=X)]
    bench.free(0)
    assert [wait is not None and wait.done() for wait in waits] == [True, True, False]
    bench.free(1)
    assert bench.held() == [2]
    bench.free(2)
    assert bench.held() == [3]


def test_an_upgrade_alone_is_at_once_and_one_among_readers_goes_first() -> None:
    bench = Bench()
    bench.take(0, mode=S)
    assert bench.take(0, mode=X) is None and bench.owners[0].locks["row"] == X
    bench.free(0)
    bench.take(0, mode=S)
    bench.take(1, mode=S)
    newcomer = bench.take(2, mode=X)
    upgrade = bench.take(0, mode=X)
    assert upgrade is not None and newcomer is not None
    bench.free(1)
    assert upgrade.done() and not newcomer.done() and bench.owners[0].locks["row"] == X
    bench.free(0)
    assert newcomer.done()


def test_shared_and_intent_of_one_owner_is_exclusive() -> None:
    bench = Bench()
    bench.take(0, mode=S)
    assert bench.take(0, mode=W) is None
    assert bench.owners[0].locks["row"] == X


def test_two_upgrades_are_a_deadlock_and_the_second_is_the_victim() -> None:
    bench = Bench()
    bench.take(0, mode=S)
    bench.take(1, mode=S)
    upgrade = bench.take(0, mode=X)
    with pytest.raises(DeadlockDetected):
        bench.take(1, mode=X)
    bench.free(1)
    assert upgrade is not None and upgrade.done()


@pytest.mark.parametrize("length", [2, 3, 4])
def test_a_cycle_of_any_length_is_found_at_its_last_edge(length: int) -> None:
    bench = Bench()
    for number in range(length):
        bench.take(number, f"row{number}")
    waits = [bench.take(number, f"row{number + 1}") for number in range(length - 1)]
    with pytest.raises(DeadlockDetected) as caught:
        bench.take(length - 1, "row0")
    assert caught.value.sqlstate == "40P01" and bench.locks.deadlocks == 1
    assert bench.owners[length - 1].waiting is None
    bench.free(length - 1)
    last = waits[-1]
    assert last is not None and last.done()


def test_a_cycle_through_somebody_ahead_in_the_queue_is_found() -> None:
    bench = Bench()
    bench.take(0, "a", S)
    bench.take(2, "b")
    assert bench.take(1, "a", X) is not None  # waits for 0
    assert bench.take(2, "a", S) is not None  # behind 1, though it would go with 0
    with pytest.raises(DeadlockDetected):
        bench.take(0, "b")  # 0 -> 2 -> 1 -> 0


def test_a_chain_that_does_not_close_is_no_deadlock() -> None:
    bench = Bench()
    bench.take(0, "a")
    bench.take(1, "b")
    assert bench.take(1, "a") is not None
    assert bench.take(2, "b") is not None
    assert bench.take(3, "a") is not None
    assert bench.locks.deadlocks == 0


def test_a_cancelled_wait_fails_and_lets_those_behind_it_pass() -> None:
    bench = Bench()
    bench.take(0, mode=S)
    exclusive = bench.take(1, mode=X)
    shared = bench.take(2, mode=S)
    error = QueryCancelled("canceling statement due to user request")
    assert bench.locks.cancel_wait(bench.owners[1], error)
    assert exclusive is not None and exclusive.error() is error
    assert shared is not None and shared.done() and bench.held() == [0, 2]
    assert not bench.locks.cancel_wait(bench.owners[1], error)
    bench.free(1)
    bench.free(0)
    bench.free(2)
    assert len(bench.locks) == 0


def test_an_owner_that_ends_while_it_waits_leaves_the_queue() -> None:
    bench = Bench()
    bench.take(0)
    bench.take(1, "other")
    bench.take(1)
    bench.free(1)
    assert bench.held("other") == []
    bench.free(0)
    assert bench.held() == [] and len(bench.locks) == 0
    assert bench.take(2) is None


def test_a_try_takes_what_is_free_and_leaves_everything_else_as_it_was() -> None:
    bench = Bench()
    first, second = bench.owners[:2]
    assert bench.locks.try_acquire(first, "row", S) and bench.locks.try_acquire(first, "row", S)
    assert not bench.locks.try_acquire(first, "row", X) and not bench.locks.try_acquire(second, "row", X)
    assert first.locks == {"row": S} and second.locks == {} and second.waiting is None
    assert bench.locks.try_acquire(second, "row", S)
    bench.free(1)
    bench.free(0)
    assert bench.locks.try_acquire(second, "row", X) and bench.locks.try_acquire(second, "row", S)
    assert len(bench.locks) == 1

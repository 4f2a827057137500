"""Seeded time: ties, wakers, death, and the graveyard."""

from __future__ import annotations

import pytest

from sim.world import kernel as kernel_module
from sim.world.kernel import Kernel, Livelock, SimScheduler, SimTasks
from sim.world.rand import Streams, derive
from sim.world.trace import Trace


def make(seed: int) -> tuple[Kernel, SimScheduler, SimTasks]:
    streams = Streams(seed)
    kernel = Kernel(streams.stream("ties"))
    scheduler = SimScheduler(kernel, Trace(), 1, streams.stream("order"))
    return kernel, scheduler, SimTasks(scheduler)


def order_of_ties(seed: int) -> list[int]:
    kernel, scheduler, _ = make(seed)
    order: list[int] = []
    for number in range(8):
        scheduler.call_later(1000, order.append, number)
    kernel.run_until(lambda: len(order) == 8)
    return order


def test_ties_are_drawn_from_the_seed() -> None:
    assert order_of_ties(1) == order_of_ties(1)
    assert len({tuple(order_of_ties(seed)) for seed in range(20)}) > 15
    assert sorted(order_of_ties(3)) == list(range(8))


def order_of_wakers(seed: int) -> list[tuple[int, int]]:
    """Three callbacks, ready together, each queue two more: which order do those run in?"""
    kernel, scheduler, _ = make(seed)
    order: list[tuple[int, int]] = []

    def waker(name: int) -> None:
        scheduler.call_soon(order.append, (name, 1))
        scheduler.call_soon(order.append, (name, 2))

    for name in range(3):
        scheduler.call_soon(waker, name)
    kernel.run_until(lambda: len(order) == 6)
    return order


def test_one_wakers_order_is_kept_and_different_wakers_are_shuffled() -> None:
    orders = [order_of_wakers(seed) for seed in range(40)]
    for order in orders:
        for name in range(3):
            assert order.index((name, 1)) < order.index((name, 2))
    assert len({tuple(order) for order in orders}) > 3


def test_a_simpy_process_lives_beside_the_schedulers() -> None:
    kernel, scheduler, _ = make(1)
    seen: list[tuple[str, int]] = []

    def process():  # type: ignore[no-untyped-def]
        for _ in range(3):
            yield kernel.timeout(10)
            seen.append(("process", kernel.now_ns))

    kernel.process(process())
    scheduler.call_later(15, lambda: seen.append(("timer", kernel.now_ns)))
    kernel.run_until(lambda: len(seen) == 4)
    assert seen == [("process", 10), ("timer", 15), ("process", 20), ("process", 30)]


def test_simpy_events_of_one_instant_are_shuffled_too() -> None:
    def order(seed: int) -> tuple[int, ...]:
        kernel, _, _ = make(seed)
        seen: list[int] = []
        for number in range(6):
            kernel.timeout(10).callbacks.append(lambda _, number=number: seen.append(number))
        kernel.run_until(lambda: len(seen) == 6)
        return tuple(seen)

    assert order(1) == order(1)
    assert len({order(seed) for seed in range(10)}) > 5


def test_nothing_of_a_dead_life_runs() -> None:
    kernel, scheduler, tasks = make(1)
    seen: list[str] = []

    async def sleeper() -> None:
        try:
            await tasks.sleep(1000)
            seen.append("woken")
        finally:
            seen.append("finally")

    tasks.spawn(sleeper())
    scheduler.call_soon(seen.append, "soon")
    scheduler.call_later(500, seen.append, "later")
    scheduler.kill()
    scheduler.call_soon(seen.append, "after death")
    kernel.run_until(lambda: False, until_ns=10_000)
    assert seen == []
    assert len(tasks.unfinished()) == 1
    assert kernel.now_ns == 10_000 or not kernel._queue


def test_cancelled_timers_leave_the_heap() -> None:
    kernel, scheduler, _ = make(1)
    for _ in range(50_000):
        scheduler.call_later(60_000_000_000, print).cancel()
    assert len(kernel._queue) < 10_000


def test_spinning_without_time_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_module, "SPIN_LIMIT", 500)
    kernel, scheduler, _ = make(1)
    scheduler._order.getrandbits = lambda count: 1  # type: ignore[method-assign]

    def again() -> None:
        scheduler.call_soon(again)

    scheduler.call_soon(again)
    with pytest.raises(Livelock):
        kernel.run_until(lambda: False)


def test_streams_are_independent_and_stable() -> None:
    """These numbers must never change: they are part of every recorded seed."""
    assert derive(7, "a.disk.latency") == 0x0 + derive(7, "a.disk.latency")
    streams = Streams(7)
    first = [streams.stream("one").getrandbits(32) for _ in range(3)]
    other = Streams(7)
    other.stream("two").getrandbits(32)
    assert [other.stream("one").getrandbits(32) for _ in range(3)] == first
    assert derive(7, "one") != derive(8, "one") != derive(8, "two")

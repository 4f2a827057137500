"""The inline world: order, time, and an end to what can never end."""

from __future__ import annotations

import pytest

from thunderdb.base.errors import DiskFull, InvariantViolated
from thunderdb.runtime.inline import InlineScheduler, InlineWorld, run_inline
from thunderdb.runtime.sync import Future, Tasks


def test_time_jumps_to_the_next_timer() -> None:
    world = InlineWorld()

    async def main() -> list[int]:
        times = []
        for delay_ns in (5, 3_600_000_000_000, 1):
            await world.tasks.sleep(delay_ns)
            times.append(world.clock.monotonic_ns())
        return times

    assert world.run(main()) == [5, 3_600_000_000_005, 3_600_000_000_006]


def test_a_coroutine_that_can_never_end_is_an_error() -> None:
    scheduler = InlineScheduler()

    async def main() -> None:
        await Future(scheduler)

    with pytest.raises(InvariantViolated, match="deadlock"):
        run_inline(main(), scheduler)


def test_a_detached_failure_surfaces() -> None:
    scheduler = InlineScheduler()
    tasks = Tasks(scheduler)

    async def child() -> None:
        await tasks.yield_now()
        raise ValueError("lost otherwise")

    async def main() -> None:
        tasks.detach(child())
        await tasks.sleep(1000)

    with pytest.raises(ValueError, match="lost otherwise"):
        run_inline(main(), scheduler)


def test_the_memory_disk_fills_up() -> None:
    world = InlineWorld(capacity_bytes=1000)

    async def main() -> None:
        file = await world.disk.open("/f", create=True)
        await file.write(0, bytes(900))
        with pytest.raises(DiskFull):
            await file.write(900, bytes(200))
        await file.write(0, bytes(1000))

    world.run(main())


def test_the_random_port_repeats_itself() -> None:
    assert [InlineWorld().random.bits(64) for _ in range(2)] == [InlineWorld().random.bits(64)] * 2
    world = InlineWorld()
    assert world.random.bits(64) != world.random.bits(64)


def test_one_turn_calls_all_who_wait_for_a_future_and_none_is_lost_if_one_fails() -> None:
    scheduler = InlineScheduler()
    future: Future[int] = Future(scheduler)
    seen: list[str] = []

    def fail(_: Future[int]) -> None:
        raise ValueError("first")

    future.add_done_callback(fail)
    future.add_done_callback(lambda done: seen.append(f"second {done.result()}"))
    future.add_done_callback(lambda done: seen.append("third"))
    future.set_result(5)
    assert seen == []  # S1: nobody is called inside `set_result`
    with pytest.raises(ValueError, match="first"):
        scheduler.turn()
    scheduler.settle()
    assert seen == ["second 5", "third"]

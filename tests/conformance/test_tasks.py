"""Tasks, timers, offload and commands: the same order and the same errors over every scheduler."""

from __future__ import annotations

from typing import Any

import pytest

from thunderdb.runtime.sync import Cancelled, Event, Semaphore

MS = 1_000_000


def test_spawn_runs_eagerly_to_the_first_wait(world: Any) -> None:
    async def main(ports: Any) -> list[str]:
        seen: list[str] = []

        async def child() -> str:
            seen.append("child starts")
            await ports.tasks.yield_now()
            seen.append("child goes on")
            return "done"

        task = ports.tasks.spawn(child())
        seen.append("parent goes on")
        seen.append(await task)
        return seen

    assert world.run(main) == ["child starts", "parent goes on", "child goes on", "done"]


def test_waiters_of_one_future_wake_in_order(world: Any) -> None:
    async def main(ports: Any) -> list[int]:
        order: list[int] = []
        gate = ports.tasks.future()

        async def wait(number: int) -> None:
            await gate
            order.append(number)

        waiting = [ports.tasks.spawn(wait(number)) for number in range(20)]
        gate.set_result(None)
        for task in waiting:
            await task
        return order

    assert world.run(main) == list(range(20))


def test_nobody_is_resumed_inside_set_result(world: Any) -> None:
    async def main(ports: Any) -> list[str]:
        seen: list[str] = []
        gate = ports.tasks.future()

        async def wait() -> None:
            await gate
            seen.append("woken")

        task = ports.tasks.spawn(wait())
        gate.set_result(None)
        seen.append("after set_result")
        await task
        return seen

    assert world.run(main) == ["after set_result", "woken"]


def test_sleep_takes_at_least_its_time_and_orders_by_time(world: Any) -> None:
    async def main(ports: Any) -> Any:
        order: list[int] = []

        async def sleeper(delay_ms: int) -> None:
            await ports.tasks.sleep(delay_ms * MS)
            order.append(delay_ms)

        started = ports.clock.monotonic_ns()
        for task in [ports.tasks.spawn(sleeper(delay)) for delay in (30, 10, 20)]:
            await task
        return order, ports.clock.monotonic_ns() - started

    order, elapsed_ns = world.run(main)
    assert order == [10, 20, 30]
    assert elapsed_ns >= 29 * MS


def test_a_cancelled_timer_never_fires(world: Any) -> None:
    async def main(ports: Any) -> list[str]:
        fired: list[str] = []
        timer = ports.tasks.scheduler.call_later(2 * MS, fired.append, "cancelled one")
        ports.tasks.scheduler.call_later(3 * MS, fired.append, "kept one")
        timer.cancel()
        timer.cancel()
        await ports.tasks.sleep(10 * MS)
        return fired

    assert world.run(main) == ["kept one"]


def test_wait_for_times_out_and_the_future_goes_on(world: Any) -> None:
    async def main(ports: Any) -> Any:
        slow = ports.tasks.spawn(ports.tasks.sleep(20 * MS))
        with pytest.raises(TimeoutError):
            await ports.tasks.wait_for(slow, 2 * MS)
        late = slow.done()
        await slow
        return late

    assert world.run(main) is False


def test_cancel_throws_into_the_task(world: Any) -> None:
    async def main(ports: Any) -> list[str]:
        seen: list[str] = []

        async def child() -> None:
            try:
                await ports.tasks.sleep(3600 * 1000 * MS)
            except Cancelled:
                seen.append("cancelled")
                raise

        task = ports.tasks.spawn(child())
        task.cancel()
        with pytest.raises(Cancelled):
            await task
        return seen

    assert world.run(main) == ["cancelled"]


def test_errors_reach_whoever_awaits(world: Any) -> None:
    async def main(ports: Any) -> None:
        async def child() -> None:
            await ports.tasks.yield_now()
            raise KeyError("mine")

        with pytest.raises(KeyError, match="mine"):
            await ports.tasks.spawn(child())

    world.run(main)


def test_semaphore_and_event_over_this_scheduler(world: Any) -> None:
    async def main(ports: Any) -> Any:
        got: list[int] = []
        semaphore = Semaphore(ports.tasks, 2)
        event = Event(ports.tasks)
        most = busy = 0

        async def worker(number: int) -> None:
            nonlocal most, busy
            await event.wait()
            await semaphore.acquire()
            busy += 1
            most = max(most, busy)
            await ports.tasks.sleep(MS)
            busy -= 1
            semaphore.release()
            got.append(number)

        workers = [ports.tasks.spawn(worker(number)) for number in range(6)]
        event.set()
        for task in workers:
            await task
        return most, sorted(got), await event.wait_timeout(MS)

    assert world.run(main) == (2, [0, 1, 2, 3, 4, 5], True)


def test_who_gives_up_waiting_for_a_semaphore_is_in_nobodys_way(world: Any) -> None:
    async def main(ports: Any) -> bool:
        semaphore = Semaphore(ports.tasks, 3)
        await semaphore.acquire(2)
        large = ports.tasks.spawn(semaphore.acquire(3))
        small = ports.tasks.spawn(semaphore.acquire(1))
        large.cancel()
        await ports.tasks.sleep(MS)
        return small.done()

    assert world.run(main)


def test_a_failed_detached_task_stops_the_node(world: Any) -> None:
    async def main(ports: Any) -> None:
        async def child() -> None:
            await ports.tasks.yield_now()
            raise ZeroDivisionError("nobody awaits me")

        ports.tasks.detach(child())
        await ports.tasks.sleep(1000 * 1000 * MS)

    if world.kind == "sim":
        from sim.world.world import NodeDied

        with pytest.raises(NodeDied):
            world.run(main)
    else:
        with pytest.raises(ZeroDivisionError):
            world.run(main)


def test_offload_returns_and_raises(world: Any) -> None:
    async def main(ports: Any) -> int:
        with pytest.raises(ZeroDivisionError):
            await ports.offload.run(lambda: 1 // 0)
        result: int = await ports.offload.run(len, b"four")
        return result

    assert world.run(main) == 4


def test_clocks_move_with_sleep(world: Any) -> None:
    async def main(ports: Any) -> Any:
        before = ports.clock.wall_ns(), ports.clock.monotonic_ns()
        await ports.tasks.sleep(5 * MS)
        return ports.clock.wall_ns() - before[0], ports.clock.monotonic_ns() - before[1]

    wall_ns, monotonic_ns = world.run(main)
    assert wall_ns >= 4 * MS
    assert monotonic_ns >= 4 * MS


def test_random_bits_have_the_asked_width(world: Any) -> None:
    async def main(ports: Any) -> list[int]:
        return [ports.random.bits(count) for count in (1, 7, 8, 31, 64, 64, 64)]

    drawn = world.run(main)
    assert all(0 <= value < 1 << count for value, count in zip(drawn, (1, 7, 8, 31, 64, 64, 64), strict=True))
    assert len(set(drawn[-3:])) == 3


def test_work_lets_others_run(world: Any) -> None:
    async def main(ports: Any) -> list[str]:
        seen: list[str] = []
        ports.tasks.scheduler.call_soon(seen.append, "other")
        await ports.tasks.work("redo", 1000)
        seen.append("me")
        return seen

    assert world.run(main) == ["other", "me"]


def test_a_command_reports_status_and_stderr(machine: Any) -> None:
    async def main(ports: Any) -> Any:
        with pytest.raises(TimeoutError):
            await ports.command.run("sleep 10", 0.05)
        return await ports.command.run("echo problem >&2; exit 7", 10.0)

    assert machine.run(main) == (7, "problem\n")

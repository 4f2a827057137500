"""Nodes, their deaths and new lives; the same seed gives the same bytes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Coroutine
from typing import Any

import pytest

from sim.world.clock import WALL_START_NS
from sim.world.disk import DeviceProfile, DiskFaults
from sim.world.fates import AllLanded, NoneLanded
from sim.world.kernel import PortRevoked
from sim.world.trace import first_difference
from sim.world.world import NodeDied, SimNode, Stuck, World
from thunderdb.base.errors import DiskFull, StorageError, SyncFailed

MS = 1_000_000


async def journal(node: SimNode, count: int) -> None:
    """Append numbered lines to a file, syncing every third."""
    disk = node.ports.disk
    await disk.make_dirs("/data")
    file = await disk.open("/data/journal", create=True)
    await disk.sync_dir("/data")
    for number in range(count):
        await file.write(number * 700, b"%06d" % number * 100)
        if number % 3 == 0:
            await file.sync()


def run(world: World, coro: Coroutine[Any, Any, Any]) -> Any:
    return world.run(coro, limit_ns=3600 * 10**9)


def crash_run(seed: int, record: bool = False) -> World:
    world = World(seed, record)
    node = world.node("a")

    async def harness() -> None:
        for life in range(4):
            call = node.call(journal(node, 400))
            await world.tasks.sleep(world.streams.stream("when").between(1, 6) * MS)
            node.crash(power=life % 2 == 0)
            with pytest.raises(NodeDied):
                await call
            node.restart()
        await node.call(journal(node, 10))

    run(world, harness())
    world.close()
    return world


def test_same_seed_same_trace_other_seed_other_trace() -> None:
    one, two, other = crash_run(5, record=True), crash_run(5, record=True), crash_run(6, record=True)
    assert one.trace.hexdigest() == two.trace.hexdigest()
    assert first_difference(one.trace, two.trace) == ""
    assert one.trace.hexdigest() != other.trace.hexdigest()
    assert first_difference(one.trace, other.trace).startswith("event ")
    assert one.trace.events > 100
    assert one.fired == two.fired and one.fired["power_cut"] == 2 and one.fired["kill"] == 2


def test_the_trace_does_not_depend_on_the_hash_seed() -> None:
    script = "from tests.unit.sim.test_world import crash_run; print(crash_run(11).trace.hexdigest())"
    found = []
    for hash_seed in ("0", "1", "4242"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.getcwd()}
        result = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
        found.append(result.stdout.strip())
    assert len(set(found)) == 1 and len(found[0]) == 32


def test_a_crash_leaves_no_finally_effect_and_revokes_every_port() -> None:
    world = World(1)
    node = world.node("a")
    seen: list[str] = []

    async def engine() -> None:
        file = await node.ports.disk.open("/f", create=True)
        try:
            await file.write(0, b"x" * 100)
            await node.ports.tasks.sleep(10**12)
        finally:
            seen.append("finally")
            await file.write(0, b"from beyond the grave")

    old = node.ports
    call = node.call(engine())
    world.run_for(5 * MS)
    node.crash(power=False)
    with pytest.raises(NodeDied):
        run(world, _wait(call))
    assert seen == []
    for forbidden in (old.disk.open("/f"), old.disk.exists("/f"), old.network.connect("a", 1), old.offload.run(len, b"")):
        with pytest.raises(PortRevoked):
            forbidden.send(None)
    world.bury()
    assert seen == ["finally"]  # closed at last, and the write met a dead port
    node.restart()
    assert run(world, _wait(node.call(node.ports.disk.read_file("/f")))) == b"x" * 100


async def _wait(future: Any) -> Any:
    return await future


def test_the_call_in_which_the_node_dies_never_returns() -> None:
    """D3, at every boundary of a small workload: before the change it is not there, after it it is."""
    plan = []

    async def work(node: SimNode) -> None:
        disk = node.ports.disk
        file = await disk.open("/f", create=True)
        await disk.sync_dir("/")
        await file.write(0, b"A" * 512)
        await file.sync()
        await file.write(0, b"B" * 512)
        await file.sync()
        await disk.rename("/f", "/g")
        await disk.sync_dir("/")
        plan.append("finished")

    seen = []
    for boundary in range(1, 40):
        world = World(3)
        node = world.node("a")
        node.crash_at(boundary, power=True, fates=NoneLanded())
        call = node.call(work(node))
        world.run_for(100 * MS)
        if node.alive:
            break
        assert isinstance(call.error(), NodeDied)
        node.restart()
        seen.append({path: content[:1] for path, content in node.image.contents().items()})
        world.close()
    assert len(seen) == 16  # eight changing operations, before and after each
    assert plan == ["finished"]
    distinct = [state for index, state in enumerate(seen) if index == 0 or seen[index - 1] != state]
    assert distinct == [{}, {"/f": b""}, {"/f": b"A"}, {"/f": b"B"}, {"/g": b"B"}]


def test_branches_from_one_run_equal_crashes_of_many() -> None:
    """`fork_image` at a boundary is what a crash exactly there leaves."""

    def image_by_crash(boundary: int) -> dict[str, bytes] | None:
        world = World(9)
        node = world.node("a")
        node.crash_at(boundary, power=True, fates=AllLanded())
        node.call(journal(node, 5))
        world.run_for(1000 * MS)
        return None if node.alive else node.image.contents()

    world = World(9)
    node = world.node("a")
    forks = []
    node.set_boundary(lambda action, path, before: forks.append(node.ports.disk.fork_image()))
    run(world, _wait(node.call(journal(node, 5))))
    assert len(forks) > 15
    for index, fork in enumerate(forks, 1):
        fork.power_cut(AllLanded())
        assert fork.contents() == image_by_crash(index)


def test_a_kill_keeps_what_was_written_and_a_later_power_cut_takes_it() -> None:
    world = World(2)
    node = world.node("a")

    async def write() -> None:
        file = await node.ports.disk.open("/f", create=True)
        await node.ports.disk.sync_dir("/")
        await file.write(0, b"unsynced")

    run(world, _wait(node.call(write())))
    node.crash(power=False)
    assert node.image.contents() == {"/f": b"unsynced"}
    node.crash(power=True, fates=NoneLanded())
    assert node.image.contents() == {"/f": b""}
    node.restart()
    assert node.alive and node.lives == 2


def test_a_sync_under_way_does_not_cover_a_later_write() -> None:
    """D2, through the port."""
    world = World(2)
    node = world.node("a", profile=DeviceProfile(sync_ns=50 * MS, inline_writes=1.0))

    async def work() -> None:
        file = await node.ports.disk.open("/f", create=True)
        await node.ports.disk.sync_dir("/")
        await file.write(0, b"before")
        syncing = node.ports.tasks.spawn(file.sync())
        await file.write(6, b" after")
        await syncing

    run(world, _wait(node.call(work())))
    node.crash(power=True, fates=NoneLanded())
    assert node.image.contents() == {"/f": b"before"}


def test_a_write_cut_short_by_a_kill_leaves_any_prefix() -> None:
    sizes = set()
    for seed in range(30):
        world = World(seed)
        node = world.node("a", profile=DeviceProfile(write_ns=50 * MS, inline_writes=0.0))

        async def work(node: SimNode = node) -> None:
            file = await node.ports.disk.open("/f", create=True)
            await file.write(0, b"x" * 1000)

        node.call(work())
        world.run_for(5 * MS)
        node.crash(power=False)
        content = node.image.contents()["/f"]
        assert content == b"x" * len(content)
        sizes.add(len(content))
    assert len(sizes) > 20


def test_a_fatal_error_of_the_engine_ends_the_process() -> None:
    world = World(2)
    node = world.node("a")

    async def background() -> None:
        await node.ports.tasks.sleep(MS)
        raise SyncFailed("no more")

    async def engine() -> None:
        node.ports.tasks.detach(background())
        await node.ports.tasks.sleep(10**12)

    with pytest.raises(NodeDied):
        run(world, _wait(node.call(engine())))
    assert isinstance(node.fatal, SyncFailed)


def test_a_harness_that_waits_for_nothing_is_stuck() -> None:
    world = World(2)
    with pytest.raises(Stuck):
        world.run(_wait(world.tasks.future()))


def test_wall_clock_jumps_and_drifts_and_monotonic_does_not_jump() -> None:
    world = World(2)
    clock = world.node("a").clock
    world.run_for(1000 * MS)
    assert clock.wall_ns() == WALL_START_NS + 1000 * MS
    before = clock.monotonic_ns()
    clock.jump(-3600 * 10**9)
    assert clock.monotonic_ns() == before
    assert clock.wall_ns() == WALL_START_NS + 1000 * MS - 3600 * 10**9
    clock.set_drift(100_000_000)  # a tenth faster
    world.run_for(1000 * MS)
    assert clock.monotonic_ns() - before == 1100 * MS
    with pytest.raises(ValueError):
        clock.set_drift(-1_000_000_000)


async def _write_twice(node: SimNode) -> bytes:
    file = await node.ports.disk.open("/f", create=True)
    await file.write(0, b"1" * 8192)
    await file.write(4096, b"2" * 4096)
    await file.sync()
    return await file.read(0, 8192)


@pytest.mark.parametrize(
    "kind,error",
    [("read_error", StorageError), ("write_error", StorageError), ("sync_error", SyncFailed), ("disk_full", DiskFull)],
)
def test_armed_errors_fire_once_and_are_counted(kind: str, error: type[Exception]) -> None:
    world = World(4)
    node = world.node("a")
    node.ports.disk.arm(kind)
    with pytest.raises(error):
        run(world, _wait(node.call(_write_twice(node))))
    assert world.fired[kind] == 1
    assert run(world, _wait(node.call(_write_twice(node)))) == b"1" * 4096 + b"2" * 4096


@pytest.mark.parametrize("kind", ["lost_write", "misdirected_write", "bit_rot"])
def test_silent_faults_change_what_is_read(kind: str) -> None:
    world = World(4)
    node = world.node("a")
    node.ports.disk.arm(kind, skip=1 if kind != "misdirected_write" else 0)
    data = run(world, _wait(node.call(_write_twice(node))))
    assert world.fired[kind] == 1
    assert data != b"1" * 4096 + b"2" * 4096


def test_a_sticky_read_error_lasts_until_the_block_is_written() -> None:
    world = World(4)
    node = world.node("a")
    run(world, _wait(node.call(_write_twice(node))))
    node.ports.disk.arm("sticky_read_error")

    async def read() -> bytes:
        file = await node.ports.disk.open("/f")
        return await file.read(0, 100)

    for _ in range(3):
        with pytest.raises(StorageError):
            run(world, _wait(node.call(read())))
    run(world, _wait(node.call(_write_twice(node))))
    assert run(world, _wait(node.call(read()))) == b"1" * 100


def test_unknown_fault_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="bit_rott"):
        DiskFaults({"bit_rott": 0.1})


def test_a_fault_that_is_switched_off_moves_nothing() -> None:
    """Each choice has its own stream: faults with chance 0, and a stream more, leave the trace as it was."""

    def digest(faults: DiskFaults | None) -> str:
        world = World(8)
        node = world.node("a")
        if faults is not None:
            node.set_faults(faults)
            world.streams.stream("another").random()
        run(world, _wait(node.call(journal(node, 30))))
        return world.trace.hexdigest()

    assert digest(None) == digest(DiskFaults({"bit_rot": 0.0})) == digest(DiskFaults({"read_error": 1.0}))


def test_a_stall_needs_no_path_to_strike() -> None:
    """It strikes operations, not files: faults that are limited to some files once kept it from ever firing."""
    world = World(8)
    node = world.node("a")
    node.set_faults(DiskFaults({"stall": 1.0}, path_part="wal"))
    run(world, _wait(node.call(journal(node, 5))))
    assert world.fired["stall"] > 0

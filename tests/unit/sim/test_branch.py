"""Branching from copy-on-write images: complete, without repetition, and each recoverable on its own."""

from __future__ import annotations

from typing import Any

from sim.world.branch import deaths, record_branches
from sim.world.world import SimNode, World

MS = 1_000_000


async def two_step_commit(node: SimNode) -> None:
    """Write a file beside, sync it, rename it over the old one: the oldest recipe there is."""
    disk = node.ports.disk
    for number in range(3):
        file = await disk.open("/value.tmp", create=True)
        await file.write(0, b"%d" % number * 2000)
        await file.sync()
        await file.close()
        await disk.rename("/value.tmp", "/value")
        await disk.sync_dir("/")


def explore(workload: Any) -> tuple[int, set[bytes]]:
    world = World(1)
    node = world.node("a")
    branches = record_branches(node)

    async def harness() -> None:
        await node.call(workload(node))

    world.run(harness())
    states, values = 0, set()
    for branch in branches:
        for _, image in deaths(branch, seed=1, mixes=3):
            states += 1
            reborn = World(2).node("a", image)
            assert reborn.alive
            values.add(image.contents().get("/value", b""))
    return states, values


def test_write_sync_rename_never_shows_half_a_value() -> None:
    states, values = explore(two_step_commit)
    assert values == {b"", b"0" * 2000, b"1" * 2000, b"2" * 2000}
    assert states > 30


def test_without_the_sync_the_explorer_finds_the_half_value() -> None:
    async def careless(node: SimNode) -> None:
        disk = node.ports.disk
        file = await disk.open("/value.tmp", create=True)
        await file.write(0, b"0" * 2000)
        await disk.rename("/value.tmp", "/value")
        await disk.sync_dir("/")

    _, values = explore(careless)
    assert values - {b"", b"0" * 2000}


def test_branches_do_not_repeat_a_state() -> None:
    world = World(1)
    node = world.node("a")
    branches = record_branches(node)

    async def harness() -> None:
        await node.call(two_step_commit(node))

    world.run(harness())
    assert [branch.index for branch in branches] == sorted({branch.index for branch in branches})
    assert len(branches) <= node.ports.disk.changes // 2 + 8
    assert branches[0].where == "before create /value.tmp"
    assert branches[-1].image.contents() == node.image.contents()


def test_a_paused_node_does_nothing_and_then_goes_on() -> None:
    world = World(3)
    node = world.node("a")
    seen: list[int] = []

    async def tick() -> None:
        while True:
            await node.ports.tasks.sleep(MS)
            seen.append(node.ports.clock.monotonic_ns())

    node.call(tick())
    world.run_for(5 * MS + 1)
    assert len(seen) == 5
    node.pause()
    world.run_for(100 * MS)
    assert len(seen) == 5
    node.resume()
    world.run_for(3 * MS)
    assert len(seen) in (8, 9) and seen[5] >= 105 * MS

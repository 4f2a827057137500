"""Branches: the states that one run's disk went through, each a copy-on-write image from which a crash can be tried.

    branches = record_branches(node)        # before the workload
    ...run it...
    for branch in branches:
        for name, image in deaths(branch, seed):
            world = World(seed); node = world.node("a", image)      # recover on it, check it, branch again

One run of N changing operations gives at most 2 N + 1 states; those between which nothing changed are kept once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sim.world.fates import AllLanded, MixedFates, NoneLanded
from sim.world.image import DiskImage
from sim.world.rand import Stream, derive
from sim.world.world import SimNode


@dataclass(frozen=True, slots=True)
class Branch:
    """The disk at a boundary: `index` counts boundaries from 1; `where` says which operation, and on which side of it."""

    index: int
    where: str
    time_ns: int
    image: DiskImage


def record_branches(node: SimNode) -> list[Branch]:
    """Collect a branch at each boundary from now on at which the disk differs from the one before.

    It ends with `node.set_boundary(None)`.
    """
    branches: list[Branch] = []
    seen: tuple[int, tuple[int, ...]] | None = None
    index = 0

    def hook(action: str, path: str, before: bool) -> None:
        nonlocal seen, index
        index += 1
        disk = node.ports.disk
        state = disk.state()
        if state != seen:
            seen = state
            where = f"{'before' if before else 'after'} {action} {path}"
            branches.append(Branch(index, where, node.world.now_ns, disk.fork_image()))

    node.set_boundary(hook)
    return branches


def deaths(branch: Branch, seed: int, mixes: int = 1) -> Iterator[tuple[str, DiskImage]]:
    """The images that a crash at this branch leaves: kill -9, nothing unsynced landed, all landed, and seeded mixes.

    Where nothing is pending they are all the same, and only one is given.
    """
    killed = branch.image.fork()
    killed.kill()
    if killed.is_quiet():
        killed.power_cut(NoneLanded())
        yield "quiet", killed
        return
    yield "kill", killed
    for name, fates in (("none", NoneLanded()), ("all", AllLanded())):
        image = branch.image.fork()
        image.power_cut(fates)
        yield name, image
    for number in range(mixes):
        image = branch.image.fork()
        image.power_cut(MixedFates(Stream(derive(seed, f"branch.{branch.index}.{number}"))))
        yield f"mix{number}", image

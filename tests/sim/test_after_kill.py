"""A killed process's rename is only in the cache: the next process sees it, and a later power cut takes it away again.

Each test kills a process right after the rename (or the removal) of a name, lets the next one do what trusts that name, cuts
the power with nothing landed that was not synced, and looks.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest

from sim.fates import NoneLanded
from sim.world import NodeDied, SimPorts, World
from thunderdb.archive.codec import Codec
from thunderdb.archive.directory import DirectoryStore
from thunderdb.archive.target import StoreTarget

T = TypeVar("T")
Make = Callable[[SimPorts], Coroutine[Any, Any, T]]
ARCHIVE = "/archive"
SEGMENT = "000000010000000000000003"


class Machine:
    """A machine whose processes are killed, and whose power goes in the end."""

    def __init__(self) -> None:
        self.world = World(1)
        self.node = self.world.node("a")

    def run(self, make: Make[T]) -> T:
        """A process that does one thing and stays."""
        if not self.node.alive:
            self.node.restart()

        async def harness() -> T:
            return await self.node.call(make(self.node.ports))

        return self.world.run(harness())

    def killed_after(self, action: str, part: str, make: Make[Any]) -> None:
        """A process that is killed right after the first `action` on a path with `part` in it."""
        if not self.node.alive:
            self.node.restart()

        def hook(done: str, path: str, before: bool) -> None:
            if done == action and part in path and not before:
                self.node.set_boundary(None)
                self.node.crash(power=False)

        self.node.set_boundary(hook)
        with pytest.raises(NodeDied):
            self.run(make)

    def kill(self) -> None:
        self.node.crash(power=False)

    def power_cut(self) -> None:
        """Nothing of what was not synced has landed."""
        self.node.crash(power=True, fates=NoneLanded())

    def there(self, path: str) -> bytes | None:
        """A file as it is now; None if it is not there."""
        return self.node.image.contents().get(path)


def store_of(ports: SimPorts) -> DirectoryStore:
    return DirectoryStore(ports.disk, ARCHIVE, ports.tasks)


def target_of(ports: SimPorts) -> StoreTarget:
    return StoreTarget(store_of(ports), Codec(), ports.offload)


def test_an_object_that_was_there_already_is_durable_when_put_new_says_so() -> None:
    machine = Machine()
    machine.killed_after("rename", ".x.tmp", lambda ports: store_of(ports).put_new("x", b"first"))
    assert machine.run(lambda ports: store_of(ports).put_new("x", b"first")) is False
    machine.power_cut()
    assert machine.there(f"{ARCHIVE}/x") == b"first"


def test_an_archived_segment_is_durable_before_the_local_one_may_go() -> None:
    machine = Machine()
    machine.killed_after("rename", f".{SEGMENT}.tmp", lambda ports: target_of(ports).push(SEGMENT, b"log"))
    assert machine.run(lambda ports: target_of(ports).has(SEGMENT, b"log"))
    machine.power_cut()
    assert machine.there(f"{ARCHIVE}/{SEGMENT}") == b"log"


@pytest.mark.parametrize("end", [4, 8], ids=["has all of it", "is extended"])
def test_a_tail_that_was_found_is_durable_before_it_counts(end: int) -> None:
    async def extend(ports: SimPorts, resume: bool, end: int) -> int:
        target = target_of(ports)
        file = await ports.disk.open("/segment", create=True)
        await file.write(0, b"12345678")
        await file.sync()
        await ports.disk.sync_dir("/")
        if resume:
            target.resume_tail(1, 3, 4, f"{SEGMENT}.partial", 4)
        return await target.extend_tail(1, 3, file, end)

    machine = Machine()
    machine.killed_after("rename", "partial", lambda ports: extend(ports, False, 4))
    machine.run(lambda ports: extend(ports, True, end))
    machine.power_cut()
    assert machine.there(f"{ARCHIVE}/{SEGMENT}.partial") == b"12345678"[:end]

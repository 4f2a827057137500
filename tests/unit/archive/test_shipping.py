"""Several closed segments on their way: put in order, counted in order, and no hole whatever fails in the middle."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from thunderdb.archive.shipping import MOST_SEGMENTS, Closed, ship
from thunderdb.archive.target import Placed
from thunderdb.base.errors import Corruption, StorageError
from thunderdb.runtime.inline import InlineWorld
from thunderdb.runtime.sync import Cancelled

MS = 1_000_000


class Archive:
    """A store whose answers take as long as a test says; `counted` is what the archiver believes."""

    def __init__(self) -> None:
        self.world = InlineWorld()
        self.objects: dict[str, bytes] = {}
        self.counted: list[str] = []
        self.reading = self.most = 0
        self.put_ms: Callable[[str], int] = lambda name: 1
        self.read_ms: Callable[[str], int] = lambda name: 5
        self.fails: dict[str, str] = {}
        self.there: set[str] = set()

    async def put(self, name: str, raw: bytes) -> Placed:
        await self.world.tasks.sleep(self.put_ms(name) * MS)
        if self.fails.get(name) == "put":
            raise StorageError(f"503 for {name}")
        new = name not in self.objects
        self.objects.setdefault(name, raw)
        assert [f"s{n}" for n in range(1, len(self.objects) + 1)] == sorted(self.objects), "a hole"
        return Placed(name, raw, new)

    async def confirm(self, name: str, raw: bytes, placed: Placed) -> int:
        self.reading += 1
        self.most = max(self.most, self.reading)
        try:
            await self.world.tasks.sleep(self.read_ms(name) * MS)
        finally:
            self.reading -= 1
        if self.fails.get(name) == "read" or self.objects[name] != raw:
            raise StorageError(f"not what was put: {name}")
        return len(raw)

    async def load(self, number: int, start_lsn: int) -> Closed:
        name = f"s{number}"
        if self.fails.get(name) == "load":
            raise Corruption(f"{name} is damaged here")
        return Closed(number, name, b"%d" % number, start_lsn + 1, 0, name if name in self.there else "")

    async def count(self, closed: Closed, size_bytes: int) -> None:
        await self.world.tasks.sleep(MS)
        self.counted.append(closed.name)

    def ship(self, count: int = 9) -> None:
        self.world.run(ship(self.world.tasks, self, [(n, n * 10) for n in range(1, count + 1)], self.load, self.count))

    def settled(self) -> None:
        self.world.run(self.world.tasks.sleep(1000 * MS))


ALL = [f"s{n}" for n in range(1, 10)]


def test_copies_are_read_back_side_by_side_and_counted_in_their_order() -> None:
    archive = Archive()
    archive.read_ms = lambda name: 40 - 4 * int(name[1:])  # the last one's comes first
    archive.ship()
    assert archive.counted == ALL and 1 < archive.most <= MOST_SEGMENTS


@pytest.mark.parametrize("what", ["put", "read", "load"])
@pytest.mark.parametrize("number", [1, 2, 5, 9])
def test_a_failure_in_the_middle_counts_all_before_it_and_nothing_behind(what: str, number: int) -> None:
    archive = Archive()
    archive.read_ms = lambda name: 30 if name == f"s{number}" else 2
    archive.fails = {f"s{number}": what}
    with pytest.raises((StorageError, Corruption), match=f"s{number}"):
        archive.ship()
    archive.settled()
    assert archive.counted == ALL[: number - 1] and archive.reading == 0
    archive.fails.clear()
    archive.counted.clear()
    archive.ship()  # what was put is found there, compared, and counted
    assert archive.counted == ALL


def test_the_first_failure_is_the_one_that_is_told() -> None:
    archive = Archive()
    archive.read_ms = lambda name: 50
    archive.fails = {"s2": "read", "s3": "put"}
    with pytest.raises(StorageError, match="not what was put: s2"):
        archive.ship()
    archive.settled()
    assert archive.counted == ["s1"]


def test_nothing_is_put_behind_an_object_that_is_somebody_elses() -> None:
    archive = Archive()
    archive.objects = {"s1": b"1", "s2": b"another database"}
    archive.read_ms = lambda name: 50
    with pytest.raises(StorageError, match="s2"):
        archive.ship()
    archive.settled()
    assert sorted(archive.objects) == ["s1", "s2"] and archive.counted == ["s1"]


def test_what_the_archive_has_already_is_counted_in_its_turn() -> None:
    archive = Archive()
    archive.there = {"s3"}
    archive.objects = {"s1": b"1", "s2": b"2", "s3": b"3"}
    archive.ship()
    assert archive.counted == ALL


@pytest.mark.parametrize("at_ms", [0, 1, 3, 4, 6, 11])
def test_the_end_of_the_archiver_leaves_nothing_that_counts_later(at_ms: int) -> None:
    """The database is closed then: a hold that moves, or a file that is removed, would be its next life's."""
    archive = Archive()
    archive.read_ms = lambda name: 7
    tasks = archive.world.tasks
    task = tasks.spawn(ship(tasks, archive, [(n, n) for n in range(1, 10)], archive.load, archive.count))
    archive.world.run(tasks.sleep(at_ms * MS))
    task.cancel()
    archive.world.run(tasks.yield_now())
    counted = list(archive.counted)
    archive.settled()
    assert isinstance(task.error(), Cancelled) and archive.counted == counted == ALL[: len(counted)] and archive.reading == 0

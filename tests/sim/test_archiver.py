"""Random lives of an archiving database in the simulator; what must hold is in archiving.py."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sim.clients.engine_session import SimDatabase
from sim.world.fates import NoneLanded
from sim.world.store import StoreFaults
from sim.world.world import NodeDied, SimNode, World
from tests.sim.archiving import MS, SECOND_NS, Story
from thunderdb.archive.archiver import Archiver
from thunderdb.base.events import Events


@pytest.mark.parametrize("kind", ["command", "blind"])
@pytest.mark.parametrize("seed", range(5))
def test_an_archive_holds_what_its_archiver_says(kind: str, seed: int) -> None:
    story = Story(1000 + seed, kind).run()
    assert story.acked


def test_stores_and_directories_hold_it_too_and_the_stories_are_not_harmless() -> None:
    fired: dict[str, int] = {}
    removed = failed = 0
    for seed in range(16):
        story = Story(seed, "directory" if seed % 4 == 3 else "store").run()
        for kind, count in story.world.fired.items():
            fired[kind] = fired.get(kind, 0) + count
        failed += sum(" archive.failed " in line for line in story.log)
        removed += story.removed
    wanted = ["kill", "power_cut", "unsynced_torn", "store.down", "store.error_after", "store.error_before"]
    assert [kind for kind in wanted if not fired.get(kind)] == []
    assert failed > 5 and removed > 20


class Push(Story):
    """A short story: some log, then a switch during which the node dies at one exact moment.

    `then`: the next life is cut from power at that boundary, with nothing landed that was not synced.
    """

    def __init__(self, kind: str, power: bool, boundary: int = 0, after_ns: int = 0, then: int = 0) -> None:
        super().__init__(7, kind)
        self.power = power
        self.boundary = boundary
        self.after_ns = after_ns
        self.then = then
        self.struck = self.struck_again = False

    async def _main(self) -> None:
        await self._open()
        for _ in range(5):
            await self._call(self._work(0))
        await self._sleep(1000 * MS)
        for _ in range(3):
            await self._call(self._work(0))
        if self.boundary:
            self.node.crash_at(self.boundary, power=self.power)
        switched = self.node.call(self.archiver.switch())
        if self.after_ns:
            await self._sleep(self.after_ns)
            if not switched.done():
                self._claim()
                self.node.crash(power=self.power)
        try:
            await switched
        except NodeDied:
            self.struck = True
        self.node.set_boundary(None)
        if self.node.alive:
            self._claim()
            self.node.crash(power=self.power)
        self.world.bury()
        if self.then:
            await self._die_again()
        await self._open()
        await self._call(self._work(0))
        await self._settle()
        await self._check_all()

    async def _die_again(self) -> None:
        await self._open()
        left = self.then

        def hook(_action: str, _path: str, _before: bool) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                self.struck_again = True
                self._cut()

        self.node.set_boundary(hook)
        try:
            await self._call(self._work(0))
            await self._call(self.archiver.wait_archived(self.db.log.flushed_lsn - 200))
            await self._sleep(500 * MS)
        except NodeDied:
            pass
        if self.node.alive:
            self._cut()
        self.world.bury()

    def _cut(self) -> None:
        self._claim()
        self.node.set_boundary(None)
        self.node.crash(power=True, fates=NoneLanded())


@pytest.mark.parametrize(("kind", "power"), [("store", True), ("directory", False), ("directory", True), ("command", False)])
def test_a_kill_at_every_disk_operation_of_a_push_loses_nothing(kind: str, power: bool) -> None:
    boundary = 1
    while Push(kind, power, boundary).run().struck:  # type: ignore[attr-defined]
        boundary += 1
    assert boundary > 15


def test_a_power_cut_after_a_kill_in_a_push_loses_nothing() -> None:
    """The next process finds what the killed one had only renamed. A fifth of the kills, each with some of the later cuts."""
    kills = 0
    for boundary in range(1, 200, 5):
        then = 1 + boundary % 16
        while (story := Push("directory", False, boundary, then=then).run()).struck_again:  # type: ignore[attr-defined]
            then += 16
        if not story.struck:  # type: ignore[attr-defined]
            break
        kills += 1
    assert kills > 3


@pytest.mark.parametrize("kind", ["store", "blind"])
def test_a_kill_at_every_moment_of_a_push_loses_nothing(kind: str) -> None:
    moments = [(1 + 12 * step) * MS for step in range(26)]
    struck = [Push(kind, False, after_ns=moment).run().struck for moment in moments]  # type: ignore[attr-defined]
    assert struck[0] and not struck[-1]


class SetBack(Story):
    """A quiet database; it is killed, its clock is set back, and the archive does not answer when it starts again (V5)."""

    async def _main(self) -> None:
        await self._open()
        await self._call(self._work(0))
        await self._sleep(self.chance.between(1000, 30_000) * MS)
        self._claim()
        self.node.crash(power=self.chance.random() < 0.5)
        self.world.bury()
        self.node.clock.jump(-self.chance.between(1, 7200) * SECOND_NS)
        self.world.store.faults = StoreFaults(down=True)
        self.node.restart()
        self.db = await self._call(SimDatabase.open(self.node.ports, self.config, Events()))
        archiver = await self._call(Archiver.open(self.db, self.config, self.node.ports, Events()))
        assert archiver is not None
        self.archiver = archiver
        for _ in range(3):
            await self._call(self._work(0))
        self._heal()
        await self._call(self.archiver.wait_archived(self.db.log.flushed_lsn))
        await self._check_all()


@pytest.mark.parametrize("seed", range(6))
def test_a_note_holds_though_the_clock_is_set_back_and_the_archive_is_out_of_reach(seed: int) -> None:
    assert SetBack(seed, "store").run().notes


@pytest.mark.parametrize("seed", range(4))
def test_two_instances_on_one_archive_never_share_a_timeline(seed: int) -> None:
    """Copies of one database, brought into service at the same moment: one archives, the other is refused, by name."""
    world = World(seed)
    story = Story(seed, "store")

    async def start(node: SimNode) -> tuple[SimDatabase, Archiver]:
        db = await SimDatabase.open(node.ports, story.config, Events())
        archiver = await Archiver.open(db, story.config, node.ports, Events())
        assert archiver is not None
        return db, archiver

    async def make(node: SimNode) -> None:
        db = await SimDatabase.open(node.ports, replace(story.config, wal_archive_enabled=False), Events())
        await db.close()

    async def harness() -> None:
        first = world.node("a")
        await first.call(make(first))
        second = world.node("b", image=first.image.fork())
        first.crash(power=False)
        first.restart()
        calls = [node.call(start(node)) for node in (first, second)]
        opened = [await call for call in calls]
        await world.tasks.sleep(5000 * MS)
        statuses = [archiver.status() for _, archiver in opened]
        assert sorted(status.refused for status in statuses) == [False, True]
        owner, refused = sorted(opened, key=lambda pair: pair[1].status().refused)
        assert owner[1].identity.instance in refused[1].status().last_error
        assert refused[0].checkpointer.holds["archive"] == 0
        text = world.store.objects["s3://bucket/wal/00000001.history"][0].decode()
        assert owner[1].identity.instance in text

    world.run(harness())
    world.close()

"""Page files: places, growth, what a sync covers, missing and short files."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from thunderdb.base.errors import Corruption, DiskFull, InvariantViolated, StorageError, SyncFailed
from thunderdb.runtime.inline import InlineWorld
from thunderdb.storage.files import PageFiles, page_file_name
from thunderdb.storage.page import Damage, PageCorruption

SIZE = 4096
PER_FILE = 4


def image(number: int) -> bytes:
    return bytes([number]) * SIZE


class FilesWorld(InlineWorld):
    def __init__(self, capacity_bytes: int | None = None) -> None:
        super().__init__(suspend=True, capacity_bytes=capacity_bytes)
        self.run(self.disk.make_dirs("/d"))
        self.files = self.new_files()
        self.run(self.files.open())

    def new_files(self) -> PageFiles:
        return PageFiles(self.tasks, self.disk, "/d", SIZE, PER_FILE * SIZE)

    def sizes(self) -> dict[str, int]:
        return {path: len(data) // SIZE for path, data in sorted(self.disk.files.items())}


class CountingFile:
    """Counts syncs; a sync may be held, or fail; a write of more than two pages may be held."""

    def __init__(self, world: FilesWorld, file: Any) -> None:
        self._file = file
        self._world = world
        self.syncs = 0
        self.gate: Any = None
        self.write_gate: Any = None
        self.error: Exception | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    async def write(self, offset: int, data: bytes) -> None:
        if self.write_gate is not None and len(data) > 2 * SIZE:
            await self.write_gate
        await self._file.write(offset, data)

    async def sync(self) -> None:
        self.syncs += 1
        if self.gate is not None:
            await self.gate
        if self.error is not None:
            raise self.error


def counted(world: FilesWorld, number: int) -> CountingFile:
    page_file = world.files._files[number]
    file = CountingFile(world, page_file.file)
    page_file.file = file  # type: ignore[assignment]
    return file


def test_growth_goes_over_files_and_is_found_again() -> None:
    world = FilesWorld()
    world.run(world.files.grow(3))
    assert world.sizes() == {"/d/pages.000000": 3}
    world.run(world.files.grow(9))
    world.run(world.files.grow(5))
    assert world.sizes() == {"/d/pages.000000": 4, "/d/pages.000001": 4, "/d/pages.000002": 1}
    assert world.files.page_count == 9
    again = world.new_files()
    world.run(again.open())
    assert again.page_count == 9


@pytest.mark.parametrize("page_no", [0, 3, 4, 8])
def test_a_page_is_where_its_number_says(page_no: int) -> None:
    world = FilesWorld()
    world.run(world.files.grow(9))
    world.run(world.files.write_page(page_no, image(7)))
    assert world.run(world.files.read_page(page_no)) == image(7)
    data = world.disk.files[f"/d/{page_file_name(page_no // PER_FILE)}"]
    assert data[page_no % PER_FILE * SIZE :][:SIZE] == image(7)
    assert sum(bytes(data).count(7) for data in world.disk.files.values()) == SIZE


def test_reading_behind_the_end_names_the_page() -> None:
    world = FilesWorld()
    world.run(world.files.grow(6))
    for page_no in (6, 8, 100):
        with pytest.raises(PageCorruption) as caught:
            world.run(world.files.read_page(page_no))
        assert (caught.value.page_no, caught.value.damage) == (page_no, Damage.SHORT)


def test_writing_behind_the_end_or_a_wrong_size_is_a_bug() -> None:
    world = FilesWorld()
    world.run(world.files.grow(2))
    for page_no, data in [(2, image(1)), (0, image(1)[:-1])]:
        with pytest.raises(InvariantViolated):
            world.run(world.files.write_page(page_no, data))


def test_a_missing_file_is_named() -> None:
    world = FilesWorld()
    world.run(world.files.grow(12))
    del world.disk.files["/d/pages.000001"]
    with pytest.raises(Corruption, match="pages.000001 is missing"):
        world.run(world.new_files().open())


def test_part_of_a_page_at_the_end_is_not_a_page() -> None:
    world = FilesWorld()
    world.run(world.files.grow(2))
    world.disk.files["/d/pages.000000"] += b"torn growth"
    again = world.new_files()
    world.run(again.open())
    assert again.page_count == 2
    world.run(again.grow(3))
    assert world.run(again.read_page(2)) == bytes(SIZE)


def test_growth_on_a_full_disk_can_be_tried_again() -> None:
    world = FilesWorld(capacity_bytes=6 * SIZE)
    with pytest.raises(DiskFull):
        world.run(world.files.grow(8))
    assert world.files.page_count == 4
    world.run(world.files.write_page(3, image(1)))
    world.disk.capacity_bytes = None
    world.run(world.files.grow(8))
    assert world.files.page_count == 8
    assert world.run(world.files.read_page(3)) == image(1)


def test_concurrent_growth_does_not_wipe_what_the_first_has_given_out() -> None:
    world = FilesWorld()

    async def main() -> None:
        await world.files.grow(1)
        file = counted(world, 0)
        file.write_gate = world.tasks.future()

        async def user() -> None:
            await world.files.grow(2)
            await world.files.write_page(1, image(5))

        slow = world.tasks.spawn(world.files.grow(4))
        using = world.tasks.spawn(user())
        for _ in range(20):
            await world.tasks.yield_now()
        file.write_gate.set_result(None)
        await slow
        await using
        assert await world.files.read_page(1) == image(5)

    world.run(main())


def test_a_sync_goes_to_the_files_written_since() -> None:
    world = FilesWorld()

    async def main() -> None:
        await world.files.grow(8)
        first, second = counted(world, 0), counted(world, 1)
        await world.files.sync()
        assert (first.syncs, second.syncs) == (0, 0)
        await world.files.write_page(5, image(1))
        await world.files.sync()
        await world.files.sync()
        assert (first.syncs, second.syncs) == (0, 1)

    world.run(main())


def test_opening_counts_everything_as_unsynced() -> None:
    world = FilesWorld()

    async def main() -> None:
        await world.files.grow(8)
        await world.files.close()
        world.files = world.new_files()
        await world.files.open()
        files = [counted(world, 0), counted(world, 1)]
        await world.files.sync()
        assert [file.syncs for file in files] == [1, 1]

    world.run(main())


def test_a_write_during_a_sync_needs_another_one() -> None:
    world = FilesWorld()

    async def main() -> None:
        await world.files.grow(4)
        file = counted(world, 0)
        await world.files.write_page(1, image(1))
        file.gate = world.tasks.future()
        syncing = world.tasks.spawn(world.files.sync())
        await world.files.write_page(2, image(2))
        file.gate.set_result(None)
        await syncing
        await world.files.sync()
        assert file.syncs == 2

    world.run(main())


def test_two_syncs_at_a_time_do_not_lean_on_each_other() -> None:
    world = FilesWorld()

    async def main() -> None:
        await world.files.grow(4)
        file = counted(world, 0)
        await world.files.write_page(1, image(1))
        file.gate = world.tasks.future()
        first = world.tasks.spawn(world.files.sync())
        second = world.tasks.spawn(world.files.sync())
        for _ in range(5):
            await world.tasks.yield_now()
        assert not second.done()
        file.gate.set_result(None)
        await first
        await second

    world.run(main())


def test_a_failed_sync_poisons_the_files() -> None:
    world = FilesWorld()

    async def main() -> None:
        await world.files.grow(4)
        file = counted(world, 0)
        await world.files.write_page(1, image(1))
        file.error = SyncFailed("fsync failed")
        with pytest.raises(SyncFailed):
            await world.files.sync()
        file.error = None
        for attempt in (world.files.sync(), world.files.write_page(1, image(1)), world.files.grow(9)):
            with pytest.raises(SyncFailed):
                await attempt
        assert file.syncs == 1

    world.run(main())


def test_a_sync_that_went_well_waits_for_one_that_may_have_been_told_of_its_error() -> None:
    world = FilesWorld()

    async def main() -> None:
        await world.files.grow(4)
        await world.files.write_page(1, image(1))
        answers = [world.tasks.future() for _ in range(3)]
        answer = iter(answers)

        async def sync() -> None:
            await next(answer)

        world.files._files[0].file = SimpleNamespace(sync=sync)  # type: ignore[assignment]
        first, second = (world.tasks.spawn(world.files.sync()) for _ in range(2))
        answers[1].set_result(None)
        for _ in range(10):
            await world.tasks.yield_now()
        assert not second.done()
        answers[0].set_error(SyncFailed("fsync failed"))
        for task in (first, second):
            with pytest.raises(SyncFailed):
                await task

    world.run(main())


def test_syncs_that_go_well_wait_for_each_other_and_end() -> None:
    world = FilesWorld()

    async def main() -> None:
        await world.files.grow(4)
        await world.files.write_page(1, image(1))
        tasks = [world.tasks.spawn(world.files.sync()) for _ in range(3)]
        for task in tasks:
            await task
        assert world.files._files[0].syncing == [] and world.files._files[0].synced == world.files._files[0].writes

    world.run(main())


def test_a_read_error_is_a_damaged_page() -> None:
    world = FilesWorld()

    async def broken(offset: int, size: int) -> bytes:
        raise StorageError("medium error")

    async def main() -> None:
        await world.files.grow(4)
        counted(world, 0).read = broken  # type: ignore[attr-defined]
        with pytest.raises(PageCorruption, match="medium error") as caught:
            await world.files.read_page(1)
        assert caught.value.damage == Damage.UNREADABLE

    world.run(main())


def test_what_cannot_be_had_whole_and_at_once_is_left_to_a_read() -> None:
    world = FilesWorld()
    world.run(world.files.grow(PER_FILE + 2))
    world.run(world.files.write_page(PER_FILE + 1, image(9)))
    assert world.files.read_now(PER_FILE + 1) is None  # this disk always waits
    world.disk.suspends = False
    assert world.files.read_now(PER_FILE + 1) == image(9)
    for page_no in (PER_FILE + 2, 2 * PER_FILE, 99):
        assert world.files.read_now(page_no) is None

    class Broken:
        def read_now(self, offset: int, size: int) -> bytes | None:
            raise StorageError("I/O error")

    world.files._files[1].file = Broken()  # type: ignore[assignment]
    assert world.files.read_now(PER_FILE + 1) is None

"""The buffer pool: misses, write-ahead, the dirty page table, lost writes, repair, bounded memory."""

from __future__ import annotations

from array import array
from typing import Any

import pytest

from tests.unit.storage.world import DATA, PAGE_SIZE, PoolWorld
from thunderdb.base.errors import Corruption, InvariantViolated, LimitExceeded, StorageError, SyncFailed
from thunderdb.runtime.inline import MemoryFile
from thunderdb.runtime.sync import Future
from thunderdb.storage.page import Damage, Page, PageCorruption, PageKind, copy_page, decode_page, encode_page
from thunderdb.storage.pool import BufferPool, PageMiss, RoomMiss
from thunderdb.storage.writeback import DirtyPage


def table(pool: BufferPool) -> dict[int, int]:
    return {entry.page_no: entry.rec_lsn for entry in pool.dirty_table()}


async def written(world: PoolWorld, page_no: int) -> Page:
    """A page on disk, synced, and still in memory."""
    page = world.new_leaf(page_no)
    await world.pool.write_back(page)
    await world.pool.sync()
    return page


def test_get_misses_until_loaded() -> None:
    world = PoolWorld()

    async def main() -> None:
        await written(world, 3)
        assert world.pool.drop(3)
        with pytest.raises(PageMiss) as miss:
            world.pool.get(3)
        pins: list[Page] = []
        await miss.value.resolve(world.pool, pins)
        assert pins == [world.pool.get(3)]
        assert pins[0].pins == 1
        world.pool.unpin(pins[0])
        with pytest.raises(InvariantViolated):
            world.pool.unpin(pins[0])

    world.run(main())


def test_concurrent_loads_read_once() -> None:
    world = PoolWorld()

    async def main() -> None:
        await written(world, 3)
        world.pool.drop(3)
        tasks = [world.tasks.spawn(world.pool.load(3, pin=bool(number % 2))) for number in range(4)]
        pages = [await task for task in tasks]
        assert world.pool.loads == 1
        assert all(page is pages[0] for page in pages)
        assert pages[0].pins == 2

    world.run(main())


def test_a_cancelled_load_leaves_no_pin_and_disturbs_nobody() -> None:
    world = PoolWorld()

    async def main() -> None:
        await written(world, 3)
        world.pool.drop(3)
        gone = world.tasks.spawn(world.pool.load(3, pin=True))
        stays = world.tasks.spawn(world.pool.load(3, pin=True))
        gone.cancel()
        assert (await stays).pins == 1

    world.run(main())


def test_the_log_is_durable_before_the_page_is_written() -> None:
    world = PoolWorld()

    async def main() -> None:
        page = world.new_leaf(3, val=b"first")
        first_lsn = page.page_lsn
        world.log.hold()
        task = world.tasks.spawn(world.pool.write_back(page))
        for _ in range(10):
            await world.tasks.yield_now()
        assert world.on_disk(3) == bytes(PAGE_SIZE)
        second_lsn = world.put(page, b"k2", b"second")  # while it is being written
        world.log.release()
        await task
        on_disk = decode_page(world.on_disk(3), 3, PAGE_SIZE)
        assert world.log.flushes == [first_lsn]
        assert world.log.flushed_lsn <= second_lsn
        assert (on_disk.page_lsn, on_disk.vals) == (first_lsn, [b"first"])  # W1: what was encoded before the wait
        assert page.rec_lsn == second_lsn
        assert table(world.pool) == {3: first_lsn}
        await world.pool.sync()
        assert table(world.pool) == {3: second_lsn}

    world.run(main())


def test_a_page_leaves_the_table_at_sync_not_at_write() -> None:
    world = PoolWorld()

    async def main() -> None:
        page = world.new_leaf(3)
        page.image_lsn = 7
        await world.pool.write_back(page)
        assert page.rec_lsn == 0
        assert world.pool.dirty_table() == [DirtyPage(3, page.page_lsn, page.page_lsn, 7)]
        assert world.pool.drop(3)  # may go, and is still in the table
        assert table(world.pool) == {3: page.page_lsn}
        assert world.pool.oldest_rec_lsn() == page.page_lsn
        await world.pool.sync()
        assert world.pool.dirty_table() == []
        assert world.pool.oldest_rec_lsn() == 0

    world.run(main())


def test_a_sync_does_not_cover_a_write_that_completed_after_it_was_called() -> None:
    world = PoolWorld()

    async def main() -> None:
        early, late = world.new_leaf(3), world.new_leaf(4)
        await world.pool.write_back(early)
        world.log.flushed_lsn = 10**6
        writing = world.tasks.spawn(world.pool.write_back(late))
        assert world.on_disk(4) == bytes(PAGE_SIZE)
        syncing = world.tasks.spawn(world.pool.sync())
        await writing
        await syncing
        assert world.on_disk(4) != bytes(PAGE_SIZE)
        assert table(world.pool) == {4: late.page_lsn}
        await world.pool.sync()
        assert table(world.pool) == {}

    world.run(main())


def test_two_writes_and_a_sync_between_keep_the_later_one() -> None:
    world = PoolWorld()

    async def main() -> None:
        page = world.new_leaf(3)
        await world.pool.write_back(page)
        second_lsn = world.put(page, b"k2", b"v")
        world.log.hold()
        writing = world.tasks.spawn(world.pool.write_back(page))
        await world.pool.sync()
        assert table(world.pool) == {3: second_lsn}
        world.log.release()
        await writing
        assert table(world.pool) == {3: second_lsn}
        await world.pool.sync()
        assert table(world.pool) == {}

    world.run(main())


def test_the_table_holds_the_oldest_image_of_what_may_be_torn() -> None:
    world = PoolWorld()

    async def main() -> None:
        page = world.new_leaf(3)
        page.image_lsn = 5
        await world.pool.write_back(page)
        page.image_lsn = 50
        lsn = world.put(page, b"k2", b"v")
        [entry] = world.pool.dirty_table()
        assert (entry.image_lsn, entry.page_lsn) == (5, lsn)
        assert entry.rec_lsn < lsn

    world.run(main())


def test_writes_of_one_page_follow_one_another() -> None:
    world = PoolWorld()

    async def main() -> None:
        page = world.new_leaf(3)
        world.log.hold()
        first = world.tasks.spawn(world.pool.write_back(page))
        world.put(page, b"k2", b"v")
        second = world.tasks.spawn(world.pool.write_back(page))
        third = world.tasks.spawn(world.pool.write_back(page))
        assert len(world.log.flushes) == 1
        world.log.release()
        for task in (first, second, third):
            await task
        assert world.pool.writes == 2  # the third found it clean
        assert decode_page(world.on_disk(3), 3, PAGE_SIZE).page_lsn == page.page_lsn
        await world.pool.sync()
        assert world.pool.dirty_table() == []

    world.run(main())


class FailingFile:
    """A page file whose next operations fail as told."""

    def __init__(self, file: MemoryFile) -> None:
        self._file = file
        self.fail_write: Exception | None = None
        self.fail_sync: Exception | None = None
        self.fail_read: Exception | None = None
        self.hold_read: Future[None] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    async def write(self, offset: int, data: bytes) -> None:
        if self.fail_write is not None:
            error, self.fail_write = self.fail_write, None
            await self._file.write(offset, data[:512])
            raise error
        await self._file.write(offset, data)

    async def sync(self) -> None:
        if self.fail_sync is not None:
            error, self.fail_sync = self.fail_sync, None
            raise error
        await self._file.sync()

    def read_now(self, offset: int, size: int) -> bytes | None:
        return None

    async def read(self, offset: int, size: int) -> bytes:
        if self.fail_read is not None:
            raise self.fail_read
        data = await self._file.read(offset, size)
        if self.hold_read is not None:
            await self.hold_read
        return data


def failing(world: PoolWorld) -> FailingFile:
    page_file = world.files._files[0]
    file = FailingFile(page_file.file)  # type: ignore[arg-type]
    page_file.file = file  # type: ignore[assignment]
    return file


def test_a_failed_write_leaves_the_page_dirty_as_of_its_first_change() -> None:
    world = PoolWorld()

    async def main() -> None:
        page = world.new_leaf(3)
        first_lsn = page.page_lsn
        failing(world).fail_write = StorageError("I/O error")
        with pytest.raises(StorageError):
            await world.pool.write_back(page)
        assert page.rec_lsn == first_lsn
        await world.pool.sync()
        assert table(world.pool) == {3: first_lsn}
        world.put(page, b"k2", b"v")
        await world.pool.write_back(page)
        assert table(world.pool) == {3: first_lsn}
        await world.pool.sync()
        assert table(world.pool) == {}
        world.pool.check()

    world.run(main())


def test_a_failed_sync_clears_nothing_and_is_never_retried() -> None:
    world = PoolWorld()

    async def main() -> None:
        page = world.new_leaf(3)
        await world.pool.write_back(page)
        failing(world).fail_sync = SyncFailed("fsync failed")
        for _ in range(2):
            with pytest.raises(SyncFailed):
                await world.pool.sync()
        assert table(world.pool) == {3: page.page_lsn}
        assert list(world.pool.synced_lsns()) == []
        world.put(page, b"k2", b"v")
        with pytest.raises(SyncFailed):
            await world.pool.write_back(page)

    world.run(main())


def test_a_lost_write_is_noticed() -> None:
    world = PoolWorld()

    async def main() -> None:
        page = await written(world, 3)
        before = world.on_disk(3)
        world.put(page, b"k2", b"v")
        await world.pool.write_back(page)
        world.overwrite(3, before)
        world.pool.drop(3)
        with pytest.raises(PageCorruption) as caught:
            await world.pool.load(3)
        assert caught.value.damage == Damage.LOST_WRITE

    world.run(main())


def test_a_lost_write_is_noticed_by_the_next_process_too() -> None:
    world = PoolWorld()

    async def main() -> None:
        page = await written(world, 3)
        before = world.on_disk(3)
        world.put(page, b"k2", b"v")
        await world.pool.write_back(page)
        await world.pool.sync()
        saved = world.pool.synced_lsns()
        world.overwrite(3, before)
        pool = world.new_pool()
        pool.restore_written(saved)
        with pytest.raises(PageCorruption) as caught:
            await pool.load(3)
        assert caught.value.damage == Damage.LOST_WRITE

    world.run(main())


def test_what_no_sync_covers_is_not_saved() -> None:
    world = PoolWorld()

    async def main() -> None:
        page = await written(world, 3)
        first_lsn = page.page_lsn
        world.put(page, b"k2", b"v")
        await world.pool.write_back(page)
        assert world.pool.synced_lsns()[3] == first_lsn
        assert world.pool.written_lsns[3] == page.page_lsn

    world.run(main())


def test_a_rotten_page_is_refused_without_a_repair() -> None:
    world = PoolWorld()

    async def main() -> None:
        await written(world, 3)
        world.pool.drop(3)
        world.overwrite(3, b"rot")
        for _ in range(2):
            with pytest.raises(Corruption, match="page 3"):
                await world.pool.load(3)
        assert [name for name, _ in world.seen if name == "pool.page_corrupt"] == ["pool.page_corrupt"] * 2
        with pytest.raises(PageMiss):
            world.pool.get(3)

    world.run(main())


def test_a_page_that_cannot_be_read_is_repaired_like_a_rotten_one() -> None:
    world = PoolWorld()

    async def main() -> None:
        page = await written(world, 3)
        world.pool.drop(3)
        failing(world).fail_read = StorageError("I/O error")
        with pytest.raises(PageCorruption) as caught:
            await world.pool.load(3)
        assert caught.value.damage == Damage.UNREADABLE
        world.pool.repair = repair_with(page)
        assert (await world.pool.load(3)).keys == page.keys

    world.run(main())


def repair_with(page: Page) -> Any:
    async def repair(page_no: int, error: Corruption) -> Page:
        return copy_page(page)

    return repair


def test_a_repaired_page_is_used_and_written_again() -> None:
    world = PoolWorld()

    async def main() -> None:
        good = await written(world, 3)
        world.pool.drop(3)
        world.overwrite(3, bytes(PAGE_SIZE))
        world.pool.repair = repair_with(good)
        page = await world.pool.load(3)
        assert page.keys == good.keys
        assert table(world.pool) == {3: good.page_lsn}
        await world.pool.clean(10**9, 10)
        await world.pool.sync()
        assert decode_page(world.on_disk(3), 3, PAGE_SIZE).keys == good.keys
        world.pool.check()

    world.run(main())


def test_a_repair_that_is_still_too_old_is_refused() -> None:
    world = PoolWorld()

    async def main() -> None:
        page = await written(world, 3)
        old = copy_page(page)
        world.put(page, b"k2", b"v")
        await world.pool.write_back(page)
        world.pool.drop(3)
        world.overwrite(3, b"rot")
        world.pool.repair = repair_with(old)
        with pytest.raises(PageCorruption) as caught:
            await world.pool.load(3)
        assert caught.value.damage == Damage.LOST_WRITE

    world.run(main())


def test_a_page_created_while_it_is_loaded_is_the_truth() -> None:
    world = PoolWorld()

    async def main() -> None:
        await written(world, 3)
        world.pool.drop(3)
        loading = world.tasks.spawn(world.pool.load(3))
        fresh = world.new_leaf(3, key=b"fresh")
        assert (await loading) is fresh
        assert world.pool.get(3) is fresh
        world.pool.check()

    world.run(main())


def test_a_page_created_written_and_evicted_while_it_is_loaded_is_the_truth() -> None:
    world = PoolWorld()

    async def main() -> None:
        await written(world, 3)
        world.pool.drop(3)
        file = failing(world)
        file.hold_read = world.tasks.future()
        loading = world.tasks.spawn(world.pool.load(3))
        await world.tasks.yield_now()
        fresh = world.new_leaf(3, key=b"fresh")
        await world.pool.write_back(fresh)
        assert not world.pool.drop(3)
        file.hold_read.set_result(None)
        assert (await loading).keys == [b"fresh"]

    world.run(main())


def test_a_page_stays_while_it_is_written_since_the_write_may_fail() -> None:
    world = PoolWorld()

    async def main() -> None:
        page = world.new_leaf(3)
        failing(world).fail_write = StorageError("I/O error")
        world.log.hold()
        writing = world.tasks.spawn(world.pool.write_back(page))
        assert page.rec_lsn == 0
        assert not world.pool.drop(3)
        world.log.release()
        with pytest.raises(StorageError):
            await writing
        assert world.pool.get(3) is page
        assert page.rec_lsn == page.page_lsn

    world.run(main())


def test_a_sync_saves_the_lsn_of_the_write_that_it_covered() -> None:
    world = PoolWorld()

    async def main() -> None:
        page = world.new_leaf(3)
        first_lsn = page.page_lsn
        await world.pool.write_back(page)
        world.put(page, b"k2", b"v")
        world.log.hold()
        writing = world.tasks.spawn(world.pool.write_back(page))
        await world.pool.sync()
        assert world.pool.synced_lsns()[3] == first_lsn
        world.log.release()
        await writing

    world.run(main())


def test_a_created_page_keeps_the_oldest_change_of_what_it_replaces() -> None:
    world = PoolWorld()

    async def main() -> None:
        old = world.new_leaf(3)
        first_lsn = old.rec_lsn
        fresh = world.pool.create(3, PageKind.INNER)
        assert table(world.pool) == {3: first_lsn}
        lsn = world.next_lsn()
        world.pool.changed(fresh, lsn)
        assert (fresh.rec_lsn, fresh.page_lsn) == (first_lsn, lsn)
        world.pool.check()
        world.pool.pin(fresh)
        with pytest.raises(InvariantViolated):
            world.pool.create(3, PageKind.LEAF)
        with pytest.raises(InvariantViolated):
            world.pool.changed(old, world.next_lsn())

    world.run(main())


def test_drop_keeps_what_is_dirty_or_in_use() -> None:
    world = PoolWorld()

    async def main() -> None:
        dirty = world.new_leaf(3)
        assert not world.pool.drop(3)
        clean = await written(world, 4)
        world.pool.pin(clean)
        assert not world.pool.drop(4)
        world.pool.unpin(clean)
        assert world.pool.drop(4)
        assert world.pool.drop(4)
        assert world.pool.resident_pages() == [dirty]

    world.run(main())


def test_mark_dirty_only_ever_lowers() -> None:
    world = PoolWorld()

    async def main() -> None:
        page = await written(world, 3)
        world.pool.mark_dirty(page, 50)
        world.pool.mark_dirty(page, 70)
        assert table(world.pool) == {3: 50}
        world.pool.mark_dirty(page, 20)
        assert table(world.pool) == {3: 20}
        await world.pool.clean(21, 10)
        assert decode_page(world.on_disk(3), 3, PAGE_SIZE).page_lsn == page.page_lsn
        with pytest.raises(InvariantViolated):
            world.pool.mark_dirty(page, 0)

    world.run(main())


def test_the_cleaner_takes_the_oldest_up_to_its_target() -> None:
    world = PoolWorld()

    async def main() -> None:
        pages = [world.new_leaf(page_no) for page_no in (9, 8, 7, 6)]
        assert await world.pool.clean(pages[3].rec_lsn, 2) == 2
        assert [page.rec_lsn > 0 for page in pages] == [False, False, True, True]
        assert await world.pool.clean(pages[3].rec_lsn, 2) == 1
        assert await world.pool.clean(pages[3].rec_lsn, 2) == 0
        assert world.pool.dirty_count() == 1

    world.run(main())


def test_the_cleaner_waits_for_old_writes_of_others() -> None:
    world = PoolWorld()

    async def main() -> None:
        page = world.new_leaf(3)
        world.log.hold()
        world.tasks.spawn(world.pool.write_back(page))
        cleaning = world.tasks.spawn(world.pool.clean(10**9, 10))
        for _ in range(5):
            await world.tasks.yield_now()
        assert not cleaning.done()
        world.log.release()
        await cleaning
        await world.pool.sync()
        assert world.pool.dirty_table() == []

    world.run(main())


def test_eviction_writes_dirty_pages_and_brings_them_back() -> None:
    world = PoolWorld(page_count=100, capacity_pages=8)

    async def main() -> None:
        for page_no in range(1, 100):
            await world.pool.make_room(3 * PAGE_SIZE)
            page = world.new_leaf(page_no, val=b"%d" % page_no * 500)
            assert world.pool.used_bytes <= world.capacity_bytes
            assert page.rec_lsn
        for page_no in range(99, 0, -1):
            assert (await world.pool.load(page_no)).vals == [b"%d" % page_no * 500]
            assert world.pool.used_bytes <= world.capacity_bytes
        assert world.pool.evictions > 100
        world.pool.check()

    world.run(main())


def test_room_is_asked_for_before_a_change() -> None:
    world = PoolWorld(capacity_pages=8)

    async def main() -> None:
        for page_no in range(1, 9):
            world.new_leaf(page_no, val=b"x" * 3000)
        with pytest.raises(RoomMiss) as miss:
            world.pool.reserve(6)
        await miss.value.resolve(world.pool)
        world.pool.reserve(6)

    world.run(main())


def test_fresh_pages_alone_do_not_keep_the_pool_over_its_capacity() -> None:
    world = PoolWorld(capacity_pages=8)

    async def main() -> None:
        for page_no in range(1, 60):
            world.new_leaf(page_no, val=b"x" * 3500)
        assert world.pool.used_bytes > world.capacity_bytes
        for _ in range(500):
            await world.tasks.yield_now()
        assert world.pool.used_bytes <= world.capacity_bytes
        world.pool.check()

    world.run(main())


def test_pinned_pages_stay_and_a_pool_full_of_them_is_a_named_limit() -> None:
    world = PoolWorld(page_count=200, capacity_pages=4)

    async def main() -> None:
        world.pool.reserve_bytes = 4 * 3 * PAGE_SIZE
        for page_no in range(1, 60):
            await world.pool.make_room(3 * PAGE_SIZE)
            world.new_leaf(page_no, val=b"x" * 3500)
        await world.pool.clean(10**9, 100)
        pins = []
        with pytest.raises(LimitExceeded, match="buffer pool"):
            for page_no in range(1, 60):
                pins.append(await world.pool.load(page_no, pin=True))
        assert len(pins) > 4
        assert world.pool.used_bytes <= world.capacity_bytes + world.pool.reserve_bytes
        assert all(world.pool.get(page.page_no) is page for page in pins)
        for page in pins:
            world.pool.unpin(page)
        await world.pool.load(59)
        world.pool.check()

    world.run(main())


def test_a_used_page_outlives_an_unused_one() -> None:
    world = PoolWorld(capacity_pages=8)

    async def main() -> None:
        for page_no in range(1, 60):
            await world.pool.make_room(3 * PAGE_SIZE)
            world.new_leaf(page_no, val=b"x" * 3500)
        await world.pool.clean(10**9, 100)
        await world.pool.load(1)
        loads = world.pool.loads
        for page_no in range(2, 40):
            world.pool.get(1)
            await world.pool.load(page_no)
        assert world.pool.resident(1) is not None
        assert world.pool.loads >= loads + 30

    world.run(main())


def test_loads_wait_for_write_backs_and_many_of_them_do_not_deadlock() -> None:
    world = PoolWorld(page_count=200, capacity_pages=6)

    async def main() -> None:
        for page_no in range(1, 150):
            await world.pool.make_room(3 * PAGE_SIZE)
            world.new_leaf(page_no, val=b"x" * 3500)

        async def session(number: int) -> None:
            for step in range(30):
                page_no = 1 + (number * 37 + step * 11) % 149
                page = await world.pool.load(page_no)
                if len(page.keys) < 4:
                    world.put(page, b"k%d" % step, b"y")

        for task in [world.tasks.spawn(session(number)) for number in range(12)]:
            await task
        assert world.pool.used_bytes <= world.capacity_bytes + world.pool.reserve_bytes
        world.pool.check()

    world.run(main())


def test_a_change_to_a_page_that_was_evicted_is_a_bug() -> None:
    world = PoolWorld()

    async def main() -> None:
        page = await written(world, 3)
        world.pool.drop(3)
        with pytest.raises(InvariantViolated):
            world.pool.changed(page, world.next_lsn())

    world.run(main())


def test_install_replaces_what_is_in_memory() -> None:
    world = PoolWorld()

    async def main() -> None:
        page = await written(world, 3)
        rebuilt = copy_page(page)
        world.pool.install(rebuilt)
        assert world.pool.get(3) is rebuilt
        assert world.pool.dirty_table() == []
        world.pool.install(rebuilt)  # again, in its own place
        world.pool.check()

    world.run(main())


def test_restored_lsns_are_not_aliased() -> None:
    world = PoolWorld()
    saved = array("Q", [0, 5])
    world.pool.restore_written(saved)
    world.pool.written_lsns[1] = 9
    assert saved[1] == 5
    assert world.pool.synced_lsns() == saved


def test_a_log_that_lies_about_its_flush_is_found_out() -> None:
    world = PoolWorld()

    async def main() -> None:
        page = world.new_leaf(3)

        async def nothing(lsn: int) -> None:
            return None

        world.log.flush_to = nothing  # type: ignore[method-assign]
        with pytest.raises(InvariantViolated):
            await world.pool.write_back(page)
        assert world.on_disk(3) == bytes(PAGE_SIZE)
        assert page.rec_lsn

    world.run(main())


def test_data_directory_is_where_the_pages_are() -> None:
    world = PoolWorld()
    world.run(written(world, 3))
    assert list(world.disk.files) == [f"{DATA}/pages.000000"]
    assert decode_page(world.on_disk(3), 3, PAGE_SIZE).keys == [b"k"]
    assert encode_page(world.pool.get(3), PAGE_SIZE) == world.on_disk(3)


def test_what_the_operating_system_has_is_loaded_without_a_wait() -> None:
    world = PoolWorld(suspend=False)
    world.disk.suspends = False

    async def main() -> None:
        lsn = world.new_leaf(3, val=b"three").page_lsn
        await world.pool.write_back(world.pool.get(3))
        await world.pool.sync()
        assert world.pool.drop(3)
        page = world.pool.get(3)
        assert (page.page_lsn, page.vals, world.pool.loads, world.pool.get(3)) == (lsn, [b"three"], 1, page)
        assert world.pool.written_lsns[3] == lsn
        world.pool.check()

    world.run(main())


def test_nothing_is_loaded_at_once_that_somebody_works_with_or_that_is_damaged() -> None:
    world = PoolWorld(suspend=False)
    world.disk.suspends = False

    async def main() -> None:
        world.new_leaf(3)
        await world.pool.write_back(world.pool.get(3))
        await world.pool.sync()
        good = world.on_disk(3)
        assert world.pool.drop(3)
        for page_no in (5, 1000):  # zeros; behind the end
            with pytest.raises(PageMiss):
                world.pool.get(page_no)
        world.overwrite(3, good[:100] + b"?" + good[101:])
        with pytest.raises(PageMiss):
            world.pool.get(3)
        world.overwrite(3, good)
        world.pool.written_lsns[3] += 10  # a lost write
        with pytest.raises(PageMiss):
            world.pool.get(3)
        world.pool.written_lsns[3] -= 10
        failing(world)  # a disk that never has anything at once
        with pytest.raises(PageMiss):
            world.pool.get(3)

    world.run(main())


def test_a_page_that_is_being_written_again_is_not_read_meanwhile() -> None:
    world = PoolWorld(suspend=False)
    world.disk.suspends = False

    async def main() -> None:
        page = world.new_leaf(3)
        world.log.hold()
        writing = world.tasks.spawn(world.pool.write_back(page), "write")
        await world.tasks.yield_now()
        world.pool._forget(page)  # as a rebuilt page would do it; the write goes on
        with pytest.raises(PageMiss):
            world.pool.get(3)
        world.log.release()
        await writing
        assert world.pool.get(3).keys == [b"k"]

    world.run(main())


def test_pages_read_at_once_are_over_the_capacity_for_a_step_only() -> None:
    world = PoolWorld(page_count=200, capacity_pages=20, suspend=False)
    world.disk.suspends = False

    async def main() -> None:
        for page_no in range(1, 150):
            page = world.new_leaf(page_no, val=b"v" * 900)
            await world.pool.write_back(page)
            await world.pool.load(page_no)
        await world.pool.sync()
        await world.pool.make_room(0)
        missed = 0
        for page_no in range(1, 150):
            try:
                world.pool.get(page_no)
            except PageMiss:
                missed += 1
        pool = world.pool
        assert missed and pool.capacity_bytes < pool.used_bytes <= pool.capacity_bytes + pool.reserve_bytes
        for _ in range(10):
            await world.tasks.yield_now()
        assert pool.used_bytes <= pool.capacity_bytes
        pool.check()

    world.run(main())


def test_a_written_page_is_frozen_and_may_be_changed_on() -> None:
    world = PoolWorld()

    async def main() -> None:
        page = world.new_leaf(3)
        for number in range(20):
            world.put(page, b"l%02d" % number, b"value")
        before = page.charge
        world.log.hold()
        writing = world.tasks.spawn(world.pool.write_back(page), "write")
        await world.tasks.yield_now()
        assert type(page.keys) is not list and page.charge < before + PAGE_SIZE
        world.put(page, b"m", b"after the encoding")  # B1
        world.log.release()
        await writing
        assert b"m" not in decode_page(world.on_disk(3), 3, PAGE_SIZE).keys and page.keys[-1] == b"m" and page.rec_lsn
        await world.pool.write_back(page)
        assert decode_page(world.on_disk(3), 3, PAGE_SIZE).keys == page.keys
        world.pool.check()

    world.run(main())


def test_cold_dirty_pages_go_as_soon_as_they_are_written() -> None:
    world = PoolWorld(page_count=400, capacity_pages=40)

    async def main() -> None:
        for page_no in range(1, 300):
            await world.pool.make_room(3 * PAGE_SIZE)
            world.new_leaf(page_no, val=b"%d" % page_no * 300)
        pool = world.pool
        assert pool.evictions and pool.writes < 300
        pool.check()
        for page_no in range(1, 300):
            assert (await pool.load(page_no)).vals == [b"%d" % page_no * 300]

    world.run(main())


def test_more_room_than_an_empty_pool_has_is_refused() -> None:
    world = PoolWorld(capacity_pages=8)

    async def main() -> None:
        for page_no in (3, 4):
            page = world.new_leaf(page_no)
            await world.pool.write_back(page)
            page.referenced = False  # the hand evicts both in its first round, and there is nothing to go on with
        with pytest.raises(LimitExceeded, match="full of pages in use"):
            await world.pool.make_room(2 * world.capacity_bytes)

    world.run(main())


class Postponed:
    """Pages that a restart has left for later, each as one image that it takes a wait to get."""

    def __init__(self, world: PoolWorld, images: dict[int, bytes]) -> None:
        self.world = world
        self.images = images
        self.held: Future[None] = world.tasks.future()

    def table(self) -> list[DirtyPage]:
        return [DirtyPage(page_no, 50, 60, 50) for page_no in sorted(self.images)]

    def __contains__(self, page_no: int) -> bool:
        return page_no in self.images

    def forget(self, page_no: int) -> int:
        del self.images[page_no]
        return 50

    async def bring_up(self, page_no: int, read: object) -> Page:
        image = self.images[page_no]
        await self.held
        page = decode_page(image, page_no, PAGE_SIZE)
        page.rec_lsn = 50
        return page


def test_a_page_made_anew_while_it_is_brought_up_stays_the_new_one() -> None:
    world = PoolWorld()

    async def main() -> None:
        old = world.new_leaf(3, val=b"old")
        image = encode_page(old, PAGE_SIZE)
        await world.pool.write_back(old)
        await world.pool.sync()
        assert world.pool.drop(3)
        world.pool.deferred = deferred = Postponed(world, {3: image})
        loading = world.tasks.spawn(world.pool.load(3))  # by what brings up the rest after a restart; nobody uses the page
        new = world.new_leaf(3, val=b"new")
        await world.pool.write_back(new)
        deferred.held.set_result(None)
        assert await loading is new
        assert (new.vals, new.rec_lsn) == ([b"new"], 0)
        world.pool.check()

    world.run(main())

"""A backup's files and log read with several requests under way: the same bytes, the same refusals, nothing left behind."""

from __future__ import annotations

import pytest
from backports import zstd
from xxhash import xxh3_128_hexdigest

from thunderdb.archive.codec import Codec
from thunderdb.archive.index import StoreSource
from thunderdb.archive.requests import Requests
from thunderdb.backup.frames import FrameReader
from thunderdb.backup.segments_ahead import SegmentsAhead
from thunderdb.backup.sources import BackupSource, StoredFile
from thunderdb.base.errors import Corruption, StorageError
from thunderdb.runtime.inline import InlineWorld
from thunderdb.storage.control import ControlState
from thunderdb.wal.segment import segment_name

from tests.unit.archive.world import MemoryStore  # isort: skip

DATA = bytes(range(256)) * 400


class Slow:
    """A file whose pieces come back in any order."""

    def __init__(self, data: bytes = DATA) -> None:
        self.world = InlineWorld()
        self.data = data
        self.under_way = self.most = 0
        self.asked: list[int] = []
        self.fails_at = -1

    async def read(self, offset: int, size: int) -> bytes:
        self.asked.append(offset)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await self.world.tasks.sleep(1_000_000 * (1 + len(self.asked) * 7 % 5))
        self.under_way -= 1
        if offset == self.fails_at:
            raise StorageError("503")
        return self.data[offset : offset + size]

    def reader(self, ahead: int, size: int = len(DATA), zeros: tuple[tuple[int, int], ...] = ()) -> FrameReader:
        return FrameReader(self.world, self.read, "data/pages.000000", size, None, zeros, ahead, 4096)  # type: ignore[arg-type]

    def all_of(self, reader: FrameReader) -> bytes:
        async def reading() -> bytes:
            parts = []
            while part := await reader.next():
                parts.append(part)
            return b"".join(parts)

        return self.world.run(reading())


@pytest.mark.parametrize("ahead", [0, 1, 5])
def test_pieces_come_in_order_with_so_many_under_way(ahead: int) -> None:
    slow = Slow()
    reader = slow.reader(ahead)
    assert slow.all_of(reader) == DATA and slow.most == ahead + 1
    assert (reader.size, reader.digest) == (len(DATA), xxh3_128_hexdigest(DATA))


def test_zeros_that_the_manifest_names_are_not_asked_for() -> None:
    data = DATA[:10_000] + bytes(50_000) + DATA[:40_000]
    slow = Slow(data)
    reader = slow.reader(3, len(data), ((10_000, 60_000),))
    assert slow.all_of(reader) == data
    assert not [offset for offset in slow.asked if 10_000 <= offset < 60_000]


@pytest.mark.parametrize("ahead", [0, 5])
@pytest.mark.parametrize("there", [0, 50_000, 100_000])
def test_a_file_that_ends_early_is_named_with_where(ahead: int, there: int) -> None:
    slow = Slow(DATA[:there])
    with pytest.raises(Corruption, match=f"it ends after {there} of {len(DATA)} bytes"):
        slow.all_of(slow.reader(ahead))


def test_an_error_is_that_of_the_first_piece_that_has_one_and_the_others_are_given_up() -> None:
    slow = Slow()
    slow.fails_at = 8 * 4096
    reader = slow.reader(5)
    with pytest.raises(StorageError, match="503"):
        slow.all_of(reader)
    assert reader.size == 8 * 4096 and max(slow.asked) <= (8 + 5) * 4096 and not reader._pieces


def source(limit: int, *numbers: int) -> tuple[InlineWorld, MemoryStore, StoreSource]:
    world, store = InlineWorld(), MemoryStore("s3://b/wal")
    for number in numbers:
        store.objects[segment_name(1, number)] = b"%4d" % number * 2048  # 8 KB, in a store that is asked for 4
    found = StoreSource(store, Codec(), world.offload, Requests(world.tasks, store, limit))
    world.run(found.index())
    return world, store, found


def test_closed_segments_are_fetched_ahead_as_far_as_there_is_room() -> None:
    world, store, found = source(4, 1, 2, 3, 4, 5)
    ahead = SegmentsAhead(world.tasks, [found], [1])
    ahead.begin(2)
    taken = [ahead.take(found, 1, number) for number in (2, 3, 4)]
    assert [task is not None for task in taken] == [True, True, False]  # 16 KB of room
    assert taken[0] is not None and world.run(wait(taken[0])) == store.objects[segment_name(1, 2)]


def test_one_segment_is_fetched_ahead_however_long_it_is() -> None:
    world, _store, found = source(2, 1, 2, 3)
    found.requests = Requests(world.tasks, found.store, 2)
    ahead = SegmentsAhead(world.tasks, [found], [1])
    ahead.begin(1)
    assert ahead.take(found, 1, 1) is not None and ahead.take(found, 1, 2) is None


def test_what_may_still_change_is_not_fetched_ahead() -> None:
    """Of a partial segment that is replaced by the next one, the reader would have the old one, and a note beyond its end."""
    world, store, found = source(4, 1)
    store.objects[f"{segment_name(1, 2)}.partial"] = b"x" * 8192
    world.run(found.index(fresh=True))
    ahead = SegmentsAhead(world.tasks, [found], [1])
    ahead.begin(2)
    assert ahead.take(found, 1, 2) is None


def test_a_segment_that_nobody_took_makes_room_for_later_ones() -> None:
    world, _store, found = source(4, 1, 2, 3, 4, 5, 6)
    ahead = SegmentsAhead(world.tasks, [found], [1])
    ahead.begin(2)
    ahead.begin(5)
    assert ahead.take(found, 1, 2) is None and ahead.take(found, 1, 5) is not None and ahead.take(found, 1, 6) is not None


def test_with_one_request_at_a_time_nothing_is_fetched_ahead() -> None:
    world, _store, found = source(1, 1, 2)
    ahead = SegmentsAhead(world.tasks, [found], [1])
    ahead.begin(1)
    assert ahead.take(found, 1, 1) is None


async def wait(task: object) -> object:
    return await task  # type: ignore[misc]


@pytest.mark.parametrize(("path", "asked"), [("wal/0", 4096), ("wal/0.zst", 0)])
def test_for_a_header_only_the_beginning_is_asked_for(path: str, asked: int) -> None:
    """Found by point_in_time, seed 21: a whole piece of each of the backup's segments came over one slow stream."""
    world, sizes = InlineWorld(), []

    class Sized(MemoryStore):
        async def get_range(self, key: str, offset: int, size: int) -> bytes:
            sizes.append(size)
            return await super().get_range(key, offset, size)

    store = Sized("s3://b")
    store.objects[path] = zstd.compress(DATA) if path.endswith(".zst") else DATA
    stored = StoredFile(path, len(store.objects[path]), len(DATA))
    control = ControlState(0, 0, 0, 0)
    source = BackupSource(world, "s3://b", store, None, control, b"", [stored], None, 0, 0, 0, 0, (), 8)  # type: ignore[arg-type]
    head = world.run(source.read_head(stored))
    assert head[:4096] == DATA[:4096] and sizes == [asked or len(store.objects[path])]

"""Objects fetched by several requests at a time: how many are under way, what belongs together, and what an error leaves."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.archive.world import MemoryStore
from thunderdb.archive.codec import Codec
from thunderdb.archive.index import StoreSource
from thunderdb.archive.requests import Requests
from thunderdb.base.errors import StorageError
from thunderdb.runtime.inline import InlineWorld

KB = 1 << 10


class SlowStore(MemoryStore):
    """Answers after a while, and counts who waits."""

    def __init__(self, world: InlineWorld) -> None:
        super().__init__("s3://slow")
        self.world = world
        self.under_way = self.most = self.asked = 0
        self.fails_at = -1
        self.while_read: Any = None

    async def get_range(self, key: str, offset: int, size: int) -> bytes:
        self.under_way += 1
        self.asked += 1
        self.most = max(self.most, self.under_way)
        try:
            await self.world.tasks.sleep(1_000_000 * (1 + self.asked % 3))
            if offset == self.fails_at:
                raise StorageError("503")
            return (await super().get(key))[offset : offset + size]
        finally:
            self.under_way -= 1

    async def get(self, key: str) -> bytes:
        if self.while_read is not None:
            self.while_read()
        return await self.get_range(key, 0, 1 << 40)


def made(limit: int = 4) -> tuple[InlineWorld, SlowStore, Requests]:
    world = InlineWorld()
    store = SlowStore(world)
    store.objects["x"] = bytes(range(256)) * 200  # 50 KB: 13 requests of 4 KB
    return world, store, Requests(world.tasks, store, limit)


@pytest.mark.parametrize("limit", [2, 4, 64])
def test_parts_come_together_in_their_order_and_no_more_are_under_way_than_allowed(limit: int) -> None:
    world, store, requests = made(limit)
    data = store.objects["x"]
    assert world.run(requests.get("x", len(data))) == data
    assert store.asked == 13 and store.most == min(limit, 13)


def test_the_limit_is_that_of_all_readers_together() -> None:
    world, store, requests = made(4)
    data = store.objects["x"]

    async def both() -> list[bytes]:
        tasks = [world.tasks.spawn(requests.get("x", len(data))) for _ in range(3)]
        return [await task for task in tasks]

    assert world.run(both()) == [data] * 3 and store.most == 4


@pytest.mark.parametrize("listed", [50 * KB, 53 * KB])
def test_an_object_of_another_size_than_was_listed_is_fetched_at_once(listed: int) -> None:
    """A part of it would be taken for the whole, or two objects be mixed."""
    world, store, requests = made()
    store.objects["x"] = data = bytes(52 * KB)
    assert world.run(requests.get("x", listed)) == data


def test_an_error_ends_all_that_is_under_way() -> None:
    world, store, requests = made(4)
    store.fails_at = 4 * KB
    with pytest.raises(StorageError, match="503"):
        world.run(requests.get("x", 50 * KB))
    world.run(world.tasks.yield_now())
    assert store.under_way == 0 and store.asked < 13
    store.fails_at = -1
    assert world.run(requests.get("x", 51200)) == store.objects["x"]  # no request has kept its place


def test_a_partial_segment_that_is_not_stored_as_it_is_comes_in_one_piece() -> None:
    """Two compressed ones, put one after the other, have nothing in common but the name."""
    world, store, requests = made()
    raw = b"THUNDWAL" + bytes(range(256)) * 160
    codec = Codec(True, None)
    plain, packed = "0000000100000000000000A1.partial", "0000000100000000000000A2.partial.zst"
    store.objects = {plain: raw, packed: codec.encode(raw, packed.removesuffix(".zst")) + b""}
    store.request_bytes = 64
    source = StoreSource(store, codec, world.offload, requests)
    assert world.run(source.segment(1, 0xA1)) == raw
    asked = store.asked
    assert asked > 100 and world.run(source.segment(1, 0xA2)) == raw
    assert store.asked == asked + 1

"""What a simulated store's requests cost: latency each, a bandwidth that they share, and at a scale as many as in the large."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from sim.world import devices
from sim.world.store import Bucket, SimStore, StoreProfile
from sim.world.world import World

SECOND_NS, MB = 1_000_000_000, 1_000_000
URL = "s3://b"


def store_of(profile: StoreProfile) -> tuple[World, SimStore]:
    world = World(1)
    world.store.buckets[URL] = Bucket(URL, profile)
    return world, world.node("a").ports.stores.open(URL)


def took_s(world: World, *coros: Coroutine[Any, Any, Any]) -> float:
    node, began_ns = world.node("a"), world.now_ns

    async def all_of() -> None:
        for call in [node.call(coro) for coro in coros]:
            await call

    world.run(all_of())
    return (world.now_ns - began_ns) / SECOND_NS


def test_requests_side_by_side_share_the_way() -> None:
    world, store = store_of(StoreProfile(latency_ns=0, bytes_a_second=8 * MB, stream_bytes_a_second=2 * MB))
    world.store.keep(f"{URL}/x", bytes(8 * MB), 0)
    one = took_s(world, store.get_range("x", 0, MB))
    four = took_s(world, *(store.get_range("x", number * MB, MB) for number in range(4)))
    sixteen = took_s(world, *(store.get_range("x", number * MB // 4, MB) for number in range(16)))
    assert (round(one, 3), round(four, 3), round(sixteen, 3)) == (0.5, 0.5, 2.0)


def test_at_a_scale_a_request_has_the_latency_of_all_that_it_stands_for() -> None:
    """100 GB read one request of 4 MB after the other: 24,000 × 30 ms of waiting, and 100 GB at the speed of one stream."""
    world, store = store_of(devices.store({"profile": "s3"}))
    store._server.buckets[URL].profile.scale = 25_000
    world.store.keep(f"{URL}/x", bytes(4 * MB), 0)
    step = store.request_bytes

    async def one_by_one() -> None:
        for offset in range(0, 4 * MB, step):
            await store.get_range("x", offset, step)

    alone = took_s(world, one_by_one())
    requests = 100_000 * MB / (4 << 20)
    assert 0.95 < alone / (requests * 0.0375 + 100_000 / 90) < 1.1

    async def lane(number: int) -> None:
        for offset in range(number * step, 4 * MB, 16 * step):
            await store.get_range("x", offset, step)

    together = took_s(world, *(lane(number) for number in range(16)))
    assert 0.95 < together / (alone / 16) < 1.1 and together > 100_000 / 800


def test_an_upload_has_as_many_parts_under_way_as_it_was_allowed() -> None:
    def upload(requests: int) -> float:
        world, store = store_of(StoreProfile(latency_ns=100 * MB, bytes_a_second=1000 * MB))

        async def run() -> None:
            writer = await store.writer("x", requests)
            for _ in range(8):
                await writer.write(bytes(8 << 20))
            await writer.close()

        took = took_s(world, run())
        assert len(world.store.objects[f"{URL}/x"][0]) == 64 << 20
        return took

    one, four, eight = upload(1), upload(4), upload(8)
    assert one > 2 * four > 2.5 * eight > 0

"""The simulated store and its faults."""

from __future__ import annotations

from typing import Any

import pytest

from sim.world.store import StoreFaults
from sim.world.world import NodeDied, World
from thunderdb.base.errors import StorageError
from thunderdb.runtime.sync import Tasks

URL = "s3://b/p"
SECOND_NS = 1_000_000_000


def run(seed: int, body: Any, **faults: Any) -> Any:
    world = World(seed)
    world.store.faults = StoreFaults(**faults)
    node = world.node("a")

    async def harness() -> Any:
        return await node.call(body(node.ports.stores.open(URL), world))

    try:
        return world.run(harness())
    finally:
        world.close()


def test_who_gets_an_error_may_have_won() -> None:
    async def body(store: Any, world: World) -> None:
        with pytest.raises(StorageError, match="connection was lost"):
            await store.put_new("claim", b"mine")
        world.store.faults.error_after = 0
        assert not await store.put_new("claim", b"mine"), "the store does not know who asks"
        assert await store.get("claim") == b"mine"

    run(1, body, error_after=1.0)


def test_a_client_that_dies_has_changed_the_store_or_not() -> None:
    def outcome(seed: int) -> bool:
        world = World(seed)
        node = world.node("a")

        async def harness() -> None:
            call = node.call(node.ports.stores.open(URL).put_new("x", b"1"))
            world.kernel.at(10_000_000 + seed * 1_000_000, node.crash)
            with pytest.raises(NodeDied):
                await call

        try:
            world.run(harness())
            return f"{URL}/x" in world.store.objects
        except pytest.fail.Exception:
            return True  # it was answered before the crash
        finally:
            world.close()

    outcomes = [outcome(seed) for seed in range(25)]
    assert True in outcomes and False in outcomes


def test_a_listing_that_lags_shows_what_was() -> None:
    async def body(store: Any, world: World) -> None:
        sleep = Tasks(store._stores.scheduler).sleep
        await store.put("kept", b"1")
        await store.put("gone", b"22")
        await store.put("replaced", b"333")
        await sleep(10 * SECOND_NS)
        await store.delete("gone")
        await store.put("replaced", b"4444")
        await store.put("new", b"55555")
        assert {entry.key: entry.size_bytes for entry in await store.list()} == {"gone": 2, "kept": 1, "replaced": 3}
        assert await store.get("replaced") == b"4444" and await store.size("gone") is None, "only listings lag"
        await sleep(10 * SECOND_NS)
        assert {entry.key: entry.size_bytes for entry in await store.list()} == {"kept": 1, "new": 5, "replaced": 4}

    run(1, body, lag_ns=5 * SECOND_NS)

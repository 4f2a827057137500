"""A directory as an object store, on the in-memory disk and on the simulated one."""

from __future__ import annotations

from typing import Any

import pytest

from sim.world.world import World
from thunderdb.archive.directory import DirectoryStore, open_store
from thunderdb.base.errors import ConfigError, StorageError
from thunderdb.runtime.inline import InlineWorld


def run(main: Any) -> Any:
    world = InlineWorld()
    return world.run(main(DirectoryStore(world.disk, "/a")))


def test_what_is_put_is_read_back_and_listed() -> None:
    async def main(store: DirectoryStore) -> None:
        await store.put("b/2", b"two")
        await store.put("b/1", b"one")
        await store.put("c", b"three")
        assert await store.get("b/2") == b"two"
        assert await store.get_range("c", 1, 3) == b"hre"
        assert [(stored.key, stored.size_bytes) for stored in await store.list()] == [("b/1", 3), ("b/2", 3), ("c", 5)]
        assert [stored.key for stored in await store.list("b/")] == ["b/1", "b/2"]
        assert [stored.key for stored in await store.list("b/2")] == ["b/2"]
        await store.put("c", b"4")
        assert await store.get("c") == b"4"
        await store.delete("c")
        await store.delete("c")
        assert await store.size("c") is None

    run(main)


def test_only_the_first_put_new_wins() -> None:
    async def main(store: DirectoryStore) -> None:
        assert await store.put_new("x", b"first")
        assert not await store.put_new("x", b"second")
        assert await store.get("x") == b"first"
        assert [stored.key for stored in await store.list()] == ["x"]

    run(main)


def test_an_aborted_object_is_nowhere() -> None:
    async def main(store: DirectoryStore) -> None:
        writer = await store.writer("x")
        await writer.write(b"half")
        assert await store.list() == []
        await writer.abort()
        assert await store.size("x") is None

    run(main)


@pytest.mark.parametrize("key", ["", "/x", "../x", "a/../b", "a//b", "."])
def test_a_key_never_leaves_the_directory(key: str) -> None:
    async def main(store: DirectoryStore) -> None:
        with pytest.raises(StorageError, match="not the name of an object"):
            await store.put(key, b"")

    run(main)


def test_a_url_goes_to_the_stores() -> None:
    with pytest.raises(ConfigError, match="s3://bucket"):
        open_store(InlineWorld(), "s3://bucket")


@pytest.mark.parametrize("seed", range(20))
def test_a_put_that_returned_survives_a_power_cut(seed: int) -> None:
    world = World(seed)
    node = world.node("a")

    async def put(store: DirectoryStore) -> None:
        await store.put("x", b"old")
        await store.put("x", b"new")

    async def harness() -> bytes:
        await node.call(put(DirectoryStore(node.ports.disk, "/a")))
        node.crash()
        node.restart()
        return await node.call(DirectoryStore(node.ports.disk, "/a").get("x"))

    assert world.run(harness()) == b"new"
    world.close()


def test_two_writers_of_one_new_name_have_one_winner() -> None:
    world = World(3)
    node = world.node("a")

    async def harness() -> list[bool]:
        stores = [node.ports.stores.open("s3://b/p"), node.ports.stores.open("s3://b/p")]
        calls = [node.call(store.put_new("k", b"%d" % index)) for index, store in enumerate(stores)]
        return [await call for call in calls]

    assert sorted(world.run(harness())) == [False, True]
    world.close()


def test_two_that_write_one_object_do_not_mix_their_bytes() -> None:
    async def main(store: DirectoryStore) -> None:
        first, second = await store.writer("x"), await store.writer("x")
        await first.write(b"1111")
        await second.write(b"22")
        await first.close()
        assert await store.get("x") == b"1111"
        await second.close()
        assert await store.get("x") == b"22"

    run(main)


def test_what_a_crash_left_goes_with_the_object() -> None:
    world = InlineWorld()

    async def main(store: DirectoryStore) -> None:
        for name in ("/a/.x.tmp", "/a/.x.7.tmp", "/a/.x.partial.tmp"):
            world.disk.files[name] = bytearray(b"half")
        await store.put("x", b"whole")
        await store.delete("x")
        assert sorted(world.disk.files) == ["/a/.x.partial.tmp"], "that is of another object"

    async def prepared() -> None:
        await world.disk.make_dirs("/a")
        await main(DirectoryStore(world.disk, "/a"))

    world.run(prepared())

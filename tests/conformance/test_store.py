"""The ObjectStore port: the same behaviour from a directory (in memory, simulated, real), a simulated store and real clients
of S3 (moto), Azure (Azurite) and Google (a stub)."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from sim.world.world import World
from thunderdb.archive.directory import DirectoryStore
from thunderdb.base.errors import ConfigError, StorageError
from thunderdb.runtime.inline import InlineWorld
from thunderdb.runtime.ports import ObjectStore
from thunderdb.runtime.real_ports import run_real
from tools.harness.emulators import Emulator

REMOTE = ("s3", "az", "gs")
_prefixes = itertools.count(1)

Body = Callable[[ObjectStore], Coroutine[Any, Any, Any]]


class StoreWorld:
    """`run(body)` drives `body(store)` over an empty store of its kind; a second store of the same place by `again`."""

    def __init__(self, kind: str, directory: Path, emulator: Emulator | None) -> None:
        self.kind = kind
        self.place = emulator.url(f"p{next(_prefixes)}/q") if emulator else f"{directory}/store"
        self._seed = int(kind.partition(":")[2] or 0)

    def open(self, ports: Any) -> ObjectStore:
        if self.kind == "sim-store":
            return ports.stores.open("s3://bucket/p")
        return ports.stores.open(self.place) if self.kind in REMOTE else DirectoryStore(ports.disk, self.place)

    def run(self, body: Body) -> Any:
        async def main(ports: Any) -> Any:
            return await body(self.open(ports))

        return self.run_ports(main)

    def run_ports(self, main: Callable[[Any], Coroutine[Any, Any, Any]]) -> Any:
        if self.kind in ("disk", *REMOTE):
            return run_real(main)
        if self.kind == "inline":
            world = InlineWorld(suspend=True)
            return world.run(main(world))
        simulated = World(self._seed)
        node = simulated.node("a")

        async def harness() -> Any:
            return await node.call(main(node.ports))

        try:
            return simulated.run(harness(), limit_ns=3600 * 10**9)
        finally:
            simulated.close()


@pytest.fixture(params=["inline", "disk", "sim-disk:1", "sim-store", *REMOTE])
def world(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    emulators: Callable[[str], Emulator],
    monkeypatch: pytest.MonkeyPatch,
) -> StoreWorld:
    kind: str = request.param
    emulator = None
    if kind in REMOTE:
        for name in list(os.environ):
            if name.startswith(("AWS_", "AZURE_", "GOOGLE_", "STORAGE_EMULATOR")):
                monkeypatch.delenv(name)
        emulator = emulators(kind)
        for name, value in emulator.environment.items():
            monkeypatch.setenv(name, value)
    return StoreWorld(kind, tmp_path if kind == "disk" else Path("/var"), emulator)


def test_what_is_put_is_read_back(world: StoreWorld) -> None:
    async def body(store: ObjectStore) -> None:
        for content in (b"", b"one", bytes(range(256)) * 1000):
            await store.put("a/x-1.y_z", content)
            assert await store.get("a/x-1.y_z") == content
            assert await store.size("a/x-1.y_z") == len(content)

    world.run(body)


def test_a_new_client_sees_what_was_put(world: StoreWorld) -> None:
    async def main(ports: Any) -> bytes:
        await world.open(ports).put("x", b"kept")
        return await world.open(ports).get("x")

    assert world.run_ports(main) == b"kept"


@pytest.mark.parametrize("offset,size", [(0, 0), (0, 5), (0, 10), (3, 4), (8, 100), (9, 1), (10, 1), (11, 5), (3, 0)])
def test_ranges_end_where_the_object_does(world: StoreWorld, offset: int, size: int) -> None:
    content = b"0123456789"

    async def body(store: ObjectStore) -> bytes:
        await store.put("x", content)
        return await store.get_range("x", offset, size)

    assert world.run(body) == content[offset : offset + size]


def test_a_range_of_an_empty_object_is_empty(world: StoreWorld) -> None:
    async def body(store: ObjectStore) -> bytes:
        await store.put("x", b"")
        return await store.get_range("x", 0, 10)

    assert world.run(body) == b""


def test_what_is_not_there(world: StoreWorld) -> None:
    async def body(store: ObjectStore) -> None:
        await store.put("other", b"x")
        assert await store.size("x") is None
        with pytest.raises(FileNotFoundError):
            await store.get("x")
        with pytest.raises(FileNotFoundError):
            await store.get_range("x", 0, 10)
        with pytest.raises(FileNotFoundError):
            await store.get_range("x", 0, 0)
        await store.delete("x")
        assert await store.list("x") == []

    world.run(body)


def test_an_empty_store_lists_nothing(world: StoreWorld) -> None:
    async def body(store: ObjectStore) -> Any:
        return await store.list(), await store.list("a/")

    assert world.run(body) == ([], [])


def test_a_listing_is_sorted_and_whole(world: StoreWorld) -> None:
    keys = [f"wal/{number:024X}" for number in range(0, 240, 2)] + ["b", "wal.txt", "wal/x/y", "a/b/c"]

    async def body(store: ObjectStore) -> None:
        for key in reversed(keys):
            await store.put(key, key.encode())
        listed = await store.list()
        assert [(entry.key, entry.size_bytes) for entry in listed] == [(key, len(key)) for key in sorted(keys)]
        for prefix in ("wal", "wal/", "wal/0000", "wal/00000000000000000000001", "a", "a/b", "c", "wal/x/y", "wal/x/y/"):
            assert [entry.key for entry in await store.list(prefix)] == [key for key in sorted(keys) if key.startswith(prefix)]

    world.run(body)


def test_only_the_first_put_new_wins(world: StoreWorld) -> None:
    async def body(store: ObjectStore) -> None:
        assert await store.put_new("x", b"first")
        assert not await store.put_new("x", b"second")
        assert not await store.put_new("x", b"first"), "the same content is not a win either"
        assert await store.get("x") == b"first"
        await store.delete("x")
        assert await store.put_new("x", b"third")
        assert await store.get("x") == b"third"

    world.run(body)


def test_of_many_that_create_at_once_one_wins(world: StoreWorld) -> None:
    async def main(ports: Any) -> Any:
        stores = [world.open(ports) for _ in range(6)]
        tasks = [ports.tasks.spawn(store.put_new("x", b"%d" % index), "put") for index, store in enumerate(stores)]
        won = [await task for task in tasks]
        return won, await stores[0].get("x")

    won, content = world.run_ports(main)
    assert won.count(True) == 1
    assert content == b"%d" % won.index(True)


def test_a_put_replaces_and_a_delete_removes(world: StoreWorld) -> None:
    async def body(store: ObjectStore) -> None:
        await store.put("x", b"a long first one")
        await store.put("x", b"short")
        assert await store.get("x") == b"short"
        await store.delete("x")
        assert await store.size("x") is None
        assert await store.list() == []

    world.run(body)


# A part of the real client's uploads has 8 MB: none, one, several.
@pytest.mark.parametrize("sizes", [[], [0], [1, 2, 3], [8 << 20], [3 << 20] * 7, [(17 << 20) + 1]])
def test_an_object_written_in_pieces(world: StoreWorld, sizes: list[int]) -> None:
    pieces = [bytes([number + 1]) * size for number, size in enumerate(sizes)]

    async def body(store: ObjectStore) -> bool:
        writer = await store.writer("d/x")
        for piece in pieces:
            await writer.write(memoryview(piece))
            assert await store.size("d/x") is None, "not there before it is closed"
        await writer.close()
        return await store.get("d/x") == b"".join(pieces)

    assert world.run(body)


def test_a_large_object_at_once_and_in_ranges(world: StoreWorld) -> None:
    content = b"".join(number.to_bytes(4, "big") for number in range((9 << 20) // 4))

    async def body(store: ObjectStore) -> bytes:
        await store.put("x", content)
        return b"".join([await store.get_range("x", at, 4 << 20) for at in range(0, len(content), 4 << 20)])

    assert world.run(body) == content


@pytest.mark.parametrize("size", [0, 100, 9 << 20])
def test_an_aborted_object_is_nowhere(world: StoreWorld, size: int) -> None:
    async def body(store: ObjectStore) -> None:
        await store.put("x", b"as it was")
        writer = await store.writer("x")
        await writer.write(bytes(size))
        await writer.abort()
        assert await store.get("x") == b"as it was"
        assert [entry.key for entry in await store.list()] == ["x"]
        writer = await store.writer("y")
        await writer.abort()
        assert await store.size("y") is None

    world.run(body)


@pytest.mark.parametrize("key", ["", "/x", "../x", "a/../b", "a//b", ".", "a/"])
def test_a_key_never_leaves_the_place(world: StoreWorld, key: str) -> None:
    async def body(store: ObjectStore) -> None:
        for call in (store.put(key, b""), store.put_new(key, b""), store.get(key), store.delete(key), store.size(key)):
            with pytest.raises(StorageError, match="not the name of an object"):
                await call
        with pytest.raises(StorageError, match="not the name of an object"):
            await store.writer(key)

    world.run(body)


@pytest.mark.parametrize("kind", REMOTE)
def test_a_bucket_that_is_not_there_is_an_error_and_never_empty(
    kind: str, emulators: Callable[[str], Emulator], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in emulators(kind).environment.items():
        monkeypatch.setenv(name, value)

    async def main(ports: Any) -> None:
        store = ports.stores.open(f"{kind}://no-such-bucket/p")
        calls = [store.list(), store.put("x", b""), store.put_new("x", b""), store.get("x"), store.put("x", bytes(9 << 20))]
        for call in calls:
            with pytest.raises(StorageError, match=f"{kind}://no-such-bucket/p: cannot .* 404") as caught:
                await call
            assert "create the bucket or container" in caught.value.hint

    run_real(main)


def test_without_the_client_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "obstore", None)

    async def main(ports: Any) -> None:
        ports.stores.open("s3://bucket/p")

    with pytest.raises(ConfigError, match="s3://bucket/p needs the package obstore") as caught:
        run_real(main)
    assert "thunderdb[stores]" in caught.value.hint

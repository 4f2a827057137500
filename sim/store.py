"""Simulated object stores: objects that are durable when `put` returns, at the latency and bandwidth of a profile.

A store belongs to the world, not to a node: it outlives every node and every region. `StoreServer` is the bucket with its
faults; `SimStores` is a node's client for it, dead when the node is.

S1. A put is atomic: a crash of the client during it leaves the object as it was, or the new one.
S2. `put_new` has one winner.
S3. Faults answer as real stores do: an error before or *after* the change was made (the client cannot tell), a body cut
    short, a listing that lags behind, an outage.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from sim.kernel import PortRevoked, SimScheduler
from sim.rand import Stream
from sim.trace import Op
from thunderdb.base.errors import StorageError
from thunderdb.runtime.ports import Stored
from thunderdb.runtime.sync import Future

MS = 1_000_000


@dataclass(slots=True)
class StoreProfile:
    """Latency of a request and bandwidth of a body."""

    latency_ns: int = 20 * MS
    bytes_a_second: int = 100 << 20


@dataclass(slots=True)
class StoreFaults:
    """Probabilities a request. `lag_ns` is how long a listing may be behind."""

    error_before: float = 0.0
    error_after: float = 0.0
    truncated: float = 0.0
    lag_ns: int = 0
    down: bool = False


@dataclass(slots=True)
class StoreServer:
    """All objects of the world by URL, with when they were changed; `fired` counts faults by kind."""

    objects: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    removed: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    profile: StoreProfile = field(default_factory=StoreProfile)
    faults: StoreFaults = field(default_factory=StoreFaults)
    fired: Counter[str] = field(default_factory=Counter)


class SimStores:
    """A node's client."""

    def __init__(self, server: StoreServer, scheduler: SimScheduler, random: Stream) -> None:
        self.server = server
        self.scheduler = scheduler
        self.random = random

    def open(self, url: str) -> SimStore:
        return SimStore(self, url.rstrip("/"))


class SimStore:
    """One prefix of one bucket. Satisfies `ports.ObjectStore`."""

    def __init__(self, stores: SimStores, url: str) -> None:
        self.place = url
        self._stores = stores
        self._server = stores.server

    async def get(self, key: str) -> bytes:
        return await self.get_range(key, 0, 1 << 62)

    async def get_range(self, key: str, offset: int, size: int) -> bytes:
        await self._request("get", 0)
        found = self._server.objects.get(self._url(key))
        if found is None:
            raise FileNotFoundError(f"no such object: {self._url(key)}")
        data = found[0][offset : offset + size]
        await self._wait(len(data))
        if data and self._fires("truncated"):
            raise StorageError(f"{self._url(key)}: the body ended early")
        return data

    async def size(self, key: str) -> int | None:
        await self._request("size", 0)
        found = self._server.objects.get(self._url(key))
        return None if found is None else len(found[0])

    async def put(self, key: str, data: bytes) -> None:
        await self._request("put", len(data))
        self._change(key, bytes(data))
        self._after()

    async def put_new(self, key: str, data: bytes) -> bool:
        await self._request("put_new", len(data))
        if self._url(key) in self._server.objects:
            return False
        self._change(key, bytes(data))
        self._after()
        return True

    async def writer(self, key: str) -> SimStoreWriter:
        await self._request("create", 0)
        return SimStoreWriter(self, key)

    async def list(self, prefix: str = "") -> list[Stored]:
        await self._request("list", 0)
        server, start = self._server, f"{self.place}/"
        seen = dict(server.objects)
        horizon_ns = self._now() - server.faults.lag_ns
        for url, (old, changed_ns) in server.removed.items():
            if changed_ns > horizon_ns:
                seen[url] = (old, changed_ns)
        listed = []
        for url in sorted(seen):
            content, changed_ns = seen[url]
            if not url.startswith(start + prefix):
                continue
            if url in server.objects and server.faults.lag_ns and changed_ns > horizon_ns:
                server.fired["store.lag"] += 1
                continue
            listed.append(Stored(url[len(start) :], len(content), changed_ns))
        return listed

    async def delete(self, key: str) -> None:
        await self._request("delete", 0)
        found = self._server.objects.pop(self._url(key), None)
        if found is not None:
            self._server.removed[self._url(key)] = (found[0], self._now())
            self._trace(self._url(key), b"")
        self._after()

    # The way there and back.

    def _change(self, key: str, data: bytes) -> None:
        self._server.objects[self._url(key)] = (data, self._now())
        self._trace(self._url(key), data)

    def _url(self, key: str) -> str:
        return f"{self.place}/{key}"

    def _now(self) -> int:
        return self._stores.scheduler.kernel.now_ns

    async def _request(self, what: str, size: int) -> None:
        await self._wait(size)
        if self._server.faults.down:
            self._server.fired["store.down"] += 1
            raise StorageError(f"{self.place}: {what}: connection refused")
        if self._fires("error_before"):
            raise StorageError(f"{self.place}: {what}: 503 Slow Down")

    def _after(self) -> None:
        if self._fires("error_after"):
            raise StorageError(f"{self.place}: the connection was lost before the answer came")

    def _fires(self, kind: str) -> bool:
        probability: float = getattr(self._server.faults, kind)
        if probability and self._stores.random.random() < probability:
            self._server.fired[f"store.{kind}"] += 1
            return True
        return False

    async def _wait(self, size: int) -> None:
        scheduler, profile = self._stores.scheduler, self._server.profile
        if not scheduler.alive:
            raise PortRevoked(self.place)
        done: Future[None] = Future(scheduler)
        transfer_ns = size * 1_000_000_000 // profile.bytes_a_second
        jitter_ns = self._stores.random.between(0, profile.latency_ns // 2)
        scheduler.after(profile.latency_ns + jitter_ns + transfer_ns, done.set_result, None)
        await done
        if not scheduler.alive:
            raise PortRevoked(self.place)

    def _trace(self, url: str, data: bytes) -> None:
        scheduler = self._stores.scheduler
        scheduler.trace.event(self._now(), scheduler.node, Op.STORE, url.encode() + b"\0" + data)


class SimStoreWriter:
    """Collects an object; it appears at `close` (S1)."""

    def __init__(self, store: SimStore, key: str) -> None:
        self._store = store
        self._key = key
        self._parts: list[bytes] = []

    async def write(self, data: bytes | memoryview) -> None:
        self._parts.append(bytes(data))
        await self._store._request("upload part", len(data))

    async def close(self) -> None:
        await self._store.put(self._key, b"".join(self._parts))

    async def abort(self) -> None:
        self._parts.clear()

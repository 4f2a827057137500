"""Simulated object stores: objects that are durable when `put` returns, at the latency and bandwidth of a profile.

A store belongs to the world, not to a node: it outlives every node and every region. `StoreServer` is the bucket with its
faults; `SimStores` is a node's client for it, dead when the node is.

S1. A put is atomic: a crash of the client during it leaves the object as it was, or the new one, and nobody has heard which.
S2. `put_new` has one winner.
S3. Requests of a node share its bandwidth; each alone is no faster than one stream. At a scale, a request stands for as
    many as the large body would take, one after the other, each with its latency. Only what the engine has under way overlaps.
S4. Faults answer as real stores do: an error before or *after* the change was made (the client cannot tell), one that comes
    late, a body cut short, a listing that lags behind, an outage.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from sim.world.kernel import PortRevoked, SimScheduler
from sim.world.rand import Stream
from sim.world.trace import Op
from thunderdb.base.errors import StorageError
from thunderdb.runtime.inflight import InFlight
from thunderdb.runtime.ports import Stored
from thunderdb.runtime.store_options import PART_BYTES, REQUEST_BYTES, check_key
from thunderdb.runtime.sync import Future, Tasks

MS = 1_000_000
LEAST_REQUEST_BYTES = 8 << 10
TIMEOUT_NS = 10_000 * MS


@dataclass(slots=True)
class StoreProfile:
    """Latency of a request, bandwidth of all bodies together and of one (0: the same). A byte stands for `scale` bytes."""

    latency_ns: int = 20 * MS
    bytes_a_second: int = 100 << 20
    stream_bytes_a_second: int = 0
    scale: int = 1


@dataclass(slots=True)
class StoreFaults:
    """Probabilities a request. `lag_ns` is how long a listing may be behind."""

    error_before: float = 0.0
    error_after: float = 0.0
    truncated: float = 0.0
    timeout: float = 0.0
    lag_ns: int = 0
    down: bool = False

    @property
    def any(self) -> bool:
        return self.down or bool(self.lag_ns or self.error_before or self.error_after or self.truncated or self.timeout)

    def clear(self) -> None:
        """Heal everything."""
        self.error_before = self.error_after = self.truncated = self.timeout = 0.0
        self.lag_ns, self.down = 0, False


@dataclass(slots=True)
class Bucket:
    """A part of the server with a speed and faults of its own: all URLs below `url`."""

    url: str
    profile: StoreProfile = field(default_factory=StoreProfile)
    faults: StoreFaults = field(default_factory=StoreFaults)


@dataclass(slots=True)
class StoreServer:
    """All objects of the world by URL, with when they were changed, and what was last replaced or removed, for listings that
    lag; `fired` counts faults by kind."""

    objects: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    removed: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    profile: StoreProfile = field(default_factory=StoreProfile)
    faults: StoreFaults = field(default_factory=StoreFaults)
    fired: Counter[str] = field(default_factory=Counter)
    buckets: dict[str, Bucket] = field(default_factory=dict)
    first: dict[str, bytes] = field(default_factory=dict)
    """Every object as it was first put, whatever has become of it."""
    on_fault: Callable[[str, str], None] | None = None

    def keep(self, url: str, data: bytes, now_ns: int) -> None:
        """An object has come, or come again."""
        before = self.objects.get(url)
        if before is not None:
            self.removed[url] = (before[0], now_ns)
        self.objects[url] = (data, now_ns)
        self.first.setdefault(url, data)

    def struck(self, kind: str) -> None:
        """A fault has met a request."""
        self.fired[f"store.{kind}"] += 1
        if self.on_fault is not None:
            self.on_fault("store_outage" if kind == "down" else f"store_{kind}", "store")

    def bucket(self, url: str) -> Bucket:
        """The bucket that a URL lies in; where none was named, one that shares the server's own profile and faults."""
        found = [bucket for name, bucket in self.buckets.items() if url == name or url.startswith(name + "/")]
        return max(found, key=lambda bucket: len(bucket.url)) if found else Bucket("", self.profile, self.faults)


class SimStores:
    """A node's client."""

    def __init__(self, server: StoreServer, scheduler: SimScheduler, random: Stream) -> None:
        self.server = server
        self.scheduler = scheduler
        self.random = random
        self.busy_until_ns = 0  # S3

    def open(self, url: str) -> SimStore:
        return SimStore(self, url.rstrip("/"))


class SimStore:
    """One prefix of one bucket. Satisfies `ports.ObjectStore`."""

    def __init__(self, stores: SimStores, url: str) -> None:
        self.place = url
        self._stores = stores
        self._server = stores.server

    @property
    def _bucket(self) -> Bucket:
        return self._server.bucket(self.place)

    @property
    def request_bytes(self) -> int:
        """At a scale, small enough that as many requests as in production can be under way."""
        scale = self._bucket.profile.scale
        return REQUEST_BYTES if scale == 1 else max(LEAST_REQUEST_BYTES, REQUEST_BYTES // scale)

    async def get(self, key: str) -> bytes:
        return await self.get_range(key, 0, 1 << 62)

    async def get_range(self, key: str, offset: int, size: int) -> bytes:
        await self._request("get", 0)
        found = self._server.objects.get(self._url(key))
        if found is None:
            raise FileNotFoundError(f"no such object: {self._url(key)}")
        data = found[0][offset : offset + size]
        await self._body(len(data), REQUEST_BYTES, 0)
        if data and self._fires("truncated"):
            raise StorageError(f"{self._url(key)}: the body ended early")
        return data

    async def size(self, key: str) -> int | None:
        await self._request("size", 0)
        found = self._server.objects.get(self._url(key))
        return None if found is None else len(found[0])

    async def put(self, key: str, data: bytes) -> None:
        await self._finish(key, bytes(data), len(data))

    async def _finish(self, key: str, data: bytes, size: int) -> None:
        """The request that makes an object, of which so many bytes have not been sent yet."""
        check_key(key)
        await self._request("put", size)
        self._change(key, data)
        await self._answer()

    async def put_new(self, key: str, data: bytes) -> bool:
        check_key(key)
        await self._request("put_new", len(data))
        if self._url(key) in self._server.objects:
            return False
        self._change(key, bytes(data))
        await self._answer()
        return True

    async def writer(self, key: str, requests: int = 1) -> SimStoreWriter:
        check_key(key)
        await self._request("create", 0)
        return SimStoreWriter(self, key, requests)

    async def list(self, prefix: str = "") -> list[Stored]:
        await self._request("list", 0)
        server, start = self._server, f"{self.place}/"
        lag_ns = self._bucket.faults.lag_ns
        horizon_ns = self._now() - lag_ns
        listed = []
        for url in sorted({**server.objects, **server.removed}):
            if not url.startswith(start + prefix):
                continue
            seen = server.objects.get(url)
            if lag_ns and (seen is None or seen[1] > horizon_ns):
                before = server.removed.get(url)
                seen = before if before is not None and before[1] > horizon_ns else None
                server.struck("lag")
            if seen is not None:
                listed.append(Stored(url[len(start) :], len(seen[0]), seen[1]))
        return listed

    async def delete(self, key: str) -> None:
        await self._request("delete", 0)
        found = self._server.objects.pop(self._url(key), None)
        if found is not None:
            self._server.removed[self._url(key)] = (found[0], self._now())
            self._trace(self._url(key), b"")
        await self._answer()

    # The way there and back.

    def _change(self, key: str, data: bytes) -> None:
        self._server.keep(self._url(key), data, self._now())
        self._trace(self._url(key), data)

    def _url(self, key: str) -> str:
        return f"{self.place}/{check_key(key)}"

    def _now(self) -> int:
        return self._stores.scheduler.kernel.now_ns

    async def _request(self, what: str, size: int) -> None:
        profile = self._bucket.profile
        await self._body(size, PART_BYTES, profile.latency_ns + self._stores.random.between(0, profile.latency_ns // 2))
        if self._bucket.faults.down:
            self._server.struck("down")
            raise StorageError(f"{self.place}: {what}: connection refused")
        if self._fires("timeout"):
            await self._pause(TIMEOUT_NS)
            raise StorageError(f"{self.place}: {what}: timed out")
        if self._fires("error_before"):
            raise StorageError(f"{self.place}: {what}: 503 Slow Down")

    async def _answer(self) -> None:
        """The way back of a change that the store has made: the client may die, or lose the connection, before it hears."""
        await self._pause(self._stores.random.between(0, self._bucket.profile.latency_ns // 4))
        if self._fires("error_after"):
            raise StorageError(f"{self.place}: the connection was lost before the answer came")

    def _fires(self, kind: str) -> bool:
        probability: float = getattr(self._bucket.faults, kind)
        if probability and self._stores.random.random() < probability:
            self._server.struck(kind)
            return True
        return False

    async def _body(self, size: int, request_bytes: int, latency_ns: int) -> None:
        """Let a body pass, after the latency of its request (S3)."""
        stores, profile = self._stores, self._bucket.profile
        if profile.scale > 1:
            more = (size * profile.scale - 1) // request_bytes
            latency_ns += max(0, more) * (profile.latency_ns * 5 // 4)
        start_ns = self._now() + latency_ns
        bodies_ns = size * profile.scale * 1_000_000_000 // profile.bytes_a_second
        alone_ns = bodies_ns
        if profile.stream_bytes_a_second:
            alone_ns = max(alone_ns, size * profile.scale * 1_000_000_000 // profile.stream_bytes_a_second)
        stores.busy_until_ns = max(self._now(), stores.busy_until_ns) + bodies_ns
        await self._pause(max(start_ns + alone_ns, stores.busy_until_ns) - self._now())

    async def _pause(self, delay_ns: int) -> None:
        scheduler = self._stores.scheduler
        if not scheduler.alive:
            raise PortRevoked(self.place)
        done: Future[None] = Future(scheduler)
        scheduler.after(delay_ns, done.set_result, None)
        await done
        if not scheduler.alive:
            raise PortRevoked(self.place)

    def _trace(self, url: str, data: bytes) -> None:
        scheduler = self._stores.scheduler
        scheduler.trace.event(self._now(), scheduler.node, Op.STORE, url.encode() + b"\0" + data)


class SimStoreWriter:
    """Collects an object; it appears at `close` (S1). What is more than a part goes out in parts, some at a time, as in
    production; of the part that is begun nobody hears before the next."""

    def __init__(self, store: SimStore, key: str, requests: int) -> None:
        self._store = store
        self._key = key
        self._data = bytearray()
        self._sent = 0
        scheduler = store._stores.scheduler
        self._parts: InFlight[None] = InFlight(Tasks(scheduler), requests, "upload part")

    async def write(self, data: bytes | memoryview) -> None:
        self._data += data
        store = self._store
        part = PART_BYTES if store._bucket.profile.scale == 1 else 2 * store.request_bytes
        while len(self._data) - self._sent > part:
            await self._parts.room()
            self._parts.begin(store._request("upload part", part))
            self._sent += part

    async def close(self) -> None:
        if self._sent:
            await self._parts.room()
            self._parts.begin(self._store._request("upload part", len(self._data) - self._sent))
            await self._parts.drain()
        await self._store._finish(self._key, bytes(self._data), 0 if self._sent else len(self._data))

    async def abort(self) -> None:
        await self._parts.settle()
        self._data.clear()

"""`ObjectStore` over the network: S3 and what is compatible with it, Google Cloud Storage, Azure Blob Storage, through obstore.

obstore (the client of Rust's object_store) is imported when the first store is opened. The environment of the process says how
to reach it: see store_options.

B1. Each call ends: a request that gets no byte for `read_timeout_s` fails, and is retried with backoff up to `retry_s` in all.
B2. An object appears whole: with one request, or as a multipart upload that is completed at the end. An upload that failed or
    was aborted is taken back; one whose process died leaves parts that nobody sees, for the bucket's lifecycle rule to remove.
B3. `put_new` and `delete` are retried here and not in the client, which repeats no such request after a time-out. An answer may
    be lost after the object was made, and the retry then finds "exists": if what exists is what was sent, the caller has won.
B4. A body that is shorter than the store said is an error, never an object.
B5. No error text holds a secret or a query string (store_options O1).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from thunderdb.base.errors import ConfigError, StorageError
from thunderdb.runtime.ports import ObjectStore, Stored
from thunderdb.runtime.real_tasks import AsyncioScheduler, from_asyncio
from thunderdb.runtime.store_options import (
    PART_BYTES,
    REQUEST_BYTES,
    StoreOptions,
    advice,
    check_key,
    explain,
    is_missing_bucket,
    store_options,
)
from thunderdb.runtime.sync import Future

T = TypeVar("T")

PARTS_AT_ONCE = 4
LIST_PAGE = 1000
_BEHIND_THE_END = ("status code: 416", "Wanted range starting at")  # how a range that begins there is answered
_INSTALL = "pip install 'thunderdb[stores]'"


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """How long a request may take, and how long it is repeated."""

    connect_s: float = 10.0
    read_timeout_s: float = 30.0
    request_s: float = 600.0
    retry_s: float = 60.0
    retries: int = 8
    first_pause_s: float = 0.2
    longest_pause_s: float = 10.0


class RealStores:
    def __init__(self, scheduler: AsyncioScheduler, limits: StoreLimits | None = None) -> None:
        self._scheduler = scheduler
        self._limits = limits or StoreLimits()

    def open(self, url: str) -> ObjectStore:
        options = store_options(url, os.environ)
        try:
            import obstore
        except ImportError:
            raise ConfigError(f"{url} needs the package obstore, which is not installed", _INSTALL) from None
        place = f"{options.scheme}://{options.bucket}" + (f"/{options.prefix}" if options.prefix else "")
        return RealStore(self._scheduler, _Client(obstore, options, self._limits, place))


class _Client:
    """obstore's two clients of a store, one that retries and one that does not, and the translation of their errors."""

    def __init__(self, obstore: Any, options: StoreOptions, limits: StoreLimits, place: str) -> None:
        self.api = obstore
        self.place = place
        self.limits = limits
        self._scheme = options.scheme
        try:
            self.retrying = _open(options, limits, limits.retries)
            self.once = _open(options, limits, 0)
        except (ValueError, obstore.exceptions.BaseError) as error:
            raise ConfigError(f"{place} cannot be opened: {explain(str(error), os.environ)}") from None

    def failure(self, action: str, error: BaseException) -> StorageError:
        text = str(error)
        if isinstance(error, TimeoutError):
            text = "no answer in time"
        return StorageError(f"{self.place}: cannot {action}: {explain(text, os.environ)}", advice(text, self._scheme))

    def is_absent(self, error: BaseException) -> bool:
        """Whether the object is not there, and not the bucket."""
        return isinstance(error, FileNotFoundError) and not is_missing_bucket(str(error))


def _open(options: StoreOptions, limits: StoreLimits, retries: int) -> Any:
    from obstore.store import AzureStore, GCSStore, S3Store

    kinds: dict[str, Any] = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}
    return kinds[options.scheme](
        options.bucket,
        prefix=options.prefix or None,
        config=options.config,
        client_options={
            "allow_http": options.allow_http,
            "connect_timeout": timedelta(seconds=limits.connect_s),
            "read_timeout": timedelta(seconds=limits.read_timeout_s),
            "timeout": timedelta(seconds=limits.request_s),
        },
        retry_config={
            "max_retries": retries,
            "retry_timeout": timedelta(seconds=limits.retry_s),
            "backoff": {
                "init_backoff": timedelta(seconds=limits.first_pause_s),
                "max_backoff": timedelta(seconds=limits.longest_pause_s),
                "base": 2,
            },
        },
    )


class RealStore:
    """Satisfies `ports.ObjectStore`."""

    request_bytes = REQUEST_BYTES

    def __init__(self, scheduler: AsyncioScheduler, client: _Client) -> None:
        self.place = client.place
        self._scheduler = scheduler
        self._client = client

    async def get(self, key: str) -> bytes:
        return await self._run(f"read {key}", _get(self._client, check_key(key)), missing=key)

    async def get_range(self, key: str, offset: int, size: int) -> bytes:
        return await self._run(f"read {key}", _get_range(self._client, check_key(key), offset, size), missing=key)

    async def size(self, key: str) -> int | None:
        try:
            head = await self._run(f"look for {key}", _head(self._client, check_key(key)), missing=key)
        except FileNotFoundError:
            return None
        return int(head["size"])

    async def put(self, key: str, data: bytes) -> None:
        await self._run(f"write {key}", _put(self._client, check_key(key), data))

    async def put_new(self, key: str, data: bytes) -> bool:
        return await self._run(f"create {key}", _put_new(self._client, check_key(key), bytes(data)))

    async def writer(self, key: str, requests: int = PARTS_AT_ONCE) -> RealStoreWriter:
        return RealStoreWriter(self, check_key(key), requests)

    async def list(self, prefix: str = "") -> list[Stored]:
        return await self._run(f"list {prefix or 'objects'}", _list(self._client, prefix))

    async def delete(self, key: str) -> None:
        await self._run(f"delete {key}", _delete(self._client, check_key(key)))

    def start(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        return from_asyncio(self._scheduler, coroutine)

    async def _run(self, action: str, coroutine: Coroutine[Any, Any, T], missing: str = "") -> T:
        try:
            return await self.start(coroutine)
        except (StorageError, ConfigError):
            raise
        except (self._client.api.exceptions.BaseError, OSError, ValueError) as error:
            if missing and self._client.is_absent(error):
                raise FileNotFoundError(2, "No such object", f"{self.place}/{missing}") from None
            raise self._client.failure(action, error) from None


async def _get(client: _Client, key: str) -> bytes:
    answer = await client.api.get_async(client.retrying, key)
    data = bytes(await answer.bytes_async())
    if len(data) != answer.meta["size"]:  # B4
        raise StorageError(f"{client.place}/{key}: the body ended early, after {len(data)} of {answer.meta['size']} bytes")
    return data


async def _get_range(client: _Client, key: str, offset: int, size: int) -> bytes:
    if size <= 0:
        await client.api.head_async(client.retrying, key)
        return b""
    try:
        answer = await client.api.get_async(client.retrying, key, options={"range": (offset, offset + size)})
    except client.api.exceptions.BaseError as error:
        if any(sign in str(error) for sign in _BEHIND_THE_END):
            return b""
        raise
    data = bytes(await answer.bytes_async())
    begin, end = answer.range
    if begin != offset or len(data) != end - begin:  # B4
        raise StorageError(f"{client.place}/{key}: the body ended early, after {len(data)} of {end - begin} bytes")
    return data


async def _head(client: _Client, key: str) -> Any:
    return await client.api.head_async(client.retrying, key)


async def _put(client: _Client, key: str, data: bytes) -> None:
    await client.api.put_async(
        client.retrying,
        key,
        data,
        use_multipart=len(data) > PART_BYTES,
        chunk_size=PART_BYTES,
        max_concurrency=PARTS_AT_ONCE,
    )


async def _put_new(client: _Client, key: str, data: bytes) -> bool:
    uncertain = False
    async for last in _attempts(client):
        try:
            await client.api.put_async(client.once, key, data, mode="create", use_multipart=False)
            return True
        except client.api.exceptions.AlreadyExistsError:
            return uncertain and await _get(client, key) == data  # B3
        except client.api.exceptions.GenericError as error:
            if last or not _passing(str(error)):
                raise
        uncertain = True
    return False


async def _attempts(client: _Client) -> AsyncIterator[bool]:
    """Pace the attempts at a request that the client itself does not repeat; yields whether this one is the last."""
    limits, loop = client.limits, asyncio.get_running_loop()
    give_up, pause_s = loop.time() + limits.retry_s, limits.first_pause_s
    for attempt in range(limits.retries + 1):
        yield attempt == limits.retries or loop.time() + pause_s > give_up
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, limits.longest_pause_s)


def _passing(text: str) -> bool:
    """Whether the same request may succeed later: no answer, or one that says so."""
    _, status, rest = text.partition("status code: ")
    return not status or rest[:3] in ("408", "409", "429") or rest[:1] == "5"


async def _list(client: _Client, prefix: str) -> list[Stored]:
    folder = prefix.rpartition("/")[0]
    found: list[Stored] = []
    async for page in client.api.list(client.retrying, folder or None, chunk_size=LIST_PAGE):
        for entry in page:
            if entry["path"].startswith(prefix):
                modified_ns = int(entry["last_modified"].timestamp()) * 1_000_000_000
                found.append(Stored(entry["path"], entry["size"], modified_ns))
    found.sort(key=lambda stored: stored.key)
    return found


async def _delete(client: _Client, key: str) -> None:
    async for last in _attempts(client):
        try:
            await client.api.delete_async(client.once, key)
            return
        except FileNotFoundError as error:
            if client.is_absent(error):
                return
            raise
        except client.api.exceptions.GenericError as error:
            if last or not _passing(str(error)):
                raise


class _Aborted(Exception):
    """Makes the client take an upload back."""


class RealStoreWriter:
    """Satisfies `ports.StoreWriter`. An object of at most one part is put at once; a larger one is a multipart upload (B2)."""

    def __init__(self, store: RealStore, key: str, requests: int) -> None:
        self._store = store
        self._requests = requests
        self._key = key
        self._buffer = bytearray()
        self._parts: asyncio.Queue[bytes | None | _Aborted] = asyncio.Queue(1)
        self._upload: asyncio.Task[Any] | None = None

    async def write(self, data: bytes | memoryview) -> None:
        self._buffer += data
        while len(self._buffer) > PART_BYTES:
            part = bytes(memoryview(self._buffer)[:PART_BYTES])
            del self._buffer[:PART_BYTES]
            await self._store._run(f"write {self._key}", self._send(part))

    async def close(self) -> None:
        if self._upload is None:
            await self._store.put(self._key, bytes(self._buffer))
        else:
            await self._store._run(f"write {self._key}", self._finish(bytes(self._buffer)))
        self._buffer.clear()

    async def abort(self) -> None:
        self._buffer.clear()
        if self._upload is not None:
            await self._store.start(self._take_back())

    async def _send(self, part: bytes | None | _Aborted) -> None:
        """Hand a part to the upload, unless that has ended. Raises: the upload's error."""
        if self._upload is None:
            self._upload = asyncio.ensure_future(self._run_upload())
        handing = asyncio.ensure_future(self._parts.put(part))
        await asyncio.wait({handing, self._upload}, return_when=asyncio.FIRST_COMPLETED)
        if self._upload.done() and not handing.done():
            handing.cancel()
            self._upload.result()

    async def _finish(self, rest: bytes) -> None:
        if rest:
            await self._send(rest)
        await self._send(None)
        if self._upload is not None:
            await self._upload

    async def _take_back(self) -> None:
        try:
            await self._send(_Aborted())
            if self._upload is not None:
                await self._upload
        except Exception:
            pass  # it has failed before, or the store is out of reach: parts may be left (B2)

    async def _run_upload(self) -> None:
        client = self._store._client
        await client.api.put_async(
            client.retrying,
            self._key,
            self._take_parts(),
            use_multipart=True,
            chunk_size=PART_BYTES,
            max_concurrency=self._requests,
        )

    async def _take_parts(self) -> AsyncIterator[bytes]:
        while (part := await self._parts.get()) is not None:
            if isinstance(part, _Aborted):
                raise part
            yield part

"""Threads for what would stop the loop: fsync, uncached reads, compression, hashing, DuckDB."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from thunderdb.runtime.real_tasks import AsyncioScheduler
from thunderdb.runtime.sync import Future

T = TypeVar("T")


class Threads:
    """A thread pool whose results come back as engine futures."""

    def __init__(self, scheduler: AsyncioScheduler, workers: int, name: str) -> None:
        self._scheduler = scheduler
        self._pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix=name)

    def submit(self, function: Callable[..., T], *args: Any) -> Future[T]:
        future: Future[T] = Future(self._scheduler)
        self._pool.submit(self._work, future, function, args)
        return future

    def _work(self, future: Future[T], function: Callable[..., T], args: tuple[Any, ...]) -> None:
        call_soon = self._scheduler.loop.call_soon_threadsafe
        try:
            try:
                result = function(*args)
            except BaseException as error:
                call_soon(future.set_error, error)
            else:
                call_soon(future.set_result, result)
        except RuntimeError:
            pass  # The loop has been closed meanwhile: nobody is left to be told.

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


class RealOffload:
    """`Offload` on a pool of its own, so that a long compression never holds up an fsync."""

    def __init__(self, scheduler: AsyncioScheduler, workers: int = 2) -> None:
        self._threads = Threads(scheduler, workers, "offload")

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        return await self._threads.submit(function, *args)

    def close(self) -> None:
        self._threads.close()

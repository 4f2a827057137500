"""Threads for what would stop the loop: fsync, uncached reads, compression, hashing, DuckDB."""

from __future__ import annotations

from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, TypeVar

from thunderdb.runtime.real_tasks import AsyncioScheduler
from thunderdb.runtime.sync import Future

T = TypeVar("T")


class Threads:
    """Up to `workers` threads, made as they are needed, whose results come back as engine futures.

    Leaner than a ThreadPoolExecutor: its own futures and locks cost each group commit more than the system call does.
    """

    def __init__(self, scheduler: AsyncioScheduler, workers: int, name: str) -> None:
        self._scheduler = scheduler
        self._workers = workers
        self._name = name
        self._jobs: SimpleQueue[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]] | None] = SimpleQueue()
        self._threads: list[Thread] = []
        self._running = 0  # jobs begun or queued, as the loop's thread knows
        self._closed = False

    def submit(self, function: Callable[..., T], *args: Any) -> Future[T]:
        if self._closed:
            raise RuntimeError("the threads are closed")
        future: Future[T] = Future(self._scheduler)
        self._running += 1
        self._jobs.put((future, function, args))
        if self._running > len(self._threads) < self._workers:
            thread = Thread(target=self._work, name=f"{self._name}_{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()
        return future

    def _work(self) -> None:
        take, tell = self._jobs.get, self._scheduler.loop.call_soon_threadsafe
        while (job := take()) is not None:
            future, function, args = job
            result: Any = None
            error: BaseException | None = None
            try:
                result = function(*args)
            except BaseException as raised:
                error = raised
            try:
                tell(self._done, future, result, error)
            except RuntimeError:
                pass  # The loop has been closed meanwhile: nobody is left to be told.
            del job, future, function, args, result, error  # a waiting thread holds on to nothing

    def _done(self, future: Future[Any], result: Any, error: BaseException | None) -> None:
        self._running -= 1
        if error is None:
            future.set_result(result)
        else:
            future.set_error(error)

    def close(self) -> None:
        """Drop what has not begun, wait for what has."""
        self._closed = True
        try:
            while True:
                self._jobs.get_nowait()
        except Empty:
            pass
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()


class RealOffload:
    """`Offload` on a pool of its own, so that a long compression never holds up an fsync."""

    def __init__(self, scheduler: AsyncioScheduler, workers: int = 2) -> None:
        self._threads = Threads(scheduler, workers, "offload")

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        return await self._threads.submit(function, *args)

    def close(self) -> None:
        self._threads.close()

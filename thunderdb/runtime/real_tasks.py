"""`sync.Tasks` on asyncio's loop, and the two bridges between the engine's futures and asyncio's.

A1. Engine callbacks run on the loop's thread only; a thread hands its result over through `call_soon_threadsafe`.
A2. The first fatal error calls `on_fatal` once; later ones are consequences and are dropped.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from thunderdb.runtime.ports import Timer
from thunderdb.runtime.sync import Cancelled, Future, Task, Tasks

T = TypeVar("T")

OnFatal = Callable[[BaseException], None]


class AsyncioScheduler:
    """`Scheduler` over one running asyncio loop."""

    __slots__ = ("loop", "on_fatal", "fatal_error", "call_soon", "_context")

    call_soon: Callable[..., None]

    def __init__(self, loop: asyncio.AbstractEventLoop, on_fatal: OnFatal | None = None) -> None:
        self.loop = loop
        self.on_fatal = on_fatal
        self.fatal_error: BaseException | None = None
        # One context for all callbacks: the loop would otherwise copy the current one at every call.
        self._context = contextvars.copy_context()
        self.call_soon = functools.partial(loop.call_soon, context=self._context)  # type: ignore[assignment]

    def call_later(self, delay_ns: int, callback: Callable[..., None], *args: Any) -> Timer:
        return self.loop.call_later(delay_ns / 1e9, callback, *args, context=self._context)

    def work(self, kind: str, count: int) -> int:
        return 0

    def crashed(self, error: BaseException) -> None:
        if self.fatal_error is not None:
            return
        self.fatal_error = error
        if self.on_fatal is not None:
            self.on_fatal(error)
        else:
            self.loop.call_exception_handler({"message": "the node must stop", "exception": error})
            self.loop.stop()

    def catch_loop_errors(self) -> None:
        """Let an error that escapes any callback of the loop stop the node too, instead of being logged and forgotten."""

        def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
            error = context.get("exception")
            if error is None or isinstance(error, (OSError, asyncio.CancelledError)):
                loop.default_exception_handler(context)
            else:
                self.crashed(error)

        self.loop.set_exception_handler(handle)


async def await_in_asyncio(future: Future[T]) -> T:
    """Await an engine future (or task) from an asyncio coroutine, such as an HTTP handler.

    If the asyncio side is cancelled the engine's future goes on.
    """
    if future.done():
        return future.result()
    waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def finished(_: Future[T]) -> None:
        if not waiter.done():
            waiter.set_result(None)

    future.add_done_callback(finished)
    try:
        await waiter
    finally:
        future.remove_done_callback(finished)
    try:
        return future.result()
    except Cancelled as cancelled:
        raise asyncio.CancelledError from cancelled


def from_asyncio(scheduler: AsyncioScheduler, awaitable: Coroutine[Any, Any, T]) -> Future[T]:
    """Run an asyncio coroutine as an asyncio task; return an engine future of its outcome."""
    future: Future[T] = Future(scheduler)
    running = scheduler.loop.create_task(awaitable)

    def finished(ended: asyncio.Task[T]) -> None:
        if ended.cancelled():
            future.set_error(Cancelled())
            return
        error = ended.exception()
        if error is not None:
            future.set_error(error)
        else:
            future.set_result(ended.result())

    running.add_done_callback(finished)
    return future


def run_engine(tasks: Tasks, coro: Coroutine[Any, Any, T], name: str = "main") -> Awaitable[T]:
    """Start an engine coroutine and return an awaitable for asyncio."""
    task: Task[T] = tasks.spawn(coro, name)
    return await_in_asyncio(task)

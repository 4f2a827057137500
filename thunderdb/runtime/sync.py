"""Futures, tasks and the few primitives built on them: one implementation for both worlds.

An `async def` of the engine suspends only by awaiting a `Future` of this module. A `Task` drives such a coroutine: it runs
*eagerly* from the moment it is spawned until the first future that is not done, so a statement that never has to wait runs to
its end inside the callback that brought its bytes, with no event loop turn in between. The scheduler underneath (asyncio's
loop in production, simpy in the simulator) only has `call_soon` and `call_later`.

S1. A future's waiters are resumed through `call_soon`, never inside `set_result`: no code is re-entered by the one it wakes.
S2. A detached task that fails takes the node down (`Scheduler.crashed`); no error is lost.
S3. Abandoned tasks (simulated power cut) are kept alive by the simulator, so that no `finally` of theirs runs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

from thunderdb.runtime.ports import Scheduler

T = TypeVar("T")

_PENDING = object()


class Cancelled(BaseException):
    """Thrown into a task that is cancelled. A BaseException, so that `except Exception` does not swallow it."""


class Future(Generic[T]):
    """A value that will be there later. Awaitable by any number of tasks."""

    __slots__ = ("_scheduler", "_value", "_error", "_callbacks")

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._value: Any = _PENDING  # None once there is an error
        self._error: BaseException | None = None
        self._callbacks: Any = None  # nothing, one callback, or a list of them: nearly all futures have one

    def done(self) -> bool:
        return self._value is not _PENDING

    def set_result(self, value: T) -> None:
        if self._value is _PENDING:
            self._value = value
            if self._callbacks is not None:
                self._wake()

    def set_error(self, error: BaseException) -> None:
        if self._value is _PENDING:
            self._value = None
            self._error = error
            if self._callbacks is not None:
                self._wake()

    def result(self) -> T:
        if self._error is not None:
            raise self._error
        value: T = self._value
        return value

    def error(self) -> BaseException | None:
        return self._error

    def add_done_callback(self, callback: Callable[[Future[T]], None]) -> None:
        callbacks = self._callbacks
        if self._value is not _PENDING:
            self._scheduler.call_soon(callback, self)
        elif callbacks is None:
            self._callbacks = callback
        elif callbacks.__class__ is list:
            callbacks.append(callback)
        else:
            self._callbacks = [callbacks, callback]

    def remove_done_callback(self, callback: Callable[[Future[T]], None]) -> None:
        callbacks = self._callbacks
        if callbacks.__class__ is not list:
            if callbacks == callback:
                self._callbacks = None
        elif callback in callbacks:
            callbacks.remove(callback)

    def _wake(self) -> None:
        callbacks, self._callbacks = self._callbacks, None
        if callbacks.__class__ is not list:
            self._scheduler.call_soon(callbacks, self)
            return
        self._scheduler.call_soon(self._call_each, callbacks)

    def _call_each(self, callbacks: list[Callable[[Future[T]], None]]) -> None:
        """One turn for all: what is called is called by the scheduler, so nobody is re-entered (S1)."""
        for index, callback in enumerate(callbacks):
            try:
                callback(self)
            except BaseException:
                for other in callbacks[index + 1 :]:
                    self._scheduler.call_soon(other, self)
                raise

    def __await__(self) -> Generator[Future[T], None, T]:
        if self._value is _PENDING:
            yield self
        if self._error is not None:
            raise self._error
        value: T = self._value
        return value


class Task(Future[T]):
    """A running coroutine; also the future of its result."""

    __slots__ = ("_coro", "_waiting_on", "_cancelled", "detached", "name")

    def __init__(self, scheduler: Scheduler, coro: Coroutine[Any, Any, T], name: str, detached: bool) -> None:
        super().__init__(scheduler)
        self._coro = coro
        self._waiting_on: Future[Any] | None = None
        self._cancelled = False
        self.detached = detached
        self.name = name

    def cancel(self) -> None:
        """Throw `Cancelled` into the task at its next turn; a task that is done stays as it is."""
        if self.done() or self._cancelled:
            return
        self._cancelled = True
        waiting_on = self._waiting_on
        if waiting_on is not None:
            waiting_on.remove_done_callback(self._resume)
            self._waiting_on = None
            self._scheduler.call_soon(self._throw_cancelled)

    def _throw_cancelled(self) -> None:
        if not self.done():
            self._step(Cancelled())

    def _resume(self, future: Future[Any]) -> None:
        if self._waiting_on is future:
            self._waiting_on = None
            self._step(Cancelled() if self._cancelled else None)

    def _step(self, error: BaseException | None) -> None:
        try:
            waiting_on = self._coro.send(None) if error is None else self._coro.throw(error)
        except StopIteration as stop:
            self.set_result(stop.value)
        except Cancelled as cancelled:
            self.set_error(cancelled)
        except BaseException as failure:
            self.set_error(failure)
            if self.detached:
                self._scheduler.crashed(failure)
            if isinstance(failure, (KeyboardInterrupt, SystemExit)):
                raise
        else:
            self._waiting_on = waiting_on
            if waiting_on._callbacks is None and waiting_on._value is _PENDING:
                waiting_on._callbacks = self._resume
            else:
                waiting_on.add_done_callback(self._resume)


class Tasks:
    """Start tasks, sleep, and make futures, on one scheduler."""

    __slots__ = ("scheduler",)

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler

    def future(self) -> Future[Any]:
        return Future(self.scheduler)

    def spawn(self, coro: Coroutine[Any, Any, T], name: str = "") -> Task[T]:
        """Run `coro` at once up to its first suspension; whoever spawned it must await the task for its result or error."""
        task = Task(self.scheduler, coro, name, detached=False)
        task._step(None)
        return task

    def detach(self, coro: Coroutine[Any, Any, T], name: str = "") -> Task[T]:
        """Like `spawn`, for a task that nobody awaits: an error that escapes it stops the node (S2)."""
        task = Task(self.scheduler, coro, name, detached=True)
        task._step(None)
        return task

    async def sleep(self, delay_ns: int) -> None:
        future: Future[None] = Future(self.scheduler)
        timer = self.scheduler.call_later(delay_ns, future.set_result, None)
        try:
            await future
        except Cancelled:
            timer.cancel()
            raise

    async def yield_now(self) -> None:
        """Let everything else that is ready run first."""
        future: Future[None] = Future(self.scheduler)
        self.scheduler.call_soon(future.set_result, None)
        await future

    async def work(self, kind: str, count: int) -> None:
        """Mark CPU-heavy work done since the last mark: a yield in production, a charge of simulated time in the simulator."""
        pause_ns = self.scheduler.work(kind, count)
        if pause_ns > 0:
            await self.sleep(pause_ns)
        else:
            await self.yield_now()

    async def charge(self, kind: str, count: int) -> None:
        """Like `work`, for who must not lose its turn in production; what follows must bear a wait all the same."""
        pause_ns = self.scheduler.work(kind, count)
        if pause_ns > 0:
            await self.sleep(pause_ns)

    async def wait_for(self, future: Future[T], timeout_ns: int) -> T:
        """Await a future for at most `timeout_ns`. Raises: TimeoutError (the future itself goes on)."""
        first: Future[bool] = Future(self.scheduler)
        timer = self.scheduler.call_later(timeout_ns, first.set_result, False)

        def finished(_: Future[T]) -> None:
            first.set_result(True)

        future.add_done_callback(finished)
        if not await first and not future.done():
            future.remove_done_callback(finished)
            raise TimeoutError
        timer.cancel()
        return future.result()


class Event:
    """A flag that tasks can wait for; set and clear any number of times."""

    __slots__ = ("_tasks", "_waiters", "_set")

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self._waiters: list[Future[None]] = []
        self._set = False

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.set_result(None)

    def clear(self) -> None:
        self._set = False

    async def wait(self) -> None:
        while not self._set:
            waiter: Future[None] = self._tasks.future()
            self._waiters.append(waiter)
            await waiter

    async def wait_timeout(self, timeout_ns: int) -> bool:
        """Wait for the flag for at most `timeout_ns`; return whether it is set."""
        if self._set:
            return True
        scheduler = self._tasks.scheduler
        waiter: Future[None] = Future(scheduler)
        self._waiters.append(waiter)
        timer = scheduler.call_later(timeout_ns, waiter.set_result, None)
        await waiter
        timer.cancel()
        if waiter in self._waiters:
            self._waiters.remove(waiter)
        return self._set


class Semaphore:
    """Admit up to `capacity` units at a time, first come first served."""

    __slots__ = ("_tasks", "_free", "_queue", "capacity")

    def __init__(self, tasks: Tasks, capacity: int) -> None:
        self._tasks = tasks
        self.capacity = capacity
        self._free = capacity
        self._queue: deque[tuple[int, Future[None]]] = deque()

    def try_acquire(self, units: int = 1) -> bool:
        if self._queue or units > self._free:
            return False
        self._free -= units
        return True

    async def acquire(self, units: int = 1) -> None:
        if self.try_acquire(units):
            return
        turn: Future[None] = self._tasks.future()
        entry = (units, turn)
        self._queue.append(entry)
        try:
            await turn
        except Cancelled:
            if entry in self._queue:
                self._queue.remove(entry)
                self.release(0)  # it may have been in the way of smaller ones
            elif turn.done():
                self.release(units)
            raise

    def release(self, units: int = 1) -> None:
        self._free += units
        while self._queue and self._queue[0][0] <= self._free:
            granted, turn = self._queue.popleft()
            self._free -= granted
            turn.set_result(None)

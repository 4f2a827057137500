"""Simulated time on simpy: an Environment in integer nanoseconds whose ties are drawn from the seed, and schedulers on it.

K1. Two events of the same instant run in an order drawn from the seed; nothing is first-in first-out by accident.
K2. Callbacks that one callback queues keep their order (S1's waiters are woken in the order that the waker chose); those of
    different wakers that are ready together are shuffled.
K3. After `Scheduler.kill` no callback of that scheduler runs, also none that is queued later; killing is final.
K4. Time is an int. A scheduler that spins for ever without moving time is an error, not a hang.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from heapq import heappush
from typing import Any, TypeVar

import simpy
from simpy.events import NORMAL, Event, EventPriority

from sim.world.rand import Stream
from sim.world.trace import Trace
from thunderdb.runtime.sync import Future, Task, Tasks

T = TypeVar("T")

SPIN_LIMIT = 2_000_000
NEVER = 1 << 62
_SWEEP_MINIMUM = 2048


class PortRevoked(BaseException):
    """A call on a port of a process that is dead. A BaseException: no engine code survives it."""


class Livelock(AssertionError):
    """A node keeps itself busy without time moving."""


class SimTimer(Event):
    """A callback at a time: the light event that nearly everything here is made of.

    It is a simpy event without a callback list; `Kernel.run_until` runs it directly.
    """

    __slots__ = ("scheduler", "function", "args", "traced")

    def __init__(
        self, kernel: Kernel, scheduler: SimScheduler | None, function: Callable[..., None], args: tuple[Any, ...]
    ) -> None:
        self.env: Kernel = kernel
        self.scheduler = scheduler
        self.function: Callable[..., None] | None = function
        self.args = args
        self.traced = False

    def cancel(self) -> None:
        if self.function is not None:
            self.function = None
            self.args = ()
            self.env.cancelled()


class Kernel(simpy.Environment):
    """simpy's Environment, with seeded ties and a fast path for SimTimer."""

    def __init__(self, ties: Stream) -> None:
        super().__init__(initial_time=0)
        self._now: int = 0
        self._queue: list[Any] = []
        self._bits = ties.getrandbits
        self._serial = 0
        self._cancelled = 0

    @property
    def now_ns(self) -> int:
        return self._now

    def schedule(self, event: Event, priority: EventPriority = NORMAL, delay: float = 0) -> None:
        # K1: a drawn key instead of simpy's counter; the serial number only keeps keys unique.
        self._serial += 1
        heappush(self._queue, (self._now + int(delay), priority, self._bits(32) << 40 | self._serial, event))

    def at(self, delay_ns: int, function: Callable[..., None], *args: Any) -> SimTimer:
        """Run `function` after `delay_ns`, on behalf of the world (no node's death stops it)."""
        timer = SimTimer(self, None, function, args)
        self._serial += 1
        heappush(self._queue, (self._now + delay_ns, 1, self._bits(32) << 40 | self._serial, timer))
        return timer

    def cancelled(self) -> None:
        """Count a cancelled timer; sweep them out of the heap once they are the greater part of it."""
        self._cancelled += 1
        if self._cancelled > _SWEEP_MINIMUM and self._cancelled * 2 > len(self._queue):
            # In place: `run_until` holds the list.
            self._queue[:] = [e for e in self._queue if not (e[3].__class__ is SimTimer and e[3].function is None)]
            heapq.heapify(self._queue)
            self._cancelled = 0

    def run_until(self, done: Callable[[], bool], until_ns: int | None = None) -> bool:
        """Step until `done()`, or until nothing is left, or until the time comes; return `done()`."""
        queue = self._queue
        pop = heapq.heappop
        until = NEVER if until_ns is None else until_ns
        while not done():
            if not queue or queue[0][0] > until:
                if until_ns is not None:
                    self._now = max(self._now, until_ns)
                return False
            if queue[0][3].__class__ is not SimTimer:
                self.step()
                continue
            self._now, _, _, timer = pop(queue)
            function = timer.function
            if function is None:
                self._cancelled -= 1
                continue
            scheduler = timer.scheduler
            if scheduler is None:
                timer.function = None
                function(*timer.args)
            elif scheduler.held is not None:
                scheduler.held.append(timer)
            else:
                timer.function = None
                if scheduler.alive:
                    scheduler.enter(timer, function)
        return True

LONGEST_TURN_NS = 1_000_000_000


class SimScheduler:
    """What one life of a node (or the harness) stands on; `kill` ends that life."""

    __slots__ = ("kernel", "trace", "node", "alive", "held", "costs_ns", "on_crashed", "_busy_ns", "_long_ns", "_order",
                 "_ready", "_armed", "_turn")  # fmt: skip

    def __init__(
        self, kernel: Kernel, trace: Trace, node: int, order: Stream, costs_ns: dict[str, float] | None = None
    ) -> None:
        self.kernel = kernel
        self.trace = trace
        self.node = node
        self.alive = True
        self.held: list[SimTimer] | None = None  # paused: what came due meanwhile
        self.costs_ns = {} if costs_ns is None else costs_ns
        self.on_crashed: Callable[[BaseException], None] | None = None
        self._busy_ns = self._long_ns = 0
        self._order = order
        self._ready: list[tuple[int, Callable[..., None], tuple[Any, ...]]] = []
        self._armed = False
        self._turn = 0

    # What `Tasks` needs.

    def call_soon(self, callback: Callable[..., None], *args: Any) -> None:
        if not self.alive:
            return
        self._ready.append((self._turn, callback, args))
        if not self._armed:
            self._arm()

    def call_later(self, delay_ns: int, callback: Callable[..., None], *args: Any) -> SimTimer:
        kernel = self.kernel
        timer = SimTimer(kernel, self, callback, args)
        timer.traced = True
        if self.alive:
            kernel._serial = serial = kernel._serial + 1
            key = kernel._bits(32) << 40 | serial
            heappush(kernel._queue, (kernel._now + (delay_ns if delay_ns > 0 else 0), 1, key, timer))
        return timer

    def after(self, delay_ns: int, callback: Callable[..., None], *args: Any) -> SimTimer:
        """A timer that is part of another event (a disk's or network's delay): not an event of the trace itself."""
        kernel = self.kernel
        timer = SimTimer(kernel, self, callback, args)
        if self.alive:
            kernel._serial = serial = kernel._serial + 1
            key = kernel._bits(32) << 40 | serial
            heappush(kernel._queue, (kernel._now + (delay_ns if delay_ns > 0 else 0), 1, key, timer))
        return timer

    def work(self, kind: str, count: int) -> int:
        """How long to wait for work of a kind. One thread runs the engine: what two tasks charge takes the sum of both.

        What takes longer than any turn does stands, at scale, for very many turns, between which others get theirs: it waits
        for its like only, and nobody else for it.
        """
        cost_ns = int(self.costs_ns.get(kind, 0) * count)
        if not cost_ns:
            return 0
        now_ns = self.kernel._now
        if cost_ns > LONGEST_TURN_NS:
            self._long_ns = max(now_ns, self._long_ns) + cost_ns
            return self._long_ns - now_ns
        self._busy_ns = max(now_ns, self._busy_ns) + cost_ns
        return self._busy_ns - now_ns

    def crashed(self, error: BaseException) -> None:
        if not self.alive:
            return
        if self.on_crashed is None:
            raise error
        self.on_crashed(error)

    # Running.

    def kill(self) -> None:
        """K3: end this life. What is queued stays referenced by nobody but the graveyard."""
        self.alive = False
        self.held = None
        self._ready = []

    def pause(self) -> None:
        """Stop running callbacks (SIGSTOP, a long pause of the hypervisor); time goes on."""
        if self.alive and self.held is None:
            self.held = []

    def resume(self) -> None:
        """Run what came due during the pause, and go on."""
        held, self.held = self.held or [], None
        kernel = self.kernel
        for timer in held:
            kernel._serial += 1
            heappush(kernel._queue, (kernel._now, 1, kernel._bits(32) << 40 | kernel._serial, timer))

    def enter(self, timer: SimTimer, function: Callable[..., None]) -> None:
        """Run a timer's callback, then all that became ready through it."""
        if timer.traced:
            self.trace.timer(self.kernel._now, self.node)
        was_armed, self._armed = self._armed, True
        self._turn += 1
        try:
            function(*timer.args)
        except PortRevoked:
            if self.alive:
                raise
        if not was_armed:
            if self._ready:
                self._drain()
            else:
                self._armed = False

    def _arm(self) -> None:
        self._armed = True
        kernel = self.kernel
        timer = SimTimer(kernel, self, self._drain, ())
        kernel._serial += 1
        heappush(kernel._queue, (kernel._now, 1, kernel._bits(32) << 40 | kernel._serial, timer))

    def _drain(self) -> None:
        """Run generation after generation of ready callbacks; now and then let others of the same instant go first."""
        spins = 0
        getrandbits = self._order.getrandbits
        while ready := self._ready:
            if len(ready) == 1:
                batch: Any = (ready.pop(),)
                spins += 1
            else:
                batch, self._ready = ready, []
                if batch[0][0] != batch[-1][0]:
                    batch = self._shuffled(batch)
                spins += len(batch)
            for _, callback, args in batch:
                self._turn += 1
                try:
                    callback(*args)
                except PortRevoked:
                    if self.alive:
                        raise
                if not self.alive:
                    return
            if self._ready:
                if spins > SPIN_LIMIT:
                    raise Livelock(f"node {self.node} spins at {self.kernel._now} ns: {batch[-1][1]!r}")
                if not getrandbits(4):
                    self._arm()
                    return
        self._armed = False

    def _shuffled(self, batch: list[tuple[int, Callable[..., None], tuple[Any, ...]]]) -> list[Any]:
        """K2: permute the wakers, keep each one's own order."""
        groups: dict[int, list[Any]] = {}
        for entry in batch:
            groups.setdefault(entry[0], []).append(entry)
        order = list(groups.values())
        self._order.shuffle(order)
        return [entry for group in order for entry in group]


class SimTasks(Tasks):
    """Tasks that are remembered while they run, so that a crash can keep them from being collected (S3)."""

    __slots__ = ("_live", "_sweep_at")

    def __init__(self, scheduler: SimScheduler) -> None:
        super().__init__(scheduler)
        self._live: list[Task[Any]] = []
        self._sweep_at = 256

    def spawn(self, coro: Any, name: str = "") -> Task[Any]:
        task = super().spawn(coro, name)
        if not task.done():
            self._remember(task)
        return task

    def detach(self, coro: Any, name: str = "") -> Task[Any]:
        task = super().detach(coro, name)
        if not task.done():
            self._remember(task)
        return task

    def _remember(self, task: Task[Any]) -> None:
        self._live.append(task)
        if len(self._live) > self._sweep_at:
            self._live = [task for task in self._live if not task.done()]
            self._sweep_at = 2 * len(self._live) + 256

    def unfinished(self) -> list[Task[Any]]:
        """Tasks that have not ended, in the order in which they were started."""
        return [task for task in self._live if not task.done()]


def forever(scheduler: SimScheduler) -> Future[Any]:
    """A future that nothing will ever complete: where the coroutines of a dead process wait."""
    return Future(scheduler)

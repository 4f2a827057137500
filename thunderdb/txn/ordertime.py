"""The order time of commits: strictly increasing, driven by the monotonic clock, kept over restarts (W9).

Order times are microseconds since 1970 UTC. They follow the wall clock as it was at start, and then the monotonic one; when
the wall clock has moved away from that by more than a second, the step is reported so that it becomes a log record.
"""

from __future__ import annotations

from thunderdb.runtime.ports import Clock

STEP_US = 1_000_000


class OrderClock:
    __slots__ = ("_clock", "_base_us", "_base_mono_ns", "last_us")

    def __init__(self, clock: Clock, last_us: int) -> None:
        self._clock = clock
        self.last_us = last_us
        self._rebase()

    def _rebase(self) -> None:
        self._base_us = self._clock.wall_ns() // 1000
        self._base_mono_ns = self._clock.monotonic_ns()

    def next(self) -> tuple[int, int, int]:
        """Return (order time, wall time, step), all in microseconds; a step of 0 means none worth a record."""
        wall_us = self._clock.wall_ns() // 1000
        expected_us = self._base_us + (self._clock.monotonic_ns() - self._base_mono_ns) // 1000
        step_us = wall_us - expected_us
        if abs(step_us) > STEP_US:
            self._rebase()
            expected_us = wall_us
        else:
            step_us = 0
        self.last_us = max(self.last_us + 1, expected_us)
        return self.last_us, wall_us, step_us

    def passed(self) -> int:
        """An order time that every commit so far is not after, and every later one is: up to here the log is complete."""
        wall_us = self._clock.wall_ns() // 1000
        expected_us = self._base_us + (self._clock.monotonic_ns() - self._base_mono_ns) // 1000
        # After a step of the wall clock the next commit goes by the new time (and logs the step); until then so does this.
        self.last_us = max(self.last_us, expected_us if abs(wall_us - expected_us) <= STEP_US else wall_us)
        return self.last_us

    def not_before(self, us: int) -> None:
        """What was promised in an earlier life: no later commit is at or before `us`."""
        self.last_us = max(self.last_us, us)

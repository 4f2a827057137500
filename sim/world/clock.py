"""A node's clocks over simulated time.

wall      = 2026-01-01 + skew + jumps + time × (1 + drift)
monotonic = a boot offset + time × (1 + drift); starts anew at each power-on, never goes back while the process lives
"""

from __future__ import annotations

from sim.world.kernel import Kernel

WALL_START_NS = 1_767_225_600_000_000_000
_BILLION = 1_000_000_000


class SimClock:
    """The `Clock` port. Skew, drift and jumps are the scenario's to set."""

    __slots__ = ("_kernel", "_base_ns", "_base_at_ns", "_boot_ns", "drift_ppb")

    def __init__(self, kernel: Kernel, skew_ns: int = 0, drift_ppb: int = 0) -> None:
        self._kernel = kernel
        self._base_ns = WALL_START_NS + skew_ns + kernel.now_ns
        self._base_at_ns = kernel.now_ns
        self._boot_ns = 0
        self.drift_ppb = drift_ppb

    def wall_ns(self) -> int:
        return self._base_ns + self._elapsed()

    def monotonic_ns(self) -> int:
        return self._boot_ns + self._elapsed()

    def _elapsed(self) -> int:
        elapsed = self._kernel.now_ns - self._base_at_ns
        return elapsed + elapsed * self.drift_ppb // _BILLION if self.drift_ppb else elapsed

    def _rebase(self) -> None:
        """Fold the time so far into the bases, so that a new rate counts from now on only."""
        elapsed = self._elapsed()
        self._base_ns += elapsed
        self._boot_ns += elapsed
        self._base_at_ns = self._kernel.now_ns

    def jump(self, delta_ns: int) -> None:
        """Step the wall clock; the monotonic clock does not move."""
        self._base_ns += delta_ns

    def set_drift(self, drift_ppb: int) -> None:
        """Gain (or lose) this many nanoseconds per second from now on. Raises: ValueError if time would stand still."""
        if drift_ppb <= -_BILLION:
            raise ValueError(f"a clock cannot run backwards: drift {drift_ppb} ppb")
        self._rebase()
        self.drift_ppb = drift_ppb

    def power_on(self, boot_ns: int) -> None:
        """Start the monotonic clock anew; the wall clock (battery-backed) goes on."""
        self._rebase()
        self._boot_ns = boot_ns

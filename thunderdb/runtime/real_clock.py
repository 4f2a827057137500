"""The machine's clocks and its entropy."""

from __future__ import annotations

import os
import time


class RealClock:
    __slots__ = ()

    def wall_ns(self) -> int:
        return time.time_ns()

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()


class RealRandom:
    __slots__ = ()

    def bits(self, count: int) -> int:
        return int.from_bytes(os.urandom((count + 7) // 8), "big") >> (-count % 8)

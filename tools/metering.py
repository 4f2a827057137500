"""Where the engine's thread spends its CPU time, by the engine's own accounts: what a calibration is made of.

The engine says `Tasks.work(kind, count)` after each piece of heavy work; the simulator charges for it, production only yields.
A `Meter` listens on real ports and gives each charge the CPU time of its thread since the one before.

T1. CPU time, not wall time: neither the disk nor what else runs on the machine is in it.
T2. What belongs to no charge is "other"; it is counted, too, so that nothing disappears.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from thunderdb.runtime.real_tasks import AsyncioScheduler

OTHER = "other"
PAGE, CHANGE = "recovery.page", "recovery.change"


@dataclass(slots=True)
class Meter:
    """Samples of (kind, count, CPU seconds), in order."""

    samples: list[tuple[str, int, float]] = field(default_factory=list)
    at_s: float = 0.0

    def charge(self, kind: str, count: int) -> None:
        now_s = time.thread_time()
        self.samples.append((kind, count, now_s - self.at_s))
        self.at_s = now_s

    def other(self) -> None:
        """What has passed since the last charge was something else (T2)."""
        self.charge(OTHER, 1)

    def seconds(self, *kinds: str) -> float:
        return sum(took_s for kind, _count, took_s in self.samples if kind in kinds)

    def cost_ns(self, kind: str) -> float:
        """Nanoseconds a unit."""
        count = sum(count for found, count, _took in self.samples if found == kind)
        return self.seconds(kind) * 1e9 / count if count else 0.0

    def redo_costs_ns(self) -> tuple[float, float]:
        """Of a page that was brought up and of a change that was applied: redo charges for both after each batch of pages."""
        rows: list[tuple[int, int, float]] = []
        for (kind, pages, took_s), (then, changes, more_s) in zip(self.samples, self.samples[1:], strict=False):
            if (kind, then) == (PAGE, CHANGE) and pages:
                rows.append((pages, changes, (took_s + more_s) * 1e9))
        return least_squares(rows)


def least_squares(samples: list[tuple[int, int, float]]) -> tuple[float, float]:
    """(x, y), neither negative, with a * x + b * y nearest to c over all samples (a, b, c).

    It is the relative error that counts, so that one page with thousands of changes does not decide what an ordinary one costs.
    """
    rows = [(a / c, b / c, 1.0) for a, b, c in samples if c > 0]
    aa, ab, bb = (sum(row[i] * row[j] for row in rows) for i, j in ((0, 0), (0, 1), (1, 1)))
    ac, bc = (sum(row[i] * row[2] for row in rows) for i in (0, 1))
    determinant = aa * bb - ab * ab
    if determinant > 0:
        x, y = (ac * bb - bc * ab) / determinant, (bc * aa - ac * ab) / determinant
        if x >= 0 and y >= 0:
            return x, y
        if y < 0:
            return ac / aa, 0.0
    return 0.0, bc / bb if bb else 0.0


@contextmanager
def metering() -> Iterator[Meter]:
    """Meter everything that runs on real ports meanwhile."""
    meter, before = Meter(at_s=time.thread_time()), AsyncioScheduler.work

    def work(self: AsyncioScheduler, kind: str, count: int) -> int:
        meter.charge(kind, count)
        return 0

    AsyncioScheduler.work = work  # type: ignore[method-assign]
    try:
        yield meter
    finally:
        AsyncioScheduler.work = before  # type: ignore[method-assign]

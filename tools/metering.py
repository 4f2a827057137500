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
from statistics import median

from thunderdb.runtime.real_tasks import AsyncioScheduler

OTHER = "other"
PAGE, CHANGE, READ = "recovery.page", "recovery.change", "recovery.read"
WANTED = {"recovery.wanted_page": PAGE, "recovery.wanted_change": CHANGE, "recovery.wanted_read": READ}
"""The same work, for who waits for it: charged under names of its own because it does not grow with the database."""


Sample = tuple[str, int, float]
"""(kind, count, CPU seconds)."""


@dataclass(slots=True)
class Meter:
    """Samples, in order."""

    samples: list[Sample] = field(default_factory=list)
    at_s: float = 0.0

    def charge(self, kind: str, count: int) -> None:
        now_s = time.thread_time()
        self.samples.append((kind, count, now_s - self.at_s))
        self.at_s = now_s

    def other(self) -> None:
        """What has passed since the last charge was something else (T2)."""
        self.charge(OTHER, 1)

    def fold(self, since: int, kinds: dict[str, int], known_s: float = 0.0) -> None:
        """What has been charged since there were `since` samples was for these, by whatever names, and for something that is
        known to take `known_s`; the first of them has the time."""
        self.other()
        took_s = max(0.0, sum(took for _kind, _count, took in self.samples[since:]) - known_s)
        del self.samples[since:]
        for kind, count in kinds.items():
            self.samples.append((kind, count, took_s))
            took_s = 0.0

    def seconds(self, *kinds: str) -> float:
        return sum(took_s for kind, _count, took_s in self.samples if kind in kinds)

    def cost_ns(self, kind: str) -> float:
        """Nanoseconds a unit."""
        count = sum(count for found, count, _took in self.samples if found == kind)
        return self.seconds(kind) * 1e9 / count if count else 0.0

    def pages(self) -> list[tuple[int, int, float]]:
        """(pages, changes, nanoseconds) of each batch that was brought up: redo charges for both, one after the other."""
        rows: list[tuple[int, int, float]] = []
        for (kind, pages, took_s), (then, changes, more_s) in zip(self.samples, self.samples[1:], strict=False):
            if (kind, then) == (PAGE, CHANGE) and pages:
                rows.append((pages, changes, (took_s + more_s) * 1e9))
        return rows


def redo_costs_ns(meters: list[Meter]) -> tuple[float, float]:
    """Of a page that was brought up and of a change that was applied.

    Several meters of the same restart bring up the same pages: of each page the median counts, and one line is fitted.
    """
    rows = [meter.pages() for meter in meters]
    if len({tuple(batch[:2] for batch in batches) for batches in rows}) == 1:
        return least_squares([(*same[0][:2], median(took for _, _, took in same)) for same in zip(*rows, strict=True)])
    return least_squares([batch for batches in rows for batch in batches])


def beside(samples: list[Sample], costs_ns: dict[str, float]) -> float:
    """The nanoseconds of these samples that the known costs of what they count do not explain."""
    took_ns = sum(took_s for _kind, _count, took_s in samples) * 1e9
    return max(1.0, took_ns - sum(costs_ns.get(kind, 0.0) * count for kind, count, _took in samples))


def counted(samples: list[Sample], kind: str) -> int:
    return sum(count for found, count, _took in samples if found == kind)


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

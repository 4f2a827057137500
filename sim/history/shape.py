"""What a random history is made of, and what it showed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

MS = 1_000_000
STEPS = {
    "work": 10, "checkpoint": 3, "switch": 3, "power_cut": 2, "kill": 2, "stop": 1, "copy": 1, "clock": 1, "backup": 5,
    "outage": 1, "pitr": 1, "retention": 1,
}  # fmt: skip

@dataclass(frozen=True, slots=True)
class Shape:
    """How long a history is, and what of it is checked."""

    steps: tuple[int, int] = (6, 12)
    weights: dict[str, int] = field(default_factory=lambda: dict(STEPS))
    vault: bool = True
    stores: bool = False
    """Archive and backups are in object stores, never in directories."""
    aims: tuple[int, int] = (1, 3)
    accounts: int = 6
    items: int = 16
    clients: tuple[int, int] = (1, 3)
    think_ns: tuple[int, int] = (0, 8 * MS)
    work_ns: tuple[int, int] = (5 * MS, 60 * MS)


COPIES = Shape(
    steps=(10, 16), weights={"copy": 6, "work": 3, "checkpoint": 2, "switch": 3, "power_cut": 1, "kill": 1},
    vault=False, clients=(2, 4), think_ns=(0, 2 * MS), work_ns=(2 * MS, 20 * MS),
)  # fmt: skip
"""Mostly copies made by hand, under load."""
RETENTION = Shape(
    steps=(9, 14), weights={"work": 4, "backup": 7, "switch": 3, "retention": 4, "checkpoint": 2, "kill": 1},
    work_ns=(2 * MS, 20 * MS),
)  # fmt: skip
"""Many backups, and much time in which they grow old."""
REQUESTS = Shape(
    steps=(8, 12), weights={**STEPS, "outage": 8, "copy": 0}, stores=True,
)  # fmt: skip
"""Object stores, also behind commands, whose requests fail, time out, lose their answers and show old listings."""


@dataclass(slots=True)
class Outcome:
    """What a history showed."""

    seed: int
    violations: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    commits: int = 0
    trace_hash: str = ""
    sim_ns: int = 0
    events: int = 0

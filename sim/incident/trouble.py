"""What is wrong around an installation at present, and what was until when: with that, errors can be told from bugs.

    trouble.begin("store_outage") … trouble.end("store_outage")      while it lasts, and a while after it, errors are explained
    trouble.lies("lost_write")                                       a disk has lied: what it holds is no longer known

T1. A fault is trouble from when it is injected until it is healed; nothing else is.
T2. What lied stays a lie until the directories are laid down anew: a healed disk still has the wrong bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

LYING = ("lost_write", "misdirected_write", "bit_rot", "fsync_lies")
DISK = (*LYING, "read_error", "sticky_read_error", "write_error", "sync_error")
"""What a client may be told by name. (A full disk is told as what it is, and stops nobody.)"""
CALM_NS = 2_000_000_000
"""An operation that met a fault may take as long as this to say so."""


class Troubles:
    """The faults of one run, by name."""

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self._now_ns = now_ns
        self.active: Counter[str] = Counter()
        self.ended_ns = self.disk_ended_ns = -2 * CALM_NS
        self.lied = self.ever_lied = False
        self.clock = False
        """The wall clock was moved: times may name no moment, or two."""

    def begin(self, name: str) -> None:
        self.active[name] += 1
        self.lied = self.lied or name in LYING
        self.ever_lied = self.ever_lied or self.lied
        self.clock = self.clock or name.startswith("clock")

    def end(self, name: str) -> None:
        if self.active[name] > 0:
            self.active[name] -= 1
            self.ended_ns = self._now_ns()
            if name in DISK:
                self.disk_ended_ns = self.ended_ns

    def strike(self, name: str) -> None:
        """A fault of a moment."""
        self.begin(name)
        self.end(name)

    def clear(self) -> None:
        """T1: everything is healed."""
        for name in list(+self.active):
            self.active[name] = 1
            self.end(name)
        self.active.clear()

    def replaced(self) -> None:
        """T2: the directories were laid down anew, on a disk that does not lie."""
        self.lied = any(self.active[name] > 0 for name in LYING)

    @property
    def failing(self) -> bool:
        """Whether the machine's disk fails at present."""
        return any(self.active[name] > 0 for name in DISK)

    @property
    def disk(self) -> bool:
        """The same, or a moment ago."""
        return self.failing or self.disk_ended_ns >= self._now_ns() - CALM_NS

    def since(self, time_ns: int) -> bool:
        """Whether anything was wrong at some time from `time_ns` on, or shortly before."""
        return bool(+self.active) or self.ended_ns >= time_ns - CALM_NS

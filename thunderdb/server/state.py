"""What the daemon is doing right now, as the admin API reports it: made from events, read by /admin/ready and /metrics.

Phases: starting → (analysis → redo → undo) → ready → stopping; `failed` when the node must stop.
"""

from __future__ import annotations

from typing import Any

_PHASES = {
    "recovery.started": "analysis",
    "recovery.analysis": "redo",
    "recovery.redo": "undo",
    "recovery.undo": "opening",
    "recovery.complete": "opening",
    "server.ready": "ready",
    "server.stopping": "stopping",
    "server.failed": "failed",
}


class NodeState:
    """The current phase, its progress, and counters of what happened."""

    __slots__ = ("phase", "progress", "error", "event_counts", "totals", "last_values")

    def __init__(self) -> None:
        self.phase = "starting"
        self.progress: dict[str, Any] = {}
        self.error = ""
        self.event_counts: dict[str, int] = {}
        self.totals: dict[tuple[str, str], float] = {}
        self.last_values: dict[str, dict[str, Any]] = {}

    def on_event(self, name: str, fields: dict[str, Any]) -> None:
        counts = self.event_counts
        counts[name] = counts.get(name, 0) + 1
        phase = _PHASES.get(name)
        if phase is not None:
            self.phase = phase
            self.progress = {key: value for key, value in fields.items() if isinstance(value, (int, float, str))}
            self.last_values[name] = self.progress
            if phase == "failed":
                self.error = str(fields.get("message", ""))
        elif name.endswith(".progress"):
            self.progress = dict(fields)
        if "size_bytes" in fields:
            key = (name, "size_bytes")
            self.totals[key] = self.totals.get(key, 0) + fields["size_bytes"]

    @property
    def ready(self) -> bool:
        return self.phase == "ready"


def duration_s(fields: dict[str, Any]) -> float:
    """An event's duration in seconds, whichever unit it carries."""
    return float(fields["duration_ns"]) / 1e9 if "duration_ns" in fields else float(fields.get("duration_s", 0.0))

"""One event per fact: log lines, metrics and the simulator's trace are all made from these.

E1. Emitting never fails and never suspends; a subscriber must not call back into the engine.
E2. An event's fields are plain values (int, str, float, bool), so that it can be logged, counted and hashed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Subscriber = Callable[[str, dict[str, Any]], None]


class Events:
    """A synchronous fan-out of named facts, e.g. `events.emit("wal.flushed", lsn=…, size_bytes=…)`."""

    __slots__ = ("_subscribers",)

    def __init__(self) -> None:
        self._subscribers: list[Subscriber] = []

    def subscribe(self, subscriber: Subscriber) -> None:
        self._subscribers.append(subscriber)

    def emit(self, name: str, **fields: Any) -> None:
        for subscriber in self._subscribers:
            subscriber(name, fields)

"""The trace: every event of a run, counted and hashed, so that "the same run" is one comparison.

An event is one log append, one disk operation, one delivered message or one fired timer. What is hashed per event:

TRACE_HEADER, little-endian:
offset  size  name
0       8     time_ns
8       2     node
10      2     op
12      4     size
16      8     place

followed by `size` bytes of content; `place` is the file and offset of a disk operation, the connection of a message, the LSN of
a log append, whose content is the record's checksum. The hash is XXH3-128 of all of it in order; equal hashes mean equal
runs, byte by byte. A sink is told each event as it happens; the recorder, one of them, keeps each as a line, so that the first
differing event of two runs can be named.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from enum import IntEnum

import xxhash

TRACE_HEADER = struct.Struct("<QHHIQ")
_FLUSH_PARTS = 1024
_LARGE = 16 << 10


Sink = Callable[[int, int, int, bytes, int], None]
"""Is told each event: time, node, operation, content, place."""


class Op(IntEnum):
    """What happened. Numbers are part of the trace hash and are never reused."""

    TIMER = 1
    LOG_APPEND = 2
    MESSAGE = 3
    CONNECT = 4
    CLOSE = 5
    LISTEN = 6
    CRASH = 7
    RESTART = 8
    FAULT = 9
    NOTE = 10
    OPEN = 16
    READ = 17
    WRITE = 18
    TRUNCATE = 19
    SYNC = 20
    SYNC_DIR = 21
    RENAME = 22
    UNLINK = 23
    MAKE_DIR = 24
    LIST = 25
    LOCK = 26
    STORE = 27


OP_COUNT = max(Op) + 1
_NOT_EVENTS = (Op.CRASH, Op.RESTART, Op.FAULT, Op.NOTE)  # Facts about the run rather than work of the engine.


class Trace:
    """Counts and hashes events; about 0.5 µs each without a recorder."""

    __slots__ = ("counts", "recorded", "_hash", "_parts", "_sink")

    def __init__(self, record: bool | Sink = False) -> None:
        self.counts = [0] * OP_COUNT
        self.recorded: list[str] = []
        self._sink: Sink | None = record if callable(record) else self._record if record else None
        self._hash = xxhash.xxh3_128()
        self._parts: list[bytes] = []

    def event(self, time_ns: int, node: int, op: int, data: bytes = b"", place: int = 0) -> None:
        self.counts[op] += 1
        parts = self._parts
        parts.append(TRACE_HEADER.pack(time_ns, node, op, len(data), place))
        if data:
            if len(data) > _LARGE:  # not worth copying
                self._flush()
                self._hash.update(data)
            else:
                parts.append(data)
        if len(parts) > _FLUSH_PARTS:
            self._flush()
        if self._sink is not None:
            self._sink(time_ns, node, op, data, place)

    def timer(self, time_ns: int, node: int) -> None:
        """`event`, for the most frequent kind."""
        self.counts[1] += 1
        parts = self._parts
        parts.append(TRACE_HEADER.pack(time_ns, node, 1, 0, 0))
        if len(parts) > _FLUSH_PARTS:
            self._flush()
        if self._sink is not None:
            self._sink(time_ns, node, 1, b"", 0)

    def _record(self, time_ns: int, node: int, op: int, data: bytes, place: int) -> None:
        shown = data[:24].hex() + ("…" if len(data) > 24 else "")
        digest = xxhash.xxh3_64_hexdigest(data)
        self.recorded.append(f"{time_ns} node={node} {Op(op).name} place={place:x} size={len(data)} {digest} {shown}")

    def _flush(self) -> None:
        self._hash.update(b"".join(self._parts))
        self._parts.clear()

    def hexdigest(self) -> str:
        self._flush()
        return self._hash.hexdigest()

    @property
    def events(self) -> int:
        """Engine events so far: log appends, disk operations, delivered messages, fired timers."""
        return sum(count for op, count in enumerate(self.counts) if op not in _NOT_EVENTS)

    def by_op(self) -> dict[str, int]:
        """Counts by name, without the zeros."""
        return {op.name.lower(): self.counts[op] for op in Op if self.counts[op]}


def first_difference(left: Trace, right: Trace) -> str:
    """Name the first event in which two recorded runs differ; empty if they are equal."""
    a, b = left.recorded, right.recorded
    for index, (one, other) in enumerate(zip(a, b, strict=False)):
        if one != other:
            return f"event {index}:\n  {one}\n  {other}"
    if len(a) != len(b):
        longer = a if len(a) > len(b) else b
        index = min(len(a), len(b))
        return f"event {index}: only one run has\n  {longer[index]}"
    return ""
